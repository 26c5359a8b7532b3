//! The operators' commands: ask a running hub and print, for people or as JSON.

use anstyle::{AnsiColor, Style};
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::client::{Answer, HubArgs};

/// Which hub, and how to say it: what every command takes that asks one.
#[derive(Args)]
pub(super) struct Common {
    #[command(flatten)]
    pub(super) hub: HubArgs,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct Events {
    /// An event's id, evt_…: shows it with its deliveries, attempts and the events it gave rise to
    id: Option<String>,
    /// Only of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only from this source
    #[arg(long)]
    source: Option<String>,
    /// Only those that no route takes
    #[arg(long)]
    unrouted: bool,
    /// With the payload of the event
    #[arg(long, requires = "id")]
    payload: bool,
    /// At most so many
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    hub: HubArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct DeadLetters {
    /// Only of this endpoint
    #[arg(long)]
    endpoint: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    hub: HubArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(id = "what", required = true, multiple = false)]
pub(super) struct Replay {
    /// A delivery's id, dlv_…
    #[arg(group = "what")]
    delivery: Option<String>,
    /// All dead letters of this endpoint
    #[arg(long, group = "what")]
    endpoint: Option<String>,
    /// All dead letters
    #[arg(long, group = "what")]
    all: bool,
    #[command(flatten)]
    hub: HubArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Endpoints {
    #[command(subcommand)]
    command: Option<EndpointCommand>,
    #[command(flatten)]
    hub: HubArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum EndpointCommand {
    /// Stop delivering; what is owed waits
    Pause {
        name: String,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Deliver again, what waited first
    Resume { name: String },
}

pub(super) async fn events(options: Events) -> anyhow::Result<()> {
    let mut client = options.hub.connect().await?;
    if let Some(id) = &options.id {
        let body = client.get(&format!("/api/events/{id}?payload={}", options.payload)).await?.ok()?;
        return print(&body, options.json, show_event);
    }
    let mut path = format!("/api/events?limit={}&unrouted={}", options.limit, options.unrouted);
    for (key, value) in [("type", &options.event_type), ("source", &options.source)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", encoded(value)));
        }
    }
    let body = client.get(&path).await?.ok()?;
    print(&body, options.json, |answer| {
        let items = items(answer);
        if items.is_empty() {
            anstream::println!("no events");
        }
        items.iter().for_each(event_line);
    })
}

pub(super) async fn dead_letters(options: DeadLetters) -> anyhow::Result<()> {
    let mut path = format!("/api/dead-letters?limit={}", options.limit);
    if let Some(endpoint) = &options.endpoint {
        path.push_str(&format!("&endpoint={}", encoded(endpoint)));
    }
    let body = options.hub.connect().await?.get(&path).await?.ok()?;
    print(&body, options.json, |answer| {
        let items = items(answer);
        if items.is_empty() {
            anstream::println!("no dead letters");
        }
        for letter in items {
            let reason = coloured(text(&letter["reason"]), AnsiColor::Red);
            anstream::println!(
                "{}  {}  {} → {}  {reason} after {} attempts",
                text(&letter["delivery"]),
                text(&letter["created_at"]),
                text(&letter["event_type"]),
                text(&letter["endpoint"]),
                letter["attempts"],
            );
            anstream::println!("    {}{}", status(&letter["http_status"]), text(&letter["message"]));
        }
    })
}

pub(super) async fn replay(options: Replay) -> anyhow::Result<()> {
    let mut client = options.hub.connect().await?;
    let body = match &options.delivery {
        Some(id) => client.post(&format!("/api/deliveries/{id}/replay"), "").await?.ok()?,
        None => {
            let body = serde_json::json!({ "endpoint": options.endpoint });
            client.post("/api/dead-letters/replay", body.to_string()).await?.ok()?
        }
    };
    print(&body, options.json, |answer| match answer["replayed"].as_u64() {
        Some(count) => anstream::println!("{count} deliveries are owed again"),
        None => anstream::println!("{} is owed again", text(&answer["delivery"])),
    })
}

pub(super) async fn endpoints(options: Endpoints) -> anyhow::Result<()> {
    let mut client = options.hub.connect().await?;
    match options.command {
        Some(EndpointCommand::Pause { name, reason }) => {
            let body = reason.map_or(String::new(), |reason| serde_json::json!({ "reason": reason }).to_string());
            client.post(&format!("/api/endpoints/{}/pause", encoded(&name)), body).await?.ok()?;
        }
        Some(EndpointCommand::Resume { name }) => {
            client.post(&format!("/api/endpoints/{}/resume", encoded(&name)), "").await?.ok()?;
        }
        None => {}
    }
    let body = client.get("/api/endpoints").await?.ok()?;
    print(&body, options.json, |answer| {
        for endpoint in items(answer) {
            let count = |key: &str| endpoint[key].as_u64().unwrap_or(0);
            let state = match (endpoint["paused"].as_str(), text(&endpoint["breaker"])) {
                (Some(reason), _) => coloured(&format!("paused: {reason}"), AnsiColor::Red),
                (None, "closed") => coloured("running", AnsiColor::Green),
                (None, breaker) => coloured(&format!("breaker {breaker}"), AnsiColor::Yellow),
            };
            anstream::println!(
                "{:<20} {:<14} owed {:>6}  waiting {:>6}  held {:>6}  dead {:>6}  {state}",
                text(&endpoint["name"]),
                text(&endpoint["connector"]),
                count("owed"),
                count("waiting"),
                count("held"),
                count("dead"),
            );
        }
    })
}

pub(super) async fn connectors(hub: HubArgs, json: bool) -> anyhow::Result<()> {
    let body = hub.connect().await?.get("/api/connectors").await?.ok()?;
    print(&body, json, |answer| {
        for connector in items(answer) {
            let bold = Style::new().bold();
            anstream::println!("{bold}{}{bold:#} ({})", text(&connector["name"]), text(&connector["kind"]));
            for version in connector["versions"].as_array().into_iter().flatten() {
                let mark = match &version["digest"] {
                    digest if *digest == connector["active"] => coloured("active", AnsiColor::Green),
                    digest if *digest == connector["previous"] => "previous".into(),
                    _ => String::new(),
                };
                anstream::println!(
                    "    {}  {:<8} {:>8} bytes  {}  {mark}",
                    short(text(&version["digest"])),
                    text(&version["version"]),
                    version["size"],
                    text(&version["created_at"]),
                );
            }
        }
    })
}

pub(super) fn switched(name: &str, answer: Answer, json: bool) -> anyhow::Result<()> {
    print(&answer.ok()?, json, |answer| {
        let before =
            answer["previous"].as_str().map_or(String::new(), |digest| format!(" (before: {})", short(digest)));
        anstream::println!("{name} runs {}{before}", short(text(&answer["digest"])));
    })
}

pub(super) fn changes(body: &[u8], json: bool) -> anyhow::Result<()> {
    print(body, json, |answer| {
        let changes = answer["changes"].as_array().cloned().unwrap_or_default();
        if changes.is_empty() {
            anstream::println!("nothing to change");
        }
        for change in &changes {
            let (sign, colour) = match text(&change["action"]) {
                "create" => ("+", AnsiColor::Green),
                "delete" => ("-", AnsiColor::Red),
                _ => ("~", AnsiColor::Yellow),
            };
            let line = format!("{sign} {} {}", text(&change["kind"]), text(&change["name"]));
            anstream::println!("{}  {}", coloured(&line, colour), text(&change["detail"]));
        }
        for warning in answer["warnings"].as_array().into_iter().flatten() {
            anstream::eprintln!("{} {}", coloured("warning:", AnsiColor::Yellow), text(warning));
        }
    })
}

fn show_event(event: &Value) {
    event_line(event);
    let key = event["idempotency_key"].as_str().map_or(String::new(), |key| format!("key {key}  "));
    anstream::println!("    {key}content-type {}", text(&event["content_type"]));
    if !event["payload"].is_null() {
        anstream::println!("    payload {}", event["payload"]);
    }
    for delivery in event["deliveries"].as_array().into_iter().flatten() {
        for attempt in delivery["attempt_list"].as_array().into_iter().flatten() {
            anstream::println!(
                "    {} #{} {} {} in {} ms  {}{}  [connector {}{}]",
                text(&delivery["endpoint"]),
                attempt["number"],
                text(&attempt["at"]),
                outcome(text(&attempt["outcome"])),
                attempt["duration_ms"],
                status(&attempt["http_status"]),
                text(&attempt["message"]),
                short(text(&attempt["connector_digest"])),
                mapping_of(attempt),
            );
            for line in text(&attempt["log"]).lines() {
                anstream::println!("        {line}");
            }
        }
    }
    for child in event["children"].as_array().into_iter().flatten() {
        anstream::print!("  gave rise to ");
        event_line(child);
    }
}

/// Which rules, and what ran them.
fn mapping_of(attempt: &Value) -> String {
    let Some(digest) = attempt["mapping_digest"].as_str().map(short) else { return String::new() };
    match attempt["mapping"]["name"].as_str() {
        Some(name) => format!(", mapping {name} version {}, {digest}", attempt["mapping"]["version"]),
        None => format!(", mapping {digest}"),
    }
}

fn event_line(event: &Value) {
    let bold = Style::new().bold();
    let deliveries: Vec<String> = event["deliveries"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|delivery| format!("{} {}", text(&delivery["endpoint"]), outcome(text(&delivery["status"]))))
        .collect();
    let end = if deliveries.is_empty() { coloured("unrouted", AnsiColor::Yellow) } else { deliveries.join(", ") };
    anstream::println!(
        "{}  {}  {bold}{}{bold:#} from {}  {end}",
        text(&event["id"]),
        text(&event["created_at"]),
        text(&event["type"]),
        text(&event["source"]),
    );
}

pub(super) fn print(body: &[u8], json: bool, human: impl FnOnce(&Value)) -> anyhow::Result<()> {
    let answer: Value = serde_json::from_slice(body)?;
    if json {
        anstream::println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        human(&answer);
    }
    Ok(())
}

pub(super) fn items(answer: &Value) -> &[Value] {
    answer["items"].as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn status(value: &Value) -> String {
    value.as_u64().map_or(String::new(), |status| format!("HTTP {status}: "))
}

fn outcome(word: &str) -> String {
    let colour = match word {
        "delivered" | "skipped" => AnsiColor::Green,
        "owed" | "waiting" | "held" | "transient" | "rate-limited" => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    };
    coloured(word, colour)
}

pub(super) fn coloured(text: &str, colour: AnsiColor) -> String {
    let style = colour.on_default();
    format!("{style}{text}{style:#}")
}

/// Enough of a digest to tell versions apart.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

pub(super) fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
