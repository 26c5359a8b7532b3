//! The last resort against personal data and secrets in text that nobody checked: errors, panics. Pure, linear in the
//! length of its input, and blind to whatever has no shape: a name stays a name.
//!
//! What has a shape is replaced: CPF and CNPJ with their check digits, Brazilian phones and whatever begins with `+`,
//! e-mail addresses, keys and tokens by their prefixes, and the value after a word such as `token=` or `"password":`.
//! A replacement is never longer than what it replaces, and redacting twice is redacting once.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a redacted text. What is longer is cut.
pub(crate) const MAX_TEXT: usize = 8 << 10;
/// Bytes of a URL's authority that are searched for a user's name and password.
const MAX_AUTHORITY: usize = 512;
const CUT: &str = "…";
/// One, and another that sees that nothing is left, is what nearly all texts take.
const MAX_PASSES: usize = 8;

/// The text without what has the shape of personal data or of a secret; at most [`MAX_TEXT`] bytes.
pub(crate) fn redact(text: &str) -> String {
    let mut text = match text.len() {
        ..=MAX_TEXT => text.to_owned(),
        _ => [&text[..text.floor_char_boundary(MAX_TEXT - CUT.len())], CUT].concat(),
    };
    // What stood too near to something else shows in the next pass.
    for _ in 0..MAX_PASSES {
        let next = Pass::over(&text);
        if next == text {
            break;
        }
        text = next;
    }
    text
}

/// The same, line by line, for texts of several lines.
pub(crate) fn redact_lines(text: &str) -> String {
    text.lines().map(redact).collect::<Vec<_>>().join("\n")
}

/// What a panic said. A message that was put together may quote what it was about (a text that was sliced, a value that
/// was unwrapped), so what stands in quotes is left out; a constant one says only what its author wrote.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
        (Some(constant), _) => redact(constant),
        (_, Some(message)) => redact(&without_quotes(message)),
        _ => "a value that is no text".to_owned(),
    }
}

fn without_quotes(text: &str) -> String {
    let is_quote = |c: char| matches!(c, '"' | '`' | '\'');
    match (text.find(is_quote), text.rfind(is_quote)) {
        (Some(first), Some(last)) if first < last => [&text[..first], "<quoted>", &text[last + 1..]].concat(),
        _ => text.to_owned(),
    }
}

/// Why JSON could not be read, as serde says it, without the value that did not fit.
pub(crate) fn without_values(error: &str) -> String {
    let mut text = error.to_owned();
    for what in ["invalid type: ", "invalid value: "] {
        let Some(from) = text.find(what).map(|at| at + what.len()) else { continue };
        let Some(to) = text.rfind(", expected").filter(|to| *to >= from) else { continue };
        let kind = text[from..to].split(['`', '"']).next().unwrap_or_default().trim_end().to_owned();
        text.replace_range(from..to, &kind);
    }
    text
}

/// Prints as the network that an address is in, /24 of IPv4 and /48 of IPv6: an address is personal data, and this is
/// enough to see where something comes from.
pub(crate) struct Network(pub(crate) IpAddr);

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.to_canonical() {
            IpAddr::V4(address) => write!(f, "{}/24", Ipv4Addr::from(u32::from(address) & !0xff)),
            IpAddr::V6(address) => write!(f, "{}/48", Ipv6Addr::from(u128::from(address) >> 80 << 80)),
        }
    }
}

/// Stands for content where something is printed for debugging: how many bytes there are, and never which.
pub(crate) struct Size(pub(crate) usize);

impl Size {
    pub(crate) fn of(content: &Option<String>) -> Option<Size> {
        content.as_ref().map(|content| Size(content.len()))
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0)
    }
}

/// Beginnings of secrets, after each of which a secret of at least [`MIN_SECRET`] bytes is one.
const PREFIXES: [&str; 5] = ["whsec_", "whsk_", "sk_", "tmd_", "eyJ"];
const MIN_SECRET: usize = 8;
/// Before this and a space a secret follows.
const SCHEMES: [&str; 2] = ["bearer", "basic"];
/// A word that ends in one of these has a secret for its value.
const WORDS: [&str; 10] =
    ["token", "secret", "password", "passwd", "pwd", "senha", "signature", "authorization", "credential", "key"];
