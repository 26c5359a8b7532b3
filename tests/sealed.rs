//! What a sensitive source sends is sealed at rest, with everything that comes of it; the ring that opens it lies outside
//! the database, is rotated without a stop, and is asked for at the start.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::partner::{Partner, source};
use crate::harness::target::Target;
use crate::harness::{TestHub, attempts, eventually};

const PATH: &str = "/webhooks/partner/visit";
/// Stands in a payload, and is no word of anything else.
const MARKER: &str = "Q7-diagnosis-of-ana-XW";

fn config(target: &Target) -> String {
    let source = source(PATH, "visit.done")
        .replace("[[sources.partner", "sensitive = true\nkeep_headers = [\"x-note\"]\n[[sources.partner");
    let endpoint = target.endpoint("shop");
    format!(
        "{source}{endpoint}retry = {{ attempts = 2, delays_s = [10], jitter = 0 }}\n\
         [[routes]]\nevent = \"visit.done\"\nendpoint = \"shop\"\nordering = \"/patient\"\n"
    )
}

fn visit(number: u32) -> Value {
    json!({ "idempotency_key": format!("{MARKER}-{number}"), "patient": MARKER, "notes": format!("{MARKER} has fever") })
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn post(hub: &TestHub, body: &Value) -> Value {
    let body = body.to_string();
    let signature = crate::harness::partner::signature(&body);
    let headers = [("x-webhook-signature", signature.as_str()), ("x-note", MARKER)];
    let answer = Partner::of(&hub.url, PATH).await.send_with(&headers, &body).await.expect("an answer");
    assert_eq!(answer.status, 202, "{}", answer.problem());
    answer.json().expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sensitive_source_sends_lies_nowhere_in_clear() {
    let target = Target::start().await;
    target.answers([(500, vec![])]);
    let hub = TestHub::start(&config(&target)).await;
    let accepted = post(&hub, &visit(1)).await;
    let id = accepted["id"].as_str().expect("an id").to_owned();
    let waiting = hub.event_with(&id, "waiting").await;
    assert_eq!((&waiting["content"], &waiting["payload"]), (&json!("sealed"), &visit(1)));
    assert_eq!(waiting["headers"], json!([["x-note", MARKER]]));
    assert_eq!(waiting["idempotency_key"], format!("{MARKER}-1"));
    // Read anew from the table by the next hub, and sent as it came.
    let hub = hub.restart().await;
    hub.clock.advance(Duration::from_secs(10));
    hub.event_with(&id, "delivered").await;
    assert_eq!(target.got()[1].json(), visit(1));
    // The provider sends it again: its key is known, though it stands nowhere.
    let again = post(&hub, &visit(1)).await;
    assert_eq!((&again["id"], &again["duplicate"]), (&json!(id), &json!(true)));
    let other = post(&hub, &visit(2)).await;
    assert_eq!(other["duplicate"], false);
    hub.event_with(other["id"].as_str().expect("an id"), "delivered").await;

    let database = hub.database();
    assert!(holds(&database, "visit.done"), "it was read");
    assert!(!holds(&database, MARKER), "the database holds content");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_about_a_sealed_event_is_sealed_too() {
    const SAID: &str = "the connector was told to fail so";
    let target = Target::start().await;
    let endpoint = |mode: &str| {
        let endpoint = target.endpoint_of(mode, "hostile");
        endpoint.replace("settings = {", &format!("settings = {{ mode = \"{mode}\","))
            + &format!("[[routes]]\nevent = \"visit.done\"\nendpoint = \"{mode}\"\n")
    };
    let source = source(PATH, "visit.done").replace("[[sources.partner", "sensitive = true\n[[sources.partner");
    let hub = TestHub::start(&format!("{source}{}{}", endpoint("rejected"), endpoint("unauthorized"))).await;
    let (id, _) = Partner::of(&hub.url, PATH).await.send(&visit(1)).await;
    let event = hub
        .event_when(&id, |event| {
            let attempts = |at: usize| event["deliveries"][at]["attempt_list"].as_array().map_or(0, Vec::len);
            attempts(0) == 1 && attempts(1) == 1
        })
        .await;
    for delivery in event["deliveries"].as_array().expect("deliveries") {
        let attempt = &delivery["attempt_list"][0];
        assert_eq!((&attempt["message"], &attempt["code"]), (&json!(SAID), &json!("told-to-fail")), "it is shown");
    }
    let letters = hub.get("/api/dead-letters").await;
    assert_eq!(letters["items"][0]["message"], SAID, "{letters:#}");
    let endpoints = hub.get("/api/endpoints").await;
    let paused = endpoints["items"].as_array().expect("items").iter().find(|one| one["name"] == "unauthorized");
    let reason = paused.expect("the endpoint")["paused"].as_str().expect("a reason");
    assert!(reason.contains("see what became of delivery dlv_"), "{reason}");

    assert!(!holds(&hub.database(), MARKER), "the database holds content");
    // The words themselves stand in the component, which is stored too.
    let clear = |table: &str, columns: &str| {
        hub.number(&format!("select count(*) from {table} where coalesce({columns}, null) is not null"))
    };
    assert_eq!(clear("delivery_attempts", "message, log"), 0);
    assert_eq!(clear("dead_letter", "message"), 0);
    assert_eq!(clear("delivery_attempts", "code"), 2, "a code is no content");
    hub.finish(&[("rejected", "dead", 1), ("unauthorized", "held", 1)]).await;
}

/// A sensitive endpoint seals what goes to it and what its connector makes of it, whatever the sources say.
#[tokio::test(flavor = "multi_thread")]
async fn a_sensitive_endpoint_seals_what_passes_through_it() {
    let target = Target::start().await;
    let (url, port) = (target.url(), target.port);
    let hub = TestHub::start(&format!(
        r#"
        [sync_jobs.items]
        [[routes]]
        event = "sync.items"
        endpoint = "pager"
        [endpoints.pager]
        connector = "pager"
        sensitive = true
        settings = {{ url = "{url}/pager", items = 2, per_page = 2 }}
        hosts = ["{url}"]
        allow_private = ["127.0.0.1/32:{port}"]
        [[routes]]
        event = "item.found"
        endpoint = "shop"
        {}"#,
        target.endpoint("shop")
    ))
    .await;
    hub.post("/api/sync-jobs/items/run", json!({})).await;
    target.wait_for(2).await;
    for event_type in ["sync.items", "item.found"] {
        let events = hub.get(&format!("/api/events?type={event_type}")).await;
        for event in events["items"].as_array().expect("items") {
            assert_eq!(event["content"], "sealed", "{event:#}");
            hub.event_with(event["id"].as_str().expect("an id"), "delivered").await;
        }
    }
    assert!(!holds(&hub.database(), "item/1"), "a key that the connector made of content lies in clear");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ring_is_rotated_while_events_wait_and_the_old_key_retired() {
    let target = Target::start().await;
    target.always((500, vec![]));
    let hub = TestHub::start(&config(&target)).await;
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(post(&hub, &visit(number)).await["id"].as_str().expect("an id").to_owned());
    }
    let ring = hub.get("/api/keyring").await;
    let states = |ring: &Value| {
        let items = ring["items"].as_array().expect("keys").iter();
        items.map(|key| key["state"].as_str().expect("a state").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(states(&ring), ["active"]);
    let old = ring["items"][0]["id"].as_str().expect("an id").to_owned();
    let mut client = hub.client().await;
    let retire = format!("/api/keyring/{old}/retire");
    assert_eq!(client.post(&retire, "").await.expect("an answer").status, 409, "it is the active one");
    let wrapped_with = |id: &str| {
        let id = u32::from_str_radix(id, 16).expect("hex digits");
        hub.number(&format!("select count(*) from integration_events where key_id = {id}"))
    };
    assert_eq!(wrapped_with(&old), 20);

    let pending = async |keys: u32| {
        let page = hub.client().await.get("/api/metrics").await.expect("an answer").body;
        holds(&page, &format!("\ntomada_rewrap_pending {keys}\n"))
    };

    let rotated = hub.post("/api/keyring/rotate", json!({})).await;
    assert_eq!(states(&rotated), ["decrypt-only", "active"]);
    eventually("everything is wrapped anew", async || wrapped_with(&old) == 0).await;
    // Something may still be on its way.
    assert_eq!(states(&hub.get("/api/keyring").await), ["decrypt-only", "active"]);
    assert!(pending(1).await);
    let early = client.post(&retire, "").await.expect("an answer");
    assert!(early.status == 409 && early.problem().contains("ten minutes"), "{}", early.problem());
    hub.clock.advance(Duration::from_secs(601));
    eventually("the old key wraps nothing", async || states(&hub.get("/api/keyring").await) == ["unused", "active"])
        .await;
    assert!(pending(0).await);
    assert_eq!(states(&hub.post(&retire, json!({})).await), ["active"]);

    target.always((200, vec![]));
    let hub = hub.restart().await;
    for id in &ids {
        hub.event_when(id, |event| {
            hub.clock.advance(Duration::from_secs(10));
            event["deliveries"][0]["status"] != "waiting"
        })
        .await;
    }
    // Some were given up while the target was down: what they hold is opened by the new key all the same.
    hub.post("/api/dead-letters/replay", json!({})).await;
    for (number, id) in ids.iter().enumerate() {
        let event = hub.event_with(id, "delivered").await;
        assert_eq!(event["payload"], visit(number as u32));
    }
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hub_starts_without_the_ring_that_its_database_needs() {
    let target = Target::start().await;
    let hub = TestHub::start(&config(&target)).await;
    let id = post(&hub, &visit(1)).await["id"].as_str().expect("an id").to_owned();
    assert_eq!(attempts(&hub.event_with(&id, "delivered").await).len(), 1);
    let halted = hub.halt().await;
    let ring = halted.directory().join("keyring");
    let right = std::fs::read(&ring).expect("the ring");
    let key = String::from_utf8(right.clone()).expect("text");
    let key = &key[key.find("\"id\": \"").expect("a key") + 7..][..8];

    std::fs::remove_file(&ring).expect("it is gone");
    let said = halted.refused().await;
    assert!(said.contains(key) && said.contains("1 events and secrets") && said.contains("keyring"), "{said}");

    // The right keys with another index key: nobody would be found, no repetition recognised.
    let index = String::from_utf8(right.clone()).expect("text");
    let at = index.find("\"index_key\": \"").expect("the index key") + 14;
    let other = if index[at..].starts_with('A') { "B" } else { "A" };
    std::fs::write(&ring, format!("{}{other}{}", &index[..at], &index[at + 1..])).expect("it is changed");
    let said = halted.refused().await;
    assert!(said.contains("the index key of the key ring"), "{said}");

    std::fs::write(&ring, right).expect("it is back");
    let hub = halted.start().await;
    assert_eq!(hub.event_with(&id, "delivered").await["payload"], visit(1));
    hub.finish(&[]).await;
}
