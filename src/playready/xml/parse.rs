//! From bytes to a [`Document`]: tokens from quick-xml, everything stricter from here.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::Event;

use super::{Attribute, Document, Node, WHITE_SPACE, XmlError};

const DEPTH_MAX: usize = 32;
const ELEMENTS_MAX: usize = 4_096;
const ATTRIBUTES_MAX: usize = 64;
const NAMESPACES_MAX: usize = 32;

const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";
const XMLNS_NAMESPACE: &str = "http://www.w3.org/2000/xmlns/";

pub(super) fn document(bytes: &[u8], bytes_max: usize) -> Result<Document<'_>, XmlError> {
    if bytes.len() > bytes_max {
        return Err(XmlError::TooLarge(bytes_max));
    }
    let source = text(bytes)?;
    let mut reader = Reader::from_str(source);
    let mut parser = Parser::new(source, bytes.len().saturating_sub(source.len()));
    loop {
        let start = offset(&reader);
        let event = reader.read_event().map_err(XmlError::Syntax)?;
        let end = offset(&reader);
        match event {
            Event::Start(tag) => parser.open(start, end, tag.name().as_ref().len(), 1)?,
            Event::Empty(tag) => {
                parser.open(start, end, tag.name().as_ref().len(), 2)?;
                parser.close(end, end)?;
            }
            Event::End(_) => parser.close(start, end)?,
            Event::Text(_) => parser.text(start, end)?,
            Event::GeneralRef(_) => parser.reference(start, end)?,
            Event::Eof => return parser.finish(),
            // An XML declaration is taken off before, so there is none left.
            _ => return Err(XmlError::ForbiddenMarkup),
        }
    }
}

/// Checks what can be checked on raw bytes; takes off byte order mark and XML declaration.
fn text(bytes: &[u8]) -> Result<&str, XmlError> {
    let whole = std::str::from_utf8(bytes).map_err(XmlError::NotUtf8)?;
    let rest = whole.strip_prefix('\u{feff}').unwrap_or(whole);
    let body = match rest.strip_prefix("<?xml") {
        Some(declared) => {
            let (declaration, body) = declared
                .split_once("?>")
                .ok_or(XmlError::Malformed("the XML declaration has no end"))?;
            check_declaration(declaration)?;
            body
        }
        None => rest,
    };
    if body.contains("<!") || body.contains("<?") {
        return Err(XmlError::ForbiddenMarkup);
    }
    let control = |byte| byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r');
    let no_character = !body.is_ascii() && body.contains(['\u{fffe}', '\u{ffff}']);
    if no_character || has_byte(body, control) {
        return Err(XmlError::Malformed("it holds a character that XML does not allow"));
    }
    Ok(body)
}

/// Whether any byte satisfies `is`. Has no early exit, so that the compiler can use vector
/// instructions: these checks run over kilobytes of base64 and almost never find anything.
pub(super) fn has_byte(text: &str, is: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(false, |any, byte| any | is(byte))
}

fn check_declaration(declaration: &str) -> Result<(), XmlError> {
    let mut pairs = Vec::new();
    split_attributes(declaration, |name, value| {
        pairs.push((name, value));
        Ok(())
    })?;
    let known = pairs.iter().all(|(name, value)| match *name {
        "version" => *value == "1.0",
        "encoding" => value.eq_ignore_ascii_case("utf-8"),
        "standalone" => matches!(*value, "yes" | "no"),
        _ => false,
    });
    let names: Vec<_> = pairs.iter().map(|(name, _)| *name).collect();
    let order = [
        &["version"][..],
        &["version", "encoding"],
        &["version", "standalone"],
        &["version", "encoding", "standalone"],
    ];
    if known && order.contains(&names.as_slice()) {
        Ok(())
    } else {
        Err(XmlError::Malformed("the XML declaration is not one of XML 1.0 in UTF-8"))
    }
}

fn offset(reader: &Reader<&[u8]>) -> usize {
    // The document is in memory.
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

struct Binding<'a> {
    /// Empty for the default namespace.
    prefix: &'a str,
    namespace: &'a str,
    /// Level of the element that declares it.
    level: usize,
}

