//! The ledger, offered over the KurrentDB (EventStoreDB) gRPC protocol, so that official clients in
//! any language read it, follow it, and keep streams of their own in it.
//!
//! # What there is
//!
//! `ServerFeatures`, `Gossip` (one member, the leader), `Streams.Read`, `Streams.Append`,
//! `Streams.BatchAppend`, and of the v2 protocol `AppendRecords`. Deleting is refused: events are
//! never removed. Everything else is unimplemented: persistent subscriptions, projections, users,
//! links.
//!
//! # A call in a straight line
//!
//! 1. `connection` bounds how long a client may take to begin; `server` how many there are.
//! 2. `dispatch` finds the method; `caller` asks for an API key and counts the key's calls; the call
//!    takes one of the places, or is refused.
//! 3. `read` walks over the ledger as fast as the client takes the events, not faster: a message is
//!    made when the connection has room for it.
//! 4. `append` gathers one write, within bounds, and appends it through the ledger's own primitive.
//!
//! # Rights
//!
//! The key is the password of basic credentials; the user name is not looked at. `events:read` reads
//! and subscribes, and writes to streams whose names begin with `user-`. `ledger:append` writes to
//! the service's own streams as well; there every event must be one that the service understands. It
//! also says when events of the users happened, which a copy of them does.
//!
//! # Positions
//!
//! Commit and prepare position of an event are its sequence plus one: 0 is before the first event, so
//! that a subscription from 0 begins with it. They grow by one from event to event.
//!
//! # Where it differs from KurrentDB
//!
//! An event's id names one fact for good, whichever expectation it is sent with: a repeat is answered
//! with the place that the event has, and an id that is stored with another stream, type or data is
//! refused. One append holds at most 1,024 events of 4 MiB each and 16 MiB together. Stream names
//! have at most 200 bytes and do not begin with `$`.

// `Status` is large, and it is what tonic's handlers return.
#![allow(clippy::result_large_err)]

mod about;
mod append;
mod caller;
mod connection;
mod dispatch;
mod event;
mod read;
mod refusal;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use crate::access::{ApiKeyId, RateLimiter, Registry};
use crate::clock::Clock;
use crate::ledger::Ledger;

pub use server::{Endpoint, Running, StartError};

/// What stands behind the protocol.
pub struct Parts {
    /// The event log.
    pub ledger: Arc<Ledger>,
    /// Who may call.
    pub access: Arc<Registry>,
    /// Dates the events of the users.
    pub clock: Clock,
}

/// What every call meets.
struct Shared {
    ledger: Arc<Ledger>,
    access: Arc<Registry>,
    clock: Clock,
    rate: RateLimiter<ApiKeyId>,
    /// The places for calls at once; a read or subscription keeps its place until it ends.
    places: Arc<Semaphore>,
    /// How long a request may take to arrive, and an append to be stored as well.
    append_timeout: Duration,
    /// Becomes `true` when the endpoint is told to stop.
    stopping: watch::Receiver<bool>,
    address: SocketAddr,
    /// Differs after every start.
    instance: Uuid,
}

/// The position of the event with this sequence.
const fn position_of(sequence: u64) -> u64 {
    sequence.saturating_add(1)
}
