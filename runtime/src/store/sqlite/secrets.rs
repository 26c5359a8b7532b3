//! Stored secrets: sealed on their way in, opened on their way out.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};
use zeroize::Zeroizing;

use crate::clock::random_bytes;
use crate::keyring::{KeyId, Keyring};
use crate::seal::{Place, SealKey};
use crate::store::rows::SecretRow;
use crate::store::{Result, StoreError};

const COLUMNS: &str = "select name, version, key_id, wrapped, sealed, created_at, not_after from secrets";

pub(super) async fn all(conn: &mut SqliteConnection, ring: &Keyring) -> Result<Vec<SecretRow>> {
    let rows = sqlx::query(AssertSqlSafe(format!("{COLUMNS} order by name, version"))).fetch_all(conn).await?;
    rows.iter().map(|row| secret(row, ring)).collect()
}

fn secret(row: &SqliteRow, ring: &Keyring) -> Result<SecretRow> {
    let (name, version): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
    let key = ring.unwrap(Place::SecretKey { name: &name, version }, KeyId(row.try_get(2)?), row.try_get(3)?);
    let value = key.ok().and_then(|key| key.open(Place::Secret { name: &name, version }, row.try_get(4).ok()?).ok());
    Ok(SecretRow {
        value: value.map(Zeroizing::new),
        created_ms: row.try_get::<i64, _>(5)? as u64,
        not_after_ms: row.try_get::<Option<i64>, _>(6)?.map(|ms| ms as u64),
        name,
        version,
    })
}

/// A new version, beside which the one before counts until then, and those that count no longer go.
pub(super) async fn put(
    conn: &mut SqliteConnection,
    ring: &Keyring,
    name: &str,
    value: &[u8],
    previous_until_ms: u64,
    now_ms: u64,
) -> Result<i64> {
    let newest: Option<i64> = sqlx::query_scalar("select max(version) from secrets where name = ?")
        .bind(name.to_owned())
        .fetch_one(&mut *conn)
        .await?;
    let version = newest.unwrap_or(0) + 1;
    sqlx::query("update secrets set not_after = min(coalesce(not_after, ?1), ?1) where name = ?2")
        .bind(previous_until_ms as i64)
        .bind(name.to_owned())
        .execute(&mut *conn)
        .await?;
    sqlx::query("delete from secrets where name = ? and not_after <= ?")
        .bind(name.to_owned())
        .bind(now_ms as i64)
        .execute(&mut *conn)
        .await?;
    let key = SealKey::new(random_bytes());
    let (id, wrapped) = ring.wrap(Place::SecretKey { name, version }, random_bytes(), &key);
    sqlx::query("insert into secrets (name, version, key_id, wrapped, sealed, created_at) values (?, ?, ?, ?, ?, ?)")
        .bind(name.to_owned())
        .bind(version)
        .bind(id.0)
        .bind(wrapped)
        .bind(key.seal(Place::Secret { name, version }, random_bytes(), value))
        .bind(now_ms as i64)
        .execute(conn)
        .await?;
    Ok(version)
}

pub(super) async fn remove(conn: &mut SqliteConnection, name: &str) -> Result<()> {
    let gone = sqlx::query("delete from secrets where name = ?").bind(name.to_owned()).execute(conn).await?;
    if gone.rows_affected() == 0 {
        return Err(StoreError::NotFound(format!("secret {name:?}")));
    }
    Ok(())
}
