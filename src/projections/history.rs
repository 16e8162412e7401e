//! The events themselves, page by page.

mod life;

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::DeviceRef;
use crate::ledger::codec::CodecError;
use crate::ledger::state::deciding::device_stream;
use crate::ledger::{Ledger, ReadError, Recorded};

pub use life::LifeEvent;

/// Reads events as they are stored.
#[derive(Clone)]
pub struct History {
    ledger: Arc<Ledger>,
}

/// An event as it is shown: the body is the stored bytes, not a rendering of them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventView {
    /// Place in the ledger. Numbers that are missing belong to events of users.
    pub sequence: u64,
    /// The ledger engine's own position.
    #[schema(example = "3")]
    pub cursor: String,
    /// The stream.
    #[schema(example = "device-beb4pw6chv22zwww44tn5zxsb4")]
    pub stream: String,
    /// Place in the stream, gapless from 0.
    pub revision: u64,
    /// The event's id.
    pub id: Uuid,
    /// Its type tag.
    #[serde(rename = "type")]
    #[schema(example = "device-enrolled.v1")]
    pub kind: String,
    /// Its body, byte for byte as it is stored; its shape depends on the type.
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
}

/// The events cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The ledger cannot be read.
    #[error("the ledger cannot be read")]
    Ledger(#[from] ReadError),
    /// An event cannot be decoded.
    #[error("an event cannot be decoded")]
    Codec(#[from] CodecError),
    /// A stored body is not JSON.
    #[error("event {sequence} does not hold JSON")]
    Body {
        /// Which event.
        sequence: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl History {
    /// Reads `ledger`.
    pub fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger }
    }

    /// Sequence of the last event, if there is any.
    pub async fn last_sequence(&self) -> Result<Option<u64>, HistoryError> {
        Ok(self.ledger.last_sequence().await?)
    }

    /// Up to `limit` events of the service's own streams from sequence `from` on, and the sequence to
    /// go on with. Events that users keep in the ledger are passed over.
    pub async fn all(
        &self,
        from: u64,
        limit: usize,
    ) -> Result<(Vec<EventView>, u64), HistoryError> {
        let (mut next, mut views) = (from, Vec::with_capacity(limit));
        let mut step = limit;
        while views.len() < limit {
            let read = self.ledger.read_all(next, step).await?;
            if read.is_empty() {
                break;
            }
            for recorded in read {
                if views.len() == limit {
                    break;
                }
                next = recorded.sequence + 1;
                if !recorded.stream.is_users() {
                    views.push(view(recorded)?);
                }
            }
            // There may be many of the users' in a row.
            step = step.max(PASSED_OVER_AT_ONCE);
        }
        Ok((views, next))
    }

    /// Up to `limit` events of one device from revision `from` on.
    pub async fn of_device(
        &self,
        device: &DeviceRef,
        from: u64,
        limit: usize,
    ) -> Result<Vec<EventView>, HistoryError> {
        let stream = device_stream(device);
        self.ledger.read_stream(&stream, from, limit).await?.into_iter().map(view).collect()
    }
}

const PASSED_OVER_AT_ONCE: usize = 1000;

fn view(recorded: Recorded) -> Result<EventView, HistoryError> {
    let sequence = recorded.sequence;
    let data = serde_json::from_slice(&recorded.data)
        .map_err(|source| HistoryError::Body { sequence, source })?;
    Ok(EventView {
        sequence,
        cursor: recorded.cursor.to_string(),
        stream: recorded.stream.to_string(),
        revision: recorded.revision,
        id: recorded.id,
        kind: recorded.kind.into_owned(),
        data,
    })
}
