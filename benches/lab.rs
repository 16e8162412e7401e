//! Devices of a PKI made for the measurement, the challenges they sign, and a service for them.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use license_ledger::cli::service::Service;
use license_ledger::clock::Clock;
use license_ledger::config::{Config, Flag, Sources};
use license_ledger::playready::acquire::{AcquireRequest, HeldList};
use license_ledger::playready::challenge::{ChallengeSigner, Message};
use license_ledger::playready::client_data::ClientData;
use license_ledger::playready::ecc::PublicKey;
use license_ledger::playready::header::{AlgId, Header, HeaderKey, HeaderVersion};
use license_ledger::playready::key_seed::KeySeed;
use license_ledger::playready::kid::Kid;
use license_ledger::playready::pki::{
    DeviceFiles, DeviceSpec, LAB_MODEL, Model, PkiFile, mint_device, new_lab,
};
use license_ledger::playready::policy::SecurityLevel;
use license_ledger::playready::revocation::{APPLICATION_CRL, REVINFO_V2, RUNTIME_CRL};
use uuid::Uuid;

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A public key infrastructure, in memory and in a folder that a service can read.
pub struct Lab {
    files: HashMap<String, Vec<u8>>,
    model: Model,
    root: PublicKey,
    wmrm: PublicKey,
}

impl Lab {
    pub fn new(dir: &Path) -> Self {
        license_ledger::cli::allocator::keep_freed_memory();
        let mut files = HashMap::new();
        for PkiFile { path, bytes, .. } in new_lab(&mut os_random) {
            std::fs::create_dir_all(dir.join(&path).parent().unwrap()).unwrap();
            std::fs::write(dir.join(&path), &*bytes).unwrap();
            files.insert(path, bytes.to_vec());
        }
        let read = |path: &str| files.get(path).cloned().ok_or(io::ErrorKind::NotFound.into());
        let model = Model::load(read, LAB_MODEL).unwrap();
        let root = PublicKey::from_pem(&files["root.pub.pem"]).unwrap();
        let wmrm = PublicKey::from_pem(&files["wmrm.pub.pem"]).unwrap();
        Self { files, model, root, wmrm }
    }

    pub fn device(&self, number: usize) -> DeviceFiles {
        let name = &format!("device-{number}");
        let spec = DeviceSpec { name, security_level: SecurityLevel::Software };
        let (now_s, random) = (now_s(), &mut os_random);
        let minted = mint_device(&self.model, spec, &self.root, &self.wmrm, random, now_s).unwrap();
        let folder = format!("devices/{name}/");
        let read = |file: &str| match file.strip_prefix("../../") {
            Some(path) => self.files.get(path).cloned().ok_or(io::ErrorKind::NotFound.into()),
            None => {
                let path = format!("{folder}{file}");
                let file = minted.iter().find(|minted| minted.path == path);
                file.map(|file| file.bytes.to_vec()).ok_or(io::ErrorKind::NotFound.into())
            }
        };
        DeviceFiles::load(read, now_s).unwrap()
    }
}

/// What a device says of itself in every challenge.
pub fn client_data(device: &DeviceFiles) -> ClientData {
    ClientData {
        chain: device.chain.bytes().to_vec(),
        features: vec!["AESCBC".to_owned()],
        ree: vec!["AESCBCS".to_owned()],
    }
}

/// Signs the challenges of a device, each for a KID that it never asked for before.
pub struct Challenger(ChallengeSigner);

impl Challenger {
    pub fn new(device: DeviceFiles) -> Self {
        let client_data = client_data(&device);
        Self(ChallengeSigner::new(device.sign, &client_data, device.wmrm))
    }

    pub fn challenge(&self) -> Vec<u8> {
        let kid = Kid::from(Uuid::from_bytes(random_array()));
        let checksum = KeySeed::PUBLISHED_TEST.content_key(kid).checksum(kid).to_vec();
        let key = HeaderKey { kid, algid: Some(AlgId::AesCtr), checksum: Some(checksum) };
        let header = Header {
            la_url: Some("https://license.example/playready/rightsmanager.asmx".to_owned()),
            ..Header::new(HeaderVersion::V4_0, vec![key])
        };
        let request = AcquireRequest {
            client_version: Some("10.0.16384.10011".to_owned()),
            revocation_lists: Some(LISTS.map(|id| HeldList { id, version: 0 }).to_vec()),
            // As long as the token of a service.
            custom_data: Some("t".repeat(800)),
            client_time: Some(now_s()),
            ..AcquireRequest::new(header, random_array())
        };
        self.0.sign(&Message::Acquire(request), &mut os_random)
    }
}

/// A service on a free port, with default settings but for the allowance of calls, which would end
/// the measurement, and `more`.
pub fn service(dir: &Path, more: &[(&'static str, &str)]) -> Service {
    let path = |name: &str| dir.join(name).display().to_string();
    let (data, pki, secrets) = (path("data"), path("pki"), path("secrets"));
    let flags = [
        ("listen", "127.0.0.1:0"),
        ("data", &data),
        ("pki", &pki),
        ("secrets", &secrets),
        ("rate.per_identity_per_minute", "1000000"),
        ("rate.burst", "1000000"),
        ("rate.per_key_per_minute", "100000000"),
        ("rate.per_key_burst", "1000000"),
    ];
    let flags = flags.iter().chain(more);
    let flags = flags.map(|&(key, value)| Flag { key, flag: key, value: value.to_owned() });
    let sources = Sources { flags: flags.collect(), ..Sources::default() };
    let config: Config = sources.load().unwrap();
    Service::start(&config, Clock::System).unwrap()
}

/// How many events the state for deciding and the inventory are behind the ledger.
pub fn events_behind(dir: &Path, service: &Service) -> [u64; 2] {
    let last = *service.ledger.subscribe().borrow();
    ["state.db", "read_models.db"].map(|file| {
        let db = rusqlite::Connection::open(dir.join("data").join(file)).unwrap();
        let next: u64 =
            db.query_row("SELECT next_sequence FROM checkpoint", [], |row| row.get(0)).unwrap();
        (last.unwrap() + 1).saturating_sub(next)
    })
}

pub fn os_random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).unwrap();
}

pub fn random_array() -> [u8; 16] {
    let mut bytes = [0; 16];
    os_random(&mut bytes);
    bytes
}

fn now_s() -> u64 {
    u64::try_from(Clock::System.now().seconds()).unwrap()
}

/// The lists that clients speak of.
const LISTS: [Uuid; 3] = [RUNTIME_CRL, APPLICATION_CRL, REVINFO_V2];
