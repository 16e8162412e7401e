//! The device's side of the protocol: real keys, real challenges, every check a strict client makes.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use license_ledger::playready::acknowledge::{Acknowledgement, LicenseResult};
use license_ledger::playready::acquire::{AcquireRequest, AcquireResponse, ResponseTrust};
use license_ledger::playready::bcert::ChainCache;
use license_ledger::playready::challenge::{ChallengeSigner, Message};
use license_ledger::playready::client_data::ClientData;
use license_ledger::playready::delete::DeleteRequest;
use license_ledger::playready::ecc::{PrivateKey, PublicKey};
use license_ledger::playready::header::{AlgId, Header, HeaderKey, HeaderVersion};
use license_ledger::playready::kid::Kid;
use license_ledger::playready::pki::DeviceFiles;
use license_ledger::playready::rev_info::RevInfo;
use license_ledger::playready::soap::{FaultReply, ResponseError};
use license_ledger::playready::xmr::{OpenedLicense, open};
use license_ledger::playready::{acknowledge, delete};
use uuid::Uuid;

use crate::client::{Answer, Client};
use crate::service::NOW_S;

/// Asks for persistent licenses.
pub const PERSISTENT: &str = "cfg=(persist:true)";

/// A device with the keys of its folder.
pub struct Device {
    files: DeviceFiles,
    signer: ChallengeSigner,
    trust: ResponseTrust,
}

/// What a device takes from an accepted answer.
pub struct Acquired {
    pub licenses: Vec<OpenedLicense>,
    pub transaction_id: Option<Uuid>,
    pub rev_info: Option<RevInfo>,
}

impl Device {
    /// Loads the device whose files `read` returns.
    pub fn load(read: impl FnMut(&str) -> io::Result<Vec<u8>>) -> Self {
        let files = DeviceFiles::load(read, NOW_S).unwrap();
        let signer = signer(&files, &["AESCBC"], &[]);
        let trust = ResponseTrust { chains: ChainCache::new(files.root), accept_unsigned: false };
        Self { files, signer, trust }
    }

    /// The same device, which says that it has these features and this secure environment.
    pub fn with_features(self, features: &[&str], ree: &[&str]) -> Self {
        Self { signer: signer(&self.files, features, ree), ..self }
    }

    /// Loads the device in the folder `dir`.
    pub fn in_dir(dir: &Path) -> Self {
        Self::load(|path| std::fs::read(dir.join(path)))
    }

    /// One of the devices of the golden PKI.
    pub fn golden(name: &str) -> Self {
        Self::in_dir(&crate::service::golden_pki().join("devices").join(name))
    }

    /// Its identity, as the API writes it.
    pub fn identity(&self) -> String {
        data_encoding::HEXLOWER.encode(self.files.chain.identity())
    }

    pub fn sign(&self, message: &Message) -> Vec<u8> {
        self.signer.sign(message, &mut fill)
    }

    /// A copy of its SIGN key.
    pub fn sign_key(&self) -> PrivateKey {
        PrivateKey::from_pem(self.files.sign.to_pem().as_bytes()).unwrap()
    }

    /// Its signature over any bytes.
    pub fn signature(&self, bytes: &[u8]) -> [u8; 64] {
        self.files.sign.sign(bytes)
    }

    /// Its certificate chain.
    pub fn chain(&self) -> &[u8] {
        self.files.chain.bytes()
    }

    /// The key that challenges are encrypted to.
    pub fn server(&self) -> PublicKey {
        self.files.wmrm
    }

    /// A challenge for licenses.
    pub fn ask(&self, request: &AcquireRequest) -> Vec<u8> {
        self.sign(&Message::Acquire(request.clone()))
    }

    /// A secure-delete challenge.
    pub fn give_back(&self, session: [u8; 16], kids: &[Uuid]) -> Vec<u8> {
        let kids = kids.iter().copied().map(Kid::from).collect();
        self.sign(&Message::Delete(DeleteRequest { session, kids }))
    }

    /// An acknowledgement with a result for each KID.
    pub fn confirm(&self, transaction_id: Uuid, results: &[(Uuid, u32)]) -> Vec<u8> {
        let result = |&(kid, result): &(Uuid, u32)| LicenseResult { kid: Kid::from(kid), result };
        let results = results.iter().map(result).collect();
        let message = Acknowledgement { transaction_id, results, client_time: None };
        self.sign(&Message::Acknowledge(message))
    }

    /// Verifies an answer and opens every license in it.
    pub fn accept(&self, answer: &[u8], nonce: &[u8; 16]) -> Result<Acquired, FaultReply> {
        let response = AcquireResponse::verify(answer, nonce, &self.trust, NOW_S);
        let response = response.map_err(fault)?;
        let licenses = response.licenses.iter();
        let licenses = licenses.map(|bytes| open(bytes, &self.files.encrypt).unwrap()).collect();
        let AcquireResponse { transaction_id, rev_info, .. } = response;
        Ok(Acquired { licenses, transaction_id, rev_info })
    }

