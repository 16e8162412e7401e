//! Commands that take effect outside the ledger, which records that they did.

use serde::Serialize;

use super::once::{CommandAnswer, CommandError, Once};
use super::{Licensing, LicensingError};
use crate::domain::Event;
use crate::domain::event::{WebhookChange, WebhookChanged};
use crate::ledger::tail::Fact;
use crate::ledger::{Append, AppendError, Expected, NewEvent, StreamName};

impl Licensing {
    /// Has a webhook endpoint changed by `change`, which says what the command is answered with, and
    /// records that together with the answer. A command that was cut off between the two is carried
    /// out anew when it is repeated: what is sent again is sent again twice, at worst.
    pub async fn change_webhook<V: Serialize, R>(
        &self,
        (endpoint, what): (&str, &WebhookChange),
        status: u16,
        once: &Once,
        change: impl Fn() -> Result<V, R>,
    ) -> Result<CommandAnswer, CommandError<R>> {
        let stream = StreamName::new("admin")?;
        let mut changed = None;
        self.once(once, async || {
            let view = match changed.take() {
                Some(view) => view,
                None => {
                    // What a repeat would change no append prevents.
                    if let Some(answer) = self.remembered(once).await? {
                        return Ok(Some(answer));
                    }
                    change().map_err(CommandError::Refused)?
                }
            };
            let (expected, at_ms) = self.end_of(&stream).await?;
            let answer = once.answer(status, &view, at_ms)?;
            changed = Some(view);
            let event = Event::WebhookChanged(WebhookChanged {
                endpoint: endpoint.to_owned(),
                change: what.clone(),
                actor: once.client().to_owned(),
                at_ms,
            });
            let ((once_stream, answered), check) = answer.record();
            let events = [(stream.clone(), event), (once_stream, answered)];
            let checks = vec![(stream.clone(), expected), check];
            let position = self.append_outside(&events, checks, once.correlation()).await?;
            Ok(position.map(|position| answer.stored(position)))
        })
        .await
    }

    /// Where a stream ends, and a moment later than all in it.
    async fn end_of(&self, stream: &StreamName) -> Result<(Expected, i64), LicensingError> {
        let now_ms = self.clock.now().0;
        match self.ledger.read_stream_backwards(stream, u64::MAX, 1).await?.pop() {
            None => Ok((Expected::NoStream, now_ms)),
            Some(last) => {
                let expected = Expected::At(last.revision);
                Ok((expected, now_ms.max(Fact::of(last)?.event.at_ms() + 1)))
            }
        }
    }

    /// Stores events that concern no device; `None` if something has changed.
    async fn append_outside(
        &self,
        events: &[(StreamName, Event)],
        checks: Vec<(StreamName, Expected)>,
        correlation: &str,
    ) -> Result<Option<u64>, LicensingError> {
        let mut records = Vec::with_capacity(events.len());
        for (stream, event) in events {
            records.push((stream.clone(), NewEvent::of(stream, event, correlation)?));
        }
        match self.ledger.append(Append { records, checks }).await {
            Ok(appended) => Ok(Some(appended.last_sequence + 1)),
            Err(AppendError::Conflict { .. } | AppendError::IdReused { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
