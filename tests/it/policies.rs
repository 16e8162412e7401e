//! Every policy from the policy string through the wire to a device that enforces it.

use license_ledger::playready::acquire::AcquireRequest;
use license_ledger::playready::content_key::{ContentKey, KeyType};
use license_ledger::playready::kid::Kid;
use license_ledger::playready::policy::{LicensePolicy, SecurityLevel};
use license_ledger::simulator::{Device as Player, Sample, SimulatorError, Unplayable, Wanted};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::device::{fresh_nonce, kid, refused, request, seed_key, words};
use crate::key_types::detail;
use crate::service::{NOW_S, Setup, TestService};

const MEDIA: &[u8] = b"a picture of a cat, and more than one block of it";

/// Asks for one KID under this policy string.
pub fn wanted(kid: Uuid, cfg: &str) -> Wanted {
    Wanted { cfg: Some(cfg.to_owned()), ..Wanted::one(Kid::from(kid)) }
}

/// Content of a KID whose key is that of the published seed.
pub fn sample(kid: Uuid, key_type: KeyType) -> Sample {
    Sample::encrypt(&ContentKey::new(seed_key(kid)), key_type, [9; 16], MEDIA)
}

/// Plays one sample: the pictures are right, or the reason why there are none.
pub fn play(player: &mut Player, kid: Uuid, key_type: KeyType) -> Result<(), Unplayable> {
    match player.play(Kid::from(kid), &sample(kid, key_type)) {
        Ok(media) => {
            assert_eq!(media, MEDIA);
            Ok(())
        }
        Err(SimulatorError::CannotPlay { because, .. }) => Err(because),
        Err(other) => panic!("{other}"),
    }
}

fn plays(player: &mut Player) -> Result<(), Unplayable> {
    play(player, kid(1), KeyType::AesCtr)
}

/// The policy that a request with this policy string is answered with.
fn granted(service: &TestService, player: &mut Player, cfg: &str) -> LicensePolicy {
    let acquired = player.acquire(&service.endpoint(), &wanted(kid(1), cfg));
    let acquired = acquired.unwrap_or_else(|error| panic!("{cfg}: {error:?}"));
    acquired.answer.licenses[0].opened.policy.clone()
}

