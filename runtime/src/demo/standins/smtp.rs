//! A mail server (RFC 5321) that keeps what it gets: no TLS, no relaying, loopback only. A mail is told and remembered as
//! a call with the method `MAIL`, whose body says in JSON what is in it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use anyhow::Result;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mail_parser::{MessageParser, PartType};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Call, Desk, Records, Reply, System, plain, random};

/// Bytes of a line: RFC 5321 wants at least 1000, and addresses in UTF-8 may be longer.
const MAX_LINE: u64 = 4096;
/// Bytes of a mail.
const MAX_MAIL: usize = 16 << 20;
/// Recipients of a mail.
const MAX_RECIPIENTS: usize = 100;

pub(super) const MAIL: &[u8] = b"MAIL";

/// Where mails end.
pub(super) struct Mailbox {
    feedback_link: String,
    records: Records,
}

impl Mailbox {
    /// # Errors
    /// There is no random number.
    pub(super) fn new() -> Result<Mailbox> {
        Ok(Mailbox { feedback_link: random()?, records: Records::default() })
    }
}

impl System for Mailbox {
    /// SMTP needs none; the links in mails are signed with this one.
    fn secrets(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([("feedback_link", self.feedback_link.clone())])
    }

    fn answer(&mut self, call: &Call<'_>) -> Reply {
        let mail: Map<String, Value> = serde_json::from_slice(call.body).unwrap_or_default();
        let empty = Value::Null;
        let [to, subject] = ["to", "subject"].map(|field| plain(mail.get(field).unwrap_or(&empty)));
        let note = format!("mail to {to}: “{subject}”");
        let id = self.records.add("messages", 1, mail)["id"].clone();
        // SMTP's "done".
        Reply::new(StatusCode::from_u16(250).unwrap_or(StatusCode::OK), json!({ "id": id }), note)
    }

    fn records(&self, kind: &str) -> &[Value] {
        self.records.of(kind)
    }
}

pub(super) async fn serve(listener: TcpListener, desk: Arc<Desk>) {
    let mut sessions = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let desk = desk.clone();
        // An error here is the peer's: a reset, or an end where there should be none.
        sessions.spawn(async move { converse(stream, &desk).await.ok() });
        while sessions.try_join_next().is_some() {}
    }
}

#[derive(Default)]
struct Envelope {
    from: Option<String>,
    to: Vec<String>,
}

async fn converse(stream: TcpStream, desk: &Desk) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut envelope = Envelope::default();
    say(&mut stream, "220 stand-in ESMTP").await?;
    loop {
        let Some(line) = line(&mut stream).await? else { return say(&mut stream, "500 the line is too long").await };
        let line = String::from_utf8_lossy(&line).into_owned();
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                envelope = Envelope::default();
                let size = format!("250-SIZE {MAX_MAIL}");
                ["250-stand-in", "250-8BITMIME", "250-SMTPUTF8", &size, "250 AUTH PLAIN"].join("\r\n")
            }
            "HELO" => "250 stand-in".into(),
            "AUTH" => authenticate(&mut stream, rest).await?,
            "MAIL" if envelope.from.is_some() => "503 one mail at a time".into(),
            "MAIL" => match address(rest, "FROM:") {
                Some(from) => {
                    envelope.from = Some(from);
                    "250 go on".into()
                }
                None => "501 MAIL FROM:<address>".into(),
            },
            "RCPT" if envelope.from.is_none() => "503 MAIL comes first".into(),
            "RCPT" if envelope.to.len() == MAX_RECIPIENTS => "452 too many recipients".into(),
            "RCPT" => match address(rest, "TO:").filter(|to| to.contains('@')) {
                Some(to) => {
                    envelope.to.push(to);
                    "250 go on".into()
                }
                None => "501 RCPT TO:<address>".into(),
            },
            "DATA" if envelope.to.is_empty() => "503 RCPT comes first".into(),
            "DATA" => {
                say(&mut stream, "354 end with a dot").await?;
                match data(&mut stream).await? {
                    Some(mail) => match take(desk, std::mem::take(&mut envelope), &mail).await {
                        Some(answer) => answer,
                        // The connection breaks.
                        None => return Ok(()),
                    },
                    None => return say(&mut stream, "552 the mail is too large").await,
                }
            }
            "RSET" => {
                envelope = Envelope::default();
                "250 forgotten".into()
            }
            "NOOP" => "250 nothing done".into(),
            "QUIT" => return say(&mut stream, "221 bye").await,
            _ => "502 not known here".into(),
        };
        say(&mut stream, &answer).await?;
    }
}

