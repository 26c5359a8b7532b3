//! What servers on loopback get from the client, and how it takes what they do.

use std::future;
use std::sync::Mutex;

use mail_parser::{MessageParser, MimeHeaders as _};
use mailin::AuthMechanism;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::config::SecretRef;
use server::{SmtpServer, Terms};

#[path = "../../../../tests/harness/smtp.rs"]
mod server;

/// 2026-01-01T00:00:00Z
const NOW_MS: u64 = 1_767_225_600_000;
const PATIENCE: Duration = Duration::from_secs(20);

fn client(roots: Vec<Certificate>) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new(Arc::new(|_| Box::pin(future::ready(Ok(vec![IpAddr::from([127, 0, 0, 1])])))), Own::default(), roots)
}

fn smtp(host: &str, port: u16, tls: SmtpTls, account: Option<(&str, &str)>) -> Smtp {
    smtp_allowing(host, port, tls, account, &["127.0.0.1/32:*"])
}

fn smtp_allowing(host: &str, port: u16, tls: SmtpTls, account: Option<(&str, &str)>, allow: &[&str]) -> Smtp {
    let reference = account.map(|_| SecretRef("env:X".into()));
    let config = config::Smtp {
        server: format!("{host}:{port}"),
        tls: Some(tls),
        from: "Carinho <nao-responda@carinho.com.vc>".into(),
        username: reference.clone(),
        password: reference,
    };
    let allow: Vec<String> = allow.iter().map(|&text| text.into()).collect();
    let account = account.map(|(username, password)| (username.into(), password.into()));
    Smtp::new(&config, &Policy::new(&[], &allow).unwrap(), account).unwrap()
}

fn message() -> Message {
    Message {
        to: vec!["ana@example.com".into()],
        subject: "Olá".into(),
        text: "Tudo bem?".into(),
        html: None,
        reply_to: None,
        id: "dlv_1.1".into(),
        now_ms: NOW_MS,
    }
}

/// A certificate for `mail.example` that nobody trusts, unless they are given it.
fn certificate() -> (Certificate, TlsAcceptor) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(vec!["mail.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    (Certificate::from_der(made.cert.der().to_vec()).unwrap(), TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn a_message_arrives_as_it_was_meant() {
    let server = SmtpServer::start(Terms::default()).await;
    let smtp = smtp("127.0.0.1", server.port, SmtpTls::None, None);
    let text = format!("Olá, João 🤗\n.\n..\nFrom x\r\n\r\n{}\n", "avaliação ".repeat(300));
    let html = "<p>Olá, <b>João</b> &amp; família 🤗</p>\n.\n<p>fim</p>";
    let subject = "Como foi o atendimento de Conceição? 🤗 ".repeat(5).trim().to_owned();
    let sent = Message {
        to: vec!["\"Souza, Ana 🤗\" <ana@example.com>".into(), "joao@bücher.example".into()],
        subject: subject.clone(),
        text: text.clone(),
        html: Some(html.into()),
        reply_to: Some("Família <oi@carinho.com.vc>".into()),
        ..message()
    };
    let id = client(vec![]).send(&smtp, sent, PATIENCE).await.unwrap();
    assert_eq!(id, "<dlv_1.1@carinho.com.vc>");

    let letters = server.letters();
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!(letter.from, "nao-responda@carinho.com.vc");
    assert_eq!(letter.to, ["ana@example.com", "joao@xn--bcher-kva.example"]);
    assert!(letter.data.is_ascii(), "an old server takes it too");
    assert!(letter.data.split(|byte| *byte == b'\n').all(|line| line.len() < 998));

    let read = MessageParser::default().parse(&letter.data).unwrap();
    let one = |address: Option<&mail_parser::Address<'_>>| -> Vec<(Option<String>, String)> {
        let address = address.unwrap().clone().into_list();
        address.into_iter().map(|a| (a.name.map(Into::into), a.address.unwrap().into_owned())).collect()
    };
    assert_eq!(one(read.from()), [(Some("Carinho".into()), "nao-responda@carinho.com.vc".into())]);
    assert_eq!(one(read.reply_to()), [(Some("Família".into()), "oi@carinho.com.vc".into())]);
    let to = [(Some("Souza, Ana 🤗".into()), "ana@example.com".into()), (None, "joao@xn--bcher-kva.example".into())];
    assert_eq!(one(read.to()), to);
    assert_eq!(read.subject(), Some(subject.as_str()));
    assert_eq!(read.message_id(), Some("dlv_1.1@carinho.com.vc"));
    assert_eq!(read.date().unwrap().to_rfc3339(), "2026-01-01T00:00:00Z");
    assert_eq!(read.header("Auto-Submitted").unwrap().as_text(), Some("auto-generated"));
    assert_eq!(read.header("MIME-Version").unwrap().as_text(), Some("1.0"));
    assert_eq!(read.content_type().unwrap().subtype(), Some("alternative"));
    assert_eq!((read.text_body_count(), read.html_body_count(), read.attachment_count()), (1, 1, 0));
    let lines = |text: &str| text.replace("\r\n", "\n").trim_end().to_owned();
    assert_eq!(lines(&read.body_text(0).unwrap()), lines(&text));
    assert_eq!(lines(&read.body_html(0).unwrap()), lines(html));

    // Without HTML it is one part.
    client(vec![]).send(&smtp, message(), PATIENCE).await.unwrap();
    let data = server.letters().pop().unwrap().data;
    let read = MessageParser::default().parse(&data).unwrap();
    assert_eq!(read.content_type().unwrap().subtype(), Some("plain"));
    assert_eq!(lines(&read.body_text(0).unwrap()), "Tudo bem?");
    assert!(read.reply_to().is_none());
}

