//! Operators' registrations: content keys, key seeds and API keys, each an event.

mod book;
mod keys;
mod types;

use std::sync::Arc;

use uuid::Uuid;

use super::LicensingError;
use crate::clock::Clock;
use crate::domain::event::{ApiKeyCreated, ApiKeyRevoked, WebhookChange, WebhookChanged};
use crate::domain::{Event, KeyId, KeyType};
use crate::keys::{Keys, KeysError, Missing};
use crate::ledger::tail::Fact;
use crate::ledger::{Append, AppendError, Expected, Ledger, NewEvent, StreamName};
use crate::playready::key_seed::KeySeedTooShort;

use book::Book;
pub use book::{KeyPage, KeyRow};
pub use keys::Unknown;

/// Events read in one step.
const READ_EVENTS: usize = 4096;
/// Appends to one stream that may lose against others.
const ATTEMPTS: usize = 16;

/// A registration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The key store refuses, or fails.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The ledger says that a KID has another key than the key store.
    #[error(
        "key id {0} is registered in the ledger with another content key, and a KID's key never \
         changes; give this key another key id"
    )]
    Registered(KeyId),
    /// The ledger says that a seed id stands for another seed than the one given.
    #[error("key seed `{0}` is registered in the ledger with another value; choose another id")]
    SeedRegistered(String),
    /// A seed gave the KID its key before.
    #[error(
        "key id {key_id} got its key from the seed `{seed_id}` before, and a KID's key never \
         changes; give this key another key id"
    )]
    Bound {
        /// The KID.
        key_id: KeyId,
        /// The seed.
        seed_id: String,
    },
    /// The KID's key is for the other mode of AES.
    #[error(
        "the key of {key_id} is for {key_type} and never for another mode; give what is encrypted \
         otherwise another key id"
    )]
    TypeDiffers {
        /// The KID.
        key_id: KeyId,
        /// The type that it has.
        key_type: KeyType,
    },
    /// The KID's key is that of root licenses.
    #[error(
        "the key of {0} is that of root licenses and never used for content; give the content \
         another key id"
    )]
    Root(KeyId),
    /// The KID has no key.
    #[error("key id {0} has no content key")]
    UnknownKey(KeyId),
    /// The KID has a key, which is not here.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The seed is too short.
    #[error("the key seed has fewer than 30 bytes")]
    Seed(#[from] KeySeedTooShort),
    /// There is no such API key.
    #[error("there is no API key `{0}`; `license-ledger keys api list` shows those there are")]
    UnknownApiKey(String),
    /// A failure of ours.
    #[error("the registration failed")]
    Failed(#[from] LicensingError),
}

/// What a registration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Registered {
    /// Keys that were not registered before.
    pub added: usize,
    /// Keys that were registered before, with the same value.
    pub known: usize,
}

/// Registers on behalf of operators and packagers.
pub struct Registry {
    ledger: Arc<Ledger>,
    keys: Arc<Keys>,
    clock: Clock,
    /// What is registered; one registration of keys at a time.
    book: tokio::sync::Mutex<Book>,
}

impl Registry {
    /// Registers in `ledger`; secrets go to `keys`.
    pub fn new(ledger: Arc<Ledger>, keys: Arc<Keys>, clock: Clock) -> Self {
        Self { ledger, keys, clock, book: tokio::sync::Mutex::default() }
    }

    /// Every API key ever made and, where it was revoked, when.
    pub async fn api_keys(&self) -> Result<Vec<(ApiKeyCreated, Option<i64>)>, RegisterError> {
        let stream = StreamName::new("admin").map_err(LicensingError::from)?;
        let mut keys = Vec::<(ApiKeyCreated, Option<i64>)>::new();
        self.read(&stream, |event| match event {
            Event::ApiKeyCreated(e) => keys.push((e, None)),
            Event::ApiKeyRevoked(e) => {
                for (key, revoked_at_ms) in &mut keys {
                    if key.key_id == e.key_id {
                        revoked_at_ms.get_or_insert(e.at_ms);
                    }
                }
            }
            _ => {}
        })
        .await?;
        Ok(keys)
    }

