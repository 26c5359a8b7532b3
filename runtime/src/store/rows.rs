//! The shapes of rows that every database shares.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::delivery::{Delivery, Outcome, Status};
use crate::event::{DeliveryId, ErasureId, Event, EventId, SubjectKey, SyncRunId};
use crate::keyring::KeyId;
use crate::redact::Size;
use crate::seal::Place;
use zeroize::Zeroizing;

#[derive(Debug, Default)]
pub(crate) struct Promoted {
    pub(crate) deliveries: Vec<Delivery>,
    /// Endpoints of those that went back to the table.
    pub(crate) to_table: Vec<i64>,
}

/// The whole configuration as it stands in the database; `config` is JSON.
#[derive(Debug, Default)]
pub(crate) struct CatalogRows {
    pub(crate) sources: Vec<(String, String)>,
    pub(crate) queues: Vec<(i64, String, String)>,
    pub(crate) endpoints: Vec<EndpointRow>,
    pub(crate) routes: Vec<RouteRow>,
    pub(crate) mappings: Vec<MappingRow>,
    pub(crate) schedules: Vec<ScheduleRow>,
    pub(crate) secrets: Vec<SecretRow>,
}

pub(crate) struct EndpointRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) config: String,
    pub(crate) paused: Option<String>,
    pub(crate) removed: bool,
}

#[derive(Debug)]
pub(crate) struct RouteRow {
    pub(crate) id: i64,
    pub(crate) endpoint: i64,
    pub(crate) config: String,
    pub(crate) removed: bool,
}

/// The version in force.
#[derive(Debug)]
pub(crate) struct MappingRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) version: i64,
    pub(crate) config: String,
    pub(crate) origin: Origin,
    pub(crate) activated_by: Origin,
}

/// By which way a mapping came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// A configuration file.
    Apply,
    /// The API, which the command line uses too.
    Api,
}

impl Origin {
    pub(crate) fn from_sql(word: &str) -> Origin {
        if word == "api" { Origin::Api } else { Origin::Apply }
    }
}

/// One version of a mapping; `config` is JSON.
#[derive(Debug)]
pub(crate) struct MappingVersion {
    pub(crate) version: i64,
    pub(crate) config: String,
    pub(crate) created_ms: u64,
    pub(crate) active: bool,
    pub(crate) origin: Origin,
}

/// A mapping by the version that is in force, or else by its newest.
#[derive(Debug)]
pub(crate) struct MappingSummary {
    pub(crate) name: String,
    pub(crate) versions: i64,
    pub(crate) shown: MappingVersion,
}

/// What an editor hands over.
#[derive(Debug)]
pub(crate) struct NewMapping {
    pub(crate) name: String,
    pub(crate) config: String,
    pub(crate) activate: bool,
    /// The version that the editor saw in force, 0 for none.
    pub(crate) expected: Option<i64>,
}

/// A small number in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i64)]
pub(crate) enum ScheduleKind {
    Schedule = 0,
    SyncJob = 1,
}

#[derive(Debug)]
pub(crate) struct ScheduleRow {
    pub(crate) kind: ScheduleKind,
    pub(crate) name: String,
    pub(crate) config: String,
    pub(crate) fired_ms: u64,
}

/// Events that are looked through for those of a type: there is no index on it, which every accept would pay for.
pub(crate) const SEARCHED: u32 = 100_000;

/// What `apply` writes. Names and JSON; ids are the store's own affair.
#[derive(Debug, Default)]
pub(crate) struct CatalogChange {
    pub(crate) put_sources: Vec<(String, String)>,
    pub(crate) drop_sources: Vec<String>,
    pub(crate) put_queues: Vec<(String, String)>,
    pub(crate) drop_queues: Vec<String>,
    pub(crate) put_endpoints: Vec<(String, String)>,
    pub(crate) drop_endpoints: Vec<String>,
    pub(crate) put_mappings: Vec<(String, String)>,
    pub(crate) drop_mappings: Vec<String>,
    pub(crate) put_schedules: Vec<(String, String)>,
    pub(crate) drop_schedules: Vec<String>,
    pub(crate) put_sync_jobs: Vec<(String, String)>,
    pub(crate) drop_sync_jobs: Vec<String>,
    /// Event type, endpoint name, JSON.
    pub(crate) add_routes: Vec<(String, String, String)>,
    pub(crate) drop_routes: Vec<i64>,
}

