use super::*;

const NOW: UnixMillis = UnixMillis(1_774_958_400_000);

fn registry() -> Registry {
    Registry::new(Secret::new([3; 32]))
}

fn random(fill: u8) -> [u8; KEY_RANDOM_BYTES] {
    [fill; KEY_RANDOM_BYTES]
}

fn issue(registry: &Registry, fill: u8, scopes: &[Scope]) -> (ApiKeyRecord, String) {
    let scopes = scopes.iter().copied().collect();
    let (record, text) = registry.issue("backend", scopes, NOW, &random(fill)).unwrap();
    registry.apply_created(record.clone());
    (record, format!("Bearer {}", text.expose()))
}

#[test]
fn a_key_has_the_documented_shape() {
    let (record, header) = issue(&registry(), 0, &[Scope::Admin]);
    let text = format!("llk_{}_{}", "a".repeat(16), "a".repeat(52));
    assert_eq!(header, format!("Bearer {text}"));
    assert_eq!(record.id.as_str(), "a".repeat(16));
}

#[test]
fn what_is_kept_is_the_hmac_of_the_whole_text() {
    // python3: hmac.new(b"\x03"*32, b"llk_" + b"a"*16 + b"_" + b"a"*52, "sha256").hexdigest()
    let (record, _) = issue(&registry(), 0, &[Scope::EventsRead]);
    let expected = "f0b34b29b1e67dabe7c32ab7a2752d0146c3c43fc36b47e2dc156a3b7dd83004";
    assert_eq!(
        serde_json::to_value(&record).unwrap(),
        serde_json::json!({
            "id": "aaaaaaaaaaaaaaaa", "name": "backend", "hmac": expected,
            "scopes": ["events:read"], "created_at_ms": NOW.0,
        })
    );
}

#[test]
fn a_record_survives_json() {
    let (mut record, _) = issue(&registry(), 9, &Scope::ALL);
    record.revoked_at = Some(NOW);
    let json = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<ApiKeyRecord>(&json).unwrap(), record);
    let cut = json.replace("\"hmac\":\"", "\"hmac\":\"ab");
    assert!(serde_json::from_str::<ApiKeyRecord>(&cut).is_err());
}

#[test]
fn a_good_key_names_its_caller() {
    let registry = registry();
    let (record, header) = issue(&registry, 1, &[Scope::InventoryRead]);
    let caller = registry.authenticate(Some(&header)).unwrap();
    assert_eq!((caller.key_id, caller.name.as_str()), (record.id, "backend"));
    assert!(registry.authenticate(Some(&header.replace("Bearer", "bearer"))).is_ok());
}

#[test]
fn a_key_does_nothing_before_its_record_is_applied() {
    let registry = registry();
    let (_, text) = registry.issue("x", BTreeSet::new(), NOW, &random(1)).unwrap();
    let header = format!("Bearer {}", text.expose());
    assert_eq!(registry.authenticate(Some(&header)), Err(Unauthenticated));
}

#[test]
fn every_changed_character_is_refused() {
    let registry = registry();
    let (_, header) = issue(&registry, 0x5A, &[Scope::Admin]);
    for at in "Bearer ".len()..header.len() {
        let mut changed = header.clone().into_bytes();
        changed[at] = if changed[at] == b'q' { b'r' } else { b'q' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(registry.authenticate(Some(&changed)), Err(Unauthenticated), "{at}");
        assert_eq!(registry.authenticate(Some(&header[..at])), Err(Unauthenticated), "{at}");
    }
    assert!(registry.authenticate(Some(&header.to_uppercase())).is_err());
}

#[test]
fn absent_and_foreign_schemes_are_refused() {
    let registry = registry();
    let (_, header) = issue(&registry, 1, &[Scope::Admin]);
    let basic = header.replace("Bearer", "Basic");
    for value in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("llk_"), Some(&basic)] {
        assert_eq!(registry.authenticate(value), Err(Unauthenticated), "{value:?}");
    }
}

#[test]
fn a_record_made_under_another_api_key_file_opens_nothing() {
    let (record, header) = issue(&registry(), 1, &[Scope::Admin]);
    let restored = Registry::new(Secret::new([4; 32]));
    restored.apply_created(record);
    assert_eq!(restored.authenticate(Some(&header)), Err(Unauthenticated));
}

#[test]
fn a_revoked_key_opens_nothing_and_stays_listed() {
    let registry = registry();
    let (record, header) = issue(&registry, 1, &[Scope::Admin]);
    registry.apply_revoked(&record.id, UnixMillis(NOW.0 + 1));
    registry.apply_revoked(&record.id, UnixMillis(NOW.0 + 2));
    registry.apply_revoked(&"unknown".into(), NOW);
    assert_eq!(registry.authenticate(Some(&header)), Err(Unauthenticated));
    registry.apply_created(record);
    assert_eq!(registry.authenticate(Some(&header)), Err(Unauthenticated));
    assert_eq!(registry.list()[0].revoked_at, Some(UnixMillis(NOW.0 + 1)));
}

#[test]
fn a_scope_allows_itself_and_admin_allows_all() {
    let registry = registry();
    let (_, reader) = issue(&registry, 1, &[Scope::EventsRead]);
    let (_, admin) = issue(&registry, 2, &[Scope::Admin]);
    let reader = registry.authenticate(Some(&reader)).unwrap();
    let admin = registry.authenticate(Some(&admin)).unwrap();
    for scope in Scope::ALL {
        assert_eq!(reader.may(scope), scope == Scope::EventsRead, "{scope}");
        assert!(admin.may(scope), "{scope}");
    }
}

#[test]
fn scopes_are_read_by_name_and_others_are_refused_by_name() {
    for scope in Scope::ALL {
        assert_eq!(scope.to_string().parse(), Ok(scope));
    }
    let refused = "events:write".parse::<Scope>().unwrap_err().to_string();
    assert!(refused.contains("events:write") && refused.contains("events:read"), "{refused}");
}

#[test]
fn names_are_labels() {
    for name in ["", "Maria Lopez", "a b", "ä", &"a".repeat(65)] {
        let issued = registry().issue(name, BTreeSet::new(), NOW, &random(0));
        assert_eq!(issued.err(), Some(InvalidName), "{name}");
    }
    assert!(registry().issue("ci.build_2-a", BTreeSet::new(), NOW, &random(0)).is_ok());
}

#[test]
fn records_and_registries_print_no_authenticator() {
    let registry = registry();
    let (record, _) = issue(&registry, 1, &[Scope::Admin]);
    let printed = format!("{record:?} {registry:?}");
    assert!(printed.contains(record.id.as_str()) && !printed.contains("hmac"), "{printed}");
}
