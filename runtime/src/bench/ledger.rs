//! Who was told yes and what arrived: every event of a run has a line here, and the audit compares the two sides.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::Semaphore;

/// Lines per chunk; chunks are made when the first of their lines is used.
const CHUNK: u64 = 1 << 16;
/// Chunks, so at most 67 million events in a run.
const CHUNKS: usize = 1 << 10;
/// Bytes of a run's part in the name of an event, and of the event's number.
const RUN: usize = 9;
const DIGITS: usize = 12;

/// ASCII, for instance `0badcafe-000000000007`.
pub(crate) type Name = [u8; RUN + DIGITS];

/// Events are numbered from 0; an event's name is `<run>-<number>`, see [`Ledger::name`].
#[derive(Debug)]
pub(crate) struct Ledger {
    run: [u8; RUN],
    began: Instant,
    chunks: Vec<OnceLock<Box<[Line]>>>,
    next: AtomicU64,
    acked: AtomicU64,
    arrived: AtomicU64,
    foreign: AtomicU64,
    end_to_end: Mutex<Histogram<u64>>,
    window: Mutex<Option<Arc<Semaphore>>>,
}

/// All zero: never sent. Times are nanoseconds since the ledger began, at least 1.
#[derive(Debug, Default)]
struct Line {
    intended: AtomicU64,
    /// Digest of the id in the 2xx answer.
    acked_as: AtomicU64,
    /// Digests of the event's id and of the delivery's id at the first arrival; 0 when the header was missing.
    event: AtomicU64,
    delivery: AtomicU64,
    arrivals: AtomicU32,
    /// Arrivals under another delivery id than the first: one event was taken for two.
    strangers: AtomicU32,
}

/// The two sides compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Audit {
    /// Answered with 2xx.
    pub(crate) acked: u64,
    /// Events that arrived at least once.
    pub(crate) arrived: u64,
    /// Acknowledged and never arrived.
    pub(crate) lost: u64,
    /// Names of the first of them.
    pub(crate) lost_examples: Vec<String>,
    /// Arrivals beyond the first of an event, under the same id: allowed, and to be few.
    pub(crate) duplicates: u64,
    /// Arrivals that nobody sent, under a second id, or under an id that was not the acknowledged one.
    pub(crate) unexpected: u64,
    /// Arrived though no 2xx was seen: the answer was lost on its way.
    pub(crate) unacknowledged: u64,
}

impl Ledger {
    /// `run` sets the events of this run apart from those of others.
    pub(crate) fn new(run: u32) -> Ledger {
        let mut name = *b"00000000-";
        name[..RUN - 1].copy_from_slice(format!("{run:08x}").as_bytes());
        Ledger {
            run: name,
            began: Instant::now(),
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            next: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            end_to_end: Mutex::new(histogram()),
            window: Mutex::new(None),
        }
    }

    /// Number of the next event, as long as it is below `last`.
    pub(crate) fn take(&self, last: u64) -> Option<u64> {
        self.next.fetch_update(Relaxed, Relaxed, |next| (next < last).then_some(next + 1)).ok()
    }

    /// How many numbers were taken.
    pub(crate) fn taken(&self) -> u64 {
        self.next.load(Relaxed)
    }

    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Relaxed)
    }

    /// Events that arrived, each counted once.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Relaxed)
    }

    /// The name of an event, as it stands in its body.
    pub(crate) fn name(&self, mut number: u64) -> Name {
        let mut name = [b'0'; RUN + DIGITS];
        name[..RUN].copy_from_slice(&self.run);
        for digit in name[RUN..].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        name
    }

    /// Sends are let through while fewer than the window's permits are under way; each arrival gives one back.
    pub(crate) fn set_window(&self, window: Option<Arc<Semaphore>>) {
        *self.window.lock().unwrap_or_else(PoisonError::into_inner) = window;
    }

    /// An event is about to be sent, and should have been at `intended`.
    pub(crate) fn sent(&self, number: u64, intended: Instant) {
        let nanos = intended.saturating_duration_since(self.began).as_nanos() as u64;
        self.line(number).intended.store(nanos.max(1), Relaxed);
    }

    /// The hub said yes and called the event `id`.
    pub(crate) fn acknowledged(&self, number: u64, id: &[u8]) {
        self.line(number).acked_as.store(digest(id), Relaxed);
        self.acked.fetch_add(1, Relaxed);
    }

    /// The hub said no, or nothing: the event is not under way.
    pub(crate) fn refused(&self) {
        self.give_back();
    }

    /// Something came to the sink.
    pub(crate) fn arrival(&self, body: &[u8], event: Option<&[u8]>, delivery: Option<&[u8]>) {
        let now = self.began.elapsed().as_nanos() as u64;
        let line = self.find(body).filter(|number| *number < self.taken()).map(|number| self.line(number));
        let Some(line) = line else {
            self.foreign.fetch_add(1, Relaxed);
            return;
        };
        let delivery = delivery.map_or(0, digest);
        if line.arrivals.fetch_add(1, Relaxed) > 0 {
            if line.delivery.load(Relaxed) != delivery {
                line.strangers.fetch_add(1, Relaxed);
            }
            return;
        }
        line.delivery.store(delivery, Relaxed);
        line.event.store(event.map_or(0, digest), Relaxed);
        self.arrived.fetch_add(1, Relaxed);
        let micros = now.saturating_sub(line.intended.load(Relaxed)) / 1000;
        self.end_to_end.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
        self.give_back();
    }

    /// The latencies from intended send to arrival since the last call, microseconds.
    pub(crate) fn take_latencies(&self) -> Histogram<u64> {
        std::mem::replace(&mut *self.end_to_end.lock().unwrap_or_else(PoisonError::into_inner), histogram())
    }

    /// Compares what was promised with what came. `deliveries` says whether anything was to be delivered at all.
    pub(crate) fn audit(&self, deliveries: bool) -> Audit {
        let mut audit = Audit { acked: self.acked(), arrived: self.arrived(), ..Audit::default() };
        audit.unexpected = self.foreign.load(Relaxed);
        for number in 0..self.taken() {
            let line = self.line(number);
            let (acked_as, arrivals) = (line.acked_as.load(Relaxed), line.arrivals.load(Relaxed));
            let strangers = line.strangers.load(Relaxed);
            audit.unexpected += u64::from(strangers);
            if arrivals == 0 {
                if deliveries && acked_as != 0 {
                    audit.lost += 1;
                    if audit.lost_examples.len() < 5 {
                        audit.lost_examples.push(String::from_utf8_lossy(&self.name(number)).into_owned());
                    }
                }
                continue;
            }
            audit.duplicates += u64::from(arrivals - 1 - strangers);
            let event = line.event.load(Relaxed);
            if acked_as == 0 {
                audit.unacknowledged += 1;
            } else if event != 0 && event != acked_as {
                audit.unexpected += 1;
            }
        }
        audit
    }

    fn give_back(&self) {
        if let Some(window) = &*self.window.lock().unwrap_or_else(PoisonError::into_inner) {
            window.add_permits(1);
        }
    }

    /// The number in the first name of this run that stands in `body`.
    fn find(&self, body: &[u8]) -> Option<u64> {
        let at = body.windows(RUN).position(|window| window == self.run)? + RUN;
        let digits = body.get(at..at + DIGITS)?;
        digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
    }

    fn line(&self, number: u64) -> &Line {
        let chunk = self.chunks[(number / CHUNK) as usize % CHUNKS]
            .get_or_init(|| (0..CHUNK).map(|_| Line::default()).collect());
        &chunk[(number % CHUNK) as usize]
    }
}

