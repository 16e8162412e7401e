//! Why somebody did something, in a few words of their own.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Length of the longest reason, in characters.
const CHARS_MAX: usize = 200;

/// Why an operator did something: 1 to 200 characters without line breaks or other control
/// characters, not all of them spaces. It stands in an event for good, so that it must name no
/// person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 200, example = "a large family")]
#[serde(try_from = "String", into = "String")]
pub struct Reason(String);

/// A text is no [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a reason is 1 to 200 characters, without line breaks and other control characters; name no \
     person in it"
)]
pub struct InvalidReason;

impl Reason {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Reason {
    type Error = InvalidReason;

    fn try_from(text: String) -> Result<Self, InvalidReason> {
        let fits = (1..=CHARS_MAX).contains(&text.chars().count());
        let plain = !text.trim().is_empty() && !text.chars().any(char::is_control);
        if fits && plain { Ok(Self(text)) } else { Err(InvalidReason) }
    }
}

impl std::str::FromStr for Reason {
    type Err = InvalidReason;

    fn from_str(text: &str) -> Result<Self, InvalidReason> {
        text.to_owned().try_into()
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_one_to_two_hundred_characters() {
        for text in ["x", "a large family", &"ß".repeat(200)] {
            assert_eq!(text.parse::<Reason>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn refuses_what_is_empty_too_long_or_no_line_of_text() {
        for text in ["", "  ", &"x".repeat(201), "two\nlines", "a\u{7f}", "\u{1b}[31m"] {
            assert_eq!(text.parse::<Reason>(), Err(InvalidReason), "{text:?}");
        }
    }
}