#[derive(Debug)]
pub(crate) struct NewVersion {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) digest: String,
    pub(crate) manifest: String,
    pub(crate) component: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) struct VersionRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) digest: String,
    pub(crate) manifest: String,
    pub(crate) size: u64,
    pub(crate) created_ms: u64,
}

#[derive(Debug)]
pub(crate) struct ConnectorRow {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) active: Option<i64>,
    pub(crate) previous: Option<i64>,
}

/// Newest first; `before` is the last id of the page before.
#[derive(Debug, Default)]
pub(crate) struct EventFilter {
    pub(crate) event_type: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) unrouted: bool,
    pub(crate) parent: Option<DeliveryId>,
    pub(crate) before: Option<EventId>,
    pub(crate) limit: u32,
}

#[derive(Debug)]
pub(crate) struct EventRow {
    pub(crate) id: EventId,
    pub(crate) source: String,
    pub(crate) event_type: String,
    pub(crate) unrouted: bool,
    pub(crate) created_ms: u64,
    pub(crate) parent: Option<DeliveryId>,
    pub(crate) content: ContentState,
    pub(crate) deliveries: Vec<DeliveryRow>,
}

#[derive(Debug)]
pub(crate) struct DeliveryRow {
    pub(crate) id: DeliveryId,
    pub(crate) endpoint: i64,
    pub(crate) status: Status,
    pub(crate) tries: u32,
    pub(crate) next_retry_ms: Option<u64>,
}

pub(crate) struct EventDetail {
    pub(crate) event: Event,
    pub(crate) key: String,
    pub(crate) row: EventRow,
    pub(crate) attempts: Vec<AttemptRow>,
    /// Events that this one's deliveries gave rise to.
    pub(crate) children: Vec<EventRow>,
}

pub(crate) struct AttemptRow {
    pub(crate) delivery: DeliveryId,
    pub(crate) number: u32,
    pub(crate) started_ms: u64,
    pub(crate) duration_us: u64,
    pub(crate) outcome: Outcome,
    pub(crate) http_status: Option<u16>,
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) connector_digest: Option<String>,
    pub(crate) mapping_digest: Option<String>,
    /// Name and version of the mapping.
    pub(crate) mapping: Option<(String, i64)>,
    pub(crate) log: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct DeadLetterFilter {
    pub(crate) endpoint: Option<i64>,
    pub(crate) before: Option<DeliveryId>,
    pub(crate) limit: u32,
}

pub(crate) struct DeadLetterRow {
    pub(crate) delivery: DeliveryId,
    pub(crate) event: EventId,
    pub(crate) event_type: String,
    pub(crate) endpoint: i64,
    pub(crate) reason: Outcome,
    pub(crate) http_status: Option<u16>,
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) tries: u32,
    pub(crate) created_ms: u64,
}

#[derive(Clone)]
pub(crate) struct KeyRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) hash: Vec<u8>,
    /// The hash before the last rotation, and until when it is good.
    pub(crate) previous: Option<(Vec<u8>, u64)>,
    pub(crate) scopes: Vec<String>,
    /// The `source_system`s that it may publish as, and the networks that it may come from; none is any.
    pub(crate) sources: Option<Vec<String>>,
    pub(crate) addresses: Option<Vec<String>>,
    pub(crate) not_before_ms: Option<u64>,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) created_ms: u64,
    /// The key that it was made with.
    pub(crate) created_by: Option<String>,
    pub(crate) revoked_ms: Option<u64>,
    pub(crate) last_used_ms: Option<u64>,
}

