//! What Carinho's internal systems have in common: who may come in, plain events with both their signatures, JSON
//! bodies with their required fields, and creations that are made once for each `Idempotency-Key`.

use std::collections::BTreeMap;

use anyhow::Result;
use axum::http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{Call, Records, Reply, System, random};
use crate::send::{self, Scheme};

/// This id is not known anywhere; of what a system is not seeded with, all others are.
const UNKNOWN_ID: &str = "404";

/// One internal system: what makes it different from the others.
pub(super) struct Api {
    pub(super) profile: Profile,
    /// Where it takes plain events.
    pub(super) events: &'static str,
    /// Answers a call that has come through the door.
    pub(super) answer: fn(&Call<'_>, &mut Records) -> Result<Reply, Reply>,
    /// Puts items into one of its lists; false when it has no such list.
    pub(super) seed: fn(&str, usize, &mut Records) -> bool,
}

pub(super) const EVENTS: &str = "/api/v1/webhooks/events";

/// For systems that no sync job reads.
pub(super) fn no_lists(_: &str, _: usize, _: &mut Records) -> bool {
    false
}

/// The header that carries the key.
#[derive(Clone, Copy)]
pub(super) enum Profile {
    ApiKey,
    /// `X-API-Key` and `X-Service-Origin: integracoes`.
    ApiKeyAndOrigin,
    InternalToken,
    Bearer,
}

impl Profile {
    fn admit(self, call: &Call<'_>, key: &str) -> Result<(), Reply> {
        let (header, expected) = match self {
            Profile::ApiKey | Profile::ApiKeyAndOrigin => ("X-API-Key", key.to_owned()),
            Profile::InternalToken => ("X-Internal-Token", key.to_owned()),
            Profile::Bearer => ("Authorization", format!("Bearer {key}")),
        };
        if call.header(header) != Some(&expected) {
            return Err(Reply::refused(StatusCode::UNAUTHORIZED, &format!("wrong or missing {header}")));
        }
        if matches!(self, Profile::ApiKeyAndOrigin) && call.header("X-Service-Origin") != Some("integracoes") {
            return Err(Reply::refused(StatusCode::FORBIDDEN, "wrong or missing X-Service-Origin"));
        }
        Ok(())
    }
}

/// A system behind its door.
pub(super) struct Internal {
    api: &'static Api,
    key: String,
    signing: String,
    legacy_signing: String,
    records: Records,
    /// Path and key of a creation → what was answered.
    answered: BTreeMap<(String, String), Reply>,
}

impl Internal {
    /// # Errors
    /// There is no random number.
    pub(super) fn new(api: &'static Api) -> Result<Internal> {
        Ok(Internal {
            api,
            key: random()?,
            // 32 hexadecimal digits are base64 as well, of 24 bytes.
            signing: format!("whsec_{}", random()?),
            legacy_signing: random()?,
            records: Records::default(),
            answered: BTreeMap::new(),
        })
    }

    /// The ids of what it is seeded with begin after `first`.
    pub(super) fn seeded_from(mut self, first: usize) -> Internal {
        self.records.seeded_from = first;
        self
    }

    fn pass(&mut self, call: &Call<'_>) -> Result<Reply, Reply> {
        self.api.profile.admit(call, &self.key)?;
        let is_event = call.path == self.api.events;
        if !is_event {
            call.must_say("X-Source-System", "integracoes")?;
            call.must_have("X-Request-ID")?;
        }
        // A PUT repeated after a crash is the same PUT: a system that counted it twice would not know its own contract.
        let changes = [Method::POST, Method::PUT].contains(call.method);
        let key = call.header("Idempotency-Key").filter(|_| changes);
        let place = key.map(|key| (call.path.to_owned(), key.to_owned()));
        if let Some(known) = place.as_ref().and_then(|place| self.answered.get(place)) {
            let note = format!("{}, as said before: the key is known", known.note);
            return Ok(Reply { note, ..known.clone() });
        }
        let reply = if is_event { self.take_event(call)? } else { (self.api.answer)(call, &mut self.records)? };
        if let Some(place) = place.filter(|_| reply.status.is_success()) {
            self.answered.insert(place, reply.clone());
        }
        Ok(reply)
    }

