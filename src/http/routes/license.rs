//! `POST /playready/rightsmanager.asmx`: SOAP in, SOAP out.

use actix_web::http::header;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};

use super::{Services, correlation};
use crate::http::auth::bearer;
use crate::http::page::POSITION;
use crate::http::problem::{Case, Problem};
use crate::licensing::{Posted, Reply};

/// The PlayReady license acquisition protocol: one SOAP 1.1 operation in each body
///
/// `AcquireLicense`, `AcknowledgeLicense` and `ProcessDeleteLicenseData` are told apart by the body;
/// `SOAPAction` decides nothing. Signed by the device, so no API key is asked for; where `authorize`
/// is `token`, the token comes in the challenge's custom data, as `Authorization: Bearer` or in
/// `?token=`. Whatever is refused is a SOAP fault with a published status code in its detail.
#[utoipa::path(
    post, path = "/playready/rightsmanager.asmx", tag = "licenses",
    params(
        ("cfg" = Option<String>, Query, description = "In test mode, the policy string of Microsoft's test servers",
            example = "(persist:true)"),
        ("token" = Option<String>, Query, description = "The service's token"),
    ),
    request_body(content = String, content_type = "text/xml", description = "A SOAP envelope, in UTF-8"),
    responses(
        (status = 200, body = String, content_type = "text/xml", description = "The answer of the operation",
            headers(("ledger-position" = u64, description = "Reads with this `min_position` include what the answer recorded"))),
        (status = 415, description = "The body is not declared as XML in UTF-8"),
        (status = 429, description = "This device asks too often"),
        (status = 500, body = String, content_type = "text/xml", description = "A SOAP fault: the device is refused"),
    )
)]
pub(super) async fn rights_manager(
    services: web::Data<Services>,
    request: HttpRequest,
    body: web::Bytes,
) -> Result<HttpResponse, Problem> {
    require_xml(&request)?;
    let verified = match services.licensing.verify(&body) {
        Ok(verified) => verified,
        Err(reply) => return Ok(respond(reply)),
    };
    services.check_rate(&verified.identity())?;
    note_action(&request, verified.operation());
    let correlation = correlation(&request);
    let posted = Posted {
        query: request.query_string(),
        bearer: bearer(&request),
        ip: request.peer_addr().map(|peer| peer.ip()),
        correlation: &correlation,
    };
    Ok(respond(services.licensing.answer(verified, posted).await))
}

fn respond(reply: Reply) -> HttpResponse {
    let mut response = match reply.is_fault {
        true => HttpResponse::InternalServerError(),
        false => HttpResponse::Ok(),
    };
    if let Some(detail) = &reply.detail {
        tracing::info!(%detail, "answered with a fault: {detail}");
    }
    if let Some(position) = reply.position {
        response.insert_header((POSITION, position.to_string()));
    }
    response
        .insert_header((header::CONTENT_TYPE, "text/xml; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(reply.body)
}

/// `text/xml` or `application/xml`, in UTF-8.
pub(super) fn require_xml(request: &HttpRequest) -> Result<(), Problem> {
    let media_type = request.content_type().to_ascii_lowercase();
    let charset = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let charset = charset.and_then(|value| value.split_once("charset=")).map(|(_, rest)| rest);
    let charset = charset.map(|rest| rest.trim_matches(['"', ' ', ';']).to_ascii_lowercase());
    let utf8 = charset.is_none_or(|charset| matches!(charset.as_str(), "utf-8" | "utf8"));
    if utf8 && matches!(media_type.as_str(), "text/xml" | "application/xml") {
        return Ok(());
    }
    let detail = "send Content-Type: text/xml; charset=utf-8";
    Err(Problem::new(Case::UnsupportedMediaType, detail))
}

/// `SOAPAction` never decides anything; one that names another operation is worth a line.
fn note_action(request: &HttpRequest, operation: &str) {
    let action = request.headers().get("soapaction").and_then(|value| value.to_str().ok());
    let named = action.map(|action| action.trim_matches('"'));
    if named.is_some_and(|named| !named.is_empty() && !named.ends_with(operation)) {
        tracing::info!(operation, "SOAPAction names another operation than the body");
    }
}
