//! Why this service says no: the `CustomData` of fault 8004C604 (section 7).

use std::fmt::Write as _;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::playready::kid::Kid;
use crate::playready::policy;

/// The most KIDs that [`Refusal::PersistentLicenseLimit`] names.
const HELD_KIDS_MAX: usize = 50;

/// A refusal that a client can read. On the wire a compact JSON object whose first member is
/// `error`, then the members in the order given here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum Refusal {
    /// One more persistent license would exceed a limit. One slot is one (device, KID) with at
    /// least one live persistent license.
    PersistentLicenseLimit {
        /// What the limit counts over.
        scope: LimitScope,
        /// Length of the window in seconds, for rules that count issued licenses over time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        window_seconds: Option<u64>,
        /// How many the rule allows.
        limit: u32,
        /// How many are held.
        held: u32,
        /// How many more the request would take.
        requested: u32,
        /// Which are held; only the first 50 are sent.
        #[serde(serialize_with = "first_guids", deserialize_with = "from_guids")]
        held_kids: Vec<Kid>,
        /// More about the rule, for people and back ends; members of the same object.
        #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
        explained: Option<Box<LimitExplained>>,
    },
    /// None of the wanted KIDs has a key here.
    KeyUnknown {
        /// The KIDs of the request.
        #[serde(serialize_with = "all_guids", deserialize_with = "from_guids")]
        kids: Vec<Kid>,
    },
    /// The header names no KID.
    NoKid,
    /// The service did not authorize this device.
    NotEntitled {
        /// Why, in a word, if anybody said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Whether the device is authorized could not be found out; the same challenge may come again.
    TryLater,
    /// The key is for CBC and the client does not announce that it handles such keys.
    AescbcUnsupported,
    /// Real-time expiration needs a client of major version 3 or higher.
    RealtimeUnsupported,
    /// A right other than play.
    UnsupportedRight,
    /// A key type that is not issued, COCKTAIL among them.
    UnsupportedKeyType,
    /// The device's security level is below the license's minimum.
    SecurityLevel {
        /// The license's minimum.
        required: u32,
        /// The level in the device's certificate.
        device: u32,
    },
    /// The client's clock is too far off for a license that ends.
    ClockSkew {
        /// Unix seconds.
        server_time: u64,
    },
    /// The test policy string cannot be read.
    InvalidCfg {
        /// What is wrong with it.
        detail: String,
    },
    /// The policy breaks a rule of section 11.
    InvalidPolicy {
        /// The word that section 11 gives for the rule.
        detail: String,
    },
    /// No refusal: the test policy string asked what is known of the client.
    ClientInfo(Box<ClientInfo>),
    /// This challenge was answered before and is not answered again.
    ChallengeSpent,
    /// No such session, or not of this device; both look alike on purpose.
    UnknownSession,
    /// No such transaction, or not of this device; both look alike on purpose.
    UnknownTransaction,
}

/// What a challenge says of its sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    /// `CLIENTVERSION`, if the challenge has it.
    pub client_version: Option<String>,
    /// `ClientTime` in Unix seconds, if the challenge has it.
    pub client_time: Option<u64>,
    /// Names of the features in the client data.
    pub features: Vec<String>,
    /// The level in the device's certificate.
    pub security_level: Option<u32>,
    /// The device's identity, 64 lower-case hex digits.
    pub device: Option<String>,
}

/// The rule behind a [`Refusal::PersistentLicenseLimit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitExplained {
    /// The rule's id.
    pub rule: String,
    /// Version of the quota policy that holds it.
    pub policy_version: u64,
    /// Of what is held, how many the devices confirmed that they stored.
    pub confirmed: u32,
    /// How many are held.
    pub live: u32,
    /// How many may be held, those released on weak evidence included.
    pub possible: u32,
    /// When the next one frees by itself, if one will: Unix seconds.
    pub next_free_at: Option<i64>,
    /// What helps: `delete_license`, `wait`, `write_off`, `override`.
    pub remedies: Vec<String>,
}

/// What a limit on persistent licenses counts over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitScope {
    /// One device.
    Device,
    /// All devices of one account.
    Account,
    /// One title on all devices of one account.
    AccountTitle,
}

impl From<policy::Refusal> for Refusal {
    fn from(refusal: policy::Refusal) -> Self {
        match refusal {
            policy::Refusal::InvalidCfg(detail) => Self::InvalidCfg { detail },
            policy::Refusal::InvalidPolicy(conflict) => {
                Self::InvalidPolicy { detail: conflict.to_string() }
            }
            policy::Refusal::UnsupportedRight => Self::UnsupportedRight,
            policy::Refusal::UnsupportedKeyType => Self::UnsupportedKeyType,
            policy::Refusal::AescbcUnsupported => Self::AescbcUnsupported,
            policy::Refusal::RealtimeUnsupported => Self::RealtimeUnsupported,
            policy::Refusal::ClockSkew { server_time } => Self::ClockSkew { server_time },
            policy::Refusal::SecurityLevel { required, device } => {
                Self::SecurityLevel { required, device }
            }
        }
    }
}

impl Refusal {
    /// [`Refusal::NotEntitled`] for this reason.
    pub fn not_entitled(reason: &str) -> Self {
        Self::NotEntitled { reason: Some(reason.to_owned()) }
    }

