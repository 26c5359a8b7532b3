//! A look at a database from outside, before a hub opens it and beside those that have: what it is, how it is set, how
//! far away it is, and which keys it needs. It changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _, SqlSafeStr};

use super::{Result, StoreError};
use crate::clock::Clock;

/// How long a server may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(10);
/// Ways there and back that are measured.
const ROUND_TRIPS: usize = 15;

const POSTGRES: &str = "select 'version', version() \
     union all select 'in_recovery', pg_is_in_recovery()::text \
     union all select 'ssl', ssl::text from pg_stat_ssl where pid = pg_backend_pid() \
     union all select name, setting from pg_settings where name in ('server_version_num', 'fsync', 'full_page_writes', \
     'synchronous_commit', 'default_transaction_isolation', 'default_transaction_read_only', 'autovacuum', \
     'server_encoding', 'max_connections')";
const MYSQL: &str = "show global variables where variable_name in ('version', 'version_comment', \
     'innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog', 'innodb_doublewrite', 'transaction_isolation', \
     'tx_isolation', 'character_set_server', 'max_allowed_packet', 'sql_mode', 'read_only', 'max_connections')";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    Sqlite,
    Postgres,
    /// MariaDB as well.
    MySql,
}

/// Where a database is.
#[derive(Clone)]
pub(crate) enum Address {
    Sqlite(PathBuf),
    Postgres(Box<PgConnectOptions>),
    MySql(Box<MySqlConnectOptions>),
}

impl Address {
    /// Reads `postgres://…` or `mysql://…`. The error says what such a text looks like and repeats nothing of this one,
    /// which may hold a password.
    pub(crate) fn of_url(url: &str) -> std::result::Result<Address, &'static str> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        match scheme {
            Some("postgres" | "postgresql") => PgConnectOptions::from_str(url)
                .map(|options| {
                    Address::Postgres(Box::new(options.application_name("tomada").disable_statement_logging()))
                })
                .map_err(|_| "the database's URL has to be postgres://USER:PASSWORD@HOST/DATABASE"),
            Some("mysql" | "mariadb") => MySqlConnectOptions::from_str(url)
                .ok()
                .filter(|options| options.get_database().is_some())
                .map(|options| Address::MySql(Box::new(options.disable_statement_logging())))
                .ok_or("the database's URL has to be mysql://USER:PASSWORD@HOST/DATABASE"),
            _ => Err("the database's URL begins with postgres:// or mysql://"),
        }
    }

    /// The embedded database of a data directory.
    pub(crate) fn of_data(data: &Path) -> Address {
        Address::Sqlite(data.join("tomada.db"))
    }

    pub(crate) fn product(&self) -> Product {
        match self {
            Address::Sqlite(_) => Product::Sqlite,
            Address::Postgres(_) => Product::Postgres,
            Address::MySql(_) => Product::MySql,
        }
    }

    pub(super) async fn connect(&self) -> Result<Link> {
        let connected = async {
            Ok(match self {
                Address::Sqlite(path) => {
                    let options = SqliteConnectOptions::new().filename(path).pragma("secure_delete", "on");
                    let options = options.disable_statement_logging();
                    Link::Sqlite(options.connect().await?)
                }
                Address::Postgres(options) => Link::Postgres(options.connect().await?),
                Address::MySql(options) => Link::MySql(options.connect().await?),
            })
        };
        let late = |_| StoreError::Database("no answer in time".into());
        tokio::time::timeout(PATIENCE, connected).await.map_err(late)?
    }
}

impl std::fmt::Display for Address {
    /// Host, port and database; never user or password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Sqlite(path) => write!(f, "{}", path.display()),
            Address::Postgres(at) => {
                write!(f, "{}:{}/{}", at.get_host(), at.get_port(), at.get_database().unwrap_or_default())
            }
            Address::MySql(at) => {
                write!(f, "{}:{}/{}", at.get_host(), at.get_port(), at.get_database().unwrap_or_default())
            }
        }
    }
}

