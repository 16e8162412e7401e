//! The outer shell: everything around a request that is not the request's own business.
//!
//! # A request in a straight line
//!
//! 1. `connection` ends connections whose client stalls; [`server`] caps how many there are.
//! 2. `shell` gives the request an id, reads its body within bounds (`body`), takes one of the
//!    places for requests in flight or answers 503, and sets a time limit.
//! 3. The route's handler asks for an [`auth::Authorized`] caller and calls one use case.
//! 4. `shell` turns whatever went wrong, a panic included, into a [`problem::Problem`] with the
//!    request id, adds security headers, counts and logs.
//!
//! # Adding a route
//!
//! Routes are installed by the function given to [`Server::start`]:
//!
//! ```no_run
//! use actix_web::web;
//! use license_ledger::http::auth::{Authorized, QuotaDecide};
//! use license_ledger::http::problem::Problem;
//!
//! async fn decide(_: Authorized<QuotaDecide>) -> Result<web::Json<u32>, Problem> {
//!     Ok(web::Json(25))
//! }
//!
//! fn routes(config: &mut web::ServiceConfig) {
//!     config.service(web::resource("/v1/quota/decisions").route(web::post().to(decide)));
//! }
//! ```
//!
//! [`json::Json`], `web::Query`, `web::Path` and `web::Bytes` answer with problems when they fail.
//! Unknown paths and methods do so as well, the latter with the header `Allow`.
//!
//! Every route is described at its handler, for [`openapi`]:
//!
//! ```ignore
//! /// Would these licenses fit on this device? Records nothing
//! #[utoipa::path(
//!     post, path = "/v1/quota/decisions", operation_id = "decide_quota", tag = "quota",
//!     security(("api_key" = ["quota:decide"])),
//!     request_body = Body,
//!     responses((status = 200, body = Decision), (status = 404, description = "No such account"))
//! )]
//! ```
//!
//! The types derive `ToSchema` or, for parameters, `IntoParams`, with limits, patterns and examples in
//! `#[schema(…)]` and `#[param(…)]`. A status from 400 on needs only a description, and those that the
//! shell and the authorization answer are added by themselves. Then the handler is named twice in
//! [`routes`]: where its path is registered, and in the list of what is described. Tests fail when one
//! of the two is missing, when the scope is another than the handler's, and when any answer that they
//! get is not as described.

pub mod auth;
mod body;
mod connection;
pub mod health;
pub mod json;
pub mod metrics;
pub mod openapi;
pub mod page;
pub mod problem;
pub mod routes;
pub mod server;
mod shell;

pub use server::{Running, Server, StartError, StopHandle};
pub use shell::RequestId;

use std::sync::Arc;
use std::time::Instant;

use actix_web::error::QueryPayloadError;
use actix_web::{HttpResponse, web};

use crate::access::{ApiKeyId, RateLimiter, Registry};
use crate::config::Config;
use health::Readiness;
use metrics::Metrics;
use problem::{Case, Problem};
use shell::Places;

/// What every request meets, shared by all threads.
#[derive(Debug)]
pub struct Shell {
    access: Arc<Registry>,
    rate: RateLimiter<ApiKeyId>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    places: Places,
    limits: crate::config::Limits,
}

impl Shell {
    /// Puts the shell together from the limits and rates of `config`.
    pub fn new(
        config: &Config,
        access: Arc<Registry>,
        metrics: Arc<Metrics>,
        readiness: Readiness,
    ) -> Self {
        let rate = RateLimiter::new(config.rate.per_key_per_minute, config.rate.per_key_burst);
        let places = Places::new(config.limits.in_flight);
        Self { access, rate, metrics, readiness, places, limits: config.limits.clone() }
    }

    fn access(&self) -> &Registry {
        &self.access
    }

    const fn rate(&self) -> &RateLimiter<ApiKeyId> {
        &self.rate
    }

    /// Until when a request that begins at this moment may look for what its answer can do without:
    /// half of the time that it has.
    fn half_time(&self) -> Instant {
        Instant::now() + self.limits.request_timeout() / 2
    }

    const fn readiness(&self) -> &Readiness {
        &self.readiness
    }
}

/// The routes of the shell itself, and what extractors answer when they fail.
fn install(config: &mut web::ServiceConfig, limits: &crate::config::Limits) {
    config
        .app_data(web::PayloadConfig::new(limits.body_bytes))
        .app_data(web::QueryConfig::default().error_handler(bad_query))
        .app_data(web::PathConfig::default().error_handler(bad_path))
        .service(web::resource(HEALTHZ).route(web::get().to(health::healthz)))
        .service(web::resource(READYZ).route(web::get().to(health::readyz)))
        .service(web::resource("/openapi.json").route(web::get().to(openapi::show)))
        .service(web::resource("/metrics").route(web::get().to(show_metrics)));
}

/// Figures of the service, in the OpenMetrics text format
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "operation",
    responses((status = 200, content_type = "application/openmetrics-text", body = String))
)]
async fn show_metrics(shell: web::Data<Shell>) -> Result<HttpResponse, Problem> {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = shell.metrics.encode().map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().content_type(OPEN_METRICS).body(text))
}

// The reason that the library gives names fields of what the caller itself sent.
fn bad_query(error: QueryPayloadError, _: &actix_web::HttpRequest) -> actix_web::Error {
    Problem::new(Case::InvalidRequest, format!("the query is not valid: {error}")).into()
}

fn bad_path(_: actix_web::error::PathError, _: &actix_web::HttpRequest) -> actix_web::Error {
    Problem::new(Case::NotFound, "no resource has this path").into()
}

const HEALTHZ: &str = "/healthz";
const READYZ: &str = "/readyz";
