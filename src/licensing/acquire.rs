//! A device asks for licenses.

use serde_json::value::RawValue;
use uuid::Uuid;

use super::commit::{Attempts, Caller, Committed, Turn, introduction};
use super::sealing::RequestKeys;
use super::subject::Subject;
use super::{Answer, Denied, Licensing, LicensingError, Posted, random_bytes};
use crate::domain::acquire::{Acquire, Outcome, Refusal as DomainRefusal, Seen, Terms};
use crate::domain::event::{Chain, LicenseAcquired, Persistence, TokenSpent};
use crate::domain::ids::Wire16;
use crate::domain::lookup::GrantPlace;
use crate::domain::quota::Scope;
use crate::domain::usage::QuotaExceeded;
use crate::domain::{
    AccountRef, DeviceRef, Digest, Event, Identity, KeyId, KeyRole, LicenseId, Nonce, SessionId,
    TransactionId,
};
use crate::entitlement::{Asked, Asker, Entitled, Grant};
use crate::ledger::tail::Fact;
use crate::ledger::{Expected, StreamName};
use crate::playready::acquire::AcquireRequest;
use crate::playready::challenge::VerifiedChallenge;
use crate::playready::content_key::KeyType;
use crate::playready::kid::Kid;
use crate::playready::policy::{Client, Conflict, LicensePolicy, Refusal as PolicyRefusal};
use crate::playready::soap::{Fault, FaultCode, LimitExplained, LimitScope, Refusal};

/// How events name licenses of this protocol.
pub(super) const DRM_SYSTEM: &str = "playready";

/// A command with everything prepared that can fail before deciding, whatever protocol it came by.
pub(super) struct Asking<'a> {
    pub(super) caller: &'a Caller,
    pub(super) command: Acquire,
    pub(super) claims: Claims,
    /// Why it could not be prepared; that only matters if it was not granted before.
    pub(super) unprepared: Option<Denied>,
    pub(super) correlation: &'a str,
}

/// What an entitlement says beyond the licenses.
#[derive(Default)]
pub(super) struct Claims {
    /// The device that this is said to be.
    device: Option<DeviceRef>,
    /// What a grant uses up, and the stream that remembers it.
    spends: Option<(Digest, StreamName)>,
}

/// What the ledger knows about a request before it is prepared.
#[derive(Default)]
struct Known {
    /// Whether it was granted before: then the ledger has the answer.
    granted: bool,
    /// The device that the identity belongs to.
    device: Option<DeviceRef>,
}

/// Licenses as the ledger has them, to be sealed for who asked.
pub(super) struct Granted {
    pub(super) licenses: Vec<LicenseAcquired>,
    /// The position after the events of the grant; `None` for a repeat, which has none.
    pub(super) position: Option<u64>,
}

/// Why nothing was granted.
pub(super) enum NotGranted {
    /// A decision.
    Refused(DomainRefusal),
    /// How a key is used was settled meanwhile, and otherwise than the licenses were prepared for.
    OtherUse,
    /// Whatever came before one.
    Denied(Denied),
}

impl<E: Into<Denied>> From<E> for NotGranted {
    fn from(denied: E) -> Self {
        Self::Denied(denied.into())
    }
}

impl Licensing {
    pub(super) async fn acquire(
        &self,
        challenge: &VerifiedChallenge,
        message: &AcquireRequest,
        posted: Posted<'_>,
    ) -> Result<Answer, Denied> {
        let chain = challenge.sender().chain();
        if self.revocation().is_some_and(|lists| lists.is_revoked(chain)) {
            let detail = "a certificate of the chain is revoked";
            return Err(Denied::Fault(Fault::new(FaultCode::DeviceRevoked, detail)));
        }
        let caller = Caller::of(challenge.sender());
        let mut attempts = Attempts::new();
        let (Granted { licenses, position }, keys) = loop {
            attempts.next()?;
            let asked = self.prepare_and_grant(challenge, message, &caller, posted).await;
            match asked {
                Ok(granted) => break granted,
                // Prepared again, it is of the right type, or refused with what is settled.
                Err(NotGranted::OtherUse) => {}
                Err(NotGranted::Refused(refusal)) => return Err(fault_of(refusal)),
                Err(NotGranted::Denied(denied)) => return Err(denied),
            }
        };
        let body = self.seal(challenge, message, &licenses, &keys)?;
        Ok(Answer { body, position })
    }

