//! A wire between a hub and its database that can be cut: while it is, nothing passes in either direction and nobody is
//! told, as when a network is gone. Mended, what was under way arrives.
//!
//! The hub's end is an address in a network namespace of its own, whose link goes down. Where namespaces may not be made
//! (it takes root and iproute2), a relay that passes nothing on stands in for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Wire {
    address: SocketAddr,
    namespace: Option<Namespace>,
    /// Of the relay.
    cut: Arc<watch::Sender<bool>>,
}

impl Wire {
    /// Listens for connections to `upstream`, which is `host:port`.
    pub(crate) async fn start(upstream: &str) -> Wire {
        let namespace = Namespace::make();
        let listener = match &namespace {
            Some(namespace) => namespace.listen(),
            None => TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
        };
        let address = listener.local_addr().expect("an address");
        let (cut, is_cut) = watch::channel(false);
        let upstream = upstream.to_owned();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(connect(near, upstream.clone(), is_cut.clone()));
            }
        });
        Wire { address, namespace, cut: Arc::new(cut) }
    }

    /// The URL of a database as it is reached through here.
    pub(crate) fn url(&self, database: &str) -> String {
        let (start, rest) = database.split_once('@').expect("a URL with a user");
        let (_, path) = rest.split_once('/').expect("a URL with a database");
        format!("{start}@{}/{path}", self.address)
    }

    pub(crate) fn cut(&self) {
        self.set(true);
    }

    pub(crate) fn mend(&self) {
        self.set(false);
    }

    fn set(&self, cut: bool) {
        match &self.namespace {
            Some(namespace) => namespace.link(if cut { "down" } else { "up" }),
            None => drop(self.cut.send_replace(cut)),
        }
    }
}

/// A network namespace that a pair of virtual interfaces leads into. Gone when this is dropped.
struct Namespace {
    name: String,
    address: Ipv4Addr,
}

/// How many were made, for their names.
static MADE: AtomicU32 = AtomicU32::new(0);

impl Namespace {
    fn make() -> Option<Namespace> {
        let number = std::process::id().wrapping_mul(16).wrapping_add(MADE.fetch_add(1, Ordering::Relaxed)) % (1 << 15);
        let name = format!("tomada{number}");
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        if !made.is_ok_and(|made| made.status.success()) {
            eprintln!("no network namespace may be made here: a relay that passes nothing on stands in for a cut wire");
            return None;
        }
        // 198.18.0.0/15 is for tests of networks (RFC 2544), four addresses for each pair.
        let at = |host: u32| Ipv4Addr::from(0xc612_0000 + number * 4 + host);
        let namespace = Namespace { address: at(2), name };
        let (name, outer) = (&namespace.name, namespace.outer());
        ip(&format!("link add {outer} type veth peer name inner netns {name}"));
        ip(&format!("address add {}/30 dev {outer}", at(1)));
        ip(&format!("link set {outer} up"));
        ip(&format!("-n {name} address add {}/30 dev inner", at(2)));
        namespace.link("up");
        Some(namespace)
    }

    /// The interface's name out here: 15 letters at most.
    fn outer(&self) -> String {
        self.name.replace("tomada", "tomada-")
    }

    fn link(&self, state: &str) {
        ip(&format!("-n {} link set inner {state}", self.name));
    }

    /// A socket that belongs to the namespace, in the hands of this process.
    fn listen(&self) -> TcpListener {
        let (path, address) = (format!("/run/netns/{}", self.name), self.address);
        // On a thread that ends with it: it is in the namespace from then on.
        let bound = std::thread::spawn(move || {
            let namespace = std::fs::File::open(path).expect("the namespace is there");
            let into = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), into).expect("it may be entered");
            std::net::TcpListener::bind((address, 0)).expect("a free port")
        });
        let listener = bound.join().expect("the thread ends");
        listener.set_nonblocking(true).expect("a socket");
        TcpListener::from_std(listener).expect("a socket")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().expect("ip runs");
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

async fn connect(near: TcpStream, upstream: String, mut is_cut: watch::Receiver<bool>) {
    if is_cut.wait_for(|cut| !cut).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(upstream).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::join!(pass(near_in, far_out, is_cut.clone()), pass(far_in, near_out, is_cut));
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut is_cut: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if is_cut.wait_for(|cut| !cut).await.is_err() {
            return;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}
