//! What is written for each database: connections, and the hot path. The rest is said once, in [`super::sql`].

use std::time::Duration;

use async_trait::async_trait;

use super::error::Cause;
use super::rows::Promoted;
use super::sql::Conn;
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
