//! Accounts: their devices, their titles, and the limits that operators set.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Serialize;
use utoipa::ToSchema;

use super::query::{counts, security_level};
use super::{Inventory, InventoryError, next_sequence};
use crate::clock::UnixMillis;
use crate::domain::event::{QuotaOverrideSet, SlotsMoved};
use crate::domain::{AccountRef, DeviceRef};
use crate::ledger::state::store::{ACCOUNT_STREAM, DEVICE_STREAM};

/// An account at a glance.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AccountSummary {
    /// The account's reference.
    #[schema(pattern = "^[a-z2-7]{26}$", example = "beb4pw6chv22zwww44tn5zxsb4")]
    pub account: String,
    /// When the ledger first heard of it.
    pub first_at: UnixMillis,
    /// When a license was last acquired for it, a device added or a limit set.
    pub last_event_at: UnixMillis,
    /// Devices that ever had a persistent license, or a reservation, at its expense. One that was
    /// merged into another, or replaced by it together with its licenses, is that other one.
    pub devices: u64,
    /// Persistent licenses acquired for it, ever.
    pub persistent_acquired: u64,
    /// Slots: devices and KIDs with a live license of the account.
    pub live_slots: u64,
    #[serde(skip)]
    first_sequence: u64,
}

/// A device of an account.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AccountDevice {
    /// The device's reference.
    #[schema(pattern = "^[a-z2-7]{26}$", example = "beb4pw6chv22zwww44tn5zxsb4")]
    pub device: String,
    /// When it first had a persistent license at the account's expense; while it never had one, a
    /// reservation. Of one that goes on for another, when the first of the two had.
    pub added_at: UnixMillis,
    /// Security level of the certificate it was first seen with, or else as other systems report it;
    /// `None` if they do not say.
    pub security_level: Option<u32>,
    /// Maker, model name and number of that certificate.
    pub model: Option<String>,
    /// KIDs of which it holds a live license of the account.
    pub live_slots: u64,
}

/// A title of an account.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AccountTitle {
    /// The title, as the service names it.
    pub title: String,
    /// Devices that hold a live license for it.
    pub devices: u64,
    /// Slots: devices and KIDs with a live license for it.
    pub live_slots: u64,
    /// Persistent licenses acquired for it, ever.
    pub persistent_acquired: u64,
}

/// A limit that an operator set for a device or an account.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LimitInForce {
    /// Id of the rule.
    pub rule: String,
    /// The limit.
    pub limit: u32,
    /// From when on the rule's own limit holds again; `null`: until it is taken back.
    pub until: Option<UnixMillis>,
    /// Who set it: the public part of an API key.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub set_at: UnixMillis,
}

/// Items of a list, and where it goes on.
#[derive(Clone, Debug)]
pub struct Listed<T, K> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins, if there is one.
    pub next: Option<K>,
    /// Sequence of the next event the inventory will apply: all before it is in the answer.
    pub next_sequence: u64,
}

impl<T, K> Listed<T, K> {
    /// Cuts `items`, of which one more than `limit` was read, to a page.
    pub(super) fn cut(
        db: &Connection,
        mut items: Vec<T>,
        limit: usize,
        key: impl Fn(&T) -> K,
    ) -> rusqlite::Result<Self> {
        let next = items.get(limit).map(key);
        items.truncate(limit);
        Ok(Self { items, next, next_sequence: next_sequence(db)? })
    }
}

/// One more than a page has, for a query.
pub(super) fn one_more(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1)
}

/// Takes note of an account.
pub(super) fn named(
    db: &Transaction<'_>,
    account: &str,
    at_ms: i64,
    sequence: u64,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO accounts VALUES (?1, ?2, ?3, ?2)
         ON CONFLICT (account) DO UPDATE SET last_event_at_ms = ?2",
    )?
    .execute(params![account, at_ms, sequence])
    .map(drop)
}

/// Takes note of a device of the account whose stream `stream` is, which has a license from here on,
/// or is `only_reserved`.
pub(super) fn slot_taken(
    db: &Transaction<'_>,
    (stream, sequence): (&str, u64),
    device: &DeviceRef,
    only_reserved: bool,
    at_ms: i64,
) -> rusqlite::Result<()> {
    let account = stream.strip_prefix(ACCOUNT_STREAM).unwrap_or_default();
    named(db, account, at_ms, sequence)?;
    db.prepare_cached(
        "INSERT INTO account_devices (account, device, added_at_ms, only_reserved, sequence)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (account, device) DO UPDATE SET added_at_ms = ?3, only_reserved = 0
         WHERE only_reserved AND NOT ?4",
    )?
    .execute(params![account, device.to_string(), at_ms, only_reserved, sequence])
    .map(drop)
}

