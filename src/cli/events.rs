//! `events`: the ledger's events.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{Place, open, runtime};
use crate::projections::History;
use crate::projections::history::EventView;

/// Events read in one step.
const READ_EVENTS: usize = 1000;
/// How often a followed ledger is asked for more.
const POLL: Duration = Duration::from_millis(200);

/// Show the ledger's events, oldest first; also while serving
#[derive(Debug, Args)]
pub struct EventsArgs {
    #[command(flatten)]
    place: Place,
    /// Sequence of the first event to show
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    from: u64,
    /// Go on with new events as they come, until interrupted
    #[arg(long)]
    follow: bool,
    /// Print each event as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Shows events.
pub fn run(args: EventsArgs) -> anyhow::Result<ExitCode> {
    let config = args.place.config(Vec::new())?;
    let (runtime, mut scratch) = (runtime()?, None);
    let ledger = runtime.block_on(open::for_reading(&config, config.data()?, &mut scratch))?;
    let history = History::new(Arc::new(ledger));
    match runtime.block_on(show(&history, &args)) {
        // The reader of a pipe went away; that is its right.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        shown => shown.map(|()| ExitCode::SUCCESS),
    }
}

async fn show(history: &History, args: &EventsArgs) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let mut next = args.from;
    loop {
        let (events, after) = history.all(next, READ_EVENTS).await?;
        next = after;
        for event in &events {
            if args.json {
                serde_json::to_writer(&mut out, event).map_err(io::Error::from)?;
                writeln!(out)?;
            } else {
                line(&mut out, event)?;
            }
        }
        out.flush()?;
        if events.len() < READ_EVENTS {
            if !args.follow {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn line(out: &mut impl Write, event: &EventView) -> io::Result<()> {
    let EventView { sequence, stream, revision, kind, data, .. } = event;
    writeln!(out, "{sequence:>8}  {stream}@{revision}  {kind}  {data}")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(broken)
}
