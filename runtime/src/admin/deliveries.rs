//! Deliveries that did not arrive: look at the dead letters, replay them.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::audit::Note;
use super::{Answer, Office, Sight, page, parse, store_problem, time, unreadable};
use crate::catalog::Endpoint;
use crate::keys::Caller;
use crate::problem::Problem;
use crate::store::rows::{DeadLetterFilter, DeadLetterRow};

/// Dead letters of one transaction; a larger replay is several of them.
const REPLAY: u32 = 500;

#[derive(Deserialize)]
pub(super) struct Listing {
    endpoint: Option<String>,
    before: Option<String>,
    limit: Option<u32>,
}

pub(super) async fn dead_letters(
    State(office): State<Arc<Office>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(note): Extension<Arc<Note>>,
    Query(query): Query<Listing>,
) -> Answer {
    let filter = DeadLetterFilter {
        endpoint: query.endpoint.as_deref().map(|name| endpoint(&office, name)).transpose()?.map(|e| e.id),
        before: query.before.as_deref().map(parse).transpose()?,
        limit: page(query.limit),
    };
    let letters = office.store.dead_letters(&filter).await.map_err(store_problem)?;
    let next = (letters.len() as u32 == filter.limit).then(|| letters.last().map(|l| l.delivery)).flatten();
    let sight = Sight::of(&caller, &note);
    let items: Vec<Value> = letters.iter().map(|letter| summary(&office, letter, sight)).collect();
    note.list("events", letters.iter().map(|letter| letter.event));
    Ok(Json(json!({ "items": items, "next": next })).into_response())
}

fn summary(office: &Office, letter: &DeadLetterRow, sight: Sight<'_>) -> Value {
    json!({
        "delivery": letter.delivery,
        "event": letter.event,
        "event_type": letter.event_type,
        "endpoint": office.catalog.get().endpoint_name(letter.endpoint),
        "reason": letter.reason,
        "http_status": letter.http_status,
        "code": sight.code(letter.code.as_deref()),
        "message": sight.content(letter.message.as_deref()),
        "attempts": letter.tries,
        "created_at": time(letter.created_ms),
    })
}

/// Owed again, under the same `webhook-id`.
pub(super) async fn replay(State(office): State<Arc<Office>>, Path(id): Path<String>) -> Answer {
    let delivery = parse(&id)?;
    office.store.replay(delivery).await.map_err(store_problem)?;
    wake(&office);
    Ok((StatusCode::ACCEPTED, Json(json!({ "delivery": delivery }))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Replay {
    endpoint: Option<String>,
}

pub(super) async fn replay_dead(
    State(office): State<Arc<Office>>,
    Extension(note): Extension<Arc<Note>>,
    body: Result<Json<Replay>, JsonRejection>,
) -> Answer {
    let Json(body) = body.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, unreadable(&error)))?;
    let endpoint = body.endpoint.as_deref().map(|name| endpoint(&office, name)).transpose()?.map(|e| e.id);
    if let Some(endpoint) = &body.endpoint {
        note.detail("endpoint", endpoint.as_str());
    }
    let mut replayed = 0;
    // Until there are none: those that die again meanwhile are not taken twice, since each batch begins with the oldest
    // and a delivery needs its attempts before it is dead again.
    loop {
        let batch = office.store.replay_dead(endpoint, REPLAY).await.map_err(store_problem)?;
        wake(&office);
        replayed += batch;
        note.detail("replayed", replayed);
        if batch < u64::from(REPLAY) {
            return Ok(Json(json!({ "replayed": replayed })).into_response());
        }
    }
}

/// Whatever became owed in the table is fetched now and not at the next look.
fn wake(office: &Office) {
    office.catalog.get().endpoints.keys().for_each(|endpoint| office.queues.spilled(*endpoint));
}

pub(super) fn endpoint(office: &Office, name: &str) -> Result<Arc<Endpoint>, Problem> {
    let catalog = office.catalog.get();
    let found = catalog.endpoint_named(name).cloned();
    found.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("endpoint {name:?} does not exist")))
}
