//! Around every request: id, body, place, time limit, panics, headers, figures, log line.

use std::fmt;
use std::future::{Ready, ready};
use std::hash::{BuildHasher, RandomState};
use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse, web};
use futures_util::FutureExt;
use tracing::Instrument;

use super::connection::Activity;
use super::problem::{Case, Problem};
use super::{HEALTHZ, READYZ, Shell, body};

/// Names one request in its answer, its problem and its log lines. Made here, never taken from the
/// client, so that nobody can write into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the request at hand.
    pub(super) fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let id = request.extensions().get::<Self>().cloned();
        id.ok_or_else(|| Problem::internal("the routes were installed without their shell"))
    }

    /// A keyed hash of a count, for less than asking the system for random bytes each time takes: it
    /// does not show how many requests there are. Nothing is decided by it.
    fn fresh() -> Self {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let half = |which: u8| KEY.hash_one((number, which)).to_be_bytes();
        let mut bytes = [0; 16];
        let halves = half(0).into_iter().chain(half(1));
        bytes.iter_mut().zip(halves).for_each(|(byte, random)| *byte = random);
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string())
    }
}

/// For handlers whose answers are no problems and have to name the request themselves.
impl FromRequest for RequestId {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The places for requests in flight.
#[derive(Debug)]
pub(super) struct Places {
    taken: AtomicUsize,
    most: usize,
}

impl Places {
    pub(super) const fn new(most: usize) -> Self {
        Self { taken: AtomicUsize::new(0), most }
    }

    /// Takes a place until the returned value is dropped. `None`: all are taken.
    fn take(shell: &Shell) -> Option<Place<'_>> {
        let places = &shell.places;
        let place = Place(shell);
        shell.metrics.in_flight().inc();
        // Where it was one too many, dropping `place` gives it back.
        (places.taken.fetch_add(1, Ordering::AcqRel) < places.most).then_some(place)
    }
}

struct Place<'a>(&'a Shell);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.places.taken.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.in_flight().dec();
    }
}

/// The middleware around all routes.
pub(super) async fn around(
    shell: web::Data<Shell>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let started = Instant::now();
    let _working = request.conn_data::<Activity>().map(Activity::begin);
    let id = RequestId::fresh();
    request.extensions_mut().insert(id.clone());
    let method = request.method().clone();
    // The pattern, not the path: paths hold ids, and there are few patterns.
    let route = request.match_pattern().unwrap_or_else(|| "unmatched".to_owned());
    let span = tracing::info_span!("request", request_id = id.as_str());
    let outcome = serve(&shell, request, next).instrument(span.clone()).await;
    let _entered = span.entered();
    let (status, answer) = match outcome {
        Ok(response) => {
            let response = finish(response, &id);
            (response.status(), Ok(response))
        }
        Err(error) => {
            let response = render(&error, &id);
            (response.status(), Err(InternalError::from_response(error, response).into()))
        }
    };
    let took = started.elapsed();
    shell.metrics.answered(&method, &route, status, took);
    log_answer(&id, &method, &route, status, took);
    answer
}

/// Reads the body, then lets the routes answer within the bounds.
async fn serve(
    shell: &Shell,
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let body = body::read(request.take_payload(), request.headers(), &shell.limits).await?;
    let (_, mut payload) = actix_http::h1::Payload::create(true);
    payload.unread_data(body);
    request.set_payload(Payload::from(payload));

    // A probe has to tell an overloaded service from a dead one.
    let exempt = matches!(request.path(), HEALTHZ | READYZ);
    let place = if exempt { None } else { Some(Places::take(shell).ok_or_else(overloaded)?) };
    let call = AssertUnwindSafe(async move { next.call(request).await }).catch_unwind();
    let answer = tokio::time::timeout(shell.limits.request_timeout(), call).await;
    drop(place);
    match answer {
        Err(_) => Err(timed_out().into()),
        Ok(Err(_)) => Err(Problem::internal("a handler panicked").into()),
        Ok(Ok(answer)) => Ok(answer?.map_into_boxed_body()),
    }
}

/// Headers that routes set on errors as well: which methods there are, and who may read the answer.
const KEPT: [HeaderName; 4] = [
    header::ALLOW,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::VARY,
];

/// Adds the headers of every answer, and gives errors their final form.
fn finish(mut response: ServiceResponse, id: &RequestId) -> ServiceResponse {
    protect(response.headers_mut(), Some(id));
    let answer = response.response();
    let failed = answer.status().is_client_error() || answer.status().is_server_error();
    let mut rendered = match answer.error() {
        Some(error) => render(error, id),
        // Where the library refuses without a word.
        None if failed && !answer.headers().contains_key(header::CONTENT_TYPE) => {
            Problem::of_status(answer.status()).respond(Some(id))
        }
        None => return response,
    };
    for name in KEPT {
        if let Some(value) = answer.headers().get(&name) {
            rendered.headers_mut().insert(name, value.clone());
        }
    }
    response.into_response(rendered)
}

/// The problem document of an error, with the request id; whatever is no [`Problem`] becomes one.
fn render(error: &actix_web::Error, id: &RequestId) -> HttpResponse {
    if let Some(problem) = error.as_error::<Problem>() {
        log_failure(problem, id);
        return problem.respond(Some(id));
    }
    let problem = Problem::of_status(error.as_response_error().status_code());
    let problem = problem.caused_by(error.to_string());
    log_failure(&problem, id);
    problem.respond(Some(id))
}

/// Headers of every answer. A handler's own `Cache-Control` and policy stay.
pub(super) fn protect(headers: &mut HeaderMap, id: Option<&RequestId>) {
    const DEFAULTS: [(HeaderName, &str); 4] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in DEFAULTS {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    if let Some(id) = id.and_then(|id| HeaderValue::from_str(id.as_str()).ok()) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
}

fn overloaded() -> Problem {
    Problem::new(Case::Overloaded, "too many requests are being worked on; try again in a second")
        .retry_after(Duration::from_secs(1))
}

fn timed_out() -> Problem {
    let detail = "the answer took too long and its outcome is not known; repeat the same request";
    Problem::new(Case::TimedOut, detail).retry_after(Duration::from_secs(1))
}

/// Server errors reach the log here, once, with their cause.
fn log_failure(problem: &Problem, id: &RequestId) {
    if problem.case().status().is_server_error() {
        let cause = std::error::Error::source(problem).map(tracing::field::display);
        let code = problem.case().code();
        tracing::error!(request_id = id.as_str(), code, cause, "request {id} failed: {code}");
    }
}

fn log_answer(id: &RequestId, method: &Method, route: &str, status: StatusCode, took: Duration) {
    tracing::debug!(
        request_id = id.as_str(),
        %method,
        route,
        status = status.as_u16(),
        took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        "request {id} answered {status}"
    );
}
