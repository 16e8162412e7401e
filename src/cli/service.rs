//! The whole service, put together: ledger, keys, use cases, read models, HTTP.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;
use zeroize::Zeroizing;

use super::admin::{Admin, Command, Outcome};
use super::control::{self, Control};
use super::master_key::KeyFiles;
use super::revocation::{ListFiles, Watch};
use super::voiding::Sweep;
use super::webhooks;
use super::{Place, open, pins, pki, runtime, shared};
use crate::access::{ApiKeyText, RateLimiter, Registry as ApiKeys, Scope};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::domain::ReferenceKey;
use crate::domain::quota::{QuotaPolicy, Voiding};
use crate::entitlement::{Callback, Entitlement, Open, Token};
use crate::grpc;
use crate::http;
use crate::http::health::Readiness;
use crate::http::metrics::Metrics;
use crate::http::routes::{Services, install, install_packaging};
use crate::http::{Running, Server, Shell};
use crate::keys::{DEFAULT_SEED, Keys};
use crate::ledger::Ledger;
use crate::ledger::state::{Deciding, StateStore};
use crate::licensing::{Licensing, Parts, Policies, Registry, TakenLists};
use crate::notify::Webhooks;
use crate::packaging::Packager;
use crate::playready::acquire::{ResponseSigner, SignResponses};
use crate::playready::challenge::Verifier;
use crate::playready::pki::Pki;
use crate::playready::policy::BinaryId;
use crate::projections::{History, Inventory};

/// A clock that runs behind the newest event by more than this would date new events falsely.
const CLOCK_BEHIND_MAX_MS: i64 = 2_000;

/// A service at work.
pub struct Service {
    /// The HTTP side.
    pub running: Running,
    /// The listener for packagers, if there is one.
    pub packaging: Option<Running>,
    /// The ledger over the KurrentDB protocol, if it is offered.
    pub grpc: Option<grpc::Running>,
    /// The admin key, if this start made it: shown once and kept nowhere.
    pub admin_key: Option<ApiKeyText>,
    /// The use cases.
    pub licensing: Arc<Licensing>,
    /// The read model.
    pub inventory: Arc<Inventory>,
    /// The event log.
    pub ledger: Arc<Ledger>,
    /// The PKI that it reads.
    pub pki: PathBuf,
    control: Option<Control>,
    others: Option<shared::Others>,
    webhooks: Option<Webhooks>,
    /// What goes on besides answering; ends with the service.
    background: tokio::task::JoinSet<()>,
    runtime: tokio::runtime::Runtime,
}

