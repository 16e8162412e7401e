//! `serve`: its start, what can be wrong with it, and its end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use license_ledger::ledger::Embedded;
use license_ledger::ledger::embedded::Options;
use license_ledger::playready::policy::SecurityLevel;

use super::Place;
use crate::client::RIGHTS_MANAGER;
use crate::device::{PERSISTENT, deleted, kid, request};
use crate::process::{Serving, run};
use crate::service::make_device;

#[test]
fn a_first_start_makes_what_is_missing_and_shows_the_admin_key_once() {
    let place = Place::new();
    let service = place.serve();
    let key = service.admin_key.clone().unwrap();
    assert_eq!(service.client(&key).get("/v1/devices").status, 200);
    assert_eq!(service.client(&key).get("/readyz").status, 200);
    service.stop();
    let again = place.serve();
    assert!(!again.greeting.contains("admin"), "{}", again.greeting);
    assert_eq!(again.client(&key).get("/v1/devices").status, 200);
    again.stop();
    for secret in ["api.key", "master.key", "reference.key", "pki/wmrm.pem", "pki/root.pem"] {
        use std::os::unix::fs::PermissionsExt;
        let file = std::fs::metadata(place.path("data-secrets").join(secret)).unwrap();
        assert_eq!(file.permissions().mode() & 0o077, 0, "others may read {secret}");
    }
    for entry in std::fs::read_dir(place.path("data")).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "others may read {:?}", entry.file_name());
    }
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let place = Place::new();
    let service = place.serve();
    let second = place.run(&["serve", "--listen", "127.0.0.1:0"], &[]);
    second.failed(2, &["data", "is in use", "another data directory"]);
    // The first one does not notice.
    assert_eq!(service.client("").get("/healthz").status, 200);
    place.run(&["keys", "api", "list"], &[]).ok();
    service.stop();
}

#[test]
fn a_taken_port_is_named_and_keeps_no_key_from_the_next_start() {
    let place = Place::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let ran = place.run(&["serve", "--listen", &address], &[]);
    ran.failed(2, &[&address, "--listen"]);
    let listed = place.run(&["keys", "api", "list"], &[]).ok().stdout;
    assert!(!listed.contains("first-admin"), "made and never shown: {listed}");
    let mut service = place.serve();
    let key = service.read_admin_key(&place.path("data"));
    assert_eq!(service.client(&key).get("/v1/devices").status, 200);
    service.stop();
    let events = place.run(&["events", "--json"], &[]).ok().stdout;
    let made: Vec<_> = events.lines().filter(|line| line.contains("api-key-created.v1")).collect();
    assert_eq!(made.len(), 1, "{events}");
    assert!(made[0].contains(r#""actor":"service""#), "{made:?}");
}

#[test]
fn a_data_directory_that_cannot_be_one_is_named() {
    let place = Place::new();
    let file = place.file("file", "not a directory");
    let below = place.text("file/data");
    for data in [&file, &below, "/proc/nowhere/data"] {
        let ran = run(&["serve", "--listen", "127.0.0.1:0", "--data", data]);
        ran.failed(2, &[data, "directory"]);
    }
    run(&["serve"]).failed(2, &["data is not set", "--data DIR"]);
}

#[test]
fn a_setting_that_does_not_exist_is_named_with_its_likely_meaning() {
    let place = Place::new();
    let serve = |config: &str| {
        let config = place.file("config.toml", config);
        place.run(&["serve", "--listen", "127.0.0.1:0"], &["--config", &config])
    };
    serve("[quota]\ndevice_limt = 3\n").failed(2, &["quota.device_limt", "quota.device_limit"]);
    serve("[quota]\ndevice_limit = -3\n").failed(2, &["quota.device_limit", "-3"]);
    serve("authorize = \"everybody\"\n").failed(2, &["authorize", "open"]);
    serve("listen =").failed(2, &["config.toml", "TOML"]);
    let missing = place.run(&["serve"], &["--config", &place.text("nothing.toml")]);
    missing.failed(2, &["nothing.toml"]);
    let mut by_environment = crate::process::program();
    by_environment.args(["serve", "--data", &place.text("data")]);
    let output = by_environment.env("LICENSE_LEDGER_QUOTA_DEVICE_LIMT", "3").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("LICENSE_LEDGER_QUOTA_DEVICE_LIMT"), "{stderr}");
    assert!(stderr.contains("did you mean LICENSE_LEDGER_QUOTA_DEVICE_LIMIT?"), "{stderr}");
    assert!(!place.path("data").exists(), "a refused start left something behind");
}

#[test]
fn serving_everybody_on_a_public_address_has_to_be_confirmed() {
    let place = Place::new();
    let ran = place.run(&["serve", "--listen", "0.0.0.0:0", "--authorize", "open"], &[]);
    ran.failed(2, &["0.0.0.0:0", "--i-know"]);
}

#[test]
fn what_authorizes_is_not_asked_in_the_clear_over_a_network_unless_that_is_allowed() {
    let place = Place::new();
    let secret = place.file("secret", "whsec_a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=\n");
    let set_mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&secret, set_mode).unwrap();
    let token = "authorize = \"token\"\n[token]\nissuer = \"i\"\naudience = \"a\"\n\
                 keys_url = \"http://keys.example/jwks.json\"\n";
    let callback = format!(
        "authorize = \"callback\"\n[callback]\nsecret_file = \"{secret}\"\n\
         url = \"http://10.0.0.1/ask\"\n"
    );
    for (config, named) in [
        (token, ["token.keys_url", "http://keys.example/jwks.json", "token.allow_http"]),
        (&callback, ["callback.url", "http://10.0.0.1/ask", "callback.allow_http"]),
    ] {
        let config = place.file("config.toml", config);
        let args = ["serve", "--listen", "127.0.0.1:0"];
        place.run(&args, &["--config", &config]).failed(2, &named);
    }
    let config = place.file("config.toml", &format!("{callback}allow_http = true\n"));
    Serving::start(&place.path("data"), &["--config", &config]).kill();
}