/// Takes note that one device of the account whose stream `stream` is goes on as another one, which
/// was added when the first of the two was.
pub(super) fn slots_moved(
    db: &Transaction<'_>,
    (stream, sequence): (&str, u64),
    e: &SlotsMoved,
) -> rusqlite::Result<()> {
    let account = stream.strip_prefix(ACCOUNT_STREAM).unwrap_or_default();
    named(db, account, e.at_ms, sequence)?;
    let (from, into) = (e.from.to_string(), e.into.to_string());
    db.prepare_cached(
        "INSERT INTO account_devices (account, device, added_at_ms, only_reserved, sequence)
         SELECT account, ?3, added_at_ms, only_reserved, ?4 FROM account_devices
         WHERE account = ?1 AND device = ?2
         ON CONFLICT (account, device) DO UPDATE SET
           added_at_ms = CASE
             WHEN only_reserved = excluded.only_reserved
               THEN MIN(added_at_ms, excluded.added_at_ms)
             WHEN only_reserved THEN excluded.added_at_ms
             ELSE added_at_ms END,
           only_reserved = only_reserved AND excluded.only_reserved",
    )?
    .execute(params![account, from, into, sequence])?;
    db.prepare_cached(
        "UPDATE account_devices SET moved_sequence = ?3 WHERE account = ?1 AND device = ?2",
    )?
    .execute(params![account, from, sequence])
    .map(drop)
}

