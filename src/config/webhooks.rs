//! Who is told what happens.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;

/// Who is told what happens, by webhooks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhooks {
    /// The servers that are told.
    pub endpoints: Vec<WebhookEndpoint>,
    /// Shares of the limit of a rule that are told when what it counts of a device or account reaches
    /// them.
    pub thresholds_percent: Vec<u8>,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self { endpoints: Vec::new(), thresholds_percent: vec![80, 100] }
    }
}

/// A server that is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookEndpoint {
    /// Its name here: 1 to 64 lower-case letters, digits and hyphens. What it was sent is kept under
    /// it.
    pub id: String,
    /// URL that messages are posted to.
    pub url: String,
    /// Files with a secret each, `whsec_…` or `whsk_…`. A message is signed with all of them, so that
    /// a receiver can change from one to another.
    pub secret_files: Vec<PathBuf>,
    /// The types of messages it is told; all if none is named.
    #[serde(default)]
    pub types: Vec<String>,
    /// PEM file of the certificates that the server of an `https` URL may be known by.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Time for one attempt. The standard advises 15 to 30 seconds.
    #[serde(default = "timeout_seconds")]
    pub timeout_seconds: u64,
    /// Messages on their way at once. With one they come in the order of the ledger, unless one
    /// fails.
    #[serde(default = "in_flight")]
    pub in_flight: usize,
    /// Whether addresses that are not public may be connected to.
    #[serde(default)]
    pub allow_private: bool,
    /// Whether the URL may be `http`, which anybody on the way can read.
    #[serde(default)]
    pub allow_http: bool,
    /// The position to begin at when there is no record of what it was sent; the end of the ledger
    /// if not set.
    #[serde(default)]
    pub from: Option<u64>,
}

const fn timeout_seconds() -> u64 {
    20
}

const fn in_flight() -> usize {
    1
}

/// Length of the longest id, in bytes.
const ID_BYTES_MAX: usize = 64;

impl Webhooks {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mut ids = BTreeSet::new();
        for endpoint in &self.endpoints {
            let wrong = |reason| ConfigError::Webhook { id: endpoint.id.clone(), reason };
            endpoint.check().map_err(wrong)?;
            if !ids.insert(&endpoint.id) {
                return Err(wrong("two endpoints have this id; give each its own"));
            }
        }
        Ok(())
    }
}

impl WebhookEndpoint {
    fn check(&self) -> Result<(), &'static str> {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=ID_BYTES_MAX).contains(&self.id.len()) || !self.id.bytes().all(letter) {
            Err("id must be 1 to 64 lower-case letters, digits and hyphens")
        } else if self.secret_files.is_empty() {
            Err("secret_files names no file; name one with a secret")
        } else if !self.allow_http && !self.url.starts_with("https://") {
            Err("url must begin with https://, or allow_http be true")
        } else if !(1..=60).contains(&self.timeout_seconds) {
            Err("timeout_seconds must be a whole number from 1 to 60")
        } else if !(1..=64).contains(&self.in_flight) {
            Err("in_flight must be a whole number from 1 to 64")
        } else {
            Ok(())
        }
    }
}
