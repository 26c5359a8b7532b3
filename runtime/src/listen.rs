//! The socket: connections that may neither be slow nor too many, and whose headers are bounded.
//!
//! HTTP/1.1 only. Partners reach a hub through a proxy that speaks TLS, and proxies speak HTTP/1.1 to what is behind
//! them; what HTTP/2 adds here are attacks of its own (streams reset at once, endless CONTINUATION frames).

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::catalog::Current;
use crate::limits::{Peer, Prefix, is_in, is_local};
use crate::metrics::Metrics;

/// From the first byte of a request to the end of its headers.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// From the beginning of a connection, or the end of an answer, to the first byte of the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a peer may take nothing of an answer that waits for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Headers of a request; more are answered with 431.
pub(crate) const MAX_HEADERS: usize = 64;
/// Bytes of a request's first line and headers; more are answered with 431. It is looked at between two reads, each of
/// which brings as many at most.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// When a hub drains, how long those who had knocked already are let in while nobody else is.
const KNOCKED: Duration = Duration::from_millis(50);
/// For requests that are under way when the hub stops.
const DRAIN: Duration = Duration::from_secs(10);
/// After an accept that failed, which is for want of file descriptors: connections have to end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection that is refused is kept for its peer to read why, and how many at the same time.
const REFUSAL: Duration = Duration::from_secs(1);
const REFUSALS: usize = 64;

/// Connections at the same time; those beyond are told so and closed.
const MAX_CONNECTIONS: usize = 10_000;
/// Of one address prefix, unless it is local or a proxy's.
const MAX_OF_ADDRESS: usize = 500;

/// What a connection may cost.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    connections: usize,
    of_address: usize,
    header: Duration,
    idle: Duration,
    write: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            connections: MAX_CONNECTIONS,
            of_address: MAX_OF_ADDRESS,
            header: HEADER_TIMEOUT,
            idle: IDLE_TIMEOUT,
            write: WRITE_TIMEOUT,
        }
    }
}

/// When a door closes.
#[derive(Clone)]
pub(crate) struct Closing {
    /// Nobody new is let in, and whoever sends hears with the next answer that it is the last one here: no request is lost
    /// by it.
    pub(crate) drain: CancellationToken,
    /// Connections end as soon as nothing is under way on them, those that rest at once.
    pub(crate) stop: CancellationToken,
}

pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    catalog: Arc<Current>,
    metrics: Arc<Metrics>,
    closing: Closing,
) {
    let counted = move |address| !is_local(address) && !is_in(&catalog.get().limits.proxies, address);
    serve_with(listener, router, Bounds::default(), counted, &metrics, closing).await;
}

/// `counted` says which addresses have a cap of their own.
async fn serve_with(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    counted: impl Fn(IpAddr) -> bool,
    metrics: &Arc<Metrics>,
    Closing { drain, stop }: Closing,
) {
    let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
    server
        .http1()
        .timer(TokioTimer::new())
        // It runs while nothing comes, too; for headers that come slowly see `Timed`.
        .header_read_timeout(bounds.idle)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES);
    let places = Arc::new(Places {
        free: Arc::new(Semaphore::new(bounds.connections)),
        of_address: Mutex::default(),
        most_of_address: bounds.of_address,
    });
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let connections = GracefulShutdown::new();
    {
        let mut closed = std::pin::pin!(closed(&listener, &drain, &stop));
        loop {
            let (stream, address) = tokio::select! {
                () = &mut closed => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => (stream, peer.ip()),
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let place = match places.take(address, counted(address)) {
                Ok(place) => place,
                Err(why) => {
                    metrics.connection_refused(match why {
                        Full::All => "all",
                        Full::Address => "address",
                    });
                    // When even that is too much, it is closed without a word.
                    if let Ok(turn) = refusals.clone().try_acquire_owned() {
                        tokio::spawn(refuse(stream, why, turn));
                    }
                    continue;
                }
            };
            let counted = metrics.connection();
            // Answers are small and should leave at once.
            let _ = stream.set_nodelay(true);
            let phase = Arc::new(Phase::default());
            let service = {
                let (router, phase, drain) = (router.clone(), phase.clone(), drain.clone());
                tower::service_fn(move |mut request: Request<_>| {
                    phase.set(Phase::ANSWERING);
                    request.extensions_mut().insert(Peer(address));
                    let (answer, phase, drain) = (router.clone().call(request), phase.clone(), drain.clone());
                    async move {
                        let mut answer = answer.await;
                        phase.set(Phase::IDLE);
                        if let (Ok(answer), true) = (&mut answer, drain.is_cancelled()) {
                            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                        }
                        answer
                    }
                })
            };
            let stream = TokioIo::new(Timed { stream, phase, bounds, header: None, write: None });
            let connection = server.serve_connection(stream, TowerToHyperService::new(service)).into_owned();
            let watched = connections.watch(connection);
            tokio::spawn(async move {
                // An error here is the peer's: a broken request, a reset, a header that did not come in time.
                let _ = watched.await;
                drop((place, counted));
            });
        }
    }
    drop(listener);
    let all = u32::try_from(bounds.connections).unwrap_or(u32::MAX);
    tokio::select! {
        () = stop.cancelled() => {}
        _ = places.free.acquire_many(all) => {}
    }
    if tokio::time::timeout(DRAIN, connections.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
}

/// Returns when the hub stops, or drains and has let in those who had knocked already.
async fn closed(listener: &TcpListener, drain: &CancellationToken, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => return,
        () = drain.cancelled() => {}
    }
    if let Err(error) = turn_away(listener) {
        tracing::warn!(%error, "connections that are being made now may be reset");
    }
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(KNOCKED) => {}
    }
}

