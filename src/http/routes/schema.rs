//! `GET /v1/quota/policy/schema`: what a quota policy looks like.

use std::sync::OnceLock;

use actix_web::{HttpResponse, web};
use serde_json::Map;
use utoipa::{PartialSchema, ToSchema};

use crate::domain::quota::QuotaPolicy;
use crate::http::problem::Problem;

/// The JSON Schema of a quota policy. What it cannot say, such as which rules exclude each other, is
/// refused by name where a policy is published
#[utoipa::path(
    get, path = "/v1/quota/policy/schema", operation_id = "policy_schema", tag = "quota",
    responses((status = 200, body = Object, content_type = "application/schema+json"))
)]
pub(super) async fn show() -> Result<HttpResponse, Problem> {
    static TEXT: OnceLock<web::Bytes> = OnceLock::new();
    let text = match TEXT.get() {
        Some(text) => text,
        None => {
            let text = schema().map_err(Problem::internal)?;
            TEXT.get_or_init(|| text.into())
        }
    };
    Ok(HttpResponse::Ok().content_type("application/schema+json").body(text.clone()))
}

/// The schema of the type that policies are read into, complete in itself.
fn schema() -> serde_json::Result<String> {
    let mut parts = Vec::new();
    QuotaPolicy::schemas(&mut parts);
    let mut definitions = Map::new();
    for (name, part) in parts {
        definitions.insert(name, serde_json::to_value(part)?);
    }
    let mut schema = serde_json::to_value(QuotaPolicy::schema())?;
    if let Some(members) = schema.as_object_mut() {
        let dialect = "https://json-schema.org/draft/2020-12/schema";
        members.insert("$schema".to_owned(), dialect.into());
        members.insert("title".to_owned(), "QuotaPolicy".into());
        members.insert("$defs".to_owned(), definitions.into());
    }
    Ok(schema.to_string().replace("#/components/schemas/", "#/$defs/"))
}
