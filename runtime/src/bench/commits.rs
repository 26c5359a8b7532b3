//! The commits of a bench without a hub: the same rows, in batches as large as the hub's were, one after the other. What a
//! database does when nothing stands in front of it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::load;
use crate::clock::{Clock, Ids};
use crate::delivery::{Attempt, Delivery, Next, Outcome, Settlement};
use crate::event::{Content, DeliveryId, Event, EventId, NewDelivery, NewEvent, Place};
use crate::ingress::key::Key;
use crate::keyring::Keyring;
use crate::store::{Done, SqlStore, Store, Work};

pub(super) struct Commits {
    store: Arc<dyn Store>,
    node: i64,
    clock: Clock,
    ids: Ids,
    delivers: bool,
    number: u64,
}

impl Commits {
    /// On a database of its own: at a URL, or in a directory.
    pub(super) async fn open(database: Option<&str>, directory: &Path, delivers: bool) -> Result<Commits> {
        std::fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        let clock = Clock::System;
        let ring = Arc::new(Keyring::open(&directory.join("keyring"), clock.now_ms())?);
        let store = Arc::new(SqlStore::open(database, directory, ring).await?);
        let (node, _) = store.join("bench", clock.now_ms()).await?;
        Ok(Commits { store, node, clock, ids: Ids::of_node(node), delivers, number: 0 })
    }

    /// Events per second: accepted, and settled where the bench delivers, in transactions of so many rows.
    pub(super) async fn per_s(&mut self, rows: usize, least: Duration) -> Result<f64> {
        let (mut busy, mut events, mut owed) = (Duration::ZERO, 0, Vec::new());
        while busy < least {
            // What was accepted in the last transaction is settled in this one.
            let mut work: Vec<Work> = owed.drain(..).map(settled).collect();
            for _ in 0..rows.saturating_sub(work.len()).max(1) {
                let (event, delivery) = self.event();
                owed.extend(delivery);
                work.push(Work::Accept(event));
                events += 1;
            }
            let begun = Instant::now();
            let done = self.store.commit(self.node, &work).await?;
            busy += begun.elapsed();
            let new = done.iter().all(|done| !matches!(done, Done::Stale | Done::Accepted { duplicate: true, .. }));
            ensure!(new, "a commit was not taken as it was meant");
        }
        Ok(f64::from(events) / busy.as_secs_f64())
    }

    fn event(&mut self) -> (NewEvent, Option<Delivery>) {
        self.number += 1;
        let now_ms = self.clock.now_ms();
        let name = format!("{:08x}-{:012x}", self.node, self.number);
        let event = Arc::new(Event {
            id: EventId(self.ids.next(now_ms)),
            source: "bench".into(),
            event_type: "lead.created".into(),
            created_ms: now_ms,
            content_type: "application/json".into(),
            headers: Vec::new(),
            payload: load::body(&name).into(),
            parent: None,
            content: Content::Clear,
        });
        let id = DeliveryId(event.id.0 + 1);
        let (endpoint, route, queue, priority) = (1, 1, 1, 0);
        let new = NewDelivery { id, endpoint, route, queue, priority, ordering: None, place: Place::Memory };
        let delivery = Delivery {
            id,
            event: event.clone(),
            endpoint,
            route,
            queue,
            priority,
            ordering: None,
            tries: 0,
            charged: 0,
        };
        let deliveries = if self.delivers { vec![new] } else { Vec::new() };
        let key = Key::id("bench", &name);
        let new = NewEvent { event, key, deliveries, sealed: None, subjects: Vec::new() };
        (new, self.delivers.then_some(delivery))
    }
}

/// A delivery that went well.
fn settled(delivery: Delivery) -> Work {
    let attempt = Attempt {
        started_ms: delivery.event.created_ms,
        duration_us: 1000,
        outcome: Outcome::Delivered,
        http_status: Some(200),
        code: None,
        message: None,
        retry_after_ms: None,
        connector_version: Some(1),
        mapping_version: Some(2),
        mapping_id: Some(1),
        log: None,
        sealed: None,
    };
    Work::Settle(Box::new(Settlement {
        delivery,
        next: Next::Delivered,
        charge: true,
        attempt: Some(attempt),
        emitted: Vec::new(),
        sync: None,
    }))
}
