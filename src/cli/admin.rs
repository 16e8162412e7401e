//! What operators may do to a ledger, whether it is being served or not.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::explain::Asked;
use super::master_key::KeyFiles;
use super::service::KeyBytes;
use super::support::Order;
use super::{Place, control, open, pins, runtime};
use crate::access::Registry as ApiKeys;
use crate::access::secrets::{self, Secret};
use crate::access::{ApiKeyId, ApiKeyRecord, ApiKeyText, KEY_RANDOM_BYTES, Scope};
use crate::clock::{Clock, UnixMillis};
use crate::domain::event::{ApiKeyCreated, WebhookChange};
use crate::domain::quota::QuotaPolicy;
use crate::domain::{Digest, Reason};
use crate::keys::{ImportedKey, KeySeed, Keys};
use crate::licensing::{
    Act, KeyRow, Licensing, PinnedKey, Policies, PublishError, Registered, Registry,
};

/// Who acts, as events name it: a person at the command line of this machine.
pub(super) const ACTOR: &str = "cli";
/// Who made the first API key: the service, at a start.
const SERVICE: &str = "service";

/// An operator's command. Its JSON form goes over the control socket and nowhere else.
#[derive(Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Register content keys.
    ImportKeys {
        /// The keys.
        keys: Vec<ImportedKey>,
    },
    /// Register a key seed.
    AddSeed {
        /// The seed's id.
        seed_id: String,
        /// The seed.
        seed: KeySeed,
    },
    /// List registered content keys and seeds.
    ListKeys {
        /// Row to begin with.
        from: u64,
        /// Most rows.
        limit: usize,
    },
    /// Seal everything under a new master key.
    RotateMaster,
    /// Show the quota policy in force.
    ShowPolicy,
    /// List versions of the quota policy.
    ListPolicies {
        /// Version to begin with.
        from: u64,
        /// Most versions.
        limit: usize,
    },
    /// Publish a quota policy.
    PublishPolicy {
        /// The policy.
        policy: QuotaPolicy,
        /// Why.
        reason: Reason,
        /// The version that has to be in force; `None`: whatever is.
        after: Option<u64>,
    },
    /// Explain a decision about a quota.
    Explain(Asked),
    /// Say what became of a device.
    Support(Order),
    /// Take note of what was changed of a webhook endpoint.
    NoteWebhook {
        /// The endpoint.
        endpoint: String,
        /// What was changed.
        change: WebhookChange,
    },
    /// Make an API key.
    CreateApiKey {
        /// Its label.
        name: String,
        /// What it may do.
        scopes: BTreeSet<Scope>,
    },
    /// List the API keys.
    ListApiKeys,
    /// Revoke an API key.
    RevokeApiKey {
        /// Its id, or the whole key.
        key_id: String,
    },
}

/// What a command did.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Content keys are registered.
    Keys(Registered),
    /// A seed is registered; `true` if it was not before.
    Seed(bool),
    /// A page of the keys and seeds there are.
    KeyRows {
        /// The rows.
        rows: Vec<KeyRow>,
        /// Where the next page begins.
        next: Option<u64>,
    },
    /// There is a new master key.
    MasterRotated,
    /// A version of the quota policy, as the API shows it; `None` if there is none.
    Policy(Option<serde_json::Value>),
    /// Versions of the quota policy.
    Policies(Vec<serde_json::Value>),
    /// The policy was not published.
    PolicySuperseded {
        /// The version in force.
        in_force: u64,
    },
    /// A decision, as the API shows it.
    Decision(serde_json::Value),
    /// What an act of support did, as the API shows it.
    Support(serde_json::Value),
    /// An act of support was refused, and why.
    SupportRefused(String),
    /// It is noted.
    Noted,
    /// An API key was made.
    ApiKey {
        /// Its id.
        key_id: String,
        /// The whole key, shown this once.
        key: String,
    },
    /// The API keys there are.
    ApiKeys(Vec<ApiKeyRow>),
    /// An API key is revoked; `true` if it was not before.
    Revoked(bool),
}

/// An API key in a list.
#[derive(Debug, Serialize, Deserialize)]
pub struct ApiKeyRow {
    /// Its id.
    pub key_id: String,
    /// Its label.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: String,
    /// When it was revoked, if it was.
    pub revoked_at: Option<String>,
}

/// The key files.
pub(crate) struct Secrets {
    pub(crate) api: Secret,
    pub(crate) reference: KeyBytes,
}

