//! A marker in everything that people send and that has to stay secret, the whole way of an event, its failures and its
//! operators: none of them shows in a log at TRACE, in an answer without `payload:read`, in an error, on a terminal.
//!
//! What is marked ([`PLACES`]) and what is searched ([`Searched`]) are lists: a new place is a line.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hyper::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tomada::app::{api_routes, api_scopes};

use crate::harness::Place;
use crate::harness::partner::{self, Partner};
use crate::harness::process::HubProcess;
use crate::harness::smtp::{SmtpServer, Terms};
use crate::harness::{TestHub, eventually, trace};

const PATH: &str = "/webhooks/partner/order";

/// Where markers are put. Each has a text of its own, so that a hit says where it came from.
const PLACES: &[&str] = &[
    // What a partner sends.
    "payload: name",
    "payload: nested",
    "payload: in a list",
    "payload: JSON key",
    "payload: ordering key",
    "idempotency key",
    "idempotency key: retried",
    "query string",
    "header: kept",
    "header: not kept",
    "header: user agent",
    "header: cookie",
    "signature: wrong",
    "signature: of nobody",
    "path token: wrong",
    "body: malformed",
    "body: event type",
    "body: oversize",
    "body: unsigned",
    "path: unknown",
    "feedback: claims",
    "feedback: answer",
    "feedback: wrong token",
    // Secrets.
    "secret: source",
    "secret: path token",
    "secret: link",
    "secret: connector",
    "secret: signing",
    "secret: smtp",
    // What a target answers.
    "answer: body",
    "answer: header",
    "answer: status text",
    "answer: SMTP",
    // What a guest says comes of the payload.
    "payload: told by a connector",
    "payload: told by a mapping",
    "payload: cursor",
    "payload: mail address",
    "payload: mail text",
    "payload: schedule",
    "payload: emitted",
    // What operators send.
    "API: payload",
    "API: idempotency key",
    "API: malformed",
    "API: wrong type",
    "API: wrong scheme",
    "apply: secret in place",
    "API: reason",
    "API: path",
    "API: query",
    // Personal data with a shape.
    "cpf",
    "phone",
    "email",
];

/// A place's marker: letters and digits, so that it may stand anywhere, unlike anything else.
fn marker(place: &str) -> String {
    assert!(PLACES.contains(&place), "{place:?} is not among PLACES");
    match place {
        "cpf" => "529.982.247-25".to_owned(),
        "phone" => "5511987650123".to_owned(),
        "email" => "kanari.mk@pessoa.example".to_owned(),
        _ => format!("Mk{}Z", &hex::encode(Sha256::digest(place))[..20]),
    }
}

/// What to look for, with its name: the markers, and what became secret meanwhile.
struct Watched {
    all: Vec<(String, String)>,
}

impl Watched {
    fn new() -> Watched {
        Watched { all: PLACES.iter().map(|place| ((*place).to_owned(), marker(place))).collect() }
    }

    fn also(&mut self, name: &str, secret: &str) {
        self.all.push((name.to_owned(), secret.to_owned()));
    }

