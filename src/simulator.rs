//! A device that speaks the license protocol: for the demo, for tests, and for people who try out
//! a server.
//!
//! It does what a strict client should do, and keeps what a real one keeps:
//!
//! - [`Device::acquire`] signs a challenge, posts it, verifies the answer (signature and chain up
//!   to the root, nonce, revocation lists, and of every license the MAC, the device it is for, the
//!   KID, the rights id, the security level and the dates), stores persistent licenses in the
//!   device's folder, and then acknowledges them.
//! - [`Device::play`] decrypts a [`Sample`] with the key of a license that allows it at the moment:
//!   begin, end and grace, removal date, time since the first play, real-time expiration, security
//!   level, and for a leaf license (section 5.5) all of that of its root as well.
//! - [`Device::delete`] removes licenses first and tells the server afterwards. What was not
//!   answered is told again the next time (section 9 of the [protocol page](crate::playready)).
//!
//! The keys are those of a [`DeviceFiles`] folder; [`store`] says what is kept beside them.

mod answer;
mod endpoint;
mod error;
mod play;
mod sample;
pub mod store;

pub use answer::{VerifiedAnswer, VerifiedLicense};
pub use endpoint::{Endpoint, Reply};
pub use error::{SimulatorError, Unacceptable, Unplayable};
pub use play::{Playback, Term};
pub use sample::Sample;

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::clock::Clock;
use crate::playready::acknowledge::{self, Acknowledgement, LicenseResult};
use crate::playready::acquire::{AcquireRequest, AcquireResponse, HeldList, ResponseTrust};
use crate::playready::bcert::ChainCache;
use crate::playready::challenge::{ChallengeSigner, Message};
use crate::playready::client_data::ClientData;
use crate::playready::content_key::KeyType;
use crate::playready::delete::{self, DeleteRequest};
use crate::playready::ecc::{PrivateKey, PublicKey};
use crate::playready::elgamal::Random;
use crate::playready::header::{AlgId, Header, HeaderKey, HeaderVersion};
use crate::playready::kid::Kid;
use crate::playready::pki::{DeviceFiles, PkiError};
use crate::playready::policy::{BinaryId, Data};
use crate::playready::rev_info::RevInfo;
use crate::playready::revocation::REVINFO_V2;
use crate::playready::soap::Operation;
use answer::Receiver;
use play::InMemory;
use store::{PendingDeletion, Store, StoredLicense, Which};

/// What the device says it runs.
const CLIENT_VERSION: &str = "10.0.16384.10011";

/// A simulated device, with its folder locked for this process.
pub struct Device {
    encrypt: PrivateKey,
    identity: [u8; 32],
    security_level: u32,
    signer: ChallengeSigner,
    trust: ResponseTrust,
    store: Store,
    /// Sequence of the revocation lists in the store; 0 for none.
    rev_info_held: u32,
    in_memory: Vec<InMemory>,
    clock: Clock,
}

/// What to ask a server for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The keys; at least one, and only one below version 4.2 of the header.
    pub keys: Vec<WantedKey>,
    /// Version of the content header to send.
    pub header_version: HeaderVersion,
    /// How the content is encrypted, as the header says it. Only version 4.3 can say AES-CBC.
    pub key_type: Option<KeyType>,
    /// The policy string of a test server (section 10), for example `(persist:true)`.
    pub cfg: Option<String>,
    /// The session that a deletion will name; without one it is the request's nonce.
    pub session: Option<[u8; 16]>,
    /// Text for the service.
    pub custom_data: Option<String>,
}

/// A key that content needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedKey {
    /// Its id.
    pub kid: Kid,
    /// The checksum in the content's header, for AES-CTR (section 12). If there is one, a license
    /// with another key is not accepted.
    pub checksum: Option<[u8; 8]>,
}

/// A signed request for licenses. Sent again, it is a repeat.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// The SOAP document.
    pub bytes: Vec<u8>,
    /// Its nonce.
    pub nonce: [u8; 16],
    /// The keys it asks for.
    pub keys: Vec<WantedKey>,
    /// The session of the acquisition: the one it names, else its nonce.
    pub session: [u8; 16],
    /// The policy string to send it with.
    pub cfg: Option<String>,
}

/// What an acquisition brought.
pub struct Acquired {
    /// The verified answer, with its licenses.
    pub answer: VerifiedAnswer,
    /// KIDs that were asked for and not granted.
    pub missing: Vec<Kid>,
    /// What became of the acknowledgement.
    pub acknowledgement: AcknowledgementOutcome,
}

