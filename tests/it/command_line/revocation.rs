//! `pki revoke` and `pki revocations`, as an operator uses them beside a running service.

use license_ledger::playready::policy::SecurityLevel;

use super::Place;
use crate::device::{kid, request, words};
use crate::process::{Ran, run};
use crate::service::make_device;

const REVOKED: (u32, Option<String>) = (0x8004_C065, None);

fn pki(place: &Place, command: &str, rest: &[&str]) -> Ran {
    run(&[&["pki", command, "--pki", &place.text("data-secrets/pki")], rest].concat())
}

#[test]
fn a_revoked_device_is_refused_within_seconds_and_shown_by_its_name() {
    let place = Place::new();
    let service = place.serve();
    let tv = make_device(&service.pki, "tv", SecurityLevel::Software);
    let phone = make_device(&service.pki, "phone", SecurityLevel::Software);
    let client = service.client("");
    let none = pki(&place, "revocations", &[]).ok();
    assert!(none.stdout.starts_with("there are no revocation lists in "), "{none:?}");

    let issued = pki(&place, "revoke", &["--device", "tv"]).ok();
    assert!(issued.stdout.contains("revinfo-0000000001.xml"), "{issued:?}");
    let started = std::time::Instant::now();
    loop {
        match tv.acquire(&client, &request(&[kid(1)]), "") {
            Err(fault) => break assert_eq!(words(&fault), REVOKED),
            Ok(_) => assert!(started.elapsed().as_secs() < 30, "the device is still served"),
        }
    }
    phone.acquire(&client, &request(&[kid(1)]), "").unwrap();

    let shown = pki(&place, "revocations", &[]).ok();
    let line = format!("  {} device tv", tv.identity());
    assert!(shown.stdout.lines().any(|shown| shown == line), "{shown:?}");
    service.stop();
}

#[test]
fn each_call_adds_to_the_newest_lists_under_the_next_sequence() {
    let (place, _) = Place::served();
    let tv = make_device(&place.path("data-secrets/pki"), "tv", SecurityLevel::Software);
    let digest = "AB".repeat(32);
    let first = pki(&place, "revoke", &["--digest", &digest, "--json"]).ok().json();
    assert_eq!(
        (&first["sequence"], &first["added"][0]),
        (&1.into(), &digest.to_lowercase().into())
    );
    let second = ["--device", "tv", "--model", "lab", "--json"];
    let second = pki(&place, "revoke", &second).ok().json();
    assert_eq!(second["sequence"], 2);
    assert_eq!(second["revoked"].as_array().unwrap().len(), 3);

    let nothing = pki(&place, "revoke", &["--device", "tv"]).ok();
    assert!(nothing.stdout.contains("revoked already"), "{nothing:?}");
    let refreshed = pki(&place, "revoke", &["--refresh", "--json"]).ok().json();
    assert_eq!((&refreshed["sequence"], &refreshed["revoked"]), (&3.into(), &second["revoked"]));

    let shown = pki(&place, "revocations", &["--json"]).ok().json();
    assert_eq!(shown["files"].as_array().unwrap().len(), 3);
    assert_eq!(shown["newest"], refreshed["file"]);
    let names: Vec<_> = shown["revoked"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
    for name in ["device tv".into(), "model lab".into(), serde_json::Value::Null] {
        assert!(names.contains(&&name), "{shown}");
    }
    assert!(shown["revoked"].to_string().contains(&tv.identity()));
}

#[test]
fn what_cannot_be_revoked_is_named() {
    let (place, _) = Place::served();
    pki(&place, "revoke", &["--device", "nobody"]).failed(2, &["devices/nobody/chain.bcert"]);
    assert_eq!(pki(&place, "revoke", &["--digest", "12"]).code, 2);
    assert_eq!(pki(&place, "revoke", &[]).code, 2);
    run(&["pki", "revocations", "--pki", &place.text("nowhere")]).failed(2, &["nowhere"]);
    let folder = place.path("data-secrets/pki/revocation");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("revinfo-0000000001.xml"), "cut").unwrap();
    let shown = pki(&place, "revocations", &[]);
    assert_eq!(shown.code, 1);
    assert!(shown.stdout.contains("unusable   "), "{shown:?}");
    // Never over what is there.
    let refused = pki(&place, "revoke", &["--refresh"]);
    refused.failed(2, &["revinfo-0000000001.xml"]);
    assert_eq!(std::fs::read(folder.join("revinfo-0000000001.xml")).unwrap(), b"cut");
    std::fs::remove_file(place.path("data-secrets/pki/root.pem")).unwrap();
    pki(&place, "revoke", &["--refresh"]).failed(2, &["root.pem"]);
}
