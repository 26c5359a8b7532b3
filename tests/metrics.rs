//! The figures for Prometheus: who may read them, whether they are written as the format has it, and what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tomada::client::Answer;

use crate::harness::partner::{Partner, signature, source};
use crate::harness::target::Target;
use crate::harness::{TestHub, eventually};

const PATH: &str = "/webhooks/partner/order";
const MARKER: &str = "canary-1618033988";

/// Series with their values, as `name{label="value"}`.
struct Page(BTreeMap<String, f64>);

impl Page {
    /// Reads the text format, and refuses whatever Prometheus would.
    fn read(answer: &Answer) -> Page {
        assert_eq!(answer.status, 200, "{}", answer.problem());
        assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        let text = std::str::from_utf8(&answer.body).expect("text");
        assert!(text.ends_with('\n'));
        let mut series = BTreeMap::new();
        let mut families = BTreeSet::new();
        let (mut family, mut kind) = ("", "");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = help.split_once(' ').expect("a help").0;
                assert!(families.insert(family), "{family} stands there twice");
                continue;
            }
            if let Some(stated) = line.strip_prefix("# TYPE ") {
                let (name, stated) = stated.split_once(' ').expect("a type");
                assert_eq!(name, family);
                assert!(["counter", "gauge", "histogram"].contains(&stated), "{line}");
                kind = stated;
                continue;
            }
            let (name, value) = line.rsplit_once(' ').expect("a value");
            let bare = name.split('{').next().expect("a name");
            let suffixes = if kind == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| bare == format!("{family}{suffix}")), "{line} is not of {family}");
            assert!(kind != "counter" || bare.ends_with("_total"), "{line}");
            let value: f64 = value.parse().expect("a number");
            assert!(series.insert(name.to_owned(), value).is_none(), "{name} stands there twice");
        }
        let page = Page(series);
        // Each bucket holds those below it, and the last one all.
        for (name, all) in page.0.iter().filter(|(name, _)| name.contains("le=\"+Inf\"")) {
            let before = name.split("le=").next().expect("a beginning");
            let buckets = page.0.iter().filter(|(other, _)| other.starts_with(before));
            assert!(buckets.clone().all(|(_, value)| value <= all), "{name}");
            assert!(buckets.count() > 3, "{name}");
        }
        page
    }

    /// 0 when it is not there.
    fn value(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or(0.0)
    }
}

