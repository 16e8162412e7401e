//! What is answered, and what is not shown.

use super::*;

#[test]
fn unknown_paths_and_methods_are_problems() {
    let service = start(&config());
    let unknown = get(&service, "/v1/nothing", "");
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "not-found"));
    let wrong = get(&service, "/length", "");
    assert_eq!((wrong.status, wrong.code().as_str()), (405, "method-not-allowed"));
    assert_eq!(wrong.header("allow"), Some("post"));
    assert_eq!(get(&service, "/slow/soon", "").code(), "not-found");
}

#[test]
fn every_answer_is_protected_and_named() {
    let service = start(&config());
    let mut ids = BTreeSet::new();
    for path in ["/healthz", "/nothing", "/fails", "/panics", "/secured"] {
        let answer = get(&service, path, "X-Request-Id: mine\r\n");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert!(answer.header("content-security-policy").is_some(), "{path}");
        ids.insert(answer.header("x-request-id").unwrap().to_owned());
    }
    assert_eq!(ids.len(), 5);
    assert!(!ids.contains("mine"));
}

#[test]
fn a_panic_is_a_500_and_the_service_lives() {
    let service = start(&config());
    for _ in 0..5 {
        let answer = get(&service, "/panics", "");
        assert_eq!((answer.status, answer.code().as_str()), (500, "internal"));
        assert!(!answer.body.contains("always panics"), "{}", answer.body);
    }
    assert_eq!(get(&service, "/healthz", "").status, 200);
}

#[test]
fn the_cause_of_a_failure_is_not_shown() {
    let service = start(&config());
    let answer = get(&service, "/fails", "");
    assert_eq!((answer.status, answer.code().as_str()), (500, "internal"));
    assert!(!answer.body.contains("/srv/ledger"), "{}", answer.body);
}

#[test]
fn asks_for_a_key_and_for_its_scope() {
    let (access, [inventory, events]) = registry();
    let service = start_with(&config(), access, Readiness::default());
    let anonymous = get(&service, "/secured", "");
    assert_eq!((anonymous.status, anonymous.code().as_str()), (401, "unauthenticated"));
    assert_eq!(anonymous.header("www-authenticate"), Some("bearer"));
    let forged = get(&service, "/secured", &inventory.replace("aeaq", "aeaa"));
    assert_eq!(forged.problem()["detail"], anonymous.problem()["detail"]);
    let other = get(&service, "/secured", &events);
    assert_eq!((other.status, other.code().as_str()), (403, "missing-scope"));
    assert!(other.problem()["detail"].as_str().unwrap().contains("inventory:read"));
    let good = get(&service, "/secured", &inventory);
    assert_eq!((good.status, good.body.as_str()), (200, "test"));
}

#[test]
fn a_key_that_calls_too_often_is_told_when_to_come_back() {
    let (access, [inventory, events]) = registry();
    let mut config = config();
    config.rate.per_key_burst = 2.try_into().unwrap();
    config.rate.per_key_per_minute = 1.try_into().unwrap();
    let service = start_with(&config, access, Readiness::default());
    assert_eq!(get(&service, "/secured", &inventory).status, 200);
    assert_eq!(get(&service, "/secured", &inventory).status, 200);
    let refused = get(&service, "/secured", &inventory);
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate-limited"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=61).contains(&wait), "{wait}");
    assert_eq!(get(&service, "/secured", &events).status, 403);
}

#[test]
fn a_back_end_may_call_more_often_than_a_device() {
    let (access, [inventory, _]) = registry();
    let config = config();
    let calls = config.rate.burst.get() + config.rate.per_identity_per_minute.get();
    let service = start_with(&config, access, Readiness::default());
    for call in 0..calls {
        assert_eq!(get(&service, "/secured", &inventory).status, 200, "call {call}");
    }
}

