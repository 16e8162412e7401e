//! What can go wrong for a device, and whose fault it is.

use std::io;
use std::path::PathBuf;

use crate::clock::UnixMillis;
use crate::playready::kid::Kid;
use crate::playready::pki::PkiError;
use crate::playready::revocation::RevocationError;
use crate::playready::soap::{FaultReply, ResponseError};
use crate::playready::xmr::OpenError;

/// Why a device did not get what it wanted.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The server said no. Everything else is a problem of the device, of the network, or of what
    /// the server sent.
    #[error("the server refused: {0}")]
    Refused(FaultReply),
    /// The keys or certificates of the device are missing or do not fit each other.
    #[error(
        "there is no usable device in {}; make one with `license-ledger pki device`, or name the \
         folder of another", dir.display()
    )]
    Device {
        /// The device's folder.
        dir: PathBuf,
        /// Which file, and what is wrong with it.
        source: PkiError,
    },
    /// The device belongs to another public key infrastructure.
    #[error(
        "the device in {} was not made by the PKI in {}: their roots differ; name the PKI that \
         made it, or none", dir.display(), pki.display()
    )]
    OtherPki {
        /// The device's folder.
        dir: PathBuf,
        /// The folder of the PKI.
        pki: PathBuf,
    },
    /// A file of the device cannot be read or written.
    #[error("cannot {action} {}; check that it exists and who owns it", path.display())]
    File {
        /// `read`, `write` or `lock`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The license store does not hold what this program writes.
    #[error("the license store {} is damaged; restore it, or move it away to begin with an \
             empty one", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// Where reading ended.
        source: serde_json::Error,
    },
    /// Another process works with this device.
    #[error("the device in {} is in use by another process; wait until that ends", dir.display())]
    Busy {
        /// The device's folder.
        dir: PathBuf,
    },
    /// The URL cannot be used.
    #[error("{url} is not a URL of a license server: {reason}")]
    Url {
        /// The URL as given.
        url: String,
        /// What is wrong with it, and the remedy.
        reason: &'static str,
    },
    /// No answer came.
    #[error("no answer from {url}; check that the service runs and listens there")]
    Transport {
        /// Where the request went.
        url: String,
        /// What the HTTP client says.
        source: Box<ureq::Error>,
    },
    /// The answer is not one of this protocol (section 1).
    #[error("the answer has HTTP status {status}, which this protocol does not use here: {text}")]
    Status {
        /// The status.
        status: u16,
        /// The beginning of the body.
        text: String,
    },
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness; try again")]
    Random,
    /// A header of this version does not name so many keys.
    #[error("a header of version {version} names one KID; ask for one, or take version 4.2 or 4.3")]
    TooManyKids {
        /// The version asked for.
        version: &'static str,
    },
    /// A header of this version cannot say how the content is encrypted.
    #[error("a header of version {version} cannot say AES-CBC; take version 4.3")]
    NoCbc {
        /// The version asked for.
        version: &'static str,
    },
    /// Nothing was asked for.
    #[error("no KID is asked for; name at least one")]
    NoKid,
    /// The answer does not verify.
    #[error("the answer of the server is not accepted")]
    Answer(#[source] ResponseError),
    /// The revocation lists of the answer do not verify.
    #[error("the revocation lists of the answer are not accepted")]
    Revocation(#[from] RevocationError),
    /// The revocation lists are older than those that the device holds.
    #[error("the revocation lists of the answer have sequence {got}, and {held} is known here")]
    RevocationRollback {
        /// Sequence of the answer's lists.
        got: u32,
        /// Sequence of the lists in the device's folder.
        held: u32,
    },
    /// The signer of the answer is revoked by the lists it sent.
    #[error("the signer of the answer is revoked")]
    SignerRevoked,
    /// A license must not be used.
    #[error("license {number} of the answer is not accepted")]
    License {
        /// Its place in the answer, from 1.
        number: usize,
        /// Why.
        source: Unacceptable,
    },
    /// Nothing here fits what is to be deleted.
    #[error("the device holds no license for {what}; `device list` shows what it holds")]
    NotHeld {
        /// The KID or session as given.
        what: String,
    },
    /// No license allows to play at this moment.
    #[error("the device cannot play {kid}: {because}")]
    CannotPlay {
        /// What was to be played.
        kid: Kid,
        /// Why not, as the newest license for it has it.
        because: Unplayable,
    },
}

/// Why a license does not play at a moment. Times are Unix seconds, shown as RFC 3339 text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unplayable {
    /// There is no license.
    #[error("it holds no license for it")]
    NotHeld,
    /// It is a leaf, and its root is not there.
    #[error("its license is a leaf of root {0}, and it holds no license for that")]
    RootNotHeld(Kid),
    /// There is one that cannot be opened.
    #[error("its license cannot be opened: {0}")]
    Open(OpenError),
    /// The device is not secure enough.
    #[error("its license needs security level {required} and the device has {device}")]
    SecurityLevel {
        /// The license's minimum.
        required: u32,
        /// The level in the device's certificate.
        device: u32,
    },
    /// Too early.
    #[error("its license begins at {}", time(*.0))]
    NotBegun(u64),
    /// Too late: end and grace, or the removal date, are over.
    #[error("its license ended at {}", time(*.0))]
    Ended(u64),
    /// Too long after the first play.
    #[error("it was first played at {}, and its license ended at {}", time(*.first_play), time(*.over))]
    FirstPlayOver {
        /// When it was first played.
        first_play: u64,
        /// When that was over.
        over: u64,
    },
    /// The root of the license does not play.
    #[error("its license is a leaf of root {0}, and of that {1}")]
    Root(Kid, Box<Unplayable>),
    /// The content is encrypted in a mode that the key is not for.
    #[error("its license holds a key for {0}, and the content is encrypted in another mode")]
    KeyType(&'static str),
}

impl From<OpenError> for Unplayable {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NeedsRoot(root_kid) => Self::RootNotHeld(root_kid),
            other => Self::Open(other),
        }
    }
}

