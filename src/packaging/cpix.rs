//! CPIX 2.3 documents (DASH-IF) in the profile of SPEKE v2: a packager's request, and its answer.
//!
//! ```text
//! CPIX @contentId @version
//!   DeliveryDataList > DeliveryData*      who may read the keys; absent: keys as they are, if allowed
//!     DeliveryKey > X509Data > X509Certificate
//!     + DocumentKey, MACMethod            in the answer: the keys of the document, wrapped
//!   ContentKeyList > ContentKey+          @kid @commonEncryptionScheme @explicitIV?
//!     + Data > Secret                     in the answer: the key
//!   DRMSystemList > DRMSystem+            @kid @systemId; empty elements ask for signaling
//!   ContentKeyPeriodList?                 handed back as it is
//!   ContentKeyUsageRuleList > …+          @kid @intendedTrackType; handed back as it is
//! ```
//!
//! The answer is the request with what it asks for filled in; nothing is left out or added, and KIDs
//! are written as the packager wrote them. What this server does not know is refused and not passed
//! over, with the element or attribute named. Comments and CDATA are refused by the XML reader.

mod answer;
mod read;

pub use answer::Delivered;
use uuid::Uuid;

use super::delivery::{CertificateError, WrapFailed};
use super::signaling::{Scheme, System};
use crate::playready::header::ObjectError;
use crate::playready::xml::{FieldError, XmlError};

/// The version of SPEKE, as its header says it.
pub const SPEKE_VERSION: &str = "2.0";
/// The version of CPIX that goes with it.
const CPIX_VERSION: &str = "2.3";
/// The most bytes of a request, whatever the server's own limit is.
const REQUEST_BYTES_MAX: usize = 1 << 20;

const CPIX: &str = "urn:dashif:org:cpix";
const DS: &str = crate::playready::xml::SIGNATURES;

/// Why a request is not answered. Texts known from SPEKE are as SPEKE has them.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The header `X-Speke-Version` is missing or names another version.
    #[error("Unsupported SPEKE version; send the header X-Speke-Version: {SPEKE_VERSION}")]
    SpekeVersion,
    /// Not XML that is read here.
    #[error("the document cannot be read: {0}")]
    Xml(XmlError),
    /// Not a CPIX document.
    #[error("the root element is not CPIX of the namespace {CPIX}")]
    NotCpix,
    /// An element or attribute is missing.
    #[error("Missing {0}")]
    Missing(String),
    /// An element holds what it must not.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// Another version of CPIX.
    #[error("Unsupported CPIX@version {0:?}; {CPIX_VERSION} is read here")]
    CpixVersion(String),
    /// A scheme that is not licensed.
    #[error("ContentKey@commonEncryptionScheme {0:?} is not supported; cenc and cbcs are")]
    Scheme(String),
    /// Keys of one document have different schemes.
    #[error("Non compliant ContentKey@commonEncryptionScheme combination; ask for one scheme")]
    MixedSchemes,
    /// Not a GUID.
    #[error("{0} is not a GUID such as 01234567-89ab-cdef-0123-456789abcdef")]
    NotGuid(&'static str),
    /// A KID that comes twice.
    #[error("ContentKey@kid {0} comes twice")]
    KeyTwice(Uuid),
    /// A KID that comes with both schemes.
    #[error(
        "ContentKey@kid {0} is asked for as cenc and as cbcs, and one key is never used for both; \
         give each scheme a kid of its own"
    )]
    KeyOfBothSchemes(Uuid),
    /// A KID that no content key of the document has.
    #[error("{field} {key_id} is not the kid of any ContentKey")]
    KeyNotListed {
        /// The attribute.
        field: &'static str,
        /// The KID.
        key_id: Uuid,
    },
    /// Not 16 bytes.
    #[error("ContentKey@explicitIV is not base64 of 16 bytes")]
    ExplicitIv,
    /// A DRM system that is not served.
    #[error("DRMSystem@systemId {0} is not served here; PlayReady and Clear Key are")]
    System(Uuid),
    /// Signaling that the DRM system does not have.
    #[error("DRMSystem/{0} is not offered for this DRMSystem@systemId")]
    NoSignaling(&'static str),
    /// Anything else in the document.
    #[error("{0} is not supported here")]
    Unsupported(String),
    /// A certificate that keys are not wrapped for.
    #[error("the certificate of DeliveryData {number} {source}")]
    Certificate {
        /// Its place in the list, from 1.
        number: usize,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// There is no certificate, and keys are not given as they are.
    #[error(
        "content keys are only given encrypted: add DeliveryDataList with a certificate that this \
         server trusts"
    )]
    PlainKeys,
    /// The signaling does not fit its format.
    #[error("the signaling of a key cannot be written")]
    Signaling(#[from] ObjectError),
    /// A failure of ours.
    #[error(transparent)]
    Wrap(#[from] WrapFailed),
}

impl ExchangeError {
    /// The part of the request that is to blame.
    pub fn field(&self) -> &'static str {
        match self {
            Self::SpekeVersion => "X-Speke-Version",
            Self::CpixVersion(_) => "CPIX@version",
            Self::Scheme(_) | Self::MixedSchemes => "ContentKey@commonEncryptionScheme",
            Self::NotGuid(field) | Self::KeyNotListed { field, .. } => field,
            Self::KeyTwice(_) | Self::KeyOfBothSchemes(_) => "ContentKey@kid",
            Self::ExplicitIv => "ContentKey@explicitIV",
            Self::System(_) => "DRMSystem@systemId",
            Self::NoSignaling(_) | Self::Signaling(_) => "DRMSystem",
            Self::Certificate { .. } => "DeliveryData/DeliveryKey",
            Self::PlainKeys => "DeliveryDataList",
            Self::Xml(_)
            | Self::NotCpix
            | Self::Missing(_)
            | Self::Field(_)
            | Self::Unsupported(_)
            | Self::Wrap(_) => "CPIX",
        }
    }

    /// Whether it is a failure of ours.
    pub fn is_internal(&self) -> bool {
        matches!(self, Self::Wrap(_))
    }
}

