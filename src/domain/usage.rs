//! May more persistent licenses be held? What each rule of the policy counts, and what it says.

mod windows;

use super::account::{Account, Member};
use super::device::Device;
use super::holding::Held;
use super::ids::{DeviceRef, KeyId, LicenseId, Tag};
use super::quota::{
    BLOCKED, Condition, Counts, DEFAULT, DefaultAnswer, LICENSES_PER_SLOT, OnExceed, QuotaPolicy,
    QuotaRule, Scope,
};

/// What a decision about quotas is made on.
#[derive(Clone, Copy, Debug)]
pub struct Usage<'a> {
    /// The device that the licenses are for.
    pub device: &'a Device,
    /// Its name.
    pub name: &'a DeviceRef,
    /// The account that pays for them, if they name one.
    pub account: Option<&'a Account>,
    /// The policy in force.
    pub policy: &'a QuotaPolicy,
    /// Security level of the device, if it is known.
    pub security_level: Option<u32>,
    /// Maker, model name and number of the device; empty if they are not known.
    pub model: &'a str,
    /// The moment that decides what has expired.
    pub now_ms: i64,
}

/// One more persistent license.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Its KID.
    pub key_id: KeyId,
    /// The title, if the service named one.
    pub title: Option<&'a str>,
    /// The content group, if the service named one.
    pub content_group: Option<&'a str>,
}

/// What a rule, or all of them together, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It fits.
    Allow,
    /// It is beyond the limit of a rule that allows that.
    AllowOverage,
    /// It is refused.
    Deny,
}

/// How much is in use, as sure as the evidence is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// What devices confirmed that they stored.
    pub confirmed: u32,
    /// What counts: rules compare it with their limits.
    pub live: u32,
    /// What devices may hold: what counts, and what was released on weak evidence.
    pub possible: u32,
}

/// A live license or reservation, as a rule counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedLicense {
    /// The license, or what a reservation holds for one.
    pub license_id: LicenseId,
    /// Its KID.
    pub key_id: KeyId,
    /// The device it is on.
    pub device: DeviceRef,
    /// Whether the device confirmed that it stored it.
    pub confirmed: bool,
    /// Whether it is a reservation.
    pub reserved: bool,
    /// When it stops counting by itself.
    pub counted_until_ms: Option<i64>,
}

impl CountedLicense {
    fn of((device, key_id, held): (&DeviceRef, KeyId, &Held)) -> Self {
        Self {
            license_id: held.license_id,
            key_id,
            device: device.clone(),
            confirmed: held.confirmed,
            reserved: held.reserved,
            counted_until_ms: held.counted_until_ms,
        }
    }
}

/// What one rule says, and what it counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleUse {
    /// The rule's id.
    pub rule: String,
    /// Whose use it counts.
    pub scope: Scope,
    /// How far it looks back; `None` if it counts live slots.
    pub window_seconds: Option<u32>,
    /// The title that it counts, if it counts titles.
    pub title: Option<String>,
    /// The most that may be in use, as set for the device or account, else as the rule has it.
    pub limit: u32,
    /// How many more the rule allows as overage.
    pub overage: u32,
    /// How much is in use.
    pub in_use: InUse,
    /// How much more the request would take.
    pub requested: u32,
    /// What the rule says.
    pub verdict: Verdict,
    /// When the next of what is in use frees by itself, if it will.
    pub next_free_at_ms: Option<i64>,
    /// The live licenses counted; of rules that look back, none.
    pub counted: Vec<CountedLicense>,
}

/// The answer to "may these licenses be held?", with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What the policy says.
    pub verdict: Verdict,
    /// What each rule that applies says, in the order of the policy.
    pub rules: Vec<RuleUse>,
}

impl Explanation {
    /// The rule that the answer rests on: the first that denies, else the first that allows as
    /// overage, else the one with the least room left. `None` if no rule applies.
    pub fn decisive(&self) -> Option<&RuleUse> {
        let room = |rule: &&RuleUse| rule.limit.saturating_sub(rule.in_use.live);
        match self.verdict {
            Verdict::Allow => self.rules.iter().min_by_key(room),
            verdict => self.rules.iter().find(|rule| rule.verdict == verdict),
        }
    }
}

