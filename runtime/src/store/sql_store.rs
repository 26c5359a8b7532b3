//! The one [`Store`], on any of the databases.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use async_trait::async_trait;

use super::database::{Database, end, patiently};
use super::mysql::MySql;
use super::postgres::Postgres;
use super::rows::*;
use super::sql::Conn;
use super::sqlite::Sqlite;
use super::tables::*;
use super::{Done, Known, LEASE, Result, Store, Tell, Work};
use crate::delivery::Delivery;
use crate::event::{DeliveryId, ErasureId, EventId, NewDelivery, NewEvent, SubjectKey};
use crate::keyring::{KeyId, Keyring};

pub(crate) struct SqlStore {
    database: Box<dyn Database>,
    /// Opens what is sealed.
    ring: Arc<Keyring>,
    /// See [`Known`].
    rehidden: AtomicBool,
    /// Whom to tell of a new revision.
    tell: OnceLock<Tell>,
}

impl SqlStore {
    /// The database at a URL, or else the one in a directory, with its tables brought up to date. No error repeats the URL,
    /// which may hold a password.
    pub(crate) async fn open(url: Option<&str>, directory: &Path, ring: Arc<Keyring>) -> anyhow::Result<SqlStore> {
        match url.map(|url| (url, url.split("://").next().unwrap_or_default())) {
            None => SqlStore::sqlite(&directory.join("tomada.db"), ring)
                .await
                .with_context(|| format!("database in {}", directory.display())),
            Some((url, "postgres" | "postgresql")) => {
                SqlStore::postgres(url, ring).await.context("database on PostgreSQL")
            }
            Some((url, "mysql" | "mariadb")) => SqlStore::mysql(url, ring).await.context("database on MySQL"),
            Some(_) => anyhow::bail!("the database's URL must begin with postgres:// or mysql://"),
        }
    }

    /// Opens or creates a SQLite file and brings its tables up to date.
    pub(crate) async fn sqlite(path: &Path, ring: Arc<Keyring>) -> anyhow::Result<SqlStore> {
        Ok(SqlStore::on(Box::new(Sqlite::open(path).await?), ring).await?)
    }

    /// Connects to PostgreSQL and brings the tables up to date.
    pub(crate) async fn postgres(url: &str, ring: Arc<Keyring>) -> anyhow::Result<SqlStore> {
        Ok(SqlStore::on(Box::new(Postgres::connect(url).await?), ring).await?)
    }

    /// Connects to MySQL or MariaDB and brings the tables up to date.
    pub(crate) async fn mysql(url: &str, ring: Arc<Keyring>) -> anyhow::Result<SqlStore> {
        Ok(SqlStore::on(Box::new(MySql::connect(url).await?), ring).await?)
    }

    async fn on(database: Box<dyn Database>, ring: Arc<Keyring>) -> Result<SqlStore> {
        let rehidden = privacy::has_erasures(&mut database.read().await?).await?;
        Ok(SqlStore { database, ring, rehidden: AtomicBool::new(rehidden), tell: OnceLock::new() })
    }

    fn known(&self) -> Known<'_> {
        Known { ring: &self.ring, rehidden: self.rehidden.load(Ordering::Relaxed) }
    }

    async fn read(&self) -> Result<Conn> {
        self.database.read().await
    }
}

/// Runs a body in a transaction: committed when it succeeds, rolled back when it does not, and run again when the database
/// asks for that. A macro, because the compiler does not see that a closure's future can be sent.
macro_rules! transaction {
    ($store:ident, |$conn:ident| $body:expr) => {{
        patiently!(async {
            let mut conn = $store.database.begin().await?;
            let $conn = &mut conn;
            let done = async { $body }.await;
            end(conn, done).await
        })
    }};
}

/// The same for what every node holds in memory: they are told, once it is committed.
macro_rules! change {
    ($store:ident, |$conn:ident| $body:expr) => {{
        let changed: Result<_> = transaction!($store, |$conn| {
            let done = $body?;
            Ok((done, nodes::changed($conn).await?))
        });
        changed.map(|(done, revision)| {
            if let Some(tell) = $store.tell.get() {
                tell(revision);
            }
            done
        })
    }};
}

