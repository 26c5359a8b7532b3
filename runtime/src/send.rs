//! `tomada send`: a webhook as a partner would send it, signed by the scheme of its source and posted to a hub.
//!
//! Without `--key` the event's idempotency key is a digest of what is sent, so that the same JSON sent twice makes
//! one event.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _};
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::client::{Answer, Client, Running};
use crate::config::{self, Auth, BodyKind, Config, EventName, Idempotency, SecretRef};
use crate::ingress::verify::{self, mercado_pago, twilio};

/// Options of `tomada send`.
#[derive(Debug, Clone, clap::Args)]
pub struct SendOptions {
    /// The webhook, as in its path after /webhooks/, for instance site/lead
    pub webhook: String,
    /// The body
    #[arg(long, value_name = "JSON", conflicts_with = "file", required_unless_present = "file")]
    pub json: Option<String>,
    /// A file with the body, - for standard input
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Idempotency key, instead of the digest of the body
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Event type, for webhooks that read it from a header
    #[arg(long, value_name = "TYPE")]
    pub event: Option<String>,
    /// Secret to sign with, env:NAME or file:PATH, instead of the source's first one
    #[arg(long, value_name = "REF")]
    pub secret: Option<String>,
    /// How to sign, instead of what the source says
    #[arg(long, requires = "secret")]
    pub scheme: Option<Scheme>,
    /// Data directory of a hub on this machine
    #[arg(long, value_name = "DIR", default_value = "tomada-data", env = "TOMADA_DATA")]
    pub data: PathBuf,
    /// Address of the hub, instead of what the data directory says
    #[arg(long, env = "TOMADA_URL")]
    pub url: Option<String>,
    /// Print the hub's answer as it came
    #[arg(long)]
    pub raw: bool,
}

/// How a webhook is signed; the words are those of the configuration. What needs more than a secret to be said is known
/// from the hub's configuration only: `twilio`, `hmac`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scheme {
    StandardWebhooks,
    Svix,
    Github,
    Stripe,
    Slack,
    Shopify,
    Meta,
    MercadoPago,
    HmacHex,
    PathToken,
}

impl Scheme {
    pub(crate) fn word(self) -> &'static str {
        self.auth().scheme()
    }

    /// As a source would say it, without its secrets.
    fn auth(self) -> Auth {
        let (secrets, tolerance_s) = (Vec::new(), 300);
        match self {
            Scheme::StandardWebhooks => Auth::StandardWebhooks { secrets, tolerance_s },
            Scheme::Svix => Auth::Svix { secrets, tolerance_s },
            Scheme::Github => Auth::Github { secrets },
            Scheme::Stripe => Auth::Stripe { secrets, tolerance_s },
            Scheme::Slack => Auth::Slack { secrets, tolerance_s },
            Scheme::Shopify => Auth::Shopify { secrets },
            Scheme::Meta => Auth::Meta { secrets, verify_token: SecretRef(String::new()) },
            Scheme::MercadoPago => Auth::MercadoPago { secrets, tolerance_s },
            Scheme::HmacHex => Auth::HmacHex { secrets },
            Scheme::PathToken => Auth::PathToken { secrets, reason: String::new() },
        }
    }
}

/// Whether the scheme signs an id of the sender's, which is then the key.
fn signs_id(auth: &Auth) -> bool {
    match auth {
        Auth::StandardWebhooks { .. } | Auth::Svix { .. } | Auth::MercadoPago { .. } => true,
        Auth::Hmac(hmac) => hmac.id_header.is_some(),
        _ => false,
    }
}

