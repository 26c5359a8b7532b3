//! What `tomada.toml` may say: sources, endpoints, routes, mappings, queues, connectors. One checked [`Config`];
//! whatever is wrong is said with file, line and what was meant, and nothing is applied.
//!
//! `read` turns text into the structs, `check` says what they may not hold, `files` reads files and environment.
//! All but `files` is pure.

#[cfg(test)]
pub(crate) mod cases;
mod check;
mod files;
mod keep;
mod near;
mod read;
pub(crate) mod times;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use check::is_name;
pub use keep::Keep;

pub use files::{load, load_with_secrets, resolve};
pub use read::parse;

/// A configuration that passed every check. Names are the keys of the maps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub sources: BTreeMap<String, Source>,
    pub endpoints: BTreeMap<String, Endpoint>,
    pub routes: Vec<Route>,
    pub mappings: BTreeMap<String, Mapping>,
    pub queues: BTreeMap<String, Queue>,
    pub schedules: BTreeMap<String, Schedule>,
    pub sync_jobs: BTreeMap<String, SyncJob>,
    pub connectors: BTreeMap<String, Connector>,
    #[serde(skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    #[serde(skip_serializing_if = "Retention::is_empty")]
    pub retention: Retention,
}

/// How long what is kept, from a day on that each says. What is owed is kept in any case, until it is not owed any more.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// What events say and what was said about them, since they were accepted; 30 days. Sources and endpoints may have
    /// times of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Keep>,
    /// Dead letters with the content of their events, since they were given up; 90 days, and at least as long as content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<Keep>,
    /// Messages and logs of attempts, since the event was accepted; 30 days, and never longer than content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logs: Option<Keep>,
    /// The record of each attempt: when, how long, how it ended; 180 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Keep>,
    /// The record of events and deliveries without content; 365 days, and never shorter than what belongs to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Keep>,
    /// How long a repetition is recognised as one; 365 days, and never shorter than content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_keys: Option<Keep>,
    /// Runs of sync jobs, since they began; 180 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_jobs: Option<Keep>,
    /// The audit log; 5 years.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Keep>,
}

impl Retention {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Retention::default()
    }

    pub(crate) fn content(&self) -> Keep {
        self.content.unwrap_or(Keep::days(30))
    }

    pub(crate) fn dead_letters(&self) -> Keep {
        self.dead_letters.unwrap_or(Keep::days(90))
    }

    pub(crate) fn logs(&self) -> Keep {
        self.logs.unwrap_or(Keep::days(30))
    }

    pub(crate) fn attempts(&self) -> Keep {
        self.attempts.unwrap_or(Keep::days(180))
    }

    pub(crate) fn events(&self) -> Keep {
        self.events.unwrap_or(Keep::days(365))
    }

    pub(crate) fn idempotency_keys(&self) -> Keep {
        self.idempotency_keys.unwrap_or(Keep::days(365))
    }

    pub(crate) fn sync_jobs(&self) -> Keep {
        self.sync_jobs.unwrap_or(Keep::days(180))
    }

    pub(crate) fn audit(&self) -> Keep {
        self.audit.unwrap_or(Keep::days(5 * 365))
    }
}

/// What holds for everybody who comes to this hub's doors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests of one API key; 60 a minute, 100 at once, unless said otherwise. The machine's own key is not counted
    /// on the machine itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Rate>,
    /// Requests from one address (IPv4) or /64 (IPv6) that do not prove who sent them; 60 a minute, 100 at once, unless
    /// said otherwise. Local and private addresses are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Rate>,
    /// Networks of reverse proxies, CIDR: what they say in `X-Forwarded-For` is believed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub proxies: Vec<String>,
}

impl Limits {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Limits::default()
    }
}

/// So many requests per minute in the long run, and at most `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// 0 is no limit.
    pub per_minute: u32,
    pub burst: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Rate { per_minute: 60, burst: 100 }
    }
}

/// The queues that exist without being declared, with their fewest and most workers.
const DEFAULT_QUEUES: [(&str, (u32, u32)); 5] = [
    ("integrations-high", (2, 5)),
    ("integrations", (3, 10)),
    ("notifications", (2, 2)),
    ("integrations-low", (1, 1)),
    ("integrations-retry", (1, 1)),
];