/// Lets the kernel drop the first packet of connections to come: who sends it tries again, and by then nobody listens here,
/// which is an answer. Without it the kernel would complete connections until the socket is closed, and reset those that
/// had not been accepted: what their peers have sent by then would be lost.
#[cfg(target_os = "linux")]
fn turn_away(listener: &TcpListener) -> std::io::Result<()> {
    use socket2::SockFilter;
    // linux/filter.h: load a byte of the packet, mask it, compare, return how much of the packet is kept. A socket's filter
    // sees TCP segments from their header on (RFC 9293, 3.1: the flags are its byte 13).
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    socket2::SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

#[cfg(not(target_os = "linux"))]
fn turn_away(_: &TcpListener) -> std::io::Result<()> {
    Ok(())
}

/// The room for connections.
struct Places {
    free: Arc<Semaphore>,
    /// Connections of each address that has a cap of its own and any connection: never more entries than connections.
    of_address: Mutex<HashMap<Prefix, usize>>,
    most_of_address: usize,
}

/// Taken by one connection, given back when it is dropped.
struct Place {
    places: Arc<Places>,
    prefix: Option<Prefix>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    All,
    Address,
}

impl Places {
    fn take(self: &Arc<Places>, address: IpAddr, counted: bool) -> Result<Place, Full> {
        let permit = self.free.clone().try_acquire_owned().map_err(|_| Full::All)?;
        let prefix = counted.then(|| Prefix::of(address));
        if let Some(prefix) = prefix {
            let mut of_address = self.of_address.lock().unwrap_or_else(PoisonError::into_inner);
            let count = of_address.entry(prefix).or_default();
            if *count >= self.most_of_address {
                return Err(Full::Address);
            }
            *count += 1;
        }
        Ok(Place { places: self.clone(), prefix, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(prefix) = self.prefix else { return };
        let mut of_address = self.places.of_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = of_address.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                of_address.remove(&prefix);
            }
        }
    }
}

/// Says why, before a request has been read.
async fn refuse(mut stream: TcpStream, why: Full, _turn: OwnedSemaphorePermit) {
    let (status, title, detail) = match why {
        Full::All => (503, "Service Unavailable", "the hub has as many connections as it takes: try again"),
        Full::Address => (429, "Too Many Requests", "this address has as many connections as it may: use those it has"),
    };
    let body = serde_json::json!({ "type": "about:blank", "title": title, "status": status, "detail": detail });
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\nretry-after: 2\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let say = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // Closed with something unread the connection would be reset, and the answer lost on its way.
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = tokio::time::timeout(REFUSAL, say).await;
}

/// What a connection is at, as its service and its stream have to know of each other.
#[derive(Debug, Default)]
struct Phase(AtomicU8);

impl Phase {
    /// Nothing of the next request has come.
    const IDLE: u8 = 0;
    /// Something of its headers has.
    const HEADER: u8 = 1;
    /// The request is with the service.
    const ANSWERING: u8 = 2;

    fn set(&self, phase: u8) {
        self.0.store(phase, Ordering::Relaxed);
    }

    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }
}

