//! The quota policy: the one in force, its versions, and who is beyond it.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::over::{Beyond, OverLimit};
use super::{Services, correlation, end_of_ledger, licensing_problem};
use crate::domain::Reason;
use crate::domain::quota::QuotaPolicy;
use crate::http::Shell;
use crate::http::auth::{Authorized, InventoryRead, PolicyRead, PolicyWrite};
use crate::http::json::Json;
use crate::http::page::{Cursor, POSITION, Page, PageQuery, PageRequest};
use crate::http::problem::{Case, Problem};
use crate::licensing::{Act, PolicyVersion, PublishError};

/// What is to be published.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyRequest, example = json!({
    "reason": "two homes for every family",
    "policy": {
        "rules": [
            {"id": "device-slots", "scope": "device", "counts": "live_slots", "limit": 25,
                "on_exceed": "deny"},
            {"id": "uhd-a-day", "scope": "account", "counts": {"issued_within_seconds": 86400},
                "limit": 20, "on_exceed": {"allow_overage": 2},
                "when": {"content_groups": ["uhd"], "device_classes": ["tv"]}},
            {"id": "new-devices", "scope": "account",
                "counts": {"devices_added_within_seconds": 2592000}, "limit": 4,
                "on_exceed": "deny"},
        ],
        "licenses_per_slot": 16, "releasing_grades": ["A", "B", "C"],
        "device_classes": {"tv": ["Example TV"]},
    },
}))]
pub(super) struct Body {
    policy: QuotaPolicy,
    /// Why: 1 to 200 characters. It stays in the ledger for good, so that it must name no person.
    reason: Reason,
}

/// Parameters of a publication.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishQuery {
    /// Publish nothing, and only say who would be beyond which rule.
    #[serde(default)]
    dry_run: bool,
}

/// What a publication did, or would do.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "published": null,
    "over": [{"rule": "device-slots", "total": 1, "complete": true, "first": [{
        "device": "beb4pw6chv22zwww44tn5zxsb4", "rule": "device-slots", "scope": "device",
        "window_seconds": null, "title": null, "limit": 2, "overage": 0,
        "in_use": {"confirmed": 3, "live": 3, "possible": 3}, "over": 1, "next_free_at": null,
    }]}],
}))]
pub(super) struct Publication {
    /// The version that is in force now; `null` of a dry run.
    published: Option<PolicyVersion>,
    /// Who is beyond which rule: they keep what they hold, and get nothing more of it. Rules that
    /// nobody is beyond are left out; those that were not looked at to the end are not `complete`.
    over: Vec<Beyond>,
}

/// The quota policy in force
#[utoipa::path(
    get, path = "/v1/quota/policy", operation_id = "show_policy", tag = "quota",
    security(("api_key" = ["inventory:read"]), ("api_key" = ["policy:write"])),
    responses((status = 200, body = PolicyVersion,
        headers(("etag" = String, description = "The version, for `If-Match`"))))
)]
pub(super) async fn show(
    _: Authorized<PolicyRead>,
    services: web::Data<Services>,
) -> Result<HttpResponse, Problem> {
    let in_force = services.policies.in_force().await.map_err(licensing_problem)?;
    let in_force = in_force.ok_or_else(no_policy)?;
    Ok(HttpResponse::Ok().insert_header(etag(in_force.version)).json(in_force))
}

/// Publishes another quota policy in place of the version that `If-Match` names. Nothing that is held
/// ends by it; the answer says who is beyond which rule
#[utoipa::path(
    put, path = "/v1/quota/policy", operation_id = "publish_policy", tag = "quota",
    security(("api_key" = ["policy:write"])),
    params(
        PublishQuery,
        ("if-match" = Option<String>, Header, description = "The ETag of the policy that this one replaces, or `*`; a dry run needs none"),
    ),
    request_body = Body,
    responses(
        (status = 200, body = Publication, headers(
            ("etag" = String, description = "The new version"),
            ("ledger-position" = u64, description = "Reads with this `min_position` include it"))),
        (status = 412, description = "Another version is in force"),
        (status = 422, description = "The policy contradicts itself or cannot be meant"),
        (status = 428, description = "If-Match is missing"),
    )
)]
pub(super) async fn publish(
    caller: Authorized<PolicyWrite>,
    (services, shell): (web::Data<Services>, web::Data<Shell>),
    request: HttpRequest,
    query: web::Query<PublishQuery>,
    Json(body): Json<Body>,
) -> Result<HttpResponse, Problem> {
    let until = shell.half_time();
    let Body { policy, reason } = body;
    let after = if_match(&request)?;
    if after.is_none() && !query.dry_run {
        let detail = "send If-Match with the ETag of the policy that this one replaces, or *";
        return Err(Problem::new(Case::PreconditionRequired, detail));
    }
    let after = after.and_then(Wanted::version);
    if query.dry_run {
        let in_force = services.policies.check(&policy, after).await;
        in_force.map_err(publish_problem)?;
        let over = services.beyond(&policy, until).await?;
        return Ok(HttpResponse::Ok().json(Publication { published: None, over }));
    }
    let correlation = correlation(&request);
    let actor = caller.principal().key_id.as_str();
    let act = Act { actor, reason: &reason, correlation: &correlation };
    let published = services.policies.publish(&policy, after, act).await;
    let published = published.map_err(publish_problem)?;
    let over = services.beyond(&policy, until).await?;
    let position = (published.sequence + 1).to_string();
    Ok(HttpResponse::Ok()
        .insert_header(etag(published.version))
        .insert_header((POSITION, position))
        .json(Publication { published: Some(published), over }))
}

