//! The same for what authorizes: tokens, the keys to verify or sign with, ids of people and devices.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::*;
use crate::authorize::{Answer, Issuer, Server, license, with_token};

const WEBHOOK_SECRET: [u8; 31] = *b"\x9cw3bh00k-secret\xd1\x07!\xee-of-32-b\x80yte";
const HOOK_SECRET: [u8; 32] = *b"\x8eh00k-\xf3-shared-secret-of-32-b\x90\x1b\x1b";
const HOOK_SEED: [u8; 32] = *b"\xb1h00k-\x87-ed25519-seed-of-32-b\xc4\x05\x05\x05";
const HOOK_TOKEN: &str = "hook-url-canary-Xt5";
const ACCOUNT: &str = "account-canary-Qk7@example";
const DEVICE: &str = "device-canary-Wv3";
const JTI: &str = "jti-canary-Lm2";

/// Claims for the wall clock, by which the program goes.
fn claims(jti: &str, license: Value) -> Value {
    let now_s = license_ledger::clock::Clock::System.now().seconds();
    let mut claims = crate::authorize::claims(jti, license);
    claims["nbf"] = json!(now_s - 60);
    claims["exp"] = json!(now_s + 3600);
    claims
}

fn named(mut license: Value) -> Value {
    license["account"] = ACCOUNT.into();
    license["device"] = DEVICE.into();
    license
}

#[test]
fn nothing_that_authorizes_is_written_or_told_anywhere() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (data, data_arg) = (path("data"), path("data").display().to_string());
    let issuer = Issuer::new("HS256", "canary-key");
    fs::write(path("keys.json"), crate::authorize::key_set(&[&issuer])).unwrap();
    fs::write(path("secret"), format!("whsec_{}", BASE64.encode(&WEBHOOK_SECRET))).unwrap();
    fs::set_permissions(path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let content = json!({ kid(1).to_string(): HEXLOWER.encode(&CONTENT_KEY) });
    fs::write(path("content.json"), content.to_string()).unwrap();
    let start = |settings: Value| {
        let log = json!({"level": "debug,license_ledger=trace"});
        let mut config: toml::Table = serde_json::from_value(settings).unwrap();
        config.insert("log".to_owned(), toml::Value::try_from(log).unwrap());
        fs::write(path("config.toml"), config.to_string()).unwrap();
        Serving::start(&data, &["--config", path("config.toml").to_str().unwrap()])
    };

    let service = start(json!({"authorize": "token", "token": {
        "issuer": "https://video.example", "audience": "license-ledger",
        "keys_file": path("keys.json"),
    }}));
    let content = path("content.json").display().to_string();
    run(&["keys", "import", "--data", &data_arg, &content]).ok();
    let admin_key = service.admin_key.clone().unwrap();
    let client = service.client(&admin_key);
    let device = make_device(&service.pki, "canary", SecurityLevel::Software);
    let mut said = Vec::new();
    let good = claims(JTI, named(license(&[kid(1)])));
    let mut tokens = vec![issuer.token(&good), issuer.token(&good)];
    for (member, wrong) in [
        ("exp", json!(1)),
        ("aud", json!(ACCOUNT)),
        ("iss", json!(DEVICE)),
        ("license", json!({"account": ACCOUNT, "keys": ACCOUNT})),
        ("license", json!({"account": ACCOUNT.repeat(20), "keys": []})),
        ("license", named(license(&[kid(1), kid(1)]))),
    ] {
        let mut claims = good.clone();
        claims[member] = wrong;
        tokens.push(issuer.token(&claims));
    }
    tokens.push(format!("{}x", tokens[0]));
    for token in &tokens {
        said.extend(client.challenge(&device.ask(&with_token(&[kid(1)], token)), "").body);
    }
    let asked = device.ask(&crate::device::request(&[kid(1)]));
    said.extend(client.challenge(&asked, &format!("token={}", tokens[2])).body);
    service.stop();

    let wrong_account = json!({"decision": "allow", "license": {"account": [ACCOUNT], "keys": []}});
    let answers = [
        Answer::json(&json!({"decision": "allow", "license": named(license(&[kid(1)]))})),
        Answer::json(&wrong_account),
        Answer::json(&json!({ "decision": ACCOUNT })),
        Answer::Body(404, ACCOUNT.into()),
        Answer::Body(200, ACCOUNT.into()),
    ];
    let count = answers.len();
    let server = Server::start(move |n, _| answers[n].clone());
    let hooks = Server::start(|n, _| Answer::Body([500, 200][n % 2], HOOK_TOKEN.into()));
    let text = format!("whsec_{}", BASE64.encode(&HOOK_SECRET));
    let shared = crate::webhooks::secret_file(dir.path(), "shared", &text);
    let text = format!("whsk_{}", BASE64.encode(&HOOK_SEED));
    let private = crate::webhooks::secret_file(dir.path(), "private", &text);
    let service = start(json!({
        "authorize": "callback",
        "callback": {"url": server.url, "secret_file": path("secret")},
        "webhooks": {"endpoints": [{
            "id": "canary", "url": format!("{}?key={HOOK_TOKEN}", hooks.url), "from": 0,
            "secret_files": [shared, private], "allow_http": true, "allow_private": true,
        }]},
    }));
    let client = service.client(&admin_key);
    for _ in 0..count {
        let request = with_token(&[kid(1)], CUSTOM_DATA);
        said.extend(client.challenge(&device.ask(&request), "").body);
    }
    assert_eq!(server.asked().len(), count);
    crate::webhooks::eventually("webhooks fail and are delivered", || hooks.asked().len() > 1);
    for path in ["/v1/webhooks", "/v1/webhooks/canary", "/v1/webhooks/x", "/metrics"] {
        said.extend(client.get(path).body);
    }
    said.extend(hooks.asked().into_iter().flat_map(|asked| asked.body));
    service.stop();
    said.extend(run(&["events", "--json", "--data", &data_arg]).ok().stdout.bytes());
    let events = String::from_utf8_lossy(&said).into_owned();
    for kind in ["token-spent.v1", "\"token\"", "\"callback\""] {
        assert!(events.contains(kind), "{kind}: {events}");
    }

    let jwk = issuer.jwk();
    let key = BASE64URL_NOPAD.decode(jwk["k"].as_str().unwrap().as_bytes()).unwrap();
    let mut secrets = vec![
        Secret::binary("the key of the tokens", &key),
        Secret::binary("the webhook secret", &WEBHOOK_SECRET),
        Secret::binary("the shared secret of an endpoint", &HOOK_SECRET),
        Secret::binary("the private key of an endpoint", &HOOK_SEED),
        Secret::text("the query of an endpoint's URL", HOOK_TOKEN),
        Secret::text("an account", ACCOUNT),
        Secret::text("a device", DEVICE),
        Secret::text("a token's id", JTI),
        Secret::text("custom data", CUSTOM_DATA),
    ];
    for token in &tokens {
        secrets.push(Secret::text("a token", token));
        secrets.push(Secret::text("a signature", token.rsplit('.').next().unwrap()));
    }
    let written = files(&data).into_iter().chain([data.with_extension("log")]);
    let written: Vec<_> = written.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    let log = fs::read_to_string(data.with_extension("log")).unwrap();
    for warned in ["the token is refused", "callback failed", "webhooks to canary fail"] {
        assert!(log.contains(warned), "{warned}: {log}");
    }
    for secret in &secrets {
        secret.check("what was answered and printed", &said);
        for (path, bytes) in &written {
            secret.check(&path.display().to_string(), bytes);
        }
    }
}
