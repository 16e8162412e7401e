//! What operators say about a device: lost, blocked, another's identity, one with another.
//!
//! All under the scope `support:write`, with a reason, and under an `Idempotency-Key`. A device that
//! was given up for another stands for that one.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Services;
use super::devices::DevicePath;
use super::once::{Command, CommandKey, command_problem, respond};
use crate::domain::support::WriteOff;
use crate::domain::{DeviceRef, Identity, LicenseId, Reason};
use crate::http::auth::{Authorized, SupportWrite};
use crate::http::problem::{Case, Problem};
use crate::licensing::{
    Blocked, CommandAnswer, CommandError, Fate, Linked, Succession, SupportRefused, TakenOver,
    WrittenOff,
};

/// Longest time for which slots of licenses written off are kept from others: 366 days.
const COOLDOWN_SECONDS_MAX: u32 = 366 * 24 * 60 * 60;

/// Licenses that are lost.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WriteOffRequest)]
pub(super) struct WriteOffBody {
    /// Which; absent: all that are live on the device.
    #[schema(value_type = Option<Vec<Uuid>>, min_items = 1)]
    license_ids: Option<Vec<String>>,
    /// Why: 1 to 200 characters that name no person.
    #[schema(min_length = 1, max_length = 200, example = "lost at sea")]
    reason: String,
    /// For how long their slots stay taken; absent: not at all.
    #[schema(minimum = 1, maximum = 31622400)]
    cooldown_seconds: Option<u32>,
}

/// Why something is done.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SupportRequest)]
pub(super) struct ReasonBody {
    /// Why: 1 to 200 characters that name no person.
    #[schema(min_length = 1, max_length = 200, example = "lost at sea")]
    reason: String,
}

/// An identity of the device.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LinkRequest)]
pub(super) struct LinkBody {
    /// SHA-256 of the SIGN key of its certificate, 64 hexadecimal digits.
    #[schema(
        pattern = "^[0-9a-fA-F]{64}$",
        example = "9699fb0df62d2a38b447e2b253a736e1bcc8ba4082a8289a502c3b2c23dbee9f"
    )]
    identity: String,
    /// Why: 1 to 200 characters that name no person.
    #[schema(min_length = 1, max_length = 200, example = "lost at sea")]
    reason: String,
}

/// The device that goes on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MergeRequest)]
pub(super) struct MergeBody {
    /// Reference, identity, or the id by which the service's token names it.
    #[schema(min_length = 1, max_length = 256)]
    into: String,
    /// Why: 1 to 200 characters that name no person.
    #[schema(min_length = 1, max_length = 200, example = "lost at sea")]
    reason: String,
}

/// The device that takes the place of another.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReplaceRequest)]
pub(super) struct ReplaceBody {
    /// Reference, identity, or the id by which the service's token names it.
    #[schema(min_length = 1, max_length = 256)]
    by: String,
    /// What becomes of the licenses of the one that is replaced.
    licenses: LicensesOfReplaced,
    /// Why: 1 to 200 characters that name no person.
    #[schema(min_length = 1, max_length = 200, example = "lost at sea")]
    reason: String,
    /// For how long the slots of licenses written off stay taken; absent: not at all.
    #[schema(minimum = 1, maximum = 31622400)]
    cooldown_seconds: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum LicensesOfReplaced {
    Move,
    WriteOff,
}

/// Writes off licenses that a device lost, or all of a lost device
#[utoipa::path(
    post, path = "/v1/devices/{device}/write-off", operation_id = "write_off_licenses", tag = "support",
    security(("api_key" = ["support:write"])),
    params(DevicePath, CommandKey),
    request_body = WriteOffBody,
    responses(
        (status = 200, body = WrittenOff),
        (status = 404, description = "The ledger does not know the device"),
        (status = 409, description = "What the ledger holds does not allow it"),
    )
)]
pub(super) async fn write_off(
    caller: Authorized<SupportWrite>,
    services: web::Data<Services>,
    device: web::Path<String>,
    command: Command<WriteOffBody>,
) -> Result<HttpResponse, Problem> {
    let body = &command.body;
    let reason = reason(&body.reason)?;
    let license_ids = body.license_ids.as_deref().map(license_ids).transpose()?;
    let cooldown_ms = cooldown_ms(body.cooldown_seconds)?;
    let once = command.once(&caller)?;
    let device = services.device_named("device", &device).await?;
    let wanted = WriteOff { license_ids: license_ids.as_deref(), cooldown_ms };
    answer(services.licensing.write_off(&device, wanted, &reason, &once).await)
}

