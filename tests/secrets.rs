//! Secrets that the hub keeps: sealed, with versions that overlap, and in no answer, log or file.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::TestHub;
use crate::harness::partner::{Partner, signature_with};
use crate::harness::target::Target;

const PATH: &str = "/webhooks/partner/order";
const FIRST: &str = "the first secret of the partner";
const SECOND: &str = "the second secret of the partner";

const SOURCE: &str = r#"
    [sources.partner]
    auth = { scheme = "hmac-hex", secrets = ["stored:partner"] }
    idempotency = { pointer = "/n" }
    [[sources.partner.webhooks]]
    path = "/webhooks/partner/order"
    event = "order.created"
    queue = "integrations"
"#;

async fn set(hub: &TestHub, name: &str, body: Value) -> Value {
    let mut client = hub.client().await;
    let answer = client.put_json(&format!("/api/secrets/{name}"), body.to_string()).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.problem());
    answer.json().expect("JSON")
}

async fn applied(hub: &TestHub, toml: &str) -> tomada::client::Answer {
    let config = tomada::config::parse(toml, "test.toml").expect("a configuration");
    let components: std::collections::BTreeMap<String, String> = config
        .endpoints
        .values()
        .map(|endpoint| {
            use base64::Engine as _;
            let wasm = crate::harness::components::read(&endpoint.connector);
            (endpoint.connector.clone(), base64::engine::general_purpose::STANDARD.encode(wasm))
        })
        .collect();
    let body = json!({ "config": config, "components": components }).to_string();
    hub.client().await.post("/api/apply", body).await.expect("an answer")
}

