//! Where a device sends its challenges (section 1).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::error::SimulatorError;
use crate::playready::soap::{CONTENT_TYPE, Operation, ResponseError};

/// What a URL without a path stands for.
const PATH: &str = "/playready/rightsmanager.asmx";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the first byte sent to the last one read.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How much of an answer of another kind is shown.
const SHOWN_CHARACTERS_MAX: usize = 200;

/// A license server, reached over HTTP. Clones share connections.
#[derive(Clone, Debug)]
pub struct Endpoint {
    agent: Agent,
    url: String,
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Endpoint {
    /// The server at `url`: `http` or `https`, without a query. A URL without a path gets
    /// `/playready/rightsmanager.asmx`. `ca` is what an `https` server's certificate is checked
    /// against, in PEM; there are no others built in. Proxies of the environment are not used.
    ///
    /// # Errors
    ///
    /// [`SimulatorError::Url`].
    pub fn new(url: &str, ca: Option<&[u8]>) -> Result<Self, SimulatorError> {
        let refuse = |reason| SimulatorError::Url { url: url.to_owned(), reason };
        let parsed: Uri = url.parse().map_err(|_| refuse("it cannot be read"))?;
        if !matches!(parsed.scheme_str(), Some("http" | "https")) || parsed.host().is_none() {
            return Err(refuse("write it as http://HOST:PORT or https://HOST:PORT"));
        }
        if parsed.query().is_some() {
            return Err(refuse("leave out what follows the question mark; use --cfg for it"));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(CALL_TIMEOUT));
        let config = match (parsed.scheme_str(), ca) {
            (Some("https"), None) => {
                return Err(refuse("name the certificates to trust with --ca FILE"));
            }
            (Some("https"), Some(pem)) => {
                let tls =
                    tls(pem).ok_or_else(|| refuse("the file of --ca holds no certificate"))?;
                config.tls_config(tls)
            }
            _ => config,
        };
        let bare = matches!(parsed.path(), "" | "/");
        let url = match bare {
            true => format!("{}{PATH}", url.trim_end_matches('/')),
            false => url.to_owned(),
        };
        Ok(Self { agent: config.build().into(), url })
    }

    /// The URL that challenges are posted to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Posts a challenge. `cfg` is the policy string of a test server, not yet percent-encoded
    /// (section 10).
    ///
    /// # Errors
    ///
    /// No answer, or one that is too long.
    pub fn post(
        &self,
        operation: Operation,
        cfg: Option<&str>,
        body: &[u8],
    ) -> Result<Reply, SimulatorError> {
        let url = match cfg {
            Some(cfg) => Cow::Owned(format!("{}?cfg={}", self.url, percent_encode(cfg))),
            None => Cow::Borrowed(self.url.as_str()),
        };
        let failed =
            |source| SimulatorError::Transport { url: self.url.clone(), source: Box::new(source) };
        let request = self
            .agent
            .post(&*url)
            .header("Content-Type", CONTENT_TYPE)
            .header("SOAPAction", operation.soap_action());
        let mut answer = request.send(body).map_err(failed)?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        Ok(Reply { status, body: body.map_err(failed)? })
    }
}

impl Reply {
    /// Reads the answer with `verify`: an answer has status 200, a fault has status 500, and
    /// nothing else is of this protocol.
    ///
    /// # Errors
    ///
    /// [`SimulatorError::Refused`] for a fault, others for what is not accepted.
    pub fn read<T>(
        &self,
        verify: impl FnOnce(&[u8]) -> Result<T, ResponseError>,
    ) -> Result<T, SimulatorError> {
        match (self.status, verify(&self.body)) {
            (200, Ok(answer)) => Ok(answer),
            (500, Err(ResponseError::Fault(fault))) => Err(SimulatorError::Refused(fault)),
            (200, Err(error)) if !matches!(error, ResponseError::Fault(_)) => {
                Err(SimulatorError::Answer(error))
            }
            _ => Err(SimulatorError::Status { status: self.status, text: self.beginning() }),
        }
    }

    fn beginning(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARACTERS_MAX).collect()
    }
}

fn tls(pem: &[u8]) -> Option<TlsConfig> {
    let certificates: Vec<Certificate<'static>> = parse_pem(pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return None;
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(certificates)))
        .unversioned_rustls_crypto_provider(Arc::new(provider));
    Some(config.build())
}

/// Encodes what cannot stand in a query value as it is. The characters of the policy grammar can.
fn percent_encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~():,/=+*!".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<String, SimulatorError> {
        Endpoint::new(text, None).map(|endpoint| endpoint.url)
    }

    #[test]
    fn a_url_without_a_path_means_the_license_service() {
        let expected = "http://127.0.0.1:8290/playready/rightsmanager.asmx";
        assert_eq!(url("http://127.0.0.1:8290").unwrap(), expected);
        assert_eq!(url("http://127.0.0.1:8290/").unwrap(), expected);
        assert_eq!(url("http://host/other.asmx").unwrap(), "http://host/other.asmx");
    }

    #[test]
    fn refuses_urls_that_would_not_work() {
        for text in ["", "host", "ftp://host", "http://host/x?cfg=(sl:150)", "https://host"] {
            assert!(matches!(url(text), Err(SimulatorError::Url { .. })), "{text}");
        }
        assert!(Endpoint::new("https://host", Some(b"no certificate")).is_err());
    }

    #[test]
    fn policy_strings_are_encoded_only_where_a_url_needs_it() {
        assert_eq!(percent_encode("(persist:true,sl:2000)"), "(persist:true,sl:2000)");
        assert_eq!(percent_encode("(msg:a&b #%é)"), "(msg:a%26b%20%23%25%C3%A9)");
    }

    #[test]
    fn a_fault_counts_only_with_status_500() {
        let fault = include_bytes!("../../tests/golden/fault_persistent_limit.xml");
        let read = |status| {
            let reply = Reply { status, body: fault.to_vec() };
            reply.read(|body| crate::playready::delete::verify_answer(body, &[1; 16]))
        };
        assert!(matches!(read(500), Err(SimulatorError::Refused(_))));
        assert!(matches!(read(200), Err(SimulatorError::Status { status: 200, .. })));
        assert!(matches!(read(404), Err(SimulatorError::Status { status: 404, .. })));
    }

    #[test]
    fn an_answer_counts_only_with_status_200() {
        let golden = include_bytes!("../../tests/golden/ack_response.xml");
        let id = "29a674c9-0d05-6b59-2985-f6578376377c".parse().unwrap();
        let read = |status| {
            let reply = Reply { status, body: golden.to_vec() };
            reply.read(|body| crate::playready::acknowledge::verify_answer(body, id))
        };
        assert!(read(200).is_ok());
        assert!(matches!(read(500), Err(SimulatorError::Status { status: 500, .. })));
    }
}
