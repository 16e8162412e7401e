//! SQLite files that are derived from the ledger and may be made anew at any time.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use uuid::Uuid;

use super::{Ledger, ReadError};

/// Opens a derived file for writing, and brings it to the schema whose steps are `migrations`, in
/// order. WAL, so that readers never wait; `synchronous=NORMAL`, since what a power failure takes
/// is derived again. Like all data, the file is its owner's only.
pub fn open_for_writing(path: &Path, migrations: &[&str]) -> rusqlite::Result<Connection> {
    // What SQLite keeps beside it gets the same permissions. If the file cannot be made, SQLite says
    // why.
    let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut connection = Connection::open(path)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_FRAMES)?;
    migrate(&mut connection, migrations)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let applied: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (step, migration) in migrations.iter().enumerate().skip(applied) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", step + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// How far a derived file has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checkpoint {
    /// Sequence of the next event to apply.
    pub next_sequence: u64,
    /// Id of the last event applied.
    pub last_event_id: Option<Uuid>,
}

impl Checkpoint {
    /// Whether it was `ledger` that the file was derived from.
    pub async fn is_of(&self, ledger: &Ledger) -> Result<bool, ReadError> {
        let applied = match self.next_sequence.checked_sub(1) {
            Some(last) => ledger.read_all(last, 1).await?.first().map(|recorded| recorded.id),
            None => None,
        };
        Ok(applied == self.last_event_id)
    }
}

/// How many events a derived file of any version has applied; 0 if it cannot be read or there is none.
pub fn events_in(path: &Path) -> u64 {
    let count = |file: Connection| {
        file.query_row("SELECT next_sequence FROM checkpoint", [], |row| row.get(0))
    };
    open_read_only(path).and_then(count).unwrap_or(0)
}

/// Connections that read a derived file, as many as are needed at once.
pub struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    /// Readers of the file at `path`. None is opened yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default() }
    }

    /// A connection that nobody else has.
    pub fn take(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| open_read_only(&self.path), Ok)
    }

    /// Takes a connection back that is in no transaction.
    pub fn give_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Removes a derived file and what SQLite keeps beside it.
pub fn remove(path: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(PathBuf::from(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The page cache of the connection that writes.
const CACHE_KIB: i64 = 32 << 10;
/// The write-ahead log grows to 4 MiB before it is brought to disk and copied: events of many devices
/// change the same pages again and again. More at once would keep the disk from the commits of the
/// ledger for longer.
const CHECKPOINT_FRAMES: i64 = 1024;
