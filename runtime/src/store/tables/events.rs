//! Events as operators look at them.

use super::content::{self, Stored, wrapped_key};
use crate::clock::ID_STRIDE;
use crate::delivery::{Outcome, Status};
use crate::event::{DeliveryId, Event, EventId};
use crate::keyring::Keyring;
use crate::store::rows::*;
use crate::store::sql::{Conn, Row, list, query};
use crate::store::{Result, StoreError};

/// What [`event_row`] reads.
const COLUMNS: &str = "id, source, event_type, status, created_at, parent_id, content";

pub(in crate::store) async fn listing(conn: &mut Conn, filter: &EventFilter) -> Result<Vec<EventRow>> {
    let rows = query(format!(
        "select {COLUMNS} from integration_events \
         where id < ?1 and (?2 is null or event_type = ?2) and (?3 is null or source = ?3) \
         and (?4 = 0 or status <> 0) and (?5 is null or parent_id = ?5) order by id desc limit ?6"
    ))
    .bind(filter.before.map_or(i64::MAX, |id| id.0))
    .bind(filter.event_type.as_ref())
    .bind(filter.source.as_ref())
    .bind(filter.unrouted)
    .bind(filter.parent.map(|id| id.0))
    .bind(filter.limit)
    .fetch_all(conn)
    .await?;
    event_rows(conn, rows).await
}

async fn event_rows(conn: &mut Conn, rows: Vec<Row>) -> Result<Vec<EventRow>> {
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        events.push(event_row(conn, &row).await?);
    }
    Ok(events)
}

/// Reads id, source, type, status, time, parent and the state of the content, and looks up the deliveries.
pub(super) async fn event_row(conn: &mut Conn, row: &Row) -> Result<EventRow> {
    let id = EventId(row.try_get(0)?);
    let deliveries = query(
        "select d.id, d.endpoint_id, d.status, d.tries, r.next_retry_at from webhook_deliveries d \
         left join retry_queue r on r.delivery_id = d.id where d.id > ? and d.id < ? order by d.id",
    )
    .bind(id.0)
    .bind(id.0 + ID_STRIDE)
    .fetch_all(conn)
    .await?;
    Ok(EventRow {
        id,
        source: row.try_get(1)?,
        event_type: row.try_get(2)?,
        unrouted: row.try_get(3)?,
        created_ms: row.try_get(4)?,
        parent: row.try_get::<Option<i64>>(5)?.map(DeliveryId),
        content: ContentState::from_sql(row.try_get(6)?),
        deliveries: deliveries
            .iter()
            .map(|row| {
                Ok(DeliveryRow {
                    id: DeliveryId(row.try_get(0)?),
                    endpoint: row.try_get(1)?,
                    status: Status::from_sql(row.try_get(2)?),
                    tries: row.try_get(3)?,
                    next_retry_ms: row.try_get(4)?,
                })
            })
            .collect::<Result<_>>()?,
    })
}

pub(in crate::store) async fn detail(conn: &mut Conn, ring: &Keyring, id: EventId) -> Result<EventDetail> {
    let row = query(format!(
        "select {COLUMNS}, content_type, headers, payload, idempotency_key, sealed, key_id, wrapped \
         from integration_events where id = ?"
    ))
    .bind(id.0)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| StoreError::NotFound(format!("event {id}")))?;
    let opened = Stored {
        event: id.0,
        content: ContentState::from_sql(row.try_get(6)?),
        headers: row.try_get(8)?,
        payload: row.try_get(9)?,
        envelope: row.try_get(11)?,
        key: wrapped_key(&row, 12)?,
    }
    .open(ring);
    let event = Event {
        id,
        source: row.try_get::<&str>(1)?.into(),
        event_type: row.try_get::<&str>(2)?.into(),
        created_ms: row.try_get(4)?,
        parent: row.try_get::<Option<i64>>(5)?.map(DeliveryId),
        content_type: row.try_get::<&str>(7)?.into(),
        headers: opened.headers,
        payload: opened.payload,
        content: opened.content,
    };
    let key = opened.shown.map_or_else(|| row.try_get(10), Ok)?;
    let row = event_row(conn, &row).await?;
    let mut attempts = Vec::new();
    let mut children = Vec::new();
    for delivery in &row.deliveries {
        let rows = query(
            "select a.delivery_id, a.number, a.started_at, a.duration_us, a.outcome, a.http_status, a.code, \
             a.message, c.digest, m.digest, a.log, e.name, e.version, a.sealed from delivery_attempts a \
             left join connector_versions c on c.id = a.connector_version \
             left join connector_versions m on m.id = a.mapping_version \
             left join event_mappings e on e.id = a.mapping_id where a.delivery_id = ? order by a.number",
        )
        .bind(delivery.id.0)
        .fetch_all(conn)
        .await?;
        for row in rows {
            let number = row.try_get(1)?;
            let sealed: Option<&[u8]> = row.try_get(13)?;
            let said = sealed.map(|sealed| content::said(event.content.key(), delivery.id.0, number, sealed));
            let said = said.unwrap_or_default();
            attempts.push(AttemptRow {
                delivery: DeliveryId(row.try_get(0)?),
                number,
                started_ms: row.try_get(2)?,
                duration_us: row.try_get(3)?,
                outcome: Outcome::from_sql(row.try_get(4)?),
                http_status: row.try_get(5)?,
                code: said.code.map_or_else(|| row.try_get(6), |code| Ok(Some(code)))?,
                message: said.message.map_or_else(|| row.try_get(7), |message| Ok(Some(message)))?,
                connector_digest: row.try_get(8)?,
                mapping_digest: row.try_get(9)?,
                log: said.log.map_or_else(|| row.try_get(10), |log| Ok(Some(log)))?,
                mapping: row.try_get::<Option<String>>(11)?.zip(row.try_get(12)?),
            });
        }
        let rows = query(format!("select {COLUMNS} from integration_events where parent_id = ? order by id"))
            .bind(delivery.id.0)
            .fetch_all(conn)
            .await?;
        children.extend(event_rows(conn, rows).await?);
    }
    Ok(EventDetail { event, key, row, attempts, children })
}

pub(in crate::store) async fn newest(conn: &mut Conn) -> Result<Option<EventId>> {
    let id: Option<i64> = query("select max(id) from integration_events").fetch_one(conn).await?.try_get(0)?;
    Ok(id.map(EventId))
}

pub(in crate::store) async fn latest(conn: &mut Conn, types: &[String], limit: u32) -> Result<Vec<EventId>> {
    if types.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i64> = query(format!(
        "select id from (select id, event_type from integration_events order by id desc limit ?) e \
         where event_type in ({}) order by id desc limit ?",
        list(types.len())
    ))
    .bind(SEARCHED)
    .bind_all(types)
    .bind(limit)
    .fetch_column(conn)
    .await?;
    Ok(ids.into_iter().map(EventId).collect())
}
