//! How a KID's key encrypts, settled once.
//!
//! One {KID, key} is never used in both modes of AES (section 11 of the license protocol page). What
//! settles the mode is the first of these: a key file that names it, a packager that gets the key
//! for a protection scheme, or a PlayReady license, which has to state one. The last takes it from the
//! entitlement or the content's header; and since a device writes that header, an operator's word
//! later on may replace it, and nothing else. The stream `key-type-<guid>` has it, checked in the same
//! append, so that it is right for any number of processes.
//!
//! What it costs: an acquisition looks each KID up in memory, and reads one event when it is not
//! there. Keys of requests and of the seed that is published for tests have no record and no type
//! for good. A Clear Key license states no type and settles none.

use super::{Licensing, LicensingError};
use crate::domain::event::{ContentKeyTyped, KeySource, LicenseAcquired, TypeStatedBy};
use crate::domain::{Event, KeyId, KeyType};
use crate::ledger::tail::Fact;
use crate::ledger::{Expected, InvalidStreamName, Ledger, StreamName};
use crate::playready::content_key::KeyType as WireType;

/// What the ledger says of a key's type.
pub(super) struct Settled {
    pub(super) key_type: KeyType,
    /// Whether nothing can replace it.
    pub(super) is_final: bool,
    revision: u64,
}

impl Settled {
    /// What an append that settles the type has to check.
    pub(super) fn expected(settled: Option<&Self>) -> Expected {
        Expected::at_head(settled.map(|settled| settled.revision))
    }
}

/// The stream that says how the KID's key encrypts.
pub(super) fn stream_of(key_id: KeyId) -> Result<StreamName, InvalidStreamName> {
    StreamName::new(&format!("key-type-{key_id}"))
}

/// How the KID's key encrypts, if that is settled.
pub(super) async fn find(
    ledger: &Ledger,
    key_id: KeyId,
) -> Result<Option<Settled>, LicensingError> {
    let stream = stream_of(key_id)?;
    let Some(last) = ledger.read_stream_backwards(&stream, u64::MAX, 1).await?.pop() else {
        return Ok(None);
    };
    let revision = last.revision;
    match Fact::of(last)?.event {
        Event::ContentKeyTyped(typed) => {
            let (key_type, is_final) = (typed.key_type, typed.is_final());
            Ok(Some(Settled { key_type, is_final, revision }))
        }
        other => Err(LicensingError::Stream { stream: stream.to_string(), kind: other.kind() }),
    }
}

/// Whether a key from this source has a record in the ledger, and so a type for good.
fn is_recorded(source: &KeySource) -> bool {
    match source {
        KeySource::Registered | KeySource::Seed { .. } => true,
        KeySource::PublishedTestSeed | KeySource::Request { .. } => false,
    }
}

impl Licensing {
    /// How the KID's key from this source encrypts, if that is settled.
    pub(super) async fn recorded_type(
        &self,
        key_id: KeyId,
        source: &KeySource,
    ) -> Result<Option<KeyType>, LicensingError> {
        if !is_recorded(source) {
            return Ok(None);
        }
        if let Some(key_type) = self.keys.key_type(key_id) {
            return Ok(Some(key_type));
        }
        let settled = find(&self.ledger, key_id).await?;
        Ok(settled.map(|Settled { key_type, is_final, .. }| {
            self.keys.remember_type(key_id, key_type, is_final);
            key_type
        }))
    }

    /// The event that settles the type of a license's key; `None` if it is settled.
    ///
    /// # Errors
    /// [`OtherType`] if it is settled otherwise.
    pub(super) async fn typing(
        &self,
        license: &LicenseAcquired,
        at_ms: i64,
    ) -> Result<Result<Option<ContentKeyTyped>, OtherType>, LicensingError> {
        let LicenseAcquired { key_id, identity, .. } = *license;
        let states_type = license.drm_system == super::acquire::DRM_SYSTEM;
        let key_type = WireType::from_name(&license.key_type).map(KeyType::from);
        let (true, true, Some(key_type)) =
            (states_type, is_recorded(&license.key_source), key_type)
        else {
            return Ok(Ok(None));
        };
        Ok(match self.recorded_type(key_id, &license.key_source).await? {
            Some(settled) if settled == key_type => Ok(None),
            Some(_) => Err(OtherType),
            None => {
                let stated_by = TypeStatedBy::License { identity };
                Ok(Some(ContentKeyTyped { key_id, key_type, stated_by, at_ms }))
            }
        })
    }
}

/// A key is settled to be of another type than a license has it.
pub(super) struct OtherType;

impl From<KeyType> for WireType {
    fn from(key_type: KeyType) -> Self {
        match key_type {
            KeyType::AesCtr => Self::AesCtr,
            KeyType::AesCbc => Self::AesCbc,
        }
    }
}

impl From<WireType> for KeyType {
    fn from(key_type: WireType) -> Self {
        match key_type {
            WireType::AesCtr => Self::AesCtr,
            WireType::AesCbc => Self::AesCbc,
        }
    }
}
