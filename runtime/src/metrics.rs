//! What is counted while the hub works, and how it is written for Prometheus (text format 0.0.4). Labels are names of
//! the configuration and words of this program, never anything that came from outside.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use dashmap::DashMap;

use crate::delivery::Outcome;

/// Series of one family that names of the configuration may make; those beyond are counted together.
const MAX_SERIES: usize = 10_000;
/// The name that those are counted under.
const OTHER: &str = "(other)";
/// Seconds; an attempt ends at its deadline, 10 s unless configured.
const ATTEMPT_BUCKETS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 60.0];
/// Seconds.
const COMMIT_BUCKETS: [f64; 8] = [0.0005, 0.001, 0.0025, 0.005, 0.025, 0.1, 0.5, 2.5];
/// Rows; a commit has 512 at most.
const ROW_BUCKETS: [f64; 5] = [1.0, 8.0, 32.0, 128.0, 512.0];

#[derive(Default)]
pub(crate) struct Metrics {
    webhooks: Family,
    unverified: Family,
    published: Family,
    attempts: Family,
    settled: Family,
    durations: DashMap<Arc<str>, Histogram<8>>,
    limited: Words,
    unavailable: Words,
    commit_rows: Histogram<5>,
    commit_seconds: Histogram<8>,
    commit_failures: AtomicU64,
    sealed: AtomicU64,
    rewrapped: AtomicU64,
    connections: AtomicI64,
    refused_connections: Words,
    /// When a refusal by a limit was logged last, seconds since 1970.
    said_s: AtomicU64,
}

impl Metrics {
    /// How a webhook of a source was answered; of no source when its path leads nowhere.
    pub(crate) fn webhook(&self, source: Option<&Arc<str>>, result: &'static str) {
        match source {
            Some(source) => self.webhooks.add(source, result),
            None => self.webhooks.add(&"".into(), result),
        }
    }

    /// Why a webhook did not prove to be its source's.
    pub(crate) fn unverified(&self, source: &Arc<str>, reason: &'static str) {
        self.unverified.add(source, reason);
    }

    /// An event over the API; of no source when that is not configured, for whoever publishes may name any.
    pub(crate) fn published(&self, source: Option<&str>, result: &'static str) {
        self.published.add(&source.unwrap_or(OTHER).into(), result);
    }

    pub(crate) fn attempt(&self, endpoint: &Arc<str>, outcome: Outcome, duration_us: u64) {
        self.attempts.add(endpoint, outcome_word(outcome));
        let seconds = duration_us as f64 / 1e6;
        if let Some(durations) = self.durations.get(endpoint) {
            return durations.observe(&ATTEMPT_BUCKETS, seconds);
        }
        if self.durations.len() < MAX_SERIES {
            self.durations.entry(endpoint.clone()).or_default().observe(&ATTEMPT_BUCKETS, seconds);
        }
    }

    /// A delivery has ended: delivered, skipped, dead.
    pub(crate) fn settled(&self, endpoint: &Arc<str>, status: &'static str) {
        self.settled.add(endpoint, status);
    }

    /// A request was refused by this limit. Answers whether that is worth a line in the log: once a second is, or a flood of
    /// requests would be one of lines.
    pub(crate) fn limited(&self, limit: &'static str, now_ms: u64) -> bool {
        self.limited.add(limit);
        self.said_s.fetch_max(now_ms / 1000, Ordering::Relaxed) < now_ms / 1000
    }

    /// A door answered 503.
    pub(crate) fn unavailable(&self, door: &'static str) {
        self.unavailable.add(door);
    }

    pub(crate) fn committed(&self, rows: usize, seconds: f64) {
        self.commit_rows.observe(&ROW_BUCKETS, rows as f64);
        self.commit_seconds.observe(&COMMIT_BUCKETS, seconds);
    }

    pub(crate) fn commit_failed(&self) {
        self.commit_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sealed(&self, events: u64) {
        self.sealed.fetch_add(events, Ordering::Relaxed);
    }

    pub(crate) fn rewrapped(&self, keys: u64) {
        self.rewrapped.fetch_add(keys, Ordering::Relaxed);
    }

    /// Counted until it is dropped.
    pub(crate) fn connection(self: &Arc<Metrics>) -> Connection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connection(self.clone())
    }

    pub(crate) fn connection_refused(&self, why: &'static str) {
        self.refused_connections.add(why);
    }

