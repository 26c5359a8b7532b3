//! Secrets that the hub keeps: list them, give one a new version, remove one. A value is in no answer, but for the one to
//! the request that had it made.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::audit::Note;
use super::{Answer, Office, store_problem, time};
use crate::apply::reload;
use crate::catalog::Catalog;
use crate::clock::random_bytes;
use crate::config::{Config, SecretRef, is_name};
use crate::problem::Problem;
use crate::store::rows::SecretRow;

/// Seconds for which the version before stays good, unless the request says otherwise, and the most of it.
const OVERLAP_S: u64 = 24 * 3600;
const MAX_OVERLAP_S: u64 = 30 * 24 * 3600;
/// Bytes of a value. RSA keys in PEM fit, whole certificate chains do not.
const MAX_VALUE: usize = 16 << 10;
/// Secrets that the hub keeps; each is opened whenever the catalog is read.
const MAX_SECRETS: usize = 1000;

pub(super) async fn list(State(office): State<Arc<Office>>) -> Answer {
    let rows = office.store.secrets().await.map_err(store_problem)?;
    let (catalog, now_ms) = (office.catalog.get(), office.clock.now_ms());
    let mut items: Vec<Value> = Vec::new();
    for row in &rows {
        let newest = rows.iter().filter(|other| other.name == row.name).all(|other| other.version <= row.version);
        let state = match row.not_after_ms {
            _ if row.value.is_none() => "unreadable",
            _ if newest => "current",
            Some(until) if now_ms <= until => "previous",
            _ => "ended",
        };
        let version = json!({
            "version": row.version,
            "state": state,
            "created_at": time(row.created_ms),
            "not_after": row.not_after_ms.map(time),
            "last_matched_at": last_matched(&catalog, row).map(time),
        });
        match items.last_mut().filter(|item| item["name"] == row.name.as_str()) {
            Some(item) => item["versions"].as_array_mut().into_iter().for_each(|all| all.push(version.clone())),
            None => items.push(json!({
                "name": row.name, "used_by": used_by(&catalog.config, &row.name), "versions": [version],
            })),
        }
    }
    Ok(Json(json!({ "items": items })).into_response())
}

/// When a version proved a request of any source last, since this hub started.
fn last_matched(catalog: &Catalog, row: &SecretRow) -> Option<u64> {
    let reference = crate::catalog::version_of(&row.name, row.version);
    let of = |proof: &Arc<crate::catalog::Proof>| {
        let at = proof.secrets.iter().position(|secret| secret.reference == reference)?;
        proof.last_matched().get(at).copied().flatten()
    };
    catalog.proofs.values().filter_map(of).max()
}

