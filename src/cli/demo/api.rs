//! The JSON API, as a client of it sees it.

use std::time::Duration;

use anyhow::Context;
use data_encoding::HEXLOWER;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::Agent;
use uuid::Uuid;
use zeroize::Zeroizing;

const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A caller with a key.
pub struct Api {
    agent: Agent,
    url: String,
    key: Zeroizing<String>,
}

/// What the demo reads of an inventory.
#[derive(Deserialize)]
pub struct Inventory {
    /// The device's name in the ledger.
    pub device: String,
    /// KIDs with a live license.
    pub live: usize,
    /// Those that the device confirmed.
    pub confirmed: usize,
    /// Those that it may hold.
    pub possible: usize,
    /// The live licenses.
    pub licenses: Vec<Held>,
}

/// What the demo reads of a license.
#[derive(Deserialize)]
pub struct Held {
    /// The license.
    pub license_id: Uuid,
    /// Its KID.
    pub key_id: Uuid,
    /// `issued`, `stored`, …
    pub status: String,
}

/// An event as the API shows it.
#[derive(Deserialize)]
pub struct Event {
    /// Its place in the ledger.
    pub sequence: u64,
    /// Its type tag.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its stream.
    pub stream: String,
    /// Its body.
    pub data: Value,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Event>,
    position: String,
}

impl Api {
    /// Calls the service at `url` with `key`.
    pub fn new(url: &str, key: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(CALL_TIMEOUT));
        Self { agent: config.build().into(), url: url.to_owned(), key: key.to_owned().into() }
    }

    /// How many events the ledger holds.
    pub fn position(&self) -> anyhow::Result<u64> {
        let page: Page = self.get("/v1/events?limit=1")?;
        page.position.parse().context("the position of the ledger is not a number")
    }

    /// Up to 1000 events from a place on.
    pub fn events(&self, from: u64) -> anyhow::Result<Vec<Event>> {
        Ok(self.get::<Page>(&format!("/v1/events?limit=1000&from={from}"))?.items)
    }

    /// What the ledger knows a device to hold, all its events so far included.
    pub fn inventory(&self, identity: &[u8; 32]) -> anyhow::Result<Inventory> {
        let position = self.position()?;
        let identity = HEXLOWER.encode(identity);
        self.get(&format!("/v1/devices/{identity}/inventory?min_position={position}"))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let failed = || format!("GET {path}");
        let request = self.agent.get(format!("{}{path}", self.url));
        let request = request.header("Authorization", format!("Bearer {}", *self.key));
        let mut answer = request.call().with_context(failed)?;
        let status = answer.status();
        let body = answer.body_mut().read_to_string().with_context(failed)?;
        anyhow::ensure!(status.is_success(), "GET {path} answered {status}: {body}");
        serde_json::from_str(&body).with_context(failed)
    }
}
