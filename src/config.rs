//! What an operator can set, and how settings come together.
//!
//! A setting has one name everywhere: `quota.device_limit` in the file is
//!
//! ```toml
//! [quota]
//! device_limit = 25
//! ```
//!
//! and `LICENSE_LEDGER_QUOTA_DEVICE_LIMIT` in the environment. The command line wins over the
//! environment, the environment over the file, the file over the default. A name that is no
//! setting is refused wherever it stands, so that a misspelled limit is never silently absent;
//! [`KEYS`] lists them all.
//!
//! There is no secret among the settings, only paths of files that hold one. Relative paths start
//! at the working directory. Times end in their unit: `_ms`, `_seconds`, `_hours`.

mod key;
mod origins;
mod sources;
mod webhooks;

pub use key::{KEYS, Key, Kind};
pub use origins::{InvalidOrigins, Origins};
pub use sources::{ConfigError, ENV_PREFIX, Flag, Sources};
pub use webhooks::{WebhookEndpoint, Webhooks};

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// Every setting, with the values that hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address to serve on. Loopback, so that nothing is public by accident; port 0 takes a free
    /// one.
    pub listen: SocketAddr,
    /// Directory of the ledger and the read models. See [`Config::data`].
    data: Option<PathBuf>,
    /// Cluster that keeps the ledger: `kurrentdb://HOST:PORT,…`. The data directory then holds only
    /// what is derived, and other processes may serve the same ledger. None: the ledger is in the
    /// data directory.
    pub ledger: Option<String>,
    /// How that cluster is used.
    pub kurrentdb: KurrentDb,
    /// Directory of the public key infrastructure: root, server chain, signing key.
    pub pki: Option<PathBuf>,
    /// Directory of the key files. See [`Config::secrets`].
    secrets: Option<PathBuf>,
    /// Who may be issued a license.
    pub authorize: Authorize,
    /// How tokens are verified, for `authorize = "token"`.
    pub token: Token,
    /// Who is asked, for `authorize = "callback"`.
    pub callback: Callback,
    /// Confirms settings that are refused without it: `authorize = "open"` on a public address, and
    /// Clear Key there without TLS.
    pub i_know: bool,
    /// Certificate and key for HTTPS.
    pub tls: Tls,
    /// Bounds on what one client, and all together, may occupy.
    pub limits: Limits,
    /// The policy that a ledger without one starts with.
    pub quota: Quota,
    /// Content keys.
    pub keys: Keys,
    /// Keys and headers for packagers.
    pub packaging: Packaging,
    /// Repeats of a challenge.
    pub replay: Replay,
    /// How often one caller may call.
    pub rate: Rate,
    /// Choices of the license protocol.
    pub playready: PlayReady,
    /// Keys for browsers.
    pub clearkey: ClearKey,
    /// Who is told what happens.
    pub webhooks: Webhooks,
    /// The ledger over the KurrentDB protocol.
    pub grpc: Grpc,
    /// What is logged, and how.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8290),
            data: None,
            ledger: None,
            kurrentdb: KurrentDb::default(),
            pki: None,
            secrets: None,
            authorize: Authorize::default(),
            token: Token::default(),
            callback: Callback::default(),
            i_know: false,
            tls: Tls::default(),
            limits: Limits::default(),
            quota: Quota::default(),
            keys: Keys::default(),
            packaging: Packaging::default(),
            replay: Replay::default(),
            rate: Rate::default(),
            playready: PlayReady::default(),
            clearkey: ClearKey::default(),
            webhooks: Webhooks::default(),
            grpc: Grpc::default(),
            log: Log::default(),
        }
    }
}

impl Config {
    /// The data directory.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Missing`] when none is set: it has no default, because a service that starts
    /// on an empty directory by mistake would count every device from zero.
    pub fn data(&self) -> Result<&Path, ConfigError> {
        self.data.as_deref().ok_or(ConfigError::Missing { key: "data", flag: "--data DIR" })
    }

