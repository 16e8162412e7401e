//! Licenses that other systems issued: what they report of them.

use actix_web::{HttpResponse, web};
use data_encoding::BASE64;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Services;
use super::names::check_name;
use super::once::{Command, CommandKey, command_problem, respond};
use crate::clock::UnixMillis;
use crate::domain::device::elsewhere::{ReportRefused, Which};
use crate::domain::event::Grade;
use crate::domain::{KeyId, LicenseId};
use crate::http::auth::{Authorized, LicensesWrite};
use crate::http::problem::{Case, Problem};
use crate::licensing::{IssuedElsewhere, IssuedLicense, RecordedLicenses, RecordedWord, Told};

/// Licenses of one report at most.
const LICENSES_MAX: usize = 100;
/// Length of the longest name of a DRM system, in bytes.
const SYSTEM_BYTES_MAX: usize = 64;

/// Licenses that another system issued.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "device": "tv-17", "account": "family-3", "drm_system": "widevine", "security_level": 3000,
    "model": "Example TV 1", "occurred_at": "2026-11-22T17:35:47Z",
    "licenses": [{"key_id": "01234567-89ab-cdef-0123-456789abcdef", "license_reference": "wv-77",
        "persistent": true, "counted_until": "2026-12-22T17:35:47Z", "title": "movie-7"}],
}))]
pub(super) struct Acquisition {
    /// Reference, identity, or the id by which the service's token names the device.
    #[schema(min_length = 1, max_length = 256)]
    device: String,
    /// The account that pays, by reference or by the service's id; else that of the reservation,
    /// also if it has expired or is used up.
    #[schema(min_length = 1, max_length = 256)]
    account: Option<String>,
    /// The system that issued them, for example `widevine`.
    #[schema(pattern = "^[a-z0-9-]{1,64}$", example = "widevine")]
    drm_system: String,
    /// Security level of the device, as the policy's conditions mean it.
    security_level: Option<u32>,
    /// Maker, model name and number of the device.
    #[schema(min_length = 1, max_length = 256)]
    model: Option<String>,
    /// The reservation that held room for them; as far as it has ended, they are recorded without,
    /// at the expense of its account. The last 64 of a device are remembered: where an older one,
    /// or one that never was, has to say who pays, the report is refused.
    reservation_id: Option<Uuid>,
    #[schema(min_items = 1, max_items = 100)]
    licenses: Vec<AcquiredLicense>,
    /// What shows that it is so: `B` (the device signed it), `C` (signed, but not linked to what it is
    /// about), `D` (the word of an operator or an app, which is taken for granted if nothing is said)
    /// to `E` (inferred). It is recorded and shown; what counts does not depend on it.
    #[schema(value_type = Option<String>, pattern = "^[B-E]$", default = "D")]
    grade: Option<Grade>,
    /// When it happened, by the reporter's word.
    #[schema(value_type = Option<String>, format = DateTime)]
    occurred_at: Option<UnixMillis>,
    /// The message that the other system got, to be kept; base64.
    #[schema(content_encoding = "base64")]
    message: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AcquiredLicense {
    key_id: Uuid,
    /// How its system names it.
    #[schema(min_length = 1, max_length = 256)]
    license_reference: String,
    persistent: bool,
    /// From when on it does not count; without it, until its end is reported.
    #[schema(value_type = Option<String>, format = DateTime)]
    counted_until: Option<UnixMillis>,
    #[schema(min_length = 1, max_length = 256)]
    title: Option<String>,
    #[schema(min_length = 1, max_length = 256)]
    content_group: Option<String>,
}

/// Whether a device stored licenses that another system issued.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "device": "tv-17",
    "grade": "B",
    "licenses": [{"drm_system": "widevine", "license_reference": "wv-77", "stored": true}],
}))]
pub(super) struct Acknowledgement {
    /// Reference, identity, or the id by which the service's token names the device.
    #[schema(min_length = 1, max_length = 256)]
    device: String,
    #[schema(min_items = 1, max_items = 100)]
    licenses: Vec<AcknowledgedLicense>,
    /// What shows that it is so: `B` (the device signed it), `C` (signed, but not linked to what it is
    /// about), `D` (the word of an operator or an app, which is taken for granted if nothing is said)
    /// to `E` (inferred). It is recorded and shown; what counts does not depend on it.
    #[schema(value_type = Option<String>, pattern = "^[B-E]$", default = "D")]
    grade: Option<Grade>,
    /// When it happened, by the reporter's word.
    #[schema(value_type = Option<String>, format = DateTime)]
    occurred_at: Option<UnixMillis>,
    /// The message that the other system got, to be kept; base64.
    #[schema(content_encoding = "base64")]
    message: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AcknowledgedLicense {
    /// The license, as this ledger names it; either this or the two names below.
    license_id: Option<Uuid>,
    #[schema(pattern = "^[a-z0-9-]{1,64}$")]
    drm_system: Option<String>,
    #[schema(min_length = 1, max_length = 256)]
    license_reference: Option<String>,
    stored: bool,
}

/// Licenses that another system issued and the device deleted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "device": "tv-17", "grade": "B",
    "licenses": [{"drm_system": "widevine", "license_reference": "wv-77"}],
}))]
pub(super) struct Deletion {
    /// Reference, identity, or the id by which the service's token names the device.
    #[schema(min_length = 1, max_length = 256)]
    device: String,
    #[schema(min_items = 1, max_items = 100)]
    licenses: Vec<DeletedLicense>,
    /// What the deletion proves: `B` (signed) to `E` (inferred).
    #[schema(value_type = String, pattern = "^[B-E]$")]
    grade: Grade,
    /// When it happened, by the reporter's word.
    #[schema(value_type = Option<String>, format = DateTime)]
    occurred_at: Option<UnixMillis>,
    /// The message that the other system got, to be kept; base64.
    #[schema(content_encoding = "base64")]
    message: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeletedLicense {
    /// The license, as this ledger names it; either this or the two names below.
    license_id: Option<Uuid>,
    #[schema(pattern = "^[a-z0-9-]{1,64}$")]
    drm_system: Option<String>,
    #[schema(min_length = 1, max_length = 256)]
    license_reference: Option<String>,
}

/// Record licenses that another system issued, also beyond a limit
#[utoipa::path(
    post, path = "/v1/acquisitions", operation_id = "record_acquisition", tag = "licenses",
    security(("api_key" = ["licenses:write"])),
    params(CommandKey),
    request_body = Acquisition,
    responses(
        (status = 200, description = "What was recorded", body = RecordedLicenses),
        (status = 409, description = "A license of this reference is held already, or nobody is \
            known to pay for a reservation that has ended"),
    )
)]
pub(super) async fn acquired(
    caller: Authorized<LicensesWrite>,
    services: web::Data<Services>,
    command: Command<Acquisition>,
) -> Result<HttpResponse, Problem> {
    let once = command.once(&caller)?;
    let report = &command.body;
    let told = told(report.grade, report.occurred_at, report.message.as_deref())?;
    check_count(report.licenses.len())?;
    check_system(&report.drm_system, || "drm_system".to_owned())?;
    check_name(report.model.as_deref(), || "model".to_owned())?;
    let device = services.device_named("device", &report.device).await?;
    let account = services.payer_named(report.account.as_deref())?;
    let licenses = report.licenses.iter().enumerate().map(AcquiredLicense::issued);
    let issued = IssuedElsewhere {
        device: &device,
        account: account.as_ref(),
        drm_system: &report.drm_system,
        security_level: report.security_level,
        model: report.model.as_deref().unwrap_or_default(),
        reservation_id: report.reservation_id,
        licenses: licenses.collect::<Result<_, _>>()?,
    };
    let answer = services.licensing.record_licenses(&issued, &told, &once).await;
    answer.map(respond).map_err(|error| command_problem(error, refused))
}

