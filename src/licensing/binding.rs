//! Where a KID's key comes from, settled once and for all.
//!
//! A KID that has no content key of its own gets one from a seed. Which seed that is may change
//! with the configuration and the entitlement, and a content key may be registered for the KID at
//! any time; the KID's key must not change with either. So the first append that makes use of a
//! seed for a KID creates the stream `key-<guid>`, in the same append as the license; registering
//! a content key creates the same stream, in the same append as the registration. Whoever comes
//! second conflicts, reads what the stream says, and takes the seed named there, or refuses the
//! registration unless it is of the very key that the seed derives. No lock is held meanwhile, and
//! it is right for any number of processes.
//!
//! What it costs: an acquisition with a registered key looks at nothing. One with a key from a seed
//! looks its KID up in memory, and reads one event when it is not there. While no seed is
//! registered, registrations write no such event either. Keys of the seed that is published for
//! tests are known to everybody and bound to nothing: registering a key or a seed replaces them.

use super::acquire::NotGranted;
use super::key_types::{OtherUse, Settling};
use super::{Licensing, LicensingError};
use crate::domain::event::{Chain, ContentKeyBound, KeySource, LicenseAcquired};
use crate::domain::{Event, KeyId};
use crate::entitlement::Entitled;
use crate::keys::Source;
use crate::ledger::tail::Fact;
use crate::ledger::{Expected, InvalidStreamName, Ledger, StreamName};

const REGISTERING: std::time::Duration = std::time::Duration::from_millis(5);

/// The stream that says where the KID's key comes from.
pub(super) fn stream_of(key_id: KeyId) -> Result<StreamName, InvalidStreamName> {
    StreamName::new(&format!("key-{key_id}"))
}

/// Where the KID's key comes from, if that is settled.
pub(super) async fn find(
    ledger: &Ledger,
    key_id: KeyId,
) -> Result<Option<KeySource>, LicensingError> {
    let stream = stream_of(key_id)?;
    let Some(recorded) = ledger.read_stream(&stream, 0, 1).await?.pop() else {
        return Ok(None);
    };
    match Fact::of(recorded)?.event {
        Event::ContentKeyBound(bound) => Ok(Some(bound.source)),
        other => Err(LicensingError::Stream { stream: stream.to_string(), kind: other.kind() }),
    }
}

impl Licensing {
    /// What settles where the keys of the licenses among `events` come from and how they are used, for
    /// KIDs of which that is not settled. `None` if it is settled otherwise.
    pub(super) async fn bindings(
        &self,
        events: &[(StreamName, Event)],
        at_ms: i64,
    ) -> Result<Option<Vec<Settling>>, LicensingError> {
        let mut bindings = Vec::<Settling>::new();
        let mut add = |settling: Settling| {
            if !bindings.iter().any(|other| other.stream == settling.stream) {
                bindings.push(settling);
            }
        };
        for (_, event) in events {
            let Event::LicenseAcquired(license) = event else { continue };
            match self.settling(license, at_ms).await? {
                Err(OtherUse) => return Ok(None),
                Ok(settling) => settling.into_iter().for_each(&mut add),
            }
            let (key_id, KeySource::Seed { seed_id }) = (license.key_id, &license.key_source)
            else {
                continue;
            };
            if self.keys.bound_seed(key_id).is_some_and(|bound| bound == *seed_id) {
                continue;
            }
            match find(&self.ledger, key_id).await? {
                None => {
                    let stream = stream_of(key_id)?;
                    let source = license.key_source.clone();
                    let event = Event::ContentKeyBound(ContentKeyBound { key_id, source, at_ms });
                    add(Settling { stream, expected: Expected::NoStream, event });
                }
                Some(KeySource::Seed { seed_id: bound }) => {
                    self.keys.remember_bound(key_id, &bound);
                    if bound != *seed_id {
                        return Ok(None);
                    }
                }
                Some(_) => return Ok(None),
            }
        }
        Ok(Some(bindings))
    }

    /// Names the seeds that the keys of a license are bound to, where that was not known when it was
    /// entitled: a leaf is compared with the root that the device holds.
    pub(super) async fn follow_binding(
        &self,
        license: &mut Entitled,
    ) -> Result<(), LicensingError> {
        if let Some(Chain::Leaf { root_key_id, root_key_source }) = &mut license.chain {
            self.follow_seed(*root_key_id, root_key_source).await?;
        }
        self.follow_seed(KeyId(license.kid.guid()), &mut license.source).await
    }

    async fn follow_seed(
        &self,
        key_id: KeyId,
        source: &mut KeySource,
    ) -> Result<(), LicensingError> {
        let KeySource::Seed { seed_id } = source else { return Ok(()) };
        if self.keys.bound_seed(key_id).is_some() {
            return Ok(());
        }
        if let Some(KeySource::Seed { seed_id: bound }) = find(&self.ledger, key_id).await? {
            self.keys.remember_bound(key_id, &bound);
            *seed_id = bound;
        }
        Ok(())
    }

    /// Names the key sources that KIDs are bound to in licenses that named others. Waits a little: a
    /// key that another request is registering in this moment will be there.
    ///
    /// # Errors
    /// [`NotGranted::OtherUse`]: a key turned out to be used otherwise than the license was prepared
    /// for.
    pub(super) async fn follow_bindings(
        &self,
        licenses: &mut [LicenseAcquired],
    ) -> Result<(), NotGranted> {
        tokio::time::sleep(REGISTERING).await;
        for license in licenses {
            if self.settling(license, 0).await?.is_err() {
                return Err(NotGranted::OtherUse);
            }
            self.follow(license.key_id, &mut license.key_source);
            if let Some(Chain::Leaf { root_key_id, root_key_source }) = &mut license.chain {
                self.follow(*root_key_id, root_key_source);
            }
        }
        Ok(())
    }

    fn follow(&self, key_id: KeyId, source: &mut KeySource) {
        if let KeySource::Seed { .. } = source {
            match self.keys.source(key_id, None) {
                Ok(Some(Source::Registered(_))) => *source = KeySource::Registered,
                Ok(Some(Source::Seed { seed_id, .. })) => *source = KeySource::Seed { seed_id },
                // Not there yet, or missing: the next attempt finds out.
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Remembers bindings that are stored.
    pub(super) fn bound(&self, bindings: &[Settling]) {
        for binding in bindings {
            match &binding.event {
                Event::ContentKeyBound(ContentKeyBound {
                    key_id,
                    source: KeySource::Seed { seed_id },
                    ..
                }) => self.keys.remember_bound(*key_id, seed_id),
                Event::ContentKeyTyped(typed) => {
                    self.keys.remember_use(typed.key_id, typed.settles());
                }
                Event::ContentKeyUsed(used) => {
                    self.keys.remember_use(used.key_id, used.settles());
                }
                _ => {}
            }
        }
    }
}
