//! Reading licenses as a strict device does (section 5.4).

use cmac::Mac;

use super::conditions::{decode, refuse_unknown};
use super::seal::Root;
use super::tree::Node;
use super::{
    CIPHER_CHAINED, CIPHER_ECC256, IntegrityKey, PREAMBLE, SIGNATURE_OBJECT_BYTES, chained, kind,
    mac,
};
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::ecc::PrivateKey;
use crate::playready::elgamal::decrypt;
use crate::playready::kid::Kid;
use crate::playready::policy::LicensePolicy;
use crate::playready::reader::{Malformed, Reader};

/// A license whose MAC is right. Holds the content key: no `Debug`.
pub struct OpenedLicense {
    /// Section 6.3 says what it must be.
    pub rights_id: [u8; 16],
    /// The key's id.
    pub kid: Kid,
    /// How the content is encrypted.
    pub key_type: KeyType,
    /// The key.
    pub content_key: ContentKey,
    /// The conditions.
    pub policy: LicensePolicy,
    /// Unix seconds; 0 if the license does not say.
    pub issue_date: u32,
    /// Sequence of the issuer's RevInfo, 0 if it has none.
    pub revinfo_version: u32,
    /// The root that it hangs on, if it is a leaf license.
    pub root_kid: Option<Kid>,
}

/// Why a device does not accept a license.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The bytes are not a license.
    #[error("license is malformed")]
    Malformed(#[from] Malformed),
    /// An object that is not known here, and must be.
    #[error("license has an object of type {0:#06x} that is not understood")]
    NotUnderstood(u16),
    /// The content key is of another type, or wrapped in another way.
    #[error("license has a key of an unsupported type")]
    UnsupportedKey,
    /// Wrapped to another device's key.
    #[error("license is for another device")]
    OtherDevice,
    /// A leaf license, which its root opens.
    #[error("license is a leaf of root {0}")]
    NeedsRoot(Kid),
    /// Not a leaf license, or one of another root.
    #[error("license is not a leaf of this root")]
    OtherRoot,
    /// The key cannot be unwrapped, or the MAC is wrong.
    #[error("license is damaged or forged")]
    Integrity,
    /// There is no right to play.
    #[error("license does not allow to play")]
    NoPlayRight,
}

/// Opens a license with the device's ENCRYPT_KEY.
///
/// Asking whether KID, rights id, security level and dates fit is left to the device.
///
/// # Errors
/// [`OpenError::NeedsRoot`] for a leaf license, any other for one that must not be used.
pub fn open(bytes: &[u8], device: &PrivateKey) -> Result<OpenedLicense, OpenError> {
    let license = Sealed::parse(bytes)?;
    let device_key = match (&license.content_key.cipher, &license.device_key, &license.uplink) {
        (&CIPHER_ECC256, Some(key), None) => key,
        (&CIPHER_CHAINED, None, Some(uplink)) => {
            return Err(OpenError::NeedsRoot(uplink.root_kid));
        }
        _ => return Err(OpenError::UnsupportedKey),
    };
    if device_key != device.public().xy() {
        return Err(OpenError::OtherDevice);
    }
    let keys = decrypt(device, license.content_key.wrapped)
        .ok()
        .and_then(|point| chained::split_keys(point.x()));
    license.unlock(keys)
}

/// Opens a leaf license with the content key of its root.
///
/// # Errors
/// [`OpenError::OtherRoot`] unless the license is a leaf of this root; any other for one that
/// must not be used.
pub fn open_leaf(bytes: &[u8], root: &Root<'_>) -> Result<OpenedLicense, OpenError> {
    let license = Sealed::parse(bytes)?;
    let uplink = match (&license.content_key.cipher, &license.device_key, &license.uplink) {
        (&CIPHER_CHAINED, None, Some(uplink)) => uplink,
        _ => return Err(OpenError::OtherRoot),
    };
    if !uplink.names(root) {
        return Err(OpenError::OtherRoot);
    }
    let key = &license.content_key;
    license.unlock(chained::unwrap(root, key.kid, key.wrapped))
}

/// A license that has been read and not been opened.
struct Sealed<'a> {
    rights_id: [u8; 16],
    global: Vec<Node<'a>>,
    play: Vec<Node<'a>>,
    content_key: WrappedKey<'a>,
    device_key: Option<[u8; 64]>,
    uplink: Option<chained::Uplink>,
    /// What the MAC covers.
    covered: &'a [u8],
    mac: [u8; 16],
}

struct WrappedKey<'a> {
    kid: Kid,
    key_type: u16,
    cipher: u16,
    wrapped: &'a [u8],
}

