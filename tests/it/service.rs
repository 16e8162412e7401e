//! A service in this process: free port, a clock that tests move, data that goes away with it.

use std::fs;
use std::path::{Path, PathBuf};

use license_ledger::access::Scope;
use license_ledger::cli::admin::{Command, Outcome};
use license_ledger::cli::control;
use license_ledger::cli::service::Service;
use license_ledger::clock::{Clock, UnixMillis};
use license_ledger::config::{Config, Flag, Sources};
use license_ledger::domain::KeyId;
use license_ledger::ledger::tail::Fact;
use license_ledger::playready::ecc::PublicKey;
use license_ledger::playready::pki::{DeviceSpec, LAB_MODEL, Model, PkiFile, mint_device, new_lab};
use license_ledger::playready::policy::SecurityLevel;
use license_ledger::simulator::{Device as Player, Endpoint};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::client::Client;
use crate::device::{Device, fill};
use crate::replay::Replay;

/// The time of the golden messages, and of every manual clock at its start: Unix seconds.
pub const NOW_S: u64 = 1_700_000_000;

/// What a test wants of its service.
pub struct Setup {
    /// The PKI's folder; a lab of its own if there is none.
    pub pki: Option<PathBuf>,
    pub settings: Vec<(&'static str, String)>,
    pub clock: Clock,
}

impl Default for Setup {
    /// A lab of its own, a clock that stands still, and no rate limit in the way.
    fn default() -> Self {
        let rates = [
            "rate.per_identity_per_minute",
            "rate.burst",
            "rate.per_key_per_minute",
            "rate.per_key_burst",
        ];
        let settings = rates.map(|rate| (rate, "1000000".to_owned())).to_vec();
        let now = UnixMillis(i64::try_from(NOW_S).unwrap() * 1000);
        Self { pki: None, settings, clock: Clock::manual(now) }
    }
}

impl Setup {
    pub fn golden() -> Self {
        Self { pki: Some(golden_pki()), ..Self::default() }
    }

    /// Sets one more setting of the configuration.
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.settings.push((key, value.to_string()));
        self
    }

    pub fn start(self) -> TestService {
        TestService::start(self, TempDir::new().unwrap())
    }
}

/// A running service.
pub struct TestService {
    pub client: Client,
    pub pki: PathBuf,
    dir: TempDir,
    setup: Setup,
    admin_key: String,
    service: Option<Service>,
}

impl TestService {
    /// A lab of its own and nothing unusual.
    pub fn new() -> Self {
        Setup::default().start()
    }

    fn start(setup: Setup, dir: TempDir) -> Self {
        let pki = setup.pki.clone().unwrap_or_else(|| {
            let pki = dir.path().join("pki");
            write(&pki, &new_lab(&mut fill));
            pki
        });
        let service = open(&setup, dir.path(), &pki);
        let admin_key = service.admin_key.as_ref().unwrap().expose().to_owned();
        let client = Client::new(&service.url(), &admin_key);
        Self { client, pki, dir, setup, admin_key, service: Some(service) }
    }

    /// Stops the service and starts it again on the same data.
    pub fn restart(&mut self) {
        self.restart_after(|_| ());
    }

    /// The same; `between` does something to the data directory.
    pub fn restart_after(&mut self, between: impl FnOnce(&Path)) {
        self.service.take().unwrap().stop().unwrap();
        between(&self.data());
        let service = open(&self.setup, self.dir.path(), &self.pki);
        assert!(service.admin_key.is_none(), "an admin key is made once");
        self.client = Client::new(&service.url(), &self.admin_key);
        self.service = Some(service);
    }

    pub fn inner(&self) -> &Service {
        self.service.as_ref().unwrap()
    }

    pub fn data(&self) -> PathBuf {
        data_in(self.dir.path())
    }

    /// A new device of the lab.
    pub fn device(&self, name: &str) -> Device {
        self.device_of_level(name, SecurityLevel::Software)
    }

    /// A new device of the lab that keeps licenses and plays, and enforces what they say.
    pub fn player(&self, name: &str, security_level: SecurityLevel) -> Player {
        make_device(&self.pki, name, security_level);
        self.same_player(name)
    }

    /// The same after it was switched off and on.
    pub fn same_player(&self, name: &str) -> Player {
        let dir = self.pki.join("devices").join(name);
        Player::open(&dir, None, self.setup.clock.clone()).unwrap()
    }

