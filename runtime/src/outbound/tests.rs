//! The tables of addresses and URLs, and what a target on loopback sees and can do.

use std::future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::dns::Resolve as _;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    address: Option<IpAddr>,
    host: Option<String>,
    answers: Option<Vec<IpAddr>>,
    dials: Option<Vec<IpAddr>>,
    #[serde(default = "https")]
    port: u16,
    #[serde(default)]
    allow: Vec<String>,
    allowed: Option<String>,
    refused: Option<String>,
}

fn https() -> u16 {
    443
}

#[derive(Deserialize)]
struct Table {
    cases: Vec<Case>,
}

#[tokio::test]
async fn the_address_table() {
    let table: Table = toml::from_str(include_str!("../../../tests/cases/egress/addresses.toml")).unwrap();
    assert!(table.cases.len() >= 60);
    for case in &table.cases {
        assert!(case.allowed.is_some() != case.refused.is_some(), "{case:?}");
        let allowed = case.allowed.is_some();
        match (case.address, &case.host, &case.answers) {
            (Some(address), None, None) => {
                let host: Host = match address {
                    IpAddr::V4(address) => Host::Ipv4(address),
                    IpAddr::V6(address) => Host::Ipv6(address),
                };
                assert_eq!(literal(&host.to_string(), case), allowed, "{case:?}");
                let expected = if allowed { vec![address] } else { vec![] };
                assert_eq!(resolved("name.example", &[address], case).await, expected, "{case:?}");
                assert_eq!(mailed("name.example", &[address], case).await, expected, "{case:?}");
                assert_eq!(mailed(&host.to_string(), &[], case).await, expected, "{case:?}");
            }
            (None, Some(host), None) => {
                assert_eq!(literal(host, case), allowed, "{case:?}");
                assert_eq!(mailed(host, &[], case).await.is_empty(), !allowed, "{case:?}");
            }
            (None, Some(host), Some(answers)) => {
                let dialled = resolved(host, answers, case).await;
                assert_eq!(Some(&dialled), case.dials.as_ref(), "{case:?}");
                assert_eq!(dialled.is_empty(), !allowed, "{case:?}");
                assert_eq!(mailed(host, answers, case).await, dialled, "{case:?}");
            }
            _ => panic!("{case:?}"),
        }
    }
}

/// What an SMTP client would dial: the same.
async fn mailed(host: &str, answers: &[IpAddr], case: &Case) -> Vec<IpAddr> {
    let config = crate::config::Smtp {
        server: format!("{host}:{}", case.port),
        tls: Some(crate::config::SmtpTls::Starttls),
        from: "a@carinho.com.vc".into(),
        username: None,
        password: None,
    };
    let smtp = mail::Smtp::new(&config, &Policy::new(&[], &case.allow).unwrap(), None).unwrap();
    let answers = answers.to_vec();
    let lookup: Lookup = Arc::new(move |_| Box::pin(future::ready(Ok(answers.clone()))));
    match mail::Client::new(lookup, Own::default(), Vec::new()).addresses(&smtp).await {
        Ok(addresses) => addresses.iter().map(SocketAddr::ip).collect(),
        Err(_) => Vec::new(),
    }
}

fn literal(host: &str, case: &Case) -> bool {
    let policy = Policy::new(&[format!("{host}:{}", case.port)], &case.allow).unwrap();
    match policy.check(&format!("https://{host}:{}/", case.port)) {
        Ok(_) => true,
        Err(Error::Denied(text)) if text.contains("allow_private") => false,
        Err(other) => panic!("{other:?} for {case:?}"),
    }
}

