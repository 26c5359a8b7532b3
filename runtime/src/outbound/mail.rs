//! The hub's only SMTP client (RFC 5321). An endpoint sends over the one server and from the one address that its
//! operator granted.
//!
//! - A name is resolved by the hub's own resolver, its addresses are checked, and what was checked is dialled; TLS then
//!   asks for the name.
//! - STARTTLS is required and never tried: without it nothing is sent, and nothing that a server (or somebody in
//!   between) said before it is read after it.
//! - Each message has a connection of its own. Notifications are rare beside webhooks, a handshake costs less than what
//!   the server does with a message, and a kept connection would be one more that breaks at the worst moment: between
//!   a message and the answer to it.
//! - What fails before the message is handed over is told apart from what fails after: then it may have been sent.
//!
//! Error texts are our own. They name server, step and reply code, never a recipient, a text or a credential: servers
//! like to repeat recipients in theirs.

use std::error::Error as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, AsyncTokioStream, Certificate, CertificateStore, TlsParameters,
};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use url::Host;

use super::address::{self, Private};
use super::{Lookup, Own, Policy, own_door, root};
use crate::config::{self, SmtpTls, mailbox};

/// Recipients of a message.
pub(crate) const MAX_RECIPIENTS: usize = 10;
/// Characters of a subject.
pub(crate) const MAX_SUBJECT: usize = 255;
/// Bytes of a message's text, and of its HTML.
pub(crate) const MAX_TEXT: usize = 1 << 20;

/// Of one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Until a server has said goodbye; nobody waits for it.
const GOODBYE: Duration = Duration::from_secs(1);

/// One per process.
pub(super) struct Client {
    lookup: Lookup,
    own: Own,
    /// Trusted besides the system's certificates.
    roots: Vec<Certificate>,
    /// By server name: reading the system's certificates takes longer than sending a message.
    tls: DashMap<String, TlsParameters>,
}

/// What an operator granted to an endpoint.
pub(crate) struct Smtp {
    host: Host<String>,
    port: u16,
    tls: SmtpTls,
    from: Mailbox,
    credentials: Option<Credentials>,
    private: Arc<[Private]>,
}

/// A message as the guest wants it, and what only the hub knows.
pub(crate) struct Message {
    pub(crate) to: Vec<String>,
    pub(crate) subject: String,
    pub(crate) text: String,
    pub(crate) html: Option<String>,
    pub(crate) reply_to: Option<String>,
    /// What stands before the `@` of its Message-ID.
    pub(crate) id: String,
    /// Its date, milliseconds since 1970-01-01 UTC.
    pub(crate) now_ms: u64,
}

/// Why a message was not sent, or may not have been; the cases of `mail.error` in the WIT.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Interrupted(String),
    #[error("{message}")]
    Refused { code: u16, permanent: bool, message: String },
    #[error("{0}")]
    Unauthorized(String),
}

impl Client {
    pub(super) fn new(lookup: Lookup, own: Own, roots: Vec<Certificate>) -> Client {
        Client { lookup, own, roots, tls: DashMap::new() }
    }

    /// Sends one message, once, and answers its Message-ID. `within` is from now to the server's last answer.
    pub(super) async fn send(&self, smtp: &Smtp, message: Message, within: Duration) -> Result<String, Error> {
        let message = smtp.compose(message)?;
        let deadline = Instant::now() + within;
        let mut connection = match timeout_at(deadline, self.open(smtp)).await {
            Ok(opened) => opened?,
            Err(_) => return Err(Error::Unreachable(format!("{smtp}: no greeting in time"))),
        };
        let mut handed_over = false;
        let talk = timeout_at(deadline, smtp.hand_over(&mut connection, &message, &mut handed_over)).await;
        let result = match talk {
            Ok(result) => result,
            Err(_) if handed_over => Err(Error::Interrupted(format!("{smtp}: no answer to the message in time"))),
            Err(_) => Err(Error::Unreachable(format!("{smtp}: no answer in time"))),
        };
        // Whatever came of it is known by now, and the goodbye changes nothing about it.
        tokio::spawn(async move { timeout(GOODBYE, connection.quit()).await });
        result.map(|()| message.id)
    }

    /// Connects, and is greeted; with TLS, unless the operator does without.
    async fn open(&self, smtp: &Smtp) -> Result<AsyncSmtpConnection, Error> {
        let hello = ClientId::Domain(smtp.from.email.domain().to_owned());
        let mut failure = Error::Unreachable(format!("{smtp}: the name has no address"));
        for address in self.addresses(smtp).await? {
            match self.dial(smtp, address, &hello).await {
                Ok(connection) => return Ok(connection),
                Err(why) => failure = Error::Unreachable(format!("{smtp}: {why}")),
            }
        }
        Err(failure)
    }

