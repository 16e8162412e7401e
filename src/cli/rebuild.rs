//! `rebuild`: what is derived from the ledger, made anew.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use super::{Place, open, print_json, progress, runtime};
use crate::ledger::state::StateStore;
use crate::projections::Inventory;

/// Make the inventory and the state for deciding anew from the events
///
/// They are derived: nothing is lost. Stop the service first.
#[derive(Debug, Args)]
pub struct RebuildArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Rebuilds.
pub fn run(args: RebuildArgs) -> anyhow::Result<ExitCode> {
    let config = args.place.config(Vec::new())?;
    let data = config.data()?;
    let started = Instant::now();
    let events = runtime()?.block_on(async {
        let ledger = match open::existing_ledger(&config, data).await {
            Err(error) if open::is_in_use(&error) => {
                let remedy = "the service must be stopped while its read models are made anew";
                return Err(error.context(remedy));
            }
            opened => Arc::new(opened?),
        };
        Inventory::remove(data)?;
        StateStore::remove(data)?;
        let inventory = Inventory::open(data, Arc::clone(&ledger)).await?;
        let state = StateStore::open(data, Arc::clone(&ledger)).await?;
        let events = ledger.last_sequence().await?.map_or(0, |last| last + 1);
        let bar = progress::bar(events);
        loop {
            let (inventory, state) = (inventory.progress()?, state.progress());
            if let Some(reason) = inventory.failed.or(state.failed) {
                anyhow::bail!("the events cannot be applied: {reason}");
            }
            let done = inventory.next_sequence.min(state.next_sequence);
            bar.set_position(done);
            if done >= events {
                bar.finish_and_clear();
                return Ok(events);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })?;
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        print_json(&serde_json::json!({ "events": events, "seconds": seconds }))?;
    } else {
        println!("rebuilt from {events} events in {seconds:.2} s");
    }
    Ok(ExitCode::SUCCESS)
}
