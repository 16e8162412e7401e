//! Processor time in seconds, which stays the same when others use the machine.

use std::path::Path;

/// Used by all threads of this process that are alive.
pub fn of_process() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let used = threads.map(|thread| on_processor(&thread.unwrap().path().join("schedstat")));
    used.sum()
}

/// Used by this thread.
pub fn of_thread() -> f64 {
    on_processor(Path::new("/proc/thread-self/schedstat"))
}

fn on_processor(schedstat: &Path) -> f64 {
    let text = std::fs::read_to_string(schedstat).unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|text| text.parse::<f64>().ok());
    nanoseconds.unwrap_or_default() / 1e9
}
