//! Clear Key messages: what a browser asks through Encrypted Media Extensions, and what it gets.
//!
//! The Encrypted Media Extensions recommendation of the W3C defines both as JSON in UTF-8
//! (sections 9.1.3 "License Request Format" and 9.1.4 "License Format"):
//!
//! ```json
//! {"kids": ["ASNFZ4mrze8BI0VniavN7w"], "type": "temporary"}
//! {"keys": [{"kty": "oct", "kid": "ASNFZ4mrze8BI0VniavN7w", "k": "T-3mJ88DduozWwMcvcFg4g"}],
//!  "type": "temporary"}
//! ```
//!
//! Binary values are base64url without padding. A KID has the 16 bytes that content carries in
//! `tenc` and `pssh`: GUID text order, never the order of the PlayReady wire. Only sessions of the
//! type `temporary` are served: the others store keys, and Clear Key has no message by which a
//! browser could prove that it deleted them.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// KIDs of one request at most: a few tracks in several qualities.
pub const KIDS_MAX: usize = 64;

/// The one type of session that is served.
const TEMPORARY: &str = "temporary";

/// What a browser asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The KIDs in their order, each once; at least one.
    pub key_ids: Vec<Uuid>,
}

/// Why bytes are not a request that is served: what is wrong, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct BadRequest {
    /// The member to blame; `body` for the whole.
    pub field: String,
    /// What it has to be.
    pub detail: String,
}

/// A license request, as it is sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = ClearKeyRequest)]
pub struct RequestFormat {
    /// The KIDs: 16 bytes each, base64url without padding.
    #[schema(min_items = 1, max_items = 64, example = json!(["ASNFZ4mrze8BI0VniavN7w"]))]
    kids: Vec<String>,
    /// Some players leave it out; a license without it is temporary as well.
    #[serde(rename = "type", default = "temporary")]
    #[schema(pattern = "^temporary$", example = "temporary")]
    session: String,
}

impl Request {
    /// Reads a request. Members that the recommendation does not name are passed over.
    ///
    /// # Errors
    /// Not such JSON, no KID or more than [`KIDS_MAX`], a KID that is not 16 bytes, or a type of
    /// session other than `temporary`.
    pub fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        let wire: RequestFormat = serde_json::from_slice(body).map_err(|error| {
            let form = r#"send {"kids": ["…"], "type": "temporary"}"#;
            BadRequest::new("body", format!("is not a Clear Key license request ({error}); {form}"))
        })?;
        if wire.session != TEMPORARY {
            let detail = "only temporary sessions are served: a browser cannot prove that it \
                          deleted a stored license; create the session as \"temporary\"";
            return Err(BadRequest::new("type", detail));
        }
        if !(1..=KIDS_MAX).contains(&wire.kids.len()) {
            return Err(BadRequest::new("kids", format!("must name 1 to {KIDS_MAX} KIDs")));
        }
        let mut key_ids = Vec::with_capacity(wire.kids.len());
        for (index, text) in wire.kids.iter().enumerate() {
            let key_id = key_id(text).ok_or_else(|| {
                let detail = "must be 16 bytes in base64url without padding: 22 characters";
                BadRequest::new(format!("kids[{index}]"), detail)
            })?;
            if !key_ids.contains(&key_id) {
                key_ids.push(key_id);
            }
        }
        Ok(Self { key_ids })
    }
}

impl BadRequest {
    fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into() }
    }
}

fn temporary() -> String {
    TEMPORARY.to_owned()
}

fn key_id(text: &str) -> Option<Uuid> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    bytes.try_into().map(Uuid::from_bytes).ok()
}

/// A license, as it is sent: a JSON Web Key Set.
#[derive(Serialize, ToSchema)]
#[schema(as = ClearKeyLicense)]
pub struct LicenseFormat {
    /// One key for each KID.
    keys: Vec<JsonWebKey>,
    /// The type of the session.
    #[schema(pattern = "^temporary$", example = "temporary")]
    r#type: &'static str,
}

/// A symmetric key as RFC 7517 and RFC 7518 section 6.4 have it.
#[derive(Serialize, ToSchema)]
struct JsonWebKey {
    #[schema(pattern = "^oct$", example = "oct")]
    kty: &'static str,
    /// The KID.
    #[schema(pattern = "^[A-Za-z0-9_-]{22}$", example = "ASNFZ4mrze8BI0VniavN7w")]
    kid: String,
    /// The content key.
    #[schema(pattern = "^[A-Za-z0-9_-]{22}$", example = "T-3mJ88DduozWwMcvcFg4g")]
    k: String,
}

