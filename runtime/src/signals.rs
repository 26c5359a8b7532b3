//! What nodes tell each other over Redis, and count there together. It is no part of the truth: gone, empty, slow or hung,
//! it costs time only. Whoever was not told looks by itself, and limits are shared out among the nodes.
//!
//! One connection does everything, so that one look says whether Redis is there. While it is not, nobody waits for it:
//! callers are told at once, and [`Signals::run`] alone tries again.

pub(crate) mod limits;
mod notice;
pub(crate) mod probe;

use std::future::Future;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo as _, Msg, ProtocolVersion, PushInfo, PushKind,
    RedisError, RedisResult, Script, ServerErrorKind,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::limits::{Quota, Standing};
use notice::Message;
pub(crate) use notice::Notice;

/// From a name to a connection that has said hello.
const CONNECT: Duration = Duration::from_secs(1);
/// What a request of a partner waits for at most.
const ANSWER: Duration = Duration::from_millis(100);
/// Between a failure and the next try, and between two looks whether Redis is still there.
const PAUSE: Duration = Duration::from_secs(1);
/// So long a connection has to last before the log says that Redis is back: one that comes and goes is one line.
const STEADY: Duration = Duration::from_secs(5);

/// What an asker of a limit weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Only looks.
    Nothing,
    One,
}

/// Redis, if there is one.
pub(crate) struct Signals {
    server: Option<Arc<Server>>,
    /// Nodes that live, this one included.
    nodes: AtomicU32,
}

impl Signals {
    /// `prefix` tells the nodes of one database from those of another on the same Redis. Does not connect yet.
    ///
    /// # Errors
    /// The URL is none of Redis. The message does not repeat it, for it may have a password.
    pub(crate) fn new(url: Option<&str>, prefix: &str) -> anyhow::Result<Signals> {
        let server = url.map(|url| Server::new(url, prefix)).transpose().map_err(|_| {
            anyhow::anyhow!("the address of Redis is none: it has to be redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]")
        })?;
        Ok(Signals { server: server.map(Arc::new), nodes: AtomicU32::new(1) })
    }

    /// Whether Redis answered when it was asked last, and how often it has failed; None when none is configured.
    pub(crate) fn health(&self) -> Option<(bool, u64)> {
        let server = self.server.as_ref()?;
        Some((server.link().is_some(), server.failures.load(Ordering::Relaxed)))
    }

    pub(crate) fn is_up(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.link().is_some())
    }

    /// Among how many nodes limits are shared out while nobody counts for all of them.
    pub(crate) fn nodes(&self) -> u32 {
        self.nodes.load(Ordering::Relaxed).max(1)
    }

    /// Whoever knows how many nodes live says so.
    pub(crate) fn set_nodes(&self, nodes: u32) {
        self.nodes.store(nodes, Ordering::Relaxed);
    }

    /// Tells all nodes, this one included, soon. What Redis is not there for is told to nobody.
    pub(crate) fn publish(&self, notice: Notice) {
        if let Some(server) = &self.server
            && server.link().is_some()
        {
            locked(&server.waiting).add(notice);
            server.told.notify_one();
        }
    }

    /// How a subject stands with all nodes together; None when Redis is away or did not say so in time.
    pub(crate) async fn limit(&self, subject: &str, quota: Quota, weight: Weight) -> Option<Standing> {
        let server = self.server.as_ref()?;
        let (mut connection, epoch) = server.link()?;
        let ahead_us = server.answer(epoch, server.limit(&mut connection, subject, quota, weight)).await?;
        Some(quota.standing(ahead_us))
    }

    /// Keeps the connection as long as the hub runs, tells what is to be told, and hands on what is heard; `heard` must
    /// not wait for anything.
    pub(crate) async fn run(self: Arc<Self>, heard: impl Fn(Notice) + Send + Sync + 'static, stop: CancellationToken) {
        let Some(server) = &self.server else { return };
        tokio::select! {
            () = stop.cancelled() => {}
            () = server.run(Arc::new(heard)) => {}
        }
        server.leave();
    }
}

