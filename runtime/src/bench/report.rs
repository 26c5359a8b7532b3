//! The figures of a bench, as text for people and as JSON for scripts.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::ledger::Audit;
use super::load::Acks;
use super::slow::Seen;
use crate::child::Usage;
use crate::send::Scheme;

/// All of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    bench: &'static str,
    connections: u32,
    scheme: &'static str,
    rounds: Vec<Round>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    comparisons: Vec<Comparison>,
    /// Median over the rounds of hub / axum, or of sealed / in clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drain: Option<Drain>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    slow: Vec<Slowed>,
    audit: Audit,
}

#[derive(Debug, Serialize)]
pub(crate) struct Round {
    /// Without the wait for what was still under way.
    seconds: f64,
    acks_per_s: f64,
    /// From when each event was due.
    ack_latency: Latency,
    answers: BTreeMap<u16, u64>,
    not_2xx: u64,
    broken_connections: u64,
    /// New events that the hub called known.
    false_duplicates: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliveries: Option<Deliveries>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hub: Option<Cost>,
    /// Median of a 4 KiB fsync just before, microseconds.
    fsync_us: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Deliveries {
    /// Arrivals at the target while load was made.
    per_s: f64,
    /// From when each event was due to its first arrival.
    latency: Latency,
    /// From the end of the load to the last arrival.
    tail_s: f64,
    /// The same until the hub had nothing left to do; none when it had after 15 s still.
    settled_s: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Drain {
    /// Events that waited.
    backlog: u64,
    /// Arrived though the endpoint was paused.
    early: u64,
    seconds: f64,
    per_s: f64,
    settled_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hub: Option<Cost>,
}

/// What the hub's process used.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    cpu_s: f64,
    cpu_us_per_event: f64,
    minor_faults_per_event: f64,
    written_bytes_per_event: f64,
    resident_mib: f64,
    peak_mib: f64,
}

/// The same load on both, one after the other.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub(crate) enum Comparison {
    Axum {
        hub_per_s: f64,
        axum_per_s: f64,
    },
    /// The same hub, with a source whose events are sealed.
    Sealed {
        clear_per_s: f64,
        sealed_per_s: f64,
    },
    /// The same rows in transactions of the same size, without a hub.
    Commits {
        hub_per_s: f64,
        commits_per_s: f64,
        /// Of a transaction.
        rows: usize,
    },
}

/// What slow connections did to the others: the same load without them and beside them.
#[derive(Debug, Serialize)]
pub(crate) struct Slowed {
    connections: u32,
    /// Of them at the end.
    open: u32,
    /// By the hub.
    ended: u64,
    failed: u64,
    p99_us: u64,
    p99_beside_us: u64,
    resident_mib: Option<f64>,
    resident_beside_mib: Option<f64>,
}

/// Microseconds.
#[derive(Debug, Serialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Report {
    pub(crate) fn new(
        bench: &'static str,
        connections: u32,
        scheme: Scheme,
        rounds: Vec<Round>,
        comparisons: Vec<Comparison>,
        drain: Option<Drain>,
        audit: Audit,
    ) -> Report {
        let ratio = median(comparisons.iter().map(Comparison::ratio).collect());
        Report { bench, connections, scheme: scheme.word(), rounds, comparisons, ratio, drain, slow: Vec::new(), audit }
    }

    pub(crate) fn beside(self, slow: Vec<Slowed>) -> Report {
        Report { slow, ..self }
    }

    /// Whether something was acknowledged at all, all of it arrived, and nothing else did.
    pub(crate) fn is_good(&self) -> bool {
        let false_duplicates: u64 = self.rounds.iter().map(|round| round.false_duplicates).sum();
        let early = self.drain.as_ref().map_or(0, |drain| drain.early);
        self.audit.acked > 0 && self.audit.lost + self.audit.unexpected + false_duplicates + early == 0
    }
}

impl Round {
    pub(crate) fn new(acks: &Acks, deliveries: Option<Deliveries>, hub: Option<Cost>, fsync_us: u64) -> Round {
        let not_2xx = acks.by_status.iter().filter(|(status, _)| !(200..300).contains(*status));
        Round {
            seconds: acks.elapsed.as_secs_f64(),
            acks_per_s: acks.in_time as f64 / acks.elapsed.as_secs_f64(),
            ack_latency: Latency::of(&acks.latency),
            answers: acks.by_status.clone(),
            not_2xx: not_2xx.map(|(_, count)| count).sum(),
            broken_connections: acks.broken,
            false_duplicates: acks.false_duplicates,
            deliveries,
            hub,
            fsync_us,
        }
    }

