//! Who sent it? Proves a request's origin from its raw bytes, by the scheme that the source's configuration names.
//!
//! Pure: no clock, no I/O. The scheme, the keys and the algorithm are never chosen by the request. Whatever is wrong
//! has one [`Reason`], which is for logs and metrics; the sender is told 401 and nothing else.
//!
//! A family of schemes is a file: `standard_webhooks` (and Svix), `hmac` (GitHub, Meta, Stripe, Slack, Shopify and what
//! a source describes itself), `legacy` (Carinho's), `twilio`, `mercado_pago`, `token` (paths and links).

pub(crate) mod hmac;
mod legacy;
pub(crate) mod mercado_pago;
mod standard_webhooks;
mod token;
pub(crate) mod twilio;

use std::borrow::Cow;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::config::{Auth, Secret};
use crate::signature::{MacKey, standard_webhooks_key};

pub(crate) use token::link_claims;

/// A list of signatures longer than this is an attack on our CPU, not a rotation.
const MAX_SIGNATURES: usize = 16;
/// Bytes of one header that takes part in the verification.
const MAX_HEADER: usize = 8 * 1024;
/// Bytes of a message's id; longer ones would not fit the idempotency key.
const MAX_ID: usize = 255;
/// Bytes of the challenge that a GET may ask to have back.
const MAX_CHALLENGE: usize = 512;

/// How one source proves who it is, with its secrets: prepared once, used for each request.
pub(crate) struct Scheme(Kind);

enum Kind {
    StandardWebhooks(standard_webhooks::Scheme),
    Hmac { rule: hmac::Rule, keys: Secrets<MacKey> },
    Slack { rule: hmac::Rule, keys: Secrets<MacKey> },
    Meta { rule: hmac::Rule, keys: Secrets<MacKey>, verify_token: Digest },
    HmacHex { keys: Secrets<MacKey> },
    Twilio { keys: Secrets<MacKey>, public_url: String },
    MercadoPago { keys: Secrets<MacKey>, tolerance_s: u64 },
    PathToken { digests: Secrets<Digest> },
    SignedLink { keys: Secrets<MacKey> },
}

type Digest = [u8; 32];

/// What of a request takes part in the verification.
pub(crate) struct Signed<'a> {
    pub(crate) headers: &'a HeaderMap,
    /// Path and query as they were received.
    pub(crate) target: &'a str,
    /// As received: before any decompression, charset or JSON.
    pub(crate) body: &'a [u8],
    /// The last segment of the path, where the webhook's path says `{token}`.
    pub(crate) token: Option<&'a str>,
}

/// A request whose origin is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verified<'a> {
    /// What tells the message from others, where the signature covers something else than the body alone: the sender's
    /// id of it, or what stands for all the signed bytes.
    pub(crate) id: Option<Cow<'a, str>>,
    /// Which of the secrets it was, in the order of the configuration: an old one that is never seen can be retired.
    pub(crate) secret: usize,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    MissingHeader,
    DuplicateHeader,
    HeaderTooLarge,
    /// Two kinds of headers that could each have the signature.
    AmbiguousSignature,
    MalformedId,
    MalformedTimestamp,
    MalformedSignature,
    TooManySignatures,
    /// The list holds no signature of a version that we have a key for.
    UnknownVersion,
    WrongSignature,
    /// Signed correctly, but too long ago: a late retry of the sender, a replay, or our clock.
    Stale,
    /// Signed correctly, but in our future: the sender's clock or ours.
    Future,
    MissingToken,
    WrongToken,
    /// Not one of the source's secrets counts now.
    NoLiveSecret,
}

impl Reason {
    /// The word for logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::MissingHeader => "missing-header",
            Reason::DuplicateHeader => "duplicate-header",
            Reason::HeaderTooLarge => "header-too-large",
            Reason::AmbiguousSignature => "ambiguous-signature",
            Reason::MalformedId => "malformed-id",
            Reason::MalformedTimestamp => "malformed-timestamp",
            Reason::MalformedSignature => "malformed-signature",
            Reason::TooManySignatures => "too-many-signatures",
            Reason::UnknownVersion => "unknown-version",
            Reason::WrongSignature => "wrong-signature",
            Reason::Stale => "stale",
            Reason::Future => "future",
            Reason::MissingToken => "missing-token",
            Reason::WrongToken => "wrong-token",
            Reason::NoLiveSecret => "no-live-secret",
        }
    }
}

