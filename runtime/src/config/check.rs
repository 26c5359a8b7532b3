//! What a configuration may not say although its shape is right: names that lead nowhere, paths that clash, secrets
//! that are values, numbers out of range.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::near::hint;
use super::times::Times;
use super::{
    Auth, Config, DEFAULT_QUEUES, Endpoint, EventName, HmacAuth, Keep, Personal, Rate, Retry, SecretRef, Smtp, SmtpTls,
    Source, SyncJob, Webhook,
};
use super::{is_event_type, is_name_byte, mailbox};

const WEEK_S: f64 = 7.0 * 24.0 * 3600.0;
const MAX_BODY: usize = 16 << 20;
/// Places of a source or endpoint that name people.
const MAX_PERSONAL: usize = 32;

/// Characters of a text of the record of processing.
const MAX_TEXT: usize = 500;

/// Headers that carry credentials, which are never stored with an event.
const CREDENTIAL_HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-api-key"];

pub(super) struct Finding {
    /// Keys and positions from the root, for instance `endpoints`, `crm`, `hosts`, `0`.
    pub(super) path: Vec<String>,
    pub(super) message: String,
}

/// All of them, in the order of the sections.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let mut found = Found(Vec::new());
    for (name, source) in &config.sources {
        found.name(&["sources", name]);
        check_source(config, name, source, &mut found);
    }
    check_paths(config, &mut found);
    for (name, endpoint) in &config.endpoints {
        found.name(&["endpoints", name]);
        check_endpoint(name, endpoint, &mut found);
    }
    for (name, mapping) in &config.mappings {
        found.name(&["mappings", name]);
        found.component(&["mappings", name, "component"], &mapping.component);
        found.number(&["mappings", name, "deadline_ms"], mapping.deadline_ms, 1..=60_000);
    }
    for (name, queue) in &config.queues {
        found.name(&["queues", name]);
        let (fewest, most) = queue.workers;
        if fewest < 1 || fewest > most || most > 1024 {
            found.at(&["queues", name, "workers"], "must be [fewest, most] with 1 ≤ fewest ≤ most ≤ 1024");
        }
        found.number(&["queues", name, "in_flight"], queue.in_flight, 1..=1024);
    }
    check_schedules(config, &mut found);
    for (name, connector) in &config.connectors {
        found.name(&["connectors", name]);
        if connector.file.is_empty() {
            found.at(&["connectors", name, "file"], "is empty: name the component file");
        }
    }
    check_routes(config, &mut found);
    for (name, rate) in [("api_key", &config.limits.api_key), ("address", &config.limits.address)] {
        check_rate(&["limits", name], rate, &mut found);
    }
    for (at, proxy) in config.limits.proxies.iter().enumerate() {
        if !proxy.parse::<ipnet::IpNet>().is_ok_and(|network| network == network.trunc()) {
            found.at(
                &["limits", "proxies", &at.to_string()],
                format!("is \"{proxy}\": it takes a network as CIDR, for instance \"127.0.0.1/32\""),
            );
        }
    }
    check_retention(config, &mut found);
    check_processing(config, &mut found);
    found.0
}

/// What belongs to something must not outlive it.
fn check_retention(config: &Config, found: &mut Found) {
    let times = &config.retention;
    let (content, events, keys) = (times.content(), times.events(), times.idempotency_keys());
    for (name, time) in [
        ("content", content),
        ("dead_letters", times.dead_letters()),
        ("logs", times.logs()),
        ("attempts", times.attempts()),
    ] {
        if events < time {
            found.shorter("events", times.events.is_some(), events, name, time);
        }
    }
    if keys < content {
        found.shorter("idempotency_keys", times.idempotency_keys.is_some(), keys, "content", content);
    }
    let of_sources = config.sources.iter().map(|(name, source)| ("sources", name, source.retention));
    let of_endpoints = config.endpoints.iter().map(|(name, endpoint)| ("endpoints", name, endpoint.retention));
    for (section, name, time) in of_sources.chain(of_endpoints) {
        let Some(time) = time else { continue };
        for (other, most) in [("events", events), ("idempotency_keys", keys)] {
            if most < time {
                let path = [section, name, "retention"];
                found.at(&path, format!("is {time}, more than {other} of retention, which is {most}: raise that"));
            }
        }
    }
}

