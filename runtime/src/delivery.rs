//! What a delivery is while it is owed, how a try can end, and the pure state machine between the two.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::Retry;
use crate::event::{DeliveryId, Event, NewEvent, SyncRunId};
use crate::queue::backoff;
use crate::redact::Size;

/// A delivery in this node's hands: everything that a try needs, without another read.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) id: DeliveryId,
    pub(crate) event: Arc<Event>,
    pub(crate) endpoint: i64,
    pub(crate) route: i64,
    pub(crate) queue: i64,
    pub(crate) priority: i8,
    pub(crate) ordering: Option<i64>,
    /// Tries so far.
    pub(crate) tries: u32,
    /// Tries that count against the retry policy.
    pub(crate) charged: u32,
}

/// A delivery's state: a small number in SQL, a word everywhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(i64)]
pub(crate) enum Status {
    /// Ready or running.
    Owed = 0,
    /// In the retry queue until it is due.
    Waiting = 1,
    Delivered = 2,
    /// The mapping said that there is nothing to deliver.
    Skipped = 3,
    Dead = 4,
    /// Its endpoint is paused.
    Held = 5,
    /// It was a dead letter, and the time to replay it is over.
    Expired = 6,
    /// What it was about is erased at a person's request: it is never tried again.
    Erased = 7,
}

impl Status {
    pub(crate) fn from_sql(number: i64) -> Status {
        match number {
            1 => Status::Waiting,
            2 => Status::Delivered,
            3 => Status::Skipped,
            4 => Status::Dead,
            5 => Status::Held,
            6 => Status::Expired,
            7 => Status::Erased,
            _ => Status::Owed,
        }
    }
}

/// How one try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(i64)]
pub(crate) enum Outcome {
    Delivered = 0,
    Skipped = 1,
    Transient = 2,
    RateLimited = 3,
    Unauthorized = 4,
    Rejected = 5,
    Misconfigured = 6,
    /// The mapping refused the payload.
    MappingFailed = 7,
    /// The component trapped, for instance by a panic.
    Trapped = 8,
    TimedOut = 9,
    OutOfMemory = 10,
    /// The component returned or emitted more than the limits allow.
    TooLarge = 11,
    /// There is no component to run, or it could not be started.
    Refused = 12,
    /// The hub ended meanwhile, and the endpoint takes each delivery at most once. Also what a try is while it runs there.
    Interrupted = 13,
}

impl Outcome {
    pub(crate) const ALL: [Outcome; 14] = [
        Outcome::Delivered,
        Outcome::Skipped,
        Outcome::Transient,
        Outcome::RateLimited,
        Outcome::Unauthorized,
        Outcome::Rejected,
        Outcome::Misconfigured,
        Outcome::MappingFailed,
        Outcome::Trapped,
        Outcome::TimedOut,
        Outcome::OutOfMemory,
        Outcome::TooLarge,
        Outcome::Refused,
        Outcome::Interrupted,
    ];

    pub(crate) fn from_sql(number: i64) -> Outcome {
        Outcome::ALL.get(number as usize).copied().unwrap_or(Outcome::Refused)
    }
}

/// One finished try, as it is recorded.
#[derive(Clone)]
pub(crate) struct Attempt {
    pub(crate) started_ms: u64,
    pub(crate) duration_us: u64,
    pub(crate) outcome: Outcome,
    pub(crate) http_status: Option<u16>,
    /// Short and stable, for instance `http-500`.
    pub(crate) code: Option<String>,
    /// One sentence for the operator.
    pub(crate) message: Option<String>,
    /// What the target asked for.
    pub(crate) retry_after_ms: Option<u64>,
    /// Row ids of the versions that ran.
    pub(crate) connector_version: Option<i64>,
    pub(crate) mapping_version: Option<i64>,
    /// Row id of the mapping, as it was edited, that said what to make.
    pub(crate) mapping_id: Option<i64>,
    /// What the guest logged, only kept when the try failed.
    pub(crate) log: Option<String>,
    /// [`Said`], sealed with the event's key; then `message` and `log` are none.
    pub(crate) sealed: Option<Vec<u8>>,
}

