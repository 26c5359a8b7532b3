//! What people may ask for: to be found, to get what is about them, to have it erased. Erased means that nothing of it is
//! left in the answers, in the memory or in the files; that it goes to nobody any more; and that whoever had got it is
//! told.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::Place;
use crate::harness::partner::{Partner, source};
use crate::harness::process::HubProcess;
use crate::harness::target::{Got, Target};
use crate::harness::{TestHub, components, eventually, statuses};

const PATH: &str = "/webhooks/partner/order";
const CPF: &str = "529.982.247-25";
const PHONE: &str = "(11) 98765-4321";
const EMAIL: &str = "Ana.Souza@example.com";
/// Whatever is only in what is about Ana.
const MARKERS: [&str; 5] = ["Ana Canario", "529.982.247", "98765-4321", "Ana.Souza@", "note-of-ana"];

/// The partner's source, which says where it names people.
fn personal(sensitive: bool) -> String {
    let personal = r#"
        personal = [
            { pointer = "/cpf", kind = "cpf" },
            { pointer = "/phones/*", kind = "phone" },
            { pointer = "/email", kind = "email" },
        ]
    "#;
    let keys = format!("sensitive = {sensitive}\n{personal}");
    source(PATH, "order.created").replacen("[[sources", &format!("{keys}\n[[sources"), 1)
}

fn route(endpoint: &str) -> String {
    format!("[[routes]]\nevent = \"order.created\"\nendpoint = \"{endpoint}\"\n")
}

fn ana(key: &str) -> Value {
    json!({
        "idempotency_key": format!("note-of-ana-{key}"), "name": "Ana Canario", "cpf": CPF, "phones": ["x", PHONE],
        "email": EMAIL, "note": format!("note-of-ana {}", "x".repeat(9000)),
    })
}

fn beto(key: &str) -> Value {
    json!({ "idempotency_key": key, "name": "Beto", "phones": ["11 3333-4444"], "email": "beto@example.com" })
}

async fn find(hub: &TestHub, who: Value) -> Vec<String> {
    let found = hub.post("/api/privacy/find", who).await;
    let items = found["items"].as_array().expect("items");
    assert_eq!(found["events"], items.len());
    items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect()
}

async fn erase(hub: &TestHub, mut who: Value) -> Value {
    who["reason"] = "she asked for it".into();
    who["dry_run"] = false.into();
    hub.post("/api/privacy/erase", who).await
}

async fn status_of(hub: &TestHub, path: &str, body: Value) -> u16 {
    hub.client().await.post(path, body.to_string()).await.expect("an answer").status
}

/// The erasure, once it is complete.
async fn completed(hub: &TestHub, id: &Value) -> Value {
    let mut found = Value::Null;
    eventually("the erasure is complete", async || {
        let list = hub.get("/api/privacy/erasures").await;
        found = list["items"].as_array().expect("items").iter().find(|e| e["id"] == *id).expect("it is listed").clone();
        found["state"] == "complete"
    })
    .await;
    found
}

fn notices(target: &Target) -> Vec<Got> {
    target.got().into_iter().filter(|got| got.header("x-event-type") == "subject.erased").collect()
}

/// Neither the database nor a file of the hub holds any of the markers.
fn assert_gone(hub: &TestHub, markers: &[&str]) {
    let database = hub.database();
    assert!(!database.is_empty(), "the database was looked at");
    for marker in markers {
        let found = database.windows(marker.len()).any(|window| window == marker.as_bytes());
        assert!(!found, "the database holds {marker:?}");
    }
    for file in std::fs::read_dir(hub.directory()).expect("the hub's directory") {
        let path = file.expect("a file").path();
        if !path.is_file() {
            continue;
        }
        let bytes = std::fs::read(&path).expect("the file can be read");
        for marker in markers {
            let found = bytes.windows(marker.len()).position(|window| window == marker.as_bytes());
            assert_eq!(found, None, "{} holds {marker:?}", path.display());
        }
    }
}

