//! A browser asks for keys through Clear Key.
//!
//! Keys, entitlement, policies, quota decision and events are those of every acquisition. What
//! Clear Key lacks is made up for as follows.
//!
//! **Identity.** There is no certificate. The entitlement has to name the device: a token or a
//! callback by its device claim, the open test mode by `?device=NAME`. The identity is a SHA-256 over
//! a text of our own and the device's reference: it is the same for every request of the device, no
//! PlayReady certificate can have it, and the device's name cannot be guessed from it. A device that
//! plays over both protocols is one device with two identities.
//!
//! **Authorization.** What a page sends as `Authorization: Bearer` stands in place of custom data: it
//! may be the token, and a callback is told it.
//!
//! **Security level.** The lowest, 150: keys arrive in the clear. A policy that demands more is
//! refused.
//!
//! **Persistence.** All licenses are non-persistent, since a browser cannot prove that it deleted a
//! stored key. A policy that allows storing allows more than is given: it is issued, and the event
//! says that persistence was requested and is not effective.
//!
//! **Conditions.** A browser enforces none. A begin and an end, with its grace period, hold for the
//! moment of the request: a temporary session asks anew at each playback. Every other condition is
//! refused by name, because giving out the key would drop it: see [`fitted`].
//!
//! **Repeats.** A request has no nonce. An `Idempotency-Key` gives it one; without that, the token
//! that it spends does, together with its bytes. Sent again within the replay window it gets the same
//! licenses and adds no event, provided that it is still entitled: a token that has expired is not.
//! Any other request with a spent token is refused. With neither key nor token each request is an
//! acquisition of its own.

use super::acquire::{Asking, Batch, Claims, Granted, NotGranted, fault_of};
use super::commit::Caller;
use super::sealing::RequestKeys;
use super::{Denied, Licensing, LicensingError, Posted, random_bytes};
use crate::clearkey::{self, BadRequest, Request};
use crate::domain::acquire::{Acquire, Refusal as DomainRefusal};
use crate::domain::event::LicenseAcquired;
use crate::domain::ids::Wire16;
use crate::domain::{DeviceRef, Digest, Identity, Nonce, SessionId};
use crate::entitlement::{Asked, Asker, Grant};
use crate::playready::kid::Kid;
use crate::playready::policy::{self, LicensePolicy, SecurityLevel};
use crate::playready::soap::{Fault, Refusal};

/// How events name licenses of this protocol.
const DRM_SYSTEM: &str = "clearkey";
/// What stands in place of a certificate's maker and model.
const MODEL: &str = "Clear Key";
/// The level of every Clear Key client.
const SECURITY_LEVEL: SecurityLevel = SecurityLevel::Test;

/// A request that is entitled to its licenses. Nothing is recorded yet.
pub struct ClearKeyRequest {
    caller: Caller,
    claims: Claims,
    command: Acquire,
    keys: RequestKeys,
}

impl ClearKeyRequest {
    /// Who asks.
    pub fn identity(&self) -> Identity {
        self.caller.identity
    }
}

/// What a browser gets. Holds content keys in the clear: no `Debug`.
pub struct ClearKeyLicense {
    /// The JSON of the license.
    pub body: Vec<u8>,
    /// The position of the ledger after the grant's events; `None` for a repeat.
    pub position: Option<u64>,
}

