//! Planted secrets: wherever the service writes, they are not there.

mod authorize;

use std::path::{Path, PathBuf};

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use license_ledger::kurrent_protocol::shared::Expectation;
use license_ledger::kurrent_protocol::streams::AllStart;
use license_ledger::playready::acquire::AcquireRequest;
use license_ledger::playready::policy::SecurityLevel;
use license_ledger::playready::xml::Document;
use uuid::Uuid;

use crate::client::Client;
use crate::device::{Device, PERSISTENT, fresh_nonce, kid, request};
use crate::grpc::client::{Kurrent, basic, in_log, noted};
use crate::packaging::{cpix, exchange, values};
use crate::process::{Serving, run};
use crate::service::make_device;

const CONTENT_KEY: [u8; 16] = *b"\xc0nt3nt-k3y-\xfe\xed!\x07\x93";
const KEY_OF_REQUEST: [u8; 16] = *b"\xa7k3y-by-cfg\xde\xad.\x11\x99";
const SEED: [u8; 30] = *b"\xf5s33d-of-thirty-bytes!\x01\xb7\x9d\xfc\x88\x13?\xaa";
const CUSTOM_DATA: &str = "custom-data-canary-Zq8";

/// A secret and every form in which it could stand somewhere.
struct Secret {
    name: &'static str,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    fn binary(name: &'static str, bytes: &[u8]) -> Self {
        let mut forms = vec![
            bytes.to_vec(),
            HEXLOWER.encode(bytes).into_bytes(),
            HEXUPPER.encode(bytes).into_bytes(),
            // As a list of numbers, in which `Debug` and JSON show bytes.
            numbers(bytes, ", "),
            numbers(bytes, ","),
        ];
        // In base64 at each of the three places within a group; the ends depend on the neighbors.
        for skipped in 0..3 {
            let whole = &bytes[skipped..];
            let whole = &whole[..whole.len() / 3 * 3];
            forms.push(BASE64.encode(whole).into_bytes());
            forms.push(BASE64URL_NOPAD.encode(whole).into_bytes());
        }
        Self { name, forms }
    }

    fn text(name: &'static str, text: &str) -> Self {
        let mut secret = Self::binary(name, text.as_bytes());
        secret.forms[0] = text.as_bytes().to_vec();
        secret
    }

    fn check(&self, place: &str, bytes: &[u8]) {
        for form in &self.forms {
            let found = bytes.windows(form.len()).any(|window| window == form);
            assert!(!found, "{} is in {place}", self.name);
        }
    }
}

fn numbers(bytes: &[u8], separator: &str) -> Vec<u8> {
    let numbers: Vec<_> = bytes.iter().map(u8::to_string).collect();
    numbers.join(separator).into_bytes()
}

/// All files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// What a device and a back end do in a day, mistakes included. Returns all that was answered
/// outside of licenses.
fn a_day(client: &Client, device: &Device, reader_key: &str) -> Vec<u8> {
    let mut answered = Vec::new();
    let mut take = |answer: crate::client::Answer| answered.extend(answer.body);
    let custom_data = Some(CUSTOM_DATA.to_owned());
    let first = AcquireRequest { custom_data, ..request(&[kid(1), kid(2)]) };
    let acquired = device.acquire(client, &first, PERSISTENT).unwrap();
    assert_eq!(acquired.licenses[0].content_key.expose(), &CONTENT_KEY);
    let by_cfg = format!("cfg=(persist:true,ck:{})", BASE64.encode(&KEY_OF_REQUEST));
    let second = device.acquire(client, &request(&[kid(3)]), &by_cfg).unwrap();
    assert_eq!(second.licenses[0].content_key.expose(), &KEY_OF_REQUEST);
    device.acknowledge(client, acquired.transaction_id.unwrap(), &[(kid(1), 0)]).unwrap();
    device.delete(client, first.nonce, &[kid(2)]).unwrap();
    // Refused for the quota, for the policy string, for the bytes.
    let over = request(&(10..40).map(kid).collect::<Vec<_>>());
    take(client.challenge(&device.ask(&over), PERSISTENT));
    let twice = format!("{by_cfg}&{by_cfg}");
    let wrong = format!("cfg=(ck:{}x)", BASE64.encode(&KEY_OF_REQUEST));
    for query in [twice.as_str(), &wrong] {
        take(client.challenge(&device.ask(&request(&[kid(4)])), query));
    }
    let again = AcquireRequest { nonce: fresh_nonce(), ..first };
    let mut torn = device.ask(&again);
    torn.truncate(torn.len() / 2);
    take(client.challenge(&torn, ""));
    // In a browser: a license, and refusals.
    let kids = |number| [BASE64URL_NOPAD.encode(kid(number).as_bytes())];
    let ask = |query: &str| {
        let body = serde_json::json!({ "kids": kids(1) });
        client.post_json(&format!("/clearkey?{query}"), &body)
    };
    assert!(ask("").text().contains(&BASE64URL_NOPAD.encode(&CONTENT_KEY)));
    for query in ["cfg=(sl:3000)", "device=/", &twice, &wrong] {
        take(ask(query));
    }
    // Keys in the wrong places.
    for path in ["/v1/devices", "/v1/events", "/metrics", "/readyz", "/v1/nothing"] {
        take(client.get(path));
        take(client.with_key(reader_key).get(path));
        take(client.with_key(&format!("{reader_key}x")).get(path));
        take(client.get(&format!("{path}?key={}", "unknown")));
    }
    let identity = device.identity();
    take(client.get(&format!("/v1/devices/{identity}/inventory")));
    take(client.get(&format!("/v1/devices/{identity}/events")));
    answered
}

