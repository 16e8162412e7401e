use serde::Deserialize;
use serde_json::Value;

use super::*;

const GOLDEN: &str = include_str!("../../../tests/golden/headers.json");
const VECTORS: &str = include_str!("../../../tests/golden/vectors.json");

#[derive(Deserialize)]
struct Headers {
    valid: Vec<Valid>,
    reject: Vec<Reject>,
}

#[derive(Deserialize)]
struct Valid {
    name: String,
    version: String,
    xml: String,
    kids: Vec<Key>,
    la_url: Option<String>,
    lui_url: Option<String>,
    ds_id: Option<String>,
    decryptor_setup: Option<String>,
    license_requested: Option<bool>,
    pro_b64: String,
    pssh_v0_b64: String,
    pssh_v1_b64: Option<String>,
}

#[derive(Deserialize)]
struct Key {
    kid: String,
    algid: Option<String>,
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct Reject {
    why: String,
    pro_b64: String,
}

fn golden() -> Headers {
    serde_json::from_str(GOLDEN).unwrap()
}

fn bytes(base64: &str) -> Vec<u8> {
    BASE64.decode(base64.as_bytes()).unwrap()
}

#[test]
fn every_golden_header_is_read() {
    for row in golden().valid {
        let header = Header::parse(&row.xml).unwrap();
        assert_eq!(header.version.text(), row.version, "{}", row.name);
        let keys: Vec<_> = header
            .keys
            .iter()
            .map(|key| {
                let checksum = key.checksum.as_deref().map(|bytes| BASE64.encode(bytes));
                (key.kid.to_string(), key.algid.map(AlgId::text), checksum)
            })
            .collect();
        let expected: Vec<_> = row
            .kids
            .iter()
            .map(|key| (key.kid.clone(), key.algid.as_deref(), key.checksum.clone()))
            .collect();
        assert_eq!(keys, expected, "{}", row.name);
        assert_eq!(header.la_url, row.la_url, "{}", row.name);
        assert_eq!(header.lui_url, row.lui_url, "{}", row.name);
        assert_eq!(header.ds_id.map(|id| BASE64.encode(&id)), row.ds_id, "{}", row.name);
        assert_eq!(header.decryptor_setup, row.decryptor_setup, "{}", row.name);
        assert_eq!(header.license_requested, row.license_requested, "{}", row.name);
    }
}

#[test]
fn every_canonical_golden_header_is_written_byte_for_byte() {
    for row in golden().valid {
        let header = Header::parse(&row.xml).unwrap();
        // The one row that is deliberately not canonical.
        let canonical = row.xml.replace(
            "<ALGID>COCKTAIL</ALGID><KEYLEN>7</KEYLEN>",
            "<KEYLEN>7</KEYLEN><ALGID>COCKTAIL</ALGID>",
        );
        assert_eq!(header.to_xml(), canonical, "{}", row.name);
    }
}

#[test]
fn objects_and_boxes_match_their_goldens() {
    for row in golden().valid {
        let object = Object { header_xml: row.xml.clone(), license_store: None };
        let encoded = object.encode().unwrap();
        assert_eq!(encoded, bytes(&row.pro_b64), "{}", row.name);
        assert_eq!(Object::decode(&encoded).unwrap(), object);

        let v0 = Pssh { kids: None, object: object.clone() };
        assert_eq!(v0.encode().unwrap(), bytes(&row.pssh_v0_b64), "{}", row.name);
        assert_eq!(Pssh::decode(&bytes(&row.pssh_v0_b64)).unwrap(), v0);

        let Some(golden_v1) = row.pssh_v1_b64.map(|text| bytes(&text)) else {
            continue;
        };
        let kids = object.header().unwrap().keys.iter().map(|key| key.kid).collect();
        let v1 = Pssh { kids: Some(kids), object };
        assert_eq!(v1.encode().unwrap(), golden_v1, "{}", row.name);
        assert_eq!(Pssh::decode(&golden_v1).unwrap(), v1);
    }
}

#[test]
fn the_header_of_the_vectors_agrees() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let text = |name: &str| vectors["header"][name].as_str().unwrap().to_owned();
    let hex = |name| data_encoding::HEXLOWER.decode(text(name).as_bytes()).unwrap();
    let object = Object::new(&Header::parse(&text("xml")).unwrap());
    assert_eq!(object.header_xml, text("xml"));
    assert_eq!(object.encode().unwrap(), hex("pro"));
    assert_eq!(Pssh { kids: None, object }.encode().unwrap(), hex("pssh"));
}

