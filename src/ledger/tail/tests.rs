use std::sync::mpsc;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::domain::event::ApiKeyRevoked;
use crate::ledger::embedded::Options;
use crate::ledger::{Append, Embedded, Expected, NewEvent, StreamName};

const AT_ONCE: Duration = Duration::ZERO;
/// Longer than any test takes.
const FOR_EVER: Duration = Duration::from_secs(3600);

fn ledger() -> (TempDir, Arc<Ledger>) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Embedded::open(dir.path(), Options::default()).unwrap();
    (dir, Arc::new(Ledger::Embedded(ledger)))
}

/// Appends `events`, each with the time given.
async fn append(ledger: &Ledger, times: impl IntoIterator<Item = i64>) {
    let stream = StreamName::new("admin").unwrap();
    let next = ledger.last_sequence().await.unwrap().map_or(0, |last| last + 1);
    let events = (next..).zip(times).map(|(n, at_ms)| {
        let event = ApiKeyRevoked { key_id: n.to_string(), actor: String::new(), at_ms };
        NewEvent::of(&stream, &Event::ApiKeyRevoked(event), "test").unwrap()
    });
    for chunk in events.collect::<Vec<_>>().chunks(1000) {
        let head = Expected::at_head(ledger.head(&stream).await.unwrap());
        let records = chunk.iter().map(|event| (stream.clone(), event.clone())).collect();
        ledger.append(Append { records, checks: vec![(stream.clone(), head)] }).await.unwrap();
    }
}

/// Appends something that is no event of ours.
async fn append_unknown(ledger: &Ledger, stream: &str) {
    let stream = StreamName::new(stream).unwrap();
    let sequence = ledger.last_sequence().await.unwrap().map_or(0, |last| last + 1);
    let event = NewEvent {
        id: uuid::Uuid::from_u128(sequence.into()),
        kind: "unheard-of.v1".into(),
        data: b"{}".to_vec(),
        metadata: b"{}".to_vec(),
    };
    let head = Expected::at_head(ledger.head(&stream).await.unwrap());
    let checks = vec![(stream.clone(), head)];
    ledger.append(Append { records: vec![(stream, event)], checks }).await.unwrap();
}

/// Sends the sequences of every batch.
struct Tell(mpsc::Sender<Vec<u64>>);

impl Apply for Tell {
    fn apply(
        &mut self,
        batch: &[Arc<Fact>],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.send(batch.iter().map(|fact| fact.recorded.sequence).collect())?)
    }
}

async fn follow(
    ledger: &Arc<Ledger>,
    next_sequence: u64,
    pause: Duration,
) -> (Tail, mpsc::Receiver<Vec<u64>>) {
    let (told, batches) = mpsc::channel();
    let tail =
        Tail::spawn("test", Arc::clone(ledger), next_sequence, pause, Tell(told)).await.unwrap();
    (tail, batches)
}

