//! What a component says about itself, read and checked without running any of it.
//!
//! [`inspect`] is the gate that `tomada connector build` and every upload pass: a component that comes through it fits
//! one of our two worlds, imports nothing that its manifest does not declare, and says which hosts and secrets it
//! wants. Whether it compiles and instantiates is asked later, by the engine.

use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use wasmparser::{ComponentTypeRef, Encoding, Parser, Payload};
use wit_parser::{Resolve, SourceMap, WorldId, WorldItem, WorldKey};

/// Name of the custom section that holds the manifest. The SDK's macro writes it into the core module, where encoding
/// the component leaves it.
pub(crate) const SECTION: &str = "tomada:manifest";

/// The largest component that is taken, in bytes. A connector in Rust has 50 to 300 KiB; JavaScript and Python bring
/// their interpreter and need to be shrunk to fit.
pub(crate) const MAX_COMPONENT: usize = 16 << 20;

/// The largest manifest that is taken, in bytes: the settings schema is the only part that grows.
pub(crate) const MAX_MANIFEST: usize = 64 << 10;

/// The longest name of a connector or mapping, in bytes.
pub(crate) const MAX_NAME: usize = 64;

/// Imported by every component and granted to every component, so that no manifest declares them: lines for the
/// operator, and the nouns of the worlds, which have no functions.
const FREE_IMPORTS: [&str; 2] = ["log", "types"];

/// The two worlds of `tomada:hub`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Talks to one system.
    Connector,
    /// Turns one payload into another, and can do nothing else.
    Mapping,
}

impl Kind {
    /// The word that stands in WIT, manifests, SQL and the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Connector => "connector",
            Kind::Mapping => "mapping",
        }
    }

    fn other(self) -> Kind {
        match self {
            Kind::Connector => Kind::Mapping,
            Kind::Mapping => Kind::Connector,
        }
    }

    /// The function that a component of this kind exports.
    fn export(self) -> &'static str {
        match self {
            Kind::Connector => "handle",
            Kind::Mapping => "map",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The content of the section [`SECTION`], UTF-8 JSON. Keys that this hub does not know are left alone, so that a
/// component built with a newer SDK still loads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Version of the SDK that built the component.
    pub(crate) sdk: String,
    pub(crate) kind: Kind,
    /// Lower-case letters, digits and dashes, a letter first.
    pub(crate) name: String,
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) description: String,
    /// Where it wants to send requests: a host name, `*` (the operator decides), or `settings.<key>` (the host of the
    /// URL in that setting). The operator grants them, all or some.
    #[serde(default)]
    pub(crate) hosts: Vec<String>,
    /// Names of the secrets it asks for.
    #[serde(default)]
    pub(crate) secrets: Vec<String>,
    /// Interfaces of its world that it may import, by their short names, for instance `http`.
    #[serde(default)]
    pub(crate) imports: Vec<String>,
    /// Event types that it understands. Empty: any.
    #[serde(default)]
    pub(crate) events: Vec<String>,
    /// Event types that its receipts may emit.
    #[serde(default)]
    pub(crate) emits: Vec<String>,
    /// JSON Schema of the settings, when they are typed.
    #[serde(default)]
    pub(crate) settings: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What [`inspect`] found out about a component that it lets through.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Inspected {
    pub(crate) kind: Kind,
    pub(crate) manifest: Manifest,
    /// What the component really imports, with package and version, for instance `tomada:hub/http@1.0.0`.
    pub(crate) imports: Vec<String>,
    /// Bytes.
    pub(crate) size: usize,
    /// Linear memory of a fresh instance before it grows, in bytes, over all its core modules.
    pub(crate) initial_memory_bytes: u64,
}

