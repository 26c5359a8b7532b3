//! What the hub logs: constant messages, and fields that are on a list with what each may hold. Whatever is not on it
//! is named and left out, so that no log holds what people sent.
//!
//! * Our own events: each field is written as its [`Kind`] lets it; free text (`error`, `detail`) passes the redactor.
//! * Events of other crates, at every level: who and where (`hyper::proto:123`), and nothing that they say. Their
//!   messages and fields hold addresses, headers, statements, and nobody here decides what comes next.
//! * Panics: where, and what they say without what they quote.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::redact::{panic_text, redact};

/// What a field may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Ids, digests, and names that an operator chose: letters, digits and `_ . : / -`, at most [`MAX_WORD`] bytes.
    Name,
    /// A constant of ours, or one of few words: the same, and spaces and arrows.
    Word,
    /// What a connector calls a failure: lower case with hyphens, and no number that could be somebody's.
    Code,
    Number,
    /// Scheme, host and port.
    Url,
    /// Part of an address, as [`crate::redact::Network`] prints it.
    Network,
    /// Free text, which the redactor goes over.
    Text,
}

/// Every field that may be logged.
const FIELDS: &[(&str, Kind)] = &[
    ("action", Kind::Word),
    ("at", Kind::Word),
    ("attempt", Kind::Number),
    ("broken", Kind::Number),
    ("code", Kind::Code),
    ("connector", Kind::Name),
    ("deliveries", Kind::Number),
    ("delivery", Kind::Name),
    ("detail", Kind::Text),
    ("digest", Kind::Name),
    ("endpoint", Kind::Name),
    ("error", Kind::Text),
    ("event", Kind::Name),
    ("from", Kind::Network),
    ("http_status", Kind::Number),
    ("job", Kind::Name),
    ("key", Kind::Name),
    ("kind", Kind::Word),
    ("limit", Kind::Word),
    ("machine", Kind::Name),
    ("name", Kind::Word),
    ("node", Kind::Number),
    ("outcome", Kind::Word),
    ("reason", Kind::Word),
    ("rows", Kind::Number),
    ("rule", Kind::Word),
    ("count", Kind::Number),
    ("secret", Kind::Number),
    ("source", Kind::Name),
    ("thread", Kind::Word),
    ("url", Kind::Url),
];

/// Bytes of a name or word.
const MAX_WORD: usize = 160;
/// Bytes of a connector's code for a failure.
const MAX_CODE: usize = 64;
/// Digits in a row that a connector's code may have: `http-500`.
const MAX_CODE_DIGITS: usize = 4;
const NOT_LOGGED: &str = "<not logged>";

/// The names on the list, for the test that reads the source.
pub fn fields() -> Vec<&'static str> {
    FIELDS.iter().map(|(name, _)| *name).collect()
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `2026-01-01T00:00:00.000000Z  INFO ready url=http://127.0.0.1:8080`
    Text {
        /// Levels in the colours of a terminal.
        colours: bool,
    },
    /// One JSON object a line: `timestamp`, `level`, `fields` with the `message`.
    Json,
}

/// Writes events line by line.
pub struct Telemetry<W> {
    format: Format,
    write: W,
}

impl<W: Fn(&str)> Telemetry<W> {
    /// `write` gets each line with its end, whole.
    pub fn new(format: Format, write: W) -> Telemetry<W> {
        Telemetry { format, write }
    }
}

impl<S: Subscriber, W: Fn(&str) + 'static> Layer<S> for Telemetry<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut said = Said::default();
        if is_ours(metadata.target()) {
            event.record(&mut said);
        } else {
            said.message = "another crate".to_owned();
            let place = format!("{}:{}", metadata.target(), metadata.line().unwrap_or_default());
            said.take("at", &Raw::Text(&place));
        }
        (self.write)(&line(self.format, metadata.level(), &said));
    }
}

