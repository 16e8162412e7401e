//! Devices and what they hold.

use actix_web::web;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Services;
use crate::http::auth::{Authorized, InventoryRead};
use crate::http::page::{Cursor, Page, PageQuery, PageRequest};
use crate::http::problem::{Case, Problem};
use crate::projections::inventory::{DeviceInventory, DeviceSummary};

/// The device in a path, for its description.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)] // handlers take the text itself
pub(super) struct DevicePath {
    /// Its reference, an identity of it, or the id by which the service's token names it.
    #[param(
        min_length = 1,
        max_length = 256,
        example = "9699fb0df62d2a38b447e2b253a736e1bcc8ba4082a8289a502c3b2c23dbee9f"
    )]
    device: String,
}

/// Parameters of a read.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadQuery {
    /// Wait until the answer includes this position, which an earlier answer named.
    #[param(value_type = Option<i64>, minimum = 0)]
    pub(super) min_position: Option<String>,
}

/// An answer and the position of the ledger it is true at.
#[derive(Serialize, ToSchema)]
pub(super) struct At<T> {
    #[serde(flatten)]
    value: T,
    /// Position in the ledger that the answer includes.
    #[schema(pattern = "^[0-9]+$", example = "7")]
    position: String,
}

impl<T> At<T> {
    /// An answer that includes the events before `next_sequence`.
    pub(super) fn new(value: T, next_sequence: u64) -> Self {
        Self { value, position: next_sequence.to_string() }
    }
}

/// All devices, in the order they were first seen
///
/// Later pages leave out devices that came after the first one; what is said of each is as of now.
#[utoipa::path(
    get, path = "/v1/devices", operation_id = "list_devices", tag = "devices",
    security(("api_key" = ["inventory:read"])),
    params(PageQuery),
    responses((status = 200, body = Page<DeviceSummary>))
)]
pub(super) async fn list(
    _: Authorized<InventoryRead>,
    services: web::Data<Services>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<DeviceSummary>>, Problem> {
    const LIST: &str = "devices";
    services.wait_for(query.min_position.as_deref()).await?;
    let PageRequest { limit, cursor } = query.parse::<u64>(LIST)?;
    let (from, at) = match &cursor {
        Some(cursor) => (cursor.after, cursor.at.parse().unwrap_or(u64::MAX)),
        None => (0, u64::MAX),
    };
    let page = services.inventory.devices(from, at, limit).map_err(Problem::internal)?;
    let position = cursor.map_or_else(|| page.next_sequence.to_string(), |cursor| cursor.at);
    let next = page.next.map(|next| Cursor::new(LIST, position.clone(), next).encode());
    Ok(web::Json(Page { items: page.devices, next_cursor: next.transpose()?, position }))
}

/// One device
#[utoipa::path(
    get, path = "/v1/devices/{device}", operation_id = "show_device", tag = "devices",
    security(("api_key" = ["inventory:read"])),
    params(DevicePath, ReadQuery),
    responses(
        (status = 200, body = At<DeviceSummary>),
        (status = 404, description = "No such device"),
    )
)]
pub(super) async fn show(
    _: Authorized<InventoryRead>,
    services: web::Data<Services>,
    device: web::Path<String>,
    query: web::Query<ReadQuery>,
) -> Result<web::Json<At<DeviceSummary>>, Problem> {
    services.wait_for(query.min_position.as_deref()).await?;
    let device = services.find_device(&device)?;
    let found = services.inventory.device(&device).map_err(Problem::internal)?;
    let (value, next) = found.ok_or_else(no_such_device)?;
    Ok(web::Json(At::new(value, next)))
}

/// What a device holds: its live licenses, and the three counts
#[utoipa::path(
    get, path = "/v1/devices/{device}/inventory", operation_id = "device_inventory", tag = "devices",
    security(("api_key" = ["inventory:read"])),
    params(DevicePath, ReadQuery),
    responses(
        (status = 200, body = At<DeviceInventory>),
        (status = 404, description = "No such device"),
    )
)]
pub(super) async fn inventory(
    _: Authorized<InventoryRead>,
    services: web::Data<Services>,
    device: web::Path<String>,
    query: web::Query<ReadQuery>,
) -> Result<web::Json<At<DeviceInventory>>, Problem> {
    services.wait_for(query.min_position.as_deref()).await?;
    let device = services.find_device(&device)?;
    let now = services.clock.now();
    let found = services.inventory.inventory(&device, now).map_err(Problem::internal)?;
    let value = found.ok_or_else(no_such_device)?;
    let next = value.next_sequence;
    Ok(web::Json(At::new(value, next)))
}

fn no_such_device() -> Problem {
    Problem::new(Case::NotFound, "no such device in the ledger")
}
