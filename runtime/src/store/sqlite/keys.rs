//! API keys on SQLite.

use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use crate::store::rows::KeyRow;
use crate::store::{Result, StoreError};

const COLUMNS: &str = "id, name, hash, previous_hash, previous_until, scopes, sources, addresses, not_before, \
                       expires_at, created_at, created_by, revoked_at, last_used_at";

pub(super) async fn put(conn: &mut SqliteConnection, key: &KeyRow) -> Result<()> {
    let words = |words: &Option<Vec<String>>| words.as_ref().map(|words| json(words));
    let sql = format!("insert into api_keys ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    sqlx::query(AssertSqlSafe(sql))
        .bind(key.id.clone())
        .bind(key.name.clone())
        .bind(key.hash.clone())
        .bind(key.previous.as_ref().map(|(hash, _)| hash.clone()))
        .bind(key.previous.as_ref().map(|(_, until)| *until as i64))
        .bind(json(&key.scopes))
        .bind(words(&key.sources))
        .bind(words(&key.addresses))
        .bind(key.not_before_ms.map(|ms| ms as i64))
        .bind(key.expires_ms.map(|ms| ms as i64))
        .bind(key.created_ms as i64)
        .bind(key.created_by.clone())
        .bind(key.revoked_ms.map(|ms| ms as i64))
        .bind(key.last_used_ms.map(|ms| ms as i64))
        .execute(conn)
        .await?;
    Ok(())
}

pub(super) async fn get(pool: &SqlitePool, id: &str) -> Result<Option<KeyRow>> {
    let sql = format!("select {COLUMNS} from api_keys where id = ?");
    let found = sqlx::query(AssertSqlSafe(sql)).bind(id.to_owned()).fetch_optional(pool).await?;
    found.as_ref().map(row).transpose()
}

pub(super) async fn all(pool: &SqlitePool) -> Result<Vec<KeyRow>> {
    let sql = format!("select {COLUMNS} from api_keys order by created_at, id");
    sqlx::query(AssertSqlSafe(sql)).fetch_all(pool).await?.iter().map(row).collect()
}

pub(super) async fn rotate(conn: &mut SqliteConnection, id: &str, hash: &[u8], previous_until_ms: u64) -> Result<()> {
    let sql = "update api_keys set previous_hash = hash, previous_until = ?, hash = ? \
               where id = ? and revoked_at is null";
    let changed = sqlx::query(sql)
        .bind(previous_until_ms as i64)
        .bind(hash.to_vec())
        .bind(id.to_owned())
        .execute(&mut *conn)
        .await?
        .rows_affected();
    if changed == 1 {
        return Ok(());
    }
    exists(conn, id).await?;
    Err(StoreError::Conflict(format!("key {id} is revoked: make another one")))
}

/// The first time counts.
pub(super) async fn revoke(conn: &mut SqliteConnection, id: &str, now_ms: u64) -> Result<()> {
    exists(conn, id).await?;
    sqlx::query("update api_keys set revoked_at = coalesce(revoked_at, ?) where id = ?")
        .bind(now_ms as i64)
        .bind(id.to_owned())
        .execute(conn)
        .await?;
    Ok(())
}

/// Another node may have written a later time.
pub(super) async fn used(conn: &mut SqliteConnection, id: &str, now_ms: u64) -> Result<()> {
    sqlx::query("update api_keys set last_used_at = ?1 where id = ?2 and (last_used_at is null or last_used_at < ?1)")
        .bind(now_ms as i64)
        .bind(id.to_owned())
        .execute(conn)
        .await?;
    Ok(())
}

async fn exists(conn: &mut SqliteConnection, id: &str) -> Result<()> {
    let found = sqlx::query("select 1 from api_keys where id = ?").bind(id.to_owned()).fetch_optional(conn).await?;
    found.map(|_| ()).ok_or_else(|| StoreError::NotFound(format!("key {id:?}")))
}

fn row(row: &SqliteRow) -> Result<KeyRow> {
    let ms = |at: usize| row.try_get::<Option<i64>, _>(at).map(|ms| ms.map(|ms| ms as u64));
    // What cannot be read must not pass for "no restriction".
    let words = |text: String| {
        serde_json::from_str(&text).map_err(|_| StoreError::Row("a list of an API key cannot be read".into()))
    };
    let hash: Option<Vec<u8>> = row.try_get(3)?;
    Ok(KeyRow {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        hash: row.try_get(2)?,
        previous: hash.zip(ms(4)?),
        scopes: words(row.try_get(5)?)?,
        sources: row.try_get::<Option<String>, _>(6)?.map(words).transpose()?,
        addresses: row.try_get::<Option<String>, _>(7)?.map(words).transpose()?,
        not_before_ms: ms(8)?,
        expires_ms: ms(9)?,
        created_ms: row.try_get::<i64, _>(10)? as u64,
        created_by: row.try_get(11)?,
        revoked_ms: ms(12)?,
        last_used_ms: ms(13)?,
    })
}

fn json(words: &[String]) -> String {
    serde_json::json!(words).to_string()
}
