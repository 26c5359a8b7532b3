//! What stands in `cases/`: callbacks and messages, and what becomes of them; and the same callbacks with every field
//! spoilt.

use std::fs;
use std::path::Path;

use tomada_sdk::prelude::*;
use tomada_sdk::test::{Host, event};

use crate::message::Message;
use crate::phone::to_write_to;
use crate::text::Texts;
use crate::{handle, inbound};

/// `cases/NAME.json`: a payload (or `raw`, the bytes of one) of an event `event_type`, `whatsapp.raw` unless said, and
/// what comes of it: `emits` and `note` of the receipt, the calls that it `sends`, or the code with which it is
/// `rejected`. `settings` come on top of `{"instance_id": "3C01"}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default = "raw_callback")]
    event_type: String,
    #[serde(default)]
    settings: Json,
    payload: Option<Json>,
    raw: Option<String>,
    #[serde(default)]
    emits: Vec<Emits>,
    note: Option<String>,
    #[serde(default)]
    sends: Vec<Sends>,
    rejected: Option<String>,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct Emits {
    r#type: String,
    payload: Json,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sends {
    /// After the instance and its token.
    path: String,
    body: Json,
}

fn raw_callback() -> String {
    "whatsapp.raw".to_owned()
}

/// The files of a folder below the crate, name and content.
fn files<T: for<'a> Deserialize<'a>>(folder: &str) -> Vec<(String, T)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let json: Json =
            fs::read_to_string(&path).unwrap().parse().unwrap_or_else(|e| panic!("{name} is no JSON: {e}"));
        files.push((name.clone(), T::deserialize(json).unwrap_or_else(|e| panic!("{name} is no case: {e}"))));
    }
    assert!(!files.is_empty(), "there are no cases");
    files
}