fn check_processing(config: &Config, found: &mut Found) {
    for (name, said) in config.sources.iter().filter_map(|(name, source)| Some((name, source.processing.as_ref()?))) {
        let path = ["sources", name, "processing"];
        check_texts(&path, &[("purpose", &said.purpose), ("basis", &said.basis)], found);
        check_lists(&path, &[("categories", &said.categories), ("subjects", &said.subjects)], found);
    }
    for (name, said) in config.endpoints.iter().filter_map(|(name, other)| Some((name, other.processing.as_ref()?))) {
        let path = ["endpoints", name, "processing"];
        let texts = [
            ("recipient", &said.recipient),
            ("purpose", &said.purpose),
            ("basis", &said.basis),
            ("safeguard", &said.safeguard),
        ];
        check_texts(&path, &texts, found);
        check_lists(&path, &[("categories", &said.categories), ("subjects", &said.subjects)], found);
        let country = &said.country;
        let is_code = country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase());
        if !(country.is_empty() || is_code) {
            let path = ["endpoints", name, "processing", "country"];
            found.at(&path, format!("is \"{country}\": it takes two letters of ISO 3166-1, for instance \"BR\""));
        }
    }
}

fn check_texts(path: &[&str], texts: &[(&str, &String)], found: &mut Found) {
    for (field, text) in texts {
        if text.chars().count() > MAX_TEXT || text.contains(|c: char| c.is_control()) {
            found.at(&[path, &[*field]].concat(), format!("takes one line of at most {MAX_TEXT} characters"));
        }
    }
}

fn check_lists(path: &[&str], lists: &[(&str, &Vec<String>)], found: &mut Found) {
    for (field, list) in lists {
        let fits = |text: &String| !text.is_empty() && text.len() <= 100 && !text.contains(|c: char| c.is_control());
        if list.len() > 32 || !list.iter().all(fits) {
            found.at(&[path, &[*field]].concat(), "takes at most 32 words of 1 to 100 bytes");
        }
    }
}

/// `hosts[0] of endpoint "crm"`: how a message names a place.
pub(super) fn place(path: &[String]) -> String {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let (thing, rest) = match path.as_slice() {
        [] => return "the file".into(),
        [section] => return (*section).into(),
        ["sources", name, "webhooks", at, rest @ ..] => (format!("webhook {} of source \"{name}\"", counted(at)), rest),
        ["routes", at, rest @ ..] => (format!("route {}", counted(at)), rest),
        ["limits", rest @ ..] => ("limits".into(), rest),
        ["retention", rest @ ..] => ("retention".into(), rest),
        [section, name, rest @ ..] => (format!("{} \"{name}\"", section.trim_end_matches('s').replace('_', " ")), rest),
    };
    let mut field = String::new();
    for step in rest {
        if step.parse::<usize>().is_ok() {
            field.push_str(&format!("[{step}]"));
        } else {
            field.push_str(if field.is_empty() { "" } else { "." });
            field.push_str(step);
        }
    }
    if field.is_empty() { thing } else { format!("{field} of {thing}") }
}

/// People count from one.
fn counted(at: &str) -> String {
    at.parse::<usize>().map_or_else(|_| at.into(), |at| (at + 1).to_string())
}

struct Found(Vec<Finding>);

impl Found {
    /// A message that begins with the place.
    fn at(&mut self, path: &[&str], what: impl Display) {
        let path = owned(path);
        let message = format!("{} {what}", place(&path));
        self.0.push(Finding { path, message });
    }

    /// A message of its own.
    fn say(&mut self, path: &[&str], message: String) {
        self.0.push(Finding { path: owned(path), message });
    }

    fn number<T: PartialOrd + Display>(&mut self, path: &[&str], value: T, range: RangeInclusive<T>) {
        if !range.contains(&value) {
            self.at(path, format!("is {value}: it must be from {} to {}", range.start(), range.end()));
        }
    }