    /// All of them, if all of them may be dialled, as for HTTP.
    pub(super) async fn addresses(&self, smtp: &Smtp) -> Result<Vec<SocketAddr>, Error> {
        let found = match &smtp.host {
            Host::Ipv4(address) => vec![IpAddr::V4(*address)],
            Host::Ipv6(address) => vec![IpAddr::V6(*address)],
            Host::Domain(name) => timeout(CONNECT_TIMEOUT, (self.lookup)(name.clone()))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                .map_err(|error| Error::Unreachable(format!("{smtp}: the name does not resolve: {error}")))?,
        };
        if let Some(address) = found.iter().find(|address| !smtp.admits(**address)) {
            return Err(Error::Denied(smtp.not_granted(*address)));
        }
        if let Some(address) = found.iter().find(|address| self.own.is(**address, smtp.port)) {
            return Err(Error::Denied(own_door(smtp, *address)));
        }
        Ok(found.into_iter().map(|address| SocketAddr::new(address, smtp.port)).collect())
    }

    async fn dial(&self, smtp: &Smtp, address: SocketAddr, hello: &ClientId) -> Result<AsyncSmtpConnection, String> {
        let told = |error: smtp::Error| match error.status() {
            Some(code) => format!("the greeting was {code}"),
            None => told(&error),
        };
        if smtp.tls == SmtpTls::Implicit {
            let tls = Some(self.tls(smtp)?);
            let connecting = AsyncSmtpConnection::connect_tokio1(address, Some(CONNECT_TIMEOUT), hello, tls, None);
            return connecting.await.map_err(told);
        }
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(stream) => stream.map_err(|error| error.kind().to_string())?,
            Err(_) => return Err(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())),
        };
        // A command waits for the answer to the one before it.
        stream.set_nodelay(true).map_err(|error| error.kind().to_string())?;
        if smtp.tls == SmtpTls::None {
            return AsyncSmtpConnection::connect_with_transport(Box::new(stream), hello).await.map_err(told);
        }
        let stream = Box::new(UntilTls { stream, clear: true });
        let mut connection = AsyncSmtpConnection::connect_with_transport(stream, hello).await.map_err(told)?;
        if !connection.can_starttls() {
            return Err("the server does not offer STARTTLS, and nothing is sent without it".into());
        }
        connection.starttls(self.tls(smtp)?, hello).await.map_err(told)?;
        Ok(connection)
    }

    fn tls(&self, smtp: &Smtp) -> Result<TlsParameters, String> {
        let name = match &smtp.host {
            // Without brackets.
            Host::Ipv6(address) => address.to_string(),
            other => other.to_string(),
        };
        let parameters = self.tls.entry(name.clone()).or_try_insert_with(|| {
            let builder = TlsParameters::builder(name).certificate_store(CertificateStore::Default);
            let roots = self.roots.iter().cloned();
            roots.fold(builder, |builder, root| builder.add_root_certificate(root)).build()
        });
        parameters.map(|parameters| parameters.clone()).map_err(|error| format!("no TLS: {}", told(&error)))
    }
}

/// A message ready to go.
struct Composed {
    /// With its angle brackets.
    id: String,
    envelope: Envelope,
    bytes: Vec<u8>,
}

