//! Using licenses: what a client enforces of their conditions (sections 5.3, 5.5 and 11).
//!
//! A license plays from its begin on until its end and grace, its removal date, or the end of the
//! time that its first play started; a leaf only under a root that plays as well, and both count
//! their first play. Output protections are read and not enforced: there is no output here.

use uuid::Uuid;

use super::answer::VerifiedLicense;
use super::error::{SimulatorError, Unacceptable, Unplayable};
use super::store::StoredLicense;
use super::{Device, Sample, seconds};
use crate::clock::Clock;
use crate::playready::kid::Kid;
use crate::playready::policy::LicensePolicy;
use crate::playready::xmr::{OpenError, OpenedLicense, Root, open, open_leaf};

/// A license that may not be stored. Gone with the process.
pub(super) struct InMemory {
    kid: Kid,
    xmr: Vec<u8>,
    first_played_at: Option<u64>,
}

impl From<&VerifiedLicense> for InMemory {
    fn from(license: &VerifiedLicense) -> Self {
        Self { kid: license.opened.kid, xmr: license.xmr.clone(), first_played_at: None }
    }
}

/// Until when a license plays, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// From then on playback cannot be started.
    pub valid_until: Option<u64>,
    /// Then playback stops by itself: real-time expiration. Without it, what has begun is played
    /// to its end.
    pub stops_at: Option<u64>,
}

/// Playback of one KID's content, which has begun.
pub struct Playback {
    /// The license that allows it.
    pub license: OpenedLicense,
    /// Until when.
    pub term: Term,
    clock: Clock,
}

impl Playback {
    /// Decrypts a sample.
    ///
    /// # Errors
    ///
    /// [`SimulatorError::CannotPlay`] if the license has expired in real time, or its key is for
    /// another mode of AES.
    pub fn decrypt(&self, sample: &Sample) -> Result<Vec<u8>, SimulatorError> {
        let now_s = seconds(&self.clock);
        let because = match self.term.stops_at.filter(|stop| now_s >= *stop) {
            Some(stop) => Unplayable::Ended(stop),
            None if sample.key_type != self.license.key_type => {
                Unplayable::KeyType(self.license.key_type.name())
            }
            None => return Ok(sample.decrypt(&self.license.content_key)),
        };
        Err(SimulatorError::CannotPlay { kid: self.license.kid, because })
    }
}

/// A license at hand, stored or not.
#[derive(Clone, Copy)]
struct Held<'a> {
    place: Place,
    kid: Kid,
    xmr: &'a [u8],
    first_played_at: Option<u64>,
}

#[derive(Clone, Copy)]
enum Place {
    Stored(Uuid),
    InMemory(usize),
}

/// A license that has been opened.
struct Link {
    place: Place,
    first_played_at: Option<u64>,
    opened: OpenedLicense,
}

/// A license, with the root that it hangs on if it is a leaf.
struct Chain {
    own: Link,
    root: Option<Link>,
}

impl Device {
    /// Begins to play, with a license for `kid` that allows it at this moment. The first play is
    /// on disk before this returns.
    ///
    /// # Errors
    ///
    /// [`SimulatorError::CannotPlay`] if no license is held that allows it, with the reason of the
    /// newest one; or the store cannot be written.
    pub fn start(&mut self, kid: Kid) -> Result<Playback, SimulatorError> {
        self.remove_due()?;
        let now_s = seconds(&self.clock);
        let mut because = Unplayable::NotHeld;
        let held: Vec<_> = self.held(kid).flat_map(|held| self.chains(held)).collect();
        for chain in held {
            let chain = chain.map_err(Unplayable::from);
            match chain.and_then(|chain| Ok((chain.term(self.security_level, now_s)?, chain))) {
                Ok((term, chain)) => {
                    chain.links().try_for_each(|link| self.note_play(link, now_s))?;
                    let clock = self.clock.clone();
                    return Ok(Playback { license: chain.own.opened, term, clock });
                }
                Err(reason) => because = reason,
            }
        }
        Err(SimulatorError::CannotPlay { kid, because })
    }

    /// Decrypts a sample with a license for `kid` that allows it at this moment.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start) and [`Playback::decrypt`].
    pub fn play(&mut self, kid: Kid, sample: &Sample) -> Result<Vec<u8>, SimulatorError> {
        self.start(kid)?.decrypt(sample)
    }

    /// Opens a stored license, to show what it says. A leaf opens only with a root that is held.
    ///
    /// # Errors
    ///
    /// The file was changed, or belongs to another device; a leaf without its root.
    pub fn open_stored(&self, license: &StoredLicense) -> Result<OpenedLicense, Unacceptable> {
        self.chain_of(license).map(|chain| chain.own.opened).map_err(Unacceptable::from)
    }

    /// Until when a stored license plays; nothing is counted as a play.
    ///
    /// # Errors
    ///
    /// Why it does not play at this moment.
    pub fn term(&self, license: &StoredLicense) -> Result<Term, Unplayable> {
        let now_s = seconds(&self.clock);
        let chains = self.chains(Held::from(license)).into_iter();
        let mut terms = chains.map(|chain| chain?.term(self.security_level, now_s));
        let first = terms.next().unwrap_or(Err(Unplayable::NotHeld));
        first.or_else(|because| terms.find_map(Result::ok).ok_or(because))
    }

    /// Root licenses at hand for this KID.
    pub(super) fn roots(&self, kid: Kid) -> Vec<OpenedLicense> {
        self.held(kid).filter_map(|held| open(held.xmr, &self.encrypt).ok()).collect()
    }

