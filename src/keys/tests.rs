use uuid::Uuid;

use super::*;
use crate::domain::KeyRole;

const A: KeyId = KeyId(Uuid::from_u128(0xa));
const B: KeyId = KeyId(Uuid::from_u128(0xb));

fn key(byte: u8) -> ContentKey {
    Zeroizing::new([byte; 16])
}

fn open(dir: &tempfile::TempDir) -> Result<Keys, KeysError> {
    Keys::open(&dir.path().join("keys.sealed"), &[1; 32])
}

/// Stores keys and gives them out.
fn add(keys: &Keys, added: &[(KeyId, ContentKey)]) -> Result<(), KeysError> {
    keys.store(added)?;
    keys.serve(added);
    Ok(())
}

#[test]
fn keys_and_seeds_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir).unwrap();
    add(&keys, &[(A, key(1))]).unwrap();
    assert!(keys.add_seed("default", &Zeroizing::new(vec![9; 30])).unwrap());
    drop(keys);
    let keys = open(&dir).unwrap();
    assert_eq!(keys.content_key(A), Some(key(1)));
    assert_eq!(keys.content_key(B), None);
    assert_eq!(keys.seed("default").unwrap().as_slice(), [9; 30]);
    assert!(!keys.add_seed("default", &Zeroizing::new(vec![9; 30])).unwrap());
}

#[test]
fn a_kids_key_never_changes_and_a_batch_is_taken_whole() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir).unwrap();
    add(&keys, &[(A, key(1))]).unwrap();
    let refused = add(&keys, &[(B, key(2)), (A, key(3))]);
    assert!(matches!(refused, Err(KeysError::KeyDiffers(A))));
    assert!(matches!(add(&keys, &[(B, key(2)), (B, key(3))]), Err(KeysError::KeyDiffers(B))));
    drop(keys);
    let keys = open(&dir).unwrap();
    assert_eq!(keys.content_key(B), None);
    add(&keys, &[(A, key(1)), (B, key(2))]).unwrap();
    assert_eq!(keys.content_key(B), Some(key(2)));
}

#[test]
fn the_file_does_not_hold_the_key_in_any_plain_form() {
    let dir = tempfile::tempdir().unwrap();
    add(&open(&dir).unwrap(), &[(A, key(0x41))]).unwrap();
    let text = std::fs::read_to_string(dir.path().join("keys.sealed")).unwrap();
    for plain in ["AAAAAAAAAAAAAAAA", "41414141", "QUFBQUFB"] {
        assert!(!text.contains(plain), "{plain} in {text}");
    }
}

#[test]
fn refuses_another_master_key_and_damage_and_swapped_ids() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.sealed");
    add(&open(&dir).unwrap(), &[(A, key(1)), (B, key(2))]).unwrap();
    assert!(matches!(Keys::open(&path, &[2; 32]), Err(KeysError::WrongMasterKey { .. })));
    let text = std::fs::read_to_string(&path).unwrap();
    let (a, b) = (A.to_string(), B.to_string());
    let swapped = text.replace(&a, "#").replace(&b, &a).replace('#', &b);
    assert_ne!(text, swapped);
    std::fs::write(&path, swapped).unwrap();
    assert!(matches!(open(&dir), Err(KeysError::Damaged { line: 2, .. })));
}

#[test]
fn a_file_that_is_not_text_is_damaged_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.sealed");
    add(&open(&dir).unwrap(), &[(A, key(1)), (B, key(2))]).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let second_line = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for (at, bytes, line) in [(second_line, &b"\xff"[..], 2), (0, &[0xff; 200], 1)] {
        let damaged = [&whole[..at], bytes].concat();
        std::fs::write(&path, &damaged).unwrap();
        let refused = open(&dir).err().unwrap();
        assert!(refused.to_string().contains("restore the file from a backup"), "{refused}");
        assert!(matches!(refused, KeysError::Damaged { line: at, .. } if at == line), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged);
    }
}

#[test]
fn a_torn_last_line_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.sealed");
    add(&open(&dir).unwrap(), &[(A, key(1))]).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let torn = [whole.as_slice(), br#"{"key_id":"0000"#].concat();
    std::fs::write(&path, torn).unwrap();
    let keys = open(&dir).unwrap();
    assert_eq!(keys.content_key(A), Some(key(1)));
    add(&keys, &[(B, key(2))]).unwrap();
    drop(keys);
    assert_eq!(open(&dir).unwrap().content_key(B), Some(key(2)));
}

