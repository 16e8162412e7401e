//! Programs of others that a test needs: found, installed, or named as missing.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// For how long packages may take to be installed, in seconds: a browser has a hundred megabytes.
const INSTALL_SECONDS: &str = "600";

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
    // Two at once would find the other's lock, and fail.
    let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("apt-get.lock"));
    let locked = lock.and_then(|lock| lock.lock().map(|()| lock));
    let _lock = locked.map_err(|error| format!(", and no turn to install it: {error}"))?;
    let packages = packages.join(" ");
    let install = format!(
        "apt-get update && \
         apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends {packages}"
    );
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

/// Installs packages from PyPI into a virtual environment of their own, beside what Cargo builds, once
/// for each content of `requirements`; its folder.
///
/// # Errors
/// What is missing.
pub fn venv(name: &str, requirements: &str) -> Result<PathBuf, String> {
    install_once(name, requirements, |venv| {
        make_venv(venv)?;
        let file = venv.join("requirements.txt");
        fs::write(&file, requirements).map_err(|error| error.to_string())?;
        let mut pip = Command::new("timeout");
        pip.arg(INSTALL_SECONDS).arg(venv.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", "-r"]).arg(file);
        ran_well(&mut pip).map_err(|said| format!("pip could not install {name}: {said}"))
    })
}

/// Installs packages from npm, without running what they bring; the folder that holds `node_modules`.
///
/// # Errors
/// What is missing.
pub fn node_modules(name: &str, package: &str, lock: &str) -> Result<PathBuf, String> {
    install_once(name, lock, |folder| {
        for program in ["node", "npm"] {
            on_path(program).ok_or_else(|| format!("there is no {program}"))?;
        }
        let write = |name: &str, text: &str| fs::write(folder.join(name), text);
        write("package.json", package).map_err(|error| error.to_string())?;
        write("package-lock.json", lock).map_err(|error| error.to_string())?;
        let mut npm = Command::new("timeout");
        npm.args([INSTALL_SECONDS, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        ran_well(npm.current_dir(folder)).map_err(|said| format!("npm could not install: {said}"))
    })
}

/// A folder beside what Cargo builds, in which `install` has succeeded for this `what`. Of several
/// tests that want it, one installs.
fn install_once(
    name: &str,
    what: &str,
    install: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lock =
        File::create(home.join(format!("{name}.lock"))).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let (folder, installed) = (home.join(name), home.join(name).join("installed.txt"));
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == what) {
        return Ok(folder);
    }
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    install(&folder)?;
    fs::write(&installed, what).map_err(|error| error.to_string())?;
    Ok(folder)
}

fn make_venv(at: &Path) -> Result<(), String> {
    let make = || ran_well(Command::new("python3").args(["-m", "venv", "--clear"]).arg(at));
    let Err(said) =
        on_path("python3").ok_or_else(|| "there is none".to_owned()).and_then(|_| make())
    else {
        return Ok(());
    };
    let no_apt = apt_install(&["python3", "python3-venv"]).err().unwrap_or_default();
    make().map_err(|_| format!("Python 3 cannot make a venv ({said}){no_apt}"))
}
