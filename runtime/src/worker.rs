//! The door for work: takes what is ready, runs it, settles it. A queue has between its fewest and most workers, and
//! each keeps a number of deliveries in flight.

pub(crate) mod run;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::catalog::Current;
use crate::clock::{Clock, Ids, random_unit};
use crate::committer::Committer;
use crate::config::Retry;
use crate::delivery::{Delivery, Next, Outcome, Settlement, after};
use crate::plugin::Plugins;
use crate::queue::{Queue, Queues};
use crate::store::Store;

/// A worker beyond the fewest goes home after this long without work.
const IDLE: Duration = Duration::from_secs(10);

/// What a worker works with.
pub(crate) struct Shop {
    pub(crate) catalog: Arc<Current>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) committer: Committer,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) ids: Arc<Ids>,
    /// No new deliveries are begun.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Shop {
    /// Brings every queue to its fewest workers; called again when the configuration has changed.
    pub(crate) fn staff(self: &Arc<Self>) {
        for queue in self.queues.all() {
            while queue.workers.load(Ordering::Relaxed) < queue.config().workers.0 {
                self.hire(&queue);
            }
        }
    }

    fn hire(self: &Arc<Self>, queue: &Arc<Queue>) {
        queue.workers.fetch_add(1, Ordering::Relaxed);
        let (shop, queue) = (self.clone(), queue.clone());
        self.tasks.spawn(async move {
            shop.work(&queue).await;
            queue.workers.fetch_sub(1, Ordering::Relaxed);
        });
    }

    async fn work(self: &Arc<Self>, queue: &Arc<Queue>) {
        let config = queue.config();
        let slots = Arc::new(Semaphore::new(config.in_flight.max(1) as usize));
        loop {
            let slot = tokio::select! {
                () = self.stop.cancelled() => return,
                slot = slots.clone().acquire_owned() => slot,
            };
            let Ok(slot) = slot else { return };
            let taken = self.queues.take(queue, 1 + slots.available_permits());
            for delivery in taken.hold {
                self.tasks.spawn(self.clone().put_aside(delivery));
            }
            if taken.start.is_empty() {
                drop(slot);
                queue.idle.fetch_add(1, Ordering::Relaxed);
                let spare = queue.workers.load(Ordering::Relaxed) > queue.config().workers.0;
                let stay = tokio::select! {
                    () = self.stop.cancelled() => false,
                    () = queue.wake.notified() => true,
                    () = self.clock.wait_until(taken.again_ms.unwrap_or(0)), if taken.again_ms.is_some() => true,
                    () = tokio::time::sleep(IDLE), if spare => false,
                };
                queue.idle.fetch_sub(1, Ordering::Relaxed);
                if !stay {
                    return;
                }
                continue;
            }
            let mut slot = Some(slot);
            for delivery in taken.start {
                // take() was told how many slots there are, and nobody else takes any.
                let slot = match slot.take() {
                    Some(first) => Ok(first),
                    None => slots.clone().try_acquire_owned(),
                };
                let (shop, queue) = (self.clone(), queue.clone());
                queue.running.fetch_add(1, Ordering::Relaxed);
                self.tasks.spawn(async move {
                    shop.deliver(delivery, || {
                        queue.running.fetch_sub(1, Ordering::Relaxed);
                        drop(slot);
                    })
                    .await;
                });
            }
            let full = slots.available_permits() == 0 && queue.idle.load(Ordering::Relaxed) == 0;
            if full && queue.waiting() > 0 && queue.workers.load(Ordering::Relaxed) < queue.config().workers.1 {
                self.hire(queue);
            }
        }
    }

    /// One delivery's try, from start to settled. `done` is called when the try is over and only its record is left.
    async fn deliver(&self, delivery: Delivery, done: impl FnOnce()) {
        let tried = run::run(self, &delivery).await;
        let attempt = tried.attempt;
        let (outcome, retry_after_ms) = (attempt.outcome, attempt.retry_after_ms);
        self.queues.left(delivery.endpoint, Some(outcome), retry_after_ms);
        done();
        let catalog = self.catalog.get();
        let endpoint = catalog.endpoints.get(&delivery.endpoint);
        let unknown = Retry::default();
        let retry = endpoint.map_or(&unknown, |endpoint| &endpoint.retry);
        let now_ms = self.clock.now_ms();
        let succeeded = matches!(outcome, Outcome::Delivered | Outcome::Skipped);
        // Only a wait has a random share, and drawing one is a system call.
        let random = if succeeded { 0.0 } else { random_unit() };
        let (next, charge) = after(outcome, retry_after_ms, &delivery, retry, now_ms, random);
        if next == Next::Held {
            self.pause(&delivery, &attempt.message.clone().unwrap_or_default()).await;
        }
        if !succeeded {
            tracing::warn!(
                delivery = %delivery.id, event = %delivery.event.id, endpoint = catalog.endpoint_name(delivery.endpoint),
                attempt = delivery.tries + 1, outcome = ?outcome, code = attempt.code, http_status = attempt.http_status,
                "attempt failed"
            );
        }
        self.committer
            .settle(Settlement { delivery, next, charge, attempt: Some(attempt), emitted: tried.emitted })
            .await;
    }

    /// Its endpoint is paused: back into the table, no try charged.
    async fn put_aside(self: Arc<Self>, delivery: Delivery) {
        self.committer
            .settle(Settlement { delivery, next: Next::Held, charge: false, attempt: None, emitted: Vec::new() })
            .await;
    }

    async fn pause(&self, delivery: &Delivery, reason: &str) {
        let known = self.catalog.get();
        if known.endpoints.get(&delivery.endpoint).is_none_or(|endpoint| endpoint.paused.is_some()) {
            return;
        }
        tracing::error!(endpoint = known.endpoint_name(delivery.endpoint), reason, "endpoint paused");
        if let Err(error) = self.store.pause(delivery.endpoint, Some(reason)).await {
            tracing::error!(%error, "pausing an endpoint failed");
            return;
        }
        if let Err(error) = crate::apply::reload(&*self.store, &self.catalog, &self.queues).await {
            tracing::error!(error, "reading the catalog failed");
        }
    }
}
