//! `tomada doctor`: is everything here that the hub needs?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anstyle::AnsiColor;
use clap::Args;
use serde::Serialize;

use super::migrate::{self, DatabaseArgs};
use crate::client::{Client, Running};
use crate::clock::Clock;
use crate::config::Config;
use crate::keyring::{KeyId, Keyring};
use crate::keys::Pepper;
use crate::store::migrate::check as missing_migrations;
use crate::store::probe::{Address, NeededKeys, Probe, Product, probe};
use crate::{plugin, record, signals, toolchain};

#[derive(Args)]
pub(super) struct Doctor {
    /// Data directory of the hub
    #[arg(long, value_name = "DIR", default_value = "tomada-data", env = "TOMADA_DATA")]
    data: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Redis that the nodes share: redis://…, or file:PATH where that stands
    #[arg(long, value_name = "URL", env = "TOMADA_REDIS", hide_env_values = true)]
    redis: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was looked at, and what was found where; where it is not good, also what to do.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    detail: String,
}

impl Finding {
    fn good(what: &'static str, detail: impl Into<String>) -> Finding {
        Finding { what, state: State::Good, detail: detail.into() }
    }

    fn warning(what: &'static str, detail: impl Into<String>) -> Finding {
        Finding { what, state: State::Warning, detail: detail.into() }
    }

    fn bad(what: &'static str, detail: impl Into<String>) -> Finding {
        Finding { what, state: State::Bad, detail: detail.into() }
    }
}

#[derive(Debug, Serialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    /// The hub runs, but not everything works or works well.
    Warning,
    Bad,
}

/// Each connection and each delivery takes one.
const DESCRIPTORS: u64 = 4096;
/// A commit that takes longer than this makes every 202 slow.
const SLOW_SYNC: Duration = Duration::from_millis(20);
/// Ways there and back of a commit that accepts: begin, the node's row, keys, events, deliveries, commit.
const TRIPS: u32 = 6;
/// Beyond this each 202 of an idle hub waits for more than 12 ms on them alone.
const FAR: Duration = Duration::from_millis(2);
/// Clocks that differ by more are not set by NTP, and by much more do harm: retries and schedules come at other times
/// on each node, and signatures seem stale, which senders date to within five minutes.
const SKEW_MS: i64 = 1000;
const GREAT_SKEW_MS: i64 = 60_000;
/// A component or an event of 16 MiB has to fit into one packet, with what is said about it.
const LEAST_PACKET: u64 = 16 << 20;
const ROOMY_PACKET: u64 = 17 << 20;
/// One node has up to 12 connections, and so have operators' tools.
const CONNECTIONS: u64 = 40;

pub(super) async fn run(options: Doctor) -> anyhow::Result<ExitCode> {
    let mut findings = vec![
        running(&options).await,
        data(&options),
        sync(&options),
        processing(&options),
        sandbox(),
        descriptors(),
        toolchain(),
    ];
    findings.extend(database(&options).await);
    findings.extend(redis(&options).await);
    if options.json {
        anstream::println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let (word, colour) = match finding.state {
                State::Good => ("ok  ", AnsiColor::Green),
                State::Warning => ("warn", AnsiColor::Yellow),
                State::Bad => ("bad ", AnsiColor::Red),
            };
            let style = colour.on_default();
            anstream::println!("{style}{word}{style:#}  {:<16} {}", finding.what, finding.detail);
        }
    }
    let bad = findings.iter().any(|finding| finding.state == State::Bad);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn running(options: &Doctor) -> Finding {
    let what = "hub";
    let Ok(running) = Running::read(&options.data) else {
        return Finding { what, state: State::Warning, detail: "not running on this directory".into() };
    };
    let health = async { Client::connect(&running.url, None).await?.get("/health").await?.ok() };
    match health.await {
        Ok(_) => Finding { what, state: State::Good, detail: format!("answers at {}", running.url) },
        Err(error) => {
            Finding { what, state: State::Bad, detail: format!("{} does not answer: {error:#}", running.url) }
        }
    }
}

