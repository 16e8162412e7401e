//! An HTTP client of a service, wherever that runs. It holds every answer against the OpenAPI document.

use serde_json::Value;

use crate::contract;

/// The path that devices post to.
pub const RIGHTS_MANAGER: &str = "/playready/rightsmanager.asmx";

/// Talks to one service. Clones share connections.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
    key: String,
    /// Whether the OpenAPI document describes what it talks to.
    described: bool,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Client {
    /// A client of the service at `url` that shows the API key `key` where one is needed.
    pub fn new(url: &str, key: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(std::time::Duration::from_secs(30)))
            .max_idle_connections_per_host(64)
            .build();
        let (url, key) = (url.to_owned(), key.to_owned());
        Self { agent: config.new_agent(), url, key, described: true }
    }

    /// The base URL of the service.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The API key that it shows.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The same service, with another key.
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// Gets `path`; `None` if no answer came.
    pub fn try_get(&self, path: &str) -> Option<Answer> {
        let bearer = format!("Bearer {}", self.key);
        self.try_send("GET", path, &[("authorization", &bearer)], b"")
    }

    pub fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap_or_else(|| panic!("no answer to GET {path}"))
    }

    /// The JSON at `path`, which must be there.
    pub fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
        answer.json()
    }

    pub fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.post(path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// Posts a command under an `Idempotency-Key`; `None` if no whole answer came.
    pub fn try_command(&self, path: &str, key: &str, body: &Value) -> Option<Answer> {
        self.try_command_by("POST", path, key, body)
    }

    /// The same with another method.
    pub fn try_command_by(
        &self,
        method: &str,
        path: &str,
        key: &str,
        body: &Value,
    ) -> Option<Answer> {
        let bearer = format!("Bearer {}", self.key);
        let headers = [
            ("authorization", bearer.as_str()),
            ("idempotency-key", key),
            ("content-type", "application/json"),
        ];
        self.try_send(method, path, &headers, body.to_string().as_bytes())
    }

    pub fn command(&self, path: &str, key: &str, body: &Value) -> Answer {
        let answer = self.try_command(path, key, body);
        answer.unwrap_or_else(|| panic!("no answer to POST {path}"))
    }

    /// The same key, shown to the packagers' listener, which the OpenAPI document leaves out.
    pub fn at(&self, url: &str) -> Self {
        Self { url: url.to_owned(), described: false, ..self.clone() }
    }

    /// Posts a body with these headers and the API key.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.call("POST", path, headers, body)
    }

    /// Sends `method` with these headers and the API key.
    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let bearer = format!("Bearer {}", self.key);
        let headers = [headers, &[("authorization", bearer.as_str())]].concat();
        self.send(method, path, &headers, body)
    }

    /// Puts JSON, in place of the version `if_match` if one is given.
    pub fn put_json(&self, path: &str, if_match: Option<&str>, body: &Value) -> Answer {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(if_match.map(|etag| ("if-match", etag)));
        self.call("PUT", path, &headers, body.to_string().as_bytes())
    }

    /// Puts JSON, as a command under a key that no other one had.
    pub fn put_command(&self, path: &str, body: &Value) -> Answer {
        let key = fresh_key();
        let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
        self.call("PUT", path, &headers, body.to_string().as_bytes())
    }

    /// Deletes what is at a path, as a command under a key that no other one had.
    pub fn delete_command(&self, path: &str) -> Answer {
        self.call("DELETE", path, &[("idempotency-key", fresh_key().as_str())], b"")
    }

    /// Sends `method` with exactly these headers.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let answer = self.try_send(method, path, headers, body);
        answer.unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    /// The same; `None` if no whole answer came.
    fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer> {
        let request = ureq::http::Request::builder().method(method);
        let request = request.uri(format!("{}{path}", self.url));
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = Answer::read(self.agent.run(request.body(body).unwrap()))?;
        if self.described {
            contract::check(method, path, &answer);
        }
        Some(answer)
    }

    /// Posts a challenge with the query string `query`; `None` if no whole answer came.
    pub fn try_challenge(&self, body: &[u8], query: &str) -> Option<Answer> {
        self.challenge_as(body, query, &[("content-type", "text/xml; charset=utf-8")])
    }

    pub fn challenge(&self, body: &[u8], query: &str) -> Answer {
        self.try_challenge(body, query).expect("no answer to a challenge")
    }

    /// Posts a challenge with exactly these headers.
    pub fn challenge_as(
        &self,
        body: &[u8],
        query: &str,
        headers: &[(&str, &str)],
    ) -> Option<Answer> {
        let path = match query {
            "" => RIGHTS_MANAGER.to_owned(),
            query => format!("{RIGHTS_MANAGER}?{query}"),
        };
        self.try_send("POST", &path, headers, body)
    }
}

impl Answer {
    fn read(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Option<Self> {
        let mut response = response.ok()?;
        let body = response.body_mut().read_to_vec().ok()?;
        Some(Self { status: response.status().as_u16(), headers: response.headers().clone(), body })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The position of the ledger that this answer's events end at.
    pub fn position(&self) -> Option<u64> {
        self.header("ledger-position").map(|text| text.parse().unwrap())
    }

    /// The problem document of an error of the JSON API, checked for its shape.
    pub fn problem(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        let code = problem["code"].as_str().unwrap();
        assert_eq!(problem["type"], format!("/problems/{code}"));
        for member in ["title", "detail"] {
            assert!(!problem[member].as_str().unwrap().is_empty(), "{problem}");
        }
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"));
        problem
    }

    /// Its status and the code of its problem document.
    pub fn status_and_code(&self) -> (u16, String) {
        (self.status, self.problem()["code"].as_str().unwrap().to_owned())
    }
}

/// An `Idempotency-Key` that no command had before.
pub fn fresh_key() -> String {
    data_encoding::HEXLOWER.encode(&crate::device::fresh_nonce())
}
