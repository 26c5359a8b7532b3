//! Who sent it? Proves a request's origin from its raw bytes, by the scheme that the source's configuration names.
//!
//! Pure: no clock, no I/O. The scheme, the keys and the algorithm are never chosen by the request. Whatever is wrong
//! has one [`Reason`], which is for logs and metrics; the sender is told 401 and nothing else.

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::config::Auth;

/// A list of signatures longer than this is an attack on our CPU, not a rotation.
const MAX_SIGNATURES: usize = 16;
/// Bytes of one header that takes part in the verification.
const MAX_HEADER: usize = 8 * 1024;
/// Bytes of a `webhook-id`; longer ones would not fit the idempotency key.
const MAX_ID: usize = 255;
/// Bytes of a signed link's token.
const MAX_LINK: usize = 2048;
/// Characters of a path token: 22 of base64url are 128 bits.
const MIN_TOKEN: usize = 22;

/// How one source proves who it is, with its live secrets: prepared once, used for each request.
pub(crate) struct Scheme(Kind);

enum Kind {
    StandardWebhooks { keys: Vec<Key>, tolerance_s: u64 },
    Github { keys: Vec<Key> },
    HmacHex { keys: Vec<Key> },
    PathToken { digests: Vec<[u8; 32]> },
    SignedLink { keys: Vec<Key> },
}

/// HMAC state after the key was taken in; cloning it saves two of the four compressions of a short message.
type Key = Hmac<Sha256>;
type Digest = [u8; 32];

/// What of a request takes part in the verification.
pub(crate) struct Signed<'a> {
    pub(crate) headers: &'a HeaderMap,
    /// As received: before any decompression, charset or JSON.
    pub(crate) body: &'a [u8],
    /// The last segment of the path, where the webhook's path says `{token}`.
    pub(crate) token: Option<&'a str>,
}

/// A request whose origin is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verified<'a> {
    /// The sender's id of the message, where the signature covers one.
    pub(crate) id: Option<&'a str>,
    /// Which of the secrets it was, in the order of the configuration: an old one that is never seen can be retired.
    pub(crate) secret: usize,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    MissingHeader,
    DuplicateHeader,
    HeaderTooLarge,
    /// More than one of the legacy signature headers.
    AmbiguousSignature,
    MalformedId,
    MalformedTimestamp,
    MalformedSignature,
    TooManySignatures,
    /// The list holds no signature of a version that we know.
    UnknownVersion,
    WrongSignature,
    /// Signed correctly, but too long ago: a late retry of the sender, a replay, or our clock.
    Stale,
    /// Signed correctly, but in our future: the sender's clock or ours.
    Future,
    MissingToken,
    WrongToken,
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
        }
    }
}

impl Scheme {
    /// `secrets` are the values of the references in `auth`, in the same order. An absent, empty or unusable secret is
    /// an error, so that a source without one is closed and not open.
    pub(crate) fn prepare(auth: &Auth, secrets: Vec<Vec<u8>>) -> Result<Scheme, String> {
        if secrets.is_empty() {
            return Err("there is no secret: a source without one would let everything in".into());
        }
        if let Some(at) = secrets.iter().position(Vec::is_empty) {
            return Err(format!("secret {} is empty: give it a value or remove the reference", at + 1));
        }
        let keys = |secrets: &[Vec<u8>]| secrets.iter().map(|secret| key(secret)).collect();
        Ok(Scheme(match auth {
            Auth::StandardWebhooks { tolerance_s, .. } => {
                let decoded = secrets.iter().enumerate().map(|(at, secret)| decode_secret(at, secret));
                Kind::StandardWebhooks {
                    keys: keys(&decoded.collect::<Result<Vec<_>, _>>()?),
                    tolerance_s: *tolerance_s,
                }
            }
            Auth::Github { .. } => Kind::Github { keys: keys(&secrets) },
            Auth::HmacHex { .. } => Kind::HmacHex { keys: keys(&secrets) },
            Auth::PathToken { .. } => {
                let digests = secrets.iter().enumerate().map(|(at, token)| digest_token(at, token));
                Kind::PathToken { digests: digests.collect::<Result<_, _>>()? }
            }
            Auth::SignedLink { .. } => Kind::SignedLink { keys: keys(&secrets) },
        }))
    }
}

