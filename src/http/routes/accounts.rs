//! Accounts, their devices and their titles.

use actix_web::web;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::devices::{At, ReadQuery};
use super::{Services, licensing_problem};
use crate::domain::AccountRef;
use crate::domain::quota::Scope;
use crate::http::auth::{Authorized, InventoryRead};
use crate::http::page::{Cursor, Page, PageQuery, PageRequest};
use crate::http::problem::{Case, Problem};
use crate::licensing::Standing;
use crate::projections::inventory::{
    AccountDevice, AccountSummary, AccountTitle, LimitInForce, Listed,
};

/// Devices that the view of an account shows; the list of its devices has all.
const DEVICES_SHOWN: usize = 100;

/// The account in a path, for its description.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)] // handlers take the text itself
pub(super) struct AccountPath {
    /// Its reference, or the id that the service has for it.
    #[param(min_length = 1, max_length = 256, example = "alice")]
    account: String,
}

/// An account with what it uses.
#[derive(Serialize, ToSchema)]
#[schema(as = Account)]
pub(super) struct AccountView {
    #[serde(flatten)]
    summary: AccountSummary,
    /// How much of each rule on accounts is in use, in the order of the policy. Those on titles are
    /// in the list of its titles.
    rules: Vec<Standing>,
    /// Limits that operators set for it, by rule.
    overrides: Vec<LimitInForce>,
    /// The first 100 of its devices, by reference.
    first_devices: Vec<AccountDevice>,
}

/// A title of an account with what it uses.
#[derive(Serialize, ToSchema)]
#[schema(as = Title)]
pub(super) struct TitleView {
    #[serde(flatten)]
    summary: AccountTitle,
    /// How much of each rule on titles is in use, in the order of the policy.
    rules: Vec<Standing>,
}

/// All accounts, in the order they were first named
///
/// Later pages leave out accounts that came after the first one; what each holds is as of now.
#[utoipa::path(
    get, path = "/v1/accounts", operation_id = "list_accounts", tag = "accounts",
    security(("api_key" = ["inventory:read"])),
    params(PageQuery),
    responses((status = 200, body = Page<AccountSummary>))
)]
pub(super) async fn list(
    _: Authorized<InventoryRead>,
    services: web::Data<Services>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<AccountSummary>>, Problem> {
    const LIST: &str = "accounts";
    services.wait_for(query.min_position.as_deref()).await?;
    let PageRequest { limit, cursor } = query.parse::<u64>(LIST)?;
    let (from, at) = from_and_end(cursor.as_ref());
    let found = services.inventory.accounts(from, at, limit, services.clock.now());
    page(LIST, found.map_err(Problem::internal)?, cursor).map(web::Json)
}

/// One account: its devices, and how much of each rule it uses
#[utoipa::path(
    get, path = "/v1/accounts/{account}", operation_id = "show_account", tag = "accounts",
    security(("api_key" = ["inventory:read"])),
    params(AccountPath, ReadQuery),
    responses(
        (status = 200, body = At<AccountView>),
        (status = 404, description = "No such account"),
    )
)]
pub(super) async fn show(
    _: Authorized<InventoryRead>,
    services: web::Data<Services>,
    account: web::Path<String>,
    query: web::Query<ReadQuery>,
) -> Result<web::Json<At<AccountView>>, Problem> {
    services.wait_for(query.min_position.as_deref()).await?;
    let (account, summary, next_sequence) = services.find_account(&account)?;
    let (inventory, now) = (&services.inventory, services.clock.now());
    let devices = inventory.account_devices(&account, ("", u64::MAX), DEVICES_SHOWN, now);
    let (overrides, _) = inventory.limits_of_account(&account, now).map_err(Problem::internal)?;
    let rules = services.licensing.standing_of_account(&account, &[], None).await;
    let value = AccountView {
        summary,
        rules: rules.map_err(licensing_problem)?,
        overrides,
        first_devices: devices.map_err(Problem::internal)?.items,
    };
    Ok(web::Json(At::new(value, next_sequence)))
}

