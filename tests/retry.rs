//! A delivery that fails is tried again, or given up with its reason; a replay keeps its id.

use std::time::Duration;

use serde_json::json;

use crate::harness::partner::{Partner, source};
use crate::harness::target::Target;
use crate::harness::{TestHub, attempts, eventually};

const PATH: &str = "/webhooks/partner/order";

async fn hub(target: &Target, more: &str) -> TestHub {
    let (source, endpoint) = (source(PATH, "order.created"), target.endpoint("shop"));
    let route = "[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\n";
    TestHub::start(&format!("{source}\n{endpoint}\n{more}\n{route}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_failures_and_a_success_are_three_attempts() {
    let target = Target::start().await;
    target.answers([(500, vec![]), (500, vec![])]);
    let hub = hub(&target, "retry = { delays_s = [10], jitter = 0 }").await;
    let (id, _) = Partner::of(&hub.url, PATH).await.send(&json!({ "order": 1 })).await;
    for tries in 1..3 {
        let event = hub.event_with(&id, "waiting").await;
        assert_eq!(attempts(&event).len(), tries);
        hub.clock.advance(Duration::from_secs(9));
        assert_eq!(target.count(), tries, "not before its time");
        hub.clock.advance(Duration::from_secs(1));
        target.wait_for(tries + 1).await;
        hub.event_when(&id, |event| attempts(event).len() > tries).await;
    }
    let event = hub.event_with(&id, "delivered").await;
    let outcomes: Vec<_> = attempts(&event).iter().map(|a| a["outcome"].as_str().expect("a word")).collect();
    assert_eq!(outcomes, ["transient", "transient", "delivered"]);
    assert_eq!(attempts(&event)[0]["http_status"], 500);
    assert_eq!(attempts(&event)[2]["connector_digest"].as_str().expect("a digest").len(), 64);
    let got = target.got();
    assert!(!got[0].header("webhook-id").is_empty());
    assert!(got.iter().all(|g| g.header("webhook-id") == got[0].header("webhook-id")), "one id over all attempts");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_succeeds_is_a_dead_letter_and_can_be_replayed() {
    let target = Target::start().await;
    target.always((503, vec![]));
    let hub = hub(&target, "retry = { attempts = 3, delays_s = [1], jitter = 0 }").await;
    let (id, _) = Partner::of(&hub.url, PATH).await.send(&json!({ "order": 1 })).await;
    for tries in 1..3 {
        hub.event_when(&id, |event| attempts(event).len() == tries && event["deliveries"][0]["status"] == "waiting")
            .await;
        hub.clock.advance(Duration::from_secs(1));
    }
    hub.event_with(&id, "dead").await;
    let letters = hub.get("/api/dead-letters").await;
    let letter = &letters["items"][0];
    assert_eq!((&letter["event"], &letter["reason"]), (&json!(id), &json!("transient")));
    assert_eq!((&letter["http_status"], &letter["attempts"]), (&json!(503), &json!(3)));

    target.always((200, vec![]));
    let delivery = letter["delivery"].as_str().expect("an id");
    hub.post(&format!("/api/deliveries/{delivery}/replay"), json!({})).await;
    let event = hub.event_with(&id, "delivered").await;
    assert_eq!(attempts(&event).len(), 4, "the earlier attempts are kept");
    let got = target.got();
    assert_eq!(got[0].header("webhook-id"), got[3].header("webhook-id"), "a replay keeps the id");
    assert_eq!(hub.get("/api/dead-letters").await["items"], json!([]));
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_is_not_tried_again() {
    let target = Target::start().await;
    target.always((422, vec![]));
    let hub = hub(&target, "").await;
    let (id, _) = Partner::of(&hub.url, PATH).await.send(&json!({ "order": 1 })).await;
    let event = hub.event_with(&id, "dead").await;
    assert_eq!((attempts(&event).len(), &attempts(&event)[0]["outcome"]), (1, &json!("rejected")));
    hub.finish(&[("shop", "dead", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_waited_for_and_slows_the_endpoint() {
    let target = Target::start().await;
    target.answers([(429, vec![("retry-after", "30".into())])]);
    let hub = hub(&target, "retry = { jitter = 0 }").await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    let (first, _) = partner.send(&json!({ "order": 1 })).await;
    hub.event_with(&first, "waiting").await;
    let (second, _) = partner.send(&json!({ "order": 2 })).await;
    hub.clock.advance(Duration::from_secs(29));
    assert_eq!(hub.event_when(&second, |_| true).await["deliveries"][0]["status"], "owed", "the endpoint rests");
    hub.clock.advance(Duration::from_secs(1));
    for id in [&first, &second] {
        hub.event_with(id, "delivered").await;
    }
    assert_eq!(target.count(), 3);
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_pause_the_endpoint_until_it_is_resumed() {
    let target = Target::start().await;
    target.answers([(401, vec![])]);
    let hub = hub(&target, "").await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    let (first, _) = partner.send(&json!({ "order": 1 })).await;
    hub.event_with(&first, "held").await;
    let (second, _) = partner.send(&json!({ "order": 2 })).await;
    hub.event_with(&second, "held").await;
    assert!(hub.get("/api/endpoints").await["items"][0]["paused"].is_string(), "with a reason");
    assert_eq!(target.count(), 1, "nothing more was sent");
    hub.post("/api/endpoints/shop/resume", json!({})).await;
    for id in [&first, &second] {
        hub.event_with(id, "delivered").await;
    }
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_opens_and_closes() {
    let target = Target::start().await;
    target.always((500, vec![]));
    let more = "concurrency = 1\nretry = { delays_s = [600], jitter = 0 }\nbreaker = { failures = 3, open_s = 60 }";
    let hub = hub(&target, more).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    let mut ids = Vec::new();
    for order in 0..6 {
        ids.push(partner.send(&json!({ "order": order })).await.0);
    }
    eventually("the breaker opens", async || hub.get("/api/endpoints").await["items"][0]["breaker"] == "open").await;
    target.wait_for(3).await;
    assert_eq!(target.count(), 3, "the others are spared");
    target.always((200, vec![]));
    hub.clock.advance(Duration::from_secs(60));
    for id in &ids[3..] {
        hub.event_with(id, "delivered").await;
    }
    assert_eq!(hub.get("/api/endpoints").await["items"][0]["breaker"], "closed");
    hub.clock.advance(Duration::from_secs(600));
    for id in &ids[..3] {
        hub.event_with(id, "delivered").await;
    }
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_owed_at_a_stop_is_delivered_after_the_start() {
    let target = Target::start().await;
    target.answers([(500, vec![])]);
    let hub = hub(&target, "retry = { delays_s = [60], jitter = 0 }").await;
    let (id, _) = Partner::of(&hub.url, PATH).await.send(&json!({ "order": 1 })).await;
    hub.event_with(&id, "waiting").await;
    let hub = hub.restart().await;
    hub.clock.advance(Duration::from_secs(60));
    hub.event_with(&id, "delivered").await;
    hub.finish(&[]).await;
}
