//! `Read`: what a client wants to read, and what it is answered.

mod filter;
mod walk;

use std::sync::Arc;

use futures_util::{Stream, stream};
use tonic::Status;

use self::filter::Filter;
use self::walk::{Left, Place, Walk};
use super::dispatch::Call;
use super::refusal;
use crate::kurrent_protocol::shared::StreamIdentifier;
use crate::kurrent_protocol::streams::{
    AllOptions, AllStart, Count, Direction, Filter as WantedFilter, ReadOptions, ReadReq, ReadResp,
    Source, StreamOptions, StreamStart, UuidChoice, UuidOption,
};
use crate::ledger::StreamName;

/// The messages of the answer, made as fast as they are taken.
pub(super) fn read(
    call: Arc<Call>,
    request: ReadReq,
) -> Result<impl Stream<Item = Result<ReadResp, Status>> + Send + 'static, Status> {
    call.caller.may_read()?;
    let options = request.options.ok_or_else(|| refusal::invalid("options are missing"))?;
    let walk = Walk::new(call, Wanted::of(options)?);
    Ok(stream::try_unfold(walk, |mut walk| async move {
        Ok(walk.next().await?.map(|message| (message, walk)))
    }))
}

/// What a client wants to read.
struct Wanted {
    /// The stream; `None`: the whole log.
    stream: Option<StreamName>,
    start: Place,
    backwards: bool,
    left: Left,
    filter: Option<Filter>,
    uuids: UuidChoice,
    /// Whether the client knows messages about the ends of a stream.
    knows_ends: bool,
}

impl Wanted {
    fn of(options: ReadOptions) -> Result<Self, Status> {
        let direction = Direction::try_from(options.read_direction);
        let direction = direction.map_err(|_| refusal::invalid("read_direction is unknown"))?;
        let backwards = direction == Direction::Backwards;
        let left = match options.count {
            Some(Count::Count(count)) => Left::Events(count),
            Some(Count::Subscription(_)) if backwards => {
                return Err(refusal::invalid("a subscription goes forwards"));
            }
            Some(Count::Subscription(_)) => Left::ForEver,
            None => return Err(refusal::invalid("count or subscription is missing")),
        };
        let filter = match options.filter {
            Some(WantedFilter::Some(filter)) => Some(Filter::of(filter)?),
            Some(WantedFilter::None(())) | None => None,
        };
        let (stream, start) = match options.source {
            Some(Source::Stream(_)) if filter.is_some() => {
                return Err(refusal::invalid("a filter is for the whole log, not for a stream"));
            }
            Some(Source::Stream(StreamOptions { stream_identifier, start })) => {
                let stream = stream_name(stream_identifier)?;
                (Some(stream), in_stream(start, left))
            }
            Some(Source::All(AllOptions { start })) => (None, in_log(start, backwards, left)),
            None => return Err(refusal::invalid("stream or all is missing")),
        };
        let uuids = options.uuid_option.and_then(|UuidOption { choice }| choice);
        let knows_ends = options.control_option.is_some_and(|control| control.compatibility >= 1);
        let uuids = uuids.unwrap_or(UuidChoice::Structured(()));
        Ok(Self { stream, start, backwards, left, filter, uuids, knows_ends })
    }
}

/// The name of a stream, checked.
pub(super) fn stream_name(identifier: Option<StreamIdentifier>) -> Result<StreamName, Status> {
    let name = identifier.unwrap_or_default().stream_name;
    let name = std::str::from_utf8(&name)
        .map_err(|_| refusal::invalid("a stream name has to be UTF-8"))?;
    StreamName::new(name).map_err(refusal::stream_name)
}

/// Subscriptions begin after the revision, reads with it.
fn in_stream(start: Option<StreamStart>, left: Left) -> Place {
    match start {
        Some(StreamStart::Revision(revision)) if left == Left::ForEver => {
            Place::At(revision.saturating_add(1))
        }
        Some(StreamStart::Revision(revision)) => Place::At(revision),
        Some(StreamStart::End(())) => Place::End,
        Some(StreamStart::Start(())) | None => Place::At(0),
    }
}

/// The sequence to begin with. A position is its event's sequence plus one: reading forwards begins
/// with the event there, subscriptions after it, and reading backwards before it.
fn in_log(start: Option<AllStart>, backwards: bool, left: Left) -> Place {
    match start {
        Some(AllStart::Position(position)) => {
            let position = position.commit_position;
            match (left, backwards) {
                (Left::ForEver, _) => Place::At(position),
                (Left::Events(_), false) => Place::At(position.saturating_sub(1)),
                (Left::Events(_), true) => {
                    position.checked_sub(2).map_or(Place::Nowhere, Place::At)
                }
            }
        }
        Some(AllStart::End(())) => Place::End,
        Some(AllStart::Start(())) | None if backwards => Place::Nowhere,
        Some(AllStart::Start(())) | None => Place::At(0),
    }
}
