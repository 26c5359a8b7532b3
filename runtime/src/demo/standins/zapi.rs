//! Z-API, which sends WhatsApp messages (developer.z-api.io). Its token is a part of the path. It knows no idempotency
//! key: each call is a message.

use std::collections::BTreeMap;

use anyhow::Result;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Call, Records, Reply, System, plain, random};

pub(super) struct Zapi {
    instance_token: String,
    client_token: String,
    records: Records,
}

/// What a message must have besides `phone`, how it is called here, and the field that people read of it.
const MESSAGES: [(&str, &[&str], &str, &str); 5] = [
    ("send-text", &["message"], "texts", "message"),
    ("send-image", &["image"], "images", "caption"),
    ("send-document", &["document"], "documents", "fileName"),
    ("send-link", &["message", "linkUrl", "title"], "links", "message"),
    ("send-button-list", &["message", "buttonList"], "button_lists", "message"),
];

impl Zapi {
    /// # Errors
    /// There is no random number.
    pub(super) fn new() -> Result<Zapi> {
        Ok(Zapi { instance_token: random()?, client_token: random()?, records: Records::default() })
    }

    fn pass(&mut self, call: &Call<'_>) -> Result<Reply, Reply> {
        let segments = call.segments();
        let ["instances", _, "token", token, path @ ..] = &segments[..] else { return Err(Reply::unknown_path()) };
        if *token != self.instance_token {
            return Err(Reply::refused(StatusCode::BAD_REQUEST, "instance not found"));
        }
        if call.header("Client-Token") != Some(&self.client_token) {
            return Err(Reply::refused(StatusCode::FORBIDDEN, "wrong or missing Client-Token"));
        }
        match (call.method.as_str(), path) {
            ("GET", ["status"]) => {
                let status = json!({ "connected": true, "smartphoneConnected": true, "error": "" });
                Ok(Reply::new(StatusCode::OK, status, "connected"))
            }
            ("GET", ["phone-exists", phone]) => {
                let exists = is_phone(phone);
                let answer = json!({ "exists": exists, "phone": phone, "lid": Value::Null });
                Ok(Reply::new(StatusCode::OK, answer, if exists { "the phone exists" } else { "no such phone" }))
            }
            ("POST", ["send-document", extension]) if !extension.is_empty() => self.send(call, "send-document"),
            ("POST", [method]) if *method != "send-document" => self.send(call, method),
            (_, ["status" | "send-text" | "send-image" | "send-link" | "send-button-list"])
            | (_, ["phone-exists" | "send-document", _]) => Err(Reply::wrong_verb()),
            _ => Err(Reply::unknown_path()),
        }
    }

    fn send(&mut self, call: &Call<'_>, method: &str) -> Result<Reply, Reply> {
        let known = MESSAGES.iter().find(|(name, ..)| *name == method);
        let Some((_, required, kind, shown)) = known else {
            return Err(if method == "status" { Reply::wrong_verb() } else { Reply::unknown_path() });
        };
        let refused = |why: &str| Reply::refused(StatusCode::BAD_REQUEST, why);
        let mut message = call.object(&[])?;
        if !message.get("phone").and_then(Value::as_str).is_some_and(is_phone) {
            return Err(refused("the phone must be digits, country and area code first"));
        }
        let is_missing = |field: &&&str| message.get(**field).is_none_or(|value| value.is_null() || value == "");
        if let Some(field) = required.iter().find(is_missing) {
            return Err(refused(&format!("{field} is missing")));
        }
        if *kind == "button_lists" {
            let buttons = message["buttonList"]["buttons"].as_array().filter(|buttons| !buttons.is_empty());
            let buttons = buttons.ok_or_else(|| refused("buttonList.buttons is missing"))?;
            if buttons.iter().any(|button| button["label"].as_str().is_none_or(str::is_empty)) {
                return Err(refused("a button has no label"));
            }
        }
        let (phone, text) = (plain(&message["phone"]), message.get(*shown).map(plain).unwrap_or_default());
        let id = format!("{:020X}", self.records.of("messages").len() + 1);
        message.insert("messageId".into(), id.clone().into());
        self.records.add(kind, 1, message.clone());
        message.insert("method".into(), method.into());
        self.records.add("messages", 1, message);
        let what = kind.trim_end_matches('s').replace('_', " ");
        let answer = json!({ "zaapId": id, "messageId": id, "id": id });
        Ok(Reply::new(StatusCode::OK, answer, format!("{what} to {phone}: “{text}”")))
    }
}

fn is_phone(phone: &str) -> bool {
    (12..=15).contains(&phone.len()) && phone.bytes().all(|byte| byte.is_ascii_digit())
}

impl System for Zapi {
    fn secrets(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([("instance_token", self.instance_token.clone()), ("client_token", self.client_token.clone())])
    }

