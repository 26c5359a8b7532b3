//! People: who is found where, and how what is about them goes.

use std::collections::BTreeMap;

use super::content::{Stored, forget, wrapped_key};
use super::events::event_row;
use crate::clock::ID_STRIDE;
use crate::delivery::Status;
use crate::event::{DeliveryId, ErasureId, EventId, NewDelivery, NewEvent, SubjectKey};
use crate::ingress::key::{Key, LABEL};
use crate::keyring::Keyring;
use crate::store::database::Database;
use crate::store::rows::*;
use crate::store::sql::{Conn, Lock, Row, Value, list, query};
use crate::store::{Known, Result, StoreError};

/// Payload bytes of one answer of [`contents`], but for its last row.
const MAX_BYTES: usize = 16 << 20;
/// Rows of [`contents`] that are read together.
const PAGE: u32 = 32;

// Ranges of ids that depend on another row go with an `event_id`, which MySQL looks up instead.

/// Tries that ended before the connector was called: skipped, mapping-failed, refused.
const UNSENT: &str = "(1, 7, 12)";

/// `named` are the events of the seeds, and `found` all of them with whatever came of them; with the values of its places,
/// which stand before all others of the statement.
fn found(seeds: &Seeds) -> (String, Vec<Value>) {
    let (mut named, mut values) = (Vec::new(), Vec::new());
    let mut by_kind: BTreeMap<i64, Vec<&[u8]>> = BTreeMap::new();
    for key in &seeds.keys {
        by_kind.entry(key.kind as i64).or_default().push(&key.subject);
    }
    for (kind, subjects) in by_kind {
        let places = list(subjects.len());
        // An event may name a person in several forms.
        named.push(format!(
            "select distinct s.event_id from subject_index s where s.kind = ? and s.subject in ({places})"
        ));
        values.push(kind.into());
        values.extend(subjects.into_iter().map(Value::from));
    }
    if !seeds.events.is_empty() {
        let places = list(seeds.events.len());
        named.push(format!("select e.id from integration_events e where e.id in ({places})"));
        values.extend(seeds.events.iter().map(|event| Value::from(event.0)));
    }
    if named.is_empty() {
        named.push("select e.id from integration_events e where 1 = 0".into());
    }
    let named = named.join(" union ");
    let found = format!(
        "with recursive named(id) as ({named}), found(id) as (select id from named union select e.id from found f \
         cross join integration_events e on e.parent_id > f.id and e.parent_id < f.id + 64)"
    );
    (found, values)
}

pub(in crate::store) async fn find(
    conn: &mut Conn,
    seeds: &Seeds,
    before: Option<EventId>,
    limit: u32,
) -> Result<Found> {
    let (found, values) = found(seeds);
    let counts = query(format!(
        "{found} select (select count(*) from found), (select count(*) from named), (select count(*) from found f \
         cross join webhook_deliveries d on d.event_id = f.id and d.id > f.id and d.id < f.id + 64 where d.status in (0, 1, 4, 5))"
    ))
    .bind_all(values.clone())
    .fetch_one(conn)
    .await?;
    let rows = query(format!(
        "{found} select e.id, e.source, e.event_type, e.status, e.created_at, e.parent_id, e.content, \
         e.id in (select id from named) from found f cross join integration_events e on e.id = f.id \
         where e.id < ? order by e.id desc limit ?"
    ))
    .bind_all(values)
    .bind(before.map_or(i64::MAX, |id| id.0))
    .bind(limit)
    .fetch_all(conn)
    .await?;
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        let event = event_row(conn, &row).await?;
        let delivered = query(
            "select delivery_id, max(started_at * 1000 + duration_us) from delivery_attempts \
             where delivery_id > ? and delivery_id < ? and outcome = 0 group by 1",
        )
        .bind(event.id.0)
        .bind(event.id.0 + ID_STRIDE)
        .fetch_all(conn)
        .await?;
        let delivered = delivered.iter().map(|row| Ok((DeliveryId(row.try_get(0)?), row.try_get::<u64>(1)? / 1000)));
        let delivered = delivered.collect::<Result<_>>()?;
        items.push(FoundEvent { event, direct: row.try_get(7)?, delivered });
    }
    Ok(Found { events: counts.try_get(0)?, direct: counts.try_get(1)?, open: counts.try_get(2)?, items })
}

