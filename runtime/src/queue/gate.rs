//! One endpoint's gate: how many deliveries at once, how many per second, not while it is broken, slowed or paused.
//!
//! Pure: the time is an argument.

use crate::config::Breaker;
use crate::delivery::Outcome;

#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) concurrency: u32,
    /// 0 is no limit.
    pub(crate) rate_per_s: u32,
    pub(crate) breaker: Breaker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Counted as in flight from now on.
    Enter,
    /// Somebody has to leave first.
    Busy,
    /// Not before this time, milliseconds.
    Until(u64),
    Paused,
}

/// What other nodes have to hear of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Opened { for_ms: u64 },
    Closed,
}

pub(crate) struct Gate {
    limits: Limits,
    paused: bool,
    in_flight: u32,
    slow_until_ms: u64,
    /// GCRA (ITU-T I.371): when the next delivery would be due at an even pace, microseconds.
    due_us: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until_ms: u64 },
    HalfOpen { successes: u32 },
}

impl Gate {
    pub(crate) fn new(limits: Limits, paused: bool) -> Gate {
        Gate { limits, paused, in_flight: 0, slow_until_ms: 0, due_us: 0, state: State::Closed { failures: 0 } }
    }

    pub(crate) fn configure(&mut self, limits: Limits, paused: bool) {
        self.limits = limits;
        self.paused = paused;
    }

    pub(crate) fn enter(&mut self, now_ms: u64) -> Entry {
        if self.paused {
            return Entry::Paused;
        }
        if let State::Open { until_ms } = self.state {
            if now_ms < until_ms {
                return Entry::Until(until_ms);
            }
            self.state = State::HalfOpen { successes: 0 };
        }
        // A half-open breaker lets one through at a time.
        let most = if matches!(self.state, State::HalfOpen { .. }) { 1 } else { self.limits.concurrency };
        if self.in_flight >= most {
            return Entry::Busy;
        }
        if now_ms < self.slow_until_ms {
            return Entry::Until(self.slow_until_ms);
        }
        if self.limits.rate_per_s > 0 {
            let interval_us = 1_000_000 / u64::from(self.limits.rate_per_s);
            let now_us = now_ms * 1000;
            // A tenth of a second's worth may go in one burst: less would ask for a finer timer than there is.
            let burst_us = 100_000.max(interval_us);
            if self.due_us > now_us + burst_us - interval_us {
                return Entry::Until((self.due_us - burst_us + interval_us).div_ceil(1000));
            }
            self.due_us = self.due_us.max(now_us) + interval_us;
        }
        self.in_flight += 1;
        Entry::Enter
    }

    /// A delivery that had entered is done.
    pub(crate) fn leave(&mut self, outcome: Option<Outcome>, retry_after_ms: Option<u64>, now_ms: u64) -> Option<Turn> {
        let before = self.state;
        self.in_flight = self.in_flight.saturating_sub(1);
        match outcome {
            Some(Outcome::Transient | Outcome::TimedOut | Outcome::Trapped | Outcome::OutOfMemory) => {
                self.failed(now_ms);
            }
            Some(Outcome::RateLimited) => {
                let pause_ms = retry_after_ms.unwrap_or(1000).min(super::backoff::MAX_RETRY_AFTER_MS);
                self.slow_until_ms = self.slow_until_ms.max(now_ms + pause_ms);
            }
            // The target has answered: it is there, even if it wants nothing of this.
            Some(Outcome::Delivered | Outcome::Rejected) => self.succeeded(),
            _ => {}
        }
        match (before, self.state) {
            (before, State::Open { until_ms }) if before != self.state => {
                Some(Turn::Opened { for_ms: until_ms.saturating_sub(now_ms) })
            }
            (State::HalfOpen { .. }, State::Closed { .. }) => Some(Turn::Closed),
            _ => None,
        }
    }

    /// What another node learnt of the same target. Nobody makes it rest longer than it would by itself.
    pub(crate) fn hear(&mut self, turn: Turn, now_ms: u64) {
        let rest_ms = |for_ms: u64| now_ms + for_ms.min(self.open_ms());
        self.state = match (turn, self.state) {
            (Turn::Opened { for_ms }, State::Open { until_ms }) => {
                State::Open { until_ms: until_ms.max(rest_ms(for_ms)) }
            }
            (Turn::Opened { for_ms }, _) => State::Open { until_ms: rest_ms(for_ms) },
            (Turn::Closed, State::Open { .. } | State::HalfOpen { .. }) => State::Closed { failures: 0 },
            // Failures that this node counts are its own.
            (Turn::Closed, closed) => closed,
        };
    }

    fn open_ms(&self) -> u64 {
        (self.limits.breaker.open_s * 1000.0) as u64
    }

    fn failed(&mut self, now_ms: u64) {
        let open = State::Open { until_ms: now_ms + self.open_ms() };
        self.state = match self.state {
            State::Closed { failures } if failures + 1 < self.limits.breaker.failures => {
                State::Closed { failures: failures + 1 }
            }
            // Those that were in flight when it opened do not prolong it.
            State::Open { until_ms } if until_ms > now_ms => State::Open { until_ms },
            _ => open,
        };
    }

