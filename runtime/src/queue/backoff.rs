//! When is a failed delivery tried again?
//!
//! Pure: the random share is an argument. All results are milliseconds from now.

use crate::config::Retry;

/// Longest wait that a target can impose with Retry-After: 24 hours.
pub(crate) const MAX_RETRY_AFTER_MS: u64 = 24 * 60 * 60 * 1000;

/// Shortest wait after "too many requests": the header's unit. A target that says `Retry-After: 0` for ever would
/// otherwise be called in a tight loop, since no attempt is charged.
const MIN_RETRY_AFTER_MS: u64 = 1000;

/// The wait after a transient failure. `attempt` counts the charged attempts: 1 after the first failure. `random` is in [0, 1).
///
/// The policy's wait is the longest one; jitter only shortens it, by up to its share. So deliveries that failed together
/// come back spread out, nothing waits longer than the policy says, and `jitter = 1` is the "full jitter" of
/// <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.
pub(crate) fn delay_ms(retry: &Retry, attempt: u32, random: f64) -> u64 {
    let failures_before = attempt.saturating_sub(1);
    let wait_s = match retry.delays_s.as_slice() {
        [] if retry.base_s > 0.0 => retry.base_s * retry.factor.powf(failures_before.into()),
        [] => 0.0,
        delays => delays[(failures_before as usize).min(delays.len() - 1)],
    };
    let wait_s = wait_s.min(retry.max_s) * (1.0 - share(retry.jitter) * share(random));
    // A float outside the range of the integer, or no number at all, becomes the nearest end of the range.
    (wait_s * 1000.0).round() as u64
}

/// The wait after the target said "too many requests". `retry_after_ms` is what it asked for, if it did.
///
/// What it asked for is the shortest wait, so here jitter only adds: the deliveries that it held back do not all return
/// in the same millisecond. Between 1 second and 24 hours. Without a time the policy's own wait is taken.
pub(crate) fn after(retry_after_ms: Option<u64>, retry: &Retry, attempt: u32, random: f64) -> u64 {
    let Some(asked_ms) = retry_after_ms else {
        return delay_ms(retry, attempt, random).max(MIN_RETRY_AFTER_MS);
    };
    let asked_ms = asked_ms.clamp(MIN_RETRY_AFTER_MS, MAX_RETRY_AFTER_MS);
    let added_ms = asked_ms as f64 * share(retry.jitter) * share(random);
    (asked_ms + added_ms as u64).min(MAX_RETRY_AFTER_MS)
}

fn share(value: f64) -> f64 {
    value.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cases;
    use serde::Deserialize;

    /// One file of `tests/cases/backoff`: a policy, and the waits it leads to.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        #[serde(default)]
        retry: Retry,
        wait: Vec<Wait>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wait {
        #[serde(default)]
        attempt: u32,
        #[serde(default)]
        random: f64,
        /// The failure was "too many requests"; with a time when the target gave one.
        #[serde(default)]
        rate_limited: bool,
        retry_after_ms: Option<u64>,
        ms: u64,
    }

    #[test]
    fn every_case_waits_as_it_says() {
        cases::each("backoff", |file, text| {
            let case: Case = toml::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            for wait in case.wait {
                let ms = if wait.rate_limited {
                    after(wait.retry_after_ms, &case.retry, wait.attempt, wait.random)
                } else {
                    delay_ms(&case.retry, wait.attempt, wait.random)
                };
                assert_eq!(ms, wait.ms, "{file}: {wait:?}");
            }
        });
    }

    #[test]
    fn jitter_stays_between_its_ends() {
        let retry = Retry { jitter: 0.5, ..Retry::default() };
        for attempt in 0..200 {
            let longest = delay_ms(&retry, attempt, 0.0);
            assert!(longest <= 3_600_000, "attempt {attempt} waits {longest} ms");
            for step in 0..=100 {
                let random = f64::from(step) / 100.0;
                let ms = delay_ms(&retry, attempt, random);
                assert!((longest / 2..=longest).contains(&ms), "attempt {attempt}, random {random}: {ms} ms");
                let asked = after(Some(60_000), &retry, attempt, random);
                assert!((60_000..=90_000).contains(&asked), "random {random}: {asked} ms");
            }
        }
    }
}