impl Scheme {
    /// `values` are those of the references in `auth`, in the order of [`Auth::references`]. An absent, empty or unusable
    /// secret is an error, so that a source without one is closed and not open.
    pub(crate) fn prepare(auth: &Auth, mut values: Vec<Vec<u8>>) -> Result<Scheme, String> {
        let dates = auth.secrets();
        if dates.is_empty() {
            return Err("there is no secret: a source without one would let everything in".into());
        }
        if let Some(at) = values.iter().position(Vec::is_empty) {
            return Err(format!("secret {} is empty: give it a value or remove the reference", at + 1));
        }
        let others = values.split_off(dates.len().min(values.len()));
        let macs = |algorithm| Secrets::new(dates, &values, |value| Ok(MacKey::new(algorithm, value)));
        let sha256 = || macs(crate::config::Algorithm::Sha256);
        Ok(Scheme(match auth {
            Auth::StandardWebhooks { tolerance_s, .. } => {
                Kind::StandardWebhooks(standard_webhooks::Scheme::prepare(dates, &values, *tolerance_s, false)?)
            }
            Auth::Svix { tolerance_s, .. } => {
                Kind::StandardWebhooks(standard_webhooks::Scheme::prepare(dates, &values, *tolerance_s, true)?)
            }
            Auth::Meta { .. } => Kind::Meta {
                rule: hmac::Rule::of(auth).ok_or("there is no rule for this scheme")?,
                keys: sha256()?,
                verify_token: Sha256::digest(others.first().ok_or("there is no verify token")?).into(),
            },
            Auth::Slack { .. } => {
                Kind::Slack { rule: hmac::Rule::of(auth).ok_or("there is no rule for this scheme")?, keys: sha256()? }
            }
            Auth::Github { .. } | Auth::Stripe { .. } | Auth::Shopify { .. } | Auth::Hmac(_) => {
                let rule = hmac::Rule::of(auth).ok_or("there is no rule for this scheme")?;
                let keys = macs(rule.algorithm())?;
                Kind::Hmac { rule, keys }
            }
            Auth::HmacHex { .. } => Kind::HmacHex { keys: sha256()? },
            Auth::Twilio { public_url, .. } => {
                Kind::Twilio { keys: macs(crate::config::Algorithm::Sha1)?, public_url: public_url.clone() }
            }
            Auth::MercadoPago { tolerance_s, .. } => Kind::MercadoPago { keys: sha256()?, tolerance_s: *tolerance_s },
            Auth::PathToken { .. } => Kind::PathToken { digests: Secrets::new(dates, &values, token::digest)? },
            Auth::SignedLink { .. } => Kind::SignedLink { keys: sha256()? },
        }))
    }

    /// What a GET that asks whether this is the right place is answered with: the challenge in its query, when it has the
    /// source's verify token. None where the scheme has no such question.
    ///
    /// <https://developers.facebook.com/docs/graph-api/webhooks/getting-started#verification-requests>
    pub(crate) fn challenge(&self, query: &str) -> Option<Result<String, Reason>> {
        let Kind::Meta { verify_token, .. } = &self.0 else { return None };
        let value = |name| single_parameter(query, name);
        let (mode, token, challenge) = (value("hub.mode"), value("hub.verify_token"), value("hub.challenge"));
        let (Ok(Some(mode)), Ok(Some(token)), Ok(Some(challenge))) = (mode, token, challenge) else {
            return Some(Err(Reason::MissingToken));
        };
        // Digests are compared, so that neither the content nor the length of the token shows in the time.
        let right = same(&Sha256::digest(token.as_bytes()), verify_token);
        let asked = mode == "subscribe" && challenge.len() <= MAX_CHALLENGE;
        Some(if right && asked { Ok(challenge.into_owned()) } else { Err(Reason::WrongToken) })
    }
}

