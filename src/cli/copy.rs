//! `copy`: the ledger, from one place to another.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use indicatif::ProgressBar;

use super::{Place, open, print_json, progress, runtime};
use crate::config::Config;
use crate::ledger::copy::{Copied, Progress, Stage, copy};
use crate::ledger::embedded::Options;
use crate::ledger::kurrent::Address;
use crate::ledger::{Embedded, Kurrent, Ledger};

/// How often a line tells of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Copy a ledger to a cluster, from one, or from one data directory to another
///
/// Every event keeps its stream, revision, id, type, data, metadata and place in the log; at the end
/// both sides are read back and their digests compared. The target must be empty or hold the
/// beginning of the source, as an interrupted copy leaves it: then the copy goes on from there. The
/// source may be served meanwhile, and what it gets is copied by the next run; nothing else may write
/// to the target. Exit code 1: the target is refused, since it holds something else.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Data directory, or address of a KurrentDB cluster (kurrentdb://HOST:PORT,…), that holds the
    /// ledger
    #[arg(long, value_name = "DIR|URL")]
    from: String,
    /// Data directory, or address of a cluster, that the ledger is copied to
    #[arg(long, value_name = "DIR|URL")]
    to: String,
    /// File with name:password for --from [default: kurrentdb.credentials_file]
    #[arg(long, value_name = "FILE")]
    from_credentials: Option<PathBuf>,
    /// File with name:password for --to [default: kurrentdb.credentials_file]
    #[arg(long, value_name = "FILE")]
    to_credentials: Option<PathBuf>,
    /// What the ledger's streams begin with in the cluster --from [default: kurrentdb.stream_prefix]
    #[arg(long, value_name = "PREFIX")]
    from_stream_prefix: Option<String>,
    /// What the ledger's streams begin with in the cluster --to [default: kurrentdb.stream_prefix]
    #[arg(long, value_name = "PREFIX")]
    to_stream_prefix: Option<String>,
    /// Configuration file (TOML), for what it says of clusters
    #[arg(long, value_name = "FILE", env = "LICENSE_LEDGER_CONFIG")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Copies. Exit code 1 if the target holds something else.
