//! A Redis of a test's own, which it may kill.

use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{eventually, free_port};

pub(crate) struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    pub(crate) async fn start() -> Redis {
        let port = free_port();
        let redis = Redis { child: Redis::spawn(port), port };
        redis.says("PING").await;
        redis
    }

    fn spawn(port: u16) -> Child {
        let program = std::env::var_os("TOMADA_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is needed (Debian: apt-get install redis-server), or TOMADA_REDIS_SERVER names it")
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    pub(crate) async fn restart(&mut self) {
        self.child = Redis::spawn(self.port);
        self.says("PING").await;
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(status.success());
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Says it until there is an answer.
    pub(crate) async fn says(&self, command: &str) {
        eventually("Redis answers", async || {
            let Ok(mut connection) = TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
            let mut answer = [0; 1];
            connection.write_all(format!("{command}\r\n").as_bytes()).await.is_ok()
                && connection.read_exact(&mut answer).await.is_ok()
                && answer == *b"+"
        })
        .await;
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
