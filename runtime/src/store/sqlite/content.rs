//! What the rows hold of content: opened where it is sealed, and the keys that it is sealed with.

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use std::sync::Arc;

use super::read_headers;
use crate::clock::ID_STRIDE;
use crate::delivery::Said;
use crate::event::{Content, DeliveryId, EventId};
use crate::keyring::{KeyId, Keyring};
use crate::seal::{Place, SealKey};
use crate::store::Result;
use crate::store::rows::{ContentState, KeyOf, WrappedKey};

/// An event's content as it is stored.
pub(super) struct Stored<'r> {
    pub(super) event: i64,
    pub(super) content: ContentState,
    pub(super) headers: Option<&'r str>,
    pub(super) payload: &'r [u8],
    pub(super) envelope: Option<&'r [u8]>,
    pub(super) key: Option<(KeyId, &'r [u8])>,
}

pub(super) struct Opened {
    pub(super) headers: Vec<(String, String)>,
    pub(super) payload: Bytes,
    /// The idempotency key, where it is sealed.
    pub(super) shown: Option<String>,
    pub(super) content: Content,
}

impl Stored<'_> {
    /// What cannot be opened is as good as gone, and said in the log: one bad row must not stand in the way of others.
    pub(super) fn open(&self, ring: &Keyring) -> Opened {
        match self.content {
            ContentState::Clear => Opened {
                headers: read_headers(self.headers),
                payload: Bytes::copy_from_slice(self.payload),
                shown: None,
                content: Content::Clear,
            },
            ContentState::Expired | ContentState::Erased => Opened::gone(),
            ContentState::Sealed => self.unseal(ring).unwrap_or_else(|why| {
                tracing::error!(event = %EventId(self.event), error = why, "an event's content cannot be opened");
                Opened::gone()
            }),
        }
    }

    fn unseal(&self, ring: &Keyring) -> Result<Opened, String> {
        let (id, wrapped) = self.key.ok_or("its key is not there")?;
        let event = self.event;
        let key = ring.unwrap(Place::PayloadKey { event }, id, wrapped).map_err(|why| why.to_string())?;
        let open = |place, sealed| key.open(place, sealed).map_err(|why| why.to_string());
        let payload = open(Place::Payload { event, has_envelope: self.envelope.is_some() }, self.payload)?;
        let (headers, shown) = match self.envelope {
            Some(envelope) => {
                let envelope = open(Place::Envelope { event }, envelope)?;
                serde_json::from_slice(&envelope).map_err(|_| "its envelope is damaged")?
            }
            None => Default::default(),
        };
        Ok(Opened { headers, payload: payload.into(), shown, content: Content::Sealed(Arc::new(key)) })
    }
}

impl Opened {
    fn gone() -> Opened {
        Opened { headers: Vec::new(), payload: Bytes::new(), shown: None, content: Content::Gone }
    }
}

/// What was said about a try, with the key of its event.
pub(super) fn said(key: Option<&SealKey>, delivery: i64, number: u32, sealed: &[u8]) -> Said {
    let opened = key.and_then(|key| key.open(Place::Attempt { delivery, number }, sealed).ok());
    opened.and_then(|plain| serde_json::from_slice(&plain).ok()).unwrap_or_default()
}

/// Whether the delivery's event has no content any more.
pub(super) async fn is_gone(conn: &mut SqliteConnection, delivery: DeliveryId) -> Result<bool> {
    let content: Option<i64> = sqlx::query_scalar(
        "select content from integration_events e join webhook_deliveries d on d.event_id = e.id where d.id = ?",
    )
    .bind(delivery.0)
    .fetch_optional(conn)
    .await?;
    Ok(!matches!(content.map(ContentState::from_sql), Some(ContentState::Clear | ContentState::Sealed)))
}

/// The key of an event, from the columns `key_id` and `wrapped`.
pub(super) fn event_key(ring: &Keyring, event: i64, row: &SqliteRow, column: usize) -> Result<Option<SealKey>> {
    let (Some(id), Some(wrapped)) =
        (row.try_get::<Option<u32>, _>(column)?, row.try_get::<Option<&[u8]>, _>(column + 1)?)
    else {
        return Ok(None);
    };
    Ok(ring.unwrap(Place::PayloadKey { event }, KeyId(id), wrapped).ok())
}