impl Service {
    /// Opens everything and serves. When this returns, connections are accepted.
    pub fn start(config: &Config, clock: Clock) -> anyhow::Result<Self> {
        let data = config.data()?.to_owned();
        let runtime = runtime()?;
        let ledger = Arc::new(runtime.block_on(open::ledger(config, &data))?);
        let opened = runtime.block_on(Opened::open(config, &data, &ledger, &clock))?;
        let Opened { admin, licensing, registry, inventory, mut readiness, pki, lists, others } =
            opened;
        let admin = Arc::new(admin);
        let metrics = Arc::new(Metrics::default());
        metrics.register(|registry| licensing.metrics().register(registry));
        let webhooks = runtime.block_on(start_webhooks(config, &data, &ledger, &clock))?;
        if let Some(webhooks) = &webhooks {
            metrics.register(|registry| webhooks.metrics().register(registry));
            let failed = webhooks.failed();
            readiness = readiness.check("webhooks", move || match failed.load(Ordering::Relaxed) {
                true => Err("stopped; see the log".to_owned()),
                false => Ok(()),
            });
        }
        let sweep_clock = clock.clone();
        let services = actix_web::web::Data::new(Services {
            licensing: Arc::clone(&licensing),
            policies: Policies::new(Arc::clone(&ledger), clock.clone()),
            registry,
            packager: Packager::new(config.packaging.clone(), clock.clone()),
            inventory: Arc::clone(&inventory),
            history: History::new(Arc::clone(&ledger)),
            webhooks: webhooks.as_ref().map(Webhooks::desk),
            identity_rate: RateLimiter::new(config.rate.per_identity_per_minute, config.rate.burst),
            clearkey_origins: config.clearkey.enabled.then(|| config.clearkey.origins.clone()),
            clock,
        });
        let access = Arc::clone(admin.api_keys());
        let grpc = serve_ledger(config, &access, &ledger, &sweep_clock)?;
        let packaging = serve_packaging(config, &access, &metrics, &services)?;
        let shell = Shell::new(config, access, metrics, readiness);
        let running = Server::start(config, shell, move |routes| install(routes, &services))?;
        let control = Control::listen(&data, Arc::clone(&admin), &runtime)?;
        let mut background = tokio::task::JoinSet::new();
        background.spawn_on(lists.follow(Arc::clone(&licensing)), runtime.handle());
        let sweep = Sweep::new(Arc::clone(&licensing), Arc::clone(&inventory), sweep_clock);
        background.spawn_on(sweep.follow(), runtime.handle());
        // Shown once, so it is made when nothing is left that could fail.
        let admin_key = runtime.block_on(admin.first_key(&[Scope::Admin]))?;
        Ok(Self {
            running,
            packaging,
            grpc,
            admin_key,
            licensing,
            inventory,
            ledger,
            pki,
            control: Some(control),
            others,
            webhooks,
            background,
            runtime,
        })
    }

    /// The base URL.
    pub fn url(&self) -> String {
        self.running.url()
    }

    /// Finishes what was accepted, then closes the ledger.
    pub fn stop(self) -> anyhow::Result<()> {
        self.running.stop_handle().stop();
        self.wait()
    }

    /// Waits until the service is told to stop, then closes the ledger.
    pub fn wait(mut self) -> anyhow::Result<()> {
        self.running.wait().context("the HTTP server failed")?;
        if let Some(packaging) = self.packaging.take() {
            packaging.stop().context("the packagers' HTTP server failed")?;
        }
        if let Some(grpc) = self.grpc.take() {
            grpc.stop();
        }
        drop(self.control.take());
        drop(self.webhooks.take());
        drop(self.others.take());
        self.runtime.block_on(async {
            self.background.shutdown().await;
            self.ledger.close().await;
        });
        Ok(())
    }
}

/// Carries out a command that needs all of the service: through the process that serves the ledger
/// at `place`, or else by opening everything but its doors.
pub(super) fn execute(place: &Place, command: Command) -> anyhow::Result<Outcome> {
    let config = place.config(Vec::new())?;
    let data = config.data()?;
    if let Some(outcome) = control::ask(data, &command)? {
        return Ok(outcome);
    }
    runtime()?.block_on(async {
        let ledger = Arc::new(open::existing_ledger(&config, data).await?);
        let served = ledger.last_sequence().await?.is_some();
        anyhow::ensure!(served, "the ledger of {} was never served", data.display());
        let opened = Opened::open(&config, data, &ledger, &Clock::System).await?;
        let outcome = opened.admin.execute(command).await;
        ledger.close().await;
        outcome
    })
}

/// Serves packagers on the address that the configuration has for them.
fn serve_packaging(
    config: &Config,
    access: &Arc<ApiKeys>,
    metrics: &Arc<Metrics>,
    services: &actix_web::web::Data<Services>,
) -> anyhow::Result<Option<Running>> {
    let Some(listen) = config.packaging.listen else { return Ok(None) };
    let mut config = config.clone();
    config.listen = listen;
    let shell = Shell::new(&config, Arc::clone(access), Arc::clone(metrics), Readiness::default());
    let services = services.clone();
    let routes = move |routes: &mut _| install_packaging(routes, &services);
    let running = Server::start(&config, shell, routes);
    Ok(Some(running.context("packaging.listen cannot be served")?))
}

