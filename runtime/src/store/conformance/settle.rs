//! How tries end: once, by whoever has the delivery, with what came of them.

use super::*;
use crate::seal::Place as Sealing;

pub(super) async fn each_end_is_what_it_says(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let ends = [
        (Next::Delivered, Outcome::Delivered, Status::Delivered),
        (Next::Skipped, Outcome::Skipped, Status::Skipped),
        (Next::Retry(START_MS + 9000), Outcome::Transient, Status::Waiting),
        (Next::Dead, Outcome::Rejected, Status::Dead),
        (Next::Held, Outcome::Unauthorized, Status::Held),
    ];
    for (at, (next, outcome, status)) in ends.into_iter().enumerate() {
        let (event, delivery) = bench.settled(at as i64, endpoint, next.clone(), outcome).await;
        let detail = bench.store.event(event).await.unwrap();
        let row = &detail.row.deliveries[0];
        assert_eq!((row.id, row.status, row.tries), (delivery, status, 1), "{next:?}");
        assert_eq!(row.next_retry_ms, if let Next::Retry(at_ms) = next { Some(at_ms) } else { None });
        assert_eq!(detail.attempts.len(), 1);
        assert_eq!((detail.attempts[0].outcome, detail.attempts[0].number), (outcome, 1));
    }
    assert!(bench.claim(endpoint, 10).await.is_empty());
    assert_eq!(bench.store.next_due().await.unwrap(), Some(START_MS + 9000));
    let dead = bench.store.dead_letters(&DeadLetterFilter { limit: 10, ..Default::default() }).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].event, dead[0].reason, dead[0].tries), (id(3), Outcome::Rejected, 1));
    assert_eq!(dead[0].created_ms, START_MS + 3500, "when the try ended");
}

pub(super) async fn a_try_is_kept_as_it_was(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let new = |digest: &str, kind| NewVersion {
        name: format!("the-{kind}"),
        kind,
        digest: digest.into(),
        manifest: "{}".into(),
        component: vec![1],
    };
    let connector = bench.store.put_version(&new("sha256:c", "connector"), true, START_MS).await.unwrap().id;
    let mapper = bench.store.put_version(&new("sha256:m", "mapping"), true, START_MS).await.unwrap().id;
    let change = CatalogChange { put_mappings: vec![("to-crm".into(), "{}".into())], ..Default::default() };
    bench.store.put_catalog(&change, START_MS).await.unwrap();
    let mapping = bench.store.catalog().await.unwrap().mappings[0].id;
    bench.put(owed(1, endpoint)).await;
    let delivery = bench.claim_one(endpoint).await;
    let full = Attempt {
        http_status: Some(599),
        code: Some("http-599".into()),
        message: Some(TEXTS.concat()),
        connector_version: Some(connector),
        mapping_version: Some(mapper),
        mapping_id: Some(mapping),
        log: Some("x".repeat(200 * 2048)),
        ..attempt(Outcome::Transient)
    };
    let settled = Settlement { attempt: Some(full), ..settlement(delivery, Next::Retry(START_MS), Outcome::Transient) };
    bench.settle(settled).await;
    let delivery = bench.store.promote(bench.node, START_MS, 10).await.unwrap().deliveries.remove(0);
    assert_eq!((delivery.tries, delivery.charged), (1, 1));
    // What is empty is not what is not there.
    let bare = Attempt {
        started_ms: 0,
        duration_us: 0,
        code: Some(String::new()),
        message: Some(String::new()),
        log: Some(String::new()),
        connector_version: Some(i64::MAX),
        ..attempt(Outcome::Interrupted)
    };
    let uncharged = Settlement {
        attempt: Some(bare),
        charge: false,
        ..settlement(delivery, Next::Retry(START_MS), Outcome::Interrupted)
    };
    bench.settle(uncharged).await;
    let delivery = bench.store.promote(bench.node, START_MS, 10).await.unwrap().deliveries.remove(0);
    assert_eq!((delivery.tries, delivery.charged), (2, 1));
    bench.settle(settlement(delivery, Next::Delivered, Outcome::Delivered)).await;

    let attempts = bench.store.event(id(1)).await.unwrap().attempts;
    assert_eq!(attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2, 3]);
    let [full, bare, last] = &attempts[..] else { panic!("three tries") };
    assert_eq!((full.started_ms, full.duration_us, full.http_status), (START_MS + 1000, 2_500_000, Some(599)));
    assert_eq!((full.code.as_deref(), full.message.as_deref()), (Some("http-599"), Some(&*TEXTS.concat())));
    assert_eq!(full.log.as_ref().map(String::len), Some(200 * 2048));
    assert_eq!(
        (full.connector_digest.as_deref(), full.mapping_digest.as_deref()),
        (Some("sha256:c"), Some("sha256:m"))
    );
    assert_eq!(full.mapping, Some(("to-crm".to_owned(), 1)));
    let empty = Some("");
    assert_eq!((bare.code.as_deref(), bare.message.as_deref(), bare.log.as_deref()), (empty, empty, empty));
    assert_eq!((bare.started_ms, bare.duration_us, bare.connector_digest.as_deref()), (0, 0, None));
    assert_eq!((last.code.as_deref(), last.message.as_deref(), last.log.as_deref()), (None, None, None));
    assert_eq!((last.http_status, &last.mapping), (None, &None));
}

