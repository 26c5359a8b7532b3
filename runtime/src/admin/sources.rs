//! Sources: how they prove who they are, and which of their secrets still do.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::{Answer, Office, store_problem, time};
use crate::store::StoreError;
use crate::store::rows::NodeRow;

/// Secrets are shown by their place in the configuration (from 1), each version of a stored one by itself, never by
/// value.
pub(super) async fn list(State(office): State<Arc<Office>>) -> Answer {
    let catalog = office.catalog.get();
    let now_ms = office.clock.now_ms();
    let items: Vec<Value> = catalog
        .config
        .sources
        .iter()
        .map(|(name, source)| {
            let proof = catalog.proofs.get(name);
            let matched = proof.map(|proof| proof.last_matched()).unwrap_or_default();
            let secrets: Vec<Value> = proof
                .map_or(source.auth.secrets(), |proof| &proof.secrets)
                .iter()
                .enumerate()
                .map(|(at, secret)| {
                    json!({
                        "position": at + 1,
                        "stored": secret.reference.stored().map(|(name, _)| name),
                        "not_before": secret.not_before,
                        "not_after": secret.not_after,
                        "live": secret.is_live(now_ms),
                        "last_matched_at": matched.get(at).copied().flatten().map(time),
                    })
                })
                .collect();
            json!({
                "name": name,
                "description": source.description,
                "scheme": source.auth.scheme(),
                "signed": source.auth.unsigned().is_none(),
                "reason": source.auth.unsigned(),
                "webhooks": source.webhooks.iter().map(|webhook| &webhook.path).collect::<Vec<_>>(),
                "secrets": secrets,
            })
        })
        .collect();
    Ok(Json(json!({ "items": items })).into_response())
}

/// For everybody who asks whether the hub is well: what it is, and which sources it has to believe without a signature.
pub(super) async fn status(State(office): State<Arc<Office>>) -> Answer {
    let catalog = office.catalog.get();
    let unsigned: Vec<Value> = catalog
        .config
        .sources
        .iter()
        .filter_map(|(name, source)| Some(json!({ "name": name, "reason": source.auth.unsigned()? })))
        .collect();
    let mut status = json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION"), "unsigned_sources": unsigned });
    if office.store.is_shared() {
        status["nodes"] = nodes(&office).await.map_err(store_problem)?.into();
    }
    Ok(Json(status).into_response())
}

/// Who shares the database, and where another version of a connector runs than the one that is in force.
async fn nodes(office: &Office) -> Result<Vec<Value>, StoreError> {
    let active: HashMap<String, i64> = office
        .store
        .connectors()
        .await?
        .into_iter()
        .filter_map(|connector| Some((connector.name, connector.active?)))
        .collect();
    let node = |node: NodeRow| {
        let runs: HashMap<String, i64> = serde_json::from_str(&node.running).unwrap_or_default();
        let mut differ: Vec<&String> =
            active.iter().filter(|(name, id)| runs.get(*name) != Some(*id)).map(|(name, _)| name).collect();
        differ.sort();
        json!({ "node": node.id, "started_at": time(node.started_ms), "lease_ms": node.lease_ms, "differ": differ })
    };
    Ok(office.store.nodes().await?.into_iter().map(node).collect())
}