pub fn run(args: CopyArgs) -> anyhow::Result<ExitCode> {
    let (source, target) = sides(&args)?;
    let started = Instant::now();
    let done = runtime()?.block_on(async {
        let source = source.open_source().await?;
        let target = target.open_target().await?;
        let mut display = Display::new();
        let done = copy(&source.ledger, &target.ledger, |progress| display.show(progress)).await;
        display.end();
        target.ledger.close().await;
        anyhow::Ok(done)
    })?;
    match done {
        Ok(copied) if args.json => {
            let Copied { events, copied, source, target } = copied;
            print_json(&serde_json::json!({
                "events": events,
                "copied": copied,
                "source_sha256": source,
                "target_sha256": target,
                "seconds": started.elapsed().as_secs_f64(),
            }))?;
        }
        Ok(copied) => print(&copied),
        Err(error) if error.is_refusal() => {
            eprintln!("error: {error}");
            return Ok(ExitCode::from(1));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(Copied { events, copied, target, .. }: &Copied) {
    match (copied, events - copied) {
        (0, _) => println!("the copy is complete: all {events} events were there"),
        (_, 0) => println!("copied {copied} events"),
        (_, there) => println!("copied {copied} events, after {there} that were there"),
    }
    println!("  sha256  {target}  the same on both sides");
}

/// Where one side is.
enum Where {
    Directory(PathBuf),
    /// The configuration with what the side says of its cluster.
    Cluster(Box<Config>),
}

/// A ledger, and what it needs while it is open.
struct Opened {
    ledger: Ledger,
    /// Where the places of a cluster's events are listed.
    _scratch: Option<tempfile::TempDir>,
}

fn sides(args: &CopyArgs) -> anyhow::Result<(Side, Side)> {
    let config = Place { config: args.config.clone(), ..Place::default() }.config(Vec::new())?;
    let side = |flag, at: &str, credentials: &Option<PathBuf>, prefix: &Option<String>| {
        if !Address::is_meant_by(at) {
            return Side { flag, place: Where::Directory(at.into()) };
        }
        let mut config = config.clone();
        config.ledger = Some(at.to_owned());
        if let Some(file) = credentials {
            config.kurrentdb.credentials_file = Some(file.clone());
        }
        if let Some(prefix) = prefix {
            config.kurrentdb.stream_prefix.clone_from(prefix);
        }
        Side { flag, place: Where::Cluster(Box::new(config)) }
    };
    let source = side("--from", &args.from, &args.from_credentials, &args.from_stream_prefix);
    let target = side("--to", &args.to, &args.to_credentials, &args.to_stream_prefix);
    if let (Where::Directory(from), Where::Directory(to)) = (&source.place, &target.place) {
        let same = from == to || is_same(from, to);
        anyhow::ensure!(!same, "--from and --to are the same directory; choose another target");
    }
    Ok((source, target))
}

fn is_same(from: &Path, to: &Path) -> bool {
    let both = from.canonicalize().ok().zip(to.canonicalize().ok());
    both.is_some_and(|(from, to)| from == to)
}

/// One side of a copy.
struct Side {
    flag: &'static str,
    place: Where,
}

impl Side {
    /// For reading, also beside a process that serves it.
    async fn open_source(&self) -> anyhow::Result<Opened> {
        match &self.place {
            Where::Directory(data) => {
                let ledger = Embedded::open_read_only(data).context(self.unusable())?;
                Ok(Opened { ledger: Ledger::Embedded(ledger), _scratch: None })
            }
            Where::Cluster(config) => self.open_cluster(config).await,
        }
    }

    /// For writing; made if there is none.
    async fn open_target(&self) -> anyhow::Result<Opened> {
        match &self.place {
            Where::Directory(data) => {
                let ledger = Embedded::open(data, Options::default()).context(self.unusable())?;
                Ok(Opened { ledger: Ledger::Embedded(ledger), _scratch: None })
            }
            Where::Cluster(config) => self.open_cluster(config).await,
        }
    }

    async fn open_cluster(&self, config: &Config) -> anyhow::Result<Opened> {
        let cluster = open::cluster(config).with_context(|| self.unusable())?;
        let cluster = cluster.with_context(|| self.unusable())?;
        let scratch = tempfile::tempdir()?;
        let ledger =
            Kurrent::open(scratch.path(), cluster).await.with_context(|| self.unusable())?;
        Ok(Opened { ledger: Ledger::Kurrent(ledger), _scratch: Some(scratch) })
    }

    fn unusable(&self) -> String {
        format!("{} cannot be used", self.flag)
    }
}

/// Shows how far the copy is: a bar in a terminal, else a line now and then.
struct Display {
    stage: Option<Stage>,
    bar: ProgressBar,
    is_terminal: bool,
    told: Instant,
}

impl Display {
    fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { stage: None, bar: ProgressBar::hidden(), is_terminal, told: Instant::now() }
    }

    fn show(&mut self, Progress { stage, done, of }: Progress) {
        if of == 0 {
            return;
        }
        if self.stage.replace(stage) != Some(stage) {
            self.bar.finish_and_clear();
            self.bar = progress::bar(of).with_message(doing(stage));
        }
        self.bar.set_position(done);
        if !self.is_terminal && (done == of || self.told.elapsed() >= LINE_EVERY) {
            self.told = Instant::now();
            eprintln!("{}{done} of {of} events", doing(stage));
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn doing(stage: Stage) -> &'static str {
    match stage {
        Stage::Comparing => "comparing ",
        Stage::Copying => "copying   ",
        Stage::Verifying => "verifying ",
    }
}