/// What was said of a sealed event is sealed with its key.
pub(super) async fn what_was_said_of_a_sealed_event_opens(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    bench.accept(vec![bench.seal(owed(1, endpoint)), bench.seal(owed(2, endpoint))]).await;
    for delivery in bench.claim(endpoint, 10).await {
        let said = serde_json::json!({ "code": "no-such-person", "message": "São", "log": null }).to_string();
        let key = delivery.event.content.key().expect("a key");
        let sealed = key.seal(Sealing::Attempt { delivery: delivery.id.0, number: 1 }, random_bytes(), said.as_bytes());
        let attempt = Attempt { sealed: Some(sealed), ..attempt(Outcome::Rejected) };
        bench
            .settle(Settlement { attempt: Some(attempt), ..settlement(delivery, Next::Dead, Outcome::Rejected) })
            .await;
    }
    let attempt = &bench.store.event(id(1)).await.unwrap().attempts[0];
    assert_eq!((attempt.code.as_deref(), attempt.message.as_deref()), (Some("no-such-person"), Some("São")));
    assert_eq!(attempt.log, None);
    let dead = bench.store.dead_letters(&DeadLetterFilter { limit: 10, ..Default::default() }).await.unwrap();
    let said: Vec<_> = dead.iter().map(|row| (row.event, row.code.as_deref(), row.message.as_deref())).collect();
    let both = (Some("no-such-person"), Some("São"));
    assert_eq!(said, [(id(2), both.0, both.1), (id(1), both.0, both.1)]);
}

/// Nothing is changed by whoever does not have the delivery any more.
pub(super) async fn what_is_stale_changes_nothing(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let (store, other) = bench.other().await;
    bench.put(owed(1, endpoint)).await;
    let delivery = bench.claim_one(endpoint).await;
    let emitting = |delivery: &Delivery, number, key: &str| Settlement {
        emitted: vec![event(number, key)],
        ..settlement(delivery.clone(), Next::Delivered, Outcome::Delivered)
    };
    let stale = store.commit(other, &[Work::Settle(Box::new(emitting(&delivery, 10, "x")))]).await.unwrap();
    assert_eq!(stale, [Done::Stale]);
    assert_eq!(bench.statuses(id(1)).await, [Status::Owed]);
    assert!(bench.store.event(id(1)).await.unwrap().attempts.is_empty());
    assert_not_found(bench.store.event(id(10)).await);
    // Twice in one commit: the first one counts.
    let twice = vec![
        Work::Settle(Box::new(emitting(&delivery, 11, "y"))),
        Work::Settle(Box::new(emitting(&delivery, 12, "z"))),
    ];
    assert_eq!(bench.commit(twice).await, [Done::Settled { emitted: vec![true] }, Done::Stale]);
    assert_eq!(bench.settle(emitting(&delivery, 13, "z")).await, Done::Stale);
    assert_not_found(bench.store.event(id(12)).await);
    assert_eq!(bench.statuses(id(1)).await, [Status::Delivered]);
    assert_eq!(bench.store.event(id(1)).await.unwrap().row.deliveries[0].tries, 1);
    // The keys of what was not emitted are free.
    assert_eq!(bench.accept(vec![event(14, "x"), event(15, "z")]).await, [(id(14), false), (id(15), false)]);
    // One that there is not.
    let unknown = Delivery { id: DeliveryId(77), ..delivery };
    assert_eq!(bench.settle(settlement(unknown, Next::Dead, Outcome::Rejected)).await, Done::Stale);
    let dead = bench.store.dead_letters(&DeadLetterFilter { limit: 10, ..Default::default() }).await.unwrap();
    assert!(dead.is_empty());
}

