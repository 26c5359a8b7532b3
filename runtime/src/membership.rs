//! This process among those that share a database: a node with a lease.
//!
//! A node's number is its epoch. Whoever does not renew the lease in time is declared dead by another: what it held goes
//! back into the table, and its number never counts again, so that one that was only paused settles nothing when it wakes.
//! It joins anew, under another number, and begins with nothing in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
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
    ) -> Result<(Arc<Membership>, u64)> {
        let begun = now();
        let (node, freed) = store.join(name, clock.now_ms()).await?;
        let membership = Membership {
            store,
            queues,
            clock,
            name: name.to_owned(),
            node: AtomicI64::new(node),
            in_doubt: AtomicBool::new(false),
            lease: Mutex::new(Lease { until: begun + LEASE, since: begun }),
            running: Mutex::default(),
            renewed: Notify::new(),
            joining: tokio::sync::Mutex::default(),
        };
        Ok((Arc::new(membership), freed))
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

    /// Returns when the lease holds: what is tried without one is tried by somebody else as well.
    pub(crate) async fn holds(&self) {
        loop {
            let renewed = self.renewed.notified();
            if !self.store.is_shared() || now() < self.lease().until {
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
        self.node.store(node, Ordering::Release);
        self.in_doubt.store(false, Ordering::Release);
        // What is in memory is the table's again. Whatever is running ends, and settles nothing.
        self.queues.forget();
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
