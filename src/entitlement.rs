//! May this be issued, and with which policy?
//!
//! [`Open`] is the test mode of a license server: every verified device is served, and the policy
//! string of the request says how.

mod open;

use uuid::Uuid;

use crate::domain::event::KeySource;
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::header::Header;
use crate::playready::kid::Kid;
use crate::playready::policy::LicensePolicy;

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
