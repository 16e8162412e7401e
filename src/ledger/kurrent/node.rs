//! A connection to one node of the cluster.
//!
//! Pages of the log are read by the official client; everything else goes over a channel of our own.
//! The faults of that client end here: it is made for one node and thrown away with the rest of the
//! connection when anything fails ([`cluster`](super::cluster)), each step of its reads is timed by
//! us, and it neither appends nor reads what decisions wait for (each request of it waits 40 ms for
//! the network to acknowledge its first packet), nor subscribes (a subscription that the server ends
//! in order makes it loop without ever giving the thread back, which nothing outside can end).

use std::path::Path;
use std::time::Duration;

use data_encoding::BASE64;
use eventstore::{
    ClientSettings, Credentials as ClientCredentials, ReadAllOptions, StreamPosition,
};
use http::uri::PathAndQuery;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codec::ProstCodec;
use tonic::metadata::{AsciiMetadataValue, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};
use zeroize::Zeroizing;

use super::address::{Address, Host};
use super::places::Position;
use super::wire::{self, Prefix, Seen};
use crate::kurrent_protocol::features::SupportedMethods;
use crate::kurrent_protocol::gossip::{ClusterInfo, MemberInfo, NodeState};
use crate::kurrent_protocol::records::{AppendRecordsRequest, AppendRecordsResponse};
use crate::kurrent_protocol::shared;
use crate::kurrent_protocol::streams::{
    AllOptions, AllStart, Count, Direction, Filter, ReadEvent, ReadOptions, ReadReq, ReadResp,
    ReadRespContent, Source, StreamOptions, StreamStart, Subscription, UuidChoice, UuidOption,
};
use crate::kurrent_protocol::{REPLY_BYTES_MAX, header, metadata, method};
use crate::ledger::append::Cause;
use crate::ledger::event::StreamName;

/// Who we are to the cluster.
#[derive(Clone)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// Their password.
    pub password: Zeroizing<String>,
}

/// How to connect.
pub(super) struct Settings {
    pub(super) address: Address,
    pub(super) prefix: Prefix,
    pub(super) credentials: Option<Credentials>,
    /// The certificates of `address.ca`, read once.
    pub(super) ca: Option<Vec<u8>>,
}

/// Why a node cannot be used. Each text says what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NodeError {
    /// Nobody answers there, or not as a KurrentDB does.
    #[error("{host} cannot be reached")]
    Unreachable {
        /// The node.
        host: String,
        /// What the network, or the node, said.
        source: Cause,
    },
    /// No node knows of a leader.
    #[error("none of the nodes knows a leader at present")]
    Leaderless,
    /// The node speaks an earlier protocol.
    #[error(
        "{host} runs version {version}, which cannot append to several streams at once; the ledger \
         needs KurrentDB 26.0.3, 26.1 or later"
    )]
    TooOld {
        /// The node.
        host: String,
        /// What it says of itself.
        version: String,
    },
}

/// A connection to a node that was the leader when it was made.
pub(super) struct Node {
    pub(super) host: Host,
    channel: Grpc<Channel>,
    authorization: Option<AsciiMetadataValue>,
    reader: eventstore::Client,
    credentials: Option<ClientCredentials>,
    prefix: Prefix,
}

/// What is read.
pub(super) enum Wanted {
    /// Events of a stream, from a revision on.
    Stream { stream: StreamName, from: u64, limit: usize },
    /// Events of a stream, from a revision down, or from the end.
    StreamBackwards { stream: StreamName, from: Option<u64>, limit: usize },
    /// Events of the log, from the one at a place on.
    All { from: Position, limit: usize },
    /// Our last event, if there is one.
    Last,
}