impl Binding<'_> {
    /// Whether it declares `prefix`. Most are empty or a few letters, for which calling the C
    /// library to compare costs more than the comparison, several times for empty text.
    fn has(&self, prefix: &str) -> bool {
        self.prefix.len() == prefix.len() && self.prefix.bytes().eq(prefix.bytes())
    }
}

/// What a prefix stands for.
struct Resolved<'a> {
    namespace: &'a str,
    /// Level of the element that says so; the highest number if it means the same anywhere.
    level: usize,
}

impl Resolved<'_> {
    /// A name in no namespace.
    const ANYWHERE: Self = Self { namespace: "", level: usize::MAX };
}

struct Open {
    node: usize,
    /// How many bindings were in scope outside the element.
    bindings: usize,
}

struct Parser<'a> {
    source: &'a str,
    /// Bytes of the document before `source`.
    offset: usize,
    nodes: Vec<Node<'a>>,
    attributes: Vec<Attribute<'a>>,
    open: Vec<Open>,
    bindings: Vec<Binding<'a>>,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str, offset: usize) -> Self {
        Self {
            source,
            offset,
            nodes: Vec::with_capacity(64),
            attributes: Vec::with_capacity(32),
            open: Vec::with_capacity(DEPTH_MAX),
            bindings: Vec::with_capacity(NAMESPACES_MAX),
        }
    }

    /// Takes a start tag at `start..end` that ends with `closing` bytes of `>` or `/>`.
    fn open(
        &mut self,
        start: usize,
        end: usize,
        name_bytes: usize,
        closing: usize,
    ) -> Result<(), XmlError> {
        if self.open.is_empty() && !self.nodes.is_empty() {
            return Err(XmlError::Malformed("it has more than one root element"));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(XmlError::Limit("levels"));
        }
        if self.nodes.len() >= ELEMENTS_MAX {
            return Err(XmlError::Limit("elements"));
        }
        let name_start = start.saturating_add(1);
        let name_end = name_start.saturating_add(name_bytes);
        let name = self.slice(name_start, name_end)?;
        let rest = self.slice(name_end, end.saturating_sub(closing))?;
        let outer_bindings = self.bindings.len();
        let attributes_start = self.attributes.len();
        self.read_attributes(rest)?;
        let (prefix, local) = split_name(name)?;
        if prefix == "xmlns" {
            return Err(XmlError::Malformed("an element has the prefix xmlns"));
        }
        let Resolved { namespace, level } = self.resolve(prefix)?;
        let attributes = self.attributes.get(attributes_start..).unwrap_or_default();
        let node = Node {
            namespace,
            local,
            level: self.open.len(),
            names_from: attributes.iter().map(|attribute| attribute.level).fold(level, usize::min),
            start,
            end,
            content_start: end,
            content_end: end,
            next: 0,
            attributes_start,
            attributes_end: self.attributes.len(),
        };
        self.open.push(Open { node: self.nodes.len(), bindings: outer_bindings });
        self.nodes.push(node);
        Ok(())
    }

    /// Takes an end tag at `start..end`. That the names match is checked by the reader.
    fn close(&mut self, start: usize, end: usize) -> Result<(), XmlError> {
        let unopened = XmlError::Malformed("an end tag closes nothing");
        let Some(open) = self.open.pop() else {
            return Err(unopened);
        };
        let next = self.nodes.len();
        let Some(node) = self.nodes.get_mut(open.node) else {
            return Err(unopened);
        };
        node.content_end = start;
        node.end = end;
        node.next = next;
        self.bindings.truncate(open.bindings);
        Ok(())
    }

    fn text(&self, start: usize, end: usize) -> Result<(), XmlError> {
        let text = self.slice(start, end)?;
        if self.open.is_empty() && !text.trim_matches(WHITE_SPACE).is_empty() {
            return Err(XmlError::Malformed("it has text outside the root element"));
        }
        if text.contains("]]>") {
            return Err(XmlError::Malformed("text holds the end of a CDATA section"));
        }
        Ok(())
    }

    fn reference(&self, start: usize, end: usize) -> Result<(), XmlError> {
        if self.open.is_empty() {
            return Err(XmlError::Malformed("it has text outside the root element"));
        }
        decode(self.slice(start, end)?, Place::Text).map(drop)
    }

    fn finish(self) -> Result<Document<'a>, XmlError> {
        let Self { source, offset, nodes, attributes, open, .. } = self;
        match nodes.first() {
            Some(&root) if open.is_empty() => {
                Ok(Document { offset, source, root, nodes, attributes })
            }
            Some(_) => Err(XmlError::Malformed("an element has no end tag")),
            None => Err(XmlError::Malformed("it has no root element")),
        }
    }

    /// Namespace declarations may stand after the attributes that use them, so names are resolved
    /// only when all have been seen.
    fn read_attributes(&mut self, rest: &'a str) -> Result<(), XmlError> {
        if rest.is_empty() {
            return Ok(());
        }
        let first = self.attributes.len();
        let first_binding = self.bindings.len();
        let mut count = 0_usize;
        split_attributes(rest, |name, value| {
            count = count.saturating_add(1);
            if count > ATTRIBUTES_MAX {
                return Err(XmlError::Limit("attributes"));
            }
            match split_name(name)? {
                ("", "xmlns") => self.bind("", value, first_binding),
                ("xmlns", prefix) => self.bind(prefix, value, first_binding),
                (prefix, local) => {
                    let value = decode(value, Place::Attribute)?;
                    let level = usize::MAX;
                    self.attributes.push(Attribute { namespace: prefix, local, value, level });
                    Ok(())
                }
            }
        })?;
        for at in first..self.attributes.len() {
            self.resolve_attribute(first, at)?;
        }
        Ok(())
    }

    /// Replaces the prefix of an attribute by its namespace and refuses a repeated name.
    fn resolve_attribute(&mut self, first: usize, at: usize) -> Result<(), XmlError> {
        let prefix = self.attributes.get(at).map_or("", |attribute| attribute.namespace);
        let resolved = if prefix.is_empty() { Resolved::ANYWHERE } else { self.resolve(prefix)? };
        let Resolved { namespace, level } = resolved;
        let earlier = self.attributes.get_mut(first..=at).unwrap_or_default();
        if let Some((attribute, earlier)) = earlier.split_last_mut() {
            attribute.namespace = namespace;
            attribute.level = level;
            let same = |other: &Attribute<'_>| {
                other.local == attribute.local && other.namespace == namespace
            };
            if earlier.iter().any(same) {
                return Err(XmlError::Malformed("an attribute appears twice"));
            }
        }
        Ok(())
    }

    fn bind(
        &mut self,
        prefix: &'a str,
        namespace: &'a str,
        first_binding: usize,
    ) -> Result<(), XmlError> {
        if self.bindings.len() >= NAMESPACES_MAX {
            return Err(XmlError::Limit("namespace declarations"));
        }
        let own = self.bindings.get(first_binding..).unwrap_or_default();
        if own.iter().any(|binding| binding.has(prefix)) {
            return Err(XmlError::Malformed("an attribute appears twice"));
        }
        // A name with references or line breaks would have to be compared decoded.
        if has_byte(namespace, |byte| matches!(byte, b'&' | b'\t' | b'\r' | b'\n')) {
            return Err(XmlError::Malformed("a namespace name holds a reference or white space"));
        }
        let reserved = matches!(prefix, "xml" | "xmlns")
            || matches!(namespace, XML_NAMESPACE | XMLNS_NAMESPACE);
        if reserved || (namespace.is_empty() && !prefix.is_empty()) {
            return Err(XmlError::Malformed("a namespace declaration is not allowed"));
        }
        self.bindings.push(Binding { prefix, namespace, level: self.open.len() });
        Ok(())
    }

    fn resolve(&self, prefix: &str) -> Result<Resolved<'a>, XmlError> {
        if prefix == "xml" {
            return Ok(Resolved { namespace: XML_NAMESPACE, ..Resolved::ANYWHERE });
        }
        match self.bindings.iter().rev().find(|binding| binding.has(prefix)) {
            Some(&Binding { namespace, level, .. }) => Ok(Resolved { namespace, level }),
            None if prefix.is_empty() => Ok(Resolved::ANYWHERE),
            None => Err(XmlError::Malformed("a namespace prefix is not declared")),
        }
    }

    fn slice(&self, start: usize, end: usize) -> Result<&'a str, XmlError> {
        self.source.get(start..end).ok_or(XmlError::Malformed("a tag is cut off"))
    }
}