/// Bytes of a value after a word that ends in `key`: shorter ones are names and public ids.
const MIN_KEY: usize = 16;

/// One pass over a text.
struct Pass<'t> {
    text: &'t str,
    at: usize,
    out: String,
    /// Up to here there is no e-mail address, no token of three parts and no word, which is known from an earlier look.
    no_email_before: usize,
    no_jwt_before: usize,
    no_word_before: usize,
    /// Where a value begins and ends that the word before it gave away.
    secret: Option<(usize, usize)>,
}

impl<'t> Pass<'t> {
    fn over(text: &'t str) -> String {
        let out = String::with_capacity(text.len());
        let mut pass = Pass { text, at: 0, out, no_email_before: 0, no_jwt_before: 0, no_word_before: 0, secret: None };
        while pass.at < text.len() {
            if !pass.replace() {
                let end = text.ceil_char_boundary(pass.at + 1);
                pass.out.push_str(&text[pass.at..end]);
                pass.at = end;
            }
        }
        pass.out
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// Replaces what begins here, if it is something that has to be.
    fn replace(&mut self) -> bool {
        let rest = self.rest();
        if let Some((begin, end)) = self.secret.take_if(|(begin, _)| *begin <= self.at)
            && begin == self.at
        {
            return self.mark(end - begin, "<secret>");
        }
        let Some(first) = rest.chars().next() else { return false };
        match first {
            ':' if rest.starts_with("://") => return self.user_of_url(),
            '(' => return self.phone(),
            '+' => return self.begins_word() && self.phone(),
            _ if !first.is_alphanumeric() || !self.begins_word() => return false,
            _ => {}
        }
        self.note_value();
        self.email() || self.prefixed() || self.tax_number() || (first.is_ascii_digit() && self.phone())
    }

    /// Whether something can begin here: what is behind, as it was put out, is no letter or digit, and no number that
    /// goes on here.
    fn begins_word(&self) -> bool {
        let mut behind = self.out.chars().rev();
        let Some(last) = behind.next() else { return true };
        let (before, sign) = (behind.next(), behind.next());
        if last.is_alphanumeric() {
            // %2B and the like end here.
            return sign == Some('%') && last.is_ascii_hexdigit() && before.is_some_and(|c| c.is_ascii_hexdigit());
        }
        let digit = self.rest().starts_with(|c: char| c.is_ascii_digit());
        !(digit && matches!(last, '.' | ',') && before.is_some_and(|c| c.is_ascii_digit()))
    }

    /// Takes `length` bytes and puts `mark` out for them, or as many asterisks when there is no room for it.
    fn mark(&mut self, length: usize, mark: &str) -> bool {
        if length >= mark.len() {
            self.out.push_str(mark);
        } else {
            (0..length).for_each(|_| self.out.push('*'));
        }
        self.at += length;
        true
    }

    fn keep(&mut self, length: usize) {
        self.out.push_str(&self.rest()[..length]);
        self.at += length;
    }

    fn user_of_url(&mut self) -> bool {
        let rest = &self.rest()[3..];
        let window = &rest[..rest.floor_char_boundary(MAX_AUTHORITY.min(rest.len()))];
        let end = window.find(|c: char| c.is_whitespace() || "/?#\"'<>`".contains(c)).unwrap_or(window.len());
        let Some(user) = window[..end].rfind('@').filter(|user| *user > 0) else { return false };
        if window[..user].bytes().all(|byte| byte == b'*') {
            return false;
        }
        self.keep(3);
        self.mark(user, "<secret>")
    }

    fn email(&mut self) -> bool {
        if self.at < self.no_email_before {
            return false;
        }
        let rest = self.rest();
        let local = run(rest, |c| c.is_alphanumeric() || "._%+-'".contains(c));
        let domain_of = |after: &str| run(after, |c| c.is_alphanumeric() || ".-".contains(c));
        // A version is no domain: `tomada:hub@1.0.0`.
        let is_top = |label: &str| label.chars().count() > 1 && label.starts_with(char::is_alphabetic);
        let is_domain = |domain: &str| domain.rsplit_once('.').is_some_and(|(_, top)| is_top(top));
        if rest[local..].starts_with('@') {
            let after = &rest[local + 1..];
            let domain = domain_of(after);
            // The full stop of a sentence is no part of it.
            let name = after[..domain].trim_end_matches(['.', '-']);
            if is_domain(name) {
                return self.mark(local + 1 + name.len(), "<email>");
            }
        } else if let Some(at) = rest[..local].find("%40").filter(|at| *at > 0) {
            let after = &rest[at + 3..local];
            let domain = domain_of(after);
            let name = after[..domain].trim_end_matches(['.', '-']);
            if is_domain(name) {
                return self.mark(at + 3 + name.len(), "<email>");
            }
        }
        self.no_email_before = self.at + local;
        false
    }

    fn prefixed(&mut self) -> bool {
        let rest = self.rest();
        for scheme in SCHEMES {
            let Some((word, after)) = rest.split_at_checked(scheme.len()) else { continue };
            if !word.eq_ignore_ascii_case(scheme) || !after.starts_with(' ') {
                continue;
            }
            let secret = run(&after[1..], |c| c.is_ascii_alphanumeric() || "-._~+/=".contains(c));
            let word = after[1..1 + secret].trim_end_matches('.');
            // "Basic authentication" is prose.
            let prose = word.len() < 20 && word.bytes().all(|byte| byte.is_ascii_lowercase());
            if secret >= MIN_SECRET && !prose {
                self.keep(scheme.len() + 1);
                return self.mark(secret, "<secret>");
            }
        }
        let Some(prefix) = PREFIXES.into_iter().find(|prefix| rest.starts_with(prefix)) else { return false };
        let after = &rest[prefix.len()..];
        let secret = run(after, |c| c.is_ascii_alphanumeric() || "+/=_-".contains(c));
        match prefix {
            // The public id of an API key is what an operator looks for.
            "tmd_" => {
                let id = run(after, |c| c.is_ascii_hexdigit());
                let kept = if id == 10 { 10 + usize::from(after[10..].starts_with('_')) } else { 0 };
                if secret - kept < MIN_SECRET {
                    return false;
                }
                self.keep(prefix.len() + kept);
                self.mark(secret - kept, "<secret>")
            }
            "eyJ" if self.at < self.no_jwt_before => false,
            "eyJ" => {
                let token = run(rest, |c| c.is_ascii_alphanumeric() || "._-".contains(c));
                let parts: Vec<&str> = rest[..token].splitn(3, '.').collect();
                self.no_jwt_before = self.at + token;
                let is_jwt = matches!(parts[..], [head, body, _] if head.len() > MIN_SECRET && body.len() > 3);
                is_jwt && self.mark(token, "<jwt>")
            }
            _ if secret >= MIN_SECRET => {
                self.keep(prefix.len());
                self.mark(secret, "<secret>")
            }
            _ => false,
        }
    }

    /// `token=…`, `"token":"…"`, `X-Api-Key: …`: remembers where the value stands.
    fn note_value(&mut self) {
        if self.at < self.no_word_before {
            return;
        }
        let rest = self.rest();
        let word = run(rest, |c| c.is_ascii_alphanumeric() || "_-".contains(c));
        self.no_word_before = self.at + word;
        let tail = rest[word.saturating_sub(16)..word].to_ascii_lowercase();
        let Some(named) = WORDS.into_iter().find(|name| tail.ends_with(name)) else { return };
        let name = rest[word..].trim_start_matches('\\');
        let quoted = name.starts_with(['"', '\'']);
        let sign = name.trim_start_matches(['"', '\'']).trim_start_matches(' ');
        let Some(is) = sign.chars().next().filter(|is| matches!(is, '=' | ':')) else { return };
        if sign.starts_with("://") {
            return;
        }
        let open = sign[1..].trim_start_matches(' ').trim_start_matches('\\');
        let in_quotes = open.starts_with(['"', '\'']);
        let value = open.trim_start_matches(['"', '\'']);
        let ends = |c: char| match c {
            ',' => quoted,
            _ => c.is_whitespace() || c.is_control() || "\"'&;<>{}()[]\\`".contains(c),
        };
        let said = match in_quotes {
            // With spaces and all.
            true => &value[..value.find(['"', '\\']).unwrap_or(value.len())],
            false => &value[..value.find(ends).unwrap_or(value.len())],
        };
        let opaque = said.len() >= MIN_SECRET && said.bytes().any(|byte| byte.is_ascii_digit());
        let is_secret = match named {
            "key" => said.len() >= MIN_KEY && opaque,
            // Where the secret is, and not what.
            _ if said.is_empty() || said.starts_with("env:") || said.starts_with("file:") => false,
            // JSON has numbers and the like without quotes; `secret "token": no such file` is prose.
            _ if is == ':' && quoted && !in_quotes => said.bytes().all(|byte| byte.is_ascii_digit()),
            // So is "secret: cannot be read".
            _ if is == ':' && !in_quotes => opaque,
            _ => true,
        };
        let known = said == "<secret>" || said.bytes().all(|byte| byte == b'*');
        if is_secret && !known && !SCHEMES.iter().any(|scheme| said.eq_ignore_ascii_case(scheme)) {
            let begin = self.text.len() - value.len();
            self.secret = Some((begin, begin + said.len()));
        }
    }

    /// CPF, or CNPJ with digits and, since 2026, letters.
    fn tax_number(&mut self) -> bool {
        let cpf = |text: &str| {
            grouped(text, &[3, 3, 3, 2], false, &[". -", ". -", "-/ "])
                .or_else(|| grouped(text, &[9, 2], false, &["-"]))
        };
        let cnpj = |text: &str| grouped(text, &[2, 3, 3, 4, 2], true, &[".", ".", "/", "-"]);
        let rest = self.rest();
        if let Some((digits, length)) = cpf(rest)
            && is_cpf(&digits)
        {
            return self.mark(length, "<cpf>");
        }
        if let Some((digits, length)) = cnpj(rest)
            && is_cnpj(&digits)
        {
            return self.mark(length, "<cnpj>");
        }
        false
    }

    fn phone(&mut self) -> bool {
        let rest = self.rest();
        let length = match rest.strip_prefix('+') {
            Some(number) => brazilian_phone(number).map(|length| length + 1).or_else(|| foreign_phone(rest)),
            None => brazilian_phone(rest),
        };
        length.is_some_and(|length| self.mark(length, "<phone>"))
    }
}

/// Bytes of the run of such characters at the beginning.
fn run(text: &str, of: impl Fn(char) -> bool) -> usize {
    text.find(|c: char| !of(c)).unwrap_or(text.len())
}

/// Whether a number has ended where this follows.
fn ends_number(after: &str) -> bool {
    let mut chars = after.chars();
    match chars.next() {
        None => true,
        Some('.' | ',') => !chars.next().is_some_and(|c| c.is_ascii_digit()),
        Some(c) => !c.is_alphanumeric(),
    }
}

/// Groups of digits (or upper-case letters but for the last group) with separators between all of them or none; answers
/// the characters and the length in bytes.
fn grouped(text: &str, groups: &[usize], letters: bool, separators: &[&str]) -> Option<(Vec<u8>, usize)> {
    let bytes = text.as_bytes();
    let (mut found, mut at, mut separated) = (Vec::with_capacity(14), 0, None);
    for (group, size) in groups.iter().enumerate() {
        if group > 0 {
            let here = bytes.get(at).is_some_and(|byte| separators[group - 1].as_bytes().contains(byte));
            if *separated.get_or_insert(here) != here {
                return None;
            }
            at += usize::from(here);
        }
        let last = group + 1 == groups.len();
        for _ in 0..*size {
            let byte = *bytes.get(at)?;
            if !(byte.is_ascii_digit() || letters && !last && byte.is_ascii_uppercase()) {
                return None;
            }
            found.push(byte);
            at += 1;
        }
    }
    ends_number(&text[at..]).then_some((found, at))
}

/// The check digit of `digits`, with weights that go down from `first` and begin anew at `highest`.
fn check_digit(digits: &[u8], first: u32, highest: u32) -> u8 {
    let mut weight = first;
    let mut sum = 0;
    for digit in digits {
        sum += u32::from(digit - b'0') * weight;
        weight = if weight == 2 { highest } else { weight - 1 };
    }
    let rest = sum % 11;
    if rest < 2 { b'0' } else { b'0' + (11 - rest) as u8 }
}

fn is_cpf(digits: &[u8]) -> bool {
    digits.iter().any(|digit| *digit != digits[0])
        && check_digit(&digits[..9], 10, 11) == digits[9]
        && check_digit(&digits[..10], 11, 11) == digits[10]
}

fn is_cnpj(digits: &[u8]) -> bool {
    digits.iter().any(|digit| *digit != digits[0])
        && check_digit(&digits[..12], 5, 9) == digits[12]
        && check_digit(&digits[..13], 6, 9) == digits[13]
}

/// `+`, and 8 to 15 digits with a separator between them at most.
fn foreign_phone(text: &str) -> Option<usize> {
    let (mut digits, mut end, mut gap) = (0, 0, 0);
    // Up to the last separator, in case that what follows is another number.
    let mut whole = (0, 0);
    for (at, byte) in text.bytes().enumerate().skip(1).take(40) {
        match byte {
            b'0'..=b'9' => {
                (digits, end, gap) = (digits + 1, at + 1, 0);
                if digits > 15 {
                    (digits, end) = whole;
                    break;
                }
            }
            b' ' | b'-' | b'.' | b'(' | b')' | b'/' if gap < 2 => {
                gap += 1;
                whole = (digits, end);
            }
            _ => break,
        }
    }
    let ends = !text[end..].starts_with(|c: char| c.is_alphanumeric());
    (digits >= 8 && ends).then_some(end)
}

/// `[55] DD [9]dddd-dddd`, with or without what separates. A number of ten digits without any sign is none: seconds since
/// 1970 look the same.
fn brazilian_phone(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).copied().filter(u8::is_ascii_digit);
    let skip = |mut at: usize| {
        for _ in 0..2 {
            at += usize::from(matches!(bytes.get(at), Some(b' ' | b'-' | b'.')));
        }
        at
    };
    let area = |at: usize| digit(at).is_some_and(|d| d != b'0') && digit(at + 1).is_some_and(|d| d != b'0');
    let try_from = |country: bool| {
        let mut at = 0;
        let mut signs = false;
        if country {
            if !text.starts_with("55") {
                return None;
            }
            at = skip(2);
            signs = at > 2;
        }
        let open = bytes.get(at) == Some(&b'(');
        at += usize::from(open);
        if !area(at) {
            return None;
        }
        at += 2;
        if open {
            if bytes.get(at) != Some(&b')') {
                return None;
            }
            at += 1;
        }
        let after_area = skip(at);
        let spaced = after_area > at;
        at = after_area;
        let mobile = digit(at) == Some(b'9');
        if mobile {
            at += 1;
            at += usize::from(matches!(bytes.get(at), Some(b' ')));
        } else if !matches!(digit(at), Some(b'2'..=b'5')) {
            return None;
        }
        if !(0..4).all(|n| digit(at + n).is_some()) {
            return None;
        }
        at += 4;
        let middle = matches!(bytes.get(at), Some(b' ' | b'-' | b'.'));
        at += usize::from(middle);
        if !(0..4).all(|n| digit(at + n).is_some()) {
            return None;
        }
        at += 4;
        let plain = !signs && !open && !spaced && !middle;
        // Without the country a number for a landline needs signs that say so.
        let sure = country || mobile || open || (spaced && middle);
        let enough = if plain { country || mobile } else { sure };
        (enough && ends_number(&text[at..])).then_some(at)
    };
    try_from(true).or_else(|| try_from(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        case: Vec<Case>,
    }

    /// Without `becomes` the text stays as it is.
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        text: String,
        becomes: Option<String>,
    }

