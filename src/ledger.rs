//! The event log.

pub mod codec;
