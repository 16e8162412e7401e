//! Revocation lists: who gets nothing, who may still give back, and lists that change while serving.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use license_ledger::domain::Event;
use license_ledger::domain::event::Grade;
use license_ledger::playready::acquire::{AcquireRequest, HeldList};
use license_ledger::playready::bcert::Chain;
use license_ledger::playready::ecc::PrivateKey;
use license_ledger::playready::policy::SecurityLevel;
use license_ledger::playready::revocation::{REVINFO_V2, RevocationSpec};

use crate::device::{Device, PERSISTENT, fault_of, fill, kid, request, words};
use crate::process::Serving;
use crate::service::{NOW_S, Setup, TestService};

const REVOKED: (u32, Option<String>) = (0x8004_C065, None);
/// A look comes every two seconds.
const PATIENCE: Duration = Duration::from_secs(30);

type Digest = [u8; 32];

/// Lists signed under the root of the PKI in `pki`.
fn lists(pki: &Path, sequence: u32, issued_at_s: u64, revoked: &[Digest]) -> String {
    let root = PrivateKey::from_pem(&fs::read(pki.join("root.pem")).unwrap()).unwrap();
    let revoked: BTreeSet<_> = revoked.iter().copied().collect();
    RevocationSpec { sequence, issued_at_s, revoked: &revoked }.issue(&root, &mut fill)
}

/// Puts a file into the folder of lists, as a whole.
fn put(pki: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let folder = pki.join("revocation");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("beside"), content).unwrap();
    fs::rename(folder.join("beside"), folder.join(name)).unwrap();
    folder.join(name)
}

