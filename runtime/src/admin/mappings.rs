//! Mappings: list, look at the versions, edit, put an earlier version in force, try. A version is never changed: each
//! edit is a new one, and the old ones stay.

mod changes;
pub(super) mod trial;

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::audit::Note;
use super::{Answer, Office, store_problem, time, unreadable};
use crate::apply;
use crate::catalog::{Mapping, json as text_of};
use crate::config::{self, Config};
use crate::plugin::manifest::Kind;
use crate::problem::Problem;
use crate::store::rows::{MappingVersion, NewMapping};
use crate::worker::run::{Ran, map};

/// What a mapping says of settings that it cannot work with, whatever the payload is: `json-map`, and the SDK.
const SETTINGS_CODES: [&str; 2] = ["rule-invalid", "settings-invalid"];

pub(super) async fn list(State(office): State<Arc<Office>>) -> Answer {
    let mappings = office.store.mappings().await.map_err(store_problem)?;
    let catalog = office.catalog.get();
    let items: Vec<Value> = mappings
        .iter()
        .map(|mapping| {
            json!({
                "name": mapping.name,
                "component": stored(&mapping.shown)["component"],
                "active": mapping.shown.active.then_some(mapping.shown.version),
                "versions": mapping.versions,
                "edited_at": time(mapping.shown.created_ms),
                "used_by": used_by(&catalog.config, &mapping.name),
            })
        })
        .collect();
    Ok(Json(json!({ "items": items })).into_response())
}

/// What is in force, and all versions, newest first.
pub(super) async fn show(State(office): State<Arc<Office>>, Path(name): Path<String>) -> Answer {
    let versions = office.store.mapping(&name).await.map_err(store_problem)?;
    let active = versions.iter().find(|version| version.active);
    let in_force = active.map(stored).unwrap_or_default();
    let all: Vec<Value> = versions
        .iter()
        .map(|version| {
            let config = stored(version);
            json!({
                "version": version.version,
                "created_at": time(version.created_ms),
                "active": version.active,
                "origin": version.origin,
                "component": config["component"],
                "settings": config["settings"],
                "deadline_ms": config["deadline_ms"],
            })
        })
        .collect();
    Ok(Json(json!({
        "name": name,
        "active": active.map(|version| version.version),
        "component": in_force["component"],
        "settings": in_force["settings"],
        "deadline_ms": in_force["deadline_ms"],
        "used_by": used_by(&office.catalog.get().config, &name),
        "versions": all,
    }))
    .into_response())
}

fn stored(version: &MappingVersion) -> Value {
    serde_json::from_str(&version.config).unwrap_or_default()
}

fn used_by(config: &Config, name: &str) -> Value {
    using(config, name).map(|route| json!({ "event": route.event, "endpoint": route.endpoint })).collect()
}

/// The routes that name it.
fn using<'a>(config: &'a Config, name: &'a str) -> impl Iterator<Item = &'a config::Route> {
    config.routes.iter().filter(move |route| route.mapping.as_deref() == Some(name))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Edit {
    /// Instead of the one in force; of a new mapping `json-map`. The same goes for the deadline.
    component: Option<String>,
    settings: Map<String, Value>,
    deadline_ms: Option<u64>,
    #[serde(default = "yes")]
    activate: bool,
    /// The version that the editor saw in force, 0 for none. With it an edit that somebody else made meanwhile is not
    /// lost.
    if_version: Option<i64>,
}

fn yes() -> bool {
    true
}

/// Stores a new version; it is in force when the answer comes, unless the body says otherwise.
pub(super) async fn edit(
    State(office): State<Arc<Office>>,
    Extension(note): Extension<Arc<Note>>,
    Path(name): Path<String>,
    body: Result<Json<Edit>, JsonRejection>,
) -> Answer {
    let Json(edit) = body.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, unreadable(&error)))?;
    let mapping = draft(&office, &name, edit.component, edit.settings, edit.deadline_ms);
    prove(&office, &name, &mapping).await?;
    let new = NewMapping {
        name: name.clone(),
        config: text_of(&mapping),
        activate: edit.activate,
        expected: edit.if_version,
    };
    let _editing = office.catalog.editing.lock().await;
    let version = office.store.put_mapping(&new, office.clock.now_ms()).await.map_err(store_problem)?;
    note.detail("version", version);
    note.detail("active", edit.activate);
    if edit.activate {
        reload(&office).await?;
    }
    Ok((StatusCode::CREATED, Json(json!({ "name": name, "version": version, "active": edit.activate })))
        .into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Activation {
    version: i64,
}

pub(super) async fn activate(
    State(office): State<Arc<Office>>,
    Extension(note): Extension<Arc<Note>>,
    Path(name): Path<String>,
    body: Result<Json<Activation>, JsonRejection>,
) -> Answer {
    let Json(Activation { version }) =
        body.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, unreadable(&error)))?;
    note.detail("version", version);
    let mapping = read(&office.store.mapping(&name).await.map_err(store_problem)?, &name, version)?;
    // What was right when it was stored need not be any more: its component may be another by now.
    prove(&office, &name, &mapping).await?;
    let _editing = office.catalog.editing.lock().await;
    office.store.activate_mapping(&name, version).await.map_err(store_problem)?;
    reload(&office).await?;
    Ok(Json(json!({ "name": name, "version": version, "active": true })).into_response())
}

