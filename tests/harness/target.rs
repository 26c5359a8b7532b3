//! A target system on loopback: answers as it is told, remembers what it got.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Notify;

pub(crate) struct Target {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    got: Mutex<Vec<Got>>,
    answers: Mutex<VecDeque<Told>>,
    always: Mutex<Option<Told>>,
    arrived: Notify,
    /// While it is held, nobody gets an answer.
    open: tokio::sync::RwLock<()>,
}

impl Shared {
    fn told(&self) -> Told {
        let told = self.answers.lock().expect("unpoisoned").pop_front();
        told.or_else(|| self.always.lock().expect("unpoisoned").clone()).unwrap_or((200, Vec::new()))
    }
}

/// How to answer: status and headers.
pub(crate) type Told = (u16, Vec<(&'static str, String)>);

#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

impl Target {
    pub(crate) async fn start() -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared::default());
        let app = Router::new().fallback(answer).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.expect("the target runs") });
        Target { port, shared, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// An endpoint of the webhook connector that delivers here; more keys can follow.
    pub(crate) fn endpoint(&self, name: &str) -> String {
        self.endpoint_of(name, "webhook")
    }

    pub(crate) fn endpoint_of(&self, name: &str, connector: &str) -> String {
        let (url, port) = (self.url(), self.port);
        format!(
            r#"
            [endpoints.{name}]
            connector = "{connector}"
            settings = {{ url = "{url}/{name}" }}
            hosts = ["{url}"]
            allow_private = ["127.0.0.1/32:{port}"]
            "#
        )
    }

    /// The next requests are answered like this, one after the other; then 200 again.
    pub(crate) fn answers(&self, told: impl IntoIterator<Item = Told>) {
        self.shared.answers.lock().expect("unpoisoned").extend(told);
    }

    /// All requests are answered like this from now on, unless [`answers`](Self::answers) says something else.
    pub(crate) fn always(&self, told: Told) {
        *self.shared.always.lock().expect("unpoisoned") = Some(told);
    }

    /// Answers nobody until what this returns is dropped.
    pub(crate) async fn hold(&self) -> impl Drop {
        struct Held(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Held {
            fn drop(&mut self) {
                drop(self.0.take());
            }
        }
        let shared = self.shared.clone();
        let (release, released) = tokio::sync::oneshot::channel();
        let (closed, is_closed) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let _closed = shared.open.write().await;
            let _ = closed.send(());
            let _ = released.await;
        });
        is_closed.await.expect("the target runs");
        Held(Some(release))
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.shared.got.lock().expect("unpoisoned").clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.got.lock().expect("unpoisoned").len()
    }

    /// What it got, once there are this many.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Got> {
        let enough = async {
            loop {
                let arrived = self.shared.arrived.notified();
                if self.count() >= count {
                    return;
                }
                arrived.await;
            }
        };
        let in_time = tokio::time::timeout(super::PATIENCE, enough).await;
        assert!(in_time.is_ok(), "{count} requests did not arrive in time, {} did", self.count());
        self.got()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    // Decided as it arrives, unless nobody is answered now: whoever has waited for it may say at once how the next are.
    let told = {
        let mut got = shared.got.lock().expect("unpoisoned");
        got.push(Got { headers, body });
        shared.open.try_read().ok().map(|_| shared.told())
    };
    shared.arrived.notify_waiters();
    let (status, headers) = match told {
        Some(told) => told,
        None => {
            let _open = shared.open.read().await;
            shared.told()
        }
    };
    let mut response = StatusCode::from_u16(status).expect("a status").into_response();
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().expect("a header value"));
    }
    response
}
