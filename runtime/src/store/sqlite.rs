//! The embedded database: SQLite in WAL mode, every commit fsynced, one writer, readers beside it.

pub(crate) mod audit;
mod hot;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::ConnectOptions;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::block_in_place;

use super::database::Database;
use super::rows::Promoted;
use super::sql::Conn;
use super::{Done, Known, Result, StoreError, Work};
use crate::delivery::Delivery;
use crate::event::{EventId, NewDelivery, NewEvent};
use crate::keyring::Keyring;

/// The first release without the WAL-reset corruption (https://sqlite.org/wal.html#walresetbug).
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// How long a statement waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Sqlite {
    /// Whoever holds it has the transaction to themselves.
    writer: Arc<Mutex<Writer>>,
    readers: SqlitePool,
}

/// The one connection that writes, held twice: by sqlx, and directly for the hot path.
pub(super) struct Writer {
    /// Dropped first: its statements end before the connection does.
    direct: rusqlite::Connection,
    pub(super) sqlx: SqliteConnection,
    /// sqlx's thread may still be at a statement whose future was dropped.
    is_lent: bool,
}

impl Sqlite {
    /// Opens or creates the file and brings its tables up to date.
    pub(super) async fn open(path: &Path) -> anyhow::Result<Sqlite> {
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
        let writer = Writer { direct: borrow(&mut writer).await?, sqlx: writer, is_lent: false };
        Ok(Sqlite { writer: Arc::new(Mutex::new(writer)), readers })
    }

    /// The writer for the hot path.
    async fn writer(&self) -> Result<OwnedMutexGuard<Writer>> {
        let mut writer = self.writer.clone().lock_owned().await;
        if writer.is_lent {
            writer.still().await?;
            writer.is_lent = false;
        }
        Ok(writer)
    }
}

impl Writer {
    /// Waits until sqlx's thread is at no statement. It begins none by itself.
    async fn still(&mut self) -> Result<()> {
        drop(self.sqlx.lock_handle().await?);
        Ok(())
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

/// The connection without sqlx's thread between, in the transaction of `conn`.
async fn direct(conn: &mut Conn) -> Result<&rusqlite::Connection> {
    match conn {
        Conn::SqliteWriter(writer) => {
            writer.still().await?;
            Ok(&writer.direct)
        }
        _ => Err(StoreError::Database("this connection does not write".into())),
    }
}

#[async_trait]
impl Database for Sqlite {
    fn is_shared(&self) -> bool {
        false
    }

    async fn read(&self) -> Result<Conn> {
        Ok(Conn::SqliteReader(self.readers.acquire().await?))
    }

    async fn begin(&self) -> Result<Conn> {
        let mut writer = self.writer.clone().lock_owned().await;
        writer.is_lent = true;
        let conn = &mut writer.sqlx;
        // A future that was dropped between BEGIN and COMMIT left its transaction open; nothing of it was promised.
        if sqlx::query("begin immediate").execute(&mut *conn).await.is_err() {
            sqlx::query("rollback").execute(&mut *conn).await?;
            sqlx::query("begin immediate").execute(&mut *conn).await?;
        }
        Ok(Conn::SqliteWriter(writer))
    }

    async fn commit(&self, known: Known<'_>, node: i64, work: &[Work]) -> Result<Vec<Done>> {
        let writer = self.writer().await?;
        Ok(hot::transaction(&writer.direct, |db| hot::commit(db, known, node, work))?)
    }

    async fn claim(&self, ring: &Keyring, node: i64, endpoint: i64, limit: u32) -> Result<Vec<Delivery>> {
        let writer = self.writer().await?;
        block_in_place(|| Ok(hot::transaction(&writer.direct, |db| hot::claim(db, ring, node, endpoint, limit))?))
    }

    async fn promote(&self, ring: &Keyring, node: i64, now_ms: u64, limit: u32) -> Result<Promoted> {
        let writer = self.writer().await?;
        block_in_place(|| Ok(hot::transaction(&writer.direct, |db| hot::promote(db, ring, node, now_ms, limit))?))
    }

    async fn accept(&self, conn: &mut Conn, known: Known<'_>, node: i64, event: &NewEvent) -> Result<EventId> {
        let direct = direct(conn).await?;
        block_in_place(|| Ok(hot::accept(direct, known, node, event)?))
    }

    async fn owe(&self, conn: &mut Conn, node: i64, event: EventId, deliveries: &[NewDelivery]) -> Result<()> {
        let direct = direct(conn).await?;
        block_in_place(|| Ok(hot::owe(direct, node, event, deliveries)?))
    }

    /// Puts the write-ahead log into the database and empties it. What is freed there is zeros already (`secure_delete`).
    async fn scrub(&self, may_wait: bool) -> Result<bool> {
        let writer = self.writer().await?;
        block_in_place(|| {
            if !may_wait {
                writer.direct.busy_timeout(Duration::ZERO)?;
            }
            let emptied =
                writer.direct.query_row("pragma wal_checkpoint(truncate)", [], |row| Ok(row.get::<_, i64>(0)? == 0));
            writer.direct.busy_timeout(BUSY_TIMEOUT)?;
            Ok(emptied?)
        })
    }
}
