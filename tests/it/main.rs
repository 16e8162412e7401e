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
mod commands;
mod containers;
mod contract;
mod copy;
mod crashes;
mod device;
mod elsewhere;
mod golden_flow;
mod grpc;
mod http_shell;
mod https;
mod key_types;
mod layout;
mod matrix;
mod mutations;
mod openapi;
mod packaging;
mod policies;
mod process;
mod programs;
mod projections;
mod quota;
mod quota_policy;
mod repeats;
mod replay;
mod reservations;
mod revocation;
mod schemathesis;
mod service;
mod several;
mod shapes;
mod support;
mod views;
mod voiding;
mod webhooks;
mod wire;
