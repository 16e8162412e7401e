//! A device and its history in memory, driven through the rules the way the use cases drive them:
//! read the rows, decide, record, fold.

mod elsewhere;

use std::collections::BTreeMap;
use std::convert::Infallible;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::account::{Account, mirror};
use super::acknowledge::Acknowledge;
use super::acquire::{self, Acquire, Terms};
use super::delete::{self, Delete};
use super::event::{Chain, KeySource, LicenseAcquired, LicenseVoided, Persistence};
use super::ids::{ReferenceKey, Wire16};
use super::lookup::{self, Key, Place, Row, Rows, Value};
use super::quota::QuotaPolicy;
use super::support::{Act, WriteOff};
use super::usage::{Explanation, Usage, Wanted};
use super::{
    AccountRef, Device, DeviceRef, Digest, Event, Identity, KeyId, LicenseId, Nonce, Reason,
    SessionId, TransactionId,
};

pub(crate) const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// A moment to begin at, in 2023, as the golden messages are dated.
pub(crate) const START_MS: i64 = 1_700_000_000_000;

/// Revision of the policy in the `policy` stream.
const POLICY_REVISION: u64 = 3;

/// The identity by which most scenarios act.
pub(crate) const PHONE: u8 = 1;

pub(crate) fn identity(n: u8) -> Identity {
    Identity(Digest([n; 32]))
}

pub(crate) fn nonce(n: u8) -> Nonce {
    Nonce(Wire16([n; 16]))
}

pub(crate) fn session(n: u8) -> SessionId {
    SessionId(Wire16([n; 16]))
}

pub(crate) fn kid(n: u8) -> KeyId {
    KeyId(Uuid::from_u128(n.into()))
}

pub(crate) fn kids(range: impl IntoIterator<Item = u8>) -> Vec<KeyId> {
    range.into_iter().map(kid).collect()
}

pub(crate) fn transaction(n: u8) -> TransactionId {
    TransactionId(Uuid::from_u128(n.into()))
}

/// Index rows in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MemoryRows(pub(crate) BTreeMap<Key, Row>);

impl Rows for MemoryRows {
    type Error = Infallible;

    fn get(&mut self, key: &Key) -> Result<Option<Row>, Infallible> {
        Ok(self.0.get(key).cloned())
    }

    fn put(&mut self, key: Key, row: Row) -> Result<(), Infallible> {
        self.0.insert(key, row);
        Ok(())
    }
}

impl MemoryRows {
    fn value(&self, key: &Key) -> Result<Option<Value>, Infallible> {
        Ok(self.0.get(key).map(|row| row.value.clone()))
    }

    /// Applies the event that stands at `place` of the device's stream and of the ledger.
    pub(crate) fn apply(&mut self, fact: &Event, place: usize) {
        let (device, place) = (device_ref(), u64::try_from(place).unwrap());
        let place = Place { device: &device, sequence: place, revision: place };
        lookup::apply(fact, place, self).unwrap();
    }
}

pub(crate) fn reason() -> Reason {
    "a test".parse().unwrap()
}

/// What an operator at the command line does.
pub(crate) fn by_cli(reason: &Reason) -> Act<'_> {
    Act { actor: "cli", reason }
}

pub(crate) fn device_ref() -> DeviceRef {
    ReferenceKey::new([7; 32]).device("living room")
}

pub(crate) fn account_ref(name: &str) -> AccountRef {
    ReferenceKey::new([7; 32]).account(name)
}

/// A challenge to be.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) identity: u8,
    pub(crate) nonce: u8,
    pub(crate) kids: Vec<KeyId>,
    pub(crate) persistent: bool,
    /// The session the challenge names, if it names one.
    pub(crate) session: Option<u8>,
    pub(crate) until_ms: Option<i64>,
    pub(crate) transaction: Option<u8>,
    pub(crate) security_level: u32,
    /// What the licenses for these KIDs are in a chain.
    pub(crate) chains: Vec<(KeyId, Chain)>,
    /// Name of the account that pays.
    pub(crate) account: Option<&'static str>,
    pub(crate) title: Option<&'static str>,
    pub(crate) content_group: Option<&'static str>,
    /// Tells two challenges with the same nonce apart.
    pub(crate) content: u8,
    /// Whether its entitlement names another device.
    pub(crate) for_other_device: bool,
    /// Whether another challenge used up its token.
    pub(crate) token_spent: bool,
}

