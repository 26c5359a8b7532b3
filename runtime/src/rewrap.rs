//! The ring and the database: whether they belong together, and the keys of events that an older key of the ring wraps,
//! wrapped anew with the active one. Payloads are not touched by it.
//!
//! A key stands in `wrapping_keys` before it wraps for the first time, and is taken out when a walk through all rows, begun
//! long enough after the last rotation, has left nothing that it wraps. So a key that is not there may be retired, and no
//! index of millions of events has to say so.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, random_bytes};
use crate::event::EventId;
use crate::keyring::{KeyId, Keyring};
use crate::metrics::Metrics;
use crate::store::rows::{WrappedKey, WrappedPage};
use crate::store::{Result, Store, is_open};

/// Events that one step looks at, so that nobody waits for long behind it.
const STEP: u32 = 500;
/// Between looks at whether there is something to do, and after a failure.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What was sealed just before a rotation may still be on its way into the database.
const SETTLED_MS: u64 = 10 * 60 * 1000;

/// Refuses a ring that lacks what the database needs: better no hub than one that accepts what it cannot read later.
pub(crate) async fn check(store: &dyn Store, ring: &Keyring, path: &Path) -> anyhow::Result<()> {
    let path = path.display();
    let known = ring.keys();
    let (needed, missing): (Vec<KeyId>, Vec<KeyId>) =
        store.wrapping_keys().await?.into_iter().partition(|id| known.iter().any(|key| key.id == *id));
    if !missing.is_empty() {
        let counts = count(store, &missing).await?;
        let counts: Vec<String> =
            counts.iter().map(|(id, count)| format!("{id} ({count} events and secrets)")).collect();
        anyhow::ensure!(
            counts.is_empty(),
            "the key ring {path} lacks keys that the database needs: {}. Put the ring back that belongs to this database",
            counts.join(", ")
        );
        // They wrap nothing, and never will: unless a node has them.
        let names: Vec<String> = missing.iter().map(KeyId::to_string).collect();
        anyhow::ensure!(
            !is_open(store).await?,
            "the key ring {path} lacks keys that other nodes of this database have: {}. Copy the ring of one of them",
            names.join(", ")
        );
        for id in missing {
            store.remove_wrapping_key(id).await?;
        }
    }
    let fingerprint = ring.fingerprint();
    match store.keyring().await? {
        Some(was) if was == fingerprint => {}
        Some(_) if !needed.is_empty() => anyhow::bail!(
            "the index key of the key ring {path} is not the one that this database was indexed with: nobody would be \
             found, and repetitions would not be recognised. Put the ring back that belongs to this database"
        ),
        _ => store.set_keyring(&fingerprint).await?,
    }
    let active = ring.active();
    if !needed.contains(&active) {
        // The first start, or that after a rotation while the database was another: a copy from before, say.
        anyhow::ensure!(
            needed.is_empty() || !is_open(store).await?,
            "other nodes of this database may lack key {active}, which is the active one of the key ring {path}: stop \
             them, copy this ring to them, and start this node first"
        );
        store.add_wrapping_key(active).await?;
    }
    Ok(())
}

/// How many keys of events and secrets each of these wraps; those that wrap none are left out.
async fn count(store: &dyn Store, ids: &[KeyId]) -> Result<Vec<(KeyId, u64)>> {
    let mut counts: Vec<(KeyId, u64)> = ids.iter().map(|id| (*id, 0)).collect();
    let mut add = |keys: &[WrappedKey]| {
        for (id, count) in &mut counts {
            *count += keys.iter().filter(|key| key.key == *id).count() as u64;
        }
    };
    add(&store.wrapped_secrets().await?);
    let mut place = Some(EventId(0));
    while let Some(after) = place {
        let page = store.wrapped_events(after, STEP).await?;
        add(&page.keys);
        place = page.next;
    }
    counts.retain(|(_, count)| *count > 0);
    Ok(counts)
}

pub(crate) struct Rewrap {
    store: Arc<dyn Store>,
    ring: Arc<Keyring>,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// The last event that the walk has come to; 0 while there is no walk.
    place: AtomicI64,
}

