//! Stand-ins for the systems that the hub joins: servers on the loopback that answer as those do, check what those
//! check, and remember what they got. The demo shows it, tests ask for it.
//!
//! A system is a [`System`]: a state and a function from call to reply, without HTTP. What Carinho's own systems have in
//! common is in `door.rs`; a new one is a file beside `crm.rs` and a line in [`known`].

mod atendimento;
mod chaos;
mod crm;
mod cuidadores;
mod documentos;
mod door;
mod financeiro;
mod marketing;
mod operacao;
mod site;
mod smtp;
mod zapi;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::chaos::{Fate, Plan};
use self::door::Internal;

/// Longest body that is read, bytes.
const MAX_BODY: usize = 16 << 20;

/// Servers that run until this is dropped.
#[derive(Debug)]
pub struct StandIns {
    systems: BTreeMap<String, StandIn>,
    /// Endpoint → the system that stands in for its target, where the names differ.
    endpoints: BTreeMap<String, String>,
    memory: Arc<Memory>,
}

#[derive(Debug)]
struct StandIn {
    url: String,
    secrets: BTreeMap<&'static str, String>,
    desk: Arc<Desk>,
    server: JoinHandle<()>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Statuses that are still to be answered instead of the system, with their Retry-After in seconds; none where the system
/// answers.
type Failures = VecDeque<Option<(StatusCode, Option<u32>)>>;

/// What a stand-in got and what it said to that.
#[derive(Debug, Clone)]
pub struct Received {
    pub at: Instant,
    pub system: Arc<str>,
    pub method: Method,
    /// Of Z-API's path a part is secret: it is for comparing, not for showing.
    pub path: String,
    /// Decoded, in the order in which it came.
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub status: StatusCode,
    pub answer: Value,
    /// In a few words, for people; without secrets.
    pub note: String,
}

impl Received {
    /// The body as JSON, null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn is(&self, system: &str, method: &Method, path: &str) -> bool {
        *self.system == *system && self.method == *method && self.path == path
    }
}

/// A call as a system sees it.
struct Call<'a> {
    method: &'a Method,
    path: &'a str,
    query: &'a [(String, String)],
    headers: &'a HeaderMap,
    body: &'a [u8],
}

/// What a system says, and what it did, for people.
#[derive(Clone)]
struct Reply {
    status: StatusCode,
    body: Value,
    note: String,
}

impl Reply {
    fn new(status: StatusCode, body: Value, note: impl Into<String>) -> Reply {
        Reply { status, body, note: note.into() }
    }

    /// Something was done, and this is how it is now.
    fn done(data: Value, note: impl Into<String>) -> Reply {
        Reply::new(StatusCode::OK, json!({ "success": true, "data": data }), note)
    }

    fn list(items: Vec<Value>, note: impl Into<String>) -> Reply {
        Reply::new(StatusCode::OK, json!({ "data": items }), note)
    }

    fn refused(status: StatusCode, why: &str) -> Reply {
        Reply::new(status, json!({ "message": why }), why)
    }

    /// A field is not as it has to be, in Laravel's words.
    fn invalid(field: &str, what: &str) -> Reply {
        let why = format!("the field {field} {what}");
        let body = json!({ "message": why, "errors": { field: [why] } });
        Reply::new(StatusCode::UNPROCESSABLE_ENTITY, body, why)
    }

    /// The path exists, with other verbs.
    fn wrong_verb() -> Reply {
        Reply::refused(StatusCode::METHOD_NOT_ALLOWED, "wrong verb")
    }

    fn unknown_path() -> Reply {
        Reply::refused(StatusCode::NOT_FOUND, "unknown path")
    }

    fn unknown_id() -> Reply {
        Reply::refused(StatusCode::NOT_FOUND, "unknown id")
    }
}

/// What a system has stored, by kind, in the order in which it came.
#[derive(Debug, Default)]
struct Records {
    kinds: BTreeMap<&'static str, Vec<Value>>,
    /// Where the ids of seeded items begin. A hub that has worked for earlier stand-ins must not know them.
    seeded_from: usize,
}

