//! Components: list, push, activate, roll back.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::audit::Note;
use super::{Answer, Office, push_problem, store_problem, time, unreadable};
use crate::problem::Problem;
use crate::store::rows::{ConnectorRow, VersionRow};

pub(super) async fn list(State(office): State<Arc<Office>>) -> Answer {
    let connectors = office.store.connectors().await.map_err(store_problem)?;
    let versions = office.store.versions().await.map_err(store_problem)?;
    let items: Vec<Value> = connectors.iter().map(|connector| summary(connector, &versions)).collect();
    Ok(Json(json!({ "items": items })).into_response())
}

fn summary(connector: &ConnectorRow, versions: &[VersionRow]) -> Value {
    let digest = |id: Option<i64>| versions.iter().find(|v| Some(v.id) == id).map(|v| v.digest.as_str());
    let manifest = |version: &VersionRow| serde_json::from_str::<Value>(&version.manifest).unwrap_or_default();
    let own: Vec<Value> = versions
        .iter()
        .filter(|version| version.name == connector.name)
        .map(|version| {
            json!({
                "digest": version.digest,
                "version": manifest(version)["version"],
                "size": version.size,
                "created_at": time(version.created_ms),
            })
        })
        .collect();
    json!({
        "name": connector.name,
        "kind": connector.kind,
        "active": digest(connector.active),
        "previous": digest(connector.previous),
        "versions": own,
        "manifest": versions.iter().find(|v| Some(v.id) == connector.active).map(manifest),
    })
}

/// The body is the component. It is in force when the answer comes.
pub(super) async fn push(
    State(office): State<Arc<Office>>,
    Extension(note): Extension<Arc<Note>>,
    Path(name): Path<String>,
    wasm: Bytes,
) -> Answer {
    let version = office.registry.push(&name, wasm.into()).await.map_err(push_problem)?;
    answer(&office, &note, &name, version).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Activation {
    /// Its first characters are enough.
    digest: String,
}

pub(super) async fn activate(
    State(office): State<Arc<Office>>,
    Extension(note): Extension<Arc<Note>>,
    Path(name): Path<String>,
    body: Result<Json<Activation>, JsonRejection>,
) -> Answer {
    let Json(body) = body.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, unreadable(&error)))?;
    let version = office.registry.activate(&name, &body.digest).await.map_err(push_problem)?;
    answer(&office, &note, &name, version).await
}

pub(super) async fn rollback(
    State(office): State<Arc<Office>>,
    Extension(note): Extension<Arc<Note>>,
    Path(name): Path<String>,
) -> Answer {
    let version = office.registry.rollback(&name).await.map_err(push_problem)?;
    answer(&office, &note, &name, version).await
}

async fn answer(office: &Office, note: &Note, name: &str, version: VersionRow) -> Answer {
    note.detail("digest", version.digest.as_str());
    let connectors = office.store.connectors().await.map_err(store_problem)?;
    let versions = office.store.versions().await.map_err(store_problem)?;
    let previous = connectors.iter().find(|c| c.name == name).and_then(|c| c.previous);
    let previous = versions.iter().find(|v| Some(v.id) == previous).map(|v| v.digest.as_str());
    Ok(Json(json!({ "digest": version.digest, "active": true, "previous": previous })).into_response())
}
