use super::*;
use crate::ledger::Embedded;
use crate::ledger::embedded::Options;

fn ledger() -> (tempfile::TempDir, Ledger) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::Embedded(Embedded::open(dir.path(), Options::default()).unwrap());
    (dir, ledger)
}

fn pins() -> Pins {
    Pins {
        reference_key: Digest([1; 32]),
        api_key: Digest([2; 32]),
        root: Digest([3; 32]),
        wmrm: Digest([4; 32]),
        server_sign: Digest([5; 32]),
    }
}

/// The same with another one of the keys.
fn without(key: PinnedKey) -> Pins {
    let mut pins = pins();
    let place = match key {
        PinnedKey::Reference => &mut pins.reference_key,
        PinnedKey::Api => &mut pins.api_key,
        PinnedKey::Root => &mut pins.root,
        PinnedKey::Wmrm => &mut pins.wmrm,
        PinnedKey::ServerSign => &mut pins.server_sign,
    };
    *place = Digest([9; 32]);
    pins
}

async fn accept(pins: &Pins, ledger: &Ledger, changed: &[PinnedKey]) -> Result<(), PinError> {
    let changed = changed.iter().copied().collect();
    pins.accept(ledger, &changed, ("test", "another one"), 2).await
}

#[tokio::test]
async fn a_ledger_takes_the_first_keys_and_refuses_those_that_break_promises() {
    let (_dir, ledger) = ledger();
    compare(&ledger, &[(PinnedKey::Api, Digest([9; 32]))]).await.unwrap();
    pins().settle(&ledger, 1).await.unwrap();
    pins().settle(&ledger, 2).await.unwrap();
    assert_eq!(ledger.last_sequence().await.unwrap(), Some(0));
    for key in PinnedKey::ALL {
        let settled = without(key).settle(&ledger, 3).await;
        let compared = compare(&ledger, &[(key, Digest([9; 32]))]).await;
        match key {
            PinnedKey::Wmrm | PinnedKey::ServerSign => {
                settled.unwrap();
                compared.unwrap();
            }
            _ => {
                let said = settled.unwrap_err().to_string();
                assert!(said.contains(key.file()) && said.contains(key.flag()), "{said}");
                assert_eq!(compared.unwrap_err().to_string(), said);
            }
        }
    }
    assert_eq!(ledger.last_sequence().await.unwrap(), Some(0));
}

#[tokio::test]
async fn what_changed_on_purpose_is_accepted_by_name_and_nothing_else_is() {
    let (_dir, ledger) = ledger();
    let unpinned = accept(&pins(), &ledger, &[PinnedKey::Root]).await;
    assert!(matches!(unpinned, Err(PinError::Unpinned)), "{unpinned:?}");
    pins().settle(&ledger, 1).await.unwrap();
    let other = without(PinnedKey::Root);
    let both = Pins { api_key: Digest([8; 32]), ..other };
    let refused = accept(&both, &ledger, &[PinnedKey::Root]).await;
    assert!(matches!(&refused, Err(PinError::Differs(keys)) if *keys == [PinnedKey::Api]));
    let same = accept(&other, &ledger, &[PinnedKey::Api, PinnedKey::Root]).await;
    assert!(matches!(same, Err(PinError::Unchanged(PinnedKey::Api))), "{same:?}");
    accept(&other, &ledger, &[PinnedKey::Root]).await.unwrap();
    other.settle(&ledger, 3).await.unwrap();
    assert!(matches!(pins().settle(&ledger, 3).await, Err(PinError::Differs(_))));
    let (pinned, revision) = last(&ledger).await.unwrap().unwrap();
    assert_eq!((pinned.reason.as_str(), revision), ("another one", 1));
    assert_eq!(pinned.wmrm, pins().wmrm);
}

#[tokio::test]
async fn of_two_first_processes_with_different_keys_one_is_refused() {
    let (_dir, ledger) = ledger();
    let (own, other) = (pins(), without(PinnedKey::Reference));
    let (first, second) = tokio::join!(own.settle(&ledger, 1), other.settle(&ledger, 1));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    assert_eq!(ledger.last_sequence().await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_ledger_of_another_format_is_refused() {
    let (_dir, ledger) = ledger();
    pins().settle(&ledger, 1).await.unwrap();
    let (mut pinned, _) = last(&ledger).await.unwrap().unwrap();
    (pinned.format, pinned.at_ms) = (FORMAT + 1, 2);
    append(&ledger, pinned, Expected::At(0)).await.unwrap();
    let refused = pins().settle(&ledger, 3).await;
    assert!(matches!(refused, Err(PinError::Format { found: 2 })), "{refused:?}");
}