/// Whoever says who they are is believed.
async fn authenticate(stream: &mut BufReader<TcpStream>, rest: &str) -> io::Result<String> {
    let mut words = rest.split_whitespace();
    if !words.next().is_some_and(|mechanism| mechanism.eq_ignore_ascii_case("PLAIN")) {
        return Ok("504 only PLAIN".into());
    }
    let proof = match words.next() {
        Some(proof) => proof.as_bytes().to_vec(),
        None => {
            say(stream, "334 ").await?;
            line(stream).await?.unwrap_or_default()
        }
    };
    // Authorisation, name and password, with a zero byte between each.
    let good = BASE64.decode(&proof).is_ok_and(|proof| proof.split(|byte| *byte == 0).count() == 3);
    Ok(if good { "235 welcome" } else { "535 that is not PLAIN" }.into())
}

async fn take(desk: &Desk, envelope: Envelope, mail: &[u8]) -> Option<String> {
    let body = Bytes::from(read(&envelope, mail).to_string());
    let method = Method::from_bytes(MAIL).unwrap_or(Method::POST);
    let reply = desk.take(method, "/", Vec::new(), HeaderMap::new(), body).await?.0;
    let status = reply.status.as_u16();
    Some(match status {
        200..=299 => format!("250 queued as {}", reply.body["id"]),
        _ => format!("{status} {}", reply.note),
    })
}

/// What is in a mail: `from` and `recipients` of its envelope, `to` the first of these, and what people see.
fn read(envelope: &Envelope, mail: &[u8]) -> Value {
    let mut seen = json!({ "from": envelope.from, "to": envelope.to.first(), "recipients": envelope.to });
    let Some(message) = MessageParser::default().parse(mail) else { return seen };
    seen["subject"] = message.subject().into();
    seen["message_id"] = message.message_id().into();
    seen["from_name"] = message.from().and_then(|from| from.first()?.name()).into();
    for part in &message.parts {
        let (field, text) = match &part.body {
            PartType::Text(text) => ("text", text),
            PartType::Html(html) => ("html", html),
            _ => continue,
        };
        if seen[field].is_null() {
            seen[field] = text.as_ref().into();
        }
    }
    let headers = message.headers_raw().map(|(name, value)| (name.to_ascii_lowercase(), value.trim().into()));
    seen["headers"] = Value::Object(headers.collect());
    seen
}

/// The address between the angle brackets after `keyword`; parameters after it are left alone.
fn address(rest: &str, keyword: &str) -> Option<String> {
    let start = rest.get(..keyword.len()).filter(|start| start.eq_ignore_ascii_case(keyword))?;
    let rest = rest[start.len()..].trim_start().strip_prefix('<')?;
    Some(rest[..rest.find('>')?].to_owned())
}

async fn say(stream: &mut BufReader<TcpStream>, line: &str) -> io::Result<()> {
    stream.write_all(format!("{line}\r\n").as_bytes()).await
}

/// One line without its end; none when it is longer than it may be.
async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = stream.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    if line.pop_if(|byte| *byte == b'\n').is_none() {
        return if read as u64 == MAX_LINE { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
    }
    line.pop_if(|byte| *byte == b'\r');
    Ok(Some(line))
}

