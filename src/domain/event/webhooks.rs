//! Facts about webhooks that operators make.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An operator changed how an endpoint is told. Stands in the `admin` stream; how delivery stands is
/// not in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookChanged {
    /// The endpoint's id in the configuration.
    pub endpoint: String,
    /// What was changed.
    pub change: WebhookChange,
    /// Who changed it: the public part of an API key, or `cli`.
    pub actor: String,
    /// When.
    pub at_ms: i64,
}

/// What an operator changed of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookChange {
    /// It is told again, from where it stopped.
    Enabled,
    /// It is told nothing any more.
    Disabled,
    /// What happened from one position up to another is sent again.
    RangeReplayed {
        /// Position that the range begins at.
        from: u64,
        /// Position that it ends at, not included.
        to: u64,
    },
    /// Dead letters are sent again.
    DeadLettersReplayed {
        /// The one; absent: all of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message_id: Option<Uuid>,
    },
}
