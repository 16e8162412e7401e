//! Names that a service gives to what is counted: its devices, accounts, titles and content groups.

use serde::{Deserialize, Serialize};

/// Length of the longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// A name that a service gives: 1 to [`NAME_BYTES_MAX`] bytes without control characters, not all of
/// them spaces. An empty one is a mistake of whoever sent it, and would count everybody's as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A text is no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {NAME_BYTES_MAX} bytes, not all of them spaces, and no control characters")]
pub struct InvalidName;

impl Name {
    /// Checks a text that is to be a name.
    pub fn check(text: &str) -> Result<(), InvalidName> {
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len());
        let plain = !text.trim().is_empty() && !text.chars().any(char::is_control);
        if fits && plain { Ok(()) } else { Err(InvalidName) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::check(&text).map(|()| Self(text))
    }
}

impl std::str::FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.to_owned().try_into()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_one_to_256_bytes() {
        for text in ["x", "family 3", &"ß".repeat(128)] {
            assert_eq!(text.parse::<Name>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn refuses_what_is_blank_too_long_or_no_line_of_text() {
        for text in ["", " ", "\u{a0}\u{2003}", &"x".repeat(257), &"ß".repeat(129), "a\nb", "\0"] {
            assert_eq!(text.parse::<Name>(), Err(InvalidName), "{text:?}");
        }
    }
}
