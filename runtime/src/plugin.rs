//! The plugin host: components by name, each call in a fresh instance, bounded in time, memory and output.

pub(crate) mod engine;
pub(crate) mod manifest;
pub(crate) mod state;
pub(crate) mod v1;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::Semaphore;
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Store, Trap, UpdateDeadline};

use crate::catalog::{Endpoint, Mapping};
use crate::clock::Clock;
use crate::delivery::Delivery;
use crate::outbound::Outbound;
use crate::redact::Size;
use engine::{Cache, TICK, Ticker};
use manifest::{Kind, Manifest};
use state::{Declared, Lent, State};
use v1::bindings::{connector, mapping, types};

pub(crate) use types::{Detail, Emitted, Event, Failure, Mapped, Receipt};

/// Bytes that a guest may hand to the host in one call: payloads, requests, log lines, results.
const HOSTCALL_BYTES: usize = 24 << 20;
/// Bytes of a mapped payload.
pub(crate) const MAX_PAYLOAD: usize = 4 << 20;
/// CPU time of a connector's call; waiting for the target costs none of it.
const CONNECTOR_CPU: Duration = Duration::from_millis(1000);
/// A guest that computes for longer than this rests after each further tick, so that the others find a free thread.
const BURST: Duration = Duration::from_millis(50);
const REST: Duration = Duration::from_millis(15);
/// A mapping that takes longer than this leaves the thread of the others.
const INLINE_TICKS: u64 = 2;
/// Long mappings at the same time.
const SLOW_MAPPINGS: usize = 2;

/// One version of a component, ready to run. Whoever holds it can finish on it, whatever is activated meanwhile.
pub(crate) struct Version {
    /// connector_versions.id
    pub(crate) id: i64,
    pub(crate) manifest: Manifest,
    declared: Arc<Declared>,
    run: Run,
}

enum Run {
    Connector(connector::ConnectorPre<State>),
    Mapping(mapping::MappingPre<State>),
}

/// Why a call brought no result; in the guest's words where it had some.
pub(crate) enum Fault {
    /// The guest's code ended by itself: a panic, an unreachable, a bad access.
    Trapped(String),
    TimedOut(String),
    OutOfMemory(String),
    TooLarge(String),
    /// The component is not of the kind that was asked for, or could not be started.
    Refused(String),
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, said) = match self {
            Fault::Trapped(said) => ("Trapped", said),
            Fault::TimedOut(said) => ("TimedOut", said),
            Fault::OutOfMemory(said) => ("OutOfMemory", said),
            Fault::TooLarge(said) => ("TooLarge", said),
            Fault::Refused(said) => ("Refused", said),
        };
        f.debug_tuple(name).field(&Size(said.len())).finish()
    }
}

/// A result, or why there is none, and what the guest logged on the way.
pub(crate) struct Called<T> {
    pub(crate) result: Result<T, Fault>,
    pub(crate) log: Option<String>,
    /// Whether a target may have done what it was asked for, whatever the result.
    pub(crate) taken: bool,
}

pub(crate) struct Plugins {
    engine: Engine,
    ticker: Ticker,
    cache: Cache,
    connectors: Linker<State>,
    mappings: Linker<State>,
    active: DashMap<String, Arc<Version>>,
    outbound: Arc<Outbound>,
    clock: Clock,
    /// Below the pool's size, so that a full pool is a wait and not an error.
    places: Semaphore,
    slow: Arc<Semaphore>,
}

impl Plugins {
    pub(crate) fn open(cache: PathBuf, compiler: PathBuf, outbound: Outbound, clock: Clock) -> anyhow::Result<Plugins> {
        let (engine, _) = engine::serving()?;
        let mut connectors = Linker::new(&engine);
        connector::Connector::add_to_linker::<_, HasSelf<_>>(&mut connectors, |state| state)?;
        let mut mappings = Linker::new(&engine);
        mapping::Mapping::add_to_linker::<_, HasSelf<_>>(&mut mappings, |state| state)?;
        Ok(Plugins {
            ticker: Ticker::start(&engine)?,
            cache: Cache::open(cache, compiler, engine.clone())?,
            engine,
            connectors,
            mappings,
            active: DashMap::new(),
            outbound: Arc::new(outbound),
            clock,
            places: Semaphore::new(engine::INSTANCES as usize),
            slow: Arc::new(Semaphore::new(SLOW_MAPPINGS)),
        })
    }

