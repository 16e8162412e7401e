//! `device`: a simulated device at the command line.

mod play;
pub(super) mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{one_line, print_json};
use crate::clock::Clock;
use crate::playready::content_key::KeyType;
use crate::playready::header::HeaderVersion;
use crate::playready::kid::Kid;
use crate::playready::soap::FaultReply;
use crate::simulator::store::{PendingDeletion, StoredLicense, Which};
use crate::simulator::{
    AcknowledgementOutcome, Acquired, Deletion, Device, Endpoint, SimulatorError, VerifiedLicense,
    Wanted, WantedKey,
};

/// Be a device: acquire licenses, play, delete securely, list what is held
///
/// Exits 0 when done, 1 if the server or a license refused, 2 if it could not be done.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Acquire licenses and keep the persistent ones in the device's folder
    Acquire(AcquireArgs),
    /// Begin to play, as far as a license that is kept allows it at this moment; the first time
    /// counts
    Play(play::PlayArgs),
    /// Delete licenses and tell the server; without --session and --kid, tell it again what it has
    /// not answered yet
    Delete(DeleteArgs),
    /// List the licenses that the device keeps, and the deletions that were not answered
    List(ListArgs),
}

/// The device.
#[derive(Debug, Args)]
struct Folder {
    /// Folder of the device, as `pki device` makes it
    #[arg(long, value_name = "DIR")]
    device: PathBuf,
    /// Folder of the PKI to trust [default: the one that the device was made with]
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
}