    /// Asks once who says what may be issued, and then the ledger.
    async fn prepare_and_grant(
        &self,
        challenge: &VerifiedChallenge,
        message: &AcquireRequest,
        caller: &Caller,
        posted: Posted<'_>,
    ) -> Result<(Granted, RequestKeys), NotGranted> {
        let prepared = match self.known(&bare(challenge, message), posted.correlation).await? {
            Known { granted: true, .. } => Err(Refusal::ChallengeSpent.into()),
            Known { device, .. } => {
                self.prepare(challenge, message, caller, device.as_ref(), posted).await
            }
        };
        let (command, keys, claims, unprepared) = match prepared {
            Ok((command, keys, claims)) => (command, keys, claims, None),
            Err(denied) => {
                let command = bare(challenge, message);
                (command, RequestKeys::default(), Claims::default(), Some(denied))
            }
        };
        let correlation = posted.correlation;
        let asking = Asking { caller, command, claims, unprepared, correlation };
        Ok((self.grant(asking).await?, keys))
    }

    /// Looks up what spares asking others about a request, and what they are told. What is true
    /// when it is decided is read again then.
    async fn known(&self, command: &Acquire, correlation: &str) -> Result<Known, LicensingError> {
        if !self.entitlement.asks_others() {
            return Ok(Known::default());
        }
        let mut turn = self.turn(command.identity, None, None, correlation).await?;
        let (_, granted) =
            turn.subject.guard.read(|rows| Seen::read(command, |key| rows.value(key)))?;
        let linked = turn.belonging.expected != Expected::NoStream;
        Ok(Known { granted: granted.is_some(), device: linked.then_some(turn.belonging.device) })
    }

    /// Decides until nothing that the decision was made on has changed; what it grants is durable.
    pub(super) async fn grant(&self, mut asking: Asking<'_>) -> Result<Granted, NotGranted> {
        let mut attempts = Attempts::new();
        loop {
            attempts.next()?;
            if let Some(granted) = self.grant_once(&mut asking).await? {
                return Ok(granted);
            }
        }
    }

    /// Decides once; `None` if something that the decision was made on has changed.
    async fn grant_once(&self, asking: &mut Asking<'_>) -> Result<Option<Granted>, NotGranted> {
        let command = &asking.command;
        let (claims, correlation) = (&asking.claims, asking.correlation);
        let (device, account) = (claims.device.as_ref(), command.account());
        let mut turn = self.turn(command.identity, device, account, correlation).await?;
        let (mut seen, granted) =
            turn.subject.guard.read(|rows| Seen::read(command, |key| rows.value(key)))?;
        if let Some(place) = granted {
            seen.grant = Some(self.grant_at(&place).await?);
        } else if asking.unprepared.is_some() {
            if self.moved(&mut turn).await? {
                return Ok(None);
            }
            return asking.unprepared.take().map_or(Ok(None), |denied| Err(denied.into()));
        }
        self.see_claims(&mut seen, claims, &turn).await?;
        let terms = Terms {
            device: turn.subject.name(),
            account: turn.subject.account(account),
            policy: &turn.policy.policy,
            policy_revision: turn.policy.revision,
            replay_window_ms: self.replay_window_ms,
        };
        let outcome = turn.subject.guard.device().acquire(command, &seen, terms, turn.at_ms);
        let mut events = introduction(asking.caller, &turn);
        let stream = turn.subject.guard.stream().clone();
        match outcome {
            Outcome::Grant(licenses) => {
                let granted = licenses.iter().cloned();
                let granted = granted.map(|license| Event::LicenseAcquired(Box::new(license)));
                events.extend(granted.map(|event| (stream.clone(), event)));
                let (spent, once) = claims.spent_by(command, turn.at_ms).unzip();
                events.extend(spent);
                let checks = once.into_iter().collect();
                match self.commit(&mut turn, events, checks, correlation).await? {
                    Committed::Stored { position } => {
                        self.metrics.granted(&licenses);
                        Ok(Some(Granted { licenses, position: Some(position) }))
                    }
                    Committed::DecideAgain => Ok(None),
                    Committed::BoundOtherwise => {
                        drop(turn);
                        self.follow_bindings(&mut asking.command.licenses).await?;
                        Ok(None)
                    }
                }
            }
            Outcome::Refuse(refusal, Some(refused)) => {
                events.push((stream, Event::AcquisitionRefused(*refused)));
                match self.commit(&mut turn, events, Vec::new(), asking.correlation).await? {
                    Committed::Stored { .. } => Err(self.refused(refusal)),
                    Committed::DecideAgain | Committed::BoundOtherwise => Ok(None),
                }
            }
            _ if self.moved(&mut turn).await? => Ok(None),
            Outcome::Repeat(licenses) => {
                self.metrics.repeated();
                Ok(Some(Granted { licenses, position: None }))
            }
            Outcome::Refuse(refusal, None) => Err(self.refused(refusal)),
        }
    }

