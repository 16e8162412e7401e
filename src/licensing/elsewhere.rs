//! Other systems report licenses that they issued, and what became of them.

use data_encoding::BASE64;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::once::{CommandAnswer, CommandError, Once};
use super::policy::Published;
use super::subject::Subject;
use super::{Licensing, LicensingError};
use crate::clock::UnixMillis;
use crate::domain::device::elsewhere::{Record, RecordTerms, Report, ReportRefused, Which};
use crate::domain::event::{Grade, LicenseRecorded, ReportKept};
use crate::domain::{AccountRef, DeviceRef, Digest, Event, KeyId, LicenseId};
use crate::ledger::{Expected, StreamName};

/// What comes with every report.
#[derive(Clone, Debug)]
pub struct Told {
    /// What shows that it is so.
    pub grade: Grade,
    /// When it happened, by the reporter's word.
    pub occurred_ms: Option<i64>,
    /// The message that the other system got, to be kept.
    pub message: Option<Vec<u8>>,
}

/// Licenses that another system issued for one device.
#[derive(Clone, Debug)]
pub struct IssuedElsewhere<'a> {
    /// The device.
    pub device: &'a DeviceRef,
    /// The account that pays; else that of the reservation.
    pub account: Option<&'a AccountRef>,
    /// The system.
    pub drm_system: &'a str,
    /// Security level of the device, if it is known.
    pub security_level: Option<u32>,
    /// Maker, model name and number of the device; empty if they are not known.
    pub model: &'a str,
    /// The reservation that held room for them.
    pub reservation_id: Option<Uuid>,
    /// The licenses.
    pub licenses: Vec<IssuedLicense<'a>>,
}

/// One license of such a report.
#[derive(Clone, Copy, Debug)]
pub struct IssuedLicense<'a> {
    /// Its KID.
    pub key_id: KeyId,
    /// How its system names it.
    pub license_reference: &'a str,
    /// Whether it is persistent.
    pub persistent: bool,
    /// From when on it does not count.
    pub counted_until_ms: Option<i64>,
    /// The title, if the service named one.
    pub title: Option<&'a str>,
    /// The content group, if the service named one.
    pub content_group: Option<&'a str>,
}

/// What was recorded of licenses issued elsewhere.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "device": "beb4pw6chv22zwww44tn5zxsb4", "account": "g66plkzqupa3jstpsakablihiy",
    "drm_system": "widevine", "overage": false, "policy_version": 3, "reserved_slots_used": 1,
    "licenses": [{"license_id": "80526930-b94e-b14e-a091-7ea949ede441",
        "key_id": "01234567-89ab-cdef-0123-456789abcdef", "license_reference": "wv-77",
        "persistent": true}],
    "grade": "D", "evidence": null, "recorded_at": "2026-11-22T17:35:47.159Z",
}))]
pub struct RecordedLicenses {
    /// The device.
    pub device: String,
    /// The account that pays.
    pub account: Option<String>,
    /// The system that issued them.
    pub drm_system: String,
    /// Whether they go beyond a limit.
    pub overage: bool,
    /// Version of the quota policy that was in force.
    pub policy_version: u64,
    /// Slots of the reservation that became licenses.
    pub reserved_slots_used: usize,
    /// The licenses, in the order of the report.
    pub licenses: Vec<RecordedLicense>,
    /// What shows that they were issued, as reported.
    pub grade: Grade,
    /// SHA-256 of the message that was kept.
    pub evidence: Option<String>,
    /// When it was recorded.
    pub recorded_at: UnixMillis,
}

/// One of them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RecordedLicense {
    /// How this ledger names it.
    pub license_id: Uuid,
    /// Its KID.
    pub key_id: Uuid,
    /// How its system names it.
    pub license_reference: String,
    /// Whether it is persistent and counts.
    pub persistent: bool,
}

/// What was recorded of the end, or the storing, of licenses issued elsewhere.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "device": "beb4pw6chv22zwww44tn5zxsb4",
    "licenses": [{"license_id": "80526930-b94e-b14e-a091-7ea949ede441",
        "key_id": "01234567-89ab-cdef-0123-456789abcdef", "released": true}],
    "grade": "D", "evidence": null, "recorded_at": "2026-11-22T17:35:47.159Z",
}))]
pub struct RecordedWord {
    /// The device.
    pub device: String,
    /// The licenses of which something was recorded: of others it says no more than was known.
    pub licenses: Vec<SpokenOf>,
    /// What shows that it is so, as reported.
    pub grade: Grade,
    /// SHA-256 of the message that was kept; `null` also where nothing was recorded.
    pub evidence: Option<String>,
    /// When it was recorded.
    pub recorded_at: UnixMillis,
}

