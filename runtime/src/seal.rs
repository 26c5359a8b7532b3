//! How content is hidden at rest: XChaCha20-Poly1305 under a random key per event, which is itself wrapped by a key of
//! the ring ([`crate::keyring`]). What is sealed is bound to its row, its column and what it is for, so that nothing of
//! the database can be put in another's place.
//!
//! Pure: no clock, no I/O. Nonces are handed in.

use chacha20::{R20, hchacha};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use zeroize::{Zeroize as _, ZeroizeOnDrop};

/// The first byte of everything that is sealed: version and suite.
const VERSION: u8 = 1;
pub(crate) const NONCE: usize = 24;
const TAG: usize = 16;
pub(crate) const KEY: usize = 32;
/// Bytes of a wrapped key: version, nonce, key and tag.
#[cfg(test)]
const WRAPPED: usize = 1 + NONCE + KEY + TAG;

/// A nonce of 192 bits may be drawn at random for as many messages as anybody sends.
pub(crate) type Nonce = [u8; NONCE];

/// What a sealed value is, and of which row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// `integration_events.wrapped`.
    PayloadKey {
        event: i64,
    },
    /// `integration_events.payload`. Bound to whether there is an envelope, so that nobody can take that away.
    Payload {
        event: i64,
        has_envelope: bool,
    },
    /// `integration_events.sealed`: headers and idempotency key, where there is something to say.
    Envelope {
        event: i64,
    },
    /// `delivery_attempts.sealed`: what connector and target said.
    Attempt {
        delivery: i64,
        number: u32,
    },
    /// `secrets.wrapped` and `secrets.sealed`.
    SecretKey {
        name: &'a str,
        version: i64,
    },
    Secret {
        name: &'a str,
        version: i64,
    },
}

impl Place<'_> {
    /// Length-prefixed, so that no two places are written alike.
    fn bytes(self) -> Vec<u8> {
        let (table, name, row, part) = match self {
            // The table that it was in before.
            Place::PayloadKey { event } => ("payload_keys.wrapped", "", event, 0),
            Place::Payload { event, has_envelope } => {
                ("integration_events.payload", "", event, u32::from(!has_envelope))
            }
            Place::Envelope { event } => ("integration_events.sealed", "", event, 0),
            Place::Attempt { delivery, number } => ("delivery_attempts.sealed", "", delivery, number),
            Place::SecretKey { name, version } => ("secrets.wrapped", name, version, 0),
            Place::Secret { name, version } => ("secrets.sealed", name, version, 0),
        };
        let mut bytes = Vec::with_capacity(64);
        for part in [&b"tomada"[..], &[VERSION], table.as_bytes(), name.as_bytes()] {
            bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&row.to_be_bytes());
        bytes.extend_from_slice(&part.to_be_bytes());
        bytes
    }
}

/// What was sealed cannot be opened: it was changed, cut, or put in another's place, or the key is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what is sealed cannot be opened: it was changed, or its key is another one")]
pub(crate) struct Unopened;

/// A key that seals. Overwritten when it goes; what the allocator, the database or the kernel copied is not.
#[derive(Clone, ZeroizeOnDrop)]
pub(crate) struct SealKey([u8; KEY]);

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey")
    }
}

impl SealKey {
    pub(crate) fn new(bytes: [u8; KEY]) -> SealKey {
        SealKey(bytes)
    }

    /// The key of one message and what is left of its nonce: XChaCha20-Poly1305 is ChaCha20-Poly1305 (RFC 8439) under
    /// HChaCha20 of the key and the nonce's first 16 bytes (draft-irtf-cfrg-xchacha-03, section 2). Put together here,
    /// because ring's assembler takes a third of the time that the crate for the whole takes for a short message.
    fn message_key(&self, nonce: &Nonce) -> (LessSafeKey, ring::aead::Nonce) {
        let (first, last) = nonce.split_at(16);
        let (mut input, mut counter) = ([0; 16], [0; 12]);
        input.copy_from_slice(first);
        counter[4..].copy_from_slice(last);
        let mut subkey = hchacha::<R20>(&self.0.into(), &input.into());
        let key = UnboundKey::new(&CHACHA20_POLY1305, &subkey).expect("a key of 32 bytes");
        subkey.as_mut_slice().zeroize();
        (LessSafeKey::new(key), ring::aead::Nonce::assume_unique_for_key(counter))
    }

    /// `version ‖ nonce ‖ ciphertext ‖ tag`: 41 bytes more than `plain`.
    pub(crate) fn seal(&self, place: Place<'_>, nonce: Nonce, plain: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(1 + NONCE + plain.len() + TAG);
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let (key, nonce) = self.message_key(&nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(place.bytes()), &mut sealed[1 + NONCE..]);
        // It fails for messages of more than 2^38 bytes only.
        sealed.extend_from_slice(tag.expect("a message of less than 256 GiB").as_ref());
        sealed
    }

