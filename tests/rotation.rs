//! Nodes of one database share a key ring and a pepper: one that has others does not start, and a rotated ring is copied
//! before anything is sealed that others could not open.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use tomada::app::Hub;
use tomada::client::{Answer, Client};
use tomada::clock::Clock;

use crate::harness::database::{Database, redis};
use crate::harness::partner::{Partner, source};
use crate::harness::{START_MS, open_node, parse, read, refusal};

const PATH: &str = "/webhooks/partner/visit";

/// Data directories of nodes, and the database that they share.
struct Nodes {
    directory: TempDir,
    database: Database,
    clock: Clock,
}

impl Nodes {
    fn on(database: Database) -> Nodes {
        Nodes { directory: TempDir::new().expect("a directory"), database, clock: Clock::manual(START_MS) }
    }

    fn data(&self, node: &str) -> PathBuf {
        self.directory.path().join(node)
    }

    async fn try_start(&self, node: &str) -> anyhow::Result<Hub> {
        let config =
            parse(&source(PATH, "visit.done").replace("[[sources.partner", "sensitive = true\n[[sources.partner"));
        open_node(self.data(node), self.database.url(), redis(), self.clock.clone(), Some(config)).await
    }

    async fn start(&self, node: &str) -> Hub {
        self.try_start(node).await.expect("the node starts")
    }

    async fn refused(&self, node: &str) -> String {
        refusal(self.try_start(node).await)
    }

    fn copy(&self, file: &str, from: &str, to: &str) {
        std::fs::create_dir_all(self.data(to)).expect("a directory");
        std::fs::copy(self.data(from).join(file), self.data(to).join(file)).expect("the file is there");
    }
}

async fn client(hub: &Hub) -> Client {
    Client::connect(&hub.url, Some(&hub.admin_key)).await.expect("the hub answers")
}

/// What an event holds.
async fn payload(hub: &Hub, event: &str) -> Value {
    let event = client(hub).await.get(&format!("/api/events/{event}?payload=true")).await;
    read(event.expect("an answer"))["payload"].take()
}

async fn rotate(hub: &Hub) -> Answer {
    client(hub).await.post("/api/keyring/rotate", "").await.expect("an answer")
}

/// Answers the event's id.
async fn post(hub: &Hub, number: u32) -> String {
    Partner::of(&hub.url, PATH).await.send(&json!({ "visit": number })).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_the_ring_and_the_pepper() {
    for database in Database::on_each_server() {
        let nodes = Nodes::on(database);
        let first = nodes.start("first").await;
        let before = post(&first, 1).await;

        // A second node makes files of its own where it is given none; neither is taken.
        let said = nodes.refused("second").await;
        assert!(said.contains("lacks keys that the database needs"), "{said}");
        nodes.copy("keyring", "first", "second");
        let said = nodes.refused("second").await;
        assert!(said.contains("is not the pepper that other nodes of this database have"), "{said}");
        nodes.copy("pepper", "first", "second");
        let second = nodes.start("second").await;
        assert_eq!(payload(&second, &before).await, json!({ "visit": 1 }));

        let refused = rotate(&first).await;
        assert!(refused.status == 409 && refused.problem().contains("other nodes"), "{}", refused.problem());
        second.stop().await.expect("it stops");
        assert_eq!(rotate(&first).await.status, 200);

        // The old ring does not even do while the new key wraps nothing.
        assert_eq!(nodes.database.number(&nodes.data("first"), "select count(*) from wrapping_keys"), 2);
        let said = nodes.refused("second").await;
        assert!(said.contains("lacks keys"), "{said}");
        let after = post(&first, 2).await;
        let said = nodes.refused("second").await;
        assert!(said.contains("lacks keys that the database needs"), "{said}");
        nodes.copy("keyring", "first", "second");
        let second = nodes.start("second").await;
        for (event, number) in [(before, 1), (after, 2)] {
            assert_eq!(payload(&second, &event).await, json!({ "visit": number }));
        }
        second.stop().await.expect("it stops");
        first.stop().await.expect("it stops");
    }
}

/// A ring that was rotated where the others could not hear of it: beside another database, say.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_others_lack_wraps_nothing_while_they_run() {
    for database in Database::on_each_server() {
        let nodes = Nodes::on(database);
        let first = nodes.start("first").await;
        for file in ["keyring", "pepper"] {
            nodes.copy(file, "first", "second");
        }
        let ring = nodes.data("second").join("keyring");
        let mut rotated: Value = serde_json::from_slice(&std::fs::read(&ring).expect("the ring")).expect("JSON");
        let mut fresh = rotated["keys"][0].clone();
        rotated["keys"][0]["active"] = false.into();
        fresh["id"] = "00c0ffee".into();
        rotated["keys"].as_array_mut().expect("keys").push(fresh);
        std::fs::write(&ring, rotated.to_string()).expect("it is written");
        let said = nodes.refused("second").await;
        assert!(said.contains("may lack key 00c0ffee"), "{said}");
        // With nobody else there it may.
        first.stop().await.expect("it stops");
        nodes.start("second").await.stop().await.expect("it stops");
    }
}
