//! The facts about how licenses end, and how much they prove.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::ids::{Digest, Identity, KeyId, LicenseId, SessionId};

/// How much a deletion proves, or another fact that another system reports.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[schema(as = EvidenceGrade)]
pub enum Grade {
    /// Signed, linked to its session, from a device of security level 3000 or more.
    A,
    /// Signed and linked to its session.
    B,
    /// Signed but not linked, or signed under a revoked chain.
    C,
    /// The word of an operator or an app.
    D,
    /// Inferred.
    E,
}

impl Grade {
    /// All grades, the strongest first.
    pub const ALL: [Self; 5] = [Self::A, Self::B, Self::C, Self::D, Self::E];

    /// The grade as one letter.
    pub fn letter(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::D => "D",
            Self::E => "E",
        }
    }
}

/// A device deleted a license, and said so with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenseDeleted {
    /// The license.
    pub license_id: LicenseId,
    /// Who deleted it; the identity that acquired it.
    pub identity: Identity,
    /// The session the challenge named.
    pub session: SessionId,
    /// The session the license was acquired in; differs when the deletion is not linked.
    pub acquired_session: SessionId,
    /// The license's KID.
    pub key_id: KeyId,
    /// What the deletion proves.
    pub grade: Grade,
    /// Whether the license was acquired in the session named.
    pub linked: bool,
    /// Whether, under the policy in force, this grade ends the license.
    pub releases: bool,
    /// Names the `evidence-<hash>` stream: SHA-256 of the signed message.
    pub evidence: Digest,
    /// When.
    pub at_ms: i64,
}

/// A genuine deletion that could mean more than one license, and therefore frees none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletionUnmatched {
    /// Who sent it.
    pub identity: Identity,
    /// The session the challenge named.
    pub session: SessionId,
    /// The KID.
    pub key_id: KeyId,
    /// Licenses for the KID issued since its last effective deletion; exactly one would match.
    pub candidates: u32,
    /// Names the `evidence-<hash>` stream.
    pub evidence: Digest,
    /// When.
    pub at_ms: i64,
}

/// Why a license was voided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VoidReason {
    /// The device acknowledged that it failed to store it.
    StoreFailed,
    /// The device did not confirm in time that it stored it.
    Unconfirmed,
}

impl VoidReason {
    /// The stored word.
    pub fn word(self) -> &'static str {
        match self {
            Self::StoreFailed => "store_failed",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

/// A license ended by the rule of the quota policy about licenses that a device did not store: see
/// [`Voiding`](crate::domain::quota::Voiding). What the device says of it later brings nothing back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenseVoided {
    /// The license.
    pub license_id: LicenseId,
    /// Its KID.
    pub key_id: KeyId,
    /// Which part of the rule.
    pub reason: VoidReason,
    /// Revision of the `policy` stream that holds the rule.
    pub quota_policy_revision: u64,
    /// When.
    pub at_ms: i64,
}
