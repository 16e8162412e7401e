//! What players find in files, manifests and playlists, for each DRM system that is served.
//!
//! | system | id | signaled with |
//! |---|---|---|
//! | PlayReady | 9a04f079-9840-4286-ab92-e65be0885f95 | PSSH box version 0 with a PlayReady Object, header 4.0 (cenc) or 4.3 (cbcs) |
//! | Clear Key | e2719d58-a985-b3c9-781a-b030af78d30e | the common box below |
//! | W3C common | 1077efec-c0b2-4d02-ace3-3c1e52e2fb4b | PSSH box version 1 with the KIDs and no data |
//!
//! Byte orders: a KID is GUID text in every id, little-endian in the header, and in text order
//! (big-endian) in a PSSH box of version 1.

use data_encoding::BASE64;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::KeyType;
use crate::keys::ContentKey;
use crate::playready::content_key::ContentKey as WireKey;
use crate::playready::header::{
    AlgId, Header, HeaderKey, HeaderVersion, Object, ObjectError, Pssh, SYSTEM_ID,
};
use crate::playready::kid::Kid;
use crate::playready::xml::Writer;

/// A protection scheme of Common Encryption (ISO/IEC 23001-7) that PlayReady licenses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `cenc`: AES in counter mode.
    Cenc,
    /// `cbcs`: AES-CBC with a pattern.
    Cbcs,
}

impl Scheme {
    /// The scheme with this four-letter name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Cenc, Self::Cbcs].into_iter().find(|scheme| scheme.name() == name)
    }

    /// The four-letter name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cenc => "cenc",
            Self::Cbcs => "cbcs",
        }
    }

    /// How keys encrypt under it.
    pub fn key_type(self) -> KeyType {
        match self {
            Self::Cenc => KeyType::AesCtr,
            Self::Cbcs => KeyType::AesCbc,
        }
    }

    /// The scheme that keys of this type are for.
    pub fn of(key_type: KeyType) -> Self {
        match key_type {
            KeyType::AesCtr => Self::Cenc,
            KeyType::AesCbc => Self::Cbcs,
        }
    }

    fn algid(self) -> AlgId {
        match self {
            Self::Cenc => AlgId::AesCtr,
            Self::Cbcs => AlgId::AesCbc,
        }
    }

    /// The method in an HLS playlist.
    fn hls_method(self) -> &'static str {
        match self {
            Self::Cenc => "SAMPLE-AES-CTR",
            Self::Cbcs => "SAMPLE-AES",
        }
    }
}

/// A KID and, where the header is to carry a checksum of it, its key.
pub type Keyed<'a> = (Uuid, Option<&'a ContentKey>);

/// Content headers in every version that can hold the same keys.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ContentHeaders)]
pub struct Headers {
    /// The system id of PlayReady.
    #[schema(format = Uuid, example = "9a04f079-9840-4286-ab92-e65be0885f95")]
    pub system_id: String,
    /// `cenc` or `cbcs`.
    #[schema(pattern = "^(cenc|cbcs)$", example = "cenc")]
    pub scheme: &'static str,
    /// The KIDs, in the order of the headers.
    #[schema(example = json!(["01234567-89ab-cdef-0123-456789abcdef"]))]
    pub key_ids: Vec<String>,
    /// One entry a version, oldest first.
    pub headers: Vec<HeaderForms>,
}

/// One header in each form that a packager may need.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ContentHeader)]
pub struct HeaderForms {
    /// Version of the header format.
    #[schema(example = "4.0")]
    pub version: &'static str,
    /// The WRMHEADER as text.
    #[schema(content_media_type = "text/xml")]
    pub wrmheader: String,
    /// The PlayReady Object around it, base64.
    #[schema(content_encoding = "base64")]
    pub pro: String,
    /// The PSSH box of version 0 around that, base64.
    #[schema(content_encoding = "base64")]
    pub pssh: String,
    /// The same as version 1, which lists the KIDs, base64.
    #[schema(content_encoding = "base64")]
    pub pssh_v1: String,
}

