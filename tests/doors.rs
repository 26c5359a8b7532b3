//! The webhooks that Carinho's partners send today: their paths stay valid, with the same source, event type and queue.

use serde_json::json;
use tomada::config::EventName;

use crate::harness::carinho::{Carinho, shipped};

/// Path, source, event type, queue; a type that depends on the request is written as it is configured.
const WEBHOOKS: [(&str, &str, &str, &str); 18] = [
    ("/webhooks/whatsapp/{token}", "zapi", "whatsapp.raw", "integrations-high"),
    ("/webhooks/whatsapp/status/{token}", "zapi", "whatsapp.status", "integrations-low"),
    ("/webhooks/site/lead", "site", "lead.created", "integrations-high"),
    ("/webhooks/crm/client-registered", "crm", "client.registered", "integrations-high"),
    ("/webhooks/operacao/service-completed", "operacao", "service.completed", "integrations-high"),
    (
        "/webhooks/financeiro/payment",
        "financeiro",
        "/status: received=payment.received, else payment.failed",
        "integrations-high",
    ),
    ("/webhooks/financeiro/payout", "financeiro", "payout.processed", "integrations"),
    ("/webhooks/cuidadores/feedback", "cuidadores", "feedback.received", "integrations"),
    ("/webhooks/systems/site", "site", "header X-Event-Type", "integrations"),
    ("/webhooks/systems/crm", "crm", "header X-Event-Type", "integrations"),
    ("/webhooks/systems/operacao", "operacao", "header X-Event-Type", "integrations"),
    ("/webhooks/systems/financeiro", "financeiro", "header X-Event-Type", "integrations"),
    ("/webhooks/systems/cuidadores", "cuidadores", "header X-Event-Type", "integrations"),
    ("/webhooks/systems/atendimento", "atendimento", "header X-Event-Type", "integrations"),
    ("/webhooks/systems/marketing", "marketing", "header X-Event-Type", "integrations"),
    ("/webhooks/systems/documentos", "documentos", "header X-Event-Type", "integrations"),
    ("/feedback/{token}", "feedback", "feedback.received", "integrations"),
    ("/webhooks/whatsapp", "zapi", "GET", ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_path_of_today_leads_where_it_led() {
    let config = shipped();
    let mut found = Vec::new();
    for (source, configured) in &config.sources {
        for webhook in &configured.webhooks {
            let event = match &webhook.event {
                EventName::Fixed(name) => name.clone(),
                EventName::Header(rule) => format!("header {}", rule.header),
                EventName::Pointer(rule) => {
                    let map: Vec<String> = rule.map.iter().map(|(value, name)| format!("{value}={name}")).collect();
                    let default = rule.default.as_deref().unwrap_or_default();
                    format!("{}: {}, else {default}", rule.pointer, map.join(", "))
                }
            };
            found.push((webhook.path.clone(), source.clone(), event, webhook.queue.clone()));
        }
    }
    found.push(("/webhooks/whatsapp".into(), "zapi".into(), "GET".into(), String::new()));
    found.sort();
    let mut expected: Vec<_> = WEBHOOKS
        .iter()
        .map(|(path, source, event, queue)| {
            (path.to_string(), source.to_string(), event.to_string(), queue.to_string())
        })
        .collect();
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_takes_is_accepted_and_shown() {
    let carinho = Carinho::start_with(|_| {}).await;
    let (webhook, _) = carinho.send("/webhooks/systems/crm", Some("contract.frozen"), &json!({ "id": 1 })).await;
    let published = carinho.publish("contract.thawed", "crm", &json!({ "id": 1 })).await;
    let unrouted = carinho.hub.get("/api/events?unrouted=true").await;
    let shown: Vec<_> =
        unrouted["items"].as_array().expect("items").iter().map(|event| (&event["id"], &event["type"])).collect();
    assert_eq!(shown, [(&json!(published), &json!("contract.thawed")), (&json!(webhook), &json!("contract.frozen"))]);
    carinho.finish(&[]).await;
}
