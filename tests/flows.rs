//! Carinho's flows, with the configuration, the components and the templates that ship. A case is a file: what comes in,
//! and what each system gets because of it, field by field. Where a case says `each_call_fails`, it is played once more
//! for each call, which then fails the first time; in the end every system has got the same, and nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tomada::demo::standins::Received;

use crate::harness::carinho::Carinho;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What came before; its calls are not looked at.
    #[serde(default)]
    before: Vec<Sent>,
    send: Sent,
    received: Calls,
    /// What is received when the delay of the routes is over, and not a millisecond before.
    #[serde(default)]
    later: Calls,
    #[serde(default)]
    each_call_fails: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    webhook: String,
    /// The header that names the event, where one does.
    event: Option<String>,
    body: Value,
}

/// By system.
type Calls = BTreeMap<String, Vec<Expected>>;

/// Verb and path with the decoded query, for instance `GET /api/v1/leads?phone=5511987654321`; of Z-API only its method.
/// In the body `*` stands for anything, and `~text` for any text that holds it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    call: String,
    #[serde(default)]
    body: Value,
}

fn cases() -> Vec<(String, Case)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/flows");
    let files = std::fs::read_dir(folder).expect("the cases");
    let mut cases: Vec<(String, Case)> = files
        .map(|file| {
            let path = file.expect("a file").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let text = std::fs::read(&path).expect("the file can be read");
            let case = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, case)
        })
        .collect();
    cases.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert!(!cases.is_empty(), "there are no cases");
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn every_system_gets_what_the_flow_says() {
    for (name, case) in cases() {
        play(&name, &case, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_repeats_no_other_step_and_sends_nothing_twice() {
    let mut played = 0;
    for (name, case) in cases().into_iter().filter(|(_, case)| case.each_call_fails) {
        for system in case.received.keys().chain(case.later.keys()).collect::<BTreeSet<_>>() {
            let calls = |calls: &Calls| calls.get(system).map_or(0, Vec::len);
            for nth in 0..calls(&case.received) + calls(&case.later) {
                play(&name, &case, Some((system, nth))).await;
                played += 1;
            }
        }
    }
    assert!(played > 20, "only {played} failures were played");
}

/// Plays a case; the `nth` call of a system answers 500 the first time when asked to.
async fn play(name: &str, case: &Case, failing: Option<(&str, usize)>) {
    let what = match failing {
        Some((system, nth)) => format!("{name}, with call {nth} of {system} failing"),
        None => name.to_owned(),
    };
    // Two hours are long enough for sync jobs to be due, which are not of the flow.
    let carinho = Carinho::start_with(|config| config.sync_jobs.values_mut().for_each(|job| job.cron = None)).await;
    for sent in &case.before {
        carinho.send(&sent.webhook, sent.event.as_deref(), &sent.body).await;
        carinho.settled().await;
    }
    let seen: BTreeMap<String, usize> =
        carinho.stand_ins.names().map(|system| (system.to_owned(), carinho.stand_ins.received(system).len())).collect();
    if let Some((system, nth)) = failing {
        carinho.stand_ins.fail_after(system, nth, failure(system));
    }
    let (id, duplicate) = carinho.send(&case.send.webhook, case.send.event.as_deref(), &case.send.body).await;
    assert!(!duplicate, "{what}");
    carinho.settled().await;
    compare(&what, &carinho, &seen, &case.received, failing.is_some());

    if !case.later.is_empty() {
        let due = carinho.due(&id).await;
        carinho.hub.clock.advance(due - Duration::from_millis(1));
        carinho.hub.get("/api/endpoints").await;
        compare(&format!("{what}, just before the delay is over"), &carinho, &seen, &case.received, failing.is_some());
        carinho.hub.clock.advance(Duration::from_millis(1));
        carinho.settled_wholly().await;
        let mut all = case.received.clone();
        for (system, calls) in &case.later {
            all.entry(system.clone()).or_default().extend(calls.iter().cloned());
        }
        compare(&format!("{what}, after the delay"), &carinho, &seen, &all, failing.is_some());
    }
    // The provider sends it again: nothing happens.
    let (again, duplicate) = carinho.send(&case.send.webhook, case.send.event.as_deref(), &case.send.body).await;
    assert_eq!((again, duplicate), (id, true), "{what}");
    carinho.finish(&[]).await;
}

fn compare(what: &str, carinho: &Carinho, seen: &BTreeMap<String, usize>, expected: &Calls, failing: bool) {
    for (system, seen) in seen {
        let received = carinho.stand_ins.received(system).into_iter().skip(*seen);
        // Asking again changes nothing, so a retry may ask as often as it likes.
        let counts = |call: &str| !failing || !call.starts_with("GET ");
        let mut got: Vec<(String, Received)> = received
            .filter(|call| call.status != failure(system))
            .map(|call| (shown(&call), call))
            .filter(|(call, _)| counts(call))
            .collect();
        for wanted in expected.get(system).into_iter().flatten().filter(|wanted| counts(&wanted.call)) {
            let found =
                got.iter().position(|(call, received)| *call == wanted.call && fits(&wanted.body, &body(received)));
            match found {
                Some(at) => drop(got.remove(at)),
                None => {
                    panic!("{what}: {system} did not get {wanted:#?}\nwhat is left of what it got: {:#?}", told(&got))
                }
            }
        }
        assert!(got.is_empty(), "{what}: {system} got more: {:#?}", told(&got));
    }
}

/// What a system says when it is told to fail, and never otherwise: try again later.
fn failure(system: &str) -> StatusCode {
    // A reply of SMTP.
    if system == "email" { StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS } else { StatusCode::INTERNAL_SERVER_ERROR }
}

fn told(calls: &[(String, Received)]) -> Vec<(&str, String)> {
    calls.iter().map(|(call, received)| (call.as_str(), body(received).to_string())).collect()
}

fn shown(call: &Received) -> String {
    let path = match call.path.rsplit_once("/token/") {
        Some((_, rest)) => rest.split_once('/').map_or(rest, |(_, method)| method),
        None => &call.path,
    };
    let query: Vec<String> = call.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{} {path}{mark}{}", call.method, query.join("&"))
}

/// What every plain event and every mail has in common is looked at elsewhere.
fn body(call: &Received) -> Value {
    let mut body = call.json();
    if *call.system == *"email" {
        return ["from", "to", "subject", "text", "html"]
            .iter()
            .map(|part| ((*part).to_owned(), body[part].clone()))
            .collect();
    }
    if call.method == Method::POST
        && let Some(body) = body.as_object_mut()
        && body.remove("_meta").is_some()
    {
        body.insert("event".to_owned(), call.header("x-event-type").unwrap_or_default().into());
    }
    body
}

fn fits(expected: &Value, got: &Value) -> bool {
    match (expected, got) {
        (Value::String(pattern), _) if pattern == "*" => true,
        (Value::String(pattern), Value::String(text)) if pattern.starts_with('~') => text.contains(&pattern[1..]),
        (Value::Object(expected), Value::Object(got)) => {
            expected.len() == got.len()
                && expected.iter().all(|(key, value)| got.get(key).is_some_and(|found| fits(value, found)))
        }
        (Value::Array(expected), Value::Array(got)) => {
            expected.len() == got.len() && expected.iter().zip(got).all(|(expected, got)| fits(expected, got))
        }
        _ => expected == got,
    }
}
