//! Redis is no part of the truth: whatever becomes of it, nothing is lost and nobody is told that the hub cannot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tomada::app::{Hub, Options};
use tomada::client::Client;
use tomada::clock::Clock;

use crate::harness::cluster::{Cluster, NODES, Refusals, rounds};
use crate::harness::components;
use crate::harness::database::Database;
use crate::harness::partner::{Partner, source};
use crate::harness::redis::Redis;

const PATH: &str = "/webhooks/partner/order";
const ROUNDS: u32 = 20;
/// Senders at the same time.
const SENDERS: u64 = 4;

/// Emptied, hung, killed and started again.
async fn suffer(redis: &mut Redis, hang: Duration) {
    redis.says("FLUSHALL").await;
    redis.says("SCRIPT FLUSH").await;
    redis.signal("-STOP");
    tokio::time::sleep(hang).await;
    redis.signal("-CONT");
    redis.kill();
    tokio::time::sleep(Duration::from_millis(50)).await;
    redis.restart().await;
}

/// Whether a hub is connected to its Redis.
async fn is_up(client: &mut Client) -> bool {
    let page = client.get("/api/metrics").await.expect("an answer");
    assert_eq!(page.status, 200);
    String::from_utf8_lossy(&page.body).lines().any(|line| line == "tomada_redis_up 1")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_emptied_hung_and_started_again_loses_nothing() {
    let mut redis = Redis::start().await;
    let data = tempfile::TempDir::new().expect("a directory for the hub");
    let toml = source(PATH, "order.created")
        .replace("[[sources", "rate = { per_minute = 6000000, burst = 100000 }\n[[sources");
    let config = tomada::config::parse(&toml, "test.toml").expect("a configuration");
    let hub = Hub::start(Options {
        data: data.path().join("hub"),
        database: None,
        listen: ([127, 0, 0, 1], 0).into(),
        clock: Clock::System,
        compiler: components::tomada(),
        config: Some((config, std::collections::BTreeMap::new())),
        redis: Some(redis.url()),
    })
    .await
    .expect("the hub starts");
    let mut client = Client::connect(&hub.url, Some(&hub.admin_key)).await.expect("the hub answers");

    let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (url, stop, accepted) = (hub.url.clone(), stop.clone(), accepted.clone());
            tokio::spawn(async move {
                let mut partner = Partner::of(&url, PATH).await;
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let key = format!("{sender}-{number}");
                    let (_, duplicate) = partner.send(&json!({ "idempotency_key": key })).await;
                    assert!(!duplicate);
                    accepted.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .collect();
    for round in 0..ROUNDS {
        while !is_up(&mut client).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        suffer(&mut redis, Duration::from_millis(u64::from(50 + 20 * round))).await;
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await.expect("every answer is a 202");
    }
    let metrics = client.get("/api/metrics").await.expect("an answer");
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let figure = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        found.unwrap_or_else(|| panic!("{name} is missing"))
    };
    assert!(figure("tomada_redis_failures_total") >= f64::from(ROUNDS), "{text}");
    hub.stop().await.expect("the hub stops");
    let database = rusqlite::Connection::open(data.path().join("hub/tomada.db")).expect("the database");
    let kept: i64 =
        database.query_row("select count(*) from integration_events", [], |row| row.get(0)).expect("a count");
    assert_eq!(kept as u64, accepted.load(Ordering::Relaxed), "what was acknowledged is there, and nothing else");
    assert!(kept > 1000, "{kept}");
}

/// What nodes tell each other through it, they find out without it.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_redis_is_killed_emptied_hung_and_started_again_lose_nothing() {
    for database in Database::on_each_server() {
        let mut redis = Redis::start().await;
        let mut cluster = Cluster::start(database, Some(redis.url())).await;
        cluster.send();
        let mut clients = Vec::new();
        for node in 0..NODES {
            clients.push(cluster.node(node).client().await);
        }
        for round in 0..rounds().max(3) {
            for client in &mut clients {
                while !is_up(client).await {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            suffer(&mut redis, Duration::from_millis(50 + 100 * (round as u64 % 20))).await;
        }
        drop(clients);
        assert_eq!(cluster.settle().await, Refusals { busy: 0, silence: 0 }, "requests failed");
    }
}
