//! Delivers an event to any HTTPS URL: the payload as it is, signed by Standard Webhooks and, for targets that already
//! know the hub, by the legacy header.
//!
//! Signatures are sent when their secret is bound: `signing` (`whsec_…`, v1) and `signing_ed25519` (`whsk_…`, v1a) for
//! `webhook-signature`, `legacy_signing` for `X-Webhook-Signature`. While `signing` is changed, `signing_previous` signs
//! beside it, so that the receiver may change over when it likes.
//!
//! When something has to follow on a plain delivery, `announce` names the event's type: once the target has taken the
//! event, `event.delivered` says so.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};
use tomada_sdk::prelude::*;
use tomada_sdk::time::rfc3339;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    url: String,
    #[serde(default = "post")]
    method: Method,
    /// Sent besides ours.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The header that carries the secret `auth`.
    auth: Option<Auth>,
    #[serde(default = "integracoes")]
    source_system: String,
    /// Adds `_meta {event_id, event_type, source_system, timestamp}` to a payload that is a JSON object.
    #[serde(default)]
    meta: bool,
    /// The types of the events whose delivery is an event of its own, `event.delivered`.
    #[serde(default)]
    announce: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Auth {
    ApiKey,
    InternalToken,
    Bearer,
}

#[derive(Serialize)]
struct Delivered<'a> {
    event_id: &'a str,
    event_type: &'a str,
    /// What was delivered, without `_meta`.
    payload: Box<RawValue>,
}

fn post() -> Method {
    Method::Post
}
fn integracoes() -> String {
    "integracoes".to_owned()
}

#[connector(
    name = "webhook",
    hosts = ["settings.url"],
    secrets = ["auth", "signing", "signing_previous", "signing_ed25519", "legacy_signing"],
    emits = ["event.delivered"],
    description = "Delivers events to any HTTPS URL, signed."
)]
fn handle(cx: &Context<Settings>, event: Event<Raw>) -> Result<Receipt, Failure> {
    let settings = &cx.settings;
    let now_ms = cx.now_ms();
    let timestamp = (now_ms / 1000).to_string();
    // Before anything is sent: what was delivered cannot be taken back.
    let announced = settings.announce.contains(&event.event_type).then(|| announced(&event)).transpose()?;
    let meta = settings.meta.then(|| with_meta(&event, &settings.source_system)).flatten();

    let mut request = cx
        .request(settings.method, &settings.url)
        // The same for all attempts and replays of this delivery.
        .header("webhook-id", &event.delivery_id)
        .header("webhook-timestamp", &timestamp)
        .header("Idempotency-Key", &event.delivery_id)
        .header("X-Source-System", &settings.source_system)
        .header("X-Event-Type", &event.event_type)
        .header("X-Event-ID", &event.id)
        .header("X-Timestamp", rfc3339(now_ms));
    if !settings.headers.keys().any(|name| name.eq_ignore_ascii_case("content-type")) {
        let content_type = if meta.is_some() { "application/json" } else { &event.content_type };
        request = request.header("Content-Type", content_type);
    }
    for (name, value) in &settings.headers {
        request = request.header(name, value);
    }
    request = match settings.auth {
        None => request,
        Some(Auth::ApiKey) => request.header("X-API-Key", cx.secret("auth")?),
        Some(Auth::InternalToken) => request.header("X-Internal-Token", cx.secret("auth")?),
        Some(Auth::Bearer) => request.bearer(cx.secret("auth")?),
    };

    let body = meta.unwrap_or_else(|| event.payload.0.clone());
    let signed = [event.delivery_id.as_bytes(), b".", timestamp.as_bytes(), b".", &body].concat();
    let signatures = signatures(cx, &signed)?;
    if !signatures.is_empty() {
        request = request.header("webhook-signature", signatures.join(" "));
    }
    if cx.has_secret("legacy_signing") {
        request = request.header("X-Webhook-Signature", cx.hmac_sha256("legacy_signing", &body)?.hex());
    }
    let receipt = Receipt::from(request.body(body).send()?.ok()?);
    match announced {
        Some(payload) => {
            let delivered = Delivered { event_id: &event.id, event_type: &event.event_type, payload };
            receipt.emit("event.delivered", &delivered)
        }
        None => Ok(receipt),
    }
}

