//! WhatsApp through Z-API (developer.z-api.io): whoever leaves a contact gets an answer at once.

use tomada_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default = "z_api")]
    base_url: String,
    instance_id: String,
    #[serde(default)]
    texts: Texts,
}

fn z_api() -> String {
    "https://api.z-api.io".to_owned()
}

/// What people read; `{nome}` is their name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Texts {
    lead_response: String,
}

impl Default for Texts {
    fn default() -> Texts {
        Texts {
            lead_response: "Olá, {nome}! Recebemos o seu contato e já estamos cuidando dele. \
                            Em instantes alguém da nossa equipe fala com você por aqui."
                .to_owned(),
        }
    }
}

#[derive(Deserialize)]
struct Lead {
    name: Option<String>,
    phone: Option<String>,
}

#[connector(
    name = "zapi",
    hosts = ["api.z-api.io", "settings.base_url"],
    secrets = ["instance_token", "client_token"],
    events = ["lead.created"],
    description = "Sends WhatsApp messages through Z-API."
)]
fn handle(cx: &Context<Settings>, event: Event<Lead>) -> Result<Receipt, Failure> {
    let lead = event.payload;
    let Some(phone) = lead.phone.filter(|phone| !phone.is_empty()) else {
        return Ok(Receipt::new().note("the lead has no phone"));
    };
    let message = json!({
        "phone": normalised(&phone)?,
        "message": filled_in(&cx.settings.texts.lead_response, &lead.name.unwrap_or_default()),
    });
    let Settings { base_url, instance_id, .. } = &cx.settings;
    let instance_token = cx.secret("instance_token")?;
    let answer = cx
        .post(format!("{base_url}/instances/{instance_id}/token/{instance_token}/send-text"))
        .header("Client-Token", cx.secret("client_token")?)
        .json(&message)
        .send()
        .map_err(never_twice)?;
    Ok(answer.ok()?.into())
}

/// Z-API takes digits only, country and area code first. Without a country it is Brazil.
fn normalised(phone: &str) -> Result<String, Failure> {
    let digits: String = phone.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_start_matches('0');
    match digits.len() {
        10 | 11 => Ok(format!("55{digits}")),
        12..=15 => Ok(digits.to_owned()),
        length => Err(Failure::rejected(
            "phone-invalid",
            format!("the phone has {length} digits: it needs area code and number, with the country code at most 15"),
        )),
    }
}

/// A person without a name is greeted without one.
fn filled_in(text: &str, nome: &str) -> String {
    let nome = nome.trim();
    if nome.is_empty() { text.replace(", {nome}", "").replace("{nome}", "") } else { text.replace("{nome}", nome) }
}

/// Z-API has no idempotency key. When it took the request and said nothing, the message may be on its way, and a second
/// one is worse than asking an operator.
fn never_twice(failure: Failure) -> Failure {
    match failure {
        Failure::Transient(detail) if detail.code == "timeout" => Failure::rejected(
            "outcome-unknown",
            format!("{}: the message may have been sent; replay it if it was not", detail.message),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::http::Error;
    use tomada_sdk::test::{Host, event};

    const SEND_TEXT: &str = "https://api.z-api.io/instances/3C01/token/{instance_token}/send-text";

    fn host() -> Host {
        Host::new().settings(json!({"instance_id": "3C01"})).secret("instance_token").secret("client_token")
    }

    #[test]
    fn a_lead_is_answered() {
        let run = host()
            .answer(Method::Post, SEND_TEXT, 200, json!({"zaapId": "1", "messageId": "2", "id": "2"}))
            .run(handle, event("lead.created", json!({"name": "Ana", "phone": "(11) 98765-4321"})));
        assert_eq!(run.receipt().http_status, Some(200));
        let request = &run.requests[0];
        assert_eq!(request.header("Client-Token"), Some("{client_token}"));
        assert_eq!(request.header("Content-Type"), Some("application/json"));
        assert_eq!(request.json()["phone"], "5511987654321");
        assert!(request.json()["message"].as_str().is_some_and(|text| text.starts_with("Olá, Ana! ")));
    }

    #[test]
    fn the_text_is_the_operators() {
        let run = host()
            .settings(json!({"instance_id": "3C01", "texts": {"lead_response": "Oi, {nome}. {nome}?"}}))
            .answer(Method::Post, SEND_TEXT, 200, json!({}))
            .run(handle, event("lead.created", json!({"name": " ", "phone": "5511987654321"})));
        assert_eq!(run.requests[0].json()["message"], "Oi. ?");
    }

    #[test]
    fn phones() {
        for (phone, expected) in [
            ("1187654321", Some("551187654321")),
            ("011 98765-4321", Some("5511987654321")),
            ("+55 (11) 98765-4321", Some("5511987654321")),
            ("+351 912 345 678", Some("351912345678")),
            ("98765-4321", None),
            ("sem telefone", None),
            ("5511987654321 5511987654321", None),
        ] {
            assert_eq!(normalised(phone).ok().as_deref(), expected, "{phone}");
        }
    }

    #[test]
    fn nobody_is_written_to_without_need() {
        let run = host().run(handle, event("lead.created", json!({"name": "Ana", "phone": null})));
        assert_eq!(run.receipt().note.as_deref(), Some("the lead has no phone"));

        let run = host()
            .no_answer(Method::Post, SEND_TEXT, Error::Timeout)
            .run(handle, event("lead.created", json!({"phone": "11987654321"})));
        assert!(matches!(run.failure(), Failure::Rejected(detail) if detail.code == "outcome-unknown"));
    }

    #[test]
    fn the_token_is_in_no_message() {
        let run = host()
            .answer(Method::Post, SEND_TEXT, 405, json!({}))
            .run(handle, event("lead.created", json!({"phone": "11987654321"})));
        let message = &run.failure().detail().message;
        assert_eq!(message, "POST api.z-api.io/instances/3C01/token/{instance_token}/send-text answered 405");
    }
}
