//! `tomada doctor`: is everything here that the hub needs?

mod files;
mod machine;
mod servers;

use std::path::PathBuf;
use std::process::ExitCode;

use anstyle::AnsiColor;
use clap::Args;
use serde::Serialize;

use super::migrate::{self, DatabaseArgs};

#[derive(Args)]
pub(super) struct Doctor {
    /// Data directory of the hub
    #[arg(long, value_name = "DIR", default_value = "tomada-data", env = "TOMADA_DATA")]
    data: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Redis that the nodes share: redis://…, or file:PATH where that stands
    #[arg(long, value_name = "URL", env = "TOMADA_REDIS", hide_env_values = true)]
    redis: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was looked at, and what was found where; where it is not good, also what to do.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    detail: String,
}

impl Finding {
    fn good(what: &'static str, detail: impl Into<String>) -> Finding {
        Finding { what, state: State::Good, detail: detail.into() }
    }

    fn warning(what: &'static str, detail: impl Into<String>) -> Finding {
        Finding { what, state: State::Warning, detail: detail.into() }
    }

    fn bad(what: &'static str, detail: impl Into<String>) -> Finding {
        Finding { what, state: State::Bad, detail: detail.into() }
    }
}

#[derive(Debug, Serialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    /// The hub runs, but not everything works or works well.
    Warning,
    Bad,
}

pub(super) async fn run(options: Doctor) -> anyhow::Result<ExitCode> {
    let mut findings = vec![
        machine::running(&options).await,
        machine::data(&options),
        machine::sync(&options),
        machine::processing(&options),
        machine::sandbox(),
        machine::descriptors(),
        machine::toolchain(),
    ];
    findings.extend(servers::database(&options).await);
    findings.extend(servers::redis(&options).await);
    if options.json {
        anstream::println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let (word, colour) = match finding.state {
                State::Good => ("ok  ", AnsiColor::Green),
                State::Warning => ("warn", AnsiColor::Yellow),
                State::Bad => ("bad ", AnsiColor::Red),
            };
            let style = colour.on_default();
            anstream::println!("{style}{word}{style:#}  {:<16} {}", finding.what, finding.detail);
        }
    }
    let bad = findings.iter().any(|finding| finding.state == State::Bad);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