    /// The last step is the name of a thing.
    fn name(&mut self, path: &[&str]) {
        if !is_name(path.last().unwrap_or(&"")) {
            self.at(path, "has a name that is not 1 to 64 characters of a-z 0-9 . _ -");
        }
    }

    fn component(&mut self, path: &[&str], name: &str) {
        if !is_name(name) {
            self.at(path, format!("is \"{name}\": a name is 1 to 64 characters of a-z 0-9 . _ -"));
        }
    }

    fn event(&mut self, path: &[&str], name: &str) {
        if !is_event_type(name) {
            self.at(path, format!("is \"{name}\": an event type is 1 to 128 characters of a-z 0-9 . _ -"));
        }
    }

    fn header(&mut self, path: &[&str], name: &str) {
        if !is_header(name) {
            self.at(path, format!("is \"{name}\": that is no name of a header"));
        }
    }

    fn pointer(&mut self, path: &[&str], pointer: &str) {
        if !is_pointer(pointer) {
            self.at(path, format!("is \"{pointer}\": a JSON pointer starts with /, for instance \"/customer/id\""));
        }
    }

    fn times(&mut self, path: &[&str], cron: &str, time_zone: &str) {
        if let Err((field, problem)) = Times::read(cron, time_zone) {
            self.at(&[path, &[field]].concat(), problem);
        }
    }

    /// The value is not repeated: it may be the secret itself.
    fn secret(&mut self, path: &[&str], secret: &SecretRef) {
        if !is_reference(&secret.0) {
            self.at(
                path,
                "must be a reference, \"env:NAME\", \"file:PATH\" or \"stored:NAME\", and never the value itself",
            );
        }
    }

    /// A time of `[retention]` is shorter than another that it may not be shorter than. Said of the one that is written.
    fn shorter(&mut self, name: &str, is_written: bool, time: Keep, other: &str, more: Keep) {
        if is_written {
            self.at(&["retention", name], format!("is {time}, less than {other}, which is {more}: raise it"));
        } else {
            self.at(&["retention", other], format!("is {more}, more than {name}, which is {time}: raise that"));
        }
    }

    fn reference<'a>(&mut self, path: &[&str], kind: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) {
        if !known.clone().any(|known| known == name) {
            let hint = hint(name, known);
            self.at(path, format!("is \"{name}\", and there is no such {kind}{hint}"));
        }
    }
}

fn owned(path: &[&str]) -> Vec<String> {
    path.iter().map(|step| (*step).into()).collect()
}

