//! Key files: 32 random bytes each, readable by their owner only.
//!
//! | file | what it is for |
//! |---|---|
//! | `reference.key` | turns external account and device ids into the references in events |
//! | `api.key` | authenticates API keys |
//! | `master.key` | seals content keys at rest |
//!
//! A file named after one of them with `.next` at its end is a key that is about to replace it.
//!
//! They live outside the data directory, so that a copy of the data alone opens nothing. A file is
//! the 32 bytes and nothing else.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Length of every key in this module, in bytes.
pub const SECRET_BYTES: usize = 32;
/// No text that is authenticated with any of the keys holds a NUL.
const FINGERPRINT_LABEL: &[u8] = b"license-ledger\0fingerprint";
/// Bytes of a text secret that are read, at most.
const TEXT_BYTES_MAX: usize = 4096;

/// A 256-bit key. It does not print, is compared in constant time and zeroed when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// Takes over the bytes of a key.
    pub const fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    /// The key itself, for the cryptographic call that needs it.
    pub const fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// By what the key is recognized, and never found out: HMAC-SHA-256 of a fixed label under it.
    pub fn fingerprint(&self) -> [u8; 32] {
        let tag = hmac::sign(&hmac::Key::new(HMAC_SHA256, &self.0), FINGERPRINT_LABEL);
        tag.as_ref().first_chunk().copied().unwrap_or_default()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a key file could not be used; each text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There is no such file. Making another one would lose everything the old one protects.
    #[error("key file {} does not exist; restore it from a backup", path.display())]
    Missing {
        /// The file looked for.
        path: PathBuf,
    },
    /// A file is already there; it is never overwritten.
    #[error("key file {} already exists and is never overwritten; move it away first", path.display())]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// Other users of the machine may read or write the file.
    #[error(
        "key file {path} has mode {mode:04o}, so other users can open it; run: chmod 600 {path}",
        path = path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold exactly 32 bytes.
    #[error("key file {} does not hold exactly 32 bytes; restore it from a backup", path.display())]
    WrongLength {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} key file {}; check the directory and its owner", path.display())]
    Io {
        /// `read`, `create`, `replace` or `remove`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Fills an array with randomness of the operating system.
///
/// # Errors
///
/// When the operating system has none to give.
pub fn os_random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| io::Error::other("the operating system gave no randomness"))?;
    Ok(bytes)
}

/// Reads a key file.
///
/// # Errors
///
/// [`SecretError::Missing`], [`SecretError::TooOpen`] for any permission of group or others,
/// [`SecretError::WrongLength`], [`SecretError::Io`].
pub fn read(path: &Path) -> Result<Secret, SecretError> {
    let (mut file, length) = open_private(path)?;
    if length != SECRET_BYTES as u64 {
        return Err(SecretError::WrongLength { path: path.to_owned() });
    }
    let mut secret = Secret([0; SECRET_BYTES]);
    file.read_exact(&mut secret.0).map_err(|source| unreadable(path, source))?;
    Ok(secret)
}

/// Reads a secret that is text, shared with other programs and in a form of theirs.
///
/// # Errors
///
/// As [`read`], whatever the length.
pub fn read_text(path: &Path) -> Result<Zeroizing<String>, SecretError> {
    let (file, _) = open_private(path)?;
    let mut text = Zeroizing::new(String::with_capacity(TEXT_BYTES_MAX));
    let read = file.take(TEXT_BYTES_MAX as u64).read_to_string(&mut text);
    read.map_err(|source| unreadable(path, source))?;
    Ok(text)
}

/// Opens a file that only its owner may open; its length.
fn open_private(path: &Path) -> Result<(File, u64), SecretError> {
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    let metadata = file.metadata().map_err(|source| unreadable(path, source))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::TooOpen { path: path.to_owned(), mode });
    }
    Ok((file, metadata.len()))
}

fn unreadable(path: &Path, source: io::Error) -> SecretError {
    match source.kind() {
        io::ErrorKind::NotFound => SecretError::Missing { path: path.to_owned() },
        _ => SecretError::Io { action: "read", path: path.to_owned(), source },
    }
}

/// Writes a key file with mode 0600, and its directory with mode 0700 if there is none.
///
/// The file appears complete and on disk, or not at all, and never replaces another.
///
/// # Errors
///
/// [`SecretError::Exists`], [`SecretError::Io`].
pub fn create(path: &Path, secret: &Secret) -> Result<(), SecretError> {
    write_new(path, secret).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => SecretError::Exists { path: path.to_owned() },
        _ => SecretError::Io { action: "create", path: path.to_owned(), source },
    })
}

