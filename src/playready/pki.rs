//! The files of a public key infrastructure (section 14), as values.
//!
//! ```text
//! wmrm.pem, wmrm.pub.pem            the WMRMServer key: challenges are encrypted to it
//! root.pub.pem                      the key that every chain must end at
//! server_sign.pem                   signs responses
//! server_chain.bcert                CHAI of its certificate
//! revinfo.xml, revocation/*.xml     optional: signed revocation lists, one <RevInfo> element each
//! root.pem                          labs only: the private half of the root
//! models/<name>/model.pem           labs only: issues devices
//! models/<name>/model.bcert         CHAI of its certificate, without a leaf
//! devices/<name>/sign.pem           simulator only: SIGN key
//! devices/<name>/encrypt.pem        ENCRYPT_KEY key
//! devices/<name>/chain.bcert        CHAI, DEVICE leaf first
//! devices/<name>/wmrm.pub.pem       ours: so that the folder can be moved; else that of the PKI
//! ```
//!
//! Nothing here touches the disk: readers are closures from a path, relative to the folder and
//! with `/`, to the file's bytes, and what is made is returned as [`PkiFile`]s.

mod mint;

pub use mint::{DeviceSpec, LAB_MODEL, Model, mint_device, new_lab};

use std::io;

use zeroize::Zeroizing;

use super::bcert::{Chain, ChainError, Leaf, VerifiedChain, verify};
use super::ecc::{BadKeyFile, PrivateKey, PublicKey};

/// Files with secrets that a server reads: readable by their owner only.
pub const PRIVATE_FILES: [&str; 2] = ["wmrm.pem", "server_sign.pem"];

/// What a license server needs, checked as section 14 says, apart from its revocation lists, which
/// [`RevInfo`](super::rev_info::RevInfo) reads. Has no `Debug`.
pub struct Pki {
    /// The private half of the WMRMServer key: decrypts challenges.
    pub wmrm: PrivateKey,
    /// The key that every chain must end at.
    pub root: PublicKey,
    /// Signs responses.
    pub server_sign: PrivateKey,
    /// The chain of `server_sign`.
    pub server_chain: VerifiedChain,
}

/// What a simulated device needs. Has no `Debug`.
pub struct DeviceFiles {
    /// Signs challenges.
    pub sign: PrivateKey,
    /// Licenses are wrapped to its public half.
    pub encrypt: PrivateKey,
    /// The device's own chain.
    pub chain: VerifiedChain,
    /// The key that the device trusts: the one that its own chain ends at.
    pub root: PublicKey,
    /// Challenges are encrypted to this key.
    pub wmrm: PublicKey,
}

/// A file to be written.
pub struct PkiFile {
    /// Relative to the PKI's folder, with `/`.
    pub path: String,
    /// What to write. Wiped when dropped.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Readable by its owner only.
    pub private: bool,
}

/// What is wrong with a file, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The file cannot be read.
    #[error("{path} of the PKI cannot be read; restore it or point to another PKI folder")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file is no key.
    #[error("{path} of the PKI does not hold the key that belongs there; replace the file")]
    Key {
        /// The file.
        path: String,
        /// What was expected.
        source: BadKeyFile,
    },
    /// The file is no chain that can be accepted.
    #[error("{path} of the PKI is not an accepted certificate chain; have it issued again")]
    Chain {
        /// The file.
        path: String,
        /// Which rule does not hold.
        source: ChainError,
    },
    /// A key and a certificate do not belong together.
    #[error("{key} is not the key that {chain} certifies; put files of one set together")]
    Mismatch {
        /// The key's file.
        key: &'static str,
        /// The chain's file.
        chain: &'static str,
    },
    /// A name that cannot be a folder's.
    #[error("{name:?} cannot name a folder; use up to 64 letters, digits, '-', '_' and '.'")]
    Name {
        /// The name.
        name: String,
    },
}

