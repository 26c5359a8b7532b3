//! How the command line talks to a running hub: one connection, plain HTTP/1.1, answers read whole.
//!
//! A hub that runs on this machine says in its data directory where it listens and which key opens its API, so
//! that `tomada events` needs no flags there.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::redact::Size;

/// Longest wait for one answer, connecting included.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer that is read, bytes.
const LONGEST_ANSWER: usize = 64 << 20;

/// Where the hub is. For commands to flatten into their options.
#[derive(Clone, clap::Args)]
pub struct HubArgs {
    /// Data directory of a hub on this machine
    #[arg(long, value_name = "DIR", default_value = "tomada-data", env = "TOMADA_DATA")]
    pub data: PathBuf,
    /// Address of the hub, instead of what the data directory says
    #[arg(long, env = "TOMADA_URL")]
    pub url: Option<String>,
    /// API key, instead of the one in the data directory
    #[arg(long = "key", env = "TOMADA_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Why this is done, for the audit log: one line of at most 200 characters
    #[arg(long, value_name = "REASON", env = "TOMADA_REASON")]
    pub why: Option<String>,
}

impl HubArgs {
    /// Connects to the hub that the options mean.
    ///
    /// # Errors
    /// No hub is running there, it does not answer, or its key cannot be read.
    pub async fn connect(&self) -> Result<Client> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => Running::read(&self.data)?.url,
        };
        let key = match &self.api_key {
            Some(key) => Some(key.clone()),
            // A hub elsewhere has a key of its own: the one that lies here would only be given away.
            None if self.url.is_some() => None,
            None => Some(admin_key(&self.data)?),
        };
        let client = Client::connect(&url, key.as_deref()).await?;
        match &self.why {
            Some(why) => client.because(why),
            None => Ok(client),
        }
    }
}

/// What a running hub writes into `hub.json` of its data directory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Running {
    pub url: String,
    pub pid: u32,
}

impl Running {
    /// # Errors
    /// There is no such file (no hub was started on this directory), or it is not what a hub writes.
    pub fn read(data: &Path) -> Result<Running> {
        let file = data.join("hub.json");
        let text = std::fs::read(&file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => anyhow!(
                "no hub is running on {}: start one with `tomada serve --data {0}`, or say where it is with --data or --url",
                data.display()
            ),
            _ => anyhow!("{} cannot be read: {error}", file.display()),
        })?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not what a hub writes", file.display()))
    }
}

/// The key that the hub made for the commands on its own machine.
///
/// # Errors
/// The file is missing or belongs to someone else.
pub fn admin_key(data: &Path) -> Result<String> {
    let file = data.join("admin.key");
    let key = std::fs::read_to_string(&file).with_context(|| {
        format!("the API key in {} cannot be read: pass --key or set TOMADA_API_KEY", file.display())
    })?;
    Ok(key.trim().to_owned())
}

/// A status, headers and a body. Which statuses are good is the caller's business; [`Answer::ok`] takes 2xx.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What the hub said shows as its size.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).field("body", &Size(self.body.len())).finish()
    }
}

impl Answer {
    /// # Errors
    /// The status is not 2xx: what the hub said about it.
    pub fn ok(self) -> Result<Bytes> {
        if (200..300).contains(&self.status) { Ok(self.body) } else { Err(anyhow!(self.problem())) }
    }

    /// # Errors
    /// The status is not 2xx, or the body is not the JSON that was expected.
    pub fn json<T: DeserializeOwned>(self) -> Result<T> {
        let body = self.ok()?;
        serde_json::from_slice(&body).context("the hub's answer is not what this version expects")
    }

    /// What a problem+json answer (RFC 9457) says, in one line.
    pub fn problem(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Problem {
            #[serde(default)]
            title: String,
            #[serde(default)]
            detail: String,
        }
        match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) if !problem.detail.is_empty() => format!("{} ({})", problem.detail, self.status),
            Ok(problem) if !problem.title.is_empty() => format!("{} ({})", problem.title, self.status),
            _ => {
                let body = String::from_utf8_lossy(&self.body[..self.body.len().min(200)]);
                format!("the hub answered {} {}", self.status, body.trim()).trim_end().to_owned()
            }
        }
    }
}

