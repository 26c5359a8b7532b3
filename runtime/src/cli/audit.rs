//! `tomada audit`: what was done and by whom, and whether that record is whole.

use std::process::ExitCode;

use anstyle::AnsiColor;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::operate::{Common, coloured, encoded, items, print, text};
use crate::audit::{is_plain, verify_directory};
use crate::client::Running;

#[derive(Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Subcommand)]
enum AuditCommand {
    /// List what was done, newest first
    List(List),
    /// Look at every row: exit code 0 when all are as they were written, 1 when not
    Verify {
        /// Read the files of --data, without asking a hub; this is also done when none runs there
        #[arg(long)]
        offline: bool,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
struct List {
    /// Only of this API key, by its public id; `hub` for what the hub did itself
    #[arg(long, value_name = "ID")]
    actor: Option<String>,
    /// Only this action, as payload.read
    #[arg(long)]
    action: Option<String>,
    /// Only what was done to this, as evt_… or endpoint:crm
    #[arg(long)]
    object: Option<String>,
    /// Only what is older than this row
    #[arg(long, value_name = "ROW")]
    before: Option<i64>,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: u32,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(options: Audit) -> anyhow::Result<ExitCode> {
    match options.command {
        AuditCommand::List(options) => list(options).await.map(|()| ExitCode::SUCCESS),
        AuditCommand::Verify { offline, common } => verify(offline, common).await,
    }
}

async fn list(options: List) -> anyhow::Result<()> {
    let mut path = format!("/api/audit?limit={}", options.limit);
    for (key, value) in [("actor", &options.actor), ("action", &options.action), ("object", &options.object)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", encoded(value)));
        }
    }
    if let Some(before) = options.before {
        path.push_str(&format!("&before={before}"));
    }
    let Common { hub, json } = options.common;
    let body = hub.connect().await?.get(&path).await?.ok()?;
    print(&body, json, |answer| items(answer).iter().for_each(line))
}

fn line(row: &Value) {
    let action = match text(&row["action"]) {
        "denied" => coloured("denied", AnsiColor::Yellow),
        action => plain(action),
    };
    let from = row["address"].as_str().map_or(String::new(), |address| format!(" from {}", plain(address)));
    let reason = row["reason"].as_str().map_or(String::new(), |reason| format!("  because: {}", plain(reason)));
    let details = match &row["details"] {
        Value::Object(details) if details.is_empty() => String::new(),
        details => format!("  {}", plain(&details.to_string())),
    };
    anstream::println!(
        "{:>6}  {}  {action} {}  by {}{from}{details}{reason}",
        row["id"],
        text(&row["at"]),
        plain(text(&row["object"])),
        plain(text(&row["actor"])),
    );
}

/// The hub writes no others, but somebody else may have written the row.
fn plain(text: &str) -> String {
    text.chars().map(|c| if is_plain(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

async fn verify(offline: bool, common: Common) -> anyhow::Result<ExitCode> {
    let Common { hub, json } = common;
    let verdict = if offline || (hub.url.is_none() && Running::read(&hub.data).is_err()) {
        json!(verify_directory(&hub.data).await?).to_string().into()
    } else {
        hub.connect().await?.get("/api/audit/verify").await?.ok()?
    };
    print(&verdict, json, |verdict| {
        if verdict["ok"] == true {
            let whole = coloured("the audit log is whole", AnsiColor::Green);
            match verdict["last"].as_i64() {
                Some(last) => anstream::println!("{whole}: {} rows, {} to {last}", verdict["rows"], verdict["first"]),
                None => anstream::println!("{whole}: it has no rows"),
            }
            return;
        }
        let broken = coloured("the audit log is not whole", AnsiColor::Red);
        anstream::println!(
            "{broken}: {} of {} rows are not as they should be",
            verdict["broken_rows"],
            verdict["rows"]
        );
        for broken in verdict["broken"].as_array().into_iter().flatten() {
            anstream::println!("    row {} {}", broken["id"], plain(text(&broken["why"])));
        }
    })?;
    let ok = serde_json::from_slice::<Value>(&verdict)?["ok"] == true;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
