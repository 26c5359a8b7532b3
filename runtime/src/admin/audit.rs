//! The audit log at the operators' door: what each request leaves there, and the log itself.
//!
//! [`admit`] stands before every route of the table, which says what kind of thing the route does. What changes
//! something is recorded before, and what came of it after. What shows content is recorded when the answer is made and
//! before it leaves: an answer without content leaves no row, and one whose row cannot be written does not leave.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, FromRequestParts as _, Query, RawPathParams, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::routes::demand;
use super::{Answer, Office, page, store_problem, time};
use crate::audit::{Audit, Failure, MAX_REASON, Record, is_plain, prefix};
use crate::ingress::sender;
use crate::keys::grant::Scope;
use crate::keys::{Caller, id_of};
use crate::problem::Problem;
use crate::store::rows::{AuditFilter, AuditRow};

/// Where a request says why it is made.
const REASON: &str = "x-reason";
/// Characters of what a listing is filtered by.
const MAX_FILTER: usize = 256;
/// Things of one kind that a row lists; more are counted.
const MAX_LISTED: usize = 500;

/// What a route leaves in the audit log, with the action's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audited {
    /// Nothing, unless it is refused: it changes nothing and shows no content, or it makes an event, which is a record
    /// of its own.
    Nothing,
    /// A row for each answer that shows content, before it leaves.
    Shows(&'static str),
    /// A row before it does anything, and another one with what came of it.
    Does(&'static str),
    /// The same, but the handler says when ([`Note::begin`]): some of its requests do nothing.
    MayDo(&'static str),
}

impl Audited {
    pub(super) fn action(self) -> Option<&'static str> {
        match self {
            Audited::Nothing => None,
            Audited::Shows(action) | Audited::Does(action) | Audited::MayDo(action) => Some(action),
        }
    }
}

/// A route as whoever guards it has to know it.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) scope: Scope,
    pub(super) audited: Audited,
}

/// What a request leaves in the audit log. Handlers find it among the request's extensions and add what they know.
pub(crate) struct Note {
    audit: Audit,
    way: Way,
    actor: String,
    address: String,
    reason: Option<String>,
    said: Mutex<Said>,
}

struct Said {
    object: String,
    details: Map<String, Value>,
    /// Content is in the answer.
    shown: bool,
    /// The row that was written before.
    attempt: Option<i64>,
}

impl Note {
    /// What it is about, when the path does not say it: `key:0123456789`.
    pub(crate) fn object(&self, object: impl Into<String>) {
        self.said().object = object.into();
    }

    /// Something that the row should say. Never content or a secret.
    pub(crate) fn detail(&self, name: &str, value: impl Into<Value>) {
        self.said().details.insert(name.into(), value.into());
    }

    /// The same for a number of things, of which the first are named.
    pub(crate) fn list(&self, name: &str, all: impl IntoIterator<Item = impl ToString>) {
        let mut all = all.into_iter();
        let named: Vec<Value> = all.by_ref().take(MAX_LISTED).map(|one| one.to_string().into()).collect();
        self.detail(name, named);
        let more = all.count();
        if more > 0 {
            self.detail(&format!("{name}_not_named"), more);
        }
    }

    /// The answer shows content: it leaves only once that is on record.
    pub(crate) fn shows(&self) {
        self.said().shown = true;
    }

    /// Puts on record that something is about to be done. When it fails, it must not be done.
    pub(crate) async fn begin(&self) -> Result<(), Problem> {
        let (Audited::Does(action) | Audited::MayDo(action)) = self.way.audited else { return Ok(()) };
        let details = self.said().details.clone();
        let attempt = self.record(action, details).await?;
        self.said().attempt = Some(attempt);
        Ok(())
    }

    /// What is left to record once the answer is made.
    async fn end(&self, answer: axum::response::Response) -> Answer {
        let status = answer.status();
        let (attempt, shown, mut details) = {
            let said = self.said();
            (said.attempt, said.shown, said.details.clone())
        };
        if let (Some(attempt), Some(action)) = (attempt, self.way.audited.action()) {
            let outcome = match status.as_u16() {
                200..=299 => "done",
                500.. => "failed",
                _ => "refused",
            };
            details.insert("attempt".into(), attempt.into());
            details.insert("outcome".into(), outcome.into());
            details.insert("status".into(), status.as_u16().into());
            // It is done, and the attempt is on record: an answer that says otherwise would be wrong. The log of the
            // process has why this one is not.
            let _ = self.record(action, details.clone()).await;
        } else if status == StatusCode::FORBIDDEN {
            self.denied(None).await;
        }
        if shown && status.is_success() {
            let action = match self.way.audited {
                Audited::Shows(action) => action,
                _ => "payload.read",
            };
            self.record(action, details).await?;
        }
        Ok(answer)
    }

