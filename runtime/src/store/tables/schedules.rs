//! Schedules and the runs of sync jobs.

use crate::event::SyncRunId;
use crate::store::Result;
use crate::store::rows::*;
use crate::store::sql::{Conn, Lock, Row, query};

pub(in crate::store) async fn all(conn: &mut Conn) -> Result<Vec<ScheduleRow>> {
    let rows = query("select kind, name, config, fired_at from schedules order by kind, name");
    rows.fetch_all(conn).await?.iter().map(schedule_row).collect()
}

fn schedule_row(row: &Row) -> Result<ScheduleRow> {
    Ok(ScheduleRow {
        kind: if row.try_get::<i64>(0)? == 0 { ScheduleKind::Schedule } else { ScheduleKind::SyncJob },
        name: row.try_get(1)?,
        config: row.try_get(2)?,
        fired_ms: row.try_get(3)?,
    })
}

pub(super) async fn put(conn: &mut Conn, change: &CatalogChange, now_ms: u64) -> Result<()> {
    let put = [
        (ScheduleKind::Schedule, &change.put_schedules, &change.drop_schedules),
        (ScheduleKind::SyncJob, &change.put_sync_jobs, &change.drop_sync_jobs),
    ];
    for (kind, put, dropped) in put {
        for (name, config) in put {
            query(
                "insert into schedules (kind, name, config, fired_at) values (?, ?, ?, ?) \
                 on conflict (kind, name) do update set config = excluded.config, fired_at = excluded.fired_at",
            )
            .bind(kind as i64)
            .bind(name)
            .bind(config)
            .bind(now_ms)
            .execute(conn)
            .await?;
        }
        for name in dropped {
            query("delete from schedules where kind = ? and name = ?")
                .bind(kind as i64)
                .bind(name)
                .execute(conn)
                .await?;
        }
    }
    Ok(())
}

/// Answers whether it was us.
pub(in crate::store) async fn fired(
    conn: &mut Conn,
    kind: ScheduleKind,
    name: &str,
    fired_ms: u64,
    now_ms: u64,
) -> Result<bool> {
    let changed = query("update schedules set fired_at = ? where kind = ? and name = ? and fired_at = ?")
        .bind(now_ms)
        .bind(kind as i64)
        .bind(name)
        .bind(fired_ms)
        .execute(conn)
        .await?;
    Ok(changed > 0)
}

pub(in crate::store) async fn begin(conn: &mut Conn, run: &NewSyncRun) -> Result<Begun> {
    conn.lock(Lock::SyncJobs).await?;
    if let Some((_, fired_ms)) = run.due
        && !fired(conn, ScheduleKind::SyncJob, &run.name, fired_ms, run.now_ms).await?
    {
        return Ok(Begun::Elsewhere);
    }
    let last = query("select state, \"cursor\" from sync_jobs where name = ? order by id desc limit 1")
        .bind(&run.name)
        .fetch_optional(conn)
        .await?;
    let cursor: Option<String> = match last {
        Some(last) if run.resume && SyncState::from_sql(last.try_get(0)?) == SyncState::Failed => last.try_get(1)?,
        _ => None,
    };
    let began = query(
        "insert or ignore into sync_jobs (id, name, state, due_at, started_at, \"cursor\", pages, items, known) \
         values (?, ?, 0, ?, ?, ?, 0, 0, 0)",
    )
    .bind(run.id.0)
    .bind(&run.name)
    .bind(run.due.map(|(due_ms, _)| due_ms))
    .bind(run.now_ms)
    .bind(cursor.as_ref())
    .execute(conn)
    .await?;
    Ok(if began > 0 { Begun::Run { cursor } } else { Begun::Running })
}

const RUN: &str = "select id, name, state, due_at, started_at, finished_at, \"cursor\", pages, items, known, code, \
                   message from sync_jobs";

pub(in crate::store) async fn running(conn: &mut Conn) -> Result<Vec<SyncRunRow>> {
    let rows = query(format!("{RUN} where state = 0")).fetch_all(conn).await?;
    rows.iter().map(run_row).collect()
}

pub(in crate::store) async fn runs(conn: &mut Conn, name: &str, limit: u32) -> Result<Vec<SyncRunRow>> {
    let rows =
        query(format!("{RUN} where name = ? order by id desc limit ?")).bind(name).bind(limit).fetch_all(conn).await?;
    rows.iter().map(run_row).collect()
}

fn run_row(row: &Row) -> Result<SyncRunRow> {
    Ok(SyncRunRow {
        id: SyncRunId(row.try_get(0)?),
        name: row.try_get(1)?,
        state: SyncState::from_sql(row.try_get(2)?),
        due_ms: row.try_get(3)?,
        started_ms: row.try_get(4)?,
        finished_ms: row.try_get(5)?,
        cursor: row.try_get(6)?,
        pages: row.try_get(7)?,
        items: row.try_get(8)?,
        known: row.try_get(9)?,
        code: row.try_get(10)?,
        message: row.try_get(11)?,
    })
}
