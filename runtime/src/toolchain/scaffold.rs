//! The crate that `tomada connector new` writes: a connector or a mapping of ten lines, with its test.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::plugin::manifest::{Kind, MAX_NAME, is_name};

const CARGO: &str = r#"[package]
name = "$NAME"
version = "0.1.0"
edition = "2024"

[lib]
crate-type = ["cdylib"]

[dependencies]
serde = { version = "1", features = ["derive"] }
tomada-sdk = $SDK
"#;

const CONNECTOR: &str = r#"//! Delivers events to $NAME.

use tomada_sdk::prelude::*;

#[derive(Deserialize)]
struct Settings {
    base_url: String,
}

#[connector(name = "$NAME", hosts = ["settings.base_url"], secrets = ["api_key"])]
fn handle(cx: &Context<Settings>, event: Event<Json>) -> Result<Receipt, Failure> {
    let url = format!("{}/events", cx.settings.base_url);
    let request = cx.post(url).bearer(cx.secret("api_key")?).header("Idempotency-Key", &event.delivery_id);
    // An answer other than 2xx leaves here: 429 waits as told, 5xx is tried again, 401 pauses the endpoint.
    let answer = request.json(&event.payload).send()?.ok()?;
    Ok(answer.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, Run, event};

    fn run(status: u16) -> Run {
        let host = Host::new().settings(json!({"base_url": "https://$NAME.test"})).secret("api_key");
        let host = host.answer(Method::Post, "https://$NAME.test/events", status, json!({}));
        host.run(handle, event("lead.created", json!({"name": "Ana"})))
    }

    #[test]
    fn an_event_is_posted_with_the_key() {
        let run = run(201);
        assert_eq!(run.receipt().http_status, Some(201));
        assert_eq!(run.requests[0].header("authorization"), Some("Bearer {api_key}"));
        assert_eq!(run.requests[0].json(), json!({"name": "Ana"}));
    }

    #[test]
    fn a_busy_target_is_tried_again() {
        assert!(matches!(run(503).failure(), Failure::Transient(_)));
    }
}
"#;

const MAPPING: &str = r#"//! Turns the events of one system into what another wants.

use tomada_sdk::prelude::*;

#[derive(Deserialize)]
struct Lead {
    name: String,
    phone: Option<String>,
}

#[mapping(name = "$NAME")]
fn map(event: Event<Lead>) -> Result<Mapped<Json>, Detail> {
    let Lead { name, phone } = event.payload;
    let Some(phone) = phone else {
        return Ok(Mapped::Skip("the lead has no phone".into()));
    };
    Ok(Mapped::Payload(json!({"to": phone, "text": format!("Olá, {name}!")})))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, event};

    #[test]
    fn a_lead_becomes_a_message() {
        let mapped = Host::new().map(map, event("lead.created", json!({"name": "Ana", "phone": "5511999999999"})));
        assert_eq!(mapped, Ok(Mapped::Payload(json!({"to": "5511999999999", "text": "Olá, Ana!"}))));
    }

    #[test]
    fn a_lead_without_a_phone_is_skipped() {
        let mapped = Host::new().map(map, event("lead.created", json!({"name": "Ana"})));
        assert!(matches!(mapped, Ok(Mapped::Skip(_))));
    }
}
"#;

/// Writes a new crate into `dir`, which must not exist and whose last part is the name of the component. Inside this
/// repository the crate uses the SDK beside it, elsewhere the published one.
pub(crate) fn new(dir: &Path, kind: Kind) -> anyhow::Result<()> {
    let shown = dir.display();
    let dir = std::path::absolute(dir).with_context(|| format!("{shown} is no path"))?;
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ensure!(
        is_name(name),
        "a {kind} cannot be named {name:?}: use up to {MAX_NAME} lower-case letters, digits and dashes, a letter first"
    );
    ensure!(!dir.exists(), "{shown} exists: choose another name, or remove it");
    let fill = |text: &str| text.replace("$NAME", name).replace("$SDK", &sdk(&dir));
    let source = match kind {
        Kind::Connector => CONNECTOR,
        Kind::Mapping => MAPPING,
    };
    fs::create_dir_all(dir.join("src"))
        .and_then(|()| fs::write(dir.join("Cargo.toml"), fill(CARGO)))
        .and_then(|()| fs::write(dir.join("src/lib.rs"), fill(source)))
        .with_context(|| format!("cannot write the crate {shown}"))
}

/// What to depend on: a path when a directory above has the SDK's source, else the version of this program.
fn sdk(dir: &Path) -> String {
    let above = dir.ancestors().skip(1).position(|above| {
        let manifest = fs::read_to_string(above.join("sdk/Cargo.toml")).unwrap_or_default();
        manifest.lines().any(|line| line == "name = \"tomada-sdk\"")
    });
    match above {
        Some(levels) => format!("{{ path = \"{}sdk\" }}", "../".repeat(levels + 1)),
        None => format!("\"{}.{}\"", env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_uses_the_sdk_beside_it_or_the_published_one() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        new(&root.join("alone"), Kind::Mapping).unwrap();
        let alone = fs::read_to_string(root.join("alone/Cargo.toml")).unwrap();
        assert!(alone.contains("name = \"alone\"") && alone.contains("tomada-sdk = \"0.1\""), "{alone}");
        let source = fs::read_to_string(root.join("alone/src/lib.rs")).unwrap();
        assert!(source.contains("#[mapping(name = \"alone\")]"), "{source}");

        fs::create_dir(root.join("sdk")).unwrap();
        fs::write(root.join("sdk/Cargo.toml"), "[package]\nname = \"tomada-sdk\"\n").unwrap();
        new(&root.join("connectors/slack"), Kind::Connector).unwrap();
        let beside = fs::read_to_string(root.join("connectors/slack/Cargo.toml")).unwrap();
        assert!(beside.contains("tomada-sdk = { path = \"../../sdk\" }"), "{beside}");
        let source = fs::read_to_string(root.join("connectors/slack/src/lib.rs")).unwrap();
        assert!(source.contains("https://slack.test/events") && source.contains("Bearer {api_key}"), "{source}");
    }

    #[test]
    fn what_is_there_is_not_touched_and_names_are_checked() {
        let root = tempfile::tempdir().unwrap();
        let said = new(root.path(), Kind::Mapping).unwrap_err().to_string();
        assert!(said.contains("cannot be named") || said.contains("exists"), "{said}");
        fs::create_dir(root.path().join("taken")).unwrap();
        assert!(new(&root.path().join("taken"), Kind::Mapping).unwrap_err().to_string().contains("exists"));
        for name in ["Slack", "9to5", "a_b", "a b", "-a", "a-"] {
            let said = new(&root.path().join(name), Kind::Connector).unwrap_err().to_string();
            assert!(said.contains("cannot be named"), "{name}: {said}");
        }
    }
}
