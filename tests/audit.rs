//! Who did what is on record: before it is done, in a chain that nobody can change unseen who has only the database.

use std::path::Path;
use std::process::Command;

use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tomada::app::api_routes;
use tomada::client::Answer;

use crate::harness::partner::Partner;
use crate::harness::target::Target;
use crate::harness::{TestHub, attempts, components};

const MARKER: &str = "canary-2718281828";

/// A client with a key that says why it asks.
struct Caller {
    client: Partner,
    key: String,
    reason: &'static str,
}

impl Caller {
    /// With a new key of these scopes, or of a role; and its public id.
    async fn of(hub: &TestHub, what: Value) -> (Caller, String) {
        let mut body = json!({ "name": "somebody" });
        body.as_object_mut().expect("an object").extend(what.as_object().expect("an object").clone());
        let made = hub.post("/api/keys", body).await;
        let text = |name: &str| made[name].as_str().expect("a text").to_owned();
        (Caller { client: Partner::of(&hub.url, "").await, key: text("key"), reason: "" }, text("id"))
    }

    async fn ask(&mut self, method: &str, path: &str, body: impl ToString) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut headers = vec![("content-type", "application/json"), ("x-api-key", &*self.key)];
        if !self.reason.is_empty() {
            headers.push(("x-reason", self.reason));
        }
        self.client.request(method, path, &headers, &body.to_string()).await.expect("an answer")
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }
}

/// What is on record, oldest first.
async fn log(hub: &TestHub, filter: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut before = String::new();
    loop {
        let page = hub.get(&format!("/api/audit?limit=500{filter}{before}")).await;
        rows.extend(page["items"].as_array().expect("items").clone());
        let Some(next) = page["next"].as_i64() else { break };
        before = format!("&before={next}");
    }
    rows.reverse();
    rows
}

