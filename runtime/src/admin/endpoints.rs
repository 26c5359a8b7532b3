//! Endpoints and queues: how they are, pause, resume.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::audit::Note;
use super::deliveries::endpoint;
use super::{Answer, Office, Sight, store_problem};
use crate::apply;
use crate::delivery::Status;
use crate::keys::Caller;
use crate::problem::Problem;

/// Instead of a reason, for who may not see content.
const HIDDEN: &str = "the reason is shown with payload:read";

pub(super) async fn list(
    State(office): State<Arc<Office>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(note): Extension<Arc<Note>>,
) -> Answer {
    let sight = Sight::of(&caller, &note);
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
    let items: Vec<Value> = endpoints
        .into_iter()
        .map(|endpoint| {
            let (breaker, in_flight, _) = office.queues.breaker(endpoint.id);
            let count = |status: Status| counts.get(&(endpoint.id, status as i64)).copied().unwrap_or(0);
            json!({
                "name": &*endpoint.name,
                "connector": &*endpoint.connector,
                // What a connector said when it gave up is the reason.
                "paused": endpoint.paused.as_deref().map(|reason| sight.content(Some(reason)).unwrap_or(HIDDEN)),
                "breaker": breaker,
                "in_flight": in_flight,
                "owed": count(Status::Owed),
                "waiting": count(Status::Waiting),
                "held": count(Status::Held),
                "dead": count(Status::Dead),
            })
        })
        .collect();
    Ok(Json(json!({ "items": items })).into_response())
}

pub(super) async fn queues(State(office): State<Arc<Office>>) -> Answer {
    let mut queues = office.queues.all();
    queues.sort_by(|a, b| a.name.cmp(&b.name));
    let items: Vec<Value> = queues
        .iter()
        .map(|queue| {
            json!({
                "name": queue.name,
                "workers": queue.workers.load(Ordering::Relaxed),
                "in_flight": queue.running.load(Ordering::Relaxed),
                "waiting": queue.waiting(),
            })
        })
        .collect();
    Ok(Json(json!({ "items": items })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    reason: String,
}

/// The body is optional: `{"reason": "…"}`.
pub(super) async fn pause(State(office): State<Arc<Office>>, Path(name): Path<String>, body: Bytes) -> Answer {
    let reason = if body.is_empty() {
        "paused by an operator".into()
    } else {
        let pause: Pause = serde_json::from_slice(&body).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("the body is not {{\"reason\": …}}: {error}"))
        })?;
        pause.reason
    };
    set(&office, &name, Some(&reason)).await
}

pub(super) async fn resume(State(office): State<Arc<Office>>, Path(name): Path<String>) -> Answer {
    set(&office, &name, None).await
}

async fn set(office: &Office, name: &str, reason: Option<&str>) -> Answer {
    let id = endpoint(office, name)?.id;
    office.store.pause(id, reason).await.map_err(store_problem)?;
    apply::reload(&*office.store, &office.catalog, &office.queues).await.map_err(|error| {
        tracing::error!(error, "reading the catalog failed");
        Problem::new(StatusCode::CONFLICT, error)
    })?;
    office.queues.spilled(id);
    Ok(Json(json!({ "name": name, "paused": reason })).into_response())
}