impl Ask {
    /// A challenge of the phone for persistent licenses that names no session.
    pub(crate) fn new(nonce: u8, kids: &[KeyId]) -> Self {
        Self {
            identity: PHONE,
            nonce,
            kids: kids.to_vec(),
            persistent: true,
            session: None,
            until_ms: None,
            transaction: None,
            security_level: 2000,
            chains: Vec::new(),
            account: None,
            title: None,
            content_group: None,
            content: 0,
            for_other_device: false,
            token_spent: false,
        }
    }

    pub(crate) fn for_other_device(self) -> Self {
        Self { for_other_device: true, ..self }
    }

    pub(crate) fn with_spent_token(self) -> Self {
        Self { token_spent: true, ..self }
    }

    pub(crate) fn by(self, identity: u8) -> Self {
        Self { identity, ..self }
    }

    pub(crate) fn in_session(self, session: u8) -> Self {
        Self { session: Some(session), ..self }
    }

    pub(crate) fn until(self, until_ms: i64) -> Self {
        Self { until_ms: Some(until_ms), ..self }
    }

    pub(crate) fn under(self, transaction: u8) -> Self {
        Self { transaction: Some(transaction), ..self }
    }

    pub(crate) fn of_level(self, security_level: u32) -> Self {
        Self { security_level, ..self }
    }

    pub(crate) fn paid_by(self, account: &'static str) -> Self {
        Self { account: Some(account), ..self }
    }

    pub(crate) fn titled(self, title: &'static str) -> Self {
        Self { title: Some(title), ..self }
    }

    pub(crate) fn in_group(self, content_group: &'static str) -> Self {
        Self { content_group: Some(content_group), ..self }
    }

    pub(crate) fn non_persistent(self) -> Self {
        Self { persistent: false, ..self }
    }

    /// Makes the license for this KID a root.
    pub(crate) fn root(mut self, key_id: KeyId) -> Self {
        self.chains.push((key_id, Chain::Root));
        self
    }

    /// Makes the license for this KID a leaf of a root whose key came from `root_key_source`.
    pub(crate) fn leaf(
        mut self,
        key_id: KeyId,
        root_key_id: KeyId,
        root_key_source: KeySource,
    ) -> Self {
        self.chains.push((key_id, Chain::Leaf { root_key_id, root_key_source }));
        self
    }

    pub(crate) fn other_bytes(self) -> Self {
        Self { content: self.content + 1, ..self }
    }

    /// The session of its licenses: the one it names, else its nonce.
    pub(crate) fn session_id(&self) -> SessionId {
        session(self.session.unwrap_or(self.nonce))
    }

    fn command(&self, drawn: &mut u128) -> Acquire {
        let licenses = self.kids.iter().zip(0..).map(|(key_id, ordinal)| {
            *drawn += 1;
            self.license(*key_id, ordinal, LicenseId(Uuid::from_u128(*drawn)))
        });
        Acquire {
            identity: identity(self.identity),
            nonce: nonce(self.nonce),
            signed_sha256: self.signed_sha256(),
            licenses: licenses.collect(),
        }
    }

    fn signed_sha256(&self) -> Digest {
        Digest::of(&[self.identity, self.nonce, self.content])
    }

    fn license(&self, key_id: KeyId, ordinal: u32, license_id: LicenseId) -> LicenseAcquired {
        LicenseAcquired {
            license_id,
            identity: identity(self.identity),
            key_id,
            session: self.session_id(),
            session_explicit: self.session.is_some(),
            nonce: nonce(self.nonce),
            ordinal,
            transaction_id: self.transaction.map(transaction),
            persistent: Persistence { requested: self.persistent, effective: self.persistent },
            policy: RawValue::from_string("{}".to_owned()).unwrap(),
            counted_until_ms: self.until_ms,
            account: self.account.map(account_ref),
            title: self.title.map(str::to_owned),
            content_group: self.content_group.map(str::to_owned),
            security_level: self.security_level,
            model: "Example TV 1".to_owned(),
            client_version: None,
            drm_system: "playready".to_owned(),
            key_type: "aesctr".to_owned(),
            key_source: KeySource::Registered,
            chain: self.chains.iter().find(|(kid, _)| *kid == key_id).map(|(_, c)| c.clone()),
            quota_policy_revision: 0,
            overage: false,
            authorized_by: "open".to_owned(),
            signed_sha256: self.signed_sha256(),
            at_ms: 0,
        }
    }
}

/// A secure-delete challenge to be.
#[derive(Clone, Debug)]
pub(crate) struct Removal {
    pub(crate) identity: u8,
    pub(crate) session: SessionId,
    pub(crate) kids: Vec<KeyId>,
    pub(crate) security_level: u32,
    pub(crate) chain_revoked: bool,
}

