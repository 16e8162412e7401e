//! Commands of API clients, each of which takes effect once.
//!
//! A client names its command by an `Idempotency-Key`
//! (`draft-ietf-httpapi-idempotency-key-header`). What the command does and how it was answered are
//! stored in one append, so that a repeat, whenever it comes and whoever was killed meanwhile, gets
//! the same status and body and does nothing. There is no time after which a key may be used anew.
//!
//! Where all is as wanted already, the answer alone is stored: somebody may undo it, and a repeat must
//! not do it again. A refusal is not remembered, nor is a denied decision of which nothing is
//! recorded: the same command is decided again, and may then take effect.
//!
//! # A new command
//!
//! 1. Its route takes a `Command<Body>`, whose `once` names it, and answers with `respond`: see the
//!    HTTP module of the same name.
//! 2. Its use case decides inside [`Licensing::once`], which asks for another decision whenever one
//!    is `None`, and stores through [`Licensing::append_once`]:
//!
//! ```text
//! pub async fn block(&self, …, once: &Once) -> Result<CommandAnswer, CommandError<Refused>> {
//!     self.once(once, async || {
//!         let mut subject = self.hold(&device, None).await?;
//!         let policy = self.policy.current();
//!         let at_ms = self.clock.now().0.max(subject.at_ms()).max(policy.at_ms);
//!         let events = …;                            // or Err(CommandError::Refused(…))
//!         let answer = once.answer(200, &view, at_ms)?;
//!         let checks = vec![self.policy.check(&policy)];
//!         Ok(self.append_once(&mut subject, events, checks, answer).await?)
//!     })
//!     .await
//! }
//! ```
//!
//! A refusal is only true of what stands at the heads: call `subject.refresh()` before it, or at the
//! beginning. A command about no device puts [`Remembered::record`] last into an append of its own.
//! What events need that must differ from command to command comes from [`Once::derived_id`]; who
//! acted is [`Once::client`].

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use uuid::Uuid;

use super::commit::Attempts;
use super::subject::Subject;
use super::{Licensing, LicensingError};
use crate::domain::event::RequestAnswered;
use crate::domain::ids::derived_id;
use crate::domain::{Digest, Event};
use crate::ledger::codec::CodecError;
use crate::ledger::tail::Fact;
use crate::ledger::{Expected, StreamName};

/// One command, as its client named it.
#[derive(Clone, Debug)]
pub struct Once {
    client: String,
    request: Digest,
    stream: StreamName,
    correlation: String,
}

/// What a command is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandAnswer {
    /// The HTTP status.
    pub status: u16,
    /// JSON; empty if there is nothing to say.
    pub body: String,
    /// How many events the ledger had when those of the command were part of it; `None` if it has
    /// none.
    pub position: Option<u64>,
}

/// Why a command did nothing. `R` are the refusals of the command itself.
#[derive(Debug, thiserror::Error)]
pub enum CommandError<R> {
    /// A request with the same `Idempotency-Key` is being worked on.
    #[error("a request with this Idempotency-Key is being worked on")]
    KeyInUse,
    /// The `Idempotency-Key` belongs to another request.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    /// The command is refused.
    #[error("the command is refused")]
    Refused(R),
    /// A failure of ours.
    #[error(transparent)]
    Failed(LicensingError),
}

impl<R, E: Into<LicensingError>> From<E> for CommandError<R> {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl CommandAnswer {
    /// An answer to a command that stores nothing.
    pub(super) fn of_nothing(status: u16, body: &impl Serialize) -> Result<Self, LicensingError> {
        Ok(Self { status, body: json(body)?, position: None })
    }
}

/// An answer that is to be stored with what the command does.
pub(super) struct Remembered<'a> {
    once: &'a Once,
    answered: RequestAnswered,
}

impl Remembered<'_> {
    /// The event and the check that belong into the command's append, the event last.
    pub(super) fn record(&self) -> ((StreamName, Event), (StreamName, Expected)) {
        let event = Event::RequestAnswered(self.answered.clone());
        ((self.once.stream.clone(), event), self.once.unanswered())
    }

    /// The answer; `position` is how many events the ledger has with that of [`record`](Self::record).
    pub(super) fn stored(self, position: u64) -> CommandAnswer {
        let RequestAnswered { status, body, .. } = self.answered;
        CommandAnswer { status, body, position: Some(position) }
    }
}

impl Once {
    /// The command that `client`, the public part of an API key, calls `key`. `request` is what
    /// [`request_digest`](Self::request_digest) makes of it; `correlation` names it in the metadata
    /// of its events.
    pub fn new(
        client: &str,
        key: &str,
        request: Digest,
        correlation: &str,
    ) -> Result<Self, LicensingError> {
        // Spent tokens have streams of the same form, named by other hashes.
        let name = Digest::of(&[b"idempotency-key", client.as_bytes(), key.as_bytes()].join(&0));
        Ok(Self {
            client: client.to_owned(),
            request,
            stream: StreamName::new(&format!("once-{name}"))?,
            correlation: correlation.to_owned(),
        })
    }

