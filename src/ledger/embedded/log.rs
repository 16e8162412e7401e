//! The writer's half of the database: groups of appends, each group one durable transaction.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use uuid::Uuid;

use super::Options;
use super::heads::{Head, Heads};
use super::unfiled::{Entry, Progress, Unfiled};
use crate::ledger::append::{Answer, Append, AppendError, Appended, Cause, Unavailable};
use crate::ledger::event::{NewEvent, StreamName};

/// The one connection that writes.
pub(super) struct Log {
    connection: Connection,
    heads: Arc<Heads>,
    unfiled: Arc<Unfiled>,
    progress: Progress,
    run_events: usize,
    /// Entries that should have been filed by now and are not.
    filing_due: usize,
    next_sequence: u64,
    group: Group,
}

/// What the running transaction has added. Nobody else may see it before the commit.
#[derive(Default)]
struct Group {
    entries: Vec<Entry>,
    sequences: HashMap<Uuid, u64>,
    /// The streams that it wrote or checked; `None`: there is no such stream.
    heads: HashMap<StreamName, Option<Head>>,
}

/// What became of a group: an answer for each of its appends, in order, and whether the log can
/// go on.
pub(super) enum Outcome {
    /// The answers hold.
    Decided(Vec<Answer>),
    /// Nothing was stored; the log goes on.
    Refused(AppendError),
    /// It is not known what is stored. The log must not be used any more.
    Lost(AppendError),
}

impl Log {
    /// Takes over a database that was opened and checked. `next_sequence` is one past its last
    /// event.
    pub(super) fn new(
        connection: Connection,
        heads: Arc<Heads>,
        unfiled: Arc<Unfiled>,
        next_sequence: u64,
        options: &Options,
    ) -> Self {
        Self {
            connection,
            heads,
            unfiled,
            progress: Progress::default(),
            run_events: options.run_events.max(1),
            filing_due: 0,
            next_sequence,
            group: Group::default(),
        }
    }

    /// The sequence of the last committed event.
    pub(super) fn last_sequence(&self) -> Option<u64> {
        self.next_sequence.checked_sub(1)
    }

