//! One way to say SQL to three databases, for whatever is not the hot path.
//!
//! Statements are written once, in the words that SQLite, PostgreSQL and MySQL share: `?` or `?1` for values, integers of
//! 64 bits, text and bytes, reserved names in double quotes. Where the three have different words for the same thing,
//! [`render`] has the list. What needs more than words is written for each, in `sqlite`, `postgres` and `mysql`.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::mysql::{MySql, MySqlConnection, MySqlRow};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgRow, Postgres};
use sqlx::sqlite::{Sqlite, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::sqlite::Writer;
use super::{Result, StoreError};

/// How long a server may take for a statement, or for a transaction of the hot path. One that is gone without a word (a
/// cable, a firewall) would be waited for until TCP gives up, which takes a quarter of an hour.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// Waits for a server no longer than [`ANSWER`].
pub(super) async fn answered<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(late()))
}

fn late() -> StoreError {
    StoreError::Database("the server did not answer in time".into())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
    MySql,
}

impl Dialect {
    /// The database's own time in milliseconds, which all nodes share whatever their clocks say.
    pub(super) fn clock(self) -> &'static str {
        match self {
            Dialect::Sqlite => "cast(unixepoch('subsec') * 1000 as integer)",
            Dialect::Postgres => "cast(extract(epoch from clock_timestamp()) * 1000 as bigint)",
            Dialect::MySql => "cast(unix_timestamp(now(3)) * 1000 as signed)",
        }
    }
}

/// A connection: one that reads, or one in a transaction that ends with [`Conn::commit`] or is as if it had not been.
pub(super) enum Conn {
    /// One of its own, which nobody gives back.
    Sqlite(SqliteConnection),
    SqliteReader(PoolConnection<Sqlite>),
    /// Rolled back by whoever takes the writer next, when it is dropped.
    SqliteWriter(OwnedMutexGuard<Writer>),
    PostgresReader(PoolConnection<Postgres>),
    Postgres(Open<Postgres>),
    MySqlReader(PoolConnection<MySql>),
    MySql(Open<MySql>),
}

/// A transaction on a server. Where it is dropped before it has ended (whoever waited has gone, or it took too long) its
/// connection is closed, and the server rolls it back: nobody knows what is under way on it, and the next one would wait.
pub(super) struct Open<DB: sqlx::Database> {
    conn: PoolConnection<DB>,
    ended: bool,
}

impl<DB: sqlx::Database> Open<DB>
where
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    pub(super) async fn begin(conn: PoolConnection<DB>) -> Result<Open<DB>> {
        let mut open = Open { conn, ended: false };
        open.say("begin").await?;
        Ok(open)
    }

    async fn end(mut self, word: &'static str) -> Result<()> {
        self.say(word).await?;
        self.ended = true;
        Ok(())
    }

    async fn say(&mut self, word: &'static str) -> Result<()> {
        answered(async { Ok(self.conn.execute(word).await.map(drop)?) }).await
    }
}

impl<DB: sqlx::Database> Deref for Open<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.conn
    }
}

impl<DB: sqlx::Database> DerefMut for Open<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.conn
    }
}

impl<DB: sqlx::Database> Drop for Open<DB> {
    fn drop(&mut self) {
        if !self.ended {
            self.conn.close_on_drop();
        }
    }
}

enum Raw<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
    MySql(&'c mut MySqlConnection),
}

