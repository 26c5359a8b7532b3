//! Tries a mapping before it goes live: on a sample, on a stored event, on the latest events of its routes. The real
//! component in the real sandbox with the real limits, by the way that a delivery takes; nothing is stored or sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::changes::{self, Changes};
use super::{check, draft, read, unreadable, using};
use crate::admin::audit::Note;
use crate::admin::routes::demand;
use crate::admin::{Answer, Office, store_problem};
use crate::catalog::{Mapping, passes};
use crate::config::is_event_type;
use crate::delivery::Outcome;
use crate::event::{DeliveryId, EventId};
use crate::keys::Caller;
use crate::keys::grant::Scope;
use crate::plugin;
use crate::problem::Problem;
use crate::store::StoreError;
use crate::store::rows::EventDetail;
use crate::worker::run::{Ran, map};

/// Events of one request.
const MAX_EVENTS: u32 = 100;
const EVENTS: u32 = 20;
/// A request tries no further event after this time: whoever asks should not wait in vain.
const BATCH_TIME: Duration = Duration::from_secs(20);
/// Differences of one answer, and the bytes after which no further one is told.
const MAX_DIFFERENCES: usize = 20;
const MAX_DIFFERENCES_BYTES: usize = 4 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct Trial {
    // On what: one of these.
    payload: Option<Box<RawValue>>,
    event: Option<EventId>,
    events_of_type: Option<String>,
    /// Alone it means the events of all types whose routes use the mapping.
    limit: Option<u32>,
    /// Of the payload; otherwise that of a route which uses the mapping.
    event_type: Option<String>,
    // Which mapping: a stored version, or one as it is being written; what is in force when neither is named.
    version: Option<i64>,
    component: Option<String>,
    settings: Option<Map<String, Value>>,
    deadline_ms: Option<u64>,
}

pub(in crate::admin) async fn run(
    State(office): State<Arc<Office>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(note): Extension<Arc<Note>>,
    Path(name): Path<String>,
    body: Result<Json<Trial>, JsonRejection>,
) -> Answer {
    let refused = |why: &str| Problem::new(StatusCode::BAD_REQUEST, why);
    let Json(mut trial) = body.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, unreadable(&error)))?;
    let batch = trial.events_of_type.is_some() || trial.limit.is_some();
    if [trial.payload.is_some(), trial.event.is_some(), batch].into_iter().filter(|named| *named).count() != 1 {
        return Err(refused("say on what to try it, one of payload, event, or events_of_type and limit"));
    }
    // The answer shows what became of the payload.
    if trial.payload.is_none() {
        demand(Some(&caller), Scope::PayloadRead)?;
    }
    if trial.event_type.is_some() && trial.payload.is_none() {
        return Err(refused("event_type goes with payload: a stored event has its type"));
    }
    for event_type in [&trial.event_type, &trial.events_of_type].into_iter().flatten() {
        if !is_event_type(event_type) {
            return Err(refused("an event type is 1 to 128 characters of a-z 0-9 . _ -"));
        }
    }

    let versions = match office.store.mapping(&name).await {
        Ok(versions) => versions,
        // It may be tried before there is any version of it.
        Err(StoreError::NotFound(_)) if trial.settings.is_some() => Vec::new(),
        Err(error) => return Err(store_problem(error)),
    };
    let in_force = versions.iter().find(|version| version.active);
    let candidate = match (trial.version, trial.settings.take()) {
        (Some(_), Some(_)) => return Err(refused("name a version or give settings, not both")),
        (None, Some(settings)) => draft(&office, &name, trial.component.take(), settings, trial.deadline_ms),
        _ if trial.component.is_some() || trial.deadline_ms.is_some() => {
            return Err(refused("component and deadline_ms go with settings"));
        }
        (Some(version), None) => read(&versions, &name, version)?,
        (None, None) => {
            let in_force = in_force.ok_or_else(|| {
                let why = format!("mapping {name:?} is not in force: say which version, or give settings");
                Problem::new(StatusCode::CONFLICT, why)
            })?;
            read(&versions, &name, in_force.version)?
        }
    };
    check(&office, &name, &candidate)?;
    let active = match in_force {
        Some(version) => Some((version.version, read(&versions, &name, version.version)?)),
        None => None,
    };
    let active = active.filter(|(_, mapping)| *mapping != candidate);
    let bench = Bench {
        candidate: Arc::new(Mapping::prepare(0, &name, &candidate)),
        active: active.map(|(version, mapping)| (version, Arc::new(Mapping::prepare(0, &name, &mapping)))),
        digests: office.store.versions().await.map_err(store_problem)?.into_iter().map(|v| (v.id, v.digest)).collect(),
        office,
        name,
    };
    if let Some(payload) = &trial.payload {
        let event = sample_event(&bench.office, &bench.name, trial.event_type.as_deref());
        let payload = Bytes::copy_from_slice(payload.get().as_bytes());
        return Ok(Json(bench.compare(&event, &payload).await.shown()).into_response());
    }
    if let Some(id) = trial.event {
        let detail = bench.office.store.event(id).await.map_err(store_problem)?;
        note.shows();
        note.list("events", [id]);
        let compared = bench.compare(&bench.stored_event(&detail), &detail.event.payload).await;
        return Ok(Json(compared.shown()).into_response());
    }
    bench.latest(&note, trial.events_of_type, trial.limit.unwrap_or(EVENTS)).await
}