pub(super) async fn keyring(readers: &SqlitePool) -> Result<Option<Vec<u8>>> {
    Ok(sqlx::query_scalar("select fingerprint from keyring").fetch_optional(readers).await?)
}

pub(super) async fn set_keyring(conn: &mut SqliteConnection, fingerprint: &[u8]) -> Result<()> {
    sqlx::query("delete from keyring").execute(&mut *conn).await?;
    sqlx::query("insert into keyring (fingerprint) values (?)").bind(fingerprint.to_vec()).execute(conn).await?;
    Ok(())
}

pub(super) async fn wrapped(readers: &SqlitePool) -> Result<Vec<(KeyId, u64)>> {
    let rows = sqlx::query(
        "select key_id, count(*) from (select key_id from integration_events where key_id is not null union all select key_id from secrets) group by 1",
    );
    let rows = rows.fetch_all(readers).await?;
    rows.iter().map(|row| Ok((KeyId(row.try_get(0)?), row.try_get::<i64, _>(1)? as u64))).collect()
}

pub(super) async fn wrapped_before(readers: &SqlitePool, active: KeyId, limit: u32) -> Result<Vec<WrappedKey>> {
    let rows = sqlx::query(
        "select id, key_id, wrapped, null from integration_events where key_id < ?1 \
         union all select id, key_id, wrapped, null from integration_events where key_id > ?1 \
         union all select version, key_id, wrapped, name from secrets where key_id <> ?1 limit ?2",
    )
    .bind(active.0)
    .bind(limit)
    .fetch_all(readers)
    .await?;
    let key = |row: &SqliteRow| {
        let (number, id) = (row.try_get(0)?, KeyId(row.try_get(1)?));
        let of = match row.try_get::<Option<String>, _>(3)? {
            Some(name) => KeyOf::Secret { name, version: number },
            None => KeyOf::Event(EventId(number)),
        };
        Ok(WrappedKey { of, key: id, was: id, wrapped: row.try_get(2)? })
    };
    rows.iter().map(key).collect()
}

pub(super) async fn rewrap(conn: &mut SqliteConnection, keys: &[WrappedKey]) -> Result<()> {
    for key in keys {
        let change = match &key.of {
            KeyOf::Event(event) => {
                sqlx::query("update integration_events set key_id = ?, wrapped = ? where key_id = ? and id = ?")
                    .bind(key.key.0)
                    .bind(key.wrapped.clone())
                    .bind(key.was.0)
                    .bind(event.0)
            }
            KeyOf::Secret { name, version } => {
                sqlx::query("update secrets set key_id = ?, wrapped = ? where key_id = ? and name = ? and version = ?")
                    .bind(key.key.0)
                    .bind(key.wrapped.clone())
                    .bind(key.was.0)
                    .bind(name.clone())
                    .bind(*version)
            }
        };
        change.execute(&mut *conn).await?;
    }
    Ok(())
}

/// What is said of an event, emptied: ?1 is its id, its deliveries' ids lie between ?1 and ?2, ?3 is the state. A code
/// stays as long as it is one (`delivery::is_code`), and an idempotency key where it could not be content.
const FORGET: &[&str] = &[
    "update delivery_attempts set message = null, log = null, sealed = null, code = case when length(code) <= 64 \
     and code not glob '*[^a-z0-9-]*' and code not glob '*[0-9]*[0-9]*[0-9]*[0-9]*' then code end \
     where delivery_id > ?1 and delivery_id < ?2",
    "update dead_letter set message = null, code = case when length(code) <= 64 and code not glob '*[^a-z0-9-]*' \
     and code not glob '*[0-9]*[0-9]*[0-9]*[0-9]*' then code end where delivery_id > ?1 and delivery_id < ?2",
    // The keyed hash of what it was ordered by, of deliveries that have ended.
    "update webhook_deliveries set ordering_key = null where id > ?1 and id < ?2 and ordering_key is not null \
     and status not in (0, 1, 5)",
    "delete from subject_index where event_id = ?1",
    // Of a sealed event the column holds a key in clear only where it is no content.
    "update integration_events set idempotency_key = case when content = 1 then idempotency_key else '' end, \
     content = ?3, payload = x'', headers = null, sealed = null, key_id = null, wrapped = null where id = ?1 and content < 2",
];

