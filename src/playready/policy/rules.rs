//! Which conditions exclude each other, and what is decided only at issue (section 11).

use super::{LicensePolicy, OutOfRange, SecurityLevel};
use crate::playready::content_key::KeyType;

/// How far a client's clock may be from ours, in seconds.
const CLOCK_SKEW_MAX_S: u64 = 3600;
/// How far in the past a license begins for a client that does not tell its time, in seconds.
const BEGIN_MARGIN_S: u64 = 300;
/// Clients of this major version and later tell their time and keep real-time expiration.
const MODERN_CLIENT_MAJOR: u32 = 3;

/// Conditions that no license has, or not together: the `detail` of an `invalid_policy` fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A member with a value that no license has.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// Begin is not before end.
    #[error("begin_not_before_end")]
    BeginNotBeforeEnd,
    /// The end is over, and its grace period too.
    #[error("end_passed")]
    EndPassed,
    /// The removal date is over.
    #[error("removal_passed")]
    RemovalPassed,
    /// A removal date on a license that is not persistent.
    #[error("removal_needs_persistent")]
    RemovalNeedsPersistent,
    /// A removal date beside another limit.
    #[error("removal_excludes_other_limits")]
    RemovalExcludesOtherLimits,
    /// Real-time expiration without anything that expires.
    #[error("realtime_needs_expiration")]
    RealtimeNeedsExpiration,
    /// A grace period without an end.
    #[error("grace_needs_end")]
    GraceNeedsEnd,
    /// Secure stop on a persistent license.
    #[error("secure_stop_needs_non_persistent")]
    SecureStopNeedsNonPersistent,
    /// The legacy non-persistent type on a persistent license.
    #[error("simple_is_non_persistent")]
    SimpleIsNonPersistent,
    /// A root that does not name its KID.
    #[error("root_needs_kid")]
    RootNeedsKid,
    /// A root that is a leaf of another root.
    #[error("root_with_root")]
    RootWithRoot,
    /// A leaf whose root is neither in the same request nor held by the device.
    #[error("root_missing")]
    RootMissing,
    /// A leaf that is persistent under a root that is not, or the other way round.
    #[error("root_persistence")]
    RootPersistence,
    /// A license for the KID of a root that is not one.
    #[error("root_kid_reserved")]
    RootKidReserved,
    /// Two sources of one key.
    #[error("key_and_seed")]
    KeyAndSeed,
    /// One content key for several KIDs.
    #[error("content_key_needs_one_kid")]
    ContentKeyNeedsOneKid,
    /// Two TransactionIDs for one response.
    #[error("two_transaction_ids")]
    TwoTransactionIds,
}

/// Why a policy cannot be given to a client: the CustomData of an 8004C604 fault (section 7).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The policy string is malformed; the text names the key.
    #[error("invalid_cfg: {0}")]
    InvalidCfg(String),
    /// A condition that no license has, or conditions that exclude each other.
    #[error("invalid_policy: {0}")]
    InvalidPolicy(Conflict),
    /// Read, execute or extended rights, or no right to play.
    #[error("unsupported_right")]
    UnsupportedRight,
    /// A key type that is not issued.
    #[error("unsupported_key_type")]
    UnsupportedKeyType,
    /// A CBC key for a client that has no CBC.
    #[error("aescbc_unsupported")]
    AescbcUnsupported,
    /// Real-time expiration for a client that does not have it.
    #[error("realtime_unsupported")]
    RealtimeUnsupported,
    /// The client's clock differs from ours by more than an hour.
    #[error("clock_skew")]
    ClockSkew {
        /// Our time in Unix seconds.
        server_time: u64,
    },
    /// The device's security level is too low.
    #[error("security_level")]
    SecurityLevel {
        /// What the policy demands.
        required: u32,
        /// What the certificate states.
        device: u32,
    },
}

impl From<Conflict> for Refusal {
    fn from(conflict: Conflict) -> Self {
        Self::InvalidPolicy(conflict)
    }
}

impl Refusal {
    /// The `error` member of the CustomData.
    pub fn error(&self) -> &'static str {
        match self {
            Self::InvalidCfg(_) => "invalid_cfg",
            Self::InvalidPolicy(_) => "invalid_policy",
            Self::UnsupportedRight => "unsupported_right",
            Self::UnsupportedKeyType => "unsupported_key_type",
            Self::AescbcUnsupported => "aescbc_unsupported",
            Self::RealtimeUnsupported => "realtime_unsupported",
            Self::ClockSkew { .. } => "clock_skew",
            Self::SecurityLevel { .. } => "security_level",
        }
    }
}

