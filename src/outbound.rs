//! Requests to the service's own servers: short, bounded, and never sent on to another place.
//!
//! A server is asked at one URL of the configuration. Redirects are not followed, proxies of the
//! environment not used, and an `https` server has to be known by a certificate that the
//! configuration names. `http` is for this machine only, unless the configuration allows it: anybody
//! on the way could read what is asked, and write the answer. [`Reach::Public`] also refuses every address that is not public, after the
//! name is looked up and for the address that is connected to.

mod guard;
pub mod signing;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;

use guard::PublicOnly;
pub use guard::Reach;

/// How much of an answer that is not read is let pass so that its connection can be used again.
const DRAINED_BYTES_MAX: u64 = 64 * 1024;

/// A server cannot be asked as the configuration has it.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The URL cannot be asked.
    #[error("{setting} is {url}, which cannot be asked: {reason}")]
    Url {
        /// The setting.
        setting: String,
        /// Its value.
        url: String,
        /// What is wrong and what would be right.
        reason: &'static str,
    },
    /// Anybody on the way could answer.
    #[error(
        "{setting} is {url}, whose answers anybody on the way could read and replace; write it as \
         https://HOST/PATH, or set {allow_setting} to true"
    )]
    PlainHttp {
        /// The setting.
        setting: String,
        /// Its value.
        url: String,
        /// The setting that would allow it.
        allow_setting: String,
    },
    /// Nothing says which certificates to trust.
    #[error(
        "{setting} is an https URL and {ca_setting} is not set; set it to a PEM file of the \
         certificates to trust, your own authority's or those of the operating system"
    )]
    NoCa {
        /// The setting with the URL.
        setting: String,
        /// The setting that is missing.
        ca_setting: String,
    },
    /// A file cannot be used.
    #[error("cannot use {}, the file of {setting}; check path, permissions and content", path.display())]
    File {
        /// The setting.
        setting: String,
        /// Its value.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
}

/// Where to ask, as the configuration has it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The name of the setting that holds the URL.
    pub setting: &'a str,
    /// The URL: `http` or `https`, without user name and password.
    pub url: &'a str,
    /// The name of the setting that holds the certificates.
    pub ca_setting: &'a str,
    /// PEM file of the certificates that an `https` server may be known by.
    pub ca: Option<&'a Path>,
    /// The name of the setting that allows `http` to other machines.
    pub allow_http_setting: &'a str,
    /// Its value.
    pub allow_http: bool,
    /// Which addresses may be connected to.
    pub reach: Reach,
}

/// A URL that is asked. Clones share connections.
#[derive(Clone, Debug)]
pub struct Outbound {
    agent: Agent,
    url: String,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
}