#[tokio::test]
async fn tls_is_required_and_the_certificate_is_the_names() {
    let (root, tls) = certificate();
    let client = client(vec![root]);
    for (implicit, mode) in [(false, SmtpTls::Starttls), (true, SmtpTls::Implicit)] {
        let server = SmtpServer::start(Terms { tls: Some(tls.clone()), implicit, account: None }).await;
        client.send(&smtp("mail.example", server.port, mode, None), message(), PATIENCE).await.unwrap();
        assert!(server.letters()[0].tls);

        // Another name than the certificate's, and a certificate that nobody vouches for.
        let other = client.send(&smtp("other.example", server.port, mode, None), message(), PATIENCE).await;
        let Err(Error::Unreachable(text)) = other else { panic!("{other:?}") };
        assert!(text.starts_with("other.example:") && text.contains("certificate"), "{text}");
        let strict = Client::new(client.lookup.clone(), Own::default(), vec![]);
        let unknown = strict.send(&smtp("mail.example", server.port, mode, None), message(), PATIENCE).await;
        let Err(Error::Unreachable(text)) = unknown else { panic!("{unknown:?}") };
        assert!(text.contains("certificate"), "{text}");
        assert_eq!(server.letters().len(), 1);
    }

    // A server without it, or with the offer taken out on the way.
    let server = SmtpServer::start(Terms::default()).await;
    let plain = client.send(&smtp("mail.example", server.port, SmtpTls::Starttls, None), message(), PATIENCE).await;
    let Err(Error::Unreachable(text)) = plain else { panic!("{plain:?}") };
    assert!(text.contains("STARTTLS"), "{text}");
    let plain = client.send(&smtp("mail.example", server.port, SmtpTls::Implicit, None), message(), PATIENCE).await;
    assert!(matches!(plain, Err(Error::Unreachable(_))), "{plain:?}");
    assert_eq!(server.letters(), []);
}

#[tokio::test]
async fn credentials_are_taken_or_the_operator_is_asked() {
    let (root, tls) = certificate();
    let client = client(vec![root]);
    for mechanism in [AuthMechanism::Plain, AuthMechanism::Login] {
        let account = Some((mechanism, "carinho", "s3gredo"));
        let server = SmtpServer::start(Terms { tls: Some(tls.clone()), implicit: false, account }).await;
        let send = async |account| {
            let smtp = smtp("mail.example", server.port, SmtpTls::Starttls, account);
            client.send(&smtp, message(), PATIENCE).await
        };
        send(Some(("carinho", "s3gredo"))).await.unwrap();
        assert_eq!(server.letters()[0].user.as_deref(), Some("carinho"));

        let wrong = send(Some(("carinho", "hunter2"))).await;
        let Err(Error::Unauthorized(text)) = wrong else { panic!("{wrong:?}") };
        assert!(text.contains("(535)") && !text.contains("hunter2") && !text.contains("carinho "), "{text}");
        assert!(send(None).await.is_err());
        assert_eq!(server.letters().len(), 1);
    }
    let (port, _) = scripted(vec![HELLO, EHLO, Some("530 5.7.0 authentication required\r\n")], false).await;
    let anonymous = client.send(&smtp("127.0.0.1", port, SmtpTls::None, None), message(), PATIENCE).await;
    let Err(Error::Unauthorized(text)) = anonymous else { panic!("{anonymous:?}") };
    assert!(text.contains("(530)") && text.contains("`username`"), "{text}");
    let server = SmtpServer::start(Terms { tls: Some(tls), implicit: false, account: None }).await;
    let smtp = smtp("mail.example", server.port, SmtpTls::Starttls, Some(("carinho", "s3gredo")));
    let unknown = client.send(&smtp, message(), PATIENCE).await;
    let Err(Error::Unauthorized(text)) = unknown else { panic!("{unknown:?}") };
    assert!(text.contains("neither"), "{text}");
}