impl Config {
    /// The configuration with the five queues that need not be declared; what is declared stays as it is.
    pub fn with_default_queues(mut self) -> Config {
        for (name, workers) in DEFAULT_QUEUES {
            self.queues.entry(name.into()).or_insert(Queue { workers, in_flight: default_in_flight() });
        }
        self
    }

    /// Every problem of a configuration that did not come from text, for instance as JSON over the API.
    pub fn check(&self) -> Vec<Problem> {
        let findings = check::check(self).into_iter();
        findings.map(|finding| Problem { file: String::new(), line: 0, column: 0, message: finding.message }).collect()
    }
}

/// One thing that is wrong with a configuration, for the person who wrote it. Never repeats the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Empty when the configuration did not come from a file.
    pub file: String,
    /// From 1; 0 when the place is not known.
    pub line: usize,
    /// In characters, from 1; 0 when the place is not known.
    pub column: usize,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem { file, line: 0, .. } if file.is_empty() => f.write_str(&self.message),
            Problem { file, line: 0, .. } => write!(f, "{file}: {}", self.message),
            Problem { file, line, column, .. } => write!(f, "{file}:{line}:{column}: {}", self.message),
        }
    }
}

impl std::error::Error for Problem {}

/// Whether a text may name events: 1 to 128 characters of `a-z`, `0-9`, `.`, `_` and `-`.
pub fn is_event_type(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
}

/// Where webhooks come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub auth: Auth,
    #[serde(default)]
    pub idempotency: Idempotency,
    #[serde(default)]
    pub webhooks: Vec<Webhook>,
    /// Request headers that are stored with the event and shown to connectors, lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_headers: Vec<String>,
    /// Requests that prove to be this source's; without it as many as come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Its events are sealed at rest, and whatever comes of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sensitive: bool,
    /// Where its events name people, who can then be found, and their data exported and erased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub personal: Vec<Personal>,
    /// Of its events' content, instead of the general time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Keep>,
    /// For the record of processing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processing: Option<SourceProcessing>,
}

/// Why personal data comes from a source, as the record of processing says it (LGPD, art. 37). Texts are Brazilian
/// Portuguese, of 500 characters at most; what is left out is named as missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceProcessing {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub purpose: String,
    /// Article and item, for instance `art. 11, II, f`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub basis: String,
    /// Of data, for instance `contato`, `saúde`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
    /// Whose data, for instance `clientes`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
}

/// Who gets personal data at an endpoint, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointProcessing {
    /// Who runs the system.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub recipient: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub purpose: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub basis: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    /// Where the data goes: two letters, ISO 3166-1. Another one than BR is an international transfer (art. 33).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub country: String,
    /// What allows the transfer to another country.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub safeguard: String,
}

/// Where an event names a person, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Personal {
    /// A JSON pointer (RFC 6901); the segment `*` stands for each element of a list.
    pub pointer: String,
    pub kind: PersonalKind,
}

/// A small number in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i64)]
pub enum PersonalKind {
    /// The number of a Brazilian taxpayer, with or without punctuation.
    Cpf = 0,
    Phone = 1,
    Email = 2,
}

impl PersonalKind {
    /// The word of the configuration.
    pub(crate) fn word(self) -> &'static str {
        match self {
            PersonalKind::Cpf => "cpf",
            PersonalKind::Phone => "phone",
            PersonalKind::Email => "email",
        }
    }
}

