//! The events, as they are stored.

use actix_web::web;

use super::Services;
use crate::http::auth::{Authorized, EventsRead};
use crate::http::page::{Cursor, Page, PageQuery, PageRequest};
use crate::http::problem::Problem;
use crate::projections::history::EventView;

/// `GET /v1/events`: the whole ledger, oldest first, from `from` (a position) on.
pub(super) async fn list(
    _: Authorized<EventsRead>,
    services: web::Data<Services>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<EventView>>, Problem> {
    const LIST: &str = "events";
    let end = end_of_ledger(&services).await?;
    let wanted = Wanted::read(&query, LIST, end)?;
    let events = services.history.all(wanted.from, wanted.limit + 1).await;
    let events = events.map_err(Problem::internal)?;
    wanted.page(LIST, events, |event| event.sequence)
}

/// `GET /v1/devices/{device}/events`: one device's stream, oldest first.
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

async fn end_of_ledger(services: &Services) -> Result<u64, Problem> {
    let last = services.history.last_sequence().await.map_err(Problem::internal)?;
    Ok(last.map_or(0, |last| last + 1))
}

/// A page of events that was asked for, cut at a position.
struct Wanted {
    from: u64,
    limit: usize,
    end: u64,
}

impl Wanted {
    fn read(query: &PageQuery, list: &str, end: u64) -> Result<Self, Problem> {
        let PageRequest { limit, cursor } = query.parse::<u64>(list)?;
        let wrong = || Problem::field("from", "must be a whole number");
        let from = query.from.as_deref().map(|from| from.parse().map_err(|_| wrong()));
        let from = from.transpose()?.unwrap_or(0);
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
