//! The program as a person uses it.

mod keys;
mod quota;
mod reading;
mod revocation;
mod serving;
mod support;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use tempfile::TempDir;

use crate::process::{Ran, Serving, run};

/// A place for a ledger and everything a person keeps beside it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and returns its path.
    fn file(&self, name: &str, content: &str) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.text(name)
    }

    fn serve(&self) -> Serving {
        Serving::start(&self.path("data"), &[])
    }

    /// A place with a ledger that was served once.
    fn served() -> (Self, String) {
        let place = Self::new();
        let service = place.serve();
        let key = service.admin_key.clone().unwrap();
        service.stop();
        (place, key)
    }

    /// Runs a command on the ledger here: words before the data directory, and after it.
    fn run(&self, command: &[&str], rest: &[&str]) -> Ran {
        run(&[command, &["--data", &self.text("data")], rest].concat())
    }
}

/// The subcommands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    // Continued descriptions are indented further.
    let named = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = named.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

fn check_help(command: &[&str], seen: &mut usize) {
    let ran = run(&[command, &["--help"]].concat()).ok();
    assert!(ran.stdout.contains("Usage: license-ledger"), "{ran:?}");
    assert_eq!(ran.stderr, "");
    *seen += 1;
    for name in subcommands(&ran.stdout) {
        check_help(&[command, &[name.as_str()]].concat(), seen);
    }
}

#[test]
fn every_subcommand_explains_itself() {
    let mut seen = 0;
    check_help(&[], &mut seen);
    assert!(seen > 14, "only {seen} help texts were found");
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    let mut command = crate::process::program();
    let mut demo =
        command.arg("demo").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(demo.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("license-ledger runs on "), "{line}");
    let output = demo.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.contains("panicked")), (Some(141), false), "{stderr}");
}

#[test]
fn what_is_no_command_is_refused_with_exit_code_two() {
    for args in [&["srve"][..], &["serve", "--dta", "x"], &["keys"], &[]] {
        let ran = run(args);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.stderr.contains("Usage:"), "{ran:?}");
        assert_eq!(ran.stdout, "");
    }
}