/// How a source proves who it is. Never chosen by the request.
///
/// `tolerance_s` is how far the signed time may be from the hub's, to either side, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "scheme", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Auth {
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`. A secret `whsec_…` proves by v1 (HMAC),
    /// a public key `whpk_…` by v1a (Ed25519).
    StandardWebhooks {
        secrets: Vec<Secret>,
        #[serde(default = "default_tolerance_s")]
        tolerance_s: u64,
    },
    /// The same under the names `svix-…`, or `webhook-…` where the sender hides whose product it uses.
    Svix {
        secrets: Vec<Secret>,
        #[serde(default = "default_tolerance_s")]
        tolerance_s: u64,
    },
    /// `X-Hub-Signature-256: sha256=<hex>`.
    Github { secrets: Vec<Secret> },
    /// `Stripe-Signature: t=<seconds>,v1=<hex>`; the secret is used as it stands, `whsec_` included.
    Stripe {
        secrets: Vec<Secret>,
        #[serde(default = "default_tolerance_s")]
        tolerance_s: u64,
    },
    /// `X-Slack-Signature: v0=<hex>` and `X-Slack-Request-Timestamp`.
    Slack {
        secrets: Vec<Secret>,
        #[serde(default = "default_tolerance_s")]
        tolerance_s: u64,
    },
    /// `X-Shopify-Hmac-SHA256: <base64>`.
    Shopify { secrets: Vec<Secret> },
    /// `X-Hub-Signature-256: sha256=<hex>` by the app's secret; a GET with the verify token is answered with its challenge.
    Meta { secrets: Vec<Secret>, verify_token: SecretRef },
    /// `X-Twilio-Signature`, which covers the URL that Twilio posts to: `public_url` is what it has before the path.
    Twilio { secrets: Vec<Secret>, public_url: String },
    /// `x-signature: ts=<time>,v1=<hex>`, which covers `data.id` of the query, `x-request-id` and the time, not the body.
    MercadoPago {
        secrets: Vec<Secret>,
        #[serde(default = "default_tolerance_s")]
        tolerance_s: u64,
    },
    /// An HMAC that is described here.
    Hmac(HmacAuth),
    /// Hex HMAC-SHA256 of the body in `X-Webhook-Signature`, `X-Signature` or (with `sha256=`) `X-Hub-Signature-256`.
    HmacHex { secrets: Vec<Secret> },
    /// An unguessable last segment of the path, where the webhook's path says `{token}`. It proves nothing about the
    /// body, so it takes a reason why the sender cannot sign.
    PathToken { secrets: Vec<Secret>, reason: String },
    /// A link that a connector signed and a person follows: the last segment of `/feedback/{token}` is
    /// `base64url(claims) "." base64url(HMAC-SHA256 of the first part)`, and the claims say until when it is good. What
    /// the person answers on the page becomes the event, together with the claims.
    SignedLink { secrets: Vec<Secret> },
}

/// A sender's own HMAC: which header has the signature, how it is written, and which bytes it is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HmacAuth {
    pub secrets: Vec<Secret>,
    /// The header with the signature.
    pub header: String,
    /// What stands before the signature there, for instance `sha256=`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Where the header is a list `t=…,v1=…`: the name of the fields that are signatures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    #[serde(default)]
    pub algorithm: Algorithm,
    #[serde(default)]
    pub encoding: Encoding,
    /// The signed bytes: text with `{body}` and perhaps `{timestamp}` and `{id}` in it.
    #[serde(default = "default_signed")]
    pub signed: String,
    /// The header with the signed time, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_header: Option<String>,
    /// The field with it, where the header is a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_field: Option<String>,
    /// The header with the signed id of the message, which is then the idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_header: Option<String>,
    #[serde(default = "default_tolerance_s")]
    pub tolerance_s: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// For senders that have nothing better: broken as a digest, not as an HMAC.
    Sha1,
    #[default]
    Sha256,
    Sha512,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Hex,
    /// Standard alphabet, padded.
    Base64,
}

fn default_signed() -> String {
    "{body}".into()
}

impl Auth {
    /// Any one of them that is live proves a request.
    pub fn secrets(&self) -> &[Secret] {
        let (Auth::StandardWebhooks { secrets, .. }
        | Auth::Svix { secrets, .. }
        | Auth::Github { secrets }
        | Auth::Stripe { secrets, .. }
        | Auth::Slack { secrets, .. }
        | Auth::Shopify { secrets }
        | Auth::Meta { secrets, .. }
        | Auth::Twilio { secrets, .. }
        | Auth::MercadoPago { secrets, .. }
        | Auth::Hmac(HmacAuth { secrets, .. })
        | Auth::HmacHex { secrets }
        | Auth::PathToken { secrets, .. }
        | Auth::SignedLink { secrets }) = self;
        secrets
    }

    /// Each reference to a secret, with the key that it stands under.
    pub(crate) fn references(&self) -> impl Iterator<Item = (Vec<String>, &SecretRef)> {
        let secrets = self.secrets().iter().enumerate();
        let token = if let Auth::Meta { verify_token, .. } = self { Some(verify_token) } else { None };
        secrets
            .map(|(at, secret)| (vec!["secrets".into(), at.to_string()], &secret.reference))
            .chain(token.map(|token| (vec!["verify_token".into()], token)))
    }

    pub(crate) fn references_mut(&mut self) -> Vec<&mut SecretRef> {
        let (secrets, token) = match self {
            Auth::Meta { secrets, verify_token } => (secrets, Some(verify_token)),
            other => (other.secrets_mut(), None),
        };
        secrets.iter_mut().map(|secret| &mut secret.reference).chain(token).collect()
    }

    pub(crate) fn secrets_mut(&mut self) -> &mut Vec<Secret> {
        let (Auth::StandardWebhooks { secrets, .. }
        | Auth::Svix { secrets, .. }
        | Auth::Github { secrets }
        | Auth::Stripe { secrets, .. }
        | Auth::Slack { secrets, .. }
        | Auth::Shopify { secrets }
        | Auth::Meta { secrets, .. }
        | Auth::Twilio { secrets, .. }
        | Auth::MercadoPago { secrets, .. }
        | Auth::Hmac(HmacAuth { secrets, .. })
        | Auth::HmacHex { secrets }
        | Auth::PathToken { secrets, .. }
        | Auth::SignedLink { secrets }) = self;
        secrets
    }

    /// The word of the configuration.
    pub(crate) fn scheme(&self) -> &'static str {
        match self {
            Auth::StandardWebhooks { .. } => "standard-webhooks",
            Auth::Svix { .. } => "svix",
            Auth::Github { .. } => "github",
            Auth::Stripe { .. } => "stripe",
            Auth::Slack { .. } => "slack",
            Auth::Shopify { .. } => "shopify",
            Auth::Meta { .. } => "meta",
            Auth::Twilio { .. } => "twilio",
            Auth::MercadoPago { .. } => "mercado-pago",
            Auth::Hmac(_) => "hmac",
            Auth::HmacHex { .. } => "hmac-hex",
            Auth::PathToken { .. } => "path-token",
            Auth::SignedLink { .. } => "signed-link",
        }
    }

    /// Why the body of a request proves nothing; none where it is signed.
    pub(crate) fn unsigned(&self) -> Option<&str> {
        match self {
            Auth::PathToken { reason, .. } => Some(reason),
            Auth::MercadoPago { .. } => {
                Some("Mercado Pago signs which resource changed, not the body: fetch the resource")
            }
            _ => None,
        }
    }
}

/// One secret of a source, and when it counts: outside its dates it proves nothing. Written as the reference alone, or
/// as `{ ref = "env:…", not_before = "…", not_after = "…" }` with times as in RFC 3339, both inclusive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "WrittenSecret", into = "WrittenSecret")]
pub struct Secret {
    pub reference: SecretRef,
    pub not_before: Option<Timestamp>,
    pub not_after: Option<Timestamp>,
}

impl Secret {
    /// `now_ms` is since 1970-01-01 UTC.
    pub(crate) fn is_live(&self, now_ms: u64) -> bool {
        let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        self.not_before.is_none_or(|from| from.as_millisecond() <= now_ms)
            && self.not_after.is_none_or(|until| now_ms <= until.as_millisecond())
    }
}

impl From<SecretRef> for Secret {
    fn from(reference: SecretRef) -> Secret {
        Secret { reference, not_before: None, not_after: None }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a reference in quotes, or { ref = \"env:…\", not_before = \"2026-01-31T00:00:00Z\", not_after = \"…\" }"
)]
enum WrittenSecret {
    Reference(SecretRef),
    Dated(DatedSecret),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DatedSecret {
    #[serde(rename = "ref")]
    reference: SecretRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after: Option<Timestamp>,
}

impl From<WrittenSecret> for Secret {
    fn from(written: WrittenSecret) -> Secret {
        match written {
            WrittenSecret::Reference(reference) => reference.into(),
            WrittenSecret::Dated(DatedSecret { reference, not_before, not_after }) => {
                Secret { reference, not_before, not_after }
            }
        }
    }
}

impl From<Secret> for WrittenSecret {
    fn from(Secret { reference, not_before, not_after }: Secret) -> WrittenSecret {
        if not_before.is_none() && not_after.is_none() {
            return WrittenSecret::Reference(reference);
        }
        WrittenSecret::Dated(DatedSecret { reference, not_before, not_after })
    }
}

fn default_tolerance_s() -> u64 {
    300
}

/// A reference to a secret, never its value: `env:NAME`, `file:PATH`, `stored:NAME` for one that the hub keeps, or
/// `stored:NAME@previous` for the version before it, as long as that counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretRef(pub String);

impl SecretRef {
    /// Name of a stored secret, and whether the version before is meant.
    pub(crate) fn stored(&self) -> Option<(&str, bool)> {
        let name = self.0.strip_prefix("stored:")?;
        Some(name.strip_suffix("@previous").map_or((name, false), |name| (name, true)))
    }
}

/// Where an event's idempotency key comes from. Without any of them: the digest of the signed bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idempotency {
    /// A request header; only for `path-token`, because the other schemes do not sign it, so that a signed request could
    /// be sent again under another key. (Standard Webhooks sources use the signed `webhook-id` by themselves.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// A JSON pointer (RFC 6901) into the body, for instance `/idempotency_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Several pointers, whose values together are the key; for senders that have no id of their own for what happened.
    /// What one of them does not find counts as empty; when none finds anything, the digest of the body is the key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pointers: Vec<String>,
}

