//! Challenges: from the bytes of a request to a message whose sender is known, and back.
//!
//! [`Verifier::verify`] is the only source of a [`VerifiedChallenge`], and that is the only form in
//! which the rest of the program takes a request. It runs steps 1 to 7 of section 4 of the
//! [protocol page](super), in that order; revocation, step 8, is asked afterwards, because a
//! revoked device may still give licenses back.
//!
//! ```text
//! step  what                                             failure
//! 1     limits, markup bans, well-formed                 8004C601
//! 2     operation, absolute paths, uniqueness            8004C601
//! 3     Version of the signed element                    8004C60B
//! 4     SignedInfo, digest, ECDSA under PublicKey        8004C601
//! 5     KeyName, ElGamal, CBC, client data, CHAI         8004C601, uniform
//! 6     chain to the root, PublicKey = leaf SIGN key     8004C601, uniform
//! 7     syntax of the fields                             8004C601
//! ```

mod signer;

use std::ops::Range;
use std::sync::Arc;

pub use signer::ChallengeSigner;

use super::acknowledge::Acknowledgement;
use super::acquire::AcquireRequest;
use super::bcert::{ChainCache, Leaf, VerifiedChain};
use super::client_data::{self, ClientData};
use super::delete::DeleteRequest;
use super::ecc::{PrivateKey, PublicKey};
use super::signature::Signed;
use super::soap::{self, Fault, FaultCode, Operation};
use super::xml::{Document, ENCRYPTION, Element, FieldError, PROTOCOLS};

/// What a challenge says.
#[expect(clippy::large_enum_variant, reason = "one for each request, and most acquire")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks for licenses.
    Acquire(AcquireRequest),
    /// Says which licenses were stored.
    Acknowledge(Acknowledgement),
    /// Says which licenses were removed.
    Delete(DeleteRequest),
}

impl Message {
    /// The operation that carries the message.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Acquire(_) => Operation::AcquireLicense,
            Self::Acknowledge(_) => Operation::AcknowledgeLicense,
            Self::Delete(_) => Operation::ProcessDeleteLicenseData,
        }
    }

    fn read(
        operation: Operation,
        signed: Element<'_, '_>,
        version: u8,
    ) -> Result<Self, FieldError> {
        match operation {
            Operation::AcquireLicense => AcquireRequest::read(signed, version).map(Self::Acquire),
            Operation::AcknowledgeLicense => Acknowledgement::read(signed).map(Self::Acknowledge),
            Operation::ProcessDeleteLicenseData => DeleteRequest::read(signed).map(Self::Delete),
        }
    }
}

/// Who sent a challenge, as proven by its certificates.
#[derive(Clone, Debug)]
pub struct Sender {
    chain: Arc<VerifiedChain>,
    encrypt_key: PublicKey,
    features: Vec<String>,
    handles_cbc: bool,
}

impl Sender {
    /// The device's identity: SHA-256 of the leaf's SIGN key.
    pub fn identity(&self) -> &[u8; 32] {
        self.chain.identity()
    }

    /// The verified chain; its bytes are what was decrypted.
    pub fn chain(&self) -> &Arc<VerifiedChain> {
        &self.chain
    }

    /// The security level in the leaf: 150, 2000 or 3000.
    pub fn security_level(&self) -> u32 {
        self.chain.security_level()
    }

    /// The key that licenses are wrapped to.
    pub fn encrypt_key(&self) -> &PublicKey {
        &self.encrypt_key
    }

    /// The names of the features in the client data.
    pub fn features(&self) -> &[String] {
        &self.features
    }

    /// Whether the client handles keys for AES-CBC (section 2.5).
    pub fn handles_cbc(&self) -> bool {
        self.handles_cbc
    }
}

/// A request that has passed steps 1 to 7 of section 4. Only [`Verifier::verify`] makes one.
#[derive(Clone, Debug)]
pub struct VerifiedChallenge {
    sender: Sender,
    message: Message,
    signed_digest: [u8; 32],
    signed_span: Range<usize>,
    request: Box<[u8]>,
}

impl VerifiedChallenge {
    /// Who signed it.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// What it says. Every value was read from the signed bytes.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// SHA-256 of the signed element as transmitted: equal for a repeat, different for anything
    /// else.
    pub fn signed_digest(&self) -> &[u8; 32] {
        &self.signed_digest
    }

