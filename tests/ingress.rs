//! What the door for partners lets in, and how it refuses the rest: with the right status, as problem+json, and
//! without a row.

use hyper::Method;
use serde_json::{Value, json};

use crate::harness::TestHub;
use crate::harness::partner::{Partner, signature, source};

const PATH: &str = "/webhooks/partner/order";

/// What is wrong, the status it gets, and the request: verb, path, headers, body.
type Wrong<'a> = (&'a str, u16, Method, &'a str, &'a [(&'a str, &'a str)], &'a str);

async fn hub() -> TestHub {
    TestHub::start(&source(PATH, "order.created")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_and_leaves_nothing() {
    let hub = hub().await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    let body = r#"{"order":1}"#;
    let good = signature(body);
    let other = signature("something else");
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(1 << 20));
    let large_signature = signature(&large);
    let broken = "{\"order\":";
    let broken_signature = signature(broken);
    let long_header = "0".repeat(9000);
    let sign = "x-webhook-signature";
    let wrong: &[Wrong] = &[
        ("no signature", 401, Method::POST, PATH, &[], body),
        ("a wrong signature", 401, Method::POST, PATH, &[(sign, &other)], body),
        ("two signatures", 401, Method::POST, PATH, &[(sign, &good), (sign, &good)], body),
        ("two kinds of signature", 401, Method::POST, PATH, &[(sign, &good), ("x-signature", &good)], body),
        ("an empty signature", 401, Method::POST, PATH, &[(sign, "")], body),
        ("a cut signature", 401, Method::POST, PATH, &[(sign, &good[..32])], body),
        ("a long signature", 401, Method::POST, PATH, &[(sign, &long_header)], body),
        (
            "the secret from the request",
            401,
            Method::POST,
            PATH,
            &[(sign, &other), ("x-webhook-secret-key", "x")],
            body,
        ),
        ("an unknown source", 404, Method::POST, "/webhooks/nobody", &[(sign, &good)], body),
        ("a path below a known one", 404, Method::POST, "/webhooks/partner/order/1", &[(sign, &good)], body),
        ("a wrong verb", 405, Method::PUT, PATH, &[(sign, &good)], body),
        ("a look", 405, Method::GET, PATH, &[], ""),
        ("too much", 413, Method::POST, PATH, &[(sign, &large_signature)], &large),
        ("compressed", 415, Method::POST, PATH, &[(sign, &good), ("content-encoding", "gzip")], body),
        ("not JSON", 400, Method::POST, PATH, &[(sign, &broken_signature)], broken),
    ];
    for (what, status, method, path, headers, body) in wrong {
        let answer = partner.request(method.clone(), path, headers, body).await.expect("an answer");
        assert_eq!(answer.status, *status, "{what}: {}", answer.problem());
        let problem: Value = serde_json::from_slice(&answer.body).expect("problem+json");
        assert_eq!(
            (problem["status"].as_u64(), problem["detail"].is_string()),
            (Some((*status).into()), true),
            "{what}"
        );
    }
    assert_eq!(hub.get("/api/events").await["items"], json!([]), "nothing of it was stored");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_headers_are_refused() {
    let hub = hub().await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    let names: Vec<String> = (0..100).map(|n| format!("x-{n}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let answer = partner.send_with(&headers, "{}").await.expect("an answer");
    assert_eq!(answer.status, 431);
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_message_is_refused_and_a_fresh_one_is_not() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), secret).expect("written");
    let hub = TestHub::start(&format!(
        r#"
        [sources.standard]
        auth = {{ scheme = "standard-webhooks", secrets = ["file:{}"] }}
        [[sources.standard.webhooks]]
        path = "/webhooks/standard"
        event = "test"
        queue = "integrations"
        "#,
        file.path().display()
    ))
    .await;
    let mut partner = Partner::of(&hub.url, "/webhooks/standard").await;
    // The published vector is of 2021-02-25.
    let headers = [
        ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ];
    let answer = partner.send_with(&headers, r#"{"test": 2432232314}"#).await.expect("an answer");
    assert_eq!(answer.status, 401, "years late");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_posts_of_one_key_are_one_event() {
    let hub = hub().await;
    let sends = (0..100).map(|_| {
        let url = hub.url.clone();
        tokio::spawn(async move {
            Partner::of(&url, PATH).await.send(&json!({ "idempotency_key": "order-1", "order": 1 })).await
        })
    });
    let sends: Vec<_> = sends.collect();
    let mut answers = Vec::new();
    for send in sends {
        answers.push(send.await.expect("an answer"));
    }
    let id = &answers[0].0;
    assert!(answers.iter().all(|(answer, _)| answer == id), "all answers name one event");
    assert_eq!(answers.iter().filter(|(_, duplicate)| !duplicate).count(), 1, "one of them is the first");
    assert_eq!(hub.get("/api/events").await["items"].as_array().expect("items").len(), 1);
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_opens_to_a_key_only() {
    let hub = hub().await;
    let mut stranger = Partner::of(&hub.url, PATH).await;
    for (method, path) in [
        (Method::GET, "/api/events"),
        (Method::POST, "/api/apply"),
        (Method::PUT, "/api/connectors/webhook"),
        (Method::GET, "/api/nothing"),
    ] {
        for headers in [&[][..], &[("x-api-key", "tmd_0000000000_0")], &[("authorization", "Bearer x")]] {
            let answer = stranger.request(method.clone(), path, headers, "{}").await.expect("an answer");
            assert_eq!(answer.status, 401, "{method} {path}");
        }
    }
    assert_eq!(stranger.request(Method::GET, "/health", &[], "").await.expect("an answer").status, 200);
    hub.finish(&[]).await;
}
