//! Installing projections over a real socket, with the official client.
//!
//! What answers here is no KurrentDB: it is a peer that takes requests in the form of the management
//! protocol and keeps what they say, so that the command can be followed through its ways. That a
//! server runs the projections is for a real one to show, which `KURRENTDB_URL` names.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use data_encoding::BASE64;
use license_ledger::kurrent_protocol::features::SupportedMethods;
use license_ledger::kurrent_protocol::shared::UuidMessage;
use license_ledger::kurrent_protocol::streams::{
    EventPosition, ReadEvent, ReadReq, ReadResp, ReadRespContent, RecordedEvent, Source,
    StreamNotFound,
};
use license_ledger::kurrent_protocol::{metadata, method};
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::codec::ProstCodec;
use tonic::server::Grpc;
use tonic::{Code, Request, Response, Status};
use tower::service_fn;
use uuid::Uuid;

use super::{ALL, folder};
use crate::process::{Ran, run};
use crate::programs::skip;
use crate::webhooks::{eventually, secret_file};

const SERVICE: &str = "/event_store.client.projections.Projections";
const SETTING: &str = "LICENSE_LEDGER_TEST_KURRENTDB";

/// What clients send and get, under the numbers of `projections.proto`.
mod proto {
    use prost::{Message, Oneof};

    #[derive(Clone, PartialEq, Message)]
    pub struct CreateReq {
        #[prost(message, optional, tag = "1")]
        pub options: Option<Create>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Create {
        #[prost(oneof = "Mode", tags = "3")]
        pub mode: Option<Mode>,
        #[prost(string, tag = "4")]
        pub query: String,
    }

    #[derive(Clone, PartialEq, Oneof)]
    pub enum Mode {
        #[prost(message, tag = "3")]
        Continuous(Continuous),
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Continuous {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(bool, tag = "2")]
        pub track_emitted_streams: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct UpdateReq {
        #[prost(message, optional, tag = "1")]
        pub options: Option<Update>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Update {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub query: String,
        #[prost(bool, optional, tag = "3")]
        pub emit_enabled: Option<bool>,
    }

    /// What only names a projection: to enable it, or to ask for its statistics.
    #[derive(Clone, PartialEq, Message)]
    pub struct NamedReq {
        #[prost(message, optional, tag = "1")]
        pub options: Option<Named>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Named {
        #[prost(string, tag = "1")]
        pub name: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct StatisticsResp {
        #[prost(message, optional, tag = "1")]
        pub details: Option<Details>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Details {
        #[prost(string, tag = "8")]
        pub status: String,
        #[prost(string, tag = "9")]
        pub state_reason: String,
        #[prost(string, tag = "10")]
        pub name: String,
        #[prost(string, tag = "12")]
        pub position: String,
        #[prost(float, tag = "13")]
        pub progress: f32,
        #[prost(int64, tag = "15")]
        pub handled: i64,
    }
}

use proto::{CreateReq, Details, Mode, NamedReq, StatisticsResp, UpdateReq};

/// What a peer knows of a projection.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    query: String,
    enabled: bool,
}

#[derive(Default)]
struct State {
    projections: BTreeMap<String, Known>,
    /// Calls that change something: method and projection.
    calls: Vec<String>,
    /// What each call is refused with, but for the questions at the beginning.
    refusal: Option<Code>,
    /// What the last call said of who made it.
    authorization: Option<String>,
    /// What becomes of projections that are enabled.
    status: &'static str,
    reason: &'static str,
}

/// A server as the official client sees one.
struct Peer {
    state: Arc<Mutex<State>>,
    port: u16,
    _runtime: Runtime,
}

impl Peer {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { status: "Running", ..State::default() }));
        let shared = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&shared);
            async move { Ok::<_, std::convert::Infallible>(answer(&state, request).await) }
        });
        let incoming = futures_util::stream::unfold(listener, |listener| async {
            let accepted = listener.accept().await.map(|(connection, _)| connection);
            Some((accepted, listener))
        });
        runtime.spawn(async move {
            let server = tonic::transport::Server::builder();
            server.serve_with_incoming(service, Box::pin(incoming)).await.unwrap();
        });
        Self { state, port, _runtime: runtime }
    }

    fn url(&self) -> String {
        format!("kurrentdb://127.0.0.1:{}?tls=false", self.port)
    }

    fn run(&self, args: &[&str]) -> Ran {
        run(&[&["projections"], args, &["--ledger", &self.url()]].concat())
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    /// What changed something, since the last time.
    fn changes(&self) -> Vec<String> {
        let mut state = self.state.lock().unwrap();
        std::mem::take(&mut state.calls)
    }

    fn projections(&self) -> BTreeMap<String, Known> {
        self.state.lock().unwrap().projections.clone()
    }
}