fn data(options: &Doctor) -> Finding {
    let what = "data directory";
    let shown = options.data.display();
    match std::fs::metadata(&options.data) {
        Ok(found) if found.is_dir() => {
            use std::os::unix::fs::PermissionsExt as _;
            if found.permissions().mode() & 0o077 == 0 {
                Finding { what, state: State::Good, detail: format!("{shown}, readable by this user only") }
            } else {
                let detail = format!("{shown} can be read by others: chmod 700 {shown}");
                Finding { what, state: State::Warning, detail }
            }
        }
        Ok(_) => Finding { what, state: State::Bad, detail: format!("{shown} is not a directory") },
        Err(_) => Finding { what, state: State::Good, detail: format!("{shown} will be made at the first start") },
    }
}

/// What a commit costs here: some disks say "done" in a tenth of a millisecond, some in twenty.
#[allow(clippy::disallowed_methods, reason = "it measures the disk")]
fn sync(options: &Doctor) -> Finding {
    let what = "fsync";
    let directory = if options.data.is_dir() { options.data.clone() } else { PathBuf::from(".") };
    let measured = || -> std::io::Result<Duration> {
        use std::io::Write as _;
        let path = directory.join(".fsync-probe");
        let mut file = std::fs::File::create(&path)?;
        let mut times = Vec::new();
        for _ in 0..20 {
            file.write_all(&[0; 4096])?;
            let begun = Instant::now();
            file.sync_data()?;
            times.push(begun.elapsed());
        }
        std::fs::remove_file(path)?;
        times.sort();
        Ok(times[times.len() / 2])
    };
    match measured() {
        Ok(median) => {
            let state = if median > SLOW_SYNC { State::Warning } else { State::Good };
            Finding { what, state, detail: format!("{:.2} ms (median of 20)", median.as_secs_f64() * 1000.0) }
        }
        Err(error) => Finding { what, state: State::Bad, detail: error.to_string() },
    }
}

/// Whether the record of processing says why there is personal data, by what was in force last on this directory.
fn processing(options: &Doctor) -> Finding {
    let what = "record";
    let config = std::fs::read(options.data.join("config.json")).ok();
    let Some(config) = config.and_then(|text| serde_json::from_slice::<Config>(&text).ok()) else {
        return Finding { what, state: State::Good, detail: "no configuration here yet".into() };
    };
    let warnings = record::warnings(&config);
    match warnings.first() {
        None => Finding { what, state: State::Good, detail: "says why personal data is processed".into() },
        Some(first) if warnings.len() == 1 => Finding { what, state: State::Warning, detail: first.clone() },
        Some(first) => {
            let detail = format!("{first} (and {} more: see `tomada privacy record`)", warnings.len() - 1);
            Finding { what, state: State::Warning, detail }
        }
    }
}

fn sandbox() -> Finding {
    let what = "sandbox";
    match plugin::engine::serving() {
        Ok((_, true)) => {
            Finding { what, state: State::Good, detail: format!("room for {} instances", plugin::engine::INSTANCES) }
        }
        Ok(_) => Finding {
            what,
            state: State::Warning,
            detail: "no address space for the instance pool (ulimit -v?): deliveries are slower".into(),
        },
        Err(error) => Finding { what, state: State::Bad, detail: format!("{error:#}") },
    }
}

fn descriptors() -> Finding {
    let what = "open files";
    match rlimit::getrlimit(rlimit::Resource::NOFILE) {
        Ok((soft, _)) if soft >= DESCRIPTORS => Finding { what, state: State::Good, detail: format!("{soft} allowed") },
        Ok((soft, hard)) => Finding {
            what,
            state: State::Warning,
            detail: format!("{soft} allowed, {DESCRIPTORS} are better: ulimit -n {}", hard.min(DESCRIPTORS)),
        },
        Err(error) => Finding { what, state: State::Warning, detail: error.to_string() },
    }
}