    /// The directory of the key files: `secrets`, or else `<data>-secrets` beside the data
    /// directory, so that a copy of the data does not take the keys along.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Missing`] when neither is set, or the data directory has no name of its own.
    pub fn secrets(&self) -> Result<PathBuf, ConfigError> {
        if let Some(secrets) = &self.secrets {
            return Ok(secrets.clone());
        }
        let nameless = ConfigError::Missing { key: "secrets", flag: "--secrets DIR" };
        // `.` becomes the directory's own name, or the keys would lie inside it.
        let Ok(data) = std::path::absolute(self.data()?) else {
            return Err(nameless);
        };
        let data: PathBuf = data.components().collect();
        if data.file_name().is_none() {
            return Err(nameless);
        }
        let mut beside = OsString::from(data);
        beside.push("-secrets");
        Ok(beside.into())
    }
}

/// How a cluster that keeps the ledger is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KurrentDb {
    /// File with the user's name and password, `name:password`; none for a cluster without users.
    pub credentials_file: Option<PathBuf>,
    /// What the names of the ledger's streams begin with, in a cluster that others use as well.
    /// Without one all streams but the system's are the ledger's. It never changes.
    pub stream_prefix: String,
    /// Confirms that a ledger is to begin under this prefix though there is one under another.
    pub new_ledger: bool,
}

/// Who may be issued a license.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Authorize {
    /// Every device with a valid certificate. For tests: refused on a public address.
    #[default]
    Open,
    /// Who brings a token that the service signed.
    Token,
    /// Whom the service allows when it is asked.
    Callback,
}

/// How tokens are verified, for `authorize = "token"`: `issuer`, `audience` and one of `keys_file`
/// and `keys_url` have to be set then.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Token {
    /// What a token's `iss` has to be.
    pub issuer: Option<String>,
    /// What a token's `aud` has to be, or to hold.
    pub audience: Option<String>,
    /// File with the JSON Web Key Set; a change is noticed within a second.
    pub keys_file: Option<PathBuf>,
    /// URL of the JSON Web Key Set, `https`; on this machine also `http`.
    pub keys_url: Option<String>,
    /// PEM file of the certificates that the server of an `https` URL may be known by.
    pub ca: Option<PathBuf>,
    /// Whether the URL may be `http` on other machines: whoever is on the way can put keys in then.
    pub allow_http: bool,
    /// How far `exp` and `nbf` may be off. Clocks that are kept in time differ by less.
    pub leeway_seconds: u32,
    /// How often the URL is fetched again; it is as well when a token names an unknown key.
    pub refresh_seconds: u32,
}

impl Default for Token {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            keys_file: None,
            keys_url: None,
            ca: None,
            allow_http: false,
            leeway_seconds: 30,
            refresh_seconds: 300,
        }
    }
}

/// Who is asked, for `authorize = "callback"`: `url` and `secret_file` have to be set then.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Callback {
    /// URL that requests are posted to, `https`; on this machine also `http`.
    pub url: Option<String>,
    /// File with the secret that requests are signed with: `whsec_` and base64.
    pub secret_file: Option<PathBuf>,
    /// PEM file of the certificates that the server of an `https` URL may be known by.
    pub ca: Option<PathBuf>,
    /// Whether the URL may be `http` on other machines: whoever is on the way can answer then.
    pub allow_http: bool,
    /// Time for one attempt. A player waits, so a service should answer within a fraction of it.
    pub timeout_ms: u64,
    /// Further attempts when nobody answers, or with a status from 500 on.
    pub retries: u32,
    /// Time for all attempts; below `limits.request_timeout_ms`, or the device gets no answer.
    pub deadline_ms: u64,
    /// Requests that wait for an answer at once, each on a thread of its own.
    pub in_flight: usize,
}

impl Default for Callback {
    fn default() -> Self {
        Self {
            url: None,
            secret_file: None,
            ca: None,
            allow_http: false,
            timeout_ms: 2_000,
            retries: 2,
            deadline_ms: 6_000,
            in_flight: 64,
        }
    }
}

/// Certificate and key for HTTPS: both or neither.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file with the server's certificate, then its intermediates.
    pub certificate: Option<PathBuf>,
    /// PEM file with the private key.
    pub key: Option<PathBuf>,
}

