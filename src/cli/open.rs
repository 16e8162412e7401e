//! Opens the ledger that the configuration names.

use std::path::Path;

use anyhow::Context;

use crate::access::secrets;
use crate::config::Config;
use crate::ledger::embedded::{OpenError, Options};
use crate::ledger::kurrent::{self, Credentials, KurrentError};
use crate::ledger::state::StateStore;
use crate::ledger::{Embedded, Kurrent, Ledger};
use crate::projections::Inventory;

/// Opens the ledger, in `data` or in a cluster, and makes it if there is none.
pub(crate) async fn ledger(config: &Config, data: &Path) -> anyhow::Result<Ledger> {
    if let Some(options) = cluster(config)? {
        return Ok(Ledger::Kurrent(Kurrent::open(data, options).await?));
    }
    if let Err(OpenError::Missing { .. } | OpenError::Empty { .. }) = Embedded::require(data) {
        refuse_lost(data)?;
    }
    let ledger = Embedded::open(data, Options::default())?;
    if ledger.last_sequence()?.is_none() {
        refuse_lost(data)?;
    }
    Ok(Ledger::Embedded(ledger))
}

/// A ledger that went away is not begun anew, with all quotas free again, unless somebody says so.
/// What was derived from it tells that there was one.
fn refuse_lost(data: &Path) -> anyhow::Result<()> {
    let events = StateStore::events_in(data).max(Inventory::events_in(data));
    anyhow::ensure!(
        events == 0,
        "the ledger of {0} is gone: {0}/ledger.db is missing or empty, and {events} events were \
         stored. Restore it from a backup with the ledger.db-wal that belongs to it, or name the \
         cluster that keeps it with --ledger; if a new ledger is meant, remove state.db and \
         read_models.db",
        data.display()
    );
    Ok(())
}

/// The cluster that keeps the ledger; `None`: the data directory does.
pub(crate) fn cluster(config: &Config) -> anyhow::Result<Option<kurrent::Options>> {
    let Some(address) = &config.ledger else { return Ok(None) };
    let address = address.parse();
    let address = address.with_context(|| "ledger is no address of a cluster".to_owned())?;
    let file = config.kurrentdb.credentials_file.as_deref();
    let credentials = file.map(credentials).transpose()?;
    let stream_prefix = config.kurrentdb.stream_prefix.clone();
    Ok(Some(kurrent::Options { address, credentials, stream_prefix }))
}

/// The same for what makes no sense with a ledger that is not there yet.
pub(crate) async fn existing_ledger(config: &Config, data: &Path) -> anyhow::Result<Ledger> {
    if config.ledger.is_none() {
        Embedded::require(data)?;
    }
    ledger(config, data).await
}

/// Opens the ledger for reading, also beside the process that serves it from `data`. From a cluster
/// it is read by way of a directory of its own then, which `scratch` keeps.
pub(crate) async fn for_reading(
    config: &Config,
    data: &Path,
    scratch: &mut Option<tempfile::TempDir>,
) -> anyhow::Result<Ledger> {
    if config.ledger.is_none() {
        return Ok(Ledger::Embedded(Embedded::open_read_only(data)?));
    }
    match ledger(config, data).await {
        Err(error) if is_in_use(&error) => {
            let dir = scratch.insert(tempfile::tempdir()?);
            ledger(config, dir.path()).await
        }
        opened => opened,
    }
}

/// Whether another process has the data directory.
pub(crate) fn is_in_use(error: &anyhow::Error) -> bool {
    let directory = match error.downcast_ref::<KurrentError>() {
        Some(KurrentError::Directory(error)) => Some(error),
        _ => error.downcast_ref::<OpenError>(),
    };
    matches!(directory, Some(OpenError::InUse { .. }))
}

/// Name and password in one line, `name:password`.
fn credentials(path: &Path) -> anyhow::Result<Credentials> {
    let text = secrets::read_text(path).context("cannot use kurrentdb.credentials_file")?;
    let (user, password) = text.trim_end().split_once(':').with_context(|| {
        format!("{} must hold one line of the form name:password", path.display())
    })?;
    Ok(Credentials { user: user.to_owned(), password: password.to_owned().into() })
}