fn toolchain() -> Finding {
    let what = "wasm toolchain";
    match toolchain::available() {
        Ok(found) => Finding { what, state: State::Good, detail: found },
        Err(missing) => Finding { what, state: State::Warning, detail: format!("{missing:#}") },
    }
}

/// What is found in the database, or on the way there, and whether this directory has the keys that it needs.
async fn database(options: &Doctor) -> Vec<Finding> {
    let what = "database";
    let address = match options.database.address(&options.data) {
        Ok(address) => address,
        Err(error) => return vec![Finding::bad(what, format!("{error:#}: correct --database or TOMADA_DATABASE"))],
    };
    let mut needed = None;
    let mut findings = match probe(&address, &Clock::System).await {
        Ok(seen) => {
            needed = seen.keys.clone();
            judge(&address.to_string(), &seen)
        }
        Err(_) if matches!(&address, Address::Sqlite(path) if !path.exists()) => {
            vec![Finding::good(what, format!("{address} will be made at the first start"))]
        }
        Err(error) => {
            vec![Finding::bad(what, format!("{address}: {error}: see that it runs, and address and password"))]
        }
    };
    if findings.iter().all(|finding| finding.what != what || finding.state != State::Bad) {
        findings.push(tables(&address).await);
    }
    findings.extend(keys(&options.data, needed.as_ref(), address.product() != Product::Sqlite));
    findings
}

async fn tables(address: &Address) -> Finding {
    let what = "tables";
    match missing_migrations(address).await {
        Ok(progress) if !progress.later.is_empty() || !progress.changed.is_empty() => Finding::bad(
            what,
            format!("{address} belongs to another version of tomada: `tomada migrate --check` says more"),
        ),
        Ok(progress) if progress.applied.is_empty() => Finding::good(what, "none yet: the first start makes them"),
        Ok(progress) if progress.missing.is_empty() => {
            Finding::good(what, format!("up to date, {} migrations", progress.applied.len()))
        }
        Ok(progress) => {
            let detail =
                format!("{} migrations are missing: `tomada migrate`, or start a node", progress.missing.len());
            Finding::warning(what, detail)
        }
        Err(error) => Finding::bad(what, format!("{address}: {error}")),
    }
}

/// What a server's own words mean for the promises.
fn judge(at: &str, seen: &Probe) -> Vec<Finding> {
    let mut findings = match seen.product {
        Product::Sqlite => return vec![Finding::good("database", format!("SQLite {} at {at}", version(seen)))],
        Product::Postgres => judge_postgres(at, seen),
        Product::MySql => judge_mysql(at, seen),
    };
    let connections = seen.settings.get("max_connections").and_then(|number| number.parse::<u64>().ok());
    if let Some(number) = connections.filter(|number| *number < CONNECTIONS) {
        let detail = format!("{at} allows {number}, and each node takes up to 12: raise max_connections");
        findings.push(Finding::warning("connections", detail));
    }
    findings.push(clock(at, seen));
    let ms = seen.round_trip.as_secs_f64() * 1000.0;
    let trip = format!("{ms:.2} ms to {at} and back (median)");
    findings.push(if seen.round_trip > FAR {
        let least = ms * f64::from(TRIPS);
        Finding::warning(
            "round trip",
            format!("{trip}: each commit takes {least:.0} ms of them; run nodes in its zone"),
        )
    } else {
        Finding::good("round trip", trip)
    });
    findings
}

/// Without the machine and the compiler, which PostgreSQL says as well.
fn version(seen: &Probe) -> &str {
    let version = seen.settings.get("version").map_or("of an unknown version", String::as_str);
    version.split_once(" on ").map_or(version, |(version, _)| version)
}

