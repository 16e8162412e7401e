//! Keys for packagers: content headers, and the exchange of keys by CPIX and SPEKE.
//!
//! A packager encrypts content. It needs the content keys of its KIDs and, for each DRM system,
//! what players find in files, manifests and playlists ([`signaling`]). It asks in one of three
//! ways:
//!
//! | path | gets | wire |
//! |---|---|---|
//! | `GET /v1/headers` | headers, objects and boxes; never a key | JSON |
//! | `POST /v1/speke/v2` | keys and signaling | [`cpix`], CPIX 2.3 in the profile of SPEKE v2 |
//! | `AcquirePackagingData` | keys and PlayReady Objects | [`acquire`], section 13 of the license protocol page |
//!
//! Which key a KID has is not decided here: the handlers ask the registry for it.

pub mod acquire;
pub mod cpix;
pub mod delivery;
pub mod signaling;

use uuid::Uuid;

use crate::clock::Clock;
use crate::config;
use crate::keys::ContentKey;
use crate::playready::header::ObjectError;
use cpix::{Delivered, ExchangeError};
use delivery::{TrustError, Trusted};

pub use signaling::{Headers, Scheme};

/// What packagers are given, by the settings of the operator.
pub struct Packager {
    settings: config::Packaging,
    clock: Clock,
}

/// A key exchange does not come about.
#[derive(Debug, thiserror::Error)]
pub enum PackagerError {
    /// Because of the request.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// Because of the folder of certificates.
    #[error("the folder of packagers' certificates cannot be used")]
    Trust(#[from] TrustError),
}

impl Packager {
    /// A packager's counterpart with these settings.
    pub fn new(settings: config::Packaging, clock: Clock) -> Self {
        Self { settings, clock }
    }

    /// The license acquisition URL that headers name.
    pub fn license_url(&self) -> Option<&str> {
        self.settings.license_url.as_deref()
    }

    /// Headers for these KIDs. They carry checksums of the keys that are given.
    ///
    /// # Errors
    /// [`ObjectError::TooLarge`].
    pub fn headers(
        &self,
        keys: &[(Uuid, Option<ContentKey>)],
        scheme: Scheme,
    ) -> Result<Headers, ObjectError> {
        let keys: Vec<_> = keys.iter().map(|(key_id, key)| (*key_id, key.as_ref())).collect();
        Headers::new(&keys, scheme, self.license_url())
    }

    /// How the keys of a request may go out.
    ///
    /// # Errors
    /// [`PackagerError`]; to be asked before any key is made for the request.
    pub fn delivery(&self, request: &cpix::Request) -> Result<Delivered, PackagerError> {
        let trusted = match &self.settings.certificates {
            Some(folder) => Trusted::read(folder)?,
            None => Trusted::default(),
        };
        Ok(request.delivery(&trusted, self.settings.plain_keys, self.clock.now())?)
    }
}
