//! Programs of others that a test needs: found, installed, or named as missing.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// For how long packages may take to be installed, in seconds.
const INSTALL_SECONDS: &str = "180";

/// Says, past the test harness that hides what passing tests print, that `what` is not tested. Where
/// the environment variable `setting` is `required`, that is a failure.
pub fn skip(what: &str, missing: &str, remedy: &str, setting: &str) {
    let required = std::env::var(setting).is_ok_and(|value| value == "required");
    assert!(!required, "{setting} is required, but {missing}; {remedy}");
    let line = format!(
        "\nSKIPPED: {what} was NOT tested: {missing}; {remedy}. \
         {setting}=required makes this a failure.\n"
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// The file that runs when `name` is called.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Installs Debian packages.
///
/// # Errors
/// What goes on a sentence that names what is missing.
pub fn apt_install(packages: &[&str]) -> Result<(), String> {
    let user = Command::new("id").arg("-u").output().map(|ran| ran.stdout).unwrap_or_default();
    if on_path("apt-get").is_none() || user != b"0\n" {
        return Err(", and no right to install it".to_owned());
    }
    let packages = packages.join(" ");
    let install =
        format!("apt-get update && apt-get install -y --no-install-recommends {packages}");
    let mut command = Command::new("timeout");
    command.args([INSTALL_SECONDS, "sh", "-c", &install]).env("DEBIAN_FRONTEND", "noninteractive");
    ran_well(&mut command).map_err(|said| format!(", and apt-get failed: {said}"))
}

/// Runs a program to its end.
///
/// # Errors
/// The last line of what it complained about.
pub fn ran_well(command: &mut Command) -> Result<(), String> {
    match command.stdin(Stdio::null()).output() {
        Ok(ran) if ran.status.success() => Ok(()),
        Ok(ran) => {
            let said = String::from_utf8_lossy(&ran.stderr);
            Err(said.lines().last().unwrap_or("no reason given").to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}
