//! Cron in a time zone: when is the next time? Pure; the tests are data.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds};

/// When something happens, again and again.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    cron: Cron,
    zone: Tz,
}

impl Times {
    /// The error names the field that is wrong, and says what is.
    pub(crate) fn read(cron: &str, time_zone: &str) -> Result<Times, (&'static str, String)> {
        let zone = time_zone.parse().map_err(|_| {
            let message = format!("is \"{time_zone}\": it takes an IANA name, for instance \"America/Sao_Paulo\"");
            ("time_zone", message)
        })?;
        let parser = CronParser::builder().seconds(Seconds::Optional).build();
        let cron = parser.parse(cron).map_err(|error| {
            let meant = "minute, hour, day of month, month, day of week, for instance \"0 6,18 * * *\"";
            ("cron", format!("is \"{cron}\": {error}; it takes {meant}"))
        })?;
        let times = Times { cron, zone };
        // What never comes (30 February) would be a job that silently never runs.
        if times.after(0).is_none() {
            return Err(("cron", format!("is \"{}\", which never comes", times.cron.pattern)));
        }
        Ok(times)
    }

    /// The first time after `ms`, both milliseconds since 1970-01-01 UTC. In the hour that a change of clocks leaves out,
    /// it is the first moment after it; in one that comes twice, the first.
    pub(crate) fn after(&self, ms: u64) -> Option<u64> {
        let from = DateTime::<Utc>::from_timestamp_millis(i64::try_from(ms).ok()?)?.with_timezone(&self.zone);
        let next = self.cron.find_next_occurrence(&from, false).ok()?;
        u64::try_from(next.timestamp_millis()).ok()
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::config::cases;

    /// The times that follow on `from`, RFC 3339.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        cron: String,
        time_zone: String,
        from: String,
        #[serde(default)]
        then: Vec<String>,
        error: Option<String>,
    }

    #[test]
    fn times_come_as_people_mean_them() {
        cases::each("times", |file, text| {
            let case: Case = toml::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            let times = match (Times::read(&case.cron, &case.time_zone), case.error) {
                (Ok(times), None) => times,
                (Err((field, message)), Some(error)) => {
                    assert_eq!(format!("{field} {message}"), error, "{file}");
                    return;
                }
                (read, error) => panic!("{file}: {read:?}, expected {error:?}"),
            };
            let mut ms: u64 = case.from.parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64;
            for expected in &case.then {
                ms = times.after(ms).unwrap();
                assert_eq!(jiff::Timestamp::from_millisecond(ms as i64).unwrap().to_string(), *expected, "{file}");
            }
            assert!(!case.then.is_empty(), "{file} says nothing");
        });
    }
}
