//! Stand-ins for the systems that the hub joins: servers on the loopback that answer as those do, check what those
//! check, and remember what they got. The demo shows it, tests ask for it.
//!
//! A system is a [`System`]: a state and a function from call to reply, without HTTP. A new one is a file beside
//! `crm.rs` and a line in [`known`].

mod crm;
mod marketing;
mod zapi;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header::CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Longest body that is read, bytes.
const MAX_BODY: usize = 16 << 20;

/// Servers that run until this is dropped.
#[derive(Debug)]
pub struct StandIns {
    systems: BTreeMap<String, StandIn>,
    memory: Arc<Memory>,
}

#[derive(Debug)]
struct StandIn {
    url: String,
    secrets: BTreeMap<&'static str, String>,
    forced: Arc<Mutex<Failures>>,
    server: JoinHandle<()>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Statuses that are still to be answered instead of the system, with their Retry-After in seconds.
type Failures = VecDeque<(StatusCode, Option<u32>)>;

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
struct Reply {
    status: StatusCode,
    body: Value,
    note: String,
}

impl Reply {
    fn new(status: StatusCode, body: Value, note: impl Into<String>) -> Reply {
        Reply { status, body, note: note.into() }
    }

    fn refused(status: StatusCode, why: &str) -> Reply {
        Reply::new(status, json!({ "message": why }), why)
    }

    /// The path exists, with other verbs.
    fn wrong_verb() -> Reply {
        Reply::refused(StatusCode::METHOD_NOT_ALLOWED, "wrong verb")
    }

    fn unknown_path() -> Reply {
        Reply::refused(StatusCode::NOT_FOUND, "unknown path")
    }
}

/// One target system.
trait System: Send + 'static {
    /// The credentials that it accepts, by the names that its connector gives them.
    fn secrets(&self) -> BTreeMap<&'static str, String>;
    fn answer(&mut self, call: &Call<'_>) -> Reply;
}

/// A system that takes whatever comes, for endpoints that have no stand-in of their own yet.
struct Anything;

impl System for Anything {
    fn secrets(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::new()
    }

    fn answer(&mut self, call: &Call<'_>) -> Reply {
        Reply::new(StatusCode::OK, json!({}), format!("{} {}", call.method, call.path))
    }
}

fn known() -> Result<Vec<(&'static str, Box<dyn System>)>> {
    Ok(vec![
        ("crm", Box::new(crm::Crm::new(random()?))),
        ("marketing", Box::new(marketing::Marketing::new(random()?))),
        ("zapi", Box::new(zapi::Zapi::new(random()?, random()?))),
    ])
}

impl StandIns {
    /// Starts all known systems, each on a free port.
    ///
    /// # Errors
    /// There is no free port, or no random number.
    pub async fn start() -> Result<StandIns> {
        let mut stand_ins = StandIns { systems: BTreeMap::new(), memory: Arc::default() };
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

    /// `http://127.0.0.1:port`.
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
        lock(&self.system(system).forced).extend(std::iter::repeat_n((status, retry_after_s), times));
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
        let url = format!("http://{}", listener.local_addr()?);
        let secrets = system.secrets();
        let forced = Arc::default();
        let desk = Arc::new(Desk {
            name: name.into(),
            system: Mutex::new(system),
            forced: Arc::clone(&forced),
            memory: self.memory.clone(),
        });
        let router = Router::new().fallback(answer).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(desk);
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.ok();
        });
        self.systems.insert(name.to_owned(), StandIn { url, secrets, forced, server });
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
    forced: Arc<Mutex<Failures>>,
    memory: Arc<Memory>,
}

async fn answer(State(desk): State<Arc<Desk>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let query: Vec<(String, String)> =
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let forced = lock(&desk.forced).pop_front();
    let reply = match forced {
        Some((status, _)) => Reply::refused(status, "told to fail"),
        None => {
            let call = Call { method: &method, path: uri.path(), query: &query, headers: &headers, body: &body };
            lock(&desk.system).answer(&call)
        }
    };
    let mut response = (reply.status, [(CONTENT_TYPE, "application/json")], reply.body.to_string()).into_response();
    if let Some((_, Some(seconds))) = forced {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    lock(&desk.memory.calls).push(Received {
        at: Instant::now(),
        system: desk.name.clone(),
        method,
        path: uri.path().to_owned(),
        query,
        headers,
        body,
        status: reply.status,
        answer: reply.body,
        note: reply.note,
    });
    desk.memory.changed.send_replace(());
    response
}

/// 32 hexadecimal digits.
pub(super) fn random() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random number: {error}"))?;
    Ok(hex::encode(bytes))
}

/// Whether a call carries `key` in one of the ways in which the internal systems are given theirs.
fn is_authorised(call: &Call<'_>, key: &str) -> bool {
    let header = |name: &str| call.headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    [header("x-api-key"), header("x-internal-token"), bearer].into_iter().flatten().any(|given| given == key)
}

fn is_json(call: &Call<'_>) -> bool {
    let value = call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// The digits of a phone, with Brazil's country code.
pub(super) fn phone_digits(phone: &str) -> String {
    let digits: String = phone.chars().filter(char::is_ascii_digit).collect();
    if matches!(digits.len(), 10 | 11) { format!("55{digits}") } else { digits }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
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
    let uri: Uri = path_and_query.parse().unwrap();
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
        stand_ins.add("financeiro").await.unwrap();
        let mut client = Client::connect(stand_ins.url("financeiro"), Some("k")).await.unwrap();
        let answer = client.post("/api/webhooks/events?try=1%2F2", r#"{"id":7}"#).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"{}"[..]));

        let received = stand_ins.received("financeiro");
        assert_eq!(received.len(), 1);
        assert!(received[0].is("financeiro", &Method::POST, "/api/webhooks/events"));
        assert_eq!(received[0].json()["id"], 7);
        assert_eq!(received[0].query, [("try".to_owned(), "1/2".to_owned())]);
        assert_eq!(received[0].header("authorization"), Some("Bearer k"));
        assert!(stand_ins.received("crm").is_empty());
    }

    #[tokio::test]
    async fn a_system_fails_as_often_as_it_is_told() {
        let mut stand_ins = StandIns::start().await.unwrap();
        stand_ins.add("site").await.unwrap();
        stand_ins.fail_next("site", 2, StatusCode::SERVICE_UNAVAILABLE, Some(3));
        let mut client = Client::connect(stand_ins.url("site"), None).await.unwrap();
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(client.get("/").await.unwrap().status);
        }
        assert_eq!(statuses, [503, 503, 200]);
        stand_ins.wait(|calls| calls.len() == 3).await;
    }
}
