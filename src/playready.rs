//! The license protocol: bytes in, typed values out, and back.
//!
//! Pure: no I/O, no clock, no dice; time and randomness are passed in. Networking, storage and the
//! ledger's rules live elsewhere. [`protocol`] is the page that every rule here is taken from;
//! "section" in this module's documentation means a section of that page.
//!
//! A request goes through [`challenge`] (with [`xml`], [`soap`], [`signature`], [`client_data`],
//! [`bcert`]) and comes out verified; [`acquire`], [`acknowledge`] and [`delete`] are its three
//! messages and their answers. [`xmr`] seals and opens licenses under a [`policy`]; [`pki`] is the
//! set of files that all keys come from.

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
pub mod protocol;
pub mod reader;
pub mod rev_info;
pub mod revocation;
pub mod signature;
pub mod soap;
pub mod xml;
pub mod xmr;
