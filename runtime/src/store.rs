//! The truth: one narrow trait, each method one transaction. SQL is nowhere else.

mod batch;
#[cfg(test)]
mod conformance;
mod database;
mod error;
pub(crate) mod migrate;
mod mysql;
mod postgres;
pub(crate) mod probe;
pub(crate) mod rows;
pub(crate) mod scratch;
mod sql;
mod sql_store;
pub(crate) mod sqlite;
mod tables;

use std::time::Duration;

use async_trait::async_trait;

use crate::delivery::{Begin, Delivery, Settlement};
use crate::event::{DeliveryId, ErasureId, EventId, NewDelivery, NewEvent, SubjectKey};
use crate::ingress::key::{Key, LABEL};
use crate::keyring::{KeyId, Keyring};
pub(crate) use error::StoreError;
use rows::*;
pub(crate) use sql_store::SqlStore;

/// Is told a revision, and must not wait for anything.
pub(crate) type Tell = Box<dyn Fn(i64) + Send + Sync>;

/// How long a node counts as alive after it has said so.
pub(crate) const LEASE: Duration = Duration::from_secs(9);

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Whether a node serves this database, other than one that is about to join.
pub(crate) async fn is_open(store: &dyn Store) -> Result<bool> {
    Ok(store.nodes().await?.iter().any(|node| node.lease_ms > 0))
}

/// One piece of work for the committer.
#[derive(Debug)]
pub(crate) enum Work {
    Accept(NewEvent),
    /// Puts a try on record before it begins, for endpoints that take each delivery at most once.
    Begin(Begin),
    Settle(Box<Settlement>),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    /// The event that the key stands for: this one, or the one that was first.
    Accepted {
        id: EventId,
        duplicate: bool,
    },
    Begun,
    /// `emitted[i]`: whether the i-th emitted event is new.
    Settled {
        emitted: Vec<bool>,
    },
    /// The delivery was no longer this node's: nothing was changed.
    Stale,
}

/// How a key is recognised that stands in the table in its other form.
#[derive(Clone, Copy)]
pub(crate) struct Known<'r> {
    pub(crate) ring: &'r Keyring,
    /// Whether keys of erased events were hidden that had been open: only then an open key is looked up twice.
    pub(crate) rehidden: bool,
}

impl Known<'_> {
    /// The form in which the key could stand in the table as well: it was open before its source was about people, and it
    /// is hidden since its event was erased.
    fn other_form(self, key: &Key) -> Option<Vec<u8>> {
        match &key.open {
            Some(open) => Some(open.clone()),
            None => self.rehidden.then(|| Key::hidden(&key.index, |index| self.ring.index(LABEL, &[index]))),
        }
    }
}

