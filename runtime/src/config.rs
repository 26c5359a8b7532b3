//! What `tomada.toml` may say: sources, endpoints, routes, mappings, queues, connectors. One checked [`Config`];
//! whatever is wrong is said with file, line and what was meant, and nothing is applied.
//!
//! `source` and `endpoint` are the two large sections. `read` turns text into the structs, `check` says what they may not
//! hold, `files` reads files and environment.
//! All but `files` is pure.

#[cfg(test)]
pub(crate) mod cases;
mod check;
mod endpoint;
mod files;
mod keep;
mod near;
mod read;
mod source;
pub(crate) mod times;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use check::is_name;
pub use endpoint::*;
pub use keep::Keep;

pub use files::{load, load_with_secrets, resolve};
pub use read::parse;
pub use source::*;

/// A configuration that passed every check. Names are the keys of the maps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub sources: BTreeMap<String, Source>,
    pub endpoints: BTreeMap<String, Endpoint>,
    pub routes: Vec<Route>,
    pub mappings: BTreeMap<String, Mapping>,
    pub queues: BTreeMap<String, Queue>,
    pub schedules: BTreeMap<String, Schedule>,
    pub sync_jobs: BTreeMap<String, SyncJob>,
    pub connectors: BTreeMap<String, Connector>,
    #[serde(skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    #[serde(skip_serializing_if = "Retention::is_empty")]
    pub retention: Retention,
}

/// How long what is kept, from a day on that each says. What is owed is kept in any case, until it is not owed any more.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// What events say and what was said about them, since they were accepted; 30 days. Sources and endpoints may have
    /// times of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Keep>,
    /// Dead letters with the content of their events, since they were given up; 90 days, and at least as long as content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<Keep>,
    /// Messages and logs of attempts, since the event was accepted; 30 days, and never longer than content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logs: Option<Keep>,
    /// The record of each attempt: when, how long, how it ended; 180 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Keep>,
    /// The record of events and deliveries without content; 365 days, and never shorter than what belongs to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Keep>,
    /// How long a repetition is recognised as one; 365 days, and never shorter than content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_keys: Option<Keep>,
    /// Runs of sync jobs, since they began; 180 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_jobs: Option<Keep>,
    /// The audit log; 5 years.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Keep>,
}

impl Retention {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Retention::default()
    }

    pub(crate) fn content(&self) -> Keep {
        self.content.unwrap_or(Keep::days(30))
    }

    pub(crate) fn dead_letters(&self) -> Keep {
        self.dead_letters.unwrap_or(Keep::days(90))
    }

    pub(crate) fn logs(&self) -> Keep {
        self.logs.unwrap_or(Keep::days(30))
    }

    pub(crate) fn attempts(&self) -> Keep {
        self.attempts.unwrap_or(Keep::days(180))
    }

    pub(crate) fn events(&self) -> Keep {
        self.events.unwrap_or(Keep::days(365))
    }

    pub(crate) fn idempotency_keys(&self) -> Keep {
        self.idempotency_keys.unwrap_or(Keep::days(365))
    }

    pub(crate) fn sync_jobs(&self) -> Keep {
        self.sync_jobs.unwrap_or(Keep::days(180))
    }

    pub(crate) fn audit(&self) -> Keep {
        self.audit.unwrap_or(Keep::days(5 * 365))
    }
}

/// What holds for everybody who comes to this hub's doors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests of one API key; 60 a minute, 100 at once, unless said otherwise. The machine's own key is not counted
    /// on the machine itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Rate>,
    /// Requests from one address (IPv4) or /64 (IPv6) that do not prove who sent them; 60 a minute, 100 at once, unless
    /// said otherwise. Local and private addresses are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Rate>,
    /// Networks of reverse proxies, CIDR: what they say in `X-Forwarded-For` is believed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub proxies: Vec<String>,
}

impl Limits {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Limits::default()
    }
}

/// So many requests per minute in the long run, and at most `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// 0 is no limit.
    pub per_minute: u32,
    pub burst: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Rate { per_minute: 60, burst: 100 }
    }
}

/// The queues that exist without being declared, with their fewest and most workers.
const DEFAULT_QUEUES: [(&str, (u32, u32)); 5] = [
    ("integrations-high", (2, 5)),
    ("integrations", (3, 10)),
    ("notifications", (2, 2)),
    ("integrations-low", (1, 1)),
    ("integrations-retry", (1, 1)),
];

impl Config {
    /// The configuration with the five queues that need not be declared; what is declared stays as it is.
    pub fn with_default_queues(mut self) -> Config {
        for (name, workers) in DEFAULT_QUEUES {
            self.queues.entry(name.into()).or_insert(Queue { workers, in_flight: default_in_flight() });
        }
        self
    }

    /// Every problem of a configuration that did not come from text, for instance as JSON over the API.
    pub fn check(&self) -> Vec<Problem> {
        let findings = check::check(self).into_iter();
        findings.map(|finding| Problem { file: String::new(), line: 0, column: 0, message: finding.message }).collect()
    }
}

