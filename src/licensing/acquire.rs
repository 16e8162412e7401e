//! A device asks for licenses.

use serde_json::value::RawValue;
use uuid::Uuid;

use super::commit::{Attempts, Committed, introduction, model_of};
use super::sealing::RequestKeys;
use super::{Answer, Denied, Licensing, LicensingError, Posted, random_bytes};
use crate::domain::acquire::{Acquire, Outcome, Refusal as DomainRefusal, Seen, Terms};
use crate::domain::event::{LicenseAcquired, Persistence};
use crate::domain::ids::Wire16;
use crate::domain::lookup::GrantPlace;
use crate::domain::quota::{QuotaExceeded, Scope};
use crate::domain::{
    AccountRef, Digest, Event, Identity, KeyId, LicenseId, Nonce, SessionId, TransactionId,
};
use crate::entitlement::{Asked, Asker, Entitled, Grant};
use crate::ledger::tail::Fact;
use crate::playready::acquire::AcquireRequest;
use crate::playready::challenge::VerifiedChallenge;
use crate::playready::kid::Kid;
use crate::playready::policy::Client;
use crate::playready::soap::{Fault, FaultCode, LimitScope, Refusal};

/// How events name licenses of this protocol.
const DRM_SYSTEM: &str = "playready";

/// A challenge with everything prepared that can fail before deciding.
struct Asking<'a> {
    challenge: &'a VerifiedChallenge,
    message: &'a AcquireRequest,
    command: Acquire,
    keys: RequestKeys,
    /// Why it could not be prepared; that only matters if it was not granted before.
    unprepared: Option<Denied>,
    correlation: &'a str,
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
        let correlation = posted.correlation;
        let mut asking = match self.prepare(challenge, message, posted).await {
            Ok((command, keys)) => {
                Asking { challenge, message, command, keys, unprepared: None, correlation }
            }
            Err(denied) => Asking {
                challenge,
                message,
                command: bare(challenge, message),
                keys: RequestKeys::default(),
                unprepared: Some(denied),
                correlation,
            },
        };
        let mut attempts = Attempts::new();
        loop {
            attempts.next()?;
            if let Some(answer) = self.acquire_once(&mut asking).await? {
                return Ok(answer);
            }
        }
    }

    /// Decides once; `None` if something that the decision was made on has changed.
    async fn acquire_once(&self, asking: &mut Asking<'_>) -> Result<Option<Answer>, Denied> {
        let command = &asking.command;
        let mut turn = self.turn(command.identity, asking.correlation).await?;
        let (mut seen, granted) =
            turn.guard.read(|rows| Seen::read(command, |key| rows.value(key)))?;
        if let Some(place) = granted {
            seen.grant = Some(self.grant_at(&place).await?);
        } else if asking.unprepared.is_some() {
            if self.moved(&mut turn).await? {
                return Ok(None);
            }
            return asking.unprepared.take().map_or(Ok(None), Err);
        }
        let terms = Terms {
            policy: &turn.policy.policy,
            policy_revision: turn.policy.revision,
            replay_window_ms: self.replay_window_ms,
        };
        let outcome = turn.guard.device().acquire(command, &seen, terms, turn.at_ms);
        let mut events = introduction(asking.challenge.sender(), &turn);
        let stream = turn.guard.stream().clone();
        match outcome {
            Outcome::Grant(licenses) => {
                let granted = licenses.iter().cloned();
                let granted = granted.map(|license| Event::LicenseAcquired(Box::new(license)));
                events.extend(granted.map(|event| (stream.clone(), event)));
                let Committed::Stored { position } =
                    self.commit(&mut turn, events, Vec::new(), asking.correlation).await?
                else {
                    return Ok(None);
                };
                drop(turn);
                self.metrics.granted(&licenses);
                self.seal_answer(asking, &licenses, Some(position)).map(Some)
            }
            Outcome::Refuse(refusal, Some(refused)) => {
                events.push((stream, Event::AcquisitionRefused(*refused)));
                match self.commit(&mut turn, events, Vec::new(), asking.correlation).await? {
                    Committed::Stored { .. } => Err(self.refuse(refusal)),
                    Committed::DecideAgain => Ok(None),
                }
            }
            _ if self.moved(&mut turn).await? => Ok(None),
            Outcome::Repeat(licenses) => {
                drop(turn);
                self.metrics.repeated();
                self.seal_answer(asking, &licenses, None).map(Some)
            }
            Outcome::Refuse(refusal, None) => Err(self.refuse(refusal)),
        }
    }

    fn seal_answer(
        &self,
        asking: &Asking<'_>,
        licenses: &[LicenseAcquired],
        position: Option<u64>,
    ) -> Result<Answer, Denied> {
        let body = self.seal(asking.challenge, asking.message, licenses, &asking.keys)?;
        Ok(Answer { body, position })
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
        posted: Posted<'_>,
    ) -> Result<(Acquire, RequestKeys), Denied> {
        let sender = challenge.sender();
        let command = bare(challenge, message);
        let (kids, model) = (message.kids(), model_of(sender));
        let asked = Asked {
            query: posted.query,
            bearer: posted.bearer,
            custom_data: message.custom_data.as_deref(),
            header_keys: &message.header.keys,
            kids: &kids,
            asker: Asker {
                drm_system: DRM_SYSTEM,
                identity: Some(command.identity),
                device: None,
                security_level: Some(sender.security_level()),
                model: Some(&model),
                client_version: message.client_version.as_deref(),
                request_sha256: Some(command.signed_sha256),
                ip: posted.ip,
            },
        };
        let grant = self.entitlement.grant(&asked, &self.keys).await;
        let grant = grant.map_err(Denied::Fault)?;
        let Grant { licenses, transaction_id, authorized_by, account, .. } = grant;
        let client = Client {
            security_level: sender.security_level(),
            version_major: message.client_major(),
            time_s: message.client_time,
            reads_cbc: sender.handles_cbc(),
        };
        let batch = Batch {
            identity: command.identity,
            nonce: command.nonce,
            session: SessionId(Wire16(*message.session_or_nonce())),
            message,
            challenge,
            transaction_id: match transaction_id {
                Some(id) => Some(TransactionId(id)),
                None if licenses.iter().any(|license| license.policy.persist) => {
                    Some(TransactionId(random_uuid()?))
                }
                None => None,
            },
            model,
            account: account.map(|id| self.reference_key.account(&id)),
            authorized_by,
            now_ms: self.clock.now().0,
        };
        let mut keys = RequestKeys::default();
        let mut recorded = Vec::with_capacity(licenses.len());
        for (ordinal, license) in (0..).zip(licenses) {
            recorded.push(batch.license(&license, &client, ordinal)?);
            keys.remember(license.kid, license.key);
        }
        Ok((Acquire { licenses: recorded, ..command }, keys))
    }

    fn refuse(&self, refusal: DomainRefusal) -> Denied {
        self.metrics.refused(&refusal);
        match refusal {
            DomainRefusal::NonceReused | DomainRefusal::SessionUsed(_) => {
                Denied::Fault(Fault::invalid_message(refusal))
            }
            DomainRefusal::ChallengeSpent => Refusal::ChallengeSpent.into(),
            DomainRefusal::Blocked => Refusal::NotEntitled.into(),
            DomainRefusal::TransactionUsed => {
                Refusal::InvalidCfg { detail: "tid was used before".to_owned() }.into()
            }
            DomainRefusal::Quota(exceeded) => limit_refusal(exceeded).into(),
        }
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

/// What all licenses of one challenge share.
struct Batch<'a> {
    identity: Identity,
    nonce: Nonce,
    session: SessionId,
    message: &'a AcquireRequest,
    challenge: &'a VerifiedChallenge,
    transaction_id: Option<TransactionId>,
    model: String,
    account: Option<AccountRef>,
    authorized_by: &'static str,
    now_ms: i64,
}