fn write_new(path: &Path, secret: &Secret) -> io::Result<()> {
    let directory = directory_of(path);
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // Made with mode 0600 and linked into place, which fails where a file already is.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(secret.expose())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|failed| failed.error)?;
    fs::File::open(directory)?.sync_all()
}

/// Reads a key file, or writes `fresh` to it where there is none.
///
/// Only for a data directory that holds nothing yet: a new key does not open what an old one closed.
///
/// # Errors
///
/// As [`read`] and [`create`].
pub fn read_or_create(path: &Path, fresh: &Secret) -> Result<Secret, SecretError> {
    match read(path) {
        Err(SecretError::Missing { .. }) => {}
        found => return found,
    }
    match create(path, fresh) {
        Ok(()) => Ok(fresh.clone()),
        // Another process was faster; its key is the one that counts.
        Err(SecretError::Exists { .. }) => read(path),
        Err(failed) => Err(failed),
    }
}

/// Puts the key file `next` in the place of the one at `path`, which is lost: at once, so that there
/// is one or the other at any time.
///
/// # Errors
///
/// [`SecretError::Io`].
pub fn replace(path: &Path, next: &Path) -> Result<(), SecretError> {
    let replaced = fs::rename(next, path).and_then(|()| File::open(directory_of(path))?.sync_all());
    replaced.map_err(|source| SecretError::Io { action: "replace", path: path.to_owned(), source })
}

/// Removes a key file, if there is one.
///
/// # Errors
///
/// [`SecretError::Io`].
pub fn discard(path: &Path) -> Result<(), SecretError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(SecretError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creates_an_owner_only_file_and_reads_it_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/api.key");
        create(&path, &Secret::new([7; 32])).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let parent = path.parent().unwrap();
        assert_eq!(fs::metadata(parent).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read(&path).unwrap(), [7; 32]);
        assert!(read(&path).unwrap() == Secret::new([7; 32]));
    }

    #[test]
    fn never_overwrites_a_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.key");
        create(&path, &Secret::new([1; 32])).unwrap();
        let refused = create(&path, &Secret::new([2; 32])).unwrap_err();
        assert!(matches!(refused, SecretError::Exists { .. }), "{refused}");
        assert!(read_or_create(&path, &Secret::new([3; 32])).unwrap() == Secret::new([1; 32]));
    }

    #[test]
    fn refuses_a_file_that_others_can_open_and_names_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.key");
        create(&path, &Secret::new([1; 32])).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = read(&path).unwrap_err().to_string();
            assert!(refused.contains(&format!("chmod 600 {}", path.display())), "{refused}");
            assert!(refused.contains(&format!("{mode:04o}")), "{refused}");
        }
    }

    #[test]
    fn refuses_any_other_length() {
        let directory = tempfile::tempdir().unwrap();
        for length in [0, 31, 33, 64] {
            let path = directory.path().join(format!("{length}.key"));
            fs::write(&path, vec![b'k'; length]).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(read(&path), Err(SecretError::WrongLength { .. })), "{length}");
        }
    }

    #[test]
    fn a_missing_file_is_an_error_until_it_may_be_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.key");
        assert!(matches!(read(&path), Err(SecretError::Missing { .. })));
        assert!(read_or_create(&path, &Secret::new([9; 32])).unwrap() == Secret::new([9; 32]));
        assert!(read(&path).unwrap() == Secret::new([9; 32]));
    }

    #[test]
    fn a_key_is_replaced_by_the_next_one_and_a_next_one_can_be_discarded() {
        let directory = tempfile::tempdir().unwrap();
        let (path, next) =
            (directory.path().join("api.key"), directory.path().join("api.key.next"));
        create(&path, &Secret::new([1; 32])).unwrap();
        create(&next, &Secret::new([2; 32])).unwrap();
        replace(&path, &next).unwrap();
        assert!(read(&path).unwrap() == Secret::new([2; 32]));
        assert!(replace(&path, &next).is_err());
        assert!(read(&path).unwrap() == Secret::new([2; 32]));
        create(&next, &Secret::new([3; 32])).unwrap();
        discard(&next).unwrap();
        assert!(!next.exists());
        discard(&next).unwrap();
    }

    #[test]
    fn a_fingerprint_is_the_hmac_of_the_label() {
        // python3: hmac.new(b"\x07"*32, b"license-ledger\0fingerprint", "sha256").hexdigest()
        let expected = "855fa03c082438bbf70293f992ce08e4d2b4a84e2753d2c34462fab383caacca";
        let fingerprint = Secret::new([7; 32]).fingerprint();
        assert_eq!(data_encoding::HEXLOWER.encode(&fingerprint), expected);
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new([0x41; 32])), "Secret(..)");
    }
}
