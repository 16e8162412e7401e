//! Chains that have been verified before.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::{ChainError, Leaf, VerifiedChain, verify};
use crate::playready::ecc::PublicKey;

/// What one entry is taken to weigh beyond its bytes.
const ENTRY_BYTES: usize = 1024;
/// Total weight, 64 MiB: about 28,000 typical chains, and never more than 65,536. It is a weight
/// and not a count because a device may pad its chain with unsigned data.
const CACHE_BYTES: usize = 64 << 20;

/// Verifies chains up to one root and remembers the successes, by SHA-256 of the chain's bytes
/// and by the leaf that was asked for.
///
/// A hit costs one hash instead of a signature verification for each certificate. Expiration is
/// checked at every use; failures and revocation are never remembered. The least recently used
/// half is forgotten when the cache is full.
pub struct ChainCache {
    root: PublicKey,
    generations: Mutex<Generations>,
}

type Key = ([u8; 32], Leaf);

/// Entries used since the last turn, and those used only before it.
#[derive(Default)]
struct Generations {
    young: HashMap<Key, Arc<VerifiedChain>>,
    old: HashMap<Key, Arc<VerifiedChain>>,
    young_bytes: usize,
}

impl ChainCache {
    /// An empty cache of chains that end at `root`.
    pub fn new(root: PublicKey) -> Self {
        Self { root, generations: Mutex::default() }
    }

    /// The key that every chain must end at.
    pub fn root(&self) -> &PublicKey {
        &self.root
    }

    /// As [`verify()`], from memory where possible. `now_s` is in Unix seconds.
    ///
    /// # Errors
    /// As [`verify()`]; a remembered chain that has expired since is verified again, which says
    /// which of its certificates has expired.
    pub fn verify(
        &self,
        bytes: &[u8],
        leaf: Leaf,
        now_s: u64,
    ) -> Result<Arc<VerifiedChain>, ChainError> {
        let key = (Sha256::digest(bytes).into(), leaf);
        let known = self.with(|generations| generations.get(&key));
        let is_current =
            |chain: &Arc<VerifiedChain>| chain.expires_at().is_none_or(|at| now_s < at);
        if let Some(chain) = known.filter(is_current) {
            return Ok(chain);
        }
        let chain = Arc::new(verify(bytes, &self.root, leaf, now_s)?);
        self.with(|generations| generations.insert(key, Arc::clone(&chain)));
        Ok(chain)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Generations) -> T) -> T {
        // A panic elsewhere cannot leave a wrong entry behind: entries are whole and immutable.
        act(&mut self.generations.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Generations {
    fn get(&mut self, key: &Key) -> Option<Arc<VerifiedChain>> {
        if let Some(chain) = self.young.get(key) {
            return Some(Arc::clone(chain));
        }
        let chain = self.old.remove(key)?;
        self.insert(*key, Arc::clone(&chain));
        Some(chain)
    }

    fn insert(&mut self, key: Key, chain: Arc<VerifiedChain>) {
        let weight = ENTRY_BYTES + chain.bytes().len();
        if self.young_bytes + weight > CACHE_BYTES / 2 {
            self.old = mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(key, chain).is_none() {
            self.young_bytes += weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: &[u8] = include_bytes!("../../../tests/golden/chain.bcert");
    const ROOT: &[u8] = include_bytes!("../../../tests/golden/pki/root.pub.pem");

    fn cache() -> ChainCache {
        ChainCache::new(PublicKey::from_pem(ROOT).unwrap())
    }

    #[test]
    fn a_known_chain_is_answered_from_memory_and_per_leaf() {
        let cache = cache();
        let first = cache.verify(CHAIN, Leaf::Device, 1).unwrap();
        let second = cache.verify(CHAIN, Leaf::Device, 2).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(cache.verify(CHAIN, Leaf::Server, 2).err(), Some(ChainError::LeafType));
    }

    #[test]
    fn failures_are_not_remembered() {
        let cache = cache();
        let mut changed = CHAIN.to_vec();
        changed[40] ^= 1;
        assert!(cache.verify(&changed, Leaf::Device, 1).is_err());
        assert!(cache.with(|generations| generations.young.is_empty()));
    }

    #[test]
    fn the_cache_forgets_what_was_not_used_and_stays_bounded() {
        let mut generations = Generations::default();
        let chain =
            Arc::new(verify(CHAIN, &PublicKey::from_pem(ROOT).unwrap(), Leaf::Device, 1).unwrap());
        let key = |n: u32| {
            let mut digest = [0; 32];
            digest[..4].copy_from_slice(&n.to_be_bytes());
            (digest, Leaf::Device)
        };
        let weight = ENTRY_BYTES + CHAIN.len();
        for n in 1..100_000 {
            generations.insert(key(n), Arc::clone(&chain));
            assert!(generations.get(&key(1)).is_some(), "the entry in use was dropped at {n}");
            let entries = generations.young.len() + generations.old.len();
            assert!(entries * weight <= CACHE_BYTES);
        }
        assert!(generations.get(&key(2)).is_none());
    }
}