impl Scheme {
    /// What a verified message is answered with that is no event but asks whether this is the right place.
    ///
    /// <https://docs.slack.dev/reference/events/url_verification>
    pub(crate) fn asks(&self, body: &[u8]) -> Option<String> {
        let Kind::Slack { .. } = &self.0 else { return None };
        let kind = super::key::pointer(body, "/type")?;
        let challenge = super::key::pointer(body, "/challenge")?.as_str()?.to_owned();
        (kind == "url_verification" && challenge.len() <= MAX_CHALLENGE).then_some(challenge)
    }
}

/// Proves that a holder of one of the source's live secrets sent this request. `now_ms` is since 1970-01-01 UTC.
pub(crate) fn verify<'a>(scheme: &Scheme, request: &Signed<'a>, now_ms: u64) -> Result<Verified<'a>, Reason> {
    match &scheme.0 {
        Kind::StandardWebhooks(scheme) => scheme.verify(request, now_ms),
        Kind::Hmac { rule, keys } | Kind::Slack { rule, keys } | Kind::Meta { rule, keys, .. } => {
            rule.verify(keys, request, now_ms)
        }
        Kind::HmacHex { keys } => legacy::verify(keys, request, now_ms),
        Kind::Twilio { keys, public_url } => twilio::verify(keys, public_url, request, now_ms),
        Kind::MercadoPago { keys, tolerance_s } => mercado_pago::verify(keys, *tolerance_s, request, now_ms),
        Kind::PathToken { digests } => token::path(digests, request.token, now_ms),
        Kind::SignedLink { keys } => token::link(keys, request.token, now_ms),
    }
}

/// The headers that a sender adds to prove a body, for the schemes that sign no more than id, time and body. `timestamp`
/// is Unix time, seconds.
///
/// # Errors
/// The secret is none of this scheme, or the scheme signs something else.
pub(crate) fn sign(
    auth: &Auth,
    secret: &[u8],
    id: &str,
    timestamp: u64,
    body: &[u8],
) -> Result<Vec<(String, String)>, String> {
    match auth {
        Auth::StandardWebhooks { .. } => standard_webhooks::sign("webhook", secret, id, timestamp, body),
        Auth::Svix { .. } => standard_webhooks::sign("svix", secret, id, timestamp, body),
        Auth::HmacHex { .. } => {
            Ok(vec![("x-webhook-signature".into(), hex::encode(MacKey::sha256(secret).sign(&[body])))])
        }
        Auth::PathToken { .. } => Ok(Vec::new()),
        _ => match hmac::Rule::of(auth) {
            Some(rule) => Ok(rule.sign(secret, id, timestamp, body)),
            None => Err(format!("a body alone cannot be signed by scheme {}", auth.scheme())),
        },
    }
}

/// The secrets of a source, prepared, each with its dates.
struct Secrets<K>(Vec<(Secret, K)>);

impl<K> Secrets<K> {
    fn new(
        dates: &[Secret],
        values: &[Vec<u8>],
        prepare: impl Fn(&[u8]) -> Result<K, String>,
    ) -> Result<Secrets<K>, String> {
        let keys = dates.iter().zip(values).enumerate().map(|(at, (dates, value))| {
            let key = prepare(value).map_err(|problem| format!("secret {} {problem}", at + 1))?;
            Ok((dates.clone(), key))
        });
        keys.collect::<Result<_, String>>().map(Secrets)
    }

    /// The first live one that fits.
    fn find(&self, now_ms: u64, fits: impl Fn(&K) -> bool) -> Result<usize, Reason> {
        let mut live = self.0.iter().enumerate().filter(|(_, (dates, _))| dates.is_live(now_ms)).peekable();
        if live.peek().is_none() {
            return Err(Reason::NoLiveSecret);
        }
        live.find(|(_, (_, key))| fits(key)).map(|(at, _)| at).ok_or(Reason::WrongSignature)
    }
}

fn required<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a [u8], Reason> {
    optional(headers, name)?.ok_or(Reason::MissingHeader)
}

