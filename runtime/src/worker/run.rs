//! One try of one delivery: mapping, then connector, and what came of it. The one place where plugins and deliveries
//! meet.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Shop;
use crate::catalog::{Catalog, Draft, Endpoint, Mapping};
use crate::config::is_event_type;
use crate::delivery::{Attempt, Delivery, Outcome};
use crate::event::{Content, EventId, NewEvent};
use crate::ingress::key::Key;
use crate::plugin::{self, Detail, Emitted, Failure, Fault, MAX_PAYLOAD, Mapped, Plugins, Receipt, Version};
use crate::sync::{MAX_CURSOR, Page};

/// Events of one receipt, bytes of one payload, and of all of them.
const MAX_EMITTED: usize = 256;
const MAX_EMITTED_BYTES: usize = 1 << 20;
const MAX_EMITTED_TOTAL: usize = 4 << 20;
/// Bytes of a message that is kept.
const MAX_MESSAGE: usize = 1024;

pub(crate) struct Tried {
    pub(crate) attempt: Attempt,
    pub(crate) emitted: Vec<NewEvent>,
    /// Of a sync job's page: where it goes on. The last of the emitted events asks for that.
    pub(crate) cursor: Option<String>,
    /// Whether the target may have done what it was asked for, however the try ended.
    pub(crate) taken: bool,
}

/// How it ended, before it is dressed as an attempt.
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    http_status: Option<u16>,
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
    retry_after_ms: Option<u64>,
    emitted: Vec<NewEvent>,
    cursor: Option<Box<str>>,
}

/// What ran, for the record.
#[derive(Default)]
pub(crate) struct Ran {
    connector: Option<Arc<Version>>,
    pub(crate) mapping: Option<Arc<Version>>,
    mapping_id: Option<i64>,
    pub(crate) log: Option<String>,
    taken: bool,
}

#[allow(clippy::disallowed_methods, reason = "a duration for the record, not a time that anything depends on")]
pub(crate) async fn run(shop: &Shop, delivery: &Delivery) -> Tried {
    let (started, started_ms) = (Instant::now(), shop.clock.now_ms());
    let catalog = shop.catalog.get();
    let mut ran = Ran::default();
    let end = attempt(shop, &catalog, delivery, &mut ran).await;
    let failed = !matches!(end.outcome, Outcome::Delivered | Outcome::Skipped);
    let attempt = Attempt {
        started_ms,
        duration_us: started.elapsed().as_micros() as u64,
        outcome: end.outcome,
        http_status: end.http_status,
        code: end.code,
        message: end.message,
        retry_after_ms: end.retry_after_ms,
        connector_version: ran.connector.map(|version| version.id),
        mapping_version: ran.mapping.map(|version| version.id),
        mapping_id: ran.mapping_id,
        log: ran.log.filter(|_| failed),
        sealed: None,
    };
    Tried { attempt, emitted: end.emitted, cursor: end.cursor.map(String::from), taken: ran.taken }
}

async fn attempt(shop: &Shop, catalog: &Catalog, delivery: &Delivery, ran: &mut Ran) -> End {
    let Some(endpoint) = catalog.endpoints.get(&delivery.endpoint).filter(|endpoint| !endpoint.removed) else {
        return End::refused("the endpoint is no longer configured: configure it again, then replay");
    };
    if matches!(delivery.event.content, Content::Gone) {
        return End::of(
            Outcome::Rejected,
            "content-gone",
            "the event's content is kept no longer, or cannot be opened",
        );
    }
    let event = plugin::event(delivery);
    let mapping = catalog.route(delivery.route).and_then(|route| route.mapping.as_ref());
    let payload = match mapping {
        None => delivery.event.payload.clone(),
        Some(mapping) => match map(&shop.plugins, mapping, &event, &delivery.event.payload, ran).await {
            Ok(payload) => payload,
            Err(end) => return end,
        },
    };
    let Some(version) = shop.plugins.active(&endpoint.connector) else {
        return End::refused(&format!("there is no connector {}: push it", endpoint.connector));
    };
    ran.connector = Some(version.clone());
    let called = shop.plugins.handle(&version, endpoint, &event, &payload).await;
    ran.taken = called.taken;
    if called.log.is_some() {
        ran.log = called.log;
    }
    match called.result {
        Ok(Ok(receipt)) => {
            let page = Page::of(&delivery.event);
            let checked =
                check_emitted(&receipt.emitted, &version).and_then(|()| check_cursor(&receipt, page.as_ref()));
            match checked {
                Ok(()) => received(shop, catalog, endpoint, delivery, receipt, page),
                Err(end) => end,
            }
        }
        Ok(Err(failure)) => failed(failure),
        Err(fault) => End::fault(&fault),
    }
}

