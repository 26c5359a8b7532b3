//! Twilio: a base64 HMAC-SHA1 of the URL that it posts to and of the form's parameters; with a body that is no form, of the
//! URL, whose query then has the body's digest.
//! <https://www.twilio.com/docs/usage/security#validating-requests>
//!
//! The URL is the configured one: what a request says about how it was reached (`Host`, `X-Forwarded-…`) is not proved.

use std::collections::BTreeSet;

use super::*;

pub(super) fn verify<'a>(
    keys: &Secrets<MacKey>,
    public_url: &str,
    request: &Signed<'a>,
    now_ms: u64,
) -> Result<Verified<'a>, Reason> {
    let header = required(request.headers, "x-twilio-signature")?;
    let offered: [u8; 20] = base64(header).ok_or(Reason::MalformedSignature)?;
    let rest = signed_rest(request.target, request.body)?;
    let urls = urls(public_url, request.target);
    let secret = keys.find(now_ms, |key| {
        urls.iter().any(|url| same(&offered, key.sign(&[url.as_bytes(), rest.as_bytes()]).as_ref()))
    })?;
    // Names and values are signed one after the other with nothing between, so that several bodies have one signature.
    // They are one message.
    Ok(Verified { id: Some(hex::encode(offered).into()), secret })
}

/// The header's value for a request to `target` (path and query).
///
/// # Errors
/// The query has a digest, and it is not the body's.
pub(crate) fn sign(token: &[u8], public_url: &str, target: &str, body: &[u8]) -> Result<String, Reason> {
    let rest = signed_rest(target, body)?;
    let key = MacKey::new(crate::config::Algorithm::Sha1, token);
    Ok(STANDARD.encode(key.sign(&[public_url.as_bytes(), target.as_bytes(), rest.as_bytes()])))
}

/// What is signed after the URL. Which of the two it is, is said by the URL, which is signed, and not by a header.
fn signed_rest(target: &str, body: &[u8]) -> Result<String, Reason> {
    if let Some(digest) = single_parameter(query(target), "bodySHA256")? {
        let wanted = bare_hex(digest.as_bytes())?;
        return if same(&wanted, &Sha256::digest(body)) { Ok(String::new()) } else { Err(Reason::WrongSignature) };
    }
    // In the order of names, then of values, each pair once.
    let parameters: BTreeSet<_> = url::form_urlencoded::parse(body).collect();
    Ok(parameters.iter().flat_map(|(name, value)| [&**name, &**value]).collect())
}

/// With and without the port that the scheme implies: Twilio has signed both.
fn urls(public_url: &str, target: &str) -> Vec<String> {
    let mut urls = vec![format!("{public_url}{target}")];
    let Some((scheme, rest)) = public_url.split_once("://") else { return urls };
    let port = if scheme == "http" { ":80" } else { ":443" };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if let Some(host) = authority.strip_suffix(port) {
        urls.push(format!("{scheme}://{host}{path}{target}"));
    } else if !authority.rsplit(']').next().is_some_and(|end| end.contains(':')) {
        urls.push(format!("{scheme}://{authority}{port}{path}{target}"));
    }
    urls
}
