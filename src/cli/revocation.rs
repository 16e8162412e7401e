//! Signed revocation lists on disk: which files there are, and keeping to the newest while serving.

mod files;

pub use files::ListFiles;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, UnixMillis};
use crate::licensing::{Licensing, TakenLists};
use crate::playready::revocation::Revocation;
use files::Stamp;

/// How often the files are looked at. A look reads their metadata, and a file only if that changed.
const PAUSE: Duration = Duration::from_secs(2);

/// Section 3: lists are refreshed at least weekly.
const FRESH_S: u64 = 7 * DAY_S;
const DAY_S: u64 = 24 * 60 * 60;

/// Follows the files of lists, and warns of what an operator should mend.
pub struct Watch {
    files: ListFiles,
    clock: Clock,
    /// Files as they were when they were read; `None` if they could not be found.
    seen: BTreeMap<PathBuf, Option<Stamp>>,
    /// The file that the lists in force came from, as long as it is there.
    source: Option<PathBuf>,
    /// Why the folder could not be read at the last look.
    unreadable: Option<String>,
    warned_of_age_s: Option<u64>,
    /// Why the lists in force could not be recorded at the last look.
    unrecorded: Option<String>,
}

/// Lists that verify, and where they are from.
type Found = (PathBuf, Revocation);

impl Watch {
    /// Reads all lists and returns the newest. Others that do not verify are warned of. `taken` are
    /// those that were in force last.
    ///
    /// # Errors
    ///
    /// The configured folder cannot be read; there are files and none of them verifies, or none as
    /// new as those that were in force: then nobody could say whether a device is revoked.
    pub fn open(
        files: ListFiles,
        taken: Option<TakenLists>,
        clock: Clock,
    ) -> anyhow::Result<(Self, Option<Revocation>)> {
        let mut watch = Self {
            files,
            clock,
            seen: BTreeMap::new(),
            source: None,
            unreadable: None,
            warned_of_age_s: None,
            unrecorded: None,
        };
        let paths = watch.files.paths()?;
        let newest = watch.newest(&paths, taken);
        if let Some((path, lists)) = &newest {
            watch.source = Some(path.clone());
            watch.warn_of_age(lists);
        }
        if let (None, Some(taken)) = (&newest, taken) {
            anyhow::bail!(
                "revocation lists {} were in force before, and there are none as new in {}; put \
                 them back, or add newer ones",
                taken.sequence,
                watch.files
            );
        }
        anyhow::ensure!(
            newest.is_some() || paths.is_empty(),
            "no revocation lists in {} can be used (the warnings before this say why); replace \
             them, or remove them to serve without any",
            watch.files
        );
        Ok((watch, newest.map(|(_, lists)| lists)))
    }

    /// Looks again and again, until the task is aborted.
    pub async fn follow(mut self, licensing: Arc<Licensing>) {
        loop {
            tokio::time::sleep(PAUSE).await;
            let looking = Arc::clone(&licensing);
            let looked = tokio::task::spawn_blocking(move || {
                let advanced = self.look(&looking);
                (self, advanced)
            });
            // A panic was reported when it happened.
            let Ok((watch, advanced)) = looked.await else { return };
            self = watch;
            if advanced || self.unrecorded.is_some() {
                self.record(&licensing).await;
            }
        }
    }

    /// Records the lists in force; what fails is tried again after the next look.
    async fn record(&mut self, licensing: &Licensing) {
        let failed = licensing.record_revocation().await.err().map(|error| error.to_string());
        if let Some(reason) =
            failed.as_ref().filter(|reason| self.unrecorded.as_ref() != Some(reason))
        {
            tracing::warn!(reason, "the revocation lists in force could not be recorded: {reason}");
        }
        self.unrecorded = failed;
    }

    /// Looks once, and puts newer lists in force; tells whether it did.
    fn look(&mut self, licensing: &Licensing) -> bool {
        let mut advanced = false;
        match self.files.paths() {
            Ok(paths) => {
                self.unreadable = None;
                advanced = self.look_at(&paths, licensing);
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if self.unreadable.as_ref() != Some(&reason) {
                    tracing::warn!(reason, "{reason}; the revocation lists in force stay");
                    self.unreadable = Some(reason);
                }
            }
        }
        if let Some(lists) = licensing.revocation() {
            self.warn_of_age(&lists);
        }
        advanced
    }