    /// Decides each append on the state that those before it left, and commits once.
    ///
    /// An error of SQLite before the commit refuses the whole group and leaves the log as it was.
    /// So does a commit for which there is no room: SQLite reports that before the mark that makes
    /// the frames count is written. Any other failure to commit, a failed fsync above all, leaves
    /// open what is on disk.
    pub(super) fn write<'a>(&mut self, appends: impl Iterator<Item = &'a Append>) -> Outcome {
        let (answers, filed) = match self.apply(appends) {
            Ok(applied) => applied,
            Err(error) => return self.refuse(error),
        };
        if self.group.entries.is_empty() {
            // Conflicts and repeats only: nothing to make durable.
            self.group = Group::default();
            return match self.run(ROLLBACK) {
                Ok(()) => Outcome::Decided(answers),
                Err(error) => Outcome::Lost(AppendError::Unknown(cause(error))),
            };
        }
        match self.run(COMMIT) {
            Ok(()) => {
                self.accept(filed);
                Outcome::Decided(answers)
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                self.refuse(error)
            }
            Err(error) => Outcome::Lost(AppendError::Unknown(cause(error))),
        }
    }

    /// Copies what is in the write-ahead log to the database as far as nobody prevents it. Once
    /// all of it is copied, the next commit starts the write-ahead log from its beginning.
    pub(super) fn checkpoint(&self) -> rusqlite::Result<Checkpointed> {
        checkpoint(&self.connection)
    }

    /// Copies all of the write-ahead log to the database and cuts it off. Waits a moment for readers
    /// that are at work; returns whether none of them was in the way.
    pub(super) fn empty_write_ahead_log(&self) -> rusqlite::Result<bool> {
        let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
        let busy: bool = self.connection.query_row(truncate, [], |row| row.get(0))?;
        Ok(!busy)
    }

    fn apply<'a>(
        &mut self,
        appends: impl Iterator<Item = &'a Append>,
    ) -> rusqlite::Result<(Vec<Answer>, Option<Filed>)> {
        self.run(BEGIN)?;
        let answers = appends.map(|append| self.decide(append)).collect::<Result<Vec<_>, _>>()?;
        let filed = self.file()?;
        Ok((answers, filed))
    }

    /// Decides one append. The outer error ends the whole group.
    fn decide(&mut self, append: &Append) -> rusqlite::Result<Answer> {
        let mut stored = Vec::new();
        for (stream, event) in &append.records {
            if let Some(sequence) = self.sequence_of(event.id)? {
                let Some(revision) = self.revision_if_same(sequence, stream, event)? else {
                    return Ok(Err(AppendError::IdReused { id: event.id }));
                };
                stored.push((stream.clone(), revision, sequence));
            }
        }
        if stored.len() == append.records.len() {
            return Ok(Ok(Appended::summarize(stored, true)));
        }
        for (stream, expected) in &append.checks {
            let actual = self.head(stream)?.map(|head| head.revision);
            let partly_stored = || stored.iter().any(|(stored, _, _)| stored == stream);
            if !expected.holds(actual) || partly_stored() {
                let (stream, expected) = (stream.clone(), *expected);
                return Ok(Err(AppendError::Conflict { stream, expected, actual }));
            }
        }
        let places = append
            .records
            .iter()
            .map(|(stream, event)| {
                let (revision, sequence) = self.insert(stream, event)?;
                Ok((stream.clone(), revision, sequence))
            })
            .collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(Ok(Appended::summarize(places, false)))
    }

    fn insert(&mut self, name: &StreamName, event: &NewEvent) -> rusqlite::Result<(u64, u64)> {
        let head = match self.head(name)? {
            Some(Head { stream, revision }) => Head { stream, revision: revision + 1 },
            None => Head { stream: self.add_stream(name)?, revision: 0 },
        };
        let sequence = self.next_sequence + self.group.entries.len() as u64;
        self.connection.prepare_cached(INSERT_EVENT)?.execute(params![
            stored(sequence),
            head.stream,
            stored(head.revision),
            event.id.as_bytes(),
            event.kind,
            event.data,
            event.metadata,
        ])?;
        self.group.heads.insert(name.clone(), Some(head));
        self.group.sequences.insert(event.id, sequence);
        let Head { stream, revision } = head;
        self.group.entries.push(Entry { sequence, stream, revision, id: event.id });
        Ok((revision, sequence))
    }

    fn add_stream(&self, name: &StreamName) -> rusqlite::Result<i64> {
        self.connection.prepare_cached(INSERT_STREAM)?.execute([name.as_str()])?;
        Ok(self.connection.last_insert_rowid())
    }

    fn head(&mut self, name: &StreamName) -> rusqlite::Result<Option<Head>> {
        if let Some(head) = self.group.heads.get(name) {
            return Ok(*head);
        }
        let head = match self.heads.get(name) {
            Some(head) => Some(head),
            None => stored_head(&self.connection, &self.unfiled, name)?,
        };
        self.group.heads.insert(name.clone(), head);
        Ok(head)
    }

    fn sequence_of(&self, id: Uuid) -> rusqlite::Result<Option<u64>> {
        if let Some(sequence) = self.group.sequences.get(&id) {
            return Ok(Some(*sequence));
        }
        if let Some(sequence) = self.unfiled.sequence_of(id) {
            return Ok(Some(sequence));
        }
        let mut statement = self.connection.prepare_cached(SELECT_BY_ID)?;
        let found = statement.query_row(params![prefix(id), id.as_bytes()], |row| loaded(row, 0));
        found.optional()
    }

    /// The revision of a stored event if it is the same fact. Metadata may differ: it tells how a
    /// fact came to be sent, and that is not the same when it is sent again.
    fn revision_if_same(
        &self,
        sequence: u64,
        stream: &StreamName,
        event: &NewEvent,
    ) -> rusqlite::Result<Option<u64>> {
        let mut statement = self.connection.prepare_cached(SELECT_IF_SAME)?;
        let kind = event.kind.as_ref();
        let wanted = params![stored(sequence), stream.as_str(), kind, event.data];
        statement.query_row(wanted, |row| loaded(row, 0)).optional()
    }

    /// Files what is due, in slices large enough to be worth their pages. For every event that is
    /// added two entries are filed, so a run is done before the next is half full.
    fn file(&mut self) -> rusqlite::Result<Option<Filed>> {
        let due = self.filing_due + 2 * self.group.entries.len();
        if due < SLICE_MIN.min(self.run_events) {
            self.filing_due = due;
            return Ok(None);
        }
        self.filing_due = 0;
        let Some(slice) = self.unfiled.slice(self.progress, due) else {
            return Ok(None);
        };
        let mut statement = self.connection.prepare_cached(FILE_STREAM)?;
        for ((stream, revision), sequence) in slice.streams {
            statement.execute(params![stream, stored(revision), stored(sequence)])?;
        }
        let mut statement = self.connection.prepare_cached(FILE_ID)?;
        for (id, sequence) in slice.ids {
            statement.execute(params![prefix(id), stored(sequence)])?;
        }
        if let Some(filed_through) = slice.filed_through {
            let mut statement = self.connection.prepare_cached(FILED_THROUGH)?;
            statement.execute([stored(filed_through)])?;
        }
        let run_done = slice.filed_through.is_some();
        Ok(Some(Filed { progress: slice.progress, run_done }))
    }

    /// Lets everybody see what was committed.
    fn accept(&mut self, filed: Option<Filed>) {
        self.next_sequence += self.group.entries.len() as u64;
        self.group.sequences.clear();
        self.unfiled.extend(self.group.entries.drain(..));
        let heads = self.group.heads.drain();
        self.heads.commit(heads.filter_map(|(name, head)| Some((name, head?))));
        match filed {
            Some(Filed { run_done: true, .. }) => {
                self.unfiled.finish_filing();
                self.progress = Progress::default();
            }
            Some(Filed { progress, .. }) => self.progress = progress,
            None => {}
        }
        self.unfiled.turn(self.run_events);
    }

    /// Takes back what the group did.
    fn refuse(&mut self, error: rusqlite::Error) -> Outcome {
        self.group = Group::default();
        // SQLite itself rolls back after some errors, a full disk among them.
        if self.connection.is_autocommit() || self.run(ROLLBACK).is_ok() {
            Outcome::Refused(AppendError::Unavailable(Unavailable::Storage(cause(error))))
        } else {
            Outcome::Lost(AppendError::Unknown(cause(error)))
        }
    }

    fn run(&self, sql: &'static str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }
}

