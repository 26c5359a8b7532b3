//! What is accepted: one event for a key, kept as it came.

use super::*;

pub(super) async fn a_key_is_one_event_for_good(bench: &Bench) {
    assert_eq!(bench.accept(vec![event(1, "a"), event(2, "b")]).await, [(id(1), false), (id(2), false)]);
    assert_eq!(bench.accept(vec![event(3, "b"), event(4, "a")]).await, [(id(2), true), (id(1), true)]);
    // Within one commit the first one counts.
    let same = bench.accept(vec![event(5, "c"), event(6, "d"), event(7, "c"), event(8, "a"), event(9, "c")]).await;
    assert_eq!(same, [(id(5), false), (id(6), false), (id(5), true), (id(1), true), (id(5), true)]);
    for duplicate in [3, 4, 7, 8, 9] {
        assert_not_found(bench.store.event(id(duplicate)).await);
    }
    assert_eq!(bench.accept(vec![]).await, []);
}

pub(super) async fn a_duplicate_owes_nothing(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let mut first = event(1, "a");
    let owed = owe(&mut first, endpoint, Place::Table);
    let mut again = event(2, "a");
    owe(&mut again, endpoint, Place::Table);
    owe(&mut again, endpoint, Place::Delayed(1));
    assert_eq!(bench.accept(vec![first, again]).await, [(id(1), false), (id(1), true)]);
    assert_eq!(ids(&bench.claim(endpoint, 10).await), [owed]);
    assert_eq!(bench.store.next_due().await.unwrap(), None);
}

pub(super) async fn sources_do_not_share_keys(bench: &Bench) {
    let of = |number, source: &str, key: &str| NewEvent { key: Key::given(source, key), ..event(number, "") };
    let accepted = bench.accept(vec![of(1, "site", "1"), of(2, "crm", "1"), of(3, "sit", "e1"), of(4, "", "1")]).await;
    assert_eq!(accepted, [1, 2, 3, 4].map(|number| (id(number), false)));
}

/// Two keys are the same when all their bytes are: no letter stands for another, and no space at the end is padding.
pub(super) async fn keys_are_compared_byte_by_byte(bench: &Bench) {
    let long = "k".repeat(255);
    let nearly = format!("{}l", &long[..254]);
    let mut texts: Vec<&str> = TEXTS.to_vec();
    texts.extend([&long[..], &long[..254], &nearly, "sa\u{303}o tome\u{301}", "strasse strasse", "🙃", "\u{feff}"]);
    let mut keys: Vec<Key> = texts.iter().map(|text| Key::given("site", text)).collect();
    // Hidden keys are no text.
    let raw = [
        &b"\0"[..],
        b"\0\0",
        b"\xff\xfe",
        b"\xff\xff",
        b"\x00\xff",
        b"a\0",
        b"a\0\0",
        b"A\0",
        b"a\0 ",
        b"\x80",
        b"\\0",
    ];
    keys.extend(raw.map(|index| Key { index: index.to_vec(), ..Key::given("site", "raw") }));
    for round in [0, 1] {
        let event = |(at, key): (usize, &Key)| NewEvent { key: key.clone(), ..event((round * 100 + at) as i64, "") };
        let accepted = bench.accept(keys.iter().enumerate().map(event).collect()).await;
        for (at, answer) in accepted.into_iter().enumerate() {
            assert_eq!(answer, (id(at as i64), round > 0), "{:?}", keys[at].index);
        }
    }
}

/// A source that has come to be about people hides its keys: what came before is known by its open form.
pub(super) async fn a_hidden_key_is_known_by_its_open_form(bench: &Bench) {
    let [before, hidden] = [1, 2].map(id);
    assert_eq!(bench.accept(vec![event(1, "order-1")]).await, [(before, false)]);
    assert_eq!(bench.accept(vec![bench.hide(event(3, "order-1"))]).await, [(before, true)]);
    assert_eq!(bench.accept(vec![bench.seal(event(4, "order-1"))]).await, [(before, true)]);
    assert_eq!(bench.accept(vec![bench.seal(event(2, "order-2"))]).await, [(hidden, false)]);
    assert_eq!(bench.accept(vec![bench.hide(event(5, "order-2"))]).await, [(hidden, true)]);
    // Both within one commit, too.
    let both =
        bench.accept(vec![event(6, "order-3"), bench.hide(event(7, "order-3")), bench.seal(event(8, "order-3"))]).await;
    assert_eq!(both, [(id(6), false), (id(6), true), (id(6), true)]);
}