    fn look_at(&mut self, paths: &[PathBuf], licensing: &Licensing) -> bool {
        self.seen.retain(|path, _| paths.contains(path));
        if let Some(source) = self.source.take_if(|source| !paths.contains(source)) {
            warn(&source, "is gone: its revocation lists stay in force; the next start needs them");
        }
        let in_force = licensing.revocation();
        let in_force = in_force.as_deref().map(TakenLists::of);
        let Some((path, lists)) = self.newest(paths, in_force) else { return false };
        let (sequence, revoked) = (lists.sequence(), lists.revoked().count());
        let advanced = licensing.advance_revocation(lists);
        if advanced {
            tracing::info!(
                sequence,
                revoked,
                "revocation lists {sequence} of {} are in force; certificates revoked: {revoked}",
                path.display()
            );
            self.source = Some(path);
            self.warned_of_age_s = None;
        }
        advanced
    }

    /// Reads what has changed, and returns the newest lists in it that may follow those in force.
    fn newest(&mut self, paths: &[PathBuf], in_force: Option<TakenLists>) -> Option<Found> {
        let mut newest: Option<Found> = None;
        for path in paths {
            let stamp = Stamp::of(path);
            if self.seen.get(path) == Some(&stamp) {
                continue;
            }
            self.seen.insert(path.clone(), stamp);
            let read = self.files.read(path, self.now_s());
            let read =
                read.and_then(|lists| match in_force.and_then(|held| held.objection(&lists)) {
                    Some(objection) => Err(objection),
                    None => Ok(lists),
                });
            let known = newest.as_ref().map(|(_, lists)| lists.sequence());
            match read {
                Ok(lists) if known < Some(lists.sequence()) => newest = Some((path.clone(), lists)),
                Ok(_) => {}
                Err(reason) => warn(path, &format!("is not taken: {reason}")),
            }
        }
        newest
    }

    fn warn_of_age(&mut self, lists: &Revocation) {
        let now_s = self.now_s();
        if is_due(lists.issued_at_s(), now_s, self.warned_of_age_s) {
            self.warned_of_age_s = Some(now_s);
            let sequence = lists.sequence();
            let issued_at = time(lists);
            tracing::warn!(
                sequence,
                %issued_at,
                "revocation lists {sequence} are of {issued_at}, more than a week ago; add newer \
                 ones to {}",
                self.files
            );
        }
    }

    fn now_s(&self) -> u64 {
        u64::try_from(self.clock.now().seconds()).unwrap_or_default()
    }
}

/// When lists were issued.
pub fn time(lists: &Revocation) -> UnixMillis {
    UnixMillis(i64::try_from(lists.issued_at_s()).unwrap_or(i64::MAX).saturating_mul(1000))
}

/// Whether to warn that lists issued at this time are older than a week: once a day at most.
fn is_due(issued_at_s: u64, now_s: u64, warned_s: Option<u64>) -> bool {
    now_s.saturating_sub(issued_at_s) > FRESH_S
        && warned_s.is_none_or(|warned_s| now_s.saturating_sub(warned_s) >= DAY_S)
}

fn warn(path: &Path, what: &str) {
    let path = path.display();
    tracing::warn!(%path, "revocation list {path} {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_warned_of_after_a_week_and_once_a_day() {
        let issued = 1_700_000_000;
        let week = issued + FRESH_S;
        assert!(!is_due(issued, issued, None));
        assert!(!is_due(issued, week, None));
        assert!(is_due(issued, week + 1, None));
        assert!(!is_due(issued, week + DAY_S, Some(week + 1)));
        assert!(is_due(issued, week + 1 + DAY_S, Some(week + 1)));
        // Neither lists from the future nor a clock that was set back cause noise.
        assert!(!is_due(issued, 0, None));
        assert!(!is_due(issued, week + 2, Some(week + DAY_S)));
    }
}
