//! What is this event, and was it here before? The idempotency key and the type of an event, read from a request.
//!
//! Pure: no clock, no I/O.

use std::borrow::Cow;
use std::fmt;

use axum::http::HeaderMap;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::config::{EventName, Idempotency, is_event_type};
use crate::redact::Size;

/// Bytes of a key that is kept as it came; a longer one is replaced by its digest.
const MAX_KEY: usize = 255;

/// The same key from the same source is the same event.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// For people, at most 255 bytes without control characters.
    pub(crate) shown: String,
    /// For the unique index: source, a zero byte, and the shown key. Not a digest of them: most providers' ids are ordered
    /// by time, so that neighbours in time are neighbours in the index, and a commit touches a few of its pages instead
    /// of one for each event.
    pub(crate) index: Vec<u8>,
    /// Whether it is made of what the event says. An id that a provider or the hub made for the message is not; a digest
    /// is, because short content can be guessed from it.
    pub(crate) is_content: bool,
    /// What `index` was before it was hidden: an event from before its source was about people is known by that.
    pub(crate) open: Option<Vec<u8>>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&Size(self.shown.len())).finish()
    }
}
/// What the ring's index key hides keys with.
pub(crate) const LABEL: &str = "idempotency";

impl Key {
    /// A key that somebody gave in words. One that is too long or holds control characters is replaced by its digest.
    pub(crate) fn given(source: &str, key: &str) -> Key {
        if key.len() > MAX_KEY || key.chars().any(char::is_control) {
            return Key::new(source, shown_digest(key.as_bytes()));
        }
        Key::new(source, key.to_owned())
    }

    /// An id that was made for the message and says nothing of it.
    pub(crate) fn id(source: &str, id: &str) -> Key {
        Key { is_content: false, ..Key::given(source, id) }
    }

    /// The same key for whoever may not read it: what the index holds is `hidden`, which the same source and key always
    /// give.
    pub(crate) fn hide(self, hidden: impl FnOnce(&[u8]) -> [u8; 32]) -> Key {
        if !self.is_content {
            return self;
        }
        Key { index: Key::hidden(&self.index, hidden), open: Some(self.index), ..self }
    }

    /// The hidden form of an open index.
    pub(crate) fn hidden(open: &[u8], hidden: impl FnOnce(&[u8]) -> [u8; 32]) -> Vec<u8> {
        // Ends the source's part, as in the open form, and no open form holds a second zero byte.
        let source = open.iter().position(|byte| *byte == 0).unwrap_or(0);
        [&open[..=source], b"\0", &hidden(open)].concat()
    }

    /// The open index of a key that is shown so.
    pub(crate) fn open_index(source: &str, shown: &str) -> Vec<u8> {
        [source.as_bytes(), b"\0", shown.as_bytes()].concat()
    }

