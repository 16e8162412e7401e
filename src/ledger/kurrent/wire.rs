//! Our appends and events in the messages of the protocol, and back.

use std::borrow::Cow;
use std::collections::BTreeMap;

use data_encoding::BASE64;
use eventstore::SubscriptionFilter;
use serde_json::Value as Json;
use tonic::{Code, Status};
use uuid::Uuid;

use super::address::Host;
use super::places::Position;
use crate::kurrent_protocol::errors::{
    AppendConsistencyViolation, NotLeaderNode, StreamRevisionConflict, StreamStateViolation,
    Violation,
};
use crate::kurrent_protocol::records::{
    AppendRecord, AppendRecordsRequest, Check, ConsistencyCheck, SchemaFormat, SchemaInfo,
    StreamStateCheck, Value, ValueKind, property, state,
};
use crate::kurrent_protocol::shared::unix_ms;
use crate::kurrent_protocol::streams::{Expression, FilterBy, FilterOptions, ReadEvent, Window};
use crate::kurrent_protocol::{exception, header, metadata, status};
use crate::ledger::append::{Append, AppendError};
use crate::ledger::event::{Cursor, Expected, NewEvent, Recorded, StreamName};
use crate::ledger::users::UserMetadata;

/// What the names of our streams begin with in the cluster, so that others may keep theirs beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prefix(pub(super) String);

impl Prefix {
    /// The name in the cluster.
    pub(super) fn put(&self, stream: &StreamName) -> String {
        format!("{}{stream}", self.0)
    }

    /// Our name; `None` if the stream is not ours.
    pub(super) fn strip(&self, name: &str) -> Option<StreamName> {
        StreamName::new(name.strip_prefix(&self.0)?).ok()
    }

    /// Lets our streams through: without a prefix all that are not the system's.
    pub(super) fn filter(&self) -> FilterOptions {
        let expression = match self.0.as_str() {
            "" => Expression { regex: NOT_THE_SYSTEMS.to_owned(), prefix: Vec::new() },
            prefix => Expression { regex: String::new(), prefix: vec![prefix.to_owned()] },
        };
        FilterOptions {
            by: Some(FilterBy::Stream(expression)),
            window: Some(Window::Max(WINDOW_EVENTS)),
            checkpoint_interval_multiplier: 1,
        }
    }

    /// The same as [`filter`](Self::filter), for the official client.
    pub(super) fn client_filter(&self) -> SubscriptionFilter {
        let filter = SubscriptionFilter::on_stream_name().max(WINDOW_EVENTS);
        match self.0.as_str() {
            "" => filter.regex(NOT_THE_SYSTEMS),
            prefix => filter.add_prefix(prefix),
        }
    }
}

/// Lets events of these kinds through, whoever's they are.
pub(super) fn of_kinds(kinds: Vec<String>) -> FilterOptions {
    let expression = Expression { regex: String::new(), prefix: kinds };
    FilterOptions {
        by: Some(FilterBy::EventType(expression)),
        window: Some(Window::Max(WINDOW_EVENTS)),
        checkpoint_interval_multiplier: 1,
    }
}

/// As the documentation of KurrentDB has it.
const NOT_THE_SYSTEMS: &str = r"^[^\$].*";
/// Events that the server looks at before it says how far it has come.
const WINDOW_EVENTS: u32 = 512;

/// An event of ours as the cluster holds it; only its number is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) position: Position,
    pub(super) stream: StreamName,
    pub(super) revision: u64,
    pub(super) id: Uuid,
    pub(super) kind: String,
    pub(super) data: Vec<u8>,
    pub(super) metadata: Vec<u8>,
}

