//! The one wasmtime engine: its settings, its clock, and compiled code on disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::state::{MAX_MEMORY, MAX_TABLE};

/// Instances at the same time; calls beyond it wait.
pub(crate) const INSTANCES: u32 = 512;
/// One epoch: how long a guest runs before the host looks at it.
pub(crate) const TICK: Duration = Duration::from_millis(5);
/// A guest of the SDK has 64 KiB of stack, an arena of 128 KiB and its data, well within this. Memory up to here is
/// wiped by hand when an instance ends; beyond it the kernel has to be asked (madvise), which interrupts every core.
const KEEP_RESIDENT: usize = 512 << 10;

/// The settings that serving and compiling share: compiled code fits only an engine with the same.
fn shared() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(512 << 10)
        .async_stack_size(1 << 20);
    config
}

/// The engine that serves, and whether there was room for its instance pool.
pub(crate) fn serving() -> anyhow::Result<(Engine, bool)> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES)
        .total_core_instances(4 * INSTANCES)
        .total_memories(INSTANCES)
        .total_tables(2 * INSTANCES)
        .total_stacks(INSTANCES)
        .max_memory_size(MAX_MEMORY)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .table_elements(MAX_TABLE)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(64 << 10)
        .max_unused_warm_slots(INSTANCES);
    let mut config = shared();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    match Engine::new(&config) {
        Ok(engine) => Ok((engine, true)),
        Err(error) => {
            // Each slot reserves 4 GiB of addresses, which small machines and some containers refuse.
            tracing::warn!(%error, "no room for the instance pool: instances are made one by one, which is slower");
            Ok((Engine::new(&shared())?, false))
        }
    }
}

/// Advances the epoch while guests run, and sleeps while none does.
pub(crate) struct Ticker {
    running: Arc<AtomicUsize>,
    thread: std::thread::Thread,
}

/// As long as it lives, the epoch advances.
pub(crate) struct Running<'a>(&'a Ticker);

impl Ticker {
    pub(crate) fn start(engine: &Engine) -> anyhow::Result<Ticker> {
        let running = Arc::new(AtomicUsize::new(0));
        let (engine, seen) = (engine.weak(), Arc::downgrade(&running));
        let thread = std::thread::Builder::new().name("epoch".into()).spawn(move || tick(&engine, &seen))?;
        Ok(Ticker { running, thread: thread.thread().clone() })
    }

    pub(crate) fn run(&self) -> Running<'_> {
        if self.running.fetch_add(1, Ordering::SeqCst) == 0 {
            self.thread.unpark();
        }
        Running(self)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.thread.unpark();
    }
}

#[allow(clippy::disallowed_methods, reason = "a thread of its own, outside the runtime")]
fn tick(engine: &wasmtime::EngineWeak, running: &Weak<AtomicUsize>) {
    loop {
        let idle = match running.upgrade() {
            Some(running) => running.load(Ordering::SeqCst) == 0,
            None => return,
        };
        if idle {
            // Woken by the next run; woken for nothing, it looks again.
            std::thread::park_timeout(Duration::from_secs(60));
            continue;
        }
        std::thread::sleep(TICK);
        match engine.upgrade() {
            Some(engine) => engine.increment_epoch(),
            None => return,
        }
    }
}

/// Compiled components, one file per digest and engine, in a directory that only we write.
pub(crate) struct Cache {
    directory: PathBuf,
    /// The program that compiles: this one, as `tomada compile`.
    compiler: PathBuf,
    engine: Engine,
    fingerprint: String,
}

/// Wall time of one compilation.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(60);

impl Cache {
    pub(crate) fn open(directory: PathBuf, compiler: PathBuf, engine: Engine) -> anyhow::Result<Cache> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let fingerprint = format!("{:016x}", hasher.finish());
        Ok(Cache { directory, compiler, engine, fingerprint })
    }

    /// The compiled form of a component: from disk, else compiled now in a process of its own, because compiling is
    /// the one thing that wasmtime does not defend against hostile input.
    pub(crate) async fn component(&self, digest: &str, wasm: &[u8]) -> Result<Component, String> {
        let compiled = self.directory.join(format!("{digest}-{}.cwasm", self.fingerprint));
        // One that does not load was cut short by a crash, or written by another build: it is made anew.
        if compiled.exists()
            && let Ok(component) = load(&self.engine, &compiled)
        {
            return Ok(component);
        }
        self.compile(wasm, &compiled).await?;
        load(&self.engine, &compiled)
    }

    async fn compile(&self, wasm: &[u8], compiled: &Path) -> Result<(), String> {
        let unique = hex::encode(crate::clock::random_bytes::<8>());
        let source = self.directory.join(format!("{unique}.wasm"));
        let fresh = self.directory.join(format!("{unique}.tmp"));
        let result = async {
            tokio::fs::write(&source, wasm).await.map_err(|e| format!("{}: {e}", source.display()))?;
            let child = tokio::process::Command::new(&self.compiler)
                .arg("compile")
                .args([&source, &fresh])
                .env_clear()
                .stdin(std::process::Stdio::null())
                .kill_on_drop(true)
                .output();
            let output = tokio::time::timeout(COMPILE_TIMEOUT, child)
                .await
                .map_err(|_| format!("compiling took longer than {} s", COMPILE_TIMEOUT.as_secs()))?
                .map_err(|e| format!("the compiler {} did not start: {e}", self.compiler.display()))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                let said = said.trim().trim_start_matches("error: ");
                return Err(match output.status.code() {
                    Some(_) if !said.is_empty() => format!("it does not compile: {said}"),
                    _ => "compiling it needs more time or memory than it gets".into(),
                });
            }
            tokio::fs::rename(&fresh, compiled).await.map_err(|e| format!("{}: {e}", compiled.display()))
        }
        .await;
        for left in [&source, &fresh] {
            let _ = tokio::fs::remove_file(left).await;
        }
        result
    }
}

#[allow(unsafe_code, reason = "the one place where compiled code enters the process")]
fn load(engine: &Engine, compiled: &Path) -> Result<Component, String> {
    // SAFETY: the file was written by our own compiler into a directory that only this user can write, and is replaced
    // by renaming, never changed.
    unsafe { Component::deserialize_file(engine, compiled) }.map_err(|error| format!("{error:#}"))
}

/// CPU time and address space of the compiling process.
const COMPILE_CPU_S: u64 = 60;
const COMPILE_MEMORY: u64 = 4 << 30;

/// What the compiling process does: bounds itself, then compiles one file into another.
pub fn compile(source: &Path, compiled: &Path) -> anyhow::Result<()> {
    rlimit::setrlimit(rlimit::Resource::CPU, COMPILE_CPU_S, COMPILE_CPU_S)?;
    rlimit::setrlimit(rlimit::Resource::AS, COMPILE_MEMORY, COMPILE_MEMORY)?;
    rlimit::setrlimit(rlimit::Resource::CORE, 0, 0)?;
    let wasm = std::fs::read(source)?;
    let engine = Engine::new(&shared())?;
    std::fs::write(compiled, engine.precompile_component(&wasm)?)?;
    Ok(())
}

/// sha256 of a component, in hex: its name everywhere.
pub(crate) fn digest(wasm: &[u8]) -> String {
    hex::encode(Sha256::digest(wasm))
}