/// Where the configuration refers to a stored secret.
fn used_by(config: &Config, name: &str) -> Vec<String> {
    let is_it = |reference: &SecretRef| reference.stored().is_some_and(|(stored, _)| stored == name);
    let sources = config.sources.iter().flat_map(|(source, config)| {
        let used = config.auth.references().filter(|(_, reference)| is_it(reference));
        used.map(move |_| format!("source {source}"))
    });
    let endpoints = config.endpoints.iter().flat_map(|(endpoint, config)| {
        let own = config.secrets.iter().filter(|(_, reference)| is_it(reference)).map(|(key, _)| key.as_str());
        let smtp = config.smtp.iter().flat_map(|smtp| smtp.secrets());
        let smtp = smtp.filter(|(_, reference)| is_it(reference)).map(|(key, _)| key);
        own.chain(smtp).map(|key| format!("endpoint {endpoint}: {key}")).collect::<Vec<_>>()
    });
    let mut places: Vec<String> = sources.chain(endpoints).collect();
    places.dedup();
    places
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewVersion {
    /// The value, or let one be made: 256 random bits as Standard Webhooks writes them, `whsec_…`.
    value: Option<String>,
    #[serde(default)]
    generate: bool,
    /// 0 when the version before has leaked.
    overlap_s: Option<u64>,
}

pub(super) async fn set(
    State(office): State<Arc<Office>>,
    Extension(note): Extension<Arc<Note>>,
    Path(name): Path<String>,
    body: Result<Json<NewVersion>, JsonRejection>,
) -> Answer {
    let refused = |why: String| Problem::new(StatusCode::BAD_REQUEST, why);
    // What serde says of a wrong body may repeat it.
    let Json(new) = body.map_err(|_| refused("the body is {\"value\": \"…\"} or {\"generate\": true}".into()))?;
    if !is_name(&name) {
        return Err(refused(format!("{name:?} is no name: 1 to 64 characters of a-z 0-9 . _ -")));
    }
    let made = new.generate.then(|| format!("whsec_{}", STANDARD.encode(random_bytes::<32>())));
    let value = match (&new.value, &made) {
        (Some(value), None) => value,
        (None, Some(made)) => made,
        _ => return Err(refused("give either a value or generate".into())),
    };
    if value.is_empty() || value.len() > MAX_VALUE {
        return Err(refused(format!("a value has 1 to {MAX_VALUE} bytes")));
    }
    let overlap_s = new.overlap_s.unwrap_or(OVERLAP_S);
    if overlap_s > MAX_OVERLAP_S {
        return Err(refused(format!("overlap_s is at most {MAX_OVERLAP_S}")));
    }
    let now_ms = office.clock.now_ms();
    let previous_until_ms = now_ms + overlap_s * 1000;

    let _editing = office.catalog.editing.lock().await;
    try_out(&office, &name, value).await?;
    let version = office.store.put_secret(&name, value.as_bytes(), previous_until_ms, now_ms).await;
    let version = version.map_err(store_problem)?;
    note.detail("version", version);
    in_force(&office).await?;
    let previous_until = (version > 1).then(|| time(previous_until_ms));
    let shown = json!({ "name": name, "version": version, "previous_until": previous_until, "value": made });
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(shown)).into_response())
}

/// A value that its users could not work with is refused before it is stored: a catalog that does not load would not be
/// one at the next start either.
async fn try_out(office: &Office, name: &str, value: &str) -> Result<(), Problem> {
    let mut rows = office.store.catalog().await.map_err(store_problem)?;
    let known: std::collections::BTreeSet<&str> = rows.secrets.iter().map(|row| row.name.as_str()).collect();
    if !known.contains(name) && known.len() >= MAX_SECRETS {
        let why = format!("the hub keeps {MAX_SECRETS} secrets already: remove what is not used any more");
        return Err(Problem::new(StatusCode::CONFLICT, why));
    }
    let newest = rows.secrets.iter().filter(|row| row.name == name).map(|row| row.version).max().unwrap_or(0);
    rows.secrets.push(SecretRow {
        name: name.to_owned(),
        version: newest + 1,
        value: Some(value.as_bytes().to_vec().into()),
        created_ms: 0,
        not_after_ms: None,
    });
    Catalog::load(rows).map(drop).map_err(|problems| {
        let why = format!("nothing was changed, because with this value {}", problems.join("\n"));
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why)
    })
}

async fn in_force(office: &Office) -> Result<(), Problem> {
    reload(&*office.store, &office.catalog, &office.queues).await.map_err(|error| {
        tracing::error!(error, "reading the catalog failed");
        Problem::busy("the secret is stored, but is not in force yet")
    })
}

pub(super) async fn remove(State(office): State<Arc<Office>>, Path(name): Path<String>) -> Answer {
    let _editing = office.catalog.editing.lock().await;
    let used = used_by(&office.catalog.get().config, &name);
    if !used.is_empty() {
        let why = format!("{name:?} is used by {}: refer to another secret there first", used.join(", "));
        return Err(Problem::new(StatusCode::CONFLICT, why));
    }
    office.store.remove_secret(&name).await.map_err(store_problem)?;
    in_force(&office).await?;
    Ok(Json(json!({ "name": name, "removed": true })).into_response())
}