/// Bounds on what one client, and all together, may occupy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest request body in bytes. The protocol page fixes 65,536 for challenges (section 1).
    pub body_bytes: usize,
    /// Time for a request's head to arrive. Heads are small: 5 s forgives two lost packets.
    pub header_timeout_ms: u64,
    /// Time for a request's body to arrive, and for the client to take a piece of the answer.
    pub body_timeout_ms: u64,
    /// Slowest body worth waiting for, in bytes a second, after two seconds of grace. A challenge
    /// has about 8 KB, so 512 is a device on a very poor line; less is an attack.
    pub min_body_rate_bytes_per_second: u64,
    /// Requests worked on at once; one more is answered 503. Several times what two cores can
    /// use, so that it bounds the wait and not the throughput.
    pub in_flight: usize,
    /// Connections open at once; more wait in the operating system. Below the usual limit of
    /// 1,024 open files of a process.
    pub connections: usize,
    /// Time for the answer once the body has arrived; then 503. A client's own patience is longer.
    pub request_timeout_ms: u64,
    /// How long an idle connection is kept. A player asks once and is gone; backends reconnect.
    pub keep_alive_ms: u64,
    /// Time for accepted requests to finish at shutdown. Below the 30 s that orchestrators grant.
    pub shutdown_ms: u64,
    /// Threads that serve; 0 takes one for each core.
    pub workers: usize,
    /// Events that a read model or the state for deciding may lack on disk before the process calls
    /// itself not ready. Under full load up to 32,768 of them gather.
    pub lag_events: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 65_536,
            header_timeout_ms: 5_000,
            body_timeout_ms: 10_000,
            min_body_rate_bytes_per_second: 512,
            in_flight: 256,
            connections: 768,
            request_timeout_ms: 15_000,
            keep_alive_ms: 15_000,
            shutdown_ms: 15_000,
            workers: 0,
            lag_events: 50_000,
        }
    }
}

impl Limits {
    /// [`Limits::header_timeout_ms`] as a duration.
    pub const fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    /// [`Limits::body_timeout_ms`] as a duration.
    pub const fn body_timeout(&self) -> Duration {
        Duration::from_millis(self.body_timeout_ms)
    }

    /// [`Limits::request_timeout_ms`] as a duration.
    pub const fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// [`Limits::keep_alive_ms`] as a duration.
    pub const fn keep_alive(&self) -> Duration {
        Duration::from_millis(self.keep_alive_ms)
    }

    /// [`Limits::shutdown_ms`] as a duration.
    pub const fn shutdown(&self) -> Duration {
        Duration::from_millis(self.shutdown_ms)
    }
}

/// The policy that a ledger without one starts with. Afterwards the ledger's own policy counts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Slots a device: titles it may hold persistent licenses for at once. 25 is what download
    /// services commonly allow.
    pub device_limit: u32,
    /// Live licenses one slot may gather by renewals. Renewing weekly for months stays below 16.
    pub licenses_per_slot: u32,
    /// Whether a license ends when its device acknowledges that it failed to store it. Off: a device
    /// can say so and keep it.
    pub void_store_failed: bool,
    /// A license ends that its device has not confirmed so many seconds after it was granted. Off:
    /// most clients never acknowledge.
    pub void_unconfirmed_after_seconds: Option<u32>,
    /// Security level of a device from which on the two above hold. 3000: its hardware vouches for
    /// what it says.
    pub void_min_security_level: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            device_limit: 25,
            licenses_per_slot: 16,
            void_store_failed: false,
            void_unconfirmed_after_seconds: None,
            void_min_security_level: 3000,
        }
    }
}

/// Content keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// Id of the seed that gives keys to KIDs that have none. Another one changes nothing for KIDs
    /// that got theirs before.
    pub default_seed: String,
}

impl Default for Keys {
    fn default() -> Self {
        Self { default_seed: "default".to_owned() }
    }
}

