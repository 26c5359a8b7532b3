//! Three nodes on one database under load, and what may happen to any of them: nothing is lost, nothing is settled twice,
//! and what a dead node held is delivered soon.
//!
//! On PostgreSQL and MySQL; on SQLite, which belongs to one process, there is nothing to try. `TOMADA_TEST_ROUNDS` says how
//! often each fault happens.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::database::Database;
use crate::harness::partner::{Partner, source};
use crate::harness::process::HubProcess;
use crate::harness::proxy::Proxy;
use crate::harness::target::Target;
use crate::harness::{components, eventually_within};

const PATH: &str = "/webhooks/partner/order";
const NODES: usize = 3;
/// Senders of each node.
const SENDERS: usize = 4;
/// What a dead node held is delivered by then.
const TAKEN_OVER: Duration = Duration::from_secs(15);

/// What happens to a node.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// kill -9, and a new one in its place.
    Kill,
    /// SIGSTOP for longer than its lease, then SIGCONT.
    Pause,
    /// Nothing passes between it and the database for longer than its lease.
    Cut,
    /// SIGTERM, and a new one when it has ended.
    Restart,
}

struct Cluster {
    target: Target,
    directory: TempDir,
    database: Database,
    proxies: Vec<Proxy>,
    nodes: Vec<Option<HubProcess>>,
    load: Arc<Load>,
}

/// What senders do and are told.
#[derive(Default)]
struct Load {
    urls: Mutex<Vec<Option<String>>>,
    number: AtomicU64,
    acknowledged: Mutex<HashSet<String>>,
    /// Answers that were neither 202 nor a 503, and connections that ended without one.
    refused: AtomicU64,
    stop: AtomicBool,
}

impl Cluster {
    async fn start(database: Database) -> Cluster {
        let target = Target::start().await;
        let directory = TempDir::new().expect("a directory");
        let mut toml = source(PATH, "order.created");
        toml += &target.endpoint("shop");
        toml += "retry = { attempts = 20, delays_s = [0.05], jitter = 0 }\n";
        toml += &format!("[connectors.webhook]\nfile = {:?}\n", components::path("webhook"));
        toml += "[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\n";
        std::fs::write(directory.path().join("tomada.toml"), toml).expect("the configuration is written");
        let mut proxies = Vec::new();
        for _ in 0..NODES {
            proxies.push(Proxy::start(&database.address()).await);
        }
        let load = Arc::new(Load { urls: Mutex::new(vec![None; NODES]), ..Load::default() });
        let mut cluster =
            Cluster { target, directory, database, proxies, nodes: (0..NODES).map(|_| None).collect(), load };
        for node in 0..NODES {
            cluster.start_node(node).await;
        }
        cluster
    }

    fn data(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("node{node}"))
    }

    /// Nodes share the key ring and the pepper of the first.
    async fn start_node(&mut self, node: usize) {
        let data = self.data(node);
        if node > 0 && !data.exists() {
            std::fs::create_dir(&data).expect("a directory");
            for file in ["keyring", "pepper"] {
                std::fs::copy(self.data(0).join(file), data.join(file)).expect("the file is there");
            }
        }
        let url = self.proxies[node].url(&self.database.url().expect("it is on a server"));
        // The first brings the configuration, the others find it.
        let config = self.directory.path().join("tomada.toml");
        let config = (node == 0).then_some(config.as_path());
        // With Redis on one of the two, without it on the other.
        let redis =
            std::env::var("TOMADA_TEST_REDIS").ok().filter(|redis| !redis.is_empty() && url.starts_with("postgres"));
        let hub = HubProcess::start_node(&data, config, &url, redis.as_deref(), &self.log(node)).await;
        self.load.urls.lock().expect("unpoisoned")[node] = Some(hub.url.clone());
        self.nodes[node] = Some(hub);
    }

    fn log(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("node{node}.log"))
    }

    fn number(&self, query: &str) -> i64 {
        self.database.number(self.directory.path(), query)
    }

    fn node(&self, node: usize) -> &HubProcess {
        self.nodes[node].as_ref().expect("it runs")
    }

    fn signal(&self, node: usize, signal: &str) {
        let pid = self.node(node).pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// Lets it happen, and returns when the node is back. Answers how long it took until nothing was owed that the hub had
    /// taken before, which the others have to see to.
    async fn suffer(&mut self, node: usize, fault: Fault) {
        let others: Vec<usize> = (0..NODES).filter(|other| *other != node).collect();
        match fault {
            Fault::Kill => {
                self.load.urls.lock().expect("unpoisoned")[node] = None;
                self.nodes[node].take().expect("it runs").kill();
                self.taken_over(others[0], node).await;
                self.start_node(node).await;
            }
            Fault::Pause => {
                self.signal(node, "-STOP");
                self.taken_over(others[0], node).await;
                self.signal(node, "-CONT");
            }
            Fault::Cut => {
                self.proxies[node].cut();
                self.taken_over(others[0], node).await;
                self.proxies[node].mend();
            }
            Fault::Restart => {
                self.load.urls.lock().expect("unpoisoned")[node] = None;
                self.signal(node, "-TERM");
                self.nodes[node].take().expect("it runs").ended().await;
                self.start_node(node).await;
            }
        }
    }

    /// Returns when the others have what the node held, which must be soon.
    async fn taken_over(&self, other: usize, gone: usize) {
        let begun = Instant::now();
        let there = self.node(other).get("/status").await;
        assert_eq!(there["nodes"].as_array().expect("nodes").len(), NODES, "node {gone} had not been there");
        eventually_within(TAKEN_OVER.as_secs(), "the node is declared dead", async || {
            self.node(other).get("/status").await["nodes"].as_array().expect("nodes").len() < NODES
        })
        .await;
        // What it held is with the others, and what it held longest is delivered by now.
        let held = "select count(*) from webhook_deliveries d join nodes n on n.id = d.node_id \
                    where d.status = 0 and n.left_at is not null";
        let left = TAKEN_OVER.saturating_sub(begun.elapsed());
        eventually_within(left.as_secs().max(1), "others have what it held", async || self.number(held) == 0).await;
    }

    /// Ends the load, waits until all is delivered, and compares.
    async fn settle(mut self) -> u64 {
        self.load.stop.store(true, Ordering::Relaxed);
        let unsettled = "select count(*) from webhook_deliveries where status in (0, 1)";
        eventually_within(60, "all is delivered", async || self.number(unsettled) == 0).await;
        let twice = "select count(*) from (select delivery_id from delivery_attempts where outcome = 0 \
                     group by delivery_id having count(*) > 1) t";
        assert_eq!(self.number(twice), 0, "settled twice");
        let dead = "select count(*) from dead_letter";
        assert_eq!(self.number(dead), 0, "dead letters");
        let arrived: HashSet<String> =
            self.target.got().iter().map(|got| got.header("x-event-id").to_owned()).collect();
        let acknowledged = self.load.acknowledged.lock().expect("unpoisoned").clone();
        let lost = acknowledged.difference(&arrived).count();
        if lost > 0 {
            for node in 0..NODES {
                eprintln!("--- node {node}\n{}", std::fs::read_to_string(self.log(node)).unwrap_or_default());
            }
        }
        assert_eq!(lost, 0, "lost, of {} acknowledged", acknowledged.len());
        for node in &mut self.nodes {
            if let Some(hub) = node.take() {
                hub.kill();
            }
        }
        acknowledged.len() as u64
    }
}

