//! What is due happens once, and a sync job goes on where it stopped.

use super::*;
use crate::delivery::SyncStep;
use crate::event::SyncRunId;

async fn put(bench: &Bench) {
    let pair = |name: &str| vec![(name.to_owned(), "{}".to_owned())];
    let change = CatalogChange { put_schedules: pair("nightly"), put_sync_jobs: pair("nightly"), ..Default::default() };
    bench.store.put_catalog(&change, START_MS).await.expect("it is put");
}

fn run(number: i64, due: Option<(u64, u64)>, resume: bool) -> NewSyncRun {
    NewSyncRun { id: SyncRunId(id(number).0), name: "nightly".into(), now_ms: START_MS + number as u64, due, resume }
}

fn started(begun: Begun) -> Option<String> {
    match begun {
        Begun::Run { cursor } => cursor,
        other => panic!("it did not begin: {other:?}"),
    }
}

/// Settles a page of a run.
async fn page(bench: &Bench, endpoint: i64, number: i64, next: Next, step: SyncStep, emitted: Vec<NewEvent>) {
    bench.put(owed(number, endpoint)).await;
    let delivery = bench.claim_one(endpoint).await;
    let said = Attempt { code: Some("http-500".into()), message: Some("São".into()), ..attempt(Outcome::Rejected) };
    let settled =
        Settlement { emitted, sync: Some(step), attempt: Some(said), ..settlement(delivery, next, Outcome::Rejected) };
    assert!(matches!(bench.settle(settled).await, Done::Settled { .. }));
}

pub(super) async fn a_schedule_is_fired_once(bench: &Bench) {
    put(bench).await;
    let fired = async || {
        let rows = bench.store.schedules().await.unwrap();
        rows.iter().map(|row| (row.kind, row.fired_ms - START_MS)).collect::<Vec<_>>()
    };
    let (schedule, job) = (ScheduleKind::Schedule, ScheduleKind::SyncJob);
    assert_eq!(fired().await, [(schedule, 0), (job, 0)]);
    bench.store.fired("nightly", START_MS, START_MS + 5).await.unwrap();
    assert_eq!(fired().await, [(schedule, 5), (job, 0)]);
    // Somebody else did since.
    bench.store.fired("nightly", START_MS, START_MS + 9).await.unwrap();
    bench.store.fired("unknown", START_MS, START_MS + 9).await.unwrap();
    assert_eq!(fired().await, [(schedule, 5), (job, 0)]);
    // Put anew it begins anew.
    bench
        .store
        .put_catalog(
            &CatalogChange { put_schedules: vec![("nightly".into(), "{}".into())], ..Default::default() },
            START_MS + 20,
        )
        .await
        .unwrap();
    assert_eq!(fired().await, [(schedule, 20), (job, 0)]);
}

pub(super) async fn a_job_runs_once_at_a_time(bench: &Bench) {
    put(bench).await;
    let begin = async |run: &NewSyncRun| bench.store.begin_sync(run).await.unwrap();
    assert_eq!(started(begin(&run(1, Some((START_MS + 1, START_MS)), false)).await), None);
    assert_eq!(begin(&run(2, Some((START_MS + 1, START_MS)), false)).await, Begun::Elsewhere);
    assert_eq!(begin(&run(3, Some((START_MS + 3, START_MS + 1)), false)).await, Begun::Running);
    assert_eq!(begin(&run(4, None, true)).await, Begun::Running);
    // It was due all the same, and is not made up for.
    assert_eq!(begin(&run(5, Some((START_MS + 3, START_MS + 1)), false)).await, Begun::Elsewhere);
    let other = NewSyncRun { name: "other".into(), ..run(6, None, false) };
    assert_eq!(started(begin(&other).await), None, "another job");
    let running = bench.store.running_syncs().await.unwrap();
    assert_eq!(running.len(), 2);
    let row = running.iter().find(|row| row.name == "nightly").unwrap();
    assert_eq!((row.id, row.state, row.due_ms), (SyncRunId(id(1).0), SyncState::Running, Some(START_MS + 1)));
    assert_eq!((row.started_ms, row.finished_ms, &row.cursor), (START_MS + 1, None, &None));
    assert_eq!((row.pages, row.items, row.known), (0, 0, 0));
    assert_eq!((&row.code, &row.message), (&None, &None));
    assert_eq!(bench.store.sync_runs("other", 10).await.unwrap()[0].due_ms, None);
}

