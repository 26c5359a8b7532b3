//! This process among those that share a database: a node with a lease.
//!
//! A node's number is its epoch. Whoever does not renew the lease in time is declared dead by another: what it held goes
//! back into the table, and its number never counts again, so that one that was only paused settles nothing when it wakes.
//! It joins anew, under another number, and begins with nothing in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::private::write_private;
use crate::queue::Queues;
use crate::store::{LEASE, Result, Store, StoreError};

/// Between two renewals. Three may fail before the lease is over.
const BEAT: Duration = Duration::from_secs(2);

pub(crate) struct Membership {
    store: Arc<dyn Store>,
    queues: Arc<Queues>,
    clock: Clock,
    /// The machine's, for people.
    name: String,
    /// Where the number is remembered as long as it may hold something; see [`Number`].
    file: PathBuf,
    node: AtomicI64,
    /// See [`doubt`](Membership::doubt).
    in_doubt: AtomicBool,
    lease: Mutex<Lease>,
    /// What runs here, for others to see.
    running: Mutex<String>,
    /// The lease was renewed.
    renewed: Notify,
    /// One at a time joins anew.
    joining: tokio::sync::Mutex<()>,
}

/// What stands in `node.json` of the data directory. Only one process at a time has that directory: who finds a number there
/// knows that its process is gone, and need not wait for its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Number {
    node: i64,
    /// As the database has it: the directory may have been used with another one.
    started_ms: u64,
}

impl Number {
    fn read(file: &Path) -> Option<Number> {
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }

    fn write(self, file: &Path) {
        // Numbers always serialise.
        let text = serde_json::to_vec(&self).unwrap_or_default();
        if let Err(error) = write_private(file, &text) {
            tracing::warn!(%error, "this node's number could not be remembered: after a crash its lease is waited for");
        }
    }
}

#[derive(Clone, Copy)]
struct Lease {
    /// On this machine's own clock, counted from before it was asked for.
    until: Instant,
    /// Since when it was renewed without a gap: whoever could not reach the database cannot judge others.
    since: Instant,
}

/// The time on a clock that goes on while the process is stopped and that nobody sets.
#[allow(clippy::disallowed_methods, reason = "leases are about real time, also where tests move the hub's clock")]
fn now() -> Instant {
    Instant::now()
}

impl Membership {
    /// Joins. Answers how many deliveries went back into the table because of that.
    pub(crate) async fn join(
        store: Arc<dyn Store>,
        queues: Arc<Queues>,
        clock: Clock,
        name: &str,
        data: &Path,
    ) -> Result<(Arc<Membership>, u64)> {
        let begun = now();
        let (node, freed) = store.join(name, clock.now_ms()).await?;
        let membership = Membership {
            store,
            queues,
            clock,
            name: name.to_owned(),
            file: data.join("node.json"),
            node: AtomicI64::new(node),
            in_doubt: AtomicBool::new(false),
            lease: Mutex::new(Lease { until: begun + LEASE, since: begun }),
            running: Mutex::default(),
            renewed: Notify::new(),
            joining: tokio::sync::Mutex::default(),
        };
        let freed = freed + membership.succeed().await?;
        Ok((Arc::new(membership), freed))
    }

    /// Hands back what the process before this one held, which had no time to, and remembers the number for the next.
    async fn succeed(&self) -> Result<u64> {
        if !self.store.is_shared() {
            return Ok(0);
        }
        let nodes = self.store.nodes().await?;
        let mut freed = 0;
        if let Some(Number { node, started_ms }) = Number::read(&self.file)
            && node != self.node()
            && nodes.iter().any(|row| row.id == node && row.started_ms == started_ms)
        {
            freed = self.store.leave(node, self.clock.now_ms()).await?;
        }
        if let Some(own) = nodes.iter().find(|row| row.id == self.node()) {
            Number { node: own.id, started_ms: own.started_ms }.write(&self.file);
        }
        Ok(freed)
    }

