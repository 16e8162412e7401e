//! AcquireLicense: what a device asks for, and the answer (sections 2 and 6).
//!
//! ```text
//! LA xmlns=P1 Id="SignedData" xml:space="preserve"
//!   Version            decimal, 1 to 5
//!   ContentHeader      > WRMHEADER
//!   CLIENTINFO?        > CLIENTVERSION
//!   RevocationLists?   > RevListInfo* > ListID, Version
//!   CustomData?        text
//!   LicenseNonce       base64, 16 bytes
//!   SessionID?         base64, 16 bytes, not all zero
//!   ClientTime?        Unix seconds
//!   EncryptedData
//! ```
//!
//! The children are read in any order, each at most once, unknown ones ignored; they are written
//! in the order shown.

mod response;

use serde::Deserialize;
use uuid::Uuid;

pub use response::{AcquireResponse, LicenseAnswer, ResponseSigner, ResponseTrust, SignResponses};

use super::header::{HEADER_NAMESPACE, Header};
use super::kid::Kid;
use super::revocation::REVINFO_V2;
use super::xml::{Element, FieldError, PROTOCOLS, Writer, decode_base64};

/// A device asks for licenses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcquireRequest {
    /// `Version`: clients send 5 for header 4.3, 4 for 4.2, else 1.
    pub version: u8,
    /// The content's header, which names the keys.
    pub header: Header,
    /// `CLIENTVERSION`, for example `10.0.16384.10011`.
    pub client_version: Option<String>,
    /// The revocation lists that the client holds; `None` if it does not speak of them.
    pub revocation_lists: Option<Vec<HeldList>>,
    /// Text from the application, decoded.
    pub custom_data: Option<String>,
    /// Freshly random in every request.
    pub nonce: [u8; 16],
    /// The session that the client names, in `SessionID` or in the JSON of its custom data.
    pub session: Option<[u8; 16]>,
    /// The client's clock in Unix seconds. Data, never authority.
    pub client_time: Option<u64>,
}

/// A revocation list that a client holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldList {
    /// Which list.
    pub id: Uuid,
    /// Its version, 0 for none.
    pub version: u64,
}

impl AcquireRequest {
    /// A request for the keys of `header` with nothing optional in it.
    pub fn new(header: Header, nonce: [u8; 16]) -> Self {
        use super::header::HeaderVersion::{V4_0, V4_1, V4_2, V4_3};
        let version = match header.version {
            V4_0 | V4_1 => 1,
            V4_2 => 4,
            V4_3 => 5,
        };
        Self {
            version,
            header,
            client_version: None,
            revocation_lists: None,
            custom_data: None,
            nonce,
            session: None,
            client_time: None,
        }
    }

    /// The KIDs of the header in their order, each once.
    pub fn kids(&self) -> Vec<Kid> {
        let mut kids = Vec::with_capacity(self.header.keys.len());
        for key in &self.header.keys {
            if !kids.contains(&key.kid) {
                kids.push(key.kid);
            }
        }
        kids
    }

    /// The session of the acquisition: the named one, else the nonce (section 9.2).
    pub fn session_or_nonce(&self) -> &[u8; 16] {
        self.session.as_ref().unwrap_or(&self.nonce)
    }

    /// The digits before the first dot of the client version; 1 if there is none (section 2.1).
    pub fn client_major(&self) -> u32 {
        let version = self.client_version.as_deref().unwrap_or_default();
        let major = version.split('.').next().unwrap_or_default();
        let is_number = !major.is_empty() && major.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { major.parse().unwrap_or(u32::MAX) } else { 1 }
    }

    /// Whether the answer carries our revocation information of this `sequence` (section 6.2): the
    /// client speaks of lists, and its RevInfo v2 is missing or older.
    pub fn wants_rev_info(&self, sequence: u32) -> bool {
        self.revocation_lists.as_ref().is_some_and(|lists| {
            let held = lists.iter().find(|list| list.id == REVINFO_V2);
            held.is_none_or(|list| list.version < u64::from(sequence))
        })
    }

