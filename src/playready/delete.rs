//! ProcessDeleteLicenseData, the secure delete: a device says which licenses it removed
//! (section 9).
//!
//! ```text
//! DeleteLicenseData xmlns=P1 Id="SignedData"
//!   Version            "1"
//!   SessionID          base64, 16 bytes, not all zero
//!   KIDS               > KID, 1 to 1000, base64 in wire order
//!   EncryptedData
//!
//! DeleteLicenseResponse xmlns=P1      neither signed nor encrypted
//!   Version            "1"
//!   SessionID          the client compares it and then drops its record
//! ```

use super::acquire::session_id;
use super::kid::Kid;
use super::soap::{self, Operation, ResponseError};
use super::xml::{Document, Element, FieldError, PROTOCOLS, Writer};

/// The most KIDs of one deletion, before duplicates collapse.
const KIDS_MAX: usize = 1_000;
const ANSWER: &str = "DeleteLicenseResponse";

/// A device removed the licenses of one session for these KIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRequest {
    /// The session the licenses were acquired in.
    pub session: [u8; 16],
    /// The KIDs in the order of the message, each once.
    pub kids: Vec<Kid>,
}

impl DeleteRequest {
    /// Reads the signed element.
    pub(super) fn read(element: Element<'_, '_>) -> Result<Self, FieldError> {
        let session = session_id(element.required(PROTOCOLS, "SessionID")?)?;
        let list = element.required(PROTOCOLS, "KIDS")?;
        let children = || list.children().filter(|child| child.is(PROTOCOLS, "KID"));
        let count = children().count();
        if count == 0 || count > KIDS_MAX {
            return Err(list.problem("does not hold 1 to 1000 KIDs"));
        }
        let mut kids = Vec::with_capacity(count);
        for child in children() {
            let kid = child.kid()?;
            if !kids.contains(&kid) {
                kids.push(kid);
            }
        }
        Ok(Self { session, kids })
    }

    /// Writes the children of the signed element up to `EncryptedData`.
    pub(super) fn write(&self, w: &mut Writer) {
        w.leaf("Version", "1");
        w.base64("SessionID", &self.session);
        w.element("KIDS", &[], |w| {
            self.kids.iter().for_each(|kid| w.base64("KID", &kid.to_wire()));
        });
    }
}

/// The SOAP document that answers a deletion.
pub fn answer(session: &[u8; 16]) -> Vec<u8> {
    soap::write_response(Operation::ProcessDeleteLicenseData, |w| {
        w.element(ANSWER, &[("xmlns", PROTOCOLS)], |w| {
            w.leaf("Version", "1");
            w.base64("SessionID", session);
        });
    })
}

/// Checks, for a client, that `body` answers the deletion in `session`.
///
/// # Errors
///
/// A fault, another session, or another document: the client keeps its record and asks again.
pub fn verify_answer(body: &[u8], session: &[u8; 16]) -> Result<(), ResponseError> {
    let document = Document::parse(body)?;
    let response = soap::response(&document, Operation::ProcessDeleteLicenseData)?;
    let answer = response.required(PROTOCOLS, ANSWER)?;
    if answer.required(PROTOCOLS, "SessionID")?.base64_array::<16>()? == *session {
        Ok(())
    } else {
        Err(ResponseError::NotOurs("SessionID"))
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXLOWER};

    use super::*;

    const GOLDEN: &str = include_str!("../../tests/golden/delete_response.xml");

    fn golden_session() -> [u8; 16] {
        let vector = b"9de3cd13f18acde169735581892514e9";
        HEXLOWER.decode(vector).unwrap().try_into().unwrap()
    }

    #[test]
    fn the_answer_matches_its_golden() {
        assert_eq!(String::from_utf8(answer(&golden_session())).unwrap(), GOLDEN);
        assert!(verify_answer(GOLDEN.as_bytes(), &golden_session()).is_ok());
    }

    #[test]
    fn a_client_refuses_the_answer_to_another_session() {
        let other = verify_answer(GOLDEN.as_bytes(), &[1; 16]);
        assert!(matches!(other, Err(ResponseError::NotOurs("SessionID"))));
    }

    fn read(session: &[u8], kids: &str) -> Result<DeleteRequest, FieldError> {
        let text = format!(
            "<D xmlns='{PROTOCOLS}'><KIDS>{kids}</KIDS><SessionID>{}</SessionID></D>",
            BASE64.encode(session)
        );
        DeleteRequest::read(Document::parse(text.as_bytes()).unwrap().root())
    }

    fn kid(number: u8) -> String {
        format!("<KID>{}</KID>", BASE64.encode(&[number; 16]))
    }

    #[test]
    fn duplicate_kids_collapse_in_order() {
        let request = read(&[1; 16], &[kid(2), kid(1), kid(2)].concat()).unwrap();
        assert_eq!(request.kids, [Kid::from_wire([2; 16]), Kid::from_wire([1; 16])]);
    }

    #[test]
    fn refuses_malformed_sessions_and_lists() {
        assert!(read(&[1; 16], &kid(1).repeat(1_000)).is_ok());
        assert!(read(&[1; 16], &kid(1).repeat(1_001)).is_err());
        assert!(read(&[1; 16], "").is_err());
        assert!(read(&[1; 16], "<KID>AAA=</KID>").is_err());
        assert!(read(&[0; 16], &kid(1)).is_err());
        assert!(read(&[1; 15], &kid(1)).is_err());
    }
}