/// Digests of the device's certificates, its own first.
fn digests(device: &Device) -> Vec<Digest> {
    let chain = Chain::parse(device.chain()).unwrap();
    chain.certificates().iter().map(|certificate| certificate.public_key_digest).collect()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "it never came about: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A service that already has lists which revoke nobody.
fn service() -> TestService {
    let service = TestService::new();
    revoke(&service, 1, &[]);
    service
}

/// Adds lists to a running service, and waits until they are in force and the ledger says so.
fn revoke(service: &TestService, sequence: u32, revoked: &[Digest]) {
    let name = format!("{sequence}.xml");
    put(&service.pki, &name, lists(&service.pki, sequence, NOW_S, revoked));
    let in_force = || service.inner().licensing.revocation().map(|lists| lists.sequence());
    eventually("newer lists", || in_force() == Some(sequence));
    eventually("the event of newer lists", || {
        service.facts().iter().any(|fact| match &fact.event {
            Event::RevocationListsTaken(taken) => taken.sequence == sequence,
            _ => false,
        })
    });
}

fn fault(
    service: &TestService,
    device: &Device,
    request: &AcquireRequest,
) -> (u32, Option<String>) {
    words(&device.acquire(&service.client, request, PERSISTENT).err().unwrap())
}

#[test]
fn a_device_that_is_revoked_while_serving_gets_nothing_more_and_gives_back_what_it_has() {
    let service = service();
    let (lost, other) = (service.device("lost"), service.device("other"));
    // Its chain is known from here on, and must not be taken for good because of that.
    let (held, late) = (request(&[kid(1), kid(2)]), request(&[kid(3)]));
    let challenge = lost.ask(&held);
    let granted = service.client.challenge(&challenge, PERSISTENT);
    let acquired = lost.accept(&granted.body, &held.nonce).unwrap();
    other.acquire(&service.client, &request(&[kid(1)]), PERSISTENT).unwrap();
    revoke(&service, 2, &digests(&lost)[..1]);

    let before = service.event_count();
    assert_eq!(fault(&service, &lost, &late), REVOKED);
    let repeated = service.client.challenge(&challenge, PERSISTENT);
    assert_eq!(fault_of(&repeated.body), REVOKED, "a repeat is an acquisition too");
    assert_eq!(service.event_count(), before, "a revoked device left an event");
    other.acquire(&service.client, &request(&[kid(2)]), PERSISTENT).unwrap();

    let transaction_id = acquired.transaction_id.unwrap();
    lost.acknowledge(&service.client, transaction_id, &[(kid(1), 0), (kid(2), 0)]).unwrap();
    assert_eq!(service.inventory(&lost)["confirmed"], 2);
    lost.delete(&service.client, held.nonce, &[kid(1), kid(2)]).unwrap();
    let inventory = service.inventory(&lost);
    assert_eq!((&inventory["live"], &inventory["possible"]), (&0.into(), &2.into()));
    let facts = service.facts();
    let deleted = facts.iter().filter_map(|fact| match &fact.event {
        Event::LicenseDeleted(deleted) => Some((deleted.grade, deleted.linked, deleted.releases)),
        _ => None,
    });
    assert_eq!(deleted.collect::<Vec<_>>(), [(Grade::C, true, true); 2]);
    let evidence = facts.iter().find_map(|fact| match &fact.event {
        Event::EvidenceKept(kept) => Some(kept.revocation_sequence),
        _ => None,
    });
    assert_eq!(evidence, Some(Some(2)));
}

#[test]
fn a_revoked_model_or_anything_above_it_revokes_all_its_devices() {
    let service = service();
    let (one, two) = (service.device("one"), service.device("two"));
    for device in [&one, &two] {
        device.acquire(&service.client, &request(&[kid(1)]), PERSISTENT).unwrap();
    }
    let chain = digests(&one);
    assert_eq!(chain.len(), 3);
    for (sequence, above) in [(2, chain[1]), (3, chain[2])] {
        revoke(&service, sequence, &[above]);
        for device in [&one, &two] {
            assert_eq!(fault(&service, device, &request(&[kid(2)])), REVOKED);
        }
    }
    // Lists that no longer name it lift a revocation: the newest ones count, and they alone.
    revoke(&service, 4, &[]);
    one.acquire(&service.client, &request(&[kid(2)]), PERSISTENT).unwrap();
}

#[test]
fn lists_that_cannot_follow_are_left_out_and_newer_ones_still_come() {
    let service = service();
    let (lost, other) = (service.device("lost"), service.device("other"));
    let digest = digests(&lost)[0];
    revoke(&service, 5, &[digest]);
    let good = lists(&service.pki, 9, NOW_S, &[]);
    let forged = {
        let elsewhere = TestService::new();
        lists(&elsewhere.pki, 9, NOW_S, &[])
    };
    // Another letter in the middle of the RevInfo's data, which its signature covers.
    let at = good.find("<ListData>").unwrap() + 60;
    let changed = if &good[at..=at] == "A" { "B" } else { "A" };
    let altered = format!("{}{changed}{}", &good[..at], &good[at + 1..]);
    let cut = &good[..good.len() / 2];
    put(&service.pki, "altered.xml", &altered);
    put(&service.pki, "cut.xml", cut);
    put(&service.pki, "empty.xml", "");
    put(&service.pki, "forged.xml", &forged);
    let without = |crl: usize| {
        let parts: Vec<_> = good.split("<Revocation>").collect();
        let kept = parts.iter().enumerate().filter(|(at, _)| *at != crl).map(|(_, part)| *part);
        let ends = if crl + 1 == parts.len() { "</RevInfo>" } else { "" };
        format!("{}{ends}", kept.collect::<Vec<_>>().join("<Revocation>"))
    };
    for crl in [2, 3] {
        put(&service.pki, &format!("stripped-{crl}.xml"), without(crl));
    }
    put(&service.pki, "lower.xml", lists(&service.pki, 4, NOW_S, &[]));
    put(&service.pki, "same.xml", lists(&service.pki, 5, NOW_S, &[]));
    put(&service.pki, "not-xml.txt", &good);
    fs::create_dir(service.pki.join("revocation/folder.xml")).unwrap();
    fs::remove_file(service.pki.join("revocation/5.xml")).unwrap();

    // Whatever was put before these was looked at no later than they are.
    let twice = [digest, digests(&other)[0]];
    revoke(&service, 6, &twice);
    for device in [&lost, &other] {
        assert_eq!(fault(&service, device, &request(&[kid(1)])), REVOKED);
    }
}

#[test]
fn a_client_with_older_lists_gets_the_newest_in_the_response() {
    let service = service();
    let device = service.device("asks");
    revoke(&service, 7, &[[9; 32]]);
    let sent = |held: Option<u64>| {
        let list = |version| HeldList { id: REVINFO_V2, version };
        let revocation_lists = held.map(|version| vec![list(version)]);
        let request = AcquireRequest { revocation_lists, ..request(&[kid(1)]) };
        let acquired = device.acquire(&service.client, &request, "").unwrap();
        assert_eq!(acquired.licenses[0].revinfo_version, 7);
        acquired.rev_info
    };
    for held in [0, 6] {
        let root = PrivateKey::from_pem(&fs::read(service.pki.join("root.pem")).unwrap()).unwrap();
        let lists = sent(Some(held)).expect("no lists for a client with old ones");
        let lists = lists.verify(root.public(), NOW_S).unwrap();
        assert_eq!((lists.sequence(), lists.revoked().next()), (7, Some(&[9; 32])));
    }
    for held in [None, Some(7), Some(8)] {
        assert!(sent(held).is_none(), "{held:?}");
    }
}

#[test]
fn lists_that_nobody_verified_are_kept_from_clients() {
    let service = service();
    let device = service.device("asks");
    let signed = lists(&service.pki, 7, NOW_S, &[[9; 32]]);
    let legacy = "<Revocation><ListID>VVrezIimBUSoi9E/kNW6Pg==</ListID>\
                  <ListData>bm90IHJlYWQ=</ListData></Revocation>";
    let file = signed.replacen("<Revocation>", &format!("{legacy}<Revocation>"), 1);
    put(&service.pki, "7.xml", file.replace("</RevInfo>", &format!("{legacy}</RevInfo>")));
    let in_force = || service.inner().licensing.revocation().map(|lists| lists.sequence());
    eventually("lists", || in_force() == Some(7));
    let request = AcquireRequest { revocation_lists: Some(vec![]), ..request(&[kid(1)]) };
    let answer = service.client.challenge(&device.ask(&request), "");
    assert!(answer.text().contains(&signed), "{}", answer.text());
    assert!(!answer.text().contains("bm90IHJlYWQ="));
}

#[test]
fn lists_in_the_file_of_the_pki_and_in_the_folder_are_one_series() {
    let mut service = TestService::new();
    let lost = service.device("lost");
    let single = service.pki.join("revinfo.xml");
    fs::write(&single, lists(&service.pki, 3, NOW_S, &digests(&lost)[..1])).unwrap();
    eventually("lists of revinfo.xml", || service.inner().licensing.revocation().is_some());
    assert_eq!(fault(&service, &lost, &request(&[kid(1)])), REVOKED);
    put(&service.pki, "2.xml", lists(&service.pki, 2, NOW_S, &[]));
    service.restart();
    assert_eq!(fault(&service, &lost, &request(&[kid(1)])), REVOKED);
    put(&service.pki, "4.xml", lists(&service.pki, 4, NOW_S, &[]));
    service.restart();
    lost.acquire(&service.client, &request(&[kid(1)]), PERSISTENT).unwrap();
}

#[test]
fn lists_may_be_in_a_folder_of_their_own() {
    let elsewhere = tempfile::TempDir::new().unwrap();
    let folder = elsewhere.path().to_str().unwrap();
    let service = Setup::default().with("playready.revocation_lists", folder).start();
    let lost = service.device("lost");
    put(&service.pki, "8.xml", lists(&service.pki, 8, NOW_S, &[]));
    let named = lists(&service.pki, 2, NOW_S, &digests(&lost)[..1]);
    fs::write(elsewhere.path().join("2.xml"), named).unwrap();
    eventually("lists", || service.inner().licensing.revocation().is_some());
    assert_eq!(service.inner().licensing.revocation().unwrap().sequence(), 2);
    assert_eq!(fault(&service, &lost, &request(&[kid(1)])), REVOKED);
}

#[test]
fn metrics_say_which_lists_are_in_force_and_of_when() {
    let service = TestService::new();
    let shown = || {
        let text = service.client.get("/metrics").text();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name} is not in {text}")).trim().to_owned()
        };
        let issued = "license_ledger_revocation_list_issued_timestamp_seconds ";
        (value("license_ledger_revocation_list_sequence "), value(issued))
    };
    assert_eq!(shown(), ("0".to_owned(), "0".to_owned()));
    revoke(&service, 3, &[]);
    assert_eq!(shown(), ("3".to_owned(), NOW_S.to_string()));
}