fn check_source(config: &Config, name: &str, source: &Source, found: &mut Found) {
    if source.auth.secrets().is_empty() {
        found.at(&["sources", name, "auth", "secrets"], "is empty: without a secret nobody could be let in");
    }
    for (key, reference) in source.auth.references() {
        let key = key.iter().map(String::as_str);
        found.secret(&["sources", name, "auth"].into_iter().chain(key).collect::<Vec<_>>(), reference);
    }
    for (at, secret) in source.auth.secrets().iter().enumerate() {
        if let (Some(from), Some(until)) = (secret.not_before, secret.not_after)
            && from > until
        {
            let path = ["sources", name, "auth", "secrets", &at.to_string(), "not_after"];
            found.at(&path, "is before its not_before: this secret would never count");
        }
    }
    check_auth(name, &source.auth, found);

    let rule = &source.idempotency;
    let rules = [rule.header.is_some(), rule.pointer.is_some(), !rule.pointers.is_empty()];
    if rules.iter().filter(|given| **given).count() > 1 {
        found.at(&["sources", name, "idempotency"], "has more than one of header, pointer and pointers: keep one");
    }
    if let Some(header) = &rule.header {
        let path = ["sources", name, "idempotency", "header"];
        found.header(&path, header);
        match &source.auth {
            Auth::PathToken { .. } => {}
            Auth::StandardWebhooks { .. } => {
                found.at(&path, "is not signed, and the signed webhook-id is used by itself: leave it out");
            }
            Auth::Svix { .. } => {
                found.at(&path, "is not signed, and the signed svix-id is used by itself: leave it out");
            }
            Auth::MercadoPago { .. } => {
                found.at(&path, "is not needed: the signed x-request-id is used by itself, leave it out");
            }
            Auth::Twilio { .. } => {
                found.at(&path, "is not signed, and what is signed is the key by itself: leave it out");
            }
            Auth::Hmac(HmacAuth { id_header: Some(id), .. }) => {
                found.at(&path, format!("is not needed: the signed {id} is used by itself, leave it out"));
            }
            Auth::SignedLink { .. } => found.at(&path, "is not signed: the link itself is the key, leave it out"),
            Auth::Github { .. }
            | Auth::Stripe { .. }
            | Auth::Slack { .. }
            | Auth::Shopify { .. }
            | Auth::Meta { .. }
            | Auth::Hmac(_)
            | Auth::HmacHex { .. } => found.at(
                &path,
                "is not signed, so a signed request could be sent again under another key: \
                 use a pointer into the body, or leave it out and the digest of the body is the key",
            ),
        }
    }
    if let Some(pointer) = &rule.pointer {
        found.pointer(&["sources", name, "idempotency", "pointer"], pointer);
    }
    for (at, pointer) in rule.pointers.iter().enumerate() {
        found.pointer(&["sources", name, "idempotency", "pointers", &at.to_string()], pointer);
    }

    if matches!(source.auth, Auth::MercadoPago { .. }) && (rule.pointer.is_some() || !rule.pointers.is_empty()) {
        found.at(
            &["sources", name, "idempotency"],
            "points into the body, which Mercado Pago does not sign: leave it out, the signed x-request-id is the key",
        );
    }

    for (at, header) in source.keep_headers.iter().enumerate() {
        let path = ["sources", name, "keep_headers", &at.to_string()];
        found.header(&path, header);
        if header.bytes().any(|byte| byte.is_ascii_uppercase()) {
            found.at(&path, format!("is \"{header}\": write it in lower case"));
        }
        if CREDENTIAL_HEADERS.contains(&header.to_ascii_lowercase().as_str()) {
            found.at(&path, format!("is \"{header}\": credentials are not stored"));
        }
    }
    check_rate(&["sources", name, "rate"], &source.rate, found);
    check_personal(&["sources", name], &source.personal, found);
    for (at, webhook) in source.webhooks.iter().enumerate() {
        check_webhook(config, name, at, webhook, &source.auth, found);
    }
}

fn check_personal(path: &[&str], personal: &[Personal], found: &mut Found) {
    for (at, place) in personal.iter().enumerate() {
        let at = at.to_string();
        found.pointer(&[path, &["personal", &at, "pointer"]].concat(), &place.pointer);
    }
    if personal.len() > MAX_PERSONAL {
        found.at(
            &[path, &["personal"]].concat(),
            format!("has {} entries, at most {MAX_PERSONAL} are searched", personal.len()),
        );
    }
}

fn check_rate(path: &[&str], rate: &Option<Rate>, found: &mut Found) {
    if let Some(rate) = rate {
        found.number(&[path, &["per_minute"]].concat(), rate.per_minute, 0..=60_000_000);
        found.number(&[path, &["burst"]].concat(), rate.burst, 1..=1_000_000);
    }
}

fn check_auth(source: &str, auth: &Auth, found: &mut Found) {
    let field = |name| ["sources", source, "auth", name];
    match auth {
        Auth::StandardWebhooks { tolerance_s, .. }
        | Auth::Svix { tolerance_s, .. }
        | Auth::Stripe { tolerance_s, .. }
        | Auth::Slack { tolerance_s, .. }
        | Auth::MercadoPago { tolerance_s, .. } => {
            found.number(&field("tolerance_s"), *tolerance_s, 1..=86_400);
        }
        Auth::Twilio { public_url, .. } if !is_base_url(public_url) => found.at(
            &field("public_url"),
            "must be what Twilio's URL of this hub has before the path, for instance \"https://hub.example.com\"",
        ),
        Auth::PathToken { reason, .. } if reason.trim().is_empty() => {
            found.at(&field("reason"), "is empty: say why this source cannot sign its requests");
        }
        Auth::Hmac(hmac) => check_hmac(source, hmac, found),
        _ => {}
    }
}