fn judge_postgres(at: &str, seen: &Probe) -> Vec<Finding> {
    let is = |name: &str, value: &str| seen.settings.get(name).is_some_and(|is| is == value);
    let version = version(seen);
    let number = seen.settings.get("server_version_num").and_then(|number| number.parse::<u64>().ok());
    let mut findings = vec![match number {
        Some(number) if number < 140_000 => {
            Finding::bad("database", format!("{version} at {at} is too old: 14 or later is needed"))
        }
        _ if ["CockroachDB", "-YB-"].iter().any(|other| version.contains(other)) => Finding::warning(
            "database",
            format!("{version} at {at} is not what tomada is tested with: see ARCHITECTURE.md"),
        ),
        _ if is("in_recovery", "true") => {
            Finding::bad("database", format!("{at} is a standby and takes no changes: connect to the primary"))
        }
        _ if is("default_transaction_read_only", "on") => {
            Finding::bad("database", format!("{at} takes no changes: set default_transaction_read_only = off"))
        }
        _ => Finding::good("database", format!("{version} at {at}")),
    }];
    if is("ssl", "true") {
        // sqlx#4335: it leaves TCP_NODELAY off.
        let detail = "the connection is encrypted, and a commit of more than 16 KiB waits 40 ms for that: where nobody \
                      else is on the way, add ?sslmode=disable to the URL";
        findings.push(Finding::warning("encryption", detail));
    }
    findings.push(if is("fsync", "off") {
        Finding::bad(
            "durability",
            format!("{at} has fsync = off, a power cut loses what was acknowledged: switch it on"),
        )
    } else if is("full_page_writes", "off") {
        let detail =
            "full_page_writes = off: a power cut may tear pages, unless its storage writes them whole (Aurora, ZFS)";
        Finding::warning("durability", format!("{at} has {detail}; else switch it on"))
    } else if is("synchronous_commit", "off") {
        let detail = "synchronous_commit = off; the hub switches it on for itself, but set it for the database as well";
        Finding::warning("durability", format!("{at} has {detail}"))
    } else {
        let detail = seen.settings.get("synchronous_commit").map_or("", String::as_str);
        Finding::good("durability", format!("fsync and full_page_writes are on, synchronous_commit is {detail}"))
    });
    if is("autovacuum", "off") {
        let detail = "autovacuum = off: what was settled slows the claims down; switch it on";
        findings.push(Finding::warning("vacuum", format!("{at} has {detail}")));
    }
    if let Some(encoding) = seen.settings.get("server_encoding").filter(|encoding| *encoding != "UTF8") {
        let detail = format!("the database at {at} is {encoding}: make one with encoding 'UTF8'");
        findings.push(Finding::bad("text", detail));
    }
    findings.push(isolation(seen.settings.get("default_transaction_isolation")));
    findings
}

