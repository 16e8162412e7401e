//! Webhooks: the service's own servers are told what happened.
//!
//! A message is a POST of JSON in the form of [Standard Webhooks](https://www.standardwebhooks.com),
//! signed as [`signing`](crate::outbound::signing) says:
//!
//! ```json
//! {"type": "license.deleted", "timestamp": "2026-03-31T12:00:00.000Z", "data": {
//!    "event_id": "…", "event_type": "license-deleted.v1", "sequence": 41, "position": "42",
//!    "stream": "device-beb4pw6chv22zwww44tn5zxsb4", "device": "beb4pw6chv22zwww44tn5zxsb4",
//!    "account": null, "event": {"license_id": "…", "key_id": "…", "grade": "B", "releases": true, …}}}
//! ```
//!
//! `event` is the event's body as the ledger stores it; `null` if that would make the message larger
//! than 20 kB. `sequence` orders messages, and `position`, the place behind it, is what reads take as
//! `min_position` and what a replay may begin at. `device` and `account` say whose stream the event is
//! in; the account that a license counts for is in the event. The id of a message, `webhook-id`, is the same for
//! every endpoint, attempt and replay: that of the event, or one that follows from it.
//!
//! | type | when |
//! |---|---|
//! | `license.acquired` | a license was granted |
//! | `license.refused` | a rule of the quota policy refused an acquisition, or a decision that was to be committed; of a device, KID and rule once an hour |
//! | `license.stored`, `license.store_failed` | the device acknowledged what became of it |
//! | `license.deleted` | the device proved that it deleted it |
//! | `license.deletion_unmatched` | a genuine deletion that freed nothing |
//! | `license.voided` | a rule of the quota policy ended it |
//! | `quota.threshold` | what a rule counts of a device, an account, or a title of an account grew to a share of its limit, by an event of that device or account; rules of every kind are told, and of several that reach the same share with one event the one with the least room. Instead of `event`: `scope`, `rule`, `title`, `window_seconds`, `limit`, `threshold_percent`, `live` (what the rule counts), `quota_policy_revision` |
//!
//! # What is promised
//!
//! - **At least once.** A message counts as delivered when the answer has a status from 200 to 299;
//!   what was not recorded as delivered when the process ended is sent again.
//! - **In order, as far as failures allow.** First attempts go in the order of the ledger, one after
//!   the other, or as many at once as `in_flight` says. A message that fails is tried again later, 10
//!   attempts within about three days, and holds up none of those behind it. After the last attempt
//!   it is a dead letter, kept until it is sent again.
//! - **Nothing piles up.** The ledger is the queue. When 10 attempts in a row have failed, the
//!   endpoint is down: one new message a minute tries it, the rest wait in the ledger.
//! - **410 disables** an endpoint until an operator enables it; it then goes on from where it stopped.
//! - **Only public addresses** are connected to, checked after the name was looked up, unless the
//!   endpoint allows others; over `https`, unless it allows `http`. Redirects are failures.
//!
//! What was delivered is in `webhooks.db` in the data directory. An endpoint without a record there
//! begins with what happens next, or where the configuration says; no history is sent by mistake.

mod crossing;
mod delivery;
mod desk;
mod message;
mod metrics;
mod schedule;
mod store;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::clock::Clock;
use crate::ledger::tail::{Apply, Fact, Tail};
use crate::ledger::{Ledger, ReadError};
use crate::outbound::Outbound;
use crate::outbound::signing::SigningKey;
use delivery::Courier;
use store::Store;

pub use desk::{Desk, DeskError, View};
pub use message::TYPES;
pub use metrics::Metrics;
pub use store::{DeadLetter, Replaying, State, StoreError};

/// How long events gather before they are told.
const PAUSE: Duration = Duration::from_millis(250);

/// A server that is told.
pub struct Endpoint {
    /// What operators see of it.
    pub card: Card,
    /// Where it is.
    pub outbound: Outbound,
    /// What messages are signed with, each signature beside the others.
    pub keys: Vec<SigningKey>,
    /// Time for one attempt.
    pub timeout: Duration,
    /// Messages on their way at once.
    pub in_flight: usize,
    /// The position it begins at if it has no record yet; the end of the ledger if there is none.
    pub from: Option<u64>,
}

/// What operators see of an endpoint's configuration.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = WebhookEndpoint)]
pub struct Card {
    /// Its id.
    #[schema(example = "audit")]
    pub id: String,
    /// Its URL up to the query, which may hold a secret.
    #[schema(example = "https://hooks.example/ledger")]
    pub url: String,
    /// The types of messages it is told, of [`TYPES`]. `quota.threshold` is told of rules of every
    /// kind: on live slots, on issued licenses and on added devices, with conditions and of titles.
    #[schema(value_type = Vec<String>, example = json!(["license.deleted", "quota.threshold"]))]
    pub types: BTreeSet<&'static str>,
    /// The public keys by which messages can be verified, where there are such.
    pub public_keys: Vec<String>,
}

