//! The outer shell against raw sockets: what a well-behaved client never sends.

mod answers;
mod life;
mod stalling;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix_web::{HttpResponse, web};
use license_ledger::access::secrets::Secret;
use license_ledger::access::{Registry, Scope};
use license_ledger::clock::UnixMillis;
use license_ledger::config::Config;
use license_ledger::http::auth::{Authorized, InventoryRead};
use license_ledger::http::health::Readiness;
use license_ledger::http::json::Json;
use license_ledger::http::metrics::Metrics;
use license_ledger::http::page::PageQuery;
use license_ledger::http::problem::Problem;
use license_ledger::http::{Running, Server, Shell, StartError};
use serde_json::{Value, json};

/// A config on a free port, with short times.
fn config() -> Config {
    let mut config = Config::default();
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.limits.header_timeout_ms = 500;
    config.limits.body_timeout_ms = 700;
    config.limits.keep_alive_ms = 1_000;
    config.limits.workers = 2;
    config
}

fn routes(config: &mut web::ServiceConfig) {
    async fn length(body: web::Bytes) -> String {
        body.len().to_string()
    }
    async fn slow(ms: web::Path<u64>) -> &'static str {
        tokio::time::sleep(Duration::from_millis(*ms)).await;
        "slept"
    }
    async fn panics() -> &'static str {
        panic!("this handler always panics")
    }
    async fn fails() -> Result<&'static str, Problem> {
        Err(Problem::internal("disk /srv/ledger is full"))
    }
    async fn secured(caller: Authorized<InventoryRead>) -> String {
        caller.principal().name.clone()
    }
    async fn large() -> Vec<u8> {
        vec![b'x'; LARGE]
    }
    async fn json(Json(numbers): Json<Vec<u32>>) -> String {
        numbers.iter().sum::<u32>().to_string()
    }
    async fn list(query: web::Query<PageQuery>) -> Result<HttpResponse, Problem> {
        let page = query.parse::<u64>("numbers")?;
        Ok(HttpResponse::Ok().body(page.limit.to_string()))
    }
    config
        .service(web::resource("/length").route(web::post().to(length)))
        .service(web::resource("/slow/{ms}").route(web::get().to(slow)))
        .service(web::resource("/panics").route(web::get().to(panics)))
        .service(web::resource("/fails").route(web::get().to(fails)))
        .service(web::resource("/secured").route(web::get().to(secured)))
        .service(web::resource("/large").route(web::get().to(large)))
        .service(web::resource("/json").route(web::post().to(json)))
        .service(web::resource("/list").route(web::get().to(list)));
}

const LARGE: usize = 32 << 20;

fn start(config: &Config) -> Running {
    start_with(config, registry().0, Readiness::default())
}

fn start_with(config: &Config, access: Registry, readiness: Readiness) -> Running {
    let shell = Shell::new(config, Arc::new(access), Arc::new(Metrics::default()), readiness);
    Server::start(config, shell, routes).unwrap()
}

/// A registry with one key for the inventory and one for events: their headers.
fn registry() -> (Registry, [String; 2]) {
    let registry = Registry::new(Secret::new([1; 32]));
    let headers = [(Scope::InventoryRead, 1), (Scope::EventsRead, 2)].map(|(scope, fill)| {
        let scopes = BTreeSet::from([scope]);
        let (record, text) = registry.issue("test", scopes, UnixMillis(0), &[fill; 42]).unwrap();
        registry.apply_created(record);
        format!("Authorization: Bearer {}\r\n", text.expose())
    });
    (registry, headers)
}

/// An answer, taken apart.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn of(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {text:?}"));
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn problem(&self) -> Value {
        assert!(self.header("content-type") == Some("application/problem+json"), "{}", self.head);
        let problem: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"));
        problem
    }

    fn code(&self) -> String {
        self.problem()["code"].as_str().unwrap().to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn connect(service: &Running) -> TcpStream {
    let stream = TcpStream::connect(service.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Everything until the server closes; a reset ends it too.
fn read_to_close(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        bytes.extend_from_slice(&piece[..count]);
    }
    String::from_utf8(bytes).unwrap()
}

fn exchange(service: &Running, request: &str) -> Answer {
    let mut stream = connect(service);
    stream.write_all(request.as_bytes()).unwrap();
    Answer::of(&read_to_close(&mut stream))
}

fn get(service: &Running, path: &str, headers: &str) -> Answer {
    exchange(
        service,
        &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"),
    )
}

fn post(service: &Running, path: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}");
    exchange(service, &format!("{head}Content-Length: {length}\r\n\r\n{body}"))
}

/// Sends one byte each 50 ms until the server hangs up; says how long that took.
fn drip(stream: &mut TcpStream, byte: &[u8]) -> Duration {
    let started = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut piece = [0; 4096];
    while started.elapsed() < Duration::from_secs(15) {
        if stream.write_all(byte).is_err() {
            break;
        }
        match stream.peek(&mut piece) {
            Ok(_) => break,
            Err(waiting) if waiting.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    started.elapsed()
}