/// Proves that a holder of one of the source's secrets sent this request. `now_ms` is since 1970-01-01 UTC.
pub(crate) fn verify<'a>(scheme: &Scheme, request: &Signed<'a>, now_ms: u64) -> Result<Verified<'a>, Reason> {
    match &scheme.0 {
        Kind::StandardWebhooks { keys, tolerance_s } => standard_webhooks(keys, *tolerance_s, request, now_ms),
        Kind::Github { keys } => {
            let header = required(request.headers, "x-hub-signature-256")?;
            body_only(keys, prefixed_hex(header)?, request.body)
        }
        Kind::HmacHex { keys } => body_only(keys, legacy_signature(request.headers)?, request.body),
        Kind::PathToken { digests } => path_token(digests, request.token),
        Kind::SignedLink { keys } => signed_link(keys, request.token, now_ms),
    }
}

/// Standard Webhooks v1: HMAC-SHA256 over `id.timestamp.body`, a list of signatures of which one must fit.
/// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
fn standard_webhooks<'a>(
    keys: &[Key],
    tolerance_s: u64,
    request: &Signed<'a>,
    now_ms: u64,
) -> Result<Verified<'a>, Reason> {
    let id = required(request.headers, "webhook-id")?;
    let timestamp = required(request.headers, "webhook-timestamp")?;
    let signatures = required(request.headers, "webhook-signature")?;

    let id = std::str::from_utf8(id).map_err(|_| Reason::MalformedId)?;
    // A full stop in the id would let the same bytes be read as another id and timestamp.
    if id.is_empty() || id.len() > MAX_ID || id.contains('.') || id.chars().any(char::is_control) {
        return Err(Reason::MalformedId);
    }
    let signed_s = seconds(timestamp).ok_or(Reason::MalformedTimestamp)?;

    let mut offered = [[0; 32]; MAX_SIGNATURES];
    let offered = decode_list(signatures, &mut offered)?;
    let secret = keys
        .iter()
        .position(|key| {
            let expected = mac(key, &[id.as_bytes(), b".", timestamp, b".", request.body]);
            offered.iter().any(|signature| same(signature, &expected))
        })
        .ok_or(Reason::WrongSignature)?;

    // After the signature, so that "stale" in a metric means a real sender or our clock, not noise.
    let now_s = now_ms / 1000;
    if signed_s < now_s.saturating_sub(tolerance_s) {
        return Err(Reason::Stale);
    }
    if signed_s > now_s.saturating_add(tolerance_s) {
        return Err(Reason::Future);
    }
    Ok(Verified { id: Some(id), secret })
}

fn body_only<'a>(keys: &[Key], offered: Digest, body: &[u8]) -> Result<Verified<'a>, Reason> {
    let secret = keys.iter().position(|key| same(&offered, &mac(key, &[body])));
    Ok(Verified { id: None, secret: secret.ok_or(Reason::WrongSignature)? })
}

/// Digests are compared, so that neither the content nor the length of a token shows in the time.
fn path_token<'a>(digests: &[Digest], token: Option<&str>) -> Result<Verified<'a>, Reason> {
    let token = token.filter(|token| !token.is_empty()).ok_or(Reason::MissingToken)?;
    let offered: Digest = Sha256::digest(token).into();
    let secret = digests.iter().position(|digest| same(&offered, digest));
    Ok(Verified { id: None, secret: secret.ok_or(Reason::WrongToken)? })
}

/// `base64url(claims) "." base64url(HMAC-SHA256 of the first part as it stands)`, both without padding. The claims are
/// JSON with `exp`, seconds since 1970, and are read only when the signature fits.
fn signed_link<'a>(keys: &[Key], token: Option<&str>, now_ms: u64) -> Result<Verified<'a>, Reason> {
    let token = token.filter(|token| !token.is_empty()).ok_or(Reason::MissingToken)?;
    if token.len() > MAX_LINK {
        return Err(Reason::MalformedSignature);
    }
    let (signed, signature) = token.split_once('.').ok_or(Reason::MalformedSignature)?;
    let mut offered: Digest = [0; 32];
    match URL_SAFE_NO_PAD.decode_slice(signature, &mut offered) {
        Ok(32) => {}
        _ => return Err(Reason::MalformedSignature),
    }
    let secret = keys.iter().position(|key| same(&offered, &mac(key, &[signed.as_bytes()])));
    let secret = secret.ok_or(Reason::WrongSignature)?;
    let claims = link_claims(token).ok_or(Reason::MalformedTimestamp)?;
    let expires_s = claims.get("exp").and_then(serde_json::Value::as_u64).ok_or(Reason::MalformedTimestamp)?;
    if expires_s <= now_ms / 1000 {
        return Err(Reason::Stale);
    }
    Ok(Verified { id: None, secret })
}

