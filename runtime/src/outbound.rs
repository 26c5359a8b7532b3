//! The hub's only HTTP client: granted hosts only, public addresses unless the operator lists others, no redirects,
//! no proxies, bounded in size and time.
//!
//! What keeps a connector from reaching the inside of the operator's network (SSRF):
//!
//! - The URL is parsed once; the same parsed value is checked and sent, so that no two parsers can disagree.
//! - Scheme, host and port must be granted to the endpoint, on every request.
//! - A literal address, in whatever spelling, is checked after parsing: the client never asks a resolver about it.
//! - A name is resolved by our own resolver inside the connector. All of its addresses pass the check or none leaves it,
//!   so what was checked is what is dialled, and a name that changes its addresses (DNS rebinding) gains nothing.
//! - The hub's own door is never dialled, whatever an operator lists: a connector is no client of the API.
//! - A kept-alive connection was checked against the `allow_private` of whoever opened it, so only endpoints with the
//!   same list share one.
//!
//! Error texts name scheme, host and port only: tokens live in paths, queries, headers and bodies.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dashmap::DashMap;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use url::{Host, Url};

use crate::redact::Size;
use address::Private;
pub(crate) use reqwest::Method;

mod address;
pub(crate) mod mail;
#[cfg(test)]
mod tests;

/// Bytes of a request's body.
pub(crate) const MAX_REQUEST_BODY: usize = 16 << 20;
/// Bytes of an answer's body.
pub(crate) const MAX_RESPONSE_BODY: u64 = 4 << 20;
/// Bytes of an answer's headers, names and values.
pub(crate) const MAX_RESPONSE_HEADERS: usize = 32 << 10;
/// Headers of a request.
pub(crate) const MAX_HEADERS: usize = 64;
/// Bytes of a request's headers, names and values.
pub(crate) const MAX_HEADER_BYTES: usize = 16 << 10;
/// Bytes of a URL.
pub(crate) const MAX_URL: usize = 8 << 10;

/// Name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Shorter than the keep-alive of common servers (nginx 75 s, ALB 60 s), so that we rarely write into a closing one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_PER_HOST: usize = 256;

/// One per process; clones share the connections.
#[derive(Clone)]
pub(crate) struct Outbound {
    clients: Arc<DashMap<Pool, reqwest::Client>>,
    lookup: Lookup,
    own: Own,
    mail: Arc<mail::Client>,
}

/// What one endpoint may reach.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    hosts: Vec<Granted>,
    private: Arc<[Private]>,
}

/// A request with its placeholders already replaced.
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Absolute.
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    /// From now to the last byte of the answer.
    pub(crate) timeout: Duration,
}

/// An answer of whatever status; redirects are answers too.
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case, values as UTF-8 (what is not is replaced by U+FFFD).
    pub(crate) headers: Vec<(String, String)>,
    /// As sent, never decompressed.
    pub(crate) body: Bytes,
}

/// What the target said shows as its size.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("headers", &self.headers.len())
            .field("body", &Size(self.body.len()))
            .finish()
    }
}

/// Why there is no answer; the cases of `http.error` in the WIT.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The endpoint may not reach it; says how the operator would grant it.
    #[error("{0}")]
    Denied(String),
    /// The request itself is malformed or passes a limit.
    #[error("{0}")]
    Invalid(String),
    /// The request's own timeout passed.
    #[error("no complete answer in time")]
    Timeout,
    /// Name resolution, connection or TLS: nothing was sent.
    #[error("{0}")]
    Unreachable(String),
    /// The connection broke after the request had gone out: it may have been taken.
    #[error("{0}")]
    Interrupted(String),
    /// The answer passed the limit, which this is, in bytes.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(u64),
}