/// Webhooks cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The file of what was sent cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger cannot be read.
    #[error("the ledger cannot be read")]
    Ledger(#[from] ReadError),
    /// A thread could not be started.
    #[error("the threads of webhooks cannot be started")]
    Thread(#[from] std::io::Error),
}

/// What all endpoints share.
#[derive(Clone)]
struct Office {
    ledger: Arc<Ledger>,
    store: Arc<Store>,
    clock: Clock,
    metrics: Metrics,
    /// Sequence of the next event that can be told: all before are folded.
    folded: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
}

/// Webhooks on their way. Dropping it stops that; what is under way gets a moment to be recorded.
pub struct Webhooks {
    desk: Arc<Desk>,
    metrics: Metrics,
    failed: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    _tail: Tail,
    /// Keeps the receivers from seeing an end when the tail has failed.
    _folded: Arc<watch::Sender<u64>>,
}

impl Webhooks {
    /// Tells `endpoints` what happens in `ledger`, on threads of its own. `percents` are the shares of
    /// a limit that are told when they are reached.
    pub async fn start(
        dir: &Path,
        ledger: Arc<Ledger>,
        clock: Clock,
        endpoints: Vec<Endpoint>,
        percents: Vec<u8>,
    ) -> Result<Self, NotifyError> {
        let (store, next_sequence) = Store::open(dir, &ledger).await?;
        let store = Arc::new(store);
        let end = ledger.last_sequence().await?.map_or(0, |last| last + 1);
        for endpoint in &endpoints {
            begin(&store, endpoint, end)?;
        }
        let desk = Desk::new(Arc::clone(&store), clock.clone(), &endpoints);
        let (sender, folded) = watch::channel(next_sequence);
        let sender = Arc::new(sender);
        let failed = Arc::default();
        let fold = Fold {
            store: Arc::clone(&store),
            percents,
            folded: Arc::clone(&sender),
            failed: Arc::clone(&failed),
        };
        let tail = Tail::spawn("webhooks", Arc::clone(&ledger), next_sequence, PAUSE, fold).await?;
        let (stop, stopping) = watch::channel(false);
        let metrics = Metrics::default();
        let office = Office { ledger, store, clock, metrics: metrics.clone(), folded, stopping };
        let couriers: Vec<_> =
            endpoints.into_iter().map(|endpoint| Courier::new(office.clone(), endpoint)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread = std::thread::Builder::new().name("couriers".to_owned()).spawn(move || {
            runtime
                .block_on(futures_util::future::join_all(couriers.into_iter().map(Courier::run)));
            // An attempt that is still under way is not waited for: it is made again.
            runtime.shutdown_background();
        })?;
        let desk = Arc::new(desk);
        let thread = Some(thread);
        Ok(Self { desk, metrics, failed, stop, thread, _tail: tail, _folded: sender })
    }

    /// Whether following the ledger has failed, so that nobody is told anything new until the next
    /// start. Endpoints that fail are no failure of ours.
    pub fn failed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.failed)
    }

    /// What operators may ask and do.
    pub fn desk(&self) -> Arc<Desk> {
        Arc::clone(&self.desk)
    }

    /// Counters and gauges.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Makes sure that there is a record of the endpoint.
fn begin(store: &Store, endpoint: &Endpoint, end: u64) -> Result<(), StoreError> {
    let id = &endpoint.card.id;
    let from = endpoint.from.unwrap_or(end).min(end);
    if store.configure(id, from)? && from > 0 {
        tracing::warn!(
            endpoint = %id,
            from,
            "webhook endpoint {id} has no record here: it is told what happened from position {from} \
             on; a replay sends what was before"
        );
    }
    Ok(())
}

/// Follows the ledger: what is folded can be told.
struct Fold {
    store: Arc<Store>,
    percents: Vec<u8>,
    folded: Arc<watch::Sender<u64>>,
    failed: Arc<AtomicBool>,
}

impl Apply for Fold {
    fn apply(
        &mut self,
        batch: &[Arc<Fact>],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let folded = self.store.fold(batch, &self.percents);
        self.failed.store(folded.is_err(), Ordering::Relaxed);
        folded?;
        if let Some(last) = batch.last() {
            self.folded.send_replace(last.recorded.sequence + 1);
        }
        Ok(())
    }
}
