//! How often one key or one device may call.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock as _, MonotonicClock};
use governor::{DefaultKeyedRateLimiter, Quota};

/// The caller has used up its allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests; wait {} s and try again", retry_after.as_secs())]
pub struct TooFast {
    /// When to try again: whole seconds, at least one.
    pub retry_after: Duration,
}

/// Counts calls by key: so many a minute, and a burst of so many at once.
///
/// It measures on a monotonic clock, which nothing else reads: rates outlive neither the process
/// nor a change of the machine's time, and decide nothing that is recorded. Keys whose allowance is
/// whole again are forgotten, so memory is bounded by the calls of the last minute.
pub struct RateLimiter<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    checks: AtomicU32,
}

impl<K: Hash + Eq + Clone> RateLimiter<K> {
    /// A limiter that refills `per_minute` calls a minute, up to `burst`.
    pub fn new(per_minute: NonZeroU32, burst: NonZeroU32) -> Self {
        let quota = Quota::per_minute(per_minute).allow_burst(burst);
        Self { limiter: DefaultKeyedRateLimiter::keyed(quota), checks: AtomicU32::new(0) }
    }

    /// Takes one call from the allowance of `key`.
    ///
    /// # Errors
    ///
    /// [`TooFast`] when nothing is left; this call then counts for nothing.
    pub fn check(&self, key: &K) -> Result<(), TooFast> {
        if self.checks.fetch_add(1, Ordering::Relaxed).is_multiple_of(CHECKS_BETWEEN_SWEEPS) {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        self.limiter.check_key(key).map_err(|not_until| {
            let wait = not_until.wait_time_from(MonotonicClock.now());
            TooFast { retry_after: Duration::from_secs(wait.as_secs() + 1) }
        })
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.limiter.len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.limiter.is_empty()
    }
}

impl<K: Hash + Eq + Clone> fmt::Debug for RateLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter").field("keys", &self.len()).finish_non_exhaustive()
    }
}

/// A sweep visits every key, so it is worth its cost only once in many calls.
const CHECKS_BETWEEN_SWEEPS: u32 = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(per_minute: u32, burst: u32) -> RateLimiter<u32> {
        RateLimiter::new(per_minute.try_into().unwrap(), burst.try_into().unwrap())
    }

    #[test]
    fn allows_a_burst_and_then_says_when_to_come_back() {
        let limiter = limiter(6, 3);
        assert_eq!([limiter.check(&1), limiter.check(&1), limiter.check(&1)], [Ok(()); 3]);
        let refused = limiter.check(&1).unwrap_err();
        assert!((1..=10).contains(&refused.retry_after.as_secs()), "{refused}");
    }

    #[test]
    fn counts_each_key_by_itself() {
        let limiter = limiter(1, 1);
        assert!(limiter.check(&1).is_ok());
        assert!(limiter.check(&1).is_err());
        assert!(limiter.check(&2).is_ok());
    }

    #[test]
    fn forgets_keys_whose_allowance_is_whole_again() {
        // A thousand calls a second: an allowance is whole again after a millisecond.
        let limiter = limiter(60_000, 1);
        for key in 0..CHECKS_BETWEEN_SWEEPS {
            let _ = limiter.check(&key);
        }
        std::thread::sleep(Duration::from_millis(20));
        let _ = limiter.check(&0);
        assert!(limiter.len() <= 1, "{} keys remembered", limiter.len());
    }
}
