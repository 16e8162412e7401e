use std::fs;

use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac as other_hmac;
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;

use super::*;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn golden(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packager");
    fs::read(Path::new(folder).join(name)).unwrap()
}

/// DER of a certificate of the lab.
fn certificate(name: &str) -> Vec<u8> {
    let chain = Certificate::load_pem_chain(&golden(&format!("{name}.pem"))).unwrap();
    chain[0].to_der().unwrap()
}

/// Trusts the certificates of these names.
fn trusting(names: &[&str]) -> Trusted {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let file = format!("{name}.pem");
        fs::write(folder.path().join(&file), golden(&file)).unwrap();
    }
    fs::write(folder.path().join("notes.txt"), "not a certificate").unwrap();
    Trusted::read(folder.path()).unwrap()
}

#[test]
fn refuses_every_certificate_that_keys_must_not_be_wrapped_for_and_says_why() {
    let names = ["trusted", "expired", "future", "short", "ec"];
    let trusted = trusting(&names);
    let refused = |der: &[u8]| trusted.check(der, NOW).err().unwrap().to_string();
    assert!(trusted.check(&certificate("trusted"), NOW).is_ok());
    assert!(refused(&certificate("untrusted/stranger")).contains("trusts"));
    assert!(refused(&certificate("expired")).contains("2023-01-01"));
    assert!(refused(&certificate("future")).contains("2100-01-01"));
    assert!(refused(&certificate("short")).contains("no RSA key of 2048"));
    assert!(refused(&certificate("ec")).contains("no RSA key of 2048"));
    assert!(refused(b"").contains("not an X.509 certificate"));
    let whole = certificate("trusted");
    for end in 0..whole.len() {
        assert!(trusted.check(&whole[..end], NOW).is_err(), "accepted a cut at byte {end}");
    }
    assert!(Trusted::default().check(&whole, NOW).is_err(), "trusts without a folder");
}

#[test]
fn a_folder_with_a_file_that_is_no_certificate_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.pem"), golden("trusted.pem")).unwrap();
    assert!(Trusted::read(folder.path()).is_ok());
    for content in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        fs::write(folder.path().join("b.crt"), content).unwrap();
        let refused = Trusted::read(folder.path()).err().unwrap();
        assert!(refused.to_string().contains("b.crt"), "{refused}");
    }
    assert!(Trusted::read(&folder.path().join("nothing")).is_err());
}

/// The packager's side, with other implementations of everything but RSA.
#[test]
fn the_packager_unwraps_what_was_wrapped_for_it() {
    let recipient = trusting(&["trusted"]).check(&certificate("trusted"), NOW).unwrap();
    let keys = DocumentKeys::random().unwrap();
    let private = PrivatePkcs8KeyDer::from_pem_slice(&golden("trusted.key")).unwrap();
    let private = PrivateDecryptingKey::from_pkcs8(private.secret_pkcs8_der()).unwrap();
    let private = OaepPrivateDecryptingKey::new(private).unwrap();
    let [document, mac] = keys.wrap(&recipient).unwrap().map(|wrapped| {
        let mut opened = vec![0; private.min_output_size()];
        let opened = private.decrypt(&OAEP_SHA1_MGF1SHA1, &wrapped, &mut opened, None);
        opened.unwrap().to_vec()
    });
    assert_eq!((document.len(), mac.len()), (32, 64));
    let content_key = Zeroizing::new([7; 16]);
    let Encrypted { mut cipher_value, mac: tag } = keys.encrypt(&content_key).unwrap();
    assert_eq!(cipher_value.len(), 48, "IV, a block, and a block of padding");
    let mac = other_hmac::Key::new(other_hmac::HMAC_SHA512, &mac);
    other_hmac::verify(&mac, &cipher_value, &tag).unwrap();
    let key = UnboundCipherKey::new(&AES_256, &document).unwrap();
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).unwrap();
    let (iv, ciphertext) = cipher_value.split_at_mut(16);
    let iv: [u8; 16] = (&*iv).try_into().unwrap();
    let opened = key.decrypt(ciphertext, DecryptionContext::Iv128(iv.into())).unwrap();
    assert_eq!(opened, content_key.as_slice());
}

#[test]
fn nothing_repeats() {
    let keys = DocumentKeys::random().unwrap();
    let key = Zeroizing::new([7; 16]);
    let [first, second] = [0; 2].map(|_| keys.encrypt(&key).unwrap().cipher_value);
    assert_ne!(first, second);
    assert_ne!(*keys.document, *DocumentKeys::random().unwrap().document);
}
