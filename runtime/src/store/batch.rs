//! What a commit is on a server: the same for PostgreSQL and MySQL, on steps that each of them says in its own words.
//!
//! SQLite takes the work one by one, since a statement there is a function call. On a server each is a way there and back,
//! so a commit is a handful of statements, each over all rows that it is about. The answers are the same, as long as a
//! delivery is begun and settled in later commits than the one that made it: nobody has it before.

use std::collections::{BTreeMap, HashMap, HashSet};

use async_trait::async_trait;

use super::rows::ContentState;
use super::sql::{Conn, query};
use super::{Done, Known, Result, Work};
use crate::delivery::{Attempt, Begin, Delivery, Next, Settlement, Status, SyncStep};
use crate::event::{DeliveryId, EventId, NewDelivery, NewEvent, Place};

/// The parts of a commit, on a connection in a transaction. None is called with an empty list; where an order matters, for
/// instance to lock in the same one on every node, the list has it already.
#[async_trait]
pub(super) trait Steps: Send {
    fn conn(&mut self) -> &mut Conn;

    /// Holds the node's row until the transaction ends, so that nobody takes over meanwhile what it writes as its own;
    /// several commits hold it at once. [`super::StoreError::Fenced`] when somebody did take over.
    async fn fence(&mut self, node: i64) -> Result<()>;
    /// Puts tries on record as interrupted, in place of rows of the same number, where the delivery is still this node's.
    /// Answers whose. A delivery and a number come once.
    async fn begin(&mut self, node: i64, tries: &[&Begin]) -> Result<HashSet<DeliveryId>>;
    /// Ends tries of deliveries that are still this node's. Answers whose. A delivery comes once.
    async fn settle(&mut self, node: i64, ends: &[End]) -> Result<HashSet<DeliveryId>>;
    /// In place of rows of the same number. A delivery comes once.
    async fn insert_attempts(&mut self, attempts: &[(&Delivery, &Attempt)]) -> Result<()>;
    /// In place of what is there. A delivery comes once.
    async fn insert_dead(&mut self, dead: &[(&Delivery, &Attempt)]) -> Result<()>;
    /// In place of what is there. A delivery comes once.
    async fn insert_retries(&mut self, retries: &[(DeliveryId, u64)]) -> Result<()>;
    /// The events of those keys that are there. A key may come twice.
    async fn known(&mut self, keys: &[&[u8]]) -> Result<HashMap<Vec<u8>, EventId>>;
    /// Inserts the keys that are not there; waits for whoever is about to insert the same one. Answers for each the event
    /// of the row that was there, none where it is new. A key comes once.
    async fn insert_keys(&mut self, keys: &[(&[u8], EventId)]) -> Result<Vec<Option<EventId>>>;
    async fn insert_events(&mut self, events: &[EventRow<'_>]) -> Result<()>;
    /// An event's key may come twice.
    async fn insert_subjects(&mut self, subjects: &[SubjectRow<'_>]) -> Result<()>;
    async fn insert_deliveries(&mut self, deliveries: &[DeliveryRow<'_>]) -> Result<()>;
}

/// What the end of a try changes in its delivery's row.
pub(super) struct End {
    pub(super) delivery: DeliveryId,
    pub(super) status: Status,
    /// Added to the tries and to those that count.
    pub(super) tries: i64,
    pub(super) charged: i64,
}

pub(super) struct EventRow<'e> {
    pub(super) new: &'e NewEvent,
    pub(super) status: i64,
    pub(super) idempotency_key: &'e str,
    pub(super) headers: Option<String>,
    pub(super) payload: &'e [u8],
    pub(super) content: ContentState,
    pub(super) sealed: Option<&'e [u8]>,
    pub(super) key_id: Option<i64>,
    pub(super) wrapped: Option<&'e [u8]>,
}

pub(super) struct SubjectRow<'e> {
    pub(super) event: EventId,
    pub(super) kind: i64,
    pub(super) subject: &'e [u8],
}

pub(super) struct DeliveryRow<'e> {
    pub(super) event: EventId,
    pub(super) new: &'e NewDelivery,
    pub(super) status: Status,
    /// The node that has it in memory, or 0.
    pub(super) node: i64,
}

/// Accepts and settles; answers in the order of the work.
pub(super) async fn commit(steps: &mut impl Steps, known: Known<'_>, node: i64, work: &[Work]) -> Result<Vec<Done>> {
    steps.fence(node).await?;
    // In the order of their ids. Of two ends of the same delivery the first counts, as when they come one by one.
    let (mut tries, mut ends) = (BTreeMap::new(), BTreeMap::new());
    for (at, work) in work.iter().enumerate() {
        match work {
            Work::Begin(try_) if !ends.contains_key(&try_.delivery) => {
                tries.insert((try_.delivery, try_.number), try_);
            }
            Work::Settle(settlement) => {
                ends.entry(settlement.delivery.id).or_insert((at, &**settlement));
            }
            Work::Begin(_) | Work::Accept(_) => {}
        }
    }
    let tries: Vec<&Begin> = tries.into_values().collect();
    let begun = if tries.is_empty() { HashSet::new() } else { steps.begin(node, &tries).await? };
    let settlements: Vec<&Settlement> = ends.values().map(|(_, settlement)| *settlement).collect();
    let ours = settle(steps, node, &settlements).await?;
    let is_ours = |at: usize, id: DeliveryId| ours.contains(&id) && ends.get(&id).is_some_and(|end| end.0 == at);

    let mut events: Vec<&NewEvent> = Vec::new();
    for (at, work) in work.iter().enumerate() {
        match work {
            Work::Accept(event) => events.push(event),
            Work::Settle(settlement) if is_ours(at, settlement.delivery.id) => events.extend(&settlement.emitted),
            Work::Begin(_) | Work::Settle(_) => {}
        }
    }
    let mut ids = accept(steps, known, node, &events).await?.into_iter();
    let mut done = Vec::with_capacity(work.len());
    for (at, work) in work.iter().enumerate() {
        done.push(match work {
            Work::Accept(event) => {
                // There is one for each.
                let id = ids.next().unwrap_or(event.event.id);
                Done::Accepted { id, duplicate: id != event.event.id }
            }
            Work::Begin(try_) => {
                let is_over = ends.get(&try_.delivery).is_some_and(|end| end.0 < at);
                if begun.contains(&try_.delivery) && !is_over { Done::Begun } else { Done::Stale }
            }
            Work::Settle(settlement) if is_ours(at, settlement.delivery.id) => {
                let emitted: Vec<bool> =
                    settlement.emitted.iter().zip(&mut ids).map(|(event, id)| id == event.event.id).collect();
                if let (Some(step), Some(attempt)) = (&settlement.sync, &settlement.attempt) {
                    step_sync(steps.conn(), step, attempt, &emitted).await?;
                }
                Done::Settled { emitted }
            }
            Work::Settle(_) => Done::Stale,
        });
    }
    Ok(done)
}

/// Writes the ends of tries, each of another delivery. Answers whose were still this node's.
async fn settle(steps: &mut impl Steps, node: i64, settlements: &[&Settlement]) -> Result<HashSet<DeliveryId>> {
    if settlements.is_empty() {
        return Ok(HashSet::new());
    }
    let end = |settlement: &&Settlement| End {
        delivery: settlement.delivery.id,
        status: match settlement.next {
            Next::Delivered => Status::Delivered,
            Next::Skipped => Status::Skipped,
            Next::Retry(_) => Status::Waiting,
            Next::Dead => Status::Dead,
            Next::Held => Status::Held,
        },
        tries: settlement.attempt.is_some().into(),
        charged: settlement.charge.into(),
    };
    let ours = steps.settle(node, &settlements.iter().map(end).collect::<Vec<_>>()).await?;
    let (mut attempts, mut dead, mut retries) = (Vec::new(), Vec::new(), Vec::new());
    for settlement in settlements.iter().filter(|settlement| ours.contains(&settlement.delivery.id)) {
        if let Some(attempt) = &settlement.attempt {
            attempts.push((&settlement.delivery, attempt));
            if settlement.next == Next::Dead {
                dead.push((&settlement.delivery, attempt));
            }
        }
        if let Next::Retry(at_ms) = settlement.next {
            retries.push((settlement.delivery.id, at_ms));
        }
    }
    if !attempts.is_empty() {
        steps.insert_attempts(&attempts).await?;
    }
    if !dead.is_empty() {
        steps.insert_dead(&dead).await?;
    }
    if !retries.is_empty() {
        steps.insert_retries(&retries).await?;
    }
    Ok(ours)
}

/// Inserts the events whose keys are not known, with their deliveries. Answers for each the event that its key stands for.
pub(super) async fn accept(
    steps: &mut impl Steps,
    known: Known<'_>,
    node: i64,
    events: &[&NewEvent],
) -> Result<Vec<EventId>> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let others: Vec<Option<Vec<u8>>> = events.iter().map(|new| known.other_form(&new.key)).collect();
    let asked: Vec<&[u8]> = others.iter().flatten().map(Vec::as_slice).collect();
    let there = if asked.is_empty() { HashMap::new() } else { steps.known(&asked).await? };

    // The key that says what each is, in its other form where that is there or comes before; and who would be the first.
    let mut first: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut keys = Vec::with_capacity(events.len());
    for (at, (new, other)) in events.iter().zip(&others).enumerate() {
        match other.as_deref() {
            Some(other) if there.contains_key(other) || first.contains_key(other) => keys.push(other),
            _ => {
                first.entry(&new.key.index).or_insert(at);
                keys.push(&new.key.index);
            }
        }
    }
    let wanted: Vec<(&[u8], EventId)> = first.iter().map(|(key, at)| (*key, events[*at].event.id)).collect();
    let found = if wanted.is_empty() { Vec::new() } else { steps.insert_keys(&wanted).await? };

    let mut stands: HashMap<&[u8], EventId> = there.iter().map(|(key, event)| (key.as_slice(), *event)).collect();
    let mut fresh = Vec::with_capacity(wanted.len());
    for (((key, id), found), at) in wanted.iter().zip(found).zip(first.values()) {
        stands.insert(key, found.unwrap_or(*id));
        if found.is_none() {
            fresh.push(*at);
        }
    }
    fresh.sort_unstable();
    let fresh: Vec<&NewEvent> = fresh.into_iter().map(|at| events[at]).collect();
    insert(steps, node, &fresh).await?;
    // Each of the keys is in it.
    Ok(keys.iter().zip(events).map(|(key, new)| stands.get(key).copied().unwrap_or(new.event.id)).collect())
}

/// Inserts events with all that belongs to them.
async fn insert(steps: &mut impl Steps, node: i64, events: &[&NewEvent]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let rows: Vec<EventRow<'_>> = events.iter().map(|new| event_row(new)).collect();
    steps.insert_events(&rows).await?;
    let (mut subjects, mut deliveries) = (Vec::new(), Vec::new());
    for new in events {
        let event = new.event.id;
        subjects.extend(new.subjects.iter().map(|key| SubjectRow {
            event,
            kind: key.kind as i64,
            subject: &key.subject,
        }));
        deliveries.extend(new.deliveries.iter().map(|delivery| (event, delivery)));
    }
    if !subjects.is_empty() {
        steps.insert_subjects(&subjects).await?;
    }
    owe(steps, node, &deliveries).await
}

fn event_row(new: &NewEvent) -> EventRow<'_> {
    let sealed = new.sealed.as_ref();
    EventRow {
        new,
        status: new.deliveries.is_empty().into(),
        // In the envelope where it says something.
        idempotency_key: if sealed.is_some() && new.key.is_content { "" } else { &new.key.shown },
        headers: if sealed.is_some() { None } else { super::tables::content::write_headers(&new.event.headers) },
        payload: sealed.map_or(&new.event.payload[..], |sealed| &sealed.payload),
        content: if sealed.is_some() { ContentState::Sealed } else { ContentState::Clear },
        sealed: sealed.and_then(|sealed| sealed.envelope.as_deref()),
        key_id: sealed.map(|sealed| sealed.key.0.into()),
        wrapped: sealed.map(|sealed| &sealed.wrapped[..]),
    }
}

/// Inserts deliveries of events.
pub(super) async fn owe<'d>(
    steps: &mut impl Steps,
    node: i64,
    deliveries: &[(EventId, &'d NewDelivery)],
) -> Result<()> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let row = |delivery: &(EventId, &'d NewDelivery)| {
        let (event, new) = *delivery;
        let (status, node) = match new.place {
            Place::Memory => (Status::Owed, node),
            Place::Table => (Status::Owed, 0),
            Place::Delayed(_) => (Status::Waiting, 0),
            Place::Held => (Status::Held, 0),
        };
        DeliveryRow { event, new, status, node }
    };
    let rows: Vec<DeliveryRow<'_>> = deliveries.iter().map(row).collect();
    steps.insert_deliveries(&rows).await?;
    let delayed = |(_, new): &(EventId, &NewDelivery)| match new.place {
        Place::Delayed(at_ms) => Some((new.id, at_ms)),
        Place::Memory | Place::Table | Place::Held => None,
    };
    let delayed: Vec<(DeliveryId, u64)> = deliveries.iter().filter_map(delayed).collect();
    if !delayed.is_empty() {
        steps.insert_retries(&delayed).await?;
    }
    Ok(())
}

/// When a try had ended, for the rows that follow from it.
pub(super) fn ended_at(attempt: &Attempt) -> i64 {
    (attempt.started_ms + attempt.duration_us / 1000) as i64
}

/// Carries a sync job's run on, in the transaction that settles its page. There are few of them.
async fn step_sync(conn: &mut Conn, step: &SyncStep, attempt: &Attempt, emitted: &[bool]) -> Result<()> {
    let step = match step {
        SyncStep::Page { run, cursor } => {
            // The last one asks for the next page.
            let items = &emitted[..emitted.len() - usize::from(cursor.is_some())];
            let known = items.iter().filter(|fresh| !**fresh).count();
            let is_complete = cursor.is_none();
            query(
                "update sync_jobs set pages = pages + 1, items = items + ?, known = known + ?, \"cursor\" = ?, \
                 state = coalesce(?, state), finished_at = coalesce(?, finished_at) where id = ?",
            )
            .bind(items.len() as i64)
            .bind(known as i64)
            .bind(cursor.clone())
            .bind(is_complete.then_some(1_i64))
            .bind(is_complete.then(|| ended_at(attempt)))
            .bind(run.0)
        }
        SyncStep::Failed { run } => {
            query("update sync_jobs set state = 2, finished_at = ?, code = ?, message = ? where id = ? and state = 0")
                .bind(ended_at(attempt))
                .bind(attempt.code.clone())
                .bind(attempt.message.clone())
                .bind(run.0)
        }
    };
    step.execute(conn).await?;
    Ok(())
}