/// Calls `each` with name and raw value of every `name="value"` in `rest`, which starts with the
/// white space after the element's name.
fn split_attributes<'a>(
    mut rest: &'a str,
    mut each: impl FnMut(&'a str, &'a str) -> Result<(), XmlError>,
) -> Result<(), XmlError> {
    let broken = || XmlError::Malformed("an attribute is not name=\"value\"");
    loop {
        let trimmed = rest.trim_start_matches(WHITE_SPACE);
        if trimmed.is_empty() {
            return Ok(());
        }
        if trimmed.len() == rest.len() {
            return Err(XmlError::Malformed("attributes are not separated by white space"));
        }
        let (name, after) = trimmed.split_once('=').ok_or_else(broken)?;
        let after = after.trim_start_matches(WHITE_SPACE);
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\'')).ok_or_else(broken)?;
        let after = after.strip_prefix(quote).ok_or_else(broken)?;
        let (value, tail) = after.split_once(quote).ok_or_else(broken)?;
        if value.contains('<') {
            return Err(broken());
        }
        each(name.trim_end_matches(WHITE_SPACE), value)?;
        rest = tail;
    }
}

/// Splits a qualified name into prefix (may be empty) and local part.
fn split_name(name: &str) -> Result<(&str, &str), XmlError> {
    let (prefix, local) = name.split_once(':').unwrap_or(("", name));
    let unprefixed = local.len() == name.len();
    if (unprefixed || is_name(prefix)) && is_name(local) {
        Ok((prefix, local))
    } else {
        Err(XmlError::Malformed("a name is not a qualified name"))
    }
}