/// Sends to one node, and to the next one when that one does not answer.
async fn send(load: Arc<Load>, mut node: usize) {
    while !load.stop.load(Ordering::Relaxed) {
        let url = load.urls.lock().expect("unpoisoned")[node].clone();
        node = (node + 1) % NODES;
        let Some(url) = url else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let Ok(mut partner) = Partner::try_of(&url, PATH).await else { continue };
        for _ in 0..50 {
            let order = load.number.fetch_add(1, Ordering::Relaxed);
            let body = json!({ "order": order });
            // Whoever is paused or cut off does not answer; the partner turns to another.
            let answer = tokio::time::timeout(Duration::from_secs(5), partner.try_send(&body)).await;
            let Ok(Ok(answer)) = answer else { break };
            match answer.status {
                202 => {
                    let accepted: Value = answer.json().expect("JSON");
                    let id = accepted["id"].as_str().expect("an id").to_owned();
                    load.acknowledged.lock().expect("unpoisoned").insert(id);
                }
                503 => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => {
                    load.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
            if load.stop.load(Ordering::Relaxed) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn rounds() -> usize {
    std::env::var("TOMADA_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

async fn survive(faults: &[Fault]) {
    for database in Database::on_each_server() {
        let mut cluster = Cluster::start(database).await;
        let load: Vec<_> =
            (0..NODES * SENDERS).map(|sender| tokio::spawn(send(cluster.load.clone(), sender % NODES))).collect();
        for round in 0..rounds() {
            for (at, fault) in faults.iter().enumerate() {
                // Moments spread over what the nodes do, by the golden ratio.
                let moment = ((round * faults.len() + at) as f64 * 0.618_034).fract();
                tokio::time::sleep(Duration::from_secs_f64(1.0 + moment)).await;
                cluster.suffer((round + at) % NODES, *fault).await;
                back(&cluster).await;
            }
        }
        let refused = cluster.load.refused.load(Ordering::Relaxed);
        assert_eq!(refused, 0, "neither taken nor refused as busy");
        let acknowledged = cluster.settle().await;
        assert!(acknowledged > 100, "only {acknowledged} were acknowledged");
        for task in load {
            task.await.expect("the load ends");
        }
    }
}

/// All nodes are there, each with a lease.
async fn back(cluster: &Cluster) {
    eventually_within(20, "all nodes are back", async || {
        cluster.node(0).get("/status").await["nodes"].as_array().is_some_and(|nodes| nodes.len() == NODES)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_loses_nothing() {
    survive(&[Fault::Kill]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_wakes_after_its_lease_settles_nothing() {
    survive(&[Fault::Pause]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_from_the_database_loses_nothing() {
    survive(&[Fault::Cut]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_restart_one_after_the_other() {
    survive(&[Fault::Restart; NODES]).await;
}
