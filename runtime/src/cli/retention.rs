//! `tomada retention`: how long what is kept, and whether it is gone when its time is over.

use anstyle::AnsiColor;
use clap::Args;
use serde_json::Value;

use super::operate;
use crate::client::HubArgs;

/// Seconds from one round to the next: rows that came due since the last one are no reason to worry.
const ROUND_S: u64 = 3600;

#[derive(Args)]
pub(super) struct Retention {
    #[command(flatten)]
    hub: HubArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn retention(options: Retention) -> anyhow::Result<()> {
    let body = options.hub.connect().await?.get("/api/retention").await?.ok()?;
    operate::print(&body, options.json, show)
}

fn show(answer: &Value) {
    for item in operate::items(answer) {
        let overdue_s = item["overdue_seconds"].as_u64().unwrap_or(0);
        let state = match overdue_s {
            0 => operate::coloured("nothing overdue", AnsiColor::Green),
            _ => {
                let oldest =
                    item["oldest_created_at"].as_str().map(|at| format!(", oldest of {at}")).unwrap_or_default();
                let colour = if overdue_s <= ROUND_S { AnsiColor::Yellow } else { AnsiColor::Red };
                operate::coloured(&format!("overdue by {overdue_s} s{oldest}"), colour)
            }
        };
        let (rule, keep) = (operate::text(&item["rule"]), operate::text(&item["keep"]));
        anstream::println!("{rule:<17} {keep:<8} removed {:<8} {state}", item["removed"].as_u64().unwrap_or(0));
        for own in item["own"].as_array().into_iter().flatten() {
            for maker in ["source", "endpoint"] {
                if let Some(name) = own[maker].as_str() {
                    anstream::println!("  {maker} {name}: {}", operate::text(&own["keep"]));
                }
            }
        }
    }
}