/// One for each secret that is bound. One that is bound and cannot sign fails the delivery: it is not sent unsigned.
fn signatures(cx: &Context<Settings>, signed: &[u8]) -> Result<Vec<String>, Failure> {
    let mut signatures = Vec::new();
    for secret in ["signing", "signing_previous"] {
        if cx.has_secret(secret) {
            signatures.push(format!("v1,{}", cx.hmac_sha256(secret, signed)?.base64()));
        }
    }
    if cx.has_secret("signing_ed25519") {
        signatures.push(format!("v1a,{}", cx.sign_ed25519("signing_ed25519", signed)?.base64()));
    }
    Ok(signatures)
}

/// The payload as part of an event, which is JSON.
fn announced(event: &Event<Raw>) -> Result<Box<RawValue>, Failure> {
    serde_json::from_slice(&event.payload).map_err(|_| {
        Failure::rejected(
            "announce-no-json",
            format!(
                "a payload of {} is no JSON and cannot be announced: leave the type out of `announce`",
                event.event_type
            ),
        )
    })
}

/// The payload with `_meta`, when it is a JSON object. The other values stay byte for byte what they were.
fn with_meta(event: &Event<Raw>, source_system: &str) -> Option<Vec<u8>> {
    let mut object: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(&event.payload).ok()?;
    let meta = json!({
        "event_id": event.id,
        "event_type": event.event_type,
        "source_system": source_system,
        // When the event happened, so that a retry sends the same bytes.
        "timestamp": rfc3339(event.created_ms),
    });
    object.insert("_meta".to_owned(), to_raw_value(&meta).ok()?);
    serde_json::to_vec(&object).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, Run, event};

    const URL: &str = "https://partner.test/hooks?tenant=1";

    fn deliver(settings: Json, payload: &str, prepare: impl Fn(Host) -> Host) -> Run {
        let mut event = event("lead.created", json!(null));
        event.payload = Raw(payload.as_bytes().to_vec());
        let host = prepare(Host::new().settings(settings).now_ms(1_614_265_330_999));
        host.answer(Method::Post, URL, 202, json!(null)).run(handle, event)
    }

    #[test]
    fn the_payload_arrives_as_it_was() {
        let run = deliver(json!({"url": URL}), " {\"n\": 1.50}\n", |host| host);
        assert_eq!(run.receipt().http_status, Some(202));
        let request = &run.requests[0];
        assert_eq!(request.body, b" {\"n\": 1.50}\n");
        for (name, value) in [
            ("Content-Type", "application/json"),
            ("webhook-id", "dlv_0000000000001"),
            ("webhook-timestamp", "1614265330"),
            ("Idempotency-Key", "dlv_0000000000001"),
            ("X-Source-System", "integracoes"),
            ("X-Event-Type", "lead.created"),
            ("X-Event-ID", "evt_0000000000001"),
            ("X-Timestamp", "2021-02-25T15:02:10Z"),
        ] {
            assert_eq!(request.header(name), Some(value), "{name}");
        }
        for name in ["webhook-signature", "X-Webhook-Signature", "X-API-Key", "Authorization"] {
            assert_eq!(request.header(name), None, "{name}");
        }
    }

    /// The vectors that the Standard Webhooks libraries and Svix publish, and one of another secret.
    #[test]
    fn the_signatures_are_those_of_standard_webhooks() {
        let v1 = ("signing", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let previous = ("signing_previous", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX");
        let v1a = (
            "signing_ed25519",
            "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
        );
        let by_v1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let by_previous = "v1,/485aUtxlie+TIScVpHggMfqOB4so2KWb7+Gf727B44=";
        let by_v1a = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
        for (secrets, expected) in [
            (vec![v1], by_v1.to_owned()),
            (vec![v1a], by_v1a.to_owned()),
            (vec![v1, previous], format!("{by_v1} {by_previous}")),
            (vec![v1a, previous, v1], format!("{by_v1} {by_previous} {by_v1a}")),
        ] {
            let mut event = event("test", json!(null));
            event.delivery_id = "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned();
            event.payload = Raw(br#"{"test": 2432232314}"#.to_vec());
            let host = secrets.iter().fold(Host::new(), |host, (name, value)| host.secret_key(name, value));
            let run = host
                .settings(json!({"url": URL}))
                .now_ms(1_614_265_330_000)
                .answer(Method::Post, URL, 200, json!(null))
                .run(handle, event);
            assert_eq!(run.requests[0].header("webhook-signature"), Some(&*expected));
        }
    }

    #[test]
    fn what_cannot_be_signed_is_not_sent_unsigned() {
        let run = Host::new()
            .settings(json!({"url": URL}))
            .secret_key("signing_ed25519", "too short")
            .run(handle, event("lead.created", json!({})));
        assert!(matches!(run.failure(), Failure::Misconfigured(_)), "{run:?}");
        assert!(run.requests.is_empty());
    }

    /// GitHub's published vector is the same construction under another header.
    #[test]
    fn the_legacy_signature_is_of_the_body_alone() {
        let run = deliver(json!({"url": URL}), "Hello, World!", |host| {
            host.secret_key("legacy_signing", "It's a Secret to Everybody")
        });
        let signature = run.requests[0].header("X-Webhook-Signature");
        assert_eq!(signature, Some("757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"));
    }

    #[test]
    fn each_profile_has_its_header() {
        for (profile, header, value) in [
            ("api_key", "X-API-Key", "{auth}"),
            ("internal_token", "X-Internal-Token", "{auth}"),
            ("bearer", "Authorization", "Bearer {auth}"),
        ] {
            let run = deliver(json!({"url": URL, "auth": profile}), "{}", |host| host.secret("auth"));
            assert_eq!(run.requests[0].header(header), Some(value));
        }
        let run =
            Host::new().settings(json!({"url": URL, "auth": "bearer"})).run(handle, event("lead.created", json!({})));
        assert!(matches!(run.failure(), Failure::Misconfigured(detail) if detail.code == "secret-missing"));
    }

    #[test]
    fn meta_is_added_to_objects_only() {
        let settings = json!({"url": URL, "meta": true, "headers": {"content-type": "application/vnd.x+json"}});
        let run = deliver(settings.clone(), r#"{"id": 12345678901234567890.10, "_meta": 1}"#, |host| host);
        let body = String::from_utf8_lossy(&run.requests[0].body);
        assert_eq!(
            body,
            r#"{"_meta":{"event_id":"evt_0000000000001","event_type":"lead.created","source_system":"integracoes","timestamp":"2026-01-01T00:00:00Z"},"id":12345678901234567890.10}"#
        );
        assert_eq!(run.requests[0].header("Content-Type"), Some("application/vnd.x+json"));

        assert_eq!(deliver(settings, "[1]", |host| host).requests[0].body, b"[1]");
    }

    #[test]
    fn a_delivery_is_announced_when_it_happened() {
        let settings = json!({"url": URL, "meta": true, "announce": ["payout.processed", "lead.created"]});
        for (payload, expected) in [
            (r#"{"id": 12, "value": 1.50, "_meta": 1}"#, r#"{"id": 12, "value": 1.50, "_meta": 1}"#),
            (" [1, \"é\"]\n", "[1, \"é\"]"),
            ("null", "null"),
        ] {
            let run = deliver(settings.clone(), payload, |host| host);
            let [announced] = &run.receipt().emitted[..] else { panic!("{run:?}") };
            assert_eq!((announced.event_type.as_str(), &announced.idempotency_key), ("event.delivered", &None));
            assert_eq!(
                String::from_utf8_lossy(&announced.payload),
                format!(r#"{{"event_id":"evt_0000000000001","event_type":"lead.created","payload":{expected}}}"#)
            );
            assert_eq!(run.receipt().http_status, Some(202));
        }

        let run = Host::new()
            .settings(settings.clone())
            .answer(Method::Post, URL, 500, json!(null))
            .run(handle, event("lead.created", json!({})));
        assert!(matches!(run.failure(), Failure::Transient(detail) if detail.code == "http-500"));

        // Nothing is sent that could not be announced.
        let mut text = event("lead.created", json!(null));
        text.payload = Raw(b"Ana".to_vec());
        let run = Host::new().settings(settings).run(handle, text);
        assert!(matches!(run.failure(), Failure::Rejected(detail) if detail.code == "announce-no-json"));
        assert!(run.requests.is_empty());
    }

    #[test]
    fn other_deliveries_are_not_announced() {
        for settings in [json!({"url": URL}), json!({"url": URL, "announce": ["caregiver.updated"]})] {
            assert!(deliver(settings, "{}", |host| host).emitted().is_empty());
        }
    }

    #[test]
    fn settings_are_checked() {
        let run =
            Host::new().settings(json!({"url": URL, "metod": "PUT"})).run(handle, event("lead.created", json!({})));
        assert!(matches!(run.failure(), Failure::Misconfigured(detail) if detail.code == "settings-invalid"));
    }
}
