//! The signature on a message: where it is found, what it covers, how it is made.
//!
//! ```text
//! Challenge or Response
//!   LA xmlns=P1 Id="SignedData" …        the signed element; raw bytes are hashed
//!   Signature xmlns=DS
//!     SignedInfo xmlns=DS                raw bytes are signed
//!       CanonicalizationMethod  Algorithm
//!       SignatureMethod         Algorithm
//!       Reference URI="#SignedData"
//!         DigestMethod          Algorithm
//!         DigestValue           base64, 32 bytes
//!     SignatureValue            base64, 64 bytes r‖s
//!     KeyInfo > KeyValue > ECCKeyValue > PublicKey    base64, 64 bytes X‖Y; requests only
//! ```
//!
//! Sections 2.1 to 2.3 and 6.2 of the [protocol page](super). Despite the declared algorithm,
//! nothing is canonicalized: the bytes of the element as transmitted are what clients hash.
//! Elements are taken from absolute paths and must be alone of their kind in the whole document,
//! so that nobody can move the signed element aside and put another in its place.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::ecc::{BadSignature, InvalidPoint, PrivateKey, PublicKey};
use super::xml::{
    Document, ENCRYPTION, Element, FieldError, PROTOCOLS, SIGNATURES, Writer, XmlError,
};

/// The value of the signed element's `Id`.
const SIGNED_ID: &str = "SignedData";
const SIGNED_URI: &str = "#SignedData";
const C14N: &str = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315";
const ECDSA_SHA256: &str = "http://schemas.microsoft.com/DRM/2007/03/protocols#ecdsa-sha256";
const SHA256: &str = "http://schemas.microsoft.com/DRM/2007/03/protocols#sha256";

