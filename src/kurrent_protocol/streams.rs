//! `event_store.client.streams`: reading, subscribing, appending.

mod append;
mod batch;
mod delete;
mod read;

pub use append::{
    AppendReq, AppendReqContent, AppendReqOptions, AppendResp, AppendResult, AppendSuccess,
    Conflict, ConflictCurrent, ConflictExpected, ProposedMessage, WrittenPosition,
};
pub use batch::{
    BatchAppendReq, BatchAppendResp, BatchDeadline, BatchExpectation, BatchOptions, BatchResult,
};
pub use delete::{DeleteOptions, DeleteReq, DeleteResp, DeletedPosition};
pub use read::{
    AllOptions, AllStart, CaughtUp, Checkpoint, Confirmation, ControlOption, Count, Direction,
    EventPosition, Expression, Filter, FilterBy, FilterOptions, ReadEvent, ReadOptions, ReadReq,
    ReadResp, ReadRespContent, RecordedEvent, Source, StreamNotFound, StreamOptions, StreamStart,
    Subscription, UuidChoice, UuidOption, Window,
};
