//! What the `keys` stream says is registered, kept in memory and read forward when asked.

use std::collections::HashMap;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::READ_EVENTS;
use crate::clock::UnixMillis;
use crate::domain::{Event, KeyId, KeyType};
use crate::ledger::tail::Fact;
use crate::ledger::{Expected, Ledger, StreamName};
use crate::licensing::LicensingError;

/// The kind of a content key's row.
const CONTENT_KEY: &str = "content_key";

/// A registered content key or key seed. Never the key itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = RegisteredKey)]
pub struct KeyRow {
    /// `content_key` or `key_seed`.
    #[schema(pattern = "^(content_key|key_seed)$", example = "content_key")]
    pub kind: String,
    /// The KID as GUID text, or the seed's id.
    #[schema(example = "01234567-89ab-cdef-0123-456789abcdef")]
    pub id: String,
    /// How a content key encrypts; `null` as long as nobody has said.
    pub key_type: Option<KeyType>,
    /// By which a copy can be recognized, as the event has it.
    pub check_value: String,
    /// When it was registered.
    #[schema(format = DateTime, example = "2026-03-31T12:00:00.000Z")]
    pub registered_at: String,
}

/// A page of registered keys, in the order they were registered.
pub struct KeyPage {
    /// The keys.
    pub rows: Vec<KeyRow>,
    /// Where the next page begins; `None` if there is none.
    pub next: Option<u64>,
    /// How many events the ledger had when the first page was cut.
    pub position: u64,
}

impl KeyRow {
    /// The KID, if this is a content key.
    pub(super) fn key_id(&self) -> Option<KeyId> {
        (self.kind == CONTENT_KEY).then(|| self.id.parse().ok().map(KeyId)).flatten()
    }
}

/// What is registered, as of a revision of the `keys` stream.
#[derive(Default)]
pub(super) struct Book {
    rows: Vec<Row>,
    keys: HashMap<KeyId, usize>,
    seeds: HashMap<String, usize>,
    /// Revision to read from.
    next_revision: u64,
    /// Time of the newest event read.
    pub(super) at_ms: i64,
}

/// A row as it is kept: a million keys take 50 MB.
struct Row {
    id: Id,
    check_value: [u8; 8],
    at_ms: i64,
    sequence: u64,
}

enum Id {
    Key(KeyId),
    Seed(Box<str>),
}

impl Book {
    /// The stream that this is read from.
    pub(super) fn stream() -> Result<StreamName, LicensingError> {
        Ok(StreamName::new("keys")?)
    }

    /// Reads what was appended meanwhile.
    pub(super) async fn refresh(&mut self, ledger: &Ledger) -> Result<(), LicensingError> {
        let stream = Self::stream()?;
        loop {
            let recorded = ledger.read_stream(&stream, self.next_revision, READ_EVENTS).await?;
            let more = recorded.len() == READ_EVENTS;
            for recorded in recorded {
                let (revision, sequence) = (recorded.revision, recorded.sequence);
                self.take(Fact::of(recorded)?.event, sequence);
                self.next_revision = revision + 1;
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn take(&mut self, event: Event, sequence: u64) {
        self.at_ms = self.at_ms.max(event.at_ms());
        let (id, check_value, at_ms) = match event {
            Event::ContentKeyRegistered(e) => (Id::Key(e.key_id), e.check_value, e.at_ms),
            Event::KeySeedRegistered(e) => (Id::Seed(e.seed_id.into()), e.check_value, e.at_ms),
            _ => return,
        };
        let index = self.rows.len();
        match &id {
            Id::Key(key_id) => self.keys.entry(*key_id).or_insert(index),
            Id::Seed(seed_id) => self.seeds.entry(seed_id.to_string()).or_insert(index),
        };
        let check_value = HEXLOWER.decode(check_value.as_bytes()).ok();
        let check_value = check_value.and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
        self.rows.push(Row { id, check_value, at_ms, sequence });
    }

    /// What an append has to check so that nothing was registered since.
    pub(super) fn expected(&self) -> Expected {
        Expected::at_head(self.next_revision.checked_sub(1))
    }

    /// The check value of a registered content key.
    pub(super) fn check_value(&self, key_id: KeyId) -> Option<[u8; 8]> {
        let row = self.rows.get(*self.keys.get(&key_id)?)?;
        Some(row.check_value)
    }

    /// The check value of a registered seed.
    pub(super) fn check_value_of_seed(&self, seed_id: &str) -> Option<[u8; 8]> {
        let row = self.rows.get(*self.seeds.get(seed_id)?)?;
        Some(row.check_value)
    }

    /// All registered KIDs.
    pub(super) fn key_ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.keys().copied()
    }

    /// The ids of all registered seeds.
    pub(super) fn seed_ids(&self) -> impl Iterator<Item = &str> {
        self.seeds.keys().map(String::as_str)
    }

    /// At most `limit` rows from the row `from` on, of those whose events come before `position`.
    pub(super) fn page(&self, from: u64, position: u64, limit: usize) -> KeyPage {
        let first = usize::try_from(from).unwrap_or(usize::MAX);
        let rows = self.rows.iter().skip(first).take_while(|row| row.sequence < position);
        let mut rows: Vec<_> = rows.take(limit.saturating_add(1)).map(Row::shown).collect();
        let next = (rows.len() > limit).then(|| from.saturating_add(limit as u64));
        rows.truncate(limit);
        KeyPage { rows, next, position }
    }
}

impl Row {
    fn shown(&self) -> KeyRow {
        let (kind, id) = match &self.id {
            Id::Key(key_id) => (CONTENT_KEY, key_id.to_string()),
            Id::Seed(seed_id) => ("key_seed", seed_id.to_string()),
        };
        KeyRow {
            kind: kind.to_owned(),
            id,
            key_type: None,
            check_value: HEXLOWER.encode(&self.check_value),
            registered_at: UnixMillis(self.at_ms).to_rfc3339(),
        }
    }
}