impl Unplayable {
    /// One word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotHeld => "not_held",
            Self::RootNotHeld(_) => "root_not_held",
            Self::Open(_) => "not_opened",
            Self::SecurityLevel { .. } => "security_level",
            Self::NotBegun(_) => "not_begun",
            Self::Ended(_) => "ended",
            Self::FirstPlayOver { .. } => "first_play_over",
            Self::Root(..) => "root_does_not_play",
            Self::KeyType(_) => "key_type",
        }
    }
}

/// Unix seconds as RFC 3339 text.
fn time(at_s: u64) -> UnixMillis {
    UnixMillis(i64::try_from(at_s).unwrap_or(i64::MAX).saturating_mul(1000))
}

/// Why a strict device does not accept a license (sections 5.4 and 6.3).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// Malformed, forged, or not for this device.
    #[error("it cannot be opened")]
    Open(#[from] OpenError),
    /// For a KID that was not asked for.
    #[error("it is for {0}, which was not asked for")]
    NotAsked(Kid),
    /// A non-persistent license whose rights id is not that of its place, or a persistent one whose
    /// rights id is zero or comes twice.
    #[error("its rights id does not belong to this request")]
    RightsId,
    /// The device is not secure enough.
    #[error("it needs security level {required} and the device has {device}")]
    SecurityLevel {
        /// The license's minimum.
        required: u16,
        /// The level in the device's certificate.
        device: u32,
    },
    /// It is over.
    #[error("it ended at {}", time(*.0))]
    Ended(u64),
    /// One of root and leaf may be stored and the other may not (section 5.5).
    #[error("it may be stored and its root may not, or the other way round")]
    RootPersistence,
    /// The key does not have the checksum that the header states.
    #[error("its key is not the one that the header of {0} was made for")]
    Checksum(Kid),
}