impl Outbound {
    /// Checks the target and makes ready to ask it. Nothing is sent.
    ///
    /// # Errors
    ///
    /// [`OutboundError`], which names the setting to mend.
    pub fn new(target: &Target<'_>) -> Result<Self, OutboundError> {
        let Target { setting, url, ca_setting, ca, allow_http_setting, allow_http, reach } =
            *target;
        // What stands before the host may be a password.
        let shown = url.rsplit_once('@').map_or(url.to_owned(), |(_, rest)| format!("…@{rest}"));
        let refuse =
            |reason| OutboundError::Url { setting: setting.to_owned(), url: shown.clone(), reason };
        let parsed: Uri = url.parse().map_err(|_| refuse("it cannot be read"))?;
        if !matches!(parsed.scheme_str(), Some("http" | "https")) || parsed.host().is_none() {
            return Err(refuse("write it as https://HOST/PATH"));
        }
        if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(refuse("leave out the user name and password"));
        }
        let is_plain = parsed.scheme_str() == Some("http");
        if is_plain && !allow_http && !parsed.host().is_some_and(guard::is_this_machine) {
            let (setting, url) = (setting.to_owned(), shown);
            let allow_setting = allow_http_setting.to_owned();
            return Err(OutboundError::PlainHttp { setting, url, allow_setting });
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("license-ledger/", env!("CARGO_PKG_VERSION")));
        let config = match (parsed.scheme_str(), ca) {
            (Some("https"), Some(ca)) => config.tls_config(tls(ca_setting, ca)?),
            (Some("https"), None) => {
                let (setting, ca_setting) = (setting.to_owned(), ca_setting.to_owned());
                return Err(OutboundError::NoCa { setting, ca_setting });
            }
            _ => config,
        };
        let connector = DefaultConnector::default();
        let agent = match reach {
            Reach::Anywhere => {
                Agent::with_parts(config.build(), connector, DefaultResolver::default())
            }
            Reach::Public => Agent::with_parts(config.build(), connector, PublicOnly::default()),
        };
        Ok(Self { agent, url: url.to_owned() })
    }

    /// Gets the URL. Blocks, at most for `timeout`. A body of more than `answer_bytes_max` is an
    /// error.
    pub fn get(&self, answer_bytes_max: u64, timeout: Duration) -> Result<Answer, ureq::Error> {
        let request = self.agent.get(&self.url).config().timeout_global(Some(timeout)).build();
        read(request.header("accept", "application/json").call()?, answer_bytes_max)
    }

    /// Posts JSON. Blocks, at most for `timeout`. A body of more than `answer_bytes_max` is an
    /// error.
    pub fn post(
        &self,
        headers: &[(&str, &str)],
        body: &[u8],
        answer_bytes_max: u64,
        timeout: Duration,
    ) -> Result<Answer, ureq::Error> {
        read(self.send(headers, body, timeout)?, answer_bytes_max)
    }

    /// Posts JSON of which only the status and the headers of the answer matter. Blocks, at most for
    /// `timeout`.
    pub fn tell(
        &self,
        headers: &[(&str, &str)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<(u16, HeaderMap), ureq::Error> {
        let mut answer = self.send(headers, body, timeout)?;
        // What is left of a longer one, or of one that breaks off, ends with its connection.
        let mut rest = answer.body_mut().with_config().limit(DRAINED_BYTES_MAX).reader();
        let _ = std::io::copy(&mut rest, &mut std::io::sink());
        Ok((answer.status().as_u16(), std::mem::take(answer.headers_mut())))
    }

    fn send(
        &self,
        headers: &[(&str, &str)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<Response<ureq::Body>, ureq::Error> {
        let request = self.agent.post(&self.url).config().timeout_global(Some(timeout)).build();
        let request = request.header("content-type", "application/json");
        let add = |request: ureq::RequestBuilder<_>, (name, value): &(&str, &str)| {
            request.header(*name, *value)
        };
        headers.iter().fold(request, add).send(body)
    }
}

fn read(mut answer: Response<ureq::Body>, bytes_max: u64) -> Result<Answer, ureq::Error> {
    let status = answer.status().as_u16();
    let body = answer.body_mut().with_config().limit(bytes_max).read_to_vec()?;
    Ok(Answer { status, body })
}

fn tls(setting: &str, path: &Path) -> Result<TlsConfig, OutboundError> {
    let unusable =
        |source| OutboundError::File { setting: setting.to_owned(), path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(unusable)?;
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(unusable(std::io::Error::other("it holds no certificate in PEM")));
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(certificates)))
        .unversioned_rustls_crypto_provider(Arc::new(provider));
    Ok(config.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_for_this_machine_unless_it_is_allowed() {
        let open = |url: &str, allow_http| {
            let target = Target {
                setting: "token.keys_url",
                url,
                ca_setting: "token.ca",
                ca: None,
                allow_http_setting: "token.allow_http",
                allow_http,
                reach: Reach::Anywhere,
            };
            Outbound::new(&target).map(drop).map_err(|error| error.to_string())
        };
        for own in ["http://127.0.0.1:1/k", "http://[::1]:1/k", "HTTP://localhost/k"] {
            assert_eq!(open(own, false), Ok(()), "{own}");
        }
        for other in ["http://keys.example/k", "HTTP://10.0.0.1:80/", "http://localhost.example/"] {
            let refused = open(other, false).unwrap_err();
            for part in ["token.keys_url", other, "https://", "token.allow_http"] {
                assert!(refused.contains(part), "{refused}");
            }
            assert_eq!(open(other, true), Ok(()), "{other}");
        }
        // It says nothing about a password, and allows no other scheme.
        let refused = open("http://user:canary@keys.example/k", false).unwrap_err();
        assert!(!refused.contains("canary"), "{refused}");
        assert!(open("ftp://keys.example/k", true).is_err());
    }
}