/// One of them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SpokenOf {
    /// The license.
    pub license_id: Uuid,
    /// Its KID.
    pub key_id: Uuid,
    /// Whether the device stored it, if that was reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<bool>,
    /// Whether it does not count any more, if its deletion was reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released: Option<bool>,
}

/// What a report is about.
struct About<'a> {
    device: &'a DeviceRef,
    paying: Option<&'a AccountRef>,
    reservation_id: Option<Uuid>,
}

fn about(device: &DeviceRef) -> About<'_> {
    About { device, paying: None, reservation_id: None }
}

/// What a report is decided on.
struct Hearing<'a> {
    subject: &'a Subject,
    policy: &'a Published,
    report: Report<'a>,
    at_ms: i64,
}

/// The events of a report, and what it is answered with.
type Heard<V> = Result<(Vec<Event>, V), ReportRefused>;

impl Licensing {
    /// Records licenses that were issued elsewhere, also beyond a limit.
    pub async fn record_licenses(
        &self,
        issued: &IssuedElsewhere<'_>,
        told: &Told,
        once: &Once,
    ) -> Result<CommandAnswer, CommandError<ReportRefused>> {
        let hear = |hearing: &Hearing<'_>| issued.hear(hearing, once);
        let about = About {
            paying: issued.account,
            reservation_id: issued.reservation_id,
            ..about(issued.device)
        };
        self.report("acquisition", about, told, once, hear).await
    }

    /// Records which licenses issued elsewhere the device stored.
    pub async fn record_storage(
        &self,
        device: &DeviceRef,
        results: &[(Which, bool)],
        told: &Told,
        once: &Once,
    ) -> Result<CommandAnswer, CommandError<ReportRefused>> {
        let hear = |hearing: &Hearing<'_>| {
            let Hearing { subject, report, at_ms, .. } = hearing;
            let recorded = subject.device().record_storage(results, *report, *at_ms)?;
            let spoken_of = recorded.iter().map(|event| SpokenOf {
                license_id: event.license_id.0,
                key_id: event.key_id.0,
                stored: Some(event.stored),
                released: None,
            });
            let view = hearing.word(spoken_of.collect());
            Ok((recorded.into_iter().map(Event::StorageRecorded).collect(), view))
        };
        self.report("acknowledgement", about(device), told, once, hear).await
    }

    /// Records which licenses issued elsewhere the device deleted.
    pub async fn record_deletions(
        &self,
        device: &DeviceRef,
        deleted: &[Which],
        told: &Told,
        once: &Once,
    ) -> Result<CommandAnswer, CommandError<ReportRefused>> {
        let hear = |hearing: &Hearing<'_>| {
            let Hearing { subject, policy, report, at_ms } = hearing;
            let policy = &policy.policy;
            let recorded = subject.device().record_deletions(deleted, *report, policy, *at_ms)?;
            let spoken_of = recorded.iter().map(|event| SpokenOf {
                license_id: event.license_id.0,
                key_id: event.key_id.0,
                stored: None,
                released: Some(
                    event.releases
                        || !subject.device().counts(event.key_id, event.license_id, *at_ms),
                ),
            });
            let view = hearing.word(spoken_of.collect());
            Ok((recorded.into_iter().map(Event::DeletionRecorded).collect(), view))
        };
        self.report("deletion", about(device), told, once, hear).await
    }

    /// Decides about a report by `hear`, on the heads of device, accounts and policy.
    async fn report<V: Serialize>(
        &self,
        kind: &'static str,
        About { device, paying, reservation_id }: About<'_>,
        told: &Told,
        once: &Once,
        hear: impl Fn(&Hearing<'_>) -> Heard<V>,
    ) -> Result<CommandAnswer, CommandError<ReportRefused>> {
        let evidence = told.message.as_ref().map(|message| Digest::of(message));
        self.once(once, async || {
            let mut subject = self.hold_at_head(device, paying).await?;
            let now_ms = self.clock.now().0.max(subject.at_ms());
            let payer = |id| subject.device().payer_of(id, now_ms).cloned();
            let of_reservation = reservation_id.and_then(payer);
            let paying = paying.or(of_reservation.as_ref());
            // What its reservation no longer holds, the device need not have anything else of.
            if paying.is_some_and(|account| !subject.accounts.contains_key(account)) {
                self.hold_accounts(&mut subject, paying).await?;
                subject.refresh().await?;
            }
            let policy = self.policy.refresh(&self.ledger).await?;
            let correlation = once.correlation();
            let policy = self.void_overdue(&mut subject, paying, policy, correlation).await?;
            if subject.is_given_up() {
                return Ok(None);
            }
            let at_ms = self.clock.now().0.max(subject.at_ms()).max(policy.at_ms);
            let report = Report {
                report_id: once.derived_id("report"),
                actor: once.client(),
                grade: told.grade,
                evidence,
                occurred_ms: told.occurred_ms,
            };
            let hearing = Hearing { subject: &subject, policy: &policy, report, at_ms };
            let (events, view) = hear(&hearing).map_err(CommandError::Refused)?;
            let says_nothing = events.is_empty();
            let answer = once.answer(200, &view, at_ms)?;
            let stream = subject.guard.stream().clone();
            let mut events: Vec<_> =
                events.into_iter().map(|event| (stream.clone(), event)).collect();
            let mut checks = vec![self.policy.check(&policy)];
            if !says_nothing
                && let Some((event, check)) = self.kept(told, evidence, once, at_ms).await?
            {
                events.push(event);
                checks.push(check);
            }
            let stored = self.append_once(&mut subject, events, checks, answer).await?;
            if stored.is_some() && !says_nothing {
                self.metrics.reported(kind);
            }
            Ok(stored)
        })
        .await
    }

    /// The message of a report, to be kept beside what it caused, unless it is kept already.
    async fn kept(
        &self,
        told: &Told,
        evidence: Option<Digest>,
        once: &Once,
        at_ms: i64,
    ) -> Result<Option<((StreamName, Event), (StreamName, Expected))>, LicensingError> {
        let (Some(message), Some(evidence)) = (&told.message, evidence) else { return Ok(None) };
        let stream = StreamName::new(&format!("evidence-{evidence}"))?;
        if self.ledger.head(&stream).await?.is_some() {
            return Ok(None);
        }
        let kept =
            ReportKept { message: BASE64.encode(message), actor: once.client().to_owned(), at_ms };
        Ok(Some(((stream.clone(), Event::ReportKept(kept)), (stream, Expected::NoStream))))
    }
}