/// Gives a device no more licenses; it may still acknowledge and delete
#[utoipa::path(
    post, path = "/v1/devices/{device}/block", operation_id = "block_device", tag = "support",
    security(("api_key" = ["support:write"])),
    params(DevicePath, CommandKey),
    request_body = ReasonBody,
    responses(
        (status = 200, body = Blocked),
        (status = 404, description = "The ledger does not know the device"),
        (status = 409, description = "What the ledger holds does not allow it"),
    )
)]
pub(super) async fn block(
    caller: Authorized<SupportWrite>,
    services: web::Data<Services>,
    device: web::Path<String>,
    command: Command<ReasonBody>,
) -> Result<HttpResponse, Problem> {
    set_blocked(caller, services, &device, command, true).await
}

/// Gives a device licenses again that is blocked, or was replaced
#[utoipa::path(
    post, path = "/v1/devices/{device}/unblock", operation_id = "unblock_device", tag = "support",
    security(("api_key" = ["support:write"])),
    params(DevicePath, CommandKey),
    request_body = ReasonBody,
    responses(
        (status = 200, body = Blocked),
        (status = 404, description = "The ledger does not know the device"),
        (status = 409, description = "What the ledger holds does not allow it"),
    )
)]
pub(super) async fn unblock(
    caller: Authorized<SupportWrite>,
    services: web::Data<Services>,
    device: web::Path<String>,
    command: Command<ReasonBody>,
) -> Result<HttpResponse, Problem> {
    set_blocked(caller, services, &device, command, false).await
}

async fn set_blocked(
    caller: Authorized<SupportWrite>,
    services: web::Data<Services>,
    device: &str,
    command: Command<ReasonBody>,
    blocked: bool,
) -> Result<HttpResponse, Problem> {
    let reason = reason(&command.body.reason)?;
    let once = command.once(&caller)?;
    let device = services.device_named("device", device).await?;
    answer(services.licensing.set_blocked(&device, blocked, &reason, &once).await)
}

/// Has an identity, seen or not, belong to a device
#[utoipa::path(
    post, path = "/v1/devices/{device}/identities", operation_id = "link_identity", tag = "support",
    security(("api_key" = ["support:write"])),
    params(DevicePath, CommandKey),
    request_body = LinkBody,
    responses(
        (status = 200, body = Linked),
        (status = 404, description = "The ledger does not know the device"),
        (status = 409, description = "What the ledger holds does not allow it"),
    )
)]
pub(super) async fn link(
    caller: Authorized<SupportWrite>,
    services: web::Data<Services>,
    device: web::Path<String>,
    command: Command<LinkBody>,
) -> Result<HttpResponse, Problem> {
    let reason = reason(&command.body.reason)?;
    let identity: Identity = command
        .body
        .identity
        .parse()
        .map_err(|error: crate::domain::ids::MalformedId| wrong("identity", &error))?;
    let once = command.once(&caller)?;
    let device = services.device_named("device", &device).await?;
    answer(services.licensing.link(identity, &device, &reason, &once).await)
}

