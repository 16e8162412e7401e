//! What content says about its keys: WRMHEADER, the PlayReady Object around it, and the PSSH box
//! around that (section 12 of the [protocol page](super)).
//!
//! ```text
//! WRMHEADER xmlns=PH version="4.x.0.0"
//!   DATA
//!     PROTECTINFO LICENSEREQUESTED?         @ from 4.3
//!       KEYLEN, ALGID                       4.0, text
//!       KID ALGID CHECKSUM? VALUE           4.1, attributes, at most one
//!       KIDS > KID* ALGID? CHECKSUM? VALUE  4.2, 4.3
//!     KID, CHECKSUM                         4.0, text
//!     LA_URL? LUI_URL? DS_ID? CUSTOMATTRIBUTES? DECRYPTORSETUP?
//! ```
//!
//! Published samples break the published rules, so reading is lenient: children in any order,
//! unknown elements ignored. Writing is canonical: explicit end tags, `xmlns` first, attributes
//! alphabetical.

mod object;

use std::fmt;

use data_encoding::BASE64;

pub use object::{Object, ObjectError, Pssh, SYSTEM_ID};

use super::kid::Kid;
use super::xml::{Document, Element, FieldError, Writer, XmlError, decode_base64};

/// The namespace of WRMHEADER (PH in the protocol page).
pub const HEADER_NAMESPACE: &str = "http://schemas.microsoft.com/DRM/2007/03/PlayReadyHeader";

/// The versions of the header format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeaderVersion {
    /// 4.0.0.0: one KID as text.
    V4_0,
    /// 4.1.0.0: no or one KID, as attributes.
    V4_1,
    /// 4.2.0.0: any number of KIDs.
    V4_2,
    /// 4.3.0.0: as 4.2, and keys for AES-CBC.
    V4_3,
}

impl HeaderVersion {
    const ALL: [Self; 4] = [Self::V4_0, Self::V4_1, Self::V4_2, Self::V4_3];

    /// The value of the `version` attribute.
    pub fn text(self) -> &'static str {
        match self {
            Self::V4_0 => "4.0.0.0",
            Self::V4_1 => "4.1.0.0",
            Self::V4_2 => "4.2.0.0",
            Self::V4_3 => "4.3.0.0",
        }
    }
}

impl fmt::Display for HeaderVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlgId {
    /// AES-128 in counter mode.
    AesCtr,
    /// AES-128 in cipher block chaining mode, from 4.3.
    AesCbc,
    /// A stream cipher of the past. Read, never licensed.
    Cocktail,
}

impl AlgId {
    const ALL: [Self; 3] = [Self::AesCtr, Self::AesCbc, Self::Cocktail];

    /// The text in a header.
    pub fn text(self) -> &'static str {
        match self {
            Self::AesCtr => "AESCTR",
            Self::AesCbc => "AESCBC",
            Self::Cocktail => "COCKTAIL",
        }
    }

    fn read(text: &str) -> Result<Self, FieldError> {
        let found = Self::ALL.into_iter().find(|algid| algid.text() == text.trim());
        found.ok_or_else(|| FieldError::new("ALGID", "is not AESCTR, AESCBC or COCKTAIL"))
    }
}

/// One key that content needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderKey {
    /// The key id.
    pub kid: Kid,
    /// What the key is for, if the header says so.
    pub algid: Option<AlgId>,
    /// The first bytes of a value derived from the key. Informational: never refuse for it.
    pub checksum: Option<Vec<u8>>,
}

/// A WRMHEADER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format.
    pub version: HeaderVersion,
    /// The keys in the order of the header.
    pub keys: Vec<HeaderKey>,
    /// Where to acquire licenses automatically.
    pub la_url: Option<String>,
    /// Where a person acquires licenses.
    pub lui_url: Option<String>,
    /// The domain service: 16 bytes in wire order.
    pub ds_id: Option<[u8; 16]>,
    /// The `CUSTOMATTRIBUTES` element as it was transmitted, tags included.
    pub custom_attributes: Option<String>,
    /// `ONDEMAND` says that the header does not name all keys.
    pub decryptor_setup: Option<String>,
    /// `false` says that the packager asks players not to request a license. Informational.
    pub license_requested: Option<bool>,
}

