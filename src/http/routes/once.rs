//! Commands in JSON, each under an `Idempotency-Key`: see `licensing::once`. Their descriptions take
//! [`CommandKey`] as a parameter, and name the statuses 409 and 422.
//!
//! ```text
//! pub(super) async fn block(
//!     caller: Authorized<SupportWrite>,
//!     services: web::Data<Services>,
//!     command: Command<Body>,
//! ) -> Result<HttpResponse, Problem> {
//!     let once = command.once(&caller)?;
//!     let answer = services.licensing.block(&command.body.device, …, &once).await;
//!     answer.map(respond).map_err(|error| command_problem(error, |refused| …))
//! }
//! ```

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::licensing_problem;
use crate::http::RequestId;
use crate::http::auth::Authorized;
use crate::http::json;
use crate::http::page::POSITION;
use crate::http::problem::{Case, Problem};
use crate::licensing::{CommandAnswer, CommandError, Once};

/// The header by which a client names its command.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest `Idempotency-Key`, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// The header of a command, for its description.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)] // handlers take it from a `Command`
pub(super) struct CommandKey {
    /// Names the command: the same request under the same key takes effect once, and gets the same
    /// answer again.
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]+$",
        example = "8e03978e-40d5-43dd-bc93-6894a57f9324"
    )]
    idempotency_key: String,
}

/// The same where it is not always needed.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)] // handlers take it from a `Command`
pub(super) struct MaybeCommandKey {
    /// Names the command: the same request under the same key takes effect once, and gets the same
    /// answer again.
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]+$",
        example = "8e03978e-40d5-43dd-bc93-6894a57f9324"
    )]
    idempotency_key: Option<String>,
}

/// A command as it came. An empty body stands for `{}`.
pub(super) struct Command<T> {
    /// What is asked.
    pub(super) body: T,
    request: HttpRequest,
    bytes: web::Bytes,
}

impl<T> Command<T> {
    /// Names the command, which needs an `Idempotency-Key`.
    pub(super) fn once<S>(&self, caller: &Authorized<S>) -> Result<Once, Problem> {
        let Self { request, bytes, .. } = self;
        let key = idempotency_key(request.headers())?.ok_or_else(|| {
            let detail = "is missing: send a fresh UUID with each command, and the same again to \
                          repeat it";
            Problem::field("Idempotency-Key", detail)
        })?;
        let client = caller.principal().key_id.as_str();
        let path = request.uri().path_and_query().map(|path| path.as_str()).unwrap_or_default();
        let digest = Once::request_digest(request.method().as_str(), path, bytes);
        let once = Once::new(client, key, digest, RequestId::of(request)?.as_str());
        once.map_err(licensing_problem)
    }
}

impl<T: DeserializeOwned> FromRequest for Command<T> {
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = web::Bytes::from_request(request, payload);
        let request = request.clone();
        Box::pin(async move {
            let bytes = bytes.await?;
            let body = if bytes.is_empty() {
                json::parse(b"{}")?
            } else {
                json::check_type(&request)?;
                json::parse(&bytes)?
            };
            Ok(Self { body, request, bytes })
        })
    }
}

/// The `Idempotency-Key` of a request, if it has one: 1 to 255 visible ASCII characters, taken as
/// they stand.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY);
    let Some(value) = values.next() else { return Ok(None) };
    let fits = |bytes: &[u8]| {
        (1..=KEY_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    let text = value.to_str().ok().filter(|text| fits(text.as_bytes()) && values.next().is_none());
    let wrong = format!("must come once and be 1 to {KEY_BYTES_MAX} visible ASCII characters");
    text.map(Some).ok_or_else(|| Problem::field("Idempotency-Key", wrong))
}

/// The answer to a command, byte for byte as it is remembered.
pub(super) fn respond(answer: CommandAnswer) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = HttpResponse::build(status);
    if let Some(position) = answer.position {
        response.insert_header((POSITION, position.to_string()));
    }
    if answer.body.is_empty() {
        return response.finish();
    }
    response.insert_header((header::CONTENT_TYPE, "application/json")).body(answer.body)
}

/// Why a command did nothing, as a problem; `refused` words its own refusals.
pub(super) fn command_problem<R>(
    error: CommandError<R>,
    refused: impl FnOnce(R) -> Problem,
) -> Problem {
    match error {
        CommandError::KeyInUse => {
            let detail = "a request with this Idempotency-Key is being worked on; repeat it in a \
                          moment to get its answer";
            Problem::new(Case::IdempotencyKeyInUse, detail)
                .retry_after(std::time::Duration::from_secs(1))
        }
        CommandError::KeyReused => {
            let detail = "the Idempotency-Key was used for another method, path or body; use a \
                          fresh one";
            Problem::new(Case::IdempotencyKeyReused, detail)
        }
        CommandError::Refused(reason) => refused(reason),
        CommandError::Failed(error) => licensing_problem(error),
    }
}
