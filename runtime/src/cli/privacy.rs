//! `tomada privacy`: what the hub has to say about personal data.

use std::io::IsTerminal as _;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::client::HubArgs;

#[derive(Subcommand)]
pub(super) enum Privacy {
    /// The record of processing (LGPD, art. 37), made of the configuration in force
    Record(Record),
}

#[derive(Args)]
pub(super) struct Record {
    #[command(flatten)]
    hub: HubArgs,
    /// Print Markdown in Brazilian Portuguese; the default on a terminal
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Print JSON; the default elsewhere
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: Privacy) -> anyhow::Result<()> {
    match command {
        Privacy::Record(options) => record(options).await,
    }
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