impl State {
    /// The definition of a projection, as the server stores it in a stream of its own.
    fn stored(&self, read: ReadReq) -> Result<Vec<ReadResp>, Code> {
        let Some(Source::Stream(stream)) = read.options.unwrap().source else {
            return Err(Code::InvalidArgument);
        };
        let identifier = stream.stream_identifier.unwrap();
        let stream = String::from_utf8(identifier.stream_name.clone()).unwrap();
        let name = stream.strip_prefix("$projections-").unwrap();
        let Some(Known { query, enabled }) = self.projections.get(name) else {
            let missing = StreamNotFound { stream_identifier: Some(identifier) };
            return Ok(vec![ReadResp { content: Some(ReadRespContent::StreamNotFound(missing)) }]);
        };
        let said = [
            (metadata::TYPE, "$ProjectionUpdated"),
            (metadata::CREATED, "638900000000000000"),
            (metadata::CONTENT_TYPE, metadata::JSON),
        ];
        let data = json!({ "handlerType": "JS", "query": query, "mode": "Continuous",
            "enabled": enabled, "epoch": -1, "version": -1 });
        let event = RecordedEvent {
            id: Some(UuidMessage::structured(Uuid::from_u128(7))),
            stream_identifier: Some(identifier),
            metadata: said.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            data: data.to_string().into_bytes(),
            ..RecordedEvent::default()
        };
        let position = Some(EventPosition::Commit(0));
        let event = ReadEvent { event: Some(event), link: None, position };
        Ok(vec![ReadResp { content: Some(ReadRespContent::Event(Box::new(event))) }])
    }

    fn create(&mut self, request: CreateReq) -> Result<(), Code> {
        let options = request.options.unwrap();
        let Mode::Continuous(mode) = options.mode.unwrap();
        assert!(!mode.track_emitted_streams, "they emit nothing");
        self.calls.push(format!("create {}", mode.name));
        let known = Known { query: options.query, enabled: true };
        let before = self.projections.insert(mode.name, known);
        before.map_or(Ok(()), |_| Err(Code::Unknown))
    }

    fn update(&mut self, request: UpdateReq) -> Result<(), Code> {
        let options = request.options.unwrap();
        assert_ne!(options.emit_enabled, Some(true), "they emit nothing");
        self.calls.push(format!("update {}", options.name));
        self.known(&options.name)?.query = options.query;
        Ok(())
    }

    fn enable(&mut self, request: NamedReq) -> Result<(), Code> {
        let name = request.options.unwrap().name;
        self.calls.push(format!("enable {name}"));
        self.known(&name)?.enabled = true;
        Ok(())
    }

    fn statistics(&mut self, request: NamedReq) -> Result<Vec<StatisticsResp>, Code> {
        let name = request.options.unwrap().name;
        let (status, reason) = (self.status, self.reason);
        let details = match *self.known(&name)? {
            Known { enabled: true, .. } => Details {
                status: status.to_owned(),
                state_reason: reason.to_owned(),
                name,
                position: "C:700/P:700".to_owned(),
                progress: 99.5,
                handled: 12,
            },
            Known { enabled: false, .. } => {
                Details { status: "Stopped".to_owned(), name, ..Details::default() }
            }
        };
        Ok(vec![StatisticsResp { details: Some(details) }])
    }

    fn known(&mut self, name: &str) -> Result<&mut Known, Code> {
        self.projections.get_mut(name).ok_or(Code::NotFound)
    }
}