    /// The names of all that stands in the haystack: as it is, in other case, in hex, percent-encoded, escaped as in JSON,
    /// or anywhere in base64.
    fn hits(&self, haystack: &[u8]) -> Vec<String> {
        let lower = haystack.to_ascii_lowercase();
        let stands = |all: &[u8], part: &[u8]| all.windows(part.len()).any(|window| window == part);
        let found = |text: &str| {
            let bytes = text.as_bytes();
            let folded = bytes.to_ascii_lowercase();
            let percent = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02x}")).collect::<String>();
            let kept = |byte: &u8| {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
                    (*byte as char).to_string()
                } else {
                    percent(&[*byte])
                }
            };
            let escaped: String = bytes.iter().map(|byte| format!("\\u{byte:04x}")).collect();
            let listed = bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
            let any_case = [
                folded.clone(),
                hex::encode(bytes).into_bytes(),
                hex::encode(&folded).into_bytes(),
                percent(bytes).into_bytes(),
                bytes.iter().map(kept).collect::<String>().to_ascii_lowercase().into_bytes(),
                escaped.into_bytes(),
                listed.into_bytes(),
            ];
            // What stands before it shifts base64 by no, two or four bits.
            let mut encoded = (0..3).flat_map(|shift| {
                let padded = [&[b' '; 2][..shift], bytes].concat();
                let whole = padded.len() / 3 * 3;
                let begin = [0, 2, 3][shift];
                [STANDARD.encode(&padded[..whole]), URL_SAFE_NO_PAD.encode(&padded[..whole])]
                    .map(|text| text[begin..].to_owned())
            });
            any_case.iter().any(|form| stands(&lower, form)) || encoded.any(|form| stands(haystack, form.as_bytes()))
        };
        self.all.iter().filter(|(_, text)| found(text)).map(|(name, _)| name.clone()).collect()
    }
}

/// Where markers must not be.
#[derive(Default)]
struct Searched(Vec<(String, Vec<u8>)>);

impl Searched {
    fn add(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((name.into(), bytes.into()));
    }

    fn assert_clean(&self, watched: &Watched) {
        let mut wrong = Vec::new();
        for (name, bytes) in &self.0 {
            let hits = watched.hits(bytes);
            if !hits.is_empty() {
                let text = String::from_utf8_lossy(bytes);
                let lines = text.lines().filter(|line| !watched.hits(line.as_bytes()).is_empty()).take(3);
                wrong.push(format!("{name} holds {hits:?}:\n  {}", lines.collect::<Vec<_>>().join("\n  ")));
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }
}

/// A target that puts markers into all parts of its answers. The path says the status: `/422/…`; `/flaky/…` fails first.
struct Teller {
    port: u16,
    count: Arc<Mutex<u32>>,
}

impl Teller {
    async fn start() -> Teller {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let count = Arc::new(Mutex::new(0));
        let seen = count.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A hub that breaks off is no failure of the target's.
                tokio::spawn(answer(stream, seen.clone()));
            }
        });
        Teller { port, count }
    }

    fn count(&self) -> u32 {
        *self.count.lock().expect("unpoisoned")
    }

    /// An endpoint of a connector, with settings besides the URL.
    fn endpoint(&self, name: &str, connector: &str, status: &str, more: &str) -> String {
        let url = format!("http://127.0.0.1:{}", self.port);
        format!(
            r#"
            [endpoints.{name}]
            sensitive = true
            connector = "{connector}"
            settings = {{ url = "{url}/{status}/{name}"{more} }}
            hosts = ["{url}"]
            allow_private = ["127.0.0.1/32:{}"]
            retry = {{ attempts = 2, delays_s = [1], jitter = 0 }}
            breaker = {{ failures = 1000 }}
            "#,
            self.port
        )
    }
}

async fn answer(mut stream: TcpStream, count: Arc<Mutex<u32>>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if read == 0 || body.len() >= length.unwrap_or(0) {
            break;
        }
    }
    let seen = {
        let mut count = count.lock().expect("unpoisoned");
        *count += 1;
        *count
    };
    let text = String::from_utf8_lossy(&request);
    let status = match text.split('/').nth(1).unwrap_or_default() {
        "flaky" if seen == 1 => "503",
        "flaky" => "200",
        status => status,
    }
    .to_owned();
    let (status_text, header) = (marker("answer: status text"), marker("answer: header"));
    let body = json!({ "error": marker("answer: body") }).to_string();
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status} {status_text}\r\nx-answer: {header}\r\nset-cookie: s={header}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await
}

/// Files with a marker each, for `file:` references.
struct Secrets(tempfile::TempDir);

impl Secrets {
    fn reference(&self, place: &str) -> String {
        let file = self.0.path().join(hex::encode(place));
        let text = marker(place);
        // A signing secret of Standard Webhooks is base64.
        let text = if place == "secret: signing" { format!("whsec_{}", STANDARD.encode(text.repeat(2))) } else { text };
        std::fs::write(&file, text).expect("the secret is written");
        format!("file:{}", file.display())
    }
}

