//! An SMTP server on loopback: takes messages, refuses as it is told, remembers what it got. What it understands and
//! answers is mailin's doing; here are sockets and TLS.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use mailin::{Action, AuthMechanism, Handler, Response, Session, SessionBuilder, response};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What the server offers and demands.
#[derive(Clone, Default)]
pub(crate) struct Terms {
    pub(crate) tls: Option<TlsAcceptor>,
    /// TLS from the first byte on, instead of STARTTLS.
    pub(crate) implicit: bool,
    /// Mechanism, name and password of the only one who may send.
    pub(crate) account: Option<(AuthMechanism, &'static str, &'static str)>,
}

pub(crate) struct SmtpServer {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

/// A message with its envelope.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Letter {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    /// As it was sent, dots unstuffed.
    pub(crate) data: Vec<u8>,
    pub(crate) tls: bool,
    pub(crate) user: Option<String>,
}

#[derive(Default)]
struct Shared {
    letters: Mutex<Vec<Letter>>,
    refusals: Mutex<Vec<(&'static str, u16, &'static str)>>,
}

impl SmtpServer {
    pub(crate) async fn start(terms: Terms) -> SmtpServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared::default());
        let known = shared.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (terms, shared) = (terms.clone(), known.clone());
                // A client that breaks off is what some tests want.
                tokio::spawn(async move { drop(serve(stream, &terms, shared).await) });
            }
        });
        SmtpServer { port, shared, server }
    }

    /// The next answer to this step (`MAIL`, `RCPT`, `DATA` or `.`) is this.
    pub(crate) fn refuses(&self, step: &'static str, code: u16, text: &'static str) {
        self.shared.refusals.lock().expect("unpoisoned").push((step, code, text));
    }

    pub(crate) fn letters(&self) -> Vec<Letter> {
        self.shared.letters.lock().expect("unpoisoned").clone()
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(stream: TcpStream, terms: &Terms, shared: Arc<Shared>) -> io::Result<()> {
    let mut builder = SessionBuilder::new("smtp.test");
    if terms.tls.is_some() && !terms.implicit {
        builder.enable_start_tls();
    }
    if let Some((mechanism, ..)) = &terms.account {
        builder.enable_auth(mechanism.clone());
        if terms.tls.is_none() {
            builder.insecure_enable_plaintext_auth();
        }
    }
    let tls = Arc::new(Mutex::new(false));
    let desk = Desk { letter: Letter::default(), account: terms.account.clone(), tls: tls.clone(), shared };
    let mut session = builder.build(IpAddr::V4(Ipv4Addr::LOCALHOST), desk);
    let acceptor = terms.tls.clone();
    match acceptor {
        Some(acceptor) if terms.implicit => {
            session.tls_active();
            *tls.lock().expect("unpoisoned") = true;
            converse(acceptor.accept(stream).await?, &mut session, true).await?;
        }
        acceptor => {
            let upgraded = converse(stream, &mut session, true).await?;
            if let (Some(stream), Some(acceptor)) = (upgraded, acceptor) {
                let stream = acceptor.accept(stream).await?;
                session.tls_active();
                *tls.lock().expect("unpoisoned") = true;
                converse(stream, &mut session, false).await?;
            }
        }
    }
    Ok(())
}

/// Until the end, or until TLS is to begin on what is handed back.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    session: &mut Session<Desk>,
    greet: bool,
) -> io::Result<Option<S>> {
    let mut stream = BufReader::new(stream);
    if greet {
        write(&mut stream, &session.greeting()).await?;
    }
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        let answer = session.process(&line);
        if answer.action != Action::NoReply {
            write(&mut stream, &answer).await?;
        }
        match answer.action {
            Action::UpgradeTls => return Ok(Some(stream.into_inner())),
            Action::Close => return Ok(None),
            Action::Reply | Action::NoReply => {}
        }
    }
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, answer: &Response) -> io::Result<()> {
    let mut text = Vec::new();
    answer.write_to(&mut text)?;
    stream.write_all(&text).await?;
    stream.flush().await
}

/// Where one connection's letters are taken in.
struct Desk {
    letter: Letter,
    account: Option<(AuthMechanism, &'static str, &'static str)>,
    tls: Arc<Mutex<bool>>,
    shared: Arc<Shared>,
}

impl Desk {
    fn answer(&self, step: &str, good: Response) -> Response {
        let mut refusals = self.shared.refusals.lock().expect("unpoisoned");
        match refusals.iter().position(|(refused, ..)| *refused == step) {
            Some(at) => {
                let (_, code, text) = refusals.remove(at);
                Response::custom(code, text.to_owned())
            }
            None => good,
        }
    }

    fn sign_in(&mut self, name: &str, password: &str) -> Response {
        match &self.account {
            Some((_, known, right)) if (*known, *right) == (name, password) => {
                self.letter.user = Some(name.to_owned());
                response::AUTH_OK
            }
            _ => response::INVALID_CREDENTIALS,
        }
    }
}

impl Handler for Desk {
    fn auth_plain(&mut self, _: &str, name: &str, password: &str) -> Response {
        self.sign_in(name, password)
    }

    fn auth_login(&mut self, name: &str, password: &str) -> Response {
        self.sign_in(name, password)
    }

    fn mail(&mut self, _: IpAddr, _: &str, from: &str) -> Response {
        self.letter = Letter { from: from.to_owned(), user: self.letter.user.take(), ..Letter::default() };
        self.answer("MAIL", response::OK)
    }

    fn rcpt(&mut self, to: &str) -> Response {
        self.letter.to.push(to.to_owned());
        self.answer("RCPT", response::OK)
    }

    fn data_start(&mut self, _: &str, _: &str, _: bool, _: &[String]) -> Response {
        self.answer("DATA", response::START_DATA)
    }

    fn data(&mut self, line: &[u8]) -> io::Result<()> {
        self.letter.data.extend_from_slice(line);
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        let answer = self.answer(".", response::OK);
        if answer.code == 250 {
            let letter = Letter { tls: *self.tls.lock().expect("unpoisoned"), ..self.letter.clone() };
            self.shared.letters.lock().expect("unpoisoned").push(letter);
        }
        answer
    }
}