fn judge_mysql(at: &str, seen: &Probe) -> Vec<Finding> {
    let get = |name: &str| seen.settings.get(name).map(String::as_str);
    let is_on = |name: &str| matches!(get(name), Some("ON" | "1"));
    let version = version(seen);
    let comment = get("version_comment").unwrap_or_default();
    let least = if version.contains("MariaDB") { (10, 6) } else { (8, 0) };
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let is_known = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= least;
    let mut findings = vec![match () {
        // https://github.com/pingcap/tidb/issues/69720
        () if version.contains("TiDB") => {
            let detail =
                "`for update skip locked` locks nothing there, and two nodes would deliver the same: use MySQL";
            Finding::bad("database", format!("{version} at {at}: {detail}"))
        }
        () if ["Vitess", "PlanetScale"].iter().any(|other| version.contains(other) || comment.contains(other)) => {
            Finding::warning(
                "database",
                format!("{version} at {at} is not what tomada is tested with: see ARCHITECTURE.md"),
            )
        }
        () if !is_known => {
            let detail = format!("{version} at {at} is too old: MySQL 8.0 or MariaDB 10.6 or later is needed");
            Finding::bad("database", detail)
        }
        () if is_on("read_only") => {
            Finding::bad("database", format!("{at} takes no changes (read_only): connect to the primary"))
        }
        () => Finding::good("database", format!("{version} at {at}")),
    }];
    findings.push(match (get("innodb_flush_log_at_trx_commit"), get("sync_binlog")) {
        (Some("1"), sync) if is_on("log_bin") && sync != Some("1") => {
            let detail = "sync_binlog is not 1: after a crash it takes back what was acknowledged; set it to 1";
            Finding::bad("durability", format!("at {at} {detail}"))
        }
        (Some("1"), _) if matches!(get("innodb_doublewrite"), Some("OFF" | "0" | "DETECT_ONLY")) => {
            let detail = "innodb_doublewrite is off: a power cut may tear pages, unless its storage writes them whole \
                          (Aurora, ZFS); else switch it on";
            Finding::warning("durability", format!("at {at} {detail}"))
        }
        (Some("1"), _) if is_on("log_bin") => Finding::good("durability", "each commit flushes redo and binary log"),
        (Some("1"), _) => Finding::good("durability", "each commit flushes the redo log"),
        (Some(flush), _) => {
            let detail = "innodb_flush_log_at_trx_commit is";
            Finding::bad(
                "durability",
                format!("at {at} {detail} {flush}: a crash loses what was acknowledged; set it to 1"),
            )
        }
        (None, _) => {
            Finding::warning("durability", format!("{at} does not say whether a commit is on disk: see its manual"))
        }
    });
    findings.push(match get("max_allowed_packet").and_then(|bytes| bytes.parse::<u64>().ok()) {
        Some(bytes) if bytes < LEAST_PACKET => {
            let detail = format!("{at} has max_allowed_packet = {bytes}, the hub does not start: set it to 64M");
            Finding::bad("packets", detail)
        }
        Some(bytes) if bytes < ROOMY_PACKET => {
            let detail = "an event or a component of just 16 MiB does not fit; set it to 64M";
            Finding::warning("packets", format!("{at} has max_allowed_packet = {bytes}: {detail}"))
        }
        Some(bytes) => Finding::good("packets", format!("up to {} MiB", bytes >> 20)),
        None => Finding::warning("packets", format!("{at} does not say what max_allowed_packet is: 64M is needed")),
    });
    findings.push(isolation(seen.settings.get("transaction_isolation").or(seen.settings.get("tx_isolation"))));
    let own = |name| get(name).unwrap_or("not said");
    findings.push(Finding::good(
        "session",
        format!(
            "character_set_server is {}, sql_mode {}; the hub sets its own (utf8mb4, strict)",
            own("character_set_server"),
            if get("sql_mode").is_some_and(|mode| mode.contains("STRICT")) { "strict" } else { "not strict" },
        ),
    ));
    findings
}

fn isolation(level: Option<&String>) -> Finding {
    let level = level.map_or("not said", String::as_str).to_ascii_lowercase().replace('-', " ");
    Finding::good("isolation", format!("{level} by default; the hub works with read committed, and sets it"))
}

fn clock(at: &str, seen: &Probe) -> Finding {
    let what = "clock";
    // What the way there and back may hide.
    let unsure = seen.round_trip.as_millis() as i64 / 2 + 1;
    let (ahead, off) = (seen.ahead_ms, (seen.ahead_ms.abs() - unsure).max(0));
    let detail = format!("{at} is {} ms {} this machine", ahead.abs(), if ahead < 0 { "behind" } else { "ahead of" });
    if off <= SKEW_MS {
        Finding::good(what, format!("{detail}, give or take {unsure} ms"))
    } else if off <= GREAT_SKEW_MS {
        Finding::warning(what, format!("{detail}: let NTP set both"))
    } else {
        let harm = "signatures seem stale, retries come at the wrong time";
        Finding::bad(what, format!("{detail}: {harm}; let NTP set both"))
    }
}

