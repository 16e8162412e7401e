//! A device asks for licenses.

use serde_json::value::RawValue;
use uuid::Uuid;

use super::commit::{Attempts, Basis, Committed, introduction, model_of};
use super::sealing::RequestKeys;
use super::{Answer, Denied, Licensing, LicensingError, random_bytes};
use crate::domain::acquire::{Acquire, Outcome, Refusal as DomainRefusal, Seen, Terms};
use crate::domain::event::{LicenseAcquired, Persistence};
use crate::domain::ids::Wire16;
use crate::domain::lookup::GrantPlace;
use crate::domain::quota::{QuotaExceeded, Rule};
use crate::domain::{Digest, Event, Identity, KeyId, LicenseId, Nonce, SessionId, TransactionId};
use crate::entitlement::{Asked, Entitled, Grant};
use crate::ledger::state::DeviceGuard;
use crate::ledger::tail::Fact;
use crate::playready::acquire::AcquireRequest;
use crate::playready::challenge::VerifiedChallenge;
use crate::playready::kid::Kid;
use crate::playready::policy::Client;
use crate::playready::soap::{Fault, FaultCode, LimitScope, Refusal};

impl Licensing {
    pub(super) async fn acquire(
        &self,
        challenge: &VerifiedChallenge,
        message: &AcquireRequest,
        query: &str,
        correlation: &str,
    ) -> Result<Answer, Denied> {
        if self.is_revoked(challenge) {
            let detail = "a certificate of the chain is revoked";
            return Err(Denied::Fault(Fault::new(FaultCode::DeviceRevoked, detail)));
        }
        let identity = Identity(Digest(*challenge.sender().identity()));
        let now_ms = self.clock.now().0;
        // Prepared once; whether it failed only matters if the challenge was not granted before.
        let (command, keys, unprepared) = match self.prepare(challenge, message, query, now_ms) {
            Ok((command, keys)) => (command, keys, None),
            Err(denied) => (bare(challenge, message), RequestKeys::default(), Some(denied)),
        };
        let mut unprepared = unprepared;
        let mut attempts = Attempts::new();
        loop {
            attempts.next()?;
            let belonging = self.identities.find(identity, &self.ledger).await?;
            let policy = self.policy.current();
            let mut guard = self.deciding.hold(&belonging.device).await?;
            let basis = Basis { identity, belonging: &belonging, policy: &policy, now_ms };
            let at_ms = basis.at_ms(&guard);
            let (mut seen, granted) = Seen::read(&command, |key| guard.value(key))?;
            match (granted, unprepared.take()) {
                (Some(place), _) => seen.grant = Some(self.grant_at(&place).await?),
                (None, Some(denied)) => return Err(denied),
                (None, None) => {}
            }
            let terms = Terms {
                policy: &policy.policy,
                policy_revision: policy.revision,
                replay_window_ms: self.replay_window_ms,
            };
            let outcome = guard.device().acquire(&command, &seen, terms, at_ms);
            let mut events = introduction(challenge.sender(), &basis, &guard, at_ms);
            let stream = guard.stream().clone();
            match outcome {
                Outcome::Grant(licenses) => {
                    let granted = licenses.iter().cloned();
                    let granted = granted.map(|l| Event::LicenseAcquired(Box::new(l)));
                    events.extend(granted.map(|event| (stream.clone(), event)));
                    let stored =
                        self.commit(&mut guard, &basis, events, Vec::new(), correlation).await?;
                    if let Committed::Stored { position } = stored {
                        drop(guard);
                        self.metrics.granted(&licenses);
                        let body = self.seal(challenge, message, &licenses, &keys)?;
                        return Ok(Answer { body, position: Some(position) });
                    }
                }
                Outcome::Refuse(refusal, Some(event)) => {
                    events.push((stream, event));
                    let stored =
                        self.commit(&mut guard, &basis, events, Vec::new(), correlation).await?;
                    if let Committed::Stored { .. } = stored {
                        return Err(self.refuse(refusal));
                    }
                }
                // What appends nothing is only true if the head has not moved meanwhile.
                Outcome::Repeat(licenses) => {
                    if !self.moved(&mut guard).await? {
                        drop(guard);
                        self.metrics.repeated();
                        let body = self.seal(challenge, message, &licenses, &keys)?;
                        return Ok(Answer { body, position: None });
                    }
                }
                Outcome::Refuse(refusal, None) => {
                    if !self.moved(&mut guard).await? {
                        return Err(self.refuse(refusal));
                    }
                }
            }
        }
    }

    /// Reads the heads of device and policy; tells whether either has moved since it was read.
    pub(super) async fn moved(&self, guard: &mut DeviceGuard) -> Result<bool, LicensingError> {
        let device = guard.refresh().await?;
        Ok(self.policy.refresh(&self.ledger).await? || device)
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
    fn prepare(
        &self,
        challenge: &VerifiedChallenge,
        message: &AcquireRequest,
        query: &str,
        at_ms: i64,
    ) -> Result<(Acquire, RequestKeys), Denied> {
        let sender = challenge.sender();
        let header_kids = message.kids();
        let asked = Asked {
            query,
            custom_data: message.custom_data.as_deref(),
            header: &message.header,
            header_kids: &header_kids,
        };
        let Grant { licenses, transaction_id } =
            self.entitlement.grant(&asked, &self.keys).map_err(Denied::Fault)?;
        let client = Client {
            security_level: sender.security_level(),
            version_major: message.client_major(),
            time_s: message.client_time,
            reads_cbc: sender.handles_cbc(),
        };
        let batch = Batch {
            identity: Identity(Digest(*sender.identity())),
            nonce: Nonce(Wire16(message.nonce)),
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
            at_ms,
        };
        let mut keys = RequestKeys::default();
        let mut recorded = Vec::with_capacity(licenses.len());
        for (ordinal, license) in (0..).zip(licenses) {
            recorded.push(batch.license(&license, &client, ordinal)?);
            keys.remember(license.kid, license.key);
        }
        let command = Acquire { licenses: recorded, ..bare(challenge, message) };
        Ok((command, keys))
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
    at_ms: i64,
}

impl Batch<'_> {
    fn license(
        &self,
        entitled: &Entitled,
        client: &Client,
        ordinal: u32,
    ) -> Result<LicenseAcquired, Denied> {
        let now_s = u64::try_from(self.at_ms / 1000).unwrap_or_default();
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
            account: None,
            title: None,
            content_group: None,
            security_level: sender.security_level(),
            model: model_of(sender),
            client_version: self.message.client_version.clone(),
            drm_system: "playready".to_owned(),
            key_type: entitled.key_type.name().to_owned(),
            key_source: entitled.source.clone(),
            quota_policy_revision: 0,
            overage: false,
            authorized_by: "open".to_owned(),
            signed_sha256: Digest(*self.challenge.signed_digest()),
            at_ms: self.at_ms,
        })
    }
}

fn limit_refusal(exceeded: QuotaExceeded) -> Refusal {
    let QuotaExceeded { rule, limit, held, requested, held_kids, .. } = exceeded;
    match rule {
        Rule::DeviceSlots | Rule::LicensesPerSlot => Refusal::PersistentLicenseLimit {
            scope: LimitScope::Device,
            window_seconds: None,
            limit,
            held,
            requested,
            held_kids: held_kids.into_iter().map(|key_id| Kid::from(key_id.0)).collect(),
        },
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
