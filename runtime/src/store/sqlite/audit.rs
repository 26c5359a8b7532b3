//! The audit log on SQLite. What a row's hash covers, and whether it is right, is not decided here.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row};

use crate::store::rows::{AuditEntry, AuditFilter, AuditHead, AuditRow};
use crate::store::{Result, StoreError};

const COLUMNS: &str = "id, at, actor, address, action, object, reason, details, previous_hash, hash";

pub(super) async fn head(conn: &mut SqliteConnection) -> Result<AuditHead> {
    let newest = sqlx::query("select id, hash from audit_log order by id desc limit 1").fetch_optional(conn).await?;
    match newest {
        Some(row) => Ok(AuditHead { id: row.try_get(0)?, hash: row.try_get(1)? }),
        None => Ok(AuditHead::start()),
    }
}

pub(super) async fn append(conn: &mut SqliteConnection, after: &AuditHead, row: &AuditRow) -> Result<()> {
    if head(conn).await? != *after {
        return Err(StoreError::Conflict("the newest row of the audit log is not the one that was known".into()));
    }
    let AuditRow { id, entry, previous_hash, hash } = row;
    sqlx::query(AssertSqlSafe(format!("insert into audit_log ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")))
        .bind(*id)
        .bind(entry.at_ms as i64)
        .bind(entry.actor.clone())
        .bind(entry.address.clone())
        .bind(entry.action.clone())
        .bind(entry.object.clone())
        .bind(entry.reason.clone())
        .bind(entry.details.clone())
        .bind(previous_hash.clone())
        .bind(hash.clone())
        .execute(conn)
        .await?;
    Ok(())
}

/// The only statement that removes rows.
pub(super) async fn remove(conn: &mut SqliteConnection, through: i64) -> Result<u64> {
    Ok(sqlx::query("delete from audit_log where id <= ?").bind(through).execute(conn).await?.rows_affected())
}

pub(super) async fn rows(conn: &mut SqliteConnection, after: i64, limit: u32) -> Result<Vec<AuditRow>> {
    let sql = format!("select {COLUMNS} from audit_log where id > ? order by id limit ?");
    sqlx::query(AssertSqlSafe(sql)).bind(after).bind(limit).fetch_all(conn).await?.iter().map(row).collect()
}

pub(super) async fn listing(pool: &SqlitePool, filter: &AuditFilter) -> Result<Vec<AuditRow>> {
    let sql = format!(
        "select {COLUMNS} from audit_log where id > 0 and id < ?1 and (?2 is null or actor = ?2) \
         and (?3 is null or action = ?3) \
         and (?4 is null or object = ?4 or instr(details, '\"' || ?4 || '\"') > 0) order by id desc limit ?5"
    );
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(filter.before.unwrap_or(i64::MAX))
        .bind(filter.actor.clone())
        .bind(filter.action.clone())
        .bind(filter.object.clone())
        .bind(filter.limit)
        .fetch_all(pool)
        .await?;
    found.iter().map(row).collect()
}

fn row(row: &SqliteRow) -> Result<AuditRow> {
    // What somebody else wrote need not be UTF-8. It is to be found as wrong, and not to stop the search.
    let some = |at: usize| -> Result<Option<String>> {
        Ok(row.try_get::<Option<Vec<u8>>, _>(at)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let text = |at: usize| -> Result<String> { Ok(some(at)?.unwrap_or_default()) };
    Ok(AuditRow {
        id: row.try_get(0)?,
        entry: AuditEntry {
            at_ms: row.try_get::<i64, _>(1)? as u64,
            actor: text(2)?,
            address: some(3)?,
            action: text(4)?,
            object: text(5)?,
            reason: some(6)?,
            details: text(7)?,
        },
        previous_hash: row.try_get(8)?,
        hash: row.try_get(9)?,
    })
}

/// The audit log of a database file as it is at this moment, read without a hub and without changing it.
pub(crate) struct Snapshot(SqliteConnection);

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
        Ok(Snapshot(conn))
    }

    /// Whether the database is of a version that has an audit log.
    pub(crate) async fn has_log(&mut self) -> Result<bool> {
        let sql = "select 1 from sqlite_master where type = 'table' and name = 'audit_log'";
        Ok(sqlx::query(sql).fetch_optional(&mut self.0).await?.is_some())
    }

    /// Up to `limit` rows after that one, oldest first.
    pub(crate) async fn rows(&mut self, after: i64, limit: u32) -> Result<Vec<AuditRow>> {
        rows(&mut self.0, after, limit).await
    }
}
