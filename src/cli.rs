//! The command line: one file a subcommand.
//!
//! Exit codes: 0 done; 1 the answer is no (a refusal, an unknown device); 2 it could not be done;
//! 141 nobody reads its output any more.

pub mod admin;
pub mod allocator;
pub mod control;
pub mod copy;
pub mod demo;
pub mod device;
pub mod events;
pub mod explain;
pub mod inventory;
pub mod keys;
mod master_key;
mod open;
pub mod openapi;
mod pins;
mod pipe;
pub mod pki;
pub mod policy;
mod progress;
pub mod projections;
pub mod rebuild;
pub mod revocation;
pub mod serve;
pub mod service;
mod shared;
pub mod support;
pub mod voiding;
pub mod webhooks;

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Flag, Log, LogFormat, Sources};

/// An event-sourced license ledger: licenses, secure deletes, inventory and quotas
#[derive(Parser)]
#[command(name = "license-ledger", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Serve(serve::ServeArgs),
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    Inventory(inventory::InventoryArgs),
    Explain(explain::ExplainArgs),
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    #[command(subcommand)]
    Support(support::SupportCommand),
    Events(events::EventsArgs),
    Rebuild(rebuild::RebuildArgs),
    Copy(copy::CopyArgs),
    #[command(subcommand)]
    Projections(projections::ProjectionsCommand),
    #[command(subcommand)]
    Webhooks(webhooks::WebhooksCommand),
    #[command(subcommand)]
    Pki(pki::PkiCommand),
    #[command(subcommand)]
    Device(device::DeviceCommand),
    Openapi(openapi::OpenapiArgs),
}

/// Where the ledger is. Every setting can also stand in the configuration file or in the
/// environment (LICENSE_LEDGER_DATA, LICENSE_LEDGER_QUOTA_DEVICE_LIMIT, …); flags win over the
/// environment, which wins over the file.
#[derive(Clone, Debug, Default, Args)]
pub struct Place {
    /// Directory of the ledger and what is derived from it
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// KurrentDB cluster that keeps the ledger in place of the data directory, for several processes
    #[arg(long, value_name = "kurrentdb://HOST:PORT,…")]
    pub ledger: Option<String>,
    /// Directory of the key files [default: DATA-secrets, beside the data directory]
    #[arg(long, value_name = "DIR")]
    pub secrets: Option<PathBuf>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "LICENSE_LEDGER_CONFIG")]
    pub config: Option<PathBuf>,
}

impl Place {
    /// The configuration with these and more flags.
    pub fn config(&self, more: Vec<Flag>) -> anyhow::Result<Config> {
        let mut flags = more;
        let paths = [("data", "--data", &self.data), ("secrets", "--secrets", &self.secrets)];
        for (key, name, path) in paths {
            flags.extend(path.as_deref().map(|path| path_flag(key, name, path)));
        }
        let ledger = self.ledger.clone();
        flags.extend(ledger.map(|value| Flag { key: "ledger", flag: "--ledger", value }));
        Ok(Sources::of_process(self.config.clone(), flags).load()?)
    }
}

/// A flag whose value is a path.
pub(crate) fn path_flag(key: &'static str, flag: &'static str, path: &Path) -> Flag {
    Flag { key, flag, value: path.to_string_lossy().into_owned() }
}

/// Runs the program.
pub fn run() -> ExitCode {
    pipe::end_quietly_when_closed(run_command)
}

fn run_command() -> ExitCode {
    let cli = Cli::parse();
    if !matches!(cli.command, Command::Serve(_)) {
        log_to_stderr(&Log { level: "warn".to_owned(), ..Log::default() });
    }
    let done = match cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Keys(command) => keys::run(command),
        Command::Inventory(args) => inventory::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Policy(command) => policy::run(command),
        Command::Support(command) => support::run(command),
        Command::Events(args) => events::run(args),
        Command::Rebuild(args) => rebuild::run(args),
        Command::Copy(args) => copy::run(args),
        Command::Projections(command) => projections::run(command),
        Command::Webhooks(command) => webhooks::run(command),
        Command::Pki(command) => pki::run(command),
        Command::Device(command) => device::run(command),
        Command::Openapi(args) => openapi::run(args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {}", one_line(&error));
        ExitCode::from(2)
    })
}

/// An error and its causes; a cause that its error already says is left out.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Sends log lines to standard error. Standard output is for answers.
pub(crate) fn log_to_stderr(log: &Log) {
    let filter = tracing_subscriber::EnvFilter::try_new(format!("actix_server=warn,{}", log.level))
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Somebody who embeds the library may log already.
    let _ = match log.format {
        LogFormat::Text => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}

/// Prints a value as JSON on standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Reads the file that a person named, or standard input if that is `-`.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    let unreadable =
        || format!("cannot read {}; check the path and its permissions", path.display());
    bytes.with_context(unreadable)
}

/// A runtime for the little a command waits for.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}
