//! What can go wrong with a database, and what is kept of it: a class and the engine's own code, never its text.

use std::fmt;

use sqlx::mysql::MySqlDatabaseError;
use sqlx::postgres::PgDatabaseError;

/// What a caller can act upon.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{0} does not exist")]
    NotFound(String),
    /// What was asked does not go together with what is there.
    #[error("{0}")]
    Conflict(String),
    /// Others took over what this node held, because its lease had expired: it must join anew.
    #[error("this node's lease had expired, and others took over what it held")]
    Fenced,
    /// The database refused this row.
    #[error("the database refused it: {0}")]
    Row(Cause),
    /// Two transactions stood in each other's way, and the database took this one back: it may be run again.
    #[error("the database took it back for another transaction: {0}")]
    Clash(Cause),
    #[error("the database failed: {0}")]
    Database(Cause),
}

/// What a database says of an error, without its text, which names values: a class and the engine's own code. This is
/// all that is kept, so nothing that prints an error, however deep, can print more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cause {
    class: &'static str,
    code: Option<Code>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Number(i32),
    /// PostgreSQL's: five digits and capitals.
    SqlState([u8; 5]),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class)?;
        match self.code {
            Some(Code::Number(number)) => write!(f, " ({number})"),
            Some(Code::SqlState(state)) => write!(f, " ({})", state.escape_ascii()),
            None => Ok(()),
        }
    }
}

impl Cause {
    fn numbered(class: &'static str, number: i32) -> Cause {
        Cause { class, code: Some(Code::Number(number)) }
    }
}

/// A class of our own: what was found in a row and cannot be, for instance.
impl From<&'static str> for Cause {
    fn from(class: &'static str) -> Cause {
        Cause { class, code: None }
    }
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Row,
    Clash,
    Database,
}

impl Fault {
    fn with(self, cause: Cause) -> StoreError {
        match self {
            Fault::Row => StoreError::Row(cause),
            Fault::Clash => StoreError::Clash(cause),
            Fault::Database => StoreError::Database(cause),
        }
    }
}

/// The names that SQLite has for its codes (https://sqlite.org/rescode.html), as far as an operator does something else
/// about each.
fn sqlite_class(extended: i32) -> &'static str {
    match extended {
        275 => "constraint: check",
        787 => "constraint: foreign key",
        1299 => "constraint: not null",
        1555 => "constraint: primary key",
        2067 => "constraint: unique",
        3091 => "constraint: type",
        _ => match extended & 0xff {
            3 => "no permission",
            5 | 6 => "busy",
            7 => "out of memory",
            8 => "read only",
            10 => "disk: I/O",
            11 => "the file is damaged",
            13 => "disk: full",
            14 => "the file cannot be opened",
            17 => "the schema has changed",
            18 => "too big",
            19 => "constraint",
            20 => "type",
            23 => "not authorized",
            26 => "not a database",
            _ => "SQL",
        },
    }
}

/// The same for PostgreSQL (https://www.postgresql.org/docs/current/errcodes-appendix.html).
fn postgres_class(state: &str) -> (Fault, &'static str) {
    match state {
        "23505" => (Fault::Row, "constraint: unique"),
        "23503" => (Fault::Row, "constraint: foreign key"),
        "23502" => (Fault::Row, "constraint: not null"),
        "23514" => (Fault::Row, "constraint: check"),
        "40001" => (Fault::Clash, "serialization"),
        "40P01" => (Fault::Clash, "deadlock"),
        "25006" => (Fault::Database, "read only"),
        "3D000" => (Fault::Database, "there is no such database"),
        "42501" => (Fault::Database, "no permission"),
        "53100" => (Fault::Database, "disk: full"),
        "53200" => (Fault::Database, "out of memory"),
        "53300" => (Fault::Database, "too many connections"),
        "55P03" => (Fault::Database, "busy"),
        "57014" => (Fault::Database, "it took too long"),
        _ => match state.get(..2).unwrap_or_default() {
            // A zero byte or a letter that the encoding does not have, a number that does not fit.
            "22" => (Fault::Row, "type"),
            "23" => (Fault::Row, "constraint"),
            "54" => (Fault::Row, "too big"),
            "08" => (Fault::Database, "the connection is closed"),
            "28" => (Fault::Database, "not authorized"),
            "57" => (Fault::Database, "the server is starting or stopping"),
            "58" => (Fault::Database, "disk: I/O"),
            "XX" => (Fault::Database, "the files are damaged"),
            _ => (Fault::Database, "SQL"),
        },
    }
}