#[test]
fn a_ledger_without_its_key_files_is_not_served() {
    for missing in ["api.key", "master.key", "reference.key", "pki"] {
        let (place, _) = Place::served();
        let path = place.path("data-secrets").join(missing);
        std::fs::rename(&path, place.path("elsewhere")).unwrap();
        let ran = place.run(&["serve", "--listen", "127.0.0.1:0"], &[]);
        ran.failed(2, &[path.to_str().unwrap(), "restore"]);
        assert!(!path.exists(), "{missing} was made anew");
        std::fs::rename(place.path("elsewhere"), &path).unwrap();
        place.serve().stop();
    }
}

#[test]
fn a_ledger_that_is_gone_is_not_begun_anew_until_what_was_derived_is_removed() {
    let (place, first_key) = Place::served();
    let ledger = place.path("data/ledger.db");
    let whole = std::fs::read(&ledger).unwrap();
    let serve = || place.run(&["serve", "--listen", "127.0.0.1:0"], &[]);
    let named = ["data/ledger.db", "missing or empty", "Restore it", "state.db and read_models.db"];
    // Gone, emptied, and the part of it that is no ledger without its write-ahead log.
    std::fs::remove_file(&ledger).unwrap();
    serve().failed(2, &named);
    assert!(!ledger.exists(), "a refused start made a ledger");
    std::fs::write(&ledger, "").unwrap();
    serve().failed(2, &named);
    place.run(&["events"], &[]).failed(2, &["ledger.db is empty", "restore it"]);
    for command in [&["rebuild"][..], &["keys", "api", "list"]] {
        place.run(command, &[]).failed(2, &["ledger.db is empty", "restore it"]);
    }
    let eventless = tempfile::tempdir().unwrap();
    drop(Embedded::open(eventless.path(), Options::default()).unwrap());
    std::fs::copy(eventless.path().join("ledger.db"), &ledger).unwrap();
    for derived in ["state.db", "read_models.db"] {
        let kept = std::fs::read(place.path("data").join(derived)).unwrap();
        std::fs::remove_file(place.path("data").join(derived)).unwrap();
        serve().failed(2, &named);
        std::fs::write(place.path("data").join(derived), kept).unwrap();
    }
    std::fs::write(&ledger, whole).unwrap();
    let service = place.serve();
    assert_eq!(service.client(&first_key).get("/v1/devices").status, 200);
    service.stop();

    std::fs::remove_file(&ledger).unwrap();
    for derived in ["state.db", "read_models.db"] {
        std::fs::remove_file(place.path("data").join(derived)).unwrap();
    }
    let service = place.serve();
    assert_eq!(service.client(&first_key).get("/v1/devices").status, 401);
    service.stop();
}

#[test]
fn a_foreign_or_damaged_database_is_refused() {
    let place = Place::new();
    std::fs::create_dir(place.path("data")).unwrap();
    std::fs::write(place.path("data/ledger.db"), "this is no database at all").unwrap();
    let ran = place.run(&["serve", "--listen", "127.0.0.1:0"], &[]);
    ran.failed(2, &["ledger.db"]);
    let content = std::fs::read(place.path("data/ledger.db")).unwrap();
    assert_eq!(content, b"this is no database at all", "it was written over");
}

#[test]
fn a_stop_finishes_the_work_that_was_accepted() {
    let place = Place::new();
    let service = place.serve();
    let device = make_device(&service.pki, "slow", SecurityLevel::Software);
    let request = request(&[kid(1)]);
    let challenge = device.ask(&request);
    let address = service.url.strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head = format!(
        "POST {RIGHTS_MANAGER}?{PERSISTENT} HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        challenge.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100 Continue"), "the request is not accepted yet");
    service.ask_to_stop();
    // Nobody else is let in any more.
    while TcpStream::connect(&address).is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
    stream.write_all(&challenge).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8(answer).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let body = text.split_once("\r\n\r\n").unwrap().1;
    device.accept(body.as_bytes(), &request.nonce).unwrap();
    assert_eq!(service.ended(), ("stopped\n".to_owned(), 0));

    // What it answered is there.
    let again = place.serve();
    let answer = again.client("").challenge(&device.give_back(request.nonce, &[kid(1)]), "");
    deleted(&answer.body, request.nonce).unwrap();
    again.stop();
}
