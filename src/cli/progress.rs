//! How far a command has come, for whoever waits in front of a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of so many events on standard error; hidden where that is no terminal.
pub(super) fn bar(events: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{msg}{bar:40} {pos}/{len} events, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::new(events);
    if let Ok(style) = style { bar.with_style(style) } else { bar }
}
