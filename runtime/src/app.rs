//! A hub: what is opened, started, and stopped in reverse.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Office};
pub use crate::admin::{ApiRoute, api_routes, api_scopes};
use crate::apply::Applier;
use crate::audit::{Audit, Record};
use crate::catalog::{Catalog, Current, Line};
use crate::clock::{Clock, Ids};
use crate::committer::Committer;
use crate::config::Config;
use crate::follow::Follower;
use crate::ingress::{Bodies, Door};
use crate::keyring::Keyring;
use crate::keys::{Keys, Pepper, id_of};
use crate::listen::{self, Closing};
use crate::membership::Membership;
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::plugin::Plugins;
use crate::privacy::Privacy;
use crate::private::write_private;
use crate::queue::gate::Turn;
use crate::queue::{Queues, keeper};
use crate::record;
use crate::registry::Registry;
use crate::retention::Retention;
use crate::rewrap::{self, Rewrap};
use crate::scheduler::Scheduler;
use crate::signals::limits::SharedLimits;
use crate::signals::{Notice, Signals};
use crate::store::{SqlStore, Store};
use crate::worker::Shop;

/// When a hub drains, those who send get this long to hear that they should turn elsewhere.
const LINGER: Duration = Duration::from_secs(3);
/// What is under way when the hub stops gets this long to end.
const DRAIN: Duration = Duration::from_secs(20);
/// And the database this long for what is to be written last. Together they are less than 30 s, after which service
/// managers kill.
const LEAVE: Duration = Duration::from_secs(5);

/// Where a hub lives and how it is reached.
pub struct Options {
    /// Compiled components, keys, and the database unless that is on a server. Made when it does not exist.
    pub data: PathBuf,
    /// URL of a database on a server; none is the data directory's own, `tomada.db`.
    pub database: Option<String>,
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    pub clock: Clock,
    /// The program that compiles components as `COMPILER compile IN OUT`: this one, unless the hub is part of another.
    pub compiler: PathBuf,
    /// Applied before the first request.
    pub config: Option<(Config, BTreeMap<String, Vec<u8>>)>,
    /// `redis://…`: where nodes tell each other what is new, and count limits together.
    pub redis: Option<String>,
}

/// A running hub.
pub struct Hub {
    pub url: String,
    /// Opens the whole API. It is also in `admin.key` of the data directory.
    pub admin_key: String,
    /// Whether it was made by this start: then it is to be shown, once.
    pub is_new_key: bool,
    data: PathBuf,
    membership: Arc<Membership>,
    closing: Closing,
    /// Those who serve connections, and all others.
    server: TaskTracker,
    tasks: TaskTracker,
    committer: Committer,
    /// Held as long as the hub lives, so that no second one opens the same files.
    _lock: std::fs::File,
}

