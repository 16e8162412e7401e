//! Who may do what, and what everybody may ask.

use license_ledger::access::Scope;
use license_ledger::kurrent_protocol::features::SupportedMethods;
use license_ledger::kurrent_protocol::gossip::{ClusterInfo, NodeState};
use license_ledger::kurrent_protocol::method;
use license_ledger::kurrent_protocol::shared::Expectation;
use license_ledger::kurrent_protocol::streams::*;
use tonic::Code;

use super::client::{Kurrent, in_log, noted, proposed, record};
use super::{analyst, copier, service};
use crate::device::{PERSISTENT, kid, request};

const ANY: Expectation = Expectation::Any(());

#[test]
fn everybody_may_ask_what_there_is_and_who_leads() {
    let service = service();
    let nobody = Kurrent::with_authorization(&service, None);
    let supported: SupportedMethods = nobody.unary(method::SUPPORTED_METHODS, ()).unwrap();
    let names: Vec<_> =
        supported.methods.iter().map(|method| method.method_name.as_str()).collect();
    assert_eq!(names, ["read", "append", "batchappend", "appendrecords"]);
    assert_eq!(supported.event_store_server_version, "26.1.0");
    let cluster: ClusterInfo = nobody.unary(method::GOSSIP, ()).unwrap();
    let [member] = &cluster.members[..] else { panic!("{cluster:?}") };
    assert_eq!(member.state, i32::from(NodeState::Leader));
    assert!(member.is_alive);
    let address = service.inner().grpc.as_ref().unwrap().address();
    let at = member.http_end_point.clone().unwrap();
    assert_eq!((at.address.as_str(), at.port), ("127.0.0.1", u32::from(address.port())));
}

#[test]
fn nobody_else_gets_in() {
    let service = service();
    let key = service.client_with(&[Scope::EventsRead]).key().to_owned();
    let cut = &key[..key.len() - 1];
    let strangers = [
        Kurrent::with_authorization(&service, None),
        Kurrent::with_authorization(&service, Some("Basic !".to_owned())),
        Kurrent::with_authorization(&service, Some("Digest x".to_owned())),
        Kurrent::with_password(&service, ""),
        Kurrent::with_password(&service, cut),
    ];
    for stranger in strangers {
        let refused = stranger.read(in_log(AllStart::Start(()), 1)).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        assert!(!refused.message().contains(cut));
        let refused = stranger.append("user-a", ANY, vec![noted(1)]).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        let refused = stranger.unary::<_, ()>("/event_store.client.users.Users/Details", ());
        assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    }
    // A password in the form that clients with tokens use.
    let bearer = Kurrent::with_authorization(&service, Some(format!("Bearer {key}")));
    bearer.read(in_log(AllStart::Start(()), 1)).unwrap();
}

#[test]
fn each_scope_allows_what_it_says() {
    let service = service();
    let refused = |result: Result<(), tonic::Status>| result.err().map(|status| status.code());
    let denied = Some(Code::PermissionDenied);
    for (scopes, may_read, may_append_users, may_append_ours) in [
        (&[Scope::EventsRead][..], None, None, denied),
        (&[Scope::LedgerAppend], denied, None, None),
        (&[Scope::InventoryRead, Scope::SupportWrite], denied, denied, denied),
        (&[Scope::Admin], None, None, None),
    ] {
        let client = Kurrent::of(&service, scopes);
        let id = u128::from(service.event_count());
        let read = client.read(in_log(AllStart::Start(()), 1)).map(drop);
        assert_eq!(refused(read), may_read, "{scopes:?}");
        let append = client.append("user-a", ANY, vec![noted(id)]).map(drop);
        assert_eq!(refused(append), may_append_users, "{scopes:?}");
        let records = vec![record("user-a", id + 1000, "Noted", b"{}")];
        let append = client.append_records(records, &[]).map(drop);
        assert_eq!(refused(append), may_append_users, "{scopes:?}");
        let data = format!("{{\"key_id\":\"none-{id}\",\"actor\":\"a\",\"at_ms\":1}}");
        let ours = vec![proposed(id + 2000, "api-key-revoked.v1", data.as_bytes())];
        let append = client.append("admin", ANY, ours).map(drop);
        assert_eq!(refused(append), may_append_ours, "{scopes:?}");
    }
    let outsider = analyst(&service);
    let mixed = vec![record("user-a", 1, "Noted", b"{}"), record("admin", 2, "Noted", b"{}")];
    let append = outsider.append_records(mixed, &[]).map(drop);
    assert_eq!(refused(append), denied);
}

/// What `copy` does: the events of one ledger, in another.
#[test]
fn events_of_ours_go_into_another_ledger_as_they_are() {
    let (from, to) = (service(), service());
    let device = from.device("tv");
    device.acquire(&from.client, &request(&[kid(1)]), PERSISTENT).unwrap();
    let (source, target) = (analyst(&from), copier(&to));
    let events = source.events(in_log(AllStart::Start(()), 1000));
    let name = |event: &RecordedEvent| {
        String::from_utf8(event.stream_identifier.clone().unwrap().stream_name).unwrap()
    };
    let of_device: Vec<_> =
        events.into_iter().filter(|event| name(event).starts_with("device-")).collect();
    assert!(of_device.len() > 1);
    for event in &of_device {
        let message = ProposedMessage {
            id: event.id.clone(),
            metadata: event.metadata.clone(),
            custom_metadata: event.custom_metadata.clone(),
            data: event.data.clone(),
        };
        let expected = match event.stream_revision {
            0 => Expectation::NoStream(()),
            revision => Expectation::Revision(revision - 1),
        };
        super::client::stored(target.append(&name(event), expected, vec![message]).unwrap());
    }
    let there = target.events(in_log(AllStart::Start(()), 1000));
    let there: Vec<_> =
        there.into_iter().filter(|event| name(event).starts_with("device-")).collect();
    let parts = |events: &[RecordedEvent]| -> Vec<_> {
        let parts = events.iter().map(|event| {
            (
                event.id.clone(),
                event.metadata.clone(),
                event.custom_metadata.clone(),
                event.data.clone(),
            )
        });
        parts.collect()
    };
    assert_eq!(parts(&there), parts(&of_device));
}
