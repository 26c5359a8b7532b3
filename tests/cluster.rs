//! Three nodes on one database under load, and what may happen to any of them: nothing is lost, nothing is settled twice,
//! and what a dead node held is delivered soon.
//!
//! On PostgreSQL and MySQL; on SQLite, which belongs to one process, there is nothing to try. `TOMADA_TEST_ROUNDS` says how
//! often each fault happens, and lets a pause last 60 s.

use std::time::{Duration, Instant};

use crate::harness::cluster::{Cluster, NODES, is_campaign, moment, rounds, unix_ms};
use crate::harness::database::Database;

/// What a dead node held is delivered by then.
const TAKEN_OVER: Duration = Duration::from_secs(15);

/// What happens to a node.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// kill -9, and a new one in its place when the others have what it held.
    Kill,
    /// kill -9, and a new one in its place at once.
    Crash,
    /// SIGSTOP for longer than its lease, then SIGCONT.
    Pause,
    /// Nothing passes between it and the database for longer than its lease.
    Cut,
}

impl Fault {
    /// Lets it happen, and returns when the node is back.
    async fn befall(self, cluster: &mut Cluster, node: usize) {
        match self {
            Fault::Kill => {
                cluster.take_node(node).kill();
                taken_over(cluster, node).await;
                cluster.start_node(node).await;
            }
            Fault::Crash => {
                let begun = (unix_ms(), Instant::now());
                cluster.take_node(node).kill();
                cluster.start_node(node).await;
                delivered(cluster, begun).await;
            }
            Fault::Pause => {
                let begun = Instant::now();
                cluster.signal(node, "-STOP");
                taken_over(cluster, node).await;
                if is_campaign() {
                    lasts(begun, Duration::from_secs(60)).await;
                }
                cluster.signal(node, "-CONT");
            }
            Fault::Cut => {
                let begun = Instant::now();
                cluster.wire(node).cut();
                taken_over(cluster, node).await;
                // So long that TCP tries again only after half a minute: the hub may not wait for that.
                lasts(begun, Duration::from_secs(30)).await;
                cluster.wire(node).mend();
            }
        }
        cluster.all_are_there().await;
    }
}

async fn lasts(begun: Instant, whole: Duration) {
    tokio::time::sleep(whole.saturating_sub(begun.elapsed())).await;
}

/// Returns when the others have delivered what was owed when the node went, which must be soon.
async fn taken_over(cluster: &Cluster, gone: usize) {
    let begun = (unix_ms(), Instant::now());
    let other = cluster.node((gone + 1) % NODES);
    cluster
        .wait_for(TAKEN_OVER, "the node is declared dead", async || {
            other.get("/status").await["nodes"].as_array().expect("nodes").len() < NODES
        })
        .await;
    delivered(cluster, begun).await;
}

/// Returns when all is delivered that was accepted by then.
async fn delivered(cluster: &Cluster, (unix_ms, at): (u128, Instant)) {
    let left = TAKEN_OVER.saturating_sub(at.elapsed());
    cluster.wait_for(left, "what was owed is delivered", async || cluster.owed_since_before(unix_ms) == 0).await;
}

async fn survive(fault: Fault) {
    for database in Database::on_each_server() {
        // With Redis on one of the two, without it on the other.
        let redis = std::env::var("TOMADA_TEST_REDIS").ok().filter(|redis| !redis.is_empty() && database.is_postgres());
        let mut cluster = Cluster::start(database, redis).await;
        cluster.send();
        for round in 0..rounds() {
            moment(round).await;
            fault.befall(&mut cluster, round % NODES).await;
        }
        cluster.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_loses_nothing() {
    survive(Fault::Kill).await;
}

/// What it held is delivered by its successor, who need not wait for its lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_crashes_and_starts_again_takes_up_what_it_held() {
    survive(Fault::Crash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_wakes_after_its_lease_settles_nothing() {
    survive(Fault::Pause).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_from_the_database_loses_nothing() {
    survive(Fault::Cut).await;
}
