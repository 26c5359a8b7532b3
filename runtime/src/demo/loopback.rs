//! A configuration turned towards the stand-ins: the same sources, routes and components, with target systems on the
//! loopback and secrets made up for the occasion. Nothing in it can reach the real systems.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use url::Url;

use super::standins::{EMAIL, StandIns, random};
use crate::config::{Auth, Config, Endpoint, SecretRef, Smtp, SmtpTls};
use crate::private::write_private;

/// The setting that says where people find the hub: not a target.
const HUB_URL: &str = "hub_url";
/// Routes that wait longer than this are shortened for the demo, seconds.
const LONG_DELAY_S: f64 = 10.0;
/// To this.
pub(super) const SHORT_DELAY_S: f64 = 3.0;

/// Rewrites `config`. Secrets go to files in `data`, which is absolute, as is `components`. References that are equal in
/// the configuration get equal values, so that what two share they still share.
///
/// # Errors
/// A component is not built, or a file cannot be written.
pub async fn turn(config: &mut Config, stand_ins: &mut StandIns, data: &Path, components: &Path) -> Result<()> {
    let directory = data.join("secrets");
    let mut secrets = Secrets { directory: &directory, values: BTreeMap::new() };
    secrets.make_directory()?;
    // What a stand-in expects comes first: sources may refer to the same.
    for (name, endpoint) in &mut config.endpoints {
        let system = system(stand_ins, name, endpoint);
        stand_ins.add(&system).await?;
        stand_ins.answers_for(&system, name);
        point(endpoint, &system, stand_ins)?;
        point_mail(endpoint, stand_ins)?;
        for (secret, reference) in &mut endpoint.secrets {
            let expected = stand_ins.secrets(&system).get(secret.as_str()).cloned();
            let value = secrets.value(&reference.0, expected, random)?;
            *reference = secrets.keep(&format!("endpoint-{name}-{secret}"), &value)?;
        }
    }
    for (name, source) in &mut config.sources {
        let standard = matches!(source.auth, Auth::StandardWebhooks { .. } | Auth::Svix { .. });
        // 32 hexadecimal digits are base64 as well, of 24 bytes.
        let invent = || Ok(if standard { format!("whsec_{}", random()?) } else { random()? });
        for (n, reference) in source.auth.references_mut().into_iter().enumerate() {
            let value = secrets.value(&reference.0, None, invent)?;
            *reference = secrets.keep(&format!("source-{name}-{n}"), &value)?;
        }
    }
    find_components(config, components)
}

/// Says in what people get where the hub is: `url` is `http://host:port`.
pub(super) fn tell_hub_url(config: &mut Config, url: &str) {
    for endpoint in config.endpoints.values_mut() {
        if let Some(setting) = endpoint.settings.get_mut(HUB_URL) {
            *setting = url.into();
        }
    }
}

/// Nobody watches for two hours: what waits longer than ten seconds waits three. Says what was shortened: event, endpoint
/// and the delay that it had, seconds.
pub(super) fn shorten_delays(config: &mut Config) -> Vec<(String, String, f64)> {
    let mut shortened = Vec::new();
    for route in &mut config.routes {
        if route.delay_s > LONG_DELAY_S {
            shortened.push((route.event.clone(), route.endpoint.clone(), route.delay_s));
            route.delay_s = SHORT_DELAY_S;
        }
    }
    shortened
}

/// Retries after seconds instead of minutes, and breakers that open at three failures and look again after three seconds.
pub(super) fn hasten(config: &mut Config) {
    for endpoint in config.endpoints.values_mut() {
        endpoint.retry.delays_s = vec![0.5, 1.0, 2.0, 2.0];
        endpoint.breaker.failures = 3;
        endpoint.breaker.open_s = 3.0;
    }
}

fn find_components(config: &mut Config, components: &Path) -> Result<()> {
    let mut missing = Vec::new();
    for (name, connector) in &mut config.connectors {
        let file = Path::new(&connector.file).file_name().map_or_else(|| components.join(name), |f| components.join(f));
        if !file.is_file() {
            missing.push(name.as_str());
        }
        connector.file = file.to_str().context("the directory of the components is not UTF-8")?.to_owned();
    }
    if !missing.is_empty() {
        let (names, directory) = (missing.join(", "), components.display());
        bail!(
            "not in {directory}: {names}; `tomada connector build connectors/*` makes them, or say where with --components"
        );
    }
    Ok(())
}

/// The stand-in of an endpoint's target: by the host of its address, since several endpoints may lead to one system;
/// without an address by the endpoint's name, or else its connector's.
fn system(stand_ins: &StandIns, name: &str, endpoint: &Endpoint) -> String {
    let targets = endpoint.settings.iter().filter(|(setting, _)| *setting != HUB_URL);
    let hosts = targets.filter_map(|(_, value)| address(value)).filter_map(|url| Some(url.host_str()?.to_owned()));
    let by_host = hosts.filter_map(|host| match host.as_str() {
        "api.z-api.io" => Some("zapi".to_owned()),
        host => host.strip_suffix(".carinho.com.vc").map(str::to_owned),
    });
    let mut candidates = by_host.chain([name.to_owned(), endpoint.connector.clone()]);
    candidates.find(|candidate| stand_ins.has(candidate)).unwrap_or_else(|| name.to_owned())
}

