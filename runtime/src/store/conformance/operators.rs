//! What operators look at, and have done once more.

use super::*;

/// Ids of a listing.
async fn found(bench: &Bench, filter: EventFilter) -> Vec<i64> {
    let rows = bench.store.events(&filter).await.expect("a listing");
    rows.iter().map(|row| (row.id.0 >> 21) - START_MS as i64).collect()
}

fn all() -> EventFilter {
    EventFilter { limit: 100, ..Default::default() }
}

pub(super) async fn events_are_listed_by_each_filter(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let parent = DeliveryId(id(1).0 + 1);
    let mut routed = event(1, "1");
    assert_eq!(owe(&mut routed, endpoint, Place::Table), parent);
    let events = vec![
        routed,
        with(event(2, "2"), |event| event.source = "crm".into()),
        with(event(3, "3"), |event| event.event_type = "lead.lost".into()),
        with(event(4, "4"), |event| event.parent = Some(parent)),
        with(event(5, "5"), |event| event.parent = Some(DeliveryId(parent.0 + 1))),
        with(owed(6, endpoint), |event| (event.source, event.event_type) = ("crm".into(), "lead.lost".into())),
    ];
    bench.accept(events).await;
    assert_eq!(found(bench, all()).await, [6, 5, 4, 3, 2, 1]);
    assert_eq!(found(bench, EventFilter { limit: 2, ..all() }).await, [6, 5]);
    assert_eq!(found(bench, EventFilter { before: Some(id(5)), limit: 2, ..all() }).await, [4, 3]);
    assert_eq!(found(bench, EventFilter { before: Some(id(1)), ..all() }).await, [0; 0]);
    assert_eq!(found(bench, EventFilter { event_type: Some("lead.lost".into()), ..all() }).await, [6, 3]);
    assert_eq!(found(bench, EventFilter { event_type: Some("LEAD.LOST".into()), ..all() }).await, [0; 0]);
    assert_eq!(found(bench, EventFilter { source: Some("crm".into()), ..all() }).await, [6, 2]);
    assert_eq!(found(bench, EventFilter { source: Some("CRM".into()), ..all() }).await, [0; 0]);
    assert_eq!(found(bench, EventFilter { source: Some("c'rm%".into()), ..all() }).await, [0; 0]);
    assert_eq!(found(bench, EventFilter { unrouted: true, ..all() }).await, [5, 4, 3, 2]);
    assert_eq!(found(bench, EventFilter { parent: Some(parent), ..all() }).await, [4]);
    let together = EventFilter {
        event_type: Some("lead.created".into()),
        source: Some("site".into()),
        unrouted: true,
        before: Some(id(5)),
        ..all()
    };
    assert_eq!(found(bench, together).await, [4]);
    assert_eq!(found(bench, EventFilter { limit: 0, ..all() }).await, [0; 0]);
    let row = &bench.store.events(&EventFilter { parent: Some(parent), ..all() }).await.unwrap()[0];
    assert_eq!((&*row.source, &*row.event_type, row.created_ms), ("site", "lead.created", START_MS + 4));
    assert_eq!((row.parent, row.unrouted, row.content), (Some(parent), true, ContentState::Clear));
    assert_eq!(bench.store.newest_event().await.unwrap(), Some(id(6)));
}

pub(super) async fn an_event_shows_all_that_came_of_it(bench: &Bench) {
    let [endpoint, other] = bench.endpoints(["crm", "erp"]).await;
    let mut new = event(1, "a");
    let to_crm = owe(&mut new, endpoint, Place::Table);
    let to_erp = owe(&mut new, other, Place::Table);
    bench.put(new).await;
    let first = bench.claim_one(endpoint).await;
    let mut child = with(event(2, "b"), |event| event.parent = Some(to_crm));
    owe(&mut child, other, Place::Held);
    let emitted = vec![child, with(event(3, "c"), |event| event.parent = Some(to_crm))];
    bench.settle(Settlement { emitted, ..settlement(first, Next::Delivered, Outcome::Delivered) }).await;
    let second = bench.claim_one(other).await;
    bench.settle(settlement(second, Next::Retry(START_MS + 1), Outcome::TimedOut)).await;
    let second = bench.store.promote(bench.node, START_MS + 1, 1).await.unwrap().deliveries.remove(0);
    bench.settle(settlement(second, Next::Retry(START_MS + 2), Outcome::Trapped)).await;

    let detail = bench.store.event(id(1)).await.unwrap();
    let attempts: Vec<_> = detail.attempts.iter().map(|row| (row.delivery, row.number, row.outcome)).collect();
    assert_eq!(
        attempts,
        [(to_crm, 1, Outcome::Delivered), (to_erp, 1, Outcome::TimedOut), (to_erp, 2, Outcome::Trapped)]
    );
    assert_eq!(detail.children.iter().map(|row| row.id).collect::<Vec<_>>(), [id(2), id(3)]);
    assert_eq!((detail.children[0].unrouted, detail.children[0].deliveries[0].status), (false, Status::Held));
    let deliveries = &detail.row.deliveries;
    assert_eq!((deliveries[1].status, deliveries[1].tries), (Status::Waiting, 2));
    assert_eq!(deliveries[1].next_retry_ms, Some(START_MS + 2));
    assert_not_found(bench.store.event(EventId(id(1).0 + 1)).await);
}