impl Outbound {
    pub(crate) fn new() -> Outbound {
        Outbound::with_lookup(Arc::new(|name| {
            Box::pin(async move {
                // The port is only there because lookup_host wants one.
                Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.map(|found| found.ip()).collect())
            })
        }))
    }

    fn with_lookup(lookup: Lookup) -> Outbound {
        // An error says that somebody else in the process has already installed one, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let own = Own::default();
        let mail = Arc::new(mail::Client::new(lookup.clone(), own.clone(), Vec::new()));
        Outbound { clients: Arc::default(), lookup, own, mail }
    }

    /// Where the hub itself listens, known once the socket is open.
    pub(crate) fn listens_on(&self, own: SocketAddr) {
        // Called once; nothing could be dialled there before.
        let _ = self.own.0.set(own);
    }

    /// Sends one e-mail, once, and answers its Message-ID. `within` is from now to the server's last answer.
    pub(crate) async fn send_mail(
        &self,
        smtp: &mail::Smtp,
        message: mail::Message,
        within: Duration,
    ) -> Result<String, mail::Error> {
        self.mail.send(smtp, message, within).await
    }

    /// Checks the URL and sends one request.
    #[cfg(test)]
    async fn send(&self, policy: &Policy, request: Request) -> Result<Response, Error> {
        self.send_checked(policy, policy.check(&request.url)?, request).await
    }

    /// Sends one request, once, to the URL that `policy` has checked; the request's own was that, or led to it. Dropping
    /// the future closes the connection if the answer is not yet there.
    pub(crate) async fn send_checked(
        &self,
        policy: &Policy,
        Checked { url, granted }: Checked<'_>,
        request: Request,
    ) -> Result<Response, Error> {
        if request.body.len() > MAX_REQUEST_BODY {
            return Err(Error::Invalid(format!(
                "the body has {} bytes: at most {MAX_REQUEST_BODY} can be sent",
                request.body.len()
            )));
        }
        let mut headers = request_headers(request.headers)?;
        if request.body.is_empty() && matches!(request.method, Method::POST | Method::PUT | Method::PATCH) {
            // The client sends no length then, and some servers answer 411 (RFC 9110 §8.6 asks for it).
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if let Some(address) = literal(&url)
            && self.own.is(address, granted.port)
        {
            return Err(Error::Denied(own_door(granted, address)));
        }
        let client = self.client(policy, granted)?;

        let mut outgoing = reqwest::Request::new(request.method, url);
        *outgoing.headers_mut() = headers;
        *outgoing.body_mut() = Some(request.body.into());
        // One timer around everything is cheaper than reqwest's own, which are boxed per request and again per body.
        match tokio::time::timeout(request.timeout, exchange(&client, outgoing)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(Failure::TooLarge(limit))) => Err(Error::TooLarge(limit)),
            Ok(Err(Failure::Client(error))) => Err(explain(&error, granted)),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// The client whose connections were all checked as this request's would be.
    fn client(&self, policy: &Policy, granted: &Granted) -> Result<reqwest::Client, Error> {
        // A resolver is not told the port, so where the port decides, it has to be fixed.
        let port = if policy.private.is_empty() && !self.own.has_port(granted.port) { 0 } else { granted.port };
        let pool = Pool { private: policy.private.clone(), port, tls: granted.tls };
        if let Some(client) = self.clients.get(&pool) {
            return Ok(client.clone());
        }
        let entry = self.clients.entry(pool.clone()).or_try_insert_with(|| self.open(pool));
        match entry {
            Ok(client) => Ok(client.clone()),
            Err(error) => Err(Error::Unreachable(format!("{granted}: no client: {}", root(&error)))),
        }
    }

    fn open(&self, pool: Pool) -> reqwest::Result<reqwest::Client> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("tomada/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .tcp_nodelay(true)
            // One HTTP/2 connection carries everything to a host; without this a dead one would swallow requests until
            // the kernel gives it up, a quarter of an hour later.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(5))
            // HTTP/2 counts 32 bytes more per header; what is between is ours to refuse, with a better word for it.
            .http2_max_header_list_size(2 * MAX_RESPONSE_HEADERS as u32);
        if pool.tls {
            builder = builder.https_only(true);
        } else {
            // Saves reading the system's certificates, and works on a machine that has none.
            builder = builder.tls_certs_only([]);
        }
        let (lookup, own) = (self.lookup.clone(), self.own.clone());
        builder.dns_resolver(Resolver { private: pool.private, port: pool.port, lookup, own }).build()
    }
}

impl Policy {
    /// From an endpoint's `hosts` (`host`, `host:port`, `http://host:port`) and `allow_private` (`CIDR:port`). The error
    /// names the entry and says what to write.
    pub(crate) fn new(hosts: &[String], allow_private: &[String]) -> Result<Policy, String> {
        let mut private = allow_private.iter().map(|text| Private::parse(text)).collect::<Result<Vec<_>, _>>()?;
        // Endpoints that list the same in another order share their connections.
        private.sort();
        private.dedup();
        Ok(Policy {
            hosts: hosts.iter().map(|text| Granted::parse(text)).collect::<Result<_, _>>()?,
            private: private.into(),
        })
    }

    /// Whether the endpoint may request `url`. Before a secret is put in place of its placeholder, this says which host
    /// would get it.
    pub(crate) fn check(&self, url: &str) -> Result<Checked<'_>, Error> {
        if url.len() > MAX_URL {
            return Err(Error::Invalid(format!("the url has {} bytes: at most {MAX_URL} can be sent", url.len())));
        }
        let url = Url::parse(url).map_err(|error| Error::Invalid(format!("the url is not absolute: {error}")))?;
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            scheme => return Err(Error::Invalid(format!("the url has the scheme `{scheme}`: use https"))),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::Invalid("the url has a user or password: use the `authorization` header".into()));
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(Error::Invalid("the url has no host".into()));
        };
        let Some(granted) =
            self.hosts.iter().find(|granted| granted.port == port && granted.tls == tls && granted.is(&host))
        else {
            let wanted = Granted { host: host.to_owned(), port, tls };
            return Err(Error::Denied(format!(
                "host {wanted} is not granted to this endpoint: add it to `hosts` of the endpoint"
            )));
        };
        match literal(&url) {
            Some(address) if !address::admits(&self.private, address, port) => {
                Err(Error::Denied(not_public(granted, address, port)))
            }
            _ => Ok(Checked { url, granted }),
        }
    }
}