/// Sends one webhook and prints what the hub said. The exit code is 0 when the hub took it and 1 when it refused.
///
/// # Errors
/// No hub answers, the webhook is not one of its own, the body is not JSON, or the secret cannot be read.
pub async fn run(options: &SendOptions) -> Result<ExitCode> {
    let webhook = webhook(options)?;
    let body = webhook.body(body(options)?, options.key.as_deref())?;
    let url = match &options.url {
        Some(url) => url.clone(),
        None => Running::read(&options.data)?.url,
    };
    let request = webhook.sign(body, options.key.as_deref(), options.event.as_deref(), unix_seconds())?;
    let answer = request.post(&mut Client::connect(&url, None).await?).await?;
    let taken = (200..300).contains(&answer.status);
    if options.raw {
        anstream::println!("{}", String::from_utf8_lossy(&answer.body).trim_end());
    } else if taken {
        let accepted: Accepted = answer.json()?;
        let how = if accepted.duplicate { "known already, by its idempotency key" } else { "accepted" };
        anstream::println!("{} {how}", accepted.id);
    } else {
        anstream::eprintln!("refused: {}", answer.problem());
    }
    Ok(if taken { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The hub's yes.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct Accepted {
    pub(crate) id: String,
    pub(crate) duplicate: bool,
}

/// One path of a hub with all that a sender has to know about it.
pub(crate) struct Target {
    /// May end in `/{token}`.
    path: String,
    auth: Auth,
    secret: Vec<u8>,
    idempotency: Idempotency,
    json: bool,
    /// The header that names the event, when one does.
    event_header: Option<String>,
}

/// Without its secret.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("json", &self.json).finish_non_exhaustive()
    }
}

impl Target {
    /// Finds `name` (`site/lead`, or the whole path) among the webhooks of `config`.
    ///
    /// # Errors
    /// There is none of that name (the message lists those there are), or its secret cannot be read.
    pub(crate) fn find(config: &Config, name: &str) -> Result<Target> {
        let mut known = Vec::new();
        for source in config.sources.values() {
            // People follow links, and nothing is sent.
            if matches!(source.auth, Auth::SignedLink { .. }) {
                continue;
            }
            for webhook in &source.webhooks {
                if short(&webhook.path) != short(name) {
                    known.push(short(&webhook.path));
                    continue;
                }
                let now_ms = unix_seconds() * 1000;
                let mut live = source.auth.secrets().iter().filter(|secret| secret.is_live(now_ms));
                let secret =
                    live.next().ok_or_else(|| anyhow!("the source of `{name}` has no secret that counts now"))?;
                return Ok(Target {
                    path: webhook.path.clone(),
                    auth: source.auth.clone(),
                    secret: read_secret(&secret.reference)?,
                    idempotency: source.idempotency.clone(),
                    json: webhook.body == BodyKind::Json,
                    event_header: match &webhook.event {
                        EventName::Header(header) => Some(header.header.clone()),
                        EventName::Fixed(_) | EventName::Pointer(_) => None,
                    },
                });
            }
        }
        known.sort_unstable();
        bail!("the hub has no webhook `{name}`; it has: {}", known.join(", "))
    }

    /// Checks the body and puts the key into it where the source reads the key from the body.
    fn body(&self, body: Bytes, key: Option<&str>) -> Result<Bytes> {
        if !self.json {
            return Ok(body);
        }
        let mut value: Value = serde_json::from_slice(&body).context("the body is not JSON")?;
        let (Some(key), Some(pointer)) = (key, &self.idempotency.pointer) else { return Ok(body) };
        if signs_id(&self.auth) || self.idempotency.header.is_some() {
            return Ok(body);
        }
        set(&mut value, pointer, key)?;
        Ok(serde_json::to_vec(&value)?.into())
    }

