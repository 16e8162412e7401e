//! Reads the sources of a configuration and lays them over each other.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::key::{KEYS, Key, Kind};
use super::{Authorize, Config, Token};

/// How every environment variable of the service begins.
pub const ENV_PREFIX: &str = "LICENSE_LEDGER_";

/// Variables with the prefix that are no settings: the path of the configuration file, and
/// whatever the test suite is told.
const ENV_NOT_SETTINGS: [&str; 2] = ["LICENSE_LEDGER_CONFIG", "LICENSE_LEDGER_TEST_"];

/// A setting given on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The setting's name in [`KEYS`].
    pub key: &'static str,
    /// The flag as people type it: `--listen`.
    pub flag: &'static str,
    /// What it was set to.
    pub value: String,
}

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file, if one was named.
    pub file: Option<PathBuf>,
    /// Environment variables; those without [`ENV_PREFIX`] are passed over.
    pub env: Vec<(OsString, OsString)>,
    /// The command line.
    pub flags: Vec<Flag>,
}

/// Why a configuration is not usable. Every text names the setting and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML; correct the place shown", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: Box<toml::de::Error>,
    },
    /// A name that is no setting.
    #[error("{origin} is no setting; {hint}")]
    Unknown {
        /// Where it stands and what it is called.
        origin: Origin,
        /// What was probably meant.
        hint: String,
    },
    /// A value of the wrong type or out of range.
    #[error("{origin} is {value}, but must be {expected}")]
    Invalid {
        /// Where it stands and what it is called.
        origin: Origin,
        /// The value found.
        value: String,
        /// What it has to be.
        expected: String,
    },
    /// A setting without which this cannot be done.
    #[error("{key} is not set; pass {flag}, or set {key} in the configuration file or {env}",
        env = env_name(key))]
    Missing {
        /// The setting's name.
        key: &'static str,
        /// The flag that sets it.
        flag: &'static str,
    },
    /// One of two settings that only work together.
    #[error("{present} is set but {absent} is not; set both for HTTPS or neither for HTTP")]
    HalfSet {
        /// The setting that is there.
        present: &'static str,
        /// The setting that is not.
        absent: &'static str,
    },
    /// A combination that would serve everybody.
    #[error(
        "authorize = \"open\" would give licenses to everyone who reaches {listen}; listen on \
         127.0.0.1, or confirm with --i-know"
    )]
    OpenToAll {
        /// The address.
        listen: std::net::SocketAddr,
    },
    /// A setting without which the chosen way to authorize does not work.
    #[error("authorize is {mode} and {key} is not set; set it in the configuration")]
    NeededBy {
        /// The way to authorize.
        mode: &'static str,
        /// The missing setting.
        key: &'static str,
    },
    /// Two places for one key set.
    #[error("token.keys_file and token.keys_url are both set; set the one that holds the keys")]
    TwoOfOne,
    /// The device would get no answer before the callback has one.
    #[error(
        "callback.deadline_ms is {deadline_ms}, but must be below limits.request_timeout_ms, which \
         is {limit_ms}"
    )]
    LateCallback {
        /// The callback's deadline.
        deadline_ms: u64,
        /// The time for an answer.
        limit_ms: u64,
    },
    /// Content keys in the clear over a network that others can listen to.
    #[error(
        "{setting} would send content keys unprotected from {listen}; set tls.certificate and \
         tls.key, listen on 127.0.0.1, or confirm with --i-know"
    )]
    KeysUnprotected {
        /// The setting that lets them out.
        setting: &'static str,
        /// The address.
        listen: std::net::SocketAddr,
    },
    /// An endpoint of webhooks cannot work.
    #[error("webhooks.endpoints: the endpoint `{id}`: {reason}")]
    Webhook {
        /// Its id.
        id: String,
        /// What is wrong and what would be right.
        reason: &'static str,
    },
    /// The settings are accepted one by one but do not form a configuration.
    #[error("the settings do not fit together; correct the one named")]
    Inconsistent {
        /// Which one, and why.
        source: Box<toml::de::Error>,
    },
}

