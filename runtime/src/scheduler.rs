//! The door for time: fires what is due, once in however many processes, and sees to it that a run goes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, Current, Draft};
use crate::clock::{Clock, Ids};
use crate::committer::{CommitError, Committer};
use crate::event::{EventId, NewEvent, SyncRunId};
use crate::ingress::key::Key;
use crate::keyring::Keyring;
use crate::store::rows::{Begun, NewSyncRun, ScheduleKind, ScheduleRow};
use crate::store::{Store, StoreError};
use crate::sync::Page;

/// Looked at even when nothing is due: another process may have changed what is configured.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Scheduler {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalog: Arc<Current>,
    pub(crate) committer: Committer,
    pub(crate) clock: Clock,
    pub(crate) ids: Arc<Ids>,
    pub(crate) ring: Arc<Keyring>,
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Scheduler {
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let next_ms = match self.look().await {
                Ok(next_ms) => next_ms,
                Err(error) => {
                    tracing::error!(%error, "firing what is due failed; it is tried again");
                    None
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.wait_until(next_ms.unwrap_or(0)), if next_ms.is_some() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Fires what is due and asks again for the pages of runs that are under way, which changes nothing unless the hub
    /// ended between beginning a run and asking for its page. Answers when the next one is due.
    async fn look(&self) -> Result<Option<u64>, Failure> {
        let catalog = self.catalog.get();
        if catalog.times.is_empty() && catalog.config.sync_jobs.is_empty() {
            return Ok(None);
        }
        let rows = self.store.schedules().await?;
        let rows: HashMap<_, _> = rows.iter().map(|row| ((row.kind, row.name.as_str()), row)).collect();
        let now_ms = self.clock.now_ms();
        let mut next_ms: Option<u64> = None;
        for ((kind, name), times) in &catalog.times {
            let Some(row) = rows.get(&(*kind, name.as_str())) else { continue };
            let Some(mut due_ms) = times.after(row.fired_ms) else { continue };
            if due_ms <= now_ms {
                self.fire(&catalog, row, due_ms, now_ms).await?;
                // What was missed while nobody was there is made up once, not once for each time.
                let Some(later_ms) = times.after(now_ms) else { continue };
                due_ms = later_ms;
            }
            next_ms = Some(next_ms.map_or(due_ms, |next_ms| next_ms.min(due_ms)));
        }
        for run in self.store.running_syncs().await? {
            let page = Page { job: run.name, run: run.id, page: run.pages, cursor: run.cursor };
            self.ask(&page).await?;
        }
        Ok(next_ms)
    }

    async fn fire(&self, catalog: &Catalog, row: &ScheduleRow, due_ms: u64, now_ms: u64) -> Result<(), Failure> {
        match row.kind {
            ScheduleKind::Schedule => {
                // First the event, whose key is the time that it was due: whoever else fires it makes no second one.
                if let Some(event) = self.scheduled(catalog, &row.name, due_ms, now_ms) {
                    self.committer.accept(event).await?;
                }
                self.store.fired(&row.name, row.fired_ms, now_ms).await?;
            }
            ScheduleKind::SyncJob => {
                if self.start(&row.name, Some((due_ms, row.fired_ms)), false).await?.is_none() {
                    tracing::warn!(job = row.name, "a sync job was due while its last run was under way");
                }
            }
        }
        Ok(())
    }

    fn scheduled(&self, catalog: &Catalog, name: &str, due_ms: u64, now_ms: u64) -> Option<NewEvent> {
        let schedule = catalog.config.schedules.get(name)?;
        let due_at = jiff::Timestamp::from_millisecond(due_ms as i64).ok()?.to_string();
        let mut payload = schedule.payload.clone();
        payload.insert("schedule".into(), name.into());
        payload.insert("due_at".into(), due_at.as_str().into());
        let payload = Bytes::from(serde_json::Value::Object(payload).to_string());
        let queue = catalog.queues.get(&schedule.queue).map_or(catalog.default_queue(), |(id, _)| *id);
        let id = EventId(self.ids.next(now_ms));
        let source = format!("schedule:{name}");
        let key = Key::id(&source, &due_at);
        Some(catalog.event(&self.ring, Draft::json(id, source, &schedule.event, payload, key, queue, now_ms)))
    }

    /// Begins a run of a sync job and asks for its first page. None when a run is under way already.
    pub(crate) async fn start(
        &self,
        job: &str,
        due: Option<(u64, u64)>,
        resume: bool,
    ) -> Result<Option<SyncRunId>, Failure> {
        let now_ms = self.clock.now_ms();
        let run = NewSyncRun { id: SyncRunId(self.ids.next(now_ms)), name: job.into(), now_ms, due, resume };
        match self.store.begin_sync(&run).await? {
            Begun::Run { cursor } => {
                self.ask(&Page { job: job.into(), run: run.id, page: 0, cursor }).await?;
                Ok(Some(run.id))
            }
            Begun::Running => Ok(None),
            Begun::Elsewhere => Ok(Some(run.id)),
        }
    }

    async fn ask(&self, page: &Page) -> Result<(), Failure> {
        let now_ms = self.clock.now_ms();
        let event = page.ask(&self.catalog.get(), &self.ring, EventId(self.ids.next(now_ms)), now_ms);
        self.committer.accept(event).await?;
        Ok(())
    }
}
