//! People on SQLite: who is found where, and how what is about them goes.

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use rusqlite::{Connection, OptionalExtension as _, params};
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{AssertSqlSafe, Row as _};

use super::content::{Stored, forget_directly};
use super::event_row;
use super::hot::{Known, accept, owe};
use crate::clock::ID_STRIDE;
use crate::delivery::Status;
use crate::event::{DeliveryId, ErasureId, EventId, NewDelivery, NewEvent, SubjectKey};
use crate::ingress::key::{Key, LABEL};
use crate::keyring::{KeyId, Keyring};
use crate::store::Result;
use crate::store::rows::*;

/// Payload bytes of one answer of [`contents`], but for its last row.
const MAX_BYTES: usize = 16 << 20;

type Direct<T> = std::result::Result<T, rusqlite::Error>;

/// `found` is every event of the seeds with all that came of them: `?1` are keys as `[[kind, hex], …]`, `?2` ids.
const FOUND: &str = "with recursive named(id) as ( \
     select s.event_id from json_each(?1) j cross join subject_index s \
     on s.kind = json_extract(j.value, '$[0]') and s.subject = unhex(json_extract(j.value, '$[1]')) \
     union select e.id from json_each(?2) j cross join integration_events e on e.id = j.value), \
     found(id) as (select id from named union \
     select e.id from found f cross join integration_events e on e.parent_id > f.id and e.parent_id < f.id + 64)";

/// Tries that ended before the connector was called: skipped, mapping-failed, refused.
const UNSENT: &str = "(1, 7, 12)";

fn keys_json(seeds: &Seeds) -> String {
    let keys: Vec<(i64, String)> = seeds.keys.iter().map(|key| (key.kind as i64, hex::encode(key.subject))).collect();
    // Numbers and texts always serialise.
    serde_json::to_string(&keys).unwrap_or_default()
}

fn ids_json(seeds: &Seeds) -> String {
    let ids: Vec<i64> = seeds.events.iter().map(|id| id.0).collect();
    serde_json::to_string(&ids).unwrap_or_default()
}

pub(super) async fn find(
    conn: &mut SqliteConnection,
    seeds: &Seeds,
    before: Option<EventId>,
    limit: u32,
) -> Result<Found> {
    let (keys, ids) = (keys_json(seeds), ids_json(seeds));
    let counts = sqlx::query(AssertSqlSafe(format!(
        "{FOUND} select (select count(*) from found), (select count(*) from named), (select count(*) from found f \
         cross join webhook_deliveries d on d.id > f.id and d.id < f.id + 64 where d.status in (0, 1, 4, 5))"
    )))
    .bind(keys.clone())
    .bind(ids.clone())
    .fetch_one(&mut *conn)
    .await?;
    let rows = sqlx::query(AssertSqlSafe(format!(
        "{FOUND} select e.id, e.source, e.event_type, e.status, e.created_at, e.parent_id, e.content, \
         e.id in (select id from named) from found f cross join integration_events e on e.id = f.id \
         where e.id < ?3 order by e.id desc limit ?4"
    )))
    .bind(keys)
    .bind(ids)
    .bind(before.map_or(i64::MAX, |id| id.0))
    .bind(limit)
    .fetch_all(&mut *conn)
    .await?;
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        let event = event_row(conn, &row).await?;
        let delivered: Vec<(i64, i64)> = sqlx::query_as(
            "select delivery_id, max(started_at + duration_us / 1000) from delivery_attempts \
             where delivery_id > ? and delivery_id < ? and outcome = 0 group by 1",
        )
        .bind(event.id.0)
        .bind(event.id.0 + ID_STRIDE)
        .fetch_all(&mut *conn)
        .await?;
        let delivered = delivered.into_iter().map(|(id, ms)| (DeliveryId(id), ms as u64)).collect();
        items.push(FoundEvent { event, direct: row.try_get(7)?, delivered });
    }
    let count = |column: usize| counts.try_get::<i64, _>(column).map(|count| count as u64);
    Ok(Found { events: count(0)?, direct: count(1)?, open: count(2)?, items })
}