type Heard = Arc<dyn Fn(Notice) + Send + Sync>;

struct Server {
    client: Client,
    /// Before every name: a Redis may have other users.
    prefix: String,
    channel: String,
    limit: Script,
    tell: Script,
    breakers: Script,
    link: Mutex<Link>,
    /// Told when the link is gone.
    lost: Notify,
    waiting: Mutex<Message>,
    /// Told when something waits.
    told: Notify,
    failures: AtomicU64,
}

#[derive(Default)]
struct Link {
    connection: Option<MultiplexedConnection>,
    /// Counts the connections: what fails on an old one says nothing of the new one.
    epoch: u64,
    /// Why the last one went.
    why: &'static str,
}

impl Server {
    fn new(url: &str, prefix: &str) -> RedisResult<Server> {
        let info = url.into_connection_info()?;
        // The version of the protocol in which messages and answers share a connection.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        Ok(Server {
            client: Client::open(info.set_redis_settings(settings))?,
            prefix: prefix.to_owned(),
            channel: format!("{prefix}notices"),
            limit: Script::new(include_str!("signals/limit.lua")),
            tell: Script::new(include_str!("signals/tell.lua")),
            breakers: Script::new(include_str!("signals/breakers.lua")),
            link: Mutex::default(),
            lost: Notify::new(),
            waiting: Mutex::default(),
            told: Notify::new(),
            failures: AtomicU64::new(0),
        })
    }

    /// The connection, while Redis answers on it.
    fn link(&self) -> Option<(MultiplexedConnection, u64)> {
        let link = locked(&self.link);
        link.connection.clone().map(|connection| (connection, link.epoch))
    }

    fn leave(&self) {
        locked(&self.link).connection = None;
    }

    /// Nobody asks on this connection any more. Answers whether anybody would have.
    fn lose(&self, epoch: u64, why: &'static str) -> bool {
        let mut link = locked(&self.link);
        let is_lost = link.epoch == epoch && link.connection.take().is_some();
        if is_lost {
            link.why = why;
            self.lost.notify_one();
        }
        is_lost
    }

    fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for an answer as long as is good for whoever asks; without one the connection is given up.
    async fn answer<T>(&self, epoch: u64, asked: impl Future<Output = RedisResult<T>>) -> Option<T> {
        let why = match timeout(ANSWER, asked).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => why(&error),
            Err(_) => LATE,
        };
        self.failed();
        self.lose(epoch, why);
        None
    }

    async fn limit(
        &self,
        connection: &mut MultiplexedConnection,
        subject: &str,
        quota: Quota,
        weight: Weight,
    ) -> RedisResult<u64> {
        let mut asked = self.limit.key(format!("{}limit:{subject}", self.prefix));
        asked.arg(quota.interval_us()).arg(quota.budget_us()).arg(u8::from(weight == Weight::One));
        asked.invoke_async(connection).await
    }

    async fn run(self: &Arc<Self>, heard: Heard) {
        // What the log has said last: whether Redis is there.
        let mut said = None;
        loop {
            let why = match self.connect(&heard).await {
                Ok(epoch) => self.serve(epoch, &mut said).await,
                Err(why) => {
                    self.failed();
                    why
                }
            };
            if said != Some(false) {
                tracing::warn!(
                    reason = why,
                    "Redis does not answer: nodes look for themselves, and share out the limits"
                );
                said = Some(false);
            }
            sleep(PAUSE).await;
        }
    }

    /// Connects, listens, and asks for what a node asks for, so that what Redis refuses is known before somebody waits.
    async fn connect(self: &Arc<Self>, heard: &Heard) -> Result<u64, &'static str> {
        let epoch = locked(&self.link).epoch + 1;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER))
            .set_push_sender(receiver(Arc::downgrade(self), epoch, heard.clone()));
        let attempt = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            connection.subscribe(&self.channel).await?;
            let probe = Quota::probe();
            self.limit(&mut connection, "probe", probe, Weight::One).await?;
            let open: Vec<i64> = self.breakers.key(self.breakers_key()).invoke_async(&mut connection).await?;
            Ok::<_, RedisError>((connection, open))
        };
        let (connection, open) = match timeout(CONNECT, attempt).await {
            Ok(connected) => connected.map_err(|error| why(&error))?,
            Err(_) => return Err(LATE),
        };
        *locked(&self.link) = Link { connection: Some(connection), epoch, why: GONE };
        for pair in open.chunks_exact(2) {
            heard(Notice::Opened { endpoint: pair[0], for_ms: pair[1].unsigned_abs() });
        }
        Ok(epoch)
    }

    /// Answers why the connection is good for nothing any more.
    async fn serve(&self, epoch: u64, said: &mut Option<bool>) -> &'static str {
        let steady = Instant::now() + if said.is_none() { Duration::ZERO } else { STEADY };
        let mut look = tokio::time::interval(PAUSE);
        loop {
            let Some((mut connection, _)) = self.link() else { return locked(&self.link).why };
            tokio::select! {
                () = self.lost.notified() => {}
                () = self.told.notified() => {
                    let message = std::mem::take(&mut *locked(&self.waiting));
                    if !message.is_empty() {
                        self.answer(epoch, self.tell(&mut connection, &message)).await;
                    }
                }
                _ = look.tick() => {
                    self.answer(epoch, redis::cmd("PING").exec_async(&mut connection)).await;
                }
                () = sleep_until(steady), if *said != Some(true) => {
                    tracing::info!("Redis answers");
                    *said = Some(true);
                }
            }
        }
    }

    async fn tell(&self, connection: &mut MultiplexedConnection, message: &Message) -> RedisResult<()> {
        let mut told = self.tell.key(self.breakers_key());
        told.arg(&self.channel).arg(message.write());
        for (endpoint, for_ms) in &message.breakers {
            told.arg(endpoint).arg(for_ms);
        }
        told.invoke_async(connection).await
    }

    fn breakers_key(&self) -> String {
        format!("{}breakers", self.prefix)
    }
}

