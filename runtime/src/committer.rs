//! Group commit: one request opens a transaction, whatever waits by then joins it, one fsync answers them all. No
//! timer: an idle hub commits at once, a busy one in larger batches.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::delivery::{Begin, Next, Settlement};
use crate::event::{NewEvent, Place};
use crate::membership::Membership;
use crate::metrics::Metrics;
use crate::queue::Queues;
use crate::store::{Done, Store, StoreError, Work};

/// Work that may wait for the next commit; a full channel is the sender's 503, not memory.
const CHANNEL: usize = 8192;
/// Rows of one transaction. Beyond it the latency grows and the throughput does not.
const BATCH: usize = 512;
/// Payload bytes of one transaction.
const BATCH_BYTES: usize = 4 << 20;
/// Between tries while the database fails.
const PAUSE: Duration = Duration::from_millis(500);

/// The way to the committer, for whoever has work for it.
#[derive(Clone)]
pub(crate) struct Committer {
    channel: mpsc::Sender<Ticket>,
    /// A fault that the crash test switches on, to see that it would be caught. Release builds have no such switch.
    #[cfg(debug_assertions)]
    ack_before_commit: bool,
}

enum Ticket {
    Accept(NewEvent, oneshot::Sender<Result<Done, CommitError>>),
    Begin(Begin, oneshot::Sender<Result<Done, CommitError>>),
    /// Nobody waits for it: what follows from it is done here.
    Settle(Box<Settlement>),
    /// Answered when all that came before it is done.
    Flush(oneshot::Sender<()>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommitError {
    /// More is waiting than may: try again later.
    #[error("the hub is at its limit")]
    Full,
    /// The database refused this one piece of work, or is gone. The reason is in the log.
    #[error("the database did not take it")]
    Failed,
}

impl Committer {
    /// Starts the committer; it ends when the last clone of the handle is dropped and everything is answered.
    ///
    /// It has a thread of its own, on which the embedded database works too: between the tasks of a busy runtime each
    /// step of a commit would wait its turn.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        queues: Arc<Queues>,
        membership: Arc<Membership>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Committer> {
        let (channel, tickets) = mpsc::channel(CHANNEL);
        let is_shared = store.is_shared();
        let run = run(store, queues, membership, metrics, tickets);
        if is_shared {
            // It waits for a socket, and that is what the runtime of all others is for.
            tokio::spawn(run);
            return Ok(Committer::new(channel));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name("committer".into()).spawn(move || runtime.block_on(run))?;
        Ok(Committer::new(channel))
    }

    fn new(channel: mpsc::Sender<Ticket>) -> Committer {
        #[cfg(debug_assertions)]
        let ack_before_commit = std::env::var("TOMADA_FAULT").is_ok_and(|fault| fault == "ack-before-commit");
        Committer {
            channel,
            #[cfg(debug_assertions)]
            ack_before_commit,
        }
    }

    /// Says yes first and commits a little later.
    #[cfg(debug_assertions)]
    fn promise_only(&self, event: NewEvent) -> Done {
        let (id, channel) = (event.event.id, self.channel.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let _ = channel.send(Ticket::Accept(event, oneshot::channel().0)).await;
        });
        Done::Accepted { id, duplicate: false }
    }

    /// Accepts an event; returns when it is durable, or was before.
    pub(crate) async fn accept(&self, event: NewEvent) -> Result<Done, CommitError> {
        #[cfg(debug_assertions)]
        if self.ack_before_commit {
            return Ok(self.promise_only(event));
        }
        let (answer, done) = oneshot::channel();
        self.channel.try_send(Ticket::Accept(event, answer)).map_err(|_| CommitError::Full)?;
        done.await.map_err(|_| CommitError::Failed)?
    }

    /// Puts a try on record before it begins. False: the delivery is no longer this node's.
    pub(crate) async fn begin(&self, begin: Begin) -> Result<bool, CommitError> {
        let (answer, done) = oneshot::channel();
        self.channel.send(Ticket::Begin(begin, answer)).await.map_err(|_| CommitError::Failed)?;
        Ok(done.await.map_err(|_| CommitError::Failed)?? == Done::Begun)
    }

    /// Settles a delivery, soon; waits for room instead of refusing, since the work is done already.
    pub(crate) async fn settle(&self, settlement: Settlement) {
        // The committer ends after everybody who settles; were it gone, the row would still say "owed".
        let _ = self.channel.send(Ticket::Settle(Box::new(settlement))).await;
    }

    /// Returns when everything that was handed over before is committed, or was refused.
    pub(crate) async fn flush(&self) {
        let (answer, done) = oneshot::channel();
        if self.channel.send(Ticket::Flush(answer)).await.is_ok() {
            let _ = done.await;
        }
    }
}

async fn run(
    store: Arc<dyn Store>,
    queues: Arc<Queues>,
    membership: Arc<Membership>,
    metrics: Arc<Metrics>,
    mut tickets: mpsc::Receiver<Ticket>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut patience = Patience::default();
    while tickets.recv_many(&mut batch, BATCH).await > 0 {
        patience.wait();
        while batch.len() < BATCH
            && let Ok(ticket) = tickets.try_recv()
        {
            batch.push(ticket);
        }
        while !batch.is_empty() {
            let rest = batch.split_off(fitting(&batch));
            let failed = commit(&*store, &queues, &membership, &metrics, batch).await;
            batch = rest;
            if !failed.is_empty() {
                // The database is gone, and these deliveries are made: nothing else can be done before it is back.
                tokio::time::sleep(PAUSE).await;
                batch.splice(0..0, failed.into_iter().map(Ticket::Settle));
            }
        }
    }
}

/// On a busy machine the others run first, and what they hand in joins the batch; on an idle one nobody is waited for.
/// Where it takes long, somebody computes who has nothing to hand in, and for a while nobody is waited for either.
#[derive(Default)]
struct Patience {
    /// Batches that go without waiting.
    skip: u32,
}

impl Patience {
    const LONG: Duration = Duration::from_millis(5);
    const SKIP: u32 = 200;

    #[allow(clippy::disallowed_methods, reason = "it measures how long the other threads took")]
    fn wait(&mut self) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        let begun = std::time::Instant::now();
        std::thread::yield_now();
        if begun.elapsed() > Self::LONG {
            self.skip = Self::SKIP;
        }
    }
}

/// How many of them fit into one transaction: at least one.
fn fitting(batch: &[Ticket]) -> usize {
    let mut bytes = 0;
    let fits = batch.iter().take(BATCH).take_while(|ticket| {
        bytes += match ticket {
            Ticket::Accept(event, _) => event.event.payload.len(),
            Ticket::Settle(settlement) => settlement.emitted.iter().map(|e| e.event.payload.len()).sum(),
            Ticket::Begin(..) | Ticket::Flush(_) => 0,
        };
        bytes <= BATCH_BYTES
    });
    fits.count().max(1)
}

/// Commits a batch and does what follows. Answers the settlements that are still to be done.
async fn commit(
    store: &dyn Store,
    queues: &Queues,
    membership: &Membership,
    metrics: &Metrics,
    batch: Vec<Ticket>,
) -> Vec<Box<Settlement>> {
    let mut work = Vec::with_capacity(batch.len());
    let mut answers = Vec::with_capacity(batch.len());
    let mut flushed = Vec::new();
    for ticket in batch {
        match ticket {
            Ticket::Accept(mut event, answer) => {
                reserve(queues, &mut event);
                work.push(Work::Accept(event));
                answers.push(Some(answer));
            }
            Ticket::Begin(begin, answer) => {
                work.push(Work::Begin(begin));
                answers.push(Some(answer));
            }
            Ticket::Settle(mut settlement) => {
                settlement.emitted.iter_mut().for_each(|event| reserve(queues, event));
                work.push(Work::Settle(settlement));
                answers.push(None);
            }
            Ticket::Flush(answer) => flushed.push(answer),
        }
    }
    let done = measured(store, membership, metrics, &work).await;
    let mut failed = Vec::new();
    for ((work, done), answer) in work.into_iter().zip(done).zip(answers) {
        match (work, done) {
            (Work::Accept(event), done) => {
                hand_over(queues, event, matches!(done, Ok(Done::Accepted { duplicate: false, .. })));
                if let Some(answer) = answer {
                    // Whoever asked may have gone; the work is done all the same.
                    let _ = answer.send(done.map_err(|_| CommitError::Failed));
                }
            }
            (Work::Begin(_), done) => {
                if let Some(answer) = answer {
                    let _ = answer.send(done.map_err(|_| CommitError::Failed));
                }
            }
            (Work::Settle(settlement), Ok(done)) => settled(queues, *settlement, &done),
            (Work::Settle(settlement), Err(Fault::Row)) => {
                // It would be refused again. The row says "owed": the next start tries the delivery once more.
                settled(queues, *settlement, &Done::Stale);
            }
            (Work::Settle(settlement), Err(Fault::Database)) => {
                settlement.emitted.iter().for_each(|event| unreserve(queues, event));
                failed.push(settlement);
            }
        }
    }
    if failed.is_empty() {
        for answer in flushed {
            let _ = answer.send(());
        }
    }
    failed
}

/// Who is to blame for a commit that failed.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Row,
    Database,
}

