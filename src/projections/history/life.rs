//! What happened to one license, for people.

use serde::Serialize;
use utoipa::ToSchema;

use super::{History, HistoryError};
use crate::clock::UnixMillis;
use crate::domain::Event;
use crate::domain::event::Grade;
use crate::ledger::tail::Fact;

/// Something that happened to a license.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LifeEvent {
    /// Place of the event in the ledger.
    pub sequence: u64,
    /// Its type tag.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// When.
    pub at: UnixMillis,
    /// Who: the identity of a device, or whoever else the event names.
    pub who: Option<String>,
    /// Why, or on what grounds.
    pub why: Option<String>,
    /// What a deletion, or another fact that another system reported, rests on: A to E.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grade: Option<&'static str>,
    /// Whether the license stopped counting by it.
    pub ends: bool,
}

impl History {
    /// The events about a license that have these places in the ledger.
    pub async fn life(&self, sequences: &[u64]) -> Result<Vec<LifeEvent>, HistoryError> {
        let mut life = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            for recorded in self.ledger.read_all(*sequence, 1).await? {
                life.push(told(&Fact::of(recorded)?));
            }
        }
        Ok(life)
    }
}

fn told(fact: &Fact) -> LifeEvent {
    let event = &fact.event;
    let (who, why, ends) = match event {
        Event::LicenseAcquired(e) => {
            let overage = if e.overage { ", as overage" } else { "" };
            let version = e.quota_policy_revision;
            let why = format!("{}, by quota policy {version}{overage}", e.authorized_by);
            (Some(e.identity.to_string()), Some(why), false)
        }
        Event::LicenseStored(e) => (Some(e.identity.to_string()), None, false),
        Event::LicenseStoreFailed(e) => {
            let why = format!("the device answered 0x{:08x}", e.result);
            (Some(e.identity.to_string()), Some(why), false)
        }
        Event::LicenseDeleted(e) => {
            let linked = match e.linked {
                true => "secure delete in its own session",
                false => "secure delete in another session",
            };
            (Some(e.identity.to_string()), Some(linked.to_owned()), e.releases)
        }
        Event::LicenseVoided(e) => {
            let who = format!("quota policy {}", e.quota_policy_revision);
            (Some(who), Some(e.reason.word().to_owned()), true)
        }
        Event::LicenseWrittenOff(e) => {
            (Some(e.actor.clone()), Some(e.reason.clone()), e.frees_at_ms.is_none())
        }
        Event::LicenseRecorded(e) => {
            let overage = if e.overage { ", as overage" } else { "" };
            let why = format!(
                "issued by {}, quota policy {}{overage}",
                e.drm_system, e.quota_policy_revision
            );
            (Some(e.actor.clone()), Some(why), false)
        }
        Event::StorageRecorded(e) => {
            let why = if e.stored { "reported as stored" } else { "reported as not stored" };
            (Some(e.actor.clone()), Some(why.to_owned()), false)
        }
        Event::DeletionRecorded(e) => {
            (Some(e.actor.clone()), Some("reported as deleted".to_owned()), e.releases)
        }
        Event::DeviceTookOver(e) => {
            let why = format!("moved from device {}: {}", e.from, e.reason);
            (Some(e.actor.clone()), Some(why), false)
        }
        _ => (None, None, false),
    };
    let grade = match event {
        Event::LicenseDeleted(e) => Some(e.grade.letter()),
        Event::DeletionRecorded(e) => Some(e.grade.letter()),
        Event::LicenseRecorded(e) => e.grade.map(Grade::letter),
        Event::StorageRecorded(e) => e.grade.map(Grade::letter),
        _ => None,
    };
    let at = UnixMillis(event.at_ms());
    LifeEvent { sequence: fact.recorded.sequence, kind: event.kind(), at, who, why, grade, ends }
}
