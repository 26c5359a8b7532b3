//! The audit log. What a row's hash covers, and whether it is right, is not decided here.

use crate::store::rows::{AuditEntry, AuditFilter, AuditHead, AuditRow};
use crate::store::sql::{Conn, Lock, Row, query};
use crate::store::{Result, StoreError};

const COLUMNS: &str = "id, at, actor, address, action, object, reason, details, previous_hash, hash";

pub(in crate::store) async fn head(conn: &mut Conn) -> Result<AuditHead> {
    let newest = query("select id, hash from audit_log order by id desc limit 1").fetch_optional(conn).await?;
    match newest {
        Some(row) => Ok(AuditHead { id: row.try_get(0)?, hash: row.try_get(1)? }),
        None => Ok(AuditHead::start()),
    }
}

pub(in crate::store) async fn append(conn: &mut Conn, after: &AuditHead, row: &AuditRow) -> Result<()> {
    conn.lock(Lock::Audit).await?;
    if head(conn).await? != *after {
        return Err(StoreError::Conflict("the newest row of the audit log is not the one that was known".into()));
    }
    let AuditRow { id, entry, previous_hash, hash } = row;
    query(format!("insert into audit_log ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"))
        .bind(*id)
        .bind(entry.at_ms)
        .bind(&entry.actor)
        .bind(entry.address.as_ref())
        .bind(&entry.action)
        .bind(&entry.object)
        .bind(entry.reason.as_ref())
        .bind(&entry.details)
        .bind(previous_hash)
        .bind(hash)
        .execute(conn)
        .await?;
    Ok(())
}

/// The only statement that removes rows.
pub(in crate::store) async fn remove(conn: &mut Conn, through: i64) -> Result<u64> {
    query("delete from audit_log where id <= ?").bind(through).execute(conn).await
}

pub(in crate::store) async fn rows(conn: &mut Conn, after: i64, limit: u32) -> Result<Vec<AuditRow>> {
    let sql = format!("select {COLUMNS} from audit_log where id > ? order by id limit ?");
    query(sql).bind(after).bind(limit).fetch_all(conn).await?.iter().map(row).collect()
}

pub(in crate::store) async fn listing(conn: &mut Conn, filter: &AuditFilter) -> Result<Vec<AuditRow>> {
    let sql = format!(
        "select {COLUMNS} from audit_log where id > 0 and id < ?1 and (?2 is null or actor = ?2) \
         and (?3 is null or action = ?3) \
         and (?4 is null or object = ?4 or instr(details, ?5) > 0) order by id desc limit ?6"
    );
    let found = query(sql)
        .bind(filter.before.unwrap_or(i64::MAX))
        .bind(filter.actor.as_ref())
        .bind(filter.action.as_ref())
        .bind(filter.object.as_ref())
        .bind(filter.object.as_ref().map(|object| format!("\"{object}\"")))
        .bind(filter.limit)
        .fetch_all(conn)
        .await?;
    found.iter().map(row).collect()
}

fn row(row: &Row) -> Result<AuditRow> {
    // What somebody else wrote need not be UTF-8. It is to be found as wrong, and not to stop the search.
    let some = |at: usize| -> Result<Option<String>> {
        Ok(row.try_get::<Option<Vec<u8>>>(at)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let text = |at: usize| -> Result<String> { Ok(some(at)?.unwrap_or_default()) };
    Ok(AuditRow {
        id: row.try_get(0)?,
        entry: AuditEntry {
            at_ms: row.try_get(1)?,
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