impl Headers {
    /// The headers for these KIDs. One KID fits versions from 4.0 on, several from 4.2 on, and keys
    /// for `cbcs` only 4.3.
    ///
    /// # Errors
    /// [`ObjectError::TooLarge`]: an object holds 15 KB, about a hundred KIDs.
    pub fn new(
        keys: &[Keyed<'_>],
        scheme: Scheme,
        license_url: Option<&str>,
    ) -> Result<Self, ObjectError> {
        let versions: &[_] = match (scheme, keys.len()) {
            (Scheme::Cbcs, _) => &[HeaderVersion::V4_3],
            (Scheme::Cenc, 1) => &[
                HeaderVersion::V4_0,
                HeaderVersion::V4_1,
                HeaderVersion::V4_2,
                HeaderVersion::V4_3,
            ],
            (Scheme::Cenc, _) => &[HeaderVersion::V4_2, HeaderVersion::V4_3],
        };
        let forms = versions.iter().map(|version| {
            let header = header(*version, keys, scheme, license_url);
            let object = Object::new(&header);
            let kids = keys.iter().map(|(key_id, _)| Kid::from(*key_id)).collect();
            Ok(HeaderForms {
                version: version.text(),
                wrmheader: object.header_xml.clone(),
                pro: BASE64.encode(&object.encode()?),
                pssh: BASE64.encode(&Pssh { kids: None, object: object.clone() }.encode()?),
                pssh_v1: BASE64.encode(&Pssh { kids: Some(kids), object }.encode()?),
            })
        });
        Ok(Self {
            system_id: Uuid::from_bytes(SYSTEM_ID).to_string(),
            scheme: scheme.name(),
            key_ids: keys.iter().map(|(key_id, _)| key_id.to_string()).collect(),
            headers: forms.collect::<Result<_, ObjectError>>()?,
        })
    }
}

fn header(
    version: HeaderVersion,
    keys: &[Keyed<'_>],
    scheme: Scheme,
    license_url: Option<&str>,
) -> Header {
    let keys = keys.iter().map(|(key_id, key)| {
        let kid = Kid::from(*key_id);
        let checksum = key.map(|key| WireKey::new(**key).checksum(kid).to_vec());
        // A header has no checksum of keys for AES-CBC.
        let checksum = checksum.filter(|_| scheme == Scheme::Cenc);
        HeaderKey { kid, algid: Some(scheme.algid()), checksum }
    });
    Header { la_url: license_url.map(str::to_owned), ..Header::new(version, keys.collect()) }
}

/// A DRM system that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// PlayReady.
    PlayReady,
    /// Clear Key, as DASH signals it.
    ClearKey,
    /// The common box of the W3C, from which a browser takes KIDs for Clear Key.
    Common,
}

const CLEAR_KEY: Uuid = Uuid::from_u128(0xe271_9d58_a985_b3c9_781a_b030_af78_d30e);
const COMMON: Uuid = Uuid::from_u128(0x1077_efec_c0b2_4d02_ace3_3c1e_52e2_fb4b);

impl System {
    /// The system with this id.
    pub fn from_id(id: Uuid) -> Option<Self> {
        let known = [
            (Uuid::from_bytes(SYSTEM_ID), Self::PlayReady),
            (CLEAR_KEY, Self::ClearKey),
            (COMMON, Self::Common),
        ];
        known.into_iter().find(|(known, _)| *known == id).map(|(_, system)| system)
    }
}

/// All signaling of one key for one system.
#[derive(Debug)]
pub struct Signaling {
    /// The PSSH box.
    pub pssh: Vec<u8>,
    /// What goes below `ContentProtection` in a DASH manifest.
    pub content_protection: String,
    /// What only PlayReady has.
    pub playready: Option<PlayReadySignaling>,
}

/// Signaling that only PlayReady has.
#[derive(Debug)]
pub struct PlayReadySignaling {
    /// The attributes of `EXT-X-KEY` and `EXT-X-SESSION-KEY`, URI included.
    pub hls_attributes: String,
    /// The URI alone.
    pub hls_uri: String,
    /// The text of `ProtectionHeader` in a Smooth Streaming manifest: the object, base64.
    pub smooth_streaming: String,
}

impl Signaling {
    /// The signaling of one key.
    ///
    /// # Errors
    /// [`ObjectError::TooLarge`]: the license URL takes more than the 15 KB of an object.
    pub fn new(
        system: System,
        key: Keyed<'_>,
        scheme: Scheme,
        license_url: Option<&str>,
    ) -> Result<Self, ObjectError> {
        if system != System::PlayReady {
            let pssh = common_box(&[key.0]);
            return Ok(Self { content_protection: cenc_pssh(&pssh), pssh, playready: None });
        }
        let version = match scheme {
            Scheme::Cenc => HeaderVersion::V4_0,
            Scheme::Cbcs => HeaderVersion::V4_3,
        };
        let object = Object::new(&header(version, &[key], scheme, license_url));
        let pro = BASE64.encode(&object.encode()?);
        let pssh = Pssh { kids: None, object }.encode()?;
        let mut w = Writer::default();
        w.element("mspr:pro", &[("xmlns:mspr", "urn:microsoft:playready")], |w| w.text(&pro));
        let hls_uri = format!("data:text/plain;charset=UTF-16;base64,{pro}");
        Ok(Self {
            content_protection: cenc_pssh(&pssh) + &w.finish(),
            pssh,
            playready: Some(PlayReadySignaling {
                hls_attributes: format!(
                    "METHOD={},URI=\"{hls_uri}\",KEYFORMAT=\"com.microsoft.playready\",\
                     KEYFORMATVERSIONS=\"1\"",
                    scheme.hls_method()
                ),
                hls_uri,
                smooth_streaming: pro,
            }),
        })
    }
}

/// The common PSSH box of the W3C ("cenc" initialization data): version 1, KIDs, no data.
fn common_box(key_ids: &[Uuid]) -> Vec<u8> {
    let size = 4 + 4 + 4 + 16 + 4 + 16 * key_ids.len() + 4;
    let mut bytes = Vec::with_capacity(size);
    // A request has at most a few thousand KIDs.
    bytes.extend(u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(b"pssh\x01\0\0\0");
    bytes.extend(COMMON.as_bytes());
    bytes.extend(u32::try_from(key_ids.len()).unwrap_or(u32::MAX).to_be_bytes());
    key_ids.iter().for_each(|key_id| bytes.extend(key_id.as_bytes()));
    bytes.extend([0; 4]);
    bytes
}

fn cenc_pssh(pssh: &[u8]) -> String {
    let mut w = Writer::default();
    w.element("cenc:pssh", &[("xmlns:cenc", "urn:mpeg:cenc:2013")], |w| w.base64_text(pssh));
    w.finish()
}

#[cfg(test)]
mod tests;
