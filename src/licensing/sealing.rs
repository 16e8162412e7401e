//! From a recorded grant to the response that carries its licenses.

use std::collections::HashMap;

use super::{Denied, Licensing, LicensingError, random_bytes};
use crate::domain::KeyId;
use crate::domain::event::{Chain, KeySource, LicenseAcquired};
use crate::playready::acquire::{AcquireRequest, LicenseAnswer, rights_id};
use crate::playready::challenge::VerifiedChallenge;
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::key_seed::KeySeed;
use crate::playready::kid::Kid;
use crate::playready::policy::LicensePolicy;
use crate::playready::soap::Refusal;
use crate::playready::xmr::{self, LicenseSpec, Root};

/// Keys at hand for sealing: those that preparation found, and where. A license of the ledger may
/// have its key from elsewhere.
#[derive(Default)]
pub(super) struct RequestKeys(HashMap<Kid, (ContentKey, KeySource)>);

impl RequestKeys {
    pub(super) fn remember(&mut self, kid: Kid, key: ContentKey, source: KeySource) {
        self.0.insert(kid, (key, source));
    }

    /// Checks that what requests named for these licenses is what this one names: the ledger keeps no
    /// such key, and a license that is sent again has the key that it had.
    ///
    /// # Errors
    /// [`Refusal::ChallengeSpent`].
    pub(super) fn check(&self, licenses: &[LicenseAcquired]) -> Result<(), Refusal> {
        let is_other = |key_id: KeyId, source: &KeySource| {
            let at_hand = self.0.get(&Kid::from(key_id.0)).map(|(_, found)| found);
            matches!(source, KeySource::Request { .. }) && at_hand != Some(source)
        };
        let others = licenses.iter().any(|license| {
            let root = match &license.chain {
                Some(Chain::Leaf { root_key_id, root_key_source }) => {
                    is_other(*root_key_id, root_key_source)
                }
                Some(Chain::Root) | None => false,
            };
            root || is_other(license.key_id, &license.key_source)
        });
        if others { Err(Refusal::ChallengeSpent) } else { Ok(()) }
    }
}

impl Licensing {
    /// Seals the licenses of a grant to the device and signs the response. The licenses are those
    /// of the ledger, whether granted a moment or a day ago; only their wrapping is fresh.
    pub(super) fn seal(
        &self,
        challenge: &VerifiedChallenge,
        message: &AcquireRequest,
        licenses: &[LicenseAcquired],
        keys: &RequestKeys,
    ) -> Result<Vec<u8>, Denied> {
        keys.check(licenses)?;
        let revocation = self.revocation();
        let revinfo_version = revocation.as_ref().map_or(0, |lists| lists.sequence());
        let mut sealed = Vec::with_capacity(licenses.len());
        for license in licenses {
            sealed.push(self.seal_one(challenge, message, license, keys, revinfo_version)?);
        }
        let rev_info = revocation.as_ref();
        let rev_info = rev_info.filter(|lists| message.wants_rev_info(lists.sequence()));
        let transaction_id = licenses.first().and_then(|license| license.transaction_id);
        let answer = LicenseAnswer {
            licenses: &sealed,
            persistent: licenses.iter().any(|license| license.persistent.effective),
            rev_info: rev_info.map(|lists| lists.sent()),
            transaction_id: transaction_id.map(|id| id.0),
            custom_data: None,
            nonce: &message.nonce,
            response_id: &random_bytes()?,
        };
        Ok(answer.render(&self.signer))
    }

    fn seal_one(
        &self,
        challenge: &VerifiedChallenge,
        message: &AcquireRequest,
        license: &LicenseAcquired,
        keys: &RequestKeys,
        revinfo_version: u32,
    ) -> Result<Vec<u8>, LicensingError> {
        let failed =
            |reason| LicensingError::Seal { license: license.license_id.to_string(), reason };
        let policy: LicensePolicy = serde_json::from_str(license.policy.get())
            .map_err(|_| failed("its recorded policy cannot be read"))?;
        let kid = Kid::from(license.key_id.0);
        let key_type = KeyType::from_name(&license.key_type);
        let spec = LicenseSpec {
            rights_id: if license.persistent.effective {
                license.license_id.0.into_bytes()
            } else {
                rights_id(&message.nonce, license.ordinal)
            },
            kid,
            key_type: key_type.ok_or_else(|| failed("its key type is unknown"))?,
            content_key: &self.key_of(license, keys)?,
            policy: &policy,
            issue_date: u32::try_from(license.at_ms / 1000).unwrap_or(u32::MAX),
            revinfo_version,
        };
        let mut random_failed = false;
        let mut random = |bytes: &mut [u8]| {
            random_failed |= aws_lc_rs::rand::fill(bytes).is_err();
        };
        let sealed = match &license.chain {
            Some(Chain::Leaf { root_key_id, root_key_source }) => {
                let kid = Kid::from(root_key_id.0);
                let key = self.key(kid, root_key_source, keys);
                let key = &key.ok_or_else(|| failed("the key of its root is missing"))?;
                xmr::seal_leaf(&spec, &Root { kid, key }, &mut random)
            }
            None | Some(Chain::Root) => {
                xmr::seal(&spec, challenge.sender().encrypt_key(), &mut random)
            }
        };
        if random_failed { Err(LicensingError::Random) } else { Ok(sealed) }
    }

    /// The content key of a license, whether granted a moment or a day ago.
    pub(super) fn key_of(
        &self,
        license: &LicenseAcquired,
        keys: &RequestKeys,
    ) -> Result<ContentKey, LicensingError> {
        let found = self.key(Kid::from(license.key_id.0), &license.key_source, keys);
        found.ok_or_else(|| LicensingError::Seal {
            license: license.license_id.to_string(),
            reason: "its content key is missing",
        })
    }

    fn key(&self, kid: Kid, source: &KeySource, keys: &RequestKeys) -> Option<ContentKey> {
        match keys.0.get(&kid) {
            Some((key, found)) if found == source => Some(key.clone()),
            _ => self.content_key(kid, source),
        }
    }

    /// The content key of a license, from where it came from when it was granted.
    fn content_key(&self, kid: Kid, source: &KeySource) -> Option<ContentKey> {
        let seed = match source {
            KeySource::Registered => {
                let key = self.keys.content_key(KeyId(kid.guid()))?;
                return Some(ContentKey::new(*key));
            }
            KeySource::Seed { seed_id } => KeySeed::new(&self.keys.seed(seed_id)?).ok()?,
            KeySource::PublishedTestSeed => KeySeed::PUBLISHED_TEST,
            KeySource::Request { .. } => return None,
        };
        Some(seed.content_key(kid))
    }
}