impl Seen {
    /// What a subscription sent; `None` if it is not ours. So are links, which the cluster's own
    /// projections may put anywhere: their types begin with `$`.
    pub(super) fn of_message(event: ReadEvent, prefix: &Prefix) -> Option<Self> {
        let event = event.event?;
        let name = event.stream_identifier?.stream_name;
        let kind = event.metadata.get(metadata::TYPE)?.clone();
        let stream = prefix.strip(std::str::from_utf8(&name).ok()?)?;
        let shown = |key: &str| event.metadata.get(key).map(String::as_str);
        let seen = Self {
            position: Position { commit: event.commit_position, prepare: event.prepare_position },
            revision: event.stream_revision,
            id: event.id?.id()?,
            kind,
            metadata: stored_metadata(&stream, &event.custom_metadata, shown),
            data: event.data,
            stream,
        };
        (!seen.kind.starts_with('$')).then_some(seen)
    }

    /// The same for what the official client has read.
    pub(super) fn of_client(event: eventstore::ResolvedEvent, prefix: &Prefix) -> Option<Self> {
        let event = event.event?;
        let stream = prefix.strip(event.stream_id())?;
        let shown = |key: &str| event.metadata.get(key).map(String::as_str);
        let seen = Self {
            position: Position { commit: event.position.commit, prepare: event.position.prepare },
            revision: event.revision,
            id: event.id,
            metadata: stored_metadata(&stream, &event.custom_metadata, shown),
            data: event.data.into(),
            kind: event.event_type,
            stream,
        };
        (!seen.kind.starts_with('$')).then_some(seen)
    }

    /// With its number.
    pub(super) fn numbered(self, sequence: u64) -> Recorded {
        Recorded {
            sequence,
            cursor: Cursor::new(self.position.prepare),
            stream: self.stream,
            revision: self.revision,
            id: self.id,
            kind: Cow::Owned(self.kind),
            data: self.data,
            metadata: self.metadata,
        }
    }
}

/// The request that an append is.
pub(super) fn request(append: &Append, prefix: &Prefix) -> AppendRecordsRequest {
    let records = append.records.iter().map(|(stream, event)| record(stream, event, prefix));
    let checks = append.checks.iter().map(|(stream, expected)| ConsistencyCheck {
        check: Some(Check::StreamState(StreamStateCheck {
            stream: prefix.put(stream),
            expected_state: expected_state(*expected),
        })),
    });
    AppendRecordsRequest { records: records.collect(), checks: checks.collect() }
}

fn record(stream: &StreamName, event: &NewEvent, prefix: &Prefix) -> AppendRecord {
    let (format, properties) = surroundings(stream, &event.metadata);
    AppendRecord {
        record_id: event.id.to_string(),
        properties,
        schema: Some(SchemaInfo {
            format: format.into(),
            name: event.kind.to_string(),
            id: String::new(),
        }),
        data: event.data.clone(),
        stream: prefix.put(stream),
    }
}

fn expected_state(expected: Expected) -> i64 {
    match expected {
        Expected::NoStream => state::NO_STREAM,
        // No stream gets there.
        Expected::At(revision) => i64::try_from(revision).unwrap_or(i64::MAX),
    }
}

/// What the server says of an append that it did not take.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing was stored, because of this.
    Final(AppendError),
    /// Nothing was stored; another node may take it, perhaps this one.
    AskElsewhere(Option<Host>),
    /// Nothing was stored: the server has too much to do at present.
    Busy,
    /// The server refuses for a reason that has nothing to do with what is stored.
    Refused,
    /// It may have been stored or not.
    Unclear,
}

/// Reads an error of `AppendRecords`.
pub(super) fn verdict(error: &Status, append: &Append, prefix: &Prefix) -> Verdict {
    if let Some(leader) = not_leader(error) {
        return Verdict::AskElsewhere(leader);
    }
    if let Some(conflict) = conflict(error, append, prefix) {
        return Verdict::Final(conflict);
    }
    // The ledger's own endpoint looks at all ids ever stored. It is one of these.
    if error.code() == Code::AlreadyExists
        && let Some((_, event)) = append.records.first()
    {
        return Verdict::Final(AppendError::IdReused { id: event.id });
    }
    match error.code() {
        // Its queue is full: it has not looked at the append.
        Code::ResourceExhausted => Verdict::Busy,
        Code::PermissionDenied
        | Code::Unauthenticated
        | Code::InvalidArgument
        | Code::Unimplemented
        | Code::FailedPrecondition
        | Code::OutOfRange => Verdict::Refused,
        _ => Verdict::Unclear,
    }
}