/// The server.
#[derive(Debug, Args)]
struct Server {
    /// URL of the license server; without a path, /playready/rightsmanager.asmx is meant
    #[arg(long, value_name = "URL")]
    url: String,
    /// Certificates (PEM) that an https server may be recognized by
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Arguments of `device acquire`.
#[derive(Debug, Args)]
pub struct AcquireArgs {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    folder: Folder,
    /// KID as a GUID; repeat for more. With the checksum of the content's header behind a colon, a
    /// license with another key is refused
    #[arg(long = "kid", value_name = "KID[:CHECKSUM]", required = true, value_parser = wanted_key)]
    kids: Vec<WantedKey>,
    /// Ask a test server for licenses to be stored; short for --cfg (persist:true)
    #[arg(long, conflicts_with = "cfg")]
    persistent: bool,
    /// Session that a deletion will name: base64 of 16 bytes [default: the nonce of the request]
    #[arg(long, value_name = "B64", value_parser = session)]
    session: Option<[u8; 16]>,
    /// Version of the content header to send; more than one KID needs 4.2 or 4.3
    #[arg(long, value_name = "VERSION", default_value = "4.3")]
    header_version: Version,
    /// Policy string for a test server, for example (persist:true,sl:2000)
    #[arg(long, value_name = "STRING")]
    cfg: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `device delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    folder: Folder,
    /// Delete all licenses of this session: base64 of 16 bytes
    #[arg(long, value_name = "B64", value_parser = session, conflicts_with = "kid")]
    session: Option<[u8; 16]>,
    /// Delete all licenses for this KID
    #[arg(long, value_name = "KID")]
    kid: Option<Uuid>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `device list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    folder: Folder,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A version of the content header.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Version {
    /// One KID, as elements
    #[value(name = "4.0")]
    V4_0,
    /// One KID, as attributes
    #[value(name = "4.1")]
    V4_1,
    /// Several KIDs
    #[value(name = "4.2")]
    V4_2,
    /// Several KIDs, also for AES-CBC
    #[value(name = "4.3")]
    V4_3,
}

/// Runs a `device` command.
pub fn run(command: DeviceCommand) -> anyhow::Result<ExitCode> {
    match command {
        DeviceCommand::Acquire(args) => acquire(args),
        DeviceCommand::Play(args) => play::run(&args),
        DeviceCommand::Delete(args) => delete(args),
        DeviceCommand::List(args) => list(&args),
    }
}

impl Folder {
    fn open(&self) -> anyhow::Result<Device> {
        Ok(Device::open(&self.device, self.pki.as_deref(), Clock::System)?)
    }
}

impl Server {
    fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let read = |path: &Path| {
            fs::read(path).with_context(|| format!("cannot read {}; check --ca", path.display()))
        };
        let ca = self.ca.as_deref().map(read).transpose()?;
        Ok(Endpoint::new(&self.url, ca.as_deref())?)
    }
}

fn acquire(args: AcquireArgs) -> anyhow::Result<ExitCode> {
    let endpoint = args.server.endpoint()?;
    let mut device = args.folder.open()?;
    let wanted = Wanted {
        keys: args.kids,
        header_version: args.header_version.into(),
        key_type: Some(KeyType::AesCtr),
        cfg: args.persistent.then(|| "(persist:true)".to_owned()).or(args.cfg),
        session: args.session,
        custom_data: None,
    };
    let challenge = device.challenge(&wanted)?;
    let acquired = match device.exchange(&endpoint, &challenge) {
        Ok(acquired) => acquired,
        Err(SimulatorError::Refused(fault)) => return refused(&fault, args.json),
        Err(error) => return Err(error.into()),
    };
    if let AcknowledgementOutcome::Failed(error) = &acquired.acknowledgement {
        eprintln!("warning: the licenses are held, but their acknowledgement failed: {error}");
    }
    if args.json {
        print_json(&acquired_json(&acquired, &challenge.session))?;
    } else {
        acquired.answer.licenses.iter().for_each(print_license);
        for kid in &acquired.missing {
            println!("no license for {kid}: the server has no key for it");
        }
        println!("session {}", BASE64.encode(&challenge.session));
        if let AcknowledgementOutcome::Taken = acquired.acknowledgement {
            println!("acknowledged");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_license(license: &VerifiedLicense) {
    let opened = &license.opened;
    let fate = if opened.policy.persist { "stored" } else { "used once, not stored" };
    println!("license for {}: {fate}", opened.kid);
    println!("  rights id  {}", Uuid::from_bytes(opened.rights_id));
    println!("  policy     {}", words::policy(&opened.policy));
    opened.root_kid.iter().for_each(|root| println!("  root       {root}"));
    let confirmed =
        if license.key_confirmed { "confirmed by the header" } else { "compare with the header" };
    let checksum = BASE64.encode(&opened.content_key.checksum(opened.kid));
    println!("  key        {}, checksum {checksum}, {confirmed}", opened.key_type.name());
}

fn acquired_json(acquired: &Acquired, session: &[u8; 16]) -> Value {
    let licenses = acquired.answer.licenses.iter().map(|license| {
        let opened = &license.opened;
        json!({
            "kid": opened.kid.guid(),
            "rights_id": Uuid::from_bytes(opened.rights_id),
            "persistent": opened.policy.persist,
            "root_kid": opened.root_kid.map(|kid| kid.guid()),
            "policy": opened.policy,
            "key_type": opened.key_type.name(),
            "key_checksum": BASE64.encode(&opened.content_key.checksum(opened.kid)),
            "key_confirmed": license.key_confirmed,
        })
    });
    let acknowledgement = match acquired.acknowledgement {
        AcknowledgementOutcome::NotAsked => "not_asked",
        AcknowledgementOutcome::Taken => "taken",
        AcknowledgementOutcome::Failed(_) => "failed",
    };
    json!({
        "licenses": licenses.collect::<Vec<_>>(),
        "missing": acquired.missing.iter().map(|kid| kid.guid()).collect::<Vec<_>>(),
        "session": BASE64.encode(session),
        "transaction_id": acquired.answer.transaction_id,
        "acknowledgement": acknowledgement,
    })
}

fn delete(args: DeleteArgs) -> anyhow::Result<ExitCode> {
    let endpoint = args.server.endpoint()?;
    let mut device = args.folder.open()?;
    let which = args.session.map(Which::Session);
    let which = which.or(args.kid.map(|kid| Which::Kid(Kid::from(kid))));
    match which {
        Some(which) => device.remove(which)?,
        None => anyhow::ensure!(
            !device.store().deletions().is_empty(),
            "every deletion of this device was answered; name a --session or a --kid to delete more"
        ),
    }
    let deletions = device.report_deletions(&endpoint)?;
    let refused_or_done =
        |deletion: &Deletion| matches!(&deletion.outcome, Ok(()) | Err(SimulatorError::Refused(_)));
    let code = if deletions.iter().all(|deletion| deletion.outcome.is_ok()) {
        ExitCode::SUCCESS
    } else if deletions.iter().all(refused_or_done) {
        ExitCode::FAILURE
    } else {
        ExitCode::from(2)
    };
    if args.json {
        let rows = deletions.iter().map(deletion_json).collect::<Vec<_>>();
        print_json(&json!({ "deletions": rows }))?;
    } else {
        deletions.into_iter().for_each(print_deletion);
    }
    Ok(code)
}

fn print_deletion(deletion: Deletion) {
    let PendingDeletion { session, kids } = deletion.record;
    let session = BASE64.encode(&session.0);
    match deletion.outcome {
        Ok(()) => println!("deleted, and the server answered with session {session}"),
        Err(error) => {
            println!("deleted here; the server will be told again about session {session}");
            match error {
                SimulatorError::Refused(fault) => print_refusal(&fault),
                other => eprintln!("error: {}", one_line(&other.into())),
            }
        }
    }
    kids.iter().for_each(|kid| println!("  {kid}"));
}

fn deletion_json(deletion: &Deletion) -> Value {
    let PendingDeletion { session, kids } = &deletion.record;
    let (outcome, detail) = match &deletion.outcome {
        Ok(()) => ("answered", Value::Null),
        Err(SimulatorError::Refused(fault)) => ("refused", refusal_json(fault)),
        Err(error) => ("pending", Value::from(error.to_string())),
    };
    json!({ "session": session, "kids": kids, "outcome": outcome, "detail": detail })
}

fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let device = args.folder.open()?;
    let identity = HEXLOWER.encode(device.identity());
    let (licenses, deletions) = (device.store().licenses(), device.store().deletions());
    if args.json {
        let rows = licenses.iter().map(|license| stored_json(&device, license));
        print_json(&json!({
            "identity": identity,
            "security_level": device.security_level(),
            "licenses": rows.collect::<Vec<_>>(),
            "deletions": deletions,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("device {identity}, security level {}", device.security_level());
    println!("licenses kept: {}", licenses.len());
    for license in licenses {
        let acknowledged = if license.acknowledged { ", acknowledged" } else { "" };
        println!("  {}", license.kid);
        println!("    rights id  {}{acknowledged}", license.rights_id);
        println!("    session    {}", BASE64.encode(&license.session.0));
        match device.open_stored(license) {
            Ok(opened) => {
                println!("    policy     {}", words::policy(&opened.policy));
                opened.root_kid.iter().for_each(|root| println!("    root       {root}"));
            }
            Err(error) => println!("    policy     not readable: {}", one_line(&error.into())),
        }
        if let Some(at_s) = license.first_played_at {
            println!("    played     first at {}", words::time(at_s));
        }
        match device.term(license) {
            Ok(term) => println!("    plays      {}", words::term(&term)),
            Err(because) => println!("    plays not  {because}"),
        }
    }
    for PendingDeletion { session, kids } in deletions {
        let session = BASE64.encode(&session.0);
        println!("not answered yet: deletion of {} KIDs in session {session}", kids.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn stored_json(device: &Device, license: &StoredLicense) -> Value {
    let opened = device.open_stored(license).ok();
    let opened = opened.as_ref();
    let term = device.term(license);
    json!({
        "kid": license.kid,
        "rights_id": license.rights_id,
        "session": license.session,
        "transaction_id": license.transaction_id,
        "acknowledged": license.acknowledged,
        "first_played_at": license.first_played_at.map(words::time),
        "root_kid": opened.and_then(|license| license.root_kid).map(|kid| kid.guid()),
        "policy": opened.map(|license| &license.policy),
        "now": play::term_json(term.as_ref()),
    })
}

fn refused(fault: &FaultReply, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print_json(&json!({ "refused": refusal_json(fault) }))?;
    } else {
        print_refusal(fault);
    }
    Ok(ExitCode::FAILURE)
}

fn print_refusal(fault: &FaultReply) {
    let words::Explanation { meaning, remedy } = words::fault(fault);
    println!("refused with {}: {meaning}", fault.code);
    println!("  what helps   {remedy}");
    if let Some(custom_data) = &fault.custom_data {
        println!("  custom data  {custom_data}");
    }
}

fn refusal_json(fault: &FaultReply) -> Value {
    let words::Explanation { meaning, remedy } = words::fault(fault);
    let custom_data = fault.custom_data.as_deref();
    let custom_data = custom_data.map(|text| serde_json::from_str(text).unwrap_or(text.into()));
    json!({
        "status_code": fault.code.to_string(),
        "custom_data": custom_data.unwrap_or(Value::Null),
        "meaning": meaning,
        "remedy": remedy,
    })
}

impl From<Version> for HeaderVersion {
    fn from(version: Version) -> Self {
        match version {
            Version::V4_0 => Self::V4_0,
            Version::V4_1 => Self::V4_1,
            Version::V4_2 => Self::V4_2,
            Version::V4_3 => Self::V4_3,
        }
    }
}

fn wanted_key(text: &str) -> Result<WantedKey, String> {
    let (kid, checksum) = match text.split_once(':') {
        Some((kid, checksum)) => (kid, Some(checksum)),
        None => (text, None),
    };
    let kid = Uuid::try_parse(kid)
        .map_err(|_| "write the KID as a GUID: 01234567-89ab-cdef-0123-456789abcdef")?;
    let decode = |text: &str| {
        let bytes = BASE64.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or("the checksum behind the colon is not the base64 of 8 bytes")
    };
    Ok(WantedKey { kid: Kid::from(kid), checksum: checksum.map(decode).transpose()? })
}

fn session(text: &str) -> Result<[u8; 16], String> {
    let bytes = BASE64.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    let session = bytes.filter(|bytes| *bytes != [0; 16]);
    session.ok_or_else(|| "a session is the base64 of 16 bytes that are not all zero".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_kid_with_and_without_the_checksum_of_its_header() {
        let kid = "01234567-89ab-cdef-0123-456789abcdef";
        assert_eq!(wanted_key(kid).unwrap().checksum, None);
        let both = wanted_key(&format!("{kid}:AQIDBAUGBwg=")).unwrap();
        assert_eq!(both.kid.to_string(), kid);
        assert_eq!(both.checksum, Some([1, 2, 3, 4, 5, 6, 7, 8]));
        for wrong in ["", "x", "01234567:AQIDBAUGBwg=", &format!("{kid}:AQID"), &format!("{kid}:")]
        {
            assert!(wanted_key(wrong).is_err(), "accepted {wrong:?}");
        }
    }

    #[test]
    fn refuses_sessions_that_no_server_takes() {
        assert_eq!(session("AQEBAQEBAQEBAQEBAQEBAQ==").unwrap(), [1; 16]);
        for wrong in ["", "AQEB", "AAAAAAAAAAAAAAAAAAAAAA==", "not base64!"] {
            assert!(session(wrong).is_err(), "accepted {wrong:?}");
        }
    }
}