/// One path that a source posts to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Starts with `/webhooks/` (with scheme signed-link: `/feedback/`); may end in `/{token}`.
    pub path: String,
    pub event: EventName,
    pub queue: String,
    #[serde(default)]
    pub body: BodyKind,
    /// Bytes; 1 MiB unless said otherwise, 16 MiB at most.
    #[serde(default = "default_max_body")]
    pub max_body: usize,
    /// Whether `GET` on the path answers 200, with or without its token, for panels that check the URL.
    #[serde(default)]
    pub answers_get: bool,
}

fn default_max_body() -> usize {
    1 << 20
}

/// How a webhook names its event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a name, { header = \"…\" } or { pointer = \"/…\", map = { … }, default = \"…\" }")]
pub enum EventName {
    Fixed(String),
    Header(EventNameHeader),
    Pointer(EventNamePointer),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventNameHeader {
    pub header: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventNamePointer {
    pub pointer: String,
    /// Value found there → event type. Without it the value is the type.
    #[serde(default)]
    pub map: BTreeMap<String, String>,
    #[serde(default)]
    pub default: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BodyKind {
    /// Anything that is not JSON is refused with 400.
    #[default]
    Json,
    Any,
}

/// A target system: connector + settings + secrets + limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub connector: String,
    /// Handed to the connector as JSON.
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// What the operator grants: `host`, `host:port` (both HTTPS) or `http://host:port`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Private addresses that this endpoint may reach nevertheless, `CIDR:port`, for instance `127.0.0.1/32:8081`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_private: Vec<String>,
    /// Name as the connector's manifest declares it → reference.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretRef>,
    /// Lets the connector send e-mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smtp: Option<Smtp>,
    /// Deliveries in flight at the same time on one node.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// Deliveries begun per second; 0 is no limit.
    #[serde(default)]
    pub rate_per_s: u32,
    /// Wall time of one attempt, milliseconds.
    #[serde(default = "default_deadline_ms")]
    pub deadline_ms: u64,
    #[serde(default)]
    pub retry: Retry,
    #[serde(default)]
    pub breaker: Breaker,
    /// For what must not happen twice, such as messages to people, where the target cannot recognise a repetition: a try
    /// that did not end as delivered although the target may have taken a request (a crash, a deadline, a trap, a lost
    /// answer) is a dead letter for an operator, and is not repeated. Costs one more commit per try.
    #[serde(default)]
    pub at_most_once: bool,
    /// The events that go to it and those that its connector emits are sealed at rest, whatever their sources say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sensitive: bool,
    /// Where the events that its connector emits name people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub personal: Vec<Personal>,
    /// Of the content of the events that its connector emits, instead of the general time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Keep>,
    /// For the record of processing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processing: Option<EndpointProcessing>,
}

fn default_concurrency() -> u32 {
    64
}
fn default_deadline_ms() -> u64 {
    10_000
}

/// The server that takes an endpoint's e-mails, and who they come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smtp {
    /// `host:port`. A private address has to be in `allow_private` as well.
    pub server: String,
    /// Port 465: implicit; any other: starttls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<SmtpTls>,
    /// A mailbox, `Name <address>` or the address alone.
    pub from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<SecretRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
}

impl Smtp {
    /// Host and port of `server`.
    pub(crate) fn host_and_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.server.rsplit_once(':')?;
        Some((host, port.parse().ok().filter(|port| *port != 0)?))
    }