/// Up to the line with nothing but a dot; none when it is larger than it may be.
async fn data(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut mail = Vec::new();
    loop {
        let Some(line) = line(stream).await? else { return Ok(None) };
        if line == b"." {
            return Ok(Some(mail));
        }
        mail.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        mail.extend_from_slice(b"\r\n");
        if mail.len() > MAX_MAIL {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::StandIns;
    use super::*;

    struct Sender(BufReader<TcpStream>);

    impl Sender {
        async fn connect(stand_ins: &StandIns) -> Sender {
            let address = stand_ins.url("email").strip_prefix("smtp://").unwrap();
            let mut sender = Sender(BufReader::new(TcpStream::connect(address).await.unwrap()));
            assert_eq!(sender.answer().await, 220);
            sender
        }

        /// The status of an answer, all its lines read.
        async fn answer(&mut self) -> u16 {
            loop {
                let mut line = String::new();
                self.0.read_line(&mut line).await.unwrap();
                if line.as_bytes()[3] == b' ' {
                    return line[..3].parse().unwrap();
                }
            }
        }

        async fn send(&mut self, line: &str) -> u16 {
            self.0.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
            self.answer().await
        }

        async fn all(&mut self, lines: &[(&str, u16)]) {
            for (line, status) in lines {
                assert_eq!(self.send(line).await, *status, "{line}");
            }
        }
    }

    const MAIL: &str = "From: Carinho <ola@carinho.com.vc>\r\nTo: maria@example.com\r\nMessage-ID: <1@x>\r\n\
        Subject: =?utf-8?q?Ol=C3=A1?=\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n\
        --b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        Ol=C3=A1, Maria!\r\n..um ponto\r\n--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Olá</p>\r\n--b--\r\n.";

    #[tokio::test]
    async fn a_mail_is_decoded_and_remembered() {
        let stand_ins = StandIns::start().await.unwrap();
        let mut sender = Sender::connect(&stand_ins).await;
        sender
            .all(&[
                ("EHLO hub", 250),
                ("AUTH PLAIN AGEAYg==", 235),
                ("MAIL FROM:<ola@carinho.com.vc> BODY=8BITMIME SMTPUTF8", 250),
                ("RCPT TO:<maria@example.com>", 250),
                ("DATA", 354),
                (MAIL, 250),
                ("NOOP", 250),
                ("QUIT", 221),
            ])
            .await;
        let received = stand_ins.received("email");
        assert_eq!((received.len(), received[0].method.as_str(), &*received[0].path), (1, "MAIL", "/"));
        let mail = received[0].json();
        for (field, expected) in [
            ("from", "ola@carinho.com.vc"),
            ("to", "maria@example.com"),
            ("subject", "Olá"),
            ("message_id", "1@x"),
            ("from_name", "Carinho"),
        ] {
            assert_eq!(mail[field], expected, "{field}");
        }
        assert_eq!(mail["text"].as_str().unwrap().trim_end().replace('\r', ""), "Olá, Maria!\n.um ponto");
        assert_eq!(mail["html"].as_str().unwrap().trim_end(), "<p>Olá</p>");
        assert_eq!(mail["headers"]["to"], "maria@example.com");
        assert_eq!(stand_ins.records("email", "messages")[0]["subject"], "Olá");
    }

    #[tokio::test]
    async fn a_mail_that_is_told_to_fail_can_be_sent_again() {
        let stand_ins = StandIns::start().await.unwrap();
        stand_ins.fail_next("email", 1, StatusCode::from_u16(451).unwrap(), None);
        let mut sender = Sender::connect(&stand_ins).await;
        for status in [451, 250] {
            let lines =
                [("MAIL FROM:<a@b>", 250), ("RCPT TO:<c@d>", 250), ("DATA", 354), ("Subject: x\r\n\r\n.", status)];
            sender.all(&lines).await;
        }
        assert_eq!((stand_ins.received("email").len(), stand_ins.records("email", "messages").len()), (2, 1));
    }

    #[tokio::test]
    async fn what_is_out_of_order_or_too_long_is_refused() {
        let stand_ins = StandIns::start().await.unwrap();
        let mut sender = Sender::connect(&stand_ins).await;
        sender
            .all(&[
                ("HELO hub", 250),
                ("STARTTLS", 502),
                ("AUTH LOGIN", 504),
                ("AUTH PLAIN AAA", 535),
                ("RCPT TO:<c@d>", 503),
                ("MAIL TO:<c@d>", 501),
                ("MAIL FROM:<a@b>", 250),
                ("MAIL FROM:<a@b>", 503),
                ("DATA", 503),
                ("RCPT TO:nobody", 501),
                ("RCPT TO:<nobody>", 501),
                ("RCPT TO:<c@d>", 250),
                ("RSET", 250),
                ("DATA", 503),
                ("MAIL FROM:<>", 250),
            ])
            .await;
        assert_eq!(sender.send(&"x".repeat(MAX_LINE as usize + 1)).await, 500);
        assert!(stand_ins.received("email").is_empty());
    }
}