/// Why a component is not taken. One sentence each: what is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "the component has {size} bytes and at most {MAX_COMPONENT} are taken: build it with the profile `component`, or leave dependencies out"
    )]
    TooLarge { size: usize },
    #[error(
        "this is a precompiled artefact (.cwasm or ELF), which could run anything: upload the .wasm component that it was made from"
    )]
    Precompiled,
    #[error("this is WebAssembly text, not a binary: encode it first, or run `tomada connector build`")]
    Text,
    #[error("this is a core module, not a component: run `tomada connector build`")]
    CoreModule,
    #[error(
        "this is not a WebAssembly component, its first bytes are {start:02x?}: run `tomada connector build` and upload the .wasm file that it names"
    )]
    NotWasm { start: Vec<u8> },
    #[error("the component is damaged ({reason}): build it again, or upload it again if it was cut short")]
    Malformed { reason: String },
    #[error("the component imports `{import}`, which world `{kind}` of {} does not offer (only {}): {}", WORLDS.package, WORLDS.offered(*kind), cure(*kind, import))]
    ForeignImport { import: String, kind: Kind },
    #[error("the component has no section `{SECTION}`{}: write its function with #[connector] or #[mapping] of tomada-sdk, which adds the section, or append a custom section of that name with the manifest as JSON", match fits { Some(kind) => format!(", although it fits world `{kind}`"), None => String::new() })]
    NoManifest { fits: Option<Kind> },
    #[error(
        "the component has {count} manifests and must have one: leave one #[connector] or #[mapping] in the crate, and depend on no other connector's crate"
    )]
    SeveralManifests { count: usize },
    #[error("the manifest in section `{SECTION}` is wrong, {reason}")]
    BadManifest { reason: String },
    #[error("the manifest says `{kind}`, but the component fits world `{other}` of {}: correct `kind`, or use #[{kind}]", WORLDS.package, other = kind.other())]
    WrongKind { kind: Kind },
    #[error("the component does not fit world `{kind}` of {}, which wants the export `{}` ({reason}): build it with a tomada-sdk of this hub's version", WORLDS.package, kind.export())]
    Unfit { kind: Kind, reason: String },
    #[error(
        "the component imports `{import}`, which its manifest does not declare: add \"{short}\" to `imports`, so that an operator sees it before granting it"
    )]
    Undeclared { import: String, short: String },
}

/// Reads and checks `component`. Nothing in it is run or compiled; time and memory are linear in its size.
pub(crate) fn inspect(component: &[u8]) -> Result<Inspected, Refusal> {
    let size = component.len();
    if size > MAX_COMPONENT {
        return Err(Refusal::TooLarge { size });
    }
    refuse_other_formats(component)?;
    let Sections { imports, manifests, initial_memory_bytes } = sections(component)?;
    let manifest = match manifests.as_slice() {
        [] => None,
        [one] => Some(parse_manifest(one)?),
        several => return Err(Refusal::SeveralManifests { count: several.len() }),
    };

    // Imports are compared by name first: the check against the world would refuse the same components, but in the
    // words of a validator. Without a manifest the wider world decides.
    let kind = manifest.as_ref().map_or(Kind::Connector, |m| m.kind);
    if let Some(import) = imports.iter().find(|import| !WORLDS.offers(kind, import)) {
        return Err(Refusal::ForeignImport { import: import.clone(), kind });
    }
    let Some(manifest) = manifest else {
        let fits = [Kind::Mapping, Kind::Connector].into_iter().find(|kind| WORLDS.fit(*kind, component).is_ok());
        return Err(Refusal::NoManifest { fits });
    };
    if let Err(reason) = WORLDS.fit(kind, component) {
        return Err(match WORLDS.fit(kind.other(), component) {
            Ok(()) => Refusal::WrongKind { kind },
            Err(_) => Refusal::Unfit { kind, reason },
        });
    }
    for import in &imports {
        let short = short_name(import);
        if !FREE_IMPORTS.contains(&short) && !manifest.imports.iter().any(|declared| declared == short) {
            return Err(Refusal::Undeclared { import: import.clone(), short: short.to_owned() });
        }
    }
    Ok(Inspected { kind, manifest, imports, size, initial_memory_bytes })
}

/// Whether `name` may name a connector or mapping: it becomes a file name, a path segment and a key in TOML.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.ends_with('-')
}

/// `http` of `tomada:hub/http@1.0.0`.
pub(crate) fn short_name(import: &str) -> &str {
    let path = import.split_once('@').map_or(import, |(path, _version)| path);
    path.rsplit_once('/').map_or(path, |(_package, interface)| interface)
}

fn refuse_other_formats(bytes: &[u8]) -> Result<(), Refusal> {
    if Parser::is_component(bytes) {
        return Ok(());
    }
    if Parser::is_core_wasm(bytes) {
        return Err(Refusal::CoreModule);
    }
    // wasmtime writes its precompiled code as an ELF file whatever the operating system.
    if bytes.starts_with(b"\x7fELF") {
        return Err(Refusal::Precompiled);
    }
    let text = bytes.trim_ascii_start();
    if text.starts_with(b"(component") || text.starts_with(b"(module") {
        return Err(Refusal::Text);
    }
    Err(Refusal::NotWasm { start: bytes[..bytes.len().min(8)].to_vec() })
}