/// `seconds` after the time of the tests, as policy strings write it.
fn date(seconds: u64) -> String {
    // 2023-11-14T22:13:20Z
    let of_day = 22 * 3600 + 13 * 60 + 20 + seconds;
    let (day, rest) = (14 + of_day / 86_400, of_day % 86_400);
    format!("202311{day:02}{:02}{:02}{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

fn at(seconds: u64) -> u64 {
    NOW_S + seconds
}

#[test]
fn begin_end_and_grace_are_kept() {
    let service = TestService::new();
    let mut player = service.player("dates", SecurityLevel::Software);
    let cfg =
        format!("(persist:true,begindate:{},enddate:{},graceperiod:50)", date(100), date(200));
    granted(&service, &mut player, &cfg);
    assert_eq!(plays(&mut player), Err(Unplayable::NotBegun(at(100))));
    service.advance_s(100);
    assert_eq!(plays(&mut player), Ok(()));
    service.advance_s(149);
    assert_eq!(plays(&mut player), Ok(()), "within the grace period");
    service.advance_s(1);
    assert_eq!(plays(&mut player), Err(Unplayable::Ended(at(250))));
}

#[test]
fn the_first_play_starts_a_time_that_outlives_the_process() {
    let service = TestService::new();
    let mut player = service.player("rental", SecurityLevel::Software);
    granted(&service, &mut player, "(persist:true,firstplayexpiration:60)");
    service.advance_s(1_000);
    assert_eq!(plays(&mut player), Ok(()), "it counts from the first use");
    drop(player);
    let mut player = service.same_player("rental");
    service.advance_s(59);
    assert_eq!(plays(&mut player), Ok(()));
    service.advance_s(1);
    let over = Unplayable::FirstPlayOver { first_play: at(1_000), over: at(1_060) };
    assert_eq!(plays(&mut player), Err(over));
    // The ledger does not see the first play, and counts the license until it is deleted.
    assert_eq!(player.store().licenses().len(), 1);

    let mut player = service.player("stream", SecurityLevel::Software);
    granted(&service, &mut player, "(firstplayexpiration:60)");
    assert_eq!(plays(&mut player), Ok(()));
    service.advance_s(60);
    assert!(matches!(plays(&mut player), Err(Unplayable::FirstPlayOver { .. })));
}

#[test]
fn real_time_expiration_stops_what_plays() {
    let service = TestService::new();
    let mut player = service.player("live", SecurityLevel::Software);
    let real_time = format!("(realtime:true,enddate:{})", date(60));
    let at_start = format!("(kid:{},enddate:{})", kid(2), date(60));
    let two = Wanted { keys: [kid(1), kid(2)].map(key).to_vec(), ..wanted(kid(1), "") };
    let cfg = format!("(kid:{},{},{at_start}", kid(1), &real_time[1..]);
    player.acquire(&service.endpoint(), &Wanted { cfg: Some(cfg), ..two }).unwrap();
    let live = player.start(Kid::from(kid(1))).unwrap();
    let film = player.start(Kid::from(kid(2))).unwrap();
    assert_eq!((live.term.stops_at, live.term.valid_until), (Some(at(60)), Some(at(60))));
    assert_eq!((film.term.stops_at, film.term.valid_until), (None, Some(at(60))));
    let show = |playback: &license_ledger::simulator::Playback, number| {
        playback.decrypt(&sample(kid(number), KeyType::AesCtr)).is_ok()
    };
    service.advance_s(59);
    assert!(show(&live, 1) && show(&film, 2));
    service.advance_s(1);
    assert!(!show(&live, 1), "real time was not kept");
    assert!(show(&film, 2), "what has begun is played to its end");
    for number in [1, 2] {
        assert_eq!(play(&mut player, kid(number), KeyType::AesCtr), Err(Unplayable::Ended(at(60))));
    }
}

fn key(kid: Uuid) -> license_ledger::simulator::WantedKey {
    license_ledger::simulator::WantedKey { kid: Kid::from(kid), checksum: None }
}

#[test]
fn a_removal_date_takes_the_license_away_and_frees_its_slot() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let mut player = service.player("removal", SecurityLevel::Software);
    granted(&service, &mut player, &format!("(persist:true,removaldate:{})", date(60)));
    service.advance_s(59);
    assert_eq!(plays(&mut player), Ok(()));
    assert_eq!(player.store().licenses().len(), 1);
    service.advance_s(1);
    assert_eq!(plays(&mut player), Err(Unplayable::NotHeld));
    assert_eq!(player.store().licenses(), []);
    assert_eq!(player.store().deletions(), [], "nobody has to be told");
    // It is gone, here and there.
    let next = player.acquire(&service.endpoint(), &wanted(kid(2), "(persist:true)"));
    assert!(next.is_ok(), "{:?}", next.err());
}

#[test]
fn only_what_is_persistent_is_kept() {
    let service = TestService::new();
    for (name, cfg, kept) in [
        ("stored", "(persist:true)", true),
        ("streamed", "(persist:false)", false),
        ("simple", "(simple:true)", false),
    ] {
        let mut player = service.player(name, SecurityLevel::Software);
        granted(&service, &mut player, cfg);
        assert_eq!(plays(&mut player), Ok(()));
        drop(player);
        let again = plays(&mut service.same_player(name));
        assert_eq!(again, if kept { Ok(()) } else { Err(Unplayable::NotHeld) }, "{cfg}");
    }
}

/// Conditions of output and the like are carried and not enforced: what was asked for in each of
/// the three forms is what the device reads.
#[test]
fn every_other_condition_reaches_the_device() {
    let service =
        Setup::default().with("playready.secure_stop_id", "AAECAwQFBgcICQoLDA0ODw==").start();
    let mut player = service.player("conditions", SecurityLevel::Software);
    let id = "abb2c6f1-e663-4625-a945-972d17b231e7";
    let unknown = "786627d8-c2a6-44be-8f88-08ae255b01a7";
    let rows: Vec<(&str, Value)> = vec![
        ("sl:2000", json!({"sl": 2000})),
        ("caopl:100,ucaopl:250", json!({"caopl": 100, "ucaopl": 250})),
        ("cvopl:400,ucvopl:271,avopl:150", json!({"cvopl": 400, "ucvopl": 271, "avopl": 150})),
        ("sourceid:267", json!({"source_id": 267})),
        (
            "dvop:(guid:abb2c6f1-e663-4625-a945-972d17b231e7,data:AAAAAQ==)",
            json!({"dvop": [{"id": id, "data": "AAAAAQ=="}]}),
        ),
        (
            "maxres:1920x1080",
            json!({"dvop": [{
                "id": "9645e831-e01d-4fff-8342-0a720e3e028f", "data": "AAAEOAAAB4A="
            }]}),
        ),
        (
            "daop:(guid:6d5cfa59-c250-4426-930e-fac72c8fcfa6)",
            json!({"daop": [{"id": "6d5cfa59-c250-4426-930e-fac72c8fcfa6", "data": ""}]}),
        ),
        (
            "explicitacp:2",
            json!({"avop": [{
                "id": "c3fd11c6-f8b7-4d20-b008-1db17d61f2da", "data": "AgAAAA=="
            }]}),
        ),
        ("allowunknownhd:true", json!({"play_enablers": [unknown]})),
        (
            "playenablers:(786627d8-c2a6-44be-8f88-08ae255b01a7)",
            json!({"play_enablers": [unknown]}),
        ),
        (
            "extendedrestrictions:(type:400,mustunderstand:false,besteffort:true,data:AQI=)",
            json!({"extended_restrictions": [{
                "type": 400, "must_understand": false, "best_effort": true, "data": "AQI="
            }]}),
        ),
        ("securestop:true", json!({"secure_stop_id": "AAECAwQFBgcICQoLDA0ODw=="})),
    ];
    for (pairs, expected) in rows {
        let policy = granted(&service, &mut player, &format!("({pairs})"));
        let mut all = json!({"sl": 150});
        all.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
        assert_eq!(serde_json::to_value(&policy).unwrap(), all, "{pairs}");
        assert_eq!(plays(&mut player), Ok(()), "{pairs}");
    }
    let required = "(extendedrestrictions:(type:400))";
    let refused = player.acquire(&service.endpoint(), &wanted(kid(1), required));
    assert!(matches!(refused.err(), Some(SimulatorError::License { .. })), "not understood");
}

#[test]
fn several_licenses_with_policies_of_their_own_share_a_response() {
    let service = TestService::new();
    let mut player = service.player("several", SecurityLevel::Software);
    let cfg = format!(
        "(kid:{},persist:true,enddate:{}),(kid:{},firstplayexpiration:10,cvopl:500),(kid:{},sl:2000)",
        kid(1),
        date(100),
        kid(2),
        kid(3),
    );
    let keys = [kid(1), kid(2), kid(3)].map(key).to_vec();
    let wanted = Wanted { keys, ..wanted(kid(1), &cfg) };
    let acquired = player.acquire(&service.endpoint(), &wanted).unwrap();
    let policies: Vec<_> = acquired.answer.licenses.iter().map(|l| &l.opened.policy).collect();
    assert_eq!(policies[0].end, Some(u32::try_from(at(100)).unwrap()));
    assert_eq!((policies[1].first_play_seconds, policies[1].cvopl), (Some(10), 500));
    assert_eq!((policies[2].sl, policies[2].cvopl), (SecurityLevel::Software, 0));
    for number in 1..=3 {
        assert_eq!(play(&mut player, kid(number), KeyType::AesCtr), Ok(()));
    }
}

#[test]
fn combinations_that_exclude_each_other_are_refused_by_name() {
    let service = TestService::new();
    let device = service.device("conflicts");
    let root = kid(9);
    let rows = [
        ("(begindate:20240102,enddate:20240101)", "begin_not_before_end"),
        // Begin is set with every end.
        ("(enddate:20230101)", "begin_not_before_end"),
        ("(begindate:20230101,enddate:20230102)", "end_passed"),
        ("(begindate:20230101,enddate:20230102,graceperiod:5)", "end_passed"),
        ("(persist:true,removaldate:20230101)", "removal_passed"),
        ("(removaldate:20240101)", "removal_needs_persistent"),
        ("(persist:true,removaldate:20240101,begindate:20230101)", "removal_excludes_other_limits"),
        ("(persist:true,removaldate:20240101,enddate:20240101)", "removal_excludes_other_limits"),
        ("(persist:true,removaldate:20240101,firstexp:9)", "removal_excludes_other_limits"),
        (
            "(persist:true,removaldate:20240101,extendedrestrictions:(type:400))",
            "removal_excludes_other_limits",
        ),
        ("(realtime:true)", "realtime_needs_expiration"),
        ("(graceperiod:5)", "grace_needs_end"),
        ("(graceperiod:5,firstexp:9)", "grace_needs_end"),
        ("(persist:true,securestop:true)", "secure_stop_needs_non_persistent"),
        ("(simple:true,persist:true)", "simple_is_non_persistent"),
        ("(isroot:true)", "root_needs_kid"),
        (&format!("(isroot:true,kid:{root},rootid:{root})"), "root_with_root"),
        (&format!("(rootid:{root})"), "root_missing"),
        (&format!("(rootid:{root},persist:true),(isroot:true,kid:{root})"), "root_persistence"),
        (&format!("(kid:{root}),(isroot:true,kid:{root})"), "root_kid_reserved"),
        (
            "(ck:eNqVnXrElmo2NSsn7IXeEA==,keyseed:XVBovsmzhP9gRIZxWfFta3VVRPzVEWmJsazEJ46I)",
            "key_and_seed",
        ),
        (&format!("(tid:{root}),(tid:{})", kid(8)), "two_transaction_ids"),
    ];
    let refusal = |request: &AcquireRequest, cfg: &str| {
        let fault = device.acquire(&service.client, request, &format!("cfg={cfg}")).err();
        let fault = fault.unwrap_or_else(|| panic!("accepted {cfg}"));
        let data: Value = serde_json::from_str(&fault.custom_data.unwrap()).unwrap();
        (data["error"].as_str().unwrap().to_owned(), data["detail"].as_str().unwrap().to_owned())
    };
    let invalid = |detail: &str| ("invalid_policy".to_owned(), detail.to_owned());
    for (cfg, detail) in rows {
        assert_eq!(refusal(&request(&[kid(1)]), cfg), invalid(detail), "{cfg}");
    }
    let two = request(&[kid(1), kid(2)]);
    let one_key = "(ck:eNqVnXrElmo2NSsn7IXeEA==)";
    assert_eq!(refusal(&two, one_key), invalid("content_key_needs_one_kid"));
    for (cfg, named) in [
        ("(ck:eNqVnXrElmo2NSsn7IXeEA==),()", "two content keys"),
        ("(ckt:aescbc),(ckt:aesctr)", "two types"),
        ("(accountid:AAECAwQFBgcICQoLDA0ODw==)", "domains"),
        ("(securestop:true)", "metering id"),
    ] {
        let (error, detail) = refusal(&request(&[kid(1)]), cfg);
        assert_eq!(error, "invalid_cfg", "{cfg}");
        assert!(detail.contains(named), "{cfg}: {detail}");
    }
    assert_eq!(service.replay().acquired.len(), 0);
}

#[test]
fn a_key_for_cbc_plays_content_in_cbc_only() {
    let service = TestService::new();
    let mut player = service.player("cbc", SecurityLevel::Software);
    granted(&service, &mut player, "(ckt:aescbc)");
    assert_eq!(play(&mut player, kid(1), KeyType::AesCbc), Ok(()));
    assert_eq!(play(&mut player, kid(1), KeyType::AesCtr), Err(Unplayable::KeyType("aescbc")));
}

/// A client that does not say that it handles CBC gets no key for it, and one that says so in its
/// secure environment does.
#[test]
fn a_key_for_cbc_is_refused_to_clients_that_do_not_handle_it() {
    let service = TestService::new();
    let ctr_only = service.device("ctr-only").with_features(&[], &[]);
    let in_ree = service.device("in-ree").with_features(&["OTHER"], &["AESCBCS"]);
    for (device, accepted) in [(ctr_only, false), (in_ree, true)] {
        let ask = |query| device.acquire(&service.client, &request(&[kid(1)]), query).err();
        let expected = (!accepted).then(|| refused("aescbc_unsupported"));
        assert_eq!(ask("cfg=(ckt:aescbc)").map(|fault| words(&fault)), expected);
        assert!(ask("cfg=(ckt:aesctr)").is_none());
    }
}

#[test]
fn what_is_known_of_the_client_is_told_to_it() {
    let service = TestService::new();
    let device = service.device("curious").with_features(&["AESCBC", "\u{e9}"], &[]);
    let told = |request: &AcquireRequest| {
        let fault = device.acquire(&service.client, request, "cfg=(msg:clientinfo)").err().unwrap();
        assert_eq!(fault.code.number(), 0x8004_C604);
        let text = fault.custom_data.unwrap();
        assert!(text.is_ascii(), "{text}");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let bare = json!({
        "error": "client_info", "client_version": null, "client_time": null,
        "features": ["AESCBC", "\u{e9}"], "security_level": 2000, "device": device.identity(),
    });
    assert_eq!(told(&request(&[kid(1)])), bare);
    let full = AcquireRequest {
        client_version: Some("10.0.16384.10011".to_owned()),
        client_time: Some(NOW_S + 5),
        ..request(&[kid(1)])
    };
    let said = told(&full);
    assert_eq!(
        (&said["client_version"], &said["client_time"]),
        (&json!("10.0.16384.10011"), &json!(NOW_S + 5))
    );
    // What comes first is looked at first: a fault, then the revocation, then this.
    for (cfg, code) in [
        ("(msg:clientinfo),(revoked:true),(errorcode:8004C60D)", 0x8004_C60D),
        ("(msg:clientinfo,revoked:true)", 0x8004_C065),
    ] {
        let query = format!("cfg={cfg}");
        let fault = device.acquire(&service.client, &request(&[kid(1)]), &query).err().unwrap();
        assert_eq!(fault.code.number(), code, "{cfg}");
    }
    assert_eq!(service.replay().acquired.len(), 0);
}

#[test]
fn begin_comes_with_every_end_from_the_clock_of_those_who_have_one() {
    let service = TestService::new();
    let device = service.device("clocks");
    let modern = Some("10.0.16384.10011".to_owned());
    let begin = |version: Option<&str>, time: Option<u64>, cfg: &str| {
        let request = AcquireRequest {
            client_version: version.map(str::to_owned),
            client_time: time,
            nonce: fresh_nonce(),
            ..request(&[kid(1)])
        };
        let acquired = device.acquire(&service.client, &request, &format!("cfg={cfg}"));
        acquired.map(|a| a.licenses[0].policy.begin.map(u64::from)).map_err(|fault| words(&fault))
    };
    let ends = "(enddate:20231201)";
    let skewed = || Err(refused("clock_skew"));
    let version = modern.as_deref();
    let slack = Ok(Some(NOW_S - 300));
    for (version, time, expected) in [
        (version, Some(NOW_S - 3_600), Ok(Some(NOW_S - 3_600))),
        (version, Some(NOW_S + 3_600), Ok(Some(NOW_S + 3_600))),
        (version, Some(NOW_S - 3_601), skewed()),
        (Some("3.1.0.1017"), Some(NOW_S + 3_601), skewed()),
        (Some("3.1.0.1017"), Some(0), skewed()),
        (version, None, slack.clone()),
        (Some("2.9"), Some(NOW_S + 100_000), slack.clone()),
        (Some("1.0"), Some(NOW_S), slack.clone()),
        (None, Some(NOW_S), slack.clone()),
        (None, None, slack),
    ] {
        assert_eq!(begin(version, time, ends), expected, "{version:?} {time:?}");
        let explicit = begin(version, time, "(begindate:20231101,enddate:20231201)");
        assert_eq!(explicit, Ok(Some(1_698_796_800)), "an explicit begin is kept");
        assert_eq!(begin(version, time, "(firstexp:60)"), Ok(None));
    }
    let real_time = "(realtime:true,firstexp:60)";
    for (version, accepted) in [(Some("2.9"), false), (None, false), (Some("3.0"), true)] {
        let expected = if accepted { Ok(None) } else { Err(refused("realtime_unsupported")) };
        assert_eq!(begin(version, None, real_time), expected, "{version:?}");
    }
}

#[test]
fn more_licenses_than_one_request_is_granted_are_refused_with_the_limit_named() {
    let service = TestService::new();
    let device = service.device("greedy");
    let kids: Vec<_> = (1..=300).map(kid).collect();
    let events = service.event_count();
    for (kids, query) in [(&kids[..], ""), (&kids[..251], ""), (&kids[..126], "cfg=(),()")] {
        let fault = device.acquire(&service.client, &request(kids), query).err().unwrap();
        let (word, text) = detail(&fault);
        assert!(word == "invalid_cfg" && text.starts_with("kid: "), "{word} {text}");
        assert!(text.contains("at most 250"), "{text}");
    }
    assert_eq!(service.event_count(), events);
    let most = device.acquire(&service.client, &request(&kids[..125]), "cfg=(),()").unwrap();
    assert_eq!(most.licenses.len(), 250);
}
