//! The golden messages, seen by the device that they were made for. Conversations with a running
//! service are tested in `tests/it`.

use super::*;
use crate::clock::UnixMillis;
use crate::playready::content_key::ContentKey;
use crate::playready::soap::{Refusal, ResponseError};
use data_encoding::HEXLOWER;
use serde_json::Value;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
const RESPONSE: &[u8] = include_bytes!("../../tests/golden/response.xml");
const RESPONSE_PERSISTENT: &[u8] = include_bytes!("../../tests/golden/response_persistent.xml");
const NOW_MS: i64 = 1_700_000_000_000;

/// A device of the golden PKI in a folder of its own.
struct Lab {
    dir: tempfile::TempDir,
    clock: Clock,
}

impl Lab {
    fn new() -> Self {
        let lab =
            Self { dir: tempfile::tempdir().unwrap(), clock: Clock::manual(UnixMillis(NOW_MS)) };
        for name in ["golden", "golden-b"] {
            let folder = lab.device_dir(name);
            fs::create_dir_all(&folder).unwrap();
            for file in ["sign.pem", "encrypt.pem", "chain.bcert"] {
                fs::copy(format!("{GOLDEN}/pki/devices/{name}/{file}"), folder.join(file)).unwrap();
            }
        }
        for file in ["root.pub.pem", "wmrm.pub.pem"] {
            fs::copy(format!("{GOLDEN}/pki/{file}"), lab.dir.path().join(file)).unwrap();
        }
        lab
    }

    fn device_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join("devices").join(name)
    }

    fn device(&self, name: &str) -> Device {
        Device::open(&self.device_dir(name), None, self.clock.clone()).unwrap()
    }

    fn set_clock(&self, at_s: i64) {
        let Clock::Manual(at) = &self.clock else { panic!("not a manual clock") };
        at.store(at_s * 1_000, std::sync::atomic::Ordering::SeqCst);
    }
}

fn reply(body: &[u8]) -> Reply {
    Reply { status: 200, body: body.to_vec() }
}

/// The text between the first tags of this name, as it stands in a golden message.
fn text_of<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    let open = format!("<{name}>");
    message.split(&open).skip(1).map(|rest| rest.split('<').next().unwrap()).collect()
}

fn bytes16(base64: &str) -> [u8; 16] {
    data_encoding::BASE64.decode(base64.as_bytes()).unwrap().try_into().unwrap()
}

