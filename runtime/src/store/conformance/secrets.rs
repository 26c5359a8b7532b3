//! Stored secrets and their versions.

use super::*;

async fn versions(bench: &Bench) -> Vec<(String, i64, Option<u64>)> {
    let rows = bench.store.secrets().await.expect("secrets");
    rows.into_iter().map(|row| (row.name, row.version, row.not_after_ms.map(|ms| ms - START_MS))).collect()
}

pub(super) async fn values_come_back_as_they_went_in(bench: &Bench) {
    let values = [b"".to_vec(), vec![0], (0..=255).collect(), "São ' \" \\".into(), vec![b'x'; 64 << 10]];
    for (at, value) in values.iter().enumerate() {
        let version = bench.store.put_secret(&format!("secret-{at}"), value, START_MS, START_MS + 1).await.unwrap();
        assert_eq!(version, 1);
    }
    let rows = bench.store.secrets().await.unwrap();
    assert_eq!(rows.len(), values.len());
    for (row, value) in rows.iter().zip(&values) {
        assert_eq!(row.value.as_ref().map(|value| value.to_vec()).as_ref(), Some(value), "{}", row.name);
        assert_eq!((row.created_ms, row.not_after_ms), (START_MS + 1, None));
    }
    assert_eq!(bench.store.catalog().await.unwrap().secrets.len(), values.len());
}

pub(super) async fn the_version_before_counts_until_then(bench: &Bench) {
    let put = async |until: u64, now: u64| {
        bench.store.put_secret("hook", b"x", START_MS + until, START_MS + now).await.unwrap()
    };
    let row = |version, until| ("hook".to_owned(), version, until);
    assert_eq!(put(100, 0).await, 1);
    assert_eq!(versions(bench).await, [row(1, None)]);
    assert_eq!(put(200, 10).await, 2);
    assert_eq!(versions(bench).await, [row(1, Some(200)), row(2, None)]);
    // An earlier end holds for all of them, a later one lets none live longer.
    assert_eq!(put(150, 20).await, 3);
    assert_eq!(versions(bench).await, [row(1, Some(150)), row(2, Some(150)), row(3, None)]);
    assert_eq!(put(300, 30).await, 4);
    assert_eq!(versions(bench).await, [row(1, Some(150)), row(2, Some(150)), row(3, Some(300)), row(4, None)]);
    // Those that count no longer go, at the very end of their time too.
    assert_eq!(put(400, 150).await, 5);
    assert_eq!(versions(bench).await, [row(3, Some(300)), row(4, Some(400)), row(5, None)]);
    assert_eq!(put(500, 500).await, 6, "numbers are not used again");
    assert_eq!(versions(bench).await, [row(6, None)]);
    let other = bench.store.put_secret("Hook", b"x", START_MS, START_MS).await.unwrap();
    assert_eq!(other, 1, "another name");
}

pub(super) async fn a_secret_goes_with_all_its_versions(bench: &Bench) {
    for name in ["hook", "hook", "other"] {
        bench.store.put_secret(name, b"x", START_MS + 100, START_MS).await.unwrap();
    }
    bench.store.remove_secret("hook").await.unwrap();
    assert_eq!(versions(bench).await, [("other".to_owned(), 1, None)]);
    assert_not_found(bench.store.remove_secret("hook").await);
    assert_not_found(bench.store.remove_secret("Other").await);
}

pub(super) async fn at_the_same_time_each_is_a_version(bench: &Bench) {
    let (store, _) = bench.other().await;
    for round in 0..5 {
        let until = START_MS + 1_000_000;
        let (one, other) = tokio::join!(
            bench.store.put_secret("hook", b"one", until, START_MS),
            store.put_secret("hook", b"other", until, START_MS)
        );
        let mut both = [one.unwrap(), other.unwrap()];
        both.sort_unstable();
        assert_eq!(both, [round * 2 + 1, round * 2 + 2]);
    }
    let rows = bench.store.secrets().await.unwrap();
    assert!(rows.iter().all(|row| row.value.is_some()));
    assert_eq!(rows.iter().filter(|row| row.not_after_ms.is_none()).count(), 1, "one is in force");
}
