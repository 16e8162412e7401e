//! A device says which licenses of a response it stored.

use super::device::Device;
use super::event::{Event, LicenseAcknowledged};
use super::ids::{Digest, Identity, KeyId, TransactionId};
use super::lookup::{Key, TransactionLicense, Value};
use super::quota::QuotaPolicy;

/// A verified acknowledgement.
#[derive(Clone, Debug)]
pub struct Acknowledge {
    /// Who signed.
    pub identity: Identity,
    /// The transaction it names.
    pub transaction_id: TransactionId,
    /// KID and result code, in the order of the message; 0 is stored.
    pub results: Vec<(KeyId, u32)>,
    /// SHA-256 of the signed element.
    pub signed_sha256: Digest,
}

impl Acknowledge {
    /// Reads the licenses of the transaction; none if the identity has no such transaction.
    /// `value` finds what is known under a key.
    pub fn transaction<E>(
        &self,
        value: impl FnOnce(&Key) -> Result<Option<Value>, E>,
    ) -> Result<Vec<TransactionLicense>, E> {
        Ok(match value(&Key::Transaction(self.identity, self.transaction_id))? {
            Some(Value::Transaction(licenses)) => licenses,
            _ => Vec::new(),
        })
    }
}

impl Device {
    /// The events that an acknowledgement causes: results are matched to licenses by KID, repeated
    /// KIDs in issue order; the first result for a license counts; KIDs outside the transaction are
    /// ignored. Neither result frees a slot, unless `policy`, of this revision, voids what a device
    /// failed to store.
    pub fn acknowledge(
        &self,
        command: &Acknowledge,
        transaction: &[TransactionLicense],
        policy: &QuotaPolicy,
        quota_policy_revision: u64,
        now_ms: i64,
    ) -> Vec<Event> {
        let mut events = results(command, transaction, now_ms);
        if policy.voiding.is_some() && !events.is_empty() {
            let mut device = self.clone();
            events.iter().for_each(|event| device.evolve(event));
            let voided = device.overdue(policy, quota_policy_revision, now_ms);
            events.extend(voided.into_iter().map(Event::LicenseVoided));
        }
        events
    }
}

fn results(command: &Acknowledge, transaction: &[TransactionLicense], now_ms: i64) -> Vec<Event> {
    let mut taken = vec![false; transaction.len()];
    let mut events = Vec::new();
    for (key_id, result) in &command.results {
        let candidates = transaction.iter().zip(&mut taken);
        let Some((license, taken)) =
            candidates.into_iter().find(|(l, taken)| l.key_id == *key_id && !**taken)
        else {
            continue;
        };
        *taken = true;
        if license.acknowledged {
            continue;
        }
        let fact = LicenseAcknowledged {
            license_id: license.license_id,
            identity: command.identity,
            key_id: *key_id,
            transaction_id: command.transaction_id,
            result: *result,
            signed_sha256: command.signed_sha256,
            at_ms: now_ms,
        };
        events.push(match result {
            0 => Event::LicenseStored(fact),
            _ => Event::LicenseStoreFailed(fact),
        });
    }
    events
}

#[cfg(test)]
mod tests;
