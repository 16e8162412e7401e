//! What clients ask about the server: which methods there are, and who belongs to the cluster.

use super::Shared;
use crate::kurrent_protocol::features::{SupportedMethod, SupportedMethods};
use crate::kurrent_protocol::gossip::{ClusterInfo, EndPoint, MemberInfo, NodeState};
use crate::kurrent_protocol::shared::{UuidMessage, ticks};

/// The methods that clients ask for by name, and the oldest version that has all of them.
pub(super) fn supported_methods() -> SupportedMethods {
    let methods = METHODS.map(|(service_name, method_name, features)| SupportedMethod {
        method_name: method_name.to_owned(),
        service_name: service_name.to_owned(),
        features: features.iter().map(|feature| (*feature).to_owned()).collect(),
    });
    SupportedMethods { methods: methods.into(), event_store_server_version: VERSION.to_owned() }
}

/// A cluster of one. `authority` is how the client reached it, which it can do again.
pub(super) fn members(shared: &Shared, authority: Option<&http::uri::Authority>) -> ClusterInfo {
    let (address, port) = match authority {
        Some(authority) => (authority.host().to_owned(), authority.port_u16()),
        None => (shared.address.ip().to_string(), None),
    };
    let port = port.unwrap_or(shared.address.port()).into();
    let member = MemberInfo {
        instance_id: Some(UuidMessage::structured(shared.instance)),
        time_stamp: ticks(shared.clock.now().0),
        state: NodeState::Leader.into(),
        is_alive: true,
        http_end_point: Some(EndPoint { address, port }),
    };
    ClusterInfo { members: vec![member] }
}

const VERSION: &str = "26.1.0";

const STREAMS: &str = "event_store.client.streams.streams";
const METHODS: [(&str, &str, &[&str]); 4] = [
    (STREAMS, "read", &["position", "events"]),
    (STREAMS, "append", &[]),
    (STREAMS, "batchappend", &["deadline_duration"]),
    ("kurrentdb.protocol.v2.streams.streamsservice", "appendrecords", &[]),
];