/// Nobody holds what is in the table: it cannot be settled unclaimed, not even by node 0.
pub(super) async fn what_nobody_holds_is_not_settled(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    bench.put(owed(1, endpoint)).await;
    let delivery = bench.claim_one(endpoint).await;
    bench.store.leave(bench.node, START_MS).await.unwrap();
    let (_, node) = bench.other().await;
    let late = [Work::Settle(Box::new(settlement(delivery, Next::Delivered, Outcome::Delivered)))];
    assert_eq!(bench.store.commit(node, &late).await.unwrap(), [Done::Stale]);
    assert_eq!(bench.statuses(id(1)).await, [Status::Owed]);
}

pub(super) async fn what_is_put_aside_untried_has_no_attempt(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    bench.put(owed(1, endpoint)).await;
    let delivery = bench.claim_one(endpoint).await;
    let aside = Settlement { attempt: None, charge: false, ..settlement(delivery, Next::Held, Outcome::Refused) };
    assert_eq!(bench.settle(aside).await, Done::Settled { emitted: vec![] });
    let detail = bench.store.event(id(1)).await.unwrap();
    assert_eq!((detail.row.deliveries[0].status, detail.row.deliveries[0].tries), (Status::Held, 0));
    assert!(detail.attempts.is_empty());
    bench.store.pause(endpoint, None).await.unwrap();
    let delivery = bench.claim_one(endpoint).await;
    let aside = Settlement { attempt: None, charge: false, ..settlement(delivery, Next::Retry(7), Outcome::Refused) };
    bench.settle(aside).await;
    assert_eq!(bench.store.next_due().await.unwrap(), Some(7));
}

pub(super) async fn what_is_emitted_is_an_event_once(bench: &Bench) {
    let [endpoint, next] = bench.endpoints(["crm", "erp"]).await;
    bench.accept(vec![owed(1, endpoint), owed(2, endpoint), event(3, "known")]).await;
    let [first, second] = &bench.claim(endpoint, 10).await[..] else { panic!("two are owed") };
    let child = |number, key: &str, of: &Delivery| {
        let mut child = with(event(number, key), |event| event.parent = Some(of.id));
        owe(&mut child, next, Place::Memory);
        child
    };
    let emitting =
        |of: &Delivery, emitted| Settlement { emitted, ..settlement(of.clone(), Next::Delivered, Outcome::Delivered) };
    let emitted = vec![
        child(10, "a", first),
        child(11, "known", first),
        bench.seal(child(12, "b", first)),
        child(13, "a", first),
    ];
    assert_eq!(bench.settle(emitting(first, emitted)).await, Done::Settled { emitted: vec![true, false, true, false] });
    let emitted = vec![child(20, "b", second), child(21, "c", second)];
    // Sealed, so its key is hidden, and this one's is open.
    assert_eq!(bench.settle(emitting(second, emitted)).await, Done::Settled { emitted: vec![true, true] });
    let children = bench.store.event(id(1)).await.unwrap().children;
    assert_eq!(children.iter().map(|child| child.id).collect::<Vec<_>>(), [id(10), id(12)]);
    assert_eq!(children[0].deliveries[0].status, Status::Owed);
    assert!(bench.claim(next, 10).await.is_empty(), "they are this node's already");
    assert_not_found(bench.store.event(id(13)).await);
}

/// The answers, and who is first with a key, follow the order of the work, whatever it is made of.
pub(super) async fn a_mixed_commit_is_done_in_its_order(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    bench.accept((1..=4).map(|number| owed(number, endpoint)).collect()).await;
    let claimed = bench.claim(endpoint, 10).await;
    let [first, second, third, fourth] = &claimed[..] else { panic!("four are owed") };
    let emitting = |of: &Delivery, emitted: Vec<NewEvent>| {
        Work::Settle(Box::new(Settlement { emitted, ..settlement(of.clone(), Next::Delivered, Outcome::Delivered) }))
    };
    let gone = Delivery { id: DeliveryId(fourth.id.0 + 1), ..fourth.clone() };
    let work = vec![
        Work::Accept(event(10, "a")),
        emitting(first, vec![event(11, "a"), event(12, "b")]),
        begin(second),
        Work::Accept(event(13, "b")),
        // Stale: the key stays free for the one after it.
        emitting(&gone, vec![event(14, "c")]),
        Work::Accept(event(15, "c")),
        emitting(second, vec![event(16, "d"), event(17, "c")]),
        Work::Accept(event(18, "d")),
        begin(&gone),
        emitting(third, vec![]),
        emitting(second, vec![event(19, "e")]),
        Work::Accept(event(20, "e")),
    ];
    let accepted = |number, duplicate| Done::Accepted { id: id(number), duplicate };
    assert_eq!(
        bench.commit(work).await,
        [
            accepted(10, false),
            Done::Settled { emitted: vec![false, true] },
            Done::Begun,
            accepted(12, true),
            Done::Stale,
            accepted(15, false),
            Done::Settled { emitted: vec![true, false] },
            accepted(16, true),
            Done::Stale,
            Done::Settled { emitted: vec![] },
            Done::Stale,
            accepted(20, false),
        ]
    );
    assert_eq!(
        bench.store.event(id(2)).await.unwrap().attempts[0].outcome,
        Outcome::Delivered,
        "settled after it began"
    );
}

