//! Mappings: a version is written once, and at most one of a name is in force.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use super::{Result, StoreError};
use crate::event::EventId;
use crate::store::rows::{MappingRow, MappingSummary, MappingVersion, NewMapping, Origin, SEARCHED};

pub(super) async fn in_force(conn: &mut SqliteConnection) -> Result<Vec<MappingRow>> {
    sqlx::query(
        "select id, name, version, config, origin, activated_by from event_mappings where active = 1 order by name",
    )
    .fetch_all(conn)
    .await?
    .iter()
    .map(|row| {
        Ok(MappingRow {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            version: row.try_get(2)?,
            config: row.try_get(3)?,
            origin: Origin::from_sql(row.try_get(4)?),
            activated_by: Origin::from_sql(row.try_get(5)?),
        })
    })
    .collect()
}

const VERSION: &str = "select m.version, m.config, m.created_at, m.active, m.origin";

fn version_row(row: &SqliteRow) -> Result<MappingVersion> {
    Ok(MappingVersion {
        version: row.try_get(0)?,
        config: row.try_get(1)?,
        created_ms: row.try_get::<i64, _>(2)? as u64,
        active: row.try_get(3)?,
        origin: Origin::from_sql(row.try_get(4)?),
    })
}

pub(super) async fn all(conn: &mut SqliteConnection) -> Result<Vec<MappingSummary>> {
    sqlx::query(AssertSqlSafe(format!(
        "{VERSION}, m.name, (select count(*) from event_mappings n where n.name = m.name) from event_mappings m \
         where m.id = (select n.id from event_mappings n where n.name = m.name \
         order by n.active desc, n.version desc limit 1) order by m.name"
    )))
    .fetch_all(conn)
    .await?
    .iter()
    .map(|row| Ok(MappingSummary { shown: version_row(row)?, name: row.try_get(5)?, versions: row.try_get(6)? }))
    .collect()
}

pub(super) async fn versions(conn: &mut SqliteConnection, name: &str) -> Result<Vec<MappingVersion>> {
    let versions: Vec<MappingVersion> =
        sqlx::query(AssertSqlSafe(format!("{VERSION} from event_mappings m where m.name = ? order by m.version desc")))
            .bind(name.to_owned())
            .fetch_all(conn)
            .await?
            .iter()
            .map(version_row)
            .collect::<Result<_>>()?;
    if versions.is_empty() {
        return Err(StoreError::NotFound(format!("mapping {name:?}")));
    }
    Ok(versions)
}

pub(super) async fn put(conn: &mut SqliteConnection, new: &NewMapping, now: i64) -> Result<i64> {
    let active: Option<i64> = sqlx::query_scalar("select version from event_mappings where name = ? and active = 1")
        .bind(new.name.clone())
        .fetch_optional(&mut *conn)
        .await?;
    if let Some(expected) = new.expected
        && expected != active.unwrap_or(0)
    {
        let is = active.map_or("no version is".into(), |version| format!("version {version} is"));
        return Err(StoreError::Conflict(format!(
            "mapping {:?} has changed: {is} in force, and not {}; look at it, then put your edit on top",
            new.name,
            if expected == 0 { "none".into() } else { format!("version {expected}") },
        )));
    }
    let version: i64 = sqlx::query_scalar("select coalesce(max(version), 0) + 1 from event_mappings where name = ?")
        .bind(new.name.clone())
        .fetch_one(&mut *conn)
        .await?;
    sqlx::query(
        "insert into event_mappings (name, version, config, created_at, active, origin) values (?, ?, ?, ?, 0, 'api')",
    )
    .bind(new.name.clone())
    .bind(version)
    .bind(new.config.clone())
    .bind(now)
    .execute(&mut *conn)
    .await?;
    if new.activate {
        activate(conn, &new.name, version).await?;
    }
    Ok(version)
}

pub(super) async fn activate(conn: &mut SqliteConnection, name: &str, version: i64) -> Result<()> {
    sqlx::query("update event_mappings set active = 0 where name = ?")
        .bind(name.to_owned())
        .execute(&mut *conn)
        .await?;
    let found =
        sqlx::query("update event_mappings set active = 1, activated_by = 'api' where name = ? and version = ?")
            .bind(name.to_owned())
            .bind(version)
            .execute(&mut *conn)
            .await?
            .rows_affected();
    if found == 0 {
        return Err(StoreError::NotFound(format!("version {version} of mapping {name:?}")));
    }
    Ok(())
}

pub(super) async fn latest_events(conn: &mut SqliteConnection, types: &[String], limit: u32) -> Result<Vec<EventId>> {
    // Strings always serialise.
    let types = serde_json::to_string(types).unwrap_or_default();
    let ids: Vec<i64> = sqlx::query_scalar(
        "select id from (select id, event_type from integration_events order by id desc limit ?) \
         where event_type in (select value from json_each(?)) order by id desc limit ?",
    )
    .bind(SEARCHED)
    .bind(types)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().map(EventId).collect())
}
