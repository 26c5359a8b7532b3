//! Tries that may not be repeated: on record before they begin, and dead letters when nobody ended them.

use super::*;

pub(super) async fn a_try_is_on_record_before_it_ends(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    bench.put(owed(1, endpoint)).await;
    let delivery = bench.claim_one(endpoint).await;
    assert_eq!(bench.commit(vec![begin(&delivery)]).await, [Done::Begun]);
    let attempts = bench.store.event(id(1)).await.unwrap().attempts;
    assert_eq!((attempts.len(), attempts[0].outcome, attempts[0].number), (1, Outcome::Interrupted, 1));
    assert_eq!((attempts[0].started_ms, attempts[0].duration_us), (START_MS + 500, 0));
    // Once more, after it was seen to be impossible and tried again.
    assert_eq!(bench.commit(vec![begin(&delivery)]).await, [Done::Begun]);
    let settled = bench.settle(settlement(delivery, Next::Delivered, Outcome::Delivered)).await;
    assert_eq!(settled, Done::Settled { emitted: vec![] });
    let attempts = bench.store.event(id(1)).await.unwrap().attempts;
    assert_eq!((attempts.len(), attempts[0].outcome, attempts[0].number), (1, Outcome::Delivered, 1));
}

pub(super) async fn only_the_holder_begins(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let (store, other) = bench.other().await;
    bench.accept(vec![owed(1, endpoint), owed(2, endpoint)]).await;
    let [mine, free] = &bench.claim(endpoint, 10).await[..] else { panic!("two are owed") };
    bench.settle(settlement(free.clone(), Next::Held, Outcome::Unauthorized)).await;
    assert_eq!(store.commit(other, &[begin(mine)]).await.unwrap(), [Done::Stale]);
    assert_eq!(
        bench.commit(vec![begin(free), begin(mine), begin(free)]).await,
        [Done::Stale, Done::Begun, Done::Stale]
    );
    assert_eq!(bench.store.event(id(2)).await.unwrap().attempts[0].outcome, Outcome::Unauthorized);
}

/// Nobody knows whether the target took it.
pub(super) async fn one_that_never_ended_is_a_dead_letter(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    bench.accept(vec![owed(1, endpoint), owed(2, endpoint), owed(3, endpoint)]).await;
    let claimed = bench.claim(endpoint, 10).await;
    bench.commit(vec![begin(&claimed[0])]).await;
    // The second one was begun, ended, and is claimed again: what was is over.
    bench.commit(vec![begin(&claimed[1])]).await;
    bench.settle(settlement(claimed[1].clone(), Next::Retry(START_MS), Outcome::Transient)).await;
    assert_eq!(bench.store.promote(bench.node, START_MS, 10).await.unwrap().deliveries.len(), 1);
    bench.store.leave(bench.node, START_MS + 9000).await.unwrap();
    assert_eq!(bench.statuses(id(1)).await, [Status::Dead]);
    assert_eq!(bench.statuses(id(2)).await, [Status::Owed]);
    assert_eq!(bench.statuses(id(3)).await, [Status::Owed]);
    let dead = bench.store.dead_letters(&DeadLetterFilter { limit: 10, ..Default::default() }).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].event, dead[0].reason, dead[0].endpoint), (id(1), Outcome::Interrupted, endpoint));
    assert_eq!(
        (dead[0].code.as_deref(), dead[0].created_ms, dead[0].tries),
        (Some("outcome-unknown"), START_MS + 9000, 1)
    );
    assert!(dead[0].message.as_ref().is_some_and(|message| message.contains("replay")));
    let attempt = &bench.store.event(id(1)).await.unwrap().attempts[0];
    assert_eq!((attempt.outcome, attempt.code.as_deref()), (Outcome::Interrupted, Some("outcome-unknown")));
    // A person may have it tried again, and it may be left in the middle again.
    let (store, node) = bench.other().await;
    store.replay(claimed[0].id).await.unwrap();
    let again = store.claim(node, endpoint, 1).await.unwrap().remove(0);
    assert_eq!((again.id, again.tries, again.charged), (claimed[0].id, 1, 0));
    assert_eq!(store.commit(node, &[begin(&again)]).await.unwrap(), [Done::Begun]);
    let (_, _, freed) = bench.take_over(node, START_MS + 10_000).await;
    assert_eq!(freed, 0, "it did not go back");
    let dead = bench.store.dead_letters(&DeadLetterFilter { limit: 10, ..Default::default() }).await.unwrap();
    assert_eq!((dead.len(), dead[0].tries, dead[0].created_ms), (1, 2, START_MS + 10_000));
    assert_eq!(bench.store.event(id(1)).await.unwrap().attempts.len(), 2);
}
