//! Opening a data directory: made if it is missing, locked, brought up to date, and looked at before
//! anything relies on it.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use super::log::{loaded, prefix, stored};
use super::reader::{entries_from, filed_through, last_sequence};
use super::unfiled::{Entry, Unfiled};
use crate::ledger::append::Cause;

/// Why a data directory cannot be used as an event log. Each names the directory and a remedy.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, writes there.
    #[error(
        "{} is in use: another process writes to this event log. Stop it, or choose another \
         data directory",
        .dir.display()
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// The directory or a file in it cannot be made, opened or written.
    #[error(
        "{} cannot be written: make it a directory that belongs to the user who runs the service, \
         or choose another data directory",
        .dir.display()
    )]
    NotWritable {
        /// The data directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: Cause,
    },
    /// There is no event log to be read.
    #[error(
        "{} holds no event log: check the path, or start the service there first",
        .dir.display()
    )]
    Missing {
        /// The data directory.
        dir: PathBuf,
    },
    /// The file is there, and nothing is in it.
    #[error(
        "{}/ledger.db is empty: restore it from a backup with the ledger.db-wal that belongs to it, or \
         start the service there if a new ledger is meant",
        .dir.display()
    )]
    Empty {
        /// The data directory.
        dir: PathBuf,
    },
    /// What is there cannot be looked at.
    #[error(
        "{} cannot be read: check the path, and run this as the user who runs the service",
        .dir.display()
    )]
    NotReadable {
        /// The data directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: Cause,
    },
    /// The database is from a later version of this program.
    #[error(
        "{} was made by a newer version of license-ledger (format {found}, this one knows \
         {known}): use that version",
        .dir.display()
    )]
    Newer {
        /// The data directory.
        dir: PathBuf,
        /// The format of the database.
        found: i64,
        /// The newest format that this program knows.
        known: i64,
    },
    /// The database is from an earlier version and is opened for reading only.
    #[error(
        "{} was made by an earlier version of license-ledger: start the service there once to \
         bring it up to date",
        .dir.display()
    )]
    Older {
        /// The data directory.
        dir: PathBuf,
    },
    /// The file is a database of another program.
    #[error(
        "{}/ledger.db belongs to another program: choose another data directory",
        .dir.display()
    )]
    Foreign {
        /// The data directory.
        dir: PathBuf,
    },
    /// The file is not what was written there.
    #[error(
        "{}/ledger.db is damaged ({what}): put a backup in its place; the service does not \
         repair history",
        .dir.display()
    )]
    Damaged {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong, in a few words.
        what: &'static str,
        /// What SQLite said, if it noticed.
        #[source]
        source: Option<Cause>,
    },
    /// The storage failed while the log was opened.
    #[error("{} cannot be read: check the disk and its mount", .dir.display())]
    Storage {
        /// The data directory.
        dir: PathBuf,
        /// What SQLite said.
        #[source]
        source: Cause,
    },
}

/// A database that may be relied on.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) database: PathBuf,
    pub(super) unfiled: Arc<Unfiled>,
    pub(super) next_sequence: u64,
    pub(super) filed_through: u64,
}

/// Opens for writing. The lock is held as long as the file returned is open.
pub(super) fn open(dir: &Path, cache_kib: u32) -> Result<(Opened, File), OpenError> {
    let not_writable =
        |source: io::Error| OpenError::NotWritable { dir: dir.into(), source: Arc::new(source) };
    let lock = lock(dir)?;
    let database = dir.join(DATABASE);
    create(dir, &database).map_err(not_writable)?;
    let at = |error| sqlite_error(dir, error);
    let connection = connect(&database, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(at)?;
    let version = version(dir, &connection)?;
    configure(&connection, cache_kib).map_err(at)?;
    migrate(&connection, version.unwrap_or(0)).map_err(at)?;
    Ok((check(dir, connection)?, lock))
}

/// Opens for reading, beside a process that writes or without one.
pub(super) fn open_read_only(dir: &Path) -> Result<Opened, OpenError> {
    require(dir)?;
    open_what_is_there(dir).map_err(|error| match error {
        OpenError::NotWritable { dir, source } => OpenError::NotReadable { dir, source },
        error => error,
    })
}

fn open_what_is_there(dir: &Path) -> Result<Opened, OpenError> {
    let connection = connect_read_only(&dir.join(DATABASE));
    let connection = connection.map_err(|error| sqlite_error(dir, error))?;
    match version(dir, &connection)? {
        None => Err(OpenError::Empty { dir: dir.into() }),
        Some(version) if version < newest() => Err(OpenError::Older { dir: dir.into() }),
        Some(_) => check(dir, connection),
    }
}

/// Makes sure that there is a file that may hold an event log, and leaves it alone: when SQLite opens
/// an empty one, it removes the write-ahead log beside it.
pub(super) fn require(dir: &Path) -> Result<(), OpenError> {
    let missing = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    };
    match std::fs::metadata(dir.join(DATABASE)) {
        Ok(file) if file.len() == 0 => Err(OpenError::Empty { dir: dir.into() }),
        Ok(_) => Ok(()),
        Err(error) if missing(&error) => Err(OpenError::Missing { dir: dir.into() }),
        Err(error) => Err(OpenError::NotReadable { dir: dir.into(), source: Arc::new(error) }),
    }
}

