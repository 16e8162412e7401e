//! `event_store.client.gossip`: who belongs to the cluster. The request is empty.

use prost::{Enumeration, Message};

use super::shared::UuidMessage;

/// The answer.
#[derive(Clone, PartialEq, Message)]
pub struct ClusterInfo {
    /// All members that the one asked knows.
    #[prost(message, repeated, tag = "1")]
    pub members: Vec<MemberInfo>,
}

/// One member.
#[derive(Clone, PartialEq, Message)]
pub struct MemberInfo {
    /// Differs after every start.
    #[prost(message, optional, tag = "1")]
    pub instance_id: Option<UuidMessage>,
    /// When this was true: [ticks](super::shared::ticks).
    #[prost(int64, tag = "2")]
    pub time_stamp: i64,
    /// What it is at.
    #[prost(enumeration = "NodeState", tag = "3")]
    pub state: i32,
    /// Whether it answers.
    #[prost(bool, tag = "4")]
    pub is_alive: bool,
    /// Where clients reach it.
    #[prost(message, optional, tag = "5")]
    pub http_end_point: Option<EndPoint>,
}

/// Where clients reach a member.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct EndPoint {
    /// Host name or address.
    #[prost(string, tag = "1")]
    pub address: String,
    /// Port.
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

/// What a member is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
pub enum NodeState {
    /// It starts.
    Initializing = 0,
    /// It looks for the leader.
    DiscoverLeader = 1,
    /// It does not know.
    Unknown = 2,
    /// It is about to follow.
    PreReplica = 3,
    /// It copies what it lacks.
    CatchingUp = 4,
    /// It follows, beyond the size of the cluster.
    Clone = 5,
    /// It follows.
    Follower = 6,
    /// It is about to lead.
    PreLeader = 7,
    /// It takes the writes.
    Leader = 8,
    /// It manages other processes.
    Manager = 9,
    /// It stops.
    ShuttingDown = 10,
    /// It has stopped.
    Shutdown = 11,
    /// It is for reading only, and knows no leader.
    ReadOnlyLeaderless = 12,
    /// It is about to follow, for reading only.
    PreReadOnlyReplica = 13,
    /// It follows, for reading only.
    ReadOnlyReplica = 14,
    /// It hands leading over.
    ResigningLeader = 15,
}