/// What became of an acknowledgement. The licenses are held in any case.
#[derive(Debug)]
pub enum AcknowledgementOutcome {
    /// The server did not ask for one.
    NotAsked,
    /// The server took it.
    Taken,
    /// The server did not take it, or not in time.
    Failed(SimulatorError),
}

/// What became of one deletion. The licenses are gone in any case.
#[derive(Debug)]
pub struct Deletion {
    /// The session and the KIDs that the server was told.
    pub record: PendingDeletion,
    /// The signed challenge that told it.
    pub challenge: Vec<u8>,
    /// Whether it answered with the same session; if not, it is told again next time.
    pub outcome: Result<(), SimulatorError>,
}

impl Wanted {
    /// Asks for the key of one KID, not to be stored.
    pub fn one(kid: Kid) -> Self {
        Self {
            keys: vec![WantedKey { kid, checksum: None }],
            header_version: HeaderVersion::V4_3,
            key_type: Some(KeyType::AesCtr),
            cfg: None,
            session: None,
            custom_data: None,
        }
    }

    /// The same for a license to be stored, from a test server.
    pub fn persistent(self) -> Self {
        Self { cfg: Some("(persist:true)".to_owned()), ..self }
    }

    fn header(&self) -> Result<Header, SimulatorError> {
        let one_only = matches!(self.header_version, HeaderVersion::V4_0 | HeaderVersion::V4_1);
        match self.keys.len() {
            0 => return Err(SimulatorError::NoKid),
            1 => {}
            _ if one_only => {
                return Err(SimulatorError::TooManyKids { version: self.header_version.text() });
            }
            _ => {}
        }
        let algid = match self.key_type {
            None => None,
            Some(KeyType::AesCtr) => Some(AlgId::AesCtr),
            Some(KeyType::AesCbc) if self.header_version == HeaderVersion::V4_3 => {
                Some(AlgId::AesCbc)
            }
            Some(KeyType::AesCbc) => {
                return Err(SimulatorError::NoCbc { version: self.header_version.text() });
            }
        };
        let keys = self.keys.iter().map(|wanted| HeaderKey {
            kid: wanted.kid,
            algid,
            // Only AES-CTR has one (section 12).
            checksum: wanted.checksum.filter(|_| algid != Some(AlgId::AesCbc)).map(Vec::from),
        });
        Ok(Header::new(self.header_version, keys.collect()))
    }
}

impl Device {
    /// Opens the device in the folder `dir` and locks it. `pki` names the infrastructure to trust
    /// and to encrypt to, if it is not to be the one that the device's own files name.
    ///
    /// # Errors
    ///
    /// Files that are missing or do not fit each other, a device of another PKI, a store that is
    /// damaged or in use.
    pub fn open(dir: &Path, pki: Option<&Path>, clock: Clock) -> Result<Self, SimulatorError> {
        let now_s = seconds(&clock);
        let files = DeviceFiles::load(|file| fs::read(dir.join(file)), now_s)
            .map_err(|source| SimulatorError::Device { dir: dir.to_owned(), source })?;
        let wmrm = match pki {
            Some(pki) => server_key(dir, pki, &files.root)?,
            None => files.wmrm,
        };
        let store = Store::open(dir)?;
        let rev_info_held = match store.rev_info()? {
            // What is damaged or no longer verifies is asked for again.
            Some(bytes) => RevInfo::parse(&bytes)
                .ok()
                .and_then(|lists| lists.verify(&files.root, now_s).ok())
                .map_or(0, |lists| lists.sequence()),
            None => 0,
        };
        let client_data = ClientData {
            chain: files.chain.bytes().to_vec(),
            features: vec!["AESCBC".to_owned()],
            ree: vec!["AESCBCS".to_owned()],
        };
        let mut device = Self {
            encrypt: files.encrypt,
            identity: *files.chain.identity(),
            security_level: files.chain.security_level(),
            signer: ChallengeSigner::new(files.sign, &client_data, wmrm),
            trust: ResponseTrust { chains: ChainCache::new(files.root), accept_unsigned: false },
            store,
            rev_info_held,
            in_memory: Vec::new(),
            clock,
        };
        device.remove_due()?;
        Ok(device)
    }

    /// SHA-256 of the SIGN key: the name that the ledger knows the device by.
    pub fn identity(&self) -> &[u8; 32] {
        &self.identity
    }

    /// The security level in the device's certificate.
    pub fn security_level(&self) -> u32 {
        self.security_level
    }

