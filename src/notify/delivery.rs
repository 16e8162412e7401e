//! Takes messages to one endpoint.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::message::{Message, Place};
use super::store::{Outcome, Progress, Settled, StoreError, Tried};
use super::{Endpoint, Office};
use crate::clock::UnixMillis;
use crate::ledger::ReadError;
use crate::ledger::codec::CodecError;
use crate::ledger::tail::{Fact, error_text};
use crate::outbound::signing::signatures;

/// Events read in one step.
const READ_EVENTS: usize = 256;
/// How long it may take until a due retry, or what an operator asked for, is noticed.
const POLL: Duration = Duration::from_millis(250);
/// How long to wait after a failure of our own.
const TROUBLE_PAUSE: Duration = Duration::from_secs(5);
/// How long what is under way may take when the service stops.
const GRACE: Duration = Duration::from_secs(2);
/// What is kept of an error, in bytes.
const ERROR_BYTES_MAX: usize = 200;

/// One endpoint's own.
pub(super) struct Courier {
    office: Office,
    endpoint: Arc<Endpoint>,
    new: Bag,
    /// The replay at hand, by its id.
    replay: (i64, Bag),
    failing: bool,
}

/// Messages that were read and not tried yet.
#[derive(Default)]
struct Bag {
    messages: VecDeque<Message>,
    /// The events before are read.
    end: u64,
}

