//! A node's life, and what nodes tell each other.

use crate::delivery::{Outcome, Status};
use crate::store::rows::{NodeRow, ReapedRow};
use crate::store::sql::{Conn, Dialect, query};
use crate::store::{Result, StoreError};

/// Registers a node. Whatever others held goes back where only one process at a time serves a database; elsewhere their
/// leases say who is gone.
pub(in crate::store) async fn join(conn: &mut Conn, name: &str, lease_ms: u64, now_ms: u64) -> Result<(i64, u64)> {
    let clock = conn.dialect().clock();
    let node = query(format!("insert into nodes (name, started_at, lease_until) values (?, ?, {clock} + ?)"))
        .bind(name)
        .bind(now_ms)
        .bind(lease_ms)
        .insert(conn)
        .await?;
    if conn.dialect() != Dialect::Sqlite {
        return Ok((node, 0));
    }
    let others = query("select distinct node_id from webhook_deliveries where status = 0 and node_id > 0");
    let mut freed = 0;
    for row in others.fetch_all(conn).await? {
        freed += hand_back(conn, row.try_get(0)?, now_ms).await?;
    }
    query("update nodes set left_at = ? where left_at is null and id <> ?")
        .bind(now_ms)
        .bind(node)
        .execute(conn)
        .await?;
    Ok((node, freed))
}

/// The number goes first: a commit that is under way holds it, and what that brings has to be there to be handed back.
pub(in crate::store) async fn leave(conn: &mut Conn, node: i64, now_ms: u64) -> Result<u64> {
    query("update nodes set left_at = ? where id = ? and left_at is null")
        .bind(now_ms)
        .bind(node)
        .execute(conn)
        .await?;
    // Those that did not end before the hub had to go back as well.
    hand_back(conn, node, now_ms).await
}

pub(in crate::store) async fn renew(conn: &mut Conn, node: i64, lease_ms: u64, running: &str) -> Result<()> {
    let clock = conn.dialect().clock();
    let sql = format!("update nodes set lease_until = {clock} + ?, running = ? where id = ? and left_at is null");
    match query(sql).bind(lease_ms).bind(running).bind(node).execute(conn).await? {
        0 => Err(StoreError::Fenced),
        _ => Ok(()),
    }
}

pub(in crate::store) async fn reap(conn: &mut Conn, now_ms: u64) -> Result<Vec<ReapedRow>> {
    let clock = conn.dialect().clock();
    // Somebody else may be at it; and who is in the middle of a commit is waited for the next time.
    let lock = if conn.dialect() == Dialect::Sqlite { "" } else { " for update skip locked" };
    let sql = format!("select id, name from nodes where left_at is null and lease_until < {clock} order by id{lock}");
    let mut reaped = Vec::new();
    for row in query(sql).fetch_all(conn).await? {
        let node = row.try_get(0)?;
        query("update nodes set left_at = ? where id = ?").bind(now_ms).bind(node).execute(conn).await?;
        reaped.push(ReapedRow { node, name: row.try_get(1)?, freed: hand_back(conn, node, now_ms).await? });
    }
    Ok(reaped)
}

pub(in crate::store) async fn all(conn: &mut Conn) -> Result<Vec<NodeRow>> {
    let clock = conn.dialect().clock();
    let sql =
        format!("select id, started_at, lease_until - {clock}, running from nodes where left_at is null order by id");
    query(sql)
        .fetch_all(conn)
        .await?
        .iter()
        .map(|row| {
            Ok(NodeRow {
                id: row.try_get(0)?,
                started_ms: row.try_get(1)?,
                lease_ms: row.try_get(2)?,
                running: row.try_get::<Option<String>>(3)?.unwrap_or_default(),
            })
        })
        .collect()
}

pub(in crate::store) async fn revision(conn: &mut Conn) -> Result<i64> {
    query("select revision from revisions").fetch_one(conn).await?.try_get(0)
}

/// Tells all nodes that there is something to read anew, once the transaction is committed. Answers the new revision.
pub(in crate::store) async fn changed(conn: &mut Conn) -> Result<i64> {
    query("update revisions set revision = revision + 1").execute(conn).await?;
    revision(conn).await
}

/// What a node holds goes back into the table, but for tries that had begun and may not be repeated.
async fn hand_back(conn: &mut Conn, node: i64, now_ms: u64) -> Result<u64> {
    bury_interrupted(conn, node, now_ms).await?;
    query("update webhook_deliveries set node_id = 0 where status = 0 and node_id = ?").bind(node).execute(conn).await
}

/// Tries that had begun, may not be repeated and never ended: nobody knows whether the target took them.
async fn bury_interrupted(conn: &mut Conn, node: i64, now_ms: u64) -> Result<()> {
    const CODE: &str = "outcome-unknown";
    const MESSAGE: &str = "the hub ended during this try: it may have arrived; replay it if it did not";
    let begun = query(
        "select d.id, a.number, d.event_id, d.endpoint_id from webhook_deliveries d \
         join delivery_attempts a on a.delivery_id = d.id and a.number = d.tries + 1 \
         where d.status = 0 and d.node_id = ? and a.outcome = ?",
    )
    .bind(node)
    .bind(Outcome::Interrupted as i64)
    .fetch_all(conn)
    .await?;
    for row in begun {
        let (delivery, number): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let (event, endpoint): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
        query("update delivery_attempts set code = ?, message = ? where delivery_id = ? and number = ?")
            .bind(CODE)
            .bind(MESSAGE)
            .bind(delivery)
            .bind(number)
            .execute(conn)
            .await?;
        query(
            "update webhook_deliveries set status = ?, node_id = 0, tries = tries + 1, charged = charged + 1 where id = ?",
        )
        .bind(Status::Dead as i64)
        .bind(delivery)
        .execute(conn)
        .await?;
        query("delete from dead_letter where delivery_id = ?").bind(delivery).execute(conn).await?;
        query(
            "insert into dead_letter (delivery_id, event_id, endpoint_id, reason, code, message, created_at) \
             values (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(delivery)
        .bind(event)
        .bind(endpoint)
        .bind(Outcome::Interrupted as i64)
        .bind(CODE)
        .bind(MESSAGE)
        .bind(now_ms)
        .execute(conn)
        .await?;
    }
    Ok(())
}
