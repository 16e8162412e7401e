//! Registers content keys and key seeds, and finds the keys of KIDs for packagers.
//!
//! A content key goes to disk, then into the ledger, and only then to anyone. A crash in between
//! leaves a key that counts for nothing, and importing the same file again mends it. Where it is not
//! known whether the ledger took a key, the next look at the ledger tells, and gives it out.

use std::collections::HashSet;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::book::{Book, KeyPage};
use super::{ATTEMPTS, RegisterError, Registered, Registry, is_race};
use crate::domain::event::{
    ContentKeyBound, ContentKeyRegistered, KeySeedRegistered, KeySource, MasterKeyRotated,
};
use crate::domain::{Event, KeyId, KeyRole, KeyType};
use crate::keys::{ContentKey, ImportedKey, KeySeed, Source};
use crate::ledger::{Expected, StreamName};
use crate::licensing::{LicensingError, binding, random_bytes};
use crate::playready::content_key::ContentKey as WireKey;
use crate::playready::key_seed::KeySeed as WireSeed;
use crate::playready::kid::Kid;

/// KIDs registered in one append: two events each, well below what the ledger takes at once.
pub(super) const KEYS_AT_ONCE: usize = 250;

/// What happens to KIDs that have no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// They get a random one, which is registered.
    Create,
    /// They are refused.
    Refuse,
}

impl Registry {
    /// Reads what is registered and makes the key store agree with it. Returns how many keys and
    /// seeds are registered and not in the store.
    pub async fn load(&self) -> Result<usize, LicensingError> {
        let mut book = self.book.lock().await;
        book.refresh(&self.ledger).await?;
        let missing_keys = self.keys.agree(registered_in(&book), book.key_ids());
        let missing_seeds = book.seed_ids().filter(|seed_id| self.keys.seed(seed_id).is_none());
        Ok(missing_keys + missing_seeds.count())
    }

    /// Registers content keys, and how they encrypt where that is said. All or none, unless another
    /// process registers or binds one of them in this very moment.
    pub async fn content_keys(
        &self,
        imported: &[ImportedKey],
        actor: &str,
    ) -> Result<Registered, RegisterError> {
        let keys: Vec<_> = imported.iter().map(|key| (key.key_id, key.key.clone())).collect();
        let types = imported.iter().filter_map(|key| Some((key.key_id, key.key_type?)));
        let types: Vec<_> = types.collect();
        let mut book = self.book.lock().await;
        book.refresh(&self.ledger).await?;
        let fresh = unregistered(&book, &keys)?;
        self.bindings(&book, &fresh).await?;
        // Before the keys are given out, lest a license takes a type from elsewhere.
        self.settle_types(&types, None, actor).await?;
        self.register(&mut book, &keys, &fresh, actor).await?;
        Ok(Registered { added: fresh.len(), known: keys.len() - fresh.len() })
    }

    /// Registers a key seed; tells whether it was not known before. Seeds never change either, even
    /// if the key store has lost one.
    pub async fn key_seed(
        &self,
        seed_id: &str,
        seed: &KeySeed,
        actor: &str,
    ) -> Result<bool, RegisterError> {
        let mut book = self.book.lock().await;
        book.refresh(&self.ledger).await?;
        let check_value = check_value_of_seed(&WireSeed::new(seed)?);
        let registered = book.check_value_of_seed(seed_id);
        if registered.is_some_and(|registered| registered != check_value) {
            return Err(RegisterError::SeedRegistered(seed_id.to_owned()));
        }
        let added = self.keys.add_seed(seed_id, seed)?;
        if registered.is_none() {
            let event = |at_ms| {
                let (seed_id, actor) = (seed_id.to_owned(), actor.to_owned());
                let check_value = HEXLOWER.encode(&check_value);
                Event::KeySeedRegistered(KeySeedRegistered { seed_id, check_value, actor, at_ms })
            };
            self.append_one(&Book::stream()?, event).await?;
        }
        Ok(added)
    }

    /// The content key registered for a KID, if it has one of its own.
    pub fn registered_key(&self, key_id: KeyId) -> Option<ContentKey> {
        self.keys.content_key(key_id)
    }

    /// The keys of these KIDs, each named once, for somebody who encrypts content with them in the
    /// way that stands beside each: neither changes any more, and none is a root's. In no order.
    ///
    /// Once begun it goes on to its end, also when nobody waits for the keys any more.
    pub async fn keys_for(
        self: &Arc<Self>,
        wanted: Vec<(KeyId, KeyType)>,
        unknown: Unknown,
        actor: String,
    ) -> Result<Vec<(KeyId, ContentKey)>, RegisterError> {
        let registry = Arc::clone(self);
        let found =
            tokio::spawn(async move { registry.find_or_make(&wanted, unknown, &actor).await });
        found.await.map_err(|_| LicensingError::Ended)?
    }

