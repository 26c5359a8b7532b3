//! The hot path on MySQL: a few statements over many rows each.
//!
//! Each number of rows is a statement of its own, which a connection keeps prepared, so rows are inserted in parts whose
//! lengths are powers of two, and lists of ids are filled up to one with their last.
//!
//! A locking read holds every row that it looks at, also those that it then leaves. So each statement that locks is told
//! which index to use: left to itself the optimizer takes a small table as a whole.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::task::block_in_place;

use crate::delivery::{Attempt, Begin, Delivery, Outcome};
use crate::event::{DeliveryId, Event, EventId};
use crate::keyring::{KeyId, Keyring};
use crate::store::batch::{DeliveryRow, End, EventRow, Steps, SubjectRow, ended_at};
use crate::store::rows::{ContentState, Promoted};
use crate::store::sql::Conn;
use crate::store::tables::content::Stored;
use crate::store::{Result, StoreError};

/// Rows of one statement, at most: more of them make the statements larger, which each connection keeps, and nothing faster.
const MOST_ROWS: usize = 128;
/// What they hold, at most, unless one alone holds more: half of what the server takes at least.
const MOST_BYTES: usize = 8 << 20;
/// Ids of one list.
const MOST_IDS: usize = 512;

type Query = sqlx::query::Query<'static, sqlx::MySql, MySqlArguments>;

