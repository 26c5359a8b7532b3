//! What the host lends to a guest: convert, check the grant, delegate. Everything a guest hands over is hostile until
//! bounded.

use std::time::Duration;

use super::bindings::{clock, http, log, mail, random, secrets, types};
use crate::clock::random_bytes;
use crate::outbound::{self, Checked, mail as post};
use crate::plugin::state::{Lent, State};
use crate::signature::{MacKey, hmac_key, sign_ed25519};

/// Bytes of random that one call may ask for.
const MAX_RANDOM: u32 = 1024;
/// HTTP requests of one call.
const MAX_REQUESTS: u32 = 1000;
/// E-mails of one call.
const MAX_MAILS: u32 = 20;
/// What a request or a message leaves of a call's time, at most: the guest has to say what became of it.
const LAST_WORDS: Duration = Duration::from_millis(100);

impl types::Host for State {}

impl log::Host for State {
    fn write(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Trace => "trace",
            log::Level::Debug => "debug",
            log::Level::Info => "info",
            log::Level::Warn => "warn",
            log::Level::Error => "error",
        };
        self.log.line(level, &message);
    }

    fn panicked(&mut self, message: String, file: String, line: u32) {
        self.panicked(&message, &file, line);
    }
}

impl http::Host for State {
    async fn send(&mut self, request: http::Request) -> Result<http::Response, http::Error> {
        let Some(lent) = &mut self.lent else {
            return Err(http::Error::Denied("a mapping has no way out of the sandbox".into()));
        };
        lent.requests += 1;
        if lent.requests > MAX_REQUESTS {
            return Err(http::Error::Invalid(format!("at most {MAX_REQUESTS} requests can be sent in one call")));
        }
        let asks_only = matches!(request.method, http::Method::Get | http::Method::Head);
        let (checked, request) = fill_in(lent, request)?;
        // From here on it may have been taken, also when this call is ended before there is an answer.
        let before = self.taken;
        self.taken |= !asks_only;
        let response = lent.outbound.send_checked(&lent.endpoint.policy, checked, request).await;
        if was_not_taken(&response) {
            self.taken = before;
        }
        let response = response?;
        Ok(http::Response { status: response.status, headers: response.headers, body: response.body.into() })
    }
}

/// Whether it is certain that the target did nothing with a request.
fn was_not_taken(response: &Result<outbound::Response, outbound::Error>) -> bool {
    match response {
        Ok(response) => response.status >= 400,
        Err(outbound::Error::Denied(_) | outbound::Error::Invalid(_) | outbound::Error::Unreachable(_)) => true,
        Err(outbound::Error::Timeout | outbound::Error::Interrupted(_) | outbound::Error::TooLarge(_)) => false,
    }
}

/// Makes the request that goes out: secrets in the place of their placeholders, the deadline in the place of a wish.
fn fill_in(lent: &Lent, request: http::Request) -> Result<(Checked<'_>, outbound::Request), outbound::Error> {
    let left = time_left(lent);
    let wish = request.timeout_ms.map(|ms| Duration::from_millis(ms.into()));
    let mut filled = outbound::Request {
        method: match request.method {
            http::Method::Get => outbound::Method::GET,
            http::Method::Head => outbound::Method::HEAD,
            http::Method::Post => outbound::Method::POST,
            http::Method::Put => outbound::Method::PUT,
            http::Method::Patch => outbound::Method::PATCH,
            http::Method::Delete => outbound::Method::DELETE,
        },
        url: request.url,
        headers: request.headers,
        body: request.body.into(),
        timeout: wish.map_or(left, |wish| wish.min(left)),
    };
    // Before any secret goes in: only for a host that is granted, and that the manifest declares. Each secret of an
    // endpoint is bound to its hosts.
    let mut checked = lent.endpoint.policy.check(&filled.url)?;
    if !lent.declared.host(checked.host(), &lent.endpoint) {
        return Err(outbound::Error::Denied(format!(
            "host {} is not declared by the connector's manifest: add it to `hosts` there",
            checked.host()
        )));
    }
    let mut url_changed = false;
    for (placeholder, secret) in &lent.placeholders {
        let value = lent.secret(secret).unwrap_or_default();
        let in_text = std::str::from_utf8(value);
        url_changed |= filled.url.contains(placeholder);
        for text in std::iter::once(&mut filled.url).chain(filled.headers.iter_mut().map(|(_, value)| value)) {
            if text.contains(placeholder) {
                let value = in_text.map_err(|_| {
                    outbound::Error::Invalid(format!("secret {secret:?} is not text: it fits only into a body"))
                })?;
                *text = text.replace(placeholder, value);
            }
        }
        if let Some(at) = find(&filled.body, placeholder.as_bytes()) {
            filled.body = replace(&filled.body, at, placeholder.as_bytes(), value).into();
        }
    }
    if url_changed {
        // A value may have moved the host (a placeholder before the path).
        checked = lent.endpoint.policy.check(&filled.url)?;
    }
    Ok((checked, filled))
}

fn time_left(lent: &Lent) -> Duration {
    let left = lent.deadline.saturating_duration_since(tokio::time::Instant::now());
    left - LAST_WORDS.min(left / 10)
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

fn replace(bytes: &[u8], first: usize, needle: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + value.len());
    let (mut rest, mut at) = (bytes, Some(first));
    while let Some(place) = at {
        out.extend_from_slice(&rest[..place]);
        out.extend_from_slice(value);
        rest = &rest[place + needle.len()..];
        at = find(rest, needle);
    }
    out.extend_from_slice(rest);
    out
}

