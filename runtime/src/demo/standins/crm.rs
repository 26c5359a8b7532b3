//! Carinho's CRM, as far as leads go.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{Call, Reply, System, is_authorised, is_json, phone_digits, text};

pub(super) struct Crm {
    api_key: String,
    leads: Vec<Map<String, Value>>,
}

impl Crm {
    pub(super) fn new(api_key: String) -> Crm {
        Crm { api_key, leads: Vec::new() }
    }

    fn find(&self, call: &Call<'_>) -> Reply {
        let Some((_, phone)) = call.query.iter().find(|(key, _)| key == "phone") else {
            return Reply::new(StatusCode::OK, json!({ "data": self.leads }), "all leads");
        };
        let phone = phone_digits(phone);
        let found: Vec<_> = self.leads.iter().filter(|lead| lead["phone"] == *phone).collect();
        let note = match found.first() {
            Some(lead) => format!("lead {} has this phone", lead["id"]),
            None => "no lead has this phone".into(),
        };
        Reply::new(StatusCode::OK, json!({ "data": found }), note)
    }

    fn create(&mut self, call: &Call<'_>) -> Reply {
        let lead = match object(call) {
            Ok(lead) => lead,
            Err(refusal) => return refusal,
        };
        let phone = phone_digits(text(&Value::Object(lead.clone()), "phone"));
        if phone.is_empty() {
            return Reply::refused(StatusCode::UNPROCESSABLE_ENTITY, "the phone is missing");
        }
        let id = 1001 + self.leads.len();
        let mut stored = lead;
        stored.insert("id".into(), id.into());
        stored.insert("phone".into(), phone.into());
        stored.insert("interaction_count".into(), 1.into());
        stored.insert("last_contact_at".into(), Value::Null);
        let note = format!("lead {id} created");
        let answer = json!({ "success": true, "data": stored });
        self.leads.push(stored);
        Reply::new(StatusCode::CREATED, answer, note)
    }

    fn update(&mut self, id: &str, call: &Call<'_>) -> Reply {
        let id = id.parse::<u64>().ok();
        let Some(lead) = self.leads.iter_mut().find(|lead| id.is_some() && lead["id"].as_u64() == id) else {
            return Reply::refused(StatusCode::NOT_FOUND, "no such lead");
        };
        match object(call) {
            Ok(update) => lead.extend(update.into_iter().filter(|(key, _)| key != "id")),
            Err(refusal) => return refusal,
        }
        let note = format!("lead {} updated, {} contacts", lead["id"], lead["interaction_count"]);
        Reply::new(StatusCode::OK, json!({ "success": true, "data": lead }), note)
    }
}

impl System for Crm {
    fn secrets(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([("api_key", self.api_key.clone())])
    }

    fn answer(&mut self, call: &Call<'_>) -> Reply {
        if !is_authorised(call, &self.api_key) {
            return Reply::refused(StatusCode::UNAUTHORIZED, "wrong or missing X-API-Key");
        }
        if !call.headers.contains_key("x-service-origin") {
            return Reply::refused(StatusCode::FORBIDDEN, "missing X-Service-Origin");
        }
        let segments: Vec<&str> = call.path.split('/').skip(1).collect();
        match segments[..] {
            ["api", "v1", "leads"] if call.method == Method::GET => self.find(call),
            ["api", "v1", "leads"] if call.method == Method::POST => self.create(call),
            ["api", "v1", "leads", id] if call.method == Method::PUT => self.update(id, call),
            ["api", "v1", "leads"] | ["api", "v1", "leads", _] => Reply::wrong_verb(),
            _ => Reply::unknown_path(),
        }
    }
}

fn object(call: &Call<'_>) -> Result<Map<String, Value>, Reply> {
    if !is_json(call) {
        return Err(Reply::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json"));
    }
    serde_json::from_slice(call.body)
        .map_err(|_| Reply::refused(StatusCode::BAD_REQUEST, "the body must be a JSON object"))
}

#[cfg(test)]
mod tests {
    use super::super::call;
    use super::*;

    const HEADERS: [(&str, &str); 3] =
        [("x-api-key", "key"), ("x-service-origin", "integracoes"), ("content-type", "application/json")];

    #[test]
    fn a_lead_is_created_found_by_any_spelling_of_its_phone_and_updated() {
        let mut crm = Crm::new("key".into());
        let lead = json!({ "name": "Ana", "phone": "(11) 98888-7777" });
        let created = call(&mut crm, Method::POST, "/api/v1/leads", &HEADERS, lead);
        assert_eq!((created.status, &created.body["data"]["id"]), (StatusCode::CREATED, &json!(1001)));

        for phone in ["5511988887777", "%2811%29%2098888-7777"] {
            let path = format!("/api/v1/leads?phone={phone}");
            let found = call(&mut crm, Method::GET, &path, &HEADERS, Value::Null);
            assert_eq!(found.body["data"][0]["id"], 1001, "{phone}");
        }
        let none = call(&mut crm, Method::GET, "/api/v1/leads?phone=5511900000000", &HEADERS, Value::Null);
        assert_eq!(none.body, json!({ "data": [] }));

        let update = json!({ "interaction_count": 2, "id": 5 });
        let updated = call(&mut crm, Method::PUT, "/api/v1/leads/1001", &HEADERS, update);
        assert_eq!((updated.status, &updated.body["data"]["id"]), (StatusCode::OK, &json!(1001)));
        let missing = call(&mut crm, Method::PUT, "/api/v1/leads/1002", &HEADERS, json!({}));
        assert_eq!(missing.status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let mut crm = Crm::new("key".into());
        let mut status = |method, path, headers: &[_], body| call(&mut crm, method, path, headers, body).status;
        let lead = || json!({ "phone": "11988887777" });
        assert_eq!(status(Method::POST, "/api/v1/leads", &HEADERS[1..], lead()), StatusCode::UNAUTHORIZED);
        let wrong = [("x-api-key", "other"), HEADERS[1], HEADERS[2]];
        assert_eq!(status(Method::POST, "/api/v1/leads", &wrong, lead()), StatusCode::UNAUTHORIZED);
        assert_eq!(status(Method::POST, "/api/v1/leads", &[HEADERS[0]], lead()), StatusCode::FORBIDDEN);
        assert_eq!(status(Method::POST, "/api/v1/leads", &HEADERS[..2], lead()), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(status(Method::POST, "/api/v1/leads", &HEADERS, json!([])), StatusCode::BAD_REQUEST);
        assert_eq!(status(Method::POST, "/api/v1/leads", &HEADERS, json!({})), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(status(Method::DELETE, "/api/v1/leads", &HEADERS, json!({})), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(status(Method::GET, "/api/v1/clients", &HEADERS, json!({})), StatusCode::NOT_FOUND);
    }
}