    /// Asks over HTTP for one license a KID.
    pub fn acquire(
        &self,
        client: &Client,
        request: &AcquireRequest,
        query: &str,
    ) -> Result<Acquired, FaultReply> {
        let answer = client.challenge(&self.ask(request), query);
        assert_eq!(answer.status, if answer.is_fault() { 500 } else { 200 }, "{}", answer.text());
        self.accept(&answer.body, &request.nonce)
    }

    /// Tells over HTTP that the licenses of these KIDs are removed.
    pub fn delete(
        &self,
        client: &Client,
        session: [u8; 16],
        kids: &[Uuid],
    ) -> Result<(), FaultReply> {
        let answer = client.challenge(&self.give_back(session, kids), "");
        deleted(&answer.body, session)
    }

    /// Tells over HTTP what became of the licenses of a response.
    pub fn acknowledge(
        &self,
        client: &Client,
        transaction_id: Uuid,
        results: &[(Uuid, u32)],
    ) -> Result<(), FaultReply> {
        let answer = client.challenge(&self.confirm(transaction_id, results), "");
        acknowledge::verify_answer(&answer.body, transaction_id).map_err(fault)
    }
}

fn signer(files: &DeviceFiles, features: &[&str], ree: &[&str]) -> ChallengeSigner {
    let sign = PrivateKey::from_pem(files.sign.to_pem().as_bytes()).unwrap();
    let [features, ree] = [features, ree].map(|all| all.iter().copied().map(str::to_owned));
    let data = ClientData {
        chain: files.chain.bytes().to_vec(),
        features: features.collect(),
        ree: ree.collect(),
    };
    ChallengeSigner::new(sign, &data, files.wmrm)
}

impl Acquired {
    /// The content keys, by KID.
    pub fn keys(&self) -> Vec<(Uuid, [u8; 16])> {
        self.licenses.iter().map(|l| (l.kid.guid(), *l.content_key.expose())).collect()
    }

    /// The rights ids: of persistent licenses also their ids in the ledger.
    pub fn rights_ids(&self) -> Vec<Uuid> {
        self.licenses.iter().map(|license| Uuid::from_bytes(license.rights_id)).collect()
    }
}

impl Answer {
    /// Whether the body is a SOAP fault.
    pub fn is_fault(&self) -> bool {
        self.text().contains("<soap:Fault>")
    }
}

/// Checks the answer to a secure delete.
pub fn deleted(answer: &[u8], session: [u8; 16]) -> Result<(), FaultReply> {
    delete::verify_answer(answer, &session).map_err(fault)
}

/// The fault in a body that must be one: its code, and the word of its refusal if it has one.
pub fn fault_of(body: &[u8]) -> (u32, Option<String>) {
    match delete::verify_answer(body, &[1; 16]) {
        Err(ResponseError::Fault(fault)) => words(&fault),
        _ => panic!("not a fault: {}", String::from_utf8_lossy(body)),
    }
}

/// The code of a fault, and the word of its refusal if it has one.
pub fn words(fault: &FaultReply) -> (u32, Option<String>) {
    let custom = fault.custom_data.as_deref().map(|json| {
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        json["error"].as_str().unwrap().to_owned()
    });
    (fault.code.number(), custom)
}

/// 8004C604 with this word.
pub fn refused(word: &str) -> (u32, Option<String>) {
    (0x8004_C604, Some(word.to_owned()))
}

/// 8004C601, which says no more.
pub const INVALID: (u32, Option<String>) = (0x8004_C601, None);

fn fault(error: ResponseError) -> FaultReply {
    match error {
        ResponseError::Fault(fault) => fault,
        other => panic!("the answer is not acceptable: {other:?}"),
    }
}

/// A request for these KIDs with a nonce of its own: header 4.0 for one KID, 4.2 for more.
pub fn request(kids: &[Uuid]) -> AcquireRequest {
    let version = if kids.len() == 1 { HeaderVersion::V4_0 } else { HeaderVersion::V4_2 };
    AcquireRequest::new(header(version, kids, Some(AlgId::AesCtr)), fresh_nonce())
}

pub fn header(version: HeaderVersion, kids: &[Uuid], algid: Option<AlgId>) -> Header {
    let key = |kid: &Uuid| HeaderKey { kid: Kid::from(*kid), algid, checksum: None };
    Header::new(version, kids.iter().map(key).collect())
}

/// A nonce that no other request of this process has.
pub fn fresh_nonce() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut nonce = [0x5a; 16];
    nonce[8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    nonce
}

/// The `number`th KID of a test's own.
pub fn kid(number: u128) -> Uuid {
    Uuid::from_u128(0x1111_2222_3333_4444_0000_0000_0000_0000 + number)
}

/// The content key that the seed published for tests gives this KID.
pub fn seed_key(kid: Uuid) -> [u8; 16] {
    use license_ledger::playready::key_seed::KeySeed;
    *KeySeed::PUBLISHED_TEST.content_key(Kid::from(kid)).expose()
}

/// Randomness of the operating system.
pub fn fill(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).unwrap();
}
