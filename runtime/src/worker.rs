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
use crate::clock::{Clock, Ids, random_bytes, random_unit};
use crate::committer::Committer;
use crate::config::Retry;
use crate::delivery::{Attempt, Begin, Delivery, Next, Outcome, Said, Settlement, SyncStep, after, is_code};
use crate::event::ERASURE;
use crate::keyring::Keyring;
use crate::membership::Membership;
use crate::metrics::Metrics;
use crate::plugin::Plugins;
use crate::queue::{Queue, Queues};
use crate::seal::Place;
use crate::store::Store;
use crate::sync::Page;

/// Between tries to put the beginning of a try on record, while the database fails.
const PAUSE: Duration = Duration::from_millis(500);
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
    pub(crate) ring: Arc<Keyring>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) membership: Arc<Membership>,
    /// No new deliveries are begun.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Shop {
    /// Brings every queue to its fewest workers; called again when the configuration has changed.
    pub(crate) fn staff(self: &Arc<Self>) {
        for queue in self.queues.all() {
            while queue.hire(queue.config().workers.0) {
                self.start(&queue);
            }
        }
    }

    /// Sets a worker to work, who counts already.
    fn start(self: &Arc<Self>, queue: &Arc<Queue>) {
        let (shop, queue) = (self.clone(), queue.clone());
        self.tasks.spawn(async move { shop.work(&queue).await });
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
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.membership.holds() => {}
            }
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
                    // Of several that have nothing to do at the same time, as many stay as there have to be.
                    () = tokio::time::sleep(IDLE), if spare => !queue.dismiss(),
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
            if full && queue.waiting() > 0 && queue.hire(queue.config().workers.1) {
                self.start(queue);
            }
        }
    }

    /// One delivery's try, from start to settled. `done` is called when the try is over and only its record is left.
    async fn deliver(&self, delivery: Delivery, done: impl FnOnce()) {
        // Until its end is with the committer: an erasure waits for that.
        let Some(_trying) = self.queues.erased.enter(&delivery) else {
            self.queues.left(delivery.endpoint, None, None);
            done();
            // Its row is about to be erased, or is already.
            return self.settle_untried(delivery, Next::Held).await;
        };
        if !self.begin(&delivery).await {
            self.queues.left(delivery.endpoint, None, None);
            done();
            return self.release(delivery).await;
        }
        let node = self.membership.node();
        let tried = run::run(self, &delivery).await;
        let mut attempt = tried.attempt;
        let (outcome, retry_after_ms) = (attempt.outcome, attempt.retry_after_ms);
        // What ran out of time while this process was stopped tells nothing of the target: its breaker would open, and this
        // node would keep what is for it.
        let learnt = self.membership.is_held(node).then_some(outcome);
        self.queues.left(delivery.endpoint, learnt, retry_after_ms);
        done();
        let catalog = self.catalog.get();
        let endpoint = catalog.endpoints.get(&delivery.endpoint);
        let unknown = Retry::default();
        let retry = endpoint.map_or(&unknown, |endpoint| &endpoint.retry);
        let now_ms = self.clock.now_ms();
        let succeeded = matches!(outcome, Outcome::Delivered | Outcome::Skipped);
        // Only a wait has a random share, and drawing one is a system call.
        let random = if succeeded { 0.0 } else { random_unit() };
        let unrepeatable = tried.taken && endpoint.is_some_and(|endpoint| endpoint.at_most_once);
        let (next, charge) = after(outcome, retry_after_ms, &delivery, retry, now_ms, random, unrepeatable);
        if let Some(endpoint) = endpoint {
            self.metrics.attempt(&endpoint.name, outcome, attempt.duration_us);
            match next {
                Next::Delivered => self.metrics.settled(&endpoint.name, "delivered"),
                Next::Skipped => self.metrics.settled(&endpoint.name, "skipped"),
                Next::Dead => self.metrics.settled(&endpoint.name, "dead"),
                Next::Retry(_) | Next::Held => {}
            }
        }
        if next == Next::Held {
            self.pause(&delivery, &attempt).await;
        }
        hide(&delivery, &mut attempt);
        if !succeeded {
            tracing::warn!(
                delivery = %delivery.id, event = %delivery.event.id, endpoint = catalog.endpoint_name(delivery.endpoint),
                attempt = delivery.tries + 1, outcome = ?outcome, code = attempt.code, http_status = attempt.http_status,
                "attempt failed"
            );
        }
        let sync = Page::of(&delivery.event).and_then(|page| match next {
            Next::Delivered | Next::Skipped => Some(SyncStep::Page { run: page.run, cursor: tried.cursor }),
            Next::Dead => Some(SyncStep::Failed { run: page.run }),
            Next::Retry(_) | Next::Held => None,
        });
        let emitted = tried.emitted;
        let of_an_erasure = &*delivery.event.source == ERASURE;
        self.committer.settle(Settlement { delivery, next, charge, attempt: Some(attempt), emitted, sync }).await;
        if of_an_erasure {
            self.queues.erased.told.notify_one();
        }
    }

    /// Where a delivery may be tried at most once, the try is on record before it begins. False: it is not to be tried
    /// here and now.
    async fn begin(&self, delivery: &Delivery) -> bool {
        let catalog = self.catalog.get();
        if !catalog.endpoints.get(&delivery.endpoint).is_some_and(|endpoint| endpoint.at_most_once) {
            return true;
        }
        loop {
            let begin = Begin { delivery: delivery.id, number: delivery.tries + 1, started_ms: self.clock.now_ms() };
            match self.committer.begin(begin).await {
                Ok(ours) => return ours,
                // The database is gone. Without the record nothing may be sent.
                Err(_) if self.stop.is_cancelled() => return false,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Its endpoint is paused: back into the table, no try charged.
    async fn put_aside(self: Arc<Self>, delivery: Delivery) {
        self.settle_untried(delivery, Next::Held).await;
    }

    /// It could not be begun: back into the retry queue, unless it is somebody else's by now.
    async fn release(&self, delivery: Delivery) {
        let next = Next::Retry(self.clock.now_ms());
        self.settle_untried(delivery, next).await;
    }

    async fn settle_untried(&self, delivery: Delivery, next: Next) {
        let untried = Settlement { delivery, next, charge: false, attempt: None, emitted: Vec::new(), sync: None };
        self.committer.settle(untried).await;
    }

    async fn pause(&self, delivery: &Delivery, attempt: &Attempt) {
        let known = self.catalog.get();
        if known.endpoints.get(&delivery.endpoint).is_none_or(|endpoint| endpoint.paused.is_some()) {
            return;
        }
        // What a connector says may be about people: it is for the API, and not for the log.
        tracing::error!(
            endpoint = known.endpoint_name(delivery.endpoint), delivery = %delivery.id, outcome = ?attempt.outcome,
            code = attempt.code, "endpoint paused"
        );
        if let Err(error) = self.store.pause(delivery.endpoint, Some(&reason_to_pause(delivery, attempt))).await {
            tracing::error!(%error, "pausing an endpoint failed");
            return;
        }
        if let Err(error) = crate::apply::reload(&*self.store, &self.catalog, &self.queues).await {
            tracing::error!(error, "reading the catalog failed");
        }
    }
}

/// Stands at the endpoint, in clear and for everybody to see.
fn reason_to_pause(delivery: &Delivery, attempt: &Attempt) -> String {
    match &attempt.message {
        Some(message) if delivery.event.content.key().is_none() => message.clone(),
        _ => format!("see what became of delivery {}", delivery.id),
    }
}

/// What was said about a sealed event is sealed with its key. A code stays, as long as it is one.
fn hide(delivery: &Delivery, attempt: &mut Attempt) {
    let Some(key) = delivery.event.content.key() else { return };
    let said = Said { code: attempt.code.take(), message: attempt.message.take(), log: attempt.log.take() };
    attempt.code = said.code.clone().filter(|code| is_code(code));
    // Texts always serialise.
    let plain = serde_json::to_vec(&said).unwrap_or_default();
    let place = Place::Attempt { delivery: delivery.id.0, number: delivery.tries + 1 };
    attempt.sealed = Some(key.seal(place, random_bytes(), &plain));
}