pub(super) async fn received(conn: &mut SqliteConnection, seeds: &Seeds, limit: u32) -> Result<Vec<ReceivedRow>> {
    let rows = sqlx::query(AssertSqlSafe(format!(
        "{FOUND} select d.endpoint_id, d.event_id, coalesce(min(a.started_at), e.created_at), \
         coalesce(max(a.started_at + a.duration_us / 1000), e.created_at), max(d.status = 2) from found f \
         cross join integration_events e on e.id = f.id \
         cross join webhook_deliveries d on d.id > f.id and d.id < f.id + 64 \
         left join delivery_attempts a on a.delivery_id = d.id \
         where d.status = 2 or a.outcome not in {UNSENT} group by 1, 2 order by 1, 2 limit ?3"
    )))
    .bind(keys_json(seeds))
    .bind(ids_json(seeds))
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(ReceivedRow {
                endpoint: row.try_get(0)?,
                event: EventId(row.try_get(1)?),
                first_ms: row.try_get::<i64, _>(2)? as u64,
                last_ms: row.try_get::<i64, _>(3)? as u64,
                delivered: row.try_get(4)?,
            })
        })
        .collect()
}

pub(super) async fn coverage(readers: &SqlitePool) -> Result<Coverage> {
    let rows = sqlx::query(
        "select source, parent_id is not null, count(*), sum(not exists (select 1 from subject_index s \
         where s.event_id = e.id)) from (select id, source, parent_id, content from integration_events \
         order by id desc limit ?) e where content < 2 and source not like 'privacy:%' \
         and source not like 'sync:%' and source not like 'schedule:%' group by 1, 2 order by 1, 2",
    )
    .bind(COVERED)
    .fetch_all(readers)
    .await?;
    let more: bool =
        sqlx::query_scalar("select exists (select 1 from integration_events order by id desc limit 1 offset ?)")
            .bind(COVERED)
            .fetch_one(readers)
            .await?;
    let row = |row: &sqlx::sqlite::SqliteRow| {
        Ok(CoverageRow {
            source: row.try_get(0)?,
            emitted: row.try_get(1)?,
            with_content: row.try_get::<i64, _>(2)? as u64,
            unindexed: row.try_get::<i64, _>(3)? as u64,
        })
    };
    Ok(Coverage { rows: rows.iter().map(row).collect::<Result<_>>()?, complete: !more })
}

pub(super) async fn contents(
    conn: &mut SqliteConnection,
    ring: &Keyring,
    after: EventId,
    upto: EventId,
    limit: u32,
) -> Result<Vec<ContentRow>> {
    let mut rows = sqlx::query(
        "select e.id, e.source, e.event_type, e.created_at, e.parent_id, e.content, e.headers, e.payload, e.sealed, \
         e.key_id, e.wrapped from integration_events e \
         where e.id > ? and e.id <= ? and e.content < 2 order by e.id limit ?",
    )
    .bind(after.0)
    .bind(upto.0)
    .bind(limit)
    .fetch(conn);
    let (mut found, mut bytes) = (Vec::new(), 0);
    while bytes < MAX_BYTES
        && let Some(row) = rows.try_next().await?
    {
        let id = row.try_get(0)?;
        let opened = Stored {
            event: id,
            content: ContentState::from_sql(row.try_get(5)?),
            headers: row.try_get(6)?,
            payload: row.try_get(7)?,
            envelope: row.try_get(8)?,
            key: row.try_get::<Option<u32>, _>(9)?.map(KeyId).zip(row.try_get::<Option<&[u8]>, _>(10)?),
        }
        .open(ring);
        bytes += opened.payload.len();
        found.push(ContentRow {
            id: EventId(id),
            source: row.try_get(1)?,
            event_type: row.try_get(2)?,
            created_ms: row.try_get::<i64, _>(3)? as u64,
            emitted: row.try_get::<Option<i64>, _>(4)?.is_some(),
            headers: opened.headers,
            payload: opened.payload,
        });
    }
    Ok(found)
}

