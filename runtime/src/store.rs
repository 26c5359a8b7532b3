//! The truth: one narrow trait, each method one transaction. SQL is nowhere else.

pub(crate) mod rows;
pub(crate) mod sqlite;

use std::fmt;

use async_trait::async_trait;

use crate::delivery::{Begin, Delivery, Settlement};
use crate::event::{DeliveryId, ErasureId, EventId, NewDelivery, NewEvent, SubjectKey};
use crate::keyring::KeyId;
use rows::*;

/// What a caller can act upon.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{0} does not exist")]
    NotFound(String),
    /// What was asked does not go together with what is there.
    #[error("{0}")]
    Conflict(String),
    /// The database refused this row.
    #[error("the database refused it: {0}")]
    Row(Cause),
    #[error("the database failed: {0}")]
    Database(Cause),
}

/// What a database says of an error, without its text, which names values: a class and the engine's own code. This is
/// all that is kept, so nothing that prints an error, however deep, can print more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cause {
    class: &'static str,
    code: Option<i32>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} ({code})", self.class),
            None => f.write_str(self.class),
        }
    }
}

/// A class of our own: what was found in a row and cannot be, for instance.
impl From<&'static str> for Cause {
    fn from(class: &'static str) -> Cause {
        Cause { class, code: None }
    }
}

/// The names that SQLite has for its codes (https://sqlite.org/rescode.html), as far as an operator does something else
/// about each.
fn sqlite_class(extended: i32) -> &'static str {
    match extended {
        275 => "constraint: check",
        787 => "constraint: foreign key",
        1299 => "constraint: not null",
        1555 => "constraint: primary key",
        2067 => "constraint: unique",
        3091 => "constraint: type",
        _ => match extended & 0xff {
            3 => "no permission",
            5 | 6 => "busy",
            7 => "out of memory",
            8 => "read only",
            10 => "disk: I/O",
            11 => "the file is damaged",
            13 => "disk: full",
            14 => "the file cannot be opened",
            17 => "the schema has changed",
            18 => "too big",
            19 => "constraint",
            20 => "type",
            23 => "not authorized",
            26 => "not a database",
            _ => "SQL",
        },
    }
}

impl From<&sqlx::Error> for Cause {
    fn from(error: &sqlx::Error) -> Cause {
        match error {
            sqlx::Error::Database(error) => match error.code().and_then(|code| code.parse().ok()) {
                Some(code) => Cause { class: sqlite_class(code), code: Some(code) },
                None => "SQL".into(),
            },
            sqlx::Error::Io(error) => Cause { class: "I/O", code: error.raw_os_error() },
            sqlx::Error::PoolTimedOut => "no connection became free in time".into(),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => "the connection is closed".into(),
            sqlx::Error::RowNotFound => "a row is missing".into(),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => "a value cannot be read".into(),
            sqlx::Error::Encode(_) => "a value cannot be written".into(),
            _ => "the client".into(),
        }
    }
}

impl From<&rusqlite::Error> for Cause {
    fn from(error: &rusqlite::Error) -> Cause {
        match error {
            rusqlite::Error::SqliteFailure(error, _) => {
                Cause { class: sqlite_class(error.extended_code), code: Some(error.extended_code) }
            }
            rusqlite::Error::QueryReturnedNoRows => "a row is missing".into(),
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => "a value cannot be read".into(),
            rusqlite::Error::ToSqlConversionFailure(_) => "a value cannot be written".into(),
            _ => "the client".into(),
        }
    }
}

