//! `tomada connector build` and `tomada connector new`: from a Rust crate to a component that the hub takes.
//!
//! cargo compiles for wasm32-unknown-unknown, the `wit-component` library encodes, [`inspect`] checks what every
//! upload is checked for. Nothing but a Rust toolchain must be installed; [`Compiler`] finds one.

mod compiler;
mod scaffold;

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wit_component::ComponentEncoder;

use self::compiler::{Compiler, TARGET};
pub(crate) use self::scaffold::new;
use crate::plugin::manifest::{Inspected, Kind, inspect, short_name};

/// Our profile for guests. A workspace that lacks it gets the same by environment, see [`RELEASE`].
const PROFILE: &str = "component";

/// The profile `component` of this repository, said to cargo about `release`. Symbol names stay: they make the
/// difference between a backtrace and a riddle, and are not loaded into the guest's memory.
const RELEASE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
    ("CARGO_PROFILE_RELEASE_LTO", "true"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
];

/// What rustc is told beside the profile.
///
/// * The stack has 64 KiB instead of 1 MiB. A fresh instance costs what its memory costs: the hub keeps it resident
///   and wipes all of it after each delivery. (One that needs more stack traps, and the trap says so.)
/// * SIMD and bulk memory are always on in our engine.
///
/// There is no common `--initial-memory`. In wasmtime 48's pool a slot that another module takes over is mapped anew
/// for its data image anyhow (`MemoryImageSlot::instantiate`), so equal sizes would save one of three system calls
/// there, and every delivery would pay for wiping the padding. What saves all three is affinity: a freed slot goes to
/// the module that last had it as long as there are cold slots for the others.
const RUSTFLAGS: [&str; 2] = ["-Clink-arg=-zstack-size=65536", "-Ctarget-feature=+simd128,+bulk-memory"];

/// A component that was built and would be accepted by this hub. Displays as a few lines for a person.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) kind: Kind,
    pub(crate) path: PathBuf,
    /// Bytes.
    pub(crate) size: usize,
    /// Linear memory of a fresh instance, in bytes.
    pub(crate) initial_memory: u64,
    /// Full names of the interfaces that it imports.
    pub(crate) imports: Vec<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) secrets: Vec<String>,
    /// SHA-256 of the file, lower-case hex: the version's name in the hub.
    pub(crate) digest: String,
}

impl Report {
    fn new(component: &[u8], inspected: Inspected, path: PathBuf) -> Report {
        let Inspected { kind, manifest, imports, size, initial_memory_bytes } = inspected;
        Report {
            name: manifest.name,
            version: manifest.version,
            kind,
            path,
            size,
            initial_memory: initial_memory_bytes,
            imports,
            hosts: manifest.hosts,
            secrets: manifest.secrets,
            digest: hex::encode(Sha256::digest(component)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: &[String]| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
        // What is in `types` is nothing that one can call.
        let imports = self.imports.iter().map(|import| short_name(import).to_owned());
        let imports: Vec<_> = imports.filter(|import| import != "types").collect();
        let here = std::env::current_dir().unwrap_or_default();
        let path = self.path.strip_prefix(&here).unwrap_or(&self.path);
        writeln!(f, "{} {} {}", self.kind, self.name, self.version)?;
        writeln!(f, "  file     {}", path.display())?;
        writeln!(f, "  digest   {}", self.digest)?;
        writeln!(f, "  size     {} KiB, {} KiB of memory at start", kib(self.size as u64), kib(self.initial_memory))?;
        writeln!(f, "  imports  {}", list(&imports))?;
        if self.kind == Kind::Connector {
            writeln!(f, "  hosts    {}", list(&self.hosts))?;
            writeln!(f, "  secrets  {}", list(&self.secrets))?;
        }
        Ok(())
    }
}

fn kib(bytes: u64) -> u64 {
    bytes.div_ceil(1024)
}

/// Builds the crates at `paths` (directories, or their `Cargo.toml`) and writes each component as `NAME.wasm`, after
/// the name in its manifest, to `out` or else to `components` in its workspace's target directory.
///
/// cargo's own messages go to standard error as they come. Fails if one crate fails; nothing is written then.
///
/// Crates of one workspace are one call of cargo, so that what they share is compiled once. A digest depends on the
/// company in two cases: when the crates ask for different features of one dependency, since cargo unites them, and
/// when one is an rlib beside its cdylib, since cargo then compiles what they share for both.
pub(crate) fn build(paths: &[PathBuf], out: Option<&Path>) -> anyhow::Result<Vec<Report>> {
    ensure!(!paths.is_empty(), "no crate to build: name its directory");
    let mut workspaces: Vec<Workspace> = Vec::new();
    let mut wanted = Vec::new();
    for path in paths {
        let manifest = crate_manifest(path)?;
        let known = workspaces.iter().position(|workspace| workspace.package(&manifest).is_some());
        let index = match known {
            Some(index) => index,
            None => {
                workspaces.push(Workspace::around(&manifest)?);
                workspaces.len() - 1
            }
        };
        let package = workspaces[index].package(&manifest).with_context(|| {
            format!("{} is the root of a workspace and no crate: name one of its members", manifest.display())
        })?;
        ensure!(
            package.targets.iter().any(|target| target.crate_types.iter().any(|kind| kind == "cdylib")),
            "{} builds no cdylib: add `[lib]` with `crate-type = [\"cdylib\"]` to it",
            manifest.display(),
        );
        if !wanted.contains(&(index, package.clone())) {
            wanted.push((index, package.clone()));
        }
    }

    let mut modules = Vec::new();
    for (index, workspace) in workspaces.iter().enumerate() {
        let packages: Vec<_> = wanted.iter().filter(|(of, _)| *of == index).map(|(_, package)| package).collect();
        modules.extend(workspace.compile(&packages)?);
    }

    let mut built = Vec::new();
    for (index, package) in &wanted {
        let (_, module) = modules
            .iter()
            .find(|(id, _)| *id == package.id)
            .ok_or_else(|| anyhow!("cargo built no .wasm file from {}: is its cdylib a [lib]?", package.name))?;
        let component = encode(module).with_context(|| format!("cannot make a component of {}", package.name))?;
        let inspected = inspect(&component).with_context(|| format!("{} is not usable", package.name))?;
        let dir =
            out.map_or_else(|| workspaces[*index].metadata.target_directory.join("components"), Path::to_path_buf);
        let path = dir.join(format!("{}.wasm", inspected.manifest.name));
        built.push((Report::new(&component, inspected, path), component));
    }
    let mut names = HashSet::new();
    for (report, _) in &built {
        ensure!(names.insert(&report.path), "two of the crates are named {:?}: rename one", report.name);
    }
    for (report, component) in &built {
        write(&report.path, component)?;
    }
    Ok(built.into_iter().map(|(report, _)| report).collect())
}

/// The compiler that [`build`] would take here, in words.
///
/// # Errors
/// There is none; the error says what to install.
pub(crate) fn available() -> anyhow::Result<String> {
    Compiler::find(Path::new(".")).map(|compiler| compiler.describe())
}

/// Makes a component of a core module that was built with tomada-sdk, which left the world in a custom section.
fn encode(module: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
    let encoder = ComponentEncoder::default().validate(true).module(&bytes);
    encoder.and_then(|mut encoder| encoder.encode()).context(
        "the compiled module does not encode; if it names an import module like `env`, a dependency needs more than \
         a sandbox has: leave it out or switch off the feature that does",
    )
}

/// A reader that opens `path` meanwhile gets the old file or the new one, whole.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let new = path.with_extension("wasm.new");
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(&new, bytes))
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The canonical path of the `Cargo.toml` that `path` means.
fn crate_manifest(path: &Path) -> anyhow::Result<PathBuf> {
    let manifest = if path.is_dir() { path.join("Cargo.toml") } else { path.to_path_buf() };
    ensure!(
        manifest.file_name().is_some_and(|name| name == "Cargo.toml"),
        "{} is no crate: name a directory that has a Cargo.toml",
        path.display(),
    );
    manifest
        .canonicalize()
        .with_context(|| format!("there is no crate at {}: name a directory that has a Cargo.toml", path.display()))
}

/// A cargo workspace, which may be a single crate, and what compiles it.
struct Workspace {
    metadata: Metadata,
    compiler: Compiler,
}

/// What `cargo metadata` says of a workspace.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Clone, PartialEq, Eq, Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Clone, PartialEq, Eq, Deserialize)]
struct Target {
    crate_types: Vec<String>,
}

/// A line of `cargo build --message-format json`. Of all the reasons only artifacts matter here.
#[derive(Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Message {
    CompilerArtifact {
        package_id: String,
        filenames: Vec<PathBuf>,
    },
    #[serde(other)]
    Other,
}

