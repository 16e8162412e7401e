//! What operators do through other processes that serve the same ledger.
//!
//! Every decision reads what it needs at the heads of streams. API keys and content keys do not lie
//! there: they are in memory, and this keeps them as the ledger has them. Key files and PKI cannot be
//! followed: this notices when the ledger is given others.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::admin::record_of;
use crate::access::{ApiKeyId, Registry as ApiKeys};
use crate::clock::UnixMillis;
use crate::domain::Event;
use crate::domain::event::KeysPinned;
use crate::keys::Keys;
use crate::ledger::Ledger;
use crate::ledger::tail::{Apply, Fact, Tail};
use crate::licensing::{Pins, Registry};

/// What is kept in memory.
pub(super) struct Acts {
    pub(super) api_keys: Arc<ApiKeys>,
    pub(super) keys: Arc<Keys>,
    /// The keys that this process works with.
    pub(super) pins: Pins,
    /// Whether the ledger was given others meanwhile.
    pub(super) repinned: Arc<AtomicBool>,
}

impl Acts {
    fn compare(&self, pinned: &KeysPinned) {
        let others = self.pins.forbidden(pinned);
        self.repinned.store(!others.is_empty(), Ordering::Relaxed);
        for key in others {
            tracing::error!(
                key = key.word(),
                "an operator has accepted another {key} for the ledger than this process works with; \
                 give it the same and start it again"
            );
        }
    }
}

/// Follows the others, until it is dropped.
pub(super) struct Others {
    _tail: Tail,
    reload: JoinHandle<()>,
}

impl Others {
    /// Takes in what stands in `ledger` from `next` on. `missing` becomes how many registered keys
    /// are not in the key store of this process.
    pub(super) async fn follow(
        ledger: &Arc<Ledger>,
        next: u64,
        acts: Acts,
        registry: Arc<Registry>,
        missing: Arc<AtomicUsize>,
    ) -> std::io::Result<Self> {
        let registered = Arc::new(Notify::new());
        let taker = Taker { acts, registered: Arc::clone(&registered) };
        let tail = Tail::spawn("others", Arc::clone(ledger), next, Duration::ZERO, taker).await?;
        let reload = tokio::spawn(async move {
            loop {
                registered.notified().await;
                match registry.load().await {
                    Ok(count) => missing.store(count, Ordering::Relaxed),
                    Err(error) => tracing::warn!(%error, "keys cannot be compared: {error}"),
                }
            }
        });
        Ok(Self { _tail: tail, reload })
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.reload.abort();
    }
}

struct Taker {
    acts: Acts,
    /// Told that keys were registered.
    registered: Arc<Notify>,
}

impl Apply for Taker {
    fn apply(&mut self, batch: &[Arc<Fact>]) -> Result<(), Box<dyn Error + Send + Sync>> {
        for fact in batch {
            match &fact.event {
                Event::ApiKeyCreated(created) => {
                    self.acts.api_keys.apply_created(record_of(created.clone()));
                }
                Event::ApiKeyRevoked(revoked) => {
                    let id = ApiKeyId::from(revoked.key_id.as_str());
                    self.acts.api_keys.apply_revoked(&id, UnixMillis(revoked.at_ms));
                }
                Event::ContentKeyTyped(typed) => {
                    self.acts.keys.remember_use(typed.key_id, typed.settles());
                }
                Event::ContentKeyUsed(used) => {
                    self.acts.keys.remember_use(used.key_id, used.settles());
                }
                Event::ContentKeyRegistered(_) | Event::KeySeedRegistered(_) => {
                    self.registered.notify_one();
                }
                Event::KeysPinned(pinned) => self.acts.compare(pinned),
                _ => {}
            }
        }
        Ok(())
    }
}
