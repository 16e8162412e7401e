//! `pki`: a public key infrastructure for labs.

mod revoke;

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use serde_json::json;

use super::print_json;
use crate::clock::Clock;
use crate::playready::ecc::PublicKey;
use crate::playready::pki::{
    DeviceFiles, DeviceSpec, LAB_MODEL, Model, PRIVATE_FILES, PkiFile, mint_device, new_lab,
};
use crate::playready::policy::SecurityLevel;
use crate::simulator::with_os_random;

/// Make a public key infrastructure for a lab, and devices that belong to it
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make a root, the keys of a server, and a model that devices are made of
    Init(InitArgs),
    /// Make a device for the simulator
    Device(DeviceArgs),
    /// Revoke certificates: issue signed lists, which a serving process takes up in seconds
    Revoke(revoke::RevokeArgs),
    /// Show the revocation lists of the infrastructure, and what the newest revokes
    Revocations(revoke::ListPlace),
}

/// Arguments of `pki init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder to make; must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `pki device`.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// Folder of the public key infrastructure, with its model `lab`
    #[arg(long, value_name = "DIR")]
    pki: PathBuf,
    /// Name of the device: its folder is PKI/devices/NAME
    #[arg(long)]
    name: String,
    /// What its certificate states: 150 (test), 2000 (software) or 3000 (hardware)
    #[arg(long, value_name = "LEVEL", default_value = "2000", value_parser = security_level)]
    security_level: SecurityLevel,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs a `pki` command.
