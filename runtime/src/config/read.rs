//! Reads the text of configuration files: every mistake of shape at once, each with its line.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::check::{Finding, check, place};
use super::near::{hint, nearest};
use super::{Config, Problem, Retention};

const SECTIONS: [&str; 10] = [
    "sources",
    "endpoints",
    "routes",
    "mappings",
    "queues",
    "schedules",
    "sync_jobs",
    "connectors",
    "limits",
    "retention",
];

/// Reads and checks one file. `file` is only its name in messages; relative paths in the configuration stay as they are.
pub fn parse(text: &str, file: &str) -> Result<Config, Vec<Problem>> {
    let mut problems = Vec::new();
    let part = Part::read(file, text, &mut problems);
    finish(vec![part], problems, |_| Vec::new())
}

/// One file as it was read, kept so that what is found later has a line.
pub(super) struct Part<'t> {
    file: &'t str,
    text: &'t str,
    root: Spanned<DeValue<'t>>,
    pub(super) config: Config,
    /// Whether every thing in the file could be built.
    complete: bool,
}

/// The files together, checked, also by `more`. A thing may be declared once; routes are appended in the order of the files.
pub(super) fn finish(
    parts: Vec<Part<'_>>,
    mut problems: Vec<Problem>,
    more: impl Fn(&Config) -> Vec<Finding>,
) -> Result<Config, Vec<Problem>> {
    let mut whole = Config::default();
    for (at, part) in parts.iter().enumerate() {
        for (section, name) in part.names() {
            let earlier =
                parts[..at].iter().find_map(|earlier| Some((earlier, earlier.position_of_name(section, name)?)));
            if let Some((earlier, (line, _))) = earlier {
                let path = [section.to_owned(), name.to_owned()];
                let message = format!("{} is declared in {}:{line} already", place(&path), earlier.file);
                problems.push(part.problem(&path, message));
            }
        }
        let Config {
            sources,
            endpoints,
            routes,
            mappings,
            queues,
            schedules,
            sync_jobs,
            connectors,
            limits,
            retention,
        } = part.config.clone();
        whole.sources.extend(sources);
        whole.endpoints.extend(endpoints);
        whole.routes.extend(routes);
        whole.mappings.extend(mappings);
        whole.queues.extend(queues);
        whole.schedules.extend(schedules);
        whole.sync_jobs.extend(sync_jobs);
        whole.connectors.extend(connectors);
        whole.limits.api_key = whole.limits.api_key.or(limits.api_key);
        whole.limits.address = whole.limits.address.or(limits.address);
        whole.limits.proxies.extend(limits.proxies);
        let Retention { content, dead_letters, logs, attempts, events, idempotency_keys, sync_jobs, audit } = retention;
        let times = &mut whole.retention;
        for (time, said) in [
            (&mut times.content, content),
            (&mut times.dead_letters, dead_letters),
            (&mut times.logs, logs),
            (&mut times.attempts, attempts),
            (&mut times.events, events),
            (&mut times.idempotency_keys, idempotency_keys),
            (&mut times.sync_jobs, sync_jobs),
            (&mut times.audit, audit),
        ] {
            *time = time.or(said);
        }
    }
    // With a thing missing the checks would blame those who refer to it.
    if parts.iter().all(|part| part.complete) {
        let findings = check(&whole).into_iter().chain(more(&whole));
        problems.extend(findings.map(|finding| locate(&parts, finding)));
    }
    if problems.is_empty() {
        return Ok(whole);
    }
    problems.sort();
    problems.dedup();
    Err(problems)
}