async fn answer(state: &Mutex<State>, request: http::Request<Body>) -> http::Response<Body> {
    let path = request.uri().path().to_owned();
    if path == method::SUPPORTED_METHODS {
        let event_store_server_version = "26.1.2".to_owned();
        let features = SupportedMethods { methods: Vec::new(), event_store_server_version };
        return unary(request, |(): ()| Ok(features.clone())).await;
    }
    let refusal = {
        let mut state = state.lock().unwrap();
        let header = request.headers().get("authorization");
        state.authorization = header.map(|value| value.to_str().unwrap().to_owned());
        state.refusal
    };
    if let Some(code) = refusal {
        return refused(code).into_http();
    }
    let state = || state.lock().unwrap();
    match path.strip_prefix(SERVICE) {
        None if path == method::READ => streaming(request, |read| state().stored(read)).await,
        Some("/Create") => unary(request, |create| state().create(create)).await,
        Some("/Update") => unary(request, |update| state().update(update)).await,
        Some("/Enable") => unary(request, |enable| state().enable(enable)).await,
        Some("/Statistics") => streaming(request, |of| state().statistics(of)).await,
        _ => refused(Code::Unimplemented).into_http(),
    }
}

fn refused(code: Code) -> Status {
    Status::new(code, "refused by the test")
}

async fn unary<Req, Resp>(
    request: http::Request<Body>,
    mut answer: impl FnMut(Req) -> Result<Resp, Code>,
) -> http::Response<Body>
where
    Req: Message + Default + 'static,
    Resp: Message + 'static,
{
    let answer = |request: Request<Req>| {
        std::future::ready(answer(request.into_inner()).map(Response::new).map_err(refused))
    };
    Grpc::new(ProstCodec::<Resp, Req>::default()).unary(service_fn(answer), request).await
}

async fn streaming<Req, Resp>(
    request: http::Request<Body>,
    mut answer: impl FnMut(Req) -> Result<Vec<Resp>, Code>,
) -> http::Response<Body>
where
    Req: Message + Default + 'static,
    Resp: Message + 'static,
{
    let answer = |request: Request<Req>| {
        let messages = answer(request.into_inner());
        let stream = |all: Vec<Resp>| futures_util::stream::iter(all.into_iter().map(Ok));
        std::future::ready(messages.map(|all| Response::new(stream(all))).map_err(refused))
    };
    let mut grpc = Grpc::new(ProstCodec::<Resp, Req>::default());
    grpc.server_streaming(service_fn(answer), request).await
}

fn name(projection: &str) -> String {
    format!("license-ledger-{projection}")
}

fn script(projection: &str) -> String {
    std::fs::read_to_string(folder().join(format!("{projection}.js"))).unwrap()
}

fn done(how: &str) -> Vec<String> {
    ALL.iter().map(|projection| format!("{how} {}", name(projection))).collect()
}

/// What an installation said, with single spaces.
fn said(ran: &Ran) -> Vec<String> {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    ran.stdout.lines().map(line).collect()
}

#[test]
fn what_is_missing_is_created_and_what_is_there_is_left_alone() {
    let peer = Peer::start();
    let first = peer.run(&["install"]).ok();
    assert_eq!(said(&first), done("created"));
    assert_eq!(peer.changes(), done("create"));
    let expected = ALL.map(|p| (name(p), Known { query: script(p), enabled: true }));
    assert_eq!(peer.projections(), expected.into());
    let second = peer.run(&["install"]).ok();
    assert_eq!(said(&second), done("unchanged"));
    assert_eq!(peer.changes(), Vec::<String>::new());
}

#[test]
fn only_what_differs_is_changed() {
    let peer = Peer::start();
    peer.run(&["install"]).ok();
    peer.changes();
    peer.set(|state| {
        state.known(&name(ALL[1])).unwrap().query.push_str("// theirs");
        state.known(&name(ALL[2])).unwrap().enabled = false;
        state.projections.remove(&name(ALL[3]));
    });
    let ran = peer.run(&["install"]).ok();
    let how = ["unchanged", "updated", "enabled", "created"];
    let expected: Vec<_> =
        how.iter().zip(ALL).map(|(how, p)| format!("{how} {}", name(p))).collect();
    assert_eq!(said(&ran), expected);
    let calls = [("update", ALL[1]), ("enable", ALL[2]), ("create", ALL[3])];
    assert_eq!(peer.changes(), calls.map(|(how, p)| format!("{how} {}", name(p))));
    let expected = ALL.map(|p| (name(p), Known { query: script(p), enabled: true }));
    assert_eq!(peer.projections(), expected.into());
}

