//! Who gets what next: best first, in order where there is one, and nobody twice.

use std::collections::HashSet;

use super::*;

pub(super) async fn the_best_are_claimed_first(bench: &Bench) {
    let [endpoint, other] = bench.endpoints(["crm", "erp"]).await;
    let priorities = [0, -128, 127, 0, 5, 127, -1];
    let mut expected = Vec::new();
    let mut events = Vec::new();
    for (at, priority) in priorities.into_iter().enumerate() {
        let mut new = event(at as i64, &format!("{at}"));
        expected.push((-i64::from(priority), owe(&mut new, endpoint, Place::Table)));
        new.deliveries[0].priority = priority;
        owe(&mut new, other, Place::Table);
        events.push(new);
    }
    bench.accept(events).await;
    expected.sort_unstable();
    let expected: Vec<DeliveryId> = expected.into_iter().map(|(_, delivery)| delivery).collect();
    assert_eq!(
        bench.store.backlog().await.unwrap().into_iter().collect::<HashSet<_>>(),
        HashSet::from([endpoint, other])
    );
    let claimed = bench.claim(endpoint, 3).await;
    assert_eq!(ids(&claimed), expected[..3]);
    assert_eq!((claimed[0].endpoint, claimed[0].route, claimed[0].queue, claimed[0].priority), (endpoint, 1, 1, 127));
    assert_eq!((claimed[0].tries, claimed[0].charged, claimed[0].ordering), (0, 0, None));
    let event = &claimed[0].event;
    assert_eq!((event.id, &*event.source, &*event.event_type), (id(2), "site", "lead.created"));
    assert_eq!((event.created_ms, &*event.content_type), (START_MS + 2, "application/json"));
    assert_eq!(event.payload, "{\"number\":2}");
    assert_eq!(ids(&bench.claim(endpoint, 100).await), expected[3..]);
    assert!(bench.claim(endpoint, 100).await.is_empty());
    assert_eq!(bench.store.backlog().await.unwrap(), [other]);
    assert_eq!(bench.claim(other, 100).await.len(), 7);
    assert!(bench.store.backlog().await.unwrap().is_empty());
}

/// Of deliveries with the same key the one before has to be over.
pub(super) async fn an_ordering_key_lets_one_through_at_a_time(bench: &Bench) {
    let [endpoint, other] = bench.endpoints(["crm", "erp"]).await;
    let keys = [Some(1), Some(1), Some(i64::MIN), Some(1), Some(i64::MIN), None, Some(i64::MAX)];
    let mut deliveries = Vec::new();
    let mut events = Vec::new();
    for (at, key) in keys.into_iter().enumerate() {
        let mut new = event(at as i64, &format!("{at}"));
        deliveries.push(owe(&mut new, endpoint, Place::Table));
        new.deliveries[0].ordering = key;
        // A later one may be more important, and waits all the same.
        new.deliveries[0].priority = if at == 3 { 100 } else { 0 };
        events.push(new);
    }
    // The same key of another endpoint is another order.
    owe(&mut events[1], other, Place::Table);
    events[1].deliveries[1].ordering = Some(1);
    bench.accept(events).await;
    let claimed = bench.claim(endpoint, 100).await;
    assert_eq!(ids(&claimed), [0, 2, 5, 6].map(|at: usize| deliveries[at]));
    assert_eq!(claimed[1].ordering, Some(i64::MIN));
    assert_eq!(bench.claim(other, 100).await.len(), 1);
    assert!(bench.claim(endpoint, 100).await.is_empty());
    // Waiting and held ones stand in the way as well.
    let [first, minimum] = [claimed[0].clone(), claimed[1].clone()];
    bench.settle(settlement(first, Next::Retry(START_MS + 1), Outcome::Transient)).await;
    bench.settle(settlement(minimum, Next::Held, Outcome::Unauthorized)).await;
    assert!(bench.claim(endpoint, 100).await.is_empty());
    let promoted = bench.store.promote(bench.node, START_MS + 1, 10).await.unwrap();
    assert!(promoted.deliveries.is_empty());
    assert_eq!(promoted.to_table, [endpoint], "the claim keeps the order");
    let first = bench.claim_one(endpoint).await;
    assert_eq!((first.id, first.tries), (deliveries[0], 1));
    bench.settle(settlement(first, Next::Dead, Outcome::Rejected)).await;
    let second = bench.claim_one(endpoint).await;
    assert_eq!(second.id, deliveries[1], "a dead letter stands in nobody's way");
    bench.settle(settlement(second, Next::Delivered, Outcome::Delivered)).await;
    assert_eq!(bench.claim_one(endpoint).await.id, deliveries[3]);
    bench.store.pause(endpoint, None).await.unwrap();
    assert_eq!(bench.claim_one(endpoint).await.id, deliveries[2]);
}

