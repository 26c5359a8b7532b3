//! What people may ask of the hub (LGPD, article 18): to be found, and to have erased what is about them. And the work
//! behind it: erasing in batches, telling those who got the data, indexing what is older than its source's declaration.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::apply::reload;
use crate::catalog::{Care, Current, Draft, subject_key, subject_keys};
use crate::clock::{Clock, Ids};
use crate::committer::Committer;
use crate::config::PersonalKind;
use crate::event::{ERASURE, ErasureId, EventId, NewEvent};
use crate::ingress::key::Key;
use crate::keyring::Keyring;
use crate::membership::Membership;
use crate::personal::{Subject, forms};
use crate::queue::Queues;
use crate::store::rows::{BegunErasure, ContentRow, ErasureState, NewErasure, Reindexing, Seeds};
use crate::store::{Result, Store};

/// Events that are erased in one transaction.
const ERASE: u32 = 100;
/// Events that are indexed in one transaction.
const INDEX: u32 = 200;
/// Looked at even when nobody told us.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between tries to empty the write-ahead log while somebody reads, and how many there are at a time.
const SCRUB_PAUSE: Duration = Duration::from_millis(100);
const SCRUBS: u32 = 50;
/// Every node has heard of an erasure by then.
const HEARD_OF: Duration = Duration::from_secs(2);
/// What tells the targets.
pub(crate) const SUBJECT_ERASED: &str = "subject.erased";

/// Identifiers of one person, as they were given and as they are indexed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) subjects: Vec<Subject>,
    /// The first form of each.
    pub(crate) given: Vec<Subject>,
}

impl Person {
    /// The error says which kind it is that is none, and does not repeat it.
    pub(crate) fn add(&mut self, kind: PersonalKind, text: &str) -> Result<(), &'static str> {
        let forms = forms(kind, text);
        let first = forms.first().ok_or(match kind {
            PersonalKind::Cpf => "cpf takes 11 digits with valid check digits",
            PersonalKind::Phone => {
                "phone takes a number with its area code, and outside Brazil with + and its country's"
            }
            PersonalKind::Email => "email takes an address, as ana@example.com",
        })?;
        self.given.push(Subject { kind, form: first.clone() });
        self.subjects.extend(forms.into_iter().map(|form| Subject { kind, form }));
        Ok(())
    }
}

/// What is to be erased, and why.
pub(crate) struct Request {
    pub(crate) person: Person,
    /// Events that somebody has found to be about the person.
    pub(crate) events: Vec<EventId>,
    pub(crate) reason: String,
    pub(crate) actor: String,
    /// What the operator calls it: the same one is carried out once.
    pub(crate) request: Option<String>,
}

pub(crate) struct Privacy {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalog: Arc<Current>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) committer: Committer,
    pub(crate) membership: Arc<Membership>,
    pub(crate) clock: Clock,
    pub(crate) ids: Arc<Ids>,
    pub(crate) ring: Arc<Keyring>,
    pub(crate) tasks: TaskTracker,
    /// One erasure at a time.
    pub(crate) erasing: tokio::sync::Mutex<()>,
    /// Told when there is something to index.
    pub(crate) wake: Notify,
}

impl Privacy {
    pub(crate) fn seeds(&self, person: &Person, events: &[EventId]) -> Seeds {
        Seeds {
            keys: person.subjects.iter().map(|subject| subject_key(&self.ring, subject)).collect(),
            events: events.to_vec(),
        }
    }

    /// What an earlier hub had begun to erase is not delivered by this one.
    pub(crate) async fn remember(&self) -> Result<()> {
        for (erasure, state) in self.store.open_erasures().await? {
            if state == ErasureState::Erasing {
                self.queues.erased.add(&self.store.to_erase(erasure, u32::MAX).await?);
            }
        }
        Ok(())
    }

