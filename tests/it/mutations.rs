//! Golden requests, cut and mutated: nothing panics, and nothing is believed that was not signed.

use data_encoding::BASE64;
use license_ledger::licensing::{Licensing, Posted};

use crate::device::PERSISTENT;
use crate::service::{Setup, TestService, block_on, golden, golden_flow};

/// Mutations of each message; `LICENSE_LEDGER_TEST_MUTATIONS` sets another number.
const MUTATIONS: u64 = 5_000;
/// Of which so many go through HTTP as well.
const OVER_HTTP: usize = 100;

/// Fragments that parsers trip over.
const TOKENS: [&str; 20] = [
    "<!DOCTYPE x>",
    "<![CDATA[",
    "]]>",
    "<!--",
    "-->",
    "<?xml?>",
    "&#0;",
    "&#x26;",
    "&amp;",
    "&x;",
    "<LA Id=\"SignedData\">",
    "</LA>",
    " Id=\"SignedData\"",
    " xmlns=\"\"",
    "<Signature>",
    "\u{0}",
    "\u{feff}",
    "/>",
    "<x:y/>",
    "'",
];

/// A small generator of numbers: the same seed gives the same mutations.
pub struct Rng(pub u64);

impl Rng {
    /// The next number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }
}

/// A changed copy of a message, by one to three changes.
fn mutate(message: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = message.to_vec();
    for _ in 0..=rng.below(3) {
        let at = rng.below(bytes.len());
        let end = (at + 1 + rng.below(40)).min(bytes.len());
        match rng.below(8) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.byte(),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                let to = rng.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            4 => drop(bytes.splice(at..at, TOKENS[rng.below(TOKENS.len())].bytes())),
            5 => {
                let other = rng.below(bytes.len());
                bytes.swap(at, other);
            }
            6 => bytes[at..end].reverse(),
            _ => bytes[at] = b"+/=AZaz09 <>\"'&"[rng.below(15)],
        }
        if bytes.is_empty() {
            bytes.push(b'<');
        }
    }
    bytes
}

/// What a signature stands for: the signed bytes, SignedInfo, signature and key.
fn believed(message: &[u8], element: &str) -> Option<[Vec<u8>; 4]> {
    let binary = |name| {
        let element = between(message, name)?;
        let start = element.iter().position(|byte| *byte == b'>')? + 1;
        let end = element.len() - name.len() - 3;
        let text = element.get(start..end)?.iter().copied();
        BASE64.decode(&text.filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<_>>()).ok()
    };
    let signed = between(message, element)?.to_vec();
    let info = between(message, "SignedInfo")?.to_vec();
    Some([signed, info, binary("SignatureValue")?, binary("PublicKey")?])
}

/// The bytes from an element's start tag to its end tag.
fn between<'m>(message: &'m [u8], name: &str) -> Option<&'m [u8]> {
    let (start, end) = (format!("<{name}"), format!("</{name}>"));
    let find = |what: &str| message.windows(what.len()).position(|at| at == what.as_bytes());
    message.get(find(&start)?..find(&end)? + end.len())
}

/// Puts a message through `verify` and, if it is believed, `answer`. Tells whether it was.
fn put(licensing: &Licensing, message: &[u8]) -> bool {
    let query = format!("cfg=(persist:true,tid:{})", transaction());
    match licensing.verify(message) {
        Ok(verified) => {
            block_on(licensing.answer(verified, Posted { query: &query, ..Posted::default() }));
            true
        }
        Err(reply) => {
            assert!(reply.is_fault);
            false
        }
    }
}

fn transaction() -> String {
    golden_flow()["transaction_id"].as_str().unwrap().to_owned()
}

/// A service on which the golden flow went so far that `message` would take effect.
fn service_before(message: &str) -> TestService {
    let service = Setup::golden().start();
    if !message.starts_with("request") {
        assert!(put(&service.inner().licensing, &golden("request_session.xml")));
    }
    service
}

/// What `message` alone does: the kinds of events it leaves.
fn effect_of(message: &str) -> Vec<String> {
    let service = service_before(message);
    let before = service.event_count();
    put(&service.inner().licensing, &golden(message));
    service.kinds_from(before)
}

