//! Lists are handed out in pages that remember where they were cut.
//!
//! A request says `?limit=` and, from the second page on, the `cursor` that the page before ended
//! with. A cursor is base64url of
//!
//! ```json
//! {"list": "devices", "at": "10442", "after": …}
//! ```
//!
//! `at` is the position in the ledger that the first page was cut at, so that later pages show the
//! same state of the world or can say that they do not; `after` is the last item shown, in whatever
//! type its list sorts by. Clients keep it as it is; it grants nothing, so it is not authenticated.

use data_encoding::BASE64URL_NOPAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::problem::Problem;

/// The two query parameters of a list. Other parameters go beside it with `#[serde(flatten)]`, or
/// are refused by name if there are none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    limit: Option<String>,
    cursor: Option<String>,
    /// Wait until the answer includes this position.
    pub min_position: Option<String>,
    /// Where the first page begins, for lists that have such a place.
    pub from: Option<String>,
}

/// Where a page ended, and the next one begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor<K> {
    list: String,
    /// Position in the ledger that the first page was cut at.
    pub at: String,
    /// Last item shown.
    pub after: K,
}

/// A page that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest<K> {
    /// Most items to show: 1 to [`MAX_LIMIT`].
    pub limit: usize,
    /// Where to go on; `None` for the first page.
    pub cursor: Option<Cursor<K>>,
}

/// A page as it is sent.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    /// The items, in the order of the list.
    pub items: Vec<T>,
    /// Cursor of the next page; `null` where there is none.
    pub next_cursor: Option<String>,
    /// Position in the ledger that the list was cut at.
    pub position: String,
}

/// Items of a page that does not say how many it wants.
pub const DEFAULT_LIMIT: usize = 100;

/// Most items of one page: keeps an answer well below a megabyte.
pub const MAX_LIMIT: usize = 1_000;

impl PageQuery {
    /// Reads the parameters for the list of this name.
    ///
    /// # Errors
    ///
    /// A 400 problem that names `limit` or `cursor`.
    pub fn parse<K: DeserializeOwned>(&self, list: &str) -> Result<PageRequest<K>, Problem> {
        let limit = match self.limit.as_deref().map(str::parse) {
            None => DEFAULT_LIMIT,
            Some(Ok(limit @ 1..=MAX_LIMIT)) => limit,
            Some(_) => {
                let detail = format!("must be a whole number from 1 to {MAX_LIMIT}");
                return Err(Problem::field("limit", detail));
            }
        };
        let cursor = self.cursor.as_deref().map(|text| Cursor::decode(list, text)).transpose()?;
        Ok(PageRequest { limit, cursor })
    }
}

impl<K: Serialize> Cursor<K> {
    /// A cursor of the list of this name.
    pub fn new(list: &str, at: String, after: K) -> Self {
        Self { list: list.to_owned(), at, after }
    }

    /// The opaque text.
    ///
    /// # Errors
    ///
    /// A 500 problem when `K` has no JSON form.
    pub fn encode(&self) -> Result<String, Problem> {
        let json = serde_json::to_vec(self).map_err(Problem::internal)?;
        Ok(BASE64URL_NOPAD.encode(&json))
    }
}

impl<K: DeserializeOwned> Cursor<K> {
    fn decode(list: &str, text: &str) -> Result<Self, Problem> {
        let json = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
        json.and_then(|json| serde_json::from_slice::<Self>(&json).ok())
            .filter(|cursor| cursor.list == list)
            .ok_or_else(|| {
                Problem::field("cursor", "is not a cursor of this list; start again without it")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(limit: Option<&str>, cursor: Option<&str>) -> PageQuery {
        PageQuery {
            limit: limit.map(str::to_owned),
            cursor: cursor.map(str::to_owned),
            ..PageQuery::default()
        }
    }

    #[test]
    fn the_first_page_has_the_default_limit() {
        let page = query(None, None).parse::<u64>("devices").unwrap();
        assert_eq!(page, PageRequest { limit: DEFAULT_LIMIT, cursor: None });
    }

    #[test]
    fn a_cursor_is_base64url_of_the_documented_json() {
        let cursor = Cursor::new("devices", "10442".to_owned(), 7_u64);
        let text = "eyJsaXN0IjoiZGV2aWNlcyIsImF0IjoiMTA0NDIiLCJhZnRlciI6N30";
        assert_eq!(cursor.encode().unwrap(), text);
        let page = query(Some("5"), Some(text)).parse("devices").unwrap();
        assert_eq!(page, PageRequest { limit: 5, cursor: Some(cursor) });
    }

    #[test]
    fn refuses_limits_out_of_range_by_name() {
        for limit in ["0", "1001", "-1", "ten", "", "99999999999999999999"] {
            let refused = query(Some(limit), None).parse::<u64>("devices").unwrap_err();
            assert_eq!(refused.to_string(), "limit: must be a whole number from 1 to 1000");
        }
    }

    #[test]
    fn refuses_torn_and_foreign_cursors_by_name() {
        let text = Cursor::new("devices", "1".to_owned(), 7_u64).encode().unwrap();
        let foreign = Cursor::new("events", "1".to_owned(), 7_u64).encode().unwrap();
        let other_type = Cursor::new("devices", "1".to_owned(), "seven").encode().unwrap();
        let torn = (0..text.len()).map(|end| text[..end].to_owned());
        for cursor in torn.chain([foreign, other_type, "%".to_owned()]) {
            let refused = query(None, Some(&cursor)).parse::<u64>("devices").unwrap_err();
            assert!(refused.to_string().starts_with("cursor: "), "{cursor}: {refused}");
        }
    }
}