#[tokio::test]
async fn a_refusal_says_the_step_and_never_who_was_meant() {
    let server = SmtpServer::start(Terms::default()).await;
    let smtp = smtp("127.0.0.1", server.port, SmtpTls::None, None);
    for (step, named, code, text, enhanced) in [
        ("MAIL", "MAIL", 451, "4.3.0 try <ana@example.com> later", " 4.3.0"),
        ("RCPT", "RCPT", 450, "<ana@example.com> is greylisted", ""),
        ("RCPT", "RCPT", 550, "5.1.1 <ana@example.com> is unknown", " 5.1.1"),
        ("DATA", "DATA", 452, "ana@example.com", ""),
        (".", "the message", 554, "5.7.1 Tudo bem? is spam, ana@example.com", " 5.7.1"),
        (".", "the message", 421, "4.3.2.1 closing", ""),
    ] {
        server.refuses(step, code, text);
        let refused = client(vec![]).send(&smtp, message(), PATIENCE).await.unwrap_err();
        let message = format!("127.0.0.1:{} answered {code}{enhanced} to {named}", server.port);
        assert_eq!(refused, Error::Refused { code, permanent: code >= 500, message });
    }
    server.refuses("MAIL", 535, "no");
    assert!(matches!(client(vec![]).send(&smtp, message(), PATIENCE).await, Err(Error::Unauthorized(_))));
    assert_eq!(server.letters(), []);

    // One of two is refused: neither gets it.
    server.refuses("RCPT", 550, "no");
    let two = Message { to: vec!["ana@example.com".into(), "eva@example.com".into()], ..message() };
    assert!(matches!(client(vec![]).send(&smtp, two, PATIENCE).await, Err(Error::Refused { code: 550, .. })));
    assert_eq!(server.letters(), []);
}

