//! `POST /v1/quota/decisions`: may this device store more?

use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::names::check_name;
use super::once::{Command, MaybeCommandKey, command_problem, respond};
use super::{Services, licensing_problem};
use crate::domain::usage::Wanted;
use crate::domain::{AccountRef, DeviceRef, KeyId};
use crate::http::auth::{Authorized, QuotaDecide};
use crate::http::problem::Problem;
use crate::licensing::{Decision, Question};

/// Licenses of one decision at most.
const LICENSES_MAX: usize = 1000;

/// What is asked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DecisionRequest, example = json!({
    "device": "tv-17", "account": "family-3", "commit": true, "hold_seconds": 600,
    "licenses": [{"key_id": "01234567-89ab-cdef-0123-456789abcdef", "title": "movie-7",
        "content_group": "uhd"}],
}))]
pub(super) struct Body {
    /// Reference, identity, or the id by which the service's token names the device.
    #[schema(
        min_length = 1,
        max_length = 256,
        example = "9699fb0df62d2a38b447e2b253a736e1bcc8ba4082a8289a502c3b2c23dbee9f"
    )]
    device: String,
    /// The account that would pay, by reference or by the service's id.
    #[schema(min_length = 1, max_length = 256)]
    account: Option<String>,
    /// One persistent license each, with `title` and `content_group` below. Either this or
    /// `licenses`.
    #[serde(default)]
    #[schema(value_type = Vec<Uuid>, max_items = 1000)]
    key_ids: Vec<String>,
    #[schema(min_length = 1, max_length = 256)]
    title: Option<String>,
    #[schema(min_length = 1, max_length = 256)]
    content_group: Option<String>,
    /// One persistent license each, with titles and content groups of their own.
    #[serde(default)]
    #[schema(max_items = 1000)]
    licenses: Vec<License>,
    /// Security level of a device that the ledger does not know.
    security_level: Option<u32>,
    /// Maker, model name and number of a device that the ledger does not know.
    #[schema(min_length = 1, max_length = 256)]
    model: Option<String>,
    /// Whether room is held for the licenses if they fit.
    #[serde(default)]
    commit: bool,
    /// For how long, in seconds; 5 minutes if it is not given.
    #[schema(minimum = 1, maximum = 86_400)]
    hold_seconds: Option<u32>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DecisionLicense)]
struct License {
    #[schema(value_type = Uuid)]
    key_id: String,
    #[schema(min_length = 1, max_length = 256)]
    title: Option<String>,
    #[schema(min_length = 1, max_length = 256)]
    content_group: Option<String>,
}

/// How long a reservation holds room if the request does not say, in seconds.
const HOLD_SECONDS: u32 = 300;
/// The longest that a reservation holds room: a day.
const HOLD_SECONDS_MAX: u32 = 86_400;

/// Would these licenses fit on this device, at this account's expense?
///
/// With `commit`, which needs an `Idempotency-Key`, room is held for them if they fit, and a denial is
/// recorded: each device, KID and rule once an hour, 100 a device and day. The answer is stored with
/// either; a denial that is not recorded is decided again under the same key. Without `commit` nothing
/// is recorded.
#[utoipa::path(
    post, path = "/v1/quota/decisions", operation_id = "decide_quota", tag = "quota",
    security(("api_key" = ["quota:decide"])),
    params(MaybeCommandKey),
    request_body = Body,
    responses(
        (status = 200, body = Decision),
    )
)]
pub(super) async fn decide(
    caller: Authorized<QuotaDecide>,
    services: web::Data<Services>,
    command: Command<Body>,
) -> Result<HttpResponse, Problem> {
    let once = match command.body.commit {
        true => Some(command.once(&caller)?),
        false => None,
    };
    let body = &command.body;
    let hold_ms = body.hold_ms()?;
    let wanted = body.wanted()?;
    let device = services.device_named("device", &body.device).await?;
    let account = services.payer_named(body.account.as_deref())?;
    let question = Question {
        device: &device,
        account: account.as_ref(),
        wanted,
        security_level: body.security_level,
        model: body.model.as_deref(),
    };
    let Some(once) = once else {
        let decision = services.licensing.decide(&question).await.map_err(licensing_problem)?;
        return told(&decision);
    };
    // Apart, so that the more frequent dry run does not carry the room for it along.
    let answer = Box::pin(services.licensing.reserve(&question, hold_ms, &once)).await;
    answer.map(respond).map_err(|error| command_problem(error, |never| match never {}))
}

