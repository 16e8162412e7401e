//! `pki`: a public key infrastructure of one's own, in the file layout that `serve` reads.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::print_json;
use crate::access::secrets::os_random;
use crate::clock::Clock;
use crate::playready::ecc::PublicKey;
use crate::playready::pki::{
    DeviceSpec, LAB_MODEL, Model, PRIVATE_FILES, PkiFile, mint_device, new_lab,
};
use crate::playready::policy::SecurityLevel;

/// Make a public key infrastructure of your own, and simulated devices in it
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make a new infrastructure: root, server keys, and a model to make devices with
    Init(InitArgs),
    /// Make a simulated device
    Device(DeviceArgs),
}

/// Arguments of `pki init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `pki device`.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// Folder of the infrastructure
    #[arg(long, value_name = "DIR")]
    pki: PathBuf,
    /// Name of the device; its folder is PKI/devices/NAME
    #[arg(long)]
    name: String,
    /// Security level of its certificate: 150, 2000 or 3000
    #[arg(long, value_name = "LEVEL", default_value = "2000")]
    security_level: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs a `pki` command.
pub fn run(command: PkiCommand) -> anyhow::Result<ExitCode> {
    let (dir, written, json) = match command {
        PkiCommand::Init(args) => (args.out.clone(), init(&args.out)?, args.json),
        PkiCommand::Device(args) => {
            let level = SecurityLevel::try_from(args.security_level).map_err(|_| {
                anyhow::anyhow!(
                    "--security-level {} must be 150, 2000 or 3000",
                    args.security_level
                )
            })?;
            let written = device(&args.pki, &args.name, level)?;
            (args.pki.join("devices").join(&args.name), written, args.json)
        }
    };
    if json {
        print_json(&serde_json::json!({ "folder": dir, "files": written }))?;
    } else {
        println!("{}", dir.display());
        written.iter().for_each(|file| println!("  {}", file.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a new infrastructure in `dir`, which must not hold one. Returns the files written.
pub(crate) fn init(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut failed = false;
    let mut random = |bytes: &mut [u8]| failed |= fill(bytes).is_err();
    let files = new_lab(&mut random);
    anyhow::ensure!(!failed, "the operating system gives no randomness");
    write_new(dir, &files)
}

/// Makes a device in the infrastructure at `pki`. Returns the files written.
pub(crate) fn device(
    pki: &Path,
    name: &str,
    security_level: SecurityLevel,
) -> anyhow::Result<Vec<PathBuf>> {
    let read = |path: &str| fs::read(pki.join(path));
    let not_here = || format!("{} is not a PKI folder that devices can be made in", pki.display());
    let model = Model::load(read, LAB_MODEL).with_context(not_here)?;
    let public = |name: &str| -> anyhow::Result<PublicKey> {
        let pem = read(name).with_context(|| pki.join(name).display().to_string())?;
        PublicKey::from_pem(&pem).with_context(|| pki.join(name).display().to_string())
    };
    let (root, wmrm) = (public("root.pub.pem")?, public("wmrm.pub.pem")?);
    let now_s = u64::try_from(Clock::System.now().seconds()).unwrap_or_default();
    let mut failed = false;
    let mut random = |bytes: &mut [u8]| failed |= fill(bytes).is_err();
    let spec = DeviceSpec { name, security_level };
    let files = mint_device(&model, spec, &root, &wmrm, &mut random, now_s)?;
    anyhow::ensure!(!failed, "the operating system gives no randomness");
    write_new(pki, &files)
}

fn fill(bytes: &mut [u8]) -> io::Result<()> {
    for chunk in bytes.chunks_mut(16) {
        let random: [u8; 16] = os_random()?;
        chunk.iter_mut().zip(random).for_each(|(byte, random)| *byte = random);
    }
    Ok(())
}

/// Writes files that must not exist yet; nothing is ever overwritten.
fn write_new(dir: &Path, files: &[PkiFile]) -> anyhow::Result<Vec<PathBuf>> {
    for file in files {
        let path = dir.join(&file.path);
        anyhow::ensure!(
            !path.exists(),
            "{} exists and is never overwritten; choose another folder or name",
            path.display()
        );
    }
    let mut written = Vec::with_capacity(files.len());
    for file in files {
        let path = dir.join(&file.path);
        let failed = || format!("cannot write {}", path.display());
        if let Some(parent) = path.parent() {
            make_private_dir(parent).with_context(failed)?;
        }
        let mode = if file.private { 0o600 } else { 0o644 };
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(mode).open(&path);
        let stored = opened.and_then(|mut stored| {
            stored.write_all(&file.bytes)?;
            stored.sync_all()
        });
        stored.with_context(failed)?;
        written.push(path);
    }
    Ok(written)
}

/// Makes a directory for its owner only, with its parents; one that exists stays as it is.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Says which private files of a PKI others can read.
pub(crate) fn warn_of_readable_keys(dir: &Path) {
    for name in PRIVATE_FILES {
        let path = dir.join(name);
        let mode = fs::metadata(&path).map(|file| file.permissions().mode() & 0o077);
        if mode.is_ok_and(|others| others != 0) {
            let path = path.display();
            tracing::warn!("{path} can be read by others; run: chmod 600 {path}");
        }
    }
}
