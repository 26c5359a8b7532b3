//! A mapping without code: `settings.rules` says, for each key of the output, where its value comes from.
//!
//! A rule that is a string is a path into the payload, keys and list positions joined by dots (`lead.phones.0`). Any
//! other rule is an object with a `type`, see [`Rule`]. Every key of `rules` stands in the output: what is not found
//! is null, as the predecessor of this hub had it. A value that is null counts as not found.

mod date;

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Number};
use tomada_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Each is read on its own, so that a mistake can be told with its key.
    rules: BTreeMap<String, Box<RawValue>>,
}

/// Where the value of one key of the output comes from.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Rule {
    /// The value at `source`, else `default`.
    Direct { source: String, default: Option<Json> },
    /// The texts at `sources`, joined; empty ones, lists and objects are left out.
    Concat {
        sources: Vec<String>,
        #[serde(default = "space")]
        separator: String,
    },
    /// The entry of `map` for the value at `source`; else `default`; else the value itself.
    Map { source: String, map: Map<String, Json>, default: Option<Json> },
    /// The time at `source` in the format of PHP's `date()`; null when it cannot be read.
    Date {
        source: String,
        #[serde(default = "date_and_time")]
        format: String,
    },
    /// The number at `source`, which may be text; else `default`.
    Number {
        source: String,
        #[serde(default)]
        number_type: NumberType,
        default: Option<Json>,
    },
    /// Whether PHP takes the value at `source` for true: false are null, false, 0, "", "0", [] and {}.
    Boolean { source: String },
    /// A list of values, or an object of them.
    Array { sources: Sources },
    /// Always `value`, else `default`.
    Static { value: Option<Json>, default: Option<Json> },
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum NumberType {
    Int,
    #[default]
    Float,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Sources {
    List(Vec<String>),
    Object(BTreeMap<String, String>),
}

fn space() -> String {
    " ".to_owned()
}
fn date_and_time() -> String {
    "Y-m-d H:i:s".to_owned()
}

#[mapping(name = "json-map", description = "Maps a JSON payload by rules that stand in its settings.")]
fn map(event: Event<Json>, settings: Settings) -> Result<Mapped<Json>, Detail> {
    let mut output = Map::new();
    for (key, rule) in settings.rules {
        let rule = read_rule(&key, rule.get())?;
        output.insert(key, rule.value(&event.payload));
    }
    Ok(Mapped::Payload(Json::Object(output)))
}

fn read_rule(key: &str, json: &str) -> Result<Rule, Detail> {
    let rule = if json.starts_with('"') {
        serde_json::from_str(json).map(|source| Rule::Direct { source, default: None })
    } else {
        serde_json::from_str(json)
    };
    rule.map_err(|error| {
        let error = error.to_string();
        let error = error.rsplit_once(" at line ").map_or(error.as_str(), |(what, _)| what);
        let meant = "a rule is a path (\"lead.phone\") or an object with a `type`";
        Detail::new("rule-invalid", format!("the rule of `{key}` cannot be read: {error}; {meant}"))
    })
}

impl Rule {
    fn value(self, payload: &Json) -> Json {
        match self {
            Rule::Direct { source, default } => find(payload, &source).cloned().or(default).unwrap_or_default(),
            Rule::Concat { sources, separator } => {
                let texts = sources.iter().filter_map(|source| text(find(payload, source)?));
                texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(&separator).into()
            }
            Rule::Map { source, mut map, default } => {
                let value = find(payload, &source);
                let entry = value.and_then(text).and_then(|text| map.remove(&text));
                entry.or(default).or_else(|| value.cloned()).unwrap_or_default()
            }
            Rule::Date { source, format } => {
                find(payload, &source).and_then(date::Moment::read).map(|moment| moment.format(&format)).into()
            }
            Rule::Number { source, number_type, default } => {
                find(payload, &source).and_then(|value| number(value, number_type)).or(default).unwrap_or_default()
            }
            Rule::Boolean { source } => find(payload, &source).is_some_and(is_true).into(),
            Rule::Array { sources: Sources::List(sources) } => {
                sources.iter().map(|source| find(payload, source).cloned().unwrap_or_default()).collect()
            }
            Rule::Array { sources: Sources::Object(sources) } => sources
                .into_iter()
                .map(|(key, source)| (key, find(payload, &source).cloned().unwrap_or_default()))
                .collect(),
            Rule::Static { value, default } => value.or(default).unwrap_or_default(),
        }
    }
}

/// The value at a path; null is as good as none.
fn find<'a>(payload: &'a Json, path: &str) -> Option<&'a Json> {
    let mut value = payload;
    for step in path.split('.') {
        value = match value {
            Json::Object(object) => object.get(step)?,
            Json::Array(list) => list.get(step.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    (!value.is_null()).then_some(value)
}

/// As PHP makes a text of it: true is "1" and false is empty.
fn text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(true) => Some("1".to_owned()),
        Json::Bool(false) => Some(String::new()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

fn number(value: &Json, number_type: NumberType) -> Option<Json> {
    let (whole, float) = match value {
        Json::Number(number) => (number.as_i64(), number.as_f64()?),
        Json::String(text) => (text.trim().parse().ok(), read_float(text.trim())?),
        _ => return None,
    };
    match number_type {
        NumberType::Float => Number::from_f64(float).map(Json::Number),
        // Towards zero; beyond 64 bits it is no integer.
        NumberType::Int => whole.or((float.abs() < i64::MAX as f64).then_some(float as i64)).map(Json::from),
    }
}

/// A decimal number, which may begin with `+`, zeros or its point. It is read by the JSON parser, which is here anyway:
/// the one of `str::parse` would bring 10 KiB of tables, and with them a third page of memory to be wiped after each
/// delivery.
fn read_float(text: &str) -> Option<f64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    let zero = if digits.starts_with(|c: char| c.is_ascii_digit()) { "" } else { "0" };
    let float: f64 = serde_json::from_str(&format!("{zero}{digits}")).ok()?;
    Some(if text.starts_with('-') { -float } else { float })
}

fn is_true(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(value) => *value,
        Json::Number(number) => number.as_f64() != Some(0.0),
        Json::String(text) => !matches!(text.as_str(), "" | "0"),
        Json::Array(list) => !list.is_empty(),
        Json::Object(object) => !object.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use tomada_sdk::test::{Host, event};

    /// `cases/NAME.json`: what comes out of `input` by `rules` is `output`, or the message of its error holds `error`.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        input: Json,
        rules: Json,
        output: Option<Json>,
        error: Option<String>,
    }

    #[test]
    fn cases() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
        let mut ran = 0;
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            let case: Case = serde_json::from_slice(&fs::read(&path).unwrap())
                .unwrap_or_else(|error| panic!("{name} is no case: {error}"));
            let mapped = Host::new().settings(json!({"rules": case.rules})).map(map, event("test", case.input));
            match (mapped, case.output, case.error) {
                (Ok(mapped), Some(output), None) => assert_eq!(mapped, Mapped::Payload(output), "{name}"),
                (Err(detail), None, Some(error)) => {
                    assert_eq!(detail.code, "rule-invalid", "{name}");
                    assert!(detail.message.contains(&error), "{name}: {}", detail.message);
                }
                (result, ..) => panic!("{name}: {result:?}"),
            }
            ran += 1;
        }
        assert!(ran > 0, "there are no cases");
    }
}
