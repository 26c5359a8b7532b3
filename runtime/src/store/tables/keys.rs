//! API keys.

use crate::store::rows::KeyRow;
use crate::store::sql::{Conn, Row, query};
use crate::store::{Result, StoreError};

const COLUMNS: &str = "id, name, hash, previous_hash, previous_until, scopes, sources, addresses, not_before, \
                       expires_at, created_at, created_by, revoked_at, last_used_at";

pub(in crate::store) async fn put(conn: &mut Conn, key: &KeyRow) -> Result<()> {
    let words = |words: &Option<Vec<String>>| words.as_ref().map(|words| json(words));
    let sql = format!("insert into api_keys ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    query(sql)
        .bind(&key.id)
        .bind(&key.name)
        .bind(&key.hash)
        .bind(key.previous.as_ref().map(|(hash, _)| hash))
        .bind(key.previous.as_ref().map(|(_, until)| *until))
        .bind(json(&key.scopes))
        .bind(words(&key.sources))
        .bind(words(&key.addresses))
        .bind(key.not_before_ms)
        .bind(key.expires_ms)
        .bind(key.created_ms)
        .bind(key.created_by.as_ref())
        .bind(key.revoked_ms)
        .bind(key.last_used_ms)
        .execute(conn)
        .await?;
    Ok(())
}

pub(in crate::store) async fn get(conn: &mut Conn, id: &str) -> Result<Option<KeyRow>> {
    let sql = format!("select {COLUMNS} from api_keys where id = ?");
    let found = query(sql).bind(id).fetch_optional(conn).await?;
    found.as_ref().map(row).transpose()
}

pub(in crate::store) async fn all(conn: &mut Conn) -> Result<Vec<KeyRow>> {
    let sql = format!("select {COLUMNS} from api_keys order by created_at, id");
    query(sql).fetch_all(conn).await?.iter().map(row).collect()
}

pub(in crate::store) async fn rotate(conn: &mut Conn, id: &str, hash: &[u8], previous_until_ms: u64) -> Result<()> {
    let sql = "update api_keys set previous_hash = hash, previous_until = ?, hash = ? \
               where id = ? and revoked_at is null";
    let changed = query(sql).bind(previous_until_ms).bind(hash).bind(id).execute(conn).await?;
    if changed == 1 {
        return Ok(());
    }
    exists(conn, id).await?;
    Err(StoreError::Conflict(format!("key {id} is revoked: make another one")))
}

/// The first time counts.
pub(in crate::store) async fn revoke(conn: &mut Conn, id: &str, now_ms: u64) -> Result<()> {
    exists(conn, id).await?;
    query("update api_keys set revoked_at = coalesce(revoked_at, ?) where id = ?")
        .bind(now_ms)
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Another node may have written a later time.
pub(in crate::store) async fn used(conn: &mut Conn, id: &str, now_ms: u64) -> Result<()> {
    query("update api_keys set last_used_at = ?1 where id = ?2 and (last_used_at is null or last_used_at < ?1)")
        .bind(now_ms)
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}

async fn exists(conn: &mut Conn, id: &str) -> Result<()> {
    let found = query("select 1 from api_keys where id = ?").bind(id).fetch_optional(conn).await?;
    found.map(|_| ()).ok_or_else(|| StoreError::NotFound(format!("key {id:?}")))
}

fn row(row: &Row) -> Result<KeyRow> {
    // What cannot be read must not pass for "no restriction".
    let words = |text: String| {
        serde_json::from_str(&text).map_err(|_| StoreError::Row("a list of an API key cannot be read".into()))
    };
    let hash: Option<Vec<u8>> = row.try_get(3)?;
    Ok(KeyRow {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        hash: row.try_get(2)?,
        previous: hash.zip(row.try_get(4)?),
        scopes: words(row.try_get(5)?)?,
        sources: row.try_get::<Option<String>>(6)?.map(words).transpose()?,
        addresses: row.try_get::<Option<String>>(7)?.map(words).transpose()?,
        not_before_ms: row.try_get(8)?,
        expires_ms: row.try_get(9)?,
        created_ms: row.try_get(10)?,
        created_by: row.try_get(11)?,
        revoked_ms: row.try_get(12)?,
        last_used_ms: row.try_get(13)?,
    })
}

fn json(words: &[String]) -> String {
    serde_json::json!(words).to_string()
}
