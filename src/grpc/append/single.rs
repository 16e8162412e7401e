//! Appends to one stream: `Append`, and what each batch of `BatchAppend` is.

use std::sync::Arc;

use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{Order, Outcome, Wanted, store};
use crate::grpc::dispatch::Call;
use crate::grpc::event::Proposed;
use crate::grpc::read::stream_name;
use crate::grpc::{position_of, refusal};
use crate::kurrent_protocol::errors::CurrentRevision;
use crate::kurrent_protocol::shared::{Expectation, Position, StreamIdentifier};
use crate::kurrent_protocol::streams::{
    AppendReq, AppendReqContent, AppendReqOptions, AppendResp, AppendResult, AppendSuccess,
    Conflict, ConflictCurrent, ConflictExpected, ProposedMessage, WrittenPosition,
};
use crate::ledger::{Append, InvalidAppend, NewEvent, StreamName};

/// `Append`: the stream, then its events.
pub(in crate::grpc) async fn append(
    call: &Arc<Call>,
    messages: Streaming<AppendReq>,
) -> Result<AppendResp, Status> {
    // Who sends slowly would keep a place that others need.
    let appended = timeout(call.shared.append_timeout, gather_and_store(call, messages)).await;
    appended.unwrap_or_else(|_| Err(refusal::late()))
}

async fn gather_and_store(
    call: &Call,
    mut messages: Streaming<AppendReq>,
) -> Result<AppendResp, Status> {
    let first = messages.message().await?.and_then(|message| message.content);
    let Some(AppendReqContent::Options(options)) = first else {
        return Err(refusal::invalid("an append begins with its options"));
    };
    let AppendReqOptions { stream_identifier, expected } = options;
    let mut write = Write::new(stream_identifier, expected)?;
    // Before its events are taken in.
    call.caller.may_append(&write.stream)?;
    while let Some(message) = messages.message().await? {
        let Some(AppendReqContent::ProposedMessage(event)) = message.content else {
            return Err(refusal::invalid("an append has its options once, and then events"));
        };
        write.take(event)?;
    }
    let wanted = write.wanted;
    let result = match write.store(call).await? {
        Written::Stored(success) => AppendResult::Success(success),
        Written::Conflict(head) => AppendResult::Conflict(Conflict {
            current: Some(match head {
                Some(revision) => ConflictCurrent::Revision(revision),
                None => ConflictCurrent::NoStream(()),
            }),
            expected: Some(match wanted {
                Wanted::At(revision) => ConflictExpected::Revision(revision),
                Wanted::NoStream => ConflictExpected::NoStream(()),
                Wanted::Any => ConflictExpected::Any(()),
                Wanted::Exists => ConflictExpected::StreamExists(()),
            }),
        }),
    };
    Ok(AppendResp { result: Some(result) })
}

/// An append to one stream, while it is gathered.
pub(super) struct Write {
    pub(super) stream: StreamName,
    pub(super) wanted: Wanted,
    events: Vec<Proposed>,
    bytes: usize,
}

/// How it went.
pub(super) enum Written {
    Stored(AppendSuccess),
    /// The stream's head.
    Conflict(Option<u64>),
}

impl Write {
    pub(super) fn new(
        stream: Option<StreamIdentifier>,
        expected: Option<Expectation>,
    ) -> Result<Self, Status> {
        let wanted = expected.ok_or_else(|| refusal::invalid("an expectation is missing"))?.into();
        Ok(Self { stream: stream_name(stream)?, wanted, events: Vec::new(), bytes: 0 })
    }

    /// Takes one more event, as long as one append may have it.
    pub(super) fn take(&mut self, message: ProposedMessage) -> Result<(), Status> {
        let event = Proposed::of(message)?;
        self.bytes += event.size_bytes();
        if self.events.len() >= Append::RECORDS_MAX {
            return Err(refusal::append(&InvalidAppend::TooManyRecords.into()));
        }
        if self.bytes > Append::BYTES_MAX {
            return Err(refusal::append(&InvalidAppend::TooLarge.into()));
        }
        self.events.push(event);
        Ok(())
    }

    pub(super) async fn store(self, call: &Call) -> Result<Written, Status> {
        call.caller.may_append(&self.stream)?;
        if self.events.is_empty() {
            return self.store_nothing(call).await;
        }
        let Self { stream, wanted, events, .. } = self;
        let now = call.shared.clock.now();
        let record = |event: Proposed| Ok((stream.clone(), event.into_event(&stream, now)?));
        let records: Result<Vec<(StreamName, NewEvent)>, Status> =
            events.into_iter().map(record).collect();
        let order = Order { records: records?, wanted: vec![(stream, wanted)] };
        Ok(match store(call, order).await? {
            Outcome::Stored(appended) => {
                let revision = appended.revisions.first().map_or(0, |(_, revision)| *revision);
                let position = Position::at(position_of(appended.last_sequence));
                Written::Stored(AppendSuccess {
                    current: Some(CurrentRevision::Revision(revision)),
                    position: Some(WrittenPosition::Position(position)),
                })
            }
            Outcome::Conflict(heads) => {
                Written::Conflict(heads.first().and_then(|(_, head)| *head))
            }
        })
    }

    /// An append without events only asks whether the stream is as expected.
    async fn store_nothing(self, call: &Call) -> Result<Written, Status> {
        let head = super::head(call, &self.stream).await?;
        if !self.wanted.holds(head) {
            return Ok(Written::Conflict(head));
        }
        let current = match head {
            Some(revision) => CurrentRevision::Revision(revision),
            None => CurrentRevision::NoStream(()),
        };
        let position = Some(WrittenPosition::None(()));
        Ok(Written::Stored(AppendSuccess { current: Some(current), position }))
    }
}
