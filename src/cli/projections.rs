//! `projections`: the projections that a KurrentDB cluster runs for its own users.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Place, open, print_json, runtime};
use crate::ledger::kurrent::{Definition, Projections, Standing};

/// Counts that a KurrentDB cluster keeps of the ledger for its own users
///
/// They are scripts that the cluster runs: live licenses of each device, holders of each KID, usage of
/// each account, refusals of each day. The ledger never asks them.
#[derive(Debug, Subcommand)]
pub enum ProjectionsCommand {
    /// Install the projections in the cluster, or bring them up to date
    ///
    /// What is there already is left alone, so that it may be done again at any time.
    Install(InstallArgs),
    /// Show whether the projections are installed, and how they do
    ///
    /// The exit code is 1 unless all of them run as installed by this version.
    Status(StatusArgs),
}

/// Arguments of `projections install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    place: Place,
}

/// Arguments of `projections status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A projection that comes with the program. A version's script never changes what it counts: that
/// is another version, under another name, beside it.
struct Shipped {
    name: &'static str,
    query: &'static str,
}

const SHIPPED: [Shipped; 4] = [
    Shipped {
        name: "license-ledger-live-licenses-per-device-v1",
        query: include_str!("../../projections/live-licenses-per-device-v1.js"),
    },
    Shipped {
        name: "license-ledger-holders-per-kid-v1",
        query: include_str!("../../projections/holders-per-kid-v1.js"),
    },
    Shipped {
        name: "license-ledger-usage-per-account-v1",
        query: include_str!("../../projections/usage-per-account-v1.js"),
    },
    Shipped {
        name: "license-ledger-refusals-per-day-v1",
        query: include_str!("../../projections/refusals-per-day-v1.js"),
    },
];

/// Runs `projections`.
pub fn run(command: ProjectionsCommand) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    match command {
        ProjectionsCommand::Install(args) => runtime.block_on(install(&args.place)),
        ProjectionsCommand::Status(args) => runtime.block_on(status(&args.place, args.json)),
    }
}

async fn connect(place: &Place) -> anyhow::Result<Projections> {
    let config = place.config(Vec::new())?;
    let cluster = open::cluster(&config)?.ok_or_else(|| {
        anyhow::anyhow!("there is no cluster to ask; name it with --ledger kurrentdb://HOST:PORT")
    })?;
    Ok(Projections::connect(cluster).await?)
}

async fn install(place: &Place) -> anyhow::Result<ExitCode> {
    let projections = connect(place).await?;
    for Shipped { name, query } in &SHIPPED {
        let done = match projections.definition(name).await? {
            None => {
                projections.create(name, query).await?;
                "created"
            }
            Some(Definition { query: theirs, .. }) if theirs != *query => {
                projections.update(name, query).await?;
                "updated"
            }
            Some(Definition { enabled: false, .. }) => {
                projections.enable(name).await?;
                "enabled"
            }
            Some(_) => "unchanged",
        };
        println!("{done:<9}  {name}");
    }
    Ok(ExitCode::SUCCESS)
}

/// A projection as it is shown.
#[derive(Serialize)]
struct Shown {
    name: &'static str,
    /// `current`; `differs` from what comes with this program; `missing`.
    script: &'static str,
    /// In the cluster's words; `null` if it is missing.
    status: Option<String>,
    /// Why it has this status, if the cluster says so.
    reason: Option<String>,
    /// How much of the log it has been through.
    progress_percent: Option<f32>,
    position: Option<String>,
    /// Since the leader last started it.
    events_handled: Option<i64>,
}

impl Shown {
    async fn of(projections: &Projections, shipped: &Shipped) -> anyhow::Result<Self> {
        let Shipped { name, query } = *shipped;
        let script = match projections.definition(name).await? {
            None => "missing",
            Some(definition) if definition.query == query => "current",
            Some(_) => "differs",
        };
        let standing = projections.standing(name).await?;
        let text = |of: fn(&Standing) -> &String| {
            standing.as_ref().map(of).filter(|text| !text.is_empty()).cloned()
        };
        Ok(Self {
            name,
            script,
            status: text(|standing| &standing.status),
            reason: text(|standing| &standing.reason),
            progress_percent: standing.as_ref().map(|standing| standing.progress),
            position: text(|standing| &standing.position),
            events_handled: standing.as_ref().map(|standing| standing.handled),
        })
    }

    fn is_well(&self) -> bool {
        let runs = |status: &String| status.starts_with("Running");
        self.script == "current" && self.status.as_ref().is_some_and(runs)
    }
}

async fn status(place: &Place, json: bool) -> anyhow::Result<ExitCode> {
    let projections = connect(place).await?;
    let mut all = Vec::new();
    for shipped in &SHIPPED {
        all.push(Shown::of(&projections, shipped).await?);
    }
    if json {
        print_json(&all)?;
    } else {
        println!("{:<44}  {:<8}  {:<10}  {:>8}", "NAME", "SCRIPT", "STATUS", "PROGRESS");
        all.iter().for_each(line);
    }
    Ok(if all.iter().all(Shown::is_well) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn line(shown: &Shown) {
    let Shown { name, script, status, reason, progress_percent, .. } = shown;
    let status = status.as_deref().unwrap_or("-");
    let progress = progress_percent.map_or("-".to_owned(), |percent| format!("{percent:.1} %"));
    println!("{name:<44}  {script:<8}  {status:<10}  {progress:>8}");
    if let Some(reason) = reason {
        println!("  {reason}");
    }
}