impl Conn {
    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Conn::Sqlite(_) | Conn::SqliteReader(_) | Conn::SqliteWriter(_) => Dialect::Sqlite,
            Conn::PostgresReader(_) | Conn::Postgres(_) => Dialect::Postgres,
            Conn::MySqlReader(_) | Conn::MySql(_) => Dialect::MySql,
        }
    }

    fn raw(&mut self) -> Raw<'_> {
        match self {
            Conn::Sqlite(conn) => Raw::Sqlite(conn),
            Conn::SqliteReader(conn) => Raw::Sqlite(conn),
            Conn::SqliteWriter(writer) => Raw::Sqlite(&mut writer.sqlx),
            Conn::PostgresReader(conn) => Raw::Postgres(conn),
            Conn::Postgres(conn) => Raw::Postgres(conn),
            Conn::MySqlReader(conn) => Raw::MySql(conn),
            Conn::MySql(conn) => Raw::MySql(conn),
        }
    }

    /// How long a statement may take here.
    fn limit(&self) -> Duration {
        if self.dialect() == Dialect::Sqlite { Duration::MAX } else { ANSWER }
    }

    /// Nobody uses a connection again that owes an answer.
    fn give_up(&mut self) -> StoreError {
        match self {
            Conn::PostgresReader(conn) => conn.close_on_drop(),
            Conn::MySqlReader(conn) => conn.close_on_drop(),
            // In a transaction it is closed in any case.
            Conn::Postgres(_) | Conn::MySql(_) | Conn::Sqlite(_) | Conn::SqliteReader(_) | Conn::SqliteWriter(_) => {}
        }
        late()
    }

    pub(super) async fn commit(self) -> Result<()> {
        match self {
            Conn::SqliteWriter(mut writer) => {
                if let Err(error) = sqlx::query("commit").execute(&mut writer.sqlx).await {
                    // It fails when SQLite has rolled back by itself, which is what is wanted.
                    let _ = sqlx::query("rollback").execute(&mut writer.sqlx).await;
                    return Err(error.into());
                }
            }
            Conn::Postgres(open) => open.end("commit").await?,
            Conn::MySql(open) => open.end("commit").await?,
            Conn::Sqlite(_) | Conn::SqliteReader(_) | Conn::PostgresReader(_) | Conn::MySqlReader(_) => {}
        }
        Ok(())
    }

    pub(super) async fn rollback(self) {
        // What cannot be rolled back is closed, and rolled back by the database.
        match self {
            Conn::SqliteWriter(mut writer) => drop(sqlx::query("rollback").execute(&mut writer.sqlx).await),
            Conn::Postgres(open) => drop(open.end("rollback").await),
            Conn::MySql(open) => drop(open.end("rollback").await),
            Conn::Sqlite(_) | Conn::SqliteReader(_) | Conn::PostgresReader(_) | Conn::MySqlReader(_) => {}
        }
    }
}

/// What nodes take turns in. On a server each sees only what is committed, so whoever reads first and then writes what it
/// follows from that has to be alone with it. Taken first of all in a transaction, and held until its end; never on the hot
/// path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lock {
    /// What is configured: sources, endpoints, routes, mappings, connectors.
    Catalog = 1,
    Secrets = 2,
    Audit = 3,
    SyncJobs = 4,
    /// Whether an event's content is there, and is delivered once more.
    Content = 5,
}

/// The first half of every lock's number on PostgreSQL, so that it is none of the migrations' or of somebody else's.
const LOCKS: i64 = 0x746f_6d61 << 32;

impl Conn {
    /// Nothing to do on SQLite, where one transaction writes at a time.
    pub(super) async fn lock(&mut self, lock: Lock) -> Result<()> {
        match self.dialect() {
            Dialect::Sqlite => {}
            Dialect::Postgres => {
                query("select pg_advisory_xact_lock(?)").bind(LOCKS | lock as i64).fetch_one(self).await?;
            }
            Dialect::MySql => {
                query("select id from locks where id = ? for update").bind(lock as i64).fetch_one(self).await?;
            }
        }
        Ok(())
    }
}

/// A value of a statement. A null has a type as well: PostgreSQL asks for it. Never printed.
#[derive(Clone)]
pub(super) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

macro_rules! values {
    ($($type:ty => $variant:ident, $value:ident => $made:expr;)*) => {$(
        impl From<$type> for Value {
            fn from($value: $type) -> Value {
                Value::$variant(Some($made))
            }
        }
        impl From<Option<$type>> for Value {
            fn from(value: Option<$type>) -> Value {
                Value::$variant(value.map(|$value| $made))
            }
        }
    )*};
}

