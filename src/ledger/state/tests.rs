use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use super::deciding::device_stream;
use super::folder::Folder;
use super::store::{StoredKey, open_current};
use super::*;
use crate::domain::event::DeviceEnrolled;
use crate::domain::lookup::{self, Key, Place};
use crate::domain::quota::Voiding;
use crate::domain::scenario::{Ask, DAY_MS, MemoryRows, Removal, Scenario, identity, kid, kids};
use crate::domain::{Device, DeviceRef, Event, ReferenceKey};
use crate::ledger::embedded::Options;
use crate::ledger::tail::Fact;
use crate::ledger::{Append, Embedded, Expected, Ledger, NewEvent};

fn device(n: u8) -> DeviceRef {
    ReferenceKey::new([7; 32]).device(&n.to_string())
}

/// What identity `n` did with its device: every kind of event that a device's stream holds.
fn history(n: u8) -> Vec<Event> {
    let mut scenario = Scenario::with_room_for(3);
    let ask = |nonce, wanted: &[u8]| Ask::new(nonce, &kids(wanted.iter().copied())).by(n);
    let delete =
        |session, wanted: &[u8]| Removal::new(session, &kids(wanted.iter().copied())).by(n);
    scenario.granted(&ask(1, &[1, 2, 1]).in_session(90).under(40));
    scenario.acknowledge(n, 40, &[(kid(1), 0), (kid(2), 7)]);
    scenario.refused(&ask(2, &[3, 4]));
    scenario.delete(&delete(90, &[1]));
    scenario.wait(DAY_MS / 2);
    scenario.granted(&ask(3, &[3]).until(scenario.now_ms + 1000));
    scenario.granted(&ask(4, &[4]));
    scenario.granted(&ask(5, &[4]));
    scenario.delete(&delete(200, &[4]));
    scenario.wait(2000);
    scenario.granted(&ask(6, &[5]).under(41));
    scenario.granted(&ask(7, &[6]).non_persistent());
    scenario.policy.releasing_grades.clear();
    scenario.delete(&delete(6, &[5]));
    scenario.policy.voiding = Some(Voiding {
        min_security_level: 0,
        store_failed: false,
        unconfirmed_after_seconds: Some(60),
    });
    scenario.wait(60_001);
    assert_ne!(scenario.void_overdue(), []);
    let enrolled = Event::DeviceEnrolled(DeviceEnrolled {
        device: device(n),
        identity: identity(n),
        security_level: 2000,
        model: String::new(),
        at_ms: 0,
    });
    [vec![enrolled], scenario.events].concat()
}

/// The histories of three devices, shuffled like cards.
fn shuffled() -> Vec<(DeviceRef, Event)> {
    let mut histories = [1, 2, 3].map(|n| (device(n), history(n).into_iter()));
    let mut events = Vec::new();
    loop {
        let round = histories.iter_mut();
        let next = round.filter_map(|(name, rest)| Some((name.clone(), rest.next()?)));
        let before = events.len();
        events.extend(next);
        if events.len() == before {
            return events;
        }
    }
}

fn open_ledger(dir: &Path) -> Arc<Ledger> {
    Arc::new(Ledger::Embedded(Embedded::open(dir, Options::default()).unwrap()))
}

async fn append(ledger: &Ledger, events: &[(DeviceRef, Event)]) {
    for (name, event) in events {
        let stream = device_stream(name);
        let head = ledger.head(&stream).await.unwrap();
        let append = Append {
            records: vec![(stream.clone(), NewEvent::of(&stream, event, "test").unwrap())],
            checks: vec![(stream, Expected::at_head(head))],
        };
        ledger.append(append).await.unwrap();
    }
}

/// A ledger and a state of it in one directory. The ledger of one may stand for an earlier moment
/// of another's.
struct Site {
    dir: TempDir,
    ledger: Arc<Ledger>,
}

