//! Making a lab's own public key infrastructure.
//!
//! ```text
//! root ── CA (3000) ── model "lab" (3000) ── devices of any security level
//!      └─ server CA (0) ── response signer (0)
//! ```
//!
//! The private keys of the two CAs are forgotten: the root can issue others.

use std::io;

use zeroize::Zeroizing;

use super::{PkiError, PkiFile, chain_error, contents, private_key};
use crate::playready::bcert::{
    CertificateSpec, Chain, ChainError, KeySpec, Leaf, Manufacturer, NEVER_EXPIRES,
    certificate_type, chain, feature, usage, verify,
};
use crate::playready::ecc::{PrivateKey, PublicKey};
use crate::playready::elgamal::Random;
use crate::playready::policy::SecurityLevel;
use crate::playready::reader::Malformed;

/// The model that [`new_lab`] makes.
pub const LAB_MODEL: &str = "lab";

const NAME_CHARACTERS_MAX: usize = 64;
const DEVICE_FEATURES: [u32; 3] =
    [feature::SECURE_CLOCK, feature::SUPPORTS_CRLS, feature::SUPPORTS_PR3];

/// A key that issues devices, with the chain of its certificate. Has no `Debug`.
pub struct Model {
    key: PrivateKey,
    chain: Vec<u8>,
}

/// A device to be made.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSpec<'a> {
    /// The folder below `devices`.
    pub name: &'a str,
    /// What its certificate states; at most that of the model.
    pub security_level: SecurityLevel,
}

impl Model {
    /// Reads the folder `models/<name>` of a PKI.
    ///
    /// # Errors
    /// A missing or malformed file, or a name that cannot be a folder's.
    pub fn load(
        mut read: impl FnMut(&str) -> io::Result<Vec<u8>>,
        name: &str,
    ) -> Result<Self, PkiError> {
        check_name(name)?;
        let key = private_key(&mut read, &format!("models/{name}/model.pem"))?;
        let path = format!("models/{name}/model.bcert");
        let chain = contents(&mut read, &path)?;
        Chain::parse(&chain).map_err(|source| chain_error(&path, source.into()))?;
        Ok(Self { key, chain })
    }
}

/// A new infrastructure: everything a server reads, and the model [`LAB_MODEL`] to make devices
/// with. Keys come from the operating system, ids from `random`.
pub fn new_lab(random: Random<'_>) -> Vec<PkiFile> {
    let [root, wmrm, ca, model, server_ca, server_sign] =
        std::array::from_fn(|_| PrivateKey::generate());
    let mut issuer = |name, level, key: &PrivateKey, usages: &[u32], by: &PrivateKey| {
        let keys = [KeySpec { key: *key.public(), usages }];
        let certificate = Issued { name, level, kind: certificate_type::ISSUER, keys: &keys };
        certificate.spec(id(random)).issue(by)
    };
    let device_issuer = [usage::ISSUER_DEVICE];
    let ca_certificate = issuer("CA", 3000, &ca, &device_issuer, &root);
    let model_certificate = issuer("Model", 3000, &model, &device_issuer, &ca);
    let server_ca_certificate = issuer("ServerCA", 0, &server_ca, &[usage::ISSUER_SERVER], &root);
    let keys = [KeySpec { key: *server_sign.public(), usages: &[usage::SIGN_RESPONSE] }];
    let server = Issued { name: "Signer", level: 0, kind: certificate_type::SERVER, keys: &keys };
    let server_certificate = server.spec(id(random)).issue(&server_ca);

    let server_chain = chain(&[&server_certificate, &server_ca_certificate]);
    let model_chain = chain(&[&model_certificate, &ca_certificate]);
    vec![
        PkiFile::private("root.pem", &root),
        PkiFile::public("root.pub.pem", root.public().to_pem()),
        PkiFile::private("wmrm.pem", &wmrm),
        PkiFile::public("wmrm.pub.pem", wmrm.public().to_pem()),
        PkiFile::private("server_sign.pem", &server_sign),
        PkiFile::public("server_chain.bcert", server_chain),
        PkiFile::private(&format!("models/{LAB_MODEL}/model.pem"), &model),
        PkiFile::public(&format!("models/{LAB_MODEL}/model.bcert"), model_chain),
    ]
}

