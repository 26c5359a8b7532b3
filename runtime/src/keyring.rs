//! The key ring: the keys that wrap the keys of events and of stored secrets, and the key of what is looked up without
//! being read. It lives beside the database and never in it, so that a copy of the database alone opens nothing.
//!
//! One key is active and wraps; the others only unwrap what they wrapped before. A key is chosen by its id, never by
//! trying.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use crate::clock::random_bytes;
use crate::private::write_private;
use crate::seal::{KEY, Nonce, Place, SealKey, Unopened};
use crate::signature::MacKey;

/// Keys of a ring. Each rotation makes one, and what is not used any more is retired.
const MAX_KEYS: usize = 64;

/// Names a key of the ring: a random number, written as eight hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyId(pub(crate) u32);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl std::str::FromStr for KeyId {
    type Err = String;

    fn from_str(text: &str) -> Result<KeyId, String> {
        let number = (text.len() == 8).then(|| u32::from_str_radix(text, 16).ok()).flatten();
        number.map(KeyId).ok_or_else(|| format!("{text:?} is no id of a ring's key: it has eight hex digits"))
    }
}

/// Why a wrapped key cannot be unwrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the key ring lacks key {0}")]
    NoKey(KeyId),
    #[error(transparent)]
    Unopened(#[from] Unopened),
}

pub(crate) struct Keyring {
    path: PathBuf,
    state: RwLock<State>,
    /// Held while the file is written, so that no older state replaces a newer one.
    writing: Mutex<()>,
    /// Another key is active.
    pub(crate) rotated: Notify,
}

#[derive(Clone)]
struct State {
    index_bytes: Zeroizing<[u8; KEY]>,
    index: MacKey,
    keys: Vec<RingKey>,
}

#[derive(Clone)]
struct RingKey {
    id: KeyId,
    bytes: Zeroizing<[u8; KEY]>,
    key: SealKey,
    created_ms: u64,
    active: bool,
}

/// What may be seen of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyState {
    pub(crate) id: KeyId,
    pub(crate) created_ms: u64,
    pub(crate) active: bool,
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Base64 of 32 bytes, like the others.
    index_key: String,
    keys: Vec<WrittenKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKey {
    id: String,
    key: String,
    created_ms: u64,
    #[serde(default)]
    active: bool,
}

