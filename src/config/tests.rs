use super::*;

fn load_file(text: &str) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.toml");
    std::fs::write(&path, text).unwrap();
    Sources { file: Some(path), ..Sources::default() }.load()
}

fn load_env(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env = variables.iter().map(|(name, value)| (name.into(), value.into()));
    Sources { env: env.collect(), ..Sources::default() }.load()
}

/// An acceptable value of a kind, different from every default.
fn sample(kind: Kind) -> String {
    match kind {
        Kind::Bool => "true".to_owned(),
        Kind::Integer(_, most) => most.to_string(),
        Kind::OneOf(words) => words.last().unwrap().to_string(),
        Kind::Address => "127.0.0.2:1".to_owned(),
        Kind::Path => "/somewhere/else".to_owned(),
        Kind::Id16 => "AAECAwQFBgcICQoLDA0ODw==".to_owned(),
        Kind::Origins => "https://player.example".to_owned(),
        Kind::Percents => "[50]".to_owned(),
        Kind::Tables => {
            r#"[{id = "a", url = "https://a.example", secret_files = ["/s"]}]"#.to_owned()
        }
        Kind::Text => "debug".to_owned(),
    }
}

#[test]
fn without_sources_everything_has_its_default() {
    assert_eq!(Sources::default().load().unwrap(), Config::default());
    assert_eq!(Config::default().listen.to_string(), "127.0.0.1:8290");
    assert_eq!(Config::default().quota.device_limit, 25);
    assert_eq!(Config::default().quota.licenses_per_slot, 16);
    assert_eq!(Config::default().replay.window_hours, 24);
    assert_eq!(Config::default().limits.body_bytes, 65_536);
}

#[test]
fn every_key_takes_effect_from_the_file_and_from_the_environment() {
    for key in KEYS {
        // A half-set pair is refused, and so is a way to authorize without its settings.
        if key.name.starts_with("tls.") || key.name == "authorize" {
            continue;
        }
        let text = sample(key.kind);
        let toml = key.kind.parse(&text).unwrap();
        let from_file = load_file(&format!("{} = {toml}", key.name)).unwrap();
        let from_env = load_env(&[(&key.env(), &text)]).unwrap();
        assert_ne!(from_file, Config::default(), "{}", key.name);
        assert_eq!(from_file, from_env, "{}", key.name);
    }
}

#[test]
fn a_whole_file_is_read() {
    let config = load_file(
        r#"
        listen = "[::1]:0"
        data = "/srv/ledger"
        authorize = "open"
        [tls]
        certificate = "/etc/tls/chain.pem"
        key = "/etc/tls/key.pem"
        [quota]
        device_limit = 3
        [rate]
        burst = 5
        per_key_per_minute = 6
        per_key_burst = 7
        [playready]
        sign_responses = "persistent"
        [log]
        format = "json"
        "#,
    )
    .unwrap();
    assert_eq!(config.quota, Quota { device_limit: 3, ..Quota::default() });
    let Rate { per_identity_per_minute, burst, per_key_per_minute, per_key_burst } = config.rate;
    let rates = [per_identity_per_minute, burst, per_key_per_minute, per_key_burst];
    assert_eq!(rates.map(NonZeroU32::get), [120, 5, 6, 7]);
    assert_eq!(config.playready.sign_responses, SignResponses::Persistent);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.tls.key.unwrap(), Path::new("/etc/tls/key.pem"));
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ledger.toml");
    std::fs::write(
        &file,
        "[quota]\ndevice_limit = 1\nlicenses_per_slot = 1\n[replay]\nwindow_hours = 1",
    )
    .unwrap();
    let env = |name: &str| (format!("{ENV_PREFIX}{name}").into(), "2".into());
    let flag = Flag { key: "quota.device_limit", flag: "--device-limit", value: "3".to_owned() };
    let sources = Sources {
        file: Some(file),
        env: vec![env("QUOTA_DEVICE_LIMIT"), env("QUOTA_LICENSES_PER_SLOT")],
        flags: vec![flag],
    };
    let config = sources.load().unwrap();
    assert_eq!(config.quota, Quota { device_limit: 3, licenses_per_slot: 2, ..Quota::default() });
    assert_eq!(config.replay.window_hours, 1);
}