/// The policy said no: which rule, and what it counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaExceeded {
    /// The rule.
    pub rule: Box<RuleUse>,
    /// Revision of the policy.
    pub policy_revision: u64,
}

/// What helps against a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// A device deletes one of the licenses counted.
    DeleteLicense,
    /// Something that is counted frees by itself, at the time given.
    Wait,
    /// An operator writes off a license that a device lost, or all of a lost device.
    WriteOff,
    /// An operator sets another limit for the device or account.
    Override,
    /// An operator unblocks the device.
    Unblock,
}

impl Remedy {
    /// The remedy as APIs name it.
    pub fn word(self) -> &'static str {
        match self {
            Self::DeleteLicense => "delete_license",
            Self::Wait => "wait",
            Self::WriteOff => "write_off",
            Self::Override => "override",
            Self::Unblock => "unblock",
        }
    }
}

impl RuleUse {
    /// What helps if it refuses.
    pub fn remedies(&self) -> Vec<Remedy> {
        let mut remedies = Vec::new();
        if !self.counted.is_empty() {
            remedies.extend([Remedy::DeleteLicense, Remedy::WriteOff]);
        }
        if self.next_free_at_ms.is_some() {
            remedies.push(Remedy::Wait);
        }
        match self.rule.as_str() {
            BLOCKED => remedies.push(Remedy::Unblock),
            LICENSES_PER_SLOT | DEFAULT => {}
            _ => remedies.push(Remedy::Override),
        }
        remedies
    }

    /// KIDs of what is in use, ascending.
    pub fn held_kids(&self) -> Vec<KeyId> {
        distinct(self.counted.iter().map(|license| license.key_id))
    }
}

/// What a rule counts before it is spelled out.
struct Measured<'a> {
    rule: &'a QuotaRule,
    title: Option<&'a str>,
    limit: u32,
    /// Of a rule on live slots, what is in them.
    counted: Vec<(&'a DeviceRef, KeyId, &'a Held)>,
    live: u32,
    requested: u32,
    /// More may have been issued than is remembered.
    beyond_memory: bool,
}

impl Measured<'_> {
    fn overage(&self) -> u32 {
        match self.rule.on_exceed {
            OnExceed::Deny => 0,
            OnExceed::AllowOverage(overage) => overage,
        }
    }

    fn verdict(&self) -> Verdict {
        let total = self.live.saturating_add(self.requested);
        if self.requested == 0 {
            Verdict::Allow
        } else if self.beyond_memory || total > self.limit.saturating_add(self.overage()) {
            Verdict::Deny
        } else if total > self.limit {
            Verdict::AllowOverage
        } else {
            Verdict::Allow
        }
    }
}