    /// Looks up what an entitlement's claims are compared with.
    async fn see_claims(
        &self,
        seen: &mut Seen,
        claims: &Claims,
        turn: &Turn,
    ) -> Result<(), LicensingError> {
        let Subject { asked_for, replaced, .. } = &turn.subject;
        let is_it = |device: &DeviceRef| device == asked_for || device == turn.subject.name();
        seen.names_other_device = match &claims.device {
            Some(claimed) if !is_it(claimed) => !is_it(&self.deciding.goes_on_as(claimed)?),
            _ => false,
        };
        seen.device_replaced = *replaced;
        if let Some((_, stream)) = &claims.spends {
            seen.token_spent = self.ledger.head(stream).await?.is_some();
        }
        Ok(())
    }

    fn refused(&self, refusal: DomainRefusal) -> NotGranted {
        self.metrics.refused(&refusal);
        NotGranted::Refused(refusal)
    }

    /// The licenses of a grant, as they were recorded.
    async fn grant_at(&self, place: &GrantPlace) -> Result<Vec<LicenseAcquired>, LicensingError> {
        let stream = crate::ledger::state::deciding::device_stream(&place.device);
        let count = usize::try_from(place.count).unwrap_or(usize::MAX);
        let recorded = self.ledger.read_stream(&stream, place.first_revision, count).await?;
        let mut licenses = Vec::with_capacity(count);
        for recorded in recorded {
            match Fact::of(recorded)?.event {
                Event::LicenseAcquired(license) => licenses.push(*license),
                other => {
                    let stream = stream.to_string();
                    return Err(LicensingError::Stream { stream, kind: other.kind() });
                }
            }
        }
        Ok(licenses)
    }

    /// Finds keys, makes policies effective and draws ids: all that can fail before deciding.
    async fn prepare(
        &self,
        challenge: &VerifiedChallenge,
        message: &AcquireRequest,
        caller: &Caller,
        device: Option<&DeviceRef>,
        posted: Posted<'_>,
    ) -> Result<(Acquire, RequestKeys, Claims), Denied> {
        let command = bare(challenge, message);
        let kids = message.kids();
        let asked = Asked {
            query: posted.query,
            bearer: posted.bearer,
            custom_data: message.custom_data.as_deref(),
            header_keys: &message.header.keys,
            kids: &kids,
            asker: Asker {
                drm_system: DRM_SYSTEM,
                identity: Some(command.identity),
                device,
                security_level: Some(caller.security_level),
                model: Some(&caller.model),
                client_version: message.client_version.as_deref(),
                client_time: message.client_time,
                features: challenge.sender().features(),
                request_sha256: Some(command.signed_sha256),
                ip: posted.ip,
            },
        };
        let grant = self.entitlement.grant(&asked, &self.keys).await?;
        let Grant { licenses, transaction_id, authorized_by, account, device, spends } = grant;
        let claims = Claims::new(device.map(|id| self.reference_key.device(&id)), spends)?;
        let client = Client {
            security_level: caller.security_level,
            version_major: message.client_major(),
            time_s: message.client_time,
            reads_cbc: challenge.sender().handles_cbc(),
        };
        let batch = Batch {
            caller,
            nonce: command.nonce,
            session: SessionId(Wire16(*message.session_or_nonce())),
            session_explicit: message.session.is_some(),
            transaction_id: match transaction_id {
                Some(id) => Some(TransactionId(id)),
                None if licenses.iter().any(|license| license.policy.persist) => {
                    Some(TransactionId(random_uuid()?))
                }
                None => None,
            },
            account: account.map(|id| self.reference_key.account(&id)),
            authorized_by,
            client_version: message.client_version.as_deref(),
            drm_system: DRM_SYSTEM,
            signed_sha256: command.signed_sha256,
            now_ms: self.clock.now().0,
        };
        let now_s = u64::try_from(batch.now_ms / 1000).unwrap_or_default();
        let mut keys = RequestKeys::default();
        let mut recorded = Vec::with_capacity(licenses.len());
        for (ordinal, mut license) in (0..).zip(licenses) {
            // The key at hand is that of the source it was entitled from.
            keys.remember(license.kid, license.key.clone(), license.source.clone());
            self.follow_binding(&mut license).await?;
            let key_type = self.key_type(&license).await?;
            let policy = license.policy.effective(&client, key_type, now_s);
            let policy = policy.map_err(|refusal| Denied::from(Refusal::from(refusal)))?;
            recorded.push(batch.license(&license, &policy, key_type, ordinal)?);
        }
        Ok((Acquire { licenses: recorded, ..command }, keys, claims))
    }
}