    /// Name and reference of each secret.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (&'static str, &SecretRef)> {
        [("username", &self.username), ("password", &self.password)]
            .into_iter()
            .filter_map(|(name, secret)| Some((name, secret.as_ref()?)))
    }
}

/// How an SMTP connection is protected; never only if the server happens to offer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SmtpTls {
    Starttls,
    Implicit,
    /// In the clear, which takes an address in `allow_private`.
    None,
}

/// Name, if any, and address of a mailbox: `Ana <ana@example.com>`, `"Souza, Ana" <ana@example.com>` or
/// `ana@example.com`. One only, in one line. Local parts that need quotes or are not ASCII (RFC 6531), which hardly any
/// server takes, are none; nor are addresses of more than 254 bytes.
pub(crate) fn mailbox(text: &str) -> Option<(Option<&str>, &str)> {
    let text = text.trim_matches(' ');
    let (name, address) = match text.strip_suffix('>') {
        Some(rest) => {
            let (name, address) = rest.split_once('<')?;
            let name = name.trim_matches(' ');
            (name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name), address)
        }
        None => ("", text),
    };
    let (local, domain) = address.rsplit_once('@')?;
    // RFC 5322 section 3.2.3.
    let atom = |atom: &str| {
        !atom.is_empty() && atom.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|letter| letter.is_alphanumeric() || letter == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let fits = address.len() <= 254
        && local.len() <= 64
        && local.split('.').all(atom)
        && domain.split('.').all(label)
        && name.len() <= 255
        && !name.contains(|c: char| c.is_control() || "\"<>\\".contains(c));
    fits.then_some(((!name.is_empty()).then_some(name), address))
}

