//! Where webhooks come from, how they are verified, and what they are known by.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Keep, Rate};

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
