//! Limits for one device or account in place of those of the policy's rules. A device that was given up
//! for another stands for that one.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Services;
use super::accounts::AccountPath;
use super::devices::{DevicePath, ReadQuery};
use super::once::{Command, CommandKey, command_problem, respond};
use super::reservations::Nothing;
use crate::clock::UnixMillis;
use crate::domain::Reason;
use crate::http::auth::{Authorized, PolicyRead, PolicyWrite};
use crate::http::problem::{Case, Problem};
use crate::licensing::{CommandError, Holder, LimitSet, OverrideRefused};
use crate::projections::inventory::LimitInForce;

/// A limit to be set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LimitRequest)]
pub(super) struct Body {
    /// The most that may be in use.
    limit: u32,
    /// From when on the rule's own limit holds again, RFC 3339; without it, when it is taken back.
    #[schema(format = DateTime, example = "2026-12-31T00:00:00Z")]
    until: Option<String>,
    /// Why: 1 to 200 characters. It stays in the ledger for good, so that it must name no person.
    reason: Reason,
}

/// Why a limit is taken back.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct TakeBackQuery {
    /// Why: 1 to 200 characters. It stays in the ledger for good, so that it must name no person.
    #[param(value_type = String, min_length = 1, max_length = 200)]
    reason: Reason,
}

/// The rule in a path, for its description.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)] // handlers take the text itself
struct RulePath {
    /// Id of a rule of the policy in force.
    #[param(example = "device-slots")]
    rule: String,
}

/// The limits of a device or account that are in force.
#[derive(Serialize, ToSchema)]
pub(super) struct Limits {
    items: Vec<LimitInForce>,
    /// Position in the ledger that the answer includes.
    #[schema(pattern = "^[0-9]+$", example = "7")]
    position: String,
}

/// Limits set for a device in place of those of rules, by rule
#[utoipa::path(
    get, path = "/v1/devices/{device}/overrides", operation_id = "list_device_overrides", tag = "quota",
    security(("api_key" = ["inventory:read"]), ("api_key" = ["policy:write"])),
    params(DevicePath, ReadQuery),
    responses(
        (status = 200, body = Limits),
        (status = 404, description = "No such device"),
    )
)]
pub(super) async fn of_device(
    _: Authorized<PolicyRead>,
    services: web::Data<Services>,
    device: web::Path<String>,
    query: web::Query<ReadQuery>,
) -> Result<web::Json<Limits>, Problem> {
    services.wait_for(query.min_position.as_deref()).await?;
    let device = services.find_device(&device)?;
    let device = services.inventory.goes_on_as(&device).map_err(Problem::internal)?;
    let limits = services.inventory.limits_of_device(&device, services.clock.now());
    let (items, next_sequence) = limits.map_err(Problem::internal)?;
    Ok(web::Json(Limits { items, position: next_sequence.to_string() }))
}

/// Limits set for an account in place of those of rules, by rule
#[utoipa::path(
    get, path = "/v1/accounts/{account}/overrides", operation_id = "list_account_overrides", tag = "quota",
    security(("api_key" = ["inventory:read"]), ("api_key" = ["policy:write"])),
    params(AccountPath, ReadQuery),
    responses(
        (status = 200, body = Limits),
    )
)]
pub(super) async fn of_account(
    _: Authorized<PolicyRead>,
    services: web::Data<Services>,
    account: web::Path<String>,
    query: web::Query<ReadQuery>,
) -> Result<web::Json<Limits>, Problem> {
    services.wait_for(query.min_position.as_deref()).await?;
    let account = services.account_named(&account)?;
    let limits = services.inventory.limits_of_account(&account, services.clock.now());
    let (items, next_sequence) = limits.map_err(Problem::internal)?;
    Ok(web::Json(Limits { items, position: next_sequence.to_string() }))
}

/// Sets a limit for a device in place of the rule's own
#[utoipa::path(
    put, path = "/v1/devices/{device}/overrides/{rule}", operation_id = "set_device_override", tag = "quota",
    security(("api_key" = ["policy:write"])),
    params(DevicePath, RulePath, CommandKey),
    request_body = Body,
    responses(
        (status = 200, body = LimitSet, headers(("ledger-position" = u64,
            description = "Reads with this `min_position` include it"))),
        (status = 404, description = "No such device"),
    )
)]
pub(super) async fn set_for_device(
    caller: Authorized<PolicyWrite>,
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    command: Command<Body>,
) -> Result<HttpResponse, Problem> {
    let (device, rule) = path.into_inner();
    let holder = Holder::Device(services.device_named("device", &device).await?);
    services.set_limit(&caller, &holder, rule, command).await
}

