//! How much who may ask of the hub's doors: by source, by key, by address; and what slow or heavy requests get.

use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tomada::client::Answer;

use crate::harness::partner::{Partner, signature, source};
use crate::harness::{TestHub, eventually};

const PATH: &str = "/webhooks/partner/order";
const BODY: &str = r#"{"order":1}"#;
/// Everybody in these tests comes over loopback, as over a proxy on the hub's machine, which says who they are.
const PROXIES: &str = r#"proxies = ["127.0.0.0/8"]"#;

/// A configuration with `[limits]` and the partner's source.
fn config(limits: &str, rate: &str) -> String {
    let partner = source(PATH, "order.created").replace("[[sources", &format!("{rate}\n[[sources"));
    format!("[limits]\n{PROXIES}\n{limits}\n{partner}")
}

/// Posts the body, signed rightly or not, as the proxy would hand it on.
async fn post(partner: &mut Partner, from: Option<&str>, signed: bool) -> Answer {
    let signature = if signed { signature(BODY) } else { signature("something else") };
    let mut headers = vec![("x-webhook-signature", signature.as_str())];
    headers.extend(from.map(|from| ("x-forwarded-for", from)));
    partner.send_with(&headers, BODY).await.expect("an answer")
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).map(|value| value.to_str().expect("text"))
}

