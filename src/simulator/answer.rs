//! What a strict device makes of the answer to its challenge (sections 5.4, 6.2 and 6.3).

use std::collections::HashSet;

use super::error::{SimulatorError, Unacceptable};
use super::{Challenge, WantedKey};
use crate::playready::acquire::{AcquireResponse, ResponseTrust, rights_id};
use crate::playready::ecc::PrivateKey;
use crate::playready::kid::Kid;
use crate::playready::rev_info::RevInfo;
use crate::playready::revocation::Revocation;
use crate::playready::xmr::{OpenError, OpenedLicense, Root, open, open_leaf};

/// A device as far as it matters for the licenses it accepts.
pub(super) struct Receiver<'a> {
    pub(super) encrypt: &'a PrivateKey,
    pub(super) security_level: u32,
    pub(super) trust: &'a ResponseTrust,
    /// Sequence of the revocation lists that the device holds; 0 for none.
    pub(super) rev_info_held: u32,
    /// Root licenses that the device holds for a KID.
    pub(super) roots: &'a dyn Fn(Kid) -> Vec<OpenedLicense>,
}

/// An answer of which everything has been verified.
pub struct VerifiedAnswer {
    /// Its licenses in their order, at least one.
    pub licenses: Vec<VerifiedLicense>,
    /// What the acknowledgement names, if one is asked for.
    pub transaction_id: Option<uuid::Uuid>,
    /// Text from the service to the application.
    pub custom_data: Option<String>,
    /// Newer revocation lists, to be kept.
    pub revocation: Option<Revocation>,
}

/// A license that this device may use. Holds the content key: no `Debug`.
pub struct VerifiedLicense {
    /// The key and the conditions.
    pub opened: OpenedLicense,
    /// The license as it came.
    pub xmr: Vec<u8>,
    /// Whether the header states a checksum of the key; then it agrees.
    pub key_confirmed: bool,
}

impl Receiver<'_> {
    /// Verifies the answer to `challenge` at the time `now_s` (Unix seconds).
    pub(super) fn verify(
        &self,
        response: AcquireResponse,
        challenge: &Challenge,
        now_s: u64,
    ) -> Result<VerifiedAnswer, SimulatorError> {
        let revocation =
            response.rev_info.map(|lists| self.newer_lists(lists, now_s)).transpose()?;
        if let (Some(lists), Some(signer)) = (&revocation, &response.signer)
            && lists.is_revoked(signer)
        {
            return Err(SimulatorError::SignerRevoked);
        }
        let refused = |place: usize, source| {
            let number = place.saturating_add(1);
            SimulatorError::License { number, source }
        };
        let mut opened = Vec::<OpenedLicense>::with_capacity(response.licenses.len());
        for (place, xmr) in response.licenses.iter().enumerate() {
            let license = self.open(xmr, &opened).map_err(|source| refused(place, source))?;
            opened.push(license);
        }
        let roots: HashSet<_> = opened.iter().filter_map(|license| license.root_kid).collect();
        let mut seen = HashSet::new();
        let mut licenses = Vec::with_capacity(opened.len());
        for (place, (opened, xmr)) in opened.into_iter().zip(response.licenses).enumerate() {
            let is_first = seen.insert(opened.rights_id);
            let checked = self.check(place, &opened, &roots, challenge, now_s);
            let checked = if is_first { checked } else { Err(Unacceptable::RightsId) };
            let key_confirmed = checked.map_err(|source| refused(place, source))?;
            licenses.push(VerifiedLicense { opened, xmr, key_confirmed });
        }
        Ok(VerifiedAnswer {
            licenses,
            transaction_id: response.transaction_id,
            custom_data: response.custom_data,
            revocation,
        })
    }

    fn newer_lists(&self, lists: RevInfo, now_s: u64) -> Result<Revocation, SimulatorError> {
        let revocation = lists.verify(self.trust.chains.root(), now_s)?;
        let (got, held) = (revocation.sequence(), self.rev_info_held);
        if got < held {
            return Err(SimulatorError::RevocationRollback { got, held });
        }
        Ok(revocation)
    }

    /// Opens a license; a leaf with a root that came before it, or one that is held.
    fn open(&self, xmr: &[u8], before: &[OpenedLicense]) -> Result<OpenedLicense, Unacceptable> {
        let root_kid = match open(xmr, self.encrypt) {
            Err(OpenError::NeedsRoot(root_kid)) => root_kid,
            opened => return Ok(opened?),
        };
        let held = (self.roots)(root_kid);
        let roots = before.iter().filter(|license| license.kid == root_kid).chain(&held);
        let mut refused = OpenError::NeedsRoot(root_kid);
        for root in roots {
            match open_leaf(xmr, &Root { kid: root_kid, key: &root.content_key }) {
                Ok(leaf) if leaf.policy.persist == root.policy.persist => return Ok(leaf),
                Ok(_) => return Err(Unacceptable::RootPersistence),
                Err(error) => refused = error,
            }
        }
        Err(refused.into())
    }

    /// Checks an opened license; `roots` are the KIDs that leaves of the answer hang on. Tells
    /// whether the header confirms its key.
    fn check(
        &self,
        place: usize,
        opened: &OpenedLicense,
        roots: &HashSet<Kid>,
        challenge: &Challenge,
        now_s: u64,
    ) -> Result<bool, Unacceptable> {
        let wanted = challenge.keys.iter().find(|wanted| wanted.kid == opened.kid);
        if wanted.is_none() && !roots.contains(&opened.kid) {
            return Err(Unacceptable::NotAsked(opened.kid));
        }
        check_rights_id(opened, &challenge.nonce, place)?;
        let required = u16::from(opened.policy.sl);
        if u32::from(required) > self.security_level {
            return Err(Unacceptable::SecurityLevel { required, device: self.security_level });
        }
        if let Some(end) = opened.policy.counted_until_s().filter(|end| now_s >= *end) {
            return Err(Unacceptable::Ended(end));
        }
        wanted.map_or(Ok(false), |wanted| confirm(opened, wanted))
    }
}

/// Section 6.3: nonce + place for a license that is not stored, else random and not zero.
fn check_rights_id(
    license: &OpenedLicense,
    nonce: &[u8; 16],
    place: usize,
) -> Result<(), Unacceptable> {
    let belongs = if license.policy.persist {
        license.rights_id != [0; 16]
    } else {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        // Published is only that it carries the nonce; the sum is ours.
        license.rights_id == *nonce || license.rights_id == rights_id(nonce, place)
    };
    if belongs { Ok(()) } else { Err(Unacceptable::RightsId) }
}

fn confirm(license: &OpenedLicense, wanted: &WantedKey) -> Result<bool, Unacceptable> {
    match wanted.checksum {
        Some(stated) if license.content_key.checksum(license.kid) != stated => {
            Err(Unacceptable::Checksum(license.kid))
        }
        stated => Ok(stated.is_some()),
    }
}

impl VerifiedAnswer {
    /// KIDs that were asked for and not granted, in the order of the request.
    pub fn missing(&self, challenge: &Challenge) -> Vec<Kid> {
        let granted: HashSet<_> = self.licenses.iter().map(|license| license.opened.kid).collect();
        let asked = challenge.keys.iter().map(|wanted| wanted.kid);
        asked.filter(|kid| !granted.contains(kid)).collect()
    }
}