/// A connection in a transaction, for what is hot.
pub(super) struct Hot<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Steps for Hot<'_> {
    fn conn(&mut self) -> &mut Conn {
        self.0
    }

    async fn fence(&mut self, node: i64) -> Result<()> {
        let ours = sqlx::query("select id from nodes where id = ? and left_at is null lock in share mode");
        ours.bind(node).fetch_optional(self.raw()?).await?.map(drop).ok_or(StoreError::Fenced)
    }

    async fn begin(&mut self, node: i64, tries: &[&Begin]) -> Result<HashSet<DeliveryId>> {
        let mut ids: Vec<i64> = tries.iter().map(|try_| try_.delivery.0).collect();
        ids.dedup();
        let ours = self.lock(node, &ids).await?;
        let tries: Vec<&Begin> = tries.iter().copied().filter(|try_| ours.contains(&try_.delivery)).collect();
        let into = "replace into delivery_attempts (delivery_id, number, started_at, duration_us, outcome)";
        let bind = |query: Query, try_: &&Begin| {
            query
                .bind(try_.delivery.0)
                .bind(try_.number)
                .bind(try_.started_ms as i64)
                .bind(0_i64)
                .bind(Outcome::Interrupted as i64)
        };
        self.insert(into, &tries, |_| 0, bind).await?;
        Ok(ours)
    }

    async fn settle(&mut self, node: i64, ends: &[End]) -> Result<HashSet<DeliveryId>> {
        let ids: Vec<i64> = ends.iter().map(|end| end.delivery.0).collect();
        let ours = self.lock(node, &ids).await?;
        // Nearly all of them end alike.
        let mut alike: BTreeMap<(i64, i64, i64), Vec<i64>> = BTreeMap::new();
        for end in ends.iter().filter(|end| ours.contains(&end.delivery)) {
            alike.entry((end.status as i64, end.tries, end.charged)).or_default().push(end.delivery.0);
        }
        let end = "update webhook_deliveries force index (primary) set status = ?, node_id = 0, tries = tries + ?, \
                   charged = charged + ? where id in";
        for ((status, tries, charged), ids) in alike {
            for part in ids.chunks(MOST_IDS) {
                by_ids(end, &[status, tries, charged], part, "").execute(&mut *self.raw()?).await?;
            }
        }
        Ok(ours)
    }

    async fn insert_attempts(&mut self, attempts: &[(&Delivery, &Attempt)]) -> Result<()> {
        let into = "replace into delivery_attempts (delivery_id, number, started_at, duration_us, outcome, http_status, \
                    code, message, connector_version, mapping_version, mapping_id, log, sealed)";
        let bind = |query: Query, (delivery, attempt): &(&Delivery, &Attempt)| {
            query
                .bind(delivery.id.0)
                .bind(delivery.tries + 1)
                .bind(attempt.started_ms as i64)
                .bind(attempt.duration_us as i64)
                .bind(attempt.outcome as i64)
                .bind(attempt.http_status.map(i64::from))
                .bind(attempt.code.as_deref())
                .bind(attempt.message.as_deref())
                .bind(attempt.connector_version)
                .bind(attempt.mapping_version)
                .bind(attempt.mapping_id)
                .bind(attempt.log.as_deref())
                .bind(attempt.sealed.as_deref())
        };
        let weight = |(_, attempt): &(&Delivery, &Attempt)| {
            let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            text(&attempt.code)
                + text(&attempt.message)
                + text(&attempt.log)
                + attempt.sealed.as_ref().map_or(0, Vec::len)
        };
        self.insert(into, attempts, weight, bind).await.map(drop)
    }

    async fn insert_dead(&mut self, dead: &[(&Delivery, &Attempt)]) -> Result<()> {
        let into = "replace into dead_letter (delivery_id, event_id, endpoint_id, reason, http_status, code, message, \
                    created_at)";
        let bind = |query: Query, (delivery, attempt): &(&Delivery, &Attempt)| {
            query
                .bind(delivery.id.0)
                .bind(delivery.event.id.0)
                .bind(delivery.endpoint)
                .bind(attempt.outcome as i64)
                .bind(attempt.http_status.map(i64::from))
                .bind(attempt.code.as_deref())
                .bind(attempt.message.as_deref())
                .bind(ended_at(attempt))
        };
        let weight = |(_, attempt): &(&Delivery, &Attempt)| attempt.message.as_ref().map_or(0, String::len);
        self.insert(into, dead, weight, bind).await.map(drop)
    }

    async fn insert_retries(&mut self, retries: &[(DeliveryId, u64)]) -> Result<()> {
        let into = "replace into retry_queue (delivery_id, next_retry_at)";
        let bind = |query: Query, (delivery, at_ms): &(DeliveryId, u64)| query.bind(delivery.0).bind(*at_ms as i64);
        self.insert(into, retries, |_| 0, bind).await.map(drop)
    }

    async fn known(&mut self, keys: &[&[u8]]) -> Result<HashMap<Vec<u8>, EventId>> {
        let conn = self.raw()?;
        let mut known = HashMap::new();
        for part in keys.chunks(MOST_IDS) {
            let places = places(part.len().next_power_of_two());
            let sql = format!("select \"key\", event_id from idempotency_keys where \"key\" in {places}");
            let query = filled(part).fold(sqlx::query(AssertSqlSafe(sql)), |query, key| query.bind(*key));
            for row in query.fetch_all(&mut *conn).await? {
                known.insert(row.try_get(0)?, EventId(row.try_get(1)?));
            }
        }
        Ok(known)
    }

    async fn insert_keys(&mut self, keys: &[(&[u8], EventId)]) -> Result<Vec<Option<EventId>>> {
        // `ignore` would also cut a key that is too long for its column: none is (`ingress::key`).
        let into = "insert ignore into idempotency_keys (\"key\", event_id)";
        let bind = |query: Query, (key, event): &(&[u8], EventId)| query.bind(*key).bind(event.0);
        let fresh = self.insert(into, keys, |(key, _)| key.len(), bind).await?;
        if fresh == keys.len() as u64 {
            return Ok(vec![None; keys.len()]);
        }
        let names: Vec<&[u8]> = keys.iter().map(|(key, _)| *key).collect();
        let there = self.known(&names).await?;
        // A key that stands for this very event is new, unless all of this was committed before and the answer was lost.
        let ours: Vec<i64> = keys.iter().filter(|(key, id)| there.get(*key) == Some(id)).map(|(_, id)| id.0).collect();
        let mut before = HashSet::new();
        for part in ours.chunks(MOST_IDS) {
            let events = by_ids("select id from integration_events where id in", &[], part, "");
            for row in events.fetch_all(&mut *self.raw()?).await? {
                before.insert(EventId(row.try_get(0)?));
            }
        }
        Ok(keys.iter().map(|(key, id)| there.get(*key).copied().filter(|is| is != id || before.contains(is))).collect())
    }

    async fn insert_events(&mut self, events: &[EventRow<'_>]) -> Result<()> {
        let into = "insert into integration_events (id, source, event_type, status, created_at, idempotency_key, \
                    content_type, headers, parent_id, payload, content, sealed, key_id, wrapped)";
        let bind = |query: Query, row: &EventRow<'_>| {
            let event = &row.new.event;
            query
                .bind(event.id.0)
                .bind(&*event.source)
                .bind(&*event.event_type)
                .bind(row.status)
                .bind(event.created_ms as i64)
                .bind(row.idempotency_key)
                .bind(&*event.content_type)
                .bind(row.headers.as_deref())
                .bind(event.parent.map(|parent| parent.0))
                .bind(row.payload)
                .bind(row.content as i64)
                .bind(row.sealed)
                .bind(row.key_id)
                .bind(row.wrapped)
        };
        let weight = |row: &EventRow<'_>| {
            row.payload.len() + row.headers.as_ref().map_or(0, String::len) + row.sealed.map_or(0, <[u8]>::len)
        };
        self.insert(into, events, weight, bind).await.map(drop)
    }

    async fn insert_subjects(&mut self, subjects: &[SubjectRow<'_>]) -> Result<()> {
        // Subjects have the length of their column: there is nothing else to ignore than one that comes twice.
        let into = "insert ignore into subject_index (kind, subject, event_id)";
        let bind = |query: Query, row: &SubjectRow<'_>| query.bind(row.kind).bind(row.subject).bind(row.event.0);
        self.insert(into, subjects, |_| 0, bind).await.map(drop)
    }

    async fn insert_deliveries(&mut self, deliveries: &[DeliveryRow<'_>]) -> Result<()> {
        let into = "insert into webhook_deliveries (id, event_id, endpoint_id, route_id, queue_id, priority, status, \
                    node_id, tries, charged, ordering_key)";
        let bind = |query: Query, row: &DeliveryRow<'_>| {
            query
                .bind(row.new.id.0)
                .bind(row.event.0)
                .bind(row.new.endpoint)
                .bind(row.new.route)
                .bind(row.new.queue)
                .bind(i64::from(row.new.priority))
                .bind(row.status as i64)
                .bind(row.node)
                .bind(0_i64)
                .bind(0_i64)
                .bind(row.new.ordering)
        };
        self.insert(into, deliveries, |_| 0, bind).await.map(drop)
    }
}

