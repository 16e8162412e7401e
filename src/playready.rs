#![doc = include_str!("playready/protocol.md")]

pub mod acknowledge;
pub mod acquire;
pub mod bcert;
pub mod challenge;
pub mod client_data;
pub mod content_key;
pub mod delete;
pub mod ecc;
pub mod elgamal;
mod field;
pub mod header;
pub mod key_seed;
pub mod kid;
pub mod pki;
pub mod policy;
pub mod reader;
pub mod rev_info;
pub mod revocation;
pub mod signature;
pub mod soap;
pub mod xml;
pub mod xmr;
