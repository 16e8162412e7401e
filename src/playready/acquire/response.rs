//! The answer to AcquireLicense (section 6).
//!
//! ```text
//! LicenseResponse xmlns=P1 Id="SignedData"
//!   Version                   "1"
//!   Licenses                  > License*  base64 of an XMR license
//!   RevInfo?                  the element of revinfo.xml, verbatim
//!   Acknowledgement?          > TransactionID  GUID text
//!   CustomData?
//!   LicenseNonce              base64, 16 bytes, that of the request
//!   ResponseID                base64, 32 random bytes
//!   SigningCertificateChain?  base64 of a CHAI
//! Signature?                  without KeyInfo
//! ```

use std::sync::Arc;

use data_encoding::BASE64;
use uuid::Uuid;

use crate::playready::bcert::{ChainCache, Leaf, VerifiedChain};
use crate::playready::ecc::PrivateKey;
use crate::playready::rev_info::RevInfo;
use crate::playready::signature::{self, SIGNED_ATTRIBUTES, Signed};
use crate::playready::soap::{self, Operation, ResponseError};
use crate::playready::xml::{Document, Element, FieldError, PROTOCOLS, SIGNATURES, Writer};

const LICENSE_RESPONSE: &str = "LicenseResponse";

/// The most bytes of an answer that a client reads; hundreds of licenses fit.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which responses are signed (section 6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignResponses {
    /// All.
    #[default]
    Always,
    /// Those that hold a persistent license.
    Persistent,
    /// None.
    Never,
}

/// Signs responses: the key of `server_sign.pem` and the chain of `server_chain.bcert`.
pub struct ResponseSigner {
    key: PrivateKey,
    /// The chain as every response repeats it.
    chain_base64: String,
    which: SignResponses,
}

impl ResponseSigner {
    /// A signer whose `chain` (a CHAI) has `key` as the SIGN_RESPONSE key of its leaf; that is for
    /// the caller to check.
    pub fn new(key: PrivateKey, chain: &[u8], which: SignResponses) -> Self {
        Self { key, chain_base64: BASE64.encode(chain), which }
    }

    fn signs(&self, persistent: bool) -> bool {
        match self.which {
            SignResponses::Always => true,
            SignResponses::Persistent => persistent,
            SignResponses::Never => false,
        }
    }
}

/// What the server answers to an [`AcquireRequest`](super::AcquireRequest).
pub struct LicenseAnswer<'a> {
    /// XMR licenses: roots first, then in the order of the request.
    pub licenses: &'a [Vec<u8>],
    /// Whether one of them is persistent.
    pub persistent: bool,
    /// The `RevInfo` element, if the request
    /// [wants it](super::AcquireRequest::wants_rev_info).
    pub rev_info: Option<&'a str>,
    /// Asks the client to acknowledge.
    pub transaction_id: Option<Uuid>,
    /// Text for the application.
    pub custom_data: Option<&'a str>,
    /// The nonce of the request.
    pub nonce: &'a [u8; 16],
    /// Freshly random.
    pub response_id: &'a [u8; 32],
}

impl LicenseAnswer<'_> {
    /// The SOAP document, signed if the signer's policy says so.
    pub fn render(&self, signer: &ResponseSigner) -> Vec<u8> {
        let signer = Some(signer).filter(|signer| signer.signs(self.persistent));
        soap::write_response(Operation::AcquireLicense, |w| {
            let start = w.position();
            w.element(LICENSE_RESPONSE, &SIGNED_ATTRIBUTES, |w| {
                self.write(w);
                if let Some(signer) = signer {
                    // Base64 needs no escaping.
                    w.element("SigningCertificateChain", &[], |w| w.raw(&signer.chain_base64));
                }
            });
            if let Some(signer) = signer {
                signature::write(w, start, &signer.key, false);
            }
        })
    }

    fn write(&self, w: &mut Writer) {
        w.leaf("Version", "1");
        w.element("Licenses", &[], |w| {
            self.licenses.iter().for_each(|license| w.base64("License", license));
        });
        if let Some(element) = self.rev_info {
            w.raw(element);
        }
        if let Some(id) = self.transaction_id {
            w.element("Acknowledgement", &[], |w| w.leaf("TransactionID", &id.to_string()));
        }
        if let Some(text) = self.custom_data {
            w.leaf("CustomData", text);
        }
        w.base64("LicenseNonce", self.nonce);
        w.base64("ResponseID", self.response_id);
    }
}

/// Whom a client believes.
pub struct ResponseTrust {
    /// Verifies signing chains up to the root.
    pub chains: ChainCache,
    /// Whether an answer without any signature is taken, as real clients do.
    pub accept_unsigned: bool,
}

