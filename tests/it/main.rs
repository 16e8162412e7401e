//! The whole service from outside: real sockets, real processes, real files.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // here they are assertions

mod client;
mod device;
mod golden_flow;
mod http_shell;
mod layout;
mod mutations;
mod process;
mod quota;
mod repeats;
mod replay;
mod service;