    /// The rate that counts: of deliveries where there are any, else of acks.
    pub(crate) fn per_s(&self) -> f64 {
        self.deliveries.as_ref().map_or(self.acks_per_s, |deliveries| deliveries.per_s)
    }
}

impl Deliveries {
    /// `tail` and `settled` count from the end of the load.
    pub(crate) fn new(acks: &Acks, latency: &Histogram<u64>, tail: Duration, settled: Option<Duration>) -> Deliveries {
        Deliveries {
            per_s: acks.arrived_in_time as f64 / acks.elapsed.as_secs_f64(),
            latency: Latency::of(latency),
            tail_s: tail.as_secs_f64(),
            settled_s: settled.map(|settled| settled.as_secs_f64()),
        }
    }
}

impl Drain {
    pub(crate) fn new(
        backlog: u64,
        early: u64,
        arrived: Duration,
        settled: Option<Duration>,
        hub: Option<Cost>,
    ) -> Drain {
        let seconds = arrived.as_secs_f64();
        let settled_s = settled.map(|settled| settled.as_secs_f64());
        Drain { backlog, early, seconds, per_s: backlog as f64 / seconds, settled_s, hub }
    }
}

impl Cost {
    pub(crate) fn new(before: Option<Usage>, after: Option<Usage>, events: u64) -> Option<Cost> {
        let (before, after, events) = (before?, after?, events.max(1) as f64);
        let cpu_s = after.cpu_s - before.cpu_s;
        Some(Cost {
            cpu_s,
            cpu_us_per_event: cpu_s * 1e6 / events,
            minor_faults_per_event: after.minor_faults.saturating_sub(before.minor_faults) as f64 / events,
            written_bytes_per_event: after.written.saturating_sub(before.written) as f64 / events,
            resident_mib: after.resident_mib,
            peak_mib: after.peak_mib,
        })
    }
}

impl Slowed {
    pub(crate) fn new(connections: u32, seen: Seen, without: &Round, beside: &Round) -> Slowed {
        let resident = |round: &Round| round.hub.as_ref().map(|hub| hub.resident_mib);
        Slowed {
            connections,
            open: seen.open,
            ended: seen.ended,
            failed: seen.failed,
            p99_us: without.ack_latency.p99,
            p99_beside_us: beside.ack_latency.p99,
            resident_mib: resident(without),
            resident_beside_mib: resident(beside),
        }
    }
}

impl fmt::Display for Slowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Slowed { connections, open, ended, failed, .. } = self;
        writeln!(f, "  slow        {connections} connections: {open} open at the end, {ended} ended, {failed} failed")?;
        let ratio = self.p99_beside_us as f64 / self.p99_us.max(1) as f64;
        write!(
            f,
            "              p99 {} without, {} beside, ratio {ratio:.2}",
            span(self.p99_us),
            span(self.p99_beside_us)
        )?;
        if let (Some(without), Some(beside)) = (self.resident_mib, self.resident_beside_mib) {
            write!(f, "; {without:.0} MiB without, {beside:.0} beside")?;
        }
        writeln!(f)
    }
}

