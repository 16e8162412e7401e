//! What the demo shows while it runs.

use indicatif::{ProgressBar, ProgressStyle};

/// Lines on standard output, and a progress bar on standard error where that is a terminal.
pub struct Screen {
    bar: ProgressBar,
    steps_begun: usize,
}

impl Screen {
    /// A screen for a story of so many steps.
    pub fn new(steps: usize) -> Self {
        let bar = ProgressBar::new(u64::try_from(steps).unwrap_or_default());
        if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len}  {msg}") {
            bar.set_style(style);
        }
        Self { bar, steps_begun: 0 }
    }

    /// Begins a step.
    pub fn step(&mut self, title: &str) {
        if self.steps_begun > 0 {
            self.bar.inc(1);
        }
        self.steps_begun += 1;
        self.bar.set_message(title.to_owned());
        let number = self.steps_begun;
        self.print(&format!("{number:>2}  {title}"));
    }

    /// Says what was found in this step.
    pub fn found(&self, text: &str) {
        self.print(&format!("      {text}"));
    }

    /// Prints a line as it is.
    pub fn print(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// The number of the step that is being told.
    pub fn steps_begun(&self) -> usize {
        self.steps_begun
    }
}