    /// For want of a scope, or because of what the handler has found. It is refused in any case, so whether this can be
    /// recorded changes nothing.
    async fn denied(&self, scope: Option<Scope>) {
        let Way { method, path, .. } = &self.way;
        let mut details = self.said().details.clone();
        details.insert("route".into(), format!("{method} /api{path}").into());
        if let Some(scope) = scope {
            details.insert("scope".into(), scope.word().into());
        }
        let _ = self.record("denied", details).await;
    }

    async fn record(&self, action: &'static str, details: Map<String, Value>) -> Result<i64, Problem> {
        let record = Record {
            actor: self.actor.clone(),
            address: Some(self.address.clone()),
            action,
            object: self.said().object.clone(),
            reason: self.reason.clone(),
            details: details.into(),
        };
        self.audit.record(record).await
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a request through to its route when its key has the scope, and sees to what has to be on record.
pub(super) async fn admit(office: Arc<Office>, way: Way, request: Request, next: Next) -> Answer {
    let (mut parts, body) = request.into_parts();
    let caller = parts.extensions.get::<Arc<Caller>>().cloned();
    let allowed = demand(caller.as_deref(), way.scope);
    let Some(caller) = caller else {
        // Nobody has no scope, so this never lets anybody in.
        return allowed.map(|()| StatusCode::FORBIDDEN.into_response());
    };
    let address = prefix(sender(&office.catalog.get().limits.proxies, &parts.headers, &parts.extensions));
    let reason = reason(&parts.headers);
    let parameters = RawPathParams::from_request_parts(&mut parts, &()).await.ok();
    let parameter = parameters.as_ref().and_then(|all| all.iter().next()).map(|(_, value)| value);
    let note = Arc::new(Note {
        audit: office.audit.clone(),
        said: Mutex::new(Said {
            object: object(way.path, parameter),
            details: Map::new(),
            shown: false,
            attempt: None,
        }),
        actor: caller.id.clone(),
        address,
        reason: reason.as_ref().ok().cloned().flatten(),
        way,
    });
    if let Err(problem) = allowed {
        note.denied(Some(note.way.scope)).await;
        return Err(problem);
    }
    reason?;
    parts.extensions.insert(note.clone());
    let request = Request::from_parts(parts, body);
    match note.way.audited {
        Audited::Nothing | Audited::Shows(_) => {
            let answer = next.run(request).await;
            note.end(answer).await
        }
        Audited::Does(_) | Audited::MayDo(_) => {
            if matches!(note.way.audited, Audited::Does(_)) {
                note.begin().await?;
            }
            // What has begun goes to its end and is recorded also when whoever asked for it has gone.
            let doing = office.shop.tasks.spawn(async move {
                let answer = next.run(request).await;
                note.end(answer).await
            });
            doing.await.unwrap_or_else(|_| {
                Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "this ended half way; the hub's log says where"))
            })
        }
    }
}

fn reason(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut all = headers.get_all(REASON).iter();
    let Some(reason) = all.next() else { return Ok(None) };
    let good = |text: &&str| text.chars().count() <= MAX_REASON && text.chars().all(is_plain);
    match std::str::from_utf8(reason.as_bytes()).ok().filter(good) {
        Some(text) if all.next().is_none() => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        _ => {
            let why = format!("X-Reason takes one line of at most {MAX_REASON} characters, in UTF-8");
            Err(Problem::new(StatusCode::BAD_REQUEST, why))
        }
    }
}

