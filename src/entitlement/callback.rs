//! The service is asked about each request, and its answer decides.
//!
//! The facts of the request are posted to `callback.url` as JSON, signed as a
//! [Standard Webhook](https://www.standardwebhooks.com): `webhook-id` is a fresh id, the same for
//! every attempt; `webhook-timestamp` the Unix seconds of the attempt; `webhook-signature` is `v1,`
//! and the base64 of HMAC-SHA-256 over `id.timestamp.body` with the secret in `callback.secret_file`,
//! a line `whsec_` and the base64 of 24 to 64 bytes. [`signing`](crate::outbound::signing) has the
//! form, and the other one that the file may hold.
//!
//! ```json
//! {"type": "license.requested", "timestamp": "2026-03-31T12:00:00.000Z", "data": {
//!    "id": "…", "drm_system": "playready", "request_sha256": "…",
//!    "kids": ["01234567-89ab-cdef-0123-456789abcdef"], "persistent": null,
//!    "identity": "…", "device": "beb4pw6chv22zwww44tn5zxsb4", "security_level": 2000,
//!    "model": "Lab tv 1", "client_version": "10.0.16384.10011",
//!    "custom_data": "…", "ip": "192.0.2.1"}}
//! ```
//!
//! `persistent` is what custom data asks for, `device` the ledger's reference, absent at first sight.
//! What is not known is `null`. The answer has status 200 and one of two bodies, of at most
//! [`ANSWER_BYTES_MAX`] bytes, where `license` is a [statement](super::statement):
//!
//! ```json
//! {"decision": "allow", "license": {"account": "alice", "keys": [{"kid": "0123…", "policy": {"sl": 2000}}]}}
//! {"decision": "deny", "reason": "subscription_expired"}
//! ```
//!
//! The device gets the reason with its refusal: up to [`REASON_BYTES_MAX`] printable ASCII
//! characters. No answer in time, any other status, and any other body deny with `try_later`. No
//! connection and statuses from 500 on are tried again, at most `callback.retries` times, and
//! everything has to be done within `callback.deadline_ms`. Redirects are not followed. A challenge
//! that was granted before is answered without asking. The URL is `https`; it is `http` on this
//! machine only, unless `callback.allow_http` says otherwise: nobody signs the answer.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::statement::{Statement, shape_error};
use super::{Asked, EntitlementError, Grant, NotEntitled};
use crate::clock::{Clock, UnixMillis};
use crate::config;
use crate::keys::Keys;
use crate::outbound::signing::SigningKey;
use crate::outbound::{Answer, Outbound, Reach, Target};
use crate::playready::soap::{Fault, Refusal};

/// The longest answer that is read, in bytes.
pub const ANSWER_BYTES_MAX: u64 = 256 * 1024;
/// The longest reason that is passed on, in bytes.
pub const REASON_BYTES_MAX: usize = 200;
/// How long to wait before the first further attempt; twice as long before each other.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Serves what the service's answer says.
pub struct Callback {
    caller: Arc<Caller>,
    places: Arc<Semaphore>,
    deadline: Duration,
    clock: Clock,
}

/// Asks until there is an answer.
struct Caller {
    outbound: Outbound,
    key: SigningKey,
    timeout: Duration,
    retries: u32,
    clock: Clock,
}

#[derive(Serialize)]
struct Question<'a> {
    r#type: &'static str,
    timestamp: UnixMillis,
    data: Facts<'a>,
}

#[derive(Serialize)]
struct Facts<'a> {
    id: Uuid,
    drm_system: &'a str,
    request_sha256: Option<String>,
    kids: Vec<Uuid>,
    persistent: Option<bool>,
    identity: Option<String>,
    device: Option<String>,
    security_level: Option<u32>,
    model: Option<&'a str>,
    client_version: Option<&'a str>,
    custom_data: Option<&'a str>,
    ip: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case", deny_unknown_fields)]
enum Verdict {
    Allow { license: Box<Statement> },
    Deny { reason: Option<String> },
}

/// Why there is no answer to go by. Shows nothing of what was sent.
#[derive(Debug, thiserror::Error)]
enum CallbackError {
    #[error("too many requests wait for the service's answer")]
    Busy,
    #[error("the operating system gives no randomness")]
    Random,
    #[error("the question cannot be written")]
    Question,
    #[error("there was no answer in time, {attempts} attempts; the last: {last}")]
    NoAnswer { attempts: u32, last: String },
    #[error("the answer has status {0} and not 200")]
    Status(u16),
    #[error("the answer has more than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the answer is not of the form expected: {0}")]
    Shape(String),
}

impl From<CallbackError> for Fault {
    fn from(error: CallbackError) -> Self {
        tracing::warn!(%error, "the authorization callback failed: {error}");
        Self::refused_because(Refusal::TryLater, format_args!("the callback failed: {error}"))
    }
}