/// When a transient failure is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts in all, the first included.
    pub attempts: u32,
    /// Fixed waits in seconds, the last one repeated. When empty: `base_s * factor^n`.
    pub delays_s: Vec<f64>,
    pub base_s: f64,
    pub factor: f64,
    /// Longest wait, seconds.
    pub max_s: f64,
    /// Share of the wait that is drawn at random, 0 to 1.
    pub jitter: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts: 5, delays_s: Vec::new(), base_s: 60.0, factor: 2.0, max_s: 3600.0, jitter: 0.2 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// Transient failures in a row that open it.
    pub failures: u32,
    /// How long it stays open, seconds.
    pub open_s: f64,
    /// Successes in a row that close a half-open one.
    pub successes: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker { failures: 5, open_s: 60.0, successes: 2 }
    }
}

/// Event type → endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub event: String,
    pub endpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<String>,
    /// Instead of the queue that the webhook names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Wait before the first attempt, seconds.
    #[serde(default)]
    pub delay_s: f64,
    /// Higher goes first within a queue, −100 to 100.
    #[serde(default)]
    pub priority: i8,
    /// JSON pointer of the key in whose order deliveries to this endpoint go out, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
}

/// Only events that pass it are owed to the endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    pub pointer: String,
    /// Passes when the value is equal; without it, when there is a value that is neither null nor "".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<serde_json::Value>,
}

/// A pure component with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    #[serde(default = "default_mapping_component")]
    pub component: String,
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// CPU time, milliseconds.
    #[serde(default = "default_mapping_deadline_ms")]
    pub deadline_ms: u64,
}

impl Default for Mapping {
    fn default() -> Self {
        Mapping {
            component: default_mapping_component(),
            settings: serde_json::Map::new(),
            deadline_ms: default_mapping_deadline_ms(),
        }
    }
}

fn default_mapping_component() -> String {
    "json-map".into()
}
fn default_mapping_deadline_ms() -> u64 {
    200
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Fewest and most workers on one node.
    pub workers: (u32, u32),
    /// Deliveries that each worker keeps in flight.
    #[serde(default = "default_in_flight")]
    pub in_flight: u32,
}

fn default_in_flight() -> u32 {
    16
}

