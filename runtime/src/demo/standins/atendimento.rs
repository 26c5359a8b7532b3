//! Carinho's Atendimento: conversations with people, by phone.

use serde_json::Value;

use super::door::{Api, EVENTS, Profile, no_lists, require};
use super::{Call, Records, Reply, phone_digits};

pub(super) static ATENDIMENTO: Api = Api { profile: Profile::Bearer, events: EVENTS, answer, seed: no_lists };

/// What the text of a message may be called.
const TEXTS: [&str; 4] = ["content", "message", "message_body", "body"];

fn answer(call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    match (call.method.as_str(), &call.segments()[..]) {
        ("GET", ["api", "v1", "conversations"]) => find(call, records),
        ("POST", ["api", "v1", "conversations"]) => {
            let mut conversation = call.object(&["phone", "channel"])?;
            require(
                conversation.get("initial_message").is_some_and(|m| !m.is_null()),
                "initial_message",
                "is required",
            )?;
            let phone = phone_digits(conversation["phone"].as_str().unwrap_or_default());
            require(!phone.is_empty(), "phone", "must have digits")?;
            conversation.insert("phone".into(), phone.into());
            Ok(records.create("conversations", 901, conversation, "conversation #"))
        }
        ("POST", ["api", "v1", "conversations", id, "messages"]) => {
            let conversation = records.find_mut("conversations", id)?["id"].clone();
            let mut message = call.object(&[])?;
            let has_text = TEXTS.iter().any(|name| message.get(*name).is_some_and(Value::is_string));
            require(has_text, "content", "is required")?;
            message.insert("conversation_id".into(), conversation);
            Ok(records.create("messages", 1, message, &format!("message # in conversation {id}")))
        }
        (_, ["api", "v1", "conversations"] | ["api", "v1", "conversations", _, "messages"]) => Err(Reply::wrong_verb()),
        _ => Err(Reply::unknown_path()),
    }
}

fn find(call: &Call<'_>, records: &Records) -> Result<Reply, Reply> {
    let phone = call.asked("phone").filter(|phone| !phone.is_empty());
    let phone = phone_digits(phone.ok_or_else(|| Reply::invalid("phone", "is required"))?);
    let found = records.of("conversations").iter().filter(|conversation| conversation["phone"] == *phone);
    let found: Vec<Value> = found.cloned().collect();
    let note = match found.first() {
        Some(conversation) => format!("conversation {} is with this phone", conversation["id"]),
        None => "no conversation with this phone".into(),
    };
    Ok(Reply::list(found, note))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::System as _;
    use super::super::door::Internal;
    use super::*;

    #[test]
    fn a_conversation_begins_and_goes_on() {
        let mut atendimento = Internal::new(&ATENDIMENTO).unwrap();
        let begun = json!({
            "phone": "5511988887777", "name": null, "channel": "whatsapp", "crm_lead_id": null, "initial_message": "Oi",
        });
        assert_eq!(atendimento.call("POST", "/api/v1/conversations", begun, &[]).body["data"]["id"], 901);
        let found = atendimento.call("GET", "/api/v1/conversations?phone=11988887777", Value::Null, &[]);
        assert_eq!(found.body["data"][0]["id"], 901);
        let path = "/api/v1/conversations/901/messages";
        assert_eq!(atendimento.status("POST", path, json!({ "content": "Tudo bem?" })), 201);
        assert_eq!(atendimento.records("messages")[0]["conversation_id"], 901);
        let none = atendimento.call("GET", "/api/v1/conversations?phone=11900000000", Value::Null, &[]);
        assert_eq!(none.body, json!({ "data": [] }));
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let mut atendimento = Internal::new(&ATENDIMENTO).unwrap();
        atendimento.admits_only("authorization", "/api/v1/conversations?phone=1");
        let begun = json!({ "phone": "5511988887777", "channel": "whatsapp", "initial_message": "Oi" });
        atendimento.requires("POST", "/api/v1/conversations", &begun, &["phone", "channel"]);
        let silent = json!({ "phone": "5511988887777", "channel": "whatsapp" });
        assert_eq!(atendimento.status("POST", "/api/v1/conversations", silent), 422);
        assert_eq!(atendimento.status("POST", "/api/v1/conversations/901/messages", json!({})), 422);
        let text = json!({ "content": "Oi" });
        assert_eq!(atendimento.status("POST", "/api/v1/conversations/999/messages", text), 404);
        assert_eq!(atendimento.status("GET", "/api/v1/conversations", Value::Null), 422);
        assert_eq!(atendimento.status("PUT", "/api/v1/conversations", json!({})), 405);
        assert_eq!(atendimento.status("GET", "/api/v1/conversations/901", Value::Null), 404);
    }
}
