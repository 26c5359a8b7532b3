//! Who may do what: every route against every scope and every state of a key; and what nobody sees without
//! `payload:read`.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tomada::app::{ApiRoute, api_routes, api_scopes};
use tomada::client::{Answer, Client, admin_key};

use crate::harness::Place;
use crate::harness::partner::Partner;
use crate::harness::process::HubProcess;
use crate::harness::target::Target;
use crate::harness::{TestHub, attempts, eventually};

const DAY: Duration = Duration::from_secs(24 * 3600);
const MARKER: &str = "canary-3141592653";

/// A client whose key is said with each request.
struct Caller(Partner);

impl Caller {
    async fn of(hub: &TestHub) -> Caller {
        Caller(Partner::of(&hub.url, "").await)
    }

    async fn ask(&mut self, key: Option<&str>, method: &str, path: &str, body: &str) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(key.map(|key| ("x-api-key", key)));
        self.0.request(method, path, &headers, body).await.expect("an answer")
    }

    async fn get(&mut self, key: &str, path: &str) -> Answer {
        self.ask(Some(key), "GET", path, "").await
    }
}

struct Key {
    id: String,
    secret: String,
}

async fn make(hub: &TestHub, body: Value) -> Key {
    made(&hub.post("/api/keys", body).await)
}

fn made(answer: &Value) -> Key {
    let text = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned();
    Key { id: text("id"), secret: text("key") }
}

async fn revoke(hub: &TestHub, key: &Key) {
    let answer = hub.post(&format!("/api/keys/{}/revoke", key.id), json!({})).await;
    assert_eq!(answer["state"], "revoked");
}

/// The route's path with nobody's names in it.
fn of_nobody(route: &ApiRoute) -> String {
    format!("/api{}", route.path.replace("{id}", "nobody").replace("{name}", "nobody"))
}

fn assert_unauthorized(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 401, "{what}: {}", answer.problem());
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{what}");
    assert_eq!(answer.headers["www-authenticate"], "Bearer", "{what}");
    assert!(answer.problem().starts_with("an API key that is good here and now is needed"), "{what}: one text for all");
}

fn assert_lacks(answer: &Answer, scope: &str, what: &str) {
    assert_eq!(answer.status, 403, "{what}: {}", answer.problem());
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{what}");
    assert!(answer.problem().contains(&format!("lacks the scope `{scope}`")), "{what}: {}", answer.problem());
}