/// Times at which an event comes to be by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Five fields: minute, hour, day of month, month, day of week; six with seconds in front.
    pub cron: String,
    /// IANA name, for instance `America/Sao_Paulo`.
    #[serde(default = "utc")]
    pub time_zone: String,
    pub event: String,
    #[serde(default = "default_queue")]
    pub queue: String,
    /// Of the event; `{"schedule": …, "due_at": …}` is added.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub payload: serde_json::Map<String, serde_json::Value>,
}

/// A run with a cursor. Each page is an event `sync.NAME` that one route takes; its connector emits an event for each
/// item, and answers with a cursor when there is more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncJob {
    /// As in a schedule. Without it the job runs when it is started by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    #[serde(default = "utc")]
    pub time_zone: String,
    #[serde(default = "low_queue")]
    pub queue: String,
}

impl SyncJob {
    /// The type of the events that ask for a page.
    pub fn event(name: &str) -> String {
        format!("sync.{name}")
    }
}

fn utc() -> String {
    "UTC".into()
}
fn default_queue() -> String {
    "integrations".into()
}
fn low_queue() -> String {
    "integrations-low".into()
}

/// A component file that `apply` uploads when its digest is new.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connector {
    /// Relative to the configuration file.
    pub file: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A case is a configuration that says itself, in lines that begin with `#! `, what is wrong with it.
    #[test]
    fn every_mistake_is_said_with_its_place() {
        cases::each("config", |file, text| {
            let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
            let problems = parse(text, file).err().unwrap_or_default();
            let said: Vec<String> = problems.iter().map(Problem::to_string).collect();
            let said: Vec<&str> = said.iter().filter_map(|line| line.strip_prefix(&format!("{file}:"))).collect();
            assert_eq!(said, expected, "{file}");
        });
    }

    #[test]
    fn what_is_right_survives_the_way_through_json() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../connectors/carinho.toml");
        let config = load(&[file]).unwrap_or_else(|problems| panic!("{problems:#?}")).with_default_queues();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        assert_eq!(config.check(), []);
        assert_eq!(config.queues["integrations-high"].workers, (2, 5));
    }

    #[test]
    fn a_mailbox_is_one_and_in_one_line() {
        for (text, name, address) in [
            ("ana@example.com", None, "ana@example.com"),
            (" ana.souza+x@bücher.example ", None, "ana.souza+x@bücher.example"),
            ("Carinho <nao-responda@carinho.com.vc>", Some("Carinho"), "nao-responda@carinho.com.vc"),
            ("\"Souza, Ana\" <ana@localhost>", Some("Souza, Ana"), "ana@localhost"),
            ("<ana@example.com>", None, "ana@example.com"),
        ] {
            assert_eq!(mailbox(text), Some((name, address)), "{text}");
        }
        let long = format!("{}@example.com", "a".repeat(65));
        for text in [
            "",
            "@",
            "ana",
            "ana@",
            "@example.com",
            "ana@example..com",
            "ana@-example.com",
            ".ana@example.com",
            "ana souza@example.com",
            "\"ana souza\"@example.com",
            "joão@example.com",
            "ana@example.com, eva@example.com",
            "ana@example.com,eva@example.com",
            "Ana <ana@example.com> <eva@example.com>",
            "<ana@example.com>, <eva@example.com>",
            "Ana <ana@example.com",
            "ana@example.com\r\nBcc: eva@example.com",
            "Ana\r\nBcc: eva@example.com <ana@example.com>",
            "ana@exam\0ple.com",
            &long,
        ] {
            assert_eq!(mailbox(text), None, "{text:?}");
        }
    }

    #[test]
    fn no_message_repeats_a_secret() {
        let text = "[sources.site]\nauth = { scheme = \"github\", secrets = [\"hunter2\"] }\n\
                    [sources.crm]\nauth = { scheme = \"github\", secrets = \"hunter2\" }\n\
                    [endpoints.crm]\nconnector = \"crm\"\nsecrets = { key = \"hunter2\" }\nrate_per_s = \"hunter2\"\n\
                    smtp = { server = \"a:25\", from = \"a@b.c\", username = \"hunter2\", password = \"hunter2\" }\n";
        for text in [text.to_owned(), text.replace("hunter2", "hunter2\n")] {
            let problems = parse(&text, "tomada.toml").unwrap_err();
            assert!(!format!("{problems:?}").contains("hunter2"), "{problems:#?}");
        }
    }
}
