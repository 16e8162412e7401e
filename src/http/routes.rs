//! The routes: which path asks which use case.

mod accounts;
mod clearkey;
mod decisions;
mod devices;
mod elsewhere;
mod events;
mod keys;
mod license;
mod licenses;
mod names;
mod once;
mod over;
mod overrides;
mod packaging;
mod policy;
mod reservations;
mod schema;
mod support;
mod webhooks;

use std::sync::Arc;

use actix_web::middleware::from_fn;
use actix_web::{HttpMessage, HttpRequest, web};

use super::RequestId;
use super::page::whole_number;
use super::problem::{self, Case, Problem};
use crate::access::RateLimiter;
use crate::clock::Clock;
use crate::config::Origins;
use crate::domain::{DeviceRef, Identity};
use crate::licensing::{Licensing, LicensingError, Policies, Registry};
use crate::notify::Desk;
use crate::packaging::Packager;
use crate::projections::{History, Inventory};

/// What the handlers ask.
pub struct Services {
    /// The use cases.
    pub licensing: Arc<Licensing>,
    /// The quota policy and its versions.
    pub policies: Policies,
    /// Content keys and seeds.
    pub registry: Arc<Registry>,
    /// Headers and key exchange for packagers.
    pub packager: Packager,
    /// What devices hold.
    pub inventory: Arc<Inventory>,
    /// The events.
    pub history: History,
    /// Who is told what happens; `None` where nobody is.
    pub webhooks: Option<Arc<Desk>>,
    /// How often one identity may ask.
    pub identity_rate: RateLimiter<Identity>,
    /// The origins whose pages may ask through Clear Key; `None` where that is not offered.
    pub clearkey_origins: Option<Origins>,
    /// The time, for what is shown as of now.
    pub clock: Clock,
}

/// All routes of the service, as their handlers describe them.
#[derive(utoipa::OpenApi)]
#[openapi(
    paths(
        license::rights_manager,
        clearkey::acquire,
        devices::list,
        devices::show,
        devices::inventory,
        events::of_device,
        events::list,
        decisions::decide,
        reservations::show,
        reservations::release,
        elsewhere::acquired,
        elsewhere::acknowledged,
        elsewhere::deleted,
        policy::show,
        policy::publish,
        policy::versions,
        policy::version,
        policy::over,
        schema::show,
        overrides::of_device,
        overrides::of_account,
        overrides::set_for_device,
        overrides::set_for_account,
        overrides::take_back_from_device,
        overrides::take_back_from_account,
        accounts::list,
        accounts::show,
        accounts::devices,
        accounts::titles,
        licenses::list,
        licenses::show,
        licenses::refusals,
        keys::list,
        packaging::headers,
        packaging::speke,
        webhooks::list,
        webhooks::show,
        webhooks::dead_letters,
        webhooks::replay,
        webhooks::enable,
        webhooks::disable,
        support::write_off,
        support::block,
        support::unblock,
        support::link,
        support::merge,
        support::replace,
        super::health::healthz,
        super::health::readyz,
        super::show_metrics,
        super::openapi::show,
    ),
    components(schemas(problem::Body<'static>))
)]
pub(super) struct Described;

/// Installs all routes of the service. They are tried in this order, so the busiest come first.
pub fn install(config: &mut web::ServiceConfig, services: &web::Data<Services>) {
    config
        .app_data(services.clone())
        .service(
            web::resource("/playready/rightsmanager.asmx")
                .route(web::post().to(license::rights_manager)),
        )
        .service(web::resource("/v1/quota/decisions").route(web::post().to(decisions::decide)))
        .service(web::resource("/v1/devices").route(web::get().to(devices::list)))
        .service(web::resource("/v1/devices/{device}").route(web::get().to(devices::show)))
        .service(
            web::resource("/v1/devices/{device}/inventory")
                .route(web::get().to(devices::inventory)),
        )
        .service(
            web::resource("/v1/devices/{device}/events").route(web::get().to(events::of_device)),
        )
        .service(
            web::resource("/v1/devices/{device}/reservations/{reservation}")
                .route(web::get().to(reservations::show)),
        )
        .service(
            web::resource("/v1/devices/{device}/reservations/{reservation}/release")
                .route(web::post().to(reservations::release)),
        )
        .service(
            web::resource("/v1/devices/{device}/write-off")
                .route(web::post().to(support::write_off)),
        )
        .service(web::resource("/v1/devices/{device}/block").route(web::post().to(support::block)))
        .service(
            web::resource("/v1/devices/{device}/unblock").route(web::post().to(support::unblock)),
        )
        .service(
            web::resource("/v1/devices/{device}/identities").route(web::post().to(support::link)),
        )
        .service(web::resource("/v1/devices/{device}/merge").route(web::post().to(support::merge)))
        .service(
            web::resource("/v1/devices/{device}/replace").route(web::post().to(support::replace)),
        )
        .service(web::resource("/v1/headers").route(web::get().to(packaging::headers)))
        .service(web::resource("/v1/speke/v2").route(web::post().to(packaging::speke)))
        .service(web::resource("/v1/keys").route(web::get().to(keys::list)))
        .service(web::resource("/v1/events").route(web::get().to(events::list)))
        .service(web::resource("/v1/webhooks").route(web::get().to(webhooks::list)))
        .service(web::resource("/v1/webhooks/{id}").route(web::get().to(webhooks::show)))
        .service(
            web::resource("/v1/webhooks/{id}/dead-letters")
                .route(web::get().to(webhooks::dead_letters)),
        )
        .service(web::resource("/v1/webhooks/{id}/replay").route(web::post().to(webhooks::replay)))
        .service(web::resource("/v1/webhooks/{id}/enable").route(web::post().to(webhooks::enable)))
        .service(
            web::resource("/v1/webhooks/{id}/disable").route(web::post().to(webhooks::disable)),
        )
        .service(web::resource("/v1/acquisitions").route(web::post().to(elsewhere::acquired)))
        .service(
            web::resource("/v1/acknowledgements").route(web::post().to(elsewhere::acknowledged)),
        )
        .service(web::resource("/v1/deletions").route(web::post().to(elsewhere::deleted)));
    install_quota(config);
    if services.clearkey_origins.is_some() {
        config.service(
            web::resource("/clearkey")
                .wrap(from_fn(clearkey::cors))
                .route(web::post().to(clearkey::acquire)),
        );
    }
}

