//! `webhooks.db`: what is derived from the ledger for webhooks, and what every endpoint was sent.
//!
//! One connection writes; the command line may as well while the service runs, so that whoever
//! delivers asks the file and not its memory. What a power failure takes is sent again.

mod derived;
mod view;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use uuid::Uuid;

use super::message::Place;
use super::schedule;
use crate::ledger::sqlite::{self, Checkpoint, Readers};
use crate::ledger::state::store::FOLD_VERSION;
use crate::ledger::{Ledger, ReadError};

pub(super) use view::Figures;
pub use view::{DeadLetter, Replaying, State};

const FILE: &str = "webhooks.db";
const SCHEMA: &[&str] = &[include_str!("../../migrations/webhooks/0001_delivery.sql")];

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite said no.
    #[error("webhooks.db failed")]
    Database(#[from] rusqlite::Error),
    /// The ledger cannot be read.
    #[error("the ledger cannot be read")]
    Ledger(#[from] ReadError),
    /// What is derived cannot be read.
    #[error("a row of webhooks.db is damaged; stop the service and remove the file")]
    Row(#[from] postcard::Error),
    /// The same.
    #[error("a row of webhooks.db is damaged; stop the service and remove the file")]
    Json(#[from] serde_json::Error),
    /// The file cannot be removed.
    #[error("webhooks.db cannot be removed")]
    Remove(#[from] std::io::Error),
    /// There is no such file.
    #[error(
        "no webhook was ever sent from this data directory; configure webhooks.endpoints and serve"
    )]
    Missing,
}

/// The file.
pub(super) struct Store {
    writer: Mutex<Connection>,
    readers: Readers,
}

/// How delivery to an endpoint stands.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) next_sequence: u64,
    pub(super) hold_until_ms: i64,
    pub(super) disabled: bool,
}

/// A message that was tried, and how it went.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    pub(super) place: Place,
    pub(super) id: Uuid,
    pub(super) r#type: &'static str,
    pub(super) outcome: Outcome,
}

/// How an attempt went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The receiver took it.
    Delivered,
    /// It did not.
    Failed { error: String, retry_after_s: Option<i64> },
    /// It wants no messages any more (status 410).
    Gone,
}

/// What attempts brought forward.
#[derive(Clone, Copy, Debug)]
pub(super) enum Progress {
    /// New messages: all before this sequence were tried.
    New(u64),
    /// A replay: all before this sequence.
    Replay(i64, u64),
    /// Nothing: these were retries.
    None,
}

/// What became of the messages of one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) delivered: u64,
    pub(super) failed: u64,
    pub(super) dead: u64,
    pub(super) disabled: bool,
}

impl Store {
    /// Opens or makes the file in `dir` for the service, and says from where on to fold.
    pub(super) async fn open(dir: &Path, ledger: &Ledger) -> Result<(Self, u64), StoreError> {
        let path = dir.join(FILE);
        let (writer, checkpoint) = match open_current(&path) {
            Ok((writer, Some(checkpoint))) if checkpoint.is_of(ledger).await? => {
                (writer, checkpoint)
            }
            Ok((writer, None)) => {
                // Only what is derived is of another version.
                derived::forget(&writer)?;
                (writer, NOTHING_FOLDED)
            }
            unusable => {
                let reason = match &unusable {
                    Err(error) => error.to_string(),
                    Ok(_) => "it belongs to another ledger".to_owned(),
                };
                tracing::warn!(%reason, "webhooks.db cannot be used and is made anew: {reason}");
                drop(unusable);
                sqlite::remove(&path)?;
                (open_current(&path)?.0, NOTHING_FOLDED)
            }
        };
        let store = Self { writer: Mutex::new(writer), readers: Readers::new(path) };
        store.write(|db| db.execute("UPDATE endpoints SET configured = 0", []).map(drop))?;
        Ok((store, checkpoint.next_sequence))
    }