/// Offers the ledger over the KurrentDB protocol on the address that the configuration has for it.
fn serve_ledger(
    config: &Config,
    access: &Arc<ApiKeys>,
    ledger: &Arc<Ledger>,
    clock: &Clock,
) -> anyhow::Result<Option<grpc::Running>> {
    let Some(listen) = config.grpc.listen else { return Ok(None) };
    let parts = grpc::Parts {
        ledger: Arc::clone(ledger),
        access: Arc::clone(access),
        clock: clock.clone(),
    };
    let tls = http::server::tls_config(&config.tls)?;
    let running = grpc::Endpoint::start(config, listen, tls, parts);
    Ok(Some(running.context("grpc.listen cannot be served")?))
}

/// Tells the endpoints of the configuration what happens, if there are any.
async fn start_webhooks(
    config: &Config,
    data: &Path,
    ledger: &Arc<Ledger>,
    clock: &Clock,
) -> anyhow::Result<Option<Webhooks>> {
    let endpoints = webhooks::endpoints(config)?;
    if endpoints.is_empty() {
        return Ok(None);
    }
    let percents = config.webhooks.thresholds_percent.clone();
    let started = Webhooks::start(data, Arc::clone(ledger), clock.clone(), endpoints, percents);
    Ok(Some(started.await.context("webhooks cannot be sent")?))
}

/// All that stands behind HTTP.
struct Opened {
    admin: Admin,
    licensing: Arc<Licensing>,
    registry: Arc<Registry>,
    inventory: Arc<Inventory>,
    readiness: Readiness,
    pki: PathBuf,
    lists: Watch,
    /// Takes in what happens through other processes, if there may be any.
    others: Option<shared::Others>,
}

impl Opened {
    async fn open(
        config: &Config,
        data: &Path,
        ledger: &Arc<Ledger>,
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let empty = ledger.last_sequence().await?.is_none();
        let secrets = super::admin::Secrets::open(&config.secrets()?, empty)?;
        let pki_dir = pki_dir(config, empty)?;
        let key_files = KeyFiles::new(&config.secrets()?, data);
        let keys = key_files.open_keys()?.with_default_seed(&config.keys.default_seed);
        require_default_seed(&keys)?;
        let keys = Arc::new(keys);
        let pki = load_pki(&pki_dir, clock)?;
        let pins = pins::pins(&secrets, &pki);
        let next = ledger.subscribe().borrow().map_or(0, |last| last + 1);
        pins::settle(config, ledger, &pins, clock).await?;
        let store = Arc::new(StateStore::open(data, Arc::clone(ledger)).await?);
        let inventory = Arc::new(Inventory::open(data, Arc::clone(ledger)).await?);
        let named = config.playready.revocation_lists.as_deref();
        let lists = ListFiles::new(&pki_dir, named, pki.root);
        let taken = TakenLists::last(ledger, &pki.root).await?;
        let (lists, revocation) = Watch::open(lists, taken, clock.clone())?;
        let parts = Parts {
            ledger: Arc::clone(ledger),
            deciding: Deciding::new(Arc::clone(ledger), Arc::clone(&store)),
            keys: Arc::clone(&keys),
            root: pki.root,
            verifier: Verifier::new(pki.wmrm, pki.root),
            signer: ResponseSigner::new(
                pki.server_sign,
                pki.server_chain.bytes(),
                sign_responses(config),
            ),
            revocation,
            reference_key: ReferenceKey::new(*secrets.reference),
            entitlement: entitlement(config, clock)?,
            clock: clock.clone(),
            quota: quota_policy(&config.quota),
            replay_window_ms: i64::from(config.replay.window_hours) * 60 * 60 * 1000,
        };
        let licensing = Arc::new(Licensing::new(parts).await?);
        licensing.record_revocation().await?;
        let registry =
            Arc::new(Registry::new(Arc::clone(ledger), Arc::clone(&keys), clock.clone()));
        let missing = Arc::new(AtomicUsize::new(registry.load().await?));
        let api_keys = Arc::new(ApiKeys::new(secrets.api));
        let policies = Policies::new(Arc::clone(ledger), clock.clone());
        let (of_admin, its_clock) = (Arc::clone(&registry), clock.clone());
        let (its_keys, its_api_keys) = (Arc::clone(&keys), Arc::clone(&api_keys));
        let admin = Admin::new(of_admin, policies, keys, key_files, api_keys, its_clock).await?;
        let admin = admin.explaining_by(Arc::clone(&licensing));
        let mut readiness = readiness(config, ledger, &store, &inventory, clock, &missing);
        let others = match ledger.is_shared() {
            true => {
                let registry = Arc::clone(&registry);
                let repinned = Arc::new(AtomicBool::new(false));
                let seen = Arc::clone(&repinned);
                readiness = readiness.check("pins", move || match seen.load(Ordering::Relaxed) {
                    true => Err("the ledger has other keys by now; see the log".to_owned()),
                    false => Ok(()),
                });
                let acts = shared::Acts { api_keys: its_api_keys, keys: its_keys, pins, repinned };
                Some(shared::Others::follow(ledger, next, acts, registry, missing).await?)
            }
            false => None,
        };
        let authorizes = Arc::clone(&licensing);
        let readiness = readiness.check("authorize", move || authorizes.entitlement().ready());
        let pki = pki_dir;
        Ok(Self { admin, licensing, registry, inventory, readiness, pki, lists, others })
    }
}

