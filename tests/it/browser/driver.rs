//! A headless Chromium, driven through ChromeDriver (W3C WebDriver over HTTP).

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::programs::{apt_install, on_path, skip};

/// For how long the browser may take for anything it is asked.
const PATIENCE: Duration = Duration::from_secs(30);
/// Set to `required`: a missing browser is a failure.
const SETTING: &str = "LICENSE_LEDGER_TEST_BROWSER";

const BROWSERS: &[&str] = &["chromium", "chromium-browser", "google-chrome"];

/// The programs that make a browser test.
pub struct Programs {
    browser: PathBuf,
    driver: PathBuf,
}

impl Programs {
    /// Finds the programs, or installs them. `None` after it was said, past the test harness that
    /// hides what passing tests print, that the test is skipped and why.
    pub fn find_or_install() -> Option<Self> {
        let missing = match Self::find().map_or_else(install, Ok) {
            Ok(programs) => return Some(programs),
            Err(missing) => missing,
        };
        let remedy = "install the Debian packages chromium and chromium-driver";
        skip("Clear Key in a browser", &missing, remedy, SETTING);
        None
    }

    fn find() -> Option<Self> {
        let browser = BROWSERS.iter().find_map(|name| on_path(name))?;
        Some(Self { browser, driver: on_path("chromedriver")? })
    }
}

fn install() -> Result<Programs, String> {
    let installed = apt_install(&["chromium", "chromium-driver"]);
    let said = installed.err().unwrap_or_default();
    Programs::find().ok_or_else(|| format!("there is no Chromium with ChromeDriver{said}"))
}

/// A browser with one window. Ends with all its processes when dropped.
pub struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
    profile: TempDir,
}

impl Browser {
    pub fn start(programs: &Programs) -> Self {
        let mut command = Command::new(&programs.driver);
        // A group of its own, to end what it starts with it.
        command.arg("--port=0").process_group(0).stdin(Stdio::null());
        let mut driver =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("ChromeDriver");
        let port = port_of(&mut driver);
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE * 2))
            .build();
        let mut browser = Self {
            driver,
            agent: config.new_agent(),
            session: format!("http://127.0.0.1:{port}/session"),
            profile: TempDir::new().unwrap(),
        };
        let opened = browser.call("", &capabilities(&programs.browser, browser.profile.path()));
        browser.session = format!("{}/{}", browser.session, opened["sessionId"].as_str().unwrap());
        browser.call("/timeouts", &json!({ "script": PATIENCE.as_millis() as u64 }));
        browser
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        self.call("/url", &json!({ "url": url }));
    }

    /// The value of the promise that `function`, called with `arguments`, returns.
    pub fn ask(&self, function: &str, arguments: &[&str]) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1];
             {function}(...Array.from(arguments).slice(0, -1))
               .then(done, (error) => done({{ outcome: String(error) }}));"
        );
        self.call("/execute/async", &json!({ "script": script, "args": arguments }))
    }

    fn call(&self, path: &str, body: &Value) -> Value {
        let request = self.agent.post(format!("{}{path}", self.session));
        let request = request.header("content-type", "application/json");
        let mut response = request.send(body.to_string()).expect("ChromeDriver answers");
        let text = response.body_mut().read_to_string().unwrap();
        assert!(response.status().is_success(), "{path}: {text}");
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        answer["value"].take()
    }

    /// Ends it, and waits until none of its processes is left.
    pub fn quit(self) {
        let profile = self.profile.path().to_owned();
        drop(self);
        assert_eq!(processes_with(&profile), Vec::<u32>::new(), "processes of the browser");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends itself; whatever does not is ended by its id.
        let _ = self.agent.delete(&self.session).call();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(5)
            && !processes_with(self.profile.path()).is_empty()
        {
            std::thread::sleep(Duration::from_millis(50));
        }
        let group = format!("-{}", self.driver.id());
        let left = processes_with(self.profile.path()).into_iter().map(|id| id.to_string());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).args(left).status();
        let _ = self.driver.wait();
    }
}

/// The port that a fresh ChromeDriver says it listens on.
fn port_of(driver: &mut Child) -> u16 {
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let (_, rest) = line.split_once("started successfully on port ")?;
        rest.trim_end_matches('.').parse().ok()
    });
    // It goes on talking.
    std::thread::spawn(move || lines.for_each(drop));
    port.expect("ChromeDriver did not start")
}

fn capabilities(browser: &Path, profile: &Path) -> Value {
    let args = [
        "--headless",
        // It refuses its sandbox to root, and containers refuse it namespaces.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--mute-audio",
        "--autoplay-policy=no-user-gesture-required",
        // Nothing but the test's own pages is to be reached.
        "--no-first-run",
        "--disable-quic",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
    ];
    let mut args = args.map(str::to_owned).to_vec();
    args.push(format!("--user-data-dir={}", profile.display()));
    let options = json!({ "binary": browser, "args": args });
    json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } })
}

/// The ids of processes whose command line names this folder.
fn processes_with(folder: &Path) -> Vec<u32> {
    let folder = folder.to_str().unwrap().as_bytes();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.windows(folder.len()).any(|window| window == folder)
    })
    .collect()
}
