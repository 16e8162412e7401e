//! A service whose ledger is copied goes on where it was, on a cluster and back in a directory.

use std::path::Path;

use license_ledger::playready::policy::SecurityLevel;

use super::keeper::Keeper;
use super::{COPIER, Place, copy};
use crate::client::Client;
use crate::device::{Device, PERSISTENT, kid, request};
use crate::process::Serving;
use crate::service::make_device;

fn acquire(client: &Client, device: &Device, number: u128) {
    device.acquire(client, &request(&[kid(number)]), PERSISTENT).map(drop).unwrap();
}

/// Checks that the device holds so many licenses, as soon as everything before is applied.
fn holds(client: &Client, device: &Device, live: u64) {
    let question = serde_json::json!({ "device": device.identity(), "key_ids": [kid(99)] });
    let decision = client.post_json("/v1/quota/decisions", &question).json();
    assert_eq!(decision["in_use"]["live"], live, "{decision}");
    let path = format!("/v1/devices/{}/inventory", device.identity());
    crate::webhooks::eventually("the inventory", || client.json(&path)["live"] == live);
}

#[test]
fn a_service_goes_on_with_its_ledger_in_a_cluster_and_back_in_a_directory() {
    let place = Place::new();
    let data = place.path("data");
    let service = Serving::start(&data, &[]);
    let key = service.admin_key.clone().unwrap();
    let device = make_device(&service.pki, "tv", SecurityLevel::Software);
    acquire(&service.client(&key), &device, 1);
    // A first copy while it serves, and the rest when it does not.
    let keeper = Keeper::start(&place, &COPIER);
    let from = place.text("data");
    let args = ["--from", &from, "--to", &keeper.url, "--to-credentials", &keeper.credentials];
    copy(&args).ok();
    acquire(&service.client(&key), &device, 2);
    service.stop();
    copy(&args).ok();

    // The same directories, and one more setting.
    let config = place.path("ledger.toml");
    let text = format!("[kurrentdb]\ncredentials_file = {:?}\n", keeper.credentials);
    std::fs::write(&config, text).unwrap();
    let with = ["--config", config.to_str().unwrap(), "--ledger", &keeper.url];
    let service = Serving::start(&data, &with);
    let client = service.client(&key);
    holds(&client, &device, 2);
    acquire(&client, &device, 3);
    holds(&client, &device, 3);
    service.stop();

    let back = place.text("back");
    let args = ["--from", &keeper.url, "--from-credentials", &keeper.credentials, "--to", &back];
    copy(&args).ok();
    let secrets = place.text("data-secrets");
    let service = Serving::start(Path::new(&back), &["--secrets", &secrets]);
    let client = service.client(&key);
    holds(&client, &device, 3);
    acquire(&client, &device, 4);
    holds(&client, &device, 4);
    service.stop();
}
