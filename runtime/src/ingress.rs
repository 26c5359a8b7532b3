//! The door for partners: route, limits, raw body, proof of origin, key, and only after the commit a 202.

pub(crate) mod feedback;
pub(crate) mod key;
pub(crate) mod verify;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;

use crate::catalog::{Catalog, Current, Webhook};
use crate::clock::{Clock, Ids};
use crate::committer::{CommitError, Committer};
use crate::config::BodyKind;
use crate::event::{Event, EventId, NewEvent};
use crate::problem::Problem;
use crate::store::Done;
use key::Key;
use verify::Signed;

/// From the end of the headers to the last byte of the body.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a body that is too large which are read all the same, and thrown away.
const MAX_DISCARD: usize = 16 << 20;

pub(crate) struct Door {
    pub(crate) catalog: Arc<Current>,
    pub(crate) committer: Committer,
    pub(crate) clock: Clock,
    pub(crate) ids: Arc<Ids>,
}

/// `/webhooks/…`: whatever is there, by the catalog's paths.
pub(crate) async fn webhook(State(door): State<Arc<Door>>, request: Request<Body>) -> Response {
    match receive(&door, request).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn receive(door: &Door, request: Request<Body>) -> Result<Response, Problem> {
    let catalog = door.catalog.get();
    let (parts, body) = request.into_parts();
    let (webhook, token) = find(&catalog, parts.uri.path())
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no source is configured at this path"))?;
    match parts.method {
        Method::POST => {}
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
    let body = read(webhook, headers, body).await?;
    let now_ms = door.clock.now_ms();

    let signed = Signed { headers, body: &body, token };
    let verified = verify::verify(&webhook.scheme, &signed, now_ms).map_err(|reason| {
        // The reason is for us: a sender who does not know the secret learns nothing from it.
        tracing::info!(source = &*webhook.source, reason = reason.as_str(), "webhook refused");
        Problem::new(StatusCode::UNAUTHORIZED, "the request is not signed as this source has to sign")
    })?;
    // Which secret it was: one that is never seen any more can be retired.
    tracing::debug!(source = &*webhook.source, secret = verified.secret, "webhook verified");
    if webhook.body == BodyKind::Json && !key::is_json(&body) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the body is not JSON"));
    }
    let event_type = key::event_name(&webhook.event, headers, &body)
        .map_err(|detail| Problem::new(StatusCode::BAD_REQUEST, detail))?;
    let key = Key::of_request(&webhook.source, &webhook.idempotency, verified.id, headers, &body);
    let event = Event {
        id: EventId(door.ids.next(now_ms)),
        source: webhook.source.clone(),
        event_type: (*event_type).into(),
        created_ms: now_ms,
        content_type: text(headers, header::CONTENT_TYPE.as_str()).unwrap_or("application/json").into(),
        headers: kept(webhook, headers),
        payload: body.clone(),
        parent: None,
    };
    let deliveries = catalog.owed(event.id, &event.event_type, &body, webhook.queue, now_ms);
    accept(&door.committer, NewEvent { event: Arc::new(event), key, deliveries }).await
}

/// The 202 that means durable; also for events that come over the API.
pub(crate) async fn accept(committer: &Committer, event: NewEvent) -> Result<Response, Problem> {
    match committer.accept(event).await {
        Ok(Done::Accepted { id, duplicate }) => {
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

async fn read(webhook: &Webhook, headers: &HeaderMap, mut body: Body) -> Result<Bytes, Problem> {
    let announced = text(headers, header::CONTENT_LENGTH.as_str()).and_then(|length| length.parse::<usize>().ok());
    let collect = async {
        let mut parts = BytesMut::with_capacity(announced.unwrap_or(0).min(webhook.max_body));
        let mut too_large = announced.is_some_and(|length| length > webhook.max_body);
        let mut discarded = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            too_large |= parts.len() + data.len() > webhook.max_body;
            if !too_large {
                parts.extend_from_slice(&data);
                continue;
            }
            // A sender that is still writing when the connection closes never sees why.
            discarded += data.len();
            if discarded > MAX_DISCARD {
                break;
            }
        }
        Ok::<_, axum::Error>((!too_large).then(|| parts.freeze()))
    };
    match tokio::time::timeout(BODY_TIMEOUT, collect).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => {
            let detail = format!("the body is larger than the {} bytes that this source may send", webhook.max_body);
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail))
        }
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "the body ended before it was complete")),
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
        }
    }
}

fn kept(webhook: &Webhook, headers: &HeaderMap) -> Vec<(String, String)> {
    let found = webhook.keep_headers.iter().filter_map(|name| Some((name.clone(), text(headers, name)?.to_owned())));
    found.collect()
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
