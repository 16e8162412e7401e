//! `/healthz`: the process answers. `/readyz`: it can do its work.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::{HttpResponse, web};
use serde_json::{Map, Value, json};

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
    fn report(&self) -> (bool, Map<String, Value>) {
        let stopping = self.stopping.load(Ordering::Acquire);
        let shutdown = stopping.then(|| ("shutdown", Err("the service is stopping".to_owned())));
        let checks = self.checks.iter().map(|(name, check)| (*name, check()));
        let mut ready = true;
        let mut outcomes = Map::new();
        for (name, outcome) in shutdown.into_iter().chain(checks) {
            ready &= outcome.is_ok();
            let text = outcome.err().unwrap_or_else(|| "ok".to_owned());
            outcomes.insert(name.to_owned(), Value::String(text));
        }
        (ready, outcomes)
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.checks.iter().map(|(name, _)| name)).finish()
    }
}

/// `GET /healthz`
pub(super) async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

/// `GET /readyz`: 200, or 503 with the reason of each check that failed.
pub(super) async fn readyz(shell: web::Data<Shell>) -> HttpResponse {
    let (ready, checks) = shell.readiness().report();
    if ready {
        HttpResponse::Ok().json(json!({"status": "ready", "checks": checks}))
    } else {
        HttpResponse::ServiceUnavailable().json(json!({"status": "not ready", "checks": checks}))
    }
}