/// A read that failed: the connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadFailed {
    #[error("the node did not answer in time")]
    Silent,
    #[error("another node leads")]
    NotLeader(Host),
    #[error("the node refused the read, or is gone")]
    Client(#[source] eventstore::Error),
    #[error("the node refused the read, or is gone")]
    Status(#[from] Status),
    #[error(transparent)]
    Unusable(#[from] NodeError),
}

impl Node {
    /// Connects, and makes sure that the node speaks what is needed.
    pub(super) async fn connect(host: Host, settings: &Settings) -> Result<Self, NodeError> {
        let unreachable = |source| NodeError::Unreachable { host: host.to_string(), source };
        let channel = channel(&host, settings).await.map_err(unreachable)?;
        let client = settings.credentials.as_ref().map(|Credentials { user, password }| {
            ClientCredentials::new(user.clone(), String::clone(password))
        });
        let node = Self {
            channel,
            authorization: settings
                .credentials
                .as_ref()
                .map(authorization)
                .transpose()
                .map_err(|error| unreachable(std::sync::Arc::new(error) as Cause))?,
            reader: reader(&host, settings).map_err(unreachable)?,
            credentials: client,
            prefix: settings.prefix.clone(),
            host: host.clone(),
        };
        let features: SupportedMethods = node
            .ask(method::SUPPORTED_METHODS, (), CONNECT_TIME)
            .await
            .map_err(|status| unreachable(std::sync::Arc::new(status)))?;
        if !appends_records(&features) {
            let version = features.event_store_server_version;
            return Err(NodeError::TooOld { host: host.to_string(), version });
        }
        Ok(node)
    }

    /// The official client that reads from this node, and who we are to it.
    pub(super) fn client(&self) -> (eventstore::Client, Option<ClientCredentials>) {
        (self.reader.clone(), self.credentials.clone())
    }

    /// Asks the node at `host` who leads.
    pub(super) async fn ask_for_leader(
        host: &Host,
        settings: &Settings,
    ) -> Result<Host, NodeError> {
        let unreachable = |source| NodeError::Unreachable { host: host.to_string(), source };
        let mut channel = channel(host, settings).await.map_err(unreachable)?;
        let info: ClusterInfo = unary(&mut channel, method::GOSSIP, Request::new(()), CONNECT_TIME)
            .await
            .map_err(|status| unreachable(std::sync::Arc::new(status)))?;
        info.members.iter().find_map(leader).ok_or(NodeError::Leaderless)
    }

    /// Appends, or says why not. The server gives up when our patience ends.
    pub(super) async fn append(
        &self,
        request: AppendRecordsRequest,
    ) -> Result<AppendRecordsResponse, Status> {
        self.ask(method::APPEND_RECORDS, request, APPEND_TIME).await
    }

    /// Our events after a place, and those to come.
    pub(super) async fn subscribe(
        &self,
        after: Option<Position>,
    ) -> Result<Streaming<ReadResp>, Status> {
        let start = match after {
            None => AllStart::Start(()),
            Some(Position { commit, prepare }) => AllStart::Position(shared::Position {
                commit_position: commit,
                prepare_position: prepare,
            }),
        };
        let source = Source::All(AllOptions { start: Some(start) });
        let count = Count::Subscription(Subscription {});
        self.begin(self.options(source, Direction::Forwards, count)).await
    }

    /// Reads. Of events that turn out not to be ours only `None` is left.
    pub(super) async fn read(&self, wanted: &Wanted) -> Result<Vec<Option<Seen>>, ReadFailed> {
        match wanted {
            Wanted::Stream { stream, from, limit } => {
                let start = StreamStart::Revision(*from);
                self.read_stream(stream, start, Direction::Forwards, *limit).await
            }
            Wanted::StreamBackwards { stream, from, limit } => {
                let start = from.map_or(StreamStart::End(()), StreamStart::Revision);
                self.read_stream(stream, start, Direction::Backwards, *limit).await
            }
            Wanted::All { from, limit } => self.read_page(*from, *limit).await,
            Wanted::Last => Ok(vec![self.last_event().await?]),
        }
    }

    /// The last of our events in the log.
    pub(super) async fn last_event(&self) -> Result<Option<Seen>, ReadFailed> {
        let mut limit = 1;
        loop {
            let source = Source::All(AllOptions { start: Some(AllStart::End(())) });
            let options = self.options(source, Direction::Backwards, Count::Count(limit as u64));
            let events = self.collect(options).await?;
            let ended = events.len() < limit;
            match events.into_iter().flatten().next() {
                // All that were looked at are links of others.
                None if !ended => limit = limit.saturating_mul(16),
                last => return Ok(last),
            }
        }
    }

    /// Names of streams that the first events of these kinds stand in, of whatever ledger, and their
    /// kinds. The node may have to look through all of its log.
    pub(super) async fn first_of_kinds(
        &self,
        kinds: Vec<String>,
    ) -> Result<Vec<(String, String)>, ReadFailed> {
        let source = Source::All(AllOptions { start: Some(AllStart::Start(())) });
        let mut options =
            self.options(source, Direction::Forwards, Count::Count(FIRST_OF_KINDS_MAX));
        options.filter = Some(Filter::Some(wire::of_kinds(kinds)));
        let named = |event: ReadEvent| {
            let mut event = event.event?;
            let name = event.stream_identifier?.stream_name;
            Some((String::from_utf8(name).ok()?, event.metadata.remove(metadata::TYPE)?))
        };
        Ok(self.collect_as(options, SEARCH_TIME, named).await?.into_iter().flatten().collect())
    }

    async fn read_stream(
        &self,
        stream: &StreamName,
        start: StreamStart,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Option<Seen>>, ReadFailed> {
        let name = self.prefix.put(stream);
        let source = Source::Stream(StreamOptions {
            stream_identifier: Some(name.as_str().into()),
            start: Some(start),
        });
        self.collect(self.options(source, direction, Count::Count(limit as u64))).await
    }

    fn options(&self, source: Source, direction: Direction, count: Count) -> ReadOptions {
        let filter = match source {
            Source::Stream(_) => Filter::None(()),
            Source::All(_) => Filter::Some(self.prefix.filter()),
        };
        ReadOptions {
            source: Some(source),
            read_direction: direction.into(),
            resolve_links: false,
            count: Some(count),
            filter: Some(filter),
            uuid_option: Some(UuidOption { choice: Some(UuidChoice::Structured(())) }),
            control_option: None,
        }
    }

    async fn begin(&self, options: ReadOptions) -> Result<Streaming<ReadResp>, Status> {
        let request = self.request(ReadReq { options: Some(options) });
        let path = PathAndQuery::from_static(method::READ);
        let mut channel = self.channel.clone();
        let begin = async {
            channel.ready().await.map_err(|error| Status::from_error(error.into()))?;
            channel.server_streaming(request, path, ProstCodec::default()).await
        };
        match timeout(READ_TIME, begin).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    async fn collect(&self, options: ReadOptions) -> Result<Vec<Option<Seen>>, ReadFailed> {
        let seen = |event| Seen::of_message(event, &self.prefix);
        self.collect_as(options, READ_TIME, seen).await
    }

    /// Reads to the end; `patience` is for each message.
    async fn collect_as<T>(
        &self,
        options: ReadOptions,
        patience: Duration,
        seen: impl Fn(ReadEvent) -> Option<T>,
    ) -> Result<Vec<Option<T>>, ReadFailed> {
        let mut messages = self.begin(options).await?;
        let mut events = Vec::new();
        loop {
            let message = timeout(patience, messages.message()).await;
            let Some(message) = message.map_err(|_| ReadFailed::Silent)?? else {
                return Ok(events);
            };
            match message.content {
                Some(ReadRespContent::Event(event)) => events.push(seen(*event)),
                Some(ReadRespContent::StreamNotFound(_)) => return Ok(Vec::new()),
                _ => {}
            }
        }
    }

    /// A page of the log, which may be long.
    async fn read_page(
        &self,
        Position { commit, prepare }: Position,
        limit: usize,
    ) -> Result<Vec<Option<Seen>>, ReadFailed> {
        let from = StreamPosition::Position(eventstore::Position { commit, prepare });
        let options = ReadAllOptions::default().position(from).forwards().max_count(limit);
        let options = options.requires_leader(true).filter(self.prefix.client_filter());
        let options = match &self.credentials {
            Some(credentials) => options.authenticated(credentials.clone()),
            None => options,
        };
        let mut reading = in_time(self.reader.read_all(&options)).await?;
        let mut events = Vec::new();
        while let Some(event) = in_time(reading.next()).await? {
            events.push(Seen::of_client(event, &self.prefix));
        }
        Ok(events)
    }

    async fn ask<M, R>(&self, path: &'static str, message: M, time: Duration) -> Result<R, Status>
    where
        M: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        unary(&mut self.channel.clone(), path, self.request(message), time).await
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(header::REQUIRES_LEADER, MetadataValue::from_static("true"));
        if let Some(authorization) = &self.authorization {
            metadata.insert("authorization", authorization.clone());
        }
        request
    }
}

/// Waits for one step of the official client, which has no patience of its own, and no end of it.
async fn in_time<T>(step: impl Future<Output = eventstore::Result<T>>) -> Result<T, ReadFailed> {
    match timeout(READ_TIME, step).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(eventstore::Error::NotLeaderException(leader))) => {
            let port = u16::try_from(leader.port).unwrap_or_default();
            Err(ReadFailed::NotLeader(Host { name: leader.host, port }))
        }
        Ok(Err(error)) => Err(ReadFailed::Client(error)),
        Err(_) => Err(ReadFailed::Silent),
    }
}

async fn unary<M, R>(
    channel: &mut Grpc<Channel>,
    path: &'static str,
    mut request: Request<M>,
    time: Duration,
) -> Result<R, Status>
where
    M: prost::Message + 'static,
    R: prost::Message + Default + 'static,
{
    request.set_timeout(time);
    let path = PathAndQuery::from_static(path);
    let call = async {
        channel.ready().await.map_err(|error| Status::from_error(error.into()))?;
        channel.unary(request, path, ProstCodec::default()).await
    };
    match timeout(time, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// A channel of our own. Small requests are sent at once, and a connection that has died without a
/// word is noticed.
async fn channel(host: &Host, settings: &Settings) -> Result<Grpc<Channel>, Cause> {
    let scheme = if settings.address.tls { "https" } else { "http" };
    let cause = |error: tonic::transport::Error| std::sync::Arc::new(error) as Cause;
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{host}"))
        .map_err(cause)?
        .connect_timeout(CONNECT_TIME)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    if settings.address.tls {
        let tls = match &settings.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        endpoint = endpoint.tls_config(tls).map_err(cause)?;
    }
    let channel = endpoint.connect().await.map_err(cause)?;
    Ok(Grpc::new(channel).max_decoding_message_size(REPLY_BYTES_MAX))
}

/// The official client, bound to one node.
fn reader(host: &Host, settings: &Settings) -> Result<eventstore::Client, Cause> {
    // Its first attempt only takes the address, and then it pauses.
    let ca = settings.address.ca.as_deref().map(|path| format!("&tlsCaFile={}", escaped(path)));
    let settings = format!(
        "kurrentdb://{host}?tls={}&maxDiscoverAttempts=2&discoveryInterval=0&gossipTimeout={}{}",
        settings.address.tls,
        CONNECT_TIME.as_millis(),
        ca.unwrap_or_default(),
    );
    let failed = |text: String| std::sync::Arc::new(std::io::Error::other(text)) as Cause;
    let settings: ClientSettings = settings.parse().map_err(|error| failed(format!("{error}")))?;
    eventstore::Client::new(settings).map_err(|error| failed(format!("{error:#}")))
}

/// A path as the value of a parameter.
fn escaped(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    let parts = bytes.map(|byte| match plain(*byte) {
        true => char::from(*byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    parts.collect()
}

fn authorization(
    Credentials { user, password }: &Credentials,
) -> Result<AsciiMetadataValue, tonic::metadata::errors::InvalidMetadataValue> {
    let pair = Zeroizing::new(format!("{user}:{}", password.as_str()));
    let header = Zeroizing::new(format!("Basic {}", BASE64.encode(pair.as_bytes())));
    let mut value = AsciiMetadataValue::try_from(header.as_str())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether the node leads, and where it is then.
fn leader(member: &MemberInfo) -> Option<Host> {
    let leads = member.is_alive && member.state() == NodeState::Leader;
    let place = member.http_end_point.as_ref().filter(|_| leads)?;
    let name = match place.address.contains(':') {
        true => format!("[{}]", place.address),
        false => place.address.clone(),
    };
    Some(Host { name, port: u16::try_from(place.port).ok()? })
}

/// Whether the server can append to several streams at once: it says so, or has a version that can.
fn appends_records(features: &SupportedMethods) -> bool {
    let named = |name: &str, part: &str| name.to_ascii_lowercase().ends_with(part);
    let listed = features.methods.iter().any(|method| {
        named(&method.method_name, "appendrecords") && named(&method.service_name, "streamsservice")
    });
    let version = &features.event_store_server_version;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>());
    let mut number = || numbers.next().and_then(Result::ok).unwrap_or(0);
    listed || [number(), number(), number()] >= [26, 0, 3]
}

impl ReadFailed {
    /// Which node leads, if the one that was asked said so.
    pub(super) fn leader(&self) -> Option<Host> {
        match self {
            Self::NotLeader(leader) => Some(leader.clone()),
            Self::Status(status) => wire::not_leader(status).flatten(),
            Self::Silent | Self::Client(_) | Self::Unusable(_) => None,
        }
    }
}

/// Time for a connection, and for each first question about the cluster.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(2);
/// Time for an append. The disk of a healthy leader takes milliseconds.
const APPEND_TIME: Duration = Duration::from_secs(3);
/// Time for each message of a read.
const READ_TIME: Duration = Duration::from_secs(2);
/// Time for each message of a search through the log of everybody in the cluster.
const SEARCH_TIME: Duration = Duration::from_secs(300);
/// A ledger has one such event, or two, and the versions of its policy.
const FIRST_OF_KINDS_MAX: u64 = 1_000;
/// How long a connection may be silent before it is tried, and how long the answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kurrent_protocol::features::SupportedMethod;

    #[test]
    fn servers_that_cannot_append_to_several_streams_at_once_are_known_by_their_version() {
        for (version, can) in [
            ("26.0.3", true),
            ("26.0.10", true),
            ("26.1.0", true),
            ("27.0.0-rc.1", true),
            ("26.0.2", false),
            ("25.1.9", false),
            ("24.10.0", false),
            ("", false),
        ] {
            let event_store_server_version = version.to_owned();
            let mut features = SupportedMethods { methods: Vec::new(), event_store_server_version };
            assert_eq!(appends_records(&features), can, "{version}");
            features.methods.push(SupportedMethod {
                method_name: "appendrecords".to_owned(),
                service_name: "kurrentdb.protocol.v2.streams.streamsservice".to_owned(),
                features: Vec::new(),
            });
            assert!(appends_records(&features), "{version}");
        }
    }

    #[test]
    fn only_a_leader_that_lives_is_the_leader() {
        use crate::kurrent_protocol::gossip::EndPoint;
        let member = |state: NodeState, is_alive, address: &str| MemberInfo {
            instance_id: None,
            time_stamp: 0,
            state: state.into(),
            is_alive,
            http_end_point: Some(EndPoint { address: address.to_owned(), port: 2113 }),
        };
        let host = |name: &str| Some(Host { name: name.to_owned(), port: 2113 });
        assert_eq!(leader(&member(NodeState::Leader, true, "one")), host("one"));
        assert_eq!(leader(&member(NodeState::Leader, true, "::1")), host("[::1]"));
        assert_eq!(leader(&member(NodeState::Leader, false, "one")), None);
        assert_eq!(leader(&member(NodeState::Follower, true, "one")), None);
    }

    #[test]
    fn a_path_survives_in_the_address_of_the_official_client() {
        let path = Path::new("/etc/my ca&more%.pem");
        let text = format!("kurrentdb://one:2113?tls=true&tlsCaFile={}", escaped(path));
        let settings: ClientSettings = text.parse().unwrap();
        assert_eq!(settings.tls_ca_file().map(String::as_str), path.to_str());
    }

    #[test]
    fn credentials_are_not_shown() {
        let credentials =
            Credentials { user: "ops".to_owned(), password: "changeit".to_owned().into() };
        let header = authorization(&credentials).unwrap();
        assert_eq!(header.to_str().unwrap(), "Basic b3BzOmNoYW5nZWl0");
        assert!(!format!("{header:?}").contains("b3Bz"));
    }
}