/// What a signed link says. Proves nothing: ask [`verify`] first.
pub(crate) fn link_claims(token: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    let (signed, _) = token.split_once('.')?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(signed).ok()?).ok()
}

/// The one header of the three that Carinho's systems send. Two of them would leave open which one counts.
fn legacy_signature(headers: &HeaderMap) -> Result<Digest, Reason> {
    let found = (
        optional(headers, "x-webhook-signature")?,
        optional(headers, "x-signature")?,
        optional(headers, "x-hub-signature-256")?,
    );
    match found {
        (None, None, None) => Err(Reason::MissingHeader),
        (Some(bare), None, None) | (None, Some(bare), None) => bare_hex(bare),
        (None, None, Some(prefixed)) => prefixed_hex(prefixed),
        _ => Err(Reason::AmbiguousSignature),
    }
}

fn required<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a [u8], Reason> {
    optional(headers, name)?.ok_or(Reason::MissingHeader)
}

/// `HeaderMap::get` returns the first of several; a proxy or the application may have read another one.
fn optional<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a [u8]>, Reason> {
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

/// Digits only: no sign, no blank, no fraction. Twelve of them last for 30,000 years.
fn seconds(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 12 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The well-formed `v1` signatures of a space-separated list. Other versions are for other receivers.
fn decode_list<'a>(list: &[u8], into: &'a mut [Digest; MAX_SIGNATURES]) -> Result<&'a [Digest], Reason> {
    let entries = || list.split(|&byte| byte == b' ').filter(|entry| !entry.is_empty());
    if entries().count() > MAX_SIGNATURES {
        return Err(Reason::TooManySignatures);
    }
    let mut known_version = false;
    let mut count = 0;
    for entry in entries() {
        let Some(encoded) = entry.strip_prefix(b"v1,") else { continue };
        known_version = true;
        if let Some(signature) = base64_digest(encoded) {
            into[count] = signature;
            count += 1;
        }
    }
    match (known_version, count) {
        (false, _) => Err(Reason::UnknownVersion),
        (true, 0) => Err(Reason::MalformedSignature),
        (true, _) => Ok(&into[..count]),
    }
}

/// Standard alphabet, padded, exactly 32 bytes.
fn base64_digest(encoded: &[u8]) -> Option<Digest> {
    // With room to notice a 33rd byte, which 44 characters can hold; what is longer does not fit and is an error.
    let mut decoded = [0; 33];
    let length = STANDARD.decode_slice(encoded, &mut decoded).ok()?;
    decoded[..length].try_into().ok()
}

fn prefixed_hex(header: &[u8]) -> Result<Digest, Reason> {
    bare_hex(header.strip_prefix(b"sha256=").ok_or(Reason::MalformedSignature)?)
}

/// Exactly 64 digits, lower or upper case: the comparison is of the decoded bytes.
fn bare_hex(header: &[u8]) -> Result<Digest, Reason> {
    let mut digest = [0; 32];
    hex::decode_to_slice(header, &mut digest).map_err(|_| Reason::MalformedSignature)?;
    Ok(digest)
}

