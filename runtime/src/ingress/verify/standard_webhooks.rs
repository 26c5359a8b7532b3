//! Standard Webhooks, v1 (HMAC-SHA256) and v1a (Ed25519) over `id.timestamp.body`, and Svix, which is the same under other
//! names: a list of signatures of which one must fit.
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
//! <https://docs.svix.com/receiving/verifying-payloads/how-manual>

use super::*;
use crate::signature::{PublicKey, sign_ed25519};

const STANDARD_NAMES: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];
const SVIX_NAMES: [&str; 3] = ["svix-id", "svix-timestamp", "svix-signature"];

pub(super) struct Scheme {
    keys: Secrets<Key>,
    tolerance_s: u64,
    /// Whether the headers may have Svix' names.
    svix: bool,
}

/// What a key is, and so which version it proves, is said by the configured secret and never by the request.
enum Key {
    V1(MacKey),
    V1a(PublicKey),
}

impl Scheme {
    pub(super) fn prepare(
        dates: &[Secret],
        values: &[Vec<u8>],
        tolerance_s: u64,
        svix: bool,
    ) -> Result<Scheme, String> {
        let keys = Secrets::new(dates, values, |value| {
            if value.starts_with(b"whpk_") {
                PublicKey::read(value).map(Key::V1a)
            } else {
                standard_webhooks_key(value).map(|key| Key::V1(MacKey::sha256(&key)))
            }
        })?;
        Ok(Scheme { keys, tolerance_s, svix })
    }

    pub(super) fn verify<'a>(&self, request: &Signed<'a>, now_ms: u64) -> Result<Verified<'a>, Reason> {
        let [id, timestamp, signatures] = self.names(request.headers)?;
        let id = required(request.headers, id)?;
        let timestamp = required(request.headers, timestamp)?;
        let signatures = required(request.headers, signatures)?;

        let id = std::str::from_utf8(id).map_err(|_| Reason::MalformedId)?;
        // A full stop in the id would let the same bytes be read as another id and timestamp.
        if id.is_empty() || id.len() > MAX_ID || id.contains('.') || id.chars().any(char::is_control) {
            return Err(Reason::MalformedId);
        }
        let signed_s = seconds(timestamp)?;
        let offered = self.decode(signatures)?;

        let parts = [id.as_bytes(), b".", timestamp, b".", request.body];
        let secret = self.keys.find(now_ms, |key| match key {
            Key::V1(key) => {
                let expected = key.sign(&parts);
                offered.v1.iter().any(|signature| same(signature, expected.as_ref()))
            }
            Key::V1a(key) => {
                !offered.v1a.is_empty() && {
                    let message = parts.concat();
                    offered.v1a.iter().any(|signature| key.fits(&message, signature))
                }
            }
        })?;
        within(signed_s, self.tolerance_s, now_ms)?;
        Ok(Verified { id: Some(id.into()), secret })
    }

    /// A mixture would leave open which of the headers count.
    fn names(&self, headers: &HeaderMap) -> Result<[&'static str; 3], Reason> {
        let any = |names: [&str; 3]| names.iter().any(|name| headers.contains_key(*name));
        match (self.svix, any(SVIX_NAMES), any(STANDARD_NAMES)) {
            (true, true, true) => Err(Reason::AmbiguousSignature),
            (true, true, false) => Ok(SVIX_NAMES),
            _ => Ok(STANDARD_NAMES),
        }
    }

    /// The well-formed signatures of a space-separated list, of the versions that there are keys for. Other versions are
    /// for other receivers.
    fn decode(&self, list: &[u8]) -> Result<Offered, Reason> {
        let entries = || list.split(|&byte| byte == b' ').filter(|entry| !entry.is_empty());
        if entries().count() > MAX_SIGNATURES {
            return Err(Reason::TooManySignatures);
        }
        let has = |v1a: bool| self.keys.0.iter().any(|(_, key)| matches!(key, Key::V1a(_)) == v1a);
        let (takes_v1, takes_v1a) = (has(false), has(true));
        let mut offered = Offered::default();
        let mut known_version = false;
        for entry in entries() {
            if let Some(encoded) = entry.strip_prefix(b"v1,").filter(|_| takes_v1) {
                known_version = true;
                offered.v1.extend(base64::<32>(encoded));
            } else if let Some(encoded) = entry.strip_prefix(b"v1a,").filter(|_| takes_v1a) {
                known_version = true;
                offered.v1a.extend(base64::<64>(encoded));
            }
        }
        if !known_version {
            return Err(Reason::UnknownVersion);
        }
        if offered.v1.is_empty() && offered.v1a.is_empty() {
            return Err(Reason::MalformedSignature);
        }
        Ok(offered)
    }
}

#[derive(Default)]
struct Offered {
    v1: Vec<[u8; 32]>,
    v1a: Vec<[u8; 64]>,
}

/// The headers `<names>-id`, `-timestamp` and `-signature`; by v1a with a secret `whsk_…`, by v1 with any other.
pub(super) fn sign(
    names: &str,
    secret: &[u8],
    id: &str,
    timestamp: u64,
    body: &[u8],
) -> Result<Vec<(String, String)>, String> {
    let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    let signature = if secret.starts_with(b"whsk_") {
        format!(
            "v1a,{}",
            STANDARD.encode(sign_ed25519(secret, &signed).map_err(|problem| format!("the secret {problem}"))?)
        )
    } else {
        let key = standard_webhooks_key(secret).map_err(|problem| format!("the secret {problem}"))?;
        format!("v1,{}", STANDARD.encode(MacKey::sha256(&key).sign(&[&signed])))
    };
    Ok(vec![
        (format!("{names}-id"), id.to_owned()),
        (format!("{names}-timestamp"), timestamp.to_string()),
        (format!("{names}-signature"), signature),
    ])
}