    /// Reads the signed element, whose version has been accepted.
    pub(super) fn read(la: Element<'_, '_>, version: u8) -> Result<Self, FieldError> {
        let optional = |local| la.optional(PROTOCOLS, local);
        let header = la.required(PROTOCOLS, "ContentHeader")?;
        let header = header.required(HEADER_NAMESPACE, "WRMHEADER")?;
        let client_version = match optional("CLIENTINFO")? {
            Some(info) => info.optional(PROTOCOLS, "CLIENTVERSION")?,
            None => None,
        };
        let custom_data = optional("CustomData")?.map(Element::value).transpose()?;
        let session = optional("SessionID")?.map(session_id).transpose()?;
        Ok(Self {
            version,
            header: Header::read(header)?,
            client_version: client_version
                .map(|element| Ok(element.trimmed()?.into_owned()))
                .transpose()?,
            revocation_lists: optional("RevocationLists")?.map(held_lists).transpose()?,
            nonce: la.required(PROTOCOLS, "LicenseNonce")?.base64_array()?,
            session: one_session(session, custom_data.as_deref())?,
            custom_data: custom_data.map(std::borrow::Cow::into_owned),
            client_time: optional("ClientTime")?.map(Element::decimal).transpose()?,
        })
    }

    /// Writes the children of the signed element up to `EncryptedData`.
    pub(super) fn write(&self, w: &mut Writer) {
        w.leaf("Version", &self.version.to_string());
        w.element("ContentHeader", &[], |w| w.raw(&self.header.to_xml()));
        if let Some(version) = &self.client_version {
            w.element("CLIENTINFO", &[], |w| w.leaf("CLIENTVERSION", version));
        }
        if let Some(lists) = &self.revocation_lists {
            w.element("RevocationLists", &[], |w| {
                for list in lists {
                    w.element("RevListInfo", &[], |w| {
                        w.base64("ListID", &list.id.to_bytes_le());
                        w.leaf("Version", &list.version.to_string());
                    });
                }
            });
        }
        if let Some(text) = &self.custom_data {
            w.leaf("CustomData", text);
        }
        w.base64("LicenseNonce", &self.nonce);
        if let Some(session) = &self.session {
            w.base64("SessionID", session);
        }
        if let Some(time) = self.client_time {
            w.leaf("ClientTime", &time.to_string());
        }
    }
}

/// The rights id of the non-persistent license at `index`, counting all licenses of the response
/// from 0: the nonce plus the index as big-endian integers modulo 2^128 (section 6.3).
pub fn rights_id(nonce: &[u8; 16], index: u32) -> [u8; 16] {
    u128::from_be_bytes(*nonce).wrapping_add(u128::from(index)).to_be_bytes()
}

/// A session id: 16 bytes, not all zero.
pub(super) fn session_id(element: Element<'_, '_>) -> Result<[u8; 16], FieldError> {
    let session = element.base64_array()?;
    if session == [0; 16] {
        return Err(element.problem("is all zero"));
    }
    Ok(session)
}

fn held_lists(lists: Element<'_, '_>) -> Result<Vec<HeldList>, FieldError> {
    let infos = lists.children().filter(|child| child.is(PROTOCOLS, "RevListInfo"));
    let held = infos.map(|info| {
        let id = info.required(PROTOCOLS, "ListID")?.base64_array()?;
        let version = info.required(PROTOCOLS, "Version")?.decimal()?;
        Ok(HeldList { id: Uuid::from_bytes_le(id), version })
    });
    held.collect()
}

/// The member of custom data that names the session. Other members belong to the application.
#[derive(Deserialize)]
struct SessionMember {
    session_id: Option<String>,
}

