//! Redis is no part of the truth: whatever becomes of it, nothing is lost and nobody is told that the hub cannot.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tomada::app::{Hub, Options};
use tomada::client::Client;
use tomada::clock::Clock;

use crate::harness::partner::{Partner, source};
use crate::harness::{components, eventually};

const PATH: &str = "/webhooks/partner/order";
const ROUNDS: u32 = 20;
/// Senders at the same time.
const SENDERS: u64 = 4;

struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    async fn start() -> Redis {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let redis = Redis { child: Redis::spawn(port), port };
        redis.says("PING").await;
        redis
    }

    fn spawn(port: u16) -> Child {
        let program = std::env::var_os("TOMADA_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is needed (Debian: apt-get install redis-server), or TOMADA_REDIS_SERVER names it")
    }

    fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    async fn restart(&mut self) {
        self.child = Redis::spawn(self.port);
        self.says("PING").await;
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Says it until there is an answer.
    async fn says(&self, command: &str) {
        eventually("Redis answers", async || {
            let Ok(mut connection) = TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
            let mut answer = [0; 1];
            connection.write_all(format!("{command}\r\n").as_bytes()).await.is_ok()
                && connection.read_exact(&mut answer).await.is_ok()
                && answer == *b"+"
        })
        .await;
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
        redis: Some(format!("redis://127.0.0.1:{}", redis.port)),
    })
    .await
    .expect("the hub starts");
    let mut client = Client::connect(&hub.url, Some(&hub.admin_key)).await.expect("the hub answers");
    let is_up = async |client: &mut Client| {
        let page = client.get("/api/metrics").await.expect("an answer");
        assert_eq!(page.status, 200);
        String::from_utf8_lossy(&page.body).lines().any(|line| line == "tomada_redis_up 1")
    };

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
        redis.says("FLUSHALL").await;
        redis.says("SCRIPT FLUSH").await;
        redis.signal("-STOP");
        tokio::time::sleep(Duration::from_millis(u64::from(50 + 20 * round))).await;
        redis.signal("-CONT");
        redis.kill();
        tokio::time::sleep(Duration::from_millis(50)).await;
        redis.restart().await;
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