pub(in crate::store) async fn received(conn: &mut Conn, seeds: &Seeds, limit: u32) -> Result<Vec<ReceivedRow>> {
    let (found, values) = found(seeds);
    let rows = query(format!(
        "{found} select d.endpoint_id, d.event_id, coalesce(min(a.started_at), e.created_at), \
         coalesce(max(a.started_at * 1000 + a.duration_us), e.created_at * 1000), \
         max(case when d.status = 2 then 1 else 0 end) from found f \
         cross join integration_events e on e.id = f.id \
         cross join webhook_deliveries d on d.event_id = f.id and d.id > f.id and d.id < f.id + 64 \
         left join delivery_attempts a on a.delivery_id = d.id \
         where d.status = 2 or a.outcome not in {UNSENT} \
         group by d.endpoint_id, d.event_id, e.created_at order by 1, 2 limit ?"
    ))
    .bind_all(values)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(ReceivedRow {
                endpoint: row.try_get(0)?,
                event: EventId(row.try_get(1)?),
                first_ms: row.try_get(2)?,
                last_ms: row.try_get::<u64>(3)? / 1000,
                delivered: row.try_get(4)?,
            })
        })
        .collect()
}

pub(in crate::store) async fn coverage(conn: &mut Conn) -> Result<Coverage> {
    let rows = query(
        "select source, parent_id is not null, count(*), count(case when not exists (select 1 from subject_index s \
         where s.event_id = e.id) then 1 end) from (select id, source, parent_id, content from integration_events \
         order by id desc limit ?) e where content < 2 and source not like 'privacy:%' \
         and source not like 'sync:%' and source not like 'schedule:%' group by 1, 2 order by 1, 2",
    )
    .bind(COVERED)
    .fetch_all(conn)
    .await?;
    let more = query("select id from integration_events order by id desc limit 1 offset ?");
    let more = more.bind(COVERED).fetch_optional(conn).await?.is_some();
    let row = |row: &Row| {
        Ok(CoverageRow {
            source: row.try_get(0)?,
            emitted: row.try_get(1)?,
            with_content: row.try_get(2)?,
            unindexed: row.try_get(3)?,
        })
    };
    Ok(Coverage { rows: rows.iter().map(row).collect::<Result<_>>()?, complete: !more })
}

pub(in crate::store) async fn contents(
    conn: &mut Conn,
    ring: &Keyring,
    after: EventId,
    upto: EventId,
    limit: u32,
) -> Result<Vec<ContentRow>> {
    let (mut found, mut bytes, mut after) = (Vec::new(), 0, after);
    loop {
        let wanted = PAGE.min(limit - found.len() as u32);
        let rows = query(
            "select id, source, event_type, created_at, parent_id, content, headers, payload, sealed, key_id, wrapped \
             from integration_events where id > ? and id <= ? and content < 2 order by id limit ?",
        )
        .bind(after.0)
        .bind(upto.0)
        .bind(wanted)
        .fetch_all(conn)
        .await?;
        for row in &rows {
            after = EventId(row.try_get(0)?);
            let opened = Stored {
                event: after.0,
                content: ContentState::from_sql(row.try_get(5)?),
                headers: row.try_get(6)?,
                payload: row.try_get(7)?,
                envelope: row.try_get(8)?,
                key: wrapped_key(row, 9)?,
            }
            .open(ring);
            bytes += opened.payload.len();
            found.push(ContentRow {
                id: after,
                source: row.try_get(1)?,
                event_type: row.try_get(2)?,
                created_ms: row.try_get(3)?,
                emitted: row.try_get::<Option<i64>>(4)?.is_some(),
                headers: opened.headers,
                payload: opened.payload,
            });
            if bytes >= MAX_BYTES {
                return Ok(found);
            }
        }
        if rows.len() < wanted as usize || found.len() >= limit as usize {
            return Ok(found);
        }
    }
}