pub(super) fn begin(db: &Connection, known: Known<'_>, new: &NewErasure, notice: &NewEvent) -> Direct<BegunErasure> {
    if let Some(request) = &new.request {
        let before = db
            .query_row("select id from erasures where request = ?", [request], |row| Ok(ErasureId(row.get(0)?)))
            .optional()?;
        if let Some(before) = before {
            return Ok(BegunErasure::Known(before));
        }
    }
    db.execute(
        "insert into erasures (id, request, created_at, reason, actor, state, notice_id, rehidden) \
         values (?, ?, ?, ?, ?, 0, ?, 0)",
        params![new.id.0, new.request, new.now_ms as i64, new.reason, new.actor, notice.event.id.0],
    )?;
    db.prepare(&format!(
        "{FOUND} insert or ignore into erased_events (event_id, erasure_id, done) \
         select e.id, ?3, 0 from found f cross join integration_events e on e.id = f.id where e.content <> 3"
    ))?
    .execute(params![keys_json(&new.seeds), ids_json(&new.seeds), new.id.0])?;
    accept(db, known, 0, notice)?;
    let mut events = db.prepare("select event_id from erased_events where erasure_id = ?")?;
    let events = events.query_map([new.id.0], |row| Ok(EventId(row.get(0)?)))?;
    Ok(BegunErasure::Begun(events.collect::<Direct<_>>()?))
}

pub(super) fn erase(
    db: &Connection,
    ring: &Keyring,
    erasure: ErasureId,
    events: &[EventId],
    under_way: &[DeliveryId],
    now_ms: u64,
) -> Direct<ErasedBatch> {
    let mut batch = ErasedBatch::default();
    for event in events {
        let open = db
            .prepare_cached("update erased_events set done = 1 where event_id = ? and erasure_id = ? and done = 0")?
            .execute([event.0, erasure.0])?;
        if open == 0 {
            continue;
        }
        note_recipients(db, erasure, *event, under_way, now_ms)?;
        note_children(db, erasure, *event, &mut batch)?;
        let hidden = hide_key(db, ring, *event)?;
        if hidden > 0 {
            batch.rehidden = true;
            db.prepare_cached("update erasures set rehidden = rehidden + ? where id = ?")?
                .execute([hidden as i64, erasure.0])?;
        }
        batch.repaused |= unsay_pauses(db, *event)?;
        end_deliveries(db, *event, &mut batch.endpoints)?;
        wipe(db, *event)?;
    }
    batch.endpoints.sort_unstable();
    batch.endpoints.dedup();
    Ok(batch)
}

/// Who has got the event, or may have.
fn note_recipients(
    db: &Connection,
    erasure: ErasureId,
    event: EventId,
    under_way: &[DeliveryId],
    now_ms: u64,
) -> Direct<()> {
    let mut got: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    let mut add = |endpoint: i64, first: i64, last: i64| {
        let known = got.entry(endpoint).or_insert((first, last));
        *known = (known.0.min(first), known.1.max(last));
    };
    let mut rows = db.prepare_cached(
        "select d.endpoint_id, coalesce(min(a.started_at), ?3), \
         coalesce(max(a.started_at + a.duration_us / 1000), ?3) from webhook_deliveries d \
         left join delivery_attempts a on a.delivery_id = d.id \
         where d.id > ?1 and d.id < ?2 and (d.status = 2 or a.outcome not in (1, 7, 12)) group by 1",
    )?;
    let created = db
        .prepare_cached("select created_at from integration_events where id = ?")?
        .query_row([event.0], |row| row.get::<_, i64>(0))
        .optional()?;
    let rows = rows.query_map(params![event.0, event.0 + ID_STRIDE, created.unwrap_or(now_ms as i64)], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })?;
    for row in rows {
        let (endpoint, first, last) = row?;
        add(endpoint, first, last);
    }
    for delivery in under_way.iter().filter(|id| id.0 > event.0 && id.0 < event.0 + ID_STRIDE) {
        let endpoint = db
            .prepare_cached("select endpoint_id from webhook_deliveries where id = ?")?
            .query_row([delivery.0], |row| row.get(0))
            .optional()?;
        if let Some(endpoint) = endpoint {
            add(endpoint, now_ms as i64, now_ms as i64);
        }
    }
    for (endpoint, (first, last)) in got {
        db.prepare_cached(
            "insert into erasure_recipients (erasure_id, endpoint_id, events, first_at, last_at) \
             values (?, ?, 1, ?, ?) on conflict (erasure_id, endpoint_id) do update set events = events + 1, \
             first_at = min(first_at, excluded.first_at), last_at = max(last_at, excluded.last_at)",
        )?
        .execute([erasure.0, endpoint, first, last])?;
    }
    Ok(())
}