/// Who says what may be issued.
fn entitlement(config: &Config, clock: &Clock) -> anyhow::Result<Entitlement> {
    Ok(match config.authorize {
        config::Authorize::Open => {
            Entitlement::Open(Open { secure_stop_id: secure_stop_id(config)? })
        }
        config::Authorize::Token => Entitlement::Token(Token::open(&config.token, clock.clone())?),
        config::Authorize::Callback => {
            let path = config.callback.secret_file.as_deref().unwrap_or(Path::new(""));
            let secret = crate::access::secrets::read_text(path)
                .context("cannot use callback.secret_file")?;
            Entitlement::Callback(Callback::open(&config.callback, &secret, clock.clone())?)
        }
    })
}

/// The policy that an empty ledger begins with.
fn quota_policy(quota: &config::Quota) -> QuotaPolicy {
    let voiding = Voiding {
        min_security_level: quota.void_min_security_level,
        store_failed: quota.void_store_failed,
        unconfirmed_after_seconds: quota.void_unconfirmed_after_seconds,
    };
    let voids = voiding.store_failed || voiding.unconfirmed_after_seconds.is_some();
    QuotaPolicy {
        voiding: voids.then_some(voiding),
        ..QuotaPolicy::with_device_limit(quota.device_limit, quota.licenses_per_slot)
    }
}

fn secure_stop_id(config: &Config) -> anyhow::Result<Option<BinaryId>> {
    let id = config.playready.secure_stop_id.clone();
    id.map(BinaryId::try_from).transpose().context("playready.secure_stop_id cannot be used")
}

/// A default seed that somebody chose has to be there: without it KIDs would have other keys.
fn require_default_seed(keys: &Keys) -> anyhow::Result<()> {
    let seed_id = keys.default_seed();
    anyhow::ensure!(
        seed_id == DEFAULT_SEED || keys.seed(seed_id).is_some(),
        "keys.default_seed names the key seed `{seed_id}`, which is not registered; register it \
         with `license-ledger keys seed --id {seed_id}`"
    );
    Ok(())
}

fn sign_responses(config: &Config) -> SignResponses {
    match config.playready.sign_responses {
        config::SignResponses::Always => SignResponses::Always,
        config::SignResponses::Persistent => SignResponses::Persistent,
        config::SignResponses::Never => SignResponses::Never,
    }
}