/// Bringing the tables up to date failed.
impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> StoreError {
        use sqlx::migrate::MigrateError;
        StoreError::Database(match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Cause::from(&error),
            MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
                "it was made by a later version of tomada".into()
            }
            MigrateError::VersionMismatch(_) => "a migration that it has is another than this version's".into(),
            _ => "the migrations".into(),
        })
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> StoreError {
        match &error {
            sqlx::Error::Database(refusal) if refusal.kind() != sqlx::error::ErrorKind::Other => {
                StoreError::Row(Cause::from(&error))
            }
            _ => StoreError::Database(Cause::from(&error)),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        use rusqlite::ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};
        match error.sqlite_error_code() {
            Some(ConstraintViolation | TooBig | TypeMismatch) => StoreError::Row(Cause::from(&error)),
            _ => StoreError::Database(Cause::from(&error)),
        }
    }
}

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

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

    /// Registers a node and puts what earlier ones held back into the table, but for tries that had begun and may not be
    /// repeated: those are dead letters. Answers its id and how many went back.
    async fn join(&self, now_ms: u64) -> Result<(i64, u64)>;
    /// Hands back what this node holds.
    async fn leave(&self, node: i64, now_ms: u64) -> Result<()>;

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

    // The ring's keys.

    /// The ring that the indexes here were made with, if any was.
    async fn keyring(&self) -> Result<Option<Vec<u8>>>;
    /// From now on it is this one.
    async fn set_keyring(&self, fingerprint: &[u8]) -> Result<()>;
    /// How many keys of events and secrets each of the ring's keys wraps.
    async fn wrapped(&self) -> Result<Vec<(KeyId, u64)>>;
    /// Up to `limit` keys that another key than `active` wraps.
    async fn wrapped_before(&self, active: KeyId, limit: u32) -> Result<Vec<WrappedKey>>;
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
    /// Moves the write-ahead log into the database and empties it, as far as nobody reads in it: what was removed is
    /// then in neither.
    async fn empty_log(&self) -> Result<()>;

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
    /// time: their endpoints count as having got it.
    async fn erase(
        &self,
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
    /// Writes what was changed over what was there before it, in the database's own files as well. False: somebody was
    /// reading, and it has to be tried again.
    async fn scrub(&self) -> Result<bool>;

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

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "marker-4711";

    /// Whatever may print an error: itself, for people and for debugging, and each of its sources.
    fn printed(error: StoreError) -> String {
        let error = anyhow::Error::new(error).context("doing something");
        format!("{error} {error:#} {error:?} {error:#?}")
    }

    /// A check that fails names its row in the text of some databases, a damaged value in that of others.
    #[tokio::test]
    async fn no_error_repeats_a_value() {
        use sqlx::{ConnectOptions as _, Connection as _};
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("test.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let mut sqlx = options.connect().await.unwrap();
        // SQLite itself names only columns, so these are named like a value.
        let table = format!("create table t (\"{MARKER}\" text unique check (\"{MARKER}\" <> 'no'), n integer) strict");
        sqlx::query(sqlx::AssertSqlSafe(table)).execute(&mut sqlx).await.unwrap();
        sqlx::query("insert into t values (?, 1)").bind(MARKER).execute(&mut sqlx).await.unwrap();
        let mut errors = Vec::new();
        for sql in [
            format!("insert into t values ('{MARKER}', 1)"),
            "insert into t values ('no', 1)".to_owned(),
            format!("insert into t values ('other', '{MARKER}')"),
            format!("select \"{MARKER}\" from nowhere where x = '{MARKER}'"),
            format!("say '{MARKER}'"),
        ] {
            let sql = sqlx::AssertSqlSafe(sql);
            errors.push(StoreError::from(sqlx::query(sql).execute(&mut sqlx).await.unwrap_err()));
        }
        let wrong: std::result::Result<i64, _> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select \"{MARKER}\" from t"))).fetch_one(&mut sqlx).await;
        errors.push(wrong.unwrap_err().into());
        sqlx.close().await.unwrap();
        let direct = rusqlite::Connection::open(&file).unwrap();
        for sql in [
            format!("insert into t values ('{MARKER}', 1)"),
            format!("insert into t values ('other', '{MARKER}')"),
            format!("insert into nowhere values ('{MARKER}')"),
        ] {
            errors.push(direct.execute(&sql, []).unwrap_err().into());
        }
        let wrong = direct.query_row(&format!("select \"{MARKER}\" from t"), [], |row| row.get::<_, i64>(0));
        errors.push(wrong.unwrap_err().into());
        let printed: Vec<String> = errors.into_iter().map(printed).collect();
        for text in &printed {
            assert!(!text.contains(MARKER) && !text.contains("nowhere"), "{text}");
        }
        for (at, expected) in [
            (0, "the database refused it: constraint: unique (2067)"),
            (1, "the database refused it: constraint: check (275)"),
            (2, "constraint: type (3091)"),
            (3, "the database failed: SQL (1)"),
            (5, "the database failed: a value cannot be read"),
            (6, "the database refused it: constraint: unique (2067)"),
            (9, "the database failed: a value cannot be read"),
        ] {
            assert!(printed[at].contains(expected), "{at}: {}", printed[at]);
        }
    }
}
