//! Carinho's site: it is told that its leads arrived and what became of them. A lead of the site has the site's `ref`.

use tomada_carinho::{Id, Settings, System, event_unknown, payload};
use tomada_sdk::prelude::*;
use tomada_sdk::time::rfc3339;

const LEADS: &str = "/api/v1/leads";

#[connector(
    name = "site",
    hosts = ["settings.base_url"],
    secrets = ["api_key"],
    events = ["lead.created", "lead.updated"],
    description = "Tells Carinho's site what became of its leads."
)]
fn handle(cx: &Context<Settings>, event: Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Lead {
        r#ref: Option<Id>,
        status: Option<String>,
    }
    if !matches!(event.event_type.as_str(), "lead.created" | "lead.updated") {
        return Err(event_unknown(&event.event_type, &["lead.created", "lead.updated"]));
    }
    let site = System::new(cx, &event)?;
    let lead: Lead = payload(&event)?;
    let Some(r#ref) = lead.r#ref.and_then(Id::given) else {
        return Ok(Receipt::new().note("the lead is not from the site"));
    };
    let request = if event.event_type == "lead.created" {
        let confirmation = json!({"ref": r#ref, "received_at": rfc3339(event.created_ms)});
        site.post(LEADS).segment("confirm").json(&confirmation)
    } else {
        let Some(status) = lead.status else {
            return Ok(Receipt::new().note("the lead's status did not change"));
        };
        site.put(LEADS).segment(&r#ref).segment("status").json(&json!({"status": status}))
    };
    Ok(request.send()?.ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, event};

    fn host() -> Host {
        Host::new().settings(json!({"base_url": "https://site.test"})).secret("api_key")
    }

    #[test]
    fn a_lead_is_confirmed() {
        let lead = json!({"ref": "S-1", "name": "Ana Souza", "phone": "5511987654321"});
        let run = host()
            .answer(Method::Post, "https://site.test/api/v1/leads/confirm", 200, json!({}))
            .run(handle, event("lead.created", lead));
        let request = &run.requests[0];
        assert_eq!(request.json(), json!({"ref": "S-1", "received_at": "2026-01-01T00:00:00Z"}));
        assert_eq!(request.header("X-API-Key"), Some("{api_key}"));
        assert_eq!(request.header("X-Source-System"), Some("integracoes"));
        assert_eq!(request.header("X-Request-ID"), Some("dlv_0000000000001"));
        assert_eq!(request.header("Idempotency-Key"), Some("dlv_0000000000001"));
        assert_eq!(run.receipt().http_status, Some(200));
    }

    #[test]
    fn a_leads_status_is_told() {
        let run = host()
            .answer(Method::Put, "https://site.test/api/v1/leads/a%2F1/status", 200, json!({}))
            .run(handle, event("lead.updated", json!({"ref": "a/1", "status": "qualified", "name": "Ana"})));
        assert_eq!(run.requests[0].json(), json!({"status": "qualified"}));
        assert_eq!(run.requests[0].header("Idempotency-Key"), Some("dlv_0000000000001"));
    }

    #[test]
    fn there_may_be_nothing_to_tell() {
        for (event_type, lead, note) in [
            ("lead.created", json!({"name": "Ana"}), "the lead is not from the site"),
            ("lead.created", json!({"ref": ""}), "the lead is not from the site"),
            ("lead.updated", json!({"ref": null, "status": "lost"}), "the lead is not from the site"),
            ("lead.updated", json!({"ref": "S-1"}), "the lead's status did not change"),
        ] {
            let run = host().run(handle, event(event_type, lead));
            assert_eq!(run.receipt().note.as_deref(), Some(note));
        }
    }

    #[test]
    fn failures_are_the_right_kind() {
        for (status, kind) in [(404, "Rejected"), (403, "Unauthorized"), (500, "Transient")] {
            let run = host()
                .answer(Method::Post, "https://site.test/api/v1/leads/confirm", status, json!({}))
                .run(handle, event("lead.created", json!({"ref": 5})));
            assert!(format!("{:?}", run.failure()).starts_with(&format!("Failure::{kind}(")), "{status}");
        }
        // A reference cannot lead to another resource.
        let run = host().run(handle, event("lead.updated", json!({"ref": "..", "status": "lost"})));
        assert!(matches!(run.failure(), Failure::Rejected(detail) if detail.code == "request-invalid"));
        let run = host().run(handle, event("lead.registered", json!({})));
        let Failure::Rejected(detail) = run.failure() else { panic!("{run:?}") };
        assert_eq!(detail.code, "event-unknown");
        assert!(detail.message.contains("lead.created, lead.updated"));
    }
}
