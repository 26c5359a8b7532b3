//! The hot path on PostgreSQL: each statement is about all rows of a batch, which it gets as one array for each column.
//!
//! Rows that change are found by an array of their ids. `status + 0` and `node_id + 0` keep the planner from the partial
//! indexes where it should go by the ids: of a table that fills faster than it is analysed it believes that hardly
//! anything is owed, and reads all that is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::delivery::{Attempt, Begin, Delivery, Outcome};
use crate::event::{DeliveryId, Event, EventId};
use crate::keyring::{KeyId, Keyring};
use crate::store::batch::{DeliveryRow, End, EventRow, Steps, SubjectRow, ended_at};
use crate::store::rows::{ContentState, Promoted};
use crate::store::sql::Conn;
use crate::store::tables::content::Stored;
use crate::store::{Result, StoreError};

/// A connection in a transaction.
pub(super) struct Hot<'c>(pub(super) &'c mut Conn);

impl Hot<'_> {
    fn raw(&mut self) -> Result<&mut PgConnection> {
        match self.0 {
            Conn::Postgres(conn) => Ok(conn),
            _ => Err(StoreError::Database("not in a transaction of PostgreSQL".into())),
        }
    }
}

/// One column of the rows.
fn column<'r, R, T>(rows: &'r [R], value: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

fn ids(rows: &[PgRow]) -> Result<HashSet<DeliveryId>> {
    rows.iter().map(|row| Ok(DeliveryId(row.try_get(0)?))).collect()
}