fn configuration(target: &Teller, smtp: &SmtpServer, secrets: &Secrets) -> String {
    let of = |place: &str| secrets.reference(place);
    let (source, link, token) = (of("secret: source"), of("secret: link"), of("secret: path token"));
    let mut toml = format!(
        r#"
        [sources.partner]
        auth = {{ scheme = "hmac-hex", secrets = ["{source}"] }}
        idempotency = {{ pointer = "/idempotency_key" }}
        keep_headers = ["x-kept"]
        sensitive = true
        [[sources.partner.webhooks]]
        path = "{PATH}"
        event = {{ pointer = "/type" }}
        queue = "integrations"
        [sources.tokens]
        auth = {{ scheme = "path-token", secrets = ["{token}"], reason = "it cannot sign" }}
        sensitive = true
        [[sources.tokens.webhooks]]
        path = "/webhooks/tokens/{{token}}"
        event = "order.done"
        queue = "integrations"
        [sources.feedback]
        auth = {{ scheme = "signed-link", secrets = ["{link}"] }}
        sensitive = true
        [[sources.feedback.webhooks]]
        path = "/feedback/{{token}}"
        event = "order.done"
        queue = "integrations"
        [schedules.report]
        cron = "0 8 * * *"
        event = "order.done"
        payload = {{ note = "{}" }}
        [sync_jobs.items]
        [mappings.broken.settings.rules]
        number = {{ type = "direct" }}
        [mappings.telling]
        component = "hostile-map"
        settings = {{ mode = "tells" }}
        "#,
        marker("payload: schedule"),
    );
    let mut way = |event: &str, endpoint: &str, more: &str| {
        toml += &format!("[[routes]]\nevent = \"{event}\"\nendpoint = \"{endpoint}\"\n{more}\n");
    };
    way("order.done", "shop", "ordering = \"/client\"");
    way("order.rejected", "refusing", "");
    way("order.failing", "failing", "");
    way("order.forbidden", "forbidding", "");
    way("order.broken", "unreached", "mapping = \"broken\"");
    way("order.unmapped", "unreached", "mapping = \"telling\"");
    way("order.traps", "telling", "");
    way("order.leaks", "leaking", "");
    way("order.overflows", "overflowing", "");
    way("order.mailed", "mailing", "");
    way("sync.items", "paging", "");
    way("event.delivered", "shop", "");
    let signing = format!("secrets = {{ signing = \"{}\" }}\n", of("secret: signing"));
    let connector = format!("secrets = {{ token = \"{}\" }}\n", of("secret: connector"));
    let hostile = |mode: &str| format!(", mode = \"{mode}\"");
    toml += &target.endpoint("shop", "webhook", "flaky", ", announce = [\"order.done\"]");
    toml += &signing;
    toml += &target.endpoint("refusing", "webhook", "422", "");
    toml += &target.endpoint("failing", "webhook", "500", "");
    toml += &target.endpoint("forbidding", "webhook", "401", "");
    toml += &target.endpoint("unreached", "webhook", "200", "");
    toml += &target.endpoint("telling", "hostile", "200", &hostile("tells"));
    toml += &target.endpoint("leaking", "hostile", "200", &hostile("leaks"));
    toml += &connector;
    toml += &target.endpoint("overflowing", "hostile", "200", &hostile("overflows"));
    toml += &target.endpoint("paging", "pager", "422", ", items = 2, per_page = 1, broken_at = 1");
    toml += &format!(
        r#"
        [endpoints.mailing]
        sensitive = true
        connector = "email"
        settings = {{ hub_url = "https://hub.test" }}
        allow_private = ["127.0.0.1/32:{port}"]
        secrets = {{ feedback_link = "{link}" }}
        retry = {{ attempts = 1 }}
        smtp = {{ server = "127.0.0.1:{port}", tls = "none", from = "Us <us@hub.test>" }}
        "#,
        port = smtp.port
    );
    toml
}

