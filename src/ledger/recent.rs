//! The events committed last, in memory: whoever follows the log reads them from here, and the first
//! to do so decodes them for all.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::codec::{self, CodecError};
use super::event::Recorded;
use super::tail::Fact;

/// Events kept at most.
const EVENTS_MAX: usize = 4096;

/// What they hold together at most, in bytes, but for the last one.
const BYTES_MAX: usize = 8 << 20;

/// The end of the log, without gaps. Empty until something is committed.
#[derive(Default)]
pub(super) struct Recent(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    events: VecDeque<Arc<Slot>>,
    /// The sequence after that of the last event.
    next_sequence: u64,
    bytes: usize,
}

/// One event, decoded once somebody asks.
pub(super) struct Slot {
    bytes: usize,
    state: Mutex<State>,
}

enum State {
    Stored(Recorded),
    Decoded(Arc<Fact>),
}

impl Recent {
    /// Takes what was committed, in the order of the log.
    pub(super) fn push(&self, committed: impl IntoIterator<Item = Recorded>) {
        let mut kept = self.kept();
        for recorded in committed {
            if recorded.sequence != kept.next_sequence {
                (kept.events, kept.bytes) = (VecDeque::new(), 0);
            }
            kept.next_sequence = recorded.sequence + 1;
            let bytes = mem::size_of::<Slot>() + recorded.data.len() + recorded.metadata.len();
            kept.bytes += bytes;
            let state = Mutex::new(State::Stored(recorded));
            kept.events.push_back(Arc::new(Slot { bytes, state }));
        }
        while kept.events.len() > EVENTS_MAX || (kept.bytes > BYTES_MAX && kept.events.len() > 1) {
            let Some(oldest) = kept.events.pop_front() else { break };
            kept.bytes -= oldest.bytes;
        }
    }

    /// At most `limit` events from `sequence` on; `None` if that one is not kept.
    pub(super) fn from(&self, sequence: u64, limit: usize) -> Option<Vec<Arc<Slot>>> {
        let kept = self.kept();
        let first = kept.next_sequence.checked_sub(kept.events.len() as u64)?;
        let skipped = usize::try_from(sequence.checked_sub(first)?).ok()?;
        (skipped < kept.events.len())
            .then(|| kept.events.iter().skip(skipped).take(limit).map(Arc::clone).collect())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing between two of its changes can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// The event as the log holds it.
    pub(super) fn recorded(&self) -> Recorded {
        match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Stored(recorded) => recorded.clone(),
            State::Decoded(fact) => fact.recorded.clone(),
        }
    }

    /// The event with what it says; `None` for one of the users.
    pub(super) fn fact(&self) -> Result<Option<Arc<Fact>>, CodecError> {
        // Set as a whole, at the end.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let fact = match &mut *state {
            State::Decoded(fact) => return Ok(Some(Arc::clone(fact))),
            State::Stored(recorded) if recorded.stream.is_users() => return Ok(None),
            State::Stored(recorded) => {
                let event = codec::decode(&recorded.kind, &recorded.data)?;
                let (data, metadata) =
                    (mem::take(&mut recorded.data), mem::take(&mut recorded.metadata));
                let recorded = Recorded { data, metadata, ..recorded.clone() };
                Arc::new(Fact { recorded, event })
            }
        };
        *state = State::Decoded(Arc::clone(&fact));
        Ok(Some(fact))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::event::{Cursor, StreamName};
    use super::*;
    use crate::domain::Event;
    use crate::domain::event::DeviceBlock;

    fn recorded(sequence: u64, data: Vec<u8>) -> Recorded {
        Recorded {
            sequence,
            cursor: Cursor::new(sequence),
            stream: StreamName::new("device-a").unwrap(),
            revision: sequence,
            id: Uuid::from_u128(sequence.into()),
            kind: "device-unblocked.v1".into(),
            data,
            metadata: b"{}".to_vec(),
        }
    }

    fn sequences(recent: &Recent, from: u64, limit: usize) -> Option<Vec<u64>> {
        let slots = recent.from(from, limit)?;
        Some(slots.iter().map(|slot| slot.recorded().sequence).collect())
    }

    #[test]
    fn holds_the_end_of_the_log_and_nothing_with_gaps() {
        let recent = Recent::default();
        assert_eq!(sequences(&recent, 0, 10), None);
        recent.push((5..8).map(|n| recorded(n, Vec::new())));
        assert_eq!(sequences(&recent, 4, 10), None);
        assert_eq!(sequences(&recent, 5, 10), Some(vec![5, 6, 7]));
        assert_eq!(sequences(&recent, 6, 1), Some(vec![6]));
        assert_eq!(sequences(&recent, 8, 10), None);
        recent.push([recorded(20, Vec::new())]);
        assert_eq!(sequences(&recent, 7, 10), None);
        assert_eq!(sequences(&recent, 20, 10), Some(vec![20]));
    }

    #[test]
    fn is_bounded_by_events_and_by_bytes() {
        let recent = Recent::default();
        recent.push((0..5000).map(|n| recorded(n, Vec::new())));
        assert_eq!(sequences(&recent, 5000 - EVENTS_MAX as u64 - 1, 1), None);
        assert_eq!(sequences(&recent, 5000 - EVENTS_MAX as u64, 1), Some(vec![904]));
        recent.push([recorded(5000, vec![0; BYTES_MAX])]);
        assert_eq!(sequences(&recent, 4999, 1), None);
        assert_eq!(sequences(&recent, 5000, 9), Some(vec![5000]));
        recent.push([recorded(5001, Vec::new())]);
        assert_eq!(sequences(&recent, 5001, 9), Some(vec![5001]));
        assert_eq!(recent.kept().bytes, mem::size_of::<Slot>() + 2);
    }

    #[test]
    fn decodes_once_and_tells_whoever_asks_what_cannot_be_decoded() {
        let unblocked = Event::DeviceUnblocked(DeviceBlock {
            actor: "ops".into(),
            reason: "found".into(),
            at_ms: 7,
        });
        let recent = Recent::default();
        let data = codec::encode(&unblocked).unwrap();
        recent.push([recorded(0, data.clone()), recorded(1, b"{".to_vec())]);
        let slots = recent.from(0, 2).unwrap();
        let fact = slots[0].fact().unwrap().unwrap();
        assert_eq!(fact.recorded, recorded(0, data));
        assert!(matches!(&fact.event, Event::DeviceUnblocked(by) if by.actor == "ops"));
        assert!(Arc::ptr_eq(&fact, &slots[0].fact().unwrap().unwrap()));
        assert!(slots[1].fact().is_err());
        assert!(slots[1].fact().is_err());
        let stream = StreamName::new("user-a").unwrap();
        recent.push([Recorded { stream, ..recorded(2, b"{".to_vec()) }]);
        assert!(recent.from(2, 1).unwrap()[0].fact().unwrap().is_none());
    }
}
