//! Carinho's own systems: a hex HMAC-SHA256 of the body, in one of three headers.

use super::*;

pub(super) fn verify<'a>(keys: &Secrets<MacKey>, request: &Signed<'a>, now_ms: u64) -> Result<Verified<'a>, Reason> {
    let offered = signature(request.headers)?;
    let secret = keys.find(now_ms, |key| same(&offered, key.sign(&[request.body]).as_ref()))?;
    Ok(Verified { id: None, secret })
}

/// Two of the headers would leave open which one counts.
fn signature(headers: &HeaderMap) -> Result<Digest, Reason> {
    let found = (
        optional(headers, "x-webhook-signature")?,
        optional(headers, "x-signature")?,
        optional(headers, "x-hub-signature-256")?,
    );
    match found {
        (None, None, None) => Err(Reason::MissingHeader),
        (Some(bare), None, None) | (None, Some(bare), None) => bare_hex(bare),
        (None, None, Some(prefixed)) => bare_hex(prefixed.strip_prefix(b"sha256=").ok_or(Reason::MalformedSignature)?),
        _ => Err(Reason::AmbiguousSignature),
    }
}