/// All versions of the quota policy that were ever in force, the oldest first
#[utoipa::path(
    get, path = "/v1/quota/policy/versions", operation_id = "list_policies", tag = "quota",
    security(("api_key" = ["inventory:read"]), ("api_key" = ["policy:write"])),
    params(PageQuery),
    responses((status = 200, body = Page<PolicyVersion>))
)]
pub(super) async fn versions(
    _: Authorized<PolicyRead>,
    services: web::Data<Services>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<PolicyVersion>>, Problem> {
    const LIST: &str = "policy versions";
    services.wait_for(query.min_position.as_deref()).await?;
    let end = end_of_ledger(&services).await?;
    let PageRequest { limit, cursor } = query.parse::<u64>(LIST)?;
    let (from, end) = match cursor {
        Some(cursor) => (cursor.after, cursor.at.parse().unwrap_or(end)),
        None => (0, end),
    };
    let versions = services.policies.versions(from, limit + 1).await;
    let mut items = versions.map_err(licensing_problem)?;
    items.retain(|version| version.sequence < end);
    let position = end.to_string();
    let next = items.get(limit).map(|next| next.version);
    let next = next.map(|next| Cursor::new(LIST, position.clone(), next).encode());
    items.truncate(limit);
    Ok(web::Json(Page { items, next_cursor: next.transpose()?, position }))
}

/// One version of the quota policy
#[utoipa::path(
    get, path = "/v1/quota/policy/versions/{version}", operation_id = "show_policy_version",
    tag = "quota",
    security(("api_key" = ["inventory:read"]), ("api_key" = ["policy:write"])),
    params(("version" = u64, Path, description = "The version, from 0")),
    responses(
        (status = 200, body = PolicyVersion),
        (status = 404, description = "No such version"),
    )
)]
pub(super) async fn version(
    _: Authorized<PolicyRead>,
    services: web::Data<Services>,
    version: web::Path<u64>,
) -> Result<web::Json<PolicyVersion>, Problem> {
    let found = services.policies.versions(*version, 1).await.map_err(licensing_problem)?;
    found.into_iter().next().map(web::Json).ok_or_else(no_such_version)
}

/// Parameters of the list of those who are beyond a limit.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct OverQuery {
    /// Most items to show.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Wait until the answer includes this position, which an earlier answer named.
    #[param(value_type = Option<i64>, minimum = 0)]
    min_position: Option<String>,
    /// Only those beyond this rule.
    rule: Option<String>,
}

/// Who is beyond which rule of the quota policy in force. A page may be shorter than asked for
///
/// Each page is decided when it is asked for: its items are as of then, and `position` names the
/// end of the ledger when the first page was made, which its items include.
#[utoipa::path(
    get, path = "/v1/quota/over", operation_id = "list_over", tag = "quota",
    security(("api_key" = ["inventory:read"])),
    params(OverQuery),
    responses((status = 200, body = Page<OverLimit>))
)]
pub(super) async fn over(
    _: Authorized<InventoryRead>,
    services: web::Data<Services>,
    query: web::Query<OverQuery>,
) -> Result<web::Json<Page<OverLimit>>, Problem> {
    let OverQuery { limit, cursor, min_position, rule } = query.into_inner();
    services.wait_for(min_position.as_deref()).await?;
    services.over_page(&PageQuery::new(limit, cursor), rule.as_deref()).await.map(web::Json)
}

/// What `If-Match` asks for (RFC 9110, section 13.1.1).
enum Wanted {
    Any,
    Version(u64),
}

impl Wanted {
    fn version(self) -> Option<u64> {
        match self {
            Self::Any => None,
            Self::Version(version) => Some(version),
        }
    }
}

fn if_match(request: &HttpRequest) -> Result<Option<Wanted>, Problem> {
    let Some(value) = request.headers().get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let tag = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    match (text, tag.map(str::parse)) {
        ("*", _) => Ok(Some(Wanted::Any)),
        (_, Some(Ok(version))) => Ok(Some(Wanted::Version(version))),
        _ => Err(Problem::field("If-Match", "must be one ETag of the policy, such as \"3\", or *")),
    }
}

fn etag(version: u64) -> (header::HeaderName, String) {
    (header::ETAG, format!("\"{version}\""))
}

/// The first start of a ledger publishes one.
pub(super) fn no_policy() -> Problem {
    Problem::internal("a ledger is served without a quota policy")
}

fn no_such_version() -> Problem {
    Problem::new(Case::NotFound, "the quota policy has no such version")
}

fn publish_problem(error: PublishError) -> Problem {
    match error {
        PublishError::Invalid(invalid) => {
            let member = format!("policy.{}", invalid.member());
            Problem::of_part(Case::PolicyInvalid, member, invalid.to_string())
        }
        PublishError::Superseded { .. } => {
            Problem::new(Case::PreconditionFailed, error.to_string())
        }
        PublishError::Failed(error) => licensing_problem(error),
    }
}
