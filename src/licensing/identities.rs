//! To which device a certificate belongs.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

use super::LicensingError;
use crate::domain::{DeviceRef, Event, Identity, ReferenceKey};
use crate::ledger::tail::Fact;
use crate::ledger::{Expected, Ledger, StreamName};

/// Identities kept in memory.
const CACHED: usize = 64 * 1024;

/// The device an identity belongs to, as of one revision of its stream.
#[derive(Clone, Debug)]
pub(super) struct Belonging {
    pub(super) device: DeviceRef,
    pub(super) stream: StreamName,
    pub(super) expected: Expected,
    pub(super) at_ms: i64,
}

/// Finds devices by identity, and remembers those found.
pub(super) struct Identities {
    reference: ReferenceKey,
    cache: Mutex<LruCache<Identity, Belonging>>,
}

impl Identities {
    pub(super) fn new(reference: ReferenceKey) -> Self {
        let capacity = NonZeroUsize::new(CACHED).unwrap_or(NonZeroUsize::MIN);
        Self { reference, cache: Mutex::new(LruCache::new(capacity)) }
    }

    /// The device of an identity; of one never seen, the device it will get.
    pub(super) async fn find(
        &self,
        identity: Identity,
        ledger: &Ledger,
    ) -> Result<Belonging, LicensingError> {
        let cached = self.cache().get(&identity).cloned();
        if let Some(belonging) = cached {
            return Ok(belonging);
        }
        let stream = StreamName::new(&format!("identity-{identity}"))?;
        let mut belonging = Belonging {
            device: self.reference.device_of_identity(identity),
            stream: stream.clone(),
            expected: Expected::NoStream,
            at_ms: 0,
        };
        if let Some(newest) = ledger.read_stream_backwards(&stream, u64::MAX, 1).await?.pop() {
            belonging.expected = Expected::At(newest.revision);
            let Event::IdentityLinked(linked) = Fact::of(newest)?.event else {
                let (stream, kind) = (stream.to_string(), "no identity-linked.v1");
                return Err(LicensingError::Stream { stream, kind });
            };
            (belonging.device, belonging.at_ms) = (linked.device, linked.at_ms);
        }
        if belonging.expected != Expected::NoStream {
            self.cache().put(identity, belonging.clone());
        }
        Ok(belonging)
    }

    /// The device of an identity as of the head of its stream; `None` if it was never seen.
    pub(super) async fn device_of(
        &self,
        identity: Identity,
        ledger: &Ledger,
    ) -> Result<Option<DeviceRef>, LicensingError> {
        loop {
            let belonging = self.find(identity, ledger).await?;
            if belonging.expected == Expected::NoStream {
                return Ok(None);
            }
            if !self.moved(identity, &belonging, ledger).await? {
                return Ok(Some(belonging.device));
            }
        }
    }

    /// Reads the head of the identity's stream; tells whether it has moved since it was found, and
    /// then forgets what is remembered.
    pub(super) async fn moved(
        &self,
        identity: Identity,
        belonging: &Belonging,
        ledger: &Ledger,
    ) -> Result<bool, LicensingError> {
        let moved = !belonging.expected.holds(ledger.head(&belonging.stream).await?);
        if moved {
            self.forget(identity);
        }
        Ok(moved)
    }

    /// Forgets what is remembered of an identity.
    pub(super) fn forget(&self, identity: Identity) {
        self.cache().pop(&identity);
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, LruCache<Identity, Belonging>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
