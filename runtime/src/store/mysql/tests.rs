//! The hot path on a server. `TOMADA_TEST_MYSQL` says where one is.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::clock::Ids;
use crate::delivery::{Attempt, Begin, Next, Outcome, Settlement};
use crate::event::{Content, DeliveryId, Event, Place};
use crate::ingress::key::Key;
use crate::store::scratch::Scratch;
use crate::store::sql::query;

const NOW: u64 = 1_767_225_600_000;

/// A database of its own.
struct Bench {
    database: Scratch,
    mysql: MySql,
    ring: Keyring,
    ids: Ids,
    _directory: tempfile::TempDir,
}

impl Bench {
    /// None where there is no server.
    async fn new() -> Option<Bench> {
        let database = Scratch::of_test("TOMADA_TEST_MYSQL").await?;
        let directory = tempfile::TempDir::new().unwrap();
        let ring = Keyring::open(&directory.path().join("keyring"), 1).unwrap();
        let mysql = MySql::connect(database.url()).await.unwrap();
        Some(Bench { database, mysql, ring, ids: Ids::of_node(1), _directory: directory })
    }

    async fn finish(self) {
        self.mysql.hot.close().await;
        self.mysql.others.close().await;
        self.database.remove().await.unwrap();
    }

    async fn node(&self) -> i64 {
        let insert = sqlx::query("insert into nodes (started_at) values (1)");
        insert.execute(&self.mysql.others).await.unwrap().last_insert_id() as i64
    }

    fn known(&self) -> Known<'_> {
        Known { ring: &self.ring, rehidden: false }
    }

    fn event(&self, key: &str, places: &[(i64, i8, Option<i64>, Place)]) -> NewEvent {
        let id = self.ids.next(NOW);
        let event = Event {
            id: EventId(id),
            source: "crm".into(),
            event_type: "lead.created".into(),
            created_ms: NOW,
            content_type: "application/json".into(),
            headers: vec![("x-a".to_owned(), "ü".to_owned())],
            payload: bytes::Bytes::from(vec![b'{'; 300]),
            parent: None,
            content: Content::Clear,
        };
        let delivery =
            |(at, (endpoint, priority, ordering, place)): (usize, &(i64, i8, Option<i64>, Place))| NewDelivery {
                id: DeliveryId(id + 1 + at as i64),
                endpoint: *endpoint,
                route: 1,
                queue: 1,
                priority: *priority,
                ordering: *ordering,
                place: *place,
            };
        NewEvent {
            event: Arc::new(event),
            key: Key::given("crm", key),
            deliveries: places.iter().enumerate().map(delivery).collect(),
            sealed: None,
            subjects: Vec::new(),
        }
    }

    async fn commit(&self, node: i64, work: Vec<Work>) -> Vec<Done> {
        self.mysql.commit(self.known(), node, &work).await.unwrap()
    }

    async fn accept(&self, node: i64, key: &str, places: &[(i64, i8, Option<i64>, Place)]) -> EventId {
        let done = self.commit(node, vec![Work::Accept(self.event(key, places))]).await;
        let [Done::Accepted { id, .. }] = done[..] else { panic!("{done:?}") };
        id
    }

    async fn claim(&self, node: i64, endpoint: i64, limit: u32) -> Vec<Delivery> {
        self.mysql.claim(&self.ring, node, endpoint, limit).await.unwrap()
    }

    async fn number(&self, sql: &'static str) -> i64 {
        let mut conn = self.mysql.read().await.unwrap();
        query(sql).fetch_one(&mut conn).await.unwrap().try_get(0).unwrap()
    }
}