async fn resolved(host: &str, answers: &[IpAddr], case: &Case) -> Vec<IpAddr> {
    let policy = Policy::new(&[], &case.allow).unwrap();
    let answers = answers.to_vec();
    let resolver = Resolver {
        private: policy.private,
        port: case.port,
        lookup: Arc::new(move |_| Box::pin(future::ready(Ok(answers.clone())))),
        own: Own::default(),
    };
    match resolver.resolve(host.parse().unwrap()).await {
        Ok(addresses) => addresses.map(|address| address.ip()).collect(),
        Err(_) => Vec::new(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UrlCase {
    url: String,
    to: Option<String>,
    denied: Option<String>,
    invalid: Option<String>,
}

#[derive(Deserialize)]
struct UrlTable {
    hosts: Vec<String>,
    cases: Vec<UrlCase>,
}

#[test]
fn the_url_table() {
    let table: UrlTable = toml::from_str(include_str!("../../../tests/cases/egress/urls.toml")).unwrap();
    let policy = Policy::new(&table.hosts, &["127.0.0.0/8:*".into()]).unwrap();
    for case in &table.cases {
        match (policy.check(&case.url), &case.to, &case.denied, &case.invalid) {
            (Ok(checked), Some(to), None, None) => assert_eq!(checked.host(), to, "{case:?}"),
            (Err(Error::Denied(text)), None, Some(named), None) => {
                let expected =
                    format!("host {named} is not granted to this endpoint: add it to `hosts` of the endpoint");
                assert_eq!(text, expected, "{case:?}");
            }
            (Err(Error::Invalid(text)), None, None, Some(why)) => {
                assert!(text.contains(why) && !text.contains("t0ken"), "{text} for {case:?}");
            }
            (other, ..) => panic!("{other:?} for {case:?}"),
        }
    }
    assert!(matches!(policy.check(&format!("https://crm.example/{}", "a".repeat(MAX_URL))), Err(Error::Invalid(_))));
}

#[test]
fn grants_that_are_no_hosts_are_refused() {
    for text in [
        "",
        " crm.example",
        "https://crm.example",
        "http://",
        "ftp://crm.example",
        "crm.example/",
        "crm.example/a",
        "user@crm.example",
        "crm.example:0",
        "crm.example:99999",
        "*.example",
        "*",
        "::1",
        "crm.example?a",
        "a%2eb",
    ] {
        let error = Policy::new(&[text.to_owned()], &[]).unwrap_err();
        assert!(error.contains(&format!("`{text}`")), "{error}");
    }
}

#[test]
fn headers_that_frame_or_route_are_the_hubs() {
    for name in [
        "Host",
        "connection",
        "Content-Length",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "Keep-Alive",
        "Expect",
        "Proxy-Authorization",
        "proxy-connection",
        "X-Forwarded-For",
        "x-forwarded-host",
        "Forwarded",
    ] {
        let error = request_headers(vec![(name.into(), "t0ken".into())]).unwrap_err();
        assert!(matches!(&error, Error::Invalid(text) if text.contains(&name.to_ascii_lowercase())), "{error}");
        assert!(!error.to_string().contains("t0ken"));
    }
    for (name, value) in [("", "a"), ("a b", "a"), ("a:b", "a"), ("é", "a"), ("a", "b\r\nhost: c"), ("a", "b\0")] {
        let error = request_headers(vec![(name.into(), value.into())]).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{name:?}: {value:?}");
    }
    let many = |count: usize, size: usize| vec![("x-a".to_owned(), "a".repeat(size)); count];
    assert_eq!(request_headers(many(MAX_HEADERS, 1)).unwrap().len(), MAX_HEADERS);
    assert!(request_headers(many(MAX_HEADERS + 1, 1)).is_err());
    assert!(request_headers(many(1, MAX_HEADER_BYTES - 3)).is_ok());
    assert!(request_headers(many(1, MAX_HEADER_BYTES - 2)).is_err());
    assert!(request_headers(vec![("x-nome".into(), "João".into())]).is_ok());
}

/// Takes the connections of one listener, answers each request with the next of `answers`, and keeps what it read.
/// After the last answer of a connection the connection is closed when `close` says so.
struct Target {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Target {
    async fn start(ip: &str, answers: Vec<Vec<u8>>) -> Target {
        Target::listen(TcpListener::bind((ip, 0)).await.unwrap(), answers)
    }

    fn listen(listener: TcpListener, answers: Vec<Vec<u8>>) -> Target {
        let port = listener.local_addr().unwrap().port();
        let (requests, connections) = <(Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>)>::default();
        let target = Target { port, requests: requests.clone(), connections: connections.clone() };
        let answers = Arc::new(Mutex::new(answers.into_iter()));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (requests, answers) = (requests.clone(), answers.clone());
                tokio::spawn(async move {
                    while let Some(request) = read_request(&mut stream).await {
                        requests.lock().unwrap().push(request);
                        let Some(answer) = answers.lock().unwrap().next() else { break };
                        if stream.write_all(&answer).await.is_err() {
                            break;
                        }
                        if answer.windows(17).any(|text| text == b"connection: close") {
                            break;
                        }
                    }
                });
            }
        });
        target
    }

    fn hosts(&self, host: &str) -> Vec<String> {
        vec![format!("http://{host}:{}", self.port)]
    }

    fn policy(&self) -> Policy {
        Policy::new(&self.hosts("127.0.0.1"), &[format!("127.0.0.1/32:{}", self.port)]).unwrap()
    }

    fn get(&self, path: &str) -> Request {
        request(Method::GET, &format!("http://127.0.0.1:{}{path}", self.port), b"")
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

fn request(method: Method, url: &str, body: &'static [u8]) -> Request {
    Request {
        method,
        url: url.into(),
        headers: Vec::new(),
        body: Bytes::from_static(body),
        timeout: Duration::from_secs(30),
    }
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

fn resolving_to(answers: Vec<&str>) -> (Outbound, Arc<AtomicUsize>) {
    let answers: Vec<IpAddr> = answers.iter().map(|address| address.parse().unwrap()).collect();
    let lookups = Arc::new(AtomicUsize::new(0));
    let counted = lookups.clone();
    let outbound = Outbound::with_lookup(Arc::new(move |_| {
        let answer = answers[counted.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)];
        Box::pin(future::ready(Ok(vec![answer])))
    }));
    (outbound, lookups)
}

#[tokio::test]
async fn a_request_and_its_answer_pass_through() {
    let headers = "Content-Type: text/plain\r\nX-Two: 1\r\nX-Two: 2\r\nX-Latin: \u{e9}\r\nRetry-After: 7\r\n";
    let target = Target::start(
        "127.0.0.1",
        vec![
            answer("429 Slow Down", headers, "ok é".as_bytes()),
            b"HTTP/1.1 200 OK\r\ncontent-length: 5000000\r\n\r\n".to_vec(),
            answer("204 No Content", "", b""),
        ],
    )
    .await;
    let (outbound, policy) = (Outbound::new(), target.policy());

    let mut post = request(Method::POST, &format!("http://127.0.0.1:{}/a%20b?c=d#e", target.port), b"{}");
    post.headers = vec![("X-Api-Key".into(), "k".into()), ("User-Agent".into(), "mine".into())];
    let response = outbound.send(&policy, post).await.unwrap();
    assert_eq!(response.status, 429);
    assert_eq!(response.body, "ok é".as_bytes());
    let header = |name: &str| -> Vec<&str> {
        response.headers.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(header("x-two"), ["1", "2"]);
    assert_eq!(header("x-latin"), ["é"]);
    assert_eq!(header("retry-after"), ["7"]);

    // The length that an answer to HEAD declares is not the length of anything sent.
    let head = Request { method: Method::HEAD, ..target.get("/") };
    assert_eq!(outbound.send(&policy, head).await.unwrap().body, "");
    let empty = Request { method: Method::POST, ..target.get("/") };
    assert_eq!(outbound.send(&policy, empty).await.unwrap().status, 204);

    let requests = target.requests.lock().unwrap();
    assert!(requests[0].starts_with("POST /a%20b?c=d HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].ends_with("\r\n\r\n{}"), "{}", requests[0]);
    for header in [&format!("host: 127.0.0.1:{}", target.port), "x-api-key: k", "user-agent: mine", "content-length: 2"]
    {
        assert_eq!(requests[0].matches(&format!("\r\n{header}\r\n")).count(), 1, "{header} in {}", requests[0]);
    }
    assert!(!requests[0].contains("accept-encoding"), "{}", requests[0]);
    assert!(requests[1].contains(concat!("user-agent: tomada/", env!("CARGO_PKG_VERSION"))), "{}", requests[1]);
    assert!(requests[2].contains("\r\ncontent-length: 0\r\n"), "{}", requests[2]);
    assert_eq!(target.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_private_address_needs_both_grants() {
    let target = Target::start("127.0.0.1", vec![]).await;
    let (outbound, here) = (Outbound::new(), target.hosts("127.0.0.1"));
    let private = [format!("127.0.0.1/32:{}", target.port)];
    let denied = async |policy: Policy| match outbound.send(&policy, target.get("/t0ken?t0ken")).await {
        Err(Error::Denied(text)) => text,
        other => panic!("{other:?}"),
    };

    let text = denied(Policy::new(&[], &private).unwrap()).await;
    assert!(text.contains(&format!("http://127.0.0.1:{}", target.port)) && text.contains("`hosts`"), "{text}");
    assert!(!text.contains("t0ken"), "{text}");
    let text = denied(Policy::new(&here, &[]).unwrap()).await;
    assert!(text.contains(&format!("`127.0.0.1/32:{}`", target.port)) && text.contains("`allow_private`"), "{text}");
    assert!(!text.contains("t0ken"), "{text}");
    denied(Policy::new(&here, &["127.0.0.1/32:1".into()]).unwrap()).await;

    // The same by name: the resolver's refusal comes out of the client as a denial with the same advice.
    let (outbound, _) = resolving_to(vec!["127.0.0.1"]);
    let policy = Policy::new(&target.hosts("crm.example"), &[]).unwrap();
    let url = format!("http://crm.example:{}/t0ken", target.port);
    let Err(Error::Denied(text)) = outbound.send(&policy, request(Method::GET, &url, b"")).await else { panic!() };
    assert!(text.contains("http://crm.example:") && text.contains(&private[0]), "{text}");
    assert!(!text.contains("t0ken"), "{text}");
    assert_eq!(target.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn redirects_are_answers() {
    let target = Target::start(
        "127.0.0.1",
        vec![
            answer("302 Found", "location: http://169.254.169.254/latest/meta-data\r\n", b"gone"),
            answer("307 Temporary Redirect", "location: /again\r\n", b""),
            answer("302 Found", "location: http://[t0ken\r\n", b""),
            answer("302 Found", "location: http://1.2.3.4.5/t0ken\r\n", b""),
        ],
    )
    .await;
    let (outbound, policy) = (Outbound::new(), target.policy());
    let response = outbound.send(&policy, target.get("/")).await.unwrap();
    assert_eq!((response.status, &response.body[..]), (302, &b"gone"[..]));
    assert_eq!(outbound.send(&policy, target.get("/")).await.unwrap().status, 307);
    for _ in 0..2 {
        assert_eq!(outbound.send(&policy, target.get("/")).await.unwrap().status, 302);
    }
    assert_eq!(target.requests.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn a_name_that_changes_its_address_gains_nothing() {
    // Both listen on one port; only 127.0.0.1 is allowed. The name says 127.0.0.1 first and 127.0.0.2 ever after.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let good =
        Target::listen(listener, vec![answer("200 OK", "", b"1"), answer("200 OK", "connection: close\r\n", b"2")]);
    let bad = Target::listen(TcpListener::bind(("127.0.0.2", port)).await.unwrap(), vec![]);
    let (outbound, lookups) = resolving_to(vec!["127.0.0.1", "127.0.0.2"]);
    let policy = Policy::new(&good.hosts("rebind.example"), &[format!("127.0.0.1/32:{port}")]).unwrap();
    let send = || outbound.send(&policy, request(Method::GET, &format!("http://rebind.example:{port}/"), b""));

    // One lookup, whose answer is both checked and dialled.
    assert_eq!(send().await.unwrap().body, "1");
    assert_eq!(lookups.load(Ordering::SeqCst), 1);
    // The kept connection asks nobody.
    assert_eq!(send().await.unwrap().body, "2");
    assert_eq!(lookups.load(Ordering::SeqCst), 1);
    // The next connection is checked anew.
    assert!(matches!(send().await, Err(Error::Denied(text)) if text.contains("127.0.0.2")));
    assert_eq!(lookups.load(Ordering::SeqCst), 2);
    assert_eq!((good.connections.load(Ordering::SeqCst), bad.connections.load(Ordering::SeqCst)), (1, 0));
}

#[tokio::test]
async fn a_name_with_one_bad_address_is_not_dialled_at_all() {
    let target = Target::start("127.0.0.1", vec![answer("200 OK", "", b"")]).await;
    let mixed = ["127.0.0.1", "127.0.0.2"].map(|address| address.parse().unwrap()).to_vec();
    let outbound = Outbound::with_lookup(Arc::new(move |_| Box::pin(future::ready(Ok(mixed.clone())))));
    let send = async |allow: &str| {
        let allow = [format!("{allow}:{}", target.port)];
        let policy = Policy::new(&target.hosts("mixed.example"), &allow).unwrap();
        outbound.send(&policy, request(Method::GET, &format!("http://mixed.example:{}/", target.port), b"")).await
    };
    assert!(matches!(send("127.0.0.1/32").await, Err(Error::Denied(text)) if text.contains("127.0.0.2")));
    assert_eq!(target.connections.load(Ordering::SeqCst), 0);
    assert_eq!(send("127.0.0.0/8").await.unwrap().status, 200);
}

#[tokio::test]
async fn the_hubs_own_door_is_never_dialled() {
    for (own, dialled) in
        [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("[::]", "[::ffff:127.0.0.1]")]
    {
        let target = Target::start("127.0.0.1", vec![answer("200 OK", "", b"")]).await;
        let port = target.port;
        let allow = ["0.0.0.0/0:*".into(), "::/0:*".into()];
        let asked = |host: &str| request(Method::GET, &format!("http://{host}:{port}/"), b"");
        let (outbound, _) = resolving_to(vec![dialled.trim_matches(['[', ']'])]);
        let policy = |host: &str| Policy::new(&[format!("http://{host}:{port}")], &allow).unwrap();
        outbound.listens_on(format!("{own}:{port}").parse().unwrap());
        for host in [dialled, "hub.example"] {
            let denied = outbound.send(&policy(host), asked(host)).await;
            assert!(matches!(&denied, Err(Error::Denied(text)) if text.contains("itself listens")), "{denied:?}");
        }
        assert_eq!(target.connections.load(Ordering::SeqCst), 0, "{own} {dialled}");

        // Another port of the same machine is another server.
        let neighbour = Target::start("127.0.0.1", vec![answer("200 OK", "", b"")]).await;
        let policy = Policy::new(&neighbour.hosts("127.0.0.1"), &allow).unwrap();
        assert_eq!(outbound.send(&policy, neighbour.get("/")).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_kept_connection_serves_only_endpoints_with_the_same_list() {
    let answers = || (0..4).map(|_| answer("200 OK", "", b"")).collect();
    let target = Target::start("127.0.0.1", answers()).await;
    let (outbound, _) = resolving_to(vec!["127.0.0.1"]);
    let hosts = target.hosts("crm.example");
    let here = format!("127.0.0.1/32:{}", target.port);
    let send = async |allow: &[&str]| {
        let policy = Policy::new(&hosts, &allow.iter().map(|&text| text.into()).collect::<Vec<_>>()).unwrap();
        outbound.send(&policy, request(Method::GET, &format!("http://crm.example:{}/", target.port), b"")).await
    };
    send(&[&here]).await.unwrap();
    send(&[&here]).await.unwrap();
    assert_eq!(target.connections.load(Ordering::SeqCst), 1);
    // The connection is there and idle, and still not for these.
    assert!(matches!(send(&[]).await, Err(Error::Denied(_))));
    assert!(matches!(send(&["127.0.0.1/32:1"]).await, Err(Error::Denied(_))));
    // Order does not make a list another one.
    send(&["10.0.0.0/8:443", &here]).await.unwrap();
    send(&[&here, "10.0.0.0/8:443"]).await.unwrap();
    assert_eq!(target.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn answers_are_cut_at_the_limit() {
    let limit = MAX_RESPONSE_BODY as usize;
    let chunked = |size: usize| {
        let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for piece in vec![b'a'; size].chunks(60_000) {
            answer.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            answer.extend_from_slice(piece);
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"0\r\n\r\n");
        answer
    };
    let wide = format!("x-wide: {}\r\n", "a".repeat(MAX_RESPONSE_HEADERS));
    let target = Target::start(
        "127.0.0.1",
        vec![
            answer("200 OK", "", &vec![b'a'; limit]),
            chunked(limit),
            // Declared only: refused before a byte of it comes.
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", limit + 1).into_bytes(),
            chunked(limit + 1),
            answer("200 OK", &wide, b""),
        ],
    )
    .await;
    let (outbound, policy) = (Outbound::new(), target.policy());
    for _ in 0..2 {
        let body = outbound.send(&policy, target.get("/")).await.unwrap().body;
        assert!(body.len() == limit && body.iter().all(|byte| *byte == b'a'));
    }
    for limit in [MAX_RESPONSE_BODY, MAX_RESPONSE_BODY, MAX_RESPONSE_HEADERS as u64] {
        assert_eq!(outbound.send(&policy, target.get("/")).await.unwrap_err(), Error::TooLarge(limit));
    }
    let large = Request { body: vec![0; MAX_REQUEST_BODY + 1].into(), ..target.get("/") };
    assert!(matches!(outbound.send(&policy, large).await, Err(Error::Invalid(_))));
    assert_eq!(target.requests.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_a_timeout() {
    let target = Target::start(
        "127.0.0.1",
        vec![b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec(), b"HTTP/1.1 200 OK\r\n".to_vec()],
    )
    .await;
    let (outbound, policy) = (Outbound::new(), target.policy());
    for _ in 0..2 {
        let short = Request { timeout: Duration::from_millis(100), ..target.get("/") };
        assert_eq!(outbound.send(&policy, short).await.unwrap_err(), Error::Timeout);
    }
}

#[tokio::test]
async fn failures_name_host_and_port_only() {
    let closed = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
    let target = Target::start(
        "127.0.0.1",
        vec![
            b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\nhalf".to_vec(),
        ],
    )
    .await;
    let outbound = Outbound::with_lookup(Arc::new(|name| {
        Box::pin(future::ready(match name.as_str() {
            "empty.example" => Ok(vec![]),
            "unknown.example" => Err(io::Error::other("name or service not known")),
            _ => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
        }))
    }));
    for (host, port, sent, told) in [
        ("127.0.0.1", closed, false, "connection refused"),
        ("closed.example", closed, false, "connection refused"),
        ("empty.example", closed, false, "no address"),
        ("unknown.example", closed, false, "name or service not known"),
        ("127.0.0.1", target.port, true, "HTTP"),
        ("127.0.0.1", target.port, true, "before message length reached"),
        // It reads the request, and closes the connection without an answer.
        ("127.0.0.1", target.port, true, "before message completed"),
    ] {
        let policy = Policy::new(&[format!("http://{host}:{port}")], &["127.0.0.0/8:*".into()]).unwrap();
        let mut asked = request(Method::POST, &format!("http://{host}:{port}/t0ken?t0ken#t0ken"), b"t0ken");
        asked.headers = vec![("authorization".into(), "t0ken".into())];
        let error = outbound.send(&policy, asked).await.unwrap_err();
        let (Error::Unreachable(text) | Error::Interrupted(text)) = &error else { panic!("{error:?}") };
        assert_eq!(matches!(error, Error::Interrupted(_)), sent, "{error:?}");
        assert!(text.starts_with(&format!("http://{host}:{port}: ")) && text.contains(told), "{text}");
        assert!(!format!("{error} {error:?}").contains("t0ken"), "{text}");
    }

    // TLS to what does not speak it.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream.read_to_end(&mut Vec::new()).await
    });
    let policy = Policy::new(&[format!("plain.example:{port}")], &["127.0.0.0/8:*".into()]).unwrap();
    let asked = request(Method::GET, &format!("https://plain.example:{port}/t0ken"), b"");
    let error = outbound.send(&policy, asked).await.unwrap_err();
    let Error::Unreachable(text) = &error else { panic!("{error:?}") };
    assert!(text.starts_with(&format!("plain.example:{port}: ")) && !text.contains("t0ken"), "{text}");
}
