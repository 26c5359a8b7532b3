//! People: who is found where, and how what is about them goes.

use super::*;
use crate::config::PersonalKind;
use crate::event::{ERASURE, ErasureId, SubjectKey};

fn subject(kind: PersonalKind, first: u8) -> SubjectKey {
    // Bytes that are no text, with a zero at the end.
    SubjectKey { kind, subject: std::array::from_fn(|at| if at == 15 { 0 } else { first.wrapping_add(at as u8 * 17) }) }
}

fn about(mut new: NewEvent, subjects: &[SubjectKey]) -> NewEvent {
    new.subjects = subjects.to_vec();
    new
}

fn seeds(keys: &[SubjectKey], events: &[i64]) -> Seeds {
    Seeds { keys: keys.to_vec(), events: events.iter().map(|number| id(*number)).collect() }
}

fn numbers(found: &Found) -> Vec<i64> {
    found.items.iter().map(|item| (item.event.id.0 >> 21) - START_MS as i64).collect()
}

fn erasure(number: i64, request: Option<&str>, seeds: Seeds) -> (NewErasure, NewEvent) {
    let new = NewErasure {
        id: ErasureId(id(number).0),
        request: request.map(str::to_owned),
        now_ms: START_MS + number as u64,
        reason: "they \"asked\" for it, São".into(),
        actor: "key-1".into(),
        seeds,
    };
    let notice = with(event(number, &format!("notice-{number}")), |event| {
        event.source = ERASURE.into();
        event.event_type = "privacy.erasure".into();
    });
    (new, NewEvent { key: Key::id(ERASURE, &format!("notice-{number}")), ..notice })
}

async fn begun(bench: &Bench, number: i64, seeds: Seeds) -> Vec<EventId> {
    let (new, notice) = erasure(number, None, seeds);
    match bench.store.begin_erasure(&new, &notice).await.expect("it begins") {
        BegunErasure::Begun(mut events) => {
            events.sort_unstable();
            events
        }
        known => panic!("it was known: {known:?}"),
    }
}

async fn erase(bench: &Bench, number: i64, events: &[EventId]) -> ErasedBatch {
    bench.store.erase(bench.node, ErasureId(id(number).0), events, &[], START_MS + 9000).await.expect("it is erased")
}

async fn erasures(bench: &Bench, number: i64) -> ErasureRow {
    bench.store.erasures(Some(ErasureId(id(number).0)), 10).await.expect("erasures").remove(0)
}

pub(super) async fn a_person_is_found_by_each_identifier(bench: &Bench) {
    let [cpf, phone] = [subject(PersonalKind::Cpf, 1), subject(PersonalKind::Phone, 1)];
    let [email, other] = [subject(PersonalKind::Email, 200), subject(PersonalKind::Cpf, 2)];
    bench
        .accept(vec![
            about(event(1, "1"), &[cpf, cpf, email]),
            about(bench.seal(event(2, "2")), &[phone]),
            about(event(3, "3"), &[other]),
            event(4, "4"),
            about(event(5, "5"), &[cpf, phone]),
        ])
        .await;
    let find = async |keys: &[SubjectKey], events: &[i64]| {
        let found = bench.store.find_subject(&seeds(keys, events), None, 10).await.unwrap();
        assert_eq!((found.events, found.direct), (found.items.len() as u64, found.items.len() as u64));
        assert!(found.items.iter().all(|item| item.direct && item.delivered.is_empty()));
        numbers(&found)
    };
    assert_eq!(find(&[cpf], &[]).await, [5, 1]);
    assert_eq!(find(&[phone], &[]).await, [5, 2], "the kind counts, too");
    assert_eq!(find(&[cpf, phone, email], &[]).await, [5, 2, 1]);
    assert_eq!(find(&[other], &[1, 4, 77]).await, [4, 3, 1]);
    assert_eq!(find(&[subject(PersonalKind::Cpf, 9)], &[]).await, [0; 0]);
    assert_eq!(find(&[], &[]).await, [0; 0]);
    // Found by two of a kind, and named besides, it is one event all the same.
    bench.put(about(event(6, "6"), &[other, subject(PersonalKind::Cpf, 3)])).await;
    assert_eq!(find(&[other, subject(PersonalKind::Cpf, 3)], &[]).await, [6, 3]);
    assert_eq!(find(&[other, subject(PersonalKind::Cpf, 3)], &[6, 6]).await, [6, 3]);
    let page = bench.store.find_subject(&seeds(&[cpf, phone], &[]), None, 2).await.unwrap();
    assert_eq!((page.events, numbers(&page)), (3, vec![5, 2]));
    let page = bench.store.find_subject(&seeds(&[cpf, phone], &[]), Some(id(2)), 2).await.unwrap();
    assert_eq!((page.events, numbers(&page)), (3, vec![1]));
    // More of them than a statement may hold at once.
    let many: Vec<SubjectKey> = (0..700)
        .map(|at: u32| SubjectKey {
            kind: PersonalKind::Phone,
            subject: std::array::from_fn(|byte| at.to_be_bytes()[byte % 4]),
        })
        .collect();
    assert_eq!(find(&[&many[..], &[cpf]].concat(), &(100..900).collect::<Vec<_>>()).await, [5, 1]);
}

