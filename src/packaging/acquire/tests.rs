use zeroize::Zeroizing;

use super::*;
use crate::playready::header::Object;

const KID: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn request(programs: &[&str]) -> String {
    let programs = programs.iter().map(|program| {
        format!(
            "<StreamInformation><ProgramIdentifier>{program}</ProgramIdentifier>\
             <OffsetFromProgramStart>P0S</OffsetFromProgramStart></StreamInformation>"
        )
    });
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body>\
         <AcquirePackagingData xmlns=\"{PROTOCOLS}\"><challenge xmlns=\"{VERSION_1}\">\
         <ProtectionSystems><ProtectionSystemId>9A04F079-9840-4286-AB92-E65BE0885F95\
         </ProtectionSystemId></ProtectionSystems><StreamProtectionRequests>{}\
         </StreamProtectionRequests></challenge></AcquirePackagingData></soap:Body></soap:Envelope>",
        programs.collect::<String>()
    )
}

fn code(body: &str) -> String {
    match PackagingRequest::read(body.as_bytes()) {
        Ok(_) => "accepted".to_owned(),
        Err(fault) => String::from_utf8(fault.render()).unwrap(),
    }
}

#[test]
fn the_answer_has_the_literal_tags_that_a_packager_looks_for() {
    let upper = KID.to_uppercase();
    let request = PackagingRequest::read(request(&[&upper, &upper]).as_bytes()).unwrap();
    let key_id: Uuid = KID.parse().unwrap();
    assert_eq!(request.key_ids(), [key_id]);
    let keys = HashMap::from([(key_id, (Zeroizing::new([7; 16]), Scheme::Cenc))]);
    let answer = String::from_utf8(request.answer(&keys, None).unwrap()).unwrap();
    let between = |start: &str, end: &str| {
        let from = answer.find(start).unwrap() + start.len();
        answer[from..from + answer[from..].find(end).unwrap()].to_owned()
    };
    assert_eq!(answer.matches("<StreamInformation>").count(), 2);
    assert_eq!(between("<ProgramIdentifier>", "<"), upper);
    assert_eq!(between("<KeyId>", "<"), KID);
    assert_eq!(between("<KeyData>", "<"), BASE64.encode(&[7; 16]));
    let data = BASE64.decode(between("<Data>", "<").as_bytes()).unwrap();
    let header = Object::decode(&data).unwrap().header().unwrap();
    assert_eq!(header.keys[0].kid, Kid::from(key_id));
    let refused = request.answer(&HashMap::new(), None).err().unwrap();
    assert!(refused.to_string().contains("8004c604"), "{refused}");
}

#[test]
fn what_is_no_such_request_is_refused() {
    let whole = request(&[KID]);
    for (from, to) in [
        ("<AcquirePackagingData ", "<AcquireLicense "),
        ("v1.0", "v2.0"),
        ("9A04F079", "9A04F078"),
        ("<StreamInformation>", "<Stream>"),
    ] {
        let tag = to.trim_matches(['<', '>', ' ']);
        let text = whole.replace(from, to);
        let text = text.replace("</AcquirePackagingData>", &format!("</{tag}>"));
        assert!(code(&text).contains("0x8004c601"), "{from}");
    }
    assert!(code(&request(&[])).contains("0x8004c601"));
    assert!(code("").contains("0x8004c601"));
    assert!(code(&request(&["my film"])).contains("0x8004c604"));
}
