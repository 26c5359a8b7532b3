//! The hot path on SQLite: accept, settle, claim, promote, as plain prepared statements on the thread that calls.
//!
//! sqlx hands each statement to a thread of its own and back. Between two busy cores such a hand-over costs more than
//! the statement, and a commit has dozens of them: through sqlx 64 connections got 15k acks/s with a core idle. So here
//! the same connection is used directly, through rusqlite, by whoever holds the writer's lock.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::delivery::{Attempt, Begin, Delivery, Next, Outcome, Settlement, Status, SyncStep};
use crate::event::{DeliveryId, Event, EventId, NewDelivery, NewEvent, Place};
use crate::ingress::key::Key;
use crate::keyring::{KeyId, Keyring};
use crate::store::rows::{ContentState, Promoted};
use crate::store::tables::content::{Stored, write_headers};
use crate::store::{Done, Known, Work};

type Result<T> = std::result::Result<T, rusqlite::Error>;

/// Runs `body` in a transaction: committed when it succeeds, rolled back when it does not.
pub(super) fn transaction<T>(db: &Connection, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    if !db.is_autocommit() {
        // A future that was dropped between BEGIN and COMMIT left its transaction open; nothing of it was promised.
        db.execute_batch("rollback")?;
    }
    db.prepare_cached("begin immediate")?.execute([])?;
    let done = body(db).and_then(|value| {
        db.prepare_cached("commit")?.execute([])?;
        Ok(value)
    });
    if done.is_err() {
        // It fails when SQLite has rolled back by itself, which is what is wanted.
        let _ = db.execute_batch("rollback");
    }
    done
}

/// Accepts and settles, in the order of the work.
pub(super) fn commit(db: &Connection, known: Known<'_>, node: i64, work: &[Work]) -> Result<Vec<Done>> {
    work.iter()
        .map(|work| match work {
            Work::Accept(event) => {
                let id = accept(db, known, node, event)?;
                Ok(Done::Accepted { id, duplicate: id != event.event.id })
            }
            Work::Begin(try_) => Ok(if begin(db, node, try_)? { Done::Begun } else { Done::Stale }),
            Work::Settle(settlement) => {
                if !settle(db, node, settlement)? {
                    return Ok(Done::Stale);
                }
                let emitted =
                    settlement.emitted.iter().map(|event| Ok(accept(db, known, node, event)? == event.event.id));
                let emitted = emitted.collect::<Result<Vec<bool>>>()?;
                if let (Some(step), Some(attempt)) = (&settlement.sync, &settlement.attempt) {
                    step_sync(db, step, attempt, &emitted)?;
                }
                Ok(Done::Settled { emitted })
            }
        })
        .collect()
}

/// The event that the key stands for in its other form: it was open before its source was about people, and it is
/// hidden since its event was erased.
fn known_event(db: &Connection, known: Known<'_>, key: &Key) -> Result<Option<EventId>> {
    let Some(other) = known.other_form(key) else { return Ok(None) };
    db.prepare_cached("select event_id from idempotency_keys where key = ?")?
        .query_row([other], |row| Ok(EventId(row.get(0)?)))
        .optional()
}

/// Inserts the event with its deliveries, unless its key is known. Answers the id that the key stands for.
pub(super) fn accept(db: &Connection, known: Known<'_>, node: i64, new: &NewEvent) -> Result<EventId> {
    let event = &new.event;
    if let Some(first) = known_event(db, known, &new.key)? {
        return Ok(first);
    }
    let fresh = db
        .prepare_cached("insert or ignore into idempotency_keys (key, event_id) values (?, ?)")?
        .execute(params![new.key.index, event.id.0])?;
    if fresh == 0 {
        return db
            .prepare_cached("select event_id from idempotency_keys where key = ?")?
            .query_row(params![new.key.index], |row| Ok(EventId(row.get(0)?)));
    }
    db.prepare_cached(
        "insert into integration_events (id, source, event_type, status, created_at, idempotency_key, content_type, \
         headers, parent_id, payload, content, sealed, key_id, wrapped) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        event.id.0,
        &*event.source,
        &*event.event_type,
        i64::from(new.deliveries.is_empty()),
        event.created_ms as i64,
        // In the envelope where it says something.
        if new.sealed.is_some() && new.key.is_content { "" } else { &new.key.shown },
        &*event.content_type,
        if new.sealed.is_some() { None } else { write_headers(&event.headers) },
        event.parent.map(|parent| parent.0),
        new.sealed.as_ref().map_or(&event.payload[..], |sealed| &sealed.payload),
        if new.sealed.is_some() { ContentState::Sealed } else { ContentState::Clear } as i64,
        new.sealed.as_ref().map(|sealed| &sealed.envelope),
        new.sealed.as_ref().map(|sealed| sealed.key.0),
        new.sealed.as_ref().map(|sealed| &sealed.wrapped),
    ])?;
    for key in &new.subjects {
        db.prepare_cached("insert or ignore into subject_index (kind, subject, event_id) values (?, ?, ?)")?
            .execute(params![key.kind as i64, key.subject, event.id.0])?;
    }
    owe(db, node, event.id, &new.deliveries)?;
    Ok(event.id)
}

