//! Carinho's sync jobs against their systems, with a thousand items each and a hub that is killed in the middle, three
//! times: each item ends in exactly one record, and is confirmed.

use std::collections::BTreeSet;

use serde_json::Value;
use tomada::demo::standins::StandIns;

use crate::harness::Place;
use crate::harness::carinho::turned;
use crate::harness::eventually_within;
use crate::harness::process::HubProcess;

const ITEMS: usize = 1000;
const KILLS: usize = 3;
const JOBS: [&str; 4] = ["crm_operacao", "operacao_financeiro", "crm_financeiro", "cuidadores_crm"];

/// What one item of each job leaves behind: system, kind of record, and the field that tells the items apart.
const RECORDS: [(&str, &str, &str); 8] = [
    ("operacao", "schedules", "id"),
    ("crm", "confirmations", "id"),
    ("financeiro", "invoices", "operacao_service_id"),
    ("operacao", "billed", "id"),
    ("financeiro", "billing_setups", "contract_id"),
    ("crm", "contracts", "id"),
    ("crm", "caregivers", "id"),
    ("cuidadores", "confirmations", "id"),
];

/// CRM learns of caregivers by plain events, which may be repeated; each says which event it is.
fn records(stand_ins: &StandIns, system: &str, kind: &str) -> Vec<Value> {
    if kind != "caregivers" {
        return stand_ins.records(system, kind);
    }
    let events = stand_ins.records(system, "events").into_iter();
    let mut seen = BTreeSet::new();
    events
        .filter(|event| event["_meta"]["event_type"] == "caregiver.updated")
        .filter(|event| seen.insert(event["_meta"]["event_id"].to_string()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_items_are_each_done_once_whatever_happens_to_the_hub() {
    let place = Place::new();
    let (mut config, stand_ins) = turned(place.directory()).await;
    for endpoint in config.endpoints.values_mut() {
        endpoint.retry.delays_s = vec![0.05];
    }
    let file = place.path("tomada.toml");
    std::fs::write(&file, toml::to_string(&config).expect("TOML")).expect("the configuration is written");
    for (system, what) in
        [("crm", "schedules"), ("operacao", "services"), ("crm", "billing_setups"), ("cuidadores", "updates")]
    {
        stand_ins.seed(system, what, ITEMS);
    }

    let mut hub = HubProcess::start(&place, &file, None).await;
    for job in JOBS {
        hub.post(&format!("/api/sync-jobs/{job}/run")).await;
    }
    let done = || RECORDS.iter().map(|(system, kind, _)| records(&stand_ins, system, kind).len()).sum::<usize>();
    for kill in 1..=KILLS {
        let enough = RECORDS.len() * ITEMS * kill / (KILLS + 1);
        eventually_within(60, "the jobs go on", async || done() >= enough).await;
        hub.kill();
        hub = HubProcess::start(&place, &file, None).await;
    }
    eventually_within(120, "all is done", async || {
        let endpoints = hub.get("/api/endpoints").await;
        let left = |state: &str| -> u64 {
            let items = endpoints["items"].as_array().expect("items").iter();
            items.map(|endpoint| endpoint[state].as_u64().expect("a number")).sum()
        };
        let jobs = hub.get("/api/sync-jobs").await;
        let ended = jobs["items"].as_array().expect("items").iter().all(|job| job["last_run"]["state"] == "succeeded");
        assert_eq!(left("dead") + left("held"), 0, "{endpoints:#}");
        ended && left("owed") + left("waiting") == 0
    })
    .await;

    for (system, kind, id) in RECORDS {
        let records = records(&stand_ins, system, kind);
        let distinct: BTreeSet<String> = records.iter().map(|record| record[id].to_string()).collect();
        assert_eq!((records.len(), distinct.len()), (ITEMS, ITEMS), "{kind} of {system}");
    }
    for job in JOBS {
        let runs = hub.get(&format!("/api/sync-jobs/{job}/runs")).await;
        let all = runs["items"].as_array().expect("items");
        // At a full hour the schedule begins another one, which knows them all.
        let runs: Vec<_> = all.iter().filter(|run| run["started_by"] == "operator").collect();
        assert_eq!(runs.len(), 1, "{job}: {all:#?}");
        assert_eq!((&runs[0]["items"], &runs[0]["known"]), (&ITEMS.into(), &0.into()), "{job}");
    }
}
