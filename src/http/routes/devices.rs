//! Devices and what they hold.

use actix_web::web;
use serde::{Deserialize, Serialize};

use super::Services;
use crate::http::auth::{Authorized, InventoryRead};
use crate::http::page::{Cursor, Page, PageQuery, PageRequest};
use crate::http::problem::{Case, Problem};
use crate::projections::inventory::{DeviceInventory, DeviceSummary};

/// Parameters of a read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadQuery {
    min_position: Option<String>,
}

/// An answer and the position of the ledger it is true at.
#[derive(Serialize)]
pub(super) struct At<T> {
    #[serde(flatten)]
    value: T,
    position: String,
}

/// `GET /v1/devices`: all devices, in the order they were first seen.
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

/// `GET /v1/devices/{device}`
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
    Ok(web::Json(At { value, position: next.to_string() }))
}

/// `GET /v1/devices/{device}/inventory`: its live licenses, and the three counts.
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
    let position = value.next_sequence.to_string();
    Ok(web::Json(At { value, position }))
}

fn no_such_device() -> Problem {
    Problem::new(Case::NotFound, "no such device in the ledger")
}
