//! Keys and headers for packagers.

use std::collections::HashMap;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use uuid::Uuid;

use super::license::require_xml;
use super::{Services, licensing_problem};
use crate::access::Scope;
use crate::domain::KeyId;
use crate::http::auth::{Authorized, KeysDeliver};
use crate::http::problem::{Case, Problem};
use crate::licensing::{RegisterError, Unknown};
use crate::packaging::acquire::{PackagingFault, PackagingRequest};
use crate::packaging::cpix::{self, ExchangeError, SPEKE_VERSION};
use crate::packaging::{Headers, PackagerError, Scheme};

/// KIDs of one request for headers: an object holds no more.
const KEY_IDS_MAX: usize = 100;
const SPEKE_HEADER: &str = "x-speke-version";
/// Who answers, as SPEKE wants it said.
const USER_AGENT: &str = concat!("license-ledger/", env!("CARGO_PKG_VERSION"));

/// Content headers for these KIDs, in each version that can hold them
#[utoipa::path(
    get, path = "/v1/headers", operation_id = "content_headers", tag = "packaging",
    security(("api_key" = ["keys:deliver"])),
    params(
        ("kid" = Vec<Uuid>, Query, description = "KIDs, each once; the parameter comes once for each",
            min_items = 1, max_items = 100, explode,
            example = json!(["01234567-89ab-cdef-0123-456789abcdef"])),
        ("scheme" = Option<String>, Query, description = "Protection scheme: cenc or cbcs; by default the one that the keys are recorded for, or else cenc",
            pattern = "^(cenc|cbcs)$"),
    ),
    responses((status = 200, body = Headers))
)]
pub(super) async fn headers(
    _: Authorized<KeysDeliver>,
    services: web::Data<Services>,
    query: web::Query<Vec<(String, String)>>,
) -> Result<web::Json<Headers>, Problem> {
    let (mut keys, mut scheme) = (Vec::new(), None);
    for (name, value) in query.into_inner() {
        match name.as_str() {
            "kid" => {
                let wrong = || Problem::field("kid", "must be a GUID");
                let key_id = Uuid::try_parse(&value).map_err(|_| wrong())?;
                if keys.iter().any(|(known, _)| *known == key_id) {
                    return Err(Problem::field("kid", format!("{key_id} comes twice")));
                }
                keys.push((key_id, services.registry.registered_key(KeyId(key_id))));
            }
            "scheme" => {
                let wrong = || Problem::field("scheme", "must be cenc or cbcs");
                scheme = Some(Scheme::from_name(&value).ok_or_else(wrong)?);
            }
            other => return Err(Problem::field(other.to_owned(), "is no parameter of this path")),
        }
    }
    if keys.is_empty() || keys.len() > KEY_IDS_MAX {
        return Err(Problem::field("kid", format!("must be given 1 to {KEY_IDS_MAX} times")));
    }
    let key_ids: Vec<_> = keys.iter().map(|(key_id, _)| *key_id).collect();
    let scheme = scheme_of(&key_ids, scheme, &services).await?;
    let headers = services.packager.headers(&keys, scheme);
    headers.map(web::Json).map_err(|error| Problem::field("kid", error.to_string()))
}

/// The scheme of headers for these keys: the one that is asked for, or else the one that they are
/// recorded for, or else `cenc`.
async fn scheme_of(
    key_ids: &[Uuid],
    asked: Option<Scheme>,
    services: &Services,
) -> Result<Scheme, Problem> {
    let mut chosen = asked;
    for key_id in key_ids {
        let recorded = services.registry.key_type(KeyId(*key_id)).await;
        let Some(recorded) = recorded.map_err(licensing_problem)?.map(Scheme::of) else { continue };
        let scheme = *chosen.get_or_insert(recorded);
        if scheme != recorded {
            let (recorded, scheme) = (recorded.name(), scheme.name());
            let detail = format!("the key of {key_id} is for {recorded} and not for {scheme}");
            return Err(Problem::field(if asked.is_some() { "scheme" } else { "kid" }, detail));
        }
    }
    Ok(chosen.unwrap_or(Scheme::Cenc))
}

