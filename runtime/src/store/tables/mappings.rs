//! Mappings: a version is written once, and at most one of a name is in force.

use crate::store::rows::{MappingRow, MappingSummary, MappingVersion, NewMapping, Origin};
use crate::store::sql::{Conn, Lock, Row, query};
use crate::store::{Result, StoreError};

pub(in crate::store) async fn in_force(conn: &mut Conn) -> Result<Vec<MappingRow>> {
    query("select id, name, version, config, origin, activated_by from event_mappings where active = 1 order by name")
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

fn version_row(row: &Row) -> Result<MappingVersion> {
    Ok(MappingVersion {
        version: row.try_get(0)?,
        config: row.try_get(1)?,
        created_ms: row.try_get(2)?,
        active: row.try_get(3)?,
        origin: Origin::from_sql(row.try_get(4)?),
    })
}

pub(in crate::store) async fn all(conn: &mut Conn) -> Result<Vec<MappingSummary>> {
    query(format!(
        "{VERSION}, m.name, (select count(*) from event_mappings n where n.name = m.name) from event_mappings m \
         where m.id = (select n.id from event_mappings n where n.name = m.name \
         order by n.active desc, n.version desc limit 1) order by m.name"
    ))
    .fetch_all(conn)
    .await?
    .iter()
    .map(|row| Ok(MappingSummary { shown: version_row(row)?, name: row.try_get(5)?, versions: row.try_get(6)? }))
    .collect()
}

pub(in crate::store) async fn versions(conn: &mut Conn, name: &str) -> Result<Vec<MappingVersion>> {
    let versions: Vec<MappingVersion> =
        query(format!("{VERSION} from event_mappings m where m.name = ? order by m.version desc"))
            .bind(name)
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

pub(in crate::store) async fn put(conn: &mut Conn, new: &NewMapping, now_ms: u64) -> Result<i64> {
    conn.lock(Lock::Catalog).await?;
    let active: Option<i64> = query("select version from event_mappings where name = ? and active = 1")
        .bind(&new.name)
        .fetch_value(conn)
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
    let newest: Option<i64> = query("select max(version) from event_mappings where name = ?")
        .bind(&new.name)
        .fetch_one(conn)
        .await?
        .try_get(0)?;
    let version = newest.unwrap_or(0) + 1;
    query(
        "insert into event_mappings (name, version, config, created_at, active, origin) values (?, ?, ?, ?, 0, 'api')",
    )
    .bind(&new.name)
    .bind(version)
    .bind(&new.config)
    .bind(now_ms)
    .execute(conn)
    .await?;
    if new.activate {
        put_in_force(conn, &new.name, version).await?;
    }
    Ok(version)
}

pub(in crate::store) async fn activate(conn: &mut Conn, name: &str, version: i64) -> Result<()> {
    conn.lock(Lock::Catalog).await?;
    put_in_force(conn, name, version).await
}

async fn put_in_force(conn: &mut Conn, name: &str, version: i64) -> Result<()> {
    query("update event_mappings set active = 0 where name = ?").bind(name).execute(conn).await?;
    let found = query("update event_mappings set active = 1, activated_by = 'api' where name = ? and version = ?")
        .bind(name)
        .bind(version)
        .execute(conn)
        .await?;
    if found == 0 {
        return Err(StoreError::NotFound(format!("version {version} of mapping {name:?}")));
    }
    Ok(())
}