    /// Removes the licenses whose removal date has come.
    pub(super) fn remove_due(&mut self) -> Result<(), SimulatorError> {
        let now_s = seconds(&self.clock);
        let is_due = |license: &&StoredLicense| {
            let chain = self.chain_of(license);
            let date = chain.ok().and_then(|chain| chain.own.opened.policy.removal);
            date.is_some_and(|date| now_s >= u64::from(date))
        };
        let due = self.store.licenses().iter().filter(is_due).map(|license| license.rights_id);
        let due: Vec<_> = due.collect();
        self.store.expire(&due)
    }

    /// Every license at hand for this KID, oldest first.
    fn held(&self, kid: Kid) -> impl Iterator<Item = Held<'_>> {
        let stored = self.store.licenses().iter().map(Held::from);
        let in_memory = self.in_memory.iter().enumerate().map(|(index, license)| Held {
            place: Place::InMemory(index),
            kid: license.kid,
            xmr: &license.xmr,
            first_played_at: license.first_played_at,
        });
        stored.chain(in_memory).filter(move |held| held.kid == kid)
    }

    fn chain_of(&self, license: &StoredLicense) -> Result<Chain, OpenError> {
        let mut chains = self.chains(Held::from(license)).into_iter();
        chains.next().unwrap_or(Err(OpenError::OtherRoot))
    }

    /// Every way to open a license, at least one, even if it fails: a leaf can have several roots.
    fn chains(&self, held: Held<'_>) -> Vec<Result<Chain, OpenError>> {
        let root_kid = match open(held.xmr, &self.encrypt) {
            Err(OpenError::NeedsRoot(root_kid)) => root_kid,
            opened => {
                return vec![opened.map(|opened| Chain { own: held.link(opened), root: None })];
            }
        };
        let roots = self
            .held(root_kid)
            .filter_map(|root| open(root.xmr, &self.encrypt).ok().map(|opened| root.link(opened)));
        let chains = roots.map(|root| {
            let key = Root { kid: root_kid, key: &root.opened.content_key };
            let own = held.link(open_leaf(held.xmr, &key)?);
            Ok(Chain { own, root: Some(root) })
        });
        let chains: Vec<_> = chains.collect();
        if chains.is_empty() { vec![Err(OpenError::NeedsRoot(root_kid))] } else { chains }
    }

    fn note_play(&mut self, link: &Link, now_s: u64) -> Result<(), SimulatorError> {
        if link.opened.policy.first_play_seconds.is_none() {
            return Ok(());
        }
        match link.place {
            Place::Stored(rights_id) => self.store.played(rights_id, now_s)?,
            Place::InMemory(index) => {
                if let Some(license) = self.in_memory.get_mut(index) {
                    license.first_played_at.get_or_insert(now_s);
                }
            }
        }
        Ok(())
    }
}

impl<'a> From<&'a StoredLicense> for Held<'a> {
    fn from(license: &'a StoredLicense) -> Self {
        Self {
            place: Place::Stored(license.rights_id),
            kid: Kid::from(license.kid),
            xmr: &license.xmr.0,
            first_played_at: license.first_played_at,
        }
    }
}

impl Held<'_> {
    fn link(&self, opened: OpenedLicense) -> Link {
        Link { place: self.place, first_played_at: self.first_played_at, opened }
    }
}

impl Chain {
    fn links(&self) -> impl Iterator<Item = &Link> {
        std::iter::once(&self.own).chain(&self.root)
    }

    /// Until when all of the chain plays, if it plays at `now_s`.
    fn term(&self, security_level: u32, now_s: u64) -> Result<Term, Unplayable> {
        let of = |link: &Link| {
            expiry(&link.opened.policy, security_level, link.first_played_at, now_s)
                .map(|until| (until, link.opened.policy.real_time))
        };
        let mut limits = vec![of(&self.own)?];
        if let Some(root) = &self.root {
            let kid = root.opened.kid;
            let limit = of(root);
            limits.push(limit.map_err(|because| Unplayable::Root(kid, Box::new(because)))?);
        }
        let in_real_time = limits.iter().filter(|(_, real_time)| *real_time);
        Ok(Term {
            stops_at: in_real_time.filter_map(|(until, _)| *until).min(),
            valid_until: limits.iter().filter_map(|(until, _)| *until).min(),
        })
    }
}

/// When a license that plays at `now_s` stops to be valid, if it does. One that was not played yet
/// counts from `now_s`.
fn expiry(
    policy: &LicensePolicy,
    security_level: u32,
    first_played_at: Option<u64>,
    now_s: u64,
) -> Result<Option<u64>, Unplayable> {
    let required = policy.sl.number();
    if security_level < required {
        return Err(Unplayable::SecurityLevel { required, device: security_level });
    }
    if let Some(begin) = policy.begin.filter(|begin| now_s < u64::from(*begin)) {
        return Err(Unplayable::NotBegun(begin.into()));
    }
    // The ledger counts a persistent license for just as long.
    let end = policy.counted_until_s();
    if let Some(end) = end.filter(|end| now_s >= *end) {
        return Err(Unplayable::Ended(end));
    }
    let first_play = first_played_at.unwrap_or(now_s);
    let over = policy.first_play_seconds.map(|limit| first_play.saturating_add(limit.into()));
    if let Some(over) = over.filter(|over| now_s >= *over) {
        return Err(Unplayable::FirstPlayOver { first_play, over });
    }
    Ok(end.into_iter().chain(over).min())
}
