//! Events and deliveries as they are accepted, and how their ids are written.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::config::PersonalKind;
use crate::ingress::key::Key;
use crate::keyring::KeyId;
use crate::redact::Size;
use crate::seal::SealKey;

/// Ids are 63-bit numbers in SQL and text with a prefix everywhere else.
macro_rules! id {
    ($name:ident, $prefix:literal) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) struct $name(pub(crate) i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                write_base32(f, self.0)
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                text.strip_prefix($prefix)
                    .and_then(read_base32)
                    .map($name)
                    .ok_or_else(|| format!("{text:?} is no id of this kind: it should look like {}", $name(0)))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(EventId, "evt_");
id!(DeliveryId, "dlv_");
id!(SyncRunId, "syn_");
id!(ErasureId, "era_");

/// The source of the events that tell targets of an erasure. No source can be named so.
pub(crate) const ERASURE: &str = "privacy:erasure";

/// Crockford's alphabet, lower case: no i, l, o, u, so that an id survives being read aloud.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID_DIGITS: u32 = 13;

fn write_base32(f: &mut fmt::Formatter<'_>, id: i64) -> fmt::Result {
    let mut text = [b'0'; ID_DIGITS as usize];
    for (place, digit) in text.iter_mut().rev().enumerate() {
        *digit = ALPHABET[(id >> (5 * place) & 31) as usize];
    }
    f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
}

fn read_base32(text: &str) -> Option<i64> {
    if text.len() != ID_DIGITS as usize {
        return None;
    }
    text.bytes().try_fold(0i64, |id, digit| {
        let value = ALPHABET.iter().position(|a| *a == digit)? as i64;
        id.checked_mul(32)?.checked_add(value)
    })
}

/// One accepted fact, whole: what was received and what is known about it.
pub(crate) struct Event {
    pub(crate) id: EventId,
    pub(crate) source: Arc<str>,
    pub(crate) event_type: Arc<str>,
    pub(crate) created_ms: u64,
    pub(crate) content_type: Arc<str>,
    /// The headers that the source keeps, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: Bytes,
    /// The delivery that gave rise to it, for chains of steps.
    pub(crate) parent: Option<DeliveryId>,
    pub(crate) content: Content,
}

/// What the database holds of an event's content.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Clear,
    /// Everything about it is sealed with this key.
    Sealed(Arc<SealKey>),
    /// Nothing any more, or nothing that could be opened: the payload here is empty.
    Gone,
}

impl Content {
    pub(crate) fn key(&self) -> Option<&SealKey> {
        if let Content::Sealed(key) = self { Some(key) } else { None }
    }
}

/// The sealed form of an event, made before its commit.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// The ring's key that wraps the event's.
    pub(crate) key: KeyId,
    pub(crate) wrapped: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// Headers and idempotency key, where there is something to say.
    pub(crate) envelope: Option<Vec<u8>>,
}

/// What was received shows as its size.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.id)
            .field("source", &self.source)
            .field("event_type", &self.event_type)
            .field("headers", &self.headers.len())
            .field("payload", &Size(self.payload.len()))
            .finish_non_exhaustive()
    }
}

/// An event about to be accepted, with all that is owed because of it.
#[derive(Debug)]
pub(crate) struct NewEvent {
    pub(crate) event: Arc<Event>,
    pub(crate) key: Key,
    pub(crate) deliveries: Vec<NewDelivery>,
    /// Stored instead of its content.
    pub(crate) sealed: Option<Sealed>,
    /// Under which it is found again, by whoever has the ring and knows the person's CPF, phone or e-mail address.
    pub(crate) subjects: Vec<SubjectKey>,
}

/// A person's identifier as the index holds it: an HMAC under the ring's index key, cut to 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SubjectKey {
    pub(crate) kind: PersonalKind,
    pub(crate) subject: [u8; 16],
}

/// One event owed to one endpoint, before it has a row.
#[derive(Debug, Clone)]
pub(crate) struct NewDelivery {
    pub(crate) id: DeliveryId,
    pub(crate) endpoint: i64,
    pub(crate) route: i64,
    pub(crate) queue: i64,
    pub(crate) priority: i8,
    /// Hash of the key in whose order deliveries to this endpoint go out.
    pub(crate) ordering: Option<i64>,
    pub(crate) place: Place,
}

/// Where a new delivery waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In this node's memory, as soon as the transaction is durable.
    Memory,
    /// In the table, for whoever claims it.
    Table,
    /// In the retry queue until the clock shows this.
    Delayed(u64),
    /// In the table until an operator resumes the endpoint.
    Held,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_received_is_printed() {
        const MARKER: &str = "marker-4711";
        let event = Event {
            id: EventId(1),
            source: "crm".into(),
            event_type: "lead.created".into(),
            created_ms: 1,
            content_type: MARKER.into(),
            headers: vec![(MARKER.to_owned(), MARKER.to_owned())],
            payload: Bytes::from_static(MARKER.as_bytes()),
            parent: None,
            content: Content::Clear,
        };
        let new = NewEvent {
            event: Arc::new(event),
            key: Key::given("crm", MARKER),
            deliveries: Vec::new(),
            sealed: None,
            subjects: Vec::new(),
        };
        let printed = format!("{new:?} {new:#?}");
        assert!(!printed.contains(MARKER) && printed.contains("payload: <11 bytes>"), "{printed}");
        // Not as numbers either.
        assert!(!printed.contains("109, 97"), "{printed}");
    }

    #[test]
    fn ids_read_back_as_they_were_written() {
        for id in [0, 1, 31, 32, i64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(EventId(id).to_string().parse(), Ok(EventId(id)));
        }
        for wrong in ["", "evt_", "dlv_0000000000000", "evt_000000000000i", "evt_zzzzzzzzzzzzz", "evt_00000000000000"] {
            assert!(wrong.parse::<EventId>().is_err(), "{wrong}");
        }
    }
}