/// The same for MySQL (https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html) and MariaDB.
fn mysql_class(number: u16, state: &str) -> (Fault, &'static str) {
    match number {
        1022 | 1062 | 1169 | 1586 | 1859 => (Fault::Row, "constraint: unique"),
        1216 | 1217 | 1451 | 1452 => (Fault::Row, "constraint: foreign key"),
        1048 | 1364 => (Fault::Row, "constraint: not null"),
        3819 => (Fault::Row, "constraint: check"),
        4025 if state == "23000" => (Fault::Row, "constraint: check"),
        1264 | 1265 | 1292 | 1366 | 3140 => (Fault::Row, "type"),
        1118 | 1153 | 1301 | 1406 | 1407 => (Fault::Row, "too big"),
        1205 => (Fault::Clash, "busy"),
        1213 => (Fault::Clash, "deadlock"),
        // MariaDB, where a transaction reads what another has changed since it began.
        1020 => (Fault::Clash, "serialization"),
        1021 | 1114 => (Fault::Database, "disk: full"),
        1030 => (Fault::Database, "disk: I/O"),
        1037 | 1038 | 1041 => (Fault::Database, "out of memory"),
        1040 | 1203 | 1226 => (Fault::Database, "too many connections"),
        1044 | 1045 | 1698 => (Fault::Database, "not authorized"),
        1142 | 1143 | 1227 | 1370 | 1419 => (Fault::Database, "no permission"),
        1049 => (Fault::Database, "there is no such database"),
        1053 | 1152 | 1927 => (Fault::Database, "the server is starting or stopping"),
        1290 | 1792 | 1836 => (Fault::Database, "read only"),
        1317 | 1969 | 3024 => (Fault::Database, "it took too long"),
        _ => match state.get(..2).unwrap_or_default() {
            "22" => (Fault::Row, "type"),
            "23" => (Fault::Row, "constraint"),
            "40" => (Fault::Clash, "serialization"),
            "08" => (Fault::Database, "the connection is closed"),
            "28" => (Fault::Database, "not authorized"),
            _ => (Fault::Database, "SQL"),
        },
    }
}

fn refusal(error: &dyn sqlx::error::DatabaseError) -> (Fault, Cause) {
    let error = error.as_error();
    if let Some(error) = error.downcast_ref::<PgDatabaseError>() {
        let (fault, class) = postgres_class(error.code());
        return (fault, Cause { class, code: error.code().as_bytes().try_into().ok().map(Code::SqlState) });
    }
    if let Some(error) = error.downcast_ref::<MySqlDatabaseError>() {
        let (fault, class) = mysql_class(error.number(), error.code().unwrap_or_default());
        return (fault, Cause::numbered(class, error.number().into()));
    }
    (Fault::Database, "SQL".into())
}

impl From<&sqlx::Error> for Cause {
    fn from(error: &sqlx::Error) -> Cause {
        match error {
            sqlx::Error::Database(error) => match sqlite_code(&**error) {
                Some(code) => Cause::numbered(sqlite_class(code), code),
                None => refusal(&**error).1,
            },
            sqlx::Error::Io(error) => Cause { class: "I/O", code: error.raw_os_error().map(Code::Number) },
            sqlx::Error::Tls(_) => "TLS".into(),
            sqlx::Error::PoolTimedOut => "no connection became free in time".into(),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => "the connection is closed".into(),
            sqlx::Error::RowNotFound => "a row is missing".into(),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => "a value cannot be read".into(),
            sqlx::Error::Encode(_) => "a value cannot be written".into(),
            _ => "the client".into(),
        }
    }
}

fn sqlite_code(error: &dyn sqlx::error::DatabaseError) -> Option<i32> {
    error.as_error().downcast_ref::<sqlx::sqlite::SqliteError>()?;
    error.code()?.parse().ok()
}

impl From<&rusqlite::Error> for Cause {
    fn from(error: &rusqlite::Error) -> Cause {
        match error {
            rusqlite::Error::SqliteFailure(error, _) => {
                Cause::numbered(sqlite_class(error.extended_code), error.extended_code)
            }
            rusqlite::Error::QueryReturnedNoRows => "a row is missing".into(),
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => "a value cannot be read".into(),
            rusqlite::Error::ToSqlConversionFailure(_) => "a value cannot be written".into(),
            _ => "the client".into(),
        }
    }
}

