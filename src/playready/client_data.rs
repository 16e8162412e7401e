//! The client data of a request: the device's certificates and features, encrypted to the server.
//!
//! ```text
//! EncryptedData (section 2.4)                        client data (section 2.5), no namespace
//!   EncryptionMethod       aes128-cbc                Data
//!   KeyInfo                                            CertificateChains
//!     EncryptedKey                                       CertificateChain   base64 of a CHAI
//!       EncryptionMethod   ecc256                      Features
//!       KeyInfo > KeyName  WMRMServer                    Feature Name="…"   any number
//!       CipherData > CipherValue                         REE? > empty elements
//!         C1‖C2, 128 bytes
//!   CipherData > CipherValue
//!     IV(16) ‖ AES-128-CBC ciphertext, PKCS#7
//! ```
//!
//! The AES key is the lower half of the abscissa of the encrypted point. Who signed a request is
//! known only from what is decrypted here, so an attacker may have re-signed a modified ciphertext
//! of somebody else: all failures are one, and a plaintext with bad padding is read like any other
//! before it is refused.

use aes::Aes128;
use cbc::cipher::block_padding::{NoPadding, Pkcs7};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq, ConstantTimeGreater};
use zeroize::Zeroizing;

use super::ecc::{PrivateKey, PublicKey};
use super::elgamal::{self, Point, Random};
use super::xml::{Document, ENCRYPTION, Element, SIGNATURES, Writer};

const KEY_NAME: &str = "WMRMServer";
const ELEMENT_TYPE: &str = "http://www.w3.org/2001/04/xmlenc#Element";
const AES128_CBC: &str = "http://www.w3.org/2001/04/xmlenc#aes128-cbc";
const ECC256: &str = "http://schemas.microsoft.com/DRM/2007/03/protocols#ecc256";
const BLOCK_BYTES: usize = 16;

/// What a device says of itself (section 2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientData {
    /// The certificate chain: a CHAI, leaf first.
    pub chain: Vec<u8>,
    /// The names of its features.
    pub features: Vec<String>,
    /// The names of the elements below `REE`.
    pub ree: Vec<String>,
}

/// The client data cannot be decrypted or read. Deliberately says no more (section 2.4).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client data is not accepted")]
pub struct ClientDataError;

impl ClientData {
    /// Whether the client handles keys for AES-CBC.
    pub fn handles_cbc(&self) -> bool {
        self.features.iter().any(|name| name == "AESCBC")
            || self.ree.iter().any(|name| name == "AESCBCS")
    }

    /// Reads the decrypted document.
    ///
    /// # Errors
    ///
    /// Anything but one `Data` element with one certificate chain in base64.
    pub fn parse(plaintext: &[u8]) -> Result<Self, ClientDataError> {
        let document = Document::parse(plaintext).map_err(|_| ClientDataError)?;
        let data = document.root();
        if !data.is("", "Data") {
            return Err(ClientDataError);
        }
        let chain = data
            .required("", "CertificateChains")
            .and_then(|chains| chains.required("", "CertificateChain"))
            .and_then(|chain| chain.base64())
            .map_err(|_| ClientDataError)?;
        let features = data.optional("", "Features").map_err(|_| ClientDataError)?;
        let children = || features.into_iter().flat_map(Element::children);
        let names = children().filter(|child| child.is("", "Feature"));
        let ree = children().filter(|child| child.is("", "REE")).flat_map(Element::children);
        Ok(Self {
            chain,
            features: names.filter_map(|f| f.attribute("Name")).map(str::to_owned).collect(),
            ree: ree.map(|element| element.local_name().to_owned()).collect(),
        })
    }

    /// The document to encrypt.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(self.chain.len().saturating_mul(2));
        w.element("Data", &[], |w| {
            w.element("CertificateChains", &[], |w| {
                w.element("CertificateChain", &[], |w| {
                    // Clients put spaces around the text, and readers have to cope.
                    w.raw(" ");
                    w.base64_text(&self.chain);
                    w.raw(" ");
                });
            });
            w.element("Features", &[], |w| {
                for name in &self.features {
                    w.element("Feature", &[("Name", name)], |_| ());
                }
                w.element("REE", &[], |w| self.ree.iter().for_each(|name| w.leaf(name, "")));
            });
        });
        w.finish().into_bytes()
    }
}

