//! `webhooks`: who is told what happens, and how that stands.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::admin::{Command, execute};
use super::{Place, print_json};
use crate::access::secrets;
use crate::clock::Clock;
use crate::config::{Config, WebhookEndpoint};
use crate::domain::event::WebhookChange;
use crate::notify::{Card, Desk, DeskError, Endpoint, TYPES, View};
use crate::outbound::signing::SigningKey;
use crate::outbound::{Outbound, Reach, Target};

/// Dead letters read in one step.
const PAGE: usize = 1000;

/// Show who is told what happens, and send again; also while serving
///
/// Endpoints are `[[webhooks.endpoints]]` of the configuration. What is changed here takes effect
/// within a second.
#[derive(Debug, Subcommand)]
pub enum WebhooksCommand {
    /// List the endpoints and how delivery stands
    List(ListArgs),
    /// List the messages that are not tried again
    DeadLetters(EndpointArgs),
    /// Send messages again: a range of the ledger, or dead letters
    Replay(ReplayArgs),
    /// Send to a disabled endpoint again, from where it stopped, and what failed at once
    Enable(EndpointArgs),
    /// Stop sending to an endpoint; what happens waits in the ledger
    Disable(EndpointArgs),
}

/// Arguments of `webhooks list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of what concerns one endpoint.
#[derive(Debug, Args)]
pub struct EndpointArgs {
    #[command(flatten)]
    place: Place,
    /// The endpoint's id
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `webhooks replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    what: What,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct What {
    /// Position that the range begins at
    #[arg(long, value_name = "POSITION", requires = "to")]
    from: Option<u64>,
    /// Position that it ends at, not included
    #[arg(long, value_name = "POSITION", requires = "from")]
    to: Option<u64>,
    /// Id of one dead letter
    #[arg(long, value_name = "ID", conflicts_with_all = ["from", "to", "dead_letters"])]
    message: Option<Uuid>,
    /// All dead letters
    #[arg(long, conflicts_with_all = ["from", "to"])]
    dead_letters: bool,
}

/// Carries a command out. Exit code 1 if there is no such endpoint or message.
pub fn run(command: WebhooksCommand) -> anyhow::Result<ExitCode> {
    let done = match command {
        WebhooksCommand::List(args) => list(&args),
        WebhooksCommand::DeadLetters(args) => dead_letters(&args),
        WebhooksCommand::Replay(ReplayArgs { endpoint, what }) => {
            let change = match what.from.zip(what.to) {
                Some((from, to)) => WebhookChange::RangeReplayed { from, to },
                None => WebhookChange::DeadLettersReplayed { message_id: what.message },
            };
            changed(&endpoint, change)
        }
        WebhooksCommand::Enable(args) => changed(&args, WebhookChange::Enabled),
        WebhooksCommand::Disable(args) => changed(&args, WebhookChange::Disabled),
    };
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => match error.downcast_ref() {
            Some(DeskError::NoEndpoint(_) | DeskError::NoLetter | DeskError::Range { .. }) => {
                eprintln!("error: {error}");
                Ok(ExitCode::from(1))
            }
            _ => Err(error),
        },
    }
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let views = desk(&args.place)?.list()?;
    if args.json {
        return print_json(&views);
    }
    println!(
        "{:<20}  {:<8}  {:>10}  {:>8}  {:>12}  URL",
        "ID", "STATUS", "POSITION", "RETRYING", "DEAD LETTERS"
    );
    for View { card, state } in views {
        println!(
            "{:<20}  {:<8}  {:>10}  {:>8}  {:>12}  {}",
            card.id, state.status, state.position, state.retrying, state.dead_letters, card.url
        );
        if let Some(error) = state.last_error.filter(|_| state.status != "active") {
            println!("{:<20}  last error: {error}", "");
        }
    }
    Ok(())
}

fn dead_letters(args: &EndpointArgs) -> anyhow::Result<()> {
    let desk = desk(&args.place)?;
    let (mut after, mut letters) = (None, Vec::new());
    loop {
        let page = desk.dead_letters(&args.id, after, PAGE)?;
        after = page.last().map(crate::notify::DeadLetter::place);
        let more = page.len() == PAGE;
        letters.extend(page);
        if !more {
            break;
        }
    }
    if args.json {
        return print_json(&letters);
    }
    for letter in letters {
        println!(
            "{}  {:<26}  sequence {}  {} attempts until {}: {}",
            letter.message_id,
            letter.kind,
            letter.sequence,
            letter.attempts,
            letter.last_failed_at,
            letter.last_error
        );
    }
    Ok(())
}

/// Changes an endpoint, and has the ledger take note of it.
fn changed(args: &EndpointArgs, change: WebhookChange) -> anyhow::Result<()> {
    let view = desk(&args.place)?.change(&args.id, &change)?;
    let endpoint = args.id.clone();
    execute(&args.place, Command::NoteWebhook { endpoint, change })
        .context("it is done, and the ledger could not take note of it")?;
    if args.json {
        return print_json(&view);
    }
    let View { card, state } = view;
    println!("{} is {} at position {}", card.id, state.status, state.position);
    println!("  {} to be tried again, {} dead letters", state.retrying, state.dead_letters);
    for replay in state.replays {
        println!("  to be sent again from position {} to {}", replay.position, replay.to);
    }
    Ok(())
}

fn desk(place: &Place) -> anyhow::Result<Desk> {
    let config = place.config(Vec::new())?;
    let endpoints = endpoints(&config)?;
    Ok(Desk::open(config.data()?, Clock::System, &endpoints)?)
}

/// The endpoints of the configuration, ready to be told.
///
/// # Errors
///
/// The setting or file that cannot be used.
pub(crate) fn endpoints(config: &Config) -> anyhow::Result<Vec<Endpoint>> {
    config.webhooks.endpoints.iter().map(endpoint).collect()
}

fn endpoint(endpoint: &WebhookEndpoint) -> anyhow::Result<Endpoint> {
    let id = &endpoint.id;
    let keys = endpoint.secret_files.iter().map(|path| key(path));
    let keys = keys.collect::<anyhow::Result<Vec<_>>>();
    let keys =
        keys.with_context(|| format!("cannot use secret_files of the webhook endpoint {id}"))?;
    let types = types(endpoint)?;
    let reach = if endpoint.allow_private { Reach::Anywhere } else { Reach::Public };
    let outbound = Outbound::new(&Target {
        setting: &format!("url of the webhook endpoint {id}"),
        url: &endpoint.url,
        ca_setting: &format!("ca of the webhook endpoint {id}"),
        ca: endpoint.ca.as_deref(),
        allow_http_setting: &format!("allow_http of the webhook endpoint {id}"),
        allow_http: endpoint.allow_http,
        reach,
    })?;
    let card = Card {
        id: id.clone(),
        url: endpoint.url.split(['?', '#']).next().unwrap_or_default().to_owned(),
        types,
        public_keys: keys.iter().filter_map(SigningKey::public).collect(),
    };
    let timeout = Duration::from_secs(endpoint.timeout_seconds);
    Ok(Endpoint {
        card,
        outbound,
        keys,
        timeout,
        in_flight: endpoint.in_flight,
        from: endpoint.from,
    })
}

fn key(path: &Path) -> anyhow::Result<SigningKey> {
    let text = secrets::read_text(path)?;
    SigningKey::parse(&text).with_context(|| format!("cannot use {}", path.display()))
}

fn types(endpoint: &WebhookEndpoint) -> anyhow::Result<BTreeSet<&'static str>> {
    if endpoint.types.is_empty() {
        return Ok(TYPES.iter().copied().collect());
    }
    let known = |name: &String| {
        TYPES.iter().copied().find(|known| known == name).with_context(|| {
            let (id, all) = (&endpoint.id, TYPES.join(", "));
            format!("types of the webhook endpoint {id} names {name:?}; the types are {all}")
        })
    };
    endpoint.types.iter().map(known).collect()
}
