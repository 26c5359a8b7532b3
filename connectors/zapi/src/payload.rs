//! The payload as JSON, when the guest's memory can hold it.

use tomada_sdk::{Detail, FromPayload, Json};

/// Any JSON of at most [`VALUES_LIMIT`] values.
#[derive(Debug)]
pub(crate) struct Payload(pub(crate) Json);

/// A callback has fewer than a hundred. An object of a few bytes takes 600 in memory, so that without a limit 1 MiB of
/// them would need more than the 32 MiB that a guest may have.
const VALUES_LIMIT: usize = 10_000;

impl FromPayload for Payload {
    fn from_payload(payload: Vec<u8>) -> Result<Payload, Detail> {
        if values(&payload) > VALUES_LIMIT {
            let message = format!("the payload has more than the {VALUES_LIMIT} values that are read");
            return Err(Detail::new("payload-invalid", message));
        }
        Json::from_payload(payload).map(Payload)
    }
}

/// How many values JSON has at most: each stands behind a bracket or a comma, but the outermost.
fn values(json: &[u8]) -> usize {
    let (mut values, mut in_text, mut escaped) = (1, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'{' | b'[' | b',' if !in_text => values += 1,
            _ => {}
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_texts() {
        for (json, expected) in [
            ("5", 1),
            (r#"{"a": 1, "b": [2, 3]}"#, 5),
            (r#"{"a": "{[,\",[{\\", "b": 1}"#, 3),
            (r#"["\\", "\\\"", "é,"]"#, 4),
            ("\\,", 2),
        ] {
            assert_eq!(values(json.as_bytes()), expected, "{json}");
        }
    }

    #[test]
    fn as_many_as_fit() {
        let list = |length: usize| format!("[{}0]", "0,".repeat(length - 1)).into_bytes();
        assert!(Payload::from_payload(list(VALUES_LIMIT - 1)).is_ok());
        let detail = Payload::from_payload(list(VALUES_LIMIT)).unwrap_err();
        assert_eq!(detail.code, "payload-invalid");
        assert_eq!(detail.message, "the payload has more than the 10000 values that are read");
    }
}
