//! What is written for each database: connections, and the hot path. The rest is said once, in [`super::sql`].

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Connection as _;
use sqlx::pool::PoolOptions;
use tokio::time::timeout;

use super::error::Cause;
use super::rows::Promoted;
use super::sql::{Conn, answered};
use super::{Done, Known, Result, StoreError, Work};
use crate::clock::random_bytes;
use crate::delivery::Delivery;
use crate::event::{EventId, NewDelivery, NewEvent};
use crate::keyring::Keyring;

/// How often a transaction is run that the database takes back for another one's sake.
const RUNS: u32 = 5;

/// Counts the runs of one transaction.
#[derive(Default)]
pub(super) struct Patience(u32);

impl Patience {
    /// Waits a little before the next run, or says that it was the last one.
    pub(super) async fn wait(&mut self, cause: Cause) -> Result<()> {
        self.0 += 1;
        if self.0 == RUNS {
            return Err(StoreError::Clash(cause));
        }
        // Not both at the same time again.
        let [pause] = random_bytes();
        tokio::time::sleep(Duration::from_millis(u64::from(pause) * u64::from(self.0) / 16)).await;
        Ok(())
    }
}

/// Runs a transaction, and again where the database asks for that. A macro, because the compiler does not see that a
/// closure's future can be sent.
macro_rules! patiently {
    ($once:expr) => {{
        let mut patience = $crate::store::database::Patience::default();
        loop {
            match $once.await {
                Err($crate::store::StoreError::Clash(cause)) => patience.wait(cause).await?,
                done => break done,
            }
        }
    }};
}
pub(super) use patiently;

/// Runs `body` in the transaction of `conn`, which ends with a commit when it succeeds.
pub(super) async fn transaction<T>(
    conn: impl Future<Output = Result<Conn>>,
    body: impl AsyncFnOnce(&mut Conn) -> Result<T>,
) -> Result<T> {
    answered(async {
        let mut conn = conn.await?;
        let done = body(&mut conn).await;
        end(conn, done).await
    })
    .await
}

/// Ends a transaction: with a commit when it succeeded.
pub(super) async fn end<T>(conn: Conn, done: Result<T>) -> Result<T> {
    match &done {
        Ok(_) => conn.commit().await?,
        Err(_) => conn.rollback().await,
    }
    done
}

/// A connection that nobody used for so long is asked whether it is there before it is used. One that is in use all the
/// time is not: that would be one more way there and back for each commit.
const TRUSTED: Duration = Duration::from_secs(1);
/// How long that, and the way back into the pool, may take.
const PING: Duration = Duration::from_secs(2);
/// How long a connection is waited for, a new one included.
const ACQUIRE: Duration = Duration::from_secs(10);

/// Connections to a server that may go without a word: one that does not answer is closed, and another is made.
pub(super) fn pool<DB: sqlx::Database>(connections: u32) -> PoolOptions<DB> {
    PoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE)
        .test_before_acquire(false)
        .before_acquire(|conn, used| Box::pin(async move { Ok(used.idle_for < TRUSTED || answers::<DB>(conn).await) }))
        // sqlx asks as well, and waits without end.
        .after_release(|conn, _| Box::pin(async move { Ok(answers::<DB>(conn).await) }))
}

/// One that does not is closed. That is nothing to log: servers close what nobody uses.
async fn answers<DB: sqlx::Database>(conn: &mut DB::Connection) -> bool {
    matches!(timeout(PING, conn.ping()).await, Ok(Ok(())))
}

#[async_trait]
pub(super) trait Database: Send + Sync + 'static {
    /// Whether other processes may work on it at the same time.
    fn is_shared(&self) -> bool;
    /// A connection that only reads.
    async fn read(&self) -> Result<Conn>;
    /// One in a transaction of its own.
    async fn begin(&self) -> Result<Conn>;

    /// See [`super::Store`]; each is one transaction, tried again here where the database asks for that (a deadlock).
    async fn commit(&self, known: Known<'_>, node: i64, work: &[Work]) -> Result<Vec<Done>>;
    async fn claim(&self, ring: &Keyring, node: i64, endpoint: i64, limit: u32) -> Result<Vec<Delivery>>;
    async fn promote(&self, ring: &Keyring, node: i64, now_ms: u64, limit: u32) -> Result<Promoted>;

    /// Inserts the event with its deliveries, unless its key is known, in the transaction of `conn`. Answers the id that
    /// the key stands for.
    async fn accept(&self, conn: &mut Conn, known: Known<'_>, node: i64, event: &NewEvent) -> Result<EventId>;
    /// Inserts deliveries of an event, in the transaction of `conn`.
    async fn owe(&self, conn: &mut Conn, node: i64, event: EventId, deliveries: &[NewDelivery]) -> Result<()>;

    /// Moves what was changed into the database's own files, over what was there before it. False: somebody was reading,
    /// and it has to be tried again. Where the database does that by itself there is nothing to do.
    async fn scrub(&self, may_wait: bool) -> Result<bool>;
}
