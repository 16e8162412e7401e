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
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;

/// The query parameters of a list. A list with others beside them reads all into a type of its own,
/// so that unknown ones are refused by name, and makes this of its part.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Most items to show.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Wait until the answer includes this position, which an earlier answer named.
    #[param(value_type = Option<i64>, minimum = 0)]
    pub min_position: Option<String>,
    /// Where the first page begins, for lists that have such a place.
    #[param(ignore)]
    from: Option<String>,
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
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The items, in the order of the list.
    pub items: Vec<T>,
    /// Cursor of the next page; `null` where there is none.
    #[schema(required)]
    pub next_cursor: Option<String>,
    /// Position in the ledger that the list was cut at.
    #[schema(pattern = "^[0-9]+$", example = "7")]
    pub position: String,
}

/// The header of an answer that recorded something: the position of the ledger after it.
pub(super) const POSITION: &str = "ledger-position";

/// Items of a page that does not say how many it wants.
pub const DEFAULT_LIMIT: usize = 100;

/// Most items of one page: keeps an answer well below a megabyte.
pub const MAX_LIMIT: usize = 1_000;

impl PageQuery {
    /// The parameters of a list that has others beside them.
    pub fn new(limit: Option<String>, cursor: Option<String>) -> Self {
        Self { limit, cursor, ..Self::default() }
    }

    /// Reads the parameters for the list of this name.
    ///
    /// # Errors
    ///
    /// A 400 problem that names `limit`, `cursor` or `from`.
    pub fn parse<K: DeserializeOwned>(&self, list: &str) -> Result<PageRequest<K>, Problem> {
        match self.from {
            None => self.parse_but_from(list),
            Some(_) => Err(Problem::field("from", "is no parameter of this list; leave it out")),
        }
    }

    /// Reads the parameters for a list that can begin at any of its places: the page, and the place.
    ///
    /// # Errors
    ///
    /// A 400 problem that names `limit`, `cursor` or `from`.
    pub fn parse_from<K: DeserializeOwned>(
        &self,
        list: &str,
    ) -> Result<(PageRequest<K>, u64), Problem> {
        let from = self.from.as_deref().map(|from| whole_number("from", from)).transpose()?;
        Ok((self.parse_but_from(list)?, from.unwrap_or(0)))
    }

    fn parse_but_from<K: DeserializeOwned>(&self, list: &str) -> Result<PageRequest<K>, Problem> {
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

/// The value of a parameter that is a place in the ledger or in a stream.
///
/// # Errors
///
/// A 400 problem that names it: it is no whole number, or more than the ledger can count.
pub(super) fn whole_number(name: &'static str, text: &str) -> Result<u64, Problem> {
    let number = text.parse().ok().filter(|number| i64::try_from(*number).is_ok());
    number.ok_or_else(|| Problem::field(name, format!("must be a whole number up to {}", i64::MAX)))
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
            .filter(|cursor| cursor.list == list && whole_number("cursor", &cursor.at).is_ok())
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
    fn a_list_that_begins_anywhere_says_so_and_others_refuse_it_by_name() {
        let from = |from: &str| PageQuery { from: Some(from.to_owned()), ..PageQuery::default() };
        assert_eq!(from("7").parse_from::<u64>("events").unwrap().1, 7);
        assert_eq!(query(None, None).parse_from::<u64>("events").unwrap().1, 0);
        let refused = from("7").parse::<u64>("devices").unwrap_err();
        assert_eq!(refused.to_string(), "from: is no parameter of this list; leave it out");
        for wrong in ["", "-1", "x", "9223372036854775808"] {
            let refused = from(wrong).parse_from::<u64>("events").unwrap_err();
            let words = "from: must be a whole number up to 9223372036854775807";
            assert_eq!(refused.to_string(), words);
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
