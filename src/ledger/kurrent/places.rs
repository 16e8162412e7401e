//! Where our events stand in the cluster's log, in a local file: the cluster numbers bytes, we number
//! events.
//!
//! The numbers are those that everybody gets who counts our events in log order, so that they agree
//! on every machine. A full list, 50 bytes an event, because an event that is read from its stream
//! says only where it stands, and asking the cluster how many come before would cost a read of all of
//! them.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use crate::ledger::sqlite;

/// A place in the cluster's log. Of several events that were committed together, all may have the
/// same commit position; the prepare position is each one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) commit: u64,
    pub(super) prepare: u64,
}

/// How far the log was followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The sequence of the next event.
    pub(super) next_sequence: u64,
    /// All before, and this, has been looked at.
    pub(super) after: Option<Position>,
    /// The id of the last event of ours.
    pub(super) last_event_id: Option<Uuid>,
}

/// The file.
pub(super) struct Places(Mutex<Connection>);

impl Places {
    /// Opens or makes the file at `path` for a ledger whose streams' names begin with `prefix`.
    pub(super) fn open(path: &Path, prefix: &str) -> rusqlite::Result<Self> {
        let file = sqlite::open_for_writing(path, SCHEMA)?;
        let places = Self(Mutex::new(file));
        let known: Option<String> = places
            .file()
            .query_row("SELECT stream_prefix FROM followed", [], |row| row.get(0))
            .optional()?;
        if known.as_deref() != Some(prefix) {
            places.forget(prefix)?;
        }
        Ok(places)
    }

    /// Begins anew.
    pub(super) fn forget(&self, prefix: &str) -> rusqlite::Result<()> {
        let mut file = self.file();
        let transaction = file.transaction()?;
        transaction.execute("DELETE FROM places", [])?;
        let fresh = "INSERT OR REPLACE INTO followed VALUES (1, ?1, NULL, NULL, NULL)";
        transaction.execute(fresh, [prefix])?;
        transaction.commit()
    }

    /// How far the log was followed.
    pub(super) fn mark(&self) -> rusqlite::Result<Mark> {
        let file = self.file();
        let last: Option<u64> =
            file.query_row("SELECT max(sequence) FROM places", [], |row| row.get(0))?;
        let select = "SELECT commit_position, prepare_position, last_event_id FROM followed";
        file.query_row(select, [], |row| {
            let commit: Option<u64> = row.get(0)?;
            let prepare: Option<u64> = row.get(1)?;
            let id: Option<[u8; 16]> = row.get(2)?;
            Ok(Mark {
                next_sequence: last.map_or(0, |last| last + 1),
                after: commit.zip(prepare).map(|(commit, prepare)| Position { commit, prepare }),
                last_event_id: id.map(Uuid::from_bytes),
            })
        })
    }

    /// Adds events, whose sequences end before that of `mark`, and moves the mark.
    pub(super) fn add(&self, events: &[Position], mark: &Mark) -> rusqlite::Result<()> {
        let mut file = self.file();
        let transaction = file.transaction()?;
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO places VALUES (?1, ?2, ?3)")?;
            let first = mark.next_sequence.saturating_sub(events.len() as u64);
            for (sequence, position) in (first..).zip(events) {
                insert.execute(params![sequence, position.commit, position.prepare])?;
            }
            let after = mark.after;
            let id = mark.last_event_id.map(Uuid::into_bytes);
            transaction.prepare_cached(UPDATE_MARK)?.execute(params![
                after.map(|after| after.commit),
                after.map(|after| after.prepare),
                id
            ])?;
        }
        transaction.commit()
    }

    /// Where an event stands.
    pub(super) fn position_of(&self, sequence: u64) -> rusqlite::Result<Option<Position>> {
        let file = self.file();
        let mut select = file.prepare_cached(SELECT_POSITION)?;
        let position =
            |row: &rusqlite::Row<'_>| Ok(Position { commit: row.get(0)?, prepare: row.get(1)? });
        select.query_row([sequence], position).optional()
    }

    /// The number of the event that stands there.
    pub(super) fn sequence_at(&self, prepare: u64) -> rusqlite::Result<Option<u64>> {
        let file = self.file();
        let mut select = file.prepare_cached(SELECT_AT)?;
        select.query_row([stored(prepare)], |row| row.get(0)).optional()
    }

    fn file(&self) -> MutexGuard<'_, Connection> {
        // A connection is whole after a panic: a transaction that is dropped is rolled back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SQLite has no larger numbers, and no position is beyond.
fn stored(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

const SCHEMA: &[&str] = &[include_str!("../../../migrations/kurrent/0001_places.sql")];
const UPDATE_MARK: &str =
    "UPDATE followed SET commit_position = ?1, prepare_position = ?2, last_event_id = ?3";
const SELECT_POSITION: &str =
    "SELECT commit_position, prepare_position FROM places WHERE sequence = ?1";
const SELECT_AT: &str = "SELECT sequence FROM places WHERE prepare_position = ?1";

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> Position {
        Position { commit: position, prepare: position }
    }

    #[test]
    fn remembers_where_events_stand_and_how_far_the_log_was_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("places.db");
        let places = Places::open(&path, "p.").unwrap();
        assert_eq!(places.mark().unwrap(), Mark::default());
        let id = Some(Uuid::from_u128(7));
        let mark = Mark { next_sequence: 3, after: Some(at(400)), last_event_id: id };
        places.add(&[at(100), at(250), at(300)], &mark).unwrap();
        drop(places);
        let places = Places::open(&path, "p.").unwrap();
        assert_eq!(places.mark().unwrap(), mark);
        assert_eq!(places.position_of(1).unwrap(), Some(at(250)));
        assert_eq!(places.position_of(3).unwrap(), None);
        assert_eq!(places.sequence_at(300).unwrap(), Some(2));
        assert_eq!(places.sequence_at(299).unwrap(), None);
        assert_eq!(places.sequence_at(u64::MAX).unwrap(), None);
    }

    #[test]
    fn another_prefix_is_another_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("places.db");
        let mark = Mark { next_sequence: 1, after: Some(at(1)), last_event_id: None };
        Places::open(&path, "p.").unwrap().add(&[at(1)], &mark).unwrap();
        assert_eq!(Places::open(&path, "q.").unwrap().mark().unwrap(), Mark::default());
    }
}
