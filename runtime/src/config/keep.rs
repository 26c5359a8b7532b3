//! How long something is kept: `12h`, `30d`, `2w`, `5y` (of 365 days) or `forever`. Pure; the tests are data.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const HOUR_S: u64 = 3600;
const DAY_S: u64 = 24 * HOUR_S;
/// Shortest first.
const UNITS: [(char, u64); 4] = [('h', HOUR_S), ('d', DAY_S), ('w', 7 * DAY_S), ('y', 365 * DAY_S)];
const MOST_S: u64 = 100 * 365 * DAY_S;

/// A time, or no end. The longer is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Keep {
    /// Seconds: an hour at least, a hundred years at most.
    For(u64),
    Forever,
}

impl Keep {
    pub(crate) const fn days(days: u64) -> Keep {
        Keep::For(days * DAY_S)
    }

    /// Milliseconds; none is no end.
    pub(crate) fn ms(self) -> Option<u64> {
        match self {
            Keep::For(seconds) => Some(seconds * 1000),
            Keep::Forever => None,
        }
    }
}

impl FromStr for Keep {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Keep, &'static str> {
        const MEANT: &str =
            "a time such as \"12h\", \"30d\", \"2w\" or \"5y\", from an hour to 100 years, or \"forever\"";
        if text == "forever" {
            return Ok(Keep::Forever);
        }
        let unit = UNITS.iter().find(|(unit, _)| text.ends_with(*unit)).ok_or(MEANT)?;
        let number = &text[..text.len() - 1];
        if number.is_empty() || number.len() > 6 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(MEANT);
        }
        let seconds = number.parse::<u64>().map_err(|_| MEANT)? * unit.1;
        (HOUR_S..=MOST_S).contains(&seconds).then_some(Keep::For(seconds)).ok_or(MEANT)
    }
}

/// In the unit that it is most likely thought in: days, unless it has hours left over.
impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keep::Forever => f.write_str("forever"),
            Keep::For(seconds) if seconds % DAY_S == 0 => write!(f, "{}d", seconds / DAY_S),
            Keep::For(seconds) => write!(f, "{}h", seconds / HOUR_S),
        }
    }
}

impl TryFrom<String> for Keep {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Keep, &'static str> {
        text.parse()
    }
}

impl From<Keep> for String {
    fn from(keep: Keep) -> String {
        keep.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cases;

    /// Texts with their hours; no hours are no end.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        #[serde(default)]
        good: std::collections::BTreeMap<String, u64>,
        #[serde(default)]
        endless: Vec<String>,
        #[serde(default)]
        bad: Vec<String>,
    }

    #[test]
    fn times_are_read_as_they_are_meant_and_written_so_that_they_read_back() {
        cases::each("keep", |file, text| {
            let case: Case = toml::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            let good = case.good.iter().map(|(text, hours)| (text, Some(*hours)));
            for (text, hours) in good.chain(case.endless.iter().map(|text| (text, None))) {
                let keep: Keep = text.parse().unwrap_or_else(|error| panic!("{file}: {text}: {error}"));
                assert_eq!(keep.ms(), hours.map(|hours| hours * 3_600_000), "{file}: {text}");
                assert_eq!(keep.to_string().parse(), Ok(keep), "{file}: {text}");
            }
            for text in &case.bad {
                assert!(text.parse::<Keep>().is_err(), "{file}: {text:?}");
            }
        });
        assert!(Keep::For(u64::MAX) < Keep::Forever);
    }
}
