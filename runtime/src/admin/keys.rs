//! API keys: list, make, rotate, revoke. A secret is in exactly one answer: the one to the request that made it.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::audit::Note;
use super::{Answer, Office, store_problem, time, unreadable};
use crate::keys::grant::{Grant, Role, Scope, Scopes, network};
use crate::keys::{Caller, grant_of, id_of};
use crate::private::write_private;
use crate::problem::Problem;
use crate::store::rows::KeyRow;

/// Seconds for which the secret before a rotation stays good, unless the request says otherwise, and the most of it.
const OVERLAP_S: u64 = 24 * 3600;
const MAX_OVERLAP_S: u64 = 30 * 24 * 3600;
/// Entries of a list in a grant, and characters of a name.
const MAX_ENTRIES: usize = 64;
const MAX_NAME: usize = 128;

pub(super) async fn list(State(office): State<Arc<Office>>) -> Answer {
    let keys = office.store.keys().await.map_err(store_problem)?;
    let now_ms = office.clock.now_ms();
    let items: Vec<Value> = keys.iter().map(|key| summary(key, now_ms)).collect();
    Ok(Json(json!({ "items": items })).into_response())
}

fn summary(key: &KeyRow, now_ms: u64) -> Value {
    let state = if key.revoked_ms.is_some() {
        "revoked"
    } else if key.expires_ms.is_some_and(|end| now_ms >= end) {
        "expired"
    } else if key.not_before_ms.is_some_and(|begin| now_ms < begin) {
        "not-yet-valid"
    } else {
        "active"
    };
    let previous_until = key.previous.as_ref().map(|(_, until)| *until).filter(|until| now_ms < *until);
    json!({
        "id": key.id,
        "name": key.name,
        "state": state,
        "scopes": key.scopes,
        "sources": key.sources,
        "addresses": key.addresses,
        "not_before": key.not_before_ms.map(time),
        "expires_at": key.expires_ms.map(time),
        "created_at": time(key.created_ms),
        "created_by": key.created_by,
        "last_used_at": key.last_used_ms.map(time),
        "revoked_at": key.revoked_ms.map(time),
        // While a rotation overlaps.
        "previous_secret_until": previous_until.map(time),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKey {
    /// Who or what it is for.
    name: String,
    /// Together they are what it may do; one of them is needed.
    role: Option<Role>,
    #[serde(default)]
    scopes: Vec<Scope>,
    sources: Option<Vec<String>>,
    /// CIDR or single addresses of the peer, which behind a proxy is the proxy.
    addresses: Option<Vec<String>>,
    /// RFC 3339, as is the next one.
    not_before: Option<String>,
    expires_at: Option<String>,
}

pub(super) async fn create(
    State(office): State<Arc<Office>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(note): Extension<Arc<Note>>,
    body: Result<Json<NewKey>, JsonRejection>,
) -> Answer {
    let Json(new) = body.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, unreadable(&error)))?;
    let refused = |why: String| Problem::new(StatusCode::BAD_REQUEST, why);
    if new.name.is_empty() || new.name.chars().count() > MAX_NAME || new.name.chars().any(char::is_control) {
        return Err(refused(format!("name takes 1 to {MAX_NAME} characters")));
    }
    let grant = wanted(&new, office.clock.now_ms()).map_err(refused)?;
    note.detail("name", new.name.as_str());
    note.detail("scopes", grant.scopes.words());
    covers(&caller, &grant)?;
    let (row, key) = office.keys.create(&new.name, &grant, Some(&caller.id)).await.map_err(store_problem)?;
    note.object(format!("key:{}", row.id));
    let mut shown = summary(&row, office.clock.now_ms());
    shown["key"] = key.into();
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(shown)).into_response())
}

