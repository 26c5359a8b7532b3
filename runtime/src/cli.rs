//! What `tomada` understands: commands, options, exit codes (0 done, 1 not done, 2 not understood).

mod audit;
mod doctor;
mod keyring;
mod keys;
mod mappings;
mod migrate;
mod operate;
mod privacy;
mod retention;
mod secrets;
mod sources;
mod sync;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::app::{Hub, Options};
use crate::client::HubArgs;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::redact::redact_lines;
use crate::{bench, demo, plugin, send, telemetry, toolchain};

/// A runtime for integrations: webhooks that are never lost in, sandboxed connectors in the middle, signed deliveries out.
#[derive(Parser)]
#[command(name = "tomada", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the hub
    Serve(Serve),
    /// Show the hub at work: Carinho's flow, with stand-ins for the systems it joins
    Demo(demo::DemoOptions),
    /// Make a running hub match configuration files, and print the difference
    Apply(Apply),
    /// Sign and post a webhook, as a partner would
    Send(send::SendOptions),
    /// List events, or show one with its deliveries and attempts
    Events(operate::Events),
    /// List what was given up, with the reasons
    DeadLetters(operate::DeadLetters),
    /// Make a delivery owed again, or all dead letters of an endpoint
    Replay(operate::Replay),
    /// List endpoints, pause and resume them
    Endpoints(operate::Endpoints),
    /// List sources, how each proves who it is, and when its secrets were last seen
    Sources(sources::Sources),
    /// List sync jobs and their runs, start one
    Sync(sync::Sync),
    /// List schedules and when they are due
    Schedules(sync::Schedules),
    /// How long what is kept, and whether it is gone when its time is over
    Retention(retention::Retention),
    /// List API keys, make, rotate and revoke them
    Keys(keys::Keys),
    /// List secrets that the hub keeps, store and change them
    Secrets(secrets::Secrets),
    /// List the keys that wrap what is sealed, rotate and retire them
    Keyring(keyring::Keyring),
    /// Look at what was done and by whom, and whether that record is whole
    Audit(audit::Audit),
    /// Find what is about a person, export and erase it
    Privacy(privacy::Privacy),
    /// Make, build, push and switch connectors and mappings
    Connector {
        #[command(subcommand)]
        command: Connector,
    },
    /// Look at, edit, try and switch mappings
    Mappings {
        #[command(subcommand)]
        command: mappings::Mappings,
    },
    /// Measure: acks, deliveries end to end, draining a backlog
    Bench(bench::BenchOptions),
    /// Check that this machine, the database and Redis have what the hub needs
    Doctor(doctor::Doctor),
    /// Bring the database's tables up to date, or say what that would be
    Migrate(migrate::Migrate),
    /// What an uploaded component is compiled in: a process of its own, with limits on time and memory
    #[command(hide = true)]
    Compile { source: PathBuf, compiled: PathBuf },
}

#[derive(Args)]
struct Serve {
    /// Where the database, compiled components and keys live
    #[arg(long, value_name = "DIR", default_value = "tomada-data", env = "TOMADA_DATA")]
    data: PathBuf,
    /// Database on a server, instead of the file in the data directory: postgres://… or mysql://…, or file:PATH where
    /// that stands
    #[arg(long, value_name = "URL", env = "TOMADA_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", env = "TOMADA_LISTEN")]
    listen: SocketAddr,
    /// Configuration to apply before the first request; may be given several times
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Redis, for nodes that share a database: redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], or file:PATH
    #[arg(long, value_name = "URL", env = "TOMADA_REDIS", hide_env_values = true)]
    redis: Option<String>,
    /// Log as JSON lines
    #[arg(long)]
    log_json: bool,
    /// Let debuggers, profilers and core files see the process's memory, with all payloads and secrets in it
    #[arg(long)]
    debuggable: bool,
}