pub fn run(command: PkiCommand) -> anyhow::Result<ExitCode> {
    match command {
        PkiCommand::Init(args) => {
            let files = init(&args.out)?;
            if args.json {
                print_json(&json!({ "pki": args.out, "files": files }))?;
            } else {
                println!("made a public key infrastructure in {}", args.out.display());
                files.iter().for_each(|file| println!("  {file}"));
                println!("serve with it:  license-ledger serve --pki {} …", args.out.display());
                println!(
                    "add a device:   license-ledger pki device --pki {} --name tv",
                    args.out.display()
                );
            }
        }
        PkiCommand::Device(args) => {
            let dir = device(&args.pki, &args.name, args.security_level, &Clock::System)?;
            let made = DeviceFiles::load(|file| fs::read(dir.join(file)), now_s(&Clock::System))?;
            let identity = HEXLOWER.encode(made.chain.identity());
            let level = made.chain.security_level();
            if args.json {
                print_json(&json!({
                    "device": dir, "identity": identity, "security_level": level,
                }))?;
            } else {
                println!("made a device of security level {level} in {}", dir.display());
                println!("  identity {identity}");
            }
        }
        PkiCommand::Revoke(args) => return revoke::revoke(&args, &Clock::System),
        PkiCommand::Revocations(place) => return revoke::show(&place, &Clock::System),
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a public key infrastructure in the folder `out`, whole or not at all. Returns the paths
/// of its files in it.
///
/// # Errors
///
/// The folder holds something already, or cannot be written.
pub fn init(out: &Path) -> anyhow::Result<Vec<String>> {
    let files = with_os_random(new_lab)?;
    place(out, "", &files)?;
    Ok(files.into_iter().map(|file| file.path).collect())
}

/// Makes a device of the model `lab` and returns its folder, `<pki>/devices/<name>`.
///
/// # Errors
///
/// The PKI has no such model, the name cannot be a folder's or is taken, or the folder cannot be
/// written.
pub fn device(
    pki: &Path,
    name: &str,
    security_level: SecurityLevel,
    clock: &Clock,
) -> anyhow::Result<PathBuf> {
    let read = |file: &str| fs::read(pki.join(file));
    let in_pki = || {
        format!("cannot make devices with the PKI in {}; make one with `pki init`", pki.display())
    };
    let model = Model::load(read, LAB_MODEL).with_context(in_pki)?;
    let public_key = |file: &str| -> anyhow::Result<PublicKey> {
        let pem = read(file).with_context(|| format!("cannot read {file}"))?;
        PublicKey::from_pem(&pem).with_context(|| format!("{file} is no key"))
    };
    let root = public_key("root.pub.pem").with_context(in_pki)?;
    let wmrm = public_key("wmrm.pub.pem").with_context(in_pki)?;
    let spec = DeviceSpec { name, security_level };
    let now_s = now_s(clock);
    let files = with_os_random(|random| mint_device(&model, spec, &root, &wmrm, random, now_s))??;
    let folder = format!("devices/{name}");
    let dir = pki.join(&folder);
    make_private_dir(&pki.join("devices"))
        .with_context(|| format!("cannot make {}", pki.join("devices").display()))?;
    place(&dir, &format!("{folder}/"), &files)?;
    Ok(dir)
}

/// Makes a directory that only its owner can enter, and those above it where they are missing.
///
/// # Errors
///
/// What the operating system says.
pub fn make_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Warns of private keys that others can read.
pub fn warn_of_readable_keys(dir: &Path) {
    for name in PRIVATE_FILES {
        let path = dir.join(name);
        let mode = fs::metadata(&path).map_or(0, |metadata| metadata.permissions().mode() & 0o777);
        if mode & 0o077 != 0 {
            let path = path.display();
            tracing::warn!(
                "others can open {path} (mode {mode:04o}); close it with `chmod 600 {path}`"
            );
        }
    }
}

/// Writes `files`, whose paths begin with `prefix`, as the folder `dir`: beside it first, so that
/// it appears whole or not at all.
fn place(dir: &Path, prefix: &str, files: &[PkiFile]) -> anyhow::Result<()> {
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let write = || {
        make_private_dir(parent)?;
        let beside = tempfile::Builder::new()
            .prefix(".pki-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(parent)?;
        for file in files {
            let path = file.path.strip_prefix(prefix).unwrap_or(&file.path);
            write_file(&beside.path().join(path), file)?;
        }
        // Fails where a folder is that holds something.
        fs::rename(beside.path(), dir)?;
        File::open(parent)?.sync_all()
    };
    write().map_err(|error| match error.kind() {
        io::ErrorKind::DirectoryNotEmpty
        | io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotADirectory => anyhow::anyhow!(
            "{} exists already and is never overwritten; choose another name, or move it away",
            dir.display()
        ),
        _ => anyhow::Error::new(error)
            .context(format!("cannot write {}; check the folder and its owner", dir.display())),
    })
}

fn write_file(path: &Path, file: &PkiFile) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        make_private_dir(folder)?;
    }
    let mode = if file.private { 0o600 } else { 0o644 };
    let mut out = File::create_new(path)?;
    out.set_permissions(Permissions::from_mode(mode))?;
    out.write_all(&file.bytes)?;
    out.sync_all()
}

fn security_level(text: &str) -> Result<SecurityLevel, String> {
    let level = text.parse::<u16>().ok().and_then(|level| SecurityLevel::try_from(level).ok());
    level.ok_or_else(|| "a security level is 150, 2000 or 3000".to_owned())
}

fn now_s(clock: &Clock) -> u64 {
    u64::try_from(clock.now().seconds()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playready::pki::Pki;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn makes_an_infrastructure_that_servers_and_devices_accept() {
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("lab/pki");
        init(&pki).unwrap();
        let tv = device(&pki, "tv", SecurityLevel::Hardware, &Clock::System).unwrap();
        assert_eq!(tv, pki.join("devices/tv"));
        let now_s = now_s(&Clock::System);
        let server = Pki::load(|file| fs::read(pki.join(file)), now_s).unwrap();
        let files = DeviceFiles::load(|file| fs::read(tv.join(file)), now_s).unwrap();
        assert_eq!(files.root, server.root);
        assert_eq!(&files.wmrm, server.wmrm.public());
        assert_eq!(files.chain.security_level(), 3000);
    }

    #[test]
    fn private_files_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("pki");
        init(&pki).unwrap();
        let tv = device(&pki, "tv", SecurityLevel::Test, &Clock::System).unwrap();
        for name in ["root.pem", "wmrm.pem", "server_sign.pem", "models/lab/model.pem"] {
            assert_eq!(mode(&pki.join(name)), 0o600, "{name}");
        }
        for name in ["sign.pem", "encrypt.pem"] {
            assert_eq!(mode(&tv.join(name)), 0o600, "{name}");
        }
        assert_eq!(mode(&pki), 0o700);
    }

    #[test]
    fn never_overwrites_and_names_what_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("pki");
        init(&pki).unwrap();
        let root = fs::read(pki.join("root.pem")).unwrap();
        let refused = init(&pki).unwrap_err().to_string();
        assert!(refused.contains(&pki.display().to_string()), "{refused}");
        assert_eq!(fs::read(pki.join("root.pem")).unwrap(), root);

        let tv = device(&pki, "tv", SecurityLevel::Test, &Clock::System).unwrap();
        let sign = fs::read(tv.join("sign.pem")).unwrap();
        let refused = device(&pki, "tv", SecurityLevel::Test, &Clock::System).unwrap_err();
        assert!(refused.to_string().contains(&tv.display().to_string()), "{refused}");
        assert_eq!(fs::read(tv.join("sign.pem")).unwrap(), sign);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is left behind");
    }

    #[test]
    fn refuses_names_that_leave_the_folder_and_folders_without_a_model() {
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("pki");
        init(&pki).unwrap();
        for name in ["", "..", "a/b", "../tv"] {
            assert!(device(&pki, name, SecurityLevel::Test, &Clock::System).is_err(), "{name}");
        }
        assert!(device(dir.path(), "tv", SecurityLevel::Test, &Clock::System).is_err());
    }
}
