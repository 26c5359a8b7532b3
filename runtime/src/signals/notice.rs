//! What nodes tell each other: ids and numbers only, and nothing that is not in the database as well.
//!
//! Pure: what is waiting to be told is merged, so that a thousand commits are one message.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Endpoints of one message. Of those beyond nobody is told: whoever looks by itself finds them.
const MAX_ENDPOINTS: usize = 10_000;

/// Whoever does not hear of it finds out by looking, a little later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The table has something for this endpoint.
    Work {
        endpoint: i64,
    },
    /// The retry queue has something for this time.
    Due {
        at_ms: u64,
    },
    /// The configuration has this revision.
    Changed {
        revision: i64,
    },
    /// An endpoint's breaker is open, for so long from now: nodes need not have the same time.
    Opened {
        endpoint: i64,
        for_ms: u64,
    },
    Closed {
        endpoint: i64,
    },
}

/// Notices that are told together.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Message {
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    work: BTreeSet<i64>,
    /// The earliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    due_ms: Option<u64>,
    /// The latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<i64>,
    /// Endpoint → for how many milliseconds its breaker is open, 0 when it has closed. The last word counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) breakers: BTreeMap<i64, u64>,
}

impl Message {
    pub(super) fn add(&mut self, notice: Notice) {
        match notice {
            Notice::Work { endpoint } if self.work.len() < MAX_ENDPOINTS => {
                self.work.insert(endpoint);
            }
            Notice::Due { at_ms } => self.due_ms = Some(self.due_ms.map_or(at_ms, |due_ms| due_ms.min(at_ms))),
            Notice::Changed { revision } => self.revision = self.revision.max(Some(revision)),
            Notice::Opened { endpoint, for_ms } => self.breaker(endpoint, for_ms.max(1)),
            Notice::Closed { endpoint } => self.breaker(endpoint, 0),
            Notice::Work { .. } => {}
        }
    }

    fn breaker(&mut self, endpoint: i64, for_ms: u64) {
        if self.breakers.len() < MAX_ENDPOINTS || self.breakers.contains_key(&endpoint) {
            self.breakers.insert(endpoint, for_ms);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Message::default()
    }

    pub(super) fn write(&self) -> String {
        // Numbers always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// None for what is no message: anybody who reaches Redis can send something.
    pub(super) fn read(bytes: &[u8]) -> Option<Message> {
        serde_json::from_slice(bytes).ok()
    }

    pub(super) fn notices(&self) -> impl Iterator<Item = Notice> {
        let work = self.work.iter().map(|endpoint| Notice::Work { endpoint: *endpoint });
        let due = self.due_ms.map(|at_ms| Notice::Due { at_ms });
        let changed = self.revision.map(|revision| Notice::Changed { revision });
        let breakers = self.breakers.iter().map(|(endpoint, for_ms)| match for_ms {
            0 => Notice::Closed { endpoint: *endpoint },
            for_ms => Notice::Opened { endpoint: *endpoint, for_ms: *for_ms },
        });
        work.chain(due).chain(changed).chain(breakers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_merged_and_read_as_it_was_written() {
        let mut message = Message::default();
        assert!(message.is_empty());
        for notice in [
            Notice::Work { endpoint: 7 },
            Notice::Work { endpoint: 7 },
            Notice::Work { endpoint: 3 },
            Notice::Due { at_ms: 20 },
            Notice::Due { at_ms: 10 },
            Notice::Due { at_ms: 30 },
            Notice::Changed { revision: 2 },
            Notice::Changed { revision: 1 },
            Notice::Opened { endpoint: 3, for_ms: 500 },
            Notice::Closed { endpoint: 3 },
            Notice::Closed { endpoint: 4 },
            Notice::Opened { endpoint: 4, for_ms: 0 },
        ] {
            message.add(notice);
        }
        let text = message.write();
        assert_eq!(text, r#"{"work":[3,7],"due_ms":10,"revision":2,"breakers":{"3":0,"4":1}}"#);
        let read = Message::read(text.as_bytes()).unwrap();
        assert_eq!(read, message);
        let notices: Vec<Notice> = read.notices().collect();
        let expected = [
            Notice::Work { endpoint: 3 },
            Notice::Work { endpoint: 7 },
            Notice::Due { at_ms: 10 },
            Notice::Changed { revision: 2 },
            Notice::Closed { endpoint: 3 },
            Notice::Opened { endpoint: 4, for_ms: 1 },
        ];
        assert_eq!(notices, expected);
    }

    #[test]
    fn what_is_no_message_is_none_and_what_a_later_version_adds_is_passed_over() {
        for text in ["", "hello", "[1]", r#"{"work":["a"]}"#, r#"{"due_ms":-1}"#] {
            assert_eq!(Message::read(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Message::read(br#"{"later":1}"#), Some(Message::default()));
    }

    #[test]
    fn a_message_has_an_end() {
        let mut message = Message::default();
        for endpoint in 0..2 * MAX_ENDPOINTS as i64 {
            message.add(Notice::Work { endpoint });
            message.add(Notice::Opened { endpoint, for_ms: 1 });
        }
        assert_eq!((message.work.len(), message.breakers.len()), (MAX_ENDPOINTS, MAX_ENDPOINTS));
    }
}