/// Finds the file of something in the whole configuration, and the line.
fn locate(parts: &[Part<'_>], finding: Finding) -> Problem {
    let mut path = finding.path;
    for part in parts {
        if path[0] == "routes" {
            let at: usize = path[1].parse().unwrap_or(0);
            if at >= part.config.routes.len() {
                path[1] = (at - part.config.routes.len()).to_string();
                continue;
            }
        } else if part.position_of_name(&path[0], &path[1]).is_none() {
            continue;
        }
        return part.problem(&path, finding.message);
    }
    Problem { file: String::new(), line: 0, column: 0, message: finding.message }
}

impl<'t> Part<'t> {
    pub(super) fn read(file: &'t str, text: &'t str, problems: &mut Vec<Problem>) -> Part<'t> {
        let (tree, errors) = DeTable::parse_recoverable(text);
        let root = Spanned::new(tree.span(), DeValue::Table(tree.into_inner()));
        let mut part = Part { file, text, root, config: Config::default(), complete: errors.is_empty() };
        // What the parser guessed after a mistake is not worth checking.
        if !part.complete {
            problems.extend(errors.iter().map(|error| part.syntax_problem(error)));
            return part;
        }
        let mut reader = Reader { part: &part, problems, complete: true };
        let config = Config {
            sources: reader.named("sources"),
            endpoints: reader.named("endpoints"),
            routes: reader.listed("routes"),
            mappings: reader.named("mappings"),
            queues: reader.named("queues"),
            schedules: reader.named("schedules"),
            sync_jobs: reader.named("sync_jobs"),
            connectors: reader.named("connectors"),
            limits: reader.table("limits"),
            retention: reader.table("retention"),
        };
        reader.refuse_unknown_sections();
        let complete = reader.complete;
        part.config = config;
        part.complete = complete;
        part
    }

    fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        let sections = self.root.get_ref().as_table().into_iter().flatten();
        let tables = sections.filter_map(|(section, value)| Some((&**section.get_ref(), value.get_ref().as_table()?)));
        tables.flat_map(|(section, table)| table.keys().map(move |name| (section, &**name.get_ref())))
    }

    fn position_of_name(&self, section: &str, name: &str) -> Option<(usize, usize)> {
        let (_, things) = child(&self.root, section)?;
        things.get_ref().as_table()?;
        Some(position(self.text, child(things, name)?.0.start))
    }

    /// At the value, or at the key of what is a table, a list or not there at all.
    fn problem(&self, path: &[String], message: String) -> Problem {
        let mut here = &self.root;
        let mut start = 0;
        for step in path {
            let Some((key, value)) = child(here, step) else { break };
            let scalar = !value.get_ref().is_table() && !value.get_ref().is_array();
            start = if scalar { value.span().start } else { key.start };
            here = value;
        }
        self.problem_at(start, message)
    }

    /// At the key, although it has a value.
    fn key_problem(&self, path: &[String], message: String) -> Problem {
        let mut here = &self.root;
        let mut start = 0;
        for step in path {
            let Some((key, value)) = child(here, step) else { break };
            start = key.start;
            here = value;
        }
        self.problem_at(start, message)
    }

    fn problem_at(&self, offset: usize, message: String) -> Problem {
        let (line, column) = position(self.text, offset);
        Problem { file: self.file.into(), line, column, message }
    }

    fn syntax_problem(&self, error: &toml::de::Error) -> Problem {
        self.problem_at(error.span().map_or(0, |span| span.start), format!("not TOML: {}", error.message()))
    }
}

/// Line and column of an offset in bytes, both from 1; the column counts characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

struct Reader<'r, 't> {
    part: &'r Part<'t>,
    problems: &'r mut Vec<Problem>,
    complete: bool,
}

