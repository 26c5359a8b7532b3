//! Events that nobody may be told about any more: what a worker asks right before a try. And the tries under way, which
//! an erasure waits for.
//!
//! The ids stay here until the hub ends, 8 bytes each: a delivery of such an event may have been on its way from the
//! table into memory at the time. The table says the same, so a hub that starts needs only what is still to be erased.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use dashmap::DashMap;
use tokio::sync::Notify;

use crate::delivery::Delivery;
use crate::event::{DeliveryId, EventId};

#[derive(Default)]
pub(crate) struct Erased {
    events: RwLock<HashSet<EventId>>,
    /// Deliveries that are being tried, with their events.
    trying: DashMap<DeliveryId, EventId>,
    ended: Notify,
    /// Told when a target has been told of an erasure.
    pub(crate) told: Notify,
}

/// A try under way, until it is dropped.
pub(crate) struct Trying<'e> {
    erased: &'e Erased,
    delivery: DeliveryId,
}

impl Erased {
    pub(crate) fn add(&self, events: &[EventId]) {
        self.events.write().unwrap_or_else(PoisonError::into_inner).extend(events);
    }

    pub(crate) fn has(&self, event: EventId) -> bool {
        self.events.read().unwrap_or_else(PoisonError::into_inner).contains(&event)
    }

    /// None: it must not be tried.
    pub(crate) fn enter(&self, delivery: &Delivery) -> Option<Trying<'_>> {
        // First noted, then looked: whoever adds an event and looks afterwards sees this try, or it sees the event.
        self.trying.insert(delivery.id, delivery.event.id);
        let trying = Trying { erased: self, delivery: delivery.id };
        if self.has(delivery.event.id) { None } else { Some(trying) }
    }

    /// The deliveries of these events that are being tried.
    pub(crate) fn under_way(&self, events: &HashSet<EventId>) -> Vec<DeliveryId> {
        self.trying.iter().filter(|trying| events.contains(trying.value())).map(|trying| *trying.key()).collect()
    }

    /// Returns when no try of these events is under way.
    pub(crate) async fn quiet(&self, events: &HashSet<EventId>) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // From here on no end is missed.
            ended.as_mut().enable();
            if self.under_way(events).is_empty() {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        self.erased.trying.remove(&self.delivery);
        self.erased.ended.notify_waiters();
    }
}