    /// What the device keeps.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Acquires licenses, keeps the persistent ones, and acknowledges if the server asks for it.
    ///
    /// # Errors
    ///
    /// [`SimulatorError::Refused`] if the server says no; anything else means that nothing was
    /// accepted. The licenses of an answer are accepted all or none.
    pub fn acquire(
        &mut self,
        endpoint: &Endpoint,
        wanted: &Wanted,
    ) -> Result<Acquired, SimulatorError> {
        let challenge = self.challenge(wanted)?;
        self.exchange(endpoint, &challenge)
    }

    /// Signs a request for licenses.
    ///
    /// # Errors
    ///
    /// No KID, or more than the version of the header can name.
    pub fn challenge(&self, wanted: &Wanted) -> Result<Challenge, SimulatorError> {
        let nonce = nonce()?;
        let held = HeldList { id: REVINFO_V2, version: self.rev_info_held.into() };
        let request = AcquireRequest {
            client_version: Some(CLIENT_VERSION.to_owned()),
            revocation_lists: Some(vec![held]),
            custom_data: wanted.custom_data.clone(),
            session: wanted.session,
            client_time: Some(seconds(&self.clock)),
            ..AcquireRequest::new(wanted.header()?, nonce)
        };
        Ok(Challenge {
            bytes: self.sign(&Message::Acquire(request))?,
            nonce,
            keys: wanted.keys.clone(),
            session: wanted.session.unwrap_or(nonce),
            cfg: wanted.cfg.clone(),
        })
    }

    /// Sends a challenge, for the first time or again; otherwise as [`acquire`](Self::acquire).
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn exchange(
        &mut self,
        endpoint: &Endpoint,
        challenge: &Challenge,
    ) -> Result<Acquired, SimulatorError> {
        let cfg = challenge.cfg.as_deref();
        let reply = endpoint.post(Operation::AcquireLicense, cfg, &challenge.bytes)?;
        let answer = self.verify(challenge, &reply)?;
        self.keep(challenge, &answer)?;
        let acknowledgement = match answer.transaction_id {
            None => AcknowledgementOutcome::NotAsked,
            Some(id) => match self.acknowledge(endpoint, id, &answer.licenses) {
                Ok(()) => AcknowledgementOutcome::Taken,
                Err(error) => AcknowledgementOutcome::Failed(error),
            },
        };
        Ok(Acquired { missing: answer.missing(challenge), answer, acknowledgement })
    }

