//! How long what is kept, and whether it is gone when its time is over.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::{Answer, Office, store_problem, time};
use crate::store::rows::Maker;

pub(super) async fn list(State(office): State<Arc<Office>>) -> Answer {
    let standings = office.retention.standings().await.map_err(store_problem)?;
    let items: Vec<Value> = standings
        .into_iter()
        .map(|standing| {
            let own = |(maker, keep): (Maker, crate::config::Keep)| match maker {
                Maker::Source(name) => json!({ "source": name, "keep": keep }),
                Maker::Endpoint(name) => json!({ "endpoint": name, "keep": keep }),
            };
            json!({
                "rule": standing.rule,
                "keep": standing.keep,
                "own": standing.own.into_iter().map(own).collect::<Vec<_>>(),
                // Of what should be gone; none when nothing should.
                "oldest_created_at": standing.oldest_ms.map(time),
                "overdue_seconds": standing.overdue_ms / 1000,
                "looked_at": time(standing.looked_ms),
                "removed": standing.removed,
            })
        })
        .collect();
    Ok(Json(json!({ "items": items })).into_response())
}