/// A run that is about to begin.
#[derive(Debug)]
pub(crate) struct NewSyncRun {
    pub(crate) id: SyncRunId,
    pub(crate) name: String,
    pub(crate) now_ms: u64,
    /// When it was due, and when the job was fired before that; none when an operator starts it.
    pub(crate) due: Option<(u64, u64)>,
    /// Goes on where the last run failed.
    pub(crate) resume: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Begun {
    /// With the cursor where it goes on.
    Run { cursor: Option<String> },
    /// Another run of this job is under way.
    Running,
    /// Another node has fired it.
    Elsewhere,
}

/// A small number in SQL, a word everywhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(i64)]
pub(crate) enum SyncState {
    Running = 0,
    Succeeded = 1,
    Failed = 2,
}

impl SyncState {
    pub(crate) fn from_sql(number: i64) -> SyncState {
        match number {
            0 => SyncState::Running,
            1 => SyncState::Succeeded,
            _ => SyncState::Failed,
        }
    }
}

#[derive(Clone)]
pub(crate) struct SyncRunRow {
    pub(crate) id: SyncRunId,
    pub(crate) name: String,
    pub(crate) state: SyncState,
    pub(crate) due_ms: Option<u64>,
    pub(crate) started_ms: u64,
    pub(crate) finished_ms: Option<u64>,
    pub(crate) cursor: Option<String>,
    pub(crate) pages: u32,
    pub(crate) items: u64,
    pub(crate) known: u64,
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
}

/// What a row holds of its event's content: a small number in SQL, a word everywhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(i64)]
pub(crate) enum ContentState {
    Clear = 0,
    Sealed = 1,
    /// Nothing any more: its time was over.
    Expired = 2,
    /// Nothing any more: a person asked for it.
    Erased = 3,
}

impl ContentState {
    pub(crate) fn from_sql(number: i64) -> ContentState {
        match number {
            0 => ContentState::Clear,
            1 => ContentState::Sealed,
            2 => ContentState::Expired,
            _ => ContentState::Erased,
        }
    }
}

/// A key that a key of the ring wraps.
#[derive(Debug)]
pub(crate) struct WrappedKey {
    pub(crate) of: KeyOf,
    /// Which of the ring's keys does, and did before.
    pub(crate) key: KeyId,
    pub(crate) was: KeyId,
    pub(crate) wrapped: Vec<u8>,
}

/// A walk's next keys of events.
#[derive(Debug)]
pub(crate) struct WrappedPage {
    pub(crate) keys: Vec<WrappedKey>,
    /// After which event the walk goes on; none when it has come to its end.
    pub(crate) next: Option<EventId>,
}

/// What a wrapped key seals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyOf {
    Event(EventId),
    Secret { name: String, version: i64 },
}

impl fmt::Display for KeyOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyOf::Event(event) => event.fmt(f),
            KeyOf::Secret { name, version } => write!(f, "stored:{name}#{version}"),
        }
    }
}

/// A node that has neither left nor been declared dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeRow {
    pub(crate) id: i64,
    pub(crate) started_ms: u64,
    /// What is left of its lease; less than nothing when it is over.
    pub(crate) lease_ms: i64,
    /// Which version of which connector runs there, as a JSON object of names and `connector_versions.id`.
    pub(crate) running: String,
}

/// A node that was declared dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReapedRow {
    pub(crate) node: i64,
    /// Its machine's.
    pub(crate) name: String,
    /// Deliveries that it held.
    pub(crate) freed: u64,
}

impl KeyOf {
    pub(crate) fn place(&self) -> Place<'_> {
        match self {
            KeyOf::Event(event) => Place::PayloadKey { event: event.0 },
            KeyOf::Secret { name, version } => Place::SecretKey { name, version: *version },
        }
    }
}

/// One version of a stored secret, opened.
pub(crate) struct SecretRow {
    pub(crate) name: String,
    /// From 1; the highest is in force.
    pub(crate) version: i64,
    /// None when it cannot be opened.
    pub(crate) value: Option<Zeroizing<Vec<u8>>>,
    pub(crate) created_ms: u64,
    /// Until when it counts beside the version after it.
    pub(crate) not_after_ms: Option<u64>,
}