impl IssuedElsewhere<'_> {
    fn hear(&self, hearing: &Hearing<'_>, once: &Once) -> Heard<RecordedLicenses> {
        let Hearing { subject, policy, report, at_ms } = hearing;
        let device = subject.device();
        let payer = |id| device.payer_of(id, *at_ms);
        let account = self.account.or_else(|| self.reservation_id.and_then(payer));
        let licenses = self.licenses.iter().enumerate().map(|(place, license)| LicenseRecorded {
            license_id: LicenseId(once.derived_id(&format!("license {place}"))),
            key_id: license.key_id,
            drm_system: self.drm_system.to_owned(),
            license_reference: license.license_reference.to_owned(),
            persistent: license.persistent,
            counted_until_ms: license.counted_until_ms,
            account: account.cloned(),
            title: license.title.map(str::to_owned),
            content_group: license.content_group.map(str::to_owned),
            security_level: self.security_level,
            model: self.model.to_owned(),
            quota_policy_revision: policy.revision,
            overage: false,
            grade: Some(report.grade),
            evidence: report.evidence,
            occurred_ms: report.occurred_ms,
            actor: report.actor.to_owned(),
            at_ms: *at_ms,
        });
        let record = Record { licenses: licenses.collect(), reservation_id: self.reservation_id };
        let terms = RecordTerms {
            device: subject.name(),
            account: account.zip(subject.account(account)),
            policy: &policy.policy,
            policy_revision: policy.revision,
        };
        let events = device.record(record, *report, terms, *at_ms)?;
        let recorded = events.iter().filter_map(|event| match event {
            Event::LicenseRecorded(license) => Some(license),
            _ => None,
        });
        let view = RecordedLicenses {
            device: subject.name().to_string(),
            account: account.map(ToString::to_string),
            drm_system: self.drm_system.to_owned(),
            overage: recorded.clone().any(|license| license.overage),
            policy_version: policy.revision,
            reserved_slots_used: events.iter().map(slots_closed).sum(),
            licenses: recorded.map(|license| license.as_ref().into()).collect(),
            grade: report.grade,
            evidence: report.evidence.map(|digest| digest.to_string()),
            recorded_at: UnixMillis(*at_ms),
        };
        Ok((events, view))
    }
}

fn slots_closed(event: &Event) -> usize {
    match event {
        Event::ReservationClosed(closed) => closed.license_ids.len(),
        _ => 0,
    }
}

impl From<&LicenseRecorded> for RecordedLicense {
    fn from(license: &LicenseRecorded) -> Self {
        Self {
            license_id: license.license_id.0,
            key_id: license.key_id.0,
            license_reference: license.license_reference.clone(),
            persistent: license.persistent,
        }
    }
}

impl Hearing<'_> {
    fn word(&self, licenses: Vec<SpokenOf>) -> RecordedWord {
        RecordedWord {
            device: self.subject.name().to_string(),
            grade: self.report.grade,
            // Without anything recorded the message is not kept.
            evidence: self.report.evidence.filter(|_| !licenses.is_empty()).map(|d| d.to_string()),
            licenses,
            recorded_at: UnixMillis(self.at_ms),
        }
    }
}
