use serde_json::Value;
use zeroize::Zeroizing;

use super::*;

const KID: Uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
const KEY: &[u8] = b"4fede627cf0376ea335b031cbdc160e2";

fn key() -> ContentKey {
    let bytes = data_encoding::HEXLOWER.decode(KEY).unwrap();
    Zeroizing::new(bytes.try_into().unwrap())
}

fn goldens() -> Vec<Value> {
    let goldens = include_str!("../../../tests/golden/headers.json");
    let goldens: Value = serde_json::from_str(goldens).unwrap();
    goldens["valid"].as_array().unwrap().clone()
}

#[test]
fn headers_objects_and_boxes_are_those_of_the_vectors() {
    let golden = goldens().into_iter().next().unwrap();
    let url = golden["la_url"].as_str().unwrap();
    let headers = Headers::new(&[(KID, Some(&key()))], Scheme::Cenc, Some(url)).unwrap();
    let versions: Vec<_> = headers.headers.iter().map(|forms| forms.version).collect();
    assert_eq!(versions, ["4.0.0.0", "4.1.0.0", "4.2.0.0", "4.3.0.0"]);
    let first = &headers.headers[0];
    assert_eq!(first.wrmheader, golden["xml"]);
    assert_eq!(first.pro, golden["pro_b64"]);
    assert_eq!(first.pssh, golden["pssh_v0_b64"]);
    assert_eq!(first.pssh_v1, golden["pssh_v1_b64"]);
    assert_eq!(headers.system_id, "9a04f079-9840-4286-ab92-e65be0885f95");
    assert_eq!(headers.key_ids, [KID.to_string()]);
}

#[test]
fn only_versions_that_can_hold_the_keys_are_made() {
    let versions = |count: u128, scheme| {
        let keys: Vec<_> = (1..=count).map(|n| (Uuid::from_u128(n), None)).collect();
        let headers = Headers::new(&keys, scheme, None).unwrap().headers;
        headers.iter().map(|forms| forms.version).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(versions(1, Scheme::Cenc), "4.0.0.0 4.1.0.0 4.2.0.0 4.3.0.0");
    assert_eq!(versions(2, Scheme::Cenc), "4.2.0.0 4.3.0.0");
    assert_eq!(versions(1, Scheme::Cbcs), "4.3.0.0");
    assert_eq!(versions(100, Scheme::Cbcs), "4.3.0.0");
    let many: Vec<_> = (1..=1_000).map(|n| (Uuid::from_u128(n), None)).collect();
    assert!(Headers::new(&many, Scheme::Cenc, None).is_err());
}

#[test]
fn every_form_reads_back_as_the_same_keys_in_the_byte_order_of_its_format() {
    let second = Uuid::from_u128(0xfedc_ba98_7654_3210_fedc_ba98_7654_3210);
    let key = key();
    let keys = [(KID, Some(&key)), (second, None)];
    for scheme in [Scheme::Cenc, Scheme::Cbcs] {
        for forms in Headers::new(&keys, scheme, None).unwrap().headers {
            let header = Header::parse(&forms.wrmheader).unwrap();
            let kids: Vec<_> = header.keys.iter().map(|key| key.kid.guid()).collect();
            assert_eq!(kids, [KID, second]);
            assert!(forms.wrmheader.contains("Z0UjAauJ780BI0VniavN7w=="), "little-endian");
            assert_eq!(header.keys[0].checksum.is_some(), scheme == Scheme::Cenc);
            let decode = |text: &str| BASE64.decode(text.as_bytes()).unwrap();
            let object = Object::decode(&decode(&forms.pro)).unwrap();
            assert_eq!(object.header_xml, forms.wrmheader);
            let v0 = Pssh::decode(&decode(&forms.pssh)).unwrap();
            let v1 = decode(&forms.pssh_v1);
            assert_eq!((v0.kids, v0.object), (None, object));
            assert_eq!(&v1[32..48], KID.as_bytes(), "big-endian");
            let kids = Pssh::decode(&v1).unwrap().kids.unwrap();
            assert_eq!(kids, [Kid::from(KID), Kid::from(second)]);
        }
    }
}

#[test]
fn playready_is_signaled_for_each_format() {
    let key = key();
    let signaling = |scheme| {
        Signaling::new(System::PlayReady, (KID, Some(&key)), scheme, Some("https://l.example/?a&b"))
            .unwrap()
    };
    let cenc = signaling(Scheme::Cenc);
    let pssh = BASE64.encode(&cenc.pssh);
    let playready = cenc.playready.unwrap();
    let pro = &playready.smooth_streaming;
    assert_eq!(
        cenc.content_protection,
        format!(
            "<cenc:pssh xmlns:cenc=\"urn:mpeg:cenc:2013\">{pssh}</cenc:pssh>\
             <mspr:pro xmlns:mspr=\"urn:microsoft:playready\">{pro}</mspr:pro>"
        )
    );
    assert_eq!(
        playready.hls_attributes,
        format!(
            "METHOD=SAMPLE-AES-CTR,URI=\"data:text/plain;charset=UTF-16;base64,{pro}\",\
             KEYFORMAT=\"com.microsoft.playready\",KEYFORMATVERSIONS=\"1\""
        )
    );
    let object = Object::decode(&BASE64.decode(pro.as_bytes()).unwrap()).unwrap();
    let header = object.header().unwrap();
    assert_eq!(header.version, HeaderVersion::V4_0);
    assert_eq!(header.la_url.as_deref(), Some("https://l.example/?a&b"));
    assert_eq!(Pssh::decode(&cenc.pssh).unwrap().object, object);
    let cbcs = signaling(Scheme::Cbcs).playready.unwrap();
    assert!(cbcs.hls_attributes.starts_with("METHOD=SAMPLE-AES,"));
    let object = BASE64.decode(cbcs.smooth_streaming.as_bytes()).unwrap();
    let header = Object::decode(&object).unwrap().header().unwrap();
    assert_eq!(header.version, HeaderVersion::V4_3);
    assert_eq!(header.keys[0].algid, Some(AlgId::AesCbc));
}

/// The example of the W3C's registry entry for `cenc` initialization data: two KIDs of sixteen
/// characters each.
#[test]
fn the_common_box_is_that_of_the_w3c() {
    let kids = [*b"0123456789012345", *b"ABCDEFGHIJKLMNOP"].map(Uuid::from_bytes);
    let expected = [
        &b"\x00\x00\x00\x44pssh\x01\x00\x00\x00"[..],
        b"\x10\x77\xef\xec\xc0\xb2\x4d\x02\xac\xe3\x3c\x1e\x52\xe2\xfb\x4b",
        b"\x00\x00\x00\x020123456789012345ABCDEFGHIJKLMNOP\x00\x00\x00\x00",
    ];
    assert_eq!(common_box(&kids), expected.concat());
    let signaling = Signaling::new(System::ClearKey, (kids[0], None), Scheme::Cenc, None).unwrap();
    assert_eq!(signaling.pssh, common_box(&kids[..1]));
    assert!(signaling.playready.is_none());
}