/// Where a setting was found, by the name it has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A key of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// `section.key`.
        key: String,
    },
    /// An environment variable.
    Env(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, key } => write!(f, "{key} in {}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

impl Sources {
    /// The sources of a running process: its environment, and `file` and `flags` of its command
    /// line.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        Self { file, env: std::env::vars_os().collect(), flags }
    }

    /// Puts the configuration together and checks it as a whole.
    ///
    /// # Errors
    ///
    /// The first thing found wrong; sources are read from the lowest precedence to the highest.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut settings = BTreeMap::new();
        if let Some(path) = &self.file {
            read_file(path, &mut settings)?;
        }
        for (name, text) in &self.env {
            if let Some((key, value)) = from_env(name, text)? {
                settings.insert(key.name, value);
            }
        }
        for flag in &self.flags {
            let origin = Origin::Flag(flag.flag.to_owned());
            let key = find(flag.key).ok_or_else(|| unknown(origin.clone(), flag.key))?;
            settings.insert(key.name, parse(key, &flag.value, origin)?);
        }
        let config = Config::from_settings(settings)?;
        config.check()?;
        Ok(config)
    }
}

impl Config {
    fn from_settings(settings: BTreeMap<&'static str, Value>) -> Result<Self, ConfigError> {
        let mut root = Table::new();
        for (name, value) in settings {
            match name.split_once('.') {
                None => {
                    root.insert(name.to_owned(), value);
                }
                Some((section, key)) => {
                    let section = root.entry(section).or_insert_with(|| Table::new().into());
                    if let Value::Table(section) = section {
                        section.insert(key.to_owned(), value);
                    }
                }
            }
        }
        Value::Table(root)
            .try_into()
            .map_err(|source| ConfigError::Inconsistent { source: Box::new(source) })
    }

    /// Rules that span several settings.
    fn check(&self) -> Result<(), ConfigError> {
        match (&self.tls.certificate, &self.tls.key) {
            (Some(_), None) => {
                return Err(ConfigError::HalfSet { present: "tls.certificate", absent: "tls.key" });
            }
            (None, Some(_)) => {
                return Err(ConfigError::HalfSet { present: "tls.key", absent: "tls.certificate" });
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        self.webhooks.check()?;
        self.check_keys_protected()?;
        match self.authorize {
            Authorize::Open if !self.listen.ip().is_loopback() && !self.i_know => {
                Err(ConfigError::OpenToAll { listen: self.listen })
            }
            Authorize::Open => Ok(()),
            Authorize::Token => self.check_token(),
            Authorize::Callback => self.check_callback(),
        }
    }

    /// Content keys leave this machine as they are only over TLS, or if somebody says so.
    fn check_keys_protected(&self) -> Result<(), ConfigError> {
        if self.tls.certificate.is_some() || self.i_know {
            return Ok(());
        }
        let outlets = [
            ("clearkey.enabled", self.clearkey.enabled.then_some(self.listen)),
            ("packaging.plain_keys", self.packaging.plain_keys.then_some(self.listen)),
            // What is answered there has no other form.
            ("packaging.listen", self.packaging.listen),
        ];
        for (setting, listen) in outlets {
            if let Some(listen) = listen.filter(|listen| !listen.ip().is_loopback()) {
                return Err(ConfigError::KeysUnprotected { setting, listen });
            }
        }
        Ok(())
    }

    fn check_token(&self) -> Result<(), ConfigError> {
        let mode = "token";
        let missing = |key| ConfigError::NeededBy { mode, key };
        let Token { issuer, audience, keys_file, keys_url, .. } = &self.token;
        issuer.as_ref().ok_or(missing("token.issuer"))?;
        audience.as_ref().ok_or(missing("token.audience"))?;
        match (keys_file, keys_url) {
            (None, None) => Err(missing("token.keys_file or token.keys_url")),
            (Some(_), Some(_)) => Err(ConfigError::TwoOfOne),
            _ => Ok(()),
        }
    }

    fn check_callback(&self) -> Result<(), ConfigError> {
        let mode = "callback";
        let missing = |key| ConfigError::NeededBy { mode, key };
        self.callback.url.as_ref().ok_or(missing("callback.url"))?;
        self.callback.secret_file.as_ref().ok_or(missing("callback.secret_file"))?;
        let (deadline_ms, limit_ms) = (self.callback.deadline_ms, self.limits.request_timeout_ms);
        if deadline_ms >= limit_ms {
            return Err(ConfigError::LateCallback { deadline_ms, limit_ms });
        }
        Ok(())
    }
}

fn read_file(path: &Path, settings: &mut BTreeMap<&'static str, Value>) -> Result<(), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let table: Table = text.parse().map_err(|source| ConfigError::NotToml {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    for (name, value) in flatten(table) {
        let origin = Origin::File { path: path.to_owned(), key: name.clone() };
        let key = find(&name).ok_or_else(|| unknown(origin.clone(), &name))?;
        if !key.kind.accepts(&value) {
            return Err(invalid(key.kind, value.to_string(), origin));
        }
        settings.insert(key.name, value);
    }
    Ok(())
}

/// Names two levels deep: no setting lies deeper, so whatever does is reported as unknown.
fn flatten(table: Table) -> Vec<(String, Value)> {
    let mut flat = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(section) if find(&name).is_none() && !section.is_empty() => {
                flat.extend(
                    section.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)),
                );
            }
            Value::Table(_) if is_section(&name) => {}
            value => flat.push((name, value)),
        }
    }
    flat
}

