//! The embedded database: SQLite in WAL mode, every commit fsynced, one writer, readers beside it.

pub(crate) mod audit;
mod content;
mod hot;
mod keys;
mod mappings;
mod privacy;
mod retention;
mod schedules;
mod secrets;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::block_in_place;

use super::rows::*;
use super::{Done, Result, Store, StoreError, Work};
use crate::clock::ID_STRIDE;
use crate::delivery::{Delivery, Outcome, Said, Status};
use crate::event::{DeliveryId, ErasureId, Event, EventId, NewDelivery, NewEvent, SubjectKey};
use crate::keyring::{KeyId, Keyring};
use content::Stored;

/// The first release without the WAL-reset corruption (https://sqlite.org/wal.html#walresetbug).
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// How long a statement waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct SqliteStore {
    /// Whoever holds it has the transaction to themselves.
    writer: Mutex<Writer>,
    readers: SqlitePool,
    /// Opens what is sealed.
    ring: Arc<Keyring>,
    /// See [`hot::Known`].
    rehidden: AtomicBool,
}

/// The one connection that writes, held twice: by sqlx, and directly for the hot path.
struct Writer {
    /// Dropped first: its statements end before the connection does.
    direct: rusqlite::Connection,
    sqlx: SqliteConnection,
}

impl SqliteStore {
    /// Opens or creates the file and brings its tables up to date.
    pub(crate) async fn open(path: &Path, ring: Arc<Keyring>) -> anyhow::Result<SqliteStore> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A 202 means fsynced. Shared commits make FULL cost next to nothing (see the design's figures).
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(256)
            // 64 MiB of pages: the unique index of idempotency keys is touched at random.
            .pragma("cache_size", "-65536")
            // Fewer checkpoints, each of them longer; the default of 1,000 pages would run one every few dozen commits.
            .pragma("wal_autocheckpoint", "8000")
            // What is removed is overwritten, and not left for whoever reads the file.
            .pragma("secure_delete", "on")
            .disable_statement_logging();
        let mut writer = options.connect().await.map_err(StoreError::from)?;
        let version = sqlx::query_scalar("select sqlite_version()").fetch_one(&mut writer).await;
        let version: String = version.map_err(StoreError::from)?;
        let numbers: Vec<u32> = version.split('.').filter_map(|n| u32::from_str(n).ok()).collect();
        if let [major, minor, patch] = numbers[..]
            && (major, minor, patch) < OLDEST_SQLITE
        {
            anyhow::bail!("SQLite {version} can corrupt its write-ahead log; 3.51.3 or later is needed");
        }
        sqlx::migrate!("../migrations/sqlite").run(&mut writer).await.map_err(StoreError::from)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options.read_only(true).create_if_missing(false).pragma("query_only", "on"))
            .await
            .map_err(StoreError::from)?;
        let rehidden = sqlx::query_scalar("select exists (select 1 from erasures where rehidden > 0)");
        let rehidden: bool = rehidden.fetch_one(&mut writer).await.map_err(StoreError::from)?;
        Ok(SqliteStore {
            rehidden: AtomicBool::new(rehidden),
            writer: Mutex::new(Writer { direct: borrow(&mut writer).await?, sqlx: writer }),
            readers,
            ring,
        })
    }

    fn known(&self) -> hot::Known<'_> {
        hot::Known { ring: &self.ring, rehidden: self.rehidden.load(Ordering::Relaxed) }
    }

    /// A transaction without sqlx's thread between.
    async fn direct<T>(&self, body: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>) -> Result<T> {
        let writer = self.writer.lock().await;
        block_in_place(|| Ok(hot::transaction(&writer.direct, body)?))
    }

    async fn begin(&self) -> Result<Transaction<'_>> {
        let mut writer = self.writer.lock().await;
        let conn = &mut writer.sqlx;
        // A future that was dropped between BEGIN and COMMIT left its transaction open; nothing of it was promised.
        if sqlx::query("begin immediate").execute(&mut *conn).await.is_err() {
            sqlx::query("rollback").execute(&mut *conn).await?;
            sqlx::query("begin immediate").execute(&mut *conn).await?;
        }
        Ok(Transaction { writer })
    }

    /// Runs `body` in a transaction: committed when it succeeds, rolled back when it does not.
    async fn transaction<T>(&self, body: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T>) -> Result<T> {
        let mut tx = self.begin().await?;
        match body(&mut tx.writer.sqlx).await {
            Ok(value) => {
                tx.commit().await?;
                Ok(value)
            }
            Err(error) => {
                tx.rollback().await;
                Err(error)
            }
        }
    }
}

/// The same connection without sqlx's thread between. Only whoever holds the [`Writer`] may use either of the two, so
/// never both at once.
#[allow(unsafe_code, reason = "two libraries share one connection")]
async fn borrow(connection: &mut SqliteConnection) -> Result<rusqlite::Connection> {
    let handle = connection.lock_handle().await?.as_raw_handle();
    // SAFETY: the handle is open as long as `Writer.sqlx` lives, and what is made of it is dropped before and does not
    // close it. Both libraries link the same SQLite.
    let direct = unsafe { rusqlite::Connection::from_handle(handle.as_ptr()) }?;
    direct.set_prepared_statement_cache_capacity(64);
    Ok(direct)
}