    /// Leaves, in order: nothing is left to remember.
    pub(crate) async fn leave(&self) -> Result<()> {
        self.store.leave(self.node(), self.clock.now_ms()).await?;
        let _ = std::fs::remove_file(&self.file);
        Ok(())
    }

    /// The number under which this process holds deliveries now.
    pub(crate) fn node(&self) -> i64 {
        self.node.load(Ordering::Acquire)
    }

    /// Says to others which versions of which connectors run here, with the next renewal.
    pub(crate) fn runs(&self, versions: BTreeMap<String, i64>) {
        // Texts and numbers always serialise.
        let text = serde_json::to_string(&versions).unwrap_or_default();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn running(&self) -> String {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lease(&self) -> Lease {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the lease of this number holds.
    pub(crate) fn is_held(&self, node: i64) -> bool {
        !self.store.is_shared() || (self.node() == node && now() < self.lease().until)
    }

    /// Returns when the lease holds: what is tried without one is tried by somebody else as well.
    pub(crate) async fn holds(&self) {
        loop {
            let renewed = self.renewed.notified();
            if self.is_held(self.node()) {
                return;
            }
            renewed.await;
        }
    }

    /// What the database holds under this node's number is not what is in memory, or may not be.
    pub(crate) fn doubt(&self) {
        self.in_doubt.store(self.store.is_shared(), Ordering::Release);
    }

    /// The number to commit under. After a doubt it is another one: what was held under the old one goes back.
    pub(crate) async fn certain(&self) -> Result<i64> {
        if self.in_doubt.load(Ordering::Acquire) {
            self.rejoin(self.node()).await?;
        }
        Ok(self.node())
    }

    /// Takes another number instead of this one, unless somebody has done so already.
    pub(crate) async fn rejoin(&self, old: i64) -> Result<()> {
        let _joining = self.joining.lock().await;
        if self.node() != old {
            return Ok(());
        }
        let begun = now();
        let now_ms = self.clock.now_ms();
        let (node, _) = self.store.join(&self.name, now_ms).await?;
        // It may have been taken over already, and then there is nothing left to hand back.
        self.store.leave(old, now_ms).await?;
        Number { node, started_ms: now_ms }.write(&self.file);
        // What is in memory is the table's again. Whatever is running ends, and settles nothing. Before the new number
        // counts: what comes into memory under it is held under it, and nobody else would deliver it.
        self.queues.forget();
        self.node.store(node, Ordering::Release);
        self.in_doubt.store(false, Ordering::Release);
        self.renew(begun, true);
        tracing::warn!(node, "this node has joined anew: what it held may be with others");
        Ok(())
    }

    fn renew(&self, begun: Instant, anew: bool) {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let since = if anew || begun > lease.until { begun } else { lease.since };
        *lease = Lease { until: begun + LEASE, since };
        drop(lease);
        self.renewed.notify_waiters();
    }

    /// Renews the lease as long as the hub runs, and declares those dead that did not renew theirs.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        if !self.store.is_shared() {
            return;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(BEAT) => {}
            }
            if let Err(error) = self.beat().await {
                tracing::error!(%error, "renewing this node's lease failed");
            }
        }
    }

    async fn beat(&self) -> Result<()> {
        // Where nothing is committed any more, nobody else asks.
        self.certain().await?;
        let (node, begun) = (self.node(), now());
        match self.store.renew(node, &self.running()).await {
            Ok(()) => self.renew(begun, false),
            Err(StoreError::Fenced) => self.rejoin(node).await?,
            Err(error) => return Err(error),
        }
        // When all were cut off from the database, whoever is back first must not take the others for dead.
        if self.lease().since.elapsed() < LEASE {
            return Ok(());
        }
        for dead in self.store.reap(self.clock.now_ms()).await? {
            let (node, machine, deliveries) = (dead.node, dead.name, dead.freed);
            tracing::warn!(node, machine, deliveries, "a node's lease expired: what it held goes to others");
            self.queues.look();
        }
        Ok(())
    }
}
