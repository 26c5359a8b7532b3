//! Guests that do harm end as the right kind of failure, in time, and nobody else notices.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::partner::{Partner, source};
use crate::harness::target::Target;
use crate::harness::{TestHub, attempts};

const PATH: &str = "/webhooks/partner/order";
/// Wall time of an attempt in these tests, milliseconds.
const DEADLINE_MS: u64 = 1500;

/// What a mode of the hostile connector ends as: outcome (or outcomes, where the machine's speed decides), and a part
/// of the message.
const CONNECTOR: &[Ends] = &[
    ("behaves", "delivered", ""),
    ("loops", "timed-out", ""),
    ("asks", "timed-out", ""),
    ("grows", "out-of-memory", "memory"),
    ("traps", "trapped", ""),
    ("panics", "trapped", "the connector was told to panic"),
    ("recurses", "trapped", ""),
    ("smashes", "trapped", ""),
    ("floods", "out-of-memory", "memory"),
    ("swells", "too-large", "emits"),
    ("emits", "out-of-memory", "memory"),
    ("overflows", "too-large", "257 events"),
    ("multiplies", "too-large", "handed over"),
    ("logs", "delivered|timed-out", ""),
    ("shouts", "delivered", ""),
    ("boasts", "delivered", ""),
    ("pesters", "timed-out|out-of-memory|too-large", ""),
    ("draws", "delivered", "1024"),
    ("reaches", "misconfigured", "evil.example"),
    ("writes", "misconfigured", "add `smtp`"),
    ("transient", "transient", "told"),
    ("rate-limited", "rate-limited", "told"),
    ("unauthorized", "unauthorized", "told"),
    ("rejected", "rejected", "told"),
    ("misconfigured", "misconfigured", "told"),
];

/// The same of the hostile mapping.
const MAPPING: &[Ends] = &[
    ("behaves", "delivered", ""),
    ("loops", "timed-out", ""),
    ("grows", "out-of-memory", "memory"),
    ("traps", "trapped", ""),
    ("panics", "trapped", "the mapping was told to panic"),
    ("recurses", "trapped", ""),
    ("smashes", "trapped", ""),
    ("floods", "out-of-memory", "memory"),
    ("swells", "delivered", ""),
    ("logs", "delivered|timed-out", ""),
    ("skips", "skipped", "told to skip"),
    ("fails", "mapping-failed", "told to fail"),
];

async fn outcome_of(hub: &TestHub, id: &str) -> Value {
    let event = hub.event_when(id, |event| !attempts(event).is_empty()).await;
    attempts(&event)[0].clone()
}