/// Whether another node leads, and which.
pub(super) fn not_leader(error: &Status) -> Option<Option<Host>> {
    let text = |key| error.metadata().get(key).and_then(|value| value.to_str().ok());
    if text(header::EXCEPTION) == Some(exception::NOT_LEADER) {
        let name = text(header::LEADER_HOST).map(str::to_owned);
        let port = text(header::LEADER_PORT).and_then(|port| port.parse().ok());
        return Some(name.zip(port).map(|(name, port)| Host { name, port }));
    }
    let leader = details(error)?.detail::<NotLeaderNode>()?.current_leader;
    Some(leader.and_then(|leader| {
        Some(Host { name: leader.host, port: u16::try_from(leader.port).ok()? })
    }))
}

fn conflict(error: &Status, append: &Append, prefix: &Prefix) -> Option<AppendError> {
    let details = details(error)?;
    if let Some(all) = details.detail::<AppendConsistencyViolation>() {
        let states = all
            .violations
            .into_iter()
            .filter_map(|violation| violation.violation.map(|Violation::StreamState(state)| state));
        let conflicts =
            states.filter_map(|StreamStateViolation { stream, actual_state, .. }| {
                conflict_on(&stream, actual_state, append, prefix)
            });
        // In the order of the checks, whatever the order of the violations.
        return conflicts.min_by_key(|(check, _)| *check).map(|(_, conflict)| conflict);
    }
    let StreamRevisionConflict { stream, actual_revision, .. } = details.detail()?;
    conflict_on(&stream, actual_revision, append, prefix).map(|(_, conflict)| conflict)
}

fn conflict_on(
    stream: &str,
    actual: i64,
    append: &Append,
    prefix: &Prefix,
) -> Option<(usize, AppendError)> {
    let stream = prefix.strip(stream)?;
    let check = append.checks.iter().position(|(checked, _)| *checked == stream)?;
    let (_, expected) = *append.checks.get(check)?;
    // What is below zero stands for a stream without events.
    Some((check, AppendError::Conflict { stream, expected, actual: u64::try_from(actual).ok() }))
}

fn details(error: &Status) -> Option<status::Status> {
    prost::Message::decode(error.details()).ok()
}

/// What stands beside the data of a record. Of an event of the users that is what its writer said, so
/// that whoever reads the cluster finds it, and what is known of it beside.
fn surroundings(stream: &StreamName, metadata: &[u8]) -> (SchemaFormat, BTreeMap<String, Value>) {
    let (known, writers) = UserMetadata::read(metadata);
    if !stream.is_users() || known.write(writers) != metadata {
        return (SchemaFormat::Json, properties_of(metadata));
    }
    let mut properties = properties_of(writers);
    properties.insert(property::AT_MS.to_owned(), text(known.at_ms.to_string()));
    (if known.json { SchemaFormat::Json } else { SchemaFormat::Bytes }, properties)
}

/// Metadata as the properties of a record. Its members, so that whoever reads the cluster with other
/// tools finds them; but as one text where the members would not give back the same bytes.
fn properties_of(metadata: &[u8]) -> BTreeMap<String, Value> {
    if metadata.is_empty() {
        return BTreeMap::new();
    }
    members_of(metadata).unwrap_or_else(|| {
        BTreeMap::from([(property::VERBATIM.to_owned(), text(BASE64.encode(metadata)))])
    })
}

fn text(text: String) -> Value {
    Value { kind: Some(ValueKind::StringValue(text)) }
}