fn wanted(new: &NewKey, now_ms: u64) -> Result<Grant, String> {
    let scopes = new.role.map_or(Scopes::default(), Role::scopes).and(new.scopes.iter().copied().collect());
    if scopes == Scopes::default() {
        let roles = Role::ALL.join(", ");
        return Err(format!("say what the key may do: scopes, or a role of {roles}"));
    }
    for (name, list) in [("sources", &new.sources), ("addresses", &new.addresses)] {
        if list.as_ref().is_some_and(|list| list.is_empty() || list.len() > MAX_ENTRIES) {
            return Err(format!("{name} takes 1 to {MAX_ENTRIES} entries; leave it out for no restriction"));
        }
    }
    let networks = |all: &Vec<String>| all.iter().map(|text| network(text)).collect::<Result<Vec<_>, _>>();
    let grant = Grant {
        scopes,
        sources: new.sources.clone(),
        addresses: new.addresses.as_ref().map(networks).transpose().map_err(|why| format!("addresses: {why}"))?,
        not_before_ms: moment("not_before", new.not_before.as_deref())?,
        expires_ms: moment("expires_at", new.expires_at.as_deref())?,
    };
    if let Some(end) = grant.expires_ms
        && end <= grant.not_before_ms.unwrap_or(now_ms).max(now_ms)
    {
        return Err("expires_at is before the key could be used".into());
    }
    Ok(grant)
}

/// Milliseconds since 1970 of an RFC 3339 time.
fn moment(name: &str, text: Option<&str>) -> Result<Option<u64>, String> {
    let Some(text) = text else { return Ok(None) };
    let time = text.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
    time.map(Some).ok_or_else(|| format!("{name} is no time: write for instance 2026-12-31T00:00:00Z"))
}

fn covers(caller: &Caller, grant: &Grant) -> Result<(), Problem> {
    caller.grant.covers(grant).map_err(|more| {
        Problem::new(
            StatusCode::FORBIDDEN,
            format!("a key grants no more than it has itself, and this one lacks {more}"),
        )
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// 0 when the secret has leaked.
    overlap_s: u64,
}

/// A new secret under the same id. The body is optional: `{"overlap_s": 0}`.
pub(super) async fn rotate(
    State(office): State<Arc<Office>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(note): Extension<Arc<Note>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer {
    let overlap_s = if body.is_empty() {
        OVERLAP_S
    } else {
        let rotation: Rotation = serde_json::from_slice(&body).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("the body is not {{\"overlap_s\": 0}}: {error}"))
        })?;
        rotation.overlap_s
    };
    if overlap_s > MAX_OVERLAP_S {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("overlap_s is at most {MAX_OVERLAP_S}")));
    }
    note.detail("overlap_s", overlap_s);
    // Whoever gets the new secret can do what the key can.
    covers(&caller, &grant_of(&known(&office, &id).await?))?;
    let until_ms = office.clock.now_ms() + overlap_s * 1000;
    let key = office.keys.rotate(&id, until_ms).await.map_err(store_problem)?;
    keep(&office, &id, &key);
    let mut shown = summary(&known(&office, &id).await?, office.clock.now_ms());
    shown["key"] = key.into();
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(shown)).into_response())
}

/// The commands on this machine go on with the new secret when it is their key.
fn keep(office: &Office, id: &str, key: &str) {
    let file = office.data.join("admin.key");
    let ours = std::fs::read_to_string(&file).is_ok_and(|known| id_of(known.trim()) == Some(id));
    if ours && let Err(error) = write_private(&file, key.as_bytes()) {
        tracing::warn!(%error, "writing admin.key failed: the commands on this machine need --key");
    }
}

/// In effect with the next request. Any key that manages keys may do it: nobody gains by it, and a leak cannot wait.
pub(super) async fn revoke(State(office): State<Arc<Office>>, Path(id): Path<String>) -> Answer {
    let now_ms = office.clock.now_ms();
    office.store.revoke_key(&id, now_ms).await.map_err(store_problem)?;
    Ok(Json(summary(&known(&office, &id).await?, now_ms)).into_response())
}

async fn known(office: &Office, id: &str) -> Result<KeyRow, Problem> {
    let found = office.store.key(id).await.map_err(store_problem)?;
    found.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("key {id:?} does not exist")))
}
