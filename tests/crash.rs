//! kill -9 at any moment: what was acknowledged is delivered or dead-lettered, and nothing else is.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Place;
use crate::harness::eventually;
use crate::harness::partner::{Partner, source};
use crate::harness::process::HubProcess;
use crate::harness::target::Target;

const PATH: &str = "/webhooks/partner/order";
const CONNECTIONS: usize = 16;

/// What came of a number of crashes.
struct Ledger {
    acknowledged: HashSet<String>,
    arrived: HashSet<String>,
    dead: HashSet<String>,
}

impl Ledger {
    fn missing(&self) -> usize {
        self.acknowledged.iter().filter(|id| !self.arrived.contains(*id) && !self.dead.contains(*id)).count()
    }
}

/// Kills the hub `crashes` times under load, lets the last one finish, and compares.
async fn crash(crashes: u64, fault: Option<&str>) -> Ledger {
    let target = Target::start().await;
    let place = Place::new();
    let config = place.path("tomada.toml");
    let mut toml = source(PATH, "order.created");
    toml += &target.endpoint("shop");
    toml += "retry = { attempts = 20, delays_s = [0.05], jitter = 0 }\n";
    toml += &format!("[connectors.webhook]\nfile = {:?}\n", crate::harness::components::path("webhook"));
    toml += "[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\n";
    std::fs::write(&config, toml).expect("the configuration is written");

    let acknowledged = Arc::new(Mutex::new(HashSet::new()));
    let number = Arc::new(AtomicU64::new(0));
    for crash in 0..crashes {
        let hub = HubProcess::start(&place, &config, fault).await;
        let stop = Arc::new(AtomicBool::new(false));
        let load: Vec<_> = (0..CONNECTIONS)
            .map(|_| tokio::spawn(send(hub.url.clone(), acknowledged.clone(), number.clone(), stop.clone())))
            .collect();
        // Moments spread over what a hub does after its start: 0 to 150 ms, by the golden ratio.
        let moment = Duration::from_micros((crash as f64 * 0.618_034).fract().mul_add(150_000.0, 0.0) as u64);
        let _ = tokio::time::timeout(moment, std::future::pending::<()>()).await;
        hub.kill();
        stop.store(true, Ordering::Relaxed);
        for task in load {
            task.await.expect("the load ends");
        }
    }
    let hub = HubProcess::start(&place, &config, None).await;
    eventually("all is delivered", async || {
        let endpoint = hub.get("/api/endpoints").await["items"][0].clone();
        endpoint["owed"] == 0 && endpoint["waiting"] == 0
    })
    .await;
    let mut dead = HashSet::new();
    for letter in hub.get("/api/dead-letters?limit=500").await["items"].as_array().expect("items") {
        dead.insert(letter["event"].as_str().expect("an id").to_owned());
    }
    let arrived: HashSet<String> = target.got().iter().map(|got| got.header("x-event-id").to_owned()).collect();
    let accepted = all_events(&hub).await;
    let unexpected: Vec<_> = arrived.difference(&accepted).collect();
    assert!(unexpected.is_empty(), "the target got what the hub does not know: {unexpected:?}");
    let acknowledged = acknowledged.lock().expect("unpoisoned").clone();
    Ledger { acknowledged, arrived, dead }
}

/// The ids of all events that the hub knows, page by page.
async fn all_events(hub: &HubProcess) -> HashSet<String> {
    let mut ids = HashSet::new();
    let mut path = "/api/events?limit=500".to_owned();
    loop {
        let page = hub.get(&path).await;
        let items = page["items"].as_array().expect("items");
        ids.extend(items.iter().map(|event| event["id"].as_str().expect("an id").to_owned()));
        match page["next"].as_str() {
            Some(next) => path = format!("/api/events?limit=500&before={next}"),
            None => return ids,
        }
    }
}

async fn send(url: String, acknowledged: Arc<Mutex<HashSet<String>>>, number: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    // The hub may be killed before it answers at all.
    let Ok(mut partner) = Partner::try_of(&url, PATH).await else { return };
    while !stop.load(Ordering::Relaxed) {
        let order = number.fetch_add(1, Ordering::Relaxed);
        let Ok(answer) = partner.try_send(&json!({ "order": order })).await else { return };
        if answer.status == 202 {
            let accepted: Value = answer.json().expect("JSON");
            acknowledged.lock().expect("unpoisoned").insert(accepted["id"].as_str().expect("an id").to_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_crashes_lose_nothing() {
    let ledger = crash(100, None).await;
    assert!(ledger.acknowledged.len() > 1000, "only {} were acknowledged", ledger.acknowledged.len());
    assert_eq!(ledger.missing(), 0, "of {} acknowledged ones", ledger.acknowledged.len());
}

/// The harness itself: when the hub says yes before the commit, it must see that.
#[tokio::test(flavor = "multi_thread")]
async fn an_ack_before_the_commit_would_be_caught() {
    let ledger = crash(5, Some("ack-before-commit")).await;
    assert!(ledger.missing() > 0, "none of {} was lost", ledger.acknowledged.len());
}
