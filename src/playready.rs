#![doc = include_str!("playready/protocol.md")]

pub mod bcert;
pub mod content_key;
pub mod ecc;
pub mod elgamal;
mod field;
pub mod key_seed;
pub mod kid;
pub mod pki;
pub mod policy;
pub mod reader;
pub mod revocation;
pub mod xmr;
