//! What holds of one process holds of three: repeats elsewhere change nothing, and what one has done
//! the others see.

use license_ledger::domain::Event;

use super::cuts::{connect, many};
use super::wire::Wire;
use super::{Group, eventually};
use crate::client::Client;
use crate::device::{Device, PERSISTENT, deleted, kid, refused, request, words};
use crate::replay::Replay;
use crate::service::block_on;

fn inventory(client: &Client, device: &Device, position: u64) -> serde_json::Value {
    let path = format!("/v1/devices/{}/inventory?min_position={position}", device.identity());
    client.json(&path)
}

#[test]
fn what_was_answered_by_one_process_is_repeated_by_the_others() {
    let group = Group::start(2, 3, |port| port);
    let clients = [0, 1, 2].map(|member| group.client(member));
    let device = group.device("phone");
    let asked = request(&[kid(1), kid(2)]);
    let challenge = device.ask(&asked);
    let mut position = 0;
    let mut granted = Vec::new();
    for (place, client) in clients.iter().enumerate() {
        let answer = client.challenge(&challenge, PERSISTENT);
        let acquired = device.accept(&answer.body, &asked.nonce).unwrap();
        match answer.position() {
            Some(stored) if place == 0 => position = stored,
            more => assert_eq!((place > 0, more), (true, None), "an event at process {place}"),
        }
        granted.push((acquired.rights_ids(), acquired.transaction_id.unwrap(), acquired.keys()));
    }
    assert!(granted.iter().all(|answer| *answer == granted[0]));
    // Before it has seen the answer to the acquisition, each knows its transaction.
    let transaction_id = granted[0].1;
    let confirmed = device.confirm(transaction_id, &[(kid(1), 0), (kid(2), 0)]);
    let answers = [1, 2, 0].map(|member| clients[member].challenge(&confirmed, ""));
    assert_eq!(answers[0].status, 200);
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    let stored = answers.iter().map(|answer| answer.position()).collect::<Vec<_>>();
    assert_eq!((&stored[1..], stored[0] > Some(position)), (&[None, None][..], true));
    // Read models catch up with a write elsewhere.
    for client in &clients {
        let seen = inventory(client, &device, stored[0].unwrap());
        assert_eq!((&seen["confirmed"], &seen["live"]), (&2.into(), &2.into()));
    }
    let replay = Replay::of(&group.facts());
    assert_eq!((replay.acquired.len(), replay.stored.len()), (2, 2));
}

#[test]
fn a_deletion_is_answered_alike_everywhere_and_frees_once() {
    let group = Group::start(2, 3, |port| port);
    let clients = [0, 1, 2].map(|member| group.client(member));
    let device = group.device("phone");
    let asked = request(&[kid(1)]);
    device.acquire(&clients[0], &asked, PERSISTENT).map(drop).unwrap();
    device.acquire(&clients[1], &request(&[kid(2)]), PERSISTENT).map(drop).unwrap();
    let denied = |member: usize, number| {
        let answer = device.acquire(&clients[member], &request(&[kid(number)]), PERSISTENT);
        words(&answer.map(drop).unwrap_err())
    };
    assert_eq!(denied(2, 3), refused("persistent_license_limit"));
    let challenge = device.give_back(asked.nonce, &[kid(1)]);
    let mut position = None;
    for member in [2, 0, 1, 2] {
        let answer = clients[member].challenge(&challenge, "");
        deleted(&answer.body, asked.nonce).unwrap();
        position = position.or(answer.position());
    }
    for client in &clients {
        assert_eq!(inventory(client, &device, position.unwrap())["live"], 1);
    }
    device.acquire(&clients[1], &request(&[kid(3)]), PERSISTENT).map(drop).unwrap();
    assert_eq!(denied(0, 4), refused("persistent_license_limit"));
    let facts = group.facts();
    let deletions = facts.iter().filter(|fact| {
        matches!(fact.event, Event::LicenseDeleted(_) | Event::DeletionUnmatched(_))
    });
    assert_eq!(deletions.count(), 1);
    assert_eq!(Replay::of(&facts).most_held, 2);
}

/// Events before a process is stopped, and while it is.
const BEFORE: u64 = 12_000;
const MEANWHILE: u64 = 3_000;
/// What an event takes on the wire, at least.
const EVENT_BYTES_MIN: u64 = 200;

#[test]
fn a_process_that_was_stopped_for_long_reads_what_it_missed_and_no_more() {
    let mut group = Group::start(1, 2, |port| port);
    let ledger = block_on(connect(&group, "writer", group.port));
    let write = |from: u64, to: u64| {
        let appends = (from..to).step_by(1_000).map(|first| many("bulk", first, 1_000));
        appends.map(|append| block_on(ledger.append(append)).unwrap().last_sequence + 1).last()
    };
    let applied = |client: &Client, position: u64| {
        client.json(&format!("/v1/devices?min_position={position}"));
        eventually(|| client.get("/readyz").json()["lag"] == no_lag());
    };
    let position = write(0, BEFORE).unwrap();
    applied(&group.client(1), position);
    group.members.remove(1).stop();
    let position = write(BEFORE, BEFORE + MEANWHILE).unwrap();
    let read_by = |group: &Group, member: usize| {
        let wire = Wire::start(group.port);
        let serving = group.start_member(member, wire.port);
        applied(&serving.client(&group.admin_key), position);
        serving.stop();
        wire.bytes_to_clients()
    };
    let (resumed, fresh) = (read_by(&group, 1), read_by(&group, 2));
    let share = fresh * MEANWHILE / (BEFORE + MEANWHILE);
    let missed = MEANWHILE * EVENT_BYTES_MIN;
    assert!((missed..share * 3 / 2).contains(&resumed), "{resumed} of {fresh} bytes");
}

fn no_lag() -> serde_json::Value {
    serde_json::json!({ "inventory": 0, "ledger": 0, "state": 0 })
}
