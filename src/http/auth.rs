//! Lets a handler ask for a caller with a scope.
//!
//! ```no_run
//! use license_ledger::http::auth::{Authorized, InventoryRead};
//! use license_ledger::http::problem::Problem;
//!
//! async fn list_devices(caller: Authorized<InventoryRead>) -> Result<String, Problem> {
//!     Ok(format!("devices, for {}", caller.principal().name))
//! }
//! ```
//!
//! A request without a good key never reaches the handler's body: 401. One whose key lacks the
//! scope: 403. One whose key has used up its allowance: 429. As the first argument it is also the
//! first to be checked, before anything is parsed.

use std::future::{Ready, ready};
use std::marker::PhantomData;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, web};

use super::Shell;
use super::problem::{Case, Problem};
use crate::access::{Principal, Scope};

/// Stands for what a key must be allowed, in the type of a handler.
pub trait RequiredScope {
    /// The scopes, each of which is enough.
    const SCOPES: &'static [Scope];
}

/// [`Scope::QuotaDecide`] is needed.
#[derive(Debug)]
pub enum QuotaDecide {}

/// [`Scope::LicensesWrite`] is needed.
#[derive(Debug)]
pub enum LicensesWrite {}

/// [`Scope::InventoryRead`] is needed.
#[derive(Debug)]
pub enum InventoryRead {}

/// [`Scope::SupportWrite`] is needed.
#[derive(Debug)]
pub enum SupportWrite {}

/// [`Scope::EventsRead`] is needed.
#[derive(Debug)]
pub enum EventsRead {}

/// [`Scope::PolicyWrite`] is needed.
#[derive(Debug)]
pub enum PolicyWrite {}

/// [`Scope::PolicyWrite`] is needed, or [`Scope::InventoryRead`]: who changes it may look at it.
#[derive(Debug)]
pub enum PolicyRead {}

/// [`Scope::KeysWrite`] is needed.
#[derive(Debug)]
pub enum KeysWrite {}

/// [`Scope::KeysDeliver`] is needed.
#[derive(Debug)]
pub enum KeysDeliver {}

impl RequiredScope for QuotaDecide {
    const SCOPES: &'static [Scope] = &[Scope::QuotaDecide];
}

impl RequiredScope for LicensesWrite {
    const SCOPES: &'static [Scope] = &[Scope::LicensesWrite];
}

impl RequiredScope for InventoryRead {
    const SCOPES: &'static [Scope] = &[Scope::InventoryRead];
}

impl RequiredScope for SupportWrite {
    const SCOPES: &'static [Scope] = &[Scope::SupportWrite];
}

impl RequiredScope for EventsRead {
    const SCOPES: &'static [Scope] = &[Scope::EventsRead];
}

impl RequiredScope for PolicyWrite {
    const SCOPES: &'static [Scope] = &[Scope::PolicyWrite];
}

impl RequiredScope for PolicyRead {
    const SCOPES: &'static [Scope] = &[Scope::InventoryRead, Scope::PolicyWrite];
}

impl RequiredScope for KeysWrite {
    const SCOPES: &'static [Scope] = &[Scope::KeysWrite];
}

impl RequiredScope for KeysDeliver {
    const SCOPES: &'static [Scope] = &[Scope::KeysDeliver];
}

/// The caller of a request, known to have the scope `S`.
#[derive(Debug)]
pub struct Authorized<S> {
    principal: Principal,
    scope: PhantomData<S>,
}

impl<S> Authorized<S> {
    /// Who calls.
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }
}

impl<S: RequiredScope> FromRequest for Authorized<S> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(authorize(request, S::SCOPES).map(|principal| Self { principal, scope: PhantomData }))
    }
}

fn authorize(request: &HttpRequest, scopes: &[Scope]) -> Result<Principal, Problem> {
    let shell = request
        .app_data::<web::Data<Shell>>()
        .ok_or_else(|| Problem::internal("the routes were installed without their shell"))?;
    let header = request.headers().get(header::AUTHORIZATION);
    let principal = shell
        .access()
        .authenticate(header.and_then(|value| value.to_str().ok()))
        .map_err(|refused| Problem::new(Case::Unauthenticated, refused.to_string()))?;
    shell.rate().check(&principal.key_id).map_err(|refused| {
        Problem::new(Case::RateLimited, refused.to_string()).retry_after(refused.retry_after)
    })?;
    if !scopes.iter().any(|scope| principal.may(*scope)) {
        let scopes: Vec<_> = scopes.iter().map(ToString::to_string).collect();
        let detail = format!("this needs an API key with the scope {}", scopes.join(" or "));
        return Err(Problem::new(Case::MissingScope, detail));
    }
    Ok(principal)
}

/// What `Authorization: Bearer` says; the scheme's case does not matter (RFC 9110, section 11.1).
pub(super) fn bearer(request: &HttpRequest) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(credentials.trim())
}
