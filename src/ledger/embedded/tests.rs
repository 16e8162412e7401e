//! What is particular to this engine: files, processes, failures of the storage.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;
use uuid::Uuid;

use super::log::Outcome;
use super::*;
use crate::ledger::event::{Expected, NewEvent};

#[tokio::test]
async fn a_ledger_that_is_opened_again_goes_on_where_it_was() {
    for events in [0, 1, 2, 3, 4, 10, 50] {
        let dir = tempfile::tempdir().unwrap();
        let before = {
            let ledger = Embedded::open(dir.path(), small()).unwrap();
            fill(&ledger, 0, events).await;
            ledger.close().await;
            ledger.read_all(0, 1000).unwrap()
        };
        let ledger = Embedded::open(dir.path(), small()).unwrap();
        assert_eq!(*ledger.subscribe().borrow(), events.checked_sub(1));
        assert_eq!(ledger.read_all(0, 1000).unwrap(), before);
        for sequence in 0..events {
            let repeat = ledger.append(nth(sequence)).await.unwrap();
            assert_eq!((repeat.already_stored, repeat.last_sequence), (true, sequence));
        }
        fill(&ledger, events, 20).await;
        assert_whole(&ledger);
    }
}

#[tokio::test]
async fn after_a_close_the_database_file_alone_holds_every_event() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ledger = Embedded::open(dir.path(), small()).unwrap();
    fill(&ledger, 0, 20).await;
    ledger.close().await;
    std::fs::copy(dir.path().join("ledger.db"), copy.path().join("ledger.db")).unwrap();
    let copied = Embedded::open_read_only(copy.path()).unwrap();
    assert_eq!(copied.read_all(0, 100).unwrap(), ledger.read_all(0, 100).unwrap());
    assert_eq!(copied.last_sequence().unwrap(), Some(19));
}

#[tokio::test]
async fn a_reader_at_work_hinders_no_close_and_costs_no_event() {
    let dir = filled(5).await;
    let reader = raw(&dir);
    let ledger = Embedded::open(dir.path(), small()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap();
    fill(&ledger, 5, 5).await;
    ledger.close().await;
    let ledger = Embedded::open(dir.path(), small()).unwrap();
    fill(&ledger, 10, 5).await;
    assert_whole(&ledger);
}

#[tokio::test]
async fn files_belong_to_their_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new/data");
    let ledger = Embedded::open(&dir, small()).unwrap();
    fill(&ledger, 0, 1).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in ["ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.lock"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_second_writer_is_refused_until_the_first_has_closed() {
    let dir = tempfile::tempdir().unwrap();
    let first = Embedded::open(dir.path(), small()).unwrap();
    let refused = Embedded::open(dir.path(), small()).err().unwrap();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
    assert!(refused.to_string().contains(dir.path().to_str().unwrap()));
    first.close().await;
    let second = Embedded::open(dir.path(), small()).unwrap();
    fill(&second, 0, 1).await;
    assert_eq!(first.last_sequence().unwrap(), Some(0), "reads go on after closing");
}

#[tokio::test]
async fn a_reader_beside_the_writer_sees_every_commit() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Embedded::open_read_only(dir.path()).err().unwrap();
    assert!(matches!(missing, OpenError::Missing { .. }), "{missing:?}");
    let writer = Embedded::open(dir.path(), small()).unwrap();
    let reader = Embedded::open_read_only(dir.path()).unwrap();
    for sequence in 0..60 {
        fill(&writer, sequence, 1).await;
        assert_eq!(reader.last_sequence().unwrap(), Some(sequence));
        assert_eq!(reader.read_all(sequence, 1).unwrap()[0].sequence, sequence);
        for stream in (0..STREAMS).map(stream) {
            assert_eq!(reader.head(&stream).unwrap(), writer.head(&stream).unwrap());
            assert_eq!(
                reader.read_stream(&stream, 0, 99).unwrap(),
                writer.read_stream(&stream, 0, 99).unwrap()
            );
        }
    }
    let refused = reader.append(nth(60)).await;
    assert!(matches!(refused, Err(AppendError::Unavailable(Unavailable::ReadOnly))));
    drop(writer);
    assert_whole(&reader);
    assert_whole(&Embedded::open_read_only(dir.path()).unwrap());
}

#[tokio::test]
async fn refuses_a_database_of_a_newer_version_and_leaves_it_alone() {
    let dir = filled(5).await;
    raw(&dir).pragma_update(None, "user_version", 99).unwrap();
    for opened in [Embedded::open(dir.path(), small()), Embedded::open_read_only(dir.path())] {
        let refused = opened.err().unwrap();
        assert!(matches!(refused, OpenError::Newer { found: 99, .. }), "{refused:?}");
    }
    let version = raw(&dir).pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    assert_eq!(version, Ok(99));
}

#[tokio::test]
async fn a_database_of_an_earlier_version_is_not_read_before_it_is_brought_up_to_date() {
    let dir = filled(5).await;
    raw(&dir).pragma_update(None, "user_version", 0).unwrap();
    let refused = Embedded::open_read_only(dir.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Older { .. }), "{refused:?}");
}