/// What a path is about: `evt_…` of `/events/{id}`, `endpoint:crm` of `/endpoints/{name}/pause`, `keys` of `/keys`.
fn object(path: &str, parameter: Option<&str>) -> String {
    let kind = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let Some(parameter) = parameter else { return kind.to_owned() };
    // Whoever takes a key for its id must not find it on record. What is no name at all is somebody's, and not ours.
    let is_name = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && !text.starts_with("tmd_")
    };
    let name = id_of(parameter).or(Some(parameter).filter(is_name)).unwrap_or("?");
    match kind {
        // Their ids say what they are.
        "events" | "deliveries" => name.to_owned(),
        _ => format!("{}:{name}", kind.strip_suffix('s').unwrap_or(kind)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    actor: Option<String>,
    action: Option<String>,
    object: Option<String>,
    before: Option<i64>,
    limit: Option<u32>,
}

/// Newest first. Looking at the log is on record as well.
pub(super) async fn list(
    State(office): State<Arc<Office>>,
    Extension(note): Extension<Arc<Note>>,
    query: Result<Query<Listing>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    for (name, value) in [("actor", &query.actor), ("action", &query.action), ("object", &query.object)] {
        let Some(value) = value else { continue };
        if value.chars().count() > MAX_FILTER || !value.chars().all(is_plain) {
            let why = format!("{name} is one line of at most {MAX_FILTER} characters");
            return Err(Problem::new(StatusCode::BAD_REQUEST, why));
        }
        note.detail(name, value.as_str());
    }
    let filter = AuditFilter {
        actor: query.actor,
        action: query.action,
        object: query.object,
        before: query.before,
        limit: page(query.limit),
    };
    let rows = office.store.audit_log(&filter).await.map_err(store_problem)?;
    let next = (rows.len() as u32 == filter.limit).then(|| rows.last().map(|row| row.id)).flatten();
    note.detail("rows", rows.len());
    note.shows();
    let items: Vec<Value> = rows.iter().map(summary).collect();
    Ok(Json(json!({ "items": items, "next": next })).into_response())
}

fn summary(row: &AuditRow) -> Value {
    let entry = &row.entry;
    json!({
        "id": row.id,
        "at": time(entry.at_ms),
        "actor": entry.actor,
        "address": entry.address,
        "action": entry.action,
        "object": entry.object,
        "reason": entry.reason,
        // Of a row that somebody else wrote it may be anything.
        "details": serde_json::from_str(&entry.details).unwrap_or(Value::Null),
        "hash": hex::encode(&row.hash),
    })
}

/// Whether all rows are as they were written, or which is not.
pub(super) async fn verify(State(office): State<Arc<Office>>, Extension(note): Extension<Arc<Note>>) -> Answer {
    let verdict = office.audit.verify().await.map_err(|failure| match failure {
        Failure::Store(error) => store_problem(error),
        error => {
            tracing::error!(%error, "verifying the audit log failed");
            Problem::busy("the audit log cannot be read; the hub's log says why")
        }
    })?;
    if !verdict.ok {
        tracing::error!(broken = verdict.broken_rows, "the audit log is not whole");
    }
    note.detail("ok", verdict.ok);
    note.detail("rows", verdict.rows);
    note.shows();
    Ok(Json(verdict).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_what_it_is_about_and_never_a_secret() {
        let key = format!("tmd_0123456789_{}", "5a".repeat(32));
        for (path, parameter, expected) in [
            ("/events/{id}", Some("evt_38gdpgrgrgeg0"), "evt_38gdpgrgrgeg0"),
            ("/deliveries/{id}/replay", Some("dlv_38gdpgrgrgeg1"), "dlv_38gdpgrgrgeg1"),
            ("/endpoints/{name}/pause", Some("crm-events"), "endpoint:crm-events"),
            ("/sync-jobs/{name}/run", Some("crm_operacao"), "sync-job:crm_operacao"),
            ("/keys/{id}/revoke", Some("0123456789"), "key:0123456789"),
            ("/keys/{id}/revoke", Some(&key), "key:0123456789"),
            ("/keys/{id}/revoke", Some(&key[..70]), "key:?"),
            ("/keys/{id}/revoke", Some("tmd_0123456789_5a5a"), "key:?"),
            ("/endpoints/{name}/pause", Some("\u{1b}[2J"), "endpoint:?"),
            ("/endpoints/{name}/pause", Some("maria@example.com"), "endpoint:?"),
            ("/endpoints/{name}/pause", Some(""), "endpoint:?"),
            ("/dead-letters/replay", None, "dead-letters"),
            ("/apply", None, "apply"),
        ] {
            assert_eq!(object(path, parameter), expected, "{path} {parameter:?}");
        }
    }

    #[test]
    fn a_reason_is_one_plain_line() {
        let of = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(REASON, axum::http::HeaderValue::from_bytes(value).unwrap());
            }
            reason(&headers)
        };
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[b" "]).unwrap(), None);
        assert_eq!(of(&["reclamação 17".as_bytes()]).unwrap().as_deref(), Some("reclamação 17"));
        assert_eq!(of(&["é".repeat(MAX_REASON).as_bytes()]).unwrap().unwrap().chars().count(), MAX_REASON);
        let long = "x".repeat(MAX_REASON + 1);
        for bad in [long.as_bytes(), b"a\tb", b"\xff", "\u{202e}txt".as_bytes()] {
            assert!(of(&[bad]).is_err(), "{bad:?}");
        }
        assert!(of(&[b"one", b"two"]).is_err());
    }
}
