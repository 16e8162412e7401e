//! What was so at each place in a log.

use std::iter;

/// Where in the log something happens, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) sequence: usize,
    pub(super) at_ms: i64,
}

/// The lengths of the shortest and the longest prefix that are meant.
pub(super) type Window = (usize, usize);

/// What was so from a place on, until the next one.
pub(super) struct History<T>(Vec<(Place, T)>);

impl<T> Default for History<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> History<T> {
    pub(super) fn push(&mut self, place: Place, value: T) {
        self.0.push((place, value));
    }

    pub(super) fn last(&self) -> Option<&T> {
        self.0.last().map(|(_, value)| value)
    }

    /// What was so after so many events.
    pub(super) fn at(&self, length: usize) -> Option<&(Place, T)> {
        let next = self.0.partition_point(|(place, _)| place.sequence < length);
        self.0[..next].last()
    }

    /// The lengths of the prefixes that end with a change.
    pub(super) fn changes(&self, (first, last): Window) -> impl Iterator<Item = usize> {
        let from = self.0.partition_point(|(place, _)| place.sequence < first);
        let lengths = self.0[from..].iter().map(|(place, _)| place.sequence + 1);
        lengths.take_while(move |length| *length <= last)
    }

    /// All that was so at any of the prefixes, `None` where nothing was yet.
    pub(super) fn during(&self, window: Window) -> impl Iterator<Item = Option<&T>> {
        let lengths = iter::once(window.0).chain(self.changes(window));
        lengths.map(|length| self.at(length).map(|(_, value)| value))
    }
}

/// Times of what counts for a while, as they were at each place.
pub(super) struct Times {
    /// Each ascending; another one from where they did not only grow.
    lists: Vec<Vec<i64>>,
}

/// The times up to a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    list: usize,
    length: usize,
}

impl Times {
    pub(super) fn new() -> Self {
        Self { lists: vec![Vec::new()] }
    }

    fn newest(&self) -> &Vec<i64> {
        self.lists.last().unwrap()
    }

    pub(super) fn add(&mut self, at_ms: i64) {
        self.lists.last_mut().unwrap().push(at_ms);
    }

    /// Has these, in whatever order, in place of those before.
    pub(super) fn replace(&mut self, mut times: Vec<i64>) {
        times.sort_unstable();
        self.lists.push(times);
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { list: self.lists.len() - 1, length: self.newest().len() }
    }

    /// Those after `since_ms`.
    pub(super) fn since(&self, mark: Mark, since_ms: i64) -> &[i64] {
        let times = &self.lists[mark.list][..mark.length];
        &times[times.partition_point(|time_ms| *time_ms <= since_ms)..]
    }
}
