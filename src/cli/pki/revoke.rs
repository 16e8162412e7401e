//! `pki revoke` and `pki revocations`: an operator's own revocation lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde_json::{Value, json};

use super::{make_private_dir, now_s};
use crate::cli::print_json;
use crate::cli::revocation::{ListFiles, time};
use crate::clock::Clock;
use crate::playready::bcert::Chain;
use crate::playready::ecc::{PrivateKey, PublicKey};
use crate::playready::revocation::{Revocation, RevocationSpec};
use crate::simulator::with_os_random;

/// `public_key_digest` of a certificate: for a device, its identity.
type CertificateDigest = [u8; 32];

/// Where a PKI and its lists are.
#[derive(Debug, Args)]
pub struct ListPlace {
    /// Folder of the public key infrastructure
    #[arg(long, value_name = "DIR")]
    pki: PathBuf,
    /// Folder of the lists, if `playready.revocation_lists` names one [default: PKI/revocation]
    #[arg(long, value_name = "DIR")]
    lists: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `pki revoke`.
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = true,
    args = ["devices", "models", "digests", "refresh"])]
pub struct RevokeArgs {
    #[command(flatten)]
    place: ListPlace,
    /// Revoke the device in PKI/devices/NAME; repeat for more
    #[arg(long = "device", value_name = "NAME")]
    devices: Vec<String>,
    /// Revoke the model in PKI/models/NAME, and so all its devices
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Revoke the certificate whose first key has this SHA-256; for a device that is its identity
    #[arg(long = "digest", value_name = "HEX", value_parser = digest)]
    digests: Vec<CertificateDigest>,
    /// Issue the lists again with the present date, which is due every week
    #[arg(long)]
    refresh: bool,
}

