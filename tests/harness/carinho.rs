//! Carinho as it ships: its configuration, its components, and stand-ins for all of its systems.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tomada::config::{self, Auth, Config};
use tomada::demo::loopback;
use tomada::demo::standins::StandIns;

use super::components;
use super::partner::{Partner, signature_with};
use super::{TestHub, eventually};

pub(crate) struct Carinho {
    pub(crate) hub: TestHub,
    pub(crate) stand_ins: StandIns,
    /// Turned towards the stand-ins.
    pub(crate) config: Config,
}

/// The configuration that ships.
pub(crate) fn shipped() -> Config {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../connectors/carinho.toml");
    config::load(&[file]).unwrap_or_else(|problems| panic!("the configuration that ships: {problems:#?}"))
}

/// The configuration that ships, turned towards stand-ins; secrets lie in `data`.
pub(crate) async fn turned(data: &Path) -> (Config, StandIns) {
    let mut config = shipped();
    let mut stand_ins = StandIns::start().await.expect("the stand-ins start");
    let built = components::path("crm").parent().expect("a directory").to_owned();
    loopback::turn(&mut config, &mut stand_ins, data, &built).await.expect("all components are built");
    (config, stand_ins)
}

/// The value of a reference to a file.
pub(crate) fn secret(reference: &config::SecretRef) -> Vec<u8> {
    std::fs::read(reference.0.strip_prefix("file:").expect("a file")).expect("the secret can be read")
}

/// A hub compiles the dozen components that ship, which takes longer than most flows. The tests that start many hubs keep
/// what was compiled beside the components; `compiled` is where the next hub looks for it.
fn share_compiled(compiled: &Path) {
    let shared = components::path("crm").with_file_name("compiled");
    std::fs::create_dir_all(&shared).expect("a directory beside the components");
    std::fs::create_dir_all(compiled.parent().expect("a hub's directory")).expect("a hub's directory");
    std::os::unix::fs::symlink(shared, compiled).expect("a link");
}

impl Carinho {
    /// With a configuration that is not quite the one that ships.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Carinho {
        let data = TempDir::new().expect("a directory");
        let (mut config, stand_ins) = turned(data.path()).await;
        change(&mut config);
        let compiled = data.path().join("hub/compiled");
        share_compiled(&compiled);
        Carinho { hub: TestHub::start_with(data, config.clone()).await, stand_ins, config }
    }

    /// Posts to a webhook as its source does, and answers the event's id and whether it was known.
    pub(crate) async fn send(&self, path: &str, event: Option<&str>, body: &Value) -> (String, bool) {
        let text = body.to_string();
        let (source, webhook) = self
            .config
            .sources
            .values()
            .find_map(|source| {
                let webhook = source.webhooks.iter().find(|webhook| webhook.path.trim_end_matches("/{token}") == path);
                Some((source, webhook?))
            })
            .unwrap_or_else(|| panic!("no source has the webhook {path}"));
        let secret = secret(&source.auth.secrets()[0].reference);
        let mut partner = Partner::of(&self.hub.url, path).await;
        let answer = match source.auth {
            Auth::HmacHex { .. } => {
                let signature = signature_with(&secret, &text);
                let mut headers = vec![("x-webhook-signature", signature.as_str())];
                headers.extend(event.map(|event| ("x-event-type", event)));
                partner.send_with(&headers, &text).await
            }
            _ => {
                let token = String::from_utf8(secret).expect("a token is text");
                let path = webhook.path.replace("{token}", &token);
                partner.request(Method::POST, &path, &[], &text).await
            }
        };
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 202, "{path}: {}", answer.problem());
        let accepted: Value = answer.json().expect("JSON");
        (accepted["id"].as_str().expect("an id").to_owned(), accepted["duplicate"] == true)
    }

    /// Publishes an event over the API and answers its id.
    pub(crate) async fn publish(&self, event_type: &str, source: &str, payload: &Value) -> String {
        let body = json!({ "event_type": event_type, "source_system": source, "payload": payload });
        self.hub.post("/api/events", body).await["id"].as_str().expect("an id").to_owned()
    }

    /// Moves the clock over all retries until nothing is left to do but what is delayed on purpose.
    pub(crate) async fn settled(&self) {
        // One second a look is far from the two hours of a delay.
        self.settle(Duration::from_secs(1), |delivery| delivery["attempts"] == 0).await;
    }

    /// The same, over the delays as well.
    pub(crate) async fn settled_wholly(&self) {
        self.settle(Duration::from_secs(1), |_| false).await;
    }

    async fn settle(&self, step: Duration, may_wait: impl Fn(&Value) -> bool) {
        // What a delivery gives rise to may come between a look at the events and one at their deliveries, so nothing may
        // be left to do twice in a row.
        let mut quiet = None;
        eventually("all is settled", async || {
            let deliveries = self.deliveries().await;
            let is = |delivery: &Value, states: &[&str]| states.iter().any(|state| delivery["status"] == *state);
            // Only who waits needs the clock: what is under way would find it somewhere else each time.
            if deliveries.iter().any(|delivery| is(delivery, &["waiting"]) && !may_wait(delivery)) {
                quiet = None;
                self.hub.clock.advance(step);
                return false;
            }
            if deliveries.iter().any(|delivery| is(delivery, &["owed"])) {
                quiet = None;
                return false;
            }
            quiet.replace(deliveries.len()) == Some(deliveries.len())
        })
        .await;
    }

    async fn deliveries(&self) -> Vec<Value> {
        let events = self.hub.get("/api/events?limit=500").await;
        let of = |event: &Value| event["deliveries"].as_array().expect("deliveries").clone();
        events["items"].as_array().expect("items").iter().flat_map(of).collect()
    }

    /// How long it is until the first delivery of an event is due that waits.
    pub(crate) async fn due(&self, id: &str) -> Duration {
        let event = self.hub.get(&format!("/api/events/{id}")).await;
        let waiting =
            event["deliveries"].as_array().expect("deliveries").iter().filter_map(|d| d["next_retry_at"].as_str());
        let first = waiting.min().expect("a delivery waits");
        let at_ms = first.parse::<jiff::Timestamp>().expect("a time").as_millisecond() as u64;
        Duration::from_millis(at_ms - self.hub.clock.now_ms())
    }

    pub(crate) async fn finish(self, left_over: &[(&str, &str, u64)]) {
        self.hub.finish(left_over).await;
    }
}