impl Licensing {
    /// How the key of a license encrypts: as it is recorded, or else as the request has it.
    ///
    /// # Errors
    /// The key is recorded for another type or role than the license has it for.
    pub(super) async fn key_type(&self, license: &Entitled) -> Result<KeyType, Denied> {
        let key_id = KeyId(license.kid.guid());
        let recorded = self.recorded_use(key_id, &license.source).await?;
        let role = KeyRole::in_license(license.chain == Some(Chain::Root));
        if !recorded.allows(None, role) {
            return Err(invalid_policy(Conflict::RootKidReserved));
        }
        let recorded = recorded.key_type.map(KeyType::from);
        license.key_type.settle(license.kid, recorded).map_err(|refusal| refusal.into())
    }
}

/// A refusal as an answer of the protocol.
pub(super) fn fault_of(refusal: DomainRefusal) -> Denied {
    match refusal {
        DomainRefusal::NonceReused | DomainRefusal::SessionUsed(_) => {
            Denied::Fault(Fault::invalid_message(refusal))
        }
        DomainRefusal::ChallengeSpent => Refusal::ChallengeSpent.into(),
        DomainRefusal::Blocked => Refusal::NotEntitled { reason: None }.into(),
        DomainRefusal::Replaced => Refusal::not_entitled("device_replaced").into(),
        DomainRefusal::OtherDevice => Refusal::not_entitled("other_device").into(),
        DomainRefusal::TokenSpent => Refusal::not_entitled("token_spent").into(),
        DomainRefusal::TransactionUsed => {
            Refusal::InvalidCfg { detail: "tid was used before".to_owned() }.into()
        }
        DomainRefusal::RootMissing(_) => invalid_policy(Conflict::RootMissing),
        DomainRefusal::RootReserved(_) => invalid_policy(Conflict::RootKidReserved),
        DomainRefusal::Quota(exceeded) => limit_refusal(&exceeded).into(),
    }
}

impl Claims {
    /// What a grant says, with the device by its reference.
    pub(super) fn new(
        device: Option<DeviceRef>,
        spends: Option<Digest>,
    ) -> Result<Self, LicensingError> {
        let named = |token: Digest| Ok((token, StreamName::new(&format!("once-{token}"))?));
        let spends = spends.map(named).transpose().map_err(LicensingError::StreamName)?;
        Ok(Self { device, spends })
    }

    /// The event that remembers what a grant used up, and the check that nothing did before: both
    /// belong to the append of the grant.
    fn spent_by(
        &self,
        command: &Acquire,
        at_ms: i64,
    ) -> Option<((StreamName, Event), (StreamName, Expected))> {
        let (token, stream) = self.spends.as_ref()?;
        let Acquire { identity, nonce, .. } = *command;
        let spent = TokenSpent { token: *token, identity, nonce, at_ms };
        Some(((stream.clone(), Event::TokenSpent(spent)), (stream.clone(), Expected::NoStream)))
    }
}

/// The command of a challenge for which nothing could be prepared.
fn bare(challenge: &VerifiedChallenge, message: &AcquireRequest) -> Acquire {
    Acquire {
        identity: Identity(Digest(*challenge.sender().identity())),
        nonce: Nonce(Wire16(message.nonce)),
        signed_sha256: Digest(*challenge.signed_digest()),
        licenses: Vec::new(),
    }
}