#[test]
fn cases() {
    for (name, case) in files::<Case>("cases") {
        // The host does not know it when a call was not expected.
        println!("{name}");
        let mut settings = json!({"instance_id": "3C01"});
        for (key, value) in case.settings.as_object().into_iter().flatten() {
            settings[key] = value.clone();
        }
        let mut host = Host::new().settings(settings).secret("instance_token").secret("client_token");
        for call in &case.sends {
            let url = format!("https://api.z-api.io/instances/3C01/token/{{instance_token}}/{}", call.path);
            host = host.answer(Method::Post, &url, 200, json!({"zaapId": "1", "messageId": "2", "id": "2"}));
        }
        let mut event = event(&case.event_type, case.payload.clone().unwrap_or_default());
        if let Some(raw) = &case.raw {
            event.payload = Raw(raw.clone().into_bytes());
        }
        let run = host.run(handle, event);
        if let Some(code) = &case.rejected {
            assert!(matches!(run.failure(), Failure::Rejected(detail) if detail.code == *code), "{name}: {run:?}");
            assert!(case.emits.is_empty() && case.note.is_none() && case.sends.is_empty(), "{name} expects two ends");
            continue;
        }
        let outcome = !case.emits.is_empty() || case.note.is_some() || !case.sends.is_empty();
        assert!(outcome, "{name} expects nothing");
        let emitted: Vec<Emits> =
            run.emitted().into_iter().map(|(r#type, payload)| Emits { r#type: r#type.to_owned(), payload }).collect();
        assert_eq!(emitted, case.emits, "{name}");
        assert_eq!(run.receipt().note, case.note, "{name}");
        let bodies: Vec<Json> = run.requests.iter().map(|request| request.json()).collect();
        assert_eq!(bodies, case.sends.iter().map(|call| call.body.clone()).collect::<Vec<_>>(), "{name}");
    }
}

/// `cases/phones/NAME.json`: rows of what people write and what is called, null when it is no phone.
#[test]
fn phones() {
    for (name, rows) in files::<Vec<(Json, Option<String>)>>("cases/phones") {
        for (written, called) in rows {
            match (to_write_to(Some(&written)), called) {
                (Ok(phone), Some(called)) => assert_eq!(phone, called, "{name}: {written}"),
                (Err(Failure::Rejected(detail)), None) => {
                    assert!(matches!(detail.code.as_str(), "phone-invalid" | "phone-missing"), "{name}: {written}");
                }
                (result, called) => panic!("{name}: {written} is {result:?} and not {called:?}"),
            }
        }
    }
}

/// The callbacks, and messages, of all cases.
fn payloads(callbacks: bool) -> impl Iterator<Item = (String, Json)> {
    files::<Case>("cases").into_iter().filter_map(move |(name, case)| {
        ((case.event_type == "whatsapp.raw") == callbacks).then(|| case.payload.map(|payload| (name, payload)))?
    })
}

/// The paths to all values within a value.
fn paths(value: &Json) -> Vec<String> {
    let children: Vec<(String, &Json)> = match value {
        Json::Object(object) => object.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Json::Array(list) => list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    children
        .into_iter()
        .flat_map(|(key, value)| {
            let below: Vec<String> = paths(value).iter().map(|path| format!("/{key}{path}")).collect();
            [format!("/{key}")].into_iter().chain(below)
        })
        .collect()
}

/// `payload` with one value spoilt, in all ways.
fn spoilt(payload: &Json) -> Vec<Json> {
    let others = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1e300),
        json!(u64::MAX),
        json!(5_511_987_654_321_u64),
        json!(""),
        json!(" "),
        json!("Ana"),
        json!("rating_5"),
        json!("55119876543210000"),
        json!("\u{0}\u{202e}💛"),
        json!([]),
        json!([null, {"a": [1]}, "x"]),
        json!({}),
        json!({"message": {"message": []}}),
        json!({"message": "oi", "imageUrl": 1, "messageId": "A"}),
    ];
    let mut all = Vec::new();
    for path in paths(payload) {
        let (parent, key) = path.rsplit_once('/').unwrap();
        let mut without = payload.clone();
        match without.pointer_mut(parent).unwrap() {
            Json::Object(object) => drop(object.remove(key)),
            Json::Array(list) => drop(list.remove(key.parse().unwrap())),
            _ => unreachable!("only these two have children"),
        }
        all.push(without);
        for other in &others {
            let mut with = payload.clone();
            *with.pointer_mut(&path).unwrap() = other.clone();
            all.push(with);
        }
    }
    all.extend(others);
    all
}

/// Nothing that a source can send makes it fall over, all it emits is declared and complete, and what operators read
/// names nobody.
#[test]
fn spoilt_callbacks() {
    let mut ran = 0;
    for (name, payload) in payloads(true) {
        for callback in spoilt(&payload) {
            let shown = callback.to_string();
            let receipt = match inbound::normalise(callback, 1_767_225_600_000, "3C01") {
                Ok(receipt) => receipt,
                Err(Failure::Rejected(detail)) => {
                    let codes = ["payload-invalid", "instance-unknown", "phone-missing", "phone-invalid"];
                    assert!(codes.contains(&detail.code.as_str()), "{name}: {detail:?} for {shown}");
                    assert!(!detail.message.contains("Ana") && !detail.message.contains("98765"), "{name}: {detail:?}");
                    continue;
                }
                Err(failure) => panic!("{name}: {failure:?} for {shown}"),
            };
            assert!(receipt.emitted.len() == 1 || receipt.note.is_some(), "{name}: silent about {shown}");
            assert!(
                !receipt.note.as_ref().is_some_and(|note| note.contains("Ana") || note.contains("98765")),
                "{name}"
            );
            for emitted in &receipt.emitted {
                let payload: Json = std::str::from_utf8(&emitted.payload).unwrap().parse().unwrap();
                let text = |key: &str| payload[key].as_str().is_some_and(|text| !text.is_empty());
                match emitted.event_type.as_str() {
                    "whatsapp.inbound" => {
                        assert!(["phone", "body", "type", "channel", "received_at"].into_iter().all(text), "{shown}");
                        assert_eq!(payload["received_at"].as_str().map(str::len), Some(20), "{shown}");
                        assert!(
                            payload["phone"].as_str().unwrap().bytes().all(|byte| byte.is_ascii_digit()),
                            "{shown}"
                        );
                    }
                    "whatsapp.status" => assert!(text("type") && text("status") && text("instanceId"), "{shown}"),
                    "feedback.received" => {
                        assert!(text("phone") && (1..=5).contains(&payload["rating"].as_u64().unwrap()), "{shown}");
                    }
                    other => panic!("{name}: {other} is not declared"),
                }
            }
            ran += 1;
        }
    }
    assert!(ran > 1000, "only {ran} ran");
}

#[test]
fn spoilt_messages() {
    let mut ran = 0;
    for (name, payload) in payloads(false) {
        for message in spoilt(&payload) {
            let shown = message.to_string();
            match Message::read(message, &Texts::default()) {
                Ok(Message { method, body }) => {
                    assert!(
                        method.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-/".contains(&byte)),
                        "{shown}"
                    );
                    assert!(body["phone"].as_str().is_some_and(|phone| phone.len() >= 8), "{shown}");
                    let content = body["message"].as_str().or(body["image"].as_str()).or(body["document"].as_str());
                    assert!(content.is_some_and(|content| !content.trim().is_empty()), "{shown}");
                }
                Err(Failure::Rejected(detail)) => {
                    let codes = ["template-unknown", "message-invalid", "phone-missing", "phone-invalid"];
                    assert!(codes.contains(&detail.code.as_str()), "{name}: {detail:?} for {shown}");
                    assert!(!detail.message.contains("Ana") && !detail.message.contains("98765"), "{name}: {detail:?}");
                }
                Err(failure) => panic!("{name}: {failure:?} for {shown}"),
            }
            ran += 1;
        }
    }
    assert!(ran > 500, "only {ran} ran");
}

/// Bytes that are no JSON, or more of it than a parser goes into.
#[test]
fn garbage() {
    let deep = "[".repeat(9_000);
    let many = format!("[{}0]", "{\"a\":0},".repeat(100_000));
    let mut bytes: Vec<Vec<u8>> = ["", " ", "{", "Ana", "{\"phone\": 1e999}", "{\"a\":1}}", "\u{feff}{}", &deep, &many]
        .into_iter()
        .map(|text| text.as_bytes().to_vec())
        .collect();
    bytes.extend([vec![0xff, 0xfe], b"{\"type\": \"\xff\"}".to_vec(), b"{\"type\": \"\\ud800\"}".to_vec()]);
    for event_type in ["whatsapp.raw", "message"] {
        for bytes in &bytes {
            let mut event = event(event_type, json!(null));
            event.payload = Raw(bytes.clone());
            let run = Host::new().settings(json!({"instance_id": "3C01"})).run(handle, event);
            let Failure::Rejected(detail) = run.failure() else { panic!("{run:?}") };
            assert_eq!(detail.code, "payload-invalid");
            assert!(!detail.message.contains("Ana"), "{}", detail.message);
        }
    }
}

/// A payload that is too large for the hub would be the end of the message. The worst are characters that JSON writes
/// as six.
#[test]
fn texts_of_any_length_are_cut_to_fit() {
    for filling in ["a", "é", "\u{1}", "💛", "\""] {
        let long = filling.repeat(1_000_000 / filling.len());
        let mut kinds = Vec::new();
        for (name, mut payload) in payloads(true) {
            // Whatever is not asked for by value.
            for path in paths(&payload) {
                let asked = ["/type", "/instanceId", "/phone", "/status", "/participantPhone"].contains(&path.as_str());
                if let (false, Some(value @ Json::String(_))) = (asked, payload.pointer_mut(&path)) {
                    *value = long.clone().into();
                }
            }
            let Ok(receipt) = inbound::normalise(payload, 0, "3C01") else { continue };
            for emitted in receipt.emitted {
                assert!(emitted.payload.len() < 1024 * 1024, "{name}: {} bytes", emitted.payload.len());
                let payload: Json = String::from_utf8(emitted.payload).unwrap().parse().unwrap();
                if let Some(body) = payload["body"].as_str() {
                    assert!(body.len() <= 64 * 1024 + '…'.len_utf8(), "{name}: {} bytes", body.len());
                    // Or it is a word that stands for what has no text.
                    assert!(body.ends_with(['…', ']']), "{name}");
                }
                kinds.push(payload["type"].as_str().unwrap_or_default().to_owned());
            }
        }
        for kind in ["text", "button", "list", "image", "video", "document", "location", "contact", "reaction"] {
            assert!(kinds.iter().any(|known| known == kind), "{kind} was not tried");
        }
    }
}

/// As the hub's limit has it, however many messages one state is about.
#[test]
fn states_of_many_messages_are_cut_to_fit() {
    let ids: Vec<String> = (0..5000).map(|n| format!("{n:0>100}\u{1}")).collect();
    let callback = json!({
        "type": "MessageStatusCallback", "status": "READ", "instanceId": "3C01", "ids": ids, "phone": "5511987654321",
    });
    let receipt = inbound::normalise(callback, 0, "3C01").unwrap();
    assert_eq!(receipt.note.as_deref(), Some("4000 of 5000 ids are left out: no text, or too many"));
    let payload: Json = std::str::from_utf8(&receipt.emitted[0].payload).unwrap().parse().unwrap();
    assert_eq!(payload["ids"].as_array().map(Vec::len), Some(1000));
    assert_eq!(payload["ids"][999], ids[999]);
}