/// The status that a message signed with this secret is answered with.
async fn sent(hub: &TestHub, secret: &str, number: u32) -> u16 {
    let body = json!({ "n": number }).to_string();
    let signature = signature_with(secret.as_bytes(), &body);
    let mut partner = Partner::of(&hub.url, PATH).await;
    partner.send_with(&[("x-webhook-signature", &signature)], &body).await.expect("an answer").status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sources_secret_changes_without_a_gap() {
    let hub = TestHub::start("").await;
    let refused = applied(&hub, SOURCE).await;
    assert_eq!(refused.status, 422);
    assert!(refused.problem().contains("there is no stored:partner: make it with `tomada secrets set partner`"));
    set(&hub, "partner", json!({ "value": FIRST })).await;
    assert_eq!(applied(&hub, SOURCE).await.status, 200);
    assert_eq!(sent(&hub, FIRST, 1).await, 202);
    assert_eq!(sent(&hub, SECOND, 2).await, 401);

    hub.clock.advance(Duration::from_secs(1));
    let changed = set(&hub, "partner", json!({ "value": SECOND, "overlap_s": 60 })).await;
    assert_eq!((&changed["version"], &changed["value"]), (&json!(2), &Value::Null));
    assert_eq!(changed["previous_until"], "2026-01-01T00:01:01Z");
    assert_eq!([sent(&hub, FIRST, 3).await, sent(&hub, SECOND, 4).await], [202, 202], "both sides of the change");
    let listed = hub.get("/api/secrets").await;
    let [old, new] = [&listed["items"][0]["versions"][0], &listed["items"][0]["versions"][1]];
    assert_eq!((&old["state"], &new["state"]), (&json!("previous"), &json!("current")), "{listed:#}");
    assert_eq!(
        (&old["last_matched_at"], &new["last_matched_at"]),
        (&json!("2026-01-01T00:00:01Z"), &json!("2026-01-01T00:00:01Z"))
    );
    assert_eq!(listed["items"][0]["used_by"], json!(["source partner"]));

    // The dates hold after a restart too, without anybody doing anything.
    let hub = hub.restart().await;
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!([sent(&hub, FIRST, 5).await, sent(&hub, SECOND, 6).await], [401, 202]);
    // A leak does not wait.
    set(&hub, "partner", json!({ "value": FIRST, "overlap_s": 0 })).await;
    hub.clock.advance(Duration::from_millis(1));
    assert_eq!([sent(&hub, FIRST, 7).await, sent(&hub, SECOND, 8).await], [202, 401]);

    let remove = hub.client().await.post("/api/secrets/partner/remove", "").await.expect("an answer");
    assert_eq!(remove.status, 409);
    assert!(remove.problem().contains("used by source partner"), "{}", remove.problem());
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_signs_with_both_versions_while_they_overlap() {
    let target = Target::start().await;
    let hub = TestHub::start("").await;
    let first = set(&hub, "signing", json!({ "generate": true })).await["value"].as_str().expect("shown").to_owned();
    assert!(first.starts_with("whsec_"));
    let endpoint = target.endpoint("shop");
    let toml = format!(
        "{endpoint}secrets = {{ signing = \"stored:signing\", signing_previous = \"stored:signing@previous\" }}\n\
         [[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\n"
    );
    let answer = applied(&hub, &toml).await;
    assert_eq!(answer.status, 200, "{}", answer.problem());
    let publish = async |number: usize| {
        let event = json!({ "event_type": "order.created", "source_system": "till", "payload": { "n": number } });
        let id = hub.post("/api/events", event).await["id"].as_str().expect("an id").to_owned();
        hub.event_with(&id, "delivered").await;
        target.wait_for(number).await[number - 1].header("webhook-signature").split(' ').count()
    };
    assert_eq!(publish(1).await, 1);
    set(&hub, "signing", json!({ "generate": true, "overlap_s": 60 })).await;
    assert_eq!(publish(2).await, 2, "by the new one and by the one before");
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(publish(3).await, 1, "the overlap is over");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_in_no_answer_no_file_and_no_bad_one_is_stored() {
    const MARKER: &str = "Q7-secret-XW";
    let hub = TestHub::start("").await;
    let mut client = hub.client().await;
    let mut put = async |name: &str, body: &str| {
        let answer = client.put_json(&format!("/api/secrets/{name}"), body.to_owned()).await.expect("an answer");
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!said.contains(MARKER), "an answer repeats the value: {said}");
        answer.status
    };
    assert_eq!(put("partner", &json!({ "value": MARKER }).to_string()).await, 200);
    assert_eq!(put("partner", &format!("{{\"value\": {MARKER}}}")).await, 400);
    assert_eq!(put("partner", &json!({ "values": MARKER }).to_string()).await, 400);
    assert_eq!(put("partner", &json!({ "value": "" }).to_string()).await, 400);
    assert_eq!(put("partner", &json!({ "value": MARKER, "generate": true }).to_string()).await, 400);
    assert_eq!(put("partner", &json!({ "value": MARKER, "overlap_s": 99_999_999 }).to_string()).await, 400);
    assert_eq!(put("No%20Name", &json!({ "value": MARKER }).to_string()).await, 400);
    assert_eq!(put("long", &json!({ "value": "x".repeat(20_000) }).to_string()).await, 400);
    // What a source could not prove anything with is refused before it is stored.
    assert_eq!(
        applied(&hub, &SOURCE.replace("hmac-hex", "standard-webhooks").replace("idempotency", "#")).await.status,
        422
    );
    let standard =
        SOURCE.replace("hmac-hex", "standard-webhooks").replace("idempotency", "#").replace(":partner", ":std");
    assert_eq!(put("std", &json!({ "generate": true }).to_string()).await, 200);
    assert_eq!(applied(&hub, &standard).await.status, 200);
    assert_eq!(put("std", &json!({ "value": format!("whsec_{MARKER}") }).to_string()).await, 422);
    let listed = hub.get("/api/secrets").await.to_string();
    assert!(!listed.contains(MARKER) && listed.contains("partner"), "{listed}");

    let said = hub.command(&["secrets", "list"]).await;
    assert!(String::from_utf8_lossy(&said.stdout).contains("partner  used by nothing"), "{said:?}");
    let said = hub.command(&["secrets", "remove", "partner"]).await;
    assert!(said.status.success(), "{said:?}");
    assert_eq!(hub.get("/api/secrets").await["items"].as_array().map(Vec::len), Some(1));
    let holds = |bytes: Vec<u8>| bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes());
    assert!(!holds(hub.database()), "the database holds a value");
    for file in std::fs::read_dir(hub.directory()).expect("the directory") {
        let path = file.expect("an entry").path();
        assert!(!holds(std::fs::read(&path).unwrap_or_default()), "{} holds a value", path.display());
    }
    hub.finish(&[]).await;
}