#[async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    // The hot path.

    /// Accepts events and settles deliveries in one durable transaction; answers in the order of the work.
    async fn commit(&self, node: i64, work: &[Work]) -> Result<Vec<Done>>;
    /// Takes up to `limit` owed deliveries of an endpoint that nobody holds, best first.
    async fn claim(&self, node: i64, endpoint: i64, limit: u32) -> Result<Vec<Delivery>>;
    /// Takes up to `limit` deliveries whose time has come out of the retry queue. Those with an ordering key go back
    /// to the table, where the claim keeps their order.
    async fn promote(&self, node: i64, now_ms: u64, limit: u32) -> Result<Promoted>;
    /// When the next delivery of the retry queue is due.
    async fn next_due(&self) -> Result<Option<u64>>;
    /// Endpoints with owed deliveries that nobody holds.
    async fn backlog(&self) -> Result<Vec<i64>>;

    // A node's life.

    /// Whether other processes may work on the same database.
    fn is_shared(&self) -> bool;
    /// Registers a node, by the name of its machine, with a [`LEASE`]. Where only one process at a time serves a database,
    /// what earlier ones held goes back into the table, but for tries that had begun and may not be repeated: those are
    /// dead letters. Answers its id and how many went back.
    async fn join(&self, name: &str, now_ms: u64) -> Result<(i64, u64)>;
    /// Ends a node's number and hands back what it holds; answers how many that were.
    async fn leave(&self, node: i64, now_ms: u64) -> Result<u64>;
    /// Renews a node's lease, and says which versions run there. [`StoreError::Fenced`] when it was declared dead.
    async fn renew(&self, node: i64, running: &str) -> Result<()>;
    /// Declares those dead whose lease is over, and hands back what they hold, as in [`join`](Self::join).
    async fn reap(&self, now_ms: u64) -> Result<Vec<ReapedRow>>;
    /// Those that are there.
    async fn nodes(&self) -> Result<Vec<NodeRow>>;
    /// Counts the changes of what every node holds in memory: catalog, mappings, versions in force, secrets, erasures.
    async fn revision(&self) -> Result<i64>;
    /// Says who is told, right after the commit, of changes that are made through this store.
    fn on_change(&self, tell: Tell);

    // The catalog.

    async fn catalog(&self) -> Result<CatalogRows>;
    /// Makes the catalog match; rows that deliveries may still point to are kept, marked as removed.
    async fn put_catalog(&self, change: &CatalogChange, now_ms: u64) -> Result<()>;
    /// Pauses with a reason, or resumes with none; resuming makes held deliveries owed again.
    async fn pause(&self, endpoint: i64, reason: Option<&str>) -> Result<()>;

    // Schedules and sync jobs.

    /// All of them, with when each was fired last.
    async fn schedules(&self) -> Result<Vec<ScheduleRow>>;
    /// Notes that a schedule was fired at `now_ms`, unless somebody else did since `fired_ms`.
    async fn fired(&self, name: &str, fired_ms: u64, now_ms: u64) -> Result<()>;
    /// Begins a run of a sync job, unless one is under way.
    async fn begin_sync(&self, run: &NewSyncRun) -> Result<Begun>;
    /// Runs that are under way.
    async fn running_syncs(&self) -> Result<Vec<SyncRunRow>>;
    /// The last runs of a sync job, newest first.
    async fn sync_runs(&self, name: &str, limit: u32) -> Result<Vec<SyncRunRow>>;

    // Mappings.

    /// Every mapping there ever was, by name.
    async fn mappings(&self) -> Result<Vec<MappingSummary>>;
    /// All versions of a mapping, newest first; [`StoreError::NotFound`] when there is none.
    async fn mapping(&self, name: &str) -> Result<Vec<MappingVersion>>;
    /// Stores a new version, the first when there is none yet, and puts it in force when asked. Answers its number;
    /// [`StoreError::Conflict`] when another version is in force than `expected` says.
    async fn put_mapping(&self, new: &NewMapping, now_ms: u64) -> Result<i64>;
    /// Puts a stored version in force instead of what is; [`StoreError::NotFound`] when there is none of this number.
    async fn activate_mapping(&self, name: &str, version: i64) -> Result<()>;
    /// The newest events of these types, newest first, as far as they are among the latest [`rows::SEARCHED`].
    async fn latest_events(&self, types: &[String], limit: u32) -> Result<Vec<EventId>>;

    // Connectors.

    /// Stores a version unless its digest is known under this name; activates it when asked. Answers its row.
    async fn put_version(&self, version: &NewVersion, activate: bool, now_ms: u64) -> Result<VersionRow>;
    async fn activate(&self, name: &str, digest: &str) -> Result<()>;
    async fn connectors(&self) -> Result<Vec<ConnectorRow>>;
    async fn versions(&self) -> Result<Vec<VersionRow>>;
    async fn component(&self, version: i64) -> Result<Vec<u8>>;

    // What operators look at.

    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRow>>;
    async fn event(&self, id: EventId) -> Result<EventDetail>;
    async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRow>>;
    /// Makes one settled delivery owed again, with its attempts kept and its charge forgotten.
    async fn replay(&self, delivery: DeliveryId) -> Result<()>;
    /// Makes up to `limit` dead letters owed again, oldest first. Answers how many.
    async fn replay_dead(&self, endpoint: Option<i64>, limit: u32) -> Result<u64>;
    /// Deliveries by endpoint and state, delivered ones left out.
    async fn unfinished(&self) -> Result<Vec<(i64, i64, u64)>>;

    // Keys.

    async fn put_key(&self, key: &KeyRow) -> Result<()>;
    async fn key(&self, id: &str) -> Result<Option<KeyRow>>;
    /// All there ever were, oldest first.
    async fn keys(&self) -> Result<Vec<KeyRow>>;
    /// Puts a new hash in place of the one there is, which stays good until then. [`StoreError::NotFound`] when there is
    /// no such key, [`StoreError::Conflict`] when it is revoked.
    async fn rotate_key(&self, id: &str, hash: &[u8], previous_until_ms: u64) -> Result<()>;
    /// [`StoreError::NotFound`] when there is no such key; one that is revoked already stays so since then.
    async fn revoke_key(&self, id: &str, now_ms: u64) -> Result<()>;
    async fn key_used(&self, id: &str, now_ms: u64) -> Result<()>;

    // The ring and the pepper.

    /// The ring that the indexes here were made with, if any was.
    async fn keyring(&self) -> Result<Option<Vec<u8>>>;
    /// From now on it is this one.
    async fn set_keyring(&self, fingerprint: &[u8]) -> Result<()>;
    /// The pepper that the hashes of keys here were made with, if any was, by its fingerprint.
    async fn pepper(&self) -> Result<Option<Vec<u8>>>;
    /// From now on it is this one.
    async fn set_pepper(&self, fingerprint: &[u8]) -> Result<()>;
    /// Keys of the ring that wrap something here, or may.
    async fn wrapping_keys(&self) -> Result<Vec<KeyId>>;
    /// Before a key wraps for the first time. Twice is as good as once.
    async fn add_wrapping_key(&self, id: KeyId) -> Result<()>;
    /// For who knows that it wraps nothing any more.
    async fn remove_wrapping_key(&self, id: KeyId) -> Result<()>;
    /// The wrapped keys of stored secrets, all of them.
    async fn wrapped_secrets(&self) -> Result<Vec<WrappedKey>>;
    /// Looks at the next `limit` events after that one, sealed or not.
    async fn wrapped_events(&self, after: EventId, limit: u32) -> Result<WrappedPage>;
    /// Puts newly wrapped keys in place of those that `was` wrapped; what is gone meanwhile stays gone.
    async fn rewrap(&self, keys: &[WrappedKey]) -> Result<()>;

    // Stored secrets.

    /// By name and version.
    async fn secrets(&self) -> Result<Vec<SecretRow>>;
    /// Stores a new version, sealed. The one before counts until `previous_until_ms`, those that count no longer are
    /// deleted. Answers its number.
    async fn put_secret(&self, name: &str, value: &[u8], previous_until_ms: u64, now_ms: u64) -> Result<i64>;
    /// Every version; [`StoreError::NotFound`] when there is none.
    async fn remove_secret(&self, name: &str) -> Result<()>;

    // The audit log. Rows are added at one end and removed at the other, and never changed.

    /// The newest row, or [`AuditHead::start`] when there is none.
    async fn audit_head(&self) -> Result<AuditHead>;
    /// Adds a row; [`StoreError::Conflict`] when the newest one is not what it follows.
    async fn append_audit(&self, after: &AuditHead, row: &AuditRow) -> Result<()>;
    /// The same, and removes the rows up to and with `through` in the same transaction. Answers how many.
    async fn prune_audit(&self, after: &AuditHead, row: &AuditRow, through: i64) -> Result<u64>;
    /// Up to `limit` rows after that one, oldest first.
    async fn audit_rows(&self, after: i64, limit: u32) -> Result<Vec<AuditRow>>;
    async fn audit_log(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>>;

    // Retention.

    /// One step of a walk: looks at what comes after `place` and is due, removes what is over, and remembers what is not.
    /// At most [`rows::STEP`] events are changed, in one transaction.
    async fn retire(&self, walk: &Walk, place: i64, now_ms: u64) -> Result<Step>;
    /// The same for events that the rule's walks had passed because they were not over; `walks` are all of the rule.
    async fn retire_stragglers(&self, rule: Rule, walks: &[Walk], place: i64, now_ms: u64) -> Result<Step>;
    /// Where a walk goes on: after the last step that it made, or at the beginning. Forgets the walks of the same rule
    /// under policies that are none of `policies`, so that coming back to one begins anew.
    async fn retention_place(&self, walk: &Walk, policies: &[String], now_ms: u64) -> Result<i64>;
    /// One step of the round through the idempotency keys of events that came before `before_ms`; those of events
    /// whose content is there are left.
    async fn retire_keys(&self, before_ms: u64) -> Result<Step>;
    /// Up to [`rows::STEP`] runs that began before `before_ms` and have ended.
    async fn retire_sync_runs(&self, before_ms: u64) -> Result<u64>;
    /// When the oldest row that a walk should have removed by now was created; none when there is none.
    async fn oldest_due(&self, walk: &Walk, now_ms: u64) -> Result<Option<u64>>;
    /// The same for idempotency keys and for runs of sync jobs.
    async fn oldest_key_due(&self, before_ms: u64) -> Result<Option<u64>>;
    async fn oldest_sync_run_due(&self, before_ms: u64) -> Result<Option<u64>>;
    /// How many rows each rule has removed, ever.
    async fn retired(&self) -> Result<Vec<(Rule, u64)>>;

    // People.

    /// Up to `limit` of the events that name a person, and how many there are.
    async fn find_subject(&self, seeds: &Seeds, before: Option<EventId>, limit: u32) -> Result<Found>;
    /// Who got what of these events, by endpoint, at most `limit` rows.
    async fn received(&self, seeds: &Seeds, limit: u32) -> Result<Vec<ReceivedRow>>;
    async fn coverage(&self) -> Result<Coverage>;
    /// Contents of events after one and up to another, oldest first: up to `limit`, and no more after 16 MiB.
    async fn contents(&self, after: EventId, upto: EventId, limit: u32) -> Result<Vec<ContentRow>>;
    async fn newest_event(&self) -> Result<Option<EventId>>;

    /// Notes what is to be erased, and stores the event that will tell of it, which nobody is owed yet.
    async fn begin_erasure(&self, new: &NewErasure, notice: &NewEvent) -> Result<BegunErasure>;
    /// Erasures that are not complete, oldest first.
    async fn open_erasures(&self) -> Result<Vec<(ErasureId, ErasureState)>>;
    /// Up to `limit` events that are still to be erased.
    async fn to_erase(&self, erasure: ErasureId, limit: u32) -> Result<Vec<EventId>>;
    /// Erases the content of these events and ends their open deliveries. `under_way` are tries that did not end in
    /// time: their endpoints count as having got it, and so do those of deliveries that other nodes than `node` hold.
    async fn erase(
        &self,
        node: i64,
        erasure: ErasureId,
        events: &[EventId],
        under_way: &[DeliveryId],
        now_ms: u64,
    ) -> Result<ErasedBatch>;
    /// Owes the erasure's notice; `told` says which recipient is told by which of the deliveries.
    async fn tell(&self, erasure: ErasureId, deliveries: &[NewDelivery], told: &[(i64, DeliveryId)]) -> Result<()>;
    /// Takes back the notices that nobody is owed any more. Answers how many erasures are complete with that.
    async fn close_erasures(&self, now_ms: u64) -> Result<u64>;
    /// Takes a notice back though somebody was not told: its open deliveries end.
    async fn close_erasure(&self, erasure: ErasureId, now_ms: u64) -> Result<()>;
    /// Newest first.
    async fn erasures(&self, only: Option<ErasureId>, limit: u32) -> Result<Vec<ErasureRow>>;
    /// Moves what was changed into the database's own files, over what was there before it, as far as nobody reads what
    /// was: what was removed is in neither then. False: somebody was reading, and it has to be tried again. `may_wait`
    /// says whether to wait for them a while.
    async fn scrub(&self, may_wait: bool) -> Result<bool>;

    async fn reindexing(&self) -> Result<Option<Reindexing>>;
    /// Begins to index all events up to the newest one, unless that is under way.
    async fn begin_reindexing(&self, now_ms: u64) -> Result<()>;
    /// Puts these keys in place of what the events were found under, and moves on; with a time it is finished.
    async fn reindex(
        &self,
        events: &[(EventId, Vec<SubjectKey>)],
        cursor: EventId,
        finished_ms: Option<u64>,
    ) -> Result<()>;
}