impl Smtp {
    /// From an endpoint's `smtp`, its policy and the values of username and password. The error says what to write.
    pub(crate) fn new(
        smtp: &config::Smtp,
        policy: &Policy,
        credentials: Option<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Smtp, String> {
        let (host, port) = smtp.host_and_port().ok_or("`server` of `smtp` is not host:port")?;
        let text = |value, name| {
            String::from_utf8(value).map_err(|_| format!("`{name}` of `smtp` is not UTF-8, which SMTP cannot send"))
        };
        let credentials = match credentials {
            Some((username, password)) => {
                Some(Credentials::new(text(username, "username")?, text(password, "password")?))
            }
            None => None,
        };
        Ok(Smtp {
            // The parser that also reads the hosts of requests, so that both are spelt alike.
            host: Host::parse(host).map_err(|error| format!("`server` of `smtp` has no host: {error}"))?,
            port,
            tls: smtp.tls.unwrap_or(if port == 465 { SmtpTls::Implicit } else { SmtpTls::Starttls }),
            from: read_mailbox(&smtp.from).ok_or("`from` of `smtp` is not a mailbox")?,
            credentials,
            private: policy.private.clone(),
        })
    }

    /// In the clear only what is listed is dialled.
    fn admits(&self, address: IpAddr) -> bool {
        match self.tls {
            SmtpTls::None => address::lists(&self.private, address, self.port),
            SmtpTls::Starttls | SmtpTls::Implicit => address::admits(&self.private, address, self.port),
        }
    }

    fn not_granted(&self, address: IpAddr) -> String {
        let address = address.to_canonical();
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let why = match self.tls {
            SmtpTls::None => "and without TLS only what `allow_private` lists is reached",
            SmtpTls::Starttls | SmtpTls::Implicit => "which is not a public address",
        };
        let port = self.port;
        format!(
            "the SMTP server {self} is at {address}, {why}: \
             add `{address}/{prefix}:{port}` to `allow_private` of the endpoint if it is meant"
        )
    }

    fn compose(&self, message: Message) -> Result<Composed, Error> {
        let invalid = |why: String| Err(Error::Invalid(why));
        let Message { to, subject, text, html, reply_to, id, now_ms } = message;
        if to.is_empty() || to.len() > MAX_RECIPIENTS {
            return invalid(format!("the message has {} recipients: it takes 1 to {MAX_RECIPIENTS}", to.len()));
        }
        let length = subject.chars().count();
        if length == 0 || length > MAX_SUBJECT {
            return invalid(format!("the subject has {length} characters: it takes 1 to {MAX_SUBJECT}"));
        }
        // Also U+0085, U+2028 and U+2029, which some reader takes for the end of a line.
        if subject.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
            return invalid("the subject has a control character: it takes one line".into());
        }
        for (name, body) in [("text", text.as_str()), ("html", html.as_deref().unwrap_or_default())] {
            let length = body.len();
            if length > MAX_TEXT {
                return invalid(format!("the {name} has {length} bytes: at most {MAX_TEXT} can be sent"));
            }
            // RFC 5321 section 4.5.2 has no place for it, and lettre would let it pass.
            if body.contains('\0') {
                return invalid(format!("the {name} has a NUL character: take it out"));
            }
        }

        let id = format!("<{id}@{}>", self.from.email.domain());
        let date = SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms);
        let mut builder = lettre::Message::builder()
            .from(self.from.clone())
            .subject(subject)
            .message_id(Some(id.clone()))
            .date(date)
            // RFC 3834: no out-of-office replies, please.
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".into()));
        for (position, text) in to.iter().enumerate() {
            let Some(mailbox) = read_mailbox(text) else {
                return invalid(format!("recipient {} is not a mailbox: it takes one address", position + 1));
            };
            builder = builder.to(mailbox);
        }
        if let Some(text) = reply_to {
            let Some(mailbox) = read_mailbox(&text) else {
                return invalid("reply-to is not a mailbox: it takes one address".into());
            };
            builder = builder.reply_to(mailbox);
        }
        let text = unambiguous(text);
        let composed = match html.map(unambiguous) {
            Some(html) => builder.multipart(MultiPart::alternative_plain_html(text, html)),
            None => builder.singlepart(SinglePart::plain(text)),
        };
        let composed =
            composed.map_err(|error| Error::Invalid(format!("the message cannot be put together: {error}")))?;
        Ok(Composed { id, envelope: composed.envelope().clone(), bytes: composed.formatted() })
    }

    /// Signs in and gives the message to the server. A recipient that is refused refuses the message for all, so that
    /// a second try sends nobody a second one.
    async fn hand_over(
        &self,
        connection: &mut AsyncSmtpConnection,
        message: &Composed,
        handed_over: &mut bool,
    ) -> Result<(), Error> {
        if let Some(credentials) = &self.credentials {
            let signed_in = connection.auth(&[Mechanism::Plain, Mechanism::Login], credentials).await;
            signed_in.map_err(|error| match error.status().map(u16::from) {
                // The operator's to mend, and no message's fault.
                Some(code @ 500..) => Error::Unauthorized(format!("{self} does not take the credentials ({code})")),
                None if error.is_client() => Error::Unauthorized(format!("{self} offers neither AUTH PLAIN nor LOGIN")),
                _ => self.failed("AUTH", &error),
            })?;
        }
        let from = Mail::new(message.envelope.from().cloned(), vec![]);
        expect(connection.command(from).await, &[250]).map_err(|error| self.broke("MAIL", error))?;
        for to in message.envelope.to() {
            let to = Rcpt::new(to.clone(), vec![]);
            expect(connection.command(to).await, &[250, 251]).map_err(|error| self.broke("RCPT", error))?;
        }
        expect(connection.command(Data).await, &[354]).map_err(|error| self.broke("DATA", error))?;
        *handed_over = true;
        match expect(connection.message(&message.bytes).await, &[250]) {
            Ok(()) => Ok(()),
            Err(Unexpected::Failed(error)) if error.status().is_some() => Err(self.failed("the message", &error)),
            Err(Unexpected::Failed(error)) => {
                Err(Error::Interrupted(format!("{self}: no answer to the message: {}", told(&error))))
            }
            Err(Unexpected::Code(code)) => Err(Error::Interrupted(format!("{self} answered {code} to the message"))),
        }
    }

    fn broke(&self, step: &str, unexpected: Unexpected) -> Error {
        match unexpected {
            Unexpected::Failed(error) => self.failed(step, &error),
            Unexpected::Code(code) => Error::Unreachable(format!("{self} answered {code} to {step}: out of step")),
        }
    }

    fn failed(&self, step: &str, error: &smtp::Error) -> Error {
        let Some(code) = error.status().map(u16::from) else {
            return Error::Unreachable(format!("{self}: no answer to {step}: {}", told(error)));
        };
        match code {
            530 if self.credentials.is_none() => Error::Unauthorized(format!(
                "{self} wants to know who sends (530): add `username` and `password` to `smtp` of the endpoint"
            )),
            530 | 534 | 535 | 538 => Error::Unauthorized(format!("{self} does not take the credentials ({code})")),
            _ => {
                let enhanced = enhanced_code(error).map(|code| format!(" {code}")).unwrap_or_default();
                let message = format!("{self} answered {code}{enhanced} to {step}");
                Error::Refused { code, permanent: code >= 500, message }
            }
        }
    }
}

