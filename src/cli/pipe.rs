//! Standard output that its reader has closed, as `head` does once it has seen enough.

use std::any::Any;
use std::panic::{UnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::process::ExitCode;

/// What shells report of a program that ended because nobody reads its output: 128 and SIGPIPE.
const NOBODY_READS: u8 = 141;

/// Runs `work`, and ends it quietly where it prints and nobody reads any more. What it holds is
/// cleaned up, which the signal would not do; and a service that it runs is not ended by a client
/// that hangs up.
pub fn end_quietly_when_closed(work: impl FnOnce() -> ExitCode + UnwindSafe) -> ExitCode {
    let report = take_hook();
    set_hook(Box::new(move |panic| {
        if !is_closed_pipe(panic.payload()) {
            report(panic);
        }
    }));
    match catch_unwind(work) {
        Ok(code) => code,
        Err(payload) if is_closed_pipe(&*payload) => ExitCode::from(NOBODY_READS),
        Err(payload) => resume_unwind(payload),
    }
}

/// `println!` panics with such a text when it cannot write.
fn is_closed_pipe(payload: &(dyn Any + Send)) -> bool {
    payload.downcast_ref::<String>().is_some_and(|text| {
        text.starts_with("failed printing to stdout") && text.contains("Broken pipe")
    })
}
