//! The door for partners: route, limits, raw body, proof of origin, key, and only after the commit a 202.

pub(crate) mod feedback;
pub(crate) mod key;
pub(crate) mod verify;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use crate::catalog::{Catalog, Current, Draft, Webhook};
use crate::clock::{Clock, Ids};
use crate::committer::{CommitError, Committer};
use crate::config::BodyKind;
use crate::event::{EventId, NewEvent};
use crate::keyring::Keyring;
use crate::limits::{self, Caller, Peer, Standing};
use crate::metrics::Metrics;
use crate::problem::{Problem, tell};
use crate::redact::Network;
use crate::signals::limits::SharedLimits;
use crate::store::Done;
use key::Key;
use verify::{Reason, Signed};

/// From the end of the headers to the last byte of the body.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes per second that a body has to bring on average, once it has had [`BODY_GRACE`].
const MIN_BODY_RATE: f64 = 1024.0;
const BODY_GRACE: Duration = Duration::from_secs(3);
/// Bytes of bodies, over all requests, from their arrival to the answer.
const MAX_IN_FLIGHT: usize = 64 << 20;
/// Bytes that are made ready for a body before any of it has come, however much it announces.
const FIRST_BYTES: usize = 16 << 10;
/// Bytes of a body that is too large which are read all the same, and thrown away.
const MAX_DISCARD: usize = 16 << 20;

pub(crate) struct Door {
    pub(crate) catalog: Arc<Current>,
    pub(crate) committer: Committer,
    pub(crate) clock: Clock,
    pub(crate) ids: Arc<Ids>,
    pub(crate) ring: Arc<Keyring>,
    pub(crate) limits: Arc<SharedLimits>,
    pub(crate) bodies: Bodies,
    pub(crate) metrics: Arc<Metrics>,
}

/// Who a request comes from, for the limits by address.
struct Stranger<'d> {
    door: &'d Door,
    catalog: Arc<Catalog>,
    address: IpAddr,
}

impl<'d> Stranger<'d> {
    /// Refused when too many requests from there failed before.
    async fn meet(door: &'d Door, headers: &HeaderMap, extensions: &Extensions) -> Result<Stranger<'d>, Standing> {
        let catalog = door.catalog.get();
        let address = sender(&catalog.limits.proxies, headers, extensions);
        let now_ms = door.clock.now_ms();
        match door.limits.refuses(catalog.limits.address, address, now_ms).await {
            Some(standing) => {
                if door.metrics.limited(standing.name, now_ms) {
                    tracing::info!(limit = standing.name, from = %Network(address), "request refused: too many");
                }
                Err(standing)
            }
            None => Ok(Stranger { door, catalog, address }),
        }
    }

    /// The request ended before it had proven who sent it.
    async fn failed(&self) {
        self.door.limits.failed(self.catalog.limits.address, self.address, self.door.clock.now_ms()).await;
    }
}

/// Who sent a request.
pub(crate) fn sender(proxies: &[ipnet::IpNet], headers: &HeaderMap, extensions: &Extensions) -> IpAddr {
    // The listener notes it with every request.
    let peer = extensions.get::<Peer>().map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |peer| peer.0);
    let forwarded = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    limits::client(proxies, peer, forwarded)
}

/// What all bodies together hold at this moment.
#[derive(Default)]
pub(crate) struct Bodies(AtomicUsize);

/// A body's share, given back when its request has been answered.
struct Share<'b> {
    bodies: &'b Bodies,
    bytes: usize,
}