    /// Where players post to.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(&self.inner().url(), None).unwrap()
    }

    pub fn device_of_level(&self, name: &str, security_level: SecurityLevel) -> Device {
        make_device(&self.pki, name, security_level)
    }

    /// Moves the clock, forward or back.
    pub fn advance_s(&self, seconds: i64) {
        let Clock::Manual(at) = &self.setup.clock else { panic!("not a manual clock") };
        at.fetch_add(seconds * 1000, std::sync::atomic::Ordering::SeqCst);
    }

    /// Has an operator's command carried out, as the command line does while serving.
    pub fn command(&self, command: &Command) -> anyhow::Result<Outcome> {
        Ok(control::ask(&self.data(), command)?.expect("the service does not listen"))
    }

    pub fn import(&self, keys: &[(Uuid, [u8; 16])]) {
        let keys =
            keys.iter().map(|(kid, key)| (KeyId(*kid), Zeroizing::new(*key)).into()).collect();
        self.command(&Command::ImportKeys { keys }).unwrap();
    }

    /// A client whose API key has these scopes.
    pub fn client_with(&self, scopes: &[Scope]) -> Client {
        let scopes = scopes.iter().copied().collect();
        let made = self.command(&Command::CreateApiKey { name: "test".to_owned(), scopes });
        let Outcome::ApiKey { key, .. } = made.unwrap() else { panic!("no API key") };
        self.client.with_key(&key)
    }

    /// Every event of the service's own, in order.
    pub fn facts(&self) -> Vec<Fact> {
        let ledger = &self.inner().ledger;
        let recorded = block_on(ledger.read_all(0, usize::MAX >> 1)).unwrap();
        recorded.into_iter().filter_map(|recorded| Fact::of_ours(recorded).unwrap()).collect()
    }

    /// How many events there are.
    pub fn event_count(&self) -> u64 {
        block_on(self.inner().ledger.last_sequence()).unwrap().map_or(0, |last| last + 1)
    }

    /// The events by their kinds, from the sequence `from` on.
    pub fn kinds_from(&self, from: u64) -> Vec<String> {
        let facts = self.facts().into_iter().skip(usize::try_from(from).unwrap());
        facts.map(|fact| fact.event.kind().to_owned()).collect()
    }

    pub fn replay(&self) -> Replay {
        Replay::of(&self.facts())
    }

    /// What the API says the device holds, including every event there is.
    pub fn inventory(&self, device: &Device) -> Value {
        let position = self.event_count();
        let path = format!("/v1/devices/{}/inventory?min_position={position}", device.identity());
        self.client.json(&path)
    }

    /// How many slots the API says the device holds.
    pub fn live(&self, device: &Device) -> u64 {
        self.inventory(device)["live"].as_u64().unwrap()
    }
}

impl Drop for TestService {
    fn drop(&mut self) {
        if let Some(service) = self.service.take() {
            let _ = service.stop();
        }
    }
}

fn open(setup: &Setup, dir: &Path, pki: &Path) -> Service {
    Service::start(&config(setup, dir, pki), setup.clock.clone()).unwrap()
}

fn config(setup: &Setup, dir: &Path, pki: &Path) -> Config {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let fixed = [
        ("listen", "127.0.0.1:0".to_owned()),
        ("data", text(&data_in(dir))),
        ("pki", text(pki)),
        ("limits.workers", "2".to_owned()),
        ("limits.keep_alive_ms", "60000".to_owned()),
    ];
    let flags = fixed.into_iter().chain(setup.settings.iter().cloned());
    let flags = flags.map(|(key, value)| Flag { key, flag: key, value }).collect();
    Sources { flags, ..Sources::default() }.load().unwrap()
}

fn data_in(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// The folder of the golden PKI.
pub fn golden_pki() -> PathBuf {
    golden_path("pki")
}

/// A golden file.
pub fn golden(name: &str) -> Vec<u8> {
    fs::read(golden_path(name)).unwrap()
}

/// The path of a golden file or folder.
pub fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The ids and keys of the golden flow.
pub fn golden_flow() -> Value {
    let vectors: Value = serde_json::from_slice(&golden("vectors.json")).unwrap();
    vectors["flow"].clone()
}

/// Makes a device in the lab at `pki`.
pub fn make_device(pki: &Path, name: &str, security_level: SecurityLevel) -> Device {
    let read = |path: &str| fs::read(pki.join(path));
    let model = Model::load(read, LAB_MODEL).unwrap();
    let public = |name| PublicKey::from_pem(&read(name).unwrap()).unwrap();
    let (root, wmrm) = (public("root.pub.pem"), public("wmrm.pub.pem"));
    let spec = DeviceSpec { name, security_level };
    let files = mint_device(&model, spec, &root, &wmrm, &mut fill, NOW_S).unwrap();
    write(pki, &files);
    Device::in_dir(&pki.join("devices").join(name))
}

fn write(dir: &Path, files: &[PkiFile]) {
    for file in files {
        let path = dir.join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &file.bytes).unwrap();
    }
}

/// Runs a future of the library to its end.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}