/// Bringing the tables up to date failed.
impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> StoreError {
        use sqlx::migrate::MigrateError;
        StoreError::Database(match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Cause::from(&error),
            MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
                "it was made by a later version of tomada".into()
            }
            MigrateError::VersionMismatch(_) => "a migration that it has is another than this version's".into(),
            _ => "the migrations".into(),
        })
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> StoreError {
        let fault = match &error {
            sqlx::Error::Database(refused) if sqlite_code(&**refused).is_some() => {
                // By the kind, so that what is only a check counts as one of the row's too.
                if refused.kind() == sqlx::error::ErrorKind::Other { Fault::Database } else { Fault::Row }
            }
            sqlx::Error::Database(refused) => refusal(&**refused).0,
            _ => Fault::Database,
        };
        fault.with(Cause::from(&error))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        use rusqlite::ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};
        match error.sqlite_error_code() {
            Some(ConstraintViolation | TooBig | TypeMismatch) => StoreError::Row(Cause::from(&error)),
            _ => StoreError::Database(Cause::from(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "marker-4711";

    /// Whatever may print an error: itself, for people and for debugging, and each of its sources.
    fn printed(error: StoreError) -> String {
        let error = anyhow::Error::new(error).context("doing something");
        format!("{error} {error:#} {error:?} {error:#?}")
    }

    /// A check that fails names its row in the text of some databases, a damaged value in that of others.
    #[tokio::test]
    async fn no_error_repeats_a_value() {
        use sqlx::{ConnectOptions as _, Connection as _};
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("test.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let mut sqlx = options.connect().await.unwrap();
        // SQLite itself names only columns, so these are named like a value.
        let table = format!("create table t (\"{MARKER}\" text unique check (\"{MARKER}\" <> 'no'), n integer) strict");
        sqlx::query(sqlx::AssertSqlSafe(table)).execute(&mut sqlx).await.unwrap();
        sqlx::query("insert into t values (?, 1)").bind(MARKER).execute(&mut sqlx).await.unwrap();
        let mut errors = Vec::new();
        for sql in [
            format!("insert into t values ('{MARKER}', 1)"),
            "insert into t values ('no', 1)".to_owned(),
            format!("insert into t values ('other', '{MARKER}')"),
            format!("select \"{MARKER}\" from nowhere where x = '{MARKER}'"),
            format!("say '{MARKER}'"),
        ] {
            let sql = sqlx::AssertSqlSafe(sql);
            errors.push(StoreError::from(sqlx::query(sql).execute(&mut sqlx).await.unwrap_err()));
        }
        let wrong: Result<i64, _> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select \"{MARKER}\" from t"))).fetch_one(&mut sqlx).await;
        errors.push(wrong.unwrap_err().into());
        sqlx.close().await.unwrap();
        let direct = rusqlite::Connection::open(&file).unwrap();
        for sql in [
            format!("insert into t values ('{MARKER}', 1)"),
            format!("insert into t values ('other', '{MARKER}')"),
            format!("insert into nowhere values ('{MARKER}')"),
        ] {
            errors.push(direct.execute(&sql, []).unwrap_err().into());
        }
        let wrong = direct.query_row(&format!("select \"{MARKER}\" from t"), [], |row| row.get::<_, i64>(0));
        errors.push(wrong.unwrap_err().into());
        let printed: Vec<String> = errors.into_iter().map(printed).collect();
        for text in &printed {
            assert!(!text.contains(MARKER) && !text.contains("nowhere"), "{text}");
        }
        for (at, expected) in [
            (0, "the database refused it: constraint: unique (2067)"),
            (1, "the database refused it: constraint: check (275)"),
            (2, "constraint: type (3091)"),
            (3, "the database failed: SQL (1)"),
            (5, "the database failed: a value cannot be read"),
            (6, "the database refused it: constraint: unique (2067)"),
            (9, "the database failed: a value cannot be read"),
        ] {
            assert!(printed[at].contains(expected), "{at}: {}", printed[at]);
        }
    }

    #[test]
    fn each_servers_codes_say_whose_fault_it_is() {
        for (state, fault, class) in [
            ("23505", Fault::Row, "constraint: unique"),
            ("22021", Fault::Row, "type"),
            ("40P01", Fault::Clash, "deadlock"),
            ("40001", Fault::Clash, "serialization"),
            ("57P01", Fault::Database, "the server is starting or stopping"),
            ("42601", Fault::Database, "SQL"),
            ("", Fault::Database, "SQL"),
        ] {
            assert_eq!(postgres_class(state), (fault, class), "{state}");
        }
        for (number, state, fault, class) in [
            (1062, "23000", Fault::Row, "constraint: unique"),
            (1406, "22001", Fault::Row, "too big"),
            (1213, "40001", Fault::Clash, "deadlock"),
            (1205, "HY000", Fault::Clash, "busy"),
            (4025, "23000", Fault::Row, "constraint: check"),
            (1064, "42000", Fault::Database, "SQL"),
            (9999, "é", Fault::Database, "SQL"),
        ] {
            assert_eq!(mysql_class(number, state), (fault, class), "{number}");
        }
        let cause = Cause { class: "deadlock", code: Some(Code::SqlState(*b"40P01")) };
        assert_eq!(cause.to_string(), "deadlock (40P01)");
    }
}
