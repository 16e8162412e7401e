//! The heads of the streams that were in use lately, so that neither checking nor reading one costs
//! SQL.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ledger::event::StreamName;

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The stream's number in the database.
    pub(super) stream: i64,
    /// The revision of its last event.
    pub(super) revision: u64,
}

/// Heads as committed. Belongs to the process that writes: nobody else changes them.
///
/// A bounded cache in two generations: what was used since the last turn, and what was used in the
/// turn before. Holds at most `generation_max` entries each, beside those of one group.
pub(super) struct Heads {
    known: Mutex<Known>,
    generation_max: usize,
}

#[derive(Default)]
struct Known {
    recent: HashMap<StreamName, Head>,
    older: HashMap<StreamName, Head>,
    /// Groups committed so far.
    groups: u64,
}

/// What a reader found out, and since when it may have changed.
pub(super) enum Looked {
    /// The head.
    Known(Head),
    /// It has to be looked up; see [`Heads::learn`].
    Unknown {
        /// Groups committed before the look-up.
        groups: u64,
    },
}

impl Heads {
    pub(super) fn new(generation_max: usize) -> Self {
        Self { known: Mutex::default(), generation_max }
    }

    pub(super) fn look(&self, name: &StreamName) -> Looked {
        let mut known = self.known();
        match known.get(name) {
            Some(head) => Looked::Known(head),
            None => Looked::Unknown { groups: known.groups },
        }
    }

    pub(super) fn get(&self, name: &StreamName) -> Option<Head> {
        self.known().get(name)
    }

    /// Takes in what was looked up after [`look`](Self::look) said `groups`. A group committed since
    /// may have moved the head: then nothing is learned.
    pub(super) fn learn(&self, name: &StreamName, head: Head, groups: u64) {
        let mut known = self.known();
        if known.groups == groups {
            known.put(name.clone(), head);
            known.turn(self.generation_max);
        }
    }

    /// Takes in the heads of a group that is committed.
    pub(super) fn commit(&self, heads: impl IntoIterator<Item = (StreamName, Head)>) {
        let mut known = self.known();
        known.groups += 1;
        heads.into_iter().for_each(|(name, head)| known.put(name, head));
        known.turn(self.generation_max);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // No method leaves it half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn get(&mut self, name: &StreamName) -> Option<Head> {
        if let Some(head) = self.recent.get(name) {
            return Some(*head);
        }
        let (name, head) = self.older.remove_entry(name)?;
        self.recent.insert(name, head);
        Some(head)
    }

    fn put(&mut self, name: StreamName, head: Head) {
        self.older.remove(&name);
        self.recent.insert(name, head);
    }

    fn turn(&mut self, generation_max: usize) {
        if self.recent.len() >= generation_max {
            self.older = std::mem::take(&mut self.recent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> StreamName {
        StreamName::new(&format!("device-{number}")).unwrap()
    }

    fn head(revision: usize) -> Head {
        Head { stream: 0, revision: revision as u64 }
    }

    #[test]
    fn keeps_what_is_used_and_forgets_what_is_not() {
        let heads = Heads::new(10);
        for number in 0..100 {
            heads.commit([(name(number), head(number))]);
            assert!(heads.get(&name(0)).is_some(), "forgot the one in use at {number}");
            let known = heads.known();
            assert!(known.recent.len() + known.older.len() <= 20);
        }
        assert_eq!(heads.get(&name(50)), None);
        assert_eq!(heads.get(&name(99)), Some(head(99)));
    }

    #[test]
    fn what_a_reader_found_before_a_commit_is_not_taken_for_the_head_after_it() {
        let heads = Heads::new(10);
        let Looked::Unknown { groups } = heads.look(&name(1)) else { panic!("known already") };
        heads.commit([(name(2), head(0))]);
        heads.learn(&name(1), head(5), groups);
        assert_eq!(heads.get(&name(1)), None);
        let Looked::Unknown { groups } = heads.look(&name(1)) else { panic!("learned") };
        heads.learn(&name(1), head(6), groups);
        assert_eq!(heads.get(&name(1)), Some(head(6)));
    }
}
