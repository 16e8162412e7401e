//! Devices at the head of their streams, one decision at a time.
//!
//! Within one process decisions about one device wait for each other, so that they do not spend
//! their time in conflicts. That is for speed only: what keeps two decisions apart is the append,
//! which names the head it was decided on, whoever else writes.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use tokio::sync::{OwnedMappedMutexGuard, OwnedMutexGuard};

use super::super::tail::Fact;
use super::super::{Ledger, StreamName};
use super::store::{DEVICE_STREAM, Moment, StateError, StateStore, StoredKey};
use crate::domain::lookup::{self, Key, Place, Row, Rows, Value};
use crate::domain::{AccountRef, Device, DeviceRef, Event, Identity};

/// Devices, and accounts, kept in memory. A device with 25 live licenses takes about 5 KiB, and 2
/// to 8 KiB more once 256 licenses were issued to it. The most that one can take under the default
/// policy is about 160 KiB: 25 slots of 16 licenses (50 KiB), 100 refusals of 50 KIDs (90 KiB, and
/// 6 KiB from an hour after they were made), the times of 100 unmatched deletions, and recent index
/// rows (10 KiB). Somebody who owns as many devices and drives each of them there makes this cache
/// 2 GiB large; a full one of ordinary devices has 64 MiB.
const CACHED_DEVICES: usize = 16 * 1024;

/// Recent index rows a device keeps in memory before it asks which of them are stored by now; then
/// twice as many as were not.
const OVERLAY_ROWS: usize = 16;

/// Rows of an identity of which it is kept which there are, as long as they are no more (8 bytes each,
/// and the table's slack).
const PRESENT_KEPT: usize = 512;

/// Events read in one step when a device is folded forward.
pub(super) const READ_EVENTS: usize = 1024;

/// Gives out devices for deciding.
pub struct Deciding {
    pub(super) ledger: Arc<Ledger>,
    pub(super) store: Arc<StateStore>,
    devices: Cache<DeviceRef, Loaded>,
    pub(super) accounts: Cache<AccountRef, super::accounts::Loaded>,
}

/// States by name; whoever decides about one takes it out.
pub(super) type Cache<N, S> = Mutex<LruCache<N, Arc<tokio::sync::Mutex<Option<S>>>>>;

/// A device and its recent index rows, at one revision of its stream.
struct Loaded {
    device: Device,
    head: Option<u64>,
    /// Rows changed by events that the store may not hold yet.
    overlay: BTreeMap<Key, Row>,
    /// How many of them there may be before it is asked which ones the store holds.
    overlay_max: usize,
    /// What rows there are of the identity that asked last.
    present: Present,
}

/// One device, held for one decision.
pub struct DeviceGuard {
    deciding: Arc<Deciding>,
    name: DeviceRef,
    stream: StreamName,
    loaded: OwnedMappedMutexGuard<Option<Loaded>, Loaded>,
    /// What this decision has read from the store: folding its events asks for the same rows.
    read: HashMap<Key, Option<Row>>,
}

impl Deciding {
    /// Decides on `ledger`, with what `store` has folded of it.
    pub fn new(ledger: Arc<Ledger>, store: Arc<StateStore>) -> Arc<Self> {
        let capacity = NonZeroUsize::new(CACHED_DEVICES).unwrap_or(NonZeroUsize::MIN);
        let devices = Mutex::new(LruCache::new(capacity));
        let accounts = Mutex::new(LruCache::new(capacity));
        Arc::new(Self { ledger, store, devices, accounts })
    }

    /// Waits for the device and loads it. What is in memory is at the head unless another process
    /// appended since; [`DeviceGuard::refresh`] makes sure.
    pub async fn hold(self: &Arc<Self>, name: &DeviceRef) -> Result<DeviceGuard, StateError> {
        let slot = {
            let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(devices.get_or_insert_mut(name.clone(), Arc::default))
        };
        let mut slot = slot.lock_owned().await;
        let (loaded, from_store) = match slot.take() {
            Some(loaded) => (loaded, false),
            None => (self.load(name).await?, true),
        };
        let mut guard = DeviceGuard {
            deciding: Arc::clone(self),
            name: name.clone(),
            stream: device_stream(name),
            loaded: OwnedMutexGuard::map(slot, |slot| slot.insert(loaded)),
            read: HashMap::new(),
        };
        if from_store {
            guard.refresh().await?;
        }
        Ok(guard)
    }