/// `HeaderMap::get` returns the first of several; a proxy or the application may have read another one.
fn optional<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, Reason> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Reason::DuplicateHeader);
    }
    match first.map(|value| value.as_bytes()) {
        Some(value) if value.len() > MAX_HEADER => Err(Reason::HeaderTooLarge),
        value => Ok(value),
    }
}

fn query(target: &str) -> &str {
    target.split_once('?').map_or("", |(_, query)| query)
}

/// The one value of a parameter of a query, decoded.
fn single_parameter<'a>(query: &'a str, name: &str) -> Result<Option<Cow<'a, str>>, Reason> {
    let mut found = url::form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
    let first = found.next().map(|(_, value)| value);
    if found.next().is_some() { Err(Reason::DuplicateHeader) } else { Ok(first) }
}

/// Digits only: no sign, no blank, no fraction. Twelve of them last for 30,000 years.
fn seconds(text: &[u8]) -> Result<u64, Reason> {
    if text.is_empty() || text.len() > 12 {
        return Err(Reason::MalformedTimestamp);
    }
    number(text)
}

fn number(text: &[u8]) -> Result<u64, Reason> {
    if !text.iter().all(u8::is_ascii_digit) {
        return Err(Reason::MalformedTimestamp);
    }
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Reason::MalformedTimestamp)
}

/// To be asked after the signature, so that "stale" in a metric means a real sender or our clock, not noise.
fn within(signed_s: u64, tolerance_s: u64, now_ms: u64) -> Result<(), Reason> {
    let now_s = now_ms / 1000;
    if signed_s < now_s.saturating_sub(tolerance_s) {
        return Err(Reason::Stale);
    }
    if signed_s > now_s.saturating_add(tolerance_s) {
        return Err(Reason::Future);
    }
    Ok(())
}

/// Standard alphabet, padded, exactly `N` bytes.
fn base64<const N: usize>(encoded: &[u8]) -> Option<[u8; N]> {
    // With room for what the last characters can hold beyond; what is longer does not fit and is an error.
    let mut decoded = [0; 96];
    let length = STANDARD.decode_slice(encoded, decoded.get_mut(..N.div_ceil(3) * 3)?).ok()?;
    decoded[..length].try_into().ok()
}

/// Exactly 64 digits, lower or upper case: the comparison is of the decoded bytes.
fn bare_hex(header: &[u8]) -> Result<Digest, Reason> {
    let mut digest = [0; 32];
    hex::decode_to_slice(header, &mut digest).map_err(|_| Reason::MalformedSignature)?;
    Ok(digest)
}