/// The signed bytes have to be readable in one way only: else somebody who holds one signed request could send another.
fn check_hmac(source: &str, hmac: &HmacAuth, found: &mut Found) {
    let field = |name| ["sources", source, "auth", name];
    found.number(&field("tolerance_s"), hmac.tolerance_s, 1..=86_400);
    found.header(&field("header"), &hmac.header);
    let others = [("timestamp_header", &hmac.timestamp_header), ("id_header", &hmac.id_header)];
    for (name, header) in others.iter().filter_map(|(name, header)| Some((*name, header.as_ref()?))) {
        found.header(&field(name), header);
        if header.eq_ignore_ascii_case(&hmac.header) {
            found.at(&field(name), format!("is \"{header}\", which has the signature: it must be another header"));
        }
    }
    if let (Some(timestamp), Some(id)) = (&hmac.timestamp_header, &hmac.id_header)
        && timestamp.eq_ignore_ascii_case(id)
    {
        found.at(&field("id_header"), format!("is \"{id}\", which has the time: it must be another header"));
    }
    if hmac.field.is_some() && !hmac.prefix.is_empty() {
        found.at(&field("prefix"), "and field are two ways to write the header: keep one");
    }
    for (name, value) in [("field", &hmac.field), ("timestamp_field", &hmac.timestamp_field)] {
        if let Some(value) = value
            && (value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)))
        {
            found.at(&field(name), format!("is \"{value}\": a field's name takes a-z A-Z 0-9 _ -"));
        }
    }
    if hmac.timestamp_field.is_some() && (hmac.field.is_none() || hmac.field == hmac.timestamp_field) {
        found.at(&field("timestamp_field"), "needs a field of another name with the signature beside it: add field");
    }
    if hmac.timestamp_field.is_some() && hmac.timestamp_header.is_some() {
        found.at(&field("timestamp_field"), "and timestamp_header are two places for the time: keep one");
    }
    let has_time = hmac.timestamp_field.is_some() || hmac.timestamp_header.is_some();
    for (name, wanted) in [("{body}", true), ("{timestamp}", has_time), ("{id}", hmac.id_header.is_some())] {
        match (hmac.signed.matches(name).count(), wanted) {
            (1, true) | (0, false) => {}
            (0, true) => found.at(&field("signed"), format!("has no {name}: what is not signed proves nothing")),
            (_, true) => found.at(&field("signed"), format!("has {name} more than once")),
            (_, false) => {
                let key = if name == "{id}" { "id_header" } else { "timestamp_header or timestamp_field" };
                found.at(&field("signed"), format!("has {name}: say where it is, with {key}"));
            }
        }
    }
    let mut text = hmac.signed.clone();
    for name in ["{body}", "{timestamp}", "{id}"] {
        text = text.replace(name, "\0");
    }
    if text.contains(['{', '}']) {
        found.at(&field("signed"), "takes {body}, {timestamp} and {id} in braces, and nothing else");
    }
    let between: Vec<&str> = text.split('\0').collect();
    let tells_apart = |text: &&&str| {
        let told = |byte: Option<u8>| byte.is_some_and(|byte| !byte.is_ascii_alphanumeric() && !b"_-".contains(&byte));
        told(text.bytes().next()) && told(text.bytes().last())
    };
    let inner = between.get(1..between.len().saturating_sub(1)).unwrap_or_default();
    if inner.iter().any(|text| !tells_apart(&text)) {
        found.at(
            &field("signed"),
            "must have a character between two parts that is neither a letter, a digit, _ nor -, for instance \"{timestamp}.{body}\"",
        );
    }
}