struct Transaction<'a> {
    writer: MutexGuard<'a, Writer>,
}

impl Transaction<'_> {
    async fn commit(mut self) -> Result<()> {
        if let Err(error) = sqlx::query("commit").execute(&mut self.writer.sqlx).await {
            self.rollback().await;
            return Err(error.into());
        }
        Ok(())
    }

    async fn rollback(mut self) {
        // It fails when SQLite has rolled back by itself, which is what is wanted.
        let _ = sqlx::query("rollback").execute(&mut self.writer.sqlx).await;
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, node: i64, work: &[Work]) -> Result<Vec<Done>> {
        let writer = self.writer.lock().await;
        Ok(hot::transaction(&writer.direct, |db| hot::commit(db, self.known(), node, work))?)
    }

    async fn claim(&self, node: i64, endpoint: i64, limit: u32) -> Result<Vec<Delivery>> {
        let writer = self.writer.lock().await;
        block_in_place(|| Ok(hot::transaction(&writer.direct, |db| hot::claim(db, &self.ring, node, endpoint, limit))?))
    }

    async fn promote(&self, node: i64, now_ms: u64, limit: u32) -> Result<Promoted> {
        let writer = self.writer.lock().await;
        block_in_place(|| Ok(hot::transaction(&writer.direct, |db| hot::promote(db, &self.ring, node, now_ms, limit))?))
    }

    async fn next_due(&self) -> Result<Option<u64>> {
        let due: Option<i64> =
            sqlx::query_scalar("select min(next_retry_at) from retry_queue").fetch_one(&self.readers).await?;
        Ok(due.map(|due| due as u64))
    }

    async fn backlog(&self) -> Result<Vec<i64>> {
        Ok(sqlx::query_scalar(
            "select id from webhook_endpoints p where exists (select 1 from webhook_deliveries d \
             where d.node_id = 0 and d.endpoint_id = p.id and d.status = 0)",
        )
        .fetch_all(&self.readers)
        .await?)
    }

    async fn join(&self, now_ms: u64) -> Result<(i64, u64)> {
        self.transaction(async |conn| {
            let node = sqlx::query("insert into nodes (started_at) values (?)")
                .bind(now_ms as i64)
                .execute(&mut *conn)
                .await?
                .last_insert_rowid();
            // One process at a time serves a SQLite file, so whoever else holds something is gone.
            bury_interrupted(conn, now_ms).await?;
            let freed = sqlx::query("update webhook_deliveries set node_id = 0 where status = 0 and node_id > 0")
                .execute(&mut *conn)
                .await?
                .rows_affected();
            Ok((node, freed))
        })
        .await
    }

    async fn leave(&self, node: i64, now_ms: u64) -> Result<()> {
        self.transaction(async |conn| {
            // Those that did not end before the hub had to.
            bury_interrupted(conn, now_ms).await?;
            sqlx::query("update webhook_deliveries set node_id = 0 where status = 0 and node_id = ?")
                .bind(node)
                .execute(&mut *conn)
                .await?;
            sqlx::query("update nodes set left_at = ? where id = ?")
                .bind(now_ms as i64)
                .bind(node)
                .execute(&mut *conn)
                .await?;
            Ok(())
        })
        .await
    }

    async fn catalog(&self) -> Result<CatalogRows> {
        let conn = &mut *self.readers.acquire().await?;
        let mut catalog = CatalogRows::default();
        for row in sqlx::query("select name, config from sources order by name").fetch_all(&mut *conn).await? {
            catalog.sources.push((row.try_get(0)?, row.try_get(1)?));
        }
        for row in sqlx::query("select id, name, config from queues order by id").fetch_all(&mut *conn).await? {
            catalog.queues.push((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        }
        let endpoints = sqlx::query("select id, name, config, paused, removed_at from webhook_endpoints order by name");
        for row in endpoints.fetch_all(&mut *conn).await? {
            catalog.endpoints.push(EndpointRow {
                id: row.try_get(0)?,
                name: row.try_get(1)?,
                config: row.try_get(2)?,
                paused: row.try_get(3)?,
                removed: row.try_get::<Option<i64>, _>(4)?.is_some(),
            });
        }
        let routes = sqlx::query("select id, endpoint_id, config, removed_at from routes order by id");
        for row in routes.fetch_all(&mut *conn).await? {
            catalog.routes.push(RouteRow {
                id: row.try_get(0)?,
                endpoint: row.try_get(1)?,
                config: row.try_get(2)?,
                removed: row.try_get::<Option<i64>, _>(3)?.is_some(),
            });
        }
        catalog.mappings = mappings::in_force(conn).await?;
        catalog.schedules = schedules::all(conn).await?;
        catalog.secrets = secrets::all(conn, &self.ring).await?;
        Ok(catalog)
    }

    async fn put_catalog(&self, change: &CatalogChange, now_ms: u64) -> Result<()> {
        self.transaction(async |conn| put_catalog(conn, change, now_ms as i64).await).await
    }

    async fn pause(&self, endpoint: i64, reason: Option<&str>) -> Result<()> {
        self.transaction(async |conn| {
            sqlx::query("update webhook_endpoints set paused = ? where id = ?")
                .bind(reason.map(str::to_owned))
                .bind(endpoint)
                .execute(&mut *conn)
                .await?;
            if reason.is_none() {
                sqlx::query(
                    "update webhook_deliveries set status = 0, node_id = 0 where endpoint_id = ? and status = 5",
                )
                .bind(endpoint)
                .execute(&mut *conn)
                .await?;
            }
            Ok(())
        })
        .await
    }

    async fn schedules(&self) -> Result<Vec<ScheduleRow>> {
        schedules::all(&mut *self.readers.acquire().await?).await
    }

    async fn fired(&self, name: &str, fired_ms: u64, now_ms: u64) -> Result<()> {
        self.transaction(async |conn| {
            schedules::fired(conn, ScheduleKind::Schedule, name, fired_ms, now_ms).await.map(drop)
        })
        .await
    }

    async fn begin_sync(&self, run: &NewSyncRun) -> Result<Begun> {
        self.transaction(async |conn| schedules::begin(conn, run).await).await
    }

    async fn running_syncs(&self) -> Result<Vec<SyncRunRow>> {
        schedules::running(&self.readers).await
    }

    async fn sync_runs(&self, name: &str, limit: u32) -> Result<Vec<SyncRunRow>> {
        schedules::runs(&self.readers, name, limit).await
    }

    async fn put_version(&self, version: &NewVersion, activate: bool, now_ms: u64) -> Result<VersionRow> {
        self.transaction(async |conn| {
            let kind: Option<String> = sqlx::query_scalar("select kind from connectors where name = ?")
                .bind(version.name.clone())
                .fetch_optional(&mut *conn)
                .await?;
            if let Some(kind) = kind.filter(|kind| kind != version.kind) {
                let (name, new) = (&version.name, version.kind);
                return Err(StoreError::Conflict(format!(
                    "{name} is a {kind} and this component is a {new}: push it under another name"
                )));
            }
            sqlx::query("insert or ignore into connectors (name, kind) values (?, ?)")
                .bind(version.name.clone())
                .bind(version.kind)
                .execute(&mut *conn)
                .await?;
            sqlx::query(
                "insert or ignore into connector_versions (name, digest, manifest, component, created_at) \
                 values (?, ?, ?, ?, ?)",
            )
            .bind(version.name.clone())
            .bind(version.digest.clone())
            .bind(version.manifest.clone())
            .bind(version.component.clone())
            .bind(now_ms as i64)
            .execute(&mut *conn)
            .await?;
            let row = sqlx::query(AssertSqlSafe(format!("{VERSION} where name = ? and digest = ?")))
                .bind(version.name.clone())
                .bind(version.digest.clone())
                .fetch_one(&mut *conn)
                .await?;
            let row = version_row(&row)?;
            if activate {
                set_active(conn, &version.name, row.id).await?;
            }
            Ok(row)
        })
        .await
    }

    async fn activate(&self, name: &str, digest: &str) -> Result<()> {
        self.transaction(async |conn| {
            let version: Option<i64> =
                sqlx::query_scalar("select id from connector_versions where name = ? and digest = ?")
                    .bind(name.to_owned())
                    .bind(digest.to_owned())
                    .fetch_optional(&mut *conn)
                    .await?;
            let version = version.ok_or_else(|| StoreError::NotFound(format!("version {digest} of {name}")))?;
            set_active(conn, name, version).await
        })
        .await
    }

    async fn connectors(&self) -> Result<Vec<ConnectorRow>> {
        sqlx::query("select name, kind, active, previous from connectors order by name")
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(|row| {
                Ok(ConnectorRow {
                    name: row.try_get(0)?,
                    kind: row.try_get(1)?,
                    active: row.try_get(2)?,
                    previous: row.try_get(3)?,
                })
            })
            .collect()
    }

    async fn versions(&self) -> Result<Vec<VersionRow>> {
        sqlx::query(AssertSqlSafe(format!("{VERSION} order by id desc")))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(version_row)
            .collect()
    }

    async fn mappings(&self) -> Result<Vec<MappingSummary>> {
        mappings::all(&mut *self.readers.acquire().await?).await
    }

    async fn mapping(&self, name: &str) -> Result<Vec<MappingVersion>> {
        mappings::versions(&mut *self.readers.acquire().await?, name).await
    }

    async fn put_mapping(&self, new: &NewMapping, now_ms: u64) -> Result<i64> {
        self.transaction(async |conn| mappings::put(conn, new, now_ms as i64).await).await
    }

    async fn activate_mapping(&self, name: &str, version: i64) -> Result<()> {
        self.transaction(async |conn| mappings::activate(conn, name, version).await).await
    }

    async fn latest_events(&self, types: &[String], limit: u32) -> Result<Vec<EventId>> {
        mappings::latest_events(&mut *self.readers.acquire().await?, types, limit).await
    }

    async fn component(&self, version: i64) -> Result<Vec<u8>> {
        sqlx::query_scalar("select component from connector_versions where id = ?")
            .bind(version)
            .fetch_optional(&self.readers)
            .await?
            .ok_or_else(|| StoreError::NotFound(format!("component version {version}")))
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRow>> {
        let conn = &mut *self.readers.acquire().await?;
        let rows = sqlx::query(
            "select id, source, event_type, status, created_at, parent_id, content from integration_events \
             where id < ?1 and (?2 is null or event_type = ?2) and (?3 is null or source = ?3) \
             and (?4 = 0 or status <> 0) and (?5 is null or parent_id = ?5) order by id desc limit ?6",
        )
        .bind(filter.before.map_or(i64::MAX, |id| id.0))
        .bind(filter.event_type.clone())
        .bind(filter.source.clone())
        .bind(filter.unrouted)
        .bind(filter.parent.map(|id| id.0))
        .bind(filter.limit)
        .fetch_all(&mut *conn)
        .await?;
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            events.push(event_row(conn, &row).await?);
        }
        Ok(events)
    }

    async fn event(&self, id: EventId) -> Result<EventDetail> {
        let conn = &mut *self.readers.acquire().await?;
        let row = sqlx::query(
            "select id, source, event_type, status, created_at, parent_id, content, content_type, headers, payload, \
             idempotency_key, sealed, key_id, wrapped from integration_events where id = ?",
        )
        .bind(id.0)
        .fetch_optional(&mut *conn)
        .await?
        .ok_or_else(|| StoreError::NotFound(format!("event {id}")))?;
        let opened = Stored {
            event: id.0,
            content: ContentState::from_sql(row.try_get(6)?),
            headers: row.try_get(8)?,
            payload: row.try_get(9)?,
            envelope: row.try_get(11)?,
            key: row.try_get::<Option<u32>, _>(12)?.map(KeyId).zip(row.try_get::<Option<&[u8]>, _>(13)?),
        }
        .open(&self.ring);
        let event = Event {
            id,
            source: row.try_get::<&str, _>(1)?.into(),
            event_type: row.try_get::<&str, _>(2)?.into(),
            created_ms: row.try_get::<i64, _>(4)? as u64,
            parent: row.try_get::<Option<i64>, _>(5)?.map(DeliveryId),
            content_type: row.try_get::<&str, _>(7)?.into(),
            headers: opened.headers,
            payload: opened.payload,
            content: opened.content,
        };
        let key = opened.shown.map_or_else(|| row.try_get(10), Ok)?;
        let row = event_row(conn, &row).await?;
        let mut attempts = Vec::new();
        let mut children = Vec::new();
        for delivery in &row.deliveries {
            let rows = sqlx::query(
                "select a.delivery_id, a.number, a.started_at, a.duration_us, a.outcome, a.http_status, a.code, \
                 a.message, c.digest, m.digest, a.log, e.name, e.version, a.sealed from delivery_attempts a \
                 left join connector_versions c on c.id = a.connector_version \
                 left join connector_versions m on m.id = a.mapping_version \
                 left join event_mappings e on e.id = a.mapping_id where a.delivery_id = ? order by a.number",
            )
            .bind(delivery.id.0)
            .fetch_all(&mut *conn)
            .await?;
            for row in rows {
                let number = row.try_get(1)?;
                let sealed: Option<&[u8]> = row.try_get(13)?;
                let said = sealed.map(|sealed| content::said(event.content.key(), delivery.id.0, number, sealed));
                let said = said.unwrap_or_default();
                attempts.push(AttemptRow {
                    delivery: DeliveryId(row.try_get(0)?),
                    number,
                    started_ms: row.try_get::<i64, _>(2)? as u64,
                    duration_us: row.try_get::<i64, _>(3)? as u64,
                    outcome: Outcome::from_sql(row.try_get(4)?),
                    http_status: row.try_get(5)?,
                    code: said.code.map_or_else(|| row.try_get(6), |code| Ok(Some(code)))?,
                    message: said.message.map_or_else(|| row.try_get(7), |message| Ok(Some(message)))?,
                    connector_digest: row.try_get(8)?,
                    mapping_digest: row.try_get(9)?,
                    log: said.log.map_or_else(|| row.try_get(10), |log| Ok(Some(log)))?,
                    mapping: row.try_get::<Option<String>, _>(11)?.zip(row.try_get(12)?),
                });
            }
            let rows = sqlx::query(
                "select id, source, event_type, status, created_at, parent_id, content from integration_events \
                 where parent_id = ? order by id",
            )
            .bind(delivery.id.0)
            .fetch_all(&mut *conn)
            .await?;
            for row in rows {
                children.push(event_row(conn, &row).await?);
            }
        }
        Ok(EventDetail { event, key, row, attempts, children })
    }

    async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRow>> {
        let rows = sqlx::query(
            "select l.delivery_id, l.event_id, e.event_type, l.endpoint_id, l.reason, l.http_status, l.code, \
             l.message, d.tries, l.created_at, e.key_id, e.wrapped, a.sealed \
             from dead_letter l join integration_events e on e.id = l.event_id \
             join webhook_deliveries d on d.id = l.delivery_id \
             left join delivery_attempts a on a.delivery_id = l.delivery_id and a.number = d.tries \
             where l.delivery_id < ?1 and (?2 is null or l.endpoint_id = ?2) order by l.delivery_id desc limit ?3",
        )
        .bind(filter.before.map_or(i64::MAX, |id| id.0))
        .bind(filter.endpoint)
        .bind(filter.limit)
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let (delivery, event) = (row.try_get(0)?, row.try_get(1)?);
                let tries = row.try_get(8)?;
                let said = match row.try_get::<Option<&[u8]>, _>(12)? {
                    Some(sealed) => {
                        let key = content::event_key(&self.ring, event, row, 10)?;
                        content::said(key.as_ref(), delivery, tries, sealed)
                    }
                    None => Said::default(),
                };
                Ok(DeadLetterRow {
                    delivery: DeliveryId(delivery),
                    event: EventId(event),
                    event_type: row.try_get(2)?,
                    endpoint: row.try_get(3)?,
                    reason: Outcome::from_sql(row.try_get(4)?),
                    http_status: row.try_get(5)?,
                    code: said.code.map_or_else(|| row.try_get(6), |code| Ok(Some(code)))?,
                    message: said.message.map_or_else(|| row.try_get(7), |message| Ok(Some(message)))?,
                    tries,
                    created_ms: row.try_get::<i64, _>(9)? as u64,
                })
            })
            .collect()
    }

    async fn replay(&self, delivery: DeliveryId) -> Result<()> {
        self.transaction(async |conn| {
            let status: Option<i64> = sqlx::query_scalar("select status from webhook_deliveries where id = ?")
                .bind(delivery.0)
                .fetch_optional(&mut *conn)
                .await?;
            match status.map(Status::from_sql) {
                None => Err(StoreError::NotFound(format!("delivery {delivery}"))),
                Some(Status::Owed | Status::Waiting) => {
                    Err(StoreError::Conflict(format!("delivery {delivery} is still on its way")))
                }
                Some(_) if content::is_gone(conn, delivery).await? => Err(StoreError::Conflict(format!(
                    "the content of {delivery} is kept no longer: there is nothing to deliver"
                ))),
                Some(_) => make_owed(conn, &[delivery.0]).await,
            }
        })
        .await
    }

    async fn replay_dead(&self, endpoint: Option<i64>, limit: u32) -> Result<u64> {
        self.transaction(async |conn| {
            let ids: Vec<i64> = sqlx::query_scalar(
                "select delivery_id from dead_letter l join integration_events e on e.id = l.event_id \
                 where (?1 is null or l.endpoint_id = ?1) and e.content < 2 order by delivery_id limit ?2",
            )
            .bind(endpoint)
            .bind(limit)
            .fetch_all(&mut *conn)
            .await?;
            make_owed(conn, &ids).await?;
            Ok(ids.len() as u64)
        })
        .await
    }

    async fn unfinished(&self) -> Result<Vec<(i64, i64, u64)>> {
        let rows = sqlx::query(
            "select endpoint_id, status, count(*) from webhook_deliveries where status in (1, 4, 5) group by 1, 2 \
             union all select endpoint_id, 0, count(*) from webhook_deliveries where status = 0 group by 1",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get::<i64, _>(2)? as u64))).collect()
    }

    async fn put_key(&self, key: &KeyRow) -> Result<()> {
        self.transaction(async |conn| keys::put(conn, key).await).await
    }

    async fn key(&self, id: &str) -> Result<Option<KeyRow>> {
        keys::get(&self.readers, id).await
    }

    async fn keys(&self) -> Result<Vec<KeyRow>> {
        keys::all(&self.readers).await
    }

    async fn rotate_key(&self, id: &str, hash: &[u8], previous_until_ms: u64) -> Result<()> {
        self.transaction(async |conn| keys::rotate(conn, id, hash, previous_until_ms).await).await
    }

    async fn revoke_key(&self, id: &str, now_ms: u64) -> Result<()> {
        self.transaction(async |conn| keys::revoke(conn, id, now_ms).await).await
    }

    async fn key_used(&self, id: &str, now_ms: u64) -> Result<()> {
        self.transaction(async |conn| keys::used(conn, id, now_ms).await).await
    }

    async fn keyring(&self) -> Result<Option<Vec<u8>>> {
        content::keyring(&self.readers).await
    }

    async fn set_keyring(&self, fingerprint: &[u8]) -> Result<()> {
        self.transaction(async |conn| content::set_keyring(conn, fingerprint).await).await
    }

    async fn wrapped(&self) -> Result<Vec<(KeyId, u64)>> {
        content::wrapped(&self.readers).await
    }

    async fn wrapped_before(&self, active: KeyId, limit: u32) -> Result<Vec<WrappedKey>> {
        content::wrapped_before(&self.readers, active, limit).await
    }

    async fn rewrap(&self, keys: &[WrappedKey]) -> Result<()> {
        self.transaction(async |conn| content::rewrap(conn, keys).await).await
    }

    async fn secrets(&self) -> Result<Vec<SecretRow>> {
        secrets::all(&mut *self.readers.acquire().await?, &self.ring).await
    }

    async fn put_secret(&self, name: &str, value: &[u8], previous_until_ms: u64, now_ms: u64) -> Result<i64> {
        let ring = &self.ring;
        self.transaction(async |conn| secrets::put(conn, ring, name, value, previous_until_ms, now_ms).await).await
    }

    async fn remove_secret(&self, name: &str) -> Result<()> {
        self.transaction(async |conn| secrets::remove(conn, name).await).await
    }

    async fn audit_head(&self) -> Result<AuditHead> {
        audit::head(&mut *self.readers.acquire().await?).await
    }

    async fn append_audit(&self, after: &AuditHead, row: &AuditRow) -> Result<()> {
        self.transaction(async |conn| audit::append(conn, after, row).await).await
    }

    async fn prune_audit(&self, after: &AuditHead, row: &AuditRow, through: i64) -> Result<u64> {
        self.transaction(async |conn| {
            audit::append(conn, after, row).await?;
            audit::remove(conn, through).await
        })
        .await
    }

    async fn audit_rows(&self, after: i64, limit: u32) -> Result<Vec<AuditRow>> {
        audit::rows(&mut *self.readers.acquire().await?, after, limit).await
    }

    async fn audit_log(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>> {
        audit::listing(&self.readers, filter).await
    }

    async fn retire(&self, walk: &Walk, place: i64, now_ms: u64) -> Result<Step> {
        let plan = retention::plan(&self.readers, walk, place, now_ms).await?;
        if plan.is_empty() && !plan.has_moved(place) {
            return Ok(plan.untouched());
        }
        let rule = walk.rule;
        self.transaction(async |conn| retention::carry_out(conn, rule, Some(walk), plan, now_ms).await).await
    }

    async fn retire_stragglers(&self, rule: Rule, walks: &[Walk], place: i64, now_ms: u64) -> Result<Step> {
        let plan = retention::plan_stragglers(&self.readers, walks, rule, place, now_ms).await?;
        if plan.is_empty() {
            return Ok(plan.untouched());
        }
        self.transaction(async |conn| retention::carry_out(conn, rule, None, plan, now_ms).await).await
    }

    async fn retention_place(&self, walk: &Walk, policies: &[String], now_ms: u64) -> Result<i64> {
        self.transaction(async |conn| retention::place(conn, walk, policies, now_ms).await).await
    }

    async fn retire_keys(&self, before_ms: u64) -> Result<Step> {
        let plan = retention::plan_keys(&self.readers, before_ms).await?;
        self.transaction(async |conn| retention::retire_keys(conn, plan).await).await
    }

    async fn retire_sync_runs(&self, before_ms: u64) -> Result<u64> {
        self.transaction(async |conn| retention::retire_sync_runs(conn, before_ms).await).await
    }

    async fn oldest_due(&self, walk: &Walk, now_ms: u64) -> Result<Option<u64>> {
        retention::oldest_due(&self.readers, walk, now_ms).await
    }

    async fn oldest_key_due(&self, before_ms: u64) -> Result<Option<u64>> {
        retention::oldest_key_due(&self.readers, before_ms).await
    }

    async fn oldest_sync_run_due(&self, before_ms: u64) -> Result<Option<u64>> {
        retention::oldest_sync_run_due(&self.readers, before_ms).await
    }

    async fn retired(&self) -> Result<Vec<(Rule, u64)>> {
        retention::retired(&self.readers).await
    }

    async fn empty_log(&self) -> Result<()> {
        let writer = self.writer.lock().await;
        block_in_place(|| {
            // Whoever reads in it is not waited for: the next time will do.
            writer.direct.busy_timeout(Duration::ZERO)?;
            let emptied = writer.direct.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()));
            writer.direct.busy_timeout(BUSY_TIMEOUT)?;
            Ok(emptied?)
        })
    }

    async fn find_subject(&self, seeds: &Seeds, before: Option<EventId>, limit: u32) -> Result<Found> {
        privacy::find(&mut *self.readers.acquire().await?, seeds, before, limit).await
    }

    async fn received(&self, seeds: &Seeds, limit: u32) -> Result<Vec<ReceivedRow>> {
        privacy::received(&mut *self.readers.acquire().await?, seeds, limit).await
    }

    async fn coverage(&self) -> Result<Coverage> {
        privacy::coverage(&self.readers).await
    }

    async fn contents(&self, after: EventId, upto: EventId, limit: u32) -> Result<Vec<ContentRow>> {
        privacy::contents(&mut *self.readers.acquire().await?, &self.ring, after, upto, limit).await
    }

    async fn newest_event(&self) -> Result<Option<EventId>> {
        let id: Option<i64> =
            sqlx::query_scalar("select max(id) from integration_events").fetch_one(&self.readers).await?;
        Ok(id.map(EventId))
    }

    async fn begin_erasure(&self, new: &NewErasure, notice: &NewEvent) -> Result<BegunErasure> {
        let known = self.known();
        self.direct(|db| privacy::begin(db, known, new, notice)).await
    }

    async fn open_erasures(&self) -> Result<Vec<(ErasureId, ErasureState)>> {
        let rows: Vec<(i64, i64)> = sqlx::query_as("select id, state from erasures where state < 2 order by id")
            .fetch_all(&self.readers)
            .await?;
        Ok(rows.into_iter().map(|(id, state)| (ErasureId(id), ErasureState::from_sql(state))).collect())
    }

    async fn to_erase(&self, erasure: ErasureId, limit: u32) -> Result<Vec<EventId>> {
        let ids: Vec<i64> =
            sqlx::query_scalar("select event_id from erased_events where erasure_id = ? and done = 0 limit ?")
                .bind(erasure.0)
                .bind(limit)
                .fetch_all(&self.readers)
                .await?;
        Ok(ids.into_iter().map(EventId).collect())
    }

    async fn erase(
        &self,
        erasure: ErasureId,
        events: &[EventId],
        under_way: &[DeliveryId],
        now_ms: u64,
    ) -> Result<ErasedBatch> {
        self.direct(|db| {
            let batch = privacy::erase(db, &self.ring, erasure, events, under_way, now_ms)?;
            if batch.rehidden {
                // Before the commit: from it on the open form is not there any more.
                self.rehidden.store(true, Ordering::Relaxed);
            }
            Ok(batch)
        })
        .await
    }

    async fn tell(&self, erasure: ErasureId, deliveries: &[NewDelivery], told: &[(i64, DeliveryId)]) -> Result<()> {
        self.direct(|db| privacy::tell(db, erasure, deliveries, told)).await
    }

    async fn close_erasures(&self, now_ms: u64) -> Result<u64> {
        self.direct(|db| privacy::close_told(db, now_ms)).await
    }

    async fn close_erasure(&self, erasure: ErasureId, now_ms: u64) -> Result<()> {
        let closed = self.direct(|db| privacy::close(db, erasure, now_ms)).await?;
        match closed {
            privacy::Closed::Done => Ok(()),
            privacy::Closed::Erasing => {
                Err(StoreError::Conflict(format!("erasure {erasure} is not that far: content is still being erased")))
            }
            privacy::Closed::Unknown => Err(StoreError::NotFound(format!("erasure {erasure}"))),
        }
    }

    async fn erasures(&self, only: Option<ErasureId>, limit: u32) -> Result<Vec<ErasureRow>> {
        privacy::erasures(&mut *self.readers.acquire().await?, only, limit).await
    }

    async fn scrub(&self) -> Result<bool> {
        let writer = self.writer.lock().await;
        block_in_place(|| Ok(privacy::scrub(&writer.direct)?))
    }

    async fn reindexing(&self) -> Result<Option<Reindexing>> {
        privacy::reindexing(&self.readers).await
    }

    async fn begin_reindexing(&self, now_ms: u64) -> Result<()> {
        self.direct(|db| privacy::begin_reindexing(db, now_ms)).await
    }

    async fn reindex(
        &self,
        events: &[(EventId, Vec<SubjectKey>)],
        cursor: EventId,
        finished_ms: Option<u64>,
    ) -> Result<()> {
        self.direct(|db| privacy::reindex(db, events, cursor, finished_ms)).await
    }
}

