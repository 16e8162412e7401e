//! Streams of the users: theirs to fill, through the KurrentDB protocol, with whatever they like.
//!
//! Their names begin with `user-`, as no name of ours does. Everything that follows the log passes
//! them over, and them only: what they hold is no fact of this program.
//!
//! An event of ours says in its data when it happened, and is JSON. One of the users need not, so
//! both stand before what its writer calls metadata:
//!
//! ```text
//! {"at_ms":1700000000000,"json":true}\n<the writer's metadata, verbatim>
//! ```

use serde::{Deserialize, Serialize};

use super::StreamName;

/// How the names of these streams begin.
pub const PREFIX: &str = "user-";

impl StreamName {
    /// Whether the stream belongs to the users.
    pub fn is_users(&self) -> bool {
        self.as_str().starts_with(PREFIX)
    }
}

/// What is known of an event of the users beside what its writer said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMetadata {
    /// When it was appended: milliseconds since 1970.
    pub at_ms: i64,
    /// Whether its writer calls its data JSON.
    pub json: bool,
}

impl UserMetadata {
    /// The metadata of an event as it is stored.
    pub fn write(self, writers: &[u8]) -> Vec<u8> {
        // Two plain members cannot fail to become JSON.
        let mut stored = serde_json::to_vec(&self).unwrap_or_default();
        stored.push(b'\n');
        stored.extend_from_slice(writers);
        stored
    }

    /// The stored metadata of an event, taken apart. What was not written like this is the writer's
    /// own.
    pub fn read(stored: &[u8]) -> (Self, &[u8]) {
        let end = stored.iter().position(|byte| *byte == b'\n');
        let parts = end.and_then(|end| Some((stored.get(..end)?, stored.get(end + 1..)?)));
        let read =
            parts.and_then(|(own, writers)| Some((serde_json::from_slice(own).ok()?, writers)));
        read.unwrap_or((Self::default(), stored))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_writer_said_comes_back_byte_for_byte() {
        let metadata = UserMetadata { at_ms: 1_700_000_000_000, json: true };
        for writers in [&b""[..], b"{}", b"a\nb\n", b"\xff\x00"] {
            let stored = metadata.write(writers);
            assert_eq!(UserMetadata::read(&stored), (metadata, writers));
        }
        let stored = metadata.write(b"{}");
        assert_eq!(stored, b"{\"at_ms\":1700000000000,\"json\":true}\n{}");
    }

    #[test]
    fn metadata_of_another_shape_is_the_writers() {
        for stored in [&b""[..], b"{}", b"{}\n", b"\n\n", b"{\"at_ms\":1}\n"] {
            assert_eq!(UserMetadata::read(stored), (UserMetadata::default(), stored));
        }
    }

    #[test]
    fn only_names_that_begin_so_are_the_users() {
        for (name, users) in
            [("user-1", true), ("user-", true), ("user", false), ("a-user-", false)]
        {
            assert_eq!(StreamName::new(name).unwrap().is_users(), users, "{name}");
        }
    }
}