/// Key exchange by CPIX 2.3 in the profile of SPEKE v2
///
/// With the scope `keys:write` as well, keys are made for KIDs that have none.
#[utoipa::path(
    post, path = "/v1/speke/v2", operation_id = "exchange_keys", tag = "packaging",
    security(("api_key" = ["keys:deliver"])),
    params(("x-speke-version" = String, Header, pattern = "^2\\.0$", example = "2.0")),
    request_body(content = String, content_type = "application/xml", description = "A CPIX document"),
    responses(
        (status = 200, body = String, content_type = "application/xml", description = "The document with keys"),
        (status = 422, description = "The document asks for what is not given, or its answer could not be read"),
    )
)]
pub(super) async fn speke(
    caller: Authorized<KeysDeliver>,
    services: web::Data<Services>,
    request: HttpRequest,
    body: web::Bytes,
) -> Result<HttpResponse, Problem> {
    require_xml(&request)?;
    let version = request.headers().get(SPEKE_HEADER).and_then(|value| value.to_str().ok());
    let exchange = cpix::Request::read(version, &body).map_err(exchange_problem)?;
    let delivered = services.packager.delivery(&exchange).map_err(|error| match error {
        PackagerError::Exchange(error) => exchange_problem(error),
        PackagerError::Trust(error) => Problem::internal(error),
    })?;
    let key_type = exchange.scheme().key_type();
    let wanted: Vec<_> = exchange.key_ids().map(|key_id| (KeyId(key_id), key_type)).collect();
    let unknown = match caller.principal().may(Scope::KeysWrite) {
        true => Unknown::Create,
        false => Unknown::Refuse,
    };
    let api_key = caller.principal().key_id.as_str();
    let keys = services.registry.keys_for(wanted, unknown, format!("api-key {api_key}")).await;
    let keys: HashMap<_, _> =
        keys.map_err(key_problem)?.into_iter().map(|(key_id, key)| (key_id.0, key)).collect();
    let answer = exchange.answer(&keys, &delivered, services.packager.license_url());
    let answer = answer.map_err(exchange_problem)?;
    tracing::info!(api_key, keys = keys.len(), "gave content keys to a packager");
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/xml; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((SPEKE_HEADER, SPEKE_VERSION))
        .insert_header(("x-speke-user-agent", USER_AGENT))
        .body(answer))
}

/// `AcquirePackagingData`, on the packagers' listener only: SOAP in, SOAP out.
pub(super) async fn acquire(
    caller: Authorized<KeysDeliver>,
    services: web::Data<Services>,
    request: HttpRequest,
    body: web::Bytes,
) -> Result<HttpResponse, Problem> {
    require_xml(&request)?;
    let api_key = caller.principal().key_id.as_str();
    let (mut response, body) = match packaging_data(&services, &body, api_key).await {
        Ok(answer) => (HttpResponse::Ok(), answer),
        Err(fault) => {
            tracing::info!(%fault, "answered a packager with a fault: {fault}");
            (HttpResponse::InternalServerError(), fault.render())
        }
    };
    Ok(response
        .insert_header((header::CONTENT_TYPE, "text/xml; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(body))
}

async fn packaging_data(
    services: &Services,
    body: &[u8],
    api_key: &str,
) -> Result<Vec<u8>, PackagingFault> {
    let request = PackagingRequest::read(body)?;
    let mut wanted = Vec::new();
    for key_id in request.key_ids().into_iter().map(KeyId) {
        let recorded = services.registry.key_type(key_id).await;
        let recorded = recorded.map_err(PackagingFault::internal)?;
        wanted.push((key_id, recorded.unwrap_or(Scheme::Cenc.key_type())));
    }
    let types: HashMap<_, _> = wanted.iter().copied().collect();
    let actor = format!("api-key {api_key}");
    let keys = services.registry.keys_for(wanted, Unknown::Refuse, actor).await;
    let keys = keys.map_err(|error| match error {
        RegisterError::UnknownKey(key_id) => PackagingFault::unknown_key(key_id.0),
        RegisterError::Root(_) => PackagingFault::root_key(),
        other => PackagingFault::internal(other),
    })?;
    let keys = keys.into_iter().map(|(key_id, key)| {
        let scheme = types.get(&key_id).map_or(Scheme::Cenc, |key_type| Scheme::of(*key_type));
        (key_id.0, (key, scheme))
    });
    let keys: HashMap<_, _> = keys.collect();
    let answer = request.answer(&keys, services.packager.license_url())?;
    tracing::info!(api_key, keys = keys.len(), "gave content keys to a packager");
    Ok(answer)
}

fn exchange_problem(error: ExchangeError) -> Problem {
    if error.is_internal() {
        return Problem::internal(error);
    }
    Problem::of_part(Case::KeyExchangeRefused, error.field(), error.to_string())
}

fn key_problem(error: RegisterError) -> Problem {
    match error {
        RegisterError::UnknownKey(key_id) => Problem::of_part(
            Case::KeyExchangeRefused,
            "ContentKey@kid",
            format!(
                "{key_id} has no content key; import one, or use an API key that also has the \
                 scope {}",
                Scope::KeysWrite
            ),
        ),
        RegisterError::TypeDiffers { .. } => Problem::of_part(
            Case::KeyExchangeRefused,
            "ContentKey@commonEncryptionScheme",
            error.to_string(),
        ),
        RegisterError::Root(_) => {
            Problem::of_part(Case::KeyExchangeRefused, "ContentKey@kid", error.to_string())
        }
        RegisterError::Failed(error) => licensing_problem(error),
        other => Problem::internal(other),
    }
}