/// The payload that a mapping makes of another, or how the try ends without one. A trial over the API takes this same
/// way, so that it tells what a delivery would meet.
pub(crate) async fn map(
    plugins: &Arc<Plugins>,
    mapping: &Arc<Mapping>,
    event: &plugin::Event,
    payload: &Bytes,
    ran: &mut Ran,
) -> Result<Bytes, End> {
    let Some(version) = plugins.active(&mapping.component) else {
        let component = &mapping.component;
        return Err(End::refused(&format!("mapping {}: there is no component {component}: push it", mapping.name)));
    };
    ran.mapping = Some(version.clone());
    ran.mapping_id = Some(mapping.id);
    let called = plugins.map(&version, mapping, event, payload).await;
    ran.log = called.log;
    match called.result {
        Ok(Ok(Mapped::Payload(payload))) if payload.len() <= MAX_PAYLOAD => Ok(Bytes::from(payload)),
        Ok(Ok(Mapped::Payload(payload))) => {
            let size = payload.len();
            Err(End::of(
                Outcome::TooLarge,
                "mapped-too-large",
                &format!("the mapping made {size} bytes, at most {MAX_PAYLOAD} are delivered"),
            ))
        }
        Ok(Ok(Mapped::Skip(reason))) => Err(End::of(Outcome::Skipped, "skipped", &reason)),
        Ok(Err(detail)) => Err(End::detailed(Outcome::MappingFailed, detail)),
        Err(fault) => Err(End::fault(&fault)),
    }
}

/// A receipt, with the events that it gives rise to.
fn received(
    shop: &Shop,
    catalog: &Catalog,
    endpoint: &Endpoint,
    delivery: &Delivery,
    receipt: Receipt,
    page: Option<Page>,
) -> End {
    let emit = |(at, emitted): (usize, Emitted)| {
        let now_ms = shop.clock.now_ms();
        let key = match emitted.idempotency_key {
            // A key of its own for each type: what is said of one thing in two events is two events.
            Some(key) => format!("{}/{key}", emitted.event_type),
            None => format!("{}/{at}", delivery.id),
        };
        let id = EventId(shop.ids.next(now_ms));
        // No source can be named so: what a connector emits never passes for a webhook's duplicate.
        let key = Key::given(&format!("endpoint:{}", endpoint.name), &key);
        let draft = Draft::json(
            id,
            endpoint.name.clone(),
            &emitted.event_type,
            Bytes::from(emitted.payload),
            key,
            delivery.queue,
            now_ms,
        );
        let care = endpoint.care.or_sensitive(delivery.event.content.key().is_some());
        catalog.event(&shop.ring, Draft { parent: Some(delivery.id), care, ..draft })
    };
    let mut emitted: Vec<NewEvent> = receipt.emitted.into_iter().enumerate().map(emit).collect();
    // A cursor without a run leads nowhere.
    let cursor = receipt.cursor.filter(|_| page.is_some()).map(String::into_boxed_str);
    if let (Some(page), Some(cursor)) = (page, &cursor) {
        let now_ms = shop.clock.now_ms();
        emitted.push(page.next(cursor.to_string()).ask(catalog, &shop.ring, EventId(shop.ids.next(now_ms)), now_ms));
    }
    End {
        outcome: Outcome::Delivered,
        http_status: receipt.http_status,
        code: None,
        message: receipt.note.map(|note| bounded(&note)),
        retry_after_ms: None,
        emitted,
        cursor,
    }
}

