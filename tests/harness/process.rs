//! The hub as a process of its own, which can be killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tomada::client::{Client, Running};

use super::{Place, components};

pub(crate) struct HubProcess {
    child: Child,
    pub(crate) url: String,
    key: String,
}

impl HubProcess {
    /// Starts it in a place, perhaps one that a killed hub left, and waits until it is ready.
    pub(crate) async fn start(place: &Place, config: &Path, fault: Option<&str>) -> HubProcess {
        let mut command = HubProcess::command(place, config);
        command.env("TOMADA_LOG", "error");
        if let Some(fault) = fault {
            command.env("TOMADA_FAULT", fault);
        }
        HubProcess::spawn(command, &place.data()).await
    }

    /// The same, with everything that it has to say written to a file.
    pub(crate) async fn start_traced(place: &Place, config: &Path, log: &Path) -> HubProcess {
        HubProcess::start_traced_with(place, config, log, &[]).await
    }

    /// The same, with more arguments.
    pub(crate) async fn start_traced_with(place: &Place, config: &Path, log: &Path, more: &[&str]) -> HubProcess {
        let mut command = HubProcess::command(place, config);
        command.args(more);
        command.env("TOMADA_LOG", "trace").stderr(std::fs::File::create(log).expect("a file for the log"));
        HubProcess::spawn(command, &place.data()).await
    }

    /// One node of several on a database, with what it has to say added to a file.
    pub(crate) async fn start_node(
        data: &Path,
        config: Option<&Path>,
        port: u16,
        database: &str,
        redis: Option<&str>,
        log: &Path,
    ) -> HubProcess {
        let mut command = Command::new(components::tomada());
        command.arg("serve").arg("--data").arg(data).arg("--listen").arg(format!("127.0.0.1:{port}"));
        command.stdin(Stdio::null());
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        if let Some(redis) = redis {
            command.env("TOMADA_REDIS", redis);
        }
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a file for the log");
        command.env("TOMADA_DATABASE", database).env("TOMADA_LOG", "info").stderr(log);
        HubProcess::spawn(command, data).await
    }

    fn command(place: &Place, config: &Path) -> Command {
        let mut command = Command::new(components::tomada());
        command.arg("serve").arg("--data").arg(place.data()).args(["--listen", "127.0.0.1:0", "--config"]).arg(config);
        command.stdin(Stdio::null());
        if let Some(url) = place.database.url() {
            command.env("TOMADA_DATABASE", url);
        }
        if let Some(url) = super::database::redis() {
            command.env("TOMADA_REDIS", url);
        }
        command
    }

    async fn spawn(mut command: Command, data: &Path) -> HubProcess {
        // What a killed one left would be taken for this one's.
        let _ = std::fs::remove_file(data.join("hub.json"));
        let mut child = command.spawn().expect("the hub starts");
        let mut running = None;
        super::eventually("the hub is ready", async || {
            let ended = child.try_wait().expect("its state can be read");
            assert!(ended.is_none(), "the hub ended at once: {ended:?}");
            running = Running::read(data).ok();
            running.is_some()
        })
        .await;
        let key = tomada::client::admin_key(data).expect("a key");
        HubProcess { child, url: running.expect("it is there").url, key }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns when it has ended by itself.
    pub(crate) async fn ended(mut self) {
        super::eventually_within(30, "the hub has ended", async || {
            // It has something better to do with the processor.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            self.child.try_wait().expect("its state can be read").is_some()
        })
        .await;
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it has ended");
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.url, Some(&self.key)).await.expect("the hub answers")
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.try_get(path).await.expect("an answer")
    }

    /// The same of a hub that may not be able to.
    pub(crate) async fn try_get(&self, path: &str) -> anyhow::Result<Value> {
        Client::connect(&self.url, Some(&self.key)).await?.get(path).await?.json()
    }

    pub(crate) async fn post(&self, path: &str) -> Value {
        let mut client = Client::connect(&self.url, Some(&self.key)).await.expect("the hub answers");
        client.post(path, "").await.expect("an answer").json().expect("JSON")
    }
}

impl Drop for HubProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
