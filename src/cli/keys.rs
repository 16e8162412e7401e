//! `keys`: content keys, key seeds and API keys.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::admin::{ApiKeyRow, Command, Outcome, execute};
use super::pins::{self, AcceptArgs};
use super::{Place, print_json, read};
use crate::access::Scope;
use crate::domain::KeyType;
use crate::keys::{DEFAULT_SEED, parse_import, parse_seed};

/// Register content keys, key seeds and API keys; also while serving
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Register content keys from a file: `{"KID": "KEY", …}`, GUID and 32 hex digits; in place of
    /// KEY also `{"key": "KEY", "key_type": "aesctr"}` (for cenc) or `"aescbc"` (for cbcs)
    Import(ImportArgs),
    /// Register a key seed, from which KIDs without a key of their own get theirs
    Seed(SeedArgs),
    /// List the ids of content keys and key seeds, never the keys
    List(ListArgs),
    /// Make a new master key and seal everything under it
    RotateMaster(RotateArgs),
    /// Say that a key file or a key of the PKI was changed on purpose, so that the ledger is served
    /// with it; not while serving
    Accept(AcceptArgs),
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Api(ApiCommand),
}

/// Arguments of `keys import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    place: Place,
    /// The file, or - for standard input
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `keys seed`.
#[derive(Debug, Args)]
pub struct SeedArgs {
    #[command(flatten)]
    place: Place,
    /// File with the seed, base64 of at least 30 bytes, or - for standard input
    file: PathBuf,
    /// The seed's id: a-z, 0-9, dot, hyphen, underscore. `default` serves unless keys.default_seed
    /// names another; an entitlement may name any
    #[arg(long, value_name = "ID", default_value = DEFAULT_SEED, value_parser = seed_id)]
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `keys list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Arguments of `keys rotate-master`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Make, list and revoke API keys.
#[derive(Debug, Subcommand)]
pub enum ApiCommand {
    /// Make an API key; it is shown once
    Create {
        /// Where the ledger is
        #[command(flatten)]
        place: Place,
        /// Label: a-z, 0-9, dot, hyphen, underscore
        #[arg(long)]
        name: String,
        /// What it may do, for example inventory:read; repeat for more
        #[arg(long = "scope", required = true, value_name = "SCOPE")]
        scopes: Vec<Scope>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List API keys, revoked ones included
    List {
        /// Where the ledger is
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke an API key
    Revoke {
        /// Where the ledger is
        #[command(flatten)]
        place: Place,
        /// The key's id
        key_id: String,
    },
}

/// Runs a `keys` command.
pub fn run(command: KeysCommand) -> anyhow::Result<ExitCode> {
    match command {
        KeysCommand::Import(args) => {
            let file = Zeroizing::new(read(&args.file)?);
            let keys = parse_import(&file)
                .with_context(|| format!("cannot import {}", args.file.display()))?;
            print(execute(&args.place, Command::ImportKeys { keys })?, args.json)
        }
        KeysCommand::Seed(args) => {
            let file = Zeroizing::new(read(&args.file)?);
            let text = std::str::from_utf8(&file).unwrap_or_default();
            let seed = parse_seed(text)
                .with_context(|| format!("cannot import {}", args.file.display()))?;
            let command = Command::AddSeed { seed_id: args.id, seed };
            print(execute(&args.place, command)?, args.json)
        }
        KeysCommand::List(args) => list(&args),
        KeysCommand::RotateMaster(args) => {
            print(execute(&args.place, Command::RotateMaster)?, args.json)
        }
        KeysCommand::Accept(args) => pins::accept(args),
        KeysCommand::Api(ApiCommand::Create { place, name, scopes, json }) => {
            let scopes: BTreeSet<_> = scopes.into_iter().collect();
            print(execute(&place, Command::CreateApiKey { name, scopes })?, json)
        }
        KeysCommand::Api(ApiCommand::List { place, json }) => {
            print(execute(&place, Command::ListApiKeys)?, json)
        }
        KeysCommand::Api(ApiCommand::Revoke { place, key_id }) => {
            print(execute(&place, Command::RevokeApiKey { key_id })?, false)
        }
    }
}

/// Reads the id of a seed.
fn seed_id(text: &str) -> Result<String, String> {
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
    };
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err("a seed's id is 1 to 64 of a-z, 0-9, dot, hyphen, underscore".to_owned())
}

/// Prints all keys, page by page.
fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    const ROWS: usize = 1_000;
    let mut next = Some(0);
    if !args.json {
        println!("{:<13}{:<38}{:<8}{:<18}REGISTERED", "KIND", "ID", "TYPE", "CHECK VALUE");
    }
    while let Some(from) = next {
        let page = execute(&args.place, Command::ListKeys { from, limit: ROWS })?;
        let Outcome::KeyRows { rows, next: after } = page else {
            anyhow::bail!("the serving process is of another version");
        };
        for row in rows {
            if args.json {
                println!("{}", serde_json::to_string(&row)?);
                continue;
            }
            let key_type = row.key_type.map_or("-", KeyType::name);
            println!(
                "{:<13}{:<38}{:<8}{:<18}{}",
                row.kind, row.id, key_type, row.check_value, row.registered_at
            );
        }
        next = after;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(outcome: Outcome, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print_json(&outcome)?;
        return Ok(ExitCode::SUCCESS);
    }
    match outcome {
        Outcome::Keys(registered) => println!(
            "{} content keys registered, {} were known already",
            registered.added, registered.known
        ),
        Outcome::Seed(true) => println!("the key seed is registered"),
        Outcome::Seed(false) => println!("this key seed was registered already"),
        // Printed by the commands that ask for them.
        Outcome::KeyRows { .. }
        | Outcome::Policy(_)
        | Outcome::Policies(_)
        | Outcome::PolicySuperseded { .. }
        | Outcome::Decision(_)
        | Outcome::Support(_)
        | Outcome::SupportRefused(_)
        | Outcome::Noted => {}
        Outcome::MasterRotated => println!(
            "there is a new master key; back it up, and keep the old one for old backups of the data"
        ),
        Outcome::ApiKey { key_id, key } => {
            println!("API key {key_id}, shown this once:\n{key}");
        }
        Outcome::ApiKeys(rows) => print_api_keys(&rows),
        Outcome::Revoked(true) => println!("revoked"),
        Outcome::Revoked(false) => println!("it was revoked already"),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_api_keys(rows: &[ApiKeyRow]) {
    println!("{:<18}{:<24}{:<26}{:<26}SCOPES", "ID", "NAME", "CREATED", "REVOKED");
    for row in rows {
        println!(
            "{:<18}{:<24}{:<26}{:<26}{}",
            row.key_id,
            row.name,
            row.created_at,
            row.revoked_at.as_deref().unwrap_or("-"),
            row.scopes.join(" "),
        );
    }
}
