//! `/healthz`: the process answers. `/readyz`: it can do its work.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shell;

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What has to be in order before requests make sense.
#[derive(Default)]
pub struct Readiness {
    checks: Vec<(&'static str, Check)>,
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

    /// From here on the service is not ready, so that a balancer sends its requests elsewhere.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether all is well, and the outcome of each check: `"ok"` or its reason.
    fn report(&self) -> (bool, BTreeMap<&'static str, String>) {
        let stopping = self.stopping.load(Ordering::Acquire);
        let shutdown = stopping.then(|| ("shutdown", Err("the service is stopping".to_owned())));
        let checks = self.checks.iter().map(|(name, check)| (*name, check()));
        let mut ready = true;
        let mut outcomes = BTreeMap::new();
        for (name, outcome) in shutdown.into_iter().chain(checks) {
            ready &= outcome.is_ok();
            let text = outcome.err().unwrap_or_else(|| "ok".to_owned());
            outcomes.insert(name, text);
        }
        (ready, outcomes)
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
    let (ready, checks) = shell.readiness().report();
    if ready {
        HttpResponse::Ok().json(ReadinessReport { status: "ready", checks })
    } else {
        HttpResponse::ServiceUnavailable().json(ReadinessReport { status: "not ready", checks })
    }
}