/// What a walk has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walked {
    Everything,
    /// Keys that cannot be unwrapped.
    AllBut(u64),
    Stopped,
}

impl Rewrap {
    pub(crate) fn new(store: Arc<dyn Store>, ring: Arc<Keyring>, clock: Clock, metrics: Arc<Metrics>) -> Rewrap {
        Rewrap { store, ring, clock, metrics, place: AtomicI64::new(0) }
    }

    /// The last event that the walk under way has come to, of those that lie in their order.
    pub(crate) fn place(&self) -> Option<EventId> {
        Some(self.place.load(Ordering::Relaxed)).filter(|place| *place > 0).map(EventId)
    }

    /// Wraps anew whatever the active key does not wrap, as long as the hub runs.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        // The active key that the last walk wrapped with, and whether that was the last one that is needed.
        let mut last: Option<(KeyId, bool)> = None;
        while !stop.is_cancelled() {
            match self.look(last, &stop).await {
                Ok(walked) => last = walked,
                Err(error) => tracing::error!(%error, "wrapping keys anew failed; it is tried again"),
            }
            self.place.store(0, Ordering::Relaxed);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.ring.rotated.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn look(&self, last: Option<(KeyId, bool)>, stop: &CancellationToken) -> Result<Option<(KeyId, bool)>> {
        let keys = self.ring.keys();
        // Later keys are about to become active.
        let older: Vec<KeyId> = keys.iter().take_while(|key| !key.active).map(|key| key.id).collect();
        let Some(active) = keys.get(older.len()) else { return Ok(last) };
        let is_settled = self.clock.now_ms() >= active.created_ms + SETTLED_MS;
        if last.is_some_and(|(id, was_settled)| id == active.id && (was_settled || !is_settled)) {
            return Ok(last);
        }
        let mut others = self.store.wrapping_keys().await?;
        others.retain(|id| older.contains(id));
        if !others.is_empty() {
            match self.walk(active.id, stop).await? {
                Walked::Stopped => return Ok(last),
                Walked::AllBut(left) => {
                    tracing::error!(
                        rows = left,
                        "keys of events and secrets cannot be unwrapped, and stay as they are"
                    );
                }
                Walked::Everything if is_settled => {
                    for id in others {
                        self.store.remove_wrapping_key(id).await?;
                    }
                    tracing::info!("all keys of events and secrets are wrapped with the active key of the ring");
                }
                Walked::Everything => {}
            }
        }
        Ok(Some((active.id, is_settled)))
    }

    async fn walk(&self, active: KeyId, stop: &CancellationToken) -> Result<Walked> {
        let mut left = 0;
        let mut page = WrappedPage { keys: self.store.wrapped_secrets().await?, next: Some(EventId(0)) };
        loop {
            left += self.step(active, page.keys).await?;
            let Some(after) = page.next else { break };
            if stop.is_cancelled() {
                return Ok(Walked::Stopped);
            }
            self.place.store(after.0, Ordering::Relaxed);
            page = self.store.wrapped_events(after, STEP).await?;
        }
        Ok(if left == 0 { Walked::Everything } else { Walked::AllBut(left) })
    }

    /// Answers how many could not be unwrapped.
    async fn step(&self, active: KeyId, keys: Vec<WrappedKey>) -> Result<u64> {
        let mut fresh = Vec::new();
        let mut left = 0;
        for key in keys.into_iter().filter(|key| key.key != active) {
            match self.ring.unwrap(key.of.place(), key.key, &key.wrapped) {
                Ok(plain) => {
                    let (id, wrapped) = self.ring.wrap(key.of.place(), random_bytes(), &plain);
                    fresh.push(WrappedKey { key: id, wrapped, ..key });
                }
                Err(why) => {
                    tracing::error!(name = %key.of, error = %why, "a wrapped key cannot be unwrapped");
                    left += 1;
                }
            }
        }
        if !fresh.is_empty() {
            self.store.rewrap(&fresh).await?;
            self.metrics.rewrapped(fresh.len() as u64);
        }
        Ok(left)
    }
}