/// The keys of one scope, one in each state.
struct Ring {
    scope: &'static str,
    right: Key,
    /// With what is wrong with them.
    useless: Vec<(&'static str, String)>,
}

impl Ring {
    /// They are as they are called once two days have passed.
    async fn of(hub: &TestHub, scope: &'static str) -> Ring {
        let key = async |more: Value| {
            let mut body = json!({ "name": format!("matrix {scope}"), "scopes": [scope] });
            body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            make(hub, body).await
        };
        let right = key(json!({ "addresses": ["127.0.0.0/8"], "expires_at": "2026-02-01T00:00:00Z" })).await;
        let revoked = key(json!({})).await;
        revoke(hub, &revoked).await;
        let rotated = key(json!({})).await;
        hub.post(&format!("/api/keys/{}/rotate", rotated.id), json!({ "overlap_s": 0 })).await;
        let mut typo = right.secret.clone();
        typo.truncate(typo.len() - 1);
        let useless = vec![
            ("another key's id", revoked.secret.replace(&revoked.id, &right.id)),
            // A key of the first version has no checksum: this one is right in everything but its secret.
            ("a wrong secret", format!("tmd_{}_{}", right.id, "0f".repeat(32))),
            ("an unknown id", format!("tmd_ffffffffff_{}", "0f".repeat(32))),
            ("malformed", typo),
            ("revoked", revoked.secret),
            ("rotated for a leak", rotated.secret),
            ("expired", key(json!({ "expires_at": "2026-01-02T00:00:00Z" })).await.secret),
            ("not yet valid", key(json!({ "not_before": "2026-01-10T00:00:00Z" })).await.secret),
            ("a wrong address", key(json!({ "addresses": ["203.0.113.0/24", "::1"] })).await.secret),
        ];
        Ring { scope, right, useless }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_opens_to_its_scope_and_to_nothing_else() {
    let hub = TestHub::start("").await;
    let mut rings = Vec::new();
    for scope in api_scopes() {
        rings.push(Ring::of(&hub, scope).await);
    }
    hub.clock.advance(DAY * 2);
    let mut caller = Caller::of(&hub).await;
    let routes = api_routes();
    assert!(routes.len() >= 28 && rings.len() >= 15, "{} routes, {} scopes", routes.len(), rings.len());
    let mut opened = 0;
    for route in &routes {
        let path = of_nobody(route);
        let what = format!("{} {path}", route.method);
        assert_unauthorized(&caller.ask(None, route.method, &path, "{}").await, &format!("{what} without a key"));
        for Ring { scope, right, useless } in &rings {
            for (why, key) in useless {
                let what = format!("{what} with {scope}, {why}");
                assert_unauthorized(&caller.ask(Some(key), route.method, &path, "{}").await, &what);
            }
            let answer = caller.ask(Some(&right.secret), route.method, &path, "{}").await;
            let what = format!("{what} with {scope}");
            if *scope == route.scope {
                // Nobody's names are not found, an empty body is not understood: that is past the door.
                let good = matches!(answer.status, 200..=299 | 400 | 404 | 409 | 415 | 422);
                assert!(good, "{what}: {}", answer.problem());
                opened += 1;
            } else {
                assert_lacks(&answer, route.scope, &what);
            }
            // HEAD goes by GET.
            if route.method == "GET" && *scope != route.scope {
                assert_eq!(caller.ask(Some(&right.secret), "HEAD", &path, "").await.status, 403, "HEAD {what}");
            }
        }
    }
    assert_eq!(opened, routes.len(), "each route has opened to one scope");
    for scope in api_scopes() {
        let asked_for = scope == "payload:read" || routes.iter().any(|route| route.scope == scope);
        assert!(asked_for, "{scope} opens nothing");
    }
    // Which paths there are is told to no stranger, and to a key as it is.
    assert_unauthorized(&caller.ask(None, "GET", "/api/nothing", "").await, "no such path");
    assert_eq!(caller.get(&rings[0].right.secret, "/api/nothing").await.status, 404);
    hub.finish(&[]).await;
}

/// A route beside the table would be in no test. These are open because they have to be: health, and what partners and
/// the people in their messages call, which is signed.
#[test]
fn no_route_stands_beside_the_table() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/src");
    let mut files = vec![source.join("app.rs"), source.join("admin.rs"), source.join("ingress.rs")];
    for folder in ["admin", "admin/mappings", "ingress"] {
        let entries = std::fs::read_dir(source.join(folder)).expect("a folder");
        files.extend(entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()));
    }
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("the file can be read");
        let is_table = file.ends_with("admin/routes.rs");
        for call in ["route", "route_service", "nest", "nest_service"] {
            found.extend(text.split(&format!(".{call}(")).skip(1).filter_map(|rest| {
                let path = rest.trim_start().split(',').next().expect("an argument").trim();
                (!is_table || path != "path").then(|| path.trim_matches('"').to_owned())
            }));
        }
    }
    found.sort();
    assert_eq!(found, ["/api", "/feedback/{token}", "/health", "/status", "/webhooks/{*path}"]);
}

