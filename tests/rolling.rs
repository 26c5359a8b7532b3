//! Three nodes restart one after the other behind a balancer that knows nothing of them but their addresses: no partner
//! notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};

use crate::harness::cluster::{Cluster, NODES, Refusals, moment, rounds};
use crate::harness::database::Database;

/// A node is gone so long after SIGTERM: service managers kill what is not (`tomada.service`).
const GONE: Duration = Duration::from_secs(30);

/// Takes connections and passes them on to the nodes in turn; to the next one where nobody listens. It knows nothing of
/// what is said on them.
struct Balancer {
    url: String,
}

impl Balancer {
    async fn start(nodes: &[u16]) -> Balancer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (nodes, turn) = (Arc::<[u16]>::from(nodes), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(pass(near, nodes.clone(), turn.fetch_add(1, Ordering::Relaxed)));
            }
        });
        Balancer { url }
    }
}

async fn pass(mut near: TcpStream, nodes: Arc<[u16]>, first: usize) {
    let _ = near.set_nodelay(true);
    for node in 0..nodes.len() {
        let port = nodes[(first + node) % nodes.len()];
        if let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await {
            let _ = far.set_nodelay(true);
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_restart_one_after_the_other_fail_no_request() {
    for database in Database::on_each_server() {
        let mut cluster = Cluster::start(database, None).await;
        let balancer = Balancer::start(cluster.ports()).await;
        cluster.send_through(&balancer.url);
        for round in 0..rounds() {
            for node in 0..NODES {
                moment(round * NODES + node).await;
                let begun = Instant::now();
                cluster.signal(node, "-TERM");
                cluster.take_node(node).ended().await;
                assert!(begun.elapsed() < GONE, "{:?}", begun.elapsed());
                cluster.start_node(node).await;
                cluster.all_are_there().await;
            }
        }
        assert_eq!(cluster.settle().await, Refusals { busy: 0, silence: 0 }, "requests failed");
    }
}

/// Not even a database that does not answer keeps it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_ends_in_time() {
    for database in Database::on_each_server() {
        let mut cluster = Cluster::start(database, None).await;
        cluster.send();
        moment(0).await;
        cluster.wire(0).cut();
        let begun = Instant::now();
        cluster.signal(0, "-TERM");
        cluster.take_node(0).ended().await;
        assert!(begun.elapsed() < GONE, "{:?}", begun.elapsed());
        cluster.wire(0).mend();
        cluster.start_node(0).await;
        cluster.settle().await;
    }
}
