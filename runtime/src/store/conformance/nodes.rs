//! A node's life: what it holds, and where that goes.

use super::*;

pub(super) async fn each_start_is_a_node_of_its_own(bench: &Bench) {
    let (first, _) = bench.store.join("test", START_MS).await.unwrap();
    let (second, _) = bench.store.join("test", START_MS).await.unwrap();
    assert!(bench.node > 0 && first > bench.node && second > first, "{} {first} {second}", bench.node);
}

pub(super) async fn what_a_node_held_is_owed_to_all_when_it_leaves(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let mut in_memory = event(1, "a");
    owe(&mut in_memory, endpoint, Place::Memory);
    let mut delayed = event(3, "c");
    owe(&mut delayed, endpoint, Place::Delayed(START_MS));
    bench.accept(vec![in_memory, owed(2, endpoint), delayed]).await;
    let claimed = bench.claim_one(endpoint).await;
    assert_eq!(bench.store.promote(bench.node, START_MS, 10).await.unwrap().deliveries.len(), 1);
    assert!(bench.store.backlog().await.unwrap().is_empty());
    bench.store.leave(bench.node, START_MS + 1).await.unwrap();
    assert_eq!(bench.store.backlog().await.unwrap(), [endpoint]);
    let (store, node) = bench.other().await;
    let again = store.claim(node, endpoint, 10).await.unwrap();
    assert_eq!(again.iter().map(|delivery| delivery.event.id).collect::<Vec<_>>(), [1, 2, 3].map(id));
    assert_eq!(again[1].id, claimed.id);
    // Leaving twice takes nothing from others.
    store.leave(bench.node, START_MS + 2).await.unwrap();
    assert!(store.backlog().await.unwrap().is_empty());
}

/// A commit that is under way when its node's number ends, as one whose answer was lost: what it brings goes back as well.
pub(super) async fn what_a_commit_brings_that_is_under_way_goes_back_too(bench: &Bench) {
    if !bench.store.is_shared() {
        return;
    }
    let [endpoint] = bench.endpoints(["crm"]).await;
    bench.accept(vec![owed(1, endpoint)]).await;
    let (store, node) = bench.other().await;
    // It has the number, as every commit does, and ends a little later.
    let sleep = if bench.kind == Kind::Postgres { "pg_sleep" } else { "sleep" };
    let commit = format!(
        "begin; select id from nodes where id = {node} and left_at is null for update; \
         update webhook_deliveries set node_id = {node} where exists \
         (select 1 from nodes where id = {node} and left_at is null); select {sleep}(1); commit"
    );
    let database = bench.database.as_ref().expect("one on a server");
    let leave = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        store.leave(node, START_MS + 1).await.unwrap();
    };
    tokio::join!(database.run(commit), leave);
    assert_eq!(bench.claim(endpoint, 10).await.len(), 1);
}

/// What a node that is gone held goes back, and what had ended stays as it is.
pub(super) async fn what_a_node_that_is_gone_held_goes_back(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    bench.accept((0..6).map(|number| owed(number, endpoint)).collect()).await;
    let claimed = bench.claim(endpoint, 5).await;
    bench.settle(settlement(claimed[0].clone(), Next::Delivered, Outcome::Delivered)).await;
    bench.settle(settlement(claimed[1].clone(), Next::Retry(START_MS + 7), Outcome::Transient)).await;
    bench.settle(settlement(claimed[2].clone(), Next::Held, Outcome::Unauthorized)).await;
    let (store, node, freed) = bench.take_over(bench.node, START_MS + 1).await;
    assert_eq!(freed, 2);
    let again = store.claim(node, endpoint, 10).await.unwrap();
    assert_eq!(again.iter().map(|delivery| delivery.event.id).collect::<Vec<_>>(), [3, 4, 5].map(id));
    assert_eq!(again[0].tries, 0);
    for (number, status) in [(0, Status::Delivered), (1, Status::Waiting), (2, Status::Held)] {
        assert_eq!(bench.statuses(id(number)).await, [status]);
    }
    assert_eq!(bench.store.next_due().await.unwrap(), Some(START_MS + 7));
}