/// Devices that ever had a license, or a reservation, at an account's expense, by reference
///
/// One that was merged into another, or replaced by it together with its licenses, is that other one.
/// Later pages have the devices of the first one's position; what each holds is as of now.
#[utoipa::path(
    get, path = "/v1/accounts/{account}/devices", operation_id = "list_account_devices", tag = "accounts",
    security(("api_key" = ["inventory:read"])),
    params(AccountPath, PageQuery),
    responses(
        (status = 200, body = Page<AccountDevice>),
        (status = 404, description = "No such account"),
    )
)]
pub(super) async fn devices(
    _: Authorized<InventoryRead>,
    services: web::Data<Services>,
    account: web::Path<String>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<AccountDevice>>, Problem> {
    const LIST: &str = "account devices";
    services.wait_for(query.min_position.as_deref()).await?;
    let (account, ..) = services.find_account(&account)?;
    let PageRequest { limit, cursor } = query.parse::<String>(LIST)?;
    let (after, at) = from_and_end(cursor.as_ref());
    let now = services.clock.now();
    let found = services.inventory.account_devices(&account, (&after, at), limit, now);
    page(LIST, found.map_err(Problem::internal)?, cursor).map(web::Json)
}

/// Titles that ever had a license at an account's expense, by name
///
/// Later pages leave out what was acquired after the first one; what was given back since does not
/// count, and how much of each rule is in use is as of now.
#[utoipa::path(
    get, path = "/v1/accounts/{account}/titles", operation_id = "list_account_titles", tag = "accounts",
    security(("api_key" = ["inventory:read"])),
    params(AccountPath, PageQuery),
    responses(
        (status = 200, body = Page<TitleView>),
        (status = 404, description = "No such account"),
    )
)]
pub(super) async fn titles(
    _: Authorized<InventoryRead>,
    services: web::Data<Services>,
    account: web::Path<String>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<TitleView>>, Problem> {
    const LIST: &str = "account titles";
    services.wait_for(query.min_position.as_deref()).await?;
    let (account, ..) = services.find_account(&account)?;
    let PageRequest { limit, cursor } = query.parse::<String>(LIST)?;
    let (after, at) = from_and_end(cursor.as_ref());
    let now = services.clock.now();
    let found = services.inventory.account_titles(&account, (&after, at), limit, now);
    let Page { items, next_cursor, position } =
        page(LIST, found.map_err(Problem::internal)?, cursor)?;
    let names: Vec<_> = items.iter().map(|item| item.title.as_str()).collect();
    let rules = services.licensing.standing_of_account(&account, &names, None).await;
    let mut rules = rules.map_err(licensing_problem)?;
    rules.retain(|rule| rule.scope == Scope::AccountTitle);
    let view = |summary: AccountTitle| {
        let of_title = rules.iter().filter(|r| r.title.as_ref() == Some(&summary.title));
        TitleView { rules: of_title.cloned().collect(), summary }
    };
    let items = items.into_iter().map(view).collect();
    Ok(web::Json(Page { items, next_cursor, position }))
}

/// Where a page begins, and the position that its list was cut at.
pub(super) fn from_and_end<K: Clone + Default>(cursor: Option<&Cursor<K>>) -> (K, u64) {
    match cursor {
        Some(cursor) => (cursor.after.clone(), cursor.at.parse().unwrap_or(u64::MAX)),
        None => (K::default(), u64::MAX),
    }
}

/// What was listed as a page, of the position that its first page was cut at.
pub(super) fn page<T, K: Serialize>(
    list: &str,
    found: Listed<T, K>,
    cursor: Option<Cursor<K>>,
) -> Result<Page<T>, Problem> {
    let position = cursor.map_or_else(|| found.next_sequence.to_string(), |cursor| cursor.at);
    let next = found.next.map(|next| Cursor::new(list, position.clone(), next).encode());
    Ok(Page { items: found.items, next_cursor: next.transpose()?, position })
}

impl Services {
    /// The account that a path names, and the sequence from which on events are not in the answer.
    fn find_account(&self, name: &str) -> Result<(AccountRef, AccountSummary, u64), Problem> {
        let account = self.account_named(name)?;
        let found =
            self.inventory.account(&account, self.clock.now()).map_err(Problem::internal)?;
        let (summary, next_sequence) =
            found.ok_or_else(|| Problem::new(Case::NotFound, "no such account in the ledger"))?;
        Ok((account, summary, next_sequence))
    }
}
