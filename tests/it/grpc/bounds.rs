//! What one client, and all together, may take.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use license_ledger::kurrent_protocol::shared::Expectation;
use license_ledger::kurrent_protocol::streams::*;
use tonic::Code;

use super::client::{in_log, live, noted, proposed};
use super::{analyst, service, setup};

const ANY: Expectation = Expectation::Any(());

#[test]
fn an_append_beyond_the_limits_is_refused_and_stores_nothing() {
    let service = service();
    let client = analyst(&service);
    let before = service.event_count();
    let refused = |events| client.append("user-a", ANY, events).unwrap_err();
    let many = refused((0..1025).map(noted).collect());
    assert_eq!(many.code(), Code::InvalidArgument);
    assert!(many.message().contains("1024 records"), "{many}");
    let long = vec![b'1'; 4 << 20];
    let large = refused((0..5).map(|id| proposed(id, "Noted", &long)).collect());
    assert_eq!(large.code(), Code::InvalidArgument, "{large}");
    let one = refused(vec![proposed(1, "Noted", &vec![b'1'; (4 << 20) + 1])]);
    assert_eq!(one.code(), Code::InvalidArgument, "{one}");
    // More than any message of a client may have.
    let huge = refused(vec![proposed(1, "Noted", &vec![b'1'; 18 << 20])]);
    assert_eq!(huge.code(), Code::OutOfRange, "{huge}");
    assert_eq!(service.event_count(), before);
    let fitting = (0..3).map(|id| proposed(id, "Noted", &long[..(4 << 20) - 64])).collect();
    client.append_any("user-a", fitting);
    let events = client.events(in_log(AllStart::End(()), 0));
    assert_eq!(events.len(), 0);
    let events = client.events(super::client::in_stream("user-a", StreamStart::Start(()), 9));
    assert_eq!(events.iter().map(|event| event.data.len()).sum::<usize>(), 3 * ((4 << 20) - 64));
}

#[test]
fn more_calls_at_once_than_there_are_places_are_refused_until_one_is_free() {
    let service = setup().with("grpc.calls", 2).start();
    let client = analyst(&service);
    let subscribe = || client.begin(live(in_log(AllStart::End(()), 0)));
    let mut first = subscribe().unwrap();
    let _second = subscribe().unwrap();
    let refused = subscribe().err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(client.append("user-a", ANY, vec![noted(1)]).unwrap_err().code(), refused.code());
    first.next().unwrap();
    drop(first);
    // The server hears of it in its own time.
    while client.append("user-a", ANY, vec![noted(1)]).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_key_that_calls_too_often_is_told_to_wait() {
    let service = setup().with("grpc.per_key_per_minute", 1).with("grpc.burst", 3).start();
    let (client, other) = (analyst(&service), analyst(&service));
    let read = |client: &super::Kurrent| client.read(in_log(AllStart::End(()), 1)).map(drop);
    for _ in 0..3 {
        read(&client).unwrap();
    }
    let refused = read(&client).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("too many requests; wait"), "{refused}");
    read(&other).unwrap();
}

#[test]
fn who_connects_and_says_nothing_is_cut_off() {
    let service = setup().with("limits.header_timeout_ms", 200).start();
    let address = service.inner().grpc.as_ref().unwrap().address();
    let mut silent = TcpStream::connect(address).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut bytes = Vec::new();
    // What the server says on its own account comes first, then the end.
    match silent.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
}