/// The PKI folder: the configured one, or one of our own making beside the key files.
pub(super) fn pki_dir(config: &Config, empty: bool) -> anyhow::Result<PathBuf> {
    if let Some(pki) = &config.pki {
        return Ok(pki.clone());
    }
    let pki = config.secrets()?.join("pki");
    if !pki.exists() {
        anyhow::ensure!(
            empty,
            "there is no PKI in {}, and the devices of this ledger belong to one; name it with \
             --pki DIR or restore it",
            pki.display()
        );
        pki::init(&pki)?;
        tracing::info!("made a public key infrastructure of its own in {}", pki.display());
    }
    Ok(pki)
}

pub(super) fn load_pki(dir: &Path, clock: &Clock) -> anyhow::Result<Pki> {
    anyhow::ensure!(
        dir.is_dir(),
        "there is no PKI folder {}; make one with `license-ledger pki init --out {}`",
        dir.display(),
        dir.display()
    );
    let now_s = u64::try_from(clock.now().seconds()).unwrap_or_default();
    let pki = Pki::load(|path| std::fs::read(dir.join(path)), now_s)
        .with_context(|| format!("cannot use the PKI in {}", dir.display()))?;
    pki::warn_of_readable_keys(dir);
    Ok(pki)
}

fn readiness(
    config: &Config,
    ledger: &Arc<Ledger>,
    store: &Arc<StateStore>,
    inventory: &Arc<Inventory>,
    clock: &Clock,
    missing_keys: &Arc<AtomicUsize>,
) -> Readiness {
    let open = ledger.subscribe();
    let (state, store) = (Arc::clone(store), Arc::clone(store));
    let (inventory, clock) = (Arc::clone(inventory), clock.clone());
    let (state_at, inventory_at) = (Arc::clone(&state), Arc::clone(&inventory));
    let (missing_keys, events_max) = (Arc::clone(missing_keys), config.limits.lag_events);
    // What the cluster has and this process has not heard of is missing in the read models as well.
    let (followed, followed_for_inventory) = (Arc::clone(ledger), Arc::clone(ledger));
    let lag = |ledger: &Ledger, next: u64| {
        let last = *ledger.subscribe().borrow();
        last.map_or(0, |last| (last + 1).saturating_sub(next)).saturating_add(ledger.behind())
    };
    let in_cluster = ledger.is_shared().then(|| Arc::clone(ledger));
    let ledger = Arc::clone(ledger);
    let failed = |failed: Option<String>| match failed {
        Some(_) => Err("stopped; see the log".to_owned()),
        None => Ok(()),
    };
    let mut readiness = Readiness::default();
    if let Some(ledger) = in_cluster {
        readiness = readiness.lag("ledger", events_max, move || ledger.behind());
    }
    readiness
        .lag("state", events_max, move || lag(&followed, state_at.progress().next_sequence))
        .lag("inventory", events_max, move || {
            // One that cannot be read is reported by its check.
            let next = inventory_at.progress().map_or(u64::MAX, |progress| progress.next_sequence);
            lag(&followed_for_inventory, next)
        })
        .check("ledger", move || {
            open.has_changed().map_err(|_| "takes no more events".to_owned())?;
            ledger.trouble().map_or(Ok(()), Err)
        })
        .check("state", move || failed(state.progress().failed))
        .check("inventory", move || {
            let progress = inventory.progress().map_err(|_| "cannot be read".to_owned())?;
            failed(progress.failed)
        })
        .check("clock", move || {
            let behind_ms = store.progress().last_at_ms - clock.now().0;
            if behind_ms > CLOCK_BEHIND_MAX_MS {
                return Err(format!("{behind_ms} ms behind the newest event"));
            }
            Ok(())
        })
        .check("keys", move || match missing_keys.load(Ordering::Relaxed) {
            0 => Ok(()),
            n => Err(format!("{n} registered keys or key seeds are missing here")),
        })
}

/// Wiped key bytes.
pub(crate) type KeyBytes = Zeroizing<[u8; 32]>;
