//! Revocation information as XML carries it: files such as `revinfo.xml` (section 14) and the
//! `RevInfo` element of a response (section 6.2).
//!
//! ```text
//! RevInfo
//!   Revocation        any number
//!     ListID          base64 of a GUID, first three fields little-endian (section 2.6)
//!     ListData        base64 of RevInfo v2 or of a list (section 3)
//! ```

use super::ecc::PublicKey;
use super::revocation::{Revocation, RevocationError};
use super::xml::{Document, Element, FieldError, PROTOCOLS, XmlError};

/// The most bytes that such a file may have; it comes from the operator, not from a client.
pub const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One signed list, not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListData {
    /// Which list this is: a GUID in wire order.
    pub id: [u8; 16],
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

/// Why bytes are not a `RevInfo` document.
#[derive(Debug, thiserror::Error)]
pub enum RevInfoError {
    /// Not XML.
    #[error("not a RevInfo document")]
    Xml(#[from] XmlError),
    /// An element is missing, repeated, or not what it must be.
    #[error("the RevInfo element is malformed")]
    Field(#[from] FieldError),
}

impl RevInfo {
    /// Reads the bytes of a file: one `RevInfo` element.
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

    /// Verifies the lists up to `root` at the time `now_s` (Unix seconds).
    ///
    /// # Errors
    ///
    /// As [`Revocation::verify`].
    pub fn verify(self, root: &PublicKey, now_s: u64) -> Result<Revocation, RevocationError> {
        let Self { element, lists } = self;
        let lists: Vec<_> = lists.iter().map(|list| (list.id, list.data.as_slice())).collect();
        Revocation::verify(&lists, element, root, now_s)
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
            lists.push(ListData { id, data });
        }
        Ok(Self { element: element.raw().to_owned(), lists })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/pki/revinfo.xml");

    #[test]
    fn the_golden_file_is_read_verified_and_kept_verbatim() {
        let info = RevInfo::parse(GOLDEN).unwrap();
        assert_eq!(info.lists.len(), 3);
        assert_eq!(info.element.as_bytes(), GOLDEN);
        let root = include_bytes!("../../tests/golden/pki/root.pub.pem");
        let root = PublicKey::from_pem(root).unwrap();
        let lists = info.verify(&root, 1_700_000_000).unwrap();
        assert_eq!((lists.sequence(), lists.element().as_bytes()), (7, GOLDEN));
    }

    #[test]
    fn refuses_another_root_and_a_list_without_data() {
        let text = String::from_utf8(GOLDEN.to_vec()).unwrap();
        assert!(RevInfo::parse(text.replace("RevInfo>", "Info>").as_bytes()).is_err());
        assert!(RevInfo::parse(text.replace("ListData>", "Data>").as_bytes()).is_err());
        assert!(RevInfo::parse(text.replace("ListID>Ef/", "ListID>E/").as_bytes()).is_err());
    }
}
