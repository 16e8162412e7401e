//! Which pages may ask.

use std::str::FromStr;

use serde::Deserialize;

/// Origins of pages (RFC 6454) as browsers send them: scheme, host in lower case, and the port where
/// it is not the scheme's own. In text they are separated by spaces; `*` alone stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Origins(Vec<String>);

/// A text names something else than origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected origins such as https://player.example, separated by spaces, or *")]
pub struct InvalidOrigins;

const ALL: &str = "*";

impl Origins {
    /// Whether pages of `origin`, as the header `Origin` has it, may ask.
    pub fn allow(&self, origin: &str) -> bool {
        self.0.iter().any(|allowed| allowed == ALL || allowed == origin)
    }
}

impl FromStr for Origins {
    type Err = InvalidOrigins;

    fn from_str(text: &str) -> Result<Self, InvalidOrigins> {
        let origins: Vec<_> = text.split_ascii_whitespace().map(str::to_owned).collect();
        let all = origins == [ALL];
        if all || origins.iter().all(|origin| is_origin(origin)) {
            return Ok(Self(origins));
        }
        Err(InvalidOrigins)
    }
}

impl TryFrom<String> for Origins {
    type Error = InvalidOrigins;

    fn try_from(text: String) -> Result<Self, InvalidOrigins> {
        text.parse()
    }
}

fn is_origin(text: &str) -> bool {
    let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:[]".contains(c);
    authority.is_some_and(|authority| !authority.is_empty() && authority.chars().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_the_origins_named_and_no_others() {
        let origins: Origins = "https://a.example  http://localhost:8000".parse().unwrap();
        for (origin, allowed) in [
            ("https://a.example", true),
            ("http://localhost:8000", true),
            ("http://a.example", false),
            ("https://a.example:8443", false),
            ("https://a.example.evil", false),
            ("null", false),
            ("*", false),
            ("", false),
        ] {
            assert_eq!(origins.allow(origin), allowed, "{origin}");
        }
        assert!("*".parse::<Origins>().unwrap().allow("null"));
        assert!(!Origins::default().allow("https://a.example"));
    }

    #[test]
    fn what_no_browser_sends_is_refused() {
        for text in [
            "player.example",
            "https://",
            "https://a.example/",
            "https://A.example",
            "https://a.example,https://b.example",
            "ftp://a.example",
            "* https://a.example",
            "null",
        ] {
            assert_eq!(text.parse::<Origins>(), Err(InvalidOrigins), "{text}");
        }
    }
}