impl Workspace {
    /// The workspace that the crate of this `Cargo.toml` belongs to.
    fn around(manifest: &Path) -> anyhow::Result<Workspace> {
        let dir = manifest.parent().unwrap_or(Path::new("/"));
        let compiler = Compiler::find(dir)?;
        let mut cargo = compiler.cargo(dir);
        cargo.args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"]).arg(manifest);
        let output = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
        ensure!(output.status.success(), "cargo cannot read {}: see its message above", manifest.display());
        let metadata = serde_json::from_slice(&output.stdout).context("cargo metadata printed something unexpected")?;
        Ok(Workspace { metadata, compiler })
    }

    fn package(&self, manifest: &Path) -> Option<&Package> {
        self.metadata.packages.iter().find(|package| package.manifest_path == manifest)
    }

    fn has_profile(&self) -> anyhow::Result<bool> {
        let path = self.metadata.workspace_root.join("Cargo.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let manifest: toml::Table = text.parse().with_context(|| format!("cannot parse {}", path.display()))?;
        Ok(manifest.get("profile").is_some_and(|profiles| profiles.get(PROFILE).is_some()))
    }

    /// Runs cargo once. Returns the core modules by package id.
    fn compile(&self, packages: &[&Package]) -> anyhow::Result<Vec<(String, PathBuf)>> {
        let root = &self.metadata.workspace_root;
        let mut cargo = self.compiler.cargo(root);
        cargo.args(["build", "--lib", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
        cargo.arg("--manifest-path").arg(root.join("Cargo.toml"));
        for package in packages {
            cargo.args(["--package", &package.id]);
        }
        if self.has_profile()? {
            cargo.args(["--profile", PROFILE]);
        } else {
            cargo.arg("--release").envs(RELEASE);
        }
        self.compiler.prepare(&mut cargo, RUSTFLAGS.map(str::to_owned), root);

        let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
        let mut modules = Vec::new();
        for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
            let line = line.context("cannot read what cargo says")?;
            // Build scripts may print to the same stream, so what is not a message is no error.
            if let Ok(Message::CompilerArtifact { package_id, filenames }) = serde_json::from_str(&line) {
                let wasm = filenames.into_iter().find(|name| name.extension().is_some_and(|it| it == "wasm"));
                modules.extend(wasm.map(|wasm| (package_id, wasm)));
            }
        }
        let status = child.wait().context("cannot wait for cargo")?;
        if !status.success() {
            let names = packages.iter().filter(|package| !modules.iter().any(|(id, _)| *id == package.id));
            let names: Vec<_> = names.map(|package| package.name.as_str()).collect();
            bail!("cargo did not build {} for {TARGET}: see its messages above", names.join(", "));
        }
        Ok(modules)
    }
}
