//! The machine and the data directory: what the hub needs here.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Doctor, Finding, State};
use crate::client::{Client, Running};
use crate::config::Config;
use crate::{plugin, record};

/// Each connection and each delivery takes one.
const DESCRIPTORS: u64 = 4096;
/// A commit that takes longer than this makes every 202 slow.
const SLOW_SYNC: Duration = Duration::from_millis(20);
pub(super) async fn running(options: &Doctor) -> Finding {
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

pub(super) fn data(options: &Doctor) -> Finding {
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
pub(super) fn sync(options: &Doctor) -> Finding {
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
pub(super) fn processing(options: &Doctor) -> Finding {
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

pub(super) fn sandbox() -> Finding {
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

pub(super) fn descriptors() -> Finding {
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

pub(super) fn toolchain() -> Finding {
    let what = "wasm toolchain";
    match crate::toolchain::available() {
        Ok(found) => Finding { what, state: State::Good, detail: found },
        Err(missing) => Finding { what, state: State::Warning, detail: format!("{missing:#}") },
    }
}