/// What connector and target said about a try.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) log: Option<String>,
}

/// A code tells what is wrong without content, as long as it is one: a guest may write there what it likes.
pub(crate) fn is_code(text: &str) -> bool {
    text.len() <= 64
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && text.bytes().filter(u8::is_ascii_digit).count() <= 3
}

/// What was said of it shows as its size.
impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("outcome", &self.outcome)
            .field("http_status", &self.http_status)
            .field("code", &self.code)
            .field("message", &Size::of(&self.message))
            .field("log", &Size::of(&self.log))
            .finish_non_exhaustive()
    }
}

/// What becomes of a delivery.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Next {
    Delivered,
    Skipped,
    /// Tried again at this time, milliseconds.
    Retry(u64),
    Dead,
    /// Waits until its endpoint is resumed.
    Held,
}

/// A try's end on its way into the store: settled in one transaction with the events it gave rise to.
#[derive(Debug)]
pub(crate) struct Settlement {
    pub(crate) delivery: Delivery,
    pub(crate) next: Next,
    /// Whether the try counts against the retry policy.
    pub(crate) charge: bool,
    /// None when no try was made: the delivery is only put aside.
    pub(crate) attempt: Option<Attempt>,
    pub(crate) emitted: Vec<NewEvent>,
    /// What it means for the sync job whose page it was.
    pub(crate) sync: Option<SyncStep>,
}

/// What the end of a page means for its run.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum SyncStep {
    /// Done; with a cursor the last of the emitted events asks for the next page, without one the run is complete.
    Page { run: SyncRunId, cursor: Option<String> },
    /// The page is a dead letter, and the run has failed.
    Failed { run: SyncRunId },
}

impl fmt::Debug for SyncStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyncStep::Page { run, cursor } => {
                f.debug_struct("Page").field("run", run).field("cursor", &Size::of(cursor)).finish()
            }
            SyncStep::Failed { run } => f.debug_struct("Failed").field("run", run).finish(),
        }
    }
}

/// A try that must not be repeated, about to begin: on record before anything is sent.
#[derive(Debug, Clone)]
pub(crate) struct Begin {
    pub(crate) delivery: DeliveryId,
    /// The attempt's number.
    pub(crate) number: u32,
    pub(crate) started_ms: u64,
}

/// Tries that cost nothing (rate limits) end after this many, so that no delivery waits for ever.
pub(crate) const MAX_TRIES: u32 = 100;

/// The state machine: what follows from a try. Pure; `random` is drawn from [0, 1). `unrepeatable` says that the
/// target may have done what it was asked for, and takes each delivery at most once.
pub(crate) fn after(
    outcome: Outcome,
    retry_after_ms: Option<u64>,
    delivery: &Delivery,
    retry: &Retry,
    now_ms: u64,
    random: f64,
    unrepeatable: bool,
) -> (Next, bool) {
    let charged = delivery.charged + 1;
    match outcome {
        Outcome::Delivered => (Next::Delivered, true),
        Outcome::Skipped => (Next::Skipped, true),
        _ if unrepeatable => (Next::Dead, true),
        // The same payload and the same code would end the same way: only a person can help.
        Outcome::Rejected | Outcome::MappingFailed | Outcome::TooLarge | Outcome::Interrupted => (Next::Dead, true),
        Outcome::Unauthorized | Outcome::Misconfigured | Outcome::Refused => (Next::Held, false),
        Outcome::RateLimited if delivery.tries + 1 < MAX_TRIES => {
            (Next::Retry(now_ms + backoff::after(retry_after_ms, retry, charged, random)), false)
        }
        Outcome::RateLimited => (Next::Dead, true),
        // A trap may come from what the target answered, and a version may be swapped meanwhile: worth the policy's tries.
        Outcome::Transient | Outcome::Trapped | Outcome::TimedOut | Outcome::OutOfMemory => {
            if charged >= retry.attempts || delivery.tries + 1 >= MAX_TRIES {
                return (Next::Dead, true);
            }
            (Next::Retry(now_ms + backoff::delay_ms(retry, charged, random)), true)
        }
    }
}