#[test]
fn no_secret_is_written_or_told_anywhere() {
    let dir = tempfile::TempDir::new().unwrap();
    let data = dir.path().join("data");
    let data_arg = data.to_str().unwrap();
    let config = dir.path().join("config.toml");
    // Everything of ours, down to the last detail; libraries as they come.
    std::fs::write(
        &config,
        "[clearkey]\nenabled = true\n[packaging]\nplain_keys = true\n[log]\nlevel = \"debug,license_ledger=trace\"\n",
    )
    .unwrap();
    let args = ["--config", config.to_str().unwrap(), "--grpc", "127.0.0.1:0"];
    let start = || Serving::start(&data, &args);
    let service = start();
    let admin_key = service.admin_key.clone().unwrap();

    let seed_file = dir.path().join("seed");
    std::fs::write(&seed_file, BASE64.encode(&SEED)).unwrap();
    let import = |key: &[u8; 16]| {
        let file = dir.path().join("keys.json");
        let key_ids: [Uuid; 1] = [kid(1)];
        let json = serde_json::json!({ key_ids[0].to_string(): HEXLOWER.encode(key) });
        std::fs::write(&file, json.to_string()).unwrap();
        run(&["keys", "import", "--data", data_arg, file.to_str().unwrap()])
    };
    let mut said = Vec::new();
    let mut hear = |ran: &crate::process::Ran| {
        said.extend(ran.stdout.bytes().chain(ran.stderr.bytes()));
    };
    hear(&import(&CONTENT_KEY).ok());
    let refused = import(&KEY_OF_REQUEST);
    refused.failed(2, &[&kid(1).to_string()]);
    hear(&refused);
    let (made, refused_exchange) = exchanged(&service.client(&admin_key));
    hear(&run(&["keys", "seed", "--data", data_arg, seed_file.to_str().unwrap()]).ok());
    let create = ["keys", "api", "create", "--json", "--name", "reader", "--scope", "events:read"];
    let created = run(&[&create[..], &["--data", data_arg]].concat()).ok().json();
    let reader_key = created["api_key"]["key"].as_str().unwrap().to_owned();
    hear(&run(&["keys", "api", "list", "--data", data_arg]).ok());
    hear(&run(&["keys", "list", "--data", data_arg]).ok());
    hear(&run(&["keys", "rotate-master", "--data", data_arg]).ok());
    said.extend(refused_exchange);

    let device = make_device(&service.pki, "canary", SecurityLevel::Software);
    said.extend(a_day(&service.client(&admin_key), &device, &reader_key));
    said.extend(over_grpc(&service.greeting, &reader_key));
    service.stop();
    // A second start reads it all again.
    let service = start();
    assert!(!service.greeting.contains(&admin_key));
    service.stop();
    said.extend(run(&["events", "--json", "--data", data_arg]).ok().stdout.bytes());

    let mut secrets = vec![
        Secret::binary("the content key", &CONTENT_KEY),
        Secret::binary("the content key in a request", &KEY_OF_REQUEST),
        Secret::binary("the key seed", &SEED),
        Secret::binary("a key made for a packager", &made),
        Secret::text("the admin key", &admin_key),
        Secret::text("the API key", &reader_key),
        Secret::text("the secret part of the API key", reader_key.rsplit('_').next().unwrap()),
        Secret::text("custom data", CUSTOM_DATA),
    ];
    let derived = device_key_of_seed();
    secrets.push(Secret::binary("a key derived from the seed", &derived));
    for (name, file) in [
        ("the API key secret", "api.key"),
        ("the master key", "master.key"),
        ("the reference key", "reference.key"),
    ] {
        let path = dir.path().join("data-secrets").join(file);
        let secret = license_ledger::access::secrets::read(&path).unwrap();
        secrets.push(Secret::binary(name, secret.expose()));
    }
    let written = files(&data).into_iter().chain([data.with_extension("log")]);
    let written: Vec<_> =
        written.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    assert!(written.iter().any(|(path, _)| path.ends_with("keys.sealed")), "{written:?}");
    let log = std::fs::read_to_string(data.with_extension("log")).unwrap();
    assert!(log.contains("DEBUG"), "the log is not detailed: {log}");
    for secret in &secrets {
        secret.check("what was answered and printed", &said);
        for (path, bytes) in &written {
            secret.check(&path.display().to_string(), bytes);
        }
    }
}

