//! Carinho's Atendimento: what people write on WhatsApp goes into their conversation, or begins one.

use tomada_carinho::{Id, Settings, System, digits, event_unknown, found, payload, same_phone};
use tomada_sdk::prelude::*;

const CONVERSATIONS: &str = "/api/v1/conversations";

#[connector(
    name = "atendimento",
    hosts = ["settings.base_url"],
    secrets = ["api_key"],
    events = ["whatsapp.identified"],
    description = "Puts WhatsApp messages into the conversations of Carinho's Atendimento."
)]
fn handle(cx: &Context<Settings>, event: Event<Raw>) -> Result<Receipt, Failure> {
    match event.event_type.as_str() {
        "whatsapp.identified" => converse(&System::new(cx, &event)?, &event),
        other => Err(event_unknown(other, &["whatsapp.identified"])),
    }
}

/// Step 4 of "WhatsApp recebido".
fn converse(atendimento: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Message {
        phone: String,
        name: Option<String>,
        body: Option<String>,
        channel: Option<String>,
        message_id: Option<String>,
        received_at: Option<String>,
        lead_id: Option<Id>,
    }
    #[derive(Deserialize)]
    struct Conversation {
        id: Id,
        phone: Option<String>,
    }
    let message: Message = payload(event)?;
    if digits(&message.phone).is_empty() {
        return Err(Failure::rejected(
            "phone-missing",
            "there is no phone, by which Atendimento knows its conversations: ask the source for one",
        ));
    }

    let request = atendimento.get(CONVERSATIONS).query(&[("phone", &message.phone)]);
    let conversations: Vec<Conversation> = found(request.send()?)?;
    // A list that was not filtered would show what somebody wrote to somebody else.
    let theirs = |conversation: &&Conversation| {
        conversation.phone.as_deref().is_some_and(|phone| same_phone(phone, &message.phone))
    };
    let content = message.body.unwrap_or_default();
    let channel = message.channel.as_deref().unwrap_or("whatsapp");
    let (request, note) = match conversations.iter().find(theirs) {
        Some(conversation) => {
            let request = atendimento.post(CONVERSATIONS).segment(&conversation.id).segment("messages").json(&json!({
                "content": content,
                "direction": "inbound",
                "channel": channel,
                "message_id": message.message_id,
                "received_at": message.received_at,
            }));
            (request, "the message went into its conversation")
        }
        None => {
            let request = atendimento.post(CONVERSATIONS).json(&json!({
                "phone": message.phone,
                "name": message.name,
                "channel": channel,
                "crm_lead_id": message.lead_id,
                "initial_message": content,
            }));
            (request, "the message began a conversation")
        }
    };
    Ok(Receipt::from(request.send()?.ok()?).note(note))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, Run, event};

    const FIND: &str = "https://at.test/api/v1/conversations?phone=5511987654321";
    const CONVERSATIONS: &str = "https://at.test/api/v1/conversations";
    const MESSAGES: &str = "https://at.test/api/v1/conversations/31/messages";

    fn deliver(lead_id: Json, prepare: impl Fn(Host) -> Host) -> Run {
        let host = Host::new().settings(json!({"base_url": "https://at.test", "auth": "bearer"})).secret("api_key");
        let message = json!({"phone": "5511987654321", "name": "Ana", "body": "Bom dia!", "type": "text",
            "channel": "whatsapp", "message_id": "3EB0", "received_at": "2026-01-01T00:00:00Z", "lead_id": lead_id});
        prepare(host).run(handle, event("whatsapp.identified", message))
    }

    #[test]
    fn a_message_goes_into_its_conversation() {
        let conversations = json!({"data": [{"id": 30, "phone": "5511900000000"}, {"id": 31, "phone": "11 98765-4321"},
            {"id": 32, "phone": "5511987654321"}]});
        let run = deliver(json!(7), |host| {
            host.answer(Method::Get, FIND, 200, conversations.clone()).answer(Method::Post, MESSAGES, 201, json!({}))
        });
        for request in &run.requests {
            assert_eq!(request.header("Authorization"), Some("Bearer {api_key}"));
            assert_eq!(request.header("X-Source-System"), Some("integracoes"));
            assert_eq!(request.header("X-Request-ID"), Some("dlv_0000000000001"));
        }
        assert_eq!(run.requests[1].header("Idempotency-Key"), Some("dlv_0000000000001"));
        assert_eq!(
            run.requests[1].json(),
            json!({"content": "Bom dia!", "direction": "inbound", "channel": "whatsapp", "message_id": "3EB0",
                "received_at": "2026-01-01T00:00:00Z"})
        );
        assert_eq!(run.receipt().note.as_deref(), Some("the message went into its conversation"));
        assert_eq!(run.receipt().http_status, Some(201));
    }

    #[test]
    fn a_first_message_begins_a_conversation() {
        let others = json!([{"id": 30, "phone": "5511900000000"}, {"id": 31, "phone": null}]);
        for (lead_id, status, found) in [
            (json!(7), 200, others),
            (json!(null), 200, json!({"data": []})),
            (json!("l-7"), 404, json!({"message": "Not found"})),
        ] {
            let run = deliver(lead_id.clone(), |host| {
                host.answer(Method::Get, FIND, status, found.clone()).answer(
                    Method::Post,
                    CONVERSATIONS,
                    201,
                    json!({}),
                )
            });
            assert_eq!(
                run.requests[1].json(),
                json!({"phone": "5511987654321", "name": "Ana", "channel": "whatsapp", "crm_lead_id": lead_id,
                    "initial_message": "Bom dia!"})
            );
            assert_eq!(run.requests[1].header("Idempotency-Key"), Some("dlv_0000000000001"));
            assert_eq!(run.receipt().note.as_deref(), Some("the message began a conversation"));
        }
    }

    #[test]
    fn failures_are_the_right_kind() {
        let run = deliver(json!(7), |host| host.answer(Method::Get, FIND, 401, json!({})));
        assert!(matches!(run.failure(), Failure::Unauthorized(_)));
        let run = deliver(json!(7), |host| {
            host.answer(Method::Get, FIND, 200, json!([])).answer(Method::Post, CONVERSATIONS, 503, json!({}))
        });
        assert!(matches!(run.failure(), Failure::Transient(detail) if detail.code == "http-503"));

        let host = || Host::new().settings(json!({"base_url": "https://at.test"})).secret("api_key");
        for (event_type, payload, code) in [
            ("whatsapp.identified", json!({"phone": ""}), "phone-missing"),
            ("whatsapp.identified", json!({"name": "Ana"}), "payload-invalid"),
            ("whatsapp.inbound", json!({}), "event-unknown"),
        ] {
            let run = host().run(handle, event(event_type, payload));
            assert!(matches!(run.failure(), Failure::Rejected(detail) if detail.code == code), "{run:?}");
        }
    }
}