/// The address that stands in the place of a name, in whatever spelling.
fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
        Host::Domain(_) => None,
    }
}

/// A URL that its endpoint may request.
pub(crate) struct Checked<'a> {
    url: Url,
    granted: &'a Granted,
}

/// Tokens live in paths and queries: scheme, host and port only.
impl fmt::Debug for Checked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Checked").field(self.granted).finish()
    }
}

impl Checked<'_> {
    /// Lower case, international names in punycode, IPv6 addresses in brackets; without the port.
    pub(crate) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

/// An entry of an endpoint's `hosts`; prints the way it would be written there, always with its port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Granted {
    host: Host<String>,
    port: u16,
    tls: bool,
}

impl Granted {
    fn parse(text: &str) -> Result<Granted, String> {
        let expected = || {
            format!("`{text}` in `hosts` is not a host: write `host`, `host:port` or, without TLS, `http://host:port`")
        };
        let tls = !text.starts_with("http://");
        if text.contains('*') {
            return Err(format!("`{text}` in `hosts` has a wildcard: name each host"));
        }
        // The URL parser would forgive what is no host at all.
        let authority = text.strip_prefix("http://").unwrap_or(text);
        if authority.is_empty() || authority.contains(|c: char| "/\\?#@%".contains(c) || c.is_whitespace()) {
            return Err(expected());
        }
        // The same parser as for requests, so that both come out in the same spelling.
        let scheme = if tls { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{authority}")).map_err(|_| expected())?;
        match (url.host(), url.port_or_known_default()) {
            (Some(host), Some(port)) if port != 0 => Ok(Granted { host: host.to_owned(), port, tls }),
            _ => Err(expected()),
        }
    }

    fn is(&self, host: &Host<&str>) -> bool {
        match (&self.host, host) {
            (Host::Domain(granted), Host::Domain(wanted)) => granted == wanted,
            (Host::Ipv4(granted), Host::Ipv4(wanted)) => granted == wanted,
            (Host::Ipv6(granted), Host::Ipv6(wanted)) => granted == wanted,
            _ => false,
        }
    }
}

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "" } else { "http://" };
        write!(f, "{scheme}{}:{}", self.host, self.port)
    }
}

