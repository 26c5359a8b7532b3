//! `tomada bench simulate`: a model of group commit against a database server, for what no machine here can measure.
//!
//! Webhooks come at random (Poisson) and go to any of the nodes. A node commits one batch at a time, as `committer.rs`
//! does: whatever waits by then, at most 512. A commit is ways there and back, in which only this node waits; work for
//! each row, on one of the server's cores; and a flush of its log. One flush runs at a time, and whoever waits for the
//! next one shares it. What the model leaves out: vacuum, checkpoints, locks that wait for each other, payloads of
//! different sizes, a balancer that is not fair. So it says what cannot be exceeded, and how latency grows on the way
//! there.
//!
//! The same arguments give the same answer.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::positive;
use super::report::grouped;

/// As in `committer.rs`: what waits for a node's next commit at most, beyond which a webhook is answered with 503.
const CHANNEL: usize = 8192;
const NS: f64 = 1e9;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct SimulateOptions {
    /// Webhooks per second over all nodes, several with commas [default: from a tenth of what is possible to more]
    #[arg(long, value_delimiter = ',', value_parser = positive)]
    rate: Vec<f64>,
    /// Nodes on each database
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    nodes: u32,
    /// Databases, each with nodes of its own; sources are spread over them evenly
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    shards: u32,
    /// Milliseconds from a node to the database and back
    #[arg(long, value_name = "MS", default_value_t = 0.5, value_parser = not_negative)]
    rtt: f64,
    /// Ways there and back of a commit
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=100))]
    trips: u32,
    /// Milliseconds until the database's log is durable: a disk's flush, or the way to other zones
    #[arg(long, value_name = "MS", default_value_t = 1.0, value_parser = not_negative)]
    flush: f64,
    /// Microseconds of the server's work for an event with what is owed, or for a settlement
    #[arg(long, value_name = "US", default_value_t = 30.0, value_parser = not_negative)]
    row: f64,
    /// Cores of each database server
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    cores: u32,
    /// Rows of a commit at most
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Settlements that follow on each event
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=63))]
    settles: u32,
    /// Simulated seconds, after a tenth of them that does not count
    #[arg(long, default_value_t = 20.0, value_parser = positive)]
    seconds: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What came of one rate.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    rate: f64,
    acks_per_second: f64,
    /// Of what was sent, the share that was answered with 503.
    refused: f64,
    mean_batch: f64,
    p50_ms: f64,
    p99_ms: f64,
}

pub(super) fn run(options: &SimulateOptions) -> Result<()> {
    let most = options.capacity();
    let rates = if options.rate.is_empty() {
        [0.1, 0.25, 0.5, 0.75, 0.9, 1.2].map(|share| share * most).to_vec()
    } else {
        options.rate.clone()
    };
    let rows = rates.into_iter().map(|rate| Simulation::new(options, rate)?.run()).collect::<Result<Vec<Row>>>()?;
    if options.json {
        let report = serde_json::json!({ "acks_per_second_at_most": most, "rates": rows });
        anstream::println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    anstream::println!("at most {} acks/s\n", grouped(most as u64));
    anstream::println!("      sent/s      acks/s   refused   batch    p50 ms    p99 ms");
    for row in rows {
        anstream::println!(
            "{:>12}{:>12}{:>9.1}%{:>8.1}{:>10.2}{:>10.2}",
            grouped(row.rate as u64),
            grouped(row.acks_per_second as u64),
            row.refused * 100.0,
            row.mean_batch,
            row.p50_ms,
            row.p99_ms
        );
    }
    Ok(())
}

impl SimulateOptions {
    /// Acknowledgements per second that cannot be exceeded: by full batches, one after the other on each node, and by
    /// the servers' cores.
    fn capacity(&self) -> f64 {
        let rows = f64::from(self.batch);
        let commit_s = f64::from(self.trips) * self.rtt / 1e3 + self.flush / 1e3 + rows * self.row / 1e6;
        let by_nodes = f64::from(self.nodes) * rows / commit_s;
        let by_cores = f64::from(self.cores) / (self.row / 1e6);
        by_nodes.min(by_cores) * f64::from(self.shards) / f64::from(1 + self.settles)
    }
}

/// What happens, in the order of its time; of what happens at the same time, in the order in which it was planned.
type Planned = Reverse<(u64, u64, Happening)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrival,
    /// A node's statements have come to the server.
    Sent(usize),
    /// The server has done a node's rows.
    Worked(usize),
    /// A flush has ended, on this shard.
    Flushed(usize),
}

struct Node {
    shard: usize,
    /// When each came that waits; none for a settlement.
    waiting: VecDeque<Option<u64>>,
    /// Those of them that wait to be accepted.
    accepts: usize,
    /// What is being committed.
    batch: Vec<Option<u64>>,
}