impl Keyring {
    /// Reads the file, or makes it with a first key.
    ///
    /// # Errors
    /// The file cannot be read or written, or is no key ring. The message repeats nothing of it.
    pub(crate) fn open(path: &Path, now_ms: u64) -> anyhow::Result<Keyring> {
        let state = match std::fs::read(path) {
            Ok(text) => {
                let text = Zeroizing::new(text);
                read(&text).with_context(|| format!("{} is no key ring", path.display()))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let state = State::new(vec![RingKey::new(now_ms, true)]);
                write_private(path, &state.written()).with_context(|| path.display().to_string())?;
                state
            }
            Err(error) => anyhow::bail!("{}: {error}", path.display()),
        };
        Ok(Keyring {
            path: path.to_owned(),
            state: RwLock::new(state),
            writing: Mutex::default(),
            rotated: Notify::new(),
        })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wraps a key with the active one.
    pub(crate) fn wrap(&self, place: Place<'_>, nonce: Nonce, key: &SealKey) -> (KeyId, Vec<u8>) {
        let state = self.read();
        let active = state.active();
        (active.id, active.key.wrap(place, nonce, key))
    }

    pub(crate) fn unwrap(&self, place: Place<'_>, id: KeyId, wrapped: &[u8]) -> Result<SealKey, Unreadable> {
        let state = self.read();
        let key = state.keys.iter().find(|key| key.id == id).ok_or(Unreadable::NoKey(id))?;
        Ok(key.key.unwrap(place, wrapped)?)
    }

    /// HMAC-SHA256 of the parts under the index key, each use with a label of its own: the same parts are found again,
    /// and who has the database alone cannot try all CPFs.
    pub(crate) fn index(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut bytes = Vec::with_capacity(64);
        for part in std::iter::once(label.as_bytes()).chain(parts.iter().copied()) {
            bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        let tag = self.read().index.sign(&[&bytes]);
        let mut index = [0; 32];
        index.copy_from_slice(tag.as_ref());
        index
    }

    /// Tells one ring's indexes from another's.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.index("fingerprint", &[])
    }

    pub(crate) fn active(&self) -> KeyId {
        self.read().active().id
    }

    /// Oldest first.
    pub(crate) fn keys(&self) -> Vec<KeyState> {
        let shown = |key: &RingKey| KeyState { id: key.id, created_ms: key.created_ms, active: key.active };
        self.read().keys.iter().map(shown).collect()
    }

    /// Makes a key, which wraps nothing until it is activated. The file is written first: nothing is wrapped with a key
    /// that a crash could lose.
    pub(crate) fn add(&self, now_ms: u64) -> anyhow::Result<KeyId> {
        self.change(|keys| {
            anyhow::ensure!(
                keys.len() < MAX_KEYS,
                "the key ring has {MAX_KEYS} keys: retire what is not used any more"
            );
            let mut fresh = RingKey::new(now_ms, false);
            while keys.iter().any(|key| key.id == fresh.id) {
                fresh = RingKey::new(now_ms, false);
            }
            let id = fresh.id;
            keys.push(fresh);
            Ok(id)
        })
    }

    /// Wraps with this key from now on.
    pub(crate) fn activate(&self, id: KeyId) -> anyhow::Result<()> {
        self.change(|keys| {
            let at = position(keys, id)?;
            keys.iter_mut().enumerate().for_each(|(place, key)| key.active = place == at);
            Ok(())
        })?;
        self.rotated.notify_one();
        Ok(())
    }

    /// Forgets a key that wraps nothing any more; whoever calls has made sure of that.
    pub(crate) fn retire(&self, id: KeyId) -> anyhow::Result<()> {
        self.change(|keys| {
            let at = position(keys, id)?;
            anyhow::ensure!(!keys[at].active, "key {id} is the active one: rotate first");
            keys.remove(at);
            Ok(())
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<RingKey>) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.read().clone();
        let done = change(&mut state.keys)?;
        write_private(&self.path, &state.written()).with_context(|| self.path.display().to_string())?;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(done)
    }
}

fn position(keys: &[RingKey], id: KeyId) -> anyhow::Result<usize> {
    keys.iter().position(|key| key.id == id).with_context(|| format!("the key ring has no key {id}"))
}

impl RingKey {
    fn new(created_ms: u64, active: bool) -> RingKey {
        let bytes = Zeroizing::new(random_bytes());
        RingKey { id: KeyId(u32::from_be_bytes(random_bytes())), key: SealKey::new(*bytes), bytes, created_ms, active }
    }
}

impl State {
    fn new(keys: Vec<RingKey>) -> State {
        State::with_index(Zeroizing::new(random_bytes()), keys)
    }

    fn with_index(index_bytes: Zeroizing<[u8; KEY]>, keys: Vec<RingKey>) -> State {
        State { index: MacKey::sha256(&*index_bytes), index_bytes, keys }
    }

    fn active(&self) -> &RingKey {
        // A ring is never without: reading demands it, rotating sets it, retiring refuses to take it.
        self.keys.iter().find(|key| key.active).unwrap_or_else(|| unreachable!("one key is active"))
    }

    fn written(&self) -> Zeroizing<Vec<u8>> {
        let keys = self.keys.iter().map(|key| WrittenKey {
            id: key.id.to_string(),
            key: STANDARD.encode(*key.bytes),
            created_ms: key.created_ms,
            active: key.active,
        });
        let written = Written { index_key: STANDARD.encode(*self.index_bytes), keys: keys.collect() };
        // Texts and numbers always serialise.
        Zeroizing::new(serde_json::to_vec_pretty(&written).unwrap_or_default())
    }
}

fn read(text: &[u8]) -> anyhow::Result<State> {
    let written: Written = serde_json::from_slice(text).map_err(|error| {
        anyhow::anyhow!("line {}, column {} is not as the hub writes it", error.line(), error.column())
    })?;
    let bytes = |text: &str, what: &str| -> anyhow::Result<Zeroizing<[u8; KEY]>> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Zeroizing::new).with_context(|| format!("{what} is not base64 of {KEY} bytes"))
    };
    let mut keys: Vec<RingKey> = Vec::new();
    for key in &written.keys {
        let id: KeyId = key.id.parse().map_err(anyhow::Error::msg)?;
        anyhow::ensure!(keys.iter().all(|known| known.id != id), "key {id} is there twice");
        let bytes = bytes(&key.key, &format!("key {id}"))?;
        let seal = SealKey::new(*bytes);
        keys.push(RingKey { id, bytes, key: seal, created_ms: key.created_ms, active: key.active });
    }
    let active = keys.iter().filter(|key| key.active).count();
    anyhow::ensure!(active == 1, "{active} keys are active, and it must be one");
    Ok(State::with_index(bytes(&written.index_key, "index_key")?, keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'static> = Place::PayloadKey { event: 1 };

    fn ring() -> (tempfile::TempDir, Keyring) {
        let directory = tempfile::TempDir::new().unwrap();
        let ring = Keyring::open(&directory.path().join("keyring"), 1).unwrap();
        (directory, ring)
    }

    #[test]
    fn a_ring_is_the_same_after_a_restart_and_readable_by_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let (directory, ring) = ring();
        let file = directory.path().join("keyring");
        let (id, wrapped) = ring.wrap(PLACE, random_bytes(), &SealKey::new([7; KEY]));
        let again = Keyring::open(&file, 2).unwrap();
        assert!(again.unwrap(PLACE, id, &wrapped).is_ok());
        assert_eq!(again.fingerprint(), ring.fingerprint());
        assert_eq!(again.keys(), ring.keys());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn after_a_rotation_old_and_new_are_unwrapped_until_the_old_one_is_retired() {
        let (directory, ring) = ring();
        let (old, wrapped) = ring.wrap(PLACE, random_bytes(), &SealKey::new([7; KEY]));
        assert!(ring.retire(old).unwrap_err().to_string().contains("rotate first"));
        let new = ring.add(2).unwrap();
        assert_eq!(ring.wrap(PLACE, random_bytes(), &SealKey::new([7; KEY])).0, old, "not yet");
        ring.activate(new).unwrap();
        assert_eq!(ring.active(), new);
        assert_eq!(ring.wrap(PLACE, random_bytes(), &SealKey::new([7; KEY])).0, new);
        let again = Keyring::open(&directory.path().join("keyring"), 3).unwrap();
        assert!(again.unwrap(PLACE, old, &wrapped).is_ok());
        again.retire(old).unwrap();
        assert_eq!(again.unwrap(PLACE, old, &wrapped).unwrap_err(), Unreadable::NoKey(old));
    }

    #[test]
    fn what_is_no_key_ring_is_refused_without_repeating_it() {
        let (directory, _ring) = ring();
        let file = directory.path().join("keyring");
        let good = std::fs::read_to_string(&file).unwrap();
        let id = &good[good.find("\"id\": \"").unwrap() + 7..][..8];
        for (bad, why) in [
            (String::new(), "line 1"),
            ("hunter2".into(), "line 1"),
            (good.replace("\"active\": true", "\"active\": false"), "0 keys are active"),
            (good.replace(id, "hunter2"), "no id"),
            (good.replace("\"index_key\": \"", "\"index_key\": \"AA"), "index_key is not base64"),
        ] {
            std::fs::write(&file, &bad).unwrap();
            let said = format!("{:#}", Keyring::open(&file, 1).err().unwrap());
            assert!(said.contains(why) && said.contains("is no key ring"), "{said}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), bad, "it was written over");
        }
    }

    #[test]
    fn indexes_differ_by_label_and_by_where_a_part_ends() {
        let (_directory, ring) = ring();
        let index = |label: &str, parts: &[&[u8]]| ring.index(label, parts);
        assert_eq!(index("a", &[b"b", b"c"]), index("a", &[b"b", b"c"]));
        assert_ne!(index("a", &[b"b", b"c"]), index("a", &[b"bc"]));
        assert_ne!(index("a", &[b"b"]), index("b", &[b"b"]));
    }
}
