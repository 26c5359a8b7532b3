//! Phones as Z-API takes them: digits only, country and area code first.

use tomada_sdk::prelude::*;

const BRAZIL: &str = "55";
/// The longest number of a country (ITU-T E.164 § 6).
const LONGEST: usize = 15;
/// The shortest with a country code that is in use.
const SHORTEST: usize = 8;

/// The phone to write to, in whatever shape people wrote it; without a country it is Brazil. What was meant is known by
/// `+` or `00` (a country follows), and by a leading 0 (an area follows, maybe after two digits of a carrier).
///
/// # Errors
///
/// Rejected, `phone-missing` or `phone-invalid`.
pub(crate) fn to_write_to(phone: Option<&Json>) -> Result<String, Failure> {
    let Written { digits, plus } = Written::read(&written(phone)?)?;
    let (digits, international) = digits.strip_prefix("00").map_or((digits.as_str(), plus), |digits| (digits, true));
    if digits.starts_with('0') {
        return brazilian(digits);
    }
    match (digits.strip_prefix(BRAZIL), digits.len()) {
        (Some(national), length) if international || length >= 12 => brazilian(national),
        (_, 10 | 11) if !international => brazilian(digits),
        (_, 12..=LONGEST) => Ok(digits.to_owned()),
        (_, SHORTEST..=LONGEST) if international => Ok(digits.to_owned()),
        (_, length) => Err(wrong_length(length)),
    }
}

/// The phone of who wrote. Z-API always puts the country first, so nothing is added: with 10 or 11 digits it is a
/// foreigner's.
///
/// # Errors
///
/// Rejected, `phone-missing` or `phone-invalid`.
pub(crate) fn of_sender(phone: Option<&Json>) -> Result<String, Failure> {
    let Written { digits, .. } = Written::read(&written(phone)?)?;
    match digits.len() {
        SHORTEST..=LONGEST if !digits.starts_with('0') => Ok(digits),
        length => Err(wrong_length(length)),
    }
}

/// Whether it names a group: `…-group`, or as it was before that, who founded it and when (`5511999999999-1623281429`).
pub(crate) fn is_group(phone: &str) -> bool {
    let stamp = |tail: &str| tail.len() >= 10 && tail.bytes().all(|byte| byte.is_ascii_digit());
    phone.ends_with("@g.us") || phone.rsplit_once('-').is_some_and(|(_, tail)| tail == "group" || stamp(tail))
}

/// A number within Brazil, maybe with the 0 for long distance and a carrier's two digits after it.
fn brazilian(national: &str) -> Result<String, Failure> {
    let number = national.trim_start_matches('0');
    let number = if number != national && matches!(number.len(), 12 | 13) { &number[2..] } else { number };
    match number.len() {
        10 | 11 => Ok(format!("{BRAZIL}{number}")),
        length => Err(wrong_length(length)),
    }
}

/// The text of it; systems that take phones for numbers are forgiven.
fn written(phone: Option<&Json>) -> Result<String, Failure> {
    match phone {
        None | Some(Json::Null) => Err(missing()),
        Some(Json::String(text)) if text.trim().is_empty() => Err(missing()),
        Some(Json::String(text)) => Ok(text.trim().to_owned()),
        Some(Json::Number(number)) if number.is_u64() => Ok(number.to_string()),
        Some(_) => Err(invalid("the phone is neither text nor a whole number: send it as text")),
    }
}

struct Written {
    digits: String,
    /// `+` stands before them.
    plus: bool,
}

impl Written {
    fn read(text: &str) -> Result<Written, Failure> {
        let text = match text.split_once('@') {
            None => text,
            Some((number, "c.us" | "s.whatsapp.net")) => number,
            Some((_, "lid")) => return Err(invalid("the phone is a `@lid`: WhatsApp keeps this number to itself")),
            Some(_) => return Err(invalid("the phone ends in an `@` that is not a person's: write digits")),
        };
        if is_group(text) {
            return Err(invalid("the phone is a group's: messages go to one person"));
        }
        let (mut digits, mut plus, mut words_after) = (String::new(), false, false);
        for character in text.chars() {
            match character {
                '0'..='9' | '０'..='９' if words_after => {
                    return Err(invalid("the phone goes on after a word: write one number, without an extension"));
                }
                '0'..='9' => digits.push(character),
                // Full width, as some keyboards write them.
                '０'..='９' => digits.extend(char::from_u32(u32::from(character) - u32::from('０') + u32::from('0'))),
                '+' | '＋' => plus |= digits.is_empty(),
                'a'..='z' | 'A'..='Z' => words_after |= !digits.is_empty(),
                _ => {}
            }
        }
        Ok(Written { digits, plus })
    }
}

fn missing() -> Failure {
    Failure::rejected("phone-missing", "there is no `phone`: a message needs somebody to go to or to come from")
}

fn wrong_length(length: usize) -> Failure {
    invalid(format!(
        "the phone has {length} digits: it needs area code and number, with the country code at most {LONGEST}"
    ))
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::rejected("phone-invalid", message)
}