    /// Opens the file for an operator at the command line, whether the service runs or not.
    pub(super) fn open_existing(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        if matches!(path.try_exists(), Ok(false)) {
            return Err(StoreError::Missing);
        }
        let writer = sqlite::open_for_writing(&path, SCHEMA)?;
        Ok(Self { writer: Mutex::new(writer), readers: Readers::new(path) })
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        let changed = change(&transaction)?;
        transaction.commit()?;
        Ok(changed)
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut connection = self.readers.take()?;
        let transaction = connection.transaction()?;
        let answer = query(&transaction);
        transaction.finish()?;
        self.readers.give_back(connection);
        Ok(answer?)
    }

    /// Takes note that the configuration has an endpoint. One that is new begins at `from`; tells
    /// whether it is.
    pub(super) fn configure(&self, endpoint: &str, from: u64) -> Result<bool, StoreError> {
        self.write(|db| {
            let known =
                db.execute("UPDATE endpoints SET configured = 1 WHERE id = ?1", [endpoint])?;
            if known == 0 {
                db.execute(
                    "INSERT INTO endpoints (id, configured, next_sequence) VALUES (?1, 1, ?2)",
                    params![endpoint, from],
                )?;
            }
            Ok(known == 0)
        })
    }

    /// How delivery to an endpoint stands.
    pub(super) fn standing(&self, endpoint: &str) -> Result<Standing, StoreError> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT next_sequence, hold_until_ms, disabled_at_ms IS NOT NULL FROM endpoints
                 WHERE id = ?1",
            )?
            .query_row([endpoint], |row| {
                Ok(Standing {
                    next_sequence: row.get(0)?,
                    hold_until_ms: row.get(1)?,
                    disabled: row.get(2)?,
                })
            })
        })
    }

    /// Up to `limit` messages whose next attempt is due, the longest overdue first.
    pub(super) fn due(
        &self,
        endpoint: &str,
        now_ms: i64,
        limit: usize,
    ) -> Result<Vec<Place>, StoreError> {
        self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT sequence, part FROM failed WHERE endpoint = ?1 AND due_ms <= ?2
                 ORDER BY due_ms, sequence, part LIMIT ?3",
            )?;
            let places = query.query_map(params![endpoint, now_ms, limit], |row| {
                Ok(Place { sequence: row.get(0)?, part: row.get(1)? })
            })?;
            places.collect()
        })
    }

    /// The oldest replay that is not done: its id, and the range that is left of it.
    pub(super) fn replay(&self, endpoint: &str) -> Result<Option<(i64, u64, u64)>, StoreError> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT id, next_sequence, until_sequence FROM replays WHERE endpoint = ?1
                 ORDER BY id LIMIT 1",
            )?
            .query_row([endpoint], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()
        })
    }

    /// Forgets a message that cannot be made any more.
    pub(super) fn forget(&self, endpoint: &str, place: Place) -> Result<(), StoreError> {
        self.write(|db| {
            db.prepare_cached(DELETE_FAILED)?
                .execute(params![endpoint, place.sequence, place.part])
                .map(drop)
        })
    }

    /// Records how the messages of one round went, and what they brought forward, in one
    /// transaction. `chance` makes pauses differ.
    pub(super) fn settle(
        &self,
        endpoint: &str,
        tried: &[Tried],
        progress: Progress,
        now_ms: i64,
        chance: u32,
    ) -> Result<Settled, StoreError> {
        self.write(|db| {
            let mut settled = Settled::default();
            for message in tried {
                match &message.outcome {
                    Outcome::Delivered => {
                        settled.delivered += 1;
                        let place = message.place;
                        db.prepare_cached(DELETE_FAILED)?.execute(params![
                            endpoint,
                            place.sequence,
                            place.part
                        ])?;
                    }
                    Outcome::Failed { error, retry_after_s } => {
                        settled.failed += 1;
                        let again = (chance, *retry_after_s);
                        settled.dead += failed(db, endpoint, message, error, now_ms, again)?;
                    }
                    Outcome::Gone => {
                        settled.failed += 1;
                        settled.disabled = true;
                        let again = (chance, None);
                        settled.dead += failed(db, endpoint, message, GONE, now_ms, again)?;
                    }
                }
            }
            match progress {
                Progress::New(next) => db
                    .prepare_cached("UPDATE endpoints SET next_sequence = ?2 WHERE id = ?1")?
                    .execute(params![endpoint, next])
                    .map(drop)?,
                Progress::Replay(id, next) => replayed(db, id, next)?,
                Progress::None => {}
            }
            stand(db, endpoint, tried, settled, now_ms, chance)?;
            Ok(settled)
        })
    }

    /// Stops sending to an endpoint. `by` says why, in a few words.
    pub(super) fn disable(&self, endpoint: &str, now_ms: i64, by: &str) -> Result<(), StoreError> {
        self.write(|db| disable(db, endpoint, now_ms, by))
    }

    /// Sends to an endpoint again, from where it stopped; what failed is due at once.
    pub(super) fn enable(&self, endpoint: &str, now_ms: i64) -> Result<(), StoreError> {
        self.write(|db| {
            db.execute(
                "UPDATE endpoints SET disabled_at_ms = NULL, disabled_by = NULL, failures = 0,
                   failing_since_ms = NULL, hold_until_ms = 0 WHERE id = ?1",
                [endpoint],
            )?;
            db.execute(
                "UPDATE failed SET due_ms = ?2 WHERE endpoint = ?1 AND due_ms IS NOT NULL",
                params![endpoint, now_ms],
            )
            .map(drop)
        })
    }

    /// Has a range of the ledger sent again.
    pub(super) fn replay_range(
        &self,
        endpoint: &str,
        from: u64,
        until: u64,
    ) -> Result<(), StoreError> {
        self.write(|db| {
            db.execute(
                "INSERT INTO replays (endpoint, next_sequence, until_sequence) VALUES (?1, ?2, ?3)",
                params![endpoint, from, until],
            )
            .map(drop)
        })
    }

    /// Has dead letters sent again, with all their attempts before them: the one with this message
    /// id, or all. How many there are.
    pub(super) fn revive(
        &self,
        endpoint: &str,
        message_id: Option<Uuid>,
        now_ms: i64,
    ) -> Result<u64, StoreError> {
        let id = message_id.map(|id| *id.as_bytes());
        self.write(|db| {
            let revived = db.execute(
                "UPDATE failed SET due_ms = ?2, attempts = 0 WHERE endpoint = ?1
                   AND due_ms IS NULL AND (?3 IS NULL OR message_id = ?3)",
                params![endpoint, now_ms, id],
            )?;
            Ok(revived as u64)
        })
    }
}