async fn failure(tail: &Tail) -> String {
    let started = Instant::now();
    loop {
        if let Some(reason) = tail.progress().failed {
            return reason;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "it did not fail");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn applies_every_event_once_and_in_order_in_batches_of_bounded_size() {
    let (_dir, ledger) = ledger();
    append(&ledger, 0..BATCH_EVENTS as i64 + 10).await;
    let (tail, batches) = follow(&ledger, 3, AT_ONCE).await;
    for _ in 0..20 {
        append(&ledger, 0..7).await;
    }
    let last = ledger.last_sequence().await.unwrap().unwrap();
    assert!(tail.wait_for(last).await);
    assert_eq!(tail.progress().next_sequence, last + 1);
    drop(tail);
    let batches: Vec<Vec<u64>> = batches.iter().collect();
    assert!(batches.iter().all(|batch| (1..=BATCH_EVENTS).contains(&batch.len())));
    assert_eq!(batches.concat(), (3..=last).collect::<Vec<_>>());
}

#[tokio::test]
async fn events_of_users_are_passed_over() {
    let (dir, ledger) = ledger();
    append(&ledger, [7]).await;
    append_unknown(&ledger, "user-a").await;
    append(&ledger, [8]).await;
    for _ in 0..3 {
        append_unknown(&ledger, "user-b").await;
    }
    let (tail, batches) = follow(&ledger, 0, AT_ONCE).await;
    assert!(tail.wait_for(5).await);
    append_unknown(&ledger, "user-a").await;
    assert!(tail.wait_for(6).await);
    let progress = tail.progress();
    assert_eq!((progress.next_sequence, progress.last_at_ms), (7, 8));
    drop(tail);
    assert_eq!(batches.iter().collect::<Vec<_>>().concat(), [0, 2]);
    // And when they are read from disk, behind the last event of ours.
    ledger.close().await;
    drop(ledger);
    let reopened = Embedded::open(dir.path(), Options::default()).unwrap();
    let ledger = Arc::new(Ledger::Embedded(reopened));
    let (tail, batches) = follow(&ledger, 1, AT_ONCE).await;
    assert_eq!(tail.progress().last_at_ms, 8);
    assert!(tail.wait_for(6).await);
    drop(tail);
    assert_eq!(batches.iter().collect::<Vec<_>>().concat(), [2]);
}

#[tokio::test]
async fn whoever_waits_does_not_wait_for_events_to_gather() {
    let (_dir, ledger) = ledger();
    let (tail, batches) = follow(&ledger, 0, FOR_EVER).await;
    for n in 0..5 {
        append(&ledger, [0]).await;
        assert!(tail.wait_for(n).await);
        assert_eq!(batches.try_recv().unwrap(), [n]);
    }
}

#[tokio::test]
async fn waits_for_an_event_that_is_still_to_come() {
    let (_dir, ledger) = ledger();
    let (tail, _batches) = follow(&ledger, 0, AT_ONCE).await;
    let (applied, ()) = tokio::join!(tail.wait_for(1), append(&ledger, [0, 0]));
    assert!(applied);
}

#[tokio::test]
async fn stops_at_an_event_it_cannot_read_and_says_why() {
    let (_dir, ledger) = ledger();
    append(&ledger, [0]).await;
    append_unknown(&ledger, "other").await;
    let (tail, batches) = follow(&ledger, 0, AT_ONCE).await;
    let reason = failure(&tail).await;
    assert!(reason.contains("event 1") && reason.contains("unheard-of.v1"), "{reason}");
    append(&ledger, [0]).await;
    assert!(!tail.wait_for(2).await);
    drop(tail);
    assert!(batches.iter().all(|batch| !batch.contains(&2)), "never skips one");
}

#[tokio::test]
async fn stops_when_a_batch_cannot_be_applied_and_says_why() {
    let (_dir, ledger) = ledger();
    let (tail, batches) = follow(&ledger, 0, AT_ONCE).await;
    drop(batches);
    append(&ledger, [0]).await;
    assert!(!tail.wait_for(0).await);
    let reason = failure(&tail).await;
    assert!(reason.starts_with("events from 0 on cannot be applied: "), "{reason}");
    assert_eq!(tail.progress().next_sequence, 0);
}

#[tokio::test]
async fn closed_ledger_is_applied_to_its_end() {
    let (_dir, ledger) = ledger();
    append(&ledger, [0]).await;
    let (tail, _batches) = follow(&ledger, 0, Duration::from_millis(50)).await;
    append(&ledger, [0]).await;
    ledger.close().await;
    assert!(tail.wait_for(1).await);
    assert!(!tail.wait_for(2).await);
    assert_eq!(tail.progress().failed, None);
}

/// Takes its time for each batch.
struct Slow(mpsc::Sender<()>);

impl Apply for Slow {
    fn apply(&mut self, _: &[Arc<Fact>]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0.send(())?;
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    }
}

#[tokio::test]
async fn dropping_a_tail_that_is_far_behind_stops_it_after_the_batch_at_hand() {
    const BATCHES: usize = 12;
    let (_dir, ledger) = ledger();
    append(&ledger, 0..(BATCHES * BATCH_EVENTS) as i64).await;
    let (told, applied) = mpsc::channel();
    let tail = Tail::spawn("test", Arc::clone(&ledger), 0, AT_ONCE, Slow(told)).await.unwrap();
    applied.recv().unwrap();
    drop(tail);
    let more = applied.iter().count();
    assert!(more < BATCHES / 2, "went on for {more} batches");
}

#[tokio::test]
async fn knows_the_latest_time_of_what_is_applied_also_after_a_start() {
    let (_dir, ledger) = ledger();
    append(&ledger, [5, 9, 7]).await;
    let (tail, _batches) = follow(&ledger, 2, AT_ONCE).await;
    assert_eq!(tail.progress().last_at_ms, 7, "before anything is applied");
    drop(tail);
    let (tail, _batches) = follow(&ledger, 0, AT_ONCE).await;
    assert!(tail.wait_for(2).await);
    assert_eq!(tail.progress().last_at_ms, 9);
    drop(tail);
    let (tail, _batches) = follow(&ledger, 3, FOR_EVER).await;
    append(&ledger, [6]).await;
    assert!(tail.wait_for(3).await);
    assert_eq!(tail.progress().last_at_ms, 7, "of the last one before the start");
}

/// Gathers everything until it has to be stored; then sends how many events that were.
struct Gather {
    from: Option<u64>,
    next: u64,
    stored: mpsc::Sender<u64>,
}

impl Apply for Gather {
    fn apply(
        &mut self,
        batch: &[Arc<Fact>],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.from.get_or_insert(batch[0].recorded.sequence);
        self.next = batch[batch.len() - 1].recorded.sequence + 1;
        Ok(())
    }

    fn unstored_from(&self) -> Option<u64> {
        self.from
    }

    fn store(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let from = self.from.take().map_or(0, |from| self.next - from);
        Ok(self.stored.send(from)?)
    }
}

async fn gather(ledger: &Arc<Ledger>, pause: Duration) -> (Tail, mpsc::Receiver<u64>) {
    let (stored, told) = mpsc::channel();
    let gather = Gather { from: None, next: 0, stored };
    (Tail::spawn("test", Arc::clone(ledger), 0, pause, gather).await.unwrap(), told)
}

#[tokio::test]
async fn what_was_gathered_is_stored_once_nothing_more_comes() {
    let (_dir, ledger) = ledger();
    append(&ledger, 0..7).await;
    let (tail, stored) = gather(&ledger, Duration::from_millis(10)).await;
    assert_eq!(stored.recv().unwrap(), 7);
    append(&ledger, [0]).await;
    assert_eq!(stored.recv().unwrap(), 1);
    assert!(tail.wait_for(7).await);
}

#[tokio::test]
async fn what_was_gathered_is_stored_when_somebody_waits_for_it_and_counts_only_then() {
    let (_dir, ledger) = ledger();
    append(&ledger, [3]).await;
    let (tail, stored) = gather(&ledger, FOR_EVER).await;
    while tail.progress().last_at_ms != 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(tail.progress().next_sequence, 0, "applied, not stored");
    assert!(tail.wait_for(0).await);
    assert_eq!(stored.recv().unwrap(), 1);
    append(&ledger, [4, 5]).await;
    assert!(tail.wait_for(2).await);
    assert_eq!(tail.progress().next_sequence, 3);
}

#[tokio::test]
async fn what_was_gathered_is_stored_when_the_tail_is_dropped() {
    let (_dir, ledger) = ledger();
    append(&ledger, [3]).await;
    let (tail, stored) = gather(&ledger, FOR_EVER).await;
    while tail.progress().last_at_ms != 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(tail);
    assert_eq!(stored.try_recv().unwrap(), 1);
}