impl fmt::Debug for SecretRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretRow({} {})", self.name, self.version)
    }
}

/// One thing that somebody did, before it has its place in the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditEntry {
    pub(crate) at_ms: u64,
    /// The public id of an API key, or `hub`.
    pub(crate) actor: String,
    pub(crate) address: Option<String>,
    pub(crate) action: String,
    pub(crate) object: String,
    pub(crate) reason: Option<String>,
    /// A JSON object.
    pub(crate) details: String,
}

/// An entry in its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditRow {
    pub(crate) id: i64,
    pub(crate) entry: AuditEntry,
    pub(crate) previous_hash: Vec<u8>,
    pub(crate) hash: Vec<u8>,
}

/// A row of the audit log by its id and hash: what the next one follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditHead {
    pub(crate) id: i64,
    pub(crate) hash: Vec<u8>,
}

impl AuditHead {
    /// What the first row of all follows.
    pub(crate) fn start() -> AuditHead {
        AuditHead { id: 0, hash: vec![0; 32] }
    }
}

/// Newest first; `before` is the last id of the page before. What is none is not asked for.
#[derive(Debug, Default)]
pub(crate) struct AuditFilter {
    pub(crate) actor: Option<String>,
    pub(crate) action: Option<String>,
    /// The object of a row, or one of the things that its details list.
    pub(crate) object: Option<String>,
    pub(crate) before: Option<i64>,
    pub(crate) limit: u32,
}

// What holds content or a secret prints what it is and how much there is of it.

impl fmt::Debug for EndpointRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paused = Size::of(&self.paused);
        f.debug_struct("EndpointRow").field("name", &self.name).field("paused", &paused).finish_non_exhaustive()
    }
}

impl fmt::Debug for EventDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (event, attempts) = (&self.event, &self.attempts);
        f.debug_struct("EventDetail").field("event", event).field("attempts", attempts).finish_non_exhaustive()
    }
}

impl fmt::Debug for AttemptRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptRow")
            .field("delivery", &self.delivery)
            .field("number", &self.number)
            .field("outcome", &self.outcome)
            .field("http_status", &self.http_status)
            .field("code", &self.code)
            .field("message", &Size::of(&self.message))
            .field("log", &Size::of(&self.log))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DeadLetterRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterRow")
            .field("delivery", &self.delivery)
            .field("reason", &self.reason)
            .field("http_status", &self.http_status)
            .field("code", &self.code)
            .field("message", &Size::of(&self.message))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRow").field("id", &self.id).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Begun::Run { cursor } => f.debug_struct("Run").field("cursor", &Size::of(cursor)).finish(),
            Begun::Running => f.write_str("Running"),
            Begun::Elsewhere => f.write_str("Elsewhere"),
        }
    }
}

impl fmt::Debug for SyncRunRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncRunRow")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("state", &self.state)
            .field("cursor", &Size::of(&self.cursor))
            .field("code", &self.code)
            .field("message", &Size::of(&self.message))
            .finish_non_exhaustive()
    }
}

/// What is removed when its time is over. A small number in SQL, a word everywhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(i64)]
pub(crate) enum Rule {
    Content = 0,
    DeadLetters = 1,
    Logs = 2,
    Attempts = 3,
    Events = 4,
    IdempotencyKeys = 5,
    SyncJobs = 6,
    Audit = 7,
}

impl Rule {
    pub(crate) const ALL: [Rule; 8] = [
        Rule::Content,
        Rule::DeadLetters,
        Rule::Logs,
        Rule::Attempts,
        Rule::Events,
        Rule::IdempotencyKeys,
        Rule::SyncJobs,
        Rule::Audit,
    ];

    /// The word of the configuration.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Rule::Content => "content",
            Rule::DeadLetters => "dead_letters",
            Rule::Logs => "logs",
            Rule::Attempts => "attempts",
            Rule::Events => "events",
            Rule::IdempotencyKeys => "idempotency_keys",
            Rule::SyncJobs => "sync_jobs",
            Rule::Audit => "audit",
        }
    }
}

