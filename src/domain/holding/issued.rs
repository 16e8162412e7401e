//! The licenses issued lately, packed: a device remembers many that few rules ask for, and every
//! first decision about it reads them.
//!
//! In memory and in the stored state they are one record after another, oldest first:
//!
//! ```text
//! 1 byte         bits 0 to 2: which tags follow: 1 device, 2 title, 4 content group
//!                bit 3: 0
//!                bits 4 to 7: n, the bytes of the time, 0 to 8
//! n bytes        milliseconds since the record before it, of the first one since 1970; little-endian,
//!                without leading zeros, modulo 2^64 where time went back
//! 8 bytes each   the tags, in this order, little-endian
//! ```

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::ids::Tag;
use crate::domain::quota::WINDOW_SECONDS_MAX;

/// Issued licenses that a device or an account remembers for rules that look back.
pub const ISSUED_KEPT: usize = 256;

/// A persistent license that was issued, live or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issued {
    /// When.
    pub at_ms: i64,
    /// To which device; only accounts say.
    pub device: Option<Tag>,
    /// The title, if the service named one.
    pub title: Option<Tag>,
    /// The content group, if the service named one.
    pub content_group: Option<Tag>,
}

impl Issued {
    fn tags(&self) -> [Option<Tag>; 3] {
        [self.device, self.title, self.content_group]
    }
}

/// The newest licenses issued, for rules that look back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuedLog {
    packed: Vec<u8>,
    count: usize,
    /// Time of the last record, which the next one counts from.
    newest_ms: i64,
}

impl IssuedLog {
    pub(in crate::domain) fn add(&mut self, issued: Issued) {
        let horizon_ms = issued.at_ms - i64::from(WINDOW_SECONDS_MAX) * 1000;
        while self.oldest().is_some_and(|i| self.count >= ISSUED_KEPT || i.at_ms < horizon_ms) {
            self.forget_oldest();
        }
        self.push(&issued);
    }

    fn push(&mut self, issued: &Issued) {
        pack(issued, self.newest_ms, &mut self.packed);
        self.newest_ms = issued.at_ms;
        self.count += 1;
    }

    fn forget_oldest(&mut self) {
        let mut records = self.records();
        let (_, Some(second)) = (records.next(), records.next()) else {
            *self = Self::default();
            return;
        };
        let gone = self.packed.len() - records.rest.len();
        let mut again = Vec::new();
        pack(&second, 0, &mut again);
        self.packed.splice(..gone, again);
        self.count -= 1;
    }

    /// Adds what was issued elsewhere, in the order of time.
    pub(in crate::domain) fn take_over(&mut self, issued: impl IntoIterator<Item = Issued>) {
        let mut all: Vec<Issued> = self.all().chain(issued).collect();
        all.sort_by_key(|issued| issued.at_ms);
        *self = Self::default();
        all.into_iter().for_each(|issued| self.add(issued));
    }

    /// Counts what was issued to one device for another.
    pub(in crate::domain) fn rename(&mut self, from: Tag, into: Tag) {
        if !self.all().any(|issued| issued.device == Some(from)) {
            return;
        }
        let mut renamed = Self::default();
        for mut issued in self.all() {
            if issued.device == Some(from) {
                issued.device = Some(into);
            }
            renamed.push(&issued);
        }
        *self = renamed;
    }

    /// All that is remembered, oldest first.
    pub(in crate::domain) fn all(&self) -> impl Iterator<Item = Issued> + use<'_> {
        self.records()
    }

    fn records(&self) -> Records<'_> {
        Records { rest: &self.packed, before_ms: 0 }
    }

    /// Those issued after `since_ms`, oldest first.
    pub fn since(&self, since_ms: i64) -> impl Iterator<Item = Issued> + use<'_> {
        self.all().skip_while(move |issued| issued.at_ms <= since_ms)
    }

    /// Whether licenses may have been issued after `since_ms` that are no longer remembered.
    pub fn is_full_since(&self, since_ms: i64) -> bool {
        self.count >= ISSUED_KEPT && self.oldest().is_some_and(|i| i.at_ms > since_ms)
    }

    fn oldest(&self) -> Option<Issued> {
        self.all().next()
    }
}

/// The bit of each of [`Issued::tags`].
const TAG_BITS: [u8; 3] = [1, 2, 4];
const UNUSED_BIT: u8 = 8;