/// Adds a failed attempt to a message's row; 1 if it was the last one it had.
fn failed(
    db: &Transaction<'_>,
    endpoint: &str,
    message: &Tried,
    error: &str,
    now_ms: i64,
    (chance, retry_after_s): (u32, Option<i64>),
) -> rusqlite::Result<u64> {
    let Place { sequence, part } = message.place;
    let before: Option<u32> = db
        .prepare_cached(
            "SELECT attempts FROM failed WHERE endpoint = ?1 AND sequence = ?2 AND part = ?3",
        )?
        .query_row(params![endpoint, sequence, part], |row| row.get(0))
        .optional()?;
    let attempts = before.unwrap_or(0).saturating_add(1);
    let due_ms = schedule::due_ms(attempts, now_ms, chance, retry_after_s);
    db.prepare_cached(
        "INSERT INTO failed (endpoint, sequence, part, message_id, type, attempts, due_ms,
           first_failed_ms, last_failed_ms, last_error)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9)
         ON CONFLICT (endpoint, sequence, part) DO UPDATE SET attempts = excluded.attempts,
           due_ms = excluded.due_ms, last_failed_ms = excluded.last_failed_ms,
           last_error = excluded.last_error",
    )?
    .execute(params![
        endpoint,
        sequence,
        part,
        message.id.as_bytes(),
        message.r#type,
        attempts,
        due_ms,
        now_ms,
        error,
    ])?;
    Ok(u64::from(due_ms.is_none()))
}