/// Answers line by line from a script, then closes. `None` answers nothing and reads on; in `.` it reads a message.
async fn scripted(script: Vec<Option<&'static str>>, stay: bool) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let lines = heard.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        for (at, answer) in script.into_iter().enumerate() {
            if at > 0 {
                let mut line = String::new();
                loop {
                    let before = line.len();
                    if stream.read_line(&mut line).await.unwrap() == 0 {
                        return;
                    }
                    // The message is one step, up to its lonely dot.
                    let in_data = lines.lock().unwrap().last().is_some_and(|last: &String| last.starts_with("DATA"));
                    if !in_data || &line[before..] == ".\r\n" {
                        break;
                    }
                }
                lines.lock().unwrap().push(line);
            }
            if let Some(answer) = answer {
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
        if stay {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    (port, heard)
}

const EHLO: Option<&str> = Some("250 smtp.test\r\n");
const HELLO: Option<&str> = Some("220 smtp.test ESMTP\r\n");
const OK: Option<&str> = Some("250 OK\r\n");
const GO_ON: Option<&str> = Some("354 go on\r\n");

#[tokio::test]
async fn what_breaks_before_the_message_was_not_sent_and_what_breaks_after_may_have_been() {
    for (script, interrupted) in [
        (vec![None], false),
        (vec![HELLO], false),
        (vec![HELLO, EHLO], false),
        (vec![HELLO, EHLO, OK], false),
        (vec![HELLO, EHLO, OK, OK], false),
        (vec![HELLO, EHLO, OK, OK, OK], false),
        (vec![HELLO, EHLO, OK, OK, Some("nonsense about ana@example.com\r\n")], false),
        (vec![Some("554 no\r\n")], false),
        (vec![HELLO, EHLO, OK, OK, GO_ON], true),
        (vec![HELLO, EHLO, OK, OK, GO_ON, None], true),
        (vec![HELLO, EHLO, OK, OK, GO_ON, Some("nonsense about ana@example.com\r\n")], true),
        (vec![HELLO, EHLO, OK, OK, GO_ON, GO_ON], true),
    ] {
        let (port, _) = scripted(script.clone(), false).await;
        let smtp = smtp("127.0.0.1", port, SmtpTls::None, None);
        let error = client(vec![]).send(&smtp, message(), PATIENCE).await.unwrap_err();
        match &error {
            Error::Unreachable(text) | Error::Interrupted(text) => {
                assert!(text.starts_with(&format!("127.0.0.1:{port}")) && !text.contains("ana@"), "{text}");
            }
            other => panic!("{script:?}: {other:?}"),
        }
        assert_eq!(matches!(error, Error::Interrupted(_)), interrupted, "{script:?}: {error:?}");
    }

    // The same for a server that falls silent.
    for (script, interrupted) in
        [(vec![None], false), (vec![HELLO, EHLO, OK, None], false), (vec![HELLO, EHLO, OK, OK, GO_ON, None], true)]
    {
        let (port, _) = scripted(script.clone(), true).await;
        let smtp = smtp("127.0.0.1", port, SmtpTls::None, None);
        let error = client(vec![]).send(&smtp, message(), Duration::from_millis(200)).await.unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
        assert_eq!(matches!(error, Error::Interrupted(_)), interrupted, "{script:?}: {error:?}");
    }

    // One that took the message and never says goodbye has taken it.
    let (port, heard) = scripted(vec![HELLO, EHLO, OK, OK, GO_ON, OK, None], true).await;
    let smtp_here = smtp("127.0.0.1", port, SmtpTls::None, None);
    client(vec![]).send(&smtp_here, message(), Duration::from_secs(5)).await.unwrap();
    assert!(heard.lock().unwrap()[4].contains("Tudo bem?"));

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    for tls in [SmtpTls::None, SmtpTls::Starttls, SmtpTls::Implicit] {
        let error = client(vec![]).send(&smtp("127.0.0.1", closed, tls, None), message(), PATIENCE).await.unwrap_err();
        assert_eq!(error, Error::Unreachable(format!("127.0.0.1:{closed}: connection refused")));
    }
}

/// Answers for the whole conversation, sent in the clear behind the one to STARTTLS: none of them is believed.
#[tokio::test]
async fn what_is_said_before_tls_does_not_count_after_it() {
    const STARTTLS: Option<&str> = Some("250-smtp.test\r\n250 STARTTLS\r\n");
    let answers = "220 go\r\n250 smtp.test\r\n250 OK\r\n250 OK\r\n354 go on\r\n250 OK\r\n";
    let (port, heard) = scripted(vec![HELLO, STARTTLS, Some(answers)], true).await;
    let (root, _) = certificate();
    let smtp = smtp("mail.example", port, SmtpTls::Starttls, None);
    let error = client(vec![root]).send(&smtp, message(), PATIENCE).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
    assert_eq!(*heard.lock().unwrap(), ["EHLO carinho.com.vc\r\n", "STARTTLS\r\n"]);
}

#[tokio::test]
async fn an_answer_that_belongs_elsewhere_is_no_yes() {
    let (port, heard) = scripted(vec![HELLO, EHLO, OK, OK, OK, OK], true).await;
    let smtp = smtp("127.0.0.1", port, SmtpTls::None, None);
    let error = client(vec![]).send(&smtp, message(), PATIENCE).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unreachable(text) if text.ends_with("answered 250 to DATA: out of step")),
        "{error:?}"
    );
    assert!(!heard.lock().unwrap().concat().contains("Tudo bem?"));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_anybody_is_called() {
    let server = SmtpServer::start(Terms::default()).await;
    let smtp = smtp("127.0.0.1", server.port, SmtpTls::None, None);
    let to = |to: &str| Message { to: vec![to.to_owned()], ..message() };
    let subject = |subject: &str| Message { subject: subject.to_owned(), ..message() };
    let many = |count| Message { to: vec!["ana@example.com".into(); count], ..message() };
    for (wrong, said) in [
        (many(0), "0 recipients"),
        (many(11), "11 recipients"),
        (to(""), "recipient 1"),
        (to("ana"), "recipient 1"),
        (to("ana@example.com, eva@example.com"), "recipient 1"),
        (to("ana@example.com\r\nBcc: eva@example.com"), "recipient 1"),
        (to("Ana\r\nBcc: eva@example.com <ana@example.com>"), "recipient 1"),
        (to("ana@example.com>\r\nDATA\r\n"), "recipient 1"),
        (subject(""), "0 characters"),
        (subject(&"a".repeat(256)), "256 characters"),
        (subject("Olá\r\nBcc: eva@example.com"), "control character"),
        (subject("Olá\nBcc: eva@example.com"), "control character"),
        (subject("Olá\0"), "control character"),
        (subject("Olá\u{2028}Bcc: eva@example.com"), "control character"),
        (Message { reply_to: Some("a@b.c\r\nX: y".into()), ..message() }, "reply-to"),
        (Message { text: "a\0b".into(), ..message() }, "the text has a NUL"),
        (Message { html: Some("\0".into()), ..message() }, "the html has a NUL"),
        (Message { text: "a".repeat(MAX_TEXT + 1), ..message() }, "the text has 1048577 bytes"),
        (Message { html: Some("a".repeat(MAX_TEXT + 1)), ..message() }, "the html has 1048577 bytes"),
    ] {
        let error = client(vec![]).send(&smtp, wrong, PATIENCE).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid(text) if text.contains(said)), "{said}: {error:?}");
        assert!(!error.to_string().contains('@') && !error.to_string().contains("Bcc"), "{error}");
    }
    assert_eq!(server.letters(), []);

    // As much as there may be, and what only looks like a header or an end.
    let most = Message {
        to: vec!["ana@example.com".into(); 10],
        subject: "á".repeat(255),
        text: "\r\n.\r\nQUIT\r\n".repeat(1000) + &"a".repeat(MAX_TEXT - 11_000),
        ..message()
    };
    client(vec![]).send(&smtp, most, PATIENCE).await.unwrap();
    let letter = server.letters().pop().unwrap();
    assert_eq!(letter.to.len(), 10);
    let read = MessageParser::default().parse(&letter.data).unwrap();
    assert_eq!(read.subject(), Some("á".repeat(255).as_str()));
    assert_eq!(read.body_text(0).unwrap().trim_end().len(), MAX_TEXT);
}

