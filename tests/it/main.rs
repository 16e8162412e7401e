//! The whole service from outside: real sockets, real processes, real files.

// Here they are assertions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod acknowledgements;
mod api;
mod attacks;
mod authorize;
mod browser;
mod canary;
mod chains;
mod checker;
mod clearkey;
mod client;
mod command_line;
mod crashes;
mod device;
mod golden_flow;
mod http_shell;
mod https;
mod key_types;
mod layout;
mod matrix;
mod mutations;
mod packaging;
mod policies;
mod process;
mod quota;
mod repeats;
mod replay;
mod revocation;
mod service;
mod shapes;
mod voiding;
mod wire;
