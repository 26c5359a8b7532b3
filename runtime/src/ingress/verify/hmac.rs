//! An HMAC in a header over a text that a template describes. Most senders are one of these:
//!
//! * GitHub: <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>
//! * Meta: <https://developers.facebook.com/docs/graph-api/webhooks/getting-started#validate-payloads>
//! * Stripe: <https://docs.stripe.com/webhooks#verify-manually>
//! * Slack: <https://docs.slack.dev/authentication/verifying-requests-from-slack>
//! * Shopify: <https://shopify.dev/docs/apps/build/webhooks/subscribe/https>

use super::*;
use crate::config::{Algorithm, Encoding, HmacAuth};

/// Where the signature stands and what it is of.
pub(crate) struct Rule {
    header: String,
    prefix: String,
    /// Name of the fields that are signatures, where the header is a list of `name=value`.
    field: Option<String>,
    timestamp: Timestamp,
    id_header: Option<String>,
    algorithm: Algorithm,
    encoding: Encoding,
    signed: Vec<Piece>,
    tolerance_s: u64,
}

enum Timestamp {
    None,
    Header(String),
    Field(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Id,
    Timestamp,
    Body,
}

/// What a header of fields holds: signatures, decoded, and the time as it is written.
type SignaturesAndTime<'h> = (Vec<Vec<u8>>, Option<&'h [u8]>);

impl Rule {
    /// The rule of those schemes that are one.
    pub(crate) fn of(auth: &Auth) -> Option<Rule> {
        let rule = |header: &str, prefix: &str, signed| HmacAuth {
            secrets: Vec::new(),
            header: header.into(),
            prefix: prefix.into(),
            field: None,
            algorithm: Algorithm::Sha256,
            encoding: Encoding::Hex,
            signed: String::from(signed),
            timestamp_header: None,
            timestamp_field: None,
            id_header: None,
            tolerance_s: 0,
        };
        let described = match auth {
            Auth::Github { .. } | Auth::Meta { .. } => rule("x-hub-signature-256", "sha256=", "{body}"),
            Auth::Stripe { tolerance_s, .. } => HmacAuth {
                // v0 is for tests of theirs, and would be a downgrade.
                field: Some("v1".into()),
                timestamp_field: Some("t".into()),
                tolerance_s: *tolerance_s,
                ..rule("stripe-signature", "", "{timestamp}.{body}")
            },
            Auth::Slack { tolerance_s, .. } => HmacAuth {
                timestamp_header: Some("x-slack-request-timestamp".into()),
                tolerance_s: *tolerance_s,
                ..rule("x-slack-signature", "v0=", "v0:{timestamp}:{body}")
            },
            Auth::Shopify { .. } => {
                HmacAuth { encoding: Encoding::Base64, ..rule("x-shopify-hmac-sha256", "", "{body}") }
            }
            Auth::Hmac(described) => described.clone(),
            _ => return None,
        };
        Some(Rule {
            header: described.header,
            prefix: described.prefix,
            field: described.field,
            timestamp: match (described.timestamp_header, described.timestamp_field) {
                (Some(header), _) => Timestamp::Header(header),
                (None, Some(field)) => Timestamp::Field(field),
                (None, None) => Timestamp::None,
            },
            id_header: described.id_header,
            algorithm: described.algorithm,
            encoding: described.encoding,
            signed: pieces(&described.signed),
            tolerance_s: described.tolerance_s,
        })
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn verify<'a>(
        &self,
        keys: &Secrets<MacKey>,
        request: &Signed<'a>,
        now_ms: u64,
    ) -> Result<Verified<'a>, Reason> {
        let header = required(request.headers, &self.header)?;
        let id = match &self.id_header {
            Some(name) => Some(checked_id(required(request.headers, name)?)?),
            None => None,
        };
        let (signatures, timestamp) = match &self.field {
            Some(field) => self.fields(field, header)?,
            None => {
                let encoded = header.strip_prefix(self.prefix.as_bytes()).ok_or(Reason::MalformedSignature)?;
                (vec![self.decode(encoded).ok_or(Reason::MalformedSignature)?], None)
            }
        };
        let timestamp = match &self.timestamp {
            Timestamp::None => None,
            Timestamp::Header(name) => Some(required(request.headers, name)?),
            Timestamp::Field(_) => Some(timestamp.ok_or(Reason::MalformedTimestamp)?),
        };
        let signed_s = timestamp.map(seconds).transpose()?;

