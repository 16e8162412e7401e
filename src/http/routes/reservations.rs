//! Reservations: what committed decisions hold.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use uuid::Uuid;

use super::once::{Command, command_problem, respond};
use super::{Services, licensing_problem};
use crate::domain::DeviceRef;
use crate::http::auth::{Authorized, QuotaDecide};
use crate::http::problem::{Case, Problem};
use crate::licensing::{NoReservation, Reservation};

/// A body that says nothing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// `GET /v1/devices/{device}/reservations/{reservation}`
pub(super) async fn show(
    _: Authorized<QuotaDecide>,
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
) -> Result<web::Json<Reservation>, Problem> {
    let (device, id) = services.reservation_named(&path)?;
    let found = services.licensing.reservation(&device, id).await.map_err(licensing_problem)?;
    found.map(web::Json).ok_or_else(no_reservation)
}

/// `POST /v1/devices/{device}/reservations/{reservation}/release`: gives the room back.
pub(super) async fn release(
    caller: Authorized<QuotaDecide>,
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    mut command: Command<Nothing>,
) -> Result<HttpResponse, Problem> {
    let once = command.once(&caller)?;
    let (device, id) = services.reservation_named(&path)?;
    let answer = services.licensing.release_reservation(&device, id, &once).await;
    answer.map(respond).map_err(|error| command_problem(error, |NoReservation| no_reservation()))
}

impl Services {
    fn reservation_named(
        &self,
        (device, id): &(String, String),
    ) -> Result<(DeviceRef, Uuid), Problem> {
        let id = Uuid::try_parse(id).map_err(|_| no_reservation())?;
        Ok((self.device_named(device)?, id))
    }
}

fn no_reservation() -> Problem {
    Problem::new(Case::NotFound, NoReservation.to_string())
}