/// The event that a sample is the payload of. Ids that no event has say that it is none.
pub(super) fn sample_event(office: &Office, name: &str, event_type: Option<&str>) -> plugin::Event {
    let catalog = office.catalog.get();
    let of_a_route = using(&catalog.config, name).next().map(|route| route.event.as_str());
    plugin::Event {
        id: EventId(0).to_string(),
        event_type: event_type.or(of_a_route).unwrap_or("sample").into(),
        source: "sample".into(),
        delivery_id: DeliveryId(0).to_string(),
        attempt: 1,
        created_ms: office.clock.now_ms(),
        content_type: "application/json".into(),
        headers: Vec::new(),
    }
}

/// A candidate beside what is in force.
struct Bench {
    office: Arc<Office>,
    name: String,
    candidate: Arc<Mapping>,
    /// With its number; none when there is none, or when it is the candidate.
    active: Option<(i64, Arc<Mapping>)>,
    /// connector_versions.id → digest
    digests: HashMap<i64, String>,
}

/// What came of one run.
#[derive(PartialEq)]
enum Ended {
    Output(Value),
    Skipped(String),
    Failed { code: String, message: String },
}

struct Compared {
    candidate: Ended,
    digest: Option<String>,
    duration: Duration,
    log: Option<String>,
    active: Option<(i64, Ended)>,
    /// None without an active version to differ from.
    changed: Option<bool>,
}

impl Bench {
    async fn compare(&self, event: &plugin::Event, payload: &Bytes) -> Compared {
        #[allow(clippy::disallowed_methods, reason = "a duration for people, not a time that anything depends on")]
        let started = Instant::now();
        let (candidate, ran) = self.once(&self.candidate, event, payload).await;
        let duration = started.elapsed();
        let active = match &self.active {
            Some((version, mapping)) => Some((*version, self.once(mapping, event, payload).await.0)),
            None => None,
        };
        Compared {
            digest: ran.mapping.and_then(|version| self.digests.get(&version.id).cloned()),
            changed: active.as_ref().map(|(_, active)| *active != candidate),
            candidate,
            duration,
            log: ran.log,
            active,
        }
    }

    async fn once(&self, mapping: &Arc<Mapping>, event: &plugin::Event, payload: &Bytes) -> (Ended, Ran) {
        let mut ran = Ran::default();
        let ended = match map(&self.office.registry.plugins, mapping, event, payload, &mut ran).await {
            // What is no JSON is shown as the text that it is.
            Ok(output) => Ended::Output(
                serde_json::from_slice(&output).unwrap_or_else(|_| String::from_utf8_lossy(&output).into()),
            ),
            Err(end) if end.outcome == Outcome::Skipped => Ended::Skipped(end.message.unwrap_or_default()),
            Err(end) => Ended::Failed { code: end.code.unwrap_or_default(), message: end.message.unwrap_or_default() },
        };
        (ended, ran)
    }

    /// As the delivery to an endpoint with this mapping was told of it.
    fn stored_event(&self, detail: &EventDetail) -> plugin::Event {
        let catalog = self.office.catalog.get();
        let event = &detail.event;
        let endpoints: Vec<i64> = using(&catalog.config, &self.name)
            .filter(|route| *route.event == *event.event_type)
            .filter_map(|route| Some(catalog.endpoint_named(&route.endpoint)?.id))
            .collect();
        let delivery = detail.row.deliveries.iter().find(|delivery| endpoints.contains(&delivery.endpoint));
        plugin::Event {
            id: event.id.to_string(),
            event_type: event.event_type.to_string(),
            source: event.source.to_string(),
            delivery_id: delivery.map_or(DeliveryId(0), |delivery| delivery.id).to_string(),
            attempt: 1,
            created_ms: event.created_ms,
            content_type: event.content_type.to_string(),
            headers: event.headers.clone(),
        }
    }

    /// Whether the routes of its type that use the mapping all filter it out.
    fn is_kept_away(&self, detail: &EventDetail) -> bool {
        let catalog = self.office.catalog.get();
        let mut of_type = using(&catalog.config, &self.name)
            .filter(|route| *route.event == *detail.event.event_type)
            .map(|route| route.filter.as_ref().is_none_or(|filter| passes(filter, &detail.event.payload)))
            .peekable();
        of_type.peek().is_some() && !of_type.any(|passes| passes)
    }

