//! Copies a log from one ledger to another: to a cluster, from one, or between directories.
//!
//! ```text
//! 1  compare   what the target holds with the beginning of the source     nothing, after the first run
//! 2  copy      the rest, one append after another
//! 3  verify    the rest again, as both sides give it back
//!              └─ 1 and 3 together read each event of both sides once, for the digests
//! ```
//!
//! **What is copied** is every event that the ledger holds, in log order: ours and those of the
//! [users](super::users). An event keeps its stream, revision, id, type, data and metadata, byte for
//! byte, and its sequence; cursors are each ledger's own. The source is taken as long as it is when
//! the copy begins. What comes later is copied by the next run.
//!
//! **An interrupted copy** leaves the beginning of the source behind, whatever interrupted it, since
//! events are appended in log order and each append is stored whole or not at all. Nothing else
//! remembers how far it came. Each append names the revisions that its streams have to be at, and has
//! the ids of the source, so that it can be sent again when its outcome is not known; and the place
//! that it got must be the one that its events have in the source, so that nobody else can have
//! written in between.

mod batch;
mod digest;
mod pages;

use std::time::Duration;

use tokio::time::{Instant, sleep};

use self::batch::batches;
use self::digest::Comparison;
pub use self::digest::{Difference, Digest};
use self::pages::Pages;
use super::{Append, AppendError, Ledger, ReadError, Recorded, Unavailable};

/// One of the two ledgers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that is copied.
    Source,
    /// The one that is written.
    Target,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// What a copy is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It compares what the target holds already.
    Comparing,
    /// It appends what the target lacks.
    Copying,
    /// It reads back what it appended.
    Verifying,
}

/// How far a copy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// The events that this stage is through with.
    pub done: u64,
    /// The events of this stage.
    pub of: u64,
}

/// A copy that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The events that both sides hold.
    pub events: u64,
    /// Those of them that this run appended.
    pub copied: u64,
    /// The digest of the source, over all of them.
    pub source: Digest,
    /// The digest of what the target gives back, which is the same.
    pub target: Digest,
}

/// Why a copy is not complete. What was appended by then is the beginning of the source.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The target holds something else. Nothing was appended.
    #[error(
        "event {sequence} of the target is not that of the source: {difference}; choose an empty \
         target, or one that holds the beginning of the same source"
    )]
    Differs {
        /// Where the two part.
        sequence: u64,
        /// How.
        difference: Difference,
    },
    /// The target goes on where the source ends. Nothing was appended.
    #[error(
        "the target holds all {source_events} events of the source and goes on with others \
         ({target_events} in all); choose an empty target, or one that holds the beginning of the \
         same source"
    )]
    Longer {
        /// Events of the source.
        source_events: u64,
        /// Events of the target.
        target_events: u64,
    },
    /// Somebody else writes to the target.
    #[error(
        "somebody else writes to the target: event {sequence} of the source has another place \
         there; stop whatever serves the target, and begin anew with an empty one"
    )]
    NotAlone {
        /// The first event that could have got another place.
        sequence: u64,
    },
    /// What the target gives back is not what was appended.
    #[error(
        "the target does not give event {sequence} back as the source has it: {difference}; the \
         copy is not to be used"
    )]
    Garbled {
        /// The event.
        sequence: u64,
        /// How it differs.
        difference: Difference,
    },
    /// A side cannot be read.
    #[error("the {side} cannot be read at event {sequence}; run the same command again to go on")]
    Read {
        /// Which one.
        side: Side,
        /// The event.
        sequence: u64,
        /// Why.
        source: ReadError,
    },
    /// A side does not bring events that it has.
    #[error("the {side} does not bring event {sequence}; run the same command again to go on")]
    Missing {
        /// Which one.
        side: Side,
        /// The event.
        sequence: u64,
    },
    /// The target does not take an event.
    #[error(
        "the target does not take the events from {sequence} on; run the same command again to go \
         on once it does"
    )]
    Append {
        /// The first event that it did not take.
        sequence: u64,
        /// Why.
        source: AppendError,
    },
}

impl CopyError {
    /// Whether the target is refused for what it holds, so that trying again cannot help.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Differs { .. } | Self::Longer { .. })
    }
}

/// Makes `target` hold what `source` holds, and says how it comes along. See the [module](self).
pub async fn copy(
    source: &Ledger,
    target: &Ledger,
    mut report: impl FnMut(Progress),
) -> Result<Copied, CopyError> {
    let end = events(source, Side::Source).await?;
    let there = events(target, Side::Target).await?;
    let mut run = Run { source, target, report: &mut report };
    let mut comparison = Comparison::default();
    let shared = there.min(end);
    let differs = |sequence, difference| CopyError::Differs { sequence, difference };
    let compared = run.compare(Stage::Comparing, 0, shared, &mut comparison).await;
    compared.map_err(|unequal| unequal.into_error(differs))?;
    if there > end {
        return Err(CopyError::Longer { source_events: end, target_events: there });
    }
    run.copy(there, end).await?;
    let garbled = |sequence, difference| CopyError::Garbled { sequence, difference };
    let verified = run.compare(Stage::Verifying, there, end, &mut comparison).await;
    verified.map_err(|unequal| unequal.into_error(garbled))?;
    // Whoever else wrote to the target did so behind the last append.
    if events(target, Side::Target).await? != end {
        return Err(CopyError::NotAlone { sequence: end });
    }
    let (source, target) = comparison.digests();
    Ok(Copied { events: end, copied: end - there, source, target })
}

