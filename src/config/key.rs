//! The list of settings: each name, what it takes, and what it is for.

use std::net::SocketAddr;

use data_encoding::BASE64;

use super::Origins;

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Its name: `section.key`, or only `key` outside all sections.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
}

impl Key {
    /// Its name in the environment.
    pub fn env(&self) -> String {
        format!("{}{}", super::ENV_PREFIX, self.name.replace('.', "_").to_uppercase())
    }
}

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number from the first to the second, both included.
    Integer(i64, i64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// An address and port: `127.0.0.1:8290` or `[::1]:8290`.
    Address,
    /// A path in the file system.
    Path,
    /// The base64 of 16 bytes.
    Id16,
    /// Origins of pages, or `*`: see [`Origins`].
    Origins,
    /// Whole numbers from 1 to 100.
    Percents,
    /// Tables of settings of their own, each `[[NAME]]` in the file.
    Tables,
    /// Any text but the empty one.
    Text,
}

impl Kind {
    /// What a value has to be, to complete "must be …".
    pub(super) fn expectation(self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Integer(least, most) => format!("a whole number from {least} to {most}"),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::Address => "an IP address and a port, such as 127.0.0.1:8290".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Id16 => "the base64 of 16 bytes".to_owned(),
            Self::Origins => {
                "origins such as https://player.example, separated by spaces, or *".to_owned()
            }
            Self::Percents => "whole numbers from 1 to 100, such as [80, 100]".to_owned(),
            Self::Tables => "a list of tables, such as [{id = \"a\", …}, …]".to_owned(),
            Self::Text => "text".to_owned(),
        }
    }

    /// Reads text, as it comes from the environment or the command line. `None`: not acceptable.
    pub(super) fn parse(self, text: &str) -> Option<toml::Value> {
        let value = match self {
            Self::Bool => toml::Value::Boolean(text.parse().ok()?),
            Self::Integer(..) => toml::Value::Integer(text.parse().ok()?),
            Self::Percents | Self::Tables => inline(text)?,
            _ => toml::Value::String(text.to_owned()),
        };
        self.accepts(&value).then_some(value)
    }

    /// Whether a value has the right type and lies in range.
    pub(super) fn accepts(self, value: &toml::Value) -> bool {
        match (self, value) {
            (Self::Bool, toml::Value::Boolean(_)) => true,
            (Self::Integer(least, most), toml::Value::Integer(number)) => {
                (least..=most).contains(number)
            }
            (Self::OneOf(words), toml::Value::String(text)) => words.contains(&text.as_str()),
            (Self::Address, toml::Value::String(text)) => text.parse::<SocketAddr>().is_ok(),
            (Self::Id16, toml::Value::String(text)) => {
                BASE64.decode(text.as_bytes()).is_ok_and(|bytes| bytes.len() == 16)
            }
            (Self::Origins, toml::Value::String(text)) => text.parse::<Origins>().is_ok(),
            (Self::Percents, toml::Value::Array(values)) => {
                values.iter().all(|value| Self::Integer(1, 100).accepts(value))
            }
            (Self::Tables, toml::Value::Array(values)) => values.iter().all(toml::Value::is_table),
            (Self::Path | Self::Text, toml::Value::String(text)) => !text.is_empty(),
            _ => false,
        }
    }
}