pub(super) async fn what_is_due_is_promoted_in_its_order(bench: &Bench) {
    let [endpoint, other] = bench.endpoints(["crm", "erp"]).await;
    assert_eq!(bench.store.next_due().await.unwrap(), None);
    assert!(bench.store.promote(bench.node, START_MS, 10).await.unwrap().deliveries.is_empty());
    let due = [50, 10, 40, 20, 30];
    let mut expected = Vec::new();
    let mut events = Vec::new();
    for (at, due) in due.into_iter().enumerate() {
        let mut new = event(at as i64, &format!("{at}"));
        let to = if at % 2 == 0 { endpoint } else { other };
        expected.push((due, owe(&mut new, to, Place::Delayed(START_MS + due))));
        events.push(if at == 3 { bench.seal(new) } else { new });
    }
    bench.accept(events).await;
    expected.sort_unstable();
    let expected: Vec<DeliveryId> = expected.into_iter().map(|(_, delivery)| delivery).collect();
    assert_eq!(bench.store.next_due().await.unwrap(), Some(START_MS + 10));
    assert!(bench.store.promote(bench.node, START_MS + 9, 10).await.unwrap().deliveries.is_empty());
    let first = bench.store.promote(bench.node, START_MS + 40, 2).await.unwrap();
    assert_eq!(ids(&first.deliveries), expected[..2], "those that are due first");
    assert!(first.to_table.is_empty());
    assert_eq!(bench.store.next_due().await.unwrap(), Some(START_MS + 30));
    let second = bench.store.promote(bench.node, START_MS + 40, 10).await.unwrap();
    assert_eq!(ids(&second.deliveries), expected[2..4]);
    assert_eq!(first.deliveries[1].event.payload, "{\"number\":3}", "opened");
    assert_eq!(bench.store.next_due().await.unwrap(), Some(START_MS + 50));
    // They are this node's.
    assert!(bench.claim(endpoint, 10).await.is_empty() && bench.claim(other, 10).await.is_empty());
    for delivery in [first.deliveries, second.deliveries].concat() {
        assert_eq!(bench.statuses(delivery.event.id).await, [Status::Owed]);
        let done = bench.settle(settlement(delivery, Next::Delivered, Outcome::Delivered)).await;
        assert_eq!(done, Done::Settled { emitted: vec![] });
    }
}

pub(super) async fn a_retry_that_is_put_off_again_is_due_later(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    bench.put(owed(1, endpoint)).await;
    let mut delivery = bench.claim_one(endpoint).await;
    for round in 1..5 {
        let at_ms = START_MS + u64::from(round) * 100;
        bench.settle(settlement(delivery, Next::Retry(at_ms), Outcome::Transient)).await;
        assert_eq!(bench.store.next_due().await.unwrap(), Some(at_ms));
        let promoted = bench.store.promote(bench.node, at_ms, 10).await.unwrap();
        assert_eq!(bench.store.next_due().await.unwrap(), None);
        delivery = promoted.deliveries.into_iter().next().expect("it is due");
        assert_eq!((delivery.tries, delivery.charged), (round, round));
    }
}

/// Two nodes that claim from one endpoint at the same time: each delivery goes to one of them, and none is forgotten.
pub(super) async fn two_nodes_claim_nothing_twice(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let (store, other) = bench.other().await;
    let order = |new: &mut NewEvent, at: i64| new.deliveries[0].ordering = (at % 3 == 0).then_some(at % 10);
    for batch in 0..4 {
        let owed_at = |at: i64| {
            let mut new = owed(at, endpoint);
            order(&mut new, at);
            new
        };
        bench.accept((batch * 100..(batch + 1) * 100).map(owed_at).collect()).await;
    }
    let mut seen = HashSet::new();
    while seen.len() < 400 {
        let before = seen.len();
        let (mine, theirs) =
            tokio::join!(bench.store.claim(bench.node, endpoint, 16), store.claim(other, endpoint, 16));
        let (mine, theirs) = (mine.unwrap(), theirs.unwrap());
        let both: Vec<&Delivery> = mine.iter().chain(&theirs).collect();
        let mut ordered = HashSet::new();
        for delivery in &both {
            assert!(seen.insert(delivery.id), "{} was claimed twice", delivery.id);
            assert!(delivery.ordering.is_none_or(|key| ordered.insert(key)), "one of an order at a time");
        }
        for (store, node, claimed) in [(&bench.store, bench.node, mine), (&store, other, theirs)] {
            for delivery in claimed {
                let settled = [Work::Settle(Box::new(settlement(delivery, Next::Delivered, Outcome::Delivered)))];
                assert_eq!(store.commit(node, &settled).await.unwrap(), [Done::Settled { emitted: vec![] }]);
            }
        }
        assert!(seen.len() > before, "nobody got anything, and {before} of 400 are done");
    }
    assert!(bench.store.backlog().await.unwrap().is_empty());
}

pub(super) async fn two_nodes_promote_nothing_twice(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let (store, other) = bench.other().await;
    let delayed = |at: i64| {
        let mut new = event(at, &format!("{at}"));
        owe(&mut new, endpoint, Place::Delayed(START_MS + at as u64));
        new.deliveries[0].ordering = (at % 4 == 0).then_some(at);
        new
    };
    bench.accept((0..200).map(delayed).collect()).await;
    let (mut seen, mut to_table) = (HashSet::new(), 0);
    for _ in 0..50 {
        let promote =
            |store: Arc<dyn Store>, node| async move { store.promote(node, START_MS + 1000, 16).await.unwrap() };
        let (mine, theirs) = tokio::join!(promote(bench.store.clone(), bench.node), promote(store.clone(), other));
        to_table += mine.to_table.len() + theirs.to_table.len();
        for delivery in mine.deliveries.iter().chain(&theirs.deliveries) {
            assert!(seen.insert(delivery.id), "{} was promoted twice", delivery.id);
        }
    }
    assert_eq!((seen.len(), to_table), (150, 50));
    assert_eq!(bench.store.next_due().await.unwrap(), None);
    assert_eq!(bench.claim(endpoint, 1000).await.len(), 50);
}