    /// The request as the source of this webhook would send it at `now_s` (Unix time, seconds).
    ///
    /// # Errors
    /// The event type or the key has no place in this webhook, or cannot be a header.
    pub(crate) fn sign(&self, body: Bytes, key: Option<&str>, event: Option<&str>, now_s: u64) -> Result<Signed> {
        let mut headers = HeaderMap::new();
        let mut header = |name: &str, value: &str| -> Result<()> {
            let name = HeaderName::try_from(name).with_context(|| format!("`{name}` is not a header"))?;
            headers.insert(name, HeaderValue::from_str(value).with_context(|| format!("`{value}` fits no header"))?);
            Ok(())
        };
        if self.json {
            header(CONTENT_TYPE.as_str(), "application/json")?;
        }
        match (&self.event_header, event) {
            (Some(name), Some(event)) => header(name, event)?,
            (Some(name), None) => bail!("this webhook reads the event type from the header {name}: add --event TYPE"),
            (None, Some(event)) => bail!("this webhook names its event by itself: leave out --event {event}"),
            (None, None) => {}
        }
        match (key, &self.idempotency) {
            (None, _) => {}
            // The signed id is the key.
            (Some(_), _) if signs_id(&self.auth) => {}
            (Some(key), Idempotency { header: Some(name), .. }) => header(name, key)?,
            (Some(_), Idempotency { pointer: Some(_), .. }) => {}
            (Some(_), _) => {
                bail!("the source of this webhook takes no key, the digest of the body is it: leave out --key")
            }
        }
        let id = key.map_or_else(|| digest_id(&body), str::to_owned);
        let mut path = self.path.clone();
        match &self.auth {
            Auth::PathToken { .. } => {
                let token = std::str::from_utf8(&self.secret).context("the path token is not text")?;
                path = path.replace("{token}", token);
            }
            Auth::Twilio { public_url, .. } => {
                if self.json {
                    path.push_str(&format!("?bodySHA256={}", hex::encode(Sha256::digest(&body))));
                } else {
                    header(CONTENT_TYPE.as_str(), "application/x-www-form-urlencoded")?;
                }
                let signature = twilio::sign(&self.secret, public_url, &path, &body);
                let signature = signature.map_err(|reason| anyhow!("it cannot be signed: {}", reason.as_str()))?;
                header("x-twilio-signature", &signature)?;
            }
            Auth::MercadoPago { .. } => {
                // Their query has the id of the body's `data`.
                let body: Option<Value> = serde_json::from_slice(&body).ok();
                let data_id = body.as_ref().and_then(|body| match body.pointer("/data/id")? {
                    Value::String(id) => Some(id.clone()),
                    other => Some(other.to_string()),
                });
                if let Some(data_id) = &data_id {
                    let query =
                        url::form_urlencoded::Serializer::new(String::new()).append_pair("data.id", data_id).finish();
                    path.push_str(&format!("?{query}"));
                }
                let signature = mercado_pago::sign(&self.secret, data_id.as_deref(), Some(&id), now_s);
                let signature = signature.map_err(|reason| anyhow!("it cannot be signed: {}", reason.as_str()))?;
                header("x-signature", &signature)?;
                header("x-request-id", &id)?;
            }
            auth => {
                for (name, value) in verify::sign(auth, &self.secret, &id, now_s, &body).map_err(|e| anyhow!(e))? {
                    header(&name, &value)?;
                }
            }
        }
        Ok(Signed { path, headers, body })
    }
}

/// A request that is ready to go.
pub(crate) struct Signed {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A signature is as good as a secret, for a while.
impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("headers", &self.headers.len()).finish_non_exhaustive()
    }
}

impl Signed {
    pub(crate) async fn post(self, client: &mut Client) -> Result<Answer> {
        client.send(Method::POST, &self.path, self.headers, self.body).await
    }
}

/// The headers that prove a webhook; none where the proof is in the path. Standard Webhooks signs `id` and
/// `timestamp` (Unix time, seconds) with the body.
///
/// # Errors
/// The secret cannot be a key of this scheme.
pub(crate) fn signature(
    scheme: Scheme,
    secret: &[u8],
    id: &str,
    timestamp: u64,
    body: &[u8],
) -> Result<Vec<(String, String)>> {
    verify::sign(&scheme.auth(), secret, id, timestamp, body).map_err(|problem| anyhow!(problem))
}

#[allow(clippy::disallowed_methods, reason = "a webhook is signed now, wherever the hub's clock stands")]
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

pub(crate) fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn digest_id(body: &[u8]) -> String {
    format!("msg_{}", hex::encode(&Sha256::digest(body)[..16]))
}