impl Records {
    fn of(&self, kind: &str) -> &[Value] {
        self.kinds.get(kind).map_or(&[], Vec::as_slice)
    }

    /// Stores one under the next id; the first of its kind gets `first`.
    fn add(&mut self, kind: &'static str, first: usize, mut fields: Map<String, Value>) -> Value {
        let all = self.kinds.entry(kind).or_default();
        fields.insert("id".into(), (first + all.len()).into());
        let record = Value::Object(fields);
        all.push(record.clone());
        record
    }

    /// As [`Records::add`], with the answer to that; in `what` the id takes the place of `#`.
    fn create(&mut self, kind: &'static str, first: usize, fields: Map<String, Value>, what: &str) -> Reply {
        let record = self.add(kind, first, fields);
        let note = format!("{} created", what.replace('#', &record["id"].to_string()));
        Reply::new(StatusCode::CREATED, json!({ "success": true, "data": record }), note)
    }

    fn find_mut(&mut self, kind: &str, id: &str) -> Result<&mut Map<String, Value>, Reply> {
        let mut all = self.kinds.get_mut(kind).into_iter().flatten();
        let found = all.find(|record| plain(&record["id"]) == id);
        found.and_then(Value::as_object_mut).ok_or_else(Reply::unknown_id)
    }
}

/// One target system.
trait System: Send + 'static {
    /// The credentials that it accepts, by the names that its connector gives them.
    fn secrets(&self) -> BTreeMap<&'static str, String>;
    fn answer(&mut self, call: &Call<'_>) -> Reply;

    fn records(&self, _kind: &str) -> &[Value] {
        &[]
    }

    /// Puts items into one of its lists; false when it has no such list.
    fn seed(&mut self, _what: &str, _count: usize) -> bool {
        false
    }
}

/// A system that takes whatever comes, for endpoints that have no stand-in of their own.
struct Anything;

impl System for Anything {
    fn secrets(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::new()
    }

    fn answer(&mut self, call: &Call<'_>) -> Reply {
        Reply::new(StatusCode::OK, json!({}), format!("{} {}", call.method, call.path))
    }
}

/// The one that speaks SMTP.
pub(super) const EMAIL: &str = "email";