impl<'a> Sealed<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, OpenError> {
        let mut reader = Reader::new(bytes);
        reader.expect(&PREAMBLE, "license does not start with XMR and version 3")?;
        let rights_id = reader.array()?;
        let outer = Node::parse(reader.bytes(reader.remaining())?)?;
        if outer.kind != kind::OUTER {
            return Err(Malformed("license has no OUTER object").into());
        }
        let mut parts = outer.children.ok_or(Malformed("license is empty"))?;
        let mac = signature(&parts.pop().ok_or(Malformed("license is empty"))?)?;
        let covered = bytes.get(..bytes.len().saturating_sub(SIGNATURE_OBJECT_BYTES));

        let [mut global, mut play, mut material] = [const { None }; 3];
        for part in parts {
            let place = match part.kind {
                kind::GLOBAL_POLICY => &mut global,
                kind::PLAYBACK => &mut play,
                kind::KEY_MATERIAL => &mut material,
                kind::SIGNATURE => {
                    return Err(Malformed("license has two signatures").into());
                }
                _ => {
                    refuse_unknown(&part)?;
                    continue;
                }
            };
            let children = part.children.ok_or(Malformed("license part is not a container"))?;
            if place.replace(children).is_some() {
                return Err(Malformed("license has an object twice").into());
            }
        }
        let material = material.ok_or(Malformed("license has no key"))?;
        let (content_key, device_key, uplink) = key_material(&material)?;
        Ok(Self {
            rights_id,
            global: global.ok_or(Malformed("license has no conditions"))?,
            play: play.ok_or(OpenError::NoPlayRight)?,
            content_key,
            device_key,
            uplink,
            covered: covered.unwrap_or_default(),
            mac,
        })
    }

    fn unlock(&self, keys: Option<(IntegrityKey, ContentKey)>) -> Result<OpenedLicense, OpenError> {
        let (ci, content_key) = keys.ok_or(OpenError::Integrity)?;
        mac(&ci, self.covered).verify(&self.mac.into()).map_err(|_| OpenError::Integrity)?;
        let (policy, issue) = decode(&self.global, &self.play)?;
        // No extended restriction is understood here.
        if let Some(one) = policy.extended_restrictions.iter().find(|one| one.must_understand) {
            return Err(OpenError::NotUnderstood(one.kind));
        }
        Ok(OpenedLicense {
            rights_id: self.rights_id,
            kid: self.content_key.kid,
            key_type: KeyType::from_wire(self.content_key.key_type)
                .ok_or(OpenError::UnsupportedKey)?,
            content_key,
            policy,
            issue_date: issue.issue_date,
            revinfo_version: issue.revinfo_version,
            root_kid: self.uplink.as_ref().map(|uplink| uplink.root_kid),
        })
    }
}

type KeyMaterial<'a> = (WrappedKey<'a>, Option<[u8; 64]>, Option<chained::Uplink>);

fn key_material<'a>(nodes: &[Node<'a>]) -> Result<KeyMaterial<'a>, OpenError> {
    let [mut content_key, mut device_key, mut uplink] = [None; 3];
    for node in nodes {
        let place = match node.kind {
            kind::CONTENT_KEY => &mut content_key,
            kind::DEVICE_KEY => &mut device_key,
            kind::UPLINK => &mut uplink,
            _ => {
                refuse_unknown(node)?;
                continue;
            }
        };
        if place.replace(node.body).is_some() {
            return Err(Malformed("license has an object twice").into());
        }
    }
    let content_key = content_key.ok_or(Malformed("license has no key"))?;
    Ok((
        WrappedKey::parse(content_key)?,
        device_key.map(parse_device_key).transpose()?,
        uplink.map(chained::Uplink::parse).transpose()?,
    ))
}

impl<'a> WrappedKey<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let kid = Kid::from_wire(reader.array()?);
        let key_type = reader.u16()?;
        let cipher = reader.u16()?;
        let length = usize::from(reader.u16()?);
        let wrapped = reader.bytes(length)?;
        reader.finish()?;
        Ok(Self { kid, key_type, cipher, wrapped })
    }
}

fn parse_device_key(body: &[u8]) -> Result<[u8; 64], Malformed> {
    let mut reader = Reader::new(body);
    reader.expect(&[0, 1, 0, 64], "license names a device key that is not P-256")?;
    let key = reader.array()?;
    reader.finish()?;
    Ok(key)
}

fn signature(node: &Node<'_>) -> Result<[u8; 16], Malformed> {
    if node.kind != kind::SIGNATURE {
        return Err(Malformed("license does not end with its signature"));
    }
    let mut reader = Reader::new(node.body);
    reader.expect(&[0, 1, 0, 16], "license signature is not AES-CMAC")?;
    let mac = reader.array()?;
    reader.finish()?;
    Ok(mac)
}
