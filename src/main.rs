//! The `license-ledger` program; everything it does lives in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    license_ledger::cli::run()
}