/// What a partner sends, with a marker in each part.
fn order(event: &str, key: &str) -> Value {
    let mut order = json!({
        "type": event, "idempotency_key": key, "name": marker("payload: name"), "client": marker("payload: ordering key"),
        "nested": { "deep": { "er": marker("payload: nested") } }, "list": [1, [marker("payload: in a list")]],
        "cpf": marker("cpf"), "phone": marker("phone"), "email": marker("email"),
        "told": [marker("payload: told by a connector"), marker("payload: told by a mapping")],
        "cursor": marker("payload: cursor"),
    });
    order[marker("payload: JSON key")] = 1.into();
    order
}

struct Sender {
    partner: Partner,
    secret: String,
}

impl Sender {
    async fn post(&mut self, path: &str, body: &str, signature: Option<&str>) -> tomada::client::Answer {
        let right = partner::signature_with(self.secret.as_bytes(), body);
        let (kept, other, agent, cookie) = (
            marker("header: kept"),
            marker("header: not kept"),
            marker("header: user agent"),
            format!("session={}", marker("header: cookie")),
        );
        let headers = [
            ("x-webhook-signature", signature.unwrap_or(&right)),
            ("x-kept", &kept),
            ("x-other", &other),
            ("user-agent", &agent),
            ("cookie", &cookie),
        ];
        self.partner.request(Method::POST, path, &headers, body).await.expect("an answer")
    }

    async fn accepted(&mut self, body: &Value) -> String {
        let answer = self.post(&format!("{PATH}?q={}", marker("query string")), &body.to_string(), None).await;
        assert_eq!(answer.status, 202, "{}", answer.problem());
        answer.json::<Value>().expect("JSON")["id"].as_str().expect("an id").to_owned()
    }
}

