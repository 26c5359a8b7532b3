//! The door for operators: the API behind a key, `/health` and `/status`.

mod audit;
mod connectors;
mod deliveries;
mod endpoints;
mod events;
mod keyring;
mod keys;
mod mappings;
mod metrics;
mod privacy;
mod record;
mod retention;
mod routes;
mod schedules;
mod secrets;
mod sources;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::apply::Applier;
use crate::audit::Audit;
use crate::catalog::{Current, Line};
use crate::clock::{Clock, Ids};
use crate::committer::Committer;
use crate::config::Config;
use crate::delivery::is_code;
use crate::ingress::sender;
use crate::keyring::Keyring;
use crate::keys::grant::Scope;
use crate::keys::{Caller, Keys, Refusal, id_of};
use crate::limits;
use crate::metrics::Metrics;
use crate::privacy::Privacy;
use crate::private::write_private;
use crate::problem::{Problem, tell};
use crate::queue::Queues;
use crate::record::warnings as record_warnings;
use crate::redact::{Network, without_values};
use crate::registry::{PushError, Registry};
use crate::retention::Retention;
use crate::rewrap::Rewrap;
use crate::scheduler::Scheduler;
use crate::signals::Signals;
use crate::signals::limits::SharedLimits;
use crate::store::{Store, StoreError};
use crate::worker::Shop;
use audit::Note;

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
    pub(crate) privacy: Arc<Privacy>,
    pub(crate) keys: Keys,
    pub(crate) audit: Audit,
    pub(crate) clock: Clock,
    pub(crate) ids: Arc<Ids>,
    pub(crate) ring: Arc<Keyring>,
    pub(crate) rewrap: Arc<Rewrap>,
    pub(crate) data: PathBuf,
    pub(crate) limits: Arc<SharedLimits>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) retention: Arc<Retention>,
    pub(crate) metrics: Arc<Metrics>,
    /// The public id of the key in `admin.key`.
    pub(crate) own_key: String,
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

pub use routes::{ApiRoute, api_routes, api_scopes};

type Answer = Result<Response, Problem>;

pub(crate) fn router(office: Arc<Office>) -> Router {
    let api = routes::router(&office)
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "the API has no such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path of the API does not know the method")
        })
        .layer(DefaultBodyLimit::max(MAX_UPLOAD))
        .layer(from_fn_with_state(office.clone(), limit_key))
        .layer(from_fn_with_state(office.clone(), authenticate))
        .layer(from_fn_with_state(office.clone(), limit_address))
        .with_state(office.clone());
    Router::new()
        .route("/status", get(sources::status).with_state(office))
        .route("/health", get(async || Json(json!({ "status": "ok" }))))
        .nest("/api", api)
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
}

/// No request passes without a key, not even to learn which paths exist. What the key may do is each route's business.
async fn authenticate(State(office): State<Arc<Office>>, mut request: Request, next: Next) -> Answer {
    let key = presented_key(request.headers());
    let peer = sender(&office.catalog.get().limits.proxies, request.headers(), request.extensions());
    let opened = match key {
        Some(key) => office.keys.open(key, Some(peer)).await.map_err(store_problem)?,
        None => Err(Refusal::Missing),
    };
    match opened {
        Ok(caller) => {
            request.extensions_mut().insert(Arc::new(caller));
            Ok(next.run(request).await)
        }
        Err(why) => {
            tracing::info!(reason = %why, key = key.and_then(id_of), from = %Network(peer), "API request refused");
            // One text for all: who has half a key learns nothing about the other half.
            Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "an API key that is good here and now is needed, in X-API-Key or as Authorization: Bearer \
                 (`tomada keys create` makes one, `tomada keys list` shows what became of it)",
            )
            .with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
        }
    }
}

fn presented_key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    headers.get("x-api-key").and_then(|value| value.to_str().ok()).or(bearer)
}

