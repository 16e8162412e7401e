#![doc = include_str!("playready/protocol.md")]

pub mod bcert;
pub mod ecc;
pub mod elgamal;
pub mod kid;
pub mod reader;
