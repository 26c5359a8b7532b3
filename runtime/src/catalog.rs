//! The configuration in force, made ready: names turned into ids, secrets resolved, schemes and policies prepared.
//! A snapshot that readers hold while they work; a change makes a new one.

mod draft;
mod vault;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use ipnet::IpNet;

pub(crate) use draft::{Care, Draft, subject_key, subject_keys};
use vault::Vault;
pub(crate) use vault::{Lent, version_of};

use crate::clock::ID_STRIDE;
use crate::config::times::Times;
use crate::config::{self, Auth, BodyKind, Breaker, Config, EventName, Filter, Idempotency, Retry, Secret, SecretRef};
use crate::event::{DeliveryId, EventId, NewDelivery, Place};
use crate::ingress::key::pointer;
use crate::ingress::verify::Scheme;
use crate::keyring::Keyring;
use crate::limits::Quota;
use crate::outbound::Policy;
use crate::outbound::mail::Smtp;
use crate::store::rows::{CatalogRows, MappingRow, Origin, ScheduleKind};

pub(crate) struct Catalog {
    /// What is in force, as it would be written in a file (without the connectors' files).
    pub(crate) config: Config,
    /// Of the sources that have webhooks.
    pub(crate) proofs: HashMap<String, Arc<Proof>>,
    /// By path, as the configuration writes it: perhaps with `{token}` at its end.
    pub(crate) webhooks: HashMap<String, Arc<Webhook>>,
    pub(crate) endpoints: HashMap<i64, Arc<Endpoint>>,
    pub(crate) queues: HashMap<String, (i64, config::Queue)>,
    /// When schedules and sync jobs are due; jobs that are started by hand only are not among them.
    pub(crate) times: HashMap<(ScheduleKind, String), Times>,
    pub(crate) limits: Limits,
    routes: HashMap<i64, Arc<Route>>,
    routes_by_event: HashMap<String, Vec<Arc<Route>>>,
}

/// How often who may ask.
pub(crate) struct Limits {
    pub(crate) api_key: Option<Quota>,
    pub(crate) address: Option<Quota>,
    pub(crate) proxies: Vec<IpNet>,
}

/// Where the table of sources keeps `[limits]`: no source can have such a name.
const LIMITS: &str = "[limits]";
/// The same for `[retention]`.
const RETENTION: &str = "[retention]";

/// One path that a source posts to.
pub(crate) struct Webhook {
    pub(crate) source: Arc<str>,
    pub(crate) proof: Arc<Proof>,
    pub(crate) idempotency: Idempotency,
    pub(crate) keep_headers: Vec<String>,
    pub(crate) event: EventName,
    pub(crate) queue: i64,
    pub(crate) body: BodyKind,
    pub(crate) max_body: usize,
    pub(crate) answers_get: bool,
    pub(crate) quota: Option<Quota>,
    pub(crate) care: Care,
}

/// How a source proves who it is, and which of its secrets did so last.
pub(crate) struct Proof {
    pub(crate) scheme: Scheme,
    /// Each version of a stored one by itself.
    pub(crate) secrets: Vec<Secret>,
    /// For each secret, ms since 1970; 0 is never since this hub started.
    matched_ms: Vec<AtomicU64>,
}