fn from_env(name: &OsStr, value: &OsStr) -> Result<Option<(&'static Key, Value)>, ConfigError> {
    let [config_file, test_prefix] = ENV_NOT_SETTINGS;
    let name = name.to_string_lossy();
    if !name.starts_with(ENV_PREFIX) || name == config_file || name.starts_with(test_prefix) {
        return Ok(None);
    }
    let origin = Origin::Env(name.to_string());
    let key = KEYS.iter().find(|key| key.env() == name);
    let key = key.ok_or_else(|| unknown_env(origin.clone(), &name))?;
    match value.to_str() {
        Some(text) => Ok(Some((key, parse(key, text, origin)?))),
        None => Err(invalid(key.kind, format!("{value:?}"), origin)),
    }
}

fn parse(key: &Key, text: &str, origin: Origin) -> Result<Value, ConfigError> {
    key.kind.parse(text).ok_or_else(|| invalid(key.kind, format!("{text:?}"), origin))
}

fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.split_once('.').is_some_and(|(section, _)| section == name))
}

fn env_name(key: &str) -> String {
    find(key).map(Key::env).unwrap_or_default()
}

fn invalid(kind: Kind, value: String, origin: Origin) -> ConfigError {
    ConfigError::Invalid { origin, value, expected: kind.expectation() }
}

fn unknown(origin: Origin, name: &str) -> ConfigError {
    let names = KEYS.iter().map(|key| key.name.to_owned());
    ConfigError::Unknown { origin, hint: closest(name, names) }
}

fn unknown_env(origin: Origin, name: &str) -> ConfigError {
    ConfigError::Unknown { origin, hint: closest(name, KEYS.iter().map(Key::env)) }
}

/// "did you mean …?" for the name that shares the longest beginning and end.
fn closest(name: &str, candidates: impl Iterator<Item = String>) -> String {
    let common = |candidate: &String| {
        let front = name.bytes().zip(candidate.bytes()).take_while(|(a, b)| a == b).count();
        let back = name.bytes().rev().zip(candidate.bytes().rev());
        front + back.take_while(|(a, b)| a == b).count()
    };
    let best = candidates.max_by_key(common).unwrap_or_default();
    format!("did you mean {best}? Remove it or correct it")
}