fn known() -> Result<Vec<(&'static str, Box<dyn System>)>> {
    let mut known: Vec<(&'static str, Box<dyn System>)> = Vec::new();
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random number: {error}"))?;
    let seeded_from = u32::from_le_bytes(bytes) as usize % 10_000 * 1000;
    for (name, api) in [
        ("crm", &crm::CRM),
        ("operacao", &operacao::OPERACAO),
        ("financeiro", &financeiro::FINANCEIRO),
        ("cuidadores", &cuidadores::CUIDADORES),
        ("atendimento", &atendimento::ATENDIMENTO),
        ("marketing", &marketing::MARKETING),
        ("site", &site::SITE),
        ("documentos", &documentos::DOCUMENTOS),
    ] {
        known.push((name, Box::new(Internal::new(api)?.seeded_from(seeded_from))));
    }
    known.push(("zapi", Box::new(zapi::Zapi::new()?)));
    known.push((EMAIL, Box::new(smtp::Mailbox::new()?)));
    Ok(known)
}

impl StandIns {
    /// Starts all known systems, each on a free port.
    ///
    /// # Errors
    /// There is no free port, or no random number.
    pub async fn start() -> Result<StandIns> {
        let mut stand_ins = StandIns { systems: BTreeMap::new(), endpoints: BTreeMap::new(), memory: Arc::default() };
        for (name, system) in known()? {
            stand_ins.open(name, system).await?;
        }
        Ok(stand_ins)
    }

    /// Starts one that takes whatever comes, unless there is one of that name.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn add(&mut self, name: &str) -> Result<()> {
        if self.systems.contains_key(name) { Ok(()) } else { self.open(name, Box::new(Anything)).await }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.systems.keys().map(String::as_str)
    }

    /// Whether there is one of that name.
    pub fn has(&self, system: &str) -> bool {
        self.systems.contains_key(system)
    }

    /// The system that stands in for an endpoint's target: the one of its name unless [`StandIns::answers_for`] said
    /// otherwise.
    pub fn system_of<'a>(&'a self, endpoint: &'a str) -> &'a str {
        self.endpoints.get(endpoint).map_or(endpoint, String::as_str)
    }

    pub(super) fn answers_for(&mut self, system: &str, endpoint: &str) {
        self.endpoints.insert(endpoint.into(), system.into());
    }

    /// `http://127.0.0.1:port`, of `email` `smtp://127.0.0.1:port`.
    ///
    /// # Panics
    /// There is no such system.
    pub fn url(&self, system: &str) -> &str {
        &self.system(system).url
    }

    /// The credentials that a system accepts, by the names that its connector gives them.
    ///
    /// # Panics
    /// There is no such system.
    pub fn secrets(&self, system: &str) -> &BTreeMap<&'static str, String> {
        &self.system(system).secrets
    }

    /// Makes a system answer its next `times` calls with `status`, and with a Retry-After in seconds when one is given,
    /// and do nothing else with them.
    ///
    /// # Panics
    /// There is no such system.
    pub fn fail_next(&self, system: &str, times: usize, status: StatusCode, retry_after_s: Option<u32>) {
        lock(&self.system(system).desk.forced).extend(std::iter::repeat_n(Some((status, retry_after_s)), times));
    }

    /// Makes a system answer one of its next calls with `status` and do nothing else with it: the one after `passed`.
    ///
    /// # Panics
    /// There is no such system.
    pub fn fail_after(&self, system: &str, passed: usize, status: StatusCode) {
        let passed = std::iter::repeat_n(None, passed);
        lock(&self.system(system).desk.forced).extend(passed.chain([Some((status, None))]));
    }

    /// Makes all systems misbehave from now on, as the seed wants it and not for ever: failures, late answers, broken
    /// connections, one creation that is refused for good and one WhatsApp message whose answer is lost.
    pub fn chaos(&self, seed: u64) {
        for (name, system) in &self.systems {
            *lock(&system.desk.plan) = Some(Plan::new(name, seed));
        }
    }

    /// Puts `count` items into a list that a sync job reads: `schedules` and `billing_setups` of `crm`, `services` of
    /// `operacao`, `updates` of `cuidadores`.
    ///
    /// # Panics
    /// There is no such system, or it has no such list.
    pub fn seed(&self, system: &str, what: &str, count: usize) {
        assert!(lock(&self.system(system).desk.system).seed(what, count), "{system} has no list of {what}");
    }

    /// What a system has stored, in the order in which it came: for instance `leads`, `advances`, `interactions`,
    /// `clients`, `deals`, `schedules`, `confirmations`, `billing_setups`, `contracts` of `crm`; `schedules`,
    /// `services`, `billed` of `operacao`; `clients`, `invoices`, `billing_setups` of `financeiro`; `updates`,
    /// `confirmations`, `ratings` of `cuidadores`; `conversations`, `messages` of `atendimento`; `campaigns`,
    /// `attributions`, `conversions` of `marketing`; `confirmations`, `statuses` of `site`; `contracts`, `consents`,
    /// `data_requests` of `documentos`; `events` (with `_meta`) of all these; `messages` of `zapi` and, by method,
    /// `texts`, `images`, `documents`, `links`, `button_lists`; `messages` of `email`. Nothing of any other kind.
    ///
    /// # Panics
    /// There is no such system.
    pub fn records(&self, system: &str, kind: &str) -> Vec<Value> {
        lock(&self.system(system).desk.system).records(kind).to_vec()
    }

    /// What one system got so far, in order.
    pub fn received(&self, system: &str) -> Vec<Received> {
        lock(&self.memory.calls).iter().filter(|call| *call.system == *system).cloned().collect()
    }

    /// What all systems got, in order, from the `from`-th call on.
    pub fn received_since(&self, from: usize) -> Vec<Received> {
        lock(&self.memory.calls).iter().skip(from).cloned().collect()
    }

    /// Waits until what all systems got together is as `done` wants it. Has no time limit of its own.
    pub async fn wait(&self, mut done: impl FnMut(&[Received]) -> bool) {
        let mut changes = self.memory.changed.subscribe();
        while !done(&lock(&self.memory.calls)) {
            // The sender lives as long as we do.
            changes.changed().await.ok();
        }
    }

    async fn open(&mut self, name: &str, system: Box<dyn System>) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await.with_context(|| format!("no port for {name}"))?;
        let scheme = if name == EMAIL { "smtp" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr()?);
        let secrets = system.secrets();
        let desk = Arc::new(Desk {
            name: name.into(),
            system: Mutex::new(system),
            forced: Mutex::default(),
            plan: Mutex::default(),
            memory: self.memory.clone(),
        });
        let server = if name == EMAIL {
            tokio::spawn(smtp::serve(listener, desk.clone()))
        } else {
            tokio::spawn(serve(listener, desk.clone()))
        };
        self.systems.insert(name.to_owned(), StandIn { url, secrets, desk, server });
        Ok(())
    }

    fn system(&self, name: &str) -> &StandIn {
        self.systems.get(name).unwrap_or_else(|| panic!("there is no stand-in for {name}"))
    }
}

