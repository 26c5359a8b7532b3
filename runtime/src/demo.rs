//! `tomada demo`: Carinho's flow "Lead criado" on this machine, with stand-ins for the systems that it joins.
//!
//! The hub is a process of its own, started as an operator would start it; what is shown comes from its API and from
//! what the stand-ins received.

#![allow(clippy::disallowed_methods, reason = "it measures and waits from outside; nothing of the hub depends on it")]

pub mod loopback;
mod proof;
pub mod standins;
mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use self::standins::StandIns;
use self::watch::{BAD, GOOD, NAME, QUIET, STRONG, Watch};
use crate::child::Hub;
use crate::client::{Client, Running};
use crate::config::{self, Config};
use crate::keys::write_private;
use crate::send::{Accepted, Target, unix_seconds};

/// How long the flow may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the hub, while the flow runs and after it.
const OFTEN: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_millis(100);
/// Directory of a demo that stays, the same that all commands look into by default.
const DATA: &str = "tomada-data";

/// Options of `tomada demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// End when the flow is through: exit code 0 when all arrived, 1 with what is missing after 30 s
    #[arg(long)]
    once: bool,
    /// Address of the hub [default: 127.0.0.1:8080, with --once a free port]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Data directory of the hub [default: tomada-data, with --once a new one that is removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the components are
    #[arg(long, value_name = "DIR", default_value = "target/components")]
    components: PathBuf,
    /// Configuration; its target systems are replaced by the stand-ins
    #[arg(long, value_name = "FILE", default_value = "connectors/carinho.toml")]
    config: PathBuf,
}

/// Shows the flow, then waits for Ctrl-C unless it is to run once. The exit code is 1 when something did not arrive.
///
/// # Errors
/// The configuration has mistakes, a component is not built, or the hub does not start or ends by itself.
pub async fn run(options: DemoOptions) -> Result<ExitCode> {
    let place = Place::new(&options)?;
    let mut stand_ins = StandIns::start().await?;
    let config = prepare(&options, &place, &mut stand_ins).await?;
    let listen = match options.listen {
        Some(listen) => listen.to_string(),
        None if options.once => "127.0.0.1:0".into(),
        None => "127.0.0.1:8080".into(),
    };
    let mut hub = Hub::serve(&std::env::current_exe()?, &place.data, &listen, &place.config()).await?;
    introduce(&hub, &place, &stand_ins);

    let shown = tokio::select! {
        shown = show(&options, &mut hub, &config, &place, &stand_ins) => shown,
        signal = interrupted() => signal.map(|()| ExitCode::SUCCESS),
    };
    if !options.once {
        anstream::println!("\n{QUIET}stopping{QUIET:#}");
    }
    hub.stop().await.and(shown)
}

async fn show(
    options: &DemoOptions,
    hub: &mut Hub,
    config: &Config,
    place: &Place,
    stand_ins: &StandIns,
) -> Result<ExitCode> {
    let mut watch = Watch::start(hub.client().await?, stand_ins).await?;
    let code = flow(hub, config, stand_ins, &mut watch).await?;
    if options.once {
        return Ok(code);
    }
    look_around(place);
    loop {
        tokio::time::sleep(SELDOM).await;
        if !hub.is_alive() {
            bail!("the hub ended by itself:\n{}", hub.log());
        }
        watch.look().await?;
    }
}

/// One lead all the way.
async fn flow(hub: &Hub, config: &Config, stand_ins: &StandIns, watch: &mut Watch<'_>) -> Result<ExitCode> {
    let phone = phone()?;
    let lead = json!({
        "name": "Maria Aparecida",
        "phone": phone,
        "email": "maria@example.com",
        "source": "site",
        "utm_source": "google",
        "utm_medium": "cpc",
        "utm_campaign": "cuidadores-sp",
        "message": "Preciso de uma cuidadora para minha mãe.",
    });
    anstream::println!("\n{STRONG}POST /webhooks/site/lead{STRONG:#}  {lead}\n");
    let target = Target::find(config, "site/lead")?;
    let request = target.sign(lead.to_string().into(), None, None, unix_seconds())?;
    let answer = request.post(&mut Client::connect(&hub.url, None).await?).await?;
    let accepted: Accepted = answer.json().context("the webhook was not accepted")?;

    let start = Instant::now();
    let facts = loop {
        watch.look().await?;
        let facts = proof::facts(&stand_ins.received_since(0), &phone);
        // Only when nothing is left to do is "exactly one" more than "one so far".
        if watch.is_over(&accepted.id) || start.elapsed() > PATIENCE {
            break facts;
        }
        tokio::time::sleep(OFTEN).await;
    };
    anstream::println!();
    for fact in &facts {
        let (mark, style) = if fact.holds { ("✓", GOOD) } else { ("✗", BAD) };
        anstream::println!("  {style}{mark} {}{style:#}", fact.what);
    }
    for line in watch.open(&accepted.id) {
        anstream::println!("  {BAD}✗ {line}{BAD:#}");
    }
    let good = facts.iter().all(|fact| fact.holds) && watch.is_over(&accepted.id);
    if !good {
        anstream::println!("\n{}", hub.log());
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn prepare(options: &DemoOptions, place: &Place, stand_ins: &mut StandIns) -> Result<Config> {
    let mut config = config::load(std::slice::from_ref(&options.config)).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow!(lines.join("\n"))
    })?;
    let components = std::path::absolute(&options.components)?;
    loopback::turn(&mut config, stand_ins, &place.data, &components).await?;
    let text = toml::to_string(&config).context("the configuration cannot be written")?;
    write_private(&place.config(), text.as_bytes()).with_context(|| place.config().display().to_string())?;
    Ok(config)
}