/// Event 1 about a person, delivered to both endpoints; the first delivery gave rise to 10, whose delivery to 20. Event 2
/// about the same person: a dead letter, and one that is owed. Event 3 is about somebody else.
async fn history(bench: &Bench, endpoints: [i64; 2], person: SubjectKey) {
    let [crm, erp] = endpoints;
    let mut first = about(event(1, "1"), &[person]);
    owe(&mut first, crm, Place::Table);
    owe(&mut first, erp, Place::Table);
    bench.put(first).await;
    let at = |attempt: Attempt, seconds: u64| Attempt { started_ms: START_MS + seconds * 1000, ..attempt };
    let delivery = bench.claim_one(crm).await;
    let mut child = with(event(10, "10"), |event| (event.parent, event.source) = (Some(delivery.id), "crm".into()));
    owe(&mut child, erp, Place::Memory);
    let child_delivery = child.deliveries[0].clone();
    let end = settlement(delivery, Next::Delivered, Outcome::Delivered);
    bench.settle(Settlement { emitted: vec![child], attempt: Some(at(attempt(Outcome::Delivered), 10)), ..end }).await;
    let delivery = bench.claim_one(erp).await;
    for (seconds, next, outcome) in [(20, Next::Retry(0), Outcome::TimedOut), (30, Next::Delivered, Outcome::Delivered)]
    {
        let delivery = if outcome == Outcome::Delivered {
            bench.store.promote(bench.node, START_MS, 1).await.unwrap().deliveries.remove(0)
        } else {
            delivery.clone()
        };
        let end = settlement(delivery, next, outcome);
        bench.settle(Settlement { attempt: Some(at(attempt(outcome), seconds)), ..end }).await;
    }
    // What was emitted into memory is settled by whoever emitted it.
    let emitted = bench.store.event(id(10)).await.unwrap();
    let delivery = Delivery {
        id: child_delivery.id,
        event: Arc::new(emitted.event),
        endpoint: erp,
        route: 1,
        queue: 1,
        priority: 0,
        ordering: None,
        tries: 0,
        charged: 0,
    };
    let grandchild = with(event(20, "20"), |event| event.parent = Some(delivery.id));
    let end = settlement(delivery, Next::Skipped, Outcome::Skipped);
    bench.settle(Settlement { emitted: vec![grandchild], ..end }).await;

    let mut second = about(event(2, "2"), &[person]);
    owe(&mut second, crm, Place::Table);
    bench.put(second).await;
    let delivery = bench.claim_one(crm).await;
    let said = Attempt { message: Some("about them".into()), ..at(attempt(Outcome::Rejected), 40) };
    bench.settle(Settlement { attempt: Some(said), ..settlement(delivery, Next::Dead, Outcome::Rejected) }).await;
    let mut third = about(event(3, "3"), &[subject(PersonalKind::Cpf, 99)]);
    owe(&mut third, erp, Place::Table);
    let mut fourth = about(event(4, "4"), &[person]);
    owe(&mut fourth, erp, Place::Delayed(START_MS + 99));
    fourth.deliveries[0].ordering = Some(4);
    bench.accept(vec![third, fourth]).await;
}