/// Commits, and counts what came of it.
#[allow(clippy::disallowed_methods, reason = "a duration for the metrics, not a time that anything depends on")]
async fn measured(
    store: &dyn Store,
    membership: &Membership,
    metrics: &Metrics,
    work: &[Work],
) -> Vec<Result<Done, Fault>> {
    if work.is_empty() {
        return Vec::new();
    }
    let begun = std::time::Instant::now();
    let done = commit_or_split(store, membership, work).await;
    metrics.committed(work.len(), begun.elapsed().as_secs_f64());
    let mut sealed = 0;
    for (work, done) in work.iter().zip(&done) {
        sealed += match (work, done) {
            (_, Err(_)) => {
                metrics.commit_failed();
                0
            }
            (Work::Accept(event), Ok(Done::Accepted { duplicate: false, .. })) => u64::from(event.sealed.is_some()),
            (Work::Settle(settlement), Ok(Done::Settled { emitted })) => {
                let fresh = settlement.emitted.iter().zip(emitted).filter(|(_, fresh)| **fresh);
                fresh.filter(|(event, _)| event.sealed.is_some()).count() as u64
            }
            _ => 0,
        };
    }
    metrics.sealed(sealed);
    done
}

/// Commits together what can be committed together. A batch that fails is halved until the bad row stands alone.
async fn commit_or_split(store: &dyn Store, membership: &Membership, work: &[Work]) -> Vec<Result<Done, Fault>> {
    let mut outcome = Vec::with_capacity(work.len());
    let mut todo = vec![work];
    while let Some(part) = todo.pop() {
        let node = match membership.certain().await {
            Ok(node) => node,
            Err(error) => {
                tracing::error!(%error, "joining anew failed");
                outcome.extend(part.iter().map(|_| Err(Fault::Database)));
                continue;
            }
        };
        match store.commit(node, part).await {
            Ok(done) => outcome.extend(done.into_iter().map(Ok)),
            Err(StoreError::Fenced) => {
                membership.doubt();
                todo.push(part);
            }
            Err(error) if part.len() == 1 || !matches!(error, StoreError::Row(_)) => {
                tracing::error!(%error, rows = part.len(), "commit failed");
                if matches!(error, StoreError::Database(_)) {
                    // It may be there all the same, with deliveries that nobody has in memory.
                    membership.doubt();
                }
                let fault = if matches!(error, StoreError::Row(_)) { Fault::Row } else { Fault::Database };
                outcome.extend(part.iter().map(|_| Err(fault)));
            }
            Err(_) => {
                let (first, second) = part.split_at(part.len() / 2);
                todo.push(second);
                todo.push(first);
            }
        }
    }
    outcome
}

