//! Events: list, look at one with its attempts, publish.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::audit::Note;
use super::routes::demand;
use super::{Answer, Office, Sight, page, parse, store_problem, time, unreadable};
use crate::catalog::Draft;
use crate::config::is_event_type;
use crate::event::EventId;
use crate::ingress::{self, key::Key};
use crate::keys::Caller;
use crate::keys::grant::Scope;
use crate::problem::Problem;
use crate::store::rows::{AttemptRow, DeliveryRow, EventFilter, EventRow};

/// Bytes of a payload that is published over the API.
const MAX_PAYLOAD: usize = 1 << 20;

#[derive(Deserialize)]
pub(super) struct Listing {
    #[serde(rename = "type")]
    event_type: Option<String>,
    source: Option<String>,
    #[serde(default)]
    unrouted: bool,
    parent: Option<String>,
    before: Option<String>,
    limit: Option<u32>,
}

pub(super) async fn list(State(office): State<Arc<Office>>, Query(query): Query<Listing>) -> Answer {
    let filter = EventFilter {
        event_type: query.event_type,
        source: query.source,
        unrouted: query.unrouted,
        parent: query.parent.as_deref().map(parse).transpose()?,
        before: query.before.as_deref().map(parse).transpose()?,
        limit: page(query.limit),
    };
    let events = office.store.events(&filter).await.map_err(store_problem)?;
    let next = (events.len() as u32 == filter.limit).then(|| events.last().map(|event| event.id)).flatten();
    let items: Vec<Value> = events.iter().map(|event| summary(&office, event)).collect();
    Ok(Json(json!({ "items": items, "next": next })).into_response())
}

#[derive(Deserialize)]
pub(super) struct Showing {
    #[serde(default)]
    payload: bool,
}

pub(super) async fn show(
    State(office): State<Arc<Office>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(note): Extension<Arc<Note>>,
    Path(id): Path<String>,
    Query(query): Query<Showing>,
) -> Answer {
    if query.payload {
        demand(Some(&caller), Scope::PayloadRead)?;
    }
    let sight = Sight::of(&caller, &note);
    let detail = office.store.event(parse(&id)?).await.map_err(store_problem)?;
    let mut shown = summary(&office, &detail.row);
    // It may be made of the payload's fields.
    shown["idempotency_key"] = sight.content(Some(detail.key)).into();
    shown["content_type"] = (*detail.event.content_type).into();
    if let Some(deliveries) = shown["deliveries"].as_array_mut() {
        for (shown, delivery) in deliveries.iter_mut().zip(&detail.row.deliveries) {
            let attempts = detail.attempts.iter().filter(|attempt| attempt.delivery == delivery.id);
            shown["attempt_list"] = attempts.map(|tried| attempt(tried, sight)).collect();
        }
    }
    shown["children"] = detail.children.iter().map(|child| summary(&office, child)).collect();
    if query.payload {
        note.shows();
        note.detail("payload", true);
        let payload = &detail.event.payload;
        shown["payload"] = serde_json::from_slice(payload).unwrap_or_else(|_| String::from_utf8_lossy(payload).into());
        shown["headers"] = json!(detail.event.headers);
    }
    Ok(Json(shown).into_response())
}

fn summary(office: &Office, event: &EventRow) -> Value {
    json!({
        "id": event.id,
        "type": event.event_type,
        "source": event.source,
        "created_at": time(event.created_ms),
        "status": if event.unrouted { "unrouted" } else { "routed" },
        "content": event.content,
        "parent": event.parent,
        "deliveries": event.deliveries.iter().map(|delivery| delivery_summary(office, delivery)).collect::<Vec<_>>(),
    })
}

fn delivery_summary(office: &Office, delivery: &DeliveryRow) -> Value {
    json!({
        "id": delivery.id,
        "endpoint": office.catalog.get().endpoint_name(delivery.endpoint),
        "status": delivery.status,
        "attempts": delivery.tries,
        "next_retry_at": delivery.next_retry_ms.map(time),
    })
}

fn attempt(attempt: &AttemptRow, sight: Sight<'_>) -> Value {
    json!({
        "number": attempt.number,
        "at": time(attempt.started_ms),
        "duration_ms": attempt.duration_us as f64 / 1000.0,
        "outcome": attempt.outcome,
        "http_status": attempt.http_status,
        "code": sight.code(attempt.code.as_deref()),
        "message": sight.content(attempt.message.as_deref()),
        "connector_digest": attempt.connector_digest,
        "mapping_digest": attempt.mapping_digest,
        "mapping": attempt.mapping.as_ref().map(|(name, version)| json!({ "name": name, "version": version })),
        "log": sight.content(attempt.log.as_deref()),
    })
}

/// What partners publish without a webhook of their own; the limits are those of the predecessor's contract.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Publication {
    event_type: String,
    source_system: String,
    payload: Box<RawValue>,
    idempotency_key: Option<String>,
}

pub(super) async fn publish(
    State(office): State<Arc<Office>>,
    Extension(caller): Extension<Arc<Caller>>,
    body: Result<Json<Publication>, JsonRejection>,
) -> Answer {
    let refused = |why: String| Problem::new(StatusCode::BAD_REQUEST, why);
    let Json(publication) = body.map_err(|error| refused(unreadable(&error)))?;
    if !is_event_type(&publication.event_type) {
        return Err(refused("event_type takes 1 to 128 characters of a-z 0-9 . _ -".into()));
    }
    let source = &publication.source_system;
    // With a colon the hub names what it makes itself.
    if source.is_empty() || source.len() > 128 || source.chars().any(|c| c.is_control() || c == ':') {
        return Err(refused("source_system takes 1 to 128 characters and no colon".into()));
    }
    if !caller.grant.publishes_as(source) {
        let why = format!("this key may not publish as {source:?}, only as the sources that it was made for");
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    }
    let key = publication.idempotency_key.as_deref();
    if key.is_some_and(|key| key.is_empty() || key.len() > 255) {
        return Err(refused("idempotency_key takes 1 to 255 characters".into()));
    }
    let payload = publication.payload.get();
    if !payload.starts_with('{') {
        return Err(refused("payload must be a JSON object".into()));
    }
    if payload.len() > MAX_PAYLOAD {
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the payload has {} bytes, at most {MAX_PAYLOAD} are accepted", payload.len()),
        ));
    }
    let catalog = office.catalog.get();
    let now_ms = office.clock.now_ms();
    let id = EventId(office.ids.next(now_ms));
    let payload = bytes::Bytes::from(payload.to_owned());
    // Without a key each publication is an event of its own: two equal ones may both be meant.
    let key = key.map_or_else(|| Key::id(source, &id.to_string()), |key| Key::given(source, key));
    let queue = catalog.default_queue();
    let draft = Draft::json(id, source.as_str(), &publication.event_type, payload, key, queue, now_ms);
    let event = catalog.event(&office.ring, Draft { care: catalog.care_of(source), ..draft });
    let known = catalog.config.sources.contains_key(source).then_some(source.as_str());
    ingress::accept(&office.committer, event, |result| office.metrics.published(known, result)).await
}