/// A database server.
#[derive(Default)]
struct Shard {
    busy_cores: u32,
    /// Nodes whose rows wait for a core.
    for_core: VecDeque<usize>,
    /// Nodes that the flush under way is for; empty when none is.
    flushing: Vec<usize>,
    for_flush: Vec<usize>,
}

struct Simulation<'o> {
    options: &'o SimulateOptions,
    rate: f64,
    random: Random,
    now: u64,
    planned: BinaryHeap<Planned>,
    plans: u64,
    nodes: Vec<Node>,
    shards: Vec<Shard>,
    /// From when on it counts.
    from: u64,
    until: u64,
    latencies: Histogram<u64>,
    sent: u64,
    refused: u64,
    commits: u64,
    rows: u64,
}

impl<'o> Simulation<'o> {
    fn new(options: &'o SimulateOptions, rate: f64) -> Result<Simulation<'o>> {
        let shards = options.shards as usize;
        let node =
            |number: usize| Node { shard: number % shards, waiting: VecDeque::new(), accepts: 0, batch: Vec::new() };
        let from = (options.seconds * 0.1 * NS) as u64;
        Ok(Simulation {
            options,
            rate,
            random: Random(options.seed),
            now: 0,
            planned: BinaryHeap::new(),
            plans: 0,
            nodes: (0..shards * options.nodes as usize).map(node).collect(),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            from,
            until: from + (options.seconds * NS) as u64,
            latencies: Histogram::new(3)?,
            sent: 0,
            refused: 0,
            commits: 0,
            rows: 0,
        })
    }

    fn run(mut self) -> Result<Row> {
        self.next_arrival();
        while let Some(Reverse((at, _, happening))) = self.planned.pop() {
            if at >= self.until {
                break;
            }
            self.now = at;
            match happening {
                Happening::Arrival => {
                    self.arrive();
                    self.next_arrival();
                }
                Happening::Sent(node) => self.work(node),
                Happening::Worked(node) => self.worked(node),
                Happening::Flushed(shard) => self.flushed(shard)?,
            }
        }
        let ms = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Row {
            rate: self.rate,
            acks_per_second: self.latencies.len() as f64 / self.options.seconds,
            refused: self.refused as f64 / self.sent.max(1) as f64,
            mean_batch: self.rows as f64 / self.commits.max(1) as f64,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
        })
    }

    fn counts(&self) -> bool {
        self.now >= self.from
    }

    fn plan(&mut self, after_ns: f64, happening: Happening) {
        self.plans += 1;
        self.planned.push(Reverse((self.now + after_ns as u64, self.plans, happening)));
    }

    fn next_arrival(&mut self) {
        let after = -(1.0 - self.random.unit()).ln() / self.rate * NS;
        self.plan(after, Happening::Arrival);
    }

    fn arrive(&mut self) {
        let at = (self.random.unit() * self.nodes.len() as f64) as usize;
        let (now, counts) = (self.now, self.counts());
        let node = &mut self.nodes[at];
        let is_full = node.accepts >= CHANNEL;
        if !is_full {
            node.waiting.push_back(Some(now));
            node.accepts += 1;
        }
        if counts {
            self.sent += 1;
            self.refused += u64::from(is_full);
        }
        self.commit(at);
    }

    /// Begins a commit where none is under way and something waits.
    fn commit(&mut self, at: usize) {
        let most = self.options.batch as usize;
        let node = &mut self.nodes[at];
        if !node.batch.is_empty() || node.waiting.is_empty() {
            return;
        }
        let rows = node.waiting.len().min(most);
        node.batch.extend(node.waiting.drain(..rows));
        node.accepts -= node.batch.iter().flatten().count();
        self.plan(f64::from(self.options.trips) * self.options.rtt * 1e6, Happening::Sent(at));
    }

    /// Gives a node's rows a core, or a place before the cores.
    fn work(&mut self, at: usize) {
        let shard = &mut self.shards[self.nodes[at].shard];
        if shard.busy_cores == self.options.cores {
            shard.for_core.push_back(at);
            return;
        }
        shard.busy_cores += 1;
        let rows = self.nodes[at].batch.len() as f64;
        self.plan(rows * self.options.row * 1e3, Happening::Worked(at));
    }

    fn worked(&mut self, at: usize) {
        let number = self.nodes[at].shard;
        let shard = &mut self.shards[number];
        shard.busy_cores -= 1;
        shard.for_flush.push(at);
        if let Some(next) = shard.for_core.pop_front() {
            self.work(next);
        }
        self.flush(number);
    }

    /// Begins a flush for all who wait for one, where none is under way.
    fn flush(&mut self, number: usize) {
        let shard = &mut self.shards[number];
        if shard.flushing.is_empty() && !shard.for_flush.is_empty() {
            std::mem::swap(&mut shard.flushing, &mut shard.for_flush);
            self.plan(self.options.flush * 1e6, Happening::Flushed(number));
        }
    }