#[test]
fn import_names_the_entry_that_is_wrong() {
    let text = |json: &str| match parse_import(json.as_bytes()) {
        Ok(keys) => format!("{} keys", keys.len()),
        Err(error) => error.to_string(),
    };
    let good = r#"{"01234567-89ab-cdef-0123-456789abcdef": "4fede627cf0376ea335b031cbdc160e2"}"#;
    assert_eq!(text(good), "1 keys");
    assert_eq!(text("{}"), "0 keys");
    assert!(text("[]").contains("not a JSON object"));
    assert!(text(r#"{"x": "00"}"#).contains("`x` is not a key id"));
    let short = good.replace("4fed", "");
    assert!(text(&short).contains("key of 01234567-89ab-cdef-0123-456789abcdef is not 32"));
    let inner = good.trim_matches(['{', '}']);
    assert!(text(&format!("{{{inner},{inner}}}")).contains("comes twice"));
    assert!(parse_seed("AAAA").is_err());
    let with = |entry: &str| good.replace("\"4fede627cf0376ea335b031cbdc160e2\"", entry);
    let key = r#""key": "4fede627cf0376ea335b031cbdc160e2""#;
    for (name, key_type) in [("aesctr", KeyType::AesCtr), ("aescbc", KeyType::AesCbc)] {
        let json = with(&format!(r#"{{{key}, "key_type": "{name}"}}"#));
        let [read] = &parse_import(json.as_bytes()).unwrap()[..] else { panic!("not one") };
        assert_eq!((read.key[0], read.key_type), (0x4f, Some(key_type)));
    }
    let wrong = with(r#"{"key": "00", "key_type": "4fede627cf0376ea335b031cbdc160e2"}"#);
    assert!(text(&wrong).contains("is not 32"), "{}", text(&wrong));
    let wrong = with(&format!(r#"{{{key}, "key_type": "4fede627cf0376ea335b031cbdc160e2"}}"#));
    assert!(text(&wrong).contains("key_type of 01234567-89ab-cdef-0123-456789abcdef is neither"));
    assert!(!text(&wrong).contains("4fed"), "shows a key");
    assert!(text(&with(&format!("{{{key}, \"type\": \"x\"}}"))).contains("not a JSON object"));
}

#[test]
fn a_stored_key_counts_for_nothing_until_it_is_served_and_may_be_another_one_then() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir).unwrap();
    keys.store(&[(A, key(1))]).unwrap();
    assert_eq!(keys.content_key(A), None);
    drop(keys);
    let keys = open(&dir).unwrap();
    assert_eq!(keys.agree(|_, _| false, [].into_iter()), 0);
    assert_eq!(keys.content_key(A), None);
    add(&keys, &[(A, key(2))]).unwrap();
    drop(keys);
    let keys = open(&dir).unwrap();
    assert_eq!(keys.agree(|key_id, have| key_id == A && *have == key(2), [A].into_iter()), 0);
    assert_eq!(keys.content_key(A), Some(key(2)));
}

/// What the ledger took counts, wherever its line stands: how an append ended may not be known, and a
/// later key must not hide the one that was registered.
#[test]
fn of_several_stored_keys_the_registered_one_counts() {
    for registered in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let keys = open(&dir).unwrap();
        for byte in [1, 2, 3, 1] {
            keys.store(&[(A, key(byte))]).unwrap();
        }
        let is_registered = |key_id, have: &ContentKey| key_id == A && *have == key(registered);
        assert_eq!(keys.content_key(A), None);
        assert_eq!(keys.stored_key(A), Some(key(3)));
        let lines = std::fs::read_to_string(dir.path().join("keys.sealed")).unwrap();
        assert_eq!(lines.lines().count(), 4, "a key stands there twice");
        drop(keys);
        // Another master key changes nothing about it.
        let keys = open(&dir).unwrap();
        keys.reseal(&[2; 32]).unwrap().replace().unwrap();
        drop(keys);
        let keys = Keys::open(&dir.path().join("keys.sealed"), &[2; 32]).unwrap();
        assert_eq!(keys.agree(is_registered, [A].into_iter()), 0);
        assert_eq!(keys.content_key(A), Some(key(registered)));
        assert_eq!(keys.stored_key(A), None);
        // And the same without a restart.
        let dir = tempfile::tempdir().unwrap();
        let keys = open(&dir).unwrap();
        for byte in [1, 2, 3] {
            keys.store(&[(A, key(byte)), (B, key(4))]).unwrap();
        }
        keys.promote(&[A, B], is_registered);
        assert_eq!(keys.content_key(A), Some(key(registered)));
        assert_eq!((keys.content_key(B), keys.stored_key(B)), (None, Some(key(4))));
        assert!(matches!(keys.store(&[(A, key(9))]), Err(KeysError::KeyDiffers(A))));
    }
}

#[test]
fn a_type_that_is_final_gives_way_to_none_that_was_read_before() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir).unwrap();
    let (ctr, cbc) = (KeyType::AesCtr, KeyType::AesCbc);
    let read = |key_type, is_final| KeyUse { key_type: Some(key_type), is_final, role: None };
    keys.remember_use(A, read(ctr, false));
    assert_eq!(keys.key_type(A), Some(ctr));
    keys.remember_use(A, read(cbc, true));
    keys.remember_use(A, read(ctr, false));
    assert_eq!((keys.key_type(A), keys.key_type(B)), (Some(cbc), None));
    keys.remember_use(A, KeyUse { role: Some(KeyRole::Root), ..KeyUse::default() });
    assert_eq!(keys.key_use(A), KeyUse { role: Some(KeyRole::Root), ..read(cbc, true) });
}

#[test]
fn a_registered_key_that_is_not_here_is_missing_and_no_seed_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir).unwrap();
    keys.add_seed("default", &Zeroizing::new(vec![9; 30])).unwrap();
    add(&keys, &[(A, key(1))]).unwrap();
    assert_eq!(keys.agree(|_, _| false, [A, B].into_iter()), 2);
    assert_eq!(keys.source(A, None).err(), Some(Missing::Key(A)));
    keys.serve(&[(A, key(1))]);
    assert!(matches!(keys.source(A, None), Ok(Some(Source::Registered(_)))));
}

