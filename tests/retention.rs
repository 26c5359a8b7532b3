//! What is kept no longer than it has to be: content, dead letters, logs, records; and that nothing owed ever goes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::partner::{Partner, source};
use crate::harness::target::Target;
use crate::harness::{TestHub, attempts, eventually};

const PATH: &str = "/webhooks/partner/order";
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MARKER: &str = "canary-2718281828";

fn route(endpoint: &str) -> String {
    format!("[[routes]]\nevent = \"order.created\"\nendpoint = \"{endpoint}\"\n")
}

/// A payload that is looked for in files: long enough for a page of its own.
fn order(number: u32) -> Value {
    json!({ "idempotency_key": format!("order-{number}"), "who": MARKER, "text": MARKER.repeat(500) })
}

async fn publish(hub: &TestHub, source: &str, number: u32) -> String {
    let event = json!({ "event_type": "order.created", "source_system": source, "payload": order(number) });
    hub.post("/api/events", event).await["id"].as_str().expect("an id").to_owned()
}

async fn content(hub: &TestHub, event: &str) -> String {
    hub.get(&format!("/api/events/{event}")).await["content"].as_str().expect("a word").to_owned()
}

/// Moves the clock by a time and an hour, after which the next round begins at the latest, and waits for its end.
async fn pass(hub: &TestHub, time: Duration) {
    hub.clock.advance(time + HOUR);
    looked(hub).await;
    let standings = hub.get("/api/retention").await;
    let items = standings["items"].as_array().expect("items");
    assert!(items.iter().all(|item| item["overdue_seconds"] == 0), "{standings:#}");
}

/// Waits for the end of a round that began at this time.
async fn looked(hub: &TestHub) {
    let now = jiff::Timestamp::from_millisecond(hub.clock.now_ms() as i64).expect("a time").to_string();
    eventually("a round ends", async || {
        let standings = hub.get("/api/retention").await;
        let items = standings["items"].as_array().expect("items").clone();
        items.iter().all(|item| item["looked_at"] == now.as_str())
    })
    .await;
}