/// Record whether a device stored licenses that another system issued
#[utoipa::path(
    post, path = "/v1/acknowledgements", operation_id = "record_acknowledgement", tag = "licenses",
    security(("api_key" = ["licenses:write"])),
    params(CommandKey),
    request_body = Acknowledgement,
    responses(
        (status = 200, description = "What was recorded", body = RecordedWord),
        (status = 404, description = "The device holds no such license, and held none lately"),
        (status = 409, description = "This service issued the license"),
    )
)]
pub(super) async fn acknowledged(
    caller: Authorized<LicensesWrite>,
    services: web::Data<Services>,
    command: Command<Acknowledgement>,
) -> Result<HttpResponse, Problem> {
    let once = command.once(&caller)?;
    let report = &command.body;
    let told = told(report.grade, report.occurred_at, report.message.as_deref())?;
    check_count(report.licenses.len())?;
    let device = services.device_named("device", &report.device).await?;
    let results = report.licenses.iter().enumerate().map(|(place, license)| {
        let names = (license.drm_system.as_deref(), license.license_reference.as_deref());
        Ok((which(place, license.license_id, names)?, license.stored))
    });
    let results = results.collect::<Result<Vec<_>, Problem>>()?;
    let answer = services.licensing.record_storage(&device, &results, &told, &once).await;
    answer.map(respond).map_err(|error| command_problem(error, refused))
}