/// One connection to a hub, made again when the hub has closed it.
pub struct Client {
    authority: String,
    key: Option<HeaderValue>,
    reason: Option<HeaderValue>,
    sender: http1::SendRequest<Full<Bytes>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Client {
    /// `url` is `http://host:port`; `key` opens `/api`, webhooks need none.
    ///
    /// # Errors
    /// The URL is not plain HTTP, or nobody answers there.
    pub async fn connect(url: &str, key: Option<&str>) -> Result<Client> {
        let authority = authority(url)?;
        let key = key.map(bearer).transpose()?;
        let sender = tokio::time::timeout(TIMEOUT, open(&authority))
            .await
            .map_err(|_| anyhow!("no hub answers at {authority} within {} s", TIMEOUT.as_secs()))??;
        Ok(Client { authority, key, reason: None, sender })
    }

    /// Says with each request why it is made; the hub's audit log keeps it.
    ///
    /// # Errors
    /// It is more than one line.
    pub fn because(mut self, reason: &str) -> Result<Client> {
        let value = HeaderValue::from_bytes(reason.as_bytes());
        self.reason = Some(value.map_err(|_| anyhow!("a reason is one line"))?);
        Ok(self)
    }

    /// # Errors
    /// As for [`Client::send`].
    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, HeaderMap::new(), Bytes::new()).await
    }

    /// The body is JSON.
    ///
    /// # Errors
    /// As for [`Client::send`].
    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.send(Method::POST, path, json(), body.into()).await
    }

    /// The body is a component.
    ///
    /// # Errors
    /// As for [`Client::send`].
    pub async fn put(&mut self, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/wasm"));
        self.send(Method::PUT, path, headers, body.into()).await
    }

    /// The body is JSON.
    ///
    /// # Errors
    /// As for [`Client::send`].
    pub async fn put_json(&mut self, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.send(Method::PUT, path, json(), body.into()).await
    }

    /// `path` begins with `/` and is percent-encoded already.
    ///
    /// # Errors
    /// No answer within 30 s, an answer of more than 64 MiB, or a broken connection. A request that may have reached
    /// the hub is not sent again.
    pub async fn send(&mut self, method: Method, path: &str, headers: HeaderMap, body: Bytes) -> Result<Answer> {
        let what = format!("{method} http://{}{path}", self.authority);
        match tokio::time::timeout(TIMEOUT, self.exchange(method, path, headers, body)).await {
            Ok(answer) => answer.with_context(|| format!("{what} failed")),
            Err(_) => bail!("{what}: no answer within {} s", TIMEOUT.as_secs()),
        }
    }

    async fn exchange(&mut self, method: Method, path: &str, headers: HeaderMap, body: Bytes) -> Result<Answer> {
        // `ready` fails when the hub has closed the idle connection: nothing was sent on it yet.
        if self.sender.ready().await.is_err() {
            self.sender = open(&self.authority).await?;
            self.sender.ready().await?;
        }
        let mut request = Request::builder().method(method).uri(path).body(Full::new(body))?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, HeaderValue::from_str(&self.authority)?);
        if let Some(key) = &self.key {
            request.headers_mut().insert(AUTHORIZATION, key.clone());
        }
        if let Some(reason) = &self.reason {
            request.headers_mut().insert("x-reason", reason.clone());
        }
        let response = self.sender.send_request(request).await?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await.map_err(|error| anyhow!(error))?;
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.to_bytes() })
    }
}

fn json() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))])
}

fn bearer(key: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| anyhow!("the API key holds characters that no header can carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `host:port` of a URL.
pub(crate) fn authority(url: &str) -> Result<String> {
    let parsed =
        url::Url::parse(url).with_context(|| format!("`{url}` is not an address like http://127.0.0.1:8080"))?;
    if parsed.scheme() != "http" {
        bail!("`{url}`: only http:// is spoken here; reach a hub behind TLS through a tunnel (ssh -L)");
    }
    let host = parsed.host_str().filter(|host| !host.is_empty()).ok_or_else(|| anyhow!("`{url}` names no host"))?;
    Ok(format!("{host}:{}", parsed.port_or_known_default().unwrap_or(80)))
}

async fn open(authority: &str) -> Result<http1::SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(authority).await.with_context(|| format!("no hub answers at {authority}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender; what went wrong on it is told to whoever waits for an answer.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_plain_http_url() {
        assert_eq!(authority("http://127.0.0.1:8080").unwrap(), "127.0.0.1:8080");
        assert_eq!(authority("http://hub/").unwrap(), "hub:80");
        assert_eq!(authority("http://[::1]:9").unwrap(), "[::1]:9");
        for bad in ["https://hub", "hub:80", "", "unix:/run/hub"] {
            assert!(authority(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_problem_is_one_line() {
        let answer = |body: &'static str| Answer {
            status: 404,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        assert_eq!(answer(r#"{"title":"Not found","detail":"no such event"}"#).problem(), "no such event (404)");
        assert_eq!(answer(r#"{"title":"Not found"}"#).problem(), "Not found (404)");
        assert_eq!(answer("gone").problem(), "the hub answered 404 gone");
        assert_eq!(answer("").problem(), "the hub answered 404");
    }

    #[test]
    fn a_directory_without_a_hub_says_how_to_start_one() {
        let error = Running::read(Path::new("no-such-directory")).unwrap_err().to_string();
        assert!(error.contains("tomada serve --data no-such-directory"), "{error}");
    }

    #[tokio::test]
    async fn a_closed_connection_is_opened_again() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let len = stream.read(&mut request).await.unwrap();
                seen.push(String::from_utf8_lossy(&request[..len]).into_owned());
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
            }
            seen
        });
        let mut client = Client::connect(&url, Some("secret")).await.unwrap();
        for _ in 0..2 {
            assert_eq!(client.get("/api/events").await.unwrap().ok().unwrap(), "{}");
        }
        let seen = server.await.unwrap();
        assert!(seen[1].starts_with("GET /api/events HTTP/1.1\r\n"), "{}", seen[1]);
        assert!(seen[1].to_lowercase().contains("authorization: bearer secret\r\n"), "{}", seen[1]);
    }
}
