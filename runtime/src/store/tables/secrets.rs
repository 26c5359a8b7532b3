//! Stored secrets: sealed on their way in, opened on their way out.

use zeroize::Zeroizing;

use crate::clock::random_bytes;
use crate::keyring::{KeyId, Keyring};
use crate::seal::{Place, SealKey};
use crate::store::rows::SecretRow;
use crate::store::sql::{Conn, Lock, Row, query};
use crate::store::{Result, StoreError};

const COLUMNS: &str = "select name, version, key_id, wrapped, sealed, created_at, not_after from secrets";

pub(in crate::store) async fn all(conn: &mut Conn, ring: &Keyring) -> Result<Vec<SecretRow>> {
    let rows = query(format!("{COLUMNS} order by name, version")).fetch_all(conn).await?;
    rows.iter().map(|row| secret(row, ring)).collect()
}

fn secret(row: &Row, ring: &Keyring) -> Result<SecretRow> {
    let (name, version): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
    let key = ring.unwrap(Place::SecretKey { name: &name, version }, KeyId(row.try_get(2)?), row.try_get(3)?);
    let value = key.ok().and_then(|key| key.open(Place::Secret { name: &name, version }, row.try_get(4).ok()?).ok());
    Ok(SecretRow {
        value: value.map(Zeroizing::new),
        created_ms: row.try_get(5)?,
        not_after_ms: row.try_get(6)?,
        name,
        version,
    })
}

/// A new version, beside which the one before counts until then, and those that count no longer go.
pub(in crate::store) async fn put(
    conn: &mut Conn,
    ring: &Keyring,
    name: &str,
    value: &[u8],
    previous_until_ms: u64,
    now_ms: u64,
) -> Result<i64> {
    conn.lock(Lock::Secrets).await?;
    let newest: Option<i64> =
        query("select max(version) from secrets where name = ?").bind(name).fetch_one(conn).await?.try_get(0)?;
    let version = newest.unwrap_or(0) + 1;
    query("update secrets set not_after = case when not_after < ?1 then not_after else ?1 end where name = ?2")
        .bind(previous_until_ms)
        .bind(name)
        .execute(conn)
        .await?;
    query("delete from secrets where name = ? and not_after <= ?").bind(name).bind(now_ms).execute(conn).await?;
    let key = SealKey::new(random_bytes());
    let (id, wrapped) = ring.wrap(Place::SecretKey { name, version }, random_bytes(), &key);
    query("insert into secrets (name, version, key_id, wrapped, sealed, created_at) values (?, ?, ?, ?, ?, ?)")
        .bind(name)
        .bind(version)
        .bind(id.0)
        .bind(wrapped)
        .bind(key.seal(Place::Secret { name, version }, random_bytes(), value))
        .bind(now_ms)
        .execute(conn)
        .await?;
    Ok(version)
}

pub(in crate::store) async fn remove(conn: &mut Conn, name: &str) -> Result<()> {
    let gone = query("delete from secrets where name = ?").bind(name).execute(conn).await?;
    if gone == 0 {
        return Err(StoreError::NotFound(format!("secret {name:?}")));
    }
    Ok(())
}
