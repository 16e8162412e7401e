//! `POST /clearkey`: keys for the Encrypted Media Extensions of a browser.
//!
//! Pages come from the origins that the configuration allows, or from the service's own; a request
//! from another page is refused before anything is recorded, since a browser sends it all the same
//! and only keeps the answer from the page. Requests that name no origin come from no page. No
//! content type is asked for: `fetch` sends none with the message of a session.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpRequest, HttpResponse, web};

use super::once::idempotency_key;
use super::{Services, licensing_problem};
use crate::domain::{Digest, Identity};
use crate::http::RequestId;
use crate::http::auth::bearer;
use crate::http::page::POSITION;
use crate::http::problem::{Case, Problem};
use crate::licensing::{ClearKeyRefused, LicenseFormat, Posted, RequestFormat};

/// For how long a browser may remember the answer to a preflight, in seconds.
const PREFLIGHT_SECONDS: &str = "600";

/// Keys for the Encrypted Media Extensions of a browser, where the operator allows it
///
/// Answers 404 unless `clearkey.enabled` is set.
#[utoipa::path(
    post, path = "/clearkey", operation_id = "clear_key", tag = "licenses",
    params(
        ("device" = Option<String>, Query, description = "In test mode, the name of the device", example = "living-room"),
        ("cfg" = Option<String>, Query, description = "In test mode, the policy string of Microsoft's test servers"),
        ("token" = Option<String>, Query, description = "The service's token; `Authorization: Bearer` does as well"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repeat get the same licenses and record nothing",
            min_length = 1, max_length = 255, pattern = "^[!-~]+$"),
    ),
    request_body(content = RequestFormat, content_type = "application/json", description = "No content type is asked for"),
    responses(
        (status = 200, body = LicenseFormat,
            headers(("ledger-position" = u64, description = "Reads with this `min_position` include what the answer recorded"))),
        (status = 403, description = "No license for what is asked for, or the page's origin may not ask"),
        (status = 404, description = "Clear Key is not offered"),
        (status = 422, description = "The Idempotency-Key was used for another request"),
        (status = 429, description = "This device asks too often"),
    )
)]
pub(super) async fn acquire(
    services: web::Data<Services>,
    id: RequestId,
    request: HttpRequest,
    body: web::Bytes,
) -> Result<HttpResponse, Problem> {
    let posted = Posted {
        query: request.query_string(),
        bearer: bearer(&request),
        ip: request.peer_addr().map(|peer| peer.ip()),
        correlation: id.as_str(),
    };
    let key = idempotency_key(request.headers())?;
    if services.licensing.entitlement().asks_others() {
        services.check_rate(&asker(&posted))?;
    }
    let entitled = services.licensing.entitle_clear_key(&body, key, posted).await;
    let entitled = entitled.map_err(refused)?;
    services.check_rate(&entitled.identity())?;
    let license = services.licensing.answer_clear_key(entitled, id.as_str()).await;
    let license = license.map_err(refused)?;
    let mut response = HttpResponse::Ok();
    if let Some(position) = license.position {
        response.insert_header((POSITION, position.to_string()));
    }
    Ok(response
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(license.body))
}

/// Who asks, as far as that is known before anybody is asked about it: whoever has these credentials,
/// or else the address.
fn asker(posted: &Posted<'_>) -> Identity {
    let address = || posted.ip.map(|ip| ip.to_string()).unwrap_or_default();
    let named = posted.bearer.map_or_else(address, str::to_owned);
    Identity(Digest::of(format!("license-ledger clear key asker {named}").as_bytes()))
}

fn refused(refused: ClearKeyRefused) -> Problem {
    match refused {
        ClearKeyRefused::TryLater => Problem::new(Case::Overloaded, refused.to_string())
            .retry_after(std::time::Duration::from_secs(1)),
        ClearKeyRefused::Malformed(bad) => Problem::field(bad.field, bad.detail),
        ClearKeyRefused::NotLicensed(detail) => Problem::new(Case::NotLicensed, detail),
        ClearKeyRefused::KeyReused => {
            let detail = "the Idempotency-Key was used for another request; use a fresh one";
            Problem::new(Case::IdempotencyKeyReused, detail)
        }
        ClearKeyRefused::Failed(error) => licensing_problem(error),
    }
}

/// Middleware: cross-origin resource sharing, as the Fetch standard of the WHATWG has it.
pub(super) async fn cors(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let allowed = match allowed_origin(&request) {
        Ok(allowed) => allowed,
        Err(problem) => return Err(problem.into()),
    };
    let asks_first = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if request.method() == Method::OPTIONS && asks_first {
        request.into_response(preflight())
    } else {
        next.call(request).await?.map_into_boxed_body()
    };
    if let Some(origin) = allowed {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let exposed = HeaderValue::from_static("ledger-position, x-request-id");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
    Ok(response)
}

/// What `Access-Control-Allow-Origin` says; `None` without an origin, or for the service's own.
fn allowed_origin(request: &ServiceRequest) -> Result<Option<HeaderValue>, Problem> {
    let headers = request.headers();
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(None) };
    let text = origin.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let own = text.split_once("://").is_some_and(|(_, authority)| Some(authority) == host);
    let origins = request.app_data::<web::Data<Services>>();
    let origins = origins.and_then(|services| services.clearkey_origins.as_ref());
    match origins {
        _ if own => Ok(None),
        Some(origins) if origins.allow(text) => Ok(Some(origin.clone())),
        _ => Err(Problem::new(
            Case::OriginNotAllowed,
            "this page's origin may not ask; add it to clearkey.origins",
        )),
    }
}

fn preflight() -> HttpResponse {
    const ALLOWED: [(HeaderName, &str); 3] = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, idempotency-key"),
        (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS),
    ];
    let mut response = HttpResponse::NoContent();
    for allowed in ALLOWED {
        response.insert_header(allowed);
    }
    response.finish()
}
