//! XMR: the binary license that a device receives (section 5). Integers are big-endian; objects
//! have the header that [`reader`](super::reader) draws.
//!
//! ```text
//! offset  size  field
//! 0       4     "XMR\0"
//! 4       4     version, 3
//! 8       16    rights id
//! 24      …     OUTER 0001, to the end of the license
//!                 GLOBAL_POLICY 0002   conditions of the license
//!                 PLAYBACK 0004        conditions of the play right; absent = unusable
//!                 KEY_MATERIAL 0009
//!                   CONTENT_KEY 000A   KID GUID-LE[16], key type u16, cipher type u16,
//!                                      length u16, wrapped key
//!                   DEVICE_KEY 002A    u16 1, u16 64, X‖Y of the device's ENCRYPT_KEY
//!                   UPLINK 003B        leaf licenses only, in place of DEVICE_KEY
//!                 SIGNATURE 000B       u16 1, u16 16, AES-CMAC; last
//! ```
//!
//! Two ways to wrap a content key CK, each together with a random integrity key CI that also keys
//! the CMAC over everything before SIGNATURE (sections 5.2 and 5.5):
//!
//! - cipher type 3: ElGamal to the device, of the point with abscissa CI‖CK. [`seal()`], [`open()`].
//! - cipher type 2, ours: AES-KW under a key derived from the content key of a root license.
//!   [`seal_leaf`], [`open_leaf`].
//!
//! The conditions are a [`LicensePolicy`]. [`open()`] reads exactly what a strict device reads
//! (section 5.4) and never more.

mod chained;
mod conditions;
mod open;
mod seal;
mod tree;

pub use open::{OpenError, OpenedLicense, open, open_leaf};
pub use seal::{LicenseSpec, Root, seal, seal_leaf};

use aes::Aes128;
use cmac::{Cmac, KeyInit, Mac};
use zeroize::Zeroizing;

#[cfg(doc)]
use super::policy::LicensePolicy;

/// Magic and version at the start of a license.
const PREAMBLE: [u8; 8] = *b"XMR\0\x00\x00\x00\x03";
/// Bytes of the SIGNATURE object, which the MAC does not cover.
const SIGNATURE_OBJECT_BYTES: usize = 28;
/// Cipher type of a key wrapped to a device.
const CIPHER_ECC256: u16 = 3;
/// Cipher type of a key wrapped under a root license.
const CIPHER_CHAINED: u16 = 2;

/// Object types, in the order in which they are emitted.
mod kind {
    pub(super) const OUTER: u16 = 0x0001;
    pub(super) const GLOBAL_POLICY: u16 = 0x0002;
    pub(super) const PLAYBACK: u16 = 0x0004;
    pub(super) const KEY_MATERIAL: u16 = 0x0009;
    pub(super) const CONTENT_KEY: u16 = 0x000A;
    pub(super) const DEVICE_KEY: u16 = 0x002A;
    pub(super) const UPLINK: u16 = 0x003B;
    pub(super) const SIGNATURE: u16 = 0x000B;
    // In GLOBAL_POLICY.
    pub(super) const CANNOT_PERSIST: u16 = 0x000D;
    pub(super) const EXPIRATION: u16 = 0x0012;
    pub(super) const FIRST_PLAY: u16 = 0x0030;
    pub(super) const ISSUE_DATE: u16 = 0x0013;
    pub(super) const GRACE_PERIOD: u16 = 0x001A;
    pub(super) const REMOVAL_DATE: u16 = 0x0050;
    pub(super) const SOURCE_ID: u16 = 0x0022;
    pub(super) const METERING: u16 = 0x0016;
    pub(super) const SECURE_STOP: u16 = 0x005A;
    pub(super) const DOMAIN: u16 = 0x0029;
    pub(super) const REAL_TIME: u16 = 0x0055;
    pub(super) const EMBEDDING: u16 = 0x0033;
    pub(super) const REVINFO_VERSION: u16 = 0x0032;
    pub(super) const SECURITY_LEVEL: u16 = 0x0034;
    // In PLAYBACK.
    pub(super) const OUTPUT_LEVELS: u16 = 0x0005;
    pub(super) const ANALOG_VIDEO: u16 = 0x0007;
    pub(super) const ANALOG_VIDEO_ENTRY: u16 = 0x0008;
    pub(super) const DIGITAL_AUDIO: u16 = 0x002E;
    pub(super) const DIGITAL_AUDIO_ENTRY: u16 = 0x0031;
    pub(super) const DIGITAL_VIDEO: u16 = 0x0058;
    pub(super) const DIGITAL_VIDEO_ENTRY: u16 = 0x0059;
    pub(super) const PLAY_ENABLERS: u16 = 0x0036;
    pub(super) const PLAY_ENABLER_ENTRY: u16 = 0x0039;
}

/// The key that a license's MAC is made with; travels wrapped together with the content key.
type IntegrityKey = Zeroizing<[u8; 16]>;

fn mac(key: &IntegrityKey, covered: &[u8]) -> Cmac<Aes128> {
    Cmac::new(&(**key).into()).chain_update(covered)
}

#[cfg(test)]
mod tests;