    pub(crate) fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Vec<u8>, Unopened> {
        let (version, rest) = sealed.split_first().ok_or(Unopened)?;
        let (nonce, text) = rest.split_at_checked(NONCE).ok_or(Unopened)?;
        if *version != VERSION || text.len() < TAG {
            return Err(Unopened);
        }
        let (key, nonce) = self.message_key(&nonce.try_into().map_err(|_| Unopened)?);
        let mut plain = text.to_vec();
        key.open_in_place(nonce, Aad::from(place.bytes()), &mut plain).map_err(|_| Unopened)?;
        plain.truncate(text.len() - TAG);
        Ok(plain)
    }

    /// Seals another key.
    pub(crate) fn wrap(&self, place: Place<'_>, nonce: Nonce, key: &SealKey) -> Vec<u8> {
        self.seal(place, nonce, &key.0)
    }

    pub(crate) fn unwrap(&self, place: Place<'_>, wrapped: &[u8]) -> Result<SealKey, Unopened> {
        let mut plain = self.open(place, wrapped)?;
        let key = <[u8; KEY]>::try_from(plain.as_slice()).map(SealKey).map_err(|_| Unopened);
        plain.zeroize();
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: [Place<'static>; 10] = [
        Place::PayloadKey { event: 7 },
        Place::Payload { event: 7, has_envelope: true },
        Place::Payload { event: 7, has_envelope: false },
        Place::Payload { event: 8, has_envelope: true },
        Place::Envelope { event: 7 },
        Place::Attempt { delivery: 7, number: 1 },
        Place::Attempt { delivery: 7, number: 2 },
        Place::SecretKey { name: "a", version: 7 },
        Place::Secret { name: "a", version: 7 },
        Place::Secret { name: "b", version: 7 },
    ];

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1: the cipher is what it says it is.
    #[test]
    fn the_published_vector_of_xchacha20_poly1305() {
        let key: [u8; KEY] = std::array::from_fn(|at| 0x80 + at as u8);
        let nonce: Nonce = std::array::from_fn(|at| 0x40 + at as u8);
        let aad = hex::decode("50515253c0c1c2c3c4c5c6c7").unwrap();
        let mut text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                         sunscreen would be it."
            .to_vec();
        let (key, nonce) = SealKey::new(key).message_key(&nonce);
        key.seal_in_place_append_tag(nonce, Aad::from(&aad), &mut text).unwrap();
        assert_eq!(hex::encode(&text[text.len() - TAG..]), "c0875924c1c7987947deafd8780acf49");
        assert_eq!(hex::encode(&text[..16]), "bd6d179d3e83d43b9576579493c0e939");
    }

    #[test]
    fn what_is_sealed_opens_in_its_own_place_only() {
        let key = SealKey::new([1; KEY]);
        for place in EVERY {
            let sealed = key.seal(place, [3; NONCE], b"content");
            assert_eq!(sealed.len(), 41 + 7);
            for other in EVERY {
                let opened = key.open(other, &sealed);
                assert_eq!(opened, if other == place { Ok(b"content".to_vec()) } else { Err(Unopened) }, "{other:?}");
            }
            assert_eq!(SealKey::new([2; KEY]).open(place, &sealed), Err(Unopened));
        }
    }

    #[test]
    fn every_change_and_every_cut_is_noticed() {
        let (key, place) = (SealKey::new([1; KEY]), Place::Payload { event: 7, has_envelope: true });
        let sealed = key.seal(place, [3; NONCE], b"content");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(place, &changed), Err(Unopened), "byte {at}");
            assert_eq!(key.open(place, &sealed[..at]), Err(Unopened), "cut at {at}");
        }
        assert_eq!(key.open(place, &[&sealed[..], b"\0"].concat()), Err(Unopened));
        assert_eq!(key.open(place, &key.seal(place, [4; NONCE], b"")), Ok(Vec::new()));
    }

    #[test]
    fn a_key_is_wrapped_and_unwrapped() {
        let (ring, key, place) = (SealKey::new([1; KEY]), SealKey::new([2; KEY]), Place::PayloadKey { event: 7 });
        let wrapped = ring.wrap(place, [3; NONCE], &key);
        assert_eq!(wrapped.len(), WRAPPED);
        assert_eq!(ring.unwrap(place, &wrapped).unwrap().0, key.0);
        assert!(ring.unwrap(Place::PayloadKey { event: 8 }, &wrapped).is_err());
        let short = ring.seal(place, [3; NONCE], &[2; KEY - 1]);
        assert!(ring.unwrap(place, &short).is_err());
        assert_eq!(format!("{key:?}"), "SealKey");
    }
}