    /// Everything that is counted here.
    pub(crate) fn write(&self, text: &mut Text) {
        let families = [
            ("tomada_webhooks_total", "Webhooks by how they were answered.", "source", "result", &self.webhooks),
            (
                "tomada_webhooks_unverified_total",
                "Webhooks that did not prove to be their source's, by reason.",
                "source",
                "reason",
                &self.unverified,
            ),
            ("tomada_published_events_total", "Events published over the API.", "source", "result", &self.published),
            ("tomada_attempts_total", "Attempts by outcome.", "endpoint", "outcome", &self.attempts),
            ("tomada_settled_deliveries_total", "Deliveries that ended.", "endpoint", "status", &self.settled),
        ];
        for (name, help, first, second, family) in families {
            text.family(name, "counter", help);
            for ((key, word), count) in family.sorted() {
                text.sample(name, &[(first, &key), (second, word)], count as f64);
            }
        }
        let name = "tomada_attempt_duration_seconds";
        text.family(name, "histogram", "How long attempts took, mapping and connector together.");
        let mut endpoints: Vec<Arc<str>> = self.durations.iter().map(|entry| entry.key().clone()).collect();
        endpoints.sort();
        for endpoint in endpoints {
            if let Some(durations) = self.durations.get(&endpoint) {
                durations.write(text, name, &ATTEMPT_BUCKETS, &[("endpoint", &endpoint)]);
            }
        }
        for (name, help, label, words) in [
            ("tomada_rate_limited_total", "Requests answered with 429, by limit.", "limit", &self.limited),
            ("tomada_unavailable_total", "Requests answered with 503, by door.", "door", &self.unavailable),
            ("tomada_connections_refused_total", "Connections refused.", "why", &self.refused_connections),
        ] {
            text.family(name, "counter", help);
            for (word, count) in words.sorted() {
                text.sample(name, &[(label, word)], count as f64);
            }
        }
        let name = "tomada_commit_rows";
        text.family(name, "histogram", "Pieces of work that shared one commit.");
        self.commit_rows.write(text, name, &ROW_BUCKETS, &[]);
        let name = "tomada_commit_duration_seconds";
        text.family(name, "histogram", "How long commits took, fsync included.");
        self.commit_seconds.write(text, name, &COMMIT_BUCKETS, &[]);
        for (name, help, count) in [
            ("tomada_commit_failures_total", "Pieces of work that the database did not take.", &self.commit_failures),
            ("tomada_sealed_events_total", "Events that were sealed at rest.", &self.sealed),
            ("tomada_rewrapped_keys_total", "Keys that were wrapped anew after a rotation.", &self.rewrapped),
        ] {
            text.family(name, "counter", help);
            text.sample(name, &[], count.load(Ordering::Relaxed) as f64);
        }
        text.family("tomada_connections", "gauge", "Open connections.");
        text.sample("tomada_connections", &[], self.connections.load(Ordering::Relaxed) as f64);
    }
}