        let parts = self.parts(id.unwrap_or_default(), timestamp.unwrap_or_default(), request.body);
        let secret = keys.find(now_ms, |key| {
            let expected = key.sign(&parts);
            signatures.iter().any(|signature| same(signature, expected.as_ref()))
        })?;
        if let Some(signed_s) = signed_s {
            within(signed_s, self.tolerance_s, now_ms)?;
        }
        Ok(Verified { id: id.map(Cow::Borrowed), secret })
    }

    /// The headers as the sender would add them.
    pub(crate) fn sign(&self, secret: &[u8], id: &str, timestamp: u64, body: &[u8]) -> Vec<(String, String)> {
        let timestamp = timestamp.to_string();
        let signature = MacKey::new(self.algorithm, secret).sign(&self.parts(id, timestamp.as_bytes(), body));
        let encoded = match self.encoding {
            Encoding::Hex => hex::encode(signature),
            Encoding::Base64 => STANDARD.encode(signature),
        };
        let mut headers = Vec::new();
        let value = match (&self.field, &self.timestamp) {
            (Some(field), Timestamp::Field(at)) => format!("{at}={timestamp},{field}={encoded}"),
            (Some(field), _) => format!("{field}={encoded}"),
            (None, _) => format!("{}{encoded}", self.prefix),
        };
        headers.push((self.header.clone(), value));
        if let Timestamp::Header(name) = &self.timestamp {
            headers.push((name.clone(), timestamp));
        }
        if let Some(name) = &self.id_header {
            headers.push((name.clone(), id.to_owned()));
        }
        headers
    }

    fn parts<'p>(&'p self, id: &'p str, timestamp: &'p [u8], body: &'p [u8]) -> Vec<&'p [u8]> {
        let bytes = |piece: &'p Piece| match piece {
            Piece::Text(text) => text.as_bytes(),
            Piece::Id => id.as_bytes(),
            Piece::Timestamp => timestamp,
            Piece::Body => body,
        };
        self.signed.iter().map(bytes).collect()
    }

    /// The well-formed signatures of a list `name=value,…`, and its time. Other fields are for other receivers.
    fn fields<'h>(&self, field: &str, list: &'h [u8]) -> Result<SignaturesAndTime<'h>, Reason> {
        let (mut signatures, mut offered, mut timestamp) = (Vec::new(), 0, None);
        for entry in list.split(|&byte| byte == b',') {
            let entry = entry.trim_ascii();
            let Some(at) = entry.iter().position(|&byte| byte == b'=') else { continue };
            let (name, value) = (&entry[..at], &entry[at + 1..]);
            if name == field.as_bytes() {
                offered += 1;
                signatures.extend(self.decode(value));
            } else if matches!(&self.timestamp, Timestamp::Field(field) if name == field.as_bytes())
                && timestamp.replace(value).is_some()
            {
                return Err(Reason::MalformedTimestamp);
            }
        }
        match (offered, signatures.is_empty()) {
            (0, _) => Err(Reason::UnknownVersion),
            (offered, _) if offered > MAX_SIGNATURES => Err(Reason::TooManySignatures),
            (_, true) => Err(Reason::MalformedSignature),
            (_, false) => Ok((signatures, timestamp)),
        }
    }

    /// Exactly as many bytes as the algorithm makes.
    fn decode(&self, encoded: &[u8]) -> Option<Vec<u8>> {
        let decoded = match self.encoding {
            Encoding::Hex => hex::decode(encoded).ok()?,
            Encoding::Base64 => STANDARD.decode(encoded).ok()?,
        };
        let wanted = match self.algorithm {
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        };
        (decoded.len() == wanted).then_some(decoded)
    }
}

/// Only what can be told from the text around it, so that the signed bytes can be read in one way.
fn checked_id(id: &[u8]) -> Result<&str, Reason> {
    let fits = (1..=MAX_ID).contains(&id.len()) && id.iter().all(|&byte| is_id_byte(byte));
    std::str::from_utf8(id).ok().filter(|_| fits).ok_or(Reason::MalformedId)
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-".contains(&byte)
}

fn pieces(template: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while !rest.is_empty() {
        let found = [("{id}", Piece::Id), ("{timestamp}", Piece::Timestamp), ("{body}", Piece::Body)];
        if let Some((name, piece)) = found.iter().find(|(name, _)| rest.starts_with(name)) {
            pieces.push(piece.clone());
            rest = &rest[name.len()..];
            continue;
        }
        let end = found.iter().filter_map(|(name, _)| rest.find(name)).min().unwrap_or(rest.len());
        pieces.push(Piece::Text(rest[..end].to_owned()));
        rest = &rest[end..];
    }
    pieces
}