/// What came of its deliveries in the meantime goes too.
fn note_children(db: &Connection, erasure: ErasureId, event: EventId, batch: &mut ErasedBatch) -> Direct<()> {
    let mut children =
        db.prepare_cached("select id from integration_events where parent_id > ? and parent_id < ? and content <> 3")?;
    let children = children.query_map([event.0, event.0 + ID_STRIDE], |row| row.get::<_, i64>(0))?;
    for child in children.collect::<Direct<Vec<_>>>()? {
        let fresh = db
            .prepare_cached("insert or ignore into erased_events (event_id, erasure_id, done) values (?, ?, 0)")?
            .execute([child, erasure.0])?;
        if fresh > 0 {
            batch.children.push(EventId(child));
        }
    }
    Ok(())
}

/// A key that stands there as it came is hidden, so that a repetition is still recognised. Answers how many.
fn hide_key(db: &Connection, ring: &Keyring, event: EventId) -> Direct<usize> {
    let row = db
        .prepare_cached("select source, idempotency_key, content from integration_events where id = ?")?
        .query_row([event.0], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?)))
        .optional()?;
    // What a sealed event shows is an id that says nothing.
    let Some((source, shown, content)) = row else { return Ok(0) };
    if shown.is_empty() || content == ContentState::Sealed as i64 {
        return Ok(0);
    }
    let mut hidden = 0;
    // What a connector emitted has its endpoint's name as source, and a word before it in the key.
    for source in [source.clone(), format!("endpoint:{source}")] {
        let open = Key::open_index(&source, &shown);
        hidden += db
            .prepare_cached("update or replace idempotency_keys set key = ? where key = ? and event_id = ?")?
            .execute(params![Key::hidden(&open, |index| ring.index(LABEL, &[index])), open, event.0])?;
    }
    Ok(hidden)
}

/// An endpoint may be paused with what a connector said about the event.
fn unsay_pauses(db: &Connection, event: EventId) -> Direct<bool> {
    let mut deliveries = db.prepare_cached("select id from webhook_deliveries where id > ? and id < ?")?;
    let deliveries = deliveries.query_map([event.0, event.0 + ID_STRIDE], |row| row.get::<_, i64>(0))?;
    let mut changed = 0;
    for delivery in deliveries.collect::<Direct<Vec<_>>>()? {
        changed += db
            .prepare_cached(
                "update webhook_endpoints set paused = ?1 where paused in (select message from delivery_attempts \
                 where delivery_id = ?2 and message is not null)",
            )?
            .execute(params![format!("see what became of delivery {}", DeliveryId(delivery)), delivery])?;
    }
    Ok(changed > 0)
}

/// What is not delivered never will be.
fn end_deliveries(db: &Connection, event: EventId, endpoints: &mut Vec<i64>) -> Direct<()> {
    let range = [event.0, event.0 + ID_STRIDE];
    let mut open = db.prepare_cached(
        "select endpoint_id from webhook_deliveries where id > ? and id < ? and status in (0, 1, 4, 5)",
    )?;
    for endpoint in open.query_map(range, |row| row.get::<_, i64>(0))? {
        endpoints.push(endpoint?);
    }
    db.prepare_cached(
        "update webhook_deliveries set status = 7, node_id = 0 where id > ? and id < ? and status in (0, 1, 4, 5)",
    )?
    .execute(range)?;
    db.prepare_cached("update webhook_deliveries set ordering_key = null where id > ? and id < ?")?.execute(range)?;
    db.prepare_cached("delete from retry_queue where delivery_id > ? and delivery_id < ?")?.execute(range)?;
    db.prepare_cached("delete from dead_letter where delivery_id > ? and delivery_id < ?")?.execute(range)?;
    Ok(())
}

