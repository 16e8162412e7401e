//! Which device an identity belongs to, when a token says so.

use license_ledger::domain::Event;

use super::*;

/// A token for the first KID that names a device.
fn token_for(issuer: &Issuer, jti: &str, device: Option<&str>) -> String {
    let mut license = license(&[kid(1)]);
    if let Some(device) = device {
        license["device"] = device.into();
    }
    issuer.token(&claims(jti, license))
}

fn device_of(service: &TestService, name: &str) -> Value {
    let position = service.event_count();
    service.client.json(&format!("/v1/devices/{name}?min_position={position}"))
}

#[test]
fn the_first_sight_of_an_identity_enrolls_it_into_the_device_that_the_token_names() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::new(&[&issuer]);
    let service = &token_service.service;
    // A phone that was set up anew has another certificate and is the same device.
    let (before, after) = (service.device("before"), service.device("after"));
    let phone = Some("alice-phone");
    assert!(try_token(service, &before, &token_for(&issuer, "1", phone)).is_ok());
    assert!(try_token(service, &after, &token_for(&issuer, "2", phone)).is_ok());
    let device = device_of(service, "alice-phone");
    assert_eq!(device["persistent_acquired"], 2);
    assert_eq!(device["identities"].as_array().unwrap().len(), 2);
    assert_eq!(device["device"], device_of(service, &after.identity())["device"]);
    assert_eq!(count(service, "device-enrolled.v1"), 1);
    assert_eq!(count(service, "identity-linked.v1"), 2);
    // Without a claim it stays where it is.
    assert!(try_token(service, &after, &token_for(&issuer, "3", None)).is_ok());
    assert_eq!(device_of(service, "alice-phone")["persistent_acquired"], 3);
}

#[test]
fn a_token_for_another_device_is_refused_and_not_spent() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::new(&[&issuer]);
    let service = &token_service.service;
    let (phone, anonymous) = (service.device("phone"), service.device("anonymous"));
    assert!(try_token(service, &phone, &token_for(&issuer, "1", Some("alice-phone"))).is_ok());
    assert!(try_token(service, &anonymous, &token_for(&issuer, "2", None)).is_ok());
    let other = Err("not_entitled: other_device".to_owned());
    let token = token_for(&issuer, "3", Some("bob-phone"));
    let events = service.event_count();
    for device in [&phone, &anonymous] {
        assert_eq!(try_token(service, device, &token).map(drop), other);
    }
    assert_eq!(service.event_count(), events);
    assert_eq!(service.client.get("/v1/devices/bob-phone").status, 404);
    // Whom it was made for can use it.
    assert!(try_token(service, &service.device("bob"), &token).is_ok());
}

#[test]
fn identities_of_one_device_share_its_quota() {
    let issuer = Issuer::new("ES256", "k");
    let setup = Setup::default().with("quota.device_limit", 1);
    let token_service = TokenService::with(&[&issuer], setup);
    let service = &token_service.service;
    let (before, after) = (service.device("before"), service.device("after"));
    assert!(try_token(service, &before, &token_for(&issuer, "1", Some("phone"))).is_ok());
    let mut license = license(&[kid(2)]);
    license["device"] = "phone".into();
    let asked = with_token(&[kid(2)], &issuer.token(&claims("2", license)));
    let refused = after.acquire(&service.client, &asked, "").err().map(|fault| reason(&fault));
    assert_eq!(refused.as_deref(), Some("persistent_license_limit"));
    // A refusal that is recorded introduces the identity and spends nothing.
    assert_eq!(count(service, "token-spent.v1"), 1);
    let linked = service.facts().into_iter().filter_map(|fact| match fact.event {
        Event::IdentityLinked(linked) => Some(linked.device),
        _ => None,
    });
    let linked: Vec<_> = linked.collect();
    assert!(linked.iter().all(|device| *device == linked[0]), "{linked:?}");
}

#[test]
fn more_deletions_than_one_append_holds_are_recorded_part_by_part() {
    const EACH: u128 = 60;
    const KIDS: u128 = 600;
    // Apart from those that have keys of their own.
    let numbers = || 10..10 + KIDS;
    let issuer = Issuer::new("ES256", "k");
    let setup = Setup::default().with("quota.device_limit", KIDS);
    let token_service = TokenService::with(&[&issuer], setup);
    let service = &token_service.service;
    service.import(&numbers().map(|number| (kid(number), content_key(9))).collect::<Vec<_>>());
    let device = service.device("full");
    let session = Some([7; 16]);
    for first in numbers().step_by(EACH as usize) {
        let kids: Vec<_> = (first..first + EACH).map(kid).collect();
        let mut license = license(&kids);
        license["account"] = json!("family");
        let token = issuer.token(&claims(&first.to_string(), license));
        let asked = AcquireRequest { session, ..with_token(&kids, &token) };
        device.acquire(&service.client, &asked, "").unwrap();
    }
    let kids: Vec<_> = numbers().map(kid).collect();
    device.delete(&service.client, [7; 16], &kids).unwrap();
    assert_eq!(count(service, "license-deleted.v1") as u128, KIDS);
    assert_eq!(count(service, "slot-released.v1") as u128, KIDS);
    assert_eq!(count(service, "evidence-kept.v1"), 1);
    assert_eq!(service.live(&device), 0);
    let events = service.event_count();
    device.delete(&service.client, [7; 16], &kids).unwrap();
    assert_eq!(service.event_count(), events);
}
