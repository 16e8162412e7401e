//! What licenses and refusals say, in words.

use data_encoding::BASE64;
use uuid::Uuid;

use crate::clock::UnixMillis;
use crate::playready::policy::{BinaryId, LicensePolicy, OutputProtection, published};
use crate::playready::soap::{FaultCode, FaultReply, LimitScope, Refusal};
use crate::simulator::Term;

/// A refusal, and what to do about it.
pub struct Explanation {
    /// What the server means.
    pub meaning: String,
    /// What helps.
    pub remedy: String,
}

/// The conditions of a license in one line.
pub fn policy(policy: &LicensePolicy) -> String {
    let mut words = vec![
        if policy.persist { "may be stored" } else { "not to be stored" }.to_owned(),
        format!("security level {} or higher", u16::from(policy.sl)),
    ];
    words.extend(policy.begin.map(|at| format!("from {}", time(at.into()))));
    words.extend(policy.end.map(|at| format!("until {}", time(at.into()))));
    words.extend(policy.grace_seconds.map(|s| format!("and {s} seconds of grace")));
    words.extend(policy.first_play_seconds.map(|s| format!("for {s} seconds from the first play")));
    words.extend(policy.real_time.then(|| "playback stops at the end".to_owned()));
    words.extend(policy.removal.map(|at| format!("to be removed at {}", time(at.into()))));
    words.extend(policy.source_id.map(|id| format!("source {id}")));
    let id = |BinaryId(id): BinaryId| BASE64.encode(&id);
    words.extend(policy.metering_id.map(|metering| format!("metered for {}", id(metering))));
    words.extend(policy.secure_stop_id.map(|stop| format!("secure stop for {}", id(stop))));
    words.extend(policy.domain.map(|domain| format!("for domain revision {}", domain.revision)));
    let levels = [
        ("compressed video", policy.cvopl),
        ("uncompressed video", policy.ucvopl),
        ("analog video", policy.avopl),
        ("compressed audio", policy.caopl),
        ("uncompressed audio", policy.ucaopl),
    ];
    let stated = levels.into_iter().filter(|(_, level)| *level != 0);
    words.extend(stated.map(|(what, level)| format!("{what} protection {level}")));
    for (what, protections) in [
        ("digital video", &policy.dvop),
        ("digital audio", &policy.daop),
        ("analog video", &policy.avop),
    ] {
        words.extend(protections.iter().map(|one| format!("{what}: {}", protection(one))));
    }
    words.extend(policy.play_enablers.iter().map(|id| format!("also on {}", called(*id))));
    words.extend(policy.extended_restrictions.iter().map(|one| {
        let must = if one.must_understand { ", which must be understood" } else { "" };
        format!("extended restriction {}{must}", one.kind)
    }));
    words.join(", ")
}

/// An explicit output protection: its name, and its configuration as far as that is published.
fn protection(one: &OutputProtection) -> String {
    let name = called(one.id);
    let data = one.data.0.as_slice();
    let number = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
    let configured = match one.id {
        published::HDCP_TYPE => number(data).map(|kind| kind.to_string()),
        published::AGC_AND_COLOR_STRIPE => {
            data.try_into().ok().map(u32::from_le_bytes).map(|mode| mode.to_string())
        }
        published::MAXIMUM_RESOLUTION => data
            .split_at_checked(4)
            .and_then(|(height, width)| Some(format!("{}x{}", number(width)?, number(height)?))),
        _ => None,
    };
    match configured {
        Some(text) => format!("{name} {text}"),
        None if data.is_empty() => name,
        None => format!("{name} with {}", BASE64.encode(data)),
    }
}

fn called(id: Uuid) -> String {
    published::name(id).map_or_else(|| id.to_string(), str::to_owned)
}

/// Until when a license plays.
pub fn term(term: &Term) -> String {
    match (term.stops_at, term.valid_until) {
        (Some(stop), _) => format!("until {}, and then stops", time(stop)),
        (None, Some(end)) => format!("if begun before {}", time(end)),
        (None, None) => "without end".to_owned(),
    }
}

/// Unix seconds as RFC 3339 text.
pub fn time(at_s: u64) -> String {
    let at_ms = i64::try_from(at_s).unwrap_or(i64::MAX).saturating_mul(1000);
    UnixMillis(at_ms).to_rfc3339().replace(".000Z", "Z")
}