#[test]
fn an_empty_file_is_no_earlier_version() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ledger.db"), "").unwrap();
    let wal = dir.path().join("ledger.db-wal");
    std::fs::write(&wal, "what SQLite would remove").unwrap();
    let refused = Embedded::open_read_only(dir.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Empty { .. }), "{refused:?}");
    assert!(refused.to_string().contains("restore it from a backup"), "{refused}");
    assert!(wal.exists());
    std::fs::remove_file(wal).unwrap();
    // All of a ledger that is in ledger.db while the rest is in the write-ahead log.
    raw(&dir).pragma_update(None, "journal_mode", "WAL").unwrap();
    let refused = Embedded::open_read_only(dir.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Empty { .. }), "{refused:?}");
}

#[test]
fn what_cannot_be_looked_at_is_not_taken_for_missing() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody can follow it, not even root.
    std::os::unix::fs::symlink("ledger.db", dir.path().join("ledger.db")).unwrap();
    let refused = Embedded::open_read_only(dir.path()).err().unwrap();
    assert!(matches!(refused, OpenError::NotReadable { .. }), "{refused:?}");
    assert!(refused.to_string().contains("the user who runs the service"), "{refused}");
}

#[test]
fn refuses_the_database_of_another_program() {
    let dir = tempfile::tempdir().unwrap();
    raw(&dir).execute_batch("CREATE TABLE songs (title TEXT)").unwrap();
    let refused = Embedded::open(dir.path(), small()).err().unwrap();
    assert!(matches!(refused, OpenError::Foreign { .. }), "{refused:?}");
}

#[test]
fn refuses_a_file_that_is_not_a_database() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ledger.db"), "not a database, but long enough ".repeat(300))
        .unwrap();
    let refused = Embedded::open(dir.path(), small()).err().unwrap();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused:?}");
}

#[tokio::test]
async fn refuses_a_log_whose_end_is_damaged() {
    for damage in [
        "DELETE FROM events WHERE sequence = 77",
        "DELETE FROM events WHERE sequence > 10",
        "UPDATE events SET revision = revision + 1 WHERE sequence = 99",
        "UPDATE events SET stream = 2 WHERE sequence = 50",
        "DELETE FROM stream_index WHERE sequence = 3",
        "UPDATE stream_index SET sequence = 4 WHERE sequence = 3",
        "DELETE FROM filing",
        "DROP TABLE id_index",
    ] {
        let dir = filled(100).await;
        let triggers = "DROP TRIGGER events_never_change; DROP TRIGGER events_are_never_removed;";
        raw(&dir).execute_batch(&format!("{triggers}{damage}")).unwrap();
        let refused = Embedded::open(dir.path(), small()).err();
        assert!(matches!(refused, Some(OpenError::Damaged { .. })), "{damage}: {refused:?}");
    }
}

#[tokio::test]
async fn refuses_a_database_that_was_cut_off() {
    let dir = filled(2000).await;
    raw(&dir).execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let database = std::fs::OpenOptions::new().write(true).open(dir.path().join("ledger.db"));
    let database = database.unwrap();
    let bytes = database.metadata().unwrap().len();
    database.set_len(bytes / 2).unwrap();
    let refused = Embedded::open(dir.path(), small()).err().unwrap();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused:?}");
}

#[test]
fn refuses_a_directory_that_cannot_be_written() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    // Nobody may make a directory in either place, not even root.
    for dir in [file.join("data"), "/sys/license-ledger".into()] {
        let refused = Embedded::open(&dir, small()).err().unwrap();
        assert!(matches!(refused, OpenError::NotWritable { .. }), "{refused:?}");
        assert!(refused.to_string().contains(dir.to_str().unwrap()), "{refused}");
    }
}