impl<'t> Reader<'_, 't> {
    fn named<T: DeserializeOwned>(&mut self, section: &str) -> BTreeMap<String, T> {
        let Some((_, value)) = child(&self.part.root, section) else { return BTreeMap::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.say(value.span(), format!("{section} must be tables, for instance [{section}.name]"));
            self.complete = false;
            return BTreeMap::new();
        };
        let things = table.iter().filter_map(|(name, value)| {
            let path = vec![section.to_owned(), name.get_ref().to_string()];
            Some((name.get_ref().to_string(), self.thing(path, value)?))
        });
        things.collect()
    }

    fn table<T: DeserializeOwned + Default>(&mut self, section: &str) -> T {
        let Some((_, value)) = child(&self.part.root, section) else { return T::default() };
        self.thing(vec![section.to_owned()], value).unwrap_or_default()
    }

    fn listed<T: DeserializeOwned>(&mut self, section: &str) -> Vec<T> {
        let Some((_, value)) = child(&self.part.root, section) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.say(value.span(), format!("{section} must be a list, each begun with [[{section}]]"));
            self.complete = false;
            return Vec::new();
        };
        let things = array.iter().enumerate();
        things.filter_map(|(at, value)| self.thing(vec![section.to_owned(), at.to_string()], value)).collect()
    }

    fn refuse_unknown_sections(&mut self) {
        let names = self.part.root.get_ref().as_table().into_iter().flat_map(|table| table.keys());
        for name in names.filter(|name| !SECTIONS.contains(&&**name.get_ref())) {
            let word = name.get_ref();
            let hint = nearest(word, SECTIONS).map_or_else(
                || format!(": there are {}", SECTIONS.join(", ")),
                |meant| format!(": did you mean \"{meant}\"?"),
            );
            self.say(name.span(), format!("unknown section \"{word}\"{hint}"));
        }
    }

    /// Serde stops at the first mistake. So each one is reported and taken out, and the rest is read again, until it
    /// passes or what is wrong is needed.
    fn thing<T: DeserializeOwned>(&mut self, path: Vec<String>, value: &Spanned<DeValue<'t>>) -> Option<T> {
        let mut value = value.clone();
        self.refuse_unfit_values(&path, &value);
        // Keys that a reported mistake accounts for: that they are missing need not be said again.
        let mut explained: Vec<String> = Vec::new();
        loop {
            let error = match T::deserialize(ValueDeserializer::from(value.clone())) {
                Ok(thing) => return Some(thing),
                Err(error) => error,
            };
            let span = error.span().unwrap_or_else(|| value.span());
            let mistake = Mistake::of(&error);
            let unknown = match &mistake {
                Mistake::UnknownKey { key, .. } => Some(key.as_str()),
                _ => None,
            };
            let mut inner = seek(&value, &span, unknown).unwrap_or_default();
            if error.message().starts_with("invalid ") {
                inner.extend(guilty_key::<T>(&value, &inner, &error));
            }
            let full = [path.as_slice(), inner.as_slice()].concat();
            match mistake {
                Mistake::Missing(key) => {
                    if !explained.contains(&key) {
                        self.problems.push(self.part.problem(&full, format!("{} needs {key}", place(&full))));
                    }
                    self.complete = false;
                }
                Mistake::UnknownKey { key, known } => {
                    let owner = place(&full[..full.len() - 1]);
                    let mut message = format!("unknown key \"{key}\" in {owner}");
                    match nearest(&key, known.iter().map(String::as_str)) {
                        Some(meant) => {
                            message.push_str(&format!(": did you mean \"{meant}\"?"));
                            explained.push(meant.to_owned());
                        }
                        None => message.push_str(&format!(": it takes {}", known.join(", "))),
                    }
                    self.problems.push(self.part.key_problem(&full, message));
                }
                Mistake::Value(what) => {
                    self.problems.push(self.part.problem(&full, format!("{} {what}", place(&full))));
                }
            }
            explained.extend(inner.iter().cloned());
            if !remove(&mut value, &inner) {
                self.complete = false;
                return None;
            }
        }
    }

    /// TOML has values that JSON has not, and the settings are handed to components as JSON.
    fn refuse_unfit_values(&mut self, path: &[String], value: &Spanned<DeValue<'t>>) {
        let mut inner = |step: &str, value| self.refuse_unfit_values(&[path, &[step.to_owned()]].concat(), value);
        match value.get_ref() {
            DeValue::Table(table) => table.iter().for_each(|(key, value)| inner(key.get_ref(), value)),
            DeValue::Array(array) => array.iter().enumerate().for_each(|(at, value)| inner(&at.to_string(), value)),
            DeValue::Datetime(_) => self.say(value.span(), format!("{} is a date: write it in quotes", place(path))),
            DeValue::Float(float) if float.as_str().contains(['n', 'i']) => {
                self.say(value.span(), format!("{} must be a finite number", place(path)));
            }
            _ => {}
        }
        if let ([section, _, field], DeValue::Array(array)) = (path, value.get_ref())
            && section == "queues"
            && field == "workers"
            && array.len() > 2
        {
            self.say(value.span(), format!("{} must be two numbers, [fewest, most]", place(path)));
        }
    }

    fn say(&mut self, span: Range<usize>, message: String) {
        self.problems.push(self.part.problem_at(span.start, message));
    }
}

/// What a step leads to, and where its key stands; an element of a list is its own key.
fn child<'a, 't>(value: &'a Spanned<DeValue<'t>>, step: &str) -> Option<(Range<usize>, &'a Spanned<DeValue<'t>>)> {
    match value.get_ref() {
        DeValue::Table(table) => table.get_key_value(step).map(|(key, value)| (key.span(), value)),
        DeValue::Array(array) => array.get(step.parse::<usize>().ok()?).map(|value| (value.span(), value)),
        _ => None,
    }
}