    fn cases() -> Vec<Case> {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/redact");
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        files
            .flat_map(|file| {
                let text = std::fs::read_to_string(&file).unwrap();
                toml::from_str::<File>(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display())).case
            })
            .collect()
    }

    #[test]
    fn what_has_a_shape_is_replaced_and_nothing_else() {
        let cases = cases();
        assert!(cases.len() >= 60, "only {} cases", cases.len());
        let mut wrong = Vec::new();
        for Case { text, becomes } in cases {
            let (expected, got) = (becomes.as_ref().unwrap_or(&text), redact(&text));
            if got != *expected {
                wrong.push(format!("{text:?}\n  became   {got:?}\n  expected {expected:?}"));
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }

    /// Pieces of everything that a rule looks at, put together at random.
    #[test]
    fn any_text_is_redacted_once_and_stays_in_bounds() {
        let pieces: Vec<String> = cases().into_iter().map(|case| case.text).collect();
        let scraps = [
            "+55",
            "(11)",
            "9",
            "é",
            "€",
            "🤗",
            "\u{0}",
            "\u{202e}",
            "%40",
            "%2B",
            "@",
            ".",
            "-",
            "/",
            " ",
            "=",
            ":",
            "\"",
            "\\",
            "\n",
            "token=",
            "Bearer ",
            "eyJ",
            "://",
            "tmd_",
            "sk_",
            "<",
            ">",
            "*",
            "secret",
            "key",
            "1",
            "52998224725",
        ];
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..random(12) {
                if random(3) == 0 {
                    let piece: Vec<char> = pieces[random(pieces.len())].chars().collect();
                    let (a, b) = (random(piece.len() + 1), random(piece.len() + 1));
                    text.extend(&piece[a.min(b)..a.max(b)]);
                } else {
                    text.push_str(scraps[random(scraps.len())]);
                }
            }
            let once = redact(&text);
            assert!(once.len() <= text.len(), "{text:?} grew to {once:?}");
            assert_eq!(redact(&once), once, "twice is not once: {text:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut() {
        for text in ["é".repeat(MAX_TEXT), "a.".repeat(MAX_TEXT), "1 ".repeat(MAX_TEXT), "://".repeat(MAX_TEXT)] {
            let once = redact(&text);
            assert!(once.len() <= MAX_TEXT && once.ends_with(CUT));
            assert_eq!(redact(&once), once);
        }
        assert_eq!(redact_lines("ana@example.com\nb"), "<email>\nb");
    }

    #[test]
    fn panics_do_not_quote() {
        let name = "Ana Souza";
        let sliced = std::panic::catch_unwind(|| format!("{}é", name)[..10].len()).unwrap_err();
        let said = panic_text(&*sliced);
        assert!(!said.contains("Ana") && said.contains("boundary"), "{said}");
        let unwrapped = std::panic::catch_unwind(|| name.parse::<u8>().map_err(|_| name).unwrap()).unwrap_err();
        let said = panic_text(&*unwrapped);
        assert!(!said.contains("Ana") && said.starts_with("called <quoted>"), "{said}");
        assert_eq!(panic_text(&"it's a \"constant\""), "it's a \"constant\"");
    }

    #[test]
    fn values_are_left_out_of_errors_about_json() {
        #[derive(Debug, serde::Deserialize)]
        struct Wanted {
            #[serde(rename = "count")]
            _count: u8,
        }
        for value in
            ["\"Ana, expected Souza\"", "5511912345678", "-1.5", "{\"Ana\":1}", "[\"Ana\"]", "true", "\"a\\\"Ana\""]
        {
            let error = serde_json::from_str::<Wanted>(&format!("{{\"count\":{value}}}")).unwrap_err().to_string();
            let said = without_values(&error);
            assert!(!said.contains("Ana") && !said.contains("5511") && said.contains("expected u8"), "{error}: {said}");
        }
        assert_eq!(without_values("EOF while parsing"), "EOF while parsing");
    }

    #[test]
    fn addresses_are_told_by_their_network() {
        for (address, network) in [
            ("203.0.113.77", "203.0.113.0/24"),
            ("::ffff:203.0.113.77", "203.0.113.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ] {
            assert_eq!(Network(address.parse().unwrap()).to_string(), network);
        }
    }
}
