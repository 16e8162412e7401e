//! The index of the newest events, in memory.
//!
//! Event ids are random, and so are the streams that are written next: an index on disk that is
//! kept with every append rewrites two pages of 4 KiB for each event of 600 bytes. So the newest
//! events are indexed here, in two runs, and the older run is filed into the tables on disk in
//! sorted order, a slice with each group commit, so that one page takes many entries:
//!
//! ```text
//! sequence  0 ........... filed_through ........... young.start ........... next
//!           index tables  filing: sorted, being     young: being filled
//!           on disk       copied to the tables
//! ```
//!
//! A run stays here until all of it is filed, so an event is found in at least one place at any
//! time. A reader looks here first and on disk second: entries only ever move that way.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use uuid::Uuid;

/// What the indexes say about one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) stream: i64,
    pub(super) revision: u64,
    pub(super) id: Uuid,
}

/// The events that are not, or not entirely, in the index tables.
#[derive(Default)]
pub(super) struct Unfiled(RwLock<Runs>);

#[derive(Default)]
struct Runs {
    filing: Run,
    young: Run,
}

#[derive(Default)]
struct Run {
    streams: BTreeMap<(i64, u64), u64>,
    ids: BTreeMap<Uuid, u64>,
    /// One past the highest sequence.
    end: u64,
}

/// How far the filing run has been copied to the tables. Moves on only when a commit succeeded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    stream: Option<(i64, u64)>,
    id: Option<Uuid>,
}

/// The next entries to be filed, in the order of the tables.
pub(super) struct Slice {
    pub(super) streams: Vec<((i64, u64), u64)>,
    pub(super) ids: Vec<(Uuid, u64)>,
    /// Where filing stands after this slice.
    pub(super) progress: Progress,
    /// If this slice is the last of its run: all events below are in the tables after it.
    pub(super) filed_through: Option<u64>,
}

/// The part of a stream that is not filed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StreamTail {
    /// The first revision that is not filed; all before it are in the tables.
    pub(super) first_revision: Option<u64>,
    /// The sequences of the unfiled events that were asked for, in the order asked for.
    pub(super) sequences: Vec<u64>,
}

impl Unfiled {
    /// Adds committed events.
    pub(super) fn extend(&self, entries: impl IntoIterator<Item = Entry>) {
        let mut runs = self.write();
        let young = &mut runs.young;
        for entry in entries {
            young.streams.insert((entry.stream, entry.revision), entry.sequence);
            young.ids.insert(entry.id, entry.sequence);
            young.end = entry.sequence + 1;
        }
    }

    /// Starts to file the young run if it is long enough and the one before is done.
    pub(super) fn turn(&self, run_events: usize) {
        let mut runs = self.write();
        if runs.filing.ids.is_empty() && runs.young.ids.len() >= run_events {
            runs.filing = std::mem::take(&mut runs.young);
        }
    }

    /// The next `count` entries of each index after `progress`; `None` if nothing is being filed.
    pub(super) fn slice(&self, progress: Progress, count: usize) -> Option<Slice> {
        let runs = self.read();
        let filing = &runs.filing;
        if filing.ids.is_empty() {
            return None;
        }
        let after = (progress.stream.map_or(Unbounded, Excluded), Unbounded);
        let streams: Vec<_> = filing
            .streams
            .range(after)
            .take(count)
            .map(|(key, sequence)| (*key, *sequence))
            .collect();
        let after = (progress.id.map_or(Unbounded, Excluded), Unbounded);
        let ids: Vec<_> =
            filing.ids.range(after).take(count).map(|(id, sequence)| (*id, *sequence)).collect();
        let done = streams.len() < count && ids.len() < count;
        Some(Slice {
            progress: Progress {
                stream: streams.last().map(|(key, _)| *key).or(progress.stream),
                id: ids.last().map(|(id, _)| *id).or(progress.id),
            },
            filed_through: done.then_some(filing.end),
            streams,
            ids,
        })
    }

    /// Drops the run that is filed entirely.
    pub(super) fn finish_filing(&self) {
        self.write().filing = Run::default();
    }

    /// Drops what another process has filed meanwhile.
    pub(super) fn drop_below(&self, filed_through: u64) {
        let young = &mut self.write().young;
        young.streams.retain(|_, sequence| *sequence >= filed_through);
        young.ids.retain(|_, sequence| *sequence >= filed_through);
    }

    /// The sequence of the event with this id, if it is here.
    pub(super) fn sequence_of(&self, id: Uuid) -> Option<u64> {
        let runs = self.read();
        runs.young.ids.get(&id).or_else(|| runs.filing.ids.get(&id)).copied()
    }

