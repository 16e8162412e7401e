//! The real program as a child process.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::Client;

/// How long a command may take before the test gives it up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program with these arguments to its end.
pub fn run(args: &[&str]) -> Ran {
    let mut command = program();
    command.args(args).stdin(Stdio::null());
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// The program, without settings from this process's environment.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_license-ledger"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LICENSE_LEDGER_") {
            command.env_remove(name);
        }
    }
    command
}

fn finish(mut child: Child) -> Ran {
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || text(&mut stderr));
    let output = std::thread::spawn(move || text(&mut stdout));
    let started = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if started.elapsed() > PATIENCE => {
                let _ = child.kill();
                panic!("the command does not end: {:?}", errors.join());
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let code = status.code().unwrap_or(-1);
    Ran { code, stdout: output.join().unwrap(), stderr: errors.join().unwrap() }
}

fn text(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

impl Ran {
    /// Checks that the command succeeded.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Checks that the command failed with this code and one line that says all of `parts`.
    pub fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        let errors = self.stderr.lines().filter(|line| line.starts_with("error: "));
        let errors: Vec<_> = errors.collect();
        assert_eq!(errors.len(), 1, "{self:?}");
        for part in parts {
            assert!(errors[0].contains(part), "{part:?} is not in {:?}", errors[0]);
        }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

/// A serving child. Killed when dropped.
pub struct Serving {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// What it said about itself at its start.
    pub greeting: String,
    pub url: String,
    /// The admin key, if this start made it.
    pub admin_key: Option<String>,
    pub pki: PathBuf,
}

impl Serving {
    /// `serve` on `data` with more arguments, on a free port and without limits on rates. Its log
    /// goes to `<data>.log`.
    pub fn start(data: &Path, args: &[&str]) -> Self {
        // In a cluster others may have made the ledger, and its key.
        let fresh = !data.join("ledger.db").exists() && !args.contains(&"--ledger");
        let log = data.with_extension("log");
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut child = program()
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(args)
            .env("LICENSE_LEDGER_RATE_BURST", "1000000")
            .env("LICENSE_LEDGER_RATE_PER_IDENTITY_PER_MINUTE", "1000000")
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut serving = Self {
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
            greeting: String::new(),
            url: String::new(),
            admin_key: None,
            pki: PathBuf::new(),
        };
        serving.url = serving.line("serves on ", data);
        serving.pki = serving.line("  pki ", data).into();
        if args.contains(&"--grpc") {
            serving.line("  ledger ", data);
        }
        if fresh {
            serving.read_admin_key(data);
        }
        serving
    }

    /// Waits for the admin key, where it is shown although there was a ledger already.
    pub fn read_admin_key(&mut self, data: &Path) -> String {
        let key = self.line("shown this once: ", data);
        self.admin_key.insert(key).clone()
    }

    /// What follows `label` in the next line that has it.
    fn line(&mut self, label: &str, data: &Path) -> String {
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line).unwrap() == 0 {
                let log = std::fs::read_to_string(data.with_extension("log"));
                panic!("it does not serve: {}", log.unwrap_or_default());
            }
            self.greeting.push_str(&line);
            if let Some((_, rest)) = line.split_once(label) {
                return rest.trim().to_owned();
            }
        }
    }

    /// A client with the admin key `key`.
    pub fn client(&self, key: &str) -> Client {
        Client::new(&self.url, key)
    }

    /// SIGKILL: nothing of what it was doing gets finished.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM.
    pub fn ask_to_stop(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// Waits for its end after it was asked to stop; the rest of what it said, and its exit code.
    pub fn ended(mut self) -> (String, i32) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (rest, self.child.wait().unwrap().code().unwrap_or(-1))
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(self) {
        self.ask_to_stop();
        let (rest, code) = self.ended();
        assert_eq!((rest.as_str(), code), ("stopped\n", 0));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
