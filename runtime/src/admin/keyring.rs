//! The key ring: which keys there are and what each wraps, a new active one, and the end of an old one.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::audit::Note;
use super::{Answer, Office, parse, store_problem, time};
use crate::clock::made_ms;
use crate::keyring::{KeyId, KeyState};
use crate::problem::Problem;

pub(super) async fn list(State(office): State<Arc<Office>>) -> Answer {
    Ok(Json(shown(&office).await?).into_response())
}

async fn shown(office: &Office) -> Result<Value, Problem> {
    let wrapping = office.store.wrapping_keys().await.map_err(store_problem)?;
    let state = |key: &KeyState| match (key.active, wrapping.contains(&key.id)) {
        (true, _) => "active",
        (false, true) => "decrypt-only",
        (false, false) => "unused",
    };
    let item =
        |key: &KeyState| json!({ "id": key.id.to_string(), "state": state(key), "created_at": time(key.created_ms) });
    let items: Vec<Value> = office.ring.keys().iter().map(item).collect();
    let up_to = office.rewrap.place().map(|event| time(made_ms(event.0)));
    Ok(json!({ "items": items, "rewrapped_up_to": up_to }))
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
    let refused = |error: anyhow::Error| {
        tracing::error!(%error, "rotating the key ring failed");
        Problem::new(StatusCode::CONFLICT, format!("nothing was changed: {error:#}"))
    };
    let id = office.ring.add(office.clock.now_ms()).map_err(refused)?;
    office.store.add_wrapping_key(id).await.map_err(store_problem)?;
    office.ring.activate(id).map_err(refused)?;
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
    // The active one is the ring's to refuse.
    if !keys.iter().any(|key| key.active && key.id == id)
        && office.store.wrapping_keys().await.map_err(store_problem)?.contains(&id)
    {
        return Err(conflict(format!(
            "key {id} may still wrap something: it is wrapped anew in the background, and once more ten minutes after \
             the rotation, for what was on its way; when that is done, the key is listed as unused"
        )));
    }
    office.ring.retire(id).map_err(|error| conflict(format!("{error:#}")))?;
    Ok(Json(shown(&office).await?).into_response())
}
