//! The configuration as it stands in the database.

use super::{mappings, schedules, secrets};
use crate::keyring::Keyring;
use crate::store::Result;
use crate::store::rows::{CatalogChange, CatalogRows, EndpointRow, RouteRow};
use crate::store::sql::{Conn, Lock, query};

pub(in crate::store) async fn all(conn: &mut Conn, ring: &Keyring) -> Result<CatalogRows> {
    let mut catalog = CatalogRows::default();
    for row in query("select name, config from sources order by name").fetch_all(conn).await? {
        catalog.sources.push((row.try_get(0)?, row.try_get(1)?));
    }
    for row in query("select id, name, config from queues order by id").fetch_all(conn).await? {
        catalog.queues.push((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    }
    let endpoints = query("select id, name, config, paused, removed_at from webhook_endpoints order by name");
    for row in endpoints.fetch_all(conn).await? {
        catalog.endpoints.push(EndpointRow {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            config: row.try_get(2)?,
            paused: row.try_get(3)?,
            removed: row.try_get::<Option<i64>>(4)?.is_some(),
        });
    }
    let routes = query("select id, endpoint_id, config, removed_at from routes order by id");
    for row in routes.fetch_all(conn).await? {
        catalog.routes.push(RouteRow {
            id: row.try_get(0)?,
            endpoint: row.try_get(1)?,
            config: row.try_get(2)?,
            removed: row.try_get::<Option<i64>>(3)?.is_some(),
        });
    }
    catalog.mappings = mappings::in_force(conn).await?;
    catalog.schedules = schedules::all(conn).await?;
    catalog.secrets = secrets::all(conn, ring).await?;
    Ok(catalog)
}

pub(in crate::store) async fn put(conn: &mut Conn, change: &CatalogChange, now_ms: u64) -> Result<()> {
    conn.lock(Lock::Catalog).await?;
    for (name, config) in &change.put_sources {
        query(
            "insert into sources (name, config) values (?, ?) on conflict (name) do update set config = excluded.config",
        )
        .bind(name)
        .bind(config)
        .execute(conn)
        .await?;
    }
    for name in &change.drop_sources {
        query("delete from sources where name = ?").bind(name).execute(conn).await?;
    }
    for (name, config) in &change.put_queues {
        query(
            "insert into queues (name, config) values (?, ?) on conflict (name) do update set config = excluded.config",
        )
        .bind(name)
        .bind(config)
        .execute(conn)
        .await?;
    }
    for name in &change.drop_queues {
        query("delete from queues where name = ?").bind(name).execute(conn).await?;
    }
    for (name, config) in &change.put_endpoints {
        query(
            "insert into webhook_endpoints (name, config) values (?, ?) \
             on conflict (name) do update set config = excluded.config, removed_at = null",
        )
        .bind(name)
        .bind(config)
        .execute(conn)
        .await?;
    }
    for id in &change.drop_routes {
        query("update routes set removed_at = ? where id = ?").bind(now_ms).bind(*id).execute(conn).await?;
    }
    for name in &change.drop_endpoints {
        query("update webhook_endpoints set removed_at = ? where name = ?")
            .bind(now_ms)
            .bind(name)
            .execute(conn)
            .await?;
    }
    for (name, config) in &change.put_mappings {
        query("update event_mappings set active = 0 where name = ?").bind(name).execute(conn).await?;
        query(
            "insert into event_mappings (name, version, config, created_at, active) \
             select ?1, coalesce(max(version), 0) + 1, ?2, ?3, 1 from event_mappings where name = ?1",
        )
        .bind(name)
        .bind(config)
        .bind(now_ms)
        .execute(conn)
        .await?;
    }
    for name in &change.drop_mappings {
        query("update event_mappings set active = 0 where name = ?").bind(name).execute(conn).await?;
    }
    schedules::put(conn, change, now_ms).await?;
    for (event_type, endpoint, config) in &change.add_routes {
        query(
            "insert into routes (event_type, endpoint_id, config) \
             select ?1, id, ?3 from webhook_endpoints where name = ?2",
        )
        .bind(event_type)
        .bind(endpoint)
        .bind(config)
        .execute(conn)
        .await?;
    }
    Ok(())
}

pub(in crate::store) async fn pause(conn: &mut Conn, endpoint: i64, reason: Option<&str>) -> Result<()> {
    query("update webhook_endpoints set paused = ? where id = ?").bind(reason).bind(endpoint).execute(conn).await?;
    if reason.is_none() {
        query("update webhook_deliveries set status = 0, node_id = 0 where endpoint_id = ? and status = 5")
            .bind(endpoint)
            .execute(conn)
            .await?;
    }
    Ok(())
}
