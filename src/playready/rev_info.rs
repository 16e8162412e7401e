//! Revocation information as XML carries it: the file `revinfo.xml` (section 14) and the `RevInfo`
//! element of a response (section 6.2).
//!
//! ```text
//! RevInfo
//!   Revocation        any number
//!     ListID          base64 of a GUID, first three fields little-endian (section 2.6)
//!     ListData        base64 of RevInfo v2 or of a list (section 3)
//! ```

use uuid::{Uuid, uuid};

use super::xml::{Document, Element, FieldError, PROTOCOLS, XmlError};

/// The list that names the versions of all others.
pub const REV_INFO_V2: Uuid = uuid!("52d1ff11-d388-4edd-82b7-68ea4c20a16c");
/// The list of revoked runtimes.
pub const RUNTIME_CRL: Uuid = uuid!("4e9d8c8a-b652-45a7-9791-6925a6b4791f");
/// The list of revoked applications.
pub const APPLICATION_CRL: Uuid = uuid!("28082e80-c7a3-40b1-8256-19e5b6d89b27");

/// The most bytes that `revinfo.xml` may have; it comes from the operator, not from a client.
const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One signed list, not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListData {
    /// Which list this is.
    pub id: Uuid,
    /// The signed bytes.
    pub data: Vec<u8>,
}

/// A `RevInfo` element, not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevInfo {
    /// The element as it was transmitted, tags included; responses repeat it verbatim.
    pub element: String,
    /// What it holds.
    pub lists: Vec<ListData>,
}

/// Why a file is not a `RevInfo` document.
#[derive(Debug, thiserror::Error)]
pub enum RevInfoError {
    /// Not XML.
    #[error("revinfo.xml cannot be read")]
    Xml(#[from] XmlError),
    /// An element is missing, repeated, or not what it must be.
    #[error("revinfo.xml is malformed")]
    Field(#[from] FieldError),
}

impl RevInfo {
    /// Reads the bytes of `revinfo.xml`: one `RevInfo` element.
    ///
    /// # Errors
    ///
    /// Not XML, another root, or lists that are not base64.
    pub fn parse(file: &[u8]) -> Result<Self, RevInfoError> {
        let document = Document::parse_up_to(file, FILE_BYTES_MAX)?;
        let root = document.root();
        let namespace = if root.is(PROTOCOLS, "RevInfo") { PROTOCOLS } else { "" };
        Ok(Self::read(root, namespace)?)
    }

    /// Reads the element, whose names are in `namespace`.
    pub(super) fn read(element: Element<'_, '_>, namespace: &str) -> Result<Self, FieldError> {
        if !element.is(namespace, "RevInfo") {
            return Err(element.problem("is not RevInfo"));
        }
        let mut lists = Vec::new();
        for revocation in element.children() {
            let id = revocation.required(namespace, "ListID")?.base64_array()?;
            let data = revocation.required(namespace, "ListData")?.base64()?;
            lists.push(ListData { id: Uuid::from_bytes_le(id), data });
        }
        Ok(Self { element: element.raw().to_owned(), lists })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/pki/revinfo.xml");

    #[test]
    fn the_golden_file_is_read_and_kept_verbatim() {
        let info = RevInfo::parse(GOLDEN).unwrap();
        let ids: Vec<_> = info.lists.iter().map(|list| list.id).collect();
        assert_eq!(ids, [REV_INFO_V2, RUNTIME_CRL, APPLICATION_CRL]);
        assert!(info.lists[0].data.starts_with(b"RLV2"));
        assert_eq!(info.element.as_bytes(), GOLDEN);
    }

    #[test]
    fn refuses_another_root_and_a_list_without_data() {
        let text = String::from_utf8(GOLDEN.to_vec()).unwrap();
        assert!(RevInfo::parse(text.replace("RevInfo>", "Info>").as_bytes()).is_err());
        assert!(RevInfo::parse(text.replace("ListData>", "Data>").as_bytes()).is_err());
        assert!(RevInfo::parse(text.replace("ListID>Ef/", "ListID>E/").as_bytes()).is_err());
    }
}
