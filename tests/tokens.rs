//! A source that cannot sign has a token in its URL, and so has Z-API the other way round: neither shows anywhere.

use hyper::{Method, StatusCode};
use serde_json::json;

use crate::harness::Place;
use crate::harness::carinho::{secret, turned};
use crate::harness::eventually;
use crate::harness::partner::Partner;
use crate::harness::process::HubProcess;

#[tokio::test(flavor = "multi_thread")]
async fn no_token_shows_in_logs_answers_or_the_database() {
    let place = Place::new();
    let (config, stand_ins) = turned(place.directory()).await;
    let file = place.path("tomada.toml");
    std::fs::write(&file, toml::to_string(&config).expect("TOML")).expect("the configuration is written");
    let (data, log) = (place.path("hub"), place.path("log"));
    let hub = HubProcess::start_traced(&place, &file, &log).await;

    let text = |reference| String::from_utf8(secret(reference)).expect("text");
    let token = text(&config.sources["zapi"].auth.secrets()[0].reference);
    let zapi = &config.endpoints["zapi"].secrets;
    let secrets = [token.clone(), text(&zapi["instance_token"]), text(&zapi["client_token"])];

    let mut provider = Partner::of(&hub.url, "/webhooks/whatsapp").await;
    let callback = |id: &str| {
        json!({
            "instanceId": "carinho", "messageId": id, "phone": "5511912345678", "type": "ReceivedCallback",
            "momment": 1767225600000_u64, "status": "RECEIVED", "text": { "message": "Oi" },
        })
        .to_string()
    };
    // The panel checks the URL, with and without its token.
    for path in ["/webhooks/whatsapp".to_owned(), format!("/webhooks/whatsapp/{token}")] {
        assert_eq!(provider.request(Method::GET, &path, &[], "").await.expect("an answer").status, 200, "{path}");
    }
    let mut answers = Vec::new();
    for (path, body, status) in [
        ("/webhooks/whatsapp".to_owned(), callback("1"), 401),
        ("/webhooks/whatsapp/wrong".to_owned(), callback("1"), 401),
        (format!("/webhooks/whatsapp/{token}x"), callback("1"), 401),
        (format!("/webhooks/whatsapp/{token}"), "no json".to_owned(), 400),
        (format!("/webhooks/whatsapp/{token}"), callback("1"), 202),
        (format!("/webhooks/whatsapp/status/{token}"), callback("2"), 202),
    ] {
        let answer = provider.request(Method::POST, &path, &[], &body).await.expect("an answer");
        assert_eq!(answer.status, status, "{}", answer.problem());
        answers.push(String::from_utf8_lossy(&answer.body).into_owned());
    }
    // The person is unknown, so a text goes out to Z-API; a second one fails, and its attempt says why.
    eventually("a text is sent", async || !stand_ins.records("zapi", "texts").is_empty()).await;
    stand_ins.fail_next("zapi", 1, StatusCode::NOT_FOUND, None);
    let other = callback("3").replace("5511912345678", "5511912345679");
    provider.request(Method::POST, &format!("/webhooks/whatsapp/{token}"), &[], &other).await.expect("an answer");
    eventually("a text fails", async || {
        let letters = hub.get("/api/dead-letters").await;
        !letters["items"].as_array().expect("items").is_empty()
    })
    .await;

    for event in hub.get("/api/events?limit=100").await["items"].as_array().expect("items") {
        let id = event["id"].as_str().expect("an id");
        answers.push(hub.get(&format!("/api/events/{id}?payload=true")).await.to_string());
    }
    for path in ["/api/dead-letters", "/api/endpoints", "/api/connectors", "/api/sync-jobs", "/api/mappings"] {
        answers.push(hub.get(path).await.to_string());
    }
    hub.kill();
    let database = place.database();
    let holds = |bytes: &[u8], secret: &str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
    for secret in &secrets {
        assert!(answers.iter().all(|answer| !answer.contains(secret.as_str())), "an answer repeats a token");
        for file in [&log, &data.join("config.json")] {
            let bytes = std::fs::read(file).unwrap_or_default();
            assert!(!holds(&bytes, secret), "{} holds a token", file.display());
        }
        assert!(!holds(&database, secret), "the database holds a token");
    }
    let log = std::fs::read(&log).expect("the log");
    assert!(holds(&log, "webhook refused") && holds(&log, "ready"), "the log was written");
}
