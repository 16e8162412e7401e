//! `demo`: the main job, from end to end, against the real service.

mod api;
mod screen;
mod story;
mod titles;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::service::Service;
use super::{one_line, path_flag};
use crate::clock::Clock;
use crate::config::{Config, Flag, Sources};
use screen::Screen;
use story::{Stage, Story};

/// See it work: devices acquire licenses until the quota refuses, delete one, and acquire again
///
/// Starts the service on a free loopback port, makes a public key infrastructure of its own, and
/// simulates devices that speak the license protocol over HTTP. Exits 0 if everything went as
/// promised, 1 if a step did not, 2 if the demo could not be set up.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Keep the ledger in this directory, which must not exist or be empty [default: a temporary
    /// directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Persistent licenses that a device may hold
    #[arg(long, value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=500))]
    quota: u32,
    /// Devices; one of them is the attacker
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(2..=50))]
    devices: u32,
    /// Keep the service running at the end, until Ctrl-C; at a terminal it stays in any case
    #[arg(long)]
    stay: bool,
}

/// Runs the demo.
pub fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let place = Data::choose(args.data.as_deref())?;
    let config = config(place.dir(), args.quota)?;
    let service = Service::start(&config, Clock::System)?;
    let Some(api_key) = &service.admin_key else {
        anyhow::bail!("the ledger in {} is not empty; name another --data", place.dir().display());
    };
    let stage = Stage {
        url: service.url(),
        api_key: api_key.expose().to_owned().into(),
        data: place.dir().to_owned(),
        pki: service.pki.clone(),
        quota: args.quota,
    };
    println!("license-ledger runs on {}", stage.url);
    println!("each device may hold {} persistent licenses\n", args.quota);
    let mut screen = Screen::new(story::STEPS);
    let told = Story::begin(&stage, args.devices)?.tell(&mut screen);
    screen.finish();
    if let Err(error) = told {
        eprintln!("\nnot as promised, in step {}: {}", screen.steps_begun(), one_line(&error));
        service.stop()?;
        return Ok(ExitCode::FAILURE);
    }
    let stays = args.stay || std::io::stdout().is_terminal();
    explain(&stage, &place, stays);
    if stays {
        service.running.stop_on_signals()?;
        service.wait()?;
    } else {
        service.stop()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the ledger of the demo is.
enum Data {
    Temporary { root: tempfile::TempDir, dir: PathBuf },
    Kept(PathBuf),
}

impl Data {
    fn choose(kept: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(dir) = kept {
            let in_the_way = match std::fs::read_dir(dir) {
                Ok(mut entries) => entries.next().is_some(),
                Err(error) => error.kind() != std::io::ErrorKind::NotFound,
            };
            anyhow::ensure!(
                !in_the_way,
                "{} is not an empty directory; name another with --data",
                dir.display()
            );
            return Ok(Self::Kept(dir.to_owned()));
        }
        let root = tempfile::Builder::new()
            .prefix("license-ledger-demo-")
            .tempdir()
            .context("cannot make a temporary directory; name one with --data")?;
        let dir = root.path().join("data");
        Ok(Self::Temporary { root, dir })
    }

    fn dir(&self) -> &Path {
        match self {
            Self::Temporary { dir, .. } | Self::Kept(dir) => dir,
        }
    }
}

/// The settings of the demo, whatever the environment says.
fn config(data: &Path, quota: u32) -> anyhow::Result<Config> {
    let flag = |key, value: String| Flag { key, flag: "demo", value };
    // The devices of the demo ask faster than people do.
    let calls = "1000000".to_owned();
    let flags = vec![
        path_flag("data", "--data", data),
        flag("listen", "127.0.0.1:0".to_owned()),
        flag("authorize", "open".to_owned()),
        flag("quota.device_limit", quota.to_string()),
        flag("rate.per_identity_per_minute", calls.clone()),
        flag("rate.burst", calls),
    ];
    Ok(Sources { file: None, env: Vec::new(), flags }.load()?)
}

/// How to go on from here.
fn explain(stage: &Stage, data: &Data, stays: bool) {
    println!("\nexplore it");
    println!("  address   {}", stage.url);
    println!("  API key   {}", *stage.api_key);
    println!("  PKI       {}", stage.pki.display());
    println!("  curl -H 'Authorization: Bearer {}' {}/v1/devices", *stage.api_key, stage.url);
    if stays {
        println!("the service stays up; Ctrl-C ends it");
    }
    match data {
        Data::Kept(dir) => {
            let when = if stays { "later" } else { "the service has ended;" };
            println!("{when} start it again on the same ledger with");
            println!("  license-ledger serve --data {}", dir.display());
        }
        Data::Temporary { root, .. } if stays => {
            println!("then {} is removed", root.path().display());
        }
        Data::Temporary { .. } => println!(
            "the service has ended and its ledger is removed: `demo --stay` keeps it up, `demo \
             --data DIR` keeps the ledger"
        ),
    }
}