#[test]
fn every_golden_reject_is_refused() {
    for row in golden().reject {
        assert!(Object::decode(&bytes(&row.pro_b64)).is_err(), "accepted: {}", row.why);
    }
}

#[test]
fn every_truncation_of_a_box_and_its_object_is_refused() {
    for row in golden().valid {
        for (whole, what) in [(row.pssh_v0_b64, "box"), (row.pro_b64, "object")] {
            let whole = bytes(&whole);
            for end in 0..whole.len() {
                let cut = &whole[..end];
                let refused = match what {
                    "box" => Pssh::decode(cut).is_err(),
                    _ => Object::decode(cut).is_err(),
                };
                assert!(refused, "accepted a {what} cut at byte {end}");
            }
        }
    }
}

#[test]
fn refuses_other_boxes_systems_versions_and_counts() {
    let row = golden().valid.into_iter().find(|row| row.pssh_v1_b64.is_some()).unwrap();
    let good = bytes(&row.pssh_v1_b64.unwrap());
    assert!(Pssh::decode(&good).is_ok());
    for (offset, value) in [(3, 0xff), (4, b'x'), (8, 2), (11, 1), (12, 0), (28, 0xff), (31, 9)] {
        let mut bad = good.clone();
        bad[offset] = value;
        assert!(Pssh::decode(&bad).is_err(), "accepted {value:#x} at {offset}");
    }
}

#[test]
fn an_embedded_license_store_survives() {
    let header = Header::new(HeaderVersion::V4_1, Vec::new());
    let object = Object { license_store: Some(vec![7; 10_240]), ..Object::new(&header) };
    assert_eq!(Object::decode(&object.encode().unwrap()).unwrap(), object);
    let too_large = Object { license_store: Some(vec![7; 15_360]), ..object };
    assert!(matches!(too_large.encode(), Err(ObjectError::TooLarge)));
}

#[test]
fn reads_leniently_what_published_samples_do() {
    let text = format!(
        "<p:WRMHEADER version='4.2.0.0' xmlns:p='{HEADER_NAMESPACE}'><p:DATA><p:NEW/>\
         <p:LA_URL> https://a/?b&amp;c </p:LA_URL><p:PROTECTINFO><p:KIDS>\
         <p:KID VALUE='Z0UjAauJ780BI0VniavN7w==' CHECKSUM='?' ALGID='AESCTR'/>\
         </p:KIDS></p:PROTECTINFO></p:DATA></p:WRMHEADER>"
    );
    let header = Header::parse(&text).unwrap();
    assert_eq!(header.la_url.as_deref(), Some("https://a/?b&c"));
    assert_eq!(header.keys[0].algid, Some(AlgId::AesCtr));
    assert_eq!(header.keys[0].checksum, None);
}

#[test]
fn refuses_a_second_kid_in_41_and_an_unknown_algorithm() {
    let key = "<KID ALGID=\"AESCTR\" VALUE=\"Z0UjAauJ780BI0VniavN7w==\"></KID>";
    let text = |keys: &str| {
        format!(
            "<WRMHEADER xmlns=\"{HEADER_NAMESPACE}\" version=\"4.1.0.0\"><DATA><PROTECTINFO>{keys}\
             </PROTECTINFO></DATA></WRMHEADER>"
        )
    };
    assert!(Header::parse(&text(key)).is_ok());
    assert!(Header::parse(&text(&key.repeat(2))).is_err());
    assert!(Header::parse(&text(&key.replace("AESCTR", "ROT13"))).is_err());
}