/// All calls, over all systems, in order.
#[derive(Debug, Default)]
struct Memory {
    calls: Mutex<Vec<Received>>,
    changed: watch::Sender<()>,
}

struct Desk {
    name: Arc<str>,
    system: Mutex<Box<dyn System>>,
    forced: Mutex<Failures>,
    plan: Mutex<Option<Plan>>,
    memory: Arc<Memory>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Desk {
    /// Answers and remembers one call, with a Retry-After in seconds. None: the connection is to break.
    async fn take(
        &self,
        method: Method,
        path: &str,
        query: Vec<(String, String)>,
        headers: HeaderMap,
        body: Bytes,
    ) -> Option<(Reply, Option<u32>)> {
        let forced = lock(&self.forced).pop_front().flatten();
        let planned = || lock(&self.plan).as_mut().map_or(Fate::Fine, |plan| plan.next(&method, path));
        let fate = forced.map_or_else(planned, |(status, retry_after_s)| Fate::Fails(status, retry_after_s));
        if let Fate::Slow(time) = fate {
            tokio::time::sleep(time).await;
        }
        let answer = || {
            let call = Call { method: &method, path, query: &query, headers: &headers, body: &body };
            lock(&self.system).answer(&call)
        };
        let mut retry_after = None;
        let reply = match fate {
            Fate::Fine => answer(),
            Fate::Slow(time) => {
                let reply = answer();
                Reply { note: format!("{}, after {:.1} s", reply.note, time.as_secs_f32()), ..reply }
            }
            Fate::Fails(status, retry_after_s) => {
                retry_after = retry_after_s;
                Reply::refused(status, "told to fail")
            }
            Fate::Broken => Reply::refused(StatusCode::SERVICE_UNAVAILABLE, "the connection breaks"),
            Fate::Lost => {
                let reply = answer();
                Reply { note: format!("{}, but the answer is lost", reply.note), ..reply }
            }
        };
        lock(&self.memory.calls).push(Received {
            at: Instant::now(),
            system: self.name.clone(),
            method,
            path: path.to_owned(),
            query,
            headers,
            body,
            status: reply.status,
            answer: reply.body.clone(),
            note: reply.note.clone(),
        });
        self.memory.changed.send_replace(());
        (!matches!(fate, Fate::Broken | Fate::Lost)).then_some((reply, retry_after))
    }
}

async fn serve(listener: TcpListener, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).ok();
        let desk = desk.clone();
        let service = service_fn(move |request| answer(desk.clone(), request));
        // An error is either the peer's or the break that was asked for.
        connections.spawn(async move {
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}

/// An error makes the server break the connection without an answer.
async fn answer(desk: Arc<Desk>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| anyhow!(error))?.to_bytes();
    let query = url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let taken = desk.take(head.method, head.uri.path(), query, head.headers, body).await;
    let (reply, retry_after) = taken.ok_or_else(|| anyhow!("the connection is to break"))?;
    let mut response = Response::builder().status(reply.status).header(CONTENT_TYPE, "application/json");
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds);
    }
    Ok(response.body(Full::new(reply.body.to_string().into()))?)
}

