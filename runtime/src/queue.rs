//! What is owed and in this node's memory: the queues with their ready deliveries, and one gate per endpoint.
//!
//! Memory is bounded: what finds no room waits in the table, and the keeper fetches it when there is room again.

pub(crate) mod backoff;
pub(crate) mod erased;
pub(crate) mod gate;
pub(crate) mod keeper;
pub(crate) mod ready;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use dashmap::DashMap;
use tokio::sync::Notify;

use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config;
use crate::delivery::{Delivery, Outcome};
use crate::event::{Event, NewDelivery};
use crate::signals::{Notice, Signals};
use erased::Erased;
use gate::{Gate, Limits, Turn};
use ready::{Ready, Taken};

/// Deliveries of one endpoint in memory, waiting and running.
const LOADED: i64 = 10_000;
/// Payload bytes in memory, over all endpoints.
const LOADED_BYTES: usize = 64 << 20;

/// Where retries and replays run.
const RETRY_QUEUE: &str = "integrations-retry";

pub(crate) struct Queues {
    clock: Clock,
    signals: Arc<Signals>,
    queues: RwLock<HashMap<i64, Arc<Queue>>>,
    endpoints: DashMap<i64, Arc<Lane>>,
    bytes: AtomicUsize,
    /// Told when the table has something for us.
    pub(crate) keeper: Notify,
    /// The next time in the retry queue, milliseconds.
    next_due: AtomicU64,
    pub(crate) erased: Erased,
}

/// One endpoint's share of the memory, and its gate.
struct Lane {
    gate: Mutex<Gate>,
    /// Queues that were refused because the endpoint was busy: they look again when somebody leaves.
    refused: Mutex<Vec<Arc<Queue>>>,
    loaded: AtomicI64,
    /// The table holds deliveries for it: new ones queue up behind them.
    spilled: AtomicBool,
}

pub(crate) struct Queue {
    pub(crate) name: String,
    pub(crate) config: RwLock<config::Queue>,
    ready: Mutex<Ready>,
    /// Told when there is something to take.
    pub(crate) wake: Notify,
    pub(crate) workers: AtomicU32,
    pub(crate) idle: AtomicU32,
    pub(crate) running: AtomicU32,
}

impl Queues {
    pub(crate) fn new(clock: Clock, signals: Arc<Signals>, catalog: &Catalog) -> Queues {
        let queues = Queues {
            clock,
            signals,
            queues: RwLock::default(),
            endpoints: DashMap::new(),
            bytes: AtomicUsize::new(0),
            keeper: Notify::new(),
            next_due: AtomicU64::new(0),
            erased: Erased::default(),
        };
        queues.configure(catalog);
        queues
    }

    /// Takes over limits, pauses and new queues. Queues that are gone stay until the process ends, for what is in them.
    pub(crate) fn configure(&self, catalog: &Catalog) {
        for endpoint in catalog.endpoints.values() {
            let limits = Limits {
                concurrency: endpoint.concurrency,
                rate_per_s: endpoint.rate_per_s,
                breaker: endpoint.breaker.clone(),
            };
            let paused = endpoint.paused.is_some() || endpoint.removed;
            match self.endpoints.get(&endpoint.id) {
                Some(lane) => locked(&lane.gate).configure(limits, paused),
                None => {
                    let gate = Mutex::new(Gate::new(limits, paused));
                    let lane = Lane {
                        gate,
                        refused: Mutex::default(),
                        loaded: AtomicI64::new(0),
                        spilled: AtomicBool::new(false),
                    };
                    self.endpoints.insert(endpoint.id, Arc::new(lane));
                }
            }
        }
        {
            let mut queues = self.queues.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            for (name, (id, config)) in &catalog.queues {
                match queues.get(id) {
                    Some(queue) => {
                        *queue.config.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = config.clone();
                    }
                    None => {
                        queues.insert(*id, Arc::new(Queue::new(name.clone(), config.clone())));
                    }
                }
            }
        }
        self.wake_all();
        self.keeper.notify_one();
    }

    pub(crate) fn all(&self) -> Vec<Arc<Queue>> {
        self.queues.read().unwrap_or_else(|poisoned| poisoned.into_inner()).values().cloned().collect()
    }

