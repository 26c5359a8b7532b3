//! Components and their versions: push, activate, roll back. What does not fit, compile, link or start is refused with
//! the reason, and nothing changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Clock;
use crate::plugin::manifest::{Manifest, inspect};
use crate::plugin::{Plugins, engine};
use crate::store::rows::{ConnectorRow, NewVersion, VersionRow};
use crate::store::{Store, StoreError};

pub(crate) struct Registry {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) clock: Clock,
    /// One change at a time, so that what is active here is what the database says.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    /// The component's fault.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Registry {
    /// Loads what is active. A component that cannot be loaded any more is said, and its deliveries wait.
    pub(crate) async fn load_all(&self) -> Result<(), StoreError> {
        self.follow().await
    }

    /// Loads what is active and does not run here. What cannot be loaded is said, and what ran before runs on.
    pub(crate) async fn follow(&self) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        let connectors = self.store.connectors().await?;
        let is_new = |connector: &&ConnectorRow| {
            let runs = self.plugins.active(&connector.name).map(|version| version.id);
            connector.active.is_some() && connector.active != runs
        };
        let wanted: Vec<i64> = connectors.iter().filter(is_new).filter_map(|connector| connector.active).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let versions = self.store.versions().await?;
        let loads = versions.iter().filter(|version| wanted.contains(&version.id)).map(|version| async move {
            if let Err(error) = self.load(version).await {
                tracing::error!(connector = version.name, digest = version.digest, %error, "loading failed");
            }
        });
        futures_util::future::join_all(loads).await;
        Ok(())
    }

    /// What runs here, by name.
    pub(crate) fn running(&self) -> BTreeMap<String, i64> {
        self.plugins.running()
    }

    /// Stores and activates a component. The digest that was active before is the answer's second part.
    pub(crate) async fn push(&self, name: &str, wasm: Vec<u8>) -> Result<VersionRow, PushError> {
        let inspected = inspect(&wasm).map_err(|refusal| PushError::Refused(refusal.to_string()))?;
        let manifest = inspected.manifest;
        if manifest.name != name {
            let its = &manifest.name;
            return Err(PushError::Refused(format!("its manifest names it {its:?}, not {name:?}: push it as {its:?}")));
        }
        let digest = engine::digest(&wasm);
        let prepared = self.plugins.prepare(&manifest, &digest, &wasm).await.map_err(PushError::Refused)?;
        let version = NewVersion {
            name: name.to_owned(),
            kind: manifest.kind.as_str(),
            digest,
            manifest: serde_json::to_string(&manifest).unwrap_or_default(),
            component: wasm,
        };
        let _changing = self.changing.lock().await;
        let row = self.store.put_version(&version, true, self.clock.now_ms()).await?;
        self.plugins.activate(row.id, manifest, prepared);
        Ok(row)
    }

    pub(crate) async fn activate(&self, name: &str, digest: &str) -> Result<VersionRow, PushError> {
        let versions = self.store.versions().await?;
        let version = versions
            .into_iter()
            .find(|version| version.name == name && version.digest.starts_with(digest))
            .ok_or_else(|| StoreError::NotFound(format!("version {digest} of {name}")))?;
        let _changing = self.changing.lock().await;
        self.load(&version).await?;
        self.store.activate(name, &version.digest).await?;
        Ok(version)
    }

    /// Activates the version that was active before.
    pub(crate) async fn rollback(&self, name: &str) -> Result<VersionRow, PushError> {
        let connectors = self.store.connectors().await?;
        let connector = connectors
            .into_iter()
            .find(|connector| connector.name == name)
            .ok_or_else(|| StoreError::NotFound(format!("connector {name}")))?;
        let versions = self.store.versions().await?;
        let previous = versions
            .into_iter()
            .find(|version| Some(version.id) == connector.previous)
            .ok_or_else(|| StoreError::Conflict(format!("{name} has no earlier version to go back to")))?;
        self.activate(name, &previous.digest).await
    }

    async fn load(&self, version: &VersionRow) -> Result<(), PushError> {
        let manifest: Manifest = serde_json::from_str(&version.manifest)
            .map_err(|error| PushError::Refused(format!("its stored manifest is damaged: {error}")))?;
        let wasm = self.store.component(version.id).await?;
        let prepared = self.plugins.prepare(&manifest, &version.digest, &wasm).await.map_err(PushError::Refused)?;
        self.plugins.activate(version.id, manifest, prepared);
        Ok(())
    }
}
