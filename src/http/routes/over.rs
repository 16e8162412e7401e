//! Who is beyond a limit. The read model names those of whom it knows much; whether they are beyond
//! it is decided as a request of theirs would be.

use std::time::Instant;

use actix_web::web;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::policy::no_policy;
use super::{Services, end_of_ledger, licensing_problem};
use crate::domain::quota::{QuotaPolicy, QuotaRule, Scope};
use crate::domain::{AccountRef, DeviceRef};
use crate::http::page::{Cursor, Page, PageQuery, PageRequest};
use crate::http::problem::Problem;
use crate::licensing::Standing;
use crate::projections::inventory::Suspect;

/// Suspects of one rule that one answer looks into at most: keeps it within seconds.
const LOOKED_INTO_MAX: usize = 10_000;
/// Suspects that are read at once.
const STEP: usize = 500;
/// Of those beyond a rule, so many are named where a policy is published.
const NAMED: usize = 20;

/// A device, account or title of an account that is beyond the limit of a rule.
#[derive(Serialize, ToSchema)]
pub(super) struct OverLimit {
    /// The device's reference, if the rule counts devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// The account's reference, if the rule counts accounts or their titles.
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(flatten)]
    standing: Standing,
}

/// Who is beyond one rule.
#[derive(Serialize, ToSchema)]
#[schema(as = BeyondRule)]
pub(super) struct Beyond {
    /// Id of the rule.
    rule: String,
    /// How many devices, accounts or titles are beyond it.
    total: usize,
    /// Whether `total` is all there are. One answer looks into 10,000 of those who hold much, and for
    /// half of the time that a request has: of rules it does not come to, `total` is 0 and this is
    /// false. `GET /v1/quota/over` goes through all.
    complete: bool,
    /// The first 20 of them; `GET /v1/quota/over` lists all.
    first: Vec<OverLimit>,
}

/// Where a page of those beyond a limit ends.
#[derive(Serialize, Deserialize)]
pub(super) struct Place {
    version: u64,
    rule: String,
    holder: String,
    title: String,
}

/// How long to look for those beyond a rule.
#[derive(Clone, Copy)]
struct Look {
    /// Until so many are found.
    wanted: usize,
    /// Until then, if there is such a time.
    until: Option<Instant>,
}

impl Look {
    fn is_over(self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Those beyond a rule, and where to look on.
struct Found {
    over: Vec<OverLimit>,
    next: Option<Suspect>,
}

impl Services {
    /// Who is beyond which rule of a policy, in force or not, as far as that is found out in time.
    pub(super) async fn beyond(
        &self,
        policy: &QuotaPolicy,
        until: Instant,
    ) -> Result<Vec<Beyond>, Problem> {
        let look = Look { wanted: usize::MAX, until: Some(until) };
        let mut beyond = Vec::new();
        for rule in &policy.rules {
            let found = self.find_over(policy, rule, Suspect::default(), look).await?;
            let (total, complete) = (found.over.len(), found.next.is_none());
            if total > 0 || !complete {
                let first = found.over.into_iter().take(NAMED).collect();
                beyond.push(Beyond { rule: rule.id.clone(), total, complete, first });
            }
        }
        Ok(beyond)
    }

    /// A page of those beyond the rules of the policy in force, or beyond the rule `only`, in the
    /// order of the policy. It may be shorter than asked for and yet have another one after it.
    pub(super) async fn over_page(
        &self,
        query: &PageQuery,
        only: Option<&str>,
    ) -> Result<Page<OverLimit>, Problem> {
        const LIST: &str = "over";
        let PageRequest { limit, cursor } = query.parse::<Place>(LIST)?;
        let in_force = self.policies.in_force().await.map_err(licensing_problem)?;
        let in_force = in_force.ok_or_else(no_policy)?;
        let position = match &cursor {
            Some(cursor) => cursor.at.clone(),
            None => end_of_ledger(self).await?.to_string(),
        };
        let mut after = cursor.map(|cursor| cursor.after);
        if after.as_ref().is_some_and(|place| place.version != in_force.version) {
            let detail = "is of an earlier policy; start again without it";
            return Err(Problem::field("cursor", detail));
        }
        let mut items = Vec::new();
        for rule in in_force.policy.rules.iter().filter(|rule| only.is_none_or(|id| rule.id == id))
        {
            let from = match &after {
                Some(place) if place.rule != rule.id => continue,
                _ => after.take().map(|place| Suspect { holder: place.holder, title: place.title }),
            };
            let look = Look { wanted: limit - items.len(), until: None };
            let found =
                self.find_over(&in_force.policy, rule, from.unwrap_or_default(), look).await?;
            items.extend(found.over);
            if let Some(Suspect { holder, title }) = found.next {
                let rule = rule.id.clone();
                let place = Place { version: in_force.version, rule, holder, title };
                let next_cursor = Some(Cursor::new(LIST, position.clone(), place).encode()?);
                return Ok(Page { items, next_cursor, position });
            }
        }
        Ok(Page { items, next_cursor: None, position })
    }

    /// Those after `after` who are beyond `rule`, as long as `look` says.
    async fn find_over(
        &self,
        policy: &QuotaPolicy,
        rule: &QuotaRule,
        mut after: Suspect,
        look: Look,
    ) -> Result<Found, Problem> {
        let (mut over, mut looked_into) = (Vec::new(), 0);
        loop {
            if look.is_over() {
                return Ok(Found { over, next: Some(after) });
            }
            let (inventory, now) = (std::sync::Arc::clone(&self.inventory), self.clock.now());
            let (of_rule, from) = (rule.clone(), after.clone());
            let suspects = web::block(move || inventory.suspects(&of_rule, &from, STEP, now)).await;
            let suspects = suspects.map_err(Problem::internal)?.map_err(Problem::internal)?;
            let last = suspects.len() < STEP;
            for suspect in suspects {
                let enough = over.len() >= look.wanted || looked_into >= LOOKED_INTO_MAX;
                if enough || look.is_over() {
                    return Ok(Found { over, next: Some(after) });
                }
                looked_into += 1;
                over.extend(self.look_into(policy, rule, &suspect).await?);
                after = suspect;
            }
            if last {
                return Ok(Found { over, next: None });
            }
        }
    }

    /// Whether this one is beyond the rule.
    async fn look_into(
        &self,
        policy: &QuotaPolicy,
        rule: &QuotaRule,
        suspect: &Suspect,
    ) -> Result<Option<OverLimit>, Problem> {
        let Suspect { holder, title } = suspect;
        let licensing = &self.licensing;
        let (standings, device, account) = if rule.scope == Scope::Device {
            let device: DeviceRef = holder.parse().map_err(Problem::internal)?;
            (licensing.standing_of_device(&device, Some(policy)).await, Some(holder), None)
        } else {
            let account: AccountRef = holder.parse().map_err(Problem::internal)?;
            let titles = [title.as_str()];
            let standings = licensing.standing_of_account(&account, &titles, Some(policy)).await;
            (standings, None, Some(holder))
        };
        let mut standings = standings.map_err(licensing_problem)?.into_iter();
        let standing = standings.find(|standing| standing.rule == rule.id && standing.over > 0);
        let (device, account) = (device.cloned(), account.cloned());
        Ok(standing.map(|standing| OverLimit { device, account, standing }))
    }
}
