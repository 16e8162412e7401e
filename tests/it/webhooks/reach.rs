//! Where webhooks go, and where not.

use super::*;

#[test]
fn only_public_addresses_are_connected_to_unless_others_are_allowed() {
    let server = taker();
    let port = server.url.trim_end_matches("/answer").rsplit(':').next().unwrap();
    let urls = [
        ("ip", format!("http://127.0.0.1:{port}/answer")),
        ("name", format!("http://localhost:{port}/answer")),
        ("mapped", format!("http://[::ffff:127.0.0.1]:{port}/answer")),
        ("zero", format!("http://0.0.0.0:{port}/answer")),
        ("decimal", format!("http://2130706433:{port}/answer")),
    ];
    let mut endpoints: Vec<_> =
        urls.iter().map(|(id, url)| endpoint(id, url, json!({"allow_private": false}))).collect();
    endpoints.push(endpoint("allowed", &urls[1].1, json!({})));
    let telling = Telling::start(&endpoints);
    telling.acquire(1);
    for (id, _) in &urls {
        telling.caught_up(id);
        let state = telling.state(id);
        assert_eq!(
            (&state["retrying"], &state["status"]),
            (&json!(1), &json!("failing")),
            "{state}"
        );
        let error = state["last_error"].as_str().unwrap();
        assert!(error.contains("no public address"), "{id}: {error}");
    }
    telling.caught_up("allowed");
    assert_eq!(server.asked().len(), 1, "by the endpoint that allows it, and no other");
}

#[test]
fn redirects_are_failures_and_not_followed() {
    let elsewhere = taker();
    let to = elsewhere.url.clone();
    let server = Server::start(move |_, _| Answer::Redirect(to.clone()));
    let telling = Telling::start(&[endpoint("e", &server.url, json!({}))]);
    telling.acquire(1);
    telling.caught_up("e");
    assert_eq!(telling.state("e")["last_error"], "status 302");
    assert_eq!((server.asked().len(), elsewhere.asked().len()), (1, 0));
}

#[test]
fn silence_ends_in_time_and_a_long_answer_does_no_harm() {
    let server = Server::start(|n, _| match n {
        0 => Answer::Silence,
        1 => Answer::Body(200, vec![b'x'; 1 << 20]),
        _ => Answer::Body(200, Vec::new()),
    });
    let telling = Telling::start(&[endpoint("e", &server.url, json!({"timeout_seconds": 1}))]);
    for number in 1..=3 {
        telling.acquire(number);
    }
    telling.caught_up("e");
    let state = telling.state("e");
    assert_eq!((server.asked().len(), &state["retrying"]), (3, &json!(1)));
    assert!(state["last_error"].as_str().unwrap().contains("timeout"), "{state}");
}

#[test]
fn an_endpoint_in_trouble_troubles_no_other_and_not_the_service() {
    let (good, silent) = (taker(), Server::start(|_, _| Answer::Silence));
    let telling = Telling::start(&[
        endpoint("silent", &silent.url, json!({"timeout_seconds": 60})),
        endpoint("nobody", "http://127.0.0.1:9/", json!({})),
        endpoint("good", &good.url, json!({})),
    ]);
    for number in 1..=3 {
        telling.acquire(number);
    }
    telling.caught_up("good");
    assert_eq!(ids(&good.asked()), telling.ids(&["license-acquired.v1"]));
    telling.caught_up("nobody");
    assert_eq!(telling.service.client.get("/readyz").status, 200);
    let metrics = telling.service.client.get("/metrics").text();
    for line in [
        "license_ledger_webhook_attempts_total{outcome=\"delivered\"} 3",
        "license_ledger_webhook_attempts_total{outcome=\"failed\"} 3",
        "license_ledger_webhook_endpoints_failing 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(!metrics.contains("nobody"), "ids of endpoints are not for everybody");
    // The service stops in time although one message is under way.
    let started = Instant::now();
    drop(telling);
    assert!(started.elapsed() < PATIENCE);
}
