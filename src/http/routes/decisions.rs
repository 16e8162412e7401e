//! `POST /v1/quota/decisions`: may this device store more?

use actix_web::web;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Services, licensing_problem};
use crate::domain::{DeviceRef, KeyId};
use crate::http::auth::{Authorized, QuotaDecide};
use crate::http::problem::Problem;
use crate::licensing::Decision;

/// KIDs of one decision at most.
const KEY_IDS_MAX: usize = 1000;

/// What is asked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// Reference, identity, or the id by which the service's token names the device.
    #[schema(example = "9699fb0df62d2a38b447e2b253a736e1bcc8ba4082a8289a502c3b2c23dbee9f")]
    device: String,
    /// One persistent license each.
    #[schema(value_type = Vec<Uuid>, min_items = 1, max_items = 1000)]
    key_ids: Vec<String>,
}

/// Would these KIDs fit on this device? Records nothing
#[utoipa::path(
    post, path = "/v1/quota/decisions", operation_id = "decide_quota", tag = "quota",
    security(("api_key" = ["quota:decide"])),
    request_body = Question,
    responses((status = 200, body = Decision))
)]
pub(super) async fn decide(
    _: Authorized<QuotaDecide>,
    services: web::Data<Services>,
    question: web::Json<Question>,
) -> Result<web::Json<Decision>, Problem> {
    let key_ids = key_ids(&question.key_ids)?;
    let known = services.inventory.resolve(&question.device).map_err(Problem::internal)?;
    let device = match (known, question.device.parse::<DeviceRef>()) {
        (Some(device), _) | (None, Ok(device)) => device,
        (None, Err(_)) => services.licensing.device_of(&question.device),
    };
    let decision = services.licensing.decide(&device, &key_ids).await;
    decision.map(web::Json).map_err(licensing_problem)
}

fn key_ids(texts: &[String]) -> Result<Vec<KeyId>, Problem> {
    if texts.is_empty() || texts.len() > KEY_IDS_MAX {
        return Err(Problem::field("key_ids", format!("must name 1 to {KEY_IDS_MAX} KIDs")));
    }
    let read = |(index, text): (usize, &String)| {
        let wrong = || Problem::field(format!("key_ids[{index}]"), "must be a GUID");
        Uuid::try_parse(text).map(KeyId).map_err(|_| wrong())
    };
    texts.iter().enumerate().map(read).collect()
}