/// A mapping as somebody writes it; what is left out is as it is in force.
fn draft(
    office: &Office,
    name: &str,
    component: Option<String>,
    settings: Map<String, Value>,
    deadline_ms: Option<u64>,
) -> config::Mapping {
    let catalog = office.catalog.get();
    let in_force = catalog.config.mappings.get(name).cloned().unwrap_or_default();
    config::Mapping {
        component: component.unwrap_or(in_force.component),
        settings,
        deadline_ms: deadline_ms.unwrap_or(in_force.deadline_ms),
    }
}

fn read(versions: &[MappingVersion], name: &str, version: i64) -> Result<config::Mapping, Problem> {
    let found = versions.iter().find(|known| known.version == version).ok_or_else(|| {
        let newest = versions.first().map_or(0, |newest| newest.version);
        let what = format!("mapping {name:?} has no version {version}: its newest is {newest}");
        Problem::new(StatusCode::NOT_FOUND, what)
    })?;
    serde_json::from_str(&found.config).map_err(|error| {
        let what = format!("version {version} of mapping {name:?} cannot be read by this hub any more: {error}");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what)
    })
}

/// Its name, its numbers, and that there is a component to run it.
fn check(office: &Office, name: &str, mapping: &config::Mapping) -> Result<(), Problem> {
    let refused = |why: String| Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why));
    let alone = Config { mappings: [(name.to_owned(), mapping.clone())].into(), ..Config::default() };
    let problems: Vec<String> = alone.check().into_iter().map(|problem| problem.message).collect();
    if !problems.is_empty() {
        return refused(problems.join("\n"));
    }
    let component = &mapping.component;
    match office.registry.plugins.active(component) {
        None => refused(format!("mapping {name:?} needs the component {component:?}: push it first")),
        Some(version) if version.manifest.kind != Kind::Mapping => {
            refused(format!("mapping {name:?}: the component {component:?} is a connector; name a mapping"))
        }
        Some(_) => Ok(()),
    }
}

/// Refuses what could not map anything: the component is run once on `{}`. That it misses fields there is no fault of
/// the settings.
async fn prove(office: &Office, name: &str, mapping: &config::Mapping) -> Result<(), Problem> {
    check(office, name, mapping)?;
    let event = trial::sample_event(office, name, None);
    let prepared = Arc::new(Mapping::prepare(0, name, mapping));
    let proof = map(&office.registry.plugins, &prepared, &event, &Bytes::from_static(b"{}"), &mut Ran::default()).await;
    match proof {
        Err(end) if end.code.as_deref().is_some_and(|code| SETTINGS_CODES.contains(&code)) => {
            let why = end.message.unwrap_or_default();
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("mapping {name:?} was not stored: {why}")))
        }
        _ => Ok(()),
    }
}

/// Brings what was stored into force.
async fn reload(office: &Office) -> Result<(), Problem> {
    apply::reload(&*office.store, &office.catalog, &office.queues).await.map_err(|error| {
        tracing::error!(error, "reading the catalog failed");
        Problem::new(StatusCode::CONFLICT, format!("the change is stored and not yet in force: {error}"))
    })?;
    office.write_config();
    Ok(())
}
