//! The `license-ledger` program; everything it does lives in the library.

use std::process::ExitCode;

/// A challenge is parsed and answered in hundreds of small pieces, on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    license_ledger::cli::allocator::keep_freed_memory();
    license_ledger::cli::run()
}
