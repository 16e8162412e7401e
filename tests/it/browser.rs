//! Clear Key in a real browser: content packaged with a key of the service plays in Chromium, which
//! gets that key through Encrypted Media Extensions.
//!
//! Needs `chromium` and `chromedriver`; what happens without them, `driver` says.

mod driver;
mod sample;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::Value;
use uuid::Uuid;

use crate::device::kid;
use crate::service::{Setup, TestService};
use driver::{Browser, Programs};

const KEY: [u8; 16] = *b"\x10\xff-key-of-the-\x00\x9a";
/// A KID whose bytes differ in every place when fields of a GUID are swapped.
const KID: Uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);

#[test]
fn a_browser_plays_with_keys_of_the_service_and_not_without() {
    let Some(programs) = Programs::find_or_install() else { return };
    let site = Site::start();
    let service =
        Setup::default().with("clearkey.enabled", true).with("clearkey.origins", &site.url).start();
    service.import(&[(KID, KEY)]);
    let browser = Browser::start(&programs);
    let play = |sample: &str, query: &str| {
        browser.open(&site.url);
        let license = format!("{}/clearkey?{query}", service.client.url());
        browser.ask("play", &[sample, &license, sample::CONTENT_TYPE])
    };

    let played = play("good.mp4", "device=living-room&cfg=(persist:true)");
    assert_eq!(played["outcome"], "ended", "{played}");
    assert!(played["at"].as_f64().unwrap() >= f64::from(sample::SECONDS) - 0.1, "{played}");
    assert_eq!(played["statuses"], serde_json::json!(["usable"]));
    let asked: Value = serde_json::from_str(played["requests"][0].as_str().unwrap()).unwrap();
    assert_eq!(asked["kids"], serde_json::json!(["ASNFZ4mrze8BI0VniavN7w"]));
    is_recorded_as_non_persistent(&service);

    // The service refuses, and the page can read why.
    let events = service.event_count();
    let refused = play("good.mp4", "device=living-room&cfg=(sl:2000)");
    assert_eq!(refused["outcome"], "no license", "{refused}");
    assert_eq!(
        (&refused["at"], &refused["refusals"][0]["code"]),
        (&0.into(), &"not-licensed".into())
    );
    assert_eq!(service.event_count(), events);

    // The service has another key for this KID than the one that encrypts.
    let wrong = play("other.mp4", "device=living-room");
    assert!(wrong["outcome"].as_str().unwrap().starts_with("error"), "{wrong}");
    assert!(wrong["at"].as_f64().unwrap() < 0.1, "{wrong}");
    browser.quit();
}

fn is_recorded_as_non_persistent(service: &TestService) {
    let position = service.event_count();
    let read = |path: &str| {
        service.client.json(&format!("/v1/devices/living-room{path}?min_position={position}"))
    };
    assert_eq!(read("/inventory")["live"], 0);
    assert_eq!(read("/inventory")["licenses"], serde_json::json!([]));
    assert_eq!(
        (&read("")["non_persistent_acquired"], &read("")["persistent_acquired"]),
        (&1.into(), &0.into())
    );
    let events = read("/events");
    let kinds: Vec<_> = events["items"].as_array().unwrap().iter().collect();
    let license = kinds.iter().find(|event| event["type"] == "license-acquired.v1").unwrap();
    let facts = &license["data"];
    assert_eq!(facts["drm_system"], "clearkey");
    assert_eq!(facts["key_id"], KID.to_string());
    assert_eq!(facts["persistent"], serde_json::json!({ "requested": true, "effective": false }));
}

/// Serves the page and the samples, from another origin than the service.
struct Site {
    url: String,
}

impl Site {
    fn start() -> Self {
        // `localhost` is a secure context, which EME demands, and another host than 127.0.0.1.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://localhost:{}", listener.local_addr().unwrap().port());
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { url }
    }
}

/// Answers one request. A browser also opens connections that it never uses.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let (kind, body) = match request.split(' ').nth(1) {
        Some("/") => ("text/html; charset=utf-8", include_bytes!("browser/page.html").to_vec()),
        Some("/samples/good.mp4") => ("audio/mp4", sample::encrypted(KID, &KEY)),
        Some("/samples/other.mp4") => ("audio/mp4", sample::encrypted(kid(7), &KEY)),
        _ => ("text/plain", Vec::new()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}
