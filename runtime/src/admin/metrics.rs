//! Figures for Prometheus: what was counted, and how things stand.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::{Answer, Office, store_problem};
use crate::delivery::Status;
use crate::metrics::Text;

/// The text format of version 0.0.4, which every Prometheus reads.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn page(State(office): State<Arc<Office>>) -> Answer {
    let mut text = Text::default();
    text.family("tomada_build_info", "gauge", "The version that runs.");
    text.sample("tomada_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    office.metrics.write(&mut text);
    endpoints(&office, &mut text).await?;
    queues(&office, &mut text);
    retention(&office, &mut text).await?;
    let wrapping = office.store.wrapping_keys().await.map_err(store_problem)?;
    let active = office.ring.active();
    let help = "Keys of the ring that are not active and may still wrap something.";
    text.family("tomada_rewrap_pending", "gauge", help);
    text.sample("tomada_rewrap_pending", &[], wrapping.iter().filter(|id| **id != active).count() as f64);
    if let Some((is_up, failures)) = office.signals.health() {
        text.family("tomada_redis_up", "gauge", "1 while Redis answers.");
        text.sample("tomada_redis_up", &[], f64::from(u8::from(is_up)));
        let help = "Times that Redis did not answer in time, or as it should.";
        text.family("tomada_redis_failures_total", "counter", help);
        text.sample("tomada_redis_failures_total", &[], failures as f64);
    }
    Ok(([(header::CONTENT_TYPE, FORMAT)], text.into_string()).into_response())
}

async fn endpoints(office: &Office, text: &mut Text) -> Result<(), super::Problem> {
    let counts: HashMap<(i64, i64), u64> = office
        .store
        .unfinished()
        .await
        .map_err(store_problem)?
        .into_iter()
        .map(|(endpoint, status, count)| ((endpoint, status), count))
        .collect();
    let catalog = office.catalog.get();
    let mut endpoints: Vec<_> = catalog.endpoints.values().filter(|endpoint| !endpoint.removed).collect();
    endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    let states: Vec<_> = endpoints.iter().map(|endpoint| office.queues.breaker(endpoint.id)).collect();

    text.family("tomada_deliveries", "gauge", "Deliveries that are not delivered, by status.");
    for endpoint in &endpoints {
        for (word, status) in
            [("owed", Status::Owed), ("waiting", Status::Waiting), ("held", Status::Held), ("dead", Status::Dead)]
        {
            let count = counts.get(&(endpoint.id, status as i64)).copied().unwrap_or(0);
            text.sample("tomada_deliveries", &[("endpoint", &endpoint.name), ("status", word)], count as f64);
        }
    }
    text.family("tomada_endpoint_loaded", "gauge", "Deliveries in memory, waiting and running.");
    for (endpoint, (_, _, loaded)) in endpoints.iter().zip(&states) {
        text.sample("tomada_endpoint_loaded", &[("endpoint", &endpoint.name)], *loaded as f64);
    }
    text.family("tomada_endpoint_in_flight", "gauge", "Attempts that are running.");
    for (endpoint, (_, in_flight, _)) in endpoints.iter().zip(&states) {
        text.sample("tomada_endpoint_in_flight", &[("endpoint", &endpoint.name)], f64::from(*in_flight));
    }
    text.family("tomada_endpoint_paused", "gauge", "1 while an endpoint is paused.");
    for endpoint in &endpoints {
        let paused = f64::from(u8::from(endpoint.paused.is_some()));
        text.sample("tomada_endpoint_paused", &[("endpoint", &endpoint.name)], paused);
    }
    text.family("tomada_endpoint_breaker", "gauge", "1 for the state that an endpoint's breaker is in.");
    for (endpoint, (state, _, _)) in endpoints.iter().zip(&states) {
        for word in ["closed", "half-open", "open"] {
            let labels = [("endpoint", &*endpoint.name), ("state", word)];
            text.sample("tomada_endpoint_breaker", &labels, f64::from(u8::from(*state == word)));
        }
    }
    Ok(())
}

fn queues(office: &Office, text: &mut Text) {
    let mut queues = office.queues.all();
    queues.sort_by(|a, b| a.name.cmp(&b.name));
    text.family("tomada_queue_waiting", "gauge", "Deliveries in memory that wait for their turn.");
    for queue in &queues {
        text.sample("tomada_queue_waiting", &[("queue", &queue.name)], queue.waiting() as f64);
    }
    text.family("tomada_queue_workers", "gauge", "Workers.");
    for queue in &queues {
        let workers = queue.workers.load(Ordering::Relaxed);
        text.sample("tomada_queue_workers", &[("queue", &queue.name)], f64::from(workers));
    }
}

async fn retention(office: &Office, text: &mut Text) -> Result<(), super::Problem> {
    let standings = office.retention.standings().await.map_err(store_problem)?;
    let name = "tomada_retention_overdue_seconds";
    text.family(
        name,
        "gauge",
        "By how much the oldest row has outlived its time; up to an hour lies between two rounds.",
    );
    for standing in &standings {
        text.sample(name, &[("rule", standing.rule.word())], (standing.overdue_ms / 1000) as f64);
    }
    let name = "tomada_retention_removed_total";
    text.family(name, "counter", "Rows removed or emptied because their time was over.");
    for standing in &standings {
        text.sample(name, &[("rule", standing.rule.word())], standing.removed as f64);
    }
    Ok(())
}
