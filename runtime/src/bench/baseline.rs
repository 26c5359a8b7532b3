//! What the hub's ingest is compared with: axum that reads the body and verifies the same signature, and keeps nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tokio::net::TcpListener;

use crate::send::{Scheme, keyed};

/// Listens on a free port of the loopback, says in `data` where, as a hub does, and serves until it is ended.
///
/// # Errors
/// There is no free port, or `data` cannot be written to.
pub(crate) async fn run(data: &Path, scheme: Scheme, key: Vec<u8>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let running = serde_json::json!({
        "url": format!("http://{}", listener.local_addr()?),
        "pid": std::process::id(),
    });
    let file = data.join("hub.json");
    std::fs::write(&file, running.to_string()).with_context(|| format!("{} cannot be written", file.display()))?;
    serve(listener, scheme, key).await
}

pub(crate) async fn serve(listener: TcpListener, scheme: Scheme, key: Vec<u8>) -> Result<()> {
    let gate = Arc::new(Gate { mac: keyed(&key), scheme, accepted: AtomicU64::new(0) });
    axum::serve(listener, Router::new().route("/webhooks/bench", post(accept)).with_state(gate)).await?;
    Ok(())
}

struct Gate {
    mac: Hmac<Sha256>,
    scheme: Scheme,
    accepted: AtomicU64,
}

async fn accept(State(gate): State<Arc<Gate>>, headers: HeaderMap, body: Bytes) -> Response {
    if gate.verify(&headers, &body).is_none() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let id = gate.accepted.fetch_add(1, Relaxed);
    let answer = format!(r#"{{"id":"evt_{id:013}","duplicate":false}}"#);
    (StatusCode::ACCEPTED, [(CONTENT_TYPE, "application/json")], answer).into_response()
}

impl Gate {
    fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Option<()> {
        let mut mac = self.mac.clone();
        let signature = if self.scheme == Scheme::StandardWebhooks {
            mac.update(headers.get("webhook-id")?.as_bytes());
            mac.update(b".");
            mac.update(headers.get("webhook-timestamp")?.as_bytes());
            mac.update(b".");
            BASE64.decode(headers.get("webhook-signature")?.as_bytes().strip_prefix(b"v1,")?).ok()?
        } else {
            hex::decode(headers.get("x-webhook-signature")?.as_bytes()).ok()?
        };
        mac.update(body);
        mac.verify_slice(&signature).ok()
    }
}