/// A plain connection.
pub(super) enum Link {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
    MySql(MySqlConnection),
}

impl Link {
    /// Rows of two columns, both of them text.
    pub(super) async fn pairs(&mut self, sql: impl SqlSafeStr) -> Result<Vec<(String, Option<String>)>> {
        macro_rules! pairs {
            ($conn:expr) => {{
                let rows = sqlx::raw_sql(sql).fetch_all($conn).await?;
                rows.iter().map(|row| Ok((row.try_get_unchecked(0)?, row.try_get_unchecked(1)?))).collect()
            }};
        }
        match self {
            Link::Sqlite(conn) => pairs!(conn),
            Link::Postgres(conn) => pairs!(conn),
            Link::MySql(conn) => pairs!(conn),
        }
    }

    /// Whether this database has the table, in the place where unqualified names lead.
    pub(super) async fn has_table(&mut self, name: &'static str) -> Result<bool> {
        let sql = match self {
            Link::Sqlite(_) => format!("select name, name from sqlite_master where type = 'table' and name = '{name}'"),
            Link::Postgres(_) => {
                format!("select to_regclass('{name}')::text, null where to_regclass('{name}') is not null")
            }
            Link::MySql(_) => format!(
                "select table_name, null from information_schema.tables \
                 where table_schema = database() and table_name = '{name}'"
            ),
        };
        Ok(!self.pairs(AssertSqlSafe(sql)).await?.is_empty())
    }

    /// Milliseconds since 1970 on the database's clock.
    async fn now_ms(&mut self) -> Result<i64> {
        let sql = match self {
            Link::Sqlite(_) => "select cast(cast(unixepoch('subsec') * 1000 as integer) as text), null",
            Link::Postgres(_) => "select (extract(epoch from clock_timestamp()) * 1000)::bigint::text, null",
            Link::MySql(_) => "select cast(cast(unix_timestamp(now(3)) * 1000 as signed) as char), null",
        };
        let rows = self.pairs(sql).await?;
        let now = rows.first().and_then(|(now, _)| now.parse().ok());
        now.ok_or(StoreError::Database("a value cannot be read".into()))
    }

    async fn keys(&mut self) -> Result<Option<NeededKeys>> {
        for table in ["keyring", "wrapping_keys", "pepper"] {
            if !self.has_table(table).await? {
                return Ok(None);
            }
        }
        let (hex, text) = match self {
            Link::Sqlite(_) => ("hex(fingerprint)", "text"),
            Link::Postgres(_) => ("encode(fingerprint, 'hex')", "text"),
            Link::MySql(_) => ("hex(fingerprint)", "char"),
        };
        let mut fingerprints = [const { None }; 2];
        for (table, fingerprint) in ["keyring", "pepper"].iter().zip(&mut fingerprints) {
            let rows = self.pairs(AssertSqlSafe(format!("select '{table}', {hex} from {table}"))).await?;
            *fingerprint = rows.into_iter().next().and_then(|(_, hex)| hex::decode(hex?).ok());
        }
        let [ring, pepper] = fingerprints;
        let rows =
            self.pairs(AssertSqlSafe(format!("select 'key', cast(key_id as {text}) from wrapping_keys"))).await?;
        let mut ids: Vec<i64> = rows.into_iter().filter_map(|(_, id)| id?.parse().ok()).collect();
        ids.sort_unstable();
        Ok(Some(NeededKeys { ring, pepper, ids }))
    }
}

/// Which key ring and pepper this database needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NeededKeys {
    /// The fingerprint of the ring that the indexes were made with; none before the first start.
    pub(crate) ring: Option<Vec<u8>>,
    /// That of the pepper.
    pub(crate) pepper: Option<Vec<u8>>,
    /// Keys of the ring that wrap something there, or may.
    pub(crate) ids: Vec<i64>,
}

