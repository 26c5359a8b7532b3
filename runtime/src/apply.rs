//! Makes the hub match a configuration: checked as a whole, then changed, and the difference told.

use std::collections::BTreeMap;

use crate::catalog::{self, Catalog, Current, Line};
use crate::clock::Clock;
use crate::config::Config;
use crate::plugin::engine::digest;
use crate::queue::Queues;
use crate::registry::Registry;
use crate::store::Store;
use crate::store::rows::{CatalogRows, SecretRow};

pub(crate) struct Applier<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) catalog: &'a Current,
    pub(crate) queues: &'a Queues,
    pub(crate) registry: &'a Registry,
    pub(crate) clock: &'a Clock,
}

impl Applier<'_> {
    /// `components` are the bytes of the files that the configuration names, by connector. Every problem is said, and
    /// with any of them nothing changes.
    pub(crate) async fn apply(
        &self,
        wanted: Config,
        mut components: BTreeMap<String, Vec<u8>>,
        dry_run: bool,
    ) -> Result<Vec<Line>, Vec<String>> {
        let mut wanted = wanted.with_default_queues();
        wanted.connectors.clear();
        let mut problems: Vec<String> = wanted.check().into_iter().map(|problem| problem.message).collect();
        let stored = self.store.secrets().await.map_err(said)?;
        problems.extend(Catalog::load(rows_of(&wanted, stored)).err().unwrap_or_default());

        let known = self.store.connectors().await.map_err(said)?;
        let versions = self.store.versions().await.map_err(said)?;
        let active: BTreeMap<&str, &str> = known
            .iter()
            .filter_map(|connector| {
                let version = versions.iter().find(|version| Some(version.id) == connector.active)?;
                Some((connector.name.as_str(), version.digest.as_str()))
            })
            .collect();
        for (name, needed, what) in needed(&wanted) {
            if !active.contains_key(needed) && !components.contains_key(needed) {
                problems.push(format!(
                    "{what} {name:?} needs the component {needed:?}: push it, or add [connectors.{needed}] file = \"…\""
                ));
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }

        components.retain(|name, wasm| active.get(name.as_str()) != Some(&digest(wasm).as_str()));
        let mut lines: Vec<Line> = components
            .iter()
            .map(|(name, wasm)| Line {
                action: if active.contains_key(name.as_str()) { "update" } else { "create" },
                kind: "connector",
                name: name.clone(),
                detail: digest(wasm)[..12].to_owned(),
            })
            .collect();
        if !dry_run {
            for (name, wasm) in components {
                self.registry.push(&name, wasm).await.map_err(|error| vec![format!("connector {name:?}: {error}")])?;
            }
        }
        let _editing = self.catalog.editing.lock().await;
        let rows = self.store.catalog().await.map_err(said)?;
        let (change, differences) = catalog::difference(&self.catalog.get().config, &rows, &wanted);
        lines.extend(differences);
        if dry_run {
            return Ok(lines);
        }
        self.store.put_catalog(&change, self.clock.now_ms()).await.map_err(said)?;
        reload(self.store, self.catalog, self.queues).await.map_err(|error| vec![error])?;
        Ok(lines)
    }
}

/// Reads the catalog anew, and tells the queues.
pub(crate) async fn reload(store: &dyn Store, current: &Current, queues: &Queues) -> Result<(), String> {
    let _reading = current.reading.lock().await;
    let rows = store.catalog().await.map_err(|error| error.to_string())?;
    current.set(Catalog::load(rows).map_err(|problems| problems.join("\n"))?);
    queues.configure(&current.get());
    Ok(())
}

fn said(error: crate::store::StoreError) -> Vec<String> {
    tracing::error!(%error, "applying a configuration failed");
    vec!["the database did not answer; the log says why".into()]
}

/// Who needs which component.
fn needed(wanted: &Config) -> impl Iterator<Item = (&str, &str, &str)> {
    let endpoints = wanted.endpoints.iter().map(|(name, e)| (name.as_str(), e.connector.as_str(), "endpoint"));
    let mappings = wanted.mappings.iter().map(|(name, m)| (name.as_str(), m.component.as_str(), "mapping"));
    endpoints.chain(mappings)
}

/// The configuration as the database would hold it, for a trial load that resolves every secret.
fn rows_of(wanted: &Config, secrets: Vec<SecretRow>) -> CatalogRows {
    use crate::catalog::json;
    use crate::store::rows::{EndpointRow, MappingRow, Origin};
    CatalogRows {
        sources: wanted
            .sources
            .iter()
            .map(|(name, source)| (name.clone(), json(source)))
            .chain(catalog::limits_row(wanted).iter().map(|(name, limits)| (name.clone(), json(limits))))
            .chain(catalog::retention_row(wanted).iter().map(|(name, times)| (name.clone(), json(times))))
            .collect(),
        queues: wanted.queues.iter().zip(1..).map(|((name, queue), id)| (id, name.clone(), json(queue))).collect(),
        endpoints: wanted
            .endpoints
            .iter()
            .zip(1..)
            .map(|((name, endpoint), id)| EndpointRow {
                id,
                name: name.clone(),
                config: json(endpoint),
                paused: None,
                removed: false,
            })
            .collect(),
        routes: Vec::new(),
        mappings: wanted
            .mappings
            .iter()
            .map(|(name, mapping)| MappingRow {
                id: 0,
                name: name.clone(),
                version: 0,
                config: json(mapping),
                origin: Origin::Apply,
                activated_by: Origin::Apply,
            })
            .collect(),
        // They hold nothing that has to be resolved.
        schedules: Vec::new(),
        secrets,
    }
}
