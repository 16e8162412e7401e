//! Errors of the JSON API: RFC 9457 `application/problem+json`.
//!
//! ```json
//! {"type": "/problems/invalid-request", "title": "The request is not valid", "status": 400,
//!  "detail": "limit must be a whole number from 1 to 1000", "code": "invalid-request",
//!  "request_id": "0b6c1c0e-…", "errors": [{"field": "limit", "detail": "…"}]}
//! ```
//!
//! `code` is stable, for programs; `detail` is for people; `errors` is absent where no field is to
//! blame. Nothing of the cause of a server error is shown: it is logged under the request id.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

use super::shell::{RequestId, protect};

/// What went wrong, as a stable code. A new error is a new case and a new row in `Case::row`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Syntax, type or range of something in the request.
    InvalidRequest,
    /// No key, or none that is good.
    Unauthenticated,
    /// A good key without the scope.
    MissingScope,
    /// A page of an origin that may not ask.
    OriginNotAllowed,
    /// No license for what is asked for, or none that the client could keep to.
    NotLicensed,
    /// A request with the same `Idempotency-Key` is being worked on.
    IdempotencyKeyInUse,
    /// The `Idempotency-Key` belongs to another request.
    IdempotencyKeyReused,
    /// What the ledger holds does not allow the command.
    Conflict,
    /// The quota policy contradicts itself or cannot be meant.
    PolicyInvalid,
    /// The command has to say which version it was decided on.
    PreconditionRequired,
    /// Another version is in force than the one that the command was decided on.
    PreconditionFailed,
    /// No such resource.
    NotFound,
    /// The resource does not know this method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The body is over the limit.
    BodyTooLarge,
    /// The body has a content type that is not read here.
    UnsupportedMediaType,
    /// A packager's request for keys is read and not answered.
    KeyExchangeRefused,
    /// The caller's allowance is used up.
    RateLimited,
    /// Our fault.
    Internal,
    /// More requests at once than are worked on.
    Overloaded,
    /// The work took too long; its outcome is not known.
    TimedOut,
}

impl Case {
    /// Every case there is.
    pub(super) const ALL: [Self; 21] = [
        Self::InvalidRequest,
        Self::Unauthenticated,
        Self::MissingScope,
        Self::OriginNotAllowed,
        Self::NotLicensed,
        Self::IdempotencyKeyInUse,
        Self::IdempotencyKeyReused,
        Self::Conflict,
        Self::PolicyInvalid,
        Self::PreconditionRequired,
        Self::PreconditionFailed,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTooSlow,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::KeyExchangeRefused,
        Self::RateLimited,
        Self::Internal,
        Self::Overloaded,
        Self::TimedOut,
    ];

    /// Status, code and title of each case.
    const fn row(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::InvalidRequest => (S::BAD_REQUEST, "invalid-request", "The request is not valid"),
            Self::Unauthenticated => {
                (S::UNAUTHORIZED, "unauthenticated", "A valid API key is needed")
            }
            Self::MissingScope => (S::FORBIDDEN, "missing-scope", "The API key may not do this"),
            Self::OriginNotAllowed => {
                (S::FORBIDDEN, "origin-not-allowed", "Pages of this origin may not ask")
            }
            Self::NotLicensed => (S::FORBIDDEN, "not-licensed", "There is no license for this"),
            Self::IdempotencyKeyInUse => (
                S::CONFLICT,
                "idempotency-key-in-use",
                "A request with this Idempotency-Key is being worked on",
            ),
            Self::IdempotencyKeyReused => (
                S::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "The Idempotency-Key belongs to another request",
            ),
            Self::Conflict => {
                (S::CONFLICT, "conflict", "What the ledger holds does not allow this")
            }
            Self::PolicyInvalid => {
                (S::UNPROCESSABLE_ENTITY, "policy-invalid", "The quota policy cannot be published")
            }
            Self::PreconditionRequired => (
                S::PRECONDITION_REQUIRED,
                "precondition-required",
                "The request must say which version it changes",
            ),
            Self::PreconditionFailed => (
                S::PRECONDITION_FAILED,
                "precondition-failed",
                "Another version is in force by now",
            ),
            Self::NotFound => (S::NOT_FOUND, "not-found", "There is nothing here"),
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not offered here")
            }
            Self::BodyTooSlow => {
                (S::REQUEST_TIMEOUT, "body-too-slow", "The body arrived too slowly")
            }
            Self::BodyTooLarge => (S::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large"),
            Self::UnsupportedMediaType => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The content type is not read here",
            ),
            Self::KeyExchangeRefused => {
                (S::UNPROCESSABLE_ENTITY, "key-exchange-refused", "The key exchange is refused")
            }
            Self::RateLimited => (S::TOO_MANY_REQUESTS, "rate-limited", "Too many requests"),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "The service failed"),
            Self::Overloaded => (S::SERVICE_UNAVAILABLE, "overloaded", "The service is busy"),
            Self::TimedOut => (S::SERVICE_UNAVAILABLE, "timed-out", "The answer took too long"),
        }
    }

    /// The HTTP status.
    pub const fn status(self) -> StatusCode {
        self.row().0
    }

    /// The stable code.
    pub const fn code(self) -> &'static str {
        self.row().1
    }

    /// The case in words.
    pub(super) const fn title(self) -> &'static str {
        self.row().2
    }

    /// The case for an error that only has a status, as the HTTP library makes them.
    fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Self::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            status if status.is_client_error() => Self::InvalidRequest,
            _ => Self::Internal,
        }
    }
}