/// What the service logged so far.
fn log(data: &Path) -> String {
    fs::read_to_string(data.with_extension("log")).unwrap()
}

#[test]
fn a_file_that_is_not_taken_is_named_with_the_reason() {
    let dir = tempfile::TempDir::new().unwrap();
    let data = dir.path().join("data");
    let service = Serving::start(&data, &[]);
    let now_s = u64::try_from(license_ledger::clock::Clock::System.now().seconds()).unwrap();
    let good = |sequence| lists(&service.pki, sequence, now_s, &[]);
    let in_force = put(&service.pki, "5.xml", good(5));
    eventually("lists", || log(&data).contains("revocation lists 5 of"));
    let said = |reason: &str, path: &Path| {
        let path = path.to_str().unwrap();
        eventually(reason, || {
            log(&data)
                .lines()
                .any(|line| line.contains("WARN") && line.contains(path) && line.contains(reason))
        });
    };
    said("its sequence 4 is lower than 5", &put(&service.pki, "lower.xml", good(4)));
    said("differs from the lists in force", &put(&service.pki, "same.xml", good(5)));
    said("not a RevInfo document", &put(&service.pki, "cut.xml", &good(6)[..99]));
    let other = TestService::new();
    let forged = lists(&other.pki, 6, now_s, &[]);
    let stripped = good(6);
    let crl = stripped.rfind("<Revocation>").unwrap();
    let stripped = format!("{}</RevInfo>", &stripped[..crl]);
    said("which the RevInfo names, is missing", &put(&service.pki, "stripped.xml", stripped));
    said("does not end at the root key", &put(&service.pki, "forged.xml", forged));
    fs::remove_file(&in_force).unwrap();
    said("is gone", &in_force);
    let folder = service.pki.join("revocation");
    fs::rename(&folder, service.pki.join("away")).unwrap();
    fs::write(&folder, "no folder").unwrap();
    said("cannot read the folder", &folder);
    let log_of_all = log(&data);
    let again = log_of_all.lines().filter(|line| line.contains("its sequence 4 is lower than 5"));
    assert_eq!(again.count(), 1, "said again and again");
    let metrics = service.client("").get("/metrics").text();
    assert!(metrics.contains("license_ledger_revocation_list_sequence 5\n"), "{metrics}");
    fs::remove_file(&folder).unwrap();
    put(&service.pki, "7.xml", good(7));
    eventually("lists once the folder is back", || log(&data).contains("revocation lists 7 of"));
    service.stop();
}

