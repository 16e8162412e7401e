//! SOAP faults: the codes Microsoft published, and how they are written and read (section 7).

use std::fmt;

use super::Refusal;
use crate::playready::xml::FieldError;

/// A published status code, always sent with HTTP 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultCode {
    /// The device certificate is revoked; the client stops acquiring until it is updated.
    DeviceRevoked,
    /// Internal error; the client retries silently three times.
    Internal,
    /// The message is malformed or does not verify; the client retries once.
    InvalidMessage,
    /// The account's domain is full. Only JoinDomain answers it.
    DeviceLimit,
    /// A rule of this service, explained by a [`Refusal`].
    ServiceSpecific,
    /// The client must join the domain and ask again.
    DomainRequired,
    /// The client's domain revision is outdated.
    RenewDomain,
    /// The device was removed from the domain.
    NotAMember,
    /// The `Version` of the message is not spoken here.
    ProtocolVersion,
    /// The account id is not known.
    UnknownAccount,
    /// The service moved.
    Redirect,
    /// Any other code; only the test policy string makes the server send one.
    Other(u32),
}

impl FaultCode {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        match self {
            Self::DeviceRevoked => 0x8004_C065,
            Self::Internal => 0x8004_C600,
            Self::InvalidMessage => 0x8004_C601,
            Self::DeviceLimit => 0x8004_C602,
            Self::ServiceSpecific => 0x8004_C604,
            Self::DomainRequired => 0x8004_C605,
            Self::RenewDomain => 0x8004_C606,
            Self::NotAMember => 0x8004_C60A,
            Self::ProtocolVersion => 0x8004_C60B,
            Self::UnknownAccount => 0x8004_C60C,
            Self::Redirect => 0x8004_C60D,
            Self::Other(number) => number,
        }
    }

    /// The code with this number.
    pub fn from_number(number: u32) -> Self {
        const PUBLISHED: [FaultCode; 11] = [
            FaultCode::DeviceRevoked,
            FaultCode::Internal,
            FaultCode::InvalidMessage,
            FaultCode::DeviceLimit,
            FaultCode::ServiceSpecific,
            FaultCode::DomainRequired,
            FaultCode::RenewDomain,
            FaultCode::NotAMember,
            FaultCode::ProtocolVersion,
            FaultCode::UnknownAccount,
            FaultCode::Redirect,
        ];
        let published = PUBLISHED.into_iter().find(|code| code.number() == number);
        published.unwrap_or(Self::Other(number))
    }

    /// The fixed `faultstring`.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::DeviceRevoked => "Device certificate revoked",
            Self::Internal => "Internal error",
            Self::InvalidMessage => "Invalid message",
            Self::DeviceLimit => "Device limit reached",
            Self::ServiceSpecific => "Service specific",
            Self::DomainRequired => "Domain required",
            Self::RenewDomain => "Renew domain",
            Self::NotAMember => "Not a member",
            Self::ProtocolVersion => "Protocol version mismatch",
            Self::UnknownAccount => "Unknown account id",
            Self::Redirect => "Protocol redirect",
            Self::Other(_) => "Fault",
        }
    }
}

/// As in a `StatusCode` element: `0x` and eight lower-case hexadecimal digits.
impl fmt::Display for FaultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08x}", self.number())
    }
}

/// A fault to send. What the client sees is the code and the refusal; the detail is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Fault {
    /// The status code.
    pub code: FaultCode,
    /// The `CustomData` of [`FaultCode::ServiceSpecific`].
    pub custom_data: Option<Refusal>,
    /// What happened, without secrets; never sent.
    pub detail: String,
}

impl Fault {
    /// A fault without custom data.
    pub fn new(code: FaultCode, detail: impl fmt::Display) -> Self {
        Self { code, custom_data: None, detail: detail.to_string() }
    }

    /// 8004C601.
    pub fn invalid_message(detail: impl fmt::Display) -> Self {
        Self::new(FaultCode::InvalidMessage, detail)
    }

