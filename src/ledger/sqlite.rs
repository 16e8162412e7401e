//! SQLite files that are derived from the ledger and may be made anew at any time.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// Opens a derived file for writing and brings it to the schema whose steps are `migrations`, in
/// order. WAL, so that readers never wait; `synchronous=NORMAL`, since what a power failure takes
/// is derived again. The write-ahead log grows to 32 MiB before it is copied: events of many devices
/// change the same pages again and again, and each copy waits for the disk that the ledger commits to.
pub fn open_disposable(path: &Path, migrations: &[&str]) -> rusqlite::Result<Connection> {
    // For its owner only, and so is what SQLite keeps beside it. If it cannot be made, SQLite says
    // why.
    let _ = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let mut connection = Connection::open(path)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -32768;
         PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 8192;",
    )?;
    let applied: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (step, migration) in migrations.iter().enumerate().skip(applied) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", step + 1)?;
        transaction.commit()?;
    }
    Ok(connection)
}

/// Opens a derived file for reading.
pub fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
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
