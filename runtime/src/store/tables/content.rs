//! What the rows hold of content: opened where it is sealed, and the keys that it is sealed with.

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::ID_STRIDE;
use crate::delivery::{Said, is_code};
use crate::event::{Content, DeliveryId, EventId};
use crate::keyring::{KeyId, Keyring};
use crate::seal::{Place, SealKey};
use crate::store::Result;
use crate::store::rows::ContentState;
use crate::store::sql::{Conn, Row, query};

/// An event's content as it is stored.
pub(in crate::store) struct Stored<'r> {
    pub(in crate::store) event: i64,
    pub(in crate::store) content: ContentState,
    pub(in crate::store) headers: Option<&'r str>,
    pub(in crate::store) payload: &'r [u8],
    pub(in crate::store) envelope: Option<&'r [u8]>,
    pub(in crate::store) key: Option<(KeyId, &'r [u8])>,
}

pub(in crate::store) struct Opened {
    pub(in crate::store) headers: Vec<(String, String)>,
    pub(in crate::store) payload: Bytes,
    /// The idempotency key, where it is sealed.
    pub(in crate::store) shown: Option<String>,
    pub(in crate::store) content: Content,
}

impl Stored<'_> {
    /// What cannot be opened is as good as gone, and said in the log: one bad row must not stand in the way of others.
    pub(in crate::store) fn open(&self, ring: &Keyring) -> Opened {
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
pub(in crate::store) fn said(key: Option<&SealKey>, delivery: i64, number: u32, sealed: &[u8]) -> Said {
    let opened = key.and_then(|key| key.open(Place::Attempt { delivery, number }, sealed).ok());
    opened.and_then(|plain| serde_json::from_slice(&plain).ok()).unwrap_or_default()
}

/// Null when there are none, which is the common case.
pub(in crate::store) fn write_headers(headers: &[(String, String)]) -> Option<String> {
    if headers.is_empty() {
        return None;
    }
    // Strings always serialise.
    serde_json::to_string(headers).ok()
}

fn read_headers(text: Option<&str>) -> Vec<(String, String)> {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Whether the delivery's event has no content any more.
pub(super) async fn is_gone(conn: &mut Conn, delivery: DeliveryId) -> Result<bool> {
    let content: Option<i64> =
        query("select content from integration_events e join webhook_deliveries d on d.event_id = e.id where d.id = ?")
            .bind(delivery.0)
            .fetch_value(conn)
            .await?;
    Ok(!matches!(content.map(ContentState::from_sql), Some(ContentState::Clear | ContentState::Sealed)))
}

/// An event's key as it is wrapped, from the columns `key_id` and `wrapped`.
pub(super) fn wrapped_key(row: &Row, column: usize) -> Result<Option<(KeyId, &[u8])>> {
    Ok(row.try_get::<Option<u32>>(column)?.map(KeyId).zip(row.try_get::<Option<&[u8]>>(column + 1)?))
}

/// The key of an event, from the columns `key_id` and `wrapped`.
pub(super) fn event_key(ring: &Keyring, event: i64, row: &Row, column: usize) -> Result<Option<SealKey>> {
    let Some((id, wrapped)) = wrapped_key(row, column)? else { return Ok(None) };
    Ok(ring.unwrap(Place::PayloadKey { event }, id, wrapped).ok())
}

/// Empties an event's content and everything that was said about it, and sets `state`, which is expired or erased: rows
/// stay, and say that there was something. What is owed of it stays owed, with nothing left to deliver. SQLite overwrites
/// its pages (`secure_delete`), and its write-ahead log holds them until it is emptied.
pub(super) async fn forget(conn: &mut Conn, event: EventId, state: ContentState) -> Result<()> {
    let (event, end) = (event.0, event.0 + ID_STRIDE);
    // A code stays as long as it is one.
    let codes = "select delivery_id, number, code from delivery_attempts \
                 where delivery_id > ? and delivery_id < ? and code is not null";
    for row in query(codes).bind(event).bind(end).fetch_all(conn).await? {
        if !is_code(row.try_get(2)?) {
            query("update delivery_attempts set code = null where delivery_id = ? and number = ?")
                .bind(row.try_get::<i64>(0)?)
                .bind(row.try_get::<i64>(1)?)
                .execute(conn)
                .await?;
        }
    }
    let codes =
        "select delivery_id, code from dead_letter where delivery_id > ? and delivery_id < ? and code is not null";
    for row in query(codes).bind(event).bind(end).fetch_all(conn).await? {
        if !is_code(row.try_get(1)?) {
            query("update dead_letter set code = null where delivery_id = ?")
                .bind(row.try_get::<i64>(0)?)
                .execute(conn)
                .await?;
        }
    }
    for statement in [
        "update delivery_attempts set message = null, log = null, sealed = null where delivery_id > ? and delivery_id < ?",
        "update dead_letter set message = null where delivery_id > ? and delivery_id < ?",
        // The keyed hash of what it was ordered by, of deliveries that have ended.
        "update webhook_deliveries set ordering_key = null where id > ? and id < ? and ordering_key is not null \
         and status not in (0, 1, 5)",
    ] {
        query(statement).bind(event).bind(end).execute(conn).await?;
    }
    query("delete from subject_index where event_id = ?").bind(event).execute(conn).await?;
    // Of a sealed event the column holds a key in clear only where it is no content.
    query(
        "update integration_events set idempotency_key = case when content = 1 then idempotency_key else '' end, \
         content = ?, payload = ?, headers = null, sealed = null, key_id = null, wrapped = null \
         where id = ? and content < 2",
    )
    .bind(state as i64)
    .bind(Vec::<u8>::new())
    .bind(event)
    .execute(conn)
    .await?;
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
