//! An id as its system writes it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number or a text; it is written back as it came. Displays as text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Id {
    /// For instance `1001`.
    Number(u64),
    /// For instance `"0191b5c0-…"`. May be empty, as forms leave it.
    Text(String),
}

impl Id {
    /// This id, unless it is an empty text: a form's way to say that there is none.
    pub fn given(self) -> Option<Id> {
        if matches!(&self, Id::Text(text) if text.is_empty()) { None } else { Some(self) }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Number(number) => number.fmt(f),
            Id::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_or_texts() {
        for (json, text) in [("7", "7"), ("18446744073709551615", "18446744073709551615"), (r#""a/1""#, "a/1")] {
            let id: Id = serde_json::from_str(json).expect("an id");
            assert_eq!(id.to_string(), text);
            assert_eq!(serde_json::to_string(&id).expect("JSON"), json);
            assert_eq!(id.clone().given(), Some(id));
        }
        for json in ["null", "true", "[1]", "{}", "-1", "1.5"] {
            assert!(serde_json::from_str::<Id>(json).is_err(), "{json}");
        }
        assert_eq!(Id::Text(String::new()).given(), None);
    }
}