struct Filed {
    progress: Progress,
    run_done: bool,
}

/// How much of the write-ahead log a checkpoint left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checkpointed {
    /// The frames (pages) in the write-ahead log.
    pub(super) frames: u64,
    /// Those of them that are in the database as well.
    pub(super) copied: u64,
}

/// Copies frames without ever waiting for a reader or the writer.
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<Checkpointed> {
    connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?.query_row([], |row| {
        // Both are -1 if another checkpoint is running.
        let count = |frames: i64| u64::try_from(frames).unwrap_or(0);
        Ok(Checkpointed { frames: count(row.get(1)?), copied: count(row.get(2)?) })
    })
}

/// Looks up the head of a stream, in memory first (see [`super::unfiled`]).
pub(super) fn stored_head(
    connection: &Connection,
    unfiled: &Unfiled,
    name: &StreamName,
) -> rusqlite::Result<Option<Head>> {
    let Some(stream) = stream_number(connection, name)? else {
        return Ok(None);
    };
    let revision = match unfiled.head(stream) {
        Some(revision) => Some(revision),
        None => {
            let mut statement = connection.prepare_cached(SELECT_HEAD)?;
            statement.query_row([stream], |row| loaded(row, 0)).optional()?
        }
    };
    Ok(revision.map(|revision| Head { stream, revision }))
}

/// The number under which the database knows a stream.
pub(super) fn stream_number(
    connection: &Connection,
    name: &StreamName,
) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached(SELECT_STREAM)?;
    statement.query_row([name.as_str()], |row| row.get(0)).optional()
}

/// Sequences and revisions as SQLite stores them. None comes near the limit: at a million events a
/// second they last for 292,000 years. A caller's number beyond it means "the end".
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A sequence or revision from a column.
pub(super) fn loaded(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    let out_of_range = |_| rusqlite::Error::IntegralValueOutOfRange(column, number);
    u64::try_from(number).map_err(out_of_range)
}

/// The first 8 bytes of an id, as the id index stores them.
pub(super) fn prefix(id: Uuid) -> i64 {
    let (high, _) = id.as_u64_pair();
    high.cast_signed()
}

fn cause(error: rusqlite::Error) -> Cause {
    Arc::new(error)
}

/// The fewest entries filed at once. At a million events a run of 65,536 has about eight entries
/// for each page of the index tables, so a slice writes about a hundred pages.
const SLICE_MIN: usize = 1024;

const BEGIN: &str = "BEGIN IMMEDIATE";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";
const INSERT_EVENT: &str = "INSERT INTO events
    (sequence, stream, revision, id, kind, data, metadata) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const INSERT_STREAM: &str = "INSERT INTO streams (name) VALUES (?1)";
const SELECT_STREAM: &str = "SELECT stream FROM streams WHERE name = ?1";
const SELECT_HEAD: &str =
    "SELECT revision FROM stream_index WHERE stream = ?1 ORDER BY revision DESC LIMIT 1";
const SELECT_BY_ID: &str = "SELECT sequence FROM id_index JOIN events USING (sequence)
    WHERE prefix = ?1 AND id = ?2";
const SELECT_IF_SAME: &str = "SELECT revision FROM events JOIN streams USING (stream)
    WHERE sequence = ?1 AND name = ?2 AND kind = ?3 AND data = ?4";
const FILE_STREAM: &str =
    "INSERT OR IGNORE INTO stream_index (stream, revision, sequence) VALUES (?1, ?2, ?3)";
const FILE_ID: &str = "INSERT OR IGNORE INTO id_index (prefix, sequence) VALUES (?1, ?2)";
const FILED_THROUGH: &str = "UPDATE filing SET filed_through = ?1";
