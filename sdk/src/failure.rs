//! Why a delivery did not happen, and how unreadable input is described without repeating it.

use serde_json::error::Category;

pub use crate::bindings::connector::tomada::hub::types::{Detail, Failure, RateLimit};

impl Detail {
    /// `code` is short and stable (`phone-missing`); `message` is one sentence that names the input and says what to
    /// do, without personal data.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Detail {
        Detail { code: code.into(), message: message.into(), http_status: None }
    }
}

impl Failure {
    /// Try again by the endpoint's retry policy.
    pub fn transient(code: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure::Transient(Detail::new(code, message))
    }

    /// Wait, and slow the whole endpoint. No attempt is charged.
    pub fn rate_limited(retry_after_ms: Option<u64>, code: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure::RateLimited(RateLimit { retry_after_ms, detail: Detail::new(code, message) })
    }

    /// The target refuses our credentials: the endpoint is paused for an operator.
    pub fn unauthorized(code: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure::Unauthorized(Detail::new(code, message))
    }

    /// The target will never take this event: dead letter now.
    pub fn rejected(code: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure::Rejected(Detail::new(code, message))
    }

    /// The endpoint's settings are wrong: the endpoint is paused for an operator.
    pub fn misconfigured(code: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure::Misconfigured(Detail::new(code, message))
    }

    /// The detail, whatever the case.
    pub fn detail(&self) -> &Detail {
        match self {
            Failure::RateLimited(limit) => &limit.detail,
            Failure::Transient(detail)
            | Failure::Unauthorized(detail)
            | Failure::Rejected(detail)
            | Failure::Misconfigured(detail) => detail,
        }
    }
}

/// JSON that an author reads or writes on the side: this event will not get better by waiting.
impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        Failure::rejected("json-invalid", complaint(&error))
    }
}

/// [`complaint`] with the path to the place, for instance
/// `lead.items[2].price: expected f64, found string (line 1, column 52)`.
pub(crate) fn complaint_in(error: &serde_json::Error, json: &[u8]) -> String {
    let path = path_at(json, error.line(), error.column());
    let complaint = complaint(error);
    if path.is_empty() { complaint } else { format!("{path}: {complaint}") }
}

/// What serde has to say, without the values that it likes to quote: they may be personal data, and this text is
/// stored and shown.
fn complaint(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let what = match error.classify() {
        // The parser's own texts quote nothing, and these name our fields only.
        Category::Syntax | Category::Eof | Category::Io => text.to_owned(),
        Category::Data if text.starts_with("missing field") || text.starts_with("duplicate field") => text.to_owned(),
        Category::Data => match text.rsplit_once(", expected ") {
            Some((found, expected)) => match found.strip_prefix("invalid type: ") {
                Some(found) => {
                    let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
                    format!("expected {expected}, found {kind}")
                }
                None => format!("expected {expected}"),
            },
            None => "does not fit".to_owned(),
        },
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

/// The path to where a parser stopped: a second look at the bytes it had read, so that success pays nothing for it
/// and no deserialiser is compiled twice.
fn path_at(json: &[u8], line: usize, column: usize) -> String {
    enum Step {
        Key(String),
        Index(usize),
    }
    let line_start: usize =
        json.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let read = &json[..json.len().min(line_start + column)];

    let mut steps: Vec<Step> = Vec::new();
    let mut key_next = false;
    let mut at = 0;
    while at < read.len() {
        match read[at] {
            b'{' => {
                steps.push(Step::Key(String::new()));
                key_next = true;
            }
            b'[' => steps.push(Step::Index(0)),
            b'}' | b']' => {
                steps.pop();
            }
            b',' => match steps.last_mut() {
                Some(Step::Index(index)) => *index += 1,
                _ => key_next = true,
            },
            b'"' => {
                let start = at + 1;
                at = start;
                while at < read.len() && read[at] != b'"' {
                    at += if read[at] == b'\\' { 2 } else { 1 };
                }
                if key_next {
                    key_next = false;
                    if let (Some(Step::Key(key)), Some(text)) = (steps.last_mut(), read.get(start..at)) {
                        *key = String::from_utf8_lossy(text).into_owned();
                    }
                }
            }
            _ => {}
        }
        at += 1;
    }

    let mut path = String::new();
    for step in steps {
        match step {
            Step::Index(index) => path.push_str(&format!("[{index}]")),
            Step::Key(key) if key.is_empty() => {}
            Step::Key(key) => {
                if !path.is_empty() {
                    path.push('.');
                }
                // A key that is no name (a phone number, an address) is data.
                let name = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                    && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
                path.push_str(if name { &key } else { "*" });
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::complaint_in;

    #[derive(Debug, Deserialize)]
    struct Lead {
        #[expect(dead_code, reason = "only read by serde")]
        phone: String,
    }
    #[derive(Debug, Deserialize)]
    struct Payload {
        #[expect(dead_code, reason = "only read by serde")]
        leads: Vec<Lead>,
    }

    #[test]
    fn unreadable_payloads_are_described_by_place_and_never_quoted() {
        for (json, said) in [
            (
                r#"{"leads": [{"phone": "1"}, {"phone": 5511987654321}]}"#,
                "leads[1].phone: expected a string, found integer (line 1, column 50)",
            ),
            (r#"{"leads": [{"phone": "1"}, {"name": "Ana"}]}"#, "leads[1]: missing field `phone` (line 1, column 42)"),
            (
                "{\n \"leads\":\n \"ana, expected nothing\"}",
                "leads: expected a sequence, found string (line 3, column 24)",
            ),
            (r#"{"lead\"s": 1}"#, "missing field `leads` (line 1, column 14)"),
            (r#"{"leads": [{"phone": "A"#, "leads[0].phone: EOF while parsing a string (line 1, column 23)"),
            ("", "EOF while parsing a value (line 1, column 0)"),
            ("Ana", "expected value (line 1, column 1)"),
        ] {
            let error = serde_json::from_str::<Payload>(json).unwrap_err();
            assert_eq!(complaint_in(&error, json.as_bytes()), said, "{json}");
        }
    }

    #[test]
    fn keys_that_are_data_are_not_repeated() {
        let json = r#"{"5511987654321": {"a@b.c": {"x": true}}}"#;
        type Nested = std::collections::BTreeMap<String, std::collections::BTreeMap<String, Lead>>;
        let error = serde_json::from_str::<Nested>(json).unwrap_err();
        assert_eq!(complaint_in(&error, json.as_bytes()), "*.*: missing field `phone` (line 1, column 39)");
    }
}