/// Whether the files beside the database are there, and fit it. They are the same on all nodes of one database.
fn keys(data: &Path, needed: Option<&NeededKeys>, is_shared: bool) -> Vec<Finding> {
    let is_used = needed.is_some_and(|needed| needed.ring.is_some());
    let (ring, pepper_file) = (data.join("keyring"), data.join("pepper"));
    vec![keyring(&ring, needed, is_used, is_shared), pepper(&pepper_file, needed, is_used, is_shared)]
}

fn absent(what: &'static str, path: &Path, is_used: bool, is_shared: bool) -> Finding {
    let path = path.display();
    if is_used {
        Finding::bad(
            what,
            format!("{path} is missing, and the database is in use: copy it from another node or a backup"),
        )
    } else if is_shared {
        let detail = "will be made at the first start: then copy it to the other nodes before they start";
        Finding::warning(what, format!("{path} {detail}"))
    } else {
        Finding::good(what, format!("{path} will be made at the first start"))
    }
}

fn keyring(path: &Path, needed: Option<&NeededKeys>, is_used: bool, is_shared: bool) -> Finding {
    let what = "keyring";
    if !path.exists() {
        return absent(what, path, is_used, is_shared);
    }
    let ring = match Keyring::open(path, 0) {
        Ok(ring) => ring,
        Err(error) => return Finding::bad(what, format!("{error:#}: copy it from another node or a backup")),
    };
    let shown = path.display();
    let Some(needed) = needed else { return Finding::good(what, format!("{shown} has {} keys", ring.keys().len())) };
    if needed.ring.as_ref().is_some_and(|of| of[..] != ring.fingerprint()) {
        let detail = format!("{shown} is another ring than the database's: copy that from another node or a backup");
        return Finding::bad(what, detail);
    }
    let has = |id: i64| ring.keys().iter().any(|key| i64::from(key.id.0) == id);
    let lacks: Vec<String> = needed
        .ids
        .iter()
        .filter(|id| !has(**id))
        .map(|id| u32::try_from(*id).map_or_else(|_| id.to_string(), |id| KeyId(id).to_string()))
        .collect();
    if !lacks.is_empty() {
        let detail =
            format!("{shown} lacks {}, which another ring of this database has: take the newest one", lacks.join(", "));
        return Finding::bad(what, detail);
    }
    Finding::good(what, format!("{shown} is the database's, with every key that is needed there"))
}

fn pepper(path: &Path, needed: Option<&NeededKeys>, is_used: bool, is_shared: bool) -> Finding {
    let what = "pepper";
    if !path.exists() {
        return absent(what, path, is_used, is_shared);
    }
    let pepper = match Pepper::open(path) {
        Ok(pepper) => pepper,
        Err(error) => return Finding::bad(what, format!("{error:#}: copy it from another node or a backup")),
    };
    let path = path.display();
    match needed.and_then(|needed| needed.pepper.as_ref()) {
        Some(of) if of[..] != pepper.fingerprint() => Finding::bad(
            what,
            format!(
                "{path} is not the one that the API keys there were made with: copy it from another node or a backup"
            ),
        ),
        Some(_) => Finding::good(what, format!("{path} is the database's")),
        None => Finding::good(what, format!("{path} is there, and has to be the same on all nodes")),
    }
}

async fn redis(options: &Doctor) -> Option<Finding> {
    let text = options.redis.as_ref()?;
    Some(match migrate::url(text) {
        Err(error) => Finding::bad("redis", format!("{error:#}: correct --redis or TOMADA_REDIS")),
        Ok(url) => match signals::probe::probe(&url).await {
            Ok(info) => judge_redis(&info),
            Err(problem) => Finding::warning(
                "redis",
                format!("{problem}: the hub works without it, more slowly between nodes and with limits per node"),
            ),
        },
    })
}