    async fn find_or_make(
        &self,
        wanted: &[(KeyId, KeyType)],
        unknown: Unknown,
        actor: &str,
    ) -> Result<Vec<(KeyId, ContentKey)>, RegisterError> {
        let key_ids: Vec<_> = wanted.iter().map(|(key_id, _)| *key_id).collect();
        let mut book = self.book.lock().await;
        for _ in 0..ATTEMPTS {
            book.refresh(&self.ledger).await?;
            self.keys.promote(&key_ids, registered_in(&book));
            let Plan { found, bind, create } = self.plan(&book, &key_ids).await?;
            if let (Some((key_id, _)), Unknown::Refuse) = (create.first(), unknown) {
                return Err(RegisterError::UnknownKey(*key_id));
            }
            self.settle_types(wanted, Some(KeyRole::Content), actor).await?;
            match create.first() {
                _ if !self.bind(&book, bind).await? => continue,
                None => return Ok(found),
                Some(_) => {
                    self.register(&mut book, &create, &create, actor).await?;
                    return Ok(found.into_iter().chain(create).collect());
                }
            }
        }
        Err(LicensingError::Contended.into())
    }

    /// Registered content keys and seeds from the row `from` on: those that are registered at
    /// `position`, or else now.
    pub async fn list(
        &self,
        from: u64,
        position: Option<u64>,
        limit: usize,
    ) -> Result<KeyPage, LicensingError> {
        let mut book = self.book.lock().await;
        let last = self.ledger.last_sequence().await?;
        book.refresh(&self.ledger).await?;
        let position = position.unwrap_or(last.map_or(0, |last| last + 1));
        let mut page = book.page(from, position, limit);
        drop(book);
        for row in &mut page.rows {
            if let Some(key_id) = row.key_id() {
                row.key_type = self.key_type(key_id).await?;
            }
        }
        Ok(page)
    }

    /// Records that keys and seeds were sealed under another master key.
    pub async fn master_key_rotated(&self, actor: &str) -> Result<(), LicensingError> {
        let _book = self.book.lock().await;
        let event =
            |at_ms| Event::MasterKeyRotated(MasterKeyRotated { actor: actor.to_owned(), at_ms });
        self.append_one(&Book::stream()?, event).await
    }

    /// Stores all `keys`, registers those that are `fresh`, and gives all out from then on.
    async fn register(
        &self,
        book: &mut Book,
        keys: &[(KeyId, ContentKey)],
        fresh: &[(KeyId, ContentKey)],
        actor: &str,
    ) -> Result<(), RegisterError> {
        self.keys.store(keys)?;
        for chunk in fresh.chunks(KEYS_AT_ONCE) {
            self.register_chunk(book, chunk, actor).await?;
        }
        self.keys.serve(keys);
        Ok(())
    }