fn members_of(metadata: &[u8]) -> Option<BTreeMap<String, Value>> {
    let members: BTreeMap<String, Json> = serde_json::from_slice(metadata).ok()?;
    let is_plain = !members.is_empty() && serde_json::to_vec(&members).ok()? == metadata;
    let ours = [property::VERBATIM, property::AT_MS];
    let is_free = |name: &String| !name.starts_with('$') && !ours.contains(&name.as_str());
    if !is_plain || !members.keys().all(is_free) {
        return None;
    }
    let value = |(name, member)| {
        let kind = match member {
            Json::String(text) => ValueKind::StringValue(text),
            Json::Bool(is) => ValueKind::BoolValue(is),
            Json::Number(number) => {
                let number = i32::try_from(number.as_i64()?).ok()?;
                ValueKind::NumberValue(number.into())
            }
            Json::Null | Json::Array(_) | Json::Object(_) => return None,
        };
        Some((name, Value { kind: Some(kind) }))
    };
    members.into_iter().map(value).collect()
}

/// The metadata of an event as the ledger stores it, from what the cluster shows. An event of the
/// users that no copy brought happened when the cluster says that it was created.
fn stored_metadata<'a>(
    stream: &StreamName,
    custom: &[u8],
    shown: impl Fn(&str) -> Option<&'a str>,
) -> Vec<u8> {
    let metadata = metadata_of(custom);
    if !stream.is_users() {
        return metadata;
    }
    let members: BTreeMap<String, Json> = serde_json::from_slice(custom).unwrap_or_default();
    let member = |name| members.get(name).and_then(Json::as_str);
    let dated = member(property::AT_MS).filter(|_| were_properties(&members));
    let at_ms = match dated.and_then(|text| text.parse().ok()) {
        Some(at_ms) => at_ms,
        // All of it, as it was stored.
        None if member(property::VERBATIM).is_some() => return metadata,
        None => shown(metadata::CREATED).and_then(|text| text.parse().ok()).map_or(0, unix_ms),
    };
    let json = shown(metadata::CONTENT_TYPE) == Some(metadata::JSON);
    UserMetadata { at_ms, json }.write(&metadata)
}

/// The metadata of an event that [`surroundings`] were made of, or that another client wrote. To what
/// were properties the server adds members of its own, and it may write their numbers differently.
fn metadata_of(stored: &[u8]) -> Vec<u8> {
    let Ok(mut members) = serde_json::from_slice::<BTreeMap<String, Json>>(stored) else {
        return stored.to_vec();
    };
    if let Some(Json::String(verbatim)) = members.get(property::VERBATIM)
        && let Ok(verbatim) = BASE64.decode(verbatim.as_bytes())
    {
        return verbatim;
    }
    if !were_properties(&members) {
        return stored.to_vec();
    }
    members.retain(|name, _| !name.starts_with('$') && name != property::AT_MS);
    members.values_mut().for_each(make_whole);
    match serde_json::to_vec(&members) {
        Ok(rewritten) if !members.is_empty() => rewritten,
        Ok(_) => Vec::new(),
        Err(_) => stored.to_vec(),
    }
}

/// Whether these are properties as a server shows them, and not what a writer called metadata.
fn were_properties(members: &BTreeMap<String, Json>) -> bool {
    members.keys().any(|name| name.starts_with(SERVERS))
}

/// A whole number that was written as a fraction is written whole again.
fn make_whole(member: &mut Json) {
    let is_whole = |number: &f64| number.fract() == 0.0 && number.abs() <= f64::from(i32::MAX);
    if member.is_f64()
        && let Some(number) = member.as_f64().filter(is_whole)
    {
        // Exact, since it is whole and small.
        *member = Json::from(number as i64);
    }
}

/// How the names begin that a server adds to all that were properties.
const SERVERS: &str = "$schema.";

#[cfg(test)]
mod tests;