/// Policy, limits, accounts and licenses.
fn install_quota(config: &mut web::ServiceConfig) {
    let get = web::get;
    config
        .service(
            web::resource("/v1/quota/policy")
                .route(get().to(policy::show))
                .route(web::put().to(policy::publish)),
        )
        .service(web::resource("/v1/quota/policy/schema").route(get().to(schema::show)))
        .service(web::resource("/v1/quota/policy/versions").route(get().to(policy::versions)))
        .service(
            web::resource("/v1/quota/policy/versions/{version}").route(get().to(policy::version)),
        )
        .service(web::resource("/v1/quota/over").route(get().to(policy::over)))
        .service(
            web::resource("/v1/devices/{device}/overrides").route(get().to(overrides::of_device)),
        )
        .service(
            web::resource("/v1/devices/{device}/overrides/{rule}")
                .route(web::put().to(overrides::set_for_device))
                .route(web::delete().to(overrides::take_back_from_device)),
        )
        .service(
            web::resource("/v1/accounts/{account}/overrides")
                .route(get().to(overrides::of_account)),
        )
        .service(
            web::resource("/v1/accounts/{account}/overrides/{rule}")
                .route(web::put().to(overrides::set_for_account))
                .route(web::delete().to(overrides::take_back_from_account)),
        )
        .service(web::resource("/v1/accounts").route(get().to(accounts::list)))
        .service(web::resource("/v1/accounts/{account}").route(get().to(accounts::show)))
        .service(web::resource("/v1/accounts/{account}/devices").route(get().to(accounts::devices)))
        .service(web::resource("/v1/accounts/{account}/titles").route(get().to(accounts::titles)))
        .service(web::resource("/v1/licenses").route(get().to(licenses::list)))
        .service(web::resource("/v1/licenses/{license_id}").route(get().to(licenses::show)))
        .service(web::resource("/v1/refusals").route(get().to(licenses::refusals)));
}

/// Installs the route of the packagers' listener.
pub fn install_packaging(config: &mut web::ServiceConfig, services: &web::Data<Services>) {
    config.app_data(services.clone()).service(
        web::resource("/playready/packaging.asmx").route(web::post().to(packaging::acquire)),
    );
}

impl Services {
    /// The device that a path calls `name`: its reference, an identity of it, or the id by which
    /// the service's token named it.
    fn find_device(&self, name: &str) -> Result<DeviceRef, Problem> {
        let found = self.inventory.resolve(name).map_err(Problem::internal)?;
        let found = match found {
            Some(device) => Some(device),
            None => {
                let device = self.licensing.device_of(name);
                self.inventory.resolve(&device.to_string()).map_err(Problem::internal)?
            }
        };
        found.ok_or_else(|| Problem::new(Case::NotFound, "no such device in the ledger"))
    }

    /// Takes one call from the allowance of an identity.
    fn check_rate(&self, identity: &Identity) -> Result<(), Problem> {
        self.identity_rate.check(identity).map_err(|too_fast| {
            Problem::new(Case::RateLimited, "this device asks too often")
                .retry_after(std::time::Duration::from_secs(1))
                .caused_by(too_fast)
        })
    }

    /// Waits until the inventory includes `min_position`, if one is given.
    async fn wait_for(&self, min_position: Option<&str>) -> Result<(), Problem> {
        let Some(text) = min_position else { return Ok(()) };
        let position = whole_number("min_position", text)?;
        let Some(sequence) = position.checked_sub(1) else { return Ok(()) };
        let last = self.history.last_sequence().await.map_err(Problem::internal)?;
        if last.is_none_or(|last| last < sequence) {
            let detail = "is ahead of the ledger; take one from an earlier answer";
            return Err(Problem::field("min_position", detail));
        }
        self.inventory.wait_for(sequence).await.map_err(Problem::internal)
    }
}

/// The request's id, by which the metadata of its events names it.
fn correlation(request: &HttpRequest) -> String {
    request.extensions().get::<RequestId>().map(ToString::to_string).unwrap_or_default()
}

/// The position that a list is cut at: how many events there are.
async fn end_of_ledger(services: &Services) -> Result<u64, Problem> {
    let last = services.history.last_sequence().await.map_err(Problem::internal)?;
    Ok(last.map_or(0, |last| last + 1))
}

/// A failure of a use case as a problem.
fn licensing_problem(error: LicensingError) -> Problem {
    if error.is_temporary() {
        let detail = "the ledger takes no events at present; try again";
        let wait = std::time::Duration::from_secs(1);
        return Problem::new(Case::Overloaded, detail).retry_after(wait).caused_by(error);
    }
    Problem::internal(error)
}