/// A stream that ends when headers have begun and do not end in time, or when the peer takes nothing of its answer.
/// hyper's own timer does not tell headers that come slowly from a connection that rests, and for the other there is
/// none.
struct Timed {
    stream: TcpStream,
    phase: Arc<Phase>,
    bounds: Bounds,
    /// Runs while headers are coming.
    header: Option<Pin<Box<Sleep>>>,
    /// Runs while a write waits for the peer.
    write: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    fn written<T>(&mut self, written: Poll<std::io::Result<T>>, cx: &mut Context<'_>) -> Poll<std::io::Result<T>> {
        if written.is_ready() {
            self.write = None;
            return written;
        }
        let most = self.bounds.write;
        let write = self.write.get_or_insert_with(|| Box::pin(tokio::time::sleep(most)));
        write.as_mut().poll(cx).map(|()| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Timed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.phase.is(Phase::IDLE) && buf.filled().len() > before {
            self.phase.set(Phase::HEADER);
            let end = Instant::now() + self.bounds.header;
            match &mut self.header {
                Some(header) => header.as_mut().reset(end),
                None => self.header = Some(Box::pin(tokio::time::sleep_until(end))),
            }
        }
        if read.is_pending()
            && self.phase.is(Phase::HEADER)
            && let Some(header) = &mut self.header
        {
            return header.as_mut().poll(cx).map(|()| Err(std::io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Timed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.written(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers `size` bytes, and where it listens.
    async fn server(bounds: Bounds, size: usize) -> std::net::SocketAddr {
        let closing = Closing { drain: CancellationToken::new(), stop: CancellationToken::new() };
        server_until(bounds, size, closing).await
    }

    async fn server_until(bounds: Bounds, size: usize, closing: Closing) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(async move || "x".repeat(size));
        // Loopback is counted here as a stranger's address is.
        tokio::spawn(async move {
            let metrics = Arc::default();
            serve_with(listener, router, bounds, |_| true, &metrics, closing).await;
        });
        address
    }

    async fn send(address: std::net::SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// All that comes until the server closes, which the test waits for.
    async fn rest(mut stream: TcpStream) -> String {
        let mut text = Vec::new();
        // A reset is an end as well.
        let _ = stream.read_to_end(&mut text).await;
        String::from_utf8(text).unwrap()
    }

    /// The head of the next answer.
    async fn answer(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            text.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    const REQUEST: &str = "GET / HTTP/1.1\r\nhost: hub\r\n\r\n";

    #[tokio::test]
    async fn headers_that_do_not_end_end_the_connection_and_a_connection_that_rests_stays() {
        let bounds = Bounds { header: Duration::from_millis(50), ..Bounds::default() };
        let address = server(bounds, 0).await;
        let mut resting = send(address, "").await;
        let mut used = send(address, REQUEST).await;
        assert!(answer(&mut used).await.starts_with("HTTP/1.1 200"));
        for begun in ["G", "GET / HTTP/1.1\r\nhost: hub\r\nx-slow: 1"] {
            assert_eq!(rest(send(address, begun).await).await, "", "{begun:?}");
        }
        for stream in [&mut resting, &mut used] {
            stream.write_all(REQUEST.as_bytes()).await.unwrap();
            assert!(answer(stream).await.starts_with("HTTP/1.1 200"));
        }
        // Also when a request has been answered before.
        used.write_all(b"GET / HT").await.unwrap();
        assert_eq!(rest(used).await, "");
    }

    #[tokio::test]
    async fn a_connection_that_rests_too_long_is_closed_be_it_new_or_used() {
        let bounds = Bounds { idle: Duration::from_millis(50), ..Bounds::default() };
        let address = server(bounds, 0).await;
        assert_eq!(rest(send(address, "").await).await, "");
        let mut used = send(address, REQUEST).await;
        assert!(answer(&mut used).await.starts_with("HTTP/1.1 200"));
        assert_eq!(rest(used).await, "");
    }

    #[tokio::test]
    async fn who_does_not_read_the_answer_is_not_waited_for() {
        let bounds = Bounds { write: Duration::from_millis(50), connections: 1, ..Bounds::default() };
        let address = server(bounds, 64 << 20).await;
        let _held = send(address, REQUEST).await;
        // Its place is free again only when the connection has been given up.
        loop {
            let mut next = send(address, REQUEST).await;
            if answer(&mut next).await.starts_with("HTTP/1.1 200") {
                break;
            }
        }
    }

    #[tokio::test]
    async fn connections_beyond_the_cap_are_told_so_and_let_in_when_there_is_room() {
        for (bounds, status) in [
            (Bounds { connections: 2, ..Bounds::default() }, "503 Service Unavailable"),
            (Bounds { of_address: 2, ..Bounds::default() }, "429 Too Many Requests"),
        ] {
            let address = server(bounds, 0).await;
            let mut held = Vec::new();
            for _ in 0..2 {
                let mut stream = send(address, REQUEST).await;
                assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
                held.push(stream);
            }
            let refused = rest(send(address, REQUEST).await).await;
            assert!(refused.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{refused}");
            assert!(refused.contains("\r\nretry-after: 2\r\n") && refused.contains("problem+json"), "{refused}");
            drop(held.pop());
            loop {
                let mut stream = send(address, REQUEST).await;
                if answer(&mut stream).await.starts_with("HTTP/1.1 200") {
                    break;
                }
            }
        }
    }

    #[tokio::test]
    async fn who_sends_while_it_drains_is_answered_and_told_to_go_elsewhere() {
        let closing = Closing { drain: CancellationToken::new(), stop: CancellationToken::new() };
        let address = server_until(Bounds::default(), 0, closing.clone()).await;
        let mut used = send(address, REQUEST).await;
        assert!(!answer(&mut used).await.contains("connection: close"));
        let resting = send(address, "").await;
        closing.drain.cancel();
        // Nobody listens any more, soon; until then a connection may wait, but none is reset.
        let began = Instant::now();
        while TcpStream::connect(address).await.is_ok() {
            assert!(began.elapsed() < Duration::from_secs(5), "it still listens");
        }
        used.write_all(REQUEST.as_bytes()).await.unwrap();
        let last = rest(used).await;
        assert!(last.starts_with("HTTP/1.1 200") && last.contains("connection: close"), "{last}");
        closing.stop.cancel();
        assert_eq!(rest(resting).await, "");
    }
}
