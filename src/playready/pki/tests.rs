use std::collections::HashMap;
use std::path::PathBuf;

use super::*;
use crate::playready::policy::SecurityLevel;

const NOW_S: u64 = 1_700_000_000;

type Files = HashMap<String, Vec<u8>>;

fn golden(path: &str) -> io::Result<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pki");
    std::fs::read(folder.join(path))
}

fn golden_device(name: &str) -> Result<DeviceFiles, PkiError> {
    DeviceFiles::load(|path| golden(&format!("devices/{name}/{path}")), NOW_S)
}

fn os_random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).unwrap();
}

fn lab() -> Files {
    let files = new_lab(&mut os_random).into_iter();
    files.map(|file| (file.path, file.bytes.to_vec())).collect()
}

fn from<'a>(files: &'a Files, folder: &'a str) -> impl FnMut(&str) -> io::Result<Vec<u8>> + 'a {
    move |path| {
        let bytes = files.get(&format!("{folder}{path}")).cloned();
        bytes.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn mint(files: &Files, name: &str, security_level: SecurityLevel) -> Result<Files, PkiError> {
    let model = Model::load(from(files, ""), LAB_MODEL)?;
    let [root, wmrm] =
        ["root.pub.pem", "wmrm.pub.pem"].map(|path| PublicKey::from_pem(&files[path]).unwrap());
    let spec = DeviceSpec { name, security_level };
    let minted = mint_device(&model, spec, &root, &wmrm, &mut os_random, NOW_S)?;
    Ok(minted.into_iter().map(|file| (file.path, file.bytes.to_vec())).collect())
}

#[test]
fn golden_pki_loads() {
    let pki = Pki::load(golden, NOW_S).unwrap();
    assert_eq!(pki.server_chain.signing_key(), pki.server_sign.public());
    let wmrm = PublicKey::from_pem(&golden("wmrm.pub.pem").unwrap()).unwrap();
    assert_eq!(pki.wmrm.public(), &wmrm);
    let root = PrivateKey::from_pem(&golden("root.pem").unwrap()).unwrap();
    assert_eq!(root.public(), &pki.root);
}

#[test]
fn golden_devices_load_and_trust_the_root_of_the_pki() {
    let pki = Pki::load(golden, NOW_S).unwrap();
    for name in ["golden", "golden-b", "golden-revoked"] {
        let device = golden_device(name).unwrap();
        assert_eq!(device.root, pki.root);
        assert_eq!(&device.wmrm, pki.wmrm.public());
        assert_eq!(device.chain.security_level(), 2000);
    }
}

#[test]
fn a_new_lab_loads_and_makes_devices_of_every_security_level() {
    let mut files = lab();
    let pki = Pki::load(from(&files, ""), NOW_S).unwrap();
    let levels = [SecurityLevel::Test, SecurityLevel::Software, SecurityLevel::Hardware];
    for (level, name) in levels.into_iter().zip(["a", "b-2", "c_3.x"]) {
        files.extend(mint(&files, name, level).unwrap());
        let folder = format!("devices/{name}/");
        let device = DeviceFiles::load(from(&files, &folder), NOW_S).unwrap();
        assert_eq!(device.root, pki.root);
        assert_eq!(&device.wmrm, pki.wmrm.public());
        assert_eq!(device.chain.security_level(), level.number());
        assert_eq!(device.chain.manufacturer(), ["Lab", name, "1"]);
        verify(device.chain.bytes(), &pki.root, Leaf::Device, NOW_S).unwrap();
    }
}

#[test]
fn a_model_of_another_root_makes_no_devices() {
    let mut files = lab();
    files.insert("root.pub.pem".to_owned(), golden("root.pub.pem").unwrap());
    let refused = mint(&files, "a", SecurityLevel::Test).err();
    assert!(matches!(refused, Some(PkiError::Chain { source: ChainError::Root, .. })));
}

#[test]
fn only_private_keys_are_private_files() {
    let files = new_lab(&mut os_random);
    for file in &files {
        let text = String::from_utf8_lossy(&file.bytes);
        assert_eq!(file.private, text.contains("PRIVATE KEY"), "{}", file.path);
    }
    for path in PRIVATE_FILES {
        assert!(files.iter().any(|file| file.path == path && file.private));
    }
}

#[test]
fn names_that_are_no_folders_are_refused() {
    let files = lab();
    for name in ["", "..", ".hidden", "a/b", "a b", "é", &"x".repeat(65)] {
        let refused = mint(&files, name, SecurityLevel::Test);
        assert!(matches!(refused, Err(PkiError::Name { .. })), "{name:?}");
        let refused = Model::load(golden, name);
        assert!(matches!(refused, Err(PkiError::Name { .. })), "{name:?}");
    }
}

/// What [`Pki::load`] says about the golden files with one of them replaced.
fn with(path: &str, replacement: io::Result<Vec<u8>>) -> Option<PkiError> {
    let mut replacement = Some(replacement);
    let read = |wanted: &str| {
        if wanted == path { replacement.take().unwrap() } else { golden(wanted) }
    };
    Pki::load(read, NOW_S).err()
}

#[test]
fn missing_and_malformed_files_are_named() {
    for path in ["wmrm.pem", "root.pub.pem", "server_sign.pem", "server_chain.bcert"] {
        let missing = with(path, Err(io::ErrorKind::NotFound.into())).unwrap();
        assert!(missing.to_string().starts_with(path), "{missing}");
        let malformed = with(path, Ok(b"nothing".to_vec())).unwrap();
        assert!(malformed.to_string().starts_with(path), "{malformed}");
    }
}

#[test]
fn files_of_different_sets_are_refused() {
    let mismatch = with("server_sign.pem", golden("wmrm.pem"));
    assert!(matches!(mismatch, Some(PkiError::Mismatch { key: "server_sign.pem", .. })));
    let other_root = with("root.pub.pem", golden("wmrm.pub.pem"));
    assert!(matches!(other_root, Some(PkiError::Chain { source: ChainError::Root, .. })));
    let device = with("server_chain.bcert", golden("devices/golden/chain.bcert"));
    assert!(matches!(device, Some(PkiError::Chain { source: ChainError::LeafType, .. })));
    for (file, other) in [("sign.pem", "encrypt.pem"), ("encrypt.pem", "sign.pem")] {
        let read = |path: &str| {
            golden(&format!("devices/golden/{}", if path == file { other } else { path }))
        };
        let refused = DeviceFiles::load(read, NOW_S).err();
        assert!(matches!(refused, Some(PkiError::Mismatch { key, .. }) if key == file));
    }
}
