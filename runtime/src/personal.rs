//! Who an event is about: CPFs, phone numbers and e-mail addresses in the one form under which they are found again.
//!
//! Pure: no clock, no I/O.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::config::{Personal, PersonalKind};

/// Identifiers of one event; what comes after them is not indexed.
const MAX_SUBJECTS: usize = 256;
/// Bytes of a text that may be an identifier.
const MAX_TEXT: usize = 320;

/// One identifier of a person, in its normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Subject {
    pub(crate) kind: PersonalKind,
    /// CPF: 11 digits. Phone: E.164 without the plus. E-mail: lower case.
    pub(crate) form: String,
}

/// The normal forms of a text, none when it is no identifier of this kind. A Brazilian mobile number has two, with and
/// without its ninth digit: WhatsApp knows many of them without.
pub(crate) fn forms(kind: PersonalKind, text: &str) -> Vec<String> {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_TEXT {
        return Vec::new();
    }
    match kind {
        PersonalKind::Cpf => cpf(text).into_iter().collect(),
        PersonalKind::Phone => phone(text),
        PersonalKind::Email => email(text).into_iter().collect(),
    }
}

/// 11 digits, the last two of which check the others; dots, hyphens, slashes and spaces do not count.
fn cpf(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| !matches!(c, '.' | '-' | '/') && !c.is_whitespace()).collect();
    if digits.len() != 11 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let numbers: Vec<u32> = digits.bytes().map(|byte| u32::from(byte - b'0')).collect();
    let check = |count: usize| {
        let sum: u32 =
            numbers[..count].iter().zip((2..=count as u32 + 1).rev()).map(|(digit, weight)| digit * weight).sum();
        sum * 10 % 11 % 10
    };
    let all_equal = numbers.iter().all(|digit| *digit == numbers[0]);
    (!all_equal && check(9) == numbers[9] && check(10) == numbers[10]).then_some(digits)
}

fn phone(text: &str) -> Vec<String> {
    let text = ["tel:", "whatsapp:"].iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
    let text = match text.split_once('@') {
        // A device of the account may stand behind a colon.
        Some((number, "c.us" | "s.whatsapp.net")) => number.split(':').next().unwrap_or(number),
        Some(_) => return Vec::new(),
        None => text,
    };
    let (international, rest) = text.strip_prefix('+').map_or((false, text), |rest| (true, rest));
    let mut digits = String::with_capacity(16);
    for c in rest.chars() {
        match c {
            '0'..='9' => digits.push(c),
            '(' | ')' | '-' | '.' | '/' | '\u{2010}'..='\u{2013}' => {}
            c if c.is_whitespace() => {}
            _ => return Vec::new(),
        }
    }
    let (international, digits) = match digits.strip_prefix("00") {
        Some(rest) => (true, rest.to_owned()),
        None => (international, digits),
    };
    // What is dialled before an area code within Brazil.
    let digits = if international { &digits[..] } else { digits.strip_prefix('0').unwrap_or(&digits) };
    // Of eleven digits the third is a nine: area code and mobile number. Anything else has its country's code already.
    let national = !international && (digits.len() == 10 || digits.len() == 11 && digits.as_bytes()[2] == b'9');
    let number = if national { format!("55{digits}") } else { digits.to_owned() };
    if !(8..=15).contains(&number.len()) || number.starts_with('0') {
        return Vec::new();
    }
    let other = ninth_digit(&number);
    std::iter::once(number).chain(other).collect()
}

/// The other form of a Brazilian mobile number.
fn ninth_digit(number: &str) -> Option<String> {
    let national = number.strip_prefix("55")?;
    let (area, subscriber) = national.split_at_checked(2)?;
    match subscriber.as_bytes() {
        [b'9', b'6'..=b'9', ..] if subscriber.len() == 9 => Some(format!("55{area}{}", &subscriber[1..])),
        // Landlines begin with 2 to 5.
        [b'6'..=b'9', ..] if subscriber.len() == 8 => Some(format!("55{area}9{subscriber}")),
        _ => None,
    }
}

/// Lower case, and nothing else: dots and what follows a plus stay, since most providers tell them apart. Characters that
/// can be composed in several ways are taken as they come.
fn email(text: &str) -> Option<String> {
    let text = text.strip_prefix("mailto:").unwrap_or(text);
    let address = match text.strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
        Some((_, address)) => address.trim(),
        None => text,
    };
    let (local, domain) = address.rsplit_once('@')?;
    let good = |part: &str| !part.is_empty() && !part.chars().any(|c| c.is_whitespace() || c.is_control() || c == '@');
    (good(local) && good(domain) && address.len() <= 254).then(|| address.to_lowercase())
}

