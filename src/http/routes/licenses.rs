//! Licenses wherever they are, what happened to them, and what was refused.

use actix_web::web;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Services;
use super::accounts::{from_and_end, page};
use super::devices::{At, ReadQuery};
use crate::clock::UnixMillis;
use crate::domain::{KeyId, LicenseId};
use crate::http::auth::{Authorized, InventoryRead};
use crate::http::page::{Page, PageQuery, PageRequest};
use crate::http::problem::{Case, Problem};
use crate::projections::history::LifeEvent;
use crate::projections::inventory::{Filter, LicenseView, Listed, RefusalView};

/// Which licenses are looked for: all that is given must hold.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LicensesQuery {
    /// Most items to show.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Wait until the answer includes this position, which an earlier answer named.
    #[param(value_type = Option<i64>, minimum = 0)]
    min_position: Option<String>,
    /// Of this KID.
    #[param(value_type = Option<Uuid>)]
    key_id: Option<String>,
    /// Reference, identity, or the id by which the service's token names the device.
    device: Option<String>,
    /// Reference, or the id that the service has for the account.
    account: Option<String>,
    /// The title, as the service names it; only together with `account`.
    title: Option<String>,
    /// `live`: those that count; `ended`: those that do not.
    #[param(inline, value_type = Option<Status>)]
    status: Option<String>,
}

/// What [`LicensesQuery`] may say of the status, for its description.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code)] // handlers take the text itself
enum Status {
    Live,
    Ended,
}

/// Which refusals are looked for: all that is given must hold.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct RefusalsQuery {
    /// Most items to show.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Wait until the answer includes this position, which an earlier answer named.
    #[param(value_type = Option<i64>, minimum = 0)]
    min_position: Option<String>,
    /// Of this KID.
    #[param(value_type = Option<Uuid>)]
    key_id: Option<String>,
    /// Reference, identity, or the id by which the service's token names the device.
    device: Option<String>,
    /// Reference, or the id that the service has for the account.
    account: Option<String>,
}

/// A license with its whole life.
#[derive(Serialize, ToSchema)]
pub(super) struct LicenseLife {
    #[serde(flatten)]
    license: LicenseView,
    /// What happened to it, the acquisition first.
    events: Vec<LifeEvent>,
}

/// Persistent licenses, live or not, in the order they were acquired
///
/// Later pages are of the position and the moment of the first one: what happened since, and what
/// has expired since, is left out, also where `status` is looked for, or `device` by its reference.
/// Except that of a license that moved twice since, or was reported deleted before and again since, only the last is
/// known: it is shown on the device between, or as not reported deleted before.
#[utoipa::path(
    get, path = "/v1/licenses", operation_id = "list_licenses", tag = "licenses",
    security(("api_key" = ["inventory:read"])),
    params(LicensesQuery),
    responses((status = 200, body = Page<LicenseView>))
)]
pub(super) async fn list(
    _: Authorized<InventoryRead>,
    services: web::Data<Services>,
    query: web::Query<LicensesQuery>,
) -> Result<web::Json<Page<LicenseView>>, Problem> {
    const LIST: &str = "licenses";
    let query = query.into_inner();
    services.wait_for(query.min_position.as_deref()).await?;
    if query.title.is_some() && query.account.is_none() {
        return Err(Problem::field("title", "is looked for in an account; name that as well"));
    }
    let mut filter = services.filter(query.key_id, query.device, query.account).await?;
    filter.title = query.title;
    filter.live = match query.status.as_deref() {
        None => None,
        Some("live") => Some(true),
        Some("ended") => Some(false),
        Some(_) => return Err(Problem::field("status", "must be live or ended")),
    };
    let PageRequest { limit, cursor } = PageQuery::new(query.limit, query.cursor).parse(LIST)?;
    // Where a page begins, and the moment that decides what has expired.
    let ((from, as_of_ms), before) = from_and_end::<(u64, i64)>(cursor.as_ref());
    let as_of = match &cursor {
        Some(_) => UnixMillis(as_of_ms),
        None => services.clock.now(),
    };
    let found = services.inventory.licenses(&filter, (from, before), limit, as_of);
    let Listed { items, next, next_sequence } = found.map_err(Problem::internal)?;
    let next = next.map(|next| (next, as_of.0));
    page(LIST, Listed { items, next, next_sequence }, cursor).map(web::Json)
}

/// One persistent license with all that happened to it
#[utoipa::path(
    get, path = "/v1/licenses/{license_id}", operation_id = "show_license", tag = "licenses",
    security(("api_key" = ["inventory:read"])),
    params(("license_id" = Uuid, Path, description = "The license"), ReadQuery),
    responses(
        (status = 200, body = At<LicenseLife>),
        (status = 404, description = "No such persistent license"),
    )
)]
pub(super) async fn show(
    _: Authorized<InventoryRead>,
    services: web::Data<Services>,
    license_id: web::Path<String>,
    query: web::Query<ReadQuery>,
) -> Result<web::Json<At<LicenseLife>>, Problem> {
    services.wait_for(query.min_position.as_deref()).await?;
    let none = || Problem::new(Case::NotFound, "no such persistent license in the ledger");
    let license_id = Uuid::try_parse(&license_id).map(LicenseId).map_err(|_| none())?;
    let found = services.inventory.license(license_id, services.clock.now());
    let (license, sequences, next) = found.map_err(Problem::internal)?.ok_or_else(none)?;
    let events = services.history.life(&sequences).await.map_err(Problem::internal)?;
    Ok(web::Json(At::new(LicenseLife { license, events }, next)))
}

/// Acquisitions and committed decisions that quota rules refused, in the order they were recorded:
/// each device, KID and rule once an hour
#[utoipa::path(
    get, path = "/v1/refusals", operation_id = "list_refusals", tag = "licenses",
    security(("api_key" = ["inventory:read"])),
    params(RefusalsQuery),
    responses((status = 200, body = Page<RefusalView>))
)]
pub(super) async fn refusals(
    _: Authorized<InventoryRead>,
    services: web::Data<Services>,
    query: web::Query<RefusalsQuery>,
) -> Result<web::Json<Page<RefusalView>>, Problem> {
    const LIST: &str = "refusals";
    let query = query.into_inner();
    services.wait_for(query.min_position.as_deref()).await?;
    let filter = services.filter(query.key_id, query.device, query.account).await?;
    let PageRequest { limit, cursor } = PageQuery::new(query.limit, query.cursor).parse(LIST)?;
    let place = from_and_end(cursor.as_ref());
    let found = services.inventory.refusals(&filter, place, limit);
    page(LIST, found.map_err(Problem::internal)?, cursor).map(web::Json)
}

impl Services {
    async fn filter(
        &self,
        key_id: Option<String>,
        device: Option<String>,
        account: Option<String>,
    ) -> Result<Filter, Problem> {
        let key_id = key_id.as_deref().map(Uuid::try_parse).transpose();
        let key_id = key_id.map_err(|_| Problem::field("key_id", "must be a GUID"))?.map(KeyId);
        let device = match &device {
            Some(name) => Some(self.device_named(name).await?),
            None => None,
        };
        let account = account.as_deref().map(|name| self.account_named(name));
        Ok(Filter { key_id, device, account, ..Filter::default() })
    }
}
