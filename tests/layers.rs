//! The house: imports go down only, and each outside crate is named only where it belongs.

use std::fs;
use std::path::{Path, PathBuf};

/// The runtime's modules from the roof to the ground. A module may name those below it, never one above or beside it.
/// Files in a folder belong to the module of that name; those that stand here by themselves are pure and known to more.
const FLOORS: &[&[&str]] = &[
    &["cli"],
    // Faces: what shows, measures and tries the hub from outside.
    &["demo", "bench"],
    &["send", "child"],
    &["client", "toolchain"],
    &["app"],
    // The doors.
    &["admin"],
    &["follow"],
    &["ingress", "worker", "scheduler"],
    // The rooms.
    &["privacy"],
    &["apply"],
    &["retention"],
    &["registry", "committer", "queue::keeper", "rewrap", "audit"],
    &["membership"],
    &["listen", "keys", "plugin", "queue", "sync"],
    &["catalog"],
    &["plugin::manifest"],
    // The cellar.
    &["store"],
    // The stones.
    &["metrics", "record", "signals"],
    &["delivery"],
    &["event"],
    &["keyring"],
    &["outbound", "problem", "telemetry"],
    &["ingress::key", "ingress::verify", "limits", "queue::backoff"],
    &["signature", "seal", "redact", "personal"],
    &["config", "clock", "private"],
];

/// Who may name an outside crate that has one place in the house.
const CRATES: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("rusqlite", &["store"]),
    ("wasmtime", &["plugin"]),
    ("wasmparser", &["plugin::manifest"]),
    ("wit_component", &["plugin::manifest", "toolchain"]),
    ("reqwest", &["outbound"]),
    ("rustls", &["outbound"]),
    ("ring", &["signature", "seal"]),
    ("chacha20", &["seal"]),
    ("zeroize", &["seal", "keyring", "catalog", "store"]),
    ("croner", &["config"]),
    ("chrono", &["config"]),
    ("chrono_tz", &["config"]),
    ("lettre", &["outbound"]),
    ("crc32fast", &["keys"]),
    ("redis", &["signals"]),
    ("tracing_subscriber", &["telemetry"]),
    ("axum", &["ingress", "ingress::key", "ingress::verify", "admin", "app", "listen", "problem", "bench", "demo"]),
    ("hyper", &["client", "send", "bench", "demo"]),
    ("hyper_util", &["client", "send", "bench", "listen", "demo"]),
    ("clap", &["cli", "client", "send", "bench", "demo"]),
    ("getrandom", &["clock", "plugin", "demo", "bench"]),
    ("mail_parser", &["demo"]),
];

/// Files that say so at their top: no async, no clock, no I/O.
const PURE: &[&str] = &[
    "audit/chain.rs",
    "config/keep.rs",
    "config/times.rs",
    "delivery.rs",
    "event.rs",
    "ingress/key.rs",
    "ingress/verify.rs",
    "keys/format.rs",
    "keys/grant.rs",
    "limits.rs",
    "ingress/verify/hmac.rs",
    "ingress/verify/legacy.rs",
    "ingress/verify/mercado_pago.rs",
    "ingress/verify/standard_webhooks.rs",
    "ingress/verify/token.rs",
    "ingress/verify/twilio.rs",
    "personal.rs",
    "seal.rs",
    "signature.rs",
    "queue/backoff.rs",
    "queue/gate.rs",
    "queue/ready.rs",
    "outbound/address.rs",
    "redact.rs",
    "admin/mappings/changes.rs",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/src")
}

/// Each file with its path below `src` and its text without tests and comments.
pub(crate) fn files() -> Vec<(String, String)> {
    fn walk(directory: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("the source can be read") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&source(), &mut paths);
    assert!(paths.len() > 20, "only {} files were found", paths.len());
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("the file can be read");
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let name = path.strip_prefix(source()).expect("below src").to_str().expect("utf-8").to_owned();
        (name, code.join("\n"))
    };
    let is_test =
        |name: &str| name.ends_with("/tests.rs") || name == "config/cases.rs" || name.starts_with("store/conformance");
    paths.into_iter().map(read).filter(|(name, _)| !is_test(name)).collect()
}

