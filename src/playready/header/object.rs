//! The binary wrappers around a header.
//!
//! ```text
//! PlayReady Object, little-endian            PSSH box, big-endian
//! offset  size  field                        offset  size  field
//! 0       4     total length, ≤ 15 KB        0       4     size of the box
//! 4       2     record count                 4       4     "pssh"
//! 6             records                      8       1     version, 0 or 1
//!                                            9       3     flags, 0
//! record                                     12      16    system id
//! 0       2     type: 1 header, 3 store      version 1 only
//! 2       2     length of the value            28    4     count of KIDs
//! 4             value                          32    16·n  KIDs in text order
//!                                            …       4     length of the data
//! a header is UTF-16LE                       …             data: a PlayReady Object
//! ```

use super::{Header, HeaderError};
use crate::playready::kid::Kid;

/// The most bytes an object may have.
const OBJECT_BYTES_MAX: usize = 15 * 1024;
const HEADER_RECORD: u16 = 1;
const STORE_RECORD: u16 = 3;

/// The system id of PlayReady in a PSSH box: 9a04f079-9840-4286-ab92-e65be0885f95.
pub const SYSTEM_ID: [u8; 16] =
    *b"\x9a\x04\xf0\x79\x98\x40\x42\x86\xab\x92\xe6\x5b\xe0\x88\x5f\x95";

/// Why bytes are not an object or box that this library reads.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// A length or count does not match the bytes.
    #[error("a length in the {0} does not match its bytes")]
    Length(&'static str),
    /// Larger than the format allows.
    #[error("the PlayReady Object is larger than 15 KB")]
    TooLarge,
    /// No record of type 1.
    #[error("the PlayReady Object holds no header")]
    NoHeader,
    /// The header is not UTF-16.
    #[error("the header is not UTF-16")]
    NotUtf16,
    /// The header cannot be read.
    #[error("the header in the PlayReady Object is refused")]
    Header(#[from] HeaderError),
    /// Another box, version or system.
    #[error("not a PSSH box of PlayReady, version 0 or 1")]
    NotPlayReady,
}

/// A PlayReady Object: a header and perhaps licenses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The header's text, as the object holds it.
    pub header_xml: String,
    /// The embedded license store.
    pub license_store: Option<Vec<u8>>,
}

impl Object {
    /// An object that holds `header` in canonical form and no licenses.
    pub fn new(header: &Header) -> Self {
        Self { header_xml: header.to_xml(), license_store: None }
    }

    /// Reads an object. The first header counts; records of unknown type are ignored.
    ///
    /// # Errors
    ///
    /// Lengths that do not match, no header, or one that [`Header::parse`] refuses.
    pub fn decode(bytes: &[u8]) -> Result<Self, ObjectError> {
        const BROKEN: ObjectError = ObjectError::Length("PlayReady Object");
        if bytes.len() > OBJECT_BYTES_MAX {
            return Err(ObjectError::TooLarge);
        }
        let (total, rest) = bytes.split_first_chunk().ok_or(BROKEN)?;
        if usize::try_from(u32::from_le_bytes(*total)).ok() != Some(bytes.len()) {
            return Err(BROKEN);
        }
        let (count, mut rest) = rest.split_first_chunk().ok_or(BROKEN)?;
        let (mut header_xml, mut license_store) = (None, None);
        for _ in 0..u16::from_le_bytes(*count) {
            let (kind, after) = rest.split_first_chunk().ok_or(BROKEN)?;
            let (length, after) = after.split_first_chunk().ok_or(BROKEN)?;
            let length = usize::from(u16::from_le_bytes(*length));
            let (value, after) = after.split_at_checked(length).ok_or(BROKEN)?;
            match u16::from_le_bytes(*kind) {
                HEADER_RECORD if header_xml.is_none() => header_xml = Some(from_utf16(value)?),
                STORE_RECORD if license_store.is_none() => license_store = Some(value.to_vec()),
                _ => {}
            }
            rest = after;
        }
        if !rest.is_empty() {
            return Err(BROKEN);
        }
        let header_xml = header_xml.ok_or(ObjectError::NoHeader)?;
        Header::parse(&header_xml)?;
        Ok(Self { header_xml, license_store })
    }

    /// The header.
    ///
    /// # Errors
    ///
    /// Only if `header_xml` was changed: [`decode`](Self::decode) has read it before.
    pub fn header(&self) -> Result<Header, HeaderError> {
        Header::parse(&self.header_xml)
    }

