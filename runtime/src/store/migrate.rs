//! Bringing the tables of a database up to date, and saying what that would be.
//!
//! Forward only. Nodes that start at the same time take turns: each takes the database's own lock first.

use sqlx::Connection as _;
use sqlx::migrate::{Migrate, Migrator};
use sqlx::mysql::MySqlConnection;

use super::probe::{Address, Link};
use super::{Result, StoreError};

/// How long another node is waited for that brings the tables up to date, in seconds.
const TURN: i64 = 120;
/// Where sqlx notes what was applied.
const NOTES: &str = "_sqlx_migrations";

/// What a database has of the migrations, and what it lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) applied: Vec<Step>,
    pub(crate) missing: Vec<Step>,
    /// Applied by a later version of tomada.
    pub(crate) later: Vec<i64>,
    /// Applied in another form than this version has.
    pub(crate) changed: Vec<Step>,
}

/// One migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) version: i64,
    pub(crate) name: String,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}_{}", self.version, self.name.replace(' ', "_"))
    }
}

fn migrator(link: &Link) -> Migrator {
    match link {
        Link::Sqlite(_) => sqlx::migrate!("../migrations/sqlite"),
        Link::Postgres(_) => sqlx::migrate!("../migrations/postgres"),
        Link::MySql(_) => sqlx::migrate!("../migrations/mysql"),
    }
}

/// Says what the database has and lacks. Changes nothing.
pub(crate) async fn check(address: &Address) -> Result<Progress> {
    if let Address::Sqlite(path) = address
        && !path.exists()
    {
        return Ok(Progress { missing: steps(&sqlx::migrate!("../migrations/sqlite")), ..Progress::default() });
    }
    let mut link = address.connect().await?;
    progress(&mut link).await
}

/// Applies what is missing. Answers what that was.
pub(crate) async fn run(address: &Address) -> Result<Vec<Step>> {
    if let Address::Sqlite(path) = address
        && !path.exists()
    {
        // An empty file is an empty database.
        let made = crate::private::write_private(path, b"");
        made.map_err(|error| StoreError::NotFound(format!("{} ({error})", path.display())))?;
    }
    let mut link = address.connect().await?;
    let before = progress(&mut link).await?;
    let migrator = migrator(&link);
    match &mut link {
        Link::Sqlite(conn) => migrator.run(conn).await?,
        Link::Postgres(conn) => migrator.run(conn).await?,
        Link::MySql(conn) => take_turns(conn, migrator).await?,
    }
    match link {
        Link::Sqlite(conn) => conn.close().await?,
        Link::Postgres(conn) => conn.close().await?,
        Link::MySql(conn) => conn.close().await?,
    }
    Ok(before.missing)
}

/// sqlx waits for its own lock without end, by a time of -1. MariaDB does not take that: it answers null, and nobody
/// has waited. So the lock is taken here.
pub(super) async fn take_turns(conn: &mut MySqlConnection, mut migrator: Migrator) -> Result<()> {
    let lock = sqlx::query_scalar("select get_lock(concat('tomada.', left(sha2(database(), 256), 32)), ?)").bind(TURN);
    let locked: Option<i64> = lock.fetch_one(&mut *conn).await?;
    if locked != Some(1) {
        return Err(StoreError::Conflict(format!(
            "another node has been bringing the tables up to date for {TURN} s: see what it does"
        )));
    }
    migrator.set_locking(false);
    conn.ensure_migrations_table(NOTES).await?;
    // What was carried out by half is begun again: see migrations/mysql/0001_init.sql.
    sqlx::query("delete from _sqlx_migrations where success = false").execute(&mut *conn).await?;
    migrator.run(&mut *conn).await?;
    // The end of the connection would release it as well.
    sqlx::query("select release_lock(concat('tomada.', left(sha2(database(), 256), 32)))").execute(&mut *conn).await?;
    Ok(())
}

async fn progress(link: &mut Link) -> Result<Progress> {
    let migrator = migrator(link);
    if !link.has_table(NOTES).await? {
        return Ok(Progress { missing: steps(&migrator), ..Progress::default() });
    }
    match link {
        Link::Sqlite(conn) => compared(conn, &migrator).await,
        Link::Postgres(conn) => compared(conn, &migrator).await,
        Link::MySql(conn) => compared(conn, &migrator).await,
    }
}

fn steps(migrator: &Migrator) -> Vec<Step> {
    migrator.iter().map(|step| Step { version: step.version, name: step.description.to_string() }).collect()
}

async fn compared(conn: &mut impl Migrate, migrator: &Migrator) -> Result<Progress> {
    // What was begun and not ended is noted as well, and is to be done again.
    let half = conn.dirty_version(NOTES).await?;
    let noted = conn.list_applied_migrations(NOTES).await?;
    let mut progress = Progress::default();
    for (migration, step) in migrator.iter().zip(steps(migrator)) {
        match noted.iter().find(|noted| noted.version == migration.version && half != Some(noted.version)) {
            None => progress.missing.push(step),
            Some(noted) if noted.checksum == migration.checksum => progress.applied.push(step),
            Some(_) => progress.changed.push(step),
        }
    }
    progress.later =
        noted.iter().map(|noted| noted.version).filter(|&version| !migrator.version_exists(version)).collect();
    Ok(progress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::scratch::Scratch;

    #[tokio::test]
    async fn what_is_missing_is_said_and_applied_once() {
        let folder = tempfile::tempdir().unwrap();
        moves_forward(&Address::of_data(folder.path())).await;
    }

    /// The servers that `.ci/databases` starts, or others; each gets a database of its own.
    #[tokio::test]
    async fn servers_move_forward_too() {
        for variable in ["TOMADA_TEST_POSTGRES", "TOMADA_TEST_MYSQL"] {
            let Some(database) = Scratch::of_test(variable).await else { continue };
            moves_forward(&Address::of_url(database.url()).unwrap()).await;
            database.remove().await.unwrap();
        }
    }

    async fn moves_forward(address: &Address) {
        let before = check(address).await.unwrap();
        assert!(before.applied.is_empty() && before.missing.len() > 5, "{before:?}");
        assert_eq!(check(address).await.unwrap(), before, "a check changes nothing");
        // Two nodes that start at the same time.
        let both = tokio::join!(run(address), run(address));
        let (first, second) = if address.product() == super::super::probe::Product::Sqlite {
            // Nobody waits there for the other.
            (both.0.unwrap_or_default(), both.1.unwrap_or_default())
        } else {
            (both.0.unwrap(), both.1.unwrap())
        };
        assert!(first == before.missing || second == before.missing, "{first:?} {second:?}");
        let after = check(address).await.unwrap();
        assert_eq!(after, Progress { applied: before.missing, ..Progress::default() });
        assert!(run(address).await.unwrap().is_empty());

        let mut link = address.connect().await.unwrap();
        link.pairs("update _sqlx_migrations set version = 9999 where version = 2").await.unwrap();
        let mixed = check(address).await.unwrap();
        assert_eq!(mixed.missing.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0002_mappings"]);
        assert_eq!(mixed.later, [9999]);
        assert!(run(address).await.is_err(), "a later version's tables are left alone");
    }
}
