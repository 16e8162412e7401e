use data_encoding::BASE64;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../../tests/golden/cfg.json")).unwrap()
}

/// All members of a group, under the names of section 10.
fn members(group: &Group) -> Map<String, Value> {
    let mut all = golden()["default"].as_object().unwrap().clone();
    let conditions = serde_json::to_value(&group.conditions).unwrap();
    all.extend(conditions.as_object().unwrap().clone());
    let kid = match group.kid {
        KidChoice::Header => "header".to_owned(),
        KidChoice::Kid(kid) => kid.to_string(),
    };
    let key_type = group.content_key_type.map(|choice| match choice {
        KeyTypeChoice::Content(key_type) => json!(key_type),
        KeyTypeChoice::KeyExchange => json!("keyexchange"),
    });
    let rights = group.extended_rights.iter();
    let rights: Vec<_> = rights
        .map(|right| json!({"type": right.kind, "restrictions": right.restrictions}))
        .collect();
    let others = json!({
        "kid": kid,
        "simple": group.simple,
        "key_seed": group.key_seed.as_ref().map(|seed| BASE64.encode(seed.expose())),
        "content_key": group.content_key.as_ref().map(|key| BASE64.encode(key.expose())),
        "content_key_type": key_type,
        "transaction_id": group.transaction_id,
        "play": group.play,
        "read": group.read,
        "execute": group.execute,
        "extended_rights": rights,
        "root": group.root,
        "root_kid": group.root_kid.map(|kid| kid.to_string()),
        "message": group.client_info.then_some("clientinfo"),
        "error_code": group.error_code,
        "revoked": group.revoked,
        "account_id": group.account_id,
        "secure_stop": group.secure_stop,
    });
    all.extend(others.as_object().unwrap().clone());
    all
}

/// The groups that the golden file means, where it lists only what differs from the default.
fn expected(case: &Value) -> Vec<Map<String, Value>> {
    let groups = case["groups"].as_array().unwrap().iter();
    groups
        .map(|group| {
            let mut all = golden()["default"].as_object().unwrap().clone();
            all.extend(group.as_object().unwrap().clone());
            all
        })
        .collect()
}

fn all_members(groups: &[Group]) -> Vec<Map<String, Value>> {
    groups.iter().map(members).collect()
}

fn refusal<T>(outcome: Result<T, Refusal>) -> Refusal {
    outcome.err().expect("was accepted")
}

fn detail(cfg: &str) -> String {
    match refusal(from_cfg(cfg)) {
        Refusal::InvalidCfg(detail) => detail,
        other => panic!("{cfg}: {other}"),
    }
}

#[test]
fn golden_strings_are_read() {
    for case in golden()["valid"].as_array().unwrap() {
        let cfg = case["cfg"].as_str().unwrap();
        let groups = from_cfg(cfg).unwrap_or_else(|refusal| panic!("{cfg}: {refusal}"));
        assert_eq!(all_members(&groups), expected(case), "{cfg}");
        let query = format!("other=1&cfg={}", cfg.replace(':', "%3A"));
        let groups = from_request(&query, Some("free text")).ok().unwrap();
        assert_eq!(all_members(&groups), expected(case), "{query}");
    }
}

#[test]
fn golden_malformed_strings_are_refused() {
    for case in golden()["malformed"].as_array().unwrap() {
        let refusal = refusal(from_cfg(case["cfg"].as_str().unwrap()));
        assert_eq!(refusal.error(), case["error"], "{}", case["cfg"]);
    }
}

#[test]
fn golden_conflicts_are_named() {
    for case in golden()["conflicting"].as_array().unwrap() {
        if case["detail"] == Conflict::RootMissing.to_string() {
            // The device may hold the root: the string alone is right, and says who must decide.
            let groups = from_cfg(case["cfg"].as_str().unwrap()).ok().unwrap();
            let root_kid = groups[0].root_kid.unwrap();
            assert!(root_group(&groups, root_kid).is_none(), "{}", case["cfg"]);
            continue;
        }
        match refusal(from_cfg(case["cfg"].as_str().unwrap())) {
            Refusal::InvalidPolicy(conflict) => {
                assert_eq!(conflict.to_string(), case["detail"], "{}", case["cfg"]);
            }
            other => panic!("{}: {other}", case["cfg"]),
        }
    }
}

#[test]
fn golden_json_forms_are_read() {
    for case in golden()["json_forms"].as_array().unwrap() {
        let custom_data = case["custom_data"].as_str().unwrap();
        let groups = from_request("", Some(custom_data)).ok().unwrap();
        assert_eq!(all_members(&groups), expected(case));
        let query = format!("cfg64={}", case["cfg64"].as_str().unwrap());
        let groups = from_request(&query, None).ok().unwrap();
        assert_eq!(all_members(&groups), expected(case));
        let proper = custom_data.replace('\'', "\"");
        let groups = from_request("", Some(&proper)).ok().unwrap();
        assert_eq!(all_members(&groups), expected(case));
    }
}

