//! `device play`: may the device play at this moment?

use std::process::ExitCode;

use clap::Args;
use data_encoding::BASE64;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Folder, words};
use crate::cli::print_json;
use crate::playready::kid::Kid;
use crate::simulator::{Playback, SimulatorError, Term, Unplayable};

/// Arguments of `device play`.
#[derive(Debug, Args)]
pub struct PlayArgs {
    #[command(flatten)]
    folder: Folder,
    /// KID as a GUID
    #[arg(long, value_name = "KID")]
    kid: Uuid,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PlayArgs) -> anyhow::Result<ExitCode> {
    let mut device = args.folder.open()?;
    match device.start(Kid::from(args.kid)) {
        Ok(playback) => {
            if args.json {
                print_json(&playback_json(&playback))?;
            } else {
                print(&playback);
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ SimulatorError::CannotPlay { .. }) if !args.json => {
            println!("{error}");
            Ok(ExitCode::FAILURE)
        }
        Err(SimulatorError::CannotPlay { kid, because }) => {
            print_json(&json!({ "kid": kid.guid(), "now": term_json(Err(&because)) }))?;
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}

fn print(playback: &Playback) {
    let license = &playback.license;
    println!("plays {}", license.kid);
    println!("  rights id  {}", Uuid::from_bytes(license.rights_id));
    println!("  policy     {}", words::policy(&license.policy));
    println!("  plays      {}", words::term(&playback.term));
    let checksum = BASE64.encode(&license.content_key.checksum(license.kid));
    println!("  key        {}, checksum {checksum}", license.key_type.name());
}

fn playback_json(playback: &Playback) -> Value {
    let license = &playback.license;
    json!({
        "kid": license.kid.guid(),
        "now": term_json(Ok(&playback.term)),
        "rights_id": Uuid::from_bytes(license.rights_id),
        "root_kid": license.root_kid.map(|kid| kid.guid()),
        "policy": license.policy,
        "key_type": license.key_type.name(),
        "key_checksum": BASE64.encode(&license.content_key.checksum(license.kid)),
    })
}

/// Whether a license plays, and until when or why not.
pub(super) fn term_json(term: Result<&Term, &Unplayable>) -> Value {
    match term {
        Ok(term) => json!({
            "plays": true,
            "valid_until": term.valid_until.map(words::time),
            "stops_at": term.stops_at.map(words::time),
        }),
        Err(because) => json!({
            "plays": false,
            "reason": because.word(),
            "detail": because.to_string(),
        }),
    }
}