impl Hub {
    pub async fn start(options: Options) -> anyhow::Result<Hub> {
        let Options { data, database, redis, listen, clock, compiler, config } = options;
        let lock = occupy(&data)?;
        let ring = Arc::new(Keyring::open(&data.join("keyring"), clock.now_ms())?);
        let store: Arc<dyn Store> = Arc::new(SqlStore::open(database.as_deref(), &data, ring.clone()).await?);
        // Nodes of one database have one key ring, and no others have it.
        let prefix = format!("tomada:{}:", hex::encode(&ring.index("redis", &[])[..8]));
        let signals = Arc::new(Signals::new(redis.as_deref(), &prefix)?);
        rewrap::check(&*store, &ring, &data.join("keyring")).await?;
        let pepper = Pepper::open(&data.join("pepper"))?;
        pepper.check(&*store, &data.join("pepper")).await?;
        let tasks = TaskTracker::new();
        let audit = Audit::open(store.clone(), &pepper, clock.clone(), &data, tasks.clone()).await?;
        let version = serde_json::json!({ "version": env!("CARGO_PKG_VERSION") });
        audit.write(Record::of_hub("hub.start", "hub", version)).await?;
        let keys = Keys::new(store.clone(), pepper, clock.clone(), tasks.clone());
        let (admin_key, is_new_key) = keys.of_this_machine(&data.join("admin.key")).await?;
        let own_key = id_of(&admin_key).unwrap_or_default().to_owned();
        if is_new_key {
            let made = serde_json::json!({ "name": "admin", "scopes": ["*"] });
            audit.write(Record::of_hub("key.create", format!("key:{own_key}"), made)).await?;
        }
        // A configuration is applied to what is stored, and what is stored may need the very secret that it brings: so
        // an unreadable catalog is only an error when no new one comes.
        let rows = store.catalog().await?;
        let catalog = match Catalog::load(rows) {
            Ok(catalog) => catalog,
            Err(problems) if config.is_none() => anyhow::bail!(problems.join("\n")),
            Err(_) => empty_catalog(),
        };
        let catalog = Arc::new(Current::new(catalog));
        let queues = Arc::new(Queues::new(clock.clone(), signals.clone(), &catalog.get()));
        let (membership, recovered) =
            Membership::join(store.clone(), queues.clone(), clock.clone(), &machine_name(), &data).await?;
        if recovered > 0 {
            tracing::info!(deliveries = recovered, "taking up what an earlier run left");
        }
        let outbound = Outbound::new();
        let plugins = Arc::new(Plugins::open(data.join("compiled"), compiler, outbound.clone(), clock.clone())?);
        let registry = Arc::new(Registry {
            store: store.clone(),
            plugins: plugins.clone(),
            clock: clock.clone(),
            changing: tokio::sync::Mutex::default(),
        });
        registry.load_all().await?;
        if let Some((config, components)) = config {
            for warning in record::warnings(&config) {
                tracing::warn!(detail = warning, "applying a configuration");
            }
            let applier =
                Applier { store: &*store, catalog: &catalog, queues: &queues, registry: &registry, clock: &clock };
            let attempt = audit.write(Record::of_hub("config.apply", "apply", serde_json::json!({}))).await?;
            let lines = applier.apply(config, components, false).await;
            let came_of_it = match &lines {
                Ok(lines) => {
                    let changes: Vec<String> = lines.iter().map(Line::named).collect();
                    serde_json::json!({ "attempt": attempt, "outcome": "done", "changes": changes })
                }
                Err(_) => serde_json::json!({ "attempt": attempt, "outcome": "refused" }),
            };
            audit.write(Record::of_hub("config.apply", "apply", came_of_it)).await?;
            for line in lines.map_err(|problems| anyhow::anyhow!(problems.join("\n")))? {
                tracing::info!(
                    action = line.action,
                    kind = line.kind,
                    name = line.name,
                    detail = line.detail,
                    "applied"
                );
            }
        }

        let closing = Closing { drain: CancellationToken::new(), stop: CancellationToken::new() };
        let stop = closing.stop.clone();
        let ids = Arc::new(Ids::of_node(membership.node()));
        let metrics = Arc::new(Metrics::default());
        let committer = Committer::start(store.clone(), queues.clone(), membership.clone(), metrics.clone())?;
        tasks.spawn(membership.clone().run(stop.clone()));
        let privacy = Arc::new(Privacy {
            store: store.clone(),
            catalog: catalog.clone(),
            queues: queues.clone(),
            committer: committer.clone(),
            membership: membership.clone(),
            clock: clock.clone(),
            ids: ids.clone(),
            ring: ring.clone(),
            tasks: tasks.clone(),
            erasing: tokio::sync::Mutex::default(),
            wake: Notify::new(),
        });
        // Before anything is delivered.
        privacy.remember().await?;
        let shop = Arc::new(Shop {
            catalog: catalog.clone(),
            queues: queues.clone(),
            plugins: plugins.clone(),
            committer: committer.clone(),
            store: store.clone(),
            clock: clock.clone(),
            ids: ids.clone(),
            ring: ring.clone(),
            metrics: metrics.clone(),
            membership: membership.clone(),
            stop: stop.clone(),
            tasks: tasks.clone(),
        });
        shop.staff();
        let rewrap = Arc::new(Rewrap::new(store.clone(), ring.clone(), clock.clone(), metrics.clone()));
        tasks.spawn(rewrap.clone().run(stop.clone()));
        let retention = Arc::new(Retention::new(store.clone(), catalog.clone(), audit.clone(), clock.clone()));
        tasks.spawn(retention.clone().run(stop.clone()));
        tasks.spawn(privacy.clone().run(stop.clone()));
        tasks.spawn(keeper::run(store.clone(), queues.clone(), membership.clone(), stop.clone()));

        let scheduler = Arc::new(Scheduler {
            store: store.clone(),
            catalog: catalog.clone(),
            committer: committer.clone(),
            clock: clock.clone(),
            ids: ids.clone(),
            ring: ring.clone(),
        });
        tasks.spawn(scheduler.clone().run(stop.clone()));

        let told = Arc::new(Notify::new());
        let tells = signals.clone();
        store.on_change(Box::new(move |revision| tells.publish(Notice::Changed { revision })));
        let follower = Follower {
            store: store.clone(),
            catalog: catalog.clone(),
            queues: queues.clone(),
            registry: registry.clone(),
            shop: shop.clone(),
            privacy: privacy.clone(),
            membership: membership.clone(),
            signals: signals.clone(),
            told: told.clone(),
        };
        membership.runs(registry.running());
        tasks.spawn(follower.run(stop.clone()));

        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let listens_on = listener.local_addr()?;
        outbound.listens_on(listens_on);
        let url = format!("http://{listens_on}");
        let hears = queues.clone();
        let heard = move |notice| match notice {
            Notice::Work { endpoint } => hears.spilled(endpoint),
            Notice::Due { at_ms } => hears.due(at_ms),
            Notice::Changed { .. } => told.notify_one(),
            Notice::Opened { endpoint, for_ms } => hears.turned(endpoint, Turn::Opened { for_ms }),
            Notice::Closed { endpoint } => hears.turned(endpoint, Turn::Closed),
        };
        tasks.spawn(signals.clone().run(heard, stop.clone()));
        let limits = Arc::new(SharedLimits::new(signals.clone(), ring.clone()));
        let door = Arc::new(Door {
            catalog: catalog.clone(),
            committer: committer.clone(),
            clock: clock.clone(),
            ids: ids.clone(),
            ring: ring.clone(),
            limits: limits.clone(),
            bodies: Bodies::default(),
            metrics: metrics.clone(),
        });
        let office = Arc::new(Office {
            store: store.clone(),
            catalog: catalog.clone(),
            queues: queues.clone(),
            registry,
            committer: committer.clone(),
            shop,
            scheduler,
            privacy,
            keys,
            audit,
            clock: clock.clone(),
            ids,
            ring: ring.clone(),
            rewrap,
            data: data.clone(),
            limits,
            signals,
            retention,
            metrics: metrics.clone(),
            own_key,
        });
        write_private(&data.join("config.json"), &serde_json::to_vec_pretty(&catalog.get().config)?)?;
        let router = admin::router(office).merge(
            axum::Router::new()
                .route("/webhooks/{*path}", axum::routing::any(crate::ingress::webhook).with_state(door.clone()))
                .route("/feedback/{token}", axum::routing::any(crate::ingress::feedback::page).with_state(door)),
        );
        let server = TaskTracker::new();
        server.spawn(listen::serve(listener, router, catalog, metrics, closing.clone()));
        server.close();
        let hub_json = serde_json::json!({ "url": url, "pid": std::process::id() });
        write_private(&data.join("hub.json"), hub_json.to_string().as_bytes())?;
        tracing::info!(%url, "ready");
        Ok(Hub { url, admin_key, is_new_key, data, membership, closing, server, tasks, committer, _lock: lock })
    }