impl Secrets {
    /// Reads the key files in `dir`. Only an empty ledger gets new ones: with another reference
    /// key every device would look new.
    pub(crate) fn open(dir: &Path, empty: bool) -> anyhow::Result<Self> {
        if empty {
            let made = crate::cli::pki::make_private_dir(dir);
            made.with_context(|| format!("cannot make the key directory {}", dir.display()))?;
        }
        let file = |name: &str| -> anyhow::Result<Secret> {
            let path = dir.join(name);
            if empty {
                let fresh = Secret::new(secrets::os_random()?);
                return Ok(secrets::read_or_create(&path, &fresh)?);
            }
            Ok(secrets::read(&path)?)
        };
        file("master.key")?;
        Ok(Self {
            api: file("api.key")?,
            reference: Zeroizing::new(*file("reference.key")?.expose()),
        })
    }

    /// By what the keys are recognized that processes have in common.
    pub(super) fn fingerprints(&self) -> [(PinnedKey, Digest); 2] {
        let reference = Secret::new(*self.reference).fingerprint();
        [
            (PinnedKey::Reference, Digest(reference)),
            (PinnedKey::Api, Digest(self.api.fingerprint())),
        ]
    }
}

/// Carries out commands on an open ledger.
pub struct Admin {
    registry: Arc<Registry>,
    policies: Policies,
    /// Who decides; `None` where only registrations are made.
    licensing: Option<Arc<Licensing>>,
    keys: Arc<Keys>,
    key_files: KeyFiles,
    api_keys: Arc<ApiKeys>,
    clock: Clock,
    /// One command at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Admin {
    /// Reads the API keys of the ledger into `api_keys`.
    pub(crate) async fn new(
        registry: Arc<Registry>,
        policies: Policies,
        keys: Arc<Keys>,
        key_files: KeyFiles,
        api_keys: Arc<ApiKeys>,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        for (created, revoked_at_ms) in registry.api_keys().await? {
            let id = ApiKeyId::from(created.key_id.as_str());
            api_keys.apply_created(record_of(created));
            if let Some(at_ms) = revoked_at_ms {
                api_keys.apply_revoked(&id, UnixMillis(at_ms));
            }
        }
        let turn = tokio::sync::Mutex::default();
        Ok(Self { registry, policies, licensing: None, keys, key_files, api_keys, clock, turn })
    }

    /// Lets it explain decisions, and support act.
    pub(crate) fn explaining_by(self, licensing: Arc<Licensing>) -> Self {
        Self { licensing: Some(licensing), ..self }
    }

    /// The API keys, as they are checked.
    pub fn api_keys(&self) -> &Arc<ApiKeys> {
        &self.api_keys
    }

    /// Makes the first API key of a ledger that has none.
    pub async fn first_key(&self, scopes: &[Scope]) -> anyhow::Result<Option<ApiKeyText>> {
        let _turn = self.turn.lock().await;
        if !self.api_keys.list().is_empty() {
            return Ok(None);
        }
        let scopes = scopes.iter().copied().collect();
        Ok(Some(self.create_api_key("first-admin", scopes, SERVICE).await?.1))
    }