/// In constant time, where both have the length that the algorithm has.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cases;
    use axum::http::{HeaderName, HeaderValue};
    use serde::Deserialize;

    /// One file of `tests/cases/verify`. The secrets of `auth` are the values themselves here, not references.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        auth: Auth,
        #[serde(default)]
        headers: Vec<Header>,
        #[serde(default)]
        body: String,
        body_hex: Option<String>,
        token: Option<String>,
        /// Path and query.
        #[serde(default)]
        target: String,
        /// The query of a GET that asks for its challenge, which is then what is tried.
        get: Option<String>,
        /// What it is answered with.
        answer: Option<String>,
        /// Seconds since 1970.
        #[serde(default)]
        now: u64,
        /// "verified", a reason, or "refused" when the secrets already are.
        expect: String,
        secret: Option<usize>,
        id: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Header {
        name: String,
        #[serde(default)]
        value: String,
        value_hex: Option<String>,
        /// How many times the value is written, one after the other.
        #[serde(default = "once")]
        repeat: usize,
    }

    fn once() -> usize {
        1
    }

    fn bytes(text: &str, in_hex: &Option<String>) -> Vec<u8> {
        in_hex.as_ref().map_or_else(|| text.as_bytes().to_vec(), |digits| hex::decode(digits).unwrap())
    }

    fn prepare(auth: &Auth) -> Result<Scheme, String> {
        Scheme::prepare(auth, auth.references().map(|(_, secret)| secret.0.clone().into_bytes()).collect())
    }

    #[test]
    fn every_case_ends_as_it_says() {
        cases::each("verify", |file, text| {
            let case: Case = toml::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            let Ok(scheme) = prepare(&case.auth) else {
                assert_eq!(case.expect, "refused", "{file}: the secrets were refused");
                return;
            };
            if let Some(query) = &case.get {
                match scheme.challenge(query) {
                    None => assert_eq!(case.expect, "no challenge", "{file}"),
                    Some(Ok(answer)) => {
                        assert_eq!((&*case.expect, case.answer), ("challenge", Some(answer)), "{file}");
                    }
                    Some(Err(reason)) => assert_eq!(case.expect, reason.as_str(), "{file}"),
                }
                return;
            }
            let mut headers = HeaderMap::new();
            for header in &case.headers {
                let value = bytes(&header.value, &header.value_hex).repeat(header.repeat);
                let name = HeaderName::from_bytes(header.name.as_bytes()).unwrap();
                headers.append(name, HeaderValue::from_bytes(&value).unwrap());
            }
            let body = bytes(&case.body, &case.body_hex);
            let request = Signed { headers: &headers, target: &case.target, body: &body, token: case.token.as_deref() };
            match verify(&scheme, &request, case.now * 1000) {
                Ok(verified) => {
                    assert_eq!(case.expect, "verified", "{file}");
                    assert_eq!(case.id.as_deref(), verified.id.as_deref(), "{file}: the signed id");
                    assert_eq!(case.secret.unwrap_or(0), verified.secret, "{file}: the secret that fitted");
                }
                Err(reason) => assert_eq!(case.expect, reason.as_str(), "{file}"),
            }
        });
    }

    /// What `tomada send` makes of a message is what the door takes, and nothing near it.
    #[test]
    fn what_is_signed_verifies_and_one_changed_bit_does_not() {
        let whsec = "whsec_d2hhdCBkbyB5YSB3YW50IGZvciBub3RoaW5nPw==";
        for (scheme, secret, more) in [
            ("standard-webhooks", whsec, ""),
            ("svix", whsec, ""),
            ("github", "s", ""),
            ("stripe", "whsec_s", ""),
            ("slack", "s", ""),
            ("shopify", "s", ""),
            ("meta", "s", "verify_token = 't'"),
            ("hmac-hex", "s", ""),
            (
                "hmac",
                "s",
                "header = 'X-Sign'\nfield = 'v2'\nid_header = 'X-Id'\ntimestamp_field = 'time'\nalgorithm = 'sha512'\n\
                 encoding = 'base64'\nsigned = '{id}:{timestamp}:{body}:end'",
            ),
            (
                "hmac",
                "s",
                "header = 'X-Sign'\nprefix = 'k '\ntimestamp_header = 'X-Time'\nalgorithm = 'sha1'\nsigned = '{body}.{timestamp}'",
            ),
        ] {
            let auth: Auth = toml::from_str(&format!("scheme = '{scheme}'\nsecrets = ['{secret}']\n{more}"))
                .unwrap_or_else(|error| panic!("{scheme}: {error}"));
            let body = br#"{"name":"Ana"}"#;
            let mut headers = HeaderMap::new();
            for (name, value) in sign(&auth, secret.as_bytes(), "msg_1", 1_700_000_000, body).unwrap() {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
            let scheme = prepare(&auth).unwrap_or_else(|error| panic!("{error}"));
            let at = |body: &[u8], now_s: u64| {
                verify(&scheme, &Signed { headers: &headers, target: "/", body, token: None }, now_s * 1000).map(|_| ())
            };
            assert_eq!(at(body, 1_700_000_000), Ok(()), "{auth:?}");
            if headers.len() > 1
                || !matches!(
                    auth,
                    Auth::Github { .. } | Auth::Shopify { .. } | Auth::Meta { .. } | Auth::HmacHex { .. }
                )
            {
                assert_eq!(at(body, 1_700_000_301), Err(Reason::Stale), "{auth:?}");
                assert_eq!(at(body, 1_699_999_699), Err(Reason::Future), "{auth:?}");
            }
            for bit in 0..body.len() * 8 {
                let mut changed = body.to_vec();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(at(&changed, 1_700_000_000), Err(Reason::WrongSignature), "{auth:?}, bit {bit}");
            }
        }
    }
}
