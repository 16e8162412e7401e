//! Webhooks: how delivery stands, and sending again.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Services;
use super::once::{Command, CommandKey, command_problem, respond};
use super::reservations::Nothing;
use crate::domain::event::WebhookChange;
use crate::http::auth::{Authorized, EventsRead, SupportWrite};
use crate::http::page::{Cursor, Page, PageQuery, PageRequest, whole_number};
use crate::http::problem::{Case, Problem};
use crate::licensing::Once;
use crate::notify::{DeadLetter, Desk, DeskError, View};

/// The endpoint in a path, for its description.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)] // handlers take the text itself
struct EndpointPath {
    /// Its id in the configuration.
    #[param(example = "audit")]
    id: String,
}

/// What to send again: a range, one dead letter, or all of them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReplayRequest)]
pub(super) struct Again {
    /// Position that the range begins at.
    #[schema(pattern = "^[0-9]+$", example = "7")]
    from: Option<String>,
    /// Position that it ends at, not included.
    #[schema(pattern = "^[0-9]+$", example = "9")]
    to: Option<String>,
    /// The id of a dead letter.
    message_id: Option<Uuid>,
    /// Whether all dead letters are meant.
    #[serde(default)]
    dead_letters: bool,
}

/// All endpoints of webhooks, in the order of the configuration, and how telling them stands
#[utoipa::path(
    get, path = "/v1/webhooks", operation_id = "list_webhooks", tag = "webhooks",
    security(("api_key" = ["events:read"])),
    responses((status = 200, body = Page<View>))
)]
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

/// One endpoint of webhooks
#[utoipa::path(
    get, path = "/v1/webhooks/{id}", operation_id = "show_webhook", tag = "webhooks",
    security(("api_key" = ["events:read"])),
    params(EndpointPath),
    responses(
        (status = 200, body = View),
        (status = 404, description = "No such endpoint"),
    )
)]
pub(super) async fn show(
    _: Authorized<EventsRead>,
    services: web::Data<Services>,
    id: web::Path<String>,
) -> Result<web::Json<View>, Problem> {
    let desk = desk(&services, &id)?;
    desk.show(&id).map(web::Json).map_err(problem)
}

/// Messages that are not tried again, in the order of the ledger
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/dead-letters", operation_id = "list_dead_letters", tag = "webhooks",
    security(("api_key" = ["events:read"])),
    params(
        EndpointPath,
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most items to show; 100 if not said"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses(
        (status = 200, body = Page<DeadLetter>),
        (status = 404, description = "No such endpoint"),
    )
)]
pub(super) async fn dead_letters(
    _: Authorized<EventsRead>,
    services: web::Data<Services>,
    id: web::Path<String>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<DeadLetter>>, Problem> {
    const LIST: &str = "dead letters";
    let desk = desk(&services, &id)?;
    if query.min_position.is_some() {
        let detail = "is no parameter of this list, which is always of this moment; leave it out";
        return Err(Problem::field("min_position", detail));
    }
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

/// Send messages again: from a position up to another, one dead letter, or all of them
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/replay", operation_id = "replay_webhook", tag = "webhooks",
    security(("api_key" = ["support:write"])),
    params(EndpointPath, CommandKey),
    request_body = Again,
    responses(
        (status = 202, body = View),
        (status = 404, description = "No such endpoint, or no dead letter of this id"),
    )
)]
pub(super) async fn replay(
    caller: Authorized<SupportWrite>,
    services: web::Data<Services>,
    id: web::Path<String>,
    command: Command<Again>,
) -> Result<HttpResponse, Problem> {
    let change = command.body.change()?;
    let once = command.once(&caller)?;
    services.change_webhook(&id, change, &once).await
}

/// Send to an endpoint again, from where it stopped; what failed is tried at once
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/enable", operation_id = "enable_webhook", tag = "webhooks",
    security(("api_key" = ["support:write"])),
    params(EndpointPath, CommandKey),
    request_body = Option<Nothing>,
    responses(
        (status = 200, body = View),
        (status = 404, description = "No such endpoint"),
    )
)]
pub(super) async fn enable(
    caller: Authorized<SupportWrite>,
    services: web::Data<Services>,
    id: web::Path<String>,
    command: Command<Nothing>,
) -> Result<HttpResponse, Problem> {
    let once = command.once(&caller)?;
    services.change_webhook(&id, WebhookChange::Enabled, &once).await
}

/// Stop sending to an endpoint; what happens waits in the ledger
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/disable", operation_id = "disable_webhook", tag = "webhooks",
    security(("api_key" = ["support:write"])),
    params(EndpointPath, CommandKey),
    request_body = Option<Nothing>,
    responses(
        (status = 200, body = View),
        (status = 404, description = "No such endpoint"),
    )
)]
pub(super) async fn disable(
    caller: Authorized<SupportWrite>,
    services: web::Data<Services>,
    id: web::Path<String>,
    command: Command<Nothing>,
) -> Result<HttpResponse, Problem> {
    let once = command.once(&caller)?;
    services.change_webhook(&id, WebhookChange::Disabled, &once).await
}

impl Again {
    fn change(&self) -> Result<WebhookChange, Problem> {
        match (&self.from, &self.to, self.message_id, self.dead_letters) {
            (Some(from), Some(to), None, false) => Ok(WebhookChange::RangeReplayed {
                from: whole_number("from", from)?,
                to: whole_number("to", to)?,
            }),
            (None, None, message_id, dead_letters) if message_id.is_some() != dead_letters => {
                Ok(WebhookChange::DeadLettersReplayed { message_id })
            }
            _ => {
                let detail =
                    "name what to send again: from and to, message_id, or dead_letters: true";
                Err(Problem::new(Case::InvalidRequest, detail))
            }
        }
    }
}

impl Services {
    async fn change_webhook(
        &self,
        id: &str,
        change: WebhookChange,
        once: &Once,
    ) -> Result<HttpResponse, Problem> {
        let desk = desk(self, id)?;
        let status = match change {
            WebhookChange::Enabled | WebhookChange::Disabled => StatusCode::OK,
            _ => StatusCode::ACCEPTED,
        };
        let status = status.as_u16();
        let changed =
            self.licensing.change_webhook((id, &change), status, once, || desk.change(id, &change));
        changed.await.map(respond).map_err(|error| command_problem(error, problem))
    }
}

fn desk<'a>(services: &'a Services, id: &str) -> Result<&'a Arc<Desk>, Problem> {
    let desk = services.webhooks.as_ref();
    desk.ok_or_else(|| problem(DeskError::NoEndpoint(id.to_owned())))
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