/// Uses the ledger over the KurrentDB protocol, rightly and wrongly. Returns what was refused.
fn over_grpc(greeting: &str, reader_key: &str) -> Vec<u8> {
    let (_, address) = greeting.split_once("kurrentdb://").unwrap();
    let address = address.split(['?', '\n']).next().unwrap();
    let client = |password: &str| Kurrent::at(address, Some(basic(password)));
    let all = || in_log(AllStart::Start(()), 100_000);
    let reader = client(reader_key);
    assert!(!reader.events(all()).is_empty());
    reader.append_any("user-canary", vec![noted(1)]);
    let foreign = reader.append("policy", Expectation::Any(()), vec![noted(2)]).unwrap_err();
    let unknown = client(&format!("{reader_key}x")).read(all()).unwrap_err();
    format!("{foreign:?} {unknown:?}").into_bytes()
}

/// Has keys made and refused for a packager. Returns the key that was made, and the refusals.
fn exchanged(client: &Client) -> ([u8; 16], Vec<u8>) {
    let asked = cpix(&[kid(1), kid(60)], None);
    let answer = exchange(client, &asked);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let document = Document::parse(&answer.body).unwrap();
    let keys = values(&document, "PlainValue");
    assert_eq!(keys[0], CONTENT_KEY);
    let refused = exchange(client, &asked.replace("\"cenc\"", "\"cbcs\" explicitIV=\"x\""));
    assert_eq!(refused.status, 422);
    let headers = client.get(&format!("/v1/headers?kid={}&kid={}", kid(1), kid(60)));
    assert_eq!(headers.status, 200);
    let listed = client.get("/v1/keys");
    let key = keys[1].as_slice().try_into().unwrap();
    (key, [refused.body, headers.body, listed.body].concat())
}

/// The key that the planted seed gives the second KID, which the device acquired.
fn device_key_of_seed() -> [u8; 16] {
    use license_ledger::playready::key_seed::KeySeed;
    use license_ledger::playready::kid::Kid;
    *KeySeed::new(&SEED).unwrap().content_key(Kid::from(kid(2))).expose()
}

#[test]
fn the_search_finds_a_secret_in_each_of_its_forms() {
    let secret = Secret::binary("a key", &CONTENT_KEY);
    let found =
        |bytes: &[u8]| std::panic::catch_unwind(|| secret.check("somewhere", bytes)).is_err();
    let surrounded = |before: &[u8]| [before, &CONTENT_KEY[..], b"and more"].concat();
    assert!(found(&surrounded(b"raw")));
    assert!(found(format!("{CONTENT_KEY:?}").as_bytes()));
    assert!(found(HEXUPPER.encode(&surrounded(b"x")).as_bytes()));
    for before in [&b""[..], b"1", b"12", b"123"] {
        assert!(found(BASE64.encode(&surrounded(before)).as_bytes()));
        assert!(found(BASE64URL_NOPAD.encode(&surrounded(before)).as_bytes()));
    }
    assert!(!found(b"nothing of the kind"));
}
