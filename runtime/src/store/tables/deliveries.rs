//! What is owed, and what was given up.

use super::content;
use crate::delivery::{Outcome, Said, Status};
use crate::event::{DeliveryId, EventId};
use crate::keyring::Keyring;
use crate::store::rows::{DeadLetterFilter, DeadLetterRow};
use crate::store::sql::{Conn, Lock, query};
use crate::store::{Result, StoreError};

pub(in crate::store) async fn next_due(conn: &mut Conn) -> Result<Option<u64>> {
    query("select min(next_retry_at) from retry_queue").fetch_one(conn).await?.try_get(0)
}

pub(in crate::store) async fn backlog(conn: &mut Conn) -> Result<Vec<i64>> {
    // One look for each endpoint. Of an `exists` MariaDB makes a join that reads everything that is owed.
    query(
        "select id from webhook_endpoints p where (select d.status from webhook_deliveries d \
         where d.node_id = 0 and d.endpoint_id = p.id and d.status = 0 limit 1) = 0",
    )
    .fetch_column(conn)
    .await
}

pub(in crate::store) async fn dead_letters(
    conn: &mut Conn,
    ring: &Keyring,
    filter: &DeadLetterFilter,
) -> Result<Vec<DeadLetterRow>> {
    let rows = query(
        "select l.delivery_id, l.event_id, e.event_type, l.endpoint_id, l.reason, l.http_status, l.code, \
         l.message, d.tries, l.created_at, e.key_id, e.wrapped, a.sealed \
         from dead_letter l join integration_events e on e.id = l.event_id \
         join webhook_deliveries d on d.id = l.delivery_id \
         left join delivery_attempts a on a.delivery_id = l.delivery_id and a.number = d.tries \
         where l.delivery_id < ?1 and (?2 is null or l.endpoint_id = ?2) order by l.delivery_id desc limit ?3",
    )
    .bind(filter.before.map_or(i64::MAX, |id| id.0))
    .bind(filter.endpoint)
    .bind(filter.limit)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let (delivery, event) = (row.try_get(0)?, row.try_get(1)?);
            let tries = row.try_get(8)?;
            let said = match row.try_get::<Option<&[u8]>>(12)? {
                Some(sealed) => {
                    let key = content::event_key(ring, event, row, 10)?;
                    content::said(key.as_ref(), delivery, tries, sealed)
                }
                None => Said::default(),
            };
            Ok(DeadLetterRow {
                delivery: DeliveryId(delivery),
                event: EventId(event),
                event_type: row.try_get(2)?,
                endpoint: row.try_get(3)?,
                reason: Outcome::from_sql(row.try_get(4)?),
                http_status: row.try_get(5)?,
                code: said.code.map_or_else(|| row.try_get(6), |code| Ok(Some(code)))?,
                message: said.message.map_or_else(|| row.try_get(7), |message| Ok(Some(message)))?,
                tries,
                created_ms: row.try_get(9)?,
            })
        })
        .collect()
}

pub(in crate::store) async fn replay(conn: &mut Conn, delivery: DeliveryId) -> Result<()> {
    conn.lock(Lock::Content).await?;
    let status: Option<i64> =
        query("select status from webhook_deliveries where id = ?").bind(delivery.0).fetch_value(conn).await?;
    match status.map(Status::from_sql) {
        None => Err(StoreError::NotFound(format!("delivery {delivery}"))),
        Some(Status::Owed | Status::Waiting) => {
            Err(StoreError::Conflict(format!("delivery {delivery} is still on its way")))
        }
        Some(_) if content::is_gone(conn, delivery).await? => Err(StoreError::Conflict(format!(
            "the content of {delivery} is kept no longer: there is nothing to deliver"
        ))),
        Some(_) => make_owed(conn, delivery.0).await,
    }
}

pub(in crate::store) async fn replay_dead(conn: &mut Conn, endpoint: Option<i64>, limit: u32) -> Result<u64> {
    conn.lock(Lock::Content).await?;
    let ids: Vec<i64> = query(
        "select delivery_id from dead_letter l join integration_events e on e.id = l.event_id \
         where (?1 is null or l.endpoint_id = ?1) and e.content < 2 order by delivery_id limit ?2",
    )
    .bind(endpoint)
    .bind(limit)
    .fetch_column(conn)
    .await?;
    for id in &ids {
        make_owed(conn, *id).await?;
    }
    Ok(ids.len() as u64)
}

/// Only what is not on its way: it could be with a node already.
async fn make_owed(conn: &mut Conn, id: i64) -> Result<()> {
    query("update webhook_deliveries set status = 0, node_id = 0, charged = 0 where id = ? and status not in (0, 1)")
        .bind(id)
        .execute(conn)
        .await?;
    query("delete from dead_letter where delivery_id = ?").bind(id).execute(conn).await?;
    Ok(())
}

pub(in crate::store) async fn unfinished(conn: &mut Conn) -> Result<Vec<(i64, i64, u64)>> {
    let rows = query(
        "select endpoint_id, status, count(*) from webhook_deliveries where status in (1, 4, 5) group by 1, 2 \
         union all select endpoint_id, 0, count(*) from webhook_deliveries where status = 0 group by 1",
    )
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
}
