//! `POST /v1/quota/decisions`: may this device store more?

use actix_web::web;
use serde::Deserialize;
use uuid::Uuid;

use super::{Services, licensing_problem};
use crate::domain::usage::Wanted;
use crate::domain::{AccountRef, DeviceRef, KeyId};
use crate::http::auth::{Authorized, QuotaDecide};
use crate::http::problem::Problem;
use crate::licensing::{Decision, Question};

/// Licenses of one decision at most.
const LICENSES_MAX: usize = 1000;

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    /// Reference, identity, or the id by which the service's token names the device.
    device: String,
    /// The account that would pay, by reference or by the service's id.
    account: Option<String>,
    /// One persistent license each, with `title` and `content_group` below. Either this or
    /// `licenses`.
    #[serde(default)]
    key_ids: Vec<String>,
    title: Option<String>,
    content_group: Option<String>,
    /// One persistent license each, with titles and content groups of their own.
    #[serde(default)]
    licenses: Vec<License>,
    /// Security level of a device that the ledger does not know.
    security_level: Option<u32>,
    /// Maker, model name and number of a device that the ledger does not know.
    model: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct License {
    key_id: String,
    title: Option<String>,
    content_group: Option<String>,
}

/// Decides without recording anything.
pub(super) async fn decide(
    _: Authorized<QuotaDecide>,
    services: web::Data<Services>,
    body: web::Json<Body>,
) -> Result<web::Json<Decision>, Problem> {
    let wanted = body.wanted()?;
    let device = services.device_named(&body.device)?;
    let account = body.account.as_deref().map(|name| services.account_named(name));
    let question = Question {
        device: &device,
        account: account.as_ref(),
        wanted,
        security_level: body.security_level,
        model: body.model.as_deref(),
    };
    let decision = services.licensing.decide(&question).await;
    decision.map(web::Json).map_err(licensing_problem)
}

impl Services {
    /// The device that a command names: by reference, by an identity of it, or by the id that the
    /// service has for it; it need not have been seen.
    pub(super) fn device_named(&self, name: &str) -> Result<DeviceRef, Problem> {
        let known = self.inventory.resolve(name).map_err(Problem::internal)?;
        Ok(known.or_else(|| name.parse().ok()).unwrap_or_else(|| self.licensing.device_of(name)))
    }

    /// The account that a command names: by reference, or by the id that the service has for it.
    pub(super) fn account_named(&self, name: &str) -> AccountRef {
        name.parse().unwrap_or_else(|_| self.licensing.account_of(name))
    }
}

impl Body {
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
        let of_kids = self.key_ids.iter().enumerate().map(|(index, text)| {
            let key_id = key_id(text, || format!("key_ids[{index}]"))?;
            Ok(Wanted { key_id, title, content_group })
        });
        let of_licenses = self.licenses.iter().enumerate().map(|(index, license)| {
            let key_id = key_id(&license.key_id, || format!("licenses[{index}].key_id"))?;
            let (title, group) = (license.title.as_deref(), license.content_group.as_deref());
            Ok(Wanted { key_id, title, content_group: group })
        });
        of_kids.chain(of_licenses).collect()
    }
}

fn key_id(text: &str, field: impl FnOnce() -> String) -> Result<KeyId, Problem> {
    Uuid::try_parse(text).map(KeyId).map_err(|_| Problem::field(field(), "must be a GUID"))
}
