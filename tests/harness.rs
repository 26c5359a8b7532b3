//! What the tests stand on: a hub in this process with a clock that they move, or as a process that they kill; a target
//! that answers as it is told and remembers what it got; partners that sign.

pub(crate) mod carinho;
pub(crate) mod cluster;
pub(crate) mod components;
pub(crate) mod database;
pub(crate) mod misfits;
pub(crate) mod partner;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod servers;
pub(crate) mod smtp;
pub(crate) mod target;
pub(crate) mod trace;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use database::Database;
use serde_json::Value;
use tempfile::TempDir;
use tomada::app::{Hub, Options};
use tomada::client::{Answer, Client};
use tomada::clock::Clock;
use tomada::config::{self, Config};

/// Longest wait for something that has to happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the clocks of the tests stand at first: 2026-01-01.
pub(crate) const START_MS: u64 = 1_767_225_600_000;

pub(crate) struct TestHub {
    pub(crate) clock: Clock,
    pub(crate) url: String,
    key: String,
    hub: Option<Hub>,
    place: Option<Place>,
}

/// What is there with and without a hub: its data directory, in a directory that the test may use as well, and its database.
pub(crate) struct Place {
    directory: TempDir,
    database: Database,
    redis: Option<String>,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place::on(TempDir::new().expect("a directory"))
    }

    fn on(directory: TempDir) -> Place {
        Place { directory, database: Database::new(), redis: database::redis() }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The data directory.
    fn data(&self) -> PathBuf {
        self.path("hub")
    }

    /// Every byte that the database's files hold, or every value of its tables.
    pub(crate) fn database(&self) -> Vec<u8> {
        self.database.bytes(&self.data())
    }
}

impl TestHub {
    /// A hub on an empty directory, with the configuration and whatever components it names.
    pub(crate) async fn start(toml: &str) -> TestHub {
        TestHub::start_with(TempDir::new().expect("a directory for the hub"), parse(toml)).await
    }

    /// The same, never beside Redis: limits are counted there by its own time, which no test moves.
    pub(crate) async fn start_without_redis(toml: &str) -> TestHub {
        let place = Place { redis: None, ..Place::new() };
        TestHub::start_on(place, Clock::manual(START_MS), Some(parse(toml))).await
    }

    /// The same, with a configuration that was read elsewhere.
    pub(crate) async fn start_with(data: TempDir, config: Config) -> TestHub {
        TestHub::start_on(Place::on(data), Clock::manual(START_MS), Some(config)).await
    }

    async fn start_on(place: Place, clock: Clock, config: Option<Config>) -> TestHub {
        trace::begin();
        let hub = open(&place, clock.clone(), config).await.expect("the hub starts");
        TestHub { clock, url: hub.url.clone(), key: hub.admin_key.clone(), hub: Some(hub), place: Some(place) }
    }

    fn place(&self) -> &Place {
        self.place.as_ref().expect("it has a place")
    }

    /// Every byte that the database's files hold, or every value of its tables.
    pub(crate) fn database(&self) -> Vec<u8> {
        self.place().database()
    }

    /// The one number that a query of the database answers.
    pub(crate) fn number(&self, query: &str) -> i64 {
        self.place().database.number(&self.directory(), query)
    }

    /// Whether the database is a file; see [`Database::is_a_file`].
    pub(crate) fn is_on_a_file(&self, test: &str) -> bool {
        self.place().database.is_a_file(test)
    }

    /// Stops the hub, so that a test can lay hands on its files.
    pub(crate) async fn halt(mut self) -> Halted {
        self.hub.take().expect("it runs").stop().await.expect("the hub stops");
        Halted { place: self.place.take().expect("it has a place"), clock: self.clock.clone() }
    }

    /// Stops the hub and starts it on the same directory, without a configuration: what it knows is in the database.
    pub(crate) async fn restart(self) -> TestHub {
        self.restart_after(Duration::ZERO).await
    }

    /// The same, after a time without a hub.
    pub(crate) async fn restart_after(mut self, pause: Duration) -> TestHub {
        self.hub.take().expect("it runs").stop().await.expect("the hub stops");
        self.clock.advance(pause);
        let place = self.place.take().expect("it has a place");
        TestHub::start_on(place, self.clock.clone(), None).await
    }

    /// The same, after whatever somebody does to the directory while no hub runs on it. The database has to be a file.
    pub(crate) async fn restart_meanwhile(mut self, meanwhile: impl FnOnce(&Path)) -> TestHub {
        self.hub.take().expect("it runs").stop().await.expect("the hub stops");
        let place = self.place.take().expect("it has a place");
        let directory = place.data();
        // Its last connections end a little later; only then can the write-ahead log go, with which the file is whole.
        eventually("the database is closed", async || {
            let database = rusqlite::Connection::open(directory.join("tomada.db")).expect("the database");
            database
                .pragma_update_and_check(None, "journal_mode", "delete", |row| row.get(0))
                .is_ok_and(|mode: String| mode == "delete")
        })
        .await;
        meanwhile(&directory);
        TestHub::start_on(place, self.clock.clone(), None).await
    }

    /// The data directory.
    pub(crate) fn directory(&self) -> PathBuf {
        self.place().data()
    }

    /// Applies another configuration.
    pub(crate) async fn apply(&self, toml: &str) {
        self.post("/api/apply", serde_json::json!({ "config": parse(toml) })).await;
    }

