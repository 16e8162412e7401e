//! Figures of delivery, over all endpoints: their names are nobody's business who has no key.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::store::{Figures, Settled};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Counters and gauges. Clones share their values.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    attempts: Family<Outcome, Counter>,
    failing: Gauge,
    disabled: Gauge,
    dead_letters: Gauge,
    behind: Gauge,
}

impl Metrics {
    /// Adds the families to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "webhook_attempts",
            "Messages sent to webhook endpoints: delivered, failed, or failed for the last time",
            self.attempts.clone(),
        );
        registry.register(
            "webhook_endpoints_failing",
            "Webhook endpoints whose last attempt failed",
            self.failing.clone(),
        );
        registry.register(
            "webhook_endpoints_disabled",
            "Webhook endpoints that nothing is sent to",
            self.disabled.clone(),
        );
        registry.register(
            "webhook_dead_letters",
            "Messages that are not tried again",
            self.dead_letters.clone(),
        );
        registry.register(
            "webhook_events_behind",
            "Events that the slowest endpoint which is not disabled was not told of",
            self.behind.clone(),
        );
    }

    /// Counts a round, and shows how all endpoints stand; `folded` is the place that could be told.
    pub(super) fn settled(&self, settled: Settled, figures: Figures, folded: u64) {
        let count = |outcome, n| {
            if n > 0 {
                self.attempts.get_or_create(&Outcome { outcome }).inc_by(n);
            }
        };
        count("delivered", settled.delivered);
        count("failed", settled.failed - settled.dead);
        count("dead", settled.dead);
        self.failing.set(figures.failing);
        self.disabled.set(figures.disabled);
        self.dead_letters.set(figures.dead_letters);
        let behind = figures.slowest.map_or(0, |slowest| folded.saturating_sub(slowest));
        self.behind.set(i64::try_from(behind).unwrap_or(i64::MAX));
    }
}