/// Takes note of a limit set, or taken back, for the device or account whose stream `stream` is.
pub(super) fn limit_set(
    db: &Transaction<'_>,
    stream: &str,
    sequence: u64,
    e: &QuotaOverrideSet,
) -> rusqlite::Result<()> {
    let device = stream.strip_prefix(DEVICE_STREAM).map(|device| (DEVICE, device));
    let account = stream.strip_prefix(ACCOUNT_STREAM).map(|account| (ACCOUNT, account));
    let Some((kind, holder)) = device.or(account) else { return Ok(()) };
    if kind == ACCOUNT {
        named(db, holder, e.at_ms, sequence)?;
    }
    let Some(limit) = e.limit else {
        let taken_back = "DELETE FROM overrides WHERE kind = ?1 AND holder = ?2 AND rule = ?3";
        return db.execute(taken_back, params![kind, holder, e.rule]).map(drop);
    };
    db.prepare_cached("INSERT OR REPLACE INTO overrides VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
        .execute(params![kind, holder, e.rule, limit, e.until_ms, e.actor, e.reason, e.at_ms])
        .map(drop)
}

/// How the table of limits names their holders.
pub(super) const DEVICE: &str = "device";
pub(super) const ACCOUNT: &str = "account";

impl Inventory {
    /// Accounts in the order they were first named, from `from` (a page's `next`) on, as long as they
    /// were first named before the event `before`.
    pub fn accounts(
        &self,
        from: u64,
        before: u64,
        limit: usize,
        now: UnixMillis,
    ) -> Result<Listed<AccountSummary, u64>, InventoryError> {
        self.read(|db| {
            let sql = format!(
                "{} WHERE first_sequence >= ?2 AND first_sequence < ?3
                 ORDER BY first_sequence LIMIT ?4",
                accounts_sql()
            );
            let [from, before] = [from, before].map(|at| i64::try_from(at).unwrap_or(i64::MAX));
            let mut query = db.prepare_cached(&sql)?;
            let rows = query.query_map(params![now.0, from, before, one_more(limit)], summary)?;
            let accounts = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            Listed::cut(db, accounts, limit, |account| account.first_sequence)
        })
    }

    /// One account, and the sequence from which on events are not in the answer.
    pub fn account(
        &self,
        account: &AccountRef,
        now: UnixMillis,
    ) -> Result<Option<(AccountSummary, u64)>, InventoryError> {
        self.read(|db| {
            let mut query = db.prepare_cached(&format!("{} WHERE account = ?2", accounts_sql()))?;
            let found = query.query_row(params![now.0, account.to_string()], summary).optional()?;
            found.map(|found| Ok((found, next_sequence(db)?))).transpose()
        })
    }

    /// Devices of an account, by reference, those after `after`, as they were before the event
    /// `before`: without those named later, and with those that go on as others since.
    pub fn account_devices(
        &self,
        account: &AccountRef,
        (after, before): (&str, u64),
        limit: usize,
        now: UnixMillis,
    ) -> Result<Listed<AccountDevice, String>, InventoryError> {
        self.read(|db| {
            let mut query = db.prepare_cached(&format!(
                "SELECT device, added_at_ms, security_level, model,
                   (SELECT COUNT(DISTINCT key_id) FROM licenses l
                    WHERE l.device = a.device AND l.account = a.account AND {}) AS live_slots
                 FROM account_devices a LEFT JOIN devices USING (device)
                 WHERE account = ?1 AND device > ?2 AND sequence < ?5
                   AND (moved_sequence IS NULL OR moved_sequence >= ?5)
                 ORDER BY device LIMIT ?3",
                counts("l", "?4")
            ))?;
            let before = i64::try_from(before).unwrap_or(i64::MAX);
            let bounds = params![account.to_string(), after, one_more(limit), now.0, before];
            let rows = query.query_map(bounds, |row| {
                Ok(AccountDevice {
                    device: row.get("device")?,
                    added_at: UnixMillis(row.get("added_at_ms")?),
                    security_level: security_level(row)?,
                    model: row.get("model")?,
                    live_slots: row.get("live_slots")?,
                })
            })?;
            let devices = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let last = devices.get(limit.saturating_sub(1)).map(|last| last.device.clone());
            Listed::cut(db, devices, limit, |_| last.clone().unwrap_or_default())
        })
    }

    /// Titles of an account, by name, those after `after`, with what was acquired of them before the
    /// event `before`.
    pub fn account_titles(
        &self,
        account: &AccountRef,
        (after, before): (&str, u64),
        limit: usize,
        now: UnixMillis,
    ) -> Result<Listed<AccountTitle, String>, InventoryError> {
        self.read(|db| {
            let mut query = db.prepare_cached(&format!(
                "SELECT title, COUNT(*) AS acquired,
                   COUNT(DISTINCT CASE WHEN live THEN device END) AS devices,
                   COUNT(DISTINCT CASE WHEN live THEN device || hex(key_id) END) AS live_slots
                 FROM (SELECT title, device, key_id, {} AS live
                   FROM licenses WHERE account = ?1 AND title > ?2 AND sequence < ?5)
                 GROUP BY title ORDER BY title LIMIT ?3",
                counts("licenses", "?4")
            ))?;
            let before = i64::try_from(before).unwrap_or(i64::MAX);
            let bounds = params![account.to_string(), after, one_more(limit), now.0, before];
            let rows = query.query_map(bounds, |row| {
                Ok(AccountTitle {
                    title: row.get("title")?,
                    devices: row.get("devices")?,
                    live_slots: row.get("live_slots")?,
                    persistent_acquired: row.get("acquired")?,
                })
            })?;
            let titles = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let last = titles.get(limit.saturating_sub(1)).map(|last| last.title.clone());
            Listed::cut(db, titles, limit, |_| last.clone().unwrap_or_default())
        })
    }

    /// The limits that operators set for a device and that are in force, by rule; and the sequence
    /// from which on events are not in the answer.
    pub fn limits_of_device(
        &self,
        device: &DeviceRef,
        now: UnixMillis,
    ) -> Result<(Vec<LimitInForce>, u64), InventoryError> {
        self.limits(DEVICE, &device.to_string(), now)
    }

    /// The same of an account.
    pub fn limits_of_account(
        &self,
        account: &AccountRef,
        now: UnixMillis,
    ) -> Result<(Vec<LimitInForce>, u64), InventoryError> {
        self.limits(ACCOUNT, &account.to_string(), now)
    }

    fn limits(
        &self,
        kind: &str,
        holder: &str,
        now: UnixMillis,
    ) -> Result<(Vec<LimitInForce>, u64), InventoryError> {
        self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT * FROM overrides WHERE kind = ?1 AND holder = ?2
                   AND (until_ms IS NULL OR until_ms > ?3) ORDER BY rule",
            )?;
            let rows = query.query_map(params![kind, holder, now.0], |row| {
                Ok(LimitInForce {
                    rule: row.get("rule")?,
                    limit: row.get("max_in_use")?,
                    until: row.get::<_, Option<i64>>("until_ms")?.map(UnixMillis),
                    actor: row.get("actor")?,
                    reason: row.get("reason")?,
                    set_at: UnixMillis(row.get("set_at_ms")?),
                })
            })?;
            Ok((rows.collect::<rusqlite::Result<Vec<_>>>()?, next_sequence(db)?))
        })
    }
}

/// Accounts as they are at the time `?1`.
fn accounts_sql() -> String {
    format!(
        "SELECT a.*,
           (SELECT COUNT(*) FROM account_devices d
            WHERE d.account = a.account AND d.moved_sequence IS NULL) AS devices,
           (SELECT COUNT(*) FROM licenses l WHERE l.account = a.account) AS acquired,
           (SELECT COUNT(DISTINCT l.device || hex(l.key_id)) FROM licenses l
            WHERE l.account = a.account AND {}) AS live_slots
         FROM accounts a",
        counts("l", "?1")
    )
}

fn summary(row: &Row<'_>) -> rusqlite::Result<AccountSummary> {
    Ok(AccountSummary {
        account: row.get("account")?,
        first_at: UnixMillis(row.get("first_at_ms")?),
        last_event_at: UnixMillis(row.get("last_event_at_ms")?),
        devices: row.get("devices")?,
        persistent_acquired: row.get("acquired")?,
        live_slots: row.get("live_slots")?,
        first_sequence: row.get("first_sequence")?,
    })
}
