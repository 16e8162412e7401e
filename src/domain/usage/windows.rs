//! What rules that look back count.

use std::collections::BTreeSet;

use super::{Usage, contains, group_tags};
use crate::domain::account::Member;
use crate::domain::holding::{Issued, IssuedLog};
use crate::domain::ids::Tag;
use crate::domain::quota::{Counts, QuotaRule, Scope};

impl<'a> Usage<'a> {
    pub(super) fn issued(&self, rule: &QuotaRule) -> &'a IssuedLog {
        match (rule.scope, self.account) {
            (Scope::Device, _) | (_, None) => &self.device.issued,
            (_, Some(account)) => &account.issued,
        }
    }

    /// The licenses that a rule counts which were issued after `since_ms`, oldest first.
    pub(super) fn issued_since(
        &self,
        rule: &'a QuotaRule,
        title: Option<&str>,
        since_ms: i64,
    ) -> impl Iterator<Item = Issued> + use<'a> {
        let title = title.map(Tag::of);
        let groups = group_tags(rule);
        let about_devices = rule.scope != Scope::Device && rule.when.is_some();
        let devices: BTreeSet<Tag> = match about_devices {
            true => self.members(rule).map(|(device, _)| Tag::of(&device.to_string())).collect(),
            false => BTreeSet::new(),
        };
        self.issued(rule).since(since_ms).filter(move |issued| {
            (title.is_none() || issued.title == title)
                && groups.as_ref().is_none_or(|groups| contains(groups, issued.content_group))
                && (!about_devices || issued.device.is_none_or(|device| devices.contains(&device)))
        })
    }

    /// The account's devices that a rule on added ones counts, and when each was added; those that
    /// only hold a reservation are about to be.
    pub(super) fn added_since(
        &self,
        rule: &'a QuotaRule,
        since_ms: i64,
    ) -> impl Iterator<Item = (&'a Member, Option<i64>)> + use<'a> {
        let now_ms = self.now_ms;
        let members = self.members(rule).map(|(_, member)| (member, member.added_ms));
        members.filter(move |(member, added_ms)| match added_ms {
            Some(added_ms) => *added_ms > since_ms,
            None => member.held(now_ms).next().is_some(),
        })
    }

    /// When the first of what a rule that looks back counts leaves its window, or the first of the
    /// reservations that it counts ends.
    pub(super) fn next_to_pass(
        &self,
        rule: &'a QuotaRule,
        title: Option<&str>,
        seconds: u32,
    ) -> Option<i64> {
        let window_ms = i64::from(seconds) * 1000;
        let since_ms = self.now_ms.saturating_sub(window_ms);
        let passes = |at_ms: i64| at_ms.saturating_add(window_ms);
        if let Counts::DevicesAddedWithinSeconds(_) = rule.counts {
            let ends = self.added_since(rule, since_ms);
            let ends = ends.filter_map(|(member, added_ms)| {
                added_ms.map(passes).or_else(|| member.ends_ms(self.now_ms))
            });
            return ends.min();
        }
        let mut issued = self.issued_since(rule, title, since_ms);
        let issued = issued.next().map(|issued| passes(issued.at_ms));
        let reserved = self.counted(rule, title).into_iter();
        let reserved = reserved.filter(|(.., held)| held.reserved);
        reserved.filter_map(|(.., held)| held.counted_until_ms).chain(issued).min()
    }
}
