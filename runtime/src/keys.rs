//! API keys: looked up by their id, compared in constant time, good for what they were granted and no longer than that.
//!
//! Each request reads its key from the database, so that a revocation is in effect with the next one, on every node.

mod format;
pub(crate) mod grant;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, random_bytes};
use crate::private::write_private;
use crate::store::rows::KeyRow;
use crate::store::{Result, Store, is_open};
use format::Parts;
use grant::{Grant, Scopes};

/// A key's last use is written at most this often.
const LAST_USE_MS: u64 = 60_000;

/// What the hashes are made with. It lives beside the database, so that a copy of that alone opens nothing.
pub(crate) struct Pepper([u8; 32]);

impl Pepper {
    /// Reads the file, or makes it at the first start.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Pepper> {
        match std::fs::read(path) {
            Ok(bytes) => {
                let pepper = bytes.try_into().map_err(|_| anyhow::anyhow!("{} is damaged", path.display()))?;
                Ok(Pepper(pepper))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let pepper = random_bytes();
                write_private(path, &pepper)?;
                Ok(Pepper(pepper))
            }
            Err(error) => anyhow::bail!("{}: {error}", path.display()),
        }
    }

    /// A key for something else, which the label names. Labels are no hashes of secrets: those are hashed as hex digits.
    pub(crate) fn derive(&self, label: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(label.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// Tells one pepper from another.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.derive("fingerprint")
    }

    /// Refuses another pepper than other nodes have: here none of their keys would open anything, and the audit log would
    /// look changed to them. A node alone takes the pepper that it has: who lost the old one makes new keys.
    pub(crate) async fn check(&self, store: &dyn Store, path: &Path) -> anyhow::Result<()> {
        let fingerprint = self.fingerprint();
        let was = store.pepper().await?;
        if was.as_deref() == Some(&fingerprint) {
            return Ok(());
        }
        if was.is_some() {
            let path = path.display();
            anyhow::ensure!(
                !is_open(store).await?,
                "{path} is not the pepper that other nodes of this database have: copy theirs"
            );
            tracing::warn!("the pepper is another one than before: API keys that were made before open nothing");
        }
        Ok(store.set_pepper(&fingerprint).await?)
    }

    /// HMAC-SHA256. Nothing slow is needed: it protects 256 random bits, not a password.
    fn hash(&self, secret: &str) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(secret.as_bytes());
        mac.finalize().into_bytes().to_vec()
    }
}

/// Whose request it is, and what it may do.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The key's public id.
    pub(crate) id: String,
    pub(crate) grant: Grant,
}

/// Why a key does not open: for the log. Whoever sent it learns none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no key")]
    Missing,
    #[error("malformed")]
    Malformed,
    #[error("unknown id")]
    Unknown,
    #[error("wrong secret")]
    WrongSecret,
    #[error("revoked")]
    Revoked,
    #[error("not valid yet")]
    TooEarly,
    #[error("expired")]
    Expired,
    #[error("wrong address")]
    WrongAddress,
}

/// The keys of this hub.
pub(crate) struct Keys {
    store: Arc<dyn Store>,
    pepper: Pepper,
    clock: Clock,
    /// Where the last use is written, off the request's path.
    tasks: TaskTracker,
    /// When the writing of a key's last use was begun here, so that requests at the same time are one write.
    used: Mutex<HashMap<String, u64>>,
}

impl Keys {
    pub(crate) fn new(store: Arc<dyn Store>, pepper: Pepper, clock: Clock, tasks: TaskTracker) -> Keys {
        Keys { store, pepper, clock, tasks, used: Mutex::default() }
    }

    /// Makes a key and stores its hash. This is the only time that the key itself is known.
    pub(crate) async fn create(&self, name: &str, grant: &Grant, by: Option<&str>) -> Result<(KeyRow, String)> {
        let id = hex::encode(random_bytes::<5>());
        let secret = hex::encode(random_bytes::<32>());
        let row = KeyRow {
            id: id.clone(),
            name: name.to_owned(),
            hash: self.pepper.hash(&secret),
            previous: None,
            scopes: grant.scopes.words(),
            sources: grant.sources.clone(),
            addresses: grant.addresses.as_ref().map(|all| all.iter().map(ToString::to_string).collect()),
            not_before_ms: grant.not_before_ms,
            expires_ms: grant.expires_ms,
            created_ms: self.clock.now_ms(),
            created_by: by.map(str::to_owned),
            revoked_ms: None,
            last_used_ms: None,
        };
        self.store.put_key(&row).await?;
        Ok((row, format::write(Parts { id: &id, secret: &secret })))
    }

    /// Gives the key a new secret. The one before it stays good until `previous_until_ms`; the one before that ends now.
    pub(crate) async fn rotate(&self, id: &str, previous_until_ms: u64) -> Result<String> {
        let secret = hex::encode(random_bytes::<32>());
        self.store.rotate_key(id, &self.pepper.hash(&secret), previous_until_ms).await?;
        Ok(format::write(Parts { id, secret: &secret }))
    }