/// `site/lead` of `/webhooks/site/lead`, and of `/webhooks/site/lead/{token}`.
fn short(path: &str) -> &str {
    let path = path.trim_matches('/');
    let path = path.strip_prefix("webhooks/").unwrap_or(path);
    path.strip_suffix("/{token}").unwrap_or(path)
}

/// Puts `key` where `pointer` (RFC 6901) says; objects on the way there are made.
fn set(value: &mut Value, pointer: &str, key: &str) -> Result<()> {
    let mut here = value;
    for part in pointer.split('/').skip(1) {
        let name = part.replace("~1", "/").replace("~0", "~");
        let Value::Object(object) = here else { bail!("the body has no place for the key at {pointer}") };
        here = object.entry(name).or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    *here = Value::String(key.to_owned());
    Ok(())
}

fn webhook(options: &SendOptions) -> Result<Target> {
    let secret = options.secret.clone().map(|reference| read_secret(&SecretRef(reference))).transpose()?;
    // With both said there is nothing left to look up: this is how a hub on another machine is reached.
    if let (Some(secret), Some(scheme)) = (&secret, options.scheme) {
        let mut path = format!("/webhooks/{}", short(&options.webhook));
        if scheme == Scheme::PathToken {
            path.push_str("/{token}");
        }
        let idempotency = Idempotency { pointer: Some("/idempotency_key".into()), ..Idempotency::default() };
        let event_header = options.event.as_ref().map(|_| "x-event-type".to_owned());
        return Ok(Target { path, auth: scheme.auth(), secret: secret.clone(), idempotency, json: true, event_header });
    }
    let mut target = Target::find(&configuration(&options.data)?, &options.webhook)?;
    if let Some(secret) = secret {
        target.secret = secret;
    }
    Ok(target)
}

/// The configuration that the hub on `data` runs with; secrets are references in it.
pub(crate) fn configuration(data: &Path) -> Result<Config> {
    let file = data.join("config.json");
    let text = match std::fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Says how to start a hub when there is none; a hub without configuration is another matter.
            Running::read(data)?;
            bail!("the hub on {} has no configuration yet: `tomada apply` gives it one", data.display());
        }
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", file.display())),
    };
    serde_json::from_slice(&text).with_context(|| format!("{} is not what this version writes", file.display()))
}

fn body(options: &SendOptions) -> Result<Bytes> {
    match (&options.json, &options.file) {
        (Some(json), _) => Ok(json.clone().into()),
        (None, Some(file)) if file.as_os_str() == "-" => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body).context("standard input cannot be read")?;
            Ok(body.into())
        }
        (None, Some(file)) => {
            Ok(std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?.into())
        }
        (None, None) => bail!("nothing to send: add --json '{{…}}' or --file FILE"),
    }
}