/// What a fault means, and what to do.
pub fn fault(fault: &FaultReply) -> Explanation {
    let (meaning, remedy) = match fault.refusal() {
        Some(refusal) => refused(refusal),
        None => code(fault.code),
    };
    Explanation { meaning, remedy }
}

fn refused(refusal: Refusal) -> (String, String) {
    let (meaning, remedy) = match refusal {
        Refusal::PersistentLicenseLimit { .. } => return limit(refusal),
        Refusal::KeyUnknown { kids } => {
            let kids: Vec<_> = kids.iter().map(ToString::to_string).collect();
            let meaning = format!("the server has no content key for {}", kids.join(", "));
            return (meaning, "register it there with `keys import` or `keys seed`".to_owned());
        }
        Refusal::SecurityLevel { required, device } => {
            let meaning =
                format!("the license needs security level {required}, the device has {device}");
            return (meaning, "ask with a device of a higher level".to_owned());
        }
        Refusal::ClockSkew { server_time } => {
            let server_time = UnixMillis(i64::try_from(server_time).unwrap_or(i64::MAX / 1000));
            let at = UnixMillis(server_time.0.saturating_mul(1000));
            let meaning = format!("the device's clock is too far off; the server has {at}");
            return (meaning, "set the clock of this machine".to_owned());
        }
        Refusal::InvalidCfg { detail } => {
            let meaning = format!("the policy string cannot be read: {detail}");
            return (meaning, "correct --cfg".to_owned());
        }
        Refusal::InvalidPolicy { detail } => {
            let meaning = format!("the policy breaks the rule {detail}");
            return (
                meaning,
                "correct --cfg; section 11 of the protocol page has the rules".into(),
            );
        }
        Refusal::NoKid => ("the header names no KID", "name one with --kid"),
        Refusal::NotEntitled { reason } => {
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            let meaning = format!("the service does not authorize this device{reason}");
            return (meaning, "ask the service for the license, or for a new token".to_owned());
        }
        Refusal::TryLater => (
            "the server could not find out whether the device is authorized",
            "ask again in a while",
        ),
        Refusal::AescbcUnsupported => {
            ("the key is for AES-CBC, which the device does not handle", "ask for another KID")
        }
        Refusal::RealtimeUnsupported => {
            ("the device does not handle real-time expiration", "leave it out of --cfg")
        }
        Refusal::UnsupportedRight => ("only the right to play is issued", "correct --cfg"),
        Refusal::UnsupportedKeyType => {
            ("keys of this type are not issued", "ask for a key for AES-CTR or AES-CBC")
        }
        Refusal::ClientInfo(_) => {
            ("--cfg asked what the server knows of the device", "see the custom data")
        }
        Refusal::ChallengeSpent => {
            ("this challenge was answered before and is spent", "ask again with a new one")
        }
        Refusal::UnknownSession => (
            "the server knows no such session of this device",
            "check that the licenses came from this server and this device",
        ),
        Refusal::UnknownTransaction => (
            "the server knows no such transaction of this device",
            "check that the licenses came from this server and this device",
        ),
    };
    (meaning.to_owned(), remedy.to_owned())
}

/// [`Refusal::PersistentLicenseLimit`].
fn limit(refusal: Refusal) -> (String, String) {
    let Refusal::PersistentLicenseLimit {
        scope,
        limit,
        held,
        requested,
        held_kids,
        window_seconds,
        ..
    } = refusal
    else {
        return (refusal.to_json(), String::new());
    };
    let holder = match scope {
        LimitScope::Device => "the device",
        LimitScope::Account => "the account",
        LimitScope::AccountTitle => "the account has this title on its devices and",
    };
    let window =
        window_seconds.map(|seconds| format!(" within {seconds} seconds")).unwrap_or_default();
    let meaning = format!(
        "{holder} holds {held} of {limit} persistent licenses{window}, and {requested} more would \
         be too many"
    );
    let example = held_kids.first().map(|kid| format!(", for example --kid {kid}"));
    (meaning, format!("delete one with `device delete`{}", example.unwrap_or_default()))
}