impl Proof {
    fn prepare(auth: &Auth, vault: &Vault) -> Result<Proof, String> {
        let auth = vault.expand(auth);
        let value = |(_, reference)| vault.value(reference).map(|value| value.to_vec());
        let values = auth.references().map(value).collect::<Result<_, _>>()?;
        Ok(Proof {
            scheme: Scheme::prepare(&auth, values)?,
            secrets: auth.secrets().to_vec(),
            matched_ms: auth.secrets().iter().map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// The secret at this place of the configuration proved a request.
    pub(crate) fn matched(&self, secret: usize, now_ms: u64) {
        if let Some(at) = self.matched_ms.get(secret) {
            at.fetch_max(now_ms, Ordering::Relaxed);
        }
    }

    /// When each secret proved a request last, since this hub started: one that is never seen any more can be retired.
    pub(crate) fn last_matched(&self) -> Vec<Option<u64>> {
        self.matched_ms.iter().map(|at| Some(at.load(Ordering::Relaxed)).filter(|at| *at > 0)).collect()
    }

    /// A changed configuration may have the secrets in another order.
    fn remember(&self, before: &Proof) {
        for (at, secret) in self.secrets.iter().enumerate() {
            if let Some(was) = before.secrets.iter().position(|known| known.reference == secret.reference) {
                self.matched(at, before.matched_ms[was].load(Ordering::Relaxed));
            }
        }
    }
}

pub(crate) struct Endpoint {
    pub(crate) id: i64,
    pub(crate) name: Arc<str>,
    pub(crate) connector: Arc<str>,
    /// JSON.
    pub(crate) settings: String,
    /// The hosts of the settings that are URLs, which a manifest may refer to as `settings.<key>`.
    pub(crate) setting_hosts: HashMap<String, String>,
    pub(crate) policy: Policy,
    pub(crate) secrets: HashMap<String, Lent>,
    pub(crate) smtp: Option<Smtp>,
    pub(crate) concurrency: u32,
    pub(crate) rate_per_s: u32,
    pub(crate) deadline_ms: u64,
    pub(crate) retry: Retry,
    pub(crate) breaker: Breaker,
    pub(crate) at_most_once: bool,
    /// Of the events that its connector emits.
    pub(crate) care: Care,
    /// Why it is paused.
    pub(crate) paused: Option<String>,
    /// No longer configured; what is still owed to it is held.
    pub(crate) removed: bool,
}

pub(crate) struct Route {
    pub(crate) id: i64,
    pub(crate) endpoint: i64,
    queue: Option<i64>,
    priority: i8,
    delay_ms: u64,
    ordering: Option<String>,
    filter: Option<Filter>,
    pub(crate) mapping: Option<Arc<Mapping>>,
}

pub(crate) struct Mapping {
    /// Of this version, event_mappings.id; 0 when it is stored nowhere.
    pub(crate) id: i64,
    pub(crate) name: Arc<str>,
    pub(crate) component: Arc<str>,
    /// JSON.
    pub(crate) settings: String,
    pub(crate) deadline_ms: u64,
}

impl Mapping {
    pub(crate) fn prepare(id: i64, name: &str, mapping: &config::Mapping) -> Mapping {
        Mapping {
            id,
            name: name.into(),
            component: mapping.component.as_str().into(),
            settings: serde_json::Value::Object(mapping.settings.clone()).to_string(),
            deadline_ms: mapping.deadline_ms,
        }
    }
}

impl Catalog {
    /// Prepares what the database holds. Everything that is wrong is said, not only the first; references to secrets
    /// are resolved here, so a missing one is found before a request needs it.
    pub(crate) fn load(rows: CatalogRows) -> Result<Catalog, Vec<String>> {
        let mut problems = Vec::new();
        let mut config = Config::default();

        let vault = Vault::new(rows.secrets);
        let mut queues = HashMap::new();
        for (id, name, json) in rows.queues {
            let Some(queue) = read::<config::Queue>(&json, "queue", &name, &mut problems) else { continue };
            config.queues.insert(name.clone(), queue.clone());
            queues.insert(name, (id, queue));
        }
        let queue_id = |name: &str| queues.get(name).map(|(id, _)| *id);

        let mut webhooks = HashMap::new();
        let mut proofs = HashMap::new();
        for (name, json) in rows.sources {
            if name == LIMITS {
                config.limits = read(&json, "table", "limits", &mut problems).unwrap_or_default();
                continue;
            }
            if name == RETENTION {
                config.retention = read(&json, "table", "retention", &mut problems).unwrap_or_default();
                continue;
            }
            let Some(source) = read::<config::Source>(&json, "source", &name, &mut problems) else { continue };
            // Whoever posts nothing proves nothing.
            let proof = (!source.webhooks.is_empty()).then(|| Proof::prepare(&source.auth, &vault));
            let proof = match proof.transpose() {
                Ok(proof) => proof.map(Arc::new),
                Err(problem) => {
                    problems.push(format!("source {name:?}: {problem}"));
                    None
                }
            };
            proofs.extend(proof.clone().map(|proof| (name.clone(), proof)));
            for webhook in &source.webhooks {
                let (Some(proof), Some(queue)) = (proof.clone(), queue_id(&webhook.queue)) else { continue };
                let prepared = Webhook {
                    source: name.as_str().into(),
                    proof,
                    idempotency: source.idempotency.clone(),
                    keep_headers: source.keep_headers.clone(),
                    event: webhook.event.clone(),
                    queue,
                    body: webhook.body,
                    max_body: webhook.max_body,
                    answers_get: webhook.answers_get,
                    quota: source.rate.and_then(Quota::new),
                    care: Care::new(source.sensitive, &source.personal),
                };
                webhooks.insert(webhook.path.clone(), Arc::new(prepared));
            }
            config.sources.insert(name, source);
        }

        let mut mappings = HashMap::new();
        for row in rows.mappings {
            let Some(mapping) = read::<config::Mapping>(&row.config, "mapping", &row.name, &mut problems) else {
                continue;
            };
            mappings.insert(row.name.clone(), Arc::new(Mapping::prepare(row.id, &row.name, &mapping)));
            config.mappings.insert(row.name, mapping);
        }

        let mut endpoints = HashMap::new();
        for row in rows.endpoints {
            let Some(endpoint) = read::<config::Endpoint>(&row.config, "endpoint", &row.name, &mut problems) else {
                continue;
            };
            let mut secrets = HashMap::new();
            for (secret, reference) in &endpoint.secrets {
                match vault.of_endpoint(reference) {
                    Ok(lent) => secrets.extend(lent.map(|lent| (secret.clone(), lent))),
                    // What nobody is sent to any more needs no secrets.
                    Err(_) if row.removed => {}
                    Err(problem) => problems.push(format!("endpoint {:?}: secret {secret:?}: {problem}", row.name)),
                }
            }
            let policy = match Policy::new(&endpoint.hosts, &endpoint.allow_private) {
                Ok(policy) => policy,
                Err(problem) => {
                    problems.push(format!("endpoint {:?}: {problem}", row.name));
                    continue;
                }
            };
            let smtp = match endpoint.smtp.as_ref().map(|smtp| prepare_smtp(smtp, &policy, &vault)) {
                None => None,
                Some(Ok(smtp)) => Some(smtp),
                // What nobody is sent to any more needs no server either.
                Some(Err(_)) if row.removed => None,
                Some(Err(problem)) => {
                    problems.push(format!("endpoint {:?}: {problem}", row.name));
                    continue;
                }
            };
            let prepared = Endpoint {
                id: row.id,
                name: row.name.as_str().into(),
                connector: endpoint.connector.as_str().into(),
                settings: serde_json::Value::Object(endpoint.settings.clone()).to_string(),
                setting_hosts: setting_hosts(&endpoint.settings),
                policy,
                secrets,
                smtp,
                concurrency: endpoint.concurrency,
                rate_per_s: endpoint.rate_per_s,
                deadline_ms: endpoint.deadline_ms,
                retry: endpoint.retry.clone(),
                breaker: endpoint.breaker.clone(),
                at_most_once: endpoint.at_most_once,
                care: Care::new(endpoint.sensitive, &endpoint.personal),
                paused: row.paused,
                removed: row.removed,
            };
            endpoints.insert(row.id, Arc::new(prepared));
            if !row.removed {
                config.endpoints.insert(row.name, endpoint);
            }
        }

        let mut routes = HashMap::new();
        let mut routes_by_event: HashMap<String, Vec<Arc<Route>>> = HashMap::new();
        for row in rows.routes {
            let Some(route) = read::<config::Route>(&row.config, "route", &row.id.to_string(), &mut problems) else {
                continue;
            };
            let prepared = Arc::new(Route {
                id: row.id,
                endpoint: row.endpoint,
                queue: route.queue.as_deref().and_then(queue_id),
                priority: route.priority,
                delay_ms: (route.delay_s * 1000.0) as u64,
                ordering: route.ordering.clone(),
                filter: route.filter.clone(),
                mapping: route.mapping.as_deref().and_then(|name| mappings.get(name).cloned()),
            });
            routes.insert(row.id, prepared.clone());
            if !row.removed {
                routes_by_event.entry(route.event.clone()).or_default().push(prepared);
                config.routes.push(route);
            }
        }

        for (event, routes) in &routes_by_event {
            if routes.len() as i64 >= ID_STRIDE {
                let (count, most) = (routes.len(), ID_STRIDE - 1);
                problems.push(format!("{count} routes take {event:?}: at most {most} can"));
            }
        }

        let mut times = HashMap::new();
        for row in rows.schedules {
            let (cron, time_zone) = match row.kind {
                ScheduleKind::Schedule => {
                    let schedule = read::<config::Schedule>(&row.config, "schedule", &row.name, &mut problems);
                    let Some(schedule) = schedule else { continue };
                    let when = (Some(schedule.cron.clone()), schedule.time_zone.clone());
                    config.schedules.insert(row.name.clone(), schedule);
                    when
                }
                ScheduleKind::SyncJob => {
                    let Some(job) = read::<config::SyncJob>(&row.config, "sync job", &row.name, &mut problems) else {
                        continue;
                    };
                    let when = (job.cron.clone(), job.time_zone.clone());
                    config.sync_jobs.insert(row.name.clone(), job);
                    when
                }
            };
            let Some(cron) = cron else { continue };
            match Times::read(&cron, &time_zone) {
                Ok(when) => drop(times.insert((row.kind, row.name), when)),
                Err((field, problem)) => problems.push(format!("schedule {:?}: {field} {problem}", row.name)),
            }
        }

        let limits = Limits {
            api_key: Quota::new(config.limits.api_key.unwrap_or_default()),
            address: Quota::new(config.limits.address.unwrap_or_default()),
            // They have been checked.
            proxies: config.limits.proxies.iter().filter_map(|proxy| proxy.parse().ok()).collect(),
        };
        if problems.is_empty() {
            Ok(Catalog { config, proofs, webhooks, endpoints, queues, times, limits, routes, routes_by_event })
        } else {
            Err(problems)
        }
    }

    /// What is owed because of an event: one delivery for each route of its type whose filter it passes.
    fn owed(
        &self,
        ring: &Keyring,
        event: EventId,
        event_type: &str,
        payload: &[u8],
        default_queue: i64,
        now_ms: u64,
    ) -> Vec<NewDelivery> {
        let Some(routes) = self.routes_by_event.get(event_type) else { return Vec::new() };
        let passing = routes.iter().filter(|route| route.filter.as_ref().is_none_or(|filter| passes(filter, payload)));
        passing
            .zip(event.0 + 1..)
            .map(|(route, id)| NewDelivery {
                id: DeliveryId(id),
                endpoint: route.endpoint,
                route: route.id,
                queue: route.queue.unwrap_or(default_queue),
                priority: route.priority,
                ordering: route.ordering.as_deref().map(|at| ordering_key(ring, at, payload)),
                place: self.place(route, now_ms),
            })
            .collect()
    }

    /// The deliveries of an event to these endpoints and to nobody else, and by which of them each is told. An endpoint
    /// with a route of the event's type is told by that (filter, delay and ordering do not count); one that has none by
    /// another endpoint of the same host that has one; else as it is. Left out are endpoints that are no longer
    /// configured, that reach nobody, and those beyond the 63 that an event can have.
    pub(crate) fn owed_to(
        &self,
        event: EventId,
        event_type: &str,
        endpoints: &[i64],
    ) -> (Vec<NewDelivery>, Vec<(i64, DeliveryId)>) {
        let routes = self.routes_by_event.get(event_type).map_or(&[][..], |routes| routes);
        let hosts = |endpoint: &Endpoint| {
            let config = self.config.endpoints.get(&*endpoint.name);
            config.map_or(&[][..], |config| &config.hosts)
        };
        let (mut deliveries, mut told): (Vec<NewDelivery>, Vec<_>) = (Vec::new(), Vec::new());
        for endpoint in endpoints.iter().filter_map(|id| self.endpoints.get(id)) {
            if endpoint.removed || !self.reaches_somebody(endpoint) {
                continue;
            }
            let own = routes.iter().find(|route| route.endpoint == endpoint.id);
            let same_host = |route: &&Arc<Route>| {
                let other = self.endpoints.get(&route.endpoint).map_or(&[][..], |other| hosts(other));
                other.iter().any(|host| hosts(endpoint).contains(host))
            };
            let route = own.or_else(|| routes.iter().find(same_host));
            let teller = route.and_then(|route| self.endpoints.get(&route.endpoint)).unwrap_or(endpoint);
            let known = deliveries.iter().find(|delivery| delivery.endpoint == teller.id).map(|delivery| delivery.id);
            let id = known.unwrap_or(DeliveryId(event.0 + 1 + deliveries.len() as i64));
            if id.0 >= event.0 + ID_STRIDE {
                break;
            }
            told.push((endpoint.id, id));
            if known.is_none() {
                deliveries.push(NewDelivery {
                    id,
                    endpoint: teller.id,
                    route: route.map_or(0, |route| route.id),
                    queue: route.and_then(|route| route.queue).unwrap_or(self.default_queue()),
                    priority: route.map_or(0, |route| route.priority),
                    ordering: None,
                    place: if teller.paused.is_some() { Place::Held } else { Place::Table },
                });
            }
        }
        (deliveries, told)
    }

    /// Whether an endpoint can hand on what it gets: over HTTP or by mail.
    pub(crate) fn reaches_somebody(&self, endpoint: &Endpoint) -> bool {
        let config = self.config.endpoints.get(&*endpoint.name);
        config.is_none_or(|config| !config.hosts.is_empty() || config.smtp.is_some())
    }

    fn place(&self, route: &Route, now_ms: u64) -> Place {
        let paused = self.endpoints.get(&route.endpoint).is_none_or(|endpoint| endpoint.paused.is_some());
        if route.delay_ms > 0 {
            Place::Delayed(now_ms + route.delay_ms)
        } else if paused {
            Place::Held
        } else if route.ordering.is_some() {
            Place::Table
        } else {
            Place::Memory
        }
    }

    /// Routes that are no longer configured are found as long as something is owed by them.
    pub(crate) fn route(&self, id: i64) -> Option<&Arc<Route>> {
        self.routes.get(&id)
    }

    pub(crate) fn endpoint_named(&self, name: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.values().find(|endpoint| &*endpoint.name == name)
    }

    pub(crate) fn endpoint_name(&self, id: i64) -> &str {
        self.endpoints.get(&id).map_or("(unknown)", |endpoint| &endpoint.name)
    }

    /// The queue of events that nobody assigned to one.
    pub(crate) fn default_queue(&self) -> i64 {
        self.queues.get("integrations").map_or(0, |(id, _)| *id)
    }
}

fn read<T: serde::de::DeserializeOwned>(json: &str, kind: &str, name: &str, problems: &mut Vec<String>) -> Option<T> {
    serde_json::from_str(json).map_err(|error| problems.push(format!("{kind} {name:?}: {error}"))).ok()
}

fn setting_hosts(settings: &serde_json::Map<String, serde_json::Value>) -> HashMap<String, String> {
    let host = |value: &serde_json::Value| Some(url::Url::parse(value.as_str()?).ok()?.host_str()?.to_owned());
    settings.iter().filter_map(|(key, value)| Some((key.clone(), host(value)?))).collect()
}

fn prepare_smtp(smtp: &config::Smtp, policy: &Policy, vault: &Vault) -> Result<Smtp, String> {
    let value = |secret: &SecretRef| {
        vault.value(secret).map(|value| value.to_vec()).map_err(|problem| format!("smtp: {problem}"))
    };
    let credentials = match (&smtp.username, &smtp.password) {
        (Some(username), Some(password)) => Some((value(username)?, value(password)?)),
        _ => None,
    };
    Smtp::new(smtp, policy, credentials)
}

pub(crate) fn passes(filter: &Filter, payload: &[u8]) -> bool {
    let found = pointer(payload, &filter.pointer);
    match &filter.equals {
        Some(wanted) => found.as_ref() == Some(wanted),
        None => !matches!(found, None | Some(serde_json::Value::Null)) && found != Some("".into()),
    }
}

/// Events without a value at the pointer are one lane of their own. Keyed, because the column is in clear and what orders
/// is often a phone number.
fn ordering_key(ring: &Keyring, at: &str, payload: &[u8]) -> i64 {
    let value = pointer(payload, at).map(|value| value.to_string()).unwrap_or_default();
    let index = ring.index("ordering", &[at.as_bytes(), value.as_bytes()]);
    let mut first = [0; 8];
    first.copy_from_slice(&index[..8]);
    i64::from_be_bytes(first)
}

/// Where everybody finds the snapshot in force.
pub(crate) struct Current {
    snapshot: RwLock<Arc<Catalog>>,
    /// Held from reading the rows to [`Current::set`], so that no older reading replaces a newer one.
    pub(crate) reading: tokio::sync::Mutex<()>,
    /// Held from comparing with what is in force to having changed it, so that what is told about to be replaced is
    /// what is replaced.
    pub(crate) editing: tokio::sync::Mutex<()>,
}

impl Current {
    pub(crate) fn new(catalog: Catalog) -> Current {
        Current {
            snapshot: RwLock::new(Arc::new(catalog)),
            reading: tokio::sync::Mutex::default(),
            editing: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn get(&self) -> Arc<Catalog> {
        self.snapshot.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    pub(crate) fn set(&self, catalog: Catalog) {
        let mut snapshot = self.snapshot.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (source, proof) in &catalog.proofs {
            if let Some(before) = snapshot.proofs.get(source) {
                proof.remember(before);
            }
        }
        *snapshot = Arc::new(catalog);
    }
}

/// What has to change so that the catalog matches `wanted`, for the store and for people.
pub(crate) fn difference(current: &Config, rows: &CatalogRows, wanted: &Config) -> (Change, Vec<Line>) {
    let mut change = Change::default();
    let mut lines = Vec::new();
    diff_map(
        "source",
        &current.sources,
        &wanted.sources,
        &mut change.put_sources,
        &mut change.drop_sources,
        &mut lines,
    );
    let (put, drop) = (&mut change.put_sources, &mut change.drop_sources);
    diff_map("limits", &limits_row(current), &limits_row(wanted), put, drop, &mut lines);
    diff_map("retention", &retention_row(current), &retention_row(wanted), put, drop, &mut lines);
    diff_map("queue", &current.queues, &wanted.queues, &mut change.put_queues, &mut change.drop_queues, &mut lines);
    let (put, drop) = (&mut change.put_endpoints, &mut change.drop_endpoints);
    diff_map("endpoint", &current.endpoints, &wanted.endpoints, put, drop, &mut lines);
    let (put, drop) = (&mut change.put_mappings, &mut change.drop_mappings);
    diff_map("mapping", &current.mappings, &wanted.mappings, put, drop, &mut lines);
    let (put, drop) = (&mut change.put_schedules, &mut change.drop_schedules);
    diff_map("schedule", &current.schedules, &wanted.schedules, put, drop, &mut lines);
    let (put, drop) = (&mut change.put_sync_jobs, &mut change.drop_sync_jobs);
    diff_map("sync job", &current.sync_jobs, &wanted.sync_jobs, put, drop, &mut lines);
    say_what_is_overwritten(&rows.mappings, &mut lines);

    // Routes have no names: one that is written the same is the same.
    let mut kept: Vec<(i64, config::Route)> = rows
        .routes
        .iter()
        .filter(|row| !row.removed)
        .filter_map(|row| Some((row.id, serde_json::from_str(&row.config).ok()?)))
        .collect();
    for route in &wanted.routes {
        if let Some(at) = kept.iter().position(|(_, known)| known == route) {
            kept.swap_remove(at);
            continue;
        }
        lines.push(Line { action: "create", kind: "route", name: route_name(route), detail: String::new() });
        change.add_routes.push((route.event.clone(), route.endpoint.clone(), json(route)));
    }
    for (id, route) in kept {
        lines.push(Line { action: "delete", kind: "route", name: route_name(&route), detail: String::new() });
        change.drop_routes.push(id);
    }
    (change, lines)
}

/// What stands in the table beside the sources, if anything.
pub(crate) fn limits_row(config: &Config) -> BTreeMap<String, config::Limits> {
    let limits = (!config.limits.is_empty()).then(|| (LIMITS.to_owned(), config.limits.clone()));
    limits.into_iter().collect()
}

pub(crate) fn retention_row(config: &Config) -> BTreeMap<String, config::Retention> {
    let retention = (!config.retention.is_empty()).then(|| (RETENTION.to_owned(), config.retention.clone()));
    retention.into_iter().collect()
}

use crate::store::rows::CatalogChange as Change;

/// One difference, for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Line {
    pub(crate) action: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    /// Which keys are other than before.
    pub(crate) detail: String,
}

impl Line {
    /// What is other than before, without how: `update endpoint crm`.
    pub(crate) fn named(&self) -> String {
        format!("{} {} {}", self.action, self.kind, self.name)
    }
}

/// Somebody's edit over the API does not vanish without a word.
fn say_what_is_overwritten(mappings: &[MappingRow], lines: &mut [Line]) {
    for line in lines.iter_mut().filter(|line| line.kind == "mapping") {
        let Some(row) = mappings.iter().find(|row| row.name == line.name && row.activated_by == Origin::Api) else {
            continue;
        };
        let verb = if line.action == "delete" { "takes out of force" } else { "replaces" };
        let how = if row.origin == Origin::Api { "edited" } else { "put in force" };
        let separator = if line.detail.is_empty() { "" } else { "; " };
        let version = row.version;
        line.detail.push_str(&format!("{separator}{verb} version {version}, which was {how} over the API"));
    }
}

fn route_name(route: &config::Route) -> String {
    format!("{} → {}", route.event, route.endpoint)
}

fn diff_map<T: serde::Serialize + PartialEq>(
    kind: &'static str,
    current: &BTreeMap<String, T>,
    wanted: &BTreeMap<String, T>,
    put: &mut Vec<(String, String)>,
    drop: &mut Vec<String>,
    lines: &mut Vec<Line>,
) {
    for (name, value) in wanted {
        let known = current.get(name);
        if known == Some(value) {
            continue;
        }
        put.push((name.clone(), json(value)));
        let action = if known.is_some() { "update" } else { "create" };
        let detail = known.map(|known| changed_keys(known, value)).unwrap_or_default();
        lines.push(Line { action, kind, name: name.clone(), detail });
    }
    for name in current.keys().filter(|name| !wanted.contains_key(*name)) {
        drop.push(name.clone());
        lines.push(Line { action: "delete", kind, name: name.clone(), detail: String::new() });
    }
}

/// The names only: a value may be what nobody should read.
fn changed_keys<T: serde::Serialize>(old: &T, new: &T) -> String {
    let (Ok(serde_json::Value::Object(old)), Ok(serde_json::Value::Object(new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return String::new();
    };
    let mut keys: Vec<&str> = old.keys().chain(new.keys()).map(String::as_str).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.retain(|key| old.get(*key) != new.get(*key));
    keys.join(", ")
}

/// The configuration's types have only string keys and finite numbers, so they always serialise.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