pub(crate) struct Connection(Arc<Metrics>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counters by a name of the configuration and a word of the program.
#[derive(Default)]
struct Family(DashMap<(Arc<str>, &'static str), AtomicU64>);

impl Family {
    fn add(&self, name: &Arc<str>, word: &'static str) {
        let mut key = (name.clone(), word);
        if let Some(count) = self.0.get(&key) {
            count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.0.len() >= MAX_SERIES {
            key.0 = OTHER.into();
        }
        self.0.entry(key).or_default().fetch_add(1, Ordering::Relaxed);
    }

    fn sorted(&self) -> Vec<((Arc<str>, &'static str), u64)> {
        let read = |entry: dashmap::mapref::multiple::RefMulti<'_, (Arc<str>, &'static str), AtomicU64>| {
            (entry.key().clone(), entry.value().load(Ordering::Relaxed))
        };
        let mut all: Vec<_> = self.0.iter().map(read).collect();
        all.sort();
        all
    }
}

/// Counters by a word of the program.
#[derive(Default)]
struct Words(DashMap<&'static str, AtomicU64>);

impl Words {
    fn add(&self, word: &'static str) {
        self.0.entry(word).or_default().fetch_add(1, Ordering::Relaxed);
    }

    fn sorted(&self) -> Vec<(&'static str, u64)> {
        let mut all: Vec<_> =
            self.0.iter().map(|entry| (*entry.key(), entry.value().load(Ordering::Relaxed))).collect();
        all.sort_unstable();
        all
    }
}

/// What was observed, by upper bounds that are handed in; what is above all of them is counted in `count` only.
struct Histogram<const N: usize> {
    buckets: [AtomicU64; N],
    count: AtomicU64,
    /// Millionths.
    sum: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Histogram {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            count: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Histogram<N> {
    fn observe(&self, bounds: &[f64; N], value: f64) {
        if let Some(at) = bounds.iter().position(|bound| value <= *bound) {
            self.buckets[at].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    fn write(&self, text: &mut Text, name: &str, bounds: &[f64; N], labels: &[(&str, &str)]) {
        // Read first: what is observed meanwhile must not make a bucket larger than the whole.
        let buckets: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let sum = self.sum.load(Ordering::Relaxed);
        let count = self.count.load(Ordering::Relaxed);
        let mut below = 0;
        for (bound, bucket) in bounds.iter().zip(buckets) {
            below += bucket;
            let bound = bound.to_string();
            text.sample(&format!("{name}_bucket"), &[labels, &[("le", &bound)]].concat(), below as f64);
        }
        text.sample(&format!("{name}_bucket"), &[labels, &[("le", "+Inf")]].concat(), count as f64);
        text.sample(&format!("{name}_sum"), labels, sum as f64 / 1e6);
        text.sample(&format!("{name}_count"), labels, count as f64);
    }
}

/// A page of Prometheus' text format.
#[derive(Default)]
pub(crate) struct Text(String);

impl Text {
    /// Begins a family: its samples follow, all of them, before the next one begins.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for letter in text.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    letter => self.0.push(letter),
                }
            }
            self.0.push('"');
        }
        self.0.push_str(if labels.is_empty() { " " } else { "} " });
        let _ = writeln!(self.0, "{value}");
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

/// The word that the API has for it.
fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered => "delivered",
        Outcome::Skipped => "skipped",
        Outcome::Transient => "transient",
        Outcome::RateLimited => "rate-limited",
        Outcome::Unauthorized => "unauthorized",
        Outcome::Rejected => "rejected",
        Outcome::Misconfigured => "misconfigured",
        Outcome::MappingFailed => "mapping-failed",
        Outcome::Trapped => "trapped",
        Outcome::TimedOut => "timed-out",
        Outcome::OutOfMemory => "out-of-memory",
        Outcome::TooLarge => "too-large",
        Outcome::Refused => "refused",
        Outcome::Interrupted => "interrupted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_api() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome_word(outcome));
        }
    }

    #[test]
    fn a_page_is_written_as_the_format_has_it() {
        let metrics = Metrics::default();
        let source: Arc<str> = "a\"\\\n".into();
        metrics.webhook(Some(&source), "accepted");
        metrics.webhook(Some(&source), "accepted");
        metrics.attempt(&"crm".into(), Outcome::Delivered, 25_000);
        metrics.attempt(&"crm".into(), Outcome::TimedOut, 100_000_000);
        let mut text = Text::default();
        metrics.write(&mut text);
        let text = text.into_string();
        for line in [
            "# TYPE tomada_webhooks_total counter",
            r#"tomada_webhooks_total{source="a\"\\\n",result="accepted"} 2"#,
            r#"tomada_attempts_total{endpoint="crm",outcome="timed-out"} 1"#,
            r#"tomada_attempt_duration_seconds_bucket{endpoint="crm",le="0.005"} 0"#,
            r#"tomada_attempt_duration_seconds_bucket{endpoint="crm",le="0.025"} 1"#,
            r#"tomada_attempt_duration_seconds_bucket{endpoint="crm",le="60"} 1"#,
            r#"tomada_attempt_duration_seconds_bucket{endpoint="crm",le="+Inf"} 2"#,
            r#"tomada_attempt_duration_seconds_sum{endpoint="crm"} 100.025"#,
            r#"tomada_attempt_duration_seconds_count{endpoint="crm"} 2"#,
            "tomada_commit_failures_total 0",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is missing:\n{text}");
        }
    }

    #[test]
    fn names_without_end_are_one_series() {
        let metrics = Metrics::default();
        for n in 0..MAX_SERIES + 500 {
            metrics.webhook(Some(&n.to_string().into()), "accepted");
        }
        assert_eq!(metrics.webhooks.0.len(), MAX_SERIES + 1);
        assert_eq!(metrics.webhooks.0.get(&(OTHER.into(), "accepted")).unwrap().load(Ordering::Relaxed), 500);
    }

    #[test]
    fn a_flood_of_refusals_is_one_line_a_second() {
        let metrics = Metrics::default();
        let lines = |second: u64| (0..1000).filter(|ms| metrics.limited("address", second * 1000 + ms)).count();
        assert_eq!([lines(1_767_225_600), lines(1_767_225_601)], [1, 1]);
    }
}