/// Inserts deliveries of an event.
pub(super) fn owe(db: &Connection, node: i64, event: EventId, deliveries: &[NewDelivery]) -> Result<()> {
    for delivery in deliveries {
        let (status, holder) = match delivery.place {
            Place::Memory => (Status::Owed, node),
            Place::Table => (Status::Owed, 0),
            Place::Delayed(_) => (Status::Waiting, 0),
            Place::Held => (Status::Held, 0),
        };
        db.prepare_cached(
            "insert into webhook_deliveries (id, event_id, endpoint_id, route_id, queue_id, priority, status, node_id, \
             tries, charged, ordering_key) values (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?)",
        )?
        .execute(params![
            delivery.id.0,
            event.0,
            delivery.endpoint,
            delivery.route,
            delivery.queue,
            i64::from(delivery.priority),
            status as i64,
            holder,
            delivery.ordering,
        ])?;
        if let Place::Delayed(at_ms) = delivery.place {
            wait_until(db, delivery.id, at_ms)?;
        }
    }
    Ok(())
}

/// Puts a try on record that may not be repeated, if the delivery is still this node's.
fn begin(db: &Connection, node: i64, try_: &Begin) -> Result<bool> {
    let begun = db
        .prepare_cached(
            "insert or replace into delivery_attempts (delivery_id, number, started_at, duration_us, outcome) \
             select id, ?2, ?3, 0, ?4 from webhook_deliveries where id = ?1 and node_id = ?5 and status = 0",
        )?
        .execute(params![try_.delivery.0, try_.number, try_.started_ms as i64, Outcome::Interrupted as i64, node])?;
    Ok(begun > 0)
}

/// Carries a sync job's run on, in the transaction that settles its page.
fn step_sync(db: &Connection, step: &SyncStep, attempt: &Attempt, emitted: &[bool]) -> Result<()> {
    let ended_at = (attempt.started_ms + attempt.duration_us / 1000) as i64;
    match step {
        SyncStep::Page { run, cursor } => {
            // The last one asks for the next page.
            let items = &emitted[..emitted.len() - usize::from(cursor.is_some())];
            let known = items.iter().filter(|fresh| !**fresh).count();
            db.prepare_cached(
                "update sync_jobs set pages = pages + 1, items = items + ?2, known = known + ?3, cursor = ?4, \
                 state = case when ?4 is null then 1 else state end, \
                 finished_at = case when ?4 is null then ?5 else finished_at end where id = ?1",
            )?
            .execute(params![run.0, items.len() as i64, known as i64, cursor, ended_at])?;
        }
        SyncStep::Failed { run } => {
            db.prepare_cached(
                "update sync_jobs set state = 2, finished_at = ?2, code = ?3, message = ?4 where id = ?1 and state = 0",
            )?
            .execute(params![run.0, ended_at, attempt.code, attempt.message])?;
        }
    }
    Ok(())
}

/// Writes the end of a try, if the delivery is still this node's.
fn settle(db: &Connection, node: i64, settlement: &Settlement) -> Result<bool> {
    let delivery = &settlement.delivery;
    let status = match settlement.next {
        Next::Delivered => Status::Delivered,
        Next::Skipped => Status::Skipped,
        Next::Retry(_) => Status::Waiting,
        Next::Dead => Status::Dead,
        Next::Held => Status::Held,
    };
    let ours = db
        .prepare_cached(
            "update webhook_deliveries set status = ?, node_id = 0, tries = tries + ?, charged = charged + ? \
             where id = ? and node_id = ? and status = 0",
        )?
        .execute(params![
            status as i64,
            i64::from(settlement.attempt.is_some()),
            i64::from(settlement.charge),
            delivery.id.0,
            node,
        ])?;
    if ours == 0 {
        return Ok(false);
    }
    if let Some(attempt) = &settlement.attempt {
        record(db, delivery, attempt)?;
        if settlement.next == Next::Dead {
            bury(db, delivery, attempt)?;
        }
    }
    if let Next::Retry(at_ms) = settlement.next {
        wait_until(db, delivery.id, at_ms)?;
    }
    Ok(true)
}

fn record(db: &Connection, delivery: &Delivery, attempt: &Attempt) -> Result<()> {
    db.prepare_cached(
        "insert or replace into delivery_attempts (delivery_id, number, started_at, duration_us, outcome, http_status, \
         code, message, connector_version, mapping_version, mapping_id, log, sealed) \
         values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        delivery.id.0,
        delivery.tries + 1,
        attempt.started_ms as i64,
        attempt.duration_us as i64,
        attempt.outcome as i64,
        attempt.http_status,
        attempt.code,
        attempt.message,
        attempt.connector_version,
        attempt.mapping_version,
        attempt.mapping_id,
        attempt.log,
        attempt.sealed,
    ])?;
    Ok(())
}