/// Delivery cannot go on for now, for a reason of ours.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the ledger cannot be read")]
    Ledger(#[from] ReadError),
    #[error("event {0} cannot be decoded")]
    Decode(u64, #[source] CodecError),
    #[error("event {0} makes no message")]
    Message(u64, #[source] serde_json::Error),
    #[error("the operating system gives no randomness")]
    Random,
    #[error("an attempt panicked")]
    Attempt,
}

impl Bag {
    /// The events before are read, and their messages tried.
    fn done(&self) -> u64 {
        self.messages.front().map_or(self.end, |message| message.place.sequence)
    }

    /// Takes up to `most` messages. Those of one event stay together, so that all of them are tried
    /// when the event counts as done.
    fn take(&mut self, most: usize) -> Vec<Message> {
        let mut taken: Vec<Message> = Vec::new();
        while let Some(next) = self.messages.front() {
            let begun = taken.last().is_some_and(|last| last.place.sequence == next.place.sequence);
            if taken.len() >= most && !begun {
                break;
            }
            taken.extend(self.messages.pop_front());
        }
        taken
    }
}

impl Courier {
    pub(super) fn new(office: Office, endpoint: Endpoint) -> Self {
        let (new, replay) = (Bag::default(), (0, Bag::default()));
        Self { office, endpoint: Arc::new(endpoint), new, replay, failing: false }
    }

    /// Delivers until the service stops.
    pub(super) async fn run(mut self) {
        while !*self.office.stopping.borrow() {
            let pause = match self.round().await {
                Ok(true) => continue,
                Ok(false) => POLL,
                Err(error) => {
                    let (id, reason) = (self.id(), error_text(&error));
                    tracing::error!(endpoint = id, %reason, "webhooks to {id} wait: {reason}");
                    TROUBLE_PAUSE
                }
            };
            let Office { folded, stopping, .. } = &mut self.office;
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => {}
                _ = folded.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn id(&self) -> &str {
        &self.endpoint.card.id
    }

    /// Some retries, some of a replay, some new messages; whether there was any.
    async fn round(&mut self) -> Result<bool, Trouble> {
        let now_ms = self.office.clock.now().0;
        let standing = self.office.store.standing(self.id())?;
        if standing.disabled {
            return Ok(false);
        }
        let retried = self.retry(now_ms).await?;
        let standing = self.office.store.standing(self.id())?;
        if standing.disabled || standing.hold_until_ms > now_ms {
            return Ok(retried);
        }
        // Who is down is tried with one message now and then.
        let most = if standing.hold_until_ms > 0 { 1 } else { self.endpoint.in_flight };
        let replayed = self.replay(most).await?;
        let told = self.tell(standing.next_sequence, most).await?;
        Ok(retried || replayed || told)
    }

    async fn retry(&mut self, now_ms: i64) -> Result<bool, Trouble> {
        let folded = *self.office.folded.borrow();
        let mut due = self.office.store.due(self.id(), now_ms, self.endpoint.in_flight)?;
        due.retain(|place| place.sequence < folded);
        if due.is_empty() {
            return Ok(false);
        }
        let mut messages = Vec::new();
        for place in &due {
            match self.message_at(*place).await? {
                Some(message) => messages.push(message),
                None => self.office.store.forget(self.id(), *place)?,
            }
        }
        self.send(messages, Progress::None).await?;
        Ok(true)
    }

    async fn replay(&mut self, most: usize) -> Result<bool, Trouble> {
        let folded = *self.office.folded.borrow_and_update();
        let replay = self.office.store.replay(self.id())?;
        let Some((replay, next, until)) = replay.filter(|(_, next, _)| *next < folded) else {
            return Ok(false);
        };
        if self.replay.0 != replay {
            self.replay = (replay, Bag::default());
        }
        let mut bag = std::mem::take(&mut self.replay.1);
        self.fill(&mut bag, next, until.min(folded)).await?;
        let messages = bag.take(most);
        self.send(messages, Progress::Replay(replay, bag.done())).await?;
        self.replay.1 = bag;
        Ok(true)
    }

    async fn tell(&mut self, next: u64, most: usize) -> Result<bool, Trouble> {
        let folded = *self.office.folded.borrow_and_update();
        if next >= folded {
            return Ok(false);
        }
        let mut bag = std::mem::take(&mut self.new);
        self.fill(&mut bag, next, folded).await?;
        let messages = bag.take(most);
        self.send(messages, Progress::New(bag.done())).await?;
        self.new = bag;
        Ok(true)
    }

    /// Reads on if the bag is empty, or holds something else than what comes after `next`.
    async fn fill(&self, bag: &mut Bag, next: u64, until: u64) -> Result<(), Trouble> {
        if !bag.messages.is_empty() && bag.done() == next {
            return Ok(());
        }
        *bag = Bag { messages: VecDeque::new(), end: next };
        let most = usize::try_from(until.saturating_sub(next)).unwrap_or(READ_EVENTS);
        let events = self.office.ledger.read_all(next, most.min(READ_EVENTS)).await?;
        let mut crossings =
            self.office.store.crossings(next, next + events.len() as u64)?.into_iter().peekable();
        for recorded in events {
            let sequence = recorded.sequence;
            bag.end = sequence + 1;
            let fact = Fact::of_ours(recorded);
            let fact = fact.map_err(|source| Trouble::Decode(sequence, source))?;
            let Some(fact) = fact else { continue };
            let unmade = |source| Trouble::Message(sequence, source);
            bag.messages.extend(Message::of_event(&fact).map_err(unmade)?);
            while let Some((_, crossing)) = crossings.next_if(|(at, _)| *at <= sequence) {
                bag.messages.push_back(Message::of_crossing(&fact, &crossing).map_err(unmade)?);
            }
        }
        bag.messages.retain(|message| self.endpoint.card.types.contains(message.r#type));
        Ok(())
    }

    /// The message of this place, if there still is what it was made of.
    async fn message_at(&self, place: Place) -> Result<Option<Message>, Trouble> {
        let mut bag = Bag::default();
        self.fill(&mut bag, place.sequence, place.sequence + 1).await?;
        Ok(bag.messages.into_iter().find(|message| message.place == place))
    }

    /// Sends messages, and records how that went and what it brought forward. If the service stops
    /// before the answers are there, nothing is recorded, and they are sent again.
    async fn send(&mut self, messages: Vec<Message>, progress: Progress) -> Result<(), Trouble> {
        let mut tried = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let sent = messages.by_ref().take(self.endpoint.in_flight).map(|message| {
                let (endpoint, now) = (Arc::clone(&self.endpoint), self.office.clock.now());
                tokio::task::spawn_blocking(move || attempt(&endpoint, message, now))
            });
            let answers = futures_util::future::join_all(sent.collect::<Vec<_>>());
            let answers = tokio::select! {
                answers = answers => answers,
                () = stopped(self.office.stopping.clone()) => return Ok(()),
            };
            for answer in answers {
                tried.push(answer.map_err(|_| Trouble::Attempt)?);
            }
        }
        self.settle(&tried, progress)
    }

    fn settle(&mut self, tried: &[Tried], progress: Progress) -> Result<(), Trouble> {
        let Office { store, clock, metrics, folded, .. } = &self.office;
        let mut chance = [0; 4];
        aws_lc_rs::rand::fill(&mut chance).map_err(|_| Trouble::Random)?;
        let chance = u32::from_le_bytes(chance);
        let settled = store.settle(self.id(), tried, progress, clock.now().0, chance)?;
        metrics.settled(settled, store.figures()?, *folded.borrow());
        self.log(tried, settled);
        Ok(())
    }

    fn log(&mut self, tried: &[Tried], settled: Settled) {
        let endpoint = Arc::clone(&self.endpoint);
        let id = &endpoint.card.id;
        if settled.delivered > 0 && self.failing {
            tracing::info!(endpoint = %id, "webhooks to {id} are delivered again");
            self.failing = false;
        }
        let reason = tried.iter().find_map(|message| match &message.outcome {
            Outcome::Failed { error, .. } => Some(error),
            Outcome::Delivered | Outcome::Gone => None,
        });
        if let (Some(reason), false, 0) = (reason, self.failing, settled.delivered) {
            tracing::warn!(endpoint = %id, %reason, "webhooks to {id} fail: {reason}");
            self.failing = true;
        }
        if settled.dead > 0 {
            let dead = settled.dead;
            tracing::warn!(endpoint = %id, dead, "webhooks to {id} are given up: {dead} messages");
        }
        if settled.disabled {
            tracing::warn!(endpoint = %id, "webhook endpoint {id} answered 410 and is disabled");
        }
    }
}

/// One attempt. Blocks, at most as long as the endpoint may take.
fn attempt(endpoint: &Endpoint, message: Message, now: UnixMillis) -> Tried {
    let Message { place, id, r#type, body } = message;
    let (text, timestamp) = (id.to_string(), now.seconds().to_string());
    let signatures = signatures(&endpoint.keys, &text, &timestamp, &body);
    let headers = [
        ("webhook-id", text.as_str()),
        ("webhook-timestamp", &timestamp),
        ("webhook-signature", &signatures),
    ];
    let outcome = match endpoint.outbound.tell(&headers, &body, endpoint.timeout) {
        Ok((200..=299, _)) => Outcome::Delivered,
        Ok((410, _)) => Outcome::Gone,
        Ok((status, headers)) => {
            let retry_after = headers.get("retry-after").and_then(|value| value.to_str().ok());
            Outcome::Failed {
                error: format!("status {status}"),
                retry_after_s: retry_after.and_then(|seconds| seconds.parse().ok()),
            }
        }
        Err(error) => {
            let mut error = error.to_string();
            error.truncate(error.floor_char_boundary(ERROR_BYTES_MAX));
            Outcome::Failed { error, retry_after_s: None }
        }
    };
    Tried { place, id, r#type, outcome }
}

/// Ends when the service stops and has waited long enough.
async fn stopped(mut stopping: tokio::sync::watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
    tokio::time::sleep(GRACE).await;
}
