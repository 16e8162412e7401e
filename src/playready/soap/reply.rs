//! What a client makes of answers that are not the one it asked for.

use std::fmt;

use super::{FaultCode, Refusal};
use crate::playready::bcert::ChainError;
use crate::playready::signature::SignatureError;
use crate::playready::xml::{Element, FieldError, XmlError};

/// Why a client does not accept an answer.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// The server said no.
    #[error("the server answered with fault {0}")]
    Fault(FaultReply),
    /// The answer is not XML that this protocol uses.
    #[error("the answer cannot be read")]
    Xml(#[from] XmlError),
    /// An element of the answer is missing, repeated, or not what it must be.
    #[error("the answer is malformed")]
    Field(#[from] FieldError),
    /// The answer is not signed and the client insists.
    #[error("the answer is not signed")]
    Unsigned,
    /// The signature does not verify.
    #[error("the signature of the answer is refused")]
    Signature(#[from] SignatureError),
    /// The signer's certificates do not lead to the trusted root.
    #[error("the certificate chain of the answer is refused")]
    Chain(#[from] ChainError),
    /// The answer is to another request.
    #[error("the {0} of the answer is not that of the request")]
    NotOurs(&'static str),
}

/// A fault as a client received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultReply {
    /// The status code.
    pub code: FaultCode,
    /// The text of `CustomData`.
    pub custom_data: Option<String>,
}

impl FaultReply {
    /// Reads a `soap:Fault` element.
    pub(super) fn read(fault: Element<'_, '_>) -> Result<Self, FieldError> {
        let exception = fault.required("", "detail")?.required("", "Exception")?;
        let status = exception.required("", "StatusCode")?;
        let text = status.trimmed()?;
        let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 8);
        let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let number = number.ok_or_else(|| status.problem("is not 0x and eight digits"))?;
        let custom_data = match exception.optional("", "CustomData")? {
            Some(element) => Some(element.value()?.into_owned()),
            None => None,
        };
        Ok(Self { code: FaultCode::from_number(number), custom_data })
    }

    /// The refusal in `CustomData`, if it is one of this service's.
    pub fn refusal(&self) -> Option<Refusal> {
        self.custom_data.as_deref().and_then(Refusal::from_json)
    }
}

impl fmt::Display for FaultReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.code.text())?;
        match &self.custom_data {
            Some(custom_data) => write!(f, ": {custom_data}"),
            None => Ok(()),
        }
    }
}
