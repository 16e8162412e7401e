//! From a request to its method.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::body::Body;
use tonic::codec::ProstCodec;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tower::service_fn;

use super::caller::Caller;
use super::{Shared, about, append, read, refusal};
use crate::kurrent_protocol::method;
use crate::ledger::Append;

/// A call that was let in. It keeps its place until the last clone is dropped.
pub(super) struct Call {
    pub(super) shared: Arc<Shared>,
    pub(super) caller: Caller,
    /// When the client gives up.
    deadline: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

impl Call {
    fn admit(shared: &Arc<Shared>, headers: &HeaderMap) -> Result<Arc<Self>, Status> {
        let caller = Caller::of(shared, headers)?;
        let place = Arc::clone(&shared.places).try_acquire_owned();
        let _place = place.map_err(|_| refusal::overloaded())?;
        let timeout = headers.get(TIMEOUT).and_then(|value| value.to_str().ok());
        let deadline = timeout.and_then(duration).and_then(|wait| Instant::now().checked_add(wait));
        Ok(Arc::new(Self { shared: Arc::clone(shared), caller, deadline, _place }))
    }

    /// Whether the client has given up.
    pub(super) fn is_too_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Returns when the client gives up.
    pub(super) async fn too_late(&self) {
        match self.deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    }
}

/// Answers one request.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    request: http::Request<Body>,
) -> http::Response<Body> {
    match request.uri().path() {
        // Clients ask these two before they show who they are.
        method::SUPPORTED_METHODS => {
            in_time(shared, unary(request, |(): ()| async { Ok(about::supported_methods()) })).await
        }
        method::GOSSIP => {
            let members = about::members(shared, request.uri().authority());
            in_time(shared, unary(request, |(): ()| std::future::ready(Ok(members.clone())))).await
        }
        method::READ
        | method::APPEND
        | method::BATCH_APPEND
        | method::APPEND_RECORDS
        | method::DELETE
        | method::TOMBSTONE => match Call::admit(shared, request.headers()) {
            Ok(call) => answer_call(call, request).await,
            Err(status) => status.into_http(),
        },
        _ => Status::unimplemented("this server does not have this method").into_http(),
    }
}

async fn answer_call(call: Arc<Call>, request: http::Request<Body>) -> http::Response<Body> {
    match request.uri().path() {
        method::READ => {
            let read = |request: Request<_>| {
                let call = Arc::clone(&call);
                async move { Ok(Response::new(read::read(call, request.into_inner())?)) }
            };
            in_time(&call.shared, grpc().server_streaming(service_fn(read), request)).await
        }
        method::APPEND => {
            let append = |request: Request<Streaming<_>>| {
                let call = Arc::clone(&call);
                async move { Ok(Response::new(append::append(&call, request.into_inner()).await?)) }
            };
            grpc().client_streaming(service_fn(append), request).await
        }
        method::BATCH_APPEND => {
            let append = |request: Request<Streaming<_>>| {
                let batches = append::batch_append(Arc::clone(&call), request.into_inner());
                std::future::ready(Ok::<_, Status>(Response::new(batches)))
            };
            grpc().streaming(service_fn(append), request).await
        }
        method::APPEND_RECORDS => {
            let append = unary(request, |records| {
                let call = Arc::clone(&call);
                async move { append::append_records(&call, records).await }
            });
            in_time(&call.shared, append).await
        }
        _ => refusal::never_deleted().into_http(),
    }
}

/// Waits until an answer begins, but not for one who does not finish asking: that would keep a place
/// that others need.
async fn in_time(
    shared: &Shared,
    answer: impl Future<Output = http::Response<Body>>,
) -> http::Response<Body> {
    let answered = timeout(shared.append_timeout, answer).await;
    answered.unwrap_or_else(|_| refusal::late().into_http())
}

async fn unary<Req, Resp, F>(
    request: http::Request<Body>,
    mut answer: impl FnMut(Req) -> F,
) -> http::Response<Body>
where
    Req: Message + Default + 'static,
    Resp: Message + 'static,
    F: Future<Output = Result<Resp, Status>>,
{
    let answer = |request: Request<Req>| {
        let answered = answer(request.into_inner());
        async move { answered.await.map(Response::new) }
    };
    grpc().unary(service_fn(answer), request).await
}

fn grpc<Req, Resp>() -> Grpc<ProstCodec<Resp, Req>>
where
    Req: Message + Default + 'static,
    Resp: Message + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// The time that a client gives a call, as gRPC writes it: up to 8 digits and a unit.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(count * 3600),
        'M' => Duration::from_secs(count * 60),
        'S' => Duration::from_secs(count),
        'm' => Duration::from_millis(count),
        'u' => Duration::from_micros(count),
        'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

const TIMEOUT: &str = "grpc-timeout";
/// A whole append in one message, and what surrounds its events.
const MESSAGE_BYTES_MAX: usize = Append::BYTES_MAX + (1 << 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_timeouts_as_grpc_writes_them_and_no_others() {
        for (text, millis) in [("10S", 10_000), ("1H", 3_600_000), ("250m", 250), ("9000u", 9)] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "S", "10", "-1S", "123456789S", "10s", "1\u{e9}"] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert!(duration("99999999H").is_some());
    }
}
