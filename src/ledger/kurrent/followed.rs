//! What is known of the log so far: the places of all our events, the newest events themselves, and
//! the ids of some more. Every append waits here for its own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::places::{Mark, Places, Position};
use super::wire::Seen;
use crate::ledger::recent::Recent;

/// See the [module](self).
pub(super) struct Followed {
    pub(super) places: Places,
    pub(super) recent: Recent,
    newest: Mutex<Newest>,
}

struct Newest {
    mark: Mark,
    ids: HashMap<Uuid, Known>,
    ids_in_order: VecDeque<Uuid>,
    heard: Instant,
    /// Where our last event stood when the leader was asked.
    head: Option<Position>,
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
            ids: HashMap::new(),
            ids_in_order: VecDeque::new(),
            heard: Instant::now(),
            head: None,
        };
        Ok(Self { places, recent: Recent::default(), newest: Mutex::new(newest) })
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
        let ids: Vec<_> = (first..).zip(events.iter().map(|event| event.id)).collect();
        let numbered = (first..).zip(events).map(|(sequence, event)| event.numbered(sequence));
        self.recent.push(numbered);
        let mut newest = self.newest();
        ids.into_iter().for_each(|(sequence, id)| newest.keep(id, sequence));
        newest.mark = mark;
        newest.heard = Instant::now();
        Ok(last)
    }

    /// The leader has answered where our last event stands.
    pub(super) fn heard(&self, head: Option<Position>) {
        let mut newest = self.newest();
        newest.heard = Instant::now();
        newest.head = newest.head.max(head);
    }

    /// How many of our events the leader has and did not bring yet: what its log is longer than what
    /// was followed, in events of the average length so far.
    pub(super) fn behind(&self) -> u64 {
        let newest = self.newest();
        let Mark { next_sequence, after, .. } = newest.mark;
        let Some(head) = newest.head.filter(|head| Some(*head) > after) else { return 0 };
        let passed = after.map_or(0, |after| after.commit);
        let length = passed.checked_div(next_sequence).unwrap_or(1).max(1);
        (head.commit.saturating_sub(passed) / length).max(1)
    }

    /// For how long nobody was heard of.
    pub(super) fn silent_for(&self) -> Duration {
        self.newest().heard.elapsed()
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
    fn keep(&mut self, id: Uuid, sequence: u64) {
        self.ids.insert(id, Known { sequence, answered: false });
        self.ids_in_order.push_back(id);
        if self.ids_in_order.len() > IDS_MAX
            && let Some(oldest) = self.ids_in_order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

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
    fn numbers_events_and_remembers_their_ids_and_places() {
        let (_dir, followed) = followed();
        assert_eq!(followed.note(vec![seen(10), seen(25)], followed.mark()).unwrap(), Some(1));
        assert_eq!(followed.note(Vec::new(), followed.mark()).unwrap(), None);
        assert_eq!(followed.note(vec![seen(30)], followed.mark()).unwrap(), Some(2));
        assert_eq!(followed.places.sequence_at(25).unwrap(), Some(1));
        assert_eq!(followed.sequence_of(Uuid::from_u128(30)), Some(2));
        let kept = followed.recent.from(0, 10).unwrap();
        let kept: Vec<_> = kept.iter().map(|slot| slot.recorded().sequence).collect();
        assert_eq!(kept, [0, 1, 2]);
    }

    #[test]
    fn one_append_is_the_first_to_be_answered_with_an_event() {
        let (_dir, followed) = followed();
        assert!(!followed.answer_with(Uuid::from_u128(1)));
        followed.note(vec![seen(1)], followed.mark()).unwrap();
        assert!(followed.answer_with(Uuid::from_u128(1)));
        assert!(!followed.answer_with(Uuid::from_u128(1)));
    }

    #[test]
    fn what_is_missing_is_estimated_from_the_length_of_the_log() {
        let (_dir, followed) = followed();
        let at = |commit| Some(Position { commit, prepare: commit });
        assert_eq!(followed.behind(), 0);
        followed.heard(at(500));
        assert_eq!(followed.behind(), 500);
        let events: Vec<_> = (1..=10).map(|number| seen(number * 100)).collect();
        let mark = Mark { after: at(1_000), ..followed.mark() };
        followed.note(events, mark).unwrap();
        assert_eq!(followed.behind(), 0);
        followed.heard(at(3_000));
        assert_eq!(followed.behind(), 20);
        // What the leader said earlier may arrive later.
        followed.heard(at(2_000));
        assert_eq!(followed.behind(), 20);
        followed.heard(at(3_001));
        followed.note(Vec::new(), Mark { after: at(3_000), ..followed.mark() }).unwrap();
        assert_eq!(followed.behind(), 1);
    }
}