/// Combines the element with the member of the custom data; if both are there they are equal.
fn one_session(
    element: Option<[u8; 16]>,
    custom_data: Option<&str>,
) -> Result<Option<[u8; 16]>, FieldError> {
    let object = custom_data.filter(|text| text.trim_start().starts_with('{'));
    let member = object.and_then(|text| serde_json::from_str::<SessionMember>(text).ok());
    let Some(text) = member.and_then(|member| member.session_id) else {
        return Ok(element);
    };
    let problem = |problem| FieldError::new("session_id in CustomData", problem);
    let named = decode_base64(&text).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    let named = named.filter(|session| *session != [0; 16]);
    let named = named.ok_or_else(|| problem("is not 16 bytes in base64, or all zero"))?;
    match element {
        Some(session) if session != named => Err(problem("differs from SessionID")),
        _ => Ok(Some(named)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::playready::header::HeaderVersion;
    use crate::playready::xml::Document;

    const HEADER: &str = "<WRMHEADER xmlns='http://schemas.microsoft.com/DRM/2007/03/PlayReadyHeader' \
        version='4.1.0.0'><DATA></DATA></WRMHEADER>";

    fn read(children: &str) -> Result<AcquireRequest, FieldError> {
        let text = format!(
            "<LA xmlns='{PROTOCOLS}'>{children}<ContentHeader>{HEADER}</ContentHeader>\
             <Unknown/><LicenseNonce> JxSt7P+vWA6S\n ExHlrOwOvw== </LicenseNonce></LA>"
        );
        AcquireRequest::read(Document::parse(text.as_bytes()).unwrap().root(), 1)
    }

    fn session(byte: u8) -> String {
        data_encoding::BASE64.encode(&[byte; 16])
    }

    #[test]
    fn rights_ids_match_the_vectors() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../tests/golden/vectors.json")).unwrap();
        for row in vectors["rights_id"].as_array().unwrap() {
            let bytes = |name: &str| {
                data_encoding::HEXLOWER.decode(row[name].as_str().unwrap().as_bytes()).unwrap()
            };
            let index = u32::try_from(row["index"].as_u64().unwrap()).unwrap();
            let nonce = bytes("nonce").try_into().unwrap();
            assert_eq!(rights_id(&nonce, index).to_vec(), bytes("rights_id"));
        }
    }

    #[test]
    fn reads_a_request_without_anything_optional() {
        let request = read("").unwrap();
        assert_eq!(request.client_major(), 1);
        assert_eq!(request.session_or_nonce(), &request.nonce);
        assert!(!request.wants_rev_info(7));
        assert_eq!(request.header.version, HeaderVersion::V4_1);
    }

    #[test]
    fn refuses_repeated_and_malformed_children() {
        for children in [
            "<LicenseNonce>JxSt7P+vWA6SExHlrOwOvw==</LicenseNonce>",
            "<ClientTime>1</ClientTime><ClientTime>1</ClientTime>",
            "<ClientTime>-1</ClientTime>",
            "<ClientTime></ClientTime>",
            "<SessionID>AAAAAAAAAAAAAAAAAAAAAA==</SessionID>",
            "<SessionID>AAA=</SessionID>",
            "<CustomData><x/></CustomData>",
            "<RevocationLists><RevListInfo><Version>0</Version></RevListInfo></RevocationLists>",
        ] {
            assert!(read(children).is_err(), "accepted {children}");
        }
    }

    #[test]
    fn the_session_may_come_from_the_json_of_the_custom_data() {
        let element = |byte| format!("<SessionID>{}</SessionID>", session(byte));
        let custom = |text: &str| format!("<CustomData>{text}</CustomData>");
        let json = custom(&format!("{{\"a\":1,\"session_id\":\"{}\"}}", session(1)));
        assert_eq!(read(&json).unwrap().session, Some([1; 16]));
        assert_eq!(read(&(json.clone() + &element(1))).unwrap().session, Some([1; 16]));
        assert!(read(&(json + &element(2))).is_err());
        assert_eq!(read(&(custom("{\"a\":1}") + &element(2))).unwrap().session, Some([2; 16]));
        assert!(read(&custom("{\"session_id\":\"AAA=\"}")).is_err());
        for other in ["json=[]", "text", "[1]", "{broken", "{}"] {
            assert_eq!(read(&custom(other)).unwrap().session, None, "{other}");
        }
    }

    #[test]
    fn takes_the_major_version_from_the_digits_before_the_first_dot() {
        let major = |version: &str| {
            let info = format!("<CLIENTINFO><CLIENTVERSION>{version}</CLIENTVERSION></CLIENTINFO>");
            read(&info).unwrap().client_major()
        };
        assert_eq!(major("10.0.16384.10011"), 10);
        assert_eq!(major("3.1.0.1017"), 3);
        assert_eq!(major("2"), 2);
        assert_eq!(major("x.1"), 1);
        assert_eq!(major(""), 1);
    }

    #[test]
    fn revocation_information_is_sent_to_clients_that_hold_an_older_one() {
        let list = |id: &str, version: u64| {
            format!(
                "<RevocationLists><RevListInfo><ListID>{id}</ListID><Version>{version}</Version>\
                 </RevListInfo></RevocationLists>"
            )
        };
        let wants = |children: &str| read(children).unwrap().wants_rev_info(7);
        assert!(wants("<RevocationLists></RevocationLists>"));
        assert!(wants(&list("ioydTlK2p0WXkWklprR5Hw==", 9)));
        assert!(wants(&list("Ef/RUojT3U6Ct2jqTCChbA==", 6)));
        assert!(!wants(&list("Ef/RUojT3U6Ct2jqTCChbA==", 7)));
        assert!(!wants(""));
    }
}