    /// Keeps room for a delivery that is about to be committed. None left, or older ones in the table: no.
    pub(crate) fn reserve(&self, endpoint: i64, bytes: usize) -> bool {
        let Some(lane) = self.lane(endpoint) else { return false };
        if lane.spilled.load(Ordering::Relaxed) || lane.loaded.load(Ordering::Relaxed) >= LOADED {
            return false;
        }
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) > LOADED_BYTES {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        lane.loaded.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Gives back what [`reserve`](Self::reserve) kept, or what a finished delivery took.
    pub(crate) fn release(&self, endpoint: i64, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let Some(lane) = self.lane(endpoint) else { return };
        let loaded = lane.loaded.fetch_sub(1, Ordering::Relaxed);
        if loaded <= LOADED / 2 && lane.spilled.load(Ordering::Relaxed) {
            self.keeper.notify_one();
        }
    }

    pub(crate) fn push_reserved(&self, event: &Arc<Event>, new: &NewDelivery) {
        self.push(Delivery {
            id: new.id,
            event: event.clone(),
            endpoint: new.endpoint,
            route: new.route,
            queue: new.queue,
            priority: new.priority,
            ordering: new.ordering,
            tries: 0,
            charged: 0,
        });
    }

    /// Takes a delivery that came out of the table, whatever room there is: the keeper asked for no more than that.
    pub(crate) fn push_claimed(&self, delivery: Delivery) {
        self.bytes.fetch_add(delivery.event.payload.len(), Ordering::Relaxed);
        if let Some(lane) = self.lane(delivery.endpoint) {
            lane.loaded.fetch_add(1, Ordering::Relaxed);
        }
        self.push(delivery);
    }

    fn push(&self, delivery: Delivery) {
        let queues = self.queues.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        // What is tried again takes no worker from what is new.
        let again = if delivery.tries > 0 { queues.values().find(|queue| queue.name == RETRY_QUEUE) } else { None };
        let own = again.or_else(|| queues.get(&delivery.queue));
        // A delivery whose queue is gone goes to any other: the lowest id is the first that was declared.
        let queue = own.or_else(|| queues.iter().min_by_key(|(id, _)| **id).map(|(_, queue)| queue));
        if let Some(queue) = queue {
            locked(&queue.ready).push(delivery);
            queue.wake.notify_one();
        }
    }

    /// Takes up to `max` deliveries of a queue that may start now.
    pub(crate) fn take(&self, queue: &Arc<Queue>, max: usize) -> Taken {
        let now_ms = self.clock.now_ms();
        let mut ready = locked(&queue.ready);
        let taken = ready.take(max, |endpoint| {
            let Some(lane) = self.lane(endpoint) else { return gate::Entry::Paused };
            // Both under the gate's lock: who leaves in between would not find the queue.
            let mut gate = locked(&lane.gate);
            let entry = gate.enter(now_ms);
            if entry == gate::Entry::Busy {
                let mut refused = locked(&lane.refused);
                if !refused.iter().any(|known| Arc::ptr_eq(known, queue)) {
                    refused.push(queue.clone());
                }
            }
            entry
        });
        if ready.len() > 0 && taken.start.len() == max {
            queue.wake.notify_one();
        }
        taken
    }

    /// A delivery that was taken is done, or put aside (no outcome).
    pub(crate) fn left(&self, endpoint: i64, outcome: Option<Outcome>, retry_after_ms: Option<u64>) {
        let Some(lane) = self.lane(endpoint) else { return };
        let mut gate = locked(&lane.gate);
        let turn = gate.leave(outcome, retry_after_ms, self.clock.now_ms());
        let refused = std::mem::take(&mut *locked(&lane.refused));
        drop(gate);
        match turn {
            Some(Turn::Opened { for_ms }) => self.signals.publish(Notice::Opened { endpoint, for_ms }),
            Some(Turn::Closed) => self.signals.publish(Notice::Closed { endpoint }),
            None => {}
        }
        refused.iter().for_each(|queue| queue.wake.notify_one());
    }

    /// Another node's breaker has opened or closed.
    pub(crate) fn turned(&self, endpoint: i64, turn: Turn) {
        let Some(lane) = self.lane(endpoint) else { return };
        locked(&lane.gate).hear(turn, self.clock.now_ms());
        if turn == Turn::Closed {
            self.wake_all();
        }
    }

    /// The table has something for this endpoint.
    pub(crate) fn spilled(&self, endpoint: i64) {
        if let Some(lane) = self.lane(endpoint)
            && !lane.spilled.swap(true, Ordering::Relaxed)
        {
            self.keeper.notify_one();
        }
    }

    /// The table has something new for this endpoint, which any node may take.
    pub(crate) fn announce(&self, endpoint: i64) {
        self.spilled(endpoint);
        self.signals.publish(Notice::Work { endpoint });
    }

    /// The retry queue has something for this time.
    pub(crate) fn due(&self, at_ms: u64) {
        if at_ms < self.next_due.fetch_min(at_ms, Ordering::Relaxed) {
            self.keeper.notify_one();
        }
    }

    pub(crate) fn breaker(&self, endpoint: i64) -> (&'static str, u32, i64) {
        self.lane(endpoint).map_or(("closed", 0, 0), |lane| {
            let gate = locked(&lane.gate);
            (gate.breaker(self.clock.now_ms()), gate.in_flight(), lane.loaded.load(Ordering::Relaxed))
        })
    }

    /// Drops what is ready and about an erased event; its rows say already that it is not owed any more.
    pub(crate) fn purge(&self) {
        for queue in self.all() {
            let gone = locked(&queue.ready).remove(|delivery| self.erased.has(delivery.event.id));
            for delivery in gone {
                self.release(delivery.endpoint, delivery.event.payload.len());
            }
        }
    }

    /// Drops whatever is ready: it is not this node's any more. What is running ends by itself.
    pub(crate) fn forget(&self) {
        for queue in self.all() {
            let gone = locked(&queue.ready).remove(|_| true);
            for delivery in gone {
                self.release(delivery.endpoint, delivery.event.payload.len());
            }
        }
        self.look();
    }

    /// The table may have something for everybody, and the retry queue as well.
    pub(crate) fn look(&self) {
        self.endpoints.iter().for_each(|lane| lane.spilled.store(true, Ordering::Relaxed));
        self.next_due.store(0, Ordering::Relaxed);
        self.keeper.notify_one();
    }

    fn wake_all(&self) {
        for queue in self.all() {
            queue.wake.notify_one();
        }
    }

    fn lane(&self, endpoint: i64) -> Option<Arc<Lane>> {
        self.endpoints.get(&endpoint).map(|lane| lane.clone())
    }
}

impl Queue {
    fn new(name: String, config: config::Queue) -> Queue {
        Queue {
            name,
            config: RwLock::new(config),
            ready: Mutex::default(),
            wake: Notify::new(),
            workers: AtomicU32::new(0),
            idle: AtomicU32::new(0),
            running: AtomicU32::new(0),
        }
    }

    pub(crate) fn config(&self) -> config::Queue {
        self.config.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Counts a worker more, unless there are as many.
    pub(crate) fn hire(&self, most: u32) -> bool {
        let more = |workers: u32| (workers < most).then(|| workers + 1);
        self.workers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Lets a worker go, who counts no longer, unless there would be fewer than the queue has to have.
    pub(crate) fn dismiss(&self) -> bool {
        let least = self.config().workers.0;
        let fewer = |workers: u32| (workers > least).then(|| workers - 1);
        self.workers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok()
    }

    pub(crate) fn waiting(&self) -> usize {
        locked(&self.ready).len()
    }
}

/// Nothing that is held under these locks can panic half way; a poisoned one is as good as any.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_workers_are_hired_as_there_may_be_and_stay_as_there_have_to_be() {
        let queue = Queue::new("test".into(), config::Queue { workers: (2, 5), in_flight: 1 });
        assert_eq!([4, 4, 4, 4, 4].map(|most| queue.hire(most)), [true, true, true, true, false]);
        assert_eq!([queue.dismiss(), queue.dismiss(), queue.dismiss()], [true, true, false]);
        assert_eq!(queue.workers.load(Ordering::Relaxed), 2);
    }
}
