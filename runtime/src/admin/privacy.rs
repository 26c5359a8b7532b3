//! People: find what is about them, hand it over, erase it. Identifiers come in bodies only, so that they stand in no URL
//! and no log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::audit::Note;
use super::{Answer, Office, parse, store_problem, time};
use crate::config::PersonalKind;
use crate::delivery::Status;
use crate::event::{ERASURE, EventId};
use crate::keys::Caller;
use crate::personal::{Subject, mentions};
use crate::privacy::{Person, Request};
use crate::problem::Problem;
use crate::store::rows::{ContentState, ErasureRow, ErasureState, Found, FoundEvent, ReceivedRow, Reindexing, Seeds};

/// Events of one page.
const MAX_PAGE: u32 = 500;
/// Identifiers of one kind in a request, and events that it names.
const MAX_IDENTIFIERS: usize = 20;
const MAX_EVENTS: usize = 500;
/// Rows that say who got what.
const MAX_RECEIVED: u32 = 50_000;
/// Characters of a reason, and of what a request is called.
const MAX_REASON: usize = 200;
/// How long one request looks into contents, and how many events at a time.
const SCAN: Duration = Duration::from_secs(2);
const SCANNED: u32 = 200;
/// Matches of one look into contents.
const MAX_MATCHES: usize = 500;
/// Erasures that are listed.
const ERASURES: u32 = 500;

#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn all(&self) -> &[String] {
        match self {
            OneOrMore::One(text) => std::slice::from_ref(text),
            OneOrMore::More(texts) => texts,
        }
    }
}

fn person(cpf: Option<&OneOrMore>, phone: Option<&OneOrMore>, email: Option<&OneOrMore>) -> Result<Person, Problem> {
    let refused = |why: &str| Problem::new(StatusCode::BAD_REQUEST, why);
    let mut person = Person::default();
    for (kind, given) in [(PersonalKind::Cpf, cpf), (PersonalKind::Phone, phone), (PersonalKind::Email, email)] {
        let texts = given.map_or(&[][..], OneOrMore::all);
        if texts.len() > MAX_IDENTIFIERS {
            return Err(refused(&format!("{} takes at most {MAX_IDENTIFIERS} values", kind.word())));
        }
        for text in texts {
            person.add(kind, text).map_err(refused)?;
        }
    }
    if person.subjects.is_empty() {
        return Err(refused("say who it is about: cpf, phone or email, or several of them"));
    }
    Ok(person)
}

fn read<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Problem> {
    // serde's text may repeat what it did not understand, and that may be an identifier.
    let told = |error: JsonRejection| match error {
        JsonRejection::MissingJsonContentType(_) => error.body_text(),
        _ => "the body is not the JSON object that is expected here".into(),
    };
    body.map(|Json(body)| body).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, told(error)))
}

fn private(body: Value) -> Answer {
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Search {
    cpf: Option<OneOrMore>,
    phone: Option<OneOrMore>,
    email: Option<OneOrMore>,
    /// The last event of the page before.
    before: Option<String>,
    limit: Option<u32>,
    /// Look into the contents of all events too, from `after` on.
    #[serde(default)]
    scan: bool,
    after: Option<String>,
}

impl Search {
    fn person(&self) -> Result<Person, Problem> {
        person(self.cpf.as_ref(), self.phone.as_ref(), self.email.as_ref())
    }

    fn limit(&self) -> u32 {
        self.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE)
    }

    fn before(&self) -> Result<Option<EventId>, Problem> {
        self.before.as_deref().map(parse).transpose()
    }

    /// One page of what is about the person; that somebody looks is on record before. Whom for is not.
    async fn look(&self, office: &Office, audit: &Note) -> Result<Looked, Problem> {
        let (person, limit) = (self.person()?, self.limit());
        audit.begin().await?;
        let seeds = office.privacy.seeds(&person, &[]);
        let found = office.store.find_subject(&seeds, self.before()?, limit).await.map_err(store_problem)?;
        let is_full = found.items.len() as u32 == limit;
        let next = found.items.last().filter(|_| is_full).map(|item| item.event.id);
        Ok(Looked { person, seeds, found, next })
    }
}

struct Looked {
    person: Person,
    seeds: Seeds,
    found: Found,
    /// Where the next page begins.
    next: Option<EventId>,
}

