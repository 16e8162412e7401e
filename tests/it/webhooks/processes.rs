//! Restarts, kills, lost files, and the command line.

use std::collections::BTreeSet;

use license_ledger::playready::policy::SecurityLevel;

use super::*;
use crate::process::{Serving, run};
use crate::service::make_device;

#[test]
fn a_restart_in_the_middle_loses_nothing_and_keeps_the_order() {
    let server =
        Server::start(|n, _| if n == 2 { Answer::Silence } else { Answer::Body(200, Vec::new()) });
    let mut telling = Telling::start(&[endpoint("e", &server.url, json!({}))]);
    for number in 1..=5 {
        telling.acquire(number);
    }
    eventually("the third is under way", || server.asked().len() == 3);
    telling.service.restart();
    telling.caught_up("e");
    let order = telling.ids(&["license-acquired.v1"]);
    let told = ids(&server.asked());
    assert_eq!(told[..3], order[..3]);
    assert_eq!(told[3..], order[2..], "what was under way comes again, then the rest");
    // And once everything is told, a restart tells nothing.
    telling.service.restart();
    telling.acquire(6);
    telling.caught_up("e");
    assert_eq!(server.asked().len(), 7);
}

#[test]
fn a_lost_file_sends_no_history_unless_the_configuration_says_so() {
    let (head, start) = (taker(), taker());
    let mut telling = Telling::start(&[
        endpoint("head", &head.url, json!({})),
        endpoint("start", &start.url, json!({"from": 0})),
    ]);
    for number in 1..=3 {
        telling.acquire(number);
    }
    telling.caught_up("head");
    telling.caught_up("start");
    let before = telling.service.event_count();
    telling.service.restart_after(|data| {
        for name in ["webhooks.db", "webhooks.db-wal", "webhooks.db-shm"] {
            let _ = fs::remove_file(data.join(name));
        }
    });
    assert_eq!(telling.state("head")["position"], before.to_string());
    telling.acquire(4);
    telling.caught_up("head");
    telling.caught_up("start");
    let order = telling.ids(&["license-acquired.v1"]);
    assert_eq!(ids(&head.asked()), order);
    assert_eq!(ids(&start.asked()), [&order[..3], &order[..]].concat());
    let mode = fs::metadata(telling.service.data().join("webhooks.db")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[test]
fn what_is_damaged_or_of_another_ledger_is_made_anew() {
    let server = taker();
    let mut telling = Telling::start(&[endpoint("e", &server.url, json!({}))]);
    telling.acquire(1);
    telling.caught_up("e");
    telling
        .service
        .restart_after(|data| fs::write(data.join("webhooks.db"), b"no database").unwrap());
    telling.acquire(2);
    telling.caught_up("e");
    assert_eq!(ids(&server.asked()), telling.ids(&["license-acquired.v1"]));
}

/// A configuration file with one endpoint.
fn configure(dir: &Path, url: &str) -> String {
    let text = format!("whsec_{}", BASE64.encode(&SHARED));
    let secret = secret_file(dir, "secret", &text);
    let endpoint = endpoint("e", url, json!({"secret_files": [secret], "in_flight": 4}));
    let config: toml::Table =
        serde_json::from_value(json!({"webhooks": {"endpoints": [endpoint]}})).unwrap();
    let path = dir.join("config.toml");
    fs::write(&path, config.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn kills_lose_no_message() {
    const KILLS: u128 = 4;
    const LICENSES: u128 = 10;
    let dir = TempDir::new().unwrap();
    // Every third message fails once or takes its time.
    let server = Server::start(|n, _| match n % 3 {
        0 => Answer::Nothing,
        _ => Answer::Body(200, Vec::new()),
    });
    let config = configure(dir.path(), &server.url);
    let data = dir.path().join("data");
    let (mut key, mut device) = (None, None);
    for round in 0..KILLS {
        let mut service = Serving::start(&data, &["--config", &config]);
        let key = key.get_or_insert_with(|| service.admin_key.clone().unwrap());
        let client = service.client(key);
        let device =
            device.get_or_insert_with(|| make_device(&service.pki, "tv", SecurityLevel::Software));
        let seen = server.asked().len();
        for number in 0..LICENSES {
            let asked = request(&[kid(round * LICENSES + number)]);
            device.acquire(&client, &asked, "cfg=(persist:false)").unwrap();
        }
        eventually("some are told", || server.asked().len() > seen + 2);
        service.kill();
    }
    let service = Serving::start(&data, &["--config", &config]);
    let client = service.client(key.as_deref().unwrap());
    let events = client.json("/v1/events?limit=1000");
    let acquired: BTreeSet<_> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["type"] == "license-acquired.v1")
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(acquired.len(), usize::try_from(KILLS * LICENSES).unwrap());
    // Down or not, what failed is tried at once.
    eventually("everything is told", || {
        client.command("/v1/webhooks/e/enable", &fresh_key(), &json!({}));
        let state = client.json("/v1/webhooks/e");
        let [told, end] = [&state, &events].map(|at| at["position"].as_str().unwrap());
        state["retrying"] == 0 && told.parse::<u64>().unwrap() >= end.parse().unwrap()
    });
    let told: BTreeSet<_> = ids(&server.asked()).into_iter().collect();
    assert_eq!(told, acquired);
}

#[test]
fn the_command_line_shows_and_changes_delivery_while_serving_and_after() {
    let dir = TempDir::new().unwrap();
    let server = taker();
    let config = configure(dir.path(), &server.url);
    let data = dir.path().join("data").to_str().unwrap().to_owned();
    let webhooks = |words: &[&str]| {
        run(&[&["webhooks"], words, &["--config", &config, "--data", &data]].concat())
    };
    webhooks(&["list"]).failed(2, &["no webhook was ever sent"]);
    let service = Serving::start(Path::new(&data), &["--config", &config]);
    let client = service.client(service.admin_key.as_deref().unwrap());
    let device = make_device(&service.pki, "tv", SecurityLevel::Software);
    device.acquire(&client, &request(&[kid(1)]), PERSISTENT).unwrap();
    eventually("it is told", || server.asked().len() == 1);
    let state = || client.json("/v1/webhooks/e");
    let end = client.json("/v1/events")["position"].as_str().unwrap().to_owned();
    eventually("that is recorded", || state()["position"] == *end);

    let list = webhooks(&["list"]).ok().stdout;
    let row = list.lines().nth(1).unwrap();
    for part in ["e ", "active", &end, server.url.as_str()] {
        assert!(row.contains(part), "{list}");
    }
    assert_eq!(webhooks(&["list", "--json"]).ok().json()[0]["position"], *end);
    let again = webhooks(&["replay", "e", "--from", "0", "--to", &end]).ok().stdout;
    assert!(again.contains("to be sent again from position 0"), "{again}");
    eventually("it is sent again", || server.asked().len() == 2);
    webhooks(&["disable", "e"]).ok();
    assert_eq!(state()["status"], "disabled");
    service.stop();
    assert_eq!(webhooks(&["enable", "e", "--json"]).ok().json()["status"], "active");
    assert_eq!(webhooks(&["dead-letters", "e"]).ok().stdout, "");
    assert_eq!(webhooks(&["dead-letters", "e", "--json"]).ok().json(), json!([]));
    let noted = run(&["events", "--json", "--config", &config, "--data", &data]).ok().stdout;
    assert_eq!(noted.matches("webhook-changed.v1").count(), 3, "{noted}");
    webhooks(&["enable", "f"]).failed(1, &["no webhook endpoint `f`"]);
    webhooks(&["replay", "e", "--from", "0", "--to", "99999"])
        .failed(1, &["up to where messages are made"]);
    let nil = Uuid::nil().to_string();
    webhooks(&["replay", "e", "--message", &nil]).failed(1, &["no dead letter"]);
    assert_eq!(webhooks(&["replay", "e"]).code, 2);
}

#[test]
fn an_endpoint_that_cannot_be_told_is_refused_at_the_start() {
    let dir = TempDir::new().unwrap();
    let good = format!("whsec_{}", BASE64.encode(&SHARED));
    let good = secret_file(dir.path(), "good", &good);
    let open = dir.path().join("open");
    fs::write(&open, "whsec_x").unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let no_secret = secret_file(dir.path(), "none", "secret-canary");
    let url = "https://hooks.example/in";
    for (settings, parts) in [
        (json!({"types": ["license.aquired"]}), &["license.aquired", "license.acquired"][..]),
        (json!({"secret_files": [no_secret]}), &["endpoint e", "does not hold a webhook secret"]),
        (json!({"secret_files": [open]}), &["endpoint e", "chmod 600"]),
        (json!({"secret_files": ["/nowhere"]}), &["endpoint e", "/nowhere"]),
        (
            json!({"url": "https://user:secret-canary@hooks.example/"}),
            &["endpoint e", "leave out the user name"],
        ),
        (json!({}), &["ca of the webhook endpoint e is not set"]),
        (json!({"ca": "/nowhere.pem"}), &["/nowhere.pem", "ca of the webhook endpoint e"]),
    ] {
        let mut endpoint = json!({"id": "e", "url": url, "secret_files": [good]});
        endpoint.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let endpoints: toml::Value = serde_json::from_value(json!([endpoint])).unwrap();
        let data = dir.path().join("data");
        let mut command = crate::process::program();
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        let output = command.env("LICENSE_LEDGER_WEBHOOKS_ENDPOINTS", endpoints.to_string());
        let output = output.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{settings}: {stderr}");
        assert!(!stderr.contains("secret-canary"), "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{part:?} is not in {stderr}");
        }
    }
}
