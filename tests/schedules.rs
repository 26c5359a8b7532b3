//! What happens by itself: at its time, once, and made up for once after a time without a hub; runs of sync jobs go page by
//! page, one at a time, and go on where they failed.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::target::Target;
use crate::harness::{TestHub, eventually};

const HOUR: Duration = Duration::from_secs(3600);

/// Items are delivered after the page that they came of is over.
async fn finish(hub: TestHub, left_over: &[(&str, &str, u64)]) {
    eventually("all items are delivered", async || {
        let endpoints = hub.get("/api/endpoints").await;
        endpoints["items"].as_array().expect("items").iter().all(|endpoint| endpoint["owed"] == 0)
    })
    .await;
    hub.finish(left_over).await;
}

async fn due(hub: &TestHub) -> Vec<Value> {
    hub.get("/api/events?type=report.due").await["items"].as_array().expect("items").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_fires_at_its_time_and_once() {
    let target = Target::start().await;
    let schedule = r#"
        [schedules.report]
        cron = "0 8 * * *"
        time_zone = "America/Sao_Paulo"
        event = "report.due"
        payload = { kind = "daily" }
        [[routes]]
        event = "report.due"
        endpoint = "shop"
    "#;
    let hub = TestHub::start(&format!("{schedule}{}", target.endpoint("shop"))).await;
    let listed = hub.get("/api/schedules").await;
    assert_eq!(listed["items"][0]["next_at"], "2026-01-01T11:00:00Z");
    hub.clock.advance(HOUR * 11 - Duration::from_millis(1));
    assert_eq!(due(&hub).await.len(), 0);
    hub.clock.advance(Duration::from_millis(1));
    let first = target.wait_for(1).await[0].json();
    assert_eq!(first, json!({ "kind": "daily", "schedule": "report", "due_at": "2026-01-01T11:00:00Z" }));

    // A new start fires nothing again.
    let hub = hub.restart().await;
    hub.clock.advance(HOUR * 24);
    assert_eq!(target.wait_for(2).await[1].json()["due_at"], "2026-01-02T11:00:00Z");
    // Three days without a hub are made up for once.
    let hub = hub.restart_after(HOUR * 72).await;
    assert_eq!(target.wait_for(3).await[2].json()["due_at"], "2026-01-03T11:00:00Z");
    hub.clock.advance(HOUR * 24);
    assert_eq!(target.wait_for(4).await[3].json()["due_at"], "2026-01-06T11:00:00Z");
    assert_eq!(due(&hub).await.len(), 4);
    finish(hub, &[]).await;
}

fn job(target: &Target, settings: &str, cron: &str) -> String {
    let (url, port) = (target.url(), target.port);
    let shop = target.endpoint("shop");
    format!(
        r#"
        [sync_jobs.items]
        {cron}
        time_zone = "America/Sao_Paulo"
        [[routes]]
        event = "sync.items"
        endpoint = "pager"
        [[routes]]
        event = "item.found"
        endpoint = "shop"
        [endpoints.pager]
        connector = "pager"
        settings = {{ url = "{url}/page", {settings} }}
        hosts = ["{url}"]
        allow_private = ["127.0.0.1/32:{port}"]
        retry = {{ attempts = 1 }}
        {shop}
        "#
    )
}

/// The job's last run, once it has ended.
async fn ended(hub: &TestHub) -> Value {
    let mut run = Value::Null;
    eventually("the run ends", async || {
        run = hub.get("/api/sync-jobs").await["items"][0]["last_run"].clone();
        !run.is_null() && run["state"] != "running"
    })
    .await;
    run
}

fn told(run: &Value) -> (&str, u64, u64, u64) {
    let count = |field: &str| run[field].as_u64().expect("a number");
    (run["state"].as_str().expect("a word"), count("pages"), count("items"), count("known"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_page_by_page_and_a_second_one_finds_nothing_new() {
    let target = Target::start().await;
    let hub = TestHub::start(&job(&target, "items = 250, per_page = 100", "cron = \"0 * * * *\"")).await;
    hub.clock.advance(HOUR);
    let run = ended(&hub).await;
    assert_eq!(told(&run), ("succeeded", 3, 250, 0));
    assert_eq!((&run["started_by"], &run["due_at"]), (&json!("schedule"), &json!("2026-01-01T01:00:00Z")));
    let mut items: Vec<u64> =
        target.wait_for(250).await.iter().map(|got| got.json()["item"].as_u64().expect("a number")).collect();
    items.sort_unstable();
    assert!(items.iter().copied().eq(0..250));

    let begun = hub.post("/api/sync-jobs/items/run", json!({})).await;
    let run = ended(&hub).await;
    assert_eq!((&run["id"], &run["started_by"]), (&begun["run"], &json!("operator")));
    assert_eq!(told(&run), ("succeeded", 3, 250, 250));
    assert_eq!(target.count(), 250);
    finish(hub, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_failed_goes_on_where_it_stopped() {
    let target = Target::start().await;
    let hub = TestHub::start(&job(&target, "items = 30, per_page = 10, broken_at = 20", "")).await;
    hub.post("/api/sync-jobs/items/run", json!({})).await;
    assert_eq!(told(&ended(&hub).await), ("succeeded", 3, 30, 0));
    // 30 items, and the third page, which asks the target as well.
    target.wait_for(31).await;

    target.always((410, vec![]));
    hub.post("/api/sync-jobs/items/run", json!({})).await;
    let run = ended(&hub).await;
    assert_eq!((told(&run), &run["cursor"]), (("failed", 2, 20, 20), &json!("20")));
    assert_eq!(run["code"], "http-410");

    target.always((200, vec![]));
    hub.post("/api/sync-jobs/items/run", json!({})).await;
    assert_eq!(told(&ended(&hub).await), ("succeeded", 1, 10, 10));
    hub.post("/api/sync-jobs/items/run", json!({ "from_start": true })).await;
    assert_eq!(told(&ended(&hub).await), ("succeeded", 3, 30, 30));
    finish(hub, &[("pager", "dead", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_never_runs_twice_at_the_same_time() {
    let target = Target::start().await;
    let hub = TestHub::start(&job(&target, "items = 2, per_page = 1, broken_at = 0", "cron = \"0 * * * *\"")).await;
    let held = target.hold().await;
    hub.post("/api/sync-jobs/items/run", json!({})).await;
    target.wait_for(1).await;
    let answer = hub.client().await.post("/api/sync-jobs/items/run", "").await.expect("an answer");
    assert_eq!(answer.status, 409, "{}", answer.problem());
    hub.clock.advance(HOUR);
    eventually("it was due", async || {
        hub.get("/api/sync-jobs").await["items"][0]["fired_at"] == "2026-01-01T01:00:00Z"
    })
    .await;
    drop(held);
    assert_eq!(told(&ended(&hub).await), ("succeeded", 2, 2, 0));
    assert_eq!(hub.get("/api/sync-jobs/items/runs").await["items"].as_array().expect("items").len(), 1);
    target.wait_for(3).await;
    finish(hub, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_stands_still_ends_the_run() {
    let target = Target::start().await;
    let hub = TestHub::start(&job(&target, "items = 2, per_page = 1, stands_still = true", "")).await;
    hub.post("/api/sync-jobs/items/run", json!({})).await;
    let run = ended(&hub).await;
    assert_eq!((&run["state"], &run["code"]), (&json!("failed"), &json!("cursor-invalid")));
    finish(hub, &[("pager", "dead", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_is_said() {
    let target = Target::start().await;
    let hub = TestHub::start(&job(&target, "items = 1, per_page = 1", "")).await;
    let mut client = hub.client().await;
    for (path, body, status) in [
        ("/api/sync-jobs/nothing/run", "", 404),
        ("/api/sync-jobs/items/run", "{\"from_start\": 1}", 400),
        ("/api/sync-jobs/items/run", "{\"from\": 1}", 400),
    ] {
        let answer = client.post(path, body).await.expect("an answer");
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.problem());
    }
    assert_eq!(client.get("/api/sync-jobs/nothing/runs").await.expect("an answer").status, 404);
    finish(hub, &[]).await;
}