/// Decrypts the `EncryptedData` element with the server's key and reads it.
pub(super) fn open(
    encrypted: Element<'_, '_>,
    key: &PrivateKey,
) -> Result<ClientData, ClientDataError> {
    let Envelope { key: encrypted_key, data } = Envelope::read(encrypted).ok_or(ClientDataError)?;
    let point = elgamal::decrypt(key, &encrypted_key).map_err(|_| ClientDataError)?;
    let plaintext = decrypt(&point, &data).ok_or(ClientDataError)?;
    let (length, padding_is_good) = unpad(&plaintext);
    let parsed = ClientData::parse(plaintext.get(..length).unwrap_or_default());
    if bool::from(padding_is_good) { parsed } else { Err(ClientDataError) }
}

/// Encrypts `plaintext` to the server and appends it as `EncryptedData`.
pub(super) fn write(w: &mut Writer, plaintext: &[u8], server: &PublicKey, random: Random<'_>) {
    let point = Point::random(random);
    let encrypted_key = elgamal::encrypt(server, &point, random);
    let mut data = vec![0; BLOCK_BYTES];
    random(&mut data);
    let iv = <[u8; BLOCK_BYTES]>::try_from(data.as_slice()).unwrap_or_default();
    let encryptor = cbc::Encryptor::<Aes128>::new(&(*aes_key(&point)).into(), &iv.into());
    data.extend(encryptor.encrypt_padded_vec::<Pkcs7>(plaintext));

    let (encryption, signatures) = (("xmlns", ENCRYPTION), ("xmlns", SIGNATURES));
    let cipher_data = |w: &mut Writer, bytes: &[u8]| {
        w.element("CipherData", &[], |w| w.base64("CipherValue", bytes));
    };
    w.element("EncryptedData", &[encryption, ("Type", ELEMENT_TYPE)], |w| {
        w.element("EncryptionMethod", &[("Algorithm", AES128_CBC)], |_| ());
        w.element("KeyInfo", &[signatures], |w| {
            w.element("EncryptedKey", &[encryption], |w| {
                w.element("EncryptionMethod", &[("Algorithm", ECC256)], |_| ());
                w.element("KeyInfo", &[signatures], |w| w.leaf("KeyName", KEY_NAME));
                cipher_data(w, &encrypted_key);
            });
        });
        cipher_data(w, &data);
    });
}

/// The two ciphertexts of an `EncryptedData` element.
struct Envelope {
    key: Vec<u8>,
    data: Vec<u8>,
}

impl Envelope {
    fn read(encrypted: Element<'_, '_>) -> Option<Self> {
        let key_info = encrypted.required(SIGNATURES, "KeyInfo").ok()?;
        let encrypted_key = key_info.required(ENCRYPTION, "EncryptedKey").ok()?;
        let names = encrypted_key.required(SIGNATURES, "KeyInfo").ok()?;
        let name = names.required(SIGNATURES, "KeyName").ok()?.trimmed().ok()?;
        let known = name == KEY_NAME
            && method(encrypted)? == AES128_CBC
            && method(encrypted_key)? == ECC256;
        known.then_some(())?;
        Some(Self { key: cipher_value(encrypted_key)?, data: cipher_value(encrypted)? })
    }
}

fn method<'d>(element: Element<'d, '_>) -> Option<&'d str> {
    element.required(ENCRYPTION, "EncryptionMethod").ok()?.attribute("Algorithm")
}

fn cipher_value(element: Element<'_, '_>) -> Option<Vec<u8>> {
    let data = element.required(ENCRYPTION, "CipherData").ok()?;
    data.required(ENCRYPTION, "CipherValue").ok()?.base64().ok()
}

/// The AES key: bytes 16 to 31 of the abscissa.
fn aes_key(point: &Point) -> Zeroizing<[u8; BLOCK_BYTES]> {
    let half = point.x().last_chunk::<BLOCK_BYTES>();
    Zeroizing::new(half.copied().unwrap_or_default())
}

