//! The keys that wrap the keys of what is sealed.

use super::*;
use crate::keyring::KeyId;

/// Wraps anew, with the ring's active key, what the store says is wrapped with another.
fn wrap_anew(bench: &Bench, key: WrappedKey) -> WrappedKey {
    let inner = bench.ring.unwrap(key.of.place(), key.key, &key.wrapped).expect("it is unwrapped");
    let (id, wrapped) = bench.ring.wrap(key.of.place(), random_bytes(), &inner);
    WrappedKey { key: id, wrapped, ..key }
}

/// Everything that a walk finds which goes `step` events at a time, as often as it is there.
async fn wrapped(bench: &Bench, step: u32) -> Vec<WrappedKey> {
    let mut found = bench.store.wrapped_secrets().await.expect("keys of secrets");
    let mut place = Some(EventId(0));
    while let Some(after) = place {
        let page = bench.store.wrapped_events(after, step).await.expect("keys of events");
        assert!(page.keys.len() <= step as usize);
        found.extend(page.keys);
        place = page.next;
    }
    assert!(found.iter().all(|key| key.was == key.key));
    found
}

/// How many keys each of the ring's keys wraps.
async fn counts(bench: &Bench) -> Vec<(KeyId, u64)> {
    let mut counts = std::collections::BTreeMap::new();
    for key in wrapped(bench, 100).await {
        *counts.entry(key.key).or_default() += 1;
    }
    counts.into_iter().collect()
}

fn rotate(bench: &Bench) -> KeyId {
    let id = bench.ring.add(START_MS).expect("a key");
    bench.ring.activate(id).expect("it is the active one");
    id
}

pub(super) async fn it_is_known_which_pepper_the_keys_are_of(bench: &Bench) {
    assert_eq!(bench.store.pepper().await.unwrap(), None);
    for fingerprint in [vec![7; 32], vec![0; 32], b"\0'\xff ".to_vec(), vec![0; 32]] {
        bench.store.set_pepper(&fingerprint).await.unwrap();
        assert_eq!(bench.store.pepper().await.unwrap(), Some(fingerprint));
    }
    assert_eq!(bench.store.keyring().await.unwrap(), None, "the ring is another matter");
}

pub(super) async fn keys_that_wrap_are_known_by_name(bench: &Bench) {
    let known = async || bench.store.wrapping_keys().await.unwrap();
    assert_eq!(known().await, []);
    // The numbers of keys fill their four bytes.
    for id in [u32::MAX, 0, 7, 7, u32::MAX] {
        bench.store.add_wrapping_key(KeyId(id)).await.unwrap();
    }
    assert_eq!(known().await, [KeyId(0), KeyId(7), KeyId(u32::MAX)]);
    for id in [7, 8, 7] {
        bench.store.remove_wrapping_key(KeyId(id)).await.unwrap();
    }
    assert_eq!(known().await, [KeyId(0), KeyId(u32::MAX)]);
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
    // More than once, so that the ids of keys lie on both sides of the active one's.
    for round in 1..4 {
        let new = rotate(bench);
        // One in clear between them.
        bench.accept(vec![event(50 + round, &format!("clear-{round}"))]).await;
        bench.accept(vec![bench.seal(event(100 + round, &format!("later-{round}")))]).await;
        let total = 8 + round as usize;
        for step in [1, 3, 100] {
            assert_eq!(wrapped(bench, step).await.len(), total, "{step} at a time");
        }
        let before: Vec<WrappedKey> = wrapped(bench, 3).await.into_iter().filter(|key| key.key != new).collect();
        assert_eq!(before.len(), total - 1);
        let anew: Vec<WrappedKey> = before.into_iter().map(|key| wrap_anew(bench, key)).collect();
        bench.store.rewrap(&anew).await.unwrap();
        // Twice does no harm: another key than the one that it was wrapped with is there now.
        bench.store.rewrap(&anew).await.unwrap();
        assert_eq!(counts(bench).await, [(new, total as u64)]);
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
    let first = rotate(bench);
    let before = wrapped(bench, 10).await;
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
