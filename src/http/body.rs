//! Reads a request's body within bounds of size, time and pace.
//!
//! The HTTP library waits for a body as long as the client likes, so the bounds are here. A body
//! has to arrive in [`Limits::body_timeout`], and after two seconds of grace faster than
//! [`Limits::min_body_rate_bytes_per_second`] on average:
//!
//! ```text
//! bytes |                 /  must be above this line
//!       |              /
//!       |           /
//!       +--------/---------------|-> time
//!         grace           body timeout
//! ```

use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderMap};
use actix_web::web::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::problem::{Case, Problem};
use crate::config::Limits;

/// Reads the whole body. Counts what arrives, so a chunked body and a false `Content-Length` are
/// bounded like any other.
///
/// # Errors
///
/// 413 over the limit, 408 when too slow, 400 when it breaks off. Each ends the connection.
pub(super) async fn read(
    payload: Payload,
    headers: &HeaderMap,
    limits: &Limits,
) -> Result<Bytes, Problem> {
    if matches!(payload, Payload::None) {
        return Ok(Bytes::new());
    }
    if declared_length(headers).is_some_and(|length| length > limits.body_bytes as u64) {
        return Err(too_large(limits));
    }
    collect(payload, limits).await
}

async fn collect(mut payload: Payload, limits: &Limits) -> Result<Bytes, Problem> {
    let started = Instant::now();
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let received = first.len() + rest.len();
        let chunk = match timeout_at(due(started, received, limits), payload.next()).await {
            Err(_) => return Err(too_slow()),
            Ok(None) if rest.is_empty() => return Ok(first),
            Ok(None) => return Ok(rest.freeze()),
            Ok(Some(chunk)) => chunk.map_err(broken_off)?,
        };
        if received + chunk.len() > limits.body_bytes {
            return Err(too_large(limits));
        }
        if received == 0 {
            first = chunk; // most bodies are one chunk, which needs no copy
        } else {
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&chunk);
        }
    }
}

/// When the next byte has to be here, if `received` came before it.
fn due(started: Instant, received: usize, limits: &Limits) -> Instant {
    let rate = limits.min_body_rate_bytes_per_second.max(1);
    let earned_ms = (received as u64).saturating_mul(1_000) / rate;
    let patience = GRACE + Duration::from_millis(earned_ms);
    started + patience.min(limits.body_timeout())
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limits: &Limits) -> Problem {
    let detail = format!("the body has more than {} bytes; send less", limits.body_bytes);
    Problem::new(Case::BodyTooLarge, detail).closing()
}

fn too_slow() -> Problem {
    Problem::new(Case::BodyTooSlow, "the body did not arrive in time; send it without pauses")
        .closing()
}

fn broken_off(cause: actix_web::error::PayloadError) -> Problem {
    let detail = "the body broke off or is not framed as HTTP says; send it again";
    Problem::new(Case::InvalidRequest, detail).caused_by(cause.to_string()).closing()
}

/// Forgives a slow start and one lost packet.
const GRACE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_what_has_arrived_up_to_the_timeout() {
        let limits = Limits {
            min_body_rate_bytes_per_second: 100,
            body_timeout_ms: 5_000,
            ..Limits::default()
        };
        let start = Instant::now();
        let patience = |received| (due(start, received, &limits) - start).as_millis();
        assert_eq!(patience(0), 2_000);
        assert_eq!(patience(150), 3_500);
        assert_eq!(patience(1_000_000), 5_000);
        assert_eq!(patience(usize::MAX), 5_000);
    }
}
