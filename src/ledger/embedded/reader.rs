//! Reading: a small pool of read-only connections.

use std::borrow::Cow;
use std::iter;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::heads::{Head, Heads, Looked};
use super::log::{loaded, stored, stored_head, stream_number};
use super::unfiled::{Entry, Unfiled};
use crate::ledger::append::ReadError;
use crate::ledger::event::{Cursor, Recorded, StreamName};

/// Reads what is committed.
pub(super) struct Reader {
    first: Mutex<Connection>,
    others: Vec<Mutex<Connection>>,
    unfiled: Arc<Unfiled>,
    /// Those that the writer of this process keeps.
    heads: Option<Arc<Heads>>,
    /// Set if another process writes, so that its commits have to be looked for.
    follower: Option<Mutex<Follower>>,
}

/// How far a process that only reads has indexed what another one wrote.
pub(super) struct Follower {
    pub(super) next_sequence: u64,
    pub(super) filed_through: u64,
}

impl Reader {
    pub(super) fn open(
        database: &Path,
        connections: usize,
        unfiled: Arc<Unfiled>,
        heads: Option<Arc<Heads>>,
        follower: Option<Follower>,
    ) -> rusqlite::Result<Self> {
        let open = || super::open::connect_read_only(database).map(Mutex::new);
        Ok(Self {
            first: open()?,
            others: (1..connections).map(|_| open()).collect::<Result<_, _>>()?,
            unfiled,
            heads,
            follower: follower.map(Mutex::new),
        })
    }

    pub(super) fn head(&self, stream: &StreamName) -> Result<Option<u64>, ReadError> {
        Ok(self.look(stream)?.map(|head| head.revision))
    }

    /// Where the stream stands; `None` if it has no event.
    fn look(&self, stream: &StreamName) -> Result<Option<Head>, ReadError> {
        let looked = self.heads.as_ref().map(|heads| (heads, heads.look(stream)));
        if let Some((_, Looked::Known(head))) = looked {
            return Ok(Some(head));
        }
        let head = self.with(|connection| stored_head(connection, &self.unfiled, stream))?;
        if let (Some(head), Some((heads, Looked::Unknown { groups }))) = (head, looked) {
            heads.learn(stream, head, groups);
        }
        Ok(head)
    }

    pub(super) fn last_sequence(&self) -> Result<Option<u64>, ReadError> {
        self.with(last_sequence)
    }

    pub(super) fn read_stream(
        &self,
        stream: &StreamName,
        from_revision: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let Some(Head { stream: number, revision }) = self.look(stream)? else {
            return Ok(Vec::new());
        };
        if revision < from_revision {
            return Ok(Vec::new());
        }
        self.with(|connection| {
            // Memory first: what is filed in between is found on disk, by a transaction that begins
            // later.
            let tail = self.unfiled.stream_tail(number, from_revision, limit);
            let connection = connection.unchecked_transaction()?;
            let end = tail.first_revision.map_or(i64::MAX, stored);
            let filed = params![number, stored(from_revision), end, stored(limit as u64)];
            let mut events = select(&connection, SELECT_STREAM_EVENTS, filed)?;
            for sequence in tail.sequences.into_iter().take(limit.saturating_sub(events.len())) {
                events.extend(select(&connection, SELECT_EVENT, [stored(sequence)])?);
            }
            Ok(events)
        })
    }

    pub(super) fn read_stream_backwards(
        &self,
        stream: &StreamName,
        from_revision: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        self.with(|connection| {
            let Some(number) = stream_number(connection, stream)? else {
                return Ok(Vec::new());
            };
            let tail = self.unfiled.stream_tail_backwards(number, from_revision, limit);
            let connection = connection.unchecked_transaction()?;
            let mut events = Vec::new();
            for sequence in tail.sequences {
                events.extend(select(&connection, SELECT_EVENT, [stored(sequence)])?);
            }
            let end = tail.first_revision.map_or(i64::MAX, stored);
            let rest = stored(limit.saturating_sub(events.len()) as u64);
            let filed = params![number, stored(from_revision), end, rest];
            events.extend(select(&connection, SELECT_STREAM_EVENTS_BACKWARDS, filed)?);
            Ok(events)
        })
    }

    pub(super) fn read_all(&self, from: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let wanted = [stored(from), stored(limit as u64)];
        self.with(|connection| select(connection, SELECT_ALL, wanted))
    }

    pub(super) fn read_all_backwards(
        &self,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let wanted = [stored(from), stored(limit as u64)];
        self.with(|connection| select(connection, SELECT_ALL_BACKWARDS, wanted))
    }

