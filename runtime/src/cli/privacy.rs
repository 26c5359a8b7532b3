//! `tomada privacy`: find what is about a person, hand it over, erase it.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use anstyle::AnsiColor;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::operate::{Common, coloured, encoded, items, print, text};
use crate::client::{Client, HubArgs};
use crate::private::write_private;

#[derive(Args)]
pub(super) struct Privacy {
    #[command(subcommand)]
    command: PrivacyCommand,
}

#[derive(Subcommand)]
enum PrivacyCommand {
    /// List the events about a person, and what such a search cannot find
    Find {
        #[command(flatten)]
        person: Person,
        /// Look into the contents of all events too; takes as long as there are events
        #[arg(long)]
        scan: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Write everything that the hub holds about a person as JSON
    Export {
        #[command(flatten)]
        person: Person,
        /// Into this file, which only its owner can read, instead of to the terminal
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        hub: HubArgs,
    },
    /// Erase what is about a person, and tell those who got it; without --yes it only says what would happen
    Erase(Box<Erase>),
    /// List erasures, and who has been told of them
    Erasures {
        #[command(flatten)]
        common: Common,
    },
    /// Close an erasure after telling those whom the hub could not tell
    Close {
        /// era_…
        id: String,
        #[command(flatten)]
        common: Common,
    },
    /// The record of processing (LGPD, art. 37), made of the configuration in force
    Record(Record),
    /// Index what was stored before its source said where it names people
    Reindex {
        /// Only show how far it is
        #[arg(long)]
        status: bool,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
struct Erase {
    #[command(flatten)]
    person: Person,
    /// Events that a scan has found, evt_…
    #[arg(long = "event", value_name = "ID")]
    events: Vec<String>,
    /// Why; it is kept, so name nobody in it
    #[arg(long)]
    reason: String,
    /// What you call the request: the same one is carried out once
    #[arg(long, value_name = "NAME")]
    request: Option<String>,
    /// Do it: this cannot be undone
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

/// With `-` a value is read from standard input, a line each, so that it stands in no history.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct Person {
    /// CPF; - reads it from standard input
    #[arg(long)]
    cpf: Vec<String>,
    /// Phone number, outside Brazil with + and its country's code; - reads it from standard input
    #[arg(long, allow_hyphen_values = true)]
    phone: Vec<String>,
    /// E-mail address; - reads it from standard input
    #[arg(long)]
    email: Vec<String>,
}

impl Person {
    fn body(self) -> anyhow::Result<Value> {
        let mut body = json!({});
        for (kind, values) in [("cpf", self.cpf), ("phone", self.phone), ("email", self.email)] {
            let values = values.into_iter().map(|value| if value == "-" { line_of_input(kind) } else { Ok(value) });
            let values = values.collect::<anyhow::Result<Vec<_>>>()?;
            if !values.is_empty() {
                body[kind] = json!(values);
            }
        }
        Ok(body)
    }
}

fn line_of_input(kind: &str) -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).with_context(|| format!("reading {kind} from standard input"))?;
    Ok(line.trim().to_owned())
}

pub(super) async fn run(options: Privacy) -> anyhow::Result<()> {
    match options.command {
        PrivacyCommand::Find { person, scan, common: Common { hub, json } } => {
            let mut client = hub.connect().await?;
            let mut found = pages(&mut client, "/api/privacy/find", person.body()?, "items").await?;
            if scan {
                found.answer["scan"] = scanned(&mut client, found.body).await?;
            }
            print(&serde_json::to_vec(&found.answer)?, json, show_found)
        }
        PrivacyCommand::Export { person, out, hub } => {
            let mut client = hub.connect().await?;
            let found = pages(&mut client, "/api/privacy/export", person.body()?, "events").await?;
            let text = serde_json::to_vec_pretty(&found.answer)?;
            match out {
                Some(file) => {
                    write_private(&file, &text).with_context(|| file.display().to_string())?;
                    anstream::println!("{} events in {}", found.answer["events_in_all"], file.display());
                }
                None => {
                    let mut out = std::io::stdout().lock();
                    out.write_all(&text)?;
                    out.write_all(b"\n")?;
                }
            }
            Ok(())
        }
        PrivacyCommand::Erase(erase) => {
            let Erase { person, events, reason, request, yes, common: Common { hub, json } } = *erase;
            let mut body = person.body()?;
            body["events"] = json!(events);
            body["reason"] = reason.into();
            body["request"] = request.into();
            body["dry_run"] = (!yes).into();
            let body = hub.connect().await?.post("/api/privacy/erase", body.to_string()).await?.ok()?;
            print(&body, json, |answer| match answer["dry_run"] == true {
                true => {
                    show_found(answer);
                    for recipient in answer["recipients"].as_array().into_iter().flatten() {
                        anstream::println!("would be told: {}", text(&recipient["endpoint"]));
                    }
                    anstream::println!("nothing was erased: say --yes to do it");
                }
                false => show_erasure(answer),
            })
        }
        PrivacyCommand::Erasures { common: Common { hub, json } } => {
            let body = hub.connect().await?.get("/api/privacy/erasures").await?.ok()?;
            print(&body, json, |answer| items(answer).iter().for_each(show_erasure))
        }
        PrivacyCommand::Close { id, common: Common { hub, json } } => {
            let path = format!("/api/privacy/erasures/{}/close", encoded(&id));
            let body = hub.connect().await?.post(&path, "").await?.ok()?;
            print(&body, json, show_erasure)
        }
        PrivacyCommand::Record(options) => record(options).await,
        PrivacyCommand::Reindex { status, common: Common { hub, json } } => {
            let mut client = hub.connect().await?;
            let path = "/api/privacy/reindex";
            let answer = if status { client.get(path).await? } else { client.post(path, "").await? };
            print(&answer.ok()?, json, |answer| show_reindexing(&answer["reindexing"]))
        }
    }
}

struct Paged {
    /// The first answer, with the items of all.
    answer: Value,
    body: Value,
}

async fn pages(client: &mut Client, path: &str, mut body: Value, of: &str) -> anyhow::Result<Paged> {
    let mut answer: Value = client.post(path, body.to_string()).await?.json()?;
    while answer["next"].is_string() {
        body["before"] = answer["next"].take();
        let mut more: Value = client.post(path, body.to_string()).await?.json()?;
        if let (Some(all), Some(more)) = (answer[of].as_array_mut(), more[of].as_array_mut()) {
            all.append(more);
        }
        if let (Some(all), Some(more)) = (answer["tombstones"].as_array_mut(), more["tombstones"].as_array_mut()) {
            all.append(more);
        }
        answer["next"] = more["next"].take();
    }
    if let Some(body) = body.as_object_mut() {
        body.remove("before");
    }
    Ok(Paged { answer, body })
}

async fn scanned(client: &mut Client, mut body: Value) -> anyhow::Result<Value> {
    body["scan"] = true.into();
    body["limit"] = 1.into();
    let (mut matches, mut seen) = (Vec::new(), 0);
    loop {
        let mut answer: Value = client.post("/api/privacy/find", body.to_string()).await?.json()?;
        let scan = &mut answer["scan"];
        seen += scan["seen"].as_u64().unwrap_or(0);
        if let Some(found) = scan["matches"].as_array_mut() {
            matches.append(found);
        }
        if !scan["next"].is_string() {
            return Ok(json!({ "matches": matches, "seen": seen, "next": null }));
        }
        body["after"] = scan["next"].take();
    }
}

fn show_found(answer: &Value) {
    for event in items(answer) {
        let how = if event["descendant"] == true { "  (came of another)" } else { "" };
        anstream::println!(
            "{}  {}  {:<24} {:<16} {}{how}",
            text(&event["id"]),
            text(&event["created_at"]),
            text(&event["type"]),
            text(&event["source"]),
            text(&event["content"])
        );
        for delivery in event["deliveries"].as_array().into_iter().flatten() {
            let at = delivery["delivered_at"].as_str().map_or(String::new(), |at| format!(" {at}"));
            anstream::println!("    {} {}{at}", text(&delivery["endpoint"]), text(&delivery["status"]));
        }
    }
    anstream::println!(
        "{} events, {} of them came of others; {} deliveries are open",
        answer["events"],
        answer["descendants"],
        answer["open_deliveries"]
    );
    for found in answer["scan"]["matches"].as_array().into_iter().flatten() {
        anstream::println!(
            "found in its content: {}  {}  {}",
            text(&found["id"]),
            text(&found["type"]),
            text(&found["source"])
        );
    }
    for source in answer["coverage"]["sources"].as_array().into_iter().flatten() {
        let (name, count) = (text(&source["source"]), &source["not_found_by_identifier"]);
        if *count == 0 {
            continue;
        }
        let why = match source["declares_personal"] == true {
            true => "name nobody where it is declared, or were stored before (`tomada privacy reindex`)",
            false => "are found by nobody's identifier: it declares no `personal`",
        };
        let line = format!("{count} events of {name} {why}");
        anstream::println!("{}", coloured(&line, AnsiColor::Yellow));
    }
}

fn show_erasure(erasure: &Value) {
    let state = match text(&erasure["state"]) {
        "complete" => coloured("complete", AnsiColor::Green),
        state => coloured(state, AnsiColor::Yellow),
    };
    anstream::println!(
        "{}  {}  {state}  {} events  {}",
        text(&erasure["id"]),
        text(&erasure["at"]),
        erasure["events"],
        text(&erasure["reason"])
    );
    for recipient in erasure["recipients"].as_array().into_iter().flatten() {
        let told = match recipient["told_at"].as_str() {
            Some(at) => format!("told {at}"),
            None => recipient["note"].as_str().or(recipient["status"].as_str()).unwrap_or("not told yet").to_owned(),
        };
        anstream::println!("    {}  {told}", text(&recipient["endpoint"]));
    }
}

fn show_reindexing(state: &Value) {
    if state.is_null() {
        return anstream::println!("nothing was indexed anew yet");
    }
    anstream::println!(
        "{}: {} events looked at, {} name somebody",
        text(&state["state"]),
        state["seen"],
        state["indexed"]
    );
}

#[derive(Args)]
struct Record {
    #[command(flatten)]
    hub: HubArgs,
    /// Print Markdown in Brazilian Portuguese; the default on a terminal
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Print JSON; the default elsewhere
    #[arg(long)]
    json: bool,
}

async fn record(options: Record) -> anyhow::Result<()> {
    let markdown = options.markdown || (!options.json && std::io::stdout().is_terminal());
    let path = format!("/api/privacy/record?markdown={markdown}");
    let body = options.hub.connect().await?.get(&path).await?.ok()?;
    if markdown {
        anstream::print!("{}", String::from_utf8_lossy(&body));
    } else {
        anstream::println!("{}", serde_json::to_string_pretty(&serde_json::from_slice::<Value>(&body)?)?);
    }
    Ok(())
}