    fn take_event(&mut self, call: &Call<'_>) -> Result<Reply, Reply> {
        if call.method != Method::POST {
            return Err(Reply::wrong_verb());
        }
        let event = call.object(&["_meta"])?;
        self.check_signatures(call)?;
        call.must_say("X-Source-System", "integracoes")?;
        let (event_type, id) = (call.must_have("X-Event-Type")?, call.must_have("X-Event-ID")?);
        if call.must_have("X-Timestamp")?.parse::<jiff::Timestamp>().is_err() {
            return Err(Reply::invalid("X-Timestamp", "must be a time as in ISO 8601"));
        }
        let meta = &event["_meta"];
        for (field, expected) in [("event_id", id), ("event_type", event_type), ("source_system", "integracoes")] {
            if meta[field] != *expected {
                return Err(Reply::invalid(&format!("_meta.{field}"), "must be what the header says"));
            }
        }
        if meta["timestamp"].as_str().is_none_or(|time| time.parse::<jiff::Timestamp>().is_err()) {
            return Err(Reply::invalid("_meta.timestamp", "must be a time as in ISO 8601"));
        }
        let note = format!("event {event_type} taken");
        self.records.add("events", 1, event);
        Ok(Reply::new(StatusCode::OK, json!({ "success": true }), note))
    }

    /// Both must be there and right: the legacy one of the body, and that of Standard Webhooks.
    fn check_signatures(&self, call: &Call<'_>) -> Result<(), Reply> {
        let refused = |header: &str| Reply::refused(StatusCode::UNAUTHORIZED, &format!("wrong or missing {header}"));
        let (id, timestamp) = (call.header("webhook-id"), call.header("webhook-timestamp"));
        let timestamp = timestamp.and_then(|timestamp| timestamp.parse().ok());
        let (Some(id), Some(timestamp)) = (id, timestamp) else { return Err(refused("webhook-id or -timestamp")) };
        for (scheme, secret) in [(Scheme::HmacHex, &self.legacy_signing), (Scheme::StandardWebhooks, &self.signing)] {
            let expected = send::signature(scheme, secret.as_bytes(), id, timestamp, call.body);
            for (name, value) in expected.map_err(|_| refused("signature"))? {
                if call.header(&name) != Some(&value) {
                    return Err(refused(&name));
                }
            }
        }
        Ok(())
    }
}

impl System for Internal {
    fn secrets(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("api_key", self.key.clone()),
            ("auth", self.key.clone()),
            ("signing", self.signing.clone()),
            ("legacy_signing", self.legacy_signing.clone()),
        ])
    }

    fn answer(&mut self, call: &Call<'_>) -> Reply {
        self.pass(call).unwrap_or_else(|refusal| refusal)
    }

    fn records(&self, kind: &str) -> &[Value] {
        self.records.of(kind)
    }

    fn seed(&mut self, what: &str, count: usize) -> bool {
        (self.api.seed)(what, count, &mut self.records)
    }
}