pub(super) async fn dead_letters_are_listed_newest_first(bench: &Bench) {
    let [endpoint, other] = bench.endpoints(["crm", "erp"]).await;
    let mut dead = Vec::new();
    for (at, to) in [(1, endpoint), (2, other), (3, endpoint)] {
        dead.push(bench.settled(at, to, Next::Dead, Outcome::MappingFailed).await.1);
    }
    let list = async |filter| {
        let rows = bench.store.dead_letters(&filter).await.unwrap();
        rows.iter().map(|row| row.delivery).collect::<Vec<_>>()
    };
    let any = || DeadLetterFilter { limit: 10, ..Default::default() };
    assert_eq!(list(any()).await, [dead[2], dead[1], dead[0]]);
    assert_eq!(list(DeadLetterFilter { limit: 1, ..any() }).await, [dead[2]]);
    assert_eq!(list(DeadLetterFilter { before: Some(dead[2]), ..any() }).await, [dead[1], dead[0]]);
    assert_eq!(list(DeadLetterFilter { endpoint: Some(endpoint), ..any() }).await, [dead[2], dead[0]]);
    let row = &bench.store.dead_letters(&DeadLetterFilter { endpoint: Some(other), ..any() }).await.unwrap()[0];
    assert_eq!((row.event, &*row.event_type, row.endpoint), (id(2), "lead.created", other));
    assert_eq!((row.reason, row.http_status, &row.code), (Outcome::MappingFailed, None, &None));
}

pub(super) async fn what_is_over_is_replayed_and_what_is_under_way_is_not(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    assert_not_found(bench.store.replay(DeliveryId(7)).await);
    for (at, next) in [Next::Dead, Next::Delivered, Next::Skipped, Next::Held].into_iter().enumerate() {
        let (event, delivery) = bench.settled(at as i64, endpoint, next, Outcome::Rejected).await;
        bench.store.replay(delivery).await.unwrap();
        assert_eq!(bench.statuses(event).await, [Status::Owed]);
        assert_conflict(bench.store.replay(delivery).await);
        let again = bench.claim_one(endpoint).await;
        assert_eq!((again.id, again.tries, again.charged), (delivery, 1, 0), "its attempts stay, its charge does not");
        assert_conflict(bench.store.replay(delivery).await);
        bench.settle(settlement(again, Next::Retry(START_MS), Outcome::Transient)).await;
        assert_conflict(bench.store.replay(delivery).await);
        assert_eq!(bench.store.promote(bench.node, START_MS, 10).await.unwrap().deliveries.len(), 1);
        assert_eq!(bench.store.event(event).await.unwrap().attempts.len(), 2);
    }
    let dead = bench.store.dead_letters(&DeadLetterFilter { limit: 10, ..Default::default() }).await.unwrap();
    assert!(dead.is_empty(), "one that is owed again is no dead letter");
}

pub(super) async fn dead_letters_are_replayed_oldest_first(bench: &Bench) {
    let [endpoint, other] = bench.endpoints(["crm", "erp"]).await;
    let mut dead = Vec::new();
    for (at, to) in [(1, endpoint), (2, other), (3, endpoint), (4, endpoint)] {
        dead.push(bench.settled(at, to, Next::Dead, Outcome::Rejected).await.1);
    }
    assert_eq!(bench.store.replay_dead(Some(endpoint), 2).await.unwrap(), 2);
    assert_eq!(ids(&bench.claim(endpoint, 10).await), [dead[0], dead[2]]);
    assert_eq!(bench.store.replay_dead(None, 10).await.unwrap(), 2);
    assert_eq!(ids(&bench.claim(endpoint, 10).await), [dead[3]]);
    assert_eq!(ids(&bench.claim(other, 10).await), [dead[1]]);
    assert_eq!(bench.store.replay_dead(None, 10).await.unwrap(), 0);
}

/// It can be asked for twice, by two people.
pub(super) async fn at_the_same_time_it_is_replayed_once(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let (store, _) = bench.other().await;
    let mut sum = 0;
    for round in 0..5 {
        let (_, delivery) = bench.settled(round, endpoint, Next::Dead, Outcome::Rejected).await;
        let (one, other) = tokio::join!(bench.store.replay(delivery), store.replay(delivery));
        assert_eq!(u32::from(one.is_ok()) + u32::from(other.is_ok()), 1, "{one:?} {other:?}");
        assert_conflict(if one.is_ok() { other } else { one });
        sum += bench.claim(endpoint, 10).await.len();
    }
    assert_eq!(sum, 5);
    let numbers: Vec<i64> = (10..40).collect();
    for number in &numbers {
        bench.settled(*number, endpoint, Next::Dead, Outcome::Rejected).await;
    }
    let (one, other) = tokio::join!(bench.store.replay_dead(None, 20), store.replay_dead(None, 20));
    let rest = bench.store.replay_dead(None, 100).await.unwrap();
    assert_eq!(one.unwrap() + other.unwrap() + rest, 30);
    assert_eq!(bench.claim(endpoint, 100).await.len(), 30);
}

pub(super) async fn what_is_unfinished_is_counted(bench: &Bench) {
    let [endpoint, other] = bench.endpoints(["crm", "erp"]).await;
    assert!(bench.store.unfinished().await.unwrap().is_empty());
    let ends = [
        (Next::Dead, endpoint),
        (Next::Dead, endpoint),
        (Next::Held, endpoint),
        (Next::Delivered, endpoint),
        (Next::Skipped, other),
        (Next::Retry(START_MS), other),
    ];
    for (at, (next, to)) in ends.into_iter().enumerate() {
        bench.settled(at as i64, to, next, Outcome::Transient).await;
    }
    bench.accept(vec![owed(20, endpoint), owed(21, endpoint), owed(22, endpoint)]).await;
    bench.claim(endpoint, 1).await;
    let mut counts = bench.store.unfinished().await.unwrap();
    counts.sort_unstable();
    let mut expected = [(endpoint, 0, 3), (endpoint, 4, 2), (endpoint, 5, 1), (other, 1, 1)];
    expected.sort_unstable();
    assert_eq!(counts, expected);
}
