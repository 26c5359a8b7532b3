//! Carinho's flow Lead criado, with the configuration that ships: each step once, whatever fails in between.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use hyper::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tomada::config;
use tomada::demo::loopback;
use tomada::demo::standins::{Received, StandIns};

use crate::harness::components;
use crate::harness::partner::{Partner, signature_with};
use crate::harness::{TestHub, eventually};

const PATH: &str = "/webhooks/site/lead";

struct Flow {
    hub: TestHub,
    stand_ins: StandIns,
    secret: Vec<u8>,
}

impl Flow {
    async fn start() -> Flow {
        let data = TempDir::new().expect("a directory");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../connectors/carinho.toml");
        let mut config = config::load(&[file]).expect("the configuration that ships is right");
        let mut stand_ins = StandIns::start().await.expect("the stand-ins start");
        let built = components::path("crm").parent().expect("a directory").to_owned();
        loopback::turn(&mut config, &mut stand_ins, data.path(), &built).await.expect("all components are built");
        let secret = std::fs::read(data.path().join("secrets/source-site-0")).expect("the site's secret");
        Flow { hub: TestHub::start_with(data, config).await, stand_ins, secret }
    }

    async fn send(&self, lead: &Value) -> (String, bool) {
        let body = lead.to_string();
        let mut site = Partner::of(&self.hub.url, PATH).await;
        let signature = signature_with(&self.secret, &body);
        let answer = site.send_with(&[("x-webhook-signature", &signature)], &body).await.expect("an answer");
        assert_eq!(answer.status, 202, "{}", answer.problem());
        let accepted: Value = answer.json().expect("JSON");
        (accepted["id"].as_str().expect("an id").to_owned(), accepted["duplicate"] == true)
    }

    /// Waits until the event and the one that it gives rise to are delivered, moving the clock over the retries.
    async fn settled(&self, id: &str) -> Value {
        self.hub
            .event_when(id, |event| {
                self.hub.clock.advance(Duration::from_millis(100));
                let of = |event: &Value| event["deliveries"].as_array().cloned().unwrap_or_default();
                let children = event["children"].as_array().cloned().unwrap_or_default();
                let mut all = of(event);
                all.extend(children.iter().flat_map(of));
                !children.is_empty() && all.iter().all(|delivery| delivery["status"] == "delivered")
            })
            .await
    }

    fn done(&self, system: &str, method: Method, path: &str) -> Vec<Received> {
        let calls = self.stand_ins.received(system).into_iter();
        calls.filter(|call| call.status.is_success() && call.method == method && call.path.contains(path)).collect()
    }
}

fn lead() -> Value {
    json!({
        "name": "Ana Souza", "phone": "(11) 98765-4321", "email": "ana@example.com", "source": "site",
        "utm_source": "google", "utm_medium": "cpc", "utm_campaign": "primavera", "message": "Quero um orçamento",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_is_created_answered_and_attributed() {
    let flow = Flow::start().await;
    let (id, duplicate) = flow.send(&lead()).await;
    assert!(!duplicate);
    let event = flow.settled(&id).await;
    assert_eq!(event["children"][0]["type"], "lead.registered");

    let created = flow.done("crm", Method::POST, "/api/v1/leads");
    assert_eq!(created.len(), 1);
    let body = created[0].json();
    for field in ["name", "phone", "email", "source", "utm_source", "utm_medium", "utm_campaign", "message"] {
        assert_eq!(body[field], lead()[field], "{field}");
    }
    assert_eq!(created[0].header("x-source-system"), Some("integracoes"));

    let texts = flow.done("zapi", Method::POST, "/send-text");
    assert_eq!(texts.len(), 1);
    assert_eq!(texts[0].json()["phone"], "5511987654321");
    assert!(texts[0].json()["message"].as_str().expect("a text").contains("Ana"));

    let attributed = flow.done("marketing", Method::POST, "/api/v1/attribution");
    assert_eq!(attributed.len(), 1);
    assert_eq!(attributed[0].json()["lead_id"], created[0].answer["data"]["id"]);
    let found = flow.done("marketing", Method::GET, "/api/v1/campaigns/find");
    let asked = |name: &str| found[0].query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!((asked("utm_source"), asked("utm_campaign")), (Some("google"), Some("primavera")));

    // The same again is the same event, and nobody gets a second text.
    assert_eq!(flow.send(&lead()).await, (id, true));
    assert_eq!(flow.done("zapi", Method::POST, "/send-text").len(), 1);
    flow.hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_lead_is_updated_and_one_without_campaign_is_not_attributed() {
    let flow = Flow::start().await;
    let (first, _) = flow.send(&lead()).await;
    flow.settled(&first).await;
    let mut again = lead();
    again["message"] = "Ainda quero".into();
    again["utm_campaign"] = Value::Null;
    let (second, _) = flow.send(&again).await;
    flow.settled(&second).await;
    assert_eq!(flow.done("crm", Method::POST, "/api/v1/leads").len(), 1);
    let updated = flow.done("crm", Method::PUT, "/api/v1/leads/");
    assert_eq!(updated.len(), 1);
    assert!(updated[0].json()["interaction_count"].is_number() && updated[0].json()["last_contact_at"].is_string());
    assert_eq!(flow.done("marketing", Method::POST, "/api/v1/attribution").len(), 1);
    flow.hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_repeats_no_other_step() {
    for system in ["crm", "zapi", "marketing"] {
        let flow = Flow::start().await;
        flow.stand_ins.fail_next(system, 2, StatusCode::INTERNAL_SERVER_ERROR, None);
        let (id, _) = flow.send(&lead()).await;
        flow.settled(&id).await;
        eventually("all three are done", async || {
            !flow.done("marketing", Method::POST, "/api/v1/attribution").is_empty()
        })
        .await;
        for (target, path) in [("crm", "/api/v1/leads"), ("zapi", "/send-text"), ("marketing", "/api/v1/attribution")] {
            assert_eq!(flow.done(target, Method::POST, path).len(), 1, "{path} after failures of {system}");
        }
        flow.hub.finish(&[]).await;
    }
}
