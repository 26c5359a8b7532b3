//! The door for operators: the API behind a key, and `/health`.

mod connectors;
mod deliveries;
mod endpoints;
mod events;
mod mappings;
mod schedules;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::apply::Applier;
use crate::catalog::Current;
use crate::clock::{Clock, Ids};
use crate::committer::Committer;
use crate::config::Config;
use crate::keys::{self, Pepper, write_private};
use crate::problem::Problem;
use crate::queue::Queues;
use crate::registry::{PushError, Registry};
use crate::scheduler::Scheduler;
use crate::store::{Store, StoreError};
use crate::worker::Shop;

/// Bytes of an upload: the largest component, or a configuration with several of them in base64.
const MAX_UPLOAD: usize = 64 << 20;
/// Rows of one page.
const MAX_PAGE: u32 = 500;
const PAGE: u32 = 50;

/// What the operators' door works with.
pub(crate) struct Office {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalog: Arc<Current>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) committer: Committer,
    pub(crate) shop: Arc<Shop>,
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) pepper: Pepper,
    pub(crate) clock: Clock,
    pub(crate) ids: Arc<Ids>,
    pub(crate) data: PathBuf,
}

impl Office {
    /// What is in force, for the commands on this machine.
    fn write_config(&self) {
        let config = serde_json::to_vec_pretty(&self.catalog.get().config).unwrap_or_default();
        if let Err(error) = write_private(&self.data.join("config.json"), &config) {
            tracing::warn!(%error, "writing config.json failed");
        }
    }
}

type Answer = Result<Response, Problem>;

pub(crate) fn router(office: Arc<Office>) -> Router {
    let api = Router::new()
        .route("/events", get(events::list).post(events::publish))
        .route("/events/{id}", get(events::show))
        .route("/dead-letters", get(deliveries::dead_letters))
        .route("/dead-letters/replay", post(deliveries::replay_dead))
        .route("/deliveries/{id}/replay", post(deliveries::replay))
        .route("/endpoints", get(endpoints::list))
        .route("/endpoints/{name}/pause", post(endpoints::pause))
        .route("/endpoints/{name}/resume", post(endpoints::resume))
        .route("/queues", get(endpoints::queues))
        .route("/schedules", get(schedules::list))
        .route("/sync-jobs", get(schedules::jobs))
        .route("/sync-jobs/{name}/runs", get(schedules::runs))
        .route("/sync-jobs/{name}/run", post(schedules::run))
        .route("/connectors", get(connectors::list))
        .route("/connectors/{name}", put(connectors::push))
        .route("/connectors/{name}/activate", post(connectors::activate))
        .route("/connectors/{name}/rollback", post(connectors::rollback))
        .route("/mappings", get(mappings::list))
        .route("/mappings/{name}", get(mappings::show).put(mappings::edit))
        .route("/mappings/{name}/activate", post(mappings::activate))
        .route("/mappings/{name}/try", post(mappings::trial::run))
        .route("/apply", post(apply))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "the API has no such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path of the API does not know the method")
        })
        .layer(DefaultBodyLimit::max(MAX_UPLOAD))
        .layer(from_fn_with_state(office.clone(), authenticate))
        .with_state(office);
    Router::new()
        .route("/health", get(async || Json(json!({ "status": "ok" }))))
        .nest("/api", api)
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
}

/// No request passes without a key, not even to learn which paths exist.
async fn authenticate(State(office): State<Arc<Office>>, request: Request, next: Next) -> Answer {
    let headers = request.headers();
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let key = headers.get("x-api-key").and_then(|value| value.to_str().ok()).or(bearer);
    let good = match key {
        Some(key) => keys::check(&*office.store, &office.pepper, key).await.map_err(store_problem)?,
        None => false,
    };
    if !good {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "an API key is needed, in X-API-Key or as Authorization: Bearer (make one with `tomada keys create`)",
        ));
    }
    Ok(next.run(request).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyBody {
    config: Config,
    /// Name → component in base64.
    #[serde(default)]
    components: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct ApplyQuery {
    #[serde(default)]
    dry_run: bool,
}

async fn apply(
    State(office): State<Arc<Office>>,
    Query(query): Query<ApplyQuery>,
    body: Result<Json<ApplyBody>, axum::extract::rejection::JsonRejection>,
) -> Answer {
    let Json(body) = body.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let mut components = BTreeMap::new();
    for (name, text) in body.components {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("component {name:?}: {error}")))?;
        components.insert(name, bytes);
    }
    let applier = Applier {
        store: &*office.store,
        catalog: &office.catalog,
        queues: &office.queues,
        registry: &office.registry,
        clock: &office.clock,
    };
    let changes = applier
        .apply(body.config, components, query.dry_run)
        .await
        .map_err(|problems| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, problems.join("\n")))?;
    if !query.dry_run {
        office.shop.staff();
        office.write_config();
    }
    Ok(Json(json!({ "changes": changes })).into_response())
}

fn store_problem(error: StoreError) -> Problem {
    match error {
        StoreError::NotFound(what) => Problem::new(StatusCode::NOT_FOUND, format!("{what} does not exist")),
        StoreError::Conflict(why) => Problem::new(StatusCode::CONFLICT, why),
        StoreError::Row(_) | StoreError::Database(_) => {
            tracing::error!(%error, "a request failed");
            Problem::busy("the database did not answer")
        }
    }
}

fn push_problem(error: PushError) -> Problem {
    match error {
        PushError::Refused(why) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why),
        PushError::Store(error) => store_problem(error),
    }
}

fn page(limit: Option<u32>) -> u32 {
    limit.unwrap_or(PAGE).clamp(1, MAX_PAGE)
}

/// RFC 3339, UTC.
fn time(ms: u64) -> Value {
    jiff::Timestamp::from_millisecond(ms as i64).map_or(Value::Null, |time| time.to_string().into())
}

fn parse<T: std::str::FromStr<Err = String>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: String| Problem::new(StatusCode::BAD_REQUEST, error))
}