/// Requests that may use each other's connections.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Pool {
    private: Arc<[Private]>,
    /// 0 where the port decides nothing: only public addresses are allowed, and the hub does not listen on this port.
    port: u16,
    tls: bool,
}

/// Name → addresses.
type Lookup = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> + Send + Sync>;

/// Where the hub itself listens.
#[derive(Clone, Default)]
struct Own(Arc<OnceLock<SocketAddr>>);

impl Own {
    fn has_port(&self, port: u16) -> bool {
        self.0.get().is_some_and(|own| own.port() == port)
    }

    /// Whether a connection to this address would end at the hub's own door. One that leads there by a detour (a proxy
    /// in front of the hub, a rule in the router) is not seen.
    fn is(&self, address: IpAddr, port: u16) -> bool {
        let Some(own) = self.0.get().filter(|own| own.port() == port) else {
            return false;
        };
        let (own, address) = (own.ip().to_canonical(), address.to_canonical());
        own == address
            // Linux dials 0.0.0.0 and :: as loopback.
            || (address.is_unspecified() && own.is_loopback())
            // Listening on every address of this machine: only one of those can be bound to.
            || (own.is_unspecified() && (address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok()))
    }
}

/// Hands out a name's addresses if its pool may dial all of them. A bad one among good ones is no accident: it is how an
/// answer gets past a check that looks at the first only.
struct Resolver {
    private: Arc<[Private]>,
    port: u16,
    lookup: Lookup,
    own: Own,
}

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let found = (self.lookup)(name.as_str().to_owned());
        let (private, port, own) = (self.private.clone(), self.port, self.own.clone());
        Box::pin(async move {
            let found = found.await.map_err(Unresolved::Failed)?;
            if let Some(address) = found.iter().find(|address| !address::admits(&private, **address, port)) {
                return Err(Unresolved::NotPublic(*address).into());
            }
            if let Some(address) = found.iter().find(|address| own.is(**address, port)) {
                return Err(Unresolved::Own(*address).into());
            }
            if found.is_empty() {
                return Err(Unresolved::Empty.into());
            }
            // The connector puts the URL's port in place of 0.
            let dial: reqwest::dns::Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(dial)
        })
    }
}

/// Travels through the client's errors, to be found again by [`explain`].
#[derive(Debug, thiserror::Error)]
enum Unresolved {
    #[error("lookup failed")]
    Failed(io::Error),
    #[error("no address")]
    Empty,
    #[error("not public")]
    NotPublic(IpAddr),
    #[error("the hub's own")]
    Own(IpAddr),
}

enum Failure {
    Client(reqwest::Error),
    TooLarge(u64),
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Failure {
        Failure::Client(error)
    }
}

async fn exchange(client: &reqwest::Client, request: reqwest::Request) -> Result<Response, Failure> {
    let mut response = client.execute(request).await?;
    let status = response.status().as_u16();
    let headers = response_headers(response.headers())?;
    // From the framing, not the header: an answer to HEAD declares a length and has no body.
    let declared = response.content_length();
    let room = |len: usize| match len as u64 <= MAX_RESPONSE_BODY {
        true => Ok(()),
        false => Err(Failure::TooLarge(MAX_RESPONSE_BODY)),
    };
    if declared.is_some_and(|declared| declared > MAX_RESPONSE_BODY) {
        return Err(Failure::TooLarge(MAX_RESPONSE_BODY));
    }

    let first = response.chunk().await?.unwrap_or_default();
    room(first.len())?;
    // Read to the end even when all declared bytes are there: only then is the connection free for the next.
    let Some(second) = response.chunk().await? else {
        // Nearly always: the whole body in one piece, handed on without a copy.
        return Ok(Response { status, headers, body: first });
    };
    let mut body = BytesMut::with_capacity(declared.unwrap_or(0) as usize);
    body.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(piece) = next {
        room(body.len() + piece.len())?;
        body.extend_from_slice(&piece);
        next = response.chunk().await?;
    }
    Ok(Response { status, headers, body: body.freeze() })
}

