//! E-mail, from a partner's webhook to a mail server: the message as a reader sees it, and what becomes of one that the
//! server does not take.

use mail_parser::{Address, MessageParser, MimeHeaders as _};
use mailin::AuthMechanism;
use serde_json::{Value, json};

use crate::harness::partner::{self, Partner};
use crate::harness::smtp::{SmtpServer, Terms};
use crate::harness::{TestHub, attempts};

const PATH: &str = "/webhooks/partner/mail";

/// A partner whose webhooks are messages for the e-mail connector; `more` keys of the endpoint's smtp.
fn config(port: u16, more: &str) -> String {
    let (source, secret) = (partner::source(PATH, "mail.wanted"), partner::secret_file());
    format!(
        r#"
        {source}
        [endpoints.email]
        connector = "email"
        settings = {{ hub_url = "https://hub.test" }}
        allow_private = ["127.0.0.1/32:{port}"]
        secrets = {{ feedback_link = "{secret}" }}
        retry = {{ attempts = 2, delays_s = [1], jitter = 0 }}
        smtp = {{ server = "127.0.0.1:{port}", tls = "none", from = "Carinho <nao-responda@carinho.com.vc>"{more} }}
        [[routes]]
        event = "mail.wanted"
        endpoint = "email"
        "#
    )
}

fn mailboxes(address: Option<&Address<'_>>) -> Vec<(Option<String>, String)> {
    let list = address.expect("the header is there").clone().into_list();
    list.into_iter().map(|one| (one.name.map(Into::into), one.address.expect("an address").into_owned())).collect()
}