impl Batch<'_> {
    fn license(
        &self,
        entitled: &Entitled,
        client: &Client,
        ordinal: u32,
    ) -> Result<LicenseAcquired, Denied> {
        let now_s = u64::try_from(self.now_ms / 1000).unwrap_or_default();
        let policy = entitled.policy.effective(client, entitled.key_type, now_s);
        let policy = policy.map_err(|refusal| Denied::from(Refusal::from(refusal)))?;
        let stored = serde_json::to_string(&policy).and_then(RawValue::from_string);
        let stored = stored.map_err(|_| LicensingError::Seal {
            license: entitled.kid.to_string(),
            reason: "its policy cannot be stored",
        })?;
        let counted_until_s = policy.counted_until_s().and_then(|at| i64::try_from(at).ok());
        let sender = self.challenge.sender();
        Ok(LicenseAcquired {
            license_id: if policy.persist {
                LicenseId(random_uuid()?)
            } else {
                LicenseId::non_persistent(self.identity, self.nonce, ordinal)
            },
            identity: self.identity,
            key_id: KeyId(entitled.kid.guid()),
            session: self.session,
            session_explicit: self.message.session.is_some(),
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
            security_level: sender.security_level(),
            model: self.model.clone(),
            client_version: self.message.client_version.clone(),
            drm_system: DRM_SYSTEM.to_owned(),
            key_type: entitled.key_type.name().to_owned(),
            key_source: entitled.source.clone(),
            quota_policy_revision: 0,
            overage: false,
            authorized_by: self.authorized_by.to_owned(),
            signed_sha256: Digest(*self.challenge.signed_digest()),
            at_ms: self.now_ms,
        })
    }
}

fn limit_refusal(exceeded: QuotaExceeded) -> Refusal {
    let QuotaExceeded { scope, limit, held, requested, held_kids, .. } = exceeded;
    Refusal::PersistentLicenseLimit {
        scope: match scope {
            Scope::Device => LimitScope::Device,
        },
        window_seconds: None,
        limit,
        held,
        requested,
        held_kids: held_kids.into_iter().map(|key_id| Kid::from(key_id.0)).collect(),
    }
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