values! {
    i64 => Int, value => value;
    i32 => Int, value => value.into();
    // Times and counts, which are far from where this would change them.
    u64 => Int, value => value as i64;
    u32 => Int, value => value.into();
    u16 => Int, value => value.into();
    bool => Int, value => value.into();
    String => Text, value => value;
    &String => Text, value => value.clone();
    &str => Text, value => value.to_owned();
    Vec<u8> => Bytes, value => value;
    &Vec<u8> => Bytes, value => value.clone();
    &[u8] => Bytes, value => value.to_vec();
}

impl<const N: usize> From<[u8; N]> for Value {
    fn from(value: [u8; N]) -> Value {
        Value::Bytes(Some(value.to_vec()))
    }
}

/// A statement with its values; built like sqlx's own.
pub(super) struct Query {
    sql: Cow<'static, str>,
    values: Vec<Value>,
}

pub(super) fn query(sql: impl Into<Cow<'static, str>>) -> Query {
    Query { sql: sql.into(), values: Vec::new() }
}

macro_rules! bound {
    ($query:expr) => {{
        let (sql, values) = $query;
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in values {
            query = match value {
                Value::Int(value) => query.bind(value),
                Value::Text(value) => query.bind(value),
                Value::Bytes(value) => query.bind(value),
            };
        }
        query
    }};
}

/// What a connection answers, in time.
macro_rules! asked {
    ($query:ident, $conn:ident, $answer:expr) => {{
        let limit = $conn.limit();
        let $query = $query.render($conn.dialect());
        let answer: Result<Result<_>, _> = timeout(limit, async { Ok($answer) }).await;
        answer.unwrap_or_else(|_| Err($conn.give_up()))
    }};
}

impl Query {
    pub(super) fn bind(mut self, value: impl Into<Value>) -> Query {
        self.values.push(value.into());
        self
    }

    /// For the places of a [`list`].
    pub(super) fn bind_all<V: Into<Value>>(mut self, values: impl IntoIterator<Item = V>) -> Query {
        self.values.extend(values.into_iter().map(Into::into));
        self
    }

    fn render(self, dialect: Dialect) -> (String, Vec<Value>) {
        render(&self.sql, self.values, dialect)
    }

    /// Answers how many rows it changed, or would have changed had they not been so already.
    pub(super) async fn execute(self, conn: &mut Conn) -> Result<u64> {
        let query = self;
        asked!(
            query,
            conn,
            match conn.raw() {
                Raw::Sqlite(conn) => bound!(query).execute(conn).await?.rows_affected(),
                Raw::Postgres(conn) => bound!(query).execute(conn).await?.rows_affected(),
                Raw::MySql(conn) => bound!(query).execute(conn).await?.rows_affected(),
            }
        )
    }

    pub(super) async fn fetch_all(self, conn: &mut Conn) -> Result<Vec<Row>> {
        let query = self;
        asked!(
            query,
            conn,
            match conn.raw() {
                Raw::Sqlite(conn) => bound!(query).fetch_all(conn).await?.into_iter().map(Row::Sqlite).collect(),
                Raw::Postgres(conn) => bound!(query).fetch_all(conn).await?.into_iter().map(Row::Postgres).collect(),
                Raw::MySql(conn) => bound!(query).fetch_all(conn).await?.into_iter().map(Row::MySql).collect(),
            }
        )
    }

    pub(super) async fn fetch_optional(self, conn: &mut Conn) -> Result<Option<Row>> {
        let query = self;
        asked!(
            query,
            conn,
            match conn.raw() {
                Raw::Sqlite(conn) => bound!(query).fetch_optional(conn).await?.map(Row::Sqlite),
                Raw::Postgres(conn) => bound!(query).fetch_optional(conn).await?.map(Row::Postgres),
                Raw::MySql(conn) => bound!(query).fetch_optional(conn).await?.map(Row::MySql),
            }
        )
    }

    pub(super) async fn fetch_one(self, conn: &mut Conn) -> Result<Row> {
        self.fetch_optional(conn).await?.ok_or(StoreError::Database("a row is missing".into()))
    }