/// What a 429 has to say, whoever it is for.
fn assert_refused(answer: &Answer, policy: &str, wait_s: &str) {
    assert_eq!(answer.status, 429, "{}", answer.problem());
    assert_eq!(header(answer, "retry-after"), Some(wait_s));
    assert_eq!(header(answer, "ratelimit"), Some(format!("\"{policy}\";r=0;t={wait_s}").as_str()));
    assert_eq!(header(answer, "content-type"), Some("application/problem+json"));
    let problem: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!((&problem["violated-policies"], &problem["status"]), (&json!([policy]), &json!(429)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_gets_its_rate_and_its_retry_gets_in() {
    let other = source("/webhooks/other", "order.created").replace("sources.partner", "sources.other");
    let hub = TestHub::start_without_redis(&(config("", "rate = { per_minute = 60, burst = 3 }") + &other)).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    // Who cannot sign takes nothing from who can.
    for _ in 0..5 {
        assert_eq!(post(&mut partner, None, false).await.status, 401);
    }
    for (left, full_in_s) in [(2, 1), (1, 2), (0, 3)] {
        let answer = post(&mut partner, None, true).await;
        assert_eq!(answer.status, 202);
        assert_eq!(header(&answer, "ratelimit-policy"), Some("\"source\";q=3;w=3"));
        assert_eq!(header(&answer, "ratelimit"), Some(format!("\"source\";r={left};t={full_in_s}").as_str()));
    }
    assert_refused(&post(&mut partner, None, true).await, "source", "1");
    let mut neighbour = Partner::of(&hub.url, "/webhooks/other").await;
    for _ in 0..10 {
        let answer = post(&mut neighbour, None, true).await;
        assert_eq!((answer.status, header(&answer, "ratelimit")), (202, None), "a source without a rate has no limit");
    }
    hub.clock.advance(Duration::from_secs(1));
    assert_eq!(post(&mut partner, None, true).await.status, 202, "after the time that Retry-After named");
    assert_refused(&post(&mut partner, None, true).await, "source", "1");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_refused_after_failures_and_nobody_else_is() {
    let hub = TestHub::start_without_redis(&config("address = { per_minute = 60, burst = 3 }", "")).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    let stranger = Some("203.0.113.7");
    for _ in 0..10 {
        let answer = post(&mut partner, stranger, true).await;
        assert_eq!(answer.status, 202, "who proves who they are pays nothing");
    }
    assert_eq!(post(&mut partner, stranger, false).await.status, 401);
    for path in ["/webhooks/nobody", "/api/events"] {
        let answer = partner.request(Method::GET, path, &[("x-forwarded-for", "203.0.113.7")], "").await;
        assert!([401, 404].contains(&answer.expect("an answer").status), "{path}");
    }
    // One budget for all doors, and what the client itself writes before the proxy does not help.
    for (method, path) in [(Method::POST, PATH), (Method::GET, "/api/events"), (Method::GET, "/webhooks/nobody")] {
        let headers = [("x-forwarded-for", "198.51.100.1, 203.0.113.7"), ("x-webhook-signature", &signature(BODY))];
        let answer = partner.request(method, path, &headers, BODY).await.expect("an answer");
        assert_refused(&answer, "address", "1");
    }
    let page = partner.request(Method::GET, "/feedback/x", &[("x-forwarded-for", "203.0.113.7")], "").await;
    let page = page.expect("an answer");
    assert_eq!((page.status, header(&page, "retry-after")), (429, Some("1")));
    assert_eq!(header(&page, "content-type"), Some("text/html; charset=utf-8"), "a person reads it");
    for other in [Some("203.0.113.8"), Some("2001:db8::7"), None] {
        assert_eq!(post(&mut partner, other, true).await.status, 202, "{other:?}");
    }
    hub.clock.advance(Duration::from_secs(1));
    assert_eq!(post(&mut partner, stranger, true).await.status, 202, "a second later there is room for a try");
    // A neighbour in the same IPv6 network counts as the same, an address on this machine not at all.
    for n in 1..=3 {
        assert_eq!(post(&mut partner, Some(&format!("2001:db8:0:1::{n}")), false).await.status, 401);
    }
    assert_refused(&post(&mut partner, Some("2001:db8:0:1::9"), true).await, "address", "1");
    for _ in 0..20 {
        assert_eq!(post(&mut partner, None, false).await.status, 401);
    }
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_gets_its_quota_and_the_machine_s_own_is_free_on_the_machine() {
    let hub = TestHub::start_without_redis(&config("", "")).await;
    let mut caller = Partner::of(&hub.url, PATH).await;
    let key = hub.key().to_owned();
    let here = [("x-api-key", key.as_str())];
    for _ in 0..150 {
        let answer = caller.request(Method::GET, "/api/queues", &here, "").await.expect("an answer");
        assert_eq!((answer.status, header(&answer, "ratelimit")), (200, None));
    }
    let afar = [("x-api-key", key.as_str()), ("x-forwarded-for", "203.0.113.7")];
    for left in (0..100).rev() {
        let answer = caller.request(Method::GET, "/api/queues", &afar, "").await.expect("an answer");
        assert_eq!(answer.status, 200);
        assert_eq!(header(&answer, "ratelimit-policy"), Some("\"api-key\";q=100;w=100"));
        let told = header(&answer, "ratelimit").expect("it is told");
        assert!(told.starts_with(&format!("\"api-key\";r={left};t=")), "{told}");
    }
    let answer = caller.request(Method::GET, "/api/queues", &afar, "").await.expect("an answer");
    assert_refused(&answer, "api-key", "1");
    // By key, not by address.
    let elsewhere = [("x-api-key", key.as_str()), ("x-forwarded-for", "198.51.100.1")];
    let answer = caller.request(Method::GET, "/api/queues", &elsewhere, "").await.expect("an answer");
    assert_eq!(answer.status, 429);
    let answer = caller.request(Method::GET, "/api/queues", &here, "").await.expect("an answer");
    assert_eq!(answer.status, 200, "the operator is not locked out");
    hub.clock.advance(Duration::from_secs(60));
    for _ in 0..60 {
        let answer = caller.request(Method::GET, "/api/queues", &afar, "").await.expect("an answer");
        assert_eq!(answer.status, 200, "60 a minute");
    }
    let answer = caller.request(Method::GET, "/api/queues", &afar, "").await.expect("an answer");
    assert_refused(&answer, "api-key", "1");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_applied_kept_over_a_restart_and_taken_back() {
    let hub = TestHub::start(&config("api_key = { per_minute = 1, burst = 1 }", "")).await;
    let hub = hub.restart().await;
    let mut caller = Partner::of(&hub.url, PATH).await;
    let key = hub.key().to_owned();
    let afar = [("x-api-key", key.as_str()), ("x-forwarded-for", "203.0.113.7")];
    for status in [200, 429] {
        let answer = caller.request(Method::GET, "/api/queues", &afar, "").await.expect("an answer");
        assert_eq!(answer.status, status);
    }
    let without =
        tomada::config::parse(&format!("[limits]\n{PROXIES}\napi_key = {{ per_minute = 0, burst = 1 }}"), "x");
    let told = hub.post("/api/apply", json!({ "config": without.expect("it is right") })).await;
    let limits = told["changes"].as_array().expect("changes").iter().find(|line| line["kind"] == "limits");
    let limits = limits.unwrap_or_else(|| panic!("it is told: {told:#}"));
    assert_eq!((&limits["action"], &limits["detail"]), (&json!("update"), &json!("api_key")));
    for _ in 0..10 {
        let answer = caller.request(Method::GET, "/api/queues", &afar, "").await.expect("an answer");
        assert_eq!((answer.status, header(&answer, "ratelimit")), (200, None), "0 is no limit");
    }
    hub.finish(&[]).await;
}

/// A request by hand, of which only a part may be sent.
async fn begin(hub: &TestHub, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(hub.url.trim_start_matches("http://")).await.expect("the hub answers");
    stream.write_all(format!("POST {PATH} HTTP/1.1\r\nhost: hub\r\n{headers}\r\n").as_bytes()).await.expect("sent");
    stream
}

/// What the hub answers before it closes the connection, or a test's patience ends.
async fn answer_of(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    read.expect("it ends in time").expect("an end");
    String::from_utf8(answer).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_dribbles_is_given_up() {
    let hub = TestHub::start(&config("", "")).await;
    let mut stream = begin(&hub, "connection: close\r\ncontent-length: 1000\r\n").await;
    stream.write_all(b"{").await.expect("sent");
    let answer = answer_of(stream).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("did not arrive"), "{answer}");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_beyond_their_bytes_are_refused_before_they_end() {
    let hub = TestHub::start(&config("", "")).await;
    let begun = format!("POST {PATH} HTTP/1.1\r\nhost: hub\r\nx-long: \r\n").len();
    // Not a byte more, so that nothing is unread when the hub closes.
    let stream = begin(&hub, &format!("x-long: {}", "y".repeat((32 << 10) - begun))).await;
    let answer = answer_of(stream).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_fill_the_room_are_answered_with_503_and_the_room_comes_back() {
    let large = config("", "").replace("queue = \"integrations\"", "queue = \"integrations\"\nmax_body = 16777216");
    let hub = TestHub::start(&large).await;
    let part = vec![b' '; 15 << 20];
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = begin(&hub, "content-length: 16777216\r\n").await;
        stream.write_all(&part).await.expect("sent");
        held.push(stream);
    }
    // 60 of 64 MiB are taken as soon as the hub has read them.
    let body = format!("{{\"order\":\"{}\"}}", "x".repeat(8 << 20));
    let signature = signature(&body);
    let mut partner = Partner::of(&hub.url, PATH).await;
    let mut refused = None;
    eventually("the room is full", async || {
        let answer = partner.send_with(&[("x-webhook-signature", &signature)], &body).await.expect("an answer");
        refused = Some(answer).filter(|answer| answer.status == 503);
        refused.is_some()
    })
    .await;
    let refused = refused.expect("it is there");
    assert_eq!(header(&refused, "retry-after"), Some("2"), "{}", refused.problem());
    // A small one still finds room.
    assert_eq!(post(&mut partner, None, true).await.status, 202);
    drop(held);
    eventually("there is room again", async || {
        let answer = partner.send_with(&[("x-webhook-signature", &signature)], &body).await.expect("an answer");
        answer.status == 202
    })
    .await;
    hub.finish(&[]).await;
}
