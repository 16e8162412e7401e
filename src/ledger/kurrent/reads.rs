//! Reads: streams from the leader, the log as far as it was followed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::cluster::Cluster;
use super::node::{ReadFailed, Wanted};
use super::places::{Mark, Places};
use super::wire::Seen;
use super::{Engine, KurrentError, START_TIME};
use crate::ledger::append::ReadError;
use crate::ledger::event::{Recorded, StreamName};

/// The follower has not come to an event that was read.
#[derive(Debug, thiserror::Error)]
#[error("an event that is stored has not been followed up here in time")]
pub(super) struct NotFollowed;

impl Engine {
    pub(super) async fn head(&self, stream: &StreamName) -> Result<Option<u64>, ReadError> {
        let wanted = Wanted::StreamBackwards { stream: stream.clone(), from: None, limit: 1 };
        let last = self.cluster.read(wanted).await?.into_iter().flatten().next();
        Ok(last.map(|last| last.revision))
    }

    pub(super) async fn last_sequence(&self) -> Result<Option<u64>, ReadError> {
        match self.last_event().await? {
            Some(last) => self.number(&last).await.map(Some),
            None => Ok(None),
        }
    }

    pub(super) async fn read_stream(
        &self,
        stream: &StreamName,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let wanted = Wanted::Stream { stream: stream.clone(), from, limit };
        self.numbered(self.cluster.read(wanted).await?).await
    }

    pub(super) async fn read_stream_backwards(
        &self,
        stream: &StreamName,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        // No stream has as many events as that many bits can number.
        let from = Some(from).filter(|from| i64::try_from(*from).is_ok());
        let wanted = Wanted::StreamBackwards { stream: stream.clone(), from, limit };
        self.numbered(self.cluster.read(wanted).await?).await
    }

    /// A page of the log if all of it is at hand.
    pub(super) fn newest(&self, from: u64, limit: usize) -> Option<Vec<Recorded>> {
        if limit == 0 || self.told.borrow().is_none_or(|last| from > last) {
            return Some(Vec::new());
        }
        let recent = self.followed.recent.from(from, limit)?;
        Some(recent.iter().map(|slot| slot.recorded()).collect())
    }

    pub(super) async fn read_all(
        &self,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let Some(last) = *self.told.borrow() else { return Ok(Vec::new()) };
        let there = usize::try_from((last + 1).saturating_sub(from)).unwrap_or(usize::MAX);
        let wanted = limit.min(there);
        let mut events = Vec::with_capacity(wanted);
        while events.len() < wanted {
            let next = from + events.len() as u64;
            let position = self.followed.places.position_of(next);
            let position = position.map_err(|error| ReadError::lasting(Arc::new(error)))?;
            let position = position.ok_or_else(|| ReadError::lasting(Arc::new(NotFollowed)))?;
            let rest = wanted - events.len();
            let wanted = Wanted::All { from: position, limit: rest };
            let page: Vec<_> = self.cluster.read(wanted).await?.into_iter().flatten().collect();
            if page.first().map(|first| first.position) != Some(position) {
                return Err(ReadError::lasting(Arc::new(Moved)));
            }
            let numbered = page.into_iter().zip(next..);
            events.extend(numbered.map(|(seen, sequence)| seen.numbered(sequence)));
        }
        Ok(events)
    }

    /// Waits until all events that the leader has by now are followed.
    pub(super) async fn catch_up(&self) -> Result<(), ReadError> {
        let Some(last) = self.last_event().await? else { return Ok(()) };
        let mut followed = self.followed.mark();
        let mut moved = Instant::now();
        while followed.after < Some(last.position) {
            let before = followed;
            tokio::time::sleep(Duration::from_millis(20)).await;
            followed = self.followed.mark();
            if followed != before {
                moved = Instant::now();
            }
            if moved.elapsed() > START_TIME {
                return Err(ReadError::passing(Arc::new(NotFollowed)));
            }
            let report = 100_000;
            if followed.next_sequence / report > before.next_sequence / report {
                let events = followed.next_sequence;
                tracing::info!(events, "counting what the event log holds: {events} events");
            }
        }
        Ok(())
    }

    /// What the names of streams begin with that end in the first part of a mark and hold events of the
    /// kind in its second, apart from our own.
    pub(super) async fn neighbors(
        &self,
        marks: &[(String, String)],
    ) -> Result<Vec<String>, ReadError> {
        let passing = |error| ReadError::passing(Arc::new(error));
        let node = self.cluster.node().await.map_err(|error| passing(ReadFailed::from(error)))?;
        let kinds = marks.iter().map(|(_, kind)| kind.clone()).collect();
        let events = node.first_of_kinds(kinds).await.map_err(passing)?;
        let prefixes = events.iter().filter_map(|(name, of_kind)| {
            let (stream, _) = marks.iter().find(|(_, kind)| kind == of_kind)?;
            name.strip_suffix(stream.as_str())
        });
        let others = prefixes.filter(|prefix| *prefix != self.cluster.settings.prefix.0);
        Ok(others.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect())
    }

    async fn last_event(&self) -> Result<Option<Seen>, ReadError> {
        Ok(self.cluster.read(Wanted::Last).await?.into_iter().flatten().next())
    }

    async fn numbered(&self, events: Vec<Option<Seen>>) -> Result<Vec<Recorded>, ReadError> {
        let mut numbered = Vec::with_capacity(events.len());
        for seen in events.into_iter().flatten() {
            let sequence = self.number(&seen).await?;
            numbered.push(seen.numbered(sequence));
        }
        Ok(numbered)
    }

    /// The sequence of an event that was read, as soon as the follower has come to it.
    async fn number(&self, seen: &Seen) -> Result<u64, ReadError> {
        let mut told = self.told.clone();
        let numbered = async {
            loop {
                told.borrow_and_update();
                let sequence = self.followed.places.sequence_at(seen.position.prepare);
                if let Some(sequence) =
                    sequence.map_err(|error| ReadError::lasting(Arc::new(error)))?
                {
                    return Ok(sequence);
                }
                let closed = |error| ReadError::passing(Arc::new(error));
                told.changed().await.map_err(closed)?;
            }
        };
        let late = |_| Err(ReadError::passing(Arc::new(NotFollowed)));
        timeout(FOLLOW_TIME, numbered).await.unwrap_or_else(late)
    }
}

/// The cluster holds another event where one of ours was.
#[derive(Debug, thiserror::Error)]
#[error("the cluster holds another event where this one was: it is not the log that was followed")]
struct Moved;

/// Makes sure that the list of places is of this log, or begins a new one.
pub(super) async fn check_places(places: &Places, cluster: &Cluster) -> Result<(), KurrentError> {
    let Mark { next_sequence, last_event_id, .. } = places.mark()?;
    let Some(last) = next_sequence.checked_sub(1) else { return Ok(()) };
    if let Some(position) = places.position_of(last)? {
        let wanted = Wanted::All { from: position, limit: 1 };
        let there = cluster.read(wanted).await?.into_iter().flatten().next();
        if there.is_some_and(|seen| seen.position == position && Some(seen.id) == last_event_id) {
            return Ok(());
        }
    }
    tracing::warn!("places.db is of another event log and is made anew");
    Ok(places.forget(&cluster.settings.prefix.0)?)
}

/// How long the follower may take to an event that is stored: as long as reads are tried.
const FOLLOW_TIME: Duration = Duration::from_secs(10);