/// What a database says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    pub(crate) product: Product,
    /// By their names there; what it does not know is not here.
    pub(crate) settings: BTreeMap<String, String>,
    /// How far its clock is ahead of ours, give or take half of `round_trip`.
    pub(crate) ahead_ms: i64,
    /// The median.
    pub(crate) round_trip: Duration,
    /// None before there are tables, or while they are of another version.
    pub(crate) keys: Option<NeededKeys>,
}

/// Asks a database about itself.
///
/// # Errors
/// It cannot be reached, or does not answer as its kind does.
#[allow(clippy::disallowed_methods, reason = "it measures how long the database takes")]
pub(crate) async fn probe(address: &Address, clock: &Clock) -> Result<Probe> {
    if let Address::Sqlite(path) = address
        && !path.exists()
    {
        return Err(StoreError::NotFound(format!("{}", path.display())));
    }
    let mut link = address.connect().await?;
    let settings = match &link {
        Link::Sqlite(_) => "select 'version', sqlite_version()",
        Link::Postgres(_) => POSTGRES,
        Link::MySql(_) => MYSQL,
    };
    let settings = link.pairs(settings).await?.into_iter();
    let settings = settings.filter_map(|(name, value)| Some((name.to_ascii_lowercase(), value?))).collect();
    let mut trips = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let (before, begun) = (clock.now_ms() as i64, Instant::now());
        let there = link.now_ms().await?;
        let took = begun.elapsed();
        trips.push((took, there - before - took.as_millis() as i64 / 2));
    }
    trips.sort_unstable();
    // The quickest says best what the clock shows.
    let (ahead_ms, round_trip) = (trips[0].1, trips[trips.len() / 2].0);
    let keys = link.keys().await.unwrap_or(None);
    Ok(Probe { product: address.product(), settings, ahead_ms, round_trip, keys })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::scratch::Scratch;

    #[test]
    fn an_address_is_shown_without_its_password_and_never_repeated() {
        for (url, shown) in [
            ("postgres://tomada:s3cret@db.example.com/hub", "db.example.com:5432/hub"),
            ("postgresql://tomada:s3cret@db.example.com:6432/hub", "db.example.com:6432/hub"),
            ("mysql://tomada:s3cret@db.example.com/hub", "db.example.com:3306/hub"),
            ("mariadb://tomada:s3cret@db.example.com/hub", "db.example.com:3306/hub"),
        ] {
            assert_eq!(Address::of_url(url).map(|address| address.to_string()), Ok(shown.to_owned()));
        }
        for wrong in
            ["s3cret", "redis://s3cret@host", "mysql://root:s3cret@host", "postgres://s3cret@:port:/", "://s3cret"]
        {
            let error = Address::of_url(wrong).map(|_| ()).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[tokio::test]
    async fn the_embedded_database_is_looked_at_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::of_data(folder.path());
        assert!(probe(&address, &Clock::System).await.is_err());
        assert!(!folder.path().join("tomada.db").exists());
        super::super::migrate::run(&address).await.unwrap();
        let seen = probe(&address, &Clock::System).await.unwrap();
        assert_eq!(seen.product, Product::Sqlite);
        assert!(seen.ahead_ms.abs() < 1000, "{seen:?}");
        assert_eq!(seen.keys, Some(NeededKeys { ring: None, pepper: None, ids: Vec::new() }));
    }

    /// The servers that `.ci/databases` starts, or others.
    #[tokio::test]
    async fn a_server_is_looked_at() {
        for (variable, setting) in [("TOMADA_TEST_POSTGRES", "fsync"), ("TOMADA_TEST_MYSQL", "max_allowed_packet")] {
            let Some(database) = Scratch::of_test(variable).await else { continue };
            let address = Address::of_url(database.url()).unwrap();
            let seen = probe(&address, &Clock::System).await.unwrap();
            assert!(seen.settings.contains_key("version"), "{seen:?}");
            assert!(seen.settings.contains_key(setting), "{seen:?}");
            assert!(seen.ahead_ms.abs() < 5000, "{seen:?}");
            assert!(seen.round_trip < Duration::from_secs(1), "{seen:?}");
            database.remove().await.unwrap();
        }
    }
}