/// What is read off the sections before anything is checked.
#[derive(Default)]
struct Sections<'a> {
    /// Of the outermost component: what is nested imports only what the outer one gives it.
    imports: Vec<String>,
    manifests: Vec<&'a [u8]>,
    initial_memory_bytes: u64,
}

fn sections(component: &[u8]) -> Result<Sections<'_>, Refusal> {
    let malformed = |err: wasmparser::BinaryReaderError| Refusal::Malformed { reason: err.to_string() };
    let mut found = Sections::default();
    let mut nesting = Vec::new();
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding, .. } => nesting.push(encoding),
            Payload::End(_) => {
                nesting.pop();
            }
            Payload::ComponentImportSection(imports) if nesting.len() == 1 => {
                for import in imports {
                    let import = import.map_err(malformed)?;
                    // The types that a world uses appear as imports of their own. They give nothing to the guest, and
                    // the check against the world compares them.
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        found.imports.push(import.name.name.to_owned());
                    }
                }
            }
            Payload::MemorySection(memories) if nesting.last() == Some(&Encoding::Module) => {
                for memory in memories {
                    let memory = memory.map_err(malformed)?;
                    let page = 1u64 << memory.page_size_log2.unwrap_or(16).min(16);
                    let bytes = memory.initial.saturating_mul(page);
                    found.initial_memory_bytes = found.initial_memory_bytes.saturating_add(bytes);
                }
            }
            Payload::CustomSection(section) if section.name() == SECTION => found.manifests.push(section.data()),
            _ => {}
        }
    }
    Ok(found)
}

fn parse_manifest(data: &[u8]) -> Result<Manifest, Refusal> {
    let bad = |reason: String| Refusal::BadManifest { reason };
    if data.len() > MAX_MANIFEST {
        return Err(bad(format!(
            "it has {} bytes and at most {MAX_MANIFEST} are taken: shorten the schema",
            data.len()
        )));
    }
    // The linker joins sections of one name, so two macros in a crate show as two values in a row.
    let mut values = serde_json::Deserializer::from_slice(data).into_iter::<Manifest>();
    let manifest = match values.next() {
        Some(Ok(manifest)) => manifest,
        Some(Err(err)) => return Err(bad(format!("it is not the JSON that was expected: {err}"))),
        None => return Err(bad("it is empty: write the manifest as JSON".to_owned())),
    };
    let more = values.count();
    if more > 0 {
        return Err(Refusal::SeveralManifests { count: 1 + more });
    }
    check_manifest(&manifest).map_err(bad)?;
    Ok(manifest)
}

fn check_manifest(manifest: &Manifest) -> Result<(), String> {
    let Manifest { kind, name, version, hosts, secrets, imports, .. } = manifest;
    if !is_name(name) {
        return Err(format!(
            "`name` is {name:?}: use up to {MAX_NAME} lower-case letters, digits and dashes, a letter first"
        ));
    }
    if version.is_empty() || version.len() > 64 || version.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("`version` is {version:?}: give one like 0.1.0"));
    }
    if let Some(host) = hosts.iter().find(|host| !is_host(host)) {
        return Err(format!(
            "`hosts` has {host:?}: give a host name in lower case like api.example.com without scheme, port or path, `*`, or `settings.<key>`"
        ));
    }
    if let Some(secret) = secrets.iter().find(|secret| !is_key(secret)) {
        return Err(format!("`secrets` has {secret:?}: use letters, digits, `_` and `-`"));
    }
    if let Some(import) = imports.iter().find(|import| !WORLDS.declares(*kind, import)) {
        return Err(format!("`imports` has {import:?}: world `{kind}` offers {}", WORLDS.offered(*kind)));
    }
    if *kind == Kind::Mapping && !(hosts.is_empty() && secrets.is_empty()) {
        return Err("a mapping has no `hosts` and no `secrets`: remove them, or make it a connector".to_owned());
    }
    Ok(())
}

