//! The files of revocation lists.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::playready::ecc::PublicKey;
use crate::playready::rev_info::{FILE_BYTES_MAX, RevInfo};
use crate::playready::revocation::Revocation;

/// Where lists are, and the root that their signers belong to: `revinfo.xml` in the folder of the
/// PKI, and all files that end in `.xml` in a folder of their own.
pub struct ListFiles {
    single: PathBuf,
    folder: PathBuf,
    /// Whether the folder was named, so that it has to be there.
    is_named: bool,
    root: PublicKey,
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl ListFiles {
    /// Lists for the PKI in `pki`, in the folder `named`, or else in `revocation` of the PKI, which
    /// may be missing.
    pub fn new(pki: &Path, named: Option<&Path>, root: PublicKey) -> Self {
        Self {
            single: pki.join("revinfo.xml"),
            folder: named.map_or_else(|| pki.join("revocation"), Path::to_owned),
            is_named: named.is_some(),
            root,
        }
    }

    /// The folder that new lists are put into.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files there are, in the order of their names.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn paths(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut paths = self.in_folder().with_context(|| {
            let folder = self.folder.display();
            format!("cannot read the folder of revocation lists {folder}; make it readable")
        })?;
        paths.sort();
        // `try_exists`, so that one that cannot be looked at is not taken for missing.
        if self.single.try_exists().unwrap_or(true) {
            paths.insert(0, self.single.clone());
        }
        Ok(paths)
    }

    fn in_folder(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_named => {
                return Ok(Vec::new());
            }
            entries => entries?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "xml") {
                paths.push(path);
            }
        }
        Ok(paths)
    }

    /// Reads and verifies one file at the time `now_s` (Unix seconds); else says what is wrong
    /// with it.
    pub fn read(&self, path: &Path, now_s: u64) -> Result<Revocation, String> {
        let said = |error: &dyn std::error::Error| {
            let causes = std::iter::successors(Some(error), |error| error.source());
            causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
        };
        let bytes = contents(path).map_err(|error| error.to_string())?;
        let read = RevInfo::parse(&bytes).map_err(|error| said(&error))?;
        read.verify(&self.root, now_s).map_err(|error| said(&error))
    }
}

impl fmt::Display for ListFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.folder.display())
    }
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// The bytes of a file, unless it is so large that it cannot be one of lists.
fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if metadata.len() > FILE_BYTES_MAX as u64 {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    fs::read(path)
}