    /// Compiles, links and starts a component once, without running any of its functions. What cannot be started is
    /// refused here, before anybody depends on it.
    pub(crate) async fn prepare(&self, manifest: &Manifest, digest: &str, wasm: &[u8]) -> Result<Prepared, String> {
        let component = self.cache.component(digest, wasm).await?;
        let run = match manifest.kind {
            Kind::Connector => {
                self.link(&self.connectors, &component).and_then(connector::ConnectorPre::new).map(Run::Connector)
            }
            Kind::Mapping => self.link(&self.mappings, &component).and_then(mapping::MappingPre::new).map(Run::Mapping),
        }
        .map_err(|error| format!("it does not link: {error:#}"))?;
        let mut store = self.store(State::new((CONNECTOR_CPU.as_millis() / TICK.as_millis()) as u32, None));
        let _running = self.ticker.run();
        let started = match &run {
            Run::Connector(pre) => {
                yielding(&mut store);
                pre.instantiate_async(&mut store).await.map(drop)
            }
            Run::Mapping(pre) => {
                store.set_epoch_deadline(ticks(CONNECTOR_CPU).into());
                pre.instantiate(&mut store).map(drop)
            }
        };
        match started {
            Ok(()) => Ok(Prepared { run }),
            Err(error) => {
                let (fault, _) = explain(error, store.into_data(), CONNECTOR_CPU);
                Err(format!("it does not start: {fault}"))
            }
        }
    }

    fn link(
        &self,
        linker: &Linker<State>,
        component: &Component,
    ) -> wasmtime::Result<wasmtime::component::InstancePre<State>> {
        linker.instantiate_pre(component)
    }

    /// From now on calls by this name run this version.
    pub(crate) fn activate(&self, id: i64, manifest: Manifest, prepared: Prepared) {
        let name = manifest.name.clone();
        let declared = Arc::new(Declared { hosts: manifest.hosts.clone(), secrets: manifest.secrets.clone() });
        let version = Arc::new(Version { id, manifest, declared, run: prepared.run });
        self.active.insert(name, version);
    }

    pub(crate) fn active(&self, name: &str) -> Option<Arc<Version>> {
        self.active.get(name).map(|version| version.clone())
    }

    /// The version that runs of each name.
    pub(crate) fn running(&self) -> BTreeMap<String, i64> {
        self.active.iter().map(|version| (version.key().clone(), version.id)).collect()
    }

    fn store(&self, state: State) -> Store<State> {
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        store
    }

    /// Runs a mapping. Short ones run right here; one that passes its first ticks is begun anew on a thread of its own,
    /// which its purity allows, so that a loop in one mapping costs the others a few milliseconds and no more.
    pub(crate) async fn map(
        self: &Arc<Self>,
        version: &Arc<Version>,
        mapping: &Arc<Mapping>,
        event: &Event,
        payload: &Bytes,
    ) -> Called<Result<Mapped, Detail>> {
        let Ok(_place) = self.places.acquire().await else { return Called::refused("the hub is shutting down") };
        let deadline = Duration::from_millis(mapping.deadline_ms);
        let first = self.map_here(version, mapping, event, payload, INLINE_TICKS.min(ticks(deadline).into()), deadline);
        if !matches!(first.result, Err(Fault::TimedOut(_))) || u64::from(ticks(deadline)) <= INLINE_TICKS {
            return first;
        }
        let Ok(slow) = self.slow.clone().acquire_owned().await else {
            return Called::refused("the hub is shutting down");
        };
        let (plugins, version, mapping) = (self.clone(), version.clone(), mapping.clone());
        let (event, payload) = (event.clone(), payload.clone());
        let again = tokio::task::spawn_blocking(move || {
            let _slow = slow;
            plugins.map_here(&version, &mapping, &event, &payload, ticks(deadline).into(), deadline)
        });
        again.await.unwrap_or_else(|error| Called::refused(&format!("the mapping's thread ended: {error}")))
    }

    fn map_here(
        &self,
        version: &Version,
        mapping: &Mapping,
        event: &Event,
        payload: &[u8],
        ticks: u64,
        deadline: Duration,
    ) -> Called<Result<Mapped, Detail>> {
        let Run::Mapping(pre) = &version.run else {
            return Called::refused(&format!("{} is a connector, not a mapping", version.manifest.name));
        };
        let _running = self.ticker.run();
        let mut store = self.store(State::new(0, None));
        store.set_epoch_deadline(ticks);
        let result =
            pre.instantiate(&mut store).and_then(|guest| guest.call_map(&mut store, event, payload, &mapping.settings));
        finish(result, store, deadline)
    }