/// Tries that had begun, may not be repeated and never ended: nobody knows whether the target took them.
async fn bury_interrupted(conn: &mut SqliteConnection, now_ms: u64) -> Result<()> {
    const CODE: &str = "outcome-unknown";
    const MESSAGE: &str = "the hub ended during this try: it may have arrived; replay it if it did not";
    let begun: Vec<(i64, i64, i64, i64)> = sqlx::query_as(
        "select d.id, a.number, d.event_id, d.endpoint_id from webhook_deliveries d \
         join delivery_attempts a on a.delivery_id = d.id and a.number = d.tries + 1 \
         where d.status = 0 and d.node_id > 0 and a.outcome = ?",
    )
    .bind(Outcome::Interrupted as i64)
    .fetch_all(&mut *conn)
    .await?;
    for (delivery, number, event, endpoint) in begun {
        sqlx::query("update delivery_attempts set code = ?, message = ? where delivery_id = ? and number = ?")
            .bind(CODE)
            .bind(MESSAGE)
            .bind(delivery)
            .bind(number)
            .execute(&mut *conn)
            .await?;
        sqlx::query(
            "update webhook_deliveries set status = ?, node_id = 0, tries = tries + 1, charged = charged + 1 where id = ?",
        )
        .bind(Status::Dead as i64)
        .bind(delivery)
        .execute(&mut *conn)
        .await?;
        sqlx::query(
            "insert or replace into dead_letter (delivery_id, event_id, endpoint_id, reason, code, message, created_at) \
             values (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(delivery)
        .bind(event)
        .bind(endpoint)
        .bind(Outcome::Interrupted as i64)
        .bind(CODE)
        .bind(MESSAGE)
        .bind(now_ms as i64)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

async fn make_owed(conn: &mut SqliteConnection, ids: &[i64]) -> Result<()> {
    for id in ids {
        sqlx::query("update webhook_deliveries set status = 0, node_id = 0, charged = 0 where id = ?")
            .bind(*id)
            .execute(&mut *conn)
            .await?;
        sqlx::query("delete from dead_letter where delivery_id = ?").bind(*id).execute(&mut *conn).await?;
    }
    Ok(())
}

async fn set_active(conn: &mut SqliteConnection, name: &str, version: i64) -> Result<()> {
    sqlx::query(
        "update connectors set previous = case when active is ?1 then previous else active end, active = ?1 \
         where name = ?2",
    )
    .bind(version)
    .bind(name.to_owned())
    .execute(&mut *conn)
    .await?;
    Ok(())
}

async fn put_catalog(conn: &mut SqliteConnection, change: &CatalogChange, now: i64) -> Result<()> {
    for (name, config) in &change.put_sources {
        sqlx::query(
            "insert into sources (name, config) values (?, ?) on conflict (name) do update set config = excluded.config",
        )
        .bind(name.clone())
        .bind(config.clone())
        .execute(&mut *conn)
        .await?;
    }
    for name in &change.drop_sources {
        sqlx::query("delete from sources where name = ?").bind(name.clone()).execute(&mut *conn).await?;
    }
    for (name, config) in &change.put_queues {
        sqlx::query(
            "insert into queues (name, config) values (?, ?) on conflict (name) do update set config = excluded.config",
        )
        .bind(name.clone())
        .bind(config.clone())
        .execute(&mut *conn)
        .await?;
    }
    for name in &change.drop_queues {
        sqlx::query("delete from queues where name = ?").bind(name.clone()).execute(&mut *conn).await?;
    }
    for (name, config) in &change.put_endpoints {
        sqlx::query(
            "insert into webhook_endpoints (name, config) values (?, ?) \
             on conflict (name) do update set config = excluded.config, removed_at = null",
        )
        .bind(name.clone())
        .bind(config.clone())
        .execute(&mut *conn)
        .await?;
    }
    for id in &change.drop_routes {
        sqlx::query("update routes set removed_at = ? where id = ?").bind(now).bind(*id).execute(&mut *conn).await?;
    }
    for name in &change.drop_endpoints {
        sqlx::query("update webhook_endpoints set removed_at = ? where name = ?")
            .bind(now)
            .bind(name.clone())
            .execute(&mut *conn)
            .await?;
    }
    for (name, config) in &change.put_mappings {
        sqlx::query("update event_mappings set active = 0 where name = ?")
            .bind(name.clone())
            .execute(&mut *conn)
            .await?;
        sqlx::query(
            "insert into event_mappings (name, version, config, created_at, active) \
             select ?1, coalesce(max(version), 0) + 1, ?2, ?3, 1 from event_mappings where name = ?1",
        )
        .bind(name.clone())
        .bind(config.clone())
        .bind(now)
        .execute(&mut *conn)
        .await?;
    }
    for name in &change.drop_mappings {
        sqlx::query("update event_mappings set active = 0 where name = ?")
            .bind(name.clone())
            .execute(&mut *conn)
            .await?;
    }
    schedules::put(conn, change, now).await?;
    for (event_type, endpoint, config) in &change.add_routes {
        sqlx::query(
            "insert into routes (event_type, endpoint_id, config) \
             select ?1, id, ?3 from webhook_endpoints where name = ?2",
        )
        .bind(event_type.clone())
        .bind(endpoint.clone())
        .bind(config.clone())
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

const VERSION: &str = "select id, name, digest, manifest, length(component), created_at from connector_versions";

fn version_row(row: &SqliteRow) -> Result<VersionRow> {
    Ok(VersionRow {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        digest: row.try_get(2)?,
        manifest: row.try_get(3)?,
        size: row.try_get::<i64, _>(4)? as u64,
        created_ms: row.try_get::<i64, _>(5)? as u64,
    })
}

/// Reads id, source, type, status, time, parent and the state of the content, and looks up the deliveries.
async fn event_row(conn: &mut SqliteConnection, row: &SqliteRow) -> Result<EventRow> {
    let id = EventId(row.try_get(0)?);
    let deliveries = sqlx::query(
        "select d.id, d.endpoint_id, d.status, d.tries, r.next_retry_at from webhook_deliveries d \
         left join retry_queue r on r.delivery_id = d.id where d.id > ? and d.id < ? order by d.id",
    )
    .bind(id.0)
    .bind(id.0 + ID_STRIDE)
    .fetch_all(&mut *conn)
    .await?;
    Ok(EventRow {
        id,
        source: row.try_get(1)?,
        event_type: row.try_get(2)?,
        unrouted: row.try_get::<i64, _>(3)? != 0,
        created_ms: row.try_get::<i64, _>(4)? as u64,
        parent: row.try_get::<Option<i64>, _>(5)?.map(DeliveryId),
        content: ContentState::from_sql(row.try_get(6)?),
        deliveries: deliveries
            .iter()
            .map(|row| {
                Ok(DeliveryRow {
                    id: DeliveryId(row.try_get(0)?),
                    endpoint: row.try_get(1)?,
                    status: Status::from_sql(row.try_get(2)?),
                    tries: row.try_get(3)?,
                    next_retry_ms: row.try_get::<Option<i64>, _>(4)?.map(|ms| ms as u64),
                })
            })
            .collect::<Result<_>>()?,
    })
}

/// Null when there are none, which is the common case.
fn write_headers(headers: &[(String, String)]) -> Option<String> {
    if headers.is_empty() {
        return None;
    }
    // Strings always serialise.
    serde_json::to_string(headers).ok()
}

fn read_headers(text: Option<&str>) -> Vec<(String, String)> {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
