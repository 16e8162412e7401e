use uuid::Uuid;

use crate::domain::device::elsewhere::Which;
use crate::domain::event::Grade;
use crate::domain::usage::Wanted;
use crate::domain::{DeviceRef, KeyId, LicenseId};
use crate::licensing::tests::Site;
use crate::licensing::{
    CommandError, IssuedElsewhere, IssuedLicense, Licensing, Once, Question, Succession, Told,
};

const MINUTE_MS: i64 = 60_000;

fn once(key: &str) -> Once {
    let request = Once::request_digest("POST", key, b"");
    Once::new("a-client", key, request, "test").unwrap()
}

fn wants(device: &DeviceRef, number: u128) -> Question<'_> {
    let key_id = KeyId(Uuid::from_u128(number));
    Question {
        device,
        account: None,
        wanted: vec![Wanted { key_id, title: None, content_group: None }],
        security_level: None,
        model: None,
    }
}

async fn hold(node: &Licensing, device: &DeviceRef) -> Uuid {
    let held = node.reserve(&wants(device, 1), MINUTE_MS, &once(&format!("hold {device}"))).await;
    let held: serde_json::Value = serde_json::from_str(&held.unwrap().body).unwrap();
    held["reservation_id"].as_str().unwrap().parse().unwrap()
}

/// Two devices of which the node `ahead` made one, while `behind` has the one that was given up in
/// memory as it was before; and what that had reserved.
async fn merged(ahead: &Licensing, behind: &Licensing, name: &str) -> (DeviceRef, DeviceRef, Uuid) {
    let [from, into] = ["from", "into"].map(|which| ahead.device_of(&format!("{which} {name}")));
    let reservation = hold(behind, &from).await;
    hold(ahead, &into).await;
    let succession = Succession { from: &from, into: &into, replaced: None };
    let reason = "a test".parse().unwrap();
    ahead.succeed(succession, &reason, &once(name)).await.unwrap();
    (from, into, reservation)
}

#[tokio::test]
async fn a_device_that_another_node_gave_up_is_followed_by_what_appends_nothing() {
    let site = Site::new();
    let (ahead, behind) = (site.node("a", 9).await, site.node("b", 9).await);
    let (from, into, _) = merged(&ahead, &behind, "decision").await;
    let decision = behind.decide(&wants(&from, 3)).await.unwrap();
    assert_eq!((decision.device, decision.counted.len()), (into.to_string(), 2));

    let (from, into, reservation) = merged(&ahead, &behind, "reservation").await;
    let shown = behind.reservation(&from, reservation).await.unwrap();
    assert_eq!(shown.map(|held| held.device), Some(into.to_string()));

    let (from, _, reservation) = merged(&ahead, &behind, "release").await;
    behind.release_reservation(&from, reservation, &once("given back")).await.unwrap();
    assert_eq!(site.count("reservation-closed.v1").await, 1);
}

#[tokio::test]
async fn a_report_is_refused_by_what_the_device_that_goes_on_has() {
    let site = Site::new();
    let (ahead, behind) = (site.node("a", 9).await, site.node("b", 9).await);
    let (from, into) = (ahead.device_of("from"), ahead.device_of("into"));
    hold(&behind, &from).await;
    hold(&ahead, &into).await;
    let license = IssuedLicense {
        key_id: KeyId(Uuid::from_u128(5)),
        license_reference: "wv-1",
        persistent: true,
        counted_until_ms: None,
        title: None,
        content_group: None,
    };
    let issued = IssuedElsewhere {
        device: &from,
        account: None,
        drm_system: "widevine",
        security_level: None,
        model: "",
        reservation_id: None,
        licenses: vec![license],
    };
    let told = Told { grade: Grade::B, occurred_ms: None, message: None };
    ahead.record_licenses(&issued, &told, &once("issued")).await.unwrap();
    let succession = Succession { from: &from, into: &into, replaced: None };
    ahead.succeed(succession, &"a test".parse().unwrap(), &once("merge")).await.unwrap();
    let known = Which::Reference {
        drm_system: "widevine".to_owned(),
        license_reference: "wv-1".to_owned(),
    };
    behind.record_deletions(&from, &[known], &told, &once("gone")).await.unwrap();
    let unknown = Which::License(LicenseId(Uuid::from_u128(404)));
    let refused = behind.record_deletions(&from, &[unknown], &told, &once("other")).await;
    assert!(matches!(refused, Err(CommandError::Refused(_))), "{refused:?}");
}
