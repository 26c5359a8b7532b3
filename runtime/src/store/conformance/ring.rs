//! The keys that wrap the keys of what is sealed.

use super::*;
use crate::keyring::KeyId;

/// Wraps anew, with the ring's active key, what the store says is wrapped with another.
fn wrap_anew(bench: &Bench, key: WrappedKey) -> WrappedKey {
    let inner = bench.ring.unwrap(key.of.place(), key.key, &key.wrapped).expect("it is unwrapped");
    let (id, wrapped) = bench.ring.wrap(key.of.place(), random_bytes(), &inner);
    WrappedKey { key: id, wrapped, ..key }
}

async fn counts(bench: &Bench) -> Vec<(KeyId, u64)> {
    let mut counts = bench.store.wrapped().await.expect("counts");
    counts.sort_unstable();
    counts
}

pub(super) async fn it_is_known_whose_indexes_these_are(bench: &Bench) {
    assert_eq!(bench.store.keyring().await.unwrap(), None);
    for fingerprint in [bench.ring.fingerprint().to_vec(), vec![0; 32], b"\0'\xff ".to_vec(), vec![0; 32]] {
        bench.store.set_keyring(&fingerprint).await.unwrap();
        assert_eq!(bench.store.keyring().await.unwrap(), Some(fingerprint));
    }
}

pub(super) async fn keys_are_wrapped_anew(bench: &Bench) {
    assert_eq!(counts(bench).await, []);
    let old = bench.ring.active();
    bench.accept((0..5).map(|number| bench.seal(event(number, &format!("{number}")))).collect()).await;
    for name in ["hook", "hook", "Other"] {
        bench.store.put_secret(name, b"value", START_MS + 100, START_MS).await.unwrap();
    }
    assert_eq!(counts(bench).await, [(old, 8)]);
    assert!(bench.store.wrapped_before(old, 10).await.unwrap().is_empty());
    // More than once, so that the ids of keys lie on both sides of the active one's.
    for round in 1..4 {
        let new = bench.ring.rotate(START_MS).unwrap();
        bench.accept(vec![bench.seal(event(100 + round, &format!("later-{round}")))]).await;
        let total = 8 + round as u64;
        let mut wrapped_anew = 0;
        loop {
            let before = bench.store.wrapped_before(new, 3).await.unwrap();
            if before.is_empty() {
                break;
            }
            assert!(before.len() <= 3 && before.iter().all(|key| key.key != new && key.was == key.key));
            wrapped_anew += before.len() as u64;
            let anew: Vec<WrappedKey> = before.into_iter().map(|key| wrap_anew(bench, key)).collect();
            bench.store.rewrap(&anew).await.unwrap();
            // Twice does no harm: another key than the one that it was wrapped with is there now.
            bench.store.rewrap(&anew).await.unwrap();
        }
        assert_eq!(wrapped_anew, total - 1);
        assert_eq!(counts(bench).await, [(new, total)]);
    }
    for number in [0, 4, 101, 103] {
        assert!(!bench.store.event(id(number)).await.unwrap().event.payload.is_empty(), "{number}");
    }
    let secrets = bench.store.secrets().await.unwrap();
    let values: Vec<_> =
        secrets.iter().map(|row| (&*row.name, row.version, row.value.as_ref().map(|v| v.to_vec()))).collect();
    let value = || Some(b"value".to_vec());
    assert_eq!(values, [("Other", 1, value()), ("hook", 1, value()), ("hook", 2, value())]);
}

/// What is gone meanwhile stays gone, and what has another key meanwhile keeps that.
pub(super) async fn only_what_was_read_is_replaced(bench: &Bench) {
    bench.put(bench.seal(event(1, "a"))).await;
    bench.store.put_secret("hook", b"value", START_MS, START_MS).await.unwrap();
    let first = bench.ring.rotate(START_MS).unwrap();
    let before = bench.store.wrapped_before(first, 10).await.unwrap();
    assert_eq!(before.len(), 2);
    let anew: Vec<WrappedKey> = before.into_iter().map(|key| wrap_anew(bench, key)).collect();
    bench.store.remove_secret("hook").await.unwrap();
    let strange = anew.iter().map(|key| WrappedKey {
        of: key.of.clone(),
        key: key.key,
        was: KeyId(key.was.0 ^ 1),
        wrapped: b"nonsense".to_vec(),
    });
    bench.store.rewrap(&strange.collect::<Vec<_>>()).await.unwrap();
    bench.store.rewrap(&anew).await.unwrap();
    assert_eq!(counts(bench).await, [(first, 1)]);
    assert!(bench.store.secrets().await.unwrap().is_empty());
    assert_eq!(bench.store.event(id(1)).await.unwrap().event.payload, "{\"number\":1}");
    bench.store.rewrap(&[]).await.unwrap();
}