    /// Erases, and returns when the content is gone and its recipients are owed the news. True: this request had been made
    /// before. Goes on when nobody waits for it.
    pub(crate) async fn erase(self: &Arc<Self>, request: Request) -> Result<(ErasureId, bool)> {
        let now_ms = self.clock.now_ms();
        let new = NewErasure {
            id: ErasureId(self.ids.next(now_ms)),
            request: request.request,
            now_ms,
            reason: request.reason,
            actor: request.actor,
            seeds: self.seeds(&request.person, &request.events),
        };
        let notice = self.notice(new.id, &request.person, now_ms);
        let events = match self.store.begin_erasure(&new, &notice).await? {
            BegunErasure::Known(before) => return Ok((before, true)),
            BegunErasure::Begun(events) => events,
        };
        self.queues.erased.add(&events);
        if self.store.is_shared() {
            // Others deliver none of it from when they have heard of it, and recognise what comes again.
            tokio::time::sleep(HEARD_OF).await;
        }
        #[cfg(debug_assertions)]
        if std::env::var("TOMADA_FAULT").is_ok_and(|fault| fault == "end-while-erasing") {
            std::process::abort();
        }
        let (this, id) = (self.clone(), new.id);
        let done = self.tasks.spawn(async move { this.proceed(id).await }).await;
        done.unwrap_or(Ok(())).map(|()| (new.id, false))
    }

    /// The event that tells the targets: they need to know whom it is about.
    fn notice(&self, erasure: ErasureId, person: &Person, now_ms: u64) -> NewEvent {
        let of = |kind| -> Vec<&str> {
            person.given.iter().filter(|subject| subject.kind == kind).map(|subject| subject.form.as_str()).collect()
        };
        let at = jiff::Timestamp::from_millisecond(now_ms as i64).map_or(String::new(), |time| time.to_string());
        let payload = json!({
            "erasure": erasure,
            "requested_at": at,
            "cpf": of(PersonalKind::Cpf),
            "phone": of(PersonalKind::Phone),
            "email": of(PersonalKind::Email),
        });
        let catalog = self.catalog.get();
        let draft = Draft::json(
            EventId(self.ids.next(now_ms)),
            ERASURE,
            SUBJECT_ERASED,
            Bytes::from(payload.to_string()),
            Key::id(ERASURE, &erasure.to_string()),
            catalog.default_queue(),
            now_ms,
        );
        // Those who are to be told are known when everything is erased.
        let mut event = catalog.event(&self.ring, Draft { care: Care::default().or_sensitive(true), ..draft });
        event.deliveries.clear();
        event
    }

    /// Carries an erasure on from wherever it is.
    async fn proceed(&self, erasure: ErasureId) -> Result<()> {
        let _one = self.erasing.lock().await;
        loop {
            let events = self.store.to_erase(erasure, ERASE).await?;
            if events.is_empty() {
                break;
            }
            self.queues.erased.add(&events);
            let under_way = self.end_tries(&events).await;
            let batch =
                self.store.erase(self.membership.node(), erasure, &events, &under_way, self.clock.now_ms()).await?;
            self.queues.erased.add(&batch.children);
            self.queues.purge();
            // Whoever waited behind one of them may be claimed now.
            batch.endpoints.iter().for_each(|endpoint| self.queues.spilled(*endpoint));
            if batch.repaused
                && let Err(error) = reload(&*self.store, &self.catalog, &self.queues).await
            {
                tracing::error!(error, "reading the catalog failed");
            }
        }
        self.tell(erasure).await?;
        self.close().await?;
        self.scrub().await
    }

    /// Waits for tries under way and their record, as long as they may take. Answers those that still go on.
    async fn end_tries(&self, events: &[EventId]) -> Vec<crate::event::DeliveryId> {
        let events: HashSet<EventId> = events.iter().copied().collect();
        let longest = self.catalog.get().endpoints.values().map(|endpoint| endpoint.deadline_ms).max().unwrap_or(0);
        let patience = Duration::from_millis(longest) + Duration::from_secs(2);
        let _ = tokio::time::timeout(patience, self.queues.erased.quiet(&events)).await;
        self.committer.flush().await;
        self.queues.erased.under_way(&events)
    }

