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
    /// operator set a lower limit. All who are beyond it are among them, except for what reservations
    /// hold.
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
    let since_ms = now.0 - i64::from(rule.counts.window_seconds().unwrap_or_default()) * 1000;
    let (table, counted) = match rule.counts {
        // By the index alone: what has expired since is for the rule to leave out.
        Counts::LiveSlots => ("licenses", "open = 1".to_owned()),
        Counts::IssuedWithinSeconds(_) => ("licenses", format!("acquired_at_ms > {since_ms}")),
        Counts::DevicesAddedWithinSeconds(_) => {
            ("account_devices", format!("added_at_ms > {since_ms}"))
        }
    };
    let (title, by, after_place) = match rule.scope {
        Scope::Device => ("''", "device", "device > ?1 AND ?2 = ''"),
        Scope::Account => ("''", "account", "account > ?1 AND ?2 = ''"),
        Scope::AccountTitle => {
            let after = "account >= ?1 AND (account, title) > (?1, ?2) AND title IS NOT NULL";
            ("title", "account, title", after)
        }
    };
    let holder = if rule.scope == Scope::Device { "device" } else { "account" };
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