#[async_trait]
impl Store for SqlStore {
    async fn commit(&self, node: i64, work: &[Work]) -> Result<Vec<Done>> {
        self.database.commit(self.known(), node, work).await
    }

    async fn claim(&self, node: i64, endpoint: i64, limit: u32) -> Result<Vec<Delivery>> {
        self.database.claim(&self.ring, node, endpoint, limit).await
    }

    async fn promote(&self, node: i64, now_ms: u64, limit: u32) -> Result<Promoted> {
        self.database.promote(&self.ring, node, now_ms, limit).await
    }

    async fn next_due(&self) -> Result<Option<u64>> {
        deliveries::next_due(&mut self.read().await?).await
    }

    async fn backlog(&self) -> Result<Vec<i64>> {
        deliveries::backlog(&mut self.read().await?).await
    }

    fn is_shared(&self) -> bool {
        self.database.is_shared()
    }

    fn on_change(&self, tell: Tell) {
        // Whoever asked first is told.
        let _ = self.tell.set(tell);
    }

    async fn join(&self, name: &str, now_ms: u64) -> Result<(i64, u64)> {
        transaction!(self, |conn| nodes::join(conn, name, LEASE.as_millis() as u64, now_ms).await)
    }

    async fn leave(&self, node: i64, now_ms: u64) -> Result<u64> {
        transaction!(self, |conn| nodes::leave(conn, node, now_ms).await)
    }

    async fn renew(&self, node: i64, running: &str) -> Result<()> {
        transaction!(self, |conn| nodes::renew(conn, node, LEASE.as_millis() as u64, running).await)
    }