/// A number counts no longer once it was taken over: not to commit, nor to claim, nor to promote.
pub(super) async fn a_node_that_was_taken_over_is_fenced(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    bench.accept(vec![owed(1, endpoint)]).await;
    let held = bench.claim_one(endpoint).await;
    let (store, node, freed) = bench.take_over(bench.node, START_MS + 1).await;
    assert_eq!(freed, 1);
    let late = Work::Settle(Box::new(settlement(held.clone(), Next::Delivered, Outcome::Delivered)));
    if !store.is_shared() {
        // Whoever held it ended with its process.
        assert_eq!(store.commit(bench.node, &[late]).await.unwrap(), [Done::Stale]);
        return;
    }
    let fenced = |error: StoreError| matches!(error, StoreError::Fenced);
    assert!(fenced(bench.store.commit(bench.node, &[late]).await.unwrap_err()));
    assert!(fenced(bench.store.commit(bench.node, &[Work::Accept(event(2, "b"))]).await.unwrap_err()));
    assert!(fenced(bench.store.claim(bench.node, endpoint, 1).await.unwrap_err()));
    assert!(fenced(bench.store.promote(bench.node, START_MS + 9000, 1).await.unwrap_err()));
    assert!(fenced(bench.store.renew(bench.node, "{}").await.unwrap_err()));
    assert_eq!(store.claim(node, endpoint, 10).await.unwrap()[0].id, held.id);
    // It joins anew, and what it held before is not its own.
    let (anew, _) = bench.store.join("test", START_MS + 2).await.unwrap();
    let late = Work::Settle(Box::new(settlement(held, Next::Delivered, Outcome::Delivered)));
    assert_eq!(bench.store.commit(anew, &[late]).await.unwrap(), [Done::Stale]);
}

pub(super) async fn a_node_that_renews_its_lease_is_there(bench: &Bench) {
    let (store, node) = bench.other().await;
    store.renew(node, r#"{"crm":7}"#).await.unwrap();
    store.renew(node, r#"{"crm":8}"#).await.unwrap();
    let nodes = store.nodes().await.unwrap();
    let other = nodes.iter().find(|row| row.id == node).unwrap();
    assert_eq!((other.started_ms, other.running.as_str()), (START_MS, r#"{"crm":8}"#));
    let lease_ms = LEASE.as_millis() as i64;
    assert!(other.lease_ms > lease_ms / 2 && other.lease_ms <= lease_ms, "{}", other.lease_ms);
    assert!(store.reap(START_MS).await.unwrap().is_empty());
    store.leave(node, START_MS + 1).await.unwrap();
    assert!(!store.nodes().await.unwrap().iter().any(|row| row.id == node));
    assert!(matches!(store.renew(node, "").await.unwrap_err(), StoreError::Fenced));
}

/// Whatever every node holds in memory counts as a change, and nothing else does.
pub(super) async fn changes_are_counted(bench: &Bench) {
    let store = &*bench.store;
    let before = store.revision().await.unwrap();
    let [endpoint] = bench.endpoints(["crm"]).await;
    let catalog = store.revision().await.unwrap();
    assert!(catalog > before);
    bench.settled(1, endpoint, Next::Delivered, Outcome::Delivered).await;
    assert_eq!(store.revision().await.unwrap(), catalog);
    store.pause(endpoint, Some("for a test")).await.unwrap();
    let paused = store.revision().await.unwrap();
    assert!(paused > catalog);
    store.put_secret("token", b"hunter2", START_MS, START_MS).await.unwrap();
    assert!(store.revision().await.unwrap() > paused);
    let secret = store.revision().await.unwrap();
    store.pause(endpoint, None).await.unwrap();
    assert!(store.revision().await.unwrap() > secret);
}
