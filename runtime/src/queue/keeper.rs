//! Fetches from the table what is owed and in nobody's memory: due retries, and what found no room.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{LOADED, Queues};
use crate::membership::Membership;
use crate::store::{Result, Store, StoreError};

/// Deliveries of one claim or promotion.
const CLAIM: u32 = 500;
/// Looked at even when nobody told us: the table is the truth.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Where other nodes put into it as well.
const LOOK_EVERY_SHARED: Duration = Duration::from_secs(1);
/// After the database failed.
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) async fn run(
    store: Arc<dyn Store>,
    queues: Arc<Queues>,
    membership: Arc<Membership>,
    stop: CancellationToken,
) {
    let mut look = tokio::time::interval(if store.is_shared() { LOOK_EVERY_SHARED } else { LOOK_EVERY });
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due_ms = queues.next_due.load(Ordering::Relaxed);
        tokio::select! {
            () = stop.cancelled() => return,
            () = queues.keeper.notified() => {}
            () = queues.clock.wait_until(due_ms), if due_ms != u64::MAX => {}
            _ = look.tick() => {
                if let Err(error) = look_around(&*store, &queues).await {
                    tracing::error!(%error, "reading the backlog failed");
                }
            }
        }
        let node = membership.node();
        let fetched = async {
            promote(&*store, &queues, node).await?;
            claim(&*store, &queues, node).await
        };
        let fetched = match fetched.await {
            Err(StoreError::Fenced) => membership.rejoin(node).await,
            fetched => fetched,
        };
        if let Err(error) = fetched {
            tracing::error!(%error, "fetching owed deliveries failed");
            tokio::time::sleep(PAUSE).await;
            queues.keeper.notify_one();
        }
    }
}

/// What others may have put into the table.
async fn look_around(store: &dyn Store, queues: &Queues) -> Result<()> {
    store.backlog().await?.into_iter().for_each(|endpoint| queues.spilled(endpoint));
    if store.is_shared()
        && let Some(next) = store.next_due().await?
    {
        queues.due(next);
    }
    Ok(())
}

/// Moves what is due into memory, and remembers when the next one is.
async fn promote(store: &dyn Store, queues: &Queues, node: i64) -> Result<()> {
    let now_ms = queues.clock.now_ms();
    if queues.next_due.load(Ordering::Relaxed) > now_ms {
        return Ok(());
    }
    // Before the read: a retry that is settled meanwhile lowers it again.
    queues.next_due.store(u64::MAX, Ordering::Relaxed);
    let promoted = store.promote(node, now_ms, CLAIM).await.inspect_err(|_| queues.due(now_ms))?;
    promoted.to_table.into_iter().for_each(|endpoint| queues.spilled(endpoint));
    promoted.deliveries.into_iter().for_each(|delivery| queues.push_claimed(delivery));
    if let Some(next) = store.next_due().await.inspect_err(|_| queues.due(now_ms))? {
        queues.due(next);
    }
    Ok(())
}

/// Fills the memory of endpoints that have something in the table.
async fn claim(store: &dyn Store, queues: &Queues, node: i64) -> Result<()> {
    let spilled: Vec<_> = queues
        .endpoints
        .iter()
        .filter(|lane| lane.spilled.load(Ordering::Relaxed))
        .map(|lane| (*lane.key(), lane.value().clone()))
        .collect();
    for (endpoint, lane) in spilled {
        let room = LOADED - lane.loaded.load(Ordering::Relaxed);
        if room < LOADED / 2 {
            continue;
        }
        // Cleared before the claim: what is put into the table meanwhile sets it again.
        lane.spilled.store(false, Ordering::Relaxed);
        let limit = CLAIM.min(room as u32);
        let claimed =
            store.claim(node, endpoint, limit).await.inspect_err(|_| lane.spilled.store(true, Ordering::Relaxed))?;
        if claimed.len() as u32 == limit {
            queues.spilled(endpoint);
        }
        claimed.into_iter().for_each(|delivery| queues.push_claimed(delivery));
    }
    Ok(())
}