fn mac(key: &Key, parts: &[&[u8]]) -> Digest {
    let mut mac = key.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// In constant time.
fn same(a: &Digest, b: &Digest) -> bool {
    a.ct_eq(b).into()
}

fn key(secret: &[u8]) -> Key {
    Key::new_from_slice(secret).expect("HMAC takes a key of any length")
}

/// Base64 after an optional `whsec_`, as the specification has it.
fn decode_secret(at: usize, secret: &[u8]) -> Result<Vec<u8>, String> {
    let encoded = secret.strip_prefix(b"whsec_").unwrap_or(secret);
    match STANDARD.decode(encoded) {
        Ok(decoded) if decoded.len() >= 16 => Ok(decoded),
        Ok(decoded) => Err(format!(
            "secret {} has {} bytes: a Standard Webhooks secret has 24 to 64, and fewer than 16 can be guessed",
            at + 1,
            decoded.len()
        )),
        Err(_) => Err(format!("secret {} is not base64: a Standard Webhooks secret is whsec_ and base64", at + 1)),
    }
}

/// Only characters that no proxy or client writes differently in a URL, so that the raw segment can be compared.
fn digest_token(at: usize, token: &[u8]) -> Result<Digest, String> {
    let unreserved = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    if token.len() < MIN_TOKEN || !token.iter().all(unreserved) {
        return Err(format!(
            "secret {} is no path token: it takes at least {MIN_TOKEN} characters of A-Z a-z 0-9 - . _ ~, drawn at random",
            at + 1
        ));
    }
    Ok(Sha256::digest(token).into())
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
        Scheme::prepare(auth, auth.secrets().iter().map(|secret| secret.0.clone().into_bytes()).collect())
    }

    #[test]
    fn every_case_ends_as_it_says() {
        cases::each("verify", |file, text| {
            let case: Case = toml::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            let Ok(scheme) = prepare(&case.auth) else {
                assert_eq!(case.expect, "refused", "{file}: the secrets were refused");
                return;
            };
            let mut headers = HeaderMap::new();
            for header in &case.headers {
                let value = bytes(&header.value, &header.value_hex).repeat(header.repeat);
                let name = HeaderName::from_bytes(header.name.as_bytes()).unwrap();
                headers.append(name, HeaderValue::from_bytes(&value).unwrap());
            }
            let body = bytes(&case.body, &case.body_hex);
            let request = Signed { headers: &headers, body: &body, token: case.token.as_deref() };
            match verify(&scheme, &request, case.now * 1000) {
                Ok(verified) => {
                    assert_eq!(case.expect, "verified", "{file}");
                    assert_eq!(case.id.as_deref(), verified.id, "{file}: the signed id");
                    assert_eq!(case.secret.unwrap_or(0), verified.secret, "{file}: the secret that fitted");
                }
                Err(reason) => assert_eq!(case.expect, reason.as_str(), "{file}"),
            }
        });
    }

    /// The headers that a sender adds, made with the first secret.
    fn sign(scheme: &Scheme, id: &str, now_s: &str, body: &[u8]) -> Vec<(&'static str, String)> {
        match &scheme.0 {
            Kind::StandardWebhooks { keys, .. } => {
                let mac = mac(&keys[0], &[id.as_bytes(), b".", now_s.as_bytes(), b".", body]);
                vec![
                    ("webhook-id", id.into()),
                    ("webhook-timestamp", now_s.into()),
                    ("webhook-signature", format!("v1,{}", STANDARD.encode(mac))),
                ]
            }
            Kind::Github { keys } => {
                vec![("x-hub-signature-256", format!("sha256={}", hex::encode(mac(&keys[0], &[body]))))]
            }
            Kind::HmacHex { keys } => vec![("x-webhook-signature", hex::encode(mac(&keys[0], &[body])))],
            Kind::PathToken { .. } | Kind::SignedLink { .. } => Vec::new(),
        }
    }

    #[test]
    fn what_is_signed_verifies_and_one_changed_bit_does_not() {
        let secrets = vec![crate::config::SecretRef("d2hhdCBkbyB5YSB3YW50IGZvciBub3RoaW5nPw==".into())];
        for auth in [
            Auth::StandardWebhooks { secrets: secrets.clone(), tolerance_s: 300 },
            Auth::Github { secrets: secrets.clone() },
            Auth::HmacHex { secrets: secrets.clone() },
        ] {
            let scheme = prepare(&auth).unwrap_or_else(|error| panic!("{error}"));
            let body = br#"{"name":"Ana"}"#;
            let mut headers = HeaderMap::new();
            for (name, value) in sign(&scheme, "msg_1", "1700000000", body) {
                headers.append(name, value.parse().unwrap());
            }
            let at = |body: &[u8]| {
                verify(&scheme, &Signed { headers: &headers, body, token: None }, 1_700_000_000_000).map(|_| ())
            };
            assert_eq!(at(body), Ok(()), "{auth:?}");
            for bit in 0..body.len() * 8 {
                let mut changed = body.to_vec();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(at(&changed), Err(Reason::WrongSignature), "{auth:?}, bit {bit}");
            }
        }
    }
}