/// Keeps room in memory for what is to be delivered at once; what finds none waits in the table.
fn reserve(queues: &Queues, event: &mut NewEvent) {
    let bytes = event.event.payload.len();
    for delivery in &mut event.deliveries {
        if delivery.place == Place::Memory && !queues.reserve(delivery.endpoint, bytes) {
            delivery.place = Place::Table;
        }
    }
}

/// After the commit: new deliveries go straight to the queues, without another read.
fn hand_over(queues: &Queues, new: NewEvent, fresh: bool) {
    for delivery in new.deliveries {
        match delivery.place {
            Place::Memory if fresh => queues.push_reserved(&new.event, &delivery),
            Place::Memory => queues.release(delivery.endpoint, new.event.payload.len()),
            Place::Table if fresh => queues.announce(delivery.endpoint),
            Place::Delayed(at) if fresh => queues.due(at),
            _ => {}
        }
    }
}

/// Gives back the room of an event that is tried again.
fn unreserve(queues: &Queues, event: &NewEvent) {
    for delivery in event.deliveries.iter().filter(|delivery| delivery.place == Place::Memory) {
        queues.release(delivery.endpoint, event.event.payload.len());
    }
}

/// The delivery has left this node's memory; what it gave rise to comes in.
fn settled(queues: &Queues, settlement: Settlement, done: &Done) {
    let fresh = match done {
        Done::Settled { emitted } => &emitted[..],
        _ => &[],
    };
    for (at, event) in settlement.emitted.into_iter().enumerate() {
        hand_over(queues, event, fresh.get(at) == Some(&true));
    }
    let delivery = &settlement.delivery;
    if let Next::Retry(at_ms) = settlement.next {
        queues.due(at_ms);
    }
    if delivery.ordering.is_some() {
        // Whoever waits behind it in the table may be claimed now.
        queues.announce(delivery.endpoint);
    }
    queues.release(delivery.endpoint, delivery.event.payload.len());
}
