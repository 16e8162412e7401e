//! Events of a log as appends, in order.

use std::collections::HashSet;

use crate::ledger::{Append, Expected, NewEvent, Recorded};

/// Cuts consecutive events into appends. Each expects its streams as they are in the source before
/// its events, so that every event gets the revision that it has there.
pub(super) fn batches(events: Vec<Recorded>) -> impl Iterator<Item = Append> {
    let mut events = events.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut batch = Batch::default();
        while let Some(event) = events.next_if(|event| batch.has_room_for(event)) {
            batch.take(event);
        }
        (!batch.append.records.is_empty()).then_some(batch.append)
    })
}

#[derive(Default)]
struct Batch {
    append: Append,
    streams: HashSet<crate::ledger::StreamName>,
    bytes: usize,
}

impl Batch {
    fn has_room_for(&self, event: &Recorded) -> bool {
        let records = self.append.records.len();
        records == 0 || (records < EVENTS_MAX && self.bytes + size(event) <= BYTES_MAX)
    }

    fn take(&mut self, event: Recorded) {
        self.bytes += size(&event);
        let Recorded { stream, revision, id, kind, data, metadata, .. } = event;
        if self.streams.insert(stream.clone()) {
            let expected = Expected::at_head(revision.checked_sub(1));
            self.append.checks.push((stream.clone(), expected));
        }
        self.append.records.push((stream, NewEvent { id, kind, data, metadata }));
    }
}

/// What an event makes of a request, names and numbers included.
fn size(event: &Recorded) -> usize {
    event.data.len() + event.metadata.len() + OVERHEAD_BYTES
}

/// Half of what one append may hold: more per append make no copy faster.
const EVENTS_MAX: usize = Append::RECORDS_MAX / 2;
/// What servers of KurrentDB take in one append unless they are told otherwise is 1 MiB.
const BYTES_MAX: usize = 768 << 10;
/// Stream, id, type and check of an event, mostly.
const OVERHEAD_BYTES: usize = 300;

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ledger::StreamName;
    use crate::ledger::event::Cursor;

    fn event(sequence: u64, stream: &str, revision: u64, bytes: usize) -> Recorded {
        Recorded {
            sequence,
            cursor: Cursor::new(sequence),
            stream: StreamName::new(stream).unwrap(),
            revision,
            id: Uuid::from_u128(sequence.into()),
            kind: "tested.v1".into(),
            data: vec![b'1'; bytes],
            metadata: Vec::new(),
        }
    }

    #[test]
    fn a_batch_expects_each_stream_once_as_it_is_before_the_batch() {
        let events = vec![event(0, "a", 4, 1), event(1, "b", 0, 1), event(2, "a", 5, 1)];
        let [append] = batches(events).collect::<Vec<_>>().try_into().unwrap();
        let name = |name| StreamName::new(name).unwrap();
        let checks = [(name("a"), Expected::At(3)), (name("b"), Expected::NoStream)];
        assert_eq!(append.checks, checks);
        assert_eq!(append.validate(), Ok(()));
        let ids: Vec<_> = append.records.iter().map(|(_, event)| event.id.as_u128()).collect();
        assert_eq!(ids, [0, 1, 2]);
    }

    #[test]
    fn batches_are_bounded_and_a_large_event_goes_alone() {
        let small = (0..1000).map(|n| event(n, "a", n, 10));
        let large = [event(1000, "a", 1000, 4 << 20), event(1001, "a", 1001, 10)];
        let counts = |events: Vec<Recorded>| {
            let appends = batches(events);
            appends.map(|append| append.records.len()).collect::<Vec<_>>()
        };
        assert_eq!(counts(small.chain(large).collect()), [512, 488, 1, 1]);
        let middling = (0..10).map(|n| event(n, "a", n, 250_000)).collect();
        assert_eq!(counts(middling), [3, 3, 3, 1]);
        assert_eq!(counts(Vec::new()), [0; 0]);
    }
}
