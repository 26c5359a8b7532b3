//! The record of processing, made of the configuration in force.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use serde::Deserialize;

use super::{Answer, Office};
use crate::record::Record;

#[derive(Deserialize)]
pub(super) struct Showing {
    /// For people, in Brazilian Portuguese, instead of JSON.
    #[serde(default)]
    markdown: bool,
}

pub(super) async fn show(State(office): State<Arc<Office>>, Query(query): Query<Showing>) -> Answer {
    let record = Record::of(&office.catalog.get().config);
    if query.markdown {
        return Ok(([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], record.markdown()).into_response());
    }
    Ok(Json(record).into_response())
}
