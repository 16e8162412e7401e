//! Appends: sent until answered, and answered with what is really stored.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::Status;

use super::Engine;
use super::cluster::PAUSE;
use super::reads::NotFollowed;
use super::wire::{self, Verdict};
use crate::kurrent_protocol::records::{AppendRecordsResponse, StreamRevision};
use crate::ledger::append::{Answer, Append, AppendError, Appended, Cause, ReadError, Unavailable};
use crate::ledger::event::{NewEvent, Recorded, StreamName};

impl Engine {
    /// Answers within [`APPEND_TIME_MAX`].
    pub(super) async fn append(&self, append: &Append) -> Answer {
        let deadline = Instant::now() + APPEND_TIME_MAX;
        match timeout_at(deadline, self.known(append)).await {
            Ok(None) => {}
            Ok(Some(answer)) => return answer,
            Err(_) => return Err(Outcome::default().given_up()),
        }
        let reply = self.send(append, deadline).await?;
        let found = timeout_at(deadline, self.find_stored(append, &reply)).await;
        found.unwrap_or_else(|_| Err(unknown(NotFollowed)))
    }

    /// The answer to an append of which events came lately.
    async fn known(&self, append: &Append) -> Option<Answer> {
        let ids = append.records.iter().map(|(_, event)| self.followed.sequence_of(event.id));
        let sequences: Vec<_> = ids.collect();
        if sequences.iter().all(Option::is_none) {
            return None;
        }
        Some(self.answer_known(append, &sequences).await)
    }

    async fn answer_known(&self, append: &Append, sequences: &[Option<u64>]) -> Answer {
        let mut stored = Vec::new();
        for (sequence, (stream, event)) in sequences.iter().zip(&append.records) {
            let Some(sequence) = sequence else { continue };
            let recorded = self.recorded(*sequence).await.map_err(not_looked_up)?;
            stored.push(same(recorded, stream, event)?);
        }
        if stored.len() == append.records.len() {
            return Ok(summary(&stored, true));
        }
        let stream = stored.into_iter().next().map(|first| first.stream);
        let check = append.checks.iter().find(|(checked, _)| Some(checked) == stream.as_ref());
        let (stream, expected) = check.cloned().ok_or_else(|| unknown(NotFollowed))?;
        let actual = self.head(&stream).await.map_err(not_looked_up)?;
        Err(AppendError::Conflict { stream, expected, actual })
    }

    /// Sends the same request until somebody answers it or the time is over.
    async fn send(
        &self,
        append: &Append,
        deadline: Instant,
    ) -> Result<AppendRecordsResponse, AppendError> {
        let request = wire::request(append, &self.cluster.settings.prefix);
        let mut outcome = Outcome::default();
        loop {
            match timeout_at(deadline, self.cluster.node()).await {
                Err(_) => return Err(outcome.given_up()),
                Ok(Err(error)) => outcome.failed(Arc::new(error)),
                Ok(Ok(node)) => match timeout_at(deadline, node.append(request.clone())).await {
                    Err(_) => {
                        outcome.maybe_stored = true;
                        return Err(outcome.given_up());
                    }
                    Ok(Ok(reply)) => return Ok(reply),
                    Ok(Err(status)) => {
                        match wire::verdict(&status, append, &self.cluster.settings.prefix) {
                            Verdict::Final(error) => return Err(error),
                            Verdict::Refused => return Err(outcome.refused(status)),
                            Verdict::Busy => {}
                            Verdict::AskElsewhere(leader) => self.cluster.failed(&node, leader),
                            Verdict::Unclear => {
                                outcome.maybe_stored = true;
                                self.cluster.failed(&node, None);
                            }
                        }
                        outcome.failed(Arc::new(status));
                    }
                },
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(outcome.given_up());
            }
            sleep(PAUSE).await;
        }
    }

    /// Finds the events of an append that was acknowledged, as soon as they have been followed up.
    /// They are there: whoever is told `Unknown` all the same learns their places by sending again.
    async fn find_stored(&self, append: &Append, reply: &AppendRecordsResponse) -> Answer {
        let mut told = self.told.clone();
        loop {
            told.borrow_and_update();
            let passed = self.followed.mark().after.map(|after| after.commit);
            if let Some(sequences) = self.sequences(append) {
                return self.answer_stored(append, &sequences).await;
            }
            // Stored long ago: the follower has been there, and does not keep so many ids.
            if passed >= u64::try_from(reply.position).ok() {
                return self.read_back(append, reply).await;
            }
            told.changed().await.map_err(|_| unknown(NotFollowed))?;
        }
    }