pub(super) async fn a_run_counts_its_pages_and_ends(bench: &Bench) {
    put(bench).await;
    let [endpoint] = bench.endpoints(["shop"]).await;
    bench.store.begin_sync(&run(1, None, false)).await.unwrap();
    let of = SyncRunId(id(1).0);
    // The last event asks for the next page, and is no item.
    let emitted = vec![event(101, "item-1"), event(102, "item-2"), event(103, "page-2")];
    let more = SyncStep::Page { run: of, cursor: Some(TEXTS.concat()) };
    page(bench, endpoint, 10, Next::Delivered, more, emitted).await;
    let row = bench.store.running_syncs().await.unwrap().remove(0);
    assert_eq!((row.pages, row.items, row.known, row.cursor), (1, 2, 0, Some(TEXTS.concat())));
    let emitted = vec![event(201, "item-2"), event(202, "item-3"), event(203, "item-1")];
    page(bench, endpoint, 11, Next::Delivered, SyncStep::Page { run: of, cursor: None }, emitted).await;
    assert!(bench.store.running_syncs().await.unwrap().is_empty());
    let row = bench.store.sync_runs("nightly", 10).await.unwrap().remove(0);
    assert_eq!((row.state, row.pages, row.items, row.known), (SyncState::Succeeded, 2, 5, 2));
    assert_eq!((row.cursor, row.finished_ms), (None, Some(START_MS + 3500)));
    // And the next one begins, at the beginning even when it should resume.
    let next = bench.store.begin_sync(&run(2, None, true)).await.unwrap();
    assert_eq!(started(next), None);
    let runs = bench.store.sync_runs("nightly", 1).await.unwrap();
    assert_eq!((runs.len(), runs[0].id), (1, SyncRunId(id(2).0)), "newest first");
}

pub(super) async fn a_run_that_failed_is_resumed_where_it_stopped(bench: &Bench) {
    put(bench).await;
    let [endpoint] = bench.endpoints(["shop"]).await;
    bench.store.begin_sync(&run(1, None, false)).await.unwrap();
    let of = SyncRunId(id(1).0);
    // An empty cursor is one.
    let more = SyncStep::Page { run: of, cursor: Some(String::new()) };
    page(bench, endpoint, 10, Next::Delivered, more, vec![event(101, "page")]).await;
    page(bench, endpoint, 11, Next::Dead, SyncStep::Failed { run: of }, vec![]).await;
    let row = bench.store.sync_runs("nightly", 10).await.unwrap().remove(0);
    assert_eq!((row.state, row.finished_ms, row.pages, row.items), (SyncState::Failed, Some(START_MS + 3500), 1, 0));
    assert_eq!((row.code.as_deref(), row.message.as_deref()), (Some("http-500"), Some("São")));
    assert_eq!(row.cursor.as_deref(), Some(""));
    let resumed = bench.store.begin_sync(&run(2, None, true)).await.unwrap();
    assert_eq!(started(resumed).as_deref(), Some(""));
    assert_eq!(bench.store.sync_runs("nightly", 1).await.unwrap()[0].cursor.as_deref(), Some(""));
    let of = SyncRunId(id(2).0);
    page(bench, endpoint, 12, Next::Dead, SyncStep::Failed { run: of }, vec![]).await;
    let anew = bench.store.begin_sync(&run(3, None, false)).await.unwrap();
    assert_eq!(started(anew), None, "not asked to");
}

/// A page whose delivery is another's by now steps nothing.
pub(super) async fn a_stale_page_steps_nothing(bench: &Bench) {
    put(bench).await;
    let [endpoint] = bench.endpoints(["shop"]).await;
    bench.store.begin_sync(&run(1, None, false)).await.unwrap();
    bench.put(owed(1, endpoint)).await;
    let delivery = bench.claim_one(endpoint).await;
    let settled = Settlement {
        sync: Some(SyncStep::Page { run: SyncRunId(id(1).0), cursor: None }),
        ..settlement(delivery, Next::Delivered, Outcome::Delivered)
    };
    let (store, other) = bench.other().await;
    assert_eq!(store.commit(other, &[Work::Settle(Box::new(settled))]).await.unwrap(), [Done::Stale]);
    let row = bench.store.running_syncs().await.unwrap().remove(0);
    assert_eq!((row.state, row.pages), (SyncState::Running, 0));
}

pub(super) async fn at_the_same_time_one_runs(bench: &Bench) {
    put(bench).await;
    let (store, _) = bench.other().await;
    for round in 0..5 {
        let name = format!("job-{round}");
        let runs = [1, 2].map(|number| NewSyncRun { name: name.clone(), ..run(round * 10 + number, None, false) });
        let (one, other) = tokio::join!(bench.store.begin_sync(&runs[0]), store.begin_sync(&runs[1]));
        let (one, other) = (one.unwrap(), other.unwrap());
        let ran = Begun::Run { cursor: None };
        let is_right = one == ran && other == Begun::Running || one == Begun::Running && other == ran;
        assert!(is_right, "{one:?} {other:?}");
        assert_eq!(bench.store.sync_runs(&name, 10).await.unwrap().len(), 1);
    }
    let due = Some((START_MS + 1, START_MS));
    let runs = [91, 92].map(|number| run(number, due, false));
    let (one, other) = tokio::join!(bench.store.begin_sync(&runs[0]), store.begin_sync(&runs[1]));
    let (one, other) = (one.unwrap(), other.unwrap());
    let ran = Begun::Run { cursor: None };
    assert!(one == ran && other == Begun::Elsewhere || one == Begun::Elsewhere && other == ran, "{one:?} {other:?}");
}