    /// Verifies the reply to a challenge. Keeps nothing.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn verify(
        &self,
        challenge: &Challenge,
        reply: &Reply,
    ) -> Result<VerifiedAnswer, SimulatorError> {
        let now_s = seconds(&self.clock);
        let response = reply
            .read(|body| AcquireResponse::verify(body, &challenge.nonce, &self.trust, now_s))?;
        let receiver = Receiver {
            encrypt: &self.encrypt,
            security_level: self.security_level,
            trust: &self.trust,
            rev_info_held: self.rev_info_held,
            roots: &|kid| self.roots(kid),
        };
        receiver.verify(response, challenge, now_s)
    }

    /// Removes licenses, tells the server, and tells it again what it has not answered before.
    ///
    /// # Errors
    ///
    /// Nothing is held that fits `which`, or the store cannot be written; then nothing was sent.
    pub fn delete(
        &mut self,
        endpoint: &Endpoint,
        which: Which,
    ) -> Result<Vec<Deletion>, SimulatorError> {
        self.remove(which)?;
        self.report_deletions(endpoint)
    }

    /// Removes licenses, to be told to the server later.
    ///
    /// # Errors
    ///
    /// As [`delete`](Self::delete).
    pub fn remove(&mut self, which: Which) -> Result<(), SimulatorError> {
        if self.store.remove(which)? == 0 {
            let what = match which {
                Which::Kid(kid) => format!("KID {kid}"),
                Which::Session(session) => {
                    format!("session {}", data_encoding::BASE64.encode(&session))
                }
            };
            return Err(SimulatorError::NotHeld { what });
        }
        Ok(())
    }

    /// Tells the server all deletions that it has not answered, oldest first.
    ///
    /// # Errors
    ///
    /// The store cannot be written. What the server or the network does is in the outcomes.
    pub fn report_deletions(
        &mut self,
        endpoint: &Endpoint,
    ) -> Result<Vec<Deletion>, SimulatorError> {
        let mut deletions = Vec::new();
        for record in self.store.deletions().to_vec() {
            let session = record.session.0;
            let kids = record.kids.iter().copied().map(Kid::from).collect();
            let challenge = self.sign(&Message::Delete(DeleteRequest { session, kids }))?;
            let outcome = send_deletion(endpoint, &session, &challenge);
            if outcome.is_ok() {
                self.store.deleted(&record)?;
            }
            deletions.push(Deletion { record, challenge, outcome });
        }
        Ok(deletions)
    }

    /// Signs any message with the device's key.
    ///
    /// # Errors
    ///
    /// The operating system gives no randomness.
    pub fn sign(&self, message: &Message) -> Result<Vec<u8>, SimulatorError> {
        with_os_random(|random| self.signer.sign(message, random))
    }

    fn keep(
        &mut self,
        challenge: &Challenge,
        answer: &VerifiedAnswer,
    ) -> Result<(), SimulatorError> {
        if let Some(lists) = &answer.revocation {
            self.store.keep_rev_info(lists.element())?;
            self.rev_info_held = lists.sequence();
        }
        let stored_at = seconds(&self.clock);
        let is_persistent = |license: &&VerifiedLicense| license.opened.policy.persist;
        let (persistent, in_memory): (Vec<_>, Vec<_>) =
            answer.licenses.iter().partition(is_persistent);
        let persistent = persistent.into_iter().map(|license| StoredLicense {
            rights_id: Uuid::from_bytes(license.opened.rights_id),
            kid: license.opened.kid.guid(),
            session: BinaryId(challenge.session),
            nonce: BinaryId(challenge.nonce),
            transaction_id: answer.transaction_id,
            acknowledged: false,
            stored_at,
            first_played_at: None,
            xmr: Data(license.xmr.clone()),
        });
        self.store.keep(persistent.collect())?;
        self.in_memory.extend(in_memory.into_iter().map(InMemory::from));
        Ok(())
    }

    /// Tells the server that all licenses of a response were stored (section 8).
    fn acknowledge(
        &mut self,
        endpoint: &Endpoint,
        transaction_id: Uuid,
        licenses: &[VerifiedLicense],
    ) -> Result<(), SimulatorError> {
        let results = licenses.iter().map(|l| LicenseResult { kid: l.opened.kid, result: 0 });
        let message = Acknowledgement {
            transaction_id,
            results: results.collect(),
            client_time: Some(seconds(&self.clock)),
        };
        let signed = self.sign(&Message::Acknowledge(message))?;
        let reply = endpoint.post(Operation::AcknowledgeLicense, None, &signed)?;
        reply.read(|body| acknowledge::verify_answer(body, transaction_id))?;
        self.store.acknowledged(transaction_id)
    }
}

/// Posts a signed deletion of `session`, for the first time or again, and compares the session of
/// the answer (section 9.1).
///
/// # Errors
///
/// [`SimulatorError::Refused`] if the server says no; others if it did not answer, or not this.
pub fn send_deletion(
    endpoint: &Endpoint,
    session: &[u8; 16],
    challenge: &[u8],
) -> Result<(), SimulatorError> {
    let reply = endpoint.post(Operation::ProcessDeleteLicenseData, None, challenge)?;
    reply.read(|body| delete::verify_answer(body, session))
}

/// The WMRMServer key of a PKI that made this device.
fn server_key(dir: &Path, pki: &Path, root: &PublicKey) -> Result<PublicKey, SimulatorError> {
    let read = |name: &str| {
        let file = |path: PathBuf, source| SimulatorError::File { action: "read", path, source };
        let path = pki.join(name);
        let pem = fs::read(&path).map_err(|source| file(path.clone(), source))?;
        let key = PublicKey::from_pem(&pem);
        key.map_err(|source| {
            let source = PkiError::Key { path: name.to_owned(), source };
            SimulatorError::Device { dir: pki.to_owned(), source }
        })
    };
    if read("root.pub.pem")? != *root {
        return Err(SimulatorError::OtherPki { dir: dir.to_owned(), pki: pki.to_owned() });
    }
    read("wmrm.pub.pem")
}

/// Calls `make` with randomness of the operating system.
///
/// # Errors
///
/// [`SimulatorError::Random`] if there was none; what was made is dropped.
pub fn with_os_random<T>(make: impl FnOnce(Random<'_>) -> T) -> Result<T, SimulatorError> {
    let mut failed = false;
    let made = make(&mut |bytes: &mut [u8]| failed |= aws_lc_rs::rand::fill(bytes).is_err());
    if failed { Err(SimulatorError::Random) } else { Ok(made) }
}

fn seconds(clock: &Clock) -> u64 {
    u64::try_from(clock.now().seconds()).unwrap_or(0)
}

fn nonce() -> Result<[u8; 16], SimulatorError> {
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SimulatorError::Random)?;
    Ok(nonce)
}

#[cfg(test)]
mod tests;
