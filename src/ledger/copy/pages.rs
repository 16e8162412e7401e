//! How much is read at once: many small events, or few large ones.

use crate::ledger::Recorded;

/// Walks over a range of sequences.
pub(super) struct Pages {
    next: u64,
    end: u64,
    limit: usize,
}

/// The next read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) from: u64,
    pub(super) count: usize,
}

impl Pages {
    pub(super) fn new(from: u64, end: u64) -> Self {
        Self { next: from, end, limit: EVENTS_FIRST }
    }

    /// What to read next; `None` at the end.
    pub(super) fn next(&self) -> Option<Wanted> {
        let left = self.end.checked_sub(self.next).filter(|left| *left > 0)?;
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(self.limit);
        Some(Wanted { from: self.next, count })
    }

    /// `count` events are done with. `read` tells how large events are at present.
    pub(super) fn advance(&mut self, count: usize, read: &[Recorded]) {
        self.next += count as u64;
        let bytes: usize = read.iter().map(|event| event.data.len() + event.metadata.len()).sum();
        self.limit = match bytes {
            ..BYTES_FEW => (self.limit * 2).min(EVENTS_MAX),
            BYTES_FEW..BYTES_MANY => self.limit,
            _ => (self.limit / 2).max(1),
        };
    }
}

const EVENTS_FIRST: usize = 64;
/// Far less than a moment's work of any engine.
const EVENTS_MAX: usize = 2048;
/// Below, a page may be twice as long without being large.
const BYTES_FEW: usize = 2 << 20;
const BYTES_MANY: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ledger::StreamName;
    use crate::ledger::event::Cursor;

    fn event(bytes: usize) -> Recorded {
        Recorded {
            sequence: 0,
            cursor: Cursor::new(0),
            stream: StreamName::new("a").unwrap(),
            revision: 0,
            id: Uuid::nil(),
            kind: "tested.v1".into(),
            data: vec![0; bytes],
            metadata: Vec::new(),
        }
    }

    #[test]
    fn pages_grow_while_events_are_small_and_shrink_when_they_are_large() {
        let mut pages = Pages::new(10, 100_000);
        let mut seen = 10;
        let mut go = |pages: &mut Pages, bytes| {
            let wanted = pages.next().unwrap();
            assert_eq!(wanted.from, seen);
            // A side may bring less than was asked for.
            pages.advance(1, &vec![event(bytes); 1]);
            seen += 1;
            wanted.count
        };
        let growing: Vec<_> = (0..7).map(|_| go(&mut pages, 100)).collect();
        assert_eq!(growing, [64, 128, 256, 512, 1024, 2048, 2048]);
        let shrinking: Vec<_> = (0..13).map(|_| go(&mut pages, 9 << 20)).collect();
        assert_eq!(shrinking, [2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1, 1]);
    }

    #[test]
    fn a_range_is_walked_to_its_end_and_not_beyond() {
        let mut pages = Pages::new(5, 100);
        assert_eq!(pages.next(), Some(Wanted { from: 5, count: 64 }));
        pages.advance(64, &[]);
        assert_eq!(pages.next(), Some(Wanted { from: 69, count: 31 }));
        pages.advance(31, &[]);
        assert_eq!(pages.next(), None);
        assert_eq!(Pages::new(7, 7).next(), None);
    }
}
