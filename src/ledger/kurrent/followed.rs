//! What is known of the log so far: the places of all our events, and the newest events themselves.
//!
//! The newest are kept because everybody wants them: every tail of this process, and every append,
//! which waits here for its own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::places::{Mark, Places, Position};
use super::wire::Seen;
use crate::ledger::event::Recorded;

/// See the [module](self).
pub(super) struct Followed {
    pub(super) places: Places,
    newest: Mutex<Newest>,
}

struct Newest {
    mark: Mark,
    events: VecDeque<Recorded>,
    bytes: usize,
    /// Newest events by id, more of them than are kept whole.
    ids: HashMap<Uuid, Known>,
    ids_in_order: VecDeque<Uuid>,
    heard: Instant,
}

#[derive(Clone, Copy)]
struct Known {
    sequence: u64,
    /// Whether an append of this process was answered with it.
    answered: bool,
}

impl Followed {
    /// Goes on from what `places` hold.
    pub(super) fn new(places: Places) -> rusqlite::Result<Self> {
        let newest = Newest {
            mark: places.mark()?,
            events: VecDeque::new(),
            bytes: 0,
            ids: HashMap::new(),
            ids_in_order: VecDeque::new(),
            heard: Instant::now(),
        };
        Ok(Self { places, newest: Mutex::new(newest) })
    }

    /// How far the log was followed.
    pub(super) fn mark(&self) -> Mark {
        self.newest().mark
    }

    /// Notes events that come next, and that everything up to `mark.after` was looked at. Returns the
    /// sequence of the last event if there is one.
    pub(super) fn note(&self, events: Vec<Seen>, mut mark: Mark) -> rusqlite::Result<Option<u64>> {
        let first = mark.next_sequence;
        mark.next_sequence += events.len() as u64;
        mark.last_event_id = events.last().map(|event| event.id).or(mark.last_event_id);
        let positions: Vec<Position> = events.iter().map(|event| event.position).collect();
        self.places.add(&positions, &mark)?;
        let last = mark.next_sequence.checked_sub(1).filter(|_| !events.is_empty());
        let mut newest = self.newest();
        for (sequence, event) in (first..).zip(events) {
            newest.keep(event.numbered(sequence));
        }
        newest.mark = mark;
        newest.heard = Instant::now();
        Ok(last)
    }

    /// The leader has answered.
    pub(super) fn heard(&self) {
        self.newest().heard = Instant::now();
    }

    /// For how long nobody was heard of.
    pub(super) fn silent_for(&self) -> Duration {
        self.newest().heard.elapsed()
    }

    /// At most `limit` events from `from` on; `None` if the first is not kept.
    pub(super) fn page(&self, from: u64, limit: usize) -> Option<Vec<Recorded>> {
        let newest = self.newest();
        let first = newest.events.front()?.sequence;
        let skipped = usize::try_from(from.checked_sub(first)?).ok()?;
        (skipped < newest.events.len())
            .then(|| newest.events.iter().skip(skipped).take(limit).cloned().collect())
    }

    /// The sequence of an event that came lately.
    pub(super) fn sequence_of(&self, id: Uuid) -> Option<u64> {
        self.newest().ids.get(&id).map(|known| known.sequence)
    }

    /// Whether an append of this process is the first to be answered with the event.
    pub(super) fn answer_with(&self, id: Uuid) -> bool {
        let mut newest = self.newest();
        let known = newest.ids.get_mut(&id);
        known.is_some_and(|known| !std::mem::replace(&mut known.answered, true))
    }

    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Newest {
    fn keep(&mut self, event: Recorded) {
        let known = Known { sequence: event.sequence, answered: false };
        self.ids.insert(event.id, known);
        self.ids_in_order.push_back(event.id);
        if self.ids_in_order.len() > IDS_MAX
            && let Some(oldest) = self.ids_in_order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.bytes += size_of(&event);
        self.events.push_back(event);
        while self.events.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.events.pop_front() else { return };
            self.bytes -= size_of(&oldest);
        }
    }
}

fn size_of(event: &Recorded) -> usize {
    event.data.len() + event.metadata.len() + event.kind.len()
}

/// Events kept whole: what comes in a second or two.
const EVENTS_MAX: usize = 8192;
/// What they may hold together.
const BYTES_MAX: usize = 16 << 20;
/// Ids kept: 80 bytes each. Whoever sends an append again does so within minutes.
const IDS_MAX: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::event::StreamName;

    fn seen(number: u64) -> Seen {
        Seen {
            position: Position { commit: number, prepare: number },
            stream: StreamName::new("a").unwrap(),
            revision: number,
            id: Uuid::from_u128(number.into()),
            kind: "tested.v1".to_owned(),
            data: Vec::new(),
            metadata: Vec::new(),
        }
    }

    fn followed() -> (tempfile::TempDir, Followed) {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::open(&dir.path().join("places.db"), "").unwrap();
        (dir, Followed::new(places).unwrap())
    }

    #[test]
    fn keeps_the_newest_events_and_the_places_of_all() {
        let (_dir, followed) = followed();
        let all = EVENTS_MAX as u64 + 10;
        for first in (0..all).step_by(1000) {
            let events = (first..all.min(first + 1000)).map(seen).collect();
            followed.note(events, followed.mark()).unwrap();
        }
        assert_eq!(followed.mark().next_sequence, all);
        assert_eq!(followed.page(9, 1), None);
        let page = followed.page(10, 3).unwrap();
        let sequences: Vec<_> = page.iter().map(|event| event.sequence).collect();
        assert_eq!(sequences, [10, 11, 12]);
        assert_eq!(followed.page(all, 3), None);
        assert_eq!(followed.places.sequence_at(5).unwrap(), Some(5));
        assert_eq!(followed.sequence_of(Uuid::from_u128(5)), Some(5));
    }

    #[test]
    fn one_append_is_the_first_to_be_answered_with_an_event() {
        let (_dir, followed) = followed();
        assert!(!followed.answer_with(Uuid::from_u128(1)));
        followed.note(vec![seen(1)], followed.mark()).unwrap();
        assert!(followed.answer_with(Uuid::from_u128(1)));
        assert!(!followed.answer_with(Uuid::from_u128(1)));
    }
}
