//! `tomada bench`: load, target and ledger in one command, against a hub in a process of its own.
//!
//! Everything shares the machine with the hub, so figures are for comparing: with an earlier commit, or with
//! `--compare axum` in the same minute. The exit code is 1 when something that was acknowledged did not arrive.

#![allow(clippy::disallowed_methods, reason = "it measures and waits from outside; nothing of the hub depends on it")]

mod baseline;
mod commits;
mod ledger;
mod load;
mod report;
mod simulate;
mod sink;
mod slow;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use self::commits::Commits;
use self::ledger::Ledger;
use self::load::{Acks, Pace, Target, Until};
use self::report::{Comparison, Cost, Deliveries, Drain, Report, Round, Slowed};
use self::slow::Slow;
use crate::child::{Hub, Usage};
use crate::client::{Client, Running, admin_key, authority};
use crate::config::{self, SecretRef};
use crate::send::{Scheme, unix_seconds};
use crate::signature::standard_webhooks_key;
use crate::store::scratch::Scratch;

/// Signs everything in a bench; it protects nothing.
const SECRET: &str = "whsec_dG9tYWRhLWJlbmNoLXRvbWFkYS1iZW5jaC0wMDAw";
/// The webhook whose events lie in clear, and the one whose events are sealed.
const PATHS: [&str; 2] = ["/webhooks/bench", "/webhooks/bench-sealed"];
/// How long nothing may arrive before the wait for the rest is given up.
const PATIENCE: Duration = Duration::from_secs(15);

/// Options of `tomada bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchOptions {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// Signed webhooks, acknowledged after they are durable; nothing is delivered
    Ingest(Options),
    /// Webhook, mapping, connector, HTTP request, settled
    E2e(Options),
    /// A backlog is taken in while the endpoint is paused, then let go
    Drain(DrainOptions),
    /// Nothing runs: what a database at a distance lets through, by a model of group commit
    Simulate(simulate::SimulateOptions),
    /// The server that --compare axum starts
    #[command(hide = true)]
    Baseline(BaselineOptions),
}

#[derive(Debug, Clone, clap::Args)]
struct Options {
    /// Keep-alive connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Length of a round
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    seconds: f64,
    /// Events per second on a clock; latency counts from when each was due [default: as fast as it goes]
    #[arg(long, value_parser = positive)]
    rate: Option<f64>,
    /// Events accepted and not arrived, at most, for e2e without --rate [default: 4 per connection]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    outstanding: Option<u32>,
    /// Rounds [default: 1, with --compare 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// After each round the same on something else: axum without a database, a source that is sealed, or the same commits
    /// without a hub
    #[arg(long)]
    compare: Option<Peer>,
    /// Each round twice, the second time beside so many connections that send a byte a second
    #[arg(long, value_name = "N", conflicts_with = "compare", value_parser = clap::value_parser!(u32).range(1..=9_000))]
    slow: Option<u32>,
    #[command(flatten)]
    setting: Setting,
}

#[derive(Debug, Clone, clap::Args)]
struct DrainOptions {
    /// Size of the backlog
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    events: u64,
    /// Keep-alive connections that take it in
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    #[command(flatten)]
    setting: Setting,
}

/// Which hub, which target, how to say it.
#[derive(Debug, Clone, clap::Args)]
struct Setting {
    /// How webhooks are signed: standard-webhooks or hmac-hex
    #[arg(long, default_value = "standard-webhooks", value_parser = signed_headers)]
    scheme: Scheme,
    /// Where webhook.wasm and json-map.wasm are
    #[arg(long, value_name = "DIR", default_value = "target/components")]
    components: PathBuf,
    /// Threads that make load; the target runs on the first
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Milliseconds that the target takes for an answer
    #[arg(long, value_name = "MS", default_value_t = 0)]
    sink_delay: u64,
    /// Where the target listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    sink: SocketAddr,
    /// Data directory of the hub [default: a new one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Server for the hub's database, postgres://… or mysql://…: one of its own is made there, and dropped at the end
    #[arg(long, value_name = "URL", conflicts_with_all = ["url", "write_config"])]
    database: Option<String>,
    /// Use the hub that runs here, on --data, started as --write-config says
    #[arg(long, requires = "data")]
    url: Option<String>,
    /// Only write the hub's configuration into --data and say how to start it
    #[arg(long, requires = "data")]
    write_config: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, clap::Args)]