    /// Whose key it is, if it is good here and now.
    pub(crate) async fn open(&self, key: &str, peer: Option<IpAddr>) -> Result<Result<Caller, Refusal>> {
        let Some(Parts { id, secret }) = format::read(key) else { return Ok(Err(Refusal::Malformed)) };
        let row = self.store.key(id).await?;
        let now_ms = self.clock.now_ms();
        // An unknown id takes as long as a known one.
        let hash = self.pepper.hash(secret);
        let current = row.as_ref().map_or(&[0; 32][..], |row| &row.hash);
        let previous = row.as_ref().and_then(|row| row.previous.as_ref()).filter(|(_, until)| now_ms < *until);
        let previous = previous.map_or(&[0; 32][..], |(hash, _)| hash);
        let same: bool = (hash.ct_eq(current) | hash.ct_eq(previous)).into();
        let Some(row) = row else { return Ok(Err(Refusal::Unknown)) };
        if !same {
            return Ok(Err(Refusal::WrongSecret));
        }
        let grant = grant_of(&row);
        let refusal = if row.revoked_ms.is_some() {
            Refusal::Revoked
        } else if grant.not_before_ms.is_some_and(|begin| now_ms < begin) {
            Refusal::TooEarly
        } else if grant.expires_ms.is_some_and(|end| now_ms >= end) {
            Refusal::Expired
        } else if !grant.comes_from(peer) {
            Refusal::WrongAddress
        } else {
            self.was_used(&row, now_ms);
            return Ok(Ok(Caller { id: row.id, grant }));
        };
        Ok(Err(refusal))
    }

    fn was_used(&self, row: &KeyRow, now_ms: u64) {
        let recent = |at_ms: u64| now_ms < at_ms.saturating_add(LAST_USE_MS);
        if row.last_used_ms.is_some_and(recent) {
            return;
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.get(&row.id).is_some_and(|at_ms| recent(*at_ms)) {
            return;
        }
        used.insert(row.id.clone(), now_ms);
        let (store, id) = (self.store.clone(), row.id.clone());
        self.tasks.spawn(async move {
            if let Err(error) = store.key_used(&id, now_ms).await {
                tracing::warn!(key = id, %error, "writing when a key was last used failed");
            }
        });
    }

    /// The key of this machine's operator, kept in a file that only this user can read; and whether it was made just
    /// now, which is so at the first start and when the one in the file is good no more.
    pub(crate) async fn of_this_machine(&self, path: &Path) -> anyhow::Result<(String, bool)> {
        if let Ok(key) = std::fs::read_to_string(path)
            && self.open(key.trim(), None).await?.is_ok()
        {
            return Ok((key.trim().to_owned(), false));
        }
        let grant = Grant { scopes: Scopes::EVERY, ..Grant::default() };
        let (_, key) = self.create("admin", &grant, None).await?;
        write_private(path, key.as_bytes())?;
        Ok((key, true))
    }
}

/// What the row grants. An address that cannot be read lets nobody in.
pub(crate) fn grant_of(row: &KeyRow) -> Grant {
    Grant {
        scopes: Scopes::of_words(&row.scopes),
        sources: row.sources.clone(),
        addresses: row.addresses.as_ref().map(|all| all.iter().filter_map(|net| net.parse().ok()).collect()),
        not_before_ms: row.not_before_ms,
        expires_ms: row.expires_ms,
    }
}

/// The public id of a key.
pub(crate) fn id_of(key: &str) -> Option<&str> {
    format::read(key).map(|parts| parts.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::Keyring;
    use crate::store::SqlStore;

    /// `tmd_<id>_<64 digits>`: a data directory of the first version has such keys, without any columns of today's.
    #[tokio::test(flavor = "multi_thread")]
    async fn keys_of_the_first_version_stay_good() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("tomada.db");
        let pepper = Pepper::open(&directory.path().join("pepper")).unwrap();
        let ring = Arc::new(Keyring::open(&directory.path().join("keyring"), 1).unwrap());
        let store: Arc<dyn Store> = Arc::new(SqlStore::sqlite(&file, ring).await.unwrap());
        let secret = "0f".repeat(32);
        rusqlite::Connection::open(&file)
            .unwrap()
            .execute(
                "insert into api_keys (id, name, hash, created_at) values ('0123456789', 'old', ?, 1)",
                [pepper.hash(&secret)],
            )
            .unwrap();
        let keys = Keys::new(store, pepper, Clock::manual(1_000_000), TaskTracker::new());
        let caller = keys.open(&format!("tmd_0123456789_{secret}"), None).await.unwrap().unwrap();
        assert_eq!(caller.grant, Grant { scopes: Scopes::EVERY, ..Grant::default() });
        let other = format!("tmd_0123456789_{}", "f0".repeat(32));
        assert_eq!(keys.open(&other, None).await.unwrap().unwrap_err(), Refusal::WrongSecret);
        let stranger = format!("tmd_9999999999_{secret}");
        assert_eq!(keys.open(&stranger, None).await.unwrap().unwrap_err(), Refusal::Unknown);
    }
}
