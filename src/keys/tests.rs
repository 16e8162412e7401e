use uuid::Uuid;

use super::*;

const A: KeyId = KeyId(Uuid::from_u128(0xa));
const B: KeyId = KeyId(Uuid::from_u128(0xb));

fn key(byte: u8) -> ContentKey {
    Zeroizing::new([byte; 16])
}

fn open(dir: &tempfile::TempDir) -> Result<Keys, KeysError> {
    Keys::open(&dir.path().join("keys.sealed"), &[1; 32])
}

#[test]
fn keys_and_seeds_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir).unwrap();
    assert_eq!(keys.add(&[(A, key(1))]).unwrap(), [A]);
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
    keys.add(&[(A, key(1))]).unwrap();
    let refused = keys.add(&[(B, key(2)), (A, key(3))]);
    assert!(matches!(refused, Err(KeysError::KeyDiffers(A))));
    assert_eq!(keys.content_key(B), None);
    assert_eq!(keys.add(&[(A, key(1)), (B, key(2))]).unwrap(), [B]);
}

#[test]
fn the_file_does_not_hold_the_key_in_any_plain_form() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir).unwrap().add(&[(A, key(0x41))]).unwrap();
    let text = std::fs::read_to_string(dir.path().join("keys.sealed")).unwrap();
    for plain in ["AAAAAAAAAAAAAAAA", "41414141", "QUFBQUFB"] {
        assert!(!text.contains(plain), "{plain} in {text}");
    }
}

#[test]
fn refuses_another_master_key_and_damage_and_swapped_ids() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.sealed");
    open(&dir).unwrap().add(&[(A, key(1)), (B, key(2))]).unwrap();
    assert!(matches!(Keys::open(&path, &[2; 32]), Err(KeysError::WrongMasterKey { .. })));
    let text = std::fs::read_to_string(&path).unwrap();
    let (a, b) = (A.to_string(), B.to_string());
    let swapped = text.replace(&a, "#").replace(&b, &a).replace('#', &b);
    assert_ne!(text, swapped);
    std::fs::write(&path, swapped).unwrap();
    assert!(matches!(open(&dir), Err(KeysError::Damaged { line: 2, .. })));
}

#[test]
fn a_torn_last_line_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.sealed");
    open(&dir).unwrap().add(&[(A, key(1))]).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let torn = [whole.as_slice(), br#"{"key_id":"0000"#].concat();
    std::fs::write(&path, torn).unwrap();
    let keys = open(&dir).unwrap();
    assert_eq!(keys.content_key(A), Some(key(1)));
    keys.add(&[(B, key(2))]).unwrap();
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
}