fn settlement(delivery: &Delivery, next: Next, emitted: Vec<NewEvent>) -> Work {
    let attempt = Attempt {
        started_ms: NOW,
        duration_us: 1500,
        outcome: if next == Next::Delivered { Outcome::Delivered } else { Outcome::Transient },
        http_status: Some(503),
        code: Some("http-503".into()),
        message: Some("o'ü\\".into()),
        retry_after_ms: None,
        connector_version: None,
        mapping_version: None,
        mapping_id: None,
        log: None,
        sealed: None,
    };
    Work::Settle(Box::new(Settlement {
        delivery: delivery.clone(),
        next,
        charge: true,
        attempt: Some(attempt),
        emitted,
        sync: None,
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_event() {
    let Some(bench) = Bench::new().await else { return };
    let node = bench.node().await;
    let place = [(1, 0, None, Place::Memory)];
    let first = bench.event("a", &place);
    let id = first.event.id;
    let second = bench.event("a", &place);
    let third = bench.event("a ", &place);
    let done = bench.commit(node, vec![Work::Accept(first), Work::Accept(second), Work::Accept(third)]).await;
    assert_eq!(done[0], Done::Accepted { id, duplicate: false });
    assert_eq!(done[1], Done::Accepted { id, duplicate: true });
    assert!(matches!(done[2], Done::Accepted { duplicate: false, .. }), "a space at the end is another key");
    let work = vec![Work::Accept(bench.event("b", &place)), Work::Accept(bench.event("a", &place))];
    let done = bench.commit(node, work).await;
    assert!(matches!(done[0], Done::Accepted { duplicate: false, .. }));
    assert_eq!(done[1], Done::Accepted { id, duplicate: true });
    // The answer to a commit was lost: the same once more.
    let again = bench.event("c", &place);
    let copy = |new: &NewEvent| NewEvent {
        event: new.event.clone(),
        key: new.key.clone(),
        deliveries: new.deliveries.clone(),
        sealed: None,
        subjects: Vec::new(),
    };
    let id = again.event.id;
    for _ in 0..2 {
        let done = bench.commit(node, vec![Work::Accept(copy(&again))]).await;
        assert_eq!(done, [Done::Accepted { id, duplicate: false }]);
    }
    assert_eq!(bench.number("select count(*) from integration_events").await, 4);
    assert_eq!(bench.number("select count(*) from webhook_deliveries where node_id > 0").await, 4);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_ends_once() {
    let Some(bench) = Bench::new().await else { return };
    let node = bench.node().await;
    for key in ["a", "b", "c", "d"] {
        bench.accept(node, key, &[(1, 0, None, Place::Table)]).await;
    }
    let taken = bench.claim(node, 1, 10).await;
    assert_eq!(taken.len(), 4);
    assert_eq!(taken[0].event.headers, [("x-a".to_owned(), "ü".to_owned())]);
    let begin = |number| Work::Begin(Begin { delivery: taken[0].id, number, started_ms: NOW });
    let done = bench.commit(node, vec![begin(1)]).await;
    assert_eq!(done, [Done::Begun]);
    let child = bench.event("child", &[(1, 0, None, Place::Held)]);
    let known = bench.event("b", &[]);
    let done = bench
        .commit(
            node,
            vec![
                settlement(&taken[0], Next::Delivered, vec![child, known]),
                settlement(&taken[1], Next::Retry(NOW + 5), vec![]),
                settlement(&taken[2], Next::Dead, vec![]),
                settlement(&taken[2], Next::Delivered, vec![]),
                settlement(&taken[3], Next::Held, vec![]),
            ],
        )
        .await;
    let settled = |emitted: &[bool]| Done::Settled { emitted: emitted.to_vec() };
    assert_eq!(done, [settled(&[true, false]), settled(&[]), settled(&[]), Done::Stale, settled(&[])]);
    let done = bench.commit(node, vec![settlement(&taken[1], Next::Delivered, vec![]), begin(2)]).await;
    assert_eq!(done, [Done::Stale, Done::Stale]);
    assert_eq!(bench.number("select count(*) from delivery_attempts").await, 4);
    assert_eq!(bench.number("select count(*) from delivery_attempts where outcome = 0").await, 1);
    assert_eq!(bench.number("select count(*) from dead_letter where code = 'http-503'").await, 1);
    assert_eq!(bench.number("select count(*) from webhook_deliveries where node_id <> 0").await, 0);
    let promoted = bench.mysql.promote(&bench.ring, node, NOW + 4, 10).await.unwrap();
    assert_eq!((promoted.deliveries.len(), promoted.to_table.len()), (0, 0));
    let promoted = bench.mysql.promote(&bench.ring, node, NOW + 5, 10).await.unwrap();
    assert_eq!(promoted.deliveries.len(), 1);
    assert_eq!((promoted.deliveries[0].tries, promoted.deliveries[0].charged), (1, 1));
    assert_eq!(bench.number("select count(*) from retry_queue").await, 0);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_best_go_first_and_those_with_a_key_one_by_one() {
    let Some(bench) = Bench::new().await else { return };
    let node = bench.node().await;
    let low = bench.accept(node, "low", &[(1, -5, None, Place::Table)]).await;
    let one = bench.accept(node, "1", &[(1, 0, Some(7), Place::Table)]).await;
    let two = bench.accept(node, "2", &[(1, 0, Some(7), Place::Table)]).await;
    let high = bench.accept(node, "high", &[(1, 9, None, Place::Table)]).await;
    bench.accept(node, "elsewhere", &[(2, 9, Some(7), Place::Table)]).await;
    let late = bench.accept(node, "late", &[(1, 9, Some(8), Place::Delayed(NOW + 1))]).await;
    let events = |deliveries: &[Delivery]| deliveries.iter().map(|delivery| delivery.event.id).collect::<Vec<_>>();
    let taken = bench.claim(node, 1, 2).await;
    assert_eq!(events(&taken), [high, one]);
    assert_eq!(events(&bench.claim(node, 1, 9).await), [low]);
    bench.commit(node, vec![settlement(&taken[1], Next::Retry(NOW + 1), vec![])]).await;
    assert_eq!(events(&bench.claim(node, 1, 9).await), []);
    let promoted = bench.mysql.promote(&bench.ring, node, NOW + 1, 10).await.unwrap();
    assert_eq!((promoted.deliveries.len(), promoted.to_table), (0, vec![1, 1]));
    let taken = bench.claim(node, 1, 9).await;
    assert_eq!(events(&taken), [late, one]);
    bench.commit(node, vec![settlement(&taken[1], Next::Dead, vec![])]).await;
    assert_eq!(events(&bench.claim(node, 1, 9).await), [two]);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_at_the_same_time_take_each_delivery_once() {
    let Some(bench) = Bench::new().await.map(Arc::new) else { return };
    let nodes = [bench.node().await, bench.node().await];
    for part in 0..4 {
        let place = |at: i64| (1 + at % 2, 0, None, Place::Table);
        let work = (0..100).map(|at| Work::Accept(bench.event(&format!("{part}-{at}"), &[place(at)])));
        bench.commit(nodes[0], work.collect()).await;
    }
    let tasks = (0..4).map(|at| {
        let (bench, node) = (bench.clone(), nodes[at % 2]);
        tokio::spawn(async move {
            let mut taken = Vec::new();
            for endpoint in [1, 2].into_iter().cycle().take(60) {
                let claimed = bench.claim(node, endpoint, 7).await;
                let ends = claimed.iter().map(|delivery| settlement(delivery, Next::Delivered, vec![])).collect();
                assert!(bench.commit(node, ends).await.iter().all(|done| *done != Done::Stale));
                taken.extend(claimed.into_iter().map(|delivery| delivery.id));
                // Both want the same new keys.
                let work = (0..8).map(|at| Work::Accept(bench.event(&format!("{endpoint}-{at}-new"), &[])));
                bench.commit(node, work.collect()).await;
            }
            taken
        })
    });
    let mut taken = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        taken.extend(task.await.unwrap());
    }
    let number = taken.len();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!((number, taken.len()), (400, 400));
    assert_eq!(bench.number("select count(*) from integration_events").await, 416);
    Arc::into_inner(bench).unwrap().finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_what_another_holds() {
    let Some(bench) = Bench::new().await else { return };
    let node = bench.node().await;
    let places = [(1, 0, Some(7), Place::Table), (2, 0, Some(7), Place::Table), (3, 0, None, Place::Delayed(NOW))];
    for key in ["a", "b", "c"] {
        bench.accept(node, key, &places).await;
    }
    let mine = bench.claim(node, 1, 1).await;
    // Somebody is in the middle of a claim, a settle and a promotion.
    let mut claims = bench.mysql.begin().await.unwrap();
    assert_eq!(Hot(&mut claims).claim(&bench.ring, node, 2, 1).await.unwrap().len(), 1);
    let mut settles = bench.mysql.begin().await.unwrap();
    let end = [settlement(&mine[0], Next::Delivered, vec![]), Work::Accept(bench.event("d", &places))];
    batch::commit(&mut Hot(&mut settles), bench.known(), node, &end).await.unwrap();
    let mut promotes = bench.mysql.begin().await.unwrap();
    assert_eq!(Hot(&mut promotes).promote(&bench.ring, node, NOW, 1).await.unwrap().deliveries.len(), 1);
    let others = async {
        assert_eq!(bench.claim(node, 2, 9).await.len(), 0, "its order is kept");
        assert_eq!(bench.claim(node, 1, 9).await.len(), 0, "what is before it is not settled yet");
        assert_eq!(bench.mysql.promote(&bench.ring, node, NOW, 9).await.unwrap().deliveries.len(), 2);
        bench.accept(node, "e", &places).await;
        assert_eq!(bench.number("select count(*) from webhook_deliveries where endpoint_id = 1").await, 4);
    };
    timeout(Duration::from_secs(5), others).await.expect("it waited");
    for conn in [claims, settles, promotes] {
        conn.commit().await.unwrap();
    }
    assert_eq!(bench.claim(node, 1, 9).await.len(), 1);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_left_commits_nothing() {
    let Some(bench) = Bench::new().await else { return };
    let node = bench.node().await;
    sqlx::query("update nodes set left_at = 1").execute(&bench.mysql.others).await.unwrap();
    let work = [Work::Accept(bench.event("a", &[]))];
    let refused = bench.mysql.commit(bench.known(), node, &work).await;
    assert!(matches!(refused, Err(StoreError::Fenced)), "{refused:?}");
    assert!(matches!(bench.mysql.claim(&bench.ring, node, 1, 1).await, Err(StoreError::Fenced)));
    assert!(matches!(bench.mysql.promote(&bench.ring, node, NOW, 1).await, Err(StoreError::Fenced)));
    assert_eq!(bench.number("select count(*) from integration_events").await, 0);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_was_carried_out_by_half_is_begun_again() {
    let Some(bench) = Bench::new().await else { return };
    for sql in [
        "drop table erasures",
        "drop table reindexing",
        "delete from _sqlx_migrations where version > 8",
        "update _sqlx_migrations set success = false where version = 8",
    ] {
        sqlx::query(sql).execute(&bench.mysql.others).await.unwrap();
    }
    let url = bench.database.url();
    let (one, two) = tokio::join!(MySql::connect(url), MySql::connect(url));
    for other in [one.unwrap(), two.unwrap()] {
        other.others.close().await;
    }
    assert_eq!(bench.number("select count(*) from erasures").await, 0);
    let all = sqlx::migrate!("../migrations/mysql").iter().count();
    assert_eq!(bench.number("select count(*) from _sqlx_migrations where success").await, all as i64);
    bench.finish().await;
}

#[test]
fn versions_are_read() {
    for (version, known) in [
        ("8.0.36", true),
        ("8.4.3-0ubuntu1", true),
        ("9.1.0", true),
        ("5.7.44-log", false),
        ("10.6.0-MariaDB", true),
        ("10.11.19-MariaDB-0+deb12u1", true),
        ("11.4.2-MariaDB", true),
        ("10.5.25-MariaDB", false),
        ("what", false),
    ] {
        assert_eq!(is_known(version), known, "{version}");
    }
}