/// One microsecond to five minutes, three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 300_000_000, 3).expect("the bounds are constants that fit each other")
}

/// Never 0, which stands for "none".
fn digest(id: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(id);
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(ledger: &Ledger) -> (u64, Vec<u8>) {
        let number = ledger.take(u64::MAX).unwrap();
        ledger.sent(number, Instant::now());
        (number, [&b"{\"id\":\""[..], &ledger.name(number), b"\"}"].concat())
    }

    #[test]
    fn what_was_promised_and_never_came_is_lost() {
        let ledger = Ledger::new(7);
        let (number, _) = sent(&ledger);
        ledger.acknowledged(number, b"evt_1");
        let audit = ledger.audit(true);
        assert_eq!((audit.acked, audit.lost), (1, 1));
        assert_eq!(audit.lost_examples, ["00000007-000000000000"]);
        assert_eq!(ledger.audit(false).lost, 0);
    }

    #[test]
    fn a_repeat_under_the_same_id_is_a_duplicate_and_under_another_unexpected() {
        let ledger = Ledger::new(7);
        let (number, body) = sent(&ledger);
        ledger.acknowledged(number, b"evt_1");
        for delivery in [b"dlv_1", b"dlv_1", b"dlv_2"] {
            ledger.arrival(&body, Some(b"evt_1"), Some(delivery));
        }
        let audit = ledger.audit(true);
        assert_eq!((audit.arrived, audit.duplicates, audit.unexpected, audit.lost), (1, 1, 1, 0));
    }

    #[test]
    fn what_nobody_sent_is_unexpected() {
        let ledger = Ledger::new(7);
        ledger.arrival(b"{}", None, None);
        ledger.arrival(br#"{"id":"00000007-000000000000"}"#, None, None);
        ledger.arrival(br#"{"id":"00000008-000000000000"}"#, None, None);
        ledger.arrival(br#"{"id":"00000007-00"}"#, None, None);
        assert_eq!(ledger.audit(true).unexpected, 4);
    }

    #[test]
    fn an_arrival_must_carry_the_id_that_was_acknowledged() {
        let ledger = Ledger::new(7);
        let (number, body) = sent(&ledger);
        ledger.acknowledged(number, b"evt_1");
        ledger.arrival(&body, Some(b"evt_2"), None);
        assert_eq!(ledger.audit(true).unexpected, 1);
    }

    #[test]
    fn an_arrival_whose_answer_was_lost_is_counted_apart() {
        let ledger = Ledger::new(7);
        let (_, body) = sent(&ledger);
        ledger.refused();
        ledger.arrival(&body, Some(b"evt_1"), None);
        let audit = ledger.audit(true);
        assert_eq!((audit.unacknowledged, audit.unexpected, audit.lost), (1, 0, 0));
    }

    #[test]
    fn an_arrival_opens_the_window_once() {
        let ledger = Ledger::new(7);
        let window = Arc::new(Semaphore::new(0));
        ledger.set_window(Some(window.clone()));
        let (_, body) = sent(&ledger);
        ledger.arrival(&body, None, None);
        ledger.arrival(&body, None, None);
        assert_eq!(window.available_permits(), 1);
    }
}