pub(super) async fn an_event_is_kept_as_it_came(bench: &Bench) {
    let every_byte: Vec<u8> = (0..=255).collect();
    let new = with(event(1, "São \"Tomé\" 'x'  "), |event| {
        event.source = "site-1".into();
        event.content_type = "text/plain; charset=\"utf-8\"".into();
        event.headers = TEXTS.iter().map(|text| ("x-text".to_owned(), (*text).to_owned())).collect();
        event.payload = every_byte.clone().into();
        event.parent = Some(DeliveryId(i64::MAX));
    });
    let stored = bench.put(new).await;
    let detail = bench.store.event(stored).await.unwrap();
    assert_eq!(detail.key, "São \"Tomé\" 'x'  ");
    assert_eq!((&*detail.event.source, &*detail.event.event_type), ("site-1", "lead.created"));
    assert_eq!(&*detail.event.content_type, "text/plain; charset=\"utf-8\"");
    assert_eq!(detail.event.headers.iter().map(|header| &*header.1).collect::<Vec<_>>(), TEXTS);
    assert_eq!(detail.event.payload, every_byte);
    assert_eq!((detail.event.parent, detail.event.created_ms), (Some(DeliveryId(i64::MAX)), START_MS + 1));
    assert!(matches!(detail.event.content, Content::Clear));
    assert_eq!((detail.row.id, detail.row.content, detail.row.unrouted), (stored, ContentState::Clear, true));
    assert!(detail.attempts.is_empty() && detail.children.is_empty() && detail.row.deliveries.is_empty());

    let bare = bench.put(with(event(2, ""), |event| event.payload = Bytes::new())).await;
    let detail = bench.store.event(bare).await.unwrap();
    assert_eq!((detail.event.payload.len(), detail.event.headers.len(), detail.event.parent), (0, 0, None));
    assert_eq!(detail.key, "");
}

/// The largest that a mapping may make of one, and then some.
pub(super) async fn a_large_payload_is_kept(bench: &Bench) {
    let payload: Bytes = (0..5 << 20).map(|at: u32| (at % 251) as u8).collect::<Vec<u8>>().into();
    let [endpoint] = bench.endpoints(["crm"]).await;
    let clear = with(owed(1, endpoint), |event| event.payload = payload.clone());
    let sealed = bench.seal(with(owed(2, endpoint), |event| event.payload = payload.clone()));
    bench.accept(vec![clear, sealed]).await;
    for delivery in bench.claim(endpoint, 10).await {
        assert!(delivery.event.payload == payload, "{} bytes are there", delivery.event.payload.len());
    }
}

pub(super) async fn the_first_and_the_last_ids_are_kept(bench: &Bench) {
    let first = with(event(0, "first"), |event| event.id = EventId(0));
    // The last one whose deliveries have ids.
    let last = with(event(0, "last"), |event| event.id = EventId(i64::MAX - ID_STRIDE));
    let [endpoint] = bench.endpoints(["crm"]).await;
    let mut of_last = last;
    let delivery = owe(&mut of_last, endpoint, Place::Table);
    of_last.deliveries[0].ordering = Some(i64::MIN);
    of_last.deliveries[0].priority = i8::MIN;
    of_last.deliveries[0].route = i64::MAX;
    bench.put(first).await;
    let last = bench.put(of_last).await;
    assert_eq!(bench.store.newest_event().await.unwrap(), Some(last));
    let claimed = bench.claim_one(endpoint).await;
    assert_eq!((claimed.id, claimed.ordering, claimed.priority), (delivery, Some(i64::MIN), i8::MIN));
    assert_eq!(claimed.route, i64::MAX);
    assert_eq!(bench.store.event(EventId(0)).await.unwrap().key, "first");
}

pub(super) async fn what_is_sealed_opens(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let headers = vec![("x-name".to_owned(), "São".to_owned())];
    let content = with(owed(1, endpoint), |event| event.headers = headers.clone());
    // An id that says nothing of the message is kept in clear, and without headers there is no envelope.
    let id_only = NewEvent { key: Key::id("site", "msg-1"), ..owed(2, endpoint) };
    let payloads = [content.event.payload.clone(), id_only.event.payload.clone()];
    let accepted = bench.accept(vec![bench.seal(content), bench.seal(id_only)]).await;
    assert_eq!(accepted, [(id(1), false), (id(2), false)]);
    for (number, headers, key) in [(1, headers.clone(), "owed-1"), (2, vec![], "msg-1")] {
        let detail = bench.store.event(id(number)).await.unwrap();
        assert_eq!((detail.event.headers, &*detail.key), (headers, key));
        assert_eq!(detail.event.payload, payloads[number as usize - 1]);
        assert_eq!(detail.row.content, ContentState::Sealed);
        assert!(detail.event.content.key().is_some());
    }
    let claimed = bench.claim(endpoint, 10).await;
    assert_eq!(claimed.iter().map(|delivery| delivery.event.payload.clone()).collect::<Vec<_>>(), payloads);
    assert_eq!(claimed[0].event.headers, headers);
    assert!(claimed.iter().all(|delivery| delivery.event.content.key().is_some()));
}

