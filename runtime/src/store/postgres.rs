//! PostgreSQL 14 or later: one database, any number of nodes.

mod hot;

use std::str::FromStr;

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{ConnectOptions, Connection as _, Row as _};
use tokio::task::block_in_place;

use super::database::{Database, patiently, pool, transaction};
use super::rows::Promoted;
use super::sql::{Conn, Open};
use super::{Done, Known, Result, StoreError, Work, batch};
use crate::delivery::Delivery;
use crate::event::{EventId, NewDelivery, NewEvent};
use crate::keyring::Keyring;
use hot::Hot;

/// PostgreSQL 14, as `server_version_num` says it.
const OLDEST_SERVER: i32 = 140_000;
/// The committer, the keeper, the scheduler and what tidies up hold one each, for moments; the rest is for what operators
/// ask. Ten nodes stay below a server's usual limit of 100.
const CONNECTIONS: u32 = 8;
/// The same for each connection, whatever the server's or the database's settings are.
///
/// * A 202 means durable. Where the server has switched that off, we switch it on for us; what it says of standbys
///   (`remote_write`, `remote_apply`) is left to it.
/// * A node that is stopped or cut off in the middle of a commit must not hold its locks longer than its lease: others
///   could not take over before.
const SETTINGS: &str = "select set_config('default_transaction_isolation', 'read committed', false), \
     set_config('synchronous_commit', case current_setting('synchronous_commit') when 'off' then 'on' \
     else current_setting('synchronous_commit') end, false), \
     set_config('idle_in_transaction_session_timeout', '5s', false)";

pub(super) struct Postgres {
    pool: PgPool,
}

impl Postgres {
    /// Connects to the database and brings its tables up to date; nodes that do so at the same time take turns.
    pub(super) async fn connect(url: &str) -> anyhow::Result<Postgres> {
        // The error of an address that cannot be read would repeat it, with its password.
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| anyhow::anyhow!("the database's URL cannot be read"))?
            .application_name("tomada")
            .statement_cache_capacity(256)
            .disable_statement_logging();
        let mut conn = PgConnection::connect_with(&options).await.map_err(StoreError::from)?;
        let version = sqlx::query("select current_setting('server_version_num')::int, version()");
        let version = version.fetch_one(&mut conn).await.map_err(StoreError::from)?;
        if version.try_get::<i32, _>(0).map_err(StoreError::from)? < OLDEST_SERVER {
            let version: String = version.try_get(1).map_err(StoreError::from)?;
            anyhow::bail!("{version} is too old: PostgreSQL 14 or later is needed");
        }
        sqlx::migrate!("../migrations/postgres").run(&mut conn).await.map_err(StoreError::from)?;
        conn.close().await.map_err(StoreError::from)?;
        let pool = pool(CONNECTIONS)
            .after_connect(|conn, _| Box::pin(async move { sqlx::query(SETTINGS).execute(conn).await.map(drop) }))
            .connect_with(options)
            .await
            .map_err(StoreError::from)?;
        Ok(Postgres { pool })
    }
}

#[async_trait]
impl Database for Postgres {
    fn is_shared(&self) -> bool {
        true
    }

    async fn read(&self) -> Result<Conn> {
        Ok(Conn::PostgresReader(self.pool.acquire().await?))
    }

    async fn begin(&self) -> Result<Conn> {
        Ok(Conn::Postgres(Open::begin(self.pool.acquire().await?).await?))
    }

    async fn commit(&self, known: Known<'_>, node: i64, work: &[Work]) -> Result<Vec<Done>> {
        patiently!(transaction(self.begin(), async |conn| batch::commit(&mut Hot(conn), known, node, work).await))
    }

    async fn claim(&self, ring: &Keyring, node: i64, endpoint: i64, limit: u32) -> Result<Vec<Delivery>> {
        let rows = patiently!(transaction(self.begin(), async |conn| Hot(conn).claim(node, endpoint, limit).await))?;
        // Opening is computing.
        block_in_place(|| hot::claimed(&rows, ring))
    }