    async fn register_chunk(
        &self,
        book: &mut Book,
        chunk: &[(KeyId, ContentKey)],
        actor: &str,
    ) -> Result<(), RegisterError> {
        let stream = Book::stream()?;
        for _ in 0..ATTEMPTS {
            let chunk = unregistered(book, chunk)?;
            if chunk.is_empty() {
                return Ok(());
            }
            let at_ms = self.clock.now().0.max(book.at_ms);
            let mut checks = vec![(stream.clone(), book.expected())];
            let mut events = Vec::with_capacity(chunk.len());
            for (key_id, key) in &chunk {
                let (key_id, actor) = (*key_id, actor.to_owned());
                let check_value = HEXLOWER.encode(&check_value(key_id, key));
                let event = ContentKeyRegistered { key_id, check_value, actor, at_ms };
                events.push((stream.clone(), Event::ContentKeyRegistered(event)));
            }
            for (key_id, stream, expected) in self.bindings(book, &chunk).await? {
                if expected == Expected::NoStream {
                    let source = KeySource::Registered;
                    let event = ContentKeyBound { key_id, source, at_ms };
                    events.push((stream.clone(), Event::ContentKeyBound(event)));
                }
                checks.push((stream, expected));
            }
            match self.append(&events, checks).await {
                Ok(()) => return Ok(book.refresh(&self.ledger).await?),
                Err(LicensingError::Append(error)) if is_race(&error) => {
                    book.refresh(&self.ledger).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(LicensingError::Contended.into())
    }

    /// The streams that say where the keys of these KIDs come from, as they are. None while no seed
    /// is registered: then no KID can have got its key from one, and `book` is checked as well.
    ///
    /// # Errors
    /// [`RegisterError::Bound`] to a seed that derives another key.
    async fn bindings(
        &self,
        book: &Book,
        keys: &[(KeyId, ContentKey)],
    ) -> Result<Vec<(KeyId, StreamName, Expected)>, RegisterError> {
        let mut bindings = Vec::new();
        if book.seed_ids().next().is_none() {
            return Ok(bindings);
        }
        for (key_id, key) in keys {
            let expected = match binding::find(&self.ledger, *key_id).await? {
                None => Expected::NoStream,
                Some(KeySource::Seed { seed_id }) => {
                    self.keys.remember_bound(*key_id, &seed_id);
                    let derived = self.keys.seed(&seed_id).map(|seed| derive(*key_id, &seed));
                    if derived
                        .transpose()?
                        .is_none_or(|derived| !bool::from(derived.ct_eq(key.as_slice())))
                    {
                        return Err(RegisterError::Bound { key_id: *key_id, seed_id });
                    }
                    Expected::At(0)
                }
                Some(_) => Expected::At(0),
            };
            let stream = binding::stream_of(*key_id).map_err(LicensingError::from)?;
            bindings.push((*key_id, stream, expected));
        }
        Ok(bindings)
    }

    /// Finds the key of each KID.
    async fn plan(&self, book: &Book, key_ids: &[KeyId]) -> Result<Plan, RegisterError> {
        let mut plan = Plan::default();
        let seeds = book.seed_ids().next().is_some();
        for key_id in key_ids {
            let mut bound = false;
            if seeds
                && self.keys.content_key(*key_id).is_none()
                && let Some(KeySource::Seed { seed_id }) =
                    binding::find(&self.ledger, *key_id).await?
            {
                self.keys.remember_bound(*key_id, &seed_id);
                bound = true;
            }
            match self.keys.source(*key_id, None)? {
                Some(Source::Registered(key)) => plan.found.push((*key_id, key)),
                Some(Source::Seed { seed_id, seed }) => {
                    plan.found.push((*key_id, derive(*key_id, &seed)?));
                    if !bound {
                        plan.bind.push((*key_id, seed_id));
                    }
                }
                None => plan.create.push((*key_id, self.stored_or_new(*key_id)?)),
            }
        }
        Ok(plan)
    }

    /// The key for a KID that has none. One that is on disk already comes before a new one: how its
    /// registration ended may not be known, and then no other may be registered.
    fn stored_or_new(&self, key_id: KeyId) -> Result<ContentKey, LicensingError> {
        match self.keys.stored_key(key_id) {
            Some(stored) => Ok(stored),
            None => Ok(Zeroizing::new(random_bytes()?)),
        }
    }

    /// Binds KIDs to the seeds that give them their keys; `false` if one was bound or registered
    /// meanwhile.
    async fn bind(&self, book: &Book, bind: Vec<(KeyId, String)>) -> Result<bool, LicensingError> {
        let at_ms = self.clock.now().0.max(book.at_ms);
        for chunk in bind.chunks(KEYS_AT_ONCE) {
            let (mut events, mut checks) = (Vec::new(), Vec::new());
            for (key_id, seed_id) in chunk {
                let stream = binding::stream_of(*key_id)?;
                let (key_id, seed_id) = (*key_id, seed_id.clone());
                let source = KeySource::Seed { seed_id };
                let event = ContentKeyBound { key_id, source, at_ms };
                events.push((stream.clone(), Event::ContentKeyBound(event)));
                checks.push((stream, Expected::NoStream));
            }
            match self.append(&events, checks).await {
                Err(LicensingError::Append(error)) if is_race(&error) => return Ok(false),
                outcome => outcome?,
            }
            for (key_id, seed_id) in chunk {
                self.keys.remember_bound(*key_id, seed_id);
            }
        }
        Ok(true)
    }
}

/// Where the keys of some KIDs are to come from.
#[derive(Default)]
struct Plan {
    found: Vec<(KeyId, ContentKey)>,
    /// Those among the found that come from a seed which they are not bound to yet.
    bind: Vec<(KeyId, String)>,
    /// Keys to be registered for KIDs that have none.
    create: Vec<(KeyId, ContentKey)>,
}

/// Those of `keys` that are not registered, each once.
fn unregistered(
    book: &Book,
    keys: &[(KeyId, ContentKey)],
) -> Result<Vec<(KeyId, ContentKey)>, RegisterError> {
    let (mut fresh, mut seen) = (Vec::new(), HashSet::new());
    for (key_id, key) in keys {
        match book.check_value(*key_id) {
            Some(known) if known != check_value(*key_id, key) => {
                return Err(RegisterError::Registered(*key_id));
            }
            None if seen.insert(*key_id) => fresh.push((*key_id, key.clone())),
            _ => {}
        }
    }
    Ok(fresh)
}

/// Tells whether a key is the one that is registered for its KID.
fn registered_in(book: &Book) -> impl Fn(KeyId, &ContentKey) -> bool {
    |key_id, key| book.check_value(key_id) == Some(check_value(key_id, key))
}

fn derive(key_id: KeyId, seed: &KeySeed) -> Result<ContentKey, RegisterError> {
    let key = WireSeed::new(seed)?.content_key(Kid::from(key_id.0));
    Ok(Zeroizing::new(*key.expose()))
}

fn check_value(key_id: KeyId, key: &ContentKey) -> [u8; 8] {
    WireKey::new(**key).checksum(Kid::from(key_id.0))
}

/// By which a copy of a seed can be recognized: the check value of the key it gives for the nil
/// KID.
fn check_value_of_seed(seed: &WireSeed) -> [u8; 8] {
    let nil = Kid::from(Uuid::nil());
    seed.content_key(nil).checksum(nil)
}

#[cfg(test)]
mod tests;
