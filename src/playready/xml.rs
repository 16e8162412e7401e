//! XML as this protocol uses it: a strict reader that knows where every element stood, and a
//! canonical writer.
//!
//! Signatures cover raw bytes (section 2.2 of the [protocol page](super)), so the reader keeps the
//! byte span of each element beside its resolved name. It borrows from the input and copies text
//! only where a reference has to be decoded. What a license challenge never needs is refused before
//! or while parsing (section 1): markup declarations, processing instructions other than one
//! leading XML declaration, references other than the five built-in ones and characters.
//!
//! ```text
//! limit                                  value    why
//! bytes of a message                     65,536   a challenge has 5 to 8 KB
//! nesting                                    32   a challenge uses 13 levels
//! elements                                4,096   1,000 KIDs of a deletion fit
//! attributes of one element                  64
//! namespace declarations in scope            32   a challenge has 11
//! ```

mod field;
mod parse;
mod write;

use std::borrow::Cow;
use std::iter;
use std::ops::Range;

pub use field::FieldError;
pub(in crate::playready) use field::decode_base64;
pub use write::Writer;

/// The namespace of operations and signed elements (P1 in the protocol page).
pub const PROTOCOLS: &str = "http://schemas.microsoft.com/DRM/2007/03/protocols";
/// The namespace of `Challenge` and `Response` (P2).
pub const MESSAGES: &str = "http://schemas.microsoft.com/DRM/2007/03/protocols/messages";
/// The namespace of XML signatures (DS).
pub const SIGNATURES: &str = "http://www.w3.org/2000/09/xmldsig#";
/// The namespace of XML encryption (XE).
pub const ENCRYPTION: &str = "http://www.w3.org/2001/04/xmlenc#";
/// The namespace of SOAP 1.1 envelopes.
pub const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";

/// The most bytes a request may have (section 1).
pub const MESSAGE_BYTES_MAX: usize = 65_536;

/// White space as XML defines it.
const WHITE_SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// Why bytes are not a document that this reader accepts. Always the sender's fault.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// The document exceeds [`MESSAGE_BYTES_MAX`] or the limit that was asked for.
    #[error("the document is larger than {0} bytes")]
    TooLarge(usize),
    /// The bytes are not UTF-8.
    #[error("the document is not UTF-8")]
    NotUtf8(#[source] std::str::Utf8Error),
    /// A DTD, comment, CDATA section or processing instruction.
    #[error("comments, CDATA, declarations and processing instructions are not accepted")]
    ForbiddenMarkup,
    /// The tokens do not follow the XML grammar.
    #[error("the document is not well-formed")]
    Syntax(#[source] quick_xml::Error),
    /// The tokens do not make a well-formed document with namespaces.
    #[error("the document is not well-formed: {0}")]
    Malformed(&'static str),
    /// One of the limits in the table above.
    #[error("the document has too many {0}")]
    Limit(&'static str),
}

/// A parsed document, in document order. Always has a root element.
pub struct Document<'a> {
    source: &'a str,
    /// Bytes of byte order mark and XML declaration before `source`.
    offset: usize,
    root: Node<'a>,
    /// Every element, the root first.
    nodes: Vec<Node<'a>>,
    attributes: Vec<Attribute<'a>>,
}

/// What is known of one element. Offsets count bytes of `Document::source`.
#[derive(Clone, Copy)]
struct Node<'a> {
    namespace: &'a str,
    local: &'a str,
    /// How many elements it stands in.
    level: usize,
    /// The lowest level whose declarations its name and those of its attributes depend on.
    names_from: usize,
    /// From `<` of the start tag past `>` of the end tag.
    start: usize,
    end: usize,
    /// Between the tags.
    content_start: usize,
    content_end: usize,
    /// Index of the first node after this one's descendants.
    next: usize,
    /// Range of this element in `Document::attributes`.
    attributes_start: usize,
    attributes_end: usize,
}

/// One attribute; namespace declarations are not among them.
pub struct Attribute<'a> {
    /// The namespace name, empty for an attribute without prefix.
    pub namespace: &'a str,
    /// The name without its prefix.
    pub local: &'a str,
    /// The value with references decoded and white space normalized.
    pub value: Cow<'a, str>,
    /// Level of the element that declares its prefix.
    level: usize,
}