/// The path of what serde complained about, from the place that it named: the value or key itself, or for an unknown
/// key perhaps only the table around it. The deepest one, because an array of tables begins where its first table does.
fn seek(value: &Spanned<DeValue<'_>>, span: &Range<usize>, unknown: Option<&str>) -> Option<Vec<String>> {
    let under = |step: String, value| seek(value, span, unknown).map(|rest| [vec![step], rest].concat());
    let deeper = match value.get_ref() {
        DeValue::Table(table) => table.iter().find_map(|(key, value)| under(key.get_ref().to_string(), value)),
        DeValue::Array(array) => array.iter().enumerate().find_map(|(at, value)| under(at.to_string(), value)),
        _ => None,
    };
    if deeper.is_some() {
        return deeper;
    }
    let table = value.get_ref().as_table();
    match unknown {
        Some(key) => {
            let (key_span, _) = child(value, key)?;
            (value.span() == *span || key_span == *span).then(|| vec![key.to_owned()])
        }
        None if value.span() == *span => Some(Vec::new()),
        None => {
            let (key, _) = table?.iter().find(|(key, _)| key.span() == *span)?;
            Some(vec![key.get_ref().to_string()])
        }
    }
}

/// Of a tagged enum serde names only the table. The key at fault is the one without which the complaint is another.
fn guilty_key<T: DeserializeOwned>(
    value: &Spanned<DeValue<'_>>,
    path: &[String],
    complaint: &toml::de::Error,
) -> Option<String> {
    let table = path.iter().try_fold(value, |value, step| Some(child(value, step)?.1))?.get_ref().as_table()?;
    let is_guilty = |key: &String| {
        let mut rest = value.clone();
        remove(&mut rest, &[path, std::slice::from_ref(key)].concat());
        T::deserialize(ValueDeserializer::from(rest)).err().is_none_or(|error| error.message() != complaint.message())
    };
    table.keys().map(|key| key.get_ref().to_string()).filter(|key| key != "scheme").find(is_guilty)
}

/// Takes out what the path leads to, or the list that it stands in.
fn remove(value: &mut Spanned<DeValue<'_>>, path: &[String]) -> bool {
    let Some((step, rest)) = path.split_first() else { return false };
    match value.get_mut() {
        DeValue::Table(table) => {
            table.get_mut(step.as_str()).is_some_and(|inner| remove(inner, rest))
                || table.remove(step.as_str()).is_some()
        }
        DeValue::Array(array) => {
            let element = step.parse::<usize>().ok().and_then(|at| array.get_mut(at));
            element.is_some_and(|inner| remove(inner, rest))
        }
        _ => false,
    }
}

/// What serde's message says, so that ours can say it in the words of the file.
enum Mistake {
    Missing(String),
    UnknownKey {
        key: String,
        known: Vec<String>,
    },
    /// The rest of a sentence that begins with the place.
    Value(String),
}

impl Mistake {
    fn of(error: &toml::de::Error) -> Mistake {
        let message = error.message();
        let quoted: Vec<String> = message.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        if message.starts_with("missing field") {
            return Mistake::Missing(quoted.first().cloned().unwrap_or_default());
        }
        if message.starts_with("unknown field") && !quoted.is_empty() {
            return Mistake::UnknownKey { key: quoted[0].clone(), known: quoted[1..].to_vec() };
        }
        if message.starts_with("unknown variant") && !quoted.is_empty() {
            let known = &quoted[1..];
            let hint = hint(&quoted[0], known.iter().map(String::as_str));
            return Mistake::Value(format!("is \"{}\"{hint} (there are {})", quoted[0], known.join(", ")));
        }
        // `invalid type: string "…", expected u32`; what was found is not repeated, because it may be a secret.
        if let Some((found, expected)) = message.split_once(", expected ")
            && found.starts_with("invalid ")
        {
            return Mistake::Value(format!("must be {}{}", in_words(expected), found_in_words(found)));
        }
        Mistake::Value(format!("must be {message}"))
    }
}

fn in_words(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "i8" => "a whole number from -128 to 127",
        "i32" | "i64" => "a whole number",
        "f64" => "a number",
        "a string" => "text in quotes",
        "a sequence" => "a list",
        "a boolean" => "true or false",
        "a map" => "a table",
        "a tuple of size 2" => "two numbers, [fewest, most]",
        other if other.starts_with("struct ") => "a table",
        other if other.starts_with("internally tagged enum ") => "a table with a scheme",
        other => other,
    }
}

fn found_in_words(found: &str) -> &'static str {
    let Some(kind) = found.strip_prefix("invalid type: ") else { return "" };
    match kind.split([' ', '`']).next().unwrap_or_default() {
        "string" => ", not text",
        "integer" => ", not a number",
        "floating" => ", not a fraction",
        "boolean" => ", not true or false",
        "sequence" => ", not a list",
        "map" => ", not a table",
        _ => "",
    }
}
