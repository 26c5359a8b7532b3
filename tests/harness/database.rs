//! Where a hub of the tests keeps what it knows: the file in its data directory or, when `TOMADA_TEST_DATABASE` is the URL of
//! a PostgreSQL or MySQL server, a database of its own there. Tests look into either in the same way.
//!
//! The servers' own command lines do that, `psql` and `mariadb` (or `mysql`), which come with them.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use axum::http::Uri;

pub(crate) struct Database(Option<Server>);

struct Server {
    url: Uri,
    name: String,
}

/// The Redis of the hubs, when `TOMADA_TEST_WITH_REDIS` is set; where it is, `.ci/databases` says.
pub(crate) fn redis() -> Option<String> {
    std::env::var_os("TOMADA_TEST_WITH_REDIS")?;
    Some(std::env::var("TOMADA_TEST_REDIS").expect("TOMADA_TEST_REDIS says where Redis is"))
}

/// Says that something is not tested, which is a failure where all is demanded.
pub(crate) fn left_out(why: &str) {
    let all = std::env::var("TOMADA_TEST_ALL").is_ok_and(|all| all == "1");
    assert!(!all, "not tested: {why}, and TOMADA_TEST_ALL demands it");
    eprintln!("not tested: {why}");
}

/// How many were made, for their names.
static MADE: AtomicU32 = AtomicU32::new(0);

impl Database {
    /// One on each server that is there; see `.ci/databases`. One that is left out is said, or is a failure where all are
    /// demanded.
    pub(crate) fn on_each_server() -> Vec<Database> {
        let made = ["TOMADA_TEST_POSTGRES", "TOMADA_TEST_MYSQL"].map(|variable| {
            let url = std::env::var(variable).ok().filter(|url| !url.is_empty());
            if url.is_none() {
                left_out(&format!("{variable} is not set"));
            }
            url.map(|url| Database::on(&url))
        });
        made.into_iter().flatten().collect()
    }

    /// Makes one, where a server is asked for.
    pub(crate) fn new() -> Database {
        let Some(url) = std::env::var("TOMADA_TEST_DATABASE").ok().filter(|url| !url.is_empty()) else {
            return Database(None);
        };
        Database::on(&url)
    }

    /// Makes one on the server of a URL.
    pub(crate) fn on(url: &str) -> Database {
        let url: Uri = url.parse().expect("a URL");
        let name = format!("tomada_test_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let server = Server { url, name };
        server.run(None, &format!("create database {}", server.name));
        Database(Some(server))
    }

    /// What a hub is told; none is the file.
    pub(crate) fn url(&self) -> Option<String> {
        let server = self.0.as_ref()?;
        let (scheme, authority) = (server.url.scheme_str().expect("a scheme"), server.url.authority().expect("a host"));
        Some(format!("{scheme}://{authority}/{}", server.name))
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.0.as_ref().is_some_and(Server::is_postgres)
    }

    /// Where the server listens, as `host:port`.
    pub(crate) fn address(&self) -> String {
        let server = self.0.as_ref().expect("it is on a server");
        let port = server.url.port_u16().unwrap_or(if server.is_postgres() { 5432 } else { 3306 });
        format!("{}:{port}", server.url.host().expect("a host"))
    }

    /// Whether it is a file, which a test may want to lay hands on. Where it is none, that is said: what the test would
    /// have shown is not shown.
    pub(crate) fn is_a_file(&self, test: &str) -> bool {
        if self.0.is_some() {
            eprintln!("not tested on a server: {test}, which is about SQLite's file");
        }
        self.0.is_none()
    }

    /// Every byte that the database's files hold, or every value of its tables.
    pub(crate) fn bytes(&self, directory: &Path) -> Vec<u8> {
        let Some(server) = &self.0 else {
            let files =
                ["tomada.db", "tomada.db-wal"].map(|name| std::fs::read(directory.join(name)).unwrap_or_default());
            return files.concat();
        };
        let current = if server.is_postgres() { "current_schema()" } else { "database()" };
        let tables = format!("select table_name from information_schema.tables where table_schema = {current}");
        let tables = String::from_utf8(server.ask(&tables)).expect("names");
        tables.lines().flat_map(|table| server.ask(&format!("select * from {table}"))).collect()
    }

    /// What a query answers on a server, a line for each row.
    pub(crate) fn lines(&self, query: &str) -> String {
        let server = self.0.as_ref().expect("it is on a server");
        String::from_utf8_lossy(&server.ask(query)).into_owned()
    }

    /// The one number that a query answers.
    pub(crate) fn number(&self, directory: &Path, query: &str) -> i64 {
        match &self.0 {
            None => {
                let database = rusqlite::Connection::open(directory.join("tomada.db")).expect("the database");
                database.query_row(query, [], |row| row.get(0)).expect("a number")
            }
            Some(server) => String::from_utf8(server.ask(query)).expect("text").trim().parse().expect("a number"),
        }
    }
}

impl Server {
    fn is_postgres(&self) -> bool {
        self.url.scheme_str().is_some_and(|scheme| scheme.starts_with("postgres"))
    }

    fn ask(&self, query: &str) -> Vec<u8> {
        self.run(Some(&self.name), query).stdout
    }

    /// Values come without names and frames, and text of any kind as it is.
    fn run(&self, database: Option<&str>, sql: &str) -> Output {
        let authority = self.url.authority().expect("a host").as_str();
        let (user, password) = match authority.rsplit_once('@') {
            Some((user, _)) => user.split_once(':').unwrap_or((user, "")),
            None => ("", ""),
        };
        let (host, port) = (self.url.host().expect("a host"), self.url.port_u16());
        let database = database.unwrap_or(self.url.path().trim_start_matches('/'));
        let mut command = if self.is_postgres() {
            let mut command = Command::new("psql");
            command.args(["-qAt", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", &port.unwrap_or(5432).to_string()]);
            // Bytes that are letters show as these.
            command.args(["-U", user, "-d", database]).env("PGPASSWORD", password);
            command.env("PGOPTIONS", "-c bytea_output=escape");
            command.args(["-c", sql]);
            command
        } else {
            let mut command = Command::new(if Path::new("/usr/bin/mariadb").exists() { "mariadb" } else { "mysql" });
            command.args(["--no-defaults", "-h", host, "-P", &port.unwrap_or(3306).to_string(), "--protocol=tcp"]);
            command.args(["-u", user, "-BN", "--raw", "-e", sql, database]).env("MYSQL_PWD", password);
            command
        };
        let output = command.output().expect("the server's command line runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(server) = &self.0 {
            let force = if server.is_postgres() { " with (force)" } else { "" };
            server.run(None, &format!("drop database {}{force}", server.name));
        }
    }
}