    fn flushed(&mut self, number: usize) -> Result<()> {
        for at in std::mem::take(&mut self.shards[number].flushing) {
            let counts = self.counts();
            let node = &mut self.nodes[at];
            self.commits += u64::from(counts);
            self.rows += if counts { node.batch.len() as u64 } else { 0 };
            let mut settles = 0;
            for came in std::mem::take(&mut node.batch).into_iter().flatten() {
                settles += self.options.settles as usize;
                if counts {
                    self.latencies.record((self.now - came) / 1000)?;
                }
            }
            // Whoever delivers waits for room and is never refused.
            node.waiting.extend(std::iter::repeat_n(None, settles));
            self.commit(at);
        }
        self.flush(number);
        Ok(())
    }
}

/// SplitMix64: a few lines, and the same numbers on every machine.
struct Random(u64);

impl Random {
    /// From 0 to below 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err("must be a number, 0 or more".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: SimulateOptions,
    }

    fn options(args: &str) -> SimulateOptions {
        Cli::try_parse_from(std::iter::once("simulate").chain(args.split_whitespace())).unwrap().options
    }

    fn simulated(args: &str, rate: f64) -> Row {
        Simulation::new(&options(args), rate).unwrap().run().unwrap()
    }

    fn near(is: f64, should_be: f64, share: f64) {
        assert!((is - should_be).abs() <= should_be * share, "{is} is not {should_be}, give or take {share}");
    }

    #[test]
    fn a_node_that_is_full_commits_full_batches_one_after_the_other() {
        let args = "--rtt 0.5 --trips 6 --flush 1 --row 30 --seconds 5";
        // 512 rows in 3 ms of ways, 1 ms of flush and 15.36 ms of work.
        let most = 512.0 / (0.003 + 0.001 + 512.0 * 30e-6);
        near(options(args).capacity(), most, 1e-9);
        let row = simulated(args, 1.5 * most);
        near(row.acks_per_second, most, 0.01);
        near(row.mean_batch, 512.0, 0.001);
        near(row.refused, 1.0 / 3.0, 0.05);
        // Whoever is let in waits for all of the 8,192 before.
        near(row.p50_ms, 8192.0 / most * 1e3, 0.1);
    }

    #[test]
    fn a_node_that_idles_commits_each_alone() {
        // 3 ms of ways, 1 ms of flush, 30 µs of work; one in four seconds meets another.
        let row = simulated("--rtt 0.5 --trips 6 --flush 1 --row 30 --seconds 2000", 0.25);
        near(row.p50_ms, 4.03, 0.002);
        near(row.mean_batch, 1.0, 0.01);
        assert_eq!(row.refused, 0.0);
    }

    #[test]
    fn below_its_limit_a_batch_is_what_came_during_the_one_before() {
        // A cycle of c seconds takes in rate × c rows and lasts fixed + rows × row:
        // rows = rate × fixed / (1 − rate × row).
        let rate = 10_000.0;
        let rows = rate * 0.004 / (1.0 - rate * 30e-6);
        near(simulated("--rtt 0.5 --trips 6 --flush 1 --row 30 --seconds 10", rate).mean_batch, rows, 0.03);
    }

    #[test]
    fn many_nodes_are_bounded_by_the_servers_cores_and_shards_are_not() {
        let args = "--nodes 16 --cores 2 --rtt 2 --flush 5 --row 50 --seconds 3";
        near(options(args).capacity(), 2.0 / 50e-6, 1e-9);
        near(simulated(args, 60_000.0).acks_per_second, 40_000.0, 0.03);
        let sharded = format!("{args} --shards 2");
        near(options(&sharded).capacity(), 80_000.0, 1e-9);
        near(simulated(&sharded, 120_000.0).acks_per_second, 80_000.0, 0.03);
    }

    #[test]
    fn nodes_share_flushes_and_do_not_wait_for_each_others_ways() {
        let one = simulated("--rtt 2 --flush 5 --row 0 --batch 1 --seconds 20", 1e4).acks_per_second;
        near(one, 1.0 / 0.017, 0.01);
        // Whoever is ready during a flush waits for its end: 12 ms of ways, 5 of flush, and up to 5 more.
        let eight = simulated("--rtt 2 --flush 5 --row 0 --batch 1 --seconds 20 --nodes 8", 1e4).acks_per_second;
        assert!(eight > 8.0 / 0.0221 && eight <= 8.0 / 0.0169, "{eight}");
    }

    #[test]
    fn settlements_take_their_part() {
        let args = "--settles 1 --seconds 20";
        let most = options("").capacity() / 2.0;
        near(options(args).capacity(), most, 1e-9);
        near(simulated(args, 2.0 * most).acks_per_second, most, 0.03);
    }

    #[test]
    fn the_same_seed_gives_the_same_answer() {
        let args = "--nodes 3 --shards 2 --seconds 2";
        assert_eq!(simulated(args, 20_000.0), simulated(args, 20_000.0));
        assert_ne!(simulated(args, 20_000.0), simulated(&format!("{args} --seed 2"), 20_000.0));
    }
}