    /// Compact JSON in ASCII, not yet escaped for XML.
    pub fn to_json(&self) -> String {
        // Serializing strings and numbers into memory cannot fail.
        let json = serde_json::to_string(self).unwrap_or_default();
        if json.is_ascii() {
            return json;
        }
        let mut ascii = String::with_capacity(json.len());
        for c in json.chars() {
            if c.is_ascii() {
                ascii.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(ascii, "\\u{unit:04x}");
                }
            }
        }
        ascii
    }

    /// Reads the text of a `CustomData` element. `None` if it is not one of ours.
    pub fn from_json(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }
}

fn first_guids<S: Serializer>(kids: &[Kid], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(kids.iter().take(HELD_KIDS_MAX).map(|kid| kid.guid()))
}

fn all_guids<S: Serializer>(kids: &[Kid], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(kids.iter().map(|kid| kid.guid()))
}

fn from_guids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Kid>, D::Error> {
    Ok(Vec::<Uuid>::deserialize(deserializer)?.into_iter().map(Kid::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kid(number: u128) -> Kid {
        Kid::from(Uuid::from_u128(number))
    }

    /// Texts written by hand after the table in section 7.
    #[test]
    fn renders_each_refusal_with_its_members_in_order() {
        let one = "00000000-0000-0000-0000-000000000001";
        let rows = [
            (
                Refusal::PersistentLicenseLimit {
                    scope: LimitScope::AccountTitle,
                    window_seconds: Some(60),
                    limit: 1,
                    held: 2,
                    requested: 3,
                    held_kids: vec![kid(1)],
                    explained: None,
                },
                format!(
                    r#"{{"error":"persistent_license_limit","scope":"account_title","window_seconds":60,"limit":1,"held":2,"requested":3,"held_kids":["{one}"]}}"#
                ),
            ),
            (
                Refusal::KeyUnknown { kids: vec![kid(1)] },
                format!(r#"{{"error":"key_unknown","kids":["{one}"]}}"#),
            ),
            (Refusal::NoKid, r#"{"error":"no_kid"}"#.into()),
            (Refusal::NotEntitled { reason: None }, r#"{"error":"not_entitled"}"#.into()),
            (
                Refusal::not_entitled("token_expired"),
                r#"{"error":"not_entitled","reason":"token_expired"}"#.into(),
            ),
            (Refusal::TryLater, r#"{"error":"try_later"}"#.into()),
            (Refusal::AescbcUnsupported, r#"{"error":"aescbc_unsupported"}"#.into()),
            (Refusal::RealtimeUnsupported, r#"{"error":"realtime_unsupported"}"#.into()),
            (Refusal::UnsupportedRight, r#"{"error":"unsupported_right"}"#.into()),
            (Refusal::UnsupportedKeyType, r#"{"error":"unsupported_key_type"}"#.into()),
            (
                Refusal::SecurityLevel { required: 3000, device: 2000 },
                r#"{"error":"security_level","required":3000,"device":2000}"#.into(),
            ),
            (
                Refusal::ClockSkew { server_time: 1_700_000_000 },
                r#"{"error":"clock_skew","server_time":1700000000}"#.into(),
            ),
            (
                Refusal::InvalidCfg { detail: "k\u{e9}y \u{1f600}".into() },
                r#"{"error":"invalid_cfg","detail":"k\u00e9y \ud83d\ude00"}"#.into(),
            ),
            (
                Refusal::InvalidPolicy { detail: "grace_needs_end".into() },
                r#"{"error":"invalid_policy","detail":"grace_needs_end"}"#.into(),
            ),
            (
                Refusal::ClientInfo(Box::new(ClientInfo {
                    client_version: Some("10.0.16384.10011".into()),
                    client_time: None,
                    features: vec!["AESCBC".into()],
                    security_level: Some(2000),
                    device: Some("00ff".into()),
                })),
                concat!(
                    r#"{"error":"client_info","client_version":"10.0.16384.10011","#,
                    r#""client_time":null,"features":["AESCBC"],"security_level":2000,"#,
                    r#""device":"00ff"}"#
                )
                .into(),
            ),
            (Refusal::ChallengeSpent, r#"{"error":"challenge_spent"}"#.into()),
            (Refusal::UnknownSession, r#"{"error":"unknown_session"}"#.into()),
            (Refusal::UnknownTransaction, r#"{"error":"unknown_transaction"}"#.into()),
        ];
        for (refusal, json) in rows {
            assert_eq!(refusal.to_json(), json);
            assert_eq!(Refusal::from_json(&json), Some(refusal));
        }
    }

    #[test]
    fn a_policy_conflict_is_named_by_its_word() {
        let refusal = Refusal::from(policy::Refusal::from(policy::Conflict::GraceNeedsEnd));
        assert_eq!(refusal.to_json(), r#"{"error":"invalid_policy","detail":"grace_needs_end"}"#);
    }

    #[test]
    fn names_at_most_fifty_held_kids() {
        let refusal = Refusal::PersistentLicenseLimit {
            scope: LimitScope::Device,
            window_seconds: None,
            limit: 51,
            held: 51,
            requested: 1,
            held_kids: (0..51).map(kid).collect(),
            explained: None,
        };
        let Some(Refusal::PersistentLicenseLimit { held_kids, .. }) =
            Refusal::from_json(&refusal.to_json())
        else {
            panic!("not readable");
        };
        assert_eq!(held_kids, (0..50).map(kid).collect::<Vec<_>>());
    }
}