impl Comparison {
    fn ratio(&self) -> f64 {
        match self {
            Comparison::Axum { hub_per_s, axum_per_s } => hub_per_s / axum_per_s,
            Comparison::Sealed { clear_per_s, sealed_per_s } => sealed_per_s / clear_per_s,
            Comparison::Commits { hub_per_s, commits_per_s, .. } => hub_per_s / commits_per_s,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |per_s: &f64| grouped(*per_s as u64);
        match self {
            Comparison::Axum { hub_per_s, axum_per_s } => {
                write!(f, "hub {}/s, axum without a database {}/s", rate(hub_per_s), rate(axum_per_s))
            }
            Comparison::Sealed { clear_per_s, sealed_per_s } => {
                write!(f, "in clear {}/s, sealed {}/s", rate(clear_per_s), rate(sealed_per_s))
            }
            Comparison::Commits { hub_per_s, commits_per_s, rows } => {
                let commits = rate(commits_per_s);
                write!(f, "hub {}/s, the same commits of {rows} rows without it {commits}/s", rate(hub_per_s))
            }
        }?;
        write!(f, ", ratio {:.3}", self.ratio())
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "bench {}, {} connections, {}", self.bench, self.connections, self.scheme)?;
        for (n, round) in self.rounds.iter().enumerate() {
            if self.rounds.len() > 1 {
                writeln!(f, "round {}", n + 1)?;
            }
            write!(f, "{round}")?;
        }
        if let Some(drain) = &self.drain {
            write!(f, "{drain}")?;
        }
        for (n, both) in self.comparisons.iter().enumerate() {
            writeln!(f, "  round {:<3}   {both}", n + 1)?;
        }
        for slow in &self.slow {
            write!(f, "{slow}")?;
        }
        if let Some(ratio) = self.ratio {
            writeln!(f, "  ratio       {ratio:.3} (median)")?;
        }
        let audit = &self.audit;
        let count = |n| grouped(n);
        write!(f, "  audit       {} acknowledged", count(audit.acked))?;
        if self.bench == "ingest" {
            writeln!(f)?;
        } else {
            writeln!(
                f,
                ", {} arrived, {} lost, {} duplicates, {} unexpected, {} without an answer",
                count(audit.arrived),
                count(audit.lost),
                count(audit.duplicates),
                count(audit.unexpected),
                count(audit.unacknowledged)
            )?;
        }
        if !audit.lost_examples.is_empty() {
            writeln!(f, "  lost        {} …", audit.lost_examples.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.answers.iter().map(|(status, count)| format!("{status}: {}", grouped(*count)));
        let answers = answers.collect::<Vec<_>>().join(", ");
        let rate = grouped(self.acks_per_s as u64);
        writeln!(f, "  acks        {rate}/s over {:.1} s   {answers}", self.seconds)?;
        writeln!(f, "              {}", self.ack_latency)?;
        if self.broken_connections + self.false_duplicates > 0 {
            let (broken, known) = (grouped(self.broken_connections), grouped(self.false_duplicates));
            writeln!(f, "              {broken} broken connections, {known} new events called known")?;
        }
        if let Some(deliveries) = &self.deliveries {
            let settled = settled(deliveries.settled_s);
            let (rate, tail) = (grouped(deliveries.per_s as u64), deliveries.tail_s);
            writeln!(f, "  delivered   {rate}/s, the last {tail:.2} s after the load, {settled}")?;
            writeln!(f, "              {}", deliveries.latency)?;
        }
        if let Some(hub) = &self.hub {
            writeln!(f, "  hub         {hub}")?;
        }
        writeln!(f, "  disk        {} for an fsync of 4 KiB (median, before)", span(self.fsync_us))
    }
}

impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate, backlog, settled) = (grouped(self.per_s as u64), grouped(self.backlog), settled(self.settled_s));
        writeln!(f, "  drained     {rate}/s: {backlog} in {:.2} s, {settled}", self.seconds)?;
        if self.early > 0 {
            writeln!(f, "              {} arrived while the endpoint was paused", grouped(self.early))?;
        }
        if let Some(hub) = &self.hub {
            writeln!(f, "  hub         {hub}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} s CPU; per event {:.1} µs, {:.2} minor faults, {:.1} KiB written; {:.0} MiB resident, {:.0} at most",
            self.cpu_s,
            self.cpu_us_per_event,
            self.minor_faults_per_event,
            self.written_bytes_per_event / 1024.0,
            self.resident_mib,
            self.peak_mib
        )
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99, p999, max] = [self.p50, self.p90, self.p99, self.p999, self.max].map(span);
        write!(f, "p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}")
    }
}

fn settled(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "not settled".into(), |seconds| format!("settled after {seconds:.2} s"))
}

/// 12,345.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds in the unit that suits them.
fn span(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.2} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) { (values[middle - 1] + upper) / 2.0 } else { upper })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(audit: Audit) -> Report {
        Report::new("e2e", 64, Scheme::HmacHex, Vec::new(), Vec::new(), None, audit)
    }

    #[test]
    fn a_run_is_good_when_all_that_was_acknowledged_came_and_nothing_else() {
        let good = Audit { acked: 5, arrived: 5, duplicates: 1, ..Audit::default() };
        assert!(report(good.clone()).is_good());
        assert!(!report(Audit { lost: 1, ..good.clone() }).is_good());
        assert!(!report(Audit { unexpected: 1, ..good }).is_good());
        assert!(!report(Audit::default()).is_good());
    }

    #[test]
    fn numbers_are_written_for_people() {
        let numbers = [0, 999, 1000, 1_234_567];
        assert_eq!(numbers.map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([999, 1500, 2_000_000].map(span), ["999 µs", "1.50 ms", "2.00 s"]);
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds() {
        assert_eq!(median(Vec::new()), None);
        assert_eq!(median(vec![0.5, 0.1, 0.4]), Some(0.4));
        assert_eq!(median(vec![0.5, 0.125, 0.25, 0.75]), Some(0.375));
    }
}
