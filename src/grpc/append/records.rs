//! `AppendRecords` of the v2 protocol: events for several streams, with checks on these and others.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde_json::{Map, Number, Value as Json};
use tonic::{Code, Status};

use super::{Order, Outcome, Wanted, store};
use crate::clock::UnixMillis;
use crate::grpc::dispatch::Call;
use crate::grpc::event::Proposed;
use crate::grpc::{position_of, refusal};
use crate::kurrent_protocol::errors::{
    AppendConsistencyViolation, AppendRecordSizeExceeded, AppendTransactionSizeExceeded,
    ConsistencyViolation, StreamStateViolation, Violation,
};
use crate::kurrent_protocol::records::{
    AppendRecord, AppendRecordsRequest, AppendRecordsResponse, Check, ConsistencyCheck,
    SchemaFormat, StreamRevision, StreamStateCheck, Value, ValueKind, property, state,
};
use crate::kurrent_protocol::shared::{ticks, unix_ms};
use crate::kurrent_protocol::status::Detail;
use crate::ledger::{Append, NewEvent, StreamName};

/// Appends all records, or says everything that does not hold.
pub(in crate::grpc) async fn append_records(
    call: &Call,
    request: AppendRecordsRequest,
) -> Result<AppendRecordsResponse, Status> {
    let AppendRecordsRequest { records, checks } = request;
    let (mut wanted, mut expected) = (Vec::with_capacity(checks.len()), Vec::new());
    for check in checks {
        let (stream, state) = checked(check)?;
        wanted.push((stream, wanted_of(state)?));
        expected.push(state);
    }
    let now = call.shared.clock.now();
    let mut events = Vec::with_capacity(records.len().min(Append::RECORDS_MAX));
    for record in records {
        let (stream, event, dated) = proposed(record)?;
        call.caller.may_append(&stream)?;
        if dated.is_some() {
            call.caller.may_date()?;
        }
        // The ledger checks every stream that it writes.
        if !wanted.iter().any(|(checked, _)| *checked == stream) {
            wanted.push((stream.clone(), Wanted::Any));
            expected.push(state::ANY);
        }
        let event = event.into_event(&stream, dated.unwrap_or(now))?;
        events.push((stream, event));
    }
    refuse_too_large(&events)?;
    let order = Order { records: events, wanted };
    let streams: Vec<_> = order.wanted.iter().map(|(stream, _)| stream.to_string()).collect();
    match store(call, order).await? {
        Outcome::Conflict(violated) => Err(violation(&streams, &expected, violated)),
        Outcome::Stored(appended) => Ok(AppendRecordsResponse {
            revisions: appended
                .revisions
                .iter()
                .map(|(stream, revision)| StreamRevision {
                    stream: stream.to_string(),
                    revision: signed(*revision),
                })
                .collect(),
            position: signed(position_of(appended.last_sequence)),
        }),
    }
}

fn checked(check: ConsistencyCheck) -> Result<(StreamName, i64), Status> {
    let Some(Check::StreamState(StreamStateCheck { stream, expected_state })) = check.check else {
        return Err(refusal::invalid("a check is of another kind than stream_state"));
    };
    Ok((StreamName::new(&stream).map_err(refusal::stream_name)?, expected_state))
}

fn wanted_of(expected_state: i64) -> Result<Wanted, Status> {
    match expected_state {
        state::NO_STREAM => Ok(Wanted::NoStream),
        state::ANY => Ok(Wanted::Any),
        state::EXISTS => Ok(Wanted::Exists),
        revision => u64::try_from(revision).map(Wanted::At).map_err(|_| {
            refusal::invalid(format!(
                "expected_state {revision} is none of: a revision, -1 (no stream), -2 (any), -4 \
                 (exists)"
            ))
        }),
    }
}

/// The event, and when it happened if the record says so.
fn proposed(record: AppendRecord) -> Result<(StreamName, Proposed, Option<UnixMillis>), Status> {
    let AppendRecord { record_id, mut properties, schema, data, stream } = record;
    let stream = StreamName::new(&stream).map_err(refusal::stream_name)?;
    let id = uuid::Uuid::try_parse(&record_id)
        .map_err(|_| refusal::invalid("record_id has to be a UUID"))?;
    let schema = schema.unwrap_or_default();
    let dated = match stream.is_users() {
        true => properties.remove(property::AT_MS).map(date).transpose()?,
        false => None,
    };
    let json = schema.format == i32::from(SchemaFormat::Json);
    let custom_metadata = match verbatim(&properties) {
        Some(metadata) => metadata,
        None => as_metadata(properties)?,
    };
    Ok((stream, Proposed { id, kind: schema.name, json, data, custom_metadata }, dated))
}

/// When an event of the users happened. Only what comes out of a read unchanged is taken.
fn date(value: Value) -> Result<UnixMillis, Status> {
    let text = match value.kind {
        Some(ValueKind::StringValue(text)) => text,
        _ => String::new(),
    };
    let at_ms = text.parse().ok().filter(|at_ms| unix_ms(ticks(*at_ms)) == *at_ms);
    at_ms.map(UnixMillis).ok_or_else(|| {
        refusal::invalid("license-ledger-at-ms has to be milliseconds since 1970, as text")
    })
}

/// Metadata that is no plain JSON object, and so the only property.
fn verbatim(properties: &BTreeMap<String, Value>) -> Option<Vec<u8>> {
    let value = properties.get(property::VERBATIM).filter(|_| properties.len() == 1)?;
    match &value.kind {
        Some(ValueKind::StringValue(text)) => BASE64.decode(text.as_bytes()).ok(),
        _ => None,
    }
}