/// An answer that a client has verified.
#[derive(Clone, Debug)]
pub struct AcquireResponse {
    /// XMR licenses.
    pub licenses: Vec<Vec<u8>>,
    /// Revocation information to store, not verified yet.
    pub rev_info: Option<RevInfo>,
    /// What the acknowledgement names; `None` if none is asked for.
    pub transaction_id: Option<Uuid>,
    /// Text for the application.
    pub custom_data: Option<String>,
    /// What the server chose as the id of its answer.
    pub response_id: [u8; 32],
    /// Who signed; `None` if nobody did and that is accepted.
    pub signer: Option<Arc<VerifiedChain>>,
}

impl AcquireResponse {
    /// Verifies and reads the answer to the request with this `nonce` at the time `now_s` (Unix
    /// seconds), as strictly as a client can.
    ///
    /// # Errors
    ///
    /// A fault; a missing or wrong signature; a signing chain that does not end at the root with
    /// type SERVER and key usage SIGN_RESPONSE; another nonce; no license; any other deviation
    /// from section 6.1.
    pub fn verify(
        body: &[u8],
        nonce: &[u8; 16],
        trust: &ResponseTrust,
        now_s: u64,
    ) -> Result<Self, ResponseError> {
        let document = Document::parse_up_to(body, ANSWER_BYTES_MAX)?;
        let response = soap::response(&document, Operation::AcquireLicense)?;
        let is_signed = document.elements().any(|element| element.is(SIGNATURES, "Signature"));
        if !is_signed {
            if !trust.accept_unsigned {
                return Err(ResponseError::Unsigned);
            }
            let alone = response.only_child(PROTOCOLS, LICENSE_RESPONSE);
            let alone = alone.ok_or_else(|| response.problem("does not hold one answer"))?;
            return Self::read(alone.raw(), nonce).map(|(answer, _)| answer);
        }
        let signed = Signed::in_response(&document, response, LICENSE_RESPONSE)?;
        let (mut answer, chain) = Self::read(signed.element().raw(), nonce)?;
        let chain =
            chain.ok_or_else(|| FieldError::new("SigningCertificateChain", "is missing"))?;
        let chain = trust.chains.verify(&chain, Leaf::Server, now_s)?;
        signed.verify(chain.signing_key())?;
        answer.signer = Some(chain);
        Ok(answer)
    }

    /// Reads the answer from a parse of exactly its own bytes. Also returns the signing chain.
    fn read(bytes: &str, nonce: &[u8; 16]) -> Result<(Self, Option<Vec<u8>>), ResponseError> {
        let document = Document::parse_up_to(bytes.as_bytes(), ANSWER_BYTES_MAX)?;
        let answer = document.root();
        if !answer.is(PROTOCOLS, LICENSE_RESPONSE) {
            return Err(answer.problem("is not LicenseResponse when read alone").into());
        }
        let (required, optional) =
            (|local| answer.required(PROTOCOLS, local), |local| answer.optional(PROTOCOLS, local));
        if required("Version")?.trimmed()? != "1" {
            return Err(FieldError::new("Version", "is not 1").into());
        }
        if required("LicenseNonce")?.base64_array::<16>()? != *nonce {
            return Err(ResponseError::NotOurs("LicenseNonce"));
        }
        let licenses =
            required("Licenses")?.children().map(license).collect::<Result<Vec<_>, _>>()?;
        if licenses.is_empty() {
            return Err(FieldError::new("Licenses", "holds no license").into());
        }
        let acknowledgement = optional("Acknowledgement")?;
        let transaction_id = acknowledgement
            .map(|element| element.required(PROTOCOLS, "TransactionID")?.guid())
            .transpose()?;
        let custom_data = optional("CustomData")?.map(Element::value).transpose()?;
        let rev_info = optional("RevInfo")?.map(|element| RevInfo::read(element, PROTOCOLS));
        let chain = optional("SigningCertificateChain")?.map(Element::base64).transpose()?;
        let answer = Self {
            licenses,
            rev_info: rev_info.transpose()?,
            transaction_id,
            custom_data: custom_data.map(std::borrow::Cow::into_owned),
            response_id: required("ResponseID")?.base64_array()?,
            signer: None,
        };
        Ok((answer, chain))
    }
}

fn license(element: Element<'_, '_>) -> Result<Vec<u8>, FieldError> {
    if element.is(PROTOCOLS, "License") {
        element.base64()
    } else {
        Err(element.problem("stands among the licenses"))
    }
}

#[cfg(test)]
mod tests;