    /// What tells a repeat from another request.
    pub fn request_digest(method: &str, path_and_query: &str, body: &[u8]) -> Digest {
        Digest::of(&[method.as_bytes(), path_and_query.as_bytes(), body].join(&0))
    }

    /// Who sent the command: the public part of an API key.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// What an append names that is to go through only while there is no answer: a part of what the
    /// command does, ahead of the append that stores the answer.
    pub(super) fn unanswered(&self) -> (StreamName, Expected) {
        (self.stream.clone(), Expected::NoStream)
    }

    /// Names the command in the metadata of its events.
    pub(super) fn correlation(&self) -> &str {
        &self.correlation
    }

    /// An id for something that the command makes, `what`: the same each time it is decided.
    pub(super) fn derived_id(&self, what: &str) -> Uuid {
        derived_id(&[what.as_bytes(), self.stream.as_str().as_bytes()])
    }

    /// The answer to the command if what it does is stored at `at_ms`.
    pub(super) fn answer(
        &self,
        status: u16,
        body: &impl Serialize,
        at_ms: i64,
    ) -> Result<Remembered<'_>, LicensingError> {
        Ok(self.answer_of(status, json(body)?, at_ms))
    }

    /// The same for an answer without a body.
    pub(super) fn bare_answer(&self, status: u16, at_ms: i64) -> Remembered<'_> {
        self.answer_of(status, String::new(), at_ms)
    }

    fn answer_of(&self, status: u16, body: String, at_ms: i64) -> Remembered<'_> {
        let (client, request_sha256) = (self.client.clone(), self.request);
        let answered = RequestAnswered { client, request_sha256, status, body, at_ms };
        Remembered { once: self, answered }
    }
}

fn json(body: &impl Serialize) -> Result<String, LicensingError> {
    serde_json::to_string(body).map_err(|error| CodecError::Encode(error).into())
}

/// The commands that this process is working on.
#[derive(Debug, Default)]
pub(super) struct InFlight(Mutex<HashSet<StreamName>>);

impl InFlight {
    /// `None` if the command is being worked on.
    fn enter(&self, stream: &StreamName) -> Option<Working<'_>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(stream.clone()).then(|| Working { all: self, stream: stream.clone() })
    }
}

/// A command that is being worked on, until this is dropped.
struct Working<'a> {
    all: &'a InFlight,
    stream: StreamName,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.stream);
    }
}

impl Licensing {
    /// Answers a command: as it was answered before, else as `decide` does. That is called again
    /// whenever it returns `None`, because something that its decision was made on has changed.
    ///
    /// Few commands are repeats, so it is decided first: what a repeat would store does not go
    /// through, and whatever else it would be answered with counts only if there is no answer yet. A
    /// command with other effects than what it stores asks [`remembered`](Self::remembered) itself.
    pub(super) async fn once<R>(
        &self,
        once: &Once,
        mut decide: impl AsyncFnMut() -> Result<Option<CommandAnswer>, CommandError<R>>,
    ) -> Result<CommandAnswer, CommandError<R>> {
        let _working = self.in_flight.enter(&once.stream).ok_or(CommandError::KeyInUse)?;
        let mut attempts = Attempts::new();
        loop {
            attempts.next()?;
            let decided = decide().await;
            if let Ok(Some(answer @ CommandAnswer { position: Some(_), .. })) = decided {
                return Ok(answer);
            }
            if let Some(answer) = self.remembered(once).await? {
                return Ok(answer);
            }
            if let Some(answer) = decided? {
                return Ok(answer);
            }
        }
    }

    /// How the command was answered before.
    pub(super) async fn remembered<R>(
        &self,
        once: &Once,
    ) -> Result<Option<CommandAnswer>, CommandError<R>> {
        let Some(recorded) = self.ledger.read_stream(&once.stream, 0, 1).await?.pop() else {
            return Ok(None);
        };
        let fact = Fact::of(recorded)?;
        let Event::RequestAnswered(RequestAnswered { request_sha256, status, body, .. }) =
            fact.event
        else {
            let (stream, kind) = (once.stream.to_string(), fact.event.kind());
            return Err(LicensingError::Stream { stream, kind }.into());
        };
        if request_sha256 != once.request {
            return Err(CommandError::KeyReused);
        }
        Ok(Some(CommandAnswer { status, body, position: Some(fact.recorded.sequence + 1) }))
    }

    /// Stores `events` and the answer, as [`append_to`](Self::append_to) does. `None`: something has
    /// changed, and is read by now.
    pub(super) async fn append_once(
        &self,
        subject: &mut Subject,
        mut events: Vec<(StreamName, Event)>,
        mut checks: Vec<(StreamName, Expected)>,
        answer: Remembered<'_>,
    ) -> Result<Option<CommandAnswer>, LicensingError> {
        let (event, check) = answer.record();
        events.push(event);
        checks.push(check);
        let correlation = &answer.once.correlation;
        match self.append_to(subject, events, checks, correlation).await? {
            Some(position) => Ok(Some(answer.stored(position))),
            None => {
                subject.refresh().await?;
                self.policy.refresh(&self.ledger).await?;
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests;
