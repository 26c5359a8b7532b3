//! Which ring and pepper the database belongs to, and what the ring's keys wrap in it.

use crate::event::EventId;
use crate::keyring::KeyId;
use crate::store::Result;
use crate::store::rows::{KeyOf, WrappedKey, WrappedPage};
use crate::store::sql::{Conn, Row, query};

pub(in crate::store) async fn fingerprint(conn: &mut Conn) -> Result<Option<Vec<u8>>> {
    query("select fingerprint from keyring").fetch_value(conn).await
}

pub(in crate::store) async fn set_fingerprint(conn: &mut Conn, fingerprint: &[u8]) -> Result<()> {
    query("delete from keyring").execute(conn).await?;
    query("insert into keyring (fingerprint) values (?)").bind(fingerprint).execute(conn).await?;
    Ok(())
}

pub(in crate::store) async fn pepper(conn: &mut Conn) -> Result<Option<Vec<u8>>> {
    query("select fingerprint from pepper").fetch_value(conn).await
}

pub(in crate::store) async fn set_pepper(conn: &mut Conn, fingerprint: &[u8]) -> Result<()> {
    query("delete from pepper").execute(conn).await?;
    query("insert into pepper (fingerprint) values (?)").bind(fingerprint).execute(conn).await?;
    Ok(())
}

pub(in crate::store) async fn wrapping_keys(conn: &mut Conn) -> Result<Vec<KeyId>> {
    let rows = query("select key_id from wrapping_keys order by key_id").fetch_all(conn).await?;
    rows.iter().map(|row| row.try_get(0).map(KeyId)).collect()
}

pub(in crate::store) async fn add_wrapping_key(conn: &mut Conn, id: KeyId) -> Result<()> {
    query("insert or ignore into wrapping_keys (key_id) values (?)").bind(id.0).execute(conn).await?;
    Ok(())
}

pub(in crate::store) async fn remove_wrapping_key(conn: &mut Conn, id: KeyId) -> Result<()> {
    query("delete from wrapping_keys where key_id = ?").bind(id.0).execute(conn).await?;
    Ok(())
}

pub(in crate::store) async fn wrapped_secrets(conn: &mut Conn) -> Result<Vec<WrappedKey>> {
    let rows =
        query("select name, version, key_id, wrapped from secrets order by name, version").fetch_all(conn).await?;
    let key = |row: &Row| {
        let (of, id) = (KeyOf::Secret { name: row.try_get(0)?, version: row.try_get(1)? }, KeyId(row.try_get(2)?));
        Ok(WrappedKey { of, key: id, was: id, wrapped: row.try_get(3)? })
    };
    rows.iter().map(key).collect()
}

pub(in crate::store) async fn wrapped_events(conn: &mut Conn, after: EventId, limit: u32) -> Result<WrappedPage> {
    // Events in clear count as well: a page ends after so many rows, not after so many keys.
    let rows = query("select id, key_id, wrapped from integration_events where id > ? order by id limit ?")
        .bind(after.0)
        .bind(limit)
        .fetch_all(conn)
        .await?;
    let mut page = WrappedPage { keys: Vec::new(), next: None };
    for row in &rows {
        let event = EventId(row.try_get(0)?);
        if let Some((id, wrapped)) = super::content::wrapped_key(row, 1)? {
            page.keys.push(WrappedKey { of: KeyOf::Event(event), key: id, was: id, wrapped: wrapped.to_vec() });
        }
        page.next = Some(event);
    }
    if rows.len() < limit as usize {
        page.next = None;
    }
    Ok(page)
}

pub(in crate::store) async fn rewrap(conn: &mut Conn, keys: &[WrappedKey]) -> Result<()> {
    for key in keys {
        let change = match &key.of {
            KeyOf::Event(event) => {
                query("update integration_events set key_id = ?, wrapped = ? where key_id = ? and id = ?")
                    .bind(key.key.0)
                    .bind(&key.wrapped)
                    .bind(key.was.0)
                    .bind(event.0)
            }
            KeyOf::Secret { name, version } => {
                query("update secrets set key_id = ?, wrapped = ? where key_id = ? and name = ? and version = ?")
                    .bind(key.key.0)
                    .bind(&key.wrapped)
                    .bind(key.was.0)
                    .bind(name)
                    .bind(*version)
            }
        };
        change.execute(conn).await?;
    }
    Ok(())
}
