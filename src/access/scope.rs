//! What an API key may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One permission of an API key. Stored and shown as the text in each description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// `quota:decide`: ask whether a device may take a license.
    QuotaDecide,
    /// `licenses:write`: issue and release licenses through the API.
    LicensesWrite,
    /// `inventory:read`: devices and what they hold.
    InventoryRead,
    /// `audit:read`: receipts, proofs, checkpoints.
    AuditRead,
    /// `analytics:read`: replays and exports.
    AnalyticsRead,
    /// `policy:write`: publish quota policies, and limits for one device or account.
    PolicyWrite,
    /// `support:write`: write-offs, blocks, webhooks sent again.
    SupportWrite,
    /// `keys:write`: make content keys for packagers, and list those there are.
    KeysWrite,
    /// `keys:deliver`: get content keys for packaging.
    KeysDeliver,
    /// `events:read`: read the event log, and how telling it by webhooks stands; keep streams of
    /// one's own in it, with names that begin with `user-`.
    EventsRead,
    /// `ledger:append`: append to any stream of the event log, the service's own included. Who may do
    /// that can change what every device holds: it is for copying a ledger.
    LedgerAppend,
    /// `admin`: manage API keys, and with it everything else.
    Admin,
}

impl Scope {
    /// Every scope there is.
    pub const ALL: [Self; 12] = [
        Self::QuotaDecide,
        Self::LicensesWrite,
        Self::InventoryRead,
        Self::AuditRead,
        Self::AnalyticsRead,
        Self::PolicyWrite,
        Self::SupportWrite,
        Self::KeysWrite,
        Self::KeysDeliver,
        Self::EventsRead,
        Self::LedgerAppend,
        Self::Admin,
    ];

    /// The stored text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QuotaDecide => "quota:decide",
            Self::LicensesWrite => "licenses:write",
            Self::InventoryRead => "inventory:read",
            Self::AuditRead => "audit:read",
            Self::AnalyticsRead => "analytics:read",
            Self::PolicyWrite => "policy:write",
            Self::SupportWrite => "support:write",
            Self::KeysWrite => "keys:write",
            Self::KeysDeliver => "keys:deliver",
            Self::EventsRead => "events:read",
            Self::LedgerAppend => "ledger:append",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope {0:?}; the scopes are {list}", list = Scope::ALL.map(Scope::as_str).join(", "))]
pub struct UnknownScope(pub String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
