//! The database is restarted, in order and by force, while partners send to three nodes: they are told to come again, never
//! that something was taken which is not there, and the nodes go on by themselves when it is back.

use std::time::{Duration, Instant};

use crate::harness::cluster::{Cluster, moment, rounds};
use crate::harness::database::Database;
use crate::harness::servers::{Server, Servers};

/// After the database is back, events are taken again by then.
const RECOVERED: Duration = Duration::from_secs(15);

async fn survive(server: fn(&Servers) -> Option<Server>) {
    let Some(servers) = Servers::start() else { return };
    let Some(server) = server(&servers) else { return };
    let mut cluster = Cluster::start(Database::on(server.url()), None).await;
    cluster.send();
    let mut slowest = Duration::ZERO;
    // In order and by force: each once at least.
    for round in 0..rounds().max(2) {
        moment(round).await;
        server.restart(["-INT", "-KILL"][round % 2]).await;
        let back = Instant::now();
        let acknowledged = cluster.acknowledged();
        cluster
            .wait_for(RECOVERED, "events are taken again", async || cluster.acknowledged() >= acknowledged + 100)
            .await;
        slowest = slowest.max(back.elapsed());
        // The same processes as ever.
        cluster.all_are_there().await;
    }
    eprintln!("{} was restarted {} times; the slowest recovery took {slowest:?}", server.name(), rounds().max(2));
    assert!(cluster.settle().await.busy > 0, "nobody was told that the database was away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_restarts_loses_nothing() {
    survive(Servers::postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mysql_that_restarts_loses_nothing() {
    survive(Servers::mysql).await;
}
