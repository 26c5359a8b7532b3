//! Hot swap: under load nothing fails and nothing is lost, and what does not fit changes nothing.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::components::{read, variant};
use crate::harness::misfits::{with_import, with_trap_at_load};
use crate::harness::partner::{Partner, source};
use crate::harness::target::Target;
use crate::harness::{TestHub, attempts};

const PATH: &str = "/webhooks/partner/order";

async fn hub(target: &Target) -> TestHub {
    let mut toml = source(PATH, "order.created");
    toml += &target.endpoint("shop");
    toml += "[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\n";
    TestHub::start(&toml).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_swaps_under_load_lose_nothing() {
    let target = Target::start().await;
    let hub = hub(&target).await;
    let mut pushed = HashSet::new();
    pushed.insert(hub.get("/api/connectors").await["items"][0]["active"].as_str().expect("a digest").to_owned());

    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (url, stopped) = (hub.url.clone(), stop.clone());
    let load = tokio::spawn(async move {
        let mut partner = Partner::of(&url, PATH).await;
        let mut every = tokio::time::interval(Duration::from_micros(3333));
        let mut ids = Vec::new();
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            every.tick().await;
            ids.push(partner.send(&json!({ "order": ids.len() })).await.0);
        }
        ids
    });
    for tag in 0..50 {
        let answer: Value = hub.put("/api/connectors/webhook", variant("webhook", tag)).await.json().expect("accepted");
        pushed.insert(answer["digest"].as_str().expect("a digest").to_owned());
        // In force when the answer comes: what is sent from now on runs on it.
        let before = target.count();
        target.wait_for(before + 5).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let ids = load.await.expect("the load ends");
    let mut ran = HashSet::new();
    for id in &ids {
        let event = hub.event_with(id, "delivered").await;
        let attempts = attempts(&event);
        assert_eq!(attempts.len(), 1, "at the first attempt: {event:#}");
        ran.insert(attempts[0]["connector_digest"].as_str().expect("a digest").to_owned());
    }
    assert_eq!(target.count(), ids.len());
    assert!(ran.is_subset(&pushed) && ran.len() > 40, "{} digests ran", ran.len());
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_flight_ends_on_the_version_it_began_with() {
    let target = Target::start().await;
    let hub = hub(&target).await;
    let first = hub.get("/api/connectors").await["items"][0]["active"].clone();
    let mut partner = Partner::of(&hub.url, PATH).await;
    let held = target.hold().await;
    let (id, _) = partner.send(&json!({ "order": 1 })).await;
    target.wait_for(1).await;
    assert_eq!(hub.put("/api/connectors/webhook", variant("webhook", 1)).await.status, 200);
    drop(held);
    let event = hub.event_with(&id, "delivered").await;
    assert_eq!(attempts(&event)[0]["connector_digest"], first);

    let (id, _) = partner.send(&json!({ "order": 2 })).await;
    let event = hub.event_with(&id, "delivered").await;
    assert_ne!(attempts(&event)[0]["connector_digest"], first);
    hub.post("/api/connectors/webhook/rollback", json!({})).await;
    let (id, _) = partner.send(&json!({ "order": 3 })).await;
    let event = hub.event_with(&id, "delivered").await;
    assert_eq!(attempts(&event)[0]["connector_digest"], first, "after the rollback");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_changes_nothing() {
    let target = Target::start().await;
    let hub = hub(&target).await;
    let before = hub.get("/api/connectors").await;
    let webhook = read("webhook");
    let core_module = b"\0asm\x01\0\0\0".to_vec();
    let mut damaged = webhook.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xff);
    let foreign = with_import(&webhook, "wasi:cli/environment@0.2.0");
    let mut bloated = webhook.clone();
    bloated.resize((16 << 20) + 1, 0);
    let wrong: [(&str, &str, Vec<u8>, &str); 9] = [
        ("nothing", "webhook", Vec::new(), ""),
        ("text", "webhook", b"hello".to_vec(), "not a WebAssembly component"),
        ("a core module", "webhook", core_module, "core module"),
        ("half of it", "webhook", webhook[..middle].to_vec(), ""),
        ("damaged", "webhook", damaged, ""),
        ("too large", "webhook", bloated, "16777216"),
        ("an import that no world has", "webhook", foreign, "wasi:cli/environment"),
        ("a trap at load", "webhook", with_trap_at_load(&webhook), "does not start"),
        ("another name", "shop", webhook.clone(), "names it \"webhook\""),
    ];
    for (what, name, wasm, said) in wrong {
        let answer = hub.put(&format!("/api/connectors/{name}"), wasm).await;
        assert_eq!(answer.status, 422, "{what}: {}", answer.problem());
        assert!(answer.problem().contains(said), "{what}: {}", answer.problem());
    }
    assert_eq!(hub.get("/api/connectors").await, before);
    let (id, _) = Partner::of(&hub.url, PATH).await.send(&json!({ "order": 1 })).await;
    hub.event_with(&id, "delivered").await;
    hub.finish(&[]).await;
}