    /// The key of a verified request: what the source's rule finds, else the id that the signature covers
    /// ([`Verified::id`](super::verify::Verified)), else the digest of the body.
    ///
    /// * A key from a **header** is only as good as the header, which no scheme signs: somebody who holds one signed request could
    ///   send it again under another key. [`crate::config`] therefore refuses the rule for every scheme that signs the body, and
    ///   leaves it to path tokens, which sign nothing.
    /// * The **digest** covers what the legacy schemes sign, the body, and deliberately neither path nor headers: the same signed
    ///   bytes posted again, to whichever path of the source and with whichever event type in a header, are the same event.
    pub(crate) fn of_request(
        source: &str,
        rule: &Idempotency,
        signed_id: Option<&str>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Key {
        let from_header = rule.header.as_deref().and_then(|name| single(headers, name));
        let from_body = rule.pointer.as_deref().and_then(|pointer| text(body, pointer));
        let from_parts = joined(body, &rule.pointers).map(Cow::Owned);
        let found = from_header.map(Cow::Borrowed).or(from_body).or(from_parts).filter(|key| !key.is_empty());
        match (found.as_deref(), signed_id) {
            (Some(key), _) => Key::given(source, key),
            (None, Some(id)) => Key::id(source, id),
            (None, None) => Key::new(source, shown_digest(body)),
        }
    }

    /// `shown` holds no zero byte, so the last one in the index ends the source.
    fn new(source: &str, shown: String) -> Key {
        let index = Key::open_index(source, &shown);
        Key { shown, index, is_content: true, open: None }
    }
}

fn shown_digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The type of the event in a request. The error is one sentence for the sender's 400; it repeats no value from the request.
pub(crate) fn event_name<'a>(rule: &'a EventName, headers: &'a HeaderMap, body: &[u8]) -> Result<Cow<'a, str>, String> {
    match rule {
        EventName::Fixed(name) => Ok(Cow::Borrowed(name)),
        EventName::Header(rule) => {
            let name = single(headers, &rule.header)
                .ok_or_else(|| format!("the header {} must be there once and name the event", rule.header))?;
            checked(Cow::Borrowed(name), || format!("the header {}", rule.header))
        }
        EventName::Pointer(rule) => {
            let found = text(body, &rule.pointer);
            let mapped = found.as_deref().and_then(|value| rule.map.get(value));
            if let Some(name) = mapped.or(rule.default.as_ref()) {
                return Ok(Cow::Borrowed(name));
            }
            match found {
                None => Err(format!("the body must name the event at {}", rule.pointer)),
                Some(_) if !rule.map.is_empty() => Err(format!("the value at {} names no known event", rule.pointer)),
                Some(name) => {
                    checked(Cow::Owned(name.into_owned()), || format!("the value at {} of the body", rule.pointer))
                }
            }
        }
    }
}

/// Of a header that comes twice it is open which one counts, so it counts as none.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}

fn checked(name: Cow<'_, str>, place: impl Fn() -> String) -> Result<Cow<'_, str>, String> {
    if is_event_type(&name) {
        return Ok(name);
    }
    Err(format!("{} is not an event type: 1 to 128 characters of a-z 0-9 . _ -", place()))
}

/// Whether the body is JSON as a connector will be able to read it: UTF-8, one value, nested at most 127 deep.
pub(crate) fn is_json(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|body| serde_json::from_str::<Checked>(body).is_ok())
}

/// What a JSON pointer (RFC 6901) finds in the body. None when it finds nothing, or when the body is not JSON.
///
/// Only the value that is found is built. Of a key that an object repeats the last one counts, as in `serde_json::Value`
/// and JavaScript, so that hub and connector read the same.
pub(crate) fn pointer(body: &[u8], pointer: &str) -> Option<Value> {
    serde_json::from_str(raw(body, pointer)?.get()).ok()
}

/// What several pointers find, as a JSON list, so that no two lists of values make the same key; a list or an object
/// counts as it is written. None when none finds anything.
fn joined(body: &[u8], pointers: &[String]) -> Option<String> {
    let parts: Vec<Option<&RawValue>> = pointers.iter().map(|pointer| raw(body, pointer)).collect();
    if parts.iter().flatten().all(|part| part.get() == "null") {
        return None;
    }
    serde_json::to_string(&parts).ok()
}

/// The string, number or boolean that a pointer finds, as text. A number keeps the digits that were sent: as a float,
/// two long ids could become one.
fn text<'a>(body: &'a [u8], pointer: &str) -> Option<Cow<'a, str>> {
    let raw = raw(body, pointer)?.get();
    match raw.as_bytes().first()? {
        b'"' => serde_json::from_str::<Text>(raw).ok().map(|text| text.0),
        b'{' | b'[' | b'n' => None,
        _ => Some(Cow::Borrowed(raw)),
    }
}

/// Borrowed where the JSON string has no escapes; `Cow` alone would always be owned.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn raw<'a>(body: &'a [u8], pointer: &str) -> Option<&'a RawValue> {
    let body = std::str::from_utf8(body).ok()?;
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return None;
    }
    let mut json = serde_json::Deserializer::from_str(body);
    let found = At(pointer).deserialize(&mut json).ok()??;
    json.end().ok()?;
    Some(found)
}

/// Descends along a pointer, which is empty or starts with `/`, and skips everything beside it.
#[derive(Clone, Copy)]
struct At<'p>(&'p str);

