//! What must be true after one Lead criado, from what the stand-ins remember.

use axum::http::{Method, StatusCode};
use serde_json::Value;

use super::standins::{Received, phone_digits};

/// A sentence and whether it holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) what: String,
    pub(super) holds: bool,
}

/// The facts about the one lead with this phone.
pub(super) fn facts(received: &[Received], phone: &str) -> Vec<Fact> {
    let phone = phone_digits(phone);
    let with_phone = |call: &&Received| phone_digits(call.json()["phone"].as_str().unwrap_or_default()) == phone;
    let created: Vec<Value> = received
        .iter()
        .filter(|call| call.is("crm", &Method::POST, "/api/v1/leads") && call.status == StatusCode::CREATED)
        .filter(with_phone)
        .map(|call| call.answer["data"]["id"].clone())
        .collect();
    let texts = received
        .iter()
        .filter(|call| *call.system == *"zapi" && call.path.ends_with("/send-text") && call.status == StatusCode::OK)
        .filter(with_phone)
        .count();
    let attributed: Vec<Value> = received
        .iter()
        .filter(|call| call.is("marketing", &Method::POST, "/api/v1/attribution") && call.status.is_success())
        .map(|call| call.json()["lead_id"].clone())
        .filter(|lead| created.contains(lead))
        .collect();
    let lead = match created.first() {
        Some(id) => format!("lead {id}"),
        None => "the lead".into(),
    };
    vec![
        fact(created.len(), "lead created at CRM", "leads created at CRM"),
        fact(texts, "WhatsApp text at Z-API", "WhatsApp texts at Z-API"),
        fact(
            attributed.len(),
            &format!("attribution of {lead} at marketing"),
            &format!("attributions of {lead} at marketing"),
        ),
    ]
}

fn fact(count: usize, one: &str, many: &str) -> Fact {
    match count {
        1 => Fact { what: format!("exactly one {one}"), holds: true },
        0 => Fact { what: format!("no {one}"), holds: false },
        _ => Fact { what: format!("{count} {many}, there should be one"), holds: false },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::body::Bytes;
    use axum::http::HeaderMap;
    use serde_json::json;

    use super::*;

    fn call(system: &str, path: &str, status: u16, body: Value, answer: Value) -> Received {
        Received {
            at: Instant::now(),
            system: system.into(),
            method: Method::POST,
            path: path.into(),
            query: Vec::new(),
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_string()),
            status: StatusCode::from_u16(status).unwrap(),
            answer,
            note: String::new(),
        }
    }

    fn lead(status: u16, phone: &str, id: u32) -> Received {
        call("crm", "/api/v1/leads", status, json!({ "phone": phone }), json!({ "data": { "id": id } }))
    }

    fn text() -> Received {
        call("zapi", "/instances/i/token/t/send-text", 200, json!({ "phone": "5511988887777" }), json!({}))
    }

    fn attribution(lead: u32) -> Received {
        call("marketing", "/api/v1/attribution", 201, json!({ "lead_id": lead }), json!({}))
    }

    fn holds(received: &[Received]) -> [bool; 3] {
        let facts = facts(received, "(11) 98888-7777");
        [facts[0].holds, facts[1].holds, facts[2].holds]
    }

    #[test]
    fn each_fact_holds_for_one_and_not_for_none_or_two() {
        assert_eq!(holds(&[]), [false; 3]);
        let mut received = vec![lead(201, "11988887777", 7), text(), attribution(7)];
        assert_eq!(holds(&received), [true; 3]);
        received.push(text());
        assert_eq!(holds(&received), [true, false, true]);
        received.push(lead(201, "5511988887777", 8));
        assert_eq!(holds(&received), [false, false, true]);
    }

    #[test]
    fn what_belongs_to_others_or_was_refused_does_not_count() {
        let others = [lead(201, "11900000000", 6), attribution(6), lead(503, "11988887777", 7), attribution(7)];
        assert_eq!(holds(&others), [false; 3]);
    }
}