impl std::fmt::Display for Smtp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

enum Unexpected {
    Failed(smtp::Error),
    /// Not a refusal, and not what belongs here.
    Code(u16),
}

/// lettre takes every 2xx and 3xx for a yes. An answer that belongs to another command must not pass for the
/// message's.
fn expect(answer: Result<Response, smtp::Error>, codes: &[u16]) -> Result<(), Unexpected> {
    let code = u16::from(answer.map_err(Unexpected::Failed)?.code());
    if codes.contains(&code) { Ok(()) } else { Err(Unexpected::Code(code)) }
}

/// Never the server's own words.
fn told(error: &smtp::Error) -> String {
    if error.is_response() {
        // Among them the end of the stream; others quote what could not be read.
        return "the answer was cut off or is no SMTP".into();
    }
    root(error)
}

/// The enhanced status code (RFC 3463) that an answer begins with, for instance `5.1.1`.
fn enhanced_code(error: &smtp::Error) -> Option<String> {
    let text = error.source()?.to_string();
    let code = text.split_whitespace().next()?;
    let digits = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    (code.split('.').count() == 3 && code.split('.').all(digits)).then(|| code.to_owned())
}

/// A line ends in one way only, which lettre then writes as CRLF. It would send a lone CR as it is, and servers do not
/// agree on what that ends (CVE-2023-51764 and its kin: a second message smuggled in the text of the first).
fn unambiguous(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}

/// One mailbox, its domain as it is looked up.
fn read_mailbox(text: &str) -> Option<Mailbox> {
    let (name, address) = mailbox(text)?;
    let (local, domain) = address.rsplit_once('@')?;
    let domain = Host::parse(domain).ok()?.to_string();
    Some(Mailbox::new(name.map(str::to_owned), lettre::Address::new(local, domain).ok()?))
}

/// Gives out one byte at a time until TLS begins, so that no reader holds more of the clear than the line it asked for.
/// What somebody has sent along behind the answer to STARTTLS then meets TLS, which refuses it, instead of passing for
/// answers to later commands (CVE-2011-0411 and its kin).
#[derive(Debug)]
struct UntilTls {
    stream: TcpStream,
    clear: bool,
}

impl AsyncTokioStream for UntilTls {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

impl AsyncRead for UntilTls {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.clear {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut one))?;
        buf.put_slice(one.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for UntilTls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        /// What a handshake record begins with (RFC 8446 section 5.1), and no command.
        const HANDSHAKE: u8 = 22;
        if buf.first() == Some(&HANDSHAKE) {
            self.clear = false;
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
