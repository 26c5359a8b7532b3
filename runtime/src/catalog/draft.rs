//! How everything that enters the hub becomes an event: what is owed because of it, and what of it has to be hidden.

use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::Catalog;
use crate::clock::random_bytes;
use crate::config::Personal;
use crate::event::{Content, DeliveryId, Event, EventId, NewEvent, Sealed, SubjectKey};
use crate::ingress::key::{self, Key};
use crate::keyring::Keyring;
use crate::personal::{self, Subject};
use crate::seal::{KEY, NONCE, Nonce, Place, SealKey};

/// What is about to become an event.
pub(crate) struct Draft<'a> {
    pub(crate) id: EventId,
    pub(crate) source: Arc<str>,
    pub(crate) event_type: &'a str,
    pub(crate) now_ms: u64,
    pub(crate) content_type: &'a str,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: Bytes,
    pub(crate) parent: Option<DeliveryId>,
    pub(crate) key: Key,
    /// Of its deliveries, unless their routes name another.
    pub(crate) queue: i64,
    pub(crate) care: Care,
}

/// What an event needs because it is about people.
#[derive(Debug, Clone, Default)]
pub(crate) struct Care {
    pub(crate) sensitive: bool,
    pub(crate) personal: Arc<[Personal]>,
}

impl Care {
    pub(super) fn new(sensitive: bool, personal: &[Personal]) -> Care {
        Care { sensitive, personal: personal.into() }
    }

    /// For what comes of an event that is sealed.
    pub(crate) fn or_sensitive(&self, sensitive: bool) -> Care {
        Care { sensitive: self.sensitive || sensitive, ..self.clone() }
    }
}

impl<'a> Draft<'a> {
    /// An event that the hub makes: JSON, without headers, and with nothing to hide unless it is said.
    pub(crate) fn json(
        id: EventId,
        source: impl Into<Arc<str>>,
        event_type: &'a str,
        payload: Bytes,
        key: Key,
        queue: i64,
        now_ms: u64,
    ) -> Draft<'a> {
        Draft {
            id,
            source: source.into(),
            event_type,
            now_ms,
            content_type: "application/json",
            headers: Vec::new(),
            payload,
            parent: None,
            key,
            queue,
            care: Care::default(),
        }
    }

    /// What nobody may see without a key of the ring.
    fn seal(&self, ring: &Keyring) -> (Arc<SealKey>, Sealed) {
        // Drawn at once, and no more than needed: asking the system costs as much as a seal. A nonce must not come twice
        // under one key: the ring's key and the event's are two, and the envelope has the payload's with a bit turned.
        let random: Zeroizing<[u8; KEY + NONCE]> = Zeroizing::new(random_bytes());
        let key = SealKey::new(std::array::from_fn(|at| random[at]));
        let nonce: Nonce = std::array::from_fn(|at| random[KEY + at]);
        let event = self.id.0;
        let (ring_key, wrapped) = ring.wrap(Place::PayloadKey { event }, nonce, &key);
        let shown = self.key.is_content.then_some(self.key.shown.as_str());
        let has_envelope = shown.is_some() || !self.headers.is_empty();
        let envelope = has_envelope.then(|| {
            // Texts always serialise.
            let envelope = serde_json::to_vec(&(&self.headers, shown)).unwrap_or_default();
            let mut turned = nonce;
            turned[NONCE - 1] ^= 1;
            key.seal(Place::Envelope { event }, turned, &envelope)
        });
        let payload = key.seal(Place::Payload { event, has_envelope }, nonce, &self.payload);
        let sealed = Sealed { key: ring_key, wrapped, payload, envelope };
        (Arc::new(key), sealed)
    }
}

impl Catalog {
    /// The event that a draft stands for, ready to be committed.
    pub(crate) fn event(&self, ring: &Keyring, mut draft: Draft<'_>) -> NewEvent {
        let deliveries = self.owed(ring, draft.id, draft.event_type, &draft.payload, draft.queue, draft.now_ms);
        // What a target says about an event is sealed with it, so an endpoint that says what is sensitive asks for that.
        let endpoint = |id: &i64| self.endpoints.get(id).is_some_and(|endpoint| endpoint.care.sensitive);
        draft.care.sensitive |= deliveries.iter().any(|delivery| endpoint(&delivery.endpoint));
        let (content, sealed) = if draft.care.sensitive {
            let (key, sealed) = draft.seal(ring);
            (Content::Sealed(key), Some(sealed))
        } else {
            (Content::Clear, None)
        };
        if draft.care.sensitive || !draft.care.personal.is_empty() {
            // What is kept of it after it was erased must not say what it was.
            draft.key = draft.key.hide(|index| ring.index(key::LABEL, &[index]));
        }
        let subjects = subject_keys(ring, &draft.payload, &draft.care.personal);
        NewEvent {
            event: Arc::new(Event {
                id: draft.id,
                source: draft.source,
                event_type: draft.event_type.into(),
                created_ms: draft.now_ms,
                content_type: draft.content_type.into(),
                headers: draft.headers,
                payload: draft.payload,
                parent: draft.parent,
                content,
            }),
            key: draft.key,
            deliveries,
            sealed,
            subjects,
        }
    }

    /// Of a source by its name; of one that is not configured nothing is known.
    pub(crate) fn care_of(&self, source: &str) -> Care {
        let source = self.config.sources.get(source);
        source.map_or_else(Care::default, |source| Care::new(source.sensitive, &source.personal))
    }

    /// Where the stored events of a source name people; of those that a connector emitted, the source is its endpoint.
    pub(crate) fn personal_of(&self, source: &str, emitted: bool) -> &[Personal] {
        if emitted {
            self.config.endpoints.get(source).map_or(&[], |endpoint| &endpoint.personal)
        } else {
            self.config.sources.get(source).map_or(&[], |source| &source.personal)
        }
    }
}

/// What a payload is found under, as far as it is said where it names people.
pub(crate) fn subject_keys(ring: &Keyring, payload: &[u8], personal: &[Personal]) -> Vec<SubjectKey> {
    if personal.is_empty() {
        return Vec::new();
    }
    personal::subjects(payload, personal).iter().map(|subject| subject_key(ring, subject)).collect()
}

pub(crate) fn subject_key(ring: &Keyring, Subject { kind, form }: &Subject) -> SubjectKey {
    let index = ring.index("subject", &[kind.word().as_bytes(), form.as_bytes()]);
    let mut subject = [0; 16];
    subject.copy_from_slice(&index[..16]);
    SubjectKey { kind: *kind, subject }
}