#[test]
fn the_status_tells_what_is_missing_other_or_faulted() {
    let peer = Peer::start();
    let missing = peer.run(&["status", "--json"]);
    assert_eq!(missing.code, 1);
    let all = missing.json();
    assert_eq!(all.as_array().unwrap().len(), ALL.len());
    assert_eq!((&all[0]["name"], &all[0]["script"]), (&json!(name(ALL[0])), &json!("missing")));
    assert_eq!((&all[0]["status"], &all[0]["progress_percent"]), (&Value::Null, &Value::Null));
    peer.run(&["install"]).ok();
    let all = peer.run(&["status", "--json"]).ok().json();
    assert_eq!((&all[1]["script"], &all[1]["status"]), (&json!("current"), &json!("Running")));
    assert_eq!(
        (&all[1]["progress_percent"], &all[1]["events_handled"]),
        (&json!(99.5), &json!(12))
    );
    assert_eq!((&all[1]["position"], &all[1]["reason"]), (&json!("C:700/P:700"), &Value::Null));
    peer.set(|state| state.known(&name(ALL[1])).unwrap().query.clear());
    let differs = peer.run(&["status"]);
    assert_eq!(differs.code, 1);
    let line = differs.stdout.lines().find(|line| line.starts_with(&name(ALL[1]))).unwrap();
    let words: Vec<_> = line.split_whitespace().skip(1).collect();
    assert_eq!(words, ["differs", "Running", "99.5", "%"]);
    peer.run(&["install"]).ok();
    peer.set(|state| {
        (state.status, state.reason) = ("Faulted (Enabled)", "x is not a function");
    });
    let faulted = peer.run(&["status"]);
    assert_eq!(faulted.code, 1);
    assert!(faulted.stdout.contains("\n  x is not a function\n"), "{}", faulted.stdout);
}

#[test]
fn what_keeps_projections_from_being_installed_is_said_with_its_remedy() {
    let peer = Peer::start();
    let says = [
        (Code::PermissionDenied, "$admins"),
        (Code::Unauthenticated, "$admins"),
        (Code::Unimplemented, "RunProjections=All"),
        (Code::Internal, "refused by the test"),
    ];
    for (code, part) in says {
        peer.set(|state| state.refusal = Some(code));
        for command in ["install", "status"] {
            peer.run(&[command]).failed(2, &[part]);
        }
    }
    let port = peer.port;
    drop(peer);
    let url = format!("kurrentdb://127.0.0.1:{port}?tls=false");
    let gone = run(&["projections", "install", "--ledger", &url]);
    gone.failed(2, &[&format!("127.0.0.1:{port} cannot be reached")]);
    run(&["projections", "install"]).failed(2, &["--ledger kurrentdb://"]);
    run(&["projections", "status", "--ledger", "kurrentdb://a:b@c"])
        .failed(2, &["credentials_file"]);
}

#[test]
fn the_user_is_the_one_of_the_credentials_file() {
    let peer = Peer::start();
    let dir = tempfile::TempDir::new().unwrap();
    let file = secret_file(dir.path(), "credentials", "operator:not to be seen\n");
    let config = dir.path().join("ledger.toml");
    let settings = format!("[kurrentdb]\ncredentials_file = \"{}\"\n", file.display());
    std::fs::write(&config, settings).unwrap();
    let ran = peer.run(&["install", "--config", config.to_str().unwrap()]).ok();
    let expected = format!("Basic {}", BASE64.encode(b"operator:not to be seen"));
    assert_eq!(peer.state.lock().unwrap().authorization.as_deref(), Some(expected.as_str()));
    assert!(!format!("{ran:?}").contains("not to be seen"));
}

#[test]
fn a_server_runs_what_is_installed() {
    let Ok(url) = std::env::var("KURRENTDB_URL") else {
        let remedy = "set KURRENTDB_URL, and KURRENTDB_CREDENTIALS to name:password";
        return skip("a server that runs the projections", "none is named", remedy, SETTING);
    };
    let dir = tempfile::TempDir::new().unwrap();
    let config = dir.path().join("ledger.toml");
    let mut settings = format!("ledger = \"{url}\"\n");
    if let Ok(credentials) = std::env::var("KURRENTDB_CREDENTIALS") {
        let file = secret_file(dir.path(), "credentials", &credentials);
        settings += &format!("[kurrentdb]\ncredentials_file = \"{}\"\n", file.display());
    }
    std::fs::write(&config, settings).unwrap();
    let config = config.to_str().unwrap();
    run(&["projections", "install", "--config", config]).ok();
    let again = run(&["projections", "install", "--config", config]).ok();
    assert_eq!(said(&again), done("unchanged"));
    eventually("all run", || run(&["projections", "status", "--config", config]).code == 0);
}
