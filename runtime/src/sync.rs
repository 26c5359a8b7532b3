//! A sync job's run is a chain of pages, and a page is an event like any other: this is how it is written and read.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, Draft};
use crate::config::SyncJob;
use crate::event::{Event, EventId, NewEvent, SyncRunId};
use crate::ingress::key::Key;
use crate::keyring::Keyring;

/// Bytes of a cursor.
pub(crate) const MAX_CURSOR: usize = 1024;
/// No source can be named so: what the hub asks for never passes for what a partner sent.
const SOURCE: &str = "sync:";

/// One page that a connector is asked for: the payload of its event.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) job: String,
    pub(crate) run: SyncRunId,
    /// From 0.
    pub(crate) page: u32,
    /// Where to go on; none at the beginning.
    pub(crate) cursor: Option<String>,
}

/// A cursor is a connector's own, whatever it is made of.
impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Page { job, run, page, .. } = self;
        f.debug_struct("Page").field("job", job).field("run", run).field("page", page).finish_non_exhaustive()
    }
}

impl Page {
    /// The page that an event asks for, if it is one of the hub's own.
    pub(crate) fn of(event: &Event) -> Option<Page> {
        if !event.source.starts_with(SOURCE) {
            return None;
        }
        serde_json::from_slice(&event.payload).ok()
    }

    pub(crate) fn next(&self, cursor: String) -> Page {
        Page { page: self.page + 1, cursor: Some(cursor), ..self.clone() }
    }

    /// The event that asks for it. Asking twice is asking once: run and page are its key.
    pub(crate) fn ask(&self, catalog: &Catalog, ring: &Keyring, id: EventId, now_ms: u64) -> NewEvent {
        let event_type = SyncJob::event(&self.job);
        // A struct of texts and numbers always serialises.
        let payload = Bytes::from(serde_json::to_vec(self).unwrap_or_default());
        let queue = catalog.config.sync_jobs.get(&self.job).and_then(|job| catalog.queues.get(&job.queue));
        let queue = queue.map_or(catalog.default_queue(), |(id, _)| *id);
        let source = format!("{SOURCE}{}", self.job);
        let key = Key::id(&source, &format!("{}/{}", self.run, self.page));
        catalog.event(ring, Draft::json(id, source, &event_type, payload, key, queue, now_ms))
    }
}