    fn succeeded(&mut self) {
        self.state = match self.state {
            State::HalfOpen { successes } if successes + 1 < self.limits.breaker.successes => {
                State::HalfOpen { successes: successes + 1 }
            }
            State::Open { until_ms } => State::Open { until_ms },
            _ => State::Closed { failures: 0 },
        };
    }

    /// The word for operators.
    pub(crate) fn breaker(&self, now_ms: u64) -> &'static str {
        match self.state {
            State::Closed { .. } => "closed",
            State::Open { until_ms } if now_ms < until_ms => "open",
            State::Open { .. } | State::HalfOpen { .. } => "half-open",
        }
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(concurrency: u32, rate_per_s: u32) -> Gate {
        Gate::new(Limits { concurrency, rate_per_s, breaker: Breaker::default() }, false)
    }

    #[test]
    fn concurrency_is_a_bound() {
        let mut gate = gate(2, 0);
        assert_eq!([gate.enter(0), gate.enter(0), gate.enter(0)], [Entry::Enter, Entry::Enter, Entry::Busy]);
        gate.leave(Some(Outcome::Delivered), None, 0);
        assert_eq!(gate.enter(0), Entry::Enter);
    }

    #[test]
    fn a_rate_is_kept_over_a_second() {
        let mut gate = gate(10_000, 50);
        let mut entered = 0;
        for now_ms in 1000..3000 {
            while gate.enter(now_ms) == Entry::Enter {
                entered += 1;
            }
        }
        assert!((100..=105).contains(&entered), "{entered} in two seconds at 50/s");
    }

    #[test]
    fn the_breaker_opens_half_opens_and_closes() {
        let mut gate = gate(100, 0);
        for _ in 0..5 {
            assert_eq!(gate.enter(0), Entry::Enter);
            gate.leave(Some(Outcome::Transient), None, 0);
        }
        assert_eq!((gate.enter(1), gate.breaker(1)), (Entry::Until(60_000), "open"));
        assert_eq!((gate.enter(60_000), gate.enter(60_000)), (Entry::Enter, Entry::Busy));
        gate.leave(Some(Outcome::Transient), None, 60_000);
        assert_eq!(gate.enter(60_001), Entry::Until(120_000));
        for _ in 0..2 {
            assert_eq!(gate.enter(120_000), Entry::Enter);
            gate.leave(Some(Outcome::Delivered), None, 120_000);
        }
        assert_eq!((gate.enter(120_000), gate.enter(120_000)), (Entry::Enter, Entry::Enter));
        assert_eq!(gate.breaker(120_000), "closed");
    }

    #[test]
    fn nodes_hear_when_a_breaker_opens_and_closes_and_do_as_it_does() {
        let (mut one, mut other) = (gate(100, 0), gate(100, 0));
        let mut turns = Vec::new();
        for _ in 0..6 {
            one.enter(0);
        }
        turns.extend((0..6).filter_map(|_| one.leave(Some(Outcome::Transient), None, 0)));
        assert_eq!(turns, [Turn::Opened { for_ms: 60_000 }], "once, whatever was in flight");
        // The other node's clock shows something else.
        other.hear(turns[0], 5_000);
        assert_eq!((other.enter(64_999), other.enter(65_000)), (Entry::Until(65_000), Entry::Enter));
        one.hear(turns[0], 0);
        assert_eq!(one.enter(1), Entry::Until(60_000), "its own notice comes back");
        assert_eq!(other.leave(Some(Outcome::Delivered), None, 65_000), None);
        assert_eq!(other.enter(65_000), Entry::Enter);
        let closed = other.leave(Some(Outcome::Delivered), None, 65_000).unwrap();
        assert_eq!(closed, Turn::Closed);
        one.hear(closed, 1);
        assert_eq!((one.enter(1), one.breaker(1)), (Entry::Enter, "closed"));
        // Failures that were counted stay.
        let mut third = gate(100, 0);
        for _ in 0..4 {
            third.enter(0);
            assert_eq!(third.leave(Some(Outcome::TimedOut), None, 0), None);
        }
        third.hear(Turn::Closed, 0);
        third.enter(0);
        assert_eq!(third.leave(Some(Outcome::TimedOut), None, 0), Some(Turn::Opened { for_ms: 60_000 }));
        third.hear(Turn::Opened { for_ms: u64::MAX }, 1000);
        assert_eq!(third.enter(1000), Entry::Until(61_000));
    }

    #[test]
    fn a_rate_limited_endpoint_rests_as_told() {
        let mut gate = gate(100, 0);
        assert_eq!(gate.enter(0), Entry::Enter);
        gate.leave(Some(Outcome::RateLimited), Some(7_000), 0);
        assert_eq!((gate.enter(6_999), gate.enter(7_000)), (Entry::Until(7_000), Entry::Enter));
    }
}
