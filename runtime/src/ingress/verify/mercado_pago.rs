//! Mercado Pago: a hex HMAC-SHA256 of `id:<data.id>;request-id:<x-request-id>;ts:<ts>;`, without the parts that a request
//! does not have. The body is not signed, so it proves nothing: what changed has to be fetched.
//! <https://www.mercadopago.com/developers/en/docs/your-integrations/notifications/webhooks>

use super::*;

pub(super) fn verify<'a>(
    keys: &Secrets<MacKey>,
    tolerance_s: u64,
    request: &Signed<'a>,
    now_ms: u64,
) -> Result<Verified<'a>, Reason> {
    let header = required(request.headers, "x-signature")?;
    let request_id = optional(request.headers, "x-request-id")?;
    let data_id = single_parameter(query(request.target), "data.id")?;
    let (mut timestamp, mut offered) = (None, None);
    for entry in header.split(|&byte| byte == b',') {
        let entry = entry.trim_ascii();
        if let Some(value) = entry.strip_prefix(b"ts=")
            && timestamp.replace(value).is_some()
        {
            return Err(Reason::MalformedTimestamp);
        }
        if let Some(value) = entry.strip_prefix(b"v1=")
            && offered.replace(value).is_some()
        {
            return Err(Reason::TooManySignatures);
        }
    }
    let offered = bare_hex(offered.ok_or(Reason::UnknownVersion)?)?;
    let timestamp = timestamp.ok_or(Reason::MalformedTimestamp)?;
    // Documented in seconds and seen in milliseconds.
    let signed_s = match timestamp.len() {
        13 => number(timestamp)? / 1000,
        _ => seconds(timestamp)?,
    };

    let timestamp = std::str::from_utf8(timestamp).map_err(|_| Reason::MalformedTimestamp)?;
    let request_id = request_id.map(std::str::from_utf8).transpose().map_err(|_| Reason::MalformedId)?;
    let signed = manifest(data_id.as_deref(), request_id, timestamp)?;
    let secret = keys.find(now_ms, |key| same(&offered, key.sign(&[signed.as_bytes()]).as_ref()))?;
    within(signed_s, tolerance_s, now_ms)?;
    // Never the digest of the body, which anybody could change to make one message several.
    let id = request_id.map_or_else(|| Cow::Owned(signed.clone()), |id| Cow::Owned(id.to_owned()));
    Ok(Verified { id: Some(id), secret })
}

/// The value of `x-signature`.
///
/// # Errors
/// One of the ids could be read as two parts.
pub(crate) fn sign(
    secret: &[u8],
    data_id: Option<&str>,
    request_id: Option<&str>,
    timestamp: u64,
) -> Result<String, Reason> {
    let signed = manifest(data_id, request_id, &timestamp.to_string())?;
    let signature = hex::encode(MacKey::sha256(secret).sign(&[signed.as_bytes()]));
    Ok(format!("ts={timestamp},v1={signature}"))
}

/// The id in lower case, as it is documented to be signed.
fn manifest(data_id: Option<&str>, request_id: Option<&str>, timestamp: &str) -> Result<String, Reason> {
    let mut signed = String::new();
    for (name, value) in [("id", data_id.map(str::to_ascii_lowercase)), ("request-id", request_id.map(str::to_owned))] {
        let Some(value) = value else { continue };
        // What has a part's end in it could be read as two.
        if value.is_empty() || value.len() > MAX_ID || value.contains(|c: char| c == ';' || c.is_control()) {
            return Err(Reason::MalformedId);
        }
        signed.push_str(&format!("{name}:{value};"));
    }
    signed.push_str(&format!("ts:{timestamp};"));
    Ok(signed)
}
