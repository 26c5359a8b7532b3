//! Against a Redis of their own, which they stop, hang, empty and start again.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::limits::SharedLimits;
use super::*;
use crate::config::Rate;
use crate::keyring::Keyring;
use crate::limits::Caller;

/// A server on a port of its own, which keeps nothing on disk.
struct Redis {
    child: Option<Child>,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Redis {
    async fn start() -> Redis {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut redis = Redis { child: None, port, _directory: tempfile::TempDir::new().unwrap() };
        redis.restart().await;
        redis
    }

    async fn restart(&mut self) {
        let program = std::env::var_os("TOMADA_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let child = Command::new(program)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(self._directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect(
                "these tests need redis-server (Debian: apt-get install redis-server), or TOMADA_REDIS_SERVER names it",
            );
        self.child = Some(child);
        self.command("PING").await;
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/3", self.port)
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Says so to the server, as soon as it is there.
    async fn command(&self, words: &str) {
        let client = Client::open(self.url()).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
                let mut words = words.split(' ');
                let mut command = redis::cmd(words.next().unwrap());
                words.for_each(|word| {
                    command.arg(word);
                });
                if command.exec_async(&mut connection).await.is_ok() {
                    return;
                }
            }
            assert!(Instant::now() < until, "redis-server did not start");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every name in the database.
    async fn names(&self) -> Vec<String> {
        let mut connection = Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
        redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A node: what it heard, and its end.
struct Node {
    signals: Arc<Signals>,
    heard: Arc<Mutex<Vec<Notice>>>,
    stop: CancellationToken,
}

impl Node {
    fn start(url: &str) -> Node {
        let signals = Arc::new(Signals::new(Some(url), "tomada:test:").unwrap());
        let (heard, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let into = heard.clone();
        tokio::spawn(signals.clone().run(move |notice| locked(&into).push(notice), stop.clone()));
        Node { signals, heard, stop }
    }

    async fn up(url: &str) -> Node {
        let node = Node::start(url);
        node.is_up().await;
        node
    }

    async fn is_up(&self) {
        eventually("Redis is there", || self.signals.is_up()).await;
    }

    async fn hears(&self, notice: Notice) {
        eventually(&format!("{notice:?} is heard"), || locked(&self.heard).contains(&notice)).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn eventually(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < until, "not after 20 s: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn quota(per_minute: u32, burst: u32) -> Quota {
    Quota::new(Rate { per_minute, burst }).unwrap()
}

#[tokio::test]
async fn nodes_hear_each_other_and_who_comes_later_learns_which_breakers_are_open() {
    let redis = Redis::start().await;
    let (one, other) = (Node::up(&redis.url()).await, Node::up(&redis.url()).await);
    let notices = [
        Notice::Work { endpoint: 7 },
        Notice::Due { at_ms: 1_767_225_600_000 },
        Notice::Changed { revision: 42 },
        Notice::Opened { endpoint: i64::MAX, for_ms: 60_000 },
        Notice::Opened { endpoint: 8, for_ms: 60_000 },
        Notice::Opened { endpoint: 9, for_ms: 1 },
    ];
    notices.into_iter().for_each(|notice| one.signals.publish(notice));
    for notice in notices {
        other.hears(notice).await;
        one.hears(notice).await;
    }
    other.signals.publish(Notice::Closed { endpoint: 8 });
    one.hears(Notice::Closed { endpoint: 8 }).await;
    sleep(Duration::from_millis(5)).await;
    let late = Node::up(&redis.url()).await;
    eventually("the open one is told", || !locked(&late.heard).is_empty()).await;
    let heard = locked(&late.heard).clone();
    let [Notice::Opened { endpoint: i64::MAX, for_ms }] = heard[..] else { panic!("{heard:?}") };
    assert!((30_000..=60_000).contains(&for_ms), "{for_ms}");
    // Another database's nodes on the same Redis.
    let stranger = Arc::new(Signals::new(Some(&redis.url()), "tomada:other:").unwrap());
    tokio::spawn(stranger.clone().run(|notice| panic!("{notice:?}"), late.stop.clone()));
    eventually("Redis is there", || stranger.is_up()).await;
    one.signals.publish(Notice::Work { endpoint: 10 });
    late.hears(Notice::Work { endpoint: 10 }).await;
    assert!(stranger.is_up());
    redis.command("PUBLISH tomada:test:notices nonsense").await;
    one.signals.publish(Notice::Work { endpoint: 11 });
    late.hears(Notice::Work { endpoint: 11 }).await;
}

#[tokio::test]
async fn two_nodes_let_in_what_one_would() {
    let redis = Redis::start().await;
    let nodes = [Node::up(&redis.url()).await, Node::up(&redis.url()).await];
    let quota = quota(60, 50);
    let ask = |at: usize| nodes[at % 2].signals.limit("source", quota, Weight::One);
    let answers = futures_util::future::join_all((0..200).map(ask)).await;
    let standings: Vec<Standing> = answers.into_iter().map(|answer| answer.expect("an answer")).collect();
    let let_in = standings.iter().filter(|standing| !standing.is_refused()).count();
    assert!((50..=52).contains(&let_in), "{let_in}: 50, and what a second or two brought");
    let last = standings.last().unwrap();
    assert_eq!((last.quota, last.window_s, last.remaining, last.wait_s), (50, 50, 0, 1));
    // Who only looks takes nothing.
    for _ in 0..10 {
        let looked = nodes[0].signals.limit("looked at", quota, Weight::Nothing).await.unwrap();
        assert_eq!((looked.is_refused(), looked.remaining), (false, 49));
    }
    // What is idle is forgotten.
    let fast = Quota::new(Rate { per_minute: 6_000_000, burst: 1 }).unwrap();
    nodes[0].signals.limit("idle", fast, Weight::One).await.unwrap();
    sleep(Duration::from_millis(5)).await;
    let names = redis.names().await;
    assert!(!names.iter().any(|name| name.contains("idle")), "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("tomada:test:")), "{names:?}");
}

#[tokio::test]
async fn who_has_no_redis_counts_alone_and_for_a_share() {
    let directory = tempfile::TempDir::new().unwrap();
    let ring = Arc::new(Keyring::open(&directory.path().join("keyring"), 1).unwrap());
    let signals = Arc::new(Signals::new(None, "").unwrap());
    assert_eq!((signals.health(), signals.nodes()), (None, 1));
    let limits = SharedLimits::new(signals.clone(), ring);
    let let_in = async |name: &'static str| {
        let mut count = 0;
        for _ in 0..20 {
            let caller = Caller::Source(name.into());
            count += u32::from(!limits.take(caller, quota(60, 12), 0).await.is_refused());
        }
        count
    };
    assert_eq!(let_in("whole").await, 12);
    signals.set_nodes(3);
    assert_eq!(let_in("shared").await, 4);
    signals.publish(Notice::Work { endpoint: 1 });
    signals.run(|_| {}, CancellationToken::new()).await;
}

#[tokio::test]
async fn names_in_redis_say_nothing_and_an_address_is_refused_on_every_node() {
    let redis = Redis::start().await;
    let directory = tempfile::TempDir::new().unwrap();
    let ring = Arc::new(Keyring::open(&directory.path().join("keyring"), 1).unwrap());
    let nodes = [Node::up(&redis.url()).await, Node::up(&redis.url()).await];
    let [one, other] = [0, 1].map(|at: usize| SharedLimits::new(nodes[at].signals.clone(), ring.clone()));
    let (rate, address) = (Some(quota(1, 2)), "203.0.113.7".parse().unwrap());
    assert_eq!(one.refuses(rate, address, 0).await, None);
    one.failed(rate, address, 0).await;
    assert_eq!(other.refuses(rate, address, 0).await, None);
    other.failed(rate, address, 0).await;
    for limits in [&one, &other] {
        let refused = limits.refuses(rate, address, 0).await.expect("refused");
        assert_eq!((refused.name, refused.quota), ("address", 2));
        assert_eq!(limits.refuses(rate, "203.0.113.8".parse().unwrap(), 0).await, None);
    }
    let standing = one.take(Caller::Key("public-id".into()), quota(60, 5), 0).await;
    assert_eq!((standing.name, standing.remaining), ("api-key", 4));
    for name in redis.names().await {
        assert!(!name.contains("203.0.113") && !name.contains("public-id"), "{name}");
    }
}

/// What a node must do whatever becomes of Redis: answer a question about a limit in time, or say that it cannot.
async fn asks(node: &Node) -> bool {
    let begun = Instant::now();
    let answer = node.signals.limit("asked", quota(60_000_000, 1000), Weight::One).await;
    let took = begun.elapsed();
    assert!(took < ANSWER * 5, "{took:?}");
    answer.is_some()
}

#[tokio::test]
async fn a_redis_that_is_killed_emptied_or_hung_costs_nobody_more_than_a_moment() {
    let mut redis = Redis::start().await;
    let (one, other) = (Node::up(&redis.url()).await, Node::up(&redis.url()).await);
    assert!(asks(&one).await);
    for round in 0..3 {
        redis.kill();
        eventually("it is seen", || !one.signals.is_up() && !other.signals.is_up()).await;
        let begun = Instant::now();
        for _ in 0..1000 {
            assert!(!asks(&one).await);
        }
        assert!(begun.elapsed() < ANSWER * 10, "nobody waits for what is not there");
        one.signals.publish(Notice::Work { endpoint: 1000 });
        redis.restart().await;
        one.is_up().await;
        other.is_up().await;
        assert!(asks(&one).await);
        one.signals.publish(Notice::Work { endpoint: 1 + round });
        other.hears(Notice::Work { endpoint: 1 + round }).await;

        redis.command("FLUSHALL").await;
        redis.command("SCRIPT FLUSH").await;
        assert!(asks(&other).await, "a server that has forgotten everything counts from the beginning");
        other.signals.publish(Notice::Work { endpoint: 10 + round });
        one.hears(Notice::Work { endpoint: 10 + round }).await;

        redis.signal(rustix::process::Signal::STOP);
        assert!(!asks(&one).await);
        eventually("it is seen without anybody who asks", || !other.signals.is_up()).await;
        redis.signal(rustix::process::Signal::CONT);
        one.is_up().await;
        other.is_up().await;
        other.signals.publish(Notice::Work { endpoint: 100 + round });
        one.hears(Notice::Work { endpoint: 100 + round }).await;
    }
    let (_, failures) = one.signals.health().unwrap();
    assert!(failures >= 6, "{failures}");
    assert!(!locked(&other.heard).contains(&Notice::Work { endpoint: 1000 }), "what is told to nobody does not wait");
}

#[tokio::test]
async fn a_redis_that_comes_later_is_taken() {
    let mut redis = Redis::start().await;
    redis.kill();
    let node = Node::start(&redis.url());
    sleep(Duration::from_millis(50)).await;
    assert!(!node.signals.is_up() && !asks(&node).await);
    redis.restart().await;
    node.is_up().await;
    assert!(asks(&node).await);
}

#[tokio::test]
async fn one_that_may_not_write_or_has_another_password_is_not_taken() {
    let redis = Redis::start().await;
    redis.command("CONFIG SET requirepass right").await;
    let of = |url: &str| Server::new(url, "tomada:test:").map(Arc::new).unwrap();
    let refused = async |server: Arc<Server>| {
        let heard: Heard = Arc::new(|_| {});
        server.connect(&heard).await.unwrap_err()
    };
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", redis.port);
    assert_eq!(refused(of(&url("wrong"))).await, "the password is wrong");
    assert_eq!(refused(of(&format!("redis://127.0.0.1:{}", redis.port))).await, "the password is wrong");
    let mut admin = Client::open(url("right")).unwrap().get_multiplexed_async_connection().await.unwrap();
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg("1").exec_async(&mut admin).await.unwrap();
    assert_eq!(refused(of(&url("right"))).await, "it is a replica");
}

#[test]
fn what_is_no_address_is_refused_and_not_repeated() {
    for url in [
        "",
        "localhost",
        "http://u:secret@h",
        "redis://u:secret@h:port",
        "rediss://u:secret@h",
        "redis://u:secret@h/db",
    ] {
        let error = Signals::new(Some(url), "x").err().unwrap_or_else(|| panic!("{url} is taken"));
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}