    /// The bytes.
    ///
    /// # Errors
    ///
    /// [`ObjectError::TooLarge`].
    pub fn encode(&self) -> Result<Vec<u8>, ObjectError> {
        let header: Vec<u8> = self.header_xml.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let store = self.license_store.as_deref().map(|store| (STORE_RECORD, store));
        let records: Vec<_> =
            [(HEADER_RECORD, header.as_slice())].into_iter().chain(store).collect();
        let mut body = Vec::new();
        for (kind, value) in &records {
            let length = u16::try_from(value.len()).map_err(|_| ObjectError::TooLarge)?;
            body.extend(kind.to_le_bytes());
            body.extend(length.to_le_bytes());
            body.extend_from_slice(value);
        }
        let total = body.len().saturating_add(6);
        if total > OBJECT_BYTES_MAX {
            return Err(ObjectError::TooLarge);
        }
        let total = u32::try_from(total).map_err(|_| ObjectError::TooLarge)?;
        let count = u16::try_from(records.len()).map_err(|_| ObjectError::TooLarge)?;
        Ok([&total.to_le_bytes()[..], &count.to_le_bytes(), &body].concat())
    }
}

fn from_utf16(value: &[u8]) -> Result<String, ObjectError> {
    let (units, []) = value.as_chunks::<2>() else {
        return Err(ObjectError::NotUtf16);
    };
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    char::decode_utf16(units).collect::<Result<_, _>>().map_err(|_| ObjectError::NotUtf16)
}

/// A PSSH box of PlayReady.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pssh {
    /// The KIDs of a version 1 box; `None` for version 0.
    pub kids: Option<Vec<Kid>>,
    /// The object inside.
    pub object: Object,
}

impl Pssh {
    /// Reads one box, which must be all of `bytes`.
    ///
    /// # Errors
    ///
    /// Another box, system or version, lengths that do not match, or an object that
    /// [`Object::decode`] refuses.
    pub fn decode(bytes: &[u8]) -> Result<Self, ObjectError> {
        const BROKEN: ObjectError = ObjectError::Length("PSSH box");
        let (size, rest) = bytes.split_first_chunk().ok_or(BROKEN)?;
        if usize::try_from(u32::from_be_bytes(*size)).ok() != Some(bytes.len()) {
            return Err(BROKEN);
        }
        let rest = rest.strip_prefix(b"pssh").ok_or(ObjectError::NotPlayReady)?;
        let (version, rest) = rest.split_first_chunk::<4>().ok_or(BROKEN)?;
        let rest = rest.strip_prefix(&SYSTEM_ID).ok_or(ObjectError::NotPlayReady)?;
        let (kids, rest) = match version {
            [0, 0, 0, 0] => (None, rest),
            [1, 0, 0, 0] => {
                let (count, rest) = rest.split_first_chunk().ok_or(BROKEN)?;
                let count = usize::try_from(u32::from_be_bytes(*count)).map_err(|_| BROKEN)?;
                let length = count.checked_mul(16).ok_or(BROKEN)?;
                let (kids, rest) = rest.split_at_checked(length).ok_or(BROKEN)?;
                let (kids, _) = kids.as_chunks::<16>();
                (Some(kids.iter().map(|kid| uuid::Uuid::from_bytes(*kid).into()).collect()), rest)
            }
            _ => return Err(ObjectError::NotPlayReady),
        };
        let (length, data) = rest.split_first_chunk().ok_or(BROKEN)?;
        if usize::try_from(u32::from_be_bytes(*length)).ok() != Some(data.len()) {
            return Err(BROKEN);
        }
        Ok(Self { kids, object: Object::decode(data)? })
    }

    /// The bytes of the box.
    ///
    /// # Errors
    ///
    /// [`ObjectError::TooLarge`].
    pub fn encode(&self) -> Result<Vec<u8>, ObjectError> {
        let data = self.object.encode()?;
        let mut body = b"pssh".to_vec();
        body.extend([u8::from(self.kids.is_some()), 0, 0, 0]);
        body.extend(SYSTEM_ID);
        if let Some(kids) = &self.kids {
            body.extend(
                u32::try_from(kids.len()).map_err(|_| ObjectError::TooLarge)?.to_be_bytes(),
            );
            kids.iter().for_each(|kid| body.extend(kid.guid().into_bytes()));
        }
        body.extend(u32::try_from(data.len()).map_err(|_| ObjectError::TooLarge)?.to_be_bytes());
        body.extend(data);
        let size = body.len().checked_add(4).and_then(|size| u32::try_from(size).ok());
        let size = size.ok_or(ObjectError::TooLarge)?;
        Ok([&size.to_be_bytes()[..], &body].concat())
    }
}
