//! `keys`: content keys, seeds and API keys, with and without a running service.

use license_ledger::playready::policy::SecurityLevel;
use serde_json::Value;

use super::Place;
use crate::device::{kid, request};
use crate::process::{Serving, run};
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
    import(&other).failed(2, &[&kid(1).to_string(), "another key id"]);
    service.stop();
    let refused = import(&other);
    refused.failed(2, &[&kid(1).to_string(), "another key id"]);
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
    let missing = place.run(&["keys", "import"], &[&place.text("nothing.json")]);
    missing.failed(2, &["nothing.json", "check the path"]);
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
fn several_seeds_are_kept_apart_by_their_ids_and_a_kid_stays_with_its_own() {
    let place = Place::new();
    let service = place.serve();
    let seed = |name: &str, text: &str| place.file(name, text);
    let first = seed("first", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw");
    let other = seed("other", "YTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw");
    place.run(&["keys", "seed"], &[&first]).ok();
    let old = key_served(&service, "one", 5);
    place.run(&["keys", "seed", "--id", "2027"], &[&other]).ok();
    place.run(&["keys", "seed", "--id", "2027"], &[&first]).failed(2, &["2027"]);
    assert_eq!(place.run(&["keys", "seed", "--id", "Two"], &[&other]).code, 2);
    assert_ne!(key_served(&service, "two", 6), old);
    service.stop();
    let config = place.file("config.toml", "[keys]\ndefault_seed = \"2027\"\n");
    let service = Serving::start(&place.path("data"), &["--config", &config]);
    assert_eq!(key_served(&service, "three", 5), old, "its key changed");
    let new = key_served(&service, "four", 7);
    service.stop();
    // Under the first seed the new KID keeps what the second gave it.
    let service = place.serve();
    assert_eq!(key_served(&service, "five", 7), new);
    // A key of its own would be another one.
    let refused = place.run(&["keys", "import"], &[&key_file(&place, 7, HEX)]);
    refused.failed(2, &[&kid(7).to_string(), "2027"]);
    place.run(&["keys", "import"], &[&key_file(&place, 8, HEX)]).ok();
    service.stop();
}

#[test]
fn a_default_seed_that_is_not_there_is_refused_at_the_start() {
    let (place, _) = Place::served();
    let config = place.file("config.toml", "[keys]\ndefault_seed = \"2027\"\n");
    let args = ["serve", "--listen", "127.0.0.1:0", "--config", &config, "--data"];
    let ran = run(&[&args[..], &[&place.text("data")]].concat());
    ran.failed(2, &["keys.default_seed", "keys seed --id 2027"]);
}

#[test]
fn the_list_shows_ids_and_check_values_and_no_key() {
    let (place, _) = Place::served();
    let list = |json: &[&str]| place.run(&[&["keys", "list"], json].concat(), &[]).ok().stdout;
    assert_eq!(list(&["--json"]), "");
    place.run(&["keys", "import"], &[&key_file(&place, 1, HEX)]).ok();
    let seed = place.file("seed", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw");
    place.run(&["keys", "seed", "--id", "studio"], &[&seed]).ok();
    let rows: Vec<Value> =
        list(&["--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named = |row: &Value| (row["kind"].to_string(), row["id"].to_string());
    let expected = [
        ("\"content_key\"".to_owned(), format!("\"{}\"", kid(1))),
        ("\"key_seed\"".to_owned(), "\"studio\"".to_owned()),
    ];
    assert_eq!(rows.iter().map(named).collect::<Vec<_>>(), expected);
    assert!(rows.iter().all(|row| row["check_value"].as_str().unwrap().len() == 16));
    let table = list(&[]);
    assert!(table.contains("studio") && !table.contains(HEX), "{table}");
}

/// The key files of a place, and what they held.
struct KeyFiles {
    master: std::path::PathBuf,
    next: std::path::PathBuf,
    sealed: std::path::PathBuf,
    sealed_next: std::path::PathBuf,
}

impl KeyFiles {
    fn of(place: &Place) -> Self {
        let (secrets, data) = (place.path("data-secrets"), place.path("data"));
        Self {
            master: secrets.join("master.key"),
            next: secrets.join("master.key.next"),
            sealed: data.join("keys.sealed"),
            sealed_next: data.join("keys.sealed.next"),
        }
    }

    /// Puts these contents in the four places; `None` is no file.
    fn write(&self, contents: [Option<&[u8]>; 4]) {
        use std::os::unix::fs::PermissionsExt;
        let paths = [&self.master, &self.next, &self.sealed, &self.sealed_next];
        for (path, content) in paths.into_iter().zip(contents) {
            let _ = std::fs::remove_file(path);
            if let Some(content) = content {
                std::fs::write(path, content).unwrap();
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
            }
        }
    }

    /// The master key and what is sealed under it.
    fn read(&self) -> (Vec<u8>, Vec<u8>) {
        (std::fs::read(&self.master).unwrap(), std::fs::read(&self.sealed).unwrap())
    }
}

#[test]
fn the_master_key_is_replaced_with_and_without_a_running_service() {
    let (place, _) = Place::served();
    place.run(&["keys", "import"], &[&key_file(&place, 1, HEX)]).ok();
    let files = KeyFiles::of(&place);
    let first = files.read();
    place.run(&["keys", "rotate-master"], &[]).ok();
    let second = files.read();
    assert!(first.0 != second.0 && first.1 != second.1, "nothing was replaced");
    let service = place.serve();
    let bytes: [u8; 16] = std::array::from_fn(|n| n as u8);
    assert_eq!(key_served(&service, "one", 1), bytes);
    place.run(&["keys", "rotate-master"], &[]).ok();
    assert_ne!(files.read().0, second.0);
    // The running service goes on, and what it adds later is found after a restart.
    place.run(&["keys", "import"], &[&key_file(&place, 2, HEX)]).ok();
    service.stop();
    let service = place.serve();
    assert_eq!(key_served(&service, "two", 2), bytes);
    assert_eq!(key_served(&service, "three", 1), bytes);
    service.stop();
    assert!(!files.next.exists() && !files.sealed_next.exists());
    // The old key opens nothing.
    files.write([Some(&first.0), None, Some(&files.read().1), None]);
    place.run(&["keys", "list"], &[]).failed(2, &["another master key"]);
}

#[test]
fn a_rotation_cut_off_after_any_step_leaves_a_store_that_opens() {
    let (place, _) = Place::served();
    place.run(&["keys", "import"], &[&key_file(&place, 1, HEX)]).ok();
    let files = KeyFiles::of(&place);
    let (old_key, old) = files.read();
    place.run(&["keys", "rotate-master"], &[]).ok();
    let (new_key, new) = files.read();
    let torn = &new[..new.len() / 2];
    let (old_key, old, new_key, new) = (Some(&*old_key), Some(&*old), Some(&*new_key), Some(&*new));
    let steps = [
        ("the new key is made", [old_key, new_key, old, None], old_key),
        ("half is sealed anew", [old_key, new_key, old, Some(torn)], old_key),
        ("all is sealed anew", [old_key, new_key, old, new], old_key),
        ("the key file is replaced", [old_key, new_key, new, None], new_key),
        ("the master key is replaced", [new_key, None, new, None], new_key),
    ];
    for (step, contents, survives) in steps {
        files.write(contents);
        let listed = place.run(&["keys", "list", "--json"], &[]).ok().stdout;
        assert!(listed.contains(&kid(1).to_string()), "after {step}: {listed}");
        assert_eq!(Some(files.read().0.as_slice()), survives, "after {step}");
        assert!(!files.next.exists(), "after {step}");
        let service = place.serve();
        let ready = service.client("").get("/readyz");
        assert_eq!(ready.status, 200, "after {step}: {}", ready.text());
        service.stop();
        // Whatever was left behind, the next rotation works.
        files.write(contents);
        place.run(&["keys", "rotate-master"], &[]).ok();
        place.run(&["keys", "list"], &[]).ok();
    }
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