/// An event whose content is wherever content can get to: its key, a connector's message and log, an endpoint's reason.
#[tokio::test(flavor = "multi_thread")]
async fn content_is_seen_with_payload_read_only() {
    let target = Target::start().await;
    let mut toml = target.endpoint("shop") + &target.endpoint("bad");
    for endpoint in ["shop", "bad"] {
        toml += &format!("[[routes]]\nevent = \"order.created\"\nendpoint = \"{endpoint}\"\nmapping = \"m\"\n");
    }
    toml += "[mappings.m.settings.rules]\nid = \"id\"\n";
    let hub = TestHub::start(&toml).await;
    let published = json!({
        "event_type": "order.created", "source_system": "till", "idempotency_key": MARKER,
        "payload": { "id": MARKER, "number": 1 },
    });
    let id = hub.post("/api/events", published).await["id"].as_str().expect("an id").to_owned();
    hub.event_with(&id, "delivered").await;
    // What a connector says when an endpoint is given up becomes the reason why it is paused.
    hub.post("/api/endpoints/bad/pause", json!({ "reason": format!("told {MARKER}") })).await;

    let mut caller = Caller::of(&hub).await;
    let blind: Vec<&str> = api_scopes().into_iter().filter(|scope| *scope != "payload:read").collect();
    let blind = make(&hub, json!({ "name": "blind", "scopes": blind })).await;
    let seeing = make(&hub, json!({ "name": "seeing", "scopes": api_scopes() })).await;
    let event = format!("/api/events/{id}");
    let with_payload = format!("{event}?payload=true");
    let mut seen = 0;
    let reads = api_routes().into_iter().filter(|route| route.method == "GET");
    for path in reads.map(|route| format!("/api{}", route.path.replace("{id}", &id).replace("{name}", "m"))) {
        let answer = caller.get(&blind.secret, &path).await;
        // There is no sync job of the mapping's name.
        assert!(matches!(answer.status, 200 | 404), "{path}: {}", answer.problem());
        assert!(!String::from_utf8_lossy(&answer.body).contains(MARKER), "{path} shows content");
        let answer = caller.get(&seeing.secret, &path).await;
        seen += usize::from(String::from_utf8_lossy(&answer.body).contains(MARKER));
    }
    assert_eq!(seen, 2, "an event's key and an endpoint's reason are there to be seen");

    assert_lacks(&caller.get(&blind.secret, &with_payload).await, "payload:read", "the payload");
    let answer = caller.get(&seeing.secret, &with_payload).await;
    assert_eq!(answer.json::<Value>().expect("JSON")["payload"]["id"], MARKER);
    for body in [json!({ "event": id }), json!({ "limit": 5 }), json!({ "events_of_type": "order.created" })] {
        let path = "/api/mappings/m/try";
        let answer = caller.ask(Some(&blind.secret), "POST", path, &body.to_string()).await;
        assert_lacks(&answer, "payload:read", "a trial on stored events");
        assert_eq!(caller.ask(Some(&seeing.secret), "POST", path, &body.to_string()).await.status, 200);
    }
    let own = json!({ "payload": { "id": 1 } }).to_string();
    assert_eq!(caller.ask(Some(&blind.secret), "POST", "/api/mappings/m/try", &own).await.status, 200);
    hub.finish(&[]).await;
}