/// Record that a device deleted licenses that another system issued, also when they have ended by then
///
/// Of each license a report is recorded if its grade is better than those before, or if it ends it.
#[utoipa::path(
    post, path = "/v1/deletions", operation_id = "record_deletion", tag = "licenses",
    security(("api_key" = ["licenses:write"])),
    params(CommandKey),
    request_body = Deletion,
    responses(
        (status = 200, description = "What was recorded", body = RecordedWord),
        (status = 404, description = "The device holds no such license, and held none lately"),
        (status = 409, description = "This service issued the license"),
    )
)]
pub(super) async fn deleted(
    caller: Authorized<LicensesWrite>,
    services: web::Data<Services>,
    command: Command<Deletion>,
) -> Result<HttpResponse, Problem> {
    let once = command.once(&caller)?;
    let report = &command.body;
    let grade = Some(report.grade);
    let told = told(grade, report.occurred_at, report.message.as_deref())?;
    check_count(report.licenses.len())?;
    let device = services.device_named("device", &report.device).await?;
    let licenses = report.licenses.iter().enumerate().map(|(place, license)| {
        let names = (license.drm_system.as_deref(), license.license_reference.as_deref());
        which(place, license.license_id, names)
    });
    let licenses = licenses.collect::<Result<Vec<_>, Problem>>()?;
    let answer = services.licensing.record_deletions(&device, &licenses, &told, &once).await;
    answer.map(respond).map_err(|error| command_problem(error, refused))
}

impl AcquiredLicense {
    fn issued((place, license): (usize, &Self)) -> Result<IssuedLicense<'_>, Problem> {
        let field = |name: &str| format!("licenses[{place}].{name}");
        let reference = Some(license.license_reference.as_str());
        check_name(reference, || field("license_reference"))?;
        check_name(license.title.as_deref(), || field("title"))?;
        check_name(license.content_group.as_deref(), || field("content_group"))?;
        Ok(IssuedLicense {
            key_id: KeyId(license.key_id),
            license_reference: &license.license_reference,
            persistent: license.persistent,
            counted_until_ms: license.counted_until.map(|at| at.0),
            title: license.title.as_deref(),
            content_group: license.content_group.as_deref(),
        })
    }
}

fn which(
    place: usize,
    license_id: Option<Uuid>,
    names: (Option<&str>, Option<&str>),
) -> Result<Which, Problem> {
    match (license_id, names) {
        (Some(id), (None, None)) => Ok(Which::License(LicenseId(id))),
        (None, (Some(drm_system), Some(license_reference))) => {
            let field = |name: &str| format!("licenses[{place}].{name}");
            check_system(drm_system, || field("drm_system"))?;
            check_name(Some(license_reference), || field("license_reference"))?;
            let (drm_system, license_reference) =
                (drm_system.to_owned(), license_reference.to_owned());
            Ok(Which::Reference { drm_system, license_reference })
        }
        _ => {
            let detail = "must name either license_id, or drm_system and license_reference";
            Err(Problem::field(format!("licenses[{place}]"), detail))
        }
    }
}

fn told(
    grade: Option<Grade>,
    occurred_at: Option<UnixMillis>,
    message: Option<&str>,
) -> Result<Told, Problem> {
    // Without a word about it, it is the word of whoever reports it.
    let grade = grade.unwrap_or(Grade::D);
    if grade == Grade::A {
        let detail = "must be B, C, D or E: A is for deletions that this service verified itself";
        return Err(Problem::field("grade", detail));
    }
    let message = message.map(|text| BASE64.decode(text.as_bytes())).transpose();
    let message = message.map_err(|_| Problem::field("message", "must be base64, with padding"))?;
    Ok(Told { grade, occurred_ms: occurred_at.map(|at| at.0), message })
}

fn check_count(licenses: usize) -> Result<(), Problem> {
    if (1..=LICENSES_MAX).contains(&licenses) {
        return Ok(());
    }
    Err(Problem::field("licenses", format!("must have 1 to {LICENSES_MAX} members")))
}

fn check_system(name: &str, field: impl FnOnce() -> String) -> Result<(), Problem> {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=SYSTEM_BYTES_MAX).contains(&name.len()) && name.bytes().all(letters) {
        return Ok(());
    }
    let detail = format!("must be 1 to {SYSTEM_BYTES_MAX} lower-case letters, digits and hyphens");
    Err(Problem::field(field(), detail))
}

fn refused(refused: ReportRefused) -> Problem {
    let case = match refused {
        ReportRefused::NotHeld(_) => Case::NotFound,
        ReportRefused::AlreadyHeld(_)
        | ReportRefused::SignedOnly(_)
        | ReportRefused::UnknownReservation => Case::Conflict,
    };
    let field = match refused.place() {
        Some(place) => format!("licenses[{place}]"),
        None => "reservation_id".to_owned(),
    };
    Problem::new(case, format!("{field} {refused}")).and_field(field, refused.to_string())
}