impl Share<'_> {
    /// False when there is no room for so many bytes more.
    fn grow(&mut self, bytes: usize) -> bool {
        if self.bodies.0.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_IN_FLIGHT {
            self.bodies.0.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }

    fn release(&mut self) {
        self.bodies.0.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

/// `/webhooks/…`: whatever is there, by the catalog's paths.
pub(crate) async fn webhook(State(door): State<Arc<Door>>, request: Request<Body>) -> Response {
    let stranger = match Stranger::meet(&door, request.headers(), request.extensions()).await {
        Ok(stranger) => stranger,
        Err(standing) => return Problem::quota_exceeded(&standing).into_response(),
    };
    let mut who = Who::default();
    match receive(&door, request, &mut who).await {
        Ok(response) => response,
        Err(problem) => {
            // That the hub is busy is not the sender's failure.
            if !who.proven && !problem.is_busy() {
                stranger.failed().await;
            }
            if problem.is_busy() {
                door.metrics.unavailable("webhooks");
            }
            door.metrics.webhook(who.source.as_ref(), refusal(problem.status()));
            problem.into_response()
        }
    }
}

/// What is known of a sender.
#[derive(Default)]
struct Who {
    /// Whose path it came to.
    source: Option<Arc<str>>,
    proven: bool,
}

async fn receive(door: &Door, request: Request<Body>, who: &mut Who) -> Result<Response, Problem> {
    let catalog = door.catalog.get();
    let (parts, body) = request.into_parts();
    let (webhook, token) = find(&catalog, parts.uri.path())
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no source is configured at this path"))?;
    who.source = Some(webhook.source.clone());
    match parts.method {
        Method::POST => {}
        Method::GET if let Some(answer) = webhook.proof.scheme.challenge(parts.uri.query().unwrap_or_default()) => {
            return answer.map(challenge).map_err(|reason| refused(door, &webhook.source, reason));
        }
        Method::GET if webhook.answers_get => return Ok(StatusCode::OK.into_response()),
        _ => {
            let allowed = if webhook.answers_get { "GET, POST" } else { "POST" };
            return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "webhooks are sent with POST")
                .with(header::ALLOW, HeaderValue::from_static(allowed)));
        }
    }
    let headers = &parts.headers;
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "compressed bodies are not accepted: send it without Content-Encoding",
        ));
    }
    let mut share = Share { bodies: &door.bodies, bytes: 0 };
    let body = read(webhook, headers, body, &mut share).await?;
    let now_ms = door.clock.now_ms();

    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let signed = Signed { headers, target, body: &body, token };
    let verified = verify::verify(&webhook.proof.scheme, &signed, now_ms)
        .map_err(|reason| refused(door, &webhook.source, reason))?;
    who.proven = true;
    webhook.proof.matched(verified.secret, now_ms);
    tracing::debug!(source = &*webhook.source, secret = verified.secret, "webhook verified");
    let standing = spend(door, webhook, now_ms).await.map_err(|standing| Problem::quota_exceeded(&standing))?;
    if let Some(text) = webhook.proof.scheme.asks(&body) {
        return Ok(challenge(text));
    }
    if webhook.body == BodyKind::Json && !key::is_json(&body) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the body is not JSON"));
    }
    let event_type = key::event_name(&webhook.event, headers, &body)
        .map_err(|detail| Problem::new(StatusCode::BAD_REQUEST, detail))?;
    let key = Key::of_request(&webhook.source, &webhook.idempotency, verified.id.as_deref(), headers, &body);
    let draft = Draft {
        id: EventId(door.ids.next(now_ms)),
        source: webhook.source.clone(),
        event_type: &event_type,
        now_ms,
        content_type: text(headers, header::CONTENT_TYPE.as_str()).unwrap_or("application/json"),
        headers: kept(webhook, headers),
        payload: body.clone(),
        parent: None,
        key,
        queue: webhook.queue,
        care: webhook.care.clone(),
    };
    let event = catalog.event(&door.ring, draft);
    let count = |result| door.metrics.webhook(Some(&webhook.source), result);
    let mut response = accept(&door.committer, event, count).await?;
    if let Some(standing) = &standing {
        tell(response.headers_mut(), standing);
    }
    Ok(response)
}

/// Counts a request that is its source's against the source's rate, if it has one. The error is that it is used up.
async fn spend(door: &Door, webhook: &Webhook, now_ms: u64) -> Result<Option<Standing>, Standing> {
    let Some(quota) = webhook.quota else { return Ok(None) };
    let standing = door.limits.take(Caller::Source(webhook.source.clone()), quota, now_ms).await;
    if !standing.is_refused() {
        return Ok(Some(standing));
    }
    if door.metrics.limited(standing.name, now_ms) {
        tracing::info!(limit = standing.name, source = &*webhook.source, "webhook refused: too many");
    }
    Err(standing)
}

/// The reason is for us: a sender who does not know the secret learns nothing from it.
fn refused(door: &Door, source: &Arc<str>, reason: Reason) -> Problem {
    door.metrics.unverified(source, reason.as_str());
    tracing::info!(source = &**source, reason = reason.as_str(), "webhook refused");
    Problem::new(StatusCode::UNAUTHORIZED, "the request is not signed as this source has to sign")
}

/// Text that came from outside and goes back as nothing but text.
fn challenge(text: String) -> Response {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    let as_said = HeaderValue::from_static("nosniff");
    ([(header::CONTENT_TYPE, plain), (header::X_CONTENT_TYPE_OPTIONS, as_said)], text).into_response()
}

const ACCEPTED: &str = "accepted";
const DUPLICATE: &str = "duplicate";

/// Why a webhook was refused, as metrics have it.
fn refusal(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "not-understood",
        StatusCode::UNAUTHORIZED => "unverified",
        StatusCode::NOT_FOUND => "no-source",
        StatusCode::METHOD_NOT_ALLOWED => "wrong-method",
        StatusCode::REQUEST_TIMEOUT => "too-slow",
        StatusCode::PAYLOAD_TOO_LARGE => "too-large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "compressed",
        StatusCode::TOO_MANY_REQUESTS => "rate-limited",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        _ => "refused",
    }
}

