//! `BatchAppend`: many appends over one call, one after another, each answered when it is stored.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use super::Wanted;
use super::single::{Write, Written};
use crate::grpc::dispatch::Call;
use crate::grpc::refusal;
use crate::kurrent_protocol::errors::{
    AccessDenied, BadRequest, CurrentRevision, ExpectedPosition, Timeout, WrongExpectedVersion,
};
use crate::kurrent_protocol::shared::{StreamIdentifier, UuidMessage};
use crate::kurrent_protocol::status::{Detail, Status as RpcStatus};
use crate::kurrent_protocol::streams::{
    BatchAppendReq, BatchAppendResp, BatchDeadline, BatchExpectation, BatchOptions, BatchResult,
};

/// The answers, in the order of the appends.
pub(in crate::grpc) fn batch_append(
    call: Arc<Call>,
    parts: Streaming<BatchAppendReq>,
) -> impl Stream<Item = Result<BatchAppendResp, Status>> + Send + 'static {
    let batches = Batches { call, parts, open: None };
    stream::try_unfold(batches, |mut batches| async move {
        Ok(batches.next().await?.map(|answer| (answer, batches)))
    })
}

struct Batches {
    call: Arc<Call>,
    parts: Streaming<BatchAppendReq>,
    /// The append whose last part has not come.
    open: Option<Batch>,
}

struct Batch {
    begun: Instant,
    id: Uuid,
    correlation_id: UuidMessage,
    stream: Option<StreamIdentifier>,
    time: Option<Duration>,
    /// What was gathered, or why it will be refused when its last part is there.
    write: Result<Write, Status>,
}

impl Batches {
    /// Takes in parts until an append is complete, and answers it.
    async fn next(&mut self) -> Result<Option<BatchAppendResp>, Status> {
        while let Some(part) = self.part().await? {
            if let Some(batch) = self.gather(part)? {
                self.call.caller.count(&self.call.shared)?;
                return Ok(Some(batch.answer(&self.call).await));
            }
        }
        Ok(None)
    }

    /// The next part; `None` when the client has sent all.
    async fn part(&mut self) -> Result<Option<BatchAppendReq>, Status> {
        let Self { call, parts, open } = self;
        let end = open.as_ref().map(|open| open.begun + call.shared.append_timeout);
        // An append that is begun has to be completed; between two of them, there is all the time.
        let stalled = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let mut stopping = call.shared.stopping.clone();
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => Err(refusal::stopping()),
            () = call.too_late() => Err(refusal::late()),
            () = stalled => Err(refusal::late()),
            part = parts.message() => part,
        }
    }

    /// Adds a part to the open append, which it may complete.
    fn gather(&mut self, part: BatchAppendReq) -> Result<Option<Batch>, Status> {
        let BatchAppendReq { correlation_id, options, proposed_messages, is_final } = part;
        let correlation_id = correlation_id.unwrap_or_default();
        let id = correlation_id.id();
        let id = id.ok_or_else(|| refusal::invalid("correlation_id has to be a UUID"))?;
        let now_ms = self.call.shared.clock.now().0;
        let mut batch = match self.open.take() {
            Some(open) if open.id == id => open,
            Some(_) => {
                return Err(refusal::invalid("an append has to be complete before the next one"));
            }
            None => Batch::begin(id, correlation_id, options.unwrap_or_default(), now_ms),
        };
        for message in proposed_messages {
            if let Ok(write) = &mut batch.write
                && let Err(refusal) = write.take(message)
            {
                batch.write = Err(refusal);
            }
        }
        if is_final {
            return Ok(Some(batch));
        }
        self.open = Some(batch);
        Ok(None)
    }
}

impl Batch {
    fn begin(id: Uuid, correlation_id: UuidMessage, options: BatchOptions, now_ms: i64) -> Self {
        let BatchOptions { stream_identifier, expected, deadline } = options;
        Self {
            begun: Instant::now(),
            id,
            correlation_id,
            stream: stream_identifier.clone(),
            time: deadline.and_then(|deadline| time_for(deadline, now_ms)),
            write: Write::new(stream_identifier, expected),
        }
    }

