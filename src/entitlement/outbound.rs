//! Requests to the service's own servers: short, bounded, and never sent on to another place.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::EntitlementError;

/// A URL that is asked. Clones share connections.
#[derive(Clone, Debug)]
pub(super) struct Outbound {
    agent: Agent,
    url: String,
    answer_bytes_max: u64,
}

/// An answer as it came.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Outbound {
    /// Asks `url`, the value of `setting`: `http` or `https`. An `https` server has to be known by
    /// one of the certificates in the PEM file `ca`, the value of `ca_setting`. An answer may have
    /// `answer_bytes_max`. Redirects are not followed, and proxies of the environment not used.
    pub(super) fn new(
        (setting, url): (&'static str, &str),
        (ca_setting, ca): (&'static str, Option<&Path>),
        answer_bytes_max: u64,
    ) -> Result<Self, EntitlementError> {
        let refuse = |reason| EntitlementError::Url { setting, url: url.to_owned(), reason };
        let parsed: Uri = url.parse().map_err(|_| refuse("it cannot be read"))?;
        if !matches!(parsed.scheme_str(), Some("http" | "https")) || parsed.host().is_none() {
            return Err(refuse("write it as https://HOST/PATH"));
        }
        if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(refuse("leave out the user name and password"));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("license-ledger/", env!("CARGO_PKG_VERSION")));
        let config = match (parsed.scheme_str(), ca) {
            (Some("https"), Some(ca)) => config.tls_config(tls(ca_setting, ca)?),
            (Some("https"), None) => return Err(EntitlementError::NoCa { setting, ca_setting }),
            _ => config,
        };
        Ok(Self { agent: config.build().into(), url: url.to_owned(), answer_bytes_max })
    }

    /// Gets the URL. Blocks, at most for `timeout`.
    pub(super) fn get(&self, timeout: Duration) -> Result<Answer, ureq::Error> {
        let request = self.agent.get(&self.url).config().timeout_global(Some(timeout)).build();
        self.read(request.header("accept", "application/json").call()?)
    }

    /// Posts JSON. Blocks, at most for `timeout`.
    pub(super) fn post(
        &self,
        headers: &[(&str, &str)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<Answer, ureq::Error> {
        let request = self.agent.post(&self.url).config().timeout_global(Some(timeout)).build();
        let request = request.header("content-type", "application/json");
        let add = |request: ureq::RequestBuilder<_>, (name, value): &(&str, &str)| {
            request.header(*name, *value)
        };
        self.read(headers.iter().fold(request, add).send(body)?)
    }

    fn read(&self, mut answer: ureq::http::Response<ureq::Body>) -> Result<Answer, ureq::Error> {
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(self.answer_bytes_max).read_to_vec()?;
        Ok(Answer { status, body })
    }
}

fn tls(setting: &'static str, path: &Path) -> Result<TlsConfig, EntitlementError> {
    let unusable = |source| EntitlementError::File { setting, path: path.to_owned(), source };
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
