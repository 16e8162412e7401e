//! The SOAP 1.1 envelope around every message, and which operation a body asks for (section 1).
//!
//! ```text
//! request                                    answer
//! soap:Envelope                              soap:Envelope
//!   soap:Header?        ignored                soap:Body
//!   soap:Body                                    AcquireLicenseResponse      P1
//!     AcquireLicense            P1                 AcquireLicenseResult      P1
//!       challenge               P1                   Response                P2
//!         Challenge             P2                     one element           P1
//!           signed element      P1                     Signature?            DS
//!           Signature           DS
//! ```
//!
//! Requests may use any prefixes; what is written here uses exactly those of the golden messages,
//! because real clients compare text (section 6.1).

mod fault;
mod refusal;
mod reply;

pub use fault::{Fault, FaultCode};
pub use refusal::{ClientInfo, LimitExplained, LimitScope, Refusal};
pub use reply::{FaultReply, ResponseError};

use super::xml::{Document, Element, FieldError, MESSAGES, PROTOCOLS, SOAP, Writer};

/// The media type of every answer, faults included (section 1).
pub const CONTENT_TYPE: &str = "text/xml; charset=utf-8";

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>";
const XSI: (&str, &str) = ("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance");
const XSD: (&str, &str) = ("xmlns:xsd", "http://www.w3.org/2001/XMLSchema");
const XMLNS_SOAP: (&str, &str) = ("xmlns:soap", SOAP);

/// What a challenge asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Section 2.
    AcquireLicense,
    /// Section 8.
    AcknowledgeLicense,
    /// Section 9.
    ProcessDeleteLicenseData,
}

impl Operation {
    /// Every operation that this library understands.
    pub const ALL: [Self; 3] =
        [Self::AcquireLicense, Self::AcknowledgeLicense, Self::ProcessDeleteLicenseData];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::AcquireLicense => "AcquireLicense",
            Self::AcknowledgeLicense => "AcknowledgeLicense",
            Self::ProcessDeleteLicenseData => "ProcessDeleteLicenseData",
        }
    }

    /// The element of a request that is signed.
    pub fn signed_element(self) -> &'static str {
        match self {
            Self::AcquireLicense => "LA",
            Self::AcknowledgeLicense => "LicenseAcknowledgement",
            Self::ProcessDeleteLicenseData => "DeleteLicenseData",
        }
    }

    /// The operation that a `SOAPAction` header names, with or without quotes. For logs only:
    /// the body decides (section 1).
    pub fn from_soap_action(header: &str) -> Option<Self> {
        let bare = header.trim().trim_matches('"');
        let name = bare.strip_prefix(PROTOCOLS)?.strip_prefix('/')?;
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    /// The `SOAPAction` header of a request, quotes included.
    pub fn soap_action(self) -> String {
        format!("\"{PROTOCOLS}/{}\"", self.name())
    }
}

/// Finds the operation and its `Challenge` element at their absolute paths.
pub(super) fn challenge<'d, 'a>(
    document: &'d Document<'a>,
) -> Result<(Operation, Element<'d, 'a>), FieldError> {
    let body = body(document)?;
    let known = Operation::ALL.into_iter().find_map(|operation| {
        body.only_child(PROTOCOLS, operation.name()).map(|element| (operation, element))
    });
    let (operation, element) =
        known.ok_or_else(|| body.problem("does not hold exactly one known operation"))?;
    let challenge = element
        .only_child(PROTOCOLS, "challenge")
        .and_then(|outer| outer.only_child(MESSAGES, "Challenge"))
        .ok_or_else(|| element.problem("does not hold exactly one challenge"))?;
    Ok((operation, challenge))
}

/// Finds the `Response` element that answers `operation`.
///
/// # Errors
///
/// [`ResponseError::Fault`] if the server answered with a fault.
pub(super) fn response<'d, 'a>(
    document: &'d Document<'a>,
    operation: Operation,
) -> Result<Element<'d, 'a>, ResponseError> {
    let body = body(document)?;
    if let Some(fault) = body.only_child(SOAP, "Fault") {
        return Err(ResponseError::Fault(FaultReply::read(fault)?));
    }
    let [outer, inner] = answer_names(operation);
    let response = body
        .only_child(PROTOCOLS, outer)
        .and_then(|element| element.only_child(PROTOCOLS, inner))
        .and_then(|element| element.only_child(MESSAGES, "Response"))
        .ok_or_else(|| body.problem("does not hold the answer to this operation"))?;
    Ok(response)
}