impl Hot<'_> {
    fn raw(&mut self) -> Result<&mut MySqlConnection> {
        match self.0 {
            Conn::MySql(transaction) => Ok(transaction),
            _ => Err(StoreError::Database("a transaction of another database".into())),
        }
    }

    /// Inserts rows in as few statements as there need be. `weight` is how much a row holds besides its numbers.
    async fn insert<T: Sync>(
        &mut self,
        into: &str,
        rows: &[T],
        weight: impl Fn(&T) -> usize + Send,
        bind: impl Fn(Query, &T) -> Query + Send,
    ) -> Result<u64> {
        let columns = places(into.matches(',').count() + 1);
        let conn = self.raw()?;
        let mut inserted = 0;
        for part in parts(rows, weight) {
            let sql = format!("{into} values {}", vec![&columns[..]; part.len()].join(", "));
            let query = part.iter().fold(sqlx::query(AssertSqlSafe(sql)), &bind);
            inserted += query.execute(&mut *conn).await?.rows_affected();
        }
        Ok(inserted)
    }

    /// Holds those of the deliveries that are this node's and owed, in the order of their ids.
    async fn lock(&mut self, node: i64, ids: &[i64]) -> Result<HashSet<DeliveryId>> {
        let conn = self.raw()?;
        let mut ours = HashSet::with_capacity(ids.len());
        let owed = "select id from webhook_deliveries force index (primary) where node_id = ? and status = 0 and id in";
        for part in ids.chunks(MOST_IDS) {
            for row in by_ids(owed, &[node], part, " for update").fetch_all(&mut *conn).await? {
                ours.insert(DeliveryId(row.try_get(0)?));
            }
        }
        Ok(ours)
    }

    pub(super) async fn claim(
        &mut self,
        ring: &Keyring,
        node: i64,
        endpoint: i64,
        limit: u32,
    ) -> Result<Vec<Delivery>> {
        self.fence(node).await?;
        // What another node is about to take is left to it. Of those with an ordering key the oldest that is open may go,
        // which is the first in its index; what is only looked at there is not locked.
        let best = sqlx::query(
            "select d.id from webhook_deliveries d force index (webhook_deliveries_owed) \
             where d.status = 0 and d.node_id = 0 and d.endpoint_id = ? and (d.ordering_key is null or d.id = \
             (select b.id from webhook_deliveries b force index (webhook_deliveries_ordering) \
             where b.endpoint_id = d.endpoint_id and b.open_ordering = d.ordering_key order by b.id limit 1)) \
             order by d.urgency, d.id limit ? for update skip locked",
        );
        let best = best.bind(endpoint).bind(limit).fetch_all(&mut *self.raw()?).await?;
        let deliveries = self.read(ring, &ids(&best)?).await?;
        self.take(node, deliveries.iter()).await?;
        Ok(deliveries)
    }

    pub(super) async fn promote(&mut self, ring: &Keyring, node: i64, now_ms: u64, limit: u32) -> Result<Promoted> {
        self.fence(node).await?;
        let due = sqlx::query(
            "select delivery_id from retry_queue force index (retry_queue_next_retry_at) where next_retry_at <= ? \
             order by next_retry_at limit ? for update skip locked",
        );
        let due = ids(&due.bind(now_ms as i64).bind(limit).fetch_all(&mut *self.raw()?).await?)?;
        for part in due.chunks(MOST_IDS) {
            // It takes no hint (MariaDB ignores one in a delete from a join). At worst it waits for another node's promotion.
            let sql = "delete from retry_queue where delivery_id in";
            by_ids(sql, &[], part, "").execute(&mut *self.raw()?).await?;
        }
        let (to_table, deliveries): (Vec<Delivery>, Vec<Delivery>) =
            self.read(ring, &due).await?.into_iter().partition(|delivery| delivery.ordering.is_some());
        self.take(0, to_table.iter()).await?;
        self.take(node, deliveries.iter()).await?;
        Ok(Promoted { deliveries, to_table: to_table.iter().map(|delivery| delivery.endpoint).collect() })
    }

    /// Makes deliveries owed, in the hands of this node or, with 0, of nobody.
    async fn take(&mut self, node: i64, deliveries: impl Iterator<Item = &Delivery>) -> Result<()> {
        let mut ids: Vec<i64> = deliveries.map(|delivery| delivery.id.0).collect();
        ids.sort_unstable();
        for part in ids.chunks(MOST_IDS) {
            let sql = "update webhook_deliveries force index (primary) set status = 0, node_id = ? where id in";
            by_ids(sql, &[node], part, "").execute(&mut *self.raw()?).await?;
        }
        Ok(())
    }

    /// The deliveries with their events, in the order of the ids.
    async fn read(&mut self, ring: &Keyring, ids: &[i64]) -> Result<Vec<Delivery>> {
        let conn = self.raw()?;
        let mut found: HashMap<i64, Delivery> = HashMap::with_capacity(ids.len());
        let sql = "select d.id, d.endpoint_id, d.route_id, d.queue_id, d.priority, d.tries, d.charged, d.ordering_key, \
                   e.id, e.source, e.event_type, e.created_at, e.content_type, e.headers, e.parent_id, e.payload, \
                   e.content, e.sealed, e.key_id, e.wrapped from webhook_deliveries d force index (primary) \
                   join integration_events e on e.id = d.event_id where d.id in";
        for part in ids.chunks(MOST_IDS) {
            let rows = by_ids(sql, &[], part, "").fetch_all(&mut *conn).await?;
            // Opening is computing.
            let opened = block_in_place(|| rows.iter().map(|row| delivery(row, ring)).collect::<Result<Vec<_>>>())?;
            found.extend(opened.into_iter().map(|delivery| (delivery.id.0, delivery)));
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }
}