/// Why bytes are not a header that this library reads.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Not XML.
    #[error("the header cannot be read")]
    Xml(#[from] XmlError),
    /// An element is missing, repeated, or not what it must be.
    #[error("the header is malformed")]
    Field(#[from] FieldError),
}

impl Header {
    /// A header with nothing but keys.
    pub fn new(version: HeaderVersion, keys: Vec<HeaderKey>) -> Self {
        Self {
            version,
            keys,
            la_url: None,
            lui_url: None,
            ds_id: None,
            custom_attributes: None,
            decryptor_setup: None,
            license_requested: None,
        }
    }

    /// Reads a header that is a document of its own, in UTF-8.
    ///
    /// # Errors
    ///
    /// Not a WRMHEADER, a version above 4.3.0.0, a KID that is not 16 bytes.
    pub fn parse(xml: &str) -> Result<Self, HeaderError> {
        let document = Document::parse(xml.as_bytes())?;
        Ok(Self::read(document.root())?)
    }

    /// Reads the `WRMHEADER` element of a challenge.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn read(header: Element<'_, '_>) -> Result<Self, FieldError> {
        if !header.is(HEADER_NAMESPACE, "WRMHEADER") {
            return Err(header.problem("is not a WRMHEADER"));
        }
        let stated = header.attribute("version").unwrap_or_default();
        let version = HeaderVersion::ALL.into_iter().find(|version| version.text() == stated);
        let version =
            version.ok_or_else(|| header.problem("has a version other than 4.0 to 4.3"))?;
        let data = header.required(HEADER_NAMESPACE, "DATA")?;
        let info = data.optional(HEADER_NAMESPACE, "PROTECTINFO")?;
        let keys = match version {
            HeaderVersion::V4_0 => text_key(data, info)?,
            HeaderVersion::V4_1 => attribute_keys(info)?,
            HeaderVersion::V4_2 | HeaderVersion::V4_3 => match info {
                Some(info) => attribute_keys(info.optional(HEADER_NAMESPACE, "KIDS")?)?,
                None => Vec::new(),
            },
        };
        if version == HeaderVersion::V4_1 && keys.len() > 1 {
            return Err(FieldError::new("KID", "appears more than once"));
        }
        let ds_id = data.optional(HEADER_NAMESPACE, "DS_ID")?;
        let custom = data.children().find(|child| child.local_name() == "CUSTOMATTRIBUTES");
        Ok(Self {
            version,
            keys,
            la_url: text(data, "LA_URL")?,
            lui_url: text(data, "LUI_URL")?,
            ds_id: ds_id.map(Element::base64_array).transpose()?,
            custom_attributes: custom.map(|element| element.raw().to_owned()),
            decryptor_setup: text(data, "DECRYPTORSETUP")?,
            license_requested: info
                .and_then(|info| info.attribute("LICENSEREQUESTED"))
                .map(|value| !value.eq_ignore_ascii_case("false")),
        })
    }

    /// The canonical text.
    pub fn to_xml(&self) -> String {
        let mut w = Writer::with_capacity(512);
        let attributes = [("xmlns", HEADER_NAMESPACE), ("version", self.version.text())];
        w.element("WRMHEADER", &attributes, |w| w.element("DATA", &[], |w| self.write_data(w)));
        w.finish()
    }

    fn write_data(&self, w: &mut Writer) {
        self.write_keys(w);
        let ds_id = self.ds_id.map(|id| BASE64.encode(&id));
        for (name, value) in
            [("LA_URL", &self.la_url), ("LUI_URL", &self.lui_url), ("DS_ID", &ds_id)]
        {
            if let Some(value) = value {
                w.leaf(name, value);
            }
        }
        if let Some(custom) = &self.custom_attributes {
            w.raw(custom);
        }
        if let Some(setup) = &self.decryptor_setup {
            w.leaf("DECRYPTORSETUP", setup);
        }
    }

    fn write_keys(&self, w: &mut Writer) {
        let requested = self.license_requested.map(|value| if value { "true" } else { "false" });
        let attribute = requested.map(|value| ("LICENSEREQUESTED", value));
        let attributes = attribute.as_slice();
        match self.version {
            _ if self.keys.is_empty() && attributes.is_empty() => {}
            HeaderVersion::V4_0 => self.keys.iter().take(1).for_each(|key| write_text_key(w, key)),
            HeaderVersion::V4_1 => w.element("PROTECTINFO", attributes, |w| {
                self.keys.iter().take(1).for_each(|key| write_attribute_key(w, key));
            }),
            HeaderVersion::V4_2 | HeaderVersion::V4_3 => {
                w.element("PROTECTINFO", attributes, |w| {
                    w.element("KIDS", &[], |w| {
                        self.keys.iter().for_each(|key| write_attribute_key(w, key));
                    });
                });
            }
        }
    }
}