/// Two devices are one: the other goes on with all that this one has
#[utoipa::path(
    post, path = "/v1/devices/{device}/merge", operation_id = "merge_device", tag = "support",
    security(("api_key" = ["support:write"])),
    params(DevicePath, CommandKey),
    request_body = MergeBody,
    responses(
        (status = 200, body = TakenOver),
        (status = 404, description = "The ledger does not know the device"),
        (status = 409, description = "What the ledger holds does not allow it"),
    )
)]
pub(super) async fn merge(
    caller: Authorized<SupportWrite>,
    services: web::Data<Services>,
    device: web::Path<String>,
    command: Command<MergeBody>,
) -> Result<HttpResponse, Problem> {
    let reason = reason(&command.body.reason)?;
    let once = command.once(&caller)?;
    let (from, into) = services.pair(&device, ("into", &command.body.into)).await?;
    let succession = Succession { from: &from, into: &into, replaced: None };
    answer(services.licensing.succeed(succession, &reason, &once).await)
}

/// Another device takes the place of this one, whose licenses move or are written off
#[utoipa::path(
    post, path = "/v1/devices/{device}/replace", operation_id = "replace_device", tag = "support",
    security(("api_key" = ["support:write"])),
    params(DevicePath, CommandKey),
    request_body = ReplaceBody,
    responses(
        (status = 200, body = TakenOver),
        (status = 404, description = "The ledger does not know the device"),
        (status = 409, description = "What the ledger holds does not allow it"),
    )
)]
pub(super) async fn replace(
    caller: Authorized<SupportWrite>,
    services: web::Data<Services>,
    device: web::Path<String>,
    command: Command<ReplaceBody>,
) -> Result<HttpResponse, Problem> {
    let body = &command.body;
    let reason = reason(&body.reason)?;
    let cooldown_ms = cooldown_ms(body.cooldown_seconds)?;
    let fate = match body.licenses {
        LicensesOfReplaced::Move if cooldown_ms.is_some() => {
            let detail = "is for licenses that are written off; leave it out";
            return Err(Problem::field("cooldown_seconds", detail));
        }
        LicensesOfReplaced::Move => Fate::Move,
        LicensesOfReplaced::WriteOff => Fate::WriteOff { cooldown_ms },
    };
    let once = command.once(&caller)?;
    let (from, into) = services.pair(&device, ("by", &command.body.by)).await?;
    let succession = Succession { from: &from, into: &into, replaced: Some(fate) };
    answer(services.licensing.succeed(succession, &reason, &once).await)
}

impl Services {
    async fn pair(
        &self,
        from: &str,
        (field, into): (&'static str, &str),
    ) -> Result<(DeviceRef, DeviceRef), Problem> {
        Ok((self.device_named("device", from).await?, self.device_named(field, into).await?))
    }
}

fn reason(text: &str) -> Result<Reason, Problem> {
    text.parse().map_err(|error: crate::domain::InvalidReason| wrong("reason", &error))
}

fn license_ids(texts: &[String]) -> Result<Vec<LicenseId>, Problem> {
    let id = |(index, text): (usize, &String)| {
        let id = Uuid::try_parse(text).map(LicenseId);
        id.map_err(|_| Problem::field(format!("license_ids[{index}]"), "must be a UUID"))
    };
    if texts.is_empty() {
        let detail = "names no license: leave it out to write off all that are live";
        return Err(Problem::field("license_ids", detail));
    }
    texts.iter().enumerate().map(id).collect()
}

fn cooldown_ms(seconds: Option<u32>) -> Result<Option<i64>, Problem> {
    match seconds {
        Some(0) | Some(COOLDOWN_SECONDS_MAX..) if seconds != Some(COOLDOWN_SECONDS_MAX) => {
            let detail = format!("must be 1 to {COOLDOWN_SECONDS_MAX}, or be left out");
            Err(Problem::field("cooldown_seconds", detail))
        }
        seconds => Ok(seconds.map(|seconds| i64::from(seconds) * 1000)),
    }
}

fn wrong(field: &'static str, error: &dyn std::error::Error) -> Problem {
    Problem::field(field, error.to_string())
}

fn answer(
    answer: Result<CommandAnswer, CommandError<SupportRefused>>,
) -> Result<HttpResponse, Problem> {
    answer.map(respond).map_err(|error| {
        command_problem(error, |refused| {
            let case = match refused {
                SupportRefused::UnknownDevice(_) => Case::NotFound,
                _ => Case::Conflict,
            };
            Problem::new(case, refused.to_string())
        })
    })
}