/// The answer to a dry run, written into room for all of it: an explanation has a kilobyte or two.
fn told(decision: &Decision) -> Result<HttpResponse, Problem> {
    let mut body = Vec::with_capacity(4096);
    serde_json::to_writer(&mut body, decision).map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().content_type(ContentType::json()).body(body))
}

impl Services {
    /// The device that a request names: by reference, by an identity of it, or by the id that the
    /// service has for it; it need not have been seen.
    /// `field` says where it is named.
    pub(super) async fn device_named(
        &self,
        field: &'static str,
        name: &str,
    ) -> Result<DeviceRef, Problem> {
        check_name(Some(name), || field.to_owned())?;
        self.licensing.device_named(name).await.map_err(licensing_problem)
    }

    /// The account that a request names: by reference, or by the id that the service has for it.
    pub(super) fn account_named(&self, name: &str) -> Result<AccountRef, Problem> {
        check_name(Some(name), || "account".to_owned())?;
        Ok(name.parse().unwrap_or_else(|_| self.licensing.account_of(name)))
    }

    /// The same, where a request need not name one.
    pub(super) fn payer_named(&self, name: Option<&str>) -> Result<Option<AccountRef>, Problem> {
        name.map(|name| self.account_named(name)).transpose()
    }
}

impl Body {
    fn hold_ms(&self) -> Result<i64, Problem> {
        let wrong = |detail| Err(Problem::field("hold_seconds", detail));
        match self.hold_seconds {
            Some(_) if !self.commit => wrong("must be left out where commit is not true"),
            Some(seconds) if !(1..=HOLD_SECONDS_MAX).contains(&seconds) => {
                wrong("must be 1 to 86400")
            }
            seconds => Ok(i64::from(seconds.unwrap_or(HOLD_SECONDS)) * 1000),
        }
    }

    fn wanted(&self) -> Result<Vec<Wanted<'_>>, Problem> {
        let asked = self.key_ids.len() + self.licenses.len();
        if !self.key_ids.is_empty() && !self.licenses.is_empty() {
            return Err(Problem::field("licenses", "must be left out where key_ids is given"));
        }
        if !self.licenses.is_empty() && (self.title.is_some() || self.content_group.is_some()) {
            return Err(Problem::field("licenses", "name titles and content groups themselves"));
        }
        if asked == 0 || asked > LICENSES_MAX {
            return Err(Problem::field("key_ids", format!("must name 1 to {LICENSES_MAX} KIDs")));
        }
        let (title, content_group) = (self.title.as_deref(), self.content_group.as_deref());
        check_name(title, || "title".to_owned())?;
        check_name(content_group, || "content_group".to_owned())?;
        check_name(self.model.as_deref(), || "model".to_owned())?;
        let of_kids = self.key_ids.iter().enumerate().map(|(index, text)| {
            let key_id = key_id(text, || format!("key_ids[{index}]"))?;
            Ok(Wanted { key_id, title, content_group })
        });
        let of_licenses = self.licenses.iter().enumerate().map(|(index, license)| {
            let key_id = key_id(&license.key_id, || format!("licenses[{index}].key_id"))?;
            let (title, group) = (license.title.as_deref(), license.content_group.as_deref());
            check_name(title, || format!("licenses[{index}].title"))?;
            check_name(group, || format!("licenses[{index}].content_group"))?;
            Ok(Wanted { key_id, title, content_group: group })
        });
        of_kids.chain(of_licenses).collect()
    }
}

fn key_id(text: &str, field: impl FnOnce() -> String) -> Result<KeyId, Problem> {
    Uuid::try_parse(text).map(KeyId).map_err(|_| Problem::field(field(), "must be a GUID"))
}
