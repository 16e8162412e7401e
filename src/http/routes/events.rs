//! The events, as they are stored.

use actix_web::web;

use super::devices::DevicePath;
use super::{Services, end_of_ledger};
use crate::http::auth::{Authorized, EventsRead};
use crate::http::page::{Cursor, Page, PageQuery, PageRequest};
use crate::http::problem::Problem;
use crate::projections::history::EventView;

/// The service's own events, oldest first, from the position `from` on
///
/// Streams that users keep in the ledger, `user-…`, are left out.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "list_events", tag = "events",
    security(("api_key" = ["events:read"])),
    params(PageQuery, ("from" = Option<i64>, Query, minimum = 0, description = "Sequence of the first event")),
    responses((status = 200, body = Page<EventView>))
)]
pub(super) async fn list(
    _: Authorized<EventsRead>,
    services: web::Data<Services>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<EventView>>, Problem> {
    const LIST: &str = "events";
    services.wait_for(query.min_position.as_deref()).await?;
    let end = end_of_ledger(&services).await?;
    let wanted = Wanted::read(&query, LIST, end)?;
    let events = services.history.all(wanted.from, wanted.limit + 1).await;
    let (events, _) = events.map_err(Problem::internal)?;
    wanted.page(LIST, events, |event| event.sequence)
}

/// The stream of one device, oldest first, from the revision `from` on
#[utoipa::path(
    get, path = "/v1/devices/{device}/events", operation_id = "device_events", tag = "events",
    security(("api_key" = ["events:read"])),
    params(
        DevicePath,
        PageQuery,
        ("from" = Option<i64>, Query, minimum = 0, description = "Revision of the first event"),
    ),
    responses(
        (status = 200, body = Page<EventView>),
        (status = 404, description = "No such device"),
    )
)]
pub(super) async fn of_device(
    _: Authorized<EventsRead>,
    services: web::Data<Services>,
    device: web::Path<String>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<EventView>>, Problem> {
    const LIST: &str = "device events";
    services.wait_for(query.min_position.as_deref()).await?;
    let device = services.find_device(&device)?;
    let end = end_of_ledger(&services).await?;
    let wanted = Wanted::read(&query, LIST, end)?;
    let events = services.history.of_device(&device, wanted.from, wanted.limit + 1).await;
    let events = events.map_err(Problem::internal)?;
    wanted.page(LIST, events, |event| event.revision)
}

/// A page of events that was asked for, cut at a position.
struct Wanted {
    from: u64,
    limit: usize,
    end: u64,
}

impl Wanted {
    fn read(query: &PageQuery, list: &str, end: u64) -> Result<Self, Problem> {
        let (PageRequest { limit, cursor }, from) = query.parse_from::<u64>(list)?;
        Ok(match cursor {
            Some(cursor) => {
                Self { from: cursor.after, limit, end: cursor.at.parse().unwrap_or(end) }
            }
            None => Self { from, limit, end },
        })
    }

    /// Cuts what was read to the page; `place` is what the list is ordered by.
    fn page(
        self,
        list: &str,
        mut events: Vec<EventView>,
        place: impl Fn(&EventView) -> u64,
    ) -> Result<web::Json<Page<EventView>>, Problem> {
        events.retain(|event| event.sequence < self.end);
        let position = self.end.to_string();
        let next = events.get(self.limit).map(place);
        let next = next.map(|next| Cursor::new(list, position.clone(), next).encode());
        events.truncate(self.limit);
        Ok(web::Json(Page { items: events, next_cursor: next.transpose()?, position }))
    }
}