pub(super) async fn find(
    State(office): State<Arc<Office>>,
    Extension(audit): Extension<Arc<Note>>,
    body: Result<Json<Search>, JsonRejection>,
) -> Answer {
    let search = read(body)?;
    let Looked { person, found, next, .. } = search.look(&office, &audit).await?;
    audit.detail("events", found.events);
    let items: Vec<Value> = found.items.iter().map(|item| shown(&office, item)).collect();
    let mut answer = json!({
        "events": found.events,
        "descendants": found.events - found.direct,
        "open_deliveries": found.open,
        "items": items,
        "next": next,
        "coverage": coverage(&office).await?,
    });
    if search.scan {
        let after = search.after.as_deref().map(parse).transpose()?.unwrap_or(EventId(-1));
        answer["scan"] = scan(&office, &person.subjects, after).await?;
    }
    private(answer)
}

fn shown(office: &Office, found: &FoundEvent) -> Value {
    let catalog = office.catalog.get();
    let event = &found.event;
    let deliveries = event.deliveries.iter().map(|delivery| {
        let delivered = found.delivered.iter().find(|(id, _)| *id == delivery.id).map(|(_, ms)| time(*ms));
        json!({
            "id": delivery.id,
            "endpoint": catalog.endpoint_name(delivery.endpoint),
            "status": delivery.status,
            "attempts": delivery.tries,
            "delivered_at": delivered,
        })
    });
    json!({
        "id": event.id,
        "type": event.event_type,
        "source": event.source,
        "created_at": time(event.created_ms),
        "content": event.content,
        // Found because an event that was found gave rise to it, and not by an identifier of its own.
        "descendant": !found.direct,
        "parent": event.parent,
        "deliveries": deliveries.collect::<Vec<_>>(),
    })
}

/// What a search by identifier cannot find, so that nobody believes more than is true.
async fn coverage(office: &Office) -> Result<Value, Problem> {
    let coverage = office.store.coverage().await.map_err(store_problem)?;
    let reindexing = office.store.reindexing().await.map_err(store_problem)?;
    let catalog = office.catalog.get();
    let rows = coverage.rows.iter().map(|row| {
        json!({
            "source": row.source,
            // Emitted by this endpoint's connector.
            "emitted": row.emitted,
            "declares_personal": !catalog.personal_of(&row.source, row.emitted).is_empty(),
            "events_with_content": row.with_content,
            "not_found_by_identifier": row.unindexed,
        })
    });
    Ok(json!({
        "sources": rows.collect::<Vec<_>>(),
        // Only the latest events are counted.
        "counted_all": coverage.complete,
        "reindexing": reindexing.as_ref().map(progress),
    }))
}

/// Opens every event, for a while.
async fn scan(office: &Office, wanted: &[Subject], after: EventId) -> Result<Value, Problem> {
    let begun = Instant::now();
    let upto = office.store.newest_event().await.map_err(store_problem)?.unwrap_or(EventId(0));
    let (mut cursor, mut seen, mut matches) = (after, 0u64, Vec::new());
    let mut more = true;
    while more && begun.elapsed() < SCAN && matches.len() < MAX_MATCHES {
        let rows = office.store.contents(cursor, upto, SCANNED).await.map_err(store_problem)?;
        more = rows.last().is_some_and(|row| row.id < upto);
        cursor = rows.last().map_or(upto, |row| row.id);
        seen += rows.len() as u64;
        for row in rows.iter().filter(|row| row.source != ERASURE) {
            let said = row.headers.iter().any(|(_, value)| mentions(value.as_bytes(), wanted));
            if said || mentions(&row.payload, wanted) {
                matches.push(json!({
                    "id": row.id, "type": row.event_type, "source": row.source, "created_at": time(row.created_ms),
                }));
            }
        }
    }
    Ok(json!({ "matches": matches, "seen": seen, "next": more.then_some(cursor) }))
}

/// Everything about a person, content included, one page of events at a time.
pub(super) async fn export(
    State(office): State<Arc<Office>>,
    Extension(audit): Extension<Arc<Note>>,
    body: Result<Json<Search>, JsonRejection>,
) -> Answer {
    let search = read(body)?;
    let Looked { person, seeds, found, next } = search.look(&office, &audit).await?;
    audit.list("events", found.items.iter().map(|item| item.event.id));
    let mut events = Vec::with_capacity(found.items.len());
    for item in &found.items {
        events.push(exported(&office, item).await?);
    }
    let gone: Vec<Value> = found
        .items
        .iter()
        .filter(|item| !matches!(item.event.content, ContentState::Clear | ContentState::Sealed))
        .map(|item| json!({ "event": item.event.id, "content": item.event.content }))
        .collect();
    private(json!({
        "made_at": time(office.clock.now_ms()),
        "about": about(&person),
        "events_in_all": found.events,
        "events": events,
        "next": next,
        "recipients": recipients(&office, &seeds).await?,
        // What is kept of events whose content is gone: that there was one, when, and who got it.
        "tombstones": gone,
        "coverage": coverage(&office).await?,
    }))
}

