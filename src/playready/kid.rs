//! Key ids (KIDs) as the protocol carries them.
//!
//! A KID is a GUID. On the PlayReady wire (header, XMR, delete, acknowledgement, key seed,
//! checksum) its first three fields are little-endian; everywhere else (API, ledger, logs, cenc)
//! it is the text order. Section 12 of the [protocol page](super).

use std::fmt;

use uuid::Uuid;

/// A key id. Compares and hashes by value; displays as lower-case GUID text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kid(Uuid);

impl Kid {
    /// Reads the 16 bytes of the wire form: GUID with its first 4, 2 and 2 bytes little-endian.
    pub fn from_wire(wire: [u8; 16]) -> Self {
        Self(Uuid::from_bytes_le(wire))
    }

    /// The 16 bytes of the wire form.
    pub fn to_wire(self) -> [u8; 16] {
        self.0.to_bytes_le()
    }

    /// The GUID, whose bytes are in text order (big-endian).
    pub fn guid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for Kid {
    fn from(guid: Uuid) -> Self {
        Self(guid)
    }
}

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kid({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXLOWER};
    use serde_json::Value;

    use super::*;

    #[test]
    fn golden_byte_orders_are_kept() {
        let golden: Value =
            serde_json::from_str(include_str!("../../tests/golden/kid_byte_order.json")).unwrap();
        for row in golden["rows"].as_array().unwrap() {
            let kid = Kid::from(row["guid"].as_str().unwrap().parse::<Uuid>().unwrap());
            assert_eq!(HEXLOWER.encode(&kid.to_wire()), row["wire_hex"]);
            assert_eq!(BASE64.encode(&kid.to_wire()), row["wire_b64"]);
            assert_eq!(HEXLOWER.encode(kid.guid().as_bytes()), row["big_endian_hex"]);
            assert_eq!(Kid::from_wire(kid.to_wire()), kid);
            assert_eq!(kid.to_string(), row["guid"]);
        }
    }
}