fn link(expires_s: u64) -> String {
    let claims = json!({ "service_id": 7, "client_id": marker("feedback: claims"), "exp": expires_s }).to_string();
    let claims = URL_SAFE_NO_PAD.encode(claims);
    let signature = hex::decode(partner::signature_with(marker("secret: link").as_bytes(), &claims)).expect("hex");
    format!("/feedback/{claims}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Everything that is wrong at the doors; the answers go where markers must not be.
async fn refused_at_the_doors(sender: &mut Sender, url: &str, searched: &mut Searched) {
    let good = order("order.done", &marker("idempotency key")).to_string();
    let (token, wrong) = (marker("secret: path token"), marker("path token: wrong"));
    let typed = json!({ "type": marker("body: event type") + " not a type" }).to_string();
    let unsigned = json!({ "name": marker("body: unsigned") }).to_string();
    let oversize = format!("\"{}\"", marker("body: oversize").repeat(60_000));
    let unknown = format!("/webhooks/{}", marker("path: unknown"));
    for (path, body, signature, status) in [
        (PATH.to_owned(), good.clone(), Some(marker("signature: wrong")), 401),
        (PATH.to_owned(), good.clone(), Some(hex::encode(Sha256::digest(marker("signature: of nobody")))), 401),
        (PATH.to_owned(), unsigned.clone(), Some(String::new()), 401),
        (PATH.to_owned(), format!("{{\"type\": {}", marker("body: malformed")), None, 400),
        (PATH.to_owned(), typed, None, 400),
        (PATH.to_owned(), unsigned, None, 400),
        (PATH.to_owned(), oversize, None, 413),
        (unknown, good.clone(), None, 404),
        (format!("/webhooks/tokens/{wrong}"), good.clone(), None, 401),
        (format!("/webhooks/tokens/{token}{wrong}"), good, None, 401),
    ] {
        // After a body that is too large the connection is closed.
        sender.partner = Partner::of(url, PATH).await;
        let answer = sender.post(&path, &body, signature.as_deref()).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.problem());
        searched.add(format!("the answer {status} at the door"), answer.body.to_vec());
        searched.add(format!("headers of {status} at the door"), format!("{:?}", answer.headers));
    }
    sender.partner = Partner::of(url, PATH).await;
    let wrong = format!("/feedback/{}.{}", marker("feedback: wrong token"), marker("feedback: wrong token"));
    let form = format!("rating=5&comment={}", marker("feedback: answer"));
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    for path in [wrong, link(1)] {
        let answer = sender.partner.request(Method::POST, &path, &headers, &form).await.expect("an answer");
        assert!(answer.status >= 400, "{path} is refused");
        searched.add("the page of a link that is not good", answer.body.to_vec());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_marker_shows_where_it_must_not() {
    trace::record();
    let (target, smtp) = (Teller::start().await, SmtpServer::start(Terms::default()).await);
    let secrets = Secrets(tempfile::TempDir::new().expect("a directory"));
    let (mut watched, mut searched) = (Watched::new(), Searched::default());
    let hub = TestHub::start(&configuration(&target, &smtp, &secrets)).await;
    watched.also("the machine's key", hub.key().rsplit('_').next().expect("a secret"));
    let mut sender = Sender { partner: Partner::of(&hub.url, PATH).await, secret: marker("secret: source") };

    // Accepted, tried again, delivered, announced; a duplicate; by every door.
    let mut ids = Vec::new();
    let flaky = sender.accepted(&order("order.done", &marker("idempotency key: retried"))).await;
    let delivered = |event: &Value| {
        hub.clock.advance(Duration::from_millis(200));
        event["deliveries"][0]["status"] == "delivered"
    };
    let event = hub.event_when(&flaky, delivered).await;
    assert!(event["deliveries"][0]["attempts"].as_u64() >= Some(2), "it was tried again: {event:#}");
    ids.push(flaky);
    let body = order("order.done", &marker("idempotency key"));
    let first = sender.accepted(&body).await;
    assert_eq!(sender.accepted(&body).await, first, "a duplicate");
    ids.push(first);
    let path = format!("/webhooks/tokens/{}", marker("secret: path token"));
    assert_eq!(sender.post(&path, &body.to_string(), None).await.status, 202);
    let form = format!("rating=5&comment={}", marker("feedback: answer"));
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let path = link(crate::harness::START_MS / 1000 + 86_400);
    let answer = sender.partner.request(Method::POST, &path, &headers, &form).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));

    // Everything that can go wrong with a delivery.
    smtp.refuses("RCPT", 550, Box::leak(format!("5.1.1 {} is unknown", marker("answer: SMTP")).into_boxed_str()));
    for (event, status) in [
        ("order.rejected", "dead"),
        ("order.failing", "dead"),
        ("order.forbidden", "held"),
        ("order.broken", "dead"),
        ("order.unmapped", "dead"),
        ("order.traps", "dead"),
        ("order.leaks", "delivered"),
        ("order.overflows", "dead"),
        ("order.mailed", "dead"),
        ("order.unrouted", ""),
    ] {
        let mut body = order(event, &format!("{}-{event}", marker("idempotency key")));
        if event == "order.mailed" {
            body["template"] = "feedback_request".into();
            body["to"] = format!("{}@example.com", marker("payload: mail address")).into();
            body["nome"] = marker("payload: mail text").into();
            for id in ["service_id", "client_id", "caregiver_id"] {
                body[id] = 7.into();
            }
            body["cuidador"] = marker("payload: mail text").into();
        }
        let id = sender.accepted(&body).await;
        hub.event_when(&id, |event| {
            hub.clock.advance(Duration::from_millis(200));
            crate::harness::statuses(event).iter().all(|found| found == status)
        })
        .await;
        ids.push(id);
    }
    refused_at_the_doors(&mut sender, &hub.url, &mut searched).await;

    // Time, and a run that fails.
    hub.clock.advance(Duration::from_secs(8 * 3600));
    hub.post("/api/sync-jobs/items/run", json!({})).await;
    eventually("the run fails", async || hub.get("/api/sync-jobs").await["items"][0]["last_run"]["state"] == "failed")
        .await;

    // Operators: with the machine's key, with one that sees no content, with wrong ones.
    let published = json!({
        "event_type": "order.rejected", "source_system": "till", "idempotency_key": marker("API: idempotency key"),
        "payload": { "name": marker("API: payload"), "emitted": marker("payload: emitted") },
    });
    let published = hub.post("/api/events", published).await["id"].as_str().expect("an id").to_owned();
    let dead = hub.event_with(&published, "dead").await;
    let delivery = dead["deliveries"][0]["id"].as_str().expect("an id").to_owned();
    hub.post(&format!("/api/deliveries/{delivery}/replay"), json!({})).await;
    hub.event_with(&published, "dead").await;
    ids.push(published);
    hub.post("/api/endpoints/failing/pause", json!({ "reason": marker("API: reason") })).await;
    let make = async |name: &str, scopes: Vec<&str>| {
        let made = hub.post("/api/keys", json!({ "name": name, "scopes": scopes })).await;
        made["key"].as_str().expect("a key").to_owned()
    };
    let blind = make("blind", api_scopes().into_iter().filter(|scope| *scope != "payload:read").collect()).await;
    watched.also("a key that sees no content", blind.rsplit('_').next().expect("a secret"));
    let mut caller = Partner::of(&hub.url, "").await;
    let mut ask = async |key: &str, method: &str, path: &str, body: &str| {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let headers = [("x-api-key", key), ("content-type", "application/json")];
        caller.request(method, path, &headers, body).await.expect("an answer")
    };
    let mut seen = 0;
    for route in api_routes().into_iter().filter(|route| route.method == "GET") {
        let names = ["items", "broken", "telling", "failing"];
        let paths = if route.path.contains("{id}") {
            ids.iter().map(|id| route.path.replace("{id}", id)).collect::<Vec<_>>()
        } else {
            names.iter().map(|name| route.path.replace("{name}", name)).collect()
        };
        for path in paths {
            for more in ["", "?limit=500", "?payload=true"] {
                let path = format!("/api{path}{more}");
                let answer = ask(&blind, "GET", &path, "").await;
                searched.add(format!("GET {path} without payload:read"), answer.body.to_vec());
                let whole = ask(hub.key(), "GET", &path, "").await;
                seen += watched.hits(&whole.body).len();
            }
        }
    }
    assert!(seen > 100, "with payload:read markers are there to be seen: {seen}");
    let typed = |field: &str, place: &str| {
        let mut body = json!({ "event_type": "order.done", "source_system": "till", "payload": {} });
        body[field] = json!({ "a": marker(place) });
        body.to_string()
    };
    let wrong_type = json!({ "event_type": "order.done", "source_system": "till", "payload": {}, "delay_s": marker("API: wrong type") });
    let in_place = json!({ "config": { "sources": { "x": {
        "auth": { "scheme": "hmac-hex", "secrets": [marker("apply: secret in place")] },
        "webhooks": [{ "path": "/webhooks/x/y", "event": "a.b", "queue": "integrations" }],
    } } } });
    let unknown = format!("/api/{}", marker("API: path"));
    let query = format!("/api/events?type={}", marker("API: query"));
    let wrong_key = format!("tmd_{}_{}", "0".repeat(10), hex::encode(Sha256::digest("a wrong key")));
    watched.also("a wrong key", wrong_key.rsplit('_').next().expect("a secret"));
    for (key, method, path, body) in [
        (&*blind, "POST", "/api/events", format!("{{ {}", marker("API: malformed"))),
        (&*blind, "POST", "/api/events", typed("event_type", "API: wrong type")),
        (&*blind, "POST", "/api/events", typed("idempotency_key", "API: wrong type")),
        (&*blind, "POST", "/api/events", wrong_type.to_string()),
        (&*blind, "POST", "/api/apply", in_place.to_string()),
        (&*blind, "POST", "/api/mappings/broken/try", json!({ "event": ids[0] }).to_string()),
        (&*blind, "GET", &*unknown, String::new()),
        (&*wrong_key, "GET", "/api/events", String::new()),
        (&*marker("API: wrong scheme"), "GET", "/api/events", String::new()),
        (&*blind, "GET", &*query, String::new()),
    ] {
        let answer = ask(key, method, path, &body).await;
        assert!(answer.status >= 400 || path.contains('?'), "{method} {path}: {}", answer.status);
        searched.add(format!("the answer {} to {method} {path}", answer.status), answer.body.to_vec());
    }

    // The commands, as somebody who sees no content; what fails says so on standard error.
    let (event, delivery) = (ids[0].as_str(), delivery.as_str());
    for arguments in [
        &["events"][..],
        &["events", "--json"],
        &["events", event],
        &["events", event, "--json"],
        &["dead-letters"],
        &["dead-letters", "--json"],
        &["endpoints"],
        &["endpoints", "--json"],
        &["sources"],
        &["schedules"],
        &["sync"],
        &["sync", "runs", "items"],
        &["keys", "list"],
        &["connector", "list"],
        &["mappings", "list"],
        &["mappings", "show", "broken"],
        &["mappings", "try", "broken", "--event", event],
        &["replay", delivery],
        &["replay", "dlv_0000000000000"],
    ] {
        let output = hub.command(&[arguments, &["--key", &*blind][..]].concat()).await;
        searched.add(format!("tomada {arguments:?}"), [output.stdout, output.stderr].concat());
        let output = hub.command(arguments).await;
        searched.add(format!("standard error of tomada {arguments:?}"), output.stderr);
    }
    for file in ["hub.json", "config.json"] {
        let bytes = std::fs::read(hub.directory().join(file)).expect("it is there");
        // The payload of a schedule is configuration.
        let text = String::from_utf8(bytes).expect("text").replace(&marker("payload: schedule"), "");
        searched.add(file, text);
    }
    assert!(target.count() > 8, "the target was asked");
    // Everything here is sensitive, so no content lies in the database, and no secret ever does. What is configured in
    // clear does, and so does what an operator gave as a reason.
    let mut dump = hub.database();
    for place in ["payload: schedule", "API: reason"] {
        let marker = marker(place).into_bytes();
        let places: Vec<usize> = (0..dump.len()).filter(|at| dump[*at..].starts_with(&marker)).collect();
        places.into_iter().for_each(|at| dump[at..at + marker.len()].fill(b' '));
    }
    assert!(dump.windows(10).any(|window| window == b"order.done"), "the dump is one");
    searched.add("a dump of the database", dump);
    hub.abandon().await;

    let log = trace::recorded();
    let text = String::from_utf8_lossy(&log);
    for said in [
        "webhook refused",
        "attempt failed",
        "endpoint paused",
        "API request refused",
        "webhook verified",
        "link refused",
    ] {
        assert_eq!(text.matches(said).count() % 2, 0, "{said} is in both formats");
        assert!(text.contains(&format!(" {said}")) && text.contains(&format!("\"{said}\"")), "{said:?} was logged");
    }
    searched.add("the log at TRACE", log);
    searched.assert_clean(&watched);
}

/// The same as a process of its own: all that it writes, in both formats.
#[tokio::test(flavor = "multi_thread")]
async fn no_marker_shows_in_what_a_process_writes() {
    let watched = Watched::new();
    for format in [&[][..], &["--log-json"]] {
        let (target, smtp) = (Teller::start().await, SmtpServer::start(Terms::default()).await);
        let place = Place::new();
        let secrets = Secrets(tempfile::TempDir::new().expect("a directory"));
        let (file, log) = (place.path("tomada.toml"), place.path("log"));
        std::fs::write(&file, configuration_of_files(&configuration(&target, &smtp, &secrets))).expect("it is written");
        let hub = HubProcess::start_traced_with(&place, &file, &log, format).await;
        let mut searched = Searched::default();
        let mut sender = Sender { partner: Partner::of(&hub.url, PATH).await, secret: marker("secret: source") };
        for event in ["order.done", "order.rejected", "order.traps", "order.broken"] {
            sender.accepted(&order(event, &format!("{}-{event}", marker("idempotency key")))).await;
        }
        refused_at_the_doors(&mut sender, &hub.url, &mut searched).await;
        eventually("three are given up", async || {
            hub.get("/api/dead-letters").await["items"].as_array().expect("items").len() == 3
        })
        .await;
        hub.kill();
        let log = std::fs::read(&log).expect("the log");
        let text = String::from_utf8_lossy(&log);
        assert!(text.contains("attempt failed") && text.contains("webhook refused"), "{text}");
        searched.add(format!("what a process with {format:?} writes"), log);
        searched.assert_clean(&watched);
    }
}

/// Neither a core file nor another process of this user gets at the memory of a hub that was not started for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_keeps_its_memory() {
    use std::os::unix::fs::MetadataExt as _;
    let place = Place::new();
    let file = place.path("tomada.toml");
    std::fs::write(&file, "").expect("it is written");
    let ours = std::fs::metadata(place.directory()).expect("it is ours").uid();
    for (more, limit) in [(&[][..], Some("0")), (&["--debuggable"], None)] {
        let hub = HubProcess::start_traced_with(&place, &file, &place.path("log"), more).await;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", hub.pid())).expect("linux");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
        let hard = core.split_whitespace().nth(5).expect("a limit");
        assert!(limit.is_none_or(|limit| limit == hard), "{core}");
        // The kernel gives what belongs to a process that may not be looked into to root. Root itself sees no difference.
        let owner = std::fs::metadata(format!("/proc/{}/environ", hub.pid())).expect("linux").uid();
        assert!(owner == if limit.is_some() { 0 } else { ours }, "{more:?}: {owner}");
        hub.kill();
    }
}

