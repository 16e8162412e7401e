//! JSON that clients send.

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;

use super::problem::{Case, Problem};

/// A body of JSON, for a handler to ask for.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Json<T> {
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = web::Bytes::from_request(request, payload);
        let is_json = check_type(request);
        Box::pin(async move {
            is_json?;
            Ok(Self(parse(&bytes.await?)?))
        })
    }
}

/// Refuses a body that does not say that it is JSON.
pub(super) fn check_type(request: &HttpRequest) -> Result<(), Problem> {
    if request.content_type().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(Case::UnsupportedMediaType, "send Content-Type: application/json"))
}

/// Reads a body. A member that is wrong is named, by its path.
pub(super) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(json).map_err(|error| {
        let wrong = if error.is_data() { wrong_member::<T>(json) } else { None };
        wrong.unwrap_or_else(|| {
            Problem::new(Case::InvalidRequest, format!("the JSON body is not valid: {error}"))
        })
    })
}

/// Finds what is wrong with a body that is JSON. To keep account of the path costs time, which good
/// bodies are not to pay. `None`: no member is to blame.
fn wrong_member<T: DeserializeOwned>(json: &[u8]) -> Option<Problem> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let error = serde_path_to_error::deserialize::<_, T>(&mut reader).err()?;
    error.path().iter().next()?;
    let reason = error.inner().to_string();
    // The path says it better than line and column, which stand behind the reason.
    let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _)| reason);
    Some(Problem::field(error.path().to_string(), reason.to_owned()))
}