    fn with<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadError> {
        let failed = |error| ReadError::lasting(Arc::new(error));
        let connection = self.connection();
        self.catch_up(&connection).map_err(failed)?;
        read(&connection).map_err(failed)
    }

    /// A connection that is free, or else the first one as soon as it is.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        let mut all = iter::once(&self.first).chain(&self.others);
        let free = all.find_map(|connection| connection.try_lock().ok());
        // A connection is whole after a panic: a transaction that is dropped is rolled back.
        free.unwrap_or_else(|| self.first.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Indexes what another process committed since the last look.
    fn catch_up(&self, connection: &Connection) -> rusqlite::Result<()> {
        let Some(follower) = &self.follower else {
            return Ok(());
        };
        let mut follower = follower.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = entries_from(connection, follower.next_sequence)?;
        if let Some(last) = entries.last() {
            follower.next_sequence = last.sequence + 1;
        }
        self.unfiled.extend(entries);
        let filed_through = filed_through(connection)?;
        if filed_through != follower.filed_through {
            follower.filed_through = filed_through;
            self.unfiled.drop_below(filed_through);
        }
        Ok(())
    }
}

/// The sequence of the last event.
pub(super) fn last_sequence(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let mut statement = connection.prepare_cached(SELECT_LAST)?;
    statement.query_row([], |row| loaded(row, 0)).optional()
}

/// All events below are in the index tables.
pub(super) fn filed_through(connection: &Connection) -> rusqlite::Result<u64> {
    connection.prepare_cached(SELECT_FILED_THROUGH)?.query_row([], |row| loaded(row, 0))
}

/// What the indexes have to know about the events from `sequence` on.
pub(super) fn entries_from(connection: &Connection, sequence: u64) -> rusqlite::Result<Vec<Entry>> {
    let mut statement = connection.prepare_cached(SELECT_ENTRIES)?;
    let entries = statement.query_map([stored(sequence)], |row| {
        Ok(Entry {
            sequence: loaded(row, 0)?,
            stream: row.get(1)?,
            revision: loaded(row, 2)?,
            id: Uuid::from_bytes(row.get(3)?),
        })
    })?;
    entries.collect()
}

fn select(
    connection: &Connection,
    sql: &str,
    wanted: impl rusqlite::Params,
) -> rusqlite::Result<Vec<Recorded>> {
    connection.prepare_cached(sql)?.query_map(wanted, recorded)?.collect()
}

fn recorded(row: &Row<'_>) -> rusqlite::Result<Recorded> {
    let sequence = loaded(row, 0)?;
    let name = row.get_ref(1)?.as_str()?;
    let stream = StreamName::new(name).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(Recorded {
        sequence,
        cursor: Cursor::new(sequence),
        stream,
        revision: loaded(row, 2)?,
        id: Uuid::from_bytes(row.get(3)?),
        kind: Cow::Owned(row.get(4)?),
        data: row.get(5)?,
        metadata: row.get(6)?,
    })
}

macro_rules! select_events {
    ($rest:literal) => {
        concat!(
            "SELECT e.sequence, s.name, e.revision, e.id, e.kind, e.data, e.metadata ",
            "FROM events e JOIN streams s ON s.stream = e.stream ",
            $rest
        )
    };
}

const SELECT_EVENT: &str = select_events!("WHERE e.sequence = ?1");
const SELECT_ALL: &str = select_events!("WHERE e.sequence >= ?1 ORDER BY e.sequence LIMIT ?2");
const SELECT_ALL_BACKWARDS: &str =
    select_events!("WHERE e.sequence <= ?1 ORDER BY e.sequence DESC LIMIT ?2");
const SELECT_STREAM_EVENTS: &str = select_events!(
    "JOIN stream_index i ON i.sequence = e.sequence
     WHERE i.stream = ?1 AND i.revision >= ?2 AND i.revision < ?3 ORDER BY i.revision LIMIT ?4"
);
const SELECT_STREAM_EVENTS_BACKWARDS: &str = select_events!(
    "JOIN stream_index i ON i.sequence = e.sequence
     WHERE i.stream = ?1 AND i.revision <= ?2 AND i.revision < ?3
     ORDER BY i.revision DESC LIMIT ?4"
);
const SELECT_LAST: &str = "SELECT sequence FROM events ORDER BY sequence DESC LIMIT 1";
const SELECT_FILED_THROUGH: &str = "SELECT filed_through FROM filing";
const SELECT_ENTRIES: &str =
    "SELECT sequence, stream, revision, id FROM events WHERE sequence >= ?1 ORDER BY sequence";