/// A run has to come to its end: a cursor that stands still would ask for the same page for ever.
fn check_cursor(receipt: &Receipt, page: Option<&Page>) -> Result<(), End> {
    let (Some(page), Some(cursor)) = (page, &receipt.cursor) else { return Ok(()) };
    let message = if page.cursor.as_ref() == Some(cursor) {
        "the receipt's cursor is the one that the page was asked for with: the run would never end".to_owned()
    } else if cursor.len() > MAX_CURSOR {
        format!("the receipt's cursor has {} bytes, at most {MAX_CURSOR} are kept", cursor.len())
    } else if cursor.contains('\0') {
        // PostgreSQL has no such text.
        "the receipt's cursor holds a zero byte, which not every database can keep".to_owned()
    } else {
        return Ok(());
    };
    Err(End::of(Outcome::Rejected, "cursor-invalid", &message))
}

fn check_emitted(emitted: &[Emitted], version: &Version) -> Result<(), End> {
    let total: usize = emitted.iter().map(|emitted| emitted.payload.len()).sum();
    let largest = emitted.iter().map(|emitted| emitted.payload.len()).max().unwrap_or(0);
    if emitted.len() > MAX_EMITTED || largest > MAX_EMITTED_BYTES || total > MAX_EMITTED_TOTAL {
        let count = emitted.len();
        let message = format!(
            "the receipt emits {count} events with {total} bytes, at most {MAX_EMITTED} with {MAX_EMITTED_TOTAL} bytes \
             ({MAX_EMITTED_BYTES} each) are accepted"
        );
        return Err(End::of(Outcome::TooLarge, "emitted-too-large", &message));
    }
    let declared = |event_type: &str| version.manifest.emits.iter().any(|declared| declared == event_type);
    match emitted.iter().find(|emitted| !is_event_type(&emitted.event_type) || !declared(&emitted.event_type)) {
        Some(wrong) => {
            let message = format!(
                "the receipt emits {:?}, which the manifest does not declare: add it to `emits`",
                wrong.event_type
            );
            Err(End::of(Outcome::Rejected, "emitted-invalid", &message))
        }
        None => Ok(()),
    }
}

fn failed(failure: Failure) -> End {
    match failure {
        Failure::Transient(detail) => End::detailed(Outcome::Transient, detail),
        Failure::Unauthorized(detail) => End::detailed(Outcome::Unauthorized, detail),
        Failure::Rejected(detail) => End::detailed(Outcome::Rejected, detail),
        Failure::Misconfigured(detail) => End::detailed(Outcome::Misconfigured, detail),
        Failure::RateLimited(limit) => {
            End { retry_after_ms: limit.retry_after_ms, ..End::detailed(Outcome::RateLimited, limit.detail) }
        }
    }
}

impl End {
    fn of(outcome: Outcome, code: &str, message: &str) -> End {
        End {
            outcome,
            http_status: None,
            code: Some(bounded(code)),
            message: Some(bounded(message)),
            retry_after_ms: None,
            emitted: Vec::new(),
            cursor: None,
        }
    }

    fn detailed(outcome: Outcome, detail: Detail) -> End {
        End { http_status: detail.http_status, ..End::of(outcome, &detail.code, &detail.message) }
    }

    fn refused(why: &str) -> End {
        End::of(Outcome::Refused, "refused", why)
    }

    fn fault(fault: &Fault) -> End {
        let (outcome, code) = match fault {
            Fault::Trapped(_) => (Outcome::Trapped, "trapped"),
            Fault::TimedOut(_) => (Outcome::TimedOut, "timed-out"),
            Fault::OutOfMemory(_) => (Outcome::OutOfMemory, "out-of-memory"),
            Fault::TooLarge(_) => (Outcome::TooLarge, "too-large"),
            Fault::Refused(_) => (Outcome::Refused, "refused"),
        };
        End::of(outcome, code, &fault.to_string())
    }
}

/// What a guest says is bounded and cannot move an operator's cursor.
fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_MESSAGE)].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
