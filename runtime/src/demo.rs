//! `tomada demo`: Carinho's flows on this machine, with stand-ins for the systems that they join.
//!
//! The hub is a process of its own, started as an operator would start it; what is shown comes from its API and from
//! what the stand-ins received.

#![allow(clippy::disallowed_methods, reason = "it measures and waits from outside; nothing of the hub depends on it")]

mod flows;
pub mod loopback;
mod proof;
pub mod standins;
mod watch;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::signal::unix::{SignalKind, signal};

use self::flows::Flows;
use self::standins::StandIns;
use self::watch::{DOUBTFUL, NAME, QUIET, STRONG, Watch};
use crate::child::Hub;
use crate::client::Running;
use crate::config::{self, Config};
use crate::private::write_private;

/// Between two looks at the hub, when the flows are through.
const SELDOM: Duration = Duration::from_millis(100);
/// Directory of a demo that stays, the same that all commands look into by default.
const DATA: &str = "tomada-data";

/// Options of `tomada demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// End when the flows are through: exit code 0 when all arrived, 1 with what is missing
    #[arg(long)]
    once: bool,
    /// The systems misbehave: errors, late answers, broken connections; retries and breakers are quicker for it
    #[arg(long)]
    chaos: bool,
    /// What chaos is drawn from
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "chaos")]
    seed: u64,
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

/// Shows the flows, then waits for Ctrl-C unless it is to run once. The exit code is 1 when something did not arrive.
///
/// # Errors
/// The configuration has mistakes, a component is not built, or the hub does not start or ends by itself.
pub async fn run(options: DemoOptions) -> Result<ExitCode> {
    let place = Place::new(&options)?;
    let mut stand_ins = StandIns::start().await?;
    let listen = listen(&options)?;
    let (config, delays) = prepare(&options, &place, &mut stand_ins, listen).await?;
    let mut hub =
        Hub::serve(&std::env::current_exe()?, &place.data, None, &listen.to_string(), &place.config()).await?;
    introduce(&hub, &place, &stand_ins);
    if options.chaos {
        stand_ins.chaos(options.seed);
        anstream::println!(
            "\n  {DOUBTFUL}chaos{DOUBTFUL:#}      {QUIET}seed {}: the systems misbehave{QUIET:#}",
            options.seed
        );
    }

    let shown = tokio::select! {
        shown = show(&options, &mut hub, &config, &delays, &place, &stand_ins) => shown,
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
    delays: &[(String, String, f64)],
    place: &Place,
    stand_ins: &StandIns,
) -> Result<ExitCode> {
    let watch = Watch::start(hub.client().await?, stand_ins).await?;
    let mut flows = Flows { url: hub.url.clone(), config, stand_ins, watch, delays, chaos: options.chaos, good: true };
    flows.play().await?;
    if options.chaos {
        flows.sum_up().await?;
    }
    let Flows { mut watch, good, .. } = flows;
    let log = hub.log();
    let troubles: Vec<&str> = log.lines().filter(|line| !line.contains(" INFO ")).collect();
    if !good && !troubles.is_empty() {
        anstream::println!("\n{STRONG}The hub's log{STRONG:#}\n{QUIET}{}{QUIET:#}", troubles.join("\n"));
    }
    if options.once {
        return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
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

/// Where the hub is to listen. The port is chosen before the hub starts, because links in mails name it.
fn listen(options: &DemoOptions) -> Result<SocketAddr> {
    let default = SocketAddr::from(([127, 0, 0, 1], if options.once { 0 } else { 8080 }));
    let listen = options.listen.unwrap_or(default);
    if listen.port() != 0 {
        return Ok(listen);
    }
    TcpListener::bind(listen)
        .and_then(|free| free.local_addr())
        .with_context(|| format!("no free port on {}", listen.ip()))
}

type Delays = Vec<(String, String, f64)>;

async fn prepare(
    options: &DemoOptions,
    place: &Place,
    stand_ins: &mut StandIns,
    listen: SocketAddr,
) -> Result<(Config, Delays)> {
    let mut config = config::load(std::slice::from_ref(&options.config)).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow!(lines.join("\n"))
    })?;
    let components = std::path::absolute(&options.components)?;
    loopback::turn(&mut config, stand_ins, &place.data, &components).await?;
    loopback::tell_hub_url(&mut config, &format!("http://{listen}"));
    let delays = loopback::shorten_delays(&mut config);
    if options.chaos {
        loopback::hasten(&mut config);
    }
    let text = toml::to_string(&config).context("the configuration cannot be written")?;
    write_private(&place.config(), text.as_bytes()).with_context(|| place.config().display().to_string())?;
    Ok((config, delays))
}

fn introduce(hub: &Hub, place: &Place, stand_ins: &StandIns) {
    let (url, pid, data) = (&hub.url, hub.pid, place.data.display());
    anstream::println!("{STRONG}tomada demo{STRONG:#}  Carinho's flows, with stand-ins for all systems\n");
    anstream::println!("  {NAME}{:<11}{NAME:#} {url}  {QUIET}pid {pid}, data {data}{QUIET:#}", "hub");
    for name in stand_ins.names() {
        let url = stand_ins.url(name);
        anstream::println!("  {NAME}{name:<11}{NAME:#} {url}  {QUIET}stand-in{QUIET:#}");
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
            chaos: false,
            seed: 1,
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