/// Stores the event that will tell of it, too.
pub(in crate::store) async fn begin(
    conn: &mut Conn,
    database: &dyn Database,
    known: Known<'_>,
    new: &NewErasure,
    notice: &NewEvent,
) -> Result<BegunErasure> {
    conn.lock(Lock::Content).await?;
    if let Some(request) = &new.request {
        let before = query("select id from erasures where request = ?").bind(request).fetch_value(conn).await?;
        if let Some(before) = before {
            return Ok(BegunErasure::Known(ErasureId(before)));
        }
    }
    query(
        "insert into erasures (id, request, created_at, reason, actor, state, notice_id, rehidden) \
         values (?, ?, ?, ?, ?, 0, ?, 0)",
    )
    .bind(new.id.0)
    .bind(new.request.as_ref())
    .bind(new.now_ms)
    .bind(&new.reason)
    .bind(&new.actor)
    .bind(notice.event.id.0)
    .execute(conn)
    .await?;
    let (found, values) = found(&new.seeds);
    query(format!(
        "insert or ignore into erased_events (event_id, erasure_id, done) {found} \
         select e.id, ?, 0 from found f cross join integration_events e on e.id = f.id where e.content <> 3"
    ))
    .bind_all(values)
    .bind(new.id.0)
    .execute(conn)
    .await?;
    database.accept(conn, known, 0, notice).await?;
    let events: Vec<i64> =
        query("select event_id from erased_events where erasure_id = ?").bind(new.id.0).fetch_column(conn).await?;
    Ok(BegunErasure::Begun(events.into_iter().map(EventId).collect()))
}

/// Whether anything was ever erased, or is about to be.
pub(in crate::store) async fn has_erasures(conn: &mut Conn) -> Result<bool> {
    Ok(query("select id from erasures limit 1").fetch_optional(conn).await?.is_some())
}

/// Erasures that are not complete.
pub(in crate::store) async fn open(conn: &mut Conn) -> Result<Vec<(ErasureId, ErasureState)>> {
    let rows = query("select id, state from erasures where state < 2 order by id").fetch_all(conn).await?;
    let state = |row: &Row| Ok((ErasureId(row.try_get(0)?), ErasureState::from_sql(row.try_get(1)?)));
    rows.iter().map(state).collect()
}

pub(in crate::store) async fn to_erase(conn: &mut Conn, erasure: ErasureId, limit: u32) -> Result<Vec<EventId>> {
    let ids: Vec<i64> = query("select event_id from erased_events where erasure_id = ? and done = 0 limit ?")
        .bind(erasure.0)
        .bind(limit)
        .fetch_column(conn)
        .await?;
    Ok(ids.into_iter().map(EventId).collect())
}

pub(in crate::store) async fn erase(
    conn: &mut Conn,
    ring: &Keyring,
    node: i64,
    erasure: ErasureId,
    events: &[EventId],
    under_way: &[DeliveryId],
    now_ms: u64,
) -> Result<ErasedBatch> {
    conn.lock(Lock::Content).await?;
    let mut batch = ErasedBatch::default();
    for event in events {
        let open = query("update erased_events set done = 1 where event_id = ? and erasure_id = ? and done = 0")
            .bind(event.0)
            .bind(erasure.0)
            .execute(conn)
            .await?;
        if open == 0 {
            continue;
        }
        let mut under_way = under_way.to_vec();
        under_way.extend(held_elsewhere(conn, node, *event).await?);
        // First, so that no other node ends a try between a look and what follows from it.
        end_deliveries(conn, *event, &mut batch.endpoints).await?;
        note_recipients(conn, erasure, *event, &under_way, now_ms).await?;
        note_children(conn, erasure, *event, &mut batch).await?;
        let hidden = hide_key(conn, ring, *event).await?;
        if hidden > 0 {
            batch.rehidden = true;
            query("update erasures set rehidden = rehidden + ? where id = ?")
                .bind(hidden)
                .bind(erasure.0)
                .execute(conn)
                .await?;
        }
        batch.repaused |= unsay_pauses(conn, *event).await?;
        wipe(conn, *event).await?;
    }
    batch.endpoints.sort_unstable();
    batch.endpoints.dedup();
    Ok(batch)
}

