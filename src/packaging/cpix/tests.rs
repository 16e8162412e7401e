use std::collections::HashMap;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::*;
use crate::clock::UnixMillis;
use crate::keys::ContentKey;
use crate::packaging::delivery::Trusted;
use crate::playready::xml::{Document, Element};

const VIDEO: &str = "01234567-89AB-CDEF-0123-456789ABCDEF";
const AUDIO: &str = "fedcba98-7654-3210-fedc-ba9876543210";
const PLAYREADY: &str = "9a04f079-9840-4286-ab92-e65be0885f95";

/// A request as packagers send it: two keys, all signaling, white space between the elements.
fn request() -> String {
    let systems = [VIDEO, AUDIO].map(|kid| {
        format!(
            "<cpix:DRMSystem kid=\"{kid}\" systemId=\"{PLAYREADY}\">
                <cpix:PSSH />
                <cpix:ContentProtectionData />
                <cpix:HLSSignalingData playlist=\"media\">
                </cpix:HLSSignalingData>
                <cpix:HLSSignalingData playlist=\"master\" />
                <cpix:SmoothStreamingProtectionHeaderData />
                <cpix:URIExtXKey />
            </cpix:DRMSystem>"
        )
    });
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
        <cpix:CPIX contentId=\"season &amp; one\" version=\"2.3\"
            xmlns:cpix=\"urn:dashif:org:cpix\" xmlns:pskc=\"urn:ietf:params:xml:ns:keyprov:pskc\">
            <cpix:ContentKeyList>
                <cpix:ContentKey kid=\"{VIDEO}\" commonEncryptionScheme=\"cenc\"></cpix:ContentKey>
                <cpix:ContentKey explicitIV=\"OFj2IjCsPJFfMAxmQxLGPw==\" kid=\"{AUDIO}\"
                    commonEncryptionScheme=\"cenc\"/>
            </cpix:ContentKeyList>
            <cpix:DRMSystemList>{}</cpix:DRMSystemList>
            <cpix:ContentKeyPeriodList>
                <cpix:ContentKeyPeriod id=\"period-1\" index=\"0\"/>
            </cpix:ContentKeyPeriodList>
            <cpix:ContentKeyUsageRuleList>
                <cpix:ContentKeyUsageRule kid=\"{VIDEO}\" intendedTrackType=\"HD\">
                    <cpix:KeyPeriodFilter periodId=\"period-1\"/>
                    <cpix:VideoFilter minPixels=\"589825\" maxPixels=\"2073600\" />
                </cpix:ContentKeyUsageRule>
                <cpix:ContentKeyUsageRule kid=\"{AUDIO}\" intendedTrackType=\"AUDIO\">
                    <cpix:KeyPeriodFilter periodId=\"period-1\"/>
                    <cpix:AudioFilter />
                </cpix:ContentKeyUsageRule>
            </cpix:ContentKeyUsageRuleList>
        </cpix:CPIX>",
        systems.concat()
    )
}

fn read(text: &str) -> Result<Request, ExchangeError> {
    Request::read(Some("2.0"), text.as_bytes())
}

/// What is refused, as the field to blame and the text.
fn refused(text: &str) -> String {
    match read(text) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => format!("{}: {error}", error.field()),
    }
}

fn keys() -> HashMap<Uuid, ContentKey> {
    let key = |text: &str, byte| (text.parse().unwrap(), Zeroizing::new([byte; 16]));
    HashMap::from([key(VIDEO, 1), key(AUDIO, 2)])
}

/// The answer with keys as they are.
fn answer(text: &str) -> String {
    let request = read(text).unwrap();
    let answer = request.answer(&keys(), &Delivered::Plain, Some("https://l.example/"));
    String::from_utf8(answer.unwrap()).unwrap()
}

/// All elements below the root by their names, text and attributes, in order.
fn shape(document: &Document<'_>) -> Vec<String> {
    let attributes = |element: Element<'_, '_>| {
        let pairs = element.attributes();
        pairs.map(|a| format!(" {}={}", a.local, a.value)).collect::<String>()
    };
    document.elements().map(|e| format!("{}{}", e.local_name(), attributes(e))).collect()
}

