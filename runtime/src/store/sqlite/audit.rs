//! The audit log of a database that no hub need be running on.

use std::path::Path;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;

use crate::store::Result;
use crate::store::rows::AuditRow;
use crate::store::sql::{Conn, query};
use crate::store::tables::audit;

/// The audit log of a database file as it is at this moment, read without a hub and without changing it.
pub(crate) struct Snapshot(Conn);

impl Snapshot {
    /// Fails when there is no such file, or when it is not a database that this user can read.
    pub(crate) async fn open(path: &Path) -> Result<Snapshot> {
        let mut conn = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(Duration::from_secs(10))
            .pragma("query_only", "on")
            .disable_statement_logging()
            .connect()
            .await?;
        // Never ended: what a running hub adds or prunes meanwhile is not seen.
        sqlx::query("begin").execute(&mut conn).await?;
        Ok(Snapshot(Conn::Sqlite(conn)))
    }

    /// Whether the database is of a version that has an audit log.
    pub(crate) async fn has_log(&mut self) -> Result<bool> {
        let sql = "select 1 from sqlite_master where type = 'table' and name = 'audit_log'";
        Ok(query(sql).fetch_optional(&mut self.0).await?.is_some())
    }

    /// Up to `limit` rows after that one, oldest first.
    pub(crate) async fn rows(&mut self, after: i64, limit: u32) -> Result<Vec<AuditRow>> {
        audit::rows(&mut self.0, after, limit).await
    }
}
