//! A client of the protocol: what goes in and comes out, as messages.

use std::time::Duration;

use data_encoding::BASE64;
use license_ledger::access::Scope;
use license_ledger::kurrent_protocol::method;
use license_ledger::kurrent_protocol::records::{
    AppendRecord, AppendRecordsRequest, AppendRecordsResponse, Check, ConsistencyCheck,
    SchemaFormat, SchemaInfo, StreamStateCheck,
};
use license_ledger::kurrent_protocol::shared::{Expectation, Position, UuidMessage};
use license_ledger::kurrent_protocol::streams::*;
use prost::Message;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codec::ProstCodec;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use uuid::Uuid;

use crate::service::TestService;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Kurrent {
    pub runtime: Runtime,
    grpc: Grpc<Channel>,
    authorization: Option<String>,
}

/// A read that goes on.
pub struct Reading<'a> {
    client: &'a Kurrent,
    messages: Streaming<ReadResp>,
}

impl Kurrent {
    /// A client whose API key has these scopes.
    pub fn of(service: &TestService, scopes: &[Scope]) -> Self {
        Self::with_password(service, service.client_with(scopes).key())
    }

    pub fn with_password(service: &TestService, password: &str) -> Self {
        Self::with_authorization(service, Some(basic(password)))
    }

    pub fn with_authorization(service: &TestService, authorization: Option<String>) -> Self {
        let address = service.inner().grpc.as_ref().unwrap().address();
        Self::at(&address.to_string(), authorization)
    }

    /// A client of whatever listens there.
    pub fn at(address: &str, authorization: Option<String>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let endpoint = Endpoint::try_from(format!("http://{address}")).unwrap();
        let guard = runtime.enter();
        let channel = endpoint.tcp_nodelay(true).connect_lazy();
        drop(guard);
        let grpc = Grpc::new(channel).max_decoding_message_size(usize::MAX);
        Self { runtime, grpc, authorization }
    }

    /// Waits for an answer, but not for ever.
    pub fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, answer).await.expect("no answer for a long time")
        })
    }

    pub fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            let value = MetadataValue::try_from(authorization).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        request
    }

    pub async fn ready(&self) -> Grpc<Channel> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.unwrap();
        grpc
    }

    pub fn unary<Req, Resp>(&self, path: &'static str, message: Req) -> Result<Resp, Status>
    where
        Req: Message + 'static,
        Resp: Message + Default + 'static,
    {
        self.wait(async {
            let codec = ProstCodec::<Req, Resp>::default();
            let path = http::uri::PathAndQuery::from_static(path);
            let answered = self.ready().await.unary(self.request(message), path, codec).await;
            answered.map(|response| response.into_inner())
        })
    }

    /// Sends all messages of an `Append`.
    pub fn append_messages(&self, messages: Vec<AppendReq>) -> Result<AppendResp, Status> {
        self.wait(async {
            let messages = self.request(futures_util::stream::iter(messages));
            let path = http::uri::PathAndQuery::from_static(method::APPEND);
            let codec = ProstCodec::default();
            let answered = self.ready().await.client_streaming(messages, path, codec).await;
            answered.map(|response| response.into_inner())
        })
    }

    pub fn append(
        &self,
        stream: &str,
        expected: Expectation,
        events: Vec<ProposedMessage>,
    ) -> Result<AppendResult, Status> {
        let options =
            AppendReqOptions { stream_identifier: Some(stream.into()), expected: Some(expected) };
        let events = events.into_iter().map(AppendReqContent::ProposedMessage);
        let contents = std::iter::once(AppendReqContent::Options(options)).chain(events);
        let messages = contents.map(|content| AppendReq { content: Some(content) }).collect();
        Ok(self.append_messages(messages)?.result.unwrap())
    }

    /// Appends where nothing is expected; the revision and the position.
    pub fn append_any(&self, stream: &str, events: Vec<ProposedMessage>) -> (u64, u64) {
        stored(self.append(stream, Expectation::Any(()), events).unwrap())
    }

    /// Sends all parts, and receives all answers.
    pub fn batch_append(
        &self,
        parts: Vec<BatchAppendReq>,
    ) -> (Vec<BatchAppendResp>, Option<Status>) {
        self.wait(async {
            let parts = self.request(futures_util::stream::iter(parts));
            let path = http::uri::PathAndQuery::from_static(method::BATCH_APPEND);
            let codec = ProstCodec::<BatchAppendReq, BatchAppendResp>::default();
            let answered = self.ready().await.streaming(parts, path, codec).await;
            let mut answers = match answered {
                Ok(answers) => answers.into_inner(),
                Err(status) => return (Vec::new(), Some(status)),
            };
            let mut received = Vec::new();
            loop {
                match answers.message().await {
                    Ok(Some(answer)) => received.push(answer),
                    Ok(None) => return (received, None),
                    Err(status) => return (received, Some(status)),
                }
            }
        })
    }

    pub fn append_records(
        &self,
        records: Vec<AppendRecord>,
        checks: &[(&str, i64)],
    ) -> Result<AppendRecordsResponse, Status> {
        let checks = checks.iter().map(|(stream, expected_state)| ConsistencyCheck {
            check: Some(Check::StreamState(StreamStateCheck {
                stream: (*stream).to_owned(),
                expected_state: *expected_state,
            })),
        });
        let request = AppendRecordsRequest { records, checks: checks.collect() };
        self.unary(method::APPEND_RECORDS, request)
    }

    /// Begins to read.
    pub fn begin(&self, options: ReadOptions) -> Result<Reading<'_>, Status> {
        self.begin_within(options, None)
    }

    /// The same, with a deadline.
    pub fn begin_within(
        &self,
        options: ReadOptions,
        deadline: Option<Duration>,
    ) -> Result<Reading<'_>, Status> {
        self.wait(async {
            let mut request = self.request(ReadReq { options: Some(options) });
            if let Some(deadline) = deadline {
                // Not by `set_timeout`: then this side would end the call as well.
                let text = format!("{}m", deadline.as_millis()).parse().unwrap();
                request.metadata_mut().insert("grpc-timeout", text);
            }
            let path = http::uri::PathAndQuery::from_static(method::READ);
            let codec = ProstCodec::default();
            let answered = self.ready().await.server_streaming(request, path, codec).await;
            answered.map(|messages| Reading { client: self, messages: messages.into_inner() })
        })
    }

    /// Reads to the end.
    pub fn read(&self, options: ReadOptions) -> Result<Vec<ReadRespContent>, Status> {
        let mut reading = self.begin(options)?;
        let mut contents = Vec::new();
        while let Some(content) = reading.next()? {
            contents.push(content);
        }
        Ok(contents)
    }

    /// All events of a read to the end.
    pub fn events(&self, options: ReadOptions) -> Vec<RecordedEvent> {
        let contents = self.read(options).unwrap();
        contents.into_iter().filter_map(event_of).collect()
    }
}

