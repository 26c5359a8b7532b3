//! Mappings: every edit is a version, and at most one of a name is in force.

use super::*;

fn new(name: &str, config: &str, activate: bool, expected: Option<i64>) -> NewMapping {
    NewMapping { name: name.into(), config: config.into(), activate, expected }
}

pub(super) async fn an_edit_is_a_version(bench: &Bench) {
    let config = serde_json::to_string(&TEXTS).unwrap();
    assert!(bench.store.mappings().await.unwrap().is_empty());
    assert_not_found(bench.store.mapping("to-crm").await);
    assert_eq!(bench.store.put_mapping(&new("to-crm", &config, true, Some(0)), START_MS).await.unwrap(), 1);
    assert_eq!(bench.store.put_mapping(&new("to-crm", "2", false, Some(1)), START_MS + 1).await.unwrap(), 2);
    assert_eq!(bench.store.put_mapping(&new("to-erp", "1", false, None), START_MS + 2).await.unwrap(), 1);
    let versions = bench.store.mapping("to-crm").await.unwrap();
    let versions: Vec<_> =
        versions.iter().map(|row| (row.version, &*row.config, row.created_ms, row.active, row.origin)).collect();
    assert_eq!(versions, [(2, "2", START_MS + 1, false, Origin::Api), (1, &*config, START_MS, true, Origin::Api)]);
    // Shown is what is in force, or else the newest.
    bench.store.put_mapping(&new("to-erp", "2", false, None), START_MS + 3).await.unwrap();
    let summaries = bench.store.mappings().await.unwrap();
    let summaries: Vec<_> =
        summaries.iter().map(|row| (&*row.name, row.versions, row.shown.version, row.shown.active)).collect();
    assert_eq!(summaries, [("to-crm", 2, 1, true), ("to-erp", 2, 2, false)]);
    // By apply, which says itself what it replaces.
    let apply = CatalogChange { put_mappings: vec![("to-crm".into(), "3".into())], ..Default::default() };
    bench.store.put_catalog(&apply, START_MS + 4).await.unwrap();
    let versions = bench.store.mapping("to-crm").await.unwrap();
    assert_eq!(
        versions.iter().map(|row| (row.version, row.active)).collect::<Vec<_>>(),
        [(3, true), (2, false), (1, false)]
    );
    let in_force = &bench.store.catalog().await.unwrap().mappings;
    assert_eq!((in_force.len(), in_force[0].version, in_force[0].origin), (1, 3, Origin::Apply));
}

pub(super) async fn an_edit_that_others_have_overtaken_is_refused(bench: &Bench) {
    let put =
        async |config: &str, expected| bench.store.put_mapping(&new("to-crm", config, true, expected), START_MS).await;
    assert_conflict(put("1", Some(1)).await);
    assert_eq!(put("1", None).await.unwrap(), 1);
    assert_conflict(put("2", Some(0)).await);
    assert_eq!(put("2", Some(1)).await.unwrap(), 2);
    assert_conflict(put("3", Some(1)).await);
    assert_eq!(bench.store.mapping("to-crm").await.unwrap().len(), 2, "what was refused left nothing");
    let drop = CatalogChange { drop_mappings: vec!["to-crm".into()], ..Default::default() };
    bench.store.put_catalog(&drop, START_MS).await.unwrap();
    assert_conflict(put("3", Some(2)).await);
    assert_eq!(put("3", Some(0)).await.unwrap(), 3);
}

pub(super) async fn an_old_version_comes_into_force_again(bench: &Bench) {
    for config in ["1", "2", "3"] {
        bench.store.put_mapping(&new("to-crm", config, true, None), START_MS).await.unwrap();
    }
    let apply = CatalogChange { put_mappings: vec![("other".into(), "1".into())], ..Default::default() };
    bench.store.put_catalog(&apply, START_MS).await.unwrap();
    bench.store.activate_mapping("to-crm", 1).await.unwrap();
    let active = bench.store.mapping("to-crm").await.unwrap();
    assert_eq!(active.iter().map(|row| row.active).collect::<Vec<_>>(), [false, false, true]);
    bench.store.activate_mapping("to-crm", 1).await.unwrap();
    assert_not_found(bench.store.activate_mapping("to-crm", 4).await);
    assert_not_found(bench.store.activate_mapping("nothing", 1).await);
    let in_force = bench.store.catalog().await.unwrap().mappings;
    let in_force: Vec<_> = in_force.iter().map(|row| (&*row.name, row.version, row.activated_by)).collect();
    assert_eq!(
        in_force,
        [("other", 1, Origin::Apply), ("to-crm", 1, Origin::Api)],
        "a refusal puts nothing out of force"
    );
    bench.store.activate_mapping("other", 1).await.unwrap();
    let other = &bench.store.catalog().await.unwrap().mappings[0];
    assert_eq!((other.origin, other.activated_by), (Origin::Apply, Origin::Api));
}

/// Of editors who saw the same version one wins; those who did not look have a version each.
pub(super) async fn at_the_same_time_one_editor_wins(bench: &Bench) {
    let (store, _) = bench.other().await;
    for round in 0..5 {
        let edits = ["a", "b"].map(|config| new("to-crm", config, true, Some(round)));
        let (one, other) =
            tokio::join!(bench.store.put_mapping(&edits[0], START_MS), store.put_mapping(&edits[1], START_MS));
        let (won, lost) = if one.is_ok() { (one, other) } else { (other, one) };
        assert_eq!(won.unwrap(), round + 1);
        assert_conflict(lost);
    }
    for _ in 0..5 {
        let edits = ["a", "b"].map(|config| new("to-erp", config, true, None));
        let (one, other) =
            tokio::join!(bench.store.put_mapping(&edits[0], START_MS), store.put_mapping(&edits[1], START_MS));
        assert_eq!((one.unwrap() - other.unwrap()).abs(), 1);
    }
    for name in ["to-crm", "to-erp"] {
        let versions = bench.store.mapping(name).await.unwrap();
        assert_eq!(versions.iter().filter(|row| row.active).count(), 1, "{name}");
    }
}

pub(super) async fn the_latest_events_of_types_are_found(bench: &Bench) {
    let of = |number, name: &str| with(event(number, &format!("{number}")), |event| event.event_type = name.into());
    bench.accept(vec![of(1, "a.b"), of(2, "a_b"), of(3, "a.b"), of(4, "c"), of(5, "a.b.c")]).await;
    let latest = async |types: &[&str], limit| {
        let types: Vec<String> = types.iter().map(|name| (*name).to_owned()).collect();
        bench.store.latest_events(&types, limit).await.unwrap()
    };
    assert_eq!(latest(&["a.b"], 10).await, [3, 1].map(id));
    assert_eq!(latest(&["a.b", "c", "it's"], 2).await, [4, 3].map(id));
    assert_eq!(latest(&["A.B"], 10).await, []);
    assert_eq!(latest(&[], 10).await, []);
}
