//! What arrives: an event whose payload was read into the author's type.

use std::ops::Deref;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::connector::tomada::hub::types;
use crate::failure::{Detail, complaint_in};

/// An event owed to this endpoint. `T` is the author's type, [`Json`](crate::Json) for any JSON, [`Raw`] for bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Event<T> {
    /// `evt_…`, stable over every delivery and every attempt.
    pub id: String,
    /// For instance `lead.created`.
    pub event_type: String,
    /// Where the event came from, for instance `site`.
    pub source: String,
    /// `dlv_…`: this event owed to this endpoint. The same over all attempts and replays: the idempotency key to send.
    pub delivery_id: String,
    /// 1 for the first try.
    pub attempt: u32,
    /// When the hub accepted the event, milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// Of the payload as it was received.
    pub content_type: String,
    /// The request headers that the source keeps, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The payload, mapped already when the route has a mapping.
    pub payload: T,
}

impl<T> Event<T> {
    /// A kept request header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn new(event: types::Event, payload: T) -> Event<T> {
        let types::Event { id, event_type, source, delivery_id, attempt, created_ms, content_type, headers } = event;
        Event { id, event_type, source, delivery_id, attempt, created_ms, content_type, headers, payload }
    }
}

/// A payload as it is, without a look inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw(pub Vec<u8>);

impl Deref for Raw {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// What a mapping makes of a payload.
#[derive(Debug, Clone, PartialEq)]
pub enum Mapped<U> {
    /// This is delivered instead.
    Payload(U),
    /// Nothing is delivered; the reason stands in the delivery.
    Skip(String),
}

/// A payload type: whatever serde can read from JSON, or [`Raw`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from a payload",
    note = "derive `serde::Deserialize` for it, or take `Event<Json>` or `Event<Raw>`"
)]
pub trait FromPayload: Sized {
    /// Reads the payload.
    ///
    /// # Errors
    ///
    /// Code `payload-invalid`, with the place and never the value.
    fn from_payload(payload: Vec<u8>) -> Result<Self, Detail>;
}

impl<T: DeserializeOwned> FromPayload for T {
    fn from_payload(payload: Vec<u8>) -> Result<T, Detail> {
        serde_json::from_slice(&payload).map_err(|error| {
            let complaint = complaint_in(&error, &payload);
            Detail::new("payload-invalid", format!("the payload is not what this connector handles: {complaint}"))
        })
    }
}

impl FromPayload for Raw {
    fn from_payload(payload: Vec<u8>) -> Result<Raw, Detail> {
        Ok(Raw(payload))
    }
}

/// What a mapping may return: whatever serde can write as JSON, or [`Raw`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be written as a payload",
    note = "derive `serde::Serialize` for it, or return `Mapped<Json>` or `Mapped<Raw>`"
)]
pub trait IntoPayload {
    /// Writes the payload.
    ///
    /// # Errors
    ///
    /// Code `output-invalid`, when it cannot be JSON.
    fn into_payload(self) -> Result<Vec<u8>, Detail>;
}

impl<U: Serialize> IntoPayload for U {
    fn into_payload(self) -> Result<Vec<u8>, Detail> {
        serde_json::to_vec(&self)
            .map_err(|error| Detail::new("output-invalid", format!("the mapped payload is no JSON: {error}")))
    }
}

impl IntoPayload for Raw {
    fn into_payload(self) -> Result<Vec<u8>, Detail> {
        Ok(self.0)
    }
}
