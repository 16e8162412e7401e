//! `policy`: the quota policy and its versions.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::admin::{Command, Outcome, execute};
use super::{Place, print_json, read};
use crate::domain::Reason;
use crate::domain::quota::QuotaPolicy;

/// Show and publish the quota policy; also while serving
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show the policy in force
    Show(ShowArgs),
    /// Publish a policy from a file of JSON, in place of the one in force
    Set(SetArgs),
    /// List all versions that were ever in force
    Versions(ShowArgs),
}

/// Arguments of `policy show` and `policy versions`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON, with who published it and why
    #[arg(long)]
    json: bool,
}

/// Arguments of `policy set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    #[command(flatten)]
    place: Place,
    /// The file, or - for standard input: what `policy show` prints, changed
    file: PathBuf,
    /// Why, in 1 to 200 characters; it stays in the ledger for good, so name no person
    #[arg(long, value_name = "TEXT")]
    reason: Reason,
    /// Publish only if this version is in force
    #[arg(long, value_name = "VERSION")]
    after: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs a `policy` command. Exit code 1 if there is no policy, or another one than `--after` says.
pub fn run(command: PolicyCommand) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::Show(args) => show(&args),
        PolicyCommand::Set(args) => set(args),
        PolicyCommand::Versions(args) => versions(&args),
    }
}

fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let Outcome::Policy(version) = execute(&args.place, Command::ShowPolicy)? else {
        anyhow::bail!("the serving process is of another version");
    };
    let Some(version) = version else {
        eprintln!(
            "error: the ledger has no quota policy yet; `license-ledger serve` publishes one"
        );
        return Ok(ExitCode::from(1));
    };
    if !args.json {
        eprintln!("version {}: {}", member(&version, "version"), told(&version));
        print_json(member(&version, "policy"))?;
        return Ok(ExitCode::SUCCESS);
    }
    print_json(&version)?;
    Ok(ExitCode::SUCCESS)
}

fn set(args: SetArgs) -> anyhow::Result<ExitCode> {
    let policy = parse(&read(&args.file)?)
        .with_context(|| format!("{} is no quota policy", args.file.display()))?;
    let SetArgs { place, reason, after, json, .. } = args;
    match execute(&place, Command::PublishPolicy { policy, reason, after })? {
        Outcome::Policy(Some(version)) if json => print_json(&version)?,
        Outcome::Policy(Some(version)) => {
            println!("version {} of the quota policy is in force", member(&version, "version"));
        }
        Outcome::PolicySuperseded { in_force } => {
            eprintln!("error: version {in_force} of the quota policy is in force by now");
            return Ok(ExitCode::from(1));
        }
        _ => anyhow::bail!("the serving process is of another version"),
    }
    Ok(ExitCode::SUCCESS)
}

fn versions(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    const VERSIONS: usize = 100;
    let mut from = 0;
    if !args.json {
        println!("{:<9}{:<26}{:<18}REASON", "VERSION", "PUBLISHED", "ACTOR");
    }
    loop {
        let page = execute(&args.place, Command::ListPolicies { from, limit: VERSIONS })?;
        let Outcome::Policies(versions) = page else {
            anyhow::bail!("the serving process is of another version");
        };
        for version in &versions {
            if args.json {
                println!("{version}");
            } else {
                let text = |member: &str| version[member].as_str().unwrap_or_default();
                let (at, actor) = (text("published_at"), text("actor"));
                let number = member(version, "version").to_string();
                println!("{number:<9}{at:<26}{actor:<18}{}", text("reason"));
            }
        }
        if versions.len() < VERSIONS {
            return Ok(ExitCode::SUCCESS);
        }
        from += VERSIONS as u64;
    }
}

/// When, by whom and why a version was published.
fn told(version: &Value) -> String {
    let text = |member: &str| version[member].as_str().unwrap_or_default();
    format!("{} by {}: {}", text("published_at"), text("actor"), text("reason"))
}

/// Reads a policy; what is wrong with it is said with the path of the member.
fn parse(json: &[u8]) -> anyhow::Result<QuotaPolicy> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let policy = serde_path_to_error::deserialize(&mut reader)?;
    reader.end()?;
    Ok(policy)
}

fn member<'a>(version: &'a Value, name: &str) -> &'a Value {
    version.get(name).unwrap_or(&Value::Null)
}