    async fn reap(&self, now_ms: u64) -> Result<Vec<ReapedRow>> {
        transaction!(self, |conn| nodes::reap(conn, now_ms).await)
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>> {
        nodes::all(&mut self.read().await?).await
    }

    async fn revision(&self) -> Result<i64> {
        let conn = &mut self.read().await?;
        let revision = nodes::revision(conn).await?;
        if privacy::has_erasures(conn).await? {
            // Another node may be about to hide keys.
            self.rehidden.store(true, Ordering::Relaxed);
        }
        Ok(revision)
    }

    async fn catalog(&self) -> Result<CatalogRows> {
        catalog::all(&mut self.read().await?, &self.ring).await
    }

    async fn put_catalog(&self, change: &CatalogChange, now_ms: u64) -> Result<()> {
        change!(self, |conn| catalog::put(conn, change, now_ms).await)
    }

    async fn pause(&self, endpoint: i64, reason: Option<&str>) -> Result<()> {
        change!(self, |conn| catalog::pause(conn, endpoint, reason).await)
    }

    async fn schedules(&self) -> Result<Vec<ScheduleRow>> {
        schedules::all(&mut self.read().await?).await
    }

    async fn fired(&self, name: &str, fired_ms: u64, now_ms: u64) -> Result<()> {
        transaction!(self, |conn| {
            schedules::fired(conn, ScheduleKind::Schedule, name, fired_ms, now_ms).await.map(drop)
        })
    }

    async fn begin_sync(&self, run: &NewSyncRun) -> Result<Begun> {
        transaction!(self, |conn| schedules::begin(conn, run).await)
    }

    async fn running_syncs(&self) -> Result<Vec<SyncRunRow>> {
        schedules::running(&mut self.read().await?).await
    }

    async fn sync_runs(&self, name: &str, limit: u32) -> Result<Vec<SyncRunRow>> {
        schedules::runs(&mut self.read().await?, name, limit).await
    }

    async fn mappings(&self) -> Result<Vec<MappingSummary>> {
        mappings::all(&mut self.read().await?).await
    }

    async fn mapping(&self, name: &str) -> Result<Vec<MappingVersion>> {
        mappings::versions(&mut self.read().await?, name).await
    }

    async fn put_mapping(&self, new: &NewMapping, now_ms: u64) -> Result<i64> {
        change!(self, |conn| mappings::put(conn, new, now_ms).await)
    }

    async fn activate_mapping(&self, name: &str, version: i64) -> Result<()> {
        change!(self, |conn| mappings::activate(conn, name, version).await)
    }

    async fn latest_events(&self, types: &[String], limit: u32) -> Result<Vec<EventId>> {
        events::latest(&mut self.read().await?, types, limit).await
    }

    async fn put_version(&self, version: &NewVersion, activate: bool, now_ms: u64) -> Result<VersionRow> {
        change!(self, |conn| connectors::put(conn, version, activate, now_ms).await)
    }

    async fn activate(&self, name: &str, digest: &str) -> Result<()> {
        change!(self, |conn| connectors::activate(conn, name, digest).await)
    }

    async fn connectors(&self) -> Result<Vec<ConnectorRow>> {
        connectors::all(&mut self.read().await?).await
    }

    async fn versions(&self) -> Result<Vec<VersionRow>> {
        connectors::versions(&mut self.read().await?).await
    }

    async fn component(&self, version: i64) -> Result<Vec<u8>> {
        connectors::component(&mut self.read().await?, version).await
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRow>> {
        events::listing(&mut self.read().await?, filter).await
    }

    async fn event(&self, id: EventId) -> Result<EventDetail> {
        events::detail(&mut self.read().await?, &self.ring, id).await
    }

    async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRow>> {
        deliveries::dead_letters(&mut self.read().await?, &self.ring, filter).await
    }

    async fn replay(&self, delivery: DeliveryId) -> Result<()> {
        transaction!(self, |conn| deliveries::replay(conn, delivery).await)
    }

    async fn replay_dead(&self, endpoint: Option<i64>, limit: u32) -> Result<u64> {
        transaction!(self, |conn| deliveries::replay_dead(conn, endpoint, limit).await)
    }

    async fn unfinished(&self) -> Result<Vec<(i64, i64, u64)>> {
        deliveries::unfinished(&mut self.read().await?).await
    }

    async fn put_key(&self, key: &KeyRow) -> Result<()> {
        transaction!(self, |conn| keys::put(conn, key).await)
    }

    async fn key(&self, id: &str) -> Result<Option<KeyRow>> {
        keys::get(&mut self.read().await?, id).await
    }

    async fn keys(&self) -> Result<Vec<KeyRow>> {
        keys::all(&mut self.read().await?).await
    }

    async fn rotate_key(&self, id: &str, hash: &[u8], previous_until_ms: u64) -> Result<()> {
        transaction!(self, |conn| keys::rotate(conn, id, hash, previous_until_ms).await)
    }

    async fn revoke_key(&self, id: &str, now_ms: u64) -> Result<()> {
        transaction!(self, |conn| keys::revoke(conn, id, now_ms).await)
    }

    async fn key_used(&self, id: &str, now_ms: u64) -> Result<()> {
        transaction!(self, |conn| keys::used(conn, id, now_ms).await)
    }

    async fn keyring(&self) -> Result<Option<Vec<u8>>> {
        keyring::fingerprint(&mut self.read().await?).await
    }

    async fn set_keyring(&self, fingerprint: &[u8]) -> Result<()> {
        transaction!(self, |conn| keyring::set_fingerprint(conn, fingerprint).await)
    }

    async fn pepper(&self) -> Result<Option<Vec<u8>>> {
        keyring::pepper(&mut self.read().await?).await
    }

    async fn set_pepper(&self, fingerprint: &[u8]) -> Result<()> {
        transaction!(self, |conn| keyring::set_pepper(conn, fingerprint).await)
    }

    async fn wrapping_keys(&self) -> Result<Vec<KeyId>> {
        keyring::wrapping_keys(&mut self.read().await?).await
    }

    async fn add_wrapping_key(&self, id: KeyId) -> Result<()> {
        transaction!(self, |conn| keyring::add_wrapping_key(conn, id).await)
    }

    async fn remove_wrapping_key(&self, id: KeyId) -> Result<()> {
        transaction!(self, |conn| keyring::remove_wrapping_key(conn, id).await)
    }

    async fn wrapped_secrets(&self) -> Result<Vec<WrappedKey>> {
        keyring::wrapped_secrets(&mut self.read().await?).await
    }

    async fn wrapped_events(&self, after: EventId, limit: u32) -> Result<WrappedPage> {
        keyring::wrapped_events(&mut self.read().await?, after, limit).await
    }

    async fn rewrap(&self, keys: &[WrappedKey]) -> Result<()> {
        transaction!(self, |conn| keyring::rewrap(conn, keys).await)
    }

    async fn secrets(&self) -> Result<Vec<SecretRow>> {
        secrets::all(&mut self.read().await?, &self.ring).await
    }

    async fn put_secret(&self, name: &str, value: &[u8], previous_until_ms: u64, now_ms: u64) -> Result<i64> {
        let ring = &self.ring;
        change!(self, |conn| secrets::put(conn, ring, name, value, previous_until_ms, now_ms).await)
    }

    async fn remove_secret(&self, name: &str) -> Result<()> {
        change!(self, |conn| secrets::remove(conn, name).await)
    }

    async fn audit_head(&self) -> Result<AuditHead> {
        audit::head(&mut self.read().await?).await
    }

    async fn append_audit(&self, after: &AuditHead, row: &AuditRow) -> Result<()> {
        transaction!(self, |conn| audit::append(conn, after, row).await)
    }

    async fn prune_audit(&self, after: &AuditHead, row: &AuditRow, through: i64) -> Result<u64> {
        transaction!(self, |conn| {
            audit::append(conn, after, row).await?;
            audit::remove(conn, through).await
        })
    }

    async fn audit_rows(&self, after: i64, limit: u32) -> Result<Vec<AuditRow>> {
        audit::rows(&mut self.read().await?, after, limit).await
    }

    async fn audit_log(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>> {
        audit::listing(&mut self.read().await?, filter).await
    }

    async fn retire(&self, walk: &Walk, place: i64, now_ms: u64) -> Result<Step> {
        let plan = retention::plan(&mut self.read().await?, walk, place, now_ms).await?;
        if plan.is_empty() && !plan.has_moved(place) {
            return Ok(plan.untouched());
        }
        let plan = &plan;
        transaction!(self, |conn| retention::carry_out(conn, walk.rule, Some(walk), plan, now_ms).await)
    }

    async fn retire_stragglers(&self, rule: Rule, walks: &[Walk], place: i64, now_ms: u64) -> Result<Step> {
        let plan = retention::plan_stragglers(&mut self.read().await?, walks, rule, place, now_ms).await?;
        if plan.is_empty() {
            return Ok(plan.untouched());
        }
        let plan = &plan;
        transaction!(self, |conn| retention::carry_out(conn, rule, None, plan, now_ms).await)
    }

    async fn retention_place(&self, walk: &Walk, policies: &[String], now_ms: u64) -> Result<i64> {
        transaction!(self, |conn| retention::place(conn, walk, policies, now_ms).await)
    }

    async fn retire_keys(&self, before_ms: u64) -> Result<Step> {
        let plan = &retention::plan_keys(&mut self.read().await?, before_ms).await?;
        transaction!(self, |conn| retention::retire_keys(conn, plan).await)
    }

    async fn retire_sync_runs(&self, before_ms: u64) -> Result<u64> {
        transaction!(self, |conn| retention::retire_sync_runs(conn, before_ms).await)
    }

    async fn oldest_due(&self, walk: &Walk, now_ms: u64) -> Result<Option<u64>> {
        retention::oldest_due(&mut self.read().await?, walk, now_ms).await
    }

    async fn oldest_key_due(&self, before_ms: u64) -> Result<Option<u64>> {
        retention::oldest_key_due(&mut self.read().await?, before_ms).await
    }

    async fn oldest_sync_run_due(&self, before_ms: u64) -> Result<Option<u64>> {
        retention::oldest_sync_run_due(&mut self.read().await?, before_ms).await
    }

    async fn retired(&self) -> Result<Vec<(Rule, u64)>> {
        retention::retired(&mut self.read().await?).await
    }

    async fn scrub(&self, may_wait: bool) -> Result<bool> {
        self.database.scrub(may_wait).await
    }

    async fn find_subject(&self, seeds: &Seeds, before: Option<EventId>, limit: u32) -> Result<Found> {
        privacy::find(&mut self.read().await?, seeds, before, limit).await
    }

    async fn received(&self, seeds: &Seeds, limit: u32) -> Result<Vec<ReceivedRow>> {
        privacy::received(&mut self.read().await?, seeds, limit).await
    }

    async fn coverage(&self) -> Result<Coverage> {
        privacy::coverage(&mut self.read().await?).await
    }

    async fn contents(&self, after: EventId, upto: EventId, limit: u32) -> Result<Vec<ContentRow>> {
        privacy::contents(&mut self.read().await?, &self.ring, after, upto, limit).await
    }

    async fn newest_event(&self) -> Result<Option<EventId>> {
        events::newest(&mut self.read().await?).await
    }

    async fn begin_erasure(&self, new: &NewErasure, notice: &NewEvent) -> Result<BegunErasure> {
        let (database, known) = (&*self.database, self.known());
        change!(self, |conn| privacy::begin(conn, database, known, new, notice).await)
    }

    async fn open_erasures(&self) -> Result<Vec<(ErasureId, ErasureState)>> {
        privacy::open(&mut self.read().await?).await
    }

    async fn to_erase(&self, erasure: ErasureId, limit: u32) -> Result<Vec<EventId>> {
        privacy::to_erase(&mut self.read().await?, erasure, limit).await
    }

    async fn erase(
        &self,
        node: i64,
        erasure: ErasureId,
        events: &[EventId],
        under_way: &[DeliveryId],
        now_ms: u64,
    ) -> Result<ErasedBatch> {
        transaction!(self, |conn| {
            let batch = privacy::erase(conn, &self.ring, node, erasure, events, under_way, now_ms).await?;
            if batch.rehidden {
                // Before the commit: from it on the open form is not there any more.
                self.rehidden.store(true, Ordering::Relaxed);
            }
            Ok(batch)
        })
    }

    async fn tell(&self, erasure: ErasureId, deliveries: &[NewDelivery], told: &[(i64, DeliveryId)]) -> Result<()> {
        let database = &*self.database;
        transaction!(self, |conn| privacy::tell(conn, database, erasure, deliveries, told).await)
    }

    async fn close_erasures(&self, now_ms: u64) -> Result<u64> {
        transaction!(self, |conn| privacy::close_told(conn, now_ms).await)
    }

    async fn close_erasure(&self, erasure: ErasureId, now_ms: u64) -> Result<()> {
        transaction!(self, |conn| privacy::close(conn, erasure, now_ms).await)
    }

    async fn erasures(&self, only: Option<ErasureId>, limit: u32) -> Result<Vec<ErasureRow>> {
        privacy::listing(&mut self.read().await?, only, limit).await
    }

    async fn reindexing(&self) -> Result<Option<Reindexing>> {
        privacy::reindexing(&mut self.read().await?).await
    }

    async fn begin_reindexing(&self, now_ms: u64) -> Result<()> {
        transaction!(self, |conn| privacy::begin_reindexing(conn, now_ms).await)
    }

    async fn reindex(
        &self,
        events: &[(EventId, Vec<SubjectKey>)],
        cursor: EventId,
        finished_ms: Option<u64>,
    ) -> Result<()> {
        transaction!(self, |conn| privacy::reindex(conn, events, cursor, finished_ms).await)
    }
}
