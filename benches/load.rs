//! The load: connections that are kept alive, on one thread, doing as little as a client can.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::cpu;

pub const CONNECTIONS: usize = 64;

/// When requests are sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// Each connection sends as soon as it has its answer.
    Closed,
    /// So many a second, whether answers come or not.
    Open(f64),
}

/// How it went.
pub struct Outcome {
    pub seconds: f64,
    /// Processor time of the load generator, which runs on the thread that calls it.
    pub cpu_seconds: f64,
    /// Milliseconds from the moment each request was to be sent to the end of its answer.
    pub latencies: Vec<f64>,
}

/// Posts every challenge to `target` once and requires a license in every answer.
pub fn run(address: SocketAddr, target: &str, bodies: &[Vec<u8>], pace: Pace) -> Outcome {
    let request = |body: &Vec<u8>| post(target, "Content-Type: text/xml; charset=utf-8", body);
    send(address, bodies.iter().map(request).collect(), "<License>", pace)
}

/// A request that posts `body`, with these headers, each line but the last ended by CR LF.
pub fn post(target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Sends every request once and requires an answer of status 200 that holds `wanted`.
pub fn send(
    address: SocketAddr,
    requests: Vec<Vec<u8>>,
    wanted: &'static str,
    pace: Pace,
) -> Outcome {
    let used = cpu::of_thread();
    let count = requests.len();
    let requests = Rc::new(requests);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let next = Rc::new(Cell::new(0));
    LocalSet::new().block_on(&runtime, async {
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            streams.push(stream);
        }
        let started = Instant::now();
        let connections: Vec<_> = streams
            .into_iter()
            .map(|stream| {
                let (next, requests) = (Rc::clone(&next), Rc::clone(&requests));
                tokio::task::spawn_local(connection(stream, next, requests, wanted, pace, started))
            })
            .collect();
        let mut latencies = Vec::with_capacity(count);
        for connection in connections {
            latencies.extend(connection.await.unwrap());
        }
        let seconds = started.elapsed().as_secs_f64();
        Outcome { seconds, latencies, cpu_seconds: cpu::of_thread() - used }
    })
}

async fn connection(
    mut stream: TcpStream,
    next: Rc<Cell<usize>>,
    requests: Rc<Vec<Vec<u8>>>,
    wanted: &'static str,
    pace: Pace,
    started: Instant,
) -> Vec<f64> {
    let mut latencies = Vec::new();
    let mut answer = Vec::with_capacity(64 << 10);
    loop {
        let index = next.replace(next.get() + 1);
        let Some(request) = requests.get(index) else { return latencies };
        let due = match pace {
            Pace::Closed => Instant::now(),
            Pace::Open(rate) => started + Duration::from_secs_f64(index as f64 / rate),
        };
        if matches!(pace, Pace::Open(_)) {
            tokio::time::sleep_until(due.into()).await;
        }
        stream.write_all(request).await.unwrap();
        receive(&mut stream, &mut answer, wanted).await;
        latencies.push(due.elapsed().as_secs_f64() * 1000.0);
    }
}

/// Reads one answer and requires that it is the right one.
async fn receive(stream: &mut TcpStream, answer: &mut Vec<u8>, wanted: &str) {
    answer.clear();
    let body = loop {
        assert_ne!(stream.read_buf(answer).await.unwrap(), 0, "the connection was closed");
        if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = std::str::from_utf8(&answer[..body]).unwrap();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
    let length: usize = length.unwrap().parse().unwrap();
    while answer.len() < body + length {
        assert_ne!(stream.read_buf(answer).await.unwrap(), 0, "the connection was closed");
    }
    // `contains` of a text takes a fraction of the time that comparing every window does, and the
    // load generator shares the cores.
    let answer = std::str::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(wanted), "{answer}");
}