#[test]
fn the_answer_is_the_request_with_what_it_asks_for() {
    let (request, answer) = (request(), answer(&request()));
    let asked = shape(&Document::parse(request.as_bytes()).unwrap());
    let answered = Document::parse(answer.as_bytes()).unwrap();
    let mut left = shape(&answered);
    for added in ["Data", "Secret", "PlainValue"] {
        assert_eq!(left.iter().filter(|element| *element == added).count(), 2);
        left.retain(|element| element != added);
    }
    assert_eq!(left, asked);
    let texts = |name: &str| -> Vec<String> {
        let named = answered.elements().filter(|element| element.local_name() == name);
        named.map(|element| element.text().unwrap().into_owned()).collect()
    };
    let decoded = |name: &str| -> Vec<String> {
        let bytes = texts(name).into_iter().map(|text| BASE64.decode(text.as_bytes()).unwrap());
        bytes.map(|bytes| String::from_utf8(bytes).unwrap()).collect()
    };
    assert_eq!(texts("PlainValue"), ["AQEBAQEBAQEBAQEBAQEBAQ==", "AgICAgICAgICAgICAgICAg=="]);
    let (pssh, pro) = (texts("PSSH"), texts("SmoothStreamingProtectionHeaderData"));
    assert!(
        pssh[0] != pssh[1]
            && pssh.iter().all(|text| text.contains("Bzc2gAAAAAmgTweZhAQoarkuZb4IhflQ"))
    );
    for (index, manifest) in decoded("ContentProtectionData").iter().enumerate() {
        assert!(manifest.contains(&pssh[index]) && manifest.contains(&pro[index]), "{manifest}");
    }
    let hls = decoded("HLSSignalingData");
    for (line, tag) in hls.iter().zip(["#EXT-X-KEY:", "#EXT-X-SESSION-KEY:"].iter().cycle()) {
        assert!(line.starts_with(&format!("{tag}METHOD=SAMPLE-AES-CTR,")), "{line}");
    }
    assert!(hls[0].contains(&pro[0]) && hls[3].contains(&pro[1]));
    assert!(decoded("URIExtXKey")[0].ends_with(&pro[0]));
    // The KID of the header, little-endian; its checksum is of the key given.
    let object =
        crate::playready::header::Object::decode(&BASE64.decode(pro[0].as_bytes()).unwrap());
    let header = object.unwrap().header().unwrap();
    assert_eq!(header.keys[0].kid.guid(), VIDEO.parse::<Uuid>().unwrap());
    assert!(header.keys[0].checksum.is_some() && header.la_url.is_some());
}

#[test]
fn only_what_is_asked_for_is_signaled() {
    let clear_key = "1077efec-c0b2-4d02-ace3-3c1e52e2fb4b";
    let asked = request()
        .replace(PLAYREADY, clear_key)
        .replace(
            "<cpix:HLSSignalingData playlist=\"media\">\n                </cpix:HLSSignalingData>",
            "",
        )
        .replace("<cpix:HLSSignalingData playlist=\"master\" />", "")
        .replace("<cpix:SmoothStreamingProtectionHeaderData />", "")
        .replace("<cpix:URIExtXKey />", "");
    let answered = answer(&asked);
    for absent in ["HLSSignalingData", "SmoothStreaming", "URIExtXKey"] {
        assert!(!answered.contains(absent), "{absent}");
    }
    // A box of version 1 for the common system, with the KID in text order.
    assert!(answered.contains("<cpix:PSSH>AAAANHBzc2gBAAAAEHfv7MCyTQKs4zweUuL7SwAAAAEBI0VniavN7wEjRWeJq83vAAAAAA==</cpix:PSSH>"));
    assert!(refused(&request().replace(PLAYREADY, clear_key)).contains("HLSSignalingData"));
}

#[test]
fn an_encrypted_answer_has_everything_for_each_packager_and_no_plain_key() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packager");
    let pem = std::fs::read_to_string(format!("{folder}/trusted.pem")).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    let list = format!(
        "<cpix:DeliveryDataList><cpix:DeliveryData id=\"p-1\"><cpix:DeliveryKey>\
         <ds:X509Data xmlns:ds=\"{DS}\"><ds:X509Certificate>{base64}</ds:X509Certificate>\
         </ds:X509Data></cpix:DeliveryKey></cpix:DeliveryData></cpix:DeliveryDataList>"
    );
    let asked = request().replace("<cpix:ContentKeyList>", &format!("{list}<cpix:ContentKeyList>"));
    let asked = read(&asked).unwrap();
    let now = UnixMillis(1_700_000_000_000);
    // Wherever plain keys are allowed: who brings a certificate gets nothing in plain.
    let refused = asked.delivery(&Trusted::default(), true, now).err().unwrap();
    assert!(matches!(refused, ExchangeError::Certificate { number: 1, .. }), "{refused}");
    let only = tempfile::tempdir().unwrap();
    std::fs::write(only.path().join("p.pem"), pem).unwrap();
    let delivered = asked.delivery(&Trusted::read(only.path()).unwrap(), false, now).unwrap();
    let answered = asked.answer(&keys(), &delivered, None).unwrap();
    let document = Document::parse(&answered).unwrap();
    let order: Vec<_> = document.root().children().map(|child| child.local_name()).collect();
    assert_eq!(order[..3], ["DeliveryDataList", "ContentKeyList", "DRMSystemList"]);
    let count = |name: &str| document.elements().filter(|e| e.local_name() == name).count();
    let counted = ["PlainValue", "EncryptedValue", "ValueMAC", "CipherValue", "MACMethod"];
    assert_eq!(counted.map(count), [0, 3, 2, 4, 1]);
    let text = String::from_utf8(answered).unwrap();
    assert!(text.contains(&base64) && text.contains("<cpix:DeliveryData id=\"p-1\">"));
    assert!(!text.contains("AQEBAQEBAQEBAQEBAQEBAQ"), "a key in plain");
}