fn code(code: FaultCode) -> (String, String) {
    let (meaning, remedy) = match code {
        FaultCode::DeviceRevoked => {
            ("the device's certificate is revoked", "take a device that is not")
        }
        FaultCode::Internal => (
            "the server could not do it at the moment",
            "try again; the same challenge is counted once",
        ),
        FaultCode::InvalidMessage => (
            "the server does not accept the message",
            "check that device and server belong to one PKI; the server's log says more",
        ),
        FaultCode::DeviceLimit => ("the account's domain is full", "remove a device from it"),
        FaultCode::ServiceSpecific => {
            ("the service has a reason of its own", "see the custom data")
        }
        FaultCode::DomainRequired => ("the device must join a domain", "join it first"),
        FaultCode::RenewDomain => ("the domain was renewed", "join it again"),
        FaultCode::NotAMember => ("the device is not in the domain", "join it first"),
        FaultCode::ProtocolVersion => {
            ("the server does not speak this version", "take another --header-version")
        }
        FaultCode::UnknownAccount => ("the account is not known", "check the account"),
        FaultCode::Redirect => ("the service has moved", "ask its operator for the new URL"),
        FaultCode::Other(_) => ("the code has no published meaning", "ask the server's operator"),
    };
    (meaning.to_owned(), remedy.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playready::kid::Kid;
    use crate::playready::policy::SecurityLevel;

    #[test]
    fn a_policy_reads_as_a_sentence() {
        let mut license = LicensePolicy::new(SecurityLevel::Software);
        assert_eq!(policy(&license), "not to be stored, security level 2000 or higher");
        license.persist = true;
        license.end = Some(1_700_000_000);
        license.grace_seconds = Some(60);
        license.ucvopl = 270;
        assert_eq!(
            policy(&license),
            "may be stored, security level 2000 or higher, until 2023-11-14T22:13:20Z, \
             and 60 seconds of grace, uncompressed video protection 270"
        );
    }

    #[test]
    fn output_protections_are_called_by_their_published_names() {
        let said = |cfg: &str| {
            let groups = crate::playready::policy::cfg::from_cfg(cfg).ok().unwrap();
            let words = policy(&groups[0].policy(None).unwrap());
            words
                .strip_prefix("not to be stored, security level 150 or higher, ")
                .unwrap()
                .to_owned()
        };
        assert_eq!(said("(maxres:1920x1080)"), "digital video: maximum resolution 1920x1080");
        assert_eq!(said("(explicitacp:2)"), "analog video: AGC and color stripe 2");
        assert_eq!(said("(allowunknownhd:true)"), "also on unknown outputs");
        let hdcp = "(dvop:(guid:abb2c6f1-e663-4625-a945-972d17b231e7,data:AAAAAQ==))";
        assert_eq!(said(hdcp), "digital video: HDCP type 1");
        let other = "00000000-0000-0000-0000-000000000001";
        let unknown = said(&format!("(daop:(guid:{other},data:AQI=),sourceid:7)"));
        assert_eq!(unknown, format!("source 7, digital audio: {other} with AQI="));
        let restricted = said("(extendedrestrictions:(type:400))");
        assert_eq!(restricted, "extended restriction 400, which must be understood");
    }

    #[test]
    fn a_full_device_learns_what_it_holds_and_what_to_delete() {
        let kid = Kid::from(uuid::Uuid::from_u128(1));
        let refusal = Refusal::PersistentLicenseLimit {
            scope: LimitScope::Device,
            window_seconds: None,
            limit: 5,
            held: 5,
            requested: 1,
            held_kids: vec![kid],
            explained: None,
        };
        let reply =
            FaultReply { code: FaultCode::ServiceSpecific, custom_data: Some(refusal.to_json()) };
        let Explanation { meaning, remedy } = fault(&reply);
        assert!(meaning.starts_with("the device holds 5 of 5 persistent licenses"), "{meaning}");
        assert!(remedy.contains(&format!("--kid {kid}")), "{remedy}");
    }

    #[test]
    fn custom_data_of_others_is_left_to_the_reader() {
        let reply =
            FaultReply { code: FaultCode::ServiceSpecific, custom_data: Some("hello".to_owned()) };
        assert_eq!(fault(&reply).remedy, "see the custom data");
    }
}
