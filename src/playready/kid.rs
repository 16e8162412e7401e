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
