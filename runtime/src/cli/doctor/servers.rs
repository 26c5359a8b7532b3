//! The database and Redis: what they say of themselves, and what it means for the promises.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Doctor, Finding, State, files, migrate};
use crate::clock::Clock;
use crate::signals;
use crate::store::migrate::check as missing_migrations;
use crate::store::probe::{Address, Probe, Product, probe};

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

/// What is found in the database, or on the way there, and whether this directory has the keys that it needs.
pub(super) async fn database(options: &Doctor) -> Vec<Finding> {
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
    findings.extend(files::keys(&options.data, needed.as_ref(), address.product() != Product::Sqlite));
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

pub(super) async fn redis(options: &Doctor) -> Option<Finding> {
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