#[test]
fn without_a_policy_string_there_is_one_default_group() {
    for query in ["", "a=b", "PlayRight=1&UseSimpleNonPersistentLicense=1"] {
        let groups = from_request(query, None).ok().unwrap();
        assert_eq!(all_members(&groups), [golden()["default"].as_object().unwrap().clone()]);
    }
}

#[test]
fn two_policy_strings_are_refused() {
    let json = "json=[{}]";
    for (query, custom_data) in [
        ("cfg=()&cfg=()", None),
        ("cfg=()&cfg64=W3t9XQ==", None),
        ("CFG=()", Some(json)),
        ("cfg64=W3t9XQ==&cfg64=W3t9XQ==", None),
    ] {
        let refusal = refusal(from_request(query, custom_data));
        assert_eq!(refusal, invalid("more than one policy string"), "{query}");
    }
    assert!(from_request("cfg64=W3t9XQ==", None).is_ok());
    assert!(from_request("cfg64=W3t9XQ%3D%3D", None).is_ok());
}

#[test]
fn refusals_name_the_key() {
    assert_eq!(detail("(nosuchkey:1)"), "nosuchkey: unknown key");
    assert_eq!(detail("(sl:151)"), "sl: wrong value");
    assert_eq!(detail("(enddate:20300101,expiration:20300101)"), "expiration: comes twice");
    assert_eq!(detail("(ck:,sl:150)"), "ck: no value");
    assert_eq!(detail("(sl:150"), "ends too early");
    assert_eq!(detail("(sl:150, kid:header)"), "unexpected ?");
    let long = format!("({}:1)", "x".repeat(1000));
    assert_eq!(detail(&long), format!("{}: unknown key", "x".repeat(40)));
    let json = refusal(from_json(r#"[{"schlüssel":1}]"#));
    assert_eq!(json, invalid("schl?ssel: unknown key"));
}

#[test]
fn limits_hold_in_both_syntaxes() {
    assert!(from_cfg(&vec!["()"; 32].join(",")).is_ok());
    assert!(from_cfg(&vec!["()"; 33].join(",")).is_err());
    assert!(from_json(&format!("[{}]", vec!["{}"; 33].join(","))).is_err());
    assert!(from_json("[]").is_err());
    let enabler = "playenablers:786627d8-c2a6-44be-8f88-08ae255b01a7,";
    let long = format!("({}sl:150)", enabler.repeat(CFG_CHARACTERS_MAX / enabler.len()));
    assert!(long.len() <= CFG_CHARACTERS_MAX && from_cfg(&long).is_ok());
    let longer = format!("({}sl:150)", enabler.repeat(CFG_CHARACTERS_MAX / enabler.len() + 1));
    assert_eq!(detail(&longer), "longer than 8192 characters");
    assert_eq!(detail("(a:((((b)))))"), "nested deeper than 4");
    assert_eq!(refusal(from_json(r#"[{"a":[[[["b"]]]]}]"#)), invalid("nested deeper than 4"));
}

#[test]
fn a_key_that_comes_twice_in_json_is_refused() {
    let twice = refusal(from_json(r#"[{"sl":150,"SL":"150"}]"#));
    assert_eq!(twice, invalid("SL: comes twice"));
    assert!(from_json(r#"[{"persist":true,"sl":2000}]"#).is_ok());
    for bad in ["", "{}", "[1]", "[{\"sl\":null}]", "[{\"sl\":1.5}]", "[{\"sl\":-1}]", "[[]]x"] {
        assert_eq!(refusal(from_json(bad)).error(), "invalid_cfg", "{bad}");
    }
}

#[test]
fn wrong_values_are_refused() {
    for bad in [
        "enddate:2017010",
        "enddate:20171301",
        "enddate:20170101240000",
        "enddate:+2017101",
        "begindate:19691231",
        "begindate:19700101",
        "enddate:21060207062815",
        "firstexp:0",
        "firstexp:-1",
        "sourceid:4294967296",
        "avopl:1000",
        "ucvopl:+1",
        "kid:header1",
        "persist:yes",
        "keyseed:AAAA",
        "contentkey:AAAA",
        "ckt:cocktail",
        "tid:3033E8F0FB1B4170AD5C60549AAB2C79",
        "maxres:1920",
        "maxres:x1080",
        "explicitacp:4",
        "errorcode:8004c60",
        "msg:hello",
        "dvop:(data:AA==)",
        "dvop:(guid:x)",
        "dvop:AA==",
        "accountid:AAAA",
        "sl:(150)",
        "extendedrestrictions:(type:255)",
        "extendedrestrictions:(type:65533)",
        "extendedrestrictions:(type:256,type:257)",
        "playenablers:(sl:150)",
        "dvop:()",
        "extendedright:(type:1,type:2)",
        "kid:YXg64czYhEKSRXyDXr3p8A",
    ] {
        assert_eq!(refusal(from_cfg(&format!("({bad})"))).error(), "invalid_cfg", "{bad}");
    }
}

#[test]
fn list_keys_may_repeat_and_add_up() {
    let a = "786627d8-c2a6-44be-8f88-08ae255b01a7";
    let groups = from_cfg(&format!("(playenablers:{a},playenablers:({a},{a}))")).ok().unwrap();
    assert_eq!(groups[0].conditions.play_enablers.len(), 3);
}

#[test]
fn rules_between_groups_are_checked() {
    let kid = "3C6F3C13-6207-4916-867C-8252B3993638";
    let conflict = |cfg: String| match refusal(from_cfg(&cfg)) {
        Refusal::InvalidPolicy(conflict) => conflict,
        other => panic!("{cfg}: {other}"),
    };
    let leaf = format!("(rootid:{kid},persist:true)");
    let mixed = conflict(format!("{leaf},(isroot:true,kid:{kid})"));
    assert_eq!(mixed, Conflict::RootPersistence);
    let root_of = |cfg: String| {
        let groups = from_cfg(&cfg).ok().unwrap();
        root_group(&groups, groups[0].root_kid.unwrap()).is_some()
    };
    assert!(root_of(format!("{leaf},(isroot:true,kid:{kid},persist:true)")));
    // A group with the right KID that is no root.
    assert!(!root_of(format!("{leaf},(kid:{kid},persist:true)")));
    let both = conflict(format!("(isroot:true,kid:{kid},rootid:{kid})"));
    assert_eq!(both, Conflict::RootWithRoot);
    assert_eq!(conflict("(simple:true,persist:true)".into()), Conflict::SimpleIsNonPersistent);

    let other = "3033E8F0-FB1B-4170-AD5C-60549AAB2C79";
    let two = conflict(format!("(tid:{kid}),(tid:{other})"));
    assert_eq!(two, Conflict::TwoTransactionIds);
    assert!(from_cfg(&format!("(tid:{kid}),(),(tid:{kid})")).is_ok());

    let key = "contentkey:eNqVnXrElmo2NSsn7IXeEA==";
    let seed = "keyseed:Wdkg2jsl3djgqSFer26XVBoVVRPzVEggUOSKSQaz";
    assert_eq!(conflict(format!("({key},{seed})")), Conflict::KeyAndSeed);
    let groups = from_cfg(&format!("({key})")).ok().unwrap();
    assert_eq!(check_header_kids(&groups, 1), Ok(()));
    let expected = Refusal::from(Conflict::ContentKeyNeedsOneKid);
    assert_eq!(check_header_kids(&groups, 2), Err(expected));
    let groups = from_cfg(&format!("({key},kid:{kid})")).ok().unwrap();
    assert_eq!(check_header_kids(&groups, 2), Ok(()));
}

#[test]
fn groups_become_policies() {
    let policy = |cfg: &str, id| from_cfg(cfg).ok().unwrap()[0].policy(id);
    let id = Some(BinaryId([5; 16]));
    let stop = policy("(securestop:true)", id).unwrap();
    assert_eq!(stop.secure_stop_id, id);
    assert_eq!(policy("(securestop:true)", None).unwrap_err().error(), "invalid_cfg");
    assert_eq!(policy("(sl:2000)", id).unwrap(), LicensePolicy::new(SecurityLevel::Software));
    for cfg in ["(playright:false)", "(readright:true)", "(executeright:true)"] {
        assert_eq!(policy(cfg, None), Err(Refusal::UnsupportedRight));
    }
    assert_eq!(policy("(extendedright:(type:500))", None), Err(Refusal::UnsupportedRight));

    let key_type = |cfg: &str| from_cfg(cfg).ok().unwrap()[0].key_type();
    assert_eq!(key_type("()"), Ok(None));
    assert_eq!(key_type("(ckt:AESCTR)"), Ok(Some(KeyType::AesCtr)));
    assert_eq!(key_type("(ckt:keyexchange)"), Err(Refusal::UnsupportedKeyType));
}

#[test]
fn scripted_answers_come_in_their_order() {
    let answer = |cfg: &str| scripted(&from_cfg(cfg).ok().unwrap());
    assert_eq!(answer("()"), None);
    assert_eq!(answer("(msg:clientinfo)"), Some(Scripted::ClientInfo));
    assert_eq!(answer("(msg:clientinfo),(revoked:true)"), Some(Scripted::Revoked));
    let code = answer("(revoked:true),(errorcode:8004C600),(errorcode:8004C601)");
    assert_eq!(code, Some(Scripted::Fault(0x8004_C600)));
}

#[test]
fn percent_encoding_is_undone_once() {
    assert_eq!(percent_decoded("a%28b%29+%2525"), Ok("a(b)+%25".to_owned()));
    for bad in ["%", "%2", "%zz", "%+1", "%e9", "a%2"] {
        assert!(percent_decoded(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[(),:a-z0-9=é%]{0,60}", json in "\\PC{0,40}") {
        let _ = from_cfg(&text);
        let _ = from_request(&format!("cfg={text}"), None);
        let _ = from_cfg64(&text);
        let _ = from_json(&json);
    }
}