/// Why a signature was not accepted. The sender's fault.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// `SignedInfo` does not stand for itself as a document.
    #[error("SignedInfo cannot be read alone")]
    SignedInfo(#[from] XmlError),
    /// An element is missing, repeated, or not what it must be.
    #[error("the signature is not of the required form")]
    Form(#[from] FieldError),
    /// The key in the message is not a point on the curve.
    #[error("the key of the signature is not valid")]
    Key(#[from] InvalidPoint),
    /// The signed element is not the one that was digested.
    #[error("the digest does not match the signed element")]
    Digest,
    /// The signature was made by another key or over other bytes.
    #[error("the signature does not match SignedInfo")]
    Signature(#[from] BadSignature),
}

/// Who names the key of a signature.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeySource {
    /// `KeyInfo`, in requests.
    Message,
    /// The signing chain inside the signed element, in responses.
    Chain,
}

/// A signed element and its signature at their places; nothing is verified yet.
pub(super) struct Signed<'d, 'a> {
    element: Element<'d, 'a>,
    signed_info: Element<'d, 'a>,
    value: Element<'d, 'a>,
    key_info: Option<Element<'d, 'a>>,
}

impl<'d, 'a> Signed<'d, 'a> {
    /// Finds the signed element `local` and its signature in the `Challenge` of a request.
    ///
    /// # Errors
    ///
    /// Rules 1 and 2 of section 2.3.
    pub(super) fn in_request(
        document: &'d Document<'a>,
        challenge: Element<'d, 'a>,
        local: &str,
    ) -> Result<Self, FieldError> {
        count(document, ENCRYPTION, "EncryptedData", 1)?;
        Self::locate(document, challenge, local, KeySource::Message)
    }

    /// Finds the `LicenseResponse` and its signature in the `Response` of an answer.
    ///
    /// # Errors
    ///
    /// Rules 1 and 2 of section 2.3, as far as they concern a response.
    pub(super) fn in_response(
        document: &'d Document<'a>,
        response: Element<'d, 'a>,
        local: &str,
    ) -> Result<Self, FieldError> {
        Self::locate(document, response, local, KeySource::Chain)
    }

    fn locate(
        document: &'d Document<'a>,
        parent: Element<'d, 'a>,
        local: &str,
        source: KeySource,
    ) -> Result<Self, FieldError> {
        let [signed, signature] = exactly(parent, [(PROTOCOLS, local), (SIGNATURES, "Signature")])?;
        count(document, PROTOCOLS, local, 1)?;
        count(document, SIGNATURES, "Signature", 1)?;
        count(document, SIGNATURES, "SignedInfo", 1)?;
        only_signed_id(document, signed)?;
        let (info, value) = ((SIGNATURES, "SignedInfo"), (SIGNATURES, "SignatureValue"));
        let (signed_info, value, key_info) = match source {
            KeySource::Message => {
                let [info, value, key] =
                    exactly(signature, [info, value, (SIGNATURES, "KeyInfo")])?;
                (info, value, Some(key))
            }
            KeySource::Chain => {
                let [info, value] = exactly(signature, [info, value])?;
                (info, value, None)
            }
        };
        Ok(Self { element: signed, signed_info, value, key_info })
    }

    /// The signed element.
    pub(super) fn element(&self) -> Element<'d, 'a> {
        self.element
    }

    /// Where the signed element stands in the message.
    pub(super) fn span(&self) -> Range<usize> {
        self.element.span()
    }

    /// The key that a request says it is signed with. It counts only once it has been compared
    /// with the leaf certificate.
    pub(super) fn stated_key(&self) -> Result<PublicKey, SignatureError> {
        let missing = || FieldError::new("KeyInfo", "does not hold exactly one PublicKey");
        let key = self
            .key_info
            .and_then(|info| info.only_child(SIGNATURES, "KeyValue"))
            .and_then(|value| value.only_child(SIGNATURES, "ECCKeyValue"))
            .and_then(|value| value.only_child(SIGNATURES, "PublicKey"))
            .ok_or_else(missing)?;
        Ok(PublicKey::from_xy(&key.base64_array::<64>()?)?)
    }

    /// Checks `SignedInfo`, the digest and the signature (section 2.2 and rules 3 to 5 of 2.3).
    /// Returns SHA-256 of the signed element.
    pub(super) fn verify(&self, key: &PublicKey) -> Result<[u8; 32], SignatureError> {
        // Alone, so that a prefix declared outside cannot change a name.
        let stated = self.signed_info.alone(|info| stated_digest(info))??;
        let digest: [u8; 32] = Sha256::digest(self.element.raw()).into();
        if stated != digest {
            return Err(SignatureError::Digest);
        }
        let signature = self.value.base64_array::<64>()?;
        key.verify(self.signed_info.raw().as_bytes(), &signature)?;
        Ok(digest)
    }
}

fn stated_digest(info: Element<'_, '_>) -> Result<[u8; 32], SignatureError> {
    if !info.is(SIGNATURES, "SignedInfo") {
        return Err(info.problem("is not SignedInfo when read alone").into());
    }
    let names = ["CanonicalizationMethod", "SignatureMethod", "Reference"];
    let [canonicalization, method, reference] = exactly(info, names.map(|n| (SIGNATURES, n)))?;
    let names = ["DigestMethod", "DigestValue"];
    let [digest_method, digest] = exactly(reference, names.map(|n| (SIGNATURES, n)))?;
    require(canonicalization, "Algorithm", C14N)?;
    require(method, "Algorithm", ECDSA_SHA256)?;
    require(reference, "URI", SIGNED_URI)?;
    require(digest_method, "Algorithm", SHA256)?;
    Ok(digest.base64_array()?)
}

fn require(element: Element<'_, '_>, attribute: &str, value: &str) -> Result<(), FieldError> {
    if element.attribute(attribute) == Some(value) {
        Ok(())
    } else {
        Err(element.problem("does not name what this protocol uses"))
    }
}

/// The children of `parent`, which must be these and no others, in this order.
fn exactly<'d, 'a, const N: usize>(
    parent: Element<'d, 'a>,
    names: [(&str, &str); N],
) -> Result<[Element<'d, 'a>; N], FieldError> {
    let mut children = parent.children();
    let found = names.map(|(namespace, local)| {
        children.next().filter(|child| child.is(namespace, local)).unwrap_or(parent)
    });
    let missing = found.iter().any(|child| child.is_same(parent));
    if missing || children.next().is_some() {
        return Err(parent.problem("does not hold exactly the required children"));
    }
    Ok(found)
}

fn count(
    document: &Document<'_>,
    namespace: &str,
    local: &str,
    wanted: usize,
) -> Result<(), FieldError> {
    if document.elements().filter(|element| element.is(namespace, local)).count() == wanted {
        Ok(())
    } else {
        Err(FieldError::new(local, "does not appear exactly once in the document"))
    }
}

/// Requires that one attribute in the document names the signed data, in any spelling of `Id`, and
/// that it stands on `signed`.
fn only_signed_id(document: &Document<'_>, signed: Element<'_, '_>) -> Result<(), FieldError> {
    let ids_of = |element: Element<'_, '_>| {
        let named = element.attributes().filter(|attribute| {
            attribute.local.eq_ignore_ascii_case("id") && attribute.value.trim() == SIGNED_ID
        });
        named.count()
    };
    let total: usize = document.elements().map(ids_of).sum();
    if total == 1 && ids_of(signed) == 1 {
        Ok(())
    } else {
        Err(signed.problem("is not the only element with the Id of the signed data"))
    }
}

/// The attributes of a signed element, in the order they are written.
pub(super) const SIGNED_ATTRIBUTES: [(&str, &str); 2] = [("xmlns", PROTOCOLS), ("Id", SIGNED_ID)];

/// Appends the `Signature` over the element that `w` holds from `start` on.
pub(super) fn write(w: &mut Writer, start: usize, key: &PrivateKey, with_key_info: bool) {
    let digest: [u8; 32] = Sha256::digest(w.since(start)).into();
    let xmlns = ("xmlns", SIGNATURES);
    w.element("Signature", &[xmlns], |w| {
        let signed_info = w.position();
        w.element("SignedInfo", &[xmlns], |w| {
            w.element("CanonicalizationMethod", &[("Algorithm", C14N)], |_| ());
            w.element("SignatureMethod", &[("Algorithm", ECDSA_SHA256)], |_| ());
            w.element("Reference", &[("URI", SIGNED_URI)], |w| {
                w.element("DigestMethod", &[("Algorithm", SHA256)], |_| ());
                w.base64("DigestValue", &digest);
            });
        });
        let signature = key.sign(w.since(signed_info).as_bytes());
        w.base64("SignatureValue", &signature);
        if with_key_info {
            w.element("KeyInfo", &[xmlns], |w| {
                w.element("KeyValue", &[], |w| {
                    w.element("ECCKeyValue", &[], |w| w.base64("PublicKey", key.public().xy()));
                });
            });
        }
    });
}
