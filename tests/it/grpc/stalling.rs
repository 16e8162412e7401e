//! Clients that begin to ask and never end, and those that give a deadline.

use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use license_ledger::kurrent_protocol::method;
use license_ledger::kurrent_protocol::records::AppendRecordsRequest;
use license_ledger::kurrent_protocol::shared::{Expectation, UuidMessage};
use license_ledger::kurrent_protocol::streams::*;
use prost::Message;
use prost_types::Duration as WireDuration;
use tonic::codec::ProstCodec;
use tonic::{Code, Status};
use uuid::Uuid;

use super::client::{Kurrent, in_stream, noted};
use super::{analyst, setup};

const ANY: Expectation = Expectation::Any(());
/// Less than the service allows unless it is told otherwise, and more than a busy machine takes.
const SOON: Duration = Duration::from_secs(12);

/// A service whose requests have to arrive, and to be stored, within this time.
fn service_within(time: Duration) -> crate::service::TestService {
    setup().with("limits.request_timeout_ms", time.as_millis()).start()
}

/// Sends these messages and nothing after them; how the call is answered.
fn stall<Req, Resp>(
    client: &Kurrent,
    path: &'static str,
    timeout: Option<&str>,
    messages: impl Stream<Item = Req> + Send + 'static,
) -> Result<Option<Resp>, Status>
where
    Req: Message + 'static,
    Resp: Message + Default + 'static,
{
    let mut request = client.request(messages.chain(stream::pending()));
    if let Some(timeout) = timeout {
        request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
    }
    client.wait(async {
        let codec = ProstCodec::<Req, Resp>::default();
        let path = PathAndQuery::from_static(path);
        let answered = client.ready().await.streaming(request, path, codec).await;
        answered?.into_inner().message().await
    })
}

fn opening() -> AppendReq {
    let options =
        AppendReqOptions { stream_identifier: Some("user-a".into()), expected: Some(ANY) };
    AppendReq { content: Some(AppendReqContent::Options(options)) }
}

fn part(id: u128, is_final: bool, deadline: Option<BatchDeadline>) -> BatchAppendReq {
    BatchAppendReq {
        correlation_id: Some(UuidMessage::structured(Uuid::from_u128(id))),
        options: Some(BatchOptions {
            stream_identifier: Some("user-a".into()),
            expected: Some(Expectation::Any(())),
            deadline,
        }),
        proposed_messages: vec![noted(id)],
        is_final,
    }
}

/// Runs a call, and checks that it ends in time with this.
fn ends<R: std::fmt::Debug>(code: Code, call: impl FnOnce() -> Result<R, Status>) {
    let started = Instant::now();
    let ended = call().unwrap_err();
    assert_eq!(ended.code(), code, "{ended}");
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[test]
fn a_call_whose_request_never_ends_is_ended() {
    let service = service_within(Duration::from_millis(400));
    let client = analyst(&service);
    let late = Code::DeadlineExceeded;
    // An append of which nothing comes but where it goes, or one event, or nothing at all.
    ends(late, || stall::<_, AppendResp>(&client, method::APPEND, None, stream::iter([opening()])));
    let event = AppendReq { content: Some(AppendReqContent::ProposedMessage(noted(1))) };
    let messages = stream::iter([opening(), event]);
    ends(late, || stall::<_, AppendResp>(&client, method::APPEND, None, messages));
    let nothing = || stream::empty::<AppendReq>();
    ends(late, || stall::<_, AppendResp>(&client, method::APPEND, None, nothing()));
    // Calls of one message, of which none comes.
    let nothing = || stream::empty::<AppendRecordsRequest>();
    for path in [method::APPEND_RECORDS, method::SUPPORTED_METHODS, method::GOSSIP, method::READ] {
        ends(late, || stall::<_, ReadResp>(&client, path, None, nothing()));
    }
    // One append of several parts that is not completed.
    let messages = stream::iter([part(1, false, None)]);
    ends(late, || stall::<_, BatchAppendResp>(&client, method::BATCH_APPEND, None, messages));
    let there = client.read(in_stream("user-a", StreamStart::Start(()), 10)).unwrap();
    assert!(matches!(there[..], [ReadRespContent::StreamNotFound(_)]), "{there:?}");
}

#[test]
fn a_deadline_of_the_client_ends_its_call() {
    let service = setup().start();
    let client = analyst(&service);
    let soon = Some("300m");
    let started = Instant::now();
    let call = stall::<_, AppendResp>(&client, method::APPEND, soon, stream::iter([opening()]));
    call.unwrap_err();
    let nothing = stream::empty::<AppendRecordsRequest>();
    stall::<_, ReadResp>(&client, method::APPEND_RECORDS, soon, nothing).unwrap_err();
    let nothing = stream::empty::<BatchAppendReq>();
    let call = stall::<_, BatchAppendResp>(&client, method::BATCH_APPEND, soon, nothing);
    assert_eq!(call.unwrap_err().code(), Code::DeadlineExceeded);
    // Long before the server's own patience ends.
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[test]
fn an_idle_batch_call_stays_open_and_an_append_that_is_too_late_ends_nothing() {
    // Enough for an append on a machine that does much else.
    let time = Duration::from_secs(3);
    let service = service_within(time);
    let client = analyst(&service);
    let within = |seconds| Some(BatchDeadline::Within(WireDuration { seconds, nanos: 0 }));
    let parts = [part(1, true, within(10)), part(2, true, within(0)), part(3, true, within(10))];
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let parts_later = async move {
        let [first, others @ ..] = parts;
        sender.send(first).await.unwrap();
        // Nothing is open meanwhile.
        tokio::time::sleep(time + time / 2).await;
        for part in others {
            sender.send(part).await.unwrap();
        }
    };
    client.runtime.spawn(parts_later);
    let messages =
        stream::unfold(
            receiver,
            |mut receiver| async move { Some((receiver.recv().await?, receiver)) },
        );
    let answers = client.wait(async {
        let codec = ProstCodec::<BatchAppendReq, BatchAppendResp>::default();
        let path = PathAndQuery::from_static(method::BATCH_APPEND);
        let request = client.request(messages);
        let answered = client.ready().await.streaming(request, path, codec).await.unwrap();
        let mut answered = answered.into_inner();
        let mut answers = Vec::new();
        while let Some(answer) = answered.message().await.unwrap() {
            answers.push(answer.result.unwrap());
        }
        answers
    });
    let codes = answers.iter().map(|answer| match answer {
        BatchResult::Success(_) => 0,
        BatchResult::Error(status) => status.code,
    });
    let late = i32::from(Code::DeadlineExceeded);
    assert_eq!(codes.collect::<Vec<_>>(), [0, late, 0]);
}
