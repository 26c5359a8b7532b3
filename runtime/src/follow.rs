//! What other nodes changed is in force here as well, soon: components, mappings, endpoints, pauses, stored secrets, and
//! what is being erased.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::apply;
use crate::catalog::Current;
use crate::membership::Membership;
use crate::privacy::Privacy;
use crate::queue::Queues;
use crate::registry::Registry;
use crate::signals::Signals;
use crate::store::Store;
use crate::worker::Shop;

/// Between looks. With what a reload takes, a change is in force everywhere within two seconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Follower {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalog: Arc<Current>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) shop: Arc<Shop>,
    pub(crate) privacy: Arc<Privacy>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) signals: Arc<Signals>,
    /// Another node says that there is something new.
    pub(crate) told: Arc<Notify>,
}

impl Follower {
    pub(crate) async fn run(self, stop: CancellationToken) {
        if !self.store.is_shared() {
            return;
        }
        let mut known = None;
        loop {
            match self.store.revision().await {
                Ok(revision) if known == Some(revision) => {}
                // Read before what it stands for: a change that comes in between is seen the next time.
                Ok(revision) => match self.refresh().await {
                    Ok(()) => known = Some(revision),
                    Err(error) => tracing::error!(error, "taking over what another node changed failed"),
                },
                Err(error) => tracing::error!(%error, "looking for changes of other nodes failed"),
            }
            if let Ok(nodes) = self.store.nodes().await {
                self.signals.set_nodes(nodes.len() as u32);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.told.notified() => {}
            }
        }
    }

    async fn refresh(&self) -> Result<(), String> {
        self.registry.follow().await.map_err(|error| error.to_string())?;
        self.membership.runs(self.registry.running());
        apply::reload(&*self.store, &self.catalog, &self.queues).await?;
        self.shop.staff();
        self.privacy.remember().await.map_err(|error| error.to_string())?;
        self.queues.purge();
        Ok(())
    }
}