/// The golden request with this name, as if this device had made it.
fn challenge(file: &str) -> Challenge {
    let text = fs::read_to_string(format!("{GOLDEN}/{file}")).unwrap();
    let header = text.split("<WRMHEADER").nth(1).unwrap().split("</WRMHEADER>").next().unwrap();
    let attributes: Vec<_> =
        header.split("VALUE=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let kids = if attributes.is_empty() { text_of(header, "KID") } else { attributes };
    let keys =
        kids.into_iter().map(|kid| WantedKey { kid: Kid::from_wire(bytes16(kid)), checksum: None });
    let nonce = bytes16(text_of(&text, "LicenseNonce")[0]);
    let session = text_of(&text, "SessionID").first().map(|session| bytes16(session));
    Challenge {
        keys: keys.collect(),
        nonce,
        session: session.unwrap_or(nonce),
        cfg: None,
        bytes: text.into_bytes(),
    }
}

fn content_keys() -> Vec<(Kid, ContentKey)> {
    let vectors: Value =
        serde_json::from_str(include_str!("../../tests/golden/vectors.json")).unwrap();
    let hex = |value: &Value| HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap();
    let flow = &vectors["flow"];
    let kids = flow["kids"].as_array().unwrap().iter().map(|kid| kid.as_str().unwrap());
    let keys = flow["content_keys"].as_array().unwrap().iter().map(hex);
    kids.zip(keys)
        .map(|(kid, key)| {
            let kid = Kid::from(kid.parse::<Uuid>().unwrap());
            (kid, ContentKey::new(key.try_into().unwrap()))
        })
        .collect()
}

fn refusal<T>(outcome: Result<T, SimulatorError>) -> SimulatorError {
    outcome.err().expect("was accepted")
}

fn unacceptable<T>(outcome: Result<T, SimulatorError>) -> Unacceptable {
    match refusal(outcome) {
        SimulatorError::License { source, .. } => source,
        other => panic!("{other}"),
    }
}

#[test]
fn keeps_the_golden_licenses_and_plays_what_they_are_for() {
    let lab = Lab::new();
    let mut device = lab.device("golden");
    let challenge = challenge("request_session.xml");
    let answer = device.verify(&challenge, &reply(RESPONSE_PERSISTENT)).unwrap();
    assert!(answer.transaction_id.is_some());
    assert_eq!(answer.missing(&challenge), []);
    device.keep(&challenge, &answer).unwrap();
    drop(device);

    let mut device = lab.device("golden");
    let held = device.store().licenses();
    assert_eq!(held.len(), 2);
    assert!(held.iter().all(|license| license.session.0 == challenge.session));
    for (kid, key) in content_keys() {
        let sample = Sample::encrypt(&key, KeyType::AesCtr, [7; 16], b"a picture");
        assert_eq!(device.play(kid, &sample).unwrap(), b"a picture");
    }
}

#[test]
fn a_license_that_may_not_be_stored_is_gone_with_the_process() {
    let lab = Lab::new();
    let mut device = lab.device("golden");
    let challenge = challenge("request.xml");
    let answer = device.verify(&challenge, &reply(RESPONSE)).unwrap();
    device.keep(&challenge, &answer).unwrap();
    let kid = challenge.keys[0].kid;
    let sample = Sample { key_type: KeyType::AesCtr, iv: [0; 16], bytes: vec![1] };
    assert!(device.play(kid, &sample).is_ok());
    drop(device);
    assert!(matches!(
        lab.device("golden").play(kid, &sample),
        Err(SimulatorError::CannotPlay { because: Unplayable::NotHeld, .. })
    ));
}

#[test]
fn a_license_stops_playing_when_it_ends() {
    let lab = Lab::new();
    let mut device = lab.device("golden");
    let challenge = challenge("request.xml");
    let answer = device.verify(&challenge, &reply(RESPONSE)).unwrap();
    device.keep(&challenge, &answer).unwrap();
    let sample = Sample { key_type: KeyType::AesCtr, iv: [0; 16], bytes: vec![1] };
    let kid = challenge.keys[0].kid;
    lab.set_clock(1_700_003_599);
    assert!(device.play(kid, &sample).is_ok());
    lab.set_clock(1_700_003_600);
    assert!(device.play(kid, &sample).is_err());
    let late = device.verify(&challenge, &reply(RESPONSE));
    assert_eq!(unacceptable(late), Unacceptable::Ended(1_700_003_600));
}

#[test]
fn refuses_the_answer_to_another_challenge() {
    let device_of = Lab::new();
    let device = device_of.device("golden");
    let mut other = challenge("request.xml");
    other.nonce[0] ^= 1;
    let error = refusal(device.verify(&other, &reply(RESPONSE)));
    assert!(matches!(error, SimulatorError::Answer(ResponseError::NotOurs("LicenseNonce"))));
}

#[test]
fn refuses_keys_that_were_not_asked_for_or_are_not_the_header_s() {
    let lab = Lab::new();
    let device = lab.device("golden");
    let golden = challenge("request.xml");
    let kid = golden.keys[0].kid;
    let ask = |keys| Challenge { keys, ..golden.clone() };
    let none = device.verify(&ask(Vec::new()), &reply(RESPONSE));
    assert_eq!(unacceptable(none), Unacceptable::NotAsked(kid));
    let wrong = WantedKey { kid, checksum: Some([0; 8]) };
    let wrong = device.verify(&ask(vec![wrong]), &reply(RESPONSE));
    assert_eq!(unacceptable(wrong), Unacceptable::Checksum(kid));
    let right = device.verify(&golden, &reply(RESPONSE)).unwrap();
    let checksum = right.licenses[0].opened.content_key.checksum(kid);
    let right = WantedKey { kid, checksum: Some(checksum) };
    let confirmed = device.verify(&ask(vec![right]), &reply(RESPONSE)).unwrap();
    assert!(confirmed.licenses[0].key_confirmed);
}

#[test]
fn refuses_a_license_of_another_device() {
    let lab = Lab::new();
    let device = lab.device("golden-b");
    let outcome = device.verify(&challenge("request.xml"), &reply(RESPONSE));
    let expected = crate::playready::xmr::OpenError::OtherDevice;
    assert_eq!(unacceptable(outcome), Unacceptable::Open(expected));
}

#[test]
fn no_changed_byte_of_a_signed_answer_is_accepted() {
    let lab = Lab::new();
    let device = lab.device("golden");
    let challenge = challenge("request.xml");
    let start = RESPONSE.windows(16).position(|w| w == b"<LicenseResponse").unwrap();
    let end = RESPONSE.windows(11).position(|w| w == b"</Signature").unwrap();
    for at in (start..end).step_by(7) {
        let mut changed = RESPONSE.to_vec();
        changed[at] ^= 1;
        assert!(device.verify(&challenge, &reply(&changed)).is_err(), "accepted byte {at}");
    }
}

#[test]
fn a_device_of_another_infrastructure_is_not_believed() {
    let lab = Lab::new();
    let other = tempfile::tempdir().unwrap();
    let stranger = PrivateKey::generate();
    for file in ["root.pub.pem", "wmrm.pub.pem"] {
        fs::write(other.path().join(file), stranger.public().to_pem()).unwrap();
    }
    let dir = lab.device_dir("golden");
    let refused = Device::open(&dir, Some(other.path()), lab.clock.clone());
    assert!(matches!(refused.err(), Some(SimulatorError::OtherPki { .. })));
    assert!(Device::open(&dir, Some(lab.dir.path()), lab.clock.clone()).is_ok());
}

#[test]
fn a_refusal_keeps_its_code_and_its_reason() {
    let lab = Lab::new();
    let device = lab.device("golden");
    let body = include_bytes!("../../tests/golden/fault_persistent_limit.xml").to_vec();
    let fault = Reply { status: 500, body };
    let error = refusal(device.verify(&challenge("request.xml"), &fault));
    let SimulatorError::Refused(fault) = error else { panic!("{error}") };
    assert!(matches!(fault.refusal(), Some(Refusal::PersistentLicenseLimit { limit: 2, .. })));
}

#[test]
fn a_deletion_that_was_not_answered_is_told_again() {
    let lab = Lab::new();
    let mut device = lab.device("golden");
    let challenge = challenge("request_session.xml");
    let answer = device.verify(&challenge, &reply(RESPONSE_PERSISTENT)).unwrap();
    device.keep(&challenge, &answer).unwrap();
    // Nobody listens there: the port was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = Endpoint::new(&format!("http://{free}"), None).unwrap();
    let deletions = device.delete(&nobody, Which::Session(challenge.session)).unwrap();
    assert!(matches!(deletions[0].outcome, Err(SimulatorError::Transport { .. })));
    assert_eq!(device.store().licenses(), []);
    drop(device);

    let mut device = lab.device("golden");
    let again = device.report_deletions(&nobody).unwrap();
    assert_eq!(again[0].record, deletions[0].record);
    assert_eq!(again[0].record.kids.len(), 2);
    let nothing = device.delete(&nobody, Which::Session(challenge.session));
    assert!(matches!(nothing.err(), Some(SimulatorError::NotHeld { .. })));
}

#[test]
fn a_header_below_4_2_names_one_kid() {
    let lab = Lab::new();
    let device = lab.device("golden");
    let two = Wanted {
        keys: challenge("request_session.xml").keys,
        ..Wanted::one(Kid::from(Uuid::nil()))
    };
    for version in [HeaderVersion::V4_0, HeaderVersion::V4_1] {
        let wanted = Wanted { header_version: version, ..two.clone() };
        let refused = device.challenge(&wanted);
        assert!(matches!(refused.err(), Some(SimulatorError::TooManyKids { .. })));
    }
    assert!(device.challenge(&Wanted { header_version: HeaderVersion::V4_2, ..two }).is_ok());
}