#[tokio::test]
async fn stored_events_can_be_neither_changed_nor_removed() {
    let dir = filled(3).await;
    for sql in ["UPDATE events SET data = x''", "DELETE FROM events"] {
        let refused = raw(&dir).execute_batch(sql).unwrap_err();
        assert!(refused.to_string().contains("never"), "{refused}");
    }
}

#[tokio::test]
async fn a_statement_that_fails_refuses_the_append_and_nothing_else() {
    let dir = filled(3).await;
    raw(&dir)
        .execute_batch(
            "CREATE TRIGGER no_room BEFORE INSERT ON events WHEN NEW.kind = 'too-much.v1'
             BEGIN SELECT RAISE(ABORT, 'no room'); END",
        )
        .unwrap();
    let ledger = Embedded::open(dir.path(), small()).unwrap();
    let mut append = nth(3);
    append.records.push((stream(7), NewEvent { kind: "too-much.v1".into(), ..event(1000) }));
    append.checks.push((stream(7), Expected::NoStream));
    let refused = ledger.append(append).await;
    let Err(AppendError::Unavailable(Unavailable::Storage(_))) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(ledger.last_sequence().unwrap(), Some(2));
    fill(&ledger, 3, 10).await;
    assert_whole(&ledger);
}

#[tokio::test]
async fn a_log_that_cannot_grow_refuses_the_group_and_takes_what_fits() {
    let dir = filled(3).await;
    let (opened, _lock) = open::open(dir.path(), 1024).unwrap();
    let Opened { connection, unfiled, next_sequence, .. } = opened;
    let pages = connection.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0));
    connection.pragma_update(None, "max_page_count", pages.unwrap() + 3).unwrap();
    let heads = Arc::new(Heads::new(8));
    let mut log = Log::new(connection, heads, unfiled, next_sequence, &small());
    let refused = log.write([nth(3), large(0)].iter());
    let Outcome::Refused(AppendError::Unavailable(Unavailable::Storage(error))) = refused else {
        panic!("not refused");
    };
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(log.last_sequence(), Some(2));
    let Outcome::Decided(answers) = log.write([nth(3)].iter()) else { panic!("does not go on") };
    assert_eq!(answers[0].as_ref().unwrap().last_sequence, 3);
    drop((log, _lock));
    let ledger = Embedded::open(dir.path(), small()).unwrap();
    fill(&ledger, 4, 10).await;
    assert_whole(&ledger);
}

/// The commit itself finds no room: on a small file system that a child of this test has to itself.
#[test]
fn a_full_disk_refuses_the_group_and_the_log_goes_on_once_there_is_room() {
    if let Ok(dir) = std::env::var(SMALL_DISK) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        return runtime.block_on(fill_the_disk(Path::new(&dir)));
    }
    let dir = tempfile::tempdir().unwrap();
    let name = "a_full_disk_refuses_the_group_and_the_log_goes_on_once_there_is_room";
    let child = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(format!("mount -t tmpfs -o size=1m none \"${SMALL_DISK}\" || exit 1; exec \"$@\""))
        .arg("sh")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("ledger::embedded::tests::{name}"), "--nocapture"])
        .env(SMALL_DISK, dir.path())
        .output();
    match child {
        Ok(ended) if ended.status.success() => {
            assert!(String::from_utf8_lossy(&ended.stdout).contains("1 passed"), "{ended:?}");
        }
        // What a failed test ends with.
        Ok(ended) if ended.status.code() == Some(101) => panic!("{ended:?}"),
        skipped => eprintln!("skipped, as no file system can be mounted here: {skipped:?}"),
    }
}