    /// The first column of each row.
    pub(super) async fn fetch_column<T: for<'r> Get<'r>>(self, conn: &mut Conn) -> Result<Vec<T>> {
        self.fetch_all(conn).await?.iter().map(|row| row.try_get(0)).collect()
    }

    /// The first column of the first row, if there is one.
    pub(super) async fn fetch_value<T: for<'r> Get<'r>>(self, conn: &mut Conn) -> Result<Option<T>> {
        self.fetch_optional(conn).await?.map(|row| row.try_get(0)).transpose()
    }

    /// Inserts a row into a table whose `id` the database gives, and answers that.
    pub(super) async fn insert(self, conn: &mut Conn) -> Result<i64> {
        let query = self;
        asked!(
            query,
            conn,
            match conn.raw() {
                Raw::Sqlite(conn) => bound!(query).execute(conn).await?.last_insert_rowid(),
                Raw::Postgres(conn) => {
                    let (sql, values) = query;
                    bound!((format!("{sql} returning id"), values)).fetch_one(conn).await?.try_get(0)?
                }
                Raw::MySql(conn) => bound!(query).execute(conn).await?.last_insert_id() as i64,
            }
        )
    }
}

/// The places of `count` values between two parentheses, of which there has to be one at least.
pub(super) fn list(count: usize) -> String {
    vec!["?"; count].join(", ")
}

pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
    MySql(MySqlRow),
}

impl Row {
    pub(super) fn try_get<'r, T: Get<'r>>(&'r self, at: usize) -> Result<T> {
        T::get(self, at)?.ok_or(StoreError::Database("a value cannot be read".into()))
    }
}

/// What can be read from a row; none is null.
pub(super) trait Get<'r>: Sized {
    fn get(row: &'r Row, at: usize) -> Result<Option<Self>>;
}

impl<'r, T: Get<'r>> Get<'r> for Option<T> {
    fn get(row: &'r Row, at: usize) -> Result<Option<Self>> {
        T::get(row, at).map(Some)
    }
}

impl<'r> Get<'r> for i64 {
    fn get(row: &'r Row, at: usize) -> Result<Option<i64>> {
        Ok(match row {
            Row::Sqlite(row) => row.try_get(at)?,
            Row::MySql(row) => row.try_get(at)?,
            // A condition is a boolean there, and a literal has 32 bits.
            Row::Postgres(row) => match row.try_get(at) {
                Ok(value) => value,
                Err(_) => match row.try_get::<Option<bool>, _>(at) {
                    Ok(value) => value.map(i64::from),
                    Err(_) => row.try_get::<Option<i32>, _>(at)?.map(i64::from),
                },
            },
        })
    }
}

macro_rules! gets {
    ($($type:ty => $value:ident => $made:expr;)*) => {$(
        impl<'r> Get<'r> for $type {
            fn get(row: &'r Row, at: usize) -> Result<Option<$type>> {
                let Some($value) = i64::get(row, at)? else { return Ok(None) };
                $made.map(Some).map_err(|_| StoreError::Database("a value cannot be read".into()))
            }
        }
    )*};
    ($($type:ty),*) => {$(
        impl<'r> Get<'r> for $type {
            fn get(row: &'r Row, at: usize) -> Result<Option<$type>> {
                Ok(match row {
                    Row::Sqlite(row) => row.try_get_unchecked(at)?,
                    Row::Postgres(row) => row.try_get_unchecked(at)?,
                    Row::MySql(row) => row.try_get_unchecked(at)?,
                })
            }
        }
    )*};
}

gets! {
    u32 => value => u32::try_from(value);
    u16 => value => u16::try_from(value);
    i8 => value => i8::try_from(value);
    u64 => value => Ok::<_, ()>(value as u64);
    bool => value => Ok::<_, ()>(value != 0);
}
// Text may be read as bytes, where somebody else could have written what is no text.
gets!(String, &'r str, Vec<u8>, &'r [u8]);