impl<'p> At<'p> {
    /// The first token, unescaped, and what is left.
    fn split(self) -> (Cow<'p, str>, At<'p>) {
        let path = &self.0[1..];
        let (token, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
        if token.contains('~') {
            return (Cow::Owned(token.replace("~1", "/").replace("~0", "~")), At(rest));
        }
        (Cow::Borrowed(token), At(rest))
    }
}

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() { <&RawValue>::deserialize(value).map(Some) } else { value.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (token, rest) = self.split();
        let mut found = None;
        while let Some(wanted) = map.next_key_seed(Is(&token))? {
            if wanted {
                found = map.next_value_seed(rest)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (token, rest) = self.split();
        // RFC 6901, section 4: digits without leading zeros.
        let canonical =
            token.bytes().all(|byte| byte.is_ascii_digit()) && (token.len() == 1 || !token.starts_with('0'));
        let wanted = if canonical { token.parse::<usize>().ok() } else { None };
        for at in 0.. {
            if wanted == Some(at) {
                let Some(found) = seq.next_element_seed(rest)? else { return Ok(None) };
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(found);
            }
            if seq.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
        }
        Ok(None)
    }

    // The pointer goes on, but there is nothing to descend into.
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Whether a key is the wanted one, without building it.
struct Is<'t>(&'t str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<bool, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

/// Any JSON value, read and thrown away. Unlike `IgnoredAny` it takes part in serde_json's limit on nesting, and it
/// reads strings and numbers, so that what passes here can be parsed later.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_any(Checked)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = Checked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Checked, A::Error> {
        while map.next_entry::<Checked, Checked>()?.is_some() {}
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Checked, A::Error> {
        while seq.next_element::<Checked>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Checked, E> {
        Ok(self)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Checked, E> {
        Ok(self)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Checked, E> {
        Ok(self)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Checked, E> {
        Ok(self)
    }
    fn visit_str<E>(self, _: &str) -> Result<Checked, E> {
        Ok(self)
    }
    fn visit_unit<E>(self) -> Result<Checked, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cases;
    use axum::http::{HeaderName, HeaderValue};

    /// One file of `tests/cases/key`: a request, and what is read from it.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        #[serde(default)]
        headers: Vec<(String, String)>,
        #[serde(default)]
        body: String,
        body_hex: Option<String>,
        json: Option<bool>,
        #[serde(default)]
        key: Vec<KeyCase>,
        #[serde(default)]
        event: Vec<EventCase>,
        #[serde(default)]
        pointer: Vec<PointerCase>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct KeyCase {
        #[serde(default)]
        rule: Idempotency,
        signed_id: Option<String>,
        shown: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct EventCase {
        rule: EventName,
        name: Option<String>,
        error: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct PointerCase {
        at: String,
        /// As JSON text; absent when nothing is found.
        finds: Option<String>,
    }

    #[test]
    fn every_case_reads_as_it_says() {
        cases::each("key", |file, text| {
            let case: Case = toml::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            let mut headers = HeaderMap::new();
            for (name, value) in &case.headers {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let body = case.body_hex.map_or(case.body.into_bytes(), |digits| hex::decode(digits).unwrap());
            if let Some(json) = case.json {
                assert_eq!(is_json(&body), json, "{file}: whether it is JSON");
            }
            for expected in case.key {
                let key = Key::of_request("site", &expected.rule, expected.signed_id.as_deref(), &headers, &body);
                assert_eq!(key.shown, expected.shown, "{file}: {:?}", expected.rule);
            }
            for expected in case.event {
                match event_name(&expected.rule, &headers, &body) {
                    Ok(name) => assert_eq!(Some(&*name), expected.name.as_deref(), "{file}: {:?}", expected.rule),
                    Err(error) => assert_eq!(Some(error), expected.error, "{file}: {:?}", expected.rule),
                }
            }
            for expected in case.pointer {
                let wanted: Option<Value> = expected.finds.map(|json| serde_json::from_str(&json).unwrap());
                assert_eq!(pointer(&body, &expected.at), wanted, "{file}: {}", expected.at);
                if let Ok(whole) = serde_json::from_slice::<Value>(&body) {
                    assert_eq!(whole.pointer(&expected.at).cloned(), wanted, "{file}: {} by serde_json", expected.at);
                }
            }
        });
    }

    #[test]
    fn sources_do_not_share_keys() {
        assert_ne!(Key::given("site", "1").index, Key::given("crm", "1").index);
        assert_ne!(Key::given("site", "1").index, Key::given("sit", "e1").index);
    }
}
