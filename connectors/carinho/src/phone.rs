//! Brazilian phone numbers, in whatever way people and systems write them.

/// The digits of `phone`.
pub fn digits(phone: &str) -> String {
    phone.chars().filter(char::is_ascii_digit).collect()
}

/// Whether the two write one number: with the country code 55 or without, with the trunk 0 or without, with the ninth
/// digit of mobile numbers or, as WhatsApp still has many of them, without.
pub fn same_phone(one: &str, other: &str) -> bool {
    let one = national(one);
    !one.is_empty() && one == national(other)
}

/// Area code and subscriber number.
fn national(phone: &str) -> String {
    let digits = digits(phone);
    let number = digits.trim_start_matches('0');
    // With at most eleven digits, 55 is the area code of Santa Maria.
    let number = if number.len() > 11 { number.strip_prefix("55").unwrap_or(number) } else { number };
    match number.split_at_checked(2) {
        // Landlines begin with 2 to 5.
        Some((area, mobile)) if mobile.len() == 8 && mobile.starts_with(['6', '7', '8', '9']) => {
            format!("{area}9{mobile}")
        }
        _ => number.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_has_many_spellings() {
        let spellings =
            ["5511987654321", "+55 (11) 98765-4321", "11987654321", "011 98765-4321", "551187654321", "1187654321"];
        for one in spellings {
            for other in spellings {
                assert!(same_phone(one, other), "{one} {other}");
            }
        }
        assert!(same_phone("5555987654321", "55987654321"), "the area code 55");
        assert!(same_phone("(11) 3765-4321", "551137654321"), "a landline");
        assert!(same_phone("+1 415 555 2671 00", "1415555267100"), "a number from abroad");
    }

    #[test]
    fn other_numbers_are_others() {
        for (one, other) in [
            ("5511987654321", "5521987654321"),
            ("11987654321", "11987654322"),
            ("1137654321", "11937654321"),
            ("", ""),
            ("-", "ramal"),
            ("5511987654321", ""),
        ] {
            assert!(!same_phone(one, other), "{one} {other}");
        }
    }

    #[test]
    fn digits_are_all_that_is_left() {
        assert_eq!(digits("+55 (11) 98765-4321 r. ٣"), "5511987654321");
    }
}