fn request() -> Value {
    json!({
        "template": "feedback_request", "to": "ana@example.com", "nome": "Ana <b>Conceição</b> 🤗\r\nBcc: eva@example.com",
        "cuidador": "José", "service_id": 501, "client_id": 77, "caregiver_id": 12,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_becomes_the_message_that_was_meant() {
    let account = Some((AuthMechanism::Plain, "carinho", partner::SECRET));
    let server = SmtpServer::start(Terms { account, ..Terms::default() }).await;
    let username = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(username.path(), "carinho\n").expect("it is written");
    let more = format!(r#", username = "file:{}", password = "{}""#, username.path().display(), partner::secret_file());
    let hub = TestHub::start(&config(server.port, &more)).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    let (id, _) = partner.send(&request()).await;
    let event = hub.event_with(&id, "delivered").await;
    assert_eq!(attempts(&event).len(), 1);

    let [letter] = &server.letters()[..] else { panic!("one message: {:?}", server.letters()) };
    assert_eq!(letter.from, "nao-responda@carinho.com.vc");
    assert_eq!(letter.to, ["ana@example.com"]);
    assert_eq!(letter.user.as_deref(), Some("carinho"));

    let message = MessageParser::default().parse(&letter.data).expect("a message");
    assert_eq!(mailboxes(message.from()), [(Some("Carinho".into()), "nao-responda@carinho.com.vc".into())]);
    assert_eq!(mailboxes(message.to()), [(None, "ana@example.com".into())]);
    assert!(message.cc().is_none() && message.bcc().is_none() && message.reply_to().is_none());
    let name = "Ana <b>Conceição</b> 🤗 Bcc: eva@example.com";
    assert_eq!(message.subject(), Some(format!("Como foi o atendimento, {name}?").as_str()));
    let delivery = event["deliveries"][0]["id"].as_str().expect("an id");
    assert_eq!(message.message_id(), Some(format!("{delivery}.1@carinho.com.vc").as_str()));
    assert_eq!(message.date().expect("a date").to_rfc3339(), "2026-01-01T00:00:00Z");
    assert_eq!(message.header("Auto-Submitted").and_then(|value| value.as_text()), Some("auto-generated"));
    assert_eq!(message.content_type().and_then(|kind| kind.subtype()), Some("alternative"));
    assert_eq!((message.text_body_count(), message.html_body_count(), message.attachment_count()), (1, 1, 0));

    let text = message.body_text(0).expect("a text");
    assert!(text.starts_with(&format!("Olá, {name}!\r\n")), "{text}");
    assert!(text.contains("O atendimento com José terminou há pouco"), "{text}");
    for rating in 1..=5 {
        assert_eq!(text.matches(&format!("?rating={rating}\r\n")).count(), 1, "{text}");
    }
    let html = message.body_html(0).expect("HTML");
    assert!(html.contains("Olá, Ana &lt;b&gt;Conceição&lt;/b&gt; 🤗 Bcc: eva@example.com!</p>"), "{html}");
    assert!(html.contains("<b>5</b> Ótimo</a>"), "{html}");
    // One token, in the text and in the HTML, and signed with the endpoint's secret.
    let tokens: Vec<&str> = [&*text, &*html]
        .iter()
        .flat_map(|body| body.split("https://hub.test/feedback/").skip(1))
        .map(|rest| &rest[..rest.find(['?', '"', '\r', '\n']).expect("it ends")])
        .collect();
    assert_eq!(tokens.len(), 12);
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    let (claims, signature) = tokens[0].split_once('.').expect("two parts");
    assert_eq!(hex::encode(unbase64url(signature)), partner::signature(claims));
    let claims: Value = serde_json::from_slice(&unbase64url(claims)).expect("JSON");
    let exp = (crate::harness::START_MS / 1000) + 7 * 86_400;
    assert_eq!(claims, json!({"service_id": 501, "client_id": 77, "caregiver_id": 12, "exp": exp}));
    hub.finish(&[]).await;
}

/// Its own few lines: whatever encoded it should not decode it.
fn unbase64url(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bits = 0u32;
    let (mut held, mut bytes) = (0, Vec::new());
    for digit in text.bytes() {
        bits = bits << 6 | DIGITS.iter().position(|known| *known == digit).expect("base64url") as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_refused_for_now_is_sent_again_and_one_that_is_refused_is_a_dead_letter() {
    let server = SmtpServer::start(Terms::default()).await;
    let hub = TestHub::start(&config(server.port, "")).await;
    let mut partner = Partner::of(&hub.url, PATH).await;

    server.refuses("RCPT", 451, "4.7.1 <ana@example.com> is greylisted");
    let (id, _) = partner.send(&request()).await;
    let event = hub
        .event_when(&id, |event| {
            hub.clock.advance(std::time::Duration::from_millis(100));
            event["deliveries"][0]["status"] == "delivered"
        })
        .await;
    let tries = attempts(&event);
    assert_eq!((&tries[0]["outcome"], &tries[0]["code"]), (&json!("transient"), &json!("smtp-451")));
    assert_eq!(tries[1]["outcome"], "delivered");
    // The two attempts' message would have been one: its id is the delivery's.
    let [letter] = &server.letters()[..] else { panic!("one message: {:?}", server.letters()) };
    let message = MessageParser::default().parse(&letter.data).expect("a message");
    let delivery = event["deliveries"][0]["id"].as_str().expect("an id");
    assert_eq!(message.message_id(), Some(format!("{delivery}.1@carinho.com.vc").as_str()));

    server.refuses("RCPT", 550, "5.1.1 <ana@example.com> is unknown");
    let mut other = request();
    other["nome"] = "Eva".into();
    let (id, _) = partner.send(&other).await;
    let event = hub.event_with(&id, "dead").await;
    let only = &attempts(&event)[0];
    assert_eq!((&only["outcome"], &only["code"]), (&json!("rejected"), &json!("smtp-550")));
    assert_eq!(only["message"], format!("127.0.0.1:{} answered 550 5.1.1 to RCPT", server.port));
    assert!(!event["deliveries"].to_string().contains("ana@"), "{event:#}");
    hub.finish(&[("email", "dead", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_sends_twenty_messages_and_no_more() {
    let server = SmtpServer::start(Terms::default()).await;
    let port = server.port;
    let source = partner::source(PATH, "mail.wanted");
    let hub = TestHub::start(&format!(
        r#"
        {source}
        [endpoints.email]
        connector = "hostile"
        settings = {{ mode = "writes" }}
        allow_private = ["127.0.0.1/32:{port}"]
        smtp = {{ server = "127.0.0.1:{port}", tls = "none", from = "nao-responda@carinho.com.vc" }}
        [[routes]]
        event = "mail.wanted"
        endpoint = "email"
        "#
    ))
    .await;
    let (id, _) = Partner::of(&hub.url, PATH).await.send(&request()).await;
    let event = hub.event_with(&id, "dead").await;
    let only = &attempts(&event)[0];
    assert_eq!((&only["outcome"], &only["code"]), (&json!("rejected"), &json!("mail-invalid")));
    assert!(only["message"].as_str().expect("a message").contains("at most 20"), "{only:#}");
    let delivery = event["deliveries"][0]["id"].as_str().expect("an id");
    let letters = server.letters();
    assert_eq!(letters.len(), 20);
    for (letter, number) in letters.iter().zip(1..) {
        let message = MessageParser::default().parse(&letter.data).expect("a message");
        assert_eq!(message.message_id(), Some(format!("{delivery}.{number}@carinho.com.vc").as_str()));
    }
    hub.finish(&[("email", "dead", 1)]).await;
}
