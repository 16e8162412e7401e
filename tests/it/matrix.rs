//! Every header version with every key type, persistence, security level and number of keys, over
//! real HTTP; each license decrypts content of its KID.

use license_ledger::playready::content_key::KeyType;
use license_ledger::playready::header::HeaderVersion;
use license_ledger::playready::kid::Kid;
use license_ledger::playready::policy::SecurityLevel;
use license_ledger::playready::soap::Refusal;
use license_ledger::simulator::{SimulatorError, Wanted, WantedKey};

use crate::device::kid;
use crate::policies::{play, wanted};
use crate::service::{Setup, TestService};

#[test]
fn each_license_of_the_matrix_plays_on_devices_that_are_secure_enough() {
    use HeaderVersion::{V4_0, V4_1, V4_2, V4_3};
    use SecurityLevel::{Hardware, Software, Test};
    let service = Setup::default().with("quota.device_limit", 1_000).start();
    let (mut played, mut serial) = (0, 0);
    for level in [Test, Software, Hardware] {
        let mut player = service.player(&format!("level-{}", level.number()), level);
        for (version, most) in [(V4_0, 1), (V4_1, 1), (V4_2, 3), (V4_3, 3)] {
            for count in 1..=most {
                for key_type in [KeyType::AesCtr, KeyType::AesCbc] {
                    for persist in [false, true] {
                        for required in [Test, Software, Hardware] {
                            serial += 10;
                            let kids: Vec<_> = (serial..serial + count).map(kid).collect();
                            let number = required.number();
                            let cfg = format!(
                                "(persist:{persist},sl:{number}{})",
                                ckt(version, key_type)
                            );
                            let wanted = matrix_request(&kids, version, key_type, &cfg);
                            let got = player.acquire(&service.endpoint(), &wanted);
                            if level < required {
                                assert_refused(got.err(), required, level);
                                continue;
                            }
                            let acquired = got.unwrap_or_else(|e| panic!("{version} {cfg}: {e:?}"));
                            assert_eq!(acquired.missing, []);
                            for license in &acquired.answer.licenses {
                                let opened = &license.opened;
                                assert_eq!(opened.key_type, key_type);
                                assert_eq!(
                                    (opened.policy.persist, opened.policy.sl),
                                    (persist, required)
                                );
                            }
                            for kid in kids {
                                assert_eq!(
                                    play(&mut player, kid, key_type),
                                    Ok(()),
                                    "{version} {cfg}"
                                );
                                played += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    // 14 KIDs a version and count, 2 key types, 2 persistences, 6 pairs of levels that fit.
    assert_eq!(played, 14 * 2 * 2 * 6);
    assert_only_recorded(&service, played);
}

/// Only a header of version 4.3 can say CBC; in the others the service has to know.
fn ckt(version: HeaderVersion, key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::AesCbc if version != HeaderVersion::V4_3 => ",ckt:aescbc",
        _ => "",
    }
}

fn matrix_request(
    kids: &[uuid::Uuid],
    version: HeaderVersion,
    key_type: KeyType,
    cfg: &str,
) -> Wanted {
    let keys = kids.iter().map(|kid| WantedKey { kid: Kid::from(*kid), checksum: None });
    let in_header = if version == HeaderVersion::V4_3 { key_type } else { KeyType::AesCtr };
    Wanted {
        keys: keys.collect(),
        header_version: version,
        key_type: Some(in_header),
        ..wanted(kids[0], cfg)
    }
}

fn assert_refused(got: Option<SimulatorError>, required: SecurityLevel, device: SecurityLevel) {
    let Some(SimulatorError::Refused(fault)) = got else { panic!("not refused: {got:?}") };
    let (required, device) = (required.number(), device.number());
    assert_eq!(fault.refusal(), Some(Refusal::SecurityLevel { required, device }));
}

/// What was refused left no license behind.
fn assert_only_recorded(service: &TestService, licenses: usize) {
    assert_eq!(service.replay().acquired.len(), licenses);
}
