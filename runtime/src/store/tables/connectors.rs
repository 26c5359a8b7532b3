//! Connectors and the versions of their components.

use crate::store::rows::{ConnectorRow, NewVersion, VersionRow};
use crate::store::sql::{Conn, Dialect, Lock, Row, query};
use crate::store::{Result, StoreError};

/// Bytes of a component that MySQL takes at a time: MariaDB's packets have 16 MiB, with everything around them, as long as
/// nobody says something else.
const PART: usize = 8 << 20;

const VERSION: &str = "select id, name, digest, manifest, length(component), created_at from connector_versions";

fn version_row(row: &Row) -> Result<VersionRow> {
    Ok(VersionRow {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        digest: row.try_get(2)?,
        manifest: row.try_get(3)?,
        size: row.try_get(4)?,
        created_ms: row.try_get(5)?,
    })
}

pub(in crate::store) async fn put(
    conn: &mut Conn,
    version: &NewVersion,
    is_active: bool,
    now_ms: u64,
) -> Result<VersionRow> {
    conn.lock(Lock::Catalog).await?;
    let kind: Option<String> =
        query("select kind from connectors where name = ?").bind(&version.name).fetch_value(conn).await?;
    if let Some(kind) = kind.filter(|kind| kind != version.kind) {
        let (name, new) = (&version.name, version.kind);
        return Err(StoreError::Conflict(format!(
            "{name} is a {kind} and this component is a {new}: push it under another name"
        )));
    }
    query("insert or ignore into connectors (name, kind) values (?, ?)")
        .bind(&version.name)
        .bind(version.kind)
        .execute(conn)
        .await?;
    let component = &version.component[..];
    let is_mysql = conn.dialect() == Dialect::MySql;
    let (first, rest) = component.split_at(if is_mysql { PART.min(component.len()) } else { component.len() });
    let fresh = query(
        "insert or ignore into connector_versions (name, digest, manifest, component, created_at) \
         values (?, ?, ?, ?, ?)",
    )
    .bind(&version.name)
    .bind(&version.digest)
    .bind(&version.manifest)
    .bind(first)
    .bind(now_ms)
    .execute(conn)
    .await?;
    for part in rest.chunks(PART).filter(|_| fresh > 0) {
        query("update connector_versions set component = concat(component, ?) where name = ? and digest = ?")
            .bind(part)
            .bind(&version.name)
            .bind(&version.digest)
            .execute(conn)
            .await?;
    }
    let row = query(format!("{VERSION} where name = ? and digest = ?"))
        .bind(&version.name)
        .bind(&version.digest)
        .fetch_one(conn)
        .await?;
    let row = version_row(&row)?;
    if is_active {
        set_active(conn, &version.name, row.id).await?;
    }
    Ok(row)
}

pub(in crate::store) async fn activate(conn: &mut Conn, name: &str, digest: &str) -> Result<()> {
    conn.lock(Lock::Catalog).await?;
    let version: Option<i64> = query("select id from connector_versions where name = ? and digest = ?")
        .bind(name)
        .bind(digest)
        .fetch_value(conn)
        .await?;
    let version = version.ok_or_else(|| StoreError::NotFound(format!("version {digest} of {name}")))?;
    set_active(conn, name, version).await
}

/// `previous` comes first: MySQL sets one after the other.
async fn set_active(conn: &mut Conn, name: &str, version: i64) -> Result<()> {
    query(
        "update connectors set previous = case when active = ?1 then previous else active end, active = ?1 \
         where name = ?2",
    )
    .bind(version)
    .bind(name)
    .execute(conn)
    .await?;
    Ok(())
}

pub(in crate::store) async fn all(conn: &mut Conn) -> Result<Vec<ConnectorRow>> {
    query("select name, kind, active, previous from connectors order by name")
        .fetch_all(conn)
        .await?
        .iter()
        .map(|row| {
            Ok(ConnectorRow {
                name: row.try_get(0)?,
                kind: row.try_get(1)?,
                active: row.try_get(2)?,
                previous: row.try_get(3)?,
            })
        })
        .collect()
}

pub(in crate::store) async fn versions(conn: &mut Conn) -> Result<Vec<VersionRow>> {
    query(format!("{VERSION} order by id desc")).fetch_all(conn).await?.iter().map(version_row).collect()
}

pub(in crate::store) async fn component(conn: &mut Conn, version: i64) -> Result<Vec<u8>> {
    query("select component from connector_versions where id = ?")
        .bind(version)
        .fetch_value(conn)
        .await?
        .ok_or_else(|| StoreError::NotFound(format!("component version {version}")))
}
