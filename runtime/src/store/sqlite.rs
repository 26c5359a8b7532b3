//! The embedded database: SQLite in WAL mode, every commit fsynced, one writer, readers beside it.

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Row, Sqlite};
use tokio::sync::{Mutex, MutexGuard};

use super::rows::*;
use super::{Done, Result, Store, StoreError, Work};
use crate::delivery::{Delivery, Next, Outcome, Settlement, Status};
use crate::event::{DeliveryId, Event, EventId, NewDelivery, NewEvent, Place};

/// The first release without the WAL-reset corruption (https://sqlite.org/wal.html#walresetbug).
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

pub(crate) struct SqliteStore {
    /// The one connection that writes. Whoever holds it has the transaction to themselves.
    writer: Mutex<SqliteConnection>,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens or creates the file and brings its tables up to date.
    pub(crate) async fn open(path: &Path) -> anyhow::Result<SqliteStore> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A 202 means fsynced. Shared commits make FULL cost next to nothing (see the design's figures).
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            .statement_cache_capacity(256)
            // 64 MiB of pages: the unique index of idempotency keys is touched at random.
            .pragma("cache_size", "-65536")
            // Fewer checkpoints, each of them longer; the default of 1,000 pages would run one every few dozen commits.
            .pragma("wal_autocheckpoint", "8000")
            .disable_statement_logging();
        let mut writer = options.connect().await?;
        let version: String = sqlx::query_scalar("select sqlite_version()").fetch_one(&mut writer).await?;
        let numbers: Vec<u32> = version.split('.').filter_map(|n| u32::from_str(n).ok()).collect();
        if let [major, minor, patch] = numbers[..]
            && (major, minor, patch) < OLDEST_SQLITE
        {
            anyhow::bail!("SQLite {version} can corrupt its write-ahead log; 3.51.3 or later is needed");
        }
        sqlx::migrate!("../migrations/sqlite").run(&mut writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options.read_only(true).create_if_missing(false).pragma("query_only", "on"))
            .await?;
        Ok(SqliteStore { writer: Mutex::new(writer), readers })
    }

    async fn begin(&self) -> Result<Transaction<'_>> {
        let mut conn = self.writer.lock().await;
        // A future that was dropped between BEGIN and COMMIT left its transaction open; nothing of it was promised.
        if sqlx::query("begin immediate").execute(&mut *conn).await.is_err() {
            sqlx::query("rollback").execute(&mut *conn).await?;
            sqlx::query("begin immediate").execute(&mut *conn).await?;
        }
        Ok(Transaction { conn })
    }

    /// Runs `body` in a transaction: committed when it succeeds, rolled back when it does not.
    async fn transaction<T>(&self, body: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T>) -> Result<T> {
        let mut tx = self.begin().await?;
        match body(&mut tx.conn).await {
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

struct Transaction<'a> {
    conn: MutexGuard<'a, SqliteConnection>,
}

impl Transaction<'_> {
    async fn commit(mut self) -> Result<()> {
        if let Err(error) = sqlx::query("commit").execute(&mut *self.conn).await {
            self.rollback().await;
            return Err(error.into());
        }
        Ok(())
    }

    async fn rollback(mut self) {
        // It fails when SQLite has rolled back by itself, which is what is wanted.
        let _ = sqlx::query("rollback").execute(&mut *self.conn).await;
    }
}

/// A statement over many rows, written in a few fixed sizes so that each is prepared once and then only bound.
struct Bulk {
    head: &'static str,
    row: &'static str,
    tail: &'static str,
    statements: [OnceLock<Arc<str>>; SIZES.len()],
}

/// Binding 128 rows is as far as it gets faster; the others fill up the rest of a batch.
const SIZES: [usize; 4] = [128, 32, 8, 1];

impl Bulk {
    const fn new(head: &'static str, row: &'static str, tail: &'static str) -> Bulk {
        Bulk { head, row, tail, statements: [const { OnceLock::new() }; SIZES.len()] }
    }

    /// Splits `items` into the sizes that statements exist for.
    fn chunks<'a, T>(&'a self, mut items: &'a [T]) -> impl Iterator<Item = (Arc<str>, &'a [T])> {
        std::iter::from_fn(move || {
            let place = SIZES.iter().position(|size| *size <= items.len())?;
            let (chunk, rest) = items.split_at(SIZES[place]);
            items = rest;
            let statement = self.statements[place].get_or_init(|| {
                let rows = vec![self.row; SIZES[place]].join(",");
                format!("{} {rows} {}", self.head, self.tail).into()
            });
            Some((statement.clone(), chunk))
        })
    }
}

