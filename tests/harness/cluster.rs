//! Several nodes on one database, partners that send to them without a pause, and a count of what became of it all.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::database::Database;
use super::partner::{Partner, source};
use super::process::HubProcess;
use super::wire::Wire;
use super::{components, free_port};

const PATH: &str = "/webhooks/partner/order";
pub(crate) const NODES: usize = 3;
/// Partners of each node.
const PARTNERS: usize = 4;
/// Between two requests of one partner.
const PACE: Duration = Duration::from_millis(8);
/// Between looks at what is waited for.
const LOOK: Duration = Duration::from_millis(200);
/// How long everything may take that is still owed at the end.
const SETTLED: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    sink: Sink,
    directory: TempDir,
    database: Database,
    redis: Option<String>,
    wires: Vec<Wire>,
    nodes: Vec<Option<HubProcess>>,
    ports: Vec<u16>,
    partners: Vec<JoinHandle<()>>,
    load: Arc<Load>,
}

/// What partners do and are told.
#[derive(Default)]
struct Load {
    /// Where each node listens, while it does.
    nodes: Mutex<Vec<Option<String>>>,
    number: AtomicU64,
    acknowledged: Mutex<HashSet<String>>,
    told: Told,
    stop: AtomicBool,
}

/// How often partners were told what.
#[derive(Default)]
struct Told {
    /// 503 with a `Retry-After`.
    busy: AtomicU64,
    /// No answer, or none in time: the partner cannot know.
    silence: AtomicU64,
    /// Anything else, with one of them to look at.
    wrong: AtomicU64,
    example: Mutex<String>,
}

/// How often partners were told something else than a 202.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusals {
    /// 503 with a `Retry-After`.
    pub(crate) busy: u64,
    /// No answer, or none in time.
    pub(crate) silence: u64,
}

impl Cluster {
    /// Nodes on a database, each with a wire of its own, and with Redis where one is given. Nobody sends yet.
    pub(crate) async fn start(database: Database, redis: Option<String>) -> Cluster {
        let sink = Sink::start().await;
        let directory = TempDir::new().expect("a directory");
        let mut toml = source(PATH, "order.created")
            .replace("[[sources", "rate = { per_minute = 6000000, burst = 100000 }\n[[sources");
        toml += &format!(
            "[endpoints.shop]\nconnector = \"webhook\"\nsettings = {{ url = \"http://127.0.0.1:{0}/shop\" }}\n\
             hosts = [\"http://127.0.0.1:{0}\"]\nallow_private = [\"127.0.0.1/32:{0}\"]\n\
             retry = {{ attempts = 20, delays_s = [0.05], jitter = 0 }}\n",
            sink.port
        );
        toml += &format!("[connectors.webhook]\nfile = {:?}\n", components::path("webhook"));
        toml += "[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\n";
        std::fs::write(directory.path().join("tomada.toml"), toml).expect("the configuration is written");
        let mut wires = Vec::new();
        for _ in 0..NODES {
            wires.push(Wire::start(&database.address()).await);
        }
        let ports = (0..NODES).map(|_| free_port()).collect();
        let load = Arc::new(Load { nodes: Mutex::new(vec![None; NODES]), ..Load::default() });
        let nodes = (0..NODES).map(|_| None).collect();
        let partners = Vec::new();
        let mut cluster = Cluster { sink, directory, database, redis, wires, nodes, ports, partners, load };
        for node in 0..NODES {
            cluster.start_node(node).await;
        }
        cluster
    }

    /// Partners send to the nodes, and to the next one when one does not answer.
    pub(crate) fn send(&mut self) {
        for partner in 0..NODES * PARTNERS {
            self.partners.push(tokio::spawn(send_to_nodes(self.load.clone(), partner % NODES)));
        }
    }

    /// Partners send to one address and nowhere else.
    pub(crate) fn send_through(&mut self, url: &str) {
        for _ in 0..NODES * PARTNERS {
            self.partners.push(tokio::spawn(send_to(self.load.clone(), url.to_owned())));
        }
    }

