//! Components and their versions.

use super::*;

fn new(name: &str, kind: &'static str, digest: &str) -> NewVersion {
    NewVersion {
        name: name.into(),
        kind,
        digest: digest.into(),
        manifest: serde_json::to_string(&TEXTS).expect("JSON"),
        component: [digest.as_bytes(), b"\0\xff'"].concat(),
    }
}

pub(super) async fn a_version_is_stored_once(bench: &Bench) {
    let first = bench.store.put_version(&new("crm", "connector", "sha256:1"), false, START_MS).await.unwrap();
    assert_eq!((&*first.name, &*first.digest, first.size, first.created_ms), ("crm", "sha256:1", 11, START_MS));
    assert_eq!(first.manifest, serde_json::to_string(&TEXTS).unwrap());
    let again = bench.store.put_version(&new("crm", "connector", "sha256:1"), false, START_MS + 1).await.unwrap();
    assert_eq!((again.id, again.created_ms), (first.id, START_MS));
    // The same component under another name, and another under the same.
    let other = bench.store.put_version(&new("erp", "connector", "sha256:1"), false, START_MS + 2).await.unwrap();
    let second = bench.store.put_version(&new("crm", "connector", "sha256:2"), false, START_MS + 3).await.unwrap();
    assert!(first.id < other.id && other.id < second.id);
    let versions = bench.store.versions().await.unwrap();
    assert_eq!(versions.iter().map(|version| version.id).collect::<Vec<_>>(), [second.id, other.id, first.id]);
    assert_eq!(bench.store.component(second.id).await.unwrap(), b"sha256:2\0\xff'");
    assert_not_found(bench.store.component(second.id + 1).await);
    let connectors = bench.store.connectors().await.unwrap();
    let connectors: Vec<_> = connectors.iter().map(|row| (&*row.name, &*row.kind, row.active, row.previous)).collect();
    assert_eq!(connectors, [("crm", "connector", None, None), ("erp", "connector", None, None)]);
}

pub(super) async fn a_name_is_of_one_kind(bench: &Bench) {
    bench.store.put_version(&new("crm", "connector", "sha256:1"), true, START_MS).await.unwrap();
    assert_conflict(bench.store.put_version(&new("crm", "mapping", "sha256:2"), true, START_MS).await);
    assert_eq!(bench.store.versions().await.unwrap().len(), 1);
    assert_eq!(bench.store.connectors().await.unwrap()[0].kind, "connector");
}

pub(super) async fn one_version_is_active_and_the_one_before_is_known(bench: &Bench) {
    let state = async || {
        let row = bench.store.connectors().await.unwrap().remove(0);
        (row.active, row.previous)
    };
    let [one, two, three] = ["sha256:1", "sha256:2", "sha256:3"].map(|digest| new("crm", "connector", digest));
    let first = bench.store.put_version(&one, true, START_MS).await.unwrap().id;
    assert_eq!(state().await, (Some(first), None));
    let second = bench.store.put_version(&two, true, START_MS).await.unwrap().id;
    assert_eq!(state().await, (Some(second), Some(first)));
    // To what is active already nothing changes.
    bench.store.put_version(&two, true, START_MS).await.unwrap();
    bench.store.activate("crm", "sha256:2").await.unwrap();
    assert_eq!(state().await, (Some(second), Some(first)));
    let third = bench.store.put_version(&three, false, START_MS).await.unwrap().id;
    assert_eq!(state().await, (Some(second), Some(first)));
    bench.store.activate("crm", "sha256:3").await.unwrap();
    assert_eq!(state().await, (Some(third), Some(second)));
    bench.store.activate("crm", "sha256:2").await.unwrap();
    assert_eq!(state().await, (Some(second), Some(third)));
    assert_not_found(bench.store.activate("crm", "sha256:4").await);
    assert_not_found(bench.store.activate("erp", "sha256:1").await);
    assert_eq!(state().await, (Some(second), Some(third)));
}

/// `plugin::manifest` takes as much.
pub(super) async fn a_component_of_the_greatest_size_is_kept(bench: &Bench) {
    let component: Vec<u8> = (0..16 << 20).map(|at: u32| (at % 253) as u8).collect();
    let large = NewVersion { component: component.clone(), ..new("crm", "connector", "sha256:1") };
    let row = bench.store.put_version(&large, true, START_MS).await.unwrap();
    assert_eq!(row.size, 16 << 20);
    assert!(bench.store.component(row.id).await.unwrap() == component);
}

pub(super) async fn at_the_same_time_it_is_one_version(bench: &Bench) {
    let (store, _) = bench.other().await;
    for round in 0..5 {
        let version = new("crm", "connector", &format!("sha256:{round}"));
        let (one, other) = tokio::join!(
            bench.store.put_version(&version, true, START_MS),
            store.put_version(&version, true, START_MS)
        );
        assert_eq!(one.unwrap().id, other.unwrap().id);
    }
    assert_eq!(bench.store.versions().await.unwrap().len(), 5);
}