/// `https://host[:port][/path]`, without a slash at its end. HTTP as well, for what stands behind somebody's own TLS.
fn is_base_url(text: &str) -> bool {
    let Ok(url) = url::Url::parse(text) else { return false };
    matches!(url.scheme(), "https" | "http")
        && url.host_str().is_some()
        && !text.ends_with('/')
        && !text.contains(['?', '#', '@'])
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn check_webhook(config: &Config, source: &str, at: usize, webhook: &Webhook, auth: &Auth, found: &mut Found) {
    let (start, scheme) = match auth {
        Auth::SignedLink { .. } => ("/feedback/", "signed-link"),
        _ => ("/webhooks/", "path-token"),
    };
    let takes_token = matches!(auth, Auth::PathToken { .. } | Auth::SignedLink { .. });
    let at = at.to_string();
    let field = |name| ["sources", source, "webhooks", at.as_str(), name];

    let path = webhook.path.as_str();
    let fixed = path.strip_suffix("/{token}");
    if !path.starts_with(start) {
        found.at(&field("path"), format!("is \"{path}\": it must start with {start}"));
    } else if path.len() > 512 || !fixed.unwrap_or(path)[1..].split('/').all(is_segment) {
        found.at(
            &field("path"),
            format!(
                "is \"{path}\": between its slashes it takes A-Z a-z 0-9 . _ ~ -, and {{token}} as the last segment"
            ),
        );
    } else if takes_token && fixed.is_none() {
        found.at(&field("path"), format!("is \"{path}\": with scheme {scheme} it must end in /{{token}}"));
    } else if !takes_token && fixed.is_some() {
        found.at(&field("path"), format!("is \"{path}\": only scheme path-token has a {{token}}"));
    }

    match &webhook.event {
        EventName::Fixed(name) => found.event(&field("event"), name),
        EventName::Header(rule) => found.header(&[&field("event")[..], &["header"]].concat(), &rule.header),
        EventName::Pointer(rule) => {
            found.pointer(&[&field("event")[..], &["pointer"]].concat(), &rule.pointer);
            for (value, name) in &rule.map {
                found.event(&[&field("event")[..], &["map", value]].concat(), name);
            }
            if let Some(name) = &rule.default {
                found.event(&[&field("event")[..], &["default"]].concat(), name);
            }
        }
    }
    found.reference(&field("queue"), "queue", &webhook.queue, queues(config));
    found.number(&field("max_body"), webhook.max_body, 1..=MAX_BODY);
}

/// No two webhooks may answer to the same path, whatever the token.
fn check_paths(config: &Config, found: &mut Found) {
    let mut seen: Vec<(&str, Vec<String>)> = Vec::new();
    for (name, source) in &config.sources {
        for (at, webhook) in source.webhooks.iter().enumerate() {
            let at = at.to_string();
            let here = ["sources", name, "webhooks", &at];
            if let Some((path, there)) = seen.iter().find(|(path, _)| clash(path, &webhook.path)) {
                let taken = place(there);
                let message = if *path == webhook.path {
                    format!("is \"{path}\", which {taken} has already")
                } else {
                    format!(
                        "is \"{}\", which clashes with \"{path}\" of {taken}: one could be the other's token",
                        webhook.path
                    )
                };
                found.at(&["sources", name, "webhooks", &at, "path"], message);
            }
            seen.push((&webhook.path, owned(&here)));
        }
    }
}

fn clash(a: &str, b: &str) -> bool {
    let split = |path: &'_ str| path.rsplit_once('/').map(|(parent, last)| (parent.to_owned(), last == "{token}"));
    a == b || matches!((split(a), split(b)), (Some((p, s)), Some((q, t))) if p == q && (s || t))
}

fn check_endpoint(name: &str, endpoint: &Endpoint, found: &mut Found) {
    let field = |field| ["endpoints", name, field];
    found.component(&field("connector"), &endpoint.connector);
    for (at, host) in endpoint.hosts.iter().enumerate() {
        if let Err(reason) = check_host(host) {
            found.at(&["endpoints", name, "hosts", &at.to_string()], format!("is \"{host}\": {reason}"));
        }
    }
    for (at, network) in endpoint.allow_private.iter().enumerate() {
        if !is_network(network) {
            found.at(
                &["endpoints", name, "allow_private", &at.to_string()],
                format!("is \"{network}\": it takes CIDR:port, for instance \"10.0.0.5/32:8080\""),
            );
        }
    }
    for (key, secret) in &endpoint.secrets {
        if !is_name(key) {
            let message = format!("secret \"{key}\" of endpoint \"{name}\" is not 1 to 64 characters of a-z 0-9 . _ -");
            found.say(&["endpoints", name, "secrets", key], message);
        }
        found.secret(&["endpoints", name, "secrets", key], secret);
    }
    if let Some(smtp) = &endpoint.smtp {
        check_smtp(name, smtp, endpoint.allow_private.is_empty(), found);
    }
    found.number(&field("concurrency"), endpoint.concurrency, 1..=10_000);
    found.number(&field("rate_per_s"), endpoint.rate_per_s, 0..=100_000);
    found.number(&field("deadline_ms"), endpoint.deadline_ms, 10..=600_000);
    check_retry(name, &endpoint.retry, found);
    let breaker = &endpoint.breaker;
    found.number(&["endpoints", name, "breaker", "failures"], breaker.failures, 1..=10_000);
    found.number(&["endpoints", name, "breaker", "open_s"], breaker.open_s, 0.001..=86_400.0);
    found.number(&["endpoints", name, "breaker", "successes"], breaker.successes, 1..=1_000);
}

fn check_smtp(endpoint: &str, smtp: &Smtp, only_public: bool, found: &mut Found) {
    let field = |name| ["endpoints", endpoint, "smtp", name];
    let server = &smtp.server;
    if smtp.host_and_port().is_none() || check_host(server).is_err() || server.starts_with("http:") {
        found.at(
            &field("server"),
            format!("is \"{server}\": it takes host:port, for instance \"smtp.example.com:587\""),
        );
    }
    if mailbox(&smtp.from).is_none() {
        found.at(
            &field("from"),
            "is not a mailbox: write one address, or a name and an address, for instance \"Carinho <oi@carinho.com.vc>\"",
        );
    }
    if smtp.tls == Some(SmtpTls::None) && only_public {
        found.at(
            &field("tls"),
            "is \"none\", which takes a server in allow_private: add its CIDR:port there, or use starttls or implicit",
        );
    }
    for (name, secret) in smtp.secrets() {
        found.secret(&field(name), secret);
    }
    match (&smtp.username, &smtp.password) {
        (Some(_), None) => found.at(&field("username"), "has no password beside it: add it, or remove the username"),
        (None, Some(_)) => found.at(&field("password"), "has no username beside it: add it, or remove the password"),
        _ => {}
    }
}

fn check_retry(endpoint: &str, retry: &Retry, found: &mut Found) {
    let field = |name| ["endpoints", endpoint, "retry", name];
    found.number(&field("attempts"), retry.attempts, 1..=100);
    found.number(&field("base_s"), retry.base_s, 0.0..=WEEK_S);
    found.number(&field("factor"), retry.factor, 1.0..=100.0);
    found.number(&field("max_s"), retry.max_s, 0.0..=WEEK_S);
    found.number(&field("jitter"), retry.jitter, 0.0..=1.0);
    for (at, &delay_s) in retry.delays_s.iter().enumerate() {
        let path = ["endpoints", endpoint, "retry", "delays_s", &at.to_string()];
        found.number(&path, delay_s, 0.0..=WEEK_S);
        if delay_s > retry.max_s && delay_s <= WEEK_S {
            found.at(&path, format!("is {delay_s}, more than max_s = {}: raise max_s or lower it", retry.max_s));
        }
    }
}

fn check_routes(config: &Config, found: &mut Found) {
    for (at, route) in config.routes.iter().enumerate() {
        let number = at.to_string();
        let field = |name| ["routes", number.as_str(), name];
        found.event(&field("event"), &route.event);
        found.reference(&field("endpoint"), "endpoint", &route.endpoint, config.endpoints.keys().map(String::as_str));
        if let Some(mapping) = &route.mapping {
            found.reference(&field("mapping"), "mapping", mapping, config.mappings.keys().map(String::as_str));
        }
        if let Some(queue) = &route.queue {
            found.reference(&field("queue"), "queue", queue, queues(config));
        }
        found.number(&field("delay_s"), route.delay_s, 0.0..=30.0 * 24.0 * 3600.0);
        found.number(&field("priority"), route.priority, -100..=100);
        if let Some(pointer) = &route.ordering {
            found.pointer(&field("ordering"), pointer);
        }
        if let Some(filter) = &route.filter {
            found.pointer(&["routes", &number, "filter", "pointer"], &filter.pointer);
        }
        if let Some(first) = config.routes[..at].iter().position(|other| other == route) {
            found.at(&["routes", &number], format!("repeats route {}: each event would be delivered twice", first + 1));
        }
    }
}

fn check_schedules(config: &Config, found: &mut Found) {
    for (name, schedule) in &config.schedules {
        found.name(&["schedules", name]);
        found.event(&["schedules", name, "event"], &schedule.event);
        found.times(&["schedules", name], &schedule.cron, &schedule.time_zone);
        found.reference(&["schedules", name, "queue"], "queue", &schedule.queue, queues(config));
    }
    for (name, job) in &config.sync_jobs {
        found.name(&["sync_jobs", name]);
        found.times(&["sync_jobs", name], job.cron.as_deref().unwrap_or("0 0 * * *"), &job.time_zone);
        found.reference(&["sync_jobs", name, "queue"], "queue", &job.queue, queues(config));
        let event = SyncJob::event(name);
        let takers = config.routes.iter().filter(|route| route.event == event).count();
        if takers != 1 {
            found.at(
                &["sync_jobs", name],
                format!("needs exactly one route for \"{event}\", whose connector pulls the pages: {takers} take it"),
            );
        }
    }
}

fn queues(config: &Config) -> impl Iterator<Item = &str> + Clone {
    config.queues.keys().map(String::as_str).chain(DEFAULT_QUEUES.iter().map(|(name, _)| *name))
}

/// Whether a text may name a source, an endpoint and whatever else has a name.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(is_name_byte)
}