impl Removal {
    /// A challenge of the phone.
    pub(crate) fn new(session_number: u8, kids: &[KeyId]) -> Self {
        Self {
            identity: PHONE,
            session: session(session_number),
            kids: kids.to_vec(),
            security_level: 2000,
            chain_revoked: false,
        }
    }

    pub(crate) fn by(self, identity: u8) -> Self {
        Self { identity, ..self }
    }
}

/// What happened to one device so far, and what the rules make of it.
pub(crate) struct Scenario {
    pub(crate) name: DeviceRef,
    pub(crate) device: Device,
    pub(crate) accounts: BTreeMap<AccountRef, Account>,
    pub(crate) events: Vec<Event>,
    /// What the events changed on accounts.
    pub(crate) mirrored: Vec<(AccountRef, Event)>,
    pub(crate) rows: MemoryRows,
    pub(crate) policy: QuotaPolicy,
    pub(crate) now_ms: i64,
    /// License ids drawn so far.
    pub(crate) drawn: u128,
}

impl Scenario {
    /// A device with nothing on it and room for `slots`.
    pub(crate) fn with_room_for(slots: u32) -> Self {
        Self {
            name: device_ref(),
            device: Device::default(),
            accounts: BTreeMap::new(),
            events: Vec::new(),
            mirrored: Vec::new(),
            rows: MemoryRows::default(),
            policy: QuotaPolicy::with_device_limit(slots, 16),
            now_ms: START_MS,
            drawn: 0,
        }
    }

    pub(crate) fn wait(&mut self, ms: i64) {
        self.now_ms += ms;
    }

    /// Records what is overdue, as it is done before each decision; returns what that is.
    pub(crate) fn void_overdue(&mut self) -> Vec<LicenseVoided> {
        let voided = self.device.overdue(&self.policy, POLICY_REVISION, self.now_ms);
        voided.iter().for_each(|voided| self.record(Event::LicenseVoided(voided.clone())));
        voided
    }

    /// Sends a challenge for licenses and records what follows.
    pub(crate) fn acquire(&mut self, ask: &Ask) -> acquire::Outcome {
        self.void_overdue();
        let command = ask.command(&mut self.drawn);
        let rows = &self.rows;
        let (mut seen, place) = acquire::Seen::read(&command, |key| rows.value(key)).unwrap();
        seen.grant = place.map(|place| {
            let first = usize::try_from(place.first_revision).unwrap();
            let licenses = self.events[first..][..place.count as usize].iter();
            let license = |event: &Event| match event {
                Event::LicenseAcquired(license) => (**license).clone(),
                other => panic!("the row points at a {}", other.kind()),
            };
            licenses.map(license).collect()
        });
        seen.names_other_device = ask.for_other_device;
        seen.token_spent = ask.token_spent;
        let terms = Terms {
            device: &self.name,
            account: self.paying(ask),
            policy: &self.policy,
            policy_revision: POLICY_REVISION,
            replay_window_ms: DAY_MS,
        };
        let outcome = self.device.acquire(&command, &seen, terms, self.now_ms);
        match &outcome {
            acquire::Outcome::Grant(licenses) => licenses
                .iter()
                .for_each(|l| self.record(Event::LicenseAcquired(Box::new(l.clone())))),
            acquire::Outcome::Refuse(_, Some(refused)) => {
                self.record(Event::AcquisitionRefused((**refused).clone()));
            }
            acquire::Outcome::Refuse(_, None) | acquire::Outcome::Repeat(_) => {}
        }
        outcome
    }

    fn paying(&self, ask: &Ask) -> Option<&Account> {
        static NEW: std::sync::LazyLock<Account> = std::sync::LazyLock::new(Account::default);
        let account = ask.account.map(account_ref)?;
        Some(self.accounts.get(&account).unwrap_or(&NEW))
    }

    /// What the rules make of a wish for these KIDs, without an account.
    pub(crate) fn explain(&self, wanted: &[KeyId]) -> Explanation {
        let wanted = wanted.iter().map(|key_id| Wanted {
            key_id: *key_id,
            title: None,
            content_group: None,
        });
        self.usage().explain(&wanted.collect::<Vec<_>>())
    }

