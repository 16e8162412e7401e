//! `keys`: content keys, seeds and API keys, with and without a running service.

use license_ledger::playready::policy::SecurityLevel;
use serde_json::Value;

use super::Place;
use crate::device::{kid, request};
use crate::process::Serving;
use crate::service::make_device;

const HEX: &str = "000102030405060708090a0b0c0d0e0f";

/// The content key that a served device gets for a KID.
fn key_served(service: &Serving, name: &str, number: u128) -> [u8; 16] {
    let device = make_device(&service.pki, name, SecurityLevel::Software);
    device.acquire(&service.client(""), &request(&[kid(number)]), "").unwrap().keys()[0].1
}

fn key_file(place: &Place, number: u128, hex: &str) -> String {
    place.file("keys.json", &format!("{{\"{}\": \"{hex}\"}}", kid(number)))
}

#[test]
fn content_keys_are_registered_with_and_without_a_running_service() {
    let (place, _) = Place::served();
    let import = |number, hex: &str| {
        let file = key_file(&place, number, hex);
        place.run(&["keys", "import", "--json"], &[&file])
    };
    let counts = |ran: crate::process::Ran| {
        let json = ran.ok().json();
        (json["keys"]["added"].clone(), json["keys"]["known"].clone())
    };
    assert_eq!(counts(import(1, HEX)), (1.into(), 0.into()));
    let service = place.serve();
    let bytes: [u8; 16] = std::array::from_fn(|n| n as u8);
    assert_eq!(key_served(&service, "one", 1), bytes);
    assert_eq!(counts(import(2, HEX)), (1.into(), 0.into()));
    assert_eq!(key_served(&service, "two", 2), bytes, "not in effect at once");
    assert_eq!(counts(import(2, HEX)), (0.into(), 1.into()));
    service.stop();
    assert_eq!(counts(import(2, HEX)), (0.into(), 1.into()));
}

#[test]
fn a_key_id_keeps_its_key() {
    let place = Place::new();
    let service = place.serve();
    let import = |hex: &str| place.run(&["keys", "import"], &[&key_file(&place, 1, hex)]);
    import(HEX).ok();
    let other = "ff".repeat(16);
    import(&other).failed(2, &[&kid(1).to_string()]);
    service.stop();
    let refused = import(&other);
    refused.failed(2, &[&kid(1).to_string()]);
    assert!(!refused.stderr.contains(&other), "the error shows the key");
    let again = place.serve();
    assert_eq!(key_served(&again, "still", 1)[1], 1);
    again.stop();
}

#[test]
fn a_malformed_key_file_is_refused_whole_and_names_the_entry() {
    let (place, _) = Place::served();
    let good = kid(1).to_string();
    for (content, named) in [
        ("not json".to_owned(), "JSON object"),
        ("[]".to_owned(), "JSON object"),
        (format!("{{\"{good}\": \"{HEX}\", \"my-key\": \"{HEX}\"}}"), "my-key"),
        (format!("{{\"{good}\": \"{HEX}\", \"{}\": \"0011\"}}", kid(2)), &kid(2).to_string()),
        (format!("{{\"{good}\": \"{HEX}\", \"{good}\": \"{HEX}\"}}"), "twice"),
    ] {
        let file = place.file("keys.json", &content);
        let ran = place.run(&["keys", "import"], &[&file]);
        ran.failed(2, &[&file, named]);
        assert!(!ran.stderr.contains(HEX), "the error shows a key");
    }
    place.run(&["keys", "import"], &[&place.text("nothing.json")]).failed(2, &["nothing.json"]);
    let ran = place.run(&["keys", "import", "--json"], &[&key_file(&place, 1, HEX)]).ok();
    assert_eq!(ran.json()["keys"]["added"], 1, "a refused file had left a key");
}

#[test]
fn keys_need_a_ledger() {
    let place = Place::new();
    let ran = place.run(&["keys", "import"], &[&key_file(&place, 1, HEX)]);
    ran.failed(2, &["holds no event log", "start the service"]);
    assert!(!place.path("data").exists());
}

#[test]
fn a_seed_gives_keys_to_all_other_key_ids() {
    let place = Place::new();
    let service = place.serve();
    let before = key_served(&service, "before", 5);
    let seed = place.file("seed", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw\n");
    place.run(&["keys", "seed"], &[&seed]).ok();
    assert_ne!(key_served(&service, "after", 5), before);
    let short = place.file("short", "MTIzNDU2");
    place.run(&["keys", "seed"], &[&short]).failed(2, &[&short, "30 bytes"]);
    let other = place.file("other", "YTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw");
    place.run(&["keys", "seed"], &[&other]).failed(2, &["default"]);
    service.stop();
}

#[test]
fn api_keys_take_effect_and_lose_it_at_once() {
    let place = Place::new();
    let service = place.serve();
    let create = ["keys", "api", "create", "--json", "--name", "audit"];
    let created = place.run(&create, &["--scope", "inventory:read"]).ok().json();
    let text = |member: &str| created["api_key"][member].as_str().unwrap().to_owned();
    let client = service.client(&text("key"));
    assert_eq!(client.get("/v1/devices").status, 200);
    assert_eq!(client.get("/v1/events").status, 403);

    let list = || -> Vec<Value> {
        let json = place.run(&["keys", "api", "list", "--json"], &[]).ok().json();
        json["api_keys"].as_array().unwrap().clone()
    };
    let row = || list().into_iter().find(|row| row["name"] == "audit").unwrap();
    assert_eq!(list().len(), 2, "the first admin key and this one");
    assert_eq!(row()["scopes"], serde_json::json!(["inventory:read"]));
    assert_eq!(row()["revoked_at"], Value::Null);
    assert!(!serde_json::to_string(&list()).unwrap().contains(&text("key")));

    place.run(&["keys", "api", "revoke"], &[&text("key_id")]).ok();
    assert_eq!(client.get("/v1/devices").status, 401);
    assert!(row()["revoked_at"].is_string());
    place.run(&["keys", "api", "revoke"], &["0123456789abcdef"]).failed(2, &["keys api list"]);
    service.stop();
    // It stays revoked, and can be looked at without a service.
    assert!(row()["revoked_at"].is_string());
    let again = place.serve();
    assert_eq!(again.client(&text("key")).get("/v1/devices").status, 401);
    again.stop();
}

#[test]
fn a_scope_or_name_that_cannot_be_is_refused() {
    let (place, _) = Place::served();
    let create = |name: &str, scope: &str| {
        place.run(&["keys", "api", "create", "--name", name], &["--scope", scope])
    };
    let unknown = create("x", "inventory:write");
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("inventory:write"), "{unknown:?}");
    assert_eq!(create("No Spaces!", "inventory:read").code, 2);
}