fn is_host(host: &str) -> bool {
    if let Some(key) = host.strip_prefix("settings.") {
        return is_key(key);
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    host == "*" || (host.len() <= 253 && host.split('.').all(label))
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.len() <= MAX_NAME && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Our WIT, parsed once from the files that this binary was built with.
struct Worlds {
    resolve: Resolve,
    /// `tomada:hub@1.0.0`.
    package: String,
    connector: WorldId,
    mapping: WorldId,
}

static WORLDS: LazyLock<Worlds> =
    LazyLock::new(|| Worlds::parse().expect("the embedded WIT is part of the program and parses"));

impl Worlds {
    fn parse() -> anyhow::Result<Worlds> {
        let mut files = SourceMap::new();
        files.push_str("types.wit", include_str!("../../../wit/types.wit"));
        files.push_str("host.wit", include_str!("../../../wit/host.wit"));
        files.push_str("mail.wit", include_str!("../../../wit/mail.wit"));
        files.push_str("world.wit", include_str!("../../../wit/world.wit"));
        let group = files.parse().map_err(|(_, err)| anyhow::anyhow!("{err:?}"))?;
        let mut resolve = Resolve::default();
        let package = resolve.push_group(group)?;
        let connector = resolve.select_world(&[package], Some("connector"))?;
        let mapping = resolve.select_world(&[package], Some("mapping"))?;
        // Bindings of both worlds live in one SDK, so a component of one may also name the types that the other uses.
        // They are nouns of the same package and give it nothing.
        for (from, to) in [(connector, mapping), (mapping, connector)] {
            let types: Vec<_> =
                resolve.worlds[from].imports.iter().map(|(key, item)| (key.clone(), item.clone())).collect();
            let types = types.into_iter().filter(|(_, item)| matches!(item, WorldItem::Type { .. }));
            for (key, item) in types {
                resolve.worlds[to].imports.entry(key).or_insert(item);
            }
        }
        Ok(Worlds { connector, mapping, package: resolve.packages[package].name.to_string(), resolve })
    }

    fn world(&self, kind: Kind) -> WorldId {
        match kind {
            Kind::Connector => self.connector,
            Kind::Mapping => self.mapping,
        }
    }

    /// Full names of the interfaces that the world offers, in the order of the WIT.
    fn interfaces(&self, kind: Kind) -> impl Iterator<Item = String> + '_ {
        let imports = self.resolve.worlds[self.world(kind)].imports.keys();
        // What a world `use`s stands among its imports too, as the bare name of a type.
        imports.filter_map(|key| match key {
            WorldKey::Interface(_) => Some(self.resolve.name_world_key(key)),
            WorldKey::Name(_) => None,
        })
    }

    fn offers(&self, kind: Kind, import: &str) -> bool {
        self.interfaces(kind).any(|interface| interface == import)
    }

    fn declares(&self, kind: Kind, short: &str) -> bool {
        self.interfaces(kind).any(|interface| short_name(&interface) == short)
    }

    /// The short names, for messages.
    fn offered(&self, kind: Kind) -> String {
        let names: Vec<_> = self.interfaces(kind).map(|interface| short_name(&interface).to_owned()).collect();
        names.join(", ")
    }

    /// Validates the component and checks every type of its imports and exports against the world.
    fn fit(&self, kind: Kind, component: &[u8]) -> Result<(), String> {
        wit_component::targets(&self.resolve, self.world(kind), component).map_err(|err| {
            let reason = err.root_cause().to_string();
            // The offset is one in a wrapper that is made for the check only.
            let reason = reason.split(" (at offset").next().unwrap_or(&reason);
            reason.replace('\n', " ")
        })
    }
}

/// What to do about an import that the world does not offer.
fn cure(kind: Kind, import: &str) -> &'static str {
    if import.starts_with("wasi:") {
        "build it for wasm32-unknown-unknown with `tomada connector build`"
    } else if kind == Kind::Mapping && WORLDS.offers(Kind::Connector, import) {
        "leave the call out, or make it a connector"
    } else if WORLDS.declares(kind, short_name(import)) {
        "build it with a tomada-sdk of this hub's version"
    } else {
        "leave the dependency that brings it out"
    }
}

#[cfg(test)]
mod tests {
    use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

    use super::*;

    const LOG: &str = r#"(import "tomada:hub/log@1.0.0" "write" (func (param i32 i32 i32)))"#;
    const HTTP: &str =
        r#"(import "tomada:hub/http@1.0.0" "send" (func (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))"#;
    const MAIL: &str = r#"(import "tomada:hub/mail@1.0.0" "send"
        (func (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))"#;
    const CLOCK: &str = r#"(import "tomada:hub/clock@1.0.0" "now-ms" (func (result i64)))"#;

