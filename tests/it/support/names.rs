//! Names that are none.

use serde_json::json;

use super::{REASON, ask, because, command};
use crate::service::TestService;

#[test]
fn a_name_that_nobody_has_is_refused_wherever_it_stands() {
    let service = TestService::new();
    let device = service.device("phone");
    ask(&service, &device, 1).unwrap();
    let known = device.identity();
    let huge = "x".repeat(10_000);
    let path = |device: &str, act: &str| format!("/v1/devices/{device}/{act}");
    let limit = json!({ "limit": 1, "reason": REASON });
    let replace = json!({ "by": "", "licenses": "move", "reason": REASON });
    let accounts = format!("/v1/accounts/{huge}/overrides/device-slots");
    let events = service.event_count();
    for (answer, field) in [
        (command(&service.client, &path("%20", "block"), &because()), "device"),
        (command(&service.client, &path(&huge, "write-off"), &because()), "device"),
        (
            command(
                &service.client,
                &path(&known, "merge"),
                &json!({ "into": huge, "reason": REASON }),
            ),
            "into",
        ),
        (command(&service.client, &path(&known, "replace"), &replace), "by"),
        (service.client.put_command(&path(&huge, "overrides/device-slots"), &limit), "device"),
        (service.client.put_command(&accounts, &limit), "account"),
        (service.client.get("/v1/licenses?device="), "device"),
        (service.client.get("/v1/accounts/%20"), "account"),
    ] {
        assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()), "{field}");
        assert_eq!(answer.problem()["errors"][0]["field"], field);
    }
    assert_eq!(service.event_count(), events);
}