type Bound = Query<'static, Sqlite, SqliteArguments>;

static INSERT_KEYS: Bulk = Bulk::new("insert or ignore into idempotency_keys (hash, event_id) values", "(?, ?)", "");
static SELECT_KEYS: Bulk = Bulk::new("select hash, event_id from idempotency_keys where hash in (", "?", ")");
static INSERT_EVENTS: Bulk = Bulk::new(
    "insert into integration_events (id, source, event_type, status, created_at, idempotency_key, content_type, \
     headers, parent_id, payload) values",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "",
);
static INSERT_DELIVERIES: Bulk = Bulk::new(
    "insert into webhook_deliveries (id, event_id, endpoint_id, route_id, queue_id, priority, status, node_id, tries, \
     charged, ordering_key) values",
    "(?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?)",
    "",
);
static INSERT_RETRIES: Bulk =
    Bulk::new("insert or replace into retry_queue (delivery_id, next_retry_at) values", "(?, ?)", "");
static INSERT_ATTEMPTS: Bulk = Bulk::new(
    "insert into delivery_attempts (delivery_id, number, started_at, duration_us, outcome, http_status, code, message, \
     connector_version, mapping_version, log) values",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "",
);
static INSERT_DEAD: Bulk = Bulk::new(
    "insert or replace into dead_letter (delivery_id, event_id, endpoint_id, reason, http_status, code, message, \
     created_at) values",
    "(?, ?, ?, ?, ?, ?, ?, ?)",
    "",
);
/// Fenced: only rows that this node still holds.
static SETTLE: Bulk = Bulk::new(
    "update webhook_deliveries set status = ?, node_id = 0, tries = tries + ?, charged = charged + ? where id in (",
    "?",
    ") and node_id = ? and status = 0",
);
static TAKE: Bulk = Bulk::new("update webhook_deliveries set status = 0, node_id = ? where id in (", "?", ")");
static DELETE_RETRIES: Bulk = Bulk::new("delete from retry_queue where delivery_id in (", "?", ")");