    /// The latest events of one type, or of all that routes bring to this mapping, newest first. Those that no such
    /// route lets through are left out.
    async fn latest(&self, note: &Note, event_type: Option<String>, limit: u32) -> Answer {
        if !(1..=MAX_EVENTS).contains(&limit) {
            return Err(Problem::new(StatusCode::BAD_REQUEST, format!("limit is from 1 to {MAX_EVENTS}")));
        }
        let types: Vec<String> = match event_type {
            Some(event_type) => vec![event_type],
            None => {
                let catalog = self.office.catalog.get();
                using(&catalog.config, &self.name).map(|route| route.event.clone()).collect()
            }
        };
        if types.is_empty() {
            let why = format!("no route uses mapping {:?}: say events_of_type", self.name);
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why));
        }
        let store = &self.office.store;
        let ids = store.latest_events(&types, limit).await.map_err(store_problem)?;
        #[allow(clippy::disallowed_methods, reason = "it only ends an answer early, and says so")]
        let started = Instant::now();
        let mut counts = Counts::default();
        let mut differences = Vec::new();
        let mut shown = Vec::new();
        let mut bytes = 0;
        for id in &ids {
            if started.elapsed() > BATCH_TIME {
                counts.out_of_time += 1;
                continue;
            }
            let detail = match store.event(*id).await {
                Ok(detail) => detail,
                // Gone since it was found.
                Err(StoreError::NotFound(_)) => continue,
                Err(error) => return Err(store_problem(error)),
            };
            if self.is_kept_away(&detail) {
                counts.filtered += 1;
                continue;
            }
            let compared = self.compare(&self.stored_event(&detail), &detail.event.payload).await;
            counts.add(&compared);
            let telling = compared.changed == Some(true) || matches!(compared.candidate, Ended::Failed { .. });
            if telling && differences.len() < MAX_DIFFERENCES && bytes < MAX_DIFFERENCES_BYTES {
                let mut difference = compared.difference();
                bytes += difference.to_string().len();
                difference["event"] = json!(id);
                difference["event_type"] = json!(&*detail.event.event_type);
                shown.push(*id);
                differences.push(difference);
            }
        }
        // Of the others only numbers are told.
        if !shown.is_empty() {
            note.shows();
        }
        note.list("events", shown);
        let active = self.active.as_ref().map(|(version, _)| version);
        Ok(Json(json!({
            "found": ids.len(),
            "tried": counts.tried,
            "changed": active.map(|_| counts.changed),
            "failed": counts.failed,
            "skipped": counts.skipped,
            "filtered": counts.filtered,
            "out_of_time": counts.out_of_time,
            "active_version": active,
            "differences": differences,
        }))
        .into_response())
    }
}

#[derive(Default)]
struct Counts {
    tried: u32,
    changed: u32,
    failed: u32,
    skipped: u32,
    filtered: u32,
    out_of_time: u32,
}

impl Counts {
    fn add(&mut self, compared: &Compared) {
        self.tried += 1;
        self.changed += u32::from(compared.changed == Some(true));
        match compared.candidate {
            Ended::Output(_) => {}
            Ended::Skipped(_) => self.skipped += 1,
            Ended::Failed { .. } => self.failed += 1,
        }
    }
}

impl Compared {
    /// All of it, for one event.
    fn shown(&self) -> Value {
        let mut shown = json!({
            "component_digest": self.digest,
            "duration_ms": self.duration.as_micros() as f64 / 1000.0,
        });
        self.candidate.put_into(&mut shown, "");
        if let Some(log) = &self.log {
            shown["log"] = log.as_str().into();
        }
        if let Some((version, active)) = &self.active {
            shown["active_version"] = (*version).into();
            active.put_into(&mut shown, "active_");
        }
        self.put_changes_into(&mut shown);
        shown
    }

    /// What one of many says: changes where there are two outputs, else how each ended.
    fn difference(&self) -> Value {
        let mut shown = json!({});
        if !self.put_changes_into(&mut shown) {
            self.candidate.put_into(&mut shown, "");
            if let Some((_, active)) = &self.active {
                active.put_into(&mut shown, "active_");
            }
        }
        shown
    }

    fn put_changes_into(&self, shown: &mut Value) -> bool {
        let (Ended::Output(after), Some((_, Ended::Output(before)))) = (&self.candidate, &self.active) else {
            return false;
        };
        let Changes { told, left_out } = changes::between(before, after);
        shown["changes"] = json!(told);
        if left_out > 0 {
            shown["changes_left_out"] = left_out.into();
        }
        true
    }
}

impl Ended {
    fn put_into(&self, shown: &mut Value, prefix: &str) {
        let (key, value) = match self {
            Ended::Output(output) => ("output", output.clone()),
            Ended::Skipped(reason) => ("skipped", reason.as_str().into()),
            Ended::Failed { code, message } => ("error", json!({ "code": code, "message": message })),
        };
        shown[format!("{prefix}{key}")] = value;
    }
}