/// A packager's request.
#[derive(Debug)]
pub struct Request {
    attributes: Attributes,
    recipients: Vec<Delivery>,
    scheme: Scheme,
    keys: Vec<KeyRequest>,
    systems: Vec<SystemRequest>,
    /// `ContentKeyPeriodList`, if there is one, and `ContentKeyUsageRuleList`.
    copied: Vec<Copied>,
}

/// Attributes as they were written, in their order; without those of other namespaces.
type Attributes = Vec<(String, String)>;

/// Who may read the keys.
#[derive(Debug)]
struct Delivery {
    attributes: Attributes,
    /// DER of the certificate.
    certificate: Vec<u8>,
}

#[derive(Debug)]
struct KeyRequest {
    key_id: Uuid,
    attributes: Attributes,
}

#[derive(Debug)]
struct SystemRequest {
    key_id: Uuid,
    system: System,
    attributes: Attributes,
    wanted: Vec<Wanted>,
}

/// One piece of signaling that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Pssh,
    ContentProtection,
    UriExtXKey,
    /// Without a playlist it is meant for the media playlist.
    Hls(Option<Playlist>),
    SmoothStreaming,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Playlist {
    Media,
    Master,
}

/// A part that is handed back.
#[derive(Debug)]
struct Copied {
    name: String,
    attributes: Attributes,
    children: Vec<Copied>,
}

impl Request {
    /// The KIDs asked for, each once.
    pub fn key_ids(&self) -> impl ExactSizeIterator<Item = Uuid> {
        self.keys.iter().map(|key| key.key_id)
    }

    /// The scheme that all of them are for.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }
}

impl Wanted {
    /// The element's name.
    fn name(self) -> &'static str {
        match self {
            Self::Pssh => "PSSH",
            Self::ContentProtection => "ContentProtectionData",
            Self::UriExtXKey => "URIExtXKey",
            Self::Hls(_) => "HLSSignalingData",
            Self::SmoothStreaming => "SmoothStreamingProtectionHeaderData",
        }
    }
}

#[cfg(test)]
mod tests;