    /// Where each node listens, also when it was started anew.
    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }

    pub(crate) fn wire(&self, node: usize) -> &Wire {
        &self.wires[node]
    }

    fn data(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("node{node}"))
    }

    fn log(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("node{node}.log"))
    }

    /// Nodes share the key ring and the pepper of the first.
    pub(crate) async fn start_node(&mut self, node: usize) {
        let data = self.data(node);
        if node > 0 && !data.exists() {
            std::fs::create_dir(&data).expect("a directory");
            for file in ["keyring", "pepper"] {
                std::fs::copy(self.data(0).join(file), data.join(file)).expect("the file is there");
            }
        }
        let url = self.wires[node].url(&self.database.url().expect("it is on a server"));
        // The first brings the configuration, the others find it.
        let config = self.directory.path().join("tomada.toml");
        let config = (node == 0).then_some(config.as_path());
        let (port, redis, log) = (self.ports[node], self.redis.as_deref(), self.log(node));
        let hub = HubProcess::start_node(&data, config, port, &url, redis, &log).await;
        self.load.nodes.lock().expect("unpoisoned")[node] = Some(hub.url.clone());
        self.nodes[node] = Some(hub);
    }

    /// Partners hear of it, and the node is the caller's.
    pub(crate) fn take_node(&mut self, node: usize) -> HubProcess {
        self.load.nodes.lock().expect("unpoisoned")[node] = None;
        self.nodes[node].take().expect("it runs")
    }

    pub(crate) fn signal(&self, node: usize, signal: &str) {
        let pid = self.node(node).pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    pub(crate) fn node(&self, node: usize) -> &HubProcess {
        self.nodes[node].as_ref().expect("it runs")
    }

    /// The one number that a query of the database answers.
    pub(crate) fn number(&self, query: &str) -> i64 {
        self.database.number(self.directory.path(), query)
    }

    /// Deliveries that were accepted by then and are not delivered.
    pub(crate) fn owed_since_before(&self, unix_ms: u128) -> i64 {
        // Delivery ids begin with the time of their event in milliseconds.
        self.number(&format!(
            "select count(*) from webhook_deliveries where status in (0, 1) and id < {}",
            unix_ms << 21
        ))
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.load.acknowledged.lock().expect("unpoisoned").len()
    }

    fn refusals(&self) -> Refusals {
        let told = &self.load.told;
        Refusals { busy: told.busy.load(Ordering::Relaxed), silence: told.silence.load(Ordering::Relaxed) }
    }

    /// Waits for something, looking now and then.
    ///
    /// # Panics
    /// It does not happen in time: with what the nodes have to say.
    pub(crate) async fn wait_for(&self, most: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let begun = Instant::now();
        while !condition().await {
            if begun.elapsed() > most {
                self.show_logs();
                panic!("{what} did not happen within {} s", most.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// All nodes are there, each with a lease, as each of them sees it.
    pub(crate) async fn all_are_there(&self) {
        for node in 0..NODES {
            let node = self.node(node);
            self.wait_for(Duration::from_secs(20), "all nodes are there", async || {
                let status = node.try_get("/status").await;
                status.is_ok_and(|status| status["nodes"].as_array().is_some_and(|nodes| nodes.len() == NODES))
            })
            .await;
        }
    }

    /// What there is to see when something did not happen: which deliveries are owed, and what the nodes have to say.
    fn show_logs(&self) {
        let owed = "select d.id, d.status, d.node_id, d.tries, r.next_retry_at from webhook_deliveries d \
                    left join retry_queue r on r.delivery_id = d.id where d.status in (0, 1) order by d.id limit 20";
        eprintln!("--- owed: id, status, node, tries, due\n{}", self.database.lines(owed));
        eprintln!("--- now: {}\n--- nodes\n{}", unix_ms(), self.database.lines("select * from nodes order by id"));
        self.show_lines(|_| true);
    }

    /// The last of the lines in each node's log that `shown` picks.
    fn show_lines(&self, shown: impl Fn(&str) -> bool) {
        for node in 0..NODES {
            let log = std::fs::read_to_string(self.log(node)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().filter(|line| shown(line)).collect();
            eprintln!("--- node {node}\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }

    /// Ends the load and waits until all is delivered. What was acknowledged has arrived, and nothing was settled twice.
    /// Answers how often partners were told something else.
    pub(crate) async fn settle(mut self) -> Refusals {
        self.load.stop.store(true, Ordering::Relaxed);
        for partner in std::mem::take(&mut self.partners) {
            partner.await.expect("it ends");
        }
        let unsettled = "select count(*) from webhook_deliveries where status in (0, 1)";
        self.wait_for(SETTLED, "all is delivered", async || self.number(unsettled) == 0).await;
        let twice = "select count(*) from (select delivery_id from delivery_attempts where outcome = 0 \
                     group by delivery_id having count(*) > 1) t";
        assert_eq!(self.number(twice), 0, "settled twice");
        assert_eq!(self.number("select count(*) from dead_letter"), 0, "dead letters");
        let wrong = self.load.told.wrong.load(Ordering::Relaxed);
        assert_eq!(wrong, 0, "answers that are neither a 202 nor a 503 with Retry-After: {:?}", self.load.told.example);
        let acknowledged = self.load.acknowledged.lock().expect("unpoisoned").clone();
        let lost = acknowledged.difference(&self.sink.arrived.lock().expect("unpoisoned")).count();
        if lost > 0 {
            self.show_logs();
        }
        assert_eq!(lost, 0, "lost, of {} acknowledged", acknowledged.len());
        let stored = self.number("select count(*) from integration_events");
        assert!(stored >= acknowledged.len() as i64, "{stored} stored, {} acknowledged", acknowledged.len());
        assert!(acknowledged.len() > 100, "only {} were acknowledged", acknowledged.len());
        let refusals = self.refusals();
        if refusals.busy > 0 {
            // Why they were told to come again.
            self.show_lines(|line| line.contains(" WARN ") || line.contains("ERROR "));
        }
        eprintln!("{} acknowledged, 0 lost, 0 settled twice; {refusals:?}", acknowledged.len());
        for node in self.nodes.iter_mut().filter_map(Option::take) {
            node.kill();
        }
        refusals
    }
}

/// Takes everything, and remembers only which events came.
struct Sink {
    port: u16,
    arrived: Arc<Mutex<HashSet<String>>>,
    server: JoinHandle<()>,
}

impl Sink {
    async fn start() -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let arrived = Arc::<Mutex<HashSet<String>>>::default();
        let take = async |State(arrived): State<Arc<Mutex<HashSet<String>>>>, headers: HeaderMap| {
            let id = headers["x-event-id"].to_str().expect("text").to_owned();
            arrived.lock().expect("unpoisoned").insert(id);
        };
        let app = Router::new().fallback(take).with_state(arrived.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.expect("the target runs") });
        Sink { port, arrived, server }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn send_to_nodes(load: Arc<Load>, mut node: usize) {
    while !load.stop.load(Ordering::Relaxed) {
        let url = load.nodes.lock().expect("unpoisoned")[node].clone();
        node = (node + 1) % NODES;
        match url {
            Some(url) => match Partner::try_of(&url, PATH).await {
                Ok(partner) => send_some(&load, partner, 50).await,
                // A node that has just ended is none that refuses.
                Err(_) => tokio::time::sleep(PACE).await,
            },
            None => tokio::time::sleep(PACE).await,
        }
    }
}

async fn send_to(load: Arc<Load>, url: String) {
    while !load.stop.load(Ordering::Relaxed) {
        match Partner::try_of(&url, PATH).await {
            Ok(partner) => send_some(&load, partner, 200).await,
            Err(_) => {
                load.told.silence.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PACE).await;
            }
        }
    }
}

/// Sends so often, unless there is no answer.
async fn send_some(load: &Load, mut partner: Partner, times: usize) {
    for _ in 0..times {
        let body = json!({ "order": load.number.fetch_add(1, Ordering::Relaxed) });
        // Whoever is paused or cut off does not answer; the partner turns to another.
        let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(5), partner.try_send(&body)).await else {
            load.told.silence.fetch_add(1, Ordering::Relaxed);
            return;
        };
        match (answer.status, answer.headers.get("retry-after")) {
            (202, _) => {
                let accepted: Value = answer.json().expect("JSON");
                let id = accepted["id"].as_str().expect("an id").to_owned();
                load.acknowledged.lock().expect("unpoisoned").insert(id);
            }
            (503, Some(_)) => {
                load.told.busy.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(5 * PACE).await;
            }
            _ => {
                load.told.wrong.fetch_add(1, Ordering::Relaxed);
                *load.told.example.lock().expect("unpoisoned") = answer.problem();
            }
        }
        if load.stop.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(PACE).await;
    }
}

/// How often each fault happens: once, unless `TOMADA_TEST_ROUNDS` says more.
pub(crate) fn rounds() -> usize {
    std::env::var("TOMADA_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// Whether faults last as long as they would, and not only until there is nothing more to see.
pub(crate) fn is_campaign() -> bool {
    rounds() > 1
}

/// A moment of a round, between 1 and 2 s after its beginning: spread over what nodes do, by the golden ratio.
pub(crate) async fn moment(round: usize) {
    tokio::time::sleep(Duration::from_secs_f64(1.0 + (round as f64 * 0.618_034).fract())).await;
}

/// The time of this machine, which is the hubs' as well.
pub(crate) fn unix_ms() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis()
}
