//! What the events of a log do to the room that is taken.

use license_ledger::domain::event::{QuotaOverrideSet, ReservationEnd};
use license_ledger::domain::{Event, KeyId, LicenseId};
use license_ledger::ledger::tail::Fact;

use super::limits::Own;
use super::{By, Change, Effect, Slot, Subject, Taken, What};

/// The changes that a log says, one a fact.
pub fn changes(facts: &[Fact]) -> Vec<Change> {
    facts.iter().map(change).collect()
}

fn change(fact: &Fact) -> Change {
    let stream = fact.recorded.stream.as_str();
    let (effects, what) = match (stream.strip_prefix("device-"), &fact.event) {
        (Some(device), event) => of_device(device, event),
        (None, Event::IdentityLinked(e)) => {
            let (identity, device) = (e.identity.to_string(), e.device.to_string());
            let linked = e.actor.as_ref().map(|_| Effect::Linked(identity.clone()));
            (linked.into_iter().collect(), What::Belongs { identity, device })
        }
        (None, Event::QuotaOverrideSet(e)) => {
            let account = stream.strip_prefix("account-").unwrap().to_owned();
            limited(Subject::Account(account), e)
        }
        _ => (Vec::new(), What::Other),
    };
    Change { at_ms: fact.event.at_ms(), effects, what }
}

fn slot(license: LicenseId, key: KeyId, title: &Option<String>, group: &Option<String>) -> Slot {
    Slot { id: license.0, key_id: key.0, title: title.clone(), group: group.clone() }
}

fn limited(holder: Subject, e: &QuotaOverrideSet) -> (Vec<Effect>, What) {
    let until_ms = e.until_ms.unwrap_or(i64::MAX);
    let own = e.limit.map(|limit| Own { limit: limit as usize, until_ms });
    let (rule, reason) = (e.rule.clone(), e.reason.clone());
    let what = What::Limited { holder, rule: rule.clone(), own };
    (vec![Effect::Limited { rule, own, reason }], what)
}

fn of_device(device: &str, event: &Event) -> (Vec<Effect>, What) {
    let freed = |id, until_ms| What::Freed { ids: vec![id], until_ms };
    match event {
        Event::LicenseAcquired(e) if e.persistent.effective => {
            let taken = Taken {
                device: device.to_owned(),
                account: e.account.as_ref().map(ToString::to_string),
                reservation: None,
                slots: vec![slot(e.license_id, e.key_id, &e.title, &e.content_group)],
                until_ms: e.counted_until_ms,
                by: By::Decision { overage: e.overage },
            };
            (vec![Effect::Taken(e.license_id.0)], What::Taken(taken))
        }
        Event::LicenseRecorded(e) if e.persistent => {
            let taken = Taken {
                device: device.to_owned(),
                account: e.account.as_ref().map(ToString::to_string),
                reservation: None,
                slots: vec![slot(e.license_id, e.key_id, &e.title, &e.content_group)],
                until_ms: e.counted_until_ms,
                by: By::Report { overage: e.overage },
            };
            (vec![Effect::Taken(e.license_id.0)], What::Taken(taken))
        }
        Event::ReservationMade(e) => {
            let slots =
                e.slots.iter().map(|s| slot(s.license_id, s.key_id, &s.title, &s.content_group));
            let taken = Taken {
                device: device.to_owned(),
                account: e.account.as_ref().map(ToString::to_string),
                reservation: Some(e.reservation_id),
                slots: slots.collect(),
                until_ms: Some(e.expires_ms),
                by: By::Decision { overage: e.overage },
            };
            (vec![Effect::Taken(e.reservation_id)], What::Taken(taken))
        }
        Event::ReservationClosed(e) => {
            let ids: Vec<_> = e.license_ids.iter().map(|id| id.0).collect();
            let effects = match e.end {
                ReservationEnd::Released => vec![Effect::Released(e.reservation_id)],
                ReservationEnd::Committed => ids.iter().map(|id| Effect::Used(*id)).collect(),
            };
            (effects, What::Freed { ids, until_ms: None })
        }
        Event::LicenseStored(e) => (vec![Effect::Stored(e.license_id.0)], What::Other),
        Event::LicenseDeleted(e) if e.releases => {
            (vec![Effect::Deleted(e.license_id.0)], freed(e.license_id.0, None))
        }
        Event::DeletionRecorded(e) if e.releases => {
            (vec![Effect::Deleted(e.license_id.0)], freed(e.license_id.0, None))
        }
        Event::LicenseVoided(e) => (Vec::new(), freed(e.license_id.0, None)),
        Event::LicenseWrittenOff(e) => {
            (vec![Effect::WrittenOff(e.license_id.0)], freed(e.license_id.0, e.frees_at_ms))
        }
        Event::QuotaOverrideSet(e) => limited(Subject::Device(device.to_owned()), e),
        Event::DeviceBlocked(e) | Event::DeviceUnblocked(e) => {
            let blocked = matches!(event, Event::DeviceBlocked(_));
            let what = What::Blocked { device: device.to_owned(), blocked };
            (vec![Effect::Blocked(e.reason.clone())], what)
        }
        Event::DeviceTookOver(e) => {
            let from = e.from.to_string();
            let into = device.to_owned();
            (vec![Effect::Joined(from.clone())], What::Joined { from, into })
        }
        _ => (Vec::new(), What::Other),
    }
}
