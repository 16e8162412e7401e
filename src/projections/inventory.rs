//! The inventory: what each device holds, and what it held.

mod accounts;
mod acts;
mod apply;
mod elsewhere;
mod life;
mod over;
mod query;
mod reserved;
mod support;
mod voided;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use uuid::Uuid;

use crate::ledger::sqlite::{self, Checkpoint, Readers};
use crate::ledger::tail::{Progress, Tail};
use crate::ledger::{Ledger, ReadError};

pub use accounts::{AccountDevice, AccountSummary, AccountTitle, LimitInForce, Listed};
pub use acts::DeviceAct;
pub use life::{Filter, LicenseView, RefusalView};
pub use over::Suspect;
pub use query::{
    ChainPart, DeviceInventory, DevicePage, DeviceSummary, HeldLicense, LicenseStatus,
};
pub use reserved::HeldReservation;
pub use support::{Block, Successor, WrittenOffLicense};
pub use voided::{Unconfirmed, VoidedLicense};

/// How long events gather before they are applied, unless a reader waits for them. Together they
/// change the same pages, which are then written once.
const PAUSE: Duration = Duration::from_secs(1);

const FILE: &str = "read_models.db";
const SCHEMA: &[&str] = &[
    include_str!("../../migrations/read_models/0001_inventory.sql"),
    include_str!("../../migrations/read_models/0002_chains.sql"),
    include_str!("../../migrations/read_models/0003_entitlement.sql"),
    include_str!("../../migrations/read_models/0004_voided.sql"),
    include_str!("../../migrations/read_models/0005_accounts.sql"),
    include_str!("../../migrations/read_models/0006_support.sql"),
    include_str!("../../migrations/read_models/0007_elsewhere.sql"),
    include_str!("../../migrations/read_models/0008_reservations.sql"),
    include_str!("../../migrations/read_models/0009_acts.sql"),
    include_str!("../../migrations/read_models/0010_cuts.sql"),
];

/// The inventory cannot be read or built.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// SQLite said no.
    #[error("the inventory database failed; `license-ledger rebuild` makes it anew")]
    Database(#[from] rusqlite::Error),
    /// The ledger cannot be read.
    #[error("the ledger cannot be read")]
    Ledger(#[from] ReadError),
    /// The tail could not be started.
    #[error("the inventory's tail cannot be started")]
    Tail(#[from] std::io::Error),
    /// The tail stopped; the inventory is not kept any more.
    #[error("the inventory is not kept up to date: {0}")]
    Stopped(String),
}

/// Answers questions about devices. Clones of an `Arc` share one tail.
pub struct Inventory {
    readers: Readers,
    tail: Option<Tail>,
}

impl Inventory {
    /// Opens or makes the inventory in `dir` and follows `ledger`. Only the process that writes
    /// the ledger does this.
    pub async fn open(dir: &Path, ledger: Arc<Ledger>) -> Result<Self, InventoryError> {
        let path = dir.join(FILE);
        let (file, next_sequence) = open_for(&path, &ledger).await?;
        let builder = apply::Builder { file };
        let tail = Tail::spawn("inventory", ledger, next_sequence, PAUSE, builder).await?;
        Ok(Self { readers: Readers::new(path), tail: Some(tail) })
    }

    /// Opens an inventory that another process keeps, for reading.
    pub fn open_read_only(dir: &Path) -> Result<Self, InventoryError> {
        let readers = Readers::new(dir.join(FILE));
        // Says at once if there is none.
        readers.give_back(readers.take()?);
        Ok(Self { readers, tail: None })
    }

    /// How many events the inventory in `dir` was built from; 0 if there is none.
    pub fn events_in(dir: &Path) -> u64 {
        sqlite::events_in(&dir.join(FILE))
    }

    /// Drops the inventory in `dir`; the next [`open`](Self::open) builds it anew.
    pub fn remove(dir: &Path) -> Result<(), InventoryError> {
        Ok(sqlite::remove(&dir.join(FILE))?)
    }

    /// How far the inventory has been built.
    pub fn progress(&self) -> Result<Progress, InventoryError> {
        match &self.tail {
            Some(tail) => Ok(tail.progress()),
            None => {
                let next_sequence = self.read(next_sequence)?;
                Ok(Progress { next_sequence, last_at_ms: 0, failed: None })
            }
        }
    }

    /// Waits until the event with this sequence is part of the inventory.
    pub async fn wait_for(&self, sequence: u64) -> Result<(), InventoryError> {
        match &self.tail {
            Some(tail) if tail.wait_for(sequence).await => Ok(()),
            Some(tail) => Err(InventoryError::Stopped(tail.progress().failed.unwrap_or_default())),
            None => Ok(()),
        }
    }

    /// Runs `query` in one read transaction on a pooled connection, so that all it reads is of
    /// one position.
    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, InventoryError> {
        let mut connection = self.readers.take()?;
        let transaction = connection.transaction()?;
        let answer = query(&transaction);
        transaction.finish()?;
        self.readers.give_back(connection);
        Ok(answer?)
    }
}

fn next_sequence(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT next_sequence FROM checkpoint", [], |row| row.get(0))
}

/// Opens the file for writing; builds from the start when it is damaged or not this ledger's.
async fn open_for(path: &Path, ledger: &Ledger) -> Result<(Connection, u64), InventoryError> {
    let file = match open_current(path) {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!(%error, "the inventory cannot be used and is built anew: {error}");
            sqlite::remove(path)?;
            open_current(path)?
        }
    };
    let checkpoint =
        file.query_row("SELECT next_sequence, last_event_id FROM checkpoint", [], |row| {
            let last_event_id: Option<[u8; 16]> = row.get(1)?;
            let last_event_id = last_event_id.map(Uuid::from_bytes);
            Ok(Checkpoint { next_sequence: row.get(0)?, last_event_id })
        })?;
    if checkpoint.is_of(ledger).await? {
        return Ok((file, checkpoint.next_sequence));
    }
    tracing::warn!("the inventory belongs to another ledger and is built anew");
    drop(file);
    sqlite::remove(path)?;
    Ok((open_current(path)?, 0))
}

fn open_current(path: &Path) -> rusqlite::Result<Connection> {
    let file = sqlite::open_for_writing(path, SCHEMA)?;
    file.execute("INSERT OR IGNORE INTO checkpoint VALUES (1, 0, NULL)", [])?;
    Ok(file)
}
