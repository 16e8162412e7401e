//! May this be issued, and with which policy?
//!
//! [`Open`] is the test mode of a license server: every verified device is served, and the policy
//! string of the request says how.

mod open;

use uuid::Uuid;

use crate::domain::KeyId;
use crate::domain::event::KeySource;
use crate::keys::{Keys, Source};
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::header::Header;
use crate::playready::key_seed::KeySeed;
use crate::playready::kid::Kid;
use crate::playready::policy::LicensePolicy;
use crate::playready::soap::{Fault, FaultCode};

pub use open::Open;

/// What a verified challenge asks for.
pub struct Asked<'a> {
    /// The query string of the URL it was posted to.
    pub query: &'a str,
    /// Its custom data, decoded.
    pub custom_data: Option<&'a str>,
    /// Its content header.
    pub header: &'a Header,
    /// The KIDs of the header in their order, each once.
    pub header_kids: &'a [Kid],
}

/// Licenses that may be issued, in the order of the response.
pub struct Grant {
    /// The licenses; at least one.
    pub licenses: Vec<Entitled>,
    /// The transaction id that the entitlement chose, if it did.
    pub transaction_id: Option<Uuid>,
}

/// A license that may be issued.
pub struct Entitled {
    /// The KID.
    pub kid: Kid,
    /// The policy, before it is fitted to the client.
    pub policy: LicensePolicy,
    /// Whether the request asked for a persistent license.
    pub requested_persistent: bool,
    /// How the key encrypts.
    pub key_type: KeyType,
    /// The content key.
    pub key: ContentKey,
    /// Where the content key came from.
    pub source: KeySource,
}

/// The content key of a KID and where it comes from: a key of its own, the seed that gave it one
/// before, the seed that is `named`, or the default seed. `None` if there is none of these.
///
/// # Errors
/// The seed that is named, or that gave it a key before, is not registered.
fn key_of(
    kid: Kid,
    named: Option<&str>,
    keys: &Keys,
) -> Result<Option<(ContentKey, KeySource)>, Fault> {
    let failed = |detail: String| Fault::new(FaultCode::Internal, detail);
    let source = keys.source(KeyId(kid.guid()), named);
    Ok(match source.map_err(|missing| failed(missing.to_string()))? {
        None => None,
        Some(Source::Registered(key)) => Some((ContentKey::new(*key), KeySource::Registered)),
        Some(Source::Seed { seed_id, seed }) => {
            let seed = KeySeed::new(&seed).map_err(|short| failed(short.to_string()))?;
            Some((seed.content_key(kid), KeySource::Seed { seed_id }))
        }
    })
}