    /// The device that goes on for `name`, if it was given up for another, as far as the store has
    /// it; else itself. It waits for nobody.
    pub fn goes_on_as(&self, name: &DeviceRef) -> Result<DeviceRef, StateError> {
        let mut name = name.clone();
        while let Some(other) = self.store.device(&name)?.and_then(|(_, d)| d.given_up_for) {
            name = other;
        }
        Ok(name)
    }

    /// The device as the store has it, which may be behind.
    async fn load(&self, name: &DeviceRef) -> Result<Loaded, StateError> {
        let (head, device) = match self.store.device(name)? {
            Some((revision, device)) => (Some(revision), device),
            None => (None, Device::default()),
        };
        // Rows that events of another device put are not stored together with this one.
        if device.joined
            && let Some(last) = self.ledger.last_sequence().await?
        {
            self.store.wait_for(last).await?;
        }
        let (overlay, overlay_max) = (BTreeMap::new(), OVERLAY_ROWS);
        Ok(Loaded { device, head, overlay, overlay_max, present: Present::default() })
    }
}

/// The stream that holds a device's events.
pub fn device_stream(device: &DeviceRef) -> StreamName {
    match StreamName::new(&format!("{DEVICE_STREAM}{device}")) {
        Ok(name) => name,
        Err(_) => unreachable!("a reference is 26 letters and digits"),
    }
}

impl DeviceGuard {
    /// The device's state at [`head`](Self::head).
    pub fn device(&self) -> &Device {
        &self.loaded.device
    }

    /// Revision of the last event folded; `None` if the stream is empty.
    pub fn head(&self) -> Option<u64> {
        self.loaded.head
    }

    /// The device's stream.
    pub fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// Reads rows as of [`head`](Self::head), or of a later event that another process stored: then
    /// an append that names the head does not go through. All that `read` asks for is of one moment.
    pub fn read<T>(&mut self, read: impl FnOnce(&mut DeviceRows<'_>) -> T) -> T {
        read(&mut self.rows())
    }

    fn rows(&mut self) -> DeviceRows<'_> {
        let Loaded { head, overlay, present, .. } = &mut *self.loaded;
        let moment = self.deciding.store.moment();
        DeviceRows { head: *head, overlay, present, read: &mut self.read, moment }
    }

    /// Reads the head of the stream and folds what is new; tells whether there was anything.
    pub async fn refresh(&mut self) -> Result<bool, StateError> {
        let before = self.head();
        loop {
            let from = self.head().map_or(0, |head| head + 1);
            let new = self.deciding.ledger.read_stream(&self.stream, from, READ_EVENTS).await?;
            let more = new.len() == READ_EVENTS;
            for recorded in new {
                let fact = Fact::of(recorded)?;
                let (revision, sequence) = (fact.recorded.revision, fact.recorded.sequence);
                self.make_room_for(&fact.event, sequence).await?;
                self.fold(&fact.event, revision, sequence)?;
            }
            if !more {
                return Ok(self.head() != before);
            }
        }
    }

    /// Folds events that this guard's holder has just committed to the device's stream.
    pub async fn committed<'a>(
        &mut self,
        events: impl IntoIterator<Item = (&'a Event, u64, u64)>,
    ) -> Result<(), StateError> {
        for (event, revision, sequence) in events {
            if self.head().map_or(0, |head| head + 1) != revision {
                return self.refresh().await.map(drop);
            }
            self.make_room_for(event, sequence).await?;
            self.fold(event, revision, sequence)?;
        }
        Ok(())
    }

    /// Before an event by which the device gets an identity that was another one's: the rows of that
    /// identity were put by events of the other device, which only the store knows. Waits until it has
    /// them all, and forgets what memory has of that time.
    async fn make_room_for(&mut self, event: &Event, sequence: u64) -> Result<(), StateError> {
        if !matches!(event, Event::IdentityLinked(_) | Event::DeviceTookOver(_)) {
            return Ok(());
        }
        if let Some(before) = sequence.checked_sub(1) {
            self.deciding.store.wait_for(before).await?;
        }
        let Loaded { overlay, present, .. } = &mut *self.loaded;
        overlay.retain(|_, row| row.sequence >= sequence);
        *present = Present::default();
        self.read.clear();
        Ok(())
    }