/// The `Body` of an envelope.
pub(crate) fn body<'d, 'a>(document: &'d Document<'a>) -> Result<Element<'d, 'a>, FieldError> {
    let envelope = document.root();
    if !envelope.is(SOAP, "Envelope") {
        return Err(FieldError::new("Envelope", "is not the root, or not of SOAP 1.1"));
    }
    envelope.required(SOAP, "Body")
}

/// Writes a request; `content` writes the children of `Challenge`.
pub(super) fn write_request(operation: Operation, content: impl FnOnce(&mut Writer)) -> Vec<u8> {
    envelope(&[XSI, XSD, XMLNS_SOAP], |w| {
        w.element(operation.name(), &[("xmlns", PROTOCOLS)], |w| {
            w.element("challenge", &[], |w| {
                w.element("Challenge", &[("xmlns", MESSAGES)], content);
            });
        });
    })
}

/// Writes an answer; `content` writes the children of `Response`.
pub(super) fn write_response(operation: Operation, content: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let [outer, inner] = answer_names(operation);
    answer(|w| {
        w.element(outer, &[("xmlns", PROTOCOLS)], |w| {
            w.element(inner, &[], |w| {
                w.element("Response", &[("xmlns", MESSAGES)], content);
            });
        });
    })
}

/// Writes the envelope of answers and faults; `content` writes the child of `soap:Body`.
pub(crate) fn answer(content: impl FnOnce(&mut Writer)) -> Vec<u8> {
    envelope(&[XMLNS_SOAP, XSI, XSD], content)
}

fn envelope(namespaces: &[(&str, &str)], content: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::with_capacity(8_192);
    w.raw(DECLARATION);
    w.element("soap:Envelope", namespaces, |w| w.element("soap:Body", &[], content));
    w.finish().into_bytes()
}

fn answer_names(operation: Operation) -> [&'static str; 2] {
    match operation {
        Operation::AcquireLicense => ["AcquireLicenseResponse", "AcquireLicenseResult"],
        Operation::AcknowledgeLicense => ["AcknowledgeLicenseResponse", "AcknowledgeLicenseResult"],
        Operation::ProcessDeleteLicenseData => {
            ["ProcessDeleteLicenseDataResponse", "ProcessDeleteLicenseDataResult"]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: &str = "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'>HEAD\
        <s:Body>BODY</s:Body></s:Envelope>";

    fn operation_of(head: &str, body: &str) -> Option<Operation> {
        let text = ANY.replace("HEAD", head).replace("BODY", body);
        let document = Document::parse(text.as_bytes()).unwrap();
        challenge(&document).ok().map(|(operation, _)| operation)
    }

    fn request(name: &str) -> String {
        format!(
            "<p:{name} xmlns:p='{PROTOCOLS}'><p:challenge><Challenge xmlns='{MESSAGES}'/>\
             </p:challenge></p:{name}>"
        )
    }

    #[test]
    fn dispatches_on_the_only_child_of_the_body_with_any_prefix() {
        for operation in Operation::ALL {
            assert_eq!(operation_of("<s:Header/>", &request(operation.name())), Some(operation));
        }
    }

    #[test]
    fn refuses_unknown_operations_two_operations_and_wrong_namespaces() {
        let acquire = request("AcquireLicense");
        assert_eq!(operation_of("", &request("JoinDomain")), None);
        assert_eq!(operation_of("", &acquire.repeat(2)), None);
        assert_eq!(operation_of("", ""), None);
        assert_eq!(operation_of("", &acquire.replace(PROTOCOLS, "urn:x")), None);
        assert_eq!(operation_of("", &acquire.replace(MESSAGES, PROTOCOLS)), None);
        assert_eq!(operation_of("<s:Body/>", &acquire), None);
        assert_eq!(operation_of(&acquire, ""), None);
    }

    #[test]
    fn refuses_soap_12() {
        let text = ANY
            .replace(SOAP, "http://www.w3.org/2003/05/soap-envelope")
            .replace("HEAD", "")
            .replace("BODY", &request("AcquireLicense"));
        assert!(challenge(&Document::parse(text.as_bytes()).unwrap()).is_err());
    }

    #[test]
    fn reads_the_soap_action_with_and_without_quotes() {
        for operation in Operation::ALL {
            let quoted = operation.soap_action();
            assert_eq!(Operation::from_soap_action(&quoted), Some(operation));
            assert_eq!(Operation::from_soap_action(quoted.trim_matches('"')), Some(operation));
        }
        assert_eq!(Operation::from_soap_action("\"\""), None);
        assert_eq!(Operation::from_soap_action("AcquireLicense"), None);
    }
}