fn about(person: &Person) -> Value {
    let given = person.given.iter().map(|subject| json!({ "kind": subject.kind, "is": subject.form }));
    given.collect()
}

async fn exported(office: &Office, found: &FoundEvent) -> Result<Value, Problem> {
    let detail = office.store.event(found.event.id).await.map_err(store_problem)?;
    let mut event = shown(office, found);
    let catalog = office.catalog.get();
    let emitted = found.event.parent.is_some();
    let source = catalog.config.sources.get(&found.event.source).filter(|_| !emitted);
    event["source_description"] = source.map(|source| source.description.as_str()).into();
    event["content_type"] = (*detail.event.content_type).into();
    event["headers"] = json!(detail.event.headers);
    event["idempotency_key"] = detail.key.into();
    let payload = &detail.event.payload;
    event["payload"] = match payload.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(payload).unwrap_or_else(|_| String::from_utf8_lossy(payload).into()),
    };
    if let Some(deliveries) = event["deliveries"].as_array_mut() {
        for (shown, delivery) in deliveries.iter_mut().zip(&found.event.deliveries) {
            let attempts = detail.attempts.iter().filter(|attempt| attempt.delivery == delivery.id);
            let said = attempts.map(|attempt| {
                json!({
                    "number": attempt.number,
                    "at": time(attempt.started_ms),
                    "outcome": attempt.outcome,
                    "http_status": attempt.http_status,
                    "code": attempt.code,
                    "message": attempt.message,
                    "log": attempt.log,
                })
            });
            shown["attempt_list"] = said.collect();
        }
    }
    Ok(event)
}

