//! Times as partners write them, and as PHP's `date()` does.

use serde_json::Value;
use tomada_sdk::time::{civil_from_days, days_from_civil};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A point in time and the offset in which it was written; UTC when there was none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Moment {
    /// Microseconds since 1970-01-01 UTC.
    micros: i64,
    /// Seconds east of UTC.
    offset: i64,
}

impl Moment {
    /// Reads ISO 8601 (`2026-11-24T08:58:00-03:00`, with or without seconds, fraction and offset), `Y-m-d H:i:s`,
    /// `Y-m-d`, and seconds or, from 10¹¹ on, milliseconds since 1970.
    pub(crate) fn read(value: &Value) -> Option<Moment> {
        match value {
            Value::Number(number) => Moment::from_epoch(number.as_f64()?),
            Value::String(text) => {
                let text = text.trim();
                match text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit()) {
                    true => Moment::from_epoch(text.parse::<i64>().ok()? as f64),
                    false => Moment::from_text(text),
                }
            }
            _ => None,
        }
    }

    fn from_epoch(number: f64) -> Option<Moment> {
        // 10¹¹ seconds are in the year 5138, 10¹¹ milliseconds in 1973.
        let micros = number * if number.abs() < 1e11 { 1e6 } else { 1e3 };
        // To the year 9999, whose text still has four digits.
        (micros.abs() < 253_402_300_800e6).then_some(Moment { micros: micros.round() as i64, offset: 0 })
    }

    fn from_text(text: &str) -> Option<Moment> {
        let mut rest = text;
        let year = digits(&mut rest, 4)?;
        let month = after(&mut rest, '-').and_then(|()| digits(&mut rest, 2))?;
        let day = after(&mut rest, '-').and_then(|()| digits(&mut rest, 2))?;
        let days = days_from_civil(year, u32::try_from(month).ok()?, u32::try_from(day).ok()?);
        if civil_from_days(days) != (year, month as u32, day as u32) {
            return None;
        }

        let (mut seconds, mut micros, mut offset) = (0, 0, 0);
        if !rest.is_empty() {
            after(&mut rest, 'T').or_else(|| after(&mut rest, ' '))?;
            let hour = digits(&mut rest, 2).filter(|hour| *hour < 24)?;
            let minute = after(&mut rest, ':').and_then(|()| digits(&mut rest, 2)).filter(|minute| *minute < 60)?;
            seconds = hour * 3600 + minute * 60;
            if after(&mut rest, ':').is_some() {
                // A leap second is the next one.
                seconds += digits(&mut rest, 2).filter(|second| *second <= 60)?;
                if after(&mut rest, '.').is_some() {
                    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
                    micros = format!("{:0<6.6}", &rest[..length]).parse().ok().filter(|_| length > 0)?;
                    rest = &rest[length..];
                }
            }
            offset = match rest.chars().next() {
                None => 0,
                Some('Z') if rest.len() == 1 => 0,
                Some(sign @ ('+' | '-')) => {
                    rest = &rest[1..];
                    let hours = digits(&mut rest, 2).filter(|hours| *hours < 24)?;
                    let _ = after(&mut rest, ':');
                    let minutes =
                        if rest.is_empty() { 0 } else { digits(&mut rest, 2).filter(|minutes| *minutes < 60)? };
                    (hours * 3600 + minutes * 60) * if sign == '-' { -1 } else { 1 }
                }
                Some(_) => return None,
            };
            if !matches!(rest, "" | "Z") {
                return None;
            }
        }
        Some(Moment { micros: (days * 86_400 + seconds - offset) * 1_000_000 + micros, offset })
    }

    /// PHP's `date()`, <https://www.php.net/manual/en/datetime.format.php>, without `B`, `I`, `X` and `x`. Characters
    /// that mean nothing stand for themselves, and so does any after a backslash.
    pub(crate) fn format(self, format: &str) -> String {
        let local = self.micros.div_euclid(1_000_000) + self.offset;
        let (days, second_of_day) = (local.div_euclid(86_400), local.rem_euclid(86_400));
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
        let hour12 = (hour + 11) % 12 + 1;
        let micros = self.micros.rem_euclid(1_000_000);
        let weekday = (days + 4).rem_euclid(7);
        let day_of_year = days - days_from_civil(year, 1, 1);
        let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
        let days_in_month = days_from_civil(next_year, next_month, 1) - days_from_civil(year, month, 1);
        let leap = days_from_civil(year + 1, 1, 1) - days_from_civil(year, 1, 1) == 366;
        // An ISO week belongs to the year of its Thursday.
        let thursday = days - (weekday + 6) % 7 + 3;
        let iso_year = civil_from_days(thursday).0;
        let iso_week = (thursday - days_from_civil(iso_year, 1, 1)) / 7 + 1;
        let offset = |colon: &str| {
            let (sign, minutes) = (if self.offset < 0 { '-' } else { '+' }, self.offset.abs() / 60);
            format!("{sign}{:02}{colon}{:02}", minutes / 60, minutes % 60)
        };
        let zone = || if self.offset == 0 { "UTC".to_owned() } else { offset(":") };

        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            text += &match character {
                'd' => format!("{day:02}"),
                'D' => DAYS[weekday as usize][..3].to_owned(),
                'j' => day.to_string(),
                'l' => DAYS[weekday as usize].to_owned(),
                'N' => ((weekday + 6) % 7 + 1).to_string(),
                'S' => match day {
                    1 | 21 | 31 => "st",
                    2 | 22 => "nd",
                    3 | 23 => "rd",
                    _ => "th",
                }
                .to_owned(),
                'w' => weekday.to_string(),
                'z' => day_of_year.to_string(),
                'W' => format!("{iso_week:02}"),
                'F' => MONTHS[month as usize - 1].to_owned(),
                'm' => format!("{month:02}"),
                'M' => MONTHS[month as usize - 1][..3].to_owned(),
                'n' => month.to_string(),
                't' => days_in_month.to_string(),
                'L' => u8::from(leap).to_string(),
                'o' => iso_year.to_string(),
                'Y' => format!("{year:04}"),
                'y' => format!("{:02}", year.rem_euclid(100)),
                'a' => if hour < 12 { "am" } else { "pm" }.to_owned(),
                'A' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
                'g' => hour12.to_string(),
                'G' => hour.to_string(),
                'h' => format!("{hour12:02}"),
                'H' => format!("{hour:02}"),
                'i' => format!("{minute:02}"),
                's' => format!("{second:02}"),
                'u' => format!("{micros:06}"),
                'v' => format!("{:03}", micros / 1000),
                'e' | 'T' => zone(),
                'O' => offset(""),
                'P' => offset(":"),
                'p' => {
                    if self.offset == 0 {
                        "Z".to_owned()
                    } else {
                        offset(":")
                    }
                }
                'Z' => self.offset.to_string(),
                'c' => self.format("Y-m-d\\TH:i:sP"),
                'r' => self.format("D, d M Y H:i:s O"),
                'U' => self.micros.div_euclid(1_000_000).to_string(),
                '\\' => characters.next().map(String::from).unwrap_or_default(),
                other => other.to_string(),
            };
        }
        text
    }
}

/// Takes exactly `count` digits.
fn digits(rest: &mut &str, count: usize) -> Option<i64> {
    let (digits, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Takes one character.
fn after(rest: &mut &str, expected: char) -> Option<()> {
    *rest = rest.strip_prefix(expected)?;
    Some(())
}