async fn fill_the_disk(dir: &Path) {
    let ledger = Embedded::open(dir, Options::default()).unwrap();
    let mut stored = 0;
    while let Ok(appended) = ledger.append(large(stored)).await {
        assert_eq!(appended.last_sequence, stored as u64);
        stored += 1;
    }
    assert!(stored > 3, "the disk was too small from the start");
    for _ in 0..2 {
        let refused = ledger.append(large(stored)).await;
        let Err(AppendError::Unavailable(Unavailable::Storage(_))) = refused else {
            panic!("{refused:?}");
        };
        assert_whole(&ledger);
    }
    let mut more = Command::new("mount");
    assert!(more.args(["-o", "remount,size=16m"]).arg(dir).status().unwrap().success());
    ledger.append(large(stored)).await.unwrap();
    let before = ledger.read_all(0, usize::MAX).unwrap();
    assert_eq!(before.len(), stored + 1);
    drop(ledger);
    let ledger = Embedded::open(dir, small()).unwrap();
    assert_whole(&ledger);
    assert_eq!(ledger.read_all(0, usize::MAX).unwrap(), before);
}

#[tokio::test]
async fn a_commit_that_fails_stops_the_writer_for_good_and_reads_go_on() {
    let dir = filled(3).await;
    raw(&dir)
        .execute_batch(
            "CREATE TABLE lost (stream INTEGER REFERENCES streams DEFERRABLE INITIALLY DEFERRED);
             CREATE TRIGGER lose AFTER INSERT ON events WHEN NEW.kind = 'lost.v1'
             BEGIN INSERT INTO lost VALUES (-1); END",
        )
        .unwrap();
    let ledger = Embedded::open(dir.path(), small()).unwrap();
    let mut append = nth(3);
    append.records[0].1.kind = "lost.v1".into();
    let lost = ledger.append(append).await;
    assert!(matches!(lost, Err(AppendError::Unknown(_))), "{lost:?}");
    let refused = ledger.append(nth(3)).await;
    let Err(AppendError::Unavailable(Unavailable::Stopped)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(ledger.last_sequence().unwrap(), Some(2));
    assert_whole(&ledger);
    ledger.close().await;
    let ledger = Embedded::open(dir.path(), small()).unwrap();
    fill(&ledger, 3, 1).await;
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_while_the_disk_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { queue_appends_max: 2, ..small() };
    let ledger = Embedded::open(dir.path(), options).unwrap();
    let busy = raw(&dir);
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    // One append is in the writer's hands, and two wait.
    let mut waiting = Vec::new();
    for number in 0..3 {
        waiting.push(Box::pin(ledger.append(lone(number))));
        let first_look = tokio::time::timeout(Duration::from_millis(100), &mut waiting[number]);
        assert!(first_look.await.is_err(), "append {number} did not wait");
    }
    let refused = ledger.append(lone(9)).await;
    assert!(matches!(refused, Err(AppendError::Unavailable(Unavailable::QueueFull))));
    busy.execute_batch("ROLLBACK").unwrap();
    for append in waiting {
        append.await.unwrap();
    }
    ledger.append(lone(9)).await.unwrap();
}

#[tokio::test]
async fn the_write_ahead_log_does_not_grow_without_bound() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Embedded::open(dir.path(), Options::default()).unwrap();
    for number in 0..120 {
        let mut append = lone(number);
        append.records[0].1.data = vec![b' '; 2 << 20];
        ledger.append(append).await.unwrap();
    }
    let bytes = std::fs::metadata(dir.path().join("ledger.db-wal")).unwrap().len();
    // 32 MiB from which it is started again, and what may be told, copied and committed meanwhile.
    assert!(bytes < 160 << 20, "{bytes} bytes for 240 MiB of events");
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    if let Ok(dir) = std::env::var(CRASH_DIR) {
        append_and_tell(Path::new(&dir));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = HashSet::new();
    for cycle in 1..=5u64 {
        acknowledged.extend(acknowledged_until_killed(dir.path(), 100 * cycle as usize));
        let ledger = Embedded::open(dir.path(), small()).unwrap();
        assert_whole(&ledger);
        let events = ledger.read_all(0, usize::MAX).unwrap();
        let stored: HashSet<Uuid> = events.iter().map(|event| event.id).collect();
        assert!(acknowledged.is_subset(&stored), "cycle {cycle} lost an acknowledged event");
    }
    assert!(acknowledged.len() >= 1500);
}

/// Runs this test as a child, and kills it when it has acknowledged `count` events.
fn acknowledged_until_killed(dir: &Path, count: usize) -> Vec<Uuid> {
    let name = "ledger::embedded::tests::a_killed_process_loses_nothing_that_it_acknowledged";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CRASH_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        // The last line may be cut, and those of the test harness are others.
        let id = line.strip_prefix("stored ").filter(|id| id.len() == 36);
        acknowledged.extend(id.map(|id| id.parse::<Uuid>().unwrap()));
        if acknowledged.len() == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= count, "the child ended by itself");
    acknowledged
}