    /// The head of a stream, if its last event is here.
    pub(super) fn head(&self, stream: i64) -> Option<u64> {
        let runs = self.read();
        let last = |run: &Run| {
            run.streams.range(whole(stream)).next_back().map(|((_, revision), _)| *revision)
        };
        last(&runs.young).or_else(|| last(&runs.filing))
    }

    /// At most `limit` unfiled events of a stream from revision `from` on, oldest first.
    pub(super) fn stream_tail(&self, stream: i64, from: u64, limit: usize) -> StreamTail {
        let runs = self.read();
        let wanted = (stream, from)..=(stream, u64::MAX);
        let filing = runs.filing.streams.range(wanted.clone());
        let sequences = filing.chain(runs.young.streams.range(wanted)).map(|(_, at)| *at);
        StreamTail {
            first_revision: runs.first_revision(stream),
            sequences: sequences.take(limit).collect(),
        }
    }

    /// At most `limit` unfiled events of a stream from revision `from` down, newest first.
    pub(super) fn stream_tail_backwards(&self, stream: i64, from: u64, limit: usize) -> StreamTail {
        let runs = self.read();
        let wanted = (stream, 0)..=(stream, from);
        let young = runs.young.streams.range(wanted.clone()).rev();
        let sequences = young.chain(runs.filing.streams.range(wanted).rev()).map(|(_, at)| *at);
        StreamTail {
            first_revision: runs.first_revision(stream),
            sequences: sequences.take(limit).collect(),
        }
    }

    // A panic while the lock is held cannot leave a run half changed in a way that matters: the
    // writer that panicked has stopped for good, and readers find committed events only.
    fn read(&self) -> RwLockReadGuard<'_, Runs> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Runs> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runs {
    fn first_revision(&self, stream: i64) -> Option<u64> {
        let first =
            |run: &Run| run.streams.range(whole(stream)).next().map(|((_, revision), _)| *revision);
        first(&self.filing).or_else(|| first(&self.young))
    }
}

fn whole(stream: i64) -> std::ops::RangeInclusive<(i64, u64)> {
    (stream, 0)..=(stream, u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64, stream: i64, revision: u64) -> Entry {
        Entry { sequence, stream, revision, id: Uuid::from_u128(u128::from(sequence) << 64) }
    }

    #[test]
    fn a_stream_is_read_across_both_runs_in_either_direction() {
        let unfiled = Unfiled::default();
        unfiled.extend([entry(10, 1, 4), entry(11, 2, 0), entry(12, 1, 5)]);
        unfiled.turn(3);
        unfiled.extend([entry(13, 1, 6), entry(14, 3, 0)]);
        assert_eq!(unfiled.stream_tail(1, 0, 9).sequences, [10, 12, 13]);
        assert_eq!(unfiled.stream_tail(1, 5, 1).sequences, [12]);
        assert_eq!(unfiled.stream_tail_backwards(1, u64::MAX, 2).sequences, [13, 12]);
        assert_eq!(unfiled.stream_tail_backwards(1, 5, 9).sequences, [12, 10]);
        assert_eq!(unfiled.stream_tail(1, 0, 0).first_revision, Some(4));
        assert_eq!(unfiled.stream_tail(9, 0, 9), StreamTail::default());
        assert_eq!(unfiled.head(1), Some(6));
        assert_eq!(unfiled.head(2), Some(0));
        assert_eq!(unfiled.head(9), None);
    }

    #[test]
    fn slices_cover_a_run_in_table_order_and_name_its_end() {
        let unfiled = Unfiled::default();
        unfiled.extend((0..10).map(|at| entry(at, 10 - at as i64, at)));
        unfiled.turn(10);
        unfiled.extend([entry(10, 1, 100)]);
        let (mut progress, mut streams, mut ids) = (Progress::default(), Vec::new(), Vec::new());
        let end = loop {
            let slice = unfiled.slice(progress, 4).unwrap();
            streams.extend(slice.streams.iter().map(|((stream, _), _)| *stream));
            ids.extend(slice.ids.iter().map(|(_, sequence)| *sequence));
            progress = slice.progress;
            if let Some(end) = slice.filed_through {
                break end;
            }
        };
        assert_eq!(streams, (1..=10).collect::<Vec<_>>());
        assert_eq!(ids, (0..10).collect::<Vec<_>>());
        assert_eq!(end, 10);
        unfiled.finish_filing();
        assert!(unfiled.slice(Progress::default(), 4).is_none());
        assert_eq!(unfiled.sequence_of(Uuid::from_u128(10 << 64)), Some(10));
        assert_eq!(unfiled.sequence_of(Uuid::from_u128(3 << 64)), None);
    }
}