/// A mode, the outcome or outcomes that it ends as, and a part of the message.
type Ends = (&'static str, &'static str, &'static str);

/// Sets all modes going at once and holds each against what it should end as, and in time. Answers the events' ids, and
/// what is left over.
async fn all_end_as_they_should(
    hub: &TestHub,
    modes: &[Ends],
) -> (Vec<String>, Vec<(&'static str, &'static str, u64)>) {
    let mut ids = Vec::new();
    for (mode, ..) in modes {
        ids.push(publish(hub, &format!("harm.{mode}")).await);
    }
    let mut left = Vec::new();
    for ((mode, outcome, message), id) in modes.iter().zip(&ids) {
        let attempt = outcome_of(hub, id).await;
        let ended = attempt["outcome"].as_str().expect("a word");
        assert!(outcome.split('|').any(|outcome| outcome == ended), "{mode}: {attempt:#}");
        left.extend(left_over(mode, ended));
        assert!(attempt["message"].as_str().unwrap_or("").contains(message), "{mode}: {attempt:#}");
        let took = attempt["duration_ms"].as_f64().expect("a duration");
        assert!(took < (DEADLINE_MS + 50) as f64, "{mode} took {took} ms");
    }
    (ids, left)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hostile_connector_ends_as_what_it_is() {
    let mut toml = source(PATH, "order.created");
    for (mode, ..) in CONNECTOR {
        toml += &format!(
            "[endpoints.{mode}]\nconnector = \"hostile\"\nsettings = {{ mode = \"{mode}\" }}\ndeadline_ms = {DEADLINE_MS}\n\
             retry = {{ attempts = 1 }}\n"
        );
    }
    // One route at a time would hide what they do to each other, so each event type has one endpoint and all run at once.
    for (mode, ..) in CONNECTOR {
        toml += &format!("[[routes]]\nevent = \"harm.{mode}\"\nendpoint = \"{mode}\"\n");
    }
    let hub = TestHub::start(&toml).await;
    let begun = Instant::now();
    let (ids, left) = all_end_as_they_should(&hub, CONNECTOR).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "all of it took {:?}", begun.elapsed());
    let panic = outcome_of(&hub, &ids[5]).await;
    assert!(panic["message"].as_str().expect("a message").contains("lib.rs:"), "file and line: {panic:#}");
    let memory = resident_mib();
    assert!(memory < 1500, "the process has {memory} MiB resident");
    hub.finish(&left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hostile_mapping_ends_as_what_it_is() {
    let target = Target::start().await;
    let mut toml = source(PATH, "order.created");
    for (mode, ..) in MAPPING {
        toml += &target.endpoint(mode);
        toml += &format!("deadline_ms = {DEADLINE_MS}\nretry = {{ attempts = 1 }}\n");
        toml += &format!("[mappings.{mode}]\ncomponent = \"hostile-map\"\nsettings = {{ mode = \"{mode}\" }}\n");
    }
    for (mode, ..) in MAPPING {
        toml += &format!("[[routes]]\nevent = \"harm.{mode}\"\nendpoint = \"{mode}\"\nmapping = \"{mode}\"\n");
    }
    let hub = TestHub::start(&toml).await;
    let (_, left) = all_end_as_they_should(&hub, MAPPING).await;
    hub.finish(&left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_do_not_notice_a_loop() {
    let target = Target::start().await;
    let mut toml = source(PATH, "order.created");
    toml += &target.endpoint("shop");
    toml += "[endpoints.bad]\nconnector = \"hostile\"\nsettings = { mode = \"loops\" }\nconcurrency = 4\nretry = { attempts = 1 }\n\
             breaker = { failures = 1000 }\n";
    toml += "[[routes]]\nevent = \"harm.done\"\nendpoint = \"bad\"\n[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\n";
    let hub = TestHub::start(&toml).await;
    for _ in 0..8 {
        publish(&hub, "harm.done").await;
    }
    let mut partner = Partner::of(&hub.url, PATH).await;
    for order in 0..20 {
        let (id, _) = partner.send(&json!({ "order": order })).await;
        hub.event_with(&id, "delivered").await;
    }
    // Each loop has a second of CPU time, four at once: they cannot be over before the good ones are, unless those wait.
    let endpoints = hub.get("/api/endpoints").await;
    assert_ne!(endpoints["items"][0]["dead"], 8, "the good deliveries waited for the loops: {endpoints:#}");
    let ended = async || hub.get("/api/endpoints").await["items"][0]["dead"] == 8;
    crate::harness::eventually("the loops end", ended).await;
    hub.finish(&[("bad", "dead", 8)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_goes_only_where_it_is_bound_and_never_into_the_record() {
    let target = Target::start().await;
    let mut toml = source(PATH, "order.created");
    toml += &target.endpoint_of("leaky", "hostile").replace("settings = { ", "settings = { mode = \"leaks\", ");
    toml += &format!("secrets = {{ token = \"{}\" }}\n", crate::harness::partner::secret_file());
    toml += "[[routes]]\nevent = \"harm.done\"\nendpoint = \"leaky\"\n";
    let hub = TestHub::start(&toml).await;
    let id = publish(&hub, "harm.done").await;
    let event = hub.event_with(&id, "delivered").await;
    let got = &target.wait_for(1).await[0];
    let secret = crate::harness::partner::SECRET;
    assert_eq!(got.header("authorization"), format!("Bearer {secret}"), "the host puts it in");
    assert!(String::from_utf8_lossy(&got.body).contains(secret));
    assert!(!event.to_string().contains(secret), "what the guest says of it is a placeholder: {event:#}");
    hub.finish(&[]).await;
}

/// Each delivery has a fresh instance: a guest's static starts at zero.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_between_two_calls() {
    let target = Target::start().await;
    let mut toml = source(PATH, "order.created");
    toml += &target.endpoint_of("shop", "probe");
    toml += "[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\n";
    let hub = TestHub::start(&toml).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    for order in 0..20 {
        let (id, _) = partner.send(&json!({ "order": order })).await;
        hub.event_with(&id, "delivered").await;
    }
    assert!(target.got().iter().all(|got| got.json()["calls"] == 1));
    hub.finish(&[]).await;
}

async fn publish(hub: &TestHub, event_type: &str) -> String {
    let event = json!({ "event_type": event_type, "source_system": "test", "payload": {} });
    hub.post("/api/events", event).await["id"].as_str().expect("an id").to_owned()
}

/// What an outcome leaves behind.
fn left_over(endpoint: &'static str, outcome: &str) -> Option<(&'static str, &'static str, u64)> {
    let state = match outcome {
        "delivered" | "skipped" => return None,
        "rate-limited" => "waiting",
        "unauthorized" | "misconfigured" => "held",
        _ => "dead",
    };
    Some((endpoint, state, 1))
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
}