fn introduce(hub: &Hub, place: &Place, stand_ins: &StandIns) {
    let (url, pid, data) = (&hub.url, hub.pid, place.data.display());
    anstream::println!("{STRONG}tomada demo{STRONG:#}  Carinho, \"Lead criado\"\n");
    anstream::println!("  {NAME}{:<10}{NAME:#} {url}  {QUIET}pid {pid}, data {data}{QUIET:#}", "hub");
    for name in stand_ins.names() {
        let url = stand_ins.url(name);
        anstream::println!("  {NAME}{name:<10}{NAME:#} {url}  {QUIET}stand-in{QUIET:#}");
    }
}

/// Where to go on from here, with the options that the commands need.
fn look_around(place: &Place) {
    let program = std::env::args().next().unwrap_or_else(|| "tomada".into());
    let data = match &place.given {
        Some(data) if data != Path::new(DATA) => format!(" --data {}", data.display()),
        _ => String::new(),
    };
    let lead = r#"{"name":"Ana Souza","phone":"(11) 98888-7777","utm_campaign":"cuidadores-sp"}"#;
    anstream::println!(
        "\n{STRONG}Look{STRONG:#}
  {program} events{data}            {QUIET}what was accepted and what became of it; with an id, each attempt{QUIET:#}
  {program} dead-letters{data}      {QUIET}what was given up, and why{QUIET:#}
  {program} endpoints{data}         {QUIET}target systems: pause and resume them{QUIET:#}
  {program} connector list{data}    {QUIET}components and their versions{QUIET:#}

{STRONG}Send one yourself{STRONG:#} {QUIET}(the same JSON twice is one event and one text){QUIET:#}
  {program} send site/lead{data} --json '{lead}'

What comes is shown here. Ctrl-C ends the demo.
"
    );
}

async fn interrupted() -> Result<()> {
    let [mut interrupt, mut terminate, mut hangup] =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// A mobile number of São Paulo that no earlier run has used.
fn phone() -> Result<String> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random number: {error}"))?;
    Ok(format!("55119{:08}", u32::from_le_bytes(bytes) % 100_000_000))
}

/// The directory of the hub.
struct Place {
    /// Absolute.
    data: PathBuf,
    /// As it was asked for.
    given: Option<PathBuf>,
    temporary: bool,
}

impl Place {
    fn new(options: &DemoOptions) -> Result<Place> {
        let temporary = options.once && options.data.is_none();
        let data = match &options.data {
            Some(data) => data.clone(),
            None if temporary => std::env::temp_dir().join(format!("tomada-demo-{}", std::process::id())),
            None => PathBuf::from(DATA),
        };
        let place = Place { data: std::path::absolute(data)?, given: options.data.clone(), temporary };
        // The demo's configuration would take the place of the one that is in force there.
        if place.data.join("tomada.db").exists() && !place.config().exists() {
            let data = place.data.display();
            bail!("{data} holds a hub that is not the demo's: choose another directory with --data");
        }
        if let Ok(running) = Running::read(&place.data)
            && Path::new(&format!("/proc/{}", running.pid)).exists()
        {
            bail!("a demo runs already: {}, pid {}", running.url, running.pid);
        }
        std::fs::create_dir_all(&place.data).with_context(|| format!("{} cannot be made", place.data.display()))?;
        Ok(place)
    }

    fn config(&self) -> PathBuf {
        self.data.join("demo.toml")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary {
            std::fs::remove_dir_all(&self.data).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_is_not_the_demos_is_left_alone() {
        let data = std::env::temp_dir().join(format!("tomada-place-{}", std::process::id()));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("tomada.db"), "").unwrap();
        let options = DemoOptions {
            once: true,
            listen: None,
            data: Some(data.clone()),
            components: PathBuf::new(),
            config: PathBuf::new(),
        };
        let error = Place::new(&options).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("not the demo's"), "{error}");

        std::fs::write(data.join("demo.toml"), "").unwrap();
        assert!(Place::new(&options).is_ok());
        std::fs::remove_dir_all(&data).unwrap();
    }
}