    fn sequences(&self, append: &Append) -> Option<Vec<u64>> {
        append.records.iter().map(|(_, event)| self.followed.sequence_of(event.id)).collect()
    }

    async fn answer_stored(&self, append: &Append, sequences: &[u64]) -> Answer {
        let mut stored = Vec::with_capacity(sequences.len());
        for (sequence, (stream, event)) in sequences.iter().zip(&append.records) {
            let recorded = self.recorded(*sequence).await.map_err(unknown)?;
            stored.push(same(recorded, stream, event)?);
        }
        let last = append.records.last().map(|(_, event)| event.id);
        let is_first = last.is_some_and(|id| self.followed.answer_with(id));
        Ok(summary(&stored, !is_first))
    }

    /// Reads the events where the server says that they are: at the end of what it calls the
    /// revisions of the append.
    async fn read_back(&self, append: &Append, reply: &AppendRecordsResponse) -> Answer {
        let mut stored = Vec::with_capacity(append.records.len());
        for StreamRevision { stream, revision } in &reply.revisions {
            let stream = self.cluster.settings.prefix.strip(stream);
            let stream = stream.ok_or_else(|| unknown(NotFollowed))?;
            let of_stream = || append.records.iter().filter(|(of, _)| *of == stream);
            let count = of_stream().count();
            let first = u64::try_from(*revision).unwrap_or(0) + 1;
            let first = first.saturating_sub(count as u64);
            let read = self.read_stream(&stream, first, count).await.map_err(unknown)?;
            for (recorded, (stream, event)) in read.into_iter().zip(of_stream()) {
                stored.push(same(recorded, stream, event)?);
            }
        }
        if stored.len() != append.records.len() {
            return Err(unknown(NotFollowed));
        }
        // In the order in which they were named.
        let place = |recorded: &Recorded| {
            append.records.iter().position(|(_, event)| event.id == recorded.id)
        };
        stored.sort_by_key(place);
        Ok(summary(&stored, true))
    }

    async fn recorded(&self, sequence: u64) -> Result<Recorded, ReadError> {
        let mut page = match self.newest(sequence, 1) {
            Some(page) => page,
            None => self.read_all(sequence, 1).await?,
        };
        page.pop().ok_or_else(|| ReadError::passing(Arc::new(NotFollowed)))
    }
}

/// What is known while an append is sent again and again.
#[derive(Default)]
struct Outcome {
    /// Whether an attempt may have stored it.
    maybe_stored: bool,
    cause: Option<Cause>,
}

impl Outcome {
    fn failed(&mut self, cause: Cause) {
        self.cause = Some(cause);
    }

    fn given_up(self) -> AppendError {
        let cause = self.cause.unwrap_or_else(|| Arc::new(Late));
        match self.maybe_stored {
            true => AppendError::Unknown(cause),
            false => AppendError::Unavailable(Unavailable::Unreachable(cause)),
        }
    }

    fn refused(self, status: Status) -> AppendError {
        match self.maybe_stored {
            true => AppendError::Unknown(Arc::new(status)),
            false => AppendError::Unavailable(Unavailable::Refused(Arc::new(status))),
        }
    }
}

/// There was no connection in time.
#[derive(Debug, thiserror::Error)]
#[error("no leader was found in time")]
struct Late;

/// The stored event, if it is the one that was to be stored.
fn same(
    recorded: Recorded,
    stream: &StreamName,
    event: &NewEvent,
) -> Result<Recorded, AppendError> {
    let is_same = recorded.id == event.id
        && recorded.stream == *stream
        && recorded.kind == event.kind
        && recorded.data == event.data;
    if is_same { Ok(recorded) } else { Err(AppendError::IdReused { id: event.id }) }
}

fn summary(stored: &[Recorded], already_stored: bool) -> Appended {
    let places = stored.iter().map(|one| (one.stream.clone(), one.revision, one.sequence));
    let summary = Appended::summarize(places, already_stored);
    let last = stored.iter().max_by_key(|one| one.sequence);
    Appended { cursor: last.map_or(summary.cursor, |last| last.cursor), ..summary }
}

fn unknown(cause: impl std::error::Error + Send + Sync + 'static) -> AppendError {
    AppendError::Unknown(Arc::new(cause))
}

/// Nothing was sent yet.
fn not_looked_up(error: ReadError) -> AppendError {
    AppendError::Unavailable(Unavailable::Unreachable(Arc::new(error)))
}

/// How long an append may take in all, however often it is sent: an election takes a few seconds, and a
/// request may wait for 15.
const APPEND_TIME_MAX: Duration = Duration::from_secs(10);