impl From<outbound::Error> for http::Error {
    fn from(error: outbound::Error) -> http::Error {
        match error {
            outbound::Error::Denied(why) => http::Error::Denied(why),
            outbound::Error::Invalid(why) => http::Error::Invalid(why),
            outbound::Error::Timeout => http::Error::Timeout,
            outbound::Error::Unreachable(why) => http::Error::Unreachable(why),
            outbound::Error::Interrupted(why) => http::Error::Interrupted(why),
            outbound::Error::TooLarge(limit) => http::Error::TooLarge(limit),
        }
    }
}

impl mail::Host for State {
    async fn send(&mut self, message: mail::Message) -> Result<mail::Sent, mail::Error> {
        let Some(lent) = &mut self.lent else {
            return Err(mail::Error::Denied("a mapping has no way out of the sandbox".into()));
        };
        let Some(smtp) = &lent.endpoint.smtp else {
            let endpoint = &lent.endpoint.name;
            let why = format!("endpoint {endpoint:?} may send no e-mail: add `smtp` with `server` and `from` to it");
            return Err(mail::Error::Denied(why));
        };
        lent.mails += 1;
        if lent.mails > MAX_MAILS {
            return Err(mail::Error::Invalid(format!("at most {MAX_MAILS} e-mails can be sent in one call")));
        }
        let mail::Message { to, subject, text, html, reply_to } = message;
        let id = format!("{}.{}", lent.delivery, lent.mails);
        let message = post::Message { to, subject, text, html, reply_to, id, now_ms: lent.clock.now_ms() };
        let left = time_left(lent);
        let before = std::mem::replace(&mut self.taken, true);
        let sent = lent.outbound.send_mail(smtp, message, left).await;
        if !matches!(sent, Ok(_) | Err(post::Error::Interrupted(_))) {
            self.taken = before;
        }
        Ok(mail::Sent { message_id: sent? })
    }
}

impl From<post::Error> for mail::Error {
    fn from(error: post::Error) -> mail::Error {
        match error {
            post::Error::Denied(why) => mail::Error::Denied(why),
            post::Error::Invalid(why) => mail::Error::Invalid(why),
            post::Error::Unreachable(why) => mail::Error::Unreachable(why),
            post::Error::Interrupted(why) => mail::Error::Interrupted(why),
            post::Error::Refused { code, permanent, message } => {
                mail::Error::Refused(mail::Refusal { code, permanent, message })
            }
            post::Error::Unauthorized(why) => mail::Error::Unauthorized(why),
        }
    }
}

impl secrets::Host for State {
    fn placeholder(&mut self, name: String) -> Result<String, secrets::Error> {
        let lent = self.lent_secret(&name)?;
        if let Some((placeholder, _)) = lent.placeholders.iter().find(|(_, secret)| *secret == name) {
            return Ok(placeholder.clone());
        }
        // Drawn anew for each call, so that a payload cannot bring a placeholder along and have it filled in.
        let placeholder = format!("tomada-secret-{}", hex::encode(random_bytes::<16>()));
        lent.placeholders.push((placeholder.clone(), name));
        Ok(placeholder)
    }

    fn hmac_sha256(&mut self, name: String, data: Vec<u8>) -> Result<Vec<u8>, secrets::Error> {
        let lent = self.lent_secret(&name)?;
        let value = lent.secret(&name).unwrap_or_default();
        let key = hmac_key(value).map_err(|problem| unusable(&name, &problem))?;
        Ok(MacKey::sha256(&key).sign(&[&data]).as_ref().to_vec())
    }

    fn sign_ed25519(&mut self, name: String, data: Vec<u8>) -> Result<Vec<u8>, secrets::Error> {
        let lent = self.lent_secret(&name)?;
        let value = lent.secret(&name).unwrap_or_default();
        let signature = sign_ed25519(value, &data).map_err(|problem| unusable(&name, &problem))?;
        Ok(signature.to_vec())
    }
}

/// A secret that is there and is no key is for the guest as good as none, and never a reason to sign with something else.
fn unusable(name: &str, problem: &str) -> secrets::Error {
    secrets::Error::Missing(format!("the secret {name:?} {problem}"))
}

impl State {
    fn lent_secret(&mut self, name: &str) -> Result<&mut Lent, secrets::Error> {
        let missing = |why| Err(secrets::Error::Missing(why));
        let Some(lent) = &mut self.lent else { return missing("a mapping has no secrets".into()) };
        if lent.secret(name).is_none() {
            let endpoint = &lent.endpoint.name;
            return missing(format!("endpoint {endpoint:?} has no secret {name:?}: add it to its `secrets`"));
        }
        if !lent.declared.secrets.iter().any(|declared| declared == name) {
            return missing(format!("the manifest does not declare the secret {name:?}: add it to `secrets` there"));
        }
        Ok(lent)
    }
}

impl clock::Host for State {
    fn now_ms(&mut self) -> u64 {
        self.lent.as_ref().map_or(0, |lent| lent.clock.now_ms())
    }
}

impl random::Host for State {
    fn bytes(&mut self, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len.min(MAX_RANDOM) as usize];
        getrandom::fill(&mut bytes).expect("the system has a random generator");
        bytes
    }
}
