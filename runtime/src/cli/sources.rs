//! `tomada sources`: who may send, how each proves it, and which secrets are still seen.

use clap::Args;
use serde_json::Value;

use super::operate;
use crate::client::HubArgs;

#[derive(Args)]
pub(super) struct Sources {
    #[command(flatten)]
    hub: HubArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn sources(options: Sources) -> anyhow::Result<()> {
    let body = options.hub.connect().await?.get("/api/sources").await?.ok()?;
    operate::print(&body, options.json, show)
}

fn show(answer: &Value) {
    let items = operate::items(answer);
    if items.is_empty() {
        anstream::println!("no sources");
    }
    for source in items {
        let text = |key: &str| source[key].as_str().unwrap_or_default();
        let unsigned = source["reason"].as_str().map(|reason| format!("  UNSIGNED: {reason}")).unwrap_or_default();
        anstream::println!("{}  {}{unsigned}", text("name"), text("scheme"));
        for path in source["webhooks"].as_array().into_iter().flatten() {
            anstream::println!("  {}", path.as_str().unwrap_or_default());
        }
        for secret in source["secrets"].as_array().into_iter().flatten() {
            let when =
                |key: &str, word: &str| secret[key].as_str().map(|time| format!(", {word} {time}")).unwrap_or_default();
            let live = if secret["live"] == true { "live" } else { "not live" };
            let seen = secret["last_matched_at"].as_str().unwrap_or("not since the hub started");
            let (from, until) = (when("not_before", "from"), when("not_after", "until"));
            anstream::println!("  secret {}: {live}{from}{until}, last matched {seen}", secret["position"]);
        }
    }
}
