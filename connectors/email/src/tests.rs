use std::{fs, path::Path};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tomada_sdk::mail::{Error, Refusal};
use tomada_sdk::test::{Host, Run, SentMail, event};

use super::*;

const KEY: &str = "a key that only the hub has";
/// 2026-01-01T00:00:00Z, where the clock of the test host stands, in seconds.
const NOW_S: u64 = 1_767_225_600;

/// `cases/NAME.json`: what becomes of `message`, an e-mail or a failure. In the texts `{token}` stands for the token
/// with `claims`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    message: Json,
    #[serde(default)]
    texts: Json,
    claims: Option<String>,
    mail: Option<Expected>,
    failure: Option<Refused>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    to: String,
    subject: String,
    /// Lines.
    text: Vec<String>,
    /// Null: there is none. Else what stands in it, in this order, and nothing of `html_lacks`.
    html: Option<Vec<String>>,
    #[serde(default)]
    html_lacks: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    kind: String,
    code: String,
    says: String,
}

fn run(message: Json, texts: Json, prepare: impl Fn(Host) -> Host) -> Run {
    let mut settings = json!({"hub_url": "https://hub.test/"});
    if !texts.is_null() {
        settings["texts"] = texts;
    }
    let host = Host::new().settings(settings).secret_key("feedback_link", KEY);
    prepare(host).run(handle, event("message", message))
}

/// As the contract has it, and not with the connector's functions.
fn token(claims: &str) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let claims = encode(claims.as_bytes());
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
    mac.update(claims.as_bytes());
    format!("{claims}.{}", encode(&mac.finalize().into_bytes()))
}

#[test]
fn cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut ran = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        let case: Case = serde_json::from_slice(&fs::read(&path).unwrap())
            .unwrap_or_else(|error| panic!("{name} is no case: {error}"));
        let token = case.claims.as_deref().map(token).unwrap_or_default();
        let run = run(case.message, case.texts, Host::mailbox);
        match (case.mail, case.failure) {
            (Some(expected), None) => {
                run.receipt();
                let [sent] = run.mails.as_slice() else { panic!("{name}: {:?}", run.mails) };
                check(&name, sent, &expected, &token);
            }
            (None, Some(expected)) => {
                assert_eq!(run.mails, [], "{name}");
                let failure = run.failure();
                assert!(format!("{failure:?}").starts_with(&format!("Failure::{}(", expected.kind)), "{name}");
                assert_eq!(failure.detail().code, expected.code, "{name}");
                assert!(failure.detail().message.contains(&expected.says), "{name}: {}", failure.detail().message);
            }
            _ => panic!("{name} expects an e-mail or a failure"),
        }
        ran += 1;
    }
    assert!(ran >= 10, "only {ran} cases");
}

fn check(name: &str, sent: &SentMail, expected: &Expected, token: &str) {
    let filled = |text: &str| text.replace("{token}", token);
    assert_eq!(sent.to, std::slice::from_ref(&expected.to), "{name}");
    assert_eq!(sent.subject, expected.subject, "{name}");
    assert_eq!(sent.text, filled(&expected.text.join("\n")), "{name}");
    assert_eq!(sent.reply_to, None, "{name}");
    assert_eq!(sent.html.is_some(), expected.html.is_some(), "{name}");
    let html = sent.html.as_deref().unwrap_or_default();
    let mut rest = html;
    for piece in expected.html.iter().flatten() {
        let piece = filled(piece);
        let at = rest.find(&piece).unwrap_or_else(|| panic!("{name}: {piece} is missing or misplaced in {html}"));
        rest = &rest[at + piece.len()..];
    }
    for piece in &expected.html_lacks {
        assert!(!html.contains(piece), "{name}: {piece} is in {html}");
    }
}

#[test]
fn a_link_is_good_for_seven_days_from_now() {
    let message = json!({"template": "feedback_request", "to": "ana@example.com", "service_id": 7, "client_id": "c-1"});
    let later = run(message, Json::Null, |host| host.mailbox().now_ms(NOW_S * 1000 + 5_999));
    let exp = NOW_S + 5 + 7 * 86_400;
    let token = token(&format!(r#"{{"service_id":7,"client_id":"c-1","caregiver_id":null,"exp":{exp}}}"#));
    let text = &later.mails[0].text;
    assert!(text.contains(&format!("https://hub.test/feedback/{token}?rating=1\n")), "{text}");
    assert_eq!(text.matches(&token).count(), 6);
}

#[test]
fn an_endpoint_without_the_secret_or_the_server_is_the_operators() {
    let message = json!({"template": "feedback_request", "to": "ana@example.com"});
    let host = Host::new().settings(json!({"hub_url": "https://hub.test"})).mailbox();
    let without = host.run(handle, event("message", message.clone()));
    assert!(matches!(without.failure(), Failure::Misconfigured(detail) if detail.code == "secret-missing"));
    let without = run(message, Json::Null, |host| host);
    assert!(matches!(without.failure(), Failure::Misconfigured(detail) if detail.code == "mail-denied"));
    let host = Host::new().settings(json!({"texts": {"signup_welcom": {}}}));
    let without = host.run(handle, event("message", json!({})));
    assert!(matches!(without.failure(), Failure::Misconfigured(detail) if detail.code == "settings-invalid"));
}

#[test]
fn nobody_is_written_to_twice() {
    let message = json!({"template": "signup_welcome", "to": "ana@example.com", "nome": "Ana"});
    let send = |error: Error| run(message.clone(), Json::Null, move |host| host.no_mail(error.clone()));
    let lost = send(Error::Interrupted("smtp.test:587: no answer".to_owned()));
    assert!(matches!(lost.failure(), Failure::Rejected(detail) if detail.code == "outcome-unknown"));
    assert_eq!(lost.mails.len(), 1);
    let later = send(Error::Refused(Refusal { code: 451, permanent: false, message: String::new() }));
    assert!(matches!(later.failure(), Failure::Transient(detail) if detail.code == "smtp-451"));
}

/// WCAG 2.2, 1.4.3: white on each button's colour.
#[test]
fn buttons_can_be_read() {
    for (rating, _, colour) in RATINGS {
        let channel = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        let luminance = 0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5);
        let contrast = 1.05 / (luminance + 0.05);
        assert!(contrast >= 4.5, "{rating}: {contrast}");
    }
}
