//! Canonical XML text, as sections 2.2 and 6.1 ask for: one line, no white space between elements,
//! attributes in the order given, empty elements as `<X></X>`, ASCII only.

use std::fmt::Write as _;

use data_encoding::BASE64;

/// Writes elements in canonical form into one string.
#[derive(Default)]
pub struct Writer {
    out: String,
}

impl Writer {
    /// Starts with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: String::with_capacity(bytes) }
    }

    /// Writes `<name attributes>`, what `content` writes, and `</name>`.
    pub fn element(
        &mut self,
        name: &str,
        attributes: &[(&str, &str)],
        content: impl FnOnce(&mut Self),
    ) {
        self.out.push('<');
        self.out.push_str(name);
        for (attribute, value) in attributes {
            self.out.push(' ');
            self.out.push_str(attribute);
            self.out.push_str("=\"");
            escape(&mut self.out, value, Quotes::Escaped);
            self.out.push('"');
        }
        self.out.push('>');
        content(self);
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }

    /// Writes an element that holds text.
    pub fn leaf(&mut self, name: &str, text: &str) {
        self.element(name, &[], |w| w.text(text));
    }

    /// Writes an element that holds compact base64.
    pub fn base64(&mut self, name: &str, bytes: &[u8]) {
        self.element(name, &[], |w| w.base64_text(bytes));
    }

    /// Writes compact base64 as text.
    pub fn base64_text(&mut self, bytes: &[u8]) {
        BASE64.encode_append(bytes, &mut self.out);
    }

    /// Writes text: `&`, `<` and `>` as built-in references, characters outside ASCII as decimal
    /// references. Characters that XML cannot hold become U+FFFD.
    pub fn text(&mut self, text: &str) {
        escape(&mut self.out, text, Quotes::Plain);
    }

    /// Writes markup as it is. The caller vouches that it is well-formed and canonical.
    pub fn raw(&mut self, markup: &str) {
        self.out.push_str(markup);
    }

    /// How many bytes have been written.
    pub fn position(&self) -> usize {
        self.out.len()
    }

    /// What has been written from `position` on.
    pub fn since(&self, position: usize) -> &str {
        self.out.get(position..).unwrap_or_default()
    }

    /// The text.
    pub fn finish(self) -> String {
        self.out
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Plain,
    Escaped,
}

fn escape(out: &mut String, text: &str, quotes: Quotes) {
    let plain = |byte: u8| {
        matches!(byte, 0x20..=0x7e) && !matches!(byte, b'&' | b'<' | b'>') && {
            quotes == Quotes::Plain || byte != b'"'
        }
    };
    if text.bytes().all(plain) {
        out.push_str(text);
        return;
    }
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' if quotes == Quotes::Escaped => out.push_str("&quot;"),
            ' '..='~' => out.push(c),
            '\n' | '\t' if quotes == Quotes::Plain => out.push(c),
            '\n'
            | '\t'
            | '\r'
            | '\u{7f}'..='\u{d7ff}'
            | '\u{e000}'..='\u{fffd}'
            | '\u{10000}'.. => {
                // Writing to a string cannot fail.
                let _ = write!(out, "&#{};", u32::from(c));
            }
            _ => out.push_str("&#65533;"),
        }
    }
}
