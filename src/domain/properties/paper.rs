//! A device's history as the words of the specification have it, kept by hand.

use std::collections::{BTreeMap, BTreeSet};

use super::{LICENSES_PER_SLOT, SLOTS};
use crate::domain::event::Grade;
use crate::domain::quota::Voiding;
use crate::domain::scenario::{Ask, DAY_MS, Removal};
use crate::domain::{KeyId, LicenseId, SessionId};

/// The ledger as a clerk would keep it: a list of licenses, and lists of what was said about them.
#[derive(Default)]
pub(super) struct Paper {
    pub(super) licenses: Vec<PaperLicense>,
    /// Granted challenges by identity and nonce: time and bytes.
    pub(super) granted: BTreeMap<(u8, u8), (i64, u8)>,
    /// Identity, session and KID of every deletion that was answered for good.
    pub(super) answered: BTreeSet<(u8, SessionId, KeyId)>,
    /// Identity and KID of effective deletions, with the number of licenses issued before.
    pub(super) effective: BTreeMap<(u8, KeyId), usize>,
    pub(super) blocked: bool,
}

pub(super) struct PaperLicense {
    pub(super) id: LicenseId,
    pub(super) by: u8,
    pub(super) nonce: u8,
    pub(super) kid: KeyId,
    pub(super) session: SessionId,
    pub(super) explicit: bool,
    pub(super) until_ms: Option<i64>,
    pub(super) acquired_ms: i64,
    pub(super) level: u32,
    /// What the device said about storing it, if anything.
    pub(super) stored: Option<bool>,
    pub(super) deleted: bool,
    /// Whether it was written off, although it may count for a time.
    pub(super) written_off: bool,
    pub(super) counts: bool,
}

/// What the clerk says about a challenge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    Grant,
    Repeat,
    Spent,
    NonceReused,
    Blocked,
    SessionUsed,
    OverLimit,
}

impl PaperLicense {
    pub(super) fn is_live(&self, now_ms: i64) -> bool {
        self.counts && self.until_ms.is_none_or(|until_ms| now_ms < until_ms)
    }
}

impl Paper {
    pub(super) fn slots(&self, now_ms: i64) -> BTreeSet<KeyId> {
        self.licenses.iter().filter(|l| l.is_live(now_ms)).map(|l| l.kid).collect()
    }

    pub(super) fn judge(&self, ask: &Ask, now_ms: i64) -> Verdict {
        if let Some((at_ms, content)) = self.granted.get(&(ask.identity, ask.nonce)) {
            let its = self.licenses.iter().filter(|l| (l.by, l.nonce) == (ask.identity, ask.nonce));
            let mut its = its.map(|l| l.is_live(now_ms) && !l.deleted && !l.written_off);
            return match () {
                () if *content != ask.content => Verdict::NonceReused,
                () if now_ms - at_ms > DAY_MS || its.any(|live| !live) => Verdict::Spent,
                () if self.blocked => Verdict::Spent,
                () => Verdict::Repeat,
            };
        }
        if self.blocked {
            return Verdict::Blocked;
        }
        if !ask.persistent {
            return Verdict::Grant;
        }
        let here = (ask.identity, ask.session_id());
        let acquired = self.licenses.iter().filter(|l| (l.by, l.session) == here);
        let mut used: BTreeSet<KeyId> = acquired.map(|l| l.kid).collect();
        let answered = self.answered.iter().filter(|(by, session, _)| (*by, *session) == here);
        used.extend(answered.map(|(_, _, kid)| kid));
        if ask.kids.iter().any(|kid| used.contains(kid)) {
            return Verdict::SessionUsed;
        }
        let mut slots = self.slots(now_ms);
        let before = slots.len();
        slots.extend(&ask.kids);
        let over_slots = slots.len() > before && slots.len() > SLOTS as usize;
        let crowded = ask.kids.iter().any(|kid| {
            let held = self.licenses.iter().filter(|l| l.kid == *kid && l.is_live(now_ms)).count();
            let wanted = ask.kids.iter().filter(|wanted| *wanted == kid).count();
            held + wanted > LICENSES_PER_SLOT as usize
        });
        if over_slots || crowded { Verdict::OverLimit } else { Verdict::Grant }
    }

