//! `GET /v1/keys`: which content keys and seeds there are.

use actix_web::web;

use super::Services;
use crate::http::auth::{Authorized, KeysWrite};
use crate::http::page::{Cursor, Page, PageQuery, PageRequest};
use crate::http::problem::Problem;
use crate::licensing::KeyRow;

/// Registered content keys and seeds: ids and check values, never a key
#[utoipa::path(
    get, path = "/v1/keys", operation_id = "list_keys", tag = "keys",
    security(("api_key" = ["keys:write"])),
    params(PageQuery),
    responses((status = 200, body = Page<KeyRow>))
)]
pub(super) async fn list(
    _: Authorized<KeysWrite>,
    services: web::Data<Services>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<KeyRow>>, Problem> {
    const LIST: &str = "keys";
    services.wait_for(query.min_position.as_deref()).await?;
    let PageRequest { limit, cursor } = query.parse::<u64>(LIST)?;
    let (from, at) = match &cursor {
        Some(cursor) => (cursor.after, Some(cursor.at.parse().unwrap_or(u64::MAX))),
        None => (0, None),
    };
    let page = services.registry.list(from, at, limit).await.map_err(Problem::internal)?;
    let position = page.position.to_string();
    let next = page.next.map(|next| Cursor::new(LIST, position.clone(), next).encode());
    Ok(web::Json(Page { items: page.rows, next_cursor: next.transpose()?, position }))
}
