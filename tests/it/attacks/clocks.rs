//! The device's clock is data, and the server's own may be wrong too.

use license_ledger::playready::acquire::AcquireRequest;

use crate::device::{PERSISTENT, kid, refused, request, words};
use crate::service::{NOW_S, TestService};

#[test]
fn recorded_time_never_goes_back() {
    let mut service = TestService::new();
    let device = service.device("clock");
    device.acquire(&service.client, &request(&[kid(1)]), PERSISTENT).unwrap();
    assert_eq!(service.client.get("/readyz").status, 200);
    service.advance_s(-3_600);
    // At once after a start, when no event has come yet.
    service.restart();
    let not_ready = service.client.get("/readyz");
    assert_eq!(not_ready.status, 503, "a node with a clock far behind calls itself ready");
    assert!(not_ready.json()["checks"]["clock"].as_str().unwrap().contains("behind"));
    // What is asked of it all the same is dated after what it saw.
    device.acquire(&service.client, &request(&[kid(2)]), PERSISTENT).unwrap();
    let replay = service.replay();
    assert_eq!(replay.acquired[1].at_ms, replay.acquired[0].at_ms);
}

#[test]
fn a_rollback_brings_no_expired_license_back() {
    let service = crate::service::Setup::default().with("quota.device_limit", 1).start();
    let device = service.device("rollback");
    let ends = "cfg=(persist:true,enddate:20231114232320)";
    device.acquire(&service.client, &request(&[kid(1)]), ends).unwrap();
    service.advance_s(2 * 3_600);
    device.acquire(&service.client, &request(&[kid(2)]), PERSISTENT).unwrap();
    service.advance_s(-2 * 3_600);
    // The decision at the later time stands: the first license is not counted again.
    let replay = service.replay();
    assert_eq!(replay.most_held, 1);
    let question = serde_json::json!({
        "device": device.identity(), "key_ids": [kid(2).to_string()],
    });
    let decision = service.client.post_json("/v1/quota/decisions", &question).json();
    let live = &decision["in_use"]["live"];
    assert_eq!((&decision["decision"], live), (&"allow".into(), &1.into()));
}

#[test]
fn a_client_clock_that_is_off_gets_no_license_that_ends() {
    let service = TestService::new();
    let device = service.device("skewed");
    let ends = "cfg=(persist:true,enddate:20231116000000)";
    for (offset_s, accepted) in [(0, true), (3_600, true), (3_601, false), (-3_601, false)] {
        let client_time = Some(NOW_S.checked_add_signed(offset_s).unwrap());
        let client_version = Some("10.0.16384.10011".to_owned());
        let request = AcquireRequest { client_time, client_version, ..request(&[kid(1)]) };
        let fault = device.acquire(&service.client, &request, ends).err();
        let expected = (!accepted).then(|| refused("clock_skew"));
        assert_eq!(fault.map(|fault| words(&fault)), expected, "{offset_s} s");
        // A license without an end does not depend on it.
        let request = AcquireRequest { nonce: crate::device::fresh_nonce(), ..request };
        device.acquire(&service.client, &request, PERSISTENT).unwrap();
    }
}