    fn fold(&mut self, event: &Event, revision: u64, sequence: u64) -> Result<(), StateError> {
        self.loaded.trim(&self.deciding.store);
        let device = self.name.clone();
        let place = Place { device: &device, sequence, revision };
        // If this fails halfway, the head stays, and the event is folded again: a row that has seen
        // it is left alone then.
        lookup::apply(event, place, &mut self.rows())?;
        self.loaded.device.evolve(event);
        self.loaded.head = Some(revision);
        Ok(())
    }
}

impl Loaded {
    /// Drops the rows that the store holds by now, so that memory stays bounded.
    fn trim(&mut self, store: &StateStore) {
        if self.overlay.len() >= self.overlay_max {
            let stored = store.progress().next_sequence;
            self.overlay.retain(|_, row| row.sequence >= stored);
            self.overlay_max = OVERLAY_ROWS.max(2 * self.overlay.len());
        }
    }
}

/// Which rows one identity has, in the store or in memory: most of what a decision asks for is
/// not there, and need not be looked for.
///
/// Rows are never removed, so what was read from the store holds together with what was put since.
/// Once an identity belongs to another device, that device's events put its rows; when it comes, or
/// comes back, to a device, this is forgotten.
#[derive(Default)]
struct Present {
    identity: Option<Identity>,
    /// The [mark](StoredKey::mark) of each key, in no order: a search of all takes less than one miss
    /// of the processor's caches. `None` if there are too many, or [were not read](Moment::keys_of).
    keys: Option<Vec<u64>>,
}

impl Present {
    /// Sees to it that this is of `identity`.
    fn learn(
        &mut self,
        identity: Identity,
        head: Option<u64>,
        overlay: &BTreeMap<Key, Row>,
        moment: &mut Moment<'_>,
    ) -> Result<(), StateError> {
        if self.identity == Some(identity) {
            return Ok(());
        }
        self.keys = moment.keys_of(identity, head.unwrap_or(0))?;
        self.identity = Some(identity);
        overlay.keys().for_each(|key| self.add(key));
        Ok(())
    }

    /// `false` if there is certainly no row under `key`.
    fn may_hold(&self, key: &Key) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.contains(&StoredKey::of(key).mark()))
    }

    fn add(&mut self, key: &Key) {
        if self.identity == Some(key.identity())
            && let Some(keys) = &mut self.keys
        {
            let mark = StoredKey::of(key).mark();
            if keys.len() >= PRESENT_KEPT {
                self.keys = None;
            } else if !keys.contains(&mark) {
                keys.push(mark);
            }
        }
    }
}

/// The rows as of a device's head: recent ones from memory, all others from the store.
///
/// The store may have advanced past the head meanwhile. A row from there has seen the event
/// already, and [`lookup::apply`] leaves such a row alone.
pub struct DeviceRows<'a> {
    /// Revision of the last event folded.
    head: Option<u64>,
    overlay: &'a mut BTreeMap<Key, Row>,
    present: &'a mut Present,
    read: &'a mut HashMap<Key, Option<Row>>,
    moment: Moment<'a>,
}

impl DeviceRows<'_> {
    /// What is known under `key`.
    pub fn value(&mut self, key: &Key) -> Result<Option<Value>, StateError> {
        Ok(self.get(key)?.map(|row| row.value))
    }
}

impl Rows for DeviceRows<'_> {
    type Error = StateError;

    fn get(&mut self, key: &Key) -> Result<Option<Row>, StateError> {
        self.present.learn(key.identity(), self.head, self.overlay, &mut self.moment)?;
        if !self.present.may_hold(key) {
            return Ok(None);
        }
        if let Some(row) = self.overlay.get(key) {
            return Ok(Some(row.clone()));
        }
        if let Some(row) = self.read.get(key) {
            return Ok(row.clone());
        }
        let row = self.moment.row(key)?;
        self.read.insert(key.clone(), row.clone());
        Ok(row)
    }

    fn put(&mut self, key: Key, row: Row) -> Result<(), StateError> {
        self.read.remove(&key);
        self.present.add(&key);
        self.overlay.insert(key, row);
        Ok(())
    }
}
