//! Readiness of one process among several: what it lacks of the ledger, and whether it hears of it.

use std::time::Duration;

use super::wire::Cut;
use super::{Group, eventually};
use crate::device::{PERSISTENT, kid, request};

#[test]
fn a_process_that_hears_nothing_from_the_cluster_is_not_ready() {
    let (group, wire) = Group::behind_wire(9, 1);
    let client = group.client(0);
    let device = group.device("phone");
    device.acquire(&client, &request(&[kid(1)]), PERSISTENT).map(drop).unwrap();
    let ready = client.get("/readyz");
    assert_eq!(ready.status, 200, "{}", ready.text());
    wire.cut_for(Cut::BothWays, Duration::from_secs(12));
    let silent = client.get("/readyz");
    assert_eq!(silent.status, 503, "{}", silent.text());
    let reason = silent.json()["checks"]["ledger"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("no word from it for 1"), "{reason}");
    eventually(|| client.get("/readyz").status == 200);
    device.acquire(&client, &request(&[kid(2)]), PERSISTENT).map(drop).unwrap();
    let nothing = serde_json::json!({ "inventory": 0, "ledger": 0, "state": 0 });
    eventually(|| client.get("/readyz").json()["lag"] == nothing);
}