/// More than one statement may take at once, with duplicates of earlier commits and of this one.
pub(super) async fn a_large_commit_is_answered_in_its_order(bench: &Bench) {
    let [endpoint, other] = bench.endpoints(["crm", "erp"]).await;
    bench.accept((0..100).map(|number| event(number, &format!("key-{}", number * 7))).collect()).await;
    let mut expected = Vec::new();
    let mut first: std::collections::HashMap<i64, i64> = (0..100).map(|number| (number * 7, number)).collect();
    let mut events = Vec::new();
    for number in 1000..1700 {
        // Not in the order of the keys.
        let key = number * 37 % 500;
        let mut new = event(number, &format!("key-{key}"));
        owe(&mut new, endpoint, Place::Table);
        owe(&mut new, other, Place::Delayed(START_MS));
        events.push(if key % 3 == 0 { bench.seal(new) } else { new });
        let known = *first.entry(key).or_insert(number);
        expected.push((id(known), known != number));
    }
    assert_eq!(bench.accept(events).await, expected);
    let fresh: Vec<DeliveryId> =
        expected.iter().filter(|known| !known.1).map(|known| DeliveryId(known.0.0 + 1)).collect();
    assert_eq!(ids(&bench.claim(endpoint, 2000).await), fresh);
    assert_eq!(bench.store.promote(bench.node, START_MS, 2000).await.unwrap().deliveries.len(), fresh.len());
}

pub(super) async fn a_delivery_waits_where_it_is_put(bench: &Bench) {
    let [memory, table, delayed, held, unused] = bench.endpoints(["m", "t", "d", "h", "u"]).await;
    let mut new = event(1, "a");
    owe(&mut new, memory, Place::Memory);
    owe(&mut new, table, Place::Table);
    owe(&mut new, delayed, Place::Delayed(START_MS + 5000));
    owe(&mut new, held, Place::Held);
    let stored = bench.put(new).await;
    let detail = bench.store.event(stored).await.unwrap();
    assert!(!detail.row.unrouted);
    let deliveries: Vec<_> = detail
        .row
        .deliveries
        .iter()
        .map(|row| (row.id.0 - stored.0, row.endpoint, row.status, row.next_retry_ms))
        .collect();
    assert_eq!(
        deliveries,
        [
            (1, memory, Status::Owed, None),
            (2, table, Status::Owed, None),
            (3, delayed, Status::Waiting, Some(START_MS + 5000)),
            (4, held, Status::Held, None)
        ]
    );
    assert_eq!(bench.store.backlog().await.unwrap(), [table]);
    assert_eq!(bench.store.next_due().await.unwrap(), Some(START_MS + 5000));
    for endpoint in [memory, delayed, held, unused] {
        assert!(bench.claim(endpoint, 10).await.is_empty(), "{endpoint}");
    }
    assert_eq!(bench.claim(table, 10).await.len(), 1);
    assert!(bench.store.backlog().await.unwrap().is_empty());
}

/// Of two nodes that accept the same keys at the same time one has the event, and the other is told so.
pub(super) async fn at_the_same_time_one_is_new(bench: &Bench) {
    let (store, node) = bench.other().await;
    for round in 0..6 {
        let events = |offset: i64, backwards: bool| {
            let mut numbers: Vec<i64> = (0..40).collect();
            if backwards {
                numbers.reverse();
            }
            let event = |number: i64| event(round * 1000 + offset + number, &format!("{round}-{number}"));
            numbers.into_iter().map(event).collect::<Vec<_>>()
        };
        let (mine, theirs) =
            tokio::join!(bench.accept(events(0, false)), accept(&*store, node, events(500, round % 2 == 0)));
        let mut theirs = theirs;
        if round % 2 == 0 {
            theirs.reverse();
        }
        for (mine, theirs) in mine.into_iter().zip(theirs) {
            assert_eq!(mine.0, theirs.0, "both name the same event");
            assert!(mine.1 != theirs.1, "one of them is new");
        }
    }
}