    /// The machine's own key.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.url, Some(&self.key)).await.expect("the hub answers")
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        read(self.client().await.get(path).await.expect("an answer"))
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        read(self.client().await.post(path, body.to_string()).await.expect("an answer"))
    }

    pub(crate) async fn put(&self, path: &str, body: Vec<u8>) -> Answer {
        self.client().await.put(path, body).await.expect("an answer")
    }

    /// Runs the command line against this hub.
    pub(crate) async fn command(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = tokio::process::Command::new(components::tomada());
        command.args(arguments).env("TOMADA_URL", &self.url).env("TOMADA_API_KEY", &self.key);
        command.output().await.expect("the program runs")
    }

    /// The event with its deliveries, once `done` says so.
    pub(crate) async fn event_when(&self, id: &str, done: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        let mut client = self.client().await;
        loop {
            let event = read(client.get(&format!("/api/events/{id}?payload=true")).await.expect("an answer"));
            if done(&event) {
                return event;
            }
            assert!(begun.elapsed() < PATIENCE, "it did not happen in time; the event is {event:#}");
            tokio::task::yield_now().await;
        }
    }

    /// The event, once all its deliveries have this status.
    pub(crate) async fn event_with(&self, id: &str, status: &str) -> Value {
        self.event_when(id, |event| statuses(event).iter().all(|found| found == status)).await
    }

    /// Ends a test whose deliveries are no matter.
    pub(crate) async fn abandon(mut self) {
        self.hub.take().expect("it runs").stop().await.expect("the hub stops");
        trace::assert_clean();
    }

    /// Ends the test: nothing may be left over that the test does not name.
    pub(crate) async fn finish(mut self, left_over: &[(&str, &str, u64)]) {
        let endpoints = self.get("/api/endpoints").await;
        for endpoint in endpoints["items"].as_array().expect("items") {
            for state in ["owed", "waiting", "held", "dead"] {
                let name = endpoint["name"].as_str().expect("a name");
                let expected = left_over.iter().find(|(n, s, _)| *n == name && *s == state).map_or(0, |found| found.2);
                assert_eq!(endpoint[state], expected, "{name} has {state} deliveries left: {endpoint:#}");
            }
        }
        self.hub.take().expect("it runs").stop().await.expect("the hub stops");
        trace::assert_clean();
    }
}

/// A hub that does not run.
pub(crate) struct Halted {
    place: Place,
    clock: Clock,
}

impl Halted {
    pub(crate) fn directory(&self) -> PathBuf {
        self.place.data()
    }

    pub(crate) async fn start(self) -> TestHub {
        TestHub::start_on(self.place, self.clock, None).await
    }

    /// Why a hub does not start on these files.
    pub(crate) async fn refused(&self) -> String {
        refusal(open(&self.place, self.clock.clone(), None).await)
    }
}

/// Why a hub did not start.
pub(crate) fn refusal(started: anyhow::Result<Hub>) -> String {
    match started {
        Ok(_) => panic!("the hub started"),
        Err(error) => format!("{error:#}"),
    }
}

async fn open(place: &Place, clock: Clock, config: Option<Config>) -> anyhow::Result<Hub> {
    open_node(place.data(), place.database.url(), place.redis.clone(), clock, config).await
}

/// One hub of several on a database.
pub(crate) async fn open_node(
    data: PathBuf,
    database: Option<String>,
    redis: Option<String>,
    clock: Clock,
    config: Option<Config>,
) -> anyhow::Result<Hub> {
    let config = config.map(|config| {
        let components = components_of(&config);
        (config, components)
    });
    Hub::start(Options {
        data,
        database,
        listen: ([127, 0, 0, 1], 0).into(),
        clock,
        compiler: components::tomada(),
        config,
        redis,
    })
    .await
}

impl Drop for TestHub {
    fn drop(&mut self) {
        if self.hub.is_some() && !std::thread::panicking() {
            panic!("the test did not call finish() or restart()");
        }
    }
}

pub(crate) fn statuses(event: &Value) -> Vec<String> {
    let deliveries = event["deliveries"].as_array().expect("deliveries");
    deliveries.iter().map(|delivery| delivery["status"].as_str().expect("a status").to_owned()).collect()
}

/// The attempts of an event's only delivery.
pub(crate) fn attempts(event: &Value) -> &Vec<Value> {
    assert_eq!(statuses(event).len(), 1, "one delivery: {event:#}");
    event["deliveries"][0]["attempt_list"].as_array().expect("attempts")
}

pub(crate) fn parse(toml: &str) -> Config {
    config::parse(toml, "test.toml").unwrap_or_else(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        panic!("the test's configuration:\n{}", lines.join("\n"))
    })
}

fn components_of(config: &Config) -> BTreeMap<String, Vec<u8>> {
    let endpoints = config.endpoints.values().map(|endpoint| endpoint.connector.as_str());
    let mappings = config.mappings.values().map(|mapping| mapping.component.as_str());
    endpoints.chain(mappings).map(|name| (name.to_owned(), components::read(name))).collect()
}

/// What an answer holds that is none of a refusal.
pub(crate) fn read(answer: Answer) -> Value {
    let status = answer.status;
    let body = answer.ok().unwrap_or_else(|problem| panic!("{status}: {problem}"));
    serde_json::from_slice(&body).expect("JSON")
}

/// A port that nobody listens on, for a server that is started, and started again: below those that the system hands out, so
/// that nobody gets it in between.
pub(crate) fn free_port() -> u16 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    loop {
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let port = (10_000 + (std::process::id() * 131 + next * 17) % 10_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits for a condition that nobody tells about.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) {
    eventually_within(PATIENCE.as_secs(), what, condition).await;
}

/// The same, for what takes longer.
pub(crate) async fn eventually_within(seconds: u64, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed().as_secs() < seconds, "{what} did not happen within {seconds} s");
        tokio::task::yield_now().await;
    }
}