/// Why a start on this data is refused.
fn refused_start(data: &Path) -> String {
    let args = ["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let refused = crate::process::run(&args);
    refused.failed(2, &["put them back, or add newer ones"]);
    refused.stderr
}

#[test]
fn no_start_falls_back_behind_the_lists_that_were_in_force() {
    let dir = tempfile::TempDir::new().unwrap();
    let data = dir.path().join("data");
    let mut service = Serving::start(&data, &[]);
    let pki = service.pki.clone();
    let lost = crate::service::make_device(&pki, "lost", SecurityLevel::Software);
    let digest = digests(&lost)[0];
    let old = put(&pki, "1.xml", lists(&pki, 1, NOW_S, &[]));
    let newest = put(&pki, "2.xml", lists(&pki, 2, NOW_S, &[digest]));
    eventually("lists", || log(&data).contains("revocation lists 2 of"));
    let events = service.client(service.admin_key.as_deref().unwrap());
    eventually("the record", || {
        events.get("/v1/events").text().contains("\"sequence\":2,\"lists\"")
    });
    service.kill();
    let away = dir.path().join("away.xml");
    fs::rename(&newest, &away).unwrap();
    let said = refused_start(&data);
    assert!(said.contains("revocation lists 2 were in force before"), "{said}");
    assert!(said.contains("its sequence 1 is lower than 2"), "{said}");
    fs::remove_file(&old).unwrap();
    refused_start(&data);
    // The same number on other lists is no better.
    let other = put(&pki, "2.xml", lists(&pki, 2, NOW_S, &[]));
    assert!(refused_start(&data).contains("differs from the lists in force"));
    fs::rename(&away, &other).unwrap();
    let service = Serving::start(&data, &[]);
    let answer = service.client("").challenge(&lost.ask(&request(&[kid(1)])), PERSISTENT);
    assert_eq!(fault_of(&answer.body), REVOKED);
    service.stop();
    // Lists that were there at the start are recorded as well.
    fs::rename(&other, &away).unwrap();
    let next = put(&pki, "3.xml", lists(&pki, 3, NOW_S, &[]));
    Serving::start(&data, &[]).stop();
    fs::remove_file(&next).unwrap();
    fs::rename(&away, &other).unwrap();
    assert!(refused_start(&data).contains("revocation lists 3 were in force before"));
}

#[test]
fn a_start_without_any_usable_list_is_refused_and_one_with_a_damaged_one_is_not() {
    let dir = tempfile::TempDir::new().unwrap();
    let data = dir.path().join("data");
    let first = Serving::start(&data, &[]);
    let pki = first.pki.clone();
    first.stop();
    let damaged = put(&pki, "2.xml", "<RevInfo>");
    let again = ["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let refused = crate::process::run(&again);
    refused.failed(2, &["revocation", "replace them, or remove them"]);
    assert!(refused.stderr.contains(damaged.to_str().unwrap()), "{refused:?}");
    put(&pki, "1.xml", lists(&pki, 1, NOW_S, &[]));
    let service = Serving::start(&data, &[]);
    service.stop();
    let log = log(&data);
    assert!(log.contains("2.xml is not taken"), "{log}");
    // NOW_S is long ago.
    assert_eq!(log.matches("more than a week ago").count(), 1, "{log}");
    let missing = crate::process::program()
        .args(again)
        .env("LICENSE_LEDGER_PLAYREADY_REVOCATION_LISTS", dir.path().join("nowhere"))
        .output()
        .unwrap();
    let stderr = String::from_utf8(missing.stderr).unwrap();
    assert!(stderr.contains("nowhere"), "{stderr}");
    assert_eq!(missing.status.code(), Some(2));
}