/// Servers differ in what ends a line and a message (CVE-2023-51764 and its kin), so only what is beyond doubt is sent.
#[tokio::test]
async fn no_text_ends_a_message_early() {
    let server = SmtpServer::start(Terms::default()).await;
    let smtp = smtp("127.0.0.1", server.port, SmtpTls::None, None);
    for text in [
        "a\n.\nMAIL FROM:<eva@example.com>\nb",
        "a\r.\rMAIL FROM:<eva@example.com>\rb",
        "a\r\n.\r\nMAIL FROM:<eva@example.com>\r\nb",
        "a\n.\r\nb\r\n.\nc\r\n.\rd",
        ".",
    ] {
        for html in [None, Some(text.to_owned())] {
            let sent = Message { text: text.into(), html, ..message() };
            client(vec![]).send(&smtp, sent, PATIENCE).await.unwrap();
            let data = server.letters().pop().unwrap().data;
            let ends = data.windows(2).filter(|two| *two == b"\r\n").count();
            for byte in [b'\r', b'\n'] {
                assert_eq!(data.iter().filter(|found| **found == byte).count(), ends, "{text:?}");
            }
            let read = MessageParser::default().parse(&data).unwrap();
            let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
            assert_eq!(lines(&read.body_text(0).unwrap()).trim_end(), lines(text), "{text:?}");
        }
    }
    assert_eq!(server.letters().len(), 10);
}

#[tokio::test]
async fn only_granted_addresses_are_dialled() {
    let server = SmtpServer::start(Terms::default()).await;
    let port = server.port;
    let grant = format!("127.0.0.1/32:{port}");
    for (host, tls, allow) in [
        ("127.0.0.1", SmtpTls::None, vec![]),
        ("mail.example", SmtpTls::None, vec![]),
        ("mail.example", SmtpTls::Starttls, vec![]),
        ("mail.example", SmtpTls::Implicit, vec!["127.0.0.1/32:1"]),
        ("mail.example", SmtpTls::None, vec!["10.0.0.0/8:*"]),
    ] {
        let smtp = smtp_allowing(host, port, tls, None, &allow);
        let denied = client(vec![]).send(&smtp, message(), PATIENCE).await;
        let Err(Error::Denied(text)) = denied else { panic!("{denied:?}") };
        assert!(text.contains(&format!("{host}:{port}")) && text.contains(&format!("`{grant}`")), "{text}");
    }
    assert_eq!(server.letters(), []);
    let smtp = smtp_allowing("mail.example", port, SmtpTls::None, None, &[&grant]);
    client(vec![]).send(&smtp, message(), PATIENCE).await.unwrap();
    assert_eq!(server.letters().len(), 1);

    // In the clear, even a public address has to be listed.
    let public = smtp_allowing("8.8.8.8", 25, SmtpTls::None, None, &["127.0.0.1/32:25"]);
    let denied = client(vec![]).send(&public, message(), PATIENCE).await;
    assert!(matches!(&denied, Err(Error::Denied(text)) if text.contains("without TLS")), "{denied:?}");
}
