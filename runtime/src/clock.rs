//! The one place that reads the time and draws random numbers. Tests hand out a clock that they move themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

/// Milliseconds since 1970-01-01 UTC, from the system or from a hand that moves it.
#[derive(Clone, Default)]
pub enum Clock {
    #[default]
    System,
    Manual(Arc<Manual>),
}

/// A clock that stands still until it is moved.
pub struct Manual {
    now_ms: AtomicU64,
    moved: Notify,
}

impl Clock {
    /// A clock that stands at `now_ms`.
    pub fn manual(now_ms: u64) -> Clock {
        Clock::Manual(Arc::new(Manual { now_ms: AtomicU64::new(now_ms), moved: Notify::new() }))
    }

    #[allow(clippy::disallowed_methods, reason = "this is the clock that everybody else has to ask")]
    pub fn now_ms(&self) -> u64 {
        match self {
            Clock::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64),
            Clock::Manual(manual) => manual.now_ms.load(Ordering::SeqCst),
        }
    }

    /// Moves a manual clock forward and wakes whoever waits for it. A system clock stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(manual) = self {
            manual.now_ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
            manual.moved.notify_waiters();
        }
    }

    /// Returns when the clock shows `at_ms` or later.
    pub(crate) async fn wait_until(&self, at_ms: u64) {
        match self {
            Clock::System => tokio::time::sleep(Duration::from_millis(at_ms.saturating_sub(self.now_ms()))).await,
            Clock::Manual(manual) => loop {
                let moved = manual.moved.notified();
                if self.now_ms() >= at_ms {
                    return;
                }
                moved.await;
            },
        }
    }
}

/// Makes the ids of events: 63 bits, ordered by time (42 bits of milliseconds, 15 of sequence), the last [`ID_STRIDE`]
/// left to the event's deliveries. Unique within a process and, by where the sequence starts, between processes that share a
/// database; the primary key would catch what is not.
pub(crate) struct Ids {
    last: AtomicI64,
    /// Where the sequence starts in each millisecond.
    start: i64,
}

/// Ids from one event to the next. A delivery's id follows its event's, so that an event's deliveries are found without
/// an index of their own.
pub(crate) const ID_STRIDE: i64 = 64;

/// Bits of an id below its milliseconds.
const BELOW_MS: u32 = 21;
/// Bits of where a sequence starts: half of the ids of a millisecond are left above the last start.
const START: u32 = 14;
/// Starts of all there are between one node's and the next's: by the golden ratio, which spreads any number of nodes.
const APART: u64 = 10_125;

/// When an id was made, or a little before: ids that are asked for faster than the sequence allows run ahead.
pub(crate) fn made_ms(id: i64) -> u64 {
    (id >> BELOW_MS) as u64
}

impl Ids {
    /// Of a process that has this number among those that share a database, and never had another one's. Numbers follow each
    /// other, and [`APART`] from one start to the next leaves all of them far apart: by 500 ids where sixteen nodes have
    /// joined one after the other. One that joins after a crash, when its clock was set back, does not repeat ids either.
    pub(crate) fn of_node(node: i64) -> Ids {
        let start = (node as u64).wrapping_mul(APART) % (1 << START);
        Ids { last: AtomicI64::new(0), start: start as i64 * ID_STRIDE }
    }

    pub(crate) fn next(&self, now_ms: u64) -> i64 {
        let fresh = ((now_ms as i64) << BELOW_MS) | self.start;
        let last =
            self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(fresh.max(last + ID_STRIDE)));
        fresh.max(last.unwrap_or(0) + ID_STRIDE)
    }
}

pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The system's generator fails only where there is none at all; nothing secure could go on without it.
    getrandom::fill(&mut bytes).expect("the system has a random generator");
    bytes
}

fn random_u32() -> u32 {
    u32::from_ne_bytes(random_bytes())
}

/// Evenly drawn from [0, 1).
pub(crate) fn random_unit() -> f64 {
    f64::from(random_u32()) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nodes_make_different_ids_in_the_same_millisecond() {
        for first in [1, 100, 16_380, 1 << 40] {
            let mut made = HashSet::new();
            for node in first..first + 16 {
                let ids = Ids::of_node(node);
                for _ in 0..500 {
                    let id = ids.next(1_767_225_600_000);
                    assert_eq!((id % ID_STRIDE, made_ms(id)), (0, 1_767_225_600_000));
                    assert!(made.insert(id), "node {node} of {first}…");
                }
            }
        }
    }

    #[test]
    fn ids_follow_each_other_also_where_the_clock_goes_back() {
        let ids = Ids::of_node(3);
        let made = [5, 5, 4, 9, 9].map(|now_ms| ids.next(now_ms));
        assert!(made.is_sorted_by(|before, after| before < after), "{made:?}");
    }
}