    async fn answer(self, call: &Call) -> BatchAppendResp {
        let Self { correlation_id, stream, time, write, .. } = self;
        let expected = write.as_ref().ok().map(|write| write.wanted);
        let most = call.shared.append_timeout;
        let stored = match write {
            Ok(write) => timeout(time.map_or(most, |time| time.min(most)), write.store(call))
                .await
                .unwrap_or_else(|_| Err(refusal::late())),
            Err(refusal) => Err(refusal),
        };
        let result = match stored {
            Ok(Written::Stored(success)) => BatchResult::Success(success),
            Ok(Written::Conflict(head)) => BatchResult::Error(conflict(head, expected)),
            Err(refusal) => BatchResult::Error(error(&refusal)),
        };
        BatchAppendResp {
            correlation_id: Some(correlation_id),
            result: Some(result),
            stream_identifier: stream,
            expected: expected.map(|wanted| match wanted {
                Wanted::At(revision) => BatchExpectation::Revision(revision),
                Wanted::NoStream => BatchExpectation::NoStream(()),
                Wanted::Any => BatchExpectation::Any(()),
                Wanted::Exists => BatchExpectation::StreamExists(()),
            }),
        }
    }
}

fn conflict(head: Option<u64>, expected: Option<Wanted>) -> RpcStatus {
    let wrong = WrongExpectedVersion {
        current: Some(match head {
            Some(revision) => CurrentRevision::Revision(revision),
            None => CurrentRevision::NoStream(()),
        }),
        expected: expected.map(|wanted| match wanted {
            Wanted::At(revision) => ExpectedPosition::Revision(revision),
            Wanted::NoStream => ExpectedPosition::NoStream(()),
            Wanted::Any => ExpectedPosition::Any(()),
            Wanted::Exists => ExpectedPosition::StreamExists(()),
        }),
    };
    RpcStatus {
        code: Code::FailedPrecondition.into(),
        message: "WrongExpectedVersion".to_owned(),
        details: vec![wrong.packed()],
    }
}

/// A refusal as the answer to one append: the call goes on.
fn error(refusal: &Status) -> RpcStatus {
    let message = refusal.message().to_owned();
    let detail = match refusal.code() {
        Code::PermissionDenied => AccessDenied {}.packed(),
        Code::DeadlineExceeded => Timeout {}.packed(),
        _ => BadRequest { message: message.clone() }.packed(),
    };
    RpcStatus { code: refusal.code().into(), message, details: vec![detail] }
}

/// How long an append may take. The official Rust client sends the time since 1970 as if it were a
/// duration.
fn time_for(deadline: BatchDeadline, now_ms: i64) -> Option<Duration> {
    let ms = |seconds: i64, nanos: i32| {
        seconds.saturating_mul(1000).saturating_add(i64::from(nanos) / 1_000_000)
    };
    let until_ms = match deadline {
        BatchDeadline::At(at) => ms(at.seconds, at.nanos),
        BatchDeadline::Within(within) if within.seconds < YEARS_AS_SECONDS => {
            return u64::try_from(ms(within.seconds, within.nanos)).ok().map(Duration::from_millis);
        }
        BatchDeadline::Within(since_1970) => ms(since_1970.seconds, since_1970.nanos),
    };
    let left_ms = until_ms.saturating_sub(now_ms).max(0);
    u64::try_from(left_ms).ok().map(Duration::from_millis)
}

/// Thirty years: no duration that anyone means, and a time since 1970 that has passed.
const YEARS_AS_SECONDS: i64 = 30 * 365 * 24 * 3600;

#[cfg(test)]
mod tests {
    use prost_types::{Duration as WireDuration, Timestamp};

    use super::*;

    #[test]
    fn a_deadline_is_a_time_a_duration_or_the_one_written_as_the_other() {
        let now_ms = 1_700_000_000_000;
        let within = |seconds, nanos| BatchDeadline::Within(WireDuration { seconds, nanos });
        let at = |seconds| BatchDeadline::At(Timestamp { seconds, nanos: 0 });
        for (deadline, left_ms) in [
            (within(10, 500_000_000), 10_500),
            (within(1_700_000_010, 0), 10_000),
            (within(1_600_000_000, 0), 0),
            (at(1_700_000_003), 3_000),
            (at(1_600_000_000), 0),
        ] {
            let left = Some(Duration::from_millis(left_ms));
            assert_eq!(time_for(deadline, now_ms), left, "{deadline:?}");
        }
        assert!(time_for(within(i64::MAX, 0), now_ms).is_some());
    }
}
