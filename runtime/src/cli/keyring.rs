//! `tomada keyring`: the keys that wrap the keys of sealed events and secrets.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::operate::{Common, encoded, items, print, text};

#[derive(Args)]
pub(super) struct Keyring {
    #[command(subcommand)]
    command: RingCommand,
}

#[derive(Subcommand)]
enum RingCommand {
    /// List the ring's keys, and whether they wrap anything
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Make a new active key; what the others wrap is wrapped anew in the background
    Rotate {
        #[command(flatten)]
        common: Common,
    },
    /// Take a key off the ring that wraps nothing any more; backups from before cannot be opened after that
    Retire {
        id: String,
        #[command(flatten)]
        common: Common,
    },
}

pub(super) async fn run(options: Keyring) -> anyhow::Result<()> {
    let (answer, json) = match options.command {
        RingCommand::List { common: Common { hub, json } } => (hub.connect().await?.get("/api/keyring").await?, json),
        RingCommand::Rotate { common: Common { hub, json } } => {
            (hub.connect().await?.post("/api/keyring/rotate", "").await?, json)
        }
        RingCommand::Retire { id, common: Common { hub, json } } => {
            let path = format!("/api/keyring/{}/retire", encoded(&id));
            (hub.connect().await?.post(&path, "").await?, json)
        }
    };
    print(&answer.ok()?, json, show)
}

fn show(answer: &Value) {
    for key in items(answer) {
        let (id, state, since) = (text(&key["id"]), text(&key["state"]), text(&key["created_at"]));
        anstream::println!("{id}  {state:<12}  since {since}");
    }
    if let Some(time) = answer["rewrapped_up_to"].as_str() {
        anstream::println!("events up to {time} are wrapped with the active key; the rest follows by itself");
    }
}
