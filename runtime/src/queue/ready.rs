//! The order in which a queue's deliveries start: higher priority first, and within a priority the endpoints take
//! turns, so that a thousand deliveries to one do not stand before a single one to another.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};

use super::gate::Entry;
use crate::delivery::Delivery;

#[derive(Default)]
pub(crate) struct Ready {
    levels: BTreeMap<Reverse<i8>, Level>,
    len: usize,
}

#[derive(Default)]
struct Level {
    /// Endpoints with something in their lane, the next one in front.
    turns: VecDeque<i64>,
    lanes: HashMap<i64, VecDeque<Delivery>>,
}

/// What a look into the queue brought.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) start: Vec<Delivery>,
    /// Their endpoint is paused: to be put aside.
    pub(crate) hold: Vec<Delivery>,
    /// When it is worth to look again, though nothing new came in.
    pub(crate) again_ms: Option<u64>,
}

impl Ready {
    pub(crate) fn push(&mut self, delivery: Delivery) {
        let level = self.levels.entry(Reverse(delivery.priority)).or_default();
        let lane = level.lanes.entry(delivery.endpoint).or_default();
        if lane.is_empty() {
            level.turns.push_back(delivery.endpoint);
        }
        lane.push_back(delivery);
        self.len += 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes out whatever `gone` says, whether it may start or not.
    pub(crate) fn remove(&mut self, gone: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let mut removed = Vec::new();
        self.levels.retain(|_, level| {
            level.lanes.retain(|_, lane| {
                let (out, kept) = std::mem::take(lane).into_iter().partition::<VecDeque<_>, _>(&gone);
                *lane = kept;
                removed.extend(out);
                !lane.is_empty()
            });
            let lanes = &level.lanes;
            level.turns.retain(|endpoint| lanes.contains_key(endpoint));
            !level.turns.is_empty()
        });
        self.len -= removed.len();
        removed
    }

    /// Takes up to `max` deliveries whose endpoints let them in. `enter` is asked once for each that is taken; a
    /// refused endpoint keeps its place for the next look.
    pub(crate) fn take(&mut self, max: usize, mut enter: impl FnMut(i64) -> Entry) -> Taken {
        let mut taken = Taken::default();
        self.levels.retain(|_, level| {
            let mut refused = 0;
            while taken.start.len() < max && refused < level.turns.len() {
                let Some(endpoint) = level.turns.pop_front() else { break };
                let Some(lane) = level.lanes.get_mut(&endpoint) else { continue };
                match enter(endpoint) {
                    Entry::Enter => {
                        refused = 0;
                        taken.start.extend(lane.pop_front());
                    }
                    Entry::Busy => refused += 1,
                    Entry::Until(at_ms) => {
                        refused += 1;
                        taken.again_ms = Some(taken.again_ms.map_or(at_ms, |known| known.min(at_ms)));
                    }
                    Entry::Paused => taken.hold.extend(lane.drain(..)),
                }
                if lane.is_empty() {
                    level.lanes.remove(&endpoint);
                } else {
                    level.turns.push_back(endpoint);
                }
            }
            !level.turns.is_empty()
        });
        self.len -= taken.start.len() + taken.hold.len();
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{DeliveryId, Event, EventId};

    fn delivery(id: i64, endpoint: i64, priority: i8) -> Delivery {
        let event = Event {
            id: EventId(id),
            source: "test".into(),
            event_type: "test".into(),
            created_ms: 0,
            content_type: "application/json".into(),
            headers: Vec::new(),
            payload: Default::default(),
            parent: None,
            content: crate::event::Content::Clear,
        };
        let (event, id) = (Arc::new(event), DeliveryId(id));
        Delivery { id, event, endpoint, route: 1, queue: 1, priority, ordering: None, tries: 0, charged: 0 }
    }

    fn ids(taken: &Taken) -> Vec<i64> {
        taken.start.iter().map(|d| d.id.0).collect()
    }

    #[test]
    fn endpoints_take_turns_and_priority_goes_first() {
        let mut ready = Ready::default();
        for id in 1..=5 {
            ready.push(delivery(id, 1, 0));
        }
        ready.push(delivery(6, 2, 0));
        ready.push(delivery(7, 1, 10));
        assert_eq!(ids(&ready.take(4, |_| Entry::Enter)), [7, 1, 6, 2]);
        assert_eq!(ids(&ready.take(9, |_| Entry::Enter)), [3, 4, 5]);
        assert_eq!(ready.len(), 0);
    }

    #[test]
    fn a_refused_endpoint_does_not_stop_the_others() {
        let mut ready = Ready::default();
        for id in 1..=3 {
            ready.push(delivery(id, 1, 0));
        }
        ready.push(delivery(4, 2, 0));
        let gate = |endpoint| if endpoint == 1 { Entry::Until(500) } else { Entry::Enter };
        let taken = ready.take(9, gate);
        assert_eq!((ids(&taken), taken.again_ms, ready.len()), (vec![4], Some(500), 3));
        let taken = ready.take(9, |_| Entry::Paused);
        assert_eq!((taken.hold.len(), ready.len()), (3, 0));
    }
}
