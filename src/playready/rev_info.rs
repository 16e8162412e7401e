//! Revocation information as XML carries it: files such as `revinfo.xml` (section 14) and the
//! `RevInfo` element of a response (section 6.2).
//!
//! ```text
//! RevInfo
//!   Revocation        any number
//!     ListID          base64 of a GUID, first three fields little-endian (section 2.6)
//!     ListData        base64 of RevInfo v2 or of a list (section 3)
//! ```

use std::ops::Range;

use super::ecc::PublicKey;
use super::revocation::{Revocation, RevocationError, is_legacy};
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
    /// Where it stands in the text of the `RevInfo` element, tags included.
    at: Range<usize>,
}

/// A `RevInfo` element, not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevInfo {
    /// The element as it was transmitted, tags included.
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
        let sent = self.without_legacy();
        let Self { element, lists } = self;
        let lists: Vec<_> = lists.iter().map(|list| (list.id, list.data.as_slice())).collect();
        Revocation::verify(&lists, element, sent, root, now_s)
    }

    /// The element without the lists of older clients, if it has any.
    fn without_legacy(&self) -> Option<String> {
        let mut left_out = self.lists.iter().filter(|list| is_legacy(list.id)).peekable();
        left_out.peek()?;
        let (mut kept, mut from) = (String::new(), 0);
        for ListData { at, .. } in left_out {
            kept.push_str(self.element.get(from..at.start).unwrap_or_default());
            from = at.end;
        }
        kept.push_str(self.element.get(from..).unwrap_or_default());
        Some(kept)
    }

    /// Reads the element, whose names are in `namespace`.
    pub(super) fn read(element: Element<'_, '_>, namespace: &str) -> Result<Self, FieldError> {
        if !element.is(namespace, "RevInfo") {
            return Err(element.problem("is not RevInfo"));
        }
        let mut lists = Vec::new();
        let start = element.span().start;
        for revocation in element.children() {
            let id = revocation.required(namespace, "ListID")?.base64_array()?;
            let data = revocation.required(namespace, "ListData")?.base64()?;
            if !revocation.is(namespace, "Revocation") || revocation.children().count() != 2 {
                return Err(revocation.problem("is not a Revocation of ListID and ListData"));
            }
            let Range { start: from, end: to } = revocation.span();
            let at = from.saturating_sub(start)..to.saturating_sub(start);
            lists.push(ListData { id, data, at });
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
        let other = text.replace("Revocation>", "List>");
        assert!(RevInfo::parse(other.as_bytes()).is_err());
        let more = text.replacen("</Revocation>", "<More></More></Revocation>", 1);
        assert!(RevInfo::parse(more.as_bytes()).is_err());
    }

    #[test]
    fn lists_that_cannot_be_verified_are_kept_from_clients() {
        let golden = String::from_utf8(GOLDEN.to_vec()).unwrap();
        let root = include_bytes!("../../tests/golden/pki/root.pub.pem");
        let root = PublicKey::from_pem(root).unwrap();
        // RevInfo v1, and the list of ND.
        let legacy = ["VVrezIimBUSoi9E/kNW6Pg==", "BOZ1zT1UnEqfCf5tJOi/kA=="].map(|id| {
            format!(
                "<Revocation><ListID>{id}</ListID><ListData>bm90IHJlYWQ=</ListData></Revocation>"
            )
        });
        let first = golden.replacen("<Revocation>", &format!("{}<Revocation>", legacy[0]), 1);
        let both = first.replace("</RevInfo>", &format!("{}</RevInfo>", legacy[1]));
        for file in [&golden, &first, &both, &format!("\u{feff}{both}")] {
            let lists = RevInfo::parse(file.as_bytes()).unwrap().verify(&root, 1_700_000_000);
            assert_eq!(lists.unwrap().sent(), golden);
        }
    }
}