fn is_ours(target: &str) -> bool {
    target.strip_prefix("tomada").is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Logs to standard error, with `TOMADA_LOG` as filter (`info` by default), panics included.
pub(crate) fn install(json: bool) {
    let format = match json {
        true => Format::Json,
        false => Format::Text { colours: std::io::stderr().is_terminal() },
    };
    let filter = EnvFilter::try_from_env("TOMADA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let telemetry = Telemetry::new(format, |line: &str| {
        use std::io::Write as _;
        // Nobody is left to be told.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    });
    tracing_subscriber::registry().with(filter).with(telemetry).init();
    std::panic::set_hook(Box::new(|panic| {
        // Absolute paths are those of the machine that built it.
        let at = panic.location().map(|at| format!("{}:{}", last_parts(at.file()), at.line())).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(at, thread = thread.name(), error = panic_text(panic.payload()), "panicked");
    }));
}

fn last_parts(path: &str) -> &str {
    match path.rmatch_indices('/').nth(3) {
        Some((at, _)) if path.starts_with('/') => &path[at + 1..],
        _ => path,
    }
}

/// A value as it was given.
enum Raw<'v> {
    Number(serde_json::Number),
    Bool(bool),
    Text(&'v str),
}

/// What may be written of an event.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Said {
    fn take(&mut self, name: &'static str, raw: &Raw<'_>) {
        let kind = FIELDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        let value = kind.and_then(|kind| allowed(kind, raw)).unwrap_or_else(|| NOT_LOGGED.into());
        self.fields.push((name, value));
    }

    fn record(&mut self, field: &Field, raw: &Raw<'_>) {
        match raw {
            // A constant, which the test over the source sees to.
            Raw::Text(text) if field.name() == "message" => self.message = redact(text),
            _ => self.take(field.name(), raw),
        }
    }
}

/// The value, if it is what its kind allows.
fn allowed(kind: Kind, raw: &Raw<'_>) -> Option<Value> {
    let text = match raw {
        Raw::Number(number) => return (kind == Kind::Number).then(|| number.clone().into()),
        Raw::Bool(flag) => return (kind == Kind::Number).then(|| (*flag).into()),
        Raw::Text(text) => *text,
    };
    let of = |max: usize, is: fn(char) -> bool| text.len() <= max && text.chars().all(is);
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_.:/-".contains(c);
    match kind {
        Kind::Name => of(MAX_WORD, is_name).then(|| redact(text).into()),
        // A route's name has an arrow.
        Kind::Word => {
            of(MAX_WORD, |c| c.is_ascii_alphanumeric() || "_.:/- →*".contains(c)).then(|| redact(text).into())
        }
        Kind::Code => {
            let few_digits = text.split(|c: char| !c.is_ascii_digit()).all(|digits| digits.len() <= MAX_CODE_DIGITS);
            let is_code = of(MAX_CODE, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            (is_code && few_digits).then(|| text.into())
        }
        Kind::Number => text.parse::<u64>().ok().map(Value::from),
        Kind::Url => {
            let url = url::Url::parse(text).ok()?;
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            Some(format!("{}://{}{port}", url.scheme(), url.host_str()?).into())
        }
        Kind::Network => {
            text.parse::<ipnet::IpNet>().ok().filter(|net| net.trunc() == *net).map(|net| net.to_string().into())
        }
        Kind::Text => Some(redact(text).into()),
    }
}

impl Visit for Said {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record(field, &Raw::Number(value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record(field, &Raw::Number(value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        match serde_json::Number::from_f64(value) {
            Some(number) => self.record(field, &Raw::Number(number)),
            None => self.record(field, &Raw::Text("")),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record(field, &Raw::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, &Raw::Text(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, &Raw::Text(&format!("{value:?}")));
    }
}

fn line(format: Format, level: &Level, said: &Said) -> String {
    let mut at = String::new();
    // It writes into memory.
    let _ = SystemTime.format_time(&mut Writer::new(&mut at));
    let mut line = match format {
        Format::Json => {
            let mut fields = Map::new();
            fields.insert("message".to_owned(), said.message.clone().into());
            fields.extend(said.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            serde_json::json!({ "timestamp": at, "level": level.as_str(), "fields": fields }).to_string()
        }
        Format::Text { colours } => {
            let mut line = at;
            match colours {
                true => {
                    let colour = colour(level);
                    let _ = write!(line, " {colour}{:>5}{colour:#} ", level.as_str());
                }
                false => {
                    let _ = write!(line, " {:>5} ", level.as_str());
                }
            }
            line.push_str(&one_line(&said.message));
            for (name, value) in &said.fields {
                let _ = match value {
                    Value::String(text) => write!(line, " {name}={}", one_line(text)),
                    other => write!(line, " {name}={other}"),
                };
            }
            line
        }
    };
    line.push('\n');
    line
}

/// Text that ends no line and moves no cursor.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn colour(level: &Level) -> anstyle::Style {
    use anstyle::AnsiColor::{Blue, Green, Magenta, Red, Yellow};
    let colour = match *level {
        Level::ERROR => Red,
        Level::WARN => Yellow,
        Level::INFO => Green,
        Level::DEBUG => Blue,
        Level::TRACE => Magenta,
    };
    colour.on_default()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn logged(format: Format, log: impl FnOnce()) -> String {
        let lines = Arc::new(Mutex::new(String::new()));
        let into = lines.clone();
        let telemetry = Telemetry::new(format, move |line: &str| into.lock().unwrap().push_str(line));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(telemetry), log);
        lines.lock().unwrap().clone()
    }

    const MARKER: &str = "Ana Souza 4242";

    fn everything() {
        tracing::info!(name = MARKER, "a name with what no name has is a word and shows");
        tracing::info!(phone = MARKER, ?MARKER, "a field that is not on the list");
        tracing::info!(source = MARKER, url = "https://user:pw@example.com:8443/Ana?token=1#Souza", "a name");
        tracing::info!(code = "ana-5511911647065", http_status = 500_u16, attempt = "Ana", "a code");
        tracing::info!(error = %"ana@example.com\nsays no", from = "203.0.113.7", "a text");
        tracing::trace!(target: "hyper::proto", header = MARKER, "{MARKER}");
        tracing::error!(target: "tomadax", error = MARKER, "{MARKER}");
    }

    #[test]
    fn only_what_is_on_the_list_is_written() {
        let text = logged(Format::Text { colours: false }, everything);
        let lines: Vec<&str> = text.lines().map(|line| line.split_once("Z ").unwrap().1).collect();
        assert_eq!(lines[0], " INFO a name with what no name has is a word and shows name=Ana Souza 4242");
        assert_eq!(lines[1], " INFO a field that is not on the list phone=<not logged> MARKER=<not logged>");
        assert_eq!(lines[2], " INFO a name source=<not logged> url=https://example.com:8443");
        assert_eq!(lines[3], " INFO a code code=<not logged> http_status=500 attempt=<not logged>");
        assert_eq!(lines[4], " INFO a text error=<email> says no from=<not logged>");
        assert!(lines[5].starts_with("TRACE another crate at=hyper::proto:"), "{}", lines[5]);
        assert!(lines[6].starts_with("ERROR another crate at=tomadax:"), "{}", lines[6]);
        assert_eq!(lines.len(), 7);
    }

    #[test]
    fn json_says_the_same() {
        let text = logged(Format::Json, everything);
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 7);
        assert_eq!(lines[3]["level"], "INFO");
        assert_eq!(lines[3]["fields"]["http_status"], 500);
        assert_eq!(lines[4]["fields"]["error"], "<email>\nsays no");
        assert_eq!(lines[1]["fields"]["phone"], NOT_LOGGED);
        assert!(lines[0]["timestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(text.matches("Ana").count(), 1, "in the name alone: {text}");
    }
}