/// A new device of this model: the files of its folder, with keys from the operating system and
/// ids from `random`. `root` and `wmrm` are those of the PKI: the key that the device's chain ends at,
/// and the key that its challenges will be encrypted to.
///
/// # Errors
/// A name that cannot be a folder's; a model that may not issue such a device under `root` at the
/// time `now_s` (Unix seconds).
pub fn mint_device(
    model: &Model,
    spec: DeviceSpec<'_>,
    root: &PublicKey,
    wmrm: &PublicKey,
    random: Random<'_>,
    now_s: u64,
) -> Result<Vec<PkiFile>, PkiError> {
    check_name(spec.name)?;
    let (sign, encrypt) = (PrivateKey::generate(), PrivateKey::generate());
    let keys = [
        KeySpec { key: *sign.public(), usages: &[usage::SIGN] },
        KeySpec { key: *encrypt.public(), usages: &[usage::ENCRYPT_KEY] },
    ];
    let level = spec.security_level.number();
    let leaf = Issued { name: spec.name, level, kind: certificate_type::DEVICE, keys: &keys };
    let leaf = CertificateSpec { client_id: id(random), ..leaf.spec(id(random)) };
    let chain = with_leaf(&leaf.issue(&model.key), &model.chain)
        .map_err(ChainError::from)
        .and_then(|chain| {
            verify(&chain, root, Leaf::Device, now_s)?;
            Ok(chain)
        })
        .map_err(|source| chain_error("model.bcert", source))?;
    let path = |file| format!("devices/{}/{file}", spec.name);
    Ok(vec![
        PkiFile::private(&path("sign.pem"), &sign),
        PkiFile::private(&path("encrypt.pem"), &encrypt),
        PkiFile::public(&path("chain.bcert"), chain),
        PkiFile::public(&path("wmrm.pub.pem"), wmrm.to_pem()),
    ])
}

/// What differs between the certificates of a lab.
struct Issued<'a> {
    name: &'a str,
    level: u32,
    kind: u32,
    keys: &'a [KeySpec<'a>],
}

impl<'a> Issued<'a> {
    fn spec(&self, cert_id: [u8; 16]) -> CertificateSpec<'a> {
        CertificateSpec {
            cert_id,
            security_level: self.level,
            certificate_type: self.kind,
            expiration: NEVER_EXPIRES,
            client_id: [0; 16],
            features: if self.level == 0 { &[] } else { &DEVICE_FEATURES },
            keys: self.keys,
            manufacturer: Manufacturer { maker: "Lab", model: self.name, number: "1" },
        }
    }
}

impl PkiFile {
    fn private(path: &str, key: &PrivateKey) -> Self {
        let bytes = Zeroizing::new(key.to_pem().as_bytes().to_vec());
        Self { path: path.to_owned(), bytes, private: true }
    }

    fn public(path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.to_owned(), bytes: Zeroizing::new(bytes.into()), private: false }
    }
}

fn with_leaf(leaf: &[u8], issuers: &[u8]) -> Result<Vec<u8>, Malformed> {
    let issuers = Chain::parse(issuers)?;
    let issuers = issuers.certificates().iter().map(|certificate| certificate.bytes);
    Ok(chain(&[leaf].into_iter().chain(issuers).collect::<Vec<_>>()))
}

fn id(random: Random<'_>) -> [u8; 16] {
    let mut id = [0; 16];
    random(&mut id);
    id
}

fn check_name(name: &str) -> Result<(), PkiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let valid = (1..=NAME_CHARACTERS_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(allowed);
    if valid { Ok(()) } else { Err(PkiError::Name { name: name.to_owned() }) }
}
