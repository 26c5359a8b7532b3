//! Servers of a test's own, which it may stop and kill: `.ci/databases` starts each again as soon as it has ended.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;

/// Gone with what they held when this is dropped.
pub(crate) struct Servers {
    script: Child,
    /// What the script tells its command: names and values.
    told: Vec<(String, String)>,
}

pub(crate) struct Server {
    name: &'static str,
    url: String,
    /// Where the number of its process stands.
    pid: PathBuf,
}

impl Servers {
    /// None where the servers of the whole run are not ours to start either, which is said, or is a failure where all are
    /// demanded.
    pub(crate) fn start() -> Option<Servers> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci/databases");
        let mut command = Command::new(script);
        // What the servers are called, and then nothing until this process wants them gone, or is gone itself.
        command.args(["run", "--", "sh", "-c", "env | grep ^TOMADA_TEST_; echo; cat"]);
        for name in ["TOMADA_TEST_POSTGRES", "TOMADA_TEST_MYSQL"] {
            command.env_remove(name);
        }
        let mut script = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the script runs");
        let lines = BufReader::new(script.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let told: Vec<(String, String)> = lines
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect();
        assert!(!told.is_empty(), "the servers did not start");
        Some(Servers { script, told })
    }

    pub(crate) fn postgres(&self) -> Option<Server> {
        self.server("postgres", "TOMADA_TEST_POSTGRES")
    }

    pub(crate) fn mysql(&self) -> Option<Server> {
        self.server("mysql", "TOMADA_TEST_MYSQL")
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.told.iter().find(|(told, _)| told == name).map(|(_, value)| value.as_str())
    }

    fn server(&self, name: &'static str, variable: &str) -> Option<Server> {
        let url = self.value(variable).map(str::to_owned);
        if url.is_none() {
            super::database::left_out(&format!("no {name} could be started"));
        }
        let files = self.value("TOMADA_TEST_SERVERS").expect("the script says where their files are");
        url.map(|url| Server { name, url, pid: PathBuf::from(files).join(format!("{name}.pid")) })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // The command's input ends, and so does everything.
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

impl Server {
    pub(crate) fn name(&self) -> &str {
        self.name
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn process(&self) -> Option<u32> {
        std::fs::read_to_string(&self.pid).ok()?.trim().parse().ok()
    }

    /// Ends it by a signal, and returns when there is another that lets connections in.
    pub(crate) async fn restart(&self, signal: &str) {
        let old = self.process().expect("it runs");
        // MySQL takes SIGTERM for what PostgreSQL takes SIGINT for.
        let signal = if self.name == "mysql" { signal.replace("INT", "TERM") } else { signal.to_owned() };
        assert!(Command::new("kill").args([&signal, &old.to_string()]).status().expect("kill runs").success());
        let authority = self.url.rsplit_once('@').expect("a URL with a user").1;
        let address = authority.split_once('/').expect("a URL with a database").0;
        let back = async {
            while self.process().is_none_or(|process| process == old) || TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), back).await.expect("it is back within 60 s");
    }
}