/// Deliveries that other nodes have in memory, and may be trying right now.
async fn held_elsewhere(conn: &mut Conn, node: i64, event: EventId) -> Result<Vec<DeliveryId>> {
    query("select id from webhook_deliveries where id > ? and id < ? and status = 0 and node_id not in (0, ?)")
        .bind(event.0)
        .bind(event.0 + ID_STRIDE)
        .bind(node)
        .fetch_all(conn)
        .await?
        .iter()
        .map(|row| row.try_get(0).map(DeliveryId))
        .collect()
}

/// Who has got the event, or may have.
async fn note_recipients(
    conn: &mut Conn,
    erasure: ErasureId,
    event: EventId,
    under_way: &[DeliveryId],
    now_ms: u64,
) -> Result<()> {
    let mut got: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
    let mut add = |endpoint: i64, first: u64, last: u64| {
        let known = got.entry(endpoint).or_insert((first, last));
        *known = (known.0.min(first), known.1.max(last));
    };
    let created: Option<u64> =
        query("select created_at from integration_events where id = ?").bind(event.0).fetch_value(conn).await?;
    let created = created.unwrap_or(now_ms);
    let rows = query(format!(
        "select d.endpoint_id, min(a.started_at), max(a.started_at * 1000 + a.duration_us) from webhook_deliveries d \
         left join delivery_attempts a on a.delivery_id = d.id \
         where d.id > ? and d.id < ? and (d.status = 2 or a.outcome not in {UNSENT}) group by 1"
    ))
    .bind(event.0)
    .bind(event.0 + ID_STRIDE)
    .fetch_all(conn)
    .await?;
    for row in rows {
        let (first, last): (Option<u64>, Option<u64>) = (row.try_get(1)?, row.try_get(2)?);
        add(row.try_get(0)?, first.unwrap_or(created), last.map_or(created, |last_us| last_us / 1000));
    }
    for delivery in under_way.iter().filter(|id| id.0 > event.0 && id.0 < event.0 + ID_STRIDE) {
        let endpoint =
            query("select endpoint_id from webhook_deliveries where id = ?").bind(delivery.0).fetch_value(conn).await?;
        if let Some(endpoint) = endpoint {
            add(endpoint, now_ms, now_ms);
        }
    }
    for (endpoint, (first, last)) in got {
        query(
            "insert into erasure_recipients (erasure_id, endpoint_id, events, first_at, last_at) \
             values (?, ?, 1, ?, ?) on conflict (erasure_id, endpoint_id) do update set \
             events = erasure_recipients.events + 1, \
             first_at = case when excluded.first_at < erasure_recipients.first_at then excluded.first_at \
             else erasure_recipients.first_at end, \
             last_at = case when excluded.last_at > erasure_recipients.last_at then excluded.last_at \
             else erasure_recipients.last_at end",
        )
        .bind(erasure.0)
        .bind(endpoint)
        .bind(first)
        .bind(last)
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// What came of its deliveries in the meantime goes too.
async fn note_children(conn: &mut Conn, erasure: ErasureId, event: EventId, batch: &mut ErasedBatch) -> Result<()> {
    let children: Vec<i64> =
        query("select id from integration_events where parent_id > ? and parent_id < ? and content <> 3")
            .bind(event.0)
            .bind(event.0 + ID_STRIDE)
            .fetch_column(conn)
            .await?;
    for child in children {
        let fresh = query("insert or ignore into erased_events (event_id, erasure_id, done) values (?, ?, 0)")
            .bind(child)
            .bind(erasure.0)
            .execute(conn)
            .await?;
        if fresh > 0 {
            batch.children.push(EventId(child));
        }
    }
    Ok(())
}

/// A key that stands there as it came is hidden, so that a repetition is still recognised. Answers how many.
async fn hide_key(conn: &mut Conn, ring: &Keyring, event: EventId) -> Result<u64> {
    let row = query("select source, idempotency_key, content from integration_events where id = ?")
        .bind(event.0)
        .fetch_optional(conn)
        .await?;
    let Some(row) = row else { return Ok(0) };
    let (source, shown): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    // What a sealed event shows is an id that says nothing.
    if shown.is_empty() || ContentState::from_sql(row.try_get(2)?) == ContentState::Sealed {
        return Ok(0);
    }
    let mut hidden = 0;
    // What a connector emitted has its endpoint's name as source, and a word before it in the key.
    for source in [source.clone(), format!("endpoint:{source}")] {
        let open = Key::open_index(&source, &shown);
        let is_there = query("select 1 from idempotency_keys where \"key\" = ? and event_id = ?")
            .bind(&open)
            .bind(event.0)
            .fetch_optional(conn)
            .await?
            .is_some();
        if !is_there {
            continue;
        }
        // Whatever stands under the hidden key makes way.
        let index = Key::hidden(&open, |index| ring.index(LABEL, &[index]));
        query("delete from idempotency_keys where \"key\" = ?").bind(&index).execute(conn).await?;
        hidden += query("update idempotency_keys set \"key\" = ? where \"key\" = ? and event_id = ?")
            .bind(index)
            .bind(open)
            .bind(event.0)
            .execute(conn)
            .await?;
    }
    Ok(hidden)
}

/// An endpoint may be paused with what a connector said about the event.
async fn unsay_pauses(conn: &mut Conn, event: EventId) -> Result<bool> {
    let deliveries: Vec<i64> = query("select id from webhook_deliveries where id > ? and id < ?")
        .bind(event.0)
        .bind(event.0 + ID_STRIDE)
        .fetch_column(conn)
        .await?;
    let mut changed = 0;
    for delivery in deliveries {
        changed += query(
            "update webhook_endpoints set paused = ? where paused in (select message from delivery_attempts \
             where delivery_id = ? and message is not null)",
        )
        .bind(format!("see what became of delivery {}", DeliveryId(delivery)))
        .bind(delivery)
        .execute(conn)
        .await?;
    }
    Ok(changed > 0)
}

/// What is not delivered never will be.
async fn end_deliveries(conn: &mut Conn, event: EventId, endpoints: &mut Vec<i64>) -> Result<()> {
    let (event, end) = (event.0, event.0 + ID_STRIDE);
    let open = "select endpoint_id from webhook_deliveries where id > ? and id < ? and status in (0, 1, 4, 5)";
    endpoints.extend(query(open).bind(event).bind(end).fetch_column::<i64>(conn).await?);
    for statement in [
        "update webhook_deliveries set status = 7, node_id = 0 where id > ? and id < ? and status in (0, 1, 4, 5)",
        "update webhook_deliveries set ordering_key = null where id > ? and id < ?",
        "delete from retry_queue where delivery_id > ? and delivery_id < ?",
        "delete from dead_letter where delivery_id > ? and delivery_id < ?",
    ] {
        query(statement).bind(event).bind(end).execute(conn).await?;
    }
    Ok(())
}

/// Whatever the event says, whatever was said about it, and everything under which it is found; also of one whose time was
/// over before, and with it an idempotency key that retention would have kept.
async fn wipe(conn: &mut Conn, event: EventId) -> Result<()> {
    forget(conn, event, ContentState::Erased).await?;
    query("update integration_events set idempotency_key = '', content = ? where id = ?")
        .bind(ContentState::Erased as i64)
        .bind(event.0)
        .execute(conn)
        .await?;
    Ok(())
}

pub(in crate::store) async fn tell(
    conn: &mut Conn,
    database: &dyn Database,
    erasure: ErasureId,
    deliveries: &[NewDelivery],
    told: &[(i64, DeliveryId)],
) -> Result<()> {
    let notice = notice(conn, erasure).await?;
    let begun = query("update erasures set state = 1 where id = ? and state = 0").bind(erasure.0).execute(conn).await?;
    if begun == 0 {
        return Ok(());
    }
    database.owe(conn, 0, notice, deliveries).await?;
    for (endpoint, delivery) in told {
        query("update erasure_recipients set delivery_id = ? where erasure_id = ? and endpoint_id = ?")
            .bind(delivery.0)
            .bind(erasure.0)
            .bind(*endpoint)
            .execute(conn)
            .await?;
    }
    query("update integration_events set status = 0 where id = ?").bind(notice.0).execute(conn).await?;
    Ok(())
}

async fn notice(conn: &mut Conn, erasure: ErasureId) -> Result<EventId> {
    let notice = query("select notice_id from erasures where id = ?").bind(erasure.0).fetch_one(conn).await?;
    Ok(EventId(notice.try_get(0)?))
}

/// Notices whose deliveries are all delivered or skipped have told what they had to tell.
pub(in crate::store) async fn close_told(conn: &mut Conn, now_ms: u64) -> Result<u64> {
    let told: Vec<i64> = query(
        "select id from erasures r where state = 1 and not exists (select 1 from webhook_deliveries d \
         where d.event_id = r.notice_id and d.id > r.notice_id and d.id < r.notice_id + 64 and d.status not in (2, 3, 6, 7))",
    )
    .fetch_column(conn)
    .await?;
    let mut closed = 0;
    for erasure in told {
        closed += u64::from(complete(conn, ErasureId(erasure), now_ms).await?);
    }
    Ok(closed)
}

pub(in crate::store) async fn close(conn: &mut Conn, erasure: ErasureId, now_ms: u64) -> Result<()> {
    let state: Option<i64> = query("select state from erasures where id = ?").bind(erasure.0).fetch_value(conn).await?;
    match state.map(ErasureState::from_sql) {
        None => Err(StoreError::NotFound(format!("erasure {erasure}"))),
        Some(ErasureState::Erasing) => {
            Err(StoreError::Conflict(format!("erasure {erasure} is not that far: content is still being erased")))
        }
        Some(ErasureState::Complete) => Ok(()),
        Some(ErasureState::Telling) => complete(conn, erasure, now_ms).await.map(drop),
    }
}

/// Answers whether it was us.
async fn complete(conn: &mut Conn, erasure: ErasureId, now_ms: u64) -> Result<bool> {
    let ended = query("update erasures set state = 2, finished_at = ? where id = ? and state = 1")
        .bind(now_ms)
        .bind(erasure.0)
        .execute(conn)
        .await?;
    if ended == 0 {
        return Ok(false);
    }
    let notice = notice(conn, erasure).await?;
    end_deliveries(conn, notice, &mut Vec::new()).await?;
    wipe(conn, notice).await?;
    Ok(true)
}

pub(in crate::store) async fn listing(conn: &mut Conn, only: Option<ErasureId>, limit: u32) -> Result<Vec<ErasureRow>> {
    let rows = query(
        "select id, request, created_at, reason, actor, state, notice_id, finished_at, \
         (select count(*) from erased_events where erasure_id = r.id), \
         (select count(*) from erased_events where erasure_id = r.id and done = 0) \
         from erasures r where ?1 is null or id = ?1 order by id desc limit ?2",
    )
    .bind(only.map(|id| id.0))
    .bind(limit)
    .fetch_all(conn)
    .await?;
    let mut erasures = Vec::with_capacity(rows.len());
    for row in rows {
        let id = ErasureId(row.try_get(0)?);
        let recipients = query(
            "select p.endpoint_id, p.events, p.first_at, p.last_at, d.id, d.status, \
             (select max(a.started_at * 1000 + a.duration_us) from delivery_attempts a \
             where a.delivery_id = d.id and a.outcome = 0) \
             from erasure_recipients p left join webhook_deliveries d on d.id = p.delivery_id \
             where p.erasure_id = ? order by p.endpoint_id",
        )
        .bind(id.0)
        .fetch_all(conn)
        .await?;
        let recipient = |row: &Row| {
            let delivery = row.try_get::<Option<i64>>(4)?.map(DeliveryId);
            Ok(RecipientRow {
                endpoint: row.try_get(0)?,
                events: row.try_get(1)?,
                first_ms: row.try_get(2)?,
                last_ms: row.try_get(3)?,
                told_by: delivery.zip(row.try_get::<Option<i64>>(5)?.map(Status::from_sql)),
                told_ms: row.try_get::<Option<u64>>(6)?.map(|told_us| told_us / 1000),
            })
        };
        erasures.push(ErasureRow {
            id,
            request: row.try_get(1)?,
            created_ms: row.try_get(2)?,
            reason: row.try_get(3)?,
            actor: row.try_get(4)?,
            state: ErasureState::from_sql(row.try_get(5)?),
            notice: EventId(row.try_get(6)?),
            finished_ms: row.try_get(7)?,
            events: row.try_get(8)?,
            left: row.try_get(9)?,
            recipients: recipients.iter().map(recipient).collect::<Result<_>>()?,
        });
    }
    Ok(erasures)
}

pub(in crate::store) async fn reindexing(conn: &mut Conn) -> Result<Option<Reindexing>> {
    let row = query("select \"cursor\", upto, seen, indexed, started_at, finished_at from reindexing")
        .fetch_optional(conn)
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Reindexing {
        cursor: EventId(row.try_get(0)?),
        upto: EventId(row.try_get(1)?),
        seen: row.try_get(2)?,
        indexed: row.try_get(3)?,
        started_ms: row.try_get(4)?,
        finished_ms: row.try_get(5)?,
    }))
}