fn address(setting: &Value) -> Option<Url> {
    let url = Url::parse(setting.as_str()?).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}

/// Sends an endpoint to its stand-in: every address in its settings keeps its path only.
fn point(endpoint: &mut Endpoint, system: &str, stand_ins: &StandIns) -> Result<()> {
    endpoint.hosts = Vec::new();
    endpoint.allow_private = Vec::new();
    if system == EMAIL {
        return Ok(());
    }
    let url = stand_ins.url(system);
    let target = Url::parse(url)?;
    let port = target.port().context("a stand-in has a port")?;
    let mut pointed = false;
    for (name, setting) in &mut endpoint.settings {
        let Some(mut address) = address(setting).filter(|_| name != HUB_URL) else { continue };
        // From https to http: `set_scheme` refuses nothing between those two.
        address.set_scheme("http").ok();
        address.set_host(target.host_str())?;
        address.set_port(Some(port)).ok();
        *setting = Value::String(address.as_str().trim_end_matches('/').to_owned());
        pointed = true;
    }
    if !pointed {
        endpoint.settings.insert("base_url".into(), url.into());
    }
    endpoint.hosts.push(url.to_owned());
    endpoint.allow_private.push(format!("127.0.0.1/32:{port}"));
    Ok(())
}

/// Sends an endpoint's mail to the stand-in: in the clear, and therefore without credentials.
fn point_mail(endpoint: &mut Endpoint, stand_ins: &StandIns) -> Result<()> {
    let Some(smtp) = &mut endpoint.smtp else { return Ok(()) };
    let server = stand_ins.url(EMAIL).trim_start_matches("smtp://");
    let port = server.rsplit_once(':').context("a stand-in has a port")?.1;
    *smtp = Smtp {
        server: server.to_owned(),
        tls: Some(SmtpTls::None),
        from: std::mem::take(&mut smtp.from),
        username: None,
        password: None,
    };
    endpoint.allow_private.push(format!("127.0.0.1/32:{port}"));
    Ok(())
}

struct Secrets<'a> {
    directory: &'a Path,
    /// Reference as the configuration has it → value.
    values: BTreeMap<String, String>,
}

