//! How a KID's key is used, settled once: how it encrypts, and what for.
//!
//! One {KID, key} is never used in both modes of AES (section 11 of the license protocol page). What
//! settles the mode is the first of these: a key file that names it, a packager that gets the key
//! for a protection scheme, or a PlayReady license, which has to state one. The last takes it from the
//! entitlement or the content's header; and since a device writes that header, an operator's word
//! later on may replace it, and nothing else.
//!
//! Nor is the key of a root ever used for content (section 5.5). What settles that, for good, is the
//! first license, which is a root or not, or the first packager that gets the key.
//!
//! The stream `key-type-<guid>` has both, checked in the same append, so that they are right for any
//! number of processes. A Clear Key license states no type: it settles a role without one.
//!
//! What it costs: an acquisition looks each KID up in memory, and reads one event when what it needs
//! is not there. Keys of requests and of the seed that is published for tests have no record, no type
//! and no role for good.

use super::{Licensing, LicensingError};
use crate::domain::event::{
    ContentKeyTyped, ContentKeyUsed, KeySource, LicenseAcquired, TypeStatedBy,
};
use crate::domain::{Event, KeyId, KeyRole, KeyType, KeyUse};
use crate::ledger::tail::Fact;
use crate::ledger::{Expected, InvalidStreamName, Ledger, StreamName};
use crate::playready::content_key::KeyType as WireType;

/// What the ledger says of how a key is used.
pub(super) struct Settled {
    pub(super) key_use: KeyUse,
    /// Who said how it encrypts, if anybody did.
    pub(super) stated_by: Option<TypeStatedBy>,
    revision: u64,
}

impl Settled {
    /// What an append that settles more has to check.
    pub(super) fn expected(settled: Option<&Self>) -> Expected {
        Expected::at_head(settled.map(|settled| settled.revision))
    }
}

/// An event of a KID that comes with the first license for it, and where its stream has to be.
pub(super) struct Settling {
    pub(super) stream: StreamName,
    pub(super) expected: Expected,
    pub(super) event: Event,
}

/// The stream that says how the KID's key is used.
pub(super) fn stream_of(key_id: KeyId) -> Result<StreamName, InvalidStreamName> {
    StreamName::new(&format!("key-type-{key_id}"))
}

/// How the KID's key is used, as far as that is settled.
pub(super) async fn find(
    ledger: &Ledger,
    key_id: KeyId,
) -> Result<Option<Settled>, LicensingError> {
    let stream = stream_of(key_id)?;
    let Some(last) = ledger.read_stream_backwards(&stream, u64::MAX, 1).await?.pop() else {
        return Ok(None);
    };
    let revision = last.revision;
    let (key_use, stated_by) = match Fact::of(last)?.event {
        Event::ContentKeyTyped(typed) => (typed.settles(), Some(typed.stated_by)),
        Event::ContentKeyUsed(used) => (used.settles(), None),
        other => {
            let stream = stream.to_string();
            return Err(LicensingError::Stream { stream, kind: other.kind() });
        }
    };
    Ok(Some(Settled { key_use, stated_by, revision }))
}

/// Whether a key from this source has a record in the ledger, and so a type and a role for good.
fn is_recorded(source: &KeySource) -> bool {
    match source {
        KeySource::Registered | KeySource::Seed { .. } => true,
        KeySource::PublishedTestSeed | KeySource::Request { .. } => false,
    }
}

impl Licensing {
    /// How the KID's key from this source is used, as far as that is settled.
    pub(super) async fn recorded_use(
        &self,
        key_id: KeyId,
        source: &KeySource,
    ) -> Result<KeyUse, LicensingError> {
        if !is_recorded(source) {
            return Ok(KeyUse::default());
        }
        let known = self.keys.key_use(key_id);
        if known.key_type.is_some() {
            return Ok(known);
        }
        Ok(self.read_use(key_id).await?.map_or(known, |settled| settled.key_use))
    }

    async fn read_use(&self, key_id: KeyId) -> Result<Option<Settled>, LicensingError> {
        let settled = find(&self.ledger, key_id).await?;
        if let Some(settled) = &settled {
            self.keys.remember_use(key_id, settled.key_use);
        }
        Ok(settled)
    }

    /// What settles how a license's key is used; `None` if that is settled.
    ///
    /// # Errors
    /// [`OtherUse`] if it is settled otherwise.
    pub(super) async fn settling(
        &self,
        license: &LicenseAcquired,
        at_ms: i64,
    ) -> Result<Result<Option<Settling>, OtherUse>, LicensingError> {
        let LicenseAcquired { key_id, identity, .. } = *license;
        if !is_recorded(&license.key_source) {
            return Ok(Ok(None));
        }
        let stated = stated_type(license);
        let role = KeyRole::in_license(license.is_root());
        let mut known = self.keys.key_use(key_id);
        let mut settled = None;
        if known.allows(stated, role) && !known.covers(stated) {
            settled = self.read_use(key_id).await?;
            known = settled.as_ref().map(|settled| settled.key_use).unwrap_or_default();
        }
        if !known.allows(stated, role) {
            return Ok(Err(OtherUse));
        }
        if known.covers(stated) {
            return Ok(Ok(None));
        }
        let expected = Settled::expected(settled.as_ref());
        let said = settled.and_then(|settled| settled.stated_by);
        let event = match known.key_type.or(stated) {
            Some(key_type) => Event::ContentKeyTyped(ContentKeyTyped {
                key_id,
                key_type,
                stated_by: said.unwrap_or(TypeStatedBy::License { identity }),
                role: Some(role),
                at_ms,
            }),
            None => Event::ContentKeyUsed(ContentKeyUsed { key_id, identity, at_ms }),
        };
        Ok(Ok(Some(Settling { stream: stream_of(key_id)?, expected, event })))
    }
}

/// The type that a license states: those of PlayReady have to have one.
fn stated_type(license: &LicenseAcquired) -> Option<KeyType> {
    let states_type = license.drm_system == super::acquire::DRM_SYSTEM;
    let named = WireType::from_name(&license.key_type).filter(|_| states_type);
    named.map(KeyType::from)
}

/// How a key is used is settled, and otherwise than a license has it.
pub(super) struct OtherUse;

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