pub(super) async fn many_are_settled_at_once(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    bench.accept((0..300).map(|number| owed(number, endpoint)).collect()).await;
    let ends = [
        (Next::Delivered, Outcome::Delivered, Status::Delivered),
        (Next::Retry(START_MS + 1), Outcome::Transient, Status::Waiting),
        (Next::Dead, Outcome::Rejected, Status::Dead),
        (Next::Held, Outcome::Unauthorized, Status::Held),
        (Next::Skipped, Outcome::Skipped, Status::Skipped),
    ];
    let mut claimed = bench.claim(endpoint, 1000).await;
    // Not in the order of their ids.
    claimed.sort_by_key(|delivery| delivery.id.0.wrapping_mul(0x9e37_79b9) % 1009);
    let end_of = |delivery: &Delivery| &ends[((delivery.id.0 >> 21) % 5) as usize];
    let work: Vec<Work> = claimed
        .iter()
        .map(|delivery| {
            let (next, outcome, _) = end_of(delivery);
            let number = (delivery.id.0 >> 21) - START_MS as i64;
            let emitted = vec![event(1000 + number, &format!("emitted-{}", number / 2))];
            Work::Settle(Box::new(Settlement { emitted, ..settlement(delivery.clone(), next.clone(), *outcome) }))
        })
        .collect();
    let mut known = std::collections::HashSet::new();
    let expected: Vec<Done> = claimed
        .iter()
        .map(|delivery| {
            let number = (delivery.id.0 >> 21) - START_MS as i64;
            Done::Settled { emitted: vec![known.insert(number / 2)] }
        })
        .collect();
    assert_eq!(bench.commit(work).await, expected);
    for delivery in claimed.iter().step_by(17) {
        assert_eq!(bench.statuses(delivery.event.id).await, [end_of(delivery).2]);
    }
    let mut unfinished = bench.store.unfinished().await.unwrap();
    unfinished.sort_unstable();
    assert_eq!(unfinished, [(endpoint, 1, 60), (endpoint, 4, 60), (endpoint, 5, 60)]);
}

/// Two tasks that end the same tries at the same time: each try ends once.
pub(super) async fn at_the_same_time_one_settles(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let (store, _) = bench.other().await;
    bench.accept((0..30).map(|number| owed(number, endpoint)).collect()).await;
    let claimed = bench.claim(endpoint, 100).await;
    assert_eq!(claimed.len(), 30);
    let work = |claimed: Vec<Delivery>, offset: i64| -> Vec<Work> {
        let settle = |delivery: Delivery| {
            let emitted =
                vec![event(offset + ((delivery.id.0 >> 21) - START_MS as i64), &format!("of-{}", delivery.id))];
            Work::Settle(Box::new(Settlement { emitted, ..settlement(delivery, Next::Delivered, Outcome::Delivered) }))
        };
        claimed.into_iter().map(settle).collect()
    };
    let (forth, back) = (work(claimed.clone(), 100), work(claimed.iter().rev().cloned().collect(), 200));
    let (one, other) = tokio::join!(bench.store.commit(bench.node, &forth), store.commit(bench.node, &back));
    let (one, mut other) = (one.unwrap(), other.unwrap());
    other.reverse();
    for (at, ended) in one.into_iter().zip(other).enumerate() {
        let settled = Done::Settled { emitted: vec![true] };
        assert!(ended == (settled.clone(), Done::Stale) || ended == (Done::Stale, settled), "{at}: {ended:?}");
    }
    for delivery in claimed {
        let detail = bench.store.event(delivery.event.id).await.unwrap();
        assert_eq!((detail.attempts.len(), detail.row.deliveries[0].tries), (1, 1));
    }
}