/// The one key of a 4.0 header.
fn text_key(
    data: Element<'_, '_>,
    info: Option<Element<'_, '_>>,
) -> Result<Vec<HeaderKey>, FieldError> {
    let Some(kid) = data.optional(HEADER_NAMESPACE, "KID")? else {
        return Ok(Vec::new());
    };
    let algid = info.map(|info| info.optional(HEADER_NAMESPACE, "ALGID")).transpose()?.flatten();
    Ok(vec![HeaderKey {
        kid: kid.kid()?,
        algid: algid.map(|algid| AlgId::read(&algid.value()?)).transpose()?,
        checksum: text(data, "CHECKSUM")?.and_then(|text| decode_base64(&text)),
    }])
}

/// The `KID` children of `parent`, whose values are attributes.
fn attribute_keys(parent: Option<Element<'_, '_>>) -> Result<Vec<HeaderKey>, FieldError> {
    let children = parent.into_iter().flat_map(Element::children);
    children.filter(|child| child.is(HEADER_NAMESPACE, "KID")).map(attribute_key).collect()
}

fn attribute_key(element: Element<'_, '_>) -> Result<HeaderKey, FieldError> {
    let wire = element.attribute("VALUE").and_then(decode_base64);
    let wire = wire.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    Ok(HeaderKey {
        kid: Kid::from_wire(wire.ok_or_else(|| element.problem("has no VALUE of 16 bytes"))?),
        algid: element.attribute("ALGID").map(AlgId::read).transpose()?,
        checksum: element.attribute("CHECKSUM").and_then(decode_base64),
    })
}

fn text(data: Element<'_, '_>, local: &str) -> Result<Option<String>, FieldError> {
    let element = data.optional(HEADER_NAMESPACE, local)?;
    element.map(|element| Ok(element.trimmed()?.into_owned())).transpose()
}

fn write_text_key(w: &mut Writer, key: &HeaderKey) {
    w.element("PROTECTINFO", &[], |w| {
        let algid = key.algid.unwrap_or(AlgId::AesCtr);
        w.leaf("KEYLEN", if algid == AlgId::Cocktail { "7" } else { "16" });
        w.leaf("ALGID", algid.text());
    });
    w.base64("KID", &key.kid.to_wire());
    if let Some(checksum) = &key.checksum {
        w.base64("CHECKSUM", checksum);
    }
}

fn write_attribute_key(w: &mut Writer, key: &HeaderKey) {
    let checksum = key.checksum.as_deref().map(|bytes| BASE64.encode(bytes));
    let kid = BASE64.encode(&key.kid.to_wire());
    let attributes = [
        ("ALGID", key.algid.map(AlgId::text)),
        ("CHECKSUM", checksum.as_deref()),
        ("VALUE", Some(kid.as_str())),
    ];
    let present: Vec<_> =
        attributes.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    w.element("KID", &present, |_| ());
}

#[cfg(test)]
mod tests;