impl Call<'_> {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn segments(&self) -> Vec<&str> {
        self.path.split('/').skip(1).collect()
    }

    pub(super) fn asked(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn must_have(&self, header: &str) -> Result<&str, Reply> {
        self.header(header).filter(|value| !value.is_empty()).ok_or_else(|| Reply::invalid(header, "is required"))
    }

    fn must_say(&self, header: &str, value: &str) -> Result<(), Reply> {
        if self.must_have(header)? == value { Ok(()) } else { Err(Reply::invalid(header, &format!("must be {value}"))) }
    }

    /// The body, which has to be an object with these fields in it: neither null nor "".
    pub(super) fn object(&self, required: &[&str]) -> Result<Map<String, Value>, Reply> {
        if !self.is_json() {
            return Err(Reply::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json"));
        }
        let object: Map<String, Value> = serde_json::from_slice(self.body)
            .map_err(|_| Reply::refused(StatusCode::BAD_REQUEST, "the body must be a JSON object"))?;
        match required.iter().find(|field| object.get(**field).is_none_or(is_empty)) {
            Some(field) => Err(Reply::invalid(field, "is required")),
            None => Ok(object),
        }
    }

    /// As [`Call::object`] where nothing is required, so that no body is a body too.
    pub(super) fn object_or_nothing(&self) -> Result<Map<String, Value>, Reply> {
        if self.body.is_empty() { Ok(Map::new()) } else { self.object(&[]) }
    }

    pub(super) fn is_json(&self) -> bool {
        let value = self.header("content-type").unwrap_or_default();
        value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value == ""
}

/// What a field has to be, besides being there.
pub(super) fn require(holds: bool, field: &str, what: &str) -> Result<(), Reply> {
    if holds { Ok(()) } else { Err(Reply::invalid(field, what)) }
}

/// `yyyy-mm-dd`, perhaps with a time after it.
pub(super) fn is_date(value: &Value) -> bool {
    value.as_str().and_then(|text| text.get(..10)).is_some_and(|date| date.parse::<jiff::civil::Date>().is_ok())
}

/// For ids of things that a system knows without having been told of them here.
pub(super) fn must_be_known(id: &str) -> Result<(), Reply> {
    if id.is_empty() || id == UNKNOWN_ID { Err(Reply::unknown_id()) } else { Ok(()) }
}

/// For the tests of the systems: one that can be called without HTTP.
#[cfg(test)]
pub(super) mod tests {
    use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};

    use super::*;

    impl Internal {
        /// A call with all headers right, except for those that are given: an empty one is left out.
        pub(in super::super) fn call(
            &mut self,
            verb: &str,
            path: &str,
            body: Value,
            changed: &[(&str, &str)],
        ) -> Reply {
            let mut headers = vec![
                ("x-source-system", "integracoes".to_owned()),
                ("x-request-id", "dlv_1".to_owned()),
                ("content-type", "application/json".to_owned()),
            ];
            match self.api.profile {
                Profile::ApiKey => headers.push(("x-api-key", self.key.clone())),
                Profile::InternalToken => headers.push(("x-internal-token", self.key.clone())),
                Profile::Bearer => headers.push(("authorization", format!("Bearer {}", self.key))),
                Profile::ApiKeyAndOrigin => {
                    headers.push(("x-api-key", self.key.clone()));
                    headers.push(("x-service-origin", "integracoes".to_owned()));
                }
            }
            let body = if body.is_null() { String::new() } else { body.to_string() };
            let mut signed = Vec::new();
            if path == self.api.events {
                headers.push(("x-event-type", "service.completed".to_owned()));
                headers.push(("x-event-id", "evt_1".to_owned()));
                headers.push(("x-timestamp", "2026-11-24T12:00:00Z".to_owned()));
                for (scheme, secret) in
                    [(Scheme::HmacHex, &self.legacy_signing), (Scheme::StandardWebhooks, &self.signing)]
                {
                    let signature = send::signature(scheme, secret.as_bytes(), "dlv_1", 1_800_000_000, body.as_bytes());
                    signed.extend(signature.unwrap());
                }
            }
            let mut map = HeaderMap::new();
            let signed = signed.iter().map(|(name, value): &(String, String)| (name.as_str(), value.as_str()));
            let all = headers.iter().map(|(name, value)| (*name, value.as_str())).chain(signed);
            for (name, value) in all.chain(changed.iter().copied()) {
                let name = HeaderName::try_from(name).unwrap();
                map.insert(name.clone(), HeaderValue::from_str(value).unwrap());
                if value.is_empty() {
                    map.remove(name);
                }
            }
            let uri: Uri = path.parse().unwrap();
            let query: Vec<(String, String)> =
                url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
            self.answer(&Call {
                method: &Method::from_bytes(verb.as_bytes()).unwrap(),
                path: uri.path(),
                query: &query,
                headers: &map,
                body: body.as_bytes(),
            })
        }

        pub(in super::super) fn status(&mut self, verb: &str, path: &str, body: Value) -> u16 {
            self.call(verb, path, body, &[]).status.as_u16()
        }

        /// A call that leaves out each of the fields in turn is refused with a message that names it.
        pub(in super::super) fn requires(&mut self, verb: &str, path: &str, whole: &Value, fields: &[&str]) {
            for field in fields {
                for instead in [Value::Null, json!("")] {
                    let mut body = whole.clone();
                    body[*field] = instead;
                    let reply = self.call(verb, path, body, &[]);
                    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{path} without {field}");
                    assert!(reply.body["errors"][*field].is_array(), "{}", reply.body);
                }
            }
            let reply = self.call(verb, path, whole.clone(), &[("content-type", "text/plain")]);
            assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path}");
            let reply = self.call(verb, path, whole.clone(), &[]);
            assert!(reply.status.is_success(), "{path}: {}", reply.body);
        }

        /// Whoever has not its key in its header stays outside.
        pub(in super::super) fn admits_only(&mut self, header: &str, path: &str) {
            for wrong in ["", "Bearer", "other"] {
                let reply = self.call("GET", path, Value::Null, &[(header, wrong)]);
                assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{header}: {wrong:?}");
            }
            for (other, key) in [("x-api-key", ""), ("x-internal-token", ""), ("authorization", "Bearer ")] {
                if other == header {
                    continue;
                }
                let key = format!("{key}{}", self.key);
                let reply = self.call("GET", path, Value::Null, &[(header, ""), (other, &key)]);
                assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "the key of {header} in {other}");
            }
            assert!(self.call("GET", path, Value::Null, &[]).status.as_u16() != 401, "{path}");
        }
    }

    static TEST: Api = Api {
        profile: Profile::InternalToken,
        events: EVENTS,
        answer: |call, records| match (call.method.as_str(), &call.segments()[..]) {
            ("POST", ["things"]) => Ok(records.create("things", 7, call.object(&["name"])?, "thing #")),
            _ => Err(Reply::unknown_path()),
        },
        seed: no_lists,
    };

    fn event() -> Value {
        json!({
            "id": 5,
            "_meta": {
                "event_id": "evt_1", "event_type": "service.completed", "source_system": "integracoes",
                "timestamp": "2026-11-24T12:00:00Z",
            },
        })
    }

    #[test]
    fn a_key_that_is_known_creates_nothing_and_is_answered_as_before() {
        let mut system = Internal::new(&TEST).unwrap();
        let create = |system: &mut Internal, key: &str| {
            let reply = system.call("POST", "/things", json!({ "name": "a" }), &[("idempotency-key", key)]);
            (reply.status.as_u16(), reply.body["data"]["id"].as_u64())
        };
        assert_eq!(create(&mut system, "k"), (201, Some(7)));
        assert_eq!(create(&mut system, "k"), (201, Some(7)));
        assert_eq!(create(&mut system, "l"), (201, Some(8)));
        // Without a key nothing protects from a second one.
        assert_eq!(create(&mut system, ""), (201, Some(9)));
        assert_eq!(create(&mut system, ""), (201, Some(10)));
        assert_eq!(system.records("things").len(), 4);
    }

    #[test]
    fn what_was_refused_is_not_remembered_under_its_key() {
        let mut system = Internal::new(&TEST).unwrap();
        let key = [("idempotency-key", "k")];
        assert_eq!(system.call("POST", "/things", json!({}), &key).status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(system.call("POST", "/things", json!({ "name": "a" }), &key).status, StatusCode::CREATED);
    }

    #[test]
    fn an_event_is_taken_once() {
        let mut system = Internal::new(&TEST).unwrap();
        for _ in 0..2 {
            let reply = system.call("POST", EVENTS, event(), &[("idempotency-key", "dlv_1")]);
            assert_eq!((reply.status, reply.body), (StatusCode::OK, json!({ "success": true })));
        }
        assert_eq!(system.records("events").len(), 1);
        assert_eq!(system.records("events")[0]["_meta"]["event_type"], "service.completed");
    }

    #[test]
    fn an_event_without_its_proofs_is_refused() {
        let mut system = Internal::new(&TEST).unwrap();
        let cases = [
            ("x-webhook-signature", "00", 401),
            ("x-webhook-signature", "", 401),
            ("webhook-signature", "v1,AAAA", 401),
            ("webhook-signature", "", 401),
            ("webhook-id", "dlv_2", 401),
            ("webhook-timestamp", "1800000001", 401),
            ("webhook-timestamp", "", 401),
            ("x-internal-token", "other", 401),
            ("x-source-system", "", 422),
            ("x-source-system", "site", 422),
            ("x-event-type", "", 422),
            ("x-event-type", "service.started", 422),
            ("x-event-id", "", 422),
            ("x-event-id", "evt_2", 422),
            ("x-timestamp", "", 422),
            ("x-timestamp", "yesterday", 422),
            ("content-type", "text/plain", 415),
        ];
        for (header, value, status) in cases {
            let reply = system.call("POST", EVENTS, event(), &[(header, value)]);
            assert_eq!(reply.status.as_u16(), status, "{header}: {value:?}: {}", reply.body);
        }
        assert_eq!(system.status("POST", EVENTS, json!({ "id": 5 })), 422);
        let mut timeless = event();
        timeless["_meta"]["timestamp"] = "soon".into();
        assert_eq!(system.status("POST", EVENTS, timeless), 422);
        assert_eq!(system.status("GET", EVENTS, Value::Null), 405);
        assert!(system.records("events").is_empty());
    }

    #[test]
    fn a_call_says_who_it_comes_from_and_what_it_is_for() {
        let mut system = Internal::new(&TEST).unwrap();
        for (header, value) in [("x-source-system", ""), ("x-source-system", "site"), ("x-request-id", "")] {
            let reply = system.call("POST", "/things", json!({ "name": "a" }), &[(header, value)]);
            assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{header}");
        }
        system.admits_only("x-internal-token", "/things");
        system.requires("POST", "/things", &json!({ "name": "a" }), &["name"]);
        assert_eq!(system.status("POST", "/things", json!([])), 400);
    }
}