#[test]
fn a_packager_without_a_certificate_gets_plain_keys_only_where_that_is_allowed() {
    let request = read(&request()).unwrap();
    let now = UnixMillis(0);
    let refused = request.delivery(&Trusted::default(), false, now);
    assert!(matches!(refused, Err(ExchangeError::PlainKeys)));
    let allowed = request.delivery(&Trusted::default(), true, now);
    assert!(matches!(allowed, Ok(Delivered::Plain)));
}

#[test]
fn what_is_wrong_is_named() {
    let with = |from: &str, to: &str| {
        let text = request();
        assert!(text.contains(from), "{from}");
        refused(&text.replacen(from, to, 1))
    };
    let both = |from: &str, to: &str| refused(&request().replace(from, to));
    let scheme = "ContentKey@commonEncryptionScheme";
    let video = VIDEO.to_lowercase();
    let one_kid = |scheme: &str| {
        let second = format!("kid=\"{VIDEO}\"\n commonEncryptionScheme=\"{scheme}\"");
        let first = format!("kid=\"{AUDIO}\"\n                    commonEncryptionScheme=\"cenc\"");
        with(&first, &second)
    };
    for (found, expected) in [
        (with("version=\"2.3\"", "version=\"2.4\""), "CPIX@version: Unsupported CPIX@version"),
        (with(" version=\"2.3\"\n", "\n"), "CPIX: Missing CPIX@version"),
        (with("contentId=\"season &amp; one\"", ""), "CPIX: Missing CPIX@contentId"),
        (with("urn:dashif:org:cpix", "urn:other"), "CPIX: the root element is not CPIX"),
        (both("=\"cenc\"", "=\"cbc1\""), &format!("{scheme}: {scheme} \"cbc1\" is not supported")),
        (with("=\"cenc\"", "=\"cbcs\""), &format!("{scheme}: Non compliant")),
        (with(" commonEncryptionScheme=\"cenc\"", ""), "CPIX: Missing ContentKey@common"),
        (
            with(&format!("kid=\"{VIDEO}\""), "kid=\"my key\""),
            "ContentKey@kid: ContentKey@kid is not",
        ),
        (with(&format!("kid=\"{AUDIO}\""), &format!("kid=\"{VIDEO}\"")), "ContentKey@kid: "),
        (one_kid("cenc"), &format!("ContentKey@kid: ContentKey@kid {video} comes twice")),
        (
            one_kid("cbcs"),
            &format!("ContentKey@kid: ContentKey@kid {video} is asked for as cenc and as cbcs"),
        ),
        (
            with(&format!("DRMSystem kid=\"{VIDEO}\""), &format!("DRMSystem kid=\"{PLAYREADY}\"")),
            "DRMSystem@kid: DRMSystem@kid 9a04f079-9840-4286-ab92-e65be0885f95 is not the kid",
        ),
        (
            with(&format!("Rule kid=\"{AUDIO}\""), &format!("Rule kid=\"{PLAYREADY}\"")),
            "ContentKeyUsageRule@kid: ",
        ),
        (with(" intendedTrackType=\"HD\"", ""), "CPIX: Missing ContentKeyUsageRule@intended"),
        (with(PLAYREADY, "edef8ba9-79d6-4ace-a3c8-27dcd51d21ed"), "DRMSystem@systemId: "),
        (with("OFj2IjCsPJFfMAxmQxLGPw==", "OFj2"), "ContentKey@explicitIV: "),
        (with("<cpix:PSSH />", "<cpix:PSSH /><cpix:PSSH />"), "CPIX: PSSH appears more than once"),
        (with("<cpix:PSSH />", "<cpix:HDSSignalingData />"), "CPIX: HDSSignalingData is not supp"),
        (with("\"master\"", "\"other\""), "CPIX: HLSSignalingData has a playlist"),
        (with("<cpix:AudioFilter />", "<x xmlns=\"y\"/>"), "CPIX: x is not supported"),
        (
            with(&format!("kid=\"{VIDEO}\""), &format!("dependsOnKey=\"{AUDIO}\" kid=\"{VIDEO}\"")),
            "CPIX: ContentKey@dependsOnKey is not supported",
        ),
        (with("></cpix:ContentKey>", "><cpix:Data/></cpix:ContentKey>"), "CPIX: ContentKey/Data"),
        (with("<cpix:DRMSystemList>", "<!-- --><cpix:DRMSystemList>"), "CPIX: the document"),
        (both("ContentKeyPeriodList", "Others"), "CPIX: CPIX/Others is not supported"),
        (refused(""), "CPIX: the document cannot be read"),
    ] {
        assert!(found.starts_with(expected), "{found}, not {expected}");
    }
    for version in [None, Some("1.0"), Some("2.1"), Some("")] {
        let refused = Request::read(version, request().as_bytes());
        assert!(matches!(refused, Err(ExchangeError::SpekeVersion)), "{version:?}");
    }
}

