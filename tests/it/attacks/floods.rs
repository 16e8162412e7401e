//! Who asks too much gets answers, and leaves no pile of events.

use crate::device::{PERSISTENT, fault_of, kid, refused, request};
use crate::service::Setup;

#[test]
fn refusals_do_not_flood_the_ledger() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let device = service.device("flood");
    device.acquire(&service.client, &request(&[kid(0)]), PERSISTENT).unwrap();
    let refusals_for = |kids: std::ops::Range<u128>| {
        let before = service.event_count();
        for number in kids {
            let challenge = device.ask(&request(&[kid(number)]));
            let answer = service.client.challenge(&challenge, PERSISTENT);
            assert_eq!(fault_of(&answer.body), refused("persistent_license_limit"));
        }
        service.kinds_from(before)
    };
    assert_eq!(refusals_for(1..2), ["acquisition-refused.v1"]);
    // One for a KID and hour.
    assert_eq!(refusals_for(1..2), Vec::<String>::new());
    service.advance_s(3_601);
    assert_eq!(refusals_for(1..2), ["acquisition-refused.v1"]);
    // A hundred for a device and day.
    assert_eq!(refusals_for(2..150).len(), 98);
    service.advance_s(24 * 3_600);
    assert_eq!(refusals_for(150..152).len(), 2);
    assert_eq!(service.live(&device), 1);
}

#[test]
fn a_device_that_asks_too_often_is_told_to_wait() {
    let setup = Setup::default().with("rate.burst", 5).with("rate.per_identity_per_minute", 1);
    let service = setup.start();
    let device = service.device("hasty");
    let patient = service.device("patient");
    let ask = || service.client.challenge(&device.ask(&request(&[kid(1)])), "");
    let statuses: Vec<_> = (0..8).map(|_| ask().status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    let refused = ask();
    assert_eq!(refused.status_and_code(), (429, "rate-limited".to_owned()));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(service.replay().acquired.len(), 5);
    // Nobody else has to wait.
    patient.acquire(&service.client, &request(&[kid(1)]), "").unwrap();
}
