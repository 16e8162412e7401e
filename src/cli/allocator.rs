//! How the program's allocator, mimalloc, is set.
#![allow(unsafe_code)]

use std::ffi::c_long;

use libmimalloc_sys::{mi_option_set_default, mi_option_t, mi_option_use_numa_nodes};

/// Keeps what was freed for ten seconds before the system gets it back, unless the environment sets
/// `MIMALLOC_PURGE_DELAY`.
///
/// Tails gather and let go again of megabytes every second. With mimalloc's default of one second the
/// system takes those back each time, only to hand them out cleared: a tenth of the processor time of
/// an acquisition.
///
/// To be called first thing in `main`, while there is one thread.
pub fn keep_freed_memory() {
    // SAFETY: the option exists, as the test says, and takes any number of milliseconds. Nobody else
    // sets one.
    unsafe { mi_option_set_default(PURGE_DELAY, KEPT_MS) }
}

/// `mi_option_purge_delay`: the bindings do not name it, but the one that follows it in mimalloc.h.
const PURGE_DELAY: mi_option_t = mi_option_use_numa_nodes - 1;
const KEPT_MS: c_long = 10_000;

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::*;

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: as above.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        // No other option is a second by default.
        assert_eq!(delay(), 1000);
        keep_freed_memory();
        assert_eq!(delay(), KEPT_MS);
    }
}
