//! Whether this process may work on a ledger: with the keys that it has, and where it begins one.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::admin::{ACTOR, Secrets};
use super::service::{load_pki, pki_dir};
use super::{Place, open, path_flag, print_json, runtime};
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::{Digest, Reason};
use crate::ledger::{Ledger, StreamName};
use crate::licensing::{BEGINNINGS, PinnedKey, Pins, compare_keys};
use crate::playready::pki::Pki;

/// Arguments of `keys accept`.
#[derive(Debug, Args)]
pub struct AcceptArgs {
    #[command(flatten)]
    place: Place,
    /// The key that has changed: root, wmrm or server-sign of the PKI; api-key, after which every API
    /// key has to be made anew; reference-key, after which every device and account looks new; repeat
    /// for more
    #[arg(long = "changed", required = true, value_name = "KEY")]
    changed: Vec<PinnedKey>,
    /// Why, for the event that says so
    #[arg(long, value_name = "TEXT")]
    reason: Reason,
    /// Folder of the public key infrastructure [default: pki in the secrets directory]
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `keys accept`.
pub(super) fn accept(args: AcceptArgs) -> anyhow::Result<ExitCode> {
    let AcceptArgs { place, changed, reason, pki, json } = args;
    let flags = pki.as_deref().map(|pki| path_flag("pki", "--pki", pki));
    let config = place.config(flags.into_iter().collect())?;
    let data = config.data()?;
    let changed: BTreeSet<_> = changed.into_iter().collect();
    runtime()?.block_on(async {
        let ledger = match open::existing_ledger(&config, data).await {
            Err(error) if open::is_in_use(&error) => {
                let remedy = "the service works with the keys that it read at its start; stop it";
                return Err(error.context(remedy));
            }
            opened => opened?,
        };
        let secrets = Secrets::open(&config.secrets()?, false)?;
        let pki = load_pki(&pki_dir(&config, false)?, &Clock::System)?;
        let accepted = pins(&secrets, &pki)
            .accept(&ledger, &changed, (ACTOR, reason.as_str()), Clock::System.now().0)
            .await;
        ledger.close().await;
        Ok(accepted?)
    })?;
    let words: Vec<_> = changed.iter().map(|key| key.word()).collect();
    if json {
        print_json(&serde_json::json!({ "accepted": words }))?;
    } else {
        println!("accepted: {}; start every process with these keys", words.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// The fingerprints of all keys that are shared.
pub(super) fn pins(secrets: &Secrets, pki: &Pki) -> Pins {
    let [(_, reference_key), (_, api_key)] = secrets.fingerprints();
    Pins {
        reference_key,
        api_key,
        root: Digest::of(pki.root.xy()),
        wmrm: Digest::of(pki.wmrm.public().xy()),
        server_sign: Digest::of(pki.server_sign.public().xy()),
    }
}

/// Makes sure that this process has the keys of the ledger, which takes them if it has none yet.
pub(super) async fn settle(
    config: &Config,
    ledger: &Ledger,
    pins: &Pins,
    clock: &Clock,
) -> anyhow::Result<()> {
    refuse_neighbors(config, ledger).await?;
    Ok(pins.settle(ledger, clock.now().0).await?)
}

/// The same for those that need no PKI.
pub(super) async fn compare(
    config: &Config,
    ledger: &Ledger,
    secrets: &Secrets,
) -> anyhow::Result<()> {
    refuse_neighbors(config, ledger).await?;
    Ok(compare_keys(ledger, &secrets.fingerprints()).await?)
}

/// A ledger is not begun under one prefix of stream names where there is one under another: that is
/// where the events are, unless somebody says otherwise.
async fn refuse_neighbors(config: &Config, ledger: &Ledger) -> anyhow::Result<()> {
    for (stream, _) in BEGINNINGS {
        if !ledger.is_shared() || ledger.head(&StreamName::new(stream)?).await?.is_some() {
            return Ok(());
        }
    }
    let others =
        ledger.neighbors(&BEGINNINGS).await.context("other ledgers cannot be looked for")?;
    let ours = config.kurrentdb.stream_prefix.as_str();
    let Some(first) = others.first() else { return Ok(()) };
    let mixes = |other: &&String| other.starts_with(ours) || ours.starts_with(other.as_str());
    if let Some(other) = others.iter().find(mixes) {
        anyhow::bail!(
            "kurrentdb.stream_prefix is {ours:?}, and the cluster holds a ledger under {other:?} \
             already, whose streams would be taken for those of this one; set it to {other:?}, or to \
             something that neither begins with the other"
        );
    }
    anyhow::ensure!(
        config.kurrentdb.new_ledger,
        "kurrentdb.stream_prefix is {ours:?}, under which the cluster holds no ledger, but there is \
         one under {first:?}; set it to that, or begin another ledger beside it with --new-ledger"
    );
    Ok(())
}
