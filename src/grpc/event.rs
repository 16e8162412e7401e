//! Events as the protocol shows and proposes them.

use serde::Deserialize;
use tonic::Status;
use uuid::Uuid;

use super::{position_of, refusal};
use crate::clock::UnixMillis;
use crate::kurrent_protocol::metadata;
use crate::kurrent_protocol::shared::{UuidMessage, ticks};
use crate::kurrent_protocol::streams::{
    EventPosition, ProposedMessage, ReadEvent, ReadResp, ReadRespContent, RecordedEvent, UuidChoice,
};
use crate::ledger::tail::error_text;
use crate::ledger::users::UserMetadata;
use crate::ledger::{NewEvent, Recorded, StreamName, codec};

/// What goes into the answer of a read for this event.
pub(super) fn shown(recorded: Recorded, uuids: UuidChoice) -> ReadResp {
    let position = position_of(recorded.sequence);
    let (surroundings, custom_metadata) = surroundings(&recorded);
    let entries = [
        (metadata::TYPE, recorded.kind.into_owned()),
        (metadata::CREATED, ticks(surroundings.at_ms).to_string()),
        (metadata::CONTENT_TYPE, content_type(surroundings.json).to_owned()),
    ];
    let event = RecordedEvent {
        id: Some(match uuids {
            UuidChoice::Structured(()) => UuidMessage::structured(recorded.id),
            UuidChoice::Text(()) => UuidMessage::text(recorded.id),
        }),
        stream_identifier: Some(recorded.stream.as_str().into()),
        stream_revision: recorded.revision,
        prepare_position: position,
        commit_position: position,
        metadata: entries.map(|(key, value)| (key.to_owned(), value)).into(),
        custom_metadata,
        data: recorded.data,
    };
    let position = Some(EventPosition::Commit(position));
    let event = Box::new(ReadEvent { event: Some(event), link: None, position });
    ReadResp { content: Some(ReadRespContent::Event(event)) }
}

/// What is known of an event beside what its writer said, and what its writer said.
fn surroundings(recorded: &Recorded) -> (UserMetadata, Vec<u8>) {
    if recorded.stream.is_users() {
        let (surroundings, custom) = UserMetadata::read(&recorded.metadata);
        return (surroundings, custom.to_vec());
    }
    /// Every event of ours says when it happened.
    #[derive(Deserialize)]
    struct Dated {
        at_ms: i64,
    }
    let dated = serde_json::from_slice(&recorded.data).unwrap_or(Dated { at_ms: 0 });
    (UserMetadata { at_ms: dated.at_ms, json: true }, recorded.metadata.clone())
}

fn content_type(json: bool) -> &'static str {
    if json { metadata::JSON } else { metadata::BYTES }
}

/// An event that a client wants to append.
pub(super) struct Proposed {
    pub(super) id: Uuid,
    pub(super) kind: String,
    pub(super) json: bool,
    pub(super) data: Vec<u8>,
    pub(super) custom_metadata: Vec<u8>,
}

impl Proposed {
    pub(super) fn of(message: ProposedMessage) -> Result<Self, Status> {
        let ProposedMessage { id, metadata: mut entries, custom_metadata, data } = message;
        let id = id.and_then(|id| id.id());
        let id = id.ok_or_else(|| refusal::invalid("an event needs an id, which is a UUID"))?;
        let kind = entries.remove(metadata::TYPE).unwrap_or_default();
        let json = entries.get(metadata::CONTENT_TYPE).is_some_and(|kind| kind == metadata::JSON);
        Ok(Self { id, kind, json, data, custom_metadata })
    }

    /// The bytes that it brings along.
    pub(super) fn size_bytes(&self) -> usize {
        self.kind.len() + self.data.len() + self.custom_metadata.len()
    }

    /// The event as it goes into `stream`. In a stream of ours it has to be one of ours; in a stream
    /// of the users it may be anything, and `now` is when it happened.
    pub(super) fn into_event(
        self,
        stream: &StreamName,
        now: UnixMillis,
    ) -> Result<NewEvent, Status> {
        let Self { id, kind, json, data, custom_metadata } = self;
        let metadata = if stream.is_users() {
            UserMetadata { at_ms: now.0, json }.write(&custom_metadata)
        } else {
            codec::decode(&kind, &data).map_err(|error| {
                let reason = error_text(&error);
                refusal::invalid(format!("event {id} is none of the service's own: {reason}"))
            })?;
            custom_metadata
        };
        Ok(NewEvent { id, kind: kind.into(), data, metadata })
    }
}
