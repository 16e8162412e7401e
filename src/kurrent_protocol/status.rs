//! `google.rpc.Status`: an error with details that programs can read.
//!
//! It stands in the reply of a failed batch append, and in the trailer `grpc-status-details-bin` of a
//! call that failed.

use prost::Message;
pub use prost_types::Any;

/// `google.rpc.Status`.
///
/// The protocol's copy of it holds one detail, Google's holds any number; on the wire one detail is
/// the same in both.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// `google.rpc.Code`, the same numbers as gRPC's own.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// For programs.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// A message that can stand in a [`Status`].
pub trait Detail: Message + Default {
    /// Its full name: package and message.
    const NAME: &'static str;

    /// The message, packed with its name.
    fn packed(&self) -> Any {
        Any { type_url: format!("{TYPE_URL_PREFIX}{}", Self::NAME), value: self.encode_to_vec() }
    }
}

impl Status {
    /// The first detail of this type; `None` if there is none, or it cannot be decoded.
    pub fn detail<D: Detail>(&self) -> Option<D> {
        let named = |any: &&Any| any.type_url.rsplit('/').next() == Some(D::NAME);
        let any = self.details.iter().find(named)?;
        D::decode(any.value.as_slice()).ok()
    }
}

const TYPE_URL_PREFIX: &str = "type.googleapis.com/";
