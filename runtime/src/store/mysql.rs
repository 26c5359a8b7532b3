//! MySQL 8.0 and MariaDB 10.6 or later.

mod hot;

use std::str::FromStr;

use anyhow::Context as _;
use async_trait::async_trait;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlPool};
use sqlx::{ConnectOptions as _, Executor as _, Row as _};

use super::database::{Database, patiently, pool, transaction};
use super::migrate::take_turns;
use super::rows::Promoted;
use super::sql::{Conn, Open};
use super::{Done, Known, Result, StoreError, Work, batch};
use crate::delivery::Delivery;
use crate::event::{EventId, NewDelivery, NewEvent};
use crate::keyring::Keyring;
use hot::Hot;

/// The first releases with `for update skip locked`.
const OLDEST_MYSQL: (u32, u32) = (8, 0);
const OLDEST_MARIADB: (u32, u32) = (10, 6);
/// What MariaDB has unless it is told otherwise. Twice what a batch is cut into.
const MAX_ALLOWED_PACKET: i64 = 16 << 20;

/// One commits, the others claim and promote. They are apart so that nobody who looks at long lists makes a commit
/// wait, and since the server keeps the large statements of the hot path for each connection that uses them.
const HOT_CONNECTIONS: u32 = 4;
const CONNECTIONS: u32 = 8;
/// Statements that a connection keeps prepared.
const STATEMENTS: usize = 256;

/// What each connection is told first. A lock is waited for as long as SQLite's; READ COMMITTED locks the rows that a
/// statement finds, and not the gaps between them; in texts a backslash is a character like others, as in the other
/// databases. A connection from which nothing comes for a while is closed, and its transaction rolled back: a
/// node that is stopped or cut off in the middle of a commit must not hold its locks longer than its lease.
const SESSION: &str = "set session transaction isolation level read committed; \
     set session innodb_lock_wait_timeout = 10, wait_timeout = 5, sql_mode = \
     'STRICT_ALL_TABLES,ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES,NO_ENGINE_SUBSTITUTION'";

pub(super) struct MySql {
    hot: MySqlPool,
    others: MySqlPool,
}

impl MySql {
    /// Connects to `mysql://USER:PASSWORD@HOST/DATABASE` and brings the tables up to date.
    pub(super) async fn connect(url: &str) -> anyhow::Result<MySql> {
        // Its error could repeat the password.
        let options = MySqlConnectOptions::from_str(url)
            .ok()
            .filter(|options| options.get_database().is_some())
            .context("the database's URL is mysql://USER:PASSWORD@HOST/DATABASE")?
            .charset("utf8mb4")
            .collation("utf8mb4_bin")
            // `SESSION` has them.
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .statement_cache_capacity(STATEMENTS)
            .disable_statement_logging();
        let pool = |connections| {
            pool::<sqlx::MySql>(connections)
                .after_connect(|conn, _| Box::pin(async move { conn.execute(SESSION).await.map(drop) }))
        };
        let others = pool(CONNECTIONS).connect_with(options.clone()).await.map_err(StoreError::from)?;
        let mut conn = others.acquire().await.map_err(StoreError::from)?;
        check(&mut conn).await?;
        take_turns(&mut conn, sqlx::migrate!("../migrations/mysql")).await?;
        drop(conn);
        Ok(MySql { hot: pool(HOT_CONNECTIONS).connect_lazy_with(options), others })
    }

    async fn begin_hot(&self) -> Result<Conn> {
        Ok(Conn::MySql(Open::begin(self.hot.acquire().await?).await?))
    }
}

#[async_trait]
impl Database for MySql {
    fn is_shared(&self) -> bool {
        true
    }

    async fn read(&self) -> Result<Conn> {
        Ok(Conn::MySqlReader(self.others.acquire().await?))
    }

    async fn begin(&self) -> Result<Conn> {
        Ok(Conn::MySql(Open::begin(self.others.acquire().await?).await?))
    }

    async fn commit(&self, known: Known<'_>, node: i64, work: &[Work]) -> Result<Vec<Done>> {
        patiently!(transaction(self.begin_hot(), async |conn| batch::commit(&mut Hot(conn), known, node, work).await))
    }

    async fn claim(&self, ring: &Keyring, node: i64, endpoint: i64, limit: u32) -> Result<Vec<Delivery>> {
        patiently!(transaction(self.begin_hot(), async |conn| Hot(conn).claim(ring, node, endpoint, limit).await))
    }

    async fn promote(&self, ring: &Keyring, node: i64, now_ms: u64, limit: u32) -> Result<Promoted> {
        patiently!(transaction(self.begin_hot(), async |conn| Hot(conn).promote(ring, node, now_ms, limit).await))
    }

    async fn accept(&self, conn: &mut Conn, known: Known<'_>, node: i64, event: &NewEvent) -> Result<EventId> {
        let ids = batch::accept(&mut Hot(conn), known, node, &[event]).await?;
        Ok(ids.first().copied().unwrap_or(event.event.id))
    }

    async fn owe(&self, conn: &mut Conn, node: i64, event: EventId, deliveries: &[NewDelivery]) -> Result<()> {
        let deliveries: Vec<(EventId, &NewDelivery)> = deliveries.iter().map(|delivery| (event, delivery)).collect();
        batch::owe(&mut Hot(conn), node, &deliveries).await
    }

    /// InnoDB writes changed pages over the old ones, and purges what no transaction can see any more, by itself; there is
    /// nothing that a connection could ask for.
    async fn scrub(&self, _may_wait: bool) -> Result<bool> {
        Ok(true)
    }
}

/// Refuses a server that is too old, or that says yes before a commit is on the disk.
async fn check(conn: &mut MySqlConnection) -> anyhow::Result<()> {
    let row = sqlx::query(
        "select version(), cast(@@innodb_flush_log_at_trx_commit as signed), cast(@@log_bin as signed), \
         cast(@@sync_binlog as signed), cast(@@max_allowed_packet as signed)",
    )
    .fetch_one(conn)
    .await
    .map_err(StoreError::from)?;
    let get = |column: usize| row.try_get::<i64, _>(column).map_err(StoreError::from);
    let version: String = row.try_get_unchecked(0).map_err(StoreError::from)?;
    if !is_known(&version) {
        anyhow::bail!("the database is {version}; MySQL 8.0 or MariaDB 10.6 or later is needed");
    }
    let (flush, has_log, sync, packet) = (get(1)?, get(2)?, get(3)?, get(4)?);
    if flush != 1 {
        anyhow::bail!(
            "the database's innodb_flush_log_at_trx_commit is {flush}: it says yes before a commit is on the disk, and \
             would lose events; set it to 1"
        );
    }
    if has_log != 0 && sync != 1 {
        anyhow::bail!(
            "the database's sync_binlog is {sync}: after a crash it takes back commits that are not in the binary log, \
             and would lose events; set it to 1"
        );
    }
    if packet < MAX_ALLOWED_PACKET {
        anyhow::bail!(
            "the database's max_allowed_packet is {packet}, and not every batch would fit; set it to {MAX_ALLOWED_PACKET} or more"
        );
    }
    Ok(())
}

fn is_known(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let numbers = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    numbers >= if version.contains("MariaDB") { OLDEST_MARIADB } else { OLDEST_MYSQL }
}

#[cfg(test)]
mod tests;