/// Keys and headers for packagers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Packaging {
    /// Folder of packagers' certificates (PEM). Content keys are wrapped for these and no others;
    /// without it for none. Read at every exchange, so that a change takes effect at once.
    pub certificates: Option<PathBuf>,
    /// Whether a packager that brings no certificate gets content keys as they are.
    pub plain_keys: bool,
    /// License acquisition URL that content headers name; none if not set.
    pub license_url: Option<String>,
    /// Address to answer `AcquirePackagingData` on; not offered if not set.
    pub listen: Option<SocketAddr>,
}

/// Repeats of a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replay {
    /// How long a repeated challenge gets the answer it got before. Clients retry within minutes;
    /// a day also covers a device that was switched off.
    pub window_hours: u32,
}

impl Default for Replay {
    fn default() -> Self {
        Self { window_hours: 24 }
    }
}

/// How often one caller, a device or an API key, may call.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rate {
    /// Calls of one device a minute in the long run. A person starts no title every half second.
    pub per_identity_per_minute: NonZeroU32,
    /// Calls of one device at once: a season downloaded at one go.
    pub burst: NonZeroU32,
    /// Calls of one API key a minute in the long run. A back end asks for all its customers: ten
    /// thousand calls a second are a busy one, and more are a client in a loop.
    pub per_key_per_minute: NonZeroU32,
    /// Calls of one API key at once.
    pub per_key_burst: NonZeroU32,
}

impl Default for Rate {
    fn default() -> Self {
        const PER_MINUTE: NonZeroU32 = NonZeroU32::new(120).unwrap();
        const BURST: NonZeroU32 = NonZeroU32::new(60).unwrap();
        const PER_KEY_PER_MINUTE: NonZeroU32 = NonZeroU32::new(600_000).unwrap();
        const PER_KEY_BURST: NonZeroU32 = NonZeroU32::new(20_000).unwrap();
        Self {
            per_identity_per_minute: PER_MINUTE,
            burst: BURST,
            per_key_per_minute: PER_KEY_PER_MINUTE,
            per_key_burst: PER_KEY_BURST,
        }
    }
}

/// Choices of the license protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlayReady {
    /// Which responses are signed.
    pub sign_responses: SignResponses,
    /// Metering id of the secure stop service, base64 of 16 bytes, for licenses that ask for
    /// secure stop. Without one they are refused.
    pub secure_stop_id: Option<String>,
    /// Folder of signed revocation lists, in files that end in `.xml`; the newest counts, and newer
    /// ones are taken up while serving. `revocation` in the PKI's folder if none is named.
    pub revocation_lists: Option<PathBuf>,
}

/// Which responses of the license protocol are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignResponses {
    /// All: a client can then refuse a forged one. Costs one signature, 16 microseconds.
    #[default]
    Always,
    /// Those that carry a persistent license.
    Persistent,
    /// None.
    Never,
}

/// Keys for browsers, through Clear Key of the Encrypted Media Extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClearKey {
    /// Whether `POST /clearkey` is served. Off, because it gives content keys out in the clear: for
    /// tests, and for content that needs no more than an obstacle.
    pub enabled: bool,
    /// The origins whose pages may ask. None: only pages of the service's own origin.
    pub origins: Origins,
}

/// The ledger over the KurrentDB protocol, for official clients in any language.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grpc {
    /// Address to serve the protocol on; not offered if not set. Over TLS if `tls.certificate` and
    /// `tls.key` are set: most clients send no key otherwise.
    pub listen: Option<SocketAddr>,
    /// Calls at once, of all clients. Every open read, subscription and batch is one.
    pub calls: usize,
    /// Calls of one API key a minute in the long run. An append is a call, so this is a rate that a
    /// busy writer reaches and a client in a loop exceeds.
    pub per_key_per_minute: NonZeroU32,
    /// Calls of one API key at once.
    pub burst: NonZeroU32,
}

impl Default for Grpc {
    fn default() -> Self {
        const PER_MINUTE: NonZeroU32 = NonZeroU32::new(120_000).unwrap();
        const BURST: NonZeroU32 = NonZeroU32::new(20_000).unwrap();
        Self { listen: None, calls: 256, per_key_per_minute: PER_MINUTE, burst: BURST }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// A level, or a filter such as `info,license_ledger::http=debug`, which adds a line a request.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

#[cfg(test)]
mod tests;