async fn events(ledger: &Ledger, side: Side) -> Result<u64, CopyError> {
    let last = ledger.last_sequence().await;
    let last = last.map_err(|source| CopyError::Read { side, sequence: 0, source })?;
    Ok(last.map_or(0, |last| last + 1))
}

/// A copy at work.
struct Run<'a> {
    source: &'a Ledger,
    target: &'a Ledger,
    report: &'a mut dyn FnMut(Progress),
}

/// Why two ranges of events were not found to be equal.
enum Unequal {
    Differs((u64, Difference)),
    Failed(CopyError),
}

impl From<CopyError> for Unequal {
    fn from(error: CopyError) -> Self {
        Self::Failed(error)
    }
}

impl Unequal {
    /// The error that it is, if a difference is what `differs` says.
    fn into_error(self, differs: impl FnOnce(u64, Difference) -> CopyError) -> CopyError {
        match self {
            Self::Differs((sequence, difference)) => differs(sequence, difference),
            Self::Failed(error) => error,
        }
    }
}

impl Run<'_> {
    /// Reads both sides from `from` to `end`, as far as they are equal.
    async fn compare(
        &mut self,
        stage: Stage,
        from: u64,
        end: u64,
        comparison: &mut Comparison,
    ) -> Result<(), Unequal> {
        let mut pages = Pages::new(from, end);
        while let Some(wanted) = pages.next() {
            (self.report)(Progress { stage, done: wanted.from - from, of: end - from });
            let source = read(self.source, Side::Source, wanted.from, wanted.count);
            let target = read(self.target, Side::Target, wanted.from, wanted.count);
            let (source, target) = tokio::try_join!(source, target)?;
            let same = comparison.take(&source, &target).map_err(Unequal::Differs)?;
            pages.advance(same, &source);
        }
        (self.report)(Progress { stage, done: end - from, of: end - from });
        Ok(())
    }

    /// Appends the events of the source from `from` to `end`.
    async fn copy(&mut self, from: u64, end: u64) -> Result<(), CopyError> {
        let stage = Stage::Copying;
        let mut pages = Pages::new(from, end);
        while let Some(wanted) = pages.next() {
            let page = read(self.source, Side::Source, wanted.from, wanted.count).await?;
            pages.advance(page.len(), &page);
            let mut first = wanted.from;
            for batch in batches(page) {
                (self.report)(Progress { stage, done: first - from, of: end - from });
                let count = batch.records.len() as u64;
                append(self.target, batch, first).await?;
                first += count;
            }
        }
        (self.report)(Progress { stage, done: end - from, of: end - from });
        Ok(())
    }
}

/// At least one event from `from` on, at most `limit`.
async fn read(
    ledger: &Ledger,
    side: Side,
    from: u64,
    limit: usize,
) -> Result<Vec<Recorded>, CopyError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = match ledger.read_all(from, limit).await {
            Ok(events) if !events.is_empty() => return Ok(events),
            Ok(_) => CopyError::Missing { side, sequence: from },
            Err(source) if !source.is_passing() => {
                return Err(CopyError::Read { side, sequence: from, source });
            }
            Err(source) => CopyError::Read { side, sequence: from, source },
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}

/// Appends a batch whose first event has to get the sequence `first`, as often as it takes to know
/// that it is stored there.
async fn append(target: &Ledger, append: Append, first: u64) -> Result<(), CopyError> {
    let deadline = Instant::now() + PATIENCE;
    let last = first + (append.records.len() as u64).saturating_sub(1);
    loop {
        match target.append(append.clone()).await {
            Ok(stored) if (stored.first_sequence, stored.last_sequence) == (first, last) => {
                return Ok(());
            }
            Ok(_) | Err(AppendError::Conflict { .. }) => {
                return Err(CopyError::NotAlone { sequence: first });
            }
            Err(error) if may_pass(&error, target) && Instant::now() < deadline => {
                sleep(PAUSE).await;
            }
            Err(source) => return Err(CopyError::Append { sequence: first, source }),
        }
    }
}

/// Whether the same append may be answered later. An embedded log that does not know an outcome takes
/// no more appends.
fn may_pass(error: &AppendError, target: &Ledger) -> bool {
    match error {
        AppendError::Unavailable(Unavailable::QueueFull | Unavailable::Unreachable(_)) => true,
        AppendError::Unknown(_) => target.is_shared(),
        _ => false,
    }
}

/// How long a side may be out of reach before the copy is given up: some elections of a leader, or a
/// restart. Each attempt has patience of its own.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