async fn bulk<T>(
    conn: &mut SqliteConnection,
    statement: &'static Bulk,
    items: &[T],
    bind: impl Fn(Bound, &T) -> Bound,
) -> Result<u64> {
    let mut affected = 0;
    for (sql, chunk) in statement.chunks(items) {
        let query = chunk.iter().fold(sqlx::query(AssertSqlSafe(sql)), &bind);
        affected += query.execute(&mut *conn).await?.rows_affected();
    }
    Ok(affected)
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, node: i64, work: &[Work]) -> Result<Vec<Done>> {
        let settlements: Vec<&Settlement> = work
            .iter()
            .filter_map(|w| match w {
                Work::Settle(settlement) => Some(&**settlement),
                Work::Accept(_) => None,
            })
            .collect();
        let mut tx = self.begin().await?;
        let mut live = vec![true; settlements.len()];
        let mut settled = settle(&mut tx.conn, node, &settlements).await;
        if matches!(settled, Ok(changed) if changed != settlements.len() as u64) {
            // Some delivery is no longer ours, which is rare: begin anew and ask for each one.
            tx.rollback().await;
            tx = self.begin().await?;
            settled = async {
                for (live, settlement) in live.iter_mut().zip(&settlements) {
                    let held: Option<i64> = sqlx::query_scalar(
                        "select 1 from webhook_deliveries where id = ? and node_id = ? and status = 0",
                    )
                    .bind(settlement.delivery.id.0)
                    .bind(node)
                    .fetch_optional(&mut *tx.conn)
                    .await?;
                    *live = held.is_some();
                }
                let ours: Vec<&Settlement> =
                    settlements.iter().zip(&live).filter_map(|(s, live)| live.then_some(*s)).collect();
                settle(&mut tx.conn, node, &ours).await
            }
            .await;
        }
        let accepted = match settled {
            Ok(_) => accept_all(&mut tx.conn, node, work, &live).await,
            Err(error) => Err(error),
        };
        match accepted {
            Ok(done) => {
                tx.commit().await?;
                Ok(done)
            }
            Err(error) => {
                tx.rollback().await;
                Err(error)
            }
        }
    }

    async fn claim(&self, node: i64, endpoint: i64, limit: u32) -> Result<Vec<Delivery>> {
        self.transaction(async |conn| {
            let rows = sqlx::query(AssertSqlSafe(format!(
                "select {DELIVERY} from webhook_deliveries d join integration_events e on e.id = d.event_id \
                 where d.node_id = 0 and d.endpoint_id = ? and d.status = 0 and (d.ordering_key is null or not exists \
                 (select 1 from webhook_deliveries b where b.endpoint_id = d.endpoint_id \
                 and b.ordering_key = d.ordering_key and b.id < d.id and b.status in (0, 1, 5))) \
                 order by d.priority desc, d.id limit ?"
            )))
            .bind(endpoint)
            .bind(limit)
            .fetch_all(&mut *conn)
            .await?;
            let deliveries = rows.iter().map(delivery).collect::<Result<Vec<_>>>()?;
            take(conn, node, &deliveries).await?;
            Ok(deliveries)
        })
        .await
    }

    async fn promote(&self, node: i64, now_ms: u64, limit: u32) -> Result<Promoted> {
        self.transaction(async |conn| {
            let rows = sqlx::query(AssertSqlSafe(format!(
                "select {DELIVERY} from (select delivery_id from retry_queue where next_retry_at <= ? \
                 order by next_retry_at limit ?) r join webhook_deliveries d on d.id = r.delivery_id \
                 join integration_events e on e.id = d.event_id"
            )))
            .bind(now_ms as i64)
            .bind(limit)
            .fetch_all(&mut *conn)
            .await?;
            let due = rows.iter().map(delivery).collect::<Result<Vec<_>>>()?;
            bulk(conn, &DELETE_RETRIES, &due, |q, d| q.bind(d.id.0)).await?;
            let (ordered, free): (Vec<_>, Vec<_>) = due.into_iter().partition(|d| d.ordering.is_some());
            take(conn, node, &free).await?;
            take(conn, 0, &ordered).await?;
            Ok(Promoted { deliveries: free, to_table: ordered.iter().map(|d| d.endpoint).collect() })
        })
        .await
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
        let mappings = sqlx::query("select name, config from event_mappings where active = 1 order by name");
        for row in mappings.fetch_all(&mut *conn).await? {
            catalog.mappings.push(MappingRow { name: row.try_get(0)?, config: row.try_get(1)? });
        }
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
            "select id, source, event_type, status, created_at, parent_id from integration_events \
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
            "select id, source, event_type, status, created_at, parent_id, content_type, headers, payload, \
             idempotency_key from integration_events where id = ?",
        )
        .bind(id.0)
        .fetch_optional(&mut *conn)
        .await?
        .ok_or_else(|| StoreError::NotFound(format!("event {id}")))?;
        let event = Event {
            id,
            source: row.try_get::<&str, _>(1)?.into(),
            event_type: row.try_get::<&str, _>(2)?.into(),
            created_ms: row.try_get::<i64, _>(4)? as u64,
            parent: row.try_get::<Option<i64>, _>(5)?.map(DeliveryId),
            content_type: row.try_get::<&str, _>(6)?.into(),
            headers: read_headers(row.try_get(7)?),
            payload: Bytes::from(row.try_get::<Vec<u8>, _>(8)?),
        };
        let key = row.try_get(9)?;
        let row = event_row(conn, &row).await?;
        let mut attempts = Vec::new();
        let mut children = Vec::new();
        for delivery in &row.deliveries {
            let rows = sqlx::query(
                "select a.delivery_id, a.number, a.started_at, a.duration_us, a.outcome, a.http_status, a.code, \
                 a.message, c.digest, m.digest, a.log from delivery_attempts a \
                 left join connector_versions c on c.id = a.connector_version \
                 left join connector_versions m on m.id = a.mapping_version where a.delivery_id = ? order by a.number",
            )
            .bind(delivery.id.0)
            .fetch_all(&mut *conn)
            .await?;
            for row in rows {
                attempts.push(AttemptRow {
                    delivery: DeliveryId(row.try_get(0)?),
                    number: row.try_get(1)?,
                    started_ms: row.try_get::<i64, _>(2)? as u64,
                    duration_us: row.try_get::<i64, _>(3)? as u64,
                    outcome: Outcome::from_sql(row.try_get(4)?),
                    http_status: row.try_get(5)?,
                    code: row.try_get(6)?,
                    message: row.try_get(7)?,
                    connector_digest: row.try_get(8)?,
                    mapping_digest: row.try_get(9)?,
                    log: row.try_get(10)?,
                });
            }
            let rows = sqlx::query(
                "select id, source, event_type, status, created_at, parent_id from integration_events \
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
             l.message, d.tries, l.created_at from dead_letter l join integration_events e on e.id = l.event_id \
             join webhook_deliveries d on d.id = l.delivery_id \
             where l.delivery_id < ?1 and (?2 is null or l.endpoint_id = ?2) order by l.delivery_id desc limit ?3",
        )
        .bind(filter.before.map_or(i64::MAX, |id| id.0))
        .bind(filter.endpoint)
        .bind(filter.limit)
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(DeadLetterRow {
                    delivery: DeliveryId(row.try_get(0)?),
                    event: EventId(row.try_get(1)?),
                    event_type: row.try_get(2)?,
                    endpoint: row.try_get(3)?,
                    reason: Outcome::from_sql(row.try_get(4)?),
                    http_status: row.try_get(5)?,
                    code: row.try_get(6)?,
                    message: row.try_get(7)?,
                    tries: row.try_get(8)?,
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
                Some(_) => make_owed(conn, &[delivery.0]).await,
            }
        })
        .await
    }

    async fn replay_dead(&self, endpoint: Option<i64>, limit: u32) -> Result<u64> {
        self.transaction(async |conn| {
            let ids: Vec<i64> = sqlx::query_scalar(
                "select delivery_id from dead_letter where ?1 is null or endpoint_id = ?1 order by delivery_id limit ?2",
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
        self.transaction(async |conn| {
            sqlx::query("insert into api_keys (id, name, hash, created_at, revoked_at) values (?, ?, ?, ?, ?)")
                .bind(key.id.clone())
                .bind(key.name.clone())
                .bind(key.hash.clone())
                .bind(key.created_ms as i64)
                .bind(key.revoked_ms.map(|ms| ms as i64))
                .execute(&mut *conn)
                .await?;
            Ok(())
        })
        .await
    }

    async fn key(&self, id: &str) -> Result<Option<KeyRow>> {
        let row = sqlx::query("select id, name, hash, created_at, revoked_at from api_keys where id = ?")
            .bind(id.to_owned())
            .fetch_optional(&self.readers)
            .await?;
        row.map(|row| {
            Ok(KeyRow {
                id: row.try_get(0)?,
                name: row.try_get(1)?,
                hash: row.try_get(2)?,
                created_ms: row.try_get::<i64, _>(3)? as u64,
                revoked_ms: row.try_get::<Option<i64>, _>(4)?.map(|ms| ms as u64),
            })
        })
        .transpose()
    }
}

/// Writes the ends of tries. Answers how many deliveries changed: fewer than given when some were not this node's.
async fn settle(conn: &mut SqliteConnection, node: i64, settlements: &[&Settlement]) -> Result<u64> {
    let mut groups: HashMap<(i64, i64, i64), Vec<i64>> = HashMap::new();
    for settlement in settlements {
        let status = match settlement.next {
            Next::Delivered => Status::Delivered,
            Next::Skipped => Status::Skipped,
            Next::Retry(_) => Status::Waiting,
            Next::Dead => Status::Dead,
            Next::Held => Status::Held,
        };
        let tried = i64::from(settlement.attempt.is_some());
        let group = (status as i64, tried, i64::from(settlement.charge));
        groups.entry(group).or_default().push(settlement.delivery.id.0);
    }
    let mut changed = 0;
    for ((status, tries, charged), ids) in &groups {
        for (sql, chunk) in SETTLE.chunks(ids) {
            let query = sqlx::query(AssertSqlSafe(sql)).bind(*status).bind(*tries).bind(*charged);
            let query = chunk.iter().fold(query, |q, id| q.bind(*id)).bind(node);
            changed += query.execute(&mut *conn).await?.rows_affected();
        }
    }
    if changed != settlements.len() as u64 {
        return Ok(changed);
    }
    let tried: Vec<_> = settlements.iter().filter_map(|s| Some((&s.delivery, s.attempt.as_ref()?))).collect();
    bulk(conn, &INSERT_ATTEMPTS, &tried, |q, (delivery, attempt)| {
        q.bind(delivery.id.0)
            .bind(delivery.tries + 1)
            .bind(attempt.started_ms as i64)
            .bind(attempt.duration_us as i64)
            .bind(attempt.outcome as i64)
            .bind(attempt.http_status)
            .bind(attempt.code.clone())
            .bind(attempt.message.clone())
            .bind(attempt.connector_version)
            .bind(attempt.mapping_version)
            .bind(attempt.log.clone())
    })
    .await?;
    let retries: Vec<_> = settlements
        .iter()
        .filter_map(|s| match s.next {
            Next::Retry(at) => Some((s.delivery.id.0, at as i64)),
            _ => None,
        })
        .collect();
    bulk(conn, &INSERT_RETRIES, &retries, |q, (id, at)| q.bind(*id).bind(*at)).await?;
    let dead: Vec<_> = settlements
        .iter()
        .filter(|s| s.next == Next::Dead)
        .filter_map(|s| Some((&s.delivery, s.attempt.as_ref()?)))
        .collect();
    bulk(conn, &INSERT_DEAD, &dead, |q, (delivery, attempt)| {
        q.bind(delivery.id.0)
            .bind(delivery.event.id.0)
            .bind(delivery.endpoint)
            .bind(attempt.outcome as i64)
            .bind(attempt.http_status)
            .bind(attempt.code.clone())
            .bind(attempt.message.clone())
            .bind((attempt.started_ms + attempt.duration_us / 1000) as i64)
    })
    .await?;
    Ok(changed)
}

/// Accepts the events of the batch and those that its settlements emitted, and answers for all of the work in order.
async fn accept_all(conn: &mut SqliteConnection, node: i64, work: &[Work], live: &[bool]) -> Result<Vec<Done>> {
    let mut lives = live.iter();
    let mut events: Vec<&NewEvent> = Vec::with_capacity(work.len());
    let mut plan = Vec::with_capacity(work.len());
    for work in work {
        match work {
            Work::Accept(event) => {
                plan.push(Some(1));
                events.push(event);
            }
            Work::Settle(settlement) if lives.next().copied().unwrap_or(false) => {
                plan.push(Some(settlement.emitted.len()));
                events.extend(&settlement.emitted);
            }
            Work::Settle(_) => plan.push(None),
        }
    }
    let first = accept(conn, node, &events).await?;
    let mut answers = first.iter().zip(&events);
    Ok(work
        .iter()
        .zip(plan)
        .map(|(work, plan)| match (work, plan) {
            (_, None) => Done::Stale,
            (Work::Accept(_), Some(_)) => match answers.next() {
                Some((first, event)) => Done::Accepted { id: *first, duplicate: *first != event.event.id },
                None => Done::Stale,
            },
            (Work::Settle(_), Some(count)) => Done::Settled {
                emitted: answers.by_ref().take(count).map(|(first, event)| *first == event.event.id).collect(),
            },
        })
        .collect())
}

/// Inserts the events whose keys are new, with their deliveries. Answers for each event the id that its key stands for.
async fn accept(conn: &mut SqliteConnection, node: i64, events: &[&NewEvent]) -> Result<Vec<EventId>> {
    let inserted = bulk(conn, &INSERT_KEYS, events, |q, e| q.bind(&e.key.hash[..]).bind(e.event.id.0)).await?;
    let mut first: Vec<EventId> = events.iter().map(|e| e.event.id).collect();
    if inserted != events.len() as u64 {
        let mut known: HashMap<Vec<u8>, i64> = HashMap::new();
        for (sql, chunk) in SELECT_KEYS.chunks(events) {
            let query = chunk.iter().fold(sqlx::query(AssertSqlSafe(sql)), |q, e| q.bind(&e.key.hash[..]));
            for row in query.fetch_all(&mut *conn).await? {
                known.insert(row.try_get(0)?, row.try_get(1)?);
            }
        }
        for (first, event) in first.iter_mut().zip(events) {
            if let Some(id) = known.get(&event.key.hash[..]) {
                *first = EventId(*id);
            }
        }
    }
    let fresh: Vec<&NewEvent> =
        events.iter().zip(&first).filter_map(|(e, first)| (e.event.id == *first).then_some(*e)).collect();
    bulk(conn, &INSERT_EVENTS, &fresh, |q, new| {
        let event = &new.event;
        q.bind(event.id.0)
            .bind(event.source.to_string())
            .bind(event.event_type.to_string())
            .bind(i64::from(new.deliveries.is_empty()))
            .bind(event.created_ms as i64)
            .bind(new.key.shown.clone())
            .bind(event.content_type.to_string())
            .bind(write_headers(&event.headers))
            .bind(event.parent.map(|p| p.0))
            .bind(event.payload.to_vec())
    })
    .await?;
    let deliveries: Vec<(EventId, &NewDelivery)> =
        fresh.iter().flat_map(|e| e.deliveries.iter().map(|d| (e.event.id, d))).collect();
    bulk(conn, &INSERT_DELIVERIES, &deliveries, |q, (event, delivery)| {
        let (status, holder) = match delivery.place {
            Place::Memory => (Status::Owed, node),
            Place::Table => (Status::Owed, 0),
            Place::Delayed(_) => (Status::Waiting, 0),
            Place::Held => (Status::Held, 0),
        };
        q.bind(delivery.id.0)
            .bind(event.0)
            .bind(delivery.endpoint)
            .bind(delivery.route)
            .bind(delivery.queue)
            .bind(i64::from(delivery.priority))
            .bind(status as i64)
            .bind(holder)
            .bind(delivery.ordering)
    })
    .await?;
    let delayed: Vec<(i64, i64)> = deliveries
        .iter()
        .filter_map(|(_, d)| match d.place {
            Place::Delayed(at) => Some((d.id.0, at as i64)),
            _ => None,
        })
        .collect();
    bulk(conn, &INSERT_RETRIES, &delayed, |q, (id, at)| q.bind(*id).bind(*at)).await?;
    Ok(first)
}

async fn take(conn: &mut SqliteConnection, node: i64, deliveries: &[Delivery]) -> Result<()> {
    for (sql, chunk) in TAKE.chunks(deliveries) {
        let query = sqlx::query(AssertSqlSafe(sql)).bind(node);
        chunk.iter().fold(query, |q, d| q.bind(d.id.0)).execute(&mut *conn).await?;
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

/// The columns that [`delivery`] reads.
const DELIVERY: &str = "d.id, d.endpoint_id, d.route_id, d.queue_id, d.priority, d.tries, d.charged, d.ordering_key, \
     e.id, e.source, e.event_type, e.created_at, e.content_type, e.headers, e.parent_id, e.payload";

fn delivery(row: &SqliteRow) -> Result<Delivery> {
    Ok(Delivery {
        id: DeliveryId(row.try_get(0)?),
        endpoint: row.try_get(1)?,
        route: row.try_get(2)?,
        queue: row.try_get(3)?,
        priority: row.try_get::<i64, _>(4)? as i8,
        tries: row.try_get(5)?,
        charged: row.try_get(6)?,
        ordering: row.try_get(7)?,
        event: Arc::new(Event {
            id: EventId(row.try_get(8)?),
            source: row.try_get::<&str, _>(9)?.into(),
            event_type: row.try_get::<&str, _>(10)?.into(),
            created_ms: row.try_get::<i64, _>(11)? as u64,
            content_type: row.try_get::<&str, _>(12)?.into(),
            headers: read_headers(row.try_get(13)?),
            parent: row.try_get::<Option<i64>, _>(14)?.map(DeliveryId),
            payload: Bytes::from(row.try_get::<Vec<u8>, _>(15)?),
        }),
    })
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

/// Reads id, source, type, status, time and parent, and looks up the deliveries.
async fn event_row(conn: &mut SqliteConnection, row: &SqliteRow) -> Result<EventRow> {
    let id = EventId(row.try_get(0)?);
    let deliveries = sqlx::query(
        "select d.id, d.endpoint_id, d.status, d.tries, r.next_retry_at from webhook_deliveries d \
         left join retry_queue r on r.delivery_id = d.id where d.event_id = ? order by d.id",
    )
    .bind(id.0)
    .fetch_all(&mut *conn)
    .await?;
    Ok(EventRow {
        id,
        source: row.try_get(1)?,
        event_type: row.try_get(2)?,
        unrouted: row.try_get::<i64, _>(3)? != 0,
        created_ms: row.try_get::<i64, _>(4)? as u64,
        parent: row.try_get::<Option<i64>, _>(5)?.map(DeliveryId),
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
