//! The rules of the ledger: what happened, what that makes true, and what may happen next.
//!
//! Pure. No I/O, no clock, no dice: time and ids arrive inside commands, so the same history gives
//! the same answer on every machine. Storage, protocol and HTTP live elsewhere and never leak in.
//!
//! - [`event`]: the facts, in the stored shapes that never change.
//! - [`device`]: the state of one device, folded from its events by [`Device::evolve`].
//! - [`key_type`]: how a content key encrypts.
//! - [`lookup`]: the index rows that answer "seen before?" without a device's whole history.
//! - [`acquire`], [`acknowledge`], [`delete`]: one decision each, from state, lookups, command,
//!   policy and time to events.
//! - [`reserve`]: room held for licenses that somebody else issues.
//! - [`account`]: the state of one account, which mirrors what its devices hold.
//! - [`quota`]: the policy. [`usage`]: what its rules count, and decisions that explain themselves.
//! - [`holding`]: what the states of devices and accounts share.
//! - [`support`]: what operators decide about devices. [`reason`]: why they did it.
//! - [`standing`]: how much of each rule is in use.

pub mod account;
pub mod acknowledge;
pub mod acquire;
pub mod delete;
pub mod device;
pub mod event;
pub mod holding;
pub mod ids;
pub mod key_type;
pub mod lookup;
pub mod name;
#[cfg(test)]
mod properties;
pub mod quota;
pub mod reason;
pub mod reserve;
#[cfg(test)]
pub(crate) mod scenario;
pub mod standing;
pub mod support;
pub mod usage;

pub use account::Account;
pub use device::Device;
pub use event::Event;
pub use ids::{
    AccountRef, DeviceRef, Digest, Identity, KeyId, LicenseId, Nonce, ReferenceKey, SessionId, Tag,
    TransactionId,
};
pub use key_type::{KeyRole, KeyType, KeyUse};
pub use name::{InvalidName, Name};
pub use reason::{InvalidReason, Reason};
