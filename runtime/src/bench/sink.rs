//! The target system of a bench: answers 200 and writes down what came.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::ledger::Ledger;

/// Listens on `listen` and serves on `runtime` for as long as that runs; each answer waits `delay` first.
///
/// # Errors
/// The address is taken.
pub(crate) async fn start(
    runtime: &Handle,
    listen: SocketAddr,
    delay: Duration,
    ledger: Arc<Ledger>,
) -> Result<SocketAddr> {
    let listener =
        std::net::TcpListener::bind(listen).with_context(|| format!("the sink cannot listen on {listen}"))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let connections = runtime.clone();
    runtime.spawn(async move {
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        loop {
            // An accept fails for want of descriptors: the next one may succeed.
            let Ok((stream, _)) = listener.accept().await else { continue };
            stream.set_nodelay(true).ok();
            let ledger = ledger.clone();
            let service = service_fn(move |request| answer(request, delay, ledger.clone()));
            connections.spawn(async move {
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
            });
        }
    });
    Ok(address)
}

async fn answer(
    request: Request<Incoming>,
    delay: Duration,
    ledger: Arc<Ledger>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Empty::new());
    match body.collect().await {
        Ok(body) => {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let header = |name: &str| head.headers.get(name).map(hyper::header::HeaderValue::as_bytes);
            ledger.arrival(&body.to_bytes(), header("x-event-id"), header("webhook-id"));
        }
        // The body broke off: nothing has arrived.
        Err(_) => *response.status_mut() = hyper::StatusCode::BAD_REQUEST,
    }
    Ok(response)
}
