//! The key ring: which keys there are and what each wraps, a new active one, and the end of an old one.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::audit::Note;
use super::{Answer, Office, parse, store_problem, time};
use crate::keyring::KeyId;
use crate::problem::Problem;

/// What was sealed just before a rotation may still be on its way into the database.
const SETTLED_MS: u64 = 10 * 60 * 1000;

pub(super) async fn list(State(office): State<Arc<Office>>) -> Answer {
    Ok(Json(shown(&office).await?).into_response())
}

async fn shown(office: &Office) -> Result<Value, Problem> {
    let wrapped = office.store.wrapped().await.map_err(store_problem)?;
    let wraps = |id: KeyId| wrapped.iter().find(|(key, _)| *key == id).map_or(0, |(_, count)| *count);
    let keys = office.ring.keys();
    let items: Vec<Value> = keys
        .iter()
        .map(|key| {
            json!({
                "id": key.id.to_string(),
                "state": if key.active { "active" } else { "decrypt-only" },
                "created_at": time(key.created_ms),
                "wraps": wraps(key.id),
            })
        })
        .collect();
    let left: u64 = keys.iter().filter(|key| !key.active).map(|key| wraps(key.id)).sum();
    Ok(json!({ "items": items, "to_rewrap": left }))
}

/// What the key before wraps is wrapped anew in the background; no payload is touched.
pub(super) async fn rotate(State(office): State<Arc<Office>>, Extension(note): Extension<Arc<Note>>) -> Answer {
    if office.store.nodes().await.map_err(store_problem)?.len() > 1 {
        // The others would not have the new key, and take what it wraps for lost.
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "other nodes share this database, and would not have the new key: stop them, rotate, and copy the key ring to them",
        ));
    }
    let id = office.ring.rotate(office.clock.now_ms()).map_err(|error| {
        tracing::error!(%error, "rotating the key ring failed");
        Problem::new(StatusCode::CONFLICT, format!("nothing was changed: {error:#}"))
    })?;
    note.object(format!("keyring:{id}"));
    let mut shown = shown(&office).await?;
    shown["id"] = id.to_string().into();
    Ok(Json(shown).into_response())
}

/// Takes a key off the ring. What backups hold under it cannot be opened after that.
pub(super) async fn retire(State(office): State<Arc<Office>>, Path(id): Path<String>) -> Answer {
    let id: KeyId = parse(&id)?;
    let keys = office.ring.keys();
    if !keys.iter().any(|key| key.id == id) {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("the key ring has no key {id}")));
    }
    let conflict = |why: String| Problem::new(StatusCode::CONFLICT, why);
    let active_since = keys.iter().find(|key| key.active).map_or(0, |key| key.created_ms);
    if office.clock.now_ms() < active_since + SETTLED_MS {
        let why = "the active key is younger than ten minutes: what was sealed before may still be on its way";
        return Err(conflict(why.into()));
    }
    let wrapped = office.store.wrapped().await.map_err(store_problem)?;
    if let Some((_, count)) = wrapped.iter().find(|(key, _)| *key == id) {
        return Err(conflict(format!("key {id} still wraps {count} keys: they are wrapped anew in the background")));
    }
    office.ring.retire(id).map_err(|error| conflict(format!("{error:#}")))?;
    Ok(Json(shown(&office).await?).into_response())
}