/// The license that carries these keys, in the clear.
///
/// # Errors
/// None in practice: strings are written to memory.
pub fn license<'a>(
    keys: impl Iterator<Item = (Uuid, &'a [u8; 16])>,
) -> Result<Vec<u8>, serde_json::Error> {
    let keys = keys.map(|(key_id, key)| JsonWebKey {
        kty: "oct",
        kid: BASE64URL_NOPAD.encode(key_id.as_bytes()),
        k: BASE64URL_NOPAD.encode(key),
    });
    serde_json::to_vec(&LicenseFormat { keys: keys.collect(), r#type: TEMPORARY })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: &serde_json::Value) -> Result<Vec<Uuid>, BadRequest> {
        Request::parse(body.to_string().as_bytes()).map(|request| request.key_ids)
    }

    /// The example request of section 9.1.3 of the recommendation, as it is printed there.
    #[test]
    fn reads_the_request_that_the_recommendation_prints() {
        let body = br#"{
            "kids":
              [
               "LwVHf8JLtPrv2GUXFW2v_A"
              ],
            "type":"temporary"
          }"#;
        let kid =
            Uuid::from_bytes(*b"\x2f\x05\x47\x7f\xc2\x4b\xb4\xfa\xef\xd8\x65\x17\x15\x6d\xaf\xfc");
        assert_eq!(Request::parse(body).unwrap().key_ids, [kid]);
    }

    /// The same KIDs as the PlayReady side reads, from their GUID text.
    #[test]
    fn kids_are_in_the_byte_order_of_guid_text() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../tests/golden/kid_byte_order.json")).unwrap();
        for row in golden["rows"].as_array().unwrap() {
            let bytes = row["big_endian_hex"].as_str().unwrap();
            let bytes = data_encoding::HEXLOWER.decode(bytes.as_bytes()).unwrap();
            let kids = parse(&json!({"kids": [BASE64URL_NOPAD.encode(&bytes)]})).unwrap();
            assert_eq!(kids[0].to_string(), row["guid"]);
        }
    }

    #[test]
    fn a_kid_that_comes_twice_counts_once_and_unknown_members_do_not_matter() {
        let (a, b) = ("AAAAAAAAAAAAAAAAAAAAAQ", "AAAAAAAAAAAAAAAAAAAAAg");
        let kids = parse(&json!({"kids": [b, a, b], "type": "temporary", "more": {}})).unwrap();
        assert_eq!(kids, [2, 1].map(Uuid::from_u128));
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        let kid = "AAAAAAAAAAAAAAAAAAAAAQ";
        let rows = [
            (json!({"kids": [kid], "type": "persistent-license"}), "type"),
            (json!({"kids": [kid], "type": "persistent-usage-record"}), "type"),
            (json!({"kids": []}), "kids"),
            (json!({"kids": vec![kid; KIDS_MAX + 1]}), "kids"),
            (json!({"kids": [kid, "AAAAAAAAAAAAAAAAAAAAAQ=="]}), "kids[1]"),
            (json!({"kids": ["AAAAAAAAAAAAAAAAAAA+/Q"]}), "kids[0]"),
            (json!({"kids": ["AAAA"]}), "kids[0]"),
            (json!({"kids": [""]}), "kids[0]"),
            (json!({"kids": [1]}), "body"),
            (json!({"kids": kid}), "body"),
            (json!({"type": "temporary"}), "body"),
            (json!([kid]), "body"),
        ];
        for (body, field) in rows {
            assert_eq!(parse(&body).unwrap_err().field, field, "{body}");
        }
        for bytes in [&b""[..], b"{", b"\xff", b"{\"kids\":[\"\xff\"]}"] {
            assert_eq!(Request::parse(bytes).unwrap_err().field, "body", "{bytes:?}");
        }
    }

    /// The key and KID of the published example of RFC 7518's `oct` keys in Clear Key: section
    /// 9.1.4 of the recommendation.
    #[test]
    fn writes_the_license_that_the_recommendation_prints() {
        let decode = |text: &str| -> [u8; 16] {
            BASE64URL_NOPAD.decode(text.as_bytes()).unwrap().try_into().unwrap()
        };
        let kid = Uuid::from_bytes(decode("LwVHf8JLtPrv2GUXFW2v_A"));
        let key = decode("tQ0bJVWb6b0KPL6KtZIy_A");
        let written = license([(kid, &key)].into_iter()).unwrap();
        let printed = json!({
            "keys": [{
                "kty": "oct", "k": "tQ0bJVWb6b0KPL6KtZIy_A", "kid": "LwVHf8JLtPrv2GUXFW2v_A"
            }],
            "type": "temporary",
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&written).unwrap(), printed);
    }
}
