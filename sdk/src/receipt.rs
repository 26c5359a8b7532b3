//! What a delivery that happened leaves behind.

use serde::Serialize;

use crate::Failure;
pub use crate::bindings::connector::tomada::hub::types::{Emitted, Receipt};
use crate::http::Response;

impl Receipt {
    /// Delivered, with nothing more to say.
    pub fn new() -> Receipt {
        Receipt { http_status: None, note: None, emitted: Vec::new(), cursor: None }
    }

    /// What happened, in a few words, for the operator. No personal data.
    pub fn note(mut self, note: impl Into<String>) -> Receipt {
        self.note = Some(note.into());
        self
    }

    /// Of a sync job's page: the hub asks again at once, with this cursor. Without one the run is complete.
    pub fn cursor(mut self, cursor: impl Into<String>) -> Receipt {
        self.cursor = Some(cursor.into());
        self
    }

    /// An event that this delivery gives rise to. The hub accepts it in the transaction that settles the delivery, and
    /// a retry emits nothing twice. At most 256 of them and 4 MiB together, 1 MiB each.
    ///
    /// # Errors
    ///
    /// Rejected, when the payload cannot be written as JSON (a map with keys that are no strings).
    pub fn emit(mut self, event_type: impl Into<String>, payload: &impl Serialize) -> Result<Receipt, Failure> {
        let payload = serde_json::to_vec(payload)?;
        self.emitted.push(Emitted { event_type: event_type.into(), payload, idempotency_key: None });
        Ok(self)
    }

    /// As [`emit`](Receipt::emit), once for all deliveries of this endpoint: of the events of this type, the first under
    /// `key` is accepted and later ones are its duplicates, whatever their payload. Operators see the key.
    ///
    /// # Errors
    ///
    /// As for [`emit`](Receipt::emit).
    pub fn emit_once(
        mut self,
        event_type: impl Into<String>,
        payload: &impl Serialize,
        key: impl Into<String>,
    ) -> Result<Receipt, Failure> {
        let payload = serde_json::to_vec(payload)?;
        let idempotency_key = Some(key.into());
        self.emitted.push(Emitted { event_type: event_type.into(), payload, idempotency_key });
        Ok(self)
    }
}

impl Default for Receipt {
    fn default() -> Receipt {
        Receipt::new()
    }
}

/// The target's status and nothing more.
impl From<Response> for Receipt {
    fn from(response: Response) -> Receipt {
        Receipt { http_status: Some(response.status()), ..Receipt::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_emitted_in_order_with_the_keys_they_were_given() {
        let receipt = Receipt::new()
            .emit("lead.registered", &json!({"lead_id": 7}))
            .and_then(|receipt| receipt.emit_once("schedule.pending", &json!([12]), "12"))
            .expect("JSON");
        let [first, second] = &receipt.emitted[..] else { panic!("{receipt:?}") };
        assert_eq!(
            (first.event_type.as_str(), first.payload.as_slice()),
            ("lead.registered", &br#"{"lead_id":7}"#[..])
        );
        assert_eq!(first.idempotency_key, None);
        assert_eq!((second.event_type.as_str(), second.payload.as_slice()), ("schedule.pending", &b"[12]"[..]));
        assert_eq!(second.idempotency_key.as_deref(), Some("12"));
    }

    #[test]
    fn what_is_no_json_is_not_emitted() {
        let keys = BTreeMap::from([(vec![1], 2)]);
        let failure = Receipt::new().emit_once("t", &keys, "k").expect_err("a key that is no text");
        assert!(matches!(failure, Failure::Rejected(_)), "{failure:?}");
    }
}
