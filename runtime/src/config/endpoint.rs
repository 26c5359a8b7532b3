//! Where deliveries go, and how often they are tried.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Keep, Personal, SecretRef};

/// A target system: connector + settings + secrets + limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub connector: String,
    /// Handed to the connector as JSON.
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// What the operator grants: `host`, `host:port` (both HTTPS) or `http://host:port`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Private addresses that this endpoint may reach nevertheless, `CIDR:port`, for instance `127.0.0.1/32:8081`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_private: Vec<String>,
    /// Name as the connector's manifest declares it → reference.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretRef>,
    /// Lets the connector send e-mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smtp: Option<Smtp>,
    /// Deliveries in flight at the same time on one node.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// Deliveries begun per second; 0 is no limit.
    #[serde(default)]
    pub rate_per_s: u32,
    /// Wall time of one attempt, milliseconds.
    #[serde(default = "default_deadline_ms")]
    pub deadline_ms: u64,
    #[serde(default)]
    pub retry: Retry,
    #[serde(default)]
    pub breaker: Breaker,
    /// For what must not happen twice, such as messages to people, where the target cannot recognise a repetition: a try
    /// that did not end as delivered although the target may have taken a request (a crash, a deadline, a trap, a lost
    /// answer) is a dead letter for an operator, and is not repeated. Costs one more commit per try.
    #[serde(default)]
    pub at_most_once: bool,
    /// The events that go to it and those that its connector emits are sealed at rest, whatever their sources say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sensitive: bool,
    /// Where the events that its connector emits name people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub personal: Vec<Personal>,
    /// Of the content of the events that its connector emits, instead of the general time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Keep>,
    /// For the record of processing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processing: Option<EndpointProcessing>,
}

fn default_concurrency() -> u32 {
    64
}
fn default_deadline_ms() -> u64 {
    10_000
}

/// The server that takes an endpoint's e-mails, and who they come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smtp {
    /// `host:port`. A private address has to be in `allow_private` as well.
    pub server: String,
    /// Port 465: implicit; any other: starttls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<SmtpTls>,
    /// A mailbox, `Name <address>` or the address alone.
    pub from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<SecretRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
}

impl Smtp {
    /// Host and port of `server`.
    pub(crate) fn host_and_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.server.rsplit_once(':')?;
        Some((host, port.parse().ok().filter(|port| *port != 0)?))
    }

    /// Name and reference of each secret.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (&'static str, &SecretRef)> {
        [("username", &self.username), ("password", &self.password)]
            .into_iter()
            .filter_map(|(name, secret)| Some((name, secret.as_ref()?)))
    }
}

/// How an SMTP connection is protected; never only if the server happens to offer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SmtpTls {
    Starttls,
    Implicit,
    /// In the clear, which takes an address in `allow_private`.
    None,
}

/// Name, if any, and address of a mailbox: `Ana <ana@example.com>`, `"Souza, Ana" <ana@example.com>` or
/// `ana@example.com`. One only, in one line. Local parts that need quotes or are not ASCII (RFC 6531), which hardly any
/// server takes, are none; nor are addresses of more than 254 bytes.
pub(crate) fn mailbox(text: &str) -> Option<(Option<&str>, &str)> {
    let text = text.trim_matches(' ');
    let (name, address) = match text.strip_suffix('>') {
        Some(rest) => {
            let (name, address) = rest.split_once('<')?;
            let name = name.trim_matches(' ');
            (name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name), address)
        }
        None => ("", text),
    };
    let (local, domain) = address.rsplit_once('@')?;
    // RFC 5322 section 3.2.3.
    let atom = |atom: &str| {
        !atom.is_empty() && atom.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|letter| letter.is_alphanumeric() || letter == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let fits = address.len() <= 254
        && local.len() <= 64
        && local.split('.').all(atom)
        && domain.split('.').all(label)
        && name.len() <= 255
        && !name.contains(|c: char| c.is_control() || "\"<>\\".contains(c));
    fits.then_some(((!name.is_empty()).then_some(name), address))
}

/// When a transient failure is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts in all, the first included.
    pub attempts: u32,
    /// Fixed waits in seconds, the last one repeated. When empty: `base_s * factor^n`.
    pub delays_s: Vec<f64>,
    pub base_s: f64,
    pub factor: f64,
    /// Longest wait, seconds.
    pub max_s: f64,
    /// Share of the wait that is drawn at random, 0 to 1.
    pub jitter: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts: 5, delays_s: Vec::new(), base_s: 60.0, factor: 2.0, max_s: 3600.0, jitter: 0.2 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// Transient failures in a row that open it.
    pub failures: u32,
    /// How long it stays open, seconds.
    pub open_s: f64,
    /// Successes in a row that close a half-open one.
    pub successes: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker { failures: 5, open_s: 60.0, successes: 2 }
    }
}

/// Who gets personal data at an endpoint, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointProcessing {
    /// Who runs the system.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub recipient: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub purpose: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub basis: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    /// Where the data goes: two letters, ISO 3166-1. Another one than BR is an international transfer (art. 33).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub country: String,
    /// What allows the transfer to another country.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub safeguard: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_is_one_and_in_one_line() {
        for (text, name, address) in [
            ("ana@example.com", None, "ana@example.com"),
            (" ana.souza+x@bücher.example ", None, "ana.souza+x@bücher.example"),
            ("Carinho <nao-responda@carinho.com.vc>", Some("Carinho"), "nao-responda@carinho.com.vc"),
            ("\"Souza, Ana\" <ana@localhost>", Some("Souza, Ana"), "ana@localhost"),
            ("<ana@example.com>", None, "ana@example.com"),
        ] {
            assert_eq!(mailbox(text), Some((name, address)), "{text}");
        }
        let long = format!("{}@example.com", "a".repeat(65));
        for text in [
            "",
            "@",
            "ana",
            "ana@",
            "@example.com",
            "ana@example..com",
            "ana@-example.com",
            ".ana@example.com",
            "ana souza@example.com",
            "\"ana souza\"@example.com",
            "joão@example.com",
            "ana@example.com, eva@example.com",
            "ana@example.com,eva@example.com",
            "Ana <ana@example.com> <eva@example.com>",
            "<ana@example.com>, <eva@example.com>",
            "Ana <ana@example.com",
            "ana@example.com\r\nBcc: eva@example.com",
            "Ana\r\nBcc: eva@example.com <ana@example.com>",
            "ana@exam\0ple.com",
            &long,
        ] {
            assert_eq!(mailbox(text), None, "{text:?}");
        }
    }
}