/// Action, object and outcome of each.
fn told(rows: &[Value]) -> Vec<(&str, &str, &str)> {
    rows.iter().map(|row| (text(&row["action"]), text(&row["object"]), text(&row["details"]["outcome"]))).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// One endpoint with one route, and a mapping.
fn shop(target: &Target) -> String {
    target.endpoint("shop")
        + "[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\nmapping = \"m\"\n[mappings.m.settings.rules]\nid = \"id\"\n"
}

async fn publish(hub: &TestHub) -> String {
    let event = json!({ "event_type": "order.created", "source_system": "till", "payload": { "id": MARKER } });
    hub.post("/api/events", event).await["id"].as_str().expect("an id").to_owned()
}

/// An event whose only delivery is dead, with what the connector said of it.
async fn dead(hub: &TestHub) -> (String, String) {
    let id = publish(hub).await;
    let event = hub.event_with(&id, "dead").await;
    assert!(attempts(&event)[0]["message"].is_string(), "{event}");
    (id, event["deliveries"][0]["id"].as_str().expect("an id").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_is_on_record_with_who_and_what() {
    let target = Target::start().await;
    let toml = shop(&target) + "[sync_jobs.stock]\ncron = \"0 3 * * *\"\n";
    let route = "[[routes]]\nevent = \"sync.stock\"\nendpoint = \"shop\"\n";
    let hub = TestHub::start(&(toml + route)).await;
    target.always((422, Vec::new()));
    let (_, delivery) = dead(&hub).await;
    target.always((200, Vec::new()));
    let (mut caller, id) = Caller::of(&hub, json!({ "role": "admin" })).await;
    caller.reason = "chamado 4711, reclamação";
    let (_, other) = Caller::of(&hub, json!({ "role": "reader" })).await;

    let component = components::variant("webhook", 1);
    let pushed = hub.put("/api/connectors/webhook", component).await;
    let digest = pushed.json::<Value>().expect("JSON")["digest"].as_str().expect("a digest").to_owned();
    let newest = log(&hub, "").await.last().expect("rows")["id"].as_i64().expect("an id");

    let rules = json!({ "settings": { "rules": { "id": "id", "n": "n" } } });
    let apply = json!({ "config": { "endpoints": {} } });
    let revoke = format!("/api/keys/{other}/revoke");
    let rotate = format!("/api/keys/{other}/rotate");
    let replay = format!("/api/deliveries/{delivery}/replay");
    let activate = json!({ "digest": &digest[..12] });
    let doing = [
        ("POST", "/api/endpoints/shop/pause", "".into(), 200, "endpoint.pause", "endpoint:shop"),
        ("POST", "/api/endpoints/shop/resume", "".into(), 200, "endpoint.resume", "endpoint:shop"),
        ("POST", "/api/endpoints/nobody/pause", "".into(), 404, "endpoint.pause", "endpoint:nobody"),
        ("POST", &replay, "".into(), 202, "delivery.replay", &delivery),
        ("POST", "/api/dead-letters/replay", json!({ "endpoint": "shop" }), 200, "dead-letters.replay", "dead-letters"),
        ("PUT", "/api/mappings/m", rules, 201, "mapping.edit", "mapping:m"),
        ("POST", "/api/mappings/m/activate", json!({ "version": 1 }), 200, "mapping.activate", "mapping:m"),
        ("POST", "/api/connectors/webhook/rollback", "".into(), 200, "connector.rollback", "connector:webhook"),
        ("POST", "/api/connectors/webhook/activate", activate, 200, "connector.activate", "connector:webhook"),
        ("PUT", "/api/connectors/webhook", json!("no component"), 422, "connector.push", "connector:webhook"),
        ("POST", "/api/sync-jobs/stock/run", "".into(), 202, "sync-job.run", "sync-job:stock"),
        ("POST", &rotate, "".into(), 200, "key.rotate", &format!("key:{other}")),
        ("POST", &revoke, "".into(), 200, "key.revoke", &format!("key:{other}")),
        ("POST", "/api/apply", apply.clone(), 200, "config.apply", "apply"),
    ];
    for (method, path, body, status, ..) in &doing {
        let body = if *body == "" { String::new() } else { body.to_string() };
        let answer = caller.ask(method, path, body).await;
        assert_eq!(answer.status, *status, "{method} {path}: {}", answer.problem());
    }
    // What does nothing leaves nothing: a rehearsal.
    assert_eq!(caller.ask("POST", "/api/apply?dry_run=true", apply).await.status, 200);

    let rows: Vec<Value> = log(&hub, &format!("&actor={id}")).await;
    let mut expected = Vec::new();
    for (_, _, _, status, action, object) in &doing {
        let outcome = if *status < 300 { "done" } else { "refused" };
        expected.extend([(*action, *object, ""), (*action, *object, outcome)]);
    }
    assert_eq!(told(&rows), expected);
    for (pair, (_, _, _, status, ..)) in rows.chunks(2).zip(&doing) {
        assert!(pair[0]["id"].as_i64() > Some(newest));
        assert_eq!((&pair[1]["details"]["attempt"], &pair[1]["details"]["status"]), (&pair[0]["id"], &json!(status)));
        for row in pair {
            assert_eq!(row["reason"], caller.reason);
            assert_eq!(row["address"], "127.0.0.0/24");
            assert_eq!(row["at"], "2026-01-01T00:00:00Z");
        }
    }
    let details = |action: &str| {
        rows.iter().rev().find(|row| row["action"] == action).expect("it is on record")["details"].clone()
    };
    assert_eq!(details("dead-letters.replay")["endpoint"], "shop");
    assert_eq!((&details("mapping.edit")["version"], &details("mapping.activate")["version"]), (&json!(2), &json!(1)));
    assert_eq!(details("connector.activate")["digest"], digest.as_str());
    assert!(details("sync-job.run")["run"].as_str().expect("a run").starts_with("syn_"));
    assert_eq!(details("key.rotate")["overlap_s"], 86400);
    let changes = details("config.apply")["changes"].to_string();
    assert!(changes.contains("\"delete endpoint shop\""), "{changes}");

    // What the hub did itself, and the keys that were made with the machine's own.
    let rows = log(&hub, "&actor=hub").await;
    let own = format!("key:{}", hub.key().split('_').nth(1).expect("an id"));
    assert_eq!(
        told(&rows),
        [
            ("hub.start", "hub", ""),
            ("key.create", &own, ""),
            ("config.apply", "apply", ""),
            ("config.apply", "apply", "done")
        ]
    );
    assert!(rows[0]["details"]["version"].is_string() && rows.iter().all(|row| row["address"].is_null()), "{rows:?}");
    assert!(rows[3]["details"]["changes"].to_string().contains("create endpoint shop"), "{}", rows[3]);
    let made = log(&hub, "&action=key.create").await;
    assert_eq!(made.last().expect("rows")["object"], format!("key:{other}"));
    assert_eq!(made.last().expect("rows")["details"]["scopes"][0], "events:read");
    assert_eq!(hub.get("/api/audit/verify").await["ok"], true);
    // Looking is on record as well.
    let looked = log(&hub, "&action=audit.verify").await;
    assert_eq!(looked.len(), 1);
    assert!(log(&hub, "&action=audit.read").await.len() >= 5);
    hub.restart().await.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_on_record_before_it_is_shown() {
    let target = Target::start().await;
    let hub = TestHub::start(&shop(&target)).await;
    target.always((422, Vec::new()));
    let (event, _) = dead(&hub).await;
    let (mut blind, blind_id) = Caller::of(&hub, json!({ "role": "operator" })).await;
    let (mut seeing, seeing_id) = Caller::of(&hub, json!({ "role": "operator", "scopes": ["payload:read"] })).await;
    seeing.reason = "art. 18";

    let (plain, whole) = (format!("/api/events/{event}"), format!("/api/events/{event}?payload=true"));
    let stored = json!({ "event": event });
    let sample = json!({ "payload": { "id": 1 } });
    let all = json!({ "limit": 5, "settings": { "rules": { "other": "id" } } });
    for caller in [&mut blind, &mut seeing] {
        for path in [&plain, "/api/dead-letters", "/api/endpoints", "/api/events", "/api/sync-jobs"] {
            assert_eq!(caller.get(path).await.status, 200, "{path}");
        }
        assert_eq!(caller.ask("POST", "/api/mappings/m/try", &sample).await.status, 200);
    }
    for (caller, status) in [(&mut blind, 403), (&mut seeing, 200)] {
        assert_eq!(caller.get(&whole).await.status, status);
        for body in [&stored, &all] {
            assert_eq!(caller.ask("POST", "/api/mappings/m/try", body).await.status, status);
        }
        // An unknown event has nothing to show.
        assert_eq!(caller.get("/api/events/evt_0000000000001").await.status, 404);
    }

    let rows = log(&hub, &format!("&actor={seeing_id}")).await;
    let read = ("payload.read", &*event, "");
    assert_eq!(
        told(&rows),
        [
            read,
            ("payload.read", "dead-letters", ""),
            read,
            ("payload.try", "mapping:m", ""),
            ("payload.try", "mapping:m", "")
        ]
    );
    assert!(rows.iter().all(|row| row["reason"] == "art. 18" && row["address"] == "127.0.0.0/24"));
    assert_eq!((&rows[0]["details"]["payload"], &rows[2]["details"]["payload"]), (&Value::Null, &json!(true)));
    for row in [&rows[1], &rows[3], &rows[4]] {
        assert_eq!(row["details"]["events"], json!([event]), "{row}");
    }
    // Who has seen an event, be it by itself or among others.
    let seen = log(&hub, &format!("&actor={seeing_id}&object={event}")).await;
    assert_eq!(seen, rows);

    let rows = log(&hub, &format!("&actor={blind_id}")).await;
    let refused: Vec<&Value> = rows.iter().map(|row| &row["details"]["route"]).collect();
    assert!(rows.iter().all(|row| row["action"] == "denied"), "{rows:?}");
    let tried = "POST /api/mappings/{name}/try";
    assert_eq!(refused, ["GET /api/events/{id}", tried, tried]);
    assert_eq!(rows[0]["object"], *event);

    // An endpoint that says why it is paused shows what somebody, perhaps a connector, said.
    hub.post("/api/endpoints/shop/pause", json!({ "reason": "told" })).await;
    assert_eq!(seeing.get("/api/endpoints").await.status, 200);
    let rows = log(&hub, &format!("&actor={seeing_id}")).await;
    assert_eq!(told(&rows).last(), Some(&("payload.read", "endpoints", "")));
    hub.finish(&[("shop", "dead", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_on_record_and_who_may_reads_it() {
    let hub = TestHub::start("").await;
    let (mut reader, id) = Caller::of(&hub, json!({ "role": "reader" })).await;
    let (mut auditor, _) = Caller::of(&hub, json!({ "role": "auditor" })).await;
    assert_eq!(reader.ask("POST", "/api/keys/0123456789/revoke", "").await.status, 403);
    assert_eq!(reader.get("/api/audit").await.status, 403);
    assert_eq!(reader.get("/api/audit/verify").await.status, 403);
    let answer = auditor.get(&format!("/api/audit?action=denied&actor={id}&limit=2")).await;
    let page: Value = answer.json().expect("JSON");
    let routes = [&page["items"][0]["details"]["route"], &page["items"][1]["details"]["route"]];
    assert_eq!(routes, ["GET /api/audit/verify", "GET /api/audit"]);
    let next = page["next"].as_i64().expect("there are more");
    let page: Value = auditor.get(&format!("/api/audit?action=denied&before={next}")).await.json().expect("JSON");
    let row = &page["items"][0];
    assert_eq!((&row["object"], &row["details"]["scope"]), (&json!("key:0123456789"), &json!("keys:manage")));
    assert_eq!((&page["items"][1], &page["next"]), (&Value::Null, &Value::Null));
    for (path, status) in [
        ("/api/audit?limit=x", 400),
        ("/api/audit?before=x", 400),
        ("/api/audit?actors=hub", 400),
        ("/api/audit?action=%1b%5b2J", 400),
        ("/api/audit?object='%20or%201%20--", 200),
        ("/api/audit?object=%22", 200),
        ("/api/audit?limit=0", 200),
        ("/api/audit?before=-9223372036854775808", 200),
    ] {
        assert_eq!(auditor.get(path).await.status, status, "{path}");
    }
    for reason in ["tab\tin it", "x".repeat(201).leak()] {
        auditor.reason = reason;
        let answer = auditor.get("/api/audit").await;
        assert_eq!(answer.status, 400);
        assert!(answer.problem().contains("X-Reason takes one line of at most 200"), "{}", answer.problem());
    }
    hub.finish(&[]).await;
}

/// A route that somebody adds is either of these or on record.
#[test]
fn every_route_is_on_record_or_harmless() {
    let harmless = [
        // Which events there are and what became of them, without what they say.
        "GET /events",
        // It makes an event, which says by itself where it came from.
        "POST /events",
        // Numbers, names and what an operator configured.
        "GET /queues",
        "GET /sources",
        "GET /schedules",
        "GET /connectors",
        "GET /mappings",
        "GET /mappings/{name}",
        // Without secrets, which are not known any more.
        "GET /keys",
        "GET /secrets",
        "GET /keyring",
        // What is configured, and figures.
        "GET /privacy/record",
        "GET /metrics",
        "GET /retention",
        // How far it is, without whom it is about.
        "GET /privacy/reindex",
        "GET /privacy/erasures",
    ];
    let silent: Vec<String> = api_routes()
        .iter()
        .filter(|route| route.action.is_none())
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    assert_eq!(silent, harmless, "say in runtime/src/admin/routes.rs what the others leave in the audit log");
    for route in api_routes() {
        let word = |c: char| c.is_ascii_lowercase() || c == '.' || c == '-';
        assert!(route.action.is_none_or(|action| action.contains('.') && action.chars().all(word)), "{route:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_recorded_is_not_done() {
    let target = Target::start().await;
    let hub = TestHub::start(&shop(&target)).await;
    let event = publish(&hub).await;
    hub.event_with(&event, "delivered").await;
    // The anchor cannot be written where a directory stands.
    let obstacle = hub.directory().join("audit.new");
    std::fs::create_dir(&obstacle).expect("a directory");
    let mut client = hub.client().await;
    let keys = hub.get("/api/keys").await;
    for (method, path) in [
        (Method::POST, "/api/endpoints/shop/pause".to_owned()),
        (Method::POST, "/api/dead-letters/replay".to_owned()),
        (Method::POST, format!("/api/keys/{}/revoke", hub.key().split('_').nth(1).expect("an id"))),
        (Method::GET, format!("/api/events/{event}?payload=true")),
        (Method::GET, "/api/audit".to_owned()),
    ] {
        let answer = client.send(method, &path, hyper::HeaderMap::new(), "".into()).await.expect("an answer");
        assert_eq!(answer.status, 503, "{path}: {}", answer.problem());
        assert!(answer.problem().contains("nothing is done that is not on record"), "{}", answer.problem());
        assert!(answer.headers.contains_key("retry-after"), "{path}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(MARKER), "{path}");
    }
    // Nothing of it has happened, and what partners send is no business of the log.
    assert_eq!(hub.get("/api/keys").await["items"].to_string(), keys["items"].to_string());
    assert_eq!(hub.get("/api/endpoints").await["items"][0]["paused"], Value::Null);
    publish(&hub).await;
    std::fs::remove_dir(&obstacle).expect("it is empty");
    hub.event_with(&event, "delivered").await;
    hub.post("/api/endpoints/shop/pause", json!({ "reason": "now" })).await;
    let verdict = hub.get("/api/audit/verify").await;
    assert_eq!(verdict["ok"], true, "{verdict}");
    hub.post("/api/endpoints/shop/resume", json!({})).await;
    let (events, all) = (hub.get("/api/events").await, 2);
    assert_eq!(events["items"].as_array().expect("items").len(), all);
    for event in events["items"].as_array().expect("items") {
        hub.event_with(event["id"].as_str().expect("an id"), "delivered").await;
    }
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_the_same_time_make_one_chain() {
    let target = Target::start().await;
    let hub = TestHub::start(&shop(&target)).await;
    let event = publish(&hub).await;
    hub.event_with(&event, "delivered").await;
    let before = log(&hub, "").await.len();
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..24 {
        let mut client = hub.client().await;
        let event = event.clone();
        asking.spawn(async move {
            for _ in 0..5 {
                let answer = match number % 3 {
                    0 => client.post("/api/endpoints/shop/resume", "").await,
                    1 => client.get(&format!("/api/events/{event}?payload=true")).await,
                    _ => client.get("/api/audit/verify").await,
                };
                let answer = answer.expect("an answer");
                assert_eq!(answer.status, 200, "{}", answer.problem());
                if number % 3 == 2 {
                    assert_eq!(answer.json::<Value>().expect("JSON")["ok"], true);
                }
            }
        });
    }
    asking.join_all().await;
    let rows = log(&hub, "").await;
    let ids: Vec<i64> = rows.iter().map(|row| row["id"].as_i64().expect("an id")).collect();
    assert_eq!(ids, (1..=ids.len() as i64).collect::<Vec<_>>());
    // 8 × 5 changes are two rows each; the last look at the log before is one.
    assert_eq!(rows.len(), before + 1 + 8 * 5 * 4);
    assert_eq!(hub.get("/api/audit/verify").await["ok"], true);
    hub.finish(&[]).await;
}

fn tomada(data: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(components::tomada());
    command.args(arguments).arg("--data").arg(data).env_remove("TOMADA_URL").env_remove("TOMADA_API_KEY");
    let output = command.output().expect("the program runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn copy(from: &Path) -> TempDir {
    let copy = TempDir::new().expect("a directory");
    for name in ["tomada.db", "pepper", "audit.head"] {
        std::fs::copy(from.join(name), copy.path().join(name)).expect("it is copied");
    }
    copy
}

fn at_the_database(data: &Path, sql: &str) {
    let database = rusqlite::Connection::open(data.join("tomada.db")).expect("the database");
    database.execute_batch(sql).expect("it is done");
}

/// Whoever has the database and no more.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_to_the_log_is_found_and_named() {
    let hub = TestHub::start("[endpoints.shop]\nconnector = \"webhook\"\nhosts = [\"shop.example\"]\nsettings = { url = \"https://shop.example\" }\n").await;
    if !hub.is_on_a_file("what was done to the audit log is found and named") {
        return hub.finish(&[]).await;
    }
    for _ in 0..3 {
        hub.post("/api/endpoints/shop/pause", json!({ "reason": "x" })).await;
        hub.post("/api/endpoints/shop/resume", json!({})).await;
    }
    // hub.start, key.create, two of config.apply, and two for each change.
    let rows = log(&hub, "").await;
    assert_eq!(rows.len(), 16);
    let hub = hub
        .restart_meanwhile(|data| {
            let (code, said) = tomada(data, &["audit", "verify"]);
            assert!(code == Some(0) && said.contains("whole: 17 rows, 1 to 17"), "no hub runs: {said}");
            let forged = "insert into audit_log select 18, at, actor, address, action, 'endpoint:other', reason, details, \
                          hash, hash from audit_log where id = 17";
            let drop_the_trigger = "drop trigger audit_log_is_never_changed;";
            let renumbered = format!("{drop_the_trigger} delete from audit_log where id = 6; \
                                      update audit_log set id = id - 1 where id > 6");
            for (what, sql, row, why) in [
                ("changed", format!("{drop_the_trigger} update audit_log set actor = 'hub' where id = 7"), 7, "was changed"),
                ("removed in the middle", "delete from audit_log where id = 6".into(), 7, "row 6 is missing"),
                ("removed and renumbered", renumbered, 6, "was changed"),
                ("cut off at the end", "delete from audit_log where id > 12".into(), 13, "the newest rows were cut off"),
                ("cut off at the beginning", "delete from audit_log where id < 4".into(), 4, "no record says that they were pruned"),
                ("emptied", "delete from audit_log".into(), 1, "the newest rows were cut off"),
                ("forged", forged.into(), 18, "was not written by this hub"),
                ("dropped", "drop table audit_log".into(), 0, "of a version without an audit log"),
            ] {
                let copy = copy(data);
                at_the_database(copy.path(), &sql);
                let (code, said) = tomada(copy.path(), &["audit", "verify", "--offline"]);
                assert_eq!(code, Some(1), "{what}: {said}");
                assert!(said.contains(why), "{what}: {said}");
                assert!(row == 0 || said.contains(&format!("row {row} ")), "{what}: {said}");
            }
            // The files beside the database.
            let copied = copy(data);
            std::fs::remove_file(copied.path().join("audit.head")).expect("it is there");
            let (code, said) = tomada(copied.path(), &["audit", "verify", "--json"]);
            let verdict: Value = serde_json::from_str(&said).expect("JSON");
            assert_eq!((code, &verdict["ok"], &verdict["broken"][0]["id"]), (Some(1), &json!(false), &json!(17)));
            std::fs::write(copied.path().join("pepper"), [1; 32]).expect("it is written");
            assert!(tomada(copied.path(), &["audit", "verify"]).1.contains("17 of 17 rows"), "under another key");
            std::fs::remove_file(copied.path().join("pepper")).expect("it is there");
            assert!(tomada(copied.path(), &["audit", "verify"]).1.contains("pepper is missing"));
            assert!(!copied.path().join("pepper").exists(), "none is made");
            at_the_database(data, "delete from audit_log where id = 6");
        })
        .await;
    let verdict = hub.get("/api/audit/verify").await;
    assert_eq!((&verdict["ok"], &verdict["broken_rows"]), (&json!(false), &json!(1)), "{verdict}");
    assert_eq!(verdict["broken"], json!([{ "id": 7, "why": "comes after a gap: row 6 is missing" }]));
    let output = hub.command(&["audit", "verify"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("row 7 comes after a gap: row 6 is missing"), "{said}");
    hub.finish(&[]).await;
}

/// A copy of the database from yesterday is good in itself; what is beside it knows more.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_database_is_found_and_stays_on_record() {
    let mut old = None;
    let hub = TestHub::start("").await;
    if !hub.is_on_a_file("an older database is found") {
        return hub.finish(&[]).await;
    }
    let hub = hub.restart_meanwhile(|data| old = Some(copy(data))).await;
    let old = old.expect("a copy");
    let (_, id) = Caller::of(&hub, json!({ "role": "reader" })).await;
    let known = log(&hub, "").await.len() as i64 + 1;
    let hub = hub
        .restart_meanwhile(|data| {
            std::fs::copy(old.path().join("tomada.db"), data.join("tomada.db")).expect("it is copied");
            let (code, said) = tomada(data, &["audit", "verify"]);
            assert!(
                code == Some(1) && said.contains(&format!("audit.head knows row {known} as the last one")),
                "{said}"
            );
        })
        .await;
    // It works on, and says so for good.
    assert!(!hub.get("/api/keys").await.to_string().contains(&id));
    let rows = log(&hub, "&action=audit.gap").await;
    assert_eq!((rows.len(), &rows[0]["actor"], &rows[0]["id"]), (1, &json!("hub"), &json!(known + 1)));
    let why = rows[0]["details"]["why"].as_str().expect("a reason");
    assert!(why.contains(&format!("row {known} was on record")), "{why}");
    let verdict = hub.get("/api/audit/verify").await;
    assert_eq!((&verdict["ok"], &verdict["broken"][0]["id"]), (&json!(false), &json!(known + 1)), "{verdict}");
    let hub = hub.restart().await;
    let verdict = hub.get("/api/audit/verify").await;
    assert_eq!((&verdict["ok"], &verdict["broken_rows"]), (&json!(false), &json!(1)), "{verdict}");
    assert_eq!(log(&hub, "&action=audit.gap").await.len(), 1, "once is enough");
    hub.finish(&[]).await;
}

/// Neither in the rows nor in what is beside them.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_content_or_secrets_is_on_record() {
    let target = Target::start().await;
    let hub = TestHub::start(&shop(&target)).await;
    target.always((422, Vec::new()));
    let (event, delivery) = dead(&hub).await;
    let (mut caller, id) = Caller::of(&hub, json!({ "role": "admin" })).await;
    let secret = caller.key.clone();
    for (method, path, body) in [
        ("GET", format!("/api/events/{event}?payload=true"), String::new()),
        ("GET", "/api/dead-letters".into(), String::new()),
        ("POST", "/api/mappings/m/try".into(), json!({ "event": event }).to_string()),
        ("POST", "/api/mappings/m/try".into(), json!({ "payload": { "id": MARKER } }).to_string()),
        ("PUT", "/api/mappings/m".into(), json!({ "settings": { "rules": { "id": MARKER } } }).to_string()),
        ("PUT", "/api/mappings/m".into(), format!("{{\"{MARKER}\": 1}}")),
        ("POST", "/api/endpoints/shop/pause".into(), json!({ "reason": MARKER }).to_string()),
        ("POST", "/api/endpoints/shop/resume".into(), String::new()),
        ("GET", "/api/endpoints".into(), String::new()),
        ("POST", format!("/api/deliveries/{delivery}/replay"), String::new()),
        ("POST", format!("/api/deliveries/{MARKER}/replay"), String::new()),
        ("POST", "/api/apply".into(), format!("{{\"config\": {{\"{MARKER}\": 1}}}}")),
        // The whole key where its id belongs.
        ("POST", format!("/api/keys/{secret}/rotate"), String::new()),
    ] {
        caller.ask(method, &path, body).await;
    }
    let rotated = hub.post(&format!("/api/keys/{id}/rotate"), json!({ "overlap_s": 0 })).await;
    let secrets = [secret, rotated["key"].as_str().expect("a key").to_owned(), hub.key().to_owned()];
    hub.event_with(&event, "dead").await;
    let directory = hub.directory();
    let rows = log(&hub, "").await;
    assert!(rows.len() > 20, "{}", rows.len());
    let anchor = std::fs::read_to_string(directory.join("audit.head")).expect("the anchor");
    for row in rows.iter().map(ToString::to_string).chain([anchor]) {
        // What is no delivery's id has it in the path that was asked for, as a name that the caller gave.
        let row = row.replace(&format!("\"object\":\"{MARKER}\""), "");
        assert!(!row.contains(MARKER), "{row}");
        for secret in &secrets {
            let hidden = secret.split('_').nth(2).expect("a secret");
            assert!(!row.contains(hidden) && !row.contains(&hidden[..16]), "{row}");
        }
    }
    assert_eq!(hub.get("/api/audit/verify").await["ok"], true);
    hub.finish(&[("shop", "dead", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_and_verifies() {
    let hub = TestHub::start("").await;
    let run = async |arguments: &[&str]| {
        let output = hub.command(arguments).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, _, said) = run(&["keys", "create", "--name", "crm", "--role", "auditor", "--why", "chamado 17"]).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, list, said) = run(&["audit", "list", "--action", "key.create", "--limit", "2"]).await;
    assert_eq!(code, Some(0), "{said}");
    for part in ["key.create key:", "from 127.0.0.0/24", "because: chamado 17", "\"outcome\":\"done\""] {
        assert!(list.contains(part), "{part:?} is missing: {list}");
    }
    assert_eq!(list.lines().count(), 2);
    let (code, json, _) = run(&["audit", "list", "--actor", "hub", "--json"]).await;
    let page: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((code, &page["items"][3]["action"]), (Some(0), &json!("hub.start")), "{page}");
    let (code, text, said) = run(&["audit", "verify"]).await;
    assert!(code == Some(0) && text.starts_with("the audit log is whole: "), "{text}{said}");
    let (code, json, _) = run(&["audit", "verify", "--json"]).await;
    assert_eq!((code, serde_json::from_str::<Value>(&json).expect("JSON")["ok"].as_bool()), (Some(0), Some(true)));
    // While the hub runs, from its files alone.
    if hub.is_on_a_file("audit verify --offline") {
        let (code, said) = tomada(&hub.directory(), &["audit", "verify", "--offline"]);
        assert!(code == Some(0) && said.starts_with("the audit log is whole: "), "{said}");
    }
    let (code, said) = tomada(Path::new("nowhere"), &["audit", "verify"]);
    assert!(code == Some(1) && said.contains("say with --data where a hub lives"), "{said}");
    hub.finish(&[]).await;
}
