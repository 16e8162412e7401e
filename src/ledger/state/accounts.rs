//! Accounts at the head of their streams.
//!
//! Whoever decides about a device takes the device first and then the accounts concerned, in the
//! order of their names, so that no two wait for each other.

use std::sync::{Arc, PoisonError};

use tokio::sync::{OwnedMappedMutexGuard, OwnedMutexGuard};

use super::super::StreamName;
use super::super::tail::Fact;
use super::deciding::{Deciding, READ_EVENTS};
use super::store::{ACCOUNT_STREAM, StateError};
use crate::domain::{Account, AccountRef, Event};

/// An account at one revision of its stream.
pub(super) struct Loaded {
    account: Account,
    head: Option<u64>,
}

/// One account, held for one decision.
pub struct AccountGuard {
    deciding: Arc<Deciding>,
    stream: StreamName,
    loaded: OwnedMappedMutexGuard<Option<Loaded>, Loaded>,
}

impl Deciding {
    /// Waits for the account and loads it, as [`hold`](Self::hold) does a device.
    pub async fn hold_account(
        self: &Arc<Self>,
        name: &AccountRef,
    ) -> Result<AccountGuard, StateError> {
        let slot = {
            let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(accounts.get_or_insert_mut(name.clone(), Arc::default))
        };
        let mut slot = slot.lock_owned().await;
        let (loaded, from_store) = match slot.take() {
            Some(loaded) => (loaded, false),
            None => {
                let stored = self.store.account(name)?;
                let (head, account) = stored.map(|(head, account)| (Some(head), account)).unzip();
                let (head, account) = (head.flatten(), account.unwrap_or_default());
                (Loaded { account, head }, true)
            }
        };
        let mut guard = AccountGuard {
            deciding: Arc::clone(self),
            stream: account_stream(name),
            loaded: OwnedMutexGuard::map(slot, |slot| slot.insert(loaded)),
        };
        if from_store {
            guard.refresh().await?;
        }
        Ok(guard)
    }
}

/// The stream that holds an account's events.
pub fn account_stream(account: &AccountRef) -> StreamName {
    match StreamName::new(&format!("{ACCOUNT_STREAM}{account}")) {
        Ok(name) => name,
        Err(_) => unreachable!("a reference is 26 letters and digits"),
    }
}

impl AccountGuard {
    /// The account's state at [`head`](Self::head).
    pub fn account(&self) -> &Account {
        &self.loaded.account
    }

    /// Revision of the last event folded; `None` if the stream is empty.
    pub fn head(&self) -> Option<u64> {
        self.loaded.head
    }

    /// The account's stream.
    pub fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// Reads the head of the stream and folds what is new; tells whether there was anything.
    pub async fn refresh(&mut self) -> Result<bool, StateError> {
        let before = self.head();
        loop {
            let from = self.head().map_or(0, |head| head + 1);
            let new = self.deciding.ledger.read_stream(&self.stream, from, READ_EVENTS).await?;
            let more = new.len() == READ_EVENTS;
            for recorded in new {
                let fact = Fact::of(recorded)?;
                self.fold(&fact.event, fact.recorded.revision);
            }
            if !more {
                return Ok(self.head() != before);
            }
        }
    }

    /// Folds events that this guard's holder has just committed to the account's stream.
    pub async fn committed<'a>(
        &mut self,
        events: impl IntoIterator<Item = &'a Event>,
        last_revision: u64,
    ) -> Result<(), StateError> {
        let events: Vec<_> = events.into_iter().collect();
        let first = self.head().map_or(0, |head| head + 1);
        let after = u64::try_from(events.len()).ok().and_then(|count| first.checked_add(count));
        if after != last_revision.checked_add(1) {
            return self.refresh().await.map(drop);
        }
        for (event, revision) in events.into_iter().zip(first..) {
            self.fold(event, revision);
        }
        Ok(())
    }

    fn fold(&mut self, event: &Event, revision: u64) {
        self.loaded.account.evolve(event);
        self.loaded.head = Some(revision);
    }
}