/// Opens one more connection for reading.
pub(super) fn connect_read_only(database: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.pragma_update(None, "cache_size", -READ_CACHE_KIB)?;
    Ok(connection)
}

/// Opens a connection of its own to run checkpoints with.
pub(super) fn connect_checkpointer(database: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(database, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

fn connect(database: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(database, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // One plan for each statement. SQLite would otherwise plan anew with every value bound to a
    // range or a limit, which takes ten times as long as the read itself.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Makes the directory if there is none, and claims it for this process. The lock is the system's,
/// so it goes with the process however that ends.
pub(in crate::ledger) fn lock(dir: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::NotWritable { dir: dir.into(), source: Arc::new(source) };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let mut options = OpenOptions::new();
    let lock = options.create(true).truncate(false).write(true).mode(0o600).open(dir.join(LOCK));
    let lock = lock.map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.into() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Makes the database file if there is none, readable by its owner only. SQLite gives the files
/// beside it the same mode.
///
/// An existing file is never opened here: closing it again would drop the locks that SQLite holds on
/// it in this process.
fn create(dir: &Path, database: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    match options.create_new(true).write(true).mode(0o600).open(database) {
        Ok(_) => File::open(dir)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// The format of the database; `None` if it is empty. Refuses what this program did not make.
fn version(dir: &Path, connection: &Connection) -> Result<Option<i64>, OpenError> {
    let number = |pragma: &str| {
        let value = connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        value.map_err(|error| sqlite_error(dir, error))
    };
    let tables = "SELECT count(*) FROM sqlite_schema";
    let tables: i64 = connection
        .query_row(tables, [], |row| row.get(0))
        .map_err(|error| sqlite_error(dir, error))?;
    let (application, version) = (number("application_id")?, number("user_version")?);
    let dir = || dir.to_path_buf();
    match application {
        0 if tables == 0 && version == 0 => Ok(None),
        APPLICATION_ID if version > newest() => {
            Err(OpenError::Newer { dir: dir(), found: version, known: newest() })
        }
        APPLICATION_ID => Ok(Some(version)),
        _ => Err(OpenError::Foreign { dir: dir() }),
    }
}

fn newest() -> i64 {
    MIGRATIONS.len() as i64
}

fn configure(connection: &Connection, cache_kib: u32) -> rusqlite::Result<()> {
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    // Checkpoints have a thread of their own (see `writer`).
    connection.pragma_update(None, "wal_autocheckpoint", 0)
}

/// Runs the migrations that the database has not seen, each in a transaction with its number.
fn migrate(connection: &Connection, version: i64) -> rusqlite::Result<()> {
    for (number, migration) in (1..).zip(MIGRATIONS).filter(|(number, _)| *number > version) {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        connection.execute_batch(migration)?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.pragma_update(None, "user_version", number)?;
        connection.execute_batch("COMMIT")?;
    }
    Ok(())
}

/// Looks at the end of the log, the part that a crash or a copy made at a bad time would harm, and
/// indexes the events that are not filed. The whole log is not read: that takes minutes when it is
/// large.
fn check(dir: &Path, connection: Connection) -> Result<Opened, OpenError> {
    let at = |error| sqlite_error(dir, error);
    let damaged = |what| OpenError::Damaged { dir: dir.into(), what, source: None };
    // One transaction, because another process may be writing.
    connection.execute_batch("BEGIN").map_err(at)?;
    let next_sequence = last_sequence(&connection).map_err(at)?.map_or(0, |last| last + 1);
    let filed_through = filed_through(&connection).map_err(at)?;
    if filed_through > next_sequence {
        return Err(damaged("its last events are missing"));
    }
    let checked_from = filed_through.min(next_sequence.saturating_sub(CHECKED_EVENTS));
    let entries = entries_from(&connection, checked_from).map_err(at)?;
    if let Some(what) = fault(&connection, checked_from, filed_through, &entries).map_err(at)? {
        return Err(damaged(what));
    }
    connection.execute_batch("COMMIT").map_err(at)?;
    let unfiled = Unfiled::default();
    unfiled.extend(entries.into_iter().filter(|entry| entry.sequence >= filed_through));
    Ok(Opened {
        connection,
        database: dir.join(DATABASE),
        unfiled: Arc::new(unfiled),
        next_sequence,
        filed_through,
    })
}

/// What is wrong with the last events, if anything.
fn fault(
    connection: &Connection,
    from: u64,
    filed_through: u64,
    entries: &[Entry],
) -> rusqlite::Result<Option<&'static str>> {
    let index = Index { connection };
    let mut heads: HashMap<i64, u64> = HashMap::new();
    for (sequence, entry) in (from..).zip(entries) {
        if entry.sequence != sequence {
            return Ok(Some("its events are not consecutive"));
        }
        let before = match heads.insert(entry.stream, entry.revision) {
            Some(before) => Some(before),
            // Ahead of a long tail it is enough to look up some of the streams.
            None if heads.len() as u64 > CHECKED_EVENTS => entry.revision.checked_sub(1),
            None => index.head_before(entry)?,
        };
        if before != entry.revision.checked_sub(1) {
            return Ok(Some("the revisions of a stream are not consecutive"));
        }
        if entry.sequence < filed_through && !index.holds(entry)? {
            return Ok(Some("its index does not agree with its events"));
        }
    }
    Ok(None)
}

/// The index tables, as far as they tell of the last events.
struct Index<'a> {
    connection: &'a Connection,
}

impl Index<'_> {
    /// The revision that the stream of `entry` had when `entry` came.
    fn head_before(&self, entry: &Entry) -> rusqlite::Result<Option<u64>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT revision FROM stream_index WHERE stream = ?1 AND sequence < ?2
             ORDER BY revision DESC LIMIT 1",
        )?;
        let wanted = params![entry.stream, stored(entry.sequence)];
        statement.query_row(wanted, |row| loaded(row, 0)).optional()
    }

    /// Whether `entry` is found by its stream and by its id.
    fn holds(&self, entry: &Entry) -> rusqlite::Result<bool> {
        let sequence = stored(entry.sequence);
        let mut statement = self.connection.prepare_cached(
            "SELECT 1 FROM stream_index WHERE stream = ?1 AND revision = ?2 AND sequence = ?3",
        )?;
        let by_stream =
            statement.exists(params![entry.stream, stored(entry.revision), sequence])?;
        let mut statement = self
            .connection
            .prepare_cached("SELECT 1 FROM id_index WHERE prefix = ?1 AND sequence = ?2")?;
        Ok(by_stream && statement.exists(params![prefix(entry.id), sequence])?)
    }
}

/// Says in our words what SQLite says about a file.
fn sqlite_error(dir: &Path, error: rusqlite::Error) -> OpenError {
    let code = error.sqlite_error_code();
    let source: Cause = Arc::new(error);
    let dir = dir.to_path_buf();
    match code {
        Some(ErrorCode::NotADatabase) => {
            OpenError::Damaged { dir, what: "it is not a database", source: Some(source) }
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::Unknown) | None => {
            OpenError::Damaged { dir, what: "its structure is broken", source: Some(source) }
        }
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            OpenError::NotWritable { dir, source }
        }
        Some(_) => OpenError::Storage { dir, source },
    }
}

const DATABASE: &str = "ledger.db";
const LOCK: &str = "ledger.lock";
/// "LLgr": tells our databases from those of other programs.
const APPLICATION_ID: i64 = 0x4C4C_6772;
/// In order; the place in this list is the `user_version` that a migration leads to.
const MIGRATIONS: &[&str] = &[include_str!("../../../migrations/ledger/0001_event_log.sql")];
/// Holds six events of 600 bytes.
const PAGE_BYTES: i64 = 4096;
/// For each connection of the pool: interior pages and the newest events.
const READ_CACHE_KIB: i64 = 4096;
/// How long a statement waits for a lock that another program holds for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// All statements of this module and those beside it.
const STATEMENTS_MAX: usize = 32;
/// How many of the last events are looked at when a log is opened, at least.
const CHECKED_EVENTS: u64 = 1000;