/// A value as it stands in a file behind `NAME =`.
fn inline(text: &str) -> Option<toml::Value> {
    let mut table: toml::Table = format!("value = {text}").parse().ok()?;
    table.remove("value").filter(|_| table.is_empty())
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

const MINUTE_MS: i64 = 60_000;

/// All settings. A time of zero would switch a limit off, so there is none.
pub const KEYS: &[Key] = &[
    key("listen", Kind::Address),
    key("data", Kind::Path),
    key("ledger", Kind::Text),
    key("kurrentdb.credentials_file", Kind::Path),
    key("kurrentdb.stream_prefix", Kind::Text),
    key("kurrentdb.new_ledger", Kind::Bool),
    key("pki", Kind::Path),
    key("secrets", Kind::Path),
    key("authorize", Kind::OneOf(&["open", "token", "callback"])),
    key("i_know", Kind::Bool),
    key("token.issuer", Kind::Text),
    key("token.audience", Kind::Text),
    key("token.keys_file", Kind::Path),
    key("token.keys_url", Kind::Text),
    key("token.ca", Kind::Path),
    key("token.allow_http", Kind::Bool),
    key("token.leeway_seconds", Kind::Integer(0, 600)),
    key("token.refresh_seconds", Kind::Integer(1, 24 * 3600)),
    key("callback.url", Kind::Text),
    key("callback.secret_file", Kind::Path),
    key("callback.ca", Kind::Path),
    key("callback.allow_http", Kind::Bool),
    key("callback.timeout_ms", Kind::Integer(10, MINUTE_MS)),
    key("callback.retries", Kind::Integer(0, 10)),
    key("callback.deadline_ms", Kind::Integer(10, MINUTE_MS)),
    key("callback.in_flight", Kind::Integer(1, 1_024)),
    key("tls.certificate", Kind::Path),
    key("tls.key", Kind::Path),
    key("limits.body_bytes", Kind::Integer(1_024, 16 << 20)),
    key("limits.header_timeout_ms", Kind::Integer(10, MINUTE_MS)),
    key("limits.body_timeout_ms", Kind::Integer(10, 10 * MINUTE_MS)),
    key("limits.min_body_rate_bytes_per_second", Kind::Integer(1, 1 << 30)),
    key("limits.in_flight", Kind::Integer(1, 1 << 20)),
    key("limits.connections", Kind::Integer(1, 1 << 20)),
    key("limits.request_timeout_ms", Kind::Integer(10, 10 * MINUTE_MS)),
    key("limits.keep_alive_ms", Kind::Integer(10, 10 * MINUTE_MS)),
    key("limits.shutdown_ms", Kind::Integer(10, 10 * MINUTE_MS)),
    key("limits.workers", Kind::Integer(0, 1_024)),
    key("limits.lag_events", Kind::Integer(1, 1 << 40)),
    key("quota.device_limit", Kind::Integer(0, 1_000_000)),
    key("quota.licenses_per_slot", Kind::Integer(1, 1_000)),
    key("quota.void_store_failed", Kind::Bool),
    key("quota.void_unconfirmed_after_seconds", Kind::Integer(1, 366 * 24 * 60 * 60)),
    key("quota.void_min_security_level", Kind::Integer(0, 65_535)),
    key("keys.default_seed", Kind::Text),
    key("packaging.certificates", Kind::Path),
    key("packaging.plain_keys", Kind::Bool),
    key("packaging.license_url", Kind::Text),
    key("packaging.listen", Kind::Address),
    key("replay.window_hours", Kind::Integer(0, 24 * 366)),
    key("rate.per_identity_per_minute", Kind::Integer(1, 1_000_000_000)),
    key("rate.burst", Kind::Integer(1, 1_000_000_000)),
    key("rate.per_key_per_minute", Kind::Integer(1, 1_000_000_000)),
    key("rate.per_key_burst", Kind::Integer(1, 1_000_000_000)),
    key("playready.sign_responses", Kind::OneOf(&["always", "persistent", "never"])),
    key("playready.secure_stop_id", Kind::Id16),
    key("playready.revocation_lists", Kind::Path),
    key("clearkey.enabled", Kind::Bool),
    key("clearkey.origins", Kind::Origins),
    key("webhooks.endpoints", Kind::Tables),
    key("webhooks.thresholds_percent", Kind::Percents),
    key("grpc.listen", Kind::Address),
    key("grpc.calls", Kind::Integer(1, 1 << 16)),
    key("grpc.per_key_per_minute", Kind::Integer(1, 1_000_000_000)),
    key("grpc.burst", Kind::Integer(1, 1_000_000_000)),
    key("log.format", Kind::OneOf(&["text", "json"])),
    key("log.level", Kind::Text),
];
