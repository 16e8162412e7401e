//! license-ledger: an event-sourced license ledger.
//!
//! It issues licenses over the PlayReady license acquisition protocol, takes secure-delete
//! acknowledgements, appends every one of them as an immutable event, derives the live license
//! inventory of every device from those events, and lets that inventory enforce quotas on
//! persistent licenses.
//!
//! # Map
//!
//! - [`domain`]: pure. What happened, what that makes true, what may happen next.
//! - [`playready`]: pure. Bytes in, typed values out, and back: SOAP messages, challenges,
//!   certificates, XMR licenses, headers, keys.
//! - [`clearkey`]: pure. What browsers ask through Encrypted Media Extensions, and what they get.
//! - [`kurrent_protocol`]: pure. The messages of the KurrentDB gRPC protocol.
//! - [`ledger`]: the append-only event log, and the state that decisions are made on.
//! - [`keys`]: content keys and key seeds, sealed at rest.
//! - [`outbound`]: requests to the service's own servers, signed as Standard Webhooks.
//! - [`entitlement`]: may this be issued, and with which policy?
//! - [`licensing`]: the use cases. The only place where domain, playready and ledger meet.
//! - [`packaging`]: keys for packagers: headers, CPIX and SPEKE, `AcquirePackagingData`.
//! - [`projections`]: read models: the inventory and the history.
//! - [`notify`]: webhooks: the service's own servers are told what happened.
//! - [`access`]: API keys, scopes, rate limits, key files.
//! - [`config`]: what an operator can set.
//! - [`grpc`]: the event log offered over the KurrentDB protocol.
//! - [`http`]: the outer shell around every request, and the routes.
//! - [`simulator`]: a device that speaks the protocol, for the demo, tests and people.
//! - [`clock`]: time as a value that is passed in.
//! - [`cli`]: the command line, one file a subcommand.
pub mod access;
pub mod clearkey;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod entitlement;
pub mod grpc;
pub mod http;
pub mod keys;
pub mod kurrent_protocol;
pub mod ledger;
pub mod licensing;
pub mod notify;
pub mod outbound;
pub mod packaging;
pub mod playready;
pub mod projections;
pub mod simulator;
