//! A configuration turned towards the stand-ins: the same sources, routes and components, with target systems on the
//! loopback and secrets made up for the occasion. Nothing in it can reach the real systems.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use url::Url;

use super::standins::{StandIns, random};
use crate::config::{Auth, Config, Endpoint, SecretRef};
use crate::keys::write_private;

/// Rewrites `config`. Secrets go to files in `data`, which is absolute, as is `components`.
///
/// # Errors
/// A component is not built, or a file cannot be written.
pub async fn turn(config: &mut Config, stand_ins: &mut StandIns, data: &Path, components: &Path) -> Result<()> {
    let secrets = Secrets { directory: &data.join("secrets") };
    secrets.make_directory()?;
    for (name, source) in &mut config.sources {
        let standard = matches!(source.auth, Auth::StandardWebhooks { .. });
        for (n, reference) in source.auth.secrets_mut().iter_mut().enumerate() {
            // 32 hexadecimal digits are base64 as well, of 24 bytes.
            let value = if standard { format!("whsec_{}", random()?) } else { random()? };
            *reference = secrets.keep(&format!("source-{name}-{n}"), &value)?;
        }
    }
    for (name, endpoint) in &mut config.endpoints {
        stand_ins.add(name).await?;
        point(endpoint, stand_ins.url(name))?;
        for (secret, reference) in &mut endpoint.secrets {
            let value = match stand_ins.secrets(name).get(secret.as_str()) {
                Some(expected) => expected.clone(),
                None => random()?,
            };
            *reference = secrets.keep(&format!("endpoint-{name}-{secret}"), &value)?;
        }
    }
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

/// Sends an endpoint to `url`: every address in its settings keeps its path only.
fn point(endpoint: &mut Endpoint, url: &str) -> Result<()> {
    let target = Url::parse(url)?;
    let port = target.port().context("a stand-in has a port")?;
    let mut pointed = false;
    for setting in endpoint.settings.values_mut() {
        let Some(mut address) = setting.as_str().and_then(|text| Url::parse(text).ok()) else { continue };
        if !matches!(address.scheme(), "http" | "https") {
            continue;
        }
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
    endpoint.hosts = vec![url.to_owned()];
    endpoint.allow_private = vec![format!("127.0.0.1/32:{port}")];
    Ok(())
}

struct Secrets<'a> {
    directory: &'a Path,
}

impl Secrets<'_> {
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

        [endpoints.crm]
        connector = "crm"
        hosts = ["crm.carinho.com.vc"]
        settings = { base_url = "https://crm.carinho.com.vc" }
        secrets = { api_key = "env:CRM", other = "env:OTHER" }

        [endpoints.plain]
        connector = "webhook"
        hosts = ["plain.carinho.com.vc"]
        settings = { url = "https://plain.carinho.com.vc/api/webhooks/events", source_system = "integracoes" }

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
        let Auth::StandardWebhooks { secrets, .. } = &config.sources["svix"].auth else { panic!("another scheme") };
        assert!(crate::send::standard_webhooks_key(resolve(&secrets[1]).as_bytes()).is_ok());
        std::fs::remove_dir_all(&data).unwrap();
    }
}