/// The 202 that means durable; also for events that come over the API.
pub(crate) async fn accept(
    committer: &Committer,
    event: NewEvent,
    count: impl FnOnce(&'static str),
) -> Result<Response, Problem> {
    match committer.accept(event).await {
        Ok(Done::Accepted { id, duplicate }) => {
            count(if duplicate { DUPLICATE } else { ACCEPTED });
            let body = format!(r#"{{"id":"{id}","duplicate":{duplicate}}}"#);
            let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
            Ok((StatusCode::ACCEPTED, kind, body).into_response())
        }
        Ok(_) | Err(CommitError::Failed) => Err(Problem::busy("the event could not be stored: send it again")),
        Err(CommitError::Full) => Err(Problem::busy("more events are waiting than can be stored: send it again")),
    }
}

/// The webhook at a path, and the token at its end. Where the token is left out there is a webhook too, which refuses
/// whatever is posted and may answer a panel that checks the URL.
fn find<'a, 'p>(catalog: &'a Catalog, path: &'p str) -> Option<(&'a Webhook, Option<&'p str>)> {
    if let Some(webhook) = catalog.webhooks.get(path).or_else(|| catalog.webhooks.get(&format!("{path}/{{token}}"))) {
        return Some((webhook, None));
    }
    let (before, token) = path.rsplit_once('/')?;
    let webhook = catalog.webhooks.get(&format!("{before}/{{token}}"))?;
    Some((webhook, Some(token)))
}

/// Why a body is not taken.
enum Unread {
    TooLarge,
    NoRoom,
    Broken,
    /// Not all of it came in time, or too little at a time.
    Slow,
}

async fn read(webhook: &Webhook, headers: &HeaderMap, body: Body, share: &mut Share<'_>) -> Result<Bytes, Problem> {
    collect(webhook.max_body, headers, body, share).await.map_err(|why| match why {
        Unread::TooLarge => {
            let detail = format!("the body is larger than the {} bytes that this source may send", webhook.max_body);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        Unread::NoRoom => Problem::busy("more bodies are arriving than there is room for: send it again"),
        Unread::Broken => Problem::new(StatusCode::BAD_REQUEST, "the body ended before it was complete"),
        Unread::Slow => {
            let detail = format!(
                "the body did not arrive within {} s, at {MIN_BODY_RATE} bytes a second or more",
                BODY_TIMEOUT.as_secs()
            );
            Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        }
    })
}

async fn collect(max: usize, headers: &HeaderMap, mut body: Body, share: &mut Share<'_>) -> Result<Bytes, Unread> {
    let announced = text(headers, header::CONTENT_LENGTH.as_str()).and_then(|length| length.parse::<usize>().ok());
    let begun = Instant::now();
    let mut parts = BytesMut::with_capacity(announced.unwrap_or(0).min(max).min(FIRST_BYTES));
    let mut refused = announced.filter(|length| *length > max).map(|_| Unread::TooLarge);
    let (mut arrived, mut discarded) = (0, 0);
    loop {
        let deadline = begun + patience(arrived);
        let Some(frame) = timeout_at(deadline, body.frame()).await.map_err(|_| Unread::Slow)? else { break };
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        arrived += data.len();
        if refused.is_none() && parts.len() + data.len() > max {
            refused = Some(Unread::TooLarge);
        } else if refused.is_none() && !share.grow(data.len()) {
            refused = Some(Unread::NoRoom);
            parts = BytesMut::new();
            share.release();
        }
        if refused.is_none() {
            parts.extend_from_slice(&data);
            continue;
        }
        // A sender that is still writing when the connection closes never sees why.
        discarded += data.len();
        if discarded > MAX_DISCARD {
            break;
        }
    }
    refused.map_or_else(|| Ok(parts.freeze()), Err)
}

/// How long after the headers the next byte may come, when so many have arrived: after that they are too few for the
/// time.
fn patience(arrived: usize) -> Duration {
    BODY_TIMEOUT.min(BODY_GRACE + Duration::from_secs_f64(arrived as f64 / MIN_BODY_RATE))
}

fn kept(webhook: &Webhook, headers: &HeaderMap) -> Vec<(String, String)> {
    let found = webhook.keep_headers.iter().filter_map(|name| Some((name.clone(), text(headers, name)?.to_owned())));
    found.collect()
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_earns_its_time_and_never_more_than_there_is() {
        for (arrived, seconds) in [(0, 3.0), (512, 3.5), (1024, 4.0), (12 << 10, 15.0), (16 << 20, 15.0)] {
            assert_eq!(patience(arrived), Duration::from_secs_f64(seconds), "{arrived}");
        }
    }

    #[test]
    fn bodies_share_the_room_and_give_it_back() {
        let bodies = Bodies::default();
        let mut one = Share { bodies: &bodies, bytes: 0 };
        assert!(one.grow(MAX_IN_FLIGHT - 10));
        let mut other = Share { bodies: &bodies, bytes: 0 };
        assert!(!other.grow(11));
        assert!(other.grow(10));
        assert!(!one.grow(1));
        drop(one);
        assert!(other.grow(MAX_IN_FLIGHT - 10));
        other.release();
        drop(other);
        assert_eq!(bodies.0.load(Ordering::Relaxed), 0);
    }
}