    async fn promote(&self, ring: &Keyring, node: i64, now_ms: u64, limit: u32) -> Result<Promoted> {
        let rows = patiently!(transaction(self.begin(), async |conn| Hot(conn).promote(node, now_ms, limit).await))?;
        block_in_place(|| hot::promoted(&rows, ring))
    }

    async fn accept(&self, conn: &mut Conn, known: Known<'_>, node: i64, event: &NewEvent) -> Result<EventId> {
        let ids = batch::accept(&mut Hot(conn), known, node, &[event]).await?;
        // There is one for each.
        Ok(ids.first().copied().unwrap_or(event.event.id))
    }

    async fn owe(&self, conn: &mut Conn, node: i64, event: EventId, deliveries: &[NewDelivery]) -> Result<()> {
        let deliveries: Vec<(EventId, &NewDelivery)> = deliveries.iter().map(|delivery| (event, delivery)).collect();
        batch::owe(&mut Hot(conn), node, &deliveries).await
    }

    /// What was changed or removed stays in the table's file until a vacuum has gone over it and the place is used again,
    /// and in the write-ahead log until that is written over. The server does both by itself, and nobody but a superuser
    /// could make it hurry.
    async fn scrub(&self, _may_wait: bool) -> Result<bool> {
        Ok(true)
    }
}

/// What only this database does. The rest is in `super::conformance`.
#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::event::{Content, Event};
    use crate::ingress::key::Key;
    use crate::store::scratch::Scratch;

    /// An empty database; none where there is no server.
    async fn database() -> Option<Scratch> {
        Scratch::of_test("TOMADA_TEST_POSTGRES").await
    }

    fn event(number: i64) -> Work {
        let event = Event {
            id: EventId(number * 64),
            source: "crm".into(),
            event_type: "lead.created".into(),
            created_ms: 1,
            content_type: "application/json".into(),
            headers: Vec::new(),
            payload: Bytes::from_static(b"{}"),
            parent: None,
            content: Content::Clear,
        };
        let key = Key::given("crm", &format!("key-{number}"));
        Work::Accept(NewEvent {
            event: Arc::new(event),
            key,
            deliveries: Vec::new(),
            sealed: None,
            subjects: Vec::new(),
        })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_has_left_takes_and_writes_nothing_more() {
        let Some(database) = database().await else { return };
        let folder = tempfile::TempDir::new().unwrap();
        let ring = Keyring::open(&folder.path().join("keyring"), 1).unwrap();
        let known = Known { ring: &ring, rehidden: false };
        let db = Postgres::connect(database.url()).await.unwrap();
        let row = sqlx::query("insert into nodes (started_at) values (1) returning id").fetch_one(&db.pool).await;
        let node = row.unwrap().get(0);
        let done = db.commit(known, node, &[event(1)]).await.unwrap();
        assert_eq!(done, [Done::Accepted { id: EventId(64), duplicate: false }]);
        sqlx::query("update nodes set left_at = 1").execute(&db.pool).await.unwrap();
        assert!(matches!(db.commit(known, node, &[event(2)]).await, Err(StoreError::Fenced)));
        assert!(matches!(db.claim(&ring, node, 1, 10).await, Err(StoreError::Fenced)));
        assert!(matches!(db.promote(&ring, node, 10, 10).await, Err(StoreError::Fenced)));
        let events = sqlx::query("select count(*) from integration_events").fetch_one(&db.pool).await.unwrap();
        assert_eq!(events.get::<i64, _>(0), 1);
        database.remove().await.unwrap();
    }

    /// A 202 means durable, whatever the server was told.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_waits_for_the_disk_even_where_the_server_does_not() {
        let Some(database) = database().await else { return };
        for (said, done) in [("off", "on"), ("remote_apply", "remote_apply")] {
            let set = format!("'alter database %I set synchronous_commit = {said}', current_database()");
            database.run(format!("do $$ begin execute format({set}); end $$")).await;
            let db = Postgres::connect(database.url()).await.unwrap();
            let row = sqlx::query("show synchronous_commit").fetch_one(&db.pool).await.unwrap();
            assert_eq!(row.get::<&str, _>(0), done);
        }
        database.remove().await.unwrap();
    }
}
