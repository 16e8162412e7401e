use std::convert::Infallible;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use uuid::Uuid;

use super::*;
use crate::domain::usage::Wanted;
use crate::domain::{DeviceRef, KeyId};
use crate::licensing::Question;
use crate::licensing::tests::Site;

const MINUTE_MS: i64 = 60_000;

fn once(key: &str, body: &str) -> Once {
    let request = Once::request_digest("POST", "/v1/quota/decisions", body.as_bytes());
    Once::new("a-client", key, request, "test").unwrap()
}

fn wants(device: &DeviceRef, number: u128) -> Question<'_> {
    let key_id = KeyId(Uuid::from_u128(number));
    Question {
        device,
        account: None,
        wanted: vec![Wanted { key_id, title: None, content_group: None }],
        security_level: None,
        model: None,
    }
}

fn commands() -> Vec<Once> {
    (0..8).map(|number| once(&format!("key-{number}"), "1")).collect()
}

/// The first of these commands that is begun and waits for the disk, and how many were answered at
/// once before it: a busy machine may have an append stored before anybody asks again.
fn begun<'a>(
    node: &'a Licensing,
    question: &'a Question<'_>,
    commands: &'a [Once],
) -> (usize, &'a Once, LocalBoxFuture<'a, Result<CommandAnswer, CommandError<Infallible>>>) {
    let mut begun = commands.iter().enumerate().filter_map(|(answered, command)| {
        let mut first = node.reserve(question, MINUTE_MS, command).boxed_local();
        first.as_mut().now_or_never().is_none().then_some((answered, command, first))
    });
    begun.next().expect("none of them waits for the disk")
}

#[tokio::test]
async fn a_command_that_is_being_worked_on_is_not_begun_again() {
    let site = Site::new();
    let node = site.node("a", 9).await;
    let device = node.device_of("tv");
    let (question, commands) = (wants(&device, 1), commands());
    let (answered, command, first) = begun(&node, &question, &commands);
    let second = node.reserve(&question, MINUTE_MS, command).await;
    assert!(matches!(second, Err(CommandError::KeyInUse)), "{second:?}");
    let other = once("other", "1");
    drop(node.reserve(&wants(&node.device_of("radio"), 1), MINUTE_MS, &other).await.unwrap());
    let answer = first.await.unwrap();
    assert_eq!(node.reserve(&question, MINUTE_MS, command).await.unwrap(), answer);
    assert_eq!(site.count("reservation-made.v1").await, answered + 2);
}

#[tokio::test]
async fn a_command_given_up_in_the_middle_is_answered_with_what_it_did() {
    let site = Site::new();
    let node = site.node("a", 9).await;
    let device = node.device_of("tv");
    let (question, commands) = (wants(&device, 1), commands());
    let (answered, command, first) = begun(&node, &question, &commands);
    drop(first);
    let answer = node.reserve(&question, MINUTE_MS, command).await.unwrap();
    assert_eq!(node.reserve(&question, MINUTE_MS, command).await.unwrap(), answer);
    assert_eq!(site.count("reservation-made.v1").await, answered + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_race_between_nodes_under_one_key_ends_in_one_answer() {
    let site = Site::new();
    let nodes = [site.node("a", 9).await, site.node("b", 9).await];
    for round in 0..20_u128 {
        let sent = nodes.iter().map(async |node| {
            let device = node.device_of(&format!("tv-{round}"));
            let (question, command) = (wants(&device, round), once(&round.to_string(), "1"));
            node.reserve(&question, MINUTE_MS, &command).await.unwrap()
        });
        let answers = futures_util::future::join_all(sent).await;
        assert_eq!(answers[0], answers[1]);
    }
    assert_eq!(site.count("reservation-made.v1").await, 20);
    assert_eq!(site.count("request-answered.v1").await, 20);
}

#[tokio::test]
async fn a_denial_is_told_from_the_head() {
    let site = Site::new();
    let (ahead, behind) = (site.node("a", 1).await, site.node("b", 1).await);
    let device = ahead.device_of("tv");
    let held = behind.reserve(&wants(&device, 1), MINUTE_MS, &once("1", "1")).await.unwrap();
    let id = serde_json::from_str::<serde_json::Value>(&held.body).unwrap()["reservation_id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    ahead.release_reservation(&device, id, &once("2", "2")).await.unwrap();
    let answer = behind.reserve(&wants(&device, 2), MINUTE_MS, &once("3", "3")).await.unwrap();
    assert!(answer.body.contains(r#""decision":"allow""#), "{}", answer.body);
}

#[tokio::test]
async fn a_key_that_belongs_to_another_request_is_refused() {
    let site = Site::new();
    let node = site.node("a", 9).await;
    let device = node.device_of("tv");
    node.reserve(&wants(&device, 1), MINUTE_MS, &once("key", "1")).await.unwrap();
    let reused = node.reserve(&wants(&device, 1), MINUTE_MS, &once("key", "2")).await;
    assert!(matches!(reused, Err(CommandError::KeyReused)), "{reused:?}");
}
