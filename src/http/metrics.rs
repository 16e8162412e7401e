//! Figures for operators, at `/metrics` in the OpenMetrics text format.
//!
//! The page needs no key, so that any scraper can read it, and it holds nothing that a key would
//! protect: labels are methods, route patterns and statuses, never paths, ids or names. Whoever adds
//! a family keeps to that. A proxy that faces the public should not forward it.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// All families of the process. Shared by reference.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    latency: Family<RouteLabels, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("license_ledger");
        let requests = Family::default();
        registry.register("http_requests", "Requests answered", requests.clone());
        let latency = Family::new_with_constructor(latency_histogram as fn() -> Histogram);
        registry.register_with_unit(
            "http_request_duration",
            "Time from the head of a request to its answer",
            Unit::Seconds,
            latency.clone(),
        );
        let in_flight = Gauge::default();
        registry.register("http_requests_in_flight", "Requests worked on", in_flight.clone());
        Self { registry: Mutex::new(registry), requests, latency, in_flight }
    }
}

impl Metrics {
    /// Adds families. `add` registers clones of metrics that its owner keeps and counts on.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Everything, in the OpenMetrics text format.
    ///
    /// # Errors
    ///
    /// When a collector that was registered fails to encode itself.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }

    pub(super) fn answered(
        &self,
        method: &Method,
        route: &str,
        status: StatusCode,
        took: Duration,
    ) {
        let labels = RouteLabels { route: route.to_owned() };
        self.latency.get_or_create(&labels).observe(took.as_secs_f64());
        let RouteLabels { route } = labels;
        let labels = RequestLabels { method: known_method(method), route, status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
    }

    pub(super) const fn in_flight(&self) -> &Gauge {
        &self.in_flight
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A client can invent methods without end; each would be a series of its own.
fn known_method(method: &Method) -> &'static str {
    const KNOWN: [Method; 7] = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
    ];
    const NAMES: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    let known = KNOWN.iter().zip(NAMES).find(|(known, _)| *known == method);
    known.map_or("other", |(_, name)| name)
}

/// 0.5 ms to 16 s, each bucket twice the one before.
fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_method_route_and_status() {
        let metrics = Metrics::default();
        let took = Duration::from_millis(3);
        metrics.answered(&Method::GET, "/v1/devices/{id}", StatusCode::OK, took);
        metrics.answered(&Method::GET, "/v1/devices/{id}", StatusCode::OK, took);
        let text = metrics.encode().unwrap();
        let line = "license_ledger_http_requests_total{method=\"GET\",\
                    route=\"/v1/devices/{id}\",status=\"200\"} 2";
        assert!(text.contains(line), "{text}");
        let bucket = "license_ledger_http_request_duration_seconds_bucket{le=\"0.004\",\
                      route=\"/v1/devices/{id}\"} 2";
        assert!(text.contains(bucket), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn an_invented_method_makes_no_series() {
        let metrics = Metrics::default();
        let invented = Method::from_bytes(b"XYZZY").unwrap();
        metrics.answered(&invented, "unmatched", StatusCode::NOT_FOUND, Duration::ZERO);
        let text = metrics.encode().unwrap();
        assert!(text.contains("method=\"other\"") && !text.contains("XYZZY"), "{text}");
    }

    #[test]
    fn shows_families_that_others_add() {
        let metrics = Metrics::default();
        let appended: Counter = Counter::default();
        metrics.register(|registry| registry.register("events_appended", "…", appended.clone()));
        appended.inc_by(7);
        assert!(metrics.encode().unwrap().contains("license_ledger_events_appended_total 7"));
    }
}