async fn page(hub: &TestHub) -> Page {
    Page::read(&hub.client().await.get("/api/metrics").await.expect("an answer"))
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_open_to_their_scope_as_prometheus_asks() {
    let hub = TestHub::start("").await;
    let mut caller = Partner::of(&hub.url, "").await;
    let refused = caller.request(Method::GET, "/api/metrics", &[], "").await.expect("an answer");
    assert_eq!(refused.status, 401);
    for open in ["/metrics", "/api/metrics"] {
        let answer = caller.request(Method::GET, open, &[], "").await.expect("an answer");
        assert!([401, 404].contains(&answer.status), "{open} is open");
    }
    let body = json!({ "name": "prometheus", "scopes": ["metrics:read"] });
    let key = hub.post("/api/keys", body).await["key"].as_str().expect("a key").to_owned();
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let answer = caller.request(Method::GET, "/api/metrics", &headers, "").await.expect("an answer");
    let page = Page::read(&answer);
    assert_eq!(page.value("tomada_commit_failures_total"), 0.0);
    assert!(page.value("tomada_connections") >= 1.0);
    assert!(page.0.contains_key("tomada_retention_overdue_seconds{rule=\"content\"}"));
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_counted_under_names_of_the_configuration() {
    let target = Target::start().await;
    let toml = target.endpoint("shop")
        + "retry = { attempts = 2, delays_s = [1] }\n"
        + &target.endpoint("stock")
        + "retry = { attempts = 1 }\n[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\n"
        + "[[routes]]\nevent = \"order.made\"\nendpoint = \"stock\"\n"
        + &source(PATH, "order.created")
            .replace("[[sources", "sensitive = true\nrate = { per_minute = 60, burst = 4 }\n[[sources");
    let hub = TestHub::start(&toml).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    target.answers([(503, Vec::new())]);
    let order = json!({ "idempotency_key": MARKER, "who": MARKER });
    let (event, _) = partner.send(&order).await;
    hub.event_with(&event, "waiting").await;
    hub.clock.advance(Duration::from_secs(5));
    hub.event_with(&event, "delivered").await;
    partner.send(&order).await;
    let wrong = partner.send_with(&[("x-webhook-signature", &signature("x"))], "{}").await.expect("an answer");
    assert_eq!(wrong.status, 401);
    let unsigned = partner.send_with(&[], "{}").await.expect("an answer");
    assert_eq!(unsigned.status, 401);
    let text = signature("no json");
    let unread = partner.send_with(&[("x-webhook-signature", &text)], "no json").await.expect("an answer");
    assert_eq!(unread.status, 400);
    let large = "x".repeat(2 << 20);
    assert_eq!(partner.send_with(&[], &large).await.expect("an answer").status, 413);
    let path = format!("/webhooks/{MARKER}");
    assert_eq!(partner.request(Method::POST, &path, &[], "").await.expect("an answer").status, 404);
    let mut limited = 0;
    for _ in 0..10 {
        let answer = partner.try_send(&order).await.expect("an answer");
        limited += u32::from(answer.status == 429);
    }
    assert!(limited > 0);
    // Whoever publishes may name any source; that is no label.
    target.answers([(422, Vec::new())]);
    let made = json!({ "event_type": "order.made", "source_system": MARKER, "payload": {} });
    let dead = hub.post("/api/events", made).await["id"].as_str().expect("an id").to_owned();
    hub.event_with(&dead, "dead").await;
    hub.post("/api/endpoints/stock/pause", json!({ "reason": MARKER })).await;

    let told = hub.client().await.get("/api/metrics").await.expect("an answer");
    assert!(!String::from_utf8_lossy(&told.body).contains(MARKER), "figures hold no content");
    let page = Page::read(&told);
    for (series, value) in [
        (r#"tomada_webhooks_total{source="partner",result="accepted"}"#, 1.0),
        (r#"tomada_webhooks_total{source="partner",result="unverified"}"#, 2.0),
        (r#"tomada_webhooks_total{source="partner",result="not-understood"}"#, 1.0),
        (r#"tomada_webhooks_total{source="partner",result="too-large"}"#, 1.0),
        (r#"tomada_webhooks_total{source="",result="no-source"}"#, 1.0),
        (r#"tomada_webhooks_total{source="partner",result="rate-limited"}"#, f64::from(limited)),
        (r#"tomada_webhooks_unverified_total{source="partner",reason="wrong-signature"}"#, 1.0),
        (r#"tomada_webhooks_unverified_total{source="partner",reason="missing-header"}"#, 1.0),
        (r#"tomada_published_events_total{source="(other)",result="accepted"}"#, 1.0),
        (r#"tomada_rate_limited_total{limit="source"}"#, f64::from(limited)),
        (r#"tomada_attempts_total{endpoint="shop",outcome="transient"}"#, 1.0),
        (r#"tomada_attempts_total{endpoint="shop",outcome="delivered"}"#, 1.0),
        (r#"tomada_attempt_duration_seconds_count{endpoint="shop"}"#, 2.0),
        (r#"tomada_settled_deliveries_total{endpoint="shop",status="delivered"}"#, 1.0),
        (r#"tomada_settled_deliveries_total{endpoint="stock",status="dead"}"#, 1.0),
        (r#"tomada_deliveries{endpoint="stock",status="dead"}"#, 1.0),
        (r#"tomada_deliveries{endpoint="shop",status="owed"}"#, 0.0),
        (r#"tomada_endpoint_paused{endpoint="stock"}"#, 1.0),
        (r#"tomada_endpoint_paused{endpoint="shop"}"#, 0.0),
        (r#"tomada_endpoint_breaker{endpoint="shop",state="closed"}"#, 1.0),
        (r#"tomada_endpoint_breaker{endpoint="shop",state="open"}"#, 0.0),
        ("tomada_sealed_events_total", 1.0),
        ("tomada_rewrap_pending", 0.0),
        (r#"tomada_retention_overdue_seconds{rule="content"}"#, 0.0),
        (r#"tomada_retention_removed_total{rule="events"}"#, 0.0),
    ] {
        assert_eq!(page.value(series), value, "{series}");
    }
    let duplicates = page.value(r#"tomada_webhooks_total{source="partner",result="duplicate"}"#);
    assert_eq!(duplicates, f64::from(11 - limited), "{duplicates}");
    assert!(page.value("tomada_commit_rows_count") >= 4.0);
    assert_eq!(page.value("tomada_commit_rows_count"), page.value("tomada_commit_duration_seconds_count"));
    hub.finish(&[("stock", "dead", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removals_and_connections_are_counted() {
    let hub = TestHub::start("").await;
    let event = json!({ "event_type": "order.made", "source_system": "till", "payload": {} });
    hub.post("/api/events", event).await;
    hub.clock.advance(Duration::from_secs(31 * 24 * 3600));
    let removed = r#"tomada_retention_removed_total{rule="content"}"#;
    eventually("content is removed", async || page(&hub).await.value(removed) == 1.0).await;
    // The one that asks, and perhaps the one before it.
    eventually("nobody else is connected", async || page(&hub).await.value("tomada_connections") <= 2.0).await;
    let mut more = Vec::new();
    for _ in 0..5 {
        let mut other = Partner::of(&hub.url, PATH).await;
        other.request(Method::GET, "/health", &[], "").await.expect("an answer");
        more.push(other);
    }
    assert!(page(&hub).await.value("tomada_connections") >= 6.0);
    drop(more);
    eventually("they are gone", async || page(&hub).await.value("tomada_connections") <= 2.0).await;
    hub.finish(&[]).await;
}