/// Before a key is looked at: an address from which too many had none, or a wrong one, costs no look into the database.
async fn limit_address(State(office): State<Arc<Office>>, request: Request, next: Next) -> Answer {
    let (catalog, now_ms) = (office.catalog.get(), office.clock.now_ms());
    let address = sender(&catalog.limits.proxies, request.headers(), request.extensions());
    if let Some(standing) = office.limits.refuses(catalog.limits.address, address, now_ms).await {
        if office.metrics.limited(standing.name, now_ms) {
            tracing::info!(limit = standing.name, from = %Network(address), "API request refused: too many");
        }
        return Err(Problem::quota_exceeded(&standing));
    }
    let response = next.run(request).await;
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        office.metrics.unavailable("api");
    }
    if response.status() == StatusCode::UNAUTHORIZED {
        office.limits.failed(catalog.limits.address, address, now_ms).await;
    }
    Ok(response)
}

/// After authentication. The machine's own key is not counted on the machine itself: who can read its file can read the
/// database, so a limit would protect nothing, and the operator's commands and whatever watches the hub would wait for
/// each other. Used from elsewhere it is a key like any other.
async fn limit_key(State(office): State<Arc<Office>>, request: Request, next: Next) -> Answer {
    let catalog = office.catalog.get();
    let address = sender(&catalog.limits.proxies, request.headers(), request.extensions());
    let key = request.extensions().get::<Arc<Caller>>().map(|caller| caller.id.clone());
    let (Some(key), Some(quota)) = (key, catalog.limits.api_key) else { return Ok(next.run(request).await) };
    if key == office.own_key && address.is_loopback() {
        return Ok(next.run(request).await);
    }
    let now_ms = office.clock.now_ms();
    let standing = office.limits.take(limits::Caller::Key(key.as_str().into()), quota, now_ms).await;
    if standing.is_refused() {
        if office.metrics.limited(standing.name, now_ms) {
            tracing::info!(limit = standing.name, key, "API request refused: too many");
        }
        return Err(Problem::quota_exceeded(&standing));
    }
    let mut response = next.run(request).await;
    tell(response.headers_mut(), &standing);
    Ok(response)
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
    Extension(note): Extension<Arc<Note>>,
    Query(query): Query<ApplyQuery>,
    body: Result<Json<ApplyBody>, axum::extract::rejection::JsonRejection>,
) -> Answer {
    let Json(body) = body.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, unreadable(&error)))?;
    let mut components = BTreeMap::new();
    for (name, text) in body.components {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("component {name:?}: {error}")))?;
        components.insert(name, bytes);
    }
    let warnings = record_warnings(&body.config);
    let applier = Applier {
        store: &*office.store,
        catalog: &office.catalog,
        queues: &office.queues,
        registry: &office.registry,
        clock: &office.clock,
    };
    if !query.dry_run {
        note.begin().await?;
    }
    let changes = applier
        .apply(body.config, components, query.dry_run)
        .await
        .map_err(|problems| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, problems.join("\n")))?;
    if !query.dry_run {
        note.list("changes", changes.iter().map(Line::named));
        office.shop.staff();
        office.write_config();
    }
    Ok(Json(json!({ "changes": changes, "warnings": warnings })).into_response())
}

/// Why a body is not what a route takes. It repeats no value: an answer is written down in more places than one.
fn unreadable(error: &axum::extract::rejection::JsonRejection) -> String {
    without_values(&error.body_text())
}

fn store_problem(error: StoreError) -> Problem {
    match error {
        StoreError::NotFound(what) => Problem::new(StatusCode::NOT_FOUND, format!("{what} does not exist")),
        StoreError::Conflict(why) => Problem::new(StatusCode::CONFLICT, why),
        StoreError::Fenced | StoreError::Row(_) | StoreError::Clash(_) | StoreError::Database(_) => {
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

/// Whether an answer may hold content: what events say, and what connectors and targets said about them.
/// What it lets out is noted, so that no answer shows content off the record.
#[derive(Clone, Copy)]
struct Sight<'n> {
    sees: bool,
    note: &'n Note,
}

impl<'n> Sight<'n> {
    fn of(caller: &Caller, note: &'n Note) -> Sight<'n> {
        Sight { sees: caller.grant.scopes.has(Scope::PayloadRead), note }
    }

    fn content<T>(self, content: Option<T>) -> Option<T> {
        let shown = content.filter(|_| self.sees);
        if shown.is_some() {
            self.note.shows();
        }
        shown
    }

    /// Who may not see content sees codes that are none.
    fn code(self, code: Option<&str>) -> Option<&str> {
        code.filter(|code| is_code(code)).or_else(|| self.content(code))
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
