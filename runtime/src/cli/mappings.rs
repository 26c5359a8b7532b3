//! `tomada mappings`: look at mappings and their versions, edit, try and switch them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::operate::{coloured, encoded, items, print, short, text};
use crate::client::HubArgs;

#[derive(Subcommand)]
pub(super) enum Mappings {
    /// List mappings: component, version in force, the routes that use them
    List {
        #[command(flatten)]
        hub: HubArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a mapping's settings and versions
    Show {
        name: String,
        /// The settings of this version, instead of the one in force
        #[arg(long, value_name = "N")]
        version: Option<i64>,
        /// Only print the settings, as a file for `put`
        #[arg(long, conflicts_with = "json")]
        settings: bool,
        #[command(flatten)]
        hub: HubArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Store a new version; it is in force when the command returns
    Put(Put),
    /// Run a mapping on a sample, a stored event or the latest ones, and change nothing
    Try(Try),
    /// Put a version in force that was stored before
    Activate {
        name: String,
        version: i64,
        #[command(flatten)]
        hub: HubArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(super) struct Put {
    name: String,
    /// TOML or JSON: the settings, the whole mapping, or a tomada.toml that has it; - for standard input
    file: PathBuf,
    /// What runs it, instead of the component in force (of a new mapping json-map)
    #[arg(long)]
    component: Option<String>,
    /// Only store it
    #[arg(long)]
    no_activate: bool,
    /// Only when this version is in force (0: none), so that nobody else's edit is lost
    #[arg(long, value_name = "N")]
    if_version: Option<i64>,
    #[command(flatten)]
    hub: HubArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(id = "on", required = true, multiple = false)]
pub(super) struct Try {
    name: String,
    /// On a stored event, evt_…
    #[arg(long, value_name = "ID", group = "on")]
    event: Option<String>,
    /// On this payload
    #[arg(long, value_name = "TEXT", group = "on")]
    json: Option<String>,
    /// On the payload in a file, - for standard input
    #[arg(long, value_name = "FILE", group = "on")]
    file: Option<PathBuf>,
    /// On the latest events, at most 100, of the types whose routes use the mapping
    #[arg(long, value_name = "N", group = "on")]
    last: Option<u32>,
    /// Only events of this type, or the type of the payload
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "event")]
    event_type: Option<String>,
    /// With these settings (as for `put`), instead of what is in force
    #[arg(long, value_name = "FILE", conflicts_with = "version")]
    settings: Option<PathBuf>,
    /// With this component
    #[arg(long, requires = "settings")]
    component: Option<String>,
    /// With this version, instead of the one in force
    #[arg(long, value_name = "N")]
    version: Option<i64>,
    #[command(flatten)]
    hub: HubArgs,
    /// Print the hub's answer as JSON
    #[arg(long)]
    raw: bool,
}

/// A try that ends in an error, on one event or on one of many, is exit code 1.
pub(super) async fn run(command: Mappings) -> anyhow::Result<ExitCode> {
    match command {
        Mappings::List { hub, json } => list(&hub, json).await?,
        Mappings::Show { name, version, settings, hub, json } => show(&hub, &name, version, settings, json).await?,
        Mappings::Put(options) => put(options).await?,
        Mappings::Try(options) => return trial(options).await,
        Mappings::Activate { name, version, hub, json } => {
            let body = json!({ "version": version }).to_string();
            let path = format!("{}/activate", path(&name));
            print(&hub.connect().await?.post(&path, body).await?.ok()?, json, |_| {
                anstream::println!("{name} runs version {version}");
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(name: &str) -> String {
    format!("/api/mappings/{}", encoded(name))
}

async fn list(hub: &HubArgs, json: bool) -> anyhow::Result<()> {
    let body = hub.connect().await?.get("/api/mappings").await?.ok()?;
    print(&body, json, |answer| {
        let mappings = items(answer);
        if mappings.is_empty() {
            anstream::println!("no mappings");
        }
        for mapping in mappings {
            let active = match mapping["active"].as_i64() {
                Some(version) => coloured(&format!("{:<13}", format!("version {version}")), AnsiColor::Green),
                None => coloured("not in force ", AnsiColor::Yellow),
            };
            anstream::println!(
                "{:<28} {:<16} {active} of {:>3}  {}",
                text(&mapping["name"]),
                text(&mapping["component"]),
                mapping["versions"],
                routes(mapping),
            );
        }
    })
}

fn routes(mapping: &Value) -> String {
    let routes = mapping["used_by"].as_array().into_iter().flatten();
    let routes: Vec<String> =
        routes.map(|route| format!("{} → {}", text(&route["event"]), text(&route["endpoint"]))).collect();
    if routes.is_empty() { "no route uses it".into() } else { routes.join(", ") }
}

async fn show(hub: &HubArgs, name: &str, version: Option<i64>, only_settings: bool, json: bool) -> anyhow::Result<()> {
    let body = hub.connect().await?.get(&path(name)).await?.ok()?;
    let mut answer: Value = serde_json::from_slice(&body)?;
    let versions = answer["versions"].take();
    let known = |version: i64| versions.as_array()?.iter().find(|known| known["version"] == version).cloned();
    let shown = match version.or(answer["active"].as_i64()) {
        Some(version) => known(version).with_context(|| format!("mapping {name:?} has no version {version}"))?,
        None if only_settings => bail!("mapping {name:?} is not in force: say which --version"),
        None => Value::Null,
    };
    if only_settings {
        anstream::println!("{}", serde_json::to_string_pretty(&shown["settings"])?);
        return Ok(());
    }
    if json {
        answer["versions"] = versions;
        let one = if version.is_some() { &shown } else { &answer };
        anstream::println!("{}", serde_json::to_string_pretty(one)?);
        return Ok(());
    }
    let bold = Style::new().bold();
    anstream::println!("{bold}{name}{bold:#}  {}", routes(&answer));
    for version in versions.as_array().into_iter().flatten() {
        let mark = if version["active"] == true { coloured("active", AnsiColor::Green) } else { String::new() };
        anstream::println!(
            "    version {:<4} {}  by {:<5} {:<16} {mark}",
            version["version"].to_string(),
            text(&version["created_at"]),
            text(&version["origin"]),
            text(&version["component"]),
        );
    }
    if !shown.is_null() {
        anstream::println!(
            "\nsettings of version {}, run by {} within {} ms of CPU time:",
            shown["version"],
            text(&shown["component"]),
            shown["deadline_ms"]
        );
        anstream::println!("{}", serde_json::to_string_pretty(&shown["settings"])?);
    }
    Ok(())
}

async fn put(options: Put) -> anyhow::Result<()> {
    let mut body = mapping_in(&options.file, &options.name)?;
    if let Some(component) = options.component {
        body.insert("component".into(), component.into());
    }
    body.insert("activate".into(), (!options.no_activate).into());
    if let Some(version) = options.if_version {
        body.insert("if_version".into(), version.into());
    }
    let body = Value::Object(body).to_string();
    let answer = options.hub.connect().await?.put_json(&path(&options.name), body).await?.ok()?;
    print(&answer, options.json, |answer| {
        let (name, version) = (text(&answer["name"]), &answer["version"]);
        if answer["active"] == true {
            anstream::println!("{name} runs version {version}");
        } else {
            anstream::println!(
                "{name} has version {version}, which is not in force yet: tomada mappings activate {name} {version}"
            );
        }
    })
}

async fn trial(options: Try) -> anyhow::Result<ExitCode> {
    let mut body = match &options.settings {
        Some(file) => mapping_in(file, &options.name)?,
        None => Map::new(),
    };
    if let Some(component) = options.component {
        body.insert("component".into(), component.into());
    }
    if let Some(version) = options.version {
        body.insert("version".into(), version.into());
    }
    let payload = match (&options.json, &options.file) {
        (Some(text), _) => Some((text.clone(), "the payload".to_owned())),
        (None, Some(file)) => Some((read(file)?, file.display().to_string())),
        (None, None) => None,
    };
    let type_key = if payload.is_some() { "event_type" } else { "events_of_type" };
    if let Some((payload, what)) = payload {
        let payload: Value = serde_json::from_str(&payload).with_context(|| format!("{what} is not JSON"))?;
        body.insert("payload".into(), payload);
    }
    if let Some(event) = options.event {
        body.insert("event".into(), event.into());
    }
    if let Some(last) = options.last {
        body.insert("limit".into(), last.into());
    }
    if let Some(event_type) = options.event_type {
        body.insert(type_key.into(), event_type.into());
    }
    let path = format!("{}/try", path(&options.name));
    let answer = options.hub.connect().await?.post(&path, Value::Object(body).to_string()).await?.ok()?;
    let answered: Value = serde_json::from_slice(&answer)?;
    let batch = options.last.is_some();
    print(&answer, options.raw, if batch { show_batch } else { show_trial })?;
    let failed = answered["failed"].as_u64().is_some_and(|failed| failed > 0) || !answered["error"].is_null();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show_trial(answer: &Value) {
    show_end(answer, "");
    for line in text(&answer["log"]).lines() {
        anstream::println!("    {line}");
    }
    anstream::println!("in {} ms by component {}", answer["duration_ms"], short(text(&answer["component_digest"])));
    if answer["active_version"].is_null() {
        return;
    }
    let version = &answer["active_version"];
    match answer["changes"].as_array() {
        Some(changes) if changes.is_empty() => anstream::println!("version {version}, in force, makes the same of it"),
        Some(_) => {
            anstream::println!("other than of version {version}, which is in force:");
            show_changes(answer);
        }
        None => {
            anstream::println!("of version {version}, which is in force, came:");
            show_end(answer, "active_");
        }
    }
}

fn show_batch(answer: &Value) {
    let count = |key: &str| answer[key].as_u64().unwrap_or(0);
    let failed = format!("{} failed", count("failed"));
    let failed = if count("failed") > 0 { coloured(&failed, AnsiColor::Red) } else { failed };
    let tried = count("tried");
    let events = if tried == 1 { "event" } else { "events" };
    anstream::print!("{tried} {events} tried: {failed}, {} skipped", count("skipped"));
    if let Some(changed) = answer["changed"].as_u64() {
        anstream::print!(", {changed} other than of version {}, which is in force", answer["active_version"]);
    }
    anstream::println!();
    for (key, why) in [("filtered", "no route lets them through"), ("out_of_time", "there was no time for them")] {
        if count(key) > 0 {
            anstream::println!("{} more were not tried: {why}", count(key));
        }
    }
    let differences = answer["differences"].as_array().map_or(&[][..], Vec::as_slice);
    for difference in differences {
        let bold = Style::new().bold();
        anstream::println!("{}  {bold}{}{bold:#}", text(&difference["event"]), text(&difference["event_type"]));
        if difference["changes"].is_null() {
            show_end(difference, "");
            if !answer["active_version"].is_null() {
                anstream::print!("  before: ");
                show_end(difference, "active_");
            }
        }
        show_changes(difference);
    }
    let differing = count("changed").max(count("failed"));
    if differing > differences.len() as u64 {
        anstream::println!("and at least {} more", differing - differences.len() as u64);
    }
}

/// Output, reason or error, whichever there is.
fn show_end(answer: &Value, prefix: &str) {
    let found = |key: &str| answer.get(format!("{prefix}{key}"));
    if let Some(error) = found("error") {
        anstream::println!("{}", coloured(&format!("error {}", text(&error["code"])), AnsiColor::Red));
        anstream::println!("    {}", text(&error["message"]));
    } else if let Some(reason) = found("skipped") {
        anstream::println!("{}: {}", coloured("skipped", AnsiColor::Yellow), text(reason));
    } else if let Some(output) = found("output") {
        anstream::println!("{output:#}");
    }
}

fn show_changes(answer: &Value) {
    for change in answer["changes"].as_array().into_iter().flatten() {
        let path = text(&change["path"]);
        let path = if path.is_empty() { "(all of it)" } else { path };
        for (key, sign, colour) in [("before", '-', AnsiColor::Red), ("after", '+', AnsiColor::Green)] {
            if let Some(value) = change.get(key) {
                anstream::println!("{}", coloured(&format!("  {sign} {path}  {value}"), colour));
            }
        }
    }
    if let Some(left_out) = answer["changes_left_out"].as_u64() {
        anstream::println!("  and {left_out} more");
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        return std::io::read_to_string(std::io::stdin()).context("standard input cannot be read");
    }
    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

/// What the file says of the mapping: `settings`, perhaps `component` and `deadline_ms`.
fn mapping_in(file: &Path, name: &str) -> anyhow::Result<Map<String, Value>> {
    mapping_of(&read(file)?, name).with_context(|| file.display().to_string())
}

/// Settings, a mapping, or a configuration with the mapping in it, in TOML or JSON.
fn mapping_of(text: &str, name: &str) -> anyhow::Result<Map<String, Value>> {
    // No TOML begins so.
    let mut table: Map<String, Value> = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).context("not JSON")?
    } else {
        let table: toml::Table = toml::from_str(text).context("not TOML")?;
        table.into_iter().map(|(key, value)| Ok((key.clone(), json_of(value, &key)?))).collect::<anyhow::Result<_>>()?
    };
    if let Some(Value::Object(mut mappings)) = table.remove("mappings") {
        let Some(Value::Object(mapping)) = mappings.remove(name) else {
            bail!("it is a configuration, and has no [mappings.{name}]");
        };
        table = mapping;
    }
    let is_mapping = |key: &String| ["component", "settings", "deadline_ms"].contains(&key.as_str());
    if table.get("settings").is_some_and(Value::is_object) && table.keys().all(is_mapping) {
        return Ok(table);
    }
    Ok(Map::from_iter([("settings".to_owned(), Value::Object(table))]))
}

/// TOML has values that JSON has not.
fn json_of(value: toml::Value, at: &str) -> anyhow::Result<Value> {
    Ok(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) if number.is_finite() => number.into(),
        toml::Value::Float(_) => bail!("{at} must be a finite number"),
        toml::Value::Boolean(value) => value.into(),
        toml::Value::Datetime(_) => bail!("{at} is a date: write it in quotes"),
        toml::Value::Array(list) => {
            list.into_iter().map(|value| json_of(value, at)).collect::<anyhow::Result<Vec<_>>>()?.into()
        }
        toml::Value::Table(table) => table
            .into_iter()
            .map(|(key, value)| {
                let at = format!("{at}.{key}");
                Ok((key, json_of(value, &at)?))
            })
            .collect::<anyhow::Result<Map<_, _>>>()?
            .into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_settings_a_mapping_or_a_configuration_with_it() {
        let rules = json!({"name": "nome", "full": {"type": "concat", "sources": ["a", "b"]}});
        let settings = json!({"settings": {"rules": rules}});
        let with_component = json!({"component": "json-map", "settings": {"rules": rules}, "deadline_ms": 50});
        let cases = [
            (json!({"rules": rules}).to_string(), settings.clone()),
            (settings.to_string(), settings.clone()),
            (with_component.to_string(), with_component.clone()),
            (json!({"mappings": {"m": settings, "n": {}}, "routes": []}).to_string(), settings.clone()),
            (
                "[rules]\nname = \"nome\"\nfull = { type = \"concat\", sources = [\"a\", \"b\"] }\n".to_owned(),
                settings.clone(),
            ),
            (
                "deadline_ms = 50\ncomponent = \"json-map\"\n[settings.rules]\nname = \"nome\"\n\
                 [settings.rules.full]\ntype = \"concat\"\nsources = [\"a\", \"b\"]\n"
                    .to_owned(),
                with_component,
            ),
            (
                "[mappings.m.settings.rules]\nname = \"nome\"\n\
                 full = { type = \"concat\", sources = [\"a\", \"b\"] }\n"
                    .to_owned(),
                settings,
            ),
            // Settings of an uploaded mapping may well have a key of this name.
            (r#"{"settings": 1}"#.to_owned(), json!({"settings": {"settings": 1}})),
            (r#"{"settings": {}, "mode": "x"}"#.to_owned(), json!({"settings": {"settings": {}, "mode": "x"}})),
            (String::new(), json!({"settings": {}})),
        ];
        for (text, expected) in cases {
            let found = mapping_of(&text, "m").unwrap_or_else(|error| panic!("{text}: {error:#}"));
            assert_eq!(Value::Object(found), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_mapping_is_said() {
        for (text, said) in [
            ("{", "not JSON"),
            ("= 1", "not TOML"),
            ("[mappings.other.settings]\na = 1\n", "has no [mappings.m]"),
            ("[rules.due]\ntype = \"static\"\nvalue = 2026-01-01\n", "rules.due.value is a date"),
            ("a = [nan]\n", "a must be a finite number"),
        ] {
            let error = format!("{:#}", mapping_of(text, "m").expect_err(text));
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
