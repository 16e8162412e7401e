//! The state that decisions are made on.
//!
//! Local and disposable: one bounded row a device, one an account, and index rows for what was seen
//! before, kept by a tail of the ledger ([`store`], [`folder`]). Devices ([`deciding`]) and accounts
//! ([`accounts`]) used lately stay in memory, at the head of their streams; there the cost of a
//! decision does not depend on the length of history.
//!
//! The state may be behind the ledger. A reader takes a device at revision *r*, folds the events
//! after *r* forward, and its append names the head it arrived at, so a decision is never
//! committed on anything older.

pub mod accounts;
pub mod deciding;
mod folder;
pub mod store;
#[cfg(test)]
mod tests;

pub use accounts::AccountGuard;
pub use deciding::{Deciding, DeviceGuard};
pub use store::{StateError, StateStore};