/// Components by their files, since nobody hands them over.
fn configuration_of_files(toml: &str) -> String {
    let mut toml = toml.to_owned();
    for name in ["webhook", "hostile", "hostile-map", "pager", "email", "json-map"] {
        let file = crate::harness::components::path(name);
        toml += &format!("[connectors.{name}]\nfile = \"{}\"\n", file.display());
    }
    toml
}

/// The search sees what it has to see: a marker that is logged without our layer, in any of the forms.
#[test]
fn the_search_finds_what_is_there() {
    let watched = Watched::new();
    let written = Arc::new(Mutex::new(Vec::new()));
    #[derive(Clone)]
    struct Into(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Into {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let into = Into(written.clone());
    let bare = tracing_subscriber::fmt().with_writer(move || into.clone()).with_ansi(false).finish();
    let body = order("order.done", "a key").to_string();
    tracing::subscriber::with_default(bare, || tracing::info!(body, "logged as it must not be"));
    let hits = watched.hits(&written.lock().expect("unpoisoned"));
    for place in ["payload: name", "payload: nested", "payload: JSON key", "cpf", "phone", "email"] {
        assert!(hits.iter().any(|hit| hit == place), "{place} was not seen: {hits:?}");
    }
    assert!(watched.hits(b"nothing of it").is_empty());

    for place in ["payload: name", "cpf", "email"] {
        let text = marker(place);
        let percent = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let mut forms = vec![
            text.to_uppercase(),
            text.to_lowercase(),
            hex::encode(&text),
            hex::encode_upper(&text),
            percent(&text),
            text.replace('@', "%40"),
            format!("{:?}", text.as_bytes()),
        ];
        for before in ["", "a", "ab", "abc"] {
            forms.push(STANDARD.encode(format!("{before}{text} and more")));
            forms.push(URL_SAFE_NO_PAD.encode(format!("{before}{text}ÿÿ")));
        }
        for form in forms {
            assert_eq!(watched.hits(format!("x {form} y").as_bytes()), [place], "{form}");
        }
    }
    let all = PLACES.iter().map(|place| marker(place)).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(all.len(), PLACES.len(), "each place has a marker of its own");
}
