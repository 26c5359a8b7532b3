//! The socket: connections with a timer on them, bounded in number and in what their headers may hold.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// From the first byte of a connection, or of its next request, to the end of the headers.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers of a request; more are answered with 431.
pub(crate) const MAX_HEADERS: usize = 64;
/// Bytes of a request's headers.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// Connections at the same time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 10_000;
/// For requests that are under way when the hub stops.
const DRAIN: Duration = Duration::from_secs(10);
/// After an accept that failed, which is for want of file descriptors: connections have to end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .max_concurrent_streams(64)
        .keep_alive_interval(Some(HEADER_TIMEOUT));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = GracefulShutdown::new();
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = places.clone().acquire_owned() => place,
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        // Answers are small and should leave at once.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
        let watched = connections.watch(connection);
        tokio::spawn(async move {
            // An error here is the peer's: a broken request, a reset, a header that did not come in time.
            let _ = watched.await;
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, connections.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
}