#[derive(Args)]
struct Apply {
    /// Configuration files; together they are the whole configuration
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only print the difference
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    hub: HubArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Connector {
    /// Start a connector or mapping: a small crate with a test
    New {
        /// The crate's directory; its last part is the name
        path: PathBuf,
        /// A mapping instead of a connector
        #[arg(long)]
        mapping: bool,
    },
    /// Build crates into components, and check them
    Build {
        /// Directories of crates
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Where the components go, instead of target/components
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Upload a component; it is in force when the command returns
    Push {
        /// The .wasm file
        file: PathBuf,
        #[command(flatten)]
        hub: HubArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List components and their versions
    List {
        #[command(flatten)]
        hub: HubArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Switch to a version that was pushed before
    Activate {
        name: String,
        /// Its first characters are enough
        digest: String,
        #[command(flatten)]
        hub: HubArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Switch back to the version that was active before
    Rollback {
        name: String,
        #[command(flatten)]
        hub: HubArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Parses the arguments and does what they say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Rust leaves SIGPIPE ignored; `tomada events | head` should end quietly, which the print macros of anstream see to.
    let done = match cli.command {
        Command::Compile { source, compiled } => {
            plugin::engine::compile(&source, &compiled).map(|()| ExitCode::SUCCESS)
        }
        command => match tokio::runtime::Runtime::new() {
            Ok(runtime) => runtime.block_on(run(command)),
            Err(error) => Err(error.into()),
        },
    };
    done.unwrap_or_else(|error| {
        anstream::eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(options) => serve(options).await?,
        Command::Demo(options) => return demo::run(options).await,
        Command::Apply(options) => apply(options).await?,
        Command::Send(options) => return send::run(&options).await,
        Command::Events(options) => operate::events(options).await?,
        Command::DeadLetters(options) => operate::dead_letters(options).await?,
        Command::Replay(options) => operate::replay(options).await?,
        Command::Endpoints(options) => operate::endpoints(options).await?,
        Command::Sources(options) => sources::sources(options).await?,
        Command::Sync(options) => return sync::sync(options).await,
        Command::Schedules(options) => sync::schedules(options).await?,
        Command::Retention(options) => retention::retention(options).await?,
        Command::Keys(options) => keys::run(options).await?,
        Command::Secrets(options) => secrets::run(options).await?,
        Command::Keyring(options) => keyring::run(options).await?,
        Command::Audit(options) => return audit::run(options).await,
        Command::Privacy(options) => privacy::run(options).await?,
        Command::Connector { command } => connector(command).await?,
        Command::Mappings { command } => return mappings::run(command).await,
        Command::Bench(options) => return bench::run(options).await,
        Command::Doctor(options) => return doctor::run(options).await,
        Command::Migrate(options) => return migrate::run(options).await,
        Command::Compile { .. } => unreachable!("handled before the runtime starts"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(options: Serve) -> anyhow::Result<()> {
    telemetry::install(options.log_json);
    if !options.debuggable {
        keep_memory_private();
    }
    use_small_pages();
    // An error ends the process, and its text goes where the log goes.
    run_hub(options).await.map_err(|error| anyhow::anyhow!(redact_lines(&format!("{error:#}"))))
}

/// Memory holds payloads and secrets: it is written into no core file, and neither debuggers nor other processes of this
/// user may read it.
fn keep_memory_private() {
    if let Err(error) = rlimit::setrlimit(rlimit::Resource::CORE, 0, 0) {
        tracing::warn!(%error, "core files could not be forbidden");
    }
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "memory could not be made private");
    }
}

/// The allocator asks for pages of 2 MiB, and of many of them little is used: beside 2,000 slow connections a hub held
/// 217 MiB, and 158 MiB without, at the same speed.
fn use_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "memory is taken in large pages");
    }
}

async fn run_hub(options: Serve) -> anyhow::Result<()> {
    let config = match options.config.is_empty() {
        true => None,
        false => Some(load(&options.config, config::load_with_secrets)?),
    };
    let data = options.data;
    let hub = Hub::start(Options {
        data: data.clone(),
        database: given(options.database)?,
        listen: options.listen,
        clock: Clock::System,
        compiler: std::env::current_exe()?,
        config,
        redis: given(options.redis)?,
    })
    .await?;
    if hub.is_new_key {
        keys::first(&hub.admin_key, &data);
    }
    let end = ended().await?;
    tracing::info!("stopping");
    match end {
        End::Now => hub.stop().await,
        End::Soon => hub.drain().await,
    }
}

/// A URL as an option gives it; an empty one is none.
fn given(url: Option<String>) -> anyhow::Result<Option<String>> {
    url.filter(|url| !url.is_empty()).map(|url| migrate::url(&url)).transpose()
}

/// How somebody wants the hub to end.
enum End {
    /// Ctrl-C, by somebody who waits for it.
    Now,
    /// SIGTERM, by a service manager while partners send.
    Soon,
}

async fn ended() -> anyhow::Result<End> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(tokio::select! {
        _ = interrupt.recv() => End::Now,
        _ = terminate.recv() => End::Soon,
    })
}

type Read = fn(&[PathBuf]) -> Result<Config, Vec<config::Problem>>;

/// Reads configuration files and the components that they name.
fn load(files: &[PathBuf], read: Read) -> anyhow::Result<(Config, BTreeMap<String, Vec<u8>>)> {
    let config = read(files).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("the configuration has {} problems:\n{}", lines.len(), lines.join("\n"))
    })?;
    let mut components = BTreeMap::new();
    for (name, connector) in &config.connectors {
        let bytes = std::fs::read(&connector.file).with_context(|| {
            format!("component {name:?}: {} (build it with `tomada connector build`)", connector.file)
        })?;
        components.insert(name.clone(), bytes);
    }
    Ok((config, components))
}

async fn apply(options: Apply) -> anyhow::Result<()> {
    use base64::Engine as _;
    // The hub has the secrets, not whoever applies.
    let (config, components) = load(&options.files, config::load)?;
    let base64 = base64::engine::general_purpose::STANDARD;
    let components: BTreeMap<_, _> = components.iter().map(|(name, wasm)| (name, base64.encode(wasm))).collect();
    let body = serde_json::json!({ "config": config, "components": components });
    let path = format!("/api/apply?dry_run={}", options.dry_run);
    let answer = options.hub.connect().await?.post(&path, body.to_string()).await?.ok()?;
    operate::changes(&answer, options.json)
}

async fn connector(command: Connector) -> anyhow::Result<()> {
    match command {
        Connector::New { path, mapping } => {
            let kind = if mapping { plugin::manifest::Kind::Mapping } else { plugin::manifest::Kind::Connector };
            toolchain::new(&path, kind)?;
            let path = path.display();
            anstream::println!(
                "made {path}\n\n  cargo test --manifest-path {path}/Cargo.toml\n  tomada connector build {path}"
            );
            Ok(())
        }
        Connector::Build { paths, out, json } => {
            let reports = toolchain::build(&paths, out.as_deref())?;
            if json {
                anstream::println!("{}", serde_json::to_string_pretty(&reports)?);
            } else {
                reports.iter().for_each(|report| anstream::println!("{report}"));
            }
            Ok(())
        }
        Connector::Push { file, hub, json } => {
            let wasm = std::fs::read(&file).with_context(|| file.display().to_string())?;
            let inspected = plugin::manifest::inspect(&wasm).with_context(|| file.display().to_string())?;
            let path = format!("/api/connectors/{}", inspected.manifest.name);
            let answer = hub.connect().await?.put(&path, wasm).await?;
            operate::switched(&inspected.manifest.name, answer, json)
        }
        Connector::List { hub, json } => operate::connectors(hub, json).await,
        Connector::Activate { name, digest, hub, json } => {
            let body = serde_json::json!({ "digest": digest }).to_string();
            let answer = hub.connect().await?.post(&format!("/api/connectors/{name}/activate"), body).await?;
            operate::switched(&name, answer, json)
        }
        Connector::Rollback { name, hub, json } => {
            let answer = hub.connect().await?.post(&format!("/api/connectors/{name}/rollback"), "").await?;
            operate::switched(&name, answer, json)
        }
    }
}