/// Elements with the names of CPIX and another namespace, in each place.
#[test]
fn elements_of_other_namespaces_are_refused_wherever_they_stand() {
    let delivery = format!(
        "<cpix:DeliveryDataList><cpix:DeliveryData><cpix:DeliveryKey><ds:X509Data xmlns:ds=\"{DS}\">\
         <ds:X509Certificate>AA==</ds:X509Certificate></ds:X509Data></cpix:DeliveryKey>\
         </cpix:DeliveryData></cpix:DeliveryDataList><cpix:ContentKeyList>"
    );
    let text = request().replace("<cpix:ContentKeyList>", &delivery);
    assert_eq!(refused(&text), "accepted");
    for (before, name, place) in [
        ("<cpix:DeliveryDataList>", "UpdateHistoryItemList", "CPIX"),
        ("<cpix:DeliveryKey>", "DeliveryKey", "DeliveryData"),
        ("</cpix:DeliveryDataList>", "DeliveryData", "DeliveryDataList"),
        ("</cpix:ContentKeyList>", "ContentKey", "ContentKeyList"),
        ("</cpix:ContentKey>", "Data", "ContentKey"),
        ("</cpix:DRMSystemList>", "DRMSystem", "DRMSystemList"),
        ("</cpix:HLSSignalingData>", "PSSH", "HLSSignalingData"),
        ("</cpix:ContentKeyUsageRuleList>", "ContentKeyUsageRule", "ContentKeyUsageRuleList"),
    ] {
        let foreign = format!("<x:{name} xmlns:x=\"urn:other\"/>{before}");
        let said = refused(&text.replacen(before, &foreign, 1));
        assert_eq!(said, format!("CPIX: {place}/{name} is not supported here"));
    }
    let in_system = text.replacen("<cpix:PSSH />", "<x:PSSH xmlns:x=\"urn:other\"/>", 1);
    assert_eq!(refused(&in_system), "CPIX: PSSH is not supported here");
}

#[test]
fn every_mandatory_list_has_to_be_there_with_an_item() {
    for (list, item) in [
        ("ContentKeyList", "ContentKey"),
        ("DRMSystemList", "DRMSystem"),
        ("ContentKeyUsageRuleList", "ContentKeyUsageRule"),
    ] {
        let text = request();
        let start = text.find(&format!("<cpix:{list}>")).unwrap();
        let tag = format!("</cpix:{list}>");
        let end = text.find(&tag).unwrap() + tag.len();
        let without = format!("{}{}", &text[..start], &text[end..]);
        assert_eq!(refused(&without), format!("CPIX: Missing {list}"));
        let empty = format!("{}<cpix:{list}/>{}", &text[..start], &text[end..]);
        assert_eq!(refused(&empty), format!("CPIX: Missing {item}"));
    }
}

proptest::proptest! {
    /// Whatever comes is answered or refused.
    #[test]
    fn no_change_to_a_request_makes_it_panic(at in 0usize..2_000, byte in 0u8..128) {
        let mut bytes = request().into_bytes();
        if let Some(changed) = bytes.get_mut(at) {
            *changed = byte;
        }
        if let Ok(request) = Request::read(Some("2.0"), &bytes) {
            let _ = request.answer(&keys(), &Delivered::Plain, None);
        }
    }
}
