//! Figures of the use cases. Labels are words from fixed lists, never ids.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::domain::acquire::Refusal;
use crate::domain::event::{LicenseAcquired, VoidReason};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Persistent {
    persistent: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Counters and gauges. Clones share their values.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    acquired: Family<Persistent, Counter>,
    refused: Family<Reason, Counter>,
    repeated: Counter,
    rejected: Counter,
    acknowledged: Counter,
    voided: Family<Reason, Counter>,
    deletions: Family<Outcome, Counter>,
    decisions: Family<Outcome, Counter>,
    reports: Family<Kind, Counter>,
    support_acts: Family<Kind, Counter>,
    revocation_sequence: Gauge,
    revocation_issued: Gauge,
}

impl Metrics {
    /// Adds the families to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("licenses_acquired", "Licenses granted", self.acquired.clone());
        registry.register("acquisitions_refused", "Challenges refused", self.refused.clone());
        registry.register(
            "acquisitions_repeated",
            "Challenges answered again with the licenses they were granted before",
            self.repeated.clone(),
        );
        registry.register(
            "challenges_rejected",
            "Requests that are not a valid challenge of an accepted device",
            self.rejected.clone(),
        );
        registry.register("licenses_acknowledged", "Results taken", self.acknowledged.clone());
        registry.register(
            "licenses_voided",
            "Licenses ended because the device did not store them, by the rule of the policy",
            self.voided.clone(),
        );
        registry.register(
            "deletions",
            "Secure deletes: effective, unmatched, unmatched and left out of the ledger because the \
             device caused too many today, or a repeat without effect",
            self.deletions.clone(),
        );
        registry.register("quota_decisions", "Quota decisions asked for", self.decisions.clone());
        registry.register(
            "reports",
            "Reports of other systems that were recorded: acquisition, acknowledgement, deletion",
            self.reports.clone(),
        );
        registry.register(
            "support_acts",
            "What support did: write_off, block, unblock, link, merge, replace",
            self.support_acts.clone(),
        );
        registry.register(
            "revocation_list_sequence",
            "Sequence of the revocation lists in force, 0 if there are none",
            self.revocation_sequence.clone(),
        );
        registry.register_with_unit(
            "revocation_list_issued_timestamp",
            "When the revocation lists in force were issued, 0 if there are none",
            Unit::Seconds,
            self.revocation_issued.clone(),
        );
    }

    pub(super) fn granted(&self, licenses: &[LicenseAcquired]) {
        for license in licenses {
            let persistent = license.persistent.effective;
            self.acquired.get_or_create(&Persistent { persistent }).inc();
        }
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        let reason = match refusal {
            Refusal::NonceReused => "nonce_reused",
            Refusal::ChallengeSpent => "challenge_spent",
            Refusal::Blocked => "blocked",
            Refusal::Replaced => "replaced",
            Refusal::OtherDevice => "other_device",
            Refusal::TokenSpent => "token_spent",
            Refusal::SessionUsed(_) => "session_used",
            Refusal::TransactionUsed => "transaction_used",
            Refusal::RootMissing(_) => "root_missing",
            Refusal::RootReserved(_) => "root_reserved",
            Refusal::Quota(_) => "quota",
        };
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    pub(super) fn repeated(&self) {
        self.repeated.inc();
    }

    pub(super) fn rejected(&self) {
        self.rejected.inc();
    }

    pub(super) fn acknowledged(&self, count: usize) {
        self.acknowledged.inc_by(count as u64);
    }

    pub(super) fn voided(&self, reasons: impl IntoIterator<Item = VoidReason>) {
        for reason in reasons {
            self.voided.get_or_create(&Reason { reason: reason.word() }).inc();
        }
    }

    /// KIDs of one challenge, by what became of them.
    pub(super) fn deleted(&self, effective: usize, unmatched: usize, left_out: usize) {
        self.deletion("effective").inc_by(effective as u64);
        self.deletion("unmatched").inc_by(unmatched as u64);
        self.deletion("left_out").inc_by(left_out as u64);
    }

    /// A challenge that appended nothing: a repeat, unless KIDs of it were left out.
    pub(super) fn deleted_without_event(&self, left_out: usize) {
        match left_out {
            0 => self.deletion("repeat").inc(),
            _ => self.deletion("left_out").inc_by(left_out as u64),
        };
    }

    pub(super) fn decided(&self, allowed: bool) {
        let outcome = if allowed { "allow" } else { "deny" };
        self.decisions.get_or_create(&Outcome { outcome }).inc();
    }

    /// A report that left an event.
    pub(super) fn reported(&self, kind: &'static str) {
        self.reports.get_or_create(&Kind { kind }).inc();
    }

    /// An act of support that left an event.
    pub(super) fn acted(&self, kind: &'static str) {
        self.support_acts.get_or_create(&Kind { kind }).inc();
    }

    pub(super) fn revocation_in_force(&self, sequence: u32, issued_at_s: u64) {
        self.revocation_sequence.set(sequence.into());
        self.revocation_issued.set(i64::try_from(issued_at_s).unwrap_or(i64::MAX));
    }

    fn deletion(&self, outcome: &'static str) -> Counter {
        self.deletions.get_or_create(&Outcome { outcome }).clone()
    }
}