/// Why a browser gets no license.
#[derive(Debug, thiserror::Error)]
pub enum ClearKeyRefused {
    /// The request is not one that is served.
    #[error(transparent)]
    Malformed(#[from] BadRequest),
    /// There is no license for it. The text says why and is for the client.
    #[error("{0}")]
    NotLicensed(String),
    /// Whether there is a license could not be found out.
    #[error("the service that authorizes requests could not be asked; try again")]
    TryLater,
    /// The `Idempotency-Key` was used for another request.
    #[error("the Idempotency-Key was used for another request")]
    KeyReused,
    /// A failure of ours.
    #[error(transparent)]
    Failed(#[from] LicensingError),
}

impl Licensing {
    /// Reads a request, asks the entitlement and prepares all else that can fail. Changes nothing.
    ///
    /// # Errors
    /// Not a request that is served, not entitled, or a policy that Clear Key cannot keep.
    pub async fn entitle_clear_key(
        &self,
        body: &[u8],
        idempotency_key: Option<&str>,
        posted: Posted<'_>,
    ) -> Result<ClearKeyRequest, ClearKeyRefused> {
        let request = Request::parse(body).inspect_err(|_| self.metrics.rejected())?;
        let grant = self.clear_key_grant(&request, posted).await?;
        let device = grant.device.as_deref().ok_or_else(|| {
            let detail = "the entitlement names no device, and Clear Key has no other to go by; name \
                          it in the token or the callback's answer";
            ClearKeyRefused::NotLicensed(detail.to_owned())
        })?;
        let device = self.reference_key.device(device);
        let caller = Caller {
            identity: identity_of(&device),
            security_level: SECURITY_LEVEL.number(),
            model: MODEL.to_owned(),
        };
        let signed_sha256 = Digest::of(body);
        let nonce = match nonce_of(idempotency_key, grant.spends, signed_sha256) {
            Some(nonce) => nonce,
            None => random_bytes()?,
        };
        let claims = Claims::new(Some(device), grant.spends)?;
        let nonce = Nonce(Wire16(nonce));
        let (licenses, keys) =
            self.clear_key_licenses(&caller, nonce, signed_sha256, grant).await?;
        let command = Acquire { identity: caller.identity, nonce, signed_sha256, licenses };
        Ok(ClearKeyRequest { caller, claims, command, keys })
    }

    async fn clear_key_grant(
        &self,
        request: &Request,
        posted: Posted<'_>,
    ) -> Result<Grant, ClearKeyRefused> {
        let kids: Vec<_> = request.key_ids.iter().copied().map(Kid::from).collect();
        let asked = Asked {
            query: posted.query,
            bearer: posted.bearer,
            custom_data: posted.bearer,
            header_keys: &[],
            kids: &kids,
            asker: Asker {
                drm_system: DRM_SYSTEM,
                identity: None,
                device: None,
                security_level: None,
                model: None,
                client_version: None,
                client_time: None,
                features: &[],
                request_sha256: None,
                ip: posted.ip,
            },
        };
        Ok(self.entitlement.grant(&asked, &self.keys).await.map_err(Denied::from)?)
    }

    /// The licenses as they are to be recorded, and their keys.
    async fn clear_key_licenses(
        &self,
        caller: &Caller,
        nonce: Nonce,
        signed_sha256: Digest,
        grant: Grant,
    ) -> Result<(Vec<LicenseAcquired>, RequestKeys), ClearKeyRefused> {
        let now_ms = self.clock.now().0;
        let batch = Batch {
            caller,
            nonce,
            session: SessionId(nonce.0),
            session_explicit: false,
            transaction_id: None,
            account: grant.account.map(|id| self.reference_key.account(&id)),
            authorized_by: grant.authorized_by,
            client_version: None,
            drm_system: DRM_SYSTEM,
            signed_sha256,
            now_ms,
        };
        let now_s = u64::try_from(now_ms / 1000).unwrap_or_default();
        let (mut licenses, mut keys) = (Vec::new(), RequestKeys::default());
        for (ordinal, mut license) in (0..).zip(grant.licenses) {
            if license.chain.is_some() {
                let detail = "root and leaf licenses need a client that opens one with the other; \
                              entitle it to licenses that stand alone";
                return Err(ClearKeyRefused::NotLicensed(detail.to_owned()));
            }
            let policy = fitted(&license.policy, now_s)?;
            // The key at hand is that of the source it was entitled from.
            keys.remember(license.kid, license.key.clone(), license.source.clone());
            self.follow_binding(&mut license).await?;
            let key_type = self.key_type(&license).await?;
            licenses.push(batch.license(&license, &policy, key_type, ordinal)?);
        }
        Ok((licenses, keys))
    }

    /// Decides and records; only then there is a license.
    ///
    /// # Errors
    /// The device is blocked, the `Idempotency-Key` is spent, or a failure of ours.
    pub async fn answer_clear_key(
        &self,
        request: ClearKeyRequest,
        correlation: &str,
    ) -> Result<ClearKeyLicense, ClearKeyRefused> {
        let ClearKeyRequest { caller, claims, command, keys } = request;
        let asking = Asking { caller: &caller, command, claims, unprepared: None, correlation };
        let Granted { licenses, position } = self.grant(asking).await?;
        keys.check(&licenses).map_err(Denied::from)?;
        let mut found = Vec::with_capacity(licenses.len());
        for license in &licenses {
            found.push((license.key_id.0, self.key_of(license, &keys)?));
        }
        let body = clearkey::license(found.iter().map(|(key_id, key)| (*key_id, key.expose())));
        Ok(ClearKeyLicense { body: body.map_err(|_| not_written())?, position })
    }
}

fn not_written() -> LicensingError {
    LicensingError::Seal { license: DRM_SYSTEM.to_owned(), reason: "it cannot be written" }
}

/// The identity of a device's browser. What is hashed never has the 64 bytes of a SIGN key, of which
/// a PlayReady identity is the hash.
fn identity_of(device: &DeviceRef) -> Identity {
    Identity(Digest::of(format!("license-ledger clear key identity {device}").as_bytes()))
}

/// The nonce of a request that can come again, and of nothing else that the identity asks: from its
/// `Idempotency-Key`, else from the token that it spends and its bytes.
fn nonce_of(
    idempotency_key: Option<&str>,
    spends: Option<Digest>,
    request: Digest,
) -> Option<[u8; 16]> {
    let of_key = |key| format!("idempotency-key {key}");
    let of_token = |token| format!("token {token} {request}");
    let named = idempotency_key.map(of_key).or_else(|| spends.map(of_token))?;
    Digest::of(named.as_bytes()).0.first_chunk().copied()
}

/// The policy as a Clear Key license has it at the time `now_s`: not persistent, and with nothing in
/// it that only the client could keep. A condition that is added to policies has to be put in one of
/// the classes here before this compiles.
fn fitted(policy: &LicensePolicy, now_s: u64) -> Result<LicensePolicy, ClearKeyRefused> {
    let LicensePolicy {
        sl,
        persist: _,
        begin,
        end,
        grace_seconds,
        // Allows more outputs; demands nothing.
        play_enablers: _,
        first_play_seconds,
        real_time,
        removal,
        source_id,
        metering_id,
        secure_stop_id,
        domain,
        caopl,
        ucaopl,
        cvopl,
        ucvopl,
        avopl,
        dvop,
        daop,
        avop,
        extended_restrictions,
    } = policy;
    let refused = |detail: String| Err(ClearKeyRefused::NotLicensed(detail));
    if *sl > SECURITY_LEVEL {
        let (required, device) = (sl.number(), SECURITY_LEVEL.number());
        return Err(
            Fault::refused(policy::Refusal::SecurityLevel { required, device }.into()).into()
        );
    }
    let unkept = [
        ("first_play_seconds", first_play_seconds.is_some()),
        ("real_time", *real_time),
        ("removal", removal.is_some()),
        ("source_id", source_id.is_some()),
        ("metering_id", metering_id.is_some()),
        ("secure_stop_id", secure_stop_id.is_some()),
        ("domain", domain.is_some()),
        ("caopl", *caopl > 0),
        ("ucaopl", *ucaopl > 0),
        ("cvopl", *cvopl > 0),
        ("ucvopl", *ucvopl > 0),
        ("avopl", *avopl > 0),
        ("dvop", !dvop.is_empty()),
        ("daop", !daop.is_empty()),
        ("avop", !avop.is_empty()),
        ("extended_restrictions", !extended_restrictions.is_empty()),
    ];
    if let Some((name, _)) = unkept.into_iter().find(|(_, set)| *set) {
        return refused(format!(
            "the policy sets {name}, which a Clear Key client does not enforce; entitle it to a \
             license without"
        ));
    }
    if begin.is_some_and(|begin| now_s < u64::from(begin)) {
        return refused("the license does not begin yet; ask again when it does".to_owned());
    }
    let over = |end: u32| u64::from(end) + u64::from(grace_seconds.unwrap_or(0));
    if end.is_some_and(|end| now_s >= over(end)) {
        return refused("the license has ended; ask the service for another".to_owned());
    }
    Ok(LicensePolicy { persist: false, ..policy.clone() })
}

/// A fault of the license protocol in words for a browser. The object in it is that of the protocol
/// page, section 7.
impl From<Fault> for ClearKeyRefused {
    fn from(fault: Fault) -> Self {
        match fault.custom_data {
            Some(Refusal::InvalidCfg { detail } | Refusal::InvalidPolicy { detail }) => {
                let (field, detail) = detail.split_once(": ").unwrap_or(("cfg", &detail));
                Self::Malformed(BadRequest { field: field.to_owned(), detail: detail.to_owned() })
            }
            Some(Refusal::TryLater) => Self::TryLater,
            Some(refusal) => Self::NotLicensed(format!("refused: {}", refusal.to_json())),
            None => Self::NotLicensed(format!("refused with status code {}", fault.code)),
        }
    }
}

impl From<NotGranted> for ClearKeyRefused {
    fn from(not_granted: NotGranted) -> Self {
        match not_granted {
            NotGranted::Refused(DomainRefusal::NonceReused) => Self::KeyReused,
            NotGranted::Refused(DomainRefusal::ChallengeSpent) => Self::NotLicensed(
                "the Idempotency-Key was used too long ago to be answered again; use a fresh one"
                    .to_owned(),
            ),
            NotGranted::Refused(refusal) => fault_of(refusal).into(),
            // Prepared again, it is refused with what is settled.
            NotGranted::OtherUse => Self::TryLater,
            NotGranted::Denied(denied) => denied.into(),
        }
    }
}

impl From<Denied> for ClearKeyRefused {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Fault(fault) => fault.into(),
            Denied::Failed(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
