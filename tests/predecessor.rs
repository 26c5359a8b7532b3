//! What the application before this one got wrong at its doors, as it was found there, against the configuration that
//! ships. The other faults on that list have their tests elsewhere; SECURITY.md names them.

use std::collections::BTreeSet;

use hyper::Method;
use serde_json::json;

use crate::harness::carinho::{Carinho, secret};
use crate::harness::partner::{Partner, signature_with};

/// Every webhook, with: nothing at all; an empty signature; a signature under a secret that the request brings along; one
/// under an empty secret; a debugging header; the right one of another source; the right one of another body.
#[tokio::test(flavor = "multi_thread")]
async fn no_webhook_lets_in_who_does_not_prove_it() {
    let carinho = Carinho::start_with(|_| {}).await;
    let hub = &carinho.hub;
    let body = json!({ "status": "received", "type": "ReceivedCallback", "messageId": "1" }).to_string();
    let chosen = signature_with(b"chosen by the attacker", &body);
    let empty = signature_with(b"", &body);
    let mut knocked = BTreeSet::new();
    for (name, source) in &carinho.config.sources {
        let own = secret(&source.auth.secrets()[0].reference);
        let others = carinho.config.sources.iter().filter(|(other, _)| *other != name);
        let mut others =
            others.map(|(_, other)| secret(&other.auth.secrets()[0].reference)).filter(|value| *value != own);
        let stolen = signature_with(&others.next_back().expect("another source"), &body);
        let replaced = signature_with(&own, "another body");
        for webhook in &source.webhooks {
            let path = webhook.path.replace("{token}", "guessed");
            let mut partner = Partner::of(&hub.url, &path).await;
            let tries: [&[(&str, &str)]; 7] = [
                &[],
                &[("x-webhook-signature", "")],
                &[("x-webhook-signature", &chosen), ("x-webhook-secret-key", "chosen by the attacker")],
                &[("x-webhook-signature", &empty)],
                &[("x-webhook-signature", "null"), ("x-debug", "1"), ("x-internal-token", "")],
                &[("x-webhook-signature", &stolen)],
                &[("x-webhook-signature", &replaced)],
            ];
            for headers in tries {
                let headers = [headers, &[("x-event-type", "lead.created")]].concat();
                let answer = partner.request(Method::POST, &path, &headers, &body).await.expect("an answer");
                // A person who follows a link that is none is told so on a page.
                assert!(matches!(answer.status, 401 | 404), "{path} with {headers:?}: {}", answer.status);
            }
            knocked.insert(path);
        }
    }
    assert!(knocked.len() >= 17, "all paths were tried: {knocked:?}");
    // A system that nobody configured was let in without a question.
    let mut partner = Partner::of(&hub.url, "/webhooks/systems/unknown").await;
    for headers in [&[][..], &[("x-webhook-signature", chosen.as_str())]] {
        assert_eq!(partner.send_with(headers, &body).await.expect("an answer").status, 404);
    }
    assert_eq!(hub.get("/api/events").await["items"], json!([]), "nothing of it was stored");
    carinho.hub.finish(&[]).await;
}

/// What operated the application, and what it knew about people, stood open.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_operators_is_open() {
    let carinho = Carinho::start_with(|_| {}).await;
    let mut client = tomada::client::Client::connect(&carinho.hub.url, None).await.expect("the hub answers");
    for path in
        ["/api/events", "/api/dead-letters", "/api/endpoints/crm/resume", "/dashboard", "/alerts", "/report/daily"]
    {
        let get = client.get(path).await.expect("an answer").status;
        let post = client.post(path, "{}").await.expect("an answer").status;
        assert!(matches!((get, post), (401, 401) | (404, 404)), "{path}: {get}, {post}");
    }
    carinho.hub.finish(&[]).await;
}
