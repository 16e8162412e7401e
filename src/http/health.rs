//! `/healthz`: the process answers. `/readyz`: it can do its work.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shell;

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;
type Lag = Box<dyn Fn() -> u64 + Send + Sync>;

/// What has to be in order before requests make sense.
#[derive(Default)]
pub struct Readiness {
    checks: Vec<(&'static str, Check)>,
    /// With the most events that each may lack.
    lags: Vec<(&'static str, u64, Lag)>,
    stopping: AtomicBool,
}

impl Readiness {
    /// Adds a named check. It returns at once, having looked at something already known; the text
    /// of its error is shown to anybody, so it holds no ids, paths or secrets.
    #[must_use]
    pub fn check(
        mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push((name, Box::new(check)));
        self
    }

    /// Adds how many events of the ledger the part `name` does not have yet. It is shown, and more than
    /// `events_max` are as a check of that name that fails. It returns at once as well.
    #[must_use]
    pub fn lag(
        mut self,
        name: &'static str,
        events_max: u64,
        behind: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.lags.push((name, events_max, Box::new(behind)));
        self
    }

    /// From here on the service is not ready, so that a balancer sends its requests elsewhere.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    fn report(&self) -> ReadinessReport {
        let stopping = self.stopping.load(Ordering::Acquire);
        let shutdown = stopping.then(|| ("shutdown", Err("the service is stopping".to_owned())));
        let checks = self.checks.iter().map(|(name, check)| (*name, check()));
        let lag: BTreeMap<_, _> =
            self.lags.iter().map(|(name, _, behind)| (*name, behind())).collect();
        let too_far = self.lags.iter().filter_map(|(name, events_max, _)| {
            let events = lag.get(name).filter(|events| *events > events_max)?;
            Some((*name, Err(format!("{events} events behind"))))
        });
        let mut outcomes: BTreeMap<&'static str, Result<(), String>> = BTreeMap::new();
        for (name, outcome) in shutdown.into_iter().chain(checks).chain(too_far) {
            // What failed first says more.
            let known = outcomes.entry(name).or_insert(Ok(()));
            *known = std::mem::replace(known, Ok(())).and(outcome);
        }
        let ready = outcomes.values().all(Result::is_ok);
        let text = |outcome: Result<(), String>| outcome.err().unwrap_or_else(|| "ok".to_owned());
        let checks = outcomes.into_iter().map(|(name, outcome)| (name, text(outcome)));
        let status = if ready { "ready" } else { "not ready" };
        ReadinessReport { status, checks: checks.collect(), lag }
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.checks.iter().map(|(name, _)| name)).finish()
    }
}

/// The process answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Alive {
    #[schema(pattern = "^ok$", example = "ok")]
    status: &'static str,
}

/// Whether requests make sense, and why not.
#[derive(Serialize, ToSchema)]
pub(super) struct ReadinessReport {
    /// `ready` or `not ready`.
    #[schema(pattern = "^(ready|not ready)$", example = "ready")]
    status: &'static str,
    /// The outcome of each check: `ok`, or what is wrong.
    #[schema(example = json!({"ledger": "ok"}))]
    checks: BTreeMap<&'static str, String>,
    /// How many events of the ledger each part does not have yet: what decides, the inventory and, in a
    /// cluster, what this process has heard of the ledger. The last is estimated.
    #[schema(example = json!({"inventory": 12, "state": 0}))]
    lag: BTreeMap<&'static str, u64>,
}

/// The process answers
#[utoipa::path(get, path = "/healthz", tag = "operation", responses((status = 200, body = Alive)))]
pub(super) async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(Alive { status: "ok" })
}

/// The service can do its work, or says what keeps it from that
#[utoipa::path(
    get, path = "/readyz", tag = "operation",
    responses((status = 200, body = ReadinessReport), (status = 503, body = ReadinessReport))
)]
pub(super) async fn readyz(shell: web::Data<Shell>) -> HttpResponse {
    let report = shell.readiness().report();
    match report.status {
        "ready" => HttpResponse::Ok().json(report),
        _ => HttpResponse::ServiceUnavailable().json(report),
    }
}
