//! Webhooks: how delivery stands, and sending again.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use uuid::Uuid;

use super::Services;
use crate::http::auth::{Authorized, EventsRead, SupportWrite};
use crate::http::page::{Cursor, Page, PageQuery, PageRequest};
use crate::http::problem::{Case, Problem};
use crate::notify::{DeadLetter, Desk, DeskError, View};

/// What to send again: a range, one dead letter, or all of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Again {
    /// Position that the range begins at.
    from: Option<String>,
    /// Position that it ends at, not included.
    to: Option<String>,
    /// The id of a dead letter.
    message_id: Option<Uuid>,
    /// Whether all dead letters are meant.
    #[serde(default)]
    dead_letters: bool,
}

/// `GET /v1/webhooks`: all endpoints, in the order of the configuration.
pub(super) async fn list(
    _: Authorized<EventsRead>,
    services: web::Data<Services>,
) -> Result<web::Json<Page<View>>, Problem> {
    let Some(desk) = &services.webhooks else {
        return Ok(web::Json(Page {
            items: Vec::new(),
            next_cursor: None,
            position: "0".to_owned(),
        }));
    };
    let (items, position) = (desk.list().map_err(problem)?, desk.position().map_err(problem)?);
    Ok(web::Json(Page { items, next_cursor: None, position: position.to_string() }))
}

/// `GET /v1/webhooks/{id}`
pub(super) async fn show(
    _: Authorized<EventsRead>,
    services: web::Data<Services>,
    id: web::Path<String>,
) -> Result<web::Json<View>, Problem> {
    let desk = desk(&services, &id)?;
    desk.show(&id).map(web::Json).map_err(problem)
}

/// `GET /v1/webhooks/{id}/dead-letters`, in the order of the ledger.
pub(super) async fn dead_letters(
    _: Authorized<EventsRead>,
    services: web::Data<Services>,
    id: web::Path<String>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<DeadLetter>>, Problem> {
    const LIST: &str = "dead letters";
    let desk = desk(&services, &id)?;
    let PageRequest { limit, cursor } = query.parse::<(u64, u8)>(LIST)?;
    let end = desk.position().map_err(problem)?.to_string();
    let position = cursor.as_ref().map_or(end, |cursor| cursor.at.clone());
    let after = cursor.map(|cursor| cursor.after);
    let mut items = desk.dead_letters(&id, after, limit + 1).map_err(problem)?;
    let more = items.len() > limit;
    items.truncate(limit);
    let last = items.last().filter(|_| more).map(DeadLetter::place);
    let next = last.map(|place| Cursor::new(LIST, position.clone(), place).encode());
    Ok(web::Json(Page { items, next_cursor: next.transpose()?, position }))
}

/// `POST /v1/webhooks/{id}/replay`
pub(super) async fn replay(
    caller: Authorized<SupportWrite>,
    services: web::Data<Services>,
    id: web::Path<String>,
    again: web::Json<Again>,
) -> Result<HttpResponse, Problem> {
    let desk = desk(&services, &id)?;
    let view = match again.into_inner() {
        Again { from: Some(from), to: Some(to), message_id: None, dead_letters: false } => {
            let (from, to) = (position("from", &from)?, position("to", &to)?);
            desk.replay_range(&id, from, to)
        }
        Again { from: None, to: None, message_id, dead_letters }
            if message_id.is_some() != dead_letters =>
        {
            desk.replay_dead_letters(&id, message_id)
        }
        _ => {
            let detail = "name what to send again: from and to, message_id, or dead_letters: true";
            return Err(Problem::new(Case::InvalidRequest, detail));
        }
    };
    let view = view.map_err(problem)?;
    log(&caller, &id, "sends again");
    Ok(HttpResponse::Accepted().json(view))
}

/// `POST /v1/webhooks/{id}/enable`: also ends the wait for what failed.
pub(super) async fn enable(
    caller: Authorized<SupportWrite>,
    services: web::Data<Services>,
    id: web::Path<String>,
) -> Result<web::Json<View>, Problem> {
    let view = desk(&services, &id)?.enable(&id).map_err(problem)?;
    log(&caller, &id, "enables");
    Ok(web::Json(view))
}

/// `POST /v1/webhooks/{id}/disable`
pub(super) async fn disable(
    caller: Authorized<SupportWrite>,
    services: web::Data<Services>,
    id: web::Path<String>,
) -> Result<web::Json<View>, Problem> {
    let view = desk(&services, &id)?.disable(&id).map_err(problem)?;
    log(&caller, &id, "disables");
    Ok(web::Json(view))
}

fn desk<'a>(services: &'a Services, id: &str) -> Result<&'a Arc<Desk>, Problem> {
    let desk = services.webhooks.as_ref();
    desk.ok_or_else(|| problem(DeskError::NoEndpoint(id.to_owned())))
}

fn position(field: &'static str, text: &str) -> Result<u64, Problem> {
    let wrong = || Problem::field(field, "must be a position from an answer or a message");
    text.parse().map_err(|_| wrong())
}

fn log(caller: &Authorized<SupportWrite>, id: &str, does: &str) {
    let key = &caller.principal().name;
    tracing::info!(endpoint = id, key, "API key {key} {does} the webhook endpoint {id}");
}

fn problem(error: DeskError) -> Problem {
    match error {
        DeskError::NoEndpoint(_) | DeskError::NoLetter => {
            Problem::new(Case::NotFound, error.to_string())
        }
        DeskError::Range { .. } => Problem::field("to", error.to_string()),
        DeskError::Store(error) => Problem::internal(error),
    }
}