impl Secrets<'_> {
    /// What a stand-in expects, else what the same reference stood for before, else a new one.
    fn value(
        &mut self,
        reference: &str,
        expected: Option<String>,
        invent: impl FnOnce() -> Result<String>,
    ) -> Result<String> {
        let value = match (expected, self.values.get(reference)) {
            (Some(expected), _) => expected,
            (None, Some(known)) => return Ok(known.clone()),
            (None, None) => invent()?,
        };
        self.values.entry(reference.to_owned()).or_insert_with(|| value.clone());
        Ok(value)
    }

    fn make_directory(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(self.directory);
        made.with_context(|| format!("{} cannot be made", self.directory.display()))
    }

    fn keep(&self, name: &str, value: &str) -> Result<SecretRef> {
        let file = self.directory.join(name);
        write_private(&file, value.as_bytes()).with_context(|| format!("{} cannot be written", file.display()))?;
        Ok(SecretRef(format!("file:{}", file.to_str().context("the data directory is not UTF-8")?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const CONFIG: &str = r#"
        [sources.site]
        auth = { scheme = "hmac-hex", secrets = ["env:SITE"] }
        [[sources.site.webhooks]]
        path = "/webhooks/site/lead"
        event = "lead.created"
        queue = "integrations-high"

        [sources.svix]
        auth = { scheme = "standard-webhooks", secrets = ["env:A", "env:B"] }

        [sources.shared]
        auth = { scheme = "hmac-hex", secrets = ["env:OTHER", "env:LEGACY"] }

        [[routes]]
        event = "lead.created"
        endpoint = "crm"
        delay_s = 7200

        [[routes]]
        event = "lead.created"
        endpoint = "plain"
        delay_s = 5

        [endpoints.crm]
        connector = "crm"
        hosts = ["crm.carinho.com.vc"]
        settings = { base_url = "https://crm.carinho.com.vc", hub_url = "https://integracoes.test" }
        secrets = { api_key = "env:CRM", other = "env:OTHER" }

        [endpoints.crm-events]
        connector = "webhook"
        hosts = ["crm.carinho.com.vc"]
        settings = { url = "https://crm.carinho.com.vc/api/v1/webhooks/events" }
        secrets = { auth = "env:CRM", legacy_signing = "env:LEGACY" }

        [endpoints.whatsapp]
        connector = "webhook"
        hosts = ["api.z-api.io"]
        settings = { url = "https://api.z-api.io" }

        [endpoints.plain]
        connector = "webhook"
        hosts = ["plain.carinho.com.vc"]
        settings = { url = "https://plain.carinho.com.vc/api/webhooks/events", source_system = "integracoes" }

        [endpoints.post]
        connector = "webhook"
        smtp = { server = "smtp.carinho.com.vc:587", from = "oi@c.test", username = "env:USER", password = "env:PASSWORD" }

        [connectors.crm]
        file = "../target/components/crm.wasm"
        [connectors.webhook]
        file = "../target/components/webhook.wasm"
    "#;

    #[tokio::test]
    async fn a_turned_configuration_reaches_the_stand_ins_and_nothing_else() {
        let data = std::env::temp_dir().join(format!("tomada-loopback-{}", std::process::id()));
        let components = data.join("components");
        std::fs::create_dir_all(&components).unwrap();
        let mut stand_ins = StandIns::start().await.unwrap();
        let mut config = config::parse(CONFIG, "carinho.toml").unwrap();

        std::fs::write(components.join("crm.wasm"), "").unwrap();
        let error = turn(&mut config.clone(), &mut stand_ins, &data, &components).await.unwrap_err().to_string();
        assert!(error.contains("webhook; ") && error.contains("connector build"), "{error}");

        std::fs::write(components.join("webhook.wasm"), "").unwrap();
        turn(&mut config, &mut stand_ins, &data, &components).await.unwrap();
        let text = toml::to_string(&config).unwrap();
        let config = config::parse(&text, "demo.toml").unwrap();
        assert!(!text.contains("carinho.com.vc") && !text.contains("env:"), "{text}");

        let (crm, plain) = (&config.endpoints["crm"], &config.endpoints["plain"]);
        assert_eq!(crm.settings["base_url"], stand_ins.url("crm"));
        assert_eq!(plain.settings["url"], format!("{}/api/webhooks/events", stand_ins.url("plain")));
        assert_eq!(plain.settings["source_system"], "integracoes");
        assert_eq!(crm.hosts, [stand_ins.url("crm")]);

        let resolve = |reference| String::from_utf8(config::resolve(reference, Path::new("")).unwrap()).unwrap();
        assert_eq!(resolve(&crm.secrets["api_key"]), stand_ins.secrets("crm")["api_key"]);
        assert_eq!(resolve(&crm.secrets["other"]).len(), 32);

        // Two endpoints of one system, and what they share with a source.
        let events = &config.endpoints["crm-events"];
        assert_eq!(events.settings["url"], format!("{}/api/v1/webhooks/events", stand_ins.url("crm")));
        assert_eq!(resolve(&events.secrets["auth"]), resolve(&crm.secrets["api_key"]));
        assert_eq!(resolve(&events.secrets["legacy_signing"]), stand_ins.secrets("crm")["legacy_signing"]);
        let shared = config.sources["shared"].auth.secrets();
        assert_eq!(resolve(&shared[0].reference), resolve(&crm.secrets["other"]));
        assert_eq!(resolve(&shared[1].reference), stand_ins.secrets("crm")["legacy_signing"]);
        assert_eq!(config.endpoints["whatsapp"].settings["url"], stand_ins.url("zapi"));
        assert_eq!((stand_ins.system_of("crm-events"), stand_ins.system_of("plain")), ("crm", "plain"));
        assert_eq!(crm.settings["hub_url"], "https://integracoes.test");

        // Mail goes to the stand-in in the clear, and so without credentials.
        let smtp = config.endpoints["post"].smtp.as_ref().unwrap();
        assert_eq!(format!("smtp://{}", smtp.server), stand_ins.url(EMAIL));
        assert_eq!((smtp.tls, &*smtp.from), (Some(SmtpTls::None), "oi@c.test"));
        assert!(smtp.username.is_none() && smtp.password.is_none());

        let Auth::StandardWebhooks { secrets, .. } = &config.sources["svix"].auth else { panic!("another scheme") };
        assert!(crate::signature::standard_webhooks_key(resolve(&secrets[1].reference).as_bytes()).is_ok());
        std::fs::remove_dir_all(&data).unwrap();
    }

    #[test]
    fn the_demo_has_less_patience() {
        let mut config = config::parse(CONFIG, "carinho.toml").unwrap();
        assert_eq!(shorten_delays(&mut config), [("lead.created".to_owned(), "crm".to_owned(), 7200.0)]);
        assert_eq!(config.routes.iter().map(|route| route.delay_s).collect::<Vec<_>>(), [SHORT_DELAY_S, 5.0]);
        hasten(&mut config);
        tell_hub_url(&mut config, "http://127.0.0.1:8080");
        let crm = &config.endpoints["crm"];
        assert_eq!((crm.breaker.failures, crm.retry.delays_s.len(), crm.retry.attempts), (3, 4, 5));
        assert_eq!(crm.settings["hub_url"], "http://127.0.0.1:8080");
        assert!(config.endpoints["plain"].settings.get("hub_url").is_none());
        assert_eq!(config.check(), []);
    }
}