fn is_pointer(text: &str) -> bool {
    text.starts_with('/')
}

/// RFC 9110 section 5.6.2: a token.
fn is_header(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

pub(super) fn is_reference(text: &str) -> bool {
    if let Some(name) = text.strip_prefix("stored:") {
        return is_name(name.strip_suffix("@previous").unwrap_or(name));
    }
    if let Some(path) = text.strip_prefix("file:") {
        return !path.is_empty();
    }
    text.strip_prefix("env:").is_some_and(|name| {
        name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

/// One segment of a path, written as no proxy or client rewrites it.
fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte))
}

/// `host`, `host:port` or `http://host:port`.
fn check_host(text: &str) -> Result<(), String> {
    if let Some(host) = text.strip_prefix("https://") {
        return Err(format!("leave out the scheme: \"{}\" is reached over HTTPS", host.trim_end_matches('/')));
    }
    let (authority, plain) = match text.strip_prefix("http://") {
        Some(authority) => (authority, true),
        None => (text, false),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if port.is_none() && plain {
        return Err("a host without TLS takes its port, http://host:port".into());
    }
    if port.is_some_and(|port| !matches!(port.parse::<u16>(), Ok(1..))) {
        return Err("the port is a number from 1 to 65535".into());
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.chars().all(|letter| letter.is_alphanumeric() || "-_".contains(letter))
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let known = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.len() <= 253 && host.split('.').all(label),
    };
    if !known {
        return Err("it takes host, host:port or http://host:port, without path and wildcard".into());
    }
    Ok(())
}

/// `CIDR:port`; no bits beyond the prefix, so that nobody grants a range who meant an address.
fn is_network(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(network, port)| {
        network.parse::<ipnet::IpNet>().is_ok_and(|network| network == network.trunc())
            && (port == "*" || matches!(port.parse::<u16>(), Ok(1..)))
    })
}