/// One element of a [`Document`].
#[derive(Clone, Copy)]
pub struct Element<'d, 'a> {
    document: &'d Document<'a>,
    node: &'d Node<'a>,
    index: usize,
}

impl<'a> Document<'a> {
    /// Parses `bytes`: UTF-8, with or without byte order mark and XML declaration.
    ///
    /// # Errors
    ///
    /// Anything that is not well-formed, is forbidden in section 1, or exceeds a limit.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, XmlError> {
        parse::document(bytes, MESSAGE_BYTES_MAX)
    }

    /// As [`parse`](Self::parse), for documents that are no requests: up to `bytes_max` bytes.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn parse_up_to(bytes: &'a [u8], bytes_max: usize) -> Result<Self, XmlError> {
        parse::document(bytes, bytes_max)
    }

    /// The root element.
    pub fn root(&self) -> Element<'_, 'a> {
        Element { document: self, node: &self.root, index: 0 }
    }

    /// All elements in document order, the root first.
    pub fn elements(&self) -> impl Iterator<Item = Element<'_, 'a>> {
        self.nodes.iter().enumerate().map(move |(index, node)| Element {
            document: self,
            node,
            index,
        })
    }
}

impl<'d, 'a> Element<'d, 'a> {
    /// Whether the element has this expanded name.
    pub fn is(self, namespace: &str, local: &str) -> bool {
        self.node.local == local && self.node.namespace == namespace
    }

    /// The name without its prefix.
    pub fn local_name(self) -> &'a str {
        self.node.local
    }

    /// Whether both stand for the same place in the same document.
    pub fn is_same(self, other: Self) -> bool {
        std::ptr::eq(self.document, other.document) && self.index == other.index
    }

    /// The child elements in document order.
    pub fn children(self) -> impl Iterator<Item = Element<'d, 'a>> {
        let Self { document, node, index } = self;
        let mut at = index.saturating_add(1);
        iter::from_fn(move || {
            if at >= node.next {
                return None;
            }
            let child = Element { document, node: document.nodes.get(at)?, index: at };
            at = child.node.next;
            Some(child)
        })
    }

    /// The child, if the element has exactly one and it has this name.
    pub fn only_child(self, namespace: &str, local: &str) -> Option<Self> {
        let mut children = self.children();
        let child = children.next().filter(|child| child.is(namespace, local))?;
        children.next().is_none().then_some(child)
    }

    /// The attributes in the order they were written.
    pub fn attributes(self) -> impl Iterator<Item = &'d Attribute<'a>> {
        let range = self.node.attributes_start..self.node.attributes_end;
        self.document.attributes.get(range).unwrap_or_default().iter()
    }

    /// The value of an attribute without namespace.
    pub fn attribute(self, local: &str) -> Option<&'d str> {
        self.attributes()
            .find(|attribute| attribute.namespace.is_empty() && attribute.local == local)
            .map(|attribute| attribute.value.as_ref())
    }

    /// The text, references decoded and line ends as line feeds, or `None` if the element has
    /// child elements.
    pub fn text(self) -> Option<Cow<'a, str>> {
        if self.children().next().is_some() {
            return None;
        }
        let range = self.node.content_start..self.node.content_end;
        parse::decode(self.document.source.get(range)?, parse::Place::Text).ok()
    }

    /// Where the element stands in the bytes that were parsed, tags included.
    pub fn span(self) -> Range<usize> {
        let offset = self.document.offset;
        self.node.start.saturating_add(offset)..self.node.end.saturating_add(offset)
    }

    /// Reads the element as a parse of exactly its own bytes shows it, so that no prefix declared
    /// outside can change a name. Where nothing inside depends on such a prefix, that is the element
    /// as it is.
    ///
    /// # Errors
    ///
    /// The bytes alone are no document.
    pub fn alone<T>(self, read: impl FnOnce(Element<'_, 'a>) -> T) -> Result<T, XmlError> {
        let inside = self.document.nodes.get(self.index..self.node.next).unwrap_or_default();
        if inside.iter().all(|node| node.names_from >= self.node.level) {
            return Ok(read(self));
        }
        Ok(read(Document::parse(self.raw().as_bytes())?.root()))
    }

    /// The element as it was transmitted, tags included.
    pub fn raw(self) -> &'a str {
        self.document.source.get(self.node.start..self.node.end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