/// Sets a limit for an account, seen or not, in place of the rule's own
#[utoipa::path(
    put, path = "/v1/accounts/{account}/overrides/{rule}", operation_id = "set_account_override", tag = "quota",
    security(("api_key" = ["policy:write"])),
    params(AccountPath, RulePath, CommandKey),
    request_body = Body,
    responses(
        (status = 200, body = LimitSet, headers(("ledger-position" = u64,
            description = "Reads with this `min_position` include it"))),
    )
)]
pub(super) async fn set_for_account(
    caller: Authorized<PolicyWrite>,
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    command: Command<Body>,
) -> Result<HttpResponse, Problem> {
    let (account, rule) = path.into_inner();
    let holder = Holder::Account(services.account_named(&account)?);
    services.set_limit(&caller, &holder, rule, command).await
}

/// Takes a device's limit back, if it has one
#[utoipa::path(
    delete, path = "/v1/devices/{device}/overrides/{rule}", operation_id = "take_back_device_override",
    tag = "quota",
    security(("api_key" = ["policy:write"])),
    params(DevicePath, RulePath, TakeBackQuery, CommandKey),
    responses(
        (status = 204, description = "The rule's own limit holds", headers(("ledger-position" = u64,
            description = "Reads with this `min_position` include it"))),
        (status = 404, description = "No such device"),
    )
)]
pub(super) async fn take_back_from_device(
    caller: Authorized<PolicyWrite>,
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    query: web::Query<TakeBackQuery>,
    command: Command<Nothing>,
) -> Result<HttpResponse, Problem> {
    let (device, rule) = path.into_inner();
    let holder = Holder::Device(services.device_named("device", &device).await?);
    services.take_limit_back(&caller, &holder, &rule, (&query.reason, command)).await
}

/// Takes an account's limit back, if it has one
#[utoipa::path(
    delete, path = "/v1/accounts/{account}/overrides/{rule}", operation_id = "take_back_account_override",
    tag = "quota",
    security(("api_key" = ["policy:write"])),
    params(AccountPath, RulePath, TakeBackQuery, CommandKey),
    responses(
        (status = 204, description = "The rule's own limit holds", headers(("ledger-position" = u64,
            description = "Reads with this `min_position` include it"))),
    )
)]
pub(super) async fn take_back_from_account(
    caller: Authorized<PolicyWrite>,
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    query: web::Query<TakeBackQuery>,
    command: Command<Nothing>,
) -> Result<HttpResponse, Problem> {
    let (account, rule) = path.into_inner();
    let holder = Holder::Account(services.account_named(&account)?);
    services.take_limit_back(&caller, &holder, &rule, (&query.reason, command)).await
}

impl Services {
    async fn set_limit(
        &self,
        caller: &Authorized<PolicyWrite>,
        holder: &Holder,
        rule: String,
        command: Command<Body>,
    ) -> Result<HttpResponse, Problem> {
        let once = command.once(caller)?;
        let Body { limit, until, reason } = command.body;
        let until = until.as_deref().map(str::parse::<UnixMillis>).transpose();
        let until = until.map_err(|error| Problem::field("until", error.to_string()))?;
        let wanted = LimitSet { rule, limit, until };
        let answer = self.licensing.set_limit(holder, &wanted, &reason, &once).await;
        answer.map(respond).map_err(refused_problem)
    }

    async fn take_limit_back(
        &self,
        caller: &Authorized<PolicyWrite>,
        holder: &Holder,
        rule: &str,
        (reason, command): (&Reason, Command<Nothing>),
    ) -> Result<HttpResponse, Problem> {
        let once = command.once(caller)?;
        let answer = self.licensing.take_limit_back(holder, rule, reason, &once).await;
        answer.map(respond).map_err(refused_problem)
    }
}

fn refused_problem(error: CommandError<OverrideRefused>) -> Problem {
    command_problem(error, |refused| {
        let field = match refused {
            OverrideRefused::UnknownDevice => {
                return Problem::new(Case::NotFound, "no such device in the ledger");
            }
            OverrideRefused::BeyondMemory => "limit",
            OverrideRefused::Past => "until",
            OverrideRefused::NoSuchRule { .. }
            | OverrideRefused::OtherScope { .. }
            | OverrideRefused::TooMany => "rule",
        };
        Problem::field(field, refused.to_string())
    })
}