fn pack(issued: &Issued, before_ms: i64, into: &mut Vec<u8>) {
    let tags = issued.tags();
    let present = tags.iter().zip(TAG_BITS).filter(|(tag, _)| tag.is_some());
    let present: u8 = present.map(|(_, bit)| bit).sum();
    let time = issued.at_ms.wrapping_sub(before_ms).to_le_bytes();
    let length = time.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    into.push(present | (length as u8) << 4);
    into.extend(time.iter().take(length));
    into.extend(tags.into_iter().flatten().flat_map(Tag::to_le_bytes));
}

/// Takes one record after the other; ends before one that is not whole.
struct Records<'a> {
    rest: &'a [u8],
    before_ms: i64,
}

impl Iterator for Records<'_> {
    type Item = Issued;

    fn next(&mut self) -> Option<Issued> {
        let (head, rest) = self.rest.split_first()?;
        let (short, mut rest) = rest.split_at_checked(usize::from(head >> 4))?;
        if head & UNUSED_BIT != 0 || short.last() == Some(&0) {
            return None;
        }
        let mut time = [0; 8];
        time.get_mut(..short.len())?.copy_from_slice(short);
        let mut tags = [None; 3];
        for (tag, bit) in tags.iter_mut().zip(TAG_BITS) {
            if head & bit != 0 {
                let (bytes, others) = rest.split_first_chunk()?;
                *tag = Some(Tag::from_le_bytes(*bytes)?);
                rest = others;
            }
        }
        self.rest = rest;
        self.before_ms = self.before_ms.wrapping_add(i64::from_le_bytes(time));
        let [device, title, content_group] = tags;
        Some(Issued { at_ms: self.before_ms, device, title, content_group })
    }
}

impl Serialize for IssuedLog {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.packed)
    }
}

