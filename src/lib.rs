//! license-ledger: an event-sourced license ledger.
//!
//! It issues licenses over the PlayReady license acquisition protocol, takes secure-delete
//! acknowledgements, appends every one of them as an immutable event, derives the live license
//! inventory of every device from those events, and lets that inventory enforce quotas on
//! persistent licenses.
//!
//! # Map
//!
//! - [`playready`]: pure. Bytes in, typed values out, and back: SOAP messages, challenges,
//!   certificates, XMR licenses, headers, keys.
//! - [`ledger`]: the append-only event log and the state that decisions are made on.
//! - [`access`]: API keys, scopes, rate limits, key files.
//! - [`config`]: what an operator can set.
//! - [`http`]: the outer shell around every request; routes are installed into it.
//! - [`clock`]: time as a value that is passed in.
pub mod access;
pub mod clock;
pub mod config;
pub mod http;
pub mod ledger;
pub mod playready;