    /// Records an API key. Its `at_ms` is set here.
    pub async fn create_api_key(&self, key: ApiKeyCreated) -> Result<(), RegisterError> {
        let stream = StreamName::new("admin").map_err(LicensingError::from)?;
        let event = |at_ms| Event::ApiKeyCreated(ApiKeyCreated { at_ms, ..key.clone() });
        Ok(self.append_one(&stream, event).await?)
    }

    /// Records that an API key is revoked; tells whether it was not before.
    pub async fn revoke_api_key(&self, key_id: &str, actor: &str) -> Result<bool, RegisterError> {
        let known = self.api_keys().await?;
        let Some((_, revoked)) = known.iter().find(|(key, _)| key.key_id == key_id) else {
            return Err(RegisterError::UnknownApiKey(key_id.to_owned()));
        };
        if revoked.is_some() {
            return Ok(false);
        }
        let stream = StreamName::new("admin").map_err(LicensingError::from)?;
        let event = |at_ms| {
            let (key_id, actor) = (key_id.to_owned(), actor.to_owned());
            Event::ApiKeyRevoked(ApiKeyRevoked { key_id, actor, at_ms })
        };
        self.append_one(&stream, event).await?;
        Ok(true)
    }

    /// Records what an operator changed of a webhook endpoint.
    pub async fn webhook_changed(
        &self,
        endpoint: &str,
        change: &WebhookChange,
        actor: &str,
    ) -> Result<(), RegisterError> {
        let stream = StreamName::new("admin").map_err(LicensingError::from)?;
        let event = |at_ms| {
            let (endpoint, change) = (endpoint.to_owned(), change.clone());
            let actor = actor.to_owned();
            Event::WebhookChanged(WebhookChanged { endpoint, change, actor, at_ms })
        };
        Ok(self.append_one(&stream, event).await?)
    }

    /// Reads a whole stream.
    async fn read(
        &self,
        stream: &StreamName,
        mut each: impl FnMut(Event),
    ) -> Result<(), LicensingError> {
        let mut from = 0;
        loop {
            let recorded = self.ledger.read_stream(stream, from, READ_EVENTS).await?;
            let more = recorded.len() == READ_EVENTS;
            for recorded in recorded {
                from = recorded.revision + 1;
                each(Fact::of(recorded)?.event);
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Appends an event at the head of a stream, wherever that is: it does not depend on what
    /// stands before it, and the same fact has the same id.
    async fn append_one(
        &self,
        stream: &StreamName,
        event: impl Fn(i64) -> Event,
    ) -> Result<(), LicensingError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let last = self.ledger.read_stream_backwards(stream, u64::MAX, 1).await?.pop();
            let (expected, last_ms) = match last {
                Some(recorded) => {
                    let expected = Expected::At(recorded.revision);
                    (expected, Fact::of(recorded)?.event.at_ms())
                }
                None => (Expected::NoStream, 0),
            };
            // Later than all before, so that the same can be done again as another fact.
            let events = [(stream.clone(), event(self.clock.now().0.max(last_ms + 1)))];
            match self.append(&events, vec![(stream.clone(), expected)]).await {
                Err(LicensingError::Append(error)) if is_race(&error) && attempts < ATTEMPTS => {}
                outcome => return outcome,
            }
        }
    }

    /// Appends events under checks.
    async fn append(
        &self,
        events: &[(StreamName, Event)],
        checks: Vec<(StreamName, Expected)>,
    ) -> Result<(), LicensingError> {
        let correlation = Uuid::from_bytes(super::random_bytes()?).to_string();
        let mut records = Vec::with_capacity(events.len());
        for (stream, event) in events {
            records.push((stream.clone(), NewEvent::of(stream, event, &correlation)?));
        }
        self.ledger.append(Append { records, checks }).await?;
        Ok(())
    }
}

/// Whether an append lost against another one, perhaps of the same fact.
fn is_race(error: &AppendError) -> bool {
    matches!(error, AppendError::Conflict { .. } | AppendError::IdReused { .. })
}