fn request_headers(headers: Vec<(String, String)>) -> Result<HeaderMap, Error> {
    if headers.len() > MAX_HEADERS {
        return Err(Error::Invalid(format!("{} headers: at most {MAX_HEADERS} can be sent", headers.len())));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_HEADER_BYTES {
        return Err(Error::Invalid(format!("headers of {bytes} bytes: at most {MAX_HEADER_BYTES} can be sent")));
    }
    // Room for the client's own `accept` and `user-agent`.
    let mut map = HeaderMap::with_capacity(headers.len() + 2);
    for (position, (name, value)) in headers.into_iter().enumerate() {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Error::Invalid(format!("header {} has a name that is not a token", position + 1)))?;
        if is_ours(name.as_str()) {
            return Err(Error::Invalid(format!("the header `{name}` is set by the hub: leave it out")));
        }
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| Error::Invalid(format!("the header `{name}` has control characters in its value")))?;
        // Any of them may hold a secret: hidden from debug output, never put into HTTP/2's compression table.
        value.set_sensitive(true);
        map.append(name, value);
    }
    Ok(map)
}

/// Headers that say where a message goes, where it ends or whom it came through (RFC 9110 §7.6.1); a guest that could
/// set them could make two servers read one message differently.
fn is_ours(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "connection"
            | "content-length"
            | "expect"
            | "forwarded"
            | "http2-settings"
            | "keep-alive"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    ) || name.starts_with("proxy-")
        || name.starts_with("x-forwarded-")
}

fn response_headers(headers: &HeaderMap) -> Result<Vec<(String, String)>, Failure> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > MAX_RESPONSE_HEADERS {
        return Err(Failure::TooLarge(MAX_RESPONSE_HEADERS as u64));
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Ok(headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect())
}

fn not_public(granted: &Granted, address: IpAddr, port: u16) -> String {
    let address = address.to_canonical();
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    format!(
        "host {granted} is at {address}, which is not a public address: \
         add `{address}/{prefix}:{port}` to `allow_private` of the endpoint if it is meant"
    )
}

fn own_door(host: impl fmt::Display, address: IpAddr) -> String {
    format!("host {host} is at {}, where this hub itself listens: connectors do not call it", address.to_canonical())
}

/// Never with the error's own text, which has the whole URL in it.
fn explain(error: &reqwest::Error, granted: &Granted) -> Error {
    let mut cause = error.source();
    while let Some(inner) = cause {
        match inner.downcast_ref::<Unresolved>() {
            Some(Unresolved::NotPublic(address)) => {
                return Error::Denied(not_public(granted, *address, granted.port));
            }
            Some(Unresolved::Own(address)) => return Error::Denied(own_door(granted, *address)),
            Some(Unresolved::Empty) => return Error::Unreachable(format!("{granted}: the name has no address")),
            Some(Unresolved::Failed(error)) => {
                return Error::Unreachable(format!("{granted}: the name does not resolve: {error}"));
            }
            None => cause = inner.source(),
        }
    }
    if error.is_builder() {
        // Characters that a URL may have and a request line may not.
        return Error::Invalid("the url cannot be sent: percent-encode its special characters".into());
    }
    if error.is_timeout() && error.is_connect() {
        return Error::Unreachable(format!("{granted}: no connection within {} s", CONNECT_TIMEOUT.as_secs()));
    }
    let why = format!("{granted}: {}", root(error));
    // All that is not about the connection is about its use, and nobody says how much the target got to see.
    if error.is_connect() { Error::Unreachable(why) } else { Error::Interrupted(why) }
}

/// The innermost cause: from the kernel, TLS or the parser of a protocol, none of which know the URL.
fn root(error: &dyn std::error::Error) -> String {
    let Some(mut cause) = error.source() else {
        return "broken answer".into();
    };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match cause.downcast_ref::<io::Error>() {
        // "connection refused" without "(os error 111)"; other io errors wrap what TLS has to say.
        Some(error) if error.raw_os_error().is_some() => error.kind().to_string(),
        _ => cause.to_string(),
    }
}