fn mutations() -> u64 {
    let count = std::env::var("LICENSE_LEDGER_TEST_MUTATIONS");
    count.map_or(MUTATIONS, |count| count.parse().unwrap())
}

fn no_cut_is_believed(service: &TestService, message: &[u8]) {
    let before = service.event_count();
    for end in 0..message.len() {
        let cut = &message[..end];
        assert!(service.inner().licensing.verify(cut).is_err(), "believed a cut at byte {end}");
    }
    assert_eq!(service.event_count(), before, "a truncated message left an event");
}

fn stays_unbelieved(message: &str, element: &str) {
    let original = golden(message);
    let service = service_before(message);
    let before = service.event_count();
    let licensing = &service.inner().licensing;
    no_cut_is_believed(&service, &original);

    let meant = believed(&original, element).unwrap();
    let mut harmless = 0;
    for seed in 0..mutations() {
        let mutated = mutate(&original, &mut Rng(seed));
        let events = service.event_count();
        let taken = put(licensing, &mutated);
        harmless += usize::from(taken);
        if believed(&mutated, element).as_ref() != Some(&meant) {
            assert!(!taken, "mutation {seed} of {message} was believed");
        }
        assert!(taken || service.event_count() == events, "mutation {seed} left an event");
    }
    // Those that changed nothing that counts did, together, what the original does at most.
    assert!(harmless > 0, "no mutation was harmless: they do not reach all of the message");
    let kinds = service.kinds_from(before);
    assert!(kinds.is_empty() || kinds == effect_of(message), "{kinds:?}");

    for seed in 0..OVER_HTTP as u64 {
        let mutated = mutate(&original, &mut Rng(seed << 32));
        let answer = service.client.challenge(&mutated, PERSISTENT);
        assert_eq!(answer.status, if answer.is_fault() { 500 } else { 200 }, "{}", answer.text());
    }
    let kinds = service.kinds_from(before);
    assert!(kinds.is_empty() || kinds == effect_of(message), "{kinds:?}");
}

#[test]
fn a_mutated_request_is_not_believed() {
    stays_unbelieved("request.xml", "LA");
}

#[test]
fn a_mutated_request_with_a_session_is_not_believed() {
    stays_unbelieved("request_session.xml", "LA");
}

#[test]
fn a_mutated_acknowledgement_is_not_believed() {
    stays_unbelieved("ack_request.xml", "LicenseAcknowledgement");
}

#[test]
fn a_mutated_deletion_is_not_believed() {
    stays_unbelieved("delete_request.xml", "DeleteLicenseData");
}

#[test]
fn a_mutated_foreign_deletion_is_not_believed() {
    stays_unbelieved("delete_request_other_device.xml", "DeleteLicenseData");
}

/// A forgery stays one, unless a mutation happens to take back what was changed of `genuine`.
fn stays_refused(forged: &str, genuine: Option<&str>, element: &str) {
    let original = golden(forged);
    let meant = genuine.and_then(|genuine| believed(&golden(genuine), element));
    let restored = |message: &[u8]| meant.is_some() && believed(message, element) == meant;
    assert!(!restored(&original), "{forged} is not told from what it was made of");
    let service = service_before(forged);
    no_cut_is_believed(&service, &original);
    for seed in 0..mutations() {
        let mutated = mutate(&original, &mut Rng(seed));
        let events = service.event_count();
        let taken = put(&service.inner().licensing, &mutated);
        assert!(!taken || restored(&mutated), "mutation {seed} of {forged} was believed");
        assert!(taken || service.event_count() == events, "mutation {seed} left an event");
    }
}

#[test]
fn a_tampered_request_stays_refused_however_it_is_mutated() {
    stays_refused("request_tampered.xml", Some("request.xml"), "LA");
}

#[test]
fn a_wrapped_request_stays_refused_however_it_is_mutated() {
    stays_refused("request_wrapped.xml", None, "LA");
}

#[test]
fn a_tampered_deletion_stays_refused_however_it_is_mutated() {
    stays_refused("delete_request_tampered.xml", Some("delete_request.xml"), "DeleteLicenseData");
}
