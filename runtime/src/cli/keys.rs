//! `tomada keys`: list API keys, make, rotate and revoke them.

use std::path::Path;

use anstyle::AnsiColor;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::operate::{Common, coloured, encoded, items, print, text};
use crate::keys::grant::{Role, Scope};

#[derive(Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a key; it is shown this once
    Create(Box<Create>),
    /// List all keys with what they may do; secrets are not known any more
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Give a key a new secret, which is shown this once; the one before stays good for a while
    Rotate {
        /// Its public id: what stands between `tmd_` and the next `_`
        id: String,
        /// Seconds for which the secret before stays good; 0 when it has leaked [default: 86400]
        #[arg(long, value_name = "SECONDS")]
        overlap: Option<u64>,
        #[command(flatten)]
        common: Common,
    },
    /// End a key, at once and for ever
    Revoke {
        /// Its public id
        id: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
struct Create {
    /// Who or what it is for
    #[arg(long)]
    name: String,
    /// The scopes of a role
    #[arg(long, required_unless_present = "scopes", value_parser = PossibleValuesParser::new(Role::ALL))]
    role: Option<String>,
    /// One scope; may be given several times, also beside a role
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scopes())]
    scopes: Vec<String>,
    /// Publish only as this source_system; may be given several times
    #[arg(long = "source", value_name = "NAME")]
    sources: Vec<String>,
    /// Good only from these addresses; may be given several times
    #[arg(long = "address", value_name = "CIDR")]
    addresses: Vec<String>,
    /// Good from this time on, as 2026-12-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    not_before: Option<String>,
    /// Good until this time
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    #[command(flatten)]
    common: Common,
}

fn scopes() -> PossibleValuesParser {
    Scope::ALL.iter().map(|scope| scope.word()).collect::<Vec<_>>().into()
}

pub(super) async fn run(options: Keys) -> anyhow::Result<()> {
    match options.command {
        KeyCommand::Create(create) => {
            let Common { hub, json } = create.common;
            let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
            let body = json!({
                "name": create.name, "role": create.role, "scopes": create.scopes, "sources": some(create.sources),
                "addresses": some(create.addresses), "not_before": create.not_before, "expires_at": create.expires_at,
            });
            secret(&hub.connect().await?.post("/api/keys", body.to_string()).await?.ok()?, json)
        }
        KeyCommand::List { common: Common { hub, json } } => {
            let body = hub.connect().await?.get("/api/keys").await?.ok()?;
            print(&body, json, |answer| items(answer).iter().for_each(line))
        }
        KeyCommand::Rotate { id, overlap, common: Common { hub, json } } => {
            let body = overlap.map_or(String::new(), |overlap| json!({ "overlap_s": overlap }).to_string());
            let path = format!("/api/keys/{}/rotate", encoded(&id));
            secret(&hub.connect().await?.post(&path, body).await?.ok()?, json)
        }
        KeyCommand::Revoke { id, common: Common { hub, json } } => {
            let body = hub.connect().await?.post(&format!("/api/keys/{}/revoke", encoded(&id)), "").await?.ok()?;
            print(&body, json, line)
        }
    }
}

/// The key alone goes to stdout, for scripts.
fn secret(body: &[u8], json: bool) -> anyhow::Result<()> {
    print(body, json, |answer| {
        anstream::println!("{}", text(&answer["key"]));
        anstream::eprintln!(
            "this is the only time that the key is shown; it opens the API in X-API-Key or as a Bearer token"
        );
        if let Some(until) = answer["previous_secret_until"].as_str() {
            anstream::eprintln!("the secret before it stays good until {until}");
        }
    })
}

fn line(key: &Value) {
    let state = match text(&key["state"]) {
        "active" => coloured("active", AnsiColor::Green),
        "not-yet-valid" => coloured("not valid yet", AnsiColor::Yellow),
        state => coloured(state, AnsiColor::Red),
    };
    let words = |name: &str| {
        let words: Vec<&str> = key[name].as_array().into_iter().flatten().map(text).collect();
        words.join(" ")
    };
    let used = key["last_used_at"].as_str().map_or("never used".into(), |at| format!("last used {at}"));
    anstream::println!("{}  {:<24} {state}  {used}  {}", text(&key["id"]), text(&key["name"]), words("scopes"));
    for (name, label) in [("sources", "publishes as"), ("addresses", "from")] {
        if key[name].is_array() {
            anstream::println!("    {label} {}", words(name));
        }
    }
    for (name, label) in [
        ("not_before", "not before"),
        ("expires_at", "until"),
        ("revoked_at", "revoked"),
        ("previous_secret_until", "the secret before the last rotation is good until"),
    ] {
        if let Some(time) = key[name].as_str() {
            anstream::println!("    {label} {time}");
        }
    }
}

/// What the first start says about the key that it made. It goes past the log, which others keep and read.
pub(super) fn first(key: &str, data: &Path) {
    anstream::eprintln!(
        "\nThe first API key, which opens everything. It is shown this once:\n\n    {key}\n\n\
         Send it in X-API-Key or as Authorization: Bearer. The commands on this machine find it in {}.\n\
         Make narrower keys for others: tomada keys create --name NAME --role reader\n",
        data.join("admin.key").display()
    );
}
