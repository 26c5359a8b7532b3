//! The configuration as it stands in the database.

use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn put(name: &str, config: &str) -> Vec<(String, String)> {
    vec![(name.into(), config.into())]
}

pub(super) async fn it_is_read_as_it_was_put(bench: &Bench) {
    let empty = bench.store.catalog().await.unwrap();
    assert!(empty.sources.is_empty() && empty.queues.is_empty() && empty.endpoints.is_empty());
    assert!(empty.routes.is_empty() && empty.mappings.is_empty() && empty.schedules.is_empty());
    let config = serde_json::to_string(&TEXTS).unwrap();
    let change = CatalogChange {
        put_sources: put("site", &config),
        put_queues: put("default", &config),
        put_endpoints: put("crm", &config),
        put_mappings: put("to-crm", &config),
        put_schedules: put("nightly", &config),
        put_sync_jobs: put("nightly", "{}"),
        add_routes: vec![("lead.created".into(), "crm".into(), config.clone())],
        ..Default::default()
    };
    bench.store.put_catalog(&change, START_MS).await.unwrap();
    let catalog = bench.store.catalog().await.unwrap();
    assert_eq!(catalog.sources, put("site", &config));
    assert_eq!((&*catalog.queues[0].1, &catalog.queues[0].2), ("default", &config));
    let endpoint = &catalog.endpoints[0];
    assert_eq!((&*endpoint.name, &endpoint.config, &endpoint.paused, endpoint.removed), ("crm", &config, &None, false));
    let route = &catalog.routes[0];
    assert_eq!((route.endpoint, &route.config, route.removed), (endpoint.id, &config, false));
    let mapping = &catalog.mappings[0];
    assert_eq!((&*mapping.name, mapping.version, &mapping.config), ("to-crm", 1, &config));
    assert_eq!((mapping.origin, mapping.activated_by), (Origin::Apply, Origin::Apply));
    let schedules: Vec<_> =
        catalog.schedules.iter().map(|row| (row.kind, &*row.name, &*row.config, row.fired_ms)).collect();
    assert_eq!(
        schedules,
        [(ScheduleKind::Schedule, "nightly", &*config, START_MS), (ScheduleKind::SyncJob, "nightly", "{}", START_MS)]
    );
    // The same again changes no id.
    let again = CatalogChange {
        put_sources: put("site", "{}"),
        put_queues: put("default", "{}"),
        put_endpoints: put("crm", "{}"),
        ..Default::default()
    };
    bench.store.put_catalog(&again, START_MS + 1).await.unwrap();
    let after = bench.store.catalog().await.unwrap();
    assert_eq!(after.sources, put("site", "{}"));
    assert_eq!(after.queues, [(catalog.queues[0].0, "default".to_owned(), "{}".to_owned())]);
    assert_eq!((after.endpoints[0].id, &*after.endpoints[0].config), (endpoint.id, "{}"));
    assert_eq!((after.routes.len(), after.mappings[0].id), (1, mapping.id));
}

/// Byte by byte, whatever a country's dictionaries do.
pub(super) async fn names_are_ordered_by_their_bytes(bench: &Bench) {
    let mut all = ["a-b", "ab", "a.b", "a_b", "a1", "a", "b", "a10", "a2", "aa", "a-a"];
    let pairs = || all.iter().map(|name| ((*name).to_owned(), "{}".to_owned())).collect::<Vec<_>>();
    let change = CatalogChange {
        put_sources: pairs(),
        put_endpoints: pairs(),
        put_mappings: pairs(),
        put_schedules: pairs(),
        ..Default::default()
    };
    bench.store.put_catalog(&change, START_MS).await.unwrap();
    for name in all {
        bench.store.put_secret(name, b"x", START_MS, START_MS).await.unwrap();
    }
    all.sort_unstable();
    let catalog = bench.store.catalog().await.unwrap();
    assert_eq!(catalog.sources.iter().map(|row| &*row.0).collect::<Vec<_>>(), all);
    assert_eq!(catalog.endpoints.iter().map(|row| &*row.name).collect::<Vec<_>>(), all);
    assert_eq!(catalog.mappings.iter().map(|row| &*row.name).collect::<Vec<_>>(), all);
    assert_eq!(catalog.schedules.iter().map(|row| &*row.name).collect::<Vec<_>>(), all);
    assert_eq!(catalog.secrets.iter().map(|row| &*row.name).collect::<Vec<_>>(), all);
    let mappings = bench.store.mappings().await.unwrap();
    assert_eq!(mappings.iter().map(|row| &*row.name).collect::<Vec<_>>(), all);
}