    /// Lets nobody new in, and gives those who send a little time to turn elsewhere, so that none of their requests is
    /// lost; then it is as [`stop`](Hub::stop). All of it takes less than 30 s, whatever hangs.
    ///
    /// # Errors
    /// The database failed at the end.
    pub async fn drain(self) -> anyhow::Result<()> {
        self.closing.drain.cancel();
        // It has ended when the last connection has.
        let _ = tokio::time::timeout(LINGER, self.server.wait()).await;
        self.stop().await
    }

    /// Takes no more requests, ends what is under way, hands back the rest.
    ///
    /// # Errors
    /// The database failed at the end.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.closing.stop.cancel();
        self.tasks.close();
        let ended = async {
            self.server.wait().await;
            self.tasks.wait().await;
        };
        if tokio::time::timeout(DRAIN, ended).await.is_err() {
            tracing::warn!("some deliveries did not end in time; they are repeated at the next start");
        }
        let last = async {
            self.committer.flush().await;
            self.membership.leave().await
        };
        match tokio::time::timeout(LEAVE, last).await {
            Ok(left) => left?,
            Err(_) => tracing::warn!("the database did not answer in time: what this node held is handed back later"),
        }
        let _ = std::fs::remove_file(self.data.join("hub.json"));
        Ok(())
    }
}

/// What people call this machine, to tell one node from another.
fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "unknown".into() } else { name.chars().take(128).collect() }
}

fn empty_catalog() -> Catalog {
    Catalog::load(Default::default()).unwrap_or_else(|_| unreachable!("an empty catalog has no problems"))
}

/// Makes the data directory ours alone.
fn occupy(data: &Path) -> anyhow::Result<std::fs::File> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .with_context(|| format!("cannot make the data directory {}", data.display()))?;
    // It may have been made by somebody else, with what a umask leaves.
    std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("{} does not belong to this user", data.display()))?;
    let path = data.join("hub.lock");
    let lock = std::fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    lock.try_lock().map_err(|_| {
        anyhow::anyhow!("another hub runs on {}: stop it, or choose another directory with --data", data.display())
    })?;
    Ok(lock)
}