#[test]
fn a_key_comes_from_itself_then_the_seed_bound_to_then_the_one_named_then_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir).unwrap().with_default_seed("d");
    let seed_of = |named| match keys.source(A, named) {
        Ok(Some(Source::Seed { seed_id, seed })) => format!("{seed_id}{}", seed[0]),
        Ok(Some(Source::Registered(_))) => "own".to_owned(),
        Ok(None) => "none".to_owned(),
        Err(Missing::Seed(seed_id)) => format!("no {seed_id}"),
        Err(Missing::Key(_)) => "lost".to_owned(),
    };
    assert_eq!(seed_of(None), "none");
    for (byte, seed_id) in [(1, "d"), (2, "named"), (3, "bound")] {
        keys.add_seed(seed_id, &Zeroizing::new(vec![byte; 30])).unwrap();
    }
    assert_eq!(seed_of(None), "d1");
    assert_eq!(seed_of(Some("named")), "named2");
    assert_eq!(seed_of(Some("else")), "no else");
    keys.remember_bound(A, "bound");
    assert_eq!(seed_of(Some("named")), "bound3");
    keys.remember_bound(A, "gone");
    assert_eq!(seed_of(None), "no gone");
    add(&keys, &[(A, key(1))]).unwrap();
    assert_eq!(seed_of(Some("named")), "own");
}

#[test]
fn resealing_keeps_everything_and_takes_the_old_master_key_its_power() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.sealed");
    let keys = open(&dir).unwrap();
    add(&keys, &[(A, key(1))]).unwrap();
    keys.store(&[(B, key(2))]).unwrap();
    keys.add_seed("s", &Zeroizing::new(vec![9; 31])).unwrap();
    let resealed = keys.reseal(&[2; 32]).unwrap();
    drop(resealed);
    assert!(Keys::open(&path, &[2; 32]).is_err(), "replaced before it was asked for");
    keys.reseal(&[2; 32]).unwrap().replace().unwrap();
    // What is added later goes to the new file.
    let c = KeyId(Uuid::from_u128(0xc));
    keys.store(&[(c, key(3))]).unwrap();
    drop(keys);
    assert!(matches!(open(&dir), Err(KeysError::WrongMasterKey { .. })));
    let keys = Keys::open(&path, &[2; 32]).unwrap();
    for (key_id, byte) in [(A, 1), (B, 2), (c, 3)] {
        assert_eq!(keys.content_key(key_id), Some(key(byte)));
    }
    assert_eq!(keys.seed("s").unwrap().as_slice(), [9; 31]);
}

/// Somebody cuts the copy off while it is made: it is not put in place, and says so.
#[test]
fn a_copy_that_does_not_hold_everything_replaces_nothing() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir).unwrap();
    add(&keys, &[(A, key(1)), (B, key(2))]).unwrap();
    keys.add_seed("s", &Zeroizing::new(vec![9; 30])).unwrap();
    let next = dir.path().join("keys.sealed.next");
    let done = AtomicBool::new(false);
    let cut = || {
        while !done.load(Ordering::Relaxed) {
            let Ok(text) = std::fs::read(&next) else { continue };
            let ends: Vec<_> = (0..text.len()).filter(|&at| text[at] == b'\n').collect();
            if ends.len() > 1
                && let Ok(file) = OpenOptions::new().write(true).open(&next)
            {
                let _ = file.set_len(ends[ends.len() - 2] as u64 + 1);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(cut);
        let refused = (0..200).find_map(|_| keys.reseal(&[2; 32]).err());
        done.store(true, Ordering::Relaxed);
        assert!(matches!(refused, Some(KeysError::Unproven { path }) if path == next));
    });
    drop(keys);
    let keys = open(&dir).unwrap();
    assert_eq!((keys.content_key(A), keys.content_key(B)), (Some(key(1)), Some(key(2))));
}
