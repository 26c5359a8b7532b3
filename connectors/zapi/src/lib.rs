//! WhatsApp through Z-API (developer.z-api.io): its callbacks become events, and messages reach people.
//!
//! An event `whatsapp.raw` is a callback as Z-API sent it, see [`inbound`]. The payload of any other event is a message,
//! see [`message`].

#[cfg(test)]
mod cases;
mod inbound;
mod message;
mod payload;
mod phone;
mod text;

use message::Message;
use payload::Payload;
use text::Texts;
use tomada_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default = "z_api")]
    base_url: String,
    /// The instance that sends, and the only one whose callbacks are believed.
    instance_id: String,
    #[serde(default)]
    texts: Texts,
}

fn z_api() -> String {
    "https://api.z-api.io".to_owned()
}

#[connector(
    name = "zapi",
    hosts = ["api.z-api.io", "settings.base_url"],
    secrets = ["instance_token", "client_token"],
    emits = ["whatsapp.inbound", "whatsapp.status", "feedback.received"],
)]
fn handle(cx: &Context<Settings>, event: Event<Payload>) -> Result<Receipt, Failure> {
    let Payload(payload) = event.payload;
    if event.event_type == "whatsapp.raw" {
        return inbound::normalise(payload, event.created_ms, &cx.settings.instance_id);
    }
    send(cx, &Message::read(payload, &cx.settings.texts)?)
}

fn send(cx: &Context<Settings>, message: &Message) -> Result<Receipt, Failure> {
    let Settings { base_url, instance_id, .. } = &cx.settings;
    let base_url = base_url.trim_end_matches('/');
    let instance_token = cx.secret("instance_token")?;
    let answer = cx
        .post(format!("{base_url}/instances/{instance_id}/token/{instance_token}/{}", message.method))
        .header("Client-Token", cx.secret("client_token")?)
        .json(&message.body)
        .send()
        .and_then(Response::ok)
        .map_err(never_twice)?;
    if holds_error(answer.body()) {
        // What the error says may repeat the phone.
        return Err(Failure::Rejected(Detail {
            code: "zapi-error".to_owned(),
            message: format!(
                "Z-API answered {} to {} and put an `error` into its body: nothing was sent; see the instance in its panel",
                answer.status(),
                message.method
            ),
            http_status: Some(answer.status()),
        }));
    }
    Ok(answer.into())
}

/// Z-API has no idempotency key. When it took the request and said nothing, or its proxy speaks for it, the message may
/// be on its way, and a second one is worse than asking an operator.
fn never_twice(failure: Failure) -> Failure {
    match failure {
        Failure::Transient(Detail { code, message, http_status })
            if matches!(code.as_str(), "timeout" | "interrupted" | "http-502" | "http-504") =>
        {
            Failure::Rejected(Detail {
                code: "outcome-unknown".to_owned(),
                message: format!("{message}: the message may have been sent; replay it if it was not"),
                http_status,
            })
        }
        other => other,
    }
}