/// Only from a format that lends bytes, as the stored state's does.
impl<'de> Deserialize<'de> for IssuedLog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let packed = <&[u8]>::deserialize(deserializer)?;
        let mut records = Records { rest: packed, before_ms: 0 };
        let count = records.by_ref().count();
        if !records.rest.is_empty() {
            return Err(D::Error::custom("malformed licenses issued"));
        }
        Ok(Self { packed: packed.to_vec(), count, newest_ms: records.before_ms })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn issued(at_ms: i64, title: Option<&str>) -> Issued {
        Issued { at_ms, device: None, title: title.map(Tag::of), content_group: None }
    }

    #[test]
    fn records_have_the_form_that_is_documented() {
        let mut log = IssuedLog::default();
        let [device, title, content_group] = ["device", "title", "group"].map(Tag::of);
        log.add(issued(258, None));
        log.add(Issued {
            at_ms: 259,
            device: Some(device),
            title: None,
            content_group: Some(content_group),
        });
        log.add(Issued { at_ms: 259, device: None, title: Some(title), content_group: None });
        let stored = postcard::to_allocvec(&log).unwrap();
        // The first eight bytes of each name's SHA-256, computed with sha256sum, backwards.
        let expected = [
            "1e",
            "20",
            "0201",
            "15",
            "01",
            "b88f4841be4d3a26",
            "a61f63edcb6f93ad",
            "02",
            "598010460632f2aa",
        ];
        assert_eq!(data_encoding::HEXLOWER.encode(&stored), expected.concat());
        assert_eq!(postcard::from_bytes::<IssuedLog>(&stored).unwrap(), log);
    }

    #[test]
    fn what_is_cut_or_no_record_is_not_taken() {
        let mut log = IssuedLog::default();
        log.add(issued(1, Some("a")));
        let whole = log.packed.clone();
        for end in 1..whole.len() {
            let stored = postcard::to_allocvec(&Packed(&whole[..end])).unwrap();
            assert!(postcard::from_bytes::<IssuedLog>(&stored).is_err(), "{end}");
        }
        let [no_tag, long_time] = [[2, 0, 0, 0, 0, 0, 0, 0, 0].as_slice(), &[0x9f; 10]];
        let [leading_zero, unused_bit] = [[0x20, 1, 0].as_slice(), &[8]];
        for malformed in [no_tag, long_time, leading_zero, unused_bit] {
            let stored = postcard::to_allocvec(&Packed(malformed)).unwrap();
            assert!(postcard::from_bytes::<IssuedLog>(&stored).is_err(), "{malformed:?}");
        }
    }

    struct Packed<'a>(&'a [u8]);

    impl Serialize for Packed<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }

    #[test]
    fn the_oldest_and_what_no_rule_can_ask_for_is_forgotten() {
        let mut log = IssuedLog::default();
        for at_ms in 0..300 {
            log.add(issued(at_ms, (at_ms % 2 == 0).then_some("even")));
        }
        assert_eq!(log.all().count(), ISSUED_KEPT);
        assert_eq!(log.all().next(), Some(issued(44, Some("even"))));
        assert!(log.is_full_since(43) && !log.is_full_since(44));
        assert_eq!(log.since(297).map(|issued| issued.at_ms).collect::<Vec<_>>(), [298, 299]);
        let later_ms = 299 + i64::from(WINDOW_SECONDS_MAX) * 1000;
        log.add(issued(later_ms, None));
        assert_eq!(log.all().collect::<Vec<_>>(), [issued(299, None), issued(later_ms, None)]);
        log.add(issued(3 * later_ms, None));
        assert_eq!(log.all().collect::<Vec<_>>(), [issued(3 * later_ms, None)]);
    }

    #[test]
    fn any_times_are_kept_whichever_way_they_go() {
        let times = [5, i64::MAX, i64::MIN, 0, -1, 1_790_000_000_000, 1_789_999_999_999, 0];
        let mut log = IssuedLog::default();
        times.iter().for_each(|at_ms| log.push(&issued(*at_ms, Some("a"))));
        for left in 0..times.len() {
            let stored = postcard::to_allocvec(&log).unwrap();
            let again: IssuedLog = postcard::from_bytes(&stored).unwrap();
            assert_eq!(again, log);
            let read: Vec<_> = again.all().map(|issued| issued.at_ms).collect();
            assert_eq!(read, times[left..]);
            log.forget_oldest();
        }
        assert_eq!(log, IssuedLog::default());
    }

    fn tag() -> impl Strategy<Value = Option<Tag>> {
        prop::option::of((0..3_u8).prop_map(|number| Tag::of(&number.to_string())))
    }

    prop_compose! {
        fn any_issued()(day in 0..1000_i64, tags in [tag(), tag(), tag()]) -> Issued {
            let [device, title, content_group] = tags;
            Issued { at_ms: day * 1000 * 86_400, device, title, content_group }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(Issued),
        TakeOver(Vec<Issued>),
        Rename(Option<Tag>, Option<Tag>),
        Reload,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => any_issued().prop_map(Step::Add),
            2 => prop::collection::vec(any_issued(), 0..80).prop_map(Step::TakeOver),
            1 => (tag(), tag()).prop_map(|(from, into)| Step::Rename(from, into)),
            1 => Just(Step::Reload),
        ]
    }

    /// The same with nothing packed.
    fn add(model: &mut VecDeque<Issued>, issued: Issued) {
        let horizon_ms = issued.at_ms - i64::from(WINDOW_SECONDS_MAX) * 1000;
        while model.len() >= ISSUED_KEPT || model.front().is_some_and(|i| i.at_ms < horizon_ms) {
            model.pop_front();
        }
        model.push_back(issued);
    }

    proptest! {
        #[test]
        fn packed_or_not_the_same_is_remembered(steps in prop::collection::vec(step(), 1..60)) {
            let (mut log, mut model) = (IssuedLog::default(), VecDeque::new());
            for step in steps {
                match step {
                    Step::Add(issued) => {
                        log.add(issued);
                        add(&mut model, issued);
                    }
                    Step::TakeOver(issued) => {
                        log.take_over(issued.clone());
                        let mut all: Vec<_> = model.drain(..).chain(issued).collect();
                        all.sort_by_key(|issued| issued.at_ms);
                        all.into_iter().for_each(|issued| add(&mut model, issued));
                    }
                    Step::Rename(Some(from), Some(into)) => {
                        log.rename(from, into);
                        for issued in model.iter_mut().filter(|i| i.device == Some(from)) {
                            issued.device = Some(into);
                        }
                    }
                    Step::Rename(..) => {}
                    Step::Reload => {
                        let stored = postcard::to_allocvec(&log).unwrap();
                        let again: IssuedLog = postcard::from_bytes(&stored).unwrap();
                        prop_assert_eq!(&again, &log);
                        log = again;
                    }
                }
                prop_assert_eq!(log.count, model.len());
                prop_assert!(log.all().eq(model.iter().copied()));
            }
        }
    }

    #[test]
    fn what_was_issued_elsewhere_finds_its_time_and_its_device() {
        let [from, into] = ["from", "into"].map(Tag::of);
        let mut log = IssuedLog::default();
        log.add(issued(1, Some("a")));
        log.add(issued(5, None));
        log.take_over([Issued { device: Some(from), ..issued(3, Some("b")) }]);
        log.rename(from, into);
        let expected = [
            issued(1, Some("a")),
            Issued { device: Some(into), ..issued(3, Some("b")) },
            issued(5, None),
        ];
        assert_eq!(log.all().collect::<Vec<_>>(), expected);
    }
}