    /// Owes the news to everybody who had got something.
    async fn tell(&self, erasure: ErasureId) -> Result<()> {
        let Some(row) = self.store.erasures(Some(erasure), 1).await?.pop() else { return Ok(()) };
        let recipients: Vec<i64> = row.recipients.iter().map(|recipient| recipient.endpoint).collect();
        let (deliveries, told) = self.catalog.get().owed_to(row.notice, SUBJECT_ERASED, &recipients);
        self.store.tell(erasure, &deliveries, &told).await?;
        tracing::info!(name = %erasure, rows = row.events, count = recipients.len(), "content erased");
        deliveries.iter().for_each(|delivery| self.queues.spilled(delivery.endpoint));
        Ok(())
    }

    /// Takes back the notices that have told everybody. Answers whether there were any.
    async fn close(&self) -> Result<bool> {
        Ok(self.store.close_erasures(self.clock.now_ms()).await? > 0)
    }

    /// An operator has told whoever could not be told.
    pub(crate) async fn close_by_hand(&self, erasure: ErasureId) -> Result<()> {
        let Some(row) = self.store.erasures(Some(erasure), 1).await?.pop() else {
            return Err(crate::store::StoreError::NotFound(format!("erasure {erasure}")));
        };
        self.queues.erased.add(&[row.notice]);
        let _one = self.erasing.lock().await;
        self.end_tries(&[row.notice]).await;
        self.store.close_erasure(erasure, self.clock.now_ms()).await?;
        self.queues.purge();
        self.scrub().await
    }

    /// What was there before is gone from the files.
    async fn scrub(&self) -> Result<()> {
        for _ in 0..SCRUBS {
            if self.store.scrub(true).await? {
                return Ok(());
            }
            tokio::time::sleep(SCRUB_PAUSE).await;
        }
        tracing::warn!(
            "the write-ahead log could not be emptied: erased content may stay in it until the next checkpoint"
        );
        Ok(())
    }

    /// Whatever is open, as long as the hub runs.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            if let Err(error) = self.look(&stop).await {
                tracing::error!(%error, "erasing or indexing failed; it is tried again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.queues.erased.told.notified() => self.committer.flush().await,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn look(&self, stop: &CancellationToken) -> Result<()> {
        let open = self.store.open_erasures().await?;
        for (erasure, _) in open.iter().filter(|(_, state)| *state == ErasureState::Erasing) {
            self.proceed(*erasure).await?;
        }
        if !open.is_empty() && self.close().await? {
            self.scrub().await?;
        }
        while !stop.is_cancelled() && self.index().await? {}
        Ok(())
    }

    /// Begins to index what is stored, unless that is under way.
    pub(crate) async fn reindex(&self) -> Result<Option<Reindexing>> {
        self.store.begin_reindexing(self.clock.now_ms()).await?;
        self.wake.notify_one();
        self.store.reindexing().await
    }

    /// Indexes one batch. Answers whether there is more.
    async fn index(&self) -> Result<bool> {
        let Some(state) = self.store.reindexing().await?.filter(|state| state.finished_ms.is_none()) else {
            return Ok(false);
        };
        let rows = self.store.contents(state.cursor, state.upto, INDEX).await?;
        let catalog = self.catalog.get();
        let keys = |row: &ContentRow| {
            let personal = catalog.personal_of(&row.source, row.emitted);
            (row.id, subject_keys(&self.ring, &row.payload, personal))
        };
        let keys: Vec<_> = rows.iter().map(keys).collect();
        let cursor = rows.last().map_or(state.upto, |row| row.id);
        let finished_ms = (rows.is_empty() || cursor == state.upto).then(|| self.clock.now_ms());
        self.store.reindex(&keys, cursor, finished_ms).await?;
        Ok(finished_ms.is_none())
    }
}