/// Whether a good answer says that it is none. The ids in it are not needed, so any other body will do.
fn holds_error(body: &[u8]) -> bool {
    let answer = std::str::from_utf8(body).ok().and_then(|body| body.parse::<Json>().ok());
    match answer.as_ref().and_then(|answer| answer.get("error")) {
        None | Some(Json::Null | Json::Bool(false)) => false,
        Some(Json::String(error)) => !error.is_empty(),
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::http::Error;
    use tomada_sdk::test::{Host, Run, event};

    const SEND_TEXT: &str = "https://api.z-api.io/instances/3C01/token/{instance_token}/send-text";

    fn host() -> Host {
        Host::new().settings(json!({"instance_id": "3C01"})).secret("instance_token").secret("client_token")
    }

    fn run(host: Host) -> Run {
        let message = json!({"template": "lead_response", "phone": "(11) 98765-4321", "nome": "Ana"});
        host.run(handle, event("lead.created", message))
    }

    #[test]
    fn a_message_is_sent() {
        let answer = json!({"zaapId": "1", "messageId": "2", "id": "2"});
        let run = run(host().answer(Method::Post, SEND_TEXT, 200, answer));
        assert_eq!(run.receipt().http_status, Some(200));
        assert!(run.emitted().is_empty());
        let request = &run.requests[0];
        assert_eq!(request.header("Client-Token"), Some("{client_token}"));
        assert_eq!(request.header("Content-Type"), Some("application/json"));
        assert_eq!(request.json()["phone"], "5511987654321");
        assert!(request.json()["message"].as_str().is_some_and(|text| text.starts_with("Olá, Ana! ")));
    }

    #[test]
    fn the_base_url_may_end_in_a_slash() {
        let settings = json!({"instance_id": "3C01", "base_url": "http://127.0.0.1:9/"});
        let url = "http://127.0.0.1:9/instances/3C01/token/{instance_token}/send-text";
        let run = run(host().settings(settings).answer(Method::Post, url, 200, json!({})));
        assert_eq!(run.receipt().http_status, Some(200));
    }

    /// The answer never came, or came from a proxy that lost it.
    #[test]
    fn nobody_is_written_to_twice() {
        let run_1 = run(host().no_answer(Method::Post, SEND_TEXT, Error::Timeout));
        let run_2 = run(host().answer(Method::Post, SEND_TEXT, 502, json!({})));
        let run_3 = run(host().answer(Method::Post, SEND_TEXT, 504, json!({})));
        for (run, status) in [(run_1, None), (run_2, Some(502)), (run_3, Some(504))] {
            let Failure::Rejected(detail) = run.failure() else { panic!("{:?}", run.failure()) };
            assert_eq!((detail.code.as_str(), detail.http_status), ("outcome-unknown", status));
            assert!(detail.message.ends_with("the message may have been sent; replay it if it was not"));
            assert_eq!(run.requests.len(), 1);
        }
        let interrupted = never_twice(Failure::transient("interrupted", "POST a.test broke off"));
        assert!(matches!(interrupted, Failure::Rejected(detail) if detail.code == "outcome-unknown"));
    }

    /// Nothing was taken on: asking again does no harm.
    #[test]
    fn what_was_not_taken_is_tried_again() {
        let run_1 = run(host().no_answer(Method::Post, SEND_TEXT, Error::Unreachable("refused".into())));
        let run_2 = run(host().answer(Method::Post, SEND_TEXT, 503, json!({})));
        for (run, code) in [(run_1, "unreachable"), (run_2, "http-503")] {
            assert!(matches!(run.failure(), Failure::Transient(detail) if detail.code == code), "{:?}", run.failure());
        }
        let run = run(host().answer(Method::Post, SEND_TEXT, 401, json!({})));
        assert!(matches!(run.failure(), Failure::Unauthorized(detail) if detail.code == "http-401"));
    }

    #[test]
    fn a_good_status_with_an_error_is_none() {
        for error in [json!("Number 5511987654321 has no WhatsApp"), json!(true), json!({"code": 1}), json!(7)] {
            let run = run(host().answer(Method::Post, SEND_TEXT, 200, json!({"error": error})));
            let Failure::Rejected(detail) = run.failure() else { panic!("{:?}", run.failure()) };
            assert_eq!((detail.code.as_str(), detail.http_status), ("zapi-error", Some(200)));
            assert!(!detail.message.contains("5511987654321"), "{}", detail.message);
        }
    }

    #[test]
    fn a_good_answer_needs_no_ids() {
        for body in ["", "ok", "[]", "{}", "\u{fffd}", r#"{"error": null}"#, r#"{"error": ""}"#, r#"{"error": false}"#]
        {
            let run = run(host().answer_with(Method::Post, SEND_TEXT, 200, &[], body));
            assert_eq!(run.receipt().http_status, Some(200), "{body}");
        }
        let run = run(host().answer_with(Method::Post, SEND_TEXT, 201, &[], vec![0xff, 0]));
        assert_eq!(run.receipt().http_status, Some(201));
    }

    #[test]
    fn the_token_is_in_no_message() {
        let run = run(host().answer(Method::Post, SEND_TEXT, 405, json!({})));
        let message = &run.failure().detail().message;
        assert_eq!(message, "POST api.z-api.io/instances/3C01/token/{instance_token}/send-text answered 405");
    }
}
