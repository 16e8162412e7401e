//! The keys that every process in front of a ledger has to have in common.
//!
//! | key | with another one | at a start |
//! |---|---|---|
//! | reference key | every device and account looks new, and their quotas begin anew | refused |
//! | key of API keys | keys made by one process open nothing at the others | refused |
//! | root | devices of another infrastructure are let in, those of this one are not | refused |
//! | WMRMServer key | challenges for the one key cannot be read with the other | warned about |
//! | signing key of responses | nothing: each response brings its chain to the root | warned about |
//!
//! The first process stores fingerprints of its own; whoever starts later compares. A ledger of an
//! earlier version gets them at its next start. What an operator changes on purpose is accepted by
//! name, which is an event as well. The master key is no such key: each process seals its own copy of
//! the content keys, and whether these are complete is compared by their check values.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::LicensingError;
use crate::domain::event::KeysPinned;
use crate::domain::{Digest, Event};
use crate::ledger::tail::Fact;
use crate::ledger::{Append, AppendError, Expected, Ledger, NewEvent, StreamName};

/// What processes agree on beside their keys. Another number, another ledger.
const FORMAT: u32 = 1;
const STREAM: &str = "pins";

/// The streams that every ledger has from its first start on, and the types of their events: a ledger
/// of an earlier version has only the second.
pub const BEGINNINGS: [(&str, &str); 2] =
    [(STREAM, "keys-pinned.v1"), ("policy", "quota-policy-published.v1")];

/// A key that processes have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PinnedKey {
    /// Turns external ids into references.
    Reference,
    /// Authenticates API keys.
    Api,
    /// Chains of devices end there.
    Root,
    /// Challenges are encrypted to it.
    Wmrm,
    /// Signs responses.
    ServerSign,
}

impl PinnedKey {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Reference, Self::Api, Self::Root, Self::Wmrm, Self::ServerSign];

    /// Its name on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Reference => "reference-key",
            Self::Api => "api-key",
            Self::Root => "root",
            Self::Wmrm => "wmrm",
            Self::ServerSign => "server-sign",
        }
    }

    /// The file that it is in.
    const fn file(self) -> &'static str {
        match self {
            Self::Reference => "reference.key of the secrets directory",
            Self::Api => "api.key of the secrets directory",
            Self::Root => "root.pub.pem of the PKI",
            Self::Wmrm => "wmrm.pem of the PKI",
            Self::ServerSign => "server_sign.pem of the PKI",
        }
    }

    /// Whether a promise is broken where two processes have different ones.
    const fn must_be_equal(self) -> bool {
        matches!(self, Self::Reference | Self::Api | Self::Root)
    }

    /// As it is accepted on the command line.
    const fn flag(self) -> &'static str {
        match self {
            Self::Reference => "--changed reference-key",
            Self::Api => "--changed api-key",
            Self::Root => "--changed root",
            Self::Wmrm => "--changed wmrm",
            Self::ServerSign => "--changed server-sign",
        }
    }

    fn of(self, pinned: &KeysPinned) -> Digest {
        match self {
            Self::Reference => pinned.reference_key,
            Self::Api => pinned.api_key,
            Self::Root => pinned.root,
            Self::Wmrm => pinned.wmrm,
            Self::ServerSign => pinned.server_sign,
        }
    }

    fn place(self, pinned: &mut KeysPinned) -> &mut Digest {
        match self {
            Self::Reference => &mut pinned.reference_key,
            Self::Api => &mut pinned.api_key,
            Self::Root => &mut pinned.root,
            Self::Wmrm => &mut pinned.wmrm,
            Self::ServerSign => &mut pinned.server_sign,
        }
    }
}

impl fmt::Display for PinnedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for PinnedKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|key| key.word() == text);
        found.ok_or_else(|| format!("it has to be one of {}", words(&Self::ALL, ", ", Self::word)))
    }
}

/// Fingerprints of the keys that a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pins {
    /// Of the reference key.
    pub reference_key: Digest,
    /// Of the key that authenticates API keys.
    pub api_key: Digest,
    /// Of the root.
    pub root: Digest,
    /// Of the WMRMServer key.
    pub wmrm: Digest,
    /// Of the key that signs responses.
    pub server_sign: Digest,
}

/// Why a process must not work on a ledger. Each text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// It has other keys than the ledger was begun with.
    #[error(
        "another key than this ledger was begun with is in {files}; put the file of a process that \
         serves the ledger there, or, if it was changed on purpose, stop all processes and run \
         `license-ledger keys accept {flags} --reason TEXT`",
        files = words(.0, ", ", PinnedKey::file),
        flags = words(.0, " ", PinnedKey::flag)
    )]
    Differs(Vec<PinnedKey>),
    /// It agrees on something else.
    #[error(
        "this ledger has format {found}, and this version works with {FORMAT}; use a version that \
         works with it"
    )]
    Format {
        /// The ledger's format.
        found: u32,
    },
    /// A key that is to be accepted is the one that is there already.
    #[error("{} is the key that the ledger was begun with; nothing has to be accepted", .0.file())]
    Unchanged(PinnedKey),
    /// No process has served the ledger with these keys.
    #[error("this ledger has no keys to compare with yet; its next start takes note of them")]
    Unpinned,
    /// The ledger does not answer.
    #[error(transparent)]
    Failed(#[from] LicensingError),
}