fn is_name(name: &str) -> bool {
    let starts = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii();
    let continues = |byte: u8| starts(byte) || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    name.bytes().next().is_some_and(starts) && name.bytes().all(continues)
}

/// Where text stood, which decides how white space is normalized.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Text,
    Attribute,
}

/// Decodes the five built-in references and character references; normalizes line ends, and in
/// attributes every white space character to a space.
pub(super) fn decode(raw: &str, place: Place) -> Result<Cow<'_, str>, XmlError> {
    let special = match place {
        Place::Text => has_byte(raw, |byte| matches!(byte, b'&' | b'\r')),
        Place::Attribute => has_byte(raw, |byte| matches!(byte, b'&' | b'\r' | b'\n' | b'\t')),
    };
    if !special {
        return Ok(Cow::Borrowed(raw));
    }
    let mut decoded = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(c) = rest.chars().next() {
        let tail = rest.strip_prefix(c).unwrap_or_default();
        rest = match c {
            '&' => {
                let (name, tail) = tail.split_once(';').ok_or(BAD_REFERENCE)?;
                decoded.push(referenced(name).ok_or(BAD_REFERENCE)?);
                tail
            }
            '\r' => {
                decoded.push(if place == Place::Text { '\n' } else { ' ' });
                tail.strip_prefix('\n').unwrap_or(tail)
            }
            '\n' | '\t' if place == Place::Attribute => {
                decoded.push(' ');
                tail
            }
            _ => {
                decoded.push(c);
                tail
            }
        };
    }
    Ok(Cow::Owned(decoded))
}

const BAD_REFERENCE: XmlError =
    XmlError::Malformed("a reference is neither built-in nor a character XML allows");

fn referenced(name: &str) -> Option<char> {
    let digits = |text: &str, radix| {
        // `from_str_radix` would take a sign.
        let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| u32::from_str_radix(text, radix).ok()).flatten()
    };
    let code = match name {
        "lt" => return Some('<'),
        "gt" => return Some('>'),
        "amp" => return Some('&'),
        "apos" => return Some('\''),
        "quot" => return Some('"'),
        _ => match name.strip_prefix("#x") {
            Some(hex) => digits(hex, 16)?,
            None => digits(name.strip_prefix('#')?, 10)?,
        },
    };
    let allowed = matches!(code, 0x9 | 0xA | 0xD | 0x20..=0xD7FF | 0xE000..=0xFFFD | 0x1_0000..);
    char::from_u32(code).filter(|_| allowed)
}
