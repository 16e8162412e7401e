//! Who may be beyond a limit. Whether they are is for the rule itself to say.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::accounts::{ACCOUNT, DEVICE};
use super::{Inventory, InventoryError};
use crate::clock::UnixMillis;
use crate::domain::quota::{Counts, QuotaRule, Scope};

/// A device or account, and the title where titles are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Suspect {
    /// The reference.
    pub holder: String,
    /// The title; empty where the rule counts no titles.
    pub title: String,
}

impl Inventory {
    /// Those after `after`, at most `limit`, of whom more is known than `rule` allows, or for whom an
    /// operator set a lower limit. All who are beyond it are among them.
    pub fn suspects(
        &self,
        rule: &QuotaRule,
        after: &Suspect,
        limit: usize,
        now: UnixMillis,
    ) -> Result<Vec<Suspect>, InventoryError> {
        self.read(|db| {
            let mut suspects = beyond(db, rule, after, limit, now)?;
            suspects.extend(with_lower_limit(db, rule, after, limit)?);
            suspects.extend(with_reservations(db, rule, after, limit, now)?);
            suspects.extend(going_on_for_others(db, rule, after, limit, now)?);
            Ok(suspects.into_iter().take(limit).collect())
        })
    }
}

fn beyond(
    db: &Connection,
    rule: &QuotaRule,
    after: &Suspect,
    limit: usize,
    now: UnixMillis,
) -> rusqlite::Result<BTreeSet<Suspect>> {
    let counted = counted(rule, now);
    let table = match rule.counts {
        Counts::LiveSlots | Counts::IssuedWithinSeconds(_) => "licenses",
        Counts::DevicesAddedWithinSeconds(_) => "account_devices",
    };
    let (title, by, after_place) = match rule.scope {
        Scope::Device => ("''", "device", "device > ?1 AND ?2 = ''"),
        Scope::Account => ("''", "account", "account > ?1 AND ?2 = ''"),
        Scope::AccountTitle => {
            let after = "account >= ?1 AND (account, title) > (?1, ?2) AND title IS NOT NULL";
            ("title", "account, title", after)
        }
    };
    let holder = holder(rule);
    let sql = format!(
        "SELECT {holder}, {title} FROM {table} WHERE {after_place} AND {counted}
         GROUP BY {by} HAVING COUNT(*) > ?3 ORDER BY {by} LIMIT ?4"
    );
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut query = db.prepare(&sql)?;
    let rows = query.query_map(params![after.holder, after.title, rule.limit, most], |row| {
        Ok(Suspect { holder: row.get(0)?, title: row.get(1)? })
    })?;
    rows.collect()
}

/// Which rows a rule counts.
fn counted(rule: &QuotaRule, now: UnixMillis) -> String {
    let since_ms = now.0 - i64::from(rule.counts.window_seconds().unwrap_or_default()) * 1000;
    match rule.counts {
        // By the index alone: what has expired since is for the rule to leave out.
        Counts::LiveSlots => "open = 1".to_owned(),
        Counts::IssuedWithinSeconds(_) => format!("acquired_at_ms > {since_ms}"),
        Counts::DevicesAddedWithinSeconds(_) => {
            format!("added_at_ms > {since_ms} AND moved_sequence IS NULL")
        }
    }
}

/// The column that names the holder.
fn holder(rule: &QuotaRule) -> &'static str {
    if rule.scope == Scope::Device { "device" } else { "account" }
}

/// Those whose reservations come on top of what they hold.
fn with_reservations(
    db: &Connection,
    rule: &QuotaRule,
    after: &Suspect,
    limit: usize,
    now: UnixMillis,
) -> rusqlite::Result<Vec<Suspect>> {
    if let Counts::DevicesAddedWithinSeconds(_) = rule.counts {
        return Ok(Vec::new());
    }
    let (holder, counted) = (holder(rule), counted(rule, now));
    let (title, of_title) = match rule.scope {
        Scope::AccountTitle => ("title", "AND l.title = r.title"),
        Scope::Device | Scope::Account => ("''", ""),
    };
    let sql = format!(
        "SELECT r.holder, r.title FROM (
           SELECT {holder} AS holder, {title} AS title, COUNT(*) AS slots FROM reserved
           WHERE expires_at_ms > ?5 AND {holder} IS NOT NULL AND {title} IS NOT NULL
           GROUP BY 1, 2) r
         WHERE (r.holder, r.title) > (?1, ?2) AND ?3 < r.slots +
           (SELECT COUNT(*) FROM licenses l WHERE l.{holder} = r.holder {of_title} AND {counted})
         ORDER BY 1, 2 LIMIT ?4"
    );
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut query = db.prepare(&sql)?;
    let bounds = params![after.holder, after.title, rule.limit, most, now.0];
    let rows =
        query.query_map(bounds, |row| Ok(Suspect { holder: row.get(0)?, title: row.get(1)? }))?;
    rows.collect()
}

fn with_lower_limit(
    db: &Connection,
    rule: &QuotaRule,
    after: &Suspect,
    limit: usize,
) -> rusqlite::Result<Vec<Suspect>> {
    let kind = if rule.scope == Scope::Device { DEVICE } else { ACCOUNT };
    let sql = match rule.scope {
        Scope::Device | Scope::Account => {
            "SELECT holder, '' FROM overrides
             WHERE kind = ?1 AND rule = ?2 AND max_in_use < ?3 AND (holder, '') > (?4, ?5)
             ORDER BY 1, 2 LIMIT ?6"
        }
        Scope::AccountTitle => {
            "SELECT DISTINCT holder, title FROM overrides JOIN licenses ON account = holder
             WHERE kind = ?1 AND rule = ?2 AND max_in_use < ?3 AND (holder, title) > (?4, ?5)
               AND title IS NOT NULL
             ORDER BY 1, 2 LIMIT ?6"
        }
    };
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut query = db.prepare_cached(sql)?;
    let bounds = params![kind, rule.id, rule.limit, after.holder, after.title, most];
    let rows =
        query.query_map(bounds, |row| Ok(Suspect { holder: row.get(0)?, title: row.get(1)? }))?;
    rows.collect()
}

/// Devices that took over within the window of a rule what others had been issued: what was given
/// back for good is listed under the others still.
fn going_on_for_others(
    db: &Connection,
    rule: &QuotaRule,
    after: &Suspect,
    limit: usize,
    now: UnixMillis,
) -> rusqlite::Result<Vec<Suspect>> {
    let (Scope::Device, Counts::IssuedWithinSeconds(seconds)) = (rule.scope, rule.counts) else {
        return Ok(Vec::new());
    };
    let since_ms = now.0 - i64::from(seconds) * 1000;
    let mut query = db.prepare_cached(
        "SELECT DISTINCT successor FROM devices
         WHERE successor_how IN ('merged', 'moved') AND successor_at_ms > ?1 AND successor > ?2
         ORDER BY 1 LIMIT ?3",
    )?;
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query.query_map(params![since_ms, after.holder, most], |row| {
        Ok(Suspect { holder: row.get(0)?, title: String::new() })
    })?;
    rows.collect()
}