    fn answer(&mut self, call: &Call<'_>) -> Reply {
        self.pass(call).unwrap_or_else(|refusal| refusal)
    }

    fn records(&self, kind: &str) -> &[Value] {
        self.records.of(kind)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::super::call;
    use super::*;

    const HEADERS: [(&str, &str); 2] = [("client-token", "client"), ("content-type", "application/json")];

    fn zapi() -> Zapi {
        Zapi { instance_token: "instance".into(), client_token: "client".into(), records: Records::default() }
    }

    fn path(method: &str) -> String {
        format!("/instances/carinho/token/instance/{method}")
    }

    #[test]
    fn each_call_is_a_message() {
        let mut zapi = zapi();
        let phone = "5511988887777";
        let buttons = json!([{ "id": "rating_1", "label": "1" }, { "label": "2" }]);
        let messages = [
            ("send-text", "texts", json!({ "phone": phone, "message": "Olá" })),
            ("send-text", "texts", json!({ "phone": phone, "message": "Olá" })),
            ("send-image", "images", json!({ "phone": phone, "image": "https://x/y.png" })),
            ("send-document/pdf", "documents", json!({ "phone": phone, "document": "https://x/y.pdf" })),
            ("send-link", "links", json!({ "phone": phone, "message": "m", "linkUrl": "https://x", "title": "t" })),
            (
                "send-button-list",
                "button_lists",
                json!({ "phone": phone, "message": "m", "buttonList": { "buttons": buttons } }),
            ),
        ];
        let mut ids = std::collections::BTreeSet::new();
        for (method, kind, body) in messages {
            let reply = call(&mut zapi, Method::POST, &path(method), &HEADERS, body);
            assert_eq!(reply.status, StatusCode::OK, "{method}: {}", reply.body);
            assert!(!reply.note.contains("instance") && !reply.note.contains("client"), "{}", reply.note);
            assert_eq!(zapi.records(kind).last().unwrap()["messageId"], reply.body["messageId"]);
            ids.insert(plain(&reply.body["messageId"]));
        }
        assert_eq!((ids.len(), zapi.records("texts").len(), zapi.records("messages").len()), (6, 2, 6));
    }

    #[test]
    fn what_is_asked_is_answered() {
        let mut zapi = zapi();
        let mut get = |method: &str| call(&mut zapi, Method::GET, &path(method), &HEADERS, Value::Null).body;
        assert_eq!(get("status")["connected"], true);
        assert_eq!(get("phone-exists/5511988887777")["exists"], true);
        assert_eq!(get("phone-exists/123")["exists"], false);
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let mut zapi = zapi();
        let whole = json!({
            "phone": "5511988887777", "message": "m", "image": "i", "document": "d", "linkUrl": "l", "title": "t",
            "buttonList": { "buttons": [{ "label": "1" }] },
        });
        let mut status = |method, path: &str, headers: &[_], body: &Value| {
            call(&mut zapi, method, path, headers, body.clone()).status
        };
        let text = path("send-text");
        assert_eq!(status(Method::POST, &text, &HEADERS[..1], &whole), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(status(Method::POST, &text, &HEADERS[1..], &whole), StatusCode::FORBIDDEN);
        let wrong = "/instances/carinho/token/other/send-text";
        assert_eq!(status(Method::POST, wrong, &HEADERS, &whole), StatusCode::BAD_REQUEST);
        for (method, required, ..) in MESSAGES {
            let path = path(if method == "send-document" { "send-document/pdf" } else { method });
            assert_eq!(status(Method::GET, &path, &HEADERS, &whole), StatusCode::METHOD_NOT_ALLOWED, "{method}");
            for field in required.iter().chain(&["phone"]) {
                let mut body = whole.clone();
                body[*field] = Value::Null;
                assert_eq!(status(Method::POST, &path, &HEADERS, &body), StatusCode::BAD_REQUEST, "{method} {field}");
            }
            for phone in ["11988887777", "+5511988887777"] {
                let mut body = whole.clone();
                body["phone"] = phone.into();
                assert_eq!(status(Method::POST, &path, &HEADERS, &body), StatusCode::BAD_REQUEST, "{phone}");
            }
        }
        for buttons in [json!({}), json!({ "buttons": [] }), json!({ "buttons": [{ "id": "rating_1" }] })] {
            let mut body = whole.clone();
            body["buttonList"] = buttons;
            let reply = status(Method::POST, &path("send-button-list"), &HEADERS, &body);
            assert_eq!(reply, StatusCode::BAD_REQUEST);
        }
        assert_eq!(status(Method::POST, &path("status"), &HEADERS, &whole), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(status(Method::POST, &path("send-document"), &HEADERS, &whole), StatusCode::NOT_FOUND);
        assert_eq!(status(Method::POST, &path("send-sticker"), &HEADERS, &whole), StatusCode::NOT_FOUND);
    }
}
