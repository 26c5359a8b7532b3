//! Mappings are edited, tried and switched while the hub runs; every version stays, and each attempt says which it ran.

use std::process::Output;

use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tomada::client::Answer;
use tomada::config;

use crate::harness::components;
use crate::harness::target::Target;
use crate::harness::{TestHub, attempts};

const NAME: &str = "order-to-shop";

/// Orders of two types go to the shop by one mapping; those that are refunds only when they have a reason.
fn toml(target: &Target) -> String {
    let mut toml = target.endpoint("shop");
    toml += r#"
        [[routes]]
        event = "order.created"
        endpoint = "shop"
        mapping = "order-to-shop"

        [[routes]]
        event = "order.refunded"
        endpoint = "shop"
        mapping = "order-to-shop"
        filter = { pointer = "/reason" }

        [mappings.order-to-shop.settings.rules]
        id = "number"
        buyer = "customer.name"
    "#;
    toml
}

async fn publish(hub: &TestHub, event_type: &str, payload: Value) -> String {
    let event = json!({ "event_type": event_type, "source_system": "till", "payload": payload });
    hub.post("/api/events", event).await["id"].as_str().expect("an id").to_owned()
}

fn order(number: u32) -> Value {
    json!({ "number": number, "customer": { "name": "Ana", "city": "Recife" } })
}

async fn request(hub: &TestHub, method: Method, path: &str, body: &Value) -> Answer {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let body = body.to_string().into();
    hub.client().await.send(method, path, headers, body).await.expect("an answer")
}

async fn edit(hub: &TestHub, body: Value) -> Value {
    let answer = request(hub, Method::PUT, &format!("/api/mappings/{NAME}"), &body).await;
    assert_eq!(answer.status, 201, "{}", answer.problem());
    answer.json().expect("JSON")
}

async fn try_out(hub: &TestHub, body: Value) -> Value {
    hub.post(&format!("/api/mappings/{NAME}/try"), body).await
}

