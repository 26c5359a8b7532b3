//! Proof in the path: an unguessable segment, or a link that was signed by the hub's own connectors.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

/// Bytes of a signed link's token.
const MAX_LINK: usize = 2048;
/// Characters of a path token: 22 of base64url are 128 bits.
const MIN_TOKEN: usize = 22;

/// Digests are compared, so that neither the content nor the length of a token shows in the time.
pub(super) fn path<'a>(digests: &Secrets<Digest>, token: Option<&str>, now_ms: u64) -> Result<Verified<'a>, Reason> {
    let token = token.filter(|token| !token.is_empty()).ok_or(Reason::MissingToken)?;
    let offered: Digest = Sha256::digest(token).into();
    let secret = digests.find(now_ms, |digest| same(&offered, digest)).map_err(|reason| match reason {
        Reason::WrongSignature => Reason::WrongToken,
        other => other,
    })?;
    Ok(Verified { id: None, secret })
}

/// `base64url(claims) "." base64url(HMAC-SHA256 of the first part as it stands)`, both without padding. The claims are
/// JSON with `exp`, seconds since 1970, and are read only when the signature fits.
pub(super) fn link<'a>(keys: &Secrets<MacKey>, token: Option<&str>, now_ms: u64) -> Result<Verified<'a>, Reason> {
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
    let secret = keys.find(now_ms, |key| same(&offered, key.sign(&[signed.as_bytes()]).as_ref()))?;
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

/// Only characters that no proxy or client writes differently in a URL, so that the raw segment can be compared.
pub(super) fn digest(token: &[u8]) -> Result<Digest, String> {
    let unreserved = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    if token.len() < MIN_TOKEN || !token.iter().all(unreserved) {
        return Err(format!(
            "is no path token: it takes at least {MIN_TOKEN} characters of A-Z a-z 0-9 - . _ ~, drawn at random"
        ));
    }
    Ok(Sha256::digest(token).into())
}