/// What all licenses of one request share.
pub(super) struct Batch<'a> {
    pub(super) caller: &'a Caller,
    pub(super) nonce: Nonce,
    pub(super) session: SessionId,
    pub(super) session_explicit: bool,
    pub(super) transaction_id: Option<TransactionId>,
    pub(super) account: Option<AccountRef>,
    pub(super) authorized_by: &'static str,
    pub(super) client_version: Option<&'a str>,
    pub(super) drm_system: &'static str,
    pub(super) signed_sha256: Digest,
    pub(super) now_ms: i64,
}

impl Batch<'_> {
    /// The license as it is to be recorded; `policy` is the effective one.
    pub(super) fn license(
        &self,
        entitled: &Entitled,
        policy: &LicensePolicy,
        key_type: KeyType,
        ordinal: u32,
    ) -> Result<LicenseAcquired, LicensingError> {
        let stored = serde_json::to_string(policy).and_then(RawValue::from_string);
        let stored = stored.map_err(|_| LicensingError::Seal {
            license: entitled.kid.to_string(),
            reason: "its policy cannot be stored",
        })?;
        let counted_until_s = policy.counted_until_s().and_then(|at| i64::try_from(at).ok());
        Ok(LicenseAcquired {
            license_id: if policy.persist {
                LicenseId(random_uuid()?)
            } else {
                LicenseId::non_persistent(self.caller.identity, self.nonce, ordinal)
            },
            identity: self.caller.identity,
            key_id: KeyId(entitled.kid.guid()),
            session: self.session,
            session_explicit: self.session_explicit,
            nonce: self.nonce,
            ordinal,
            transaction_id: self.transaction_id,
            persistent: Persistence {
                requested: entitled.requested_persistent,
                effective: policy.persist,
            },
            policy: stored,
            counted_until_ms: counted_until_s.map(|at| at.saturating_mul(1000)),
            account: self.account.clone(),
            title: entitled.title.clone(),
            content_group: entitled.content_group.clone(),
            security_level: self.caller.security_level,
            model: self.caller.model.clone(),
            client_version: self.client_version.map(str::to_owned),
            drm_system: self.drm_system.to_owned(),
            key_type: key_type.name().to_owned(),
            key_source: entitled.source.clone(),
            chain: entitled.chain.clone(),
            quota_policy_revision: 0,
            overage: false,
            authorized_by: self.authorized_by.to_owned(),
            signed_sha256: self.signed_sha256,
            at_ms: self.now_ms,
        })
    }
}

fn invalid_policy(conflict: Conflict) -> Denied {
    Refusal::from(PolicyRefusal::from(conflict)).into()
}

fn limit_refusal(exceeded: &QuotaExceeded) -> Refusal {
    let rule = &exceeded.rule;
    Refusal::PersistentLicenseLimit {
        scope: match rule.scope {
            Scope::Device => LimitScope::Device,
            Scope::Account => LimitScope::Account,
            Scope::AccountTitle => LimitScope::AccountTitle,
        },
        window_seconds: rule.window_seconds.map(u64::from),
        limit: rule.limit,
        held: rule.in_use.live,
        requested: rule.requested,
        held_kids: rule.held_kids().into_iter().map(|key_id| Kid::from(key_id.0)).collect(),
        explained: Some(Box::new(LimitExplained {
            rule: rule.rule.clone(),
            policy_version: exceeded.policy_revision,
            confirmed: rule.in_use.confirmed,
            live: rule.in_use.live,
            possible: rule.in_use.possible,
            next_free_at: rule.next_free_at_ms.map(seconds_rounded_up),
            remedies: rule.remedies().iter().map(|remedy| remedy.word().to_owned()).collect(),
        })),
    }
}

/// A time in whole seconds, not before it.
fn seconds_rounded_up(at_ms: i64) -> i64 {
    at_ms.div_euclid(1000) + i64::from(at_ms.rem_euclid(1000) > 0)
}

/// 16 random bytes that are not all zero: a rights id or a transaction id.
fn random_uuid() -> Result<Uuid, LicensingError> {
    loop {
        let id = Uuid::from_bytes(random_bytes()?);
        if !id.is_nil() {
            return Ok(id);
        }
    }
}