/// Properties as one JSON object; nothing if there are none.
fn as_metadata(properties: BTreeMap<String, Value>) -> Result<Vec<u8>, Status> {
    if properties.is_empty() {
        return Ok(Vec::new());
    }
    let mut entries = Map::with_capacity(properties.len());
    for (key, value) in properties {
        if key.starts_with('$') {
            return Err(refusal::invalid("properties must not begin with $"));
        }
        entries.insert(key, json(value)?);
    }
    Ok(Json::Object(entries).to_string().into_bytes())
}

/// A property as JSON. Whole numbers have no decimal point, as they were before they became what
/// protocol buffers have for numbers.
fn json(value: Value) -> Result<Json, Status> {
    Ok(match value.kind {
        None | Some(ValueKind::NullValue(_)) => Json::Null,
        Some(ValueKind::BoolValue(value)) => Json::Bool(value),
        Some(ValueKind::StringValue(text)) => Json::String(text),
        Some(ValueKind::NumberValue(number)) => Json::Number(whole_or_not(number)?),
        Some(ValueKind::ListValue(list)) => {
            Json::Array(list.values.into_iter().map(json).collect::<Result<_, _>>()?)
        }
        Some(ValueKind::StructValue(fields)) => {
            let fields = fields.fields.into_iter();
            let fields = fields.map(|(key, value)| Ok((key, json(value)?)));
            Json::Object(fields.collect::<Result<_, Status>>()?)
        }
    })
}

fn whole_or_not(number: f64) -> Result<Number, Status> {
    if number.fract() == 0.0 && number.abs() < WHOLE_NUMBERS_END {
        // Exact: it is whole and in range.
        #[allow(clippy::cast_possible_truncation)]
        return Ok((number as i64).into());
    }
    Number::from_f64(number).ok_or_else(|| refusal::invalid("a property is no number of JSON"))
}

/// Says by how much, which the ledger's own refusal does not.
fn refuse_too_large(events: &[(StreamName, NewEvent)]) -> Result<(), Status> {
    let int = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
    for (stream, event) in events {
        let bytes = event.data.len() + event.metadata.len();
        if bytes > NewEvent::BYTES_MAX {
            let detail = AppendRecordSizeExceeded {
                stream: stream.to_string(),
                record_id: event.id.to_string(),
                size: int(bytes),
                max_size: int(NewEvent::BYTES_MAX),
            };
            let message = format!("record {} is too large", event.id);
            return Err(refusal::detailed(Code::InvalidArgument, &message, detail.packed()));
        }
    }
    let bytes = events.iter().map(|(_, event)| event.size_bytes()).sum();
    if bytes > Append::BYTES_MAX {
        let detail =
            AppendTransactionSizeExceeded { size: int(bytes), max_size: int(Append::BYTES_MAX) };
        let message = "the records are too large together";
        return Err(refusal::detailed(Code::Aborted, message, detail.packed()));
    }
    Ok(())
}

/// All that does not hold, at once.
fn violation(streams: &[String], expected: &[i64], violated: Vec<(usize, Option<u64>)>) -> Status {
    let violations = violated.into_iter().map(|(index, head)| ConsistencyViolation {
        check_index: i32::try_from(index).unwrap_or(i32::MAX),
        violation: Some(Violation::StreamState(StreamStateViolation {
            stream: streams.get(index).cloned().unwrap_or_default(),
            expected_state: expected.get(index).copied().unwrap_or(state::ANY),
            actual_state: head.map_or(state::NO_STREAM, signed),
        })),
    });
    let detail = AppendConsistencyViolation { violations: violations.collect() };
    let message = "streams are not in the states that were expected";
    refusal::detailed(Code::FailedPrecondition, message, detail.packed())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// From here on not every whole number is a double: 2^53.
const WHOLE_NUMBERS_END: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: f64) -> Value {
        Value { kind: Some(ValueKind::NumberValue(number)) }
    }

    #[test]
    fn our_own_metadata_comes_out_as_the_same_bytes() {
        let correlation = Value { kind: Some(ValueKind::StringValue("a\"b".to_owned())) };
        let properties: BTreeMap<_, _> =
            [("schema".to_owned(), number(1.0)), ("correlation".to_owned(), correlation)].into();
        let record = AppendRecord {
            record_id: uuid::Uuid::nil().to_string(),
            properties,
            stream: "user-a".to_owned(),
            ..AppendRecord::default()
        };
        let (_, proposed, dated) = proposed(record).unwrap();
        assert_eq!(dated, None);
        assert_eq!(proposed.custom_metadata, br#"{"correlation":"a\"b","schema":1}"#);
    }

    #[test]
    fn numbers_stay_what_they_are_and_those_that_json_lacks_are_refused() {
        for (double, text) in [(-7.0, "-7"), (0.5, "0.5"), (1e300, "1e+300")] {
            assert_eq!(json(number(double)).unwrap().to_string(), text);
        }
        assert!(json(number(f64::NAN)).is_err());
    }

    #[test]
    fn refuses_states_that_mean_nothing() {
        assert_eq!(wanted_of(-1).unwrap(), Wanted::NoStream);
        assert_eq!(wanted_of(3).unwrap(), Wanted::At(3));
        for state in [-3, -5, i64::MIN] {
            assert_eq!(wanted_of(state).unwrap_err().code(), Code::InvalidArgument);
        }
    }
}