/// Whatever the event says, whatever was said about it, and everything under which it is found; also of one whose time was
/// over before, and with it an idempotency key that retention would have kept.
fn wipe(db: &Connection, event: EventId) -> Direct<()> {
    forget_directly(db, event, ContentState::Erased)?;
    db.prepare_cached("update integration_events set idempotency_key = '', content = ? where id = ?")?
        .execute([ContentState::Erased as i64, event.0])?;
    Ok(())
}

pub(super) fn tell(
    db: &Connection,
    erasure: ErasureId,
    deliveries: &[NewDelivery],
    told: &[(i64, DeliveryId)],
) -> Direct<()> {
    let notice: i64 = db.query_row("select notice_id from erasures where id = ?", [erasure.0], |row| row.get(0))?;
    let begun = db.execute("update erasures set state = 1 where id = ? and state = 0", [erasure.0])?;
    if begun == 0 {
        return Ok(());
    }
    owe(db, 0, EventId(notice), deliveries)?;
    for (endpoint, delivery) in told {
        db.execute(
            "update erasure_recipients set delivery_id = ? where erasure_id = ? and endpoint_id = ?",
            [delivery.0, erasure.0, *endpoint],
        )?;
    }
    db.execute("update integration_events set status = 0 where id = ?", [notice])?;
    Ok(())
}

/// Notices whose deliveries are all delivered or skipped have told what they had to tell.
pub(super) fn close_told(db: &Connection, now_ms: u64) -> Direct<u64> {
    let mut told = db.prepare(
        "select id from erasures r where state = 1 and not exists (select 1 from webhook_deliveries d \
         where d.id > r.notice_id and d.id < r.notice_id + 64 and d.status not in (2, 3, 6, 7))",
    )?;
    let told = told.query_map([], |row| Ok(ErasureId(row.get(0)?)))?.collect::<Direct<Vec<_>>>()?;
    for erasure in &told {
        complete(db, *erasure, now_ms)?;
    }
    Ok(told.len() as u64)
}

pub(super) enum Closed {
    Done,
    /// It is not that far.
    Erasing,
    Unknown,
}

pub(super) fn close(db: &Connection, erasure: ErasureId, now_ms: u64) -> Direct<Closed> {
    let state = db
        .query_row("select state from erasures where id = ?", [erasure.0], |row| row.get(0))
        .optional()?
        .map(ErasureState::from_sql);
    match state {
        None => Ok(Closed::Unknown),
        Some(ErasureState::Erasing) => Ok(Closed::Erasing),
        Some(ErasureState::Complete) => Ok(Closed::Done),
        Some(ErasureState::Telling) => complete(db, erasure, now_ms).map(|()| Closed::Done),
    }
}

fn complete(db: &Connection, erasure: ErasureId, now_ms: u64) -> Direct<()> {
    let notice = db.query_row("select notice_id from erasures where id = ?", [erasure.0], |row| row.get(0))?;
    end_deliveries(db, EventId(notice), &mut Vec::new())?;
    wipe(db, EventId(notice))?;
    db.execute("update erasures set state = 2, finished_at = ? where id = ?", [now_ms as i64, erasure.0])?;
    Ok(())
}