/// Empties an event's content and everything that was said about it, and sets `state`, which is expired or erased: rows
/// stay, and say that there was something. What is owed of it stays owed, with nothing left to deliver. The pages are
/// overwritten (`secure_delete`); the write-ahead log holds them until it is emptied.
///
/// [`forget_directly`] does the same on the other way to the connection.
pub(super) async fn forget(conn: &mut SqliteConnection, event: EventId, state: ContentState) -> Result<()> {
    for statement in FORGET {
        let statement = sqlx::query(*statement).bind(event.0).bind(event.0 + ID_STRIDE).bind(state as i64);
        statement.execute(&mut *conn).await?;
    }
    Ok(())
}

pub(super) fn forget_directly(db: &rusqlite::Connection, event: EventId, state: ContentState) -> rusqlite::Result<()> {
    let values = [event.0, event.0 + ID_STRIDE, state as i64];
    for statement in FORGET {
        let mut statement = db.prepare_cached(statement)?;
        // Not each of them asks for all three.
        for (at, value) in (1..=statement.parameter_count()).zip(values) {
            statement.raw_bind_parameter(at, value)?;
        }
        statement.raw_execute()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::random_bytes;

    fn ring() -> (tempfile::TempDir, Keyring) {
        let directory = tempfile::TempDir::new().unwrap();
        let ring = Keyring::open(&directory.path().join("keyring"), 1).unwrap();
        (directory, ring)
    }

    /// Key, payload and envelope of an event, as its row holds them.
    fn row(ring: &Keyring, event: i64, content: &str) -> (KeyId, Vec<u8>, Vec<u8>, Vec<u8>) {
        let key = SealKey::new(random_bytes());
        let (id, wrapped) = ring.wrap(Place::PayloadKey { event }, random_bytes(), &key);
        let payload = key.seal(Place::Payload { event, has_envelope: true }, random_bytes(), content.as_bytes());
        (id, wrapped, payload, key.seal(Place::Envelope { event }, random_bytes(), b"[[], \"key\"]"))
    }

    #[test]
    fn a_row_opens_as_itself_and_with_anothers_parts_not_at_all() {
        let (_directory, ring) = ring();
        let (mine, other) = (row(&ring, 1, "mine"), row(&ring, 2, "other"));
        let open_with = |event, key: &(KeyId, Vec<u8>, Vec<u8>, Vec<u8>), payload: &[u8], envelope: Option<&[u8]>| {
            let content = ContentState::Sealed;
            let key = Some((key.0, &key.1[..]));
            let opened = Stored { event, content, headers: None, payload, envelope, key }.open(&ring);
            matches!(opened.content, Content::Sealed(_)).then_some((opened.payload, opened.shown))
        };
        let open = |event, key, payload, envelope| open_with(event, key, payload, Some(envelope));
        assert_eq!(open(1, &mine, &mine.2, &mine.3), Some(("mine".into(), Some("key".into()))));
        assert_eq!(open(1, &mine, &other.2, &mine.3), None, "another's payload");
        assert_eq!(open(1, &mine, &mine.2, &other.3), None, "another's envelope");
        assert_eq!(open(1, &other, &other.2, &other.3), None, "another's row altogether");
        assert_eq!(open(1, &mine, &mine.3, &mine.2), None, "columns exchanged");
        let stranger = (KeyId(mine.0.0 ^ 1), mine.1.clone(), Vec::new(), Vec::new());
        assert_eq!(open(1, &stranger, &mine.2, &mine.3), None, "a key that the ring does not have");
        assert_eq!(open(1, &mine, b"mine", &mine.3), None, "clear text where it should be sealed");
        assert_eq!(open_with(1, &mine, &mine.2, None), None, "its envelope taken away");
    }

    #[test]
    fn what_was_said_opens_for_its_own_try_only() {
        let key = SealKey::new(random_bytes());
        let plain = serde_json::to_vec(&Said { message: Some("no".into()), ..Said::default() }).unwrap();
        let sealed = key.seal(Place::Attempt { delivery: 7, number: 2 }, random_bytes(), &plain);
        assert_eq!(said(Some(&key), 7, 2, &sealed).message.as_deref(), Some("no"));
        assert_eq!(said(Some(&key), 7, 3, &sealed).message, None);
        assert_eq!(said(Some(&key), 8, 2, &sealed).message, None);
        assert_eq!(said(None, 7, 2, &sealed).message, None);
    }
}