/// Who got what (article 18, VII), by endpoint.
async fn recipients(office: &Office, seeds: &Seeds) -> Result<Value, Problem> {
    let rows = office.store.received(seeds, MAX_RECEIVED).await.map_err(store_problem)?;
    let mut by_endpoint: BTreeMap<i64, Vec<&ReceivedRow>> = BTreeMap::new();
    for row in &rows {
        by_endpoint.entry(row.endpoint).or_default().push(row);
    }
    let catalog = office.catalog.get();
    let shown = by_endpoint.iter().map(|(endpoint, rows)| {
        json!({
            "endpoint": catalog.endpoint_name(*endpoint),
            "first_at": rows.iter().map(|row| row.first_ms).min().map(time),
            "last_at": rows.iter().map(|row| row.last_ms).max().map(time),
            "events": rows.iter().map(|row| json!({ "id": row.event, "delivered": row.delivered })).collect::<Vec<_>>(),
        })
    });
    Ok(shown.collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Erase {
    cpf: Option<OneOrMore>,
    phone: Option<OneOrMore>,
    email: Option<OneOrMore>,
    /// Events that a scan has found: they are erased as well.
    #[serde(default)]
    events: Vec<String>,
    reason: String,
    #[serde(default = "yes")]
    dry_run: bool,
    /// The same request is carried out once.
    request: Option<String>,
}

fn yes() -> bool {
    true
}

pub(super) async fn erase(
    State(office): State<Arc<Office>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(audit): Extension<Arc<Note>>,
    body: Result<Json<Erase>, JsonRejection>,
) -> Answer {
    let erase = read(body)?;
    let person = person(erase.cpf.as_ref(), erase.phone.as_ref(), erase.email.as_ref())?;
    let refused = |why: String| Problem::new(StatusCode::BAD_REQUEST, why);
    for (name, text) in [("reason", Some(&erase.reason)), ("request", erase.request.as_ref())] {
        let Some(text) = text else { continue };
        if text.trim().is_empty() || text.chars().count() > MAX_REASON || text.chars().any(char::is_control) {
            return Err(refused(format!(
                "{name} takes 1 to {MAX_REASON} characters; it is kept, so name nobody in it"
            )));
        }
    }
    if erase.events.len() > MAX_EVENTS {
        return Err(refused(format!("events takes at most {MAX_EVENTS} ids")));
    }
    let events = erase.events.iter().map(|id| parse(id)).collect::<Result<Vec<EventId>, _>>()?;
    audit.detail("dry_run", erase.dry_run);
    audit.begin().await?;
    if erase.dry_run {
        let seeds = office.privacy.seeds(&person, &events);
        let found = office.store.find_subject(&seeds, None, MAX_PAGE).await.map_err(store_problem)?;
        let items: Vec<Value> = found.items.iter().map(|item| shown(&office, item)).collect();
        return private(json!({
            "dry_run": true,
            "events": found.events,
            "descendants": found.events - found.direct,
            "open_deliveries": found.open,
            // The first of them, and who would be told.
            "items": items,
            "recipients": recipients(&office, &seeds).await?,
            "coverage": coverage(&office).await?,
        }));
    }
    let request = Request { person, events, reason: erase.reason, actor: caller.id.clone(), request: erase.request };
    let (id, duplicate) = office.privacy.erase(request).await.map_err(store_problem)?;
    let row = office.store.erasures(Some(id), 1).await.map_err(store_problem)?.pop();
    audit.object(format!("erasure:{id}"));
    audit.detail("events", row.as_ref().map_or(0, |row| row.events));
    let mut answer = row.as_ref().map_or(Value::Null, |row| erasure(&office, row));
    answer["dry_run"] = false.into();
    answer["duplicate"] = duplicate.into();
    answer["coverage"] = coverage(&office).await?;
    private(answer)
}

pub(super) async fn erasures(State(office): State<Arc<Office>>) -> Answer {
    let rows = office.store.erasures(None, ERASURES).await.map_err(store_problem)?;
    let items: Vec<Value> = rows.iter().map(|row| erasure(&office, row)).collect();
    private(json!({ "items": items }))
}

fn erasure(office: &Office, row: &ErasureRow) -> Value {
    let catalog = office.catalog.get();
    let recipients = row.recipients.iter().map(|recipient| {
        let status = recipient.told_by.map(|(_, status)| status);
        let by_hand = match status {
            Some(Status::Dead) => Some("it could not be told: tell it yourself, or replay the delivery"),
            Some(Status::Erased) => Some("it was not told by the hub"),
            Some(_) => None,
            None if row.state == ErasureState::Erasing => None,
            None => match catalog.endpoints.get(&recipient.endpoint) {
                Some(endpoint) if !catalog.reaches_somebody(endpoint) => Some("it hands nothing on outside the hub"),
                _ => Some("the hub could not tell it: tell it yourself"),
            },
        };
        json!({
            "endpoint": catalog.endpoint_name(recipient.endpoint),
            "events": recipient.events,
            "first_at": time(recipient.first_ms),
            "last_at": time(recipient.last_ms),
            "delivery": recipient.told_by.map(|(id, _)| id),
            "status": status,
            "told_at": recipient.told_ms.map(time),
            "note": by_hand,
        })
    });
    json!({
        "id": row.id,
        "request": row.request,
        "at": time(row.created_ms),
        "reason": row.reason,
        "actor": row.actor,
        "state": row.state,
        "events": row.events,
        "events_left": row.left,
        "notice": row.notice,
        "finished_at": row.finished_ms.map(time),
        "recipients": recipients.collect::<Vec<_>>(),
    })
}

/// The operator has told whoever the hub could not: the notice, which names the person, goes.
pub(super) async fn close(State(office): State<Arc<Office>>, Path(id): Path<String>) -> Answer {
    let id = parse(&id)?;
    office.privacy.close_by_hand(id).await.map_err(store_problem)?;
    let row = office.store.erasures(Some(id), 1).await.map_err(store_problem)?.pop();
    private(row.as_ref().map_or(Value::Null, |row| erasure(&office, row)))
}

pub(super) async fn reindex(State(office): State<Arc<Office>>) -> Answer {
    let state = office.privacy.reindex().await.map_err(store_problem)?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "reindexing": state.as_ref().map(progress) }))).into_response())
}

pub(super) async fn reindexing(State(office): State<Arc<Office>>) -> Answer {
    let state = office.store.reindexing().await.map_err(store_problem)?;
    Ok(Json(json!({ "reindexing": state.as_ref().map(progress) })).into_response())
}

fn progress(state: &Reindexing) -> Value {
    json!({
        "state": if state.finished_ms.is_some() { "finished" } else { "running" },
        "seen": state.seen,
        "indexed": state.indexed,
        "cursor": Some(state.cursor).filter(|cursor| cursor.0 > 0),
        "started_at": time(state.started_ms),
        "finished_at": state.finished_ms.map(time),
    })
}
