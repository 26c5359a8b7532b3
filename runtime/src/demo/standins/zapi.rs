//! Z-API, which sends WhatsApp messages (developer.z-api.io). Its token is a part of the path.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Call, Reply, System, is_json, text};

pub(super) struct Zapi {
    instance_token: String,
    client_token: String,
    sent: u64,
}

impl Zapi {
    pub(super) fn new(instance_token: String, client_token: String) -> Zapi {
        Zapi { instance_token, client_token, sent: 0 }
    }

    fn send_text(&mut self, call: &Call<'_>) -> Reply {
        let body: Value = serde_json::from_slice(call.body).unwrap_or_default();
        let (phone, message) = (text(&body, "phone"), text(&body, "message"));
        if !(12..=15).contains(&phone.len()) || !phone.bytes().all(|byte| byte.is_ascii_digit()) {
            return Reply::refused(StatusCode::BAD_REQUEST, "the phone must be digits, country and area code first");
        }
        if message.is_empty() {
            return Reply::refused(StatusCode::BAD_REQUEST, "the message is missing");
        }
        self.sent += 1;
        let id = format!("{:020X}", self.sent);
        let answer = json!({ "zaapId": id, "messageId": id, "id": id });
        Reply::new(StatusCode::OK, answer, format!("text to {phone}: “{message}”"))
    }
}

impl System for Zapi {
    fn secrets(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([("instance_token", self.instance_token.clone()), ("client_token", self.client_token.clone())])
    }

    fn answer(&mut self, call: &Call<'_>) -> Reply {
        let segments: Vec<&str> = call.path.split('/').skip(1).collect();
        let ["instances", _, "token", token, method] = segments[..] else { return Reply::unknown_path() };
        if token != self.instance_token {
            return Reply::refused(StatusCode::BAD_REQUEST, "instance not found");
        }
        if call.headers.get("client-token").is_none_or(|given| given != self.client_token.as_str()) {
            return Reply::refused(StatusCode::FORBIDDEN, "wrong or missing Client-Token");
        }
        match method {
            "send-text" if call.method != Method::POST => Reply::wrong_verb(),
            "send-text" if !is_json(call) => {
                Reply::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")
            }
            "send-text" => self.send_text(call),
            "status" if call.method == Method::GET => {
                let status = json!({ "connected": true, "smartphoneConnected": true, "error": "" });
                Reply::new(StatusCode::OK, status, "connected")
            }
            "status" => Reply::wrong_verb(),
            _ => Reply::unknown_path(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call;
    use super::*;

    const PATH: &str = "/instances/carinho/token/instance/send-text";
    const HEADERS: [(&str, &str); 2] = [("client-token", "client"), ("content-type", "application/json")];

    #[test]
    fn a_text_is_sent_once_for_each_call() {
        let mut zapi = Zapi::new("instance".into(), "client".into());
        let mut ids = Vec::new();
        for _ in 0..2 {
            let body = json!({ "phone": "5511988887777", "message": "Olá" });
            let reply = call(&mut zapi, Method::POST, PATH, &HEADERS, body);
            assert_eq!(reply.status, StatusCode::OK);
            assert!(!reply.note.contains("instance") && !reply.note.contains("client"), "{}", reply.note);
            ids.push(reply.body["messageId"].clone());
        }
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let mut zapi = Zapi::new("instance".into(), "client".into());
        let mut status = |method, path, headers: &[_], phone| {
            call(&mut zapi, method, path, headers, json!({ "phone": phone, "message": "Olá" })).status
        };
        let phone = "5511988887777";
        assert_eq!(status(Method::GET, PATH, &HEADERS, phone), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(status(Method::POST, PATH, &HEADERS[..1], phone), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(status(Method::POST, PATH, &HEADERS[1..], phone), StatusCode::FORBIDDEN);
        let wrong = "/instances/carinho/token/other/send-text";
        assert_eq!(status(Method::POST, wrong, &HEADERS, phone), StatusCode::BAD_REQUEST);
        for phone in ["", "11988887777", "+5511988887777"] {
            assert_eq!(status(Method::POST, PATH, &HEADERS, phone), StatusCode::BAD_REQUEST, "{phone}");
        }
    }
}