/// Publishes an order and answers what the shop got and which version the attempt says it ran.
async fn delivered(hub: &TestHub, target: &Target, number: u32) -> (Value, Value) {
    let before = target.count();
    let id = publish(hub, "order.created", order(number)).await;
    let event = hub.event_with(&id, "delivered").await;
    let mapping = &attempts(&event)[0]["mapping"];
    assert_eq!(mapping["name"], NAME);
    (target.wait_for(before + 1).await[before].json(), mapping["version"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_in_force_at_once_and_every_version_stays() {
    let target = Target::start().await;
    let hub = TestHub::start(&toml(&target)).await;
    assert_eq!(delivered(&hub, &target, 1).await, (json!({ "id": 1, "buyer": "Ana" }), json!(1)));
    let old = hub.get("/api/events").await["items"][0]["id"].as_str().expect("an id").to_owned();

    let rules = json!({ "rules": { "id": "number", "town": "customer.city" } });
    let answer = edit(&hub, json!({ "settings": rules, "deadline_ms": 100 })).await;
    assert_eq!(answer, json!({ "name": NAME, "version": 2, "active": true }));
    assert_eq!(delivered(&hub, &target, 2).await, (json!({ "id": 2, "town": "Recife" }), json!(2)));
    let kept = hub.event_with(&old, "delivered").await;
    assert_eq!(attempts(&kept)[0]["mapping"], json!({ "name": NAME, "version": 1 }), "the old attempt shows its own");

    // Stored, and not in force; it keeps the deadline that is.
    let answer = edit(&hub, json!({ "settings": { "rules": {} }, "activate": false })).await;
    assert_eq!(answer, json!({ "name": NAME, "version": 3, "active": false }));
    assert_eq!(delivered(&hub, &target, 3).await.1, 2);

    let hub = hub.restart().await;
    assert_eq!(delivered(&hub, &target, 4).await, (json!({ "id": 4, "town": "Recife" }), json!(2)));
    let shown = hub.get(&format!("/api/mappings/{NAME}")).await;
    assert_eq!(shown["active"], 2);
    assert_eq!(shown["settings"], rules);
    let version = |version: i64, active: bool, origin: &str, settings: Value, deadline_ms: u64| {
        json!({
            "version": version, "created_at": "2026-01-01T00:00:00Z", "active": active, "origin": origin,
            "component": "json-map", "settings": settings, "deadline_ms": deadline_ms,
        })
    };
    let first = json!({ "rules": { "id": "number", "buyer": "customer.name" } });
    assert_eq!(
        shown["versions"],
        json!([
            version(3, false, "api", json!({ "rules": {} }), 100),
            version(2, true, "api", rules, 100),
            version(1, false, "apply", first, 200),
        ])
    );
    let used_by =
        json!([{ "event": "order.created", "endpoint": "shop" }, { "event": "order.refunded", "endpoint": "shop" }]);
    assert_eq!(shown["used_by"], used_by);
    let listed = hub.get("/api/mappings").await;
    assert_eq!(
        listed["items"],
        json!([{
            "name": NAME, "component": "json-map", "active": 2, "versions": 3, "used_by": used_by,
            "edited_at": "2026-01-01T00:00:00Z",
        }])
    );
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_is_put_in_force_again() {
    let target = Target::start().await;
    let hub = TestHub::start(&toml(&target)).await;
    edit(&hub, json!({ "settings": { "rules": { "id": "number" } } })).await;
    assert_eq!(delivered(&hub, &target, 1).await, (json!({ "id": 1 }), json!(2)));
    let answer = hub.post(&format!("/api/mappings/{NAME}/activate"), json!({ "version": 1 })).await;
    assert_eq!(answer, json!({ "name": NAME, "version": 1, "active": true }));
    assert_eq!(delivered(&hub, &target, 2).await, (json!({ "id": 2, "buyer": "Ana" }), json!(1)));
    let shown = hub.get(&format!("/api/mappings/{NAME}")).await;
    let active: Vec<&Value> = shown["versions"].as_array().expect("versions").iter().map(|v| &v["active"]).collect();
    assert_eq!(active, [false, true], "one is in force: {shown:#}");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_editors_who_saw_the_same_version_one_wins() {
    let target = Target::start().await;
    let hub = TestHub::start(&toml(&target)).await;
    let path = format!("/api/mappings/{NAME}");
    let mut editors = tokio::task::JoinSet::new();
    for number in 0..8 {
        let settings = json!({ "rules": { "editor": { "type": "static", "value": number } } });
        let body = json!({ "settings": settings, "if_version": 1 }).to_string();
        let (mut client, path) = (hub.client().await, path.clone());
        editors.spawn(async move { (settings, client.put_json(&path, body).await.expect("an answer")) });
    }
    let mut statuses = Vec::new();
    let mut winner = Value::Null;
    for (settings, answer) in editors.join_all().await {
        match answer.status {
            201 => winner = settings,
            409 => {
                assert!(answer.problem().contains("version 2 is in force, and not version 1"), "{}", answer.problem())
            }
            other => panic!("{other}: {}", answer.problem()),
        }
        statuses.push(answer.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
    let shown = hub.get(&path).await;
    assert_eq!((shown["versions"].as_array().expect("versions").len(), &shown["settings"]), (2, &winner));

    // Of a mapping that is not there yet, and of one that is stored only, no version is in force.
    let new = json!({ "settings": { "rules": {} }, "activate": false, "if_version": 0 });
    for version in 1..3 {
        let answer = request(&hub, Method::PUT, "/api/mappings/fresh", &new).await;
        assert_eq!(answer.json::<Value>().expect("created")["version"], version);
    }
    let answer =
        request(&hub, Method::PUT, "/api/mappings/fresh", &json!({ "settings": {"rules": {}}, "if_version": 2 })).await;
    assert_eq!(answer.status, 409);
    assert!(answer.problem().contains("no version is in force, and not version 2"), "{}", answer.problem());
    let listed = hub.get("/api/mappings").await;
    assert_eq!(listed["items"][0]["name"], "fresh");
    assert_eq!(listed["items"][0]["active"], Value::Null);
    assert_eq!(listed["items"][0]["used_by"], json!([]));
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_shows_what_would_come_of_it_and_changes_nothing() {
    let target = Target::start().await;
    let hub = TestHub::start(&toml(&target)).await;
    let id = publish(&hub, "order.created", order(7)).await;
    hub.event_with(&id, "delivered").await;
    let before = hub.get(&format!("/api/mappings/{NAME}")).await;
    let digest = hub.get("/api/connectors").await["items"]
        .as_array()
        .and_then(|items| items.iter().find(|item| item["name"] == "json-map"))
        .map(|item| item["active"].clone())
        .expect("json-map is there");

    // What is in force, on a sample.
    let tried = try_out(&hub, json!({ "payload": order(1) })).await;
    assert_eq!(tried["output"], json!({ "id": 1, "buyer": "Ana" }));
    assert_eq!(tried["component_digest"], digest);
    assert!(tried["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{tried:#}");
    assert!(tried.get("active_version").is_none() && tried.get("changes").is_none(), "{tried:#}");

    // Other rules, on a sample and on the stored event.
    let rules = json!({ "rules": { "id": "number", "buyer": "customer.city", "note": "note" } });
    for (on, id) in [(json!({ "payload": order(1) }), 1), (json!({ "event": id }), 7)] {
        let mut body = on;
        body["settings"] = rules.clone();
        let tried = try_out(&hub, body).await;
        assert_eq!(tried["output"], json!({ "id": id, "buyer": "Recife", "note": null }));
        assert_eq!(tried["active_version"], 1);
        assert_eq!(tried["active_output"], json!({ "id": id, "buyer": "Ana" }));
        assert_eq!(
            tried["changes"],
            json!([{ "path": "/buyer", "before": "Ana", "after": "Recife" }, { "path": "/note", "after": null }])
        );
    }

    // Rules that cannot be read are what they would be to a delivery.
    let tried = try_out(&hub, json!({ "payload": {}, "settings": { "rules": { "id": { "type": "guess" } } } })).await;
    assert_eq!(tried["error"]["code"], "rule-invalid");
    assert!(tried["error"]["message"].as_str().is_some_and(|said| said.contains("rule of `id`")), "{tried:#}");
    assert_eq!(tried["active_output"], json!({ "id": null, "buyer": null }));
    assert!(tried.get("output").is_none() && tried.get("changes").is_none(), "{tried:#}");

    assert_eq!(hub.get(&format!("/api/mappings/{NAME}")).await, before);
    assert_eq!(target.count(), 1, "nothing was sent");
    assert_eq!(hub.get("/api/events").await["items"].as_array().expect("items").len(), 1);

    // A stored version before it goes live, and a mapping that does not exist yet.
    edit(&hub, json!({ "settings": rules, "activate": false })).await;
    let tried = try_out(&hub, json!({ "payload": order(1), "version": 2 })).await;
    assert_eq!(tried["output"]["buyer"], "Recife");
    assert_eq!(tried["changes"][0]["path"], "/buyer");
    let tried = hub.post("/api/mappings/unborn/try", json!({ "payload": order(1), "settings": rules })).await;
    assert_eq!(tried["output"]["buyer"], "Recife");
    assert!(hub.client().await.get("/api/mappings/unborn").await.is_ok_and(|answer| answer.status == 404));
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_on_the_latest_events_counts_what_changes() {
    let target = Target::start().await;
    let hub = TestHub::start(&toml(&target)).await;
    let mut ids = Vec::new();
    for number in 0..25 {
        ids.push(publish(&hub, "order.created", order(number)).await);
    }
    let refunds = [
        publish(&hub, "order.refunded", json!({ "number": 100, "reason": "late" })).await,
        publish(&hub, "order.refunded", json!({ "number": 101 })).await,
    ];
    publish(&hub, "order.seen", json!({ "number": 1 })).await;
    for id in ids.iter().chain(&refunds[..1]) {
        hub.event_with(id, "delivered").await;
    }

    // Nothing changes.
    let rules = json!({ "rules": { "id": { "type": "direct", "source": "number" }, "buyer": "customer.name" } });
    let tried = try_out(&hub, json!({ "settings": rules, "limit": 100 })).await;
    let expected = json!({
        "found": 27, "tried": 26, "changed": 0, "failed": 0, "skipped": 0, "filtered": 1, "out_of_time": 0,
        "active_version": 1, "differences": [],
    });
    assert_eq!(tried, expected);

    // All orders change, and the refund, which has no customer, does not; newest first, and no more than twenty.
    let rules = json!({ "rules": { "id": "number", "buyer": "customer.city" } });
    let tried = try_out(&hub, json!({ "settings": rules, "limit": 100 })).await;
    assert_eq!((&tried["tried"], &tried["changed"], &tried["failed"]), (&json!(26), &json!(25), &json!(0)));
    let differences = tried["differences"].as_array().expect("differences");
    assert_eq!(differences.len(), 20);
    assert_eq!(
        differences[0],
        json!({
            "event": ids[24], "event_type": "order.created",
            "changes": [{ "path": "/buyer", "before": "Ana", "after": "Recife" }],
        })
    );

    // One type only, and the last few of it.
    let body = json!({ "settings": rules, "events_of_type": "order.created", "limit": 3 });
    let tried = try_out(&hub, body).await;
    assert_eq!((&tried["found"], &tried["changed"]), (&json!(3), &json!(3)));
    let tried = try_out(&hub, json!({ "settings": rules, "events_of_type": "order.seen" })).await;
    assert_eq!((&tried["found"], &tried["tried"], &tried["changed"]), (&json!(1), &json!(1), &json!(0)));

    // What fails is counted and shown beside what came of it before.
    let rules = json!({ "rules": { "id": 5 } });
    let tried = try_out(&hub, json!({ "settings": rules, "events_of_type": "order.created", "limit": 2 })).await;
    assert_eq!((&tried["failed"], &tried["changed"]), (&json!(2), &json!(2)));
    assert_eq!(tried["differences"][0]["error"]["code"], "rule-invalid");
    assert_eq!(tried["differences"][0]["active_output"], json!({ "id": 24, "buyer": "Ana" }));
    assert_eq!(target.count(), 26, "nothing was sent");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_and_stores_nothing() {
    let target = Target::start().await;
    let hub = TestHub::start(&toml(&target)).await;
    let id = publish(&hub, "order.created", order(1)).await;
    hub.event_with(&id, "delivered").await;
    edit(&hub, json!({ "settings": { "rules": {} }, "activate": false })).await;
    let stored_only = json!({ "settings": { "rules": {} }, "activate": false });
    assert_eq!(request(&hub, Method::PUT, "/api/mappings/idle", &stored_only).await.status, 201);
    let before = (hub.get("/api/mappings").await, hub.get(&format!("/api/mappings/{NAME}")).await);

    let (put, post, get) = (Method::PUT, Method::POST, Method::GET);
    let rules = json!({ "rules": {} });
    let wrong: Vec<(&Method, &str, Value, u16, &str)> = vec![
        // Edits.
        (&put, "order-to-shop", json!({}), 400, "missing field `settings`"),
        (&put, "order-to-shop", json!({ "settings": [] }), 400, "settings"),
        (&put, "order-to-shop", json!({ "rules": {} }), 400, "unknown field `rules`"),
        (&put, "order-to-shop", json!({ "settings": rules, "if_version": "1" }), 400, "if_version"),
        (&put, "order-to-shop", json!({ "settings": {} }), 422, "missing field `rules`"),
        (&put, "order-to-shop", json!({ "settings": { "rule": {} } }), 422, "was not stored"),
        (&put, "order-to-shop", json!({ "settings": { "rules": { "a": 1 } } }), 422, "the rule of `a` cannot be read"),
        (
            &put,
            "order-to-shop",
            json!({ "settings": { "rules": { "a": { "type": "guess" } } } }),
            422,
            "unknown variant",
        ),
        (&put, "order-to-shop", json!({ "settings": rules, "component": "nobody" }), 422, "\"nobody\": push it first"),
        (&put, "order-to-shop", json!({ "settings": rules, "component": "webhook" }), 422, "is a connector"),
        (&put, "order-to-shop", json!({ "settings": rules, "component": "No Name" }), 422, "a name is"),
        (&put, "order-to-shop", json!({ "settings": rules, "deadline_ms": 0 }), 422, "must be from 1 to 60000"),
        (&put, "order-to-shop", json!({ "settings": rules, "deadline_ms": 60_001 }), 422, "must be from 1 to 60000"),
        (
            &put,
            "order-to-shop",
            json!({ "settings": rules, "if_version": 0 }),
            409,
            "version 1 is in force, and not none",
        ),
        (&put, "Order%20to%20shop", json!({ "settings": rules }), 422, "has a name that is not"),
        // Switches.
        (&post, "order-to-shop/activate", json!({}), 400, "missing field `version`"),
        (&post, "order-to-shop/activate", json!({ "version": 9 }), 404, "has no version 9: its newest is 2"),
        (&post, "nobody/activate", json!({ "version": 1 }), 404, "mapping \"nobody\" does not exist"),
        // Tries.
        (&post, "order-to-shop/try", json!({}), 400, "one of payload, event, or events_of_type"),
        (&post, "order-to-shop/try", json!({ "payload": {}, "event": id }), 400, "one of payload, event"),
        (&post, "order-to-shop/try", json!({ "payload": {}, "limit": 3 }), 400, "one of payload, event"),
        (&post, "order-to-shop/try", json!({ "event": "dlv_0000000000000" }), 400, "should look like evt_"),
        (&post, "order-to-shop/try", json!({ "event": "evt_0000000000001" }), 404, "event evt_0000000000001"),
        (&post, "order-to-shop/try", json!({ "event": id, "event_type": "a" }), 400, "event_type goes with payload"),
        (&post, "order-to-shop/try", json!({ "payload": {}, "event_type": "A b" }), 400, "an event type is"),
        (&post, "order-to-shop/try", json!({ "events_of_type": "" }), 400, "an event type is"),
        (&post, "order-to-shop/try", json!({ "payload": {}, "version": 1, "settings": {} }), 400, "not both"),
        (&post, "order-to-shop/try", json!({ "payload": {}, "component": "json-map" }), 400, "go with settings"),
        (&post, "order-to-shop/try", json!({ "payload": {}, "version": 9 }), 404, "has no version 9"),
        (
            &post,
            "order-to-shop/try",
            json!({ "payload": {}, "settings": {}, "component": "webhook" }),
            422,
            "is a connector",
        ),
        (&post, "order-to-shop/try", json!({ "limit": 0 }), 400, "limit is from 1 to 100"),
        (&post, "order-to-shop/try", json!({ "limit": 101 }), 400, "limit is from 1 to 100"),
        (&post, "idle/try", json!({ "payload": {} }), 409, "is not in force"),
        (&post, "idle/try", json!({ "limit": 1, "version": 1 }), 422, "no route uses mapping"),
        (&post, "nobody/try", json!({ "payload": {} }), 404, "mapping \"nobody\" does not exist"),
        (&get, "nobody", json!({}), 404, "mapping \"nobody\" does not exist"),
    ];
    for (method, path, body, status, said) in wrong {
        let answer = request(&hub, method.clone(), &format!("/api/mappings/{path}"), &body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.problem());
        assert!(answer.problem().contains(said), "{method} {path} {body}: {}", answer.problem());
    }
    assert_eq!((hub.get("/api/mappings").await, hub.get(&format!("/api/mappings/{NAME}")).await), before);
    assert_eq!(delivered(&hub, &target, 2).await.1, 1);
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_can_be_any_component_and_a_hostile_one_harms_nobody() {
    let target = Target::start().await;
    let hub = TestHub::start(&toml(&target)).await;
    assert_eq!(hub.put("/api/connectors/hostile-map", components::read("hostile-map")).await.status, 200);
    // The modes of tests/guests/hostile-map, and what each ends as.
    for (mode, ends, said) in [
        ("behaves", "output", ""),
        ("skips", "skipped", "told to skip"),
        ("fails", "told-to-fail", "the mapping was told to fail"),
        ("panics", "trapped", "the mapping was told to panic"),
        ("grows", "out-of-memory", "memory"),
        ("loops", "timed-out", "150 ms"),
    ] {
        let body = json!({
            "payload": order(1), "component": "hostile-map", "settings": { "mode": mode }, "deadline_ms": 150,
        });
        let tried = try_out(&hub, body).await;
        match ends {
            "output" => assert_eq!(tried["output"], order(1), "{mode}: {tried:#}"),
            "skipped" => assert_eq!(tried["skipped"], said, "{mode}: {tried:#}"),
            code => {
                assert_eq!(tried["error"]["code"], code, "{mode}: {tried:#}");
                assert!(
                    tried["error"]["message"].as_str().is_some_and(|text| text.contains(said)),
                    "{mode}: {tried:#}"
                );
            }
        }
        assert_eq!(tried["active_output"], json!({ "id": 1, "buyer": "Ana" }), "{mode}: {tried:#}");
    }

    let unknown = json!({ "component": "hostile-map", "settings": { "mode": "sings" } });
    let answer = request(&hub, Method::PUT, &format!("/api/mappings/{NAME}"), &unknown).await;
    assert_eq!(answer.status, 422, "its settings are proved: {}", answer.problem());
    assert!(answer.problem().contains("mode: expected one of `behaves`"), "{}", answer.problem());

    edit(&hub, json!({ "component": "hostile-map", "settings": { "mode": "behaves" } })).await;
    assert_eq!(delivered(&hub, &target, 1).await, (order(1), json!(2)));
    // The component stays when the edit does not name one.
    edit(&hub, json!({ "settings": { "mode": "skips" } })).await;
    let id = publish(&hub, "order.created", order(2)).await;
    let event = hub.event_with(&id, "skipped").await;
    assert_eq!(attempts(&event)[0]["mapping"]["version"], 3);
    assert_eq!(hub.get("/api/mappings").await["items"][0]["component"], "hostile-map");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_says_which_edit_it_replaces() {
    let target = Target::start().await;
    let file = toml(&target);
    let hub = TestHub::start(&file).await;
    let apply = async |file: &str, dry_run: bool| {
        let config = config::parse(file, "test.toml").expect("a configuration");
        let path = format!("/api/apply?dry_run={dry_run}");
        hub.post(&path, json!({ "config": config })).await["changes"].clone()
    };
    let changed = |detail: &str| json!([{ "action": "update", "kind": "mapping", "name": NAME, "detail": detail }]);
    let activate = async |version: i64| {
        hub.post(&format!("/api/mappings/{NAME}/activate"), json!({ "version": version })).await;
    };
    let other = file.replace("customer.name", "customer.city");

    assert_eq!(apply(&file, true).await, json!([]));
    assert_eq!(apply(&other, true).await, changed("settings"), "nobody edited it");
    edit(&hub, json!({ "settings": { "rules": { "id": "number" } } })).await;
    let said = changed("settings; replaces version 2, which was edited over the API");
    assert_eq!(apply(&file, true).await, said);
    assert_eq!(delivered(&hub, &target, 1).await.1, 2, "a dry run changes nothing");
    assert_eq!(apply(&file, false).await, said);
    assert_eq!(delivered(&hub, &target, 2).await, (json!({ "id": 2, "buyer": "Ana" }), json!(3)));
    assert_eq!(apply(&other, true).await, changed("settings"), "version 3 came with apply");

    // The edit is still there, and to choose it is an edit too; so is to choose a version that came with apply.
    activate(2).await;
    assert_eq!(apply(&file, true).await, said);
    activate(1).await;
    assert_eq!(apply(&other, true).await, changed("settings; replaces version 1, which was put in force over the API"));

    // A mapping that no file has goes out of force; its versions stay.
    let new = json!({ "settings": { "rules": {} } });
    assert_eq!(request(&hub, Method::PUT, "/api/mappings/extra", &new).await.status, 201);
    let detail = "takes out of force version 1, which was edited over the API";
    assert_eq!(
        apply(&file, false).await,
        json!([{ "action": "delete", "kind": "mapping", "name": "extra", "detail": detail }])
    );
    let extra = hub.get("/api/mappings/extra").await;
    assert_eq!((&extra["active"], &extra["versions"][0]["version"]), (&Value::Null, &json!(1)));
    hub.finish(&[]).await;
}

/// The command line says by its exit code whether a mapping works: for scripts that edit one.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_edits_tries_and_switches() {
    let target = Target::start().await;
    let hub = TestHub::start(&toml(&target)).await;
    let id = publish(&hub, "order.created", order(1)).await;
    hub.event_with(&id, "delivered").await;
    let directory = tempfile::TempDir::new().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("the file is written");
        path.to_str().expect("utf-8").to_owned()
    };
    let good = file("good.toml", "[rules]\nid = \"number\"\nbuyer = \"customer.city\"\n");
    let bad = file("bad.json", r#"{"rules": {"id": {"type": "guess"}}}"#);
    let sample = file("sample.json", &order(5).to_string());

    let steps: Vec<(Vec<&str>, i32, &str)> = vec![
        (vec!["list"], 0, "order.created → shop, order.refunded → shop"),
        (vec!["try", NAME, "--json", "{\"number\": 3}"], 0, "\"id\": 3"),
        (vec!["try", NAME, "--json", "{"], 1, "the payload is not JSON"),
        (vec!["try", NAME], 2, "required"),
        (vec!["try", NAME, "--event", &id, "--settings", &good], 0, "- /buyer  \"Ana\"\n  + /buyer  \"Recife\""),
        (vec!["try", NAME, "--file", &sample, "--settings", &bad], 1, "error rule-invalid"),
        (vec!["try", NAME, "--last", "10", "--settings", &good], 0, "1 event tried: 0 failed, 0 skipped, 1 other"),
        (vec!["try", NAME, "--last", "10", "--settings", &bad], 1, "1 event tried: 1 failed"),
        (vec!["put", NAME, &bad], 1, "the rule of `id` cannot be read"),
        (vec!["put", NAME, &good, "--no-activate"], 0, "version 2, which is not in force yet"),
        (vec!["try", NAME, "--version", "2", "--event", &id, "--raw"], 0, "\"active_version\": 1"),
        (vec!["activate", NAME, "2"], 0, "runs version 2"),
        (vec!["put", NAME, &good, "--if-version", "1"], 1, "version 2 is in force, and not version 1"),
        (vec!["show", NAME], 0, "\"buyer\": \"customer.city\""),
        (vec!["show", NAME, "--version", "1", "--settings"], 0, "\"buyer\": \"customer.name\""),
        (vec!["show", "nobody"], 1, "mapping \"nobody\" does not exist"),
    ];
    for (arguments, code, said) in steps {
        let Output { status, stdout, stderr } = hub.command(&[&["mappings"], arguments.as_slice()].concat()).await;
        let text = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?} does not say {said:?}: {text}");
    }
    assert_eq!(delivered(&hub, &target, 2).await, (json!({ "id": 2, "buyer": "Recife" }), json!(2)));
    hub.finish(&[]).await;
}