    /// The whole request as transmitted, to be kept as evidence.
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// Where the signed element stands in [`request`](Self::request).
    pub fn signed_span(&self) -> Range<usize> {
        self.signed_span.clone()
    }
}

/// Verifies challenges for one server key and one root.
pub struct Verifier {
    wmrm: PrivateKey,
    chains: ChainCache,
}

/// The one detail of all failures from decryption to the comparison of keys (section 2.4).
const NOT_ACCEPTED: &str = "the client data or its certificate chain is not accepted";

impl Verifier {
    /// A verifier for requests encrypted to `wmrm` by devices whose chains end at `root`.
    pub fn new(wmrm: PrivateKey, root: PublicKey) -> Self {
        Self { wmrm, chains: ChainCache::new(root) }
    }

    /// Verifies the body of a request at the time `now_s` (Unix seconds).
    ///
    /// # Errors
    ///
    /// The fault to answer. From decryption to the comparison of the signing key with the leaf
    /// certificate there is one identical fault, since the sender may be probing a ciphertext
    /// that somebody else made.
    pub fn verify(&self, body: &[u8], now_s: u64) -> Result<VerifiedChallenge, Fault> {
        let document = Document::parse(body).map_err(fault)?;
        let (operation, challenge) = soap::challenge(&document)?;
        let name = operation.signed_element();
        let signed = Signed::in_request(&document, challenge, name)?;
        let verify =
            |element: Element<'_, '_>| self.verify_alone(operation, &signed, element, now_s);
        let (sender, message, signed_digest) = signed.element().alone(verify).map_err(fault)??;
        Ok(VerifiedChallenge {
            sender,
            message,
            signed_digest,
            signed_span: signed.span(),
            request: body.into(),
        })
    }

    /// Steps 3 to 7. `element` is the signed element, read alone.
    fn verify_alone(
        &self,
        operation: Operation,
        signed: &Signed<'_, '_>,
        element: Element<'_, '_>,
        now_s: u64,
    ) -> Result<(Sender, Message, [u8; 32]), Fault> {
        if !element.is(PROTOCOLS, operation.signed_element()) {
            return Err(element.problem("has another name when read alone").into());
        }
        let encrypted = element.required(ENCRYPTION, "EncryptedData")?;
        let version = version(operation, element)?;
        let key = signed.stated_key().map_err(fault)?;
        let signed_digest = signed.verify(&key).map_err(fault)?;
        let sender = self
            .identify(encrypted, &key, now_s)
            .ok_or_else(|| Fault::invalid_message(NOT_ACCEPTED))?;
        Ok((sender, Message::read(operation, element, version)?, signed_digest))
    }

    /// Steps 5 and 6. Deliberately does not say why it fails.
    fn identify(&self, encrypted: Element<'_, '_>, key: &PublicKey, now_s: u64) -> Option<Sender> {
        let data = client_data::open(encrypted, &self.wmrm).ok()?;
        let chain = self.chains.verify(&data.chain, Leaf::Device, now_s).ok()?;
        if chain.signing_key() != key {
            return None;
        }
        let handles_cbc = data.handles_cbc();
        let ClientData { features, .. } = data;
        Some(Sender { encrypt_key: *chain.encrypt_key()?, chain, features, handles_cbc })
    }
}

/// A version that this server speaks: 1 to 5 for acquisitions, else 1 (sections 2.1, 8, 9).
fn version(operation: Operation, signed: Element<'_, '_>) -> Result<u8, Fault> {
    let text = signed.required(PROTOCOLS, "Version")?.trimmed()?;
    let accepted: &[_] = match operation {
        Operation::AcquireLicense => &["1", "2", "3", "4", "5"],
        Operation::AcknowledgeLicense | Operation::ProcessDeleteLicenseData => &["1"],
    };
    let spoken = (1..).zip(accepted).find(|(_, accepted)| **accepted == text);
    spoken.map(|(version, _)| version).ok_or_else(|| {
        Fault::new(FaultCode::ProtocolVersion, "the Version of the message is not spoken here")
    })
}

/// 8004C601 with the causes in its detail, which only the log sees.
fn fault(error: impl std::error::Error) -> Fault {
    let mut detail = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        detail = format!("{detail}: {cause}");
        source = cause.source();
    }
    Fault::invalid_message(detail)
}

#[cfg(test)]
mod tests;