    /// Carries out a command.
    pub async fn execute(&self, command: Command) -> anyhow::Result<Outcome> {
        let _turn = self.turn.lock().await;
        Ok(match command {
            Command::ImportKeys { keys } => {
                Outcome::Keys(self.registry.content_keys(&keys, ACTOR).await?)
            }
            Command::AddSeed { seed_id, seed } => {
                Outcome::Seed(self.registry.key_seed(&seed_id, &seed, ACTOR).await?)
            }
            Command::ListKeys { from, limit } => {
                let page = self.registry.list(from, None, limit).await?;
                Outcome::KeyRows { rows: page.rows, next: page.next }
            }
            Command::RotateMaster => {
                self.key_files.rotate(&self.keys)?;
                self.registry.master_key_rotated(ACTOR).await?;
                Outcome::MasterRotated
            }
            Command::ShowPolicy => {
                let in_force = self.policies.in_force().await?;
                Outcome::Policy(in_force.map(serde_json::to_value).transpose()?)
            }
            Command::ListPolicies { from, limit } => {
                let versions = self.policies.versions(from, limit).await?.into_iter();
                Outcome::Policies(versions.map(serde_json::to_value).collect::<Result<_, _>>()?)
            }
            Command::PublishPolicy { policy, reason, after } => {
                let act = Act { actor: ACTOR, reason: &reason, correlation: ACTOR };
                match self.policies.publish(&policy, after, act).await {
                    Ok(version) => Outcome::Policy(Some(serde_json::to_value(version)?)),
                    Err(PublishError::Superseded { in_force }) => {
                        Outcome::PolicySuperseded { in_force }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Command::Explain(asked) => {
                let licensing = self.licensing.as_ref().context("nothing is decided here")?;
                Outcome::Decision(serde_json::to_value(asked.decide(licensing).await?)?)
            }
            Command::Support(order) => {
                let licensing = self.licensing.clone().context("nothing is decided here")?;
                // The future of a command cannot be sent to another thread.
                let here = tokio::runtime::Handle::current();
                let carry_out = move || here.block_on(order.carry_out(&licensing, ACTOR));
                tokio::task::spawn_blocking(carry_out).await??
            }
            Command::NoteWebhook { endpoint, change } => {
                self.registry.webhook_changed(&endpoint, &change, ACTOR).await?;
                Outcome::Noted
            }
            Command::CreateApiKey { name, scopes } => {
                let (key_id, key) = self.create_api_key(&name, scopes, ACTOR).await?;
                Outcome::ApiKey { key_id, key: key.expose().to_owned() }
            }
            Command::ListApiKeys => {
                Outcome::ApiKeys(self.api_keys.list().into_iter().map(row_of).collect())
            }
            Command::RevokeApiKey { key_id } => {
                let key_id = id_of(&key_id);
                let fresh = self.registry.revoke_api_key(key_id, ACTOR).await?;
                self.api_keys.apply_revoked(&ApiKeyId::from(key_id), self.clock.now());
                Outcome::Revoked(fresh)
            }
        })
    }

    async fn create_api_key(
        &self,
        name: &str,
        scopes: BTreeSet<Scope>,
        actor: &str,
    ) -> anyhow::Result<(String, ApiKeyText)> {
        let random: Zeroizing<[u8; KEY_RANDOM_BYTES]> = Zeroizing::new(secrets::os_random()?);
        let (record, text) = self.api_keys.issue(name, scopes, self.clock.now(), &random)?;
        let created = ApiKeyCreated {
            key_id: record.id.as_str().to_owned(),
            name: record.name.clone(),
            hmac: Digest(record.hmac),
            scopes: record.scopes.iter().map(ToString::to_string).collect(),
            actor: actor.to_owned(),
            at_ms: record.created_at.0,
        };
        self.registry.create_api_key(created).await?;
        let id = record.id.as_str().to_owned();
        self.api_keys.apply_created(record);
        Ok((id, text))
    }
}

pub(super) fn record_of(created: ApiKeyCreated) -> ApiKeyRecord {
    ApiKeyRecord {
        id: ApiKeyId::from(created.key_id.as_str()),
        name: created.name,
        hmac: created.hmac.0,
        // A scope of a later version is one that this version cannot grant.
        scopes: created.scopes.iter().filter_map(|scope| scope.parse().ok()).collect(),
        created_at: UnixMillis(created.at_ms),
        revoked_at: None,
    }
}

fn row_of(record: ApiKeyRecord) -> ApiKeyRow {
    ApiKeyRow {
        key_id: record.id.as_str().to_owned(),
        name: record.name,
        scopes: record.scopes.iter().map(ToString::to_string).collect(),
        created_at: record.created_at.to_rfc3339(),
        revoked_at: record.revoked_at.map(UnixMillis::to_rfc3339),
    }
}

/// The id within what a person may paste: the id, or the whole key.
fn id_of(text: &str) -> &str {
    text.strip_prefix("llk_").and_then(|rest| rest.split('_').next()).unwrap_or(text)
}

/// Carries out a command on the ledger at `place`: through the process that serves it, or else by
/// opening it.
pub fn execute(place: &Place, command: Command) -> anyhow::Result<Outcome> {
    let config = place.config(Vec::new())?;
    let data = config.data()?;
    if let Some(outcome) = control::ask(data, &command)? {
        return Ok(outcome);
    }
    runtime()?.block_on(async {
        let ledger = Arc::new(open::existing_ledger(&config, data).await?);
        let empty = ledger.last_sequence().await?.is_none();
        let secrets = Secrets::open(&config.secrets()?, empty)?;
        pins::compare(&config, &ledger, &secrets).await?;
        let key_files = KeyFiles::new(&config.secrets()?, data);
        let keys = Arc::new(key_files.open_keys()?);
        let clock = Clock::System;
        let registry = Registry::new(Arc::clone(&ledger), Arc::clone(&keys), clock.clone());
        registry.load().await?;
        let api_keys = Arc::new(ApiKeys::new(secrets.api));
        let policies = Policies::new(Arc::clone(&ledger), clock.clone());
        let registry = Arc::new(registry);
        let admin = Admin::new(registry, policies, keys, key_files, api_keys, clock).await?;
        let outcome = admin.execute(command).await;
        ledger.close().await;
        outcome
    })
}
