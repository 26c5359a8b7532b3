//! API keys: `tmd_<id>_<secret>`, looked up by id, compared once, in constant time.

use std::path::Path;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::clock::random_bytes;
use crate::store::rows::KeyRow;
use crate::store::{Result, Store};

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

    fn hash(&self, secret: &str) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(secret.as_bytes());
        mac.finalize().into_bytes().to_vec()
    }
}

/// Makes a key and stores its hash. This is the only time that the key itself is known.
pub(crate) async fn create(store: &dyn Store, pepper: &Pepper, name: &str, now_ms: u64) -> Result<String> {
    // Hex twice over: 40 bits to look it up by, 256 to be sure.
    let id = hex::encode(random_bytes::<5>());
    let secret = hex::encode(random_bytes::<32>());
    let row = KeyRow {
        id: id.clone(),
        name: name.to_owned(),
        hash: pepper.hash(&secret),
        created_ms: now_ms,
        revoked_ms: None,
    };
    store.put_key(&row).await?;
    Ok(format!("tmd_{id}_{secret}"))
}

/// Whether the key is one of ours and still good.
pub(crate) async fn check(store: &dyn Store, pepper: &Pepper, key: &str) -> Result<bool> {
    let Some((id, secret)) = key.strip_prefix("tmd_").and_then(|rest| rest.split_once('_')) else {
        return Ok(false);
    };
    let row = store.key(id).await?;
    // An unknown id takes as long as a known one.
    let known = row.as_ref().map_or(&[0; 32][..], |row| &row.hash);
    let same: bool = pepper.hash(secret).ct_eq(known).into();
    Ok(same && row.is_some_and(|row| row.revoked_ms.is_none()))
}

/// Writes a file that only this user can read, in one step.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let fresh = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(fresh, path)
}