/// What a connector said of a try is content: message and log are hidden, outcome, status and code are not.
#[tokio::test(flavor = "multi_thread")]
async fn what_connectors_say_is_content() {
    let target = Target::start().await;
    target.always((422, Vec::new()));
    let hub = TestHub::start(&format!(
        "{}retry = {{ attempts = 1 }}\n[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\n",
        target.endpoint("shop")
    ))
    .await;
    let event = json!({ "event_type": "order.created", "source_system": "till", "payload": {} });
    let id = hub.post("/api/events", event).await["id"].as_str().expect("an id").to_owned();
    let dead = hub.event_with(&id, "dead").await;
    let told = &attempts(&dead)[0];
    assert!(told["message"].is_string(), "{told}");

    let reader = make(&hub, json!({ "name": "reader", "role": "reader" })).await;
    let mut caller = Caller::of(&hub).await;
    let shown: Value = caller.get(&reader.secret, &format!("/api/events/{id}")).await.json().expect("JSON");
    let shown = &attempts(&shown)[0];
    assert_eq!((&shown["message"], &shown["log"]), (&Value::Null, &Value::Null));
    assert_eq!((&shown["outcome"], &shown["http_status"]), (&told["outcome"], &told["http_status"]));
    let letters: Value = caller.get(&reader.secret, "/api/dead-letters").await.json().expect("JSON");
    assert_eq!((&letters["items"][0]["message"], &letters["items"][0]["http_status"]), (&Value::Null, &json!(422)));
    assert!(hub.get("/api/dead-letters").await["items"][0]["message"].is_string());
    hub.finish(&[("shop", "dead", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_overlaps_and_a_revocation_is_at_once() {
    let hub = TestHub::start("").await;
    let mut caller = Caller::of(&hub).await;
    let old = make(&hub, json!({ "name": "reader", "role": "reader" })).await;
    let rotate = format!("/api/keys/{}/rotate", old.id);
    let rotated = hub.post(&rotate, json!({ "overlap_s": 3600 })).await;
    assert_eq!(rotated["previous_secret_until"], "2026-01-01T01:00:00Z");
    let new = made(&rotated);
    assert_eq!(new.id, old.id);
    hub.clock.advance(Duration::from_millis(3_599_999));
    for key in [&old, &new] {
        assert_eq!(caller.get(&key.secret, "/api/events").await.status, 200);
    }
    hub.clock.advance(Duration::from_millis(1));
    assert_unauthorized(&caller.get(&old.secret, "/api/events").await, "the overlap is over");
    assert_eq!(caller.get(&new.secret, "/api/events").await.status, 200);
    // A day when nothing is said, nothing at all for a leak.
    let rotated: Value = hub.client().await.post(&rotate, "").await.expect("an answer").json().expect("JSON");
    assert_eq!(rotated["previous_secret_until"], "2026-01-02T01:00:00Z");
    let last = made(&hub.post(&rotate, json!({ "overlap_s": 0 })).await);
    for key in [&new.secret, &made(&rotated).secret] {
        assert_unauthorized(&caller.get(key, "/api/events").await, "it has leaked");
    }
    assert_eq!(caller.get(&last.secret, "/api/events").await.status, 200);

    revoke(&hub, &last).await;
    assert_unauthorized(&caller.get(&last.secret, "/api/events").await, "revoked");
    let again = hub.client().await.post(&rotate, "").await.expect("an answer");
    assert_eq!(again.status, 409, "{}", again.problem());
    // It stays so over a restart, and in the list, without anything secret.
    let hub = hub.restart().await;
    let listed = hub.get("/api/keys").await;
    let found = listed["items"].as_array().expect("items").iter().find(|key| key["id"] == last.id.as_str());
    assert_eq!(found.expect("it is listed")["state"], "revoked");
    let text = listed.to_string();
    assert!(!text.contains("tmd_") && !text.contains("hash") && !text.contains("\"key\""), "{text}");
    hub.finish(&[]).await;
}

/// Also not by way of another key's new secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_grants_no_more_than_it_has() {
    let hub = TestHub::start("").await;
    let mut caller = Caller::of(&hub).await;
    let scopes = json!(["keys:manage", "events:publish", "events:read"]);
    let manager = json!({
        "name": "manager", "scopes": scopes, "sources": ["crm"], "addresses": ["127.0.0.1"],
        "expires_at": "2026-02-01T00:00:00Z",
    });
    let manager = make(&hub, manager).await;
    let asked = json!({
        "name": "other", "scopes": ["events:publish"], "sources": ["crm"], "addresses": ["127.0.0.1"],
        "expires_at": "2026-02-01T00:00:00Z",
    });
    let mut create = async |changed: Value| {
        let mut body = asked.clone();
        body.as_object_mut().expect("an object").extend(changed.as_object().expect("an object").clone());
        caller.ask(Some(&manager.secret), "POST", "/api/keys", &body.to_string()).await
    };
    for (changed, status, said) in [
        (json!({}), 201, ""),
        (json!({ "scopes": ["payload:read"] }), 403, "the scope `payload:read`"),
        (json!({ "role": "admin" }), 403, "the scope"),
        (json!({ "sources": ["site"] }), 403, "the source \"site\""),
        (json!({ "sources": null }), 403, "every source"),
        (json!({ "addresses": null }), 403, "every address"),
        (json!({ "addresses": ["127.0.0.0/8"] }), 403, "the addresses 127.0.0.0/8"),
        (json!({ "expires_at": null }), 403, "a longer time"),
        (json!({ "scopes": [] }), 400, "say what the key may do"),
        (json!({ "scopes": ["everything"] }), 400, "unknown variant"),
        (json!({ "scopes": ["*"] }), 400, "unknown variant"),
        (json!({ "sources": [] }), 400, "leave it out for no restriction"),
        (json!({ "addresses": ["10.0.0.1/8"] }), 400, "bits beyond its prefix"),
        (json!({ "expires_at": "tomorrow" }), 400, "2026-12-31T00:00:00Z"),
        (json!({ "expires_at": "2025-01-01T00:00:00Z" }), 400, "before the key could be used"),
        (json!({ "name": "" }), 400, "name takes"),
    ] {
        let answer = create(changed.clone()).await;
        let text = String::from_utf8_lossy(&answer.body);
        assert!(
            answer.status == status && text.contains(&said.replace('"', "\\\"")),
            "{changed}: {} {text}",
            answer.status
        );
    }
    let strong = make(&hub, json!({ "name": "strong", "role": "admin" })).await;
    let answer = caller.ask(Some(&manager.secret), "POST", &format!("/api/keys/{}/rotate", strong.id), "").await;
    assert_eq!(answer.status, 403, "{}", answer.problem());
    assert_eq!(caller.get(&strong.secret, "/api/keys").await.status, 200, "it was not rotated");
    // To revoke grants nothing.
    let answer = caller.ask(Some(&manager.secret), "POST", &format!("/api/keys/{}/revoke", strong.id), "").await;
    assert_eq!(answer.status, 200, "{}", answer.problem());
    assert_unauthorized(&caller.get(&strong.secret, "/api/keys").await, "revoked");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_speaks_for_its_own_sources() {
    let hub = TestHub::start("").await;
    let mut caller = Caller::of(&hub).await;
    let key = make(&hub, json!({ "name": "crm", "role": "publisher", "sources": ["crm", "crm-test"] })).await;
    for (source, status) in [("crm", 202), ("crm-test", 202), ("site", 403), ("crm-", 403), ("CRM", 403)] {
        let event = json!({ "event_type": "order.created", "source_system": source, "payload": {} });
        let answer = caller.ask(Some(&key.secret), "POST", "/api/events", &event.to_string()).await;
        assert_eq!(answer.status, status, "{source}: {}", answer.problem());
    }
    let events = hub.get("/api/events").await;
    assert_eq!(events["items"].as_array().expect("items").len(), 2, "what was refused is nowhere");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_is_written_once_a_minute() {
    let hub = TestHub::start("").await;
    let mut caller = Caller::of(&hub).await;
    let key = make(&hub, json!({ "name": "reader", "role": "reader" })).await;
    let last_use = async || {
        let keys = hub.get("/api/keys").await;
        let found = keys["items"].as_array().expect("items").iter().find(|known| known["id"] == key.id.as_str());
        found.expect("it is listed")["last_used_at"].clone()
    };
    assert_eq!(last_use().await, Value::Null);
    let mut used = async || assert_eq!(caller.get(&key.secret, "/api/events").await.status, 200);
    used().await;
    eventually("the first use is written", async || last_use().await == "2026-01-01T00:00:00Z").await;
    hub.clock.advance(Duration::from_secs(59));
    used().await;
    hub.clock.advance(Duration::from_secs(1));
    used().await;
    // Had the use in between been written, then this one would not be yet.
    eventually("the next one is written", async || last_use().await == "2026-01-01T00:01:00Z").await;
    hub.finish(&[]).await;
}

/// The key of the machine is shown at the first start and never again; the commands there go on after its rotation.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_is_shown_once() {
    let place = Place::new();
    let (data, file) = (place.path("hub"), place.path("tomada.toml"));
    std::fs::write(&file, "").expect("the configuration is written");
    let mut keys = Vec::new();
    for start in ["first", "second", "third"] {
        let log = place.path(start);
        let hub = HubProcess::start_traced(&place, &file, &log).await;
        let key = admin_key(&data).expect("a key");
        eventually("the hub logs", async || {
            std::fs::read_to_string(&log)
                .is_ok_and(|log| log.contains("ready") && (start != "first" || log.contains(&key)))
        })
        .await;
        if start == "second" {
            let id = key.split('_').nth(1).expect("an id");
            hub.post(&format!("/api/keys/{id}/rotate")).await;
            assert_ne!(admin_key(&data).expect("a key"), key, "the commands on this machine have the new secret");
        }
        let mut client = Client::connect(&hub.url, Some(&admin_key(&data).expect("a key"))).await.expect("the hub");
        assert_eq!(client.get("/api/keys").await.expect("an answer").status, 200);
        hub.kill();
        let log = std::fs::read_to_string(&log).expect("the log");
        assert_eq!(log.contains("tmd_"), start == "first", "the log of the {start} start");
        keys.push(key);
    }
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[1], keys[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_lists_rotates_and_revokes() {
    let hub = TestHub::start("").await;
    let run = async |arguments: &[&str]| {
        let output = hub.command(&[&["keys"], arguments].concat()).await;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.code(), text, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&["create", "--name", "nothing"]).await.0, Some(2), "a key for nothing");
    assert_eq!(run(&["create", "--name", "typo", "--scope", "events:raed"]).await.0, Some(2));
    let (code, key, said) =
        run(&["create", "--name", "crm", "--role", "publisher", "--scope", "events:read", "--source", "crm"]).await;
    assert_eq!(code, Some(0), "{said}");
    let mut caller = Caller::of(&hub).await;
    assert_eq!(caller.get(&key, "/api/events").await.status, 200);
    let id = key.split('_').nth(1).expect("an id");

    let (_, list, _) = run(&["list"]).await;
    for part in [id, "crm", "active", "events:read events:publish", "publishes as crm"] {
        assert!(list.contains(part), "{part:?} is missing: {list}");
    }
    let (code, new, said) = run(&["rotate", id, "--overlap", "0"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert_unauthorized(&caller.get(&key, "/api/events").await, "rotated");
    assert_eq!(caller.get(&new, "/api/events").await.status, 200);
    let (code, line, said) = run(&["revoke", id]).await;
    assert!(code == Some(0) && line.contains("revoked"), "{line}{said}");
    assert_unauthorized(&caller.get(&new, "/api/events").await, "revoked");
    assert_eq!(run(&["revoke", "nobody"]).await.0, Some(1));
    hub.finish(&[]).await;
}