fn bury(db: &Connection, delivery: &Delivery, attempt: &Attempt) -> Result<()> {
    db.prepare_cached(
        "insert or replace into dead_letter (delivery_id, event_id, endpoint_id, reason, http_status, code, message, \
         created_at) values (?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        delivery.id.0,
        delivery.event.id.0,
        delivery.endpoint,
        attempt.outcome as i64,
        attempt.http_status,
        attempt.code,
        attempt.message,
        (attempt.started_ms + attempt.duration_us / 1000) as i64,
    ])?;
    Ok(())
}

fn wait_until(db: &Connection, delivery: DeliveryId, at_ms: u64) -> Result<()> {
    db.prepare_cached("insert or replace into retry_queue (delivery_id, next_retry_at) values (?, ?)")?
        .execute(params![delivery.0, at_ms as i64])?;
    Ok(())
}

/// A query whose rows [`delivery`] reads; `$from` is what follows its columns.
macro_rules! select_deliveries {
    ($from:literal) => {
        concat!(
            "select d.id, d.endpoint_id, d.route_id, d.queue_id, d.priority, d.tries, d.charged, d.ordering_key, e.id, ",
            "e.source, e.event_type, e.created_at, e.content_type, e.headers, e.parent_id, e.payload, e.content, ",
            "e.sealed, e.key_id, e.wrapped from ",
            $from
        )
    };
}

pub(super) fn claim(db: &Connection, ring: &Keyring, node: i64, endpoint: i64, limit: u32) -> Result<Vec<Delivery>> {
    let deliveries: Vec<Delivery> = db
        .prepare_cached(select_deliveries!(
            "webhook_deliveries d join integration_events e on e.id = d.event_id \
             where d.node_id = 0 and d.endpoint_id = ? and d.status = 0 and (d.ordering_key is null or not exists \
             (select 1 from webhook_deliveries b where b.endpoint_id = d.endpoint_id \
             and b.ordering_key = d.ordering_key and b.id < d.id and b.status in (0, 1, 5))) \
             order by d.priority desc, d.id limit ?"
        ))?
        .query_map(params![endpoint, limit], |row| delivery(row, ring))?
        .collect::<Result<_>>()?;
    for delivery in &deliveries {
        take(db, node, delivery)?;
    }
    Ok(deliveries)
}

pub(super) fn promote(db: &Connection, ring: &Keyring, node: i64, now_ms: u64, limit: u32) -> Result<Promoted> {
    let due: Vec<Delivery> = db
        .prepare_cached(select_deliveries!(
            "(select delivery_id from retry_queue where next_retry_at <= ? order by next_retry_at limit ?) r \
             join webhook_deliveries d on d.id = r.delivery_id join integration_events e on e.id = d.event_id"
        ))?
        .query_map(params![now_ms as i64, limit], |row| delivery(row, ring))?
        .collect::<Result<_>>()?;
    let mut promoted = Promoted::default();
    for delivery in due {
        db.prepare_cached("delete from retry_queue where delivery_id = ?")?.execute([delivery.id.0])?;
        if delivery.ordering.is_some() {
            take(db, 0, &delivery)?;
            promoted.to_table.push(delivery.endpoint);
        } else {
            take(db, node, &delivery)?;
            promoted.deliveries.push(delivery);
        }
    }
    Ok(promoted)
}

fn take(db: &Connection, node: i64, delivery: &Delivery) -> Result<()> {
    db.prepare_cached("update webhook_deliveries set status = 0, node_id = ? where id = ?")?
        .execute([node, delivery.id.0])?;
    Ok(())
}

fn delivery(row: &Row<'_>, ring: &Keyring) -> Result<Delivery> {
    let event = row.get(8)?;
    let stored = Stored {
        event,
        content: ContentState::from_sql(row.get(16)?),
        headers: row.get_ref(13)?.as_str_or_null()?,
        payload: row.get_ref(15)?.as_blob()?,
        envelope: row.get_ref(17)?.as_blob_or_null()?,
        key: row.get::<_, Option<u32>>(18)?.map(KeyId).zip(row.get_ref(19)?.as_blob_or_null()?),
    };
    let opened = stored.open(ring);
    let text = |column: usize| row.get_ref(column).and_then(|value| Ok(value.as_str()?));
    Ok(Delivery {
        id: DeliveryId(row.get(0)?),
        endpoint: row.get(1)?,
        route: row.get(2)?,
        queue: row.get(3)?,
        priority: row.get(4)?,
        tries: row.get(5)?,
        charged: row.get(6)?,
        ordering: row.get(7)?,
        event: std::sync::Arc::new(Event {
            id: EventId(event),
            source: text(9)?.into(),
            event_type: text(10)?.into(),
            created_ms: row.get::<_, i64>(11)? as u64,
            content_type: text(12)?.into(),
            headers: opened.headers,
            parent: row.get::<_, Option<i64>>(14)?.map(DeliveryId),
            payload: opened.payload,
            content: opened.content,
        }),
    })
}