pub(super) async fn erasures(
    conn: &mut SqliteConnection,
    only: Option<ErasureId>,
    limit: u32,
) -> Result<Vec<ErasureRow>> {
    let rows = sqlx::query(
        "select id, request, created_at, reason, actor, state, notice_id, finished_at, \
         (select count(*) from erased_events where erasure_id = r.id), \
         (select count(*) from erased_events where erasure_id = r.id and done = 0) \
         from erasures r where ?1 is null or id = ?1 order by id desc limit ?2",
    )
    .bind(only.map(|id| id.0))
    .bind(limit)
    .fetch_all(&mut *conn)
    .await?;
    let mut erasures = Vec::with_capacity(rows.len());
    for row in rows {
        let id = ErasureId(row.try_get(0)?);
        let recipients = sqlx::query(
            "select p.endpoint_id, p.events, p.first_at, p.last_at, d.id, d.status, \
             (select max(a.started_at + a.duration_us / 1000) from delivery_attempts a \
             where a.delivery_id = d.id and a.outcome = 0) \
             from erasure_recipients p left join webhook_deliveries d on d.id = p.delivery_id \
             where p.erasure_id = ? order by p.endpoint_id",
        )
        .bind(id.0)
        .fetch_all(&mut *conn)
        .await?;
        let recipient = |row: &sqlx::sqlite::SqliteRow| {
            let delivery = row.try_get::<Option<i64>, _>(4)?.map(DeliveryId);
            Ok(RecipientRow {
                endpoint: row.try_get(0)?,
                events: row.try_get::<i64, _>(1)? as u64,
                first_ms: row.try_get::<i64, _>(2)? as u64,
                last_ms: row.try_get::<i64, _>(3)? as u64,
                told_by: delivery.zip(row.try_get::<Option<i64>, _>(5)?.map(Status::from_sql)),
                told_ms: row.try_get::<Option<i64>, _>(6)?.map(|ms| ms as u64),
            })
        };
        erasures.push(ErasureRow {
            id,
            request: row.try_get(1)?,
            created_ms: row.try_get::<i64, _>(2)? as u64,
            reason: row.try_get(3)?,
            actor: row.try_get(4)?,
            state: ErasureState::from_sql(row.try_get(5)?),
            notice: EventId(row.try_get(6)?),
            finished_ms: row.try_get::<Option<i64>, _>(7)?.map(|ms| ms as u64),
            events: row.try_get::<i64, _>(8)? as u64,
            left: row.try_get::<i64, _>(9)? as u64,
            recipients: recipients.iter().map(recipient).collect::<Result<_>>()?,
        });
    }
    Ok(erasures)
}

/// Puts the write-ahead log into the database and empties it. What is freed there is zeros already (`secure_delete`).
pub(super) fn scrub(db: &Connection) -> Direct<bool> {
    db.query_row("pragma wal_checkpoint(truncate)", [], |row| Ok(row.get::<_, i64>(0)? == 0))
}

pub(super) async fn reindexing(readers: &SqlitePool) -> Result<Option<Reindexing>> {
    let row = sqlx::query("select cursor, upto, seen, indexed, started_at, finished_at from reindexing")
        .fetch_optional(readers)
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Reindexing {
        cursor: EventId(row.try_get(0)?),
        upto: EventId(row.try_get(1)?),
        seen: row.try_get::<i64, _>(2)? as u64,
        indexed: row.try_get::<i64, _>(3)? as u64,
        started_ms: row.try_get::<i64, _>(4)? as u64,
        finished_ms: row.try_get::<Option<i64>, _>(5)?.map(|ms| ms as u64),
    }))
}

pub(super) fn begin_reindexing(db: &Connection, now_ms: u64) -> Direct<()> {
    db.execute(
        "insert into reindexing (id, cursor, upto, seen, indexed, started_at) \
         select 1, -1, coalesce(max(id), -1), 0, 0, ? from integration_events where true \
         on conflict (id) do update set cursor = -1, upto = excluded.upto, seen = 0, indexed = 0, \
         started_at = excluded.started_at, finished_at = null where finished_at is not null",
        [now_ms as i64],
    )?;
    Ok(())
}

pub(super) fn reindex(
    db: &Connection,
    events: &[(EventId, Vec<SubjectKey>)],
    cursor: EventId,
    finished_ms: Option<u64>,
) -> Direct<()> {
    let mut indexed = 0;
    for (event, keys) in events {
        db.prepare_cached("delete from subject_index where event_id = ?")?.execute([event.0])?;
        // It may have been erased since it was read.
        let mut insert = db.prepare_cached(
            "insert or ignore into subject_index (kind, subject, event_id) \
             select ?, ?, id from integration_events where id = ? and content < 2",
        )?;
        let mut rows = 0;
        for key in keys {
            rows += insert.execute(params![key.kind as i64, key.subject, event.0])?;
        }
        indexed += i64::from(rows > 0);
    }
    db.execute(
        "update reindexing set cursor = ?, seen = seen + ?, indexed = indexed + ?, finished_at = ? where id = 1",
        params![cursor.0, events.len() as i64, indexed, finished_ms.map(|ms| ms as i64)],
    )?;
    Ok(())
}
