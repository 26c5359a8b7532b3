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

    /// Where a sync job goes on next time.
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