fn judge_redis(info: &BTreeMap<String, String>) -> Finding {
    let what = "redis";
    let get = |name: &str| info.get(name).map_or("", String::as_str);
    let version = get("redis_version");
    let number = |at: usize| version.split('.').nth(at).and_then(|number| number.parse::<u32>().ok()).unwrap_or(0);
    if number(0) < 6 {
        return Finding::warning(what, format!("Redis {version} is not what tomada is tested with: 6 or later is"));
    }
    let (most, policy) = (get("maxmemory"), get("maxmemory_policy"));
    if !matches!(most, "" | "0") && policy == "noeviction" {
        let detail =
            "refuses to write when it is full, and limits are per node then: set maxmemory-policy volatile-ttl";
        return Finding::warning(what, format!("Redis {version} {detail}"));
    }
    Finding::good(what, format!("Redis {version}, maxmemory-policy {policy}; nothing is lost with it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(product: Product, settings: &[(&str, &str)]) -> Probe {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Probe { product, settings, ahead_ms: 0, round_trip: Duration::from_micros(200), keys: None }
    }

    /// What is not good, in the order of the findings.
    fn troubles(seen: &Probe) -> Vec<(&'static str, State)> {
        let found = judge("db:5432/hub", seen).into_iter().map(|finding| (finding.what, finding.state));
        found.filter(|(_, state)| *state != State::Good).collect()
    }

    const POSTGRES: &[(&str, &str)] = &[
        ("version", "PostgreSQL 15.19"),
        ("server_version_num", "150019"),
        ("in_recovery", "false"),
        ("ssl", "false"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_read_only", "off"),
        ("autovacuum", "on"),
        ("server_encoding", "UTF8"),
        ("max_connections", "100"),
    ];

    const MYSQL: &[(&str, &str)] = &[
        ("version", "8.0.36"),
        ("version_comment", "MySQL Community Server"),
        ("innodb_flush_log_at_trx_commit", "1"),
        ("log_bin", "ON"),
        ("sync_binlog", "1"),
        ("innodb_doublewrite", "ON"),
        ("transaction_isolation", "REPEATABLE-READ"),
        ("character_set_server", "utf8mb4"),
        ("max_allowed_packet", "67108864"),
        ("sql_mode", "STRICT_TRANS_TABLES"),
        ("read_only", "OFF"),
        ("max_connections", "151"),
    ];

    #[test]
    fn a_server_as_it_comes_is_fine_and_each_setting_that_breaks_a_promise_is_found() {
        for (product, base, cases) in [
            (
                Product::Postgres,
                POSTGRES,
                &[
                    ("version", "PostgreSQL 15.19", None),
                    ("server_version_num", "130014", Some(("database", State::Bad))),
                    ("version", "CockroachDB CCL v25.2.0", Some(("database", State::Warning))),
                    ("version", "PostgreSQL 15.2-YB-2.25.0", Some(("database", State::Warning))),
                    ("in_recovery", "true", Some(("database", State::Bad))),
                    ("ssl", "true", Some(("encryption", State::Warning))),
                    ("default_transaction_read_only", "on", Some(("database", State::Bad))),
                    ("fsync", "off", Some(("durability", State::Bad))),
                    ("full_page_writes", "off", Some(("durability", State::Warning))),
                    ("synchronous_commit", "off", Some(("durability", State::Warning))),
                    ("synchronous_commit", "remote_apply", None),
                    ("autovacuum", "off", Some(("vacuum", State::Warning))),
                    ("server_encoding", "SQL_ASCII", Some(("text", State::Bad))),
                    ("default_transaction_isolation", "serializable", None),
                    ("max_connections", "20", Some(("connections", State::Warning))),
                ][..],
            ),
            (
                Product::MySql,
                MYSQL,
                &[
                    ("version", "10.6.7-MariaDB-log", None),
                    ("version", "10.5.9-MariaDB", Some(("database", State::Bad))),
                    ("version", "5.7.44", Some(("database", State::Bad))),
                    ("version", "8.0.11-TiDB-v8.5.0", Some(("database", State::Bad))),
                    ("version", "8.0.30-Vitess", Some(("database", State::Warning))),
                    ("read_only", "ON", Some(("database", State::Bad))),
                    ("innodb_flush_log_at_trx_commit", "2", Some(("durability", State::Bad))),
                    ("sync_binlog", "0", Some(("durability", State::Bad))),
                    ("innodb_doublewrite", "OFF", Some(("durability", State::Warning))),
                    ("innodb_doublewrite", "DETECT_AND_RECOVER", None),
                    ("max_allowed_packet", "1048576", Some(("packets", State::Bad))),
                    ("max_allowed_packet", "16777216", Some(("packets", State::Warning))),
                ][..],
            ),
        ] {
            for (name, value, expected) in cases {
                let mut seen = seen(product, base);
                seen.settings.insert((*name).to_owned(), (*value).to_owned());
                assert_eq!(troubles(&seen), expected.iter().copied().collect::<Vec<_>>(), "{name} = {value}");
            }
        }
        // Without a binary log nobody asks whether it is flushed.
        let mut without = seen(Product::MySql, MYSQL);
        without.settings.insert("log_bin".into(), "OFF".into());
        without.settings.insert("sync_binlog".into(), "0".into());
        assert_eq!(troubles(&without), []);
    }

    #[test]
    fn clocks_and_distances_have_their_bounds() {
        for (ahead_ms, trip_ms, expected) in [
            (900, 0, vec![]),
            (-900, 0, vec![]),
            (1500, 0, vec![("clock", State::Warning)]),
            (-70_000, 0, vec![("clock", State::Bad)]),
            (0, 5, vec![("round trip", State::Warning)]),
        ] {
            let round_trip = Duration::from_millis(trip_ms);
            let seen = Probe { ahead_ms, round_trip, ..seen(Product::Postgres, POSTGRES) };
            assert_eq!(troubles(&seen), expected, "{ahead_ms} ms ahead, {trip_ms} ms away");
        }
    }

    #[test]
    fn the_files_of_another_node_are_missed_and_those_of_another_database_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let state = |needed: Option<&NeededKeys>| {
            keys(folder.path(), needed, true).iter().map(|finding| finding.state).collect::<Vec<_>>()
        };
        let other = NeededKeys { ring: Some(vec![7; 32]), pepper: Some(vec![7; 32]), ids: Vec::new() };
        assert_eq!(state(None), [State::Warning, State::Warning], "a first node will make them");
        assert_eq!(state(Some(&other)), [State::Bad, State::Bad], "the database is in use");
        assert!(!folder.path().join("keyring").exists() && !folder.path().join("pepper").exists());

        let ring = Keyring::open(&folder.path().join("keyring"), 0).unwrap();
        let pepper = Pepper::open(&folder.path().join("pepper")).unwrap();
        assert_eq!(state(Some(&other)), [State::Bad, State::Bad], "another ring, another pepper");
        let active = i64::from(ring.active().0);
        let mut needed = NeededKeys {
            ring: Some(ring.fingerprint().to_vec()),
            pepper: Some(pepper.fingerprint().to_vec()),
            ids: vec![active],
        };
        assert_eq!(state(Some(&needed)), [State::Good, State::Good]);
        needed.ids.push(i64::from(ring.active().0 ^ 1));
        assert_eq!(state(Some(&needed)), [State::Bad, State::Good], "an older copy of the ring");
    }

    #[test]
    fn redis_never_stops_anything() {
        let info = |version: &str, most: &str, policy: &str| {
            let pairs = [("redis_version", version), ("maxmemory", most), ("maxmemory_policy", policy)];
            judge_redis(&pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()).state
        };
        assert_eq!(info("7.0.15", "0", "noeviction"), State::Good);
        assert_eq!(info("7.0.15", "1000000", "volatile-ttl"), State::Good);
        assert_eq!(info("7.0.15", "1000000", "noeviction"), State::Warning);
        assert_eq!(info("5.0.14", "0", "noeviction"), State::Warning);
    }
}