/// Every identifier that the pointers find in a payload, each once, at most 256. What is no identifier of its kind is
/// left out, and so is a payload that is not JSON.
pub(crate) fn subjects(payload: &[u8], personal: &[Personal]) -> Vec<Subject> {
    let Ok(payload) = serde_json::from_slice::<Value>(payload) else { return Vec::new() };
    let mut found = BTreeSet::new();
    for Personal { pointer, kind } in personal {
        let tokens: Vec<String> =
            pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~")).collect();
        descend(&payload, &tokens, &mut |value| {
            for form in forms_of(*kind, value) {
                if found.len() < MAX_SUBJECTS {
                    found.insert(Subject { kind: *kind, form });
                }
            }
            found.len() < MAX_SUBJECTS
        });
    }
    found.into_iter().collect()
}

fn forms_of(kind: PersonalKind, value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => forms(kind, text),
        // A number has lost the zeros that a CPF may begin with.
        Value::Number(number) if kind == PersonalKind::Cpf => forms(kind, &format!("{:0>11}", number.to_string())),
        Value::Number(number) if kind == PersonalKind::Phone => forms(kind, &number.to_string()),
        _ => Vec::new(),
    }
}

/// Calls `found` with each value that a pointer leads to, until it says that this is enough.
fn descend(value: &Value, tokens: &[String], found: &mut impl FnMut(&Value) -> bool) -> bool {
    let Some((token, rest)) = tokens.split_first() else { return found(value) };
    match value {
        Value::Array(elements) if token == "*" => elements.iter().all(|element| descend(element, rest, found)),
        Value::Array(elements) => {
            let canonical = token == "0" || !token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit());
            let element = token.parse::<usize>().ok().filter(|_| canonical).and_then(|at| elements.get(at));
            element.is_none_or(|element| descend(element, rest, found))
        }
        Value::Object(members) => members.get(token).is_none_or(|member| descend(member, rest, found)),
        _ => true,
    }
}

/// Whether a payload holds one of the identifiers anywhere, also within longer texts and with other punctuation. Finds
/// rather too much than too little: a person looks at what it finds.
pub(crate) fn mentions(payload: &[u8], wanted: &[Subject]) -> bool {
    match serde_json::from_slice::<Value>(payload) {
        Ok(payload) => value_mentions(&payload, wanted),
        Err(_) => text_mentions(&String::from_utf8_lossy(payload), wanted),
    }
}

fn value_mentions(value: &Value, wanted: &[Subject]) -> bool {
    match value {
        Value::String(text) => text_mentions(text, wanted),
        Value::Number(number) => text_mentions(&format!("{:0>11}", number.to_string()), wanted),
        Value::Array(elements) => elements.iter().any(|element| value_mentions(element, wanted)),
        Value::Object(members) => {
            members.iter().any(|(name, member)| text_mentions(name, wanted) || value_mentions(member, wanted))
        }
        Value::Null | Value::Bool(_) => false,
    }
}

fn text_mentions(text: &str, wanted: &[Subject]) -> bool {
    let lower = text.to_lowercase();
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    wanted.iter().any(|Subject { kind, form }| match kind {
        PersonalKind::Email => lower.contains(&**form),
        PersonalKind::Cpf => digits.contains(&**form),
        // People leave out their country's code.
        PersonalKind::Phone => digits.contains(form.strip_prefix("55").filter(|rest| rest.len() >= 10).unwrap_or(form)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cases;
    use serde::Deserialize;

    /// One file of `tests/cases/personal`: texts and their normal forms, payloads and who they name.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        #[serde(default)]
        text: Vec<Text>,
        #[serde(default)]
        payload: Vec<Payload>,
        #[serde(default)]
        mention: Vec<Mention>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Text {
        kind: PersonalKind,
        is: String,
        /// Absent when it is no identifier.
        #[serde(default)]
        forms: Vec<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Payload {
        personal: Vec<Personal>,
        is: String,
        names: Vec<(PersonalKind, String)>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Mention {
        kind: PersonalKind,
        of: String,
        is: String,
        found: bool,
    }

    #[test]
    fn every_case_is_read_as_it_says() {
        cases::each("personal", |file, text| {
            let case: Case = toml::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            for text in case.text {
                assert_eq!(forms(text.kind, &text.is), text.forms, "{file}: {:?} {:?}", text.kind, text.is);
            }
            for payload in case.payload {
                let found = subjects(payload.is.as_bytes(), &payload.personal);
                let found: Vec<_> = found.into_iter().map(|subject| (subject.kind, subject.form)).collect();
                assert_eq!(found, payload.names, "{file}: {}", payload.is);
            }
            for mention in case.mention {
                let wanted: Vec<Subject> = forms(mention.kind, &mention.of)
                    .into_iter()
                    .map(|form| Subject { kind: mention.kind, form })
                    .collect();
                assert_eq!(mentions(mention.is.as_bytes(), &wanted), mention.found, "{file}: {}", mention.is);
            }
        });
    }

    #[test]
    fn an_event_names_at_most_so_many() {
        let phones: Vec<String> = (0..1000).map(|number| format!("1133{number:06}")).collect();
        let payload = serde_json::to_vec(&phones).unwrap();
        let personal = [Personal { pointer: "/*".into(), kind: PersonalKind::Phone }];
        assert_eq!(subjects(&payload, &personal).len(), MAX_SUBJECTS);
    }
}