#[test]
fn unknown_keys_are_refused_by_name() {
    for (text, name, meant) in [
        ("lisen = 1", "lisen in", "listen"),
        ("[quota]\ndevice_limits = 1", "quota.device_limits in", "quota.device_limit"),
        ("[quotas]\ndevice_limit = 1", "quotas.device_limit in", "quota.device_limit"),
        ("[quota.device_limit]\nmax = 1", "quota.device_limit in", "whole number"),
        ("[quota]\na.b = 1", "quota.a in", ""),
        ("[strange]", "strange in", ""),
        ("[listen]", "listen in", "IP address"),
    ] {
        let refused = load_file(text).unwrap_err().to_string();
        assert!(refused.starts_with(name) && refused.contains(meant), "{text:?}: {refused}");
    }
}

#[test]
fn unknown_variables_are_refused_by_name() {
    let refused = load_env(&[("LICENSE_LEDGER_QUOTA_DEVICE_LIMT", "1")]).unwrap_err().to_string();
    assert!(refused.contains("LICENSE_LEDGER_QUOTA_DEVICE_LIMT is no setting"), "{refused}");
    assert!(refused.contains("did you mean LICENSE_LEDGER_QUOTA_DEVICE_LIMIT?"), "{refused}");
}

#[test]
fn variables_of_others_and_the_documented_few_are_passed_over() {
    let variables =
        [("PATH", "/bin"), ("LICENSE_LEDGER_CONFIG", "x.toml"), ("LICENSE_LEDGER_TEST_LONG", "1")];
    assert_eq!(load_env(&variables).unwrap(), Config::default());
}

#[test]
fn a_bad_value_names_key_value_and_what_is_expected() {
    for (text, parts) in [
        ("[quota]\ndevice_limit = \"many\"", ["quota.device_limit", "\"many\"", "whole number"]),
        ("[quota]\ndevice_limit = -1", ["quota.device_limit", "-1", "from 0 to"]),
        ("[limits]\nbody_timeout_ms = 0", ["limits.body_timeout_ms", "is 0", "from 10 to"]),
        ("listen = \"localhost\"", ["listen", "localhost", "127.0.0.1:8290"]),
        ("authorize = \"all\"", ["authorize", "all", "one of open, token, callback"]),
        ("i_know = 1", ["i_know", "is 1", "true or false"]),
        ("[clearkey]\norigins = \"a.b/\"", ["clearkey.origins", "a.b/", "https://player.example"]),
        ("data = \"\"", ["data", "\"\"", "a path"]),
    ] {
        let refused = load_file(text).unwrap_err().to_string();
        assert!(parts.iter().all(|part| refused.contains(part)), "{text:?}: {refused}");
    }
    let refused = load_env(&[("LICENSE_LEDGER_RATE_BURST", "0")]).unwrap_err().to_string();
    assert!(refused.contains("LICENSE_LEDGER_RATE_BURST is \"0\""), "{refused}");
}

#[test]
fn a_variable_that_is_not_unicode_is_refused_by_name() {
    use std::os::unix::ffi::OsStringExt;
    let value = OsString::from_vec(b"/srv/\xFF".to_vec());
    let sources =
        Sources { env: vec![("LICENSE_LEDGER_DATA".into(), value)], ..Sources::default() };
    assert!(sources.load().unwrap_err().to_string().contains("LICENSE_LEDGER_DATA"));
}

#[test]
fn a_file_that_is_missing_or_not_toml_is_named() {
    let sources = Sources { file: Some("/nowhere/x.toml".into()), ..Sources::default() };
    assert!(sources.load().unwrap_err().to_string().contains("/nowhere/x.toml"));
    let refused = load_file("listen = = 1").unwrap_err();
    assert!(refused.to_string().contains("ledger.toml"), "{refused}");
    assert!(std::error::Error::source(&refused).unwrap().to_string().contains("line 1"));
}

