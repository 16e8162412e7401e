//! Typed values of elements.

use std::borrow::Cow;

use data_encoding::BASE64;
use uuid::Uuid;

use super::super::kid::Kid;
use super::parse::has_byte;
use super::{Element, WHITE_SPACE};

/// An element of a message is missing, repeated, or does not hold what it must. The sender's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct FieldError {
    field: String,
    problem: &'static str,
}

impl FieldError {
    /// Says that the element named `field` has this `problem`, a verb phrase.
    pub fn new(field: &str, problem: &'static str) -> Self {
        Self { field: field.to_owned(), problem }
    }
}

/// Reads standard base64 with padding; white space is ignored, unused bits must be zero.
pub(in crate::playready) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_matches(WHITE_SPACE);
    if !has_byte(text, |byte| byte.is_ascii_whitespace()) {
        return BASE64.decode(text.as_bytes()).ok();
    }
    let compact: String = text.chars().filter(|c| !WHITE_SPACE.contains(c)).collect();
    BASE64.decode(compact.as_bytes()).ok()
}

impl<'d, 'a> Element<'d, 'a> {
    /// The child with this name, which may be left out but not repeated.
    pub fn optional(self, namespace: &str, local: &str) -> Result<Option<Self>, FieldError> {
        let mut named = self.children().filter(|child| child.is(namespace, local));
        let first = named.next();
        match named.next() {
            Some(_) => Err(FieldError::new(local, "appears more than once")),
            None => Ok(first),
        }
    }

    /// The child with this name, which must appear exactly once.
    pub fn required(self, namespace: &str, local: &str) -> Result<Self, FieldError> {
        self.optional(namespace, local)?.ok_or_else(|| FieldError::new(local, "is missing"))
    }

    /// The text as it is.
    pub fn value(self) -> Result<Cow<'a, str>, FieldError> {
        self.text().ok_or_else(|| self.problem("holds elements instead of text"))
    }

    /// The text without white space around it.
    pub fn trimmed(self) -> Result<Cow<'a, str>, FieldError> {
        Ok(match self.value()? {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim_matches(WHITE_SPACE)),
            Cow::Owned(text) => Cow::Owned(text.trim_matches(WHITE_SPACE).to_owned()),
        })
    }

    /// A decimal number without sign.
    pub fn decimal(self) -> Result<u64, FieldError> {
        let text = self.trimmed()?;
        let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok());
        number.flatten().ok_or_else(|| self.problem("is not a decimal number"))
    }

    /// Base64 of any length.
    pub fn base64(self) -> Result<Vec<u8>, FieldError> {
        decode_base64(&self.value()?).ok_or_else(|| self.problem("is not base64"))
    }

    /// Base64 of exactly `N` bytes.
    pub fn base64_array<const N: usize>(self) -> Result<[u8; N], FieldError> {
        <[u8; N]>::try_from(self.base64()?)
            .map_err(|_| self.problem("does not have the required number of bytes"))
    }

    /// A key id: base64 of its 16 bytes in wire order.
    pub fn kid(self) -> Result<Kid, FieldError> {
        self.base64_array().map(Kid::from_wire)
    }

    /// A GUID as text with hyphens, any case.
    pub fn guid(self) -> Result<Uuid, FieldError> {
        let text = self.trimmed()?;
        // `Uuid` would also read braces, URNs and text without hyphens.
        let hyphenated = (text.len() == 36).then(|| Uuid::try_parse(&text).ok());
        hyphenated.flatten().ok_or_else(|| self.problem("is not a GUID"))
    }

    /// Says what is wrong with this element.
    pub fn problem(self, problem: &'static str) -> FieldError {
        FieldError::new(self.local_name(), problem)
    }
}
