use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::clock::{Clock, UnixMillis};
use crate::keys::Keys;
use crate::ledger::embedded::Options;
use crate::ledger::{Embedded, Ledger};

fn id(number: u128) -> KeyId {
    KeyId(Uuid::from_u128(number))
}

fn key(byte: u8) -> ContentKey {
    Zeroizing::new([byte; 16])
}

fn open_keys(dir: &TempDir) -> Arc<Keys> {
    Arc::new(Keys::open(&dir.path().join("keys.sealed"), &[1; 32]).unwrap())
}

/// A registry, as after each start.
fn registry(ledger: &Arc<Ledger>, keys: &Arc<Keys>) -> Arc<Registry> {
    let clock = Clock::manual(UnixMillis(1));
    Arc::new(Registry::new(Arc::clone(ledger), Arc::clone(keys), clock))
}

fn open_ledger(dir: &TempDir) -> Arc<Ledger> {
    let ledger = Embedded::open(dir.path(), Options::default()).unwrap();
    Arc::new(Ledger::Embedded(ledger))
}

async fn make(registry: &Arc<Registry>, number: u128) -> Result<ContentKey, RegisterError> {
    let wanted = vec![(id(number), KeyType::AesCtr)];
    let made = registry.keys_for(wanted, Unknown::Create, "p".to_owned()).await?;
    Ok(made[0].1.clone())
}

/// The ledger takes a registration, and nobody is there to learn of it.
async fn take(registry: &Registry, number: u128, key: &ContentKey) {
    let check_value = HEXLOWER.encode(&check_value(id(number), key));
    let event = |at_ms| {
        let (key_id, actor) = (id(number), "p".to_owned());
        let check_value = check_value.clone();
        Event::ContentKeyRegistered(ContentKeyRegistered { key_id, check_value, actor, at_ms })
    };
    registry.append_one(&Book::stream().unwrap(), event).await.unwrap();
}

#[tokio::test]
async fn a_key_that_the_ledger_took_without_a_word_is_the_one_that_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, keys) = (open_ledger(&dir), open_keys(&dir));
    let first = registry(&ledger, &keys);
    // Before and behind another one that the ledger never came to know.
    for (number, stored) in [(1, [7, 8]), (2, [8, 7])] {
        for byte in stored {
            keys.store(&[(id(number), key(byte))]).unwrap();
        }
        take(&first, number, &key(7)).await;
        assert_eq!(make(&first, number).await.unwrap(), key(7));
    }
    drop((first, keys));
    let keys = open_keys(&dir);
    assert_eq!(registry(&ledger, &keys).load().await.unwrap(), 0, "keys are missing");
    for number in [1, 2] {
        assert_eq!(keys.content_key(id(number)), Some(key(7)));
    }
}

#[tokio::test]
async fn a_key_that_is_stored_already_is_registered_before_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, keys) = (open_ledger(&dir), open_keys(&dir));
    keys.store(&[(id(1), key(7))]).unwrap();
    assert_eq!(make(&registry(&ledger, &keys), 1).await.unwrap(), key(7));
}

/// A packager hangs up, or waits no longer, at any moment.
#[tokio::test]
async fn a_registration_that_nobody_waits_for_loses_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, keys) = (open_ledger(&dir), open_keys(&dir));
    let first = registry(&ledger, &keys);
    let (mut made, mut cut) = (Vec::new(), 0);
    for number in 1..=100 {
        let patience = Duration::from_micros(60 * number as u64);
        cut += usize::from(tokio::time::timeout(patience, make(&first, number)).await.is_err());
        made.push(make(&first, number).await.unwrap());
    }
    assert!(cut > 0, "nobody was cut off");
    drop((first, keys));
    let keys = open_keys(&dir);
    assert_eq!(registry(&ledger, &keys).load().await.unwrap(), 0, "keys are missing");
    for (number, made) in (1..).zip(made) {
        assert_eq!(keys.content_key(id(number)), Some(made), "{number}");
    }
}
