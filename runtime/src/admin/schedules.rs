//! Schedules and sync jobs: when they are due, what their runs did, start one by hand.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::audit::Note;
use super::{Answer, Office, Sight, page, store_problem, time};
use crate::config::SyncJob;
use crate::keys::Caller;
use crate::problem::Problem;
use crate::scheduler::Failure;
use crate::store::rows::{ScheduleKind, SyncRunRow};

pub(super) async fn list(State(office): State<Arc<Office>>) -> Answer {
    let catalog = office.catalog.get();
    let items: Vec<Value> = catalog
        .config
        .schedules
        .iter()
        .map(|(name, schedule)| {
            json!({
                "name": name,
                "event": schedule.event,
                "cron": schedule.cron,
                "time_zone": schedule.time_zone,
                "next_at": next_at(&office, ScheduleKind::Schedule, name),
            })
        })
        .collect();
    Ok(Json(json!({ "items": items })).into_response())
}

pub(super) async fn jobs(
    State(office): State<Arc<Office>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(note): Extension<Arc<Note>>,
) -> Answer {
    let catalog = office.catalog.get();
    let fired = office.store.schedules().await.map_err(store_problem)?;
    let mut items = Vec::new();
    for (name, job) in &catalog.config.sync_jobs {
        let last = office.store.sync_runs(name, 1).await.map_err(store_problem)?;
        let event = SyncJob::event(name);
        let fired = fired.iter().find(|row| row.kind == ScheduleKind::SyncJob && row.name == *name);
        items.push(json!({
            "name": name,
            "endpoint": catalog.config.routes.iter().find(|route| route.event == event).map(|route| &route.endpoint),
            "cron": job.cron,
            "time_zone": job.time_zone,
            // When it was due last, whether it could run or not; of a new one, when it came to be.
            "fired_at": fired.map(|row| time(row.fired_ms)),
            "next_at": next_at(&office, ScheduleKind::SyncJob, name),
            "last_run": last.first().map(|run| run_summary(run, Sight::of(&caller, &note))),
        }));
    }
    Ok(Json(json!({ "items": items })).into_response())
}

#[derive(Deserialize)]
pub(super) struct Listing {
    limit: Option<u32>,
}

pub(super) async fn runs(
    State(office): State<Arc<Office>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(note): Extension<Arc<Note>>,
    Path(name): Path<String>,
    Query(query): Query<Listing>,
) -> Answer {
    known(&office, &name)?;
    let runs = office.store.sync_runs(&name, page(query.limit)).await.map_err(store_problem)?;
    let items: Vec<Value> = runs.iter().map(|run| run_summary(run, Sight::of(&caller, &note))).collect();
    Ok(Json(json!({ "items": items })).into_response())
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Start {
    /// Not where the last run failed, but from the beginning.
    from_start: bool,
}

/// The body is optional: `{"from_start": true}`.
pub(super) async fn run(
    State(office): State<Arc<Office>>,
    Extension(note): Extension<Arc<Note>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer {
    known(&office, &name)?;
    let start = if body.is_empty() {
        Start::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("the body is not {{\"from_start\": true}}: {error}"))
        })?
    };
    let begun = office.scheduler.start(&name, None, !start.from_start).await.map_err(|failure| match failure {
        Failure::Store(error) => store_problem(error),
        Failure::Commit(_) => Problem::busy("the run was begun, and its first page is asked for in a few seconds"),
    })?;
    match begun {
        Some(run) => {
            note.detail("run", run.to_string());
            Ok((StatusCode::ACCEPTED, Json(json!({ "run": run }))).into_response())
        }
        None => Err(Problem::new(
            StatusCode::CONFLICT,
            format!("a run of {name} is under way: see how far it is with GET /api/sync-jobs/{name}/runs"),
        )),
    }
}

fn known(office: &Office, name: &str) -> Result<(), Problem> {
    if office.catalog.get().config.sync_jobs.contains_key(name) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::NOT_FOUND, format!("sync job {name:?} does not exist")))
}

fn next_at(office: &Office, kind: ScheduleKind, name: &str) -> Value {
    let catalog = office.catalog.get();
    let times = catalog.times.get(&(kind, name.to_owned()));
    times.and_then(|times| times.after(office.clock.now_ms())).map_or(Value::Null, time)
}

fn run_summary(run: &SyncRunRow, sight: Sight<'_>) -> Value {
    json!({
        "id": run.id,
        "state": run.state,
        "started_by": if run.due_ms.is_some() { "schedule" } else { "operator" },
        "due_at": run.due_ms.map(time),
        "started_at": time(run.started_ms),
        "finished_at": run.finished_ms.map(time),
        // A connector makes it of what a system answered.
        "cursor": sight.content(run.cursor.as_deref()),
        "pages": run.pages,
        "items": run.items,
        "known": run.known,
        "code": sight.code(run.code.as_deref()),
        "message": sight.content(run.message.as_deref()),
    })
}
