//! The rules of a policy, and what may be set in place of them.

use super::Subject;
use super::ledger::Held;

/// How much may be in use, of what, and whose.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub id: &'static str,
    pub scope: Scope,
    pub counts: Counts,
    /// The content group that it is about; `None`: all.
    pub group: Option<&'static str>,
    pub limit: usize,
    /// How much more decisions allow if they are marked.
    pub overage: usize,
}

/// Whose use a rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Device,
    Account,
    /// Each title of an account for itself.
    Title,
}

/// What a rule counts.
#[derive(Clone, Copy, Debug)]
pub enum Counts {
    /// Devices and KIDs for which room is taken.
    Slots,
    /// Licenses issued within a time, and what is reserved. Where more licenses of whatever kind were
    /// issued to the device or account within that time than are remembered, there is no room.
    Issued { within_ms: i64 },
    /// Devices that got their first license within a time, and those that only have something
    /// reserved. No device may come back that an account with too many has forgotten.
    Added { within_ms: i64 },
}

impl Rule {
    /// A rule on all slots of devices, accounts or titles that allows nothing beyond the limit.
    pub const fn on_slots(id: &'static str, scope: Scope, limit: usize) -> Self {
        Self { id, scope, counts: Counts::Slots, group: None, limit, overage: 0 }
    }

    /// Whose use of it this is, if it is about that at all.
    pub(super) fn subject(&self, held: &Held) -> Option<Subject> {
        if self.group.is_some() && held.slot.group.as_deref() != self.group {
            return None;
        }
        match (self.scope, self.holder(held)?) {
            (Scope::Title, Subject::Account(account)) => {
                Some(Subject::Title(account, held.slot.title.clone()?))
            }
            (_, holder) => Some(holder),
        }
    }

    /// The device or account that the rule would count this of, whatever it is.
    pub(super) fn holder(&self, held: &Held) -> Option<Subject> {
        match self.scope {
            Scope::Device => Some(Subject::Device(held.device.clone())),
            Scope::Account | Scope::Title => held.account.clone().map(Subject::Account),
        }
    }
}

/// A limit set for one device or account in place of a rule's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Own {
    pub limit: usize,
    /// From when on the rule's own holds again.
    pub until_ms: i64,
}

impl Own {
    pub(super) fn is_in_force(self, at_ms: i64) -> bool {
        at_ms < self.until_ms
    }
}
