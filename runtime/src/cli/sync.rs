//! `tomada sync` and `tomada schedules`: what happens by itself, and starting it by hand.

use std::process::ExitCode;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::operate::{coloured, encoded, items, print, text};
use crate::client::{Client, HubArgs};

/// Between two looks at a run that is waited for.
const OFTEN: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(super) struct Sync {
    #[command(subcommand)]
    command: Option<SyncCommand>,
    #[command(flatten)]
    hub: HubArgs,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum SyncCommand {
    /// List sync jobs, when they are due and how their last runs ended (also without a command)
    List,
    /// Start a run; it goes on where the last one failed
    Run {
        name: String,
        /// Not where the last run failed, but from the beginning
        #[arg(long)]
        from_start: bool,
        /// Return when the run has ended; the exit code is 1 when it failed
        #[arg(long)]
        wait: bool,
    },
    /// List the last runs of a job
    Runs {
        name: String,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
}

#[derive(Args)]
pub(super) struct Schedules {
    #[command(flatten)]
    hub: HubArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn sync(options: Sync) -> anyhow::Result<ExitCode> {
    let mut client = options.hub.connect().await?;
    match options.command.unwrap_or(SyncCommand::List) {
        SyncCommand::List => {
            let body = client.get("/api/sync-jobs").await?.ok()?;
            print(&body, options.json, |answer| items(answer).iter().for_each(show_job))?;
        }
        SyncCommand::Runs { name, limit } => {
            let path = format!("/api/sync-jobs/{}/runs?limit={limit}", encoded(&name));
            let body = client.get(&path).await?.ok()?;
            print(&body, options.json, |answer| {
                if items(answer).is_empty() {
                    anstream::println!("no runs yet");
                }
                for run in items(answer) {
                    anstream::println!("{}", line(run));
                }
            })?;
        }
        SyncCommand::Run { name, from_start, wait } => {
            let path = format!("/api/sync-jobs/{}/run", encoded(&name));
            let body = client.post(&path, json!({ "from_start": from_start }).to_string()).await?.ok()?;
            let begun: Value = serde_json::from_slice(&body)?;
            if !wait {
                print(&body, options.json, |begun| {
                    anstream::println!("{} begun; see it with `tomada sync runs {name}`", text(&begun["run"]));
                })?;
                return Ok(ExitCode::SUCCESS);
            }
            let run = ended(&mut client, &name, text(&begun["run"])).await?;
            print(run.to_string().as_bytes(), options.json, |run| anstream::println!("{}", line(run)))?;
            return Ok(if run["state"] == "succeeded" { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn schedules(options: Schedules) -> anyhow::Result<()> {
    let body = options.hub.connect().await?.get("/api/schedules").await?.ok()?;
    print(&body, options.json, |answer| {
        if items(answer).is_empty() {
            anstream::println!("no schedules");
        }
        for schedule in items(answer) {
            let bold = Style::new().bold();
            let (name, event) = (text(&schedule["name"]), text(&schedule["event"]));
            anstream::println!("{bold}{name:<24}{bold:#} {event}  {}", when(schedule));
        }
    })
}

#[allow(clippy::disallowed_methods, reason = "it waits from outside; nothing of the hub depends on it")]
async fn ended(client: &mut Client, name: &str, id: &str) -> anyhow::Result<Value> {
    loop {
        let answer: Value = client.get(&format!("/api/sync-jobs/{}/runs", encoded(name))).await?.json()?;
        if let Some(run) = items(&answer).iter().find(|run| run["id"] == id && run["state"] != "running") {
            return Ok(run.clone());
        }
        tokio::time::sleep(OFTEN).await;
    }
}

fn show_job(job: &Value) {
    let bold = Style::new().bold();
    let (name, endpoint) = (text(&job["name"]), text(&job["endpoint"]));
    anstream::println!("{bold}{name}{bold:#} pulls from {endpoint}  {}", when(job));
    match &job["last_run"] {
        Value::Null => anstream::println!("    never run"),
        run => anstream::println!("    {}", line(run)),
    }
}

fn when(timed: &Value) -> String {
    match timed["cron"].as_str() {
        Some(cron) => format!("{cron} {}, next {}", text(&timed["time_zone"]), text(&timed["next_at"])),
        None => "started by hand only".to_owned(),
    }
}

fn line(run: &Value) -> String {
    let state = match text(&run["state"]) {
        state @ "succeeded" => coloured(state, AnsiColor::Green),
        state @ "running" => coloured(state, AnsiColor::Yellow),
        state => coloured(state, AnsiColor::Red),
    };
    let mut line = format!(
        "{}  {}  {state}  {} items in {} pages, {} known before, by {}",
        text(&run["id"]),
        text(&run["started_at"]),
        run["items"],
        run["pages"],
        run["known"],
        text(&run["started_by"]),
    );
    if let Some(message) = run["message"].as_str() {
        line.push_str(&format!("  {message}"));
    }
    line
}