/// 32 hexadecimal digits.
pub(super) fn random() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random number: {error}"))?;
    Ok(hex::encode(bytes))
}

/// The digits of a phone, with Brazil's country code.
pub(super) fn phone_digits(phone: &str) -> String {
    let digits: String = phone.chars().filter(char::is_ascii_digit).collect();
    if matches!(digits.len(), 10 | 11) { format!("55{digits}") } else { digits }
}

/// A text or a number as text, anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For the tests of the systems: a call without HTTP.
#[cfg(test)]
fn call(
    system: &mut impl System,
    method: Method,
    path_and_query: &str,
    headers: &[(&str, &str)],
    body: Value,
) -> Reply {
    let uri: axum::http::Uri = path_and_query.parse().unwrap();
    let query: Vec<(String, String)> =
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let headers = headers.iter().map(|(name, value)| {
        (axum::http::HeaderName::try_from(*name).unwrap(), axum::http::HeaderValue::from_str(value).unwrap())
    });
    system.answer(&Call {
        method: &method,
        path: uri.path(),
        query: &query,
        headers: &headers.collect(),
        body: body.to_string().as_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    #[tokio::test]
    async fn what_comes_is_answered_and_remembered() {
        let mut stand_ins = StandIns::start().await.unwrap();
        stand_ins.add("partner").await.unwrap();
        let mut client = Client::connect(stand_ins.url("partner"), Some("k")).await.unwrap();
        let answer = client.post("/api/webhooks/events?try=1%2F2", r#"{"id":7}"#).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"{}"[..]));

        let received = stand_ins.received("partner");
        assert_eq!(received.len(), 1);
        assert!(received[0].is("partner", &Method::POST, "/api/webhooks/events"));
        assert_eq!(received[0].json()["id"], 7);
        assert_eq!(received[0].query, [("try".to_owned(), "1/2".to_owned())]);
        assert_eq!(received[0].header("authorization"), Some("Bearer k"));
        assert!(stand_ins.received("crm").is_empty());
    }

    #[tokio::test]
    async fn a_system_fails_as_often_as_it_is_told() {
        let mut stand_ins = StandIns::start().await.unwrap();
        stand_ins.add("partner").await.unwrap();
        stand_ins.fail_next("partner", 2, StatusCode::SERVICE_UNAVAILABLE, Some(3));
        let mut client = Client::connect(stand_ins.url("partner"), None).await.unwrap();
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(client.get("/").await.unwrap().status);
        }
        assert_eq!(statuses, [503, 503, 200]);
        stand_ins.wait(|calls| calls.len() == 3).await;
    }

    #[tokio::test]
    async fn a_system_in_chaos_breaks_connections_and_recovers() {
        let stand_ins = StandIns::start().await.unwrap();
        stand_ins.chaos(7);
        let mut seen = Vec::new();
        for _ in 0..4 {
            let mut client = Client::connect(stand_ins.url("crm"), None).await.unwrap();
            seen.push(client.get("/api/v1/leads").await.map_or(0, |answer| answer.status));
        }
        // Without its key it refuses us as soon as it is there again.
        assert_eq!(seen, [503, 0, 503, 401]);
        assert_eq!(stand_ins.received("crm").len(), 4);
    }

    #[tokio::test]
    async fn each_system_tells_its_credentials_and_its_lists() {
        let stand_ins = StandIns::start().await.unwrap();
        for name in stand_ins.names() {
            let names: Vec<&str> = stand_ins.secrets(name).keys().copied().collect();
            match name {
                "zapi" => assert_eq!(names, ["client_token", "instance_token"]),
                "email" => assert_eq!(names, ["feedback_link"]),
                _ => assert_eq!(names, ["api_key", "auth", "legacy_signing", "signing"]),
            }
        }
        assert_eq!(stand_ins.names().count(), 10);
        let lists =
            [("crm", "schedules"), ("crm", "billing_setups"), ("operacao", "services"), ("cuidadores", "updates")];
        for (system, what) in lists {
            stand_ins.seed(system, what, 3);
            assert_eq!(stand_ins.records(system, what).len(), 3, "{what}");
        }
    }
}
