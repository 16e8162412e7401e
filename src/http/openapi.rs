//! `GET /openapi.json`: the routes as an OpenAPI 3.1 document, put together from the code.
//!
//! A route is described at its handler by `#[utoipa::path(…)]`, which names what only this route
//! answers, and its types derive `ToSchema`. What follows from the shell is added here:
//!
//! | to | statuses |
//! |---|---|
//! | every operation | 400, 408, 413, 500, 503 |
//! | those that demand an API key | 401, 403, 429 |
//! | those that demand one and read a body | 415 |
//! | commands, which have the parameter `Idempotency-Key` | 409, 422; the header `ledger-position` |
//! | each of these and each other status from 400 on | `application/problem+json` with the codes of that status |
//! | 409, 429, 503 | the header `retry-after` |
//! | every answer | the header `x-request-id` |

use std::collections::BTreeSet;
use std::sync::OnceLock;

use actix_web::{HttpResponse, web};
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{AllOfBuilder, Components, Schema, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Header, InfoBuilder, ObjectBuilder, Ref, RefOr, Response};

use super::page::POSITION;
use super::problem::{Case, Problem};
use crate::access::Scope;

/// What every operation may answer: the shell's own refusals and failures.
const OF_THE_SHELL: &[Case] = &[
    Case::InvalidRequest,
    Case::BodyTooSlow,
    Case::BodyTooLarge,
    Case::Internal,
    Case::Overloaded,
    Case::TimedOut,
];
/// What operations that demand an API key may answer as well.
const OF_AUTHORIZATION: &[Case] = &[Case::Unauthenticated, Case::MissingScope, Case::RateLimited];

/// The parameter by which an operation is known as a command.
const COMMAND_KEY: &str = "Idempotency-Key";

const PROBLEM_JSON: &str = "application/problem+json";

const ABOUT: &str = "\
It issues licenses, takes secure deletes, and answers what devices hold and may hold.

Errors are RFC 9457 problems with a stable `code` and a `request_id`; on the SOAP path they are SOAP \
faults. Paths that are not in this document answer 404, and methods that are not answer 405 with the \
header `Allow`. Lists come in pages that are cut at one position of the ledger: pass `next_cursor` on \
as `cursor` until it is null. KIDs are GUID text, times RFC 3339 in UTC, positions whole numbers.";

/// This document
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "openapi", tag = "operation",
    responses((status = 200, body = Object))
)]
pub(super) async fn show() -> Result<HttpResponse, Problem> {
    static TEXT: OnceLock<web::Bytes> = OnceLock::new();
    let text = match TEXT.get() {
        Some(text) => text,
        None => {
            let text = document().to_json().map_err(Problem::internal)?;
            TEXT.get_or_init(|| text.into())
        }
    };
    Ok(HttpResponse::Ok().content_type("application/json").body(text.clone()))
}

/// The document of all routes.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut api = super::routes::Described::openapi();
    api.info = InfoBuilder::new()
        .title("license-ledger")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(api.info.license)
        .build();
    let components = api.components.get_or_insert_default();
    add_problems(components);
    components.add_security_scheme("api_key", api_key());
    for item in api.paths.paths.values_mut() {
        operations(item).for_each(complete);
    }
    api
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn api_key() -> SecurityScheme {
    let scopes = Scope::ALL.map(|scope| format!("`{scope}`")).join(", ");
    let mut scheme = Http::new(HttpAuthScheme::Bearer);
    scheme.description = Some(format!(
        "An API key, `llk_…`, with the scopes that the operation names. The scopes are {scopes}; \
         `admin` includes the others."
    ));
    SecurityScheme::Http(scheme)
}

/// One schema for the problems of each status: `Problem404` and so on.
fn add_problems(components: &mut Components) {
    for status in Case::ALL.map(|case| case.status().as_u16()).into_iter().collect::<BTreeSet<_>>()
    {
        let codes = cases(status).map(Case::code);
        let code = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes));
        let number = ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([status]));
        let members = ObjectBuilder::new().property("status", number).property("code", code);
        let schema = AllOfBuilder::new().item(Ref::from_schema_name("Problem")).item(members);
        components.schemas.insert(problem_name(status), Schema::from(schema).into());
    }
}

fn cases(status: u16) -> impl Iterator<Item = Case> {
    Case::ALL.into_iter().filter(move |case| case.status().as_u16() == status)
}

fn problem_name(status: impl std::fmt::Display) -> String {
    format!("Problem{status}")
}

/// Adds what an operation answers because of the shell around it.
fn complete(operation: &mut Operation) {
    let mut added = OF_THE_SHELL.to_vec();
    if operation.security.is_some() {
        added.extend(OF_AUTHORIZATION);
        added.extend(operation.request_body.is_some().then_some(Case::UnsupportedMediaType));
    }
    let is_command = operation.security.is_some()
        && operation.parameters.iter().flatten().any(
            |parameter| matches!(parameter, RefOr::T(parameter) if parameter.name == COMMAND_KEY),
        );
    if is_command {
        added.extend([Case::IdempotencyKeyInUse, Case::IdempotencyKeyReused]);
    }
    let responses = &mut operation.responses.responses;
    for case in added {
        let none = || RefOr::T(Response::default());
        let response = responses.entry(case.status().as_str().to_owned()).or_insert_with(none);
        if let RefOr::T(response) = response {
            describe(response, case.title());
        }
    }
    for (status, response) in responses {
        let (Ok(status), RefOr::T(response)) = (status.parse(), response) else { continue };
        complete_response(status, response);
        if is_command && status < 300 {
            let effect = "Reads with this `min_position` include what the answer recorded; absent if \
                          it recorded nothing";
            add_header(response, POSITION, Type::Integer, effect);
        }
    }
}

/// Adds one more reason to the description of a response.
fn describe(response: &mut Response, reason: &str) {
    if !response.description.is_empty() {
        response.description.push_str("; ");
    }
    response.description.push_str(reason);
}

fn complete_response(status: u16, response: &mut Response) {
    if response.description.is_empty() {
        describe(response, "Done");
    }
    if status >= 400 {
        let schema = Ref::from_schema_name(problem_name(status));
        let content = ContentBuilder::new().schema(Some(schema)).build();
        response.content.entry(PROBLEM_JSON.to_owned()).or_insert(RefOr::T(content));
    }
    let mut add = |name, kind, description| add_header(response, name, kind, description);
    add("x-request-id", Type::String, "Names the request in the log of the service");
    match status {
        401 => add("www-authenticate", Type::String, "`Bearer`"),
        409 => add(
            "retry-after",
            Type::Integer,
            "Seconds to wait before trying again, where the same command is being worked on",
        ),
        429 | 503 => add("retry-after", Type::Integer, "Seconds to wait before trying again"),
        _ => {}
    }
}

fn add_header(response: &mut Response, name: &str, kind: Type, description: &str) {
    let mut header = Header::new(ObjectBuilder::new().schema_type(kind).build());
    header.description = Some(description.to_owned());
    response.headers.insert(name.to_owned(), RefOr::T(header));
}
