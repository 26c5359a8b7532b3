//! API keys.

use super::*;

fn key(id: &str, created_ms: u64) -> KeyRow {
    KeyRow {
        id: id.into(),
        name: TEXTS.concat().replace(char::is_control, " "),
        hash: random_bytes::<32>().to_vec(),
        previous: None,
        scopes: vec!["*".into()],
        sources: None,
        addresses: None,
        not_before_ms: None,
        expires_ms: None,
        created_ms,
        created_by: None,
        revoked_ms: None,
        last_used_ms: None,
    }
}

/// All of it, in a form that can be compared.
fn whole(key: &KeyRow) -> String {
    let KeyRow { id, name, hash, previous, scopes, sources, addresses, .. } = key;
    let times = (key.not_before_ms, key.expires_ms, key.created_ms, key.revoked_ms, key.last_used_ms);
    format!("{id:?} {name:?} {hash:?} {previous:?} {scopes:?} {sources:?} {addresses:?} {times:?} {:?}", key.created_by)
}

pub(super) async fn a_key_is_kept_as_it_is(bench: &Bench) {
    let full = KeyRow {
        previous: Some((vec![0, 255, 39], START_MS + 1)),
        scopes: vec!["events:read".into(), "São".into()],
        sources: Some(vec!["crm".into()]),
        addresses: Some(vec![]),
        not_before_ms: Some(0),
        expires_ms: Some(START_MS + 2),
        created_by: Some("a".into()),
        revoked_ms: Some(START_MS + 3),
        last_used_ms: Some(START_MS + 4),
        ..key("b", START_MS)
    };
    let later = key("a", START_MS + 1);
    let same_time = key("a-first", START_MS);
    for key in [&full, &later, &same_time] {
        bench.store.put_key(key).await.unwrap();
    }
    let keys = bench.store.keys().await.unwrap();
    let expected = [&same_time, &full, &later].map(whole);
    assert_eq!(keys.iter().map(whole).collect::<Vec<_>>(), expected, "oldest first");
    assert_eq!(bench.store.key("b").await.unwrap().as_ref().map(whole), Some(whole(&full)));
    for unknown in ["B", "bb", "", "c"] {
        assert!(bench.store.key(unknown).await.unwrap().is_none(), "{unknown:?}");
    }
    assert!(matches!(bench.store.put_key(&key("b", START_MS)).await, Err(StoreError::Row(_))), "an id is one key");
    assert_eq!(bench.store.key("b").await.unwrap().as_ref().map(whole), Some(whole(&full)));
}

pub(super) async fn a_rotation_keeps_the_secret_before(bench: &Bench) {
    let first = key("a", START_MS);
    bench.store.put_key(&first).await.unwrap();
    bench.store.rotate_key("a", b"second", START_MS + 5).await.unwrap();
    let row = bench.store.key("a").await.unwrap().unwrap();
    assert_eq!((row.hash, row.previous), (b"second".to_vec(), Some((first.hash, START_MS + 5))));
    // The same hash again is a rotation as well.
    bench.store.rotate_key("a", b"second", START_MS + 6).await.unwrap();
    let row = bench.store.key("a").await.unwrap().unwrap();
    assert_eq!(row.previous, Some((b"second".to_vec(), START_MS + 6)));
    assert_not_found(bench.store.rotate_key("b", b"x", START_MS).await);
    bench.store.revoke_key("a", START_MS + 7).await.unwrap();
    assert_conflict(bench.store.rotate_key("a", b"third", START_MS + 8).await);
    assert_eq!(bench.store.key("a").await.unwrap().unwrap().hash, b"second");
}

pub(super) async fn a_revocation_counts_from_its_first_time(bench: &Bench) {
    bench.store.put_key(&key("a", START_MS)).await.unwrap();
    bench.store.revoke_key("a", START_MS + 7).await.unwrap();
    bench.store.revoke_key("a", START_MS + 9).await.unwrap();
    bench.store.revoke_key("a", START_MS + 7).await.unwrap();
    assert_eq!(bench.store.key("a").await.unwrap().unwrap().revoked_ms, Some(START_MS + 7));
    assert_not_found(bench.store.revoke_key("b", START_MS).await);
}

pub(super) async fn the_last_use_is_the_latest(bench: &Bench) {
    bench.store.put_key(&key("a", START_MS)).await.unwrap();
    for (used, last) in [(5, 5), (9, 9), (7, 9), (9, 9)] {
        bench.store.key_used("a", START_MS + used).await.unwrap();
        assert_eq!(bench.store.key("a").await.unwrap().unwrap().last_used_ms, Some(START_MS + last));
    }
    bench.store.key_used("unknown", START_MS).await.unwrap();
    assert_eq!(bench.store.keys().await.unwrap().len(), 1);
}