/// The statement in a database's own words, with its values in the order of its places.
fn render(sql: &str, values: Vec<Value>, dialect: Dialect) -> (String, Vec<Value>) {
    if dialect == Dialect::Sqlite {
        return (sql.to_owned(), values);
    }
    let mut text = sql.to_owned();
    let is_mysql = dialect == Dialect::MySql;
    if let Some(rest) = text.strip_prefix("insert or ignore into ") {
        text = if is_mysql {
            format!("insert ignore into {rest}")
        } else {
            format!("insert into {rest} on conflict do nothing")
        };
    }
    if is_mysql {
        if let Some((insert, rest)) = text.split_once(" on conflict (")
            && let Some((_, update)) = rest.split_once(") do update set ")
        {
            text = format!("{insert} on duplicate key update {update}");
        }
        text = text.replace(" cross join ", " straight_join ");
        while let Some(at) = text.find("excluded.") {
            let name = at + "excluded.".len();
            let end =
                text[name..].find(|c: char| !c.is_alphanumeric() && c != '_').map_or(text.len(), |end| name + end);
            text = format!("{}values({}){}", &text[..at], &text[name..end], &text[end..]);
        }
    } else {
        // In SQLite a cross join is taken in the order in which it is written, as MySQL's straight_join is. PostgreSQL
        // orders by its statistics.
        text = text.replace(" cross join ", " join ").replace("instr(", "strpos(");
    }
    places(&text, &values, is_mysql)
}

/// `$1` for PostgreSQL; `?` for MySQL, with a value as often as it is asked for.
fn places(text: &str, values: &[Value], is_mysql: bool) -> (String, Vec<Value>) {
    let (mut out, mut order) = (String::with_capacity(text.len() + 16), Vec::new());
    let (mut next, mut is_quoted) = (0, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        is_quoted ^= c == '\'';
        if c != '?' || is_quoted {
            out.push(c);
            continue;
        }
        let mut digits = String::new();
        while let Some(digit) = chars.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        let at = digits.parse::<usize>().map_or(next, |number| number - 1);
        next = at + 1;
        if is_mysql {
            out.push('?');
            order.push(values[at].clone());
        } else {
            out.push_str(&format!("${}", at + 1));
        }
    }
    (out, if is_mysql { order } else { values.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(sql: &str, dialect: Dialect) -> (String, Vec<i64>) {
        let (text, values) = render(sql, vec![1i64.into(), 2i64.into(), 3i64.into()], dialect);
        let number = |value: Value| if let Value::Int(Some(value)) = value { value } else { -1 };
        (text, values.into_iter().map(number).collect())
    }

    #[test]
    fn a_statement_is_said_to_each_in_its_own_words() {
        for (sql, postgres, mysql, order) in [
            (
                "select '?' from t where a = ? and b = ?",
                "select '?' from t where a = $1 and b = $2",
                "select '?' from t where a = ? and b = ?",
                vec![1, 2],
            ),
            ("select ?2, ?1, ?2", "select $2, $1, $2", "select ?, ?, ?", vec![2, 1, 2]),
            (
                "insert or ignore into t (a) values (?)",
                "insert into t (a) values ($1) on conflict do nothing",
                "insert ignore into t (a) values (?)",
                vec![1],
            ),
            (
                "insert into t (a, b) values (?, ?) on conflict (a) do update set b = excluded.b, c = t.c + excluded.c",
                "insert into t (a, b) values ($1, $2) on conflict (a) do update set b = excluded.b, c = t.c + excluded.c",
                "insert into t (a, b) values (?, ?) on duplicate key update b = values(b), c = t.c + values(c)",
                vec![1, 2],
            ),
            (
                "select 1 from a cross join b on a.x = b.x where instr(a.y, ?) > 0",
                "select 1 from a join b on a.x = b.x where strpos(a.y, $1) > 0",
                "select 1 from a straight_join b on a.x = b.x where instr(a.y, ?) > 0",
                vec![1],
            ),
        ] {
            assert_eq!(rendered(sql, Dialect::Sqlite).0, sql);
            assert_eq!(rendered(sql, Dialect::Postgres), (postgres.to_owned(), vec![1, 2, 3]));
            assert_eq!(rendered(sql, Dialect::MySql), (mysql.to_owned(), order));
        }
    }
}
