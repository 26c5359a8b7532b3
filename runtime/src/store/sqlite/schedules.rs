//! Schedules and the runs of sync jobs on SQLite.

use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use crate::event::SyncRunId;
use crate::store::Result;
use crate::store::rows::*;

pub(super) async fn all(conn: &mut SqliteConnection) -> Result<Vec<ScheduleRow>> {
    let rows = sqlx::query("select kind, name, config, fired_at from schedules order by kind, name");
    rows.fetch_all(conn).await?.iter().map(schedule_row).collect()
}

fn schedule_row(row: &SqliteRow) -> Result<ScheduleRow> {
    Ok(ScheduleRow {
        kind: if row.try_get::<i64, _>(0)? == 0 { ScheduleKind::Schedule } else { ScheduleKind::SyncJob },
        name: row.try_get(1)?,
        config: row.try_get(2)?,
        fired_ms: row.try_get::<i64, _>(3)? as u64,
    })
}

pub(super) async fn put(conn: &mut SqliteConnection, change: &CatalogChange, now: i64) -> Result<()> {
    let put = [
        (ScheduleKind::Schedule, &change.put_schedules, &change.drop_schedules),
        (ScheduleKind::SyncJob, &change.put_sync_jobs, &change.drop_sync_jobs),
    ];
    for (kind, put, dropped) in put {
        for (name, config) in put {
            sqlx::query(
                "insert into schedules (kind, name, config, fired_at) values (?, ?, ?, ?) \
                 on conflict (kind, name) do update set config = excluded.config, fired_at = excluded.fired_at",
            )
            .bind(kind as i64)
            .bind(name.clone())
            .bind(config.clone())
            .bind(now)
            .execute(&mut *conn)
            .await?;
        }
        for name in dropped {
            sqlx::query("delete from schedules where kind = ? and name = ?")
                .bind(kind as i64)
                .bind(name.clone())
                .execute(&mut *conn)
                .await?;
        }
    }
    Ok(())
}

/// Answers whether it was us.
pub(super) async fn fired(
    conn: &mut SqliteConnection,
    kind: ScheduleKind,
    name: &str,
    fired_ms: u64,
    now_ms: u64,
) -> Result<bool> {
    let changed = sqlx::query("update schedules set fired_at = ? where kind = ? and name = ? and fired_at = ?")
        .bind(now_ms as i64)
        .bind(kind as i64)
        .bind(name.to_owned())
        .bind(fired_ms as i64)
        .execute(conn)
        .await?;
    Ok(changed.rows_affected() > 0)
}

pub(super) async fn begin(conn: &mut SqliteConnection, run: &NewSyncRun) -> Result<Begun> {
    if let Some((_, fired_ms)) = run.due
        && !fired(conn, ScheduleKind::SyncJob, &run.name, fired_ms, run.now_ms).await?
    {
        return Ok(Begun::Elsewhere);
    }
    let last: Option<(i64, Option<String>)> =
        sqlx::query_as("select state, cursor from sync_jobs where name = ? order by id desc limit 1")
            .bind(run.name.clone())
            .fetch_optional(&mut *conn)
            .await?;
    let cursor = match last {
        Some((state, cursor)) if run.resume && state == SyncState::Failed as i64 => cursor,
        _ => None,
    };
    let began = sqlx::query(
        "insert or ignore into sync_jobs (id, name, state, due_at, started_at, cursor, pages, items, known) \
         values (?, ?, 0, ?, ?, ?, 0, 0, 0)",
    )
    .bind(run.id.0)
    .bind(run.name.clone())
    .bind(run.due.map(|(due_ms, _)| due_ms as i64))
    .bind(run.now_ms as i64)
    .bind(cursor.clone())
    .execute(conn)
    .await?;
    Ok(if began.rows_affected() > 0 { Begun::Run { cursor } } else { Begun::Running })
}

const RUN: &str = "select id, name, state, due_at, started_at, finished_at, cursor, pages, items, known, code, message \
                   from sync_jobs";

pub(super) async fn running(readers: &SqlitePool) -> Result<Vec<SyncRunRow>> {
    let rows = sqlx::query(AssertSqlSafe(format!("{RUN} where state = 0"))).fetch_all(readers).await?;
    rows.iter().map(run_row).collect()
}

pub(super) async fn runs(readers: &SqlitePool, name: &str, limit: u32) -> Result<Vec<SyncRunRow>> {
    let rows = sqlx::query(AssertSqlSafe(format!("{RUN} where name = ? order by id desc limit ?")))
        .bind(name.to_owned())
        .bind(limit)
        .fetch_all(readers)
        .await?;
    rows.iter().map(run_row).collect()
}

fn run_row(row: &SqliteRow) -> Result<SyncRunRow> {
    let time = |ms: Option<i64>| ms.map(|ms| ms as u64);
    Ok(SyncRunRow {
        id: SyncRunId(row.try_get(0)?),
        name: row.try_get(1)?,
        state: SyncState::from_sql(row.try_get(2)?),
        due_ms: time(row.try_get(3)?),
        started_ms: row.try_get::<i64, _>(4)? as u64,
        finished_ms: time(row.try_get(5)?),
        cursor: row.try_get(6)?,
        pages: row.try_get(7)?,
        items: row.try_get::<i64, _>(8)? as u64,
        known: row.try_get::<i64, _>(9)? as u64,
        code: row.try_get(10)?,
        message: row.try_get(11)?,
    })
}