/// Who made an event: a source by its name, or an endpoint whose connector emitted it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Maker {
    Source(String),
    Endpoint(String),
}

/// The events that a walk is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whose {
    Of(Vec<Maker>),
    AllBut(Vec<Maker>),
}

impl Whose {
    pub(crate) fn has(&self, maker: &Maker) -> bool {
        match self {
            Whose::Of(makers) => makers.contains(maker),
            Whose::AllBut(makers) => !makers.contains(maker),
        }
    }
}

/// One rule under one policy: what it is about, and how long that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Walk {
    pub(crate) rule: Rule,
    pub(crate) whose: Whose,
    pub(crate) keep_ms: u64,
    /// How long dead letters are, from when they were given up; none is without end.
    pub(crate) dead_letters_ms: Option<u64>,
}

impl Walk {
    /// Tells one policy from another. What is long is cut to its hash: it is part of a key, and servers' keys have an end.
    pub(crate) fn policy(&self) -> String {
        let (word, makers) = match &self.whose {
            Whose::Of(makers) => ("of", makers),
            Whose::AllBut(makers) => ("but", makers),
        };
        let name = |maker: &Maker| match maker {
            Maker::Source(name) => format!(" source:{name}"),
            Maker::Endpoint(name) => format!(" endpoint:{name}"),
        };
        let names: String = makers.iter().map(name).collect();
        let policy = format!("{} {word}{names}", self.keep_ms);
        if policy.len() <= MAX_POLICY {
            return policy;
        }
        format!("{} {word} sha256:{}", self.keep_ms, hex::encode(Sha256::digest(names)))
    }
}

/// Bytes of a [`Walk::policy`].
const MAX_POLICY: usize = 1000;

/// What one step of a walk did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// The last id that was seen: where the next step goes on.
    pub(crate) place: i64,
    /// Rows that were removed or emptied, and dead letters among them.
    pub(crate) removed: u64,
    pub(crate) dead_letters: u64,
    /// Whether there is nothing more that is due.
    pub(crate) done: bool,
}

/// Events, keys or runs that one transaction of retention changes at most, so that nobody waits for long behind it.
pub(crate) const STEP: usize = 200;

/// Where a search for a person begins: keys of the index, and events that somebody named.
#[derive(Debug, Default)]
pub(crate) struct Seeds {
    pub(crate) keys: Vec<SubjectKey>,
    pub(crate) events: Vec<EventId>,
}

/// What a search found: the events of the seeds, and whatever their deliveries gave rise to.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) events: u64,
    /// Of them, those that the seeds name themselves.
    pub(crate) direct: u64,
    /// Deliveries of them that are still to be made, dead letters included.
    pub(crate) open: u64,
    /// One page, newest first.
    pub(crate) items: Vec<FoundEvent>,
}

#[derive(Debug)]
pub(crate) struct FoundEvent {
    pub(crate) event: EventRow,
    pub(crate) direct: bool,
    /// When each delivery arrived that did.
    pub(crate) delivered: Vec<(DeliveryId, u64)>,
}

/// An event that an endpoint has got, or may have: a try at it reached the connector.
#[derive(Debug)]
pub(crate) struct ReceivedRow {
    pub(crate) endpoint: i64,
    pub(crate) event: EventId,
    pub(crate) first_ms: u64,
    pub(crate) last_ms: u64,
    pub(crate) delivered: bool,
}

/// Events that are counted for [`Coverage`], the latest: there is no index for it, which every accept would pay for.
pub(crate) const COVERED: u32 = 200_000;

/// Which events a search by identifier can find at all.
#[derive(Debug)]
pub(crate) struct Coverage {
    pub(crate) rows: Vec<CoverageRow>,
    /// Whether these are all events, and not only the latest.
    pub(crate) complete: bool,
}