    /// What is decided on, without an account.
    pub(crate) fn usage(&self) -> Usage<'_> {
        Usage {
            device: &self.device,
            name: &self.name,
            account: None,
            policy: &self.policy,
            security_level: self.device.security_level,
            model: &self.device.model,
            now_ms: self.now_ms,
        }
    }

    /// Sends a challenge that must be granted; returns the ids of its licenses.
    pub(crate) fn granted(&mut self, ask: &Ask) -> Vec<LicenseId> {
        match self.acquire(ask) {
            acquire::Outcome::Grant(licenses) => licenses.iter().map(|l| l.license_id).collect(),
            other => panic!("{ask:?} led to {other:?}"),
        }
    }

    /// Sends a challenge that must be refused; returns why.
    pub(crate) fn refused(&mut self, ask: &Ask) -> acquire::Refusal {
        match self.acquire(ask) {
            acquire::Outcome::Refuse(refusal, _) => refusal,
            other => panic!("{ask:?} led to {other:?}"),
        }
    }

    /// Sends a challenge that must be answered as before; returns the ids of its licenses.
    pub(crate) fn repeated(&mut self, ask: &Ask) -> Vec<LicenseId> {
        let before = self.events.len();
        match self.acquire(ask) {
            acquire::Outcome::Repeat(licenses) => {
                assert_eq!(self.events.len(), before, "a repeat adds no event");
                licenses.iter().map(|l| l.license_id).collect()
            }
            other => panic!("{ask:?} led to {other:?}"),
        }
    }

    /// Sends a secure-delete challenge and records what follows.
    pub(crate) fn delete(&mut self, removal: &Removal) -> delete::Outcome {
        self.void_overdue();
        let identity = identity(removal.identity);
        let rows = &self.rows;
        let value = |key: &Key| rows.value(key);
        let seen = delete::Seen::read(identity, removal.session, &removal.kids, value).unwrap();
        let command = Delete {
            identity,
            session: removal.session,
            security_level: removal.security_level,
            chain_revoked: removal.chain_revoked,
            evidence: Digest::of(b"the signed message"),
        };
        let outcome = self.device.delete(&command, &seen, &self.policy, self.now_ms);
        if let delete::Outcome::Answer { deletions, .. } = &outcome {
            deletions.iter().for_each(|deletion| self.record(deletion.clone().into()));
        }
        outcome
    }

    /// Acknowledges KIDs with their results and returns what was recorded.
    pub(crate) fn acknowledge(
        &mut self,
        identity_number: u8,
        transaction_number: u8,
        results: &[(KeyId, u32)],
    ) -> Vec<Event> {
        self.void_overdue();
        let command = Acknowledge {
            identity: identity(identity_number),
            transaction_id: transaction(transaction_number),
            results: results.to_vec(),
            signed_sha256: Digest::of(b"the signed message"),
        };
        let known = command.transaction(|key| self.rows.value(key)).unwrap();
        let (policy, now_ms) = (&self.policy, self.now_ms);
        let events = self.device.acknowledge(&command, &known, policy, POLICY_REVISION, now_ms);
        events.iter().for_each(|event| self.record(event.clone()));
        events
    }

    /// Writes off the live licenses for these KIDs, or all, and returns which that is.
    pub(crate) fn write_off(
        &mut self,
        kids: Option<&[KeyId]>,
        cooldown_ms: Option<i64>,
    ) -> Vec<LicenseId> {
        self.void_overdue();
        let chosen = kids.map(|kids| {
            let live = self.device.held(self.now_ms).filter(|(kid, _)| kids.contains(kid));
            live.map(|(_, held)| held.license_id).collect::<Vec<_>>()
        });
        let command = WriteOff { license_ids: chosen.as_deref(), cooldown_ms };
        let (events, _) = self.device.write_off(command, by_cli(&reason()), self.now_ms).unwrap();
        let ids = events.iter().map(|event| event.license_id).collect();
        events.into_iter().for_each(|event| self.record(Event::LicenseWrittenOff(event)));
        ids
    }

    /// Blocks the device, or unblocks it, a moment later than all before.
    pub(crate) fn set_blocked(&mut self, blocked: bool) {
        self.now_ms += 1;
        let block = by_cli(&reason()).block(self.now_ms);
        self.record(match blocked {
            true => Event::DeviceBlocked(block),
            false => Event::DeviceUnblocked(block),
        });
    }

    /// KIDs whose slots are held.
    pub(crate) fn held(&self) -> Vec<KeyId> {
        self.device.held_slots(self.now_ms)
    }

    /// Live licenses, over all slots.
    pub(crate) fn live(&self) -> Vec<LicenseId> {
        self.device.held(self.now_ms).map(|(_, held)| held.license_id).collect()
    }

    pub(crate) fn record(&mut self, event: Event) {
        self.rows.apply(&event, self.events.len());
        for (account, mirrored) in mirror(&self.name, &self.device, [&event]) {
            self.accounts.entry(account.clone()).or_default().evolve(&mirrored);
            self.mirrored.push((account, mirrored));
        }
        self.device.evolve(&event);
        self.events.push(event);
    }
}