/// The child: 16 writers that append for ever, and say so after each answer.
fn append_and_tell(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let ledger = Arc::new(Embedded::open(dir, small()).unwrap());
    let writers = (0..16).map(|writer| runtime.spawn(write_for_ever(Arc::clone(&ledger), writer)));
    let writers: Vec<_> = writers.collect();
    for writer in writers {
        runtime.block_on(writer).unwrap();
    }
}

async fn write_for_ever(ledger: Arc<Embedded>, writer: u64) {
    let stream = stream(writer);
    loop {
        let head = ledger.head(&stream).unwrap();
        let id = Uuid::from_u64_pair(writer, head.map_or(0, |head| head + 1));
        let event = NewEvent { id, ..event(0) };
        let line = format!("stored {}\n", event.id);
        let append = Append {
            records: vec![(stream.clone(), event)],
            checks: vec![(stream.clone(), Expected::at_head(head))],
        };
        ledger.append(append).await.unwrap();
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    }
}

/// An index and a cache so small that they turn over within a few events.
fn small() -> Options {
    Options { run_events: 3, heads_max: 2, read_connections: 2, ..Options::default() }
}

fn stream(number: u64) -> StreamName {
    StreamName::new(&format!("stream-{number}")).unwrap()
}

fn event(number: u64) -> NewEvent {
    NewEvent {
        id: Uuid::from_u64_pair(number.wrapping_mul(0x9E37_79B9_7F4A_7C15), number),
        kind: "tested.v1".into(),
        data: format!("{{\"n\":{number}}}").into_bytes(),
        metadata: b"{}".to_vec(),
    }
}

/// The append that becomes the event with this sequence: the streams take turns.
fn nth(sequence: u64) -> Append {
    let stream = stream(sequence % STREAMS);
    let expected = Expected::at_head((sequence / STREAMS).checked_sub(1));
    Append { records: vec![(stream.clone(), event(sequence))], checks: vec![(stream, expected)] }
}

/// An append to a stream of its own.
fn lone(number: usize) -> Append {
    let stream = stream(1000 + number as u64);
    Append {
        records: vec![(stream.clone(), event(1000 + number as u64))],
        checks: vec![(stream, Expected::NoStream)],
    }
}

/// The same, with an event that takes many pages.
fn large(number: usize) -> Append {
    let mut append = lone(number);
    append.records[0].1.data = vec![b' '; 100_000];
    append
}

async fn fill(ledger: &Embedded, from: u64, events: u64) {
    for sequence in from..from + events {
        assert_eq!(ledger.append(nth(sequence)).await.unwrap().last_sequence, sequence);
    }
}

/// A directory with a closed ledger of so many events.
async fn filled(events: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Embedded::open(dir.path(), small()).unwrap();
    fill(&ledger, 0, events).await;
    dir
}

fn raw(dir: &TempDir) -> Connection {
    Connection::open(dir.path().join("ledger.db")).unwrap()
}

/// Checks that the log has no gap, and that every stream is found as the log has it.
#[track_caller]
fn assert_whole(ledger: &Embedded) {
    let events = ledger.read_all(0, usize::MAX).unwrap();
    assert_eq!(ledger.last_sequence().unwrap(), (events.len() as u64).checked_sub(1));
    let mut ids = HashSet::new();
    let mut streams: HashMap<StreamName, Vec<&Recorded>> = HashMap::new();
    for (sequence, event) in (0..).zip(&events) {
        assert_eq!(event.sequence, sequence);
        assert!(ids.insert(event.id), "{} is stored twice", event.id);
        let of_stream = streams.entry(event.stream.clone()).or_default();
        assert_eq!(event.revision, of_stream.len() as u64);
        of_stream.push(event);
    }
    for (stream, expected) in streams {
        let found = ledger.read_stream(&stream, 0, usize::MAX).unwrap();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{stream}");
        let head = ledger.head(&stream).unwrap();
        assert_eq!(head, Some(expected.len() as u64 - 1), "{stream}");
    }
}

const STREAMS: u64 = 5;
const CRASH_DIR: &str = "LEDGER_TEST_CRASH_DIR";
const SMALL_DISK: &str = "LEDGER_TEST_SMALL_DISK";