/// What a verified challenge says about the client.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Security level of its leaf certificate.
    pub security_level: u32,
    /// Digits before the first dot of CLIENTVERSION; 1 if there is none (section 2.1).
    pub version_major: u32,
    /// ClientTime in Unix seconds, if it is in the challenge.
    pub time_s: Option<u64>,
    /// Whether it handles CBC keys (section 2.5).
    pub reads_cbc: bool,
}

impl LicensePolicy {
    /// Checks the ranges of all members, and the combination rules of section 11 that concern one
    /// license.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self) -> Result<(), Conflict> {
        self.check_ranges()?;
        let expires = self.end.is_some() || self.first_play_seconds.is_some();
        let excluded_by_removal = expires
            || self.begin.is_some()
            || self.metering_id.is_some()
            || !self.extended_restrictions.is_empty();
        let rules = [
            (self.begin_is_before_end(), Conflict::BeginNotBeforeEnd),
            (self.removal.is_none() || self.persist, Conflict::RemovalNeedsPersistent),
            (self.removal.is_none() || !excluded_by_removal, Conflict::RemovalExcludesOtherLimits),
            (!self.real_time || expires, Conflict::RealtimeNeedsExpiration),
            (self.grace_seconds.is_none() || self.end.is_some(), Conflict::GraceNeedsEnd),
            (
                self.secure_stop_id.is_none() || !self.persist,
                Conflict::SecureStopNeedsNonPersistent,
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, conflict)) => Err(conflict),
            None => Ok(()),
        }
    }

    /// The policy that this client gets at the time `now_s` (Unix seconds), with a key of this
    /// type: begin is always set together with end, against clocks that are set back.
    ///
    /// # Errors
    /// The client's security level, clock, version or features do not fit the policy; or its end or
    /// removal date is over already, for the client or for us.
    pub fn effective(
        &self,
        client: &Client,
        key_type: KeyType,
        now_s: u64,
    ) -> Result<Self, Refusal> {
        let required = self.sl.number();
        if client.security_level < required {
            return Err(Refusal::SecurityLevel { required, device: client.security_level });
        }
        if key_type == KeyType::AesCbc && !client.reads_cbc {
            return Err(Refusal::AescbcUnsupported);
        }
        if self.real_time && client.version_major < MODERN_CLIENT_MAJOR {
            return Err(Refusal::RealtimeUnsupported);
        }
        let mut effective = self.clone();
        if self.end.is_some() && self.begin.is_none() {
            let begin = client.begin(now_s)?;
            // Beyond 2106 the wire form has no such time.
            effective.begin = Some(u32::try_from(begin).unwrap_or(u32::MAX));
            effective.check()?;
        }
        effective.check_not_over(now_s)?;
        Ok(effective)
    }

    /// Refuses what nobody could use any more, and what would not count even for a moment.
    fn check_not_over(&self, now_s: u64) -> Result<(), Conflict> {
        if self.counted_until_s().is_none_or(|until_s| until_s > now_s) {
            return Ok(());
        }
        Err(if self.removal.is_some() { Conflict::RemovalPassed } else { Conflict::EndPassed })
    }

    fn begin_is_before_end(&self) -> bool {
        match (self.begin, self.end) {
            (Some(begin), Some(end)) => begin < end,
            _ => true,
        }
    }
}

impl Client {
    /// When a license with an end and no begin begins for this client.
    fn begin(&self, now_s: u64) -> Result<u64, Refusal> {
        match self.time_s {
            Some(time_s) if self.version_major >= MODERN_CLIENT_MAJOR => {
                if time_s.abs_diff(now_s) > CLOCK_SKEW_MAX_S {
                    return Err(Refusal::ClockSkew { server_time: now_s });
                }
                Ok(time_s)
            }
            _ => Ok(now_s.saturating_sub(BEGIN_MARGIN_S)),
        }
    }
}

impl SecurityLevel {
    /// The level as certificates and faults carry it.
    pub fn number(self) -> u32 {
        u16::from(self).into()
    }
}