    /// Strikes out what the rule voids.
    pub(super) fn void(&mut self, rule: Option<Voiding>, now_ms: i64) {
        let Some(rule) = rule else { return };
        let allowed_ms = rule.unconfirmed_after_seconds.map(|seconds| i64::from(seconds) * 1000);
        let open = self.licenses.iter_mut().filter(|l| l.is_live(now_ms) && !l.written_off);
        for license in open.filter(|l| l.level >= rule.min_security_level) {
            let failed = rule.store_failed && license.stored == Some(false);
            let late = allowed_ms.is_some_and(|ms| now_ms - license.acquired_ms > ms);
            if failed || (late && license.stored != Some(true)) {
                license.counts = false;
            }
        }
    }

    pub(super) fn acknowledge(&mut self, by: u8, nonce: u8, result: u32) {
        for license in self.licenses.iter_mut().filter(|l| (l.by, l.nonce) == (by, nonce)) {
            license.stored.get_or_insert(result == 0);
        }
    }

    pub(super) fn write_off(&mut self, kid: Option<KeyId>, frees_at_ms: Option<i64>, now_ms: i64) {
        let open = self.licenses.iter_mut().filter(|l| l.is_live(now_ms) && !l.written_off);
        for license in open.filter(|l| kid.is_none_or(|kid| l.kid == kid)) {
            license.written_off = true;
            match frees_at_ms {
                None => license.counts = false,
                Some(frees_at_ms) if license.until_ms.is_none_or(|ms| frees_at_ms < ms) => {
                    license.until_ms = Some(frees_at_ms);
                }
                Some(_) => {}
            }
        }
    }

    pub(super) fn grant(&mut self, ask: &Ask, ids: &[LicenseId], now_ms: i64) {
        self.granted.insert((ask.identity, ask.nonce), (now_ms, ask.content));
        for (kid, id) in ask.kids.iter().zip(ids).filter(|_| ask.persistent) {
            self.licenses.push(PaperLicense {
                id: *id,
                by: ask.identity,
                nonce: ask.nonce,
                kid: *kid,
                session: ask.session_id(),
                explicit: ask.session.is_some(),
                until_ms: ask.until_ms,
                acquired_ms: now_ms,
                level: ask.security_level,
                stored: None,
                deleted: false,
                written_off: false,
                counts: true,
            });
        }
    }

    /// Section 9.2, step by step; tells whether the session is known.
    pub(super) fn delete(&mut self, removal: &Removal, releasing: &[Grade]) -> bool {
        let by = removal.identity;
        let own = |l: &&PaperLicense| l.by == by;
        let linked = self.licenses.iter().filter(own).any(|l| l.session == removal.session);
        let here = |l: &PaperLicense| {
            l.by == by && if linked { l.session == removal.session } else { !l.explicit }
        };
        let triple = |kid: &KeyId| (by, removal.session, *kid);
        let matches = |kid: &&KeyId| {
            self.licenses.iter().any(|l| here(l) && l.kid == **kid)
                || self.answered.contains(&triple(kid))
        };
        let kids: BTreeSet<KeyId> = removal.kids.iter().filter(matches).copied().collect();
        let releases = match (linked, removal.chain_revoked) {
            (true, false) => releasing.contains(&Grade::B),
            _ => releasing.contains(&Grade::C),
        };
        for kid in &kids {
            if !self.answered.insert(triple(kid)) {
                continue;
            }
            let since = self.effective.get(&(by, *kid)).copied().unwrap_or(0);
            let issued =
                self.licenses.iter().skip(since).filter(|l| l.by == by && l.kid == *kid).count();
            if !linked && issued != 1 {
                continue;
            }
            let meant = self.licenses.iter_mut().skip(if linked { 0 } else { since });
            let mut meant: Vec<_> = meant.filter(|l| here(l) && l.kid == *kid).collect();
            meant.retain(|l| !l.deleted);
            for license in &mut meant {
                license.deleted = true;
                license.counts &= !releases;
            }
            let sessions: BTreeSet<SessionId> = meant.iter().map(|l| l.session).collect();
            if !meant.is_empty() {
                self.effective.insert((by, *kid), self.licenses.len());
            }
            // A session whose last license is gone has nothing left to delete.
            for session in sessions {
                let rest = self.licenses.iter().filter(|l| (l.by, l.kid) == (by, *kid));
                if rest.filter(|l| l.session == session).all(|l| l.deleted) {
                    self.answered.insert((by, session, *kid));
                }
            }
        }
        !kids.is_empty()
    }
}