impl Pki {
    /// Reads and checks the files of a server at the time `now_s` (Unix seconds).
    ///
    /// # Errors
    /// The first file that is missing, malformed, or does not fit the others.
    pub fn load(
        mut read: impl FnMut(&str) -> io::Result<Vec<u8>>,
        now_s: u64,
    ) -> Result<Self, PkiError> {
        let wmrm = private_key(&mut read, "wmrm.pem")?;
        let root = public_key(&mut read, "root.pub.pem")?;
        let server_sign = private_key(&mut read, "server_sign.pem")?;
        let server_chain =
            verified_chain(&mut read, "server_chain.bcert", &root, Leaf::Server, now_s)?;
        if server_chain.signing_key() != server_sign.public() {
            return Err(PkiError::Mismatch { key: "server_sign.pem", chain: "server_chain.bcert" });
        }
        Ok(Self { wmrm, root, server_sign, server_chain })
    }
}

impl DeviceFiles {
    /// Reads and checks the files of a device's folder at the time `now_s` (Unix seconds).
    ///
    /// The WMRMServer key is `wmrm.pub.pem` in that folder, or else `../../wmrm.pub.pem`, where
    /// the device's PKI has it.
    ///
    /// # Errors
    /// The first file that is missing, malformed, or does not fit the others.
    pub fn load(
        mut read: impl FnMut(&str) -> io::Result<Vec<u8>>,
        now_s: u64,
    ) -> Result<Self, PkiError> {
        let sign = private_key(&mut read, "sign.pem")?;
        let encrypt = private_key(&mut read, "encrypt.pem")?;
        let bytes = contents(&mut read, "chain.bcert")?;
        let root = trust_anchor(&bytes).map_err(|source| chain_error("chain.bcert", source))?;
        let chain = verify(&bytes, &root, Leaf::Device, now_s)
            .map_err(|source| chain_error("chain.bcert", source))?;
        if chain.signing_key() != sign.public() {
            return Err(PkiError::Mismatch { key: "sign.pem", chain: "chain.bcert" });
        }
        if chain.encrypt_key() != Some(encrypt.public()) {
            return Err(PkiError::Mismatch { key: "encrypt.pem", chain: "chain.bcert" });
        }
        let own = optional(&mut read, WMRM_PUBLIC)?;
        let wmrm = match own {
            Some(pem) => parse_public_key(WMRM_PUBLIC, &pem)?,
            None => public_key(&mut read, WMRM_PUBLIC_OF_PKI)?,
        };
        Ok(Self { sign, encrypt, chain, root, wmrm })
    }
}

const WMRM_PUBLIC: &str = "wmrm.pub.pem";
const WMRM_PUBLIC_OF_PKI: &str = "../../wmrm.pub.pem";

type Read<'a> = &'a mut dyn FnMut(&str) -> io::Result<Vec<u8>>;

fn contents(read: Read<'_>, path: &str) -> Result<Vec<u8>, PkiError> {
    read(path).map_err(|source| PkiError::Read { path: path.to_owned(), source })
}

fn optional(read: Read<'_>, path: &str) -> Result<Option<Vec<u8>>, PkiError> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read { path: path.to_owned(), source }),
    }
}

fn private_key(read: Read<'_>, path: &str) -> Result<PrivateKey, PkiError> {
    let pem = Zeroizing::new(contents(read, path)?);
    PrivateKey::from_pem(&pem).map_err(|source| PkiError::Key { path: path.to_owned(), source })
}

fn public_key(read: Read<'_>, path: &str) -> Result<PublicKey, PkiError> {
    parse_public_key(path, &contents(read, path)?)
}

fn parse_public_key(path: &str, pem: &[u8]) -> Result<PublicKey, PkiError> {
    PublicKey::from_pem(pem).map_err(|source| PkiError::Key { path: path.to_owned(), source })
}

fn verified_chain(
    read: Read<'_>,
    path: &str,
    root: &PublicKey,
    leaf: Leaf,
    now_s: u64,
) -> Result<VerifiedChain, PkiError> {
    let bytes = contents(read, path)?;
    verify(&bytes, root, leaf, now_s).map_err(|source| chain_error(path, source))
}

/// The key that a chain ends at.
fn trust_anchor(chain: &[u8]) -> Result<PublicKey, ChainError> {
    let chain = Chain::parse(chain)?;
    chain.certificates().last().map(|top| top.issuer).ok_or(ChainError::Root)
}

fn chain_error(path: &str, source: ChainError) -> PkiError {
    PkiError::Chain { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