fn read_secret(reference: &SecretRef) -> Result<Vec<u8>> {
    // A reference in the effective configuration is relative to where the hub runs, if not absolute.
    config::resolve(reference, Path::new("")).map_err(|problem| anyhow!("{problem}; or pass --secret"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn target(scheme: Scheme, secret: &str) -> Target {
        Target {
            path: "/webhooks/site/lead".into(),
            auth: scheme.auth(),
            secret: secret.into(),
            idempotency: Idempotency::default(),
            json: true,
            event_header: None,
        }
    }

    fn header<'a>(signed: &'a Signed, name: &str) -> &'a str {
        signed.headers[name].to_str().unwrap()
    }

    #[test]
    fn signatures_are_those_that_others_published() {
        // standard-webhooks/standard-webhooks, libraries/go/webhook_test.go
        let body = Bytes::from_static(br#"{"test": 2432232314}"#);
        let signed = target(Scheme::StandardWebhooks, WHSEC)
            .sign(body, Some("msg_p5jXN8AQM9LWM0D4loKWxJek"), None, 1_614_265_330)
            .unwrap();
        assert_eq!(header(&signed, "webhook-id"), "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(header(&signed, "webhook-timestamp"), "1614265330");
        assert_eq!(header(&signed, "webhook-signature"), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");

        // docs.github.com, "Validating webhook deliveries"
        let body = Bytes::from_static(b"Hello, World!");
        let hex = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let github = target(Scheme::Github, "It's a Secret to Everybody").sign(body.clone(), None, None, 0).unwrap();
        assert_eq!(header(&github, "x-hub-signature-256"), format!("sha256={hex}"));
        let legacy = target(Scheme::HmacHex, "It's a Secret to Everybody").sign(body, None, None, 0).unwrap();
        assert_eq!(header(&legacy, "x-webhook-signature"), hex);
    }

    #[test]
    fn the_same_body_has_the_same_id_and_another_body_another() {
        let id = |body: &'static str| {
            let signed =
                target(Scheme::StandardWebhooks, WHSEC).sign(Bytes::from_static(body.as_bytes()), None, None, 7);
            header(&signed.unwrap(), "webhook-id").to_owned()
        };
        assert_eq!(id("{}"), id("{}"));
        assert_ne!(id("{}"), id("{ }"));
    }

    #[test]
    fn a_path_token_is_the_last_segment() {
        let mut target = target(Scheme::PathToken, "t0k3n");
        target.path = "/webhooks/whatsapp/{token}".into();
        assert_eq!(target.sign(Bytes::new(), None, None, 0).unwrap().path, "/webhooks/whatsapp/t0k3n");
    }

    #[test]
    fn a_key_goes_where_the_source_looks_for_it() {
        let body = Bytes::from_static(br#"{"name":"Ana"}"#);
        let mut target = target(Scheme::HmacHex, "s");
        let error = target.sign(body.clone(), Some("k"), None, 0).unwrap_err();
        assert!(error.to_string().contains("--key"), "{error}");

        target.idempotency.pointer = Some("/meta/idempotency_key".into());
        let keyed = target.body(body.clone(), Some("k")).unwrap();
        assert_eq!(keyed, r#"{"meta":{"idempotency_key":"k"},"name":"Ana"}"#);
        assert_eq!(target.body(body.clone(), None).unwrap(), body);

        target.idempotency = Idempotency { header: Some("Idempotency-Key".into()), ..Idempotency::default() };
        assert_eq!(header(&target.sign(body, Some("k"), None, 0).unwrap(), "idempotency-key"), "k");
    }

    #[test]
    fn an_event_type_is_asked_for_where_a_header_carries_it_and_nowhere_else() {
        let mut target = target(Scheme::HmacHex, "s");
        assert!(target.sign(Bytes::new(), None, Some("x"), 0).is_err());
        target.event_header = Some("X-Event-Type".into());
        assert!(target.sign(Bytes::new(), None, None, 0).unwrap_err().to_string().contains("--event"));
        let signed = target.sign(Bytes::new(), None, Some("lead.created"), 0).unwrap();
        assert_eq!(header(&signed, "x-event-type"), "lead.created");
    }

    #[test]
    fn what_is_wrong_with_a_body_is_said_with_its_place() {
        let error = target(Scheme::HmacHex, "s").body(Bytes::from_static(b"{\"name\":\n \"Ana\",}"), None).unwrap_err();
        assert!(format!("{error:#}").contains("line 2 column 8"), "{error:#}");
    }

    #[test]
    fn an_unknown_webhook_lists_the_known_ones() {
        let config: Config = toml::from_str(
            r#"
            [sources.site]
            auth = { scheme = "hmac-hex", secrets = ["env:TOMADA_TEST_UNSET"] }
            webhooks = [
                { path = "/webhooks/site/lead", event = "lead.created", queue = "integrations-high" },
                { path = "/webhooks/whatsapp/{token}", event = "whatsapp.raw", queue = "integrations-high" },
            ]
            "#,
        )
        .unwrap();
        let error = Target::find(&config, "site/leed").unwrap_err().to_string();
        assert_eq!(error, "the hub has no webhook `site/leed`; it has: site/lead, whatsapp");
        let error = Target::find(&config, "/webhooks/site/lead").unwrap_err();
        assert!(error.to_string().contains("TOMADA_TEST_UNSET"), "{error}");
    }
}
