//! Reservations: what committed decisions hold.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::once::{Command, CommandKey, command_problem, respond};
use super::{Services, licensing_problem};
use crate::domain::DeviceRef;
use crate::http::auth::{Authorized, QuotaDecide};
use crate::http::problem::{Case, Problem};
use crate::licensing::{NoReservation, Reservation};

/// The reservation in a path, for its description.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)] // handlers take the texts themselves
struct ReservationPath {
    /// Reference, identity, or the id by which the service names the device.
    #[param(min_length = 1, max_length = 256, example = "tv-17")]
    device: String,
    /// The reservation, as the decision that made it names it.
    reservation: Uuid,
}

/// Nothing needs to be said.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// What a reservation holds
#[utoipa::path(
    get, path = "/v1/devices/{device}/reservations/{reservation}",
    operation_id = "show_reservation", tag = "quota",
    security(("api_key" = ["quota:decide"])),
    params(ReservationPath),
    responses(
        (status = 200, body = Reservation),
        (status = 404, description = "It expired, was released or committed, or never was"),
    )
)]
pub(super) async fn show(
    _: Authorized<QuotaDecide>,
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
) -> Result<web::Json<Reservation>, Problem> {
    let (device, id) = services.reservation_named(&path).await?;
    let found = services.licensing.reservation(&device, id).await.map_err(licensing_problem)?;
    found.map(web::Json).ok_or_else(no_reservation)
}

/// Give back what a reservation still holds
#[utoipa::path(
    post, path = "/v1/devices/{device}/reservations/{reservation}/release",
    operation_id = "release_reservation", tag = "quota",
    security(("api_key" = ["quota:decide"])),
    params(ReservationPath, CommandKey),
    request_body = Option<Nothing>,
    responses(
        (status = 200, description = "What it held", body = Reservation),
        (status = 404, description = "It expired, was released or committed, or never was"),
    )
)]
pub(super) async fn release(
    caller: Authorized<QuotaDecide>,
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    command: Command<Nothing>,
) -> Result<HttpResponse, Problem> {
    let once = command.once(&caller)?;
    let (device, id) = services.reservation_named(&path).await?;
    let answer = services.licensing.release_reservation(&device, id, &once).await;
    answer.map(respond).map_err(|error| command_problem(error, |NoReservation| no_reservation()))
}

impl Services {
    async fn reservation_named(
        &self,
        (device, id): &(String, String),
    ) -> Result<(DeviceRef, Uuid), Problem> {
        let id = Uuid::try_parse(id).map_err(|_| no_reservation())?;
        Ok((self.device_named("device", device).await?, id))
    }
}

fn no_reservation() -> Problem {
    Problem::new(Case::NotFound, NoReservation.to_string())
}