    const CONNECTOR: &str = r#"{"sdk":"0.1.0","kind":"connector","name":"crm","version":"0.1.0",
        "hosts":["settings.base_url","api.z-api.io","*"],"secrets":["api_key"],"imports":["http"]}"#;
    const MAPPING: &str = r#"{"sdk":"0.1.0","kind":"mapping","name":"lead","version":"0.1.0"}"#;

    /// A component of the world, in the canonical ABI by hand: `imports` are core imports, `manifests` go as custom
    /// sections into the core module.
    fn component(kind: Kind, imports: &[&str], manifests: &[&str]) -> Vec<u8> {
        let sections: String = manifests.iter().map(|json| format!("(@custom {SECTION:?} {json:?})")).collect();
        let text = format!(
            r#"(module {} (memory (export "memory") 3)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
                (func (export {:?}) (param i32) (result i32) unreachable)
                {sections})"#,
            imports.concat(),
            kind.export(),
        );
        let mut module = wat::parse_str(text).unwrap();
        embed_component_metadata(&mut module, &WORLDS.resolve, WORLDS.world(kind), StringEncoding::UTF8).unwrap();
        ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
    }

    fn refused(component: &[u8]) -> String {
        let refusal = inspect(component).unwrap_err().to_string();
        assert!(!refusal.contains('\n'), "one sentence: {refusal}");
        refusal
    }

    #[test]
    fn a_connector_and_a_mapping_pass() {
        let bytes = component(Kind::Connector, &[LOG, HTTP], &[CONNECTOR]);
        let found = inspect(&bytes).unwrap();
        assert_eq!(found.kind, Kind::Connector);
        assert_eq!(found.manifest.name, "crm");
        assert_eq!(found.manifest.secrets, ["api_key"]);
        assert_eq!(found.size, bytes.len());
        assert_eq!(found.initial_memory_bytes, 3 << 16);
        let mut imports = found.imports;
        imports.sort();
        assert_eq!(imports, ["tomada:hub/http@1.0.0", "tomada:hub/log@1.0.0", "tomada:hub/types@1.0.0"]);

        let found = inspect(&component(Kind::Mapping, &[LOG], &[MAPPING])).unwrap();
        assert_eq!((found.kind, found.manifest.name.as_str()), (Kind::Mapping, "lead"));
    }

    #[test]
    fn keys_of_a_newer_sdk_are_left_alone() {
        let newer = MAPPING.replace("\"sdk\"", "\"pool\":3,\"sdk\"");
        assert!(inspect(&component(Kind::Mapping, &[], &[&newer])).is_ok());
    }

    #[test]
    fn what_is_no_component_is_named() {
        let module = wat::parse_str("(module)").unwrap();
        assert_eq!(inspect(&module), Err(Refusal::CoreModule));
        assert_eq!(inspect(b"\x7fELF\x02\x01\x01\xc8"), Err(Refusal::Precompiled));
        assert_eq!(inspect(b"\n  (component)"), Err(Refusal::Text));
        assert!(refused(b"PK\x03\x04").contains("first bytes are [50, 4b, 03, 04]"));
        assert!(matches!(inspect(b""), Err(Refusal::NotWasm { .. })));
        assert!(matches!(inspect(&vec![0; MAX_COMPONENT + 1]), Err(Refusal::TooLarge { .. })));
    }

    #[test]
    fn a_component_that_was_cut_short_is_refused() {
        let whole = component(Kind::Mapping, &[LOG], &[MAPPING]);
        // Behind the last export, in the second half, stand only names: a component without them is as good.
        for end in 8..whole.len() / 2 {
            assert!(inspect(&whole[..end]).is_err(), "the first {end} bytes of {}", whole.len());
        }
        assert!(refused(&whole[..whole.len() - 1]).contains("damaged"));
    }

    #[test]
    fn the_manifest_must_be_there_once_and_right() {
        assert_eq!(
            inspect(&component(Kind::Connector, &[HTTP], &[])),
            Err(Refusal::NoManifest { fits: Some(Kind::Connector) })
        );
        assert_eq!(
            inspect(&component(Kind::Mapping, &[], &[])),
            Err(Refusal::NoManifest { fits: Some(Kind::Mapping) })
        );
        assert_eq!(inspect(&wat::parse_str("(component)").unwrap()), Err(Refusal::NoManifest { fits: None }));
        let twice = Err(Refusal::SeveralManifests { count: 2 });
        assert_eq!(inspect(&component(Kind::Mapping, &[], &[MAPPING, MAPPING])), twice);
        assert_eq!(inspect(&component(Kind::Mapping, &[], &[&format!("{MAPPING}{MAPPING}")])), twice);

        for (right, wrong, said) in [
            ("\"lead\"", "\"../lead\"", "`name` is \"../lead\""),
            ("\"lead\"", "\"Lead\"", "`name` is \"Lead\""),
            ("\"version\":\"0.1.0\"", "\"version\":\"\"", "`version` is \"\""),
            ("\"kind\":\"mapping\"", "\"kind\":\"plugin\"", "unknown variant `plugin`"),
            ("\"kind\":\"mapping\",", "", "missing field `kind`"),
            ("\"sdk\"", "\"hosts\":[\"a.example\"],\"sdk\"", "a mapping has no `hosts`"),
            ("\"sdk\"", "\"imports\":[\"http\"],\"sdk\"", "world `mapping` offers"),
            ("\"sdk\"", "\"settings\":[],\"sdk\"", "invalid type"),
        ] {
            let text = MAPPING.replace(right, wrong);
            let refusal = refused(&component(Kind::Mapping, &[], &[&text]));
            assert!(refusal.contains(said), "{text}: {refusal}");
        }
        let long = format!("{MAPPING}{}", " ".repeat(MAX_MANIFEST));
        assert!(refused(&component(Kind::Mapping, &[], &[&long])).contains("shorten"));
    }

    #[test]
    fn a_host_is_a_name_a_star_or_a_setting() {
        for host in ["*", "api.z-api.io", "localhost", "settings.base_url"] {
            assert!(is_host(host), "{host}");
        }
        for host in
            ["", "https://a.example", "a.example/", "a.example:443", "A.example", "*.example", "a..b", "settings."]
        {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn imports_are_held_to_world_and_manifest() {
        assert_eq!(
            inspect(&component(Kind::Connector, &[HTTP, CLOCK], &[CONNECTOR])),
            Err(Refusal::Undeclared { import: "tomada:hub/clock@1.0.0".to_owned(), short: "clock".to_owned() })
        );
        assert_eq!(
            inspect(&component(Kind::Connector, &[HTTP, MAIL], &[CONNECTOR])),
            Err(Refusal::Undeclared { import: "tomada:hub/mail@1.0.0".to_owned(), short: "mail".to_owned() })
        );
        let writer = CONNECTOR.replace("[\"http\"]", "[\"http\",\"mail\"]");
        assert!(inspect(&component(Kind::Connector, &[HTTP, MAIL], &[&writer])).is_ok());
        let sly = component(Kind::Connector, &[HTTP], &[MAPPING]);
        let refusal = refused(&sly);
        assert!(refusal.contains("imports `tomada:hub/http@1.0.0`") && refusal.contains("make it a connector"));

        let wasi = wat::parse_str(r#"(component (import "wasi:cli/exit@0.2.0" (instance)))"#).unwrap();
        let refusal = refused(&wasi);
        assert!(refusal.contains("`wasi:cli/exit@0.2.0`") && refusal.contains("wasm32-unknown-unknown"), "{refusal}");
        let newer = wat::parse_str(r#"(component (import "tomada:hub/log@9.0.0" (instance)))"#).unwrap();
        assert!(refused(&newer).contains("of this hub's version"));
    }

    #[test]
    fn exports_are_held_to_the_world() {
        let mapping = component(Kind::Mapping, &[], &[&CONNECTOR.replace("\"http\"", "")]);
        assert_eq!(inspect(&mapping), Err(Refusal::WrongKind { kind: Kind::Connector }));

        let text = format!("(component (@custom {SECTION:?} {MAPPING:?}))");
        let empty = wat::parse_str(text).unwrap();
        assert!(matches!(inspect(&empty), Err(Refusal::Unfit { kind: Kind::Mapping, .. })));
        assert!(refused(&empty).contains("the export `map`"));

        let text = format!(
            r#"(component (@custom {SECTION:?} {MAPPING:?})
                (core module $m (func (export "map")))
                (core instance $i (instantiate $m))
                (func (export "map") (canon lift (core func $i "map"))))"#
        );
        let other = wat::parse_str(text).unwrap();
        assert!(matches!(inspect(&other), Err(Refusal::Unfit { kind: Kind::Mapping, .. })), "{:?}", inspect(&other));
    }
}