#[test]
fn open_authorization_on_a_public_address_has_to_be_confirmed() {
    let refused = load_file("listen = \"0.0.0.0:8290\"").unwrap_err().to_string();
    assert!(refused.contains("0.0.0.0:8290") && refused.contains("--i-know"), "{refused}");
    assert!(load_file("listen = \"0.0.0.0:8290\"\ni_know = true").is_ok());
    assert!(load_file("listen = \"[::1]:8290\"").is_ok());
}

#[test]
fn a_way_to_authorize_names_the_setting_it_misses() {
    let token = "authorize = \"token\"\n[token]\nissuer = \"i\"\naudience = \"a\"\n";
    let callback = "authorize = \"callback\"\n[callback]\nurl = \"https://h/\"\n";
    let whole = format!("{callback}secret_file = \"s\"\n");
    for (text, named) in [
        ("authorize = \"token\"".to_owned(), "token.issuer"),
        ("authorize = \"token\"\n[token]\nissuer = \"i\"".to_owned(), "token.audience"),
        (token.to_owned(), "token.keys_file or token.keys_url"),
        (format!("{token}keys_file = \"f\"\nkeys_url = \"u\""), "both"),
        ("authorize = \"callback\"".to_owned(), "callback.url"),
        (callback.to_owned(), "callback.secret_file"),
        (format!("{whole}deadline_ms = 15000"), "limits.request_timeout_ms"),
    ] {
        let refused = load_file(&text).unwrap_err().to_string();
        assert!(refused.contains(named), "{text:?}: {refused}");
    }
    assert!(load_file(&format!("{token}keys_file = \"f\"")).is_ok());
    // Neither is for tests only.
    assert!(load_file(&format!("listen = \"0.0.0.0:1\"\n{whole}")).is_ok());
}

#[test]
fn clear_key_on_a_public_address_needs_tls_or_a_word() {
    let public = "listen = \"0.0.0.0:8290\"\n";
    let refused = load_file(&format!("{public}[clearkey]\nenabled = true")).unwrap_err();
    let refused = refused.to_string();
    for part in ["clearkey.enabled", "0.0.0.0:8290", "tls.certificate", "--i-know"] {
        assert!(refused.contains(part), "{refused}");
    }
    let tls = "[tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"";
    let secure = load_file(&format!("{public}[clearkey]\nenabled = true\n{tls}"));
    assert!(!secure.unwrap_err().to_string().contains("clearkey"), "only `authorize` is left");
    assert!(load_file(&format!("i_know = true\n{public}[clearkey]\nenabled = true")).is_ok());
    assert!(load_file("[clearkey]\nenabled = true").is_ok());
}

#[test]
fn plain_keys_for_packagers_on_a_public_address_need_tls_or_a_word() {
    const ELSEWHERE: &str = "0.0.0.0:8291";
    let listener = format!("[packaging]\nlisten = \"{ELSEWHERE}\"\n");
    let plain =
        "authorize = \"token\"\nlisten = \"0.0.0.0:8291\"\n[packaging]\nplain_keys = true\n";
    let token = "[token]\nissuer = \"i\"\naudience = \"a\"\nkeys_file = \"f\"\n";
    let tls = "[tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n";
    for (text, setting) in [
        (listener.clone(), "packaging.listen"),
        (format!("{listener}plain_keys = true\n"), "packaging.listen"),
        (format!("{plain}{token}"), "packaging.plain_keys"),
    ] {
        let refused = load_file(&text).unwrap_err().to_string();
        for part in [setting, ELSEWHERE, "tls.certificate", "--i-know"] {
            assert!(refused.contains(part), "{text}: {refused}");
        }
        load_file(&format!("{text}{tls}")).unwrap();
        load_file(&format!("i_know = true\n{text}")).unwrap();
    }
    load_file("[packaging]\nplain_keys = true\nlisten = \"[::1]:8291\"").unwrap();
}

#[test]
fn half_a_tls_pair_is_refused() {
    let refused = load_file("[tls]\nkey = \"k.pem\"").unwrap_err().to_string();
    assert!(refused.starts_with("tls.key is set but tls.certificate is not"), "{refused}");
}

