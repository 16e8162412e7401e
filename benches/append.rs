//! Durable appends per second, beside what the disk allows.
//!
//! 64 writers append one event of 600 bytes at a time to 10,000 streams of a ledger that holds a
//! million events. The limit is a growing file with the same group commit: everything that waits is
//! written at once, followed by one `fdatasync`. Both run in turns, and the line gives the medians.
//!
//! ```text
//! cargo bench --bench append
//! APPEND_EVENTS=100000 APPEND_SECONDS=1 cargo bench --bench append    a quick look
//! ```

// A measurement that fails has nothing to recover.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod report;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use license_ledger::ledger::embedded::Options;
use license_ledger::ledger::{Append, Embedded, Expected, Ledger, NewEvent, StreamName};
use report::{median, setting, surroundings};
use tokio::sync::oneshot;
use uuid::Uuid;

fn main() {
    let events = setting("APPEND_EVENTS", 1_000_000);
    let period = Duration::from_secs(setting("APPEND_SECONDS", 4));
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let ledger = Embedded::open(&dir.path().join("ledger"), Options::default()).unwrap();
    let ledger = Arc::new(Ledger::Embedded(ledger));
    let mut heads = vec![None; STREAMS];
    runtime.block_on(fill(&ledger, events, &mut heads));
    let mut shares = split(&heads);
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let raw = RawFile::start(&dir.path().join(format!("raw-{round}")));
        limit.push(runtime.block_on(measure_raw(&raw, period)));
        ours.push(runtime.block_on(measure(&ledger, &mut shares, period)));
    }
    let (ours, limit) = (median(&mut ours), median(&mut limit));
    let ratio = ours / limit;
    println!(
        "append: ratio={ratio:.2} ours={ours:.0}/s limit={limit:.0}/s events={events} \
         writers={WRITERS} bytes={EVENT_BYTES} {}",
        surroundings(dir.path())
    );
}

/// One writer's streams, each with its head. No two writers share one, so none conflicts.
type Share = Vec<(StreamName, Option<u64>)>;

fn split(heads: &[Option<u64>]) -> Vec<Share> {
    let mut shares = vec![Share::new(); WRITERS];
    for (number, head) in heads.iter().enumerate() {
        shares[number % WRITERS].push((stream(number), *head));
    }
    shares
}

async fn fill(ledger: &Ledger, events: u64, heads: &mut [Option<u64>]) {
    let mut random = Random(1);
    let mut left = events as usize;
    while left > 0 {
        let mut append = Append::default();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..left.min(Append::RECORDS_MAX) {
            let number = random.below(STREAMS);
            if seen.insert(number) {
                append.checks.push((stream(number), Expected::at_head(heads[number])));
            }
            heads[number] = Some(heads[number].map_or(0, |head| head + 1));
            append.records.push((stream(number), event(&mut random)));
        }
        left -= append.records.len();
        ledger.append(append).await.unwrap();
    }
}

async fn measure(ledger: &Arc<Ledger>, shares: &mut [Share], period: Duration) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let writers: Vec<_> = shares
        .iter_mut()
        .map(|share| {
            let mut share = std::mem::take(share);
            let (ledger, stop) = (Arc::clone(ledger), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut random = Random::fresh();
                let mut count = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let at = random.below(share.len());
                    let (stream, head) = &mut share[at];
                    let append = Append {
                        records: vec![(stream.clone(), event(&mut random))],
                        checks: vec![(stream.clone(), Expected::at_head(*head))],
                    };
                    let appended = ledger.append(append).await.unwrap();
                    *head = Some(appended.revisions[0].1);
                    count += 1;
                }
                (share, count)
            })
        })
        .collect();
    tokio::time::sleep(period).await;
    stop.store(true, Ordering::Relaxed);
    let mut total = 0;
    for (writer, share) in writers.into_iter().zip(shares) {
        let (mine, count) = writer.await.unwrap();
        *share = mine;
        total += count;
    }
    total as f64 / started.elapsed().as_secs_f64()
}

async fn measure_raw(raw: &Arc<RawFile>, period: Duration) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (raw, stop) = (Arc::clone(raw), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut random = Random::fresh();
                let mut count = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    raw.append(event(&mut random).data).await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    tokio::time::sleep(period).await;
    stop.store(true, Ordering::Relaxed);
    let mut total = 0;
    for writer in writers {
        total += writer.await.unwrap();
    }
    raw.waiting.lock().unwrap().closed = true;
    raw.arrived.notify_all();
    total as f64 / started.elapsed().as_secs_f64()
}

/// The limit: what waits is written at once and synced once. It gathers writers that come back
/// together as the ledger does, so that neither has an advantage there.
struct RawFile {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    appends: Vec<(Vec<u8>, oneshot::Sender<()>)>,
    wanted: usize,
    closed: bool,
}

impl RawFile {
    fn start(path: &Path) -> Arc<Self> {
        let raw = Arc::new(Self { waiting: Mutex::default(), arrived: Condvar::new() });
        let mut file = File::create(path).unwrap();
        let queue = Arc::clone(&raw);
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let mut expected = 0;
            while let Some(group) = queue.take(expected) {
                expected = group.len();
                bytes.clear();
                group.iter().for_each(|(event, _)| bytes.extend_from_slice(event));
                file.write_all(&bytes).unwrap();
                file.sync_data().unwrap();
                group.into_iter().for_each(|(_, done)| done.send(()).unwrap());
            }
        });
        raw
    }

    async fn append(&self, event: Vec<u8>) {
        let (done, durable) = oneshot::channel();
        if self.push(event, done) {
            self.arrived.notify_one();
        }
        durable.await.unwrap();
    }

    /// Returns whether the writer has what it waits for.
    fn push(&self, event: Vec<u8>, done: oneshot::Sender<()>) -> bool {
        let mut waiting = self.waiting.lock().unwrap();
        waiting.appends.push((event, done));
        waiting.appends.len() == waiting.wanted
    }

    fn take(&self, expected: usize) -> Option<Vec<(Vec<u8>, oneshot::Sender<()>)>> {
        let mut waiting = self.waiting.lock().unwrap();
        waiting.wanted = 1;
        while waiting.appends.is_empty() {
            if waiting.closed {
                return None;
            }
            waiting = self.arrived.wait(waiting).unwrap();
        }
        waiting.wanted = expected / 2;
        let few = |waiting: &mut Waiting| waiting.appends.len() < waiting.wanted;
        let gather = Duration::from_micros(50);
        waiting = self.arrived.wait_timeout_while(waiting, gather, few).unwrap().0;
        waiting.wanted = 0;
        Some(std::mem::take(&mut waiting.appends))
    }
}

fn stream(number: usize) -> StreamName {
    StreamName::new(&format!("device-{number:026}")).unwrap()
}

fn event(random: &mut Random) -> NewEvent {
    let mut data = vec![b'x'; EVENT_BYTES];
    data[..8].copy_from_slice(&random.next().to_le_bytes());
    let id = Uuid::from_u64_pair(random.next(), random.next());
    NewEvent { id, kind: "license-acquired.v1".into(), data, metadata: b"{}".to_vec() }
}

/// Xorshift*: fast, and different in every task.
struct Random(u64);

impl Random {
    fn fresh() -> Self {
        static SEED: AtomicU64 = AtomicU64::new(2);
        let seed = SEED.fetch_add(1, Ordering::Relaxed);
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

const WRITERS: usize = 64;
const STREAMS: usize = 10_000;
const EVENT_BYTES: usize = 600;
const ROUNDS: usize = 5;
