//! `event_store.client.server_features`: what a client asks first. The request is empty.

use prost::Message;

/// The answer.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SupportedMethods {
    /// The methods that there are.
    #[prost(message, repeated, tag = "1")]
    pub methods: Vec<SupportedMethod>,
    /// For example `26.1.0`.
    #[prost(string, tag = "2")]
    pub event_store_server_version: String,
}

/// One method.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SupportedMethod {
    /// In lower case: `batchappend`.
    #[prost(string, tag = "1")]
    pub method_name: String,
    /// In lower case: `event_store.client.streams.streams`.
    #[prost(string, tag = "2")]
    pub service_name: String,
    /// What the method can do beyond what it could at first.
    #[prost(string, repeated, tag = "3")]
    pub features: Vec<String>,
}