struct BaselineOptions {
    #[arg(long)]
    data: PathBuf,
    #[arg(long, value_parser = signed_headers)]
    scheme: Scheme,
    #[arg(long)]
    secret: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    /// axum that reads the body and verifies the signature, without a database
    Axum,
    /// The same hub, with a source whose events are sealed at rest
    Sealed,
    /// The same rows, in transactions of the size that the hub's had, on a database of their own
    Commits,
}

/// Runs one bench and prints its report. The exit code is 1 when an acknowledged event did not arrive, or one
/// arrived that nobody sent.
///
/// # Errors
/// The hub does not start, a component is missing, nothing gets through at all, or Ctrl-C.
pub async fn run(options: BenchOptions) -> Result<ExitCode> {
    let mut scratch = Vec::new();
    let outcome = tokio::select! {
        outcome = measure(options.what, &mut scratch) => outcome,
        // The hub and its directory go when the other branch is dropped.
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    for database in scratch {
        database.remove().await.context("a database of the bench is left on the server")?;
    }
    outcome
}

/// `scratch` gets the databases that were made, and have to go.
async fn measure(what: What, scratch: &mut Vec<Scratch>) -> Result<ExitCode> {
    let setting = match &what {
        What::Baseline(options) => {
            let secret = config::resolve(&SecretRef(options.secret.clone()), Path::new("")).map_err(|e| anyhow!(e))?;
            baseline::run(&options.data, options.scheme, key(options.scheme, &secret)?).await?;
            return Ok(ExitCode::SUCCESS);
        }
        What::Simulate(options) => {
            simulate::run(options)?;
            return Ok(ExitCode::SUCCESS);
        }
        What::Ingest(options) | What::E2e(options) => &options.setting,
        What::Drain(options) => &options.setting,
    };
    let delivers = !matches!(what, What::Ingest(_));
    let place = Place::new(setting.data.as_deref())?;
    if setting.write_config {
        if setting.sink.port() == 0 {
            bail!("--write-config needs the port of the target: add --sink 127.0.0.1:PORT");
        }
        let config = write_config(&place.path, setting, setting.sink, delivers)?;
        let (data, config) = (place.path.display(), config.display());
        anstream::println!("tomada serve --data {data} --listen 127.0.0.1:0 --config {config}");
        return Ok(ExitCode::SUCCESS);
    }
    if let What::Ingest(Options { slow: Some(slow), .. }) | What::E2e(Options { slow: Some(slow), .. }) = &what {
        // Of each of them the hub has an end, and we have one; the hub inherits the limit.
        rlimit::increase_nofile_limit(u64::from(*slow) + 20_000).context("more files cannot be opened")?;
    }
    if let Some(server) = &setting.database {
        for part in ["hub", "commits"] {
            let name = format!("tomada_bench_{}_{part}", std::process::id());
            scratch.push(Scratch::make(server, name).await.context("--database")?);
        }
    }
    let database = |part: usize| scratch.get(part).map(Scratch::url);
    let mut bench = Bench::start(setting, place, database(0), delivers).await?;
    if let What::Ingest(Options { compare: Some(Peer::Commits), .. })
    | What::E2e(Options { compare: Some(Peer::Commits), .. }) = &what
    {
        let directory = bench.place.path.join("commits");
        bench.commits = Some(Commits::open(database(1), &directory, delivers).await?);
    }
    let report = match &what {
        What::Drain(options) => bench.drain(options).await?,
        What::Ingest(options) | What::E2e(options) => bench.rounds(options).await?,
        What::Baseline(_) | What::Simulate(_) => unreachable!("they have returned"),
    };
    if let Some(hub) = bench.hub.take() {
        hub.stop().await?;
    }
    if setting.json {
        anstream::println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        anstream::print!("{report}");
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A hub, a target and the means to load the one and to watch both.
struct Bench {
    /// Dropped before the directory it works in.
    hub: Option<Hub>,
    place: Place,
    pid: u32,
    client: Client,
    target: Target,
    ledger: Arc<Ledger>,
    generators: Vec<Generator>,
    /// To compare with.
    commits: Option<Commits>,
    delivers: bool,
    quiet: bool,
}

impl Bench {
    async fn start(setting: &Setting, place: Place, database: Option<&str>, delivers: bool) -> Result<Bench> {
        let generators = (0..setting.threads).map(|_| Generator::start()).collect::<Result<Vec<_>>>()?;
        let ledger = Arc::new(Ledger::new(run_number()?));
        let delay = Duration::from_millis(setting.sink_delay);
        let sink = sink::start(&generators[0].runtime, setting.sink, delay, ledger.clone()).await?;
        let (hub, url) = match &setting.url {
            Some(url) => (None, url.clone()),
            None => {
                let config = write_config(&place.path, setting, sink, delivers)?;
                let hub = Hub::serve(&std::env::current_exe()?, &place.path, database, "127.0.0.1:0", &config).await?;
                let url = hub.url.clone();
                (Some(hub), url)
            }
        };
        let client = Client::connect(&url, Some(&admin_key(&place.path)?)).await?;
        let pid = Running::read(&place.path)?.pid;
        anstream::eprintln!("hub: {url}, pid {pid}, data {}", place.path.display());
        let target = target(&url, setting.scheme).await?;
        let quiet = setting.json || !std::io::IsTerminal::is_terminal(&std::io::stderr());
        let commits = None;
        let mut bench = Bench { hub, place, pid, client, target, ledger, generators, commits, delivers, quiet };
        if delivers {
            bench.prime().await?;
        }
        Ok(bench)
    }

    /// Sends one event all the way, so that what is wrong is said at once and the first figures are not the start's.
    async fn prime(&mut self) -> Result<()> {
        self.load(1, Pace::Free, Until::Sent(1)).await?;
        if self.arrivals().await == self.ledger.acked() && self.ledger.acked() > 0 {
            self.ledger.take_latencies();
            return Ok(());
        }
        bail!("the first event did not arrive\n{}", self.explanation().await)
    }

    async fn rounds(&mut self, options: &Options) -> Result<Report> {
        let pace = match options.rate {
            Some(rate) => Pace::Rate(rate),
            None if self.delivers => Pace::Window(options.outstanding.unwrap_or(4 * options.connections)),
            None => Pace::Free,
        };
        let until = Until::After(Duration::from_secs_f64(options.seconds));
        let peer = match options.compare {
            Some(Peer::Axum) => Some(Baseline::start(&self.place.path, options.setting.scheme).await?),
            Some(Peer::Sealed | Peer::Commits) | None => None,
        };
        let mut rounds = Vec::new();
        let mut comparisons = Vec::new();
        let mut slowed = Vec::new();
        for round in 0..options.rounds.unwrap_or(if options.compare.is_some() { 3 } else { 1 }) {
            // Whoever comes second finds warmer caches: they take turns.
            let mut other = None;
            if let (Some(peer), 1) = (&peer, round % 2) {
                other = Some(peer.load(&self.generators, options.connections, until).await?);
            }
            if options.compare == Some(Peer::Sealed) {
                let mut both = [0.0; 2];
                for at in [round % 2, 1 - round % 2] {
                    self.target.path = PATHS[at as usize].into();
                    let figures = self.round(options.connections, pace, until).await?;
                    both[at as usize] = figures.per_s();
                    rounds.push(figures);
                }
                let [clear_per_s, sealed_per_s] = both;
                comparisons.push(Comparison::Sealed { clear_per_s, sealed_per_s });
                continue;
            }
            if options.compare == Some(Peer::Commits) {
                let before = self.committed().await?;
                let figures = self.round(options.connections, pace, until).await?;
                let after = self.committed().await?;
                let rows = ((after.0 - before.0) / (after.1 - before.1).max(1.0)).round().max(1.0) as usize;
                let commits = self.commits.as_mut().context("there is nothing to compare with")?;
                let commits_per_s = commits.per_s(rows, Duration::from_secs_f64(options.seconds)).await?;
                comparisons.push(Comparison::Commits { hub_per_s: figures.per_s(), commits_per_s, rows });
                rounds.push(figures);
                continue;
            }
            let figures = self.round(options.connections, pace, until).await?;
            if let (Some(peer), None) = (&peer, other) {
                other = Some(peer.load(&self.generators, options.connections, until).await?);
            }
            if let Some(other) = other {
                comparisons.push(Comparison::Axum { hub_per_s: figures.per_s(), axum_per_s: other });
            }
            if let Some(count) = options.slow {
                // On a thread of their own, so that the load does not wait for them.
                let own = Generator::start()?;
                let slow = Slow::start(&own.runtime, self.target.address, &self.target.path, count).await?;
                let beside = self.round(options.connections, pace, until).await?;
                slowed.push(Slowed::new(count, slow.seen(), &figures, &beside));
                rounds.extend([figures, beside]);
                continue;
            }
            rounds.push(figures);
        }
        if let Some(peer) = peer {
            // It has nothing to lose.
            drop(peer.hub);
        }
        Ok(self.report(options.connections, &options.setting, rounds, comparisons, None).beside(slowed))
    }

    async fn round(&mut self, connections: u32, pace: Pace, until: Until) -> Result<Round> {
        let fsync_us = fsync(&self.place.path)?;
        let (before, taken) = (Usage::of(self.pid), self.ledger.taken());
        let acks = self.load(connections, pace, until).await?;
        let mut deliveries = None;
        if self.delivers {
            let ended = Instant::now();
            self.arrivals().await;
            let arrived = ended.elapsed();
            let settled = self.settled().await?;
            let latency = self.ledger.take_latencies();
            deliveries = Some(Deliveries::new(&acks, &latency, arrived, settled.then(|| ended.elapsed())));
        }
        let cost = Cost::new(before, Usage::of(self.pid), self.ledger.taken() - taken);
        Ok(Round::new(&acks, deliveries, cost, fsync_us))
    }

    /// Rows that the hub has committed, and transactions.
    async fn committed(&mut self) -> Result<(f64, f64)> {
        let page = self.client.get("/api/metrics").await?.ok()?;
        let page = String::from_utf8_lossy(&page);
        let figure = |name: &str| {
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            value.with_context(|| format!("the hub's metrics lack {name}"))
        };
        Ok((figure("tomada_commit_rows_sum")?, figure("tomada_commit_rows_count")?))
    }

    async fn drain(&mut self, options: &DrainOptions) -> Result<Report> {
        let fsync_us = fsync(&self.place.path)?;
        self.client
            .post("/api/endpoints/sink/pause", r#"{"reason":"bench"}"#)
            .await?
            .ok()
            .context("the endpoint cannot be paused")?;
        let already = self.ledger.arrived();
        let before = Usage::of(self.pid);
        let acks = self.load(options.connections, Pace::Free, Until::Sent(options.events)).await?;
        let early = self.ledger.arrived() - already;
        let taken_in = Usage::of(self.pid);
        let start = Instant::now();
        self.client.post("/api/endpoints/sink/resume", "").await?.ok().context("the endpoint cannot be resumed")?;
        self.arrivals().await;
        let arrived = start.elapsed();
        let settled = self.settled().await?.then(|| start.elapsed());
        let backlog = self.ledger.arrived() - already - early;
        let drain = Drain::new(backlog, early, arrived, settled, Cost::new(taken_in, Usage::of(self.pid), backlog));
        let round = Round::new(&acks, None, Cost::new(before, taken_in, options.events), fsync_us);
        Ok(self.report(options.connections, &options.setting, vec![round], Vec::new(), Some(drain)))
    }

    fn report(
        &self,
        connections: u32,
        setting: &Setting,
        rounds: Vec<Round>,
        comparisons: Vec<Comparison>,
        drain: Option<Drain>,
    ) -> Report {
        let bench = match (&drain, self.delivers) {
            (Some(_), _) => "drain",
            (None, true) => "e2e",
            (None, false) => "ingest",
        };
        let audit = self.ledger.audit(self.delivers);
        Report::new(bench, connections, setting.scheme, rounds, comparisons, drain, audit)
    }

    async fn load(&self, connections: u32, pace: Pace, until: Until) -> Result<Acks> {
        let runtimes: Vec<Handle> = self.generators.iter().map(|generator| generator.runtime.clone()).collect();
        let load = load::run(&runtimes, &self.target, connections, pace, until, &self.ledger);
        self.with_progress(load).await
    }

    /// Waits until everything that was acknowledged has arrived, or nothing comes any more; how many there are.
    async fn arrivals(&self) -> u64 {
        let wait = async {
            let (mut last, mut since) = (self.ledger.arrived(), Instant::now());
            while self.ledger.arrived() < self.ledger.acked() && since.elapsed() < PATIENCE {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let arrived = self.ledger.arrived();
                if arrived != last {
                    (last, since) = (arrived, Instant::now());
                }
            }
            self.ledger.arrived()
        };
        self.with_progress(wait).await
    }

    /// Waits until the hub itself has nothing left to do; false when it still had after a while.
    async fn settled(&mut self) -> Result<bool> {
        #[derive(Deserialize)]
        struct Endpoints {
            items: Vec<Endpoint>,
        }
        #[derive(Deserialize)]
        struct Endpoint {
            in_flight: u64,
            owed: u64,
            waiting: u64,
        }
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let endpoints: Endpoints = self.client.get("/api/endpoints").await?.json()?;
            if endpoints.items.iter().all(|endpoint| endpoint.in_flight + endpoint.owed + endpoint.waiting == 0) {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(false)
    }

    /// Why nothing arrives, as far as the hub knows.
    async fn explanation(&mut self) -> String {
        let mut lines = Vec::new();
        for path in ["/api/dead-letters?limit=1", "/api/endpoints", "/api/events?limit=1"] {
            let said = match self.client.get(path).await {
                Ok(answer) => String::from_utf8_lossy(&answer.body).into_owned(),
                Err(error) => format!("{error:#}"),
            };
            lines.push(format!("{path}: {said}"));
        }
        if let Some(hub) = &self.hub {
            lines.push(hub.log());
        }
        lines.join("\n")
    }

    /// On a terminal a line with the figures of the last second, written over and over.
    async fn with_progress<T>(&self, work: impl Future<Output = T>) -> T {
        let ticking = async {
            let (mut acked, mut arrived) = (self.ledger.acked(), self.ledger.arrived());
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let (now_acked, now_arrived) = (self.ledger.acked(), self.ledger.arrived());
                if !self.quiet {
                    let mut line = format!("\r\x1b[K{} acks/s", report::grouped(now_acked - acked));
                    if self.delivers {
                        let (rate, owed) = (now_arrived - arrived, now_acked.saturating_sub(now_arrived));
                        line += &format!("   {} delivered/s   {} owed", report::grouped(rate), report::grouped(owed));
                    }
                    std::io::stderr().write_all(line.as_bytes()).ok();
                }
                (acked, arrived) = (now_acked, now_arrived);
            }
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = ticking => unreachable!("it ticks for ever"),
        };
        if !self.quiet {
            std::io::stderr().write_all(b"\r\x1b[K").ok();
        }
        outcome
    }
}

/// The server without a database, under the same load.
struct Baseline {
    hub: Hub,
    target: Target,
}

impl Baseline {
    async fn start(data: &Path, scheme: Scheme) -> Result<Baseline> {
        let own = data.join("baseline");
        let secret = format!("file:{}", secret_file(data).display());
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.args(["bench", "baseline", "--scheme", scheme.word(), "--secret", &secret, "--data"]).arg(&own);
        let hub = Hub::spawn(command, &own).await?;
        let target = target(&hub.url, scheme).await?;
        Ok(Baseline { hub, target })
    }

    /// Answers per second.
    async fn load(&self, generators: &[Generator], connections: u32, until: Until) -> Result<f64> {
        let runtimes: Vec<Handle> = generators.iter().map(|generator| generator.runtime.clone()).collect();
        let ledger = Arc::new(Ledger::new(run_number()?));
        let acks = load::run(&runtimes, &self.target, connections, Pace::Free, until, &ledger).await?;
        Ok(acks.in_time as f64 / acks.elapsed.as_secs_f64())
    }
}

/// A thread with a runtime of its own, until this is dropped: what runs on it wakes nobody on another core.
struct Generator {
    runtime: Handle,
    _alive: oneshot::Sender<()>,
}

impl Generator {
    fn start() -> Result<Generator> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("load".into()).spawn(move || runtime.block_on(ended).ok())?;
        Ok(Generator { runtime: handle, _alive: alive })
    }
}

/// The directory of a run, removed at its end when it was made for it.
struct Place {
    path: PathBuf,
    temporary: bool,
}

impl Place {
    fn new(data: Option<&Path>) -> Result<Place> {
        let path = match data {
            Some(data) => data.to_owned(),
            None => {
                // /tmp is memory on many machines, where fsync costs nothing; /var/tmp is on a disk (FHS 5.15).
                let disk = Path::new("/var/tmp");
                let parent = if disk.is_dir() { disk.to_owned() } else { std::env::temp_dir() };
                parent.join(format!("tomada-bench-{}", std::process::id()))
            }
        };
        std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Place { path: std::path::absolute(path)?, temporary: data.is_none() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary {
            std::fs::remove_dir_all(&self.path).ok();
        }
    }
}

fn secret_file(data: &Path) -> PathBuf {
    data.join("bench.secret")
}

fn write_config(data: &Path, setting: &Setting, sink: SocketAddr, delivers: bool) -> Result<PathBuf> {
    let components = std::path::absolute(&setting.components)?;
    let component = |name: &str| -> Result<PathBuf> {
        let file = components.join(format!("{name}.wasm"));
        if delivers && !file.is_file() {
            bail!("{} is missing: `tomada connector build connectors/{name}` makes it", file.display());
        }
        Ok(file)
    };
    let secret = secret_file(data);
    std::fs::write(&secret, SECRET).with_context(|| format!("{} cannot be written", secret.display()))?;
    let secret = format!("file:{}", secret.display());
    let mut auth = json!({ "scheme": setting.scheme.word(), "secrets": [secret] });
    if setting.scheme == Scheme::StandardWebhooks {
        // Signatures are made ahead, all with the time of the start.
        auth["tolerance_s"] = 86_400.into();
    }
    let mut config = json!({ "sources": {} });
    for (name, path) in ["bench", "bench-sealed"].into_iter().zip(PATHS) {
        config["sources"][name] = json!({
            "auth": auth,
            "webhooks": [{ "path": path, "event": "lead.created", "queue": "integrations-high" }],
            "sensitive": path == PATHS[1],
        });
        if setting.scheme == Scheme::HmacHex {
            config["sources"][name]["idempotency"] = json!({ "pointer": "/id" });
        }
    }
    if delivers {
        config["queues"] = json!({ "integrations-high": { "workers": [2, 4], "in_flight": 128 } });
        config["connectors"] = json!({
            "webhook": { "file": component("webhook")? },
            "json-map": { "file": component("json-map")? },
        });
        config["mappings"] = json!({ "bench": { "component": "json-map", "settings": mapping() } });
        config["endpoints"] = json!({ "sink": {
            "connector": "webhook",
            "settings": { "url": format!("http://{sink}/sink") },
            "hosts": [format!("http://{sink}")],
            "allow_private": [format!("{}/32:{}", sink.ip(), sink.port())],
            "secrets": { "signing": secret },
            "concurrency": 256,
        } });
        config["routes"] = json!([{ "event": "lead.created", "endpoint": "sink", "mapping": "bench" }]);
    }
    let file = data.join("bench.toml");
    std::fs::write(&file, toml::to_string(&config)?)
        .with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(file)
}

/// Five fields get other names, the rest is kept.
fn mapping() -> serde_json::Value {
    json!({ "rules": {
        "id": "id",
        "lead_name": "name",
        "lead_phone": "phone",
        "lead_email": "email",
        "source_channel": "source",
        "city": "contact.city",
        "campaign": {
            "type": "array",
            "sources": { "source": "utm_source", "medium": "utm_medium", "campaign": "utm_campaign" },
        },
        "message": "message",
    } })
}

async fn target(url: &str, scheme: Scheme) -> Result<Target> {
    let authority = authority(url)?;
    let address = tokio::net::lookup_host(&authority)
        .await
        .with_context(|| format!("{authority} has no address"))?
        .next()
        .with_context(|| format!("{authority} has no address"))?;
    let key = key(scheme, SECRET.as_bytes())?;
    Ok(Target { address, path: PATHS[0].into(), scheme, key, timestamp: unix_seconds() })
}

fn key(scheme: Scheme, secret: &[u8]) -> Result<Vec<u8>> {
    if scheme != Scheme::StandardWebhooks {
        return Ok(secret.to_vec());
    }
    standard_webhooks_key(secret).map_err(|problem| anyhow!("the secret {problem}"))
}

fn run_number() -> Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random number: {error}"))?;
    Ok(u32::from_le_bytes(bytes))
}

/// Median time of an fsync of 4 KiB, microseconds: disks of virtual machines differ by the minute, and an ack waits for one.
fn fsync(data: &Path) -> Result<u64> {
    let path = data.join("fsync-probe");
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..32 {
        let start = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        times.push(start.elapsed().as_micros() as u64);
    }
    std::fs::remove_file(&path)?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("must be a number above 0".into()),
    }
}

fn signed_headers(text: &str) -> Result<Scheme, String> {
    [Scheme::StandardWebhooks, Scheme::HmacHex]
        .into_iter()
        .find(|scheme| scheme.word() == text)
        .ok_or_else(|| "must be standard-webhooks or hmac-hex".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchOptions,
    }

    fn setting(args: &[&str]) -> Setting {
        match Cli::try_parse_from(["bench", "e2e"].iter().chain(args)).unwrap().bench.what {
            What::E2e(options) => options.setting,
            _ => unreachable!("e2e was asked for"),
        }
    }

    #[test]
    fn options_that_mean_nothing_are_refused() {
        for args in [["--seconds", "0"], ["--rate", "-1"], ["--connections", "0"], ["--scheme", "github"]] {
            assert!(Cli::try_parse_from(["bench", "ingest"].iter().chain(&args)).is_err(), "{args:?}");
        }
    }

    #[test]
    fn the_configuration_of_the_hub_passes_its_checks() {
        let place = Place::new(None).unwrap();
        let components = place.path.join("components");
        std::fs::create_dir_all(&components).unwrap();
        for name in ["webhook", "json-map"] {
            std::fs::write(components.join(format!("{name}.wasm")), "").unwrap();
        }
        let sink = SocketAddr::from(([127, 0, 0, 1], 8081));
        for scheme in ["standard-webhooks", "hmac-hex"] {
            let setting = setting(&["--components", components.to_str().unwrap(), "--scheme", scheme]);
            for delivers in [true, false] {
                let file = write_config(&place.path, &setting, sink, delivers).unwrap();
                let config = config::load(&[file]).unwrap();
                assert_eq!(config.endpoints.len(), usize::from(delivers));
            }
        }
    }

    #[test]
    fn a_missing_component_is_named_with_the_command_that_makes_it() {
        let place = Place { path: std::env::temp_dir(), temporary: false };
        let setting = setting(&["--components", "no-such-directory"]);
        let error = write_config(&place.path, &setting, SocketAddr::from(([127, 0, 0, 1], 1)), true).unwrap_err();
        assert!(error.to_string().contains("tomada connector build connectors/webhook"), "{error}");
    }
}
