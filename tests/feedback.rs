//! The page behind a signed link: looking changes nothing, answering makes one event.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::Method;
use hyper::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use sha2::Sha256;
use tomada::client::Answer;

use crate::harness::partner::{SECRET, secret_file};
use crate::harness::target::Target;
use crate::harness::{START_MS, TestHub};

async fn hub(target: &Target) -> TestHub {
    let secret = secret_file();
    let source = format!(
        r#"
        [sources.feedback]
        auth = {{ scheme = "signed-link", secrets = ["{secret}"] }}
        [[sources.feedback.webhooks]]
        path = "/feedback/{{token}}"
        event = "feedback.received"
        queue = "integrations"
        [[routes]]
        event = "feedback.received"
        endpoint = "shop"
        "#
    );
    TestHub::start(&format!("{source}{}", target.endpoint("shop"))).await
}

fn link(claims: &Value) -> String {
    let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any key");
    mac.update(claims.as_bytes());
    format!("/feedback/{claims}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

fn claims(service: u32) -> Value {
    json!({ "service_id": service, "client_id": 5, "caregiver_id": 9, "exp": START_MS / 1000 + 7 * 86_400 })
}

async fn ask(hub: &TestHub, method: Method, path: &str, form: &str) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/x-www-form-urlencoded"));
    hub.client().await.send(method, path, headers, form.to_owned().into()).await.expect("an answer")
}

fn page(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).expect("UTF-8")
}

async fn events(hub: &TestHub) -> usize {
    hub.get("/api/events").await["items"].as_array().expect("items").len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_rates_a_service_once() {
    let target = Target::start().await;
    let hub = hub(&target).await;
    let path = link(&claims(77));
    // A mail program follows links before a person does, and more than once.
    for _ in 0..3 {
        let answer = ask(&hub, Method::GET, &format!("{path}?rating=4"), "").await;
        assert_eq!(answer.status, 200);
        assert!(page(&answer).contains("value=\"4\" required checked"), "{}", page(&answer));
        assert_eq!(answer.headers["referrer-policy"], "no-referrer");
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
    assert_eq!(events(&hub).await, 0);

    let answer = ask(&hub, Method::POST, &path, "rating=4&comment=+Muito+boa%21+%3Cb%3E+").await;
    assert_eq!(answer.status, 200);
    assert!(page(&answer).contains("Obrigado pela sua avaliação!"));
    let expected = json!({
        "service_id": 77, "client_id": 5, "caregiver_id": 9,
        "rating": 4, "comment": "Muito boa! <b>", "channel": "email",
    });
    assert_eq!(target.wait_for(1).await[0].json(), expected);

    // The same again, and with another link for the same service.
    let mut later = claims(77);
    later["exp"] = (START_MS / 1000 + 8 * 86_400).into();
    for path in [&path, &link(&later)] {
        let answer = ask(&hub, Method::POST, path, "rating=1").await;
        assert_eq!(answer.status, 200);
        assert!(page(&answer).contains("Já recebemos"));
    }
    assert_eq!((events(&hub).await, target.count()), (1, 1));
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_in_words_and_changes_nothing() {
    let target = Target::start().await;
    let hub = hub(&target).await;
    let good = link(&claims(1));
    let forged = good.replace("/feedback/", "/feedback/A");
    let wrong = [
        (Method::GET, forged.as_str(), "", 404, "Link inválido"),
        (Method::POST, forged.as_str(), "rating=5", 404, "Link inválido"),
        (Method::GET, "/feedback/e30", "", 404, "Link inválido"),
        (Method::GET, "/feedback/x.y", "", 404, "Link inválido"),
        (Method::POST, good.as_str(), "", 422, "Escolha uma nota"),
        (Method::POST, good.as_str(), "rating=6", 422, "Escolha uma nota"),
        (Method::POST, good.as_str(), "rating=bom", 422, "Escolha uma nota"),
        (Method::PUT, good.as_str(), "rating=5", 405, "navegador"),
    ];
    for (method, path, form, status, words) in wrong {
        let answer = ask(&hub, method.clone(), path, form).await;
        assert_eq!(answer.status, status, "{method} {path} {form}");
        assert!(page(&answer).contains(words), "{method} {path} {form}: {}", page(&answer));
    }
    hub.clock.advance(Duration::from_secs(7 * 86_400));
    for method in [Method::GET, Method::POST] {
        let answer = ask(&hub, method, &good, "rating=5").await;
        assert_eq!((answer.status, page(&answer).contains("expirou")), (410, true));
    }
    assert_eq!((events(&hub).await, target.count()), (0, 0));
    hub.finish(&[]).await;
}