#[async_trait]
impl Steps for Hot<'_> {
    fn conn(&mut self) -> &mut Conn {
        self.0
    }

    async fn fence(&mut self, node: i64) -> Result<()> {
        let row = sqlx::query("select 1 from nodes where id = $1 and left_at is null for share").bind(node);
        row.fetch_optional(self.raw()?).await?.map(drop).ok_or(StoreError::Fenced)
    }

    async fn begin(&mut self, node: i64, tries: &[&Begin]) -> Result<HashSet<DeliveryId>> {
        // Nobody ends the delivery between this and the commit.
        let rows = sqlx::query(
            "with ours as (select id from webhook_deliveries where id = any($1) and node_id + 0 = $4 and status + 0 = 0 \
             order by id for update) \
             insert into delivery_attempts as a (delivery_id, number, started_at, duration_us, outcome) \
             select t.id, t.number, t.started_at, 0, $5 from unnest($1::bigint[], $2::bigint[], $3::bigint[]) \
             as t (id, number, started_at) where t.id in (select id from ours) \
             on conflict (delivery_id, number) do update set \
             started_at = excluded.started_at, duration_us = 0, outcome = excluded.outcome, http_status = null, \
             code = null, message = null, connector_version = null, mapping_version = null, mapping_id = null, \
             log = null, sealed = null returning a.delivery_id",
        )
        .bind(column(tries, |try_| try_.delivery.0))
        .bind(column(tries, |try_| i64::from(try_.number)))
        .bind(column(tries, |try_| try_.started_ms as i64))
        .bind(node)
        .bind(Outcome::Interrupted as i64);
        ids(&rows.fetch_all(self.raw()?).await?)
    }

    async fn settle(&mut self, node: i64, ends: &[End]) -> Result<HashSet<DeliveryId>> {
        // Most end alike. Joined with an array of ends, the planner may go through everything that is owed, for each of
        // them, while it does not know yet how much that is.
        let mut alike: BTreeMap<(i64, i64, i64), Vec<i64>> = BTreeMap::new();
        for end in ends {
            alike.entry((end.status as i64, end.tries, end.charged)).or_default().push(end.delivery.0);
        }
        let mut ours = HashSet::with_capacity(ends.len());
        for ((status, tries, charged), deliveries) in alike {
            let rows = sqlx::query(
                "update webhook_deliveries set status = $2, node_id = 0, tries = tries + $3, charged = charged + $4 \
                 where id = any($1) and node_id + 0 = $5 and status + 0 = 0 returning id",
            )
            .bind(deliveries)
            .bind(status)
            .bind(tries)
            .bind(charged)
            .bind(node);
            ours.extend(ids(&rows.fetch_all(self.raw()?).await?)?);
        }
        Ok(ours)
    }

    async fn insert_attempts(&mut self, attempts: &[(&Delivery, &Attempt)]) -> Result<()> {
        sqlx::query(
            "insert into delivery_attempts (delivery_id, number, started_at, duration_us, outcome, http_status, code, \
             message, connector_version, mapping_version, mapping_id, log, sealed) \
             select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], \
             $7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::bytea[]) \
             on conflict (delivery_id, number) do update set started_at = excluded.started_at, \
             duration_us = excluded.duration_us, outcome = excluded.outcome, http_status = excluded.http_status, \
             code = excluded.code, message = excluded.message, connector_version = excluded.connector_version, \
             mapping_version = excluded.mapping_version, mapping_id = excluded.mapping_id, log = excluded.log, \
             sealed = excluded.sealed",
        )
        .bind(column(attempts, |(delivery, _)| delivery.id.0))
        .bind(column(attempts, |(delivery, _)| i64::from(delivery.tries + 1)))
        .bind(column(attempts, |(_, attempt)| attempt.started_ms as i64))
        .bind(column(attempts, |(_, attempt)| attempt.duration_us as i64))
        .bind(column(attempts, |(_, attempt)| attempt.outcome as i64))
        .bind(column(attempts, |(_, attempt)| attempt.http_status.map(i64::from)))
        .bind(column(attempts, |(_, attempt)| attempt.code.as_deref()))
        .bind(column(attempts, |(_, attempt)| attempt.message.as_deref()))
        .bind(column(attempts, |(_, attempt)| attempt.connector_version))
        .bind(column(attempts, |(_, attempt)| attempt.mapping_version))
        .bind(column(attempts, |(_, attempt)| attempt.mapping_id))
        .bind(column(attempts, |(_, attempt)| attempt.log.as_deref()))
        .bind(column(attempts, |(_, attempt)| attempt.sealed.as_deref()))
        .execute(self.raw()?)
        .await?;
        Ok(())
    }

    async fn insert_dead(&mut self, dead: &[(&Delivery, &Attempt)]) -> Result<()> {
        sqlx::query(
            "insert into dead_letter (delivery_id, event_id, endpoint_id, reason, http_status, code, message, created_at) \
             select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], \
             $7::text[], $8::bigint[]) \
             on conflict (delivery_id) do update set event_id = excluded.event_id, endpoint_id = excluded.endpoint_id, \
             reason = excluded.reason, http_status = excluded.http_status, code = excluded.code, \
             message = excluded.message, created_at = excluded.created_at",
        )
        .bind(column(dead, |(delivery, _)| delivery.id.0))
        .bind(column(dead, |(delivery, _)| delivery.event.id.0))
        .bind(column(dead, |(delivery, _)| delivery.endpoint))
        .bind(column(dead, |(_, attempt)| attempt.outcome as i64))
        .bind(column(dead, |(_, attempt)| attempt.http_status.map(i64::from)))
        .bind(column(dead, |(_, attempt)| attempt.code.as_deref()))
        .bind(column(dead, |(_, attempt)| attempt.message.as_deref()))
        .bind(column(dead, |(_, attempt)| ended_at(attempt)))
        .execute(self.raw()?)
        .await?;
        Ok(())
    }

    async fn insert_retries(&mut self, retries: &[(DeliveryId, u64)]) -> Result<()> {
        sqlx::query(
            "insert into retry_queue (delivery_id, next_retry_at) select * from unnest($1::bigint[], $2::bigint[]) \
             on conflict (delivery_id) do update set next_retry_at = excluded.next_retry_at",
        )
        .bind(column(retries, |(delivery, _)| delivery.0))
        .bind(column(retries, |(_, at_ms)| *at_ms as i64))
        .execute(self.raw()?)
        .await?;
        Ok(())
    }

    async fn known(&mut self, keys: &[&[u8]]) -> Result<HashMap<Vec<u8>, EventId>> {
        let rows = sqlx::query("select key, event_id from idempotency_keys where key = any($1)").bind(keys);
        let rows = rows.fetch_all(self.raw()?).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, EventId(row.try_get(1)?)))).collect()
    }

    async fn insert_keys(&mut self, keys: &[(&[u8], EventId)]) -> Result<Vec<Option<EventId>>> {
        let mut new: HashSet<Vec<u8>> = HashSet::with_capacity(keys.len());
        let mut there: HashMap<Vec<u8>, EventId> = HashMap::new();
        let mut todo = keys.to_vec();
        // More than once only when a row was there for the first statement and is gone, by retention, for the second.
        while !todo.is_empty() {
            let rows = sqlx::query(
                "insert into idempotency_keys (key, event_id) select * from unnest($1::bytea[], $2::bigint[]) \
                 on conflict do nothing returning key",
            )
            .bind(column(&todo, |(key, _)| *key))
            .bind(column(&todo, |(_, event)| event.0));
            for row in rows.fetch_all(self.raw()?).await? {
                new.insert(row.try_get(0)?);
            }
            todo.retain(|(key, _)| !new.contains(*key));
            if !todo.is_empty() {
                there.extend(self.known(&column(&todo, |(key, _)| *key)).await?);
                todo.retain(|(key, _)| !there.contains_key(*key));
            }
        }
        Ok(column(keys, |(key, _)| there.get(*key).copied()))
    }

    async fn insert_events(&mut self, events: &[EventRow<'_>]) -> Result<()> {
        sqlx::query(
            "insert into integration_events (id, source, event_type, status, created_at, idempotency_key, content_type, \
             headers, parent_id, payload, content, sealed, key_id, wrapped) \
             select * from unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], \
             $7::text[], $8::text[], $9::bigint[], $10::bytea[], $11::bigint[], $12::bytea[], $13::bigint[], \
             $14::bytea[])",
        )
        .bind(column(events, |row| row.new.event.id.0))
        .bind(column(events, |row| &*row.new.event.source))
        .bind(column(events, |row| &*row.new.event.event_type))
        .bind(column(events, |row| row.status))
        .bind(column(events, |row| row.new.event.created_ms as i64))
        .bind(column(events, |row| row.idempotency_key))
        .bind(column(events, |row| &*row.new.event.content_type))
        .bind(column(events, |row| row.headers.as_deref()))
        .bind(column(events, |row| row.new.event.parent.map(|parent| parent.0)))
        .bind(column(events, |row| row.payload))
        .bind(column(events, |row| row.content as i64))
        .bind(column(events, |row| row.sealed))
        .bind(column(events, |row| row.key_id))
        .bind(column(events, |row| row.wrapped))
        .execute(self.raw()?)
        .await?;
        Ok(())
    }

    async fn insert_subjects(&mut self, subjects: &[SubjectRow<'_>]) -> Result<()> {
        sqlx::query(
            "insert into subject_index (kind, subject, event_id) \
             select * from unnest($1::bigint[], $2::bytea[], $3::bigint[]) on conflict do nothing",
        )
        .bind(column(subjects, |row| row.kind))
        .bind(column(subjects, |row| row.subject))
        .bind(column(subjects, |row| row.event.0))
        .execute(self.raw()?)
        .await?;
        Ok(())
    }

    async fn insert_deliveries(&mut self, deliveries: &[DeliveryRow<'_>]) -> Result<()> {
        sqlx::query(
            "insert into webhook_deliveries (id, event_id, endpoint_id, route_id, queue_id, priority, status, node_id, \
             ordering_key, tries, charged) \
             select *, 0, 0 from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], \
             $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])",
        )
        .bind(column(deliveries, |row| row.new.id.0))
        .bind(column(deliveries, |row| row.event.0))
        .bind(column(deliveries, |row| row.new.endpoint))
        .bind(column(deliveries, |row| row.new.route))
        .bind(column(deliveries, |row| row.new.queue))
        .bind(column(deliveries, |row| i64::from(row.new.priority)))
        .bind(column(deliveries, |row| row.status as i64))
        .bind(column(deliveries, |row| row.node))
        .bind(column(deliveries, |row| row.new.ordering))
        .execute(self.raw()?)
        .await?;
        Ok(())
    }
}

/// The columns that [`delivery`] reads.
macro_rules! returning {
    ($statement:literal) => {
        concat!(
            $statement,
            " returning d.id, d.endpoint_id, d.route_id, d.queue_id, d.priority, d.tries, d.charged, d.ordering_key, e.id, ",
            "e.source, e.event_type, e.created_at, e.content_type, e.headers, e.parent_id, e.payload, e.content, ",
            "e.sealed, e.key_id, e.wrapped"
        )
    };
}

impl Hot<'_> {
    /// Takes owed deliveries of an endpoint. What another node is about to take is not waited for.
    pub(super) async fn claim(&mut self, node: i64, endpoint: i64, limit: u32) -> Result<Vec<PgRow>> {
        self.fence(node).await?;
        let rows = sqlx::query(returning!(
            "with best as (select d.id from webhook_deliveries d where d.node_id = 0 and d.endpoint_id = $1 \
             and d.status = 0 and (d.ordering_key is null or not exists \
             (select 1 from webhook_deliveries b where b.endpoint_id = d.endpoint_id \
             and b.ordering_key = d.ordering_key and b.id < d.id and b.status in (0, 1, 5))) \
             order by d.priority desc, d.id limit $2 for update skip locked) \
             update webhook_deliveries d set node_id = $3 from integration_events e \
             where d.id = any(array(select id from best)) and e.id = d.event_id"
        ))
        .bind(endpoint)
        .bind(i64::from(limit))
        .bind(node);
        Ok(rows.fetch_all(self.raw()?).await?)
    }

    /// Takes what is due out of the retry queue, the longest due first. What has ended meanwhile, because it was erased,
    /// stays ended.
    pub(super) async fn promote(&mut self, node: i64, now_ms: u64, limit: u32) -> Result<Vec<PgRow>> {
        self.fence(node).await?;
        let due = sqlx::query(
            "delete from retry_queue where delivery_id = any(array(select delivery_id from retry_queue \
             where next_retry_at <= $1 order by next_retry_at limit $2 for update skip locked)) \
             returning delivery_id, next_retry_at",
        )
        .bind(now_ms as i64)
        .bind(i64::from(limit));
        let due = due.fetch_all(self.raw()?).await?;
        let due: HashMap<i64, i64> =
            due.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_>>()?;
        let mut ids: Vec<i64> = due.keys().copied().collect();
        ids.sort_unstable();
        let rows = sqlx::query(returning!(
            "update webhook_deliveries d set status = 0, \
             node_id = case when d.ordering_key is null then $2 else 0 end from integration_events e \
             where d.id = any($1) and d.status + 0 = 1 and e.id = d.event_id"
        ))
        .bind(ids)
        .bind(node);
        let rows = rows.fetch_all(self.raw()?).await?;
        let due = |row: PgRow| Ok((due.get(&row.try_get(0)?).copied(), row));
        let mut rows: Vec<(Option<i64>, PgRow)> = rows.into_iter().map(due).collect::<Result<_>>()?;
        rows.sort_by_key(|(due, _)| *due);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }
}

/// Best first: an update answers in any order.
pub(super) fn claimed(rows: &[PgRow], ring: &Keyring) -> Result<Vec<Delivery>> {
    let mut deliveries: Vec<Delivery> = rows.iter().map(|row| delivery(row, ring)).collect::<Result<_>>()?;
    deliveries.sort_unstable_by_key(|delivery| (-i16::from(delivery.priority), delivery.id));
    Ok(deliveries)
}

pub(super) fn promoted(rows: &[PgRow], ring: &Keyring) -> Result<Promoted> {
    let mut promoted = Promoted::default();
    for row in rows {
        if row.try_get::<Option<i64>, _>(7)?.is_some() {
            promoted.to_table.push(row.try_get(1)?);
        } else {
            promoted.deliveries.push(delivery(row, ring)?);
        }
    }
    Ok(promoted)
}

fn delivery(row: &PgRow, ring: &Keyring) -> Result<Delivery> {
    let event = row.try_get(8)?;
    let stored = Stored {
        event,
        content: ContentState::from_sql(row.try_get(16)?),
        headers: row.try_get(13)?,
        payload: row.try_get(15)?,
        envelope: row.try_get(17)?,
        key: row.try_get::<Option<i64>, _>(18)?.map(|id| KeyId(id as u32)).zip(row.try_get(19)?),
    };
    let opened = stored.open(ring);
    let text = |column: usize| row.try_get::<&str, _>(column);
    Ok(Delivery {
        id: DeliveryId(row.try_get(0)?),
        endpoint: row.try_get(1)?,
        route: row.try_get(2)?,
        queue: row.try_get(3)?,
        priority: row.try_get::<i64, _>(4)? as i8,
        tries: row.try_get::<i64, _>(5)? as u32,
        charged: row.try_get::<i64, _>(6)? as u32,
        ordering: row.try_get(7)?,
        event: Arc::new(Event {
            id: EventId(event),
            source: text(9)?.into(),
            event_type: text(10)?.into(),
            created_ms: row.try_get::<i64, _>(11)? as u64,
            content_type: text(12)?.into(),
            headers: opened.headers,
            parent: row.try_get::<Option<i64>, _>(14)?.map(DeliveryId),
            payload: opened.payload,
            content: opened.content,
        }),
    })
}