pub(super) async fn what_came_of_a_persons_events_is_found_with_them(bench: &Bench) {
    let endpoints = bench.endpoints(["crm", "erp"]).await;
    let [crm, erp] = endpoints;
    let person = subject(PersonalKind::Cpf, 1);
    history(bench, endpoints, person).await;
    let found = bench.store.find_subject(&seeds(&[person], &[]), None, 10).await.unwrap();
    assert_eq!(numbers(&found), [20, 10, 4, 2, 1]);
    assert_eq!((found.events, found.direct, found.open), (5, 3, 2), "a dead letter and one that waits");
    assert_eq!(found.items.iter().map(|item| item.direct).collect::<Vec<_>>(), [false, false, true, true, true]);
    let delivered: Vec<(i64, u64)> =
        found.items[4].delivered.iter().map(|(id, ms)| (id.0 - self::id(1).0, ms - START_MS)).collect();
    assert_eq!(delivered, [(1, 12_500), (2, 32_500)]);
    assert_eq!(found.items[4].event.deliveries.len(), 2);
    // From one in the middle, what came of it.
    let found = bench.store.find_subject(&seeds(&[], &[10]), None, 10).await.unwrap();
    assert_eq!(numbers(&found), [20, 10]);

    let received = bench.store.received(&seeds(&[person], &[]), 10).await.unwrap();
    let rows: Vec<_> = received
        .iter()
        .map(|row| {
            (
                row.endpoint,
                (row.event.0 >> 21) - START_MS as i64,
                row.first_ms - START_MS,
                row.last_ms - START_MS,
                row.delivered,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [(crm, 1, 10_000, 12_500, true), (crm, 2, 40_000, 42_500, false), (erp, 1, 20_000, 32_500, true)],
        "what was skipped was not handed on"
    );
    assert_eq!(bench.store.received(&seeds(&[person], &[]), 1).await.unwrap().len(), 1);
    assert!(bench.store.received(&seeds(&[], &[3]), 10).await.unwrap().is_empty());
}

pub(super) async fn it_is_known_what_a_search_covers(bench: &Bench) {
    let person = subject(PersonalKind::Email, 1);
    let of = |number, source: &str| with(event(number, &format!("{number}")), |event| event.source = source.into());
    assert!(bench.store.coverage().await.unwrap().rows.is_empty());
    let emitted = with(of(3, "crm"), |event| event.parent = Some(DeliveryId(1)));
    bench
        .accept(vec![
            about(of(1, "crm"), &[person, subject(PersonalKind::Cpf, 1)]),
            of(2, "crm"),
            emitted,
            about(bench.seal(of(4, "site")), &[person]),
            of(5, "privacy:erasure"),
            of(6, "sync:orders"),
            of(7, "schedule:nightly"),
            of(8, "schedule"),
        ])
        .await;
    let coverage = bench.store.coverage().await.unwrap();
    assert!(coverage.complete);
    let rows: Vec<_> =
        coverage.rows.iter().map(|row| (&*row.source, row.emitted, row.with_content, row.unindexed)).collect();
    assert_eq!(rows, [("crm", false, 2, 1), ("crm", true, 1, 1), ("schedule", false, 1, 1), ("site", false, 1, 0)]);
}

pub(super) async fn contents_are_read_oldest_first_and_not_too_much(bench: &Bench) {
    let large = |number| {
        let payload = vec![b'x'; 5 << 20];
        with(event(number, &format!("{number}")), |event| event.payload = payload.into())
    };
    let headers = || vec![("x-name".to_owned(), "São".to_owned())];
    let sealed = bench.seal(with(event(2, "2"), |event| event.headers = headers()));
    let emitted = with(event(3, "3"), |event| event.parent = Some(DeliveryId(1)));
    bench.accept(vec![event(1, "1"), sealed, emitted]).await;
    let rows = bench.store.contents(EventId(-1), id(3), 10).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [1, 2, 3].map(id));
    assert_eq!((&*rows[0].source, &*rows[0].event_type, rows[0].created_ms), ("site", "lead.created", START_MS + 1));
    assert_eq!((&rows[1].headers, &*rows[1].payload), (&headers(), &b"{\"number\":2}"[..]));
    assert_eq!(rows.iter().map(|row| row.emitted).collect::<Vec<_>>(), [false, false, true]);
    let read = async |after, upto, limit| {
        let rows = bench.store.contents(id(after), id(upto), limit).await.unwrap();
        rows.iter().map(|row| (row.id.0 >> 21) - START_MS as i64).collect::<Vec<_>>()
    };
    assert_eq!(read(1, 2, 10).await, [2]);
    assert_eq!(read(0, 3, 2).await, [1, 2]);
    assert_eq!(read(3, 9, 10).await, [0; 0]);
    for number in 10..15 {
        bench.put(large(number)).await;
    }
    assert_eq!(read(3, 99, 10).await, [10, 11, 12, 13], "no more after 16 MiB");
    assert_eq!(read(13, 99, 10).await, [14]);
    begun(bench, 50, seeds(&[], &[1])).await;
    erase(bench, 50, &[id(1)]).await;
    assert_eq!(read(0, 3, 10).await, [2, 3], "what is gone has no content");
}

pub(super) async fn an_erasure_takes_all_that_is_about_a_person(bench: &Bench) {
    let endpoints = bench.endpoints(["crm", "erp"]).await;
    let [crm, erp] = endpoints;
    let person = subject(PersonalKind::Cpf, 1);
    history(bench, endpoints, person).await;
    let events = begun(bench, 50, seeds(&[person], &[])).await;
    assert_eq!(events, [1, 2, 4, 10, 20].map(id));
    let erasure = ErasureId(id(50).0);
    let mut to_erase = bench.store.to_erase(erasure, 10).await.unwrap();
    to_erase.sort_unstable();
    assert_eq!(to_erase, events);
    assert_eq!(bench.store.to_erase(erasure, 2).await.unwrap().len(), 2);
    assert_eq!(bench.store.open_erasures().await.unwrap(), [(erasure, ErasureState::Erasing)]);
    let row = erasures(bench, 50).await;
    assert_eq!((row.state, row.events, row.left, row.notice), (ErasureState::Erasing, 5, 5, id(50)));
    assert_eq!((&*row.reason, &*row.actor, row.created_ms), ("they \"asked\" for it, São", "key-1", START_MS + 50));
    assert_eq!((row.request, row.finished_ms, row.recipients.len()), (None, None, 0));
    assert_conflict(bench.store.close_erasure(erasure, START_MS).await);
    assert_eq!(bench.statuses(id(50)).await, [], "nobody is told yet");

    // One of them is under way, and did not end in time.
    let under_way = [DeliveryId(id(4).0 + 1), DeliveryId(id(3).0 + 1)];
    let batch =
        bench.store.erase(bench.node, erasure, &[id(1), id(2), id(4)], &under_way, START_MS + 60_000).await.unwrap();
    let mut ended = [crm, erp];
    ended.sort_unstable();
    assert_eq!((batch.endpoints, batch.children, batch.repaused), (ended.to_vec(), vec![], false));
    assert!(batch.rehidden);
    assert_eq!(erase(bench, 50, &[id(1)]).await.endpoints, [0; 0], "once");
    let batch = erase(bench, 50, &[id(10), id(20)]).await;
    assert!(batch.endpoints.is_empty());
    assert!(bench.store.to_erase(erasure, 10).await.unwrap().is_empty());

    for number in [1, 2, 4, 10, 20] {
        let detail = bench.store.event(id(number)).await.unwrap();
        assert_eq!(detail.row.content, ContentState::Erased, "{number}");
        assert!(detail.event.payload.is_empty() && detail.key.is_empty());
        assert!(detail.attempts.iter().all(|attempt| attempt.message.is_none() && attempt.log.is_none()));
    }
    assert_eq!(bench.statuses(id(1)).await, [Status::Delivered, Status::Delivered]);
    assert_eq!(bench.statuses(id(2)).await, [Status::Erased], "a dead letter is none any more");
    assert_eq!(bench.statuses(id(4)).await, [Status::Erased]);
    assert_eq!(bench.store.next_due().await.unwrap(), None);
    let dead = bench.store.dead_letters(&DeadLetterFilter { limit: 10, ..Default::default() }).await.unwrap();
    assert!(dead.is_empty());
    assert_conflict(bench.store.replay(DeliveryId(id(1).0 + 1)).await);
    assert_eq!(bench.store.replay_dead(None, 10).await.unwrap(), 0);
    assert_eq!(bench.store.find_subject(&seeds(&[person], &[]), None, 10).await.unwrap().events, 0);
    assert_eq!(bench.store.event(id(3)).await.unwrap().row.content, ContentState::Clear, "somebody else's");
    assert_eq!(ids(&bench.claim(erp, 10).await), [DeliveryId(id(3).0 + 1)]);

    let recipients: Vec<_> = erasures(bench, 50)
        .await
        .recipients
        .iter()
        .map(|row| (row.endpoint, row.events, row.first_ms - START_MS, row.last_ms - START_MS, row.told_by.is_some()))
        .collect();
    // The endpoint that has got one of them, and the one whose try was under way.
    let mut expected = [(crm, 2, 10_000, 42_500, false), (erp, 2, 20_000, 60_000, false)];
    expected.sort_unstable();
    assert_eq!(recipients, expected);
    assert!(bench.store.scrub(true).await.unwrap());
}

pub(super) async fn what_comes_meanwhile_is_erased_as_well(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    bench.put(owed(1, endpoint)).await;
    let delivery = bench.claim_one(endpoint).await;
    assert_eq!(begun(bench, 50, seeds(&[], &[1])).await, [id(1)]);
    let child = with(event(2, "2"), |event| event.parent = Some(delivery.id));
    let end = settlement(delivery.clone(), Next::Delivered, Outcome::Delivered);
    bench.settle(Settlement { emitted: vec![child], ..end }).await;
    let batch = erase(bench, 50, &[id(1)]).await;
    assert_eq!(batch.children, [id(2)]);
    assert_eq!(bench.store.to_erase(ErasureId(id(50).0), 10).await.unwrap(), [id(2)]);
    assert!(erase(bench, 50, &batch.children).await.children.is_empty());
    // A try that was under way settles into nothing.
    bench.put(owed(3, endpoint)).await;
    let late = bench.claim_one(endpoint).await;
    begun(bench, 51, seeds(&[], &[3])).await;
    erase(bench, 51, &[id(3)]).await;
    assert_eq!(bench.settle(settlement(late, Next::Delivered, Outcome::Delivered)).await, Done::Stale);
}

/// What was erased is still recognised when it comes again, by whichever form of its key.
pub(super) async fn what_was_erased_does_not_come_again(bench: &Bench) {
    let of_endpoint = NewEvent {
        key: Key::given("endpoint:crm", "São 1 "),
        ..with(event(3, ""), |event| event.source = "crm".into())
    };
    bench.accept(vec![event(1, "order-1"), bench.seal(event(2, "order-2")), of_endpoint, event(4, "Order-1")]).await;
    begun(bench, 50, seeds(&[], &[1, 2, 3])).await;
    let batch = erase(bench, 50, &[id(1), id(2), id(3)]).await;
    assert!(batch.rehidden);
    let again = vec![
        event(11, "order-1"),
        bench.hide(event(12, "order-1")),
        bench.hide(event(13, "order-2")),
        event(14, "order-2"),
        NewEvent { key: Key::given("endpoint:crm", "São 1 "), ..event(15, "") },
        event(16, "Order-1"),
        event(17, "order-1 "),
    ];
    assert_eq!(
        bench.accept(again).await,
        [(id(1), true), (id(1), true), (id(2), true), (id(2), true), (id(3), true), (id(4), true), (id(17), false)]
    );
    // Another start knows that, too.
    let (store, node) = bench.other().await;
    assert_eq!(accept(&*store, node, vec![event(21, "order-1")]).await, [(id(1), true)]);
    // Erased again nothing is left to hide.
    assert!(begun(bench, 51, seeds(&[], &[1, 2, 3])).await.is_empty());
}

/// Both forms of one key may be there, each of an event of its own.
pub(super) async fn a_hidden_key_that_is_there_already_is_replaced(bench: &Bench) {
    assert_eq!(bench.accept(vec![bench.hide(event(1, "a")), event(2, "a")]).await, [(id(1), false), (id(2), false)]);
    begun(bench, 50, seeds(&[], &[2])).await;
    assert!(erase(bench, 50, &[id(2)]).await.rehidden);
    let again = bench.accept(vec![event(3, "a"), bench.hide(event(4, "a"))]).await;
    assert_eq!(again, [(id(2), true), (id(2), true)]);
}

pub(super) async fn a_pause_does_not_repeat_what_was_said(bench: &Bench) {
    let [crm, erp, other] = bench.endpoints(["crm", "erp", "other"]).await;
    bench.put(owed(1, crm)).await;
    let delivery = bench.claim_one(crm).await;
    let said = Attempt { message: Some("no such person: Ana".into()), ..attempt(Outcome::Unauthorized) };
    let end = settlement(delivery, Next::Held, Outcome::Unauthorized);
    bench.settle(Settlement { attempt: Some(said), ..end }).await;
    for (endpoint, reason) in [(crm, "no such person: Ana"), (erp, "no such person: ana"), (other, "no such person")] {
        bench.store.pause(endpoint, Some(reason)).await.unwrap();
    }
    begun(bench, 50, seeds(&[], &[1])).await;
    let batch = erase(bench, 50, &[id(1)]).await;
    assert!(batch.repaused);
    assert_eq!(batch.endpoints, [crm]);
    let paused: Vec<_> =
        bench.store.catalog().await.unwrap().endpoints.into_iter().map(|row| row.paused.unwrap()).collect();
    assert!(paused[0].contains(&DeliveryId(id(1).0 + 1).to_string()), "{paused:?}");
    assert_eq!(paused[1..], ["no such person: ana", "no such person"], "another's words");
}

pub(super) async fn a_request_is_carried_out_once(bench: &Bench) {
    let requests: Vec<&str> = TEXTS.into_iter().filter(|text| !text.contains('\n')).collect();
    for round in [0, 1] {
        for (at, request) in requests.iter().enumerate() {
            let (new, notice) = erasure((round * 100 + at + 1) as i64, Some(request), seeds(&[], &[]));
            let known = bench.store.begin_erasure(&new, &notice).await.unwrap();
            match (round, known) {
                (0, BegunErasure::Begun(events)) => assert!(events.is_empty()),
                (1, BegunErasure::Known(before)) => assert_eq!(before, ErasureId(id(at as i64 + 1).0)),
                (_, other) => panic!("{request:?}: {other:?}"),
            }
        }
    }
    let rows = bench.store.erasures(None, 100).await.unwrap();
    let expected: Vec<_> = requests.iter().rev().map(|request| Some((*request).to_owned())).collect();
    assert_eq!(rows.into_iter().map(|row| row.request).collect::<Vec<_>>(), expected, "newest first");
    assert_eq!(bench.store.erasures(None, 2).await.unwrap().len(), 2);
    assert!(bench.store.erasures(Some(ErasureId(7)), 2).await.unwrap().is_empty());
    assert_not_found(bench.store.event(id(101)).await);
}

/// Whoever got what was erased is told, and what tells them goes with it.
pub(super) async fn recipients_are_told_and_then_it_is_over(bench: &Bench) {
    let [crm, erp] = bench.endpoints(["crm", "erp"]).await;
    let erasure = ErasureId(id(50).0);
    let mut new = event(1, "1");
    owe(&mut new, crm, Place::Table);
    owe(&mut new, erp, Place::Table);
    bench.put(new).await;
    for endpoint in [crm, erp] {
        let delivery = bench.claim_one(endpoint).await;
        bench.settle(settlement(delivery, Next::Delivered, Outcome::Delivered)).await;
    }
    begun(bench, 50, seeds(&[], &[1])).await;
    erase(bench, 50, &[id(1)]).await;
    assert_eq!(bench.store.close_erasures(START_MS).await.unwrap(), 0, "nobody was told");
    let tells = delivery_of(id(50), 1, crm, Place::Table);
    let told = tells.id;
    bench.store.tell(erasure, &[tells], &[(crm, told)]).await.unwrap();
    bench.store.tell(erasure, &[delivery_of(id(50), 2, erp, Place::Table)], &[]).await.unwrap();
    assert_eq!(bench.statuses(id(50)).await, [Status::Owed], "once");
    assert!(!bench.store.event(id(50)).await.unwrap().row.unrouted);
    assert_eq!(bench.store.open_erasures().await.unwrap(), [(erasure, ErasureState::Telling)]);
    assert_eq!(bench.store.close_erasures(START_MS).await.unwrap(), 0, "one is on its way");
    let delivery = bench.claim_one(crm).await;
    assert_eq!((delivery.id, &*delivery.event.source), (told, ERASURE));
    bench.settle(settlement(delivery, Next::Dead, Outcome::Rejected)).await;
    assert_eq!(bench.store.close_erasures(START_MS).await.unwrap(), 0, "a dead letter tells nobody");
    bench.store.replay(told).await.unwrap();
    let delivery = bench.claim_one(crm).await;
    bench.settle(settlement(delivery, Next::Delivered, Outcome::Delivered)).await;
    let row = erasures(bench, 50).await;
    let of_crm = row.recipients.iter().find(|row| row.endpoint == crm).unwrap();
    assert_eq!((of_crm.told_by, of_crm.told_ms), (Some((told, Status::Delivered)), Some(START_MS + 3500)));
    let of_erp = row.recipients.iter().find(|row| row.endpoint == erp).unwrap();
    assert_eq!((of_erp.told_by, of_erp.told_ms), (None, None));
    assert_eq!(bench.store.close_erasures(START_MS + 70).await.unwrap(), 1);
    assert_eq!(bench.store.close_erasures(START_MS + 71).await.unwrap(), 0);
    let row = erasures(bench, 50).await;
    assert_eq!((row.state, row.finished_ms, row.left), (ErasureState::Complete, Some(START_MS + 70), 0));
    assert!(bench.store.open_erasures().await.unwrap().is_empty());
    assert_eq!(bench.store.event(id(50)).await.unwrap().row.content, ContentState::Erased, "the notice as well");
    bench.store.close_erasure(erasure, START_MS + 99).await.unwrap();
    assert_eq!(erasures(bench, 50).await.finished_ms, Some(START_MS + 70));
}

pub(super) async fn an_erasure_may_be_closed_though_somebody_was_not_told(bench: &Bench) {
    let [crm] = bench.endpoints(["crm"]).await;
    let erasure = ErasureId(id(50).0);
    assert_not_found(bench.store.close_erasure(erasure, START_MS).await);
    begun(bench, 50, seeds(&[], &[])).await;
    let tells = [1, 2].map(|number| delivery_of(id(50), number, crm, Place::Table));
    bench.store.tell(erasure, &tells, &[]).await.unwrap();
    let dead = bench.claim(crm, 1).await.remove(0);
    bench.settle(settlement(dead, Next::Dead, Outcome::Rejected)).await;
    bench.store.close_erasure(erasure, START_MS + 70).await.unwrap();
    assert_eq!(bench.statuses(id(50)).await, [Status::Erased, Status::Erased]);
    assert!(bench.claim(crm, 10).await.is_empty());
    let row = erasures(bench, 50).await;
    assert_eq!((row.state, row.finished_ms), (ErasureState::Complete, Some(START_MS + 70)));
}

pub(super) async fn older_events_are_indexed_anew(bench: &Bench) {
    let [old, new] = [subject(PersonalKind::Cpf, 1), subject(PersonalKind::Email, 2)];
    assert!(bench.store.reindexing().await.unwrap().is_none());
    let events = vec![about(event(1, "1"), &[old]), event(2, "2"), event(3, "3")];
    bench.accept(events).await;
    begun(bench, 50, seeds(&[], &[3])).await;
    erase(bench, 50, &[id(3)]).await;
    bench.store.begin_reindexing(START_MS + 1).await.unwrap();
    let state = bench.store.reindexing().await.unwrap().unwrap();
    assert_eq!((state.cursor, state.upto, state.seen, state.indexed), (EventId(-1), id(50), 0, 0));
    assert_eq!((state.started_ms, state.finished_ms), (START_MS + 1, None));
    // Under way it is not begun again.
    bench.store.begin_reindexing(START_MS + 2).await.unwrap();
    assert_eq!(bench.store.reindexing().await.unwrap().unwrap().started_ms, START_MS + 1);
    bench.store.reindex(&[(id(1), vec![new, new]), (id(2), vec![])], id(2), None).await.unwrap();
    let state = bench.store.reindexing().await.unwrap().unwrap();
    assert_eq!((state.cursor, state.seen, state.indexed, state.finished_ms), (id(2), 2, 1, None));
    // One that was erased since, and one that is gone, are not found again.
    bench.store.reindex(&[(id(3), vec![new]), (id(9), vec![new])], id(50), Some(START_MS + 5)).await.unwrap();
    let state = bench.store.reindexing().await.unwrap().unwrap();
    assert_eq!((state.cursor, state.seen, state.indexed, state.finished_ms), (id(50), 4, 1, Some(START_MS + 5)));
    let find = async |key| numbers(&bench.store.find_subject(&seeds(&[key], &[]), None, 10).await.unwrap());
    assert_eq!(find(old).await, [0; 0], "the key that was there is replaced");
    assert_eq!(find(new).await, [1]);
    bench.put(event(60, "60")).await;
    bench.store.begin_reindexing(START_MS + 9).await.unwrap();
    let state = bench.store.reindexing().await.unwrap().unwrap();
    assert_eq!((state.cursor, state.upto, state.seen, state.indexed), (EventId(-1), id(60), 0, 0));
    assert_eq!((state.started_ms, state.finished_ms), (START_MS + 9, None));
}

pub(super) async fn without_events_there_is_nothing_to_index(bench: &Bench) {
    assert_eq!(bench.store.newest_event().await.unwrap(), None);
    bench.store.begin_reindexing(START_MS).await.unwrap();
    assert_eq!(bench.store.reindexing().await.unwrap().unwrap().upto, EventId(-1));
}

/// Of two that make the same request one begins.
pub(super) async fn at_the_same_time_one_erasure_begins(bench: &Bench) {
    let (store, _) = bench.other().await;
    bench.put(event(1, "1")).await;
    for round in 1..6 {
        let request = format!("request-{round}");
        let [one, other] = [0, 1].map(|at| erasure(round * 10 + at, Some(&request), seeds(&[], &[1])));
        let (first, second) =
            tokio::join!(bench.store.begin_erasure(&one.0, &one.1), store.begin_erasure(&other.0, &other.1));
        let (first, second) = (first.unwrap(), second.unwrap());
        let known = match (&first, &second) {
            (BegunErasure::Begun(_), BegunErasure::Known(known)) => *known == one.0.id,
            (BegunErasure::Known(known), BegunErasure::Begun(_)) => *known == other.0.id,
            _ => false,
        };
        assert!(known, "{first:?} {second:?}");
    }
    assert_eq!(bench.store.erasures(None, 10).await.unwrap().len(), 5);
}

/// An event of two erasures is erased by one of them, and nothing is counted twice.
pub(super) async fn at_the_same_time_each_event_is_erased_once(bench: &Bench) {
    let (store, _) = bench.other().await;
    let [endpoint] = bench.endpoints(["crm"]).await;
    let events: Vec<EventId> = (1..=20).map(id).collect();
    for number in 1..=20 {
        bench.settled(number, endpoint, Next::Delivered, Outcome::Delivered).await;
    }
    assert_eq!(begun(bench, 50, seeds(&[], &(1..=20).collect::<Vec<_>>())).await, events);
    let erasure = ErasureId(id(50).0);
    let (one, other) = tokio::join!(
        bench.store.erase(bench.node, erasure, &events, &[], START_MS),
        store.erase(bench.node, erasure, &events, &[], START_MS)
    );
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    let row = erasures(bench, 50).await;
    assert_eq!((row.left, row.recipients.len(), row.recipients[0].events), (0, 1, 20));
}