/// The module of the house that a path of names belongs to, and its floor.
fn floor(names: &str) -> Option<(usize, &'static str)> {
    let mut parts = names.split("::");
    let first = parts.next()?;
    let second = parts.next().map(|second| format!("{first}::{second}"));
    let find = |wanted: &str| {
        FLOORS.iter().enumerate().find_map(|(at, floor)| Some((at, *floor.iter().find(|name| **name == wanted)?)))
    };
    second.as_deref().and_then(find).or_else(|| find(first))
}

fn module_of(file: &str) -> String {
    file.trim_end_matches(".rs").replace('/', "::")
}

/// What stands after each `prefix` in the text, as far as it is a path of names.
fn paths_after<'t>(text: &'t str, prefix: &str) -> Vec<&'t str> {
    text.match_indices(prefix)
        .filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
        .map(|(at, _)| {
            let rest = &text[at + prefix.len()..];
            let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '_' || c == ':' || c.is_ascii_digit()));
            rest[..end.unwrap_or(rest.len())].trim_end_matches(':')
        })
        .collect()
}

/// `use crate::{a, b::c}` as paths.
fn grouped(text: &str) -> Vec<String> {
    text.match_indices("crate::{")
        .flat_map(|(at, prefix)| {
            let rest = &text[at + prefix.len()..];
            let inside = &rest[..rest.find('}').unwrap_or(rest.len())];
            inside
                .split(',')
                .map(|name| name.trim().split("::").next().unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        })
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn imports_go_down_only() {
    let mut wrong = Vec::new();
    for (file, text) in files() {
        if ["main.rs", "lib.rs"].contains(&file.as_str()) {
            continue;
        }
        let module = module_of(&file);
        let Some((from, name)) = floor(&module) else {
            wrong.push(format!("{file}: its module has no floor: add it to FLOORS in tests/layers.rs"));
            continue;
        };
        let named = paths_after(&text, "crate::").into_iter().map(str::to_owned).chain(grouped(&text));
        for path in named.filter(|path| !path.is_empty()) {
            match floor(&path) {
                Some((_, same)) if same == name => {}
                Some((to, _)) if to > from => {}
                Some((_, other)) => wrong.push(format!("{file} names {other}, which is not below {name}")),
                None => wrong.push(format!("{file} names crate::{path}, which has no floor")),
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn outside_crates_are_named_where_they_belong() {
    let mut wrong = Vec::new();
    for (file, text) in files() {
        let module = module_of(&file);
        for (name, places) in CRATES {
            let named = !paths_after(&text, &format!("{name}::")).is_empty();
            let allowed = floor(&module).is_some_and(|(_, room)| places.contains(&room));
            if named && !allowed {
                wrong.push(format!("{file} names the crate {name}, which belongs into {places:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn pure_files_are_pure() {
    let files = files();
    let mut wrong = Vec::new();
    for pure in PURE {
        let (_, text) = files.iter().find(|(file, _)| file == pure).unwrap_or_else(|| panic!("{pure} is gone"));
        for sign in ["async ", ".await", "std::fs", "tokio::", "Instant", "SystemTime", "Clock"] {
            if text.contains(sign) {
                wrong.push(format!("{pure} has {sign:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Whoever adds a method to `Store` says there what every database has to do.
#[test]
fn the_conformance_suite_calls_every_method_of_the_store() {
    let read = |path: PathBuf| fs::read_to_string(path).expect("the file can be read");
    let text = read(source().join("store.rs"));
    let (_, methods) = text.split_once("pub(crate) trait Store").expect("the trait is in store.rs");
    let methods = methods.split("\n}\n").next().unwrap_or_default();
    let cases: String = fs::read_dir(source().join("store/conformance"))
        .expect("the suite can be read")
        .map(|entry| read(entry.expect("an entry").path()))
        .collect();
    let name = |rest: &str| rest.split('(').next().unwrap_or_default().to_owned();
    let names: Vec<String> = methods.split("async fn ").skip(1).map(name).collect();
    assert!(names.len() > 70, "only {} methods were found", names.len());
    let left_out: Vec<&String> = names.iter().filter(|name| !cases.contains(&format!(".{name}("))).collect();
    assert!(left_out.is_empty(), "no case calls {left_out:?}");
}