/// Deliveries may still point to an endpoint and its routes; sources, queues and schedules go.
pub(super) async fn what_is_removed_may_come_back(bench: &Bench) {
    let change = CatalogChange {
        put_sources: [put("site", "{}"), put("crm", "{}")].concat(),
        put_queues: [put("slow", "{}"), put("fast", "{}")].concat(),
        put_endpoints: [put("crm", "{}"), put("erp", "{}")].concat(),
        put_mappings: [put("one", "1"), put("two", "2")].concat(),
        put_schedules: put("nightly", "{}"),
        put_sync_jobs: put("nightly", "{}"),
        add_routes: ["crm", "erp", "crm"].map(|name| ("lead.created".into(), name.into(), "{}".into())).to_vec(),
        ..Default::default()
    };
    bench.store.put_catalog(&change, START_MS).await.unwrap();
    let before = bench.store.catalog().await.unwrap();
    let drop = CatalogChange {
        drop_sources: names(&["site", "unknown"]),
        drop_queues: names(&["slow"]),
        drop_endpoints: names(&["crm"]),
        drop_mappings: names(&["one"]),
        drop_schedules: names(&["nightly"]),
        drop_routes: vec![before.routes[0].id],
        ..Default::default()
    };
    bench.store.put_catalog(&drop, START_MS + 1).await.unwrap();
    let after = bench.store.catalog().await.unwrap();
    assert_eq!(after.sources, put("crm", "{}"));
    assert_eq!(after.queues.iter().map(|queue| &*queue.1).collect::<Vec<_>>(), ["fast"]);
    assert_eq!(
        after.endpoints.iter().map(|row| (&*row.name, row.removed)).collect::<Vec<_>>(),
        [("crm", true), ("erp", false)]
    );
    assert_eq!(after.routes.iter().map(|row| row.removed).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(after.mappings.iter().map(|row| &*row.name).collect::<Vec<_>>(), ["two"]);
    assert_eq!(after.schedules.iter().map(|row| row.kind).collect::<Vec<_>>(), [ScheduleKind::SyncJob]);
    // A change is done in one order: what is dropped and put at once is there.
    let back = CatalogChange { put_endpoints: put("crm", "2"), put_mappings: put("one", "3"), ..Default::default() };
    bench.store.put_catalog(&back, START_MS + 2).await.unwrap();
    let back = bench.store.catalog().await.unwrap();
    assert_eq!((back.endpoints[0].id, back.endpoints[0].removed), (before.endpoints[0].id, false));
    assert_eq!((back.mappings[0].version, &*back.mappings[0].config), (2, "3"), "a version of its own");
    assert_eq!(back.routes.iter().map(|row| row.removed).collect::<Vec<_>>(), [true, false, false]);
    // A route to an endpoint that there is not is none.
    let lost = CatalogChange { add_routes: vec![("a".into(), "nobody".into(), "{}".into())], ..Default::default() };
    bench.store.put_catalog(&lost, START_MS + 3).await.unwrap();
    assert_eq!(bench.store.catalog().await.unwrap().routes.len(), 3);
}

pub(super) async fn what_is_held_is_owed_again_when_it_is_resumed(bench: &Bench) {
    let [endpoint, other] = bench.endpoints(["crm", "erp"]).await;
    for (at, to) in [(0, endpoint), (1, endpoint), (2, other)] {
        bench.settled(at, to, Next::Held, Outcome::Unauthorized).await;
    }
    bench.settled(3, endpoint, Next::Dead, Outcome::Rejected).await;
    for reason in TEXTS {
        bench.store.pause(endpoint, Some(reason)).await.unwrap();
        let paused = bench.store.catalog().await.unwrap().endpoints[0].paused.clone();
        assert_eq!(paused.as_deref(), Some(reason));
    }
    assert!(bench.claim(endpoint, 10).await.is_empty());
    bench.store.pause(endpoint, None).await.unwrap();
    let endpoints = bench.store.catalog().await.unwrap().endpoints;
    assert_eq!(endpoints[0].paused, None);
    assert_eq!(bench.store.backlog().await.unwrap(), [endpoint]);
    let claimed = bench.claim(endpoint, 10).await;
    assert_eq!(claimed.iter().map(|delivery| delivery.event.id).collect::<Vec<_>>(), [0, 1].map(id));
    assert_eq!((claimed[0].tries, claimed[0].charged), (1, 1), "what was tried stays on record");
    assert!(bench.claim(other, 10).await.is_empty(), "another's stay held");
    // Of one that is unknown nothing happens.
    bench.store.pause(endpoint + other + 1, Some("why")).await.unwrap();
    assert!(bench.store.catalog().await.unwrap().endpoints.iter().all(|row| row.paused.is_none()));
}
