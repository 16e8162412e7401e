//! Operators' registrations: content keys, key seeds and API keys, each an event.

use std::collections::HashMap;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use uuid::Uuid;

use super::LicensingError;
use crate::clock::Clock;
use crate::domain::event::{ApiKeyCreated, ApiKeyRevoked, ContentKeyRegistered, KeySeedRegistered};
use crate::domain::{Event, KeyId};
use crate::keys::{ContentKey, KeySeed, Keys, KeysError};
use crate::ledger::tail::Fact;
use crate::ledger::{Append, AppendError, Expected, Ledger, NewEvent, StreamName};
use crate::playready::content_key::ContentKey as WireKey;
use crate::playready::key_seed::{KeySeed as WireSeed, KeySeedTooShort};
use crate::playready::kid::Kid;

/// Events read in one step.
const READ_EVENTS: usize = 4096;
/// Events appended in one step: well below what the ledger takes at once.
const APPEND_EVENTS: usize = 500;
/// Appends to one stream that may lose against others.
const ATTEMPTS: usize = 16;

/// A registration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The key store refuses, or fails.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The ledger says that a KID has another key than the key store.
    #[error("key id {0} is registered in the ledger with another content key")]
    Registered(KeyId),
    /// The ledger says that a seed id stands for another seed than the one given.
    #[error("key seed `{0}` is registered in the ledger with another value; choose another id")]
    SeedRegistered(String),
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

/// Registers on behalf of operators. One at a time: callers hold it behind a lock or use it from
/// one task.
pub struct Registry {
    ledger: Arc<Ledger>,
    keys: Arc<Keys>,
    clock: Clock,
}

impl Registry {
    /// Registers in `ledger`; secrets go to `keys`.
    pub fn new(ledger: Arc<Ledger>, keys: Arc<Keys>, clock: Clock) -> Self {
        Self { ledger, keys, clock }
    }

    /// Registers content keys, all or none. Keys are durable before their events: a crash between
    /// the two is mended by importing the same file again.
    pub async fn content_keys(
        &self,
        keys: &[(KeyId, ContentKey)],
        actor: &str,
    ) -> Result<Registered, RegisterError> {
        let stream = StreamName::new("keys").map_err(LicensingError::from)?;
        let mut registered = HashMap::<KeyId, String>::new();
        self.read(&stream, |event| {
            if let Event::ContentKeyRegistered(e) = event {
                registered.insert(e.key_id, e.check_value);
            }
        })
        .await?;
        let mut fresh = Vec::new();
        for (key_id, key) in keys {
            let check_value = HEXLOWER.encode(&WireKey::new(**key).checksum(Kid::from(key_id.0)));
            match registered.get(key_id) {
                Some(known) if *known != check_value => {
                    return Err(RegisterError::Registered(*key_id));
                }
                Some(_) => {}
                None => fresh.push((*key_id, check_value)),
            }
        }
        self.keys.add(keys)?;
        let events = fresh.iter().map(|(key_id, check_value)| {
            move |at_ms| {
                Event::ContentKeyRegistered(ContentKeyRegistered {
                    key_id: *key_id,
                    check_value: check_value.clone(),
                    actor: actor.to_owned(),
                    at_ms,
                })
            }
        });
        self.append_all(&stream, events.collect()).await?;
        Ok(Registered { added: fresh.len(), known: keys.len() - fresh.len() })
    }

    /// Registers a key seed; tells whether it was not known before. Seeds never change either, even
    /// if the key store has lost one.
    pub async fn key_seed(
        &self,
        seed_id: &str,
        seed: &KeySeed,
        actor: &str,
    ) -> Result<bool, RegisterError> {
        let stream = StreamName::new("keys").map_err(LicensingError::from)?;
        let check_value = check_value_of_seed(&WireSeed::new(seed)?);
        let mut registered = None;
        self.read(&stream, |event| match event {
            Event::KeySeedRegistered(e) if e.seed_id == seed_id => registered = Some(e.check_value),
            _ => {}
        })
        .await?;
        if registered.as_ref().is_some_and(|registered| *registered != check_value) {
            return Err(RegisterError::SeedRegistered(seed_id.to_owned()));
        }
        let added = self.keys.add_seed(seed_id, seed)?;
        if registered.is_none() {
            let event = |at_ms| {
                let (seed_id, actor) = (seed_id.to_owned(), actor.to_owned());
                let check_value = check_value.clone();
                Event::KeySeedRegistered(KeySeedRegistered { seed_id, check_value, actor, at_ms })
            };
            self.append_all(&stream, vec![event]).await?;
        }
        Ok(added)
    }

    /// How many content keys and seeds are registered in the ledger and missing in the key store.
    pub async fn missing_keys(&self) -> Result<usize, LicensingError> {
        let stream = StreamName::new("keys")?;
        let mut missing = 0;
        self.read(&stream, |event| match event {
            Event::ContentKeyRegistered(e) => {
                missing += usize::from(self.keys.content_key(e.key_id).is_none());
            }
            Event::KeySeedRegistered(e) => {
                missing += usize::from(self.keys.seed(&e.seed_id).is_none());
            }
            _ => {}
        })
        .await?;
        Ok(missing)
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
        Ok(self.append_all(&stream, vec![event]).await?)
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
        self.append_all(&stream, vec![event]).await?;
        Ok(true)
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

    /// Appends events at the head of a stream, wherever that is: none of them depends on what
    /// stands before it, and the same fact has the same id.
    async fn append_all(
        &self,
        stream: &StreamName,
        events: Vec<impl Fn(i64) -> Event>,
    ) -> Result<(), LicensingError> {
        for chunk in events.chunks(APPEND_EVENTS) {
            let mut attempts = 0;
            loop {
                attempts += 1;
                match self.append_chunk(stream, chunk).await {
                    Err(LicensingError::Append(AppendError::Conflict { .. }))
                        if attempts < ATTEMPTS => {}
                    outcome => break outcome?,
                }
            }
        }
        Ok(())
    }

    async fn append_chunk(
        &self,
        stream: &StreamName,
        events: &[impl Fn(i64) -> Event],
    ) -> Result<(), LicensingError> {
        let last = self.ledger.read_stream_backwards(stream, u64::MAX, 1).await?.pop();
        let (expected, last_ms) = match last {
            Some(recorded) => {
                let expected = Expected::At(recorded.revision);
                (expected, Fact::of(recorded)?.event.at_ms())
            }
            None => (Expected::NoStream, 0),
        };
        let at_ms = self.clock.now().0.max(last_ms);
        let correlation = Uuid::from_bytes(super::random_bytes()?).to_string();
        let mut records = Vec::with_capacity(events.len());
        for event in events {
            let event = NewEvent::of(stream, &event(at_ms), &correlation)?;
            records.push((stream.clone(), event));
        }
        let checks = vec![(stream.clone(), expected)];
        self.ledger.append(Append { records, checks }).await?;
        Ok(())
    }
}

/// By which a copy of a seed can be recognized: the check value of the key it gives for the nil
/// KID.
fn check_value_of_seed(seed: &WireSeed) -> String {
    let nil = Kid::from(Uuid::nil());
    HEXLOWER.encode(&seed.content_key(nil).checksum(nil))
}
