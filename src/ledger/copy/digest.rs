//! What two logs have in common, and where they part.
//!
//! The digest of a log is SHA-256 over its events in log order, each as six fields:
//!
//! ```text
//! length  stream    length  revision  length  id        length  type      length  data      length  metadata
//! u64 BE  UTF-8     8       u64 BE    16      16 bytes  u64 BE  UTF-8     u64 BE  verbatim  u64 BE  verbatim
//! ```

use std::fmt;

use data_encoding::HEXLOWER;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::ledger::Recorded;

/// The digest of a log. Shown in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// In what two events at the same place differ. Names and numbers only: data is not for error lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The first field that is not the same.
    pub field: &'static str,
    /// The event of the source.
    pub source: String,
    /// The event of the target.
    pub target: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, source, target } = self;
        write!(f, "another {field} ({target} in the target, {source} in the source)")
    }
}

/// Two logs, side by side, as far as they were read.
#[derive(Default)]
pub(super) struct Comparison {
    source: Sha256,
    target: Sha256,
}

impl Comparison {
    /// Takes in the next events of both, as many as both bring, which is how many have to be the
    /// same. If they are not, where they part is told.
    pub(super) fn take(
        &mut self,
        source: &[Recorded],
        target: &[Recorded],
    ) -> Result<usize, (u64, Difference)> {
        let both = || source.iter().zip(target);
        for (of_source, of_target) in both() {
            add(&mut self.source, of_source);
            add(&mut self.target, of_target);
        }
        if self.source.clone().finalize() != self.target.clone().finalize()
            && let Some(parting) = both().find_map(|(source, target)| parting(source, target))
        {
            return Err(parting);
        }
        Ok(both().count())
    }

    /// The digests of the source and of the target.
    pub(super) fn digests(self) -> (Digest, Digest) {
        (Digest(self.source.finalize().into()), Digest(self.target.finalize().into()))
    }
}

fn add(digest: &mut Sha256, event: &Recorded) {
    let Recorded { stream, revision, id, kind, data, metadata, .. } = event;
    let fields: [&[u8]; 6] = [
        stream.as_str().as_bytes(),
        &revision.to_be_bytes(),
        id.as_bytes(),
        kind.as_bytes(),
        data,
        metadata,
    ];
    for field in fields {
        digest.update((field.len() as u64).to_be_bytes());
        digest.update(field);
    }
}

/// Where two events are not the same, and how; `None` if they are.
fn parting(source: &Recorded, target: &Recorded) -> Option<(u64, Difference)> {
    let fields = [
        ("stream", source.stream != target.stream),
        ("revision", source.revision != target.revision),
        ("id", source.id != target.id),
        ("type", source.kind != target.kind),
        ("data", source.data != target.data),
        ("metadata", source.metadata != target.metadata),
    ];
    let (field, _) = fields.into_iter().find(|(_, differs)| *differs)?;
    let name = |event: &Recorded| {
        let Recorded { stream, revision, kind, id, .. } = event;
        format!("{kind} {id} as {stream}@{revision}")
    };
    let difference = Difference { field, source: name(source), target: name(target) };
    Some((source.sequence, difference))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ledger::StreamName;
    use crate::ledger::event::Cursor;

    fn event(sequence: u64) -> Recorded {
        Recorded {
            sequence,
            cursor: Cursor::new(sequence),
            stream: StreamName::new("a").unwrap(),
            revision: sequence,
            id: Uuid::from_u128(1),
            kind: "tested.v1".into(),
            data: b"{}".to_vec(),
            metadata: b"{\"schema\":1}".to_vec(),
        }
    }

    /// The digest of one event, written down field by field.
    #[test]
    fn a_digest_is_what_its_description_says() {
        let id = Uuid::from_u128(1);
        let bytes = [
            &[0, 0, 0, 0, 0, 0, 0, 1][..],
            b"a",
            &[0, 0, 0, 0, 0, 0, 0, 8],
            &[0, 0, 0, 0, 0, 0, 0, 7],
            &[0, 0, 0, 0, 0, 0, 0, 16],
            id.as_bytes(),
            &[0, 0, 0, 0, 0, 0, 0, 9],
            b"tested.v1",
            &[0, 0, 0, 0, 0, 0, 0, 2],
            b"{}",
            &[0, 0, 0, 0, 0, 0, 0, 12],
            b"{\"schema\":1}",
        ];
        let mut comparison = Comparison::default();
        comparison.take(&[event(7)], &[event(7)]).unwrap();
        let (source, target) = comparison.digests();
        assert_eq!(source, Digest(Sha256::digest(bytes.concat()).into()));
        assert_eq!(source, target);
    }

    type Change = fn(&mut Recorded);

    #[test]
    fn each_field_counts_and_the_first_event_that_differs_is_named() {
        let changes: [(&str, Change); 6] = [
            ("stream", |event| event.stream = StreamName::new("b").unwrap()),
            ("revision", |event| event.revision += 1),
            ("id", |event| event.id = Uuid::from_u128(2)),
            ("type", |event| event.kind = "other.v1".into()),
            ("data", |event| event.data.push(b' ')),
            ("metadata", |event| event.metadata.clear()),
        ];
        for (field, change) in changes {
            let source: Vec<_> = (0..4).map(event).collect();
            let mut target = source.clone();
            target.iter_mut().skip(2).for_each(change);
            let parted = Comparison::default().take(&source, &target).unwrap_err();
            assert_eq!((parted.0, parted.1.field), (2, field));
        }
        // A side that brings less than the other has nothing wrong.
        let (three, two) = ((0..3).map(event), (0..2).map(event));
        let taken =
            Comparison::default().take(&three.collect::<Vec<_>>(), &two.collect::<Vec<_>>());
        assert_eq!(taken, Ok(2));
    }

    #[test]
    fn what_moves_from_one_field_to_the_next_is_another_digest() {
        let (mut one, mut other) = (event(0), event(0));
        (one.data, one.metadata) = (b"ab".to_vec(), b"c".to_vec());
        (other.data, other.metadata) = (b"a".to_vec(), b"bc".to_vec());
        assert!(Comparison::default().take(&[one], &[other]).is_err());
    }
}