/// Updates how an endpoint stands after a round in which something was tried.
fn stand(
    db: &Transaction<'_>,
    endpoint: &str,
    tried: &[Tried],
    settled: Settled,
    now_ms: i64,
    chance: u32,
) -> rusqlite::Result<()> {
    let error = tried.iter().rev().find_map(|message| match &message.outcome {
        Outcome::Failed { error, .. } => Some(error.as_str()),
        Outcome::Gone => Some(GONE),
        Outcome::Delivered => None,
    });
    if settled.delivered > 0 {
        db.prepare_cached(
            "UPDATE endpoints SET failures = 0, failing_since_ms = NULL, hold_until_ms = 0,
               last_delivered_ms = ?2, last_error = COALESCE(?3, last_error) WHERE id = ?1",
        )?
        .execute(params![endpoint, now_ms, error])?;
    } else if settled.failed > 0 {
        let failures: u32 = db
            .prepare_cached(
                "UPDATE endpoints SET failures = failures + ?2, last_error = ?4,
                   failing_since_ms = COALESCE(failing_since_ms, ?3) WHERE id = ?1
                 RETURNING failures",
            )?
            .query_row(params![endpoint, settled.failed, now_ms, error], |row| row.get(0))?;
        db.prepare_cached("UPDATE endpoints SET hold_until_ms = ?2 WHERE id = ?1")?
            .execute(params![endpoint, schedule::hold_until_ms(failures, now_ms, chance)])?;
    }
    if settled.disabled {
        disable(db, endpoint, now_ms, GONE)?;
    }
    Ok(())
}

fn disable(db: &Transaction<'_>, endpoint: &str, now_ms: i64, by: &str) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE endpoints SET disabled_at_ms = ?2, disabled_by = ?3
         WHERE id = ?1 AND disabled_at_ms IS NULL",
        params![endpoint, now_ms, by],
    )
    .map(drop)
}

fn replayed(db: &Transaction<'_>, id: i64, next: u64) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE replays SET next_sequence = ?2 WHERE id = ?1")?
        .execute(params![id, next])?;
    db.prepare_cached("DELETE FROM replays WHERE id = ?1 AND next_sequence >= until_sequence")?
        .execute([id])
        .map(drop)
}

/// Opens the file, or makes it. No checkpoint: another version folded what is derived.
fn open_current(path: &Path) -> Result<(Connection, Option<Checkpoint>), StoreError> {
    let file = sqlite::open_for_writing(path, SCHEMA)?;
    file.execute(
        "INSERT OR IGNORE INTO checkpoint (only_row, fold_version, next_sequence) VALUES (1, ?1, 0)",
        [FOLD_VERSION],
    )?;
    let checkpoint = file.query_row(
        "SELECT next_sequence, last_event_id FROM checkpoint WHERE fold_version = ?1",
        [FOLD_VERSION],
        |row| {
            let last_event_id: Option<[u8; 16]> = row.get(1)?;
            let last_event_id = last_event_id.map(Uuid::from_bytes);
            Ok(Checkpoint { next_sequence: row.get(0)?, last_event_id })
        },
    );
    Ok((file, checkpoint.optional()?))
}

const NOTHING_FOLDED: Checkpoint = Checkpoint { next_sequence: 0, last_event_id: None };
/// What a receiver says that wants no more.
const GONE: &str = "status 410";
const DELETE_FAILED: &str =
    "DELETE FROM failed WHERE endpoint = ?1 AND sequence = ?2 AND part = ?3";
