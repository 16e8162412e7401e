#![doc = include_str!("playready/protocol.md")]

pub mod acknowledge;
pub mod acquire;
pub mod bcert;
pub mod challenge;
pub mod client_data;
pub mod delete;
pub mod ecc;
pub mod elgamal;
pub mod header;
pub mod kid;
pub mod reader;
pub mod rev_info;
pub mod signature;
pub mod soap;
pub mod xml;