impl Callback {
    /// Asks as `config` says. `secret` is the text of the secret's file.
    pub fn open(
        config: &config::Callback,
        secret: &str,
        clock: Clock,
    ) -> Result<Self, EntitlementError> {
        let outbound = Outbound::new(&Target {
            setting: "callback.url",
            url: config.url.as_deref().unwrap_or_default(),
            ca_setting: "callback.ca",
            ca: config.ca.as_deref(),
            allow_http_setting: "callback.allow_http",
            allow_http: config.allow_http,
            reach: Reach::Anywhere,
        })?;
        let file = config.secret_file.as_deref().unwrap_or(Path::new(""));
        let caller = Caller {
            outbound,
            key: SigningKey::parse(secret)
                .map_err(|source| EntitlementError::Secret { path: file.to_owned(), source })?,
            timeout: Duration::from_millis(config.timeout_ms),
            retries: config.retries,
            clock: clock.clone(),
        };
        Ok(Self {
            caller: Arc::new(caller),
            places: Arc::new(Semaphore::new(config.in_flight)),
            deadline: Duration::from_millis(config.deadline_ms),
            clock,
        })
    }

    pub(super) async fn grant(&self, asked: &Asked<'_>, keys: &Keys) -> Result<Grant, NotEntitled> {
        asked.check_kids(keys)?;
        let persistent = asked.wishes_persistent()?;
        let (id, question) = self.question(asked, persistent).map_err(Fault::from)?;
        let answer = self.ask(id, question).await.map_err(Fault::from)?;
        let shape = |reason: String| Fault::from(CallbackError::Shape(reason));
        let verdict: Verdict =
            serde_json::from_slice(&answer).map_err(|error| shape(shape_error(&error)))?;
        match verdict {
            Verdict::Allow { license } => {
                license.check().map_err(|error| shape(error.to_string()))?;
                license.grant(asked, keys, "callback", None)
            }
            Verdict::Deny { reason } => {
                let reason = reason.filter(|reason| is_reason(reason));
                let detail = "the callback denied the request";
                Err(Fault::refused_because(Refusal::NotEntitled { reason }, detail).into())
            }
        }
    }

    fn question(
        &self,
        asked: &Asked<'_>,
        persistent: Option<bool>,
    ) -> Result<(Uuid, Vec<u8>), CallbackError> {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| CallbackError::Random)?;
        let id = uuid::Builder::from_random_bytes(id).into_uuid();
        let asker = &asked.asker;
        let data = Facts {
            id,
            drm_system: asker.drm_system,
            request_sha256: asker.request_sha256.map(|digest| digest.to_string()),
            kids: asked.kids.iter().map(|kid| kid.guid()).collect(),
            persistent,
            identity: asker.identity.map(|identity| identity.to_string()),
            device: asker.device.map(ToString::to_string),
            security_level: asker.security_level,
            model: asker.model,
            client_version: asker.client_version,
            custom_data: asked.custom_data,
            ip: asker.ip.map(|ip| ip.to_string()),
        };
        let question = Question { r#type: "license.requested", timestamp: self.clock.now(), data };
        let body = serde_json::to_vec(&question).map_err(|_| CallbackError::Question)?;
        Ok((id, body))
    }

    /// Waits for a place, then asks on a thread that may block, which keeps the place until it is
    /// done even if nobody waits any more.
    async fn ask(&self, id: Uuid, body: Vec<u8>) -> Result<Vec<u8>, CallbackError> {
        let until = Instant::now() + self.deadline;
        let place = tokio::time::timeout(self.deadline, Arc::clone(&self.places).acquire_owned());
        let Ok(Ok(place)) = place.await else { return Err(CallbackError::Busy) };
        let caller = Arc::clone(&self.caller);
        let asked = tokio::task::spawn_blocking(move || {
            let _place: OwnedSemaphorePermit = place;
            caller.ask(&id.to_string(), &body, until)
        });
        let ended = |_| CallbackError::NoAnswer { attempts: 0, last: "it panicked".to_owned() };
        asked.await.map_err(ended)?
    }
}

impl Caller {
    fn ask(&self, id: &str, body: &[u8], until: Instant) -> Result<Vec<u8>, CallbackError> {
        let mut last = "none".to_owned();
        let mut pause = RETRY_PAUSE;
        for attempt in 0..=self.retries {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(CallbackError::NoAnswer { attempts: attempt, last });
            }
            match self.attempt(id, body, left.min(self.timeout)) {
                Ok(Answer { status: 200, body }) => return Ok(body),
                Ok(Answer { status, .. }) if status < 500 => {
                    return Err(CallbackError::Status(status));
                }
                Ok(Answer { status, .. }) => last = format!("status {status}"),
                Err(ureq::Error::BodyExceedsLimit(_)) => return Err(CallbackError::TooLarge),
                Err(error) => last = error.to_string(),
            }
            if attempt < self.retries {
                std::thread::sleep(pause.min(until.saturating_duration_since(Instant::now())));
                pause *= 2;
            }
        }
        Err(CallbackError::NoAnswer { attempts: self.retries + 1, last })
    }

    fn attempt(&self, id: &str, body: &[u8], timeout: Duration) -> Result<Answer, ureq::Error> {
        let timestamp = self.clock.now().seconds().to_string();
        let signature = self.key.sign(id, &timestamp, body);
        let headers = [
            ("webhook-id", id),
            ("webhook-timestamp", &timestamp),
            ("webhook-signature", &signature),
        ];
        self.outbound.post(&headers, body, ANSWER_BYTES_MAX, timeout)
    }
}

fn is_reason(text: &str) -> bool {
    (1..=REASON_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}
