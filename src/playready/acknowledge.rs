//! AcknowledgeLicense: a device says which licenses it stored (section 8).
//!
//! ```text
//! LicenseAcknowledgement xmlns=P1 Id="SignedData"
//!   Version            "1"
//!   TransactionID      GUID text, from the response
//!   LicenseResults     > LicenseResult, 1 to 1000
//!     KID              base64, wire order
//!     Result           "0x" and 8 hexadecimal digits, 0 = stored
//!   ClientTime?        Unix seconds
//!   EncryptedData
//!
//! LicenseAcknowledgementResponse xmlns=P1      neither signed nor encrypted
//!   Version            "1"
//!   TransactionID
//! ```

use uuid::Uuid;

use super::kid::Kid;
use super::soap::{self, Operation, ResponseError};
use super::xml::{Document, Element, FieldError, PROTOCOLS, Writer};

/// The most results of one acknowledgement. The size limit of a request is reached at about 600.
const RESULTS_MAX: usize = 1_000;
const ANSWER: &str = "LicenseAcknowledgementResponse";

/// A device acknowledges the licenses of one response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The transaction that the response named.
    pub transaction_id: Uuid,
    /// One result for each license, in the order of the response.
    pub results: Vec<LicenseResult>,
    /// The client's clock in Unix seconds. Data, never authority.
    pub client_time: Option<u64>,
}

/// What became of one license on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LicenseResult {
    /// Which license; several for one KID are told apart by their order.
    pub kid: Kid,
    /// 0 if the license was stored, else the client's own error code.
    pub result: u32,
}

impl Acknowledgement {
    /// Reads the signed element.
    pub(super) fn read(element: Element<'_, '_>) -> Result<Self, FieldError> {
        let list = element.required(PROTOCOLS, "LicenseResults")?;
        let results = list
            .children()
            .filter(|child| child.is(PROTOCOLS, "LicenseResult"))
            .map(LicenseResult::read)
            .collect::<Result<Vec<_>, _>>()?;
        if results.is_empty() || results.len() > RESULTS_MAX {
            return Err(list.problem("does not hold 1 to 1000 results"));
        }
        Ok(Self {
            transaction_id: element.required(PROTOCOLS, "TransactionID")?.guid()?,
            results,
            client_time: element
                .optional(PROTOCOLS, "ClientTime")?
                .map(Element::decimal)
                .transpose()?,
        })
    }

    /// Writes the children of the signed element up to `EncryptedData`.
    pub(super) fn write(&self, w: &mut Writer) {
        w.leaf("Version", "1");
        w.leaf("TransactionID", &self.transaction_id.to_string());
        w.element("LicenseResults", &[], |w| {
            for result in &self.results {
                w.element("LicenseResult", &[], |w| {
                    w.base64("KID", &result.kid.to_wire());
                    w.leaf("Result", &format!("0x{:08x}", result.result));
                });
            }
        });
        if let Some(time) = self.client_time {
            w.leaf("ClientTime", &time.to_string());
        }
    }
}

impl LicenseResult {
    fn read(element: Element<'_, '_>) -> Result<Self, FieldError> {
        let result = element.required(PROTOCOLS, "Result")?;
        let text = result.trimmed()?;
        let digits = text.strip_prefix("0x").filter(|digits| {
            digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        Ok(Self {
            kid: element.required(PROTOCOLS, "KID")?.kid()?,
            result: number.ok_or_else(|| result.problem("is not 0x and 8 hexadecimal digits"))?,
        })
    }
}

/// The SOAP document that answers an acknowledgement.
pub fn answer(transaction_id: Uuid) -> Vec<u8> {
    soap::write_response(Operation::AcknowledgeLicense, |w| {
        w.element(ANSWER, &[("xmlns", PROTOCOLS)], |w| {
            w.leaf("Version", "1");
            w.leaf("TransactionID", &transaction_id.to_string());
        });
    })
}

/// Checks, for a client, that `body` answers the acknowledgement of `transaction_id`.
///
/// # Errors
///
/// A fault, another transaction, or another document.
pub fn verify_answer(body: &[u8], transaction_id: Uuid) -> Result<(), ResponseError> {
    let document = Document::parse(body)?;
    let response = soap::response(&document, Operation::AcknowledgeLicense)?;
    let answer = response.required(PROTOCOLS, ANSWER)?;
    if answer.required(PROTOCOLS, "TransactionID")?.guid()? == transaction_id {
        Ok(())
    } else {
        Err(ResponseError::NotOurs("TransactionID"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/golden/ack_response.xml");

    fn golden_id() -> Uuid {
        "29a674c9-0d05-6b59-2985-f6578376377c".parse().unwrap()
    }

    #[test]
    fn the_answer_matches_its_golden() {
        assert_eq!(String::from_utf8(answer(golden_id())).unwrap(), GOLDEN);
        assert!(verify_answer(GOLDEN.as_bytes(), golden_id()).is_ok());
    }

    #[test]
    fn a_client_refuses_the_answer_to_another_transaction() {
        let other = verify_answer(GOLDEN.as_bytes(), Uuid::nil());
        assert!(matches!(other, Err(ResponseError::NotOurs("TransactionID"))));
        let delete = include_bytes!("../../tests/golden/delete_response.xml");
        assert!(verify_answer(delete, golden_id()).is_err());
    }

    fn read(results: &str) -> Result<Acknowledgement, FieldError> {
        let text = format!(
            "<A xmlns='{PROTOCOLS}'><LicenseResults>{results}</LicenseResults>\
             <TransactionID>{}</TransactionID></A>",
            golden_id()
        );
        // A thousand results alone exceed what a whole request may have.
        Acknowledgement::read(Document::parse_up_to(text.as_bytes(), 1 << 20).unwrap().root())
    }

    fn result(code: &str) -> String {
        format!(
            "<LicenseResult><KID>Z0UjAauJ780BI0VniavN7w==</KID><Result>{code}</Result>\
             </LicenseResult>"
        )
    }

    #[test]
    fn reads_one_to_a_thousand_results() {
        assert_eq!(read(&result("0x8004C0Ff")).unwrap().results[0].result, 0x8004_C0FF);
        assert_eq!(read(&result("0x00000000").repeat(1_000)).unwrap().results.len(), 1_000);
        assert!(read("").is_err());
        assert!(read(&result("0x00000000").repeat(1_001)).is_err());
    }

    #[test]
    fn refuses_malformed_results() {
        for code in ["0", "0x0", "00000000", "0x+0000000", "0x000000000", ""] {
            assert!(read(&result(code)).is_err(), "accepted {code:?}");
        }
        assert!(read("<LicenseResult><Result>0x00000000</Result></LicenseResult>").is_err());
    }
}
