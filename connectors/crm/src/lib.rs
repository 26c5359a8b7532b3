//! Carinho's CRM: a lead that is known gets its new contact counted, any other is created. Either way
//! `lead.registered` tells the lead's id to whoever needs it.

use tomada_sdk::prelude::*;
use tomada_sdk::time::rfc3339;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    base_url: String,
}

#[derive(Deserialize, Serialize)]
struct Lead {
    name: Option<String>,
    phone: String,
    email: Option<String>,
    source: Option<String>,
    utm_source: Option<String>,
    utm_medium: Option<String>,
    utm_campaign: Option<String>,
    message: Option<String>,
}

/// A lead as CRM has it.
#[derive(Deserialize)]
struct Known {
    id: Json,
    phone: Option<String>,
    interaction_count: Option<u64>,
    last_contact_at: Option<String>,
}

/// What CRM wraps its answers in.
#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

#[derive(Serialize)]
struct Registered {
    lead_id: Json,
    created: bool,
    #[serde(flatten)]
    lead: Lead,
}

#[connector(
    name = "crm",
    hosts = ["settings.base_url"],
    secrets = ["api_key"],
    events = ["lead.created"],
    emits = ["lead.registered"],
    description = "Registers leads in Carinho's CRM."
)]
fn handle(cx: &Context<Settings>, event: Event<Lead>) -> Result<Receipt, Failure> {
    let api_key = cx.secret("api_key")?;
    let call = |request: Request| {
        let request = request.header("X-API-Key", &api_key).header("X-Service-Origin", "integracoes");
        request.header("X-Source-System", "integracoes").header("X-Request-ID", &event.delivery_id).send()
    };
    let lead = &event.payload;
    if digits(&lead.phone).is_empty() {
        return Err(Failure::rejected(
            "phone-missing",
            "the lead has no phone, by which CRM knows it: ask the source for one",
        ));
    }

    let leads = format!("{}/api/v1/leads", cx.settings.base_url);
    let found: Envelope<Vec<Known>> = call(cx.get(&leads).query(&[("phone", &lead.phone)]))?.json()?;
    let (lead_id, created, note) = match find(found.data, &lead.phone) {
        Some(known) => {
            let last_contact_at = rfc3339(event.created_ms);
            // A retry whose first attempt got this far must not count the contact again.
            if known.last_contact_at.as_ref() != Some(&last_contact_at) {
                let update = json!({
                    "last_contact_at": last_contact_at,
                    "interaction_count": known.interaction_count.unwrap_or_default() + 1,
                });
                call(cx.put(&leads).segment(id_text(&known.id)).json(&update))?.ok()?;
            }
            (known.id, false, "the lead was known")
        }
        None => {
            let created: Envelope<Known> = call(cx.post(&leads).json(lead))?.json()?;
            (created.data.id, true, "the lead was created")
        }
    };
    Receipt::new().note(note).emit("lead.registered", &Registered { lead_id, created, lead: event.payload })
}

/// The lead with this phone. CRM is asked for it, and its answer is checked nevertheless: a list that was not filtered
/// would have the contact counted for somebody else.
fn find(leads: Vec<Known>, phone: &str) -> Option<Known> {
    let national = |phone: &str| {
        let digits = digits(phone);
        // With at most eleven digits, 55 is the area code of Santa Maria.
        if digits.len() > 11 { digits.strip_prefix("55").unwrap_or(&digits).to_owned() } else { digits }
    };
    leads.into_iter().find(|known| known.phone.as_deref().is_some_and(|theirs| national(theirs) == national(phone)))
}

fn digits(phone: &str) -> String {
    phone.chars().filter(char::is_ascii_digit).collect()
}

fn id_text(id: &Json) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, Run, event};

    const FIND: &str = "https://crm.test/api/v1/leads?phone=%2811%29%2098765-4321";
    const LEADS: &str = "https://crm.test/api/v1/leads";

    fn deliver(prepare: impl Fn(Host) -> Host) -> Run {
        let host = Host::new().settings(json!({"base_url": "https://crm.test"})).secret("api_key");
        prepare(host).run(handle, event("lead.created", lead()))
    }

    fn lead() -> Json {
        json!({"name": "Ana Souza", "phone": "(11) 98765-4321", "email": null, "source": "site", "utm_campaign": "inverno"})
    }

    #[test]
    fn an_unknown_lead_is_created() {
        let run = deliver(|host| {
            let others = json!({"data": [{"id": 1, "phone": "5521987654321"}, {"id": 2, "phone": null}]});
            host.answer(Method::Get, FIND, 200, others).answer(
                Method::Post,
                LEADS,
                201,
                json!({"success": true, "data": {"id": 42}}),
            )
        });
        for request in &run.requests {
            assert_eq!(request.header("X-API-Key"), Some("{api_key}"));
            assert_eq!(request.header("X-Service-Origin"), Some("integracoes"));
            assert_eq!(request.header("X-Request-ID"), Some("dlv_0000000000001"));
        }
        assert_eq!(run.requests[1].json()["name"], "Ana Souza");
        let (event_type, payload) = &run.emitted()[0];
        assert_eq!(*event_type, "lead.registered");
        assert_eq!(
            *payload,
            json!({"lead_id": 42, "created": true, "name": "Ana Souza", "phone": "(11) 98765-4321", "email": null,
                "source": "site", "utm_source": null, "utm_medium": null, "utm_campaign": "inverno", "message": null})
        );
    }

    #[test]
    fn a_known_lead_has_its_contact_counted() {
        let known = json!({"data": [{"id": "a/1", "phone": "5511987654321", "interaction_count": 3}]});
        let run = deliver(|host| {
            host.answer(Method::Get, FIND, 200, known.clone()).answer(
                Method::Put,
                "https://crm.test/api/v1/leads/a%2F1",
                200,
                json!({}),
            )
        });
        let update = json!({"last_contact_at": "2026-01-01T00:00:00Z", "interaction_count": 4});
        assert_eq!(run.requests[1].json(), update);
        let (_, payload) = &run.emitted()[0];
        assert_eq!((&payload["lead_id"], &payload["created"]), (&json!("a/1"), &json!(false)));
    }

    #[test]
    fn a_retry_counts_nothing_twice() {
        let known = json!({"id": 7, "phone": "11987654321", "last_contact_at": "2026-01-01T00:00:00Z"});
        let run = deliver(|host| host.answer(Method::Get, FIND, 200, json!({"data": [known]})));
        assert_eq!(run.emitted()[0].1["lead_id"], 7);
    }

    #[test]
    fn failures_are_the_right_kind() {
        let run = deliver(|host| host.answer(Method::Get, FIND, 503, json!(null)));
        assert!(matches!(run.failure(), Failure::Transient(detail) if detail.code == "http-503"));
        let run = deliver(|host| host.answer(Method::Get, FIND, 401, json!(null)));
        assert!(matches!(run.failure(), Failure::Unauthorized(_)));

        let host = Host::new().settings(json!({"base_url": "https://crm.test"})).secret("api_key");
        let run = host.run(handle, event("lead.created", json!({"name": "Ana", "phone": "-"})));
        assert!(matches!(run.failure(), Failure::Rejected(detail) if detail.code == "phone-missing"));
    }
}