/// Decrypts IV and blocks without looking at the padding. `None` if there is no whole block.
fn decrypt(point: &Point, data: &[u8]) -> Option<Vec<u8>> {
    let (iv, blocks) = data.split_first_chunk::<BLOCK_BYTES>()?;
    let decryptor = cbc::Decryptor::<Aes128>::new(&(*aes_key(point)).into(), &(*iv).into());
    let plaintext = decryptor.decrypt_padded_vec::<NoPadding>(blocks).ok()?;
    (!plaintext.is_empty()).then_some(plaintext)
}

/// The length without PKCS#7 padding, or the whole length if the padding is wrong, found in
/// constant time.
fn unpad(plaintext: &[u8]) -> (usize, Choice) {
    let block = plaintext.last_chunk::<BLOCK_BYTES>().copied().unwrap_or_default();
    let [.., count] = block;
    let mut good = count.ct_gt(&0) & !count.ct_gt(&16);
    for (distance, byte) in (0_u8..).zip(block.iter().rev()) {
        let inside = count.ct_gt(&distance);
        good &= !inside | byte.ct_eq(&count);
    }
    let padding = u64::conditional_select(&0, &u64::from(count), good);
    let padding = usize::try_from(padding).unwrap_or_default();
    (plaintext.len().saturating_sub(padding), good)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/clientdata.xml");
    const CHAIN: &[u8] = include_bytes!("../../tests/golden/chain.bcert");

    fn golden() -> ClientData {
        ClientData {
            chain: CHAIN.to_vec(),
            features: vec!["AESCBC".into()],
            ree: vec!["AESCBCS".into()],
        }
    }

    #[test]
    fn the_golden_client_data_is_read_and_written() {
        assert_eq!(ClientData::parse(GOLDEN), Ok(golden()));
        assert_eq!(String::from_utf8(golden().to_xml()).unwrap(), String::from_utf8_lossy(GOLDEN));
        assert!(golden().handles_cbc());
    }

    #[test]
    fn every_truncation_of_the_client_data_is_refused() {
        for end in 0..GOLDEN.len() {
            assert_eq!(ClientData::parse(&GOLDEN[..end]), Err(ClientDataError), "{end}");
        }
    }

    #[test]
    fn accepts_features_with_text_and_a_missing_ree() {
        let text = "<Data><CertificateChains><CertificateChain>AA==</CertificateChain>\
            </CertificateChains><Other/><Features><Feature Name='X'>\"\"</Feature></Features></Data>";
        let data = ClientData::parse(text.as_bytes()).unwrap();
        assert_eq!((data.features.as_slice(), data.ree.len()), (&["X".to_owned()][..], 0));
        assert!(!data.handles_cbc());
    }

    #[test]
    fn refuses_another_root_two_chains_and_a_namespace() {
        let text = "<Data><CertificateChains><CertificateChain>AA==</CertificateChain>\
            </CertificateChains></Data>";
        assert!(ClientData::parse(text.as_bytes()).is_ok());
        for (from, to) in [
            ("Data>", "Date>"),
            ("<Data>", "<Data xmlns='urn:x'>"),
            ("AA==</CertificateChain>", "AA==</CertificateChain><CertificateChain/>"),
            ("AA==", "AA="),
        ] {
            assert!(ClientData::parse(text.replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn padding_of_every_length_is_taken_off() {
        for count in 1..=16_u8 {
            let mut block = [b'x'; 16];
            block[16 - usize::from(count)..].fill(count);
            let (length, good) = unpad(&block);
            assert_eq!((length, bool::from(good)), (16 - usize::from(count), true));
        }
    }

    #[test]
    fn wrong_padding_takes_nothing_off() {
        for (last, before) in [(0, b'x'), (17, 17), (255, 255), (2, b'x'), (16, 16)] {
            let mut block = [before; 16];
            block[15] = last;
            block[0] = b'x';
            let (length, good) = unpad(&block);
            assert_eq!((length, bool::from(good)), (16, false), "{last}");
        }
    }
}
