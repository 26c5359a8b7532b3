//! Senders that are slow on purpose, beside the load that is measured: half of them never end their headers, half never
//! end their body; each sends a byte a second, and comes again when the hub has closed its connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// From one byte of a sender to its next.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for all of them to be connected.
const START: Duration = Duration::from_secs(30);

/// They stop when this is dropped.
pub(crate) struct Slow {
    tally: Arc<Tally>,
    _senders: JoinSet<()>,
}

#[derive(Default)]
struct Tally {
    open: AtomicU32,
    ended: AtomicU64,
    failed: AtomicU64,
}

/// What became of them so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Connections at this moment.
    pub(crate) open: u32,
    /// Connections that the hub has ended.
    pub(crate) ended: u64,
    /// Connections that could not be made.
    pub(crate) failed: u64,
}

impl Slow {
    /// Returns when all of them are connected.
    ///
    /// # Errors
    /// They are not after 30 s.
    pub(crate) async fn start(runtime: &Handle, address: SocketAddr, path: &str, count: u32) -> Result<Slow> {
        let tally = Arc::new(Tally::default());
        let mut senders = JoinSet::new();
        for n in 0..count {
            senders.spawn_on(sender(address, request(path, n), n, tally.clone()), runtime);
        }
        let slow = Slow { tally, _senders: senders };
        let connected = async {
            // Some may have been ended again already.
            while u64::from(slow.seen().open) + slow.seen().ended < count.into() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(START, connected).await.is_err() {
            let Seen { open, failed, .. } = slow.seen();
            bail!("{open} of {count} slow connections could be made, {failed} failed: see `ulimit -n`");
        }
        Ok(slow)
    }

    pub(crate) fn seen(&self) -> Seen {
        let Tally { open, ended, failed } = &*self.tally;
        Seen { open: open.load(Relaxed), ended: ended.load(Relaxed), failed: failed.load(Relaxed) }
    }
}

/// What a sender begins with; the rest would be a header's value, or a body.
fn request(path: &str, n: u32) -> String {
    let rest = if n.is_multiple_of(2) { "x-slow: " } else { "content-length: 100000\r\n\r\n" };
    format!("POST {path} HTTP/1.1\r\nhost: hub\r\n{rest}")
}

async fn sender(address: SocketAddr, request: String, n: u32, tally: Arc<Tally>) {
    // Not all in the same instant.
    tokio::time::sleep(PAUSE * (n % 100) / 100).await;
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                tally.open.fetch_add(1, Relaxed);
                dribble(stream, &request).await;
                tally.open.fetch_sub(1, Relaxed);
                tally.ended.fetch_add(1, Relaxed);
            }
            Err(_) => {
                tally.failed.fetch_add(1, Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Returns when the hub has closed the connection.
async fn dribble(mut stream: TcpStream, request: &str) {
    if stream.write_all(request.as_bytes()).await.is_err() {
        return;
    }
    let (mut read, mut write) = stream.split();
    let bytes = async {
        while write.write_all(b"1").await.is_ok() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let answer = async {
        let mut answer = [0; 1024];
        while read.read(&mut answer).await.is_ok_and(|len| len > 0) {}
    };
    tokio::select! {
        () = bytes => {}
        () = answer => {}
    }
}