/// One field of the request that is to blame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Its name: a query parameter, or a path into the body such as `key_ids[3]`.
    pub field: Cow<'static, str>,
    /// What is wrong and what would be right.
    pub detail: Cow<'static, str>,
}

/// An error on its way to a client. Handlers return it as `Err`.
#[derive(Debug)]
pub struct Problem {
    case: Case,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
    closes: bool,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// An error as it is sent (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Body<'a> {
    /// Names the kind of error; relative to the service.
    #[schema(pattern = "^/problems/[a-z-]+$")]
    r#type: String,
    /// The kind of error in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong and what would be right, for people.
    detail: &'a str,
    /// The kind of error, for programs; stable.
    code: &'static str,
    /// Names the request in the log of the service, as the header `x-request-id` does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = uuid::Uuid, required = false)]
    request_id: Option<&'a str>,
    /// The fields that are to blame, if any.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    /// A problem of one case. `detail` is one sentence with the remedy, and shown to the client.
    pub fn new(case: Case, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            case,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            closes: false,
            cause: None,
        }
    }

    /// A request in which one field is wrong.
    pub fn field(
        field: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (field, detail) = (field.into(), detail.into());
        let mut problem = Self::new(Case::InvalidRequest, format!("{field}: {detail}"));
        problem.errors.push(FieldError { field, detail });
        problem
    }

    /// A problem of one case that one part of the request's document is to blame for.
    pub fn of_part(
        case: Case,
        field: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (field, detail) = (field.into(), detail.into());
        let mut problem = Self::new(case, detail.clone());
        problem.errors.push(FieldError { field, detail });
        problem
    }

    /// A failure of ours. The cause is logged and never shown.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Case::Internal, "the service failed; try again, and report the request id")
            .caused_by(cause)
    }

    /// Names another field that is wrong.
    #[must_use]
    pub fn and_field(
        mut self,
        field: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.errors.push(FieldError { field: field.into(), detail: detail.into() });
        self
    }

    /// Tells the client when to try again; rounded up to whole seconds.
    #[must_use]
    pub const fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Keeps what led here, for the log.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Ends the connection with the answer, because the rest of the request is not going to be
    /// read.
    #[must_use]
    pub(super) const fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    /// What kind of problem this is.
    pub const fn case(&self) -> Case {
        self.case
    }

    /// The problem behind an error of the HTTP library that is none of ours.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let case = Case::of_status(status);
        let detail = match case {
            Case::NotFound => "no resource has this path",
            Case::MethodNotAllowed => "the resource has other methods; see the header Allow",
            Case::Internal => "the service failed; try again, and report the request id",
            _ => "the request could not be read; correct it",
        };
        Self::new(case, detail)
    }

    /// The whole answer.
    pub(super) fn respond(&self, request_id: Option<&RequestId>) -> HttpResponse {
        let (status, code, title) = self.case.row();
        let body = Body {
            r#type: format!("/problems/{code}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            code,
            request_id: request_id.map(RequestId::as_str),
            errors: &self.errors,
        };
        let mut builder = HttpResponse::build(status);
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            builder.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        if status == StatusCode::UNAUTHORIZED {
            builder.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if self.closes {
            builder.force_close();
        }
        let mut response = builder.json(body);
        let problem_json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, problem_json);
        protect(response.headers_mut(), request_id);
        response
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl StdError for Problem {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_ref().map(|cause| -> &(dyn StdError + 'static) { cause.as_ref() })
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.case.status()
    }

    fn error_response(&self) -> HttpResponse {
        self.respond(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(problem: &Problem) -> serde_json::Value {
        let body =
            actix_web::body::MessageBody::try_into_bytes(problem.error_response().into_body());
        serde_json::from_slice(&body.unwrap()).unwrap()
    }

    #[test]
    fn has_the_members_of_rfc_9457_and_ours() {
        let problem = Problem::field("limit", "must be at least 1").and_field("cursor", "is torn");
        assert_eq!(
            json(&problem),
            serde_json::json!({
                "type": "/problems/invalid-request", "title": "The request is not valid",
                "status": 400, "detail": "limit: must be at least 1", "code": "invalid-request",
                "errors": [
                    {"field": "limit", "detail": "must be at least 1"},
                    {"field": "cursor", "detail": "is torn"},
                ],
            })
        );
    }

    #[test]
    fn codes_are_distinct() {
        let codes: std::collections::BTreeSet<_> =
            Case::ALL.iter().map(|case| case.code()).collect();
        assert_eq!(codes.len(), Case::ALL.len());
    }

    #[test]
    fn shows_no_cause() {
        let problem = Problem::internal("disk /srv/ledger is full");
        assert!(!json(&problem).to_string().contains("/srv/ledger"));
        assert_eq!(problem.source().unwrap().to_string(), "disk /srv/ledger is full");
    }

    #[test]
    fn rounds_the_wait_up() {
        let problem = Problem::new(Case::Overloaded, "busy");
        let wait = Duration::from_millis(1_001);
        let response = problem.retry_after(wait).error_response();
        assert_eq!(response.headers().get(header::RETRY_AFTER).unwrap(), "2");
        assert_eq!(
            response.headers().get(header::CONTENT_TYPE).unwrap(),
            "application/problem+json"
        );
    }
}