#[derive(Debug)]
pub(crate) struct CoverageRow {
    /// Of emitted events it is the endpoint whose connector emitted them.
    pub(crate) source: String,
    pub(crate) emitted: bool,
    pub(crate) with_content: u64,
    /// Of them, those that are found under no identifier.
    pub(crate) unindexed: u64,
}

/// An event's content, opened.
#[derive(Debug)]
pub(crate) struct ContentRow {
    pub(crate) id: EventId,
    pub(crate) source: String,
    pub(crate) event_type: String,
    pub(crate) created_ms: u64,
    pub(crate) emitted: bool,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: bytes::Bytes,
}

#[derive(Debug)]
pub(crate) struct NewErasure {
    pub(crate) id: ErasureId,
    pub(crate) request: Option<String>,
    pub(crate) now_ms: u64,
    pub(crate) reason: String,
    pub(crate) actor: String,
    pub(crate) seeds: Seeds,
}

#[derive(Debug)]
pub(crate) enum BegunErasure {
    /// With the events that are to be erased.
    Begun(Vec<EventId>),
    /// This request has been made before.
    Known(ErasureId),
}

/// What erasing some events has led to.
#[derive(Debug, Default)]
pub(crate) struct ErasedBatch {
    /// Events that they had given rise to, which are to be erased as well.
    pub(crate) children: Vec<EventId>,
    /// Endpoints whose open deliveries ended.
    pub(crate) endpoints: Vec<i64>,
    /// Whether an endpoint was paused with a message that is gone now.
    pub(crate) repaused: bool,
    /// Whether keys that had been open were hidden.
    pub(crate) rehidden: bool,
}

/// A small number in SQL, a word everywhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(i64)]
pub(crate) enum ErasureState {
    Erasing = 0,
    /// The content is gone; targets are being told.
    Telling = 1,
    Complete = 2,
}

impl ErasureState {
    pub(crate) fn from_sql(number: i64) -> ErasureState {
        match number {
            0 => ErasureState::Erasing,
            1 => ErasureState::Telling,
            _ => ErasureState::Complete,
        }
    }
}

#[derive(Debug)]
pub(crate) struct ErasureRow {
    pub(crate) id: ErasureId,
    pub(crate) request: Option<String>,
    pub(crate) created_ms: u64,
    pub(crate) reason: String,
    pub(crate) actor: String,
    pub(crate) state: ErasureState,
    pub(crate) events: u64,
    /// Of them, those that are still to be erased.
    pub(crate) left: u64,
    pub(crate) notice: EventId,
    pub(crate) finished_ms: Option<u64>,
    pub(crate) recipients: Vec<RecipientRow>,
}

#[derive(Debug)]
pub(crate) struct RecipientRow {
    pub(crate) endpoint: i64,
    pub(crate) events: u64,
    pub(crate) first_ms: u64,
    pub(crate) last_ms: u64,
    /// The delivery that tells it; none where nobody can be told.
    pub(crate) told_by: Option<(DeliveryId, Status)>,
    /// When it arrived.
    pub(crate) told_ms: Option<u64>,
}

/// How far the indexing of older events is.
#[derive(Debug, Clone)]
pub(crate) struct Reindexing {
    pub(crate) cursor: EventId,
    pub(crate) upto: EventId,
    pub(crate) seen: u64,
    pub(crate) indexed: u64,
    pub(crate) started_ms: u64,
    pub(crate) finished_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_fits_a_key_and_is_none_but_its_own() {
        let walk = |makers: usize, keep_ms| Walk {
            rule: Rule::Content,
            whose: Whose::Of((0..makers).map(|at| Maker::Source(format!("source-{at}"))).collect()),
            keep_ms,
            dead_letters_ms: None,
        };
        assert_eq!(walk(2, 7).policy(), "7 of source:source-0 source:source-1");
        let long = [walk(200, 7), walk(201, 7), walk(200, 8)].map(|walk| walk.policy());
        assert!(long.iter().all(|policy| policy.len() < MAX_POLICY), "{long:?}");
        assert!(long[0] != long[1] && long[0] != long[2] && long[0] == walk(200, 7).policy(), "{long:?}");
    }
}
