//! What must not happen twice, such as a message to a person: where an endpoint takes each delivery at most once, a try
//! whose end nobody knows is left to an operator.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Place;
use crate::harness::partner::{Partner, source};
use crate::harness::process::HubProcess;
use crate::harness::target::Target;
use crate::harness::{TestHub, attempts, components, eventually};

const PATH: &str = "/webhooks/partner/order";

fn config(endpoint: &str) -> String {
    let route = "[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\n";
    format!("{}\n{endpoint}\nat_most_once = true\n{route}", source(PATH, "order.created"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_a_try_repeats_nothing() {
    let target = Target::start().await;
    let place = Place::new();
    let file = place.path("tomada.toml");
    let component = format!("[connectors.webhook]\nfile = {:?}\n", components::path("webhook"));
    std::fs::write(&file, config(&target.endpoint("shop")) + &component).expect("the configuration is written");

    let hub = HubProcess::start(&place, &file, None).await;
    let held = target.hold().await;
    let (id, _) = Partner::of(&hub.url, PATH).await.send(&json!({ "order": 1 })).await;
    target.wait_for(1).await;
    hub.kill();
    drop(held);

    let hub = HubProcess::start(&place, &file, None).await;
    // On a server once the lease of the one that was killed is over.
    let mut letter = Value::Null;
    eventually("the try is on record as interrupted", async || {
        letter = hub.get("/api/dead-letters").await["items"][0].clone();
        !letter.is_null()
    })
    .await;
    assert_eq!((&letter["event"], &letter["reason"]), (&json!(id), &json!("interrupted")));
    assert_eq!((&letter["code"], &letter["attempts"]), (&json!("outcome-unknown"), &json!(1)));
    // Another one goes out, so this hub has had every chance to repeat the first.
    Partner::of(&hub.url, PATH).await.send(&json!({ "order": 2 })).await;
    target.wait_for(2).await;
    let orders: Vec<_> = target.got().iter().map(|got| got.json()["order"].clone()).collect();
    assert_eq!(orders, [1, 2]);

    // An operator who knows that it did not arrive sends it again.
    let delivery = letter["delivery"].as_str().expect("an id");
    hub.post(&format!("/api/deliveries/{delivery}/replay")).await;
    assert_eq!(target.wait_for(3).await[2].json()["order"], 1);
    eventually("it is delivered", async || {
        hub.get("/api/dead-letters").await["items"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_repeats_nothing() {
    let target = Target::start().await;
    let hub = TestHub::start(&config(&format!("{}\ndeadline_ms = 200", target.endpoint("shop")))).await;
    let held = target.hold().await;
    let (id, _) = Partner::of(&hub.url, PATH).await.send(&json!({ "order": 1 })).await;
    hub.event_with(&id, "dead").await;
    drop(held);
    hub.clock.advance(Duration::from_secs(86_400));
    assert_eq!(target.count(), 1);
    hub.finish(&[("shop", "dead", 1)]).await;
}

/// A refusal says that nothing happened.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_tried_again() {
    let target = Target::start().await;
    target.answers([(503, vec![]), (429, vec![("retry-after", "5".to_owned())])]);
    let endpoint = format!("{}\nretry = {{ delays_s = [10], jitter = 0 }}", target.endpoint("shop"));
    let hub = TestHub::start(&config(&endpoint)).await;
    let (id, _) = Partner::of(&hub.url, PATH).await.send(&json!({ "order": 1 })).await;
    let event = hub
        .event_when(&id, |event| {
            hub.clock.advance(Duration::from_secs(1));
            event["deliveries"][0]["status"] == "delivered"
        })
        .await;
    let outcomes: Vec<_> = attempts(&event).iter().map(|attempt| attempt["outcome"].clone()).collect();
    assert_eq!(outcomes, ["transient", "rate-limited", "delivered"]);
    hub.finish(&[]).await;
}