/// Adds to the newest lists and signs them with the root key, as a new file beside the others.
pub fn revoke(args: &RevokeArgs, clock: &Clock) -> anyhow::Result<ExitCode> {
    let ListPlace { pki, lists, json } = &args.place;
    let files = files(pki, lists.as_deref())?;
    let root = fs::read(pki.join("root.pem")).ok();
    let root = root.and_then(|pem| PrivateKey::from_pem(&pem).ok()).with_context(|| {
        let file = pki.join("root.pem");
        format!("lists are signed with the root key, and {} is not one", file.display())
    })?;
    let mut added: BTreeSet<CertificateDigest> = args.digests.iter().copied().collect();
    for (kind, names) in [("devices", &args.devices), ("models", &args.models)] {
        for name in names {
            added.insert(digest_in(pki, kind, name)?);
        }
    }
    let now_s = now_s(clock);
    let newest = read_all(&files, now_s)?.into_iter().filter_map(|(_, read)| read.ok());
    let newest = newest.max_by_key(Revocation::sequence);
    let mut revoked: BTreeSet<_> = newest.iter().flat_map(Revocation::revoked).copied().collect();
    added.retain(|digest| revoked.insert(*digest));
    if added.is_empty() && !args.refresh {
        println!("all of that is revoked already; --refresh issues the lists again");
        return Ok(ExitCode::SUCCESS);
    }
    let sequence = newest.map_or(0, |lists| lists.sequence()).checked_add(1);
    let sequence = sequence.context("the highest sequence is used up")?;
    let spec = RevocationSpec { sequence, issued_at_s: now_s, revoked: &revoked };
    let element = with_os_random(|random| spec.issue(&root, random))?;
    let path = write(files.folder(), sequence, &element)?;
    if *json {
        print_json(&json!({
            "file": path, "sequence": sequence, "added": hex(&added), "revoked": hex(&revoked),
        }))?;
    } else {
        println!("issued revocation lists {sequence} as {}", path.display());
        println!("  certificates revoked: {}, of them new: {}", revoked.len(), added.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows the lists there are. Exit code 1 if one of them cannot be used.
pub fn show(place: &ListPlace, clock: &Clock) -> anyhow::Result<ExitCode> {
    let files = files(&place.pki, place.lists.as_deref())?;
    let read = read_all(&files, now_s(clock))?;
    let usable = read.iter().filter_map(|(path, read)| Some((path, read.as_ref().ok()?)));
    let newest = usable.max_by_key(|(_, lists)| lists.sequence());
    let names = names(&place.pki);
    if place.json {
        let certificate = |digest: &CertificateDigest| json!({ "digest": HEXLOWER.encode(digest), "name": names.get(digest) });
        let revoked = newest.iter().flat_map(|(_, lists)| sorted(lists));
        print_json(&json!({
            "files": read.iter().map(|(path, read)| described(path, read)).collect::<Vec<_>>(),
            "newest": newest.map(|(path, _)| path),
            "revoked": revoked.map(|digest| certificate(&digest)).collect::<Vec<_>>(),
        }))?;
    } else {
        for (path, read) in &read {
            match read {
                Ok(lists) => println!(
                    "{:<10} {}  {}{}",
                    lists.sequence(),
                    time(lists),
                    path.display(),
                    if newest.is_some_and(|(newest, _)| newest == path) { "  newest" } else { "" }
                ),
                Err(reason) => println!("unusable   {}: {reason}", path.display()),
            }
        }
        match newest {
            None => println!("there are no revocation lists in {files}"),
            Some((_, lists)) => println!("certificates revoked: {}", lists.revoked().count()),
        }
        for digest in newest.iter().flat_map(|(_, lists)| sorted(lists)) {
            let name = names.get(&digest).map(String::as_str).unwrap_or_default();
            println!("  {} {name}", HEXLOWER.encode(&digest));
        }
    }
    let unusable = read.iter().any(|(_, read)| read.is_err());
    Ok(if unusable { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn files(pki: &Path, lists: Option<&Path>) -> anyhow::Result<ListFiles> {
    let path = pki.join("root.pub.pem");
    let pem = fs::read(&path);
    let pem = pem.with_context(|| format!("cannot read {}; name a PKI", path.display()))?;
    let root = PublicKey::from_pem(&pem)
        .with_context(|| format!("{} is not a public key", path.display()))?;
    Ok(ListFiles::new(pki, lists, root))
}

type Read = (PathBuf, Result<Revocation, String>);

fn read_all(files: &ListFiles, now_s: u64) -> anyhow::Result<Vec<Read>> {
    let read = |path: PathBuf| {
        let read = files.read(&path, now_s);
        (path, read)
    };
    Ok(files.paths()?.into_iter().map(read).collect())
}

fn described(path: &Path, read: &Result<Revocation, String>) -> Value {
    match read {
        Ok(lists) => json!({
            "file": path,
            "sequence": lists.sequence(),
            "issued_at": time(lists),
            "revoked": lists.revoked().count(),
        }),
        Err(reason) => json!({ "file": path, "error": reason }),
    }
}

/// Writes lists as a file of their own, whole or not at all, and never over another.
fn write(folder: &Path, sequence: u32, element: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(format!("revinfo-{sequence:010}.xml"));
    let written = || {
        make_private_dir(folder)?;
        let mut file = tempfile::Builder::new()
            .prefix(".revinfo-")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(folder)?;
        file.write_all(element.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist_noclobber(&path).map_err(|error| error.error)?;
        fs::File::open(folder)?.sync_all()
    };
    written().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The digest of the first certificate of `devices/<name>` or `models/<name>`.
fn digest_in(pki: &Path, kind: &str, name: &str) -> anyhow::Result<CertificateDigest> {
    let file = if kind == "devices" { "chain.bcert" } else { "model.bcert" };
    let path = pki.join(kind).join(name).join(file);
    let unreadable = || format!("cannot read {}; check the name and --pki", path.display());
    let bytes = fs::read(&path).with_context(unreadable)?;
    let chain = Chain::parse(&bytes).ok();
    let first = chain.as_ref().and_then(|chain| chain.certificates().first());
    let digest = first.map(|certificate| certificate.public_key_digest);
    digest.with_context(|| format!("{} is not a certificate chain", path.display()))
}

/// What the PKI's folder calls its certificates.
fn names(pki: &Path) -> BTreeMap<CertificateDigest, String> {
    let mut names = BTreeMap::new();
    for (kind, word) in [("devices", "device"), ("models", "model")] {
        let Ok(entries) = fs::read_dir(pki.join(kind)) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Ok(digest) = digest_in(pki, kind, &name) {
                names.insert(digest, format!("{word} {name}"));
            }
        }
    }
    names
}

fn sorted(lists: &Revocation) -> BTreeSet<CertificateDigest> {
    lists.revoked().copied().collect()
}

fn hex(digests: &BTreeSet<CertificateDigest>) -> Vec<String> {
    digests.iter().map(|digest| HEXLOWER.encode(digest)).collect()
}

fn digest(text: &str) -> Result<CertificateDigest, String> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    let digest = bytes.and_then(|bytes| bytes.try_into().ok());
    digest.ok_or_else(|| "a digest has 64 hexadecimal digits".to_owned())
}