/// Whether the database holds a text.
fn is_in_database(hub: &TestHub, text: &str) -> bool {
    hub.database().windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn content_goes_when_its_time_is_over_and_what_is_owed_stays() {
    let target = Target::start().await;
    let toml = target.endpoint("shop") + &target.endpoint("stock") + &route("shop") + &route("stock");
    let hub = TestHub::start(&(toml + &source(PATH, "order.created"))).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    let (done, _) = partner.send(&order(1)).await;
    hub.event_with(&done, "delivered").await;
    hub.post("/api/endpoints/stock/pause", json!({ "reason": "a test" })).await;
    let (held, _) = partner.send(&order(2)).await;
    hub.event_when(&held, |event| event["deliveries"][0]["status"] == "delivered").await;

    pass(&hub, DAY * 29).await;
    assert_eq!(content(&hub, &done).await, "clear", "it is 29 days old");
    assert!(is_in_database(&hub, MARKER), "it can be read where it lies");
    pass(&hub, DAY).await;
    assert!(content(&hub, &done).await == "expired");
    let gone = hub.get(&format!("/api/events/{done}?payload=true")).await;
    assert_eq!((&gone["payload"], &gone["idempotency_key"], &gone["headers"]), (&json!(""), &json!(""), &json!([])));
    assert_eq!(gone["deliveries"][0]["status"], "delivered", "that it was, and what became of it, is still there");
    assert_eq!(gone["deliveries"][0]["attempt_list"][0]["outcome"], "delivered");
    assert_eq!(content(&hub, &held).await, "clear", "it is owed");
    // The same again is the same, and nothing is delivered for it.
    assert_eq!(partner.send(&order(1)).await, (done.clone(), true));
    let delivery = gone["deliveries"][0]["id"].as_str().expect("an id");
    let answer = hub.client().await.post(&format!("/api/deliveries/{delivery}/replay"), "").await.expect("an answer");
    assert_eq!(answer.status, 409, "{}", answer.problem());

    // Also when the hub was away meanwhile.
    let hub = hub.restart_after(DAY * 20).await;
    pass(&hub, HOUR).await;
    assert_eq!(content(&hub, &held).await, "clear", "it is still owed");
    hub.post("/api/endpoints/stock/resume", json!({})).await;
    hub.event_with(&held, "delivered").await;
    let whole = target.got().iter().filter(|got| got.json().to_string().contains("order-2")).count();
    assert_eq!(whole, 2, "it went out whole after fifty days");
    pass(&hub, Duration::ZERO).await;
    assert!(content(&hub, &held).await == "expired");
    eventually("nothing of it is in the files", async || !is_in_database(&hub, MARKER)).await;

    let standings = hub.get("/api/retention").await;
    let item = &standings["items"][0];
    assert_eq!((&item["rule"], &item["keep"], &item["removed"]), (&json!("content"), &json!("30d"), &json!(2)));
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_may_have_a_time_of_its_own_and_a_change_of_it_holds_for_what_is_there() {
    let target = Target::start().await;
    let own = |name: &str, time: &str| {
        source(&format!("/webhooks/{name}"), "other.event")
            .replace("sources.partner", &format!("sources.{name}"))
            .replacen(&format!("[[sources.{name}"), &format!("{time}\n[[sources.{name}"), 1)
    };
    let toml = |short: &str| {
        let toml = "[retention]\ncontent = \"10d\"\n".to_owned() + &target.endpoint("shop") + &route("shop");
        toml + &own("short", short) + &own("long", "retention = \"40d\"")
    };
    let hub = TestHub::start(&toml("retention = \"2d\"")).await;
    let mut events = Vec::new();
    for name in ["short", "other", "long"] {
        let event = publish(&hub, name, 1).await;
        hub.event_with(&event, "delivered").await;
        events.push(event);
    }
    let contents = async |hub: &TestHub| {
        let mut contents = Vec::new();
        for event in &events {
            contents.push(content(hub, event).await);
        }
        contents
    };
    pass(&hub, DAY * 3).await;
    assert_eq!(contents(&hub).await, ["expired", "clear", "clear"], "the short one goes");
    pass(&hub, DAY * 8).await;
    assert_eq!(contents(&hub).await, ["expired", "expired", "clear"], "the general one goes");
    // Twelve days old: over under the new time, although no walk of the new time has ever seen it.
    let changed = toml("retention = \"2d\"").replace("\"40d\"", "\"11d\"");
    let changed = tomada::config::parse(&changed, "x").expect("it is right");
    let told = hub.post("/api/apply", json!({ "config": changed })).await;
    assert_eq!(told["changes"][0]["detail"], "retention", "{told:#}");
    pass(&hub, DAY).await;
    assert_eq!(contents(&hub).await, ["expired", "expired", "expired"], "and the long one");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_there_to_be_replayed_for_its_time_and_goes_with_its_content() {
    let target = Target::start().await;
    target.always((422, Vec::new()));
    let hub = TestHub::start(&(target.endpoint("shop") + &route("shop"))).await;
    let event = publish(&hub, "till", 1).await;
    hub.event_with(&event, "dead").await;
    let other = publish(&hub, "till", 2).await;
    hub.event_with(&other, "dead").await;
    pass(&hub, DAY * 60).await;
    assert_eq!(content(&hub, &event).await, "clear", "it can be replayed");
    let told = attempts(&hub.get(&format!("/api/events/{event}")).await)[0].clone();
    assert!(told["message"].is_string(), "why it is dead is still said: {told}");
    // One is replayed, and arrives: then it is like any other that is so old.
    target.always((200, Vec::new()));
    let detail = hub.get(&format!("/api/events/{other}")).await;
    let delivery = detail["deliveries"][0]["id"].as_str().expect("an id");
    hub.post(&format!("/api/deliveries/{delivery}/replay"), json!({})).await;
    hub.event_with(&other, "delivered").await;
    pass(&hub, Duration::ZERO).await;
    assert!(content(&hub, &other).await == "expired");
    let hub = hub.restart_after(DAY * 31).await;
    pass(&hub, Duration::ZERO).await;
    assert!(content(&hub, &event).await == "expired");
    assert_eq!(hub.get("/api/dead-letters").await["items"], json!([]));
    let gone = hub.get(&format!("/api/events/{event}")).await;
    assert_eq!(gone["deliveries"][0]["status"], "expired");
    let told = &attempts(&gone)[0];
    assert_eq!((&told["message"], &told["outcome"]), (&Value::Null, &json!("rejected")));
    let delivery = gone["deliveries"][0]["id"].as_str().expect("an id");
    let answer = hub.client().await.post(&format!("/api/deliveries/{delivery}/replay"), "").await.expect("an answer");
    assert_eq!(answer.status, 409, "{}", answer.problem());
    let removed = hub.get("/api/retention").await["items"][1].clone();
    assert_eq!((&removed["rule"], &removed["removed"]), (&json!("dead_letters"), &json!(1)));
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_attempts_records_and_keys_go_each_at_their_time() {
    let target = Target::start().await;
    let times = "[retention]\nlogs = \"2d\"\ncontent = \"4d\"\nattempts = \"6d\"\nevents = \"100d\"\nidempotency_keys = \"120d\"\n";
    let hub = TestHub::start(&format!(
        "{times}{}retry = {{ attempts = 2, delays_s = [1] }}\n{}{}",
        target.endpoint("shop"),
        route("shop"),
        source(PATH, "order.created")
    ))
    .await;
    target.answers([(503, Vec::new())]);
    let mut partner = Partner::of(&hub.url, PATH).await;
    let (event, _) = partner.send(&order(1)).await;
    hub.event_with(&event, "waiting").await;
    hub.clock.advance(Duration::from_secs(5));
    hub.event_with(&event, "delivered").await;
    let shown = async |hub: &TestHub| hub.get(&format!("/api/events/{event}")).await;
    assert!(attempts(&shown(&hub).await)[0]["message"].is_string());

    pass(&hub, DAY * 3).await;
    eventually("logs go", async || attempts(&shown(&hub).await)[0]["message"] == Value::Null).await;
    let now = shown(&hub).await;
    assert_eq!((now["content"].as_str(), attempts(&now).len()), (Some("clear"), 2));
    pass(&hub, DAY * 2).await;
    assert!(content(&hub, &event).await == "expired");
    assert_eq!(attempts(&shown(&hub).await)[0]["http_status"], 503, "how it ended stays");
    pass(&hub, DAY * 2).await;
    eventually("attempts go", async || attempts(&shown(&hub).await).is_empty()).await;
    assert_eq!(shown(&hub).await["deliveries"][0]["attempts"], 2, "how many there were stays");

    let hub = hub.restart_after(DAY * 95).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    pass(&hub, Duration::ZERO).await;
    let path = format!("/api/events/{event}");
    eventually("the record goes", async || hub.client().await.get(&path).await.expect("an answer").status == 404).await;
    assert_eq!(partner.send(&order(1)).await, (event.clone(), true), "a repetition is one still");
    pass(&hub, DAY * 20).await;
    let mut fresh = None;
    eventually("the key goes", async || {
        let (id, duplicate) = partner.send(&order(1)).await;
        fresh = Some(id);
        !duplicate
    })
    .await;
    let fresh = fresh.expect("an event");
    assert_ne!(fresh, event);
    hub.event_with(&fresh, "delivered").await;

    let output = hub.command(&["retention"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in
        ["content           4d       removed 1", "idempotency_keys  120d     removed 1", "audit             1825d"]
    {
        assert!(text.contains(line), "{line:?} is missing:\n{text}");
    }
    hub.finish(&[]).await;
}

/// Rows that are over are seen as overdue until they are gone, and then are not.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_overdue_shows() {
    let target = Target::start().await;
    let hub = TestHub::start(&(target.endpoint("shop") + &route("shop"))).await;
    let event = publish(&hub, "till", 1).await;
    hub.event_with(&event, "delivered").await;
    let overdue = async |hub: &TestHub| hub.get("/api/retention").await["items"][0].clone();
    let before = overdue(&hub).await;
    assert_eq!((&before["overdue_seconds"], &before["oldest_created_at"]), (&json!(0), &Value::Null));
    hub.clock.advance(DAY * 30 - HOUR / 2);
    looked(&hub).await;
    // No round begins for an hour, and meanwhile its time is over.
    hub.clock.advance(HOUR / 2 + Duration::from_secs(600));
    let late = overdue(&hub).await;
    let expected = (&json!(600), &json!("2026-01-01T00:00:00Z"), &json!(0));
    assert_eq!((&late["overdue_seconds"], &late["oldest_created_at"], &late["removed"]), expected);
    pass(&hub, Duration::ZERO).await;
    assert_eq!(content(&hub, &event).await, "expired");
    assert_eq!(overdue(&hub).await["overdue_seconds"], 0);
    hub.finish(&[]).await;
}