    /// 8004C604 with `refusal`.
    pub fn refused(refusal: Refusal) -> Self {
        let detail = refusal.to_json();
        Self::refused_because(refusal, detail)
    }

    /// 8004C604 with `refusal`, and more of the matter for the log.
    pub fn refused_because(refusal: Refusal, detail: impl fmt::Display) -> Self {
        let detail = detail.to_string();
        Self { code: FaultCode::ServiceSpecific, custom_data: Some(refusal), detail }
    }

    /// The SOAP document that carries the fault.
    pub fn render(&self) -> Vec<u8> {
        super::answer(|w| {
            w.element("soap:Fault", &[], |w| {
                w.leaf("faultcode", "soap:Server");
                w.leaf("faultstring", self.code.text());
                w.leaf("faultactor", "license-ledger");
                w.element("detail", &[], |w| {
                    w.element("Exception", &[], |w| {
                        w.leaf("StatusCode", &self.code.to_string());
                        if let Some(refusal) = &self.custom_data {
                            w.leaf("CustomData", &refusal.to_json());
                        }
                    });
                });
            });
        })
    }
}

impl From<FieldError> for Fault {
    fn from(error: FieldError) -> Self {
        Self::invalid_message(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playready::kid::Kid;
    use crate::playready::soap::{FaultReply, LimitScope, Operation, ResponseError, response};
    use crate::playready::xml::Document;

    const GOLDEN: &str = include_str!("../../../tests/golden/fault_persistent_limit.xml");

    fn limit() -> Refusal {
        let kids = ["01234567-89ab-cdef-0123-456789abcdef", "01234567-89ab-cdef-0123-456789abcdf0"];
        Refusal::PersistentLicenseLimit {
            scope: LimitScope::Device,
            window_seconds: None,
            limit: 2,
            held: 2,
            requested: 1,
            held_kids: kids.map(|kid| Kid::from(kid.parse::<uuid::Uuid>().unwrap())).to_vec(),
            explained: None,
        }
    }

    fn read(bytes: &[u8]) -> FaultReply {
        let document = Document::parse(bytes).unwrap();
        match response(&document, Operation::AcquireLicense) {
            Err(ResponseError::Fault(fault)) => fault,
            _ => panic!("no fault"),
        }
    }

    #[test]
    fn a_refused_persistent_license_matches_its_golden() {
        let rendered = Fault::refused(limit()).render();
        assert_eq!(String::from_utf8(rendered).unwrap(), GOLDEN);
    }

    #[test]
    fn a_client_reads_code_and_refusal() {
        let fault = read(GOLDEN.as_bytes());
        assert_eq!(fault.code, FaultCode::ServiceSpecific);
        assert_eq!(fault.refusal(), Some(limit()));
    }

    #[test]
    fn the_detail_for_the_log_is_never_sent() {
        let fault = Fault::invalid_message("canary");
        let text = String::from_utf8(fault.render()).unwrap();
        assert!(text.contains("<StatusCode>0x8004c601</StatusCode></Exception>"), "{text}");
        assert!(!text.contains("canary"));
    }

    #[test]
    fn custom_data_survives_escaping() {
        let refusal = Refusal::InvalidCfg { detail: "<a> & \"b\"".into() };
        let rendered = Fault::refused(refusal.clone()).render();
        assert_eq!(read(&rendered).refusal(), Some(refusal));
    }

    #[test]
    fn every_code_is_found_by_its_number() {
        for number in [0x8004_C065, 0x8004_C600, 0x8004_C604, 0x8004_C60D, 0x8004_C603, 7] {
            assert_eq!(FaultCode::from_number(number).number(), number);
        }
        assert_eq!(FaultCode::from_number(0x8004_C60B), FaultCode::ProtocolVersion);
        assert_eq!(FaultCode::from_number(0x8004_C603), FaultCode::Other(0x8004_C603));
    }
}