/// One thing that is wrong with a configuration, for the person who wrote it. Never repeats the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Empty when the configuration did not come from a file.
    pub file: String,
    /// From 1; 0 when the place is not known.
    pub line: usize,
    /// In characters, from 1; 0 when the place is not known.
    pub column: usize,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem { file, line: 0, .. } if file.is_empty() => f.write_str(&self.message),
            Problem { file, line: 0, .. } => write!(f, "{file}: {}", self.message),
            Problem { file, line, column, .. } => write!(f, "{file}:{line}:{column}: {}", self.message),
        }
    }
}

impl std::error::Error for Problem {}

/// Whether a text may name events: 1 to 128 characters of `a-z`, `0-9`, `.`, `_` and `-`.
pub fn is_event_type(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
}

/// Event type → endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub event: String,
    pub endpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<String>,
    /// Instead of the queue that the webhook names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Wait before the first attempt, seconds.
    #[serde(default)]
    pub delay_s: f64,
    /// Higher goes first within a queue, −100 to 100.
    #[serde(default)]
    pub priority: i8,
    /// JSON pointer of the key in whose order deliveries to this endpoint go out, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
}

/// Only events that pass it are owed to the endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    pub pointer: String,
    /// Passes when the value is equal; without it, when there is a value that is neither null nor "".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<serde_json::Value>,
}

/// A pure component with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    #[serde(default = "default_mapping_component")]
    pub component: String,
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// CPU time, milliseconds.
    #[serde(default = "default_mapping_deadline_ms")]
    pub deadline_ms: u64,
}

impl Default for Mapping {
    fn default() -> Self {
        Mapping {
            component: default_mapping_component(),
            settings: serde_json::Map::new(),
            deadline_ms: default_mapping_deadline_ms(),
        }
    }
}

fn default_mapping_component() -> String {
    "json-map".into()
}
fn default_mapping_deadline_ms() -> u64 {
    200
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Fewest and most workers on one node.
    pub workers: (u32, u32),
    /// Deliveries that each worker keeps in flight.
    #[serde(default = "default_in_flight")]
    pub in_flight: u32,
}

fn default_in_flight() -> u32 {
    16
}

/// Times at which an event comes to be by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Five fields: minute, hour, day of month, month, day of week; six with seconds in front.
    pub cron: String,
    /// IANA name, for instance `America/Sao_Paulo`.
    #[serde(default = "utc")]
    pub time_zone: String,
    pub event: String,
    #[serde(default = "default_queue")]
    pub queue: String,
    /// Of the event; `{"schedule": …, "due_at": …}` is added.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub payload: serde_json::Map<String, serde_json::Value>,
}

/// A run with a cursor. Each page is an event `sync.NAME` that one route takes; its connector emits an event for each
/// item, and answers with a cursor when there is more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncJob {
    /// As in a schedule. Without it the job runs when it is started by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    #[serde(default = "utc")]
    pub time_zone: String,
    #[serde(default = "low_queue")]
    pub queue: String,
}

impl SyncJob {
    /// The type of the events that ask for a page.
    pub fn event(name: &str) -> String {
        format!("sync.{name}")
    }
}

fn utc() -> String {
    "UTC".into()
}
fn default_queue() -> String {
    "integrations".into()
}
fn low_queue() -> String {
    "integrations-low".into()
}

/// A component file that `apply` uploads when its digest is new.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connector {
    /// Relative to the configuration file.
    pub file: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A case is a configuration that says itself, in lines that begin with `#! `, what is wrong with it.
    #[test]
    fn every_mistake_is_said_with_its_place() {
        cases::each("config", |file, text| {
            let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
            let problems = parse(text, file).err().unwrap_or_default();
            let said: Vec<String> = problems.iter().map(Problem::to_string).collect();
            let said: Vec<&str> = said.iter().filter_map(|line| line.strip_prefix(&format!("{file}:"))).collect();
            assert_eq!(said, expected, "{file}");
        });
    }

    #[test]
    fn what_is_right_survives_the_way_through_json() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../connectors/carinho.toml");
        let config = load(&[file]).unwrap_or_else(|problems| panic!("{problems:#?}")).with_default_queues();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        assert_eq!(config.check(), []);
        assert_eq!(config.queues["integrations-high"].workers, (2, 5));
    }

    #[test]
    fn no_message_repeats_a_secret() {
        let text = "[sources.site]\nauth = { scheme = \"github\", secrets = [\"hunter2\"] }\n\
                    [sources.crm]\nauth = { scheme = \"github\", secrets = \"hunter2\" }\n\
                    [endpoints.crm]\nconnector = \"crm\"\nsecrets = { key = \"hunter2\" }\nrate_per_s = \"hunter2\"\n\
                    smtp = { server = \"a:25\", from = \"a@b.c\", username = \"hunter2\", password = \"hunter2\" }\n";
        for text in [text.to_owned(), text.replace("hunter2", "hunter2\n")] {
            let problems = parse(&text, "tomada.toml").unwrap_err();
            assert!(!format!("{problems:?}").contains("hunter2"), "{problems:#?}");
        }
    }
}