fn is_there(hub: &TestHub, marker: &str) -> bool {
    hub.database().windows(marker.len()).any(|window| window == marker.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_found_by_each_identifier() {
    for sensitive in [false, true] {
        let target = Target::start().await;
        let hub = TestHub::start(&(personal(sensitive) + &target.endpoint("shop") + &route("shop"))).await;
        let mut partner = Partner::of(&hub.url, PATH).await;
        let (first, _) = partner.send(&ana("1")).await;
        let (other, _) = partner.send(&beto("2")).await;
        // WhatsApp knows her without the ninth digit.
        let (whatsapp, _) = partner.send(&json!({ "phones": ["551187654321@c.us"] })).await;
        hub.event_with(&first, "delivered").await;
        hub.event_with(&other, "delivered").await;
        hub.event_with(&whatsapp, "delivered").await;
        for (who, found) in [
            (json!({ "cpf": "52998224725" }), vec![&first]),
            (json!({ "email": " ana.souza@EXAMPLE.com" }), vec![&first]),
            (json!({ "phone": "+55 11 98765-4321" }), vec![&whatsapp, &first]),
            (json!({ "phone": "1187654321" }), vec![&whatsapp, &first]),
            (json!({ "phone": ["1133334444"] }), vec![&other]),
            (json!({ "cpf": CPF, "email": "beto@example.com" }), vec![&other, &first]),
            (json!({ "cpf": "111.444.777-35" }), vec![]),
        ] {
            assert_eq!(find(&hub, who.clone()).await.iter().collect::<Vec<_>>(), found, "{who}");
        }
        for wrong in [
            json!({}),
            json!({ "cpf": "529.982.247-26" }),
            json!({ "phone": "ana" }),
            json!({ "email": [] }),
            json!({ "name": "Ana" }),
        ] {
            let answer = hub.client().await.post("/api/privacy/find", wrong.to_string()).await.expect("an answer");
            assert_eq!(answer.status, 400, "{wrong}");
            assert!(!answer.problem().contains("529"), "it repeats what was given: {}", answer.problem());
        }
        let found = hub.post("/api/privacy/find", json!({ "cpf": CPF })).await;
        let item = &found["items"][0];
        assert_eq!(
            (&item["descendant"], &item["content"]),
            (&json!(false), &json!(if sensitive { "sealed" } else { "clear" }))
        );
        assert_eq!(item["deliveries"][0]["endpoint"], "shop");
        assert!(item["deliveries"][0]["delivered_at"].is_string(), "{item}");
        assert!(!found.to_string().contains("Canario"), "it shows content");
        // The table says nothing to whoever tries identifiers without the ring.
        assert!(!is_there(&hub, "52998224725"));
        hub.finish(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_found_is_said_and_a_scan_finds_it() {
    let toml = format!(
        "{}[sources.quiet]\nauth = {{ scheme = \"hmac-hex\", secrets = [\"{}\"] }}\n",
        personal(true),
        crate::harness::partner::secret_file()
    );
    let hub = TestHub::start(&toml).await;
    let publish = async |source: &str, payload: Value| {
        let body = json!({ "event_type": "thing.said", "source_system": source, "payload": payload });
        hub.post("/api/events", body).await["id"].as_str().expect("an id").to_owned()
    };
    let text = format!("liga no {PHONE}, CPF {CPF}, e-mail {EMAIL}!");
    let keyed = json!({
        "event_type": "thing.said", "source_system": "quiet", "payload": { "text": text }, "idempotency_key": "note-of-ana",
    });
    let hidden = hub.post("/api/events", keyed.clone()).await["id"].as_str().expect("an id").to_owned();
    publish("quiet", json!({ "text": "nada" })).await;
    publish("partner", json!({ "name": "Ana" })).await;
    for who in [json!({ "cpf": CPF }), json!({ "phone": PHONE }), json!({ "email": EMAIL })] {
        let mut who = who;
        assert!(find(&hub, who.clone()).await.is_empty());
        who["scan"] = true.into();
        let found = hub.post("/api/privacy/find", who).await;
        let ids: Vec<_> = found["scan"]["matches"].as_array().expect("matches").iter().map(|m| &m["id"]).collect();
        assert_eq!(
            (ids, &found["scan"]["seen"], &found["scan"]["next"]),
            (vec![&json!(hidden)], &json!(3), &Value::Null)
        );
        let rows = found["coverage"]["sources"].as_array().expect("sources");
        let row = |name: &str| rows.iter().find(|row| row["source"] == name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(
            (&row("quiet")["declares_personal"], &row("quiet")["events_with_content"]),
            (&json!(false), &json!(2))
        );
        assert_eq!(
            (&row("partner")["declares_personal"], &row("partner")["not_found_by_identifier"]),
            (&json!(true), &json!(1))
        );
    }
    // What a person has looked at can be erased too.
    let answer = erase(&hub, json!({ "cpf": CPF, "events": [hidden] })).await;
    assert_eq!((&answer["events"], &answer["state"]), (&json!(1), &json!("complete")));
    assert_eq!(hub.get(&format!("/api/events/{hidden}")).await["content"], "erased");
    // Its source is about nobody, so its key had stood there as it came; sent again it is known all the same.
    assert_gone(&hub, &MARKERS);
    let again = json!({ "id": hidden, "duplicate": true });
    assert_eq!(hub.post("/api/events", keyed.clone()).await, again);
    let hub = hub.restart().await;
    assert_eq!(hub.post("/api/events", keyed).await, again);
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_events_are_indexed_when_their_source_says_where_it_names_people() {
    let target = Target::start().await;
    let (endpoint, webhooks) = (target.endpoint("shop") + &route("shop"), source(PATH, "order.created"));
    let hub = TestHub::start(&(webhooks + &endpoint)).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    let (old, _) = partner.send(&ana("1")).await;
    hub.event_with(&old, "delivered").await;
    hub.apply(&(personal(true) + &endpoint)).await;
    assert!(find(&hub, json!({ "cpf": CPF })).await.is_empty());
    assert_eq!(status_of(&hub, "/api/privacy/reindex", json!({})).await, 202);
    eventually("it is indexed", async || hub.get("/api/privacy/reindex").await["reindexing"]["state"] == "finished")
        .await;
    assert_eq!(find(&hub, json!({ "cpf": CPF })).await, std::slice::from_ref(&old));
    // Its key stands in the table as it came, and the source's keys are hidden by now.
    assert_eq!(partner.send(&ana("1")).await, (old.clone(), true));
    erase(&hub, json!({ "cpf": CPF })).await;
    assert_eq!(partner.send(&ana("1")).await, (old, true));
    hub.finish(&[]).await;
}

/// The whole of it, for a source whose events lie there in clear and for one whose events are sealed: what is waiting,
/// held, dead, delivered and in memory.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_is_nowhere_any_more() {
    for sensitive in [false, true] {
        let (good, bad, late, off) =
            (Target::start().await, Target::start().await, Target::start().await, Target::start().await);
        bad.always((422, Vec::new()));
        late.always((503, Vec::new()));
        let toml = [
            personal(sensitive),
            good.endpoint("good"),
            route("good"),
            format!("{}\nretry = {{ attempts = 1 }}\n{}", bad.endpoint("bad"), route("bad")),
            format!("{}\nretry = {{ delays_s = [60] }}\n{}", late.endpoint("late"), route("late")),
            off.endpoint("off"),
            route("off"),
            // One at a time, two seconds in between: what is behind waits in memory.
            format!("{}\nrate_per_s = 1\n{}", good.endpoint("slow"), route("slow")),
        ]
        .concat();
        let hub = TestHub::start(&toml).await;
        hub.post("/api/endpoints/off/pause", json!({ "reason": "a test" })).await;
        let mut partner = Partner::of(&hub.url, PATH).await;
        let (his, _) = partner.send(&beto("beto-1")).await;
        let mut hers = Vec::new();
        for key in ["1", "2", "3"] {
            hers.push(partner.send(&ana(key)).await.0);
        }
        for id in hers.iter().chain([&his]) {
            hub.event_when(id, |event| {
                let found = statuses(event);
                found[..4] == ["delivered", "dead", "waiting", "held"]
            })
            .await;
        }
        if !sensitive {
            assert!(is_there(&hub, "Ana Canario"), "else the test would see nothing");
        }
        let plan = json!({ "cpf": CPF, "reason": "what would happen?" });
        let before = hub.get("/api/events").await;
        let plan = hub.post("/api/privacy/erase", plan).await;
        assert_eq!((&plan["dry_run"], &plan["events"]), (&json!(true), &json!(3)), "{plan}");
        let told: Vec<_> =
            plan["recipients"].as_array().expect("recipients").iter().map(|r| r["endpoint"].clone()).collect();
        assert!(
            told.contains(&json!("good")) && told.contains(&json!("late")) && !told.contains(&json!("off")),
            "{told:?}"
        );
        assert_eq!(hub.get("/api/events").await, before, "a dry run changes nothing");

        let answer = erase(&hub, json!({ "cpf": CPF })).await;
        assert_eq!((&answer["events"], &answer["events_left"]), (&json!(3), &json!(0)), "{answer}");
        for id in &hers {
            let event = hub.get(&format!("/api/events/{id}?payload=true")).await;
            assert_eq!((&event["content"], &event["payload"]), (&json!("erased"), &json!("")), "{event}");
            assert_eq!(statuses(&event)[..4], ["delivered", "erased", "erased", "erased"], "{event}");
            let text = event.to_string();
            for marker in MARKERS {
                assert!(!text.contains(marker), "{marker}: {text}");
            }
            let delivery = event["deliveries"][1]["id"].as_str().expect("an id");
            assert_eq!(status_of(&hub, &format!("/api/deliveries/{delivery}/replay"), json!({})).await, 409);
        }
        assert_gone(&hub, &MARKERS);
        assert!(find(&hub, json!({ "cpf": CPF, "email": EMAIL })).await.is_empty());
        // The other person's event is as it was, also his dead letter and what waits.
        let event = hub.get(&format!("/api/events/{his}?payload=true")).await;
        assert_eq!(event["payload"]["name"], "Beto");
        assert_eq!(statuses(&event)[..4], ["delivered", "dead", "waiting", "held"]);
        let letters = hub.get("/api/dead-letters?endpoint=bad").await;
        let of_orders =
            letters["items"].as_array().expect("items").iter().filter(|l| l["event_type"] == "order.created");
        assert_eq!(of_orders.map(|letter| &letter["event"]).collect::<Vec<_>>(), [&json!(his)]);

        // A provider's retry brings nothing back, and a new event of hers is a new one.
        let count = good.count();
        assert_eq!(partner.send(&ana("2")).await, (hers[1].clone(), true));
        assert_gone(&hub, &["Ana Canario"]);
        let hub = hub.restart().await;
        let mut partner = Partner::of(&hub.url, PATH).await;
        assert_eq!(partner.send(&ana("3")).await, (hers[2].clone(), true));
        // Nothing of hers goes out, whatever the clock says.
        hub.post("/api/endpoints/off/resume", json!({})).await;
        hub.clock.advance(Duration::from_secs(600));
        hub.event_when(&his, |event| statuses(event)[3..] == ["delivered", "delivered"]).await;
        for target in [&good, &late, &off] {
            let skip = if std::ptr::eq(target, &good) { count } else { 0 };
            let after = target.got().into_iter().skip(skip).filter(|got| got.header("x-event-type") == "order.created");
            let text: String = after.map(|got| String::from_utf8_lossy(&got.body).into_owned()).collect();
            if !std::ptr::eq(target, &late) {
                assert!(!text.contains("Ana Canario"), "{text:.300}");
            }
        }
        hub.abandon().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_got_it_is_told_and_then_the_notice_goes_too() {
    let (shop, down, never) = (Target::start().await, Target::start().await, Target::start().await);
    let toml = [
        personal(true),
        shop.endpoint("shop"),
        route("shop"),
        format!("{}\nretry = {{ attempts = 1 }}\n{}", down.endpoint("down"), route("down")),
        // Only ever gets something else.
        never.endpoint("never"),
        "[[routes]]\nevent = \"other\"\nendpoint = \"never\"\n".to_owned(),
    ]
    .concat();
    let hub = TestHub::start(&toml).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    let (id, _) = partner.send(&ana("1")).await;
    hub.event_with(&id, "delivered").await;
    down.always((422, Vec::new()));
    let erased = erase(&hub, json!({ "cpf": CPF, "phone": PHONE, "request": "ticket-7" })).await;
    assert_eq!(erased["duplicate"], false);
    eventually("shop is told", async || !notices(&shop).is_empty()).await;
    let notice = notices(&shop)[0].json();
    assert_eq!((&notice["erasure"], &notice["cpf"]), (&erased["id"], &json!(["52998224725"])));
    assert_eq!((&notice["phone"], &notice["email"]), (&json!(["5511987654321"]), &json!([])));
    assert_eq!(notice["requested_at"], "2026-01-01T00:00:00Z");
    // The other one is a dead letter: the operator sees it.
    let mut listed = Value::Null;
    eventually("the other one fails", async || {
        listed = hub.get("/api/privacy/erasures").await["items"][0].clone();
        let recipients = listed["recipients"].as_array().expect("recipients");
        let is = |status: &str| recipients.iter().any(|recipient| recipient["status"] == status);
        is("dead") && is("delivered")
    })
    .await;
    let of = |name: &str| {
        listed["recipients"].as_array().expect("recipients").iter().find(|r| r["endpoint"] == name).cloned()
    };
    assert_eq!(listed["state"], "telling");
    assert!(of("shop").expect("shop")["told_at"].is_string(), "{listed}");
    assert!(of("down").expect("down")["note"].as_str().expect("a note").contains("tell it yourself"), "{listed}");
    assert_eq!(of("never"), None);
    assert_eq!((never.count(), notices(&down).len()), (0, 1));
    // The notice holds who it was as long as somebody is to be told.
    let notice_id = listed["notice"].as_str().expect("an id").to_owned();
    let event = hub.get(&format!("/api/events/{notice_id}?payload=true")).await;
    assert_eq!((&event["source"], &event["content"]), (&json!("privacy:erasure"), &json!("sealed")));
    // The same request again is the same erasure.
    let again = erase(&hub, json!({ "cpf": CPF, "request": "ticket-7" })).await;
    assert_eq!((&again["id"], &again["duplicate"]), (&erased["id"], &json!(true)));
    // The target is up again.
    down.always((200, Vec::new()));
    let delivery = of("down").expect("down")["delivery"].as_str().expect("an id").to_owned();
    hub.post(&format!("/api/deliveries/{delivery}/replay"), json!({})).await;
    let complete = completed(&hub, &erased["id"]).await;
    assert!(
        complete["recipients"].as_array().expect("recipients").iter().all(|r| r["told_at"].is_string()),
        "{complete}"
    );
    let event = hub.get(&format!("/api/events/{notice_id}?payload=true")).await;
    assert_eq!((&event["content"], &event["payload"]), (&json!("erased"), &json!("")));
    assert_gone(&hub, &["52998224725", "5511987654321"]);

    // An erasure without anything to erase is on record, and tells nobody.
    let nothing = erase(&hub, json!({ "cpf": CPF })).await;
    assert_eq!((&nothing["events"], &nothing["state"]), (&json!(0), &json!("complete")));
    assert_eq!((notices(&shop).len(), notices(&down).len()), (1, 2));

    // Nobody can tell it: the operator does, and says so.
    down.always((422, Vec::new()));
    partner.send(&ana("2")).await;
    eventually("it is dead", async || {
        hub.get("/api/dead-letters").await["items"].as_array().is_some_and(|l| !l.is_empty())
    })
    .await;
    let erased = erase(&hub, json!({ "cpf": CPF })).await;
    let id = erased["id"].as_str().expect("an id");
    eventually("it cannot be told", async || {
        hub.get("/api/dead-letters").await["items"]
            .as_array()
            .is_some_and(|l| l.iter().any(|l| l["event_type"] == "subject.erased"))
    })
    .await;
    let closed = hub.post(&format!("/api/privacy/erasures/{id}/close"), json!({})).await;
    assert_eq!(closed["state"], "complete");
    assert_gone(&hub, &["52998224725"]);
    hub.finish(&[]).await;
}

/// A try that is under way ends first; whoever waits in memory behind it never begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_try_under_way_ends_before_its_event_is_erased() {
    let target = Target::start().await;
    let endpoint = format!("{}\nconcurrency = 1\n{}", target.endpoint("shop"), route("shop"));
    let hub = TestHub::start(&(personal(true) + &endpoint)).await;
    let held = target.hold().await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    let (first, _) = partner.send(&ana("1")).await;
    target.wait_for(1).await;
    let (second, _) = partner.send(&ana("2")).await;
    let (his, _) = partner.send(&beto("3")).await;
    let mut client = hub.client().await;
    let body = json!({ "cpf": CPF, "reason": "she asked for it", "dry_run": false }).to_string();
    let erasing = tokio::spawn(async move { client.post("/api/privacy/erase", body).await.expect("an answer") });
    // It is on record, and waits.
    eventually("it has begun", async || hub.get("/api/privacy/erasures").await["items"][0]["state"] == "erasing").await;
    assert_eq!(hub.get(&format!("/api/events/{first}")).await["content"], "sealed");
    drop(held);
    let answer: Value = erasing.await.expect("it ends").json().expect("JSON");
    assert_eq!(answer["events"], 2);
    assert_eq!(statuses(&hub.get(&format!("/api/events/{first}")).await), ["delivered"]);
    assert_eq!(statuses(&hub.get(&format!("/api/events/{second}")).await), ["erased"]);
    hub.event_with(&his, "delivered").await;
    completed(&hub, &answer["id"]).await;
    let types: Vec<String> = target.got().iter().map(|got| got.header("x-event-type").to_owned()).collect();
    assert_eq!(types.iter().filter(|t| *t == "order.created").count(), 2, "{types:?}");
    assert_eq!(notices(&target).len(), 1);
    hub.finish(&[]).await;
}

/// What a delivery of hers gave rise to is about her too; and an event about two people goes when one of them asks.
#[tokio::test(flavor = "multi_thread")]
async fn descendants_go_too_and_so_do_events_about_two() {
    let target = Target::start().await;
    let announcing = target.endpoint("shop").replace("settings = {", "settings = { announce = [\"order.created\"],");
    let toml = [
        personal(false),
        announcing,
        route("shop"),
        target.endpoint("next"),
        "[[routes]]\nevent = \"event.delivered\"\nendpoint = \"next\"\n".to_owned(),
    ]
    .concat();
    let hub = TestHub::start(&toml).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    let (hers, _) = partner.send(&ana("1")).await;
    let (his, _) = partner.send(&beto("2")).await;
    let mut both = ana("3");
    both["phones"] = json!([PHONE, "1133334444"]);
    let (both, _) = partner.send(&both).await;
    for id in [&hers, &his, &both] {
        hub.event_when(id, |event| event["children"][0]["deliveries"][0]["status"] == "delivered").await;
    }
    let found = hub.post("/api/privacy/find", json!({ "email": EMAIL })).await;
    assert_eq!((&found["events"], &found["descendants"]), (&json!(4), &json!(2)));
    let exported = hub.post("/api/privacy/export", json!({ "email": EMAIL })).await;
    assert_eq!(exported["about"], json!([{ "kind": "email", "is": "ana.souza@example.com" }]));
    let events = exported["events"].as_array().expect("events");
    assert_eq!(events.len(), 4);
    let one = events.iter().find(|event| event["id"] == *hers).expect("hers");
    assert_eq!((&one["payload"]["name"], &one["type"]), (&json!("Ana Canario"), &json!("order.created")));
    assert_eq!(one["deliveries"][0]["attempt_list"][0]["outcome"], "delivered");
    let recipients = exported["recipients"].as_array().expect("recipients");
    let mut names: Vec<_> = recipients.iter().map(|recipient| recipient["endpoint"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, [Some("next"), Some("shop")]);
    for recipient in recipients {
        assert_eq!(recipient["events"].as_array().expect("events").len(), 2, "{recipient}");
        assert!(recipient["first_at"].is_string() && recipient["last_at"].is_string(), "{recipient}");
    }
    assert!(!exported.to_string().contains("Beto"));
    let erased = erase(&hub, json!({ "email": EMAIL })).await;
    assert_eq!(erased["events"], 4);
    completed(&hub, &erased["id"]).await;
    assert_gone(&hub, &MARKERS);
    assert_eq!(find(&hub, json!({ "phone": "1133334444" })).await.len(), 2, "his own, and what came of it");
    hub.finish(&[]).await;
}

/// The hub is killed when it has noted what it is to erase, and before it has.
#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_goes_on_after_a_crash() {
    let target = Target::start().await;
    let place = Place::new();
    let file = place.path("tomada.toml");
    let component = format!("[connectors.webhook]\nfile = {:?}\n", components::path("webhook"));
    let slow = format!("{}\nrate_per_s = 1\n{}", target.endpoint("slow"), route("slow"));
    std::fs::write(&file, personal(false) + &target.endpoint("shop") + &route("shop") + &slow + &component)
        .expect("written");
    let hub = HubProcess::start(&place, &file, Some("end-while-erasing")).await;
    let mut partner = Partner::of(&hub.url, PATH).await;
    for key in ["1", "2", "3"] {
        partner.send(&ana(key)).await;
    }
    target.wait_for(4).await;
    let mut client = hub.client().await;
    let body = json!({ "cpf": CPF, "reason": "she asked for it", "dry_run": false }).to_string();
    assert!(client.post("/api/privacy/erase", body).await.is_err(), "it dies at that");
    hub.kill();
    let before = target.got().iter().filter(|got| got.header("x-event-type") == "order.created").count();

    let hub = HubProcess::start(&place, &file, None).await;
    eventually("it is complete", async || hub.get("/api/privacy/erasures").await["items"][0]["state"] == "complete")
        .await;
    let erasure = hub.get("/api/privacy/erasures").await["items"][0].clone();
    assert_eq!((&erasure["events"], &erasure["events_left"]), (&json!(3), &json!(0)));
    let after = target.got().iter().filter(|got| got.header("x-event-type") == "order.created").count();
    assert_eq!(before, after, "nothing of hers goes out meanwhile");
    assert!(!notices(&target).is_empty());
    hub.kill();
    let bytes = place.database();
    for marker in MARKERS {
        assert!(!bytes.windows(marker.len()).any(|window| window == marker.as_bytes()), "the database holds {marker}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_finds_exports_and_erases() {
    let target = Target::start().await;
    let hub = TestHub::start(&(personal(true) + &target.endpoint("shop") + &route("shop"))).await;
    let (id, _) = Partner::of(&hub.url, PATH).await.send(&ana("1")).await;
    hub.event_with(&id, "delivered").await;
    let run = async |arguments: &[&str]| {
        let output = hub.command(&[&["privacy"], arguments].concat()).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&["find"]).await.0, Some(2));
    let (code, text, said) = run(&["find", "--cpf", CPF, "--scan"]).await;
    assert!(code == Some(0) && text.contains(&id) && text.contains("shop delivered"), "{text}{said}");
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("ana.json");
    let (code, _, said) = run(&["export", "--email", EMAIL, "--out", file.to_str().expect("UTF-8")]).await;
    assert_eq!(code, Some(0), "{said}");
    let exported: Value = serde_json::from_slice(&std::fs::read(&file).expect("the file")).expect("JSON");
    assert_eq!(exported["events"][0]["payload"]["name"], "Ana Canario");
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    }
    let (code, text, said) = run(&["erase", "--phone", PHONE, "--reason", "she asked"]).await;
    assert!(
        code == Some(0) && text.contains("nothing was erased") && text.contains("would be told: shop"),
        "{text}{said}"
    );
    assert_eq!(find(&hub, json!({ "cpf": CPF })).await.len(), 1);
    let (code, text, said) = run(&["erase", "--phone", PHONE, "--reason", "she asked", "--yes"]).await;
    assert!(code == Some(0) && text.contains("1 events"), "{text}{said}");
    eventually("it is complete", async || run(&["erasures"]).await.1.contains("complete")).await;
    let (_, text, _) = run(&["erasures"]).await;
    // The hub's clock stands still, and a try takes as long as it takes: the time is the one that the API has.
    let listed = hub.get("/api/privacy/erasures").await;
    let told = listed["items"][0]["recipients"][0]["told_at"].as_str().expect("a time");
    assert!(told.starts_with("2026-01-01T00:00:"), "{told}");
    assert!(text.contains(&format!("shop  told {told}")) && text.contains("she asked"), "{text}");
    assert_eq!(run(&["reindex"]).await.0, Some(0));
    hub.finish(&[]).await;
}
