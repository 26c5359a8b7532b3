//! Priority, turns between endpoints, order by key, delays: who goes first.

use std::time::Duration;

use serde_json::json;

use crate::harness::partner::{Partner, source};
use crate::harness::target::Target;
use crate::harness::{TestHub, eventually};

const PATH: &str = "/webhooks/partner/order";

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_does_not_stand_in_anothers_way() {
    let (slow, quick) = (Target::start().await, Target::start().await);
    let mut toml = source(PATH, "order.created");
    toml += &slow.endpoint("slow");
    toml += "concurrency = 4\n";
    toml += &quick.endpoint("quick");
    toml += "[[routes]]\nevent = \"order.created\"\nendpoint = \"slow\"\n";
    toml += "[[routes]]\nevent = \"order.created\"\nendpoint = \"quick\"\n";
    let hub = TestHub::start(&toml).await;
    let held = slow.hold().await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    for order in 0..500 {
        partner.send(&json!({ "order": order })).await;
    }
    quick.wait_for(500).await;
    assert_eq!(slow.count(), 4, "as many as it may have at once");
    drop(held);
    slow.wait_for(500).await;
    eventually("all is settled", async || hub.get("/api/endpoints").await["items"][1]["owed"] == 0).await;
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_with_an_ordering_key_keep_their_order_over_failures() {
    let target = Target::start().await;
    // The first of the one key fails twice; the other key does not wait for it.
    target.answers([(500, vec![]), (200, vec![]), (500, vec![])]);
    let mut toml = source(PATH, "order.created");
    toml += &target.endpoint("shop");
    toml += "concurrency = 1\nretry = { delays_s = [1], jitter = 0 }\n";
    toml += "[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\nordering = \"/customer\"\n";
    let hub = TestHub::start(&toml).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    let mut ids = Vec::new();
    ids.push(partner.send(&json!({ "customer": "a", "n": 0 })).await.0);
    target.wait_for(1).await;
    hub.event_with(&ids[0], "waiting").await;
    ids.push(partner.send(&json!({ "customer": "b", "n": 0 })).await.0);
    hub.event_with(&ids[1], "delivered").await;
    for n in 1..5 {
        ids.push(partner.send(&json!({ "customer": "a", "n": n })).await.0);
    }
    for id in &ids {
        hub.event_when(id, |event| {
            hub.clock.advance(Duration::from_millis(100));
            event["deliveries"][0]["status"] == "delivered"
        })
        .await;
    }
    let order: Vec<i64> = target
        .got()
        .iter()
        .map(|got| got.json())
        .filter(|body| body["customer"] == "a")
        .map(|body| body["n"].as_i64().expect("a number"))
        .collect();
    assert_eq!(order, [0, 0, 0, 1, 2, 3, 4]);
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_delivery_goes_out_when_it_is_due_and_once() {
    let target = Target::start().await;
    let mut toml = source(PATH, "order.created");
    toml += &target.endpoint("shop");
    toml += "[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\ndelay_s = 7200\n";
    let hub = TestHub::start(&toml).await;
    let (id, _) = Partner::of(&hub.url, PATH).await.send(&json!({ "order": 1 })).await;
    hub.event_with(&id, "waiting").await;
    hub.clock.advance(Duration::from_secs(7199));
    assert_eq!(target.count(), 0);
    hub.clock.advance(Duration::from_secs(1));
    hub.event_with(&id, "delivered").await;
    hub.clock.advance(Duration::from_secs(7200));
    assert_eq!(target.count(), 1);
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_lets_through_what_it_says() {
    let target = Target::start().await;
    let mut toml = source(PATH, "order.created");
    toml += &target.endpoint("shop");
    toml += "[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\nfilter = { pointer = \"/campaign\" }\n";
    let hub = TestHub::start(&toml).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    for body in [json!({ "n": 1 }), json!({ "n": 2, "campaign": null }), json!({ "n": 3, "campaign": "" })] {
        let (id, _) = partner.send(&body).await;
        assert_eq!(hub.event_when(&id, |_| true).await["status"], "unrouted");
    }
    let (id, _) = partner.send(&json!({ "campaign": "spring" })).await;
    hub.event_with(&id, "delivered").await;
    assert_eq!(target.count(), 1);
    hub.finish(&[]).await;
}
