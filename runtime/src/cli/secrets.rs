//! `tomada secrets`: those that the hub keeps, sealed, and refers to as `stored:NAME`.

use std::io::{IsTerminal as _, Read as _};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::operate::{Common, encoded, items, print, text};

#[derive(Args)]
pub(super) struct Secrets {
    #[command(subcommand)]
    command: SecretCommand,
}

#[derive(Subcommand)]
enum SecretCommand {
    /// List them with their versions, who uses them, and when each proved a request last
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Store a secret, or give it a new version; the one before stays good for a while. The value is read from stdin
    Set {
        name: String,
        /// Let the hub make the value, which is shown this once
        #[arg(long)]
        generate: bool,
        /// Seconds for which the version before stays good; 0 when it has leaked [default: 86400]
        #[arg(long, value_name = "SECONDS")]
        overlap: Option<u64>,
        #[command(flatten)]
        common: Common,
    },
    /// Remove a secret that nothing refers to any more
    Remove {
        name: String,
        #[command(flatten)]
        common: Common,
    },
}

pub(super) async fn run(options: Secrets) -> anyhow::Result<()> {
    match options.command {
        SecretCommand::List { common: Common { hub, json } } => {
            let body = hub.connect().await?.get("/api/secrets").await?.ok()?;
            print(&body, json, show)
        }
        SecretCommand::Set { name, generate, overlap, common: Common { hub, json } } => {
            let value = if generate { None } else { Some(typed()?) };
            let mut body = json!({ "value": value, "generate": generate });
            if let Some(overlap) = overlap {
                body["overlap_s"] = overlap.into();
            }
            let path = format!("/api/secrets/{}", encoded(&name));
            let body = hub.connect().await?.put_json(&path, body.to_string()).await?.ok()?;
            print(&body, json, |answer| {
                if let Some(value) = answer["value"].as_str() {
                    // Alone on stdout, for scripts.
                    anstream::println!("{value}");
                    anstream::eprintln!("this is the only time that the value is shown");
                }
                anstream::eprintln!("stored:{} is version {} now", text(&answer["name"]), answer["version"]);
                if let Some(until) = answer["previous_until"].as_str() {
                    anstream::eprintln!("the version before it stays good until {until}");
                }
            })
        }
        SecretCommand::Remove { name, common: Common { hub, json } } => {
            let path = format!("/api/secrets/{}/remove", encoded(&name));
            let body = hub.connect().await?.post(&path, "").await?.ok()?;
            print(&body, json, |answer| anstream::println!("removed {}", text(&answer["name"])))
        }
    }
}

/// Never an argument: those stand in the shell's history and in the list of processes.
fn typed() -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        anstream::eprintln!("type the value and end it with Ctrl-D; it will be visible, so rather pipe it in:");
    }
    let mut value = String::new();
    std::io::stdin().read_to_string(&mut value).context("the value on stdin is not text")?;
    let value = value.strip_suffix('\n').map_or(value.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    anyhow::ensure!(!value.is_empty(), "there is no value on stdin: pipe it in, or use --generate");
    Ok(value.to_owned())
}

fn show(answer: &Value) {
    for secret in items(answer) {
        let used: Vec<&str> = secret["used_by"].as_array().into_iter().flatten().map(text).collect();
        let used = if used.is_empty() { "used by nothing".into() } else { format!("used by {}", used.join(", ")) };
        anstream::println!("{}  {used}", text(&secret["name"]));
        for version in secret["versions"].as_array().into_iter().flatten() {
            let until = version["not_after"].as_str().map(|time| format!(", until {time}")).unwrap_or_default();
            let seen = version["last_matched_at"].as_str().map(|at| format!(", last matched {at}")).unwrap_or_default();
            let (number, state) = (&version["version"], text(&version["state"]));
            anstream::println!("  version {number}: {state}, since {}{until}{seen}", text(&version["created_at"]));
        }
    }
}