/// What takes the messages of a connection, and learns of its end.
fn receiver(
    server: Weak<Server>,
    epoch: u64,
    heard: Heard,
) -> impl Fn(PushInfo) -> Result<(), std::convert::Infallible> + Send + Sync {
    move |push| {
        match push.kind {
            PushKind::Disconnection => {
                if let Some(server) = server.upgrade()
                    && server.lose(epoch, GONE)
                {
                    server.failed();
                }
            }
            PushKind::Message => {
                let message = Msg::from_push_info(push).and_then(|push| Message::read(push.get_payload_bytes()));
                message.iter().flat_map(Message::notices).for_each(|notice| heard(notice));
            }
            _ => {}
        }
        Ok(())
    }
}

const GONE: &str = "no connection";
const LATE: &str = "no answer in time";

/// What went wrong, in words of ours: Redis' own repeat what it was sent.
fn why(error: &RedisError) -> &'static str {
    match error.kind() {
        _ if matches!(error.code(), Some("WRONGPASS" | "NOAUTH")) => "the password is wrong",
        ErrorKind::Io if error.is_timeout() => LATE,
        ErrorKind::Io => GONE,
        ErrorKind::AuthenticationFailed => "the password is wrong",
        ErrorKind::RESP3NotSupported => "it is older than Redis 6",
        ErrorKind::Server(ServerErrorKind::NoPerm) => "this user may not do all that is needed",
        ErrorKind::Server(ServerErrorKind::ReadOnly) => "it is a replica",
        ErrorKind::Server(ServerErrorKind::BusyLoading) => "it is loading",
        ErrorKind::Server(_) => "it refused a command",
        _ => "its answer was not understood",
    }
}

/// Nothing that is held under these locks can panic half way; a poisoned one is as good as any.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
