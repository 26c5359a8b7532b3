//! How an API key is written: `tmd_<id>_<secret><checksum>`, all of it in hex. Pure.
//!
//! The prefix lets scanners of leaked secrets find it, the checksum (CRC-32, eight digits) refuses what was cut off or
//! mistyped before anything is looked up. Neither protects anything: that is the secret's 256 bits.

use std::fmt;

const PREFIX: &str = "tmd_";
/// Digits of the id, 40 bits: enough to look it up by.
const ID: usize = 10;
/// Digits of the secret, 256 bits.
const SECRET: usize = 64;
const CHECKSUM: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts<'k> {
    pub(super) id: &'k str,
    pub(super) secret: &'k str,
}

impl fmt::Debug for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("id", &self.id).finish_non_exhaustive()
    }
}

pub(super) fn write(parts: Parts<'_>) -> String {
    let Parts { id, secret } = parts;
    let checked = format!("{PREFIX}{id}_{secret}");
    format!("{checked}{:08x}", crc32fast::hash(checked.as_bytes()))
}

/// Keys of the first version had no checksum and stay good.
pub(super) fn read(key: &str) -> Option<Parts<'_>> {
    let (id, rest) = key.strip_prefix(PREFIX)?.split_once('_')?;
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if id.len() != ID || !hex(id) || !hex(rest) {
        return None;
    }
    let (secret, checksum) = rest.split_at_checked(SECRET)?;
    let parts = Parts { id, secret };
    match checksum.len() {
        0 => Some(parts),
        CHECKSUM => (write(parts) == key).then_some(parts),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cases;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        key: String,
        /// None when the key is refused.
        id: Option<String>,
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        cases::each("api-key", |file, text| {
            let case: Case = toml::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(read(&case.key).map(|parts| parts.id), case.id.as_deref(), "{file}");
        });
        let parts = Parts { id: "0123456789", secret: &"5a".repeat(32) };
        assert_eq!(read(&write(parts)), Some(parts));
    }

    /// One wrong character is always noticed: that is what a CRC promises.
    #[test]
    fn no_typo_passes() {
        let key = write(Parts { id: "0123456789", secret: &"5a".repeat(32) });
        for at in 0..key.len() {
            for digit in "0123456789abcdef_".chars() {
                let mut wrong = key.clone();
                wrong.replace_range(at..=at, &digit.to_string());
                assert!(wrong == key || read(&wrong).is_none(), "{wrong}");
            }
        }
    }
}
