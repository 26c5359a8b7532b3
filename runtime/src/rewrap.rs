//! The ring and the database: whether they belong together, and the keys of events that an older key of the ring wraps,
//! wrapped anew with the active one. Payloads are not touched by it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::random_bytes;
use crate::keyring::Keyring;
use crate::metrics::Metrics;
use crate::store::rows::WrappedKey;
use crate::store::{Result, Store};

/// Keys of one transaction, so that nobody waits for long behind it.
const BATCH: u32 = 500;
/// Between looks when there is nothing to do, and after a failure.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Refuses a ring that lacks what the database needs: better no hub than one that accepts what it cannot read later.
pub(crate) async fn check(store: &dyn Store, ring: &Keyring, path: &Path) -> anyhow::Result<()> {
    let known = ring.keys();
    let path = path.display();
    let needed = store.wrapped().await?;
    let missing = needed.iter().filter(|(id, _)| known.iter().all(|key| key.id != *id));
    let missing: Vec<String> = missing.map(|(id, count)| format!("{id} ({count} events and secrets)")).collect();
    anyhow::ensure!(
        missing.is_empty(),
        "the key ring {path} lacks keys that the database needs: {}. Put the ring back that belongs to this database",
        missing.join(", ")
    );
    let fingerprint = ring.fingerprint();
    match store.keyring().await? {
        Some(was) if was == fingerprint => {}
        Some(_) if !needed.is_empty() => anyhow::bail!(
            "the index key of the key ring {path} is not the one that this database was indexed with: nobody would be \
             found, and repetitions would not be recognised. Put the ring back that belongs to this database"
        ),
        _ => store.set_keyring(&fingerprint).await?,
    }
    Ok(())
}

/// Wraps anew whatever the active key does not wrap, as long as the hub runs.
pub(crate) async fn run(store: Arc<dyn Store>, ring: Arc<Keyring>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut done = 0;
    loop {
        let pause = match batch(&*store, &ring).await {
            Ok(0) if done > 0 => {
                tracing::info!(
                    rows = done,
                    "all keys of events and secrets are wrapped with the active key of the ring"
                );
                done = 0;
                LOOK_EVERY
            }
            Ok(0) => LOOK_EVERY,
            Ok(count) => {
                done += count;
                metrics.rewrapped(count as u64);
                Duration::ZERO
            }
            Err(error) => {
                tracing::error!(%error, "wrapping keys anew failed; it is tried again");
                LOOK_EVERY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = ring.rotated.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Answers how many keys were wrapped anew.
async fn batch(store: &dyn Store, ring: &Keyring) -> Result<usize> {
    let keys = store.wrapped_before(ring.active(), BATCH).await?;
    let mut fresh = Vec::with_capacity(keys.len());
    for key in keys {
        match ring.unwrap(key.of.place(), key.key, &key.wrapped) {
            Ok(plain) => {
                let (id, wrapped) = ring.wrap(key.of.place(), random_bytes(), &plain);
                fresh.push(WrappedKey { key: id, wrapped, ..key });
            }
            Err(why) => tracing::error!(name = %key.of, error = %why, "a wrapped key cannot be unwrapped"),
        }
    }
    if !fresh.is_empty() {
        store.rewrap(&fresh).await?;
    }
    Ok(fresh.len())
}
