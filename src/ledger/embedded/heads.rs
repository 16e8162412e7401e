//! The heads of the streams that were in use lately, so that checking one costs no SQL.

use std::collections::HashMap;

use crate::ledger::event::StreamName;

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The stream's number in the database.
    pub(super) stream: i64,
    /// The revision of its last event.
    pub(super) revision: u64,
}

/// A bounded cache in two generations: what was used since the last turn, and what was used in the
/// turn before. Holds at most `generation_max` entries each, beside those of one group.
pub(super) struct Heads {
    recent: HashMap<StreamName, Head>,
    older: HashMap<StreamName, Head>,
    generation_max: usize,
}

impl Heads {
    pub(super) fn new(generation_max: usize) -> Self {
        Self { recent: HashMap::new(), older: HashMap::new(), generation_max }
    }

    /// Makes room. Called between groups only: heads written by a group that is not committed yet
    /// are known nowhere else.
    pub(super) fn make_room(&mut self) {
        if self.recent.len() >= self.generation_max {
            self.older = std::mem::take(&mut self.recent);
        }
    }

    pub(super) fn get(&mut self, name: &StreamName) -> Option<Head> {
        if let Some(head) = self.recent.get(name) {
            return Some(*head);
        }
        let (name, head) = self.older.remove_entry(name)?;
        self.recent.insert(name, head);
        Some(head)
    }

    pub(super) fn put(&mut self, name: &StreamName, head: Head) {
        match self.recent.get_mut(name) {
            Some(known) => *known = head,
            None => {
                self.older.remove(name);
                self.recent.insert(name.clone(), head);
            }
        }
    }

    /// Forgets everything: what a group put here was rolled back.
    pub(super) fn clear(&mut self) {
        self.recent.clear();
        self.older.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> StreamName {
        StreamName::new(&format!("device-{number}")).unwrap()
    }

    #[test]
    fn keeps_what_is_used_and_forgets_what_is_not() {
        let mut heads = Heads::new(10);
        for number in 0..100 {
            heads.make_room();
            heads.put(&name(number), Head { stream: 0, revision: number as u64 });
            assert!(heads.get(&name(0)).is_some(), "forgot the one in use at {number}");
            assert!(heads.recent.len() + heads.older.len() <= 20);
        }
        assert_eq!(heads.get(&name(50)), None);
        assert_eq!(heads.get(&name(99)), Some(Head { stream: 0, revision: 99 }));
    }
}