/// Refuses keys that are others than those in the ledger. One that has none yet is content with any.
pub async fn compare(ledger: &Ledger, own: &[(PinnedKey, Digest)]) -> Result<(), PinError> {
    let Some((pinned, _)) = last(ledger).await? else { return Ok(()) };
    let others = own.iter().filter(|(key, own)| key.of(&pinned) != *own).map(|(key, _)| *key);
    check(&pinned, others)
}

impl Pins {
    /// Keys that are others than those in the ledger, though they must not be.
    pub fn forbidden(&self, pinned: &KeysPinned) -> Vec<PinnedKey> {
        self.others(pinned).filter(|key| key.must_be_equal()).collect()
    }

    /// Refuses keys that are others than those in the ledger, and says where they may be. A ledger
    /// that has none yet takes these.
    pub async fn settle(&self, ledger: &Ledger, now_ms: i64) -> Result<(), PinError> {
        loop {
            if let Some((pinned, _)) = last(ledger).await? {
                self.others(&pinned).filter(|key| !key.must_be_equal()).for_each(warn);
                return check(&pinned, self.others(&pinned));
            }
            let first = KeysPinned {
                format: FORMAT,
                reference_key: self.reference_key,
                api_key: self.api_key,
                root: self.root,
                wmrm: self.wmrm,
                server_sign: self.server_sign,
                actor: "configuration".to_owned(),
                reason: "first start with this ledger".to_owned(),
                at_ms: now_ms,
            };
            append(ledger, first, Expected::NoStream).await?;
        }
    }

    /// Stores that these keys have changed. What else is another key than before is refused, or left as
    /// it was if it may be another one.
    pub async fn accept(
        &self,
        ledger: &Ledger,
        changed: &BTreeSet<PinnedKey>,
        (actor, reason): (&str, &str),
        now_ms: i64,
    ) -> Result<(), PinError> {
        loop {
            let (mut pinned, revision) = last(ledger).await?.ok_or(PinError::Unpinned)?;
            let others: BTreeSet<_> = self.others(&pinned).collect();
            if let Some(same) = changed.iter().find(|key| !others.contains(key)) {
                return Err(PinError::Unchanged(*same));
            }
            changed.iter().for_each(|key| *key.place(&mut pinned) = self.own(*key));
            check(&pinned, self.others(&pinned))?;
            (pinned.actor, pinned.reason) = (actor.to_owned(), reason.to_owned());
            pinned.at_ms = now_ms.max(pinned.at_ms + 1);
            if append(ledger, pinned, Expected::At(revision)).await? {
                return Ok(());
            }
        }
    }

    fn others(&self, pinned: &KeysPinned) -> impl Iterator<Item = PinnedKey> {
        PinnedKey::ALL.into_iter().filter(|key| key.of(pinned) != self.own(*key))
    }

    fn own(&self, key: PinnedKey) -> Digest {
        match key {
            PinnedKey::Reference => self.reference_key,
            PinnedKey::Api => self.api_key,
            PinnedKey::Root => self.root,
            PinnedKey::Wmrm => self.wmrm,
            PinnedKey::ServerSign => self.server_sign,
        }
    }
}

fn check(pinned: &KeysPinned, others: impl Iterator<Item = PinnedKey>) -> Result<(), PinError> {
    if pinned.format != FORMAT {
        return Err(PinError::Format { found: pinned.format });
    }
    let forbidden: Vec<_> = others.filter(|key| key.must_be_equal()).collect();
    if forbidden.is_empty() { Ok(()) } else { Err(PinError::Differs(forbidden)) }
}

fn warn(key: PinnedKey) {
    tracing::warn!(
        key = key.word(),
        "another key than this ledger was begun with is in {}; if it was changed on purpose, \
         `license-ledger keys accept {} --reason TEXT` says so",
        key.file(),
        key.flag(),
    );
}

fn stream() -> Result<StreamName, LicensingError> {
    Ok(StreamName::new(STREAM)?)
}

/// What counts, and its revision.
async fn last(ledger: &Ledger) -> Result<Option<(KeysPinned, u64)>, LicensingError> {
    let stream = stream()?;
    let Some(recorded) = ledger.read_stream_backwards(&stream, u64::MAX, 1).await?.pop() else {
        return Ok(None);
    };
    let revision = recorded.revision;
    match Fact::of(recorded)?.event {
        Event::KeysPinned(pinned) => Ok(Some((*pinned, revision))),
        other => Err(LicensingError::Stream { stream: stream.to_string(), kind: other.kind() }),
    }
}

/// Stores a fact; `false` if another process was faster.
async fn append(
    ledger: &Ledger,
    pinned: KeysPinned,
    expected: Expected,
) -> Result<bool, LicensingError> {
    let stream = stream()?;
    let event = NewEvent::of(&stream, &Event::KeysPinned(Box::new(pinned)), "start")?;
    let append =
        Append { records: vec![(stream.clone(), event)], checks: vec![(stream, expected)] };
    match ledger.append(append).await {
        Ok(_) => Ok(true),
        Err(AppendError::Conflict { .. } | AppendError::IdReused { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn words(keys: &[PinnedKey], between: &str, word: impl Fn(PinnedKey) -> &'static str) -> String {
    keys.iter().map(|key| word(*key)).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests;