#[test]
fn malformed_json_and_queries_name_what_is_wrong() {
    let service = start(&config());
    let json = "Content-Type: application/json\r\n";
    assert_eq!(post(&service, "/json", json, "[1,2]").body, "3");
    let refused = post(&service, "/json", json, "[1,\"two\"]");
    assert_eq!((refused.status, refused.code().as_str()), (400, "invalid-request"));
    assert_eq!(refused.problem()["errors"][0]["field"], "[1]");
    let refused = post(&service, "/json", json, "[1,");
    assert_eq!((refused.status, refused.code().as_str()), (400, "invalid-request"));
    assert!(refused.body.contains("column"), "{}", refused.body);
    let refused = post(&service, "/json", "Content-Type: text/xml\r\n", "[1]");
    assert_eq!((refused.status, refused.code().as_str()), (415, "unsupported-media-type"));
    let refused = get(&service, "/list?limit=0", "");
    assert_eq!(refused.problem()["errors"][0]["field"], "limit");
    let refused = get(&service, "/list?cursor=abc", "");
    assert_eq!(refused.problem()["errors"][0]["field"], "cursor");
    let refused = get(&service, "/list?limits=5", "");
    assert!(refused.problem()["detail"].as_str().unwrap().contains("limits"), "{}", refused.body);
}

#[test]
fn readiness_names_what_is_not_in_order() {
    let well = Arc::new(AtomicBool::new(true));
    let seen = well.clone();
    let readiness = Readiness::default().check("keys", || Ok(())).check("ledger", move || {
        if seen.load(Ordering::SeqCst) { Ok(()) } else { Err("the disk is full".to_owned()) }
    });
    let service = start_with(&config(), registry().0, readiness);
    assert_eq!(get(&service, "/readyz", "").status, 200);
    well.store(false, Ordering::SeqCst);
    let answer = get(&service, "/readyz", "");
    assert_eq!(answer.status, 503);
    let report: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(report["checks"]["ledger"], "the disk is full");
    assert_eq!(report["checks"]["keys"], "ok");
    assert_eq!(get(&service, "/healthz", "").status, 200);
}

#[test]
fn readiness_tells_what_parts_lack_and_refuses_when_it_is_too_much() {
    let behind = Arc::new(AtomicU64::new(7));
    let (events, more) = (behind.clone(), behind.clone());
    let readiness = Readiness::default()
        .check("inventory", || Ok(()))
        .lag("inventory", 7, move || events.load(Ordering::SeqCst))
        .check("state", || Err("stopped".to_owned()))
        .lag("state", 1_000, move || 2 * more.load(Ordering::SeqCst));
    let service = start_with(&config(), registry().0, readiness);
    let report = || get(&service, "/readyz", "").body.parse::<Value>().unwrap();
    assert_eq!(report()["lag"], json!({ "inventory": 7, "state": 14 }));
    assert_eq!(report()["checks"], json!({ "inventory": "ok", "state": "stopped" }));
    behind.store(600, Ordering::SeqCst);
    let answer = report();
    assert_eq!((&answer["status"], &answer["lag"]["state"]), (&json!("not ready"), &json!(1_200)));
    // What failed on its own says more than the lag does.
    let checks = json!({ "inventory": "600 events behind", "state": "stopped" });
    assert_eq!(answer["checks"], checks);
}

#[test]
fn a_part_that_lacks_too_much_makes_a_service_unready_by_itself() {
    let behind = Arc::new(AtomicU64::new(8));
    let events = behind.clone();
    let readiness = Readiness::default().lag("state", 7, move || events.load(Ordering::SeqCst));
    let service = start_with(&config(), registry().0, readiness);
    assert_eq!(get(&service, "/readyz", "").status, 503);
    behind.store(7, Ordering::SeqCst);
    assert_eq!(get(&service, "/readyz", "").status, 200);
}

#[test]
fn metrics_count_by_pattern_and_hold_no_path() {
    let (access, [inventory, _]) = registry();
    let service = start_with(&config(), access, Readiness::default());
    get(&service, "/slow/1", "");
    get(&service, "/slow/2?token=secret", "");
    get(&service, "/secured", &inventory);
    get(&service, "/strange/customer-4711", "");
    let answer = get(&service, "/metrics", "");
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    for line in [
        "http_requests_total{method=\"GET\",route=\"/slow/{ms}\",status=\"200\"} 2",
        "http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 1",
        "http_requests_in_flight 1",
    ] {
        assert!(answer.body.contains(line), "{line} is not in {}", answer.body);
    }
    for leak in ["4711", "secret", "llk_", "/slow/1"] {
        assert!(!answer.body.contains(leak), "{leak} is in {}", answer.body);
    }
}
