//! Test mode: the request says what it wants.

use super::{Asked, Entitled, Grant};
use crate::domain::KeyId;
use crate::domain::event::KeySource;
use crate::keys::{DEFAULT_SEED, Keys};
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::key_seed::KeySeed;
use crate::playready::kid::Kid;
use crate::playready::policy::{LicensePolicy, SecurityLevel};
use crate::playready::soap::{Fault, Refusal};

/// Serves every verified device (section 10 of the license protocol page).
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

impl Open {
    /// What the request may have. Keys come from the registered content keys, else from the
    /// registered key seed, else from the seed that is published for tests.
    pub fn grant(&self, asked: &Asked<'_>, keys: &Keys) -> Result<Grant, Fault> {
        let mut licenses = Vec::new();
        for kid in asked.header_kids {
            let mut policy = LicensePolicy::new(SecurityLevel::Test);
            policy.persist = asked.query.contains("persist:true");
            let (key, source) = key_of(*kid, keys);
            licenses.push(Entitled {
                kid: *kid,
                requested_persistent: policy.persist,
                policy,
                key_type: KeyType::AesCtr,
                key,
                source,
            });
        }
        if licenses.is_empty() {
            return Err(Fault::refused(Refusal::NoKid));
        }
        Ok(Grant { licenses, transaction_id: None })
    }
}

/// The key of a KID that the request names no key for.
fn key_of(kid: Kid, keys: &Keys) -> (ContentKey, KeySource) {
    if let Some(key) = keys.content_key(KeyId(kid.guid())) {
        return (ContentKey::new(*key), KeySource::Registered);
    }
    let registered = keys.seed(DEFAULT_SEED).and_then(|seed| KeySeed::new(&seed).ok());
    match registered {
        Some(seed) => {
            let source = KeySource::Seed { seed_id: DEFAULT_SEED.to_owned() };
            (seed.content_key(kid), source)
        }
        None => (KeySeed::PUBLISHED_TEST.content_key(kid), KeySource::PublishedTestSeed),
    }
}