pub(in crate::store) async fn begin_reindexing(conn: &mut Conn, now_ms: u64) -> Result<()> {
    let upto = super::events::newest(conn).await?.map_or(-1, |id| id.0);
    query(
        "update reindexing set \"cursor\" = -1, upto = ?, seen = 0, indexed = 0, started_at = ?, finished_at = null \
         where id = 1 and finished_at is not null",
    )
    .bind(upto)
    .bind(now_ms)
    .execute(conn)
    .await?;
    query(
        "insert or ignore into reindexing (id, \"cursor\", upto, seen, indexed, started_at) values (1, -1, ?, 0, 0, ?)",
    )
    .bind(upto)
    .bind(now_ms)
    .execute(conn)
    .await?;
    Ok(())
}

pub(in crate::store) async fn reindex(
    conn: &mut Conn,
    events: &[(EventId, Vec<SubjectKey>)],
    cursor: EventId,
    finished_ms: Option<u64>,
) -> Result<()> {
    conn.lock(Lock::Content).await?;
    let mut indexed = 0u64;
    for (event, keys) in events {
        query("delete from subject_index where event_id = ?").bind(event.0).execute(conn).await?;
        let mut rows = 0;
        for key in keys {
            // It may have been erased since it was read.
            rows += query(
                "insert or ignore into subject_index (kind, subject, event_id) \
                 select ?, ?, id from integration_events where id = ? and content < 2",
            )
            .bind(key.kind as i64)
            .bind(key.subject)
            .bind(event.0)
            .execute(conn)
            .await?;
        }
        indexed += u64::from(rows > 0);
    }
    query("update reindexing set \"cursor\" = ?, seen = seen + ?, indexed = indexed + ?, finished_at = ? where id = 1")
        .bind(cursor.0)
        .bind(events.len() as u64)
        .bind(indexed)
        .bind(finished_ms)
        .execute(conn)
        .await?;
    Ok(())
}