#[test]
fn secrets_lie_beside_the_data_unless_told_otherwise() {
    let config = load_file("data = \"/srv/ledger/\"").unwrap();
    assert_eq!(config.data().unwrap(), Path::new("/srv/ledger"));
    assert_eq!(config.secrets().unwrap(), Path::new("/srv/ledger-secrets"));
    let config = load_file("data = \"/srv/ledger\"\nsecrets = \"/etc/keys\"").unwrap();
    assert_eq!(config.secrets().unwrap(), Path::new("/etc/keys"));
    let beside = load_file("data = \".\"").unwrap().secrets().unwrap();
    let here = std::env::current_dir().unwrap();
    assert_eq!(beside.parent(), here.parent());
    assert!(load_file("data = \"/\"").unwrap().secrets().is_err());
    let refused = Config::default().data().unwrap_err().to_string();
    assert!(refused.contains("--data DIR") && refused.contains("LICENSE_LEDGER_DATA"), "{refused}");
    assert!(Config::default().secrets().is_err());
}

fn endpoints(text: &str) -> Result<Vec<WebhookEndpoint>, ConfigError> {
    Ok(load_file(text)?.webhooks.endpoints)
}

const ENDPOINT: &str = "[[webhooks.endpoints]]\nid = \"a\"\nurl = \"https://a.example/in\"\n\
                        secret_files = [\"a.secret\"]\n";

#[test]
fn webhook_endpoints_are_tables_with_defaults() {
    let read = endpoints(&format!("{ENDPOINT}{}", ENDPOINT.replace("\"a\"", "\"b\""))).unwrap();
    assert_eq!(read.iter().map(|endpoint| endpoint.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let endpoint = &read[0];
    assert_eq!(endpoint.secret_files, [Path::new("a.secret")]);
    assert_eq!((endpoint.timeout_seconds, endpoint.in_flight), (20, 1));
    assert_eq!((endpoint.allow_private, endpoint.allow_http), (false, false));
    assert_eq!((endpoint.from, endpoint.types.len()), (None, 0));
    assert_eq!(Config::default().webhooks.thresholds_percent, [80, 100]);
    let from_env = load_env(&[(
        "LICENSE_LEDGER_WEBHOOKS_ENDPOINTS",
        r#"[{id = "a", url = "https://a.example/in", secret_files = ["a.secret"]}]"#,
    )]);
    assert_eq!(from_env.unwrap().webhooks.endpoints, endpoints(ENDPOINT).unwrap());
}

#[test]
fn a_webhook_endpoint_that_cannot_work_is_refused_by_name() {
    for (line, named) in [
        ("id = \"A b\"", "id"),
        ("url = \"http://a.example\"", "allow_http"),
        ("secret_files = []", "secret_files"),
        ("timeout_seconds = 0", "timeout_seconds"),
        ("timeout_seconds = 61", "timeout_seconds"),
        ("in_flight = 0", "in_flight"),
        ("in_flight = 65", "in_flight"),
        ("secret = \"x\"", "unknown field `secret`"),
    ] {
        let key = line.split(' ').next().unwrap();
        let mut text: String =
            ENDPOINT.lines().filter(|l| !l.starts_with(key)).map(|l| format!("{l}\n")).collect();
        text.push_str(line);
        let error = endpoints(&text).unwrap_err();
        let shown = format!("{error}: {:?}", std::error::Error::source(&error));
        assert!(shown.contains(named), "{line}: {shown}");
    }
    let twice = endpoints(&format!("{ENDPOINT}{ENDPOINT}")).unwrap_err().to_string();
    assert!(twice.contains("two endpoints"), "{twice}");
    let http = format!("{}allow_http = true", ENDPOINT.replace("https:", "http:"));
    assert!(endpoints(&http).unwrap()[0].allow_http);
    let misspelled = load_file(&ENDPOINT.replace("endpoints", "endpoint")).unwrap_err().to_string();
    assert!(misspelled.contains("did you mean webhooks.endpoints"), "{misspelled}");
}