/// Cuts rows into parts that one statement takes.
fn parts<T>(mut rows: &[T], weight: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut parts = Vec::new();
    while !rows.is_empty() {
        let mut bytes = 0;
        let fits = rows.iter().take(MOST_ROWS).take_while(|row| {
            bytes += weight(row);
            bytes <= MOST_BYTES
        });
        let (part, rest) = rows.split_at(1 << fits.count().max(1).ilog2());
        parts.push(part);
        rows = rest;
    }
    parts
}

/// `(?, ?, …)`
fn places(number: usize) -> String {
    format!("({})", vec!["?"; number].join(", "))
}

/// A list up to the next power of two, by repeating its last.
fn filled<T>(list: &[T]) -> impl Iterator<Item = &T> {
    let more = list.len().next_power_of_two() - list.len();
    list.iter().chain(list.last().into_iter().cycle().take(more))
}

/// A statement that ends in a list of ids, and what follows it.
fn by_ids(sql: &str, first: &[i64], ids: &[i64], end: &str) -> Query {
    let sql = format!("{sql} {}{end}", places(ids.len().next_power_of_two()));
    first.iter().chain(filled(ids)).fold(sqlx::query(AssertSqlSafe(sql)), |query, id| query.bind(*id))
}

fn ids(rows: &[MySqlRow]) -> Result<Vec<i64>> {
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

fn delivery(row: &MySqlRow, ring: &Keyring) -> Result<Delivery> {
    let event: i64 = row.try_get(8)?;
    let opened = Stored {
        event,
        content: ContentState::from_sql(row.try_get(16)?),
        headers: row.try_get(13)?,
        payload: row.try_get(15)?,
        envelope: row.try_get(17)?,
        key: key_id(row.try_get(18)?).zip(row.try_get(19)?),
    }
    .open(ring);
    Ok(Delivery {
        id: DeliveryId(row.try_get(0)?),
        endpoint: row.try_get(1)?,
        route: row.try_get(2)?,
        queue: row.try_get(3)?,
        priority: row.try_get(4)?,
        tries: row.try_get::<i64, _>(5)? as u32,
        charged: row.try_get::<i64, _>(6)? as u32,
        ordering: row.try_get(7)?,
        event: Arc::new(Event {
            id: EventId(event),
            source: row.try_get::<&str, _>(9)?.into(),
            event_type: row.try_get::<&str, _>(10)?.into(),
            created_ms: row.try_get::<i64, _>(11)? as u64,
            content_type: row.try_get::<&str, _>(12)?.into(),
            headers: opened.headers,
            parent: row.try_get::<Option<i64>, _>(14)?.map(DeliveryId),
            payload: opened.payload,
            content: opened.content,
        }),
    })
}

fn key_id(id: Option<i64>) -> Option<KeyId> {
    id.and_then(|id| u32::try_from(id).ok()).map(KeyId)
}
