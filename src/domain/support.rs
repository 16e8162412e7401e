//! What support decides: licenses are given up, devices blocked, joined and replaced.
//!
//! None of it asks the quotas: what an operator says is so. Two devices that become one may hold more
//! than a rule allows; nothing ends because of that, and what is new is refused.

use std::collections::BTreeSet;

use super::device::Device;
use super::event::{DeviceBlock, DeviceTookOver, LicenseWrittenOff};
use super::ids::{DeviceRef, LicenseId};
use super::reason::Reason;

/// Licenses and reservations that a device can hand over at most: they are in one event.
pub const HANDED_OVER_MAX: usize = 4096;

/// Accounts that can pay for what a device hands over: each gets an event of the same append.
const ACCOUNTS_MAX: usize = 1000;

/// Who does something, and why.
#[derive(Clone, Copy, Debug)]
pub struct Act<'a> {
    /// The public part of an API key, or `cli`.
    pub actor: &'a str,
    /// Why.
    pub reason: &'a Reason,
}

/// More than one command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} {what} are more than the {most} that one command takes")]
pub struct TooMany {
    /// Of what.
    pub what: &'static str,
    /// How many there are.
    pub found: usize,
    /// How many it takes.
    pub most: usize,
}

/// Licenses to write off.
#[derive(Clone, Copy, Debug)]
pub struct WriteOff<'a> {
    /// Which; `None`: all that are live.
    pub license_ids: Option<&'a [LicenseId]>,
    /// For how long their slots are not given to others; `None`: not at all.
    pub cooldown_ms: Option<i64>,
}

impl Act<'_> {
    /// The body of an event that blocks or unblocks a device.
    pub fn block(&self, at_ms: i64) -> DeviceBlock {
        DeviceBlock { actor: self.actor.to_owned(), reason: self.reason.as_str().to_owned(), at_ms }
    }
}

impl Device {
    /// The licenses that are to be written off, as events, and the ids named of which the device has
    /// no live license, or one that was written off before.
    pub fn write_off(
        &self,
        command: WriteOff<'_>,
        act: Act<'_>,
        now_ms: i64,
    ) -> (Vec<LicenseWrittenOff>, Vec<LicenseId>) {
        let named = command.license_ids.map(|ids| ids.iter().copied().collect::<BTreeSet<_>>());
        let chosen = |id: &LicenseId| named.as_ref().is_none_or(|named| named.contains(id));
        let written_off: Vec<_> = self
            .not_written_off(now_ms)
            .filter(|(_, license_id)| chosen(license_id))
            .map(|(key_id, license_id)| LicenseWrittenOff {
                license_id,
                key_id,
                actor: act.actor.to_owned(),
                reason: act.reason.as_str().to_owned(),
                frees_at_ms: command.cooldown_ms.map(|ms| now_ms.saturating_add(ms)),
                at_ms: now_ms,
            })
            .collect();
        let mut not_live = named.unwrap_or_default();
        for license in &written_off {
            not_live.remove(&license.license_id);
        }
        (written_off, not_live.into_iter().collect())
    }

    /// The event by which another device takes over all that this one has, called `from`.
    pub fn hand_over(
        &self,
        from: &DeviceRef,
        replaces: bool,
        act: Act<'_>,
        now_ms: i64,
    ) -> Result<DeviceTookOver, TooMany> {
        let belongings = self.belongings(now_ms);
        if belongings.licenses.len() > HANDED_OVER_MAX {
            let found = belongings.licenses.len();
            return Err(TooMany { what: "licenses", found, most: HANDED_OVER_MAX });
        }
        if belongings.accounts.len() > ACCOUNTS_MAX {
            let found = belongings.accounts.len();
            return Err(TooMany { what: "paying accounts", found, most: ACCOUNTS_MAX });
        }
        Ok(DeviceTookOver {
            from: from.clone(),
            replaces,
            accounts: belongings.accounts,
            licenses: belongings.licenses,
            issued: belongings.issued,
            doubtful: belongings.doubtful,
            limits: belongings.limits,
            ended: belongings.ended,
            actor: act.actor.to_owned(),
            reason: act.reason.as_str().to_owned(),
            at_ms: now_ms,
        })
    }
}