impl Site {
    async fn with(events: &[(DeviceRef, Event)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open_ledger(dir.path());
        append(&ledger, events).await;
        Self { dir, ledger }
    }

    async fn state(&self) -> Arc<StateStore> {
        let store = StateStore::open(self.dir.path(), Arc::clone(&self.ledger)).await.unwrap();
        self.settle(&store).await;
        Arc::new(store)
    }

    /// Waits until the state has seen every event.
    async fn settle(&self, store: &StateStore) {
        let next = self.ledger.last_sequence().await.unwrap().map_or(0, |last| last + 1);
        let started = Instant::now();
        while store.progress().next_sequence != next {
            assert_eq!(store.progress().failed, None);
            assert!(started.elapsed() < Duration::from_secs(30), "stuck at {:?}", store.progress());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("state.db")
    }

    /// The file, while nothing follows the ledger.
    fn file(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }
}

/// What the events say, folded one after the other in memory.
struct Replay {
    devices: BTreeMap<DeviceRef, (u64, Device)>,
    rows: MemoryRows,
}

impl Replay {
    async fn of(ledger: &Ledger) -> Self {
        let mut replay = Self { devices: BTreeMap::new(), rows: MemoryRows::default() };
        for recorded in ledger.read_all(0, usize::MAX).await.unwrap() {
            let Fact { recorded, event } = Fact::of(recorded).unwrap();
            let name = recorded.stream.as_str().strip_prefix(store::DEVICE_STREAM).unwrap();
            let name: DeviceRef = name.parse().unwrap();
            let (sequence, revision) = (recorded.sequence, recorded.revision);
            let place = Place { device: &name, sequence, revision };
            lookup::apply(&event, place, &mut replay.rows).unwrap();
            let (folded_to, device) = replay.devices.entry(name).or_default();
            *folded_to = revision;
            device.evolve(&event);
        }
        replay
    }

    fn assert_stored(&self, store: &StateStore, site: &Site) {
        for (name, expected) in &self.devices {
            assert_eq!(store.device(name).unwrap().as_ref(), Some(expected), "{name}");
        }
        for (key, row) in &self.rows.0 {
            assert_eq!(store.moment().row(key).unwrap().as_ref(), Some(row), "{key:?}");
        }
        let count = |table| {
            let sql = format!("SELECT count(*) FROM {table}");
            site.file().query_row(&sql, [], |row| row.get::<_, usize>(0)).unwrap()
        };
        assert_eq!(count("devices"), self.devices.len());
        assert_eq!(count("lookups"), self.rows.0.len());
    }

    /// A guard must know of its device what the replay does.
    fn assert_held(&self, guard: &mut DeviceGuard, n: u8) {
        let expected = self.devices.get(&device(n));
        assert_eq!(guard.head(), expected.map(|(head, _)| *head));
        assert_eq!(guard.device(), expected.map_or(&Device::default(), |(_, device)| device));
        for (key, row) in self.rows.0.iter().filter(|(key, _)| owner(key) == n) {
            assert_eq!(
                guard.read(|rows| rows.value(key)).unwrap().as_ref(),
                Some(&row.value),
                "{key:?}"
            );
        }
    }
}

/// The number of the identity, and so of the device, that a row is about.
fn owner(key: &Key) -> u8 {
    let (Key::Challenge(identity, _)
    | Key::SessionKid(identity, _, _)
    | Key::ExplicitSession(identity, _)
    | Key::Kid(identity, _)
    | Key::Transaction(identity, _)) = key;
    identity.0.0[0]
}

#[tokio::test]
async fn fold_equals_replay_however_the_events_arrive() {
    let events = shuffled();
    let at_once = Site::with(&events).await;
    Replay::of(&at_once.ledger).await.assert_stored(&*at_once.state().await, &at_once);

    let one_by_one = Site::with(&[]).await;
    let state = one_by_one.state().await;
    for batch in events.chunks(7) {
        append(&one_by_one.ledger, batch).await;
        one_by_one.settle(&state).await;
    }
    Replay::of(&one_by_one.ledger).await.assert_stored(&state, &one_by_one);
}

#[tokio::test]
async fn device_is_at_the_head_however_far_behind_the_state_is() {
    let events = shuffled();
    let full = Site::with(&events).await;
    let replay = Replay::of(&full.ledger).await;
    for seen in [0, 1, 5, events.len() / 2, events.len() - 1, events.len()] {
        let behind = Site::with(&events[..seen]).await;
        let deciding = Deciding::new(Arc::clone(&full.ledger), behind.state().await);
        for n in [1, 2, 3] {
            replay.assert_held(&mut deciding.hold(&device(n)).await.unwrap(), n);
            replay.assert_held(&mut deciding.hold(&device(n)).await.unwrap(), n);
        }
    }
}

/// Folds `events` into a file of `site`, stores the first `devices` of them, and loses the rest.
async fn fold_and_crash(site: &Site, events: &[(DeviceRef, Event)], devices: usize) {
    let (file, checkpoint) = open_current(&site.path()).unwrap();
    let mut folder = Folder::new(file, checkpoint.unwrap());
    for recorded in site.ledger.read_all(0, events.len()).await.unwrap() {
        folder.fold(&Fact::of(recorded).unwrap()).unwrap();
    }
    folder.store_oldest(devices).unwrap();
}

#[tokio::test]
async fn state_of_which_a_part_was_stored_is_as_good_as_any() {
    let events = shuffled();
    let full = Site::with(&events).await;
    let replay = Replay::of(&full.ledger).await;
    for folded in [1, 3, 20, events.len() / 2, events.len()] {
        for devices in 0..=3 {
            let site = Site::with(&events).await;
            fold_and_crash(&site, &events[..folded], devices).await;

            // Decided on as it is: its ledger ends at the checkpoint, so that it stays so.
            let behind = Site::with(&events[..checkpoint(&site)]).await;
            std::fs::copy(site.path(), behind.path()).unwrap();
            let deciding = Deciding::new(Arc::clone(&full.ledger), behind.state().await);
            for n in [1, 2, 3] {
                replay.assert_held(&mut deciding.hold(&device(n)).await.unwrap(), n);
            }

            // Folded on from the checkpoint.
            replay.assert_stored(&*site.state().await, &site);
        }
    }
}

fn checkpoint(site: &Site) -> usize {
    let sql = "SELECT next_sequence FROM checkpoint";
    site.file().query_row(sql, [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn device_held_in_memory_arrives_at_the_head_when_the_state_is_ahead_of_it() {
    let events = shuffled();
    for held in [0, 1, 5, events.len() / 2, events.len() - 1] {
        let (behind, ahead) =
            (Site::with(&events[..held]).await, Site::with(&events[..held]).await);
        let state = ahead.state().await;
        let deciding = Deciding::new(Arc::clone(&behind.ledger), Arc::clone(&state));
        let before = Replay::of(&behind.ledger).await;
        for n in [1, 2, 3] {
            before.assert_held(&mut deciding.hold(&device(n)).await.unwrap(), n);
        }
        append(&ahead.ledger, &events[held..]).await;
        ahead.settle(&state).await;
        append(&behind.ledger, &events[held..]).await;
        let after = Replay::of(&behind.ledger).await;
        for n in [1, 2, 3] {
            let mut guard = deciding.hold(&device(n)).await.unwrap();
            let moved = before.devices.get(&device(n)) != after.devices.get(&device(n));
            assert_eq!(guard.refresh().await.unwrap(), moved);
            after.assert_held(&mut guard, n);
            assert!(!guard.refresh().await.unwrap());
        }
    }
}

#[tokio::test]
async fn recent_rows_stay_right_when_they_leave_memory_for_the_store() {
    let site = Site::with(&[]).await;
    let state = site.state().await;
    let deciding = Deciding::new(Arc::clone(&site.ledger), Arc::clone(&state));
    let mut scenario = Scenario::with_room_for(250);
    (1..=250).for_each(|n| {
        scenario.granted(&Ask::new(n, &kids([n])));
    });
    let events: Vec<_> = scenario.events.into_iter().map(|event| (device(1), event)).collect();
    for (round, batch) in events.chunks(25).enumerate() {
        append(&site.ledger, batch).await;
        let mut guard = deciding.hold(&device(1)).await.unwrap();
        guard.refresh().await.unwrap();
        drop(guard);
        if round % 3 == 2 {
            site.settle(&state).await;
        }
    }
    let mut guard = deciding.hold(&device(1)).await.unwrap();
    Replay::of(&site.ledger).await.assert_held(&mut guard, 1);
}

#[tokio::test]
async fn committed_events_are_folded_without_reading_them_again() {
    let site = Site::with(&[]).await;
    let deciding = Deciding::new(Arc::clone(&site.ledger), site.state().await);
    let events: Vec<_> = history(1).into_iter().map(|event| (device(1), event)).collect();
    let mut guard = deciding.hold(&device(1)).await.unwrap();
    append(&site.ledger, &events).await;
    let places = events.iter().zip(0..).map(|((_, event), place)| (event, place, place));
    guard.committed(places).await.unwrap();
    Replay::of(&site.ledger).await.assert_held(&mut guard, 1);
    assert!(!guard.refresh().await.unwrap());
}

#[tokio::test]
async fn committed_events_after_a_gap_make_the_guard_read_the_stream() {
    let site = Site::with(&[]).await;
    let deciding = Deciding::new(Arc::clone(&site.ledger), site.state().await);
    let events: Vec<_> = history(1).into_iter().map(|event| (device(1), event)).collect();
    let mut guard = deciding.hold(&device(1)).await.unwrap();
    append(&site.ledger, &events).await;
    let last = events.len() as u64 - 1;
    guard.committed([(&events.last().unwrap().1, last, last)]).await.unwrap();
    Replay::of(&site.ledger).await.assert_held(&mut guard, 1);
}

#[tokio::test]
async fn fold_that_failed_halfway_is_taken_up_where_it_was() {
    let events: Vec<_> = history(1).into_iter().map(|event| (device(1), event)).collect();
    // The state stays empty, whatever is appended to the ledger that decisions are made on.
    let (empty, site) = (Site::with(&[]).await, Site::with(&[]).await);
    let deciding = Deciding::new(Arc::clone(&site.ledger), empty.state().await);
    let mut guard = deciding.hold(&device(1)).await.unwrap();
    append(&site.ledger, &events).await;
    // The last row that an acquisition concerns cannot be read.
    let key = StoredKey::of(&Key::Kid(identity(1), kid(1)));
    let file = empty.file();
    file.execute("INSERT INTO lookups VALUES (?1, x'')", [key.bytes()]).unwrap();
    assert!(matches!(guard.refresh().await, Err(StateError::Row(_))));
    assert_eq!(guard.head(), Some(0));
    file.execute("DELETE FROM lookups", []).unwrap();
    drop(guard);
    let mut guard = deciding.hold(&device(1)).await.unwrap();
    assert!(guard.refresh().await.unwrap());
    Replay::of(&site.ledger).await.assert_held(&mut guard, 1);
}

/// Leaves a row in the file that no event puts there.
fn mark(site: &Site) {
    site.file().execute("INSERT INTO lookups VALUES (x'ff', x'ff')", []).unwrap();
}

#[tokio::test]
async fn reopened_state_goes_on_where_it_was() {
    let events = shuffled();
    let half = events.len() / 2;
    let site = Site::with(&events[..half]).await;
    drop(site.state().await);
    mark(&site);
    append(&site.ledger, &events[half..]).await;
    let state = site.state().await;
    let deleted = site.file().execute("DELETE FROM lookups WHERE key = x'ff'", []).unwrap();
    assert_eq!(deleted, 1, "it was folded again");
    Replay::of(&site.ledger).await.assert_stored(&state, &site);
}

/// Spoils the closed file of a state, then opens it with the ledger that `ledger` gives: it must
/// have been folded again from the start.
async fn assert_folded_again(spoil: impl FnOnce(&Path), ledger: Option<Arc<Ledger>>) {
    let mut site = Site::with(&shuffled()).await;
    drop(site.state().await);
    mark(&site);
    spoil(&site.dir.path().join("state.db"));
    site.ledger = ledger.unwrap_or(site.ledger);
    let state = site.state().await;
    Replay::of(&site.ledger).await.assert_stored(&state, &site);
}

#[tokio::test]
async fn state_of_another_ledger_is_folded_again() {
    let events = shuffled();
    let reversed: Vec<_> = events.iter().rev().cloned().collect();
    for other in [&events[..5], &reversed, &[]] {
        let other = Site::with(other).await;
        assert_folded_again(|_| {}, Some(Arc::clone(&other.ledger))).await;
    }
}

#[tokio::test]
async fn state_of_another_fold_version_is_folded_again() {
    for version in [0, 1_000_000] {
        let older = |path: &Path| {
            let file = Connection::open(path).unwrap();
            file.execute("UPDATE checkpoint SET fold_version = ?1", [version]).unwrap();
        };
        assert_folded_again(older, None).await;
    }
}

#[tokio::test]
async fn damaged_state_is_folded_again() {
    let garbage = |path: &Path| std::fs::write(path, [0x5a; 10_000]).unwrap();
    assert_folded_again(garbage, None).await;
    let cut = |path: &Path| {
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(5000).unwrap()
    };
    assert_folded_again(cut, None).await;
    let no_checkpoint = |path: &Path| {
        Connection::open(path).unwrap().execute_batch("DROP TABLE checkpoint").unwrap();
    };
    assert_folded_again(no_checkpoint, None).await;
    assert_folded_again(|path| std::fs::remove_file(path).unwrap(), None).await;
}

#[tokio::test]
async fn state_of_a_newer_schema_is_folded_again() {
    let newer = |path: &Path| {
        let file = Connection::open(path).unwrap();
        let change = "ALTER TABLE checkpoint ADD COLUMN more INTEGER; PRAGMA user_version = 99";
        file.execute_batch(change).unwrap();
    };
    assert_folded_again(newer, None).await;
}

#[tokio::test]
async fn one_decision_sees_each_row_as_it_was_when_it_first_asked() {
    let name = device(1);
    let mut scenario = Scenario::with_room_for(3);
    scenario.granted(&Ask::new(1, &kids([1])));
    let events: Vec<_> = scenario.events.iter().map(|e| (name.clone(), e.clone())).collect();
    let site = Site::with(&events).await;
    let deciding = Deciding::new(Arc::clone(&site.ledger), site.state().await);
    let known = Key::Kid(identity(1), kid(1));
    let never = Key::Kid(identity(1), kid(2));
    let mut guard = deciding.hold(&name).await.unwrap();
    let first = guard.read(|rows| rows.value(&known)).unwrap();
    assert!(first.is_some());
    assert_eq!(guard.read(|rows| rows.value(&never)).unwrap(), None);

    // Behind its back a stored row goes.
    let deleted = site
        .file()
        .execute("DELETE FROM lookups WHERE key = ?1", [StoredKey::of(&known).bytes()])
        .unwrap();
    assert_eq!(deleted, 1);
    assert_eq!(guard.read(|rows| rows.value(&known)).unwrap(), first);
    drop(guard);

    // The next decision asks again.
    let mut guard = deciding.hold(&name).await.unwrap();
    assert_eq!(guard.read(|rows| rows.value(&known)).unwrap(), None);
    // What it folds itself, it sees.
    scenario.granted(&Ask::new(2, &kids([2])));
    append(&site.ledger, &[(name.clone(), scenario.events[1].clone())]).await;
    guard.refresh().await.unwrap();
    assert!(guard.read(|rows| rows.value(&never)).unwrap().is_some());
}

/// Rows of `count` sessions of one identity, as acquisitions leave them.
fn acquisitions(count: u8) -> Vec<(DeviceRef, Event)> {
    let mut scenario = Scenario::with_room_for(u32::from(count));
    for number in 1..=count {
        scenario.granted(&Ask::new(number, &kids([number])));
    }
    scenario.events.into_iter().map(|event| (device(1), event)).collect()
}

#[tokio::test]
async fn rows_are_found_however_many_an_identity_has() {
    // Few enough to know all keys, too many for that, and a history after which nobody looks.
    for count in [3, 60, 140] {
        let events = acquisitions(count);
        let site = Site::with(&events).await;
        let deciding = Deciding::new(Arc::clone(&site.ledger), site.state().await);
        let mut guard = deciding.hold(&device(1)).await.unwrap();
        for number in 1..=count {
            let key = Key::Kid(identity(1), kid(number));
            assert!(guard.read(|rows| rows.value(&key)).unwrap().is_some(), "{number} of {count}");
        }
        let never = Key::Kid(identity(1), kid(count + 1));
        assert_eq!(guard.read(|rows| rows.value(&never)).unwrap(), None);
        let other = Key::Kid(identity(2), kid(1));
        assert_eq!(guard.read(|rows| rows.value(&other)).unwrap(), None);
        let again = Key::Kid(identity(1), kid(1));
        assert!(guard.read(|rows| rows.value(&again)).unwrap().is_some());
    }
}

#[tokio::test]
async fn rows_folded_before_they_were_asked_for_are_found_after_they_left_memory() {
    let events = acquisitions(60);
    let site = Site::with(&[]).await;
    let state = site.state().await;
    let deciding = Deciding::new(Arc::clone(&site.ledger), Arc::clone(&state));
    let mut guard = deciding.hold(&device(1)).await.unwrap();
    for (at, event) in events.iter().enumerate() {
        append(&site.ledger, std::slice::from_ref(event)).await;
        guard.refresh().await.unwrap();
        // Sooner or later the store holds them and the memory does not.
        if at % 25 == 0 {
            site.settle(&state).await;
        }
    }
    for number in 1..=60 {
        let key = Key::Kid(identity(1), kid(number));
        assert!(guard.read(|rows| rows.value(&key)).unwrap().is_some(), "{number}");
    }
}

#[tokio::test]
async fn rows_of_one_identity_are_found_after_another_one_of_the_device_asked() {
    let mut scenario = Scenario::with_room_for(100);
    scenario.granted(&Ask::new(1, &kids([1])).by(1));
    scenario.granted(&Ask::new(1, &kids([2])).by(2));
    for number in 2..=40 {
        scenario.granted(&Ask::new(number, &kids([number])).by(1));
    }
    let events: Vec<_> = scenario.events.into_iter().map(|event| (device(1), event)).collect();
    let site = Site::with(&[]).await;
    let state = site.state().await;
    let deciding = Deciding::new(Arc::clone(&site.ledger), Arc::clone(&state));
    let mut guard = deciding.hold(&device(1)).await.unwrap();
    append(&site.ledger, &events[..2]).await;
    guard.refresh().await.unwrap();
    // The first identity is asked for again, most likely before the store holds its rows.
    let never = Key::Kid(identity(1), kid(99));
    assert_eq!(guard.read(|rows| rows.value(&never)).unwrap(), None);
    // Later rows drive the first ones out of memory once the store holds them.
    site.settle(&state).await;
    append(&site.ledger, &events[2..]).await;
    for (_, event) in &events[2..] {
        let head = guard.head().unwrap();
        guard.committed([(event, head + 1, head + 1)]).await.unwrap();
    }
    drop(guard);
    let mut guard = deciding.hold(&device(1)).await.unwrap();
    let first = Key::Kid(identity(1), kid(1));
    assert!(guard.read(|rows| rows.value(&first)).unwrap().is_some());
}

#[tokio::test]
async fn rows_are_changed_however_many_an_identity_has_in_the_file() {
    // Few enough to know all keys, and too many for that.
    for count in [3, 60] {
        let mut scenario = Scenario::with_room_for(u32::from(count));
        for number in 1..=count {
            scenario.granted(&Ask::new(number, &kids([number])));
        }
        for number in 1..=count {
            scenario.delete(&Removal::new(number, &kids([number])));
            scenario.granted(&Ask::new(count + number, &kids([number])));
        }
        let events: Vec<_> = scenario.events.into_iter().map(|event| (device(1), event)).collect();
        let (before, after) = events.split_at(count.into());
        let site = Site::with(before).await;
        let state = site.state().await;
        append(&site.ledger, after).await;
        site.settle(&state).await;
        Replay::of(&site.ledger).await.assert_stored(&state, &site);
    }
}