impl<'a> Usage<'a> {
    /// Whether `wanted` (repeats allowed) may be held. A request that takes nothing new of what a
    /// rule counts is within it, also when more is in use than it allows.
    pub fn judge(&self, wanted: &[Wanted<'a>]) -> Result<Verdict, Box<RuleUse>> {
        if let Some(barred) = self.barred(wanted) {
            return Err(Box::new(barred));
        }
        let mut verdict = Verdict::Allow;
        for measured in self.measured(wanted) {
            verdict = verdict.max(measured.verdict());
            if verdict == Verdict::Deny {
                return Err(Box::new(self.spell_out(measured)));
            }
        }
        match self.uncovered(wanted).or_else(|| self.overfilled_slot(wanted)) {
            Some(exceeded) => Err(Box::new(exceeded)),
            None => Ok(verdict),
        }
    }

    /// The same with all reasons.
    pub fn explain(&self, wanted: &[Wanted<'a>]) -> Explanation {
        let measured = self.measured(wanted).map(|measured| self.spell_out(measured));
        let mut rules: Vec<_> = self.barred(wanted).into_iter().chain(measured).collect();
        rules.extend(self.uncovered(wanted));
        rules.extend(self.overfilled_slot(wanted));
        let verdict = rules.iter().map(|rule| rule.verdict).max().unwrap_or(Verdict::Allow);
        Explanation { verdict, rules }
    }

    fn measured(&self, wanted: &[Wanted<'a>]) -> impl Iterator<Item = Measured<'a>> {
        let (usage, wanted) = (*self, wanted.to_vec());
        let applying = usage.policy.rules.iter().filter(move |rule| usage.applies(rule));
        applying.flat_map(move |rule| {
            let titles = match rule.scope {
                Scope::Device | Scope::Account => vec![None],
                Scope::AccountTitle => {
                    distinct(wanted.iter().map(|w| w.title).filter(Option::is_some))
                }
            };
            let measured = titles.into_iter().map(|title| usage.measure(rule, title, &wanted));
            measured.collect::<Vec<_>>()
        })
    }

    /// Whether the rule is about this device and account.
    fn applies(&self, rule: &QuotaRule) -> bool {
        (rule.scope == Scope::Device || self.account.is_some())
            && self.is_met_by(rule, self.security_level, self.model)
    }

    fn is_met_by(&self, rule: &QuotaRule, security_level: Option<u32>, model: &str) -> bool {
        let Some(Condition { min_security_level, max_security_level, device_classes, .. }) =
            &rule.when
        else {
            return true;
        };
        let level_is = |holds: &dyn Fn(u32) -> bool| security_level.is_none_or(holds);
        min_security_level.is_none_or(|min| level_is(&|level| level >= min))
            && max_security_level.is_none_or(|max| level_is(&|level| level <= max))
            && (device_classes.is_empty()
                || model.is_empty()
                || device_classes.iter().any(|class| self.policy.is_of_class(model, class)))
    }

    fn measure(
        &self,
        rule: &'a QuotaRule,
        title: Option<&'a str>,
        wanted: &[Wanted<'a>],
    ) -> Measured<'a> {
        let matching = wanted.iter().filter(|wanted| {
            (title.is_none() || wanted.title == title) && takes_group(rule, wanted.content_group)
        });
        let since_ms = |seconds: u32| self.now_ms.saturating_sub(i64::from(seconds) * 1000);
        let counted = match rule.counts {
            Counts::LiveSlots => self.counted(rule, title),
            _ => Vec::new(),
        };
        let (live, requested, beyond_memory) = match rule.counts {
            Counts::LiveSlots => {
                let slots = slots_of(&counted);
                let held = |kid: &KeyId| slots.binary_search(&(self.name, *kid)).is_ok();
                let fresh = matching.map(|w| w.key_id).filter(|key_id| !held(key_id));
                (slots.len(), distinct(fresh).len(), false)
            }
            Counts::IssuedWithinSeconds(seconds) => {
                let reserved = self.counted(rule, title).into_iter();
                let reserved = reserved.filter(|(.., held)| held.reserved).count();
                let since_ms = since_ms(seconds);
                let issued = self.issued_since(rule, title, since_ms).count();
                let beyond = self.issued(rule).is_full_since(since_ms);
                (issued + reserved, matching.count(), beyond)
            }
            Counts::DevicesAddedWithinSeconds(seconds) => {
                let since_ms = since_ms(seconds);
                let added = self.added_since(rule, since_ms).count();
                let has = |account: &Account| account.has_member(self.name, self.now_ms);
                let is_new = !self.account.is_some_and(has) && matching.count() > 0;
                let beyond =
                    self.account.is_some_and(|account| account.has_forgotten_since(since_ms));
                (added, usize::from(is_new), beyond)
            }
        };
        let overrides = match rule.scope {
            Scope::Device => Some(self.device.overrides()),
            Scope::Account | Scope::AccountTitle => self.account.map(Account::overrides),
        };
        let set = overrides.and_then(|overrides| overrides.limit(&rule.id, self.now_ms));
        Measured {
            rule,
            title,
            limit: set.unwrap_or(rule.limit),
            counted,
            live: count(live),
            requested: count(requested),
            beyond_memory,
        }
    }

    /// The account's devices that the rule is about.
    fn members(
        &self,
        rule: &'a QuotaRule,
    ) -> impl Iterator<Item = (&'a DeviceRef, &'a Member)> + use<'a> {
        let usage = *self;
        let members = self.account.into_iter().flat_map(Account::members);
        members
            .filter(move |(_, member)| usage.is_met_by(rule, member.security_level, &member.model))
    }

    /// The live licenses and reservations that a rule counts, ordered by device, then by KID.
    fn counted(
        &self,
        rule: &'a QuotaRule,
        title: Option<&str>,
    ) -> Vec<(&'a DeviceRef, KeyId, &'a Held)> {
        let title = title.map(Tag::of);
        let groups = group_tags(rule);
        let matches = |held: &Held| {
            (title.is_none() || held.title == title)
                && groups.as_ref().is_none_or(|groups| contains(groups, held.content_group))
        };
        let mut counted = Vec::new();
        match rule.scope {
            Scope::Device => {
                let held = self.device.held(self.now_ms).filter(|(_, held)| matches(held));
                counted.extend(held.map(|(key_id, held)| (self.name, key_id, held)));
            }
            Scope::Account | Scope::AccountTitle => {
                for (device, member) in self.members(rule) {
                    let held = member.held(self.now_ms).filter(|(_, held)| matches(held));
                    counted.extend(held.map(|(key_id, held)| (device, key_id, held)));
                }
            }
        }
        counted
    }

    fn spell_out(&self, measured: Measured<'a>) -> RuleUse {
        let (overage, verdict) = (measured.overage(), measured.verdict());
        let Measured { rule, title, limit, counted, live, requested, .. } = measured;
        let next_free_at_ms = match rule.counts {
            Counts::LiveSlots => next_free(&counted),
            counts => self.next_to_pass(rule, title, counts.window_seconds().unwrap_or_default()),
        };
        RuleUse {
            rule: rule.id.clone(),
            scope: rule.scope,
            window_seconds: rule.counts.window_seconds(),
            title: title.map(str::to_owned),
            limit,
            overage,
            in_use: match rule.counts {
                Counts::LiveSlots => self.in_use(rule, &counted),
                _ => InUse { confirmed: live, live, possible: live },
            },
            requested,
            verdict,
            next_free_at_ms,
            counted: counted.into_iter().map(CountedLicense::of).collect(),
        }
    }

    fn in_use(&self, rule: &QuotaRule, counted: &[(&DeviceRef, KeyId, &Held)]) -> InUse {
        let live = slots_of(counted);
        let confirmed = slots_of(counted.iter().filter(|(.., held)| held.confirmed));
        let mut possible = live.clone();
        // Of what was released only device and KID are remembered: rules on less than all that a
        // device or account holds do not count it.
        if rule.when.is_none() && rule.scope != Scope::AccountTitle {
            let doubtful = match (rule.scope, self.account) {
                (Scope::Device, _) | (_, None) => &self.device.doubtful,
                (_, Some(account)) => &account.doubtful,
            };
            let doubtful = doubtful.slots(self.now_ms);
            possible.extend(doubtful.map(|(device, key_id)| (device.unwrap_or(self.name), key_id)));
        }
        InUse {
            confirmed: count(confirmed.len()),
            live: count(live.len()),
            possible: count(distinct(possible).len()),
        }
    }

    /// What refuses everything to a device that an operator blocked or replaced.
    fn barred(&self, wanted: &[Wanted<'_>]) -> Option<RuleUse> {
        let barred = (self.device.blocked || self.device.replaced) && !wanted.is_empty();
        barred.then(|| self.refused_by(BLOCKED, 0, 0, wanted.len()))
    }

    /// What refuses licenses that no rule is about, if the policy does.
    fn uncovered(&self, wanted: &[Wanted<'_>]) -> Option<RuleUse> {
        if self.policy.default == DefaultAnswer::Allow {
            return None;
        }
        let covers = |rule: &QuotaRule, wanted: &Wanted<'_>| {
            self.applies(rule)
                && takes_group(rule, wanted.content_group)
                && (rule.scope != Scope::AccountTitle || wanted.title.is_some())
        };
        let alone = |wanted: &&Wanted<'_>| !self.policy.rules.iter().any(|r| covers(r, wanted));
        let requested = wanted.iter().filter(alone).count();
        (requested > 0).then(|| self.refused_by(DEFAULT, 0, 0, requested))
    }

    /// The first slot, by KID, that `wanted` would give more licenses than one may hold.
    fn overfilled_slot(&self, wanted: &[Wanted<'_>]) -> Option<RuleUse> {
        let limit = self.policy.licenses_per_slot;
        distinct(wanted.iter().map(|wanted| wanted.key_id)).into_iter().find_map(|key_id| {
            let requested = wanted.iter().filter(|wanted| wanted.key_id == key_id).count();
            let held = self.device.count_in_slot(key_id, self.now_ms);
            if count(held.saturating_add(requested)) <= limit {
                return None;
            }
            let in_slot = self.device.held(self.now_ms).filter(|(kid, _)| *kid == key_id);
            let in_slot: Vec<_> = in_slot.map(|(kid, held)| (self.name, kid, held)).collect();
            let ends = in_slot.iter().filter_map(|(.., held)| held.counted_until_ms);
            let next_free_at_ms = ends.min();
            let counted = in_slot.into_iter().map(CountedLicense::of).collect();
            let refused = self.refused_by(LICENSES_PER_SLOT, limit, held, requested);
            Some(RuleUse { next_free_at_ms, counted, ..refused })
        })
    }

    fn refused_by(&self, rule: &str, limit: u32, held: usize, requested: usize) -> RuleUse {
        let live = count(held);
        RuleUse {
            rule: rule.to_owned(),
            scope: Scope::Device,
            window_seconds: None,
            title: None,
            limit,
            overage: 0,
            in_use: InUse { confirmed: 0, live, possible: live },
            requested: count(requested),
            verdict: Verdict::Deny,
            next_free_at_ms: None,
            counted: Vec::new(),
        }
    }
}

/// Whether the rule is about licenses of this content group.
fn takes_group(rule: &QuotaRule, group: Option<&str>) -> bool {
    let groups = rule.when.as_ref().map(|when| when.content_groups.as_slice()).unwrap_or_default();
    groups.is_empty() || group.is_some_and(|group| groups.iter().any(|g| g == group))
}

/// The content groups that the rule is about; `None` if it is about all.
fn group_tags(rule: &QuotaRule) -> Option<Vec<Tag>> {
    let when = rule.when.as_ref().filter(|when| !when.content_groups.is_empty())?;
    Some(when.content_groups.iter().map(|group| Tag::of(group)).collect())
}

fn contains(groups: &[Tag], group: Option<Tag>) -> bool {
    group.is_some_and(|group| groups.contains(&group))
}

/// The slots that these licenses, ordered by slot, are in.
fn slots_of<'c, 'a: 'c>(
    counted: impl IntoIterator<Item = &'c (&'a DeviceRef, KeyId, &'a Held)>,
) -> Vec<(&'a DeviceRef, KeyId)> {
    let slots = counted.into_iter().map(|(device, key_id, _)| (*device, *key_id));
    let mut slots: Vec<_> = slots.collect();
    slots.dedup();
    slots
}

/// Each of these once, ascending: of the few that there are, faster than a set.
fn distinct<T: Ord>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// When the first slot frees by expiry: each slot frees when its last license does.
fn next_free(counted: &[(&DeviceRef, KeyId, &Held)]) -> Option<i64> {
    let slots = counted.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
    let ends = slots.filter_map(|licenses| {
        let mut last = Some(i64::MIN);
        for (.., held) in licenses {
            last = last.zip(held.counted_until_ms).map(|(a, b)| a.max(b));
        }
        last
    });
    ends.min()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
