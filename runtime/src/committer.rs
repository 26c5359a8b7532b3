//! Group commit: one request opens a transaction, whatever waits by then joins it, one fsync answers them all. No
//! timer: an idle hub commits at once, a busy one in larger batches.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::delivery::Settlement;
use crate::event::{NewEvent, Place};
use crate::queue::Queues;
use crate::store::{Done, Store, StoreError, Work};

/// Work that may wait for the next commit; a full channel is the sender's 503, not memory.
const CHANNEL: usize = 8192;
/// Rows of one transaction. Beyond it the latency grows and the throughput does not.
const BATCH: usize = 512;
/// Payload bytes of one transaction.
const BATCH_BYTES: usize = 4 << 20;

/// The way to the committer, for whoever has work for it.
#[derive(Clone)]
pub(crate) struct Committer {
    channel: mpsc::Sender<Ticket>,
    /// A fault that the crash test switches on, to see that it would be caught. Release builds have no such switch.
    #[cfg(debug_assertions)]
    ack_before_commit: bool,
}

struct Ticket {
    work: Work,
    answer: oneshot::Sender<Answer>,
}

/// What was done; or why not, with the settlement that is still to be done.
type Answer = Result<Done, (CommitError, Option<Settlement>)>;

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
    pub(crate) fn start(store: Arc<dyn Store>, queues: Arc<Queues>, node: i64) -> std::io::Result<Committer> {
        let (channel, tickets) = mpsc::channel(CHANNEL);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || runtime.block_on(run(store, queues, node, tickets)))?;
        #[cfg(debug_assertions)]
        let ack_before_commit = std::env::var("TOMADA_FAULT").is_ok_and(|fault| fault == "ack-before-commit");
        Ok(Committer {
            channel,
            #[cfg(debug_assertions)]
            ack_before_commit,
        })
    }

    /// Says yes first and commits a little later.
    #[cfg(debug_assertions)]
    fn promise_only(&self, event: NewEvent) -> Done {
        let (id, channel) = (event.event.id, self.channel.clone());
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let _ = channel.send(Ticket { work: Work::Accept(event), answer: oneshot::channel().0 }).await;
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
        self.channel.try_send(Ticket { work: Work::Accept(event), answer }).map_err(|_| CommitError::Full)?;
        done.await.map_err(|_| CommitError::Failed)?.map_err(|(error, _)| error)
    }

    /// Settles a delivery; waits for room instead of refusing, since the work is done already.
    pub(crate) async fn settle(&self, settlement: Settlement) -> Answer {
        let (answer, done) = oneshot::channel();
        let ticket = Ticket { work: Work::Settle(Box::new(settlement)), answer };
        self.channel.send(ticket).await.map_err(|_| (CommitError::Failed, None))?;
        done.await.unwrap_or(Err((CommitError::Failed, None)))
    }
}

async fn run(store: Arc<dyn Store>, queues: Arc<Queues>, node: i64, mut tickets: mpsc::Receiver<Ticket>) {
    let mut waiting = Vec::with_capacity(BATCH);
    while tickets.recv_many(&mut waiting, BATCH).await > 0 {
        let mut batch: Vec<Ticket> = std::mem::take(&mut waiting);
        while !batch.is_empty() {
            let rest = batch.split_off(fitting(&batch));
            commit(&*store, &queues, node, batch).await;
            batch = rest;
        }
        waiting.reserve(BATCH);
    }
}

/// How many of them fit into one transaction: at least one.
fn fitting(batch: &[Ticket]) -> usize {
    let mut bytes = 0;
    let fits = batch.iter().take_while(|ticket| {
        bytes += match &ticket.work {
            Work::Accept(event) => event.event.payload.len(),
            Work::Settle(settlement) => settlement.emitted.iter().map(|e| e.event.payload.len()).sum(),
        };
        bytes <= BATCH_BYTES
    });
    fits.count().max(1)
}

async fn commit(store: &dyn Store, queues: &Queues, node: i64, batch: Vec<Ticket>) {
    let (mut work, answers): (Vec<Work>, Vec<_>) = batch.into_iter().map(|ticket| (ticket.work, ticket.answer)).unzip();
    for work in &mut work {
        match work {
            Work::Accept(event) => reserve(queues, event),
            Work::Settle(settlement) => settlement.emitted.iter_mut().for_each(|event| reserve(queues, event)),
        }
    }
    let done = commit_or_split(store, node, &work).await;
    for ((work, done), answer) in work.into_iter().zip(done).zip(answers) {
        let done = hand_over(queues, work, done);
        // Whoever asked may have gone; the work is done all the same.
        let _ = answer.send(done);
    }
}

/// Commits together what can be committed together. A batch that fails is halved until the bad row stands alone.
async fn commit_or_split(store: &dyn Store, node: i64, work: &[Work]) -> Vec<Result<Done, CommitError>> {
    let mut outcome = Vec::with_capacity(work.len());
    let mut todo = vec![work];
    while let Some(part) = todo.pop() {
        match store.commit(node, part).await {
            Ok(done) => outcome.extend(done.into_iter().map(Ok)),
            Err(error) if part.len() == 1 || !matches!(error, StoreError::Row(_)) => {
                tracing::error!(%error, rows = part.len(), "commit failed");
                outcome.extend(part.iter().map(|_| Err(CommitError::Failed)));
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
fn hand_over(queues: &Queues, work: Work, done: Result<Done, CommitError>) -> Answer {
    match (work, done) {
        (Work::Accept(event), done) => {
            release_or_push(queues, event, matches!(done, Ok(Done::Accepted { duplicate: false, .. })));
            done.map_err(|error| (error, None))
        }
        (Work::Settle(settlement), Ok(done)) => {
            let fresh = match &done {
                Done::Settled { emitted } => &emitted[..],
                _ => &[],
            };
            for (at, event) in settlement.emitted.into_iter().enumerate() {
                release_or_push(queues, event, fresh.get(at) == Some(&true));
            }
            Ok(done)
        }
        (Work::Settle(mut settlement), Err(error)) => {
            for event in &mut settlement.emitted {
                unreserve(queues, event);
            }
            Err((error, Some(*settlement)))
        }
    }
}

/// Gives back the room of an event that is tried again.
fn unreserve(queues: &Queues, event: &NewEvent) {
    for delivery in event.deliveries.iter().filter(|delivery| delivery.place == Place::Memory) {
        queues.release(delivery.endpoint, event.event.payload.len());
    }
}

fn release_or_push(queues: &Queues, new: NewEvent, fresh: bool) {
    for delivery in new.deliveries {
        match delivery.place {
            Place::Memory if fresh => queues.push_reserved(&new.event, &delivery),
            Place::Memory => queues.release(delivery.endpoint, new.event.payload.len()),
            Place::Table if fresh => queues.spilled(delivery.endpoint),
            Place::Delayed(at) if fresh => queues.due(at),
            _ => {}
        }
    }
}