impl Reading<'_> {
    /// The next message; `None` at the end.
    pub fn next(&mut self) -> Result<Option<ReadRespContent>, Status> {
        let next = self.client.wait(self.messages.message())?;
        Ok(next.map(|message| message.content.unwrap()))
    }

    /// The data of the next message, which is an event.
    pub fn event(&mut self) -> RecordedEvent {
        let next = self.next().unwrap().unwrap();
        event_of(next.clone()).unwrap_or_else(|| panic!("no event: {next:?}"))
    }
}

/// The credentials of whoever has this password.
pub fn basic(password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("anyone:{password}").as_bytes()))
}

pub fn event_of(content: ReadRespContent) -> Option<RecordedEvent> {
    match content {
        ReadRespContent::Event(event) => event.event,
        _ => None,
    }
}

/// The revision and the position of a successful append.
pub fn stored(result: AppendResult) -> (u64, u64) {
    use license_ledger::kurrent_protocol::errors::CurrentRevision;
    match result {
        AppendResult::Success(AppendSuccess {
            current: Some(CurrentRevision::Revision(revision)),
            position: Some(WrittenPosition::Position(position)),
        }) => {
            assert_eq!(position, Position::at(position.commit_position));
            (revision, position.commit_position)
        }
        other => panic!("not stored: {other:?}"),
    }
}

/// An event with this id, whose data is `{"n":<id>}`.
pub fn noted(id: u128) -> ProposedMessage {
    proposed(id, "Noted", format!("{{\"n\":{id}}}").as_bytes())
}

pub fn proposed(id: u128, kind: &str, data: &[u8]) -> ProposedMessage {
    let metadata = [("type", kind), ("content-type", "application/json")];
    ProposedMessage {
        id: Some(UuidMessage::text(Uuid::from_u128(id))),
        metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        custom_metadata: Vec::new(),
        data: data.to_vec(),
    }
}

/// A record of the v2 protocol.
pub fn record(stream: &str, id: u128, kind: &str, data: &[u8]) -> AppendRecord {
    AppendRecord {
        record_id: Uuid::from_u128(id).to_string(),
        properties: [].into(),
        schema: Some(SchemaInfo {
            format: SchemaFormat::Json.into(),
            name: kind.to_owned(),
            id: String::new(),
        }),
        data: data.to_vec(),
        stream: stream.to_owned(),
    }
}

fn options(source: Source, count: Count) -> ReadOptions {
    ReadOptions {
        source: Some(source),
        read_direction: Direction::Forwards.into(),
        resolve_links: false,
        count: Some(count),
        filter: None,
        uuid_option: Some(UuidOption { choice: Some(UuidChoice::Text(())) }),
        control_option: None,
    }
}

/// A whole stream, or as much of it as `changed` says.
pub fn in_stream(stream: &str, start: StreamStart, count: u64) -> ReadOptions {
    let source = StreamOptions { stream_identifier: Some(stream.into()), start: Some(start) };
    options(Source::Stream(source), Count::Count(count))
}

pub fn in_log(start: AllStart, count: u64) -> ReadOptions {
    options(Source::All(AllOptions { start: Some(start) }), Count::Count(count))
}

pub fn position(position: u64) -> AllStart {
    AllStart::Position(Position::at(position))
}

pub fn backwards(options: ReadOptions) -> ReadOptions {
    ReadOptions { read_direction: Direction::Backwards.into(), ..options }
}

pub fn live(options: ReadOptions) -> ReadOptions {
    ReadOptions { count: Some(Count::Subscription(Subscription {})), ..options }
}

pub fn filtered(options: ReadOptions, by: FilterBy, max: u32) -> ReadOptions {
    let window = Some(Window::Max(max));
    let filter = FilterOptions { by: Some(by), window, checkpoint_interval_multiplier: 1 };
    ReadOptions { filter: Some(Filter::Some(filter)), ..options }
}

pub fn regex(regex: &str) -> Expression {
    Expression { regex: regex.to_owned(), prefix: Vec::new() }
}

pub fn prefixes(prefixes: &[&str]) -> Expression {
    let prefix = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
    Expression { regex: String::new(), prefix }
}