    /// Runs a connector with what the endpoint grants.
    pub(crate) async fn handle(
        &self,
        version: &Version,
        endpoint: &Arc<Endpoint>,
        event: &Event,
        payload: &[u8],
    ) -> Called<Result<Receipt, Failure>> {
        let Run::Connector(pre) = &version.run else {
            return Called::refused(&format!("{} is a mapping, not a connector", version.manifest.name));
        };
        let Ok(_place) = self.places.acquire().await else { return Called::refused("the hub is shutting down") };
        let _running = self.ticker.run();
        let deadline = Duration::from_millis(endpoint.deadline_ms);
        let lent = Lent {
            outbound: self.outbound.clone(),
            endpoint: endpoint.clone(),
            declared: version.declared.clone(),
            clock: self.clock.clone(),
            deadline: tokio::time::Instant::now() + deadline,
            placeholders: Vec::new(),
            requests: 0,
            delivery: event.delivery_id.clone(),
            mails: 0,
        };
        let mut store = self.store(State::new(ticks(CONNECTOR_CPU), Some(lent)));
        yielding(&mut store);
        let call = async {
            let guest = pre.instantiate_async(&mut store).await?;
            guest.call_handle(&mut store, event, payload, &endpoint.settings).await
        };
        match tokio::time::timeout(deadline, call).await {
            Ok(result) => finish(result, store, CONNECTOR_CPU),
            Err(_) => {
                let state = store.into_data();
                let message = format!("no result within {} ms", deadline.as_millis());
                Called { result: Err(Fault::TimedOut(message)), taken: state.taken, log: state.log.into_text() }
            }
        }
    }
}

/// Compiled, linked and started once.
pub(crate) struct Prepared {
    run: Run,
}

impl<T> Called<T> {
    fn refused(why: &str) -> Called<T> {
        Called { result: Err(Fault::Refused(why.into())), log: None, taken: false }
    }
}

/// Gives the thread back at every tick, rests between the ticks of a guest that computes for long, and ends it when its
/// CPU time is spent.
fn yielding(store: &mut Store<State>) {
    store.epoch_deadline_callback(|mut context| {
        let state = context.data_mut();
        match state.ticks.checked_sub(1) {
            Some(left) => {
                state.ticks = left;
                let burnt = ticks(CONNECTOR_CPU) - left;
                Ok(if burnt <= ticks(BURST) {
                    UpdateDeadline::Yield(1)
                } else {
                    UpdateDeadline::YieldCustom(1, Box::pin(tokio::time::sleep(REST)))
                })
            }
            None => Ok(UpdateDeadline::Interrupt),
        }
    });
    store.set_epoch_deadline(1);
}

fn ticks(time: Duration) -> u32 {
    time.as_millis().div_ceil(TICK.as_millis()) as u32
}

/// What a guest is told about a delivery.
pub(crate) fn event(delivery: &Delivery) -> Event {
    let event = &delivery.event;
    Event {
        id: event.id.to_string(),
        event_type: event.event_type.to_string(),
        source: event.source.to_string(),
        delivery_id: delivery.id.to_string(),
        attempt: delivery.tries + 1,
        created_ms: event.created_ms,
        content_type: event.content_type.to_string(),
        headers: event.headers.clone(),
    }
}

fn finish<T>(result: wasmtime::Result<T>, store: Store<State>, cpu: Duration) -> Called<T> {
    let state = store.into_data();
    let taken = state.taken;
    match result {
        Ok(value) => Called { result: Ok(value), log: state.log.into_text(), taken },
        Err(error) => {
            let (fault, log) = explain(error, state, cpu);
            Called { result: Err(fault), log, taken }
        }
    }
}

/// Names what ended a guest.
fn explain(error: wasmtime::Error, state: State, cpu: Duration) -> (Fault, Option<String>) {
    let log = state.log.into_text();
    // wasmtime keeps the type of this error to itself, so its text is all there is; a test holds it in place.
    let spent = format!("{error:#}");
    let fault = if spent.contains("fuel allocated for hostcalls has been exhausted") {
        Fault::TooLarge(format!("the component handed over more than {HOSTCALL_BYTES} bytes in one call"))
    } else if state.limits.hit {
        Fault::OutOfMemory(format!("the component asked for more than {} MiB of memory", state::MAX_MEMORY >> 20))
    } else if let Some(panic) = state.panic {
        Fault::Trapped(panic)
    } else {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Fault::TimedOut(format!("used up its {} ms of CPU time", cpu.as_millis())),
            Some(Trap::StackOverflow) => Fault::Trapped("the stack overflowed: is there an endless recursion?".into()),
            Some(trap) => Fault::Trapped(trap.to_string()),
            None => Fault::Trapped(error.root_cause().to_string()),
        }
    };
    (fault, log)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Trapped(why)
            | Fault::TimedOut(why)
            | Fault::OutOfMemory(why)
            | Fault::TooLarge(why)
            | Fault::Refused(why) => f.write_str(why),
        }
    }
}
